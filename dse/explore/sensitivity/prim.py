"""Scenario discovery with PRIM, the patient rule induction method: boxes in which the cases of interest are dense.

Peeling starts from all points and takes off a thin slice at a time; pasting puts back what was taken too much. Source:
Friedman and Fisher, Statistics and Computing 9 (1999) 123-143; as scenario discovery, Bryant and Lempert, Technological
Forecasting and Social Change 77 (2010) 34-49.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.units import engineering

if TYPE_CHECKING:
    import pandas as pd

SIGNIFICANT = 0.05  # quasi-p-value above which a restriction is dropped


@dataclass(frozen=True)
class Column:
    """A dimension of the points: its distinct values in order, and the position of each point's value among them."""

    name: str
    unit: str
    levels: tuple[Any, ...]
    codes: np.ndarray
    ordered: bool

    @classmethod
    def of(cls, name: str, values: Any, unit: str = "") -> Column:
        """Numbers are ordered; text, switches and other names are not."""
        array = np.asarray(values)
        ordered = array.dtype.kind in "fiu"
        if ordered:
            levels, codes = np.unique(array, return_inverse=True)
        else:
            text = array.astype(str)
            levels, codes = np.unique(text, return_inverse=True)
        return cls(name, unit, tuple(levels.tolist()), codes.astype(np.int32), ordered)


@dataclass(frozen=True)
class Limit:
    """One restriction of a box: a range of numbers, or the members of a set of names.

    Attributes:
        low, high: ends that belong to the box; None is open.
        members: names in the box, where the dimension is no number.
        p: quasi-p-value: how likely the box would hold as many cases if the restriction did not matter.
    """

    name: str
    unit: str
    low: float | None
    high: float | None
    members: tuple[str, ...]
    p: float

    def __str__(self) -> str:
        if self.members:
            one = len(self.members) == 1
            return f"{self.name} is {self.members[0]}" if one else f"{self.name} in {{{', '.join(self.members)}}}"
        ends = [None if end is None else engineering(end, self.unit) for end in (self.low, self.high)]
        if ends[0] is not None and ends[1] is not None:
            return f"{self.name} = {ends[0]}" if self.low == self.high else f"{ends[0]} <= {self.name} <= {ends[1]}"
        return f"{self.name} >= {ends[0]}" if ends[0] is not None else f"{self.name} <= {ends[1]}"


@dataclass(frozen=True)
class Box:
    """A region that holds many of the cases of interest and few others.

    Attributes:
        limits: restrictions, the most significant first; all of them hold in the box.
        mass: share of all points in the box.
        density: share of the box's points that are cases of interest.
        coverage: share of all cases of interest that lie in the box.
        trajectory: a row a peeling step, from all points on: ``mass``, ``density``, ``coverage``, ``restricted``
            (number of dimensions), and ``chosen`` for the step that the box was made from.
    """

    limits: tuple[Limit, ...]
    mass: float
    density: float
    coverage: float
    trajectory: pd.DataFrame

    def __str__(self) -> str:
        return " and ".join(str(limit) for limit in self.limits) or "everywhere"

    def contains(self, points: Mapping[str, Any]) -> np.ndarray:
        """Which points (columns by name) lie in the box."""
        inside = np.ones(len(next(iter(points.values()))), dtype=bool)
        for limit in self.limits:
            values = np.asarray(points[limit.name])
            if limit.members:
                inside &= np.isin(values.astype(str), limit.members)
            if limit.low is not None:
                inside &= values >= limit.low
            if limit.high is not None:
                inside &= values <= limit.high
        return inside


