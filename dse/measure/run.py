"""A measurement from start to finish: points in order, the journal, progress, and the tables at the end."""

from __future__ import annotations

import gc
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dse.errors import Fault, SpecError
from dse.measure import device as devices
from dse.measure import tables
from dse.measure.cases import KINDS, SIZES, Case, cases, known
from dse.measure.device import MeasureError
from dse.measure.journal import Journal
from dse.measure.kernels import Prepared, prepare
from dse.measure.timing import Timer

Progress = Callable[[int, int, str], None]  # points done, points in all, what comes next
_EVERY = 30.0  # s between two looks at clocks and power


@dataclass(frozen=True)
class Outcome:
    """Points measured now, already there, failed, and left for another run by the budget."""

    measured: int
    before: int
    failed: int
    left: int


def measure(
    folder: Path | str,
    *,
    size: str = "auto",
    device: str = "auto",
    kinds: Sequence[str] = KINDS,
    dtypes: Sequence[str] = (),
    budget: float | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total, name: None,
) -> Outcome:
    """Measure the device at hand into ``folder``; what is there already is kept.

    Args:
        folder: receives journal, tables, dictionary and manifest.
        size: ``tiny``, ``small``, ``full``; ``auto`` is full on a GPU and small on a CPU.
        device: ``auto``, ``cpu`` or ``cuda`` (the first visible one).
        kinds: of :data:`dse.measure.cases.KINDS`.
        dtypes: of :data:`dse.measure.cases.DTYPES`; by default those of the device.
        budget: seconds after which no further point is begun.
        seed: of the tensors' values and the order of the points.
        progress: is told of every point.

    Raises:
        MeasureError: PyTorch is missing, or the device broke down.
        SpecError: an unknown size, device, kind or type, or a folder of another device.
    """
    folder = Path(folder)
    known("kinds", kinds, KINDS)
    known("size", [size], ("auto", *SIZES))
    known("device", [device], devices.DEVICES)
    if budget is not None and not budget > 0:
        raise SpecError([Fault("budget", str(budget), "must be above 0 seconds")])
    torch = devices.load_torch()
    target = devices.choose(torch, device)
    cuda = target.type == "cuda"
    size = ("full" if cuda else "small") if size == "auto" else size
    chosen = list(dtypes) or devices.dtypes(torch, target)
    points = cases(size, kinds, chosen, cuda=cuda, seed=seed)
    if not cuda and not {"tf32", "fp8"}.isdisjoint(chosen):
        raise SpecError([Fault("dtypes", ",".join(chosen), "tf32 and fp8 need a GPU")])
    journal = Journal(folder)
    about = devices.describe(torch, target)
    journal.open(about)
    session = _Session(torch, target, journal, Timer(torch, target, cache=about["cache"], size=size), seed)
    try:
        return session.run(points, budget, progress)
    finally:  # an interruption too leaves whole tables behind
        journal.append({"run": session.summary(size=size, kinds=list(kinds), dtypes=chosen)})
        tables.write(folder, journal)


class _Session:
    """One run over the points of a device."""

    def __init__(self, torch: Any, target: Any, journal: Journal, timer: Timer, seed: int) -> None:
        self.torch, self.target, self.journal, self.timer, self.seed = torch, target, journal, timer, seed
        self.begun, self.started = _now(), time.monotonic()
        self.states: list[dict[str, Any]] = []
        self.looked = -_EVERY

    def run(self, points: list[Case], budget: float | None, progress: Progress) -> Outcome:
        """Measure every point that has no time yet, within the budget."""
        done = self.journal.done
        todo = [case for case in points if case.id not in done]
        before, failed, place = len(points) - len(todo), 0, 0
        for place, case in enumerate(todo):
            if budget is not None and self.elapsed > budget:
                break
            progress(before + place, len(points), case.id)
            self._look()
            failed += not self._point(case)
        else:
            place = len(todo)
        self._look(now=True)
        progress(before + place, len(points), "")
        return Outcome(place - failed, before, failed, len(todo) - place)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def _look(self, *, now: bool = False) -> None:
        """Note clocks and power: a time means little on a device that throttles."""
        if now or self.elapsed - self.looked >= _EVERY:
            self.looked = self.elapsed
            self.states.append({"at_s": round(self.elapsed, 1), **devices.conditions(self.torch, self.target)})

    def _point(self, case: Case) -> bool:
        """Measure one point; what the device cannot do is noted with its reason."""
        # The point's own seed: the same values whether or not a run was resumed.
        self.torch.manual_seed((self.seed << 32) ^ zlib.crc32(case.id.encode()))
        entry: dict[str, Any] = {
            "id": case.id, "kind": case.kind, "kernel": case.kernel, "dtype": case.dtype, "phase": case.phase,
            "shape": case.shape, "options": case.options, "flops": case.flops, "bytes": case.bytes, "date": _now()[:10],
        }  # fmt: skip
        try:
            entry |= self._time(case)
        except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError) as error:
            self._refuse_broken(error)
            entry["error"] = " ".join(str(error).split())[:200] or type(error).__name__
        self._release(case)
        self.journal.append(entry)
        return "seconds" in entry

    def _time(self, case: Case) -> dict[str, Any]:
        prepared = prepare(self.torch, self.target, case)
        found = self.timer.time(prepared.call, flush=prepared.flush)
        times = {"seconds": found.seconds / prepared.inner, "spread": found.spread, "repeats": found.repeats}
        whole = case.kind in ("layer", "step") and self.target.type == "cuda"
        memory = {"peak_memory_bytes": self._peak_memory(prepared)} if whole else {}
        return {**times, **memory, "note": prepared.note}

    def _peak_memory(self, prepared: Prepared) -> int:
        """Most memory allocated during a call in B, without the timer's own."""
        self.torch.cuda.reset_peak_memory_stats()
        prepared.call()
        self.torch.cuda.synchronize()
        return int(self.torch.cuda.max_memory_allocated()) - self.timer.bytes

    def _refuse_broken(self, error: Exception) -> None:
        """A fault that leaves the device unusable would fail every later point: stop instead of noting them all."""
        try:
            self.timer.synchronize()
        except RuntimeError:
            first = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
            raise MeasureError(f"the device broke down ({first}); run the same command again to go on") from None

    def _release(self, case: Case) -> None:
        if case.kind in ("layer", "step"):
            gc.collect()  # modules and optimizers hold their tensors in cycles
        # Freed blocks stay for the next point; a cache full of large ones would be its out-of-memory.
        if self.target.type == "cuda" and 2 * self.torch.cuda.memory_reserved() > self.journal.device["memory"]:
            self.torch.cuda.empty_cache()

    def summary(self, **choices: Any) -> dict[str, Any]:
        """What the manifest says of this run."""
        from dse.study.provenance import version

        return {
            "begun": self.begun,
            "ended": _now(),
            "command": " ".join(["dse", *sys.argv[1:]]),
            "dse": version(),
            "seed": self.seed,
            **choices,
            "conditions": self.states,
        }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
