"""NPUs at work: which nodes of a trace are issued when, what ends them, and the loop over events."""

from __future__ import annotations

from dse.simulate.compat.arrays import compiled, inner

from dse.simulate.compat import layout as L
from dse.simulate.compat.algorithms import OVER, _reduction, step
from dse.simulate.compat.events import close_batch, give, pop, push, register
from dse.simulate.compat.queues import launch, leave
from dse.simulate.compat.wires import go_on, hop, link_free, recv, send

NATIVE = 1 << 40  # added to the tags of the trace's own messages
HEAD = 0


@inner
def _ready_push(w, rank, local):
    """Node ``local`` of a rank has no open dependences: into the heap of its slot, lowest id on top."""
    cls = w.ranks[rank, L.R_CLASS]
    slot = w.nodes[w.class_ptr[cls] + local, L.N_SLOT]
    base = w.ranks[rank, L.R_BASE] + w.slot_ptr[cls, slot]
    at = w.ready_n[rank, slot]
    w.ready_n[rank, slot] = at + 1
    w.ready[base + at] = local
    while at > 0:
        above = (at - 1) >> 1
        if w.ready[base + above] <= w.ready[base + at]:
            break
        w.ready[base + above], w.ready[base + at] = w.ready[base + at], w.ready[base + above]
        at = above


@inner
def _ready_pop(w, rank, slot):
    base = w.ranks[rank, L.R_BASE] + w.slot_ptr[w.ranks[rank, L.R_CLASS], slot]
    n = w.ready_n[rank, slot] - 1
    w.ready_n[rank, slot] = n
    top = w.ready[base]
    w.ready[base] = w.ready[base + n]
    at = 0
    while True:
        low = 2 * at + 1
        if low >= n:
            break
        if low + 1 < n and w.ready[base + low + 1] < w.ready[base + low]:
            low += 1
        if w.ready[base + at] <= w.ready[base + low]:
            break
        w.ready[base + low], w.ready[base + at] = w.ready[base + at], w.ready[base + low]
        at = low
    return top


@inner
def _finish(w, rank, local, put_off):
    """A node has ended: its slot is free, and its children lose a dependence. The number of children put off."""
    r = w.ranks[rank]
    first = w.class_ptr[r[L.R_CLASS]]
    r[L.R_SLOT + w.nodes[first + local, L.N_SLOT]] = 0
    r[L.R_ONGOING] -= 1
    w.end[r[L.R_BASE] + local] = w.clock[L.NOW]
    for k in range(w.child_ptr[first + local], w.child_ptr[first + local + 1]):
        child = w.child[k]
        w.left[r[L.R_BASE] + child] -= 1
        if w.left[r[L.R_BASE] + child] == 0:
            if put_off >= 0:
                w.later[put_off] = child
                put_off += 1
            else:
                _ready_push(w, rank, child)
    return put_off


@inner
def _memory(w, rank, local, row):
    """A load or store of remote memory: at once, or in turn where a memory serves several NPUs."""
    kind, time = w.settings[L.G_MEMORY], w.nodes[row, L.N_TIME]
    if kind == 1:
        register(w, rank, time, L.CALL_NODE, local, 0, 0)
        return
    server = rank // w.settings[L.G_PER_NODE] if kind == 2 else 0
    if not w.servers[server, HEAD]:
        w.servers[server, HEAD] = 1
        _serve(w, rank, local, time, server)
        return
    me = w.ranks[rank, L.R_BASE] + local + 1
    w.waiting[me - 1] = 0
    if w.servers[server, 1]:
        w.waiting[w.servers[server, 2] - 1] = me
    else:
        w.servers[server, 1] = me
    w.servers[server, 2] = me


@inner
def _serve(w, rank, local, time, server):
    register(w, rank, time, L.CALL_NODE, local, 0, 0)
    register(w, rank, time, L.CALL_SERVER, server, 0, 0)


@inner
def _next_request(w, server):
    """A memory has served a request: the next that waits."""
    me = w.servers[server, 1]
    if not me:
        w.servers[server, HEAD] = 0
        return
    w.servers[server, 1] = w.waiting[me - 1]
    low, high = 0, len(w.ranks) - 1
    while low < high:  # whose node it is
        mid = (low + high + 1) >> 1
        if w.ranks[mid, L.R_BASE] <= me - 1:
            low = mid
        else:
            high = mid - 1
    local = me - 1 - w.ranks[low, L.R_BASE]
    _serve(w, low, local, w.nodes[w.class_ptr[w.ranks[low, L.R_CLASS]] + local, L.N_TIME], server)


