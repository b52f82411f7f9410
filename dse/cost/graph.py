"""The cost model as a graph of named quantities.

A quantity is a function. Its name is the quantity's name, its parameters are the names of what it needs: other
quantities, fields of the strategy, or the specifications ``model``, ``cluster``, ``strategy`` and ``stack``. That is
all the wiring there is: to find an equation, search for ``def <quantity>``; to change one, write a function of the
same name and hand it to another :class:`Graph`.

The functions do plain arithmetic that broadcasts, so the same graph prices one design or a space of millions, and
``explain`` can show every step of one design with its inputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from dse.spec.base import Entry, Spec
from dse.spec.fields import unit_of
from dse.spec.strategy import Strategy

SPECS = ("model", "cluster", "strategy", "stack")


@dataclass(frozen=True)
class Quantity:
    """A named quantity: how it is computed, in what unit, and where the equation comes from."""

    name: str
    function: Callable[..., Any]
    unit: str
    equation: str
    source: str
    needs: tuple[str, ...]

    @property
    def summary(self) -> str:
        """First sentence of the docstring."""
        text = inspect.getdoc(self.function) or ""
        return text.split("\n\n")[0].replace("\n", " ")


def quantity(unit: str, equation: str, *, source: str = "definition") -> Callable[[Callable[..., Any]], Quantity]:
    """Declare a function to be a quantity of the cost model.

    Args:
        unit: SI unit of the result (of every entry, where the result is a mapping).
        equation: the equation as people write it.
        source: paper and section, or "re-derived" with the reasoning.
    """

    def declare(function: Callable[..., Any]) -> Quantity:
        needs = tuple(inspect.signature(function).parameters)
        return Quantity(function.__name__, function, unit, equation, source, needs)

    return declare


class Graph:
    """A set of quantities with distinct names; later modules replace quantities of earlier ones."""

    def __init__(self, *parts: ModuleType | Mapping[str, Quantity]) -> None:
        self.quantities: dict[str, Quantity] = {}
        for part in parts:
            members = vars(part) if isinstance(part, ModuleType) else part
            self.quantities.update({q.name: q for q in members.values() if isinstance(q, Quantity)})
        self._check()

    def _check(self) -> None:
        known = {*self.quantities, *SPECS, *Strategy.model_fields}
        for q in self.quantities.values():
            missing = [name for name in q.needs if name not in known]
            if missing:
                raise LookupError(f"quantity {q.name!r} needs {', '.join(missing)}, which nothing defines")

    def __iter__(self) -> Iterator[Quantity]:
        return iter(self.quantities.values())


@dataclass
class Step:
    """One computed quantity in an explanation."""

    quantity: Quantity
    value: Any
    inputs: list[str] = field(default_factory=list)
    fields: list[Read] = field(default_factory=list)


@dataclass(frozen=True)
class Read:
    """A specification field that an equation used."""

    path: str
    value: Any
    unit: str
    source: str


class Evaluation:
    """Computes quantities of one graph for one set of bound specifications, each at most once.

    Args:
        graph: the quantities.
        specs: ``model``, ``cluster`` and ``strategy``; their fields may hold arrays.
        record: keep, for ``explain``, what each quantity read and returned.
    """

    def __init__(self, graph: Graph, specs: Mapping[str, Spec], *, record: bool = False) -> None:
        self.graph = graph
        self.specs = dict(specs)
        self.values: dict[str, Any] = {}
        self.steps: dict[str, Step] | None = {} if record else None

    def __getitem__(self, name: str) -> Any:
        if name not in self.values:
            self.values[name] = self._compute(name)
        return self.values[name]

    def get(self, names: Iterable[str]) -> dict[str, Any]:
        return {name: self[name] for name in names}

    def _compute(self, name: str) -> Any:
        q = self.graph.quantities.get(name)
        if q is None:
            return self.specs[name] if name in self.specs else getattr(self.specs["strategy"], name)
        if self.steps is None:
            return q.function(*(self[need] for need in q.needs))
        return self._recorded(q)

    def _recorded(self, q: Quantity) -> Any:
        step = Step(q, None, inputs=[need for need in q.needs if need not in SPECS])
        arguments = [
            Traced.wrap(self[need], need, step.fields) if need in self.specs else self[need] for need in q.needs
        ]
        step.value = q.function(*arguments)
        if self.steps is not None:
            self.steps[q.name] = step
        return step.value


class Traced:
    """Stands in for a specification while a quantity is computed, and notes the fields it reads."""

    def __init__(self, spec: Spec, path: str, log: list[Read], owner: tuple[Entry | None, str]) -> None:
        self.__dict__.update(_spec=spec, _path=path, _log=log, _owner=owner)

    @classmethod
    def wrap(cls, value: Any, path: str, log: list[Read], owner: tuple[Entry | None, str] = (None, "")) -> Any:
        if isinstance(value, Spec):
            return cls(value, path, log, (value, "") if isinstance(value, Entry) else owner)
        if isinstance(value, tuple) and value and all(isinstance(item, Spec) for item in value):
            return tuple(
                cls.wrap(item, f"{path}.{getattr(item, 'name', i)}", log, _within(owner, item, i))
                for i, item in enumerate(value)
            )
        return value

    def __getattr__(self, name: str) -> Any:
        spec, path = self._spec, self._path
        attribute = getattr(type(spec), name, None)
        if name not in type(spec).model_fields:
            if isinstance(attribute, property) and attribute.fget is not None:
                return attribute.fget(self)
            static = isinstance(inspect.getattr_static(type(spec), name, None), staticmethod)
            if inspect.isfunction(attribute) and not static:
                return attribute.__get__(self)
            return getattr(spec, name)
        value = getattr(spec, name)
        owner, prefix = self._owner
        inner = f"{prefix}.{name}" if prefix else name
        wrapped = Traced.wrap(value, f"{path}.{name}", self._log, (owner, inner))
        if wrapped is value and value is not None:
            self._note(name, value, owner, inner)
        return wrapped

    def _note(self, name: str, value: Any, owner: Entry | None, inner: str) -> None:
        unit = unit_of(type(self._spec).model_fields[name]) or ""
        found = owner.source_of(inner) if owner else None
        origin = f"{found.title}, {found.date} ({found.kind})" if found else "given"
        read = Read(f"{self._path}.{name}", value, unit, origin)
        if read.path not in {known.path for known in self._log}:
            self._log.append(read)


def _within(owner: tuple[Entry | None, str], item: Spec, index: int) -> tuple[Entry | None, str]:
    entry, prefix = owner
    return entry, f"{prefix}.{getattr(item, 'name', index)}"
