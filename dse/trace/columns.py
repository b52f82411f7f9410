"""A trace as columns, for what reads many nodes: one :class:`Trace` for a rank or a class of equal ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Trace:
    """The nodes of one trace in the order of its file; n nodes, each array of shape [n] unless it says otherwise.

    Attributes:
        ids: uint64, as in the file.
        kind: int8, :class:`~dse.trace.schema.Kind`.
        name: int32, index into ``names``.
        start, micros: uint64, ``start_time_micros`` and ``duration_micros``.
        seconds: duration in seconds: the attribute ``dse.seconds`` (a double; microseconds are coarse) or ``micros``.
        data_ptr, data: dependences as compressed rows: those of row i are ``data[data_ptr[i]:data_ptr[i + 1]]``, rows.
        ctrl_ptr, ctrl: control dependences, the same.
        cpu: int8, ``is_cpu_op``: 1 yes, 0 no, -1 not said.
        flops, bytes: ``num_ops`` and ``tensor_size``, 0 where absent.
        coll: int8, ``comm_type`` (:class:`~dse.trace.schema.Collective`), -1 where absent.
        size: int64, ``comm_size`` in bytes, -1 where absent.
        src, dst: int64, ``comm_src`` and ``comm_dst``, -1 where absent; offsets from the rank where ``relative``.
        tag, priority: int64, ``comm_tag`` and ``comm_priority``, 0 where absent.
        group: int32, ``pg_name`` as an index into ``labels``; -1 where absent, "" or "0": all ranks.
        dims: int32, ``involved_dim`` as an index into ``involved``; -1 where absent.
        stream: int32, ``stream`` or ``tid`` as an index into ``streams``; -1 where absent.
        tier: int32, ``dse.tier`` (memory a node loads from or stores to), an index into ``tiers``; -1 where absent.
        dangling: dependences on nodes that are not there, which were left out.
        relative: ``src`` and ``dst`` are offsets, so that ranks can share the trace.
        version: of the file's metadata.
    """

    ids: NDArray[np.uint64]
    kind: NDArray[np.int8]
    name: NDArray[np.int32]
    start: NDArray[np.uint64]
    micros: NDArray[np.uint64]
    seconds: Floats
    data_ptr: Ints
    data: Ints
    ctrl_ptr: Ints
    ctrl: Ints
    cpu: NDArray[np.int8]
    flops: Floats
    bytes: Floats
    coll: NDArray[np.int8]
    size: Ints
    src: Ints
    dst: Ints
    tag: Ints
    priority: Ints
    group: NDArray[np.int32]
    dims: NDArray[np.int32]
    stream: NDArray[np.int32]
    tier: NDArray[np.int32]
    names: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    involved: tuple[tuple[bool, ...], ...] = ()
    streams: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()
    dangling: int = 0
    relative: bool = False
    version: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def parents(self) -> tuple[Ints, Ints]:
        """All dependences, data and control, each once: (pointers [n + 1], rows)."""
        n = len(self)
        child = np.concatenate(
            [np.repeat(np.arange(n), np.diff(self.data_ptr)), np.repeat(np.arange(n), np.diff(self.ctrl_ptr))]
        )
        pairs = np.unique(child * max(n, 1) + np.concatenate([self.data, self.ctrl]))
        pointers = np.zeros(n + 1, np.int64)
        np.cumsum(np.bincount(pairs // max(n, 1), minlength=n), out=pointers[1:])
        return pointers, pairs % max(n, 1)

    @cached_property
    def children(self) -> tuple[Ints, Ints]:
        """The nodes that depend on each node: (pointers [n + 1], rows), rows ascending."""
        pointers, parents = self.parents
        n = len(self)
        child = np.repeat(np.arange(n), np.diff(pointers))
        order = np.lexsort((child, parents))
        out = np.zeros(n + 1, np.int64)
        np.cumsum(np.bincount(parents, minlength=n), out=out[1:])
        return out, child[order]


@dataclass(frozen=True, eq=False)
class TraceSet(Mapping[int, Trace]):
    """The traces of all ranks 0 ... R-1, and the groups they communicate in.

    Attributes:
        classes: the distinct traces.
        of: int64 [R], the index into ``classes`` of each rank's trace.
        groups: by label (``pg_name``), the groups that carry it, as ranks [groups, size] (a rank is in at most one);
            a group of a file has its own label and is [1, size].
        source: where it came from, for messages.
    """

    classes: tuple[Trace, ...]
    of: Ints
    groups: Mapping[str, Ints] = field(default_factory=dict)
    source: str = ""

    def __repr__(self) -> str:
        groups = f", groups {', '.join(list(self.groups)[:8])}" if self.groups else ""
        nodes = sum(len(trace) for trace in self.classes)
        return f"TraceSet({len(self):,} ranks, {len(self.classes):,} distinct traces of {nodes:,} nodes{groups})"

    def __getitem__(self, rank: int) -> Trace:
        if not 0 <= rank < len(self.of):
            raise KeyError(rank)
        return self.classes[int(self.of[rank])]

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.of)))

    def __len__(self) -> int:
        return len(self.of)

    @cached_property
    def _row(self) -> dict[str, Ints]:
        rows = {}
        for label, table in self.groups.items():
            row = np.full(len(self.of), -1, np.int64)
            row[table] = np.arange(len(table))[:, None]
            rows[label] = row
        return rows

    def members(self, rank: int, label: str) -> Ints:
        """Ranks of the group of that label that ``rank`` is in; all ranks for "" and "0"; empty if in none.

        Raises:
            KeyError: no group has that label.
        """
        if label in ("", "0") and label not in self.groups:
            return np.arange(len(self.of))
        row = int(self._row[label][rank])
        return self.groups[label][row] if row >= 0 else np.zeros(0, np.int64)
