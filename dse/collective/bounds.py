"""Times that no schedule can beat, each with the cut that proves it.

A link carries ``bandwidth`` bytes/s after a latency that each message pays. From that follow, for each collective,

- cuts: what has to leave a set of nodes, over what the links that leave it carry (all-reduce: partitions as well, see
  :mod:`~dse.collective.strength`; all-to-all: distances, see :mod:`~dse.collective.flows`);
- latencies: the farthest pair;
- windows: what comes from far away comes late, so an NPU's links have less time for it.

Reduce-scatter and reduce are all-gather and broadcast on the reversed network. NPUs outside the group may pass on,
copy and add; switches only pass on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dse.collective.cuts import Cut, cut_between, names
from dse.collective.maxflow import distances, floats, worst_cut
from dse.collective.schedule import COLLECTIVES
from dse.collective.strength import worst_partition
from dse.collective.topology import Floats, Ints, Topology
from dse.collective.windows import late
from dse.errors import Fault, SpecError

ROOTED = ("broadcast", "reduce")
FEW = 1024  # sources that distances are taken from in larger groups


@dataclass(frozen=True, eq=False)
class Bound:
    """Seconds that a collective takes at least; see :func:`bound`.

    Attributes:
        topology, collective, nbytes, members, root: what it is of.
        bandwidth: by cuts, bytes only.
        latency: by shortest paths, latencies only.
        cut: the cut of ``bandwidth``.
    """

    topology: Topology
    collective: str
    nbytes: float
    members: Ints
    root: int | None
    bandwidth: float
    latency: float
    cut: Cut
    _cuts: list[Cut] = field(default_factory=list, repr=False)
    _far: set[int] = field(default_factory=set, repr=False)

    def strict(self, chunks: float) -> float:
        """With one chunk a message and ``chunks`` of them a shard (all-to-all: block; broadcast, reduce: everything).

        The larger of the cut bound with each chunk's latency and the longest store-and-forward path of a chunk. Of an
        all-reduce there are ``chunks`` times as many as members, and any algorithm counts.
        """
        _positive("chunks", chunks)
        pieces = chunks * len(self.members) if self.collective == "all_reduce" else chunks
        return max(self.cut_time(pieces), self.path_time(pieces))

    def cut_time(self, pieces: float) -> float:
        """Cut part of ``strict`` with the shard (all-reduce: everything) in ``pieces``."""
        if len(self.members) < 2:
            return 0.0
        time, cut = _solve(self._case, self._rate(pieces), np.zeros(self.topology.links))
        self._cuts.append(cut)
        return time

    def path_time(self, pieces: float) -> float:
        """Longest store-and-forward path of a chunk, with the shard (all-reduce: everything) in ``pieces``."""
        time, source = _farthest(self._case, self.topology.times(self._case.unit / pieces))
        self._far.add(source)
        return time

    @cached_property
    def any(self) -> float:
        """Whatever the chunks, and however they are merged into messages: each used link pays its latency once."""
        if len(self.members) < 2:
            return 0.0
        topology = self.topology
        time = _solve(self._case, topology.bandwidth, topology.latency)[0]
        return max(time, self.latency, _windows(self._case, topology.latency, topology.bandwidth, 0.0))

    @cached_property
    def best(self) -> float:
        """Least of the bounds for each number of equal chunks, one chunk a message."""
        if len(self.members) < 2:
            return 0.0
        self._explore()
        # Few chunks do not divide a link's time evenly: what is left over is lost. Many do.
        least = math.inf
        for pieces in range(1, 9):
            if self._pool(pieces) >= least:
                return max(self.any, least)
            size = self._case.unit / pieces
            whole = _windows(self._case, self.topology.times(size), self._rate(pieces), size)
            least = min(least, max(whole, self._pool(pieces), self._paths(pieces)))
        return max(self.any, min(least, self._least(9)))

    def _explore(self) -> None:
        """Learn the cuts and sources that count near the best number of pieces."""
        self.path_time(1)
        for _ in range(4):
            turn = self._turn
            known = self._least(1)
            if min(self._both(k) for k in {turn, max(turn - 1, 1)}) <= known * (1 + 1e-9):
                return

    def _both(self, pieces: int) -> float:
        return max(self.cut_time(pieces), self.path_time(pieces))

    @property
    def _turn(self) -> int:
        """First number of pieces at which cuts take longer than paths: before it more pieces help, after it fewer."""
        high = 1
        while self._pool(high) < self._paths(high) and high < 2**40:
            high *= 2
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._pool(middle) < self._paths(middle) else (low, middle)
        return high

    def _least(self, first: int) -> float:
        """Least of what is known of ``first`` pieces and more. Cuts take longer with more of them, paths less."""
        turn = max(self._turn, first)
        return min(max(self._pool(k), self._paths(k)) for k in {turn, max(turn - 1, first)})

    def _pool(self, pieces: float) -> float:
        """Longest time of the cuts known so far."""
        rate, zero = self._rate(pieces), np.zeros(self.topology.links)
        return max(cut.time(rate, zero) for cut in (self.cut, *self._cuts))

    def _paths(self, pieces: float) -> float:
        """Longest path of a chunk from the sources known to have long ones."""
        sources = np.array(sorted(self._far), np.int64)
        return _farthest(self._case, self.topology.times(self._case.unit / pieces), sources)[0]

    def rs_ag(self, chunks: float) -> float:
        """``strict`` of the best that a reduce-scatter and an all-gather after it can do for an all-reduce."""
        halves = (
            bound(self.topology, half, self.nbytes, members=self.members) for half in ("reduce_scatter", "all_gather")
        )
        return sum(half.strict(chunks) for half in halves)

    def _rate(self, pieces: float) -> Floats:
        """Bytes/s of a link that pays its latency with each chunk, [links]."""
        size = self._case.unit / pieces
        return size / self.topology.times(size)

    @cached_property
    def _case(self) -> _Case:
        return _Case(self.topology, self.collective, self.nbytes, self.members, self.root)

    def text(self) -> str:
        """The bounds and why they hold, in lines."""
        rows = [("bandwidth", self.bandwidth), ("latency", self.latency), ("any", self.any), ("best", self.best)]
        what = {
            "bandwidth": "bytes over the cut below, without latencies",
            "latency": "the longest of the shortest ways, without bytes",
            "any": "of any schedule, with chunks and messages of any size (--merge)",
            "best": "of any schedule whose messages carry one of equal chunks each, as many as is best",
        }
        lines = [f"{name:<11}{value * 1e6:>14,.6g} us  {what[name]}" for name, value in rows]
        return "\n".join([*lines, f"because {self.cut.text(self.topology)}"])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, times in microseconds; the cut by its nodes and links."""
        ends = [[int(self.topology.src[e]), int(self.topology.dst[e])] for e in self.cut.link]
        blocks = [[int(node) for node in block] for block in self.cut.blocks]
        cut = {"text": self.cut.text(self.topology), "bytes": self.cut.need, "links": self.cut.link.tolist(),
               "ends": ends, "nodes": blocks}  # fmt: skip
        times = {f"{name}_us": getattr(self, name) * 1e6 for name in ("bandwidth", "latency", "any", "best")}
        return {
            "topology": self.topology.name,
            "collective": self.collective,
            "bytes": self.nbytes,
            **times,
            "cut": cut,
        }


