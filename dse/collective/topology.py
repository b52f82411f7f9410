"""A network as its links: what a collective runs on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dse.errors import Fault, SpecError

MOST = 10_000_000  # nodes: what arrays of them have room for
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Adjacency(NamedTuple):
    """Links by the node at one of their ends: those of node v are ``link[ptr[v]:ptr[v + 1]]``."""

    ptr: Ints
    link: Ints


@dataclass(frozen=True, eq=False)
class Topology:
    """Directed links between nodes. Nodes 0 ... npus - 1 are NPUs, those after them switches.

    A link is busy for ``latency + bytes / bandwidth`` with each message and carries one at a time; a node passes a
    message on when all of it has arrived. Links do not share ports. Parallel links are links of their own.

    Attributes:
        npus: number of NPUs, failed ones included.
        src, dst: nodes of each link, [links].
        latency: seconds, [links].
        bandwidth: bytes/s, [links].
        name: what it is called in tables.
        nodes: NPUs and switches.
        failed: NPUs that take no part (they have no links).
        shape: sizes of the dimensions where the NPUs are numbered along them, the last one fastest; for drawing.
    """

    npus: int
    src: Ints
    dst: Ints
    latency: Floats
    bandwidth: Floats
    name: str = "network"
    nodes: int = -1
    failed: tuple[int, ...] = ()
    shape: tuple[int, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        ends = [np.asarray(ends, np.int64) for ends in (self.src, self.dst)]
        numbers = [np.broadcast_to(np.asarray(v, float), ends[0].shape).copy() for v in (self.latency, self.bandwidth)]
        for name, value in zip(("src", "dst", "latency", "bandwidth"), ends + numbers, strict=True):
            value.flags.writeable = False
            object.__setattr__(self, name, value)
        if self.nodes < 0:
            object.__setattr__(self, "nodes", self.npus)
        self._check()

    def _check(self) -> None:
        _require(1 <= self.npus <= MOST, "npus", self.npus, f"must be 1 to {MOST:,}")
        _require(self.nodes <= MOST, "nodes", self.nodes, f"must be at most {MOST:,}")
        _require(self.nodes >= self.npus, "nodes", self.nodes, f"must be at least the {self.npus} NPUs")
        _require(self.src.shape == self.dst.shape, "links", len(self.src), "must have as many sources as destinations")
        for name, ends in (("src", self.src), ("dst", self.dst)):
            wrong = np.flatnonzero((ends < 0) | (ends >= self.nodes))
            _each(wrong, name, ends, f"must be a node, 0 to {self.nodes - 1}")
        _each(np.flatnonzero(self.src == self.dst), "dst", self.dst, "must be another node than the link's source")
        wrong = np.flatnonzero(~((self.latency >= 0) & np.isfinite(self.latency)))
        _each(wrong, "latency", self.latency, "must be 0 or more seconds, and finite")
        wrong = np.flatnonzero(~((self.bandwidth > 0) & np.isfinite(self.bandwidth)))
        _each(wrong, "bandwidth", self.bandwidth, "must be more than 0 bytes/s, and finite")
        for npu in self.failed:
            _require(0 <= npu < self.npus, "failed", npu, f"must be an NPU, 0 to {self.npus - 1}")

    @classmethod
    def of(cls, links: ArrayLike, npus: int, **fields: Any) -> Self:
        """From rows (source, destination, bytes/s, seconds), [links, 4]."""
        rows = np.asarray(links, float).reshape(-1, 4)
        return cls(npus, rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64), rows[:, 3], rows[:, 2], **fields)

    @property
    def links(self) -> int:
        """Number of links."""
        return len(self.src)

    @property
    def members(self) -> Ints:
        """NPUs that take part unless a group is named: all that have not failed."""
        return np.setdiff1d(np.arange(self.npus), np.asarray(self.failed, np.int64))

    def times(self, size: float) -> Floats:
        """Seconds each link is busy with a message of ``size`` bytes, [links]."""
        return self.latency + size / self.bandwidth

    @cached_property
    def outgoing(self) -> Adjacency:
        """Links by their source."""
        return _adjacency(self.src, self.nodes)

    @cached_property
    def incoming(self) -> Adjacency:
        """Links by their destination."""
        return _adjacency(self.dst, self.nodes)

    def reverse(self) -> Self:
        """Every link turned round; link numbers stay."""
        return replace(self, src=self.dst, dst=self.src)

    def without(self, links: ArrayLike = (), npus: ArrayLike = ()) -> Self:
        """The same with some links gone, and every link of some NPUs, which then take no part.

        Raises:
            SpecError: there is no such link or NPU.
        """
        gone, cut = (np.asarray(given, np.int64).reshape(-1) for given in (npus, links))
        for name, given, limit in (("npus", gone, self.npus), ("links", cut, self.links)):
            wrong = given[(given < 0) | (given >= limit)]
            _require(not wrong.size, f"without.{name}", wrong[:1].tolist(), f"must be 0 to {limit - 1}")
        keep = np.ones(self.links, bool)
        keep[cut] = False
        keep &= ~(np.isin(self.src, gone) | np.isin(self.dst, gone))
        failed = tuple(sorted({*self.failed, *gone.tolist()}))
        ends = (self.src[keep], self.dst[keep], self.latency[keep], self.bandwidth[keep])
        return replace(self, src=ends[0], dst=ends[1], latency=ends[2], bandwidth=ends[3], failed=failed)

    @cached_property
    def key(self) -> str:
        """Hash of everything that decides a schedule; the same network under another name has the same key."""
        import hashlib

        digest = hashlib.sha256(repr((self.npus, self.nodes, self.failed)).encode())
        for column in (self.src, self.dst, self.latency, self.bandwidth):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        switches = f", {self.nodes - self.npus} switches" if self.nodes > self.npus else ""
        return f"Topology({self.name}: {self.npus} NPUs{switches}, {self.links} links)"


def _adjacency(ends: Ints, nodes: int) -> Adjacency:
    count = np.bincount(ends, minlength=nodes)
    return Adjacency(np.concatenate([[0], np.cumsum(count)]), np.argsort(ends, kind="stable"))


def _require(fine: bool, name: str, value: Any, rule: str) -> None:
    if not fine:
        raise SpecError([Fault(f"topology.{name}", str(value), rule)])


def _each(wrong: Ints, name: str, values: NDArray[Any], rule: str) -> None:
    if wrong.size:
        raise SpecError([Fault(f"topology.links.{i}.{name}", str(values[i]), rule) for i in wrong[:5].tolist()])
