"""Kinds of text in study files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field


def _prose(value: str) -> str:
    if any(ord(character) < 32 and character != "\n" for character in value):
        raise ValueError("must not contain control characters")
    return value.strip()


def _plain_file(value: str) -> str:
    if value != Path(value).name:
        raise ValueError("must be the name of a file beside the study, without folders")
    return value


def point(value: Any) -> Any:
    """``"tp=8;zero_stage=2"`` as a mapping; what is not text stays."""
    if not isinstance(value, str):
        return value
    found: dict[str, Any] = {}
    for part in filter(None, (item.strip() for item in value.split(";"))):
        name, equals, given = (piece.strip() for piece in part.partition("="))
        if not (name and equals and given):
            raise ValueError("must look like tp=8;zero_stage=2")
        found[name] = given
    return found


Prose = Annotated[str, Field(max_length=20_000), AfterValidator(_prose)]
PlainFile = Annotated[str, AfterValidator(_plain_file)]
Point = dict[str, Any]
PointText = Annotated[Point, BeforeValidator(point)]  # as a table writes it
