"""All-gather along chains round a ring of NPUs: for networks of switches, where a tree's ways get in each other's way.

Each chunk starts on a few chains, evenly spaced round a ring of near neighbours, and is handed on from NPU to NPU.
Every NPU then sends and receives about as much as any other, at all times, and hardly anything takes the links between
switches.
"""

from __future__ import annotations

import numpy as np

from dse.collective.gather.matching import Moves
from dse.collective.gather.trees import started
from dse.collective.heaps import put, take
from dse.collective.topology import Floats, Ints, Topology
from dse.jit import njit

LANES = 8  # sets of ways that the pieces of a shard take in turn


def chained(topology: Topology, duration: Floats, members: Ints, pieces: int, chains: int) -> Moves:
    """Send ``pieces`` chunks of each member to all, on ``chains`` chains each; ``duration`` of links, [links]."""
    out = topology.outgoing
    net = (topology.src, topology.dst, out.ptr, out.link)
    wanted = np.zeros(topology.nodes, bool)
    wanted[members] = True
    ring = _ring(net, duration, wanted, members[0], len(members))
    chunk, link, past = _moves(net, duration, ring, members, pieces, min(chains, len(members) - 1))
    start = started(link, duration, past)
    return Moves(chunk, link, start, past, float((start + duration[link]).max(initial=0.0)))


@njit(cache=True)
def _route(net, source, wanted, duration, load, dist, via, heap, way):
    """Cheapest way to the nearest wanted node, last link first into ``way``; how many links, 0: there is none."""
    src, dst, out_ptr, out_link = net
    when, what = heap
    dist[:] = np.inf
    dist[source], waiting = 0.0, 1
    when[0], what[0] = 0.0, source
    while waiting > 0:
        now, u = when[0], what[0]
        waiting -= 1
        take(when, what, waiting)
        if now > dist[u]:
            continue
        if wanted[u] and u != source:
            steps = 0
            while u != source:
                way[steps] = via[u]
                steps += 1
                u = src[via[u]]
            for s in range(steps):
                load[way[s]] += 1
            return steps
        for q in range(out_ptr[u], out_ptr[u + 1]):
            e = out_link[q]
            cost = now + (1 + load[e]) * duration[e]
            if cost < dist[dst[e]]:
                dist[dst[e]], via[dst[e]] = cost, e
                put(when, what, waiting, cost, dst[e])
                waiting += 1
    return 0


@njit(cache=True)
def _work(nodes, links):
    heap = np.empty(links + 1), np.empty(links + 1, np.int32)
    return np.zeros(links), np.empty(nodes), np.empty(nodes, np.int64), heap, np.empty(nodes, np.int64)


@njit(cache=True)
def _ring(net, duration, wanted, first, count):
    """Members in an order in which each is among the nearest to the one before."""
    load, dist, via, heap, way = _work(len(wanted), len(duration))
    left, ring = wanted.copy(), np.empty(count, np.int64)
    ring[0], left[first] = first, False
    for i in range(1, count):
        _route(net, ring[i - 1], left, duration, load, dist, via, heap, way)
        load[:] = 0
        ring[i] = net[1][way[0]]
        left[ring[i]] = False
    return ring


@njit(cache=True)
def _moves(net, duration, ring, members, pieces, chains):
    """Transfers of all chunks: chunk, link, and the one each waits for; pieces and chains have ways of their own."""
    count, nodes = len(ring), len(net[2]) - 1
    load, dist, via, heap, way = _work(nodes, len(duration))
    there = np.zeros(nodes, np.bool_)
    number = np.empty(nodes, np.int64)
    for i in range(count):
        number[members[i]] = i
    # Ways [lanes, chains, members] from each member of the ring to the next (chain 0) and to where the others begin.
    first = np.empty(chains, np.int64)
    for j in range(chains):
        first[j] = 1 + j * (count - 1) // chains
    lanes = min(pieces, LANES)
    begin, total = np.zeros((lanes, chains, count + 1), np.int64), 0
    ways = np.empty(1024, np.int32)
    for p in range(lanes):
        for j in range(chains):
            for i in range(count):
                end = ring[(i + first[j]) % count]
                there[end] = True
                steps = _route(net, ring[i], there, duration, load, dist, via, heap, way)
                there[end] = False
                if total + steps > len(ways):
                    ways = np.concatenate((ways, np.empty(len(ways) + steps, np.int32)))
                begin[p, j, i] = total
                for s in range(steps - 1, -1, -1):
                    ways[total] = way[s]
                    total += 1
            begin[p, j, count] = total
    size = 0
    for writing in range(2):
        if writing:
            chunk, link, past = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.int32)
        size = 0
        for p in range(pieces):
            for i in range(count):
                for j in range(chains):
                    stop = first[j + 1] if j + 1 < chains else count
                    last = -1
                    for step in range(first[j], stop):
                        part = j if step == first[j] else 0
                        at = i if step == first[j] else (i + step - 1) % count
                        for s in range(begin[p % lanes, part, at], begin[p % lanes, part, at + 1]):
                            if writing:
                                chunk[size], link[size], past[size] = number[ring[i]] * pieces + p, ways[s], last
                            last = size
                            size += 1
    return chunk, link, past
