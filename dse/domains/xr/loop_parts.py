"""Parts of :mod:`dse.domains.xr.loop`: what it works on, how jobs begin, share DRAM and are scored."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dse.domains.xr import glibc
from dse.domains.xr.kernel import DONE, DROPPED, EN, ENERGY, LAST, LOGGED, PRODUCT, RT
from dse.domains.xr.kernel import LATE as LATE_COUNT
from dse.jit import njit
from dse.simulate.serving.lines import Lines, lines

# Nothing here is allocated: without reference counts (``_nrt``) the loop takes a fifth of the time.
inner = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False)
# Why a frame was dropped; 0: it was not.
LATE, HOPELESS, SUPERSEDED, CASCADED = 1, 2, 3, 4
NO_ROOM = 1e12  # more than any energy


class Work(NamedTuple):
    """What models are made of: L layers (or 1, whole models) on A parts; S systems, or none of that axis in one run.

    Attributes:
        latency: ms, with all DRAM bandwidth for itself; infinite where there is no such part [S, M, L, A].
        energy: mJ [S, M, L, A].
        demand: of DRAM, bytes per ms [S, M, L, A].
        rest: latency of a layer and all behind it [S, M, L + 1, A].
        joules: energy of all layers, mJ [S, M, A].
        count: layers of each model, int64 [M].
    """

    latency: np.ndarray
    energy: np.ndarray
    demand: np.ndarray
    rest: np.ndarray
    joules: np.ndarray
    count: np.ndarray


class Choice(NamedTuple):
    """How frames are scheduled; numbers, as compiled code takes them.

    Attributes:
        order, placing, drop: as of :mod:`dse.domains.xr.loop`.
        preempt: jobs may be interrupted between layers; they go on on the same part.
        newest: a newer frame takes the place of one that waits.
        switch: ms that going on with an interrupted job takes.
        bandwidth: of DRAM, bytes per ms, for all parts together.
        allowed: whether a model may run on a part [M, A].
        weights: of starvation and of thrift [2].
        window: ms between trials of other weights; 0: they stay.
    """

    order: int
    placing: int
    drop: int
    preempt: bool
    newest: bool
    switch: float
    bandwidth: float
    allowed: np.ndarray
    weights: np.ndarray
    window: float


class Pieces(NamedTuple):
    """Uninterrupted stretches: ``used`` [1] rows of ``whole``, part and frame number, and ``times``, begin and end."""

    used: np.ndarray
    whole: np.ndarray
    times: np.ndarray


# What became of a frame. Times in ms, not a number if never: when it came, when it could have begun, when it began,
# when it was done or dropped; energy in mJ; status as of the kernel; the part that ran it, or -1; layers that are done;
# why it was dropped; number (m F + f) of the source frame whose loss made it fall, or -1.
FRAME = np.dtype(
    [(name, np.float64) for name in ("injected", "ready", "begun", "finish", "energy")]
    + [(name, np.int64) for name in ("status", "part", "stage", "reason", "ancestor")],
    align=True,
)
# Of a model: frames that have come, completions less one, place among the names, whether its head was passed over in
# this round, frames begun in this round.
MODEL = np.dtype([(name, np.int64) for name in ("issued", "done", "rank", "passed", "turns")], align=True)
# Of a part: number of the frame that runs or -1, of the last that ran, row of its last piece; ms of the layer, at full
# speed, that were left at ``since``; its speed; when the layer began and ends; ms of the layers behind it.
PART = np.dtype(
    [(name, np.int64) for name in ("job", "last", "piece")]
    + [(name, np.float64) for name in ("left", "since", "speed", "opened", "ends", "behind")],
    align=True,
)


class State(NamedTuple):
    """Scratch of one run."""

    lines: Lines  # a line of frames for each model
    models: np.ndarray  # [M]
    parts: np.ndarray  # [A]
    paused: np.ndarray  # interrupted jobs
    paused_count: np.ndarray  # [1]
    weights: np.ndarray  # [2]
    tuning: np.ndarray  # see ``_tune`` of the loop
    words: np.ndarray  # of the random numbers


def scratch(models: int, frames: int, parts: int) -> State:
    """Room for a run."""
    return State(
        lines(models * frames, models), np.zeros(models, MODEL), np.zeros(parts, PART),
        np.zeros(models * frames, np.int64), np.zeros(1, np.int64), np.zeros(2), np.zeros(7),
        np.zeros(glibc.WORDS + 1, np.uint32),
    )  # fmt: skip


@inner
def single(value, rounded):
    """Sums, products and quotients of single numbers, taken in double precision and rounded once, are exact."""
    return np.float64(np.float32(value)) if rounded else value


@inner
def fastest(work, choice, m, stage):
    """Least time that what is left of a model takes, over the parts that may run it."""
    least = np.inf
    for a in range(work.rest.shape[2]):
        if choice.allowed[m, a]:
            least = min(least, work.rest[m, stage, a])
    return least


@inner
def thriftiest(work, choice, m):
    """Least energy of a model, over the parts that may run it."""
    least = np.inf
    for a in range(work.joules.shape[1]):
        if choice.allowed[m, a]:
            least = min(least, work.joules[m, a])
    return least


@inner
def begin(now, work, rules, state, frames, m, f, a, more):
    """Let a part run the next layer of a frame."""
    stage = frames[m, f].stage
    state.parts[a].job = state.parts[a].last = m * frames.shape[1] + f
    state.parts[a].ends = single(now + (work.latency[m, stage, a] + more), rules.single)
    state.parts[a].behind = work.rest[m, stage + 1, a]
    state.parts[a].opened = state.parts[a].since = now
    state.parts[a].left, state.parts[a].speed = work.latency[m, stage, a] + more, 1.0


@inner
def share(now, load, work, choice, state, frames):
    """Share DRAM bandwidth max-min fair: who asks for less than an even share gets it, the others share the rest."""
    parts, wide = state.parts.size, load.deadline.shape[1]
    left, asking = choice.bandwidth, 0
    for a in range(parts):
        if state.parts[a].job >= 0:
            state.parts[a].left -= (now - state.parts[a].since) * state.parts[a].speed
            state.parts[a].since, state.parts[a].speed = now, 0.0
            asking += 1
    changed = True
    while changed and asking > 0:
        changed, even = False, left / asking
        for a in range(parts):
            if state.parts[a].job >= 0 and state.parts[a].speed == 0.0:
                m, f = divmod(state.parts[a].job, wide)
                asked = work.demand[m, frames[m, f].stage, a]
                if asked <= even:
                    state.parts[a].speed, changed = 1.0, True
                    left, asking = left - asked, asking - 1
    for a in range(parts):
        if state.parts[a].job >= 0:
            m, f = divmod(state.parts[a].job, wide)
            if state.parts[a].speed == 0.0:
                state.parts[a].speed = left / asking / work.demand[m, frames[m, f].stage, a]
            state.parts[a].ends = now + max(state.parts[a].left, 0.0) / state.parts[a].speed


@inner
def merits(now, load, work, choice, state, frames, m, f):
    """The dynamic scheduler: the merit of running a frame now, and the part where it is highest; -1: nowhere.

    Merit = urgency * speed + w0 * starvation + w1 * thrift. Urgency: least time needed over time left, 0 if too late.
    Speed and thrift: time and energy on the best part over those on this one. Starvation: time waited over time given.
    A part is taken if the deadline can be met there, or if no other would be done earlier.
    """
    stage = frames[m, f].stage
    given = load.deadline[m, f] - frames[m, f].injected
    starved = (now - frames[m, f].injected) / given if given > 0.0 else 1.0
    quickest, left, thrift, soonest = (
        fastest(work, choice, m, stage),
        load.deadline[m, f] - now,
        thriftiest(work, choice, m),
        np.inf,
    )
    for a in range(state.parts.size):
        if choice.allowed[m, a]:
            free = now if state.parts[a].job < 0 else max(now, state.parts[a].ends + state.parts[a].behind)
            soonest = min(soonest, free + work.rest[m, stage, a])
    urgency = quickest / left if left >= quickest else 0.0
    best, most = np.int64(-1), -np.inf
    for a in range(state.parts.size):
        latency = work.rest[m, stage, a]
        if state.parts[a].job >= 0 or not choice.allowed[m, a] or latency == np.inf:
            continue
        if stage > 0:
            if a != frames[m, f].part:
                continue
        elif latency > left and now + latency > soonest:
            continue
        saved = thrift / work.joules[m, a] if work.joules[m, a] > 0.0 else 1.0
        merit = urgency * quickest / latency + state.weights[0] * starved + state.weights[1] * saved
        if merit > most:
            best, most = np.int64(a), merit
    return most, best


@inner
def score(load, work, rules, choice, state, frames, sums, m, f):
    """Add a frame that is done or dropped to the sums, rounded as the artifact does if it is to be."""
    rounded, ends = rules.single, frames[m, f].finish
    sums[m, LOGGED] += 1
    sums[m, LAST] = max(sums[m, LAST], ends)
    state.tuning[1] += 1.0
    if frames[m, f].status != DONE:
        sums[m, DROPPED] += 1
        state.tuning[2] += 1.0
        return
    spent = frames[m, f].energy
    late = single(ends - load.deadline[m, f], rounded)
    grown = single(np.exp(min(single(rules.steepness * late, rounded), 700.0)), rounded)
    rt = single(1.0 / single(1.0 + grown, rounded), rounded)
    en = max(single((load.limit[m] - spent) / load.limit[m], rounded), rules.floor)
    sums[m, LATE_COUNT] += late > 0
    sums[m, RT] += rt
    sums[m, EN] += en
    sums[m, PRODUCT] = single(sums[m, PRODUCT] + single(rt * en, rounded), rounded)
    sums[m, ENERGY] += spent
    state.tuning[2] += late > 0
    state.tuning[3] += spent
    state.tuning[4] += thriftiest(work, choice, m)


@inner
def note(trace, width, pieces, state, a, ends, spent):
    """Remember that a layer has run: its energy in the bins of the trace, and its stretch of time."""
    opened = state.parts[a].opened
    if trace.size > 0:
        low = min(np.int64(opened / width), trace.size - 1)
        high = min(np.int64(ends / width), trace.size - 1)
        if low == high or ends <= opened:
            trace[low] += spent
        else:
            rate = spent / (ends - opened)
            trace[low] += rate * ((low + 1) * width - opened)
            for at in range(low + 1, high):
                trace[at] += rate * width
            trace[high] += rate * (ends - high * width)
    if pieces.whole.shape[0] == 0:
        return
    row = state.parts[a].piece
    if row >= 0 and pieces.whole[row, 1] == state.parts[a].job and pieces.times[row, 1] == opened:
        pieces.times[row, 1] = ends
        return
    row = pieces.used[0]
    if row < pieces.whole.shape[0]:
        pieces.whole[row, 0], pieces.whole[row, 1] = a, state.parts[a].job
        pieces.times[row, 0], pieces.times[row, 1] = opened, ends
        pieces.used[0] = row + 1
        state.parts[a].piece = row
