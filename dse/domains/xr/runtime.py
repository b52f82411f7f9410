"""The workbench's own XR runtime: any scheduler, sensors, shared DRAM, all seeds at once, what became of each frame.

With the published policy and conditions it repeats :mod:`dse.domains.xr.published` to the bit; scores, tables and
conditions are the same for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.xr import loads
from dse.domains.xr.conditions import Conditions
from dse.domains.xr.costs import Costs
from dse.domains.xr.policies import Policy, policy
from dse.domains.xr.published import Sums, _priced, _seeds
from dse.domains.xr.scenarios import Scenario, scenario
from dse.domains.xr.systems import System, system
from dse.domains.xr.work import Memory, layered, whole
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from dse.domains.xr.loop_parts import Pieces, Work
    from dse.domains.xr.scores import Scores
    from dse.domains.xr.sensors import Sensing

# What a frame can end as, by the status of the kernel; in time and late are told apart by the deadline.
STATUSES = ("to come", "waiting", "running", "done", "dropped", "not asked for")
REASONS = ("", "late", "hopeless", "superseded", "cascaded")
COLUMNS = (
    "acc", "model", "frame", "injection_ms", "ready_ms", "dispatch_ms", "deadline_ms", "completion_ms", "energy_mJ",
    "outcome", "reason", "ancestor",
)  # fmt: skip
# Conditions of the workbench's own runs: each frame seen as it comes, cascades, everything logged and counted once.
OWN = Conditions(
    periods="real", dependencies="frame", in_flight="logged", qoe="once", absent="left-out", depthwise="grouped"
)
_MOST_KEPT = 5 * 10**7


@dataclass(frozen=True)
class Runs:
    """Runs of a scenario on S systems with N seeds.

    Attributes:
        scenario, systems, policy, conditions: what ran.
        sums: for :func:`dse.domains.xr.scores.by_seed` and the like.
        frames: what became of each frame, fields as of :data:`dse.domains.xr.loop_parts.FRAME`, [S, N, M, F]; None
            if it was not kept.
        deadline: of each frame, ms [M, F].
        captured: when the input of each frame was captured, or the frame was due, ms [N or 1, M, F].
        count: frames of each model [M].
        source: frame of model n that frame f of model m waits for, -1 if it does not [M, M, F].
        work: what models are made of.
        trace: energy in bins of ``width`` ms, mJ [S, N, bins].
        pieces: what each part ran when, of the last run.
    """

    scenario: Scenario
    systems: tuple[System, ...]
    policy: Policy
    conditions: Conditions
    sums: Sums
    frames: np.ndarray | None
    deadline: np.ndarray
    captured: np.ndarray
    count: np.ndarray
    source: np.ndarray
    work: Work
    trace: np.ndarray
    width: float
    pieces: Pieces

    def scores(self, accuracy: Mapping[str, float] | None = None) -> Scores:
        """Scores of the runs."""
        from dse.domains.xr.scores import scores

        return scores(self.sums, self.conditions, accuracy=accuracy)

    def outcomes(self) -> np.ndarray:
        """What became of each frame.

        Raises:
            SpecError: it was not kept.
        """
        if self.frames is None:
            raise SpecError([Fault("frames", "", "were not kept: run again with keep=True")])
        return self.frames


def simulate(
    scenario_: Any, systems_: Iterable[Any], *, policy_: Any = "published", seeds: Sequence[int] | np.ndarray = (1,),
    costs: Costs | None = None, conditions: Conditions | None = None, sensors: Sensing | None = None,
    memory: Memory | None = None, work: Work | None = None, keep: bool = False, width: float | None = None,
) -> Runs:  # fmt: skip
    """Run a scenario on systems, once for each seed.

    Args:
        scenario_, systems_, policy_: ids, paths, mappings or specs.
        seeds: of what is left to chance.
        costs: of the models; by default recorded ones, or the cost model of layers, which interruption and a memory
            need.
        conditions: how runs are carried out and counted, those of the artifact by default (:data:`OWN` are ours). The
            policy takes the place of their ``order`` and ``placing``.
        sensors: that frames come from, see :mod:`dse.domains.xr.sensors`; needs real periods.
        memory: DRAM that the parts share.
        work: what the models are made of, in place of costs: one of its systems for each of ``systems_``.
        keep: what became of each frame.
        width: of the bins of a trace of energy, s.

    Raises:
        SpecError: what does not fit together.
    """
    from dse.domains.xr.kernel import FIELDS
    from dse.domains.xr.loop import runs
    from dse.domains.xr.loop_parts import FRAME, Pieces, scratch

    conditions, rule = conditions or Conditions(), policy(policy_)
    chosen, listed = scenario(scenario_), [system(item) for item in systems_]
    numbers = _seeds(seeds)
    load = loads.load(chosen, conditions)
    lucky = conditions.jitter > 0 or any(task.probability < 1 for task in chosen.tasks)
    if sensors is not None:
        load, drawn, captured, lucky = sensors.apply(chosen, conditions, load, numbers)
    else:
        drawn = loads.drawn(chosen, conditions, numbers if lucky else numbers[:1])
        captured = drawn.due
    run = numbers if lucky else numbers[:1]  # without chance all runs are alike
    work = work or _work(chosen, listed, costs, conditions, rule, memory)
    if work.latency.shape[:2] != (len(listed), len(chosen.tasks)):
        given = f"{work.latency.shape[0]} systems, {work.latency.shape[1]} models"
        raise SpecError([Fault("work", given, f"must be of {len(listed)} systems and {len(chosen.tasks)} models")])
    (systems_count, models, _, parts), most = work.latency.shape, load.deadline.shape[1]
    kept = (systems_count, run.size) if keep else (1, 1)
    bins = _bins(width, float(load.deadline.max()), systems_count * run.size * models * most if keep else 0)
    single_run = systems_count == run.size == 1 and keep
    rows = int((load.frames * (work.count if rule.preempt else 1)).sum()) if single_run else 0
    frames = np.zeros((*kept, models, most), FRAME)
    trace = np.zeros((systems_count, run.size, bins))
    pieces = Pieces(np.zeros(1, np.int64), np.zeros((rows, 2), np.int64), np.zeros((rows, 2)))
    values = np.zeros((systems_count, run.size, models, len(FIELDS)))
    runs(
        load, work, loads.rules(conditions), _choice(rule, chosen, parts, memory), _passed(conditions, run), drawn,
        scratch(models, most, parts), frames, values, trace, 1e3 * (width or 1.0), pieces,
    )  # fmt: skip
    if run.size < numbers.size:
        values = values.repeat(numbers.size, 1)
        trace = np.broadcast_to(trace, (systems_count, numbers.size, bins))
        frames = np.broadcast_to(frames, (systems_count, numbers.size, models, most)) if keep else frames
    sums = Sums(chosen, tuple(item.id for item in listed), numbers, values)
    source = np.where(load.after[:, :, None] > 0, load.source, -1)
    return Runs(
        chosen, tuple(listed), rule, conditions, sums, frames if keep else None, load.deadline, captured, load.frames,
        source, work, trace, 1e3 * (width or 1.0), pieces,
    )  # fmt: skip


def run(scenario_: Any, system_: Any, *, seed: int = 1, **settings: Any) -> Runs:
    """One run, with all that can be known of it; settings as of :func:`simulate`."""
    return simulate(scenario_, [system_], seeds=[seed], keep=True, **settings)


def timeline(runs: Runs, system_: int = 0, seed: int = 0) -> pd.DataFrame:
    """All frames of one run that were asked for, in the order in which they came.

    Columns: :data:`COLUMNS`, times in ms and energy in mJ. ``outcome`` is in time, late, dropped, or at the end running
    or waiting; ``reason`` of a drop late, hopeless, superseded or cascaded, and then ``ancestor`` what fell first.

    Args:
        system_, seed: places of the run among the runs.
    """
    import pandas as pd

    frames = runs.outcomes()[system_, seed]
    model, number = np.nonzero((frames["status"] >= 1) & (frames["status"] <= 4))
    at = frames[model, number]
    names = np.array(runs.scenario.models)
    outcome = np.array(STATUSES, dtype=object)[at["status"]]
    deadline = runs.deadline[model, number]
    done = at["status"] == 3
    outcome[done] = np.where(at["finish"] > deadline, "late", "in time")[done]
    wide = runs.deadline.shape[1]
    ancestor = [f"{names[n // wide]} {n % wide}" if n >= 0 else "" for n in first_fallen(frames)[model, number]]
    values = (
        at["part"], names[model], number, at["injected"], at["ready"], at["begun"], deadline, at["finish"],
        at["energy"], outcome, np.array(REASONS)[at["reason"]], ancestor,
    )  # fmt: skip
    frame = pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))
    return frame.sort_values(["injection_ms", "model", "frame"], kind="stable", ignore_index=True)


def stretches(runs: Runs) -> pd.DataFrame:
    """What each part ran when in a single run: acc, model, frame, start_ms, end_ms; several rows if interrupted."""
    import pandas as pd

    used, wide = int(runs.pieces.used[0]), runs.deadline.shape[1]
    part, job = runs.pieces.whole[:used].T
    names = np.array(runs.scenario.models)
    columns = {"acc": part, "model": names[job // wide], "frame": job % wide}
    start, end = runs.pieces.times[:used].T
    return pd.DataFrame({**columns, "start_ms": start, "end_ms": end}).sort_values(
        ["acc", "start_ms"], kind="stable", ignore_index=True
    )


def first_fallen(frames: np.ndarray) -> np.ndarray:
    """Of each frame that fell with another, the number of the one that fell first; -1: it did not [..., M, F]."""
    shape = frames.shape
    ancestor = frames["ancestor"].reshape(-1, shape[-2] * shape[-1])
    origin = np.where((frames["status"] == 4).reshape(ancestor.shape), ancestor, -1)
    for _ in range(shape[-2]):  # a chain has no more links than models
        above = np.take_along_axis(ancestor, np.maximum(origin, 0), axis=1)
        origin = np.where((origin >= 0) & (above >= 0), above, origin)
    return origin.reshape(shape)


def _work(
    scenario_: Scenario,
    listed: list[System],
    costs: Costs | None,
    conditions: Conditions,
    rule: Policy,
    memory: Memory | None,
) -> Work:
    if rule.preempt or memory is not None:
        if not listed:
            raise SpecError([Fault("systems", "", "must be one or more")])
        return layered(scenario_, listed, costs, conditions, memory)
    return whole(*_priced(scenario_, listed, costs, conditions))


def _choice(rule: Policy, scenario_: Scenario, parts: int, memory: Memory | None) -> Any:
    from dse.domains.xr.loop_parts import Choice
    from dse.domains.xr.policies import DROPS, ORDERS, PLACINGS

    return Choice(
        ORDERS.index(rule.order), PLACINGS.index(rule.placing), DROPS.index(rule.drop), rule.preempt, rule.newest,
        1e3 * rule.switch, np.inf if memory is None else memory.bandwidth * memory.efficiency / 1e3,
        rule.allowed(scenario_.models, parts), np.array([rule.starvation, rule.thrift]), 1e3 * rule.tune,
    )  # fmt: skip


def _passed(conditions: Conditions, seeds: np.ndarray) -> np.ndarray:
    """Seeds of the artifact's random numbers; -1: chances are drawn already."""
    return seeds if conditions.periods == "whole-ms" else np.full_like(seeds, -1)


def _bins(width: float | None, last: float, kept: int) -> int:
    if kept > _MOST_KEPT:
        raise SpecError([Fault("keep", f"{kept:.3g} frames", f"must be {_MOST_KEPT:.0e} at most, of all runs")])
    if width is None:
        return 0
    if not 1e-5 <= width <= 1e3 or last / (1e3 * width) > 1e6:
        raise SpecError([Fault("width", f"{width!r} s", "must be from 10 us, a millionth of the horizon at least")])
    return int(np.ceil(last / (1e3 * width))) + 1
