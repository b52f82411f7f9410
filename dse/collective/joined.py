"""Collectives on a network as straight lines of their size, for the cost model; kept from one run to the next.

The best time of a collective bends where one schedule takes over from another: short ways for small sizes, balanced
links for large ones. It is tabulated at a few sizes; between them, and beyond, it is the least of the straight lines
through its neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dse.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path

    from dse.collective.schedule import Schedule
    from dse.collective.topology import Floats, Topology

OWN = "synthesized"
# Bytes at which times are taken, in what a link carries during its latency; 65,536 is 1.6 GiB at 50 GiB/s and 0.5 us.
SIZES = (0.25, 16.0, 256.0, 4096.0, 65536.0)
PIECES = len(SIZES) - 1  # lines of every table
WITHOUT_LATENCY = 2.0**30  # bytes, where a network has none
VERSION = 1  # of the synthesizers: tables of another are not used


class Line(NamedTuple):
    """Time of S bytes: ``slope`` · S + ``fixed``, in seconds."""

    slope: float
    fixed: float


def lines(
    topology: Topology | str, collective: str, *, algorithm: str = OWN, members: int | None = None
) -> tuple[Line, ...]:
    """The time of a collective on a network, as the least of straight lines; that of the largest sizes first.

    Messages that wait for a link are merged, as runtimes do.

    Args:
        topology: the network, a file of one, or a shape in words.
        collective: one of ``COLLECTIVES``; a broadcast or reduce is that of the first member.
        algorithm: ``synthesized``, or one of the library.
        members: the first so many NPUs that work take part, the others pass on; None: all.

    Raises:
        SpecError: bad input, members that cannot reach each other, or an algorithm that cannot run there.
    """
    from dse.collective.files import load

    network = load(topology)
    count = len(network.members) if members is None else min(members, len(network.members))
    return _known(network.key, collective, algorithm, count) or _made(network, collective, algorithm, count)


def line_of(table: tuple[tuple[float, float], ...]) -> tuple[Line, ...]:
    """Lines through (size, time) of rising sizes, never below them: their least concave majorant.

    Always ``PIECES`` of them; the last one is repeated where fewer are needed.
    """
    points = [(float(size), float(time)) for size, time in table]
    hull: list[tuple[float, float]] = []
    for point in points:
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) < _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    if len(hull) == 1:
        return (Line(hull[0][1] / hull[0][0], 0.0),) * PIECES
    found = []
    for one, other in pairwise(hull):
        slope = max(_slope(one, other), 0.0)
        found.append(Line(slope, max(other[1] - slope * other[0], 0.0)))
    return tuple(found[::-1] + found[:1] * (PIECES - len(found)))


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])


def sizes_of(network: Topology) -> Floats:
    """Bytes at which the times on a network are taken."""
    carried = float(np.median(network.latency) * np.median(network.bandwidth)) if network.links else 0.0
    return np.array(SIZES) * carried if carried > 0 else np.array([WITHOUT_LATENCY])


@lru_cache(maxsize=32)
def schedule_of(
    network: Topology, collective: str, nbytes: float, algorithm: str, members: tuple[int, ...]
) -> Schedule:
    """The merged schedule of an algorithm, kept in this process."""
    if algorithm == OWN:
        from dse.collective import synthesize

        return synthesize(network, collective, nbytes, members=members, merge=True).schedule
    from dse.collective.library import LIBRARY
    from dse.collective.merge import merged

    return merged(LIBRARY[algorithm](network, collective, nbytes, members=members))


def _made(network: Topology, collective: str, algorithm: str, count: int) -> tuple[Line, ...]:
    if count < 2:
        return (Line(0.0, 0.0),) * PIECES
    who = tuple(network.members[:count].tolist())
    sizes = sizes_of(network).tolist()
    found = line_of(tuple((s, schedule_of(network, collective, s, algorithm, who).time) for s in sizes))
    _keep(network.key, collective, algorithm, count, found)
    return found


def over_sizes(
    topology: Topology | str, collective: str, sizes: Sequence[float], *, merge: bool = True
) -> list[dict[str, Any]]:
    """Time of the synthesized schedule and of every known algorithm at some sizes.

    Returns rows, as :mod:`dse.view.collective_times` draws them: size (bytes), algorithm, time and bound (seconds).
    """
    from dse.collective.files import load
    from dse.collective.synthesis import compared

    network, rows = load(topology), []
    for size in sizes:
        for row in compared(network, collective, size, merge=merge):
            time = row["time_us"] * 1e-6
            rows.append({"size": size, "algorithm": row["algorithm"], "time": time, "bound": time / row["ratio"]})
    return rows


# -- tables kept on disk ------------------------------------------------------------------------------------


def _place(key: str, collective: str, algorithm: str, count: int) -> Path | None:
    """The file of a table, by what decides it; None where ``DSE_CACHE`` is off."""
    from dse.explore.search.cache import location

    answers = location()
    if answers is None:
        return None
    return answers.parent / "collectives" / f"{key}-{collective}-{algorithm}-{count}-v{VERSION}.json"


def _known(key: str, collective: str, algorithm: str, count: int) -> tuple[Line, ...] | None:
    """The table, if there is one that can be read."""
    path = _place(key, collective, algorithm, count)
    if path is None or not path.is_file():
        return None
    try:
        found = tuple(Line(float(slope), float(fixed)) for slope, fixed in json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    whole = len(found) == PIECES and all(np.isfinite(line).all() and min(line) >= 0 for line in found)
    return found if whole else None


def _keep(key: str, collective: str, algorithm: str, count: int, found: tuple[Line, ...]) -> None:
    """Write a table; where that cannot be done it is made again the next time."""
    from dse.errors import StudyError
    from dse.study.export import write_atomically

    path = _place(key, collective, algorithm, count)
    if path is None:
        return
    try:
        write_atomically(path, lambda temporary: temporary.write_text(json.dumps(found), "utf-8") and None)
    except StudyError:
        return


# -- regular dimensions of the cost model ---------------------------------------------------------------------


def unit_network(topology: str, n: int, bidirectional: bool) -> Topology:
    """A dimension of ``n`` devices that send 1 byte/s each, with a latency of 1 s a step."""
    from dse.collective import shapes

    if topology == "mesh":
        return shapes.line(n, 0.5, 1.0)
    if topology == "fully_connected":
        return shapes.fully_connected(n, 1.0 / (n - 1), 1.0)
    if topology == "switch":  # up and down again
        return shapes.switch(n, 1.0, 0.5)
    both = bidirectional and n > 2
    return shapes.ring(n, 0.5 if both else 1.0, 1.0, directions=2 if both or n == 2 else 1)


@lru_cache(maxsize=4096)
def unit_lines(topology: str, n: int, bidirectional: bool, collective: str) -> tuple[Line, ...]:
    """Load and steps of a synthesized collective in a dimension, by size: (load, steps), large sizes first."""
    if n < 2:
        return (Line(0.0, 0.0),) * PIECES
    return lines(unit_network(topology, n, bidirectional), collective)


@lru_cache(maxsize=4096)
def graph_lines(graph: str, n: int, collective: str, algorithm: str) -> tuple[Line, ...]:
    """Lines of a collective among the first ``n`` NPUs of a network given in words or as a file."""
    from dse.collective.files import load

    network = load(graph)
    working = len(network.members)
    if n > working:
        from dse.errors import Fault

        rule = f"holds {working} NPUs that work, and {n} are needed"
        raise SpecError([Fault("cluster.network.dimensions.graph", graph[:80], rule)])
    return lines(network, collective, algorithm=algorithm, members=n)
