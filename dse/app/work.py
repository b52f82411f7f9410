"""The other side of a job: a process that carries out one request and tells its parent how it goes.

When the parent ends, the pipe of the request closes, and this process ends with all that it started.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import signature
from typing import Any

from dse.app.listen import Answers, listening
from dse.app.process import COUNTS, ERROR, HEAD, POSIX, PROGRESS, RESULT, exactly, send
from dse.errors import DseError, Fault, SpecError

NICE = 10
TICK = 0.1  # s between frames of progress
TICKS = 4  # of progress for one of answers
VALIDATIONS = {
    "training": ("dse.accuracy.validate", "validate_training"),
    "memory": ("dse.accuracy.memory", "validate_memory"),
    "collectives": ("dse.accuracy.collectives", "validate_collectives"),
    "gemm": ("dse.accuracy.gemm", "validate_gemm"),
}
ANALYSES = ("sobol", "morris", "tornado", "elasticities", "shadow_prices", "discover", "bottlenecks")


class Teller:
    """Tells the parent how far the work is, and the answers of a search, from a thread a few times a second."""

    def __init__(self, channel: int, answers: Answers | None = None) -> None:
        self._channel, self._answers = channel, answers
        self._counts = self._told = (0, 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="teller", daemon=True)

    def __enter__(self) -> Teller:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self._tell_counts()

    def count(self, done: int, total: int) -> None:
        """Note how far the work is."""
        self._counts = (int(done), int(total))
        if self._answers is not None:
            self._answers.limit = total

    @property
    def counted(self) -> bool:
        return self._counts != (0, 0)

    def _run(self) -> None:
        ticks = 0
        while not self._stop.wait(TICK):
            self._tell_counts()
            ticks += 1
            if ticks % TICKS == 0 and self._answers is not None:
                self._answers.tell(lambda kind, content: send(self._channel, kind, content))

    def _tell_counts(self) -> None:
        now = self._counts
        if now != self._told:
            send(self._channel, PROGRESS, COUNTS.pack(*now))
            self._told = now


# -- what can be asked for ------------------------------------------------------------------------------------


def search(teller: Teller, design: Any, locks: frozenset[str], folder: str | None, asked: dict[str, Any]) -> Any:
    """:func:`dse.search`, saved where there is a folder."""
    import dse

    found = dse.search(**search_inputs(design, locks, asked), folder=folder, progress=teller.count)
    if folder is not None:
        found.save(folder)
    if not teller.counted:  # all of it was known
        teller.count(len(found.points), len(found.points))
    found.__dict__.pop("_groups", None)  # large, and made again where it is needed
    return found


def search_inputs(design: Any, locks: frozenset[str], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of :func:`dse.search`: what is asked for, and of a design its hardware, its batch, and the strategy
    fields that stay (those that no search varies, and locked ones; see :meth:`dse.app.state.State.best`).

    Raises:
        SpecError: fields of the software stack are set by hand, which a search does not take.
    """
    if design is None:
        return dict(asked)
    from dse.explore.best import fixed_fields

    if any(path.startswith("stack.") for path, _ in design.overrides):
        raise SpecError([Fault("stack", "", "the search takes stacks as the catalogue has them; reset its fields")])
    options = asked.get("options") or {}
    mine = fixed_fields(asked.get("base"), options)
    stays = {f: v for f, v in fields_kept(design, locks).items() if f not in options}
    implied = {
        "model": design.specs["model"],
        "cluster": design.specs["cluster"],
        "devices": None if _varies_devices(asked.get("hardware", ())) else design.devices,
        "global_batch": design.strategy.global_batch,
    }
    return {**implied, **asked, "base": {**stays, **mine}}


def fields_kept(design: Any, locks: frozenset[str]) -> dict[str, Any]:
    """Strategy fields that stay when the strategy is searched; degrees that no search varies go back to none."""
    from dse.space.enumerate import default_options
    from dse.spec.strategy import Strategy

    specs, strategy = design.specs, design.strategy
    locked = {path.removeprefix("strategy.") for path in locks if path.startswith("strategy.")}
    tried = set(default_options(specs["model"], specs["cluster"], design.devices, strategy.global_batch))
    base = {f: getattr(strategy, f) for f in Strategy.model_fields if f in locked or f not in tried}
    base |= {f: v for f, v in (("cp", 1), ("ep", 1), ("shard_group", 0)) if f in base and f not in locked}
    return {f: v for f, v in base.items() if f not in ("dp", "global_batch")}


def _varies_devices(items: Any) -> bool:
    return any(getattr(item, "path", "") == "cluster.devices" for item in items)


