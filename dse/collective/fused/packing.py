"""Trees for many chunks, grown one after another so that no link carries much more than its share.

Each chunk is added up along an in-tree and the sum handed out along an out-tree of the same root. Prim's rule with
the time that a link would be busy as its price is a packing by multiplicative weights (Plotkin, Shmoys and Tardos):
where links are alike in both directions, one tree used both ways comes within a message or so of the strength bound.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dse.collective.topology import Floats, Ints, Topology
from dse.jit import njit

MEMBER, RELAY, SWITCH = 0, 1, 2  # adds and copies; the same, but need not be reached; only passes on


class Network(NamedTuple):
    """What trees are grown on; ``twin`` is the link back with the same figures, -1 where there is none."""

    kind: Ints
    src: Ints
    dst: Ints
    twin: Ints
    out_ptr: Ints
    out_link: Ints
    in_ptr: Ints
    in_link: Ints


class Trees(NamedTuple):
    """In- (2 k) and out-tree (2 k + 1) of each chunk k, as links and what is next to them towards the root.

    Attributes:
        link, up: [2 chunks, most tasks of a tree]; up is -1 at the root; the root's links come first.
        size: links of each tree, [2 chunks].
        load: messages over each link, [links].
    """

    link: np.ndarray
    up: np.ndarray
    size: Ints
    load: Floats


def network(topology: Topology, members: Ints) -> Network:
    """A topology seen by a group."""
    kind = np.full(topology.nodes, RELAY)
    kind[members] = MEMBER
    kind[topology.npus :] = SWITCH
    out, into = topology.outgoing, topology.incoming
    return Network(kind, topology.src, topology.dst, twins(topology), out.ptr, out.link, into.ptr, into.link)


def twins(topology: Topology) -> Ints:
    """Link from each link's end to its source with the same latency and bandwidth; -1: none. Parallel ones pair up."""
    columns = (topology.bandwidth, topology.latency)
    there = np.lexsort((*columns, topology.dst, topology.src))
    back = np.lexsort((*columns, topology.src, topology.dst))
    found = np.full(topology.links, -1)
    same = (topology.src[there] == topology.dst[back]) & (topology.dst[there] == topology.src[back])
    for column in columns:
        same &= column[there] == column[back]
    if same.all():
        found[there] = back
    return found


@njit(cache=True)
def _push(keys, links, count, key, link):
    at = count
    while at > 0:
        above = (at - 1) >> 1
        if keys[above] <= key:
            break
        keys[at], links[at] = keys[above], links[above]
        at = above
    keys[at], links[at] = key, link


@njit(cache=True)
def _pop(keys, links, count):
    """Take the first off a heap that keeps ``count`` entries."""
    key, link = keys[count], links[count]
    at = 0
    while True:
        low = 2 * at + 1
        if low >= count:
            break
        if low + 1 < count and keys[low + 1] < keys[low]:
            low += 1
        if keys[low] >= key:
            break
        keys[at], links[at] = keys[low], links[low]
        at = low
    keys[at], links[at] = key, link


@njit(cache=True)
def _room(keys, links, heap, more):
    """A heap's arrays with room for ``more`` entries."""
    if heap + more <= len(keys):
        return keys, links
    extra = len(keys) + more
    return np.concatenate((keys, np.empty(extra))), np.concatenate((links, np.empty(extra, np.int32)))


@njit(cache=True)
def _spread(v, base, way, time, load, mu, task, least, keys, links, heap, plain):
    """Offer the links that leave node v; ``base`` is what it costs to get there."""
    ptr, adjacent, head = way[0], way[1], way[5]
    for j in range(ptr[v], ptr[v + 1]):
        f = adjacent[j]
        w = head[f]
        if task[w] != -2:
            continue
        key = base + (load[f] + 1 + mu) * time[f]
        if plain:
            if key >= least[w]:
                continue
            least[w] = key
        _push(keys, links, heap, key, f)
        heap += 1
    return heap


@njit(cache=True)
def _renew(v, way, time, load, mu, task, label, dist, keys, links, heap):
    """Offer the links that enter a node whose label has gone."""
    back_ptr, back, tail = way[2], way[3], way[4]
    for j in range(back_ptr[v], back_ptr[v + 1]):
        f = back[j]
        x = tail[f]
        if task[x] != -2 or label[x] < np.inf:
            base = mu * dist[x] if task[x] != -2 else label[x]
            _push(keys, links, heap, base + (load[f] + 1 + mu) * time[f], f)
            heap += 1
    return heap


