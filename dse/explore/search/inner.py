"""The inner problem, solved exactly: the best strategies on given hardware, by enumeration on named axes.

Hardware designs of one structure are priced together: the fields that vary lie along the first axis, every field of
the strategy along an axis of its own. Nothing is flattened before the last reduction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dse.cost.graph import Evaluation
from dse.explore.best import Space
from dse.explore.evaluate import feasible, price, violations
from dse.explore.objectives import margins, quantity_value
from dse.explore.search import pareto
from dse.explore.search.problem import Group, Problem
from dse.explore.search.variables import coupled
from dse.space.axes import with_value

Array = Any
BLOCK = 1 << 20  # designs priced at once: few enough for memory, many enough to hide the cost of calls
HOPELESS = 1e200  # stands for an infinite distance or score, so that it can still be compared


@dataclass
class Inner:
    """The exact answer for one hardware design.

    Attributes:
        evaluated: strategies looked at.
        feasible: how many keep every rule and budget, and have objectives that are finite.
        front: objective values (as asked, not signed) and position of each strategy on the Pareto front, in order.
        nearest: where none is feasible, the position of the strategy that breaks least, and its negative margins.
        noted: the problem's noted quantities at each strategy of the front, or at the nearest one.
    """

    evaluated: int = 0
    feasible: int = 0
    front: list[tuple[tuple[float, ...], int]] = field(default_factory=list)
    nearest: tuple[int, dict[str, float]] | None = None
    noted: list[tuple[float, ...]] = field(default_factory=list)
    _rank: tuple[float, float] = (np.inf, np.inf)  # of the nearest: share broken, then the first objective

    def to_dict(self) -> dict[str, Any]:
        """Plain data that survives JSON bit by bit."""
        front = [[[float(v).hex() for v in values], place] for values, place in self.front]
        nearest = None if self.nearest is None else [self.nearest[0], {k: v.hex() for k, v in self.nearest[1].items()}]
        noted = [[v.hex() for v in row] for row in self.noted]
        counts = {"evaluated": self.evaluated, "feasible": self.feasible}
        return {**counts, "front": front, "nearest": nearest, "noted": noted}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Inner:
        """The inverse of :meth:`to_dict`."""
        front = [(tuple(float.fromhex(v) for v in values), int(place)) for values, place in data["front"]]
        near = data["nearest"]
        nearest = None if near is None else (int(near[0]), {k: float.fromhex(v) for k, v in near[1].items()})
        noted = [tuple(float.fromhex(v) for v in row) for row in data["noted"]]
        return cls(int(data["evaluated"]), int(data["feasible"]), front, nearest, noted)


def solve(given: Problem, points: Sequence[Mapping[str, Any]], limit: int = BLOCK) -> list[Inner]:
    """The inner front of every hardware design, in the order given.

    Args:
        points: values by variable name, as tables show them.
        limit: designs priced at once; the answer does not depend on it.
    """
    found = [Inner() for _ in points]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, point in enumerate(points):
        groups.setdefault(given.key(point), []).append(place)
    for places in groups.values():
        group = given.group(points[places[0]])
        strategies = Space(group.specs, group.strategies, replace=given.replace)
        together = max(1, limit // max(strategies.size, 1))
        for start in range(0, len(places), together):
            chosen = places[start : start + together]
            for block in strategies.blocks(limit):
                evaluation = priced(given, group, [points[p] for p in chosen], block)
                _reduce(given, group, evaluation, block, [found[p] for p in chosen])
    for inner in found:
        _settle(given, inner)
    return found


def priced(given: Problem, group: Group, points: Sequence[Mapping[str, Any]], block: Sequence[slice]) -> Evaluation:
    """One block of strategies on hardware designs of a group: hardware along axis 0, each strategy field on its own."""
    changed = dict(group.specs)
    count = len(group.strategies)
    for v in given.variables:
        if v.name in group.places:
            place = group.places[v.name]
            lying = np.array([v.value(point[v.name]) for point in points]).reshape((-1, *(1,) * count))
            changed[place.root] = with_value(changed[place.root], place.steps, lying)
    changed = coupled(changed, group.base, group.couplings)
    for position, (b, part) in enumerate(zip(group.strategies, block, strict=True), 1):
        shape = [1] * (count + 1)
        values = np.asarray(b.values)[part]
        shape[position] = len(values)
        changed[b.place.root] = with_value(changed[b.place.root], b.place.steps, values.reshape(shape))
    return price(changed, devices_given=True, replace=given.replace)


def _reduce(given: Problem, group: Group, evaluation: Evaluation, block: Sequence[slice], into: list[Inner]) -> None:
    """Add one block's designs to the answers of its hardware designs."""
    inner = tuple(part.stop - part.start for part in block)
    shape = (len(into), *inner)
    size = int(np.prod(inner, dtype=np.int64))
    limits = margins(evaluation, given.constraints)
    allowed = _spread(_within(limits), shape)
    if allowed.any():
        allowed = allowed & _spread(feasible(violations(evaluation)), shape)
    signed = []
    if allowed.any():
        signed = [o.sign * _spread(o.value(evaluation), shape) for o in given.objectives]
        allowed = allowed & np.logical_and.reduce([np.isfinite(column) for column in signed])
    places = _places(group.shape, block)
    noted = Noted(given, evaluation, shape)
    good = np.count_nonzero(allowed, axis=1)
    for answer, number in zip(into, good, strict=True):
        answer.evaluated += size
        answer.feasible += int(number)
    if len(signed) == 1:
        _keep_least(given, signed[0], allowed, places, noted, into)
    elif signed:
        _keep_front(given, signed, allowed, places, noted, into)
    if not all(answer.feasible for answer in into):
        _keep_nearest(given, evaluation, limits, shape, places, noted, into)


