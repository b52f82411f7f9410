"""Whether traces make sense: findings, each a sentence with the rank and the node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dse.trace.columns import Ints, Trace, TraceSet
from dse.trace.dialects import WHOLE
from dse.trace.schema import Collective, Kind

SHOWN = 10  # findings of one rule in one trace; the rest is counted
Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """Something about a set of traces; ``rank`` and ``node`` are -1 where it is about none in particular.

    An ``error`` cannot be executed; a ``warning`` can, but is unlikely to be meant.
    """

    severity: Severity
    rank: int
    node: int
    what: str
    rule: str

    def __str__(self) -> str:
        where = "" if self.rank < 0 else f"rank {self.rank}" + (f", node {self.node}: " if self.node >= 0 else ": ")
        return f"{self.severity}: {where}{self.what} ({self.rule})"


def validate(traces: TraceSet) -> list[Finding]:
    """Every fault of a set of traces: of each trace, between senders and receivers, and within groups.

    Ranks that share a trace are reported once, under the first of them; of many faults of one rule in one trace the
    first ten.
    """
    _, first = np.unique(traces.of, return_index=True)
    out: list[Finding] = []
    for rank in first.tolist():
        out += _nodes(traces, rank)
        out += _graph(traces[rank], rank)
    out += _labels(traces)
    out += _messages(traces)
    out += _collectives(traces)
    return sorted(out, key=lambda finding: (finding.severity, finding.rank))


def _each(
    trace: Trace, rank: int, bad: np.ndarray, severity: Severity, what: str, rule: str, shown: Ints | None = None
) -> Iterator[Finding]:
    """A finding for each bad row; {} in ``what`` is the row's value in ``shown``."""
    rows = np.flatnonzero(bad)
    for row in rows[:SHOWN].tolist():
        value = "" if shown is None else shown[row]
        yield Finding(severity, rank, int(trace.ids[row]), what.format(value), rule)
    if len(rows) > SHOWN:
        yield Finding(severity, rank, -1, f"{len(rows) - SHOWN} more nodes like the one before", rule)


# --- one trace ------------------------------------------------------------------------------------------------------


def _nodes(traces: TraceSet, rank: int) -> Iterator[Finding]:
    trace, ranks = traces[rank], len(traces)
    send, recv, coll = trace.kind == Kind.SEND, trace.kind == Kind.RECV, trace.kind == Kind.COLL
    talks = send | recv | coll
    barrier = coll & (trace.coll == Collective.BARRIER)
    known = np.isin(trace.coll, list(Collective))
    memory = (trace.kind == Kind.MEM_LOAD) | (trace.kind == Kind.MEM_STORE)
    base = rank if trace.relative else 0
    peer = base + np.where(send, trace.dst, trace.src)
    absent = ~np.bool_(trace.relative) & (send | recv) & (np.where(send, trace.dst, trace.src) == -1)
    outside = (send | recv) & ~absent & ((peer < 0) | (peer >= ranks))
    own = base + np.where(send, trace.src, trace.dst)
    foreign = ~np.bool_(trace.relative) & (send | recv) & (own != -1) & (own != rank)
    kinds = f"a kind is one of {', '.join(f'{k.value} {k.name}' for k in Kind if k)}"
    rules: list[tuple[np.ndarray, Severity, str, str, np.ndarray | None]] = [
        (~np.isin(trace.kind, [k for k in Kind if k]), "error", "kind {}", kinds, trace.kind),
        (_again(trace.ids), "error", "its identifier is taken by a node before it", "identifiers are unique", None),
        (coll & (trace.coll == -1), "error", "no comm_type", "a collective says its type", None),
        (coll & (trace.coll != -1) & ~known, "error", "comm_type {}", f"a type is 0 ... {max(Collective)}", trace.coll),
        (talks & ~barrier & (trace.size == -1), "error", "no comm_size", "communication says its bytes", None),
        (trace.size < -1, "error", "comm_size {}", "sizes are not negative", trace.size),
        (talks & ~barrier & (trace.size == 0), "warning", "comm_size 0", "communication moves bytes", None),
        (absent & send, "error", "no comm_dst", "a send says to whom", None),
        (absent & recv, "error", "no comm_src", "a receive says from whom", None),
        (outside, "error", "its peer is rank {}", f"ranks are 0 ... {ranks - 1}", peer),
        ((send | recv) & ~absent & (peer == rank), "error", "its peer is itself", "messages go to another rank", None),
        (foreign, "error", "it says that it runs on rank {}", "senders and receivers are where their file says", own),
        (trace.flops < 0, "error", "num_ops {}", "work is not negative", trace.flops),
        (trace.bytes < 0, "error", "tensor_size {}", "sizes are not negative", trace.bytes),
        (memory & (trace.bytes == 0), "warning", "no tensor_size", "memory nodes move bytes", None),
        (trace.seconds < 0, "error", "{} s long", "durations are not negative", trace.seconds),
    ]
    for bad, severity, what, rule, shown in rules:
        yield from _each(trace, rank, bad, severity, what, rule, shown)


