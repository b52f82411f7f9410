"""Figures of simulations: bars side by side, stacked parts of the time, lines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.study.collective_plots import draw_collectives
from dse.study.simulated import chosen
from dse.study.simulations import UNITS, SimulationTable
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
    for field, name in (("along", figure.along or ""), *(("by", name) for name in by)):
        if name and name not in rows:
            known = "system, workload, variant, size, x, share_1, ..."
            raise SpecError([Fault(field, repr(name)[:60], f"must be one of {known}")])
    if figure.kind in ("sizes", "ratios", "spread"):
        return draw_collectives(figure, table, rows, dark)
    if figure.kind == "parts":
        return _parts(figure, table, rows, dark)
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


def _unit(figure: Figure) -> str:
    return "1" if figure.reference is not None else UNITS.get(figure.quantity, "1")


def _names(table: SimulationTable, rows: pd.DataFrame, column: str) -> list[str]:
    """What a column holds, as people read it: titles of systems, workloads and variants; numbers with units."""
    if rows[column].dtype.kind not in "fi":
        titles = table.block.titles.get(column, {})
        return [titles.get(value, value) for value in rows[column]]
    return [_label(column, value) for value in rows[column]]


def _label(column: str, value: Any) -> str:
    """A value of a column; sizes of whole binary megabytes are given in these."""
    if column == "size" and value % 2**20 == 0:
        return f"{value / 2**30:g} GiB" if value % 2**30 == 0 else f"{value / 2**20:g} MiB"
    return theme.label(value, UNITS.get(column, ""))


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
    return [f"<b>{name}</b><br>{a}: {engineering(v, unit)}" for a, v in zip(at, values, strict=True)]


def _bars(figure: Figure, table: SimulationTable, rows: pd.DataFrame, by: list[str], dark: bool) -> go.Figure:
    unit = _unit(figure)
    factor, shown = theme.axis_scale(rows["value"], unit)
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
                "text": [theme.short(v, unit) if len(rows) <= 24 else "" for v in values], "textposition": "outside",
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
    unit, along = _unit(figure), figure.along or "x"
    if along not in rows or rows[along].dtype.kind not in "fi":
        raise SpecError([Fault("along", repr(along)[:60], "must be a column of numbers: size, x, share_1, ...")])
    factor, shown = theme.axis_scale(rows["value"], unit)
    scale, x_shown = theme.axis_scale(rows[along], UNITS.get(along, "1"))
    traces = []
    for name, (first, second), part in _groups(table, rows, by):
        best = part.groupby(along)["value"]
        line = best.max() if figure.reference is not None else best.min()
        colour = theme.SPARE[first % len(theme.SPARE)]
        at = [_label(along, v) for v in line.index]
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
        places = {"tickvals": [tick / scale for tick in ticks], "ticktext": [_label(along, tick) for tick in ticks]}
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
    factor, shown = theme.axis_scale(total, "s")
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
        {"x": t / factor, "y": n, "text": f"<b>{theme.short(t, 's')}</b>", "showarrow": False, "xanchor": "left",
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
