"""Synthesized collectives, and collectives on graphs, as parts of a dimension: load and steps from tables.

The tables of :mod:`dse.collective.joined` are made when a design first asks for them and kept on disk. They are by
network, collective and number of ranks, which takes few values, so that whole design spaces stay arrays.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dse.cost.algorithms import AUTOMATIC, REGISTRY
from dse.cost.arrays import Array, select, values_of

PIECES = 4  # lines of a table, as dse.collective.joined has them
OWN = "synthesized"
MOST = 64  # ranks for which schedules are made; more are as far from the usual algorithm as these


def is_synthesized(dimension: Any) -> bool:
    """Whether some designs take schedules that are made for this dimension."""
    return OWN in values_of(dimension.algorithm) or any(values_of(dimension.graph))


def synthesized(kind: str, part: Any, n: Array, piece: int) -> Any:
    """A dimension's part, with synthesized schedules where its algorithm says so.

    Args:
        part: of the dimension's usual algorithm.
        n: ranks; a number that is not whole counts as the next one.
        piece: of the curve of times: 0 for large sizes, up to ``PIECES`` - 1 for small ones.
    """
    dimension = part.dimension
    own = np.logical_and(np.equal(dimension.algorithm, OWN), np.equal(dimension.graph, ""))
    if np.any(own):
        loads, steps = {}, {}
        for topology in values_of(dimension.topology):
            loads[topology], steps[topology] = _unit(kind, topology, dimension.bidirectional, n, piece)
        load, step = (select(dimension.topology, table) for table in (loads, steps))
        # A switch that adds does so in its own way: the quicker of the two is taken.
        own = np.logical_and(own, np.logical_or(np.logical_not(part.reduced), np.less(load, part.work)))
        load, work, step = (np.where(own, a, b) for a, b in zip((load, load, step), part[1:4], strict=True))
        part = part._replace(load=load, work=work, steps=step, reduced=np.logical_and(part.reduced, ~own))
    return on_graph(kind, part, n, piece)


def on_graph(kind: str, part: Any, n: Array, piece: int) -> Any:
    """A dimension's part, with the schedules of its graph where it has one."""
    dimension = part.dimension
    if not any(values_of(dimension.graph)):
        return part
    from dse.collective.joined import graph_lines

    slopes, delays = {}, {}
    for graph in filter(None, values_of(dimension.graph)):
        names = values_of(dimension.algorithm)
        found = {a: _by_ranks(lambda k, a=a, g=graph: graph_lines(g, k, kind, _name(a))[piece], n) for a in names}
        for place, table in enumerate((slopes, delays)):
            table[graph] = select(dimension.algorithm, {name: pair[place] for name, pair in found.items()})
    has = np.not_equal(dimension.graph, "")
    slopes[""] = delays[""] = 0.0
    load = np.where(has, select(dimension.graph, slopes) * dimension.bandwidth, part.load)
    work = np.where(has, load, part.work)
    steps, delay = np.where(has, 0.0, part.steps), select(dimension.graph, delays)
    return part._replace(load=load, work=work, steps=steps, seconds=delay, reduced=np.logical_and(part.reduced, ~has))


def _name(algorithm: str) -> str:
    return OWN if algorithm == "auto" else algorithm


def _unit(kind: str, topology: str, bidirectional: Array, n: Array, piece: int) -> tuple[Array, Array]:
    """Load and steps on a regular dimension."""
    from dse.collective.joined import unit_lines

    def at(ranks: int, both: bool) -> tuple[float, float]:
        few = min(ranks, MOST)
        line = unit_lines(topology, few, both, kind)[piece]
        usual = REGISTRY[kind][AUTOMATIC[topology]]
        grown = [float(a) / float(b) if b else 1.0 for a, b in zip(usual(float(ranks)), usual(float(few)), strict=True)]
        return line.slope * grown[0], line.fixed * grown[1]

    found = {both: _by_ranks(lambda k, both=both: at(k, bool(both)), n) for both in values_of(bidirectional)}
    return tuple(select(bidirectional, {both: pair[i] for both, pair in found.items()}) for i in (0, 1))


def _by_ranks(find: Any, n: Array) -> tuple[Array, Array]:
    """Two numbers for each number of ranks."""
    known = {value: find(math.ceil(value - 1e-9)) for value in values_of(n)}
    return tuple(select(n, {value: pair[i] for value, pair in known.items()}) for i in (0, 1))
