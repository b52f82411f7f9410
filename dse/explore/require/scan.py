"""Where a target is met: a scan of the range, and the crossings between met and missed values made exact.

Nothing is taken to be monotone. What lies between two neighbouring values of the scan that are both met, or both
missed, is not looked at; a crossing is cut into ever smaller pieces, all crossings at once, and its end is always a
value that was evaluated and meets the target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dse.explore.require.field import Field

PIECES = 3  # values tried within a crossing at once
ROUNDS = 60


@dataclass
class Crossing:
    """Two values of a field, the target missed at one and met at the other.

    Attributes:
        case: position of the case.
        missed, met: the values.
        others: values of the other fields.
    """

    case: int
    missed: float
    met: float
    others: tuple[float, ...] = ()


def refine(
    crossings: Sequence[Crossing], item: Field, tolerance: float, scores: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Move the ends of all crossings together until they are ``tolerance`` apart or no value lies between them.

    Args:
        crossings: changed in place; those without a value that meets the target stay.
        item: the field that is crossed.
        tolerance: relative distance of the ends.
        scores: of points (fields, n), the crossed field first; (cases, n).
    """
    crossings = [c for c in crossings if np.isfinite(c.met)]
    for _ in range(ROUNDS):
        inner = [
            np.empty(0) if item.near(c.missed, c.met, tolerance) else item.between(c.missed, c.met, PIECES)
            for c in crossings
        ]
        points = [(value, *c.others) for c, values in zip(crossings, inner, strict=True) for value in values]
        if not points:
            return
        found = scores(np.array(points).T)
        start = 0
        for c, values in zip(crossings, inner, strict=True):
            met = np.greater_equal(found[c.case, start : start + len(values)], 0)
            start += len(values)
            if len(values):
                first = int(np.argmax(met)) if met.any() else len(values)
                c.missed = float(values[first - 1]) if first else c.missed
                c.met = float(values[first]) if first < len(values) else c.met


def runs(met: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of each run of true values."""
    padded = np.concatenate([[False], met, [False]]).astype(int)
    starts, stops = np.flatnonzero(np.diff(padded) == 1), np.flatnonzero(np.diff(padded) == -1)
    return [(int(a), int(b) - 1) for a, b in zip(starts, stops, strict=True)]


def rising(values: np.ndarray) -> bool:
    """Does more of the resource help? Told by the first and the last finite score, or by where the target is met."""
    met = np.greater_equal(values, 0)
    if met.any() and met[0] != met[-1]:
        return bool(met[-1])
    finite = np.flatnonzero(np.isfinite(values))
    if len(finite) < 2:
        return True
    return bool(values[finite[-1]] >= values[finite[0]])


def edge(values: np.ndarray, scores: np.ndarray, case: int, *, least: bool, others: tuple[float, ...] = ()) -> Crossing:
    """The crossing at the least (or most) value that meets the target.

    Returns:
        Both ends equal where it is met at the end of the range; NaN where it is met nowhere.
    """
    met = np.flatnonzero(scores >= 0)
    if not len(met):
        return Crossing(case, np.nan, np.nan, others)
    place = int(met[0] if least else met[-1])
    before = place - 1 if least else place + 1
    inside = 0 <= before < len(values)
    return Crossing(case, float(values[before if inside else place]), float(values[place]), others)
