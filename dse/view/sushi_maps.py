"""Maps of SuperNet serving: over the constants that are not known, over traces, and the front of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.units import engineering
from dse.view import theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

HOVER = "%{customdata}<extra></extra>"
CELLS = 90  # cells of a map that hold their numbers, at most
TITLES = {  # columns as people call them, and their units
    "throughput": ("Throughput", "MAC/s"), "bandwidth": ("Off-chip bandwidth", "B/s"),
    "buffer": ("Persistent buffer", "B"), "persistence": ("Persistence of the stream", "1"),
    "window": ("Queries between SubGraphs", "1"), "latency_saving": ("latency saved", "1"),
    "energy_saving": ("off-chip energy saved", "1"), "accuracy_gain": ("accuracy gained", "1"),
    "saving": ("latency saved", "1"), "over_static": ("latency saved over the best static SubGraph", "1"),
    "latency": ("Mean latency", "s"), "p99": ("Latency, p99", "s"), "energy": ("Energy per query", "J"),
    "accuracy": ("Served top-1 accuracy", "1"), "area": ("Area", "m^2"),
}  # fmt: skip


def _words(column: str) -> tuple[str, str]:
    return TITLES.get(column, (theme.sentence(column.replace("_", " ")), "1"))


def _shown(column: str, value: float) -> str:
    """A value of an axis in few characters; bytes of a buffer in MiB."""
    if column == "buffer":
        return f"{value / 2**20:.3g} MiB"
    return theme.short(float(value), _words(column)[1]) if _words(column)[1] != "1" else f"{value:g}"


def unknowns(
    frame: pd.DataFrame, value: str, *, x: str = "bandwidth", y: str = "buffer", panel: str = "throughput",
    level: float | None = None, title: str = "", about: str = "", dark: bool = False,
) -> go.Figure:  # fmt: skip
    """A share over two unknown constants, a panel for each value of a third; a line where it reaches a level.

    Args:
        frame: a row for each point; of several rows on one place the greatest value counts.
        value: the column, a fraction.
        level: where to draw the line.

    Raises:
        SpecError: a column is missing, or there are more than six panels.
    """
    for name in (value, x, y, panel):
        if name not in frame:
            raise SpecError([Fault("column", name, f"must be one of {', '.join(map(str, frame.columns))}"[:300])])
    panels = sorted(frame[panel].unique())
    if len(panels) > 6:
        raise SpecError([Fault("panel", panel, f"has {len(panels)} values; at most 6 are drawn")])
    most = 100 * float(frame[value].max())
    traces: list[dict[str, Any]] = []
    axes: dict[str, Any] = {}
    notes = []
    gap = 0.02
    width = (1 - gap * (len(panels) - 1)) / len(panels)
    for place, at in enumerate(panels):
        grid = frame[frame[panel] == at].pivot_table(index=y, columns=x, values=value, aggfunc="max")
        low = place * (width + gap)
        suffix = str(place + 1) if place else ""
        axes |= _panel_axes(grid, x, y, suffix, (low, min(low + width, 1.0)), first=not place)
        traces += _panel(grid, (x, y), suffix, (value, most), level, dark, last=place == len(panels) - 1)
        notes.append({"text": _shown(panel, at), "x": low + width / 2, "y": 1.0, "xref": "paper", "yref": "paper",
                      "xanchor": "center", "yanchor": "bottom", "showarrow": False, "font": {"size": 14}})  # fmt: skip
    usual = theme.sentence(_words(value)[0])
    line = f"; dashed: {level:.2%}" if level is not None else ""
    words = theme.heading(title, usual, (about or f"Panels: {_words(panel)[0].lower()}") + line)
    words["margin"] = {**words["margin"], "t": words["margin"]["t"] + 30}
    return theme.drawn(traces, dark=dark, annotations=notes, showlegend=False, height=460, **axes, **words)


def _panel_axes(
    grid: Any, x: str, y: str, suffix: str, domain: tuple[float, float], *, first: bool
) -> dict[str, dict[str, Any]]:
    """Cells are of one size, whatever values lie between them."""
    across = {"domain": list(domain), "tickvals": list(range(grid.shape[1])), "showgrid": False, "anchor": f"y{suffix}",
              "ticktext": [_shown(x, v) for v in grid.columns], "title": {"text": _words(x)[0]}, "tickangle": -40,
              "range": [-0.5, grid.shape[1] - 0.5], "tickfont": {"size": 12}, "zeroline": False}  # fmt: skip
    down = {"tickvals": list(range(grid.shape[0])), "ticktext": [_shown(y, v) for v in grid.index], "showgrid": False,
            "anchor": f"x{suffix}", "showticklabels": first, "range": [-0.5, grid.shape[0] - 0.5],
            "title": {"text": _words(y)[0] if first else ""}, "zeroline": False}  # fmt: skip
    return {f"xaxis{suffix}": across, f"yaxis{suffix}": down}


def _panel(
    grid: Any,
    names: tuple[str, str],
    suffix: str,
    of: tuple[str, float],
    level: float | None,
    dark: bool,
    *,
    last: bool,
) -> list[dict[str, Any]]:
    cells = 100 * grid.to_numpy(float)
    places = {
        "x": np.arange(grid.shape[1]),
        "y": np.arange(grid.shape[0]),
        "xaxis": f"x{suffix}",
        "yaxis": f"y{suffix}",
    }
    words = _words(of[0])[0]
    said = [
        [
            f"<b>{v:.2f} % {words}</b><br>{_shown(names[0], a)}, {_shown(names[1], b)}"
            for a, v in zip(grid.columns, row, strict=True)
        ]
        for b, row in zip(grid.index, cells, strict=True)
    ]
    bar = {"ticksuffix": " %", "thickness": 14}
    heat = {"type": "heatmap", "z": cells, "zmin": 0, "zmax": of[1], "colorscale": theme.shades(dark),
            "customdata": said, "hovertemplate": HOVER, "xgap": 1, "ygap": 1, "showscale": last, **places}  # fmt: skip
    if last:
        heat["colorbar"] = bar
    if cells.size <= CELLS:
        digits = 0 if of[1] >= 10 else 2
        heat |= {"text": [[f"{v:.{digits}f}" for v in row] for row in cells], "texttemplate": "%{text}",
                 "textfont": {"size": 11}}  # fmt: skip
    traces = [heat]
    if level is not None and np.nanmin(cells) < 100 * level < np.nanmax(cells):
        traces.append(_level(cells, places, 100 * level, "#EE6B2A"))
    return traces


def _level(cells: np.ndarray, places: dict[str, Any], level: float, colour: str) -> dict[str, Any]:
    """The line where a map passes a value."""
    return {"type": "contour", "z": cells, "contours": {"coloring": "none", "start": level, "end": level, "size": 1},
            "line": {"color": colour, "width": 3, "dash": "dash"}, "showscale": False, "hoverinfo": "skip",
            **places}  # fmt: skip


def break_even(
    frame: pd.DataFrame, value: str = "over_static", *, x: str = "persistence", y: str = "buffer", title: str = "",
    about: str = "", dark: bool = False,
) -> go.Figure:  # fmt: skip
    """What following the stream saves over a fixed choice, above and below nothing; the line is where it breaks even.

    Args:
        frame: a row for each point; ``value`` is a fraction, negative where following costs more than it saves.
    """
    grid = frame.pivot_table(index=y, columns=x, values=value, aggfunc="mean")
    cells = 100 * grid.to_numpy(float)
    reach = max(float(np.nanmax(np.abs(cells))), 1e-9)
    places = {"x": np.arange(grid.shape[1]), "y": np.arange(grid.shape[0]), "xaxis": "x", "yaxis": "y"}
    words = _words(value)[0]
    said = [
        [
            f"<b>{v:+.2f} %</b> {words}<br>{_words(x)[0].lower()} {_shown(x, a)}, {_words(y)[0].lower()} {_shown(y, b)}"
            for a, v in zip(grid.columns, row, strict=True)
        ]
        for b, row in zip(grid.index, cells, strict=True)
    ]
    middle = theme.paper(dark)
    scale = [[0, "#D81B60"], [0.5, middle], [1, "#0772DF"]]
    heat = {"type": "heatmap", "z": cells, "zmin": -reach, "zmax": reach, "colorscale": scale, "customdata": said,
            "hovertemplate": HOVER, "xgap": 1, "ygap": 1, "colorbar": {"ticksuffix": " %", "thickness": 14},
            **places}  # fmt: skip
    if cells.size <= 150:
        heat |= {"text": [[_signed(v) for v in row] for row in cells], "texttemplate": "%{text}",
                 "textfont": {"size": 12}}  # fmt: skip
    traces = [heat]
    if (cells < 0).any() and (cells > 0).any():
        traces.append(_level(cells, places, 0.0, theme.ink(dark)))
    axes = _panel_axes(grid, x, y, "", (0.0, 1.0), first=True)
    axes["xaxis"]["tickangle"] = 0
    usual = theme.sentence(words)
    return theme.drawn(
        traces, dark=dark, showlegend=False, **axes,
        **theme.heading(title, usual, about or "Dashed: where following the stream breaks even"),
    )  # fmt: skip


def _signed(value: float) -> str:
    """A value with its sign, which nothing has none of."""
    text = f"{value:+.1f}"
    return "0" if text in ("+0.0", "-0.0") else text


def search_front(
    frame: pd.DataFrame, x: str = "latency", y: str = "energy", *, title: str = "", about: str = "", dark: bool = False
) -> go.Figure:
    """Two objectives of the designs that a search has tried: those on the front, the others, those over a budget.

    Args:
        frame: of :class:`~dse.domains.sushi.search.Found`: the variables, objectives, ``feasible`` and ``on_front``.

    Raises:
        SpecError: no such column.
    """
    for name in (x, y):
        if name not in frame:
            raise SpecError([Fault("column", name, f"must be one of {', '.join(map(str, frame.columns))}"[:300])])
    there = np.isfinite(frame[[x, y]].to_numpy(float)).all(1)
    good, best = frame["feasible"].to_numpy(bool), frame["on_front"].to_numpy(bool)
    scales = {name: _scaled(frame[name].to_numpy(float)[there], name) for name in {x, y}}
    kinds = (
        ("over a budget", there & ~good, {"symbol": "x-thin", "size": 8, "color": "#888888",
                                          "line": {"width": 1.6, "color": "#888888"}}),
        ("feasible", there & good & ~best, {"size": 7, "color": "#888888", "opacity": 0.55}),
        ("on the front", there & best, {"size": 11, "color": theme.SPARE[0], "symbol": "diamond",
                                        "line": {"width": 1, "color": theme.paper(dark)}}),
    )  # fmt: skip
    traces = []
    for words, mask, marker in kinds:
        part = frame[mask].sort_values(x)
        if len(part):
            traces.append(
                {"type": "scatter", "mode": "markers", "name": f"{words} ({len(part):,})", "marker": marker,
                 "x": part[x].to_numpy(float) / scales[x][0], "y": part[y].to_numpy(float) / scales[y][0],
                 "customdata": [_design(row) for row in part.to_dict("records")], "hovertemplate": HOVER}
            )  # fmt: skip
    titles = {name: theme.with_unit(_words(name)[0], scales[name][1]) for name in (x, y)}
    return theme.drawn(
        traces, dark=dark, legend=theme.BELOW, xaxis={"title": {"text": titles[x]}},
        yaxis={"title": {"text": titles[y]}},
        **_low(theme.heading(title, "Designs that were tried", about or "On the front: no design beats them in all")),
    )  # fmt: skip


def _low(words: dict[str, Any]) -> dict[str, Any]:
    return {**words, "margin": {**words["margin"], "b": 100}}


def _scaled(values: np.ndarray, name: str) -> tuple[float, str]:
    """Factor and unit of an axis: areas in mm2, accuracies in percent."""
    if name == "area":
        return 1e-6, "mm²"
    return (0.01, "%") if name == "accuracy" else theme.axis_scale(values, _words(name)[1])


def _design(row: dict[str, Any]) -> str:
    """What a mark says: the variables and objectives of a design."""
    skip = ("trial", "feasible", "on_front")
    lines = []
    for name, value in row.items():
        if name in skip or (isinstance(value, float) and not np.isfinite(value)):
            continue
        words, unit = _words(name)
        if name == "area":
            shown = f"{value * 1e6:.4g} mm²"
        elif name == "buffer":
            shown = _shown(name, value)
        elif isinstance(value, int | float) and unit != "1":
            shown = engineering(float(value), unit)
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        lines.append(f"{words}: {shown}")
    return "<br>".join(lines)
