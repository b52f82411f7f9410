"""How the time of each device is spent: unions of intervals, and what of one lies outside another."""

from __future__ import annotations

import numpy as np

from dse.jit import njit
from dse.simulate.heap import inner

COMPUTE, COMM, MEMORY, WAIT, NOTHING = 0, 1, 2, 3, 4  # what a node does between its begin and its end


@njit(cache=True)
def account(base, category, issued, begin, end):
    """Seconds of each actor [actors, 7]: wall, compute, comm, memory, exposed comm, exposed memory, waiting.

    ``waiting`` is time in which nodes wait for peers and nothing else happens.
    """
    result = np.zeros((len(base) - 1, 7))
    for actor in range(len(base) - 1):
        first, last = base[actor], base[actor + 1]
        when = np.empty(4 * (last - first))
        what = np.empty(4 * (last - first), np.int64)  # category, or -1 - category where it ends
        count = 0
        for node in range(first, last):
            result[actor, 0] = max(result[actor, 0], end[node])
            if category[node] == NOTHING:
                continue
            if end[node] > begin[node]:
                when[count], what[count] = begin[node], category[node]
                when[count + 1], what[count + 1] = end[node], -1 - category[node]
                count += 2
            if begin[node] > issued[node]:
                when[count], what[count] = issued[node], WAIT
                when[count + 1], what[count + 1] = begin[node], -1 - WAIT
                count += 2
        _sweep(when[:count], what[:count], result[actor])
    return result


@inner
def _sweep(when, what, result):
    order = np.argsort(when)
    running = np.zeros(4, np.int64)
    now = 0.0
    for k in order:
        passed = when[k] - now
        now = when[k]
        if passed > 0.0:
            compute, comm, memory = running[0] > 0, running[1] > 0, running[2] > 0
            if compute:
                result[1] += passed
            if comm:
                result[2] += passed
            if memory:
                result[3] += passed
            if comm and not compute:
                result[4] += passed
            if memory and not compute and not comm:
                result[5] += passed
            if running[3] > 0 and not (compute or comm or memory):
                result[6] += passed
        if what[k] >= 0:
            running[what[k]] += 1
        else:
            running[-1 - what[k]] -= 1
