"""Shortest paths: how a message gets to an NPU that is no neighbour."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dse.collective.topology import Floats, Ints, Topology
from dse.errors import Fault, SpecError
from dse.jit import njit


class Routes(NamedTuple):
    """Paths: those links of path i, in order, are ``link[ptr[i]:ptr[i + 1]]``."""

    ptr: Ints
    link: Ints


def distances(topology: Topology, size: float, sources: ArrayLike | None = None) -> Floats:
    """Least seconds for ``size`` bytes from each source (None: every node) to each node, [sources, nodes].

    Store and forward over idle links; infinity where there is no way.
    """
    start = np.arange(topology.nodes) if sources is None else np.asarray(sources, np.int64)
    out = topology.outgoing
    return _distances(out.ptr, out.link, topology.dst, topology.times(size), start)


def routes(
    topology: Topology, size: float, src: ArrayLike, dst: ArrayLike, *, load: ArrayLike = 1.0, group: ArrayLike = 0
) -> Routes:
    """A shortest path for each pair of nodes (src[i], dst[i]), chosen one after the other.

    Of several shortest paths the one whose links carry less so far is taken, from its end backwards.

    Args:
        topology: the network.
        size: bytes of the message that paths are shortest for.
        src, dst: nodes, [pairs].
        load: bytes each pair adds to its links, [pairs] or one for all.
        group: ascending number, [pairs]: only loads of the same group count.

    Raises:
        SpecError: a pair that no path joins.
    """
    src, dst = np.asarray(src, np.int64), np.asarray(dst, np.int64)
    load = np.broadcast_to(np.asarray(load, float), src.shape).copy()
    group = np.broadcast_to(np.asarray(group, np.int64), src.shape).copy()
    sources, row = np.unique(src, return_inverse=True)
    far = distances(topology, size, sources)
    lost = np.flatnonzero(~np.isfinite(far[row, dst]))
    if lost.size:
        rule = f"must be reachable from node {src[lost[0]]}: no path of links leads there"
        raise SpecError([Fault("topology.links", f"node {dst[lost[0]]}", rule)])
    into = topology.incoming
    columns = (topology.src, topology.times(size), topology.bandwidth)
    return Routes(*_routes(into.ptr, into.link, *columns, far, row.astype(np.int64), src, dst, load, group))


@njit(cache=True)
def _distances(out_ptr, out_link, head, time, sources):
    far = np.empty((len(sources), len(out_ptr) - 1))
    key, who = np.empty(len(head) + 1), np.empty(len(head) + 1, np.int64)
    order = np.empty(len(out_ptr) - 1, np.int64)
    for row in range(len(sources)):
        dijkstra(out_ptr, out_link, head, time, sources[row], far[row], order, key, who)
    return far


@njit(cache=True)
def dijkstra(out_ptr, out_link, head, time, source, dist, order, key, who):
    """Least sums of ``time`` from ``source`` into ``dist`` [nodes]; the heap keeps outdated entries.

    ``order`` [nodes] gets the nodes by distance; returns how many were met. ``key`` and ``who`` [links + 1] are room
    for the heap.
    """
    dist[:] = np.inf
    dist[source] = 0.0
    key[0], who[0] = 0.0, source
    size = 1
    met = 0
    while size > 0:
        d, u = key[0], who[0]
        size -= 1
        k, w = key[size], who[size]
        at = 0
        while True:
            low = 2 * at + 1
            if low >= size:
                break
            if low + 1 < size and key[low + 1] < key[low]:
                low += 1
            if key[low] >= k:
                break
            key[at], who[at] = key[low], who[low]
            at = low
        key[at], who[at] = k, w
        if d > dist[u]:
            continue
        order[met] = u
        met += 1
        for i in range(out_ptr[u], out_ptr[u + 1]):
            e = out_link[i]
            v = head[e]
            new = d + time[e]
            if new < dist[v]:
                dist[v] = new
                at = size
                size += 1
                while at > 0:
                    up = (at - 1) >> 1
                    if key[up] <= new:
                        break
                    key[at], who[at] = key[up], who[up]
                    at = up
                key[at], who[at] = new, v
    return met


@njit(cache=True)
def _routes(in_ptr, in_link, tail, time, bandwidth, far, row, src, dst, load, group):
    pairs = len(src)
    carried = np.zeros(len(tail))
    ptr = np.zeros(pairs + 1, np.int64)
    links = np.empty(4 * pairs + 16, np.int64)
    used = 0
    first = 0  # of this group, in links
    for i in range(pairs):
        if i > 0 and group[i] != group[i - 1]:
            for k in range(first, used):
                carried[links[k]] = 0.0
            first = used
        dist = far[row[i]]
        v = dst[i]
        began = used
        while v != src[i]:
            best = -1
            lightest = np.inf
            bar = dist[v] * (1 + 1e-12)
            for k in range(in_ptr[v], in_ptr[v + 1]):
                e = in_link[k]
                p = tail[e]
                if dist[p] < dist[v] and dist[p] + time[e] <= bar and carried[e] < lightest:
                    best, lightest = e, carried[e]
            if used == len(links):
                links = np.concatenate((links, np.empty(used, np.int64)))
            links[used] = best
            used += 1
            carried[best] += load[i] / bandwidth[best]
            v = tail[best]
        lo, hi = began, used - 1
        while lo < hi:
            links[lo], links[hi] = links[hi], links[lo]
            lo += 1
            hi -= 1
        ptr[i + 1] = used
    return ptr, links[:used].copy()
