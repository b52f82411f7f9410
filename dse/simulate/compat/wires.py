"""Messages: sends and receives that find each other, and the two network models.

Unaware of congestion a message takes hops x latency + bytes / bandwidth of the first dimension in which its ends
differ. Aware (one dimension) it crosses one directed link after another, whole, and each link carries one message at
a time in the order of arrival.
"""

from __future__ import annotations

import numpy as np

from dse.simulate.compat import layout as L
from dse.simulate.compat.arrays import inner
from dse.simulate.compat.events import give, push, take

SMALL = np.int64(8192)  # bytes of the message that asks, where sends wait for receives (rendezvous)
ASKING = 1 << 50  # added to the tag of such a message


@inner
def delay(w, src, dst, size):
    """Time of a message in whole ns, without congestion."""
    sizes, rates = w.sizes, w.rates
    for d in range(len(sizes)):
        n, stride = sizes[d, 1], sizes[d, 2]
        a, b = (src // stride) % n, (dst // stride) % n
        if a != b:
            hops = 1
            if sizes[d, 0] == 0:
                hops = min(abs(a - b), n - abs(a - b))
            elif sizes[d, 0] == 2:
                hops = 2
            return int(hops * rates[d, 1] + size / rates[d, 0])
    return 0


@inner
def _bucket(w, tag, src, dst, size, off):
    h = (((tag * 1000003 + src) * 1000003 + dst) * 1000003 + size) * 31 + off
    h ^= h >> 29
    return h & (len(w.buckets) - 1)


@inner
def _find(w, tag, src, dst, size, off, side):
    """The oldest message of that description of which only ``side`` is there, taken out of the table; 0 if none."""
    buckets = w.buckets
    b = _bucket(w, tag, src, dst, size, off)
    msgs = w.msgs
    before, m = 0, buckets[b]
    while m:
        if (
            msgs[m, L.TAG] == tag
            and msgs[m, L.SRC] == src
            and msgs[m, L.DST] == dst
            and msgs[m, L.SIZE] == size
            and msgs[m, L.OFF] == off
            and msgs[m, L.SIDE] == side
        ):
            if before:
                msgs[before, L.NEXT] = msgs[m, L.NEXT]
            else:
                buckets[b] = msgs[m, L.NEXT]
            return m
        before, m = m, msgs[m, L.NEXT]
    return 0


@inner
def _new(w, tag, src, dst, size, off, side):
    buckets = w.buckets
    msgs = w.msgs
    m = take(msgs, w.clock, L.MSG0, L.NEXT)
    msgs[m, L.TAG], msgs[m, L.SRC], msgs[m, L.DST], msgs[m, L.SIZE], msgs[m, L.OFF] = tag, src, dst, size, off
    msgs[m, L.SIDE], msgs[m, L.ARRIVED], msgs[m, L.NEXT] = side, 0, 0
    msgs[m, L.SEND_KIND] = msgs[m, L.RECV_KIND] = L.NOBODY
    b = _bucket(w, tag, src, dst, size, off)
    last = buckets[b]
    if last == 0:
        buckets[b] = m
        return m
    while msgs[last, L.NEXT]:
        last = msgs[last, L.NEXT]
    msgs[last, L.NEXT] = m
    return m


@inner
def _send(w, src, dst, tag, size, off, kind, arg):
    g, msgs = w.settings, w.msgs
    m = _find(w, tag, src, dst, size, off, L.RECV_SIDE)
    if m == 0:
        m = _new(w, tag, src, dst, size, off, L.SEND_SIDE)
    else:
        msgs[m, L.SIDE] = L.BOTH_SIDES
    msgs[m, L.SEND_KIND], msgs[m, L.SEND_ARG] = kind, arg
    now = w.clock[L.NOW]
    if g[L.G_AWARE]:
        msgs[m, L.HERE] = src
        hop(w, m)
    elif g[L.G_FOLD]:
        # All NPUs do the same at once: what this one sends ``off`` places up reaches it from ``off`` places down.
        push(w, now + delay(w, L.NO, off, size), now, L.ARRIVE, m)
    else:
        push(w, now + delay(w, src, dst, size), now, L.ARRIVE, m)


@inner
def _recv(w, src, dst, tag, size, off, kind, arg):
    msgs, clock = w.msgs, w.clock
    m = _find(w, tag, src, dst, size, off, L.SEND_SIDE)
    if m == 0:
        m = _new(w, tag, src, dst, size, off, L.RECV_SIDE)
        msgs[m, L.RECV_KIND], msgs[m, L.RECV_ARG] = kind, arg
        return
    msgs[m, L.RECV_KIND], msgs[m, L.RECV_ARG], msgs[m, L.SIDE] = kind, arg, L.BOTH_SIDES
    if msgs[m, L.ARRIVED]:
        push(w, clock[L.NOW], clock[L.NOW], L.RECV_NOW, m)


@inner
def _kept(w, src, dst, tag, size, off, kind, arg):
    """What is to be done when the other side is ready."""
    msgs = w.msgs
    m = take(msgs, w.clock, L.MSG0, L.NEXT)
    msgs[m, L.TAG], msgs[m, L.SRC], msgs[m, L.DST], msgs[m, L.SIZE], msgs[m, L.OFF] = tag, src, dst, size, off
    msgs[m, L.SEND_KIND], msgs[m, L.SEND_ARG] = kind, arg
    return m


@inner
def send(w, src, dst, tag, size, off, kind, arg):
    """Send; ``kind`` and ``arg`` say who is told when it has arrived."""
    if w.settings[L.G_RENDEZVOUS]:
        m = _kept(w, src, dst, tag, size, off, kind, arg)
        _recv(w, dst, src, tag + ASKING, SMALL, off, L.RENDEZVOUS, m)
    else:
        _send(w, src, dst, tag, size, off, kind, arg)


@inner
def recv(w, src, dst, tag, size, off, kind, arg):
    """Receive; ``kind`` and ``arg`` say who is told."""
    if w.settings[L.G_RENDEZVOUS]:
        m = _kept(w, src, dst, tag, size, off, kind, arg)
        _send(w, dst, src, tag + ASKING, SMALL, off, L.RENDEZVOUS, m)
    else:
        _recv(w, src, dst, tag, size, off, kind, arg)


@inner
def go_on(w, m, sends):
    """The small message of a rendezvous has arrived: now the send or receive that waited for it."""
    msgs = w.msgs
    k = msgs[m]
    tag, src, dst, size, off, kind, arg = (
        k[L.TAG],
        k[L.SRC],
        k[L.DST],
        k[L.SIZE],
        k[L.OFF],
        k[L.SEND_KIND],
        k[L.SEND_ARG],
    )
    give(msgs, w.clock, L.MSG0, L.NEXT, m)
    if sends:
        _send(w, src, dst, tag, size, off, kind, arg)
    else:
        _recv(w, src, dst, tag, size, off, kind, arg)


@inner
def _link(w, here, src, dst):
    """The link out of device ``here`` on the way from src to dst, and where it leads."""
    sizes = w.sizes
    topology, n = sizes[0, 0], sizes[0, 1]
    if topology == 1:
        return here * n + dst, dst
    if topology == 2:
        return (src, n) if here == src else (n + dst, dst)
    up = (dst - src) % n
    if n - up < up:
        return 2 * here + 1, (here - 1) % n
    return 2 * here, (here + 1) % n


@inner
def _cross(w, link, m):
    """Put a message on a free link."""
    rates = w.rates
    size, now = w.msgs[m, L.SIZE], w.clock[L.NOW]
    w.links[link, 0] = 1
    push(w, now + int(rates[0, 1] + size / rates[0, 0]), now, L.ARRIVE, m)
    push(w, now + int(size / rates[0, 0]), now, L.LINK_FREE, link)


@inner
def hop(w, m):
    """Send a message over its next link, or have it wait for it."""
    links = w.links
    msgs = w.msgs
    link, there = _link(w, msgs[m, L.HERE], msgs[m, L.SRC], msgs[m, L.DST])
    msgs[m, L.HERE] = there
    if not links[link, 0]:
        _cross(w, link, m)
        return
    msgs[m, L.LINK_NEXT] = 0
    if links[link, 1]:
        msgs[links[link, 2], L.LINK_NEXT] = m
    else:
        links[link, 1] = m
    links[link, 2] = m


@inner
def link_free(w, link):
    """A link has sent its message: the next that waits."""
    links = w.links
    links[link, 0] = 0
    m = links[link, 1]
    if m:
        links[link, 1] = w.msgs[m, L.LINK_NEXT]
        _cross(w, link, m)
