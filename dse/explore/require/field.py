"""A field that may vary: its range, the values that are tried in it, and the values between two others."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.space.axes import Place, axis, checked_values, is_structural, locate
from dse.spec.base import Spec
from dse.units import engineering

REACH = 64.0  # the range reaches this factor to both sides of the current value
MOST_WHOLE = 1 << 20  # whole numbers in a range


@dataclass(frozen=True)
class Field:
    """A numeric field and its range, in SI units.

    Attributes:
        path: as in :func:`dse.axis`.
        place: where it lies.
        low, high: ends of the range.
        current: the value it has now (None: it is left open).
        whole: the values to choose from, rising, where only whole numbers are legal; None for real numbers.
        complete: ``whole`` leaves out no value that can be legal.
    """

    path: str
    place: Place
    low: float
    high: float
    current: float | None
    whole: Sequence[int] | None = None
    complete: bool = True

    @property
    def unit(self) -> str:
        return self.place.unit

    @property
    def name(self) -> str:
        """The path as tables show it."""
        return self.path.removeprefix("strategy.")

    @property
    def structural(self) -> bool:
        """Must the model be built anew for each value?"""
        return is_structural(self.place, [self.low])

    @property
    def logarithmic(self) -> bool:
        return self.low > 0

    def typed(self, values: Any) -> np.ndarray:
        """Values as the field holds them: int64 or float64."""
        return np.rint(values).astype(np.int64) if self.whole is not None else np.asarray(values, float)

    def shown(self, value: float) -> str:
        """A value with its unit; counts keep all their digits."""
        return f"{value:,.0f}" if self.whole is not None else engineering(value, self.unit)

    def scan(self, count: int) -> np.ndarray:
        """At most ``count`` rising values over the whole range, (n,) float64.

        Real numbers are spaced evenly by their logarithm (evenly, where the range starts at 0). Of more whole numbers
        than ``count``, the roundest in each stretch are taken: those with the largest power of two in them.
        """
        if self.whole is None:
            space = np.geomspace if self.logarithmic else np.linspace
            values = space(self.low, self.high, count)
            values[[0, -1]] = self.low, self.high  # geomspace is off by a bit
            return values
        if len(self.whole) <= count:
            return np.array(self.whole, float)
        return roundest(np.asarray(self.whole), count).astype(float)

    def between(self, first: float, last: float, count: int) -> np.ndarray:
        """At most ``count`` values strictly between two, in the order from ``first`` to ``last``."""
        if self.whole is None:
            space = np.geomspace if self.logarithmic and min(first, last) > 0 else np.linspace
            return space(first, last, count + 2)[1:-1]
        low, high = sorted((int(first), int(last)))
        start, stop = bisect_right(self.whole, low), bisect_left(self.whole, high)
        places = np.unique(np.linspace(start, stop - 1, min(count, max(stop - start, 0))).astype(int))
        values = np.array([self.whole[place] for place in places], float)
        return values if first < last else values[::-1]

    def near(self, first: float, last: float, tolerance: float) -> bool:
        """Are two real numbers within ``tolerance`` of each other, relative to the larger?"""
        return self.whole is None and abs(first - last) <= tolerance * max(abs(first), abs(last))


def roundest(values: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of many whole numbers: the ends, and from each of equal logarithmic stretches the roundest."""
    bins = np.floor((count - 2) * np.log(values / values[0]) / np.log(values[-1] / values[0])).astype(int)
    order = np.lexsort((values, -(values & -values), bins))  # by stretch, the largest power of two first
    _, first = np.unique(bins[order], return_index=True)
    return np.unique(np.concatenate([values[order][first], values[[0, -1]]]))


def full_path(path: str) -> str:
    """The path from the specification's root: ``devices`` and fields of the strategy go without it."""
    return axis("cluster.devices" if path == "devices" else str(path)[:200], [0]).path


def locate_field(path: str, specs: Mapping[str, Spec], low: Any = None, high: Any = None) -> Field:
    """Find a numeric field and the range to search.

    Args:
        path: a field as in :func:`dse.axis`, or ``devices``.
        specs: ``model``, ``cluster``, ``strategy`` and ``stack``.
        low, high: ends of the range, as text with a unit or SI numbers; by default the current value over and times
            64, within what the field allows.

    Raises:
        SpecError: no such field, not a number, an end outside the field's legal range, or an empty range.
    """
    path = full_path(path)
    place = locate(path, specs)
    found = number_kind(place) if place.steps else None
    current = getattr(place.parent, place.field) if place.steps else None
    if found is None or not place.unit or isinstance(current, tuple):
        raise SpecError([Fault(f"vary {path}", "", "is not a number")])
    whole, least, most = found
    ends = []
    for name, given, legal in (("low", low, least), ("high", high, most)):
        if given is not None:
            ends.append(_checked(path, place, name, given))
        elif not current:
            value = "open" if current is None else "0"
            raise SpecError([Fault(name, "", f"must be given: {path} is {value} now, so there is no range around it")])
        else:
            ends.append(max(current / REACH, least) if name == "low" else min(current * REACH, legal))
    bottom, top = ends
    if whole:
        bottom, top = np.ceil(bottom), np.floor(top)
        top = min(top, bottom + MOST_WHOLE - 1) if high is None else top
    if not bottom < top:
        raise SpecError([Fault("low", f"{bottom:.6g}", f"must be below high = {top:.6g} of {path}")])
    if whole and top - bottom >= MOST_WHOLE:
        raise SpecError([Fault("high", f"{top:.0f}", f"leaves more than {MOST_WHOLE:,} whole numbers from low")])
    numbers = range(int(bottom), int(top) + 1) if whole else None
    return Field(path, place, float(bottom), float(top), None if current is None else float(current), numbers)


def _checked(path: str, place: Place, name: str, given: Any) -> float:
    try:
        return float(checked_values(axis(path, [given]), place)[0])
    except SpecError as error:
        raise SpecError([Fault(f"{name} of {path}", f.value, f.rule) for f in error.faults]) from None


def number_kind(place: Place) -> tuple[bool, float, float] | None:
    """Whether a field holds whole numbers, and its legal range; None where it is not a number."""
    field = type(place.parent).model_fields[place.field]
    kinds, bounds = _inside(field.annotation, field.metadata)
    if bool in kinds or not kinds & {int, float}:
        return None
    return int in kinds and float not in kinds, bounds.get("ge", -np.inf), bounds.get("le", np.inf)


def _inside(annotation: Any, markers: Sequence[Any]) -> tuple[set[Any], dict[str, float]]:
    """Plain types and ``ge`` and ``le`` bounds of an annotation, through ``Annotated`` and unions."""
    kinds, bounds = {annotation}, {}
    for marker in (*markers, *getattr(annotation, "__metadata__", ())):
        for part in (marker, *getattr(marker, "metadata", ())):
            bounds.update({side: float(getattr(part, side)) for side in ("ge", "le") if hasattr(part, side)})
    arguments = getattr(annotation, "__args__", ())
    for argument in (*arguments, *([annotation.__origin__] if hasattr(annotation, "__metadata__") else [])):
        if argument is not annotation:
            more, inner = _inside(argument, ())
            kinds, bounds = kinds | more, {**inner, **bounds}
    return kinds, bounds