def sweep(teller: Teller, design: Any, locks: frozenset[str], folder: str | None, asked: dict[str, Any]) -> None:
    """:func:`dse.stream`; the parent opens the folder."""
    import dse

    axes, arguments = list(asked["axes"]), {n: v for n, v in asked.items() if n != "axes"}
    if design is not None:
        # A stack has its name in the strategy: fields of it that are set by hand are axes of one value.
        known = {a.path for a in axes}
        axes += [dse.axis(p, [v]) for p, v in design.overrides if p.startswith("stack.") and p not in known]
        strategy = design.strategy
        if arguments.get("all_strategies"):
            strategy = {**fields_kept(design, locks), "global_batch": strategy.global_batch}
        devices = {} if _varies_devices(axes) else {"devices": design.devices}
        specs = {"model": design.specs["model"], "cluster": design.specs["cluster"], "strategy": strategy}
        arguments = {**specs, **devices, **arguments}
    given = [arguments.pop(name) for name in ("model", "cluster", "strategy")]
    dse.stream(*given, *axes, out=str(folder), progress=lambda now: teller.count(now.done, now.total), **arguments)


def sensitivity(teller: Teller, design: Any, locks: frozenset[str], folder: str | None, asked: dict[str, Any]) -> Any:
    """An analysis of ``dse.sensitivity``; the points that it prices are counted."""
    import dse

    name, factors, options = (asked.pop(part) for part in ("analysis", "factors", "options"))
    if name not in ANALYSES:
        raise SpecError([Fault("analysis", repr(name)[:40], f"must be one of {', '.join(ANALYSES)}")])
    analysis = getattr(dse.sensitivity, name)
    if "seed" not in signature(analysis).parameters:
        options.pop("seed", None)
    result = dse.estimate(**asked) if design is None else design.result
    given = (result,) if factors is None else (result, factors)
    total = dse.sensitivity.forecast(analysis, *given, **options).points
    with counting(lambda done: teller.count(min(done, total), total)):
        return analysis(*given, **options)


@contextlib.contextmanager
def counting(report: Callable[[int], None]) -> Any:
    """Report the points that analyses price meanwhile, which they do in one place."""
    from dse.explore.sensitivity import samples

    price, done = samples.evaluate_arrays, 0

    def counted(design: Any, specs: Any, changes: Any, count: int, *rest: Any) -> Any:
        nonlocal done
        found = price(design, specs, changes, count, *rest)
        done += count
        report(done)
        return found

    report(0)
    samples.evaluate_arrays = counted
    try:
        yield
    finally:
        samples.evaluate_arrays = price


def validate(teller: Teller, design: Any, locks: frozenset[str], folder: str | None, asked: dict[str, Any]) -> Any:
    """``dse validate``."""
    if asked["table"] not in VALIDATIONS:
        raise SpecError([Fault("table", repr(asked["table"])[:40], f"must be one of {', '.join(VALIDATIONS)}")])
    module, function = VALIDATIONS[asked["table"]]
    return getattr(import_module(module), function)(asked["path"])


TASKS: dict[str, Callable[..., Any]] = {
    "search": search,
    "sweep": sweep,
    "sensitivity": sensitivity,
    "validate": validate,
}


# -- the process ----------------------------------------------------------------------------------------------


def main() -> None:
    """Read a request, carry it out, tell how it ended."""
    asked, channel = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # whatever is printed goes where errors go
    if POSIX:
        os.nice(NICE)
    parent = os.getppid()
    head = exactly(asked, HEAD.size)
    content = None if head is None else exactly(asked, HEAD.unpack(head)[1])
    if content is None:
        sys.exit(1)  # the parent ended before it had asked
    threading.Thread(target=_end_with_parent, args=(asked, parent), name="parent", daemon=True).start()
    try:
        kind, told = RESULT, pickle.dumps(_carried_out(content, channel))
    except BaseException as error:
        kind, told = ERROR, pickle.dumps(_explained(error))
    send(channel, kind, told)


def _carried_out(content: bytes, channel: int) -> Any:
    from dse.spec import calibration

    request = pickle.loads(content)
    path, name = request["calibration"]
    if path is not None:
        calibration.use(path)
    if calibration.active().id != name:
        raise SpecError([Fault("calibration", str(path)[-60:], "has changed meanwhile; start again")])
    asked, folder = request["arguments"], request["folder"]
    answers = None
    if request["kind"] == "search":
        recorded = folder is not None or asked.get("storage") is not None
        answers = Answers(asked["method"], asked["seed"], recorded)
    with Teller(channel, answers) as teller, listening(answers):
        return TASKS[request["kind"]](teller, request["design"], request["locks"], folder, asked)


def _explained(error: BaseException) -> tuple[str, Any, str]:
    """Class, message or faults, and the trace of an error: not all exceptions survive being sent themselves."""
    name, trace = type(error).__name__, "".join(traceback.format_exception(error))
    if isinstance(error, SpecError):
        return "SpecError", error.faults, trace
    return (name, str(error), trace) if isinstance(error, DseError) else ("", f"{name}: {error}", trace)


def _end_with_parent(pipe: int, parent: int) -> None:
    """End this process, and all that it started, when the parent is gone: its pipe is closed, or we are another's."""
    while True:
        ready = select.select([pipe], [], [], 1.0)[0] if POSIX else [pipe]
        if (ready and not os.read(pipe, 1)) or os.getppid() != parent:
            if POSIX and os.getpgrp() == os.getpid():
                os.killpg(os.getpid(), signal.SIGKILL)
            os._exit(1)
