"""The workbench's own XR runtime, compiled: schedulers, pinning, preemption between layers, shared DRAM, and reasons.

It takes the frames and the rules of :mod:`dse.domains.xr.kernel`. With the artifact's way to schedule it does what that
does. Frames wait in lines of the shared serving engine, one line a model. Times are in ms, energy in mJ.
"""

from __future__ import annotations

import numpy as np

from dse.domains.xr import glibc
from dse.domains.xr.kernel import ABSENT, DONE, GONE, RUNNING, WAITING, Drawn, Load, Rules
from dse.domains.xr.loop_parts import (
    CASCADED,
    HOPELESS,
    LATE,
    NO_ROOM,
    SUPERSEDED,
    Choice,
    Pieces,
    State,
    Work,
    begin,
    fastest,
    inner,
    merits,
    note,
    score,
    share,
    single,
)  # fmt: skip
from dse.jit import njit
from dse.simulate.serving.lines import enter, take

BY_NAME, BY_ARRIVAL, BY_DEADLINE, BY_SLACK, BY_MERIT = range(5)
IDLE, WAIT, THRIFTY = range(3)
DROP_LATE, DROP_HOPELESS, DROP_NEVER = range(3)


@inner
def _issue(now, load, state, frames, drawn, seeded):
    """Let frames that are due come: at most one a model, each asked for with its probability."""
    for m in range(load.frames.size):
        if seeded:
            glibc.draw(state.words)  # the artifact draws a jitter and does not use it
        f = state.models[m].issued
        if f == load.frames[m] or drawn.due[m, f] > now:
            continue
        state.models[m].issued += 1
        chance = np.float64(np.float32(glibc.draw(state.words))) / 2147483648.0 if seeded else drawn.chances[m, f]
        if load.probability[m] > chance:
            frames[m, f].injected, frames[m, f].status = now, WAITING
            enter(state.lines, m, m * load.deadline.shape[1] + f, np.float64(f))
        else:
            frames[m, f].status = ABSENT


@inner
def _retire(now, load, work, rules, choice, state, frames, sums, trace, width, pieces):
    """Log the jobs that have ended; those with layers left go on, or wait for the scheduler at this boundary."""
    wide = load.deadline.shape[1]
    for a in range(state.parts.size):
        while state.parts[a].job >= 0 and not single(now + rules.margin, rules.single) < state.parts[a].ends:
            m, f = divmod(state.parts[a].job, wide)
            stage, ends = frames[m, f].stage, state.parts[a].ends
            spent = single(work.energy[m, stage, a], rules.single)
            frames[m, f].energy += spent
            note(trace, width, pieces, state, a, ends, spent)
            frames[m, f].stage = stage + 1
            if stage + 1 == work.count[m]:
                frames[m, f].finish, frames[m, f].status = ends, DONE
                score(load, work, rules, choice, state, frames, sums, m, f)
                state.models[m].done += 1
                state.parts[a].job = -1
            elif choice.preempt:
                state.paused[state.paused_count[0]] = state.parts[a].job
                state.paused_count[0] += 1
                state.parts[a].job = -1
            else:
                begin(ends, work, rules, state, frames, m, f, a, 0.0)


@inner
def _fallen(load, state, frames, m, f):
    """The first source frame that will never be done, as a number; -1: none."""
    for n in range(load.frames.size):
        if load.after[m, n]:
            g = load.source[m, n, f]
            if frames[n, g].status == GONE or frames[n, g].status == ABSENT:
                return n * load.deadline.shape[1] + g
    return -1


@inner
def _reason(now, load, work, rules, choice, state, frames, m, f):
    """Why the head of a line is to be dropped, and by which frame; 0: it is not."""
    ancestor = _fallen(load, state, frames, m, f) if rules.by_frame else -1
    if ancestor >= 0:
        return CASCADED, ancestor
    # Without ticks a deadline is looked at when it comes, not behind it.
    past = load.deadline[m, f] < now or (load.tick == 0.0 and load.deadline[m, f] == now)
    if past and choice.drop != DROP_NEVER:
        return LATE, -1
    if choice.newest and state.lines.length[m] > 1:
        return SUPERSEDED, -1
    if choice.drop == DROP_HOPELESS and now + fastest(work, choice, m, 0) > load.deadline[m, f]:
        return HOPELESS, -1
    return 0, -1


