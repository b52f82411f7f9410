"""The measured runs most like a design: what was measured, what is predicted there, and for the design itself."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import SpecError
from dse.units import engineering
from dse.view import theme
from dse.view.waterfall import HOVER, heading, room

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dse.explore.result import Result

OWN = "this design"
TITLES = {True: "Throughput [tokens/s per device]", False: "Step time [s]"}


def nearest(result: Result, count: int = 5, *, title: str = "", dark: bool = False) -> go.Figure:
    """Predicted against measured throughput of the runs most like a design, and the design's own with its interval.

    Runs differ in batch and size, so what compares is tokens per second and device. Where that is not known of a run,
    step times are shown; where the calibration in use has no measured runs, the figure says so.

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
    rates = bool(getattr(result.specs["model"], "seq_len", None))
    if runs is None or not len(runs):
        text = f"There are no measured runs to compare with: {why}" if runs is None else "There are no measured runs"
        note = {"text": text, "x": 0.5, "y": 0.95, "xref": "paper", "yref": "paper", "showarrow": False}
        names, traces, notes = [], [], [note]
    else:
        rates = rates and bool(np.isfinite(runs["tokens"]).all())
        names, traces, notes = *_runs(runs, dark, rates=rates), []
    traces.append(_own(result, rates=rates))
    rows = {"type": "category", "categoryarray": [OWN, *names], "autorange": "reversed", "tickfont": {"size": 11}}
    return theme.drawn(
        traces, dark=dark, **words, margin=room(words), annotations=notes, yaxis=rows, legend=theme.BELOW,
        xaxis={"title": {"text": TITLES[rates]}, "rangemode": "tozero"}, height=260 + 34 * (len(names) + 1),
    )  # fmt: skip


def _summary(runs: pd.DataFrame) -> str:
    worst = runs["error_held_out"].abs().max()
    return f"Predicted within {worst:.1%} there, by constants fitted without those runs" if worst == worst else ""


def _runs(runs: pd.DataFrame, dark: bool, *, rates: bool) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of the runs, and their traces: a line from what was measured to what is predicted."""
    records = runs.to_dict("records")
    names = [f"{_short(run['model'])} on {run['devices']:,}<br>{run['id']}" for run in records]
    hover = [_hover(run) for run in records]
    times = [runs[column].to_numpy(float) for column in ("measured [s]", "predicted [s]")]
    per_device = (runs["tokens"] / runs["devices"]).to_numpy(float)
    measured, predicted = ((per_device / time if rates else time).tolist() for time in times)
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
        f"measured {_step(run, 'measured [s]')}",
        f"predicted {_step(run, 'predicted [s]')}",
        f"error of the time {run['error']:+.1%}; without having seen its publication {run['error_held_out']:+.1%}",
    ]
    return "<br>".join(lines)


def _step(run: dict[str, Any], column: str) -> str:
    """The time of a step, and its tokens per second and device where they are known."""
    time, tokens = run[column], run["tokens"]
    rate = f", {tokens / time / run['devices']:,.4g} tokens/s per device" if tokens == tokens else ""
    return f"{engineering(time, 's')} a step{rate}"


def _own(result: Result, *, rates: bool) -> dict[str, Any]:
    """The design's own prediction with its 90 % interval."""
    quantity = "tokens_per_s" if rates else "step_time"
    per = float(result.number("devices")) if rates else 1.0
    value, ends = float(result.number(quantity)) / per, result.interval(quantity=quantity)
    low, high = float(ends.low) / per, float(ends.high) / per
    amounts = [f"{v:,.4g}" if rates else theme.short(v, "s") for v in (value, low, high)]
    reasons = f"<br>extrapolating: {escape('; '.join(ends.reasons))}" if ends.reasons else ""
    hover = f"<b>{OWN}</b><br>predicted {amounts[0]}, 90 % interval {amounts[1]} to {amounts[2]}"
    hover += f"{' tokens/s per device' if rates else ''}{reasons}"
    bars = {"type": "data", "symmetric": False, "array": [high - value], "arrayminus": [value - low]}
    return {
        "type": "scatter", "mode": "markers", "x": [value], "y": [OWN], "name": OWN,
        "marker": {"symbol": "diamond", "size": 13, "color": theme.SPARE[1]}, "customdata": [hover],
        "hovertemplate": HOVER, "error_x": {**bars, "color": theme.SPARE[1], "thickness": 2, "width": 6},
    }  # fmt: skip
