"""Links between devices, and the way of every message over them: dimensions of regular topologies, or any graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dse.errors import Fault, SpecError
from dse.simulate import fold
from dse.simulate.sets import Sets
from dse.simulate.system import System
from dse.simulate.wires import Wires, wires

Ints = NDArray[np.int64]
LEAST_MESSAGE = 2.0**20  # bytes that the choice of a way on a graph is made for


class Network:
    """Routes over links that are resources of ``sets``; each route once."""

    def __init__(self, system: System, sets: Sets) -> None:
        # Links of a full mesh are links of their own here: the closed form need not count those that a group has.
        meshes = (
            d.model_copy(update={"size": None}) if d.topology == "fully_connected" else d for d in system.dimensions
        )
        self.system, self.sets = system.replace(dimensions=tuple(meshes)), sets
        self._links: dict[Any, int] = {}
        self._known: dict[tuple[Any, Any], int] = {}
        self._wires: Wires | None = None
        self._graph = _Graph(system.graph, system.ranks) if system.graph is not None else None

    def route(self, one: int, other: int) -> int:
        """The set of links of a message between two ranks; -1: itself."""
        if one < 0 or other < 0 or one == other:
            return -1
        if (one, other) not in self._known:
            links = self._path(one, other)
            numbers, counts = np.unique(links, return_counts=True)
            self._known[one, other] = int(self.sets.add(np.asarray([len(numbers)]), numbers, counts)[0])
        return self._known[one, other]

    def latency(self, one: int, other: int) -> float:
        """Seconds on the links of a graph; the latency of dimensions is the closed form's."""
        return self._graph.latency(one, other) if self._graph is not None else 0.0

    def wires(self) -> Wires:
        """All links, as schedules of collectives see them."""
        if self._wires is None:
            self._wires = wires(self.system)
        return self._wires

    def over(self, key: Any, bandwidth: float) -> int:
        """The set that is one link."""
        if ("over", key) not in self._known:
            resource = np.asarray([self._link(key, bandwidth)])
            self._known["over", key] = int(self.sets.add(np.ones(1, np.int64), resource, np.ones(1, np.int64))[0])
        return self._known["over", key]

    def _link(self, key: Any, bandwidth: float) -> int:
        if key not in self._links:
            name = f"link {key[0]} to {key[1]}" + (f" ({key[2]})" if len(key) > 2 else "")
            self._links[key] = self.sets.resource(np.asarray([bandwidth]), lambda: [name])
        return self._links[key]

    def _path(self, one: int, other: int) -> list[int]:
        if self._graph is not None:
            return [self._link(hop, self._graph.bandwidth[hop]) for hop in self._graph.path(one, other)]
        used, _ = fold.ways(self.system, np.asarray([one]), np.asarray([other]))
        here, links = one, []
        strides = np.cumprod((1, *self.system.sizes[:-1]))
        for d in np.flatnonzero(used[0]):
            goal = other // strides[d] % self.system.sizes[d]
            found, here = self._in_dimension(int(d), here, int(goal), int(strides[d]), other)
            links += found
        return links

    def _in_dimension(self, d: int, here: int, goal: int, stride: int, other: int) -> tuple[list[int], int]:
        """Links from a rank to the place ``goal`` of its dimension d, and the rank there."""
        dimension, size = self.system.dimensions[d], self.system.sizes[d]
        kinds = self.system.kinds(self.system.ranks) if self.system.device_of is not None else None
        rate = dimension.bandwidth * dimension.efficiency * dimension.loaded

        def share(rank: int) -> float:
            device = self.system.devices[int(kinds[rank]) if kinds is not None else 0]
            return float(np.broadcast_to(device.links, len(self.system.sizes))[d])

        name = dimension.name
        place = here // stride % size
        there = here + (goal - place) * stride
        if dimension.topology == "switch":
            # It is the outermost dimension in which they differ, and reaches all places inside: the rank itself.
            out = self._link((here, f"{name} switch"), rate * share(here))
            return [out, self._link((f"{name} switch", other), rate * share(other))], other
        if dimension.topology == "fully_connected":
            return [self._link((here, there, name), rate * share(here) / (size - 1))], there
        links = []
        around = dimension.topology != "mesh"
        step = _direction(dimension, size, place, goal)
        ways = 1 if around and (size == 2 or not dimension.bidirectional) else 2
        while place != goal:
            following = (place + step) % size
            after = here + (following - place) * stride
            links.append(self._link((here, after, name), rate * share(here) / ways))
            here, place = after, following
        return links, here


