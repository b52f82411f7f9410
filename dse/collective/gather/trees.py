"""All-gather and broadcast along trees, one a chunk, packed so that no link carries much more than its share.

Trees grow by Prim's rule; a link's price is what it would be busy for, weighted exponentially by what it carries
already, so that packing them again and again evens the loads (multiplicative weights: Plotkin, Shmoys and Tardos,
1995), as ForestColl's trees do exactly. Then each link serves the chunk with the longest way left. Trees reach the
members only: other NPUs are in them where they help, and switches, which do not copy, are passed once for each copy.
"""

from __future__ import annotations

import numpy as np

from dse.collective.gather.matching import Moves
from dse.collective.heaps import put, take
from dse.collective.tasks import list_schedule
from dse.collective.topology import Floats, Ints, Topology
from dse.jit import njit

FEW, PASSES = 200_000, 3  # transfers that are justified, and how often


def packed(
    topology: Topology,
    machine: Ints,
    duration: Floats,
    roots: Ints,
    members: Ints,
    depth: float,
    rounds: int,
    seed: int,
) -> Moves:
    """Send each root's chunk to all members.

    Args:
        machine, duration, roots: as in :func:`~dse.collective.gather.matching.matched`.
        members: NPUs to reach.
        depth: price of a second of distance from the root against a second of load.
        rounds: times that every tree is grown again.
    """
    out, into = topology.outgoing, topology.incoming
    net = (topology.src, topology.dst, out.ptr, out.link, into.ptr, into.link)
    kind = np.ones(topology.nodes, np.int64)
    kind[members] = 0
    kind[topology.npus :] = 2
    need, relays = len(members), int((kind > 0).sum())
    for room in (need - 1 + min(relays * (need - 1), 6 * need + relays), (need - 1) * (relays + 1)):
        link, up, size = _pack(net, kind, machine, duration, roots, need, depth, rounds, seed, room)
        if size.min() >= 0:  # else trees have more transfers
            break
    chunk, link, past = _flat(link, up, size)
    start = started(machine[link], duration, past)
    return Moves(chunk, link, start, past, float((start + duration[machine[link]]).max(initial=0.0)))


def started(machine: Ints, duration: Floats, past: np.ndarray) -> Floats:
    """Start times, [transfers], of what waits for one transfer each (``past``, -1: none).

    The longest way left goes first. Few transfers are then pushed together in time.

    From the end back each goes as late as it can, and from the start on as early as it can, in the order of before
    (justification: Valls, Ballestin, Quintanilla, EJOR 2005).
    """
    seconds, classes = duration[machine], len(duration)
    children = np.argsort(past, kind="stable")[int((past < 0).sum()) :]
    count = np.bincount(past[children], minlength=len(past))
    ahead = (past >= 0).astype(np.int64), np.concatenate([[0], np.cumsum(count)]), children
    behind = count, np.concatenate([[0], np.cumsum(past >= 0)]), past[past >= 0].astype(np.int64)
    start = list_schedule(machine, seconds, *ahead, -_rest(past, seconds), classes)
    if len(past) > FEW:
        return start
    best, busiest = start, np.bincount(machine, seconds).max(initial=0.0)
    for _ in range(PASSES):
        least = (best + seconds).max(initial=0.0)
        if least <= busiest * (1 + 1e-3):
            break
        late = list_schedule(machine, seconds, *behind, -(start + seconds), classes)
        start = list_schedule(machine, seconds, *ahead, -(late + seconds), classes)
        if (start + seconds).max() < least:
            best = start
    return best


@njit(cache=True)
def _put_on(i, count, duration, load, price, steep):
    """Change a class's load by some transfers; its price is exponential in what it then carries with one more."""
    load[i] += count * duration[i]
    price[i] = duration[i] * np.exp(min(steep * (load[i] + duration[i]), 60.0))


@njit(cache=True)
def _label(x, net, machine, price, depth, task, via, label, dist):
    """Find the cheapest link into a node outside the tree anew."""
    src, in_ptr, in_link = net[0], net[4], net[5]
    label[x] = np.inf
    for q in range(in_ptr[x], in_ptr[x + 1]):
        f = in_link[q]
        u = src[f]
        cost = (depth * dist[u] if task[u] != -2 else label[u]) + price[machine[f]]
        if cost < label[x]:
            label[x], via[x] = cost, f


@njit(cache=True)
def _way(e, src, task, via, way):
    """Links from ``e`` back to the tree; how many more than one they are, -1: they go round."""
    steps, u = 0, src[e]
    way[0] = e
    while task[u] == -2:
        steps += 1
        if steps == len(way):
            return -1
        way[steps] = via[u]
        u = src[via[u]]
    return steps


@njit(cache=True)
def _offer(x, base, net, machine, price, plain, task, label, when, what, waiting):
    """Put the links from a node that costs ``base`` to get to on the heap."""
    dst, out_ptr, out_link = net[1], net[2], net[3]
    for q in range(out_ptr[x], out_ptr[x + 1]):
        f = out_link[q]
        cost = base + price[machine[f]]
        if task[dst[f]] == -2 and not (plain and label[dst[f]] <= cost):
            put(when, what, waiting, cost, f)
            waiting += 1
            if plain:
                label[dst[f]] = cost
    return waiting


