"""Figures that hold designs and numbers against something: each other, what was published, the machine's limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.units import engineering
from dse.view import theme
from dse.view.reading import PHASES, operators

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dse.explore.result import Result

NARROW = "\N{NO-BREAK SPACE}"  # a gap between the end of a bar and its label


# -- comparisons --------------------------------------------------------------------------------------------


def comparison(
    values: Mapping[str, float] | pd.Series,
    *,
    unit: str = "1",
    notes: Mapping[str, str] | None = None,
    highlight: Sequence[str] = (),
    value_title: str = "",
    title: str = "",
    log: bool = False,
    dark: bool = False,
) -> go.Figure:
    """Horizontal bars with their values; an entry without a number shows its note instead."""
    import plotly.graph_objects as go

    names = [str(name) for name in dict(values)]
    numbers = np.asarray([float(v) for v in dict(values).values()])
    factor, shown = theme.axis_scale(numbers, unit)
    notes = notes or {}
    text = [
        f"{NARROW}<b>{theme.short(v, unit)}</b>  {notes.get(n, '')}"
        if np.isfinite(v)
        else f"{NARROW}<i>{notes.get(n, 'none')}</i>"
        for n, v in zip(names, numbers, strict=True)
    ]
    finite = np.where(np.isfinite(numbers), numbers, 0.0) / factor
    colours = [theme.SPARE[1] if n in highlight else theme.SPARE[0] for n in names]
    figure = theme.blank(title, dark, height=150 + 44 * max(len(names), 4), showlegend=False)
    figure.add_trace(
        go.Bar(x=finite, y=names, orientation="h", marker={"color": colours}, hovertext=text, hoverinfo="y+text")
    )
    low = float(np.min(finite[finite > 0], initial=1.0)) / 2
    figure.add_trace(
        go.Scatter(
            x=np.where(finite > 0, finite, low if log else 0.0),
            y=names,
            mode="text",
            text=text,
            textposition="middle right",
            hoverinfo="skip",
            cliponaxis=False,
            textfont={"color": theme.ink(dark)},
        )
    )
    top = float(np.max(finite, initial=0.0)) or 1.0
    spread = [np.log10(low), np.log10(top) + 0.35 * (np.log10(top) - np.log10(low) + 0.1)]
    figure.update_xaxes(
        title={"text": value_title or theme.axis_title("", shown)},
        type="log" if log else "linear",
        range=spread if log else [0, top * 1.35],
    )
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category")
    return figure


def verdicts(table: pd.DataFrame, *, title: str = "", dark: bool = False, many: int = 45) -> go.Figure:
    """Published against ours: a dot for each check, inside or outside the band of its tolerance.

    The axis is the difference as a part of the tolerance. Up to ``many`` checks have a row each, with both values; more
    share a row for each ``group``.

    Args:
        table: columns ``check``, ``group``, ``published``, ``ours``, ``unit``, ``allowed`` (absolute tolerance),
            ``verdict``. Checks without a published number (trends) are left out.
    """
    import plotly.graph_objects as go

    shown = table[np.isfinite(table["published"].astype(float)) & (table["allowed"].astype(float) > 0)]
    grouped = len(shown) > many
    gap = ((shown["ours"] - shown["published"]) / shown["allowed"]).to_numpy(float)
    rows = (shown["group"] if grouped else shown["check"]).astype(str).tolist()
    names = list(dict.fromkeys(rows))
    units = ["" if unit == "1" else f" {unit}" for unit in shown["unit"]]
    values = [f"{p:,.6g} → {o:,.6g}{u}" for p, o, u in zip(shown["published"], shown["ours"], units, strict=True)]
    reach = 1.15 * max(1.0, float(np.nanmax(np.abs(gap), initial=0.0)))
    figure = theme.blank(
        title,
        dark,
        height=190 + (48 if grouped else 26) * max(len(names), 3),
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
    )
    figure.add_trace(
        go.Bar(
            x=[2.0] * len(names),
            base=-1.0,
            y=names,
            orientation="h",
            width=0.7,
            name="tolerance",
            marker={"color": "#C9CDD4"},
            hoverinfo="skip",
        )
    )
    for verdict, colour, symbol in (("pass", theme.GOOD, "circle"), ("short", theme.BAD, "x")):
        chosen = [i for i, v in enumerate(shown["verdict"]) if v == verdict]
        hover = [f"<b>{shown['check'].iloc[i]}</b><br>published → ours: {values[i]}" for i in chosen]
        figure.add_trace(
            go.Scatter(
                x=gap[chosen],
                y=[rows[i] for i in chosen],
                mode="markers",
                customdata=hover,
                name=f"{verdict} ({len(chosen)})",
                opacity=0.75,
                hovertemplate="%{customdata}<extra></extra>",
                marker={"size": 10, "symbol": symbol, "color": colour},
            )
        )
    if not grouped:
        right = {"x": reach * 1.05, "xanchor": "left", "showarrow": False, "font": {"size": 13}}
        for row, text in zip(rows, values, strict=True):
            figure.add_annotation(y=row, text=text, **right)
    figure.update_xaxes(
        title={"text": "Difference / tolerance"}, zeroline=True, range=[-reach, reach if grouped else 1.9 * reach]
    )
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    return figure


# -- roofline -----------------------------------------------------------------------------------------------


def roofline(result: Result, *, title: str = "", name_most: int = 6, dark: bool = False) -> go.Figure:
    """Operational intensity against achieved FLOP/s under the memory and the compute roof; area: share of the time.

    Operators without floating-point work (copies, look-ups) have no place on a roofline and are left out.
    """
    table = operators(result)
    table = table[(table["work [FLOP]"] > 0) & (table["traffic [B]"] > 0) & (table["time [s]"] > 0)]
    evaluation = result._cells[0].evaluation
    peak, bandwidth = (float(np.asarray(evaluation[n]).item()) for n in ("matrix_peak", "memory_bandwidth"))
    intensity = table["work [FLOP]"] / table["traffic [B]"]
    rate = table["work [FLOP]"] / table["time [s]"]
    spent = table["time [s]"] * table["count"]
    ridge = peak / bandwidth
    low, high = min(0.5 * float(intensity.min()), 0.1 * ridge), max(2.0 * float(intensity.max()), 10 * ridge)
    roof = {"type": "scatter", "mode": "lines", "hoverinfo": "skip"}
    line = {"color": theme.ink(dark), "width": 2}
    memory, compute = engineering(bandwidth, "B/s", 3), engineering(peak, "FLOP/s", 3)
    rise = {"x": [low, ridge], "y": [low * bandwidth, peak], "name": f"memory roof, {memory}", "line": line}
    flat = {"x": [ridge, high], "y": [peak, peak], "name": f"compute roof, {compute}", "line": {**line, "dash": "dash"}}
    traces: list[dict[str, Any]] = [{**rise, **roof}, {**flat, **roof}]
    whole = float(spent.sum())
    columns = [column.to_numpy() for column in (table["operator"], table["phase"], intensity, rate, spent)]
    for mark, phase in zip(("circle", "square", "diamond"), PHASES, strict=True):
        names, _, at, reached, took = (column[columns[1] == phase] for column in columns)
        hover = [
            f"<b>{name}</b>, {theme.title_of(phase)}<br>{x:.4g} FLOP/B, {engineering(y, 'FLOP/s')}<br>"
            f"{engineering(seconds, 's')} a pass, {seconds / whole:.1%}"
            for name, x, y, seconds in zip(names, at.tolist(), reached.tolist(), took.tolist(), strict=True)
        ]
        edge = {"width": 1, "color": theme.ink(dark)}
        size = 8 + 34 * np.sqrt(took.astype(float) / whole)
        traces.append(
            {
                "type": "scatter",
                "x": at,
                "y": reached,
                "name": theme.title_of(phase),
                "customdata": hover,
                "mode": "markers",
                "hovertemplate": "%{customdata}<extra></extra>",
                "cliponaxis": False,
                "opacity": 0.8,
                "marker": {"size": size, "symbol": mark, "color": theme.colour_of(phase), "line": edge},
            }
        )
    notes = _point_names(columns[0], columns[2], columns[3], columns[4], name_most)
    x_axis = {"type": "log", "title": {"text": "Operational intensity [FLOP/B]"}, "dtick": 1}
    y_axis = {"type": "log", "title": {"text": "Rate of a device [FLOP/s]"}, "dtick": 1}
    y_axis |= {"exponentformat": "SI", "tickformat": "~s"}
    axes = {"xaxis": x_axis, "yaxis": y_axis}
    return theme.drawn(traces, title=title, dark=dark, annotations=notes, legend=theme.BELOW, **axes)


def _point_names(
    names: np.ndarray, x: np.ndarray, y: np.ndarray, weight: np.ndarray, most: int
) -> list[dict[str, Any]]:
    """Names of the heaviest operators; points that lie together share one label beneath them."""
    labels: list[tuple[float, float, list[str]]] = []
    for i in np.argsort(-weight, kind="stable").tolist():
        at, name = (math.log10(x[i]), math.log10(y[i])), str(names[i]).partition(".")[2].replace("_", " ")
        near = next((lab for lab in labels if abs(lab[0] - at[0]) < 0.9 and abs(lab[1] - at[1]) < 1.0), None)
        if near is None and len(labels) < most:
            labels.append((*at, [name]))
        elif near is not None and name not in near[2]:
            near[2].append(name)
    notes = []
    for left, height, found in labels:
        text = "<br>".join([*found[:3], *([f"and {len(found) - 3} more"] if len(found) > 3 else [])])
        place = {"x": left, "y": height, "showarrow": False, "yanchor": "top", "yshift": -18}
        notes.append({"text": text, "font": {"size": 12}, **place})
    return notes
