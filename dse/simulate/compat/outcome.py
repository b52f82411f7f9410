"""What a run came to: times of every rank and node, and why it ended early where it did."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import DseError
from dse.simulate.compat import layout as L
from dse.simulate.compat.layout import Ints, State
from dse.simulate.compat.machine import Program
from dse.trace.columns import TraceSet
from dse.trace.schema import Kind

if TYPE_CHECKING:
    import pandas as pd

WHY = {
    L.UNSUPPORTED: "no collective of this kind (all-reduce, all-gather, reduce-scatter, all-to-all, broadcast)",
    L.ON_CPU: "a node that communicates is marked is_cpu_op",
    L.NO_SRC: "a receive has no comm_src",
    L.NO_DST: "a send has no comm_dst",
    L.NOT_MINE: "a send from, or a receive to, another rank",
    L.NO_RANK: "a message to or from a rank that there is not",
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

    def to_dict(self) -> dict[str, Any]:
        """The run as plain values: summary, and a list of one entry a rank; ``None`` where a rank did not finish."""
        columns = {
            "wall": self.wall,
            "compute": self.gpu,
            "cpu": self.cpu,
            "communication": self.comm,
            "memory": self.memory,
            "overlap": self.overlap,
            "exposed": self.exposed,
            "finished": self.finished,
        }
        done = self.finished >= 0
        ranks = [
            {"rank": rank, **{name: int(column[rank]) if done[rank] else None for name, column in columns.items()}}
            for rank in range(len(done))
        ]
        return {
            "cycles_max": self.cycles_max if done.all() else None,
            "cycles_min": self.cycles_min if done.all() else None,
            "outcome": self.outcome,
            "reasons": list(self.reasons),
            "ranks": ranks,
        }

    def to_pandas(self) -> pd.DataFrame:
        """All nodes that started: rank, id, name, kind, start and end in ns (-1: never ended)."""
        import pandas as pd

        parts = []
        for rank in range(len(self.finished)):
            trace = self.traces[rank]
            start, end = self.times(rank)
            on = start >= 0
            names = np.array(trace.names or ("",), object)
            parts.append(
                pd.DataFrame(
                    {
                        "rank": rank,
                        "id": trace.ids[on],
                        "name": names[trace.name[on]],
                        "kind": [Kind(k).name for k in trace.kind[on]],
                        "start_ns": start[on],
                        "end_ns": end[on],
                    }
                )
            )
        return pd.concat(parts, ignore_index=True).sort_values(
            ["start_ns", "rank", "id"], kind="stable", ignore_index=True
        )

    def to_file(self, path: Path | str) -> Path:
        """Write :meth:`to_pandas` to a .parquet or .csv file.

        Raises:
            SpecError: another ending. StudyError: the file cannot be written.
        """
        from dse.study.export import write_table

        return write_table(path, self.to_pandas)

    def to_perfetto(self, path: Path | str) -> Path:
        """Write the timeline of the first rank of each trace for Perfetto.

        Raises:
            SpecError: another ending. StudyError: the file cannot be written.
        """
        from dse.trace.perfetto import MOST, to_perfetto

        shown = np.unique(self.traces.of, return_index=True)[1].tolist()[:MOST]
        times = {}
        for rank in shown:
            start, end = (np.maximum(column, 0) * 1e-9 for column in self.times(rank))
            times[rank] = (start, np.maximum(end - start, 0.0))
        return to_perfetto(self.traces, path, ranks=shown, times=times)

    def __str__(self) -> str:
        done = self.finished >= 0
        if not done.all():
            return f"{self.outcome}: {int(done.sum())} of {len(done)} ranks finished\n" + "\n".join(self.reasons)
        rows = [("ns", "least", "mean", "most")]
        for name, column in (
            ("finished", self.finished),
            ("compute", self.gpu),
            ("communication", self.comm),
            ("exposed", self.exposed),
        ):
            rows.append((name, f"{column.min():,}", f"{column.mean():,.0f}", f"{column.max():,}"))
        return "\n".join(f"{a:<14}{b:>18}{c:>18}{d:>18}" for a, b, c, d in rows)

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


# What a node of each kind counts as: 0 CPU, 1 GPU, 2 communication, 3 remote memory, 4 nothing.
TYPES = np.array([4, 4, 3, 3, 1, 2, 2, 2])


def collect(program: Program, w: State) -> CompatRun:
    """Statistics of a run that has come to its end."""
    from dse.simulate.compat.statistics import busy

    traces = program.traces
    ranks = len(w.ranks)
    parts = [np.zeros(0, np.int64)]
    for trace, order in zip(traces.classes, program.orders, strict=True):
        on_cpu = (trace.kind == Kind.COMP) & (trace.cpu == 1)
        parts.append(np.where(on_cpu, 0, TYPES[trace.kind])[order])
    types = np.concatenate(parts)
    base = np.append(w.ranks[:, L.R_BASE], len(w.start))
    first = program.class_ptr[w.ranks[:, L.R_CLASS]]
    out = busy(types, first, base, w.start, w.end)
    finished = w.ranks[:, L.R_END].copy()
    ok = finished >= 0
    cpu, gpu, comm, memory, wall = (np.where(ok, column, -1) for column in out.T[:5])
    overlap = np.where(ok & (out[:, 5] > 0) & (out[:, 6] > 0), gpu + comm - wall, np.where(ok, 0, -1))
    has = np.array([np.isin(part, (0, 3)).any() for part in parts[1:]], bool)
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
        wall,
        gpu,
        cpu,
        comm,
        memory,
        overlap,
        exposed,
        finished,
        outcome,
        reasons,
        lost,
        w.start,
        w.end,
        base,
        events,
        traces,
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
