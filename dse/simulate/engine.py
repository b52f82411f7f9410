"""The event loop: nodes become ready, streams take them, transfers wait for their members and flow.

Time goes from event to event; all that happens at one instant is done before streams take new nodes and before rates
are solved anew, so that the order within an instant does not matter.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from dse.simulate import fluid, heap
from dse.simulate.heap import inner

TIMED, JOIN, RECEIVE = 0, 1, 2  # what a node does: pass its time; take part in a transfer; wait for a message
WAITING, DELAYED, RUNNING, LANDING, DONE = 0, 1, 2, 3, 4  # where a transfer is
BY_DEPENDENCE, BY_STREAM, BY_PEER = 0, 1, 2  # what a node waited for last
POLICY = {"fifo": 0, "lifo": 1, "priority": 2}


class Programs(NamedTuple):
    """What devices run; rows of all programs in one."""

    base: np.ndarray  # int64 [programs + 1], first row
    kind: np.ndarray  # int8 [rows]: TIMED, JOIN or RECEIVE
    stream: np.ndarray  # int64 [rows], -1: needs none
    seconds: np.ndarray  # float64 [rows], of TIMED nodes
    priority: np.ndarray  # int64 [rows]
    order: np.ndarray  # int64 [rows], by ascending id
    parents: np.ndarray  # int64 [rows], how many
    child_ptr: np.ndarray  # int64 [rows + 1]
    child: np.ndarray  # int64, row within the program
    streams: np.ndarray  # int64 [streams], nodes that run at once


class Transfers(NamedTuple):
    """What takes one or more nodes and moves bytes: collectives, messages, memory accesses."""

    need: np.ndarray  # int64 [O], members
    queue: np.ndarray  # int64 [O], transfers of one queue go one at a time; -1: none
    delay: np.ndarray  # float64 [O], seconds before bytes flow
    landing: np.ndarray  # float64 [O], seconds from the last byte sent to the message's arrival
    plan: np.ndarray  # int64 [O]
    job: np.ndarray  # int64 [O], first job; one for each lane (dimension) of the plan, or each message of the lane
    chunk: np.ndarray  # int64 [O], first of the plan's chunks
    node_ptr: np.ndarray  # int64 [O + 1], nodes that end with the last byte
    node: np.ndarray
    receiver_ptr: np.ndarray  # int64 [O + 1], nodes that end when the message is there
    receiver: np.ndarray


class Plans(NamedTuple):
    """How transfers go: ``chunks`` pieces, each through ``phases`` on lanes; a lane takes a chunk at a time."""

    chunks: np.ndarray  # int64 [plans]
    phases: np.ndarray  # int64 [plans]
    lanes: np.ndarray  # int64 [plans]
    first: np.ndarray  # int64 [plans], of [chunks, phases] in ``lane`` and ``size``
    lane: np.ndarray  # int64
    size: np.ndarray  # float64, bytes
    first_lane: np.ndarray  # int64 [plans], of [lanes] in ``schedule``
    schedule: np.ndarray  # int64, message schedule of a lane; -1: one job moves it all
    # Message schedules: messages of a lane's phase and who waits for whom.
    message: np.ndarray  # int64 [schedules + 1], first message
    share: np.ndarray  # float64 [messages], of the phase's bytes
    latency: np.ndarray  # float64 [messages]
    waits: np.ndarray  # int64 [messages], messages that must have arrived
    next_ptr: np.ndarray  # int64 [messages + 1]
    next: np.ndarray  # int64, messages of the same schedule
    offset: np.ndarray  # int64 [all lanes], first job of the lane, counted from the transfer's


class State(NamedTuple):
    """What the loop changes; A actors, N nodes, O transfers, J jobs."""

    program: np.ndarray  # int64 [A]
    base: np.ndarray  # int64 [A + 1], first node
    actor: np.ndarray  # int64 [N]
    transfer: np.ndarray  # int64 [N], -1
    pending: np.ndarray  # int64 [N], parents not done
    ready: np.ndarray  # float64 [N], seconds; not a number until then
    issued: np.ndarray  # float64 [N]
    begin: np.ndarray  # float64 [N], when bytes (or time) begin to pass
    end: np.ndarray  # float64 [N]
    cause: np.ndarray  # int64 [N], the node waited for last, -1
    why: np.ndarray  # int8 [N], BY_...
    line: np.ndarray  # int64 [N], ready nodes, a heap for every (actor, stream)
    line_ptr: np.ndarray  # int64 [A * streams]
    line_len: np.ndarray  # int64 [A * streams]
    busy: np.ndarray  # int64 [A * streams]
    freed: np.ndarray  # int64 [A * streams], the node that left last
    stale: np.ndarray  # int64 [A * streams], streams to look at, and how many [1]
    stales: np.ndarray
    listed: np.ndarray  # bool [A * streams]
    first: np.ndarray  # int64 [queues], transfers whose members are there, a list; -1
    second: np.ndarray  # int64 [O], the next in that list
    complete: np.ndarray  # float64 [O], when the last member came
    held: np.ndarray  # int64 [queues], the transfer under way, -1
    gone: np.ndarray  # int64 [queues], the one before it, -1
    called: np.ndarray  # int64 [queues], queues to look at, and how many [1]
    calls: np.ndarray
    marked: np.ndarray  # bool [queues]
    status: np.ndarray  # int8 [O]
    arrived: np.ndarray  # int64 [O]
    flows_from: np.ndarray  # float64 [O]
    left: np.ndarray  # int64 [O], chunks on their way
    phase: np.ndarray  # int64 [chunks], the next or present one
    moving: np.ndarray  # int64 [lanes of all transfers], chunk under way, -1
    lane: np.ndarray  # int64 [O], first in ``moving`` and ``open``
    open: np.ndarray  # int64 [lanes of all transfers], messages not arrived
    waits: np.ndarray  # int64 [J], messages that must arrive first
    landing: np.ndarray  # bool [J], sent but not arrived
    job_transfer: np.ndarray  # int64 [J]
    job_lane: np.ndarray  # int64 [J]


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


def create(programs: Programs, transfers: Transfers, plans: Plans, **arrays: Any) -> tuple[State, heap.Heap]:
    """The state before the first event, and the timers of nodes, transfers and jobs.

    Args:
        arrays: ``program``, ``transfer`` and the jobs' ``job_transfer`` and ``job_lane``.
    """
    program, jobs = arrays["program"], len(arrays["job_transfer"])
    lengths = np.diff(programs.base)[program]
    base = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    actors, nodes, streams, count = len(program), int(base[-1]), len(programs.streams), len(transfers.need)
    actor = np.repeat(np.arange(actors), lengths)
    row = np.arange(nodes) - base[actor] + programs.base[program[actor]]
    stream = np.where(programs.stream[row] < 0, streams - 1, programs.stream[row])
    line_len = np.bincount(actor * streams + stream, minlength=actors * streams)
    queues = int(transfers.queue.max(initial=-1)) + 1
    chunks, lanes = plans.chunks[transfers.plan], plans.lanes[transfers.plan]

    def never(n: int) -> np.ndarray:
        return np.full(n, np.nan)

    def ints(n: int, value: int = 0) -> np.ndarray:
        return np.full(n, value, np.int64)

    state = State(
        program, base, actor, arrays["transfer"], programs.parents[row],
        never(nodes), never(nodes), never(nodes), never(nodes), ints(nodes, -1), np.zeros(nodes, np.int8),
        ints(nodes), np.concatenate([[0], np.cumsum(line_len)[:-1]]).astype(np.int64), ints(actors * streams),
        ints(actors * streams), ints(actors * streams, -1),
        ints(actors * streams), ints(1), np.zeros(actors * streams, np.bool_),
        ints(queues, -1), ints(count, -1), never(count), ints(queues, -1), ints(queues, -1), ints(queues), ints(1),
        np.zeros(queues, np.bool_),
        np.zeros(count, np.int8), ints(count), never(count), ints(count),
        ints(int(chunks.sum())), ints(int(lanes.sum()), -1),
        np.concatenate([[0], np.cumsum(lanes)[:-1]]).astype(np.int64) if count else ints(0), ints(int(lanes.sum())),
        ints(jobs), np.zeros(jobs, np.bool_), arrays["job_transfer"], arrays["job_lane"],
    )  # fmt: skip
    return state, heap.empty(nodes + count + jobs)
