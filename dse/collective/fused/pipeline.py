"""Chunks on trees as tasks, and their order in time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dse.collective.fused.packing import Trees
from dse.collective.tasks import run
from dse.collective.topology import Floats
from dse.jit import njit

BUCKETS = 1 << 20  # of priorities


class Pipeline(NamedTuple):
    """Tasks of all chunks: chunk by chunk, in-tree before out-tree, the root's first.

    Attributes:
        chunk, link: [tasks].
        out: whether it belongs to the out-tree, [tasks].
        duration: seconds, [tasks].
        rest: seconds from its start to its chunk's end if nothing ever waits, [tasks].
        order: waits, next_ptr and next of :class:`~dse.collective.tasks.Tasks`.
        back: the same with time reversed.
        busy: seconds that the busiest link is busy.
    """

    chunk: np.ndarray
    link: np.ndarray
    out: np.ndarray
    duration: Floats
    rest: np.ndarray
    order: tuple[np.ndarray, np.ndarray, np.ndarray]
    back: tuple[np.ndarray, np.ndarray, np.ndarray]
    busy: float


def pipeline(trees: Trees, time: Floats) -> Pipeline:
    """The tasks of some trees; ``time``: seconds a chunk takes on each link, [links]."""
    chunk, link, out, rest, waits, ptr, following = _tasks(trees.link, trees.up, trees.size, time)
    order = (waits, ptr, following)
    busy = float((trees.load * time).max(initial=0.0))
    return Pipeline(chunk, link, out, time[link], rest, order, _reversed(*order), busy)


@njit(cache=True)
def _tasks(links, ups, sizes, time):
    chunks = len(sizes) // 2
    count = np.sum(sizes)
    chunk, link = np.empty(count, np.int32), np.empty(count, np.int32)
    out, rest = np.empty(count, np.bool_), np.zeros(count)
    waits, ptr = np.zeros(count, np.int32), np.zeros(count + 1, np.int64)
    first = 0
    for k in range(chunks):  # how many wait for each
        middle = first + sizes[2 * k]
        end = middle + sizes[2 * k + 1]
        into, away = 0, 0
        for i in range(sizes[2 * k]):
            up = ups[2 * k, i]
            into += up < 0
            if up >= 0:
                waits[first + up] += 1
        for i in range(sizes[2 * k + 1]):
            up = ups[2 * k + 1, i]
            away += up < 0
            waits[middle + i] = into if up < 0 else 1
            if up >= 0:
                ptr[middle + up + 1] += 1
        for i in range(sizes[2 * k]):
            ptr[first + i + 1] = 1 if ups[2 * k, i] >= 0 else away
        longest = 0.0
        for i in range(sizes[2 * k + 1] - 1, -1, -1):
            at, up = middle + i, ups[2 * k + 1, i]
            chunk[at], link[at], out[at] = k, links[2 * k + 1, i], True
            rest[at] += time[link[at]]
            if up >= 0:
                rest[middle + up] = max(rest[middle + up], rest[at])
            else:
                longest = max(longest, rest[at])
        for i in range(sizes[2 * k]):
            at, up = first + i, ups[2 * k, i]
            chunk[at], link[at], out[at] = k, links[2 * k, i], False
            rest[at] = time[link[at]] + (rest[first + up] if up >= 0 else longest)
        first = end
    for i in range(count):
        ptr[i + 1] += ptr[i]
    fill = ptr[:count].copy()
    following = np.empty(ptr[count], np.int32)
    first = 0
    for k in range(chunks):
        middle = first + sizes[2 * k]
        for i in range(sizes[2 * k + 1]):
            up = ups[2 * k + 1, i]
            if up >= 0:
                following[fill[middle + up]] = middle + i
                fill[middle + up] += 1
        for i in range(sizes[2 * k]):
            up = ups[2 * k, i]
            at = first + i
            if up >= 0:
                following[fill[at]] = first + up
            else:
                for j in range(sizes[2 * k + 1]):
                    if ups[2 * k + 1, j] < 0:
                        following[fill[at]] = middle + j
                        fill[at] += 1
        first = middle + sizes[2 * k + 1]
    return chunk, link, out, rest, waits, ptr, following


@njit(cache=True)
def _reversed(waits, ptr, following):
    count = len(waits)
    back_waits, back_ptr = np.empty(count, np.int32), np.zeros(count + 1, np.int64)
    for i in range(count):
        back_waits[i] = ptr[i + 1] - ptr[i]
        back_ptr[i + 1] = back_ptr[i] + waits[i]
    fill, back = back_ptr[:count].copy(), np.empty(len(following), np.int32)
    for i in range(count):
        for q in range(ptr[i], ptr[i + 1]):
            j = following[q]
            back[fill[j]] = i
            fill[j] += 1
    return back_waits, back_ptr, back


def _sorted(priority: Floats) -> np.ndarray:
    """Tasks by priority; of many, to within a millionth of the range. Equal ones in their order."""
    if len(priority) < BUCKETS >> 4:
        return np.argsort(priority, kind="stable").astype(np.int32)
    return _bucketed(priority, BUCKETS)


@njit(cache=True)
def _bucketed(priority, buckets):
    low, high = priority.min(), priority.max()
    scale = (buckets - 1) / (high - low) if high > low else 0.0
    begin = np.zeros(buckets + 1, np.int64)
    place = np.empty(len(priority), np.int32)
    for i in range(len(priority)):
        place[i] = int((priority[i] - low) * scale)
        begin[place[i] + 1] += 1
    for b in range(buckets):
        begin[b + 1] += begin[b]
    order = np.empty(len(priority), np.int32)
    for i in range(len(priority)):
        order[begin[place[i]]] = i
        begin[place[i]] += 1
    return order


def in_order(work: Pipeline, priority: Floats, links: int) -> Floats:
    """Start times where the least priority number goes first."""
    return run(_sorted(priority), work.link, work.duration, *work.order, links)


def justified(work: Pipeline, start: Floats, links: int) -> Floats:
    """Start times after everything has been moved as late as it can be, and then as early (Li and Willis 1992).

    The schedule that comes out is the better of the two.
    """
    late = run(_sorted(-(start + work.duration)), work.link, work.duration, *work.back, links) + work.duration
    late = late.max() - late
    early = in_order(work, late, links)
    return early if (early + work.duration).max() <= (late + work.duration).max() else late


def staggered(work: Pipeline, chunks: int, spread: float) -> Floats:
    """Priorities: the longest rest first, and chunk after chunk over ``spread`` of the busiest link's time."""
    return work.chunk * (spread * work.busy / max(chunks, 1)) - work.rest


def finish(work: Pipeline, start: Floats) -> float:
    """When the last task ends."""
    return float((start + work.duration).max(initial=0.0))