@dataclass(frozen=True, eq=False)
class _Case:
    """A collective turned so that data goes from its sources to all of its sinks."""

    topology: Topology
    collective: str
    nbytes: float
    members: Ints
    root: int | None

    @cached_property
    def network(self) -> Topology:
        return self.topology.reverse() if self.collective in ("reduce_scatter", "reduce") else self.topology

    @cached_property
    def unit(self) -> float:
        """Bytes of what is cut into chunks."""
        return self.nbytes / (1 if self.collective in (*ROOTED, "all_reduce") else len(self.members))

    @cached_property
    def symmetric(self) -> bool:
        """Whether each link has a twin the other way, and nobody is outside: partitions then include plain cuts."""
        t = self.topology
        rows = [np.stack([*ends, t.bandwidth, t.latency]) for ends in ((t.src, t.dst), (t.dst, t.src))]
        there, back = (row[:, np.lexsort(row)] for row in rows)
        return len(self.members) == len(t.members) and bool((there == back).all())

    @cached_property
    def lengths(self) -> Floats:
        """Of an all-to-all: see :mod:`~dse.collective.flows`."""
        from dse.collective.flows import good_lengths

        return good_lengths(self.topology, self.members)

    @cached_property
    def sources(self) -> Ints:
        return np.array([self.root]) if self.root is not None else self.members

    @cached_property
    def sinks(self) -> Ints:
        return self.members[self.members != self.root] if self.root is not None else self.members


