"""Transfers that wait for each other, put on links in time: what every maker of schedules ends with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dse.collective.topology import Floats, Ints


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


@njit(cache=True)
def list_schedule(link, duration, waits, next_ptr, following, priority, links):
    """Start times [tasks]: a free link takes the ready task of least priority number, and never idles while one waits.

    ``link`` and ``duration`` [tasks]; ``priority`` [tasks], floats. A task that never becomes ready starts at NaN.
    """
    count = len(link)
    start = np.full(count, np.nan)
    left = waits.copy()
    # One heap of ready tasks for each link, in one array: a link's part has room for all of its tasks.
    base = np.zeros(links + 1, np.int64)
    for i in range(count):
        base[link[i] + 1] += 1
    for e in range(links):
        base[e + 1] += base[e]
    ready = np.empty(count, np.int64)
    size = np.zeros(links, np.int64)
    busy = np.zeros(links, np.bool_)
    # Ends of running tasks, least first: at most one for each link.
    when = np.empty(links)
    what = np.empty(links, np.int64)
    running = 0
    touched = np.empty(links, np.int64)
    marked = np.zeros(links, np.bool_)
    touches = 0
    now = 0.0
    for i in range(count):
        if left[i] == 0:
            e = link[i]
            _push(ready, base[e], size, e, priority, i)
            if not marked[e]:
                marked[e] = True
                touched[touches] = e
                touches += 1
    while True:
        for k in range(touches):
            e = touched[k]
            marked[e] = False
            if not busy[e] and size[e] > 0:
                i = _pop(ready, base[e], size, e, priority)
                start[i] = now
                busy[e] = True
                end = now + duration[i]
                at = running
                running += 1
                while at > 0:
                    up = (at - 1) >> 1
                    if when[up] <= end:
                        break
                    when[at], what[at] = when[up], what[up]
                    at = up
                when[at], what[at] = end, i
        touches = 0
        if running == 0:
            return start
        now = when[0]
        while running > 0 and when[0] <= now:
            i = what[0]
            running -= 1
            _sink(when, what, running)
            e = link[i]
            busy[e] = False
            if not marked[e]:
                marked[e] = True
                touched[touches] = e
                touches += 1
            for k in range(next_ptr[i], next_ptr[i + 1]):
                j = following[k]
                left[j] -= 1
                if left[j] == 0:
                    e = link[j]
                    _push(ready, base[e], size, e, priority, j)
                    if not marked[e]:
                        marked[e] = True
                        touched[touches] = e
                        touches += 1


@njit(cache=True)
def _push(ready, base, size, e, priority, task):
    at = size[e]
    size[e] += 1
    key = priority[task]
    while at > 0:
        up = (at - 1) >> 1
        if priority[ready[base + up]] <= key:
            break
        ready[base + at] = ready[base + up]
        at = up
    ready[base + at] = task


@njit(cache=True)
def _pop(ready, base, size, e, priority):
    first = ready[base]
    size[e] -= 1
    count = size[e]
    if count > 0:
        last = ready[base + count]
        key = priority[last]
        at = 0
        while True:
            low = 2 * at + 1
            if low >= count:
                break
            if low + 1 < count and priority[ready[base + low + 1]] < priority[ready[base + low]]:
                low += 1
            if priority[ready[base + low]] >= key:
                break
            ready[base + at] = ready[base + low]
            at = low
        ready[base + at] = last
    return first


@njit(cache=True)
def _sink(when, what, count):
    """Take the first off a heap that now holds ``count`` more."""
    end, task = when[count], what[count]
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
    if count > 0:
        when[at], what[at] = end, task


def successors(before: Ints, after: Ints, tasks: int) -> tuple[Ints, Ints, Ints]:
    """``waits``, ``next_ptr`` and ``next`` of pairs (before[i] must end before after[i] starts)."""
    order = np.argsort(before, kind="stable")
    waits = np.bincount(after, minlength=tasks)
    next_ptr = np.concatenate([[0], np.cumsum(np.bincount(before, minlength=tasks))])
    return waits, next_ptr, np.asarray(after, np.int64)[order]


def seconds(latency: Floats, bandwidth: Floats, link: Ints, size: Floats) -> Floats:
    """Time each task's link is busy with it, [tasks]."""
    return latency[link] + size / bandwidth[link]
