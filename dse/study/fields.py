"""Kinds of text in study files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field


def _prose(value: str) -> str:
    if any(ord(character) < 32 and character != "\n" for character in value):
        raise ValueError("must not contain control characters")
    return value.strip()


def _plain_file(value: str) -> str:
    if value != Path(value).name:
        raise ValueError("must be the name of a file beside the study, without folders")
    return value


Prose = Annotated[str, Field(max_length=20_000), AfterValidator(_prose)]
PlainFile = Annotated[str, AfterValidator(_plain_file)]
Point = dict[str, Any]
