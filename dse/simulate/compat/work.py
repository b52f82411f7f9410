"""NPUs at work: which nodes of a trace are issued when, what ends them, and the loop over events."""

from __future__ import annotations

import numpy as np

from dse.simulate.compat import layout as L
from dse.simulate.compat.algorithms import OVER, _reduction, step
from dse.simulate.compat.arrays import compiled, inner
from dse.simulate.compat.events import close_batch, give, pop, push, register
from dse.simulate.compat.queues import launch, leave
from dse.simulate.compat.ready import ready_pop, ready_push
from dse.simulate.compat.wires import go_on, hop, link_free, recv, send

NATIVE = np.int64(1 << 40)  # added to the tags of the trace's own messages
HEAD = 0


@inner
def _finish(w, rank, local, put_off):
    """A node has ended: its slot is free, and its children lose a dependence. The number of children put off."""
    child_ptr, left = w.child_ptr, w.left
    r = w.ranks[rank]
    first = w.class_ptr[r[L.R_CLASS]]
    r[L.R_SLOT + w.nodes[first + local, L.N_SLOT]] = 0
    r[L.R_ONGOING] -= 1
    w.end[r[L.R_BASE] + local] = w.clock[L.NOW]
    for k in range(child_ptr[first + local], child_ptr[first + local + 1]):
        child = w.child[k]
        left[r[L.R_BASE] + child] -= 1
        if left[r[L.R_BASE] + child] == 0:
            if put_off >= 0:
                w.later[put_off] = child
                put_off += 1
            else:
                ready_push(w, rank, child)
    return put_off


@inner
def _memory(w, rank, local, row):
    """A load or store of remote memory: at once, or in turn where a memory serves several NPUs."""
    waiting, servers, g = w.waiting, w.servers, w.settings
    kind, time = g[L.G_MEMORY], w.nodes[row, L.N_TIME]
    if kind == 1:
        register(w, rank, time, L.CALL_NODE, local, L.NO, L.NO)
        return
    server = rank // g[L.G_PER_NODE] if kind == 2 else 0
    if not servers[server, HEAD]:
        servers[server, HEAD] = 1
        _serve(w, rank, local, time, server)
        return
    me = w.ranks[rank, L.R_BASE] + local + 1
    waiting[me - 1] = 0
    if servers[server, 1]:
        waiting[servers[server, 2] - 1] = me
    else:
        servers[server, 1] = me
    servers[server, 2] = me


@inner
def _serve(w, rank, local, time, server):
    register(w, rank, time, L.CALL_NODE, local, L.NO, L.NO)
    register(w, rank, time, L.CALL_SERVER, server, L.NO, L.NO)


@inner
def _next_request(w, server):
    """A memory has served a request: the next that waits."""
    servers, ranks = w.servers, w.ranks
    me = servers[server, 1]
    if not me:
        servers[server, HEAD] = 0
        return
    servers[server, 1] = w.waiting[me - 1]
    low, high = 0, len(ranks) - 1
    while low < high:  # whose node it is
        mid = (low + high + 1) >> 1
        if ranks[mid, L.R_BASE] <= me - 1:
            low = mid
        else:
            high = mid - 1
    local = me - 1 - ranks[low, L.R_BASE]
    _serve(w, low, local, w.nodes[w.class_ptr[ranks[low, L.R_CLASS]] + local, L.N_TIME], server)


@inner
def _bad(w, rank, local, why):
    clock = w.clock
    clock[L.THROWN], clock[L.BAD_RANK], clock[L.BAD_NODE] = why, rank, local


@inner
def _collective(w, rank, local, row):
    """Start a collective; where collectives are answered whole, arrive at it."""
    ranks, nodes, clock, later, plans, counters, group_ptr = (
        w.ranks,
        w.nodes,
        w.clock,
        w.later,
        w.plans,
        w.counters,
        w.group_ptr,
    )
    r = ranks[rank]
    group = member = -1
    if nodes[row, L.N_LABEL] >= 0:
        member = w.group_of[r[L.R_LABEL] + nodes[row, L.N_LABEL]]
        if member < 0:
            _bad(w, rank, local, L.NO_GROUP)
            return
        low, high = 0, len(group_ptr) - 2
        while low < high:
            mid = (low + high + 1) >> 1
            if group_ptr[mid] <= member:
                low = mid
            else:
                high = mid - 1
        group = low
    plan = nodes[row, L.N_PLAN]
    if not w.settings[L.G_WHOLE]:
        launch(w, rank, local, plan, group, member)
        return
    if plans[plan, L.P_HI] == plans[plan, L.P_LO]:
        return
    tag = r[L.R_STREAMS]
    r[L.R_STREAMS] += plans[plan, L.P_HI] - plans[plan, L.P_LO]
    if group >= 0:
        tag = counters[member]
        counters[member] += plans[plan, L.P_HI] - plans[plan, L.P_LO]
        c = group
    else:
        c = len(group_ptr) - 1 + nodes[row, L.N_MASK] * len(ranks)
        c += rank - _offset(w, rank, nodes[row, L.N_MASK])
    r[L.R_CAME] = clock[L.EVENTS]
    w.arrived[rank] = clock[L.NOW]
    later[len(later) - len(ranks) + rank] = local
    comm = w.comms[c]
    if comm[L.C_HERE] and (comm[L.C_PLAN] != plan or comm[L.C_TAG] != tag):
        clock[L.STATUS] = -1  # ranks disagree: only message by message can say what happens
    comm[L.C_PLAN], comm[L.C_TAG] = plan, tag
    comm[L.C_HERE] += 1
    if comm[L.C_HERE] == comm[L.C_SIZE]:
        comm[L.C_HERE] = 0
        clock[L.ASK_TOO if clock[L.ASK] else L.ASK] = c + 1  # a message that arrives moves two NPUs on


