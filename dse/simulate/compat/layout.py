"""The state of a compatible simulation: arrays, what their columns mean, and how large they start.

Everything that lives and dies during a run (messages, streams, delayed calls) is a row of a pool with a free list, so
that compiled functions share one tuple of arrays. A pool that is full ends the attempt; the caller doubles it and runs
again, which gives the same answer because a run depends on nothing but its input.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


def _numbers(n: int) -> tuple[np.int64, ...]:
    """0 ... n - 1, not as literals: a compiled function would be compiled for each literal passed to it."""
    return tuple(np.int64(k) for k in range(n))


NO, YES = _numbers(2)
NONE = np.int64(-1)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# What ends a node slot: central processor, compute, communication and memory, receives (always free).
CPU, GPU, COMM, FREE_SLOT = _numbers(4)

# clock: the time, sequence number and length of the heap; the free rows of the pools; how the run stands
(
    NOW, SEQ, HEAP_N, ITEM0, BATCH0, MSG0, STREAM0, DATA0, STATUS, BAD_RANK, BAD_NODE, FULL, THROWN, ASK, ASK_TOO,
    EVENTS,
) = _numbers(16)  # fmt: skip

# How a run ends early, and what a node that cannot be issued does.
(
    FINE, UNSUPPORTED, ON_CPU, NO_SRC, NO_DST, NOT_MINE, NO_GROUP, METADATA, NO_SIZE, NO_REMOTE, TO_ITSELF, NO_TYPE,
    NO_RANK,
) = _numbers(13)  # fmt: skip

# heap: time, time at which the event was registered, sequence, what, argument
TIME, BORN, ORDER, WHAT, ARG = _numbers(5)
BATCH, ARRIVE, LINK_FREE, RECV_NOW, FIRE, DONE = _numbers(6)

# items: calls that an NPU has registered with itself
ITEM_KIND, ITEM_A, ITEM_B, ITEM_C, ITEM_NEXT = _numbers(5)
CALL_NODE, CALL_SERVER, CALL_BUNDLE = _numbers(3)
BATCH_TIME, BATCH_HEAD, BATCH_TAIL, BATCH_NEXT = _numbers(4)

# messages: from the first of send and receive until both are done
TAG, SRC, DST, SIZE, OFF, SIDE, ARRIVED, SEND_KIND, SEND_ARG, RECV_KIND, RECV_ARG, NEXT, LINK_NEXT, HERE = _numbers(14)
MSG = 14
NOBODY, STREAM, NODE, RENDEZVOUS = _numbers(4)
NO_SIDE, SEND_SIDE, RECV_SIDE, BOTH_SIDES = _numbers(4)

# streams: one chunk of one collective at one NPU
(
    S_RANK, S_DATA, S_PHASE, S_LAST, S_TAG, S_QUEUE, S_NEXT, S_INIT, S_PRIO, S_ALGO, S_COMM, S_N, S_IDX, S_STRIDE,
    S_SIZE, S_COUNT, S_FREE, S_GOT, S_ZERO, S_NONZERO, S_TOGGLE, S_INS, S_POP, S_PAR, S_OFFSET, S_UP, S_PDEST, S_PSIZE,
    S_EP, S_GROUP, S_DIR, S_IN, S_OUT, S_STATE, S_TREE, S_KIND, S_FIRST,
) = _numbers(37)  # fmt: skip
STREAM_COLS = 37  # and one more for each phase: its queue, direction and tree
RING, DIRECT, HALVING, TREE = _numbers(4)
AR, AG, RS, A2A = _numbers(4)

# datasets: one collective at one NPU
D_RANK, D_NODE, D_LEFT, D_NEXT = _numbers(4)

# queues of an NPU (per dimension), and where the next chunk of a dimension goes
Q_HEAD, Q_RUN = _numbers(2)
ANY, FIRST, LAST = _numbers(3)

# NPUs
(R_STREAMS, R_TURN, R_SLOT, R_ONGOING, R_END, R_TICS, R_CLASS, R_BASE, R_LABEL, R_PRIO, R_CAME, R_WENT) = (
    0, 1, 2, 6, 7, 8, 9, 10, 11, 12, 13, 14,
)  # fmt: skip
RANK_COLS = 15

# nodes of the distinct traces
N_KIND, N_SLOT, N_TIME, N_SIZE, N_PEER, N_TAG, N_PRIO, N_PLAN, N_LABEL, N_BAD, N_MASK = _numbers(11)
NODE_COLS = 11
K_REPLAY, K_MEM, K_SEND, K_RECV, K_COLL, K_SKIP, K_BAD = _numbers(7)

# plans and their phases
P_LO, P_HI, P_VARIANTS = _numbers(3)
X_LEVEL, X_TAKE, X_COMM, X_ALGO, X_WINDOW, X_STRIDE, X_N, X_DATA, X_KIND = _numbers(9)

# communicators, when collectives are answered whole: how many have arrived, how many there are, plan and first stream
C_HERE, C_SIZE, C_PLAN, C_TAG = _numbers(4)
MASKS = 32

# settings
(
    G_RANKS, G_DIMS, G_QUEUES, G_AWARE, G_EP, G_RUNNING, G_INTRA, G_POLICY, G_MEMORY, G_PER_NODE, G_RENDEZVOUS, G_FOLD,
    G_WHOLE, G_TURNS,
) = _numbers(14)  # fmt: skip


class State(NamedTuple):
    """All arrays of a run; integers unless it says otherwise. R ranks, D dimensions, Q queues an NPU."""

    clock: Ints
    heap: Ints
    items: Ints
    batches: Ints
    pending: Ints  # [R] first batch of each NPU
    msgs: Ints
    buckets: Ints
    links: Ints  # [links, 3] busy, first and last message that waits
    sizes: Ints  # [D, 3] kind of topology, NPUs, stride
    rates: Floats  # [D, 2] bytes per ns, ns
    local: Floats  # [1] bytes per second of local memory
    streams: Ints
    data: Ints
    queues: Ints  # [R * Q, 2]
    levels: Ints  # [R * D, 3]
    trees: Ints  # [R * D * 4]
    ranks: Ints
    plans: Ints
    chunks: Ints
    phases: Ints
    members: Ints  # ranks of all groups, one after the other
    group_of: Ints  # [sum of labels] group of a rank's label, -1 none
    group_ptr: Ints
    counters: Ints  # [members] streams of each group at each member
    group_id: Ints
    nodes: Ints
    child_ptr: Ints
    child: Ints
    class_ptr: Ints  # first node of each class
    slot_ptr: Ints  # [classes, 5] where the ready heap of each slot begins
    left: Ints  # [nodes of all ranks] dependences that are not met
    start: Ints
    end: Ints
    ready: Ints
    ready_n: Ints  # [R, 4]
    later: Ints
    servers: Ints  # [servers, 3] busy, first and last node that waits
    waiting: Ints  # [nodes of all ranks] next in the queue of a memory server
    comms: Ints
    arrived: Ints  # [R] when each rank came to the collective that it is in
    settings: Ints  # named above, and from 32 on the masks of dimensions that collectives use
