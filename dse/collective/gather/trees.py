"""All-gather and broadcast along trees, one a chunk, packed so that no link carries much more than its share.

Trees grow by Prim's rule; a link's price is what it would be busy for, weighted exponentially by what it carries already,
so that packing them again and again evens the loads (multiplicative weights: Plotkin, Shmoys and Tardos, 1995), as
ForestColl's trees do exactly. Then each link serves the chunk with the longest way left. Trees reach the members only:
other NPUs are in them where they help, and switches, which do not copy, are passed once for each copy.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dse.collective.gather.matching import Moves
from dse.collective.heaps import put, take
from dse.collective.tasks import list_schedule
from dse.collective.topology import Floats, Ints, Topology


def packed(
    topology: Topology, machine: Ints, duration: Floats, roots: Ints, members: Ints, depth: float, rounds: int, seed: int
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
    link, up, size = _pack(net, kind, machine, duration, roots, len(members), depth, rounds, seed)
    chunk, link, past = _flat(link, up, size)
    rest = _rest(past, duration[machine[link]])
    children = np.argsort(past, kind="stable")
    started = int((past < 0).sum())
    ptr = np.concatenate([[0], np.cumsum(np.bincount(past[children[started:]], minlength=len(past)))])
    waits = (past >= 0).astype(np.int64)
    tasks = machine[link]
    start = list_schedule(tasks, duration[tasks], waits, ptr, children[started:], -rest, len(duration))
    return Moves(chunk, link, start, past, float((start + duration[tasks]).max(initial=0.0)))


@njit(cache=True)
def _put_on(i, count, duration, load, price, steep):
    """Change a class's load by some transfers; its price is exponential in what it then carries with one more."""
    load[i] += count * duration[i]
    price[i] = duration[i] * np.exp(min(steep * (load[i] + duration[i]), 60.0))


@njit(cache=True)
def _grow(root, need, net, kind, machine, duration, load, price, steep, depth, plain, nodes, floats, heap, out, up):
    """One tree into ``out`` and ``up``; loads are updated. Returns the number of its transfers, -1: no way.

    ``nodes``: [3, nodes] of work space: task that brings a node the chunk (-1 at the root, -2: not in the tree), the link
    by which a node outside is reached, nodes of a way. Nodes outside that are no members have labels, as in
    Dijkstra's algorithm; those of switches go when their way has been taken.
    """
    src, dst, out_ptr, out_link, in_ptr, in_link = net
    task, via, way = nodes
    label, dist = floats
    task[:], label[:] = -2, np.inf
    task[root], dist[root] = -1, 0.0
    when, what = heap
    room, waiting = len(when), 0
    count, left = 0, need - 1
    for q in range(out_ptr[root], out_ptr[root + 1]):
        e = out_link[q]
        put(when, what, waiting, price[machine[e]], e)
        waiting += 1
        if plain:
            label[dst[e]] = min(label[dst[e]], price[machine[e]])
    while left > 0:
        if waiting == 0:
            return -1
        key, e = when[0], what[0]
        waiting -= 1
        take(when, what, waiting)
        u, v = src[e], dst[e]
        if task[v] != -2:
            continue
        base = depth * dist[u] if task[u] != -2 else label[u]
        if base == np.inf:
            continue
        now = base + price[machine[e]]
        if now > key * (1 + 1e-9):
            put(when, what, waiting, now, e)
            waiting += 1
            continue
        if waiting + len(src) > len(when):
            when = np.concatenate((when, np.empty(room)))
            what = np.concatenate((what, np.empty(room, np.int32)))
        if kind[v] != 0:
            if now < label[v]:
                label[v], via[v] = now, e
                for q in range(out_ptr[v], out_ptr[v + 1]):
                    f = out_link[q]
                    if task[dst[f]] == -2:
                        put(when, what, waiting, now + price[machine[f]], f)
                        waiting += 1
            continue
        steps = 0
        way[0] = e
        while task[u] == -2:
            steps += 1
            way[steps] = via[u]
            u = src[via[u]]
        last, far = task[u], dist[u]
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
            if kind[x] == 2:
                continue
            task[x], dist[x] = last, far
            for q in range(out_ptr[x], out_ptr[x + 1]):
                g = out_link[q]
                y = dst[g]
                cost = depth * far + price[machine[g]]
                if task[y] == -2 and not (plain and label[y] <= cost):
                    put(when, what, waiting, cost, g)
                    waiting += 1
                    if plain:
                        label[y] = cost
        left -= 1
        if steps > 0:
            waiting = _forget(net, kind, machine, price, depth, nodes, floats, way, steps, when, what, waiting)
    return count


@njit(cache=True)
def _forget(net, kind, machine, price, depth, nodes, floats, way, steps, when, what, waiting):
    """Take the labels of switches on a way that has been taken, and of what was reached through them; offer new ways."""
    src, dst, out_ptr, out_link, in_ptr, in_link = net
    task, via = nodes[0], nodes[1]
    label, dist = floats
    switches = 0
    for s in range(1, steps + 1):
        x = dst[way[s]]
        if kind[x] == 2:
            label[x] = np.inf
            switches += 1
    if switches == 0:
        return waiting
    changed = True
    while changed:
        changed = False
        for x in range(len(task)):
            if task[x] == -2 and label[x] < np.inf:
                u = src[via[x]]
                if task[u] == -2 and label[u] == np.inf:
                    label[x] = np.inf
                    changed = True
    for x in range(len(task)):
        if task[x] == -2 and kind[x] != 0 and label[x] == np.inf:
            for q in range(in_ptr[x], in_ptr[x + 1]):
                f = in_link[q]
                u = src[f]
                if (task[u] != -2 or label[u] < np.inf) and waiting < len(when):
                    base = depth * dist[u] if task[u] != -2 else label[u]
                    put(when, what, waiting, base + price[machine[f]], f)
                    waiting += 1
    return waiting


@njit(cache=True)
def _pack(net, kind, machine, duration, roots, need, depth, rounds, seed):
    """A tree for each root, [chunks, most transfers]; grown in a random order, then ``rounds`` times again."""
    np.random.seed(seed)
    chunks, count = len(roots), len(kind)
    relays = 0
    for v in range(count):
        relays += kind[v] != 0
    room = need - 1 + (min(relays * (need - 1), 6 * need + relays) if relays > 0 else 0)
    link, up = np.empty((chunks, room), np.int32), np.empty((chunks, room), np.int32)
    size, load = np.zeros(chunks, np.int64), np.zeros(len(duration))
    nodes, floats = np.empty((3, count), np.int64), np.empty((2, count))
    heap = np.empty(4 * len(net[0]) + 64), np.empty(4 * len(net[0]) + 64, np.int32)
    price, order = np.empty(len(duration)), np.random.permutation(chunks)
    plain = relays == 0 and len(duration) == len(net[0])  # links are classes of their own: a price holds while it counts
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