@njit(cache=True)
def _grow(root, need, kind, way, time, load, mu, plain, ints, floats, keys, links, out, up):
    """One tree from ``root`` to all members along links tail -> head, into ``out`` and ``up``; loads are updated.

    A link costs what it would be busy for, and ``mu`` times the distance from the root. ``way``: ptr and links by
    tail, ptr and links by head, tails, heads. ``plain``: all nodes are members. Switches and NPUs of no use to anyone
    yet have labels, as in Dijkstra's algorithm; a switch loses its label when its way has been taken, since it does
    not copy. Returns the number of tasks, -1 where there is no way.
    """
    tail, head, back_ptr = way[4], way[5], way[2]
    ptr, adjacent = way[0], way[1]
    task, via, path = ints[0], ints[1], ints[2]
    label, dist, least = floats[0], floats[1], floats[2]
    for v in range(len(kind)):
        task[v], label[v], least[v] = -2, np.inf, np.inf
    task[root], dist[root] = -1, 0.0
    count, left = 0, need - 1
    keys, links = _room(keys, links, 0, ptr[root + 1] - ptr[root])
    heap = _spread(root, 0.0, way, time, load, mu, task, least, keys, links, 0, plain)
    while left > 0:
        if heap == 0:
            return -1
        key, e = keys[0], links[0]
        heap -= 1
        _pop(keys, links, heap)
        u, v = tail[e], head[e]
        if task[v] != -2 or (plain and key > least[v]):
            continue
        steps = 0
        path[0] = e
        if not plain:
            base = mu * dist[u] if task[u] != -2 else label[u]
            if base == np.inf:
                continue
            now = base + (load[e] + 1 + mu) * time[e]
            if now > key * (1 + 1e-12):
                _push(keys, links, heap, now, e)
                heap += 1
                continue
            if kind[v] != MEMBER:
                if key < label[v]:
                    label[v], via[v] = key, e
                    keys, links = _room(keys, links, heap, ptr[v + 1] - ptr[v])
                    heap = _spread(v, key, way, time, load, mu, task, least, keys, links, heap, plain)
                continue
            w = u
            while task[w] == -2 and label[w] < np.inf:
                steps += 1
                path[steps] = via[w]
                w = tail[path[steps]]
        w = tail[path[steps]]
        last, far = task[w], dist[w]
        if count + steps + 1 > len(out):
            return -1
        for s in range(steps, -1, -1):
            f = path[s]
            x = head[f]
            out[count], up[count] = f, last
            last = count
            count += 1
            load[f] += 1
            far += time[f]
            if kind[x] != SWITCH:
                task[x], dist[x] = last, far
                keys, links = _room(keys, links, heap, ptr[x + 1] - ptr[x])
                heap = _spread(x, mu * far, way, time, load, mu, task, least, keys, links, heap, plain)
        # Switches on the way have been left, and with them whatever was to be reached through them.
        stale = 0
        for s in range(1, steps + 1):
            x = head[path[s]]
            if kind[x] == SWITCH:
                label[x] = np.inf
                path[stale] = x
                stale += 1
        at = 0
        while at < stale:
            x = path[at]
            at += 1
            for j in range(ptr[x], ptr[x + 1]):
                w = head[adjacent[j]]
                if task[w] == -2 and label[w] < np.inf and via[w] == adjacent[j]:
                    label[w] = np.inf
                    path[stale] = w
                    stale += 1
        for s in range(stale):
            x = path[s]
            keys, links = _room(keys, links, heap, back_ptr[x + 1] - back_ptr[x])
            heap = _renew(x, way, time, load, mu, task, label, dist, keys, links, heap)
        left -= 1
    return count


@njit(cache=True)
def _rehang(root, way, time, load, mu, ints, floats, out, up, rounds):
    """Let members of a tree change to cheaper links where that makes no cycle: of directed trees Prim's are greedy."""
    back_ptr, back, tail, head = way[2], way[3], way[4], way[5]
    parent, place, order = ints[0], ints[1], ints[2]
    dist = floats[1]
    nodes = len(parent)
    parent[root] = -1
    for i in range(nodes - 1):
        order[i] = head[out[i]]
        parent[order[i]] = out[i]
    moved = 0
    for _ in range(rounds):
        before = moved
        for i in range(nodes - 1):
            v = order[i]
            old = parent[v]
            best, key = old, (load[old] + mu) * time[old] + mu * dist[tail[old]]
            for j in range(back_ptr[v], back_ptr[v + 1]):
                f = back[j]
                price = (load[f] + 1 + mu) * time[f] + mu * dist[tail[f]]
                if f == old or price >= key * (1 - 1e-12):
                    continue
                w = tail[f]
                while w != root and w != v:
                    w = tail[parent[w]]
                if w == root:
                    best, key = f, price
            if best != old:
                load[old] -= 1
                load[best] += 1
                parent[v] = best
                moved += 1
        if moved == before:
            break
    if moved == 0:
        return
    place[:] = -2
    place[root] = -1
    count = 0
    stack = np.empty(nodes, np.int64)
    for i in range(nodes - 1):
        v, depth = order[i], 0
        while place[v] == -2:
            stack[depth] = v
            depth += 1
            v = tail[parent[v]]
        while depth > 0:
            depth -= 1
            v = stack[depth]
            out[count], up[count] = parent[v], place[tail[parent[v]]]
            place[v] = count
            count += 1


