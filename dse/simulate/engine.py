"""The event loop: nodes become ready, streams take them, transfers wait for their members and flow.

Time goes from event to event; all that happens at one instant is done before streams take new nodes and before rates
are solved anew, so that the order within an instant does not matter.
"""

from __future__ import annotations

import numpy as np

from dse.jit import njit
from dse.simulate import fluid, heap
from dse.simulate.heap import inner
from dse.simulate.records import BY_DEPENDENCE, BY_PEER, BY_STREAM, DELAYED, DONE, LANDING, RECEIVE, RUNNING, TIMED


@njit(cache=True)
def run(programs, transfers, plans, s, f, timers, policy):
    """Run until nothing happens any more; returns the number of nodes done."""
    for actor in range(len(s.program)):
        for node in range(s.base[actor], s.base[actor + 1]):
            if s.pending[node] == 0:
                _make_ready(programs, s, policy, np.int64(node), np.int64(-1), 0.0)
    now, done, nodes, transfer_count = 0.0, 0, len(s.actor), len(transfers.need)
    first_job = nodes + transfer_count
    while True:
        _issue(programs, transfers, s, timers, policy, now)
        if timers.count[0] == 0 or timers.when[0] > now:
            fluid.solve(f, timers, first_job, now)
        if timers.count[0] == 0:
            return done
        now = timers.when[0]
        while timers.count[0] > 0 and timers.when[0] == now:
            item = heap.take(timers)
            if item < nodes:
                done += _finish(programs, s, policy, item, now)
            elif item < first_job:
                done += _wake(programs, transfers, plans, s, f, timers, policy, item - nodes, now)
            else:
                done += _passed(programs, transfers, plans, s, f, timers, policy, item - first_job, now)


@inner
def _make_ready(programs, s, policy, node, cause, now):
    s.ready[node], s.cause[node], s.why[node] = now, cause, BY_DEPENDENCE
    actor = s.actor[node]
    row = programs.base[s.program[actor]] + node - s.base[actor]
    stream = programs.stream[row]
    if stream < 0:
        stream = len(programs.streams) - 1  # the last takes all at once
    line = actor * len(programs.streams) + stream
    at, base = s.line_len[line], s.line_ptr[line]
    s.line_len[line] += 1
    while at > 0:
        up = (at - 1) >> 1
        if not _before(programs, s, policy, node, s.line[base + up]):
            break
        s.line[base + at] = s.line[base + up]
        at = up
    s.line[base + at] = node
    _look(s, line)


@inner
def _look(s, line):
    if not s.listed[line]:
        s.listed[line] = True
        s.stale[s.stales[0]] = line
        s.stales[0] += 1


@inner
def _before(programs, s, policy, a, b):
    """Whether a stream takes ready node a before b, both of one actor."""
    first = programs.base[s.program[s.actor[a]]] - s.base[s.actor[a]]
    if policy == 2 and programs.priority[first + a] != programs.priority[first + b]:
        return programs.priority[first + a] > programs.priority[first + b]
    if s.ready[a] != s.ready[b]:
        return (s.ready[a] > s.ready[b]) == (policy == 1)
    return programs.order[first + a] < programs.order[first + b]


@inner
def _pop(programs, s, policy, line):
    base = s.line_ptr[line]
    first = s.line[base]
    s.line_len[line] -= 1
    count = s.line_len[line]
    node, at = s.line[base + count], 0
    while True:
        child = 2 * at + 1
        if child >= count:
            break
        if child + 1 < count and _before(programs, s, policy, s.line[base + child + 1], s.line[base + child]):
            child += 1
        if _before(programs, s, policy, node, s.line[base + child]):
            break
        s.line[base + at] = s.line[base + child]
        at = child
    s.line[base + at] = node
    return first


@inner
def _issue(programs, transfers, s, timers, policy, now):
    """Streams with room take ready nodes."""
    streams = len(programs.streams)
    for k in range(s.stales[0]):
        line = s.stale[k]
        s.listed[line] = False
        while s.line_len[line] > 0 and s.busy[line] < programs.streams[line % streams]:
            node = _pop(programs, s, policy, line)
            s.busy[line] += 1
            if now > s.ready[node]:
                s.why[node], s.cause[node] = BY_STREAM, s.freed[line]
            _begin(programs, transfers, s, timers, node, now)
    s.stales[0] = 0
    for k in range(s.calls[0]):
        queue = s.called[k]
        s.marked[queue] = False
        if s.held[queue] < 0 and s.first[queue] >= 0:
            _serve(programs, transfers, s, timers, policy, queue, now)
    s.calls[0] = 0