def _again(ids: np.ndarray) -> np.ndarray:
    _, first = np.unique(ids, return_index=True)
    again = np.ones(len(ids), bool)
    again[first] = False
    return again


def _graph(trace: Trace, rank: int) -> Iterator[Finding]:
    if trace.dangling:
        many = (
            "1 dependence on a node that is"
            if trace.dangling == 1
            else f"{trace.dangling} dependences on nodes that are"
        )
        yield Finding("warning", rank, -1, f"{many} not there", "dependences are on nodes of the same file")
    cycle = find_cycle(trace)
    if cycle:
        ids = [int(trace.ids[row]) for row in cycle]
        path = " -> ".join(map(str, [*ids[:8], *(["..."] if len(ids) > 8 else []), ids[0]]))
        yield Finding("error", rank, ids[0], f"waits for itself: {path}", "dependences have no cycle")


def find_cycle(trace: Trace) -> list[int]:
    """Rows of a cycle of dependences, each depending on the next; empty if there is none."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    pointers, parents = trace.parents
    n = len(trace)
    child = np.repeat(np.arange(n), np.diff(pointers))
    own = np.flatnonzero(child == parents)
    if len(own):
        return [int(child[own[0]])]
    graph = csr_array((np.ones(len(parents), np.int8), parents, pointers), shape=(n, n))
    count, component = connected_components(graph, connection="strong")
    if count == n:
        return []
    inside = component == np.argmax(np.bincount(component) > 1)
    row, seen = int(np.flatnonzero(inside)[0]), dict[int, int]()
    while row not in seen:  # every node of the component has a dependence inside it
        seen[row] = len(seen)
        onward = parents[pointers[row] : pointers[row + 1]]
        row = int(onward[inside[onward]][0])
    return list(seen)[seen[row] :]


# --- between ranks --------------------------------------------------------------------------------------------------


def _rows(traces: TraceSet, label: str) -> Ints | None:
    """Which group of a label each rank is in, -1 for none; None if nothing has the label."""
    if label in traces.groups:
        rows = np.full(len(traces), -1, np.int64)
        table = traces.groups[label]
        rows[table] = np.arange(len(table))[:, None]
        return rows
    return np.zeros(len(traces), np.int64) if label in WHOLE else None


def _labels(traces: TraceSet) -> Iterator[Finding]:
    rows_of = {label: _rows(traces, label) for trace in traces.classes for label in trace.labels}
    for index, trace in enumerate(traces.classes):
        ranks = np.flatnonzero(traces.of == index)
        codes, nodes = np.unique(trace.group, return_index=True)
        for code, row in zip(codes.tolist(), nodes.tolist(), strict=True):
            if code < 0 or not len(ranks):
                continue
            label, node = trace.labels[code], int(trace.ids[row])
            rows = rows_of[label]
            if rows is None:
                what = f"group {label!r} is not known"
                yield Finding("error", int(ranks[0]), node, what, "every pg_name is a group of the groups file")
            elif (rows[ranks] < 0).any():
                rank = int(ranks[np.argmax(rows[ranks] < 0)])
                yield Finding("error", rank, node, f"its rank is not in group {label!r}", "ranks use their own groups")


MATCH = "source, destination, tag and size of sends and receives agree"


def _messages(traces: TraceSet) -> Iterator[Finding]:
    """Sends without a receive and receives without a send."""
    shared = all(trace.relative for trace in traces.classes)
    unmatched = list(_unmatched_by_class(traces) if shared else _unmatched_by_rank(traces))
    for sends, rank, peer, tag, size, node in unmatched[:SHOWN]:
        what = f"send to rank {peer}" if sends else f"receive from rank {peer}"
        what = f"{what} (tag {tag}, {size} bytes) has no matching {'receive' if sends else 'send'}"
        yield Finding("error", rank, node, what, MATCH)
    if len(unmatched) > SHOWN:
        yield Finding("error", -1, -1, f"{len(unmatched) - SHOWN} more kinds of messages without a match", MATCH)


Unmatched = tuple[bool, int, int, int, int, int]  # whether a send, its rank, peer, tag, size, node


def _unmatched_by_class(traces: TraceSet) -> Iterator[Unmatched]:
    """Where peers are offsets: per offset and pair of classes that face each other over it, whatever the ranks."""
    inside = len(traces)
    for index, trace in enumerate(traces.classes):
        ranks = np.flatnonzero(traces.of == index)
        for kind, peers in ((Kind.SEND, trace.dst), (Kind.RECV, trace.src)):
            for offset in np.unique(peers[trace.kind == kind]).tolist():
                mine = _addressed(trace, kind, offset)
                there = (ranks + offset >= 0) & (ranks + offset < inside)
                across = ranks[there] + offset
                if not there.all():
                    (tag, size), nodes = next(iter(mine.items()))
                    rank = int(ranks[~there][0])
                    yield kind == Kind.SEND, rank, rank + offset, tag, size, nodes[0]
                facing, first = np.unique(traces.of[across], return_index=True)
                for other, at in zip(facing.tolist(), across[first].tolist(), strict=True):
                    theirs = _addressed(traces.classes[other], Kind.RECV if kind == Kind.SEND else Kind.SEND, -offset)
                    for (tag, size), nodes in mine.items():
                        if len(nodes) > len(theirs.get((tag, size), ())):
                            yield kind == Kind.SEND, at - offset, at, tag, size, nodes[-1]


def _addressed(trace: Trace, kind: Kind, offset: int) -> dict[tuple[int, int], list[int]]:
    """Identifiers of a class's messages to or from the rank at an offset, by tag and size."""
    rows = np.flatnonzero((trace.kind == kind) & ((trace.dst if kind == Kind.SEND else trace.src) == offset))
    out: dict[tuple[int, int], list[int]] = {}
    for key in zip(trace.tag[rows].tolist(), trace.size[rows].tolist(), trace.ids[rows].tolist(), strict=True):
        out.setdefault(key[:2], []).append(key[2])
    return out


