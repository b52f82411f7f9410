"""Runs a search: plans generations, has their points evaluated here or elsewhere, and keeps them in a record.

The result depends on the variables, the seed, the method, the batch and the evaluation only. Any number of processes
may run the same search on one storage at the same time; each returns the same log.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dse.errors import Fault, SpecError, StudyError
from dse.explore.search.outcome import Outcome
from dse.explore.search.planner import Planner, choose_method, default_batch
from dse.explore.search.record import Record, refuse_other_problem
from dse.explore.search.space import Point, Space, Variable
from dse.explore.search.storage import open_storage, shown
from dse.study.export import write_atomically

Evaluate = Callable[[Point], Outcome]
GRACE = 60.0  # s
POLL = (0.01, 0.5)  # s between looks at the record while others work, at first and at most
SUBMISSIONS = 3  # times that Dask may give a point up (each after the death of four workers) before the search does


@dataclass(frozen=True)
class Trial:
    """One evaluated point: its place in the plan, the value of each variable, and what came of it."""

    slot: int
    point: Point
    outcome: Outcome


@dataclass(frozen=True)
class Refusal:
    """How many trials a constraint refused, and by how little the closest of them misses it."""

    trials: int
    least: float


@dataclass(frozen=True)
class SearchLog:
    """The trials of a search in the order of the plan, the method that planned them, and why the search stopped."""

    trials: tuple[Trial, ...]
    method: str
    batch: int
    stopped: str

    @property
    def feasible(self) -> tuple[Trial, ...]:
        """The trials that meet every constraint."""
        return tuple(trial for trial in self.trials if trial.outcome.feasible)

    def refusals(self) -> dict[str, Refusal]:
        """What stood in the way, by constraint, the most frequent first: the reasons where no trial is feasible.

        Infeasible trials that name no constraint count under ``undefined``.
        """
        margins: dict[str, list[float]] = {}
        for trial in self.trials:
            broken = {name: m for name, m in trial.outcome.constraints.items() if not m <= 0}
            if not broken and not trial.outcome.defined:
                broken = {"undefined": float("inf")}
            for name, margin in broken.items():
                margins.setdefault(name, []).append(margin if margin == margin else float("inf"))
        ranked = sorted(margins.items(), key=lambda item: (-len(item[1]), item[0]))
        return {name: Refusal(len(found), min(found)) for name, found in ranked}


class History:
    """The plan so far against the results so far: tells the planner each generation once it is complete."""

    def __init__(self, planner: Planner, trials: int) -> None:
        self._planner = planner
        self._limit = trials
        self.points: list[Point] = []
        self._start = 0
        self._extend()

    @property
    def limit(self) -> int:
        """How many slots there will be in all."""
        size = self._planner.space.size
        return self._limit if size is None else min(self._limit, size)

    def current(self, done: Mapping[int, Any]) -> range:
        """The slots of the first generation that is not complete; empty when the search is."""
        while self._start < self.limit:
            slots = range(self._start, min(len(self.points), self.limit))
            if any(slot not in done for slot in slots):
                return slots
            self._check(done, slots)
            if slots.stop >= self.limit:
                break
            self._planner.tell([done[slot][1] for slot in slots])
            self._start = slots.stop
            self._extend()
        return range(self.limit, self.limit)

    def _extend(self) -> None:
        if self._start < self.limit:
            self.points += self._planner.plan()

    def _check(self, done: Mapping[int, tuple[Point, Outcome]], slots: range) -> None:
        for slot in slots:
            if done[slot][0] != self.points[slot]:
                raise StudyError(
                    f"trial {slot} of the record is {done[slot][0]}, but the plan has {self.points[slot]}: the record "
                    "was made by another version of the samplers (Optuna, NumPy, cmaes). Go on with that version, or "
                    "start in another folder"
                )

    def log(self, done: Mapping[int, tuple[Point, Outcome]], method: str) -> SearchLog:
        """The finished search."""
        found = tuple(Trial(slot, self.points[slot], done[slot][1]) for slot in range(self.limit))
        size = self._planner.space.size
        if size is not None and size <= self._limit:
            stopped = f"all {size} points of the space are evaluated"
        else:
            stopped = f"{self.limit} trials are done"
        return SearchLog(found, method, self._planner.batch, stopped)


def run_search(
    variables: Sequence[Variable],
    directions: Sequence[str],
    evaluate: Evaluate,
    *,
    trials: int,
    seed: int = 0,
    method: str = "auto",
    batch: int | None = None,
    folder: Path | str | None = None,
    storage: str | None = None,
    study_name: str = "search",
    executor: Any = None,
    progress: Callable[[int, int], None] | None = None,
    grace: float = GRACE,
    seconds_per_trial: float = 0.0,
    first: Sequence[Point] = (),
) -> SearchLog:
    """Search for the best points, resume such a search, or join one that runs elsewhere.

    Args:
        variables: the dimensions.
        directions: ``minimize`` or ``maximize`` for each objective.
        evaluate: from a point (name: value) to its outcome; deterministic. It runs once a slot, and again only when its
            worker died before the result was told. If it has a method ``many`` (points to outcomes), a search in
            memory without an executor gives it a generation at a time.
        trials: points to evaluate in all, those of earlier runs included.
        seed: of everything random, 0 to 2^32 - 1.
        method: ``nsga2``, ``nsga3``, ``cmaes``, ``tpe``, ``gp``, ``random``, ``qmc``, ``grid``, or ``auto``: the rule
            of :func:`choose_method`; where that says exhaustive, ``grid`` if there are trials for every point, else
            what it says of larger spaces.
        batch: points planned at a time (the population); by default :func:`default_batch`. It limits how many
            evaluations can run at once.
        folder: keeps ``search.json`` and, unless another storage is given, the journal. Without a folder and a storage
            the search is kept in memory.
        storage: where it is shared, see :mod:`dse.explore.search.storage`.
        study_name: of this search in the storage.
        executor: a Dask client or anything with ``submit``; evaluates a generation in parallel.
        progress: called with the numbers of trials done and to do.
        grace: seconds without a sign of life before a worker on another machine counts as dead.
        seconds_per_trial: what an evaluation costs, for ``auto``.
        first: points to begin with; part of the problem, like the seed.

    Returns:
        All trials in slot order, the same for any executor, number of processes and interruptions.

    Raises:
        SpecError: variables, directions, method or storage that cannot be.
        StudyError: the folder or storage holds another search, or fails.
    """
    if trials < 1:
        raise SpecError([Fault("search.trials", str(trials), "must be at least 1")])
    space = Space(tuple(variables))
    chosen = _method(method, space, len(directions), trials, seconds_per_trial)
    size = default_batch(chosen, len(space.variables), len(directions)) if batch is None else batch
    planner = Planner(space.variables, directions, seed=seed, method=chosen, batch=size, first=first)
    problem = _described(space, directions, seed, chosen, size)
    folder = None if folder is None else Path(folder)
    if folder is not None:
        _keep_problem(folder / "search.json", problem)
    history = History(planner, trials)
    run = _runner(evaluate, executor)
    if folder is None and storage is None:
        return _in_memory(history, chosen, run, progress)
    storage = storage or "journal"
    where = str(folder) if storage == "journal" else shown(storage)
    width = 1 if executor is None else size
    with (
        open_storage(storage, folder) as opened,
        Record(opened, where, study_name, space, directions, problem, grace) as record,
    ):
        return _shared(history, chosen, record, run, width, progress)


def _method(method: str, space: Space, objectives: int, trials: int, seconds: float) -> str:
    if method != "auto":
        return method
    continuous = not any(variable.values for variable in space.variables)
    chosen = choose_method(space.size, objectives, continuous, seconds)
    if chosen != "exhaustive":
        return chosen
    if space.size is not None and trials >= space.size:
        return "grid"
    return choose_method(None, objectives, continuous, seconds)


def _described(space: Space, directions: Sequence[str], seed: int, method: str, batch: int) -> dict[str, Any]:
    return {
        "batch": batch,
        "directions": list(directions),
        "method": method,
        "seed": seed,
        "variables": [asdict(variable) for variable in space.variables],
    }


def _keep_problem(path: Path, problem: Mapping[str, Any]) -> None:
    """Write what is searched beside the search; refuse to go on with another one."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        text = json.dumps(problem, indent=2, sort_keys=True) + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8") and None)
    except (OSError, ValueError) as error:
        raise StudyError(f"cannot read {path}: {error}") from None
    else:
        if not isinstance(stored, dict):
            raise StudyError(f"cannot read {path}: not the description of a search")
        refuse_other_problem(str(path), stored, problem)


