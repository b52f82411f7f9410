"""What simulations must show: values of their tables, ratios of rows, and the part of the report about them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.fields import Name, Text
from dse.study.fields import Point, PointText, Prose
from dse.study.simulations import SimulationTable
from dse.units import UnitError, parse

if TYPE_CHECKING:
    import pandas as pd

# As of expected values, and second-hand: told by others, the paper itself not seen.
Label = Literal["paper", "recorded", "re-derived", "trend", "second-hand"]
BEST = "best"
OF_SEVERAL = {"min": np.min, "max": np.max, "mean": np.mean, "median": np.median, "p90": lambda v: np.quantile(v, 0.9),
              "geomean": lambda v: np.exp(np.mean(np.log(v)))}  # fmt: skip


class SimulationCheck(Spec):
    """A number of a table of simulations and where it must lie.

    Rows are those that agree with ``at`` (columns ``system``, ``workload``, ``variant``, ``size``, ``x``, ``share_1``
    ...). With ``reference`` each is divided into the row that differs from it in these columns alone, so that more is
    better for times. ``measure`` is ``value`` of the only row, or ``min``, ``max``, ``mean``, ``geomean``, ``median``
    or ``p90`` of several; ``at_min`` and ``at_max`` are the value of ``column`` in the row of the least or greatest.

    ``published`` is a number that ours may differ from by ``tolerance`` (a fraction) or ``absolute`` (in ``unit``),
    whichever is more; else ``at_least`` and ``at_most`` bound it.
    """

    check: Text
    simulation: Name
    quantity: Text = "time"
    at: PointText = Field(default_factory=dict)
    reference: PointText | None = None
    measure: Literal["value", "min", "max", "mean", "geomean", "median", "p90", "at_min", "at_max"] = "value"
    column: Text = ""
    published: float | None = None
    tolerance: float = Field(default=0.02, ge=0, le=1)
    absolute: float = Field(default=0.0, ge=0)
    at_least: float | None = None
    at_most: float | None = None
    unit: Text = "1"
    label: Label = "trend"
    source: Text = ""
    note: Prose = ""

    @model_validator(mode="after")
    def _complete(self) -> SimulationCheck:
        if self.published is None and self.at_least is None and self.at_most is None:
            raise ValueError("needs published, at_least or at_most")
        if self.measure.startswith("at_") != bool(self.column):
            raise ValueError("measures at_min and at_max need a column, the others have none")
        if self.published is not None and not self.source:
            raise ValueError("a published number needs its source")
        return self

    @field_validator("at", "reference")
    @classmethod
    def _no_best(cls, value: Point | None) -> Point | None:
        if value and BEST in value.values():
            raise ValueError("best is for figures; a check says min or max")
        return value


def simulation_rows(
    checks: Sequence[SimulationCheck], found: Mapping[str, SimulationTable], passed: tuple[str, str]
) -> list[dict[str, Any]]:
    """Rows of the verdict table.

    Args:
        passed: the words for a check that passes and for one that falls short.

    Raises:
        SpecError: with every check that cannot be evaluated.
    """
    rows, faults = [], []
    for i, check in enumerate(checks):
        try:
            rows.append(_row(check, found[check.simulation], passed))
        except SpecError as error:
            place = f"simulation_checks[{i}] {check.check!r}"
            faults += [Fault(f"{place}: {f.path}"[:200], f.value, f.rule) for f in error.faults]
    if faults:
        raise SpecError(faults)
    return rows


def _row(check: SimulationCheck, table: SimulationTable, passed: tuple[str, str]) -> dict[str, Any]:
    rows = chosen(table, check.quantity, check.at, check.reference)
    column = check.column or "value"
    if column not in rows:
        raise SpecError([_unknown("column", column, rows)])
    if check.measure == "value" and len(rows) != 1:
        raise SpecError([Fault("at", "", f"leaves {len(rows)} rows; a value is of one")])
    unit = "1" if check.reference is not None else table.unit(check.quantity)
    if check.column:
        unit = table.unit(check.column)
    values = rows["value"].to_numpy(float)
    ours = float("nan")
    if len(rows) and np.isfinite(values).all():  # one missing value spoils them all
        if check.measure in OF_SEVERAL:
            ours = float(OF_SEVERAL[check.measure](values))
        else:
            place = values.argmin() if check.measure.endswith("min") else values.argmax()
            ours = float(rows[column].iloc[place])
    try:
        ours /= parse(f"1 {check.unit}" if check.unit not in ("", "1") else 1.0, unit)
    except UnitError as error:
        raise SpecError([Fault("unit", repr(check.unit)[:40], str(error))]) from None
    good, told = _held(check, ours)
    return {"group": check.simulation, "check": check.check, "label": check.label, "ours": ours, "unit": check.unit,
            "verdict": passed[0] if good else passed[1], "source": check.source, **told}  # fmt: skip


def _held(check: SimulationCheck, ours: float) -> tuple[bool, dict[str, Any]]:
    """Whether a number lies where it must, and the cells that say so."""
    good = bool(np.isfinite(ours))
    bounds = [f"{sign} {v:g}" for sign, v in (("≥", check.at_least), ("≤", check.at_most)) if v is not None]
    good = good and (check.at_least is None or ours >= check.at_least)
    good = good and (check.at_most is None or ours <= check.at_most)
    if check.published is None:
        return good, {"published": np.nan, "difference": "", "tolerance": " and ".join(bounds), "allowed": np.nan}
    published = check.published
    allowed = max(check.tolerance * abs(published), check.absolute)
    unit = "" if check.unit == "1" else f" {check.unit}"
    rounding = check.absolute >= check.tolerance * abs(published)
    limit = f"± {check.absolute:.3g}{unit}" if rounding else f"± {100 * check.tolerance:.3g} %"
    difference = f"{ours / published - 1:+.2%}" if published else f"{ours - published:+.3g}{unit}"
    good = good and abs(ours - published) <= allowed * (1 + 1e-9)
    return good, {"published": published, "difference": difference, "tolerance": " and ".join([limit, *bounds]),
                  "allowed": allowed}  # fmt: skip


def chosen(table: SimulationTable, quantity: str, at: Point, reference: Point | None = None) -> pd.DataFrame:
    """The rows of a point with their ``value``: the quantity, or that of the reference over it.

    Raises:
        SpecError: no such column, no row there, or a row without its reference.
    """
    rows = table.rows
    if quantity not in rows or rows[quantity].dtype.kind not in "fi":
        raise SpecError([_unknown("quantity", quantity, rows)])
    picked = _at(table, at).assign(value=lambda frame: frame[quantity])
    if reference is None:
        return picked
    keys = [name for name in rows if table.is_key(name)]
    same = [name for name in keys if name not in reference and not (name in ("x", "series") and "system" in reference)]
    others = _at(table, {**{k: v for k, v in at.items() if k in same}, **reference})[[*same, quantity]]
    if others.duplicated(same).any():
        raise SpecError([Fault("reference", str(reference)[:60], "leaves several rows for one")])
    joined = picked.merge(others.rename(columns={quantity: "reference"}), on=same, how="left")
    if joined["reference"].isna().any():
        raise SpecError([Fault("reference", str(reference)[:60], "some rows have none")])
    return joined.assign(value=joined["reference"] / joined["value"])


def _at(table: SimulationTable, at: Point) -> pd.DataFrame:
    """The rows whose columns have these values (or one of a list of them)."""
    rows = table.rows
    for name, wanted in at.items():
        if not table.is_key(name) or name not in rows:
            raise SpecError([_unknown("at", name, rows[[c for c in rows if table.is_key(c)]])])
        column = rows[name]
        values = [_value(table, name, v) for v in (wanted if isinstance(wanted, list | tuple) else [wanted])]
        match = column.isin(values) if column.dtype == object or column.dtype.kind not in "fi" else np.isclose(
            column.to_numpy(float)[:, None], np.asarray(values, float), rtol=1e-9, atol=0).any(axis=1)  # fmt: skip
        if not match.any():
            known = ", ".join(dict.fromkeys(f"{v:g}" if isinstance(v, float) else str(v) for v in column))
            raise SpecError([Fault(f"at.{name}", repr(wanted)[:60], f"must be one of {known}"[:300])])
        rows = rows[match]
    return rows


def _value(table: SimulationTable, name: str, value: Any) -> Any:
    if table.rows[name].dtype.kind not in "fi":
        return str(value)
    try:
        return parse(value, table.unit(name))
    except UnitError as error:
        raise SpecError([Fault(f"at.{name}", repr(value)[:40], str(error))]) from None


def _unknown(field: str, name: str, rows: pd.DataFrame) -> Fault:
    near = difflib.get_close_matches(name, map(str, rows.columns), n=1)
    rule = f"is no column; did you mean {near[0]!r}?" if near else f"must be one of {', '.join(map(str, rows.columns))}"
    return Fault(field, repr(name)[:60], rule[:300])


def report_lines(blocks: Sequence[Any], found: Mapping[str, SimulationTable], cell: Any) -> list[str]:
    """The part of ``report.md`` about simulations, collectives and tables of domains."""
    if not blocks:
        return []
    heading = "Tables" if all(hasattr(b, "maker") for b in blocks) else "Simulations and collectives"
    lines = [f"## {heading}", "", "| block | what | of | rows | table |", "|---|---|---|---|---|"]
    for block in blocks:
        files = f"[CSV]({block.id}.csv), [Parquet]({block.id}.parquet)"
        count = f"{len(found[block.id].rows):,}"
        of = block.maker if hasattr(block, "maker") else f"{len(block.systems)} systems"
        lines.append(f"| {block.id} | {cell(block.title)} | {of} | {count} | {files} |")
    return [*lines, ""]
