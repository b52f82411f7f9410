"""Figures of the ModEx loop: what is believed of the options step by step, and whether the decision may change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dse.view import theme

if TYPE_CHECKING:
    import plotly.graph_objects as go

HOVER = "%{customdata}<extra></extra>"
OPTIONS = 5  # drawn at once
WIDE = 30.0  # intervals over a larger factor do not stretch the axis


def loop_figure(loop: Any, *, title: str = "", dark: bool = False) -> go.Figure:
    """Above: intervals of the options that matter most, by measurements made, those just measured filled. Below: the
    probability that the decision would change were all known, and at which it counts as stable.

    Args:
        loop: :class:`~dse.explore.modex.loop.Loop`.
    """
    several = loop.problem.decision.groups > 1
    shown = [] if several else _options(loop)
    traces = [_intervals(loop, name, place, len(shown)) for place, name in enumerate(shown)]
    traces += [*([_expected(loop, dark)] if several else []), _probability(loop, dark)]
    last, settings = loop.steps[-1], loop.settings
    floor = theme.line_at(100 * settings.stop, dark, letter="y", text="")["shapes"][0]
    shapes = [{**floor, "yref": "y2", "xref": "x domain"}]
    target = 1.0 if several else _target(loop)
    if target is not None:
        shapes.append({**floor, "y0": target, "y1": target, "yref": "y", "xref": "x domain"})
    low, high = _range(traces[:-1], target)
    about = f"{last.number} measurements; {theme.short(100 * last.probability)} % that another decision is right"
    number = {"title": {"text": "Measurements made"}, "range": [-0.5, max(last.number, 1) + 0.5], "anchor": "y2",
              "tick0": 0, "dtick": max(1, round(last.number / 12))}  # fmt: skip
    decided = f"{loop.problem.decision.groups} choices" if several else _cut(last.decision, 70)
    words = theme.heading(title, f"Decided: {decided}", about)
    upright = {"text": "Measured over expected" if several else _quantity(loop)}
    return theme.drawn(
        traces, dark=dark, height=640, shapes=shapes, legend=theme.BELOW, xaxis={**number, "zeroline": False},
        yaxis={"type": "log", "domain": [0.36, 1], "range": [np.log10(low), np.log10(high)],
               "title": upright, **theme.log_ticks([low, high])},
        yaxis2={"domain": [0, 0.26], "range": [0, 104], "ticksuffix": " %", "title": {"text": "P(change)"}},
        **{**words, "margin": {**words["margin"], "b": 110}},
    )  # fmt: skip


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _options(loop: Any) -> list[str]:
    """Names of the options to draw: the one taken and those nearest to it at the end, in the problem's order."""
    decision, belief = loop.problem.decision, loop.view.belief
    lost = belief.loss - decision.least(belief.loss)[decision.group]
    seen = {entry[0] for entry in loop.steps[-1].watched}
    near = [i for i in np.argsort(lost, kind="stable") if decision.names[i] in seen]
    return [decision.names[i] for i in sorted(near[:OPTIONS])]


def _quantity(loop: Any) -> str:
    """What the intervals are of."""
    if (loop.problem.decision.against >= 0).any():
        return "Ratio of values"
    return theme.with_unit("Value", loop.problem.unit)


def _target(loop: Any) -> float | None:
    """The target where all options have the same."""
    target = getattr(loop.problem.decision, "target", None)
    values = np.unique(target[loop.problem.decision.rows >= 0]) if target is not None else np.zeros(0)
    return float(np.exp(values[0])) if len(values) == 1 else None


