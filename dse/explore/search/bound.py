"""Branch and bound over the hardware: the optimum with a proof, where there is too much hardware to enumerate.

In a box of hardware (each resource between two values)

- nothing is faster than the best strategy on the box's richest corner, whatever that corner costs;
- nothing costs less than its poorest corner.

A box whose poorest corner breaks the budget, or whose richest corner is no better than a design already known, holds
nothing of interest; any other is split. What remains open when the search stops bounds what could still be found.

Why the first statement holds, and for which problems, is in :mod:`dse.explore.search.provable`.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, product
from typing import Any

import numpy as np

from dse.explore.objectives import margins
from dse.explore.search.evaluate import Evaluator
from dse.explore.search.inner import Inner, priced
from dse.explore.search.pool import in_order
from dse.explore.search.problem import Problem
from dse.explore.search.provable import CHEAP, FAST, direction, may_hide_twice, provable, relaxed_quantities
from dse.explore.search.variables import HardwareVariable

TOGETHER = 64  # boxes that are bounded at once


@dataclass(order=True)
class Box:
    """Hardware between two corners; ordered by what its richest corner reaches (less is better)."""

    bound: float
    number: int
    fixed: tuple[Any, ...] = field(compare=False)
    poor: tuple[float, ...] = field(compare=False)
    rich: tuple[float, ...] = field(compare=False)


@dataclass
class Proof:
    """What branch and bound found.

    Attributes:
        points, answers: hardware designs that keep the budget and were solved, with their answers.
        bound: value of the objective that nothing in the space is better than.
        best: the best value found.
        boxes: how many were looked at.
        stopped: why the search ended.
    """

    points: list[dict[str, Any]]
    answers: list[Inner]
    bound: float
    best: float
    boxes: int
    stopped: str

    @property
    def gap(self) -> float:
        return abs(self.best - self.bound) / abs(self.best) if np.isfinite(self.best) else math.inf


def prove(
    evaluator: Evaluator,
    *,
    trials: int,
    tolerance: float = 0.01,
    pool: Any = None,
    progress: Callable[[int, int], Any] | None = None,
) -> Proof:
    """The best hardware, and a bound on what could be better.

    Args:
        trials: boxes to look at, at most.
        tolerance: share of the best value below which a gap is closed.
        pool: executor that solves hardware designs in parallel.

    Raises:
        SpecError: see :func:`provable`.
    """
    provable(evaluator.problem)
    return _Search(evaluator, tolerance, pool).run(trials, progress)


class Corners:
    """Hardware designs of a problem as points of boxes, and which of them the budgets allow."""

    def __init__(self, given: Problem) -> None:
        self.given = given
        self.free = [v for v in given.variables if direction(v)]
        self.apart = [v for v in given.variables if not direction(v)]
        self.budget = tuple(c for c in given.constraints if c.name in CHEAP and c.at_most)

    def point(self, fixed: Sequence[Any], values: Sequence[float]) -> dict[str, Any]:
        """A hardware design; free variables with values take the place on their list."""
        named = dict(zip((v.name for v in self.apart), fixed, strict=True))
        for v, x in zip(self.free, values, strict=True):
            named[v.name] = v.shown[round(x)] if v.values else self._value(v, x)
        return {v.name: named[v.name] for v in self.given.variables}

    @staticmethod
    def _value(v: HardwareVariable, x: float) -> float:
        """From the unit interval to the range of a continuous variable."""
        if x in (0.0, 1.0):
            return v.high if x else v.low
        return float(f"{v.low * (v.high / v.low) ** x if v.log else v.low + (v.high - v.low) * x:.12g}")

    def ends(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The poorest and the richest place of every resource."""
        ends = [(0.0, float(len(v.values) - 1) if v.values else 1.0) for v in self.free]
        ends = [end if direction(v) > 0 else end[::-1] for v, end in zip(self.free, ends, strict=True)]
        return tuple(e[0] for e in ends), tuple(e[1] for e in ends)

    def affordable(self, points: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Which hardware keeps the budgets that no strategy changes."""
        kept = np.ones(len(points), dtype=bool)
        groups: dict[tuple[Any, ...], list[int]] = {}
        for place, point in enumerate(points):
            groups.setdefault(self.given.key(point), []).append(place)
        for places in groups.values() if self.budget else ():
            group = self.given.group(points[places[0]])
            first = [slice(0, 1)] * len(group.strategies)
            evaluation = priced(self.given, group, [points[p] for p in places], first)
            for margin in margins(evaluation, self.budget).values():
                kept[places] &= np.broadcast_to(np.ravel(margin) >= 0, len(places))
        return kept

    def richest(self, boxes: Sequence[Box]) -> list[dict[str, Any]]:
        """The richest design on each box's diagonal that the budgets allow; they are known to allow its poor corner."""
        low, high = np.zeros(len(boxes)), np.ones(len(boxes))
        for _ in range(7):
            middle = (low + high) / 2
            kept = self.affordable(self._diagonal(boxes, middle))
            low, high = np.where(kept, middle, low), np.where(kept, high, middle)
        return self._diagonal(boxes, low)

    def _diagonal(self, boxes: Sequence[Box], shares: np.ndarray) -> list[dict[str, Any]]:
        return [self.point(b.fixed, self.between(b, share)) for b, share in zip(boxes, shares, strict=True)]

    def between(self, box: Box, share: float) -> tuple[float, ...]:
        """A point of the diagonal; variables with values take the poorer neighbour."""
        found = []
        for v, poor, rich in zip(self.free, box.poor, box.rich, strict=True):
            x = poor + share * (rich - poor)
            found.append((math.floor(x) if rich >= poor else math.ceil(x)) if v.values else x)
        return tuple(found)


class _Search(Corners):
    def __init__(self, evaluator: Evaluator, tolerance: float, pool: Any = None) -> None:
        super().__init__(evaluator.problem)
        self.evaluator = evaluator
        self.tolerance = tolerance
        self.pool = pool
        # Conditions that richer hardware keeps, those that poorer hardware keeps (the budget), and the rest.
        fast = tuple(c for c in self.given.constraints if FAST.get(c.name) == c.at_most)
        less = relaxed_quantities() if may_hide_twice(self.given) else ()
        self.relaxed = Evaluator(dataclasses.replace(self.given, constraints=fast, replace=less), None)
        self.relaxed.cache = None if less else evaluator.cache
        self.sign = self.given.objectives[0].sign
        self.solved: dict[tuple[Any, ...], tuple[dict[str, Any], Inner]] = {}
        self.best = math.inf
        self.beyond = math.inf  # least bound of boxes too small to be split
        self.numbers = count()

    def answers(self, evaluator: Evaluator, points: Sequence[dict[str, Any]]) -> list[Inner]:
        """Answers in order, from the pool where there is one."""
        if self.pool is None or len(points) < 2:
            return evaluator.answers(points)
        step = max(1, len(points) // 8)
        parts = [points[i : i + step] for i in range(0, len(points), step)]
        return [answer for found in in_order(self.pool, evaluator.answers, parts) for answer in found]

    # -- bounding --------------------------------------------------------------------------------------------

    def roots(self) -> list[Box]:
        """One box for every combination of the variables that are no resources."""
        poor, rich = self.ends()
        choices = product(*(v.shown for v in self.apart))
        return [Box(-math.inf, next(self.numbers), fixed, poor, rich) for fixed in choices]

    def bounded(self, boxes: Sequence[Box]) -> list[Box]:
        """The boxes that may hold something better than the best known, with their bounds."""
        affordable = self.affordable([self.point(b.fixed, b.poor) for b in boxes])
        boxes = [box for box, kept in zip(boxes, affordable, strict=True) if kept]
        richest = [self.point(b.fixed, b.rich) for b in boxes]
        answers = self.answers(self.relaxed, richest)
        paid = self.affordable(richest)
        left = []
        for box, point, answer, kept in zip(boxes, richest, answers, paid, strict=True):
            if not answer.front:
                continue  # not even the richest corner has a feasible strategy
            box.bound = self.sign * answer.front[0][0][0]
            closed = kept and self.reached(point, box)
            if not closed and self.open(box.bound):
                left.append(box)
        return left

    def reached(self, point: dict[str, Any], box: Box) -> bool:
        """Is the box's bound the value of its richest corner, which can be bought? Then nothing there is better."""
        self.note([point])
        answer = self.solved[tuple(point.values())][1]
        return box.poor == box.rich or (bool(answer.front) and self.sign * answer.front[0][0][0] <= box.bound)

    def open(self, bound: float) -> bool:
        """Could something with this bound be better by more than the tolerance?"""
        return not math.isfinite(self.best) or bound < self.best - self.tolerance * abs(self.best)

    def note(self, points: Sequence[dict[str, Any]]) -> None:
        """Solve designs that can be bought, and keep the best."""
        new = [p for p in points if tuple(p.values()) not in self.solved]
        for point, answer in zip(new, self.answers(self.evaluator, new), strict=True):
            self.solved[tuple(point.values())] = (point, answer)
            if answer.front:
                self.best = min(self.best, self.sign * answer.front[0][0][0])

    def tried(self, boxes: Sequence[Box]) -> None:
        """Designs on each box's diagonal, as rich as the budget allows."""
        self.note(self.richest(boxes))

    def split(self, box: Box) -> list[Box]:
        """Two halves across the variable whose range costs most of the objective."""
        ends = []
        widths = [abs(r - p) for p, r in zip(box.poor, box.rich, strict=True)]
        wide = [i for i, w in enumerate(widths) if w > (0.5 if self.free[i].values else 1e-6)]
        for i in wide:  # the richest corner with one resource at its poorest
            values = list(box.rich)
            values[i] = box.poor[i]
            ends.append(self.point(box.fixed, values))
        answers = self.answers(self.relaxed, ends)
        reach = [self.sign * a.front[0][0][0] if a.front else math.inf for a in answers]
        if not reach:
            self.beyond = min(self.beyond, box.bound)
            return []
        chosen = wide[int(np.argmax([min(r, 1e300) + 1e-9 * widths[i] for r, i in zip(reach, wide, strict=True)]))]
        if max(reach) <= box.bound:  # no resource matters: halve the widest
            chosen = max(wide, key=lambda i: widths[i])
        return self._halves(box, chosen)

    def _halves(self, box: Box, i: int) -> list[Box]:
        poor, rich = box.poor[i], box.rich[i]
        if self.free[i].values:
            middle = (poor + rich) / 2
            inner = (math.floor(middle), math.floor(middle) + 1)
            ends = (inner[0], inner[1]) if rich > poor else (inner[1], inner[0])
        else:
            ends = ((poor + rich) / 2,) * 2
        first = Box(box.bound, next(self.numbers), box.fixed, box.poor, _with(box.rich, i, ends[0]))
        second = Box(box.bound, next(self.numbers), box.fixed, _with(box.poor, i, ends[1]), box.rich)
        return [first, second]

    # -- the loop --------------------------------------------------------------------------------------------

    def run(self, trials: int, progress: Callable[[int, int], Any] | None) -> Proof:
        waiting = self.bounded(self.roots())
        looked = len(waiting)
        self.tried(waiting)
        heapq.heapify(waiting)
        while waiting and looked < trials and self.open(waiting[0].bound):
            chosen = [heapq.heappop(waiting) for _ in range(min(TOGETHER, len(waiting)))]
            halves = [half for box in chosen if self.open(box.bound) for half in self.split(box)]
            left = self.bounded(halves)
            looked += len(halves)
            self.tried(left)
            for box in left:
                if self.open(box.bound):
                    heapq.heappush(waiting, box)
            if progress is not None:
                progress(min(looked, trials), trials)
        self.lean()
        return self.proof(waiting, looked)

    def lean(self) -> None:
        """Take from the best hardware what its objective does not need, one resource after the other.

        Every step is a design that can be bought and is exactly as good, so the table names the leanest of equals.
        """
        good = [(p, a) for p, a in self.solved.values() if a.front and self.sign * a.front[0][0][0] <= self.best]
        if not good:
            return
        point = good[0][0]
        for v in self.free:
            if v.place.field == "capacity":  # room to spare is worth having: what a design holds is uncertain too
                continue
            low, high = self._leaner(v, point[v.name])
            for _ in range(20):
                middle = (low + high) // 2 if v.values else (low + high) / 2
                if middle in (low, high):
                    break
                if self._as_good({**point, v.name: self._at(v, middle)}):
                    high = middle
                else:
                    low = middle
            ends = [end for end in (low, high) if self._as_good({**point, v.name: self._at(v, end)})]
            point = {**point, v.name: self._at(v, ends[0])} if ends else point

    def _leaner(self, v: HardwareVariable, now: Any) -> tuple[float, float]:
        """The poorest place of a variable, and the place it has."""
        if v.values:
            return (0 if direction(v) > 0 else len(v.values) - 1), v.shown.index(now)
        share = math.log(now / v.low) / math.log(v.high / v.low) if v.log else (now - v.low) / (v.high - v.low)
        return (0.0 if direction(v) > 0 else 1.0), share

    def _at(self, v: HardwareVariable, place: float) -> Any:
        return v.shown[int(place)] if v.values else self._value(v, min(max(place, 0.0), 1.0))

    def _as_good(self, point: dict[str, Any]) -> bool:
        if not self.affordable([point])[0]:
            return False
        self.note([point])
        answer = self.solved[tuple(point.values())][1]
        return bool(answer.front) and self.sign * answer.front[0][0][0] <= self.best

    def proof(self, waiting: Sequence[Box], looked: int) -> Proof:
        known = list(self.solved.values())
        points, answers = [p for p, _ in known], [a for _, a in known]
        open_bound = min((box.bound for box in waiting), default=math.inf)
        open_bound = min(open_bound, self.beyond)
        bound = min(open_bound, self.best - self.tolerance * abs(self.best)) if math.isfinite(self.best) else open_bound
        closed = math.isinf(open_bound) or not self.open(open_bound)
        gap = abs(self.best - bound) / abs(self.best) if math.isfinite(self.best) else math.inf
        if not math.isfinite(self.best):
            stopped = (
                "proved: nothing in the space is feasible" if closed else f"{looked:,} boxes hold nothing feasible"
            )
        else:
            word = "proved" if closed else f"after {looked:,} boxes"
            stopped = f"{word}: nothing in the space is better by more than {gap:.2%}"
        return Proof(points, answers, self.sign * bound, self.sign * self.best, looked, stopped)


def _with(values: tuple[float, ...], place: int, value: float) -> tuple[float, ...]:
    return (*values[:place], float(value), *values[place + 1 :])