@inner
def _offset(w, rank, mask):
    """The part of a rank's number that lies in the dimensions of a mask (kept in ``settings`` behind the rest)."""
    sizes = w.sizes
    bits = w.settings[L.MASKS + mask]
    total = 0
    for d in range(len(sizes)):
        if bits >> d & 1:
            total += (rank // sizes[d, 2]) % sizes[d, 1] * sizes[d, 2]
    return total


@inner
def _issue(w, rank, local, put_off):
    """Issue a node. The number of children put off, as :func:`_finish`."""
    r, now = w.ranks[rank], w.clock[L.NOW]
    row = w.class_ptr[r[L.R_CLASS]] + local
    node = w.nodes[row]
    if node[L.N_SLOT] != L.FREE_SLOT:
        r[L.R_SLOT + node[L.N_SLOT]] = 1
    r[L.R_ONGOING] += 1
    w.start[r[L.R_BASE] + local] = now
    kind = node[L.N_KIND]
    if kind == L.K_REPLAY:
        if node[L.N_SLOT] != L.CPU and node[L.N_PLAN] >= 0:  # a collective that is replayed is not compute
            r[L.R_TICS] += node[L.N_TIME]
        register(w, rank, node[L.N_TIME], L.CALL_NODE, local, L.NO, L.NO)
    elif kind == L.K_MEM:
        if w.settings[L.G_MEMORY] == 0:
            _bad(w, rank, local, L.NO_REMOTE)
        else:
            _memory(w, rank, local, row)
    elif kind == L.K_SEND or kind == L.K_RECV:
        peer = node[L.N_PEER] + rank * node[L.N_MASK]
        if peer == rank:
            _bad(w, rank, local, L.TO_ITSELF)
        elif peer < 0 or peer >= len(w.ranks):
            _bad(w, rank, local, L.NO_RANK)
        elif node[L.N_PLAN] >= 0 and node[L.N_PLAN] != rank:
            _bad(w, rank, local, L.NOT_MINE)
        elif kind == L.K_SEND:
            send(w, rank, peer, node[L.N_TAG] + NATIVE, node[L.N_SIZE], L.NO, L.NODE, local)
        else:
            recv(w, peer, rank, node[L.N_TAG] + NATIVE, node[L.N_SIZE], L.NO, L.NODE, local)
    elif kind == L.K_COLL:
        _collective(w, rank, local, row)
    elif kind == L.K_SKIP:
        return _finish(w, rank, local, put_off)
    else:
        _bad(w, rank, local, node[L.N_BAD])
    return put_off


@inner
def call(w, rank, local):
    """Tell an NPU that a node has ended (-1: nothing has, it starts): issue what may be issued, see if it is finished.

    Nodes are issued in the order of their ids, and only those that were ready when this began: a node that ends at once
    (no work in it) leaves its children to the next call. If there is none, the NPU never finishes.
    """
    clock, ready_n = w.clock, w.ready_n
    r = w.ranks[rank]
    if r[L.R_END] >= 0:
        return
    if local >= 0:
        _finish(w, rank, local, L.NONE)
    put_off = L.NO
    while clock[L.THROWN] == 0:
        best, from_slot = L.NONE, L.NO
        for slot in range(4):
            if ready_n[rank, slot] and (slot == L.FREE_SLOT or not r[L.R_SLOT + slot]):
                top = w.ready[r[L.R_BASE] + w.slot_ptr[r[L.R_CLASS], slot]]
                if best < 0 or top < best:
                    best, from_slot = top, slot
        if best < 0:
            break
        put_off = _issue(w, rank, ready_pop(w, rank, from_slot), put_off)
    for k in range(put_off):
        ready_push(w, rank, w.later[k])
    if clock[L.THROWN]:
        return
    if r[L.R_ONGOING] == 0 and ready_n[rank, 0] + ready_n[rank, 1] + ready_n[rank, 2] + ready_n[rank, 3] == 0:
        r[L.R_END], r[L.R_WENT] = clock[L.NOW], clock[L.EVENTS]


@inner
def _step(w, s, received):
    """One step of a stream, and what follows when its phase is over."""
    data = w.data
    if step(w, s, received) != OVER:
        return
    st = w.streams
    ends = st[s, L.S_PHASE] == st[s, L.S_LAST]
    if ends:
        d = st[s, L.S_DATA]
        data[d, L.D_LEFT] -= 1
        if data[d, L.D_LEFT] == 0:  # the NPU goes on before the stream has left its queue
            rank, node = data[d, L.D_RANK], data[d, L.D_NODE]
            give(data, w.clock, L.DATA0, L.D_NEXT, d)
            call(w, rank, node)
    leave(w, s, ends)


@inner
def _told(w, kind, arg, rank, sends):
    """Tell whoever waits for a message."""
    if kind == L.STREAM:
        _step(w, arg, L.YES)
    elif kind == L.NODE:
        call(w, rank, arg)
    elif kind == L.RENDEZVOUS:
        go_on(w, arg, L.YES - sends)


@inner
def _arrive(w, m):
    msgs = w.msgs
    if w.settings[L.G_AWARE] and msgs[m, L.HERE] != msgs[m, L.DST]:
        hop(w, m)
        return
    both = msgs[m, L.SIDE] == L.BOTH_SIDES
    if both:
        sk, sa, rk, ra = msgs[m, L.SEND_KIND], msgs[m, L.SEND_ARG], msgs[m, L.RECV_KIND], msgs[m, L.RECV_ARG]
        src, dst = msgs[m, L.SRC], msgs[m, L.DST]
        give(msgs, w.clock, L.MSG0, L.NEXT, m)
        _told(w, sk, sa, src, L.YES)
        _told(w, rk, ra, dst, L.NO)
    else:
        msgs[m, L.ARRIVED] = 1
        _told(w, msgs[m, L.SEND_KIND], msgs[m, L.SEND_ARG], msgs[m, L.SRC], L.YES)


@inner
def _caught(clock):
    """What a delayed call throws is caught, and the node never ends; some faults end the run wherever they are."""
    why = clock[L.THROWN]
    if why in (L.METADATA, L.NO_REMOTE, L.NO_GROUP, L.TO_ITSELF, L.NO_RANK, L.NO_SIZE):
        clock[L.STATUS] = why
    clock[L.THROWN] = 0


@inner
def _run_batch(w, code):
    """Run all that an NPU has registered with itself for this time."""
    clock = w.clock
    ranks = len(w.pending)
    batch, rank = code // ranks, code % ranks
    items = w.items
    item = w.batches[batch, L.BATCH_HEAD]
    while item:
        kind, a, processed, size = (
            items[item, L.ITEM_KIND],
            items[item, L.ITEM_A],
            items[item, L.ITEM_B],
            items[item, L.ITEM_C],
        )
        if kind == L.CALL_NODE:
            call(w, rank, a)
        elif kind == L.CALL_SERVER:
            _next_request(w, a)
        elif processed:
            register(w, rank, _reduction(w, size), L.CALL_BUNDLE, a, L.NO, size)
        else:
            _step(w, a, L.NO)
        _caught(clock)
        if clock[L.STATUS] or clock[L.FULL]:
            return
        following = items[item, L.ITEM_NEXT]
        give(items, clock, L.ITEM0, L.ITEM_NEXT, item)
        item = following
    close_batch(w, rank, batch)


@compiled
def done(w, members, times, early):
    """NPUs end their collective at ``times``; ``early``: how long before that it is certain."""
    for k in range(len(members)):
        push(w, times[k], times[k] - early, L.DONE, members[k])


@compiled
def advance(w):
    """Run until nothing is left, a pool is full, the run ends early, or a collective needs an answer (``ASK``)."""
    msgs, later = w.msgs, w.later
    clock = w.clock
    while clock[L.HEAP_N] and not clock[L.FULL] and not clock[L.STATUS] and not clock[L.ASK]:
        what, arg = pop(w)
        clock[L.EVENTS] += 1
        if what == L.BATCH:
            _run_batch(w, arg)
        elif what == L.ARRIVE:
            _arrive(w, arg)
        elif what == L.LINK_FREE:
            link_free(w, arg)
        elif what == L.RECV_NOW:
            kind, told, rank = msgs[arg, L.RECV_KIND], msgs[arg, L.RECV_ARG], msgs[arg, L.DST]
            give(msgs, clock, L.MSG0, L.NEXT, arg)
            _told(w, kind, told, rank, L.NO)
        elif what == L.FIRE:
            call(w, arg, L.NONE)
        else:
            call(w, arg, later[len(later) - len(w.ranks) + arg])
            _caught(clock)
        if clock[L.THROWN]:  # elsewhere nothing catches it
            clock[L.STATUS] = clock[L.THROWN]


@compiled
def begin(w, at, order):
    """Have each NPU start at its time ``at`` [R], in ``order`` where times are equal, with what depends on nothing."""
    ranks, class_ptr = w.ranks, w.class_ptr
    for rank in order:
        push(w, at[rank], L.NONE, L.FIRE, rank)
        cls = ranks[rank, L.R_CLASS]
        for local in range(class_ptr[cls + 1] - class_ptr[cls]):
            if w.left[ranks[rank, L.R_BASE] + local] == 0:
                ready_push(w, rank, local)
