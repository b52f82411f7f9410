"""Verdicts over measured tables: each statistic against its limit, in-sample or not, and held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.accuracy.memory import figures as memory_figures
from dse.accuracy.ranking import rankings
from dse.accuracy.report import error_statistics
from dse.errors import Fault, SpecError
from dse.study.checks import KNOWN, PASS, SHORT
from dse.study.corpus import Compared, sweep_table
from dse.study.corpus import places as places_of
from dse.study.measured import COUNTS, MEMORY, RANKING, Limit

if TYPE_CHECKING:
    import pandas as pd

EXTRA = ("sample", "held_out", "cause")
ERRORS = {"mean_error": "mean_ape", "median_error": "median_ape", "p90_error": "p90_ape", "bias": "bias"}
PERCENT = 100.0


def limit_rows(compared: Mapping[str, Compared]) -> list[dict[str, Any]]:
    """One verdict a check of every measured table.

    Raises:
        SpecError: with every check that cannot be evaluated.
    """
    rows, faults = [], []
    for i, found in enumerate(compared.values()):
        for j, check in enumerate(found.block.checks):
            try:
                rows.append(_verdict(check, found))
            except SpecError as error:
                faults += [Fault(f"measured.{i}.checks.{j}.{f.path}"[:120], f.value, f.rule) for f in error.faults]
    if faults:
        raise SpecError(faults)
    return rows


def _verdict(check: Limit, found: Compared) -> dict[str, Any]:
    ours = statistic(check, found)
    if not np.isfinite(ours):
        raise SpecError([Fault("statistic", check.statistic, "there is nothing to compute it from in these rows")])
    held_out = statistic(check, found, held_out=True)
    fraction = check.statistic != "rows"
    scale, unit = (PERCENT, "%") if fraction else (1.0, "1")
    bounds = [
        f"{sign} {scale * value:g}{' %' if fraction else ''}"
        for sign, value in (("≥", check.at_least), ("≤", check.at_most))
        if value is not None
    ]
    verdict = _judged(check, ours)
    return {
        "group": found.block.id,
        "check": check.check,
        "label": check.label,
        "published": np.nan,
        "ours": scale * ours,
        "unit": unit,
        "difference": "",
        "tolerance": " and ".join(bounds),
        "verdict": verdict,
        "allowed": np.nan,
        "source": check.source,
        "sample": _sample(check, found),
        "held_out": scale * held_out,
        "cause": check.known_shortfall.cause if check.known_shortfall and verdict == KNOWN else "",
    }


def _judged(check: Limit, ours: float) -> str:
    if _within(ours, check.at_least, check.at_most):
        return PASS
    known = check.known_shortfall
    if known is None:
        return SHORT
    low = known.until if check.at_least is not None else None
    return KNOWN if _within(ours, low, known.until if low is None else None) else SHORT


def _within(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low - 1e-12) and (high is None or value <= high + 1e-12)


def _sample(check: Limit, found: Compared) -> str:
    """Whether the constants in use were fitted to the rows of a statistic."""
    if check.statistic in COUNTS:
        return ""
    if check.statistic in MEMORY:
        if found.memory is None or found.memory_held_out is None:
            return "not fitted to these rows"
        rows = found.memory
        seen = int(rows["id"].isin(set(found.memory_held_out["id"])).sum())
    else:
        rows = found.rows
        seen = int(rows["seen"].sum())
    if not seen:
        return f"not fitted to any of the {len(rows)} rows"
    return f"in-sample, fitted to all {seen} rows" if seen == len(rows) else f"in-sample, {seen} of {len(rows)} rows"


# -- statistics -----------------------------------------------------------------------------------------------


def statistic(check: Limit, found: Compared, *, held_out: bool = False) -> float:
    """One number; with ``held_out`` by constants that never saw the publication (NaN where that is not known)."""
    name = check.statistic
    if name == "predicted":
        return np.nan if held_out else 1.0 - len(found.refused) / found.given
    if name in MEMORY:
        table = found.memory_held_out if held_out else found.memory
        return np.nan if table is None else _of_memory(name, table)
    rows = found.rows
    if name == "rows":
        return np.nan if held_out else float(len(rows))
    if name in RANKING:
        return _of_sweeps(name, rows, "held_out" if held_out else "predicted")
    errors = rows["error_held_out" if held_out else "error"].to_numpy(float)
    if not np.isfinite(errors).any() or (name == "coverage90" and held_out):
        return np.nan
    if name == "coverage90":
        return float(rows["measured"].between(rows["low"], rows["high"]).mean())
    if name == "max_error":
        return float(np.nanmax(np.abs(errors)))
    return error_statistics(errors)[ERRORS[name]]


def _of_sweeps(name: str, rows: pd.DataFrame, predicted: str) -> float:
    if name == "winners":
        table = sweep_table(places_of(rows, predicted))
        return float(table["same"].mean()) if len(table) else np.nan
    renamed = rows.assign(source_key=rows["source"], predicted=rows[predicted])
    by_source = list(rankings(renamed).values())
    if not by_source:
        return np.nan
    if name == "agreement":
        return float(np.average([r.agreement for r in by_source], weights=[max(r.pairs, 1) for r in by_source]))
    if name == "worst_regret":
        return max(r.worst_regret for r in by_source)
    return float(np.average([r.regret for r in by_source], weights=[r.sweeps for r in by_source]))


def _of_memory(name: str, rows: pd.DataFrame) -> float:
    found = memory_figures(rows)
    if name == "balanced_accuracy":
        return np.nan if found[name] is None else float(found[name])
    return float(found[ERRORS[name.removeprefix("memory_")]]) if found["n_measured"] else np.nan


def by_source(found: Compared) -> list[dict[str, Any]]:
    """Errors of each publication of a table, as fractions, as used and held out."""
    table: list[dict[str, Any]] = []
    for source, rows in found.rows.groupby("source", sort=True):
        inside = float(rows["measured"].between(rows["low"], rows["high"]).mean())
        unseen = rows["error_held_out"].dropna()
        without = error_statistics(unseen) if len(unseen) else {}
        table.append(
            {
                "source": source,
                "rows": len(rows),
                "fitted to": int(rows["seen"].sum()),
                **{name: error_statistics(rows["error"])[key] for name, key in ERRORS.items()},
                "in 90 % interval": inside,
                "mean_error held out": without.get("mean_ape", np.nan),
                "median_error held out": without.get("median_ape", np.nan),
            }
        )
    return table


def tables_of(found: Compared) -> Sequence[tuple[str, pd.DataFrame]]:
    """What is written of a measured table: its rows, its sweeps, its memory."""
    import pandas as pd

    block = found.block.id
    names = {"measured": "measured [s]", "predicted": "predicted [s]", "low": "low [s]", "high": "high [s]",
             "error": "error [1]", "held_out": "held out [s]", "error_held_out": "error held out [1]",
             "seen": "fitted to", "reason": "reason"}  # fmt: skip
    first = ["id", "source", "model", "gpu", "n_gpus", "design"]
    table = found.rows[[*first, *names]].rename(columns=names)
    if found.refused:
        refused = [{"id": key, "reason": f"not predicted: {why}"} for key, why in found.refused.items()]
        table = pd.concat([table, pd.DataFrame(refused)], ignore_index=True)
    tables = [(block, table)]
    if len(found.places):
        tables.append((f"{block}-sweeps", sweep_table(found.places)))
        tables.append((f"{block}-places", found.places))
    if found.memory is not None:
        shown = [*first[:2], "model", "gpu", "n_gpus", "design", "status", "measured [GiB]", "predicted [GiB]",
                 "capacity [GiB]", "error", "fits", "probability", "largest part"]  # fmt: skip
        tables.append((f"{block}-memory", found.memory[shown]))
    return tables