@inner
def _bad(w, rank, local, why):
    w.clock[L.THROWN], w.clock[L.BAD_RANK], w.clock[L.BAD_NODE] = why, rank, local
    w.ranks[rank, L.R_FAILED] = why


@inner
def _collective(w, rank, local, row):
    """Start a collective; where collectives are answered whole, arrive at it."""
    r = w.ranks[rank]
    group = member = -1
    if w.nodes[row, L.N_LABEL] >= 0:
        member = w.group_of[r[L.R_LABEL] + w.nodes[row, L.N_LABEL]]
        if member < 0:
            _bad(w, rank, local, L.NO_GROUP)
            return
        low, high = 0, len(w.group_ptr) - 2
        while low < high:
            mid = (low + high + 1) >> 1
            if w.group_ptr[mid] <= member:
                low = mid
            else:
                high = mid - 1
        group = low
    plan = w.nodes[row, L.N_PLAN]
    if not w.settings[L.G_WHOLE]:
        launch(w, rank, local, plan, group, member)
        return
    if w.plans[plan, L.P_HI] == w.plans[plan, L.P_LO]:
        return
    tag = r[L.R_STREAMS]
    r[L.R_STREAMS] += w.plans[plan, L.P_HI] - w.plans[plan, L.P_LO]
    if group >= 0:
        tag = w.counters[member]
        w.counters[member] += w.plans[plan, L.P_HI] - w.plans[plan, L.P_LO]
        c = group
    else:
        c = len(w.group_ptr) - 1 + w.nodes[row, L.N_MASK] * len(w.ranks)
        c += rank - _offset(w, rank, w.nodes[row, L.N_MASK])
    r[L.R_COMM] = c
    w.arrived[rank] = w.clock[L.NOW]
    w.later[len(w.later) - len(w.ranks) + rank] = local
    comm = w.comms[c]
    if comm[L.C_HERE] and (comm[L.C_PLAN] != plan or comm[L.C_TAG] != tag):
        w.clock[L.STATUS] = -1  # ranks disagree: only message by message can say what happens
    comm[L.C_PLAN], comm[L.C_TAG] = plan, tag
    comm[L.C_HERE] += 1
    if comm[L.C_HERE] == comm[L.C_SIZE]:
        comm[L.C_HERE] = 0
        w.clock[L.ASK_TOO if w.clock[L.ASK] else L.ASK] = c + 1  # a message that arrives moves two NPUs on


