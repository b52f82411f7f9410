"""A schedule as runtimes see it: chunks that go from NPU to NPU, whatever switches are between."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from dse.collective.execute import carried
from dse.collective.schedule import EVERYONE, Schedule
from dse.collective.topology import Floats, Ints
from dse.errors import Fault, SpecError

FINEST = 1 << 16  # units that the data is cut into, at most


class Moves(NamedTuple):
    """Ranks instead of NPUs, [moves] each, in order of their start.

    Attributes:
        chunk: its number.
        src, dst: ranks, that is places in the members.
        link: of its first hop.
        start, end: seconds, of the first hop and the last.
        reduce: whether the receiver adds.
        passes: the move whose load it passes on, -1: what the source holds.
        passed: whether another move passes on its load, and the receiver keeps nothing.
        message: moves of a pair of ranks with the same number set out as one message.
        lane: of all moves of a pair of ranks; those of one lane end in the order in which they start.
    """

    chunk: Ints
    src: Ints
    dst: Ints
    link: Ints
    start: Floats
    end: Floats
    reduce: np.ndarray
    passes: Ints
    passed: np.ndarray
    message: Ints
    lane: Ints


def fault(name: str, value: object, rule: str) -> SpecError:
    """The error of a schedule that a format cannot say."""
    return SpecError([Fault(name, str(value), rule)])


def moves_of(schedule: Schedule) -> Moves:
    """The moves of a schedule; what goes through switches is one move.

    Raises:
        SpecError: an NPU passes data on that is not a member and so has no rank.
    """
    count, npus = schedule.transfers, schedule.topology.npus
    came = np.array(carried(schedule), np.int64).reshape(count)
    source, destination = schedule.source, schedule.destination
    first = np.arange(count)
    for i in np.argsort(schedule.start, kind="stable").tolist():
        if source[i] >= npus:
            first[i] = first[came[i]]
    last = np.flatnonzero(destination < npus)
    last = last[np.lexsort((schedule.end[last], schedule.start[first[last]]))]
    head = first[last]
    back = source[head] == destination[last]  # a copy that a switch has sent back to where it came from: nothing new
    on = np.zeros(count, bool)
    on[came[came >= 0]] = True
    if (back & (on[last] | schedule.reduce[last])).any():
        raise fault("schedule", f"NPU {source[head][back][0]}", "uses what it has sent to itself through a switch")
    last, head = last[~back], head[~back]
    rank = np.full(npus, -1)
    rank[schedule.members] = np.arange(len(schedule.members))
    src, dst = rank[source[head]], rank[destination[last]]
    if (src < 0).any() or (dst < 0).any():
        out = np.append(source[head][src < 0], destination[last][dst < 0])
        raise fault("members", int(out[0]), "passes data on but is no member: a communicator has members only")
    number = np.full(count, -1)
    number[last] = np.arange(len(last))
    passes = np.where(came[head] >= 0, number[came[head]], -1)
    passed = np.zeros(len(last), bool)
    passed[passes[passes >= 0]] = True
    chunk, link = schedule.chunk[last].astype(np.int64), schedule.link[head].astype(np.int64)
    start, end = schedule.start[head], schedule.end[last]
    message = head if schedule.message is None else schedule.message[head].astype(np.int64)
    reduce, lane = schedule.reduce[last], _lanes(src, dst, end)
    return Moves(chunk, src, dst, link, start, end, reduce, passes, passed, message, lane)


def _lanes(src: Ints, dst: Ints, end: Floats) -> Ints:
    """Lanes of moves in order of their start: each takes the first lane whose last move ends before it does."""
    ends: dict[tuple[int, int], list[float]] = {}
    lane = np.zeros(len(src), np.int64)
    for i, (pair, e) in enumerate(zip(zip(src.tolist(), dst.tolist(), strict=True), end.tolist(), strict=True)):
        lanes = ends.setdefault(pair, [])
        k = next((k for k, before in enumerate(lanes) if before <= e), len(lanes))
        lane[i] = k
        lanes[k:] = [e] if k == len(lanes) else [e, *lanes[k + 1 :]]
    return lane


class Units(NamedTuple):
    """The data in equal units: ``total`` of them, and the first and the number of those of each chunk, [chunks]."""

    total: int
    first: Ints
    count: Ints


def units_of(schedule: Schedule, multiple: int = 1) -> Units:
    """The coarsest equal units that all chunks (and shards) are made of.

    Raises:
        SpecError: there would be more than 65,536.
    """
    n, chunks, whole = len(schedule.members), schedule.chunks, schedule.nbytes
    sharded = schedule.collective in ("all_gather", "reduce_scatter", "all_to_all")
    total = math.lcm(multiple, n if sharded else 1)
    points = np.unique(np.concatenate([chunks.offset, chunks.offset + chunks.size]) / whole)
    for point in points.tolist():
        near = Fraction(point).limit_denominator(FINEST)
        total = math.lcm(total, near.denominator)
        if abs(point - near) > 1e-9 or total > FINEST:
            rule = f"must be made of at most {FINEST} equal units, and have no common unit as large as that"
            raise fault("chunks", f"bytes up to {point * whole:.9g}", rule)
    first = np.round(chunks.offset / whole * total).astype(np.int64)
    last = np.round((chunks.offset + chunks.size) / whole * total).astype(np.int64)
    return Units(total, first, last - first)


class Slot(NamedTuple):
    """Units in a buffer of a rank: "i" input, "o" output, "s" scratch."""

    buffer: str
    first: int
    count: int


NOWHERE = Slot("", 0, 0)


class Op(NamedTuple):
    """Something a rank does.

    Attributes:
        kind: "send" a slot; "recv" into a slot; "recv add": what comes and ``src`` together into ``dst``; "copy" and
            "add" from slot to slot of the rank itself.
        chunk: that it is about, -1: the block that an NPU of an all-to-all keeps.
        move: that it is an end of, -1 for none.
        src, dst: the slots it reads and writes, ``NOWHERE`` for none.
        after: operations of the rank that must be done before.
    """

    rank: int
    kind: str
    chunk: int
    move: int
    src: Slot
    dst: Slot
    after: tuple[int, ...]


class Program(NamedTuple):
    """What every rank does, all in an order in which it can be carried out.

    Attributes:
        moves, units: of the schedule.
        ops: all ranks' operations.
        scratch: units of scratch that each rank needs, [ranks].
        input, output: units of the input and of the output of each rank.
        inplace: the output is the input.
    """

    moves: Moves
    units: Units
    ops: list[Op]
    scratch: list[int]
    input: int
    output: int
    inplace: bool


def program(schedule: Schedule, inplace: bool = False, multiple: int = 1) -> Program:
    """Operations of every rank and what each of them waits for.

    A rank keeps partial sums in scratch where the whole sum comes to it later, else where the result is. Inputs are
    left as they are unless they are the outputs.

    Args:
        inplace: sums are made in the input, which is the output: of an all-reduce.
        multiple: make the number of units a multiple of this.

    Raises:
        SpecError: ``inplace`` for another collective, or what :func:`moves_of` and :func:`units_of` refuse.
    """
    return _Builder(schedule, inplace, multiple).run()


class _Builder:
    def __init__(self, schedule: Schedule, inplace: bool, multiple: int) -> None:
        apart = (schedule.chunks.origin != EVERYONE).any()
        if inplace and (schedule.collective != "all_reduce" or apart):
            raise fault("inplace", inplace, "is for all-reduces whose chunks are of everyone")
        self.s, self.inplace = schedule, inplace
        self.moves, self.units = moves_of(schedule), units_of(schedule, multiple)
        self.n = len(schedule.members)
        self.shard = self.units.total // self.n
        self.reducing = schedule.collective in ("all_reduce", "reduce_scatter", "reduce")
        rank = {npu: r for r, npu in enumerate(schedule.members.tolist())} | {EVERYONE: EVERYONE}
        self.origin = [rank[npu] for npu in schedule.chunks.origin.tolist()]
        self.target = [rank[npu] for npu in schedule.chunks.target.tolist()]
        self.first, self.count = self.units.first.tolist(), self.units.count.tolist()
        self.apart = self.reducing and bool(apart)  # sums of whole contributions, added when they are there
        self.ops: list[Op] = []
        self.scratch = [0] * self.n
        self.at: dict[tuple[int, int], Slot] = {}  # where a rank holds a chunk
        self.wrote: dict[tuple[int, str, int], int] = {}  # last operation that wrote the units from there on
        self.read: dict[tuple[int, str, int], list[int]] = {}  # those that read them since
        self.passing: dict[int, Slot] = {}

    def run(self) -> Program:
        m = self.moves
        for c, origin in enumerate(self.origin):
            for r in range(self.n) if origin == EVERYONE else [origin]:
                self.at[c, r] = self._input(c, r)
        plain = {}  # the last plain arrival of a chunk at a rank
        for i in np.argsort(m.end, kind="stable").tolist():
            if not m.passed[i]:
                plain[int(m.chunk[i]), int(m.dst[i])] = not m.reduce[i]
        slack = np.minimum(1e-9 * self.s.time, (m.end - m.start) / 2)
        count = len(m.chunk)
        order = np.argsort(np.concatenate([m.end, m.start + slack]), kind="stable").tolist()
        chunk, src, dst = m.chunk.tolist(), m.src.tolist(), m.dst.tolist()
        for k in order:
            i = k % count
            c = chunk[i]
            if k >= count:
                slot = self.passing.pop(int(m.passes[i])) if m.passes[i] >= 0 else self._held(c, src[i], i)
                self._op(src[i], "send", c, i, slot, NOWHERE)
                continue
            r = dst[i]
            if m.passed[i]:
                self.passing[i] = self._scratch(r, c)
                self._op(r, "recv", c, i, NOWHERE, self.passing[i])
                continue
            old = self.at.get((c, r))
            if m.reduce[i] and old is not None:
                home = self._scratch_of(c, r, old) if plain[c, r] else self._home(c, r)
                self._op(r, "recv add", c, i, old, home)
            else:
                home = self._home(c, r)
                self._op(r, "recv", c, i, NOWHERE, home)
            self.at[c, r] = home
        self._finish()
        output = self.shard if self.s.collective == "reduce_scatter" else self.units.total
        given = self.shard if self.s.collective == "all_gather" else self.units.total
        return Program(m, self.units, self.ops, self.scratch, given, output, self.inplace)

    def _finish(self) -> None:
        """Results that are not in the output yet."""
        whole: set[tuple[int, int]] = set()
        for c, target in enumerate(self.target):
            for r in range(self.n) if target == EVERYONE else [target]:
                out, held = self._output(c, r), self.at.get((c, r))
                if held is None:
                    raise fault("schedule", f"chunk {c}", f"never comes to rank {r}")
                if self.apart:
                    self._op(r, "add" if (r, out.first) in whole else "copy", c, -1, held, out)
                    whole.add((r, out.first))
                elif held != out:
                    self._op(r, "copy", c, -1, held, out)
        if self.s.collective == "all_to_all":
            for r in range(self.n):
                own = Slot("i", r * self.shard, self.shard)
                if not any(o == t == r for o, t in zip(self.origin, self.target, strict=True)):
                    self._op(r, "copy", -1, -1, own, Slot("o", own.first, own.count))

    def _held(self, c: int, r: int, move: int) -> Slot:
        if (c, r) not in self.at:
            raise fault("schedule", f"move {move}", f"sends chunk {c} before it has come to rank {r}")
        return self.at[c, r]

    def _input(self, c: int, r: int) -> Slot:
        first = self.first[c]
        if self.s.collective == "all_gather":
            first -= r * self.shard
        if self.s.collective == "all_to_all":
            first += (self.target[c] - r) * self.shard
        return Slot("i", first, self.count[c])

    def _output(self, c: int, r: int) -> Slot:
        first = self.first[c] - (r * self.shard if self.s.collective == "reduce_scatter" else 0)
        return Slot("i" if self.inplace else "o", first, self.count[c])

    def _home(self, c: int, r: int) -> Slot:
        """Where a chunk belongs at a rank."""
        mine = self.target[c] in (EVERYONE, r) and not self.apart
        return self._output(c, r) if mine else self._scratch_of(c, r, self.at.get((c, r)))

    def _scratch_of(self, c: int, r: int, old: Slot | None) -> Slot:
        if self.inplace and old is not None:
            return old
        return old if old is not None and old.buffer == "s" else self._scratch(r, c)

    def _scratch(self, r: int, c: int) -> Slot:
        slot = Slot("s", self.scratch[r], self.count[c])
        self.scratch[r] += slot.count
        return slot

    def _op(self, rank: int, kind: str, chunk: int, move: int, src: Slot, dst: Slot) -> None:
        number = len(self.ops)
        after: list[int] = []
        reads = [slot for slot in (src, dst if kind == "add" else NOWHERE) if slot.buffer]
        for slot in reads:
            key = (rank, slot.buffer, slot.first)
            after += [self.wrote[key]] if key in self.wrote else []
            self.read.setdefault(key, []).append(number)
        if dst.buffer:
            key = (rank, dst.buffer, dst.first)
            after += [self.wrote[key]] if key in self.wrote else []
            after += self.read.get(key, [])
            self.wrote[key], self.read[key] = number, []
        self.ops.append(Op(rank, kind, chunk, move, src, dst, tuple(sorted({k for k in after if k != number}))))


def by_rank(ops: Iterable[Op], ranks: int) -> list[list[int]]:
    """Numbers of each rank's operations, in order."""
    found: list[list[int]] = [[] for _ in range(ranks)]
    for number, op in enumerate(ops):
        found[op.rank].append(number)
    return found
