"""A trace set as one sequence of events, free of the names, labels, identifiers and ranks of its files.

Ranks that do the same are one *role*. Labels whose groups have the same shape and do not meet are one *family of
groups*. All roles' nodes are put in one order that respects dependences, lets messages come after they were sent, and
has collectives that several roles take part in happen at one place. What is drawn in such an order cannot deadlock.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dse.errors import Fault, SpecError
from dse.trace.columns import Ints, Trace, TraceSet
from dse.trace.schema import Kind
from dse.trace.synthesize.events import arrange, joint, spans
from dse.trace.synthesize.tokens import MESSAGES, NO_BIN, Scale, Token, bins, clean_kinds, family, mean_log, work_of

WORLD = "all"  # what nodes without a label communicate in
SAMPLED = 8  # ranks of a role whose durations are looked at
APART = 400_000  # nodes up to which ranks are told apart where their roles wait for each other in a circle
DENSE = 0.1  # calls per compute node from which on a family of groups is called dense


@dataclass
class Program:
    """What one role runs, in the order of its identifiers; n nodes.

    Attributes:
        tokens: each node's token, peers not yet said.
        parents: (pointers [n + 1], rows, 1 for control and 0 for data).
        exact: float64 [n, 4]: FLOP, bytes, message bytes, priority.
        seconds: float64 [n, ranks looked at].
        groups: family of groups of each node, "" where none.
        offset, tag: of the peer, for sends and receives.
    """

    tokens: list[Token]
    parents: tuple[Ints, Ints, Ints]
    exact: NDArray[np.float64]
    seconds: NDArray[np.float64]
    groups: list[str]
    offset: Ints
    tag: Ints

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass
class Job:
    """A trace set as events.

    Attributes:
        roles: int64 [R], role of each rank, numbered in the order of their first ranks.
        programs: of each role.
        families: name -> groups as ranks [groups, size].
        offsets: (role, role of the peer) -> offsets of rank, in the order of ``Token.way``.
        events: (role, row), in order; a collective of several roles once, by the first of them.
        spans: family -> the sets of roles that take part together.
        scale: how large things are.
        lost: communication without partner, now computing.
    """

    roles: Ints
    programs: list[Program]
    families: dict[str, Ints]
    offsets: dict[tuple[int, int], list[int]]
    scale: Scale
    events: list[tuple[int, int]] = field(default_factory=list)
    spans: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    lost: int = 0

    @property
    def nodes(self) -> int:
        """Of all roles together."""
        return sum(len(program) for program in self.programs)


def describe(traces: TraceSet) -> Job:
    """The job of a trace set.

    Raises:
        SpecError: no nodes, or nodes that can never run because they wait for each other in a circle.
    """
    if not len(traces) or not sum(len(trace) for trace in traces.classes):
        raise SpecError([Fault("traces", "", "hold no nodes", traces.source)])
    names, tables = _families(traces)
    bare = [_bare(trace, names) for trace in traces.classes]
    scale = _scale(traces, bare)
    digests = _digests(traces, bare)
    classes = [_program(trace, found, scale) for trace, found in zip(traces.classes, bare, strict=True)]
    job = _job(traces, classes, _numbered(digests), tables, scale)
    if job is None and len(traces) * job_size(traces) <= APART:
        job = _job(traces, classes, np.arange(len(traces)), tables, scale)
    if job is None:
        raise SpecError([Fault("traces", "", "nodes wait for each other in a circle: no rank can end", traces.source)])
    return job


def _scale(traces: TraceSet, bare: list[_Bare]) -> Scale:
    amounts = [work_of(trace) for trace in traces.classes]
    moved = np.concatenate([moved[found.order] for (_, moved), found in zip(amounts, bare, strict=True)])
    groups = np.array([group for found in bare for group in found.groups])
    talks = np.isin(np.concatenate([found.kind for found in bare]), (Kind.COLL, *MESSAGES))
    sizes = {str(group): mean_log(moved[talks & (groups == group)]) for group in np.unique(groups[talks])}
    return Scale(
        mean_log(np.concatenate([work for work, _ in amounts])),
        mean_log(np.concatenate([trace.bytes for trace in traces.classes])),
        mean_log(np.concatenate([trace.seconds for trace in traces.classes])),
        {**sizes, "*": mean_log(moved[talks])},
    )


def job_size(traces: TraceSet) -> int:
    """Nodes of the longest trace."""
    return max(len(trace) for trace in traces.classes)


def _numbered(digests: list[bytes]) -> Ints:
    known: dict[bytes, int] = {}
    return np.array([known.setdefault(digest, len(known)) for digest in digests], np.int64)


def _families(traces: TraceSet) -> tuple[dict[str, str], dict[str, Ints]]:
    """Label -> name of its family, and the groups of each family."""
    calls: dict[str, int] = defaultdict(int)
    computing = 0
    users = np.bincount(traces.of, minlength=len(traces.classes))
    for trace, count in zip(traces.classes, users.tolist(), strict=True):
        computing += count * int(np.count_nonzero(trace.kind == Kind.COMP))
        used = np.bincount(trace.group[trace.group >= 0], minlength=len(trace.labels))
        for label, times in zip(trace.labels, used.tolist(), strict=True):
            calls[label] += count * times
    found: list[tuple[bytes, set[int], list[str]]] = []
    for label, table in traces.groups.items():
        if not calls[label] or label in ("", "0"):
            continue
        shape = np.sort(table, axis=1)
        shape = shape - shape[:, :1]
        alike = bool((shape == shape[0]).all())
        key = (b"r" if alike else b"i") + (shape[0] if alike else table).astype(np.int64).tobytes()
        members = set(table.ravel().tolist())
        for known, taken, labels in found:
            if known == key and not taken & members:
                taken |= members
                labels.append(label)
                break
        else:
            found.append((key, members, [label]))
    names: dict[str, str] = {}
    tables: dict[str, Ints] = {}
    total = [sum(calls[label] for label in labels) for _, _, labels in found]
    for at in np.argsort([-n for n in total], kind="stable").tolist():
        labels = found[at][2]
        table = np.concatenate([np.sort(traces.groups[label], axis=1) for label in labels])
        kind = "self" if table.shape[1] == 1 else "dense" if total[at] >= DENSE * computing else "sparse"
        name = kind
        while name in tables:
            name = f"{kind}{1 + int(name.removeprefix(kind) or 0)}"
        tables[name] = table[np.argsort(table[:, 0], kind="stable")]
        names.update(dict.fromkeys(labels, name))
    return names, tables


@dataclass
class _Bare:
    """Columns of a class in the order of identifiers, as far as they are free of ranks and names."""

    order: Ints
    kind: NDArray[np.int8]
    families: list[str]
    groups: list[str]
    parents: tuple[Ints, Ints, Ints]


def _bare(trace: Trace, names: Mapping[str, str]) -> _Bare:
    order = np.argsort(trace.ids, kind="stable")
    kind = clean_kinds(trace, frozenset(names))[order]
    by_name = [family(name) for name in trace.names] or [""]
    by_label = [names.get(label, WORLD) for label in trace.labels] + [WORLD]
    works = (kind == Kind.COMP) | (kind == Kind.METADATA)
    families = [by_name[c] if w else "" for c, w in zip(trace.name[order].tolist(), works.tolist(), strict=True)]
    talks = (kind == Kind.COLL).tolist()
    groups = [by_label[c] if t else "" for c, t in zip(trace.group[order].tolist(), talks, strict=True)]
    return _Bare(order, kind, families, groups, _parents(trace, order))


def _parents(trace: Trace, order: Ints) -> tuple[Ints, Ints, Ints]:
    """Pointers, rows and sorts of dependences in the new order; one that is both data and control counts as data."""
    n = len(trace)
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    child = [np.repeat(np.arange(n), np.diff(pointers)) for pointers in (trace.data_ptr, trace.ctrl_ptr)]
    pairs = np.concatenate([place[c] * n + place[p] for c, p in zip(child, (trace.data, trace.ctrl), strict=True)])
    sort = np.repeat([0, 1], [len(trace.data), len(trace.ctrl)])
    pairs, first = np.unique(pairs, return_index=True)
    pairs, sort = pairs[pairs // max(n, 1) != pairs % max(n, 1)], sort[first][pairs // max(n, 1) != pairs % max(n, 1)]
    pointers = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(pairs // max(n, 1), minlength=n), out=pointers[1:])
    return pointers, pairs % max(n, 1), sort


def _digests(traces: TraceSet, bare: list[_Bare]) -> list[bytes]:
    """What each rank does, without the names of things: equal for ranks of one role."""
    same = []
    for trace, found in zip(traces.classes, bare, strict=True):
        digest = hashlib.blake2b(digest_size=16)
        order = found.order
        for column in (found.kind, *found.parents, *(getattr(trace, name)[order] for name in _SAME)):
            digest.update(np.ascontiguousarray(column).tobytes() + b"|")
        digest.update(repr((found.families, found.groups)).encode())
        same.append(digest.digest())
    out = []
    for rank in range(len(traces)):
        at = int(traces.of[rank])
        trace, found = traces.classes[at], bare[at]
        rows, offset, tag = _peers(trace, found, rank)
        if not len(rows):
            out.append(same[at])
            continue
        known, place = np.unique(np.stack([offset, tag]), axis=1, return_inverse=True)
        first = np.searchsorted(known[0], offset)  # tags count up from 0 within each offset
        out.append(same[at] + offset.tobytes() + (place.ravel() - first).tobytes())
    return out


_SAME = ("flops", "bytes", "size", "priority", "coll", "cpu", "stream", "tier", "dims")


def _peers(trace: Trace, found: _Bare, rank: int) -> tuple[Ints, Ints, Ints]:
    """Rows that send or receive, the peer's offset and the tag of each."""
    rows = np.flatnonzero(np.isin(found.kind, MESSAGES))
    at = found.order[rows]
    peer = np.where(found.kind[rows] == Kind.SEND, trace.dst[at], trace.src[at])
    return rows, peer - (0 if trace.relative else rank), trace.tag[at]