def _direction(dimension: Any, size: int, place: int, goal: int) -> int:
    """Which way around; the far side of a ring is reached by half of the places either way."""
    if dimension.topology == "mesh":
        return 1 if goal > place else -1
    onward = (goal - place) % size
    if not dimension.bidirectional or 2 * onward < size or (2 * onward == size and place % 2 == 0):
        return 1
    return -1


class _Graph:
    """Shortest ways on a graph of ranks (integers) and switches (anything else)."""

    def __init__(self, graph: Any, ranks: int) -> None:
        self.bandwidth: dict[tuple[Any, Any], float] = {}
        self._delay: dict[tuple[Any, Any], float] = {}
        for one, other, bandwidth, latency in edges_of(graph):
            if not bandwidth > 0 or not latency >= 0:
                rule = "bandwidth must be more than 0, latency at least 0"
                raise SpecError([Fault(f"link {one} to {other}", f"{bandwidth}, {latency}", rule)])
            if (one, other) in self.bandwidth:
                rule = "is given twice: give links side by side as one with their sum"
                raise SpecError([Fault(f"link {one} to {other}", f"{bandwidth}", rule)])
            self.bandwidth[one, other], self._delay[one, other] = float(bandwidth), float(latency)
        self._names = list(dict.fromkeys(end for link in self.bandwidth for end in link))
        self._index = {name: i for i, name in enumerate(self._names)}
        lost = [rank for rank in range(ranks) if rank not in self._index]
        if lost:
            raise SpecError([Fault("system.graph", "", f"rank {lost[0]} has no link")])
        self._trees: dict[int, Ints] = {}

    def path(self, one: int, other: int) -> list[tuple[Any, Any]]:
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import dijkstra

        source = self._index[one]
        if source not in self._trees:
            ends = [(self._index[a], self._index[b]) for a, b in self.bandwidth]
            cost = [self._delay[link] + LEAST_MESSAGE / rate for link, rate in self.bandwidth.items()]
            shape = (len(self._names), len(self._names))
            matrix = csr_array((cost, tuple(np.asarray(ends).T)), shape=shape)
            self._trees[source] = dijkstra(matrix, indices=source, return_predecessors=True)[1]
        hops, at = [], self._index[other]
        while at != source:
            before = int(self._trees[source][at])
            if before < 0:
                raise SpecError([Fault("system.graph", "", f"no way leads from rank {one} to rank {other}")])
            hops.append((self._names[before], self._names[at]))
            at = before
        return hops[::-1]

    def latency(self, one: int, other: int) -> float:
        return sum(self._delay[hop] for hop in self.path(one, other)) if one != other else 0.0


def edges_of(graph: Any) -> Iterable[tuple[Any, Any, float, float]]:
    """(from, to, bytes/s, seconds) of a list of those, of a :class:`~dse.collective.topology.Topology`, or of a
    NetworkX graph with ``bandwidth`` and ``latency``.

    An undirected graph has each link in both directions.

    Raises:
        SpecError: a link without a bandwidth, or of another form.
    """
    if hasattr(graph, "links"):  # a topology of dse.collective
        names = [*range(graph.npus), *(f"switch {node}" for node in range(graph.npus, graph.nodes))]
        columns = (graph.src.tolist(), graph.dst.tolist(), graph.bandwidth.tolist(), graph.latency.tolist())
        return [(names[a], names[b], rate, delay) for a, b, rate, delay in zip(*columns, strict=True)]
    if not hasattr(graph, "edges"):
        links = [tuple(link) for link in graph]
        for link in links:
            if len(link) != 4:
                rule = "a link is (from, to, bytes/s, seconds)"
                raise SpecError([Fault("system.graph", str(link)[:60], rule)])
        return links
    for a, b, data in graph.edges(data=True):
        if "bandwidth" not in data:
            raise SpecError([Fault(f"link {a} to {b}", "", "has no bandwidth")])
    found = [(a, b, data["bandwidth"], data.get("latency", 0.0)) for a, b, data in graph.edges(data=True)]
    return found if graph.is_directed() else found + [(b, a, *rest) for a, b, *rest in found]
