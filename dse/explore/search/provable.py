"""For which searches branch and bound proves its result: more of a resource must never make the best strategy slower.

A resource enters the step time through sums, products with non-negative factors, maxima and minima of (work / rate)
and (count · delay), which fall as rates rise and delays fall, and through communication that hides behind work,
max(communication − work, 0): work plus that is max(work, communication). Only where *two* communications hide behind
the same work can faster work uncover more than it saves. There (context parallelism, overlapped expert parallelism,
offload, shard groups, and zero-bubble schedules, whose bubble falls by the weight gradients) the bound hides all of
it once, behind whole passes: see :func:`relaxed_quantities`. Capacities enter only the rule that memory must fit,
except under ``memory_expansion: spread``, which is refused. Where a field is of neither kind (device counts, sizes of
pods, whole accelerators), every value is a search of its own. ``tests/test_bound.py`` checks the bounds box by box,
and the optimum against enumeration.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dse.cost.graph import Quantity
from dse.cost.replicas import least_dp_comm
from dse.errors import Fault, SpecError
from dse.explore.evaluate import graph_of
from dse.explore.search.problem import Problem
from dse.explore.search.variables import HardwareVariable

RICHER = {"bandwidth": 1, "capacity": 1, "latency": -1, "overhead": -1, "launch": -1, "jitter": -1, "efficiency": 1}
PARTS = {"MatrixPeak": 1, "VectorPeak": 1}
# What the richest corner bounds (True where less is better), and what the poorest one does.
FAST = {"step_time": True, "tokens_per_s": False, "effective_step_time": True, "effective_tokens_per_s": False}
CHEAP = ("capital", "investment", "peak_power", "racks", "floor_area", "silicon_area", "nodes")
COSTS = ("price", "power", "tdp", "idle_power", "area", "energy", "host_power", "host_price", "embodied_carbon")
ROOTS = 20_000  # values of fields that are no resources, multiplied
# Fields of a strategy under which communication may hide twice, and the value of each that excludes it.
TWICE = {"cp": 1, "ep": 1, "shard_group": 0, "offload_weights": "local", "offload_gradients": "local",
         "offload_activations": "local"}  # fmt: skip
ZERO_BUBBLE = ("zero_bubble_h1", "zero_bubble_h2")


def direction(v: HardwareVariable) -> int:
    """+1 where more of a field is richer, −1 where less is, 0 where neither can be said."""
    if v.structural or not all(isinstance(x, int | float) for x in v.values):
        return 0
    return PARTS.get(type(v.place.parent).__name__, RICHER.get(v.place.field, 0))


def provable(given: Problem) -> None:
    """Check that the statements above hold for a problem.

    Raises:
        SpecError: several objectives, one that is not a time or rate, quantities of the user's own, or a coupling that
            makes richer hardware cheaper or slower.
    """
    faults = []
    lead = given.objectives[0]
    if len(given.objectives) > 1 or lead.risk != "point" or lead.name not in FAST:
        rule = f"bounds are proved for one objective of {', '.join(FAST)}"
        faults.append(Fault("objective", ", ".join(o.text for o in given.objectives)[:80], rule))
    if given.replace:
        faults.append(Fault("replace", "", "nothing is proved about quantities of your own"))
    if not any(direction(v) for v in given.variables):
        faults.append(Fault("hardware", "", "no variable is a capacity, rate or delay"))
    loose = [v.name for v in given.variables if not v.values and not direction(v)]
    if loose:
        faults.append(Fault("hardware", ", ".join(loose)[:80], "more is not always better: give values, or steps"))
    elif math.prod(len(v.shown) for v in given.variables if not direction(v)) > ROOTS:
        faults.append(Fault("hardware", "", f"more than {ROOTS:,} combinations of fields that are no resources"))
    faults += _strategy_faults(given)
    for c in given.couplings:
        cost = c.target.field in COSTS
        rich = PARTS.get(type(c.target.parent).__name__, RICHER.get(c.target.field, 0))
        source = PARTS.get(type(c.source.parent).__name__, RICHER.get(c.source.field, 1))
        slope = 1.0 if c.rate is None else float(c.rate)
        if slope * source < 0 if cost else slope * source * rich <= 0:
            faults.append(Fault("couplings", c.target.field, "makes richer hardware cheaper or slower"))
    if faults:
        raise SpecError(faults)


def _strategy_faults(given: Problem) -> list[Fault]:
    """Strategies for which the bounds do not hold."""
    strategy: Any = given.specs["strategy"]

    def tried(name: str) -> list[Any]:
        values = given.options.get(name, [getattr(strategy, name)])
        return list(values) if isinstance(values, list | tuple | range) else [values]

    faults = []
    if "comet" in tried("execution"):
        faults.append(Fault("execution", "comet", "bounds are proved for the micro-batched timing model"))
    if "spread" in tried("memory_expansion") and any(v.place.field == "capacity" for v in given.variables):
        faults.append(Fault("memory_expansion", "spread", "more local memory may stream slower; nothing is proved"))
    return faults


def relaxed_quantities() -> tuple[Quantity, ...]:
    """Quantities that are never more than the cost model's, and leave a sum that falls as hardware gets richer."""
    known = graph_of("megatron").quantities

    def either(name: str, extra: tuple[str, ...], apart: Callable[..., Any], less: Callable[..., Any]) -> Quantity:
        original = known[name]
        count = len(original.needs)

        def function(*values: Any) -> Any:
            value, chosen = original.function(*values[:count]), apart(*values[count:])
            return np.where(chosen, less(*values[:count]), value) if np.any(chosen) else value

        needs = (*original.needs, *extra)
        return Quantity(name, function, original.unit, f"{original.equation}, or less", "a bound", needs)

    def twice(*values: Any) -> Any:
        found: Any = False
        for value, alone in zip(values, TWICE.values(), strict=True):
            found = np.logical_or(found, np.not_equal(value, alone))
        return found

    return (
        either("dp_comm", tuple(TWICE), twice, least_dp_comm),
        either("bubble", ("schedule",), lambda schedule: np.isin(schedule, ZERO_BUBBLE), lambda *_: 0.0),
    )


def may_hide_twice(given: Problem) -> bool:
    """Is any strategy among those tried whose communication could hide twice?"""
    point = {v.name: (v.shown[-1] if v.values else v.high) for v in given.variables}
    group = given.group(point)
    tried = {b.name: set(b.values) for b in group.strategies}
    strategy: Any = given.specs["strategy"]
    values = {name: tried.get(name, {getattr(strategy, name)}) for name in (*TWICE, "schedule")}
    return any(values[name] - {alone} for name, alone in TWICE.items()) or bool(values["schedule"] & {*ZERO_BUBBLE})
