"""The event loop of an XR runtime, compiled: load generator, queues, drops and dispatch, as published and corrected.

All times are in milliseconds, as in XRBench. Re-derived from its public artifact (XRBench/XRBench-MLSys2023: load
generator, runtime, timer); every number that it keeps in single precision is rounded to single precision here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dse.domains.xr import glibc
from dse.jit import njit

# What is summed up for each model of a run.
LOGGED, DROPPED, LATE, RT, EN, PRODUCT, ENERGY, LAST = range(8)
FIELDS = ("logged", "dropped", "late", "rt", "en", "product", "energy_mJ", "last_ms")
# The columns of a timeline.
COLUMNS = (
    "acc",
    "model",
    "frame",
    "injection_ms",
    "dispatch_ms",
    "deadline_ms",
    "completion_ms",
    "energy_mJ",
    "dropped",
)
WAITING, RUNNING, DONE, GONE, ABSENT = 1, 2, 3, 4, 5  # what became of a frame; 0: it has not come yet
BY_NAME, BY_DEADLINE = 0, 1
IDLE_BEST, WAIT_FOR_BEST = 0, 1


class Load(NamedTuple):
    """The frames of a scenario: M models in file order, F frames at most.

    Attributes:
        frames: frames of each model, int64 [M].
        deadline: when it must be finished, float64 [M, F].
        probability: that a frame is asked for, float64 [M].
        after: whether model m waits for model n, uint8 [M, M].
        source: the frame of model n that frame f of model m waits for, int64 [M, M, F].
        order: models by name, int64 [M].
        tick: time between looks at the clock; 0: each frame is seen as it comes.
        limit: energy of a frame at which the energy score is 0, mJ [M].
    """

    frames: np.ndarray
    deadline: np.ndarray
    probability: np.ndarray
    after: np.ndarray
    source: np.ndarray
    order: np.ndarray
    tick: float
    limit: np.ndarray


class Drawn(NamedTuple):
    """What differs from run to run.

    Attributes:
        due: when a frame comes, float64 [M, F].
        chances: of a frame, from 0 to 1, float64 [M, F]; not looked at in runs with a seed.
    """

    due: np.ndarray
    chances: np.ndarray


class Rules(NamedTuple):
    """How a run is carried out; numbers, as compiled code takes them.

    Attributes:
        single: times and scores are rounded to single precision.
        margin: a job that ends this soon counts as ended.
        by_frame: a frame waits for its own source frame and falls with it; else for as many completions as its
            number.
        drain: the run goes on until nothing waits or runs.
        ranking: which head of a queue is next: BY_NAME or BY_DEADLINE.
        placing: IDLE_BEST, the fastest idle accelerator, or WAIT_FOR_BEST, that which would finish first, idle or not.
        steepness: of the real-time score, per millisecond.
        floor: energy scores are at least this.
    """

    single: bool
    margin: float
    by_frame: bool
    drain: bool
    ranking: int
    placing: int
    steepness: float
    floor: float


class State(NamedTuple):
    """Scratch of one run: queues of the models and what the accelerators do."""

    issued: np.ndarray  # [M] frames that have come
    head: np.ndarray  # [M] first in the queue
    tail: np.ndarray  # [M] behind the last in the queue
    queue: np.ndarray  # [M, F] frames
    injected: np.ndarray  # [M, F] time
    status: np.ndarray  # [M, F]
    done: np.ndarray  # [M] completions less one
    job: np.ndarray  # [A] model that runs, or -1
    frame: np.ndarray  # [A]
    began: np.ndarray  # [A]
    ends: np.ndarray  # [A]
    passed: np.ndarray  # [M] heads that were passed over in this round
    words: np.ndarray  # of the random numbers


class Log(NamedTuple):
    """A timeline in the order in which it is logged; ``used[0]`` rows. No rows are kept if there is room for none."""

    used: np.ndarray
    whole: np.ndarray  # int64 [rows, 4]: accelerator, model, frame, dropped
    times: np.ndarray  # float64 [rows, 5]: injection, dispatch, deadline, completion, energy


@njit(cache=True)
def _single(value: float, single: bool) -> float:
    """Sums, products and quotients of single numbers, rounded once from double, are those of single precision."""
    return np.float64(np.float32(value)) if single else value


@njit(cache=True)
def _issue(now: float, load: Load, state: State, drawn: Drawn, seeded: bool) -> None:
    """Let frames that are due come: at most one a model, each asked for with its probability."""
    for m in range(load.frames.size):
        if seeded:
            glibc.draw(state.words)  # a jitter, drawn and not used
        f = state.issued[m]
        if f == load.frames[m] or drawn.due[m, f] > now:
            continue
        state.issued[m] += 1
        chance = np.float64(np.float32(glibc.draw(state.words))) / 2147483648.0 if seeded else drawn.chances[m, f]
        if load.probability[m] > chance:
            state.queue[m, state.tail[m]] = f
            state.injected[m, f] = now
            state.tail[m] += 1
            state.status[m, f] = WAITING
        else:
            state.status[m, f] = ABSENT


@njit(cache=True)
def _write(log: Log, acc: int, m: int, f: int, dropped: int, times: tuple[float, float, float, float, float]) -> None:
    row = log.used[0]
    if row < log.whole.shape[0]:
        log.whole[row, 0], log.whole[row, 1], log.whole[row, 2], log.whole[row, 3] = acc, m, f, dropped
        for column in range(5):
            log.times[row, column] = times[column]
        log.used[0] = row + 1


@njit(cache=True)
def _retire(now: float, load: Load, energy: np.ndarray, rules: Rules, state: State, sums: np.ndarray, log: Log) -> None:
    """Log the jobs that have ended and score them."""
    single = rules.single
    for a in range(energy.shape[1]):
        m = state.job[a]
        if m < 0 or _single(now + rules.margin, single) < state.ends[a]:
            continue
        f, ends = state.frame[a], state.ends[a]
        late = _single(ends - load.deadline[m, f], single)
        spent = _single(energy[m, a], single)
        grown = _single(np.exp(min(_single(rules.steepness * late, single), 700.0)), single)
        rt = _single(1.0 / _single(1.0 + grown, single), single)
        en = max(_single((load.limit[m] - spent) / load.limit[m], single), rules.floor)
        sums[m, LOGGED] += 1
        sums[m, LATE] += late > 0
        sums[m, RT] += rt
        sums[m, EN] += en
        sums[m, PRODUCT] = _single(sums[m, PRODUCT] + _single(rt * en, single), single)
        sums[m, ENERGY] += spent
        sums[m, LAST] = max(sums[m, LAST], ends)
        state.status[m, f] = DONE
        state.done[m] += 1
        state.job[a] = -1
        _write(log, a, m, f, 0, (state.injected[m, f], state.began[a], load.deadline[m, f], ends, spent))


@njit(cache=True)
def _lost(load: Load, state: State, m: int, f: int) -> int:
    """What became of the source frames of a frame: GONE or ABSENT if it can never run, else 0."""
    for n in range(load.frames.size):
        if load.after[m, n]:
            found = state.status[n, load.source[m, n, f]]
            if found in (GONE, ABSENT):
                return found
    return 0


@njit(cache=True)
def _drop(now: float, load: Load, rules: Rules, state: State, sums: np.ndarray, log: Log) -> None:
    """Take frames out of the queues whose deadline is past, or whose source frame is lost."""
    exact = load.tick == 0.0  # looked at when the deadline comes, not at some tick behind it
    changed = True
    while changed:
        changed = False
        for m in load.order:
            if state.head[m] == state.tail[m]:
                continue
            f = state.queue[m, state.head[m]]
            lost = _lost(load, state, m, f) if rules.by_frame else 0
            past = load.deadline[m, f] < now or (exact and load.deadline[m, f] == now)
            if not past and lost == 0:
                continue
            state.head[m] += 1
            changed = True
            if lost == ABSENT:  # what was not asked for has no followers
                state.status[m, f] = ABSENT
                continue
            state.status[m, f] = GONE
            sums[m, LOGGED] += 1
            sums[m, DROPPED] += 1
            sums[m, LAST] = max(sums[m, LAST], now)
            _write(log, 0, m, f, 1, (state.injected[m, f], now, load.deadline[m, f], now, 0.0))


@njit(cache=True)
def _ready(load: Load, rules: Rules, state: State, m: int) -> bool:
    """Whether the head of a queue may run."""
    if state.head[m] == state.tail[m]:
        return False
    f = state.queue[m, state.head[m]]
    for n in range(load.frames.size):
        if not load.after[m, n]:
            continue
        if rules.by_frame:
            if state.status[n, load.source[m, n, f]] != DONE:
                return False
        elif state.done[n] < f:
            return False
    return True


@njit(cache=True)
def _place(now: float, m: int, latency: np.ndarray, rules: Rules, state: State) -> int:
    """The accelerator for a frame of model m; -1: it waits."""
    best, least = -1, np.inf
    for a in range(latency.shape[1]):
        if rules.placing == IDLE_BEST:
            if state.job[a] < 0 and latency[m, a] < least:
                best, least = a, latency[m, a]
        else:
            finish = (now if state.job[a] < 0 else max(now, state.ends[a])) + latency[m, a]
            if finish < least:
                best, least = a, finish
    return best if best >= 0 and state.job[best] < 0 else -1


@njit(cache=True)
def _next_head(load: Load, rules: Rules, state: State) -> int:
    """The ready head with the earliest deadline that was not passed over, ties by name; -1: none."""
    best, least = -1, np.inf
    for m in load.order:
        if state.passed[m] == 0 and _ready(load, rules, state, m):
            deadline = load.deadline[m, state.queue[m, state.head[m]]]
            if deadline < least:
                best, least = m, deadline
    return best


@njit(cache=True)
def _begin(now: float, m: int, a: int, latency: np.ndarray, rules: Rules, state: State) -> None:
    f = state.queue[m, state.head[m]]
    state.head[m] += 1
    state.status[m, f] = RUNNING
    state.job[a], state.frame[a], state.began[a] = m, f, now
    state.ends[a] = _single(now + latency[m, a], rules.single)


@njit(cache=True)
def _dispatch(now: float, load: Load, latency: np.ndarray, rules: Rules, state: State) -> None:
    """Give the heads of the queues to accelerators until none is left that can start."""
    if rules.ranking == BY_DEADLINE:
        state.passed[:] = 0
        m = _next_head(load, rules, state)
        while m >= 0:
            a = _place(now, m, latency, rules, state)
            if a >= 0:
                _begin(now, m, a, latency, rules, state)
            else:
                state.passed[m] = 1
            m = _next_head(load, rules, state)
        return
    changed = True
    while changed:
        changed = False
        for m in load.order:
            if _ready(load, rules, state, m):
                a = _place(now, m, latency, rules, state)
                if a >= 0:
                    _begin(now, m, a, latency, rules, state)
                    changed = True


@njit(cache=True)
def _next_time(load: Load, state: State, drawn: Drawn, ticks: int) -> float:
    """When something happens next; infinite: never."""
    soon = np.inf
    if load.tick > 0.0:
        soon = (ticks + 1) * load.tick
    else:
        for m in range(load.frames.size):
            if state.issued[m] < load.frames[m]:
                soon = min(soon, drawn.due[m, state.issued[m]])
            if state.head[m] < state.tail[m]:
                soon = min(soon, load.deadline[m, state.queue[m, state.head[m]]])
    for a in range(state.job.size):
        if state.job[a] >= 0:
            soon = min(soon, state.ends[a])
    return soon


@njit(cache=True)
def _over(load: Load, rules: Rules, state: State) -> bool:
    """Whether all frames have come and, if the run is to be drained, nothing waits or runs."""
    for m in range(load.frames.size):
        if state.issued[m] < load.frames[m] or (rules.drain and state.head[m] < state.tail[m]):
            return False
    if rules.drain:
        for a in range(state.job.size):
            if state.job[a] >= 0:
                return False
    return True


@njit(cache=True)
def run(
    load: Load, latency: np.ndarray, energy: np.ndarray, rules: Rules, seed: int, drawn: Drawn,
    state: State, sums: np.ndarray, log: Log,
) -> None:  # fmt: skip
    """One run.

    Args:
        latency, energy: of each model on each accelerator, ms and mJ [M, A].
        seed: of ``rand()``, from which all chances then come; negative: they are drawn already.
        state: scratch. sums: what is added to, [M, fields]. log: the timeline.
    """
    for part in (state.issued, state.head, state.tail):
        part[:] = 0
    state.status[:] = 0
    state.done[:] = -1
    state.job[:] = -1
    if seed >= 0:
        glibc.start(state.words, seed)
    now, ticks = 0.0, 0
    while not _over(load, rules, state):
        _issue(now, load, state, drawn, seed >= 0)
        _retire(now, load, energy, rules, state, sums, log)
        _drop(now, load, rules, state, sums, log)
        _dispatch(now, load, latency, rules, state)
        now = _next_time(load, state, drawn, ticks)
        if now == (ticks + 1) * load.tick:
            ticks += 1


@njit(cache=True)
def scratch(models: int, frames: int, accelerators: int) -> State:
    """Room for one run."""
    return State(
        np.zeros(models, np.int64), np.zeros(models, np.int64), np.zeros(models, np.int64),
        np.zeros((models, frames), np.int64), np.zeros((models, frames)), np.zeros((models, frames), np.int64),
        np.zeros(models, np.int64), np.zeros(accelerators, np.int64), np.zeros(accelerators, np.int64),
        np.zeros(accelerators), np.zeros(accelerators), np.zeros(models, np.int64),
        np.zeros(glibc.WORDS + 1, np.uint32),
    )  # fmt: skip


@njit(cache=True)
def runs(
    load: Load, latency: np.ndarray, energy: np.ndarray, rules: Rules, seeds: np.ndarray, drawn: Drawn
) -> np.ndarray:
    """Every seed on every system.

    Args:
        latency, energy: [S, M, A]; an infinite latency is no accelerator.
        seeds: as of :func:`run`, [N].
        drawn: with a first axis for runs, of length N, or 1 if they are alike.

    Returns:
        Sums [S, N, M, fields].
    """
    models, frames = load.deadline.shape
    sums = np.zeros((latency.shape[0], seeds.size, models, LAST + 1))
    state = scratch(models, frames, latency.shape[2])
    log = Log(np.zeros(1, np.int64), np.zeros((0, 4), np.int64), np.zeros((0, 5)))
    for n in range(seeds.size):
        own = Drawn(drawn.due[min(n, drawn.due.shape[0] - 1)], drawn.chances[min(n, drawn.chances.shape[0] - 1)])
        for s in range(latency.shape[0]):
            run(load, latency[s], energy[s], rules, seeds[n], own, state, sums[s, n], log)
    return sums
