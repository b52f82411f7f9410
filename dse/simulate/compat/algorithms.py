"""What one NPU does in one phase of one chunk: ring, direct, halving-doubling, double binary tree.

A message that has come in, or one that is ready to go out, first spends the endpoint delay (and the reduction, three
passes over local memory); then the NPU sends the next message and expects the next one from the other side.
"""

from __future__ import annotations

from dse.simulate.compat import layout as L
from dse.simulate.compat.arrays import inner
from dse.simulate.compat.events import register
from dse.simulate.compat.wires import recv, send

RUNS, OVER = L.NO, L.YES  # what a step of an algorithm returns


@inner
def _log2(n):
    k = 0
    while n > 1:
        n >>= 1
        k += 1
    return k


@inner
def peer(w, s, index):
    """The rank at a place of the stream's ring."""
    st = w.streams
    if st[s, L.S_GROUP] >= 0:
        return w.members[w.group_ptr[st[s, L.S_GROUP]] + index]
    return st[s, L.S_RANK] + (index - st[s, L.S_IDX]) * st[s, L.S_STRIDE]


@inner
def place(w, s):
    """The place of the stream's NPU in its ring."""
    st = w.streams
    g = st[s, L.S_GROUP]
    if g < 0:
        return (st[s, L.S_RANK] // st[s, L.S_STRIDE]) % st[s, L.S_N]
    base = w.group_ptr[g]
    i = 0
    while w.members[base + i] != st[s, L.S_RANK]:
        i += 1
    return i


@inner
def setup(w, s, x):
    """Prepare phase ``x`` (a row of the plan) of stream ``s``: counts, message size, and what the phase leaves."""
    st = w.streams
    ph = w.phases[x]
    n, comm, algo, data = ph[L.X_N], ph[L.X_COMM], ph[L.X_ALGO], ph[L.X_DATA]
    st[s, L.S_ALGO], st[s, L.S_COMM], st[s, L.S_N], st[s, L.S_STRIDE] = algo, comm, n, ph[L.X_STRIDE]
    st[s, L.S_IDX] = place(w, s)
    st[s, L.S_EP] = 10 if st[s, L.S_GROUP] >= 0 and algo != L.TREE else w.settings[L.G_EP]
    for k in (L.S_FREE, L.S_GOT, L.S_ZERO, L.S_NONZERO, L.S_TOGGLE, L.S_INS, L.S_POP, L.S_STATE):
        st[s, k] = 0
    st[s, L.S_IN] = data
    st[s, L.S_OUT] = data * n if comm == L.AG else (data // n if comm == L.RS else data)
    st[s, L.S_PAR] = 1
    if algo == L.HALVING:
        log = _log2(n)
        st[s, L.S_COUNT] = 2 * log if comm == L.AR else log
        st[s, L.S_SIZE] = data if comm == L.AG else data // 2
        st[s, L.S_OFFSET] = n // 2 if comm == L.AG else 1
        st[s, L.S_UP] = comm != L.AG
    elif algo == L.TREE:
        st[s, L.S_OUT], st[s, L.S_SIZE], st[s, L.S_COUNT] = data, data, 0
    else:
        st[s, L.S_SIZE] = data if comm == L.AG else data // n
        st[s, L.S_COUNT] = 2 * (n - 1) if comm == L.AR else n - 1
        if comm == L.A2A and algo == L.RING:
            st[s, L.S_COUNT] = n * (n - 1) // 2
        if algo == L.DIRECT:
            st[s, L.S_PAR] = n - 1 if ph[L.X_WINDOW] < 0 else min(ph[L.X_WINDOW], n - 1)


@inner
def _reduction(w, size):
    return 3 * int(size / w.local[0] * 1e9)


@inner
def _bundle(w, s, processed):
    """Have a message pass the endpoint; reduced on the way where ``processed``."""
    st = w.streams
    register(w, st[s, L.S_RANK], st[s, L.S_EP], L.CALL_BUNDLE, s, processed, st[s, L.S_SIZE])


@inner
def _halve(w, s):
    """The partner and size of a message, and those of the one after it."""
    st = w.streams
    n, off = st[s, L.S_N], st[s, L.S_OFFSET]
    up = off == 0 or (st[s, L.S_IDX] // off) % 2 == 0
    st[s, L.S_PDEST], st[s, L.S_PSIZE] = (st[s, L.S_IDX] + (off if up else -off)) % n, st[s, L.S_SIZE]
    if st[s, L.S_UP]:
        st[s, L.S_OFFSET], st[s, L.S_SIZE] = off * 2, st[s, L.S_SIZE] // 2
        if st[s, L.S_OFFSET] == n and st[s, L.S_COMM] == L.AR:
            st[s, L.S_UP] = 0
            st[s, L.S_OFFSET], st[s, L.S_SIZE] = n // 2, st[s, L.S_SIZE] * 2
    else:
        st[s, L.S_OFFSET], st[s, L.S_SIZE] = off // 2, st[s, L.S_SIZE] * 2


@inner
def _insert(w, s):
    """A message to send: after ``S_ZERO`` that cost the endpoint only, ``S_NONZERO`` that may be reduced."""
    st = w.streams
    if st[s, L.S_ZERO] == 0 and st[s, L.S_NONZERO] == 0:
        st[s, L.S_ZERO] = st[s, L.S_PAR]
        if st[s, L.S_ALGO] == L.HALVING:
            st[s, L.S_NONZERO] = _log2(st[s, L.S_N]) - 1
        elif st[s, L.S_ALGO] == L.DIRECT and st[s, L.S_GROUP] < 0:
            st[s, L.S_NONZERO] = st[s, L.S_PAR]
        else:
            st[s, L.S_NONZERO] = (st[s, L.S_N] - 1) * st[s, L.S_PAR]
        st[s, L.S_TOGGLE] = 1 - st[s, L.S_TOGGLE]
    st[s, L.S_INS] += 1
    processed = 0
    if st[s, L.S_ZERO] > 0:
        st[s, L.S_ZERO] -= 1
    else:
        st[s, L.S_NONZERO] -= 1
        processed = st[s, L.S_COMM] == L.RS or (st[s, L.S_COMM] == L.AR and st[s, L.S_TOGGLE])
    _bundle(w, s, processed)
    if st[s, L.S_ALGO] == L.HALVING:
        _halve(w, s)


@inner
def _exchange(w, s):
    """Send the oldest message that may go, and expect one; nothing if there is none."""
    st = w.streams
    if st[s, L.S_INS] == st[s, L.S_POP] or st[s, L.S_COUNT] == 0 or st[s, L.S_FREE] == 0:
        return
    n, idx, rank, tag = st[s, L.S_N], st[s, L.S_IDX], st[s, L.S_RANK], st[s, L.S_TAG]
    size, away = st[s, L.S_SIZE], 1
    if st[s, L.S_ALGO] == L.HALVING:
        size, to, source = st[s, L.S_PSIZE], st[s, L.S_PDEST], st[s, L.S_PDEST]
        away = (to - idx) % n
    else:
        if st[s, L.S_ALGO] == L.DIRECT:
            away = 1 + st[s, L.S_POP] % (n - 1)
        to, source = (idx + away * st[s, L.S_DIR]) % n, (idx - away * st[s, L.S_DIR]) % n
    if w.settings[L.G_FOLD]:
        off = away * st[s, L.S_STRIDE]
        send(w, L.NO, L.NO, tag, size, off, L.NOBODY, L.NO)
        recv(w, L.NO, L.NO, tag, size, off, L.STREAM, s)
    else:
        send(w, rank, peer(w, s, to), tag, size, L.NO, L.NOBODY, L.NO)
        recv(w, peer(w, s, source), rank, tag, size, L.NO, L.STREAM, s)
    st[s, L.S_COUNT] -= 1
    st[s, L.S_POP] += 1
    st[s, L.S_FREE] -= 1


@inner
def begin(w, s):
    """Start the phase for which :func:`setup` prepared the stream."""
    st = w.streams
    if st[s, L.S_ALGO] == L.TREE:
        tree_step(w, s, L.NO)
    else:
        for _ in range(st[s, L.S_PAR]):
            _insert(w, s)


@inner
def step(w, s, received):
    """A message has come in (``received``) or has passed the endpoint: go on; OVER when the phase is."""
    st = w.streams
    if st[s, L.S_ALGO] == L.TREE:
        return tree_step(w, s, received)
    if received:
        st[s, L.S_GOT] += 1
        _insert(w, s)
        return RUNS
    st[s, L.S_FREE] += 1
    turns = 1
    if st[s, L.S_ALGO] == L.DIRECT and st[s, L.S_COMM] == L.AR and st[s, L.S_COUNT] <= st[s, L.S_N] - 1:
        if st[s, L.S_GOT] < st[s, L.S_N] - 1:
            return RUNS  # the second half waits for all of the first
        turns = st[s, L.S_PAR]
    for _ in range(turns):
        _exchange(w, s)
    return OVER if st[s, L.S_COUNT] == 0 and st[s, L.S_FREE] == st[s, L.S_PAR] else RUNS


@inner
def _family(w, s):
    """Parent, first and second child of the stream's NPU in its tree, as places; -1 where there is none.

    Below a root with one child stands a complete tree numbered in order: of its nodes 1 ... n - 1, those divisible by
    2^k and no more stand k levels above the leaves.
    """
    st = w.streams
    n, idx, low = st[s, L.S_N], st[s, L.S_IDX], st[s, L.S_TREE]
    root = 0 if low else n - 1
    shift = 0 if low else -1  # place of node j is j + shift
    if idx == root:
        return -1, n // 2 + shift, -1
    j = idx - shift
    bit = j & -j
    parent = root if j == n // 2 else ((j & ~bit) | (bit << 1)) + shift
    if bit == 1:
        return parent, -1, -1
    return parent, j - (bit >> 1) + shift, j + (bit >> 1) + shift


@inner
def _to(w, s, place_):
    st = w.streams
    send(w, st[s, L.S_RANK], peer(w, s, place_), st[s, L.S_TAG], st[s, L.S_SIZE], L.NO, L.NOBODY, L.NO)


@inner
def _from(w, s, place_):
    st = w.streams
    recv(w, peer(w, s, place_), st[s, L.S_RANK], st[s, L.S_TAG], st[s, L.S_SIZE], L.NO, L.STREAM, s)


@inner
def tree_step(w, s, received):
    """One step of the double binary tree: the whole chunk goes up to the root and down again."""
    st = w.streams
    parent, a, b = _family(w, s)
    state = st[s, L.S_STATE]
    if parent < 0:  # root: from its child, reduce, back
        if state == 0:
            st[s, L.S_STATE] = 1
            _from(w, s, a)
        elif state == 1:
            _bundle(w, s, L.YES)
            st[s, L.S_STATE] = 2
        else:
            _to(w, s, a)
            return OVER
    elif a < 0:  # leaf: up, and what comes down
        if state == 0:
            _bundle(w, s, L.NO)
            st[s, L.S_STATE] = 1
        elif state == 1:
            _to(w, s, parent)
            _from(w, s, parent)
            st[s, L.S_STATE] = 2
        elif state == 2:
            _bundle(w, s, L.NO)
            st[s, L.S_STATE] = 3
        else:
            return OVER
    elif state == 0:
        st[s, L.S_STATE] = 1
        _from(w, s, a)
        _from(w, s, b)
    elif state in (1, 2) and received:  # a child each time
        _bundle(w, s, L.YES)
        st[s, L.S_STATE] = state + 1
    elif st[s, L.S_COUNT] < 1 and not received:  # the first of two reductions is done
        st[s, L.S_COUNT] = 1
    elif state == 3:
        st[s, L.S_STATE] = 4
        _to(w, s, parent)
        _from(w, s, parent)
    elif state == 4 and received:
        _bundle(w, s, L.YES)
        st[s, L.S_STATE] = 5
    elif state == 5:
        _to(w, s, a)
        _to(w, s, b)
        return OVER
    return RUNS