def _unmatched_by_rank(traces: TraceSet) -> Iterator[Unmatched]:
    """As multisets of (source, destination, tag, size) of all ranks."""
    parts: list[np.ndarray] = [np.zeros((0, 6), np.int64)]
    for index, trace in enumerate(traces.classes):
        ranks = np.flatnonzero(traces.of == index)[:, None]
        for sign, kind, peers in ((1, Kind.SEND, trace.dst), (-1, Kind.RECV, trace.src)):
            rows = np.flatnonzero((trace.kind == kind) & (trace.relative | (peers >= 0)))
            peer = (ranks if trace.relative else 0 * ranks) + peers[rows]
            own = np.broadcast_to(ranks, peer.shape)
            pair = (own, peer) if sign > 0 else (peer, own)
            rest = (trace.tag[rows], trace.size[rows], np.full(len(rows), sign), trace.ids[rows].view(np.int64))
            block = np.stack([*pair, *(np.broadcast_to(column, peer.shape) for column in rest)], axis=-1)
            parts.append(block[pair[0] != pair[1]])
    table = np.concatenate(parts)
    table = table[np.lexsort(table.T[3::-1])]
    if not len(table):
        return
    starts = np.flatnonzero(np.r_[True, (table[1:, :4] != table[:-1, :4]).any(axis=1)])
    stops = np.r_[starts[1:], len(table)]
    surplus = np.add.reduceat(table[:, 4], starts)
    for at in np.flatnonzero(surplus).tolist():
        rows = table[starts[at] : stops[at]]
        source, target, tag, size, sign, node = rows[rows[:, 4] == np.sign(surplus[at])][-1].tolist()
        rank, peer = (source, target) if sign > 0 else (target, source)
        yield sign > 0, rank, peer, tag, size, node & (1 << 64) - 1


