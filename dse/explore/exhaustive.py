"""Exhaustive search of a space on named axes, in which only the designs that can win are timed.

A funnel of ever smaller sets, each computed on the few axes that it depends on:

1. rules that need no operators (divisibility, degrees, schedules): what is legal;
2. memory, and the bound of the objective (see :mod:`dse.explore.bounds`), of the boxes around what is legal;
3. the objective itself, of the boxes around what fits and can still be among the best, most promising first.

Boxes and masks are those of :mod:`dse.explore.boxes`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dse.cost.graph import Evaluation, Graph, Quantity
from dse.explore.bounds import relaxed
from dse.explore.boxes import Box, count_true, cover, mask_at, narrow, tiles
from dse.explore.evaluate import RULES, BoundAxis, feasible, price, violations
from dse.explore.objectives import DIRECTIONS, Objective
from dse.explore.objectives import objective as read_objective
from dse.space.axes import with_value
from dse.space.symmetry import representatives

BLOCK = 1 << 20  # designs evaluated at once: few enough for memory, many enough to hide the cost of calls
SURVEY = 1 << 18  # cells of the survey at once: their arrays fit the cache
SMALL = 1 << 20  # designs up to which a plain evaluation is quicker than the steps of the funnel
SLACK = 1e-9  # relative room for rounding between a bound and the value that it bounds
# Quantities with a proved bound (see ``dse.explore.bounds``), and whether less is better.
OBJECTIVES = {
    "step_time": True,
    "tokens_per_s": False,
    "mfu": False,
    "cost": True,
    "energy": True,
    "carbon": True,
    "memory_bytes": True,
    "tokens_per_dollar": False,
    "tokens_per_joule": False,
}

Index = Sequence[slice | np.ndarray]
Ranked = tuple[float, tuple[int, ...]]


@dataclass(frozen=True)
class Space:
    """Bound axes of an enumeration and the specifications they vary."""

    specs: Mapping[str, Any]
    axes: tuple[BoundAxis, ...]
    devices_given: bool = True
    replace: tuple[Quantity, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return tuple(len(b.values) for b in self.axes)

    @property
    def size(self) -> int:
        """Designs in the space, legal or not."""
        return math.prod(self.shape)

    def blocks(self, limit: int = BLOCK) -> Iterator[tuple[slice, ...]]:
        """Slices of the axes, outermost first, each of at most about ``limit`` designs."""
        return tiles(self.shape, limit)

    def evaluate(self, block: Index) -> Evaluation:
        """Price one block: every axis keeps its position, cut to its slice or positions."""
        changed = dict(self.specs)
        count = len(self.axes)
        for position, (b, part) in enumerate(zip(self.axes, block, strict=True)):
            shape = [1] * count
            values = np.asarray(b.values)[part]
            shape[position] = len(values)
            changed[b.place.root] = with_value(changed[b.place.root], b.place.steps, values.reshape(shape))
        return price(changed, devices_given=self.devices_given, replace=self.replace)

    def strategy_at(self, index: Sequence[int]) -> dict[str, Any]:
        """Field values of one design."""
        return {b.name: b.values[i] for b, i in zip(self.axes, index, strict=True)}


@dataclass
class Found:
    """Outcome of an enumeration: the best designs, and how many were set aside and why.

    Attributes:
        evaluated: designs of the space, all of which are accounted for.
        legal: those that satisfy every rule but the memory's.
        feasible: those that satisfy every rule.
        distinct: feasible designs of which none is like another (see :mod:`dse.space.symmetry`).
        bounded: distinct designs that were not timed because their bound is worse than the best found.
        timed: designs whose objective was computed.
        best: value and position on the axes of the best distinct designs, best first.
    """

    evaluated: int = 0
    legal: int = 0
    feasible: int = 0
    distinct: int = 0
    bounded: int = 0
    timed: int = 0
    best: list[Ranked] = field(default_factory=list)

    @property
    def too_large(self) -> int:
        """Legal designs that do not fit in memory: never timed."""
        return self.legal - self.feasible

    @property
    def symmetric(self) -> int:
        """Feasible designs that are like one before them."""
        return self.feasible - self.distinct

    def counts(self) -> dict[str, int]:
        """All counts by name."""
        names = ("evaluated", "legal", "too_large", "feasible", "symmetric", "distinct", "bounded", "timed")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Part:
    """A surveyed box: which designs fit, and the bound of their scores (less is better), on the axes they need."""

    box: Box
    fits: np.ndarray
    bound: np.ndarray
    least: float


def enumerate_space(
    space: Space, objective: str | Objective, *, top: int = 1, workers: int | None = None, prune: bool | None = None
) -> Found:
    """The ``top`` feasible designs of a space that are distinct, out of all designs.

    Ties are broken by position: the first design in the axes' order wins. Of designs that are alike the first in the
    axes' order stands for all. The outcome does not depend on ``workers``.

    Args:
        objective: any of :mod:`dse.explore.objectives`. Bounds are proved for the predictions of ``OBJECTIVES``; by
            others all that fits in memory is ranked. Designs count as alike where the objective is of ``DIRECTIONS``.
        workers: threads; by default one a core, or one for a pruned search, whose arrays are too small for more.
        prune: False times every feasible design; by default spaces of up to a million designs are timed at
            once, and larger ones pruned. The best designs and the counts (but ``bounded`` and ``timed``) are the same.
    """
    search = _Search(space, read_objective(objective), top)
    prune = space.size > SMALL if prune is None else prune
    workers = workers or (1 if prune else min(_cores(), 8))
    if workers == 1 or (space.size <= BLOCK and not prune):
        return search.run(map, prune=prune)
    with ThreadPoolExecutor(workers) as pool:
        return search.run(pool.map, prune=prune)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Search:
    """One enumeration: what does not change while it runs, and what has been found."""

    def __init__(self, space: Space, objective: Objective, top: int) -> None:
        self.space, self.objective, self.top = space, objective, top
        self.sign = objective.sign
        self.found = Found(evaluated=space.size)
        self.loose = relaxed(space)
        # Bounds are proved of predictions in their own direction: none says how long a step takes at most.
        proved = OBJECTIVES.get(objective.name) is objective.less and objective.risk == "point"
        self.bounded = self.loose is not None and proved
        self.whole = tuple(np.arange(length) for length in space.shape)
        self.alike: list[np.ndarray] = []
        # Alike by the cost model's own equations, in whatever has to do with performance, money and room.
        if self.loose is not None and objective.name in DIRECTIONS:
            fields = [(str(b.place.steps[-1]) if b.place.root == "strategy" else "", b.values) for b in space.axes]
            self.alike = representatives(fields, space.evaluate(self.whole).__getitem__)

    def run(self, apply: Callable[..., Iterable[Any]], *, prune: bool) -> Found:
        """Search with ``apply``, a ``map`` that may work in parallel."""
        if not prune:
            for best, counts in apply(self._plain, [narrow(self.whole, tile) for tile in self.space.blocks(BLOCK)]):
                self._add(best, counts)
            return self.found
        parts = [part for part in apply(self._survey, self._legal_boxes()) if part is not None]
        parts.sort(key=lambda part: part.least)
        if not parts:
            return self.found
        self._time(map, [(self._promising(parts[0]), parts[0])])
        # The number of parts in a wave does not depend on the workers, so that neither do the counts.
        done, wave = 0, 1
        while done < len(parts):
            limit = self._limit()
            now = [(box, part) for part in parts[done : done + wave] for box in self._candidates(part, limit)]
            self._time(apply, now)
            done, wave = done + wave, 2 * wave
        return self.found

    # -- stages of the funnel ------------------------------------------------------------------------------------

    def _legal_boxes(self) -> list[Box]:
        """Boxes around the designs that satisfy all rules but the memory's, in pieces for the survey."""
        pieces = []
        free = self._free_axes()
        for tile in self.space.blocks(BLOCK << 4):
            box = narrow(self.whole, tile)
            legal = self._legal(self.space.evaluate(box))
            lengths = [len(side) for side in box]
            self.found.legal += count_true([legal], lengths)
            weights = [1 if i in free else length for i, length in enumerate(lengths)]
            for around in cover(legal, weights):
                inner = narrow(box, around)
                sizes = [1 if i in free else len(side) for i, side in enumerate(inner)]
                for piece in tiles(sizes, SURVEY):
                    pieces.append(narrow(inner, [slice(None) if i in free else s for i, s in enumerate(piece)]))
        return pieces

    def _free_axes(self) -> set[int]:
        """Axes of strategy fields that neither the rules nor the bound depend on."""
        space = self.loose or self.space
        goals = (*RULES, self.objective.name) if self.bounded else RULES
        read = _reads(space.evaluate([slice(0, 1)] * len(space.axes)).graph, goals)
        return {
            i
            for i, b in enumerate(space.axes)
            if b.place.root == "strategy" and not {str(b.place.steps[-1]), "strategy"} & read
        }

    def _legal(self, evaluation: Evaluation) -> np.ndarray:
        margins = evaluation.get(name for name in RULES if name != "memory_fits")
        return self._array(feasible(margins))

    def _array(self, value: Any) -> np.ndarray:
        """With one dimension an axis, each as long as the axis or 1."""
        count = len(self.space.axes)
        return np.broadcast_to(value, np.broadcast_shapes(np.shape(value), (1,) * count))

    def _survey(self, box: Box) -> Part | None:
        """Memory and bound of one box; None where nothing fits."""
        evaluation = (self.loose or self.space).evaluate(box)
        fits = self._array(feasible(violations(evaluation)))
        if not np.any(fits):
            return None
        bound = self._array(self.sign * self.objective.value(evaluation) if self.bounded else -np.inf)
        least = float(np.min(np.where(fits, bound, np.inf)))
        return Part(box, fits, bound, least)

    def _promising(self, part: Part) -> Box:
        """A box around the cells of least bound, to have good designs to compare with."""
        bound = np.where(self._able(part, np.inf), part.bound, np.inf)
        count = min(max(self.top, 16), bound.size)
        cells = np.argpartition(bound, count - 1, axis=None)[:count]
        cells = cells[bound.ravel()[cells] < np.inf]
        sides = [np.unique(where) for where in np.unravel_index(cells, bound.shape)]
        around = [side if size > 1 else slice(None) for side, size in zip(sides, bound.shape, strict=True)]
        return self._without_duplicates(narrow(part.box, around))

    def _able(self, part: Part, limit: float) -> np.ndarray:
        """Designs of a part that fit and may reach a score; without duplicates where that needs no further axes."""
        able = part.fits & (part.bound <= limit)
        for mask in self._alike(part.box):
            if np.broadcast_shapes(mask.shape, able.shape) == able.shape:
                able = able & mask
        return able

    def _alike(self, box: Box) -> list[np.ndarray]:
        return [mask_at(mask, box) for mask in self.alike]

    def _limit(self) -> float:
        """Score that a design must be able to reach to be among the best."""
        if len(self.found.best) < self.top:
            return np.inf
        last = self.sign * self.found.best[-1][0]
        return last + SLACK * abs(last)

    def _candidates(self, part: Part, limit: float) -> list[Box]:
        """Boxes around the designs of a part that may be among the best; the others are counted."""
        lengths, alike = [len(side) for side in part.box], self._alike(part.box)
        able = self._able(part, limit)
        distinct = count_true([part.fits, *alike], lengths)
        self.found.feasible += count_true([part.fits], lengths)
        self.found.distinct += distinct
        self.found.bounded += distinct - count_true([able, *alike], lengths)
        return [self._without_duplicates(narrow(part.box, around)) for around in cover(able, lengths)]

    def _without_duplicates(self, box: Box) -> Box:
        """The box without the positions at which every design is like another one."""
        cut = list(box)
        for mask in self.alike:
            inside = mask_at(mask, box)
            for axis, size in enumerate(inside.shape):
                if size > 1:
                    others = tuple(i for i in range(inside.ndim) if i != axis)
                    cut[axis] = np.intersect1d(cut[axis], box[axis][inside.any(axis=others)])
        return tuple(cut)

    def _time(self, apply: Callable[..., Iterable[Any]], boxes: list[tuple[Box, Part]]) -> None:
        """Objective of all designs of some boxes."""
        tasks = []
        for box, part in boxes:
            for tile in tiles([len(side) for side in box], BLOCK):
                tasks.append((narrow(box, tile), part))
        for best, count in apply(self._timed, tasks):
            self._add(best, {"timed": count})

    def _timed(self, task: tuple[Box, Part]) -> tuple[list[Ranked], int]:
        box, part = task
        within = [np.searchsorted(outer, side) for outer, side in zip(part.box, box, strict=True)]
        allowed = [mask_at(part.fits, within), *self._alike(box)]
        return self._best_of(self.space.evaluate(box), box, allowed), math.prod(len(side) for side in box)

    def _plain(self, box: Box) -> tuple[list[Ranked], dict[str, int]]:
        """Everything about one box, in one evaluation."""
        evaluation, lengths = self.space.evaluate(box), [len(side) for side in box]
        legal = self._legal(evaluation)
        fits = self._array(feasible(violations(evaluation)))
        masks = [fits, *self._alike(box)]
        counts = {
            "legal": count_true([legal], lengths),
            "feasible": count_true([fits], lengths),
            "distinct": count_true(masks, lengths),
        }
        if not counts["feasible"]:
            return [], counts
        return self._best_of(evaluation, box, masks), {**counts, "timed": math.prod(lengths)}

    def _add(self, best: list[Ranked], counts: dict[str, int]) -> None:
        for name, count in counts.items():
            setattr(self.found, name, getattr(self.found, name) + count)
        self.found.best = sorted({*self.found.best, *best}, key=lambda item: (self.sign * item[0], item[1]))[: self.top]

    # -- ranking -------------------------------------------------------------------------------------------------

    def _best_of(self, evaluation: Evaluation, box: Box, allowed: list[np.ndarray]) -> list[Ranked]:
        """The best designs of a box; those of equal value in the order of their positions."""
        shape = tuple(len(side) for side in box)
        mask: Any = True
        for part in sorted(allowed, key=np.size):
            mask = np.logical_and(mask, part)
        value = self.objective.value(evaluation)
        score = np.where(mask, value if self.sign > 0 else -value, np.inf)
        flat = np.broadcast_to(score, shape).ravel()
        kept = min(self.top, flat.size)
        last = flat.min() if kept == 1 else np.partition(flat, kept - 1)[kept - 1]
        chosen = np.flatnonzero(flat <= last if last < np.inf else flat < np.inf)
        chosen = chosen[np.argsort(flat[chosen], kind="stable")[: self.top]]
        places = np.stack([side[i] for side, i in zip(box, np.unravel_index(chosen, shape), strict=True)], axis=-1)
        values = (self.sign * flat[chosen]).tolist()
        return [(value, tuple(place)) for value, place in zip(values, places.tolist(), strict=True)]


def _reads(graph: Graph, names: Iterable[str]) -> set[str]:
    """All quantities, fields and specifications that some quantities are computed from."""
    found: set[str] = set()
    queue = list(names)
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            queue.extend(graph.quantities[name].needs if name in graph.quantities else ())
    return found
