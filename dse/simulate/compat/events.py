"""Events in the order of ASTRA-sim's queue: by time, then as scheduled; the calls of one NPU at one time run together.

That last rule is visible: an NPU's second call at a time runs with its first, before events that were scheduled
between them. Which of two chunks enters a queue first can depend on it.
"""

from __future__ import annotations

from dse.simulate.compat import layout as L
from dse.simulate.compat.arrays import inner


@inner
def take(pool, clock, first, column):
    """A free row of a pool, or row 0, which nobody uses, and the mark that the pool is full."""
    row = clock[first]
    if row == 0:
        clock[L.FULL] = first
        return 0
    clock[first] = pool[row, column]
    return row


@inner
def give(pool, clock, first, column, row):
    """Put a row back."""
    pool[row, column] = clock[first]
    clock[first] = row


@inner
def _before(heap, a, b):
    if heap[a, L.TIME] != heap[b, L.TIME]:
        return heap[a, L.TIME] < heap[b, L.TIME]
    if heap[a, L.BORN] != heap[b, L.BORN]:
        return heap[a, L.BORN] < heap[b, L.BORN]
    return heap[a, L.ORDER] < heap[b, L.ORDER]


@inner
def _swap(heap, a, b):
    for k in range(5):
        heap[a, k], heap[b, k] = heap[b, k], heap[a, k]


@inner
def push(w, time, born, what, arg):
    """Schedule an event."""
    heap, clock = w.heap, w.clock
    at = clock[L.HEAP_N]
    if at == len(heap):
        clock[L.FULL] = L.HEAP_N
        return
    clock[L.HEAP_N] = at + 1
    clock[L.SEQ] += 1
    heap[at, L.TIME], heap[at, L.BORN], heap[at, L.ORDER], heap[at, L.WHAT], heap[at, L.ARG] = (
        time,
        born,
        clock[L.SEQ],
        what,
        arg,
    )
    while at > 0:
        above = (at - 1) >> 1
        if not _before(heap, at, above):
            break
        _swap(heap, at, above)
        at = above


@inner
def pop(w):
    """Take the next event out and set the time: (what, argument)."""
    heap, clock = w.heap, w.clock
    what, arg = heap[0, L.WHAT], heap[0, L.ARG]
    clock[L.NOW] = heap[0, L.TIME]
    n = clock[L.HEAP_N] - 1
    clock[L.HEAP_N] = n
    for k in range(5):
        heap[0, k] = heap[n, k]
    at = 0
    while True:
        low = 2 * at + 1
        if low >= n:
            break
        if low + 1 < n and _before(heap, low + 1, low):
            low += 1
        if not _before(heap, low, at):
            break
        _swap(heap, at, low)
        at = low
    return what, arg


@inner
def register(w, rank, delay, kind, a, b, c):
    """Have NPU ``rank`` call itself ``delay`` ns from now."""
    pending = w.pending
    clock, items, batches = w.clock, w.items, w.batches
    item = take(items, clock, L.ITEM0, L.ITEM_NEXT)
    items[item, L.ITEM_KIND], items[item, L.ITEM_A], items[item, L.ITEM_B], items[item, L.ITEM_C] = kind, a, b, c
    items[item, L.ITEM_NEXT] = 0
    time = clock[L.NOW] + delay
    batch = pending[rank]
    while batch and batches[batch, L.BATCH_TIME] != time:
        batch = batches[batch, L.BATCH_NEXT]
    if batch:
        items[batches[batch, L.BATCH_TAIL], L.ITEM_NEXT] = item
        batches[batch, L.BATCH_TAIL] = item
        return
    batch = take(batches, clock, L.BATCH0, L.BATCH_NEXT)
    batches[batch, L.BATCH_TIME], batches[batch, L.BATCH_HEAD], batches[batch, L.BATCH_TAIL] = time, item, item
    batches[batch, L.BATCH_NEXT] = pending[rank]
    pending[rank] = batch
    # The rank rides with the batch, so that an event needs one argument only.
    push(w, time, clock[L.NOW], L.BATCH, batch * len(pending) + rank)


@inner
def close_batch(w, rank, batch):
    """Take a batch that has run out of its NPU's list."""
    pending = w.pending
    batches = w.batches
    if pending[rank] == batch:
        pending[rank] = batches[batch, L.BATCH_NEXT]
    else:
        at = pending[rank]
        while batches[at, L.BATCH_NEXT] != batch:
            at = batches[at, L.BATCH_NEXT]
        batches[at, L.BATCH_NEXT] = batches[batch, L.BATCH_NEXT]
    give(batches, w.clock, L.BATCH0, L.BATCH_NEXT, batch)
