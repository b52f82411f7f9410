"""Hardware that varies, and what follows from it: spans, variables, couplings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.explore.evaluate import bind_axes
from dse.space.axes import Axis, Place, axis, locate, with_value
from dse.spec.base import Spec
from dse.units import UnitError, parse


@dataclass(frozen=True)
class Span:
    """A range of one field: continuous, or ``steps`` values evenly spaced (on a logarithmic scale with ``log``)."""

    path: str
    low: Any
    high: Any
    log: bool = True
    steps: int | None = None
    unit: str = ""
    name: str = ""


def span(
    path: str, low: Any, high: Any, *, log: bool = True, steps: int | None = None, unit: str = "", name: str = ""
) -> Span:
    """Declare a range of a hardware field to search.

    Args:
        path: as for :func:`dse.axis`.
        low, high: numbers in ``unit``, or text with units.
        log: search, and space the steps, evenly in the logarithm.
        steps: so many values only (whole fields such as sizes are rounded to distinct whole numbers).
        unit: of plain numbers.
        name: of the column in tables; by default the path without ``cluster.``.

    Raises:
        SpecError: a number of steps below 2 or above 10,000.
    """
    if steps is not None and not (isinstance(steps, int) and 2 <= steps <= 10_000):
        raise SpecError([Fault(f"{path}.steps", repr(steps)[:40], "must be a whole number from 2 to 10,000")])
    return Span(path, low, high, log, steps, unit, name or path.removeprefix("cluster."))


@dataclass(frozen=True)
class Coupling:
    """A field that follows another: ``target = base + rate · (source − its base)``, or in proportion to it."""

    target: str
    source: str
    rate: Any


def coupling(target: str, source: str, rate: Any) -> Coupling:
    """Say what more of a resource brings with it.

    Args:
        target: field that follows, such as ``cluster.network.inter.price``.
        source: field it follows, such as ``cluster.network.inter.bandwidth``.
        rate: units of the target per unit of the source (``"150 USD/(GB/s)"``), or ``"proportional"``.
    """
    return Coupling(target, source, rate)


@dataclass(frozen=True)
class BoundCoupling:
    """A coupling with its places found and its rate in SI units (None: proportional)."""

    given: Coupling
    target: Place
    source: Place
    rate: float | None

    def within(self, specs: Mapping[str, Spec]) -> BoundCoupling:
        """The coupling in other specifications, where its paths may lead elsewhere.

        Raises:
            SpecError: they have no such fields, or the source is zero where the target is in proportion to it.
        """
        target, source = locate(self.given.target, specs), locate(self.given.source, specs)
        if self.rate is None and not value_at(specs, source):
            raise SpecError([Fault(f"couplings.{self.given.source}", "0", "nothing can be in proportion to zero")])
        return replace(self, target=target, source=source)

    def change(self, specs: Mapping[str, Spec], base: Mapping[str, Spec]) -> Any:
        """What the target grows by (for proportional ones: the value itself minus its base)."""
        now, before = value_at(specs, self.source), value_at(base, self.source)
        if self.rate is not None:
            return self.rate * (now - before)
        return value_at(base, self.target) * (now / before - 1.0)


def value_at(specs: Mapping[str, Any], place: Place) -> Any:
    found: Any = specs[place.root]
    for step in place.steps:
        found = found[step] if isinstance(found, tuple) else getattr(found, str(step))
    return found


@dataclass(frozen=True)
class HardwareVariable:
    """A hardware field that varies.

    Attributes:
        values: legal values in SI units, in order; empty for a continuous one.
        low, high, log: ends of a continuous one.
        shown: what stands for each value in tables and in the search: SI numbers, or names.
    """

    name: str
    axis: Axis
    place: Place
    values: tuple[Any, ...] = ()
    shown: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    structural: bool = False

    @property
    def unit(self) -> str:
        return self.place.unit

    @property
    def largest(self) -> Any:
        """The largest value of a field that is not structural."""
        return max(self.values) if self.values else self.high

    def value(self, shown: Any) -> Any:
        """The value that a table shows as ``shown``."""
        return self.values[self.positions[shown]] if self.values else float(shown)

    @cached_property
    def positions(self) -> dict[Any, int]:
        """Position among the values of what stands for them."""
        return {shown: position for position, shown in enumerate(self.shown)}


def coupled(specs: dict[str, Any], base: Mapping[str, Any], couplings: Sequence[BoundCoupling]) -> dict[str, Any]:
    """The specifications with every coupled field moved from its base; never below zero."""
    changes: dict[tuple[Any, ...], Any] = {}
    places = {}
    for item in couplings:
        where = (item.target.root, item.target.steps)
        changes[where] = changes.get(where, 0.0) + item.change(specs, base)
        places[where] = item.target
    changed = dict(specs)
    for where, growth in changes.items():
        place = places[where]
        value = np.maximum(value_at(base, place) + growth, 0.0)
        changed[place.root] = with_value(changed[place.root], place.steps, value if np.ndim(value) else float(value))
    return changed


def bind_variable(item: Any, specs: Mapping[str, Spec]) -> HardwareVariable:
    """A variable with its place and legal values.

    Raises:
        SpecError: no axis or span, no such field, or values out of its range.
    """
    if not isinstance(item, Axis | Span):
        raise SpecError(
            [Fault("hardware", repr(item)[:80], "must be dse.axis(path, values) or dse.span(path, low, high)")]
        )
    if isinstance(item, Axis):
        if item.path.split(".")[0] not in ("cluster", "model"):
            raise SpecError([Fault(item.path, "", "hardware is searched here; strategies go into 'options'")])
        bound = bind_axes(specs, [item])[0]
        values = bound.values
        if not bound.structural and all(isinstance(v, int | float) for v in values):
            order = sorted(range(len(values)), key=lambda i: values[i])
            values = tuple(values[i] for i in order)
            shown = values
        else:
            shown = tuple(bound.coordinates)
        _check_apart(item.path, shown)
        name = item.name.removeprefix("cluster.")
        return HardwareVariable(name, item, bound.place, values, shown, structural=bound.structural)
    return _spanned(item, specs)


def _check_apart(path: str, shown: Sequence[Any]) -> None:
    """Values must be told apart by what stands for them."""
    twice = next((value for value, count in Counter(shown).items() if count > 1), None)
    if twice is not None:
        raise SpecError([Fault(path, str(twice)[:60], "stands for two of the values; give each its own id or number")])


def _spanned(item: Span, specs: Mapping[str, Spec]) -> HardwareVariable:
    ends = bind_axes(specs, [axis(item.path, [item.low, item.high], unit=item.unit, name=item.name)])[0]
    low, high = ends.values
    if ends.structural or not all(isinstance(v, int | float) for v in (low, high)):
        raise SpecError([Fault(item.path, "", "is not a number; give its values as an axis")])
    if not low < high or (item.log and low <= 0):
        rule = "low must be below high" if not low < high else "must be above 0 on a logarithmic scale"
        raise SpecError([Fault(item.path, f"{item.low} to {item.high}", rule)])
    whole = isinstance(low, int)
    if item.steps is None and not whole:
        return HardwareVariable(item.name, ends.axis, ends.place, low=float(low), high=float(high), log=item.log)
    count = item.steps or min(int(high - low) + 1, 10_000)
    points = np.geomspace(low, high, count) if item.log else np.linspace(low, high, count)
    if whole and ends.place.steps == ("devices",):  # whole nodes: other counts are hardly ever legal
        size = max(int(specs["cluster"].node.devices), 1)  # type: ignore[attr-defined]
        points = [min(max(round(p / size), 1) * size, high) if size <= low else p for p in points]
    values = tuple(dict.fromkeys(round(p) for p in points)) if whole else tuple(float(f"{p:.12g}") for p in points)
    bound = bind_axes(specs, [axis(item.path, values, name=item.name)])[0]
    return HardwareVariable(item.name, bound.axis, bound.place, bound.values, bound.values)


def _coupling_of(item: Any) -> Coupling:
    if isinstance(item, Coupling):
        return item
    if isinstance(item, Mapping) and set(item) == {"target", "source", "rate"}:
        return Coupling(**item)
    raise SpecError([Fault("couplings", repr(item)[:80], "must be dse.coupling(target, source, rate)")])


def bind_coupling(item: Any, specs: Mapping[str, Spec]) -> BoundCoupling:
    given = _coupling_of(item)
    target, source = locate(given.target, specs), locate(given.source, specs)
    for path, place in ((given.target, target), (given.source, source)):
        if not isinstance(value_at(specs, place), int | float):
            raise SpecError(
                [Fault(f"couplings.{path}", "", "is not a number here; a coupling needs one to start from")]
            )
    if isinstance(value_at(specs, target), int):
        raise SpecError([Fault(f"couplings.{given.target}", "", "is a whole number; only measures can follow")])
    if given.rate == "proportional":
        return BoundCoupling(given, target, source, None).within(specs)
    unit = "1" if target.unit == source.unit else f"({target.unit or '1'})/({source.unit or '1'})"
    try:
        rate = parse(given.rate, unit)
    except UnitError as error:
        raise SpecError([Fault(f"couplings.{given.target}", repr(given.rate)[:60], str(error))]) from None
    return BoundCoupling(given, target, source, rate)
