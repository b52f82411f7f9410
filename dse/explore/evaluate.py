"""Binding axes to specifications and pricing them: one code path for one design, a sweep, and a whole space."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import product
from typing import Any

import numpy as np

from dse.cost import GRAPHS, Evaluation, Graph, Quantity
from dse.errors import Fault, SpecError
from dse.space import rules
from dse.space.axes import Axis, Place, checked_values, is_structural, locate, with_value
from dse.spec import load_cluster, load_model, load_stack, load_strategy
from dse.spec.base import Source, Spec

RULES = tuple(rules.texts())
_GRAPHS = {name: Graph(graph.quantities, rules) for name, graph in GRAPHS.items()}
LOCAL = "local"
MAX_DEVICES = 10**9


@dataclass(frozen=True)
class BoundAxis:
    """An axis with its place in the specifications, its SI values, and what to print for each."""

    axis: Axis
    place: Place
    values: tuple[Any, ...]
    structural: bool

    @property
    def name(self) -> str:
        return self.axis.name

    @property
    def unit(self) -> str:
        return self.place.unit

    @property
    def coordinates(self) -> list[Any]:
        """Values as coordinates of a table: SI numbers, or text for whole specifications."""
        if self.axis.labels:
            return list(self.axis.labels)
        return [v.id if hasattr(v, "id") else "none" if v is None else v for v in self.values]


@dataclass(frozen=True)
class Cell:
    """One evaluation of the graph: the structural axes are fixed, the others are array axes."""

    fixed: tuple[int, ...]
    evaluation: Evaluation


def load_specs(model: Any, cluster: Any, strategy: Any, devices: Any = None) -> dict[str, Spec]:
    """Load the three specifications; ``devices`` overrides the cluster's count.

    Raises:
        SpecError: with every fault of all three.
    """
    faults: list[Fault] = []
    specs: dict[str, Any] = {}
    loaders = {"model": load_model, "cluster": load_cluster, "strategy": load_strategy}
    for name, given in (("model", model), ("cluster", cluster), ("strategy", strategy)):
        try:
            specs[name] = loaders[name](given)
        except SpecError as error:
            faults.extend(error.faults)
    if faults:
        raise SpecError(faults)
    specs["stack"] = load_stack(stack_name(specs["strategy"]))
    if devices is not None:
        try:
            given = Source(title="given in the call", date="own", kind="assumed", covers=("devices",))
            sources = [given.model_dump(), *(s.model_dump() for s in specs["cluster"].sources)]
            specs["cluster"] = specs["cluster"].replace(devices=devices, sources=sources)
        except SpecError as error:
            raise SpecError([Fault("devices", f.value, f.rule) for f in error.faults]) from None
    return specs


def bind_axes(specs: Mapping[str, Spec], axes: Sequence[Axis], devices: Any = None) -> list[BoundAxis]:
    """Resolve and validate axes; ``devices`` overrides the count of every cluster on an axis of whole clusters.

    Raises:
        SpecError: an unknown path, a value outside the field's range, or two axes for one field.
    """
    bound: list[BoundAxis] = []
    for item in axes:
        place = locate(item.path, specs)
        if not place.steps:
            loader = {"model": load_model, "cluster": load_cluster, "strategy": load_strategy, "stack": load_stack}[
                place.root
            ]
            values = [loader(value) for value in item.values]
            if place.root == "cluster" and devices is not None:
                values = [value.replace(devices=devices) for value in values]
        else:
            values = checked_values(item, place)
        bound.append(BoundAxis(item, place, tuple(values), is_structural(place, values)))
    places = [(b.place.root, b.place.steps) for b in bound]
    names = [b.name for b in bound]
    for collection, what in ((places, "field"), (names, "name")):
        if len(set(collection)) < len(collection):
            raise SpecError([Fault("axes", ", ".join(names)[:200], f"two axes share one {what}")])
    _check_nesting(specs, bound)
    return bound


NESTING = frozenset({"node", "network", "devices", "size", "sizing", "dimensions"})  # fields that must fit each other


def _check_nesting(specs: Mapping[str, Spec], bound: Sequence[BoundAxis]) -> None:
    """Fields of nodes and networks are checked one by one when they are bound; here each whole cluster is.

    Raises:
        SpecError: values whose nodes do not nest with the network; the fault names the axes and the values.
    """
    fields = [b for b in bound if b.place.root == "cluster" and len(b.place.steps) > 1 and b.place.field in NESTING]
    if not fields:
        return
    wholes = [b for b in bound if b.place.root == "cluster" and not b.place.steps]
    for cluster in wholes[0].values if wholes else (specs["cluster"],):
        for chosen in product(*(b.values for b in fields)):
            changed = cluster
            for b, value in zip(fields, chosen, strict=True):
                changed = with_value(changed, b.place.steps, value)
            try:
                type(changed).parse({name: getattr(changed, name) for name in type(changed).model_fields})
            except SpecError as error:
                names, values = ", ".join(b.axis.path for b in fields), ", ".join(map(str, chosen))
                raise SpecError([Fault(f"axis {names}", values, fault.rule) for fault in error.faults]) from None


def cells(
    specs: Mapping[str, Spec], bound: Sequence[BoundAxis], *, devices_given: bool, replace: Sequence[Quantity] = ()
) -> Iterator[Cell]:
    """Evaluations of the design space: one for each combination of the structural axes' values."""
    structural = [b for b in bound if b.structural]
    arrays = [b for b in bound if not b.structural]
    for choice in product(*(range(len(b.values)) for b in structural)):
        changed = dict(specs)
        ordered = sorted(zip(structural, choice, strict=True), key=lambda pair: len(pair[0].place.steps))
        for b, index in ordered:  # whole specifications first, then fields inside them
            changed[b.place.root] = with_value(changed[b.place.root], b.place.steps, b.values[index])
        changed = with_stack(changed, structural)
        for position, b in enumerate(arrays):
            changed[b.place.root] = with_value(changed[b.place.root], b.place.steps, _along(b, position, len(arrays)))
        yield Cell(choice, price(changed, devices_given=devices_given, replace=replace))