@inner
def _drop(now, load, work, rules, choice, state, frames, sums):
    """Take frames out of the lines that are of no more use."""
    changed, wide, first = True, load.deadline.shape[1], state.lines.first
    while changed:
        changed = False
        for m in load.order:
            if first[m] < 0:
                continue
            f = first[m] % wide
            reason, ancestor = _reason(now, load, work, rules, choice, state, frames, m, f)
            if reason == 0:
                continue
            take(state.lines, m)
            changed = True
            frames[m, f].ancestor = ancestor
            if reason == CASCADED and frames[ancestor // wide, ancestor % wide].status == ABSENT:
                frames[m, f].status = ABSENT  # what was not asked for has no followers
                continue
            frames[m, f].status, frames[m, f].reason, frames[m, f].finish = GONE, reason, now
            score(load, work, rules, choice, state, frames, sums, m, f)


@inner
def _ready(now, load, rules, state, frames, m, f):
    """Whether the head of a line may run; remembers since when."""
    for n in range(load.frames.size):
        if load.after[m, n]:
            if rules.by_frame:
                if frames[n, load.source[m, n, f]].status != DONE:
                    return False
            elif state.models[n].done < f:
                return False
    if np.isnan(frames[m, f].ready):
        frames[m, f].ready = now
    return True


@inner
def _key(now, load, work, choice, state, frames, m, f, turns):
    """Place in the order, the least first."""
    if choice.order == BY_NAME:
        return np.float64(turns * load.order.size + state.models[m].rank)
    if choice.order == BY_ARRIVAL:
        return frames[m, f].injected
    if choice.order == BY_DEADLINE:
        return load.deadline[m, f]
    stage = frames[m, f].stage
    if choice.order == BY_SLACK:
        left = work.rest[m, stage, frames[m, f].part] if stage > 0 else fastest(work, choice, m, 0)
        return load.deadline[m, f] - now - left
    merit, _ = merits(now, load, work, choice, state, frames, m, f)
    return -merit


@inner
def _place(now, load, work, choice, state, frames, m, f):
    """The part for a frame that has not begun; -1: it waits."""
    if choice.order == BY_MERIT:
        _, best = merits(now, load, work, choice, state, frames, m, f)
        return best
    best, least = np.int64(-1), np.inf
    for a in range(state.parts.size):
        if not choice.allowed[m, a]:
            continue
        latency = work.rest[m, 0, a]
        idle = state.parts[a].job < 0
        if choice.placing == WAIT:
            value = (now if idle else max(now, state.parts[a].ends + state.parts[a].behind)) + latency
        elif not idle or latency == np.inf:
            continue
        elif choice.placing == THRIFTY:
            in_time = now + latency <= load.deadline[m, f]
            value = work.joules[m, a] if in_time else NO_ROOM + latency
        else:
            value = latency
        if value < least:
            best, least = np.int64(a), value
    return best if best >= 0 and state.parts[best].job < 0 else np.int64(-1)


@inner
def _dispatch(now, load, work, rules, choice, state, frames):
    """Give frames and interrupted jobs to idle parts until none is left that can start."""
    wide, first, models = load.deadline.shape[1], state.lines.first, state.models
    for m in range(models.size):
        models[m].passed = models[m].turns = 0
    while True:
        chosen, resumed, least = -1, -1, np.inf
        for k in range(state.paused_count[0]):  # among equals they go first: no needless interruption
            m, f = divmod(state.paused[k], wide)
            if state.parts[frames[m, f].part].job < 0:
                key = _key(now, load, work, choice, state, frames, m, f, models[m].turns)
                if key < least or resumed < 0:
                    chosen, resumed, least = m, k, key
        for m in load.order:
            f = first[m] % wide
            if first[m] >= 0 and models[m].passed == 0 and _ready(now, load, rules, state, frames, m, f):
                key = _key(now, load, work, choice, state, frames, m, f, models[m].turns)
                if key < least:
                    chosen, resumed, least = m, -1, key
        if chosen < 0:
            return
        if resumed >= 0:
            j = state.paused[resumed]
            state.paused_count[0] -= 1
            state.paused[resumed] = state.paused[state.paused_count[0]]
            m, f = divmod(j, wide)
            a = frames[m, f].part
            begin(now, work, rules, state, frames, m, f, a, 0.0 if state.parts[a].last == j else choice.switch)
            continue
        f = first[chosen] % wide
        a = _place(now, load, work, choice, state, frames, chosen, f)
        if a < 0:
            models[chosen].passed = 1
            continue
        take(state.lines, chosen)
        models[chosen].turns += 1
        frames[chosen, f].begun, frames[chosen, f].part, frames[chosen, f].status = now, a, RUNNING
        begin(now, work, rules, state, frames, chosen, f, a, 0.0)


@inner
def _next_time(now, load, state, frames, drawn, ticks):
    """When something happens next; infinite: never."""
    soon = np.inf
    if load.tick > 0.0:
        soon = (ticks + 1) * load.tick
    else:
        wide, first, models = load.deadline.shape[1], state.lines.first, state.models
        for m in range(load.frames.size):
            if models[m].issued < load.frames[m]:
                soon = min(soon, drawn.due[m, models[m].issued])
            if first[m] >= 0 and load.deadline[m, first[m] % wide] > now:
                soon = min(soon, load.deadline[m, first[m] % wide])
    for a in range(state.parts.size):
        if state.parts[a].job >= 0:
            soon = min(soon, state.parts[a].ends)
    return soon


@inner
def _over(load, rules, choice, state):
    """Whether all frames have come and, if the run is to be drained, nothing runs or waits that could begin."""
    busy, waits = state.paused_count[0] > 0, False
    for m in range(load.frames.size):
        if state.models[m].issued < load.frames[m]:
            return False
        waits = waits or state.lines.first[m] >= 0
    for a in range(state.parts.size):
        busy = busy or state.parts[a].job >= 0
    # What waits beside idle parts waits for its deadline, or, if nothing is dropped, for ever.
    return not (rules.drain and (busy or (waits and choice.drop != DROP_NEVER)))


@inner
def _start(load, choice, state, frames, seed):
    """Wipe what a run before has left."""
    for m in range(frames.shape[0]):
        for f in range(frames.shape[1]):
            frame = frames[m, f]
            frame.injected = frame.ready = frame.begun = frame.finish = np.nan
            frame.status = frame.reason = frame.stage = 0
            frame.part = frame.ancestor = -1
            frame.energy = 0.0
    for m in range(state.models.size):
        state.lines.first[m], state.lines.length[m] = -1, 0
        state.models[m].issued, state.models[m].done = 0, -1
    for a in range(state.parts.size):
        state.parts[a].job = state.parts[a].last = state.parts[a].piece = -1
    state.paused_count[0] = 0
    state.weights[0], state.weights[1] = choice.weights[0], choice.weights[1]
    for at in range(state.tuning.size):
        state.tuning[at] = 0.0
    for place in range(load.order.size):
        state.models[load.order[place]].rank = place
    if seed >= 0:
        glibc.start(state.words, seed)


@inner
def _tune(now, choice, state):
    """Of the weights, one at a time is doubled or halved for a window; what did no better is taken back.

    ``tuning``: end of the window, frames ended, missed, mJ spent, mJ at least, cost before, number of trials.
    """
    t = state.tuning
    if choice.window <= 0.0 or now < t[0]:
        return
    t[0] = now + choice.window
    if t[1] == 0.0:
        return
    cost = (t[2] + 0.5) / (t[1] + 1.0) * (t[3] / t[4] if t[4] > 0.0 else 1.0)
    t[1], t[2], t[3], t[4] = 0.0, 0.0, 0.0, 0.0
    number = np.int64(t[6])
    t[6] += 1.0
    if number % 2 == 0:  # that was the cost of what holds: try something else
        t[5] = cost
    elif cost < t[5]:
        return
    trial = number // 2
    factor = 2.0 if trial % 4 < 2 else 0.5
    at = trial % 2
    state.weights[at] *= factor if number % 2 == 0 else 1.0 / factor


@inner
def _run(load, work, rules, choice, seed, drawn, state, frames, sums, trace, width, pieces):
    _start(load, choice, state, frames, seed)
    now, ticks = 0.0, 0
    while not _over(load, rules, choice, state):
        _issue(now, load, state, frames, drawn, seed >= 0)
        _retire(now, load, work, rules, choice, state, frames, sums, trace, width, pieces)
        _drop(now, load, work, rules, choice, state, frames, sums)
        _tune(now, choice, state)
        _dispatch(now, load, work, rules, choice, state, frames)
        if choice.bandwidth < np.inf:
            share(now, load, work, choice, state, frames)
        now = _next_time(now, load, state, frames, drawn, ticks)
        if now == (ticks + 1) * load.tick:
            ticks += 1


@njit(cache=True, _nrt=False)
def runs(
    load: Load, work: Work, rules: Rules, choice: Choice, seeds: np.ndarray, drawn: Drawn, state: State,
    frames: np.ndarray, sums: np.ndarray, trace: np.ndarray, width: float, pieces: Pieces,
) -> None:  # fmt: skip
    """Every seed on every system.

    Args:
        work: with a first axis for systems, S; an infinite latency is no part.
        seeds: of ``rand()``, from which all chances then come; negative: they are drawn already [N].
        drawn: with a first axis for runs, of length N, or 1 if they are alike.
        frames: what became of them, with first axes S and N, or 1 and 1 if only the last is to be kept.
        sums: what is added to, as of the kernel [S, N, M, fields].
        trace: energy in each of its bins [S, N, bins]; none are kept if it has no bins.
        width: of a bin.
        pieces: what each part ran when; of the last run; none are kept if there is room for none.
    """
    for n in range(seeds.size):
        d = min(n, drawn.due.shape[0] - 1)
        c = min(n, drawn.chances.shape[0] - 1)
        own = Drawn(drawn.due[d], drawn.chances[c])
        for s in range(work.latency.shape[0]):
            priced = Work(work.latency[s], work.energy[s], work.demand[s], work.rest[s], work.joules[s], work.count)
            kept = frames[min(s, frames.shape[0] - 1), min(n, frames.shape[1] - 1)]
            pieces.used[0] = 0
            _run(load, priced, rules, choice, seeds[n], own, state, kept, sums[s, n], trace[s, n], width, pieces)
