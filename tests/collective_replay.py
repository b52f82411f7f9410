"""Small networks, and a slow replay of schedules with sets: an oracle that shares nothing with the product."""

from __future__ import annotations

import numpy as np

from dse.collective.schedule import Schedule
from dse.collective.topology import Topology

ALPHA, BETA = 0.5e-6, 50 * 2.0**30


def network(npus, pairs, nodes=-1, shape=(), both=True, name="net") -> Topology:
    links = [*pairs, *((v, u) for u, v in pairs if both)]
    src, dst = zip(*dict.fromkeys(links), strict=True)
    return Topology(npus, src, dst, ALPHA, BETA, name=name, nodes=nodes, shape=shape)


def ring(n, both=True):
    return network(n, [(i, (i + 1) % n) for i in range(n)], both=both, name=f"ring{n}{'' if both else 'uni'}")


def full(n):
    return network(n, [(i, j) for i in range(n) for j in range(i)], name=f"full{n}")


def grid(*shape, wrap=False):
    place, pairs = np.arange(int(np.prod(shape))).reshape(shape), []
    for axis, side in enumerate(shape):
        here = np.moveaxis(place, axis, 0)
        there = np.roll(here, -1, 0)
        rows = side if wrap else side - 1
        pairs += zip(here[:rows].ravel().tolist(), there[:rows].ravel().tolist(), strict=True)
    name = ("torus" if wrap else "mesh") + "x".join(map(str, shape))
    return network(place.size, pairs, shape=shape, name=name)


def hypercube(bits):
    n = 1 << bits
    return network(n, [(i, i ^ 1 << b) for i in range(n) for b in range(bits)], shape=(2,) * bits, name=f"hyper{bits}")


def star(n):
    return network(n, [(i, n) for i in range(n)], nodes=n + 1, name=f"star{n}")


def fat_tree(n, per_leaf):
    leaves = n // per_leaf
    up = [(i, n + i // per_leaf) for i in range(n)]
    spine = [(n + leaf, n + leaves + s) for leaf in range(leaves) for s in range(2)]
    return network(n, up + spine, nodes=n + leaves + 2, name=f"fat{n}")


def random_network(n, seed):
    """A directed cycle and random links besides, each with a latency and bandwidth of its own."""
    random = np.random.default_rng(seed)
    order = random.permutation(n)
    pairs = [(order[i], order[(i + 1) % n]) for i in range(n)]
    extra = random.integers(0, n, (random.integers(0, 3 * n), 2))
    src, dst = np.array(list(dict.fromkeys((int(u), int(v)) for u, v in [*pairs, *extra] if u != v))).T
    latency, bandwidth = random.uniform(0, 2e-6, len(src)), random.uniform(5e9, 1e11, len(src))
    return Topology(n, src, dst, latency, bandwidth, name=f"random{n}_{seed}")


def replay(made: Schedule, slack: float = 1e-12) -> None:
    """Fail unless links carry one message at a time and every NPU ends with exactly what it needs."""
    topology, chunks, count = made.topology, made.chunks, made.transfers
    assert np.isfinite(made.start).all(), "a transfer never starts"
    message = np.arange(count) if made.message is None else made.message
    total = np.bincount(message, chunks.size[made.chunk], minlength=1)
    for column in (made.start, made.end, made.link):
        one = np.zeros(len(total))
        one[message] = column
        assert (one[message] == column).all(), "parts of one message differ"
    least = topology.latency[made.link] + total[message] / topology.bandwidth[made.link]
    assert (made.end - made.start >= least * (1 - 1e-9)).all(), "quicker than its link"
    first = np.unique(message, return_index=True)[1]
    first = first[np.lexsort((made.start[first], made.link[first]))]
    same = made.link[first][1:] == made.link[first][:-1]
    assert (made.start[first][1:][same] >= made.end[first][:-1][same] - slack).all(), "two at a time on a link"
    _contents(made, slack)


def _contents(made: Schedule, slack: float) -> None:
    chunks, members, everyone = made.chunks, made.members.tolist(), frozenset(made.members.tolist())
    held = {}
    for k, origin in enumerate(chunks.origin.tolist()):
        for npu in members if origin < 0 else [origin]:
            held[k, npu] = frozenset([npu])
    passes = np.full(made.transfers, -1) if made.passes is None else made.passes
    relayed = set(passes[passes >= 0].tolist())
    assert len(relayed) == (passes >= 0).sum(), "passed on twice"
    ends = [(round(t / slack), 0, i) for i, t in enumerate(made.end)]
    starts = [(round(t / slack), 1, i) for i, t in enumerate(made.start)]
    src, dst, chunk, load = made.source.tolist(), made.destination.tolist(), made.chunk.tolist(), {}
    for _, begins, i in sorted(ends + starts):
        here, there = (chunk[i], src[i]), (chunk[i], dst[i])
        if begins and passes[i] >= 0:
            before = int(passes[i])
            assert dst[before] == src[i] and chunk[before] == chunk[i] and before in load, "passes on what is not there"
            assert made.end[before] <= made.start[i] + slack, "passes on what has not arrived"
            load[i] = load[before]
        elif begins:
            assert here in held, "sends what it has not got"
            load[i] = held[here]
        elif i not in relayed:
            had = held.get(there, frozenset())
            assert not had & load[i] if made.reduce[i] else had <= load[i], "added twice, or lost"
            held[there] = had | load[i] if made.reduce[i] else load[i]
    for k, (origin, target) in enumerate(zip(chunks.origin.tolist(), chunks.target.tolist(), strict=True)):
        for npu in members if target < 0 else [target]:
            assert held.get((k, npu)) == (everyone if origin < 0 else {origin}), "ends without its data"
