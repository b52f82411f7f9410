"""The best schedule for a collective on a topology, with the bound it is held against."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from dse.collective.schedule import COLLECTIVES, Schedule
from dse.collective.topology import Ints, Topology
from dse.errors import DseError, Fault, SpecError

if TYPE_CHECKING:
    from dse.collective.bounds import Bound

ROOTED = ("broadcast", "reduce")
NEAR = 1.01  # a schedule this near its bound is not improved further
FAR = 1.05  # one further off is looked at again with more chunks
FINE_CHUNKS = 65536
Progress = Callable[["Synthesis"], object]
Chunks = int | Literal["auto"]


@dataclass(frozen=True)
class Synthesis:
    """A verified schedule and how good it is.

    Attributes:
        schedule: the transfers.
        bound: what no schedule can beat, with its certificate.
        bound_seconds: the bound that counts for it: ``bound.any`` with merged messages, else ``bound.best``, or
            that of the chunks asked for.
        seconds: wall time its synthesis took; bounds, verification and compiling (once) apart.
        valid: whether the verifier, which shares nothing with the synthesizers, found no fault.
        history: (seconds, time, algorithm) of each improvement.
    """

    schedule: Schedule
    bound: Bound
    bound_seconds: float
    seconds: float
    valid: bool
    history: tuple[tuple[float, float, str], ...] = field(default=())

    @property
    def time(self) -> float:
        """Seconds that the collective takes."""
        return self.schedule.time

    @property
    def ratio(self) -> float:
        """Time over bound (1 where both are 0)."""
        return self.time / self.bound_seconds if self.bound_seconds > 0 else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Figures in microseconds, as ``dse collective synthesize --json`` prints them."""
        made = self.schedule
        n = len(made.members)
        return {
            "topology": made.topology.name,
            "npus": made.topology.npus,
            "links": made.topology.links,
            "members": n,
            "collective": made.collective,
            "bytes": made.nbytes,
            "algorithm": made.algorithm,
            "chunks": len(made.chunks.size),
            "transfers": made.transfers,
            "merged": made.message is not None,
            "time_us": self.time * 1e6,
            "bound_us": self.bound_seconds * 1e6,
            "ratio": self.ratio,
            "bandwidth_bound_us": self.bound.bandwidth * 1e6,
            "latency_bound_us": self.bound.latency * 1e6,
            "any_bound_us": self.bound.any * 1e6,
            "valid": self.valid,
            "synthesis_s": self.seconds,
            "algbw_GBps": made.nbytes / self.time / 1e9 if self.time > 0 else None,
            "history": [{"s": s, "time_us": t * 1e6, "algorithm": a} for s, t, a in self.history],
        }

    def __str__(self) -> str:
        made = self.schedule
        lines = [
            f"{made.collective} of {_bytes(made.nbytes)} among {len(made.members)} NPUs on {made.topology.name}",
            f"  time       {self.time * 1e6:,.4g} us  by {made.algorithm}",
            f"  bound      {self.bound_seconds * 1e6:,.4g} us  ratio {self.ratio:.4f}",
            f"  transfers  {made.transfers:,} of {len(made.chunks.size):,} chunks",
            f"  valid      {'yes' if self.valid else 'NO'}",
            f"  synthesis  {self.seconds:.3g} s",
        ]
        return "\n".join(lines)


def synthesize(
    topology: Topology | str | os.PathLike[str],
    collective: str = "all_reduce",
    nbytes: float | str = "1GiB",
    *,
    chunks: Chunks = "auto",
    seeds: int = 4,
    members: ArrayLike | None = None,
    root: int | None = None,
    merge: bool = False,
    budget: float | None = None,
    progress: Progress | None = None,
) -> Synthesis:
    """Find a schedule near the bound.

    Args:
        topology: a :class:`Topology`, a file of one, or a shape such as ``"torus:8x8x8,bandwidth=50GiB/s"``.
        collective: one of ``COLLECTIVES``.
        nbytes: result of an all-gather; each NPU's input otherwise. Text has a unit.
        chunks: pieces each NPU's shard is cut into (broadcast, reduce: the whole); ``"auto"`` chooses.
        seeds: tries of what is random.
        members: NPUs that take part; the others only pass on. None: all.
        root: of a broadcast or reduce (by default the first member).
        merge: whether what waits for a link may leave as one message and pay one latency.
        budget: seconds to go on improving for; None: stop when the portfolio is through.
        progress: called with every improvement.

    Raises:
        SpecError: bad input, or members that cannot reach each other (the cut is named).
    """
    steps = improvements(
        topology, collective, nbytes, chunks=chunks, seeds=seeds, members=members, root=root, merge=merge, budget=budget
    )
    for found in steps:  # the last one is the best
        if progress is not None:
            progress(found)
    return found


