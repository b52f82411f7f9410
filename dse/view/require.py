"""Figures of inverse design: what a resource brings, and which pairs of two resources meet a target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dse.explore.require.problem import reached
from dse.units import engineering
from dse.view import theme

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from dse.explore.require.answer import Requirement
    from dse.explore.require.curve import IsoCurve
    from dse.explore.require.field import Field

LINE, BAND, MISSED = "#0772DF", "rgba(7,114,223,0.18)", "rgba(216,27,96,0.14)"


def response(found: Requirement, *, title: str = "", dark: bool = False) -> go.Figure:
    """What is reached along the resource, with the band of the interval; the values that meet the target are shaded.

    Of one condition its quantity is shown against the bound, of several the worst relative margin against 0.
    """
    item, conditions = found.field, found.problem.conditions
    scores = np.where(np.isfinite(found.scores), found.scores, np.nan)
    single = conditions[0] if len(conditions) == 1 else None
    unit = single.unit if single else "1"
    lines = [reached(single, s) if single else s for s in scores]
    bound = single.value if single else 0.0
    scale, shown = theme.axis_scale([*np.ravel(lines[:3]), bound], unit)
    across, across_unit = theme.axis_scale([found.value], item.unit)
    x = found.values / across
    wanted = _wanted(found)
    most = "The least" if found.least else "The most"
    heading = title or f"{most} {theme.words(item.name)} for {wanted}"
    figure = theme.blank(heading, dark, subtitle=_design(found), margin={"t": 95})
    _band(figure, x, lines[1] / scale, lines[2] / scale, f"{found.problem.level:.0%} interval")
    hover = [f"{item.shown(v)}<br><b>{engineering(y, unit)}</b>" for v, y in zip(found.values, lines[0], strict=True)]
    _line(figure, x, lines[0] / scale, hover, "prediction", marks=item.whole is not None)
    words = wanted if single else "all targets"
    figure.add_hline(
        bound / scale,
        line={"dash": "dash", "color": theme.ink(dark), "width": 1.5},
        annotation={"text": words, "xanchor": "right", "yanchor": "bottom"},
    )
    for low, high in found.intervals:
        figure.add_vrect(low / across, high / across, fillcolor=theme.GOOD, opacity=0.10, line_width=0, layer="below")
    style = {"across": across, "dark": dark}
    word = "least" if found.least else "most"
    _mark(figure, item, found.value, f"{word}: {item.shown(found.value)}", down=0.0, dash="solid", **style)
    if item.current:
        _mark(figure, item, item.current, f"now: {item.shown(item.current)}", down=0.08, dash="dot", **style)
    _resource_axis(figure.update_xaxes, item, x, across_unit)
    model = found.problem.specs["model"]
    counted = theme.counted(single.name, shown, model) if single else ""
    name = theme.axis_title(single.name, counted) if single else "Worst margin over the bound"
    figure.update_yaxes(title={"text": name})
    return figure


def iso_curve(found: IsoCurve, *, title: str = "", dark: bool = False) -> go.Figure:
    """The first resource against the second where the target is just met, with the band of the interval.

    The side that misses the target is shaded, the design as it is and the cheapest point are marked. Open marks stand
    where the target is met to the very end of the first resource's range, so that the limit lies beyond it.
    """
    first, second = found.problem.fields
    good = np.isfinite(found.found[0])
    across, across_unit = theme.axis_scale([np.median(found.across)], second.unit)
    scale, unit = theme.axis_scale([np.median(found.found[0][good])], first.unit)
    x, curves = found.across / across, found.found / scale
    pair = f"{theme.sentence(theme.words(first.name))} against {theme.words(second.name)}"
    heading = title or f"{pair} for {_wanted(found)}"
    figure = theme.blank(heading, dark, subtitle=_design(found), margin={"t": 95})
    near, far = (first.low, first.high) if found.least else (first.high, first.low)
    missed = np.where(good, curves[0], far / scale)
    wide, missed = _stepped(x, missed, good)
    if not np.allclose(missed, near / scale, rtol=1e-9):  # else nothing in the ranges misses it
        _band(figure, wide, np.full(len(wide), near / scale), missed, "misses the target", MISSED)
    certain = np.where(np.isfinite(curves[2]), curves[2], far / scale)
    if not np.allclose(curves[1][good], certain[good], rtol=1e-9):
        _band(figure, x[good], curves[1][good], certain[good], f"{found.problem.level:.0%} interval")
    ends = ["<br>the end of the range: the limit lies beyond" if end else "" for end in found.at_end]
    hover = [
        f"{theme.words(second.name)}: {second.shown(b)}<br>{theme.words(first.name)}: "
        f"<b>{first.shown(a) if np.isfinite(a) else 'not met'}</b>{end}"
        for a, b, end in zip(found.found[0], found.across, ends, strict=True)
    ]
    _line(figure, x, curves[0], hover, "target just met", marks=True)
    symbols = ["circle-open" if end else "circle" for end in found.at_end]
    figure.data[-1].marker = {"symbol": symbols, "size": 8, "color": LINE}
    if np.any(found.at_end):
        _ends(figure, first, everywhere=bool(np.all(found.at_end[good])))
    if first.current is not None and second.current is not None:
        _point(figure, second.current / across, first.current / scale, "now", theme.ink(dark), "diamond")
    if found.cheapest is not None:
        name = f"cheapest: {theme.compact(found.cheapest['cost'], 'USD')}"
        _point(figure, found.cheapest["second"] / across, found.cheapest["first"] / scale, name, theme.GOOD, "star")
    _resource_axis(figure.update_xaxes, second, x, across_unit)
    shown = [y for trace in figure.data for y in trace.y]
    _resource_axis(figure.update_yaxes, first, shown, unit)
    return figure


def _design(found: Requirement | IsoCurve) -> str:
    """The model and the cluster; the number of devices where it is fixed."""
    problem, specs = found.problem, found.problem.specs
    varied = any(item.path == "cluster.devices" for item in problem.fields)
    fixed = specs["cluster"].devices if problem.devices_given and not varied else None
    return theme.design_text(specs, fixed)


def _wanted(found: Requirement | IsoCurve) -> str:
    problem = found.problem
    return " and ".join(theme.condition_text(c, problem.specs["model"]) for c in problem.conditions)


def _ends(figure: go.Figure, first: Field, *, everywhere: bool) -> None:
    """Say what open marks are."""
    where = "every value" if everywhere else "open marks"
    text = f"{where}: met to the end of the range of {theme.words(first.name)}"
    place = {"xref": "paper", "yref": "paper", "x": 1.0, "y": 1.0, "xanchor": "right", "yanchor": "bottom"}
    figure.add_annotation(text=text, showarrow=False, font={"size": 13}, **place)


def _stepped(x: np.ndarray, y: np.ndarray, good: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A line with upright steps between values that miss the target and those that can meet it."""
    places = np.flatnonzero(good[1:] != good[:-1])  # the step stands on the side that can
    at = np.where(good[places], places, places + 1)
    other = np.where(good[places], y[places + 1], y[places])
    return np.insert(x, places + 1, x[at]), np.insert(y, places + 1, other)


