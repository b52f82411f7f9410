"""Long work in a process of its own: a search, a sweep, an analysis, a validation, with progress and a way to stop.

A thread would share the interpreter with whoever moves a slider; a process of low priority does not. It calls the
functions that anyone calls (:func:`dse.search`, :func:`dse.stream`, ``dse.sensitivity``), writes to the same folders,
and ends with the process that started it.

    job = Job.search(state, variables=[dse.span("cluster.memory.capacity", "40 GB", "160 GB")], objective="tco")
    job.start()
    job.status, job.partial()   # as often as you like
    job.result()                # waits
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import time
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dse.app.design import Design
from dse.app.process import Child
from dse.app.state import State
from dse.errors import Fault, SpecError, StudyError
from dse.spec import calibration

if TYPE_CHECKING:
    from dse.app.listen import Answer
    from dse.explore.search.found import SearchResult

EVERY = 0.3  # s between looks at a job
UNITS = {"search": "hardware designs", "sweep": "designs", "sensitivity": "points", "validate": "rows"}
ENDED = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Status:
    """How a job is.

    Attributes:
        state: ``waiting`` (not started), ``running``, ``done``, ``failed`` or ``cancelled``.
        done, total: hardware designs (of branch and bound: boxes), rows or points; total is 0 while it is not known.
        eta_s: seconds left at the rate so far; None while there is no rate.
        elapsed_s: seconds since the start.
        message: a line for people; of a failed job what went wrong.
    """

    state: str
    done: int = 0
    total: int = 0
    eta_s: float | None = None
    elapsed_s: float = 0.0
    message: str = ""

    @property
    def ended(self) -> bool:
        """Will nothing more happen?"""
        return self.state in ENDED


class Job:
    """Work that runs in another process. Made by :meth:`search`, :meth:`sweep`, :meth:`sensitivity`, :meth:`validate`.

    A design is sent as it is when the job is made: what the user does to the state later changes nothing.
    """

    def __init__(self, kind: str, given: Any, arguments: Mapping[str, Any], folder: str | Path | None = None) -> None:
        self.kind = kind
        self.folder = None if folder is None else Path(folder).absolute()
        self._design, self._locks = _design_of(given)
        self._arguments = {**given, **arguments} if isinstance(given, Mapping) else dict(arguments)
        self._child: Child | None = None
        self._found = _Partial()
        self._result: Any = None
        self._callbacks: list[Callable[[Status], Any]] = []
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def search(
        cls,
        given: State | Design | Mapping[str, Any],
        variables: Sequence[Any] = (),
        *,
        objective: Any = "step_time",
        budget: Any = None,
        method: str = "auto",
        seed: int | None = None,
        folder: str | Path | None = None,
        **more: Any,
    ) -> Job:
        """A search of hardware and strategy.

        Args:
            given: a state or a design: its hardware is what the variables start from, and strategy fields that no
                search varies, or that the state has locked, stay; or the arguments of :func:`dse.search` by name.
            variables: axes and spans of hardware, as ``hardware`` of :func:`dse.search`.
            seed: by default the state's.
            folder: where the search is kept: cancelled or killed, it goes on from there. The result is saved there.
            more: any other argument of :func:`dse.search`; ``base`` adds fields that stay.
        """
        arguments = {**more, "hardware": list(variables), "objective": objective, "method": method}
        arguments |= {"budget": budget, "seed": _seed(given, seed)}
        return cls("search", given, arguments, folder)

    @classmethod
    def sweep(
        cls,
        given: State | Design | Mapping[str, Any],
        axes: Sequence[Any] = (),
        *,
        folder: str | Path,
        all_strategies: bool = False,
        **more: Any,
    ) -> Job:
        """A sweep to a folder of Parquet files; see :func:`dse.stream`, which takes ``more``.

        Args:
            given: a state or a design, or the arguments of :func:`dse.stream` by name.
            all_strategies: vary the strategy too, but for what the state has locked.
        """
        return cls("sweep", given, {**more, "axes": list(axes), "all_strategies": all_strategies}, folder)

    @classmethod
    def sensitivity(
        cls,
        given: State | Design | Mapping[str, Any],
        factors: Sequence[Any] | None = None,
        *,
        analysis: str = "sobol",
        seed: int | None = None,
        **more: Any,
    ) -> Job:
        """An analysis of ``dse.sensitivity``.

        Args:
            given: a state or a design, or the arguments of :func:`dse.estimate` by name.
            factors: of the analysis, where it takes any.
            analysis: ``sobol``, ``morris``, ``tornado``, ``elasticities``, ``shadow_prices``, ``discover``,
                ``bottlenecks``.
            more: the other arguments of the analysis.
        """
        options = {**more, "seed": _seed(given, seed)}
        listed = None if factors is None else list(factors)
        return cls("sensitivity", given, {"analysis": analysis, "factors": listed, "options": options})

    @classmethod
    def validate(cls, table: str = "training", path: str | Path | None = None) -> Job:
        """Predictions held against measurements.

        Args:
            table: ``training``, ``memory``, ``collectives`` or ``gemm``.
            path: a table of your own.
        """
        return cls("validate", None, {"table": table, "path": None if path is None else Path(path).absolute()})

    # -- running -----------------------------------------------------------------------------------------------

    def start(self) -> Job:
        """Start, or start again after the end: with a folder what is done is not done again.

        Where an event loop runs (in a notebook), callbacks are called from it.

        Raises:
            SpecError: an input that cannot be sent to another process.
            StudyError: it runs already.
        """
        if self._child is not None and not self._child.ended.is_set():
            raise StudyError("this job runs already")
        active = calibration.active()
        request = {
            "kind": self.kind,
            "design": self._design,
            "locks": self._locks,
            "arguments": self._arguments,
            "folder": None if self.folder is None else str(self.folder),
            "calibration": (None if active.path is None else active.path.absolute(), active.id),
        }
        try:
            content = pickle.dumps(request)
        except Exception as error:
            fault = Fault(self.kind, str(error)[:120], "cannot be sent to another process; call the function itself")
            raise SpecError([fault]) from None
        self._found, self._result = _Partial(), None
        self._child = Child(content)
        if self._task is not None and not self._task.done():
            self._task.cancel()  # it would tell of this run too
        with contextlib.suppress(RuntimeError):
            self._task = asyncio.get_running_loop().create_task(self._call_back())
        return self

    def cancel(self) -> None:
        """Stop at once (within 2 s) and leave no process behind; what is done stays in the folder."""
        if self._child is not None:
            self._child.cancel()

    # -- looking -----------------------------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """How the job is now; costs microseconds."""
        child = self._child
        if child is None:
            return Status("waiting", message="not started")
        state, counts = child.state, child.counts
        done, total = counts[-1][1:] if counts else (0, 0)
        elapsed = (child.end or time.monotonic()) - child.begin
        done = total if state == "done" else done
        eta = _seconds_left(counts) if state == "running" else None
        return Status(state, done, total, eta, elapsed, self._message(state, done, total))

    def _message(self, state: str, done: int, total: int) -> str:
        if state == "failed" and self._child is not None:
            return str(self._child.error())
        kept = f"; what is done is kept in {self.folder}" if self.folder and state == "cancelled" else ""
        if not total:
            return {"running": "at work", "done": "done"}.get(state, f"{state}{kept}")
        return f"{done:,} of {total:,} {UNITS[self.kind]}{kept}"

    def partial(self) -> Any:
        """What is known so far: None where nothing is.

        Returns:
            Of a search a :class:`SearchResult` of the designs that were answered: all that are on the front of what is
            known, and up to 400 others. The same object until there is more. Of a sweep the files that are whole. Of
            a job that is done its result.
        """
        if self._child is None:
            return None
        if self._child.state == "done":
            return self.result()
        if self.kind == "sweep" and self.folder is not None:
            return tuple(sorted(self.folder.glob("part-*.parquet"))) or None
        return self._found.result(self._child)

    @property
    def pid(self) -> int | None:
        """The process, which leads a group of its own."""
        return None if self._child is None else self._child.pid

    @property
    def trace(self) -> str:
        """Where a failed job failed, for those who look for the reason in the code."""
        return "" if self._child is None else self._child.trace()

    # -- waiting -----------------------------------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> Any:
        """What the function returned; waits for it.

        Raises:
            SpecError, InfeasibleDesign, StudyError: as the function raised it, with its faults.
            StudyError: the job was cancelled, its process was killed, or it failed in another way.
            TimeoutError: it still runs after ``timeout`` seconds.
        """
        if self._child is None:
            raise StudyError("this job was not started")
        if not self._child.ended.wait(timeout):
            raise TimeoutError(f"the {self.kind} still runs after {timeout:g} s")
        if self._child.state != "done":
            raise self._child.error()
        if self._result is None:
            self._result = self._opened()
        return self._result

    def _opened(self) -> Any:
        if self.kind == "sweep":
            from dse.explore.stream import open_table

            return open_table(str(self.folder))
        return None if self._child is None else pickle.loads(self._child.result)

    def wait(self, timeout: float | None = None, every: float = EVERY) -> Status:
        """Wait for the end, or for ``timeout`` seconds; callbacks are called from here."""
        begin = time.monotonic()
        while True:
            status = self.status
            self._tell(status)
            left = every if timeout is None else min(every, begin + timeout - time.monotonic())
            if status.ended or self._child is None or left <= 0:
                return status
            self._child.ended.wait(left)

    async def watch(self, every: float = EVERY) -> AsyncIterator[Status]:
        """The status again and again, the last one when the job has ended; for the notebook's event loop."""
        while True:
            status = self.status
            yield status
            if status.ended or self._child is None:
                return
            for _ in range(3):  # the end is told soon after it, whatever the pace
                if not self._child.ended.is_set():
                    await asyncio.sleep(every / 3)

    def on_change(self, callback: Callable[[Status], Any]) -> Job:
        """Call ``callback(status)`` on the thread of the event loop (or of :meth:`wait`) until the job has ended."""
        self._callbacks.append(callback)
        return self

    def _tell(self, status: Status) -> None:
        for callback in list(self._callbacks):
            callback(status)

    async def _call_back(self) -> None:
        async for status in self.watch():
            try:
                self._tell(status)
            except Exception as error:  # nobody awaits this task
                warnings.warn(f"a callback of a job failed and is not called again: {error!r}", stacklevel=2)
                self._callbacks.clear()


