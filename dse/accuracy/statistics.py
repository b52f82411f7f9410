"""Statistics of relative errors, and their tables as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def error_statistics(errors: Any, weights: np.ndarray | None = None) -> dict[str, float]:
    """Median, mean and 90th percentile of the absolute relative error, and the median error (``bias``)."""
    values = np.asarray(errors, float)
    kept = np.isfinite(values)
    values = values[kept]
    if not len(values):
        return dict.fromkeys(("median_ape", "mean_ape", "p90_ape", "bias"), float("nan"))
    w = np.ones(len(values)) if weights is None else weights[kept]
    size = np.abs(values)
    return {
        "median_ape": _quantile(size, w, 0.5),
        "mean_ape": float(np.average(size, weights=w)),
        "p90_ape": _quantile(size, w, 0.9),
        "bias": _quantile(values, w, 0.5),
    }


def _quantile(values: np.ndarray, weights: np.ndarray, level: float) -> float:
    if np.all(weights == weights[0]):
        return float(np.quantile(values, level))
    order = np.argsort(values)
    middle = np.cumsum(weights[order]) - 0.5 * weights[order]
    return float(np.interp(level, middle / weights.sum(), values[order]))


def by_group(
    rows: pd.DataFrame, column: str, statistics: Callable[[pd.DataFrame], Mapping[str, float]]
) -> dict[str, dict[str, Any]]:
    """Statistics of each value of a column, with the number of rows."""
    return {str(name): {"n": len(part), **statistics(part)} for name, part in rows.groupby(column, sort=True)}


def text_table(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of a table: a row a part, with rows, median, mean, P90, bias and, where known, coverage."""
    lines = [f"{'':<34}{'rows':>7}{'median':>8}{'mean':>8}{'P90':>8}{'bias':>8}{'in 90 %':>9}"]
    for name, part in parts.items():
        numbers = "".join(f"{part[key]:>8.1%}" for key in ("median_ape", "mean_ape", "p90_ape"))
        coverage = part.get("coverage90", float("nan"))
        shown = f"{coverage:>9.1%}" if coverage == coverage else ""
        lines.append(f"{name:<34}{part['n']:>7}{numbers}{part['bias']:>+8.1%}{shown}")
    return lines
