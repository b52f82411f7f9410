"""A search's result as text: how it was found, the front, and what the best design is like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dse.explore.confidence import FROM_TIME
from dse.explore.objectives import condition
from dse.units import engineering

if TYPE_CHECKING:
    from dse.explore.result import Result
    from dse.explore.search.found import SearchResult

SHOWN = 12  # rows of the front
TIGHT = 0.02  # a budget used up to this share counts as binding
DESCRIBED = ("step_time", "mfu", "goodput", "capital", "investment", "peak_power")
SAMPLED = "a sampler promises nothing: more trials or another seed may find better"


def text(found: SearchResult) -> str:
    """The whole text."""
    lines = [head(found)]
    if not len(found.front_rows):
        return f"{lines[0]}\n{found.why_none()}"
    lines += [f"the best by {' and '.join(o.text for o in found.problem.objectives)}", *_front(found)]
    return "\n".join([*lines, "", *_best(found)])


def head(found: SearchResult) -> str:
    """How much was looked at, and how."""
    by = {"bound": "branch and bound"}.get(found.method, found.method)
    how = "every one looked at" if found.exhaustive else f"hardware chosen by {by}; {found.stopped}"
    line = (
        f"{len(found.points):,} hardware designs, {found.evaluated:,} with their strategies ({how}), "
        f"{found.feasible_count:,} feasible"
    )
    missed = sum(not a.feasible for a in found.answers)
    if not found.exhaustive and found.method != "bound":
        line += f"\n{missed:,} of the hardware designs were infeasible; {SAMPLED}" if missed else f"\n{SAMPLED}"
    return line


def _front(found: SearchResult) -> list[str]:
    """Rows spread evenly over the front, both ends included."""
    rows = found.front_rows
    places = np.unique(np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).astype(int))
    lines = []
    for row in rows[places]:
        number, values, place = found.rows[row]
        pairs = zip(values or (), found.problem.objectives, strict=True)
        shown = ", ".join(engineering(v, o.unit) for v, o in pairs)
        strategy = ", ".join(f"{k}={str(v).lower()}" for k, v in found.strategy(number, place).items())
        lines.append(f"  {row:>5}  {shown}  {point_text(found, number)}  {strategy}")
    if len(rows) > len(places):
        lines.append(f"  ... and {len(rows) - len(places)} more on the front between these (.front)")
    return lines


def point_text(found: SearchResult, number: int) -> str:
    """The hardware of a design."""
    point = found.points[number]
    return ", ".join(
        f"{v.name}={engineering(point[v.name], v.unit) if isinstance(point[v.name], int | float) else point[v.name]}"
        for v in found.problem.variables
    )


def _best(found: SearchResult) -> list[str]:
    """Time with its interval, money, power, memory with the chance that it fits, and the budgets that bind."""
    best = found.best
    name = found.problem.objectives[0].text
    lines = [f"the first of them by {name}, on {float(best['devices']):,.0f} devices"]
    rows = [
        (what, _value(best, what)) for what in ("step_time", "mfu", "goodput", "capital", "investment", "peak_power")
    ]
    rows.append(("memory", _memory(best)))
    rows += [(f"budget {c.text}", _used(best, c)) for c in found.problem.constraints]
    width = max(len(title) for title, _ in rows)
    return lines + [f"  {title:<{width}}  {value}" for title, value in rows]


def _value(best: Result, name: str) -> str:
    value = float(best[name])
    shown = f"{value:.1%}" if name in ("mfu", "goodput") else engineering(value, best.unit(name))
    if name not in FROM_TIME:
        return shown
    interval = best.interval(quantity=name)
    ends = (
        f"{x:.1%}" if name == "mfu" else engineering(float(x), best.unit(name)) for x in (interval.low, interval.high)
    )
    return f"{shown} (90 %: {' to '.join(ends)})"


def _memory(best: Result) -> str:
    evaluation = best.cells[0].evaluation
    room = float(best["memory_headroom"])
    fits = float(condition("memory_headroom >= 0").probability(evaluation))
    hint = "" if fits >= 0.9 else ': ask for --budget "memory_headroom >= 0.1" to be surer'
    return f"{room:.1%} of the fullest tier free, fits with {fits:.0%}{hint}"


def _used(best: Result, limit: Any) -> str:
    value = float(best[limit.name])
    margin = value - limit.value if not limit.at_most else limit.value - value
    share = margin / max(abs(limit.value), 1e-12)
    return f"{engineering(value, limit.unit)}, {'binding' if share <= TIGHT else f'{share:.0%} to spare'}"
