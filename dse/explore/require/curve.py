"""Iso-performance: the least of one resource for each value of another, what one is worth in the other, and money."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, InfeasibleDesign, SpecError
from dse.explore.require.answer import SUFFIX, header, strategy_text, without_interval
from dse.explore.require.prices import total, unit_prices
from dse.explore.require.problem import Problem
from dse.explore.require.scan import Crossing, edge, refine, rising
from dse.explore.require.single import bound_text, no_design, reached_text
from dse.units import engineering

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ZOOM = (9, 9)  # values of the second field between the neighbours of the cheapest, round by round


@dataclass
class IsoCurve:
    """The least (or most) of the first field for each value of the second that meets the target.

    Attributes:
        problem: targets, fields and designs behind the curve.
        least: the least of the first field; else the most.
        across: values of the second field, (n,), SI.
        found: of the first, (cases, n); NaN where the target is not met within the range.
        at_end: where the first field meets the target to the very end of its range, (n,).
        elasticity: d ln(first) / d ln(second) along the curve, (n,).
        strategies: what was chosen at each point (empty: the strategy was given, or nothing meets the target).
        cost: US dollars for all devices at each point, (n,); None without prices.
        cheapest: the two values, ``cost`` [USD] and the ``design`` of least cost; None without prices.
        current_score: relative margin of the design as it is; None where a field has no value.
    """

    problem: Problem
    least: bool
    across: np.ndarray
    found: np.ndarray
    at_end: np.ndarray
    elasticity: np.ndarray
    strategies: list[dict[str, Any]]
    cost: np.ndarray | None
    cheapest: dict[str, Any] | None
    current_score: float | None

    @property
    def rate(self) -> np.ndarray:
        """Marginal rate of substitution: how much of the first field one more of the second replaces, in SI units."""
        return -self.elasticity * self.found[0] / self.across

    def to_dataframe(self) -> pd.DataFrame:
        """A row a value of the second field: what is needed of the first in each case, rate, cost and strategy."""
        import pandas as pd

        first, second = self.problem.fields
        columns: dict[str, Any] = {header(second.name, second.unit): second.typed(self.across)}
        for case, values in zip(self.problem.cases, self.found, strict=True):
            columns[header(first.name + SUFFIX[case.name], first.unit)] = values
        per = _ratio_unit(first.unit, second.unit)
        columns[header("marginal rate of substitution", per)] = self.rate
        columns["elasticity"] = self.elasticity
        columns["at end of range"] = self.at_end
        if self.cost is not None:
            columns["cost [USD]"] = self.cost
        columns["strategy"] = [strategy_text(strategy) for strategy in self.strategies]
        return pd.DataFrame(columns)

    def summary(self) -> dict[str, Any]:
        """Plain data, as the command line prints it."""
        cheapest = self.cheapest and {k: v for k, v in self.cheapest.items() if k != "design"}
        first, second = self.problem.fields
        return {
            "target": [c.text for c in self.problem.conditions],
            "vary": [first.path, second.path],
            "units": [first.unit, second.unit],
            "direction": "least" if self.least else "most",
            "level": self.problem.level,
            "probability": self.problem.probability,
            "curve": self.to_dataframe().replace({np.nan: None}).to_dict("records"),
            "current": [first.current, second.current],
            "current_margin": self.current_score,
            "cheapest": cheapest,
            "evaluated": self.problem.evaluated,
            "without_interval": without_interval(self.problem),
        }

    def export(self, path: str | Path) -> Path:
        """Write the curve: .csv, .parquet, .xlsx, .tex or .md, with a manifest beside it."""
        from dse.study.export import export
        from dse.study.provenance import provenance

        origin = provenance(self.problem.specs, (), self.problem.replace)
        return export(self.to_dataframe(), path, provenance=dict(origin))

    def figure(self, *, title: str = "", dark: bool = False) -> go.Figure:
        """The curve with the band of its interval, the design as it is, and the region that misses the target."""
        from dse.view.require import iso_curve

        return iso_curve(self, title=title, dark=dark)

    def rows(self) -> list[tuple[str, str]]:
        """(title, text) of what is worth knowing."""
        first, second = self.problem.fields
        good = np.flatnonzero(np.isfinite(self.found[0]))
        shown = dict.fromkeys((good[0], good[len(good) // 2], good[-1]))
        word = "least" if self.least else "most"
        rows = [
            ("target", " and ".join(c.text for c in self.problem.conditions)),
            ("curve", f"{word} {first.path} for {len(good)} of {len(self.across)} values of {second.path}"),
            *((f"at {second.shown(self.across[i])}", self._point(i)) for i in shown),
        ]
        if first.current is not None and second.current is not None and self.current_score is not None:
            verdict = "meets it by" if self.current_score >= 0 else "misses it by"
            gap = f"{verdict} {abs(self.current_score):.1%}" if np.isfinite(self.current_score) else "is not feasible"
            rows.append(("now", f"{first.shown(first.current)} with {second.shown(second.current)} {gap}"))
        if self.cheapest is not None:
            pair = f"{first.shown(self.cheapest['first'])} with {second.shown(self.cheapest['second'])}"
            rows.append(("cheapest", f"{pair}: {engineering(self.cheapest['cost'], 'USD')} for all devices"))
        missing = without_interval(self.problem)
        if missing:
            rows.append(("note", f"{', '.join(missing)}: no interval is known, the prediction is taken"))
        return [*rows, ("searched", f"{self.problem.evaluated:,} designs")]

    def _point(self, index: int) -> str:
        first, second = self.problem.fields
        low, high = (first.shown(v) if np.isfinite(v) else "not met" for v in self.found[1:3, index])
        text = f"{first.shown(self.found[0, index])} ({self.problem.level:.0%}: {low} to {high})"
        if np.isfinite(self.elasticity[index]):
            change = 0.0 - 10.0 * self.elasticity[index]
            text += f"; 10 % more {second.name} replaces {change:.1f} % of it"
        return text

    def __repr__(self) -> str:
        rows = self.rows()
        width = max(len(title) for title, _ in rows)
        return "\n".join(f"{title:<{width}}  {text}" for title, text in rows)

    def _repr_html_(self) -> str:
        body = "".join(f"<tr><td>{escape(t)}</td><td><b>{escape(v)}</b></td></tr>" for t, v in self.rows())
        return f"<table>{body}</table>"


def _ratio_unit(over: str, under: str) -> str:
    """Unit of a quotient; empty for plain numbers."""
    if under == "1":
        return "" if over == "1" else over
    return f"{over}/({under})" if over != under else ""


def trace(problem: Problem, *, points: int, tolerance: float, direction: str | None, prices: Any) -> IsoCurve:
    """Scan both fields together, then make all crossings of the first exact at once.

    Raises:
        SpecError: a range that starts at 0, or prices of another form.
        InfeasibleDesign: no pair of values meets the target.
    """
    first, second = problem.fields
    for item in problem.fields:
        if not item.logarithmic:
            raise SpecError([Fault(f"low of {item.path}", f"{item.low:g}", "must be above 0 for a curve")])
    dollars = unit_prices(prices, problem.fields)
    across, values = second.scan(points), first.scan(points)
    scores = _grid(problem, values, across)
    if not np.any(scores[0] >= 0):
        raise InfeasibleDesign(_unreached(problem, values, across, scores[0]))
    rows = [row for row in scores[0].T if np.isfinite(row).sum() > 1]
    least = direction == "least" if direction else 2 * sum(map(rising, rows)) >= len(rows)
    found, at_end = _edges(problem, values, across, scores, tolerance, least=least)
    met = np.flatnonzero(np.isfinite(found[0]))
    strategies: list[dict[str, Any]] = [{} for _ in across]
    for place, chosen in zip(met, problem.strategies([found[0, met], across[met]]), strict=True):
        strategies[place] = chosen
    now = [item.current for item in problem.fields]
    current = None if None in now else float(problem.scores([[v] for v in now])[0, 0])
    curve = IsoCurve(
        problem, least, across, found, at_end, _elasticity(found[0], across, at_end), strategies, None, None, current
    )
    if dollars is not None:
        _price(curve, dollars, values, tolerance)
    return curve


def _grid(problem: Problem, values: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Scores of all pairs, (cases, first, second)."""
    pairs = np.stack([np.repeat(values, len(across)), np.tile(across, len(values))])
    return problem.scores(pairs).reshape(-1, len(values), len(across))


