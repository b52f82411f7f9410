"""Which transfers wait for which, by the data they carry, and when they then run."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dse.collective.tasks import list_schedule, successors
from dse.collective.topology import Floats, Ints
from dse.jit import njit


class Precedence(NamedTuple):
    """Task ``before[i]`` must have ended before ``after[i]`` starts; tasks from ``tasks`` on are joins.

    A join takes no time: many tasks that wait for the same many others wait for it instead.
    """

    before: Ints
    after: Ints
    tasks: int
    joins: int


def by_data(
    arrival: tuple[NDArray, NDArray, NDArray], departure: tuple[NDArray, NDArray, NDArray], tasks: int
) -> Precedence:
    """Every departure waits for the arrivals of the same place that are not after it.

    ``arrival`` and ``departure``: (place, time, task), [entries] each; a place is a chunk at a node, a time any number.
    """
    sorts = [np.lexsort((at, place)) for place, at, _ in (arrival, departure)]
    place_in, at_in, task_in = (column[sorts[0]] for column in arrival)
    place_out, at_out, task_out = (column[sorts[1]] for column in departure)
    at_in, at_out = np.asarray(at_in, float), np.asarray(at_out, float)
    edges, joins = _edges(place_in, at_in, task_in, place_out, at_out, task_out, tasks)
    return Precedence(edges[0], edges[1], tasks, joins)


def start_times(link: Ints, duration: Floats, order: Precedence, priority: Floats, links: int) -> Floats:
    """List-schedule tasks, [tasks] each; least ``priority`` number first. Returns their starts."""
    tasks, joins = order.tasks, order.joins
    waits, ptr, following = successors(order.before, order.after, tasks + joins)
    if joins:  # on a link of their own, each in no time
        link = np.concatenate([link, np.full(joins, links)])
        duration = np.concatenate([duration, np.zeros(joins)])
        priority = np.concatenate([priority, np.zeros(joins)])
    link, duration, priority = np.asarray(link, np.int64), np.asarray(duration, float), np.asarray(priority, float)
    return list_schedule(link, duration, waits, ptr, following, priority, links + 1)[:tasks]


def tails(duration: Floats, order: Precedence) -> Floats:
    """Longest chain of durations from the start of each task to the end of everything, [tasks]."""
    total = order.tasks + order.joins
    spans = np.concatenate([duration, np.zeros(order.joins)])
    waits, ptr, following = successors(order.before, order.after, total)
    return _tails(spans, waits, ptr, following)[: order.tasks]


def ranges(starts: Ints, counts: Ints) -> Ints:
    """starts[0], starts[0] + 1, ... counts[0] numbers, then those of the next, in one array."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(np.asarray(starts) - (ends - counts), counts)


@njit(cache=True)
def _edges(place_in, at_in, task_in, place_out, at_out, task_out, tasks):
    """Two passes over both sorted lists: count, then write."""
    edges = np.empty((2, 0), np.int64)
    joins = 0
    for writing in range(2):
        count = 0
        joins = 0
        i = 0
        j = 0
        while j < len(place_out):
            place = place_out[j]
            while i < len(place_in) and place_in[i] < place:
                i += 1
            stop = j
            known = i
            direct = 0
            while stop < len(place_out) and place_out[stop] == place:
                while known < len(place_in) and place_in[known] == place and at_in[known] <= at_out[stop]:
                    known += 1
                direct += known - i
                stop += 1
            joined = direct > 2 * (known - i + stop - j) + 8
            seen = i  # arrivals that the last join stands for
            last = -1
            upto = i
            for d in range(j, stop):
                while upto < known and at_in[upto] <= at_out[d]:
                    upto += 1
                if not joined:
                    for a in range(i, upto):
                        if writing:
                            edges[0, count], edges[1, count] = task_in[a], task_out[d]
                        count += 1
                    continue
                if upto > seen:
                    join = tasks + joins
                    joins += 1
                    for a in range(seen, upto):
                        if writing:
                            edges[0, count], edges[1, count] = task_in[a], join
                        count += 1
                    if last >= 0:
                        if writing:
                            edges[0, count], edges[1, count] = last, join
                        count += 1
                    last = join
                    seen = upto
                if last >= 0:
                    if writing:
                        edges[0, count], edges[1, count] = last, task_out[d]
                    count += 1
            j = stop
        if not writing:
            edges = np.empty((2, count), np.int64)
    return edges, joins


@njit(cache=True)
def _tails(duration, waits, ptr, following):
    """Longest remaining chains, from the last of a topological order back."""
    count = len(duration)
    left = waits.copy()
    order = np.empty(count, np.int64)
    found = 0
    for i in range(count):
        if left[i] == 0:
            order[found] = i
            found += 1
    at = 0
    while at < found:
        i = order[at]
        at += 1
        for k in range(ptr[i], ptr[i + 1]):
            j = following[k]
            left[j] -= 1
            if left[j] == 0:
                order[found] = j
                found += 1
    tail = duration.copy()
    for at in range(found - 1, -1, -1):
        i = order[at]
        longest = 0.0
        for k in range(ptr[i], ptr[i + 1]):
            longest = max(longest, tail[following[k]])
        tail[i] += longest
    return tail