def price(
    specs: Mapping[str, Spec], *, devices_given: bool, record: bool = False, replace: Sequence[Quantity] = ()
) -> Evaluation:
    """An evaluation of bound specifications, with the graph that the strategy's ``execution`` asks for.

    ``replace`` are quantities of the user's own that take the place of those with the same names.
    """
    strategy: Any = specs["strategy"]
    cluster: Any = specs["cluster"]
    if not devices_given and strategy.dp is not None:
        count = strategy.tp * strategy.pp * strategy.cp * strategy.dp
        if np.any(np.greater(count, MAX_DEVICES)):
            raise SpecError(
                [Fault("strategy", f"tp·pp·cp·dp = {np.max(count):.4g}", f"must not exceed {MAX_DEVICES:,}")]
            )
        cluster = cluster.model_copy(update={"devices": count})
    _check_tiers(strategy, cluster)
    stack = specs.get("stack") or load_stack(stack_name(strategy))
    execution = strategy.execution if isinstance(strategy.execution, str) else str(strategy.execution.item())
    graph = graph_of(execution)
    if replace:
        graph = Graph(graph.quantities, {q.name: q for q in replace})
    return Evaluation(graph, {**specs, "cluster": cluster, "stack": stack}, record=record)


def with_stack(specs: dict[str, Any], changed: Sequence[BoundAxis]) -> dict[str, Any]:
    """The specifications with the stack that the strategy names, where an axis may have changed that name."""
    fields = {b.place.field for b in changed if b.place.root == "strategy"}
    if fields & {"stack", "execution", ""} and not any(b.place.root == "stack" for b in changed):
        specs["stack"] = load_stack(stack_name(specs["strategy"]))
    return specs


def stack_name(strategy: Any) -> str:
    """The strategy's software stack, or the default of its timing model."""
    if strategy.stack is not None:
        return str(strategy.stack)
    return "ideal" if np.all(np.equal(strategy.execution, "comet")) else "megatron"


def own_quantities(replace: Any) -> tuple[Quantity, ...]:
    """Quantities of the user's own: decorated or plain functions, or a mapping of names to functions or values.

    Raises:
        SpecError: a name that is not a quantity of the cost model, or a parameter that is none.
    """
    items = replace.items() if isinstance(replace, Mapping) else [(_name_of(item), item) for item in replace]
    known = _GRAPHS["megatron"].quantities
    found = []
    for name, item in items:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SpecError([Fault("replace", str(name)[:60], f"is not a quantity of the cost model{hint}")])
        found.append(item if isinstance(item, Quantity) else _own(known[name], item))
    try:
        Graph(known, {q.name: q for q in found})
    except LookupError as error:
        raise SpecError([Fault("replace", "", str(error))]) from None
    return tuple(found)


def _name_of(item: Any) -> str:
    return str(getattr(item, "name", getattr(item, "__name__", item)))


def _own(original: Quantity, item: Any) -> Quantity:
    """A plain function or value in the place of a quantity, with its name and unit."""
    if callable(item):
        return Quantity(
            original.name, item, original.unit, "the user's own", "the call", tuple(signature(item).parameters)
        )
    return Quantity(original.name, lambda: item, original.unit, f"{item!r}"[:60], "the call", ())


def graph_of(execution: str) -> Graph:
    """The quantities and rules of a timing model."""
    return _GRAPHS[execution]


def _along(b: BoundAxis, position: int, count: int) -> np.ndarray:
    """The axis' values as an array whose only long dimension is the axis' own."""
    shape = [1] * count
    shape[position] = len(b.values)
    return np.asarray(b.values).reshape(shape)


def _check_tiers(strategy: Any, cluster: Any) -> None:
    known = {LOCAL, *(tier.name for tier in cluster.node.expansion)}
    faults = []
    for name in ("weights", "gradients", "optimizer", "activations"):
        for value in np.unique(getattr(strategy, f"offload_{name}")).tolist():
            if value not in known:
                faults.append(
                    Fault(
                        f"strategy.offload_{name}",
                        repr(value),
                        f"the cluster's memory tiers are {', '.join(sorted(known))}",
                    )
                )
    if np.any(np.equal(strategy.memory_expansion, "spread")) and not cluster.node.expansion:
        faults.append(Fault("strategy.memory_expansion", "'spread'", "the cluster's node has no expansion tier"))
    if faults:
        raise SpecError(faults)


def violations(evaluation: Evaluation) -> dict[str, Any]:
    """Margin of every rule; a negative margin is a violation."""
    return evaluation.get(RULES)


def feasible(margins: Mapping[str, Any]) -> Any:
    """True where no rule is violated."""
    result: Any = True
    for margin in sorted(margins.values(), key=np.size):
        result = np.logical_and(result, np.greater_equal(margin, 0))
    return result