Run = Callable[[Mapping[int, Point]], Iterable[tuple[int, Outcome]]]


def _runner(evaluate: Evaluate, executor: Any) -> Run:
    """From points by slot to their outcomes by slot, as they come."""
    if executor is None and hasattr(evaluate, "many"):
        return lambda points: zip(points, map(_plain, evaluate.many(list(points.values()))), strict=True)
    if executor is None:
        return lambda points: ((slot, _plain(evaluate(point))) for slot, point in points.items())
    deaths: tuple[type[Exception], ...] = ()
    if hasattr(executor, "get_executor"):
        from distributed import KilledWorker

        executor, deaths = executor.get_executor(pure=False), (KilledWorker,)
    return lambda points: _parallel(points, evaluate, executor, deaths)


def _parallel(
    points: Mapping[int, Point], evaluate: Evaluate, executor: Any, deaths: tuple[type[Exception], ...]
) -> Iterable[tuple[int, Outcome]]:
    left = dict.fromkeys(points, SUBMISSIONS)
    slots: dict[Future, int] = {}
    try:
        slots.update((executor.submit(evaluate, point), slot) for slot, point in points.items())
        while slots:
            future = next(as_completed(slots))
            slot = slots.pop(future)
            try:
                outcome = future.result()
            except deaths as error:
                # Dask gives a task up after a few dead workers, although it need not be the task that killed them.
                left[slot] -= 1
                if not left[slot]:
                    raise StudyError(f"workers died evaluating {points[slot]}, again and again: {error}") from error
                slots[executor.submit(evaluate, points[slot])] = slot
            else:
                yield slot, _plain(outcome)
    except BrokenExecutor as error:
        raise StudyError(f"a worker process died, and its pool with it: {error}. The same search goes on") from error
    finally:
        for future in slots:
            future.cancel()


