"""Translations of a network: shifts of the NPUs' numbers that change no link.

Where they are, every NPU of an orbit can do the same from where it stands. Links that translations carry into each
other are one class; a transfer of one chunk over a link of a class stands for one transfer over each of its links. So a
schedule for the chunks of one NPU an orbit, with each class taken for one link, gives one for all.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np

from dse.collective.topology import Ints, Topology
from dse.jit import njit


class Symmetry(NamedTuple):
    """Translations of a network, the products of some cyclic ones.

    Attributes:
        order: of each cyclic one, how often it can be applied until nothing has moved.
        node, link: where each takes the nodes and links, [cyclic ones, nodes] and [cyclic ones, links].
        machine: class of each link, [links].
        share: translations that leave a link of a class where it is: as many transfers use it one after the other,
            [classes].
        first: one NPU of each orbit.
    """

    order: tuple[int, ...]
    node: Ints
    link: Ints
    machine: Ints
    share: Ints
    first: Ints

    @property
    def size(self) -> int:
        """Number of translations."""
        return int(np.prod(self.order, dtype=np.int64))


def trivial(topology: Topology) -> Symmetry:
    """Only the translation that moves nothing."""
    links = np.arange(topology.links)
    none = np.empty((0, topology.nodes), np.int64), np.empty((0, topology.links), np.int64)
    return Symmetry((), *none, links, np.ones(topology.links, np.int64), topology.members)


def symmetry(topology: Topology) -> Symmetry:
    """The most translations found among shifts of digits of the NPUs' numbers, in any mixed radix."""
    if topology.failed or topology.npus < 2 or not topology.links:
        return trivial(topology)
    shifts = _Shifts(topology)
    _, chain = shifts.chain(1)
    if not chain:
        return trivial(topology)
    # A link that translations leave where it is serves them one after the other: fewer of them may be quicker.
    digits = [(*digit, *shifts.found[digit]) for digit in chain]
    whole = _made(topology, digits)
    if whole.share.max() == 1 or len(digits) > 6:
        return whole
    parts = [_made(topology, list(part)) for count in range(1, len(digits)) for part in combinations(digits, count)]
    alone = [part for part in parts if part.share.max() == 1]
    return max(alone, key=lambda part: part.size, default=trivial(topology))


