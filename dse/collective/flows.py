"""Bounds of an all-to-all: cuts along orders of the nodes, and bytes times distance.

Whatever lengths links have, each pair's bytes travel at least its distance, and what the links carry, times their
lengths, has to make up for that (the dual of the multi-commodity flow). Good lengths come from the flow's linear
programme where it is small, else from making busy links longer step by step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dse.collective.cuts import Cut, cut_between
from dse.collective.maxflow import by_node, dijkstra, distances, ints
from dse.collective.topology import Floats, Ints, Topology
from dse.jit import njit

SMALL = 4000  # variables of a linear programme that is solved at once
STEPS, WORK = 60, 1.2e7  # steps that lengths are improved for, and sources times links over all of them


def exchange_cuts(topology: Topology, members: Ints, block: float, rate: Floats, lengths: Floats) -> list[Cut]:
    """Cuts and distances that hold for blocks of ``block`` bytes between all ordered pairs of members.

    ``lengths`` are those of :func:`good_lengths`; any hold at any rate.
    """
    cuts = [cut for order in _orders(topology, members) for cut in _sweep(topology, members, block, rate, order)]
    tried = [rate.max() / rate, lengths]
    if len(members) * topology.links <= SMALL:
        tried.append(programme(topology, members, rate))
    return cuts + [_stretched(topology, members, block, length) for length in tried]


def _orders(topology: Topology, members: Ints) -> list[Ints]:
    """Orders whose beginnings may be bad cuts: by each digit of the numbers (in several bases), and by distance."""
    node = np.arange(topology.nodes)
    strides = [s for s in range(1, topology.npus) if topology.npus % s == 0][:16]
    keys = [(node % (stride * size)) // stride for stride in strides for size in (2, topology.npus // stride)]
    ones = np.ones(topology.links)
    near = distances(topology.nodes, topology.src, topology.dst, ones, members[:1])[0]
    keys += [
        near,
        distances(topology.nodes, topology.src, topology.dst, ones, members[near[members].argmax()][None])[0],
    ]
    return [np.argsort(key, kind="stable") for key in keys]


def _sweep(topology: Topology, members: Ints, block: float, rate: Floats, order: Ints) -> list[Cut]:
    """The worst beginning of an order, for what leaves it and for what enters it; and the worst single members."""
    place = np.empty(topology.nodes, np.int64)
    place[order] = np.arange(topology.nodes)
    is_member = np.isin(np.arange(topology.nodes), members)
    inside = np.cumsum(is_member[order])
    bytes_over = block * inside * (len(members) - inside)
    a, b, found = place[topology.src], place[topology.dst], []
    for out in (True, False):
        first, last = (a, b) if out else (b, a)
        across = first < last
        change = np.bincount(first[across], rate[across], topology.nodes + 1)
        change -= np.bincount(last[across], rate[across], topology.nodes + 1)
        carried = np.cumsum(change)[:-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            time = np.where(bytes_over > 0, bytes_over / carried, 0.0)
        side = np.zeros(topology.nodes, bool)
        side[order[: int(time.argmax()) + 1]] = True
        found.append(_two(topology, members, block, side if out else ~side))
        each = np.bincount(topology.src if out else topology.dst, rate, topology.nodes)
        side = np.arange(topology.nodes) == members[each[members].argmin()]
        found.append(_two(topology, members, block, side if out else ~side))
    return found


def _two(topology: Topology, members: Ints, block: float, inside: NDArray[np.bool_]) -> Cut:
    count = int(inside[members].sum())
    return cut_between(topology, inside, block * count * (len(members) - count))


def _stretched(topology: Topology, members: Ints, block: float, length: Floats) -> Cut:
    """Bytes times distance, with these lengths."""
    away = distances(topology.nodes, topology.src, topology.dst, length, members)[:, members]
    used = np.flatnonzero(length > 0)
    return Cut(float(away.sum()) * block, used, length[used])


def good_lengths(topology: Topology, members: Ints) -> Floats:
    """Lengths of links, [links], for which bytes times distance comes near to the flow's bound."""
    rate = topology.bandwidth
    length = best = rate.max() / rate
    value = 0.0
    for step in range(min(STEPS, int(WORK / (len(members) * max(topology.links, 1))))):
        load, total = loads(topology.nodes, *ints(topology.src, topology.dst), length, members)
        worth = total / float(length @ rate)
        if worth > value:
            value, best = worth, length
        busy = load / rate
        length = length * np.exp(busy / busy.max() / (1 + 0.2 * step))
        length = length / length.max()
    return best


@njit(cache=True)
def loads(nodes, src, dst, length, members):
    """What links carry if each pair's unit takes its shortest ways, evenly at each node; and the sum of distances."""
    load, total = np.zeros(len(src)), 0.0
    away = dijkstra(nodes, src, dst, length, members)
    ptr, order = by_node(nodes, dst)
    for i in range(len(members)):
        amount, row = np.zeros(nodes), away[i]
        for m in members:
            amount[m] = 1.0
            total += row[m]
        for v in np.argsort(row)[::-1]:
            if amount[v] == 0.0 or row[v] == 0.0 or row[v] == np.inf:
                continue
            ways = 0
            for a in range(ptr[v], ptr[v + 1]):
                e = order[a]
                ways += row[src[e]] + length[e] <= row[v] * (1 + 1e-12)
            for a in range(ptr[v], ptr[v + 1]):
                e = order[a]
                if row[src[e]] + length[e] <= row[v] * (1 + 1e-12):
                    load[e] += amount[v] / ways
                    amount[src[e]] += amount[v] / ways
    return load, total


def programme(topology: Topology, members: Ints, rate: Floats) -> Floats:
    """Lengths of links for which distances bound the all-to-all exactly: prices of the flow's linear programme."""
    from scipy.optimize import linprog
    from scipy.sparse import block_diag, coo_array, csr_array, hstack

    n, m, v = len(members), topology.links, topology.nodes
    links = np.arange(m)
    ends = (np.concatenate([topology.dst, topology.src]), np.tile(links, 2))
    one = csr_array(coo_array((np.repeat([1.0, -1.0], m), ends), shape=(v, m)))
    arrive, wanted = [], []
    for source in members:
        rows = np.flatnonzero(np.arange(v) != source)
        arrive.append(one[rows])
        wanted.append(np.isin(rows, members).astype(float))
    flow = csr_array(hstack([block_diag(arrive), csr_array((n * (v - 1), 1))]))
    speed = rate / rate.max()
    sums = hstack([csr_array((np.ones(m), (links, links)), shape=(m, m))] * n)
    limit = csr_array(hstack([sums, csr_array(-speed[:, None])]))
    cost = np.zeros(n * m + 1)
    cost[-1] = 1.0
    solved = linprog(cost, A_ub=limit, b_ub=np.zeros(m), A_eq=flow, b_eq=np.concatenate(wanted), method="highs")
    if solved.ineqlin is None or solved.status != 0:
        return rate.max() / rate
    return np.maximum(-np.asarray(solved.ineqlin.marginals), 0.0)
