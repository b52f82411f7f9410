"""Columns of a streamed table: axes, quantities with their units, and which rules a design breaks."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dse.cost.graph import Evaluation
from dse.errors import Fault, SpecError
from dse.explore.evaluate import RULES, BoundAxis
from dse.explore.result import HEADLINES, TABLES

# Quantities of a streamed table unless others are asked for, in order.
COLUMNS = ("dp", "step_time", "tokens_per_s", "mfu", "memory_bytes", "energy", "cost", "margin.memory_fits")
ALIASES = {"dp": "data_parallel"}  # columns that go by a shorter name than their quantity
ALWAYS = ("feasible", "reasons")
MASK = np.uint32 if len(RULES) <= 32 else np.uint64  # a bit for each rule


@dataclass(frozen=True)
class Column:
    """A quantity of the cost model, an entry of a table (``time.forward``) or a rule's margin (``margin.<rule>``).

    ``dp`` is the degree of data parallelism; it is a whole number wherever the other degrees divide the devices.
    """

    name: str
    unit: str

    @property
    def header(self) -> str:
        """The name with its unit."""
        return header(self.name, self.unit)

    def of(self, evaluation: Evaluation) -> Any:
        """Values of the column: an array that broadcasts over the evaluation's axes."""
        table, _, entry = self.name.partition(".")
        if table == "margin":
            return evaluation[entry]
        return evaluation[TABLES[table]].get(entry, 0.0) if entry else evaluation[ALIASES.get(table, table)]


def header(name: str, unit: str) -> str:
    """Header of a column."""
    return f"{name} [{unit}]" if unit else name


def columns_of(names: Sequence[str], samples: Iterable[Evaluation], axes: Sequence[BoundAxis]) -> tuple[Column, ...]:
    """The columns of some names, held against one evaluation of every structure in the space.

    Raises:
        SpecError: an unknown name, a quantity that is not a number, or a name that is given twice.
    """
    if isinstance(names, str):
        names = [names]
    wanted = [str(name) for name in names if name not in ALWAYS]
    twice = [name for name in wanted if [*wanted, *(b.name for b in axes), *ALWAYS].count(name) > 1]
    twice += [b.name for b in axes if b.name in ALWAYS]
    if twice:
        raise SpecError([Fault("columns", twice[0][:60], "names a column that the table has already")])
    units: dict[str, str] = {}
    for evaluation in samples:
        for name in wanted:
            _check_name(name, evaluation)
            unit = _unit(name, evaluation)
            if unit is not None:
                units[name] = unit
        if len(units) == len(wanted):
            break
    missing = [name for name in wanted if name not in units]
    if missing:
        raise SpecError([Fault("columns", missing[0][:60], "is an entry that no design of the space has")])
    return tuple(Column(name, units[name]) for name in wanted)


def _check_name(name: str, evaluation: Evaluation) -> None:
    quantities = evaluation.graph.quantities
    table, _, entry = name.partition(".")
    known = (
        entry in RULES
        if table == "margin" and entry
        else table in TABLES
        if entry
        else ALIASES.get(name, name) in quantities
    )
    if not known:
        choices = [*HEADLINES, *ALIASES, *quantities, *(f"{t}.…" for t in TABLES), *(f"margin.{r}" for r in RULES)]
        near = difflib.get_close_matches(name, choices, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"usual ones are {', '.join(HEADLINES)}"
        raise SpecError([Fault("columns", name[:60], f"is not a quantity of the cost model; {hint}")])


def _unit(name: str, evaluation: Evaluation) -> str | None:
    """Unit of a column; None where the table has no such entry in this structure."""
    table, _, entry = name.partition(".")
    quantity = entry if table == "margin" else TABLES[table] if entry else ALIASES.get(name, name)
    value = evaluation[quantity]
    if entry and table != "margin":
        if entry not in value:
            return None
        value = value[entry]
    if np.asarray(value).dtype.kind not in "fiub":
        raise SpecError(
            [Fault("columns", name[:60], "is not one number a design; name an entry, such as time.forward")]
        )
    return str(evaluation.graph.quantities[quantity].unit)


def failed_rules(evaluation: Evaluation) -> Any:
    """Rules that each design breaks, a bit a rule in their order: an array that broadcasts over the axes."""
    bits = [
        np.where(np.greater_equal(evaluation[rule], 0), MASK(0), MASK(1 << place)) for place, rule in enumerate(RULES)
    ]
    mask: Any = MASK(0)
    for bit in sorted(bits, key=np.size):
        mask = mask | bit
    return mask


def reasons_text(mask: int) -> str:
    """The rules of a mask as text; empty for a feasible design."""
    return "; ".join(rule for place, rule in enumerate(RULES) if mask >> place & 1)


def coordinates(b: BoundAxis) -> np.ndarray:
    """Values of an axis as they stand in the table: all switches, whole numbers, numbers, or else text.

    Returns:
        One-dimensional array of type bool, int64, float64 or object (text), in SI units.
    """
    values = b.coordinates
    kinds = {type(v) for v in values}
    convert: Callable[[Any], Any] = {frozenset({bool}): bool, frozenset({int}): int}.get(frozenset(kinds), _text)
    if kinds <= {int, float} and float in kinds:
        convert = float
    dtypes: dict[Any, Any] = {bool: np.bool_, int: np.int64, float: np.float64}
    return np.array([convert(v) for v in values], dtype=dtypes.get(convert, object))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