def _plain(outcome: Outcome) -> Outcome:
    """The outcome as a record would give it back, so that fresh and resumed searches agree to the last bit."""
    return Outcome.decode(outcome.encode())


def _in_memory(history: History, method: str, run: Run, progress: Callable[[int, int], None] | None) -> SearchLog:
    done: dict[int, tuple[Point, Outcome]] = {}
    while slots := history.current(done):
        for slot, outcome in run({slot: history.points[slot] for slot in slots}):
            done[slot] = (history.points[slot], outcome)
            if progress is not None:
                progress(len(done), history.limit)
    return history.log(done, method)


def _shared(
    history: History, method: str, record: Record, run: Run, width: int, progress: Callable[[int, int], None] | None
) -> SearchLog:
    wait = POLL[0]
    snapshot = record.read()
    while slots := history.current(snapshot.done):
        if record.reclaim(snapshot, slots):
            snapshot = record.read()
        claimed: int | None = 0
        while claimed is not None and len(record.held(snapshot, slots)) < width:
            claimed, snapshot = record.claim(snapshot, slots, history.limit)
        mine = record.held(snapshot, slots)
        for slot, outcome in run({slot: history.points[slot] for slot in mine}):
            record.finish(slot, history.points[slot], outcome)
            snapshot = record.read()
            if progress is not None:
                progress(min(len(snapshot.done), history.limit), history.limit)
        if mine:
            wait = POLL[0]
        else:
            time.sleep(wait)
            wait = min(1.5 * wait, POLL[1])
            snapshot = record.read()
    return history.log(snapshot.done, method)