def improvements(
    topology: Topology | str | os.PathLike[str],
    collective: str = "all_reduce",
    nbytes: float | str = "1GiB",
    *,
    chunks: Chunks = "auto",
    seeds: int = 4,
    members: ArrayLike | None = None,
    root: int | None = None,
    merge: bool = False,
    budget: float | None = None,
) -> Iterator[Synthesis]:
    """Anytime synthesis: yields a verified schedule whenever a better one is found; see :func:`synthesize`."""
    from dse.collective.bounds import bound

    task = checked(topology, collective, nbytes, chunks=chunks, seeds=seeds, members=members, root=root)
    limit = bound(task.topology, collective, task.nbytes, members=task.members, root=task.root)
    floor = _floor(limit, chunks, merge)
    _load_compiled(collective)
    spent, best, history = 0.0, math.inf, ()
    for gap, make in _portfolio(task, merge, budget):
        if best <= NEAR * floor or (budget is not None and spent >= budget and math.isfinite(best)):
            return
        if best <= gap * floor:
            continue
        began = time.perf_counter()
        made = make(None if budget is None else max(budget - spent, 0.01))
        spent += time.perf_counter() - began
        if made is None or made.time >= best:
            continue
        best = made.time
        history = (*history, (spent, best, made.algorithm))
        yield Synthesis(made, limit, floor, spent, _verified(made), history)


def compared(
    topology: Topology | str | os.PathLike[str], collective: str, nbytes: float | str, *, chunks: Chunks = "auto",
    seeds: int = 4, members: ArrayLike | None = None, root: int | None = None, merge: bool = False,
) -> list[dict[str, Any]]:  # fmt: skip
    """The synthesized schedule and every known algorithm that can run here, quickest first; all verified.

    Returns rows: algorithm, time_us, ratio to one bound, transfers, synthesis_s.
    """
    from dse.collective.bounds import bound

    task = checked(topology, collective, nbytes, chunks=chunks, seeds=seeds, members=members, root=root)
    floor = _floor(bound(task.topology, collective, task.nbytes, members=task.members, root=task.root), chunks, merge)
    makers: dict[str, Maker] = {"synthesized": lambda left: _finished(_synthesized(task, seeds, left), merge)}
    for other in _finer(task) if len(task.members) <= 64 else ():
        name = f"synthesized, {other.chunks} chunks"
        makers[name] = lambda left, other=other: _finished(_synthesized(other, 1, left), merge)
    for name in _library(task):
        makers[name] = lambda left, name=name: _finished(_known(task, name), merge)
    rows = []
    for name, make in makers.items():
        began = time.perf_counter()
        made = make(None)
        spent = time.perf_counter() - began
        if made is not None and _verified(made):
            ratio = made.time / floor if floor > 0 else 1.0
            rows.append({"algorithm": name, "made_by": made.algorithm, "time_us": made.time * 1e6, "ratio": ratio,
                         "transfers": made.transfers, "synthesis_s": spent})  # fmt: skip
    return sorted(rows, key=lambda row: row["time_us"])


def _floor(limit: Bound, chunks: Chunks, merge: bool) -> float:
    """The bound that counts: of any schedule, of any equal chunks, or of the chunks asked for."""
    if merge:
        return limit.any
    return limit.best if chunks == "auto" else limit.strict(chunks)


@dataclass(frozen=True)
class Task:
    """Checked input."""

    topology: Topology
    collective: str
    nbytes: float
    chunks: Chunks
    seeds: int
    members: Ints
    root: int | None


def checked(
    topology: Topology | str | os.PathLike[str], collective: str, nbytes: float | str, *, chunks: Chunks = "auto",
    seeds: int = 1, members: ArrayLike | None = None, root: int | None = None,
) -> Task:  # fmt: skip
    """Input of a synthesis with every fault in it named; see :func:`synthesize`."""
    from dse.collective.bounds import require_connected
    from dse.collective.files import load
    from dse.units import UnitError, parse

    network = topology if isinstance(topology, Topology) else load(topology)
    if collective not in COLLECTIVES:
        raise _fault("collective", repr(collective)[:40], f"must be one of {', '.join(COLLECTIVES)}")
    try:
        size = parse(nbytes, "B")
    except UnitError as error:
        raise _fault("bytes", repr(nbytes)[:40], str(error)) from None
    if not (size > 0 and math.isfinite(size)):
        raise _fault("bytes", str(nbytes)[:40], "must be more than 0, and finite")
    if chunks != "auto" and not (isinstance(chunks, int) and 1 <= chunks <= FINE_CHUNKS):
        raise _fault("chunks", repr(chunks)[:40], f"must be auto, or a whole number from 1 to {FINE_CHUNKS}")
    if not (isinstance(seeds, int) and 1 <= seeds <= 10_000):
        raise _fault("seeds", repr(seeds)[:40], "must be a whole number from 1 to 10000")
    who = network.members if members is None else _members(members)
    for npu in who.tolist():
        if npu not in set(network.members.tolist()):
            raise _fault("members", str(npu), f"must be NPUs that work, of 0 to {network.npus - 1}")
    if len(who) == 0:
        raise _fault("members", "", "must name at least one NPU")
    if collective in ROOTED:
        root = int(who[0]) if root is None else root
        if root not in who:
            raise _fault("root", str(root), "must be one of the members")
    elif root is not None:
        raise _fault("root", str(root), f"is for {' and '.join(ROOTED)} only")
    require_connected(network, collective, who, root)
    return Task(network, collective, size, chunks, seeds, who, root)