@inner
def _offset(w, rank, mask):
    """The part of a rank's number that lies in the dimensions of a mask (kept in ``settings`` behind the rest)."""
    bits = w.settings[L.MASKS + mask]
    total = 0
    for d in range(len(w.sizes)):
        if bits >> d & 1:
            total += (rank // w.sizes[d, 2]) % w.sizes[d, 1] * w.sizes[d, 2]
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
        if node[L.N_SLOT] != L.CPU:
            r[L.R_TICS] += node[L.N_TIME]
        register(w, rank, node[L.N_TIME], L.CALL_NODE, local, 0, 0)
    elif kind == L.K_MEM:
        if w.settings[L.G_MEMORY] == 0:
            _bad(w, rank, local, L.NO_REMOTE)
        else:
            _memory(w, rank, local, row)
    elif kind == L.K_SEND or kind == L.K_RECV:
        peer = node[L.N_PEER] + rank * node[L.N_MASK]
        if peer == rank:
            _bad(w, rank, local, L.TO_ITSELF)
        elif kind == L.K_SEND:
            send(w, rank, peer, node[L.N_TAG] + NATIVE, node[L.N_SIZE], 0, L.NODE, local)
        else:
            recv(w, peer, rank, node[L.N_TAG] + NATIVE, node[L.N_SIZE], 0, L.NODE, local)
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
    r = w.ranks[rank]
    if r[L.R_END] >= 0:
        return
    if local >= 0:
        _finish(w, rank, local, -1)
    put_off = 0
    while w.clock[L.THROWN] == 0:
        best, from_slot = -1, 0
        for slot in range(4):
            if w.ready_n[rank, slot] and (slot == L.FREE_SLOT or not r[L.R_SLOT + slot]):
                top = w.ready[r[L.R_BASE] + w.slot_ptr[r[L.R_CLASS], slot]]
                if best < 0 or top < best:
                    best, from_slot = top, slot
        if best < 0:
            break
        put_off = _issue(w, rank, _ready_pop(w, rank, from_slot), put_off)
    for k in range(put_off):
        _ready_push(w, rank, w.later[k])
    if w.clock[L.THROWN]:
        return
    if r[L.R_ONGOING] == 0 and w.ready_n[rank, 0] + w.ready_n[rank, 1] + w.ready_n[rank, 2] + w.ready_n[rank, 3] == 0:
        r[L.R_END] = w.clock[L.NOW]


@inner
def _step(w, s, received):
    """One step of a stream, and what follows when its phase is over."""
    if step(w, s, received) != OVER:
        return
    st = w.streams
    ends = st[s, L.S_PHASE] == st[s, L.S_LAST]
    if ends:
        d = st[s, L.S_DATA]
        w.data[d, L.D_LEFT] -= 1
        if w.data[d, L.D_LEFT] == 0:  # the NPU goes on before the stream has left its queue
            rank, node = w.data[d, L.D_RANK], w.data[d, L.D_NODE]
            give(w.data, w.clock, L.DATA0, L.D_NEXT, d)
            call(w, rank, node)
    leave(w, s, ends)


@inner
def _told(w, kind, arg, rank, sends):
    """Tell whoever waits for a message."""
    if kind == L.STREAM:
        _step(w, arg, True)
    elif kind == L.NODE:
        call(w, rank, arg)
    elif kind == L.RENDEZVOUS:
        go_on(w, arg, not sends)


@inner
def _arrive(w, m):
    msgs = w.msgs
    if w.settings[L.G_AWARE] and msgs[m, L.HERE] != msgs[m, L.DST]:
        hop(w, m)
        return
    both = msgs[m, L.SIDE] == 3
    if both:
        sk, sa, rk, ra = msgs[m, L.SEND_KIND], msgs[m, L.SEND_ARG], msgs[m, L.RECV_KIND], msgs[m, L.RECV_ARG]
        src, dst = msgs[m, L.SRC], msgs[m, L.DST]
        give(msgs, w.clock, L.MSG0, L.NEXT, m)
        _told(w, sk, sa, src, True)
        _told(w, rk, ra, dst, False)
    else:
        msgs[m, L.ARRIVED] = 1
        _told(w, msgs[m, L.SEND_KIND], msgs[m, L.SEND_ARG], msgs[m, L.SRC], True)


@inner
def _run_batch(w, code):
    ranks = len(w.pending)
    batch, rank = code // ranks, code % ranks
    items = w.items
    item = w.batches[batch, L.BATCH_HEAD]
    while item:
        kind, a, processed, size = items[item, L.ITEM_KIND], items[item, L.ITEM_A], items[item, L.ITEM_B], items[item, L.ITEM_C]
        if kind == L.CALL_NODE:
            call(w, rank, a)
        elif kind == L.CALL_SERVER:
            _next_request(w, a)
        elif processed:
            register(w, rank, _reduction(w, size), L.CALL_BUNDLE, a, 0, size)
        else:
            _step(w, a, False)
        if w.clock[L.THROWN]:
            # What a delayed call throws is caught and forgotten; some ends cannot be caught.
            if w.clock[L.THROWN] in (L.METADATA, L.NO_REMOTE, L.NO_GROUP, L.TO_ITSELF, L.NO_SIZE):
                w.clock[L.STATUS] = w.clock[L.THROWN]
                return
            w.clock[L.THROWN] = 0
        following = items[item, L.ITEM_NEXT]
        give(items, w.clock, L.ITEM0, L.ITEM_NEXT, item)
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
            kind, told, rank = w.msgs[arg, L.RECV_KIND], w.msgs[arg, L.RECV_ARG], w.msgs[arg, L.DST]
            give(w.msgs, clock, L.MSG0, L.NEXT, arg)
            _told(w, kind, told, rank, False)
        elif what == L.FIRE:
            call(w, arg, -1)
        else:
            call(w, arg, w.later[len(w.later) - len(w.ranks) + arg])
        if clock[L.THROWN]:
            clock[L.STATUS] = clock[L.THROWN]


@compiled
def begin(w, at):
    """Have each NPU start at its time ``at`` [R]; nodes without dependences are ready."""
    for rank in range(len(w.ranks)):
        push(w, at[rank], -1, L.FIRE, rank)
        cls = w.ranks[rank, L.R_CLASS]
        for local in range(w.class_ptr[cls + 1] - w.class_ptr[cls]):
            if w.left[w.ranks[rank, L.R_BASE] + local] == 0:
                _ready_push(w, rank, local)
