"""The partition that holds an all-reduce back: strength of a directed network, by Dilworth truncation.

For NPUs in k blocks X_i each element takes 2(k - 1) messages that leave a block: k - 1 before any block holds the whole
sum (a message joins at most two), k - 1 after, as each of the other blocks has still to get it. So with c(X) the bytes
that can leave X by time T, sum c(X_i) >= 2 (k - 1) bytes. The least T for which all partitions suffice is found by
Newton steps on partitions: for one T, the least sum of c(X_i) - 2 bytes over all partitions is that of the greedy
vector of the Dilworth truncation (one min-cut a node). Cunningham, "Optimal attack and reinforcement of a network",
J. ACM 32, 1985.

A node that is in no block (a switch: it neither adds nor copies) may be on either side of each cut.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dse.collective.maxflow import arcs, cut_time, floats, ints, push_from
from dse.collective.topology import Floats, Ints
from dse.jit import njit


def worst_partition(
    nodes: int,
    src: Ints,
    dst: Ints,
    rate: Floats,
    offset: Floats,
    ground: Ints,
    demand: float,
    block: Ints,
    free: NDArray[np.bool_],
) -> float:
    """Least T for which each partition of ``ground`` lets 2 (blocks - 1) ``demand`` out.

    Args:
        nodes: how many there are.
        src, dst, rate, offset: of links, see :mod:`dse.collective.maxflow`.
        ground: the nodes that are partitioned, in the order they are taken.
        demand: bytes of the all-reduce.
        block: number of each node's block, [nodes]; a node in no block: -1. Is changed.
        free: which of the others go with each block, [ground, nodes] ([1, nodes] if there are none). Is changed.

    Returns:
        T; ``block`` is its partition.
    """
    order = np.argsort(offset)
    links = (*ints(src, dst), *floats(rate, offset))
    return float(_worst_partition(nodes, *links, order, *ints(ground), float(demand), block, free))


@njit(cache=True)
def _worst_partition(nodes, src, dst, rate, offset, order, ground, demand, block, free):
    time, found = 0.0, block.copy()
    crossing, length = np.empty(len(src), np.int64), np.empty(len(src))
    while True:
        for e in range(len(src)):
            length[e] = rate[e] * max(time - offset[e], 0.0)
        beside = _tight(nodes, src, dst, length, ground, 2.0 * demand, found)
        # Links that leave a block's set; with switches in several sets one may count for each of them.
        count, blocks = 0, 0
        for k in range(len(ground)):
            blocks += found[ground[k]] == k
        for e in order:
            a, b = found[src[e]], found[dst[e]]
            if a >= 0 and b >= 0:
                times = 1 if a != b else 0
            elif a >= 0:
                times = 0 if beside[a, dst[e]] else 1
            else:
                times = 0
                for k in range(len(beside)):
                    if beside[k, src[e]] and found[ground[k]] == k and b != k and not (b < 0 and beside[k, dst[e]]):
                        times += 1
            while count + times > len(crossing):
                crossing = np.concatenate((crossing, crossing))
            crossing[count : count + times] = e
            count += times
        if blocks < 2:
            return time
        new = cut_time(rate, offset, 2.0 * demand * (blocks - 1), crossing[:count])
        if not new > time * (1 + 1e-10):
            return time
        time = new
        block[:] = found
        free[:] = beside
        if time == np.inf:
            return time


@njit(cache=True)
def _tight(nodes, src, dst, length, ground, cost, found):
    """Blocks ``found`` [nodes] of a partition with the least sum of c(X) - cost; returns the free nodes of each block.

    c(X) is what leaves the nodes of X one by one, less the lengths of the links inside. So each link's length is put
    on its ends: node v, when taken, has to hold what its links to earlier nodes cannot put elsewhere (its excess), and
    then has room for ``cost`` more. Sets where no room is left are tight; those that meet are one block.
    """
    ptr, to, forward, twin = arcs(nodes, src, dst)
    residual, room = np.zeros(len(to)), np.zeros(nodes)
    supply, source = np.zeros(nodes), np.zeros(1, np.int64)
    level, at = np.full(nodes, -1, np.int64), np.zeros(nodes, np.int64)
    queue, stack = np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    touched = np.empty(2 * len(to) + 1, np.int64)
    taken, weight = np.ones(nodes, np.bool_), np.empty(len(to))
    taken[ground] = False
    found[:] = -1
    for e in range(len(src)):
        weight[forward[e]] = weight[twin[forward[e]]] = length[e]
        if taken[src[e]]:  # a free node holds what leaves it, and no more
            if taken[dst[e]]:
                residual[forward[e]] = length[e]
            else:
                room[src[e]] += length[e]
    free = np.zeros((len(ground) if taken.any() else 1, nodes), np.bool_)
    merged = np.zeros(len(ground), np.bool_)
    for j in range(len(ground)):
        v = ground[j]
        taken[v] = True
        for a in range(ptr[v], ptr[v + 1]):
            if taken[to[a]]:
                residual[a] = weight[a]
                supply[v] += weight[a]
        source[0] = v
        _, _, reached = push_from(
            source, 1, supply, room, ptr, to, residual, twin, np.inf, 1e-11 * cost, level, at, queue, stack, touched
        )
        supply[v], room[v], found[v] = 0.0, cost, j
        for i in range(reached):
            u = queue[i]
            if found[u] >= 0:
                merged[found[u]] = True
            else:
                free[j, u] = True
        for k in range(j):
            if merged[k]:
                merged[k] = False
                for i in range(j):
                    if found[ground[i]] == k:
                        found[ground[i]] = j
                if len(free) > 1:
                    free[j] |= free[k]
        merged[j] = False
    return free
