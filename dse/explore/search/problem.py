"""What is searched: hardware that varies, what follows from it, the strategies tried on it, and what is wanted.

A problem is plain data over loaded specifications, so that it can be stored, compared by content and sent to another
process. Hardware is given as axes (:func:`dse.axis`, discrete) and spans (:func:`span`, continuous, or discrete with
``steps``); couplings say what more of a resource costs: price, power, area.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dse.cost.graph import Quantity
from dse.errors import Fault, SpecError
from dse.explore.best import fixed_fields
from dse.explore.evaluate import BoundAxis, bind_axes, load_specs, own_quantities
from dse.explore.objectives import Condition, Objective, conditions, objectives, quantity_value, unit_of_quantity
from dse.explore.search.variables import (
    BoundCoupling,
    HardwareVariable,
    Span,
    bind_coupling,
    bind_variable,
    coupled,
    value_at,
)
from dse.explore.tables import ALL_TABLES
from dse.space.axes import Axis, Place, locate, with_value
from dse.space.enumerate import strategy_axes
from dse.spec.base import Spec
from dse.spec.strategy import Strategy
from dse.units import engineering

# Columns of the table of a search besides the hardware, the strategy and the objectives.
COLUMNS = ("design", "trial", "feasible", "on_front", "dominated_by", "reasons", "strategies", "feasible_strategies")


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
    also: tuple[str, ...] = ()
    _known: dict[tuple[Any, ...], Group] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Groups are made again where they are needed, rather than sent along."""
        return {**self.__dict__, "_known": {}}

    @property
    def noted(self) -> tuple[str, ...]:
        """Quantities that the table shows beside the objectives: those of the budget, and those asked for."""
        wanted = {o.text for o in self.objectives}
        names = dict.fromkeys([*(c.name for c in self.constraints), *self.also])
        return tuple(name for name in names if name not in wanted)

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
        key = self.key(point)
        if key not in self._known:
            self._known[key] = _group(self, key)
        return self._known[key]

    def key(self, point: Mapping[str, Any]) -> tuple[Any, ...]:
        """What designs of one group have in common."""
        return tuple(point[v.name] for v in self.variables if _apart(v))

    def specs_at(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The specifications of one hardware design, couplings applied."""
        group = self.group(point)
        changed = dict(group.specs)
        for v in self.variables:
            if v.name in group.places:
                place = group.places[v.name]
                changed[place.root] = with_value(changed[place.root], place.steps, v.value(point[v.name]))
        return coupled(changed, group.base, group.couplings)


@dataclass(frozen=True)
class Group:
    """Hardware designs that are priced together: one structure, one device count, one set of strategies.

    Attributes:
        base: what couplings count from: the specifications with whole parts (accelerators, nodes, clusters) replaced.
        places: of the fields that vary within the group, by the variable's name.
    """

    specs: dict[str, Any]
    base: dict[str, Any]
    places: Mapping[str, Place]
    couplings: tuple[BoundCoupling, ...]
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
    specs, base = dict(problem.specs), dict(problem.specs)
    apart = [v for v in problem.variables if _apart(v)]
    for v, shown in sorted(zip(apart, key, strict=True), key=lambda pair: len(pair[0].place.steps)):
        value = v.value(shown)
        if v.place.root == "cluster" and not v.place.steps:
            value = value.model_copy(update={"devices": problem.specs["cluster"].devices})
        place = locate(v.axis.path, specs)  # the same path may lead elsewhere in another cluster
        for changed in (specs, base) if isinstance(value, Spec) else (specs,):
            changed[place.root] = with_value(changed[place.root], place.steps, value)
    places = {v.name: locate(v.axis.path, specs) for v in problem.variables if not _apart(v)}
    # The strategies tried are those of the largest hardware, so that they are the same for the whole group.
    largest = dict(specs)
    for v in problem.variables:
        if v.name in places:
            largest[v.place.root] = with_value(largest[v.place.root], places[v.name].steps, v.largest)
    strategy: Any = specs["strategy"]
    axes = strategy_axes(
        largest["model"],
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
    couplings = tuple(c.within(base) for c in problem.couplings)
    _check_floors(problem, base, places, couplings)
    return Group(specs, base, places, couplings, tuple(strategies))


def _check_floors(
    problem: Problem, base: Mapping[str, Any], places: Mapping[str, Place], couplings: Sequence[BoundCoupling]
) -> None:
    """Refuse couplings that would only take away from a field that is zero, and so do nothing at all."""
    ends = {
        (places[v.name].root, places[v.name].steps): (min(v.values), max(v.values)) if v.values else (v.low, v.high)
        for v in problem.variables
        if v.name in places
    }
    least: dict[tuple[Any, ...], tuple[float, BoundCoupling]] = {}
    for c in couplings:
        where, source = (c.target.root, c.target.steps), (c.source.root, c.source.steps)
        if c.rate is None or source not in ends:
            continue
        start = least.get(where, (value_at(base, c.target), c))[0]
        growth = min(c.rate * (end - value_at(base, c.source)) for end in ends[source])
        least[where] = (start + growth, c)
    faults = []
    for value, c in least.values():
        if value < 0 and not value_at(base, c.target):
            rule = f"is 0 here and would fall to {engineering(value, c.target.unit)}"
            if c.target.field == "price":
                rule += ": it is part of the device's price, so couple cluster.accelerator.price"
            faults.append(Fault("couplings", c.given.target, rule))
    if faults:
        raise SpecError(faults)


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
    also: Sequence[str] = (),
) -> Problem:
    """Bind and check a search problem; the arguments are those of :func:`dse.search`.

    Raises:
        SpecError: with every fault found.
    """
    fixed = fixed_fields(base, options)
    specs = load_specs(model, cluster, {**fixed, "global_batch": global_batch}, devices)
    faults: list[Fault] = []
    given = [hardware] if isinstance(hardware, Axis | Span | str) else list(hardware)
    variables = _collect(faults, given, lambda item: bind_variable(item, specs))
    if devices is not None and any(v.place.steps == ("devices",) for v in variables):
        faults.append(Fault("devices", str(devices), "is given, and varies as cluster.devices; name it once"))
    names = [v.name for v in variables]
    places = [(v.place.root, v.place.steps) for v in variables]
    if len(set(names)) < len(names) or len(set(places)) < len(places):
        faults.append(Fault("hardware", ", ".join(names)[:200], "two entries share one field or name"))
    bound = _collect(faults, couplings, lambda item: bind_coupling(item, specs))
    wanted = _collect(faults, [objective], objectives)
    limits = _collect(faults, [budget], conditions)
    _collect(faults, also, unit_of_quantity)
    if faults:
        raise SpecError(faults)
    made = Problem(
        specs,
        tuple(variables),
        tuple(bound),
        wanted[0],
        limits[0],
        dict(options or {}),
        fixed,
        own_quantities(replace),
        tuple(also),
    )
    faults = [*_names_taken(made), *_followed_twice(variables, bound)]
    if faults:
        raise SpecError(faults)
    _check_goals(made)
    return made


def _names_taken(made: Problem) -> list[Fault]:
    """Variables whose name another column of the table has."""
    taken = {*COLUMNS, *Strategy.model_fields, *(o.text for o in made.objectives), *made.noted}
    rule = "is the name of another column; give it another name"
    return [Fault("hardware", v.name, rule) for v in made.variables if v.name in taken]


def _followed_twice(variables: Sequence[HardwareVariable], couplings: Sequence[BoundCoupling]) -> list[Fault]:
    """Couplings whose target is searched, or is the source of another: what it is worth would depend on their order."""
    varied = {(v.place.root, v.place.steps) for v in variables}
    sources = {(c.source.root, c.source.steps) for c in couplings}
    faults = []
    for c in couplings:
        target = (c.target.root, c.target.steps)
        if target in varied:
            faults.append(Fault("couplings", c.given.target, "is searched and follows too"))
        if target in sources:
            faults.append(Fault("couplings", c.given.target, "follows and is followed; name what it follows instead"))
    return faults


def _check_goals(made: Problem) -> None:
    """Price one design, so that objectives and budgets that are no numbers of the cost model are found at once.

    Raises:
        SpecError: a quantity that is a table or an object, an entry that its table does not have, or one that cannot
            be computed for this hardware.
    """
    from dse.explore.search.inner import priced

    point = {v.name: (v.shown[0] if v.values else v.low) for v in made.variables}
    group = made.group(point)
    evaluation = priced(made, group, [point], [slice(0, 1)] * len(group.shape))
    goals = [("objective", o.name) for o in made.objectives] + [("budget", c.name) for c in made.constraints]
    faults = []
    for kind, name in [*goals, *(("also", name) for name in made.also)]:
        table, _, entry = name.partition(".")
        if entry and entry not in evaluation[ALL_TABLES[table]] and not any(v.structural for v in made.variables):
            known = ", ".join(evaluation[ALL_TABLES[table]])
            faults.append(Fault(kind, name[:60], f"is not in the table; its entries are {known}"))
            continue
        value = quantity_value(evaluation, name)
        numbers = np.array([] if isinstance(value, list) else value)
        if numbers.dtype.kind not in "biuf" or numbers.size != 1:
            faults.append(Fault(kind, name, "is not one number for each design"))
    if faults:
        raise SpecError(faults)


def _collect(faults: list[Fault], items: Any, make: Any) -> list[Any]:
    found = []
    for item in items:
        try:
            found.append(make(item))
        except SpecError as error:
            faults.extend(error.faults)
    return found
