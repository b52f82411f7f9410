"""The answer to an inverse question: the value, how sure it is, where else the target is met, and the design."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.explore.objectives import TIME_POWER
from dse.explore.require.field import Field
from dse.explore.require.problem import MEMORY, Problem, reached

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dse.explore.result import Result

SUFFIX = {"point": "", "optimistic": " (optimistic)", "pessimistic": " (pessimistic)", "probable": " (probable)"}


def header(name: str, unit: str) -> str:
    """A column's header."""
    return f"{name} [{unit}]" if unit not in ("", "1") else name


def strategy_text(strategy: dict[str, Any]) -> str:
    """Fields of a strategy as the command line takes them."""
    return ",".join(f"{name}={str(value).lower()}" for name, value in strategy.items())


def without_interval(problem: Problem) -> list[str]:
    """Quantities of the targets whose error is not known."""
    return [c.name for c in problem.conditions if c.name not in (*TIME_POWER, *MEMORY)]


@dataclass
class Requirement:
    """How much of one resource a target needs.

    Attributes:
        problem: targets, field and designs behind the answer.
        least: the least that is needed; else the most that is allowed.
        found: the value for each case of ``problem.cases`` (SI; NaN: not met within the range).
        intervals: all ranges of values that meet the target.
        current_score: relative margin at the current value (negative: missed; None: no value now).
        values, scores: the scan behind the answer: (n,) and (cases, n), see ``Problem.scores``.
        exhaustive: every whole number in the range was tried.
        design: the design at ``value``, a :class:`dse.Result` of its own.
        strategy: what was chosen for it (empty: the strategy was given).
    """

    problem: Problem
    least: bool
    found: list[float]
    intervals: list[tuple[float, float]]
    current_score: float | None
    values: np.ndarray
    scores: np.ndarray
    exhaustive: bool
    design: Result
    strategy: dict[str, Any]

    @property
    def field(self) -> Field:
        """The resource."""
        return self.problem.fields[0]

    @property
    def value(self) -> float:
        """What the prediction needs, in SI units: the target is met there, with even odds."""
        return self.found[0]

    @property
    def optimistic(self) -> float:
        """What is needed if the prediction errs in the design's favour by the interval."""
        return self.found[1]

    @property
    def pessimistic(self) -> float | None:
        """What is needed if it errs against the design; None: not met within the range."""
        return _or_none(self.found[2])

    @property
    def probable(self) -> float | None:
        """What is needed for each condition to hold with ``probability``; None: not met within the range."""
        return _or_none(self.found[3])

    @property
    def already_met(self) -> bool:
        """Does the current value meet the target?"""
        return self.current_score is not None and self.current_score >= 0

    @property
    def at_end(self) -> bool:
        """Is the target met to the very end of the range, so that the answer may lie beyond it?"""
        ends = (self.values[0], self.field.low) if self.least else (self.values[-1], self.field.high)
        return bool(self.value == ends[0] == ends[1])

    # -- as data ------------------------------------------------------------------------------------------------

    def to_dataframe(self) -> pd.DataFrame:
        """The scan: a row a value, with what is reached (of one condition), the relative margin, and ``meets``."""
        import pandas as pd

        item, conditions = self.field, self.problem.conditions
        columns: dict[str, Any] = {header(item.name, item.unit): item.typed(self.values)}
        scores = np.where(np.isfinite(self.scores), self.scores, np.nan)
        for case, score in zip(self.problem.cases, scores, strict=True):
            if len(conditions) == 1:
                c = conditions[0]
                columns[header(c.name + SUFFIX[case.name], c.unit)] = reached(c, score)
            columns["margin" + SUFFIX[case.name]] = score
        columns["feasible"] = np.isfinite(self.scores[0])
        columns["meets"] = self.scores[0] >= 0
        return pd.DataFrame(columns)

    def summary(self) -> dict[str, Any]:
        """Plain data, as the command line prints it."""
        item = self.field
        return {
            "target": [c.text for c in self.problem.conditions],
            "vary": item.path,
            "unit": item.unit,
            "direction": "least" if self.least else "most",
            "value": self.value,
            "optimistic": self.optimistic,
            "pessimistic": self.pessimistic,
            "level": self.problem.level,
            "probable": self.probable,
            "probability": self.problem.probability,
            "current": item.current,
            "already_met": self.already_met,
            "current_margin": _or_none(self.current_score),
            "range": [item.low, item.high],
            "at_end_of_range": self.at_end,
            "met": [list(pair) for pair in self.intervals],
            "exhaustive": self.exhaustive,
            "evaluated": self.problem.evaluated,
            "strategy": self.strategy,
            "without_interval": without_interval(self.problem),
            "design": self.design.summary(),
        }

    def export(self, path: str | Path) -> Path:
        """Write the scan: .csv, .parquet, .xlsx, .tex or .md, with a manifest beside it."""
        from dse.study.export import export

        return export(self.to_dataframe(), path, provenance=dict(self.design.dataset.attrs))

    def figure(self, *, title: str = "", dark: bool = False) -> go.Figure:
        """What is reached along the resource, with the interval, the bound, the current value and the answer."""
        from dse.view.require import response

        return response(self, title=title, dark=dark)

    # -- as text ------------------------------------------------------------------------------------------------

    def rows(self) -> list[tuple[str, str]]:
        """(title, text) of what is worth knowing."""
        item = self.field
        word = "least" if self.least else "most"
        end = ", the end of the range" if self.at_end else ""
        rows = [
            ("target", " and ".join(c.text for c in self.problem.conditions)),
            (f"{word} needed" if self.least else "most allowed", f"{item.shown(self.value)} of {item.path}{end}"),
            (
                f"{self.problem.level:.0%} interval",
                f"{self._shown(self.found[1])} (optimistic) to {self._shown(self.found[2])} (pessimistic)",
            ),
            (f"for P ≥ {self.problem.probability:.0%}", self._shown(self.found[3])),
            ("now", self._now()),
            ("met", self._met()),
        ]
        if self.strategy:
            rows.append(("strategy", strategy_text(self.strategy)))
        missing = without_interval(self.problem)
        if missing:
            rows.append(("note", f"{', '.join(missing)}: no interval is known, the prediction is taken"))
        return [*rows, ("searched", self._searched())]

    def _shown(self, value: float) -> str:
        item = self.field
        limit = item.high if self.least else item.low
        if np.isnan(value):
            return f"not met {'up' if self.least else 'down'} to {item.shown(limit)}"
        return item.shown(value)

    def _now(self) -> str:
        item = self.field
        if item.current is None or self.current_score is None:
            return "left open"
        now = item.shown(item.current)
        if not self.already_met:
            short = f"misses by {-self.current_score:.1%}" if np.isfinite(self.current_score) else "is not feasible"
            return f"{now}, which {short}"
        text = f"{now}, which meets it by {self.current_score:.1%}"
        ratio = item.current / self.value if self.least else self.value / item.current if item.current else np.nan
        if np.isfinite(ratio) and ratio > 1:
            text += f" and may {'fall' if self.least else 'rise'} by a factor of {ratio:.4g}"
        return text

    def _met(self, most: int = 6) -> str:
        item = self.field
        spans = [item.shown(a) if a == b else f"{item.shown(a)} to {item.shown(b)}" for a, b in self.intervals]
        more = f", and {len(spans) - most} more" if len(spans) > most else ""
        return ("" if len(spans) == 1 else f"{len(spans)} ranges: ") + ", ".join(spans[:most]) + more

    def _searched(self) -> str:
        item, tried = self.field, len(self.values)
        what = f"a scan of {tried:,} values"
        if self.exhaustive:
            what = f"all {tried:,} legal values"
        elif item.whole is not None and item.complete:
            what = f"a scan of {tried:,} of {len(item.whole):,} values"
        ends = f"{item.shown(item.low)} to {item.shown(item.high)}"
        return f"{what} from {ends}; {self.problem.evaluated:,} designs"

    def __repr__(self) -> str:
        rows = self.rows()
        width = max(len(title) for title, _ in rows)
        return "\n".join(f"{title:<{width}}  {text}" for title, text in rows) + f"\n\n{self.design!r}"

    def _repr_html_(self) -> str:
        body = "".join(f"<tr><td>{escape(t)}</td><td><b>{escape(v)}</b></td></tr>" for t, v in self.rows())
        return f"<table>{body}</table>{self.design._repr_html_()}"


def _or_none(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
