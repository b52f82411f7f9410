"""The answers of a search as they come, for a process that tells them to another one."""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from dse.app.process import ANSWERS, SCENE
from dse.explore.search import driver, pareto, run
from dse.explore.search.evaluate import Evaluator
from dse.explore.search.inner import Inner
from dse.explore.search.record import Record, Snapshot

SHOWN = 400  # designs that are told besides those on the front, so that what the parent draws stays small
Answer = tuple[int, dict[str, Any], Inner]  # trial, hardware design, what was found on it


class Answers:
    """Answers of a search as they come, from any thread.

    Those on the front of all that is known are told, and the first ``SHOWN`` of the others: what was told stays true,
    so that only news is sent, and the parent's drawing stays fast.

    Args:
        method: as asked for.
        recorded: whether the search keeps a record that holds every answer, those of earlier runs included.
    """

    def __init__(self, method: str, seed: int, recorded: bool) -> None:
        self.method, self.seed, self.recorded = method, seed, recorded
        self.limit = 0
        self._problem: Any = None
        self._heard = self._read = self._count = self._others = 0
        self._news: list[Answer] = []
        self._front: list[Answer] = []
        self._told: set[int] = set()
        self._opened = False
        self._lock = threading.Lock()

    def opened(self, problem: Any) -> None:
        """The problem is bound."""
        if self._problem is None:
            self._problem = problem
            self.method = run.chosen_method(problem, self.method)
            self.recorded = self.recorded and self.method not in ("exhaustive", "bound")

    def answered(self, points: Sequence[Mapping[str, Any]], answers: Sequence[Any]) -> None:
        """Answers that were found by this process."""
        if self.recorded:
            return
        with self._lock:
            for point, answer in zip(points, answers, strict=True):
                trial = self._place(point) if self.method == "exhaustive" else self._heard
                self._heard += 1
                self._news.append((trial, dict(point), answer))

    def read(self, snapshot: Snapshot) -> None:
        """The record at one moment; it only grows."""
        if not self.recorded or len(snapshot.done) == self._read:
            return
        new = list(islice(snapshot.done.items(), self._read, None))
        self._read += len(new)
        found = [(slot, dict(p), Inner.from_dict(outcome.payload["answer"])) for slot, (p, outcome) in new]
        with self._lock:
            self._news += found

    def _place(self, point: Mapping[str, Any]) -> int:
        """When the enumeration comes upon a design: the last variable is the fastest."""
        place = 0
        for v in self._problem.variables:
            place = place * len(v.shown) + v.positions[point[v.name]]
        return place

    def tell(self, send: Callable[[bytes, bytes], None]) -> None:
        """Send what is new."""
        with self._lock:
            news, self._news = self._news, []
            if self.recorded:  # slots beyond the limit are another process' with more trials
                self._news += [item for item in news if item[0] >= self.limit]
                news = [item for item in news if item[0] < self.limit]
        if not news:
            return
        if not self._opened:
            send(SCENE, pickle.dumps((self._problem, self.method, self.seed)))
            self._opened = True
        self._count += len(news)
        self._front = self._best([*self._front, *news])
        chosen = [item for item in self._front if item[0] not in self._told]
        self._told |= {trial for trial, _, _ in chosen}
        others = [item for item in news if item[0] not in self._told][: SHOWN - self._others]
        self._others += len(others)
        self._told |= {trial for trial, _, _ in others}
        send(ANSWERS, pickle.dumps((self._count, [*chosen, *others])))

    def _best(self, items: list[Answer]) -> list[Answer]:
        """The items with a strategy on the front of all of them."""
        rows = [(place, values) for place, (_, _, answer) in enumerate(items) for values, _ in answer.front]
        if not rows:
            return []
        signs = [o.sign for o in self._problem.objectives]
        chosen = pareto.front(np.array([values for _, values in rows]) * signs)
        return [items[place] for place in sorted({rows[i][0] for i in chosen})]


_answers: Answers | None = None  # None in the worker processes that a search may start from here


class Heard(Evaluator):
    """An evaluator whose answers are told."""

    def __init__(self, problem: Any, cache: Any) -> None:
        super().__init__(problem, cache)
        if _answers is not None:
            _answers.opened(problem)

    def answers(self, points: Sequence[Mapping[str, Any]]) -> list[Any]:
        found = super().answers(points)
        if _answers is not None:
            _answers.answered(points, found)
        return found


class HeardRecord(Record):
    """A record of which every look is told."""

    def read(self) -> Snapshot:
        snapshot = super().read()
        if _answers is not None:
            _answers.read(snapshot)
        return snapshot


@contextlib.contextmanager
def listening(answers: Answers | None) -> Iterator[None]:
    """Hear the answers of the search that runs meanwhile.

    A search reports counts only. This process runs nothing else, so that what the search makes its evaluator and its
    record of can be replaced here without touching the search of anyone.
    """
    global _answers
    _answers = answers
    run.Evaluator, driver.Record = Heard, HeardRecord  # type: ignore[misc]
    try:
        yield
    finally:
        _answers = None
        run.Evaluator, driver.Record = Evaluator, Record  # type: ignore[misc]
