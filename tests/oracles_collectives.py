"""Independent oracles of collectives: replayed message by message with real data; no code shared with the cost model.

One dimension is replayed step by step with per-link occupancy; several dimensions chunk by chunk through servers.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

# -- collectives on one dimension ---------------------------------------------------------------------------

Move = tuple[int, int, tuple[int, ...], bool, int]  # source, destination, parts, add (or copy), way round a ring
Steps = list[list[Move]]


@dataclass(frozen=True)
class Wire:
    """One network dimension of ``n`` devices; ``bandwidth`` is what one device injects over all its links."""

    topology: str
    n: int
    bandwidth: float
    latency: float = 0.0
    bidirectional: bool = True

    def links(self, source: int, target: int, way: int) -> list[tuple[tuple[Any, ...], float]]:
        """Every link a message crosses, with that link's bandwidth."""
        n, bw = self.n, self.bandwidth
        if self.topology == "switch":
            return [(("out", source), bw), (("in", target), bw)]
        if self.topology == "fully_connected":
            return [((source, target), bw / (n - 1))]
        hops, here, rate = [], source, bw / 2 if self.bidirectional or self.topology == "mesh" else bw
        while here != target:
            after = here + way if self.topology == "mesh" else (here + way) % n
            hops.append(((here, after, way), rate))
            here = after
        return hops


