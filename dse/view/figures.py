"""Figures: pure functions from results or tidy tables to Plotly figures. Nothing is computed here that a table lacks.

Every function takes ``title`` and ``dark`` and returns a ``go.Figure`` that reads well 1280 pixels wide. Quantities
are SI; axes are scaled to the unit in their title.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.units import engineering, parse
from dse.view import theme
from dse.view.comparisons import comparison, roofline, verdicts
from dse.view.formulas import formula
from dse.view.reading import along_axis, axis_of, pick, violated

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import xarray as xr

    from dse.explore.result import Result

NARROW = "\N{NO-BREAK SPACE}"  # a gap between the end of a bar and its label
NAMED = 0.005  # share of the longest bar below which a term is not in the legend of a single bar
ROOM = {True: 1.17, False: 1.09}  # end of the axis of a single bar (or of several), in longest bars
COLUMN = 114  # pixels of a name in the legend of a single bar: three columns in 500


__all__ = ["breakdown", "comparison", "footprint", "heatmap", "lines", "roofline", "verdicts"]


def _ticks(result: Result, axis: str, labels: Sequence[str] | None = None) -> list[str]:
    bound = axis_of(result, axis, "axis")
    return list(labels) if labels else [theme.label(value, bound.unit) for value in bound.coordinates]


# -- where the time and the bytes go ------------------------------------------------------------------------


def _terms(result: Result, table: str, along: str | None, at: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
    """Entries of a breakdown that are not zero everywhere, as one number a design."""
    names = [name for name in result._entries() if name.startswith(f"{table}.")]
    if not names:
        raise SpecError([Fault("table", repr(table)[:40], "must be one of time, memory, tier, energy, cost")])
    found = {name: np.atleast_1d(along_axis(result, name, along, at).values).astype(float) for name in names}
    return {name.partition(".")[2]: values for name, values in found.items() if np.any(values)}


def breakdown(
    result: Result,
    *,
    along: str | None = None,
    table: str = "time",
    at: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    title: str = "",
    along_title: str = "",
    dark: bool = False,
) -> go.Figure:
    """Stacked bars of a breakdown: one bar for one design, or one for each value of the axis ``along``.

    The legend of a single bar leaves out terms below half a per cent; they are drawn, and named on hover.
    """
    traces, layout = _stack(result, table, along, at, labels, along_title, dark=dark)
    return theme.drawn(traces, title=title, dark=dark, **layout)


def _stack(
    result: Result, table: str, along: str | None, at: Mapping[str, Any] | None, labels: Sequence[str] | None,
    along_title: str, *, dark: bool,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:  # fmt: skip
    """Traces and layout of stacked bars."""
    terms = _terms(result, table, along, at)
    unit = result.unit(f"{table}.{next(iter(terms))}") if terms else ""
    totals = sum(terms.values(), np.zeros(len(next(iter(terms.values()))) if terms else 1))
    factor, shown = theme.axis_scale(totals, unit)
    names = _ticks(result, along, labels) if along else [""]
    flat = along is None
    traces = []
    for position, (term, values) in enumerate(terms.items()):
        share = np.divide(values, totals, out=np.zeros_like(values), where=totals > 0)
        how = formula(result, table, term)
        how = f"<br>{how}" if how else ""
        hover = [
            f"<b>{theme.term_title(term)}</b><br>{engineering(v, unit)}, {s:.1%} of {engineering(t, unit)}{how}"
            for v, s, t in zip(values, share, totals, strict=True)
        ]
        inside = [theme.short(v, unit) if flat and s > 0.02 else "" for v, s in zip(values, share, strict=True)]
        bar = {"orientation": "h", "x": values / factor, "y": names} if flat else {"x": names, "y": values / factor}
        traces.append(
            {
                "type": "bar",
                **bar,
                "name": theme.term_title(term),
                "meta": term,
                "showlegend": not flat or bool(np.max(share) >= NAMED),
                "customdata": hover,
                "hovertemplate": "%{customdata}<extra></extra>",
                "text": inside,
                "textposition": "inside",
                "insidetextanchor": "middle",
                "textangle": 0,
                "textfont": {"size": 12},
                "marker": {**theme.fill(term, position), "line": {"width": 0.5, "color": theme.ink(not dark)}},
            }
        )
    top = float(np.max(totals, initial=0.0)) / factor or 1.0
    values_on = {"title": {"text": theme.axis_title(table, shown)}, "range": [0, ROOM[flat] * top]}
    words = along_title or theme.axis_title(along or "", "")
    names_on = {"type": "category", "title": {"text": words}, "showgrid": False}
    axes = {"xaxis": values_on, "yaxis": names_on} if flat else {"xaxis": names_on, "yaxis": values_on}
    legend: dict[str, Any] = {"legend": {"traceorder": "reversed"}}
    if flat:  # numbers that do not fit their part of the bar are left out, at any width
        below = {**theme.BELOW, "font": {"size": 12}, "entrywidth": COLUMN}
        legend = {"height": 330, "legend": below, "uniformtext": {"minsize": 12, "mode": "hide"}}
        names_on |= {"visible": False}  # the category has no name
        legend["margin"] = {"l": 12}
    notes = _totals(totals, factor, flat=flat, unit=unit, dark=dark)
    return traces, {"barmode": "stack", "annotations": notes, **axes, **legend}


def _totals(totals: np.ndarray, factor: float, *, flat: bool, unit: str, dark: bool) -> list[dict[str, Any]]:
    """Totals at the end of the bars."""
    font = {"size": 14, "color": theme.ink(dark)}
    style = {"showarrow": False, "font": font, "bgcolor": theme.paper(dark), "borderpad": 1, "name": "total"}
    notes = []
    for index, value in enumerate(totals):  # positions on a category axis count from 0
        place = (
            {"x": value / factor, "y": index, "xanchor": "left", "xshift": 4}
            if flat
            else {"x": index, "y": value / factor, "yanchor": "bottom", "yshift": 2}
        )
        notes.append({"text": f"<b>{theme.short(value, unit)}</b>", **place, **style})
    return notes


def footprint(
    result: Result,
    *,
    along: str | None = None,
    at: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    title: str = "",
    along_title: str = "",
    dark: bool = False,
) -> go.Figure:
    """Stacked memory classes of the fullest device against the capacity of its local memory."""
    traces, layout = _stack(result, "memory", along, at, labels, along_title, dark=dark)
    capacities = {
        float(value) for cell in result._cells for value in np.ravel(cell.evaluation["tier_capacity"]["local"])
    }
    totals = sum(_terms(result, "memory", along, at).values(), np.zeros(1))
    factor, _ = theme.axis_scale(totals, "B")
    for capacity in capacities if len(capacities) == 1 else ():
        letter = "x" if along is None else "y"
        note: dict[str, Any] = {"xanchor": "right", "yanchor": "bottom"}
        if along is not None:
            note |= {"x": 1, "bgcolor": theme.paper(dark)}
        text = f"local memory, {engineering(capacity, 'B')}"
        marks = theme.line_at(capacity / factor, dark, letter=letter, text=text, **note)
        layout["shapes"] = marks["shapes"]
        layout["annotations"] = [*layout["annotations"], *marks["annotations"]]
        layout[f"{letter}axis"]["range"] = [
            0,
            ROOM[along is None] * float(np.max(np.append(totals, capacity))) / factor,
        ]
    return theme.drawn(traces, title=title, dark=dark, **layout)


# -- quantities over axes -----------------------------------------------------------------------------------


def heatmap(
    result: Result,
    quantity: str | xr.DataArray,
    x: str,
    y: str,
    *,
    at: Mapping[str, Any] | None = None,
    ignore: Sequence[str] = (),
    x_labels: Sequence[str] | None = None,
    y_labels: Sequence[str] | None = None,
    x_title: str = "",
    y_title: str = "",
    title: str = "",
    log: bool = False,
    dark: bool = False,
) -> go.Figure:
    """A quantity (or a ratio, as an array) over two axes; designs that break a rule are grey and say why.

    Args:
        ignore: rules that do not count here.
        log: colour by the logarithm.
    """
    columns, rows = _ticks(result, x, x_labels), _ticks(result, y, y_labels)
    array = pick(result, quantity, at)
    unit = str(array.attrs.get("units", ""))
    texts = pick(result, violated(result, ignore=ignore), at)
    if x == y or set(texts.dims) != {x, y}:
        rule = f"leaves the axes {', '.join(map(str, texts.dims))}; a heat map needs two, x and y"
        raise SpecError([Fault("at", "", rule)])
    grid = array.broadcast_like(texts).transpose(y, x).values.astype(float)
    reasons = texts.transpose(y, x).values
    good = (reasons == "") & np.isfinite(grid)
    cells = np.array([[theme.short(v, unit) if np.isfinite(v) else "" for v in row] for row in grid], dtype=object)
    hover = [
        [
            f"{x}: {columns[j]}<br>{y}: {rows[i]}<br><b>{cells[i][j]}</b>"
            + (f"<br>infeasible: {reasons[i][j]}" if reasons[i][j] else "")
            for j in range(len(columns))
        ]
        for i in range(len(rows))
    ]
    common = {
        "x": columns,
        "y": rows,
        "customdata": hover,
        "hovertemplate": "%{customdata}<extra></extra>",
        "xgap": 2,
        "ygap": 2,
        "texttemplate": "%{text}",
    }
    grey = {
        "type": "heatmap",
        "z": np.where(good, np.nan, 1.0),
        "colorscale": [[0, "#C9CDD4"], [1, "#C9CDD4"]],
        "showscale": False,
        "text": np.where(good, "", "✕ " + cells),
        "textfont": {"color": "#5A6070", "size": 14},
        **common,
    }
    colour = np.where(good, np.log10(np.where(grid > 0, grid, np.nan)) if log else grid, np.nan)
    words = str(array.attrs.get("long_name", "")) or theme.axis_title(str(array.name), "")
    bright = {
        "type": "heatmap",
        "z": colour,
        "colorscale": "Cividis",
        "colorbar": _colour_bar(colour, words, unit, log=log),
        "text": np.where(good, cells, ""),
        "textfont": {"size": 14},
        **common,
    }
    axes = {
        f"{letter}axis": {"type": "category", "showgrid": False, "title": {"text": given or theme.axis_title(name, "")}}
        for letter, name, given in (("x", x, x_title), ("y", y, y_title))
    }
    return theme.drawn([grey, bright], title=title, dark=dark, height=170 + max(52 * len(rows), 260), **axes)


def _colour_bar(colour: np.ndarray, words: str, unit: str, *, log: bool) -> dict[str, Any]:
    """A colour bar with six ticks in the unit of the cells."""
    bar: dict[str, Any] = {"title": {"text": words, "side": "right"}}
    if np.any(np.isfinite(colour)):
        marks = np.linspace(np.nanmin(colour), np.nanmax(colour), 6)
        values = 10**marks if log else marks
        bar.update(tickvals=marks, ticktext=[theme.short(value, unit) + NARROW for value in values])
    return bar


def lines(
    result: Result,
    quantity: str | xr.DataArray,
    along: str,
    *,
    by: str | None = None,
    at: Mapping[str, Any] | None = None,
    ignore: Sequence[str] = (),
    labels: Sequence[str] | None = None,
    reference: float | None = None,
    reference_label: str = "",
    x_title: str = "",
    y_title: str = "",
    by_title: str = "",
    title: str = "",
    log: bool = False,
    dark: bool = False,
) -> go.Figure:
    """A quantity along an axis, one line a value of ``by``; infeasible designs have open markers and say why."""
    import plotly.graph_objects as go

    array = pick(result, quantity, at)
    unit = str(array.attrs.get("units", ""))
    factor, shown = theme.axis_scale(array.values.ravel(), unit)
    texts = pick(result, violated(result, ignore=ignore), at)
    bound = axis_of(result, along, "along")
    figure = theme.blank(title, dark)
    numeric, x_shown = _numeric_axis(figure, bound)
    groups = list(axis_of(result, by, "by").coordinates) if by else [None]
    names = list(labels) if labels else (_ticks(result, by) if by else [""])
    for position, (value, name) in enumerate(zip(groups, names, strict=True)):
        fixed = {by: value} if by else {}
        values = np.atleast_1d(along_axis(result, pick(result, array, fixed), along, None).values)
        why = np.atleast_1d(along_axis(result, pick(result, texts, fixed), along, None).values)
        ticks = [theme.label(c, bound.unit) for c in bound.coordinates]
        hover = [
            f"<b>{name}</b><br>{c}: {engineering(v, unit)}" + (f"<br>infeasible: {w}" if w else "")
            for c, v, w in zip(ticks, values, why, strict=True)
        ]
        style = _line_style(position, [bool(w) for w in why])
        figure.add_trace(
            go.Scatter(
                x=numeric,
                y=values / factor,
                name=name,
                showlegend=by is not None,
                **style,
                customdata=hover,
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    figure.update_xaxes(title={"text": theme.with_unit(x_title or theme.axis_title(along, ""), x_shown)})
    name = str(array.attrs.get("long_name", "")) or theme.axis_title(str(array.name or ""), shown)
    figure.update_yaxes(title={"text": y_title or name})
    if log:
        figure.update_yaxes(type="log", **theme.log_ticks(array.values.ravel() / factor))
    else:
        figure.update_yaxes(rangemode="tozero")
    if by:
        figure.update_layout(legend={"title": {"text": by_title or theme.axis_title(by, "")}})
    if reference is not None:
        figure.add_hline(
            reference / factor,
            line={"dash": "dash", "color": theme.ink(dark), "width": 1.5},
            annotation={"text": reference_label, "xanchor": "right", "yanchor": "bottom"},
        )
    return figure


def _line_style(position: int, hollow: list[bool]) -> dict[str, Any]:
    """Colour and mark of a line; hollow marks are designs that break a rule."""
    colour, mark = theme.SPARE[position % len(theme.SPARE)], theme.MARKERS[position % len(theme.MARKERS)]
    symbols = [f"{mark}-open" if h else mark for h in hollow]
    marker = {"size": 9, "symbol": symbols, "color": colour, "line": {"width": 2, "color": colour}}
    return {"mode": "lines+markers", "cliponaxis": False, "line": {"width": 2.5, "color": colour}, "marker": marker}


def _numeric_axis(figure: go.Figure, bound: Any) -> tuple[list[Any], str]:
    """Positions and printed unit of an axis: a log scale where values spread widely, names where they are text."""
    values = bound.coordinates
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        figure.update_xaxes(type="category")
        return [str(v) for v in values], ""
    factor, unit = theme.axis_scale(values, bound.unit)
    if bound.axis.unit:  # the unit that the axis was declared in
        factor, unit = parse(f"1 {bound.axis.unit}", bound.unit), bound.axis.unit
    scaled = [v / factor for v in values]
    spread = min(scaled) > 0 and max(scaled) / min(scaled) >= 8
    if spread:
        gaps = np.diff(np.log(sorted(scaled))) if len(scaled) > 1 else np.array([1.0])
        wide = float(gaps.min()) / float(np.log(max(scaled) / min(scaled))) > 0.04
        ticks = {"tickvals": scaled, "ticktext": [f"{v:.5g}" for v in scaled]} if wide else {}
        figure.update_xaxes(type="log", **ticks)
    return scaled, unit
