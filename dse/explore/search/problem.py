"""What is searched: hardware that varies, what follows from it, the strategies tried on it, and what is wanted.

A problem is plain data over loaded specifications, so that it can be stored, compared by content and sent to another
process. Hardware is given as axes (:func:`dse.axis`, discrete) and spans (:func:`span`, continuous, or discrete with
``steps``); couplings say what more of a resource costs: price, power, area.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dse.cost.graph import Quantity
from dse.errors import Fault, SpecError
from dse.explore.evaluate import BoundAxis, bind_axes, load_specs, own_quantities, with_stack
from dse.explore.objectives import Condition, Objective, conditions, objectives
from dse.explore.search.variables import BoundCoupling, HardwareVariable, Span, bind_coupling, bind_variable, coupled
from dse.space.axes import Axis, with_value
from dse.space.enumerate import strategy_axes
from dse.spec.strategy import Strategy, parse_strategy

GRID = 33  # values of a span without steps where it has to be enumerated


@dataclass(frozen=True)
class Problem:
    """A search problem, bound and checked. Made by :func:`problem`."""

    specs: Mapping[str, Any]
    variables: tuple[HardwareVariable, ...]
    couplings: tuple[BoundCoupling, ...]
    objectives: tuple[Objective, ...]
    constraints: tuple[Condition, ...]
    options: Mapping[str, Sequence[Any]]
    base: Mapping[str, Any]
    replace: tuple[Quantity, ...] = ()

    @property
    def continuous(self) -> bool:
        """Is any variable without a list of values?"""
        return any(not v.values for v in self.variables)

    @property
    def hardware_size(self) -> int | None:
        """Number of hardware designs; None where one varies continuously."""
        return None if self.continuous else int(np.prod([len(v.values) for v in self.variables], dtype=np.int64))

    def group(self, point: Mapping[str, Any]) -> Group:
        """The specifications and strategy axes of all hardware designs that share this one's structure and size."""
        return _group(self, tuple(point[v.name] for v in self.variables if _apart(v)))

    def key(self, point: Mapping[str, Any]) -> tuple[Any, ...]:
        """What designs of one group have in common."""
        return tuple(point[v.name] for v in self.variables if _apart(v))

    def specs_at(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The specifications of one hardware design, couplings applied."""
        group = self.group(point)
        changed = dict(group.specs)
        for v in self.variables:
            if not _apart(v):
                changed[v.place.root] = with_value(changed[v.place.root], v.place.steps, v.value(point[v.name]))
        return coupled(changed, group.specs, self.couplings)


@dataclass(frozen=True)
class Group:
    """Hardware designs that are priced together: one structure, one device count, one set of strategies."""

    specs: dict[str, Any]
    strategies: tuple[BoundAxis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(b.values) for b in self.strategies)

    def strategy(self, index: Sequence[int]) -> dict[str, Any]:
        """Field values of one strategy."""
        return {b.name: b.values[i] for b, i in zip(self.strategies, index, strict=True)}


def _apart(v: HardwareVariable) -> bool:
    """Is each value a group of its own (another structure, or another set of strategies)?"""
    return v.structural or v.place.steps == ("devices",)


def _group(problem: Problem, key: tuple[Any, ...]) -> Group:
    specs = dict(problem.specs)
    apart = [v for v in problem.variables if _apart(v)]
    for v, shown in sorted(zip(apart, key, strict=True), key=lambda pair: len(pair[0].place.steps)):
        specs[v.place.root] = with_value(specs[v.place.root], v.place.steps, v.value(shown))
    bound = [BoundAxis(v.axis, v.place, v.values, v.structural) for v in apart]
    specs = with_stack(specs, bound)
    if any(v.place.root == "cluster" and not v.place.steps for v in apart) and not _varies(problem, "devices"):
        specs["cluster"] = specs["cluster"].model_copy(update={"devices": problem.specs["cluster"].devices})
    # The strategies tried are those of the largest hardware, so that they are the same for the whole group.
    largest = dict(specs)
    for v in problem.variables:
        if not _apart(v):
            top = v.high if not v.values else max(v.values)
            largest[v.place.root] = with_value(largest[v.place.root], v.place.steps, top)
    strategy: Any = specs["strategy"]
    axes = strategy_axes(
        specs["model"],
        largest["cluster"],
        int(specs["cluster"].devices),
        int(strategy.global_batch),
        problem.options,
        problem.base,
    )
    strategies = bind_axes(specs, axes)
    loops = [b.name for b in strategies if b.structural]
    if loops:
        raise SpecError([Fault(f"options.{loops[0]}", "", "changes the model's structure; give one value in base")])
    return Group(specs, tuple(strategies))


def _varies(problem: Problem, field: str) -> bool:
    return any(v.place.steps == (field,) for v in problem.variables)


def problem(
    model: Any,
    cluster: Any,
    hardware: Sequence[Axis | Span] = (),
    *,
    devices: int | None = None,
    global_batch: int,
    objective: Any = "step_time",
    budget: Any = None,
    couplings: Sequence[Any] = (),
    base: Any = None,
    options: Mapping[str, Sequence[Any]] | None = None,
    replace: Any = (),
) -> Problem:
    """Bind and check a search problem; the arguments are those of :func:`dse.search`.

    Raises:
        SpecError: with every fault found.
    """
    fixed = _fixed(base)
    both = sorted(set(fixed) & {*(options or {}), "global_batch"})
    if both:
        raise SpecError([Fault(f"base.{both[0]}", str(fixed[both[0]])[:40], "is given elsewhere too; name it once")])
    specs = load_specs(model, cluster, {**fixed, "global_batch": global_batch}, devices)
    faults: list[Fault] = []
    variables = _collect(faults, hardware, lambda item: bind_variable(item, specs))
    names = [v.name for v in variables]
    places = [(v.place.root, v.place.steps) for v in variables]
    if len(set(names)) < len(names) or len(set(places)) < len(places):
        faults.append(Fault("hardware", ", ".join(names)[:200], "two entries share one field or name"))
    bound = _collect(faults, couplings, lambda item: bind_coupling(item, specs))
    wanted = _collect(faults, [objective], objectives)
    limits = _collect(faults, [budget], conditions)
    if faults:
        raise SpecError(faults)
    varied = {(v.place.root, v.place.steps) for v in variables}
    for item in bound:
        if (item.target.root, item.target.steps) in varied:
            faults.append(Fault("couplings", ".".join(map(str, item.target.steps)), "is searched and follows too"))
    if faults:
        raise SpecError(faults)
    made = Problem(
        specs, tuple(variables), tuple(bound), wanted[0], limits[0], dict(options or {}), fixed, own_quantities(replace)
    )
    made.group({v.name: (v.shown[0] if v.values else v.low) for v in variables})  # checks the strategies' axes
    return made


def _collect(faults: list[Fault], items: Any, make: Any) -> list[Any]:
    found = []
    for item in items:
        try:
            found.append(make(item))
        except SpecError as error:
            faults.extend(error.faults)
    return found


def _fixed(base: Any) -> dict[str, Any]:
    if base is None:
        return {}
    if isinstance(base, Strategy):
        raise SpecError([Fault("base", "Strategy", "must be text or a mapping of the fields that stay fixed")])
    return parse_strategy(base) if isinstance(base, str) else dict(base)


def discrete(given: Problem, grid: int = GRID) -> Problem:
    """The problem with every continuous variable cut into ``grid`` values."""
    found = []
    for v in given.variables:
        if v.values:
            found.append(v)
            continue
        points = np.geomspace(v.low, v.high, grid) if v.log else np.linspace(v.low, v.high, grid)
        values = tuple(float(f"{p:.12g}") for p in points)
        found.append(dataclasses.replace(v, values=values, shown=values))
    return dataclasses.replace(given, variables=tuple(found))
