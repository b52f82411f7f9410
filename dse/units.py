"""Units at the edge: text such as ``"2.039 TB/s"`` becomes an SI float here, and nowhere else.

Inside the package every number is a plain float in seconds, bytes, FLOP, watts, joules, US dollars, kilograms of
CO2 and their ratios. The byte is the base unit of information (plain Pint makes it the bit).
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any

_DEFINITIONS = """
yocto- = 1e-24 = y-
femto- = 1e-15 = f-
pico- = 1e-12 = p-
nano- = 1e-9 = n-
micro- = 1e-6 = u- = µ- = μ-
milli- = 1e-3 = m-
centi- = 1e-2 = c-
kilo- = 1e3 = k- = K-
mega- = 1e6 = M-
giga- = 1e9 = G-
tera- = 1e12 = T-
peta- = 1e15 = P-
exa- = 1e18 = E-
kibi- = 2**10 = Ki-
mebi- = 2**20 = Mi-
gibi- = 2**30 = Gi-
tebi- = 2**40 = Ti-
second = [time] = s = sec
minute = 60 s = min
hour = 3600 s = h = hr
day = 24 h
week = 7 day
month = 30.4375 day
year = 365.25 day = yr
byte = [information] = B
bit = byte / 8 = b
flop = [operation] = FLOP
op = flop = OP
FLOPS = flop / s = flops
joule = [energy] = J
watt = joule / s = W
watthour = 3600 J = Wh
dollar = [currency] = USD
gram = [mass] = g
tonne = 1e6 gram = t
meter = [length] = m
hertz = 1 / s = Hz
percent = 0.01
token = 1 = tok
sample = 1
"""

_NUMBER = re.compile(r"^\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)\s*(.*?)\s*$")
_UNIT_TEXT = re.compile(r"^[A-Za-zµμ/*^ ()0-9]{1,40}$")
# Powers of powers, long numbers: nothing a unit needs, and a way to make Pint compute 9^9^9.
_COSTLY_UNIT = re.compile(r"\d{2,}|\*\*|\^\s*[^\d\s]|\^\s*\d\s*\^|\)\s*\^")


class UnitError(ValueError):
    """A quantity whose text or dimension does not fit."""


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint

    return pint.UnitRegistry(_DEFINITIONS.strip().splitlines(), on_redefinition="ignore")


@lru_cache(maxsize=1024)
def _factor(unit: str) -> tuple[float, Any]:
    """SI factor and dimensionality of a unit expression such as ``"GB/s"``."""
    text = unit.replace("$", "USD").replace("%", "percent").replace("·", "*").replace("µ", "u").strip()
    if text in ("", "1"):
        return 1.0, _registry().dimensionless.dimensionality
    if not _UNIT_TEXT.match(text) or _COSTLY_UNIT.search(text):
        raise UnitError(f"unit {unit!r} is not understood")
    try:
        quantity = _registry().parse_expression(text)
        base = quantity.to_base_units() if hasattr(quantity, "to_base_units") else None
        factor = math.nan if base is None else float(base.magnitude)
    except Exception as error:  # Pint raises many unrelated types for malformed expressions
        raise UnitError(f"unit {unit!r} is not understood") from error
    if base is None or not math.isfinite(factor):
        raise UnitError(f"unit {unit!r} is not understood")
    return factor, base.dimensionality


def parse(value: Any, unit: str) -> float:
    """Turn ``value`` into a float in the SI unit ``unit``.

    Args:
        value: a number (already in ``unit``), or text: a number followed by any unit of the same dimension (text
            without a unit is refused, as nobody can tell whether 25 meant bytes or gigabytes per second).
        unit: the SI unit wanted, for example ``"B/s"``.

    Raises:
        UnitError: the text is not a number with a unit, or the unit has another dimension.
    """
    if isinstance(value, bool) or value is None:
        raise UnitError(f"expected a quantity in {unit_label(unit)}, got {value!r}")
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            raise UnitError(f"number too large for a quantity in {unit_label(unit)}") from None
    if not isinstance(value, str):
        raise UnitError(f"expected a quantity in {unit_label(unit)}, got {type(value).__name__}")
    if len(value) > 80:
        raise UnitError(f"expected a quantity in {unit_label(unit)}, got {len(value)} characters of text")
    match = _NUMBER.match(value.replace("−", "-"))
    if not match:
        raise UnitError(f"expected a number with a unit, such as '1.5 {unit_label(unit)}', got {value!r}")
    number, text = float(match[1].replace("_", "")), match[2]
    if not text:
        if number and unit not in ("", "1"):
            raise UnitError(f"{value!r} needs a unit: expected a quantity in {unit}")
        return number
    factor, dimension = _factor(text)
    base_factor, wanted = _factor(unit)
    if dimension != wanted:
        raise UnitError(f"{value!r} has the wrong dimension: expected a quantity in {unit_label(unit)}")
    if factor == base_factor:
        return number
    return float(f"{number * factor / base_factor:.15g}")  # 2.039 TB/s is 2.039e12, not ...0.0002


def unit_label(unit: str) -> str:
    """The unit as people read it (``"1"`` is called a plain number)."""
    return "a plain number" if unit in ("", "1") else unit


_PREFIXES = (
    (1e18, "E"),
    (1e15, "P"),
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
    (1e-9, "n"),
    (1e-12, "p"),
)


def engineering(value: float, unit: str, digits: int = 4) -> str:
    """Format an SI value with an engineering prefix: ``2.039e12, "B/s"`` gives ``"2.039 TB/s"``."""
    value = float(value)
    if not math.isfinite(value):
        return str(value)
    if unit in ("", "1"):
        whole = abs(value) < 1e15 and (value == int(value) or abs(value) >= 1e6)
        return f"{value:,.0f}" if whole else f"{value:.{digits}g}"
    if unit == "USD":
        if abs(value) >= 9999.995:  # $10,000 and more: cents would only be noise
            return f"${value:,.0f}"
        return f"${value:,.2f}" if abs(value) >= 1 else f"${value:.{digits}g}"
    if unit == "s" and abs(value) >= 60:
        return _duration(value)
    for old, new, factor in _CUSTOMARY:
        if unit == old and abs(value) * factor >= 1:
            return f"{value * factor:,.{digits}g} {new}"
    magnitude = abs(value)
    if magnitude == 0:
        return f"0 {unit}"
    if unit.startswith("1/") and 1e3 <= magnitude < 1e9:
        return f"{value:,.{max(digits - len(str(int(magnitude))), 0)}f} {unit}"
    if unit.startswith(("1/", "kg")) or "^" in unit:  # a prefix there would be wrong: m^2, kg, 1/s
        return f"{value:.{digits}g} {unit}"
    scale, prefix = next((p for p in _PREFIXES if magnitude >= p[0] * 0.9999995), _PREFIXES[-1])
    if unit == "s" and scale > 1:
        scale, prefix = 1.0, ""
    return f"{value / scale:.{digits}g} {prefix}{unit}"


_CUSTOMARY = (
    ("USD/s", "USD/h", 3600.0),
    ("USD/J", "USD/kWh", 3.6e6),
    ("kg/J", "kg/kWh", 3.6e6),
    ("kg", "t", 1e-3),
    ("J", "MWh", 1 / 3.6e9),
    ("m^2", "m^2", 1.0),
)


def _duration(seconds: float) -> str:
    if abs(seconds) < 600:
        return f"{seconds:.4g} s"
    for size, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if abs(seconds) >= size * 2:
            return f"{seconds / size:.4g} {name}"
    return f"{seconds / 60:.4g} minutes"
