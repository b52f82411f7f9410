"""The best strategy for a model on a cluster, out of all of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dse.errors import Fault, InfeasibleDesign, SpecError
from dse.explore.evaluate import RULES, bind_axes, feasible, load_specs, own_quantities, violations
from dse.explore.exhaustive import OBJECTIVES, Found, Space, enumerate_space
from dse.explore.objectives import DIRECTIONS, Objective
from dse.explore.objectives import objective as read_objective
from dse.explore.result import Result
from dse.space import rules
from dse.space.enumerate import strategy_axes

__all__ = ["OBJECTIVES", "Best", "Found", "Space", "best", "enumerate_space", "strategy_space"]


class Best(Result):
    """The best design of an enumeration: a :class:`Result` that knows what it was chosen from.

    Attributes:
        strategy: the chosen fields.
        objective: by what it was chosen.
        ranking: objective and chosen fields of the best distinct designs, best first.
        counts: what became of all designs of the space (see :class:`Found`).
    """

    strategy: dict[str, Any]
    objective: str
    ranking: list[dict[str, Any]]
    counts: dict[str, int]

    @property
    def evaluated(self) -> int:
        """Designs of the space, legal or not, all of which are accounted for."""
        return self.counts["evaluated"]

    @property
    def feasible_count(self) -> int:
        """Designs that satisfy every rule."""
        return self.counts["feasible"]

    def summary(self) -> dict[str, Any]:
        return {
            "strategy": self.strategy,
            "objective": self.objective,
            "evaluated": self.evaluated,
            "feasible_designs": self.feasible_count,
            "distinct_designs": self.counts["distinct"],
            **super().summary(),
        }

    def __repr__(self) -> str:
        chosen = ", ".join(f"{name}={str(value).lower()}" for name, value in self.strategy.items())
        return (
            f"best of {self.evaluated:,} strategies ({self.feasible_count:,} feasible, "
            f"{self.counts['distinct']:,} distinct) by {self.objective}\n"
            f"{chosen}\n\n{super().__repr__()}"
        )


def strategy_space(
    model: Any,
    cluster: Any,
    *,
    devices: int,
    global_batch: int,
    base: Any = None,
    options: Mapping[str, Sequence[Any]] | None = None,
) -> Space:
    """The space of strategies for a model on ``devices`` accelerators.

    Raises:
        SpecError: with every fault of the inputs.
    """
    fixed = fixed_fields(base, options)
    specs = load_specs(model, cluster, {**fixed, "global_batch": global_batch}, devices)
    axes = strategy_axes(specs["model"], specs["cluster"], devices, global_batch, options, fixed)
    bound = bind_axes(specs, axes)
    loops = [b.name for b in bound if b.structural]
    if loops:
        raise SpecError([Fault(f"options.{loops[0]}", "", "changes the model's structure; give one value in base")])
    return Space(specs, tuple(bound))


def fixed_fields(base: Any, options: Mapping[str, Sequence[Any]] | None = None) -> dict[str, Any]:
    """Strategy fields that stay fixed, as a mapping.

    Raises:
        SpecError: neither text nor a mapping, or a field that is given among the options or as the batch too.
    """
    from dse.spec import Strategy, parse_strategy

    if base is None:
        return {}
    if isinstance(base, Strategy):
        raise SpecError([Fault("base", "Strategy", "must be text or a mapping of the fields that stay fixed")])
    fixed = parse_strategy(base) if isinstance(base, str) else dict(base)
    both = sorted(set(fixed) & {*(options or {}), "global_batch"})
    if both:
        raise SpecError([Fault(f"base.{both[0]}", str(fixed[both[0]])[:40], "is given elsewhere too; name it once")])
    return fixed


def best(
    model: Any,
    cluster: Any,
    *,
    devices: int,
    global_batch: int,
    objective: str | Objective = "step_time",
    top: int = 5,
    base: Any = None,
    options: Mapping[str, Sequence[Any]] | None = None,
    workers: int | None = None,
    replace: Any = (),
) -> Best:
    """Find the best feasible strategy of all.

    Rules and memory of every strategy are computed, and the objective of those that can still win: a strategy whose
    proved bound (see :mod:`dse.explore.bounds`) is worse than the ``top`` best found is never timed, and strategies
    that differ only in what cannot matter (see :mod:`dse.space.symmetry`) count as one, the first in the axes' order.
    Strategies of equal value are ranked by their position in the axes' order, the last axis fastest. The answer is
    that of timing every one.

    Args:
        model, cluster: as for :func:`dse.estimate`.
        devices: number of accelerators; data parallelism follows from the other degrees.
        global_batch: samples per step.
        objective: as in :mod:`dse.explore.objectives`: ``step_time``, ``mfu``, ``cost``, ``goodput``, ``tco``,
            ``min power``, ``step_time@90%``, ``P(step_time <= 12 s)``, ... Bounds are proved for step time, throughput,
            MFU, cost, energy, carbon, memory and tokens per dollar and joule; by others all that fits is ranked.
        top: how many distinct strategies to keep in ``ranking``.
        base: strategy fields that stay fixed (precision, attention, overlap, ...).
        options: values to try for any strategy field, instead of the defaults.
        workers: threads; by default as many as pay (see :func:`enumerate_space`).
        replace: quantities of your own, as for :func:`dse.estimate`; nothing is then proved, so all that fits is timed.

    Raises:
        SpecError: with every fault of the inputs.
        InfeasibleDesign: no strategy satisfies the rules; names the rules that fail.
    """
    goal = _objective(objective)
    if not isinstance(top, int) or not 1 <= top <= 10_000:
        raise SpecError([Fault("top", repr(top)[:40], "must be a whole number from 1 to 10,000")])
    space = strategy_space(model, cluster, devices=devices, global_batch=global_batch, base=base, options=options)
    space = dataclasses.replace(space, replace=own_quantities(replace))
    _check_number(goal, space)
    found = enumerate_space(space, goal, top=top, workers=workers)
    if not found.best:
        raise InfeasibleDesign(_why_none(space))
    chosen = space.strategy_at(found.best[0][1])
    specs = {**space.specs, "strategy": space.specs["strategy"].replace(**chosen)}
    result = Best(specs, [], devices_given=True, replace=space.replace)
    fixed = {name: getattr(specs["strategy"], name) for name in fixed_fields(base)}
    replicas = int(result.cells[0].evaluation["data_parallel"])
    result.strategy = {**fixed, **chosen, "dp": replicas, "global_batch": global_batch}
    result.counts, result.objective = found.counts(), str(goal)
    result.ranking = [{str(goal): value, **space.strategy_at(index)} for value, index in found.best]
    return result


def _objective(text: Any) -> Objective:
    """Read an objective; where there is none of that name, the usual ones are listed."""
    try:
        return read_objective(text)
    except SpecError as error:
        if not any("not a quantity" in fault.rule for fault in error.faults):
            raise
        usual = f"usual ones are {', '.join(DIRECTIONS)}"
        raise SpecError(
            [Fault("objective", repr(str(text))[:60], f"{f.rule}; {usual}") for f in error.faults]
        ) from None


def _check_number(goal: Objective, space: Space) -> None:
    """The objective must be one number a design.

    Raises:
        SpecError: it is not.
    """
    value = goal.value(space.evaluate([slice(0, 1)] * len(space.axes)))
    if np.asarray(value).dtype.kind not in "fiub":
        raise SpecError([Fault("objective", repr(goal.text)[:60], "is not one number a design")])


def _why_none(space: Space) -> str:
    """Which rules no design satisfies, and how near the nearest design in memory comes."""
    failing: dict[str, int] = dict.fromkeys(RULES, 0)
    nearest = -np.inf
    for block in space.blocks():
        evaluation = space.evaluate(block)
        margins = violations(evaluation)
        legal = feasible({name: m for name, m in margins.items() if name != "memory_fits"})
        if np.any(legal):
            memory = np.where(legal, margins["memory_fits"], -np.inf)
            nearest = max(nearest, float(np.max(memory)))
        for name, margin in margins.items():
            failing[name] += bool(np.any(np.greater_equal(margin, 0)))
    never = [name for name, count in failing.items() if count == 0]
    if np.isfinite(nearest):
        return (
            f"none of the {space.size:,} strategies fits in memory: the nearest legal one lacks "
            f"{-nearest / 1e9:.1f} GB per device; use more devices, more memory, offload or a smaller batch"
        )
    names = never or _tightest(space)
    plain = {name: re.sub(r" ?=? ?\{[^}]*\}[^ ,;]*", "", text) for name, text in rules.texts().items()}
    texts = "; ".join(f"{name}: {plain[name]}" for name in names) or "no design satisfies all rules at once"
    return f"none of the {space.size:,} strategies is legal: {texts}"[:1500]


def _tightest(space: Space) -> list[str]:
    """Rules without any one of which some design would be legal."""
    found: set[str] = set()
    for block in space.blocks():
        margins = violations(space.evaluate(block))
        for name in margins:
            rest = {other: margin for other, margin in margins.items() if other not in (name, "memory_fits")}
            if name not in found and np.any(feasible(rest)):
                found.add(name)
    return [name for name in RULES if name in found and name != "memory_fits"]
