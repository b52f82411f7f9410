"""Time turned round: what gathers and hands out becomes what adds up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dse.collective.schedule import Chunks, Schedule
from dse.collective.topology import Topology
from dse.errors import Fault, SpecError

OTHER = {"all_gather": "reduce_scatter", "reduce_scatter": "all_gather", "broadcast": "reduce", "reduce": "broadcast"}


def reversed_schedule(schedule: Schedule, topology: Topology) -> Schedule:
    """The other collective of its pair on ``topology``, whose links are those of the schedule turned round.

    All-gather and reduce-scatter are a pair, and broadcast and reduce are: where one copies, the other adds.

    Raises:
        SpecError: another collective.
    """
    if schedule.collective not in OTHER:
        rule = f"must be one of {', '.join(OTHER)} to be reversed"
        raise SpecError([Fault("collective", schedule.collective, rule)])
    time = schedule.time
    chunks = schedule.chunks
    adds = schedule.collective in ("all_gather", "broadcast")
    ahead = _passed_on(schedule)
    behind = np.full(schedule.transfers, -1, np.int32)
    on = np.flatnonzero(ahead >= 0)
    behind[ahead[on]] = on
    order = np.argsort(schedule.end, kind="stable")[::-1]
    place = np.empty(schedule.transfers, np.int32)
    place[order] = np.arange(schedule.transfers, dtype=np.int32)
    passes = np.where(behind[order] >= 0, place[behind[order]], -1).astype(np.int32)
    link = schedule.link[order]
    return replace(
        schedule,
        topology=topology,
        collective=OTHER[schedule.collective],
        chunks=Chunks(chunks.offset, chunks.size, chunks.target, chunks.origin),
        chunk=schedule.chunk[order],
        link=link,
        start=np.maximum(time - schedule.end[order], 0.0),
        end=time - schedule.start[order],
        reduce=(topology.dst[link] < topology.npus) if adds else np.zeros(schedule.transfers, bool),
        message=None if schedule.message is None else schedule.message[order],
        passes=passes if (passes >= 0).any() else None,
    )


def _passed_on(schedule: Schedule) -> NDArray[np.int64]:
    """Transfer into a switch that each one out of it passes on, -1 elsewhere; first in, first out where not given."""
    if schedule.passes is not None:
        return schedule.passes.astype(np.int64)
    ahead = np.full(schedule.transfers, -1)
    topology = schedule.topology
    if topology.nodes == topology.npus:
        return ahead
    into = np.flatnonzero(schedule.destination >= topology.npus)
    away = np.flatnonzero(schedule.source >= topology.npus)
    into = into[np.lexsort((schedule.end[into], schedule.destination[into], schedule.chunk[into]))]
    away = away[np.lexsort((schedule.start[away], schedule.source[away], schedule.chunk[away]))]
    ahead[away] = into
    return ahead
