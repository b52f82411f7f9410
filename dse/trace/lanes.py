"""When nodes ran, and in which row of a timeline each is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dse.errors import Fault, SpecError
from dse.trace.columns import Floats, Ints, Trace
from dse.trace.critical import earliest
from dse.trace.schema import Kind

FAMILIES = ("host", "compute", "memory", "communication")
FAMILY = {Kind.MEM_LOAD: 2, Kind.MEM_STORE: 2, Kind.SEND: 3, Kind.RECV: 3, Kind.COLL: 3}


@dataclass(frozen=True, eq=False)
class Played:
    """When the nodes of a trace ran; n nodes.

    Attributes:
        start, seconds: float [n], in seconds.
        lane: int [n], index into ``lanes``, the rows of a timeline.
        lanes: their names.
        recorded: whether the times are those of the file; otherwise the earliest that dependences allow.
    """

    start: Floats
    seconds: Floats
    lane: Ints
    lanes: tuple[str, ...]
    recorded: bool


def played(trace: Trace, start: Floats | None = None, seconds: Floats | None = None) -> Played:
    """Times and rows of the nodes: given ones (a simulation's), else recorded ones, else as early as possible.

    Args:
        trace: n nodes.
        start: when each node starts, in seconds [n].
        seconds: how long each takes, in seconds [n]; by default as recorded.

    Raises:
        SpecError: arrays of another shape, or as :func:`dse.trace.critical.earliest`.
    """
    took = trace.seconds if seconds is None else np.asarray(seconds, np.float64)
    recorded = start is None and bool(trace.start.any())
    if start is not None:
        begin = np.asarray(start, np.float64)
    elif recorded:
        begin = trace.start.astype(np.float64) * 1e-6
    else:
        begin = earliest(trace, took).start
    for name, array in (("start", begin), ("seconds", took)):
        if array.shape != (len(trace),):
            raise SpecError([Fault(name, str(array.shape), f"must have the shape ({len(trace)},), one a node")])
    lane, lanes = _lanes(trace, begin, took, split=not recorded)
    return Played(begin, took, lane, lanes, recorded)


def family_of(trace: Trace) -> Ints:
    """What each node keeps busy: an index into :data:`FAMILIES`, [n]."""
    table = np.ones(256, np.int64)
    for kind, family in FAMILY.items():
        table[kind] = family
    out = table[trace.kind.astype(np.uint8)]
    return np.where((out == 1) & (trace.cpu == 1) | (trace.kind == Kind.METADATA), 0, out)


def _lanes(trace: Trace, start: Floats, seconds: Floats, *, split: bool) -> tuple[Ints, tuple[str, ...]]:
    """A row for each stream, or for each family where there is none; split where nodes in it overlap."""
    codes, inverse = np.unique(
        np.stack([family_of(trace), trace.stream.astype(np.int64)], 1), axis=0, return_inverse=True
    )
    inverse = inverse.reshape(-1)
    names: list[str] = []
    lane = np.zeros(len(trace), np.int64)
    for place, (family, stream) in enumerate(codes.tolist()):
        rows = np.flatnonzero(inverse == place)
        name = FAMILIES[family] + (f" {trace.streams[stream]}" if stream >= 0 else "")
        track = _apart(start[rows], seconds[rows]) if split else np.zeros(len(rows), np.int64)
        lane[rows] = track + len(names)
        count = int(track.max(initial=0)) + 1
        names += [name if count == 1 else f"{name} ({k + 1})" for k in range(count)]
    return lane, tuple(names)


def _apart(start: Floats, seconds: Floats) -> Ints:
    """The first track that is free when each begins, so that no two on a track overlap."""
    import heapq

    out = np.zeros(len(start), np.int64)
    busy: list[tuple[float, int]] = []  # end and track
    free: list[int] = []
    count = 0
    order = np.lexsort((start + seconds, start))
    for row, begin, took in zip(order.tolist(), start[order].tolist(), seconds[order].tolist(), strict=True):
        while busy and busy[0][0] <= begin:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            track = heapq.heappop(free)
        else:
            track, count = count, count + 1
        out[row] = track
        heapq.heappush(busy, (begin + took, track))
    return out