def _edges(
    problem: Problem, values: np.ndarray, across: np.ndarray, scores: np.ndarray, tolerance: float, *, least: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The exact values of the first field, (cases, second), and where they lie at the end of the range."""
    count = len(problem.cases)
    crossings: list[Crossing] = []
    for case in range(count):
        for column, other in enumerate(across):
            row = scores[case, :, column]
            legal = ~np.isnan(scores[0, :, column])
            crossings.append(edge(values[legal], row[legal], case, least=least, others=(float(other),)))
    refine(crossings, problem.fields[0], tolerance, problem.scores)
    found = np.array([c.met for c in crossings]).reshape(count, len(across))
    better = np.fmin if least else np.fmax
    found[0] = better(better(found[0], found[2]), found[3])
    found[1] = better(found[1], found[0])
    return found, found[0] == (values[0] if least else values[-1])


def _elasticity(found: np.ndarray, across: np.ndarray, at_end: np.ndarray) -> np.ndarray:
    """d ln(first) / d ln(second) over each unbroken stretch of the curve; NaN elsewhere and at the range's end."""
    result = np.full(len(across), np.nan)
    good = np.isfinite(found) & ~at_end
    for stretch in np.split(np.arange(len(across)), np.flatnonzero(np.diff(good.astype(int))) + 1):
        if good[stretch[0]] and len(stretch) > 1:
            result[stretch] = np.gradient(np.log(found[stretch]), np.log(across[stretch]))
    return result


def _unreached(problem: Problem, values: np.ndarray, across: np.ndarray, scores: np.ndarray) -> str:
    first, second = problem.fields
    wanted = " and ".join(c.text for c in problem.conditions)
    ranges = " with ".join(f"{f.path} from {f.shown(f.low)} to {f.shown(f.high)}" for f in problem.fields)
    asked = f"{wanted} is not met by any {ranges}"
    finite = np.where(np.isfinite(scores), scores, -np.inf)
    if not np.isfinite(finite).any():
        return f"{asked}: {no_design(problem, [f.high for f in problem.fields])}"
    i, j = np.unravel_index(int(np.argmax(finite)), finite.shape)
    design = problem.designs([[values[i]], [across[j]]])[0]
    place = f"{first.shown(values[i])} and {second.shown(across[j])}"
    return f"{asked}: nearest is {reached_text(problem, design)} at {place}; {bound_text(design)}"


def _price(curve: IsoCurve, dollars: list[float], values: np.ndarray, tolerance: float) -> None:
    """Cost along the curve, and the cheapest point, looked for ever closer between its neighbours."""
    problem, second = curve.problem, curve.problem.fields[1]
    across, found = curve.across, curve.found[0]
    curve.cost = total(problem, dollars, np.stack([found, across]))
    cost = curve.cost
    for count in ZOOM:
        place = int(np.nanargmin(cost))
        ends = across[max(place - 1, 0)], across[min(place + 1, len(across) - 1)]
        closer = second.between(*ends, count)
        if not len(closer):
            break
        scores = _grid(problem, values, closer)
        more = _edges(problem, values, closer, scores, tolerance, least=curve.least)[0][0]
        across, found = np.append(across, closer), np.append(found, more)
        order = np.argsort(across, kind="stable")
        across, found = across[order], found[order]
        cost = total(problem, dollars, np.stack([found, across]))
    place = int(np.nanargmin(cost))
    pair = [[found[place]], [across[place]]]
    curve.cheapest = {
        "first": float(found[place]),
        "second": float(across[place]),
        "cost": float(cost[place]),
        "strategy": problem.strategies(pair)[0],
        "design": problem.designs(pair)[0],
    }
