"""Small schedules made by hand: rings, trees and direct exchange, on networks with and without switches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from dse.collective.schedule import Chunks, Schedule, whole_chunks
from dse.collective.topology import Topology

Move = tuple[int, int, int, bool]  # chunk, from, to, whether it is added
RATE, DELAY = 50e9, 5e-7


def ring(n: int, **fields) -> Topology:
    """Both ways around."""
    rows = [[i, (i + d) % n, RATE, DELAY] for i in range(n) for d in ((1, -1) if n > 2 else (1,))]
    return Topology.of(rows, n, **fields)


def full(n: int, seed: int | None = None) -> Topology:
    """Everyone to everyone; with a seed every link has its own latency and bandwidth."""
    rng = np.random.default_rng(seed)
    rows = []
    for a in range(n):
        for b in range(n):
            if a != b:
                fast = (RATE, DELAY) if seed is None else (rng.uniform(1e9, 9e11), rng.uniform(1e-7, 1e-5))
                rows.append([a, b, *fast])
    return Topology.of(rows, n)


def star(n: int) -> Topology:
    """NPUs on one switch, node n."""
    rows = [[*pair, RATE, DELAY] for i in range(n) for pair in ((i, n), (n, i))]
    return Topology.of(rows, n, nodes=n + 1)


def scheduled(
    topology: Topology, collective: str, nbytes: float, chunks: Chunks, moves: Iterable[Sequence], root=None,
    members=None,
) -> Schedule:  # fmt: skip
    """Each move as early as its data is there and its link free, in the order given; through node n where no link is."""
    link = {pair: i for i, pair in enumerate(zip(topology.src.tolist(), topology.dst.tolist(), strict=True))}
    there: dict[tuple[int, int], float] = {}
    free = np.zeros(topology.links)
    rows = []
    for chunk, a, b, add in moves:
        hops = [(a, b)] if (a, b) in link else [(a, topology.npus), (topology.npus, b)]
        ready = there.get((chunk, a), 0.0)
        for u, v in hops:
            e = link[u, v]
            start = max(ready, free[e])
            free[e] = ready = start + topology.latency[e] + chunks.size[chunk] / topology.bandwidth[e]
            rows.append((chunk, e, start, ready, add and v == b))
        there[chunk, b] = max(there.get((chunk, b), 0.0), ready)
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    kinds = (np.int32, np.int32, float, float, np.bool_)
    columns = [np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    who = topology.members if members is None else np.asarray(members)
    return Schedule(topology, collective, nbytes, who, chunks, *columns, root=root, algorithm="hand")


def around(collective: str, n: int, topology: Topology, nbytes: float = 1e6, pieces: int = 1, members=None) -> Schedule:
    """The ring algorithm (broadcast and reduce: a chain) among members in their order."""
    who = np.arange(n) if members is None else np.asarray(members)
    n = len(who)
    root = int(who[0]) if collective in ("broadcast", "reduce") else None
    chunks = whole_chunks(collective, nbytes, who, pieces, root)
    moves: list[Move] = []

    def send(step: int, shift: int, add: bool) -> None:
        for i in range(n):
            shard = (i - step + shift) % n
            for p in range(pieces):
                moves.append((shard * pieces + p, int(who[i]), int(who[(i + 1) % n]), add))

    if collective in ("all_reduce", "reduce_scatter"):
        for step in range(n - 1):
            send(step, -1, True)
    if collective in ("all_reduce", "all_gather"):
        for step in range(n - 1):
            send(step, 0, False)
    if collective == "broadcast":
        moves = [(p, int(who[i]), int(who[i + 1]), False) for p in range(pieces) for i in range(n - 1)]
    if collective == "reduce":
        moves = [(p, int(who[i]), int(who[i - 1]), True) for p in range(pieces) for i in range(n - 1, 0, -1)]
    if collective == "all_to_all":
        for c, (o, t) in enumerate(zip(chunks.origin.tolist(), chunks.target.tolist(), strict=True)):
            at = who.tolist().index(o)
            while who[at] != t:
                moves.append((c, int(who[at]), int(who[(at + 1) % n]), False))
                at = (at + 1) % n
    return scheduled(topology, collective, nbytes, chunks, moves, root, who)


def direct(collective: str, n: int, topology: Topology, nbytes: float = 1e6, pieces: int = 1) -> Schedule:
    """Everyone sends to everyone; through the switch where there is one."""
    who = np.arange(n)
    root = 0 if collective in ("broadcast", "reduce") else None
    chunks = whole_chunks(collective, nbytes, who, pieces, root)
    moves: list[Move] = []
    for c, (o, t) in enumerate(zip(chunks.origin.tolist(), chunks.target.tolist(), strict=True)):
        owner = c // pieces % n if collective == "all_reduce" else t
        if o < 0:
            moves += [(c, i, owner, True) for i in range(n) if i != owner]
        if t < 0:
            source = owner if o < 0 else o
            moves += [(c, source, i, False) for i in range(n) if i != source]
        if o >= 0 and t >= 0:
            moves.append((c, o, t, False))
    return scheduled(topology, collective, nbytes, chunks, moves, root)