def _calls(trace: Trace, label: str) -> np.ndarray:
    """The collectives that a trace issues in a group, in the order of identifiers: (type, size, row)."""
    code = trace.labels.index(label) if label in trace.labels else -2
    rows = np.flatnonzero((trace.kind == Kind.COLL) & (trace.group == (-1 if label in WHOLE else code)))
    rows = rows[np.argsort(trace.ids[rows], kind="stable")]
    return np.stack([trace.coll[rows].astype(np.int64), trace.size[rows], rows], axis=1)


def _collectives(traces: TraceSet) -> Iterator[Finding]:
    labels = dict.fromkeys(["", *(label for trace in traces.classes for label in trace.labels)])
    for label in labels:
        if label and label not in traces.groups:
            continue
        calls = [_calls(trace, label) for trace in traces.classes]
        same = {call[:, :2].tobytes(): index for index, call in reversed(list(enumerate(calls)))}
        of = np.array([same[call[:, :2].tobytes()] for call in calls], np.int64)[traces.of]
        table = traces.groups[label] if label else np.arange(len(traces))[None, :]
        for members in table[(of[table] != of[table[:, :1]]).any(axis=1)][:SHOWN]:
            one = int(members[0])
            other = int(members[np.argmax(of[members] != of[one])])
            yield _difference(traces, label, (one, other), (calls[traces.of[one]], calls[traces.of[other]]))


def _difference(traces: TraceSet, label: str, ranks: tuple[int, int], calls: tuple[np.ndarray, np.ndarray]) -> Finding:
    group = f"group {label!r}" if label else "the group of all ranks"
    rule = "members of a group issue the same collectives in the same order"
    length = min(map(len, calls))
    differs = (calls[0][:length, :2] != calls[1][:length, :2]).any(axis=1)
    if not differs.any():
        what = f"{len(calls[1])} collectives in {group}, where rank {ranks[0]} has {len(calls[0])}"
        return Finding("error", ranks[1], -1, what, rule)
    at = int(np.argmax(differs))
    (kind, size, _), (other, amount, row) = calls[0][at].tolist(), calls[1][at].tolist()
    node = int(traces[ranks[1]].ids[row])
    uneven = kind == other == Collective.ALL_TO_ALL
    theirs = f"on rank {ranks[0]} {_name(kind)} of {size}"
    what = f"collective {at + 1} in {group} is {_name(other)} of {amount} bytes, {theirs}"
    return Finding("warning" if uneven else "error", ranks[1], node, what, rule)


def _name(kind: int) -> str:
    return Collective(kind).name if kind in set(Collective) else f"type {kind}"
