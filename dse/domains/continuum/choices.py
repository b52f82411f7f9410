"""What may be decided: the options of each stage, the ways between tiers, both as columns of numbers."""

from __future__ import annotations

import heapq
from typing import Any, NamedTuple

import numpy as np

from dse.domains.continuum.graph import Continuum, Curve, Stage, Tier


class Options(NamedTuple):
    """The options of one stage, columns [option].

    Attributes:
        tier, variant: numbers of them; ``nodes`` of a run, ``reduction`` a factor, ``cadence`` in s (NaN: no sensor).
        time: of a run without waiting, s; ``wait``: of its tier before it, s (0 where nothing is run).
        passes: share of the runs that go on; ``output``: of a run before the reduction, B (NaN: what comes in).
        fidelity: what is left.
        memory: of a node, B.
    """

    tier: np.ndarray
    variant: np.ndarray
    nodes: np.ndarray
    reduction: np.ndarray
    cadence: np.ndarray
    time: np.ndarray
    wait: np.ndarray
    passes: np.ndarray
    output: np.ndarray
    fidelity: np.ndarray
    memory: np.ndarray

    def __len__(self) -> int:
        return len(self.tier)


class Ways(NamedTuple):
    """Between tiers.

    Attributes:
        names: of the directed links, ``link: a to b``.
        link: number of each one's link; ``source``: number of the tier that sends.
        uses: [from, to, directed link] bool: the way that data take, the one with the least round trip.
        exists: [from, to] bool.
    """

    names: tuple[str, ...]
    link: np.ndarray
    source: np.ndarray
    uses: np.ndarray
    exists: np.ndarray


def options(problem: Continuum) -> tuple[Options, ...]:
    """The options of each stage of a graph, in the graph's order; within a stage by tier, variant, nodes, and so on."""
    return tuple(_options(problem, stage) for stage in problem.stages)


def _options(problem: Continuum, stage: Stage) -> Options:
    rows = []
    for t, tier in enumerate(problem.tiers):
        if stage.tiers and tier.id not in stage.tiers:
            continue
        for v, variant in enumerate(stage.variants):
            for nodes, time in _times(stage, tier, variant.name):
                for reduction in stage.reductions:
                    output = np.nan if variant.output is None else variant.output
                    fidelity = variant.fidelity * reduction**-stage.reduction_loss
                    for cadence in stage.cadence or (np.nan,):
                        wait = tier.wait if time > 0 else 0.0
                        rows.append(
                            (t, v, nodes, reduction, cadence, time, wait, variant.passes, output, fidelity,
                             variant.memory)
                        )  # fmt: skip
    columns = np.array(rows, float).reshape(-1, len(Options._fields)).T
    return Options(*(c.astype(np.int64) for c in columns[:3]), *columns[3:])


def _times(stage: Stage, tier: Tier, variant: str) -> list[tuple[int, float]]:
    """Node counts of a run on a tier, and how long it takes: measured, else work over rate."""
    curve = curve_of(stage, tier.id, variant)
    if curve is not None:
        return list(zip(curve.nodes, curve.seconds, strict=True))
    way = next(v for v in stage.variants if v.name == variant)
    rate = tier.rate * (way.efficiency or tier.efficiency)
    return [(n, way.work / (rate * n)) for n in stage.nodes]


def curve_of(stage: Stage, tier: str, variant: str) -> Curve | None:
    """The curve of a variant on a tier, one for that variant before one for all."""
    fits = [c for c in stage.curves if c.tier == tier and c.variant in (None, variant)]
    return min(fits, key=lambda c: c.variant is None, default=None)


def ways(problem: Continuum) -> Ways:
    """The ways between all pairs of tiers: of least round trip, then of fewest links, then the first in the list."""
    place = {tier.id: t for t, tier in enumerate(problem.tiers)}
    directed = [
        (number, place[a], place[b])
        for number, link in enumerate(problem.links)
        for a, b in (link.ends, link.ends[::-1])
    ]
    count = len(place)
    uses = np.zeros((count, count, len(directed)), bool)
    exists = np.eye(count, dtype=bool)
    for start in range(count):
        for end, path in _paths(problem, directed, start).items():
            exists[start, end], uses[start, end, list(path)] = True, True
    ids = [tier.id for tier in problem.tiers]
    return Ways(
        tuple(f"{problem.links[n].id}: {ids[a]} to {ids[b]}" for n, a, b in directed),
        np.array([n for n, _, _ in directed], np.int64),
        np.array([a for _, a, _ in directed], np.int64),
        uses,
        exists,
    )


def _paths(problem: Continuum, directed: list[tuple[int, int, int]], start: int) -> dict[int, tuple[int, ...]]:
    queue: list[tuple[float, int, tuple[int, ...], int]] = [(0.0, 0, (), start)]
    found: dict[int, tuple[int, ...]] = {}
    while queue:
        trip, hops, path, at = heapq.heappop(queue)
        if at in found:
            continue
        found[at] = path
        for d, (number, a, b) in enumerate(directed):
            if a == at and b not in found:
                heapq.heappush(queue, (trip + problem.links[number].round_trip, hops + 1, (*path, d), b))
    return found


def chosen(problem: Continuum, stage: int, option: Options, at: int) -> dict[str, Any]:
    """What an option decides, in words and SI numbers."""
    cadence = float(option.cadence[at])
    return {
        "tier": problem.tiers[option.tier[at]].id,
        "variant": problem.stages[stage].variants[option.variant[at]].name,
        "nodes": int(option.nodes[at]),
        "reduction": float(option.reduction[at]),
        "cadence": None if np.isnan(cadence) else cadence,
    }
