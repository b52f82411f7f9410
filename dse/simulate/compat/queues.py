"""Chunks on their way through the dimensions, each of which has queues, each of which runs a few chunks at once."""

from __future__ import annotations

from dse.simulate.compat import layout as L
from dse.simulate.compat.algorithms import begin, setup
from dse.simulate.compat.arrays import inner
from dse.simulate.compat.events import give, take

FIFO, REDUCE_GATHER, SMALLEST = range(3)


@inner
def take_queue(w, rank, level, how):
    """The queue of a dimension for the next chunk, and the direction of its ring: all in turn, or one half of them."""
    g, levels = w.settings, w.levels
    n = g[L.G_QUEUES]
    row = rank * g[L.G_DIMS] + level
    first, half = level * n, n // 2
    at = levels[row, how]
    if how == L.ANY:
        levels[row, how] = (at + 1) % n
        return first + at, (-1 if n > 1 and at >= half else 1)
    if how == L.FIRST:
        levels[row, how] = (at + 1) % max(half, 1)
        return first + at, 1
    levels[row, how] = at + 1 if at + 1 < n else half
    return first + at, -1


@inner
def _place(w, row, s):
    """The stream before which ``s`` is put into a queue (0: at its end), and the one before that."""
    st, intra = w.streams, w.settings[L.G_INTRA]
    before, at = 0, w.queues[row, L.Q_HEAD]
    plain = intra == FIFO or st[s, L.S_KIND] == L.A2A or st[s, L.S_KIND] == L.AR
    if not plain and intra == SMALLEST and st[s, L.S_PHASE] == st[s, L.S_LAST] - 1:
        while at:
            before, at = at, st[at, L.S_NEXT]
        return before, at
    last = older = -1  # kinds of the last two streams passed
    while at:
        if not plain and intra == REDUCE_GATHER:
            older, last = last, st[at, L.S_KIND]
        if st[at, L.S_INIT]:
            before, at = at, st[at, L.S_NEXT]
            if not plain and intra == REDUCE_GATHER and at and not st[at, L.S_INIT]:
                older, last = last, st[at, L.S_KIND]
                before, at = at, st[at, L.S_NEXT]
            continue
        if plain:
            stay = st[at, L.S_PRIO] >= st[s, L.S_PRIO]
        elif intra == REDUCE_GATHER:
            pair = (last == L.RS and older == L.AG) or (last == L.AG and older == L.RS)
            stay = st[at, L.S_PRIO] > st[s, L.S_PRIO] or pair
        else:
            stay = max(st[at, L.S_IN], st[at, L.S_OUT]) < max(st[s, L.S_IN], st[s, L.S_OUT])
        if not stay:
            break
        before, at = at, st[at, L.S_NEXT]
    return before, at


@inner
def _start_some(w, rank, queue):
    """Start the streams of a queue that may run now."""
    queues, g = w.queues, w.settings
    st = w.streams
    row = rank * g[L.G_DIMS] * g[L.G_QUEUES] + queue
    at = queues[row, L.Q_HEAD]
    for _ in range(queues[row, L.Q_RUN]):
        if at:
            at = st[at, L.S_NEXT]
    while at and queues[row, L.Q_RUN] < g[L.G_RUNNING]:
        st[at, L.S_INIT] = 1
        begin(w, at)
        queues[row, L.Q_RUN] += 1
        at = st[at, L.S_NEXT]


@inner
def _unlink(w, row, s):
    queues = w.queues
    st = w.streams
    if queues[row, L.Q_HEAD] == s:
        queues[row, L.Q_HEAD] = st[s, L.S_NEXT]
        return
    at = queues[row, L.Q_HEAD]
    while st[at, L.S_NEXT] != s:
        at = st[at, L.S_NEXT]
    st[at, L.S_NEXT] = st[s, L.S_NEXT]


