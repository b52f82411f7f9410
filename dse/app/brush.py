"""What a brush means: a box on a figure, or ranges on parallel lines, as ranges of columns in SI units.

A figure says in ``layout.meta`` what its axes are: ``x``, ``y`` (columns) with ``x_scale``, ``y_scale`` (SI per unit of
the axis) and, where an axis has categories, ``x_values``, ``y_values``; or ``dimensions``, a list of ``column``,
``scale``, ``log``, ``values``. The page sends only the box; which designs lie in it is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

SLACK = 1e-12  # relative; a point on the edge of a box belongs to it in spite of rounding


def picked(meta: Mapping[str, Any], message: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Ranges (low, high) or values by column."""
    if message["type"] == "ranges":
        return _dimensions(meta.get("dimensions", ()), message["ranges"])
    found = {}
    for axis, ends in message.get("range", {}).items():
        letter = axis[0]
        if letter not in meta or len(ends) != 2:
            continue
        range_ = _along(sorted(map(float, ends)), meta.get(f"{letter}_values"), float(meta.get(f"{letter}_scale", 1)))
        if range_:
            found[str(meta[letter])] = range_
    return found


def _along(ends: Sequence[float], values: Sequence[Any] | None, scale: float) -> tuple[Any, ...]:
    """The range of an axis, or the categories (at 0, 1, 2, ...) that it takes in."""
    if not values:
        return _widened(ends[0] * scale, ends[1] * scale)
    inside = [value for place, value in enumerate(values) if ends[0] <= place <= ends[1]]
    numbers = [v for v in inside if isinstance(v, int | float) and not isinstance(v, bool)]
    return (min(numbers), max(numbers)) if numbers else tuple(inside)


def _widened(low: float, high: float) -> tuple[float, float]:
    return low - SLACK * abs(low), high + SLACK * abs(high)


def _dimensions(dimensions: Sequence[Mapping[str, Any]], ranges: Sequence[Any]) -> dict[str, tuple[Any, ...]]:
    """Of several ranges on one line the span counts."""
    found = {}
    for dimension, given in zip(dimensions, ranges, strict=False):
        if not given:
            continue
        ends = [float(end) for part in (given if isinstance(given[0], list) else [given]) for end in part]
        low, high = min(ends), max(ends)
        values = dimension.get("values")
        if values:
            inside = tuple(value for place, value in enumerate(values) if low <= place <= high)
            if inside:
                found[str(dimension["column"])] = inside
            continue
        scale = float(dimension.get("scale", 1))
        raised = [10.0**end if dimension.get("log") else end for end in (low, high)]
        found[str(dimension["column"])] = _widened(raised[0] * scale, raised[1] * scale)
    return found


def boxes(meta: Mapping[str, Any], selected: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """What is selected as a box on a figure; nothing unless both of its axes have a range."""
    if meta.get("x") not in selected or meta.get("y") not in selected:
        return []
    box: dict[str, Any] = {"type": "rect", "xref": "x", "yref": "y", "line": {"width": 1, "dash": "dot"}}
    for letter in "xy":
        ends = _drawn(selected[meta[letter]], meta.get(f"{letter}_values"), float(meta.get(f"{letter}_scale", 1)))
        if ends is None:
            return []
        box[f"{letter}0"], box[f"{letter}1"] = ends
    return [box]


def _drawn(picked: Sequence[Any], values: Sequence[Any] | None, scale: float) -> tuple[float, float] | None:
    """Ends of a range on an axis; categories stand at 0, 1, 2, ..."""
    if not values:
        return picked[0] / scale, picked[1] / scale
    inside = [place for place, value in enumerate(values) if holds(picked, value)]
    return (inside[0] - 0.45, inside[-1] + 0.45) if inside else None


def holds(picked: Sequence[Any], value: Any) -> bool:
    """Is a value within a range, or one of the values?"""
    if isinstance(picked[0], str | bool):
        return value in picked
    return bool(picked[0] <= value <= picked[1])


def unpicked(dimension: Mapping[str, Any], range_: Sequence[Any]) -> list[float] | None:
    """A range of a column as Plotly draws it on a line; None where it has none."""
    values = dimension.get("values")
    if values:
        places = [place for place, value in enumerate(values) if holds(range_, value)]
        return [min(places) - 0.2, max(places) + 0.2] if places else None
    ends = [float(end) / float(dimension.get("scale", 1)) for end in range_]
    if dimension.get("log"):
        return [math.log10(max(end, 1e-300)) for end in ends]
    return ends
