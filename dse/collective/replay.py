"""Compiled replay of schedules with sets of contributions; see :mod:`dse.collective.verifier`."""

from __future__ import annotations

import numpy as np

from dse.jit import njit

# What can go wrong at a node, and how it is told after the node's name.
KINDS = (
    ("nothing sent", "holds nothing of the chunk when it starts to send"),
    ("added twice", "adds contributions that it already holds"),
    ("lost", "held contributions that are not part of what replaces them"),
    ("missing", "does not end with all of it"),
)
NOTHING, TWICE, LOST, MISSING = range(4)


@njit(cache=True)
def grouped(key, groups):
    """Places of equal keys together, in their order: (pointers [groups + 1], places)."""
    ptr = np.zeros(groups + 1, np.int64)
    for k in key:
        ptr[k + 1] += 1
    for g in range(groups):
        ptr[g + 1] += ptr[g]
    place = np.empty(len(key), np.int32)
    at = ptr[:-1].copy()
    for i in range(len(key)):
        place[at[key[i]]] = i
        at[key[i]] += 1
    return ptr, place


@njit(cache=True)
def in_order(time):
    """Places by time, equal times in their order."""
    for i in range(1, len(time)):
        if time[i] < time[i - 1]:
            return np.argsort(time, kind="mergesort")
    return np.arange(len(time))


@njit(cache=True)
def overlaps(link, start, end, message, slack, links, few):
    """How often a message starts on a link before an earlier one has ended, and the first such pairs [few, 2]."""
    ptr, place = grouped(link, links)
    pairs = np.zeros((few, 2), np.int64)
    count = 0
    for e in range(links):
        mine = place[ptr[e] : ptr[e + 1]]
        if len(mine) < 2:
            continue
        order = in_order(start[mine])
        last = mine[order[0]]
        for k in order[1:]:
            i = mine[k]
            if message[i] != message[last] and start[i] < end[last] - min(slack, 0.5 * (end[last] - start[last])):
                if count < few:
                    pairs[count, 0], pairs[count, 1] = last, i
                count += 1
            if end[i] >= end[last]:
                last = i
    return count, pairs


@njit(cache=True)
def replay(
    chunk, link, start, end, reduce, passes, origin, target, src, dst, rank, members, npus, slack, few
):  # fmt: skip
    """Replay chunk by chunk.

    Nodes hold sets of contributions: bit i is that of member i, or bit 0 that of the only origin. ``passes`` is empty
    where nothing is passed on. Returns counts [kinds + 1] (the last one: deliveries of what was there already) and
    (transfer or chunk, node) of the first few of each kind [kinds, few, 2].
    """
    chunks = len(origin)
    nodes = len(rank)
    counts = np.zeros(5, np.int64)
    where = np.zeros((4, few, 2), np.int64)
    ptr, place = grouped(chunk, chunks)
    relays = len(passes) > 0
    local = np.zeros(len(passes), np.int32)  # place of a transfer among those of its chunk
    kept = np.ones(len(passes), np.bool_)  # what is passed on is not kept
    if relays:
        for c in range(chunks):
            for k in range(ptr[c], ptr[c + 1]):
                local[place[k]] = k - ptr[c]
        for i in range(len(passes)):
            if passes[i] >= 0:
                kept[passes[i]] = False
    for c in range(chunks):
        mine = place[ptr[c] : ptr[c + 1]]
        count = len(mine)
        every = origin[c] < 0
        words = (members + 63) // 64 if every else 1
        held = np.zeros((nodes, words), np.uint64)
        full = np.zeros(words, np.uint64)
        if every:
            for v in range(nodes):
                if rank[v] >= 0:
                    bit = np.uint64(1) << np.uint64(rank[v] & 63)
                    held[v, rank[v] >> 6] = bit
                    full[rank[v] >> 6] |= bit
        else:
            held[origin[c], 0] = np.uint64(1)
            full[0] = np.uint64(1)
        load = np.zeros((count, words), np.uint64)
        starts = np.empty(count)
        ends = np.empty(count)
        for k in range(count):
            ends[k] = end[mine[k]]
            starts[k] = start[mine[k]] + min(slack, 0.5 * (ends[k] - start[mine[k]]))
        leaves = in_order(starts)
        arrives = in_order(ends)
        a = 0
        b = 0
        while b < count:
            if a < count and starts[leaves[a]] < ends[arrives[b]]:
                k = leaves[a]
                a += 1
                i = mine[k]
                u = src[link[i]]
                some = False
                if relays and passes[i] >= 0:
                    if chunk[passes[i]] != c:
                        continue
                    j = local[passes[i]]
                    for w in range(words):
                        load[k, w] = load[j, w]
                        some |= load[k, w] != 0
                elif u < npus:
                    for w in range(words):
                        load[k, w] = held[u, w]
                        some |= load[k, w] != 0
                else:
                    continue  # more than came in: told already
                if not some:
                    if counts[NOTHING] < few:
                        where[NOTHING, counts[NOTHING], 0], where[NOTHING, counts[NOTHING], 1] = i, u
                    counts[NOTHING] += 1
                continue
            k = arrives[b]
            b += 1
            i = mine[k]
            v = dst[link[i]]
            if v >= npus or (relays and not kept[i]):
                continue
            clash = False
            same = True
            for w in range(words):
                if reduce[i]:
                    clash |= (held[v, w] & load[k, w]) != 0
                    same &= load[k, w] == 0
                else:
                    clash |= (held[v, w] & ~load[k, w]) != 0
                    same &= held[v, w] == load[k, w]
            if clash:
                kind = TWICE if reduce[i] else LOST
                if counts[kind] < few:
                    where[kind, counts[kind], 0], where[kind, counts[kind], 1] = i, v
                counts[kind] += 1
            if same:
                counts[4] += 1
            for w in range(words):
                held[v, w] = held[v, w] | load[k, w] if reduce[i] else load[k, w]
        for v in range(nodes):
            if rank[v] < 0 or (target[c] >= 0 and target[c] != v):
                continue
            for w in range(words):
                if held[v, w] != full[w]:
                    if counts[MISSING] < few:
                        where[MISSING, counts[MISSING], 0], where[MISSING, counts[MISSING], 1] = c, v
                    counts[MISSING] += 1
                    break
    return counts, where