@inner
def _begin(programs, transfers, s, timers, node, now):
    actor = s.actor[node]
    row = programs.base[s.program[actor]] + node - s.base[actor]
    s.issued[node] = s.begin[node] = now
    o = s.transfer[node]
    if programs.kind[row] == TIMED:
        heap.put(timers, node, now + programs.seconds[row])
    elif o >= 0 and programs.kind[row] == RECEIVE:
        if s.status[o] == DONE:
            heap.put(timers, node, now)
    elif o >= 0:  # where nobody answers the node stays, and is found in the end
        _join(transfers, s, timers, o, node, now)


@inner
def _join(transfers, s, timers, o, node, now):
    """A member has come; the last one sets the transfer off."""
    s.arrived[o] += 1
    if s.arrived[o] < transfers.need[o]:
        return
    for i in range(transfers.node_ptr[o], transfers.node_ptr[o + 1]):
        if s.issued[transfers.node[i]] < now:
            s.why[transfers.node[i]], s.cause[transfers.node[i]] = BY_PEER, node
    queue = transfers.queue[o]
    if queue < 0:
        _release(transfers, s, timers, o, now)
        return
    s.complete[o] = now
    s.second[o] = s.first[queue]
    s.first[queue] = o
    _call(s, queue)


@inner
def _call(s, queue):
    if not s.marked[queue]:
        s.marked[queue] = True
        s.called[s.calls[0]] = queue
        s.calls[0] += 1


@inner
def _release(transfers, s, timers, o, now):
    s.status[o] = DELAYED
    heap.put(timers, len(s.actor) + o, now + transfers.delay[o])
    for i in range(transfers.node_ptr[o], transfers.node_ptr[o + 1]):
        s.begin[transfers.node[i]] = now


@inner
def _serve(programs, transfers, s, timers, policy, queue, now):
    """A queue takes the next transfer, by the streams' policy; of equal ones the earlier turn."""
    o = s.first[queue]
    best, before_best, before = np.int64(-1), np.int64(-1), np.int64(-1)
    while o >= 0:
        if best < 0 or _sooner(programs, transfers, s, policy, o, best):
            best, before_best = o, before
        before, o = o, s.second[o]
    if before_best < 0:
        s.first[queue] = s.second[best]
    else:
        s.second[before_best] = s.second[best]
    s.held[queue] = best
    if s.complete[best] < now:  # it waited for the one before, of which every member took part
        last, first = transfers.node_ptr[s.gone[queue]], transfers.node_ptr[best]
        for i in range(transfers.node_ptr[best + 1] - first):
            s.why[transfers.node[first + i]], s.cause[transfers.node[first + i]] = BY_STREAM, transfers.node[last + i]
    _release(transfers, s, timers, best, now)


@inner
def _sooner(programs, transfers, s, policy, a, b):
    if policy == 2:
        one, other = _priority(programs, transfers, s, a), _priority(programs, transfers, s, b)
        if one != other:
            return one > other
    if s.complete[a] != s.complete[b]:
        return (s.complete[a] > s.complete[b]) == (policy == 1)
    return a < b  # transfers of a group are numbered by turn


@inner
def _priority(programs, transfers, s, o):
    """The highest of the members."""
    highest = np.int64(-(1 << 62))
    for i in range(transfers.node_ptr[o], transfers.node_ptr[o + 1]):
        node = transfers.node[i]
        actor = s.actor[node]
        highest = max(highest, programs.priority[programs.base[s.program[actor]] + node - s.base[actor]])
    return highest


@inner
def _finish(programs, s, policy, node, now):
    """A node is done: its stream is free, its children may be ready."""
    s.end[node] = now
    actor = s.actor[node]
    first = programs.base[s.program[actor]]
    row = first + node - s.base[actor]
    stream = programs.stream[row]
    line = actor * len(programs.streams) + (stream if stream >= 0 else len(programs.streams) - 1)
    s.busy[line] -= 1
    s.freed[line] = node
    _look(s, line)
    for i in range(programs.child_ptr[row], programs.child_ptr[row + 1]):
        child = s.base[actor] + programs.child[i]
        s.pending[child] -= 1
        if s.pending[child] == 0:
            _make_ready(programs, s, policy, child, node, now)
    return 1


@inner
def _wake(programs, transfers, plans, s, f, timers, policy, o, now):
    """The delay before, or after, a transfer is over."""
    if s.status[o] == DELAYED:
        s.status[o] = RUNNING
        s.flows_from[o] = now
        plan = transfers.plan[o]
        s.left[o] = plans.chunks[plan] if plans.phases[plan] > 0 else 0
        if s.left[o] == 0:
            return _sent(programs, transfers, s, timers, policy, o, now)
        _advance(transfers, plans, s, f, o, now)
        return 0
    s.status[o] = DONE
    done = 0
    for i in range(transfers.receiver_ptr[o], transfers.receiver_ptr[o + 1]):
        node = transfers.receiver[i]
        if s.issued[node] >= 0.0:
            s.begin[node] = max(s.issued[node], s.flows_from[o])
            s.why[node], s.cause[node] = BY_PEER, transfers.node[transfers.node_ptr[o]]
            done += _finish(programs, s, policy, node, now)
    return done