class Noted:
    """Values of the noted quantities at chosen designs of a block."""

    def __init__(self, given: Problem, evaluation: Evaluation, shape: tuple[int, ...]) -> None:
        self._given, self._evaluation, self._shape = given, evaluation, shape

    @cached_property
    def _columns(self) -> list[np.ndarray]:
        return [_spread(quantity_value(self._evaluation, name), self._shape) for name in self._given.noted]

    def __call__(self, row: int, place: int) -> tuple[float, ...]:
        return tuple(float(column[row, place]) for column in self._columns)


def _within(limits: Mapping[str, Array]) -> Array:
    result: Any = True
    for margin in limits.values():
        result = np.logical_and(result, np.greater_equal(margin, 0))
    return result


def _spread(value: Array, shape: tuple[int, ...]) -> np.ndarray:
    """Hardware designs × strategies, in the strategies' order."""
    return np.broadcast_to(value, shape).reshape(shape[0], -1)


def _places(whole: tuple[int, ...], block: Sequence[slice]) -> np.ndarray:
    """Position of each strategy of a block in the whole enumeration."""
    numbers: np.ndarray = np.zeros((), dtype=np.int64)
    for length, part in zip(whole, block, strict=True):
        numbers = numbers[..., None] * length + np.arange(part.start, part.stop)
    return numbers.ravel()


def _keep_least(
    given: Problem, signed: np.ndarray, allowed: np.ndarray, places: np.ndarray, noted: Noted, into: list[Inner]
) -> None:
    scores = np.where(allowed, signed, np.inf)
    least = np.argmin(scores, axis=1)
    sign = given.objectives[0].sign
    for row, answer in enumerate(into):
        value = scores[row, least[row]]
        if np.isfinite(value) and (not answer.front or value < sign * answer.front[0][0][0]):
            answer.front = [((sign * float(value),), int(places[least[row]]))]
            answer.noted = [noted(row, int(least[row]))]


def _keep_front(
    given: Problem, signed: list[np.ndarray], allowed: np.ndarray, places: np.ndarray, noted: Noted, into: list[Inner]
) -> None:
    signs = np.array([o.sign for o in given.objectives])
    for row, answer in enumerate(into):
        rows = np.flatnonzero(allowed[row])
        if not len(rows):
            continue
        points = np.stack([column[row, rows] for column in signed], axis=1)
        chosen = pareto.front(points)
        found = [(tuple((signs * points[i]).tolist()), int(places[rows[i]])) for i in chosen]
        notes = [noted(row, int(rows[i])) for i in chosen]
        if answer.front:
            found, notes = answer.front + found, answer.noted + notes
            best = pareto.front(np.array([values for values, _ in found]) * signs)
            found, notes = [found[i] for i in best], [notes[i] for i in best]
        answer.front, answer.noted = found, notes


def _keep_nearest(
    given: Problem,
    evaluation: Evaluation,
    limits: Mapping[str, Array],
    shape: tuple[int, ...],
    places: np.ndarray,
    noted: Noted,
    into: list[Inner],
) -> None:
    """Of the strategies legal but for memory and budgets, the one that breaks them least (in relative terms).

    Where several break them alike (hardware beyond a budget), the best of them by the first objective.
    """
    rules = dict(violations(evaluation))
    memory = rules.pop("memory_fits")
    legal = _spread(feasible(rules), shape)
    capacity = evaluation.specs["cluster"].accelerator.memory.capacity  # type: ignore[attr-defined]
    broken = {"memory_fits": memory, **limits}
    scales = {"memory_fits": capacity, **{c.text: max(abs(c.value), 1e-12) for c in given.constraints}}
    distance: Array = 0.0
    for name, margin in broken.items():
        share = np.maximum(-margin, 0.0) / scales[name]
        distance = distance + np.nan_to_num(share, nan=HOPELESS, posinf=HOPELESS)
    far = np.where(legal, _spread(distance, shape), np.inf)
    least = far.min(axis=1)
    lead = given.objectives[0]
    score = np.nan_to_num(lead.sign * lead.value(evaluation), nan=HOPELESS, posinf=HOPELESS)
    tied = np.where(far <= least[:, None], _spread(score, shape), np.inf)
    chosen = np.argmin(tied, axis=1)
    for row, answer in enumerate(into):
        rank = (float(least[row]), float(tied[row, chosen[row]]))
        if answer.feasible or not np.isfinite(rank[0]) or not rank < answer._rank:
            continue
        answer._rank = rank
        values = {name: float(_spread(margin, shape)[row, chosen[row]]) for name, margin in broken.items()}
        answer.nearest = (int(places[chosen[row]]), {name: v for name, v in values.items() if not v >= 0})
        answer.noted = [noted(row, int(chosen[row]))]


def _settle(given: Problem, answer: Inner) -> None:
    """Drop what the search for a feasible strategy left behind."""
    if answer.feasible:
        answer.nearest = None


def grid(given: Problem) -> Iterator[dict[str, Any]]:
    """Every hardware design of a discrete problem: the variables in order, the last one fastest."""
    from itertools import product

    for choice in product(*(v.shown for v in given.variables)):
        yield {v.name: shown for v, shown in zip(given.variables, choice, strict=True)}
