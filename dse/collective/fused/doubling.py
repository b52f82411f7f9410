"""Recursive doubling: in each step everyone exchanges sums with all of one clique, until all hold the whole.

For networks of 2^k NPUs with links from each number i to i ^ m for some m: hypercubes, tori of four, boxes in which all
are joined. It takes one message a step where trees take one up and one down, so it is the quickest for little data.
"""

from __future__ import annotations

import numpy as np

from dse.collective.schedule import EVERYONE, Chunks, Schedule
from dse.collective.topology import Floats, Ints, Topology

NAME = "recursive doubling"


def doubling(topology: Topology, nbytes: float, members: Ints) -> Schedule | None:
    """The quickest number of chunks; each goes through the cliques in an order of its own.

    None where the network has no such links.
    """
    n = topology.npus
    if len(members) != n or topology.nodes != n or n < 2 or n & (n - 1):
        return None
    links = _masks(topology)
    cliques = _cliques(n, {mask: float(topology.times(nbytes)[link].max()) for mask, link in links.items()})
    if cliques is None:
        return None
    steps = len(cliques)

    def rounds(pieces: int) -> Floats:
        """Seconds of each step: all chunks are in it at once, in different cliques."""
        t = topology.times(nbytes / pieces)
        each = np.array([max(float(t[links[mask]].max()) for mask in clique) for clique in cliques])
        return np.array([max(each[(k + s) % steps] for k in range(pieces)) for s in range(steps)])

    pieces = min(range(1, steps + 1), key=lambda pieces: float(rounds(pieces).sum()))
    begins = np.concatenate([[0.0], np.cumsum(rounds(pieces))])
    times = topology.times(nbytes / pieces)
    link, chunk, start = [], [], []
    for s in range(steps):
        for k in range(pieces):
            used = np.concatenate([links[mask] for mask in cliques[(k + s) % steps]])
            link.append(used)
            chunk.append(np.full(len(used), k))
            start.append(np.full(len(used), begins[s]))
    over, first = np.concatenate(link), np.concatenate(start)
    size = nbytes / pieces
    everyone = np.full(pieces, EVERYONE)
    chunks = Chunks(np.arange(pieces) * size, np.full(pieces, size), everyone, everyone)
    return Schedule(
        topology, "all_reduce", nbytes, members, chunks, np.concatenate(chunk).astype(np.int32), over.astype(np.int32),
        first, first + times[over], np.ones(len(over), bool), algorithm=NAME,
    )  # fmt: skip


def _masks(topology: Topology) -> dict[int, Ints]:
    """Links from every i to i ^ mask, by mask, in the order of i; of parallel links the first."""
    mask = topology.src ^ topology.dst
    found = {}
    for value in np.unique(mask).tolist():
        link = np.flatnonzero(mask == value)
        order = link[np.unique(topology.src[link], return_index=True)[1]]
        if len(order) == topology.npus:
            found[value] = order
    return found


def _cliques(n: int, seconds: dict[int, float]) -> list[list[int]] | None:
    """Masks to exchange along in each step: subspaces whose every mask has its links, which together span all numbers.

    A larger clique is one step instead of several; quick links come first. None if the masks do not span.
    """
    left = sorted(seconds, key=lambda mask: seconds[mask])
    spanned, cliques = {0}, []
    for first in left:
        if first in spanned:
            continue
        clique, limit = {0, first}, 2 * seconds[first]
        for mask in left:
            grown = clique | {one ^ mask for one in clique}
            new = grown - clique
            apart = len({one ^ other for one in grown for other in spanned}) == len(grown) * len(spanned)
            if new and apart and all(one in seconds and seconds[one] <= limit for one in new):
                clique = grown
        cliques.append(sorted(clique - {0}))
        spanned = {one ^ other for one in spanned for other in clique}
    return cliques if len(spanned) == n else None
