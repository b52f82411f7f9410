"""Error statistics of predictions, and their tables as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

STATISTICS = ("median_ape", "mean_ape", "p90_ape", "bias")


def error_statistics(errors: Iterable[float]) -> dict[str, float]:
    """Median, mean and 90th percentile of absolute relative errors, and the median relative error (``bias``).

    Args:
        errors: predicted / measured − 1 of each row.
    """
    values = np.asarray(list(errors), dtype=float)
    if not len(values):
        return dict.fromkeys(STATISTICS, 0.0)
    size = np.abs(values)
    return {
        "median_ape": float(np.median(size)),
        "mean_ape": float(np.mean(size)),
        "p90_ape": float(np.quantile(size, 0.9)),
        "bias": float(np.median(values)),
    }


def grouped_errors(rows: pd.DataFrame, by: str, error: str = "error") -> dict[str, dict[str, float]]:
    """Number of rows and error statistics for each value of a column."""
    groups = rows.groupby(by)[error]
    return {str(name): {"n": len(errors), **error_statistics(errors)} for name, errors in groups}


def error_lines(title: str, table: dict[str, dict[str, float]], width: int = 26) -> list[str]:
    """A table of error statistics as lines of text, one a group, below a heading."""
    lines = [f"{title:<{width}}{'rows':>6}{'median':>9}{'mean':>9}{'P90':>9}{'bias':>9}"]
    for name, e in table.items():
        sizes = (e["median_ape"], e["mean_ape"], e["p90_ape"])
        lines.append(f"{name:<{width}}{e['n']:>6}" + "".join(f"{v:>9.1%}" for v in sizes) + f"{e['bias']:>+9.1%}")
    return lines


def refusal_lines(refused: dict[str, int]) -> list[str]:
    """Reasons of refused rows with their counts as lines of text; nothing where no row was refused."""
    return ["", "not predicted", *(f"{count:>6}  {why}" for why, count in refused.items())] if refused else []