def replay(wire: Wire, steps: Steps, part_bytes: float, data: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Run the steps one after another: seconds, bytes sent by each device, and what each device holds at the end.

    All messages of a step travel at once; a link carries what is put on it one byte after the other; the slowest
    link and one latency make the step's time.
    """
    held, clock, sent = data.copy(), 0.0, np.zeros(wire.n)
    for step in steps:
        busy: dict[tuple[Any, ...], float] = defaultdict(float)
        arriving = []
        for source, target, parts, add, way in step:
            size = part_bytes * len(parts)
            sent[source] += size
            for link, rate in wire.links(source, target, way):
                busy[link] += size / rate
            arriving.append((target, list(parts), add, held[source, list(parts)].copy()))
        for target, parts, add, payload in arriving:
            held[target, parts] = held[target, parts] + payload if add else payload
        clock += max(busy.values(), default=0.0) + wire.latency
    return clock, sent, held


def ring_steps(n: int, kind: str, *, both: bool) -> tuple[Steps, int]:
    """Ring reduce-scatter, all-gather or all-reduce, on half of the data each way when ``both``; steps, parts."""
    ways = (1, -1) if both else (1,)
    steps: Steps = []
    for gather in {"reduce_scatter": (False,), "all_gather": (True,), "all_reduce": (False, True)}[kind]:
        for t in range(n - 1):
            shift = 1 - t if gather else -t  # after the scatter, device i owns the part of its successor
            steps.append([(i, (i + w) % n, (k * n + (i + w * shift) % n,), not gather, w)
                          for k, w in enumerate(ways) for i in range(n)])  # fmt: skip
    return steps, n * len(ways)


def direct_steps(n: int, kind: str) -> tuple[Steps, int]:
    """Everyone to everyone at once: one step to scatter, one to gather."""
    scatter = [(i, j, (j,), True, 1) for i in range(n) for j in range(n) if i != j]
    gather = [(i, j, (i,), False, 1) for i in range(n) for j in range(n) if i != j]
    return {"reduce_scatter": [scatter], "all_gather": [gather], "all_reduce": [scatter, gather]}[kind], n


def halving_steps(n: int, kind: str) -> tuple[Steps, int]:
    """Recursive halving, then recursive doubling, for a power of two."""
    scatter: Steps = []
    distance = n // 2
    while distance:
        blocks = [[r for r in range(n) if r // distance == (i ^ distance) // distance] for i in range(n)]
        scatter.append([(i, i ^ distance, tuple(blocks[i]), True, 1) for i in range(n)])
        distance //= 2
    gather: Steps = []
    for step in reversed(scatter):
        by_source = {source: parts for source, _, parts, _, _ in step}
        gather.append([(i, j, by_source[j], False, 1) for i, j, _, _, _ in step])
    return {"reduce_scatter": scatter, "all_gather": gather, "all_reduce": scatter + gather}[kind], n


def line_steps(n: int, kind: str) -> tuple[Steps, int]:
    """On a line partial sums flow towards their owner from both ends, and results flow away from it."""
    scatter: Steps = [
        [(i, i + 1, (n - 1 - t + i,), True, 1) for i in range(min(t, n - 2) + 1)]
        + [(i, i - 1, (t - (n - 1 - i),), True, -1) for i in range(max(n - 1 - t, 1), n)]
        for t in range(n - 1)
    ]
    scatter = [[m for m in step if (m[2][0] > m[0]) == (m[4] > 0) and m[2][0] != m[0]] for step in scatter]
    gather: Steps = [
        [(i, i + 1, (i - t,), False, 1) for i in range(t, n - 1)]
        + [(i, i - 1, (i + t,), False, -1) for i in range(1, n - t)]
        for t in range(n - 1)
    ]
    return {"reduce_scatter": scatter, "all_gather": gather, "all_reduce": scatter + gather}[kind], n


def broadcast_steps(n: int, chunks: int, *, both: bool) -> tuple[Steps, int]:
    """A chain from device 0, chunk by chunk; on a two-way ring one half of the data goes each way round."""
    steps: Steps = [[] for _ in range(chunks + n - 2)]
    for k, w in enumerate((1, -1) if both else (1,)):
        for hop, chunk in product(range(n - 1), range(chunks)):
            steps[hop + chunk].append((w * hop % n, w * (hop + 1) % n, (k * chunks + chunk,), False, w))
    return steps, chunks * (2 if both else 1)


def exchange_steps(wire: Wire) -> tuple[Steps, int]:
    """All-to-all by the shortest way, messages to the antipode half each way; two parts for each ordered pair."""
    n, moves = wire.n, []
    for i, j in product(range(n), repeat=2):
        if i == j:
            continue
        halves = (2 * (i * n + j), 2 * (i * n + j) + 1)
        ahead = (j - i) % n
        if wire.topology == "mesh":
            ways = (1, 1) if j > i else (-1, -1)
        elif not wire.bidirectional:
            ways = (1, 1)
        else:
            ways = (1, -1) if 2 * ahead == n else (1, 1) if 2 * ahead < n else (-1, -1)
        moves += [(i, j, (half,), False, way) for half, way in zip(halves, ways, strict=True)]
    return [moves], 2 * n * n


def tree_parents(n: int) -> list[dict[int, int]]:
    """Two spanning trees (n a power of two): no device passes data on in both, but for one child of each root."""
    parents: dict[int, int] = {}
    for rank in range(1, n):  # rank 0 above a perfect search tree over 1 … n−1
        low = rank & -rank
        parent = (rank - low) | (low << 1)
        parents[rank] = parent if parent < n else 0
    return [parents, {n - 1 - child: n - 1 - parent for child, parent in parents.items()}]


def tree_all_reduce(n: int, size: float, bandwidth: float, chunks: int) -> tuple[float, np.ndarray]:
    """Double binary tree on a switch, slot by slot: every port takes one message a slot, the oldest chunk first."""
    slot, messages, done = size / 2 / chunks / bandwidth, [], set()
    for tree, parents in enumerate(tree_parents(n)):
        children = defaultdict(list)
        for child, parent in parents.items():
            children[parent].append(child)
        for chunk, (child, parent) in product(range(chunks), parents.items()):
            up = (tree, chunk, child, parent)
            messages.append((up, [(tree, chunk, c, child) for c in children[child]]))
            root = parent not in parents
            before = [(tree, chunk, c, parent) for c in children[parent]] if root else [
                (tree, chunk, parents[parent], parent)]  # fmt: skip
            messages.append(((tree, chunk, parent, child), before))
    messages.sort(key=lambda message: message[0][1])
    sent, slots = Counter(), 0
    while messages:
        outs, ins, left, now = set(), set(), [], []
        for key, before in messages:
            _, _, source, target = key
            if source in outs or target in ins or any(b not in done for b in before):
                left.append((key, before))
                continue
            outs.add(source)
            ins.add(target)
            sent[source] += 1
            now.append(key)
        done.update(now)
        messages, slots = left, slots + 1
    return slots * slot, np.array([sent[rank] for rank in range(n)]) * size / 2 / chunks


# -- collectives over several dimensions --------------------------------------------------------------------


def hierarchical(kind: str, sizes: Sequence[int], bandwidths: Sequence[float], delays: Sequence[float], size: float,
                 chunks: int) -> float:  # fmt: skip
    """Time of a collective whose chunks pass through the dimensions; each dimension serves one chunk at a time.

    ``delays`` is the latency of one pass through each dimension; it does not keep the dimension busy.
    """
    held, scatter = size / chunks, []
    for index, (n, bandwidth) in enumerate(zip(sizes, bandwidths, strict=False)):
        scatter.append((index, held * (n - 1) / n / bandwidth, delays[index]))
        held /= n
    outermost = len(sizes) - 1
    route = {
        "reduce_scatter": scatter,
        "all_gather": scatter[::-1],
        "all_reduce": [*scatter[:-1], (outermost, 2 * scatter[-1][1], 2 * scatter[-1][2]), *scatter[-2::-1]],
    }[kind]
    free, finished = [0.0] * len(sizes), 0.0
    waiting = [(0.0, chunk, 0) for chunk in range(chunks)]
    heapq.heapify(waiting)
    while waiting:
        ready, chunk, stage = heapq.heappop(waiting)
        if stage == len(route):
            finished = max(finished, ready)
            continue
        dimension, seconds, delay = route[stage]
        free[dimension] = max(free[dimension], ready) + seconds
        heapq.heappush(waiting, (free[dimension] + delay, chunk, stage + 1))
    return finished
