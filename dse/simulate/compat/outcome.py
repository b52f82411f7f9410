"""What a run came to: times of every rank and node, and why it ended early where it did."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dse.errors import DseError
from dse.simulate.compat import layout as L
from dse.simulate.compat.layout import Ints, State
from dse.simulate.compat.machine import Program
from dse.trace.columns import TraceSet
from dse.trace.schema import Kind

WHY = {
    L.UNSUPPORTED: "a collective of this kind is not supported (all-reduce, all-gather, reduce-scatter, all-to-all, broadcast are)",
    L.ON_CPU: "a node that communicates is marked is_cpu_op",
    L.NO_SRC: "a receive has no comm_src",
    L.NO_DST: "a send has no comm_dst",
    L.NO_GROUP: "the rank is in no communicator group of that name",
    L.METADATA: "a METADATA node",
    L.NO_SIZE: "a node that communicates has no comm_size above 0",
    L.NO_REMOTE: "a load or store of remote memory, and the memory is NO_MEMORY_EXPANSION",
    L.TO_ITSELF: "a message of a rank to itself",
    L.NO_TYPE: "a collective has no comm_type",
}


class SimulationError(DseError):
    """A run that did not end as it should; the message says which ranks and why."""


class Deadlock(SimulationError):
    """Ranks wait for one another, for a rank that will never answer, or have nothing left that could happen."""


class Aborted(SimulationError):
    """A node that the public simulator cannot execute ended the whole run."""


@dataclass(frozen=True, eq=False)
class CompatRun:
    """Times of a run in ns; int64, R ranks; -1 where a rank did not finish.

    Attributes:
        wall, gpu, cpu, comm, memory: time in which a rank had a node of that kind, together and each.
        overlap: gpu + comm - wall where there are both, as the public simulator has it.
        exposed: finish time less the compute time.
        finished: when the rank had no node left.
        outcome: ``finished``, ``deadlock`` or ``aborted``; ``reasons`` for the latter.
        lost: whether the public simulator loses a rank's statistics (it has nodes on the CPU or of remote memory).
        starts, ends: of each node of all ranks; see :meth:`times`.
        events: how many events were simulated.
    """

    wall: Ints
    gpu: Ints
    cpu: Ints
    comm: Ints
    memory: Ints
    overlap: Ints
    exposed: Ints
    finished: Ints
    outcome: str
    reasons: tuple[str, ...]
    lost: np.ndarray
    starts: Ints
    ends: Ints
    base: Ints
    events: int
    traces: TraceSet = field(repr=False)

    @property
    def cycles_max(self) -> int:
        """When the last rank finished; -1 if one did not."""
        return int(self.finished.max()) if (self.finished >= 0).all() else -1

    @property
    def cycles_min(self) -> int:
        """When the first rank finished; -1 if one did not."""
        return int(self.finished.min()) if (self.finished >= 0).all() else -1

    def times(self, rank: int) -> tuple[Ints, Ints]:
        """When the nodes of a rank started and ended, in the order of its trace; -1 where they did not."""
        part = slice(int(self.base[rank]), int(self.base[rank + 1]))
        order = np.argsort(self.traces[rank].ids, kind="stable")
        start, end = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
        start[order], end[order] = self.starts[part], self.ends[part]
        return start, end

    def check(self) -> CompatRun:
        """This run, if all ranks finished.

        Raises:
            Deadlock, Aborted: they did not.
        """
        if self.outcome == "finished":
            return self
        done = int((self.finished >= 0).sum())
        head = f"{done} of {len(self.finished)} ranks finished: "
        raise (Deadlock if self.outcome == "deadlock" else Aborted)(head + "; ".join(self.reasons))


KINDS = {Kind.MEM_LOAD: 3, Kind.MEM_STORE: 3, Kind.SEND: 2, Kind.RECV: 2, Kind.COLL: 2}


def collect(program: Program, w: State) -> CompatRun:
    """Statistics of a run that has come to its end."""
    from dse.simulate.compat.statistics import busy

    traces = program.traces
    ranks = len(w.ranks)
    types = np.concatenate(
        [
            np.array([KINDS.get(Kind(k), 4) if k != Kind.COMP else int(c != 1) for k, c in zip(t.kind, t.cpu, strict=True)], np.int64)[
                order
            ]
            for t, order in zip(traces.classes, program.orders, strict=True)
        ]
        or [np.zeros(0, np.int64)]
    )
    base = np.append(w.ranks[:, L.R_BASE], len(w.start))
    first = program.class_ptr[w.ranks[:, L.R_CLASS]]
    out = busy(types, first, base, w.start, w.end)
    finished = w.ranks[:, L.R_END].copy()
    ok = finished >= 0
    cpu, gpu, comm, memory, wall = (np.where(ok, column, -1) for column in out.T[:5])
    overlap = np.where(ok & (out[:, 5] > 0) & (out[:, 6] > 0), gpu + comm - wall, np.where(ok, 0, -1))
    has = np.array([bool(((t.cpu == 1) & (t.kind == Kind.COMP)).any() or np.isin(t.kind, (2, 3)).any()) for t in traces.classes])
    outcome, reasons = "finished", ()
    if w.clock[L.STATUS] > 0:
        outcome, reasons = "aborted", (_abort(program, w),)
    elif not ok.all():
        from dse.simulate.compat.blame import blame

        outcome, reasons = "deadlock", tuple(blame(program, w))
    exposed = np.where(ok, finished - w.ranks[:, L.R_TICS], -1)
    lost = has[traces.of[:ranks]] if len(has) else np.zeros(ranks, bool)
    events = int(w.clock[L.EVENTS])
    return CompatRun(
        wall, gpu, cpu, comm, memory, overlap, exposed, finished, outcome, reasons, lost, w.start, w.end, base, events, traces
    )


def node_name(program: Program, rank: int, local: int) -> str:
    """A node as messages name it: its id, and its name if it has one."""
    c = int(program.traces.of[rank])
    trace, row = program.traces.classes[c], int(program.orders[c][local])
    name = trace.names[trace.name[row]] if trace.names else ""
    return f"node {trace.ids[row]}" + (f" ({name[:60]})" if name else "")


def _abort(program: Program, w: State) -> str:
    rank, local = int(w.clock[L.BAD_RANK]), int(w.clock[L.BAD_NODE])
    return f"rank {rank}, {node_name(program, rank, local)}: {WHY[int(w.clock[L.STATUS])]}"
