"""Collectives message by message: their algorithms' schedules laid on the links of the network."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dse.errors import Fault, SpecError
from dse.simulate import fold
from dse.simulate.collectives import KINDS, demand, phases
from dse.simulate.schedules import Schedule, Step, compile_steps, steps_of
from dse.simulate.system import System
from dse.simulate.topology import Network
from dse.simulate.wires import OWN, lay_schedule
from dse.trace.schema import Collective

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Laid(NamedTuple):
    """A collective as phases on lanes [chunks, phases], their bytes, the lanes' schedules, and the delay before.

    ``routes`` are the sets of links of the messages; None: the usual way between their ends.
    """

    lane: Ints
    size: Floats
    schedules: list[Schedule]
    delay: float
    routes: Ints | None = None


def lay(network: Network, kind: Collective, ranks: Ints, shares: Floats, size: float) -> Laid:
    """The messages of one collective.

    Args:
        network: with the system that it is of.
        ranks: of the group, ascending; a message's ends are places among them.
        shares: [dimensions], ranks in each.
        size: bytes of the full buffer.

    Raises:
        SpecError: an algorithm of the system's own that does not fit the group.
    """
    system, name = network.system, KINDS[kind]
    empty = (size == 0 and kind != Collective.BARRIER) or len(ranks) == 1
    need = demand(system, int(kind), shares[None, :], np.asarray([size]), latencies=True)
    busy, ways = need.busy[0], need.latency[0]
    if empty or kind == Collective.BARRIER:
        nothing = np.zeros((1, 0))
        return Laid(nothing.astype(np.int64), nothing, [], 0.0 if empty else float(need.fixed[0]))
    own = (system.algorithms or {}).get(name, _synthesized(system, shares))
    if isinstance(own, str) or hasattr(own, "topology"):
        schedule, routes = lay_schedule(network, name, ranks, own, size)
        return _whole(schedule, size, 0.0)._replace(routes=routes)
    if own is not None:
        return _whole(_custom(network, ranks, own, name), size, 0.0)
    besides = float(need.fixed[0] - ways.sum())
    if name == "all_to_all" or system.graph is not None or not _regular(system, ranks, shares):
        return _whole(_flat(network, name, ranks, float(ways.sum())), size, besides)
    lanes = np.flatnonzero(busy > 0)
    schedules = [_along(system, name, int(d), shares, float(ways[d])) for d in lanes]
    way = phases(int(kind), busy, shares, system, chunks=_cut(system, busy, ways), halved=True)
    rate = np.asarray([d.bandwidth * d.efficiency * d.loaded for d in system.dimensions])
    return Laid(np.searchsorted(lanes, way.dimension), way.busy * rate[way.dimension], schedules, besides)


def _synthesized(system: System, shares: Floats) -> str | None:
    """Whether a dimension that the group spans asks for it."""
    spanned = (d for d, n in zip(system.dimensions, shares, strict=True) if n > 1)
    asked = system.graph is None and any(d.algorithm == OWN or d.graph for d in spanned)
    return OWN if asked else None


def _whole(schedule: Schedule, size: float, delay: float) -> Laid:
    """One phase with everything in it."""
    return Laid(np.zeros((1, 1), np.int64), np.full((1, 1), size), [schedule], delay)


def _cut(system: System, busy: Floats, ways: Floats) -> int:
    """Chunks: more fill the dimensions sooner, but each waits for its steps; as many as pay."""
    longest = float(ways.max())
    return system.chunks if longest <= 0 else int(np.clip(np.sqrt(busy.sum() / longest), 1, system.chunks))


def _along(system: System, name: str, d: int, shares: Floats, way: float) -> Schedule:
    """The messages in one dimension, on all lines of a group along it; ``way``: latency of all their steps."""
    dimension, counts = system.dimensions[d], shares.astype(int)
    reduced = name == "all_reduce" and bool(dimension.in_network_reduction)
    steps, pipelined = steps_of(name, dimension, int(counts[d]), reduced=reduced)
    n, inner = int(counts[d]), int(np.prod(counts[:d]))
    bases = [i + o * inner * n for o in range(int(np.prod(counts[d + 1 :]))) for i in range(inner)]
    spread = [(s, base + a * inner, base + b * inner, part) for base in bases for s, a, b, part in steps]
    return compile_steps(spread, way / 2 if name == "all_reduce" else way, pipelined)


def _regular(system: System, ranks: Ints, shares: Floats) -> bool:
    """Whether a group is a grid: in every dimension the same places for all."""
    counts = [len(np.unique(column)) for column in system.coordinates(ranks).T]
    return int(np.prod(counts)) == len(ranks) and np.array_equal(counts, shares)


def _flat(network: Network, name: str, ranks: Ints, way: float) -> Schedule:
    """All pairs at once for an all-to-all; else a ring through all ranks, wherever they are."""
    n = len(ranks)
    steps: list[Step]
    if name == "all_to_all":
        steps = [(0, i, j, 1.0 / n) for i in range(n) for j in range(n) if i != j]
    elif name == "broadcast":
        steps = [(0, i, i + 1, 1.0) for i in range(n - 1)]
    else:
        rounds = (n - 1) * (2 if name == "all_reduce" else 1)
        steps = [(s, i, (i + 1) % n, 1.0 / n) for s in range(rounds) for i in range(n)]
    schedule = compile_steps(steps, way, name == "broadcast")
    return schedule._replace(latency=schedule.latency + _links(network, schedule, ranks))


def _is_step(step: tuple[Any, ...], places: int) -> bool:
    """Whether a step names two places of the group and a share."""
    if len(step) != 4 or not all(isinstance(part, int | np.integer) for part in step[:3]):
        return False
    return 0 <= step[1] < places and 0 <= step[2] < places and step[1] != step[2] and 0 <= float(step[3]) < math.inf


def _custom(network: Network, ranks: Ints, steps: Any, name: str) -> Schedule:
    """An algorithm given as steps (step, from, to, share of the buffer) among the places of the group."""
    table = [tuple(step) for step in steps]
    if not table:
        raise SpecError([Fault(f"system.algorithms.{name}", "", "must have at least one step")])
    for step in table:
        if not _is_step(step, len(ranks)):
            rule = (
                f"a step is (step, from, to, share of the buffer), from and to two of the places 0 to {len(ranks) - 1}"
            )
            raise SpecError([Fault(f"system.algorithms.{name}", str(step)[:60], rule)])
    schedule = compile_steps(table, 0.0, False)
    ends = ranks[schedule.source], ranks[schedule.target]
    hops = fold.ways(network.system, *ends)[1]
    latency = hops @ np.asarray([d.latency for d in network.system.dimensions], float)
    return schedule._replace(latency=latency + _links(network, schedule, ranks))


def _links(network: Network, schedule: Schedule, ranks: Ints) -> Floats:
    """Latency of each message on the links of a graph."""
    pairs = zip(ranks[schedule.source].tolist(), ranks[schedule.target].tolist(), strict=True)
    return np.asarray([network.latency(a, b) for a, b in pairs])
