"""Checks of arguments that come straight from a user: the error names the field, the value and the range."""

from __future__ import annotations

from typing import Any

from dse.errors import Fault, SpecError


def fault(field: str, value: Any, rule: str) -> SpecError:
    """The error of one field."""
    return SpecError([Fault(field, str(value)[:80], rule)])


def share(field: str, value: float) -> None:
    """Refuse what is not a number from 0 to 1."""
    if not 0.0 <= value <= 1.0:
        raise fault(field, value, "must be from 0 to 1")


def sizes(**counts: int) -> None:
    """Refuse what is not a whole number of at least 1 and at most a hundred million."""
    for field, value in counts.items():
        if isinstance(value, bool) or not 1 <= value <= 100_000_000 or value != int(value):
            raise fault(field, value, "must be a whole number from 1 to 100,000,000")