def _design_of(given: Any) -> tuple[Design | None, frozenset[str]]:
    if isinstance(given, State):
        return given.design, given.locks
    if isinstance(given, Design):
        return given, frozenset()
    if given is None or isinstance(given, Mapping):
        return None, frozenset()
    raise SpecError([Fault("given", type(given).__name__, "must be a state, a design, or arguments by name")])


def _seed(given: Any, seed: int | None) -> int:
    return seed if seed is not None else given.seed if isinstance(given, State) else 0


def _seconds_left(counts: Sequence[tuple[float, int, int]]) -> float | None:
    """At the rate since the first count, which an earlier run may have left."""
    if len(counts) < 2:
        return None
    (first, kept, _), (last, done, total) = counts
    if done <= kept:
        return None
    left = (total - done) * (last - first) / (done - kept)
    return max(left - (time.monotonic() - last), 0.0)


class _Partial:
    """What a search has told so far, and its result so far."""

    def __init__(self) -> None:
        self._read = 0
        self._items: list[Answer] = []
        self._answered = 0
        self._scene: Any = None
        self._result: SearchResult | None = None

    def result(self, child: Child) -> SearchResult | None:
        frames = child.answers[self._read :]
        if frames:
            self._read += len(frames)
            self._scene = self._scene or pickle.loads(child.scene)
            for frame in frames:
                self._answered, items = pickle.loads(frame)
                self._items += items
            self._result = self._made()
        return self._result

    def _made(self) -> SearchResult:
        from dse.explore.search.found import SearchResult
        from dse.explore.search.run import _rank

        problem, method, seed = self._scene
        items = sorted(self._items, key=lambda item: _rank(problem, item[1]))
        trials, points, answers = (list(column) for column in zip(*items, strict=True))
        stopped = f"{self._answered:,} hardware designs are answered so far"
        return SearchResult(problem, points, answers, method, stopped, seed, trials=trials)