def _program(trace: Trace, found: _Bare, scale: Scale) -> Program:
    order, kind = found.order, found.kind
    work, moved = (column[order] for column in work_of(trace))
    talks = np.isin(kind, (Kind.COLL, *MESSAGES))
    centres = {group: scale.size(group) for group in set(found.groups)}
    centre = np.array([centres[group] for group in found.groups])
    at = np.where(talks, bins(moved, centre), bins(work, scale.work))
    at = np.where(kind == Kind.METADATA, NO_BIN, at)
    coll = np.where(kind == Kind.COLL, trace.coll[order], -1)
    dims = [trace.involved[d] if d >= 0 else () for d in trace.dims[order].tolist()]
    columns = (kind, coll, trace.cpu[order], trace.stream[order], trace.tier[order], at)
    rows = zip(*(column.tolist() for column in columns), found.families, found.groups, dims, strict=True)
    known: dict[tuple, Token] = {}  # type: ignore[type-arg]
    tokens = []
    for row in rows:
        if row not in known:
            k, c, cpu, stream, tier, bin_, operator, group, involved = row
            known[row] = Token(k, operator, c, group, 0, 0, cpu, stream, tier, involved, bin_)
        tokens.append(known[row])
    size = np.where(talks, np.maximum(trace.size[order], 0), 0)
    exact = np.stack([trace.flops[order], trace.bytes[order], size, trace.priority[order]], axis=1).astype(float)
    exact = np.where(np.isfinite(exact) & ((exact > 0) | (np.arange(4) == 3)), exact, 0.0)
    seconds = trace.seconds[order, None]
    empty = np.zeros(len(trace), np.int64)
    return Program(tokens, found.parents, exact, seconds, found.groups, empty, empty)


