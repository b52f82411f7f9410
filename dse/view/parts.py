"""Parts of the figures of searches and of tables of designs: axes, intervals, and designs as parallel lines."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.view import theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ALL_WHISKERS, SOME_WHISKERS = 40, 25  # up to so many points each has its interval, beyond that so many have
TICKS = 5  # of an axis of the parallel lines
SMOOTH = 100  # steps in which a range can be chosen on one of them
UNSEEN = {ord("0"): "\N{ZERO WIDTH SPACE}", ord("1"): "\N{ZERO WIDTH NON-JOINER}"}
FAINT, WHISKER = "#B2B2B2", "rgba(7,114,223,0.35)"
CROSS = {"symbol": "x-thin", "size": 7, "line": {"width": 1.2, "color": FAINT}}
DOT = {"size": 6, "color": FAINT, "opacity": 0.55}


def axis(words: str, values: np.ndarray) -> dict[str, Any]:
    """An axis with its title; logarithmic where the values are positive and spread more than eightfold."""
    found: dict[str, Any] = {"title": {"text": words}}
    return found | ({"type": "log", **theme.log_ticks(values)} if spreads(values) else {})


def spreads(values: np.ndarray) -> bool:
    """Are the values positive, and the largest more than eight times the smallest?"""
    finite = values[np.isfinite(values)]
    return bool(len(finite) > 1 and finite.min() > 0 and finite.max() > 8 * finite.min())


def whiskers(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """Error bars between two ends."""
    line = {"color": WHISKER, "thickness": 1, "width": 0}
    return {"symmetric": False, "array": high - values, "arrayminus": values - low, **line}


def interval_trace(x: np.ndarray, y: np.ndarray, bars: Mapping[str, Any]) -> dict[str, Any]:
    """Intervals as a trace of their own, that can be switched off."""
    behind = {"symbol": "line-ew", "size": 10, "line": {"width": 1.5, "color": WHISKER}}  # for the legend
    return {
        "type": "scatter", "x": x, "y": y, "name": "90 % interval", "mode": "markers", "marker": behind,
        "hoverinfo": "skip", **bars,
    }  # fmt: skip


def coloured(values: np.ndarray, words: str, dark: bool, *, less: bool = True) -> dict[str, Any]:
    """Lines coloured by a value, with its bar; the best (``less``: the least) stand out from the background.

    Plotly draws lines of a higher colour over the others, so that less is more here.
    """
    ticks = theme.linear_ticks(float(values.min()), float(values.max()), 5)
    bar = {"title": {"text": words, "side": "right", "font": {"size": 12}}, "tickfont": {"size": 11}, "thickness": 10,
           "ticklen": 3, "xpad": 6, "tickvals": [-t if less else t for t in ticks],
           "ticktext": [theme.tick(float(f"{t:.4g}")) for t in ticks]}  # fmt: skip
    colours = {"color": -values if less else values, "colorscale": theme.shades(dark), "reversescale": not dark}
    return {**colours, "showscale": True, "colorbar": bar}


def lines_figure(dimensions: Sequence[dict[str, Any]], line: dict[str, Any], dark: bool, **layout: Any) -> go.Figure:
    """Parallel coordinates in the theme."""
    many = len(dimensions) > 6
    trace = {
        "type": "parcoords", "dimensions": list(dimensions), "line": line, "labelside": "bottom",
        "rangefont": {"color": "rgba(0,0,0,0)", "size": 1},
        "labelfont": {"size": 10 if many else 13}, "tickfont": {"size": 10 if many else 12},
    }  # fmt: skip
    rows = max(d["label"].count("<br>") for d in dimensions) + 1
    top = layout.pop("margin", {}).get("t", 60) + 22
    return theme.drawn([trace], dark=dark, margin={"l": 38, "r": 30, "t": top, "b": 24 + 15 * rows}, **layout)


def dimension(
    words: str, name: str, column: pd.Series, unit: str, width: int, model: Any = None, *, smooth: bool = False
) -> dict[str, Any]:
    """An axis of the parallel lines with its values and a few round ticks; few values are ticks themselves.

    Args:
        words: the header; ``name``: the quantity, which says what a rate counts.
        unit: SI unit of the column.
        width: characters of a line of the header.
        smooth: let a range start and end anywhere, not only at the ticks.

    Returns:
        Plotly's dimension, and as ``meta`` whether it is logarithmic, its scale and, of names, the values.
    """
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if not is_numeric_dtype(column) or is_bool_dtype(column):
        kinds = list(dict.fromkeys(column.tolist()))
        kinds = sorted(kinds) if is_bool_dtype(column) else kinds
        codes = [kinds.index(value) for value in column.tolist()]
        names = [{True: "on", False: "off"}.get(kind, str(kind)) for kind in kinds]
        meta = {"log": False, "scale": 1.0, "values": kinds}
        return {"label": wrapped(words, "", width), "values": codes, "tickvals": list(range(len(kinds))),
                "ticktext": names, "meta": meta}  # fmt: skip
    scale, shown = theme.axis_scale(column.to_numpy(float), unit)
    values = column.to_numpy(float) / scale
    low, high = values.min(), values.max()
    log = bool(low > 0 and high > 8 * low)
    levels = np.unique(values)
    round_ones = theme.log_ticks(values)["tickvals"] if log else theme.linear_ticks(low, high)
    inside = [t for t in round_ones if low * 0.99 <= t <= high * 1.01]
    few = len(levels) <= (2 * TICKS if column.dtype.kind in "iu" else TICKS)
    ticks = np.asarray(levels if few or len(inside) < 2 else inside)
    found = {
        "label": wrapped(words, theme.counted(name, shown, model), width),
        "ticktext": [theme.tick(float(f"{t:.4g}")) for t in ticks],
        "meta": {"log": log, "scale": scale, "values": None},
    }
    drawn, marks = (np.log10(values), np.log10(ticks)) if log else (values, ticks)
    if low == high:  # a line needs a range, and one value has none
        found["range"] = [values[0] - 1, values[0] + 1]
    elif smooth and not few:
        marks, found["ticktext"] = _finer(marks, found["ticktext"], float(drawn.min()), float(drawn.max()))
    return {**found, "values": drawn, "tickvals": marks}


def _finer(marks: np.ndarray, texts: list[str], low: float, high: float) -> tuple[np.ndarray, list[str]]:
    """Ticks that cannot be seen between those that can: Plotly lets ranges end only at ticks.

    It also tells ticks apart by their texts, so that each of the others has its own, of characters without a width.
    """
    fine = np.linspace(low, high, SMOOTH + 1)
    unseen = [f"{k:07b}".translate(UNSEEN) for k in range(len(fine))]
    places = np.concatenate([marks, fine])
    order = np.argsort(places, kind="stable")
    return places[order], [[*texts, *unseen][i] for i in order.tolist()]


def wrapped(words: str, unit: str, width: int) -> str:
    """A header in lines of about ``width`` characters, at most two, and its unit in a line of its own."""
    lines = textwrap.wrap(words, width, break_long_words=False)
    lines = [*lines[:1], " ".join(lines[1:])] if len(lines) > 2 else lines
    return "<br>".join([*lines, *([f"[{unit}]"] if unit not in ("", "1") else [])])