@inner
def _enter(w, s):
    """Put a stream into the queue of its phase."""
    g = w.settings
    st = w.streams
    rank, x = st[s, L.S_RANK], st[s, L.S_PHASE]
    packed = st[s, L.STREAM_COLS + x - st[s, L.S_FIRST]]
    st[s, L.S_QUEUE], st[s, L.S_TREE], st[s, L.S_DIR] = packed >> 2, packed & 1, (-1 if packed & 2 else 1)
    setup(w, s, x)
    st[s, L.S_KIND], st[s, L.S_INIT] = w.phases[x, L.X_COMM], 0
    row = rank * g[L.G_DIMS] * g[L.G_QUEUES] + st[s, L.S_QUEUE]
    before, at = _place(w, row, s)
    st[s, L.S_NEXT] = at
    if before:
        st[before, L.S_NEXT] = s
    else:
        w.queues[row, L.Q_HEAD] = s


@inner
def leave(w, s, ends):
    """A stream is done with a phase: on to the next, or out (``ends``); the next of each queue starts."""
    g = w.settings
    st = w.streams
    rank, old = st[s, L.S_RANK], st[s, L.S_QUEUE]
    row = rank * g[L.G_DIMS] * g[L.G_QUEUES] + old
    _unlink(w, row, s)
    if ends:
        give(st, w.clock, L.STREAM0, L.S_NEXT, s)
    else:
        st[s, L.S_PHASE] += 1
        _enter(w, s)
    w.queues[row, L.Q_RUN] -= 1
    _start_some(w, rank, old)
    if not ends:
        _start_some(w, rank, st[s, L.S_QUEUE])


@inner
def launch(w, rank, node, plan, group, member):
    """Start a collective at one NPU: a stream for each chunk. False if no dimension takes part: it then never ends."""
    plans, g, data_, chunks, phases, counters, trees = (
        w.plans,
        w.settings,
        w.data,
        w.chunks,
        w.phases,
        w.counters,
        w.trees,
    )
    st, clock, r = w.streams, w.clock, w.ranks[rank]
    turns = plans[plan, L.P_VARIANTS]
    if turns > 1:  # dimensions are taken in turn, from where the last collective stopped
        plan += r[L.R_TURN]
    lo, hi = plans[plan, L.P_LO], plans[plan, L.P_HI]
    if g[L.G_TURNS]:
        r[L.R_TURN] = (r[L.R_TURN] + hi - lo) % max(turns, 1)
    priority = w.nodes[node, L.N_PRIO] if node >= 0 else 0
    if g[L.G_POLICY] < 2:  # the later first, or the earlier first
        priority = r[L.R_PRIO]
        r[L.R_PRIO] += 1 - 2 * g[L.G_POLICY]
    if hi == lo or chunks[lo] == chunks[lo + 1]:
        return False
    data = take(data_, clock, L.DATA0, L.D_NEXT)
    data_[data, L.D_RANK], data_[data, L.D_NODE], data_[data, L.D_LEFT] = rank, node, hi - lo
    for chunk in range(lo, hi):
        s = take(st, clock, L.STREAM0, L.S_NEXT)
        first, stop = chunks[chunk], chunks[chunk + 1]
        for x in range(first, stop):
            ph = phases[x]
            queue, direction = take_queue(w, rank, ph[L.X_LEVEL], ph[L.X_TAKE])
            tree = 0
            if ph[L.X_ALGO] == L.TREE:
                row = (rank * g[L.G_DIMS] + ph[L.X_LEVEL]) * 4 + ph[L.X_KIND]
                tree = trees[row]
                trees[row] = 1 - tree
            st[s, L.STREAM_COLS + x - first] = queue * 4 + (2 if direction < 0 else 0) + tree
        st[s, L.S_RANK], st[s, L.S_DATA], st[s, L.S_FIRST], st[s, L.S_PHASE] = rank, data, first, first
        st[s, L.S_LAST], st[s, L.S_PRIO] = stop - 1, priority
        st[s, L.S_TAG] = r[L.R_STREAMS]
        r[L.R_STREAMS] += 1
        st[s, L.S_GROUP] = group if phases[first, L.X_STRIDE] == 0 else -1
        if group >= 0:
            st[s, L.S_TAG] = w.group_id[group] * 1_000_000 + counters[member]
            counters[member] += 1
        _enter(w, s)
        _start_some(w, rank, st[s, L.S_QUEUE])
    return True
