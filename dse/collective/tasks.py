"""Transfers that wait for each other, put on links in time: what every maker of schedules ends with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dse.collective.topology import Floats, Ints
from dse.jit import njit


class Tasks(NamedTuple):
    """Transfers without times, [tasks].

    Attributes:
        chunk, link: what goes where.
        reduce: whether the destination adds it to what it holds.
        waits: how many tasks must have ended before it may start.
        next_ptr, next: the tasks that wait for it, those of task i are next[next_ptr[i]:next_ptr[i + 1]].
    """

    chunk: Ints
    link: Ints
    reduce: np.ndarray
    waits: Ints
    next_ptr: Ints
    next: Ints


def list_schedule(
    link: Ints, duration: Floats, waits: Ints, next_ptr: Ints, following: Ints, priority: Floats, links: int
) -> Floats:
    """Start times [tasks]: a free link takes the ready task of least priority number, and never idles while one waits.

    ``link`` and ``duration`` [tasks]; ``priority`` [tasks]: the earlier task goes first where they are equal. A task
    that never becomes ready starts at NaN.
    """
    order = np.argsort(priority, kind="stable").astype(np.int32)
    return run(order, link, duration, waits, next_ptr, following, links)


@njit(cache=True)
def run(order, link, duration, waits, next_ptr, following, links):
    """:func:`list_schedule` with the tasks in ``order`` of priority, [tasks] int32."""
    count = len(link)
    rank = np.empty(count, np.int32)
    for i in range(count):
        rank[order[i]] = i
    start = np.full(count, np.nan)
    left = waits.astype(np.int32)
    # One heap of ready tasks' ranks for each link, in one array: a link's part has room for all of its tasks.
    base = np.zeros(links + 1, np.int64)
    for i in range(count):
        base[link[i] + 1] += 1
    for e in range(links):
        base[e + 1] += base[e]
    ready = np.empty(count, np.int32)
    size = np.zeros(links, np.int32)
    # Links that are busy, by the end of their task.
    when, what = np.empty(links), np.empty(links, np.int32)
    current = np.full(links, -1, np.int32)
    running = 0
    touched, marked = np.empty(links, np.int32), np.zeros(links, np.bool_)
    touches = 0
    now = 0.0
    for i in range(count):
        if left[i] == 0:
            touches = _offer(ready, base, size, link[i], rank[i], touched, marked, touches)
    while True:
        for k in range(touches):
            e = touched[k]
            marked[e] = False
            if current[e] < 0 and size[e] > 0:
                i = order[_take(ready, base[e], size, e)]
                start[i] = now
                current[e] = i
                _enter(when, what, running, now + duration[i], e)
                running += 1
        touches = 0
        if running == 0:
            return start
        now = when[0]
        while running > 0 and when[0] <= now:
            e = what[0]
            running -= 1
            _leave(when, what, running)
            i = current[e]
            current[e] = -1
            if not marked[e]:
                marked[e] = True
                touched[touches] = e
                touches += 1
            for k in range(next_ptr[i], next_ptr[i + 1]):
                j = following[k]
                left[j] -= 1
                if left[j] == 0:
                    touches = _offer(ready, base, size, link[j], rank[j], touched, marked, touches)


@njit(cache=True)
def _offer(ready, base, size, e, key, touched, marked, touches):
    """Put a rank on link e's heap and note that the link has something to look at."""
    first, at = base[e], size[e]
    size[e] += 1
    while at > 0:
        up = (at - 1) >> 1
        if ready[first + up] <= key:
            break
        ready[first + at] = ready[first + up]
        at = up
    ready[first + at] = key
    if not marked[e]:
        marked[e] = True
        touched[touches] = e
        touches += 1
    return touches


@njit(cache=True)
def _take(ready, first, size, e):
    """Least rank of link e's heap, which it leaves."""
    least = ready[first]
    size[e] -= 1
    count = size[e]
    if count > 0:
        key = ready[first + count]
        at = 0
        while True:
            low = 2 * at + 1
            if low >= count:
                break
            if low + 1 < count and ready[first + low + 1] < ready[first + low]:
                low += 1
            if ready[first + low] >= key:
                break
            ready[first + at] = ready[first + low]
            at = low
        ready[first + at] = key
    return least


@njit(cache=True)
def _enter(when, what, count, end, e):
    """Put a link on the heap of ends, which holds ``count``."""
    at = count
    while at > 0:
        up = (at - 1) >> 1
        if when[up] <= end:
            break
        when[at], what[at] = when[up], what[up]
        at = up
    when[at], what[at] = end, e


@njit(cache=True)
def _leave(when, what, count):
    """Take the first off a heap that now holds ``count`` more."""
    if count == 0:
        return
    end, e = when[count], what[count]
    at = 0
    while True:
        low = 2 * at + 1
        if low >= count:
            break
        if low + 1 < count and when[low + 1] < when[low]:
            low += 1
        if when[low] >= end:
            break
        when[at], what[at] = when[low], what[low]
        at = low
    when[at], what[at] = end, e


def successors(before: Ints, after: Ints, tasks: int) -> tuple[Ints, Ints, Ints]:
    """``waits``, ``next_ptr`` and ``next`` of pairs (before[i] must end before after[i] starts)."""
    order = np.argsort(before, kind="stable")
    waits = np.bincount(after, minlength=tasks)
    next_ptr = np.concatenate([[0], np.cumsum(np.bincount(before, minlength=tasks))])
    return waits, next_ptr, np.asarray(after, np.int64)[order]


def seconds(latency: Floats, bandwidth: Floats, link: Ints, size: Floats) -> Floats:
    """Time each task's link is busy with it, [tasks]."""
    return latency[link] + size / bandwidth[link]
