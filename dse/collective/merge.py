"""Transfers that wait for the same link, sent as one message; and the tasks of any schedule, to schedule them anew."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dse.collective.heaps import push, put, sift, take
from dse.collective.precedence import Precedence, by_data, tails
from dse.collective.schedule import Schedule
from dse.collective.tasks import successors
from dse.collective.topology import Floats, Ints
from dse.jit import njit

REDUCING = ("all_reduce", "reduce_scatter", "reduce")
NEGLIGIBLE = 0.005  # share of latency in the link times below which merging is not tried


class Flow(NamedTuple):
    """The tasks of a schedule, without times.

    Attributes:
        task: of each transfer, [transfers]; transfers of one message are one task.
        link, size: of each task, [tasks]; bytes.
        order: which task waits for which.
        passes: transfer whose load each one passes on, -1 for none, [transfers]. What leaves a switch passes on what
            came in, first in, first out.
    """

    task: Ints
    link: Ints
    size: Floats
    order: Precedence
    passes: Ints


def tasks_of(schedule: Schedule, split: bool = False) -> Flow:
    """The tasks of a schedule and which of them wait for which.

    A transfer waits for what had arrived at its source, of the same chunk, when it started; with plain copies for the
    first of them. ``split``: every transfer is a task of its own even where several travelled as one message.
    """
    count = schedule.transfers
    if schedule.message is None or split:
        task = np.arange(count)
    else:
        task = np.unique(schedule.message, return_inverse=True)[1].astype(np.int64)
    tasks = int(task.max(initial=-1)) + 1
    link = np.zeros(tasks, np.int64)
    link[task] = schedule.link
    size = np.bincount(task, schedule.chunks.size[schedule.chunk], minlength=tasks)
    passes, stored = _passes(schedule)
    place_in, place_out = _places(schedule)
    at_in, at_out = schedule.end, schedule.start + _slack(schedule)
    if schedule.collective not in REDUCING:
        first = np.flatnonzero(stored)
        first = first[np.lexsort((at_in[first], place_in[first]))]
        first = first[np.append(True, np.diff(place_in[first]) > 0)[: len(first)]]
    else:
        first = np.flatnonzero(stored)
    own = np.flatnonzero(passes < 0)
    relay = np.flatnonzero(passes >= 0)
    arrival = (place_in[first], at_in[first], task[first])
    order = by_data(arrival, (place_out[own], at_out[own], task[own]), tasks)
    before, after = task[passes[relay]], task[relay]
    order = order._replace(before=np.append(order.before, before), after=np.append(order.after, after))
    return Flow(task, link, size, order, passes)


def timed(
    schedule: Schedule, flow: Flow, start: Floats, end: Floats, message: NDArray | None = None
) -> Schedule | None:
    """The schedule with new times, [tasks]; None where a sum would no longer be of the same parts."""
    passes = schedule.passes
    if passes is None and schedule.collective in REDUCING and (flow.passes >= 0).any():
        passes = flow.passes.astype(np.int32)
    if message is None:
        message = schedule.message
    new = replace(schedule, start=start[flow.task], end=end[flow.task], message=message, passes=passes)
    if schedule.collective in REDUCING and (_heard(schedule, flow) != _heard(new, flow)).any():
        return None
    return new


def merged(schedule: Schedule) -> Schedule:
    """What waits for a link leaves together, at the price of one latency; never slower than ``schedule``.

    A free link takes what is ready, up to a number of transfers, those before the longest remaining way first. Several
    such numbers are tried and the quickest schedule is returned, which may be ``schedule`` itself.
    """
    if not schedule.transfers:
        return schedule
    flow = tasks_of(schedule, split=True)
    topology, order = schedule.topology, flow.order
    wire = flow.size / topology.bandwidth[flow.link]
    latency = topology.latency[flow.link]
    if latency.sum() <= NEGLIGIBLE * wire.sum():
        return schedule
    waits, ptr, following = successors(order.before, order.after, order.tasks + order.joins)
    priority = -tails(latency + wire, order)
    best = schedule
    most = int(np.bincount(flow.link).max())
    limit = most
    misses = 0
    while limit > 1 and misses < 3:
        start, end, message = _batched(
            flow.link, wire, topology.latency, waits, ptr, following, priority, topology.links, limit
        )
        new = timed(schedule, flow, start, end, message.astype(np.int32))
        if new is not None and new.time < best.time * (1 - 1e-12):
            best, misses = new, 0
        else:
            misses += best is not schedule
        limit = min(limit // 2, 1 << (limit.bit_length() - 2)) if limit <= 256 else limit // 4
    return best


def _places(schedule: Schedule) -> tuple[Ints, Ints]:
    """Chunk and node at which each transfer arrives and from which it leaves, as one number each."""
    chunk = schedule.chunk.astype(np.int64) * schedule.topology.nodes
    return chunk + schedule.destination, chunk + schedule.source


def _slack(schedule: Schedule) -> float:
    """Seconds by which times may be rounded."""
    return float((schedule.end - schedule.start).min()) * 1e-6 if schedule.transfers else 0.0


def _passes(schedule: Schedule) -> tuple[Ints, NDArray[np.bool_]]:
    """What each transfer passes on, and whether the destination keeps what arrives, [transfers]."""
    count, npus = schedule.transfers, schedule.topology.npus
    passes = np.full(count, -1) if schedule.passes is None else schedule.passes.astype(np.int64)
    place_in, place_out = _places(schedule)
    taken = np.zeros(count, bool)
    taken[passes[passes >= 0]] = True
    into = np.flatnonzero((schedule.destination >= npus) & ~taken)
    out = np.flatnonzero((schedule.source >= npus) & (passes < 0))
    if out.size:
        into = into[np.lexsort((schedule.end[into], place_in[into]))]
        out = out[np.lexsort((schedule.start[out], place_out[out]))]
        rank_out = np.arange(len(out)) - np.searchsorted(place_out[out], place_out[out])
        at = np.searchsorted(place_in[into], place_out[out]) + rank_out
        passes[out] = into[at]
        taken[passes[out]] = True
    return passes, ~taken


def _heard(schedule: Schedule, flow: Flow) -> Ints:
    """How many arrivals had been added to what each transfer carries, [transfers]."""
    taken = np.zeros(schedule.transfers, bool)
    taken[flow.passes[flow.passes >= 0]] = True
    kept, own = np.flatnonzero(~taken), np.flatnonzero(flow.passes < 0)
    place_in, place_out = _places(schedule)
    place = np.append(place_in[kept], place_out[own])
    time = np.append(schedule.end[kept], schedule.start[own] + _slack(schedule))
    order = np.lexsort((time, place))
    arrived = np.cumsum(order < len(kept))
    first = np.append(True, np.diff(place[order]) != 0)
    before = np.where(first, arrived - (order < len(kept)), 0)
    count = arrived - np.maximum.accumulate(before)
    heard = np.zeros(schedule.transfers, np.int64)
    departs = order >= len(kept)
    heard[own[order[departs] - len(kept)]] = count[departs]
    return heard


@njit(cache=True)
def _batched(link, wire, latency, waits, ptr, following, priority, links, limit):
    """List scheduling in which a free link takes up to ``limit`` ready tasks as one message.

    Tasks beyond ``link`` are joins. Returns start, end and message, [tasks].
    """
    tasks = len(link)
    start, end = np.full(tasks, np.nan), np.full(tasks, np.nan)
    message = np.full(tasks, -1)
    messages = 0
    left = waits.copy()
    base = np.zeros(links + 1, np.int64)
    for i in range(tasks):
        base[link[i] + 1] += 1
    for e in range(links):
        base[e + 1] += base[e]
    heap = np.empty(tasks, np.int64)
    size = np.zeros(links, np.int64)
    mate = np.full(tasks, -1)  # next task of the same message
    head = np.full(links, -1)  # first task of the message on the link
    done = np.full(links + 1, np.inf)  # when the link's message ends
    when = np.empty(links + 1)
    what = np.empty(links + 1, np.int64)
    running = 0
    marked = np.zeros(links, np.bool_)
    touched = np.empty(links, np.int64)
    touches = 0
    stack = np.empty(len(waits) + 1, np.int64)
    depth = 0
    for i in range(len(waits)):
        if left[i] == 0:
            stack[depth] = i
            depth += 1
    now = 0.0
    while True:
        while depth > 0:  # released tasks; joins release others at once
            depth -= 1
            i = stack[depth]
            if i >= tasks:
                for k in range(ptr[i], ptr[i + 1]):
                    j = following[k]
                    left[j] -= 1
                    if left[j] == 0:
                        stack[depth] = j
                        depth += 1
                continue
            e = link[i]
            push(heap, base[e], size[e], priority, i)
            size[e] += 1
            if not marked[e]:
                marked[e] = True
                touched[touches] = e
                touches += 1
        for k in range(touches):
            e = touched[k]
            marked[e] = False
            if head[e] >= 0 or size[e] == 0:
                continue
            busy = latency[e]
            for _ in range(min(limit, size[e])):
                i = heap[base[e]]
                size[e] -= 1
                sift(heap, base[e], size[e], priority)
                busy += wire[i]
                mate[i] = head[e]
                head[e] = i
            done[e] = now + busy
            i = head[e]
            while i >= 0:
                start[i], end[i], message[i] = now, done[e], messages
                i = mate[i]
            messages += 1
            put(when, what, running, done[e], e)
            running += 1
        touches = 0
        if running == 0:
            return start, end, message
        now = when[0]
        while running > 0 and when[0] <= now:
            e = what[0]
            running -= 1
            take(when, what, running)
            if not marked[e]:
                marked[e] = True
                touched[touches] = e
                touches += 1
            i = head[e]
            head[e] = -1
            while i >= 0:
                for k in range(ptr[i], ptr[i + 1]):
                    j = following[k]
                    left[j] -= 1
                    if left[j] == 0:
                        stack[depth] = j
                        depth += 1
                i = mate[i]
