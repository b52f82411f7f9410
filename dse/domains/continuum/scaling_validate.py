"""Forecasts held against runs: ``dse validate scaling FILE`` for files with the columns of a scaling table.

What is fitted are the shipped runs. A run of the file that is one of them is predicted without any run at its size
on its machine; others are predicted as they are. Three common curves are held against the same runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dse.domains.continuum import scaling_tables as tables
from dse.domains.continuum.scaling import COVERAGE, ScalingModel, fit_scaling
from dse.domains.continuum.scaling_calibrate import shipped_errors, widening

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Size = tuple[str, float, float]  # machine, elements, nodes
SIZE = ["machine", "elements", "nodes"]
TIMERS = ("atm", "dycore", "dirk", "caar", "physics")
SAME = 1e-4  # relative: times closer than this are of the same run
# Curves that people draw through strong scaling, fitted to each machine's runs alone.
BASELINES: dict[str, Callable[[Floats], Floats]] = {
    "ideal": lambda n: np.stack([1 / n], axis=1),
    "amdahl": lambda n: np.stack([1 / n, np.ones_like(n)], axis=1),
    "surface": lambda n: np.stack([1 / n, 1 / np.sqrt(n), np.ones_like(n)], axis=1),
}


@dataclass(frozen=True)
class Agreement:
    """Attributes:
    table: a row a run: family, machine, algorithm, variant, nodes, measured, rate, low, high (simulated days per day),
        ape (of the rate), inside (the interval), beyond (sizes seen), reason (none predicted), and ape_NAME of each
        baseline and timer.
    """

    table: pd.DataFrame

    def summary(self) -> dict[str, Any]:
        """median_ape, coverage90, counts, what was not predicted and why, the same by family and machine."""
        table = self.table
        parts = {f"{family} {name}": _score(some) for (family, name), some in table.groupby(["family", "machine"])}
        missing = table.loc[table["reason"] != "", "reason"].value_counts()
        return {**_score(table), "not_predicted": {str(k): int(v) for k, v in missing.items()}, "parts": parts}

    def __str__(self) -> str:
        lines = [f"{'':<58}{'runs':>6}{'predicted':>11}{'median':>9}{'signed':>9}{'p95':>8}{'in 90 %':>9}"]
        summary = self.summary()
        for name, one in {"all": summary, **summary["parts"]}.items():
            lines.append(
                f"{name[:57]:<58}{one['n']:>6}{one['predicted']:>11}{_percent(one['median_ape']):>9}"
                f"{_percent(one['median_signed']):>9}{_percent(one['p95_ape']):>8}{_percent(one['coverage90']):>9}"
            )
        others = {name: value for name, value in summary["baselines"].items() if value is not None}
        if others:
            shown = ", ".join(f"{name} {_percent(value)}" for name, value in others.items())
            lines.append(f"median error of common curves on the same runs: {shown}")
        if summary["timers"]:
            shown = ", ".join(f"{name} {_percent(value)}" for name, value in summary["timers"].items())
            lines.append(f"median error of timers: {shown}")
        lines.extend(f"not predicted: {count} runs, {reason}" for reason, count in summary["not_predicted"].items())
        return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _score(table: pd.DataFrame) -> dict[str, Any]:
    good = table[table["reason"] == ""]
    signed = good["rate"] / good["measured"] - 1
    return {
        "n": len(table),
        "predicted": len(good),
        "median_ape": _median(good["ape"]),
        "median_signed": _median(signed),
        "p95_ape": None if not len(good) else float(good["ape"].quantile(0.95)),
        "coverage90": None if not len(good) else float(good["inside"].mean()),
        "baselines": {name: _median(good[f"ape_{name}"]) for name in BASELINES},
        "timers": {name: _median(good[f"ape_{name}"]) for name in TIMERS if f"ape_{name}" in good},
    }


def _median(values: pd.Series[float]) -> float | None:
    values = values.dropna()
    return float(values.median()) if len(values) else None


def validate(file: Path | str | None = None) -> Agreement:
    """Predict each run of a table.

    Args:
        file: CSV or Parquet with the columns of the SCREAM, HOMME or E3SM table; None: the shipped SCREAM runs.

    Raises:
        SpecError: the file cannot be read, or its columns are those of no such table.
    """
    import pandas as pd

    if file is None:
        found = {"scream": tables.shipped("scream")}
    else:
        found = tables.normalised(tables.read(file), where=str(file)[-80:])
    return Agreement(pd.concat([_family(name, runs) for name, runs in found.items() if len(runs)], ignore_index=True))


def _family(family: str, runs: pd.DataFrame) -> pd.DataFrame:
    """A row a run. Runs that the model knows are predicted size by size, without that size."""
    import pandas as pd

    base, left_out = shipped_errors(family)
    known = _known(runs, base.runs)
    parts = []
    if not known.all():
        parts.append(_predict(replace(base, widening=widening(left_out)), runs[~known]))
    for size, some in runs[known].groupby(SIZE):
        rest = base.runs[~_at(base.runs, size)]
        model = replace(fit_scaling(family, rest), widening=widening(left_out, but=size))
        parts.append(_predict(model, some))
    return pd.concat(parts).sort_values("row", kind="stable").assign(family=family)


def _at(runs: pd.DataFrame, size: Size) -> NDArray[np.bool_]:
    return (runs[SIZE] == list(size)).all(axis=1).to_numpy()


def _known(runs: pd.DataFrame, fitted: pd.DataFrame) -> NDArray[np.bool_]:
    """Which runs are among those that the model is fitted to, shape [run]."""
    out = np.zeros(len(runs), bool)
    for at, (name, algorithm, elements, nodes, seconds) in enumerate(
        runs[["machine", "algorithm", "elements", "nodes", "seconds"]].itertuples(index=False)
    ):
        same = fitted[_at(fitted, (name, elements, nodes)) & (fitted["algorithm"] == algorithm).to_numpy()]
        out[at] = bool((np.abs(same["seconds"] / seconds - 1) < SAME).any())
    return out


def _predict(model: ScalingModel, runs: pd.DataFrame) -> pd.DataFrame:
    made = model.predict(runs, COVERAGE)
    days = runs["days"].to_numpy(float) * tables.DAY
    seconds = runs["seconds"].to_numpy(float)
    inside = (made["low"].to_numpy() <= seconds) & (seconds <= made["high"].to_numpy())
    out = runs[["row", "machine", "algorithm", "variant", "elements", "nodes"]].reset_index(drop=True).assign(
        measured=days / seconds, rate=days / made["median"].to_numpy(), low=days / made["high"].to_numpy(),
        high=days / made["low"].to_numpy(), inside=inside, beyond=made["beyond"], reason=made["reason"],
        ape=np.abs(seconds / made["median"].to_numpy() - 1),
    )  # fmt: skip
    for name, basis in BASELINES.items():
        out[f"ape_{name}"] = np.abs(seconds / _baseline(basis, model.runs, runs) - 1)
    for timer in TIMERS:
        if timer in runs and timer in model.runs and (out["reason"] == "").any():
            part = fit_scaling(model.family, model.runs, response=timer)
            out[f"ape_{timer}"] = np.abs(runs[timer].to_numpy(float) / part.predict(runs)["median"].to_numpy() - 1)
    return out


def _baseline(basis: Callable[[Floats], Floats], fitted: pd.DataFrame, runs: pd.DataFrame) -> Floats:
    """Seconds by a curve with positive factors through the runs of the same machine, algorithm and problem.

    Least squares of relative errors; NaN with fewer sizes than the curve has factors.
    """
    from scipy.optimize import nnls

    out = np.full(len(runs), np.nan)
    curve = ["machine", "algorithm", "elements"]
    groups = runs.reset_index(drop=True).groupby(curve).indices
    for key, at in groups.items():
        same = fitted[(fitted[curve] == list(key)).all(axis=1)]
        counts, seconds = same["nodes"].to_numpy(float), same["seconds"].to_numpy(float)
        terms = basis(counts)
        if len(np.unique(counts)) >= max(terms.shape[1], 1) and len(counts):
            factors = nnls(terms / seconds[:, None], np.ones(len(same)))[0]
            out[at] = basis(runs["nodes"].to_numpy(float)[at]) @ factors
    return out