def _intervals(loop: Any, name: str, place: int, count: int) -> dict[str, Any]:
    """One option's interval at every step that has it; a filled mark where its candidate was measured just before."""
    decision = loop.problem.decision
    option = decision.names.index(name)
    row = int(decision.rows[option])
    x, low, middle, high, filled, said = [], [], [], [], [], []
    for step in loop.steps:
        entry = next((e for e in step.watched if e[0] == name), None)
        if entry is None:
            continue
        x.append(step.number + 0.5 * (place + 0.5) / count - 0.25)
        low.append(entry[2] - entry[1])
        middle.append(entry[2])
        high.append(entry[3] - entry[2])
        filled.append(step.row == row)
        said.append(f"<b>{name}</b><br>after {step.number}: {entry[2]:.4g} ({entry[1]:.4g} to {entry[3]:.4g})")
    colour = theme.SPARE[place % len(theme.SPARE)]
    return {
        "type": "scatter", "mode": "lines+markers", "name": _cut(name, 40), "x": x, "y": middle, "customdata": said,
        "hovertemplate": HOVER, "line": {"color": colour, "width": 1, "dash": "dot"},
        "marker": {"color": colour, "size": 10, "symbol": ["circle" if f else "circle-open" for f in filled]},
        "error_y": {"type": "data", "symmetric": False, "array": high, "arrayminus": low, "color": colour,
                    "thickness": 2, "width": 0},
    }  # fmt: skip


def _probability(loop: Any, dark: bool) -> dict[str, Any]:
    said = [
        f"<b>after {step.number}</b><br>{step.name or 'nothing measured'} {step.why}<br>"
        f"{step.probability:.1%} that it would change<br>expected regret {step.regret:.2%}"
        for step in loop.steps
    ]
    return {
        "type": "scatter", "mode": "lines+markers", "showlegend": False, "yaxis": "y2", "customdata": said,
        "x": [step.number for step in loop.steps], "y": [100 * step.probability for step in loop.steps],
        "hovertemplate": HOVER, "line": {"color": theme.ink(dark), "width": 2},
        "marker": {"size": 8, "symbol": ["diamond" if s.why == "reserve" else "circle" for s in loop.steps]},
    }  # fmt: skip


def _expected(loop: Any, dark: bool) -> dict[str, Any]:
    """Every measured value over what was expected of it, with the interval that was stated before."""
    steps = [step for step in loop.steps if step.value is not None]
    return {
        "type": "scatter", "mode": "markers", "showlegend": False, "x": [step.number for step in steps],
        "y": [step.value / step.predicted for step in steps], "hovertemplate": HOVER,
        "customdata": [
            f"<b>{s.name}</b><br>{s.value:.4g}, {s.predicted:.4g} expected ({s.low:.4g} to {s.high:.4g})" for s in steps
        ],
        "marker": {"size": 8, "color": [theme.GOOD if s.low <= s.value <= s.high else theme.BAD for s in steps]},
        "error_y": {"type": "data", "symmetric": False, "color": theme.ink(dark), "thickness": 1.2, "width": 0,
                    "array": [(s.high - s.value) / s.predicted for s in steps],
                    "arrayminus": [(s.value - s.low) / s.predicted for s in steps]},
    }  # fmt: skip


def _range(traces: list[dict[str, Any]], target: float | None) -> tuple[float, float]:
    """Of the axis: all intervals but those that say nearly nothing, and the target."""
    low = np.concatenate([np.subtract(t["y"], t["error_y"]["arrayminus"]) for t in traces] or [np.ones(1)])
    high = np.concatenate([np.add(t["y"], t["error_y"]["array"]) for t in traces] or [np.ones(1)])
    narrow = high <= WIDE * low if (high <= WIDE * low).any() else np.ones(len(low), bool)
    ends = [low[narrow].min(initial=np.inf), high[narrow].max(initial=0.0)]
    if len(traces) == 1:  # what was measured is seen in any case
        points = np.asarray(traces[0]["y"], float)
        ends = [min(ends[0], points.min(initial=np.inf)), max(ends[1], points.max(initial=0.0))]
    if target is not None:
        ends = [min(ends[0], target), max(ends[1], target)]
    return (0.85 * ends[0], 1.18 * ends[1]) if ends[0] < ends[1] else (0.5, 2.0)
