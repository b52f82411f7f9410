"""Verdicts: each expected value and each trend of a study, held against what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.study.measured import Average
from dse.study.quantities import ratio
from dse.study.spec import Expected, Reference, Study, Trend
from dse.units import UnitError, parse

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from dse.explore.result import Result

COLUMNS = (
    "group",
    "check",
    "label",
    "published",
    "ours",
    "unit",
    "difference",
    "tolerance",
    "verdict",
    "allowed",
    "source",
)
PASS, SHORT = "pass", "short"
KNOWN = "known shortfall"  # falls short too, by no more than the study foresees, and it says why


def verdict_table(study: Study, expected: Sequence[Expected], results: Mapping[str, Result]) -> pd.DataFrame:
    """One row a check, in the order of the study.

    Raises:
        SpecError: with every check that cannot be evaluated.
    """
    import pandas as pd

    ignore = {run.id: run.ignore for run in study.runs}
    rows: list[dict[str, Any]] = []
    faults: list[Fault] = []
    for i, check in enumerate((*expected, *study.trends)):
        try:
            judge = _value_row if isinstance(check, Expected) else _trend_row
            rows.append(judge(check, results, ignore))  # type: ignore[operator]
        except SpecError as error:
            place = f"expected[{i}]" if isinstance(check, Expected) else f"trends[{i - len(expected)}]"
            faults += [Fault(f"{place} {check.check!r}: {f.path}"[:200], f.value, f.rule) for f in error.faults]
    if faults:
        raise SpecError(faults)
    rows += [_average_row(average, rows) for average in study.averages]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _average_row(average: Average, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean error of expected values.

    Raises:
        SpecError: there are none.
    """
    errors = [
        abs(row["ours"] / row["published"] - 1.0)
        for row in rows
        if row["published"]
        and np.isfinite(row["published"])
        and (not average.runs or row["group"] in average.runs)
        and average.containing in row["check"]
    ]
    if not errors:
        raise SpecError([Fault("averages", average.check[:60], "no expected value is among its runs")])
    mean = float(np.mean(errors))
    return {
        "group": "averages",
        "check": average.check,
        "label": average.label,
        "published": np.nan,
        "ours": 100 * mean,
        "unit": "%",
        "difference": "",
        "tolerance": f"≤ {100 * average.at_most:g} %",
        "verdict": PASS if mean <= average.at_most else SHORT,
        "allowed": np.nan,
        "source": average.source,
    }


def _factor(unit: str, si: str) -> float:
    """How many SI units one ``unit`` is."""
    try:
        return parse(f"1 {unit}" if unit not in ("", "1") else 1.0, si)
    except UnitError as error:
        raise SpecError([Fault("unit", repr(unit)[:40], str(error))]) from None


def _value_row(check: Expected, results: Mapping[str, Result], ignore: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    reference = None
    if check.reference_run is not None or check.reference_at:
        reference = Reference(run=check.reference_run, at=check.reference_at)
    array = ratio(results, check.run, check.quantity, check.at, reference, ignore)
    if array.size != 1:
        raise SpecError([Fault("at", "", f"leaves the axes {', '.join(map(str, array.dims))} open")])
    ours = check.scale * float(array.values.ravel()[0]) / _factor(check.unit, str(array.attrs["units"]))
    allowed = max(check.tolerance * abs(check.published), check.absolute)
    difference = ours - check.published
    relative = f"{difference / check.published:+.2%}" if check.published else f"{difference:+.3g} {_shown(check.unit)}"
    rounding = check.absolute > check.tolerance * abs(check.published)
    limit = f"± {check.absolute:.3g} {_shown(check.unit)}" if rounding else f"± {check.tolerance * 100:.3g} %"
    good = bool(np.isfinite(ours)) and abs(difference) <= allowed * (1 + 1e-9)
    return {
        "group": check.run,
        "check": check.check,
        "label": check.label,
        "published": check.published,
        "ours": ours,
        "unit": check.unit,
        "difference": relative.strip(),
        "tolerance": limit.strip(),
        "verdict": PASS if good else SHORT,
        "allowed": allowed,
        "source": check.source,
    }


def _shown(unit: str) -> str:
    return "" if unit in ("", "1") else unit


def _trend_row(trend: Trend, results: Mapping[str, Result], ignore: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    array = ratio(results, trend.run, trend.quantity, trend.at, trend.reference, ignore, feasible=True)
    if trend.measure == "value" and array.size != 1:
        raise SpecError([Fault("at", "", f"leaves the axes {', '.join(map(str, array.dims))} open")])
    ours = measure(array, trend.measure, trend.along)
    if trend.measure not in ("argmax", "argmin", "rising", "falling", "first_gain", "last_gain"):
        ours /= _factor(trend.unit, str(array.attrs["units"]))
    ordered = trend.measure in ("rising", "falling")
    low = 1.0 if ordered else trend.at_least
    bounds = [f"{sign} {value:g}" for sign, value in (("≥", low), ("≤", trend.at_most)) if value is not None]
    good = np.isfinite(ours) and (low is None or ours >= low) and (trend.at_most is None or ours <= trend.at_most)
    return {
        "group": trend.run,
        "check": trend.check,
        "label": trend.label,
        "published": np.nan,
        "ours": ours,
        "unit": trend.unit,
        "difference": "",
        "tolerance": trend.measure if ordered else " and ".join(bounds),
        "verdict": PASS if good else SHORT,
        "allowed": np.nan,
        "source": trend.source,
    }


def measure(array: xr.DataArray, name: str, along: str | None) -> float:
    """One number of an array: see :class:`dse.study.spec.Trend`. NaN marks designs that do not count."""
    values = array.values.astype(float)
    if name in ("max", "min", "value"):
        if not np.isfinite(values).any():
            return float("nan")
        return float(np.nanmax(values) if name == "max" else np.nanmin(values))
    if along not in array.dims:
        raise SpecError([Fault("along", str(along)[:60], f"must be one of {', '.join(map(str, array.dims))}")])
    lines = np.moveaxis(values, array.dims.index(along), -1).reshape(-1, array.sizes[along])
    if name in ("argmax", "argmin"):
        if len(lines) != 1:
            raise SpecError([Fault("at", "", f"{name} needs one value of every axis but {along}")])
        if not np.isfinite(lines).any():
            return float("nan")
        place = np.nanargmax(lines[0]) if name == "argmax" else np.nanargmin(lines[0])
        return float(array.coords[along].values[place])
    lines = [line[np.isfinite(line)] for line in lines]
    if name in ("rising", "falling"):
        sign = 1.0 if name == "rising" else -1.0
        return float(all((sign * np.diff(line) >= -1e-9 * np.abs(line[1:])).all() for line in lines))
    if any(len(line) < 2 for line in lines):
        return float("nan")
    pairs = [line[:2] if name == "first_gain" else line[-2:] for line in lines]
    return float(max(after / before if before else np.inf for before, after in pairs))