def bound(
    topology: Topology, collective: str, nbytes: float, *, members: ArrayLike | None = None, root: int | None = None
) -> Bound:
    """What no schedule of a collective can beat.

    Args:
        topology: the network.
        collective: one of ``COLLECTIVES``.
        nbytes: bytes of the result of an all-gather, of each NPU's input otherwise.
        members: NPUs that take part; None: all that have not failed.
        root: of a broadcast or reduce (by default the first member).

    Raises:
        SpecError: bad input, or members that cannot reach each other.
    """
    if collective not in COLLECTIVES:
        raise SpecError([Fault("collective", repr(collective)[:40], f"must be one of {', '.join(COLLECTIVES)}")])
    _positive("bytes", nbytes)
    group = np.unique(np.asarray(topology.members if members is None else members, np.int64))
    root = (int(group[0]) if root is None else int(root)) if collective in ROOTED and len(group) else None
    require_connected(topology, collective, group, root)
    case = _Case(topology, collective, float(nbytes), group, root)
    if len(group) < 2:
        empty = Cut(0.0, np.empty(0, np.int64), np.empty(0))
        return Bound(topology, collective, float(nbytes), group, root, 0.0, 0.0, empty)
    time, cut = _solve(case, topology.bandwidth, np.zeros(topology.links))
    return Bound(topology, collective, float(nbytes), group, root, time, _farthest(case, topology.latency)[0], cut)


def _positive(name: str, value: float) -> None:
    if not (isinstance(value, int | float | np.number) and 0 < value < math.inf):
        raise SpecError([Fault(name, str(value)[:40], "must be more than 0, and finite")])


def require_connected(
    topology: Topology, collective: str, members: ArrayLike | None = None, root: int | None = None
) -> None:
    """Refuse a group whose data cannot get where it has to.

    Raises:
        SpecError: not NPUs of the network, or a cut without links; both of its sides are named.
    """
    group = np.asarray(topology.members if members is None else members, np.int64).reshape(-1)
    rule = f"must be NPUs that have not failed, of 0 to {topology.npus - 1}"
    wrong = np.setdiff1d(group, topology.members)
    if wrong.size or not group.size:
        raise SpecError([Fault("members", ", ".join(map(str, wrong[:5].tolist())) or "none", rule)])
    if root is not None and root not in group:
        raise SpecError([Fault("root", str(root), "must be a member")])
    start = group[:1] if root is None else np.array([root])
    for forward in (True, False):
        if collective == ("reduce" if forward else "broadcast"):
            continue
        ends = (topology.src, topology.dst) if forward else (topology.dst, topology.src)
        reached = np.isfinite(distances(topology.nodes, *ends, np.ones(topology.links), start)[0])
        if reached[group].all():
            continue
        here, there = (tuple(np.flatnonzero(side).tolist()) for side in (reached, ~reached))
        first, last = (here, there) if forward else (there, here)
        found = f"no link leads from {names(first, topology)} to {names(last, topology)}"
        raise SpecError([Fault("topology", topology.name, f"{found}, so {collective} is not possible")])


def _solve(case: _Case, rate: Floats, offset: Floats) -> tuple[float, Cut]:
    """Longest of the cuts, where link e carries ``rate * max(T - offset, 0)`` bytes by T."""
    if case.collective == "all_reduce":
        found = _partition(case, rate, offset, False)
        if case.topology.nodes > case.topology.npus:
            found = max(found, _partition(case, rate, offset, True), key=lambda pair: pair[0])
        for back in () if case.symmetric else (False, True):
            found = _rooted(case, rate, offset, back, found)
        return found
    if case.collective == "all_to_all":
        from dse.collective.flows import exchange_cuts

        cuts = exchange_cuts(case.topology, case.members, case.unit, rate, case.lengths)
        return max(((cut.time(rate, offset), cut) for cut in cuts), key=lambda pair: pair[0])
    net, demand = case.network, np.zeros(case.topology.nodes)
    demand[case.sources] = case.unit
    inside = np.zeros(net.nodes, bool)
    time = worst_cut(net.nodes, net.src, net.dst, rate, offset, demand, case.sinks, 0.0, inside)
    return float(time), cut_between(net, inside, float(demand[inside].sum()))