@inner
def _sent(programs, transfers, s, timers, policy, o, now):
    """The last byte has left: members are done; a message still has to arrive."""
    done, queue = 0, transfers.queue[o]
    if queue >= 0:
        s.held[queue], s.gone[queue] = -1, o
        _call(s, queue)
    for i in range(transfers.node_ptr[o], transfers.node_ptr[o + 1]):
        done += _finish(programs, s, policy, transfers.node[i], now)
    if transfers.receiver_ptr[o + 1] > transfers.receiver_ptr[o]:
        s.status[o] = LANDING
        heap.put(timers, len(s.actor) + o, now + transfers.landing[o])
    else:
        s.status[o] = DONE
    return done


@inner
def _advance(transfers, plans, s, f, o, now):
    """Idle lanes take the next chunk: of those that wait, the one in the earliest phase."""
    plan = transfers.plan[o]
    chunks, phases, first = plans.chunks[plan], plans.phases[plan], plans.first[plan]
    for lane in range(plans.lanes[plan]):
        if s.moving[s.lane[o] + lane] >= 0:
            continue
        best = np.int64(-1)
        for c in range(chunks):
            p = s.phase[transfers.chunk[o] + c]
            if p < 0 or p >= phases or plans.lane[first + c * phases + p] != lane:
                continue
            if best < 0 or p < s.phase[transfers.chunk[o] + best]:
                best = c
        if best >= 0:
            _launch(transfers, plans, s, f, o, lane, best, now)


@inner
def _launch(transfers, plans, s, f, o, lane, chunk, now):
    plan = transfers.plan[o]
    p = s.phase[transfers.chunk[o] + chunk]
    size = plans.size[plans.first[plan] + chunk * plans.phases[plan] + p]
    s.moving[s.lane[o] + lane] = chunk
    s.phase[transfers.chunk[o] + chunk] = -1 - p  # under way
    slot = plans.first_lane[plan] + lane
    job = transfers.job[o] + plans.offset[slot]
    schedule = plans.schedule[slot]
    if schedule < 0:
        fluid.start(f, job, size, now)
        return
    first, end = plans.message[schedule], plans.message[schedule + 1]
    s.open[s.lane[o] + lane] = end - first
    for m in range(first, end):
        s.waits[job + m - first] = plans.waits[m]
        if plans.waits[m] == 0:
            fluid.start(f, job + m - first, size * plans.share[m], now)


@inner
def _passed(programs, transfers, plans, s, f, timers, policy, job, now):
    """The last byte of a job has passed, or its message has arrived."""
    o, lane = s.job_transfer[job], s.job_lane[job]
    plan = transfers.plan[o]
    slot = plans.first_lane[plan] + lane
    schedule = plans.schedule[slot]
    if schedule < 0:
        fluid.stop(f, job)
    else:
        first_job = transfers.job[o] + plans.offset[slot]
        message = plans.message[schedule] + job - first_job
        if not s.landing[job]:
            fluid.stop(f, job)
            if plans.latency[message] > 0.0:
                s.landing[job] = True
                heap.put(timers, len(s.actor) + len(transfers.need) + job, now + plans.latency[message])
                return 0
        s.landing[job] = False
        if not _arrived(transfers, plans, s, f, o, lane, message, now):
            return 0
    return _phase_over(programs, transfers, plans, s, f, timers, policy, o, lane, now)


@inner
def _arrived(transfers, plans, s, f, o, lane, message, now):
    """A message has arrived: others may start; whether it was the last of its phase."""
    plan = transfers.plan[o]
    slot = plans.first_lane[plan] + lane
    chunk = s.moving[s.lane[o] + lane]
    p = -1 - s.phase[transfers.chunk[o] + chunk]
    size = plans.size[plans.first[plan] + chunk * plans.phases[plan] + p]
    first = plans.message[plans.schedule[slot]]
    for i in range(plans.next_ptr[message], plans.next_ptr[message + 1]):
        other = plans.next[i]
        job = transfers.job[o] + plans.offset[slot] + other - first
        s.waits[job] -= 1
        if s.waits[job] == 0:
            fluid.start(f, job, size * plans.share[other], now)
    s.open[s.lane[o] + lane] -= 1
    return s.open[s.lane[o] + lane] == 0


@inner
def _phase_over(programs, transfers, plans, s, f, timers, policy, o, lane, now):
    plan = transfers.plan[o]
    chunk = transfers.chunk[o] + s.moving[s.lane[o] + lane]
    s.moving[s.lane[o] + lane] = -1
    s.phase[chunk] = -s.phase[chunk]  # the next one
    if s.phase[chunk] == plans.phases[plan]:
        s.left[o] -= 1
        if s.left[o] == 0:
            return _sent(programs, transfers, s, timers, policy, o, now)
    _advance(transfers, plans, s, f, o, now)
    return 0
