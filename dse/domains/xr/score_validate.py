"""Published-mode scores held against recorded ones: ``dse validate xrbench-scores FILE``.

A file has the columns ``pe_budget``, ``accelerator``, ``scenario`` and maybe ``seed`` (1 if not), and any of those
compared: scores by seed, scores by model (with a column ``model`` or ``task``), or frames, drops, energy and power.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.spec.catalogue import asset_root

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("pe_budget", "accelerator", "scenario")
# Column of the file: our column, and what it takes from ours to the file's unit.
SCORES = {"overall_normalised": "overall", "overall_raw": "raw", "rt_mean": "rt", "en_mean": "en", "ux_mean": "ux",
          "rt_score": "rt", "en_score": "en", "ux_score": "ux"}  # fmt: skip
COUNTS = {"models_logged": "models_logged", "models_in_scenario": "models_in_scenario", "requests_logged": "frames",
          "n_logged": "frames", "dropped": "dropped", "n_dropped": "dropped", "completed_late": "late"}  # fmt: skip
QUANTITIES = {"energy_mJ": ("energy", 1e3), "span_ms": ("span", 1e3), "mean_power_W": ("power", 1.0)}
_ROUNDED = 2e-6  # scores are recorded with six digits, in single precision
_MOST_ROWS = 10**6


@dataclass(frozen=True)
class Agreement:
    """Attributes:
    table: the file's rows, our values (columns with ``_dse``), ``error`` (largest of a score), ``drops`` (equal).
    scores, counts, quantities: which columns were compared.
    """

    table: pd.DataFrame
    scores: tuple[str, ...]
    counts: tuple[str, ...]
    quantities: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """``max_abs_error`` of scores, ``drops_exact``, and the largest error of each column compared."""
        table = self.table
        found: dict[str, Any] = {
            "n": len(table),
            "max_abs_error": float(table["error"].max()) if self.scores else None,
            "drops_exact": bool(table["drops"].all()) if self._drops_known else None,
            "drops_wrong": int((~table["drops"]).sum()),
        }
        compared = (*self.scores, *self.counts, *self.quantities)
        found["errors"] = {name: float(_apart(table, name).max()) for name in compared}
        return found

    @property
    def _drops_known(self) -> bool:
        return bool(self.counts or {"ux_mean", "ux_score"} & set(self.scores))

    def __str__(self) -> str:
        summary = self.summary()
        lines = [f"{'column':<22}{'largest error':>14}"]
        lines += [f"{name:<22}{error:>14.3g}" for name, error in summary["errors"].items()]
        worst = summary["max_abs_error"]
        lines.append(f"{summary['n']} rows; scores within {'nothing to compare' if worst is None else f'{worst:.3g}'}")
        if self._drops_known:
            lines.append(f"drops exact: {'yes' if summary['drops_exact'] else 'NO, in ' + str(summary['drops_wrong'])}")
        return "\n".join(lines)


def validate(file: Path | str | None = None) -> Agreement:
    """Run what a file names and compare; by default the shipped table of scores by seed.

    Drops are equal where all columns of counts are; in scores by seed, which hold no counts of frames, where the models
    logged and the mean share of frames not dropped (``ux_mean``) are.

    Raises:
        SpecError: the file cannot be read, lacks a column, or names what is not in XRBench.
    """
    import pandas as pd

    table = _read(
        asset_root("data") / "reference" / "xrbench" / "scores_by_seed.parquet" if file is None else Path(file)
    )
    parts = [_ours(part, name) for name, part in table.groupby("scenario", sort=False)]
    joined = pd.concat(parts).sort_index()
    scores, counts = (tuple(name for name in names if name in table) for names in (SCORES, COUNTS))
    apart = {name: _apart(joined, name) for name in (*scores, *counts)}
    drops = pd.Series(data=True, index=joined.index)
    for name in apart:
        if name in counts or SCORES[name] == "ux":
            drops &= apart[name] <= (_ROUNDED if name in scores else 0.0)
    error = pd.concat([apart[name] for name in scores], axis=1).max(axis=1) if scores else np.nan
    return Agreement(
        joined.assign(error=error, drops=drops), scores, counts, tuple(c for c in QUANTITIES if c in table)
    )


def _apart(joined: pd.DataFrame, name: str) -> pd.Series:
    """How far a column is from ours: 0 where the file is blank, infinite where we have nothing."""
    return (joined[name] - joined[f"{name}_dse"]).abs().fillna(np.inf).where(joined[name].notna(), 0.0)


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, nrows=_MOST_ROWS)
    except (OSError, ValueError) as error:
        raise SpecError([Fault("file", str(path)[-200:], f"cannot be read: {str(error).strip()[:200]}")]) from None
    faults = [Fault(name, "", "column is missing", path.name) for name in KEYS if name not in table]
    compared = [name for name in (*SCORES, *COUNTS, *QUANTITIES) if name in table]
    if not compared:
        faults.append(Fault("columns", "", f"none to compare; any of {', '.join((*SCORES, *COUNTS, *QUANTITIES))}"))
    if table.empty:
        faults.append(Fault("file", path.name, "holds no rows"))
    for name in (*compared, *(["seed"] if "seed" in table else [])):
        wrong = np.flatnonzero(
            pd.to_numeric(table[name], errors="coerce").isna() & (table[name].notna() | (name == "seed"))
        )
        faults += [Fault(name, str(table[name].iloc[at])[:40], "must be a number", f"{path.name}, line {at + 2}")
                   for at in wrong[:3]]  # fmt: skip
    if faults:
        raise SpecError(faults)
    return table.reset_index(drop=True).assign(seed=table.get("seed", 1))


def _ours(part: pd.DataFrame, scenario: str) -> pd.DataFrame:
    """Rows of one scenario with our values beside them."""
    from dse.domains.xr.models import code
    from dse.domains.xr.published import simulate
    from dse.domains.xr.scores import by_model, by_seed, scores

    system = part["pe_budget"].astype(str) + "-" + part["accelerator"].astype(str)
    sums = simulate(str(scenario), dict.fromkeys(system), seeds=np.unique(part["seed"].to_numpy(np.int64)))
    named = next((name for name in ("task", "model") if name in part), None)
    found = (by_model if named else by_seed)(sums, scores(sums))
    keys = ["system", "seed"]
    if named:
        keys, found = [*keys, "code"], found.assign(code=found["model"].map(code))
    wanted = dict(_columns(part))
    ours = found[[*keys, *{source for source, _ in wanted.values()}]].set_index(keys)
    asked = part.assign(system=system, **({"code": part[named].astype(str).map(code)} if named else {}))
    matched = ours.reindex(asked.set_index(keys).index)
    made = {f"{name}_dse": matched[source].to_numpy() * factor for name, (source, factor) in wanted.items()}
    return part.assign(**made)


def _columns(part: pd.DataFrame) -> Iterator[tuple[str, tuple[str, float]]]:
    """The file's columns that are compared, with our column and its factor."""
    for name, source in (SCORES | COUNTS).items():
        if name in part:
            yield name, (source, 1.0)
    for name, pair in QUANTITIES.items():
        if name in part:
            yield name, pair
