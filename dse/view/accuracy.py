"""Figures of accuracy: predicted against measured, and how a sweep is ranked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.units import engineering
from dse.view import theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

WORDS = {"s": "step time", "GiB": "peak memory"}
FEW = 60  # rows beyond which whiskers in the panel of errors hide them


def predicted_vs_measured(
    rows: pd.DataFrame,
    *,
    colour: str = "source",
    unit: str = "s",
    band: float = 0.1,
    title: str = "",
    dark: bool = False,
) -> go.Figure:
    """Predicted over measured values, one mark a row, with the interval of each prediction; beside it the errors.

    Args:
        rows: columns ``id``, ``measured`` and ``predicted``; where they are there, ``low`` and ``high`` (the interval,
            as whiskers), ``design`` or ``reason`` (for the hover text) and the column named by ``colour``. The rows of
            ``dse.accuracy.validate.validate_training().rows`` are such a table. Rows without both values are left out.
        colour: column whose values have a colour each: ``source``, ``hardware``, ``stack`` or another.
        unit: of all the values: ``s`` for step times, ``GiB`` for memory.
        band: relative error of the shaded band around the line of no error.
    """
    from plotly.subplots import make_subplots

    measured, predicted = rows["measured"].to_numpy(float), rows["predicted"].to_numpy(float)
    kept = rows[np.isfinite(measured) & np.isfinite(predicted) & (measured > 0) & (predicted > 0)]
    groups = kept[colour].astype(str) if colour in kept else kept["id"].map(lambda _: "rows")
    if not len(kept):
        note = {"text": "no row has both a measured and a predicted value", "showarrow": False}
        figure = theme.blank(title, dark, xaxis={"visible": False}, yaxis={"visible": False})
        return figure.add_annotation(**note, x=0.5, y=0.5, xref="paper", yref="paper")
    columns = 3 if groups.str.len().max() > 14 else 4
    height = 650 + 22 * math.ceil((groups.nunique() + 2) / columns)
    figure = make_subplots(1, 2, figure=theme.blank(title, dark, height=height), horizontal_spacing=0.09)
    ends = _ends(kept)
    _band(figure, ends, band, dark)
    names = list(groups.unique())  # in the order of the table; large groups are drawn first, beneath the others
    for name, part in sorted(kept.groupby(groups, sort=False), key=lambda item: -len(item[1])):
        position = names.index(name)
        _marks(figure, part, str(name), position, unit, whiskers=len(kept) <= FEW)
    _axes(figure, kept, ends, unit)
    place = {"orientation": "h", "x": 0, "y": -0.14, "yanchor": "top"}
    place.update(entrywidth=0.96 / columns, entrywidthmode="fraction")
    name = colour.upper() if colour == "gpu" else colour.replace("_", " ").capitalize()
    words = f"{name} (rows, median error)"
    figure.update_layout(legend={**place, "title": {"text": words, "side": "top"}}, margin={"b": 40})
    return figure


def _axes(figure: go.Figure, rows: pd.DataFrame, ends: tuple[float, float], unit: str) -> None:
    words = WORDS.get(unit, "value")
    log = {"type": "log", "range": [math.log10(end) for end in ends], **_ticks(ends)}
    figure.update_xaxes(**log, title={"text": f"Measured {words} [{unit}]"})
    figure.update_yaxes(**log, title={"text": f"Predicted {words} [{unit}]"}, col=1)
    names = ["predicted", *(name for name in ("low", "high") if name in rows and len(rows) <= FEW)]
    errors = 100 * (rows[names].div(rows["measured"], axis=0) - 1).to_numpy(float)
    reach = max(14.0, 1.1 * float(np.nanmax(np.abs(errors))))
    figure.update_yaxes(
        title={"text": "Error, predicted / measured − 1 [%]", "standoff": 4}, range=[-reach, reach], col=2
    )


def _ticks(ends: tuple[float, float]) -> dict[str, Any]:
    """The theme's ticks, or finer ones where the range is narrow."""
    low, high = ends
    ticks = theme.log_ticks(ends)
    if sum(low <= value <= high for value in ticks.get("tickvals", ())) >= 3:
        return ticks
    step = 10.0 ** math.floor(math.log10(high - low))
    step = next(s for s in (step / 5, step / 2, step, 2 * step) if (high - low) / s <= 9)
    found = [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return {"tickvals": found, "ticktext": [f"{value:.6g}" for value in found]}


def _ends(rows: pd.DataFrame) -> tuple[float, float]:
    """The range of the logarithmic axes: all values and whiskers, with a margin."""
    names = [name for name in ("measured", "predicted", "low", "high") if name in rows]
    values = rows[names].to_numpy(float)
    values = values[np.isfinite(values) & (values > 0)]
    margin = max(1.08, (values.max() / values.min()) ** 0.03)
    return float(values.min() / margin), float(values.max() * margin)


def _band(figure: go.Figure, ends: tuple[float, float], band: float, dark: bool) -> None:
    """The line of no error and the band around it, in both panels."""
    import plotly.graph_objects as go

    low, high = ends
    shade = {"mode": "lines", "fill": "toself", "fillcolor": "rgba(136,136,136,0.28)", "line": {"width": 0}}
    line = {"mode": "lines", "line": {"color": theme.ink(dark), "width": 1.5, "dash": "dash"}}
    around = [low, high, high, low]
    for column, edges, middle in (
        (1, [low * (1 - band), high * (1 - band), high * (1 + band), low * (1 + band)], [low, high]),
        (2, [-100 * band, -100 * band, 100 * band, 100 * band], [0.0, 0.0]),
    ):
        common = {"hoverinfo": "skip", "showlegend": column == 1}
        area = go.Scatter(x=around, y=edges, name=f"within {100 * band:g} %", legendrank=1, **shade, **common)
        ideal = go.Scatter(x=[low, high], y=middle, name="no error", legendrank=2, **line, **common)
        figure.add_trace(area, row=1, col=column)
        figure.add_trace(ideal, row=1, col=column)


def _marks(figure: go.Figure, part: pd.DataFrame, name: str, position: int, unit: str, *, whiskers: bool) -> None:
    """The rows of one colour in both panels, with whiskers where intervals are given."""
    import plotly.graph_objects as go

    tint = theme.SPARE[position % len(theme.SPARE)]
    symbol = theme.MARKERS[(position + position // len(theme.SPARE)) % len(theme.MARKERS)]
    measured, predicted = part["measured"].to_numpy(float), part["predicted"].to_numpy(float)
    error, many = 100 * (predicted / measured - 1), len(part) > 100
    mark = {"size": 6 if many else 9, "color": tint, "symbol": symbol, "opacity": 0.7 if many else 0.95}
    common = {"mode": "markers", "marker": mark, "legendgroup": name, "hovertemplate": "%{customdata}<extra></extra>",
              "customdata": [_hover(row, unit) for row in part.to_dict("records")]}  # fmt: skip
    label = f"{name} ({len(part)}, {np.median(np.abs(error)):.1f} %)"
    line = {"color": _faint(tint, 0.18 if many else 0.6), "thickness": 1.2, "width": 0}
    left, right = _whiskers(part, 1.0, line), _whiskers(part, 100 / measured, line) if whiskers else {}
    first = go.Scatter(x=measured, y=predicted, name=label, legendrank=10 + position, **left, **common)
    figure.add_trace(first, row=1, col=1)
    figure.add_trace(go.Scatter(x=measured, y=error, showlegend=False, **right, **common), row=1, col=2)


def _whiskers(part: pd.DataFrame, scale: Any, line: dict[str, Any]) -> dict[str, Any]:
    if not {"low", "high"} <= set(part):
        return {}
    predicted = part["predicted"].to_numpy(float)
    up, down = part["high"].to_numpy(float) - predicted, predicted - part["low"].to_numpy(float)
    ends = {"array": np.nan_to_num(up * scale), "arrayminus": np.nan_to_num(down * scale)}
    return {"error_y": {"symmetric": False, **ends, **line}}


def _faint(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def _hover(row: dict[str, Any], unit: str) -> str:
    """Id, where it is from, the design, and the two values with the interval."""
    measured, predicted = float(row["measured"]), float(row["predicted"])
    places = [str(row[name]) for name in ("source", "model", "hardware") if _given(row.get(name))]
    if _given(row.get("n_gpus")):
        places.append(f"{float(row['n_gpus']):,.0f} devices")
    lines = [f"<b>{row['id']}</b>  {', '.join(places)}"]
    lines += [str(row[name]) for name in ("design", "reason") if _given(row.get(name))]
    interval = (
        f" ({_value(row['low'], unit)} to {_value(row['high'], unit)})"
        if _given(row.get("low")) and _given(row.get("high"))
        else ""
    )
    lines.append(f"measured {_value(measured, unit)}, predicted {_value(predicted, unit)}{interval}")
    return "<br>".join([*lines, f"error {predicted / measured - 1:+.1%}"])


def _given(value: Any) -> bool:
    return value is not None and value == value and value != ""


def _value(value: float, unit: str) -> str:
    return engineering(float(value), "s", 4) if unit == "s" else f"{float(value):.4g} {unit}"


# -- ranking --------------------------------------------------------------------------------------------------


def ranking(places: pd.DataFrame, *, title: str = "", dark: bool = False) -> go.Figure:
    """The place of each design in its sweep, measured and predicted: a panel for each sweep, the fastest first.

    Args:
        places: a row a design: ``sweep``, ``id``, ``measured_place``, ``predicted_place`` (1 is the fastest),
            ``measured`` and ``predicted`` (what is ranked), and where it is there ``design``.
    """
    from plotly.subplots import make_subplots

    names = list(dict.fromkeys(places["sweep"].astype(str)))
    columns = min(len(names), 5 if len(names) > 12 else 4) or 1
    rows = max(1, math.ceil(len(names) / columns))
    panel, gap, edges = (
        190 if rows > 1 else 320,
        100,
        240,
    )  # pixels: a panel, between rows of panels, above and below all of them
    height = edges + rows * panel + (rows - 1) * gap
    grid = {"horizontal_spacing": 0.05, "vertical_spacing": gap / (height - edges) if rows > 1 else 0.0}
    figure = theme.blank(title, dark, height=height)
    titles = [_heading(places, name) for name in names]
    figure = make_subplots(rows, columns, figure=figure, subplot_titles=titles, **grid)
    for index, name in enumerate(names):
        part = places[places["sweep"].astype(str) == name]
        _panel(figure, part, (index // columns + 1, index % columns + 1), first=index == 0, dark=dark)
    figure.update_annotations(font_size=12.5, yshift=2)
    wide = {"showarrow": False, "xref": "paper", "yref": "paper", "font": {"size": 15}}
    figure.add_annotation(text="Measured place", x=0.5, y=0, yanchor="top", yshift=-28, **wide)
    figure.add_annotation(text="Predicted place", x=0, y=0.5, xanchor="right", xshift=-34, textangle=-90, **wide)
    legend = {"orientation": "h", "x": 1, "xanchor": "right", "y": -60 / (height - edges), "yanchor": "top"}
    figure.update_layout(legend=legend, margin={"t": 130, "b": 110, "l": 80})
    return figure


def _heading(places: pd.DataFrame, name: str) -> str:
    """A sweep's name on two lines, and what the pick of the prediction costs."""
    part = places[places["sweep"].astype(str) == name]
    pick = part.loc[part["predicted_place"].astype(float).idxmin()]
    regret = float(pick["measured"]) / part["measured"].min() - 1
    return f"{name.replace(', ', '<br>', 1)}<br>{len(part)} designs, regret {regret:.1%}"


def _panel(figure: go.Figure, part: pd.DataFrame, cell: tuple[int, int], *, first: bool, dark: bool) -> None:
    import plotly.graph_objects as go

    top = float(max(part["measured_place"].max(), part["predicted_place"].max()))
    pad = 0.06 * top + 0.4
    line = {"color": theme.ink(dark), "width": 1, "dash": "dash"}
    place = {"row": cell[0], "col": cell[1]}
    same = {"x": [1, top], "y": [1, top], "mode": "lines", "line": line, "hoverinfo": "skip"}
    figure.add_trace(go.Scatter(**same, name="same place", showlegend=first), **place)
    chosen = part["predicted_place"] == part["predicted_place"].min()
    for mask, name, colour, symbol, size in (
        (~chosen, "designs", theme.SPARE[0], "circle", 7),
        (chosen, "predicted fastest", theme.SPARE[1], "diamond", 12),
    ):
        some = part[mask]
        hover = [_place_hover(row, part["measured"].min()) for row in some.to_dict("records")]
        mark = {"color": colour, "size": size, "symbol": symbol, "opacity": 0.75 if symbol == "circle" else 1.0}
        points = {"x": some["measured_place"], "y": some["predicted_place"], "mode": "markers", "marker": mark}
        text = {"customdata": hover, "hovertemplate": "%{customdata}<extra></extra>"}
        figure.add_trace(go.Scatter(**points, **text, name=name, showlegend=first, cliponaxis=False), **place)
    ticks = sorted({1, round((1 + top) / 2), round(top)})
    figure.update_xaxes(range=[1 - pad, top + pad], tickvals=ticks, zeroline=False, **place)
    figure.update_yaxes(range=[1 - pad, top + pad], tickvals=ticks, zeroline=False, **place)


def _place_hover(row: dict[str, Any], fastest: float) -> str:
    design = f"<br>{row['design']}" if _given(row.get("design")) else ""
    places = f"place {row['measured_place']:.0f} measured, {row['predicted_place']:.0f} predicted"
    return f"<b>{row['id']}</b>{design}<br>{places}<br>{float(row['measured']) / fastest - 1:+.1%} on the fastest"
