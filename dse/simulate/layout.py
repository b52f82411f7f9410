"""Who runs what and talks to whom: programs, groups and peers of all ranks, free of the names in files.

Files of equal ranks differ in the labels of their groups and in the numbers of their peers. Here a program refers to
groups and peers by slots (the first, second, ... that it uses), and every rank says what its slots are: ranks that do
the same then have the same program, whatever their files call things.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dse.errors import Fault, SpecError
from dse.simulate.system import System
from dse.trace.columns import Trace, TraceSet
from dse.trace.schema import Kind

Ints = NDArray[np.int64]
Key = tuple[str, tuple[bool, ...] | None]  # label of a group, and the dimensions involved of the world
WORLD = ""
_WORK = ("kind", "seconds", "cpu", "flops", "bytes", "coll", "size", "priority", "tag")
_CONTENT = (*_WORK, "data_ptr", "data", "ctrl_ptr", "ctrl")


@dataclass(frozen=True)
class Program:
    """A trace with slots: row -> slot of its group (``slot``) and of its peer (``peer``), -1 where it has none."""

    trace: Trace
    slot: Ints
    peer: Ints
    order: Ints  # place of each row by ascending id


@dataclass(frozen=True)
class Groups:
    """Groups as compressed rows of ranks, their ranks in each dimension, and the slot each member knows them by."""

    ptr: Ints
    rank: Ints
    slot: Ints
    shares: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ptr) - 1

    def of(self, group: int) -> Ints:
        return self.rank[self.ptr[group] : self.ptr[group + 1]]


@dataclass(frozen=True)
class Layout:
    """Program of each rank [R], group in each of its slots [R, slots], rank in each of its peer slots [R, peers]."""

    programs: tuple[Program, ...]
    program: Ints
    groups: Groups
    slots: Ints
    peers: Ints

    @property
    def accesses(self) -> bool:
        """Whether groups access memories."""
        return any(bool(np.any(p.slot[p.trace.kind != Kind.COLL] >= 0)) for p in self.programs)

    @property
    def ranks(self) -> int:
        return len(self.program)


def layout(traces: TraceSet, system: System) -> Layout:
    """Programs, groups and peers of a set of traces on a system.

    Raises:
        SpecError: more ranks than places, unknown labels, ranks outside their groups, peers that do not exist.
    """
    ranks = len(traces)
    if ranks == 0 or ranks > system.ranks:
        rule = f"the system has {system.ranks} places (must be at least one rank, and no more than that)"
        raise SpecError([Fault("ranks", str(ranks), rule, traces.source)])
    slotted = [_slots(trace, system) for trace in traces.classes]
    keys = {key: i for i, key in enumerate(dict.fromkeys(key for _, found, _ in slotted for key in found))}
    tables = [_table(key, traces, system) for key in keys]
    groups, flat_key, flat_at = _flatten(tables, ranks, system)
    width = max((len(found) for _, found, _ in slotted), default=0)
    slots = np.full((ranks, width), -1, np.int64)
    peers = np.full((ranks, max((len(far) for _, _, far in slotted), default=0)), -1, np.int64)
    for index, (program, found, far) in enumerate(slotted):
        mine = np.flatnonzero(traces.of == index)
        for slot, key in enumerate(found):
            wanted = keys[key] * ranks + mine
            at = np.minimum(np.searchsorted(flat_key, wanted), max(len(flat_key) - 1, 0))
            lost = np.flatnonzero(flat_key[at] != wanted) if len(flat_key) else np.arange(len(mine))
            if len(lost):
                rule = f"rank {mine[lost[0]]} uses the group and is not in it"
                raise SpecError([Fault("pg_name", repr(key[0])[:40], rule, traces.source)])
            groups.slot[flat_at[at]] = slot
            slots[mine, slot] = np.searchsorted(groups.ptr, flat_at[at], side="right") - 1
        if len(far) and len(mine):
            where = mine[:, None] + far if program.trace.relative else np.broadcast_to(far, (len(mine), len(far)))
            wrong = (where < 0) | (where >= ranks)
            if wrong.any():
                row, column = np.argwhere(wrong)[0]
                rule = f"rank {mine[row]} names it as a peer; ranks are 0 to {ranks - 1}"
                raise SpecError([Fault("comm_src or comm_dst", str(where[row, column]), rule, traces.source)])
            peers[mine, : len(far)] = where
    programs, same = _merge([program for program, _, _ in slotted])
    return Layout(programs, same[traces.of], groups, slots, peers)


def _slots(trace: Trace, system: System) -> tuple[Program, list[Key], Ints]:
    """A trace as a program; the keys of its group slots; the peers (or offsets) of its peer slots."""
    n = len(trace)
    slot, peer = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    memory = ((trace.kind == Kind.MEM_LOAD) | (trace.kind == Kind.MEM_STORE)) & (trace.coll >= 0) & (trace.group >= 0)
    grouped = np.flatnonzero((trace.kind == Kind.COLL) | memory)
    keys: dict[Key, int] = {}
    codes = trace.group[grouped].astype(np.int64) * (len(trace.involved) + 2) + trace.dims[grouped]
    for code in dict.fromkeys(codes.tolist()):
        rows = grouped[codes == code]
        key = _key(trace, int(rows[0]), system)
        slot[rows] = keys.setdefault(key, len(keys))
    talks = np.flatnonzero((trace.kind == Kind.SEND) | (trace.kind == Kind.RECV))
    other = np.where(trace.kind[talks] == Kind.SEND, trace.dst[talks], trace.src[talks])
    far = np.asarray(list(dict.fromkeys(other.tolist())), np.int64)
    if len(far):
        order = np.argsort(far)
        peer[talks] = order[np.searchsorted(far, other, sorter=order)]
    order = np.empty(n, np.int64)
    order[np.argsort(trace.ids, kind="stable")] = np.arange(n)
    return Program(trace, slot, peer, order), list(keys), far


def _key(trace: Trace, row: int, system: System) -> Key:
    label = trace.labels[trace.group[row]] if trace.group[row] >= 0 else WORLD
    if label not in (WORLD, "0"):
        return label, None
    if trace.dims[row] < 0:
        return WORLD, None
    flags = (*trace.involved[trace.dims[row]], *([False] * len(system.sizes)))[: len(system.sizes)]
    return WORLD, None if all(flags) or not any(flags) else flags


def _table(key: Key, traces: TraceSet, system: System) -> Ints:
    """The groups of a key, as ranks [groups, size]."""
    label, flags = key
    ranks = len(traces)
    if label != WORLD:
        if label not in traces.groups:
            known = ", ".join(list(traces.groups)[:8]) or "none"
            raise SpecError([Fault("pg_name", repr(label)[:40], f"no such group; known: {known}", traces.source)])
        table = np.asarray(traces.groups[label], np.int64)
        if table.size and (table.min() < 0 or table.max() >= ranks):
            rule = f"the group names rank {int(table.max())}; ranks are 0 to {ranks - 1}"
            raise SpecError([Fault("pg_name", repr(label)[:40], rule, traces.source)])
        if table.size and bool((np.diff(np.sort(table, axis=1), axis=1) == 0).any()):
            raise SpecError([Fault("pg_name", repr(label)[:40], "a group names a rank twice", traces.source)])
        return table
    if flags is None:
        return np.arange(ranks)[None, :]
    outside = system.coordinates(np.arange(ranks))[:, [not flag for flag in flags]]
    stays = np.ravel_multi_index(tuple(outside.T), [s for s, flag in zip(system.sizes, flags, strict=True) if not flag])
    counts = np.unique(stays, return_counts=True)[1]
    if counts.min() != counts.max():
        rule = f"{ranks} ranks do not fill the network, so that groups over these dimensions differ in size"
        raise SpecError([Fault("involved_dim", str(flags), rule, traces.source)])
    return np.argsort(stays, kind="stable").reshape(len(counts), -1)


def _flatten(tables: list[Ints], ranks: int, system: System) -> tuple[Groups, Ints, Ints]:
    """All groups in one; (key, rank) sorted, and where in ``Groups.rank`` each is."""
    sizes = [np.full(len(table), table.shape[1], np.int64) for table in tables]
    ptr = np.concatenate([[0], np.cumsum(np.concatenate([np.zeros(0, np.int64), *sizes]))]).astype(np.int64)
    rank = np.concatenate([np.zeros(0, np.int64), *(table.ravel() for table in tables)])
    key = np.repeat(np.arange(len(tables)), [table.size for table in tables]) * ranks + rank
    at = np.argsort(key, kind="stable")
    shares = np.concatenate([np.zeros((0, len(system.sizes))), *(shares_of(table, system) for table in tables)])
    return Groups(ptr, rank, np.full(len(rank), -1, np.int64), shares), key[at], at


def shares_of(table: Ints, system: System) -> NDArray[np.float64]:
    """Ranks of each group in each dimension, [groups, dimensions], whose product is the group's size.

    With m the least number of members that one block of the dimensions up to i holds, the share of i is m over that of
    the dimensions inside. Where the group is no regular grid, the member with fewest others near it sets the pace: it
    has to send the most over the outer dimensions.
    """
    within, stride = [np.ones(len(table))], 1
    for size in system.sizes[:-1]:
        stride *= size
        within.append(_least_run(np.sort(table // stride, axis=1)))
    within.append(np.full(len(table), float(table.shape[1])))
    return np.stack([outer / inner for inner, outer in pairwise(within)], axis=1)


def _least_run(rows: Ints) -> NDArray[np.float64]:
    """Length of the shortest run of equal values in each sorted row."""
    first = np.ones(rows.shape, bool)
    first[:, 1:] = rows[:, 1:] != rows[:, :-1]
    starts = np.flatnonzero(first)
    lengths = np.diff(np.append(starts, rows.size))
    return np.minimum.reduceat(lengths, np.flatnonzero(starts % rows.shape[1] == 0)).astype(float)


def _merge(programs: list[Program]) -> tuple[tuple[Program, ...], Ints]:
    """Equal programs once, and which of them each is."""
    if len(programs) == 1:
        return tuple(programs), np.zeros(1, np.int64)
    kept: dict[bytes, int] = {}
    firsts, same = [], np.zeros(len(programs), np.int64)
    for index, program in enumerate(programs):
        digest = hashlib.blake2b(digest_size=16)
        for name in _CONTENT:
            digest.update(np.ascontiguousarray(getattr(program.trace, name)).tobytes())
        tier = program.trace.tier
        names = [program.trace.tiers[code] if code >= 0 else "" for code in tier.tolist()] if np.any(tier >= 0) else []
        for part in (program.slot, program.peer, program.order):
            digest.update(part.tobytes())
        digest.update(repr(names).encode())
        at = kept.setdefault(digest.digest(), len(kept))
        if at == len(firsts):
            firsts.append(program)
        same[index] = at
    return tuple(firsts), same
