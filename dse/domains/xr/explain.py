"""Why deadlines were missed: where the time of each frame went, who was in the way, and what would have helped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.xr.models import full_name
from dse.domains.xr.policies import POLICIES
from dse.domains.xr.runtime import Runs, first_fallen, simulate
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    import pandas as pd

    from dse.domains.xr.costs import Costs

# Causes of a miss, and how they are told.
CAUSES = {
    "impossible": "no part runs it within its deadline, even alone",
    "cascade": "a frame that it follows was dropped",
    "superseded": "a newer frame took its place",
    "input": "the frames that it follows were done late",
    "blocked": "other work was on the parts",
    "part": "it ran on a part that is slower than the best",
    "slowed": "interrupted, or short of DRAM bandwidth",
}
_TOLERANCE = 1e-4  # ms: times of the artifact are rounded to single precision
_LONGEST = 16  # links of a chain that are shown


def misses(runs: Runs, system_: int = 0, seed: int = 0) -> pd.DataFrame:
    """All frames of one run that were dropped or late, and why.

    The time of a frame from when it came splits into ``input`` (until all that it follows is done), ``blocked`` (until
    it begins, or is dropped), ``best`` (its time on the best part), ``part`` (what its own part takes more) and
    ``slowed`` (interruptions, and DRAM that others use). The cause is impossible if ``best`` alone is more than the
    time it had; else the largest of the other terms.

    Args:
        system_, seed: places of the run among the runs.

    Returns:
        model, frame, outcome (late, dropped), cause, late_ms (behind its deadline; of dropped frames not a number),
        input_ms, blocked_ms, best_ms, part_ms, slowed_ms, root (``model frame`` that fell first, of cascades), blockers
        (what ran while it waited, the longest first).
    """
    import pandas as pd

    frames, names = runs.outcomes()[system_, seed], runs.scenario.models
    late = (frames["status"] == 3) & (frames["finish"] > runs.deadline)
    model, number = np.nonzero(late | (frames["status"] == 4))
    at, deadline = frames[model, number], runs.deadline[model, number]
    whole = np.where(runs.policy.allowed(names, runs.work.rest.shape[3]), runs.work.rest[system_, :, 0], np.inf)
    best, own = whole.min(axis=1)[model], whole[model, np.maximum(at["part"], 0)]
    dropped = at["status"] == 4
    ready = np.where(np.isnan(at["ready"]), at["finish"], at["ready"])
    begun = np.where(dropped, at["finish"], at["begun"])
    terms = {
        "input": ready - at["injected"], "blocked": begun - ready, "part": np.where(dropped, 0.0, own - best),
        "slowed": np.where(dropped, 0.0, at["finish"] - begun - own),
    }  # fmt: skip
    terms = {name: np.where(np.abs(values) < _TOLERANCE, 0.0, values) for name, values in terms.items()}
    cause = np.array(list(terms), dtype=object)[np.argmax(list(terms.values()), axis=0)]
    cause[best > deadline - at["injected"] + _TOLERANCE] = "impossible"
    cause[at["reason"] == 3] = "superseded"
    cause[at["reason"] == 4] = "cascade"
    origin, wide = first_fallen(frames)[model, number], runs.deadline.shape[1]
    begins, ends, jobs = _busy(frames)
    blockers = [_during(names, begins, ends, jobs, wide, *span) for span in zip(ready, begun, strict=True)]
    return pd.DataFrame({
        "model": np.array(names)[model], "frame": number, "outcome": np.where(dropped, "dropped", "late"),
        "cause": cause, "late_ms": np.where(dropped, np.nan, at["finish"] - deadline), "input_ms": terms["input"],
        "blocked_ms": terms["blocked"], "best_ms": best, "part_ms": terms["part"], "slowed_ms": terms["slowed"],
        "root": [f"{names[n // wide]} {n % wide}" if n >= 0 else "" for n in origin], "blockers": blockers,
    })  # fmt: skip


def _busy(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Begin, end and number of all frames that ran."""
    jobs = np.flatnonzero(~np.isnan(frames["begun"].ravel()))
    ran = frames.ravel()[jobs]
    return ran["begun"], np.where(np.isnan(ran["finish"]), np.inf, ran["finish"]), jobs


def _during(
    names: Sequence[str], begins: np.ndarray, ends: np.ndarray, jobs: np.ndarray, wide: int, start: float, stop: float
) -> str:
    overlap = np.minimum(ends, stop) - np.maximum(begins, start)
    order = [k for k in np.argsort(-overlap, kind="stable")[:3] if overlap[k] > _TOLERANCE]
    return ", ".join(f"{names[jobs[k] // wide]} {jobs[k] % wide} ({overlap[k]:.3g} ms)" for k in order)


def blocking_chain(runs: Runs, model: str, frame: int, system_: int = 0, seed: int = 0) -> list[str]:
    """What held a frame up, then what held that up, and so on until something that began as soon as it came.

    Args:
        model, frame: whose chain.

    Returns:
        One sentence a link.

    Raises:
        SpecError: a frame that there is not, or that never came.
    """
    frames, names, wide = runs.outcomes()[system_, seed], runs.scenario.models, runs.deadline.shape[1]
    name = full_name(model)
    if name not in names or not 0 <= frame < runs.count[names.index(name)]:
        raise SpecError([Fault("frame", f"{model} {frame}"[:60], "must be a frame of the run")])
    job = names.index(name) * wide + frame
    if np.isnan(frames.ravel()[job]["injected"]):
        raise SpecError([Fault("frame", f"{model} {frame}", "was not asked for")])
    told: list[str] = []
    while job >= 0 and len(told) < _LONGEST:
        sentence, job = _link(frames, names, job, runs)
        told.append(sentence)
    return told