@njit(cache=True)
def _grow(root, need, net, kind, machine, duration, load, price, steep, depth, plain, nodes, floats, heap, out, up):
    """One tree into ``out`` and ``up``; loads are updated. Returns the number of its transfers, -1: no room or no way.

    Nodes outside that are no members have labels, what a way to them costs, as in Dijkstra's algorithm; they are found
    anew where prices on the way have risen. ``plain``: all nodes are members, and links are priced one by one; then
    labels are the members' cheapest offers. ``nodes``, [3, nodes]: transfer that brings a node the chunk (-1 at the
    root, -2: not in the tree), last link to a labelled node, links of a way. The heap's arrays have room for all links.
    """
    src, dst = net[0], net[1]
    task, via, way = nodes
    label, dist = floats
    when, what = heap
    task[:], label[:] = -2, np.inf
    task[root], dist[root] = -1, 0.0
    count, left = 0, need - 1
    waiting = _offer(root, 0.0, net, machine, price, plain, task, label, when, what, 0)
    while left > 0:
        if waiting == 0:
            return -1
        key, e = when[0], what[0]
        waiting -= 1
        take(when, what, waiting)
        u, v = src[e], dst[e]
        if task[v] != -2:
            continue
        steps = _way(e, src, task, via, way)
        if steps > 0:
            cost = depth * dist[src[way[steps]]]
            for s in range(1, steps + 1):
                cost += price[machine[way[s]]]
            if cost > label[u] * (1 + 1e-9):
                _label(u, net, machine, price, depth, task, via, label, dist)
                steps = _way(e, src, task, via, way)
        if steps < 0:  # labels that rest on each other: begin again from the tree
            waiting = 0
            for x in range(len(task)):
                if task[x] == -2:
                    label[x] = np.inf
            for x in range(len(task)):
                if task[x] != -2:
                    waiting = _offer(x, depth * dist[x], net, machine, price, plain, task, label, when, what, waiting)
            continue
        now = (depth * dist[u] if task[u] != -2 else label[u]) + price[machine[e]]
        if now > key * (1 + 1e-9):
            put(when, what, waiting, now, e)
            waiting += 1
            continue
        if kind[v] != 0:
            if label[v] == np.inf:
                label[v], via[v] = now, e
                waiting = _offer(v, now, net, machine, price, plain, task, label, when, what, waiting)
            continue
        last, far = task[src[way[steps]]], dist[src[way[steps]]]
        if count + steps + 1 > len(out):
            return -1
        for s in range(steps, -1, -1):
            f = way[s]
            x = dst[f]
            out[count], up[count] = f, last
            last = count
            count += 1
            _put_on(machine[f], 1, duration, load, price, steep)
            far += duration[machine[f]]
            if kind[x] != 2:
                task[x], dist[x] = last, far
                if s == 0:
                    waiting = _offer(x, depth * far, net, machine, price, plain, task, label, when, what, waiting)
        left -= 1
    return count


@njit(cache=True)
def _pack(net, kind, machine, duration, roots, need, depth, rounds, seed, room):
    """A tree for each root, [chunks, most transfers]; grown in a random order, then ``rounds`` times again."""
    np.random.seed(seed)
    chunks, count = len(roots), len(kind)
    link, up = np.empty((chunks, room), np.int32), np.empty((chunks, room), np.int32)
    size, load = np.zeros(chunks, np.int64), np.zeros(len(duration))
    nodes, floats = np.empty((3, count), np.int64), np.empty((2, count))
    heap = np.empty(2 * len(net[0]) + 1), np.empty(2 * len(net[0]) + 1, np.int32)
    price, order = np.empty(len(duration)), np.random.permutation(chunks)
    plain = need == count and len(duration) == len(net[0])  # a price then holds while it counts
    for turn in range(rounds + 1):
        for i in range(chunks):
            k = order[i]
            if turn == 0 or i == 0:
                steep = (2.0 if turn == 0 else 8.0) / (load.max() + duration.max())
                for j in range(len(duration)):
                    _put_on(j, 0, duration, load, price, steep)
            for q in range(size[k]):
                _put_on(machine[link[k, q]], -1, duration, load, price, steep)
            size[k] = _grow(
                roots[k], need, net, kind, machine, duration, load, price, steep, depth, plain, nodes, floats, heap,
                link[k], up[k],
            )  # fmt: skip
            if size[k] < 0:
                return link, up, size
    return link, up, size


@njit(cache=True)
def _flat(link, up, size):
    """Transfers of all trees: chunk, link, and the transfer each waits for (-1: none)."""
    total = 0
    for k in range(len(size)):
        total += size[k]
    chunk, along, past = np.empty(total, np.int32), np.empty(total, np.int32), np.empty(total, np.int32)
    at = 0
    for k in range(len(size)):
        first = at
        for q in range(size[k]):
            chunk[at], along[at] = k, link[k, q]
            past[at] = first + up[k, q] if up[k, q] >= 0 else -1
            at += 1
    return chunk, along, past


@njit(cache=True)
def _rest(past, duration):
    """Longest chain of durations from the start of each transfer on; one comes after what it waits for."""
    rest = duration.copy()
    for i in range(len(past) - 1, -1, -1):
        if past[i] >= 0:
            rest[past[i]] = max(rest[past[i]], duration[past[i]] + rest[i])
    return rest
