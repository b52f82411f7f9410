"""All-reduce out of collectives that do half of it: reduce-scatter and all-gather, or whole vectors gathered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dse.collective.fused.packing import Trees
from dse.collective.schedule import EVERYONE, Chunks, Schedule
from dse.collective.topology import Floats, Ints, Topology


def least(topology: Topology, nbytes: float, members: Ints, chunk: Floats | None = None) -> float:
    """Seconds that reduce-scatter and all-gather take together at least: every NPU's links have to carry its share.

    ``chunk``: seconds that a chunk for each member takes on each link; without it only bandwidth counts.
    """
    share, speed = nbytes * (len(members) - 1) / len(members), topology.bandwidth
    if chunk is not None:
        share, speed = len(members) - 1.0, 1 / chunk
    total = 0.0
    for ends in (topology.dst, topology.src):
        rate = np.bincount(ends, speed, topology.nodes)[members]
        total += share / float(rate.min()) if rate.min() > 0 else np.inf
    return total


def pair(
    topology: Topology, nbytes: float, members: Ints, twin: Ints, per_shard: int | str, seeds: int, left: float | None
) -> tuple[Schedule, Schedule]:
    """Reduce-scatter and all-gather of the same chunks, each from time 0."""
    from dse.collective import gather

    each = None if left is None else left / 2
    ahead = gather.all_gather(topology, nbytes, members=members, per_shard=per_shard, seeds=seeds, deadline=each)
    count = len(ahead.chunks.size) // len(members)
    if topology.nodes > topology.npus:
        # What came into a switch first leaves it first: that does not survive a reversal.
        made = gather.reduce_scatter(topology, nbytes, members=members, per_shard=count, seeds=seeds, deadline=each)
        return made, ahead
    if twin.min() >= 0:
        other, link = ahead, twin[ahead.link].astype(np.int32)
    else:
        other = gather.all_gather(
            topology.reverse(), nbytes, members=members, per_shard=count, seeds=seeds, deadline=each
        )
        link = other.link
    everyone = np.full(len(other.chunks.size), EVERYONE)
    back = replace(
        other, topology=topology, collective="reduce_scatter", link=link, start=other.time - other.end,
        end=other.time - other.start, reduce=np.ones(other.transfers, bool),
        chunks=other.chunks._replace(origin=everyone, target=other.chunks.origin),
    )  # fmt: skip
    return back, ahead


def one_after_the_other(scatter: Schedule, ahead: Schedule) -> Schedule:
    """All-gather once the reduce-scatter is done."""
    everyone = np.full(len(ahead.chunks.size), EVERYONE)
    columns = {
        name: np.concatenate([getattr(scatter, name), getattr(ahead, name)]) for name in ("chunk", "link", "reduce")
    }
    columns["start"] = np.concatenate([scatter.start, ahead.start + scatter.time])
    columns["end"] = np.concatenate([scatter.end, ahead.end + scatter.time])
    if scatter.passes is not None or ahead.passes is not None:
        own = [np.full(half.transfers, -1) if half.passes is None else half.passes for half in (scatter, ahead)]
        columns["passes"] = np.concatenate([own[0], np.where(own[1] >= 0, own[1] + scatter.transfers, -1)])
    chunks = ahead.chunks._replace(origin=everyone, target=everyone)
    return replace(
        ahead, collective="all_reduce", chunks=chunks, algorithm="reduce-scatter, all-gather", notes=None, **columns
    )


def as_trees(scatter: Schedule, ahead: Schedule) -> tuple[Trees, Floats] | None:
    """The trees that the two use, and when their tasks (chunk by chunk, in-tree first) start one after the other.

    None where they are not trees of NPUs.
    """
    topology, chunks = ahead.topology, len(ahead.chunks.size)
    edges = len(ahead.members) - 1
    out = _tree(ahead.chunk, ahead.source, ahead.destination, ahead.start, chunks, edges, topology)
    into = _tree(scatter.chunk, scatter.destination, scatter.source, -scatter.end, chunks, edges, topology)
    if out is None or into is None:
        return None
    link, up = np.empty((2 * chunks, edges), np.int32), np.empty((2 * chunks, edges), np.int32)
    start = np.empty((2 * chunks, edges))
    for side, (order, above), half, begin in ((0, into, scatter, 0.0), (1, out, ahead, scatter.time)):
        link[side::2] = half.link[order].reshape(chunks, edges)
        up[side::2] = above.reshape(chunks, edges)
        start[side::2] = (half.start[order] + begin).reshape(chunks, edges)
    load = np.bincount(link.ravel(), minlength=topology.links).astype(float)
    return Trees(link, up, np.full(2 * chunks, edges), load), start.ravel()


def _tree(
    chunk: np.ndarray, near: Ints, far: Ints, when: Floats, chunks: int, edges: int, topology: Topology
) -> tuple[Ints, np.ndarray] | None:
    """Transfers by chunk and from the root on, and for each the one next to it on the way to the root (-1: none)."""
    if len(chunk) != chunks * edges or topology.nodes > topology.npus:
        return None
    order = np.lexsort((when, chunk))
    if not np.array_equal(chunk[order], np.repeat(np.arange(chunks), edges)):
        return None
    place = np.full((chunks, topology.nodes), -1, np.int32)
    at = np.tile(np.arange(edges, dtype=np.int32), chunks)
    place[chunk[order], far[order]] = at
    up = place[chunk[order], near[order]]
    fine = (place >= 0).sum() == chunks * edges and bool((up < at).all())
    return (order, up) if fine else None


def whole_vectors(topology: Topology, nbytes: float, members: Ints, seeds: int, left: float | None) -> Schedule:
    """Everyone gets everyone's vector and adds them up: much data, one latency after the other only along the way."""
    from dse.collective import gather

    count = len(members)
    made = gather.all_gather(topology, nbytes * count, members=members, per_shard=1, seeds=seeds, deadline=left)
    chunks = Chunks(np.zeros(count), np.full(count, float(nbytes)), members, np.full(count, EVERYONE))
    return replace(
        made, collective="all_reduce", nbytes=nbytes, chunks=chunks, algorithm="all-gather of whole vectors", notes=None
    )