def _link(frames: np.ndarray, names: Sequence[str], job: int, runs: Runs) -> tuple[str, int]:
    """What held a frame up, and the frame that did it; -1: nothing."""
    wide = frames.shape[1]
    m, f = divmod(job, wide)
    it, title = frames[m, f], f"{names[m]} {f}"
    came = it["injected"]
    if it["status"] == 4 and it["ancestor"] >= 0:
        n, g = divmod(int(it["ancestor"]), wide)
        return f"{title} fell with {names[n]} {g}, which was dropped", int(it["ancestor"])
    until = it["finish"] if it["status"] == 4 else it["begun"]
    what = "was dropped" if it["status"] == 4 else "began"
    if np.isnan(until):
        return f"{title} came at {came:.4g} ms and waited until the end", -1
    ready = until if np.isnan(it["ready"]) else it["ready"]
    if ready > came + _TOLERANCE:  # its sources were late, or had lost a frame before
        sources = [(frames[n, g]["finish"], n * wide + g) for n, g in enumerate(runs.source[m, :, f]) if g >= 0]
        if sources:
            last = max((end if end == end else np.inf, number) for end, number in sources)[1]
            n, g = divmod(last, wide)
            return f"{title} came at {came:.4g} ms and had to wait for {names[n]} {g} until {ready:.4g} ms", last
    if until <= ready + _TOLERANCE:
        return f"{title} {what} at {until:.4g} ms, as soon as it came", -1
    begins, ends, jobs = _busy(frames)
    running = (begins < until - _TOLERANCE) & (ends > ready + _TOLERANCE) & (jobs != job)
    if it["status"] != 4:  # who left its part for it
        running &= frames.ravel()[jobs]["part"] == it["part"]
    if not running.any():
        return f"{title} waited from {ready:.4g} ms, {what} at {until:.4g} ms: no part that it may take was free", -1
    found = int(jobs[running][np.argmax(np.minimum(ends, until)[running])])
    n, g = divmod(found, wide)
    held = f"part {frames[n, g]['part']} was held by {names[n]} {g} from {frames[n, g]['begun']:.4g} ms"
    return f"{title} waited from {ready:.4g} ms and {what} at {until:.4g} ms: {held}", found


def what_if(
    scenario_: Any, system_: Any, *, policy_: Any = "published", faster: float = 0.05,
    seeds: Sequence[int] = range(1, 21), costs: Costs | None = None, policies: Sequence[str] = tuple(POLICIES),
    **settings: Any,
) -> pd.DataFrame:  # fmt: skip
    """What would change the score: each model faster by a share, each part faster, and other schedulers.

    All changes of speed are simulated at once, as so many systems, with the same seeds.

    Args:
        faster: share of time that is saved.
        policies: to try besides.
        settings: as of :func:`dse.domains.xr.runtime.simulate`.

    Returns:
        change, score (mean over seeds), gain, missed (dropped and late, share of frames); the run as it is, then the
        largest gain first.
    """
    import pandas as pd

    if not 0 < faster < 1:
        raise SpecError([Fault("faster", repr(faster), "must be between 0 and 1")])
    base = simulate(scenario_, [system_], policy_=policy_, seeds=seeds, costs=costs, **settings)
    models, parts = base.scenario.models, base.systems[0].parts
    count, kept = 1 + len(models) + len(parts), 1 - faster
    factor = np.ones((count, len(models), 1, len(parts)))
    for m in range(len(models)):
        factor[1 + m, m] = kept
    for a in range(len(parts)):
        factor[1 + len(models) + a, :, :, a] = kept
    work = base.work._replace(
        latency=base.work.latency * factor, rest=base.work.rest * factor, demand=base.work.demand / factor,
        energy=base.work.energy.repeat(count, 0), joules=base.work.joules.repeat(count, 0),
    )  # fmt: skip
    changed = simulate(base.scenario, [base.systems[0]] * count, policy_=policy_, seeds=seeds, work=work, **settings)
    saved = f"{100 * faster:.3g} % less time"
    labels = [
        "as it is",
        *(f"{name}: {saved}" for name in models),
        *(f"part {a} ({p.name}): {saved}" for a, p in enumerate(parts)),
    ]
    rows = _told(labels, changed)
    for name in policies:
        rows += _told([f"scheduler {name}"], simulate(
            base.scenario, [base.systems[0]], policy_=name, seeds=seeds, costs=costs, **settings))  # fmt: skip
    frame = pd.DataFrame(rows, columns=["change", "score", "missed"])
    frame.insert(2, "gain", frame["score"] - frame["score"].iloc[0])
    rest = frame.iloc[1:].sort_values("gain", ascending=False, kind="stable")
    return pd.concat([frame.iloc[:1], rest], ignore_index=True)


def _told(labels: Sequence[str], runs: Runs) -> list[tuple[str, float, float]]:
    counted = runs.sums.values.sum(axis=(1, 2))
    missed = (counted[:, 1] + counted[:, 2]) / np.maximum(counted[:, 0], 1)
    scored = runs.scores().overall.mean(axis=1)
    return [(label, float(score), float(share)) for label, score, share in zip(labels, scored, missed, strict=True)]