def _members(given: ArrayLike) -> Ints:
    try:
        numbers = np.asarray(given, float).reshape(-1)
        fine = bool((numbers == np.round(numbers)).all())
    except (TypeError, ValueError):
        fine = False
    if not fine:
        raise _fault("members", repr(given)[:60], "must be numbers of NPUs, such as [0, 1, 2, 3]")
    return np.unique(numbers.astype(np.int64))


def _fault(path: str, value: str, rule: str) -> SpecError:
    return SpecError([Fault(path, value, rule)])


def _bytes(size: float) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.6g} {unit}"
    return f"{size:.6g} B"


Maker = Callable[[float | None], Schedule | None]


def _portfolio(task: Task, merge: bool, budget: float | None) -> Iterator[tuple[float, Maker]]:
    """What is tried, the most promising first, each if the best so far is more than so many times the bound.

    With a budget without end.
    """
    small = len(task.members) <= 64
    yield 0.0, lambda left: _finished(_synthesized(task, task.seeds, left), merge)
    if small or budget is not None or merge:
        for name in _library(task):
            yield NEAR, lambda left, name=name: _finished(_known(task, name), merge)
    finer = _finer(task)
    if small:
        for other in finer:
            yield FAR, lambda left, other=other: _finished(_synthesized(other, 1, left), merge)
            for name in _library(task):
                yield FAR, lambda left, other=other, name=name: _finished(_known(other, name), merge)
    seeds = task.seeds
    while budget is not None:
        seeds = min(2 * seeds, 1024)
        for other in (task, *finer):
            yield NEAR, lambda left, other=other, seeds=seeds: _finished(_synthesized(other, seeds, left), merge)


def _finer(task: Task) -> tuple[Task, ...]:
    """The same with more chunks: for networks of shared switches, where the choice of their number can be wrong."""
    if task.chunks != "auto" or task.collective in ("all_reduce", "all_to_all"):
        return ()
    return tuple(replace(task, chunks=count) for count in (4, 16, 64))


def _synthesized(task: Task, seeds: int, deadline: float | None) -> Schedule:
    from dse.collective import exchange, fused, gather

    given: dict[str, Any] = {"members": task.members, "seeds": seeds, "deadline": deadline}
    pieces = {"chunks" if task.collective == "all_reduce" else "per_shard": task.chunks}
    makers: dict[str, Any] = {
        "all_reduce": fused.all_reduce,
        "all_gather": gather.all_gather,
        "reduce_scatter": gather.reduce_scatter,
        "all_to_all": exchange.all_to_all,
        "broadcast": gather.broadcast,
        "reduce": gather.reduce,
    }
    roots = (task.root,) if task.collective in ROOTED else ()
    return makers[task.collective](task.topology, task.nbytes, *roots, **given, **pieces)


def _library(task: Task) -> list[str]:
    from dse.collective import library

    return library.names(task.collective)


def _known(task: Task, name: str) -> Schedule | None:
    """A library algorithm, where this network and group have it."""
    from dse.collective import library

    try:
        return library.LIBRARY[name](
            task.topology, task.collective, task.nbytes, members=task.members, root=task.root, per_shard=task.chunks
        )
    except SpecError:
        return None


def _finished(made: Schedule | None, merge: bool) -> Schedule | None:
    if made is None or not merge:  # several chunks in a message are for merging only: they pay one latency
        return made if made is None or made.message is None else None
    from dse.collective.merge import merged

    return merged(made)


@cache
def _load_compiled(collective: str) -> None:
    """Compile what is needed, or load it from the cache, once a process: that is no part of a synthesis' time."""
    from dse.collective.files import load

    root = 0 if collective in ROOTED else None
    for shape in ("torus:3x3", "mesh:2x3,fail=1,bandwidths=25GB/s:50GB/s"):
        _synthesized(checked(load(shape), collective, 2.0**20, root=root), 1, 0.0)


def _verified(made: Schedule) -> bool:
    from dse.collective.verifier import verify

    report = verify(made)
    if not report.valid:
        raise InvalidSchedule(made, report)
    return True


class InvalidSchedule(DseError):
    """A synthesizer made a schedule that the verifier refuses: a defect of this package, shown rather than used."""

    def __init__(self, schedule: Schedule, report: Any) -> None:
        super().__init__(f"{schedule!r} is not valid: {report}")
        self.schedule, self.report = schedule, report
