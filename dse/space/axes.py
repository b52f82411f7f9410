"""Axes: any field of a specification may take many values; each axis has a fixed position in every array."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dse import units
from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.fields import unit_of
from dse.spec.strategy import Strategy

ROOTS = ("model", "cluster", "strategy", "stack")


@dataclass(frozen=True)
class Axis:
    """A named list of values for one field.

    Attributes:
        path: where the field lies, such as ``cluster.node.memory.bandwidth``, ``strategy.tp`` or ``cluster`` itself.
        values: what it takes, in SI units once bound.
        name: the dimension's name in results.
        unit: unit the user gave the numbers in; results are SI.
    """

    path: str
    values: tuple[Any, ...]
    name: str = ""
    unit: str = ""
    labels: tuple[Any, ...] = field(default=(), compare=False)


def axis(path: str, values: Iterable[Any], *, unit: str = "", name: str = "") -> Axis:
    """Declare an axis.

    Args:
        path: a field of the strategy (``tp``), or a dotted path from ``model``, ``cluster`` or ``strategy``. Memory
            tiers and network dimensions are addressed by name, by position, or as ``intra`` and ``inter``.
        values: numbers (in ``unit`` where given, else SI), text with units, or catalogue ids for ``model``/``cluster``.
        unit: unit of plain numbers.
        name: name of the dimension; by default the path without ``strategy.``.

    Raises:
        SpecError: no values, or values given twice.
    """
    found = tuple(values.tolist() if isinstance(values, np.ndarray) else values)
    if path in Strategy.model_fields:
        path = f"strategy.{path}"
    if not found:
        raise SpecError([Fault(path, "", "an axis needs at least one value")])
    if len({repr(v) for v in found}) < len(found):
        raise SpecError([Fault(path, "", "an axis must not repeat a value")])
    if path.split(".")[0] not in ROOTS:
        near = difflib.get_close_matches(path, [*Strategy.model_fields, *ROOTS], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SpecError([Fault(path[:80], "", f"must start with {', '.join(ROOTS)} or name a strategy field{hint}")])
    return Axis(path, found, name or path.removeprefix("strategy."), unit)


@dataclass(frozen=True)
class Place:
    """A resolved path: the fields and positions that lead from a specification to one of its fields."""

    root: str
    steps: tuple[str | int, ...]
    parent: Spec
    field: str

    @property
    def unit(self) -> str:
        if not self.steps:  # a whole specification
            return ""
        return unit_of(type(self.parent).model_fields[self.field]) or ""


def locate(path: str, specs: Mapping[str, Spec]) -> Place:
    """Find the field a path means; shortcuts and default memory tiers are expanded.

    Raises:
        SpecError: no such field; the message lists what there is.
    """
    root, *rest = path.split(".")
    if root not in specs:
        raise SpecError([Fault(path, "", f"must start with {', '.join(specs)}")])
    current: Any = specs[root]
    steps: list[str | int] = []
    parent, last = current, ""
    queue = list(rest)
    while queue:
        part = queue.pop(0)
        if isinstance(current, tuple):
            index = _index(current, part)
            if index is None:
                if len(current) != 1 and part not in type(current[0]).model_fields:
                    raise SpecError([Fault(path, part, f"known here: {', '.join(_names(current))}")])
                index = 0
                queue.insert(0, part)
            steps.append(index)
            current = current[index]
            continue
        if not isinstance(current, Spec):
            raise SpecError([Fault(path, part, f"{last or root} has no fields")])
        shortcut = type(current)._shortcuts.get(part)
        if shortcut:
            queue[:0] = shortcut.split(".")
            continue
        if part not in type(current).model_fields:
            value = current
            named = [name for name in type(value).model_fields if isinstance(getattr(value, name), tuple)]
            inside = next((n for n in named if _index(getattr(value, n), part) is not None), None)
            if inside:
                queue[:0] = [inside, part]
                continue
            raise SpecError([Fault(path, part, _unknown(current, part))])
        parent, last = current, part
        steps.append(part)
        current = getattr(current, part)
    if isinstance(current, tuple) and current and isinstance(current[0], Spec):
        raise SpecError([Fault(path, "", f"name one of: {', '.join(_names(current))}")])
    return Place(root, tuple(steps), parent, last)


def _index(items: tuple[Any, ...], part: str) -> int | None:
    names = _names(items)
    if part in names:
        return names.index(part)
    digits = part.removeprefix("-")
    if digits.isdigit() and len(digits) < 4 and -len(items) <= int(part) < len(items):
        return int(part) % len(items)
    return None


def _names(items: tuple[Any, ...]) -> list[str]:
    return [str(getattr(item, "name", index)) for index, item in enumerate(items)]


def _unknown(spec: Spec, part: str) -> str:
    known = [*type(spec).model_fields, *type(spec)._shortcuts]
    near = difflib.get_close_matches(part, known, n=1)
    return f"no such field; did you mean {near[0]!r}?" if near else f"no such field; known: {', '.join(known)}"


def with_value(spec: Any, steps: Sequence[str | int], value: Any) -> Any:
    """A copy of ``spec`` with the field at ``steps`` replaced (not validated: the value may be an array)."""
    if not steps:
        return value
    head, *tail = steps
    if isinstance(spec, tuple):
        index = int(head)
        return (*spec[:index], with_value(spec[index], tail, value), *spec[index + 1 :])
    return spec.model_copy(update={str(head): with_value(getattr(spec, str(head)), tail, value)})


def checked_values(axis: Axis, place: Place) -> list[Any]:
    """The axis' values validated one by one by the field itself, in SI units.

    Raises:
        SpecError: the first value that breaks the field's rule.
    """
    data = {name: getattr(place.parent, name) for name in type(place.parent).model_fields}
    result = []
    for value in axis.values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        given = f"{value} {axis.unit}" if axis.unit and number else value
        if axis.unit and number and not place.unit:
            raise SpecError([Fault(axis.path, str(value), f"has no unit, but {axis.unit!r} was given")])
        try:
            units.parse(given, place.unit) if axis.unit and number else None
            parsed = type(place.parent).parse({**data, place.field: given})
        except units.UnitError as error:
            raise SpecError([Fault(axis.path, str(value)[:60], str(error))]) from None
        except SpecError as error:
            faults = [Fault(axis.path, f.value or str(value)[:60], f.rule) for f in error.faults]
            raise SpecError(faults) from None
        result.append(getattr(parsed, place.field))
    return result


STRUCTURAL = frozenset(
    {
        "family",
        "head",
        "max_positions",
        "interval",
        "dense_layers",
        "shared_hidden",
        "query_rank",
        "sizing",
        "execution",
        "stack",
        "interaction",
    }
)


def is_structural(place: Place, values: Sequence[Any]) -> bool:
    """Must the model be built anew for each value (the shape of the computation changes)?"""
    if place.field in STRUCTURAL or not place.steps:
        return True
    return any(value is None or isinstance(value, tuple | Spec) for value in values)
