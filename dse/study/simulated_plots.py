"""Figures of simulations: bars side by side, stacked parts of the time, lines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.study.collective_plots import draw_collectives
from dse.study.simulated import chosen
from dse.study.simulations import SimulationTable
from dse.units import engineering
from dse.view import theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dse.study.spec import Figure

# Parts of the time, from the bottom: column, title, colour, hatch.
PARTS = (
    ("compute", "compute", "#0772DF", ""),
    ("exposed_comm", "exposed communication", "#EE6B2A", ""),
    ("exposed_memory", "exposed memory", "#FBAE1E", "/"),
    ("idle", "idle", "#B2B2B2", ""),
)
HATCHES = ("", "/", "x", ".")
TITLES = {"time": "time", "exposed": "exposed time", "algbw": "bytes of the buffer per second", "size": "size"}


def draw_simulated(figure: Figure, table: SimulationTable, *, dark: bool = False) -> go.Figure:
    """A figure of a block of simulations.

    Raises:
        SpecError: a column that is not there, or several rows on one place of the figure.
    """
    figure = figure.model_copy(update={"quantity": _quantity(figure)})
    rows = chosen(table, figure.quantity, figure.at, _reference(figure))
    by = [name.strip() for name in (figure.by or "").split(",") if name.strip()]
    for field, name in (
        ("along", figure.along or ""),
        *(("by", name) for name in by),
        ("x", figure.x or ""),
        ("y", figure.y or ""),
    ):
        if name and name not in rows:
            known = ", ".join(column for column in rows if table.is_key(column))
            raise SpecError([Fault(field, repr(name)[:60], f"must be one of {known}")])
    if figure.kind in ("sizes", "ratios", "spread"):
        return draw_collectives(figure, table, rows, dark)
    if figure.kind == "parts":
        return _parts(figure, table, rows, dark)
    if figure.kind == "grid":
        return _grid(figure, table, rows, dark)
    draw = _bars if figure.kind == "bars" else _curves
    return draw(figure, table, rows, by, dark)


def _quantity(figure: Figure) -> str:
    """The column that is drawn: the time, unless the figure names one."""
    named = "quantity" in figure.model_fields_set and figure.kind not in ("parts", "sizes")
    if figure.kind == "ratios":
        return "ratio"
    return figure.quantity if named else "time"


def _reference(figure: Figure) -> dict[str, Any] | None:
    if figure.reference is None:
        return None
    if figure.reference.run is not None:
        raise SpecError([Fault("reference.run", figure.reference.run, "a reference is a row of the same simulations")])
    return figure.reference.at


def _unit(figure: Figure, table: SimulationTable) -> str:
    return "1" if figure.reference is not None else table.units.get(figure.quantity, "1")


def _names(table: SimulationTable, rows: pd.DataFrame, column: str) -> list[str]:
    """What a column holds, as people read it: titles of systems, workloads and variants; numbers with units."""
    if rows[column].dtype.kind not in "fi":
        titles = (table.titles or {}).get(column, {})
        return [titles.get(value, value) for value in rows[column]]
    return [_label(table, column, value) for value in rows[column]]


def _label(table: SimulationTable, column: str, value: Any) -> str:
    """A value of a column; bytes that are whole binary kilobytes are given in binary units."""
    unit = table.units.get(column, "")
    if unit == "B" and value >= 1024 and value % 1024 == 0:
        power = min(int(np.log2(value)) // 10, 4)
        return f"{value / 1024**power:.4g} {' KMGT'[power]}iB"
    return _short(value, unit) if unit == "%" else theme.label(value, unit)


def _short(value: float, unit: str, digits: int = 3) -> str:
    """A number in a figure; fractions with the unit % as percentages."""
    if unit == "%":
        return f"{100 * value:.{digits}g} %"
    return theme.short(value, unit) if digits == 3 else engineering(value, unit)


def _scale(values: Any, unit: str) -> tuple[float, str]:
    return (0.01, "%") if unit == "%" else theme.axis_scale(values, unit)


def _groups(table: SimulationTable, rows: pd.DataFrame, by: list[str]) -> list[tuple[str, tuple[int, ...], Any]]:
    """Rows by the values of some columns: name, place of each value among those of its column, the rows."""
    if not by:
        return [("", (0, 0), rows)]
    places = [list(dict.fromkeys(rows[name])) for name in by]
    found = []
    for key in dict.fromkeys(zip(*(rows[name] for name in by), strict=True)):
        match = np.logical_and.reduce([(rows[n] == v).to_numpy() for n, v in zip(by, key, strict=True)])
        part = rows[match]
        where = tuple(place.index(v) for place, v in zip(places, key, strict=True))
        found.append((", ".join(_names(table, part, name)[0] for name in by), (*where, 0)[:2], part))
    return found


def _value_axis(figure: Figure, values: Any, shown: str) -> dict[str, Any]:
    words = figure.value_title or theme.sentence(TITLES.get(figure.quantity, figure.quantity.replace("_", " ")))
    axis: dict[str, Any] = {"title": {"text": theme.with_unit(words, shown)}}
    if figure.log:
        return {**axis, "type": "log", **theme.log_ticks(values)}
    return {**axis, "rangemode": "tozero"}


def _told(name: str, at: list[str], values: Any, unit: str) -> list[str]:
    """What a mark says when pointed at."""
    return [f"<b>{name}</b><br>{a}: {_short(v, unit, 4)}" for a, v in zip(at, values, strict=True)]


def _bars(figure: Figure, table: SimulationTable, rows: pd.DataFrame, by: list[str], dark: bool) -> go.Figure:
    unit = _unit(figure, table)
    factor, shown = _scale(rows["value"], unit)
    along = figure.along or "system"
    names = list(dict.fromkeys(_names(table, rows, along)))
    traces = []
    for name, (first, second), part in _groups(table, rows, by):
        at = _names(table, part, along)
        _once(at, figure)
        values = part["value"].to_numpy(float)
        hatch = {"shape": HATCHES[second % len(HATCHES)], "fillmode": "overlay", "fgcolor": "#FFFFFF", "solidity": 0.35}
        traces.append(
            {
                "type": "bar", "name": name, "showlegend": bool(by), "x": at, "y": values / factor,
                "marker": {"color": theme.SPARE[first % len(theme.SPARE)], "pattern": hatch},
                "customdata": _told(name, at, values, unit),
                "hovertemplate": "%{customdata}<extra></extra>",
                "text": [_short(v, unit) if len(rows) <= 24 else "" for v in values], "textposition": "outside",
                "textfont": {"size": 11}, "cliponaxis": False,
            }
        )  # fmt: skip
    words = figure.x_title or theme.sentence(TITLES.get(along, along))
    axis = {"type": "category", "categoryarray": names, "categoryorder": "array", "title": {"text": words}}
    rule = _line(figure, factor, dark)
    return theme.drawn(
        traces, title=figure.title, dark=dark, barmode="group", xaxis={**axis, "showgrid": False},
        yaxis=_value_axis(figure, rows["value"] / factor, shown), legend=_legend(figure, by), **rule,
    )  # fmt: skip


def _curves(figure: Figure, table: SimulationTable, rows: pd.DataFrame, by: list[str], dark: bool) -> go.Figure:
    unit, along = _unit(figure, table), figure.along or "x"
    if along not in rows or rows[along].dtype.kind not in "fi":
        raise SpecError([Fault("along", repr(along)[:60], "must be a column of numbers: size, x, share_1, ...")])
    factor, shown = _scale(rows["value"], unit)
    scale, x_shown = _scale(rows[along], table.units.get(along, "1"))
    traces = []
    for name, (first, second), part in _groups(table, rows, by):
        best = part.groupby(along)["value"]
        line = best.max() if figure.reference is not None else best.min()
        colour = theme.SPARE[first % len(theme.SPARE)]
        at = [_label(table, along, v) for v in line.index]
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": name, "showlegend": bool(by),
                "x": line.index.to_numpy(float) / scale, "y": line.to_numpy(float) / factor, "cliponaxis": False,
                "line": {"width": 2.5, "color": colour, "dash": theme.DASHES[second % len(theme.DASHES)]},
                "marker": {"size": 8, "color": colour, "symbol": theme.MARKERS[(first + second) % len(theme.MARKERS)]},
                "customdata": _told(name, at, line, unit),
                "hovertemplate": "%{customdata}<extra></extra>",
            }
        )  # fmt: skip
    words = theme.with_unit(figure.x_title or theme.sentence(TITLES.get(along, along)), x_shown)
    axis: dict[str, Any] = {"title": {"text": words}}
    if along == "size":
        ticks = sorted(set(rows[along]))
        texts = [_label(table, along, tick) for tick in ticks]
        places = {"tickvals": [tick / scale for tick in ticks], "ticktext": texts}
        axis = {"title": {"text": figure.x_title or "Size"}, "type": "log", **places}
    return theme.drawn(
        traces, title=figure.title, dark=dark, xaxis=axis, yaxis=_value_axis(figure, rows["value"] / factor, shown),
        legend=_legend(figure, by), **_line(figure, factor, dark),
    )  # fmt: skip


def _parts(figure: Figure, table: SimulationTable, rows: pd.DataFrame, dark: bool) -> go.Figure:
    """Stacked bars: what devices do in the time, mean over the ranks; a bar for each row."""
    rows = rows.dropna(subset=[name for name, *_ in PARTS])
    labels = [figure.along or "system", *([figure.by] if figure.by else [])]
    names = [", ".join(pair) for pair in zip(*(_names(table, rows, column) for column in labels), strict=True)]
    _once(names, figure)
    total = rows["time"].to_numpy(float)
    factor, shown = _scale(total, "s")
    traces = []
    for column, title, colour, hatch in PARTS:
        values = rows[column].to_numpy(float)
        if not (values > 1e-9 * total).any():
            continue
        pattern = {"shape": hatch, "fillmode": "overlay", "fgcolor": "#FFFFFF", "solidity": 0.15, "size": 9}
        told = [
            f"<b>{n}</b><br>{title}: {engineering(v, 's')}, {v / t:.1%}"
            for n, v, t in zip(names, values, total, strict=True)
        ]
        traces.append(
            {"type": "bar", "orientation": "h", "name": title, "x": values / factor, "y": names, "customdata": told,
             "marker": {"color": colour, "pattern": pattern}, "hovertemplate": "%{customdata}<extra></extra>"}
        )  # fmt: skip
    notes = [
        {"x": t / factor, "y": n, "text": f"<b>{_short(t, 's')}</b>", "showarrow": False, "xanchor": "left",
         "xshift": 4}
        for n, t in zip(names, total, strict=True)
    ]  # fmt: skip
    return theme.drawn(
        traces, title=figure.title, dark=dark, barmode="stack", annotations=notes, height=190 + 34 * max(len(names), 4),
        xaxis={"title": {"text": theme.with_unit(figure.value_title or "Time", shown)},
               "range": [0, 1.12 * float(total.max()) / factor]},
        yaxis={"type": "category", "autorange": "reversed", "showgrid": False}, legend=theme.BELOW,
        margin={"b": 100},
    )  # fmt: skip


def _grid(figure: Figure, table: SimulationTable, rows: pd.DataFrame, dark: bool) -> go.Figure:
    """A heat map over two columns, each value of theirs a place, in the order of the table or of the numbers."""
    across, down = figure.x or "", figure.y or ""
    if rows.duplicated([across, down]).any():
        raise SpecError([Fault("at", "", f"several rows of {figure.run} are on one place: name more columns")])
    columns, lines = _places(rows[across]), _places(rows[down])
    z = rows.set_index([down, across])["value"].unstack().reindex(index=lines, columns=columns).to_numpy(float)
    unit = _unit(figure, table)
    factor, shown = _scale(z[np.isfinite(z)], unit)
    names = [[_label(table, name, v) for v in values] for name, values in ((across, columns), (down, lines))]
    if titles := table.titles:
        names = [[titles.get(n, {}).get(v, v) for v in found] for n, found in zip((across, down), names, strict=True)]
    text = [[_short(v, unit) if np.isfinite(v) else "" for v in row] for row in z]
    words = figure.value_title or theme.sentence(TITLES.get(figure.quantity, figure.quantity.replace("_", " ")))
    colour = np.log10(np.where(z > 0, z, np.nan)) if figure.log else z / factor
    bar: dict[str, Any] = {"title": {"text": theme.with_unit(words, shown), "side": "right"}}
    if figure.log and np.isfinite(colour).any():
        marks = np.linspace(np.nanmin(colour), np.nanmax(colour), 5)
        bar |= {"tickvals": marks, "ticktext": [_short(10**m, unit) for m in marks]}
    heat = {
        "type": "heatmap", "x": names[0], "y": names[1], "z": colour, "colorbar": bar,
        "xgap": 1, "ygap": 1, **_colours(z),
        "text": text if z.size <= 150 else None, "texttemplate": "%{text}" if z.size <= 150 else None,
        "customdata": text, "hoverongaps": False,
        "hovertemplate": f"{theme.sentence(across)}: %{{x}}<br>{theme.sentence(down)}: %{{y}}<br>"
                         "<b>%{customdata}</b><extra></extra>",
    }  # fmt: skip
    axes = [
        {"type": "category", "title": {"text": given or theme.sentence(name.replace("_", " "))}, "showgrid": False}
        for given, name in ((figure.x_title, across), (figure.y_title, down))
    ]
    return theme.drawn([heat], title=figure.title, dark=dark, xaxis=axes[0], yaxis=axes[1])


def _colours(z: np.ndarray) -> dict[str, Any]:
    """Gains and losses on either side of a neutral zero; else one ramp."""
    finite = z[np.isfinite(z)]
    if len(finite) and finite.min() < 0 < finite.max():
        return {"colorscale": "RdBu", "zmid": 0.0}
    return {"colorscale": "Cividis"}


def _places(column: pd.Series) -> list[Any]:
    """The different values of a column: numbers in order, names as they come."""
    values = list(dict.fromkeys(column))
    return sorted(values) if column.dtype.kind in "fi" else values


def _legend(figure: Figure, by: list[str]) -> dict[str, Any]:
    return {"title": {"text": figure.by_title or theme.sentence(" and ".join(by))}}


def _line(figure: Figure, factor: float, dark: bool) -> dict[str, Any]:
    if figure.line is None:
        return {}
    side = "bottom" if figure.kind == "bars" else "top"  # lines run above what bounds them
    found = theme.line_at(figure.line / factor, dark, letter="y", text=figure.line_label, yanchor=side)
    for note in found["annotations"]:  # which count in powers of ten on a logarithmic axis
        note |= {"x": 0, "xanchor": "left", "y": math.log10(note["y"]) if figure.log else note["y"]}
    return found


def _once(names: list[str], figure: Figure) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SpecError([Fault("at", twice[:60], f"several rows of {figure.run} are on this place: name more columns")])