def _rooted(case: _Case, rate: Floats, offset: Floats, back: bool, known: tuple[float, Cut]) -> tuple[float, Cut]:
    """All of an all-reduce's bytes have to cross each cut between members, both ways: a worse one than is known."""
    net, demand = case.topology.reverse() if back else case.topology, np.zeros(case.topology.nodes)
    demand[case.members[0]] = case.nbytes
    inside = np.zeros(net.nodes, bool)
    time = worst_cut(net.nodes, net.src, net.dst, rate, offset, demand, case.members[1:], known[0], inside)
    return (float(time), cut_between(net, inside, case.nbytes)) if time > known[0] else known


def _partition(case: _Case, rate: Floats, offset: Floats, back: bool) -> tuple[float, Cut]:
    net = case.topology.reverse() if back else case.topology
    home = _homes(case.topology, case.members)
    keep = np.flatnonzero(home[net.src] != home[net.dst])
    src, dst, block = home[net.src[keep]], home[net.dst[keep]], np.full(net.nodes, -1)
    block[case.members] = np.arange(len(case.members))
    free = np.zeros((len(case.members) if len(case.members) < net.nodes else 1, net.nodes), bool)
    time = worst_partition(net.nodes, src, dst, rate[keep], offset[keep], case.members, case.nbytes, block, free)
    parts, links = [], []
    for k in np.unique(block[case.members]):
        inside = (block == k) | free[min(k, len(free) - 1)]
        parts.append(tuple(np.flatnonzero(inside[home]).tolist()))
        links.append(keep[inside[src] & ~inside[dst]])
    link, times = np.unique(np.concatenate(links), return_counts=True)
    return float(time), Cut(2.0 * case.nbytes * (len(parts) - 1), link, times.astype(float), tuple(parts))


def _homes(topology: Topology, members: Ints) -> Ints:
    """Member whose block each NPU outside the group belongs to (any choice gives a bound): over its fastest links."""
    home = np.arange(topology.nodes)
    outside = np.setdiff1d(np.arange(topology.npus), members)
    placed = np.isin(home, members)
    while outside.size:
        near = np.flatnonzero(placed[topology.src] & np.isin(topology.dst, outside))
        if not near.size:  # behind switches only, or without links
            home[outside] = members[0]
            return home
        near = near[np.argsort(topology.bandwidth[near], kind="stable")]
        home[topology.dst[near]] = home[topology.src[near]]
        placed[topology.dst[near]] = True
        outside = outside[~placed[outside]]
    return home


@lru_cache(maxsize=4)
def _sample(count: int) -> Ints:
    return np.unique(np.linspace(0, count - 1, min(count, FEW)).astype(np.int64))


def _farthest(case: _Case, weight: Floats, sources: Ints | None = None) -> tuple[float, int]:
    """Longest shortest path to a sink, and its source; of more than ``FEW`` sources, from evenly spaced ones."""
    net = case.network
    sources = case.sources[_sample(len(case.sources))] if sources is None else sources
    far = distances(net.nodes, net.src, net.dst, weight, sources)[:, case.sinks].max(axis=1, initial=0.0)
    return float(far.max()), int(sources[far.argmax()])


def _windows(case: _Case, delay: Floats, rate: Floats, chunk: float) -> float:
    """What comes to an NPU from far away cannot come early; and what leaves it for far away has to leave early.

    ``delay`` of each link is that of the first byte (``chunk`` 0) or of a whole chunk, of which a link then carries a
    whole number.
    """
    sinks = case.sinks[_sample(len(case.sinks))]
    nets = [case.network]
    if case.collective in ("all_reduce", "all_to_all"):
        nets.append(case.network.reverse())
    least, once = 0.0, case.collective == "all_reduce"
    for net in nets:
        away = distances(net.nodes, net.dst, net.src, delay, sinks)[:, case.sources]
        away = np.ascontiguousarray(np.sort(away, axis=1)[:, ::-1])
        link = np.lexsort((delay, net.dst))
        least = max(least, late(*floats(delay, rate), net.incoming.ptr, link, sinks, away, case.unit, once, chunk))
    return least
