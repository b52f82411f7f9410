"""The landscape of the best: every point of two axes with the strategy that is best there.

The strategies of a row of points are priced as one array; which one wins is kept for every point, and the points are
then priced again with their own strategies, so that rules, reasons and any quantity are there as in any other result.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dse.app.controls import axis_of
from dse.app.designs import space_of
from dse.app.state import State
from dse.explore.evaluate import bind_axes, feasible, violations
from dse.explore.exhaustive import Space
from dse.explore.objectives import objective
from dse.explore.result import Result


class Envelope:
    """The best strategies over two axes of a state, row by row.

    Args:
        x, y: paths of controls; ``points`` values of each are taken.

    Attributes:
        rows: how many steps :meth:`step` takes.
        designs: how many designs are priced in all.
    """

    def __init__(self, state: State, x: str, y: str, points: int) -> None:
        self._goal = objective(state.view.objectives[0])
        chosen = [axis_of(state, path, points) for path in (x, y)]
        self._bound = tuple(bind_axes(state.design.specs, chosen, state.design.devices))
        space = space_of(state)
        own = {(b.place.root, b.place.steps) for b in self._bound}
        varied = tuple(b for b in space.axes if (b.place.root, b.place.steps) not in own)
        specs = {**space.specs, "model": state.design.specs["model"], "cluster": state.design.specs["cluster"]}
        self._space = Space(specs, (*self._bound, *varied))
        shape = tuple(len(b.values) for b in self._bound)
        self._fields = {b.name: np.empty(shape, dtype=np.asarray(b.values).dtype) for b in varied}
        self.rows, self.designs = shape[0], self._space.size

    def step(self, row: int) -> None:
        """Find the best strategies of one row of points; where none is feasible the one that needs least memory."""
        every = [np.arange(length) for length in self._space.shape]
        every[0] = np.array([row])
        evaluation = self._space.evaluate(every)
        shape = (1, *self._space.shape[1:])
        fits = np.broadcast_to(feasible(violations(evaluation)), shape).reshape(shape[1], -1)
        score = self._goal.sign * np.broadcast_to(self._goal.value(evaluation), shape).reshape(shape[1], -1)
        held = np.broadcast_to(evaluation["memory_bytes"], shape).reshape(shape[1], -1)
        score = np.where(fits & np.isfinite(score), score, np.inf)
        best = np.where(np.isfinite(score).any(axis=1), score.argmin(axis=1), held.argmin(axis=1))
        index = np.unravel_index(best, self._space.shape[2:])
        for b, places in zip(self._space.axes[2:], index, strict=True):
            self._fields[b.name][row] = np.asarray(b.values)[places]

    def result(self) -> Result:
        """The points, each with its strategy."""
        specs: dict[str, Any] = dict(self._space.specs)
        specs["strategy"] = specs["strategy"].model_copy(update=self._fields)
        return Result(specs, list(self._bound), devices_given=True)
