"""The cut that holds a collective back, by max-flows that stay near their sink.

Link e can carry ``rate[e] * max(T - offset[e], 0)`` by time T. A set S of nodes has a demand, the sum of its nodes',
that has to leave it by then if a sink is outside. The least T for which all cuts suffice is found by Newton steps on
cuts: each is a true cut, evaluated from its set of nodes, so what is returned never exceeds the bound; float tolerances
can only make it miss a cut that is worse by a part in 10^10.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dse.collective.topology import Floats, Ints
from dse.jit import njit

EPS = 1e-11


@njit(cache=True)
def cut_time(rate, offset, need, order):
    """Least T with sum of rate * max(T - offset, 0) = need; links ``order``, by offset ascending; inf without links."""
    if need <= 0.0:
        return 0.0
    total, weighted, found = 0.0, 0.0, np.inf
    for e in order:
        if offset[e] >= found:
            break
        total += rate[e]
        weighted += rate[e] * offset[e]
        found = (need + weighted) / total
    return found


@njit(cache=True)
def push_from(
    sources, count, supply, absorb, arc_ptr, arc_to, residual, twin, limit, small, level, at, queue, stack, touched
):
    """Max-flow from nodes with supply to nodes that absorb, until ``limit``; Dinic's phases, each as deep as needed.
    What is not above ``small`` is nothing.

    ``supply``, ``absorb``, ``residual`` are changed; arcs whose residual changed are listed in ``touched``.

    Returns:
        flow; how many are listed; how many nodes the last search reached (they are ``queue[:reached]``: the source
        side of a minimum cut if the flow stayed below the limit).
    """
    # A phase goes some levels beyond the first node that absorbs, twice as many each time: one node a phase is slow.
    flow, listed, beyond = 0.0, 0, 0
    given, used = np.empty(len(level) + 1), np.empty(len(level) + 1)
    while True:
        head, tail, last = 0, 0, -1
        for i in range(count):
            v = sources[i]
            if supply[v] > small and level[v] < 0:
                level[v], at[v] = 0, arc_ptr[v]
                queue[tail] = v
                tail += 1
                if absorb[v] > small:
                    last = beyond
        while head < tail:
            v = queue[head]
            if last >= 0 and level[v] >= last:
                break
            head += 1
            for a in range(arc_ptr[v], arc_ptr[v + 1]):
                u = arc_to[a]
                if level[u] < 0 and residual[a] > small:
                    level[u], at[u] = level[v] + 1, arc_ptr[u]
                    queue[tail] = u
                    tail += 1
                    if absorb[u] > small and last < 0:
                        last = level[u] + beyond
        if last < 0:
            reached = tail
            for i in range(tail):
                level[queue[i]] = -1
            return flow, listed, reached
        for i in range(count):
            s = sources[i]
            if supply[s] <= small or level[s] != 0:
                continue
            # Depth first: what a node is given it absorbs or hands on; a node without a way on is taken out.
            depth, v = 0, s
            given[0], used[0] = supply[s], 0.0
            while True:
                if absorb[v] > small:
                    amount = min(absorb[v], given[depth] - used[depth])
                    absorb[v] -= amount
                    used[depth] += amount
                left, forth = given[depth] - used[depth], False
                if left > small:
                    while at[v] < arc_ptr[v + 1] and not forth:
                        a = at[v]
                        u = arc_to[a]
                        forth = residual[a] > small and level[u] == level[v] + 1
                        at[v] += 0 if forth else 1
                    if forth:
                        stack[depth] = a
                        depth += 1
                        given[depth], used[depth] = min(left, residual[a]), 0.0
                        v = u
                        continue
                    level[v] = -2
                if depth == 0:
                    break
                depth -= 1
                a, amount = stack[depth], used[depth + 1]
                if amount > 0.0:
                    residual[a] -= amount
                    residual[twin[a]] += amount
                    used[depth] += amount
                    touched[listed] = a
                    listed += 1
                    if listed == len(touched):
                        listed = _compact(touched, listed)
                child, v = v, arc_to[twin[a]]
                if level[child] == -2 or residual[a] <= small:
                    at[v] += 1
            supply[s] -= used[0]
            flow += used[0]
        for i in range(tail):
            level[queue[i]] = -1
        beyond = 2 * beyond + 1
        if flow >= limit - small:
            return flow, listed, 0


@njit(cache=True)
def _compact(touched, listed):
    """Each touched arc once; there is room for all arcs twice."""
    seen, kept = np.zeros(len(touched), np.bool_), 0
    for i in range(listed):
        if not seen[touched[i]]:
            seen[touched[i]] = True
            touched[kept] = touched[i]
            kept += 1
    return kept


@njit(cache=True)
def arcs(nodes, tail, head):
    """Residual arcs by their tail: pointers, heads, arc of each link, twin of each arc."""
    links = len(tail)
    ptr = np.zeros(nodes + 1, np.int64)
    for e in range(links):
        ptr[tail[e] + 1] += 1
        ptr[head[e] + 1] += 1
    for v in range(nodes):
        ptr[v + 1] += ptr[v]
    place = ptr[:-1].copy()
    to, forward, twin = np.empty(2 * links, np.int64), np.empty(links, np.int64), np.empty(2 * links, np.int64)
    for e in range(links):
        a, b = place[tail[e]], place[head[e]]
        place[tail[e]] += 1
        place[head[e]] += 1
        to[a], to[b], forward[e], twin[a], twin[b] = head[e], tail[e], a, b, a
    return ptr, to, forward, twin


def worst_cut(
    nodes: int,
    src: Ints,
    dst: Ints,
    rate: Floats,
    offset: Floats,
    demand: Floats,
    sinks: Ints,
    start: float,
    inside: NDArray[np.bool_],
) -> float:
    """Least T for which each set without some sink can send its demand out.

    Args:
        nodes: how many there are.
        src, dst, rate, offset: of links, [links].
        demand: of nodes, [nodes].
        sinks: nodes that need everything.
        start: a T to begin with, that of the cut ``inside``.
        inside: whether a node is in the set of the cut, [nodes]; is changed.

    Returns:
        T; ``inside`` is its cut. Infinite: a sink cannot be reached.
    """
    ends, rates, order = ints(src, dst), floats(rate, offset), np.argsort(offset)
    return float(_worst_cut(nodes, *ends, *rates, order, *floats(demand), *ints(sinks), float(start), inside))


def ints(*arrays: Ints) -> list[Ints]:
    """Copies of one type: compiled code is compiled once more for each mixture of arrays that can be written to."""
    return [np.array(a, np.int64) for a in arrays]


def floats(*arrays: Floats) -> list[Floats]:
    """The same of floats."""
    return [np.array(a, np.float64) for a in arrays]


@njit(cache=True)
def _worst_cut(nodes, src, dst, rate, offset, order, demand, sinks, start, inside):
    # The flow runs backwards, from a sink to the nodes with demand. A sink that has been checked is in each set still
    # to be checked (a set without it is fine), so it absorbs all that comes: the flow stays near its sink.
    ptr, to, forward, twin = arcs(nodes, dst, src)
    residual, full = np.zeros(len(to)), np.zeros(len(to))
    total = demand.sum()
    level, at = np.full(nodes, -1, np.int64), np.zeros(nodes, np.int64)
    queue, stack = np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    touched = np.empty(2 * len(to) + 1, np.int64)
    supply, absorb, checked = np.zeros(nodes), np.zeros(nodes), np.zeros(nodes, np.bool_)
    source, crossing = np.zeros(1, np.int64), np.empty(len(src), np.int64)
    time, stale = start, True
    for sink in _outwards(nodes, ptr, to, forward, twin, sinks):
        while True:
            if stale:
                for e in range(len(src)):
                    full[forward[e]] = rate[e] * max(time - offset[e], 0.0)
                residual[:] = full
                stale = False
            for v in range(nodes):
                absorb[v] = np.inf if checked[v] else demand[v]
            absorb[sink] = 0.0
            supply[sink] = np.inf
            source[0] = sink
            limit = total - demand[sink]
            if limit <= 0.0:
                break
            _, listed, reached = push_from(
                source, 1, supply, absorb, ptr, to, residual, twin, limit, EPS * limit, level, at, queue, stack, touched
            )
            supply[sink] = 0.0
            for i in range(listed):
                a = touched[i]
                residual[a], residual[twin[a]] = full[a], full[twin[a]]
            if reached == 0:
                break
            for v in range(nodes):
                at[v] = 1
            need, count = total, 0
            for i in range(reached):
                at[queue[i]] = 0
                need -= demand[queue[i]]
            for e in order:
                if at[src[e]] == 1 and at[dst[e]] == 0:
                    crossing[count] = e
                    count += 1
            found = cut_time(rate, offset, need, crossing[:count])
            if not found > time * (1 + 1e-10):
                break
            time, stale = found, True
            for v in range(nodes):
                inside[v] = at[v] == 1
            if time == np.inf:
                return time
        checked[sink] = True
    return time


@njit(cache=True)
def _outwards(nodes, ptr, to, forward, twin, sinks):
    """The sinks in the order in which data from the first reaches them: each next to one before it."""
    back, seen, wanted = np.zeros(len(to), np.bool_), np.zeros(nodes, np.bool_), np.zeros(nodes, np.bool_)
    back[twin[forward]] = True
    wanted[sinks] = True
    queue, tail = np.empty(nodes, np.int64), 0
    for sink in sinks:
        if seen[sink]:
            continue
        queue[tail], seen[sink] = sink, True
        tail += 1
        head = tail - 1
        while head < tail:
            v = queue[head]
            head += 1
            for a in range(ptr[v], ptr[v + 1]):
                if back[a] and not seen[to[a]]:
                    queue[tail], seen[to[a]] = to[a], True
                    tail += 1
    return queue[:tail][wanted[queue[:tail]]]


@njit(cache=True)
def by_node(nodes, ends):
    """Links by the node at one end: those of node v are ``order[ptr[v]:ptr[v + 1]]``."""
    ptr, order = np.zeros(nodes + 1, np.int64), np.empty(len(ends), np.int64)
    for e in range(len(ends)):
        ptr[ends[e] + 1] += 1
    for v in range(nodes):
        ptr[v + 1] += ptr[v]
    place = ptr.copy()
    for e in range(len(ends)):
        order[place[ends[e]]] = e
        place[ends[e]] += 1
    return ptr, order


def distances(nodes: int, src: Ints, dst: Ints, weight: Floats, sources: Ints) -> Floats:
    """Shortest distances from each source, [sources, nodes]; inf where there is no way."""
    return dijkstra(nodes, *ints(src, dst), *floats(weight), *ints(sources))


@njit(cache=True)
def dijkstra(nodes, src, dst, weight, sources):
    """See :func:`distances`; with a binary heap."""
    ptr, order = by_node(nodes, src)
    head, cost = dst[order], weight[order]
    found = np.full((len(sources), nodes), np.inf)
    heap, place = np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    for i in range(len(sources)):
        away = found[i]
        place[:] = -1
        away[sources[i]] = 0.0
        heap[0], size = sources[i], 1
        place[sources[i]] = 0
        while size > 0:
            v = heap[0]
            place[v] = -2
            size -= 1
            if size > 0:
                moved, hole = heap[size], 0
                while True:
                    child = 2 * hole + 1
                    if child >= size:
                        break
                    if child + 1 < size and away[heap[child + 1]] < away[heap[child]]:
                        child += 1
                    if away[heap[child]] >= away[moved]:
                        break
                    heap[hole] = heap[child]
                    place[heap[hole]] = hole
                    hole = child
                heap[hole] = moved
                place[moved] = hole
            for a in range(ptr[v], ptr[v + 1]):
                u, new = head[a], away[v] + cost[a]
                if new >= away[u]:
                    continue
                away[u] = new
                if place[u] < 0:
                    place[u] = size
                    size += 1
                hole = place[u]
                while hole > 0 and away[heap[(hole - 1) // 2]] > new:
                    heap[hole] = heap[(hole - 1) // 2]
                    place[heap[hole]] = hole
                    hole = (hole - 1) // 2
                heap[hole] = u
                place[u] = hole
    return found
