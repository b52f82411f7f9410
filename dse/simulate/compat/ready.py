"""Nodes of a rank whose dependences are met: a heap for each slot, the lowest id on top."""

from __future__ import annotations

from dse.simulate.compat import layout as L
from dse.simulate.compat.arrays import inner


@inner
def ready_push(w, rank, local):
    """Node ``local`` of a rank has no open dependences: into the heap of its slot, lowest id on top."""
    ranks, ready_n, ready = w.ranks, w.ready_n, w.ready
    cls = ranks[rank, L.R_CLASS]
    slot = w.nodes[w.class_ptr[cls] + local, L.N_SLOT]
    base = ranks[rank, L.R_BASE] + w.slot_ptr[cls, slot]
    at = ready_n[rank, slot]
    ready_n[rank, slot] = at + 1
    ready[base + at] = local
    while at > 0:
        above = (at - 1) >> 1
        if ready[base + above] <= ready[base + at]:
            break
        ready[base + above], ready[base + at] = ready[base + at], ready[base + above]
        at = above


@inner
def ready_pop(w, rank, slot):
    """Take the node with the lowest id out of the heap of a slot."""
    ready_n, ready, ranks = w.ready_n, w.ready, w.ranks
    base = ranks[rank, L.R_BASE] + w.slot_ptr[ranks[rank, L.R_CLASS], slot]
    n = ready_n[rank, slot] - 1
    ready_n[rank, slot] = n
    top = ready[base]
    ready[base] = ready[base + n]
    at = 0
    while True:
        low = 2 * at + 1
        if low >= n:
            break
        if low + 1 < n and ready[base + low + 1] < ready[base + low]:
            low += 1
        if ready[base + at] <= ready[base + low]:
            break
        ready[base + low], ready[base + at] = ready[base + at], ready[base + low]
        at = low
    return top
