"""The measured runs most like a design: what was measured, what is predicted there, and for the design itself."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from dse.errors import SpecError
from dse.units import engineering
from dse.view import theme
from dse.view.waterfall import HOVER, heading, room

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dse.explore.result import Result

OWN = "this design"


def nearest(result: Result, count: int = 5, *, title: str = "", dark: bool = False) -> go.Figure:
    """Predicted against measured step time of the runs most like a design, and the design's own with its interval.

    Where the calibration in use has no measured runs, the figure says so.

    Args:
        result: a single design.
        count: how many runs.

    Raises:
        SpecError: the result has axes.
    """
    words = heading(result, title or "The measured runs most like this design")
    try:
        runs = result.nearest(count)
        words["subtitle"] += "<br>" + _summary(runs) if len(runs) else ""
    except SpecError as error:
        runs, why = None, error.faults[0].rule
    if runs is None or not len(runs):
        text = f"There are no measured runs to compare with: {why}" if runs is None else "There are no measured runs"
        note = {"text": text, "x": 0.5, "y": 0.95, "xref": "paper", "yref": "paper", "showarrow": False}
        names, traces, notes = [], [], [note]
    else:
        names, traces, notes = *_runs(runs, dark), []
    traces.append(_own(result, dark))
    rows = {"type": "category", "categoryarray": [OWN, *names], "autorange": "reversed", "tickfont": {"size": 13}}
    return theme.drawn(
        traces, dark=dark, **words, margin=room(words), annotations=notes, yaxis=rows, legend=theme.BELOW,
        xaxis={"title": {"text": "Step time [s]"}, "rangemode": "tozero"}, height=260 + 34 * (len(names) + 1),
    )  # fmt: skip


def _summary(runs: pd.DataFrame) -> str:
    worst = runs["error_held_out"].abs().max()
    return f"Predicted within {worst:.1%} there, by constants fitted without those runs" if worst == worst else ""


def _runs(runs: pd.DataFrame, dark: bool) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of the runs, and their traces: a line from what was measured to what is predicted."""
    names = [f"{_short(run['model'])}, {run['devices']:,} dev. ({run['id']})" for run in runs.to_dict("records")]
    hover = [_hover(run) for run in runs.to_dict("records")]
    measured, predicted = (runs[column].tolist() for column in ("measured [s]", "predicted [s]"))
    between: dict[str, list[Any]] = {"x": [], "y": []}
    for name, *ends in zip(names, measured, predicted, strict=True):
        between["x"] += [*ends, None]
        between["y"] += [name, name, None]
    line = {"color": theme.SPARE[8], "width": 2}
    points = {"type": "scatter", "mode": "markers", "y": names, "customdata": hover, "hovertemplate": HOVER}
    ring = {"symbol": "circle-open", "size": 13, "color": theme.ink(dark), "line": {"width": 2.5}}
    dot = {"symbol": "circle", "size": 9, "color": theme.SPARE[0]}
    return names, [
        {"type": "scatter", "mode": "lines", **between, "line": line, "hoverinfo": "skip", "showlegend": False},
        {**points, "x": measured, "name": "measured", "marker": ring},
        {**points, "x": predicted, "name": "predicted", "marker": dot},
    ]


def _short(model: Any) -> str:
    """The model without what stands in brackets."""
    return str(model).partition("(")[0].strip()


def _hover(run: dict[str, Any]) -> str:
    lines = [
        f"<b>{escape(str(run['model']))}</b>, {run['devices']:,} devices ({escape(str(run['generation']))}), "
        f"{escape(str(run['precision']))}",
        f"tp={run['tp']:g}, pp={run['pp']:g}, dp={run['dp']:g}, micro_batch={run['micro_batch']:g}",
        f"source: {escape(str(run['source']))}",
        f"measured {engineering(run['measured [s]'], 's')}, predicted {engineering(run['predicted [s]'], 's')}",
        f"error {run['error']:+.1%}; without having seen its publication {run['error_held_out']:+.1%}",
    ]
    return "<br>".join(lines)


def _own(result: Result, dark: bool) -> dict[str, Any]:
    """The design's own prediction with its 90 % interval."""
    time, ends = float(result.number("step_time")), result.interval()
    hover = f"<b>{OWN}</b><br>predicted {engineering(time, 's')}<br>{escape(str(ends))}"
    bars = {"type": "data", "symmetric": False, "array": [ends.high - time], "arrayminus": [time - ends.low]}
    return {
        "type": "scatter", "mode": "markers", "x": [time], "y": [OWN], "name": "this, 90 % interval",
        "marker": {"symbol": "diamond", "size": 13, "color": theme.SPARE[1]}, "customdata": [hover],
        "hovertemplate": HOVER, "error_x": {**bars, "color": theme.SPARE[1], "thickness": 2, "width": 6},
    }  # fmt: skip
