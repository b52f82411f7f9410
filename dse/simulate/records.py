"""What the event loop runs and what it changes, as records of arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dse.simulate import heap

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
