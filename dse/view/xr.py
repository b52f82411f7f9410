"""Figures of one XR run: what each part ran when, what was dropped and why, and power over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.view import theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

HOVER = "%{customdata}<extra></extra>"
FRAMES = 6000  # that are drawn, at most
LOST = "dropped"  # the row below the parts
# What a frame ended as: colour of the outline, of bars that stand out.
LATE = theme.BAD
SYMBOLS = {"late": "x", "hopeless": "star", "superseded": "triangle-up", "cascaded": "diamond"}
WORDS = {"late": "dropped: its time was over", "hopeless": "dropped: no part could make it",
         "superseded": "dropped: a newer frame came", "cascaded": "dropped with a frame it follows"}  # fmt: skip
LINES = tuple(theme.SPARE[at] for at in (0, 1, 4, 7, 3, 8, 9))  # that stand out from light and dark
# Each model keeps its colour in all figures of XR; others take them in order.
PAINT = {"HT": 0, "ES": 1, "GE": 4, "KD": 7, "SR": 3, "SS": 5, "OD": 2, "AS": 6, "DE": 9, "DR": 8, "PD": 6}


def colour(model: str, place: int = 0) -> str:
    """The colour of a model, by code or name."""
    from dse.domains.xr.models import code

    return theme.SPARE[PAINT.get(code(model), place % len(theme.SPARE))]


def gantt(
    runs: Any, *, start: float = 0.0, end: float | None = None, title: str = "", dark: bool = False
) -> go.Figure:  # fmt: skip
    """What each part ran when, with frames that came too late outlined, and below when others were dropped, and why.

    Args:
        runs: a single run, of :func:`dse.domains.xr.runtime.run`.
        start, end: of the time that is drawn, s; by default all.

    Raises:
        SpecError: several runs, or no time to draw.
    """
    from dse.domains.xr.explain import misses
    from dse.domains.xr.runtime import stretches, timeline

    if len(runs.systems) != 1 or runs.frames is None or runs.frames.shape[1] != 1:
        raise SpecError([Fault("runs", f"{len(runs.systems)} systems", "must be a single run, whose frames were kept")])
    frames, ran, lost = timeline(runs), stretches(runs), misses(runs)
    last = 1e-3 * float(np.nanmax([frames["completion_ms"].max(), frames["injection_ms"].max(), 1.0]))
    end = last if end is None else end
    if not 0 <= start < end:
        raise SpecError([Fault("end", f"{end:g} s", f"must be above the start, {start:g} s")])
    keys = ["model", "frame"]
    told = frames.merge(lost, on=keys, how="left", suffixes=("", "_lost"), validate="one_to_one")
    low, high = 1e3 * start, 1e3 * end
    shown = ran[(ran["end_ms"] > low) & (ran["start_ms"] < high)].head(FRAMES)
    jobs = shown.merge(told.drop(columns="acc"), on=keys, how="left", validate="many_to_one")
    models = [name for name in runs.scenario.models if name in set(frames["model"])]
    rows = [_part(place, part) for place, part in enumerate(runs.systems[0].parts)]
    traces = [trace for at, name in enumerate(models) for trace in _ran(jobs[jobs["model"] == name], name, at, rows)]
    fallen = told[(told["outcome"] == LOST) & told["completion_ms"].between(low, high)]
    traces += _dropped(fallen, models)
    counts = frames["outcome"].value_counts()
    about = f"{runs.scenario.name} on {runs.systems[0].id}: {len(frames)} frames, " + ", ".join(
        f"{counts.get(name, 0)} {name}" for name in ("late", LOST)
    )
    names = [*rows, *([LOST] if len(fallen) else [])]
    height = 240 + 70 * len(rows) + (70 if len(fallen) else 0)
    words = theme.heading(title, "What each part ran, and what came too late", about)
    return theme.drawn(
        traces, dark=dark, height=max(height, 400), barmode="overlay", bargap=0.3,
        uniformtext={"minsize": 11, "mode": "hide"},
        legend={**theme.BELOW, "traceorder": "grouped"},
        xaxis={"title": {"text": "Time [ms]"}, "range": [low, high], "showgrid": True},
        yaxis={"type": "category", "categoryorder": "array", "categoryarray": names[::-1], "showgrid": False},
        **{**words, "margin": {**words["margin"], "b": 120}},
    )  # fmt: skip


def _part(place: int, part: Any) -> str:
    return f"{place}: {part.name}"


def _ran(jobs: pd.DataFrame, model: str, at: int, rows: list[str]) -> list[dict[str, Any]]:
    """Bars of a model, in time and late apart; a late one has a thick outline."""
    from dse.domains.xr.models import code

    traces = []
    for late in (False, True):
        part = jobs[(jobs["outcome"] == "late") == late]
        if not len(part):
            continue
        marker = {"color": colour(model, at), "line": {"width": 2.2, "color": LATE} if late else {"width": 0.5}}
        if late:  # hatched too: the outline alone does not stand out from every colour
            marker["pattern"] = {"shape": "/", "fillmode": "overlay", "fgcolor": "#FFFFFF", "fgopacity": 0.75,
                                 "solidity": 0.2, "size": 7}  # fmt: skip
        traces.append({
            "type": "bar", "orientation": "h", "name": f"{code(model)}, late" if late else code(model),
            "legendgroup": model, "y": [rows[acc] for acc in part["acc"]], "base": part["start_ms"],
            "x": part["end_ms"] - part["start_ms"], "customdata": [_ran_words(row) for row in part.to_dict("records")],
            "text": part["frame"].astype(str), "textposition": "inside", "insidetextanchor": "middle", "textangle": 0,
            "hovertemplate": HOVER, "marker": marker,
        })  # fmt: skip
    return traces


def _ran_words(row: dict[str, Any]) -> str:
    text = (
        f"<b>{row['model']} {row['frame']}</b><br>{row['start_ms']:.4g} to {row['end_ms']:.4g} ms, "
        f"{row['energy_mJ']:.3g} mJ<br>came at {row['injection_ms']:.4g} ms, due at {row['deadline_ms']:.4g} ms"
    )
    return text if row["outcome"] != "late" else f"{text}<br><b>{row['late_ms']:.3g} ms late</b>: {_why(row)}"


def _why(row: dict[str, Any]) -> str:
    from dse.domains.xr.explain import CAUSES

    blockers = f"<br>behind {row['blockers']}" if row["blockers"] else ""
    return f"{CAUSES[row['cause']]}{blockers}"


def _dropped(fallen: pd.DataFrame, models: list[str]) -> list[dict[str, Any]]:
    """Marks of dropped frames, one trace for each reason, in the colours of their models."""
    traces = []
    for reason, part in fallen.groupby("reason", sort=False):
        said = [
            f"<b>{row['model']} {row['frame']} dropped</b> at {row['completion_ms']:.4g} ms<br>came at "
            f"{row['injection_ms']:.4g} ms, due at {row['deadline_ms']:.4g} ms<br>{_why(row)}"
            for row in part.to_dict("records")
        ]
        paint = [colour(name, models.index(name)) for name in part["model"]]
        traces.append({
            "type": "scatter", "mode": "markers", "name": WORDS.get(str(reason), str(reason)), "y": [LOST] * len(part),
            "x": part["completion_ms"], "customdata": said, "hovertemplate": HOVER,
            "marker": {"symbol": SYMBOLS.get(str(reason), "x"), "size": 11, "color": paint,
                       "line": {"width": 0.5, "color": "#888888"}},
        })  # fmt: skip
    return traces


def causes(lost: pd.DataFrame, *, title: str = "", about: str = "", dark: bool = False) -> go.Figure:
    """How many frames of each model were dropped or late, by cause.

    Args:
        lost: of :func:`dse.domains.xr.explain.misses`, of one run or of several.
    """
    from dse.domains.xr.explain import CAUSES
    from dse.domains.xr.models import code

    models = list(dict.fromkeys(lost["model"]))
    traces = []
    for place, (cause, words) in enumerate(CAUSES.items()):
        part = lost[lost["cause"] == cause]
        if len(part):
            counts = [int((part["model"] == name).sum()) for name in models]
            said = [f"<b>{name}</b><br>{n} frames: {words}" for name, n in zip(models, counts, strict=True)]
            traces.append({
                "type": "bar", "name": f"{cause}: {words}", "x": [code(name) for name in models], "y": counts,
                "customdata": said, "hovertemplate": HOVER,
                "marker": {"color": theme.SPARE[place], "line": {"width": 0}},
            })  # fmt: skip
    words = theme.heading(title, "Why frames were dropped or late", about or f"{len(lost):,} frames")
    return theme.drawn(
        traces, dark=dark, barmode="stack", showlegend=True, legend=theme.BELOW,
        xaxis={"type": "category", "title": {"text": "Model"}, "showgrid": False},
        yaxis={"title": {"text": "Frames"}, "rangemode": "tozero"},
        **{**words, "margin": {**words["margin"], "b": 90 + 22 * len(traces)}},
    )  # fmt: skip


def power(runs: Any, carrier: Any = None, *, title: str = "", dark: bool = False) -> go.Figure:
    """Power over time of each system, means over seeds, with the budget of what carries it.

    Args:
        runs: with a trace of energy (``width``).
        carrier: headset, see :func:`dse.domains.xr.power.headset`.
    """
    from dse.domains.xr.power import headset, watts

    kept = headset(carrier)
    values = watts(runs, kept).mean(axis=1)
    time = runs.width * np.arange(values.shape[1])
    traces = []
    for place, (item, line) in enumerate(zip(runs.systems, values, strict=True)):
        shade, dash = LINES[place % len(LINES)], theme.DASHES[place % len(theme.DASHES)]
        said = [f"<b>{item.id}</b><br>{t:.4g} ms: {v:.3g} W" for t, v in zip(time, line, strict=True)]
        traces.append({
            "type": "scatter", "mode": "lines", "name": f"{item.id}: mean {line.mean():.3g} W", "x": time, "y": line,
            "line": {"color": shade, "width": 2, "shape": "hv", "dash": dash}, "customdata": said,
            "hovertemplate": HOVER,
        })  # fmt: skip
    traces.append({
        "type": "scatter", "mode": "lines", "name": f"budget: {kept.budget:g} W", "x": [time[0], time[-1] + runs.width],
        "y": [kept.budget] * 2, "line": {"color": theme.ink(dark), "width": 2, "dash": "dash"}, "hoverinfo": "skip",
    })  # fmt: skip
    words = theme.heading(title, "Power of all that the headset carries", runs.scenario.name)
    return theme.drawn(
        traces, dark=dark, legend=theme.BELOW, xaxis={"title": {"text": "Time [ms]"}},
        yaxis={"title": {"text": "Power [W]"}, "rangemode": "tozero"},
        **{**words, "margin": {**words["margin"], "b": 110}},
    )  # fmt: skip