def _resource_axis(update: Any, item: Field, values: Any, unit: str) -> None:
    """Title and scale of an axis that shows a varied field."""
    update(title={"text": theme.with_unit(theme.sentence(theme.words(item.name)), unit)})
    if item.logarithmic:
        update(type="log", **theme.log_ticks(values))


def _line(figure: go.Figure, x: Any, y: Any, hover: list[str], name: str, *, marks: bool) -> None:
    import plotly.graph_objects as go

    style = {"mode": "lines+markers" if marks else "lines", "line": {"width": 2.5, "color": LINE}}
    text = {"customdata": hover, "hovertemplate": "%{customdata}<extra></extra>"}
    figure.add_trace(go.Scatter(x=x, y=y, name=name, cliponaxis=False, **style, **text))


def _band(figure: go.Figure, x: Any, low: Any, high: Any, name: str, colour: str = BAND) -> None:
    """The area between two lines, over each unbroken stretch where both are numbers."""
    import plotly.graph_objects as go

    good = np.isfinite(low) & np.isfinite(high)
    cuts = np.flatnonzero(np.diff(good.astype(int))) + 1
    stretches = [part for part in np.split(np.arange(len(x)), cuts) if len(part) and good[part[0]]]
    for position, part in enumerate(stretches):
        figure.add_trace(
            go.Scatter(
                x=np.concatenate([x[part], x[part][::-1]]),
                y=np.concatenate([low[part], high[part][::-1]]),
                fill="toself",
                fillcolor=colour,
                line={"width": 0},
                mode="lines",
                name=name,
                legendgroup=name,
                showlegend=position == 0,
                hoverinfo="skip",
            )
        )


def _point(figure: go.Figure, x: float, y: float, name: str, colour: str, symbol: str) -> None:
    import plotly.graph_objects as go

    marker = {"size": 14, "color": colour, "symbol": symbol}
    figure.add_trace(go.Scatter(x=[x], y=[y], mode="markers", name=name, marker=marker, cliponaxis=False))


def _mark(
    figure: go.Figure, item: Field, value: float, text: str, *, across: float, dark: bool, down: float, dash: str
) -> None:
    """A vertical line at a value with its label at the top of the figure, ``down`` of the height below the edge."""
    place = value / across
    line = {"color": theme.ink(dark), "dash": dash, "width": 2}
    figure.add_shape(type="line", x0=place, x1=place, y0=0, y1=1, yref="paper", line=line)
    figure.add_annotation(
        x=np.log10(place) if item.logarithmic else place,
        y=1 - down,
        yref="paper",
        text=text,
        showarrow=False,
        xanchor="left",
        yanchor="top",
        xshift=4,
        bgcolor=theme.paper(dark),
    )
