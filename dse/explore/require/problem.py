"""How well designs meet the targets, for many values of the varied fields at once.

The values lie along the first axis of every array; the axes of all strategies, where the best one is taken for each
value, follow it. A score is the relative margin of the condition that is kept worst.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dse.accuracy.intervals import quantile
from dse.accuracy.uncertainty import NORMAL
from dse.cost.graph import Evaluation, Quantity
from dse.explore.best import Space, strategy_space
from dse.explore.boxes import Box, cover, narrow, tiles
from dse.explore.evaluate import feasible, violations
from dse.explore.objectives import TIME_POWER, Condition, log_deviation, quantity_value
from dse.explore.require.field import Field
from dse.explore.result import Result
from dse.space.axes import with_value
from dse.spec import calibration

BLOCK = 1 << 18  # designs evaluated at once: all cases of them fit in memory
SURVEY = 1 << 23  # designs whose rules are looked at together
CHUNK = 1 << 13  # points at once where there is one strategy
MEMORY = ("memory_bytes", "memory_headroom")
_NORMAL_90 = 1.6448536269514722  # σ is scaled so that this many make the 90 % interval


@dataclass(frozen=True)
class Case:
    """How far predictions are taken to be off, in standard deviations of their logarithm against the target."""

    name: str
    deviations: float


def cases(level: float, probability: float) -> tuple[Case, ...]:
    """The prediction, the ends of its interval, and what holds with a probability."""
    from scipy.stats import norm

    table = calibration.active().errors.get("quantiles", NORMAL)
    width = _NORMAL_90 * quantile(table, level) / quantile(table, 0.9)
    return (
        Case("point", 0.0),
        Case("optimistic", -width),
        Case("pessimistic", width),
        Case("probable", float(norm.ppf(probability))),
    )


def shifted(c: Condition, value: Any, sigma: Any, deviations: float) -> Any:
    """A quantity that is off by some deviations against the condition; headroom by what is held, 1 − headroom."""
    if deviations == 0.0 or (np.ndim(sigma) == 0 and sigma == 0.0):
        return value
    if c.name == "memory_headroom":
        return 1.0 - (1.0 - value) * np.exp((-1.0 if c.at_most else 1.0) * deviations * sigma)
    return value * np.exp((1.0 if c.at_most else -1.0) * deviations * sigma)


def relative(c: Condition, value: Any) -> Any:
    """Margin of a condition over its bound (over 1 where the bound is 0); negative where it is broken."""
    return (c.value - value if c.at_most else value - c.value) / (abs(c.value) or 1.0)


def reached(c: Condition, score: Any) -> Any:
    """The quantity behind the relative margin of one condition."""
    return c.value + (-1.0 if c.at_most else 1.0) * np.asarray(score) * (abs(c.value) or 1.0)


@dataclass
class Problem:
    """Targets, the fields that vary, and the designs that may meet the targets.

    Attributes:
        conditions: all must hold.
        fields: what varies.
        specs: the design as it is.
        choice: arguments of ``strategy_space`` where the best strategy is taken for each value; None: it is fixed.
        devices_given: whether the cluster's count holds, or follows from the strategy.
        replace: quantities of the user's own.
        level: of the interval.
        probability: that each condition holds with in the last case.
        cases: how far off predictions are taken to be; the prediction first.
    """

    conditions: tuple[Condition, ...]
    fields: tuple[Field, ...]
    specs: dict[str, Any]
    choice: dict[str, Any] | None
    devices_given: bool
    replace: tuple[Quantity, ...]
    level: float = 0.9
    probability: float = 0.9
    evaluated: int = 0
    cases: tuple[Case, ...] = field(init=False)
    _spaces: dict[tuple[float, ...], Space] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cases = cases(self.level, self.probability)

    def scores(self, points: Any) -> np.ndarray:
        """Best score over all strategies for each point and case.

        Args:
            points: (fields, n) values.

        Returns:
            (cases, n): ≥ 0 where all conditions and rules hold, −inf where nothing legal fits in memory, NaN where
            nothing is legal.
        """
        return self._run(np.asarray(points, float), choose=False)[0]

    def designs(self, points: Any) -> list[Result]:
        """The design with the highest score of the prediction at each point."""
        points = np.asarray(points, float)
        _, chosen = self._run(points, choose=True)
        return [self._design(point, int(index)) for point, index in zip(points.T, chosen, strict=True)]

    def strategies(self, points: Any) -> list[dict[str, Any]]:
        """The enumerated fields of the best strategy at each point; empty where the strategy is fixed."""
        points = np.asarray(points, float)
        _, chosen = self._run(points, choose=True)
        return [self._strategy(point, int(index)) for point, index in zip(points.T, chosen, strict=True)]

    # -- spaces -----------------------------------------------------------------------------------------------------

    def alone(self, item: Field) -> bool:
        """Does each value need an evaluation of its own: another model, or other strategies to choose from?"""
        shaping = item.whole is not None and item.place.root in ("model", "cluster")
        return item.structural or (shaping and self.choice is not None)

    def _fixed(self, point: Sequence[float]) -> dict[int, Any]:
        """Values, by the field's position, of the fields that need an evaluation of their own."""
        single = [(i, f) for i, f in enumerate(self.fields) if self.alone(f)]
        return {i: f.typed(point[i]).item() for i, f in single}

    def space(self, point: Sequence[float]) -> Space:
        """The strategies to choose from at a point; one without axes where the strategy is fixed."""
        fixed = self._fixed(point)
        key = tuple(fixed.values())
        if key not in self._spaces:
            specs = dict(self.specs)
            for i, value in fixed.items():
                specs[self.fields[i].place.root] = _put(specs, self.fields[i], value)
            found = Space(specs, (), self.devices_given, self.replace)
            if self.choice is not None:
                devices = specs["cluster"].devices
                found = strategy_space(specs["model"], specs["cluster"], **{**self.choice, "devices": devices})
                both = {**found.specs, "model": specs["model"], "cluster": specs["cluster"], "stack": specs["stack"]}
                found = replace(found, specs=both, devices_given=True, replace=self.replace)
            self._spaces[key] = found
        return self._spaces[key]

    def size(self, points: np.ndarray) -> int:
        """Designs that points, (fields, n), stand for: themselves, or all strategies of each."""
        return sum(space.size * len(chosen) for space, chosen in self._chunks(points))

    def _chunks(self, points: np.ndarray) -> Iterator[tuple[Space, np.ndarray]]:
        """Spaces, and indices of some points that share each."""
        groups: dict[tuple[float, ...], list[int]] = {}
        for index, point in enumerate(points.T):
            groups.setdefault(tuple(self._fixed(point).values()), []).append(index)
        for members in groups.values():
            space = self.space(points[:, members[0]])
            step = min(256, max(SURVEY // space.size, 1)) if space.axes else CHUNK
            for start in range(0, len(members), step):
                yield space, np.array(members[start : start + step])

    def _at(self, space: Space, points: np.ndarray) -> Space:
        """The space with the values of points, (fields, n), along one axis before its own."""
        specs = dict(space.specs)
        for f, values in zip(self.fields, points, strict=True):
            if not self.alone(f):
                specs[f.place.root] = _put(specs, f, f.typed(values).reshape(-1, *(1,) * len(space.axes)))
        return replace(space, specs=specs)

    def _tasks(self, space: Space, points: np.ndarray) -> Iterator[tuple[slice, Box]]:
        """Slices of points and boxes of strategies of at most about ``BLOCK`` designs that hold all legal ones."""
        count = points.shape[1]
        if not space.axes:
            yield slice(0, count), ()
            return
        surveyed = self._at(space, points)
        for piece in space.blocks(SURVEY):
            sides = tuple(np.arange(n)[part] for n, part in zip(space.shape, piece, strict=True))
            with np.errstate(all="ignore"):
                mask = np.asarray(_legal(violations(surveyed.evaluate(sides))))
            mask = mask.reshape((1,) * (1 + len(sides) - mask.ndim) + mask.shape).any(axis=0, keepdims=True)
            for _, *around in cover(mask, [count, *(len(side) for side in sides)]):
                box = narrow(sides, around)
                for part, *tile in tiles([count, *(len(side) for side in box)], BLOCK):
                    yield part, narrow(box, tile)

    def _run(self, points: np.ndarray, *, choose: bool) -> tuple[np.ndarray, np.ndarray]:
        scores = np.full((len(self.cases), points.shape[1]), np.nan)
        best = np.zeros(points.shape[1], dtype=np.int64)
        tasks = [
            (space, chosen[part], box)
            for space, chosen in self._chunks(points)
            for part, box in self._tasks(space, points[:, chosen])
        ]
        self.evaluated += self.size(points)

        def work(task: tuple[Space, np.ndarray, Box]) -> tuple[np.ndarray, np.ndarray]:
            space, chosen, box = task
            return self._block(self._at(space, points[:, chosen]), box, len(chosen), choose=choose)

        with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
            for (_, chosen, _), (found, where) in zip(tasks, pool.map(work, tasks), strict=True):
                worth, before = (np.nan_to_num(s, nan=-np.inf) for s in (found[0], scores[0, chosen]))
                first = (worth == before) & (where < best[chosen])  # of equals, the first on the axes
                best[chosen] = np.where((worth > before) | first, where, best[chosen])
                scores[:, chosen] = np.fmax(scores[:, chosen], found)
        return scores, best

    def _block(self, space: Space, box: Box, count: int, *, choose: bool) -> tuple[np.ndarray, np.ndarray]:
        """Best scores, (cases, count), of one box of strategies, and which strategy of the space has the first."""
        shape = (count, *(len(side) for side in box))
        where = np.zeros(count, np.int64)
        with np.errstate(all="ignore"):  # designs that break rules may have any numbers
            evaluation = space.evaluate(box)
            margins = violations(evaluation)
            legal = np.broadcast_to(_legal(margins), shape)
            fits = np.logical_and(legal, np.greater_equal(margins["memory_fits"], 0))
            if not fits.any():
                none = np.where(legal.reshape(count, -1).any(axis=1), -np.inf, np.nan)
                return np.tile(none, (len(self.cases), 1)), where
            unfit = np.where(legal, -np.inf, np.nan)
            found = np.empty((len(self.cases), count))
            for i, values in enumerate(self._margins(evaluation)):
                score = np.where(fits & (values == values), values, unfit).reshape(count, -1)
                found[i] = np.fmax.reduce(score, axis=1)
                if i == 0 and choose and box:
                    flat = np.argmax(np.nan_to_num(score, nan=-np.inf), axis=1)
                    inside = np.unravel_index(flat, shape[1:])
                    places = [side[place] for side, place in zip(box, inside, strict=True)]
                    where = np.ravel_multi_index(places, space.shape)
        return found, where

    def _margins(self, evaluation: Evaluation) -> Iterator[Any]:
        """Relative margin of the worst condition, for each case."""
        deviations: dict[str, Any] = {}
        values = []
        for c in self.conditions:
            kind = "memory" if c.name in MEMORY else "time" if c.name in TIME_POWER else ""
            if kind and kind not in deviations:
                deviations[kind] = log_deviation(evaluation, c.name)
            values.append((c, quantity_value(evaluation, c.name), deviations.get(kind, 0.0)))
        for case in self.cases:
            worst: Any = np.inf
            for c, value, sigma in values:
                worst = np.minimum(worst, relative(c, shifted(c, value, sigma, case.deviations)))
            yield worst

    # -- single designs ---------------------------------------------------------------------------------------------

    def _strategy(self, point: np.ndarray, index: int) -> dict[str, Any]:
        space = self.space(point)
        return space.strategy_at(np.unravel_index(index, [len(b.values) for b in space.axes])) if space.axes else {}

    def _design(self, point: np.ndarray, index: int) -> Result:
        specs = dict(self.space(point).specs)
        for f, value in zip(self.fields, point, strict=True):
            specs[f.place.root] = _put(specs, f, f.typed(value).item())
        specs["strategy"] = specs["strategy"].model_copy(update=self._strategy(point, index))
        return Result(specs, [], devices_given=self.devices_given, replace=self.replace)


def _legal(margins: Mapping[str, Any]) -> Any:
    """True where every rule but the memory's holds."""
    return feasible({name: margin for name, margin in margins.items() if name != "memory_fits"})


def _put(specs: Mapping[str, Any], item: Field, value: Any) -> Any:
    return with_value(specs[item.place.root], item.place.steps, value)
