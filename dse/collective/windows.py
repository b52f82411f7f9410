"""What comes from far away comes late: the time an NPU's links have left for it."""

from __future__ import annotations

import numpy as np

from dse.collective.maxflow import cut_time
from dse.jit import njit


@njit(cache=True)
def late(delay, rate, in_ptr, in_link, sinks, away, unit, once, chunk):
    """Least time by which each sink can have got what comes from its far sources.

    Nothing of a source at distance d (of delays) is there before d. So by T a link e into the sink can have brought of
    all sources at distance d and more: ``rate * (T - max(d, delay))`` bytes or, if ``chunk`` is not 0, a whole number
    of chunks that take ``delay`` each, the first of them since d - delay at the earliest.

    Args:
        away: distances of the sources from each sink, the farthest first, [sinks, sources].
        unit: bytes from each source; ``once``: from all of them together.
        in_ptr, in_link: links by destination, those of one by delay ascending.
    """
    least, start = 0.0, np.zeros(len(delay))
    for i in range(len(sinks)):
        v = sinks[i]
        far = away[i]
        links = in_link[in_ptr[v] : in_ptr[v + 1]]
        levels = 0
        for k in range(len(far)):
            d = far[k]
            if d <= 0.0 or levels == 16 or (k + 1 < len(far) and far[k + 1] >= d * (1 - 1e-12)):
                continue
            d *= 1 - 1e-12
            levels += 1
            need = unit if once else unit * (k + 1)
            capacity = 0.0
            for e in links:
                capacity += rate[e]
            if chunk == 0.0:
                for e in links:
                    start[e] = max(delay[e], d)
                least = max(least, cut_time(rate, start, need, links))
                continue
            low, high = d, d + 2 * need / capacity + 2 * delay[links].max()
            if high <= least:
                continue
            low = max(low, least)
            for _ in range(40):
                middle = (low + high) / 2
                count = 0.0
                for e in links:
                    if middle >= d:
                        here = min(middle / delay[e], (middle - d) / delay[e] + 1)
                        count += np.floor(here + 1e-9)
                if count * chunk >= need * (1 - 1e-12):
                    high = middle
                else:
                    low = middle
                    least = max(least, middle)
            if once:
                break
    return least
