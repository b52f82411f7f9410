"""The variables of a search and the space they span: its size, and its points in a stated order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dse.errors import Fault, SpecError

Point = dict[str, Any]


@dataclass(frozen=True)
class Variable:
    """One dimension of a search.

    Args:
        name: unique in the search.
        values: what it can take, in order: numbers, or any of numbers, text and booleans when ``categorical``.
        low, high: the closed range of a continuous variable (``values`` empty), in the variable's own unit.
        log: sample the continuous range evenly in its logarithm.
        categorical: the values have no order.

    Raises:
        SpecError: no values and no range, a value of the wrong kind, a repeated value, a range that is not one.
    """

    name: str
    values: tuple = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    categorical: bool = False

    def __post_init__(self) -> None:
        plain = tuple(value.item() if hasattr(value, "item") else value for value in self.values)
        object.__setattr__(self, "values", plain)
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))
        rule = self._broken_rule()
        if rule:
            shown = plain if plain else (self.low, self.high)
            raise SpecError([Fault(f"search.{self.name}", str(shown)[:80], rule)])

    def _broken_rule(self) -> str:
        kinds = (bool, int, float, str) if self.categorical else (int, float)
        if not self.values:
            if self.categorical:
                return "a categorical variable needs values"
            if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
                return "needs values, or a finite range with low < high"
            return "a logarithmic range starts above 0" if self.log and self.low <= 0 else ""
        if not all(isinstance(value, kinds) for value in self.values):
            return "values are numbers, text or true/false" if self.categorical else "ordered values are numbers"
        if any(isinstance(value, float) and not math.isfinite(value) for value in self.values):
            return "values are finite"
        return "each value stands once" if len(set(self.values)) < len(self.values) else ""

    def at(self, unit: float) -> Any:
        """The value at ``unit`` in [0, 1): that share of the way through the values or along the range."""
        if self.values:
            return self.values[min(int(unit * len(self.values)), len(self.values) - 1)]
        if self.log:
            inside = math.exp(math.log(self.low) + unit * (math.log(self.high) - math.log(self.low)))
        else:
            inside = self.low + unit * (self.high - self.low)
        return min(max(inside, self.low), self.high)


@dataclass(frozen=True)
class Space:
    """Every combination of the variables' values.

    Raises:
        SpecError: no variable, or two of one name.
    """

    variables: tuple[Variable, ...]

    def __post_init__(self) -> None:
        names = [variable.name for variable in self.variables]
        if not names:
            raise SpecError([Fault("search", "", "needs at least one variable")])
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise SpecError([Fault("search", ", ".join(repeated), "each variable stands once")])

    @cached_property
    def size(self) -> int | None:
        """How many points there are; None when a variable is continuous."""
        if not all(variable.values for variable in self.variables):
            return None
        return math.prod(len(variable.values) for variable in self.variables)

    def point(self, index: int) -> Point:
        """The ``index``-th point of a finite space, the last variable running fastest."""
        digits = []
        for variable in reversed(self.variables):
            index, digit = divmod(index, len(variable.values))
            digits.append(digit)
        return {v.name: v.values[d] for v, d in zip(self.variables, reversed(digits), strict=True)}

    def at(self, unit: Sequence[float]) -> Point:
        """The point at a vector of the unit cube, one coordinate a variable."""
        return {v.name: v.at(float(u)) for v, u in zip(self.variables, unit, strict=True)}
