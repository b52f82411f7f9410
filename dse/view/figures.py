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
from dse.view.reading import PHASES, along_axis, axis_of, operators, pick, violated

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    import xarray as xr

    from dse.explore.result import Result

NARROW = "\N{NO-BREAK SPACE}"  # a gap between the end of a bar and its label


def _ticks(result: Result, axis: str, labels: Sequence[str] | None = None) -> list[str]:
    bound = axis_of(result, axis, "axis")
    return list(labels) if labels else [theme.label(value, bound.unit) for value in bound.coordinates]


def _figure(title: str, dark: bool, **layout: Any) -> go.Figure:
    import plotly.graph_objects as go

    return go.Figure(layout={"template": theme.template(dark), "title": {"text": title}, "height": 560, **layout})


# -- where the time and the bytes go ------------------------------------------------------------------------


def _terms(result: Result, table: str, along: str | None, at: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
    """Entries of a breakdown that are not zero everywhere, as one number a design."""
    names = [name for name in result._entries() if name.startswith(f"{table}.")]
    if not names:
        raise SpecError([Fault("table", repr(table)[:40], "must be one of time, memory, tier, energy, cost")])
    found = {name: np.atleast_1d(along_axis(result, name, along, at).values).astype(float) for name in names}
    return {name.partition(".")[2]: values for name, values in found.items() if np.any(values)}


def breakdown(
    result: Result, *, along: str | None = None, table: str = "time", at: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None, title: str = "", along_title: str = "", dark: bool = False,
) -> go.Figure:  # fmt: skip
    """Stacked bars of a breakdown: one bar for one design, or one for each value of the axis ``along``."""
    import plotly.graph_objects as go

    terms = _terms(result, table, along, at)
    unit = result.unit(f"{table}.{next(iter(terms))}") if terms else ""
    totals = sum(terms.values(), np.zeros(len(next(iter(terms.values()))) if terms else 1))
    factor, shown = theme.axis_scale(totals, unit)
    names = _ticks(result, along, labels) if along else [""]
    figure = _figure(title, dark, barmode="stack")
    flat = along is None
    for position, (term, values) in enumerate(terms.items()):
        share = np.divide(values, totals, out=np.zeros_like(values), where=totals > 0)
        hover = [f"<b>{theme.term_title(term)}</b><br>{engineering(v, unit)}, {s:.1%} of {engineering(t, unit)}"
                 for v, s, t in zip(values, share, totals, strict=True)]  # fmt: skip
        inside = [theme.short(v, unit) if flat and s > 0.055 else "" for v, s in zip(values, share, strict=True)]
        bar = {"orientation": "h", "x": values / factor, "y": names} if flat else {"x": names, "y": values / factor}
        figure.add_trace(go.Bar(
            **bar, name=theme.term_title(term), meta=term, customdata=hover,
            hovertemplate="%{customdata}<extra></extra>", text=inside, textposition="inside",
            insidetextanchor="middle", textangle=0, constraintext="none",
            marker={**theme.fill(term, position), "line": {"width": 0.5, "color": theme.ink(not dark)}},
        ))  # fmt: skip
    _finish_bars(figure, totals, factor, flat=flat, unit=unit, dark=dark)
    value_axis, name_axis = ("xaxis", "yaxis") if flat else ("yaxis", "xaxis")
    figure.update_layout({value_axis: {"title": {"text": theme.axis_title(table, shown)}, "rangemode": "tozero"}})
    words = along_title or theme.axis_title(along or "", "")
    figure.update_layout({name_axis: {"type": "category", "title": {"text": words}, "showgrid": False}})
    return figure


def _finish_bars(figure: go.Figure, totals: np.ndarray, factor: float, *, flat: bool, unit: str, dark: bool) -> None:
    """Totals at the end of the bars, and the legend where it does not cover them."""
    style = {"showarrow": False, "font": {"size": 14, "color": theme.ink(dark)}, "bgcolor": theme.paper(dark),
             "borderpad": 1, "name": "total"}  # fmt: skip
    for index, value in enumerate(totals):  # positions on a category axis count from 0
        place = {"x": value / factor, "y": index, "xanchor": "left", "xshift": 4} if flat else \
                {"x": index, "y": value / factor, "yanchor": "bottom", "yshift": 2}  # fmt: skip
        figure.add_annotation(text=f"<b>{theme.short(value, unit)}</b>", **place, **style)
    top = float(np.max(totals, initial=0.0)) / factor or 1.0
    if flat:
        figure.update_layout(height=330, xaxis={"range": [0, top * 1.08]}, legend={"orientation": "h", "y": -0.45})
    else:
        figure.update_layout(yaxis={"range": [0, top * 1.09]}, legend={"traceorder": "reversed"})


def footprint(
    result: Result, *, along: str | None = None, at: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None, title: str = "", along_title: str = "", dark: bool = False,
) -> go.Figure:  # fmt: skip
    """Stacked memory classes of the fullest device against the capacity of its local memory."""
    figure = breakdown(result, along=along, table="memory", at=at, labels=labels, title=title, along_title=along_title,
                       dark=dark)  # fmt: skip
    capacities = {float(value) for cell in result._cells
                  for value in np.ravel(cell.evaluation["tier_capacity"]["local"])}  # fmt: skip
    totals = sum(_terms(result, "memory", along, at).values(), np.zeros(1))
    factor, _ = theme.axis_scale(totals, "B")
    for capacity in capacities if len(capacities) == 1 else ():
        line = {"color": theme.ink(dark), "dash": "dash", "width": 2}
        text, place, top = f"local memory, {engineering(capacity, 'B')}", capacity / factor, np.append(totals, capacity)
        axis_range = [0, 1.09 * float(np.max(top)) / factor]
        if along is None:
            figure.add_vline(place, line=line, annotation={"text": text, "xanchor": "right", "yshift": 18})
            figure.update_xaxes(range=axis_range)
        else:
            note = {"text": text, "xanchor": "right", "yanchor": "bottom", "bgcolor": theme.paper(dark)}
            figure.add_hline(place, line=line, annotation=note)
            figure.update_yaxes(range=axis_range)
    return figure


# -- quantities over axes -----------------------------------------------------------------------------------


def heatmap(
    result: Result, quantity: str | xr.DataArray, x: str, y: str, *, at: Mapping[str, Any] | None = None,
    ignore: Sequence[str] = (), x_labels: Sequence[str] | None = None, y_labels: Sequence[str] | None = None,
    x_title: str = "", y_title: str = "", title: str = "", log: bool = False, dark: bool = False,
) -> go.Figure:  # fmt: skip
    """A quantity (or a ratio, as an array) over two axes; designs that break a rule are grey and say why.

    Args:
        ignore: rules that do not count here.
        log: colour by the logarithm.
    """
    import plotly.graph_objects as go

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
    hover = [[f"{x}: {columns[j]}<br>{y}: {rows[i]}<br><b>{cells[i][j]}</b>"
              + (f"<br>infeasible: {reasons[i][j]}" if reasons[i][j] else "") for j in range(len(columns))]
             for i in range(len(rows))]  # fmt: skip
    figure = _figure(title, dark, height=170 + max(52 * len(rows), 260))
    common = {"x": columns, "y": rows, "customdata": hover, "hovertemplate": "%{customdata}<extra></extra>", "xgap": 2,
              "ygap": 2, "texttemplate": "%{text}"}  # fmt: skip
    figure.add_trace(go.Heatmap(z=np.where(good, np.nan, 1.0), colorscale=[[0, "#C9CDD4"], [1, "#C9CDD4"]],
                                showscale=False, text=np.where(good, "", "✕ " + cells),
                                textfont={"color": "#5A6070", "size": 14}, **common))  # fmt: skip
    colour = np.where(good, np.log10(np.where(grid > 0, grid, np.nan)) if log else grid, np.nan)
    words = str(array.attrs.get("long_name", "")) or theme.axis_title(str(array.name), "")
    figure.add_trace(go.Heatmap(z=colour, colorscale="Cividis", colorbar=_colour_bar(colour, words, unit, log=log),
                                text=np.where(good, cells, ""), textfont={"size": 14}, **common))  # fmt: skip
    figure.update_xaxes(type="category", showgrid=False, title={"text": x_title or theme.axis_title(x, "")})
    figure.update_yaxes(type="category", showgrid=False, title={"text": y_title or theme.axis_title(y, "")})
    return figure


def _colour_bar(colour: np.ndarray, words: str, unit: str, *, log: bool) -> dict[str, Any]:
    """A colour bar with six ticks in the unit of the cells."""
    bar: dict[str, Any] = {"title": {"text": words, "side": "right"}}
    if np.any(np.isfinite(colour)):
        marks = np.linspace(np.nanmin(colour), np.nanmax(colour), 6)
        values = 10**marks if log else marks
        bar.update(tickvals=marks, ticktext=[theme.short(value, unit) + NARROW for value in values])
    return bar


def lines(
    result: Result, quantity: str | xr.DataArray, along: str, *, by: str | None = None,
    at: Mapping[str, Any] | None = None, ignore: Sequence[str] = (), labels: Sequence[str] | None = None,
    reference: float | None = None, reference_label: str = "", x_title: str = "", y_title: str = "", by_title: str = "",
    title: str = "", log: bool = False, dark: bool = False,
) -> go.Figure:  # fmt: skip
    """A quantity along an axis, one line a value of ``by``; infeasible designs have open markers and say why."""
    import plotly.graph_objects as go

    array = pick(result, quantity, at)
    unit = str(array.attrs.get("units", ""))
    factor, shown = theme.axis_scale(array.values.ravel(), unit)
    texts = pick(result, violated(result, ignore=ignore), at)
    bound = axis_of(result, along, "along")
    figure = _figure(title, dark)
    numeric, x_shown = _numeric_axis(figure, bound)
    groups = list(axis_of(result, by, "by").coordinates) if by else [None]
    names = list(labels) if labels else (_ticks(result, by) if by else [""])
    for position, (value, name) in enumerate(zip(groups, names, strict=True)):
        fixed = {by: value} if by else {}
        values = np.atleast_1d(along_axis(result, pick(result, array, fixed), along, None).values)
        why = np.atleast_1d(along_axis(result, pick(result, texts, fixed), along, None).values)
        ticks = [theme.label(c, bound.unit) for c in bound.coordinates]
        hover = [f"<b>{name}</b><br>{c}: {engineering(v, unit)}" + (f"<br>infeasible: {w}" if w else "")
                 for c, v, w in zip(ticks, values, why, strict=True)]  # fmt: skip
        style = _line_style(position, [bool(w) for w in why])
        figure.add_trace(go.Scatter(x=numeric, y=values / factor, name=name, showlegend=by is not None, **style,
                                    customdata=hover, hovertemplate="%{customdata}<extra></extra>"))  # fmt: skip
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
        figure.add_hline(reference / factor, line={"dash": "dash", "color": theme.ink(dark), "width": 1.5},
                         annotation={"text": reference_label, "xanchor": "right", "yanchor": "bottom"})  # fmt: skip
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


# -- comparisons --------------------------------------------------------------------------------------------


def comparison(
    values: Mapping[str, float] | pd.Series, *, unit: str = "1", notes: Mapping[str, str] | None = None,
    highlight: Sequence[str] = (), value_title: str = "", title: str = "", log: bool = False, dark: bool = False,
) -> go.Figure:  # fmt: skip
    """Horizontal bars with their values; an entry without a number shows its note instead."""
    import plotly.graph_objects as go

    names = [str(name) for name in dict(values)]
    numbers = np.asarray([float(v) for v in dict(values).values()])
    factor, shown = theme.axis_scale(numbers, unit)
    notes = notes or {}
    text = [f"{NARROW}<b>{theme.short(v, unit)}</b>  {notes.get(n, '')}" if np.isfinite(v)
            else f"{NARROW}<i>{notes.get(n, 'none')}</i>" for n, v in zip(names, numbers, strict=True)]  # fmt: skip
    finite = np.where(np.isfinite(numbers), numbers, 0.0) / factor
    colours = [theme.SPARE[1] if n in highlight else theme.SPARE[0] for n in names]
    figure = _figure(title, dark, height=150 + 44 * max(len(names), 4), showlegend=False)
    figure.add_trace(go.Bar(x=finite, y=names, orientation="h", marker={"color": colours}, hovertext=text,
                            hoverinfo="y+text"))  # fmt: skip
    low = float(np.min(finite[finite > 0], initial=1.0)) / 2
    figure.add_trace(go.Scatter(x=np.where(finite > 0, finite, low if log else 0.0), y=names, mode="text", text=text,
                                textposition="middle right", hoverinfo="skip", cliponaxis=False,
                                textfont={"color": theme.ink(dark)}))  # fmt: skip
    top = float(np.max(finite, initial=0.0)) or 1.0
    spread = [np.log10(low), np.log10(top) + 0.35 * (np.log10(top) - np.log10(low) + 0.1)]
    figure.update_xaxes(title={"text": value_title or theme.axis_title("", shown)}, type="log" if log else "linear",
                        range=spread if log else [0, top * 1.35])  # fmt: skip
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
    figure = _figure(title, dark, height=190 + (48 if grouped else 26) * max(len(names), 3),
                     legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"})  # fmt: skip
    figure.add_trace(go.Bar(x=[2.0] * len(names), base=-1.0, y=names, orientation="h", width=0.7, name="tolerance",
                            marker={"color": "#C9CDD4"}, hoverinfo="skip"))  # fmt: skip
    for verdict, colour, symbol in (("pass", theme.GOOD, "circle"), ("short", theme.BAD, "x")):
        chosen = [i for i, v in enumerate(shown["verdict"]) if v == verdict]
        hover = [f"<b>{shown['check'].iloc[i]}</b><br>published → ours: {values[i]}" for i in chosen]
        figure.add_trace(go.Scatter(x=gap[chosen], y=[rows[i] for i in chosen], mode="markers", customdata=hover,
                                    name=f"{verdict} ({len(chosen)})", opacity=0.75,
                                    hovertemplate="%{customdata}<extra></extra>",
                                    marker={"size": 10, "symbol": symbol, "color": colour}))  # fmt: skip
    if not grouped:
        right = {"x": reach * 1.05, "xanchor": "left", "showarrow": False, "font": {"size": 13}}
        for row, text in zip(rows, values, strict=True):
            figure.add_annotation(y=row, text=text, **right)
    figure.update_xaxes(title={"text": "Difference / tolerance"}, zeroline=True,
                        range=[-reach, reach if grouped else 1.9 * reach])  # fmt: skip
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    return figure


# -- roofline -----------------------------------------------------------------------------------------------


def roofline(result: Result, *, title: str = "", name_most: int = 6, dark: bool = False) -> go.Figure:
    """Operational intensity against achieved FLOP/s under the memory and the compute roof; area: share of the time.

    Operators without floating-point work (copies, look-ups) have no place on a roofline and are left out.
    """
    import plotly.graph_objects as go

    table = operators(result)
    table = table[(table["work [FLOP]"] > 0) & (table["traffic [B]"] > 0) & (table["time [s]"] > 0)]
    evaluation = result._cells[0].evaluation
    peak, bandwidth = (float(np.asarray(evaluation[n]).item()) for n in ("matrix_peak", "memory_bandwidth"))
    intensity = table["work [FLOP]"] / table["traffic [B]"]
    rate = table["work [FLOP]"] / table["time [s]"]
    spent = table["time [s]"] * table["count"]
    figure = _figure(title, dark)
    ridge = peak / bandwidth
    low, high = min(0.5 * float(intensity.min()), 0.1 * ridge), max(2.0 * float(intensity.max()), 10 * ridge)
    roof = {"mode": "lines", "hoverinfo": "skip", "line": {"color": theme.ink(dark), "width": 2}}
    memory, compute = engineering(bandwidth, "B/s", 3), engineering(peak, "FLOP/s", 3)
    figure.add_trace(go.Scatter(x=[low, ridge], y=[low * bandwidth, peak], name=f"memory roof, {memory}", **roof))
    figure.add_trace(go.Scatter(x=[ridge, high], y=[peak, peak], name=f"compute roof, {compute}",
                                **{**roof, "line": {**roof["line"], "dash": "dash"}}))  # fmt: skip
    for mark, phase in zip(("circle", "square", "diamond"), PHASES, strict=True):
        chosen = table.index[table["phase"] == phase]
        hover = [f"<b>{table['operator'][i]}</b>, {theme.title_of(phase)}<br>{intensity[i]:.4g} FLOP/B, "
                 f"{engineering(rate[i], 'FLOP/s')}<br>{engineering(spent[i], 's')} a pass, "
                 f"{spent[i] / spent.sum():.1%}" for i in chosen]  # fmt: skip
        size = 8 + 34 * np.sqrt((spent[chosen] / spent.sum()).to_numpy())
        figure.add_trace(go.Scatter(
            x=intensity[chosen], y=rate[chosen], name=theme.title_of(phase), customdata=hover, mode="markers",
            hovertemplate="%{customdata}<extra></extra>", cliponaxis=False, opacity=0.8,
            marker={"size": size, "symbol": mark, "color": theme.colour_of(phase),
                    "line": {"width": 1, "color": theme.ink(dark)}},
        ))  # fmt: skip
    _name_points(figure, table["operator"], intensity, rate, spent, name_most)
    figure.update_xaxes(type="log", title={"text": "Operational intensity [FLOP/B]"}, dtick=1)
    figure.update_yaxes(type="log", title={"text": "Achieved rate of one device [FLOP/s]"}, dtick=1)
    figure.update_yaxes(exponentformat="SI", tickformat="~s")
    return figure


def _name_points(figure: go.Figure, names: pd.Series, x: pd.Series, y: pd.Series, weight: pd.Series, most: int) -> None:
    """Name the heaviest operators; points that lie together share one label beneath them."""
    labels: list[tuple[float, float, list[str]]] = []
    for i in weight.sort_values(ascending=False, kind="stable").index:
        at, name = (float(np.log10(x[i])), float(np.log10(y[i]))), str(names[i]).partition(".")[2]
        near = next((lab for lab in labels if abs(lab[0] - at[0]) < 0.35 and abs(lab[1] - at[1]) < 0.25), None)
        if near is None and len(labels) < most:
            labels.append((*at, [name]))
        elif near is not None and name not in near[2]:
            near[2].append(name)
    for left, height, found in labels:
        text = "<br>".join([*found[:4], *([f"and {len(found) - 4} more"] if len(found) > 4 else [])])
        figure.add_annotation(x=left, y=height, text=text, showarrow=False, yanchor="top", yshift=-18, font_size=12)
