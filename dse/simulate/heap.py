"""A binary heap of times, one entry at most for each item, whose time can be changed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dse.jit import njit

# For functions that only compiled code calls: what Python needs to call them is half of the time it takes to compile.
# They are compiled into what calls them: see dse.jit for when that is compiled anew.
inner = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)


class Heap(NamedTuple):
    """``when`` and ``item`` [capacity] in heap order, ``place`` [items] (-1: not in it), ``count`` [1]."""

    when: np.ndarray
    item: np.ndarray
    place: np.ndarray
    count: np.ndarray


def empty(items: int) -> Heap:
    """A heap for items 0 ... items - 1."""
    return Heap(np.empty(items), np.empty(items, np.int64), np.full(items, -1, np.int64), np.zeros(1, np.int64))


@inner
def put(heap, item, when):
    """Enter an item, or change its time."""
    at = heap.place[item]
    if at < 0:
        at = heap.count[0]
        heap.count[0] += 1
    elif when > heap.when[at]:
        _down(heap, at, item, when)
        return
    while at > 0:
        up = (at - 1) >> 1
        if heap.when[up] <= when:
            break
        heap.when[at], heap.item[at] = heap.when[up], heap.item[up]
        heap.place[heap.item[at]] = at
        at = up
    heap.when[at], heap.item[at], heap.place[item] = when, item, at


@inner
def take(heap):
    """Remove and return the item of the least time."""
    first = heap.item[0]
    heap.place[first] = -1
    heap.count[0] -= 1
    last = heap.count[0]
    if last > 0:
        _down(heap, np.int64(0), heap.item[last], heap.when[last])
    return first


@inner
def drop(heap, item):
    """Remove an item, if it is there."""
    at = heap.place[item]
    if at >= 0:
        put(heap, item, -np.inf)
        take(heap)


@inner
def _down(heap, at, item, when):
    count = heap.count[0]
    while True:
        child = 2 * at + 1
        if child >= count:
            break
        if child + 1 < count and heap.when[child + 1] < heap.when[child]:
            child += 1
        if heap.when[child] >= when:
            break
        heap.when[at], heap.item[at] = heap.when[child], heap.item[child]
        heap.place[heap.item[at]] = at
        at = child
    heap.when[at], heap.item[at], heap.place[item] = when, item, at