@njit(cache=True)
def _price(out, size, time, load, steep):
    """How much a tree hurts: exponential in what its links carry already."""
    total = 0.0
    for i in range(size):
        e = out[i]
        total += time[e] * np.exp(min(steep * load[e] * time[e], 500.0))
    return total


@njit(cache=True)
def _bottleneck(load, time, tries):
    """Link that is busy longest, of all or of some drawn at random."""
    most, found = -1.0, 0
    for q in range(tries if tries > 0 else len(load)):
        e = np.random.randint(len(load)) if tries > 0 else q
        if load[e] * time[e] > most:
            most, found = load[e] * time[e], e
    return found


@njit(cache=True)
def pack(roots, kind, forth, reverse, twin, time, mu, candidates, goal, rounds, room, seed):
    """In- and out-trees of as many chunks as there are ``roots``: see :class:`Trees`.

    Where every link has a twin one tree serves both ways. Otherwise roots matter: those at the ends of the busiest
    links are tried beside the one given, ``candidates`` in all, while those are busy for more than ``goal`` a chunk.
    """
    np.random.seed(seed)
    chunks, count, nodes = len(roots), len(time), len(kind)
    link, up = np.empty((2 * chunks, room), np.int32), np.empty((2 * chunks, room), np.int32)
    size = np.zeros(2 * chunks, np.int64)
    load = np.zeros(count)
    ints, floats = np.empty((3, nodes), np.int64), np.empty((3, nodes))
    keys, links = np.empty(count + 1), np.empty(count + 1, np.int32)
    need = np.sum(kind == MEMBER)
    plain = need == nodes
    even = twin.min() >= 0
    trial, above, sizes = np.empty((2, room), np.int32), np.empty((2, room), np.int32), np.zeros(2, np.int64)
    src, dst = forth[4], forth[5]
    for k in range(chunks):
        if even and plain:
            out, above_out = link[2 * k + 1], up[2 * k + 1]
            made = _grow(roots[k], need, kind, forth, time, load, mu, plain, ints, floats, keys, links, out, above_out)
            size[2 * k], size[2 * k + 1] = made, made
            for i in range(size[2 * k]):
                e = twin[link[2 * k + 1, i]]
                link[2 * k, i], up[2 * k, i] = e, up[2 * k + 1, i]
                load[e] += 1
            continue
        least = np.inf
        busy = _bottleneck(load, time, 0)
        choices = candidates if load[busy] * time[busy] > goal * (k + 8) else 1
        for c in range(choices):
            root = roots[k]
            if c > 0:
                e = busy if c < 3 else _bottleneck(load, time, count // 16 + 1)
                root = src[e] if c % 2 == 1 else dst[e]
                if kind[root] != MEMBER:
                    continue
            price = 0.0
            for j in range(2):
                side = (j + k) % 2  # each of the two gets the first choice as often
                way = forth if side == 1 else reverse
                sizes[side] = _grow(
                    root, need, kind, way, time, load, mu, plain, ints, floats, keys, links, trial[side], above[side]
                )
                if plain and rounds > 0 and sizes[side] > 0:
                    _rehang(root, way, time, load, mu, ints, floats, trial[side], above[side], rounds)
            for side in range(2):
                if choices > 1:
                    price += _price(trial[side], sizes[side], time, load, 20.0 / (load[busy] * time[busy] + time[busy]))
                for i in range(sizes[side]):
                    load[trial[side, i]] -= 1
            if price < least:
                least = price
                for side in range(2):
                    size[2 * k + side] = sizes[side]
                    for i in range(sizes[side]):
                        link[2 * k + side, i], up[2 * k + side, i] = trial[side, i], above[side, i]
        for side in range(2):
            for i in range(size[2 * k + side]):
                load[link[2 * k + side, i]] += 1
    return link, up, size, load
