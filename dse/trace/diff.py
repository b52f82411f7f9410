"""What differs between two traces: nodes that only one has, and what changed in those that both have.

Nodes are matched by name and place, not by identifier: first those that agree in name, attributes and in what they
depend on (three steps back) or what depends on them; then, in the order of the files, those of the same name and kind;
at last those of the same kind and place in the graph, so that renamed nodes are found again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dse.trace.columns import Ints, Trace, TraceSet
from dse.trace.critical import kind_name

if TYPE_CHECKING:
    import pandas as pd

Codes = NDArray[np.uint64]
NUMBERS = ("kind", "seconds", "cpu", "flops", "bytes", "coll", "size", "src", "dst", "tag", "priority")
TABLES = {"name": "names", "group": "labels", "dims": "involved", "stream": "streams", "tier": "tiers"}
TOTALS = ("nodes", "dependences", "seconds", "flops", "bytes", "communicated")
SHOWN = 40  # differences that the text lists
MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True, eq=False)
class Pair:
    """Two traces that were compared, and the ranks that have them.

    Attributes:
        a, b: the traces.
        ranks: the ranks that run ``a`` in one set and ``b`` in the other.
        match: int [nodes of a], the row of b; -1 where only a has the node.
    """

    a: Trace
    b: Trace
    ranks: Ints
    match: Ints

    @cached_property
    def removed(self) -> Ints:
        """Rows of a that b has not."""
        return np.flatnonzero(self.match < 0)

    @cached_property
    def added(self) -> Ints:
        """Rows of b that a has not."""
        there = np.zeros(len(self.b), bool)
        there[self.match[self.match >= 0]] = True
        return np.flatnonzero(~there)

    @cached_property
    def changed(self) -> dict[str, Ints]:
        """By attribute, the rows of a where b has another value; ``dependences`` where a node waits for others."""
        rows = np.flatnonzero(self.match >= 0)
        twins = self.match[rows]
        out = {}
        for name in NUMBERS:
            out[name] = rows[getattr(self.a, name)[rows] != getattr(self.b, name)[twins]]
        for name, table in TABLES.items():
            mine, theirs = (_text_codes(getattr(trace, table)) for trace in (self.a, self.b))
            out[name] = rows[mine[getattr(self.a, name)[rows]] != theirs[getattr(self.b, name)[twins]]]
        out["dependences"] = self._dependences()
        return {name: found for name, found in out.items() if len(found)}

    def _dependences(self) -> Ints:
        """Rows of a whose dependences, in terms of b, are not those of their twins."""
        n = max(len(self.a), len(self.b), 1)
        pairs = []
        for trace, match in ((self.a, self.match), (self.b, np.arange(len(self.b)))):
            pointers, parents = trace.parents
            child = match[np.repeat(np.arange(len(trace)), np.diff(pointers))]
            parent = match[parents]
            kept = (child >= 0) & (parent >= 0)
            pairs.append(child[kept] * n + parent[kept])
        twins = np.unique(np.setxor1d(*pairs) // n)
        back = np.full(len(self.b), -1, np.int64)
        back[self.match[self.match >= 0]] = np.flatnonzero(self.match >= 0)
        rows = back[twins]
        return np.sort(rows[rows >= 0])

    def value(self, side: str, name: str, row: int) -> Any:
        """An attribute of a node as people read it; ``side`` is a or b."""
        trace: Trace = getattr(self, side)
        if name == "dependences":
            pointers, parents = trace.parents
            return [int(trace.ids[k]) for k in parents[pointers[row] : pointers[row + 1]]]
        raw = getattr(trace, name)[row]
        if name in TABLES:
            return getattr(trace, TABLES[name])[raw] if raw >= 0 else None
        return kind_name(raw) if name == "kind" else raw.item()


@dataclass(frozen=True, eq=False)
class Diff:
    """The differences between two sets of traces.

    Attributes:
        pairs: the traces compared, each pair once, however many ranks have it.
        ranks: number of ranks in the first and in the second.
        groups: labels whose ranks differ.
        totals: a row a total: in the first, in the second, over all ranks.
    """

    pairs: tuple[Pair, ...]
    ranks: tuple[int, int]
    groups: tuple[str, ...]
    totals: dict[str, tuple[float, float]]

    @property
    def equal(self) -> bool:
        """Whether there is no difference; identifiers and the order of the nodes do not count."""
        same = all(not len(pair.removed) and not len(pair.added) and not pair.changed for pair in self.pairs)
        return same and self.ranks[0] == self.ranks[1] and not self.groups

    @cached_property
    def counts(self) -> dict[str, int]:
        """Nodes removed, added and changed, over all ranks."""
        out = {"removed": 0, "added": 0, "changed": 0}
        for pair in self.pairs:
            times = len(pair.ranks)
            out["removed"] += times * len(pair.removed)
            out["added"] += times * len(pair.added)
            rows = list(pair.changed.values())
            out["changed"] += times * len(np.unique(np.concatenate(rows))) if rows else 0
        return out

    def to_pandas(self) -> pd.DataFrame:
        """A row a difference: first rank with it, ranks, what, node, name, attribute and its values in a and b."""
        import pandas as pd

        rows = []
        for pair in self.pairs:
            head = (int(pair.ranks[0]), len(pair.ranks))
            for what, side, places in (("removed", "a", pair.removed), ("added", "b", pair.added)):
                for row in places.tolist():
                    name = pair.value(side, "name", row)
                    rows.append((*head, what, int(getattr(pair, side).ids[row]), name, "", None, None))
            for attribute, places in pair.changed.items():
                for row in places.tolist():
                    values = (pair.value("a", attribute, row), pair.value("b", attribute, int(pair.match[row])))
                    name = pair.value("a", "name", row)
                    rows.append((*head, "changed", int(pair.a.ids[row]), name, attribute, *values))
        return pd.DataFrame(rows, columns=["rank", "ranks", "what", "node", "name", "attribute", "a", "b"])

    def to_dict(self) -> dict[str, Any]:
        """Whether they are equal, counts, totals, groups that differ, and the list of differences."""
        out = {"equal": self.equal, "ranks": list(self.ranks), **self.counts, "groups": list(self.groups)}
        totals = {name: {"a": a, "b": b} for name, (a, b) in self.totals.items()}
        return {**out, "totals": totals, "differences": self.to_pandas().to_dict("records")}

    def __repr__(self) -> str:
        if self.equal:
            return "no difference"
        ranks = "" if self.ranks[0] == self.ranks[1] else f"; ranks: {self.ranks[0]:,} and {self.ranks[1]:,}"
        lines = [", ".join(f"{count:,} {what}" for what, count in self.counts.items()) + " nodes" + ranks]
        if self.groups:
            lines.append(f"groups that differ: {', '.join(self.groups[:SHOWN])}")
        lines += [f"{name}: {a:.6g} and {b:.6g}" for name, (a, b) in self.totals.items() if a != b]
        table = self.to_pandas()
        for row in table.head(SHOWN).itertuples():
            values = f": {row.attribute} {row.a} -> {row.b}" if row.attribute else ""
            lines.append(f"rank {row.rank}, node {row.node} {row.name!r} {row.what}{values}")
        return "\n".join([*lines, f"... and {len(table) - SHOWN:,} more"] if len(table) > SHOWN else lines)


def diff(a: TraceSet | Trace, b: TraceSet | Trace) -> Diff:
    """Compare two traces, or all ranks of two sets; equal pairs of ranks are compared once."""
    first, second = (x if isinstance(x, TraceSet) else TraceSet((x,), np.zeros(1, np.int64)) for x in (a, b))
    ranks = min(len(first), len(second))
    both = np.stack([first.of[:ranks], second.of[:ranks]], axis=1)
    kinds, which = np.unique(both, axis=0, return_inverse=True)
    which = which.reshape(-1)
    pairs = []
    for place, (one, other) in enumerate(kinds.tolist()):
        mine, theirs = first.classes[one], second.classes[other]
        pairs.append(Pair(mine, theirs, np.flatnonzero(which == place), match(mine, theirs)))
    labels = sorted({*first.groups, *second.groups})
    changed = tuple(label for label in labels if not _same_groups(first.groups.get(label), second.groups.get(label)))
    totals = dict(zip(TOTALS, zip(_totals(first), _totals(second), strict=True), strict=True))
    return Diff(tuple(pairs), (len(first), len(second)), changed, totals)


def _same_groups(a: Ints | None, b: Ints | None) -> bool:
    if a is None or b is None:
        return a is b
    return sorted(map(sorted, a.tolist())) == sorted(map(sorted, b.tolist()))


def _totals(traces: TraceSet) -> list[float]:
    """Sums over all ranks, in the order of :data:`TOTALS`."""
    ranks = np.bincount(traces.of, minlength=len(traces.classes))
    rows = [
        (len(t), len(t.parents[1]), t.seconds.sum(), t.flops.sum(), t.bytes.sum(), np.maximum(t.size, 0).sum())
        for t in traces.classes
    ]
    return (ranks[:, None] * np.array(rows, np.float64).reshape(-1, len(TOTALS))).sum(axis=0).tolist()


def match(a: Trace, b: Trace) -> Ints:
    """For each node of a the row of the node of b that is the same, -1 for none: int [nodes of a]."""
    out = np.full(len(a), -1, np.int64)
    free_a, free_b = np.arange(len(a)), np.arange(len(b))
    for keys_a, keys_b in zip(_keys(a), _keys(b), strict=True):
        _assign(out, free_a, free_b, keys_a[free_a], keys_b[free_b])
        taken = np.zeros(len(b), bool)
        taken[out[out >= 0]] = True
        free_a, free_b = np.flatnonzero(out < 0), np.flatnonzero(~taken)
        if not len(free_a) or not len(free_b):
            break
    return out


def _assign(out: Ints, rows_a: Ints, rows_b: Ints, keys_a: Codes, keys_b: Codes) -> None:
    """Match rows of equal keys, the k-th of one side with the k-th of the other."""
    codes, inverse = np.unique(np.concatenate([keys_a, keys_b]), return_inverse=True)
    sides = [inverse[: len(keys_a)], inverse[len(keys_a) :]]
    longest = max(len(keys_a), len(keys_b)) + 1
    ranked = [codes_of * longest + _occurrence(codes_of, len(codes)) for codes_of in sides]
    _, at_a, at_b = np.intersect1d(*ranked, assume_unique=True, return_indices=True)
    out[rows_a[at_a]] = rows_b[at_b]


def _occurrence(codes: Ints, count: int) -> Ints:
    """How many equal ones came before each."""
    order = np.argsort(codes, kind="stable")
    first = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(codes, minlength=count), out=first[1:])
    out = np.empty(len(codes), np.int64)
    out[order] = np.arange(len(codes)) - first[codes[order]]
    return out


def _keys(trace: Trace) -> list[Codes]:
    """Keys of the nodes, from the strictest to the loosest; equal keys of two traces mean the same."""
    texts = {name: _text_codes(getattr(trace, table))[getattr(trace, name)] for name, table in TABLES.items()}
    named = _hash([texts["name"], trace.kind])
    exact = _hash([named, *(getattr(trace, name) for name in NUMBERS), *texts.values()])
    shape = _hash([trace.kind, trace.coll])
    placed = _hash([trace.kind, trace.coll, _around(trace, shape), _around(trace, shape, down=True)])
    return [_around(trace, exact), _around(trace, exact, down=True), _around(trace, named), exact, named, placed]


def _around(trace: Trace, codes: Codes, steps: int = 3, down: bool = False) -> Codes:
    """Codes that also tell what a node depends on (or, down, what depends on it), so many steps away."""
    pointers, rows = trace.children if down else trace.parents
    here = np.repeat(np.arange(len(trace)), np.diff(pointers))
    for _ in range(steps):
        sums = np.zeros(len(trace), np.uint64)
        np.add.at(sums, here, _hash([codes[rows]]))
        codes = _hash([codes, sums])
    return codes


def _hash(columns: Sequence[NDArray[Any]]) -> Codes:
    """One code a row out of several columns."""
    out = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        word = column.view(np.uint64) if column.dtype.itemsize == 8 else column.astype(np.int64).view(np.uint64)
        out = out * np.uint64(0x9E3779B97F4A7C15) + word + np.uint64(1)
        out = (out ^ (out >> np.uint64(30))) * MIX[0]
        out = (out ^ (out >> np.uint64(27))) * MIX[1]
        out ^= out >> np.uint64(31)
    return out


def _text_codes(table: Sequence[Any]) -> Codes:
    """A code for each entry of a table that is the same in every trace; the last stands for none."""
    import hashlib

    codes = [int.from_bytes(hashlib.blake2b(repr(item).encode(), digest_size=8).digest(), "little") for item in table]
    return np.array([*codes, 0], np.uint64)
