"""The kinds of numbers a specification holds: each alias is a unit, a legal range and a parser for text.

Table headers, axis titles, ``explain`` and the error messages all take the unit from here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from dse import units


@dataclass(frozen=True)
class Unit:
    """Marks a numeric field with its SI unit; ``"1"`` for pure numbers."""

    symbol: str


def _parser(unit: str) -> Callable[[Any, ValidationInfo], float]:
    def parse(value: Any, info: ValidationInfo) -> float:
        try:
            if info.context and isinstance(value, int | float) and not isinstance(value, bool):
                value = repr(value)  # what a person writes in a file needs its unit
            return units.parse(value, unit)
        except units.UnitError as error:
            raise PydanticCustomError("quantity", "{rule}", {"rule": str(error)}) from None

    return parse


def _integer(value: Any) -> int:
    """An integer, or text or a float that is exactly one; never a bool."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str) or len(str(value)) > 30:
            raise ValueError
        number = float(value)
        if number != int(number):
            raise ValueError
        return int(number)
    except (ValueError, OverflowError):
        raise PydanticCustomError("integer", "must be a whole number") from None


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()[:10]
    if text in ("true", "yes", "on", "1"):
        return True
    if text in ("false", "no", "off", "0"):
        return False
    raise PydanticCustomError("switch", "must be true or false")


def _plain_text(value: str) -> str:
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in value):
        raise PydanticCustomError("text", "must not contain control characters")
    return value


def quantity(unit: str, low: float, high: float) -> Any:
    """The type of a number in this SI unit within these bounds, for fields that no alias below fits."""
    return Annotated[float, Unit(unit), BeforeValidator(_parser(unit)), Field(ge=low, le=high)]


_quantity = quantity
Bytes = quantity("B", 0, 1e21)
Bandwidth = quantity("B/s", 1.0, 1e18)
Seconds = quantity("s", 0, 1e12)
FlopRate = quantity("FLOP/s", 1.0, 1e21)
Flop = quantity("FLOP", 0, 1e30)
Watts = quantity("W", 0, 1e9)
Dollars = quantity("USD", 0, 1e15)
DollarsPerSecond = quantity("USD/s", 0, 1e9)
DollarsPerJoule = quantity("USD/J", 0, 1.0)
KilogramsPerJoule = quantity("kg/J", 0, 1.0)
KilogramsPerDevice = quantity("kg", 0, 1e9)
JoulesPerByte = quantity("J/B", 0, 1.0)
JoulesPerFlop = quantity("J/FLOP", 0, 1.0)
Area = quantity("m^2", 0, 1.0)
FloorArea = quantity("m^2", 0, 1e4)
DollarsPerWatt = quantity("USD/W", 0, 1e6)
Tokens = quantity("1", 0, 1e18)
Number = quantity("1", 0, 1e18)
Fraction = quantity("1", 0, 1)
PositiveFraction = quantity("1", 1e-6, 1)
Multiple = quantity("1", 0, 1e4)
Ratio = quantity("1", 1, 1e3)
Count = Annotated[int, Unit("1"), BeforeValidator(_integer), Field(ge=1, le=10**9)]
CountOrZero = Annotated[int, Unit("1"), BeforeValidator(_integer), Field(ge=0, le=10**9)]
Stage = Annotated[int, Unit("1"), BeforeValidator(_integer), Field(ge=0, le=3)]
Switch = Annotated[bool, BeforeValidator(_switch)]
Text = Annotated[str, Field(max_length=400), AfterValidator(_plain_text)]
Name = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]


def unit_of(field: Any) -> str | None:
    """SI unit of a Pydantic field, or None where the field is not a number."""
    for marker in field.metadata:
        if isinstance(marker, Unit):
            return marker.symbol
    return _unit_in(field.annotation)


def _unit_in(annotation: Any) -> str | None:
    for marker in getattr(annotation, "__metadata__", ()):
        if isinstance(marker, Unit):
            return marker.symbol
    for argument in getattr(annotation, "__args__", ()):
        found = _unit_in(argument)
        if found:
            return found
    return None