def _job(traces: TraceSet, classes: list[Program], roles: Ints, tables: dict[str, Ints], scale: Scale) -> Job | None:
    """The job for given roles; None if its nodes wait for each other in a circle."""
    first = np.unique(roles, return_index=True)[1]
    programs = []
    for role, rank in enumerate(first.tolist()):
        program = classes[int(traces.of[rank])]
        used = np.unique(traces.of[roles == role])[:SAMPLED].tolist()
        seconds = np.concatenate([classes[c].seconds for c in used], axis=1)
        programs.append(replace(program, tokens=list(program.tokens), groups=list(program.groups), seconds=seconds))
    job = Job(roles, programs, tables, {}, scale)
    sent_by = _match(traces, job, first)
    job.spans = {name: spans(table, roles) for name, table in tables.items()}
    job.spans.setdefault(WORLD, [tuple(range(len(programs)))])
    together = joint(job)
    return job if arrange(job, sent_by, together) else None


def _match(traces: TraceSet, job: Job, first: Ints) -> dict[tuple[int, int], tuple[int, int]]:
    """Receive -> send, as (role, row); a send and a receive without the other become computing."""
    cache: dict[int, dict[tuple[int, int, int], list[int]]] = {}

    def talk(rank: int) -> dict[tuple[int, int, int], list[int]]:
        """(kind, peer, tag) -> rows of a rank."""
        if rank not in cache:
            trace = traces[rank]
            order = np.argsort(trace.ids, kind="stable")
            kind = np.array([token.kind for token in job.programs[int(job.roles[rank])].tokens], np.int8)
            rows, offset, tag = _peers(trace, _Bare(order, kind, [], [], (order, order, order)), rank)
            cache[rank] = defaultdict(list)
            for row, peer, label in zip(rows.tolist(), (offset + rank).tolist(), tag.tolist(), strict=True):
                cache[rank][int(kind[row]), peer, label].append(row)
        return cache[rank]

    pairs: list[tuple[tuple[int, int], tuple[int, int], int]] = []
    for role, rank in enumerate(first.tolist()):
        for (kind, peer, tag), rows in list(talk(rank).items()):
            if kind == Kind.SEND and 0 <= peer < len(job.roles):
                there = talk(peer).get((Kind.RECV, rank, tag), [])
                pairs += [
                    ((role, a), (int(job.roles[peer]), b), peer - rank) for a, b in zip(rows, there, strict=False)
                ]
    for (a, _), (b, _), offset in pairs:
        known = job.offsets.setdefault((a, b), [])
        if offset not in known:
            known.append(offset)
    job.offsets = {pair: sorted(found) for pair, found in job.offsets.items()}
    received = {}
    for (a, row), (b, other), offset in pairs:
        way = job.offsets[a, b].index(offset)
        received[b, other] = (a, row)
        sends, receives = job.programs[a].tokens, job.programs[b].tokens
        sends[row] = sends[row]._replace(delta=b - a, way=way)
        receives[other] = receives[other]._replace(delta=a - b, way=way)
    matched = {*received, *received.values()}
    for role, program in enumerate(job.programs):
        for row, token in enumerate(program.tokens):
            if token.kind in MESSAGES and (role, row) not in matched:
                program.tokens[row] = Token(Kind.COMP, "other", cpu=token.cpu, stream=token.stream)
                job.lost += 1
    return received