def prim(
    columns: Sequence[Column],
    interest: np.ndarray,
    *,
    density: float = 0.8,
    peel: float = 0.05,
    paste: float = 0.01,
    smallest: float = 0.02,
    boxes: int = 3,
) -> list[Box]:
    """Find boxes one after another, each among the points that those before have left.

    A step peels, of all slices of about the share ``peel`` at both ends of each ordered dimension and of all single
    names, the one that raises the density most for each point lost (so that the uneven slices of discrete dimensions
    compare; Kwakkel and Jaxa-Rozen, Environmental Modelling & Software 79 (2016) 311-321). Of the boxes that reach
    ``density`` (of all, where none does) that with the greatest harmonic mean of density and coverage, 2 cases /
    (points in the box + all cases), is taken. It is pasted, and restrictions with a quasi-p-value above 0.05 are
    dropped. The first box is given in any case, the next ones only if they reach ``density``.

    Args:
        columns: dimensions of n points.
        interest: shape (n,), true where a point is a case of interest.
        density: wanted in a box; where the cases are frequent, at least halfway from their share of all points to 1.
        peel, paste: shares of a box's points that a step takes off or puts back.
        smallest: share of all points below which peeling stops.
        boxes: at most so many.

    Raises:
        SpecError: no points, or shares outside their range.
    """
    interest = np.asarray(interest, dtype=bool)
    faults = [
        Fault(name, f"{value!r}"[:40], "must be above 0 and below 1 (density: at most 1)")
        for name, value in (("density", density), ("peel", peel), ("paste", paste), ("smallest", smallest))
        if not 0 < value < 1 and not (name == "density" and value == 1)
    ]
    if faults or not columns or not len(interest):
        raise SpecError(faults or [Fault("points", "", "there must be points and dimensions")])
    if boxes < 1:
        raise SpecError([Fault("boxes", f"{boxes!r}"[:40], "must be at least 1")])
    found: list[Box] = []
    left = np.arange(len(interest))
    cases = int(interest.sum())
    for _ in range(boxes):
        remaining = int(interest[left].sum())
        if not remaining or remaining == len(left):
            break
        points = _Points(columns, interest, left)
        masks, trajectory = _peeled(points, peel, max(smallest * len(interest), 1.0), density)
        masks = _significant(points, _pasted(points, masks, paste))
        inside = points.inside(masks)
        size, hits = int(inside.sum()), int((inside & points.interest).sum())
        if (
            not size
            or hits / size <= remaining / len(left)
            or (found and hits / size < _wanted(density, remaining / len(left)))
        ):
            break
        found.append(
            Box(
                _limits(points, masks), size / len(interest), hits / size, hits / cases,
                _table(trajectory, len(interest), cases),
            )
        )  # fmt: skip
        left = left[~inside]
    return found


def _wanted(density: float, share: float) -> float:
    """Density wanted among points with a share of cases: at least halfway from that to 1."""
    return max(density, 0.5 + 0.5 * share)


