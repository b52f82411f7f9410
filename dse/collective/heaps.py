"""Binary heaps in arrays, for compiled schedulers: of waiting tasks by priority, of events by time."""

from dse.jit import njit


@njit(cache=True)
def push(heap, base, count, priority, task):
    """Add a task to the heap ``heap[base:base + count]``; least ``priority[task]`` first."""
    at = count
    while at > 0:
        up = (at - 1) >> 1
        if priority[heap[base + up]] <= priority[task]:
            break
        heap[base + at] = heap[base + up]
        at = up
    heap[base + at] = task


@njit(cache=True)
def sift(heap, base, count, priority):
    """Take the first off a heap of tasks that now holds ``count``."""
    if count == 0:
        return
    last = heap[base + count]
    at = 0
    while True:
        low = 2 * at + 1
        if low >= count:
            break
        if low + 1 < count and priority[heap[base + low + 1]] < priority[heap[base + low]]:
            low += 1
        if priority[heap[base + low]] >= priority[last]:
            break
        heap[base + at] = heap[base + low]
        at = low
    heap[base + at] = last


@njit(cache=True)
def put(when, what, count, time, item):
    """Add (time, item) to a heap of ``count``, earliest first."""
    at = count
    while at > 0:
        up = (at - 1) >> 1
        if when[up] <= time:
            break
        when[at], what[at] = when[up], what[up]
        at = up
    when[at], what[at] = time, item


@njit(cache=True)
def take(when, what, count):
    """Take the first off a heap of (time, item) that now holds ``count``."""
    end, link = when[count], what[count]
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
        when[at], what[at] = end, link
