"""Cuts: why a bound holds, in figures and in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dse.collective.maxflow import cut_time
from dse.collective.topology import Floats, Ints, Topology


@dataclass(frozen=True, eq=False)
class Cut:
    """Why a bound holds: links that have to carry some bytes.

    Attributes:
        need: bytes, weighted.
        link: the links, [links of the cut].
        weight: how much a byte on each counts, [links of the cut]: 1 in a cut; a length where the bound is on
            bytes times distance.
        blocks: of a cut, the nodes it leaves and the others; of an all-reduce, the parts; of distances, none.
    """

    need: float
    link: Ints
    weight: Floats
    blocks: tuple[tuple[int, ...], ...] = ()

    def time(self, rate: Floats, offset: Floats) -> float:
        """Least time for which the links carry the bytes, with ``rate`` and ``offset`` of all links."""
        rate, offset = self.weight * rate[self.link], offset[self.link]
        return float(cut_time(rate, offset, self.need, np.argsort(offset)))

    def text(self, topology: Topology) -> str:
        """The cut in words."""
        rate = topology.bandwidth[self.link]
        if not self.blocks:
            return f"all pairs' bytes times distance over all {len(self.link)} links' bandwidth times length"
        over = f"{len(self.link)} {'link' if len(self.link) == 1 else 'links'} of {rate.sum() / 1e9:,.4g} GB/s together"
        carry = f"have to carry {self.need / 1e6:,.6g} MB over {over}"
        if len(self.blocks) == 2:
            first = np.isin(topology.src[self.link], self.blocks[0])
            way = "between {} and {}, both ways," if first.any() and not first.all() else "from {} to {}"
            ends = self.blocks if first.any() else self.blocks[::-1]
            return f"links {way.format(*(names(block, topology) for block in ends))} {carry}"
        sizes = sorted((len(block) for block in self.blocks), reverse=True)
        small = sum(size == 1 for size in sizes)
        parts = f"{len(sizes)} parts ({', '.join(map(str, sizes[:4]))}{', ...' if len(sizes) > 4 else ''} nodes"
        return f"links between {parts}, {small} of one node) {carry}"


def names(nodes: tuple[int, ...], topology: Topology) -> str:
    """The first of some nodes, and how many they are."""
    shown = ", ".join(f"{v}" if v < topology.npus else f"switch {v}" for v in nodes[:12])
    return f"{{{shown}{', ...' if len(nodes) > 12 else ''}}} ({len(nodes)})"


def cut_between(net: Topology, inside: NDArray[np.bool_], need: float) -> Cut:
    """The cut of the links that leave a set of nodes, over which ``need`` bytes have to go."""
    link = np.flatnonzero(inside[net.src] & ~inside[net.dst])
    sides = tuple(tuple(np.flatnonzero(side).tolist()) for side in (inside, ~inside))
    return Cut(need, link, np.ones(len(link)), sides)
