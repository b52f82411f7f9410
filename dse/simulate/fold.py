"""Ranks that are alike, by colour refinement: one of each kind is simulated for all.

Ranks start with the colour of their program and device. As long as that tells more of them apart, a rank's colour is
joined by those of its groups (the colours of the members and by which slot each knows the group, and the group's shape
on the network), of its peers (their colour, the slot they know this rank by, the way between the two) and of those it
shares memory with. Ranks of one colour then see the same at every instant, to the last bit: each has as many ports,
transfers and partners of every colour as the others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dse.simulate.layout import Layout
from dse.simulate.system import System

Ints = NDArray[np.int64]


def factorize(*columns: Ints) -> Ints:
    """Codes 0, 1, ... of the distinct rows of integer columns, in ascending order."""
    code = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        low, high = (int(column.min()), int(column.max())) if len(column) else (0, 0)
        if low == high:
            continue
        joined = code * (high - low + 1) + (column - low)
        code = np.unique(joined, return_inverse=True)[1]
    return code


def colours(layout: Layout, system: System) -> Ints:
    """The colour of each rank [R], 0, 1, ...; ranks of one colour can be simulated as one."""
    colour = factorize(layout.program, system.kinds(layout.ranks))
    ways = [way_codes(system, np.arange(layout.ranks), peer) for peer in layout.peers.T]
    shared = _neighbours(layout.ranks, system)
    while True:
        found = [colour]
        if len(layout.groups):
            group = group_colours(layout, system, colour)
            found += [np.where(slot >= 0, group[slot], -1) for slot in layout.slots.T]
        for peer, way in zip(layout.peers.T, ways, strict=True):
            known = np.argmax(layout.peers[peer] == np.arange(layout.ranks)[:, None], axis=1)
            found.append(np.where(peer >= 0, factorize(colour[peer], known, way), -1))
        found += [_rows(np.sort(_padded(colour, n), axis=1)).repeat(n)[: layout.ranks] for n in shared]
        finer = factorize(*found)
        if finer.max() == colour.max():
            return colour
        colour = finer


def group_colours(layout: Layout, system: System, colour: Ints) -> Ints:
    """A code for each group: its shape, and the colours of its members with the slot each knows it by."""
    groups = layout.groups
    shape = factorize(*(_codes(column) for column in groups.shares.T))
    together = _together(layout, system)
    sizes = np.diff(groups.ptr)
    member = factorize(colour[groups.rank], groups.slot, together)
    code, used = np.zeros(len(groups), np.int64), 0
    for size in np.unique(sizes):
        these = np.flatnonzero(sizes == size)
        rows = member[groups.ptr[these][:, None] + np.arange(size)]
        local = factorize(shape[these], _rows(np.sort(rows, axis=1)))
        code[these] = used + local
        used += int(local.max()) + 1
    return code


def _together(layout: Layout, system: System) -> Ints:
    """For each member of a group, with how many of the others it shares each memory and each link to one."""
    groups = layout.groups
    of = np.repeat(np.arange(len(groups)), np.diff(groups.ptr))
    counts = []
    for n in _neighbours(layout.ranks, system) if layout.accesses else ():
        place = factorize(of, groups.rank // n)
        counts.append(np.bincount(place)[place])
    return factorize(*counts) if counts else np.zeros(len(of), np.int64)


def _rows(table: Ints) -> Ints:
    """Codes of the distinct rows of a table."""
    if table.size == 0 or table.min() == table.max() or len(table) == 1:
        return np.zeros(len(table), np.int64)
    return np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)


def _codes(values: NDArray[np.float64]) -> Ints:
    if len(values) and values.min() == values.max():
        return np.zeros(len(values), np.int64)
    return np.unique(values, return_inverse=True)[1]


def _padded(colour: Ints, size: int) -> Ints:
    """Colours of each run of ``size`` ranks, [runs, size]; -1 where ranks end."""
    runs = -(-len(colour) // size)
    return np.concatenate([colour, np.full(runs * size - len(colour), -1)]).reshape(runs, size)


def _neighbours(ranks: int, system: System) -> list[int]:
    """How many ranks share a memory, or a link to one."""
    counts = {hop.shared_by for tier in system.tiers for hop in tier.path} | {t.shared_by for t in system.tiers}
    return sorted({min(n or ranks, ranks) for n in counts} - {1})


def way_codes(system: System, one: Ints, other: Ints) -> Ints:
    """A number for the way between ranks: which dimensions it takes and over how many hops in each."""
    used, hops = ways(system, one, other)
    code = np.zeros(len(one), np.int64)
    for d, size in enumerate(system.sizes):
        code = code * (2 * (size + 1)) + used[:, d] * (size + 1) + hops[:, d]
    return np.unique(code, return_inverse=True)[1] if len(code) else code


def ways(system: System, one: Ints, other: Ints) -> tuple[NDArray[np.bool_], Ints]:
    """Which dimensions messages take, and over how many hops in each: two arrays [n, dimensions].

    Peers are reached through the outermost dimension in which they differ: switches and full meshes reach all places
    inside. On rings, meshes and tori a message travels every dimension in which they differ.
    """
    here, there = system.coordinates(one), system.coordinates(other)
    apart = np.abs(here - there)
    used = np.zeros(apart.shape, np.bool_)
    hops = np.zeros(apart.shape, np.int64)
    further = np.zeros(len(apart), np.bool_)
    for d in range(len(system.sizes) - 1, -1, -1):
        topology, size = system.dimensions[d].topology, system.sizes[d]
        differ = apart[:, d] > 0
        passes = topology in ("ring", "torus", "mesh")
        used[:, d] = differ & (passes | ~further)
        distance = apart[:, d]
        if topology in ("ring", "torus"):
            onward = (there - here)[:, d] % size
            distance = np.minimum(onward, size - onward) if system.dimensions[d].bidirectional else onward
        hops[:, d] = np.where(used[:, d], distance if passes else 1, 0)
        further |= differ
    return used, hops
