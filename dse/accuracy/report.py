"""Error statistics of predictions, and their tables as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

STATISTICS = ("median_ape", "mean_ape", "p90_ape", "bias")


def error_statistics(errors: Iterable[float], weights: np.ndarray | None = None) -> dict[str, float]:
    """Median, mean and 90th percentile of absolute relative errors, and the median relative error (``bias``).

    Args:
        errors: predicted / measured − 1 of each row; those that are not finite are left out.
        weights: of each row; by default all alike.
    """
    values = np.asarray(list(errors), dtype=float)
    kept = np.isfinite(values)
    if not kept.any():
        return dict.fromkeys(STATISTICS, float("nan"))
    w = np.ones(int(kept.sum())) if weights is None else np.asarray(weights, float)[kept]
    size = np.abs(values[kept])
    return {
        "median_ape": _quantile(size, w, 0.5),
        "mean_ape": float(np.average(size, weights=w)),
        "p90_ape": _quantile(size, w, 0.9),
        "bias": _quantile(values[kept], w, 0.5),
    }


def _quantile(values: np.ndarray, weights: np.ndarray, level: float) -> float:
    if np.all(weights == weights[0]):
        return float(np.quantile(values, level))
    order = np.argsort(values)
    middle = np.cumsum(weights[order]) - 0.5 * weights[order]
    return float(np.interp(level, middle / weights.sum(), values[order]))


def grouped_errors(rows: pd.DataFrame, by: str, error: str = "error") -> dict[str, dict[str, float]]:
    """Number of rows and error statistics for each value of a column."""
    return by_group(rows, by, lambda part: error_statistics(part[error]))


def by_group(
    rows: pd.DataFrame, column: str, statistics: Callable[[pd.DataFrame], Mapping[str, float]]
) -> dict[str, dict[str, Any]]:
    """Statistics of each value of a column, with the number of rows."""
    return {str(name): {"n": len(part), **statistics(part)} for name, part in rows.groupby(column, sort=True)}


def error_lines(title: str, table: Mapping[str, Mapping[str, Any]], width: int = 34) -> list[str]:
    """A table of error statistics as lines of text, one a group, below a heading; with coverage where it is known."""
    covered = any("coverage90" in e for e in table.values())
    head = "".join(f"{name:>9}" for name in ("median", "mean", "P90", "bias")) + (f"{'in 90 %':>9}" if covered else "")
    lines = [f"{title:<{width}}{'rows':>6}{head}"]
    for name, e in table.items():
        if e["median_ape"] != e["median_ape"]:
            lines.append(f"{name:<{width}}{e['n']:>6}{'-':>9}")
            continue
        numbers = "".join(f"{e[key]:>9.1%}" for key in ("median_ape", "mean_ape", "p90_ape"))
        share = e.get("coverage90", float("nan"))
        inside = f"{share:>9.1%}" if share == share else ""
        lines.append(f"{name:<{width}}{e['n']:>6}{numbers}{e['bias']:>+9.1%}{inside}")
    return lines


def refusal_lines(refused: Mapping[str, int]) -> list[str]:
    """Reasons of refused rows with their counts as lines of text; nothing where no row was refused."""
    return ["", "not predicted", *(f"{count:>6}  {why}" for why, count in refused.items())] if refused else []


def with_refusals(table: pd.DataFrame, refused: Mapping[str, str]) -> pd.DataFrame:
    """Predicted rows, followed by those that were refused with their ``reason``."""
    import pandas as pd

    rest = pd.DataFrame([{"id": key, "reason": f"refused: {why}"} for key, why in refused.items()])
    return pd.concat([table, rest], ignore_index=True) if len(rest) else table.reset_index(drop=True)


def scale_labels(devices: np.ndarray, edges: Sequence[int]) -> np.ndarray:
    """Class of each number of devices: "up to" the first edge that holds it, or "over" the last."""
    labels = np.array([f"up to {edge}" for edge in edges] + [f"over {edges[-1]}"])
    return labels[np.searchsorted(edges, devices)]


@dataclass(frozen=True)
class GroupedReport:
    """Predicted rows with their errors, grouped in several ways, and the rows that were refused with the reason.

    Attributes:
        rows: one a prediction, with ``id``, ``measured [s]``, ``predicted [s]``, ``error``, ``reason`` (what may
            explain a large error) and a column for each grouping.
        refused: the reason for each row that was not predicted.
        what: the quantity predicted.
        groups: the columns to group by.
    """

    rows: pd.DataFrame
    refused: dict[str, str]
    what: ClassVar[str] = ""
    groups: ClassVar[tuple[str, ...]] = ()

    def summary(self) -> dict[str, Any]:
        """Counts, errors overall (see :func:`error_statistics`) and by each grouping, refusals and the worst ten."""
        return {
            "n": len(self.rows) + len(self.refused),
            "n_predicted": len(self.rows),
            **error_statistics(self.rows["error"]),
            **{f"by_{column}": grouped_errors(self.rows, column) for column in self.groups},
            "refused": dict(Counter(self.refused.values())),
            "worst": self.worst().to_dict("records"),
        }

    def worst(self, count: int = 10) -> pd.DataFrame:
        """The rows with the largest errors as ratios, either way, and what may explain them."""
        ratio = np.abs(np.log1p(self.rows["error"].astype(float)))
        return self.rows.loc[ratio.sort_values(ascending=False, kind="stable").index[:count]]

    def table(self) -> pd.DataFrame:
        """Every row given: its prediction, or why there is none."""
        return with_refusals(self.rows, self.refused)

    def __str__(self) -> str:
        found = self.summary()
        lines = [f"{found['n_predicted']} of {found['n']} rows predicted; error of {self.what}"]
        for column in self.groups:
            lines += ["", *error_lines(column, found[f"by_{column}"])]
        lines += error_lines("", {"all rows": {"n": found["n_predicted"], **error_statistics(self.rows["error"])}})[1:]
        lines += ["", "worst"]
        lines += [f"{row['id']:>10}{row['error']:>+9.0%}  {row['reason']}" for row in found["worst"]]
        lines += refusal_lines(found["refused"])
        return "\n".join(lines)
