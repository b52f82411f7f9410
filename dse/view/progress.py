"""What a schedule has done by when: use of links, and the share of its result that an NPU has."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dse.collective.schedule import Schedule

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Trips(NamedTuple):
    """Messages on links, [messages] each; ``chunks`` is how many travel together, ``first`` one of their transfers."""

    link: Ints
    start: Floats
    end: Floats
    chunks: Ints
    first: Ints


def trips(schedule: Schedule) -> Trips:
    """The messages of a schedule: a transfer each, or all that travel together."""
    link = schedule.link.astype(np.int64)
    if schedule.message is None:
        alone = np.arange(schedule.transfers)
        return Trips(link, schedule.start, schedule.end, np.ones_like(alone), alone)
    key = np.stack([link, schedule.message.astype(np.int64)])
    _, first, count = np.unique(key, axis=1, return_index=True, return_counts=True)
    return Trips(link[first], schedule.start[first], schedule.end[first], count, first)


def use(schedule: Schedule, bins: int = 1, rows: Ints | None = None) -> Floats:
    """Share of each stretch of time in which links are busy, [rows, bins].

    Args:
        bins: equal stretches from 0 to the end.
        rows: the row of each link, of which means are given; by default each link has its own.
    """
    of = np.arange(schedule.topology.links) if rows is None else rows
    count = np.bincount(of, minlength=1)
    if not schedule.time > 0:
        return np.zeros((len(count), bins))
    found = trips(schedule)
    edges = np.linspace(0, schedule.time, bins + 1)
    busy = _ramps(of[found.link], found.start, edges, len(count)) - _ramps(of[found.link], found.end, edges, len(count))
    return np.diff(busy, axis=1) / (schedule.time / bins) / np.maximum(count, 1)[:, None]


def _ramps(row: Ints, since: Floats, edges: Floats, rows: int) -> Floats:
    """Sum over events of the time since each, at every edge, [rows, edges]."""
    slot = np.minimum(np.searchsorted(edges, since, side="left"), len(edges) - 1)
    number, total = np.zeros((2, rows, len(edges)))
    np.add.at(number, (row, slot), 1.0)
    np.add.at(total, (row, slot), since)
    return edges * np.cumsum(number, 1) - np.cumsum(total, 1)


def completed(schedule: Schedule, times: Floats) -> Floats:
    """Share of its result that each NPU has at each time, [NPUs, times]; NaN: it gets none.

    A chunk is there when the last transfer of it to an NPU has ended.
    """
    npus, chunks = schedule.topology.npus, schedule.chunks
    last = np.zeros((npus, len(chunks.size)))
    to = schedule.destination
    inside = to < npus
    np.maximum.at(last, (to[inside], schedule.chunk[inside]), schedule.end[inside])
    needs = np.zeros(last.shape, bool)
    everyone = chunks.target < 0
    needs[np.ix_(schedule.members, everyone)] = True
    single = np.flatnonzero(~everyone)
    needs[chunks.target[single], single] = True
    size = np.where(needs, chunks.size, 0.0)
    whole = size.sum(1)
    with np.errstate(invalid="ignore"):
        have = np.stack([np.where(last <= t, size, 0.0).sum(1) for t in times], 1)
        return np.where(whole[:, None] > 0, have / whole[:, None], np.nan)
