"""The inner problem, solved exactly: the best strategies on given hardware, by enumeration on named axes.

Hardware designs of one structure are priced together: the fields that vary lie along the first axis, every field of
the strategy along an axis of its own. Budgets that hardware alone breaks cost no timing; nothing is flattened before
the last reduction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dse.cost.graph import Evaluation
from dse.explore.best import Space
from dse.explore.evaluate import feasible, price, violations
from dse.explore.objectives import margins
from dse.explore.search import pareto
from dse.explore.search.problem import Group, Problem
from dse.explore.search.variables import coupled
from dse.space.axes import with_value

Array = Any
BLOCK = 1 << 20  # designs priced at once: few enough for memory, many enough to hide the cost of calls


@dataclass
class Inner:
    """The exact answer for one hardware design.

    Attributes:
        evaluated: strategies looked at.
        feasible: how many keep every rule and budget.
        front: objective values (as asked, not signed) and position of each strategy on the Pareto front, in order.
        nearest: where none is feasible, the position of the strategy that breaks least, and its negative margins.
    """

    evaluated: int = 0
    feasible: int = 0
    front: list[tuple[tuple[float, ...], int]] = field(default_factory=list)
    nearest: tuple[int, dict[str, float]] | None = None
    _rank: tuple[float, float] = (np.inf, np.inf)  # of the nearest: share broken, then the first objective

    def to_dict(self) -> dict[str, Any]:
        """Plain data that survives JSON bit by bit."""
        front = [[[float(v).hex() for v in values], place] for values, place in self.front]
        nearest = None if self.nearest is None else [self.nearest[0], {k: v.hex() for k, v in self.nearest[1].items()}]
        return {"evaluated": self.evaluated, "feasible": self.feasible, "front": front, "nearest": nearest}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Inner:
        """The inverse of :meth:`to_dict`."""
        front = [(tuple(float.fromhex(v) for v in values), int(place)) for values, place in data["front"]]
        near = data["nearest"]
        nearest = None if near is None else (int(near[0]), {k: float.fromhex(v) for k, v in near[1].items()})
        return cls(int(data["evaluated"]), int(data["feasible"]), front, nearest)


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
            hardware = _hardware(given, [points[p] for p in chosen])
            for block in strategies.blocks(limit):
                evaluation = _price(given, group, hardware, block)
                _reduce(given, group, evaluation, block, [found[p] for p in chosen])
    for inner in found:
        _settle(given, inner)
    return found


def _hardware(given: Problem, points: Sequence[Mapping[str, Any]]) -> list[tuple[Any, np.ndarray]]:
    """Place and values of every field that lies along the hardware axis."""
    key = given.key(points[0])
    apart = {name for name, _ in zip(_apart_names(given), key, strict=True)}
    return [(v.place, np.array([v.value(p[v.name]) for p in points])) for v in given.variables if v.name not in apart]


def _apart_names(given: Problem) -> list[str]:
    return [v.name for v in given.variables if v.structural or v.place.steps == ("devices",)]


def _price(given: Problem, group: Group, hardware: Sequence[tuple[Any, Array]], block: Sequence[slice]) -> Evaluation:
    """One block of strategies on some hardware designs: hardware along axis 0, each strategy field along its own."""
    changed = dict(group.specs)
    count = len(group.strategies)
    for place, values in hardware:
        lying = values.reshape((-1, *(1,) * count))
        changed[place.root] = with_value(changed[place.root], place.steps, lying)
    changed = coupled(changed, group.specs, given.couplings)
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
    places = _places(group.shape, block)
    good = np.count_nonzero(allowed, axis=1)
    for answer, number in zip(into, good, strict=True):
        answer.evaluated += size
        answer.feasible += int(number)
    if good.any():
        signed = [o.sign * _spread(o.value(evaluation), shape) for o in given.objectives]
        if len(signed) == 1:
            _keep_least(given, signed[0], allowed, places, into)
        else:
            _keep_front(given, signed, allowed, places, into)
    if not all(answer.feasible for answer in into):
        _keep_nearest(given, evaluation, limits, shape, places, into)


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


def _keep_least(given: Problem, signed: np.ndarray, allowed: np.ndarray, places: np.ndarray, into: list[Inner]) -> None:
    scores = np.where(allowed, signed, np.inf)
    least = np.argmin(scores, axis=1)
    sign = given.objectives[0].sign
    for row, answer in enumerate(into):
        value = scores[row, least[row]]
        if np.isfinite(value) and (not answer.front or value < sign * answer.front[0][0][0]):
            answer.front = [((sign * float(value),), int(places[least[row]]))]


def _keep_front(
    given: Problem, signed: list[np.ndarray], allowed: np.ndarray, places: np.ndarray, into: list[Inner]
) -> None:
    signs = np.array([o.sign for o in given.objectives])
    for row, answer in enumerate(into):
        rows = np.flatnonzero(allowed[row])
        if not len(rows):
            continue
        points = np.stack([column[row, rows] for column in signed], axis=1)
        chosen = pareto.front(points)
        found = [(tuple((signs * points[i]).tolist()), int(places[rows[i]])) for i in chosen]
        if answer.front:
            found = answer.front + found
            best = pareto.front(np.array([values for values, _ in found]) * signs)
            found = [found[i] for i in best]
        answer.front = found


def _keep_nearest(
    given: Problem,
    evaluation: Evaluation,
    limits: Mapping[str, Array],
    shape: tuple[int, ...],
    places: np.ndarray,
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
        distance = distance + np.maximum(-margin, 0.0) / scales[name]
    far = np.where(legal, _spread(distance, shape), np.inf)
    least = far.min(axis=1)
    lead = given.objectives[0]
    tied = np.where(far <= least[:, None], lead.sign * _spread(lead.value(evaluation), shape), np.inf)
    chosen = np.argmin(tied, axis=1)
    for row, answer in enumerate(into):
        rank = (float(least[row]), float(tied[row, chosen[row]]))
        if answer.feasible or not np.isfinite(rank[0]) or not rank < answer._rank:
            continue
        answer._rank = rank
        values = {name: float(_spread(margin, shape)[row, chosen[row]]) for name, margin in broken.items()}
        answer.nearest = (int(places[chosen[row]]), {name: v for name, v in values.items() if v < 0})


def _settle(given: Problem, answer: Inner) -> None:
    """Drop what the search for a feasible strategy left behind."""
    if answer.feasible:
        answer.nearest = None


def grid(given: Problem) -> Iterator[dict[str, Any]]:
    """Every hardware design of a discrete problem: the variables in order, the last one fastest."""
    from itertools import product

    for choice in product(*(v.shown for v in given.variables)):
        yield {v.name: shown for v, shown in zip(given.variables, choice, strict=True)}
