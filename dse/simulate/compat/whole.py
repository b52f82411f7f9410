"""Collectives that are answered whole: without congestion what happens in one depends only on when its NPUs come to it.

No NPU can leave a collective before all have come, so its times are known when the last one comes: from one NPU
simulated for all where they come together to a symmetric network, else from its own messages, and from memory the next
time. What can be lost is the order of things that happen to one NPU, or to one memory, in the same ns and have nothing
else to do with each other; runs with few messages are therefore simulated message by message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dse.simulate.compat import layout as L
from dse.simulate.compat.engine import Tables
from dse.simulate.compat.layout import Ints, State
from dse.simulate.compat.machine import Program, compile_program, exactly
from dse.simulate.formats import Memory, Network, System
from dse.trace.columns import Trace, TraceSet
from dse.trace.schema import Kind

# Up to so many NPUs that come at once, the order in which they leave within a ns is found out from their messages.
FEW = 64
# Messages up to which simulating each is a matter of a second.
CHEAP = 600_000
CODES = (0, 2, 7, 6)  # all-reduce, all-gather, reduce-scatter and all-to-all in the schema


def small_trace(
    rows: list[dict[str, Any]], labels: tuple[str, ...] = (), involved: tuple[tuple[bool, ...], ...] = ()
) -> Trace:
    """A trace from a few nodes; ``deps`` are rows, other keys are the columns of :class:`Trace`."""
    n = len(rows)

    def column(name: str, kind: Any, otherwise: float = 0) -> Any:
        return np.array([row.get(name, otherwise) for row in rows], kind)

    deps = [row.get("deps", []) for row in rows]
    return Trace(
        ids=column("id", np.uint64) if rows and "id" in rows[0] else np.arange(n, dtype=np.uint64),
        kind=column("kind", np.int8),
        name=np.zeros(n, np.int32),
        start=np.zeros(n, np.uint64),
        micros=column("micros", np.uint64),
        seconds=column("micros", np.float64) * 1e-6,
        data_ptr=np.cumsum([0, *map(len, deps)]).astype(np.int64),
        data=np.array([d for some in deps for d in some], np.int64),
        ctrl_ptr=np.zeros(n + 1, np.int64),
        ctrl=np.zeros(0, np.int64),
        cpu=column("cpu", np.int8),
        flops=column("flops", np.float64),
        bytes=column("bytes", np.float64),
        coll=column("coll", np.int8, -1),
        size=column("size", np.int64, -1),
        src=column("src", np.int64, -1),
        dst=column("dst", np.int64, -1),
        tag=column("tag", np.int64),
        priority=column("priority", np.int64),
        group=column("group", np.int32, -1),
        dims=column("dims", np.int32, -1),
        stream=np.full(n, -1, np.int32),
        tier=np.full(n, -1, np.int32),
        names=("",),
        labels=labels,
        involved=involved,
    )


def can_answer(tables: Tables) -> bool:
    """Whether collectives can be answered whole: no congestion, and nothing is carried from one to the next."""
    network, system = tables.network, tables.system
    if (
        network.aware
        or system.rendezvous
        or system.queues_per_dim > 1
        or system.inter_dimension_scheduling == "roundRobin"
    ):
        return False
    return all(row[L.X_ALGO] != L.TREE for row in tables.phase_rows)


def cheap(program: Program) -> bool:
    """Whether there are so few messages that each can be simulated."""
    rows, tables = program.nodes, program.tables
    share = np.bincount(program.traces.of, minlength=len(program.orders))
    ranks = np.repeat(share, np.diff(program.class_ptr))
    on = rows[:, L.N_KIND] == L.K_COLL
    times = np.bincount(rows[on, L.N_PLAN], weights=ranks[on], minlength=len(tables.plan_rows))
    steps = (_steps(tables, plan) for plan in range(len(times)) if times[plan])
    return sum(count * each for count, each in zip(times[times > 0], steps, strict=True)) <= CHEAP


def _steps(tables: Tables, plan: int) -> int:
    """Messages that one NPU sends in a plan, about."""
    low, high, _ = tables.plan_rows[plan]
    rows = tables.phase_rows[tables.chunk_ptr[low] : tables.chunk_ptr[high]]
    return sum(row[L.X_N] * (row[L.X_N] if row[L.X_COMM] == L.A2A else 2) for row in rows)


def foldable(tables: Tables, plan: int) -> bool:
    """Whether NPU 0 can stand for all: the same steps everywhere, and an order of chunks that cannot differ."""
    if tables.network.aware or tables.system.rendezvous:
        return False
    low, high, _ = tables.plan_rows[plan]
    rows = tables.phase_rows[tables.chunk_ptr[low] : tables.chunk_ptr[high]]
    plain = (
        tables.system.inter_dimension_scheduling == "ascending" and tables.system.intra_dimension_scheduling == "FIFO"
    )
    even = all(
        row[L.X_STRIDE]
        and row[L.X_ALGO] != L.TREE
        and (row[L.X_ALGO] != L.HALVING or row[L.X_N] & (row[L.X_N] - 1) == 0)
        for row in rows
    )
    return plain and even


@dataclass
class Answers:
    """The times of collectives, from the moment the first NPU comes, and how often each was asked for."""

    tables: Tables
    groups: list[Ints]
    known: dict[tuple[int, Any, bytes, bytes], tuple[Ints, Ints]] = field(default_factory=dict)
    programs: dict[tuple[int, Any], tuple[Program, Ints]] = field(default_factory=dict)
    members: dict[int, Ints] = field(default_factory=dict)
    shapes: dict[int, Any] = field(default_factory=dict)

    def _members(self, c: int, w: State) -> Ints:
        if c not in self.members:
            if c < len(self.groups):
                self.members[c] = self.groups[c]
                self.shapes[c] = self._shape(self.groups[c])
            else:
                at = c - len(self.groups)
                mask, base = at // len(w.ranks), at % len(w.ranks)
                bits, ranks = self.tables.masks[mask], np.array([base], np.int64)
                stride = 1
                for d, n in enumerate(self.tables.network.npus_count):
                    if bits >> d & 1:
                        ranks = (ranks[None, :] + stride * np.arange(n)[:, None]).ravel()
                    stride *= n
                self.members[c], self.shapes[c] = np.sort(ranks), ("all", mask)
        return self.members[c]

    def _shape(self, ranks: Ints) -> Any:
        """What messages between the members of a group cost depends on: the dimension and the hops between each two."""
        network, n = self.tables.network, len(ranks)
        if n == network.npus:
            return ("all", -1)
        cost, done = np.zeros((n, n), np.int64), np.eye(n, dtype=bool)
        stride = 1
        for d, size in enumerate(network.npus_count):
            place = ranks // stride % size
            gap = np.abs(place[:, None] - place[None, :])
            hops = np.minimum(gap, size - gap) if network.topology[d] == "Ring" else gap > 0
            fresh = (gap > 0) & ~done
            cost[fresh] = d * size * len(network.npus_count) * 1000 + hops[fresh]
            done |= fresh
            stride *= size
        return cost.tobytes()

    def times(self, c: int, plan: int, w: State) -> tuple[Ints, Ints]:
        """The members of a communicator in the order in which they end what all have come to, and when."""
        members = self._members(c, w)
        came, turn = w.arrived[members], np.argsort(w.ranks[members, L.R_CAME])
        first = came.min()
        late = came - first
        key = (plan, self.shapes[c], late.tobytes(), turn.tobytes())
        if key not in self.known:
            self.known[key] = self._simulate(c, plan, members, late, turn)
        order, took = self.known[key]
        return members[order], np.where(took < 0, -1, first + took)  # -1: it never ends

    def _simulate(self, c: int, plan: int, members: Ints, late: Ints, turn: Ints) -> tuple[Ints, Ints]:
        grouped = c < len(self.groups) and len(members) < self.tables.network.npus
        key = (plan, self.shapes[c])
        if key not in self.programs:
            self.programs[key] = self._program(plan, members, grouped), members
        program, alike = self.programs[key]  # of the first communicator of that shape
        if len(members) > FEW and not late.any() and foldable(self.tables, plan):
            took = exactly(program, fold=True).ranks[0, L.R_END]
            return np.arange(len(members)), np.full(len(members), took)
        at = np.zeros(self.tables.network.npus, np.int64)
        at[alike] = late
        others = np.setdiff1d(np.arange(len(at)), alike)
        ranks = exactly(program, at=at, order=np.concatenate([alike[turn], others])).ranks[alike]
        order = np.lexsort((ranks[:, L.R_WENT], ranks[:, L.R_END]))
        return order, ranks[order, L.R_END]

    def _program(self, plan: int, members: Ints, grouped: bool) -> Program:
        comm, size, bits, _ = self.tables.keys[plan]
        network = self.tables.network
        node = {"kind": Kind.COLL, "coll": CODES[comm], "size": size, "dims": 0, "group": 0 if grouped else -1}
        flags = (tuple(bool(bits >> d & 1) for d in range(len(network.npus_count))),)
        labels = ("1",) if grouped else ()
        traces = (small_trace([node], labels, flags), small_trace([]))
        of = np.ones(network.npus, np.int64)
        of[members] = 0
        groups = {"1": members[None, :]} if grouped else {}
        return compile_program(TraceSet(traces, of, groups), network, self.tables.system, Memory())


def wholly(program: Program) -> State | None:
    """Run with collectives answered whole; None where ranks disagree about one, so that only messages can tell."""
    from dse.simulate.compat.arrays import pack
    from dse.simulate.compat.machine import state
    from dse.simulate.compat.work import advance, begin, done

    scale = 8
    while True:
        w = state(program, scale, True)
        pointers = w.group_ptr
        answers = Answers(program.tables, [w.members[pointers[g] : pointers[g + 1]] for g in range(len(pointers) - 1)])
        packed = pack(w)
        everyone = np.arange(len(w.ranks))
        begin(packed, everyone * 0, everyone)
        while True:
            advance(packed)
            if w.clock[L.STATUS] == -1:
                return None
            if not w.clock[L.ASK] or w.clock[L.FULL]:
                break
            c = int(w.clock[L.ASK]) - 1
            w.clock[L.ASK], w.clock[L.ASK_TOO] = w.clock[L.ASK_TOO], 0
            members, times = answers.times(c, int(w.comms[c, L.C_PLAN]), w)
            if (times < 0).any():
                return None  # its chunks block each other
            early = 10 if c < len(answers.groups) else program.tables.system.endpoint_delay
            done(packed, members, times, early)
        if not w.clock[L.FULL]:
            return w
        scale *= 4


def durations(network: Network, system: System, comm: int, size: int) -> tuple[int, int]:
    """Longest and shortest time in ns of one collective over all NPUs; -1 where it blocks itself."""
    node = {"kind": Kind.COLL, "coll": CODES[comm], "size": size, "dims": 0}
    flags = ((True,) * len(network.npus_count),)
    traces = TraceSet((small_trace([node], (), flags),), np.zeros(network.npus, np.int64))
    program = compile_program(traces, network, system, Memory())
    w = exactly(program, fold=foldable(program.tables, 0))
    ends = w.ranks[:, L.R_END]
    return (int(ends.max()), int(ends.min())) if (ends >= 0).all() else (-1, -1)
