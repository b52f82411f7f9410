"""How long each rank was busy with what: unions of the intervals of its nodes."""

from __future__ import annotations

import numpy as np

from dse.simulate.compat.arrays import compiled


@compiled
def busy(types, first, base, start, end):
    """Busy times [R, 7]: CPU, GPU, communication, memory; the last end; and how many nodes ran on GPU and network.

    Args:
        types: 0 ... 3 as above or 4 of each node of the classes. first: where the class of each rank begins in it.
        base: where each rank begins in ``start`` and ``end`` (-1: did not).
    """
    ranks = len(base) - 1
    out = np.zeros((ranks, 7), np.int64)
    for rank in range(ranks):
        n = base[rank + 1] - base[rank]
        order = np.argsort(start[base[rank] : base[rank + 1]])
        reach = np.full(4, -1, np.int64)
        for k in range(n):
            at = order[k]
            a, b, kind = start[base[rank] + at], end[base[rank] + at], types[first[rank] + at]
            if a < 0 or b < 0:
                continue
            out[rank, 4] = max(out[rank, 4], b)
            if kind > 3:
                continue
            if kind == 1 or kind == 2:
                out[rank, 4 + kind] += 1
            if b > reach[kind]:
                out[rank, kind] += b - max(a, reach[kind])
                reach[kind] = b
    return out
