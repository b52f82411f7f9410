"""What memories hold over time, and where that is more than fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dse.simulate.memory import tier_of
from dse.simulate.prepare import moves
from dse.trace.schema import Kind
from dse.units import engineering

if TYPE_CHECKING:
    from dse.simulate.result import Simulation


@dataclass(frozen=True)
class Overflow:
    """A memory that holds more than fits: the tier, the first rank that shares it, when first (s), and bytes."""

    tier: str
    rank: int
    when: float
    held: float
    capacity: float

    def __str__(self) -> str:
        held, capacity = engineering(self.held, "B"), engineering(self.capacity, "B")
        at = engineering(self.when, "s")
        return f"memory {self.tier!r} of rank {self.rank} holds up to {held} of {capacity}, too much from {at} on"


def occupancy(simulation: Simulation) -> Any:
    """Bytes that each memory holds over time, as a table: ``tier``, ``rank`` (the first that shares it), ``when``,
    ``bytes``, ``capacity``. Memories that are alike are there once.

    A store adds its bytes when it begins; a load takes its bytes out when it has ended, as far as the rank has stored
    any before (what it loads beyond that was there from the start: ``held`` of the tier).
    """
    import pandas as pd

    problem = simulation.problem
    system, ranks = problem.system, problem.layout.ranks
    changes = [_changes(simulation, actor) for actor in range(len(problem.rank))]
    rows = []
    for index, tier in enumerate(system.tiers):
        shared = min(tier.shared_by or ranks, ranks)
        seen = set()
        for first in range(0, ranks, shared):
            actors, times = np.unique(problem.actor_of[first : first + shared], return_counts=True)
            if (actors.tobytes(), times.tobytes()) in seen:
                continue
            seen.add((actors.tobytes(), times.tobytes()))
            when, size = _sum([changes[a][index] for a in actors], times)
            for at, held in zip(np.append(0.0, when), np.append(0.0, np.cumsum(size)) + tier.held, strict=True):
                rows.append((tier.name, first, float(at), float(held), tier.capacity))
    return pd.DataFrame(rows, columns=["tier", "rank", "when", "bytes", "capacity"])


def overflows(simulation: Simulation) -> tuple[Overflow, ...]:
    """Memories that hold more than their capacity at some time."""
    table = occupancy(simulation)
    found = []
    for (tier, rank), rows in table.groupby(["tier", "rank"], sort=False):
        over = rows[rows["bytes"] > rows["capacity"]]
        if len(over):
            first = over.iloc[0]
            found.append(Overflow(tier, int(rank), first["when"], float(over["bytes"].max()), first["capacity"]))
    return tuple(found)


Changes = tuple[NDArray[np.float64], NDArray[np.float64]]  # when, and bytes more or less


def _changes(simulation: Simulation, actor: int) -> list[Changes]:
    """Of each tier: what an actor adds to it and takes out."""
    problem = simulation.problem
    program = problem.layout.programs[problem.layout.program[problem.rank[actor]]]
    rows = np.flatnonzero(moves(program))
    nodes = problem.base[actor] + rows
    store = program.trace.kind[rows] == Kind.MEM_STORE
    when = np.where(store, simulation.begin[nodes], simulation.end[nodes])
    size = np.where(store, program.trace.bytes[rows], -program.trace.bytes[rows])
    tier = tier_of(program, rows, problem.system) if problem.system.tiers else rows
    found = []
    for index in range(len(problem.system.tiers)):
        order = np.flatnonzero(tier == index)
        order = order[np.argsort(when[order], kind="stable")]
        # Never less than nothing: the sum, raised by the least it has been below zero.
        total = np.cumsum(size[order])
        held = total - np.minimum(np.minimum.accumulate(total), 0.0) if len(order) else total
        found.append((when[order], np.diff(held, prepend=0.0)))
    return found


def _sum(changes: list[Changes], times: NDArray[np.int64]) -> Changes:
    when = np.concatenate([when for when, _ in changes])
    size = np.concatenate([size * n for (_, size), n in zip(changes, times, strict=True)])
    at, place = np.unique(when, return_inverse=True)
    return at, np.bincount(place, weights=size, minlength=len(at)) if len(at) else size
