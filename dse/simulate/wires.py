"""Schedules of :mod:`dse.collective` in the simulator: a system's links as a topology, and a schedule's messages."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dse.errors import Fault, SpecError
from dse.simulate.schedules import Schedule as Messages
from dse.simulate.system import System

if TYPE_CHECKING:
    from dse.collective.schedule import Schedule
    from dse.collective.topology import Topology

Ints = NDArray[np.int64]
OWN = "synthesized"


class Wires(NamedTuple):
    """The links of a system.

    Attributes:
        topology: ranks are its NPUs.
        keys: of each link, as :class:`~dse.simulate.topology.Network` knows it.
    """

    topology: Topology
    keys: list[tuple[Any, ...]]


def wires(system: System) -> Wires:
    """The links of a system: those of its graph, or of every line along each of its dimensions.

    Raises:
        SpecError: a dimension whose devices differ in their share of the links.
    """
    if system.graph is not None:
        return _of_graph(system)
    if any(np.ptp(np.atleast_1d(device.links)) or np.max(device.links) != 1.0 for device in system.devices):
        raise SpecError([Fault("system.devices.links", "", "must be 1 where collectives are synthesized")])
    return _of_dimensions(system.dimensions, system.sizes)


def _of_graph(system: System) -> Wires:
    from dse.collective.topology import Topology
    from dse.simulate.topology import edges_of

    edges = list(edges_of(system.graph))
    others = dict.fromkeys(end for a, b, *_ in edges for end in (a, b) if not _is_rank(end, system.ranks))
    number = {name: system.ranks + i for i, name in enumerate(others)}
    rows = [(number.get(a, a), number.get(b, b), rate, delay) for a, b, rate, delay in edges]
    nodes = system.ranks + len(number)
    return Wires(Topology.of(rows, system.ranks, nodes=nodes, name="graph"), [(a, b) for a, b, *_ in edges])


def _is_rank(end: Any, ranks: int) -> bool:
    return isinstance(end, int | np.integer) and not isinstance(end, bool) and 0 <= end < ranks


def _of_dimensions(dimensions: tuple[Any, ...], sizes: tuple[int, ...]) -> Wires:
    """Each dimension's network on every line along it."""
    from dse.collective.topology import Topology

    ranks, stride = int(np.prod(sizes)), 1
    rows, keys, nodes = [], [], ranks
    for dimension, size in zip(dimensions, sizes, strict=True):
        if size > 1:
            one = _network(dimension, size)
            for first in (r for r in range(ranks) if r // stride % size == 0):
                name = [first + place * stride for place in range(size)]
                name += range(nodes, nodes + one.nodes - size)
                nodes += one.nodes - size
                ends = [(name[a], name[b]) for a, b in zip(one.src.tolist(), one.dst.tolist(), strict=True)]
                rows += [(a, b, rate, delay)
                         for (a, b), rate, delay in zip(ends, one.bandwidth, one.latency, strict=True)]  # fmt: skip
                keys += [_key(a, b, ranks, dimension) for a, b in ends]
        stride *= size
    shape = tuple(reversed(sizes)) if nodes == ranks else ()
    return Wires(Topology.of(rows, ranks, nodes=nodes, name="dimensions", shape=shape), keys)


def _network(dimension: Any, size: int) -> Topology:
    """The network of one line, with the constants of its dimension."""
    from dataclasses import replace

    from dse.collective.files import load
    from dse.collective.joined import unit_network

    if dimension.graph:
        found = load(dimension.graph)
        if found.failed or found.npus != size:
            rule = f"must have {size} NPUs, all of which work, to be simulated message by message"
            raise SpecError([Fault("dimension.graph", dimension.graph[:80], rule)])
        return found
    one = unit_network(dimension.topology, size, dimension.bidirectional)
    rate = dimension.bandwidth * dimension.efficiency * dimension.loaded
    return replace(one, bandwidth=one.bandwidth * rate, latency=one.latency * dimension.latency)


def _key(a: int, b: int, ranks: int, dimension: Any) -> tuple[Any, ...]:
    """The name that the network's own routes have for a link; a switch has one for all lines of its dimension."""
    if dimension.graph:
        return (a, b, f"{dimension.name} graph")
    if b >= ranks:
        return (a, f"{dimension.name} switch")
    return (f"{dimension.name} switch", b) if a >= ranks else (a, b, dimension.name)


@lru_cache(maxsize=16)
def _made(topology: Topology, name: str, size: float, ranks: tuple[int, ...]) -> Schedule:
    from dse.collective.joined import schedule_of

    return schedule_of(topology, name, size, OWN, ranks)


def messages_of(schedule: Schedule, keys: list[tuple[Any, ...]]) -> tuple[Messages, list[tuple[Any, ...]], list[float]]:
    """A schedule as messages that wait for the data they carry, and on each link for the one before.

    Returns:
        The messages, with shares of the schedule's bytes, and the key and bytes/s of each one's link.
    """
    from dse.collective.merge import tasks_of
    from dse.collective.tasks import successors

    flow, topology = tasks_of(schedule), schedule.topology
    tasks, joins = flow.order.tasks, flow.order.joins
    start = np.full(tasks, np.inf)
    np.minimum.at(start, flow.task, schedule.start)
    order = np.lexsort((start, flow.link))
    follows = flow.link[order][1:] == flow.link[order][:-1]
    before = np.concatenate([flow.order.before, order[:-1][follows]])
    after = np.concatenate([flow.order.after, order[1:][follows]])
    waits, ptr, following = successors(before, after, tasks + joins)
    # A join is a message of nothing over some link.
    link = np.concatenate([flow.link, np.zeros(joins, np.int64)])
    share = np.concatenate([flow.size / schedule.nbytes, np.zeros(joins)])
    latency = np.concatenate([topology.latency[flow.link], np.zeros(joins)])
    ends = topology.src[link], topology.dst[link]
    found = Messages(*ends, share, latency, *(np.asarray(part, np.int64) for part in (waits, ptr, following)))
    return found, [keys[i] for i in link], topology.bandwidth[link].tolist()


def lay_schedule(network: Any, name: str, ranks: Ints, given: Any, size: float) -> tuple[Messages, Ints]:
    """The messages of a synthesized (or given) schedule of a collective, and the set of links of each.

    Args:
        network: :class:`~dse.simulate.topology.Network`.
        name: of the collective.
        ranks: the group.
        given: ``"synthesized"``, or a :class:`~dse.collective.schedule.Schedule` on as many NPUs as there are ranks.

    Raises:
        SpecError: a schedule of another collective, of other links or of other ranks.
    """
    known = network.wires()
    schedule = given
    if isinstance(given, str):
        schedule = _made(known.topology, name, float(size), tuple(ranks.tolist()))
    else:
        _check(schedule, name, ranks, known.topology)
    found, keys, rates = messages_of(schedule, known.keys)
    return found, np.asarray([network.over(key, rate) for key, rate in zip(keys, rates, strict=True)], np.int64)


def _check(schedule: Schedule, name: str, ranks: Ints, topology: Topology) -> None:
    path = f"system.algorithms.{name}"
    for good, value, rule in (
        (schedule.collective == name, schedule.collective, f"must be of a collective {name}"),
        (np.array_equal(schedule.members, ranks), str(schedule.members)[:40], "must be of the ranks of the group"),
        (schedule.topology.key == topology.key, schedule.topology.name, "must be on the links of this system"),
    ):
        if not good:
            raise SpecError([Fault(path, value, rule)])
