"""What is on the screen: which views, their axes, what is brushed, and the theme."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dse.app.design import Design, canonical, has_field
from dse.errors import Fault, SpecError
from dse.explore.evaluate import graph_of
from dse.explore.objectives import objective

VIEWS = (
    "breakdown", "memory", "roofline", "timeline", "landscape", "front", "parallel", "tornado", "shadow", "energy",
    "nearest",
)  # fmt: skip
SWITCHES = ("best", "follow", "dark")

Selected = tuple[tuple[str, tuple[Any, ...]], ...]


@dataclass(frozen=True)
class View:
    """What is on the screen.

    Attributes:
        shown: the views, in their order.
        x, y, quantity: axes and colour of the landscape.
        best: each point of the landscape is shown with its best strategy, instead of the present one.
        objectives: what the front weighs; the first is what strategies are found by.
        follow: every change of the inputs is followed by finding the best strategy for it.
        selected: what is brushed: a column, and its range (two numbers, both included) or its values (texts, switches).
        dark: the theme.
    """

    shown: tuple[str, ...] = ("breakdown", "memory", "landscape", "roofline")
    x: str = "cluster.node.accelerator.memory.bandwidth"
    y: str = "strategy.tp"
    quantity: str = "step_time"
    best: bool = False
    objectives: tuple[str, str] = ("step_time", "memory_bytes")
    follow: bool = False
    selected: Selected = ()
    dark: bool = False


def changed(view: View, design: Design, changes: Mapping[str, Any]) -> View:
    """The view with some of its properties changed.

    Raises:
        SpecError: an unknown property, view, axis or quantity, or a selection that is no range and no set of values.
    """
    changes = dict(changes)
    unknown = sorted(set(changes) - {f.name for f in dataclasses.fields(View)})
    if unknown:
        raise SpecError([Fault(f"view.{unknown[0]}"[:60], "", "is not a property of the view")])
    if "shown" in changes:
        shown = changes["shown"]
        if not isinstance(shown, list | tuple) or any(name not in VIEWS for name in shown):
            raise SpecError([Fault("view.shown", repr(shown)[:80], f"must be some of {', '.join(VIEWS)}")])
        changes["shown"] = tuple(dict.fromkeys(shown))
    for name in {"x", "y"} & set(changes):
        changes[name] = canonical(design, changes[name])
    if "quantity" in changes:
        _check_quantity(design, changes["quantity"])
    if "objectives" in changes:
        changes["objectives"] = _objectives(changes["objectives"], design)
    if "selected" in changes:
        changes["selected"] = selection(changes["selected"])
    for name in SWITCHES:
        if not isinstance(changes.get(name, False), bool):
            raise SpecError([Fault(f"view.{name}", repr(changes[name])[:40], "must be true or false")])
    return dataclasses.replace(view, **changes)


def _check_quantity(design: Design, name: Any) -> None:
    """Raises SpecError where the design has no quantity of this name."""
    design.result[name]


def _objectives(value: Any, design: Design) -> tuple[str, str]:
    if not isinstance(value, list | tuple) or len(value) != 2 or value[0] == value[1]:
        raise SpecError([Fault("view.objectives", repr(value)[:80], "must be two different quantities")])
    for name in value:
        objective(name)
        _check_quantity(design, name)
    return str(value[0]), str(value[1])


def selection(value: Any) -> Selected:
    """A selection in its one form: by column, ranges with their lower end first.

    Raises:
        SpecError: neither ranges nor values by column.
    """
    try:
        pairs = dict(value)
    except (TypeError, ValueError):
        raise SpecError([Fault("view.selected", repr(value)[:80], "must map columns to ranges or values")]) from None
    return tuple(sorted((str(column), _picked(str(column), picked)) for column, picked in pairs.items()))


def _picked(column: str, picked: Any) -> tuple[Any, ...]:
    fault = Fault(f"view.selected.{column}"[:80], repr(picked)[:60], "must be two numbers, or texts and switches")
    if not isinstance(picked, list | tuple) or not picked:
        raise SpecError([fault])
    if all(isinstance(item, str | bool) for item in picked):
        return tuple(dict.fromkeys(picked))
    if len(picked) != 2 or any(isinstance(i, str | bool) or not isinstance(i, int | float) for i in picked):
        raise SpecError([fault])
    if any(math.isnan(item) for item in picked):
        raise SpecError([fault])
    return tuple(sorted(float(item) for item in picked))


def fitting(view: View, design: Design) -> View:
    """The view with the usual axes and quantity in the place of those that the design does not have."""
    lost: dict[str, Any] = {n: getattr(View, n) for n in ("x", "y") if not has_field(design, getattr(view, n))}
    known = graph_of(design.strategy.execution).quantities
    if view.quantity not in known and "." not in view.quantity and view.quantity != "feasible":
        lost["quantity"] = View.quantity
    return dataclasses.replace(view, **lost) if lost else view
