"""Solving hardware designs for a search, from the cache where they are known, and what a sampler is told of them."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dse.explore.search.cache import Cache, identity, key
from dse.explore.search.inner import Inner, solve
from dse.explore.search.outcome import Outcome
from dse.explore.search.problem import Problem

ILLEGAL = 1e3  # violation of hardware on which no strategy is legal: worse than any budget missed


class Evaluator:
    """Solves hardware designs of one problem; may be sent to other processes.

    Args:
        problem: what is searched.
        cache: file of known answers; None keeps none.
    """

    def __init__(self, problem: Problem, cache: Any) -> None:
        self.problem = problem
        self.identity = identity(problem)
        # What quantities of the user's own depend on (closures, globals) is not known: their answers are not kept.
        self.cache = Cache(cache) if cache is not None and not problem.replace else None

    def __getstate__(self) -> dict[str, Any]:
        from dse.spec import calibration

        active = calibration.active()
        sent = active.path.read_bytes() if active.path is not None else b""
        return {**self.__dict__, "_sent": (active.id, sent, socket.gethostname())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up the calibration of the sender: a worker elsewhere may have another one."""
        import tempfile
        from pathlib import Path

        from dse.spec import calibration

        name, sent, host = state.pop("_sent")
        self.__dict__.update(state)
        if host != socket.gethostname():  # a file of answers is no place to meet: SQLite does not lock over networks
            self.cache = None
        if sent and calibration.active().id != name:
            path = Path(tempfile.mkdtemp(prefix="dse-")) / calibration.NAME
            path.write_bytes(sent)
            calibration.use(path)

    def answers(self, points: Sequence[Mapping[str, Any]]) -> list[Inner]:
        """The inner problem's answer for each hardware design; those not known are solved together and kept."""
        keys = [key(self.identity, point) for point in points]
        known = self.cache.get(keys) if self.cache else {}
        missing = [i for i, k in enumerate(keys) if k not in known]
        solved = solve(self.problem, [points[i] for i in missing]) if missing else []
        if self.cache and solved:
            self.cache.put([(keys[i], inner.to_dict()) for i, inner in zip(missing, solved, strict=True)])
        found: dict[int, Inner] = dict(zip(missing, solved, strict=True))
        return [found[i] if i in found else Inner.from_dict(known[k]) for i, k in enumerate(keys)]

    def __call__(self, point: Mapping[str, Any]) -> Outcome:
        """One hardware design, as a sampler is told of it."""
        return outcome(self.problem, self.answers([point])[0])

    def many(self, points: Sequence[Mapping[str, Any]]) -> list[Outcome]:
        """Several hardware designs, solved together."""
        return [outcome(self.problem, answer) for answer in self.answers(points)]


def outcome(problem: Problem, answer: Inner) -> Outcome:
    """What a sampler is told of a hardware design.

    With one objective, its best value. With several, the point of the inner front that is nearest to the front's own
    best values (least largest share of the front's extent lost in any objective): the sampler sees one strategy for
    each hardware design, the search keeps the whole inner front.
    """
    names = ["memory_fits", *(c.text for c in problem.constraints)]
    payload = {"answer": answer.to_dict()}
    if answer.front:
        values = np.array([values for values, _ in answer.front]) * [o.sign for o in problem.objectives]
        extent = np.ptp(values, axis=0)
        lost = (values - values.min(axis=0)) / np.where(extent > 0, extent, 1.0)
        chosen = answer.front[int(np.argmin(lost.max(axis=1)))][0]
        return Outcome(tuple(chosen), dict.fromkeys(names, 0.0), payload)
    if answer.nearest is None:
        return Outcome(None, dict.fromkeys(names, ILLEGAL), payload)
    scales = {"memory_fits": 1e11, **{c.text: max(abs(c.value), 1e-12) for c in problem.constraints}}
    broken = {name: max(-answer.nearest[1].get(name, 0.0), 0.0) / scales[name] for name in names}
    return Outcome(None, broken, payload)
