"""Figures of many runs of sparse matrix engines: speed-ups, granularities, designs, what the answer hangs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.units import engineering
from dse.view import theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

HOVER = "%{customdata}<extra></extra>"
OVERALL = {"geomean": "geometric mean", "mean": "arithmetic mean"}  # in the place of a layer
TITLES = {"area": "area over D-1-1"}
NAMED = 40  # bars up to which each has its number
BETTER = {  # the other engine, both alike, ours
    False: [[0, "#EE6B2A"], [0.5, "#F4F5F7"], [1, "#C04BA8"]],
    True: [[0, "#EE6B2A"], [0.5, "#242933"], [1, "#C04BA8"]],
}
# Colours of N:4 patterns, of how finely a matrix may change its pattern, and of what is not one of these.
PATTERNS = {"4:4": "#44AA99", "2:4": "#0772DF", "1:4": "#EE6B2A", "row-wise": "#C04BA8", "unstructured": "#C04BA8"}
GRAINS = {
    "network": ("network-wise", "#888888", "dot"), "layer": ("layer-wise", "#44AA99", "dashdot"),
    "tile": ("tile-wise", "#0772DF", "longdash"), "pseudo-row": ("pseudo row-wise", "#FBAE1E", "dash"),
    "row": ("row-wise", "#C04BA8", "solid"),
}  # fmt: skip


def speedups(
    rows: pd.DataFrame, *, along: str = "layer", by: str = "pattern", line: float = 1.0, title: str = "",
    subtitle: str = "", dark: bool = False,
) -> go.Figure:  # fmt: skip
    """Bars of speed-ups: a group for each value of ``along``, a colour for each of ``by``.

    Args:
        rows: columns ``speedup``, ``along`` and ``by``; one row a bar. Means over the layers come last.
        line: where a dashed line runs: what the speed-ups are over.

    Raises:
        SpecError: a column is missing, or several rows are on one bar.
    """
    _need(rows, along, by, "speedup")
    _once(rows, [along, by])
    rows = rows.assign(**{along: [OVERALL.get(str(name), str(name)) for name in rows[along]]})
    names = sorted(dict.fromkeys(rows[along]), key=lambda name: name in OVERALL.values())
    traces = []
    for k, (name, part) in enumerate(rows.groupby(by, sort=False)):
        value = part["speedup"].to_numpy(float)
        said = [f"<b>{a}</b>, {name}<br>{v:.3f} times as fast" for a, v in zip(part[along], value, strict=True)]
        traces.append(
            {
                "type": "bar", "name": f"{name}", "x": part[along].tolist(), "y": value,
                "marker": {"color": _ink(str(name), k)},
                "customdata": said, "hovertemplate": HOVER, "cliponaxis": False,
                "text": [f"{v:.2f}" for v in value] if len(rows) <= NAMED else None,
                "textposition": "outside", "textangle": 0, "textfont": {"size": 11},
            }
        )  # fmt: skip
    axis = {"type": "category", "categoryorder": "array", "categoryarray": names, "showgrid": False}
    words = theme.heading(title, "Speed-up", subtitle)
    return theme.drawn(
        traces, dark=dark, barmode="group", bargap=0.2, xaxis=axis, legend={"title": {"text": theme.sentence(by)}},
        yaxis={"title": {"text": "Speed-up"}, "rangemode": "tozero"}, **theme.line_at(line, dark, letter="y"), **words,
    )  # fmt: skip


def granularity(
    rows: pd.DataFrame, *, published: Mapping[float, float] | None = None, title: str = "", subtitle: str = "",
    dark: bool = False,
) -> go.Figure:  # fmt: skip
    """Speed-up against sparsity for each granularity: closed forms as lines, packed matrices as marks.

    Args:
        rows: columns ``sparsity`` (0 to 1), ``granularity``, ``speedup`` and ``source`` (``closed form`` for lines;
            anything else, such as the kind of matrix, is drawn as marks of its own).
        published: speed-ups by sparsity that others printed: crosses.
    """
    _need(rows, "sparsity", "granularity", "speedup", "source")
    traces = []
    sources = [s for s in dict.fromkeys(rows["source"]) if s != "closed form"]
    alone = rows["granularity"].nunique() == 1  # then colours tell the sources apart
    for k, (name, part) in enumerate(rows.groupby("granularity", sort=False)):
        grain, colour, dash = GRAINS.get(str(name), (str(name), theme.SPARE[k % len(theme.SPARE)], "solid"))
        lined = bool((part["source"] == "closed form").any())
        for source, found in part.groupby("source", sort=False):
            found = found.sort_values("sparsity")
            marks = source != "closed form"
            symbol = theme.MARKERS[sources.index(source) % len(theme.MARKERS)] if marks else "circle"
            label = f"{grain}, {source}" if marks else grain
            shade = theme.SPARE[sources.index(source) % len(theme.SPARE)] if alone and marks else colour
            said = [
                f"<b>{label}</b><br>{s:.1%} zeros: {v:.3f} times as fast"
                for s, v in zip(found["sparsity"], found["speedup"], strict=True)
            ]
            traces.append(
                {
                    "type": "scatter", "mode": ("markers" if lined else "lines+markers") if marks else "lines",
                    "name": label, "legendgroup": grain, "x": found["sparsity"].to_numpy(float),
                    "y": found["speedup"].to_numpy(float), "customdata": said, "hovertemplate": HOVER,
                    "line": {"color": shade, "dash": dash, "width": 2.4}, "cliponaxis": False,
                    "marker": {"size": 8, "symbol": symbol, "color": shade},
                    "showlegend": not marks or not lined or len(sources) > 1,
                }
            )  # fmt: skip
    if published:
        said = [f"<b>published</b><br>{s:.0%} zeros: {v:g}" for s, v in published.items()]
        traces.append(
            {"type": "scatter", "mode": "markers", "name": "published", "x": list(published),
             "y": list(published.values()), "customdata": said, "hovertemplate": HOVER,
             "marker": {"symbol": "x-thin", "size": 15, "line": {"width": 3, "color": theme.ink(dark)}}}
        )  # fmt: skip
    words = theme.heading(title, "Speed-up over the dense kernel", subtitle or "Marks: matrices packed by the program")
    return theme.drawn(
        traces, dark=dark, legend={"title": {"text": "Pattern may change by"}},
        xaxis={"title": {"text": "Zeros in the matrix"}, "tickformat": ".0%"},
        yaxis={"title": {"text": "Speed-up"}, "rangemode": "tozero"}, **words,
    )  # fmt: skip


def designs(
    rows: pd.DataFrame, *, x: str = "area", y: str = "time", units: Mapping[str, str] | None = None, by: str = "kind",
    name: str = "engine", title: str = "", subtitle: str = "", dark: bool = False,
) -> go.Figure:  # fmt: skip
    """Designs as points, less is better on both axes; those that nothing beats are joined by a line.

    Args:
        rows: columns ``x``, ``y``, ``by`` (colours) and ``name``; rows without a number on an axis are counted in the
            subtitle.
        units: SI units of the columns; a column without one is a ratio.
    """
    from dse.explore.search.pareto import front

    _need(rows, x, y, by, name)
    whole = rows[np.isfinite(rows[[x, y]].to_numpy(float)).all(axis=1)]
    if whole.empty:
        raise SpecError([Fault("rows", "", f"no design has both {x} and {y}")])
    best = whole.iloc[front(whole[[x, y]].to_numpy(float))].sort_values([x, y])
    (fx, ux), (fy, uy) = (theme.axis_scale(whole[c], (units or {}).get(c, "1")) for c in (x, y))
    edge = {"type": "scatter", "mode": "lines", "x": best[x].to_numpy(float) / fx, "y": best[y].to_numpy(float) / fy,
            "line": {"color": theme.ink(dark), "width": 1.5, "dash": "dot", "shape": "hv"}, "hoverinfo": "skip",
            "name": "nothing is better in both"}  # fmt: skip
    traces = [edge]
    for k, (kind, part) in enumerate(whole.groupby(by, sort=False)):
        said = [
            f"<b>{n}</b><br>{_words(x)}: {_number(a, x, units)}<br>{_words(y)}: {_number(b, y, units)}"
            for n, a, b in zip(part[name], part[x], part[y], strict=True)
        ]
        chosen = part.index.isin(best.index)
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": f"{kind}", "x": part[x].to_numpy(float) / fx,
                "y": part[y].to_numpy(float) / fy, "customdata": said, "hovertemplate": HOVER, "cliponaxis": False,
                "marker": {"color": theme.SPARE[k % len(theme.SPARE)], "symbol": theme.MARKERS[k % len(theme.MARKERS)],
                           "size": np.where(chosen, 12, 7), "opacity": np.where(chosen, 1.0, 0.55),
                           "line": {"width": np.where(chosen, 1.2, 0), "color": theme.ink(dark)}},
            }
        )  # fmt: skip
    notes = [
        {"x": a / fx, "y": b / fy, "text": f"{n}", "showarrow": False, "xanchor": "left", "yanchor": "bottom",
         "xshift": 5, "yshift": 3, "font": {"size": 11}}
        for n, a, b in zip(best[name], best[x], best[y], strict=True)
    ][:8]  # fmt: skip
    left = len(rows) - len(whole)
    about = subtitle or f"{len(whole)} designs" + (f"; {left} have no {x}" if left else "")
    words = theme.heading(title, f"{theme.sentence(_words(y))} against {_words(x)}", about)
    return theme.drawn(
        traces, dark=dark, annotations=notes, xaxis={"title": {"text": _title(x, ux)}},
        yaxis={"title": {"text": _title(y, uy)}, "rangemode": "tozero"}, legend={"title": {"text": theme.sentence(by)}},
        **words,
    )  # fmt: skip


def sensitivity(
    rows: pd.DataFrame, published: Mapping[str, float], *, band: float = 0.05, title: str = "", subtitle: str = "",
    dark: bool = False,
) -> go.Figure:  # fmt: skip
    """What each knob does to the speed-ups: a row a setting, a mark a pattern, as a difference to what was published.

    Args:
        rows: columns ``knob``, ``value`` (one knob changes at a time), ``pattern`` and ``speedup``; ``setting``, if
            there, is what rows are called.
        published: speed-up by pattern.
        band: width of the grey band: how far a number may lie from the published one.
    """
    _need(rows, "knob", "value", "pattern", "speedup")
    _once(rows, ["knob", "value", "pattern"])
    rows = rows[rows["pattern"].isin(list(published))]
    named = "setting" if "setting" in rows else None  # in words, where the table has them
    names = [
        str(row[named]) if named else f"{_words(row['knob'])}: {row['value']}".removesuffix(": ")
        for row in rows.to_dict("records")
    ]
    traces = []
    for k, (pattern, part) in enumerate(rows.assign(name=names).groupby("pattern", sort=False)):
        wanted, ours = published[str(pattern)], part["speedup"].to_numpy(float)
        said = [
            f"<b>{n}</b><br>{pattern}: {v:.3f}, published {wanted:g}" for n, v in zip(part["name"], ours, strict=True)
        ]
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": f"{pattern}", "x": ours / wanted,
                "y": part["name"].tolist(), "customdata": said, "hovertemplate": HOVER, "cliponaxis": False,
                "marker": {"color": _ink(str(pattern), k), "size": 10,
                           "symbol": theme.MARKERS[k % len(theme.MARKERS)]},
            }
        )  # fmt: skip
    grey = {"type": "rect", "x0": 1 - band, "x1": 1 + band, "y0": 0, "y1": 1, "yref": "y domain", "layer": "below",
            "fillcolor": "#9AA3B2", "opacity": 0.25, "line": {"width": 0}}  # fmt: skip
    told = ", ".join(f"{wanted:g} at {pattern}" for pattern, wanted in published.items())
    words = theme.heading(title, "What the speed-ups hang on", subtitle or f"Published: {told}; band ± {band:.0%}")
    words["margin"] = {**words["margin"], "b": 95}
    shown = list(dict.fromkeys(names))
    places = [0.25, 0.33, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0]
    ticks = {"tickvals": places, "ticktext": [f"{v:g}" for v in places]}
    return theme.drawn(
        traces, dark=dark, shapes=[grey], height=200 + 23 * max(len(shown), 6), legend=theme.BELOW,
        xaxis={"title": {"text": "Speed-up over the published one"}, "type": "log", **ticks},
        yaxis={"type": "category", "categoryorder": "array", "categoryarray": shown, "autorange": "reversed",
               "dtick": 1, "tickfont": {"size": 12}}, **words,
    )  # fmt: skip


def roofline(
    roofs: Sequence[tuple[str, float, int | None]], points: pd.DataFrame, *, bandwidth: float, block: int = 4,
    title: str = "", subtitle: str = "", dark: bool = False,
) -> go.Figure:  # fmt: skip
    """Rates of layers under the roofs of a core: its vector unit and its matrix engine at each pattern.

    Args:
        roofs: name, peak FLOP/s and N (None: the vector unit) of each, as :func:`dse.domains.vegeta.roofline.roofs`
            gives them. Rates count the work of the dense matrix, so that an engine which skips zeros has a higher roof.
        points: columns ``layer``, ``pattern`` (N), ``intensity`` (FLOP/B) and ``reached`` (FLOP/s).
        bandwidth: of memory, B/s.
    """
    _need(points, "layer", "pattern", "intensity", "reached")
    places = points["intensity"].to_numpy(float)
    ridges = [peak / bandwidth for _, peak, _ in roofs]
    low, high = 0.5 * min(places.min(), min(ridges) / 2), 2 * max(places.max(), max(ridges) * 2)
    traces: list[dict[str, Any]] = []
    for k, (name, peak, n) in enumerate(roofs):
        ridge, colour = peak / bandwidth, theme.SPARE[8] if n is None else _ink(f"{n}:{block}", k)
        traces.append(
            {
                "type": "scatter", "mode": "lines", "name": f"{name}, {engineering(peak, 'FLOP/s', 3)}",
                "x": [low, ridge, high], "y": [low * bandwidth, peak, peak], "hoverinfo": "skip",
                "line": {"color": colour, "width": 2, "dash": theme.DASHES[k % len(theme.DASHES)]},
            }
        )  # fmt: skip
    for k, (n, part) in enumerate(points.groupby("pattern", sort=False)):
        said = [
            f"<b>{name}</b>, {n}:{block}<br>{x:.3g} FLOP/B, {engineering(y, 'FLOP/s')}"
            for name, x, y in zip(part["layer"], part["intensity"], part["reached"], strict=True)
        ]
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": f"layers at {n}:{block}", "cliponaxis": False,
                "x": part["intensity"].to_numpy(float), "y": part["reached"].to_numpy(float), "customdata": said,
                "hovertemplate": HOVER,
                "marker": {"size": 9, "symbol": theme.MARKERS[k % len(theme.MARKERS)], "color": _ink(f"{n}:{block}", k),
                           "line": {"width": 1, "color": theme.paper(dark)}},
            }
        )  # fmt: skip
    about = f"Memory {engineering(bandwidth, 'B/s', 3)}; work counted as of dense matrices"
    words = theme.heading(title, "Layers under the roofs of the engine", subtitle or about)
    words["margin"] = {**words["margin"], "b": 110}
    across = {"type": "log", "title": {"text": "Operational intensity [FLOP/B]"}, **theme.log_ticks([low, high])}
    rates = {"type": "log", "title": {"text": "Rate [FLOP/s]"}, "dtick": 1, "exponentformat": "SI", "tickformat": "~s"}
    legend = {**theme.BELOW, "entrywidth": 215}
    return theme.drawn(traces, dark=dark, legend=legend, height=620, xaxis=across, yaxis=rates, **words)


def crossover(rows: pd.DataFrame, *, title: str = "", subtitle: str = "", dark: bool = False) -> go.Figure:
    """Where an ideal engine that skips every zero is better for its area than the row-wise one.

    Args:
        rows: columns ``sparsity``, ``area`` (of that engine over ours) and ``ratio`` (above 1: row-wise is better),
            every sparsity with every area.
    """
    _need(rows, "sparsity", "area", "ratio")
    grid = rows.pivot(index="sparsity", columns="area", values="ratio")
    ratio, x, y = grid.to_numpy(float), grid.columns.to_numpy(float), grid.index.to_numpy(float)
    powers = range(-3, 4)  # of two: what is beyond eight times has the same colour
    bar = {"title": {"text": "Row-wise over<br>unstructured"}, "tickvals": list(powers),
           "ticktext": [f"{2.0**p:g}" for p in powers]}  # fmt: skip
    heat = {
        "type": "heatmap", "x": x, "y": y, "z": np.log2(ratio), "zmin": -3, "zmax": 3, "colorbar": bar,
        "colorscale": BETTER[dark], "customdata": ratio,
        "hovertemplate": "area %{x:.3g}, %{y:.1%} zeros<br>%{customdata:.3g} times as fast for its area<extra></extra>",
    }  # fmt: skip
    even = {
        "type": "contour", "x": x, "y": y, "z": np.log2(ratio), "showscale": False, "hoverinfo": "skip",
        "contours": {"start": 0, "end": 0, "size": 1, "coloring": "none"},
        "line": {"color": theme.ink(dark), "width": 2.4}, "showlegend": False,
    }  # fmt: skip
    words = theme.heading(
        title, "When an unstructured engine is better", subtitle or "Line: equally fast for their area"
    )
    line = theme.line_at(0.95, dark, letter="y", text="95 %", yanchor="bottom", xanchor="right")
    return theme.drawn(
        [heat, even], dark=dark, xaxis={"title": {"text": "Area of the unstructured engine over the row-wise one"}},
        yaxis={"title": {"text": "Zeros in the matrix"}, "tickformat": ".0%"}, **line, **words,
    )  # fmt: skip


def _ink(pattern: str, place: int) -> str:
    """The colour of a pattern; those without one of their own take the spare ones."""
    return PATTERNS.get(pattern, theme.SPARE[(place + 4) % len(theme.SPARE)])


def _words(column: str) -> str:
    """A column or a knob as people read it."""
    return TITLES.get(column, column.rpartition(".")[2].replace("_", " "))


def _title(column: str, unit: str) -> str:
    return theme.with_unit(theme.sentence(_words(column)), unit)


def _number(value: float, column: str, units: Mapping[str, str] | None) -> str:
    return theme.label(float(value), (units or {}).get(column, "1"))


def _need(rows: pd.DataFrame, *columns: str) -> None:
    missing = [column for column in columns if column not in rows]
    if missing:
        known = ", ".join(map(str, rows.columns))
        raise SpecError([Fault(column, "", f"is no column; there are {known}"[:300]) for column in missing])


def _once(rows: pd.DataFrame, columns: list[str]) -> None:
    twice = rows.duplicated(columns)
    if twice.any():
        first = ", ".join(str(v) for v in rows.loc[twice.idxmax(), columns])
        raise SpecError([Fault("rows", first[:60], f"several rows have the same {' and '.join(columns)}")])
