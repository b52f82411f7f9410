"""Compiled parts of the all-to-all: trees of paths that share the load, the ways in them, and their schedule."""

from __future__ import annotations

import numpy as np

from dse.collective.heaps import push, put, sift, take
from dse.collective.routing import dijkstra
from dse.jit import njit

FLOOR = 0.002  # weight of an idle link beside a full one: detours stay short
SLACK = 0.05  # share of a link's weight by which a way may be longer than the shortest, if it is freer


@njit(cache=True)
def balanced(out_ptr, out_link, in_ptr, in_link, tail, head, time, rank, trees, order, eta, parent, load):
    """Route the trees in ``order`` anew, in place.

    ``rank`` [nodes]: place among the members, -1 for others; ``trees`` [3, trees]: node at which each starts, which
    part of the receivers it serves, of how many; ``parent`` [trees, nodes]: the link into each node, -1 for none;
    ``load`` [links].
    """
    nodes, links = len(out_ptr) - 1, len(tail)
    weight = np.empty(links)
    dist = np.empty(nodes)
    met = np.empty(nodes, np.int64)
    key, who = np.empty(links + 1), np.empty(links + 1, np.int64)
    demand = np.empty(nodes)
    for tree in order:
        up = parent[tree]
        root = trees[0, tree]
        _wanted(rank, trees[:, tree], demand)
        _lift(up, tail, time, load, demand, met)
        most = load.max()
        for e in range(links):
            weight[e] = time[e] * (FLOOR + (np.exp(eta * (load[e] / most - 1)) if most > 0 else 0.0))
        count = dijkstra(out_ptr, out_link, head, weight, root, dist, met, key, who)
        _wanted(rank, trees[:, tree], demand)
        up[:] = -1
        for k in range(count - 1, 0, -1):
            v = met[k]
            if demand[v] == 0:
                continue
            best, least = -1, np.inf
            bar = dist[v] * (1 + 1e-12)
            for i in range(in_ptr[v], in_ptr[v + 1]):
                e = in_link[i]
                p = tail[e]
                if dist[p] < dist[v] and dist[p] + weight[e] * (1 - SLACK) <= bar:
                    new = load[e] + demand[v] * time[e]
                    if new < least:
                        best, least = e, new
            up[v] = best
            load[best] = least
            demand[tail[best]] += demand[v]


@njit(cache=True)
def _wanted(rank, tree, demand):
    """One block for every receiver that a tree serves: those whose distance in ranks leaves its remainder."""
    root, part, parts = tree
    members = rank.max() + 1
    for v in range(len(rank)):
        off = (rank[v] - rank[root]) % members
        demand[v] = 1.0 if rank[v] >= 0 and v != root and off % parts == part else 0.0


@njit(cache=True)
def _lift(up, tail, time, load, demand, left):
    """Take a tree's blocks off the links."""
    nodes = len(up)
    left[:] = 0
    for v in range(nodes):
        if up[v] >= 0:
            left[tail[up[v]]] += 1
    for leaf in range(nodes):
        v = leaf
        while up[v] >= 0 and left[v] == 0:
            e = up[v]
            load[e] -= demand[v] * time[e]
            demand[tail[e]] += demand[v]
            left[v] = -1
            v = tail[e]
            left[v] -= 1


@njit(cache=True)
def proved(out_ptr, out_link, head, time, load, eta, rank, members, pieces):
    """Seconds the fullest link is busy at least: by linear programming duality, for any weights of the links."""
    links, nodes = len(head), len(out_ptr) - 1
    weight, scaled = np.empty(links), np.empty(links)
    most = load.max()
    for e in range(links):
        weight[e] = np.exp(eta * (load[e] / most - 1))
        scaled[e] = weight[e] * time[e]
    dist = np.empty(nodes)
    met = np.empty(nodes, np.int64)
    key, who = np.empty(links + 1), np.empty(links + 1, np.int64)
    total = 0.0
    for root in members:
        dijkstra(out_ptr, out_link, head, scaled, root, dist, met, key, who)
        for v in members:
            total += dist[v]
    return pieces * total / weight.sum()


@njit(cache=True)
def walks(parent, parts, tail, members, pieces):
    """Ways of all blocks; ``parent`` [senders * pieces * parts, nodes]."""
    n = len(members)
    count = n * (n - 1) * pieces
    ptr = np.zeros(count + 1, np.int64)
    link = np.empty(0, np.int32)
    for writing in range(2):
        way = 0
        for s in range(n):
            for r in range(n):
                if r == s:
                    continue
                for q in range(pieces):
                    up = parent[(s * pieces + q) * parts + (r - s) % n % parts]
                    x = members[r]
                    at = ptr[way + 1]
                    while x != members[s]:
                        if writing:
                            link[at - 1] = up[x]
                            at -= 1
                        else:
                            at += 1
                        x = tail[up[x]]
                    if not writing:
                        ptr[way + 1] = at
                    way += 1
        if not writing:
            ptr = np.cumsum(ptr)
            link = np.empty(ptr[count], np.int32)
    return ptr, link


@njit(cache=True)
def ways_scheduled(ptr, link, time, priority, links):
    """Start of every hop: a free link takes the waiting block of least ``priority`` [hops]; all blocks are equal.

    A block waits at one place at a time, so only one entry of each is in the heaps.
    """
    hops, ways = len(link), len(ptr) - 1
    start = np.full(hops, np.nan)
    base = np.zeros(links + 1, np.int64)
    for h in range(hops):
        base[link[h] + 1] += 1
    for e in range(links):
        base[e + 1] += base[e]
    heap = np.empty(hops, np.int64)
    last = np.zeros(hops, np.bool_)
    size = np.zeros(links, np.int64)
    busy = np.full(links, -1)  # hop that is on the link
    when, what = np.empty(links + 1), np.empty(links + 1, np.int64)
    running = 0
    marked = np.zeros(links, np.bool_)
    touched = np.empty(links, np.int64)
    touches = 0
    for w in range(ways):
        last[ptr[w + 1] - 1] = True
        e = link[ptr[w]]
        push(heap, base[e], size[e], priority, ptr[w])
        size[e] += 1
        if not marked[e]:
            marked[e] = True
            touched[touches] = e
            touches += 1
    now = 0.0
    while True:
        for k in range(touches):
            e = touched[k]
            marked[e] = False
            if busy[e] < 0 and size[e] > 0:
                h = heap[base[e]]
                size[e] -= 1
                sift(heap, base[e], size[e], priority)
                busy[e] = h
                start[h] = now
                put(when, what, running, now + time[e], e)
                running += 1
        touches = 0
        if running == 0:
            return start
        now = when[0]
        while running > 0 and when[0] <= now:
            e = what[0]
            running -= 1
            take(when, what, running)
            if not marked[e]:
                marked[e] = True
                touched[touches] = e
                touches += 1
            h = busy[e]
            busy[e] = -1
            if last[h]:
                continue
            h += 1
            e = link[h]
            push(heap, base[e], size[e], priority, h)
            size[e] += 1
            if not marked[e]:
                marked[e] = True
                touched[touches] = e
                touches += 1
