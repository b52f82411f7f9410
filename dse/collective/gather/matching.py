"""All-gather by matching chunks to free links as time goes on, over classes of links that do the same.

Whenever a link is free it takes a chunk that its source holds and its destination neither holds nor is about to get:
the time-expanded matching of TACOS (Won et al., MICRO 2024), but causal by construction and with two looks ahead. A
link prefers the chunk that gives the most work to links short of work, and leaves to others what they can bring as
soon: so a slow link brings what is new to a neighbourhood, and fast ones spread it. And no link starts what would end
after a limit, so that links of unlike speeds end together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dse.collective.heaps import put, take
from dse.collective.topology import Floats, Ints, Topology
from dse.jit import njit

NOISE = 0.2  # of a score: breaks ties, and makes seeds differ
THRIFT = 0.3  # weight in a score of the rate at which other links could bring the chunk, against that of the link
LISTED = 40_000_000  # candidates listed at most; in denser problems links look for them
SHORT = 1023  # candidates of a class beyond which it counts as no better off
DENSE = 64  # links at a node from which on scores cost more than they bring


class Moves(NamedTuple):
    """Transfers of a schedule, [transfers]; chunk: index into the roots; ``past``: transfer it passes on, -1: none."""

    chunk: np.ndarray
    link: np.ndarray
    start: Floats
    past: np.ndarray
    time: float


def matched(
    topology: Topology, machine: Ints, duration: Floats, roots: Ints, need: int, limit: float, samples: int, seed: int
) -> Moves:
    """Send each root's chunk to ``need`` nodes (that with links, all of them NPUs).

    Args:
        machine: class of each link, [links]: one transfer at a time in each.
        duration: seconds of a transfer, [classes].
        roots: node that holds each chunk at first, [chunks].
        limit: seconds after which nothing ends, if that can be; else it gives way.
        samples: candidates a link looks at; 1: the first, at random.
    """
    out, into = topology.outgoing, topology.incoming
    net = (
        topology.src, topology.dst, out.ptr, out.link, topology.dst[out.link], machine[out.link],
        into.ptr, into.link, topology.src[into.link], machine[into.link],
    )  # fmt: skip
    if topology.links > DENSE * topology.nodes:
        samples = 1
    listed = topology.links * len(roots) <= LISTED or len(duration) < topology.links
    total = len(roots) * (need - 1)
    chunk, link, start, time = _match(
        net, machine, duration, roots, topology.nodes, total, limit, samples, seed, listed
    )
    return Moves(chunk, link, start, np.full(len(chunk), -1, np.int32), time)


@njit(cache=True)
def _score(k, e, net, machine, rate, due, supply, inverse):
    """Work that a transfer brings to links short of it; less if others can bring the chunk as soon."""
    _, dst, out_ptr, _, out_node, out_class, in_ptr, in_link, in_node, in_class = net
    v = dst[e]
    gain, loss = 0.0, 0.0
    for q in range(out_ptr[v], out_ptr[v + 1]):
        if not due[out_node[q], k]:
            i = out_class[q]
            gain += rate[i] * inverse[min(supply[i], SHORT)]
    for q in range(in_ptr[v], in_ptr[v + 1]):
        if due[in_node[q], k] and in_link[q] != e:
            loss += rate[in_class[q]]
    return gain / (1 + THRIFT * loss / rate[machine[e]]) * (1 + NOISE * np.random.random())


@njit(cache=True)
def _listed(j, base, count, item, along, net, machine, rate, due, supply, inverse, samples):
    """Best of some candidates of class j; those that others have served meanwhile leave its list."""
    dst = net[1]
    best, chosen, first, tried = -np.inf, -1, base[j], 0
    few = count[j] <= samples
    while tried < min(samples, count[j]):
        p = first + (tried if few else np.random.randint(0, count[j]))
        k, e = item[p], along[p]
        if due[dst[e], k]:
            count[j] -= 1
            item[p], along[p] = item[first + count[j]], along[first + count[j]]
            continue
        tried += 1
        if samples == 1:
            return p
        score = _score(k, e, net, machine, rate, due, supply, inverse)
        if score > best:
            best, chosen = score, p
    return chosen


@njit(cache=True)
def _found(e, net, held, due):
    """Some chunk that link e can take, -1: none."""
    u, v, chunks = net[0][e], net[1][e], held.shape[1]
    offset = np.random.randint(0, chunks)
    for p in range(chunks):
        k = p + offset if p + offset < chunks else p + offset - chunks
        if held[u, k] and not due[v, k]:
            return k
    return -1


@njit(cache=True)
def _give_way(now, limit, duration, supply):
    """Least limit by which one more transfer can end."""
    least = np.inf
    for j in range(len(duration)):
        if supply[j] > 0:
            least = min(least, duration[j])
    return max(limit, (now + least) * (1 + 1e-9))


@njit(cache=True)
def _match(net, machine, duration, roots, nodes, total, limit, samples, seed, listed):
    np.random.seed(seed)
    src, dst, out_ptr, out_link, out_node, out_class, in_ptr, _, in_node, in_class = net
    rate, inverse = 1.0 / duration, 1.0 / (1.0 + np.arange(SHORT + 1))
    chunks, links, classes = len(roots), len(src), len(duration)
    held, due = np.zeros((nodes, chunks), np.bool_), np.zeros((nodes, chunks), np.bool_)
    # Candidates of each class: chunks and the links they would take; ``supply`` counts those still to be served.
    base, count, supply = np.zeros(classes + 1, np.int64), np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for e in range(links):
        base[machine[e] + 1] += chunks if listed else 0
    for j in range(classes):
        base[j + 1] += base[j]
    item, along = np.empty(base[classes], np.int32), np.empty(base[classes], np.int32)
    chunk, link, start = np.empty(total, np.int32), np.empty(total, np.int32), np.empty(total)
    carried, used = np.empty(classes, np.int32), np.full(classes, -1, np.int32)
    when, what, running = np.empty(classes + 1), np.empty(classes + 1, np.int32), 0
    look, marked = np.arange(classes).astype(np.int32), np.ones(classes, np.bool_)
    looks, done, now = classes, 0, 0.0
    for k in range(chunks):
        due[roots[k], k] = True
    for k in range(chunks):
        v = roots[k]
        held[v, k] = True
        for q in range(out_ptr[v], out_ptr[v + 1]):
            f = out_link[q]
            if not due[dst[f], k]:
                i = machine[f]
                if listed:
                    item[base[i] + count[i]], along[base[i] + count[i]] = k, f
                    count[i] += 1
                supply[i] += 1
    while True:
        for i in range(looks - 1, 0, -1):
            j = np.random.randint(0, i + 1)
            look[i], look[j] = look[j], look[i]
        for q in range(looks):
            j = look[q]
            marked[j] = False
            if used[j] >= 0 or supply[j] == 0 or now + duration[j] > limit:
                continue
            if listed:
                p = _listed(j, base, count, item, along, net, machine, rate, due, supply, inverse, samples)
                if p < 0:
                    continue
                k, e = item[p], along[p]
            else:
                e = j
                k = _found(e, net, held, due)
                if k < 0:
                    continue
            v = dst[e]
            due[v, k] = True
            for r in range(in_ptr[v], in_ptr[v + 1]):
                if held[in_node[r], k]:
                    supply[in_class[r]] -= 1
            chunk[done], link[done], start[done] = k, e, now
            done += 1
            carried[j], used[j] = k, e
            put(when, what, running, now + duration[j], j)
            running += 1
        looks = 0
        if running == 0:
            if done == total:
                break
            before = limit
            limit = _give_way(now, limit, duration, supply)
            if limit == before or limit == np.inf:
                break
            for j in range(classes):
                look[j], marked[j] = j, True
            looks = classes
            continue
        now = when[0]
        while running > 0 and when[0] <= now * (1 + 1e-12):
            now, j = max(now, when[0]), what[0]
            running -= 1
            take(when, what, running)
            k, v = carried[j], dst[used[j]]
            used[j] = -1
            held[v, k] = True
            if not marked[j]:
                look[looks], marked[j] = j, True
                looks += 1
            for r in range(out_ptr[v], out_ptr[v + 1]):
                if due[out_node[r], k]:
                    continue
                i = out_class[r]
                supply[i] += 1
                if listed:
                    item[base[i] + count[i]], along[base[i] + count[i]] = k, out_link[r]
                    count[i] += 1
                if used[i] < 0 and not marked[i]:
                    look[looks], marked[i] = i, True
                    looks += 1
    return chunk[:done], link[:done], start[:done], now
