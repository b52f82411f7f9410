"""Shadow prices: what one unit more of each resource saves, and what it may cost before it is not worth it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.cost.compute import FALLBACK
from dse.cost.graph import Evaluation
from dse.errors import Fault, InfeasibleDesign, SpecError
from dse.explore.evaluate import violations
from dse.explore.result import Result
from dse.explore.sensitivity.samples import (
    Search,
    counted,
    evaluate_arrays,
    require_all,
    search_of,
    single,
    strategy_space,
)
from dse.space.axes import Place, locate
from dse.units import engineering

if TYPE_CHECKING:
    import pandas as pd

UNLIMITED = 1e12  # times the present rate: as good as infinitely fast, and still a number
# Natural steps in SI units by the field's unit, and what people call them.
STEP = {"FLOP/s": (1e12, "TFLOP/s"), "B/s": (1e9, "GB/s"), "B": (1e9, "GB"), "s": (-1e-6, "µs")}


@dataclass(frozen=True)
class Resource:
    """Something one can buy more of (or, for latencies, less)."""

    name: str
    path: str
    place: Place
    now: float

    @property
    def step(self) -> float:
        """A natural step in SI units; negative for latencies, which end at 0."""
        size = STEP[self.place.unit][0]
        return max(size, -self.now) if size < 0 else 1e6 if self.path.endswith("buffer") else size

    @property
    def end(self) -> float:
        """As much as could be: unlimited, or no latency."""
        return 0.0 if self.step < 0 else self.now * UNLIMITED

    @property
    def binds_later(self) -> bool:
        """May it save nothing by itself, and yet be next once other resources grow?"""
        tier = self.path.startswith("cluster.node.expansion.") and self.path.endswith(".bandwidth")
        return tier or self.path == "cluster.memory.capacity"

    @property
    def words(self) -> str:
        """The step in words."""
        amount = engineering(abs(self.step), self.place.unit, 3)
        amount = f"one {'more' if self.step > 0 else 'less'} {amount[2:]}" if amount.startswith("1 ") else amount
        return f"{amount} of {self.name}" if amount.startswith("one") else f"{amount} less of {self.name}"


@dataclass(frozen=True)
class ShadowPrices:
    """What one unit more of each resource is worth at a design.

    Attributes:
        table: a row a resource (of those that save nothing only memory capacity and the bandwidth of expansion tiers,
            which bind once others grow): what there is ``now`` and a ``step`` (SI, in ``unit``); seconds ``saved`` a
            step of training by one step of the resource, and ``most``, by an unlimited one; ``worth`` of one step.
        ladder: the next capacities of the memory at which a faster strategy fits (with ``reoptimize``), with the
            seconds they save and their worth.
        worth_unit: USD per device (purchase), or USD/s per device where the cluster is rented.
        step_time: of the design, or of its best strategy.
    """

    table: pd.DataFrame
    ladder: pd.DataFrame
    worth_unit: str
    step_time: float

    def sentences(self) -> list[str]:
        """One sentence a resource, one a rung of the ladder, and one for all resources that save nothing."""
        found, idle = [], []
        least = 1e-12 * self.step_time
        for _, row in self.table.iterrows():
            saved, most = row["saved [s]"], row["most [s]"]
            if max(saved, most) <= least:
                idle.append(row["resource"])
                continue
            gain = "saves nothing at the margin"
            if saved > least:
                gain = f"saves {engineering(saved, 's', 3)} a step ({100 * saved / self.step_time:.2g} %), "
                gain += f"and is worth up to {self._worth(row)}"
            limit = f"; without limit it would save {engineering(most, 's')}" if most > least else ""
            found.append(f"{row['words']} ({engineering(row['now'], row['unit'])} now) {gain}{limit}")
        for _, row in self.ladder.iterrows():
            found.append(
                f"memory of {engineering(row['capacity [B]'], 'B')} (+{engineering(row['more [B]'], 'B', 3)}) lets "
                f"{row['strategy']} fit, saves {engineering(row['saved [s]'], 's', 3)} a step, and is worth up to "
                f"{self._worth(row)}"
            )
        if idle:
            found.append(f"{', '.join(idle)}: nothing at the margin, nor without limit, while all else stays as it is")
        return found

    def _worth(self, row: Any) -> str:
        return f"{engineering(row[f'worth [{self.worth_unit}]'], self.worth_unit, 3)} per device"

    def __str__(self) -> str:
        head = f"step time {engineering(self.step_time, 's')}"
        return "\n".join([head, *(f"  {sentence}" for sentence in self.sentences() or ["no resource saves any time"])])


def shadow_prices(
    design: Result, value_of: Sequence[str] | None = None, *, reoptimize: bool | Search = False, rungs: int = 5
) -> ShadowPrices:
    """What one unit more of each resource saves, and what it may cost.

    The worth w of a change is the purchase price per device at which the cost per token stays what it is. With the
    costs C of a step before and after (the model's own, electricity included), n devices, the step time T' after, and
    the rate φ = (1 + maintenance · years) / (lifetime · utilization) at which capital is written off::

        C = C' + n · w · φ · T'        so        w = (C − C') / (n · φ · T')

    Where the cluster is rented, w is a higher rent: (C − C') / (n · T').

    Args:
        design: one design.
        value_of: paths of the resources; by default peaks, bandwidths, capacities and latencies.
        reoptimize: take the best strategy before and after each change; then also the ladder of memory capacities.
        rungs: of the ladder.

    Raises:
        SpecError: an unknown path, or a field that is no resource.
        InfeasibleDesign: with ``reoptimize``, no strategy is feasible.
    """
    import pandas as pd

    single(design)
    search = search_of(reoptimize)
    resources = _resources(design, value_of)
    count = 1 + 2 * len(resources)
    changes = []
    for i, r in enumerate(resources):  # the design itself, then one step more and without limit of each
        values = np.full(count, r.now)
        values[1 + 2 * i], values[2 + 2 * i] = r.now + r.step, r.end
        changes.append((r.place, values))
    outputs = {name: (lambda e, name=name: e[name]) for name in ("step_time", "cost", "devices")}
    found = evaluate_arrays(design, design.specs, changes, count, outputs, search)
    require_all(found)
    facility = design.specs["cluster"].facility  # type: ignore[attr-defined]
    worth = _worth(found["cost"][0] - found["cost"], found["devices"], found["step_time"], facility)
    worth_unit = "USD" if facility.pricing == "own" else "USD/s"
    time, base = found["step_time"], float(found["step_time"][0])
    rows = [
        [
            r.name,
            r.path,
            r.place.unit,
            r.now,
            r.step,
            r.words,
            base - time[1 + 2 * i],
            base - time[2 + 2 * i],
            worth[1 + 2 * i],
        ]
        for i, r in enumerate(resources)
        if value_of is not None or abs(base - time[2 + 2 * i]) > 1e-12 * base or r.binds_later
    ]
    columns = ["resource", "path", "unit", "now", "step", "words", "saved [s]", "most [s]", f"worth [{worth_unit}]"]
    table = pd.DataFrame(rows, columns=columns)
    table = table.sort_values(columns[8], ascending=False, ignore_index=True, kind="stable")
    ladder = _ladder(design, search, base, float(found["cost"][0]), worth_unit, rungs)
    return ShadowPrices(table, ladder, worth_unit, base)


def _worth(saved_cost: Any, devices: Any, step_time: Any, facility: Any) -> Any:
    """Price (or rent) per device that uses up ``saved_cost`` dollars a step."""
    if facility.pricing == "rent":
        return saved_cost / (devices * step_time)
    years = facility.lifetime / (365.25 * 86400.0)
    rate = (1.0 + facility.maintenance * years) / max(facility.lifetime * facility.utilization, 1.0)
    return saved_cost / (devices * rate * step_time)


def _resources(design: Result, value_of: Sequence[str] | None) -> list[Resource]:
    specs: Any = design.specs
    if value_of is not None:
        paths = [value_of] if isinstance(value_of, str) else list(value_of)
        return [_resource(specs, path, path.removeprefix("cluster.").replace(".", " ")) for path in paths]
    matrix, vector = specs["cluster"].accelerator.matrix, specs["cluster"].accelerator.vector
    peak = next((n for n in FALLBACK[specs["strategy"].precision] if getattr(matrix, n) is not None), None)
    simd = next((n for n in ("fp32", "bf16", "fp16", "fp64") if getattr(vector, n) is not None), None)
    named = {f"cluster.accelerator.matrix.{peak}": f"matrix peak ({peak})"} if peak else {}
    named |= {f"cluster.accelerator.vector.{simd}": f"vector peak ({simd})"} if simd else {}
    named |= {
        "cluster.memory.bandwidth": "memory bandwidth",
        "cluster.memory.capacity": "memory capacity",
        "cluster.accelerator.buffer": "on-chip buffer",
        "cluster.accelerator.efficiency.launch": "a kernel's start-up",
        "stack.launch": "a kernel's launch by the host",
        "stack.stall": "host stalls in a pass of a layer",
        "stack.hop": "synchronization between stages",
    }
    for i, tier in enumerate(specs["cluster"].node.expansion):
        named |= {f"cluster.node.expansion.{i}.{f}": f"{tier.name} {f}" for f in ("bandwidth", "capacity")}
    for i, dimension in enumerate(specs["cluster"].network.dimensions):
        path = f"cluster.network.dimensions.{i}"
        named |= {f"{path}.{f}": f"{dimension.name} {f}" for f in ("bandwidth", "latency", "overhead")}
    found = [_resource(specs, path, name) for path, name in named.items()]
    return [r for r in found if r.now > 0]


def _resource(specs: Any, path: str, name: str) -> Resource:
    place = locate(path, specs)
    value = getattr(place.parent, place.field) if place.steps else None
    if place.unit not in STEP or not isinstance(value, float):
        raise SpecError([Fault(path, "", f"is no resource; those are fields in {', '.join(STEP)}")])
    return Resource(name, path, place, value)


# -- how much memory would let a faster strategy fit --------------------------------------------------------


def _ladder(
    design: Result, search: Search | None, base: float, cost: float, worth_unit: str, rungs: int
) -> pd.DataFrame:
    """Capacities of the local memory from which on a faster strategy fits, with what they save.

    One enumeration is exact for every capacity: a strategy's time and its need do not depend on the capacity (where
    the footprint may spread into another tier they do, and there is no ladder). Of all strategies that are legal but
    for the local memory, those are kept that no other beats in both need and objective.
    """
    import pandas as pd

    columns = ["capacity [B]", "more [B]", "strategy", "step_time [s]", "saved [s]", f"worth [{worth_unit}]"]
    specs = counted(design, design.specs)
    spread = (search.options or {}).get("memory_expansion") if search else None
    if search is None or not search.memory or specs["strategy"].memory_expansion != "none" or spread:
        return pd.DataFrame(columns=columns)
    needs, chosen = memory_frontier(design, search)
    memory = specs["cluster"].accelerator.memory
    changes = [(locate(f"strategy.{name}", specs), values) for name, values in chosen.items()]
    named = {name: (lambda e, name=name: e[name]) for name in ("step_time", "cost", "devices")}
    found = evaluate_arrays(_recounted(design, specs), specs, changes, len(needs), named)
    saved = base - found["step_time"]
    worth = _worth(cost - found["cost"], found["devices"], found["step_time"], specs["cluster"].facility)
    capacities = needs * memory.shared_by
    kept = np.flatnonzero((capacities > memory.capacity) & (saved > 1e-9 * base))[:rungs]
    rows = []
    for i in kept:
        fields = [f"{n}={str(v[i]).lower()}" for n, v in chosen.items() if len(np.unique(v)) > 1]
        step_time = found["step_time"][i]
        row = [capacities[i], capacities[i] - memory.capacity, ",".join(fields), step_time, saved[i], worth[i]]
        rows.append(row)
    return pd.DataFrame(rows, columns=columns)


def _recounted(design: Result, specs: Any) -> Result:
    """The design with its number of devices in the cluster."""
    return Result(specs, [], devices_given=True, replace=design.replace)


def memory_frontier(design: Result, search: Search) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Strategies that no other beats in both local memory and objective, by rising need.

    Returns:
        Bytes of local memory that each needs, and its fields (arrays of one entry a strategy).

    Raises:
        InfeasibleDesign: no strategy is legal with any amount of memory.
    """
    space = strategy_space(design, counted(design, design.specs), {}, search)
    need, score, index = np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64)
    lengths = [len(b.values) for b in space.axes]
    for block in space.blocks():
        evaluation = space.evaluate(block)
        shape = tuple(part.stop - part.start for part in block)
        legal = np.broadcast_to(_legal_but_local(evaluation), shape)
        inside = np.nonzero(legal)
        held = np.broadcast_to(evaluation["tier_bytes"]["local"], shape)[inside]
        objective = np.broadcast_to(search.scores(evaluation), shape)[inside]
        whole = [i + part.start for i, part in zip(inside, block, strict=True)]
        place = np.ravel_multi_index(whole, lengths) if whole else np.zeros(len(held), dtype=np.int64)
        need, score = np.concatenate([need, held]), np.concatenate([score, objective])
        index = np.concatenate([index, place])
        order = np.lexsort((index, score, need))
        least = np.minimum.accumulate(score[order])
        first = np.concatenate([[True], least[1:] < least[:-1]])[: len(order)]
        need, score, index = (values[order][first] for values in (need, score, index))
    if not len(need):
        raise InfeasibleDesign("no strategy is legal, whatever the memory")
    positions = np.unravel_index(index, lengths) if lengths else ()
    return need, {b.name: np.asarray(b.values)[p] for b, p in zip(space.axes, positions, strict=True)}


def _legal_but_local(evaluation: Evaluation) -> Any:
    """True where every rule is satisfied, were the local memory large enough."""
    margins = violations(evaluation)
    legal: Any = True
    for name, margin in margins.items():
        if name != "memory_fits":
            legal = np.logical_and(legal, np.greater_equal(margin, 0))
    held, capacity = evaluation["tier_bytes"], evaluation["tier_capacity"]
    for tier in held:
        if tier != "local":
            legal = np.logical_and(legal, np.less_equal(held[tier], capacity[tier]))
    return legal