def _made(topology: Topology, digits: list[tuple[int, int, Ints, Ints]]) -> Symmetry:
    """All translations that some shifts of digits (stride, size, nodes, links) make."""
    link = np.array([links for *_, links in digits])
    machine, members = _orbits(link)
    first = np.arange(topology.npus)
    for stride, size, *_ in digits:
        first -= first // stride % size * stride
    order = tuple(size for _, size, *_ in digits)
    node = np.array([nodes for *_, nodes, _ in digits])
    return Symmetry(order, node, link, machine, int(np.prod(order)) // members, np.unique(first))


class _Shifts:
    """Shifts of one digit, (stride, size), and where they take nodes and links."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        columns = (topology.bandwidth, topology.latency, topology.dst, topology.src)
        self.sorted = np.lexsort(columns)
        self.found: dict[tuple[int, int], tuple[Ints, Ints] | None] = {}
        self.best: dict[int, tuple[int, list[tuple[int, int]]]] = {}

    def chain(self, stride: int) -> tuple[int, list[tuple[int, int]]]:
        """Digits from ``stride`` on that make the most translations, and how many."""
        rest = self.topology.npus // stride
        if rest == 1 or stride in self.best:
            return self.best.get(stride, (1, []))
        found: tuple[int, list[tuple[int, int]]] = (1, [])
        sizes = [n for n in range(rest, 1, -1) if rest % n == 0]
        for size in sizes:
            if self.holds(stride, size):
                count, digits = self.chain(stride * size)
                found = max(found, (count * size, [(stride, size), *digits]), key=lambda pair: pair[0])
                if found[0] == rest:
                    break
        if found[0] < rest:
            for size in sizes[::-1]:  # leave a digit out
                found = max(found, self.chain(stride * size), key=lambda pair: pair[0])
        self.best[stride] = found
        return found

    def holds(self, stride: int, size: int) -> bool:
        """Whether the shift of a digit changes no link."""
        if (stride, size) not in self.found:
            npus = np.arange(self.topology.npus)
            digit = npus // stride % size
            self.found[stride, size] = self._mapped(npus + ((digit + 1) % size - digit) * stride)
        return self.found[stride, size] is not None

    def _mapped(self, npus: Ints) -> tuple[Ints, Ints] | None:
        """Nodes and links under a map of the NPUs; None where it does not carry links to like ones."""
        t = self.topology
        some = self.sorted[:: max(t.links // 32, 1)]
        if t.nodes == t.npus and not _alike(t, npus, some):
            return None
        node = _with_switches(t, npus)
        if node is None:
            return None
        src, dst = node[t.src], node[t.dst]
        order = np.lexsort((t.bandwidth, t.latency, dst, src))
        same = (src[order] == t.src[self.sorted]) & (dst[order] == t.dst[self.sorted])
        same &= t.latency[order] == t.latency[self.sorted]
        if not (same & (t.bandwidth[order] == t.bandwidth[self.sorted])).all():
            return None
        link = np.empty(t.links, np.int64)
        link[order] = self.sorted
        return node, link


def _alike(topology: Topology, npus: Ints, some: Ints) -> bool:
    """Whether a few links have images at all: most maps fail here."""
    out = topology.outgoing
    for e in some.tolist():
        u, v = npus[topology.src[e]], npus[topology.dst[e]]
        there = out.link[out.ptr[u] : out.ptr[u + 1]]
        there = there[topology.dst[there] == v]
        if not np.any(
            (topology.bandwidth[there] == topology.bandwidth[e]) & (topology.latency[there] == topology.latency[e])
        ):
            return False
    return True


def _with_switches(topology: Topology, npus: Ints) -> Ints | None:
    """A map of the NPUs carried on to the switches by their neighbours' images, from those nearest to NPUs outwards."""
    t = topology
    node = np.full(t.nodes, -1)
    node[: t.npus] = npus
    rows: dict[int, list[tuple[int, bool, float, float]]] = {s: [] for s in range(t.npus, t.nodes)}
    columns = (t.src.tolist(), t.dst.tolist(), t.latency.tolist(), t.bandwidth.tolist())
    if rows:
        for u, v, delay, rate in zip(*columns, strict=True):
            for here, there, leaves in ((u, v, True), (v, u, False)):
                if here >= t.npus:
                    rows[here].append((there, leaves, delay, rate))
    while rows:
        level = [s for s, near in rows.items() if any(node[x] >= 0 for x, *_ in near)]
        if not level:
            return None
        own: dict[tuple[object, ...], list[int]] = {}
        image: dict[tuple[object, ...], list[int]] = {}
        for s in level:
            known = [row for row in rows[s] if node[row[0]] >= 0]
            own.setdefault(tuple(sorted(known)), []).append(s)
            image.setdefault(tuple(sorted((int(node[x]), *rest) for x, *rest in known)), []).append(s)
        if own.keys() != image.keys() or any(len(own[key]) != len(image[key]) for key in own):
            return None
        for key, group in image.items():
            node[group] = own[key]
        for s in level:
            del rows[s]
    return node


@njit(cache=True)
def _orbits(images):
    """Class of each link under some maps, and how many links each class has."""
    links = images.shape[1]
    machine, stack = np.full(links, -1), np.empty(links, np.int64)
    count = np.zeros(links, np.int64)
    classes = 0
    for e in range(links):
        if machine[e] >= 0:
            continue
        machine[e], stack[0], waiting = classes, e, 1
        while waiting > 0:
            waiting -= 1
            f = stack[waiting]
            count[classes] += 1
            for i in range(len(images)):
                g = images[i, f]
                if machine[g] < 0:
                    machine[g], stack[waiting] = classes, g
                    waiting += 1
        classes += 1
    return machine, count[:classes]


def translated(symmetry: Symmetry, values: Ints, of: Ints) -> Ints:
    """Where all translations take some nodes or links, [translations, values]; ``of``: ``node`` or ``link``."""
    made = np.asarray(values, np.int32)[None, :]
    for order, image in zip(symmetry.order, of.astype(np.int32), strict=True):
        turns = [made]
        for _ in range(order - 1):
            turns.append(image[turns[-1]])
        made = np.concatenate(turns)
    return made