class _Points:
    """Some of the points, and counts of them by level."""

    def __init__(self, columns: Sequence[Column], interest: np.ndarray, rows: np.ndarray) -> None:
        self.columns = columns
        self.interest = interest[rows]
        self.codes = [c.codes[rows] for c in columns]

    def inside(self, masks: Sequence[np.ndarray], without: int = -1) -> np.ndarray:
        """Points whose levels the masks allow; ``without`` one dimension's restriction."""
        kept = np.ones(len(self.interest), dtype=bool)
        for i, (mask, codes) in enumerate(zip(masks, self.codes, strict=True)):
            if i != without and not mask.all():
                kept &= mask[codes]
        return kept

    def counts(self, i: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points and cases of interest at each level of a dimension."""
        size = len(self.columns[i].levels)
        codes = self.codes[i][rows]
        return np.bincount(codes, minlength=size), np.bincount(codes, weights=self.interest[rows], minlength=size)


# A step of a trajectory: masks of levels, points, cases of interest.
_Step = tuple[list[np.ndarray], int, int, bool]


def _peeled(points: _Points, peel: float, smallest: float, density: float) -> tuple[list[np.ndarray], list[_Step]]:
    """Peel until the box is small or pure; the masks of the best box, and all steps."""
    masks = [np.ones(len(c.levels), dtype=bool) for c in points.columns]
    rows = np.arange(len(points.interest))
    steps: list[tuple[list[np.ndarray], int, int]] = []
    while True:
        size, hits = len(rows), int(points.interest[rows].sum())
        steps.append(([m.copy() for m in masks], size, hits))
        if hits == size:
            break
        best = _best_slice(points, rows, size, hits, peel, smallest)
        if best is None:
            break
        i, removed = best
        masks[i] = masks[i] & ~removed
        rows = rows[~removed[points.codes[i][rows]]]
    total = steps[0][2]
    density = _wanted(density, total / steps[0][1])
    dense = [k for k, (_, n, h) in enumerate(steps) if h >= density * n]
    chosen = max(dense or range(len(steps)), key=lambda k: steps[k][2] / (steps[k][1] + total))
    return steps[chosen][0], [(*step, k == chosen) for k, step in enumerate(steps)]


def _best_slice(
    points: _Points, rows: np.ndarray, size: int, hits: int, peel: float, smallest: float
) -> tuple[int, np.ndarray] | None:
    """Dimension and levels of the slice that raises the density most for each point lost; None: nothing to peel."""
    best: tuple[float, int, np.ndarray] | None = None
    for i, column in enumerate(points.columns):
        count, cases = points.counts(i, rows)
        present = np.flatnonzero(count)
        if len(present) < 2:
            continue
        for levels in _slices(count, present, column.ordered, peel * size):
            lost, lost_hits = int(count[levels].sum()), float(cases[levels].sum())
            if size - lost < smallest:
                continue
            gain = ((hits - lost_hits) / (size - lost) - hits / size) / lost
            if best is None or gain > best[0] + 1e-15:
                best = (gain, i, _beyond(levels, present, len(count), column.ordered))
    return None if best is None else best[1:]


def _beyond(levels: np.ndarray, present: np.ndarray, count: int, ordered: bool) -> np.ndarray:
    """Mask of a slice's levels; of a range with all levels beyond them, those without points in the box included."""
    removed = np.zeros(count, dtype=bool)
    removed[levels] = True
    if ordered and levels[0] == present[0]:
        removed[: levels.max() + 1] = True
    elif ordered:
        removed[levels.min() :] = True
    return removed


def _slices(count: np.ndarray, present: np.ndarray, ordered: bool, size: float) -> list[np.ndarray]:
    """Sets of levels to peel: each name, or both ends of a range up to ``size`` points (at least one level)."""
    if not ordered:
        return [present[k : k + 1] for k in range(len(present))]
    found = []
    for line in (present, present[::-1]):
        many = int(np.searchsorted(np.cumsum(count[line]), size, side="right"))
        found.append(line[: min(max(many, 1), len(line) - 1)])
    return found


def _pasted(points: _Points, masks: list[np.ndarray], paste: float) -> list[np.ndarray]:
    """Put levels back beside the box (or names into it) as long as that does not lower the density."""
    masks = [m.copy() for m in masks]
    while True:
        inside = points.inside(masks)
        size, hits = int(inside.sum()), int((inside & points.interest).sum())
        best: tuple[float, int, int, np.ndarray] | None = None
        for i, column in enumerate(points.columns):
            if masks[i].all():
                continue
            count, cases = points.counts(i, np.flatnonzero(points.inside(masks, without=i)))
            for levels in _beside(masks[i], count, column.ordered, paste * size):
                more, more_hits = int(count[levels].sum()), float(cases[levels].sum())
                mean = (hits + more_hits) / (size + more)
                if mean >= hits / size and (best is None or (mean, more) > best[:2]):
                    best = (mean, more, i, levels)
        if best is None:
            return masks
        masks[best[2]][best[3]] = True


def _beside(mask: np.ndarray, count: np.ndarray, ordered: bool, size: float) -> list[np.ndarray]:
    """Sets of levels to paste: each name, or at both ends of the range enough levels for ``size`` points."""
    if not ordered:
        return [np.array([k]) for k in np.flatnonzero(~mask)]
    low, high = np.flatnonzero(mask)[[0, -1]]
    found = []
    for line in (np.arange(low - 1, -1, -1), np.arange(high + 1, len(mask))):
        if len(line):
            many = int(np.searchsorted(np.cumsum(count[line]), size, side="left")) + 1
            found.append(line[:many])
    return found


def _significant(points: _Points, masks: list[np.ndarray]) -> list[np.ndarray]:
    """Drop the restriction with the greatest quasi-p-value while that is above 0.05."""
    masks = list(masks)
    while True:
        restricted = [i for i, mask in enumerate(masks) if not mask.all()]
        values = [_quasi_p(points, masks, i) for i in restricted]
        if not values or max(values) <= SIGNIFICANT:
            return masks
        worst = restricted[int(np.argmax(values))]
        masks[worst] = np.ones_like(masks[worst])


def _quasi_p(points: _Points, masks: Sequence[np.ndarray], i: int) -> float:
    """P(at least the box's cases of interest among its points), at the density of the box without restriction i."""
    from scipy.stats import binom

    inside, wider = points.inside(masks), points.inside(masks, without=i)
    size, hits = int(inside.sum()), int((inside & points.interest).sum())
    density = float(points.interest[wider].mean())
    return float(binom.sf(hits - 1, size, density))


def _limits(points: _Points, masks: Sequence[np.ndarray]) -> tuple[Limit, ...]:
    found = []
    for i, (column, mask) in enumerate(zip(points.columns, masks, strict=True)):
        if mask.all():
            continue
        levels = [level for level, kept in zip(column.levels, mask, strict=True) if kept]
        p = _quasi_p(points, masks, i)
        if column.ordered:
            low = levels[0] if not mask[0] else None
            high = levels[-1] if not mask[-1] else None
            found.append(Limit(column.name, column.unit, low, high, (), p))
        else:
            found.append(Limit(column.name, column.unit, None, None, tuple(levels), p))
    return tuple(sorted(found, key=lambda limit: limit.p))


def _table(steps: Sequence[_Step], count: int, cases: int) -> pd.DataFrame:
    import pandas as pd

    rows = [[n / count, h / n, h / cases, sum(not m.all() for m in masks), chosen] for masks, n, h, chosen in steps]
    return pd.DataFrame(rows, columns=["mass", "density", "coverage", "restricted", "chosen"])
