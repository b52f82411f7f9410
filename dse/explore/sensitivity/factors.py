"""Factors: fields that vary in a study of sensitivity, over a range, over values, or over whole specifications."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.space.axes import Place, axis, checked_values, is_structural, locate
from dse.spec import load_cluster, load_model, load_stack, load_strategy
from dse.spec.base import Spec
from dse.spec.fields import unit_of
from dse.spec.strategy import Strategy

MOST_LEVELS = 100_000
_LOADERS = {"model": load_model, "cluster": load_cluster, "strategy": load_strategy, "stack": load_stack}
_RANGE = re.compile(r"^\s*([^:,\s]+)\s*:\s*([^:,\s]+)\s*(.*?)\s*$")


@dataclass(frozen=True)
class Factor:
    """A field and how it varies, independently of all other factors.

    A range is uniform between ``low`` and ``high`` (of the logarithm with ``log``); counts in a range are each equally
    likely. ``values`` are levels, each equally likely: numbers, names, or catalogue ids of whole specifications.

    Attributes:
        path: as in :func:`dse.axis`, such as ``cluster.network.inter.bandwidth``, ``tp``, ``cluster``.
        low, high: ends of a range, in ``unit`` or as text with a unit.
        values: levels, instead of a range.
        unit: unit of plain numbers; SI by default.
        log: a range is uniform in its logarithm.
        name: in tables; by default the path.
    """

    path: str
    low: Any = None
    high: Any = None
    values: tuple[Any, ...] = ()
    unit: str = ""
    log: bool = False
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> Factor:
        """Read ``path=low:high unit [log]`` or ``path=v1,v2,... [unit]``.

        Raises:
            SpecError: the text has another form.
        """
        path, equals, body = (part.strip() for part in text.partition("="))
        if not equals or not path or not body:
            raise SpecError([Fault("factor", repr(text[:80]), 'must be "path=low:high unit [log]" or "path=v1,v2"')])
        head, _, last = body.rpartition(" ")
        log = last == "log" and bool(head)
        body = head.strip() if log else body
        match = _RANGE.match(body)
        if match:
            low, high, unit = match.groups()
            ends = (f"{low} {unit}", f"{high} {unit}") if unit else (low, high)
            return cls(path, ends[0], ends[1], log=log)
        last, _, unit = body.rpartition(" ")
        if not last or "," not in last or unit[:1].isdigit():
            last, unit = body, ""
        values = tuple(item.strip() for item in last.split(",") if item.strip())
        if log or not values:
            raise SpecError([Fault(f"factor {path[:60]}", repr(body[:60]), 'must be "low:high unit [log]" or values')])
        return cls(path, values=tuple(f"{value} {unit}" for value in values) if unit else values)


@dataclass(frozen=True)
class BoundFactor:
    """A factor with its field and SI values.

    Attributes:
        levels: values of a factor with levels, else empty.
        low, high: ends of a range.
        ordered: whether levels are numbers, with a sense of more and less.
    """

    factor: Factor
    place: Place
    path: str
    levels: tuple[Any, ...]
    low: float
    high: float
    structural: bool

    @property
    def name(self) -> str:
        return self.factor.name or self.path.removeprefix("strategy.")

    @property
    def unit(self) -> str:
        return self.place.unit

    @property
    def ordered(self) -> bool:
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in self.levels)
        return not self.levels or numbers

    @property
    def labels(self) -> list[Any]:
        """Levels as coordinates of a table."""
        return [v.id if hasattr(v, "id") else "none" if v is None else v for v in self.levels]

    def at(self, u: np.ndarray) -> np.ndarray:
        """Column for uniform variates in [0, 1]: SI numbers, or positions among k levels.

        The unit interval is cut into k equal parts, so that level i stands for [i/k, (i+1)/k): a uniform variate gives
        each level the probability 1/k exactly, and indices are those of the uniform distribution over the levels.
        """
        if self.levels:
            count = len(self.levels)
            return np.minimum((np.asarray(u) * count).astype(np.int64), count - 1)
        if self.factor.log:
            return np.clip(self.low * (self.high / self.low) ** u, self.low, self.high)
        return self.low + (self.high - self.low) * u

    def values(self, column: np.ndarray) -> np.ndarray:
        """Values of the field for a column of numbers or positions."""
        return np.asarray(self.levels)[column] if self.levels else column

    def shown(self, column: np.ndarray) -> np.ndarray:
        """A column as coordinates of a table."""
        if not self.levels:
            return column
        labels = np.empty(len(self.levels), dtype=object)
        labels[:] = self.labels
        return labels[column] if not self.ordered else np.asarray(self.levels)[column]

    def place_in(self, specs: Mapping[str, Any]) -> Place:
        """Where the field lies in other specifications (another cluster may have other dimensions)."""
        return locate(self.path, specs)


def bind(specs: Mapping[str, Spec], factors: Sequence[Factor | str]) -> list[BoundFactor]:
    """Resolve and validate factors.

    Raises:
        SpecError: an unknown path, a value out of its field's range, an empty range, or two factors for one field.
    """
    given = [Factor.parse(f) if isinstance(f, str) else f for f in factors]
    if not given:
        raise SpecError([Fault("factors", "", "name at least one factor")])
    bound = [_bind(specs, factor) for factor in given]
    places = [(b.place.root, b.place.steps) for b in bound]
    names = [b.name for b in bound]
    for collection, what in ((places, "field"), (names, "name")):
        if len(set(collection)) < len(collection):
            raise SpecError([Fault("factors", ", ".join(names)[:200], f"two factors share one {what}")])
    return bound


def _bind(specs: Mapping[str, Spec], factor: Factor) -> BoundFactor:
    path = f"strategy.{factor.path}" if factor.path in Strategy.model_fields else factor.path
    place = locate(path, specs)
    if factor.values:
        if factor.low is not None or factor.high is not None:
            raise SpecError([Fault(path, "", "give a range or values, not both")])
        declared = axis(path, factor.values, unit=factor.unit)
        levels = checked_values(declared, place) if place.steps else [_LOADERS[place.root](v) for v in declared.values]
        return BoundFactor(factor, place, path, tuple(levels), math.nan, math.nan, is_structural(place, levels))
    if factor.low is None or factor.high is None or not place.steps:
        raise SpecError([Fault(path, "", "needs a range (low and high) or values")])
    low, high = checked_values(axis(path, (factor.low, factor.high), unit=factor.unit), place)
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in (low, high)):
        raise SpecError([Fault(path, f"{low}:{high}", "is not a number; give values")])
    if not low < high:
        raise SpecError([Fault(path, f"{low:g}:{high:g}", "low must be below high")])
    if factor.log and low <= 0:
        raise SpecError([Fault(path, f"{low:g}", "a logarithmic range must start above 0")])
    if isinstance(low, int):
        if factor.log or high - low >= MOST_LEVELS:
            raise SpecError([Fault(path, f"{low}:{high}", f"is a count: give values, or at most {MOST_LEVELS:,}")])
        levels = range(low, high + 1)
        return BoundFactor(factor, place, path, tuple(levels), math.nan, math.nan, is_structural(place, levels))
    return BoundFactor(factor, place, path, (), float(low), float(high), is_structural(place, (low, high)))


# -- the numbers of the hardware ----------------------------------------------------------------------------

_SHORT = (
    ("cluster.node.accelerator.memory.", "cluster.memory."),
    ("cluster.node.accelerator.", "cluster.accelerator."),
    ("cluster.network.dimensions.", "cluster.network."),
    ("cluster.node.expansion.", "cluster.node."),
)


def hardware_inputs(specs: Mapping[str, Any]) -> list[str]:
    """Paths of every positive number with a unit in the cluster and the stack, counts left out."""
    found: list[str] = []
    for root in ("cluster", "stack"):
        _walk(specs[root], root, found)
    return [_shortened(path) for path in found]


def _walk(spec: Any, path: str, found: list[str]) -> None:
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if isinstance(value, Spec):
            _walk(value, f"{path}.{name}", found)
        elif isinstance(value, tuple) and value and isinstance(value[0], Spec) and name != "sources":
            for index, item in enumerate(value):
                own = str(getattr(item, "name", index))
                _walk(item, f"{path}.{name}.{index if '.' in own else own}", found)
        elif isinstance(value, float) and value > 0 and unit_of(field) is not None:
            found.append(f"{path}.{name}")


def _shortened(path: str) -> str:
    for long, short in _SHORT:
        if path.startswith(long):
            return short + path.removeprefix(long)
    return path


def legal_range(place: Place) -> tuple[float, float]:
    """Least and greatest value that a numeric field may take."""
    field = type(place.parent).model_fields[place.field]
    marks = [*field.metadata]
    for argument in (field.annotation, *getattr(field.annotation, "__args__", ())):
        for marker in getattr(argument, "__metadata__", ()):
            marks += [marker, *getattr(marker, "metadata", ())]
    low = max((float(m.ge) for m in marks if hasattr(m, "ge")), default=-math.inf)
    high = min((float(m.le) for m in marks if hasattr(m, "le")), default=math.inf)
    return low, high
