"""Figures of SuperNets that are served: the latency table, what was served and kept, latencies, layers, trade-offs."""

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
CELLS = 240  # cells of a table that hold their numbers, at most
DRAWN = 400  # queries of a timeline, at most
POINTS = 400  # of a distribution
HEAD = 100  # px above: with less Plotly makes room for title and subtitle itself, and moves the ticks but not the marks
QUANTILES = (0.5, 0.95, 0.99)
# Parts of a layer's time, from the bottom: column, title, colour, hatch.
PARTS = (
    ("compute", "compute", "#0772DF", ""),
    ("weights", "weights, fetched", "#EE6B2A", ""),
    ("activations", "activations", "#FBAE1E", ""),
    ("fixed", "fixed", "#B2B2B2", ""),
    ("saved", "saved: weights at hand", "#9DEAE0", "/"),
)
PAINT = {"none": 8, "static": 0, "average": 1, "oracle": 2}  # places among the spare colours


def latency_table(table: Any, *, title: str = "", dark: bool = False) -> go.Figure:
    """The latency of every SubNet with every cached SubGraph as a heat map, by what is saved against no SubGraph.

    Args:
        table: :class:`~dse.domains.sushi.table.LatencyTable`; its first SubGraph is the empty one.
    """
    latency = np.asarray(table.latency, float)
    saving = 100 * (1 - latency / latency[:, :1])
    factor, unit = theme.axis_scale(latency.ravel(), "s")
    subnets, subgraphs = list(table.subnets), list(table.subgraphs)
    said = [
        [
            f"<b>{net} with {graph}</b><br>{engineering(latency[i, j], 's')}, {saving[i, j]:.2f} % saved"
            f"<br>{engineering(table.energy[i, j], 'J')}, {engineering(table.off_chip[i, j], 'B')} off chip"
            for j, graph in enumerate(subgraphs)
        ]
        for i, net in enumerate(subnets)
    ]
    heat = {
        "type": "heatmap", "z": saving, "x": subgraphs, "y": subnets, "customdata": said, "hovertemplate": HOVER,
        "colorscale": theme.shades(dark), "colorbar": {"title": {"text": "saved"}, "ticksuffix": " %", "thickness": 14},
        "xgap": 1, "ygap": 1,
    }  # fmt: skip
    if saving.size <= CELLS:
        heat |= {"text": [[f"{v / factor:.3g}" for v in row] for row in latency], "texttemplate": "%{text}"}
    about = f"Cells: latency [{unit}]" if saving.size <= CELLS else f"{latency.size:,} cells"
    return theme.drawn(
        [heat], dark=dark, height=200 + 34 * max(len(subnets), 5), yaxis=_names("SubNet", reverse=True),
        xaxis={**_names("Cached SubGraph"), "tickangle": 0 if len(subgraphs) <= 6 else -40},
        **theme.heading(title, "Latency of SubNets with cached SubGraphs", about),
    )  # fmt: skip


def _names(words: str, *, reverse: bool = False) -> dict[str, Any]:
    axis = {"type": "category", "showgrid": False, "title": {"text": words}}
    return {**axis, "autorange": "reversed"} if reverse else axis


def timeline(served: Any, first: int = 0, count: int = 120, *, title: str = "", dark: bool = False) -> go.Figure:
    """Which SubNet each query got, how much of its weights was at hand, and the SubGraph that was cached meanwhile.

    Args:
        served: :class:`~dse.domains.sushi.serve.Served`; dropped queries leave gaps.
        first, count: queries that are drawn; at most 400 of them.

    Raises:
        SpecError: no query there.
    """
    queries = len(served.subnet)
    last = min(first + min(count, DRAWN), queries)
    if not 0 <= first < last or not served.served[first:last].any():
        rule = f"must be 0 to {queries - 1}, with a count of at least 1 and a query that was served among them"
        raise SpecError([Fault("first", str(first), rule)])
    part = slice(first, last)
    there = np.flatnonzero(served.served[part])
    at, net, graph = first + there, served.subnet[part][there], served.subgraph[part][there]
    nets = [str(name) for name in served.table.subnets]
    graphs = [str(name) for name in served.table.subgraphs]
    hits, late = served.hit[part][there], _missed(served)[part][there]
    said = [
        f"<b>query {q}: {nets[i]}</b> with {graphs[j]}<br>{engineering(t, 's')}, {h:.0%} of the weights at hand"
        + ("<br>its constraint is missed" if m else "")
        for q, i, j, t, h, m in zip(at, net, graph, served.latency[part][there], hits, late, strict=True)
    ]
    line = {"type": "scatter", "mode": "lines", "x": at, "y": net, "line": {"shape": "hvh", "width": 1},
            "hoverinfo": "skip", "showlegend": False, "opacity": 0.45}  # fmt: skip
    line["line"]["color"] = theme.ink(dark)
    most = 5 * max(np.ceil(20 * hits.max() - 1e-9), 1)  # the next 5 %
    marks = {
        "type": "scatter", "mode": "markers", "x": at, "y": net, "customdata": said, "hovertemplate": HOVER,
        "showlegend": False,
        "marker": {"size": 9, "color": 100 * hits, "cmin": 0, "cmax": most, "colorscale": theme.shades(dark),
                   "symbol": np.where(late, "x", "circle"), "line": {"width": 0.6, "color": theme.ink(dark)},
                   "colorbar": {"title": {"text": "weights<br>at hand"}, "ticksuffix": " %", "thickness": 14}},
    }  # fmt: skip
    bands = _bands(at, graph, graphs)
    about = f"{last - first:,} of {queries:,} queries: {first:,} to {last - 1:,}"
    about += "; crosses: constraint missed" if late.any() else ""
    used = [i for i in range(len(nets)) if i in set(net.tolist())] or [0]
    return theme.drawn(
        [line, marks, *bands], dark=dark, barmode="overlay", legend=theme.BELOW,
        xaxis={"title": {"text": "Query"}, "range": [first - 0.8, last - 0.2], "anchor": "y2", "showgrid": False},
        yaxis={"domain": [0.24, 1], "tickvals": used, "ticktext": [nets[i] for i in used],
               "range": [min(used) - 0.5, max(used) + 0.5], "title": {"text": "SubNet"}},
        yaxis2={"domain": [0, 0.16], "showticklabels": False, "range": [-0.5, 0.5], "showgrid": False,
                "title": {"text": "SubGraph"}, "ticks": "", "zeroline": False},
        **_low(theme.heading(title, "What was served, and what was kept on the chip", about)),
    )  # fmt: skip


def _missed(served: Any) -> np.ndarray:
    """Queries whose constraint, the one that the policy looks at, is not met."""
    strict = served.settings["policy"] == "strict-accuracy"
    return np.asarray(served.accuracy_missed if strict else served.deadline_missed, bool)


def _low(words: dict[str, Any], below: int = 110) -> dict[str, Any]:
    """A heading with room for a legend below."""
    return {**words, "margin": {"t": HEAD, "b": below}}


def _bands(at: np.ndarray, graph: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Stretches of queries with the same SubGraph as bars, a trace for each of the seven most frequent and the rest."""
    starts = np.flatnonzero(np.append(True, graph[1:] != graph[:-1]))
    ends = np.append(starts[1:], len(graph))
    kept, share = np.unique(graph, return_counts=True)
    often = kept[np.argsort(-share, kind="stable")][:7].tolist()
    traces = []
    for place, which in enumerate([*often, None]):
        mine = [k for k, s in enumerate(starts) if (graph[s] == which if which is not None else graph[s] not in often)]
        if not mine:
            continue
        said = [f"<b>{names[graph[starts[k]]]}</b><br>{ends[k] - starts[k]} queries" for k in mine]
        traces.append(
            {
                "type": "bar", "orientation": "h", "xaxis": "x", "yaxis": "y2", "y": np.zeros(len(mine)), "width": 0.9,
                "name": names[which] if which is not None else "others", "base": at[starts[mine]] - 0.5,
                "x": ends[mine] - starts[mine], "customdata": said, "hovertemplate": HOVER,
                "marker": {"color": theme.SPARE[place % len(theme.SPARE)], "line": {"width": 0}},
            }
        )  # fmt: skip
    return traces


def latencies(by: Mapping[str, Any], *, title: str = "", about: str = "", dark: bool = False) -> go.Figure:
    """How many queries were answered within a time: a line for each way to cache, with its p50, p95 and p99.

    Args:
        by: the latency of each query in seconds, by way to cache.
    """
    shares = np.linspace(0, 1, POINTS)
    lines = {name: np.quantile(np.asarray(values, float), shares) for name, values in by.items()}
    factor, unit = theme.axis_scale([max(line[-1] for line in lines.values())], "s")
    traces = []
    for place, (name, values) in enumerate(by.items()):
        colour, mark = _colour(name, place), theme.MARKERS[place % len(theme.MARKERS)]
        at = np.quantile(np.asarray(values, float), QUANTILES)
        words = ", ".join(f"p{100 * q:g} {theme.short(v, 's')}" for q, v in zip(QUANTILES, at, strict=True))
        said = [
            f"<b>{name}</b><br>{s:.1%} within {engineering(v, 's')}" for s, v in zip(shares, lines[name], strict=True)
        ]
        traces.append(
            {"type": "scatter", "mode": "lines", "name": f"{name}: {words}", "x": lines[name] / factor,
             "y": 100 * shares,
             "line": {"color": colour, "width": 2.4, "dash": theme.DASHES[place % len(theme.DASHES)]},
             "customdata": said, "hovertemplate": HOVER}
        )  # fmt: skip
        said = [f"<b>{name}</b><br>p{100 * q:g}: {engineering(v, 's')}" for q, v in zip(QUANTILES, at, strict=True)]
        traces.append(
            {"type": "scatter", "mode": "markers", "name": name, "showlegend": False, "x": at / factor,
             "y": 100 * np.asarray(QUANTILES), "marker": {"symbol": mark, "size": 9, "color": colour},
             "customdata": said, "hovertemplate": HOVER}
        )  # fmt: skip
    legend = {"x": 0.99, "xanchor": "right", "y": 0.03, "yanchor": "bottom", "font": {"size": 13}}
    return theme.drawn(
        traces, dark=dark, legend=legend, xaxis={"title": {"text": theme.with_unit("Latency", unit)}},
        yaxis={"title": {"text": "Queries answered"}, "ticksuffix": " %", "range": [0, 101]},
        **theme.heading(title, "Latency of queries", about),
    )  # fmt: skip


def _colour(name: str, place: int) -> str:
    """Ways to cache keep their colours; others take those that are left."""
    left = [k for k in range(len(theme.SPARE)) if k not in PAINT.values()]
    return theme.SPARE[PAINT.get(name, left[place % len(left)])]


def trade_off(frame: pd.DataFrame, *, title: str = "", about: str = "", dark: bool = False) -> go.Figure:
    """Served accuracy against mean latency: a line for each way to cache, a point for each level of the constraint.

    Args:
        frame: ``caching``, ``latency`` (s), ``accuracy`` (fraction) and ``level`` (text).
    """
    factor, unit = theme.axis_scale(frame["latency"], "s")
    traces = []
    for place, (name, part) in enumerate(frame.groupby("caching", sort=False)):
        part = part.sort_values("latency")
        said = [
            f"<b>{name}</b>, {level}<br>{engineering(t, 's')}, top-1 {a:.2%}"
            for level, t, a in zip(part["level"], part["latency"], part["accuracy"], strict=True)
        ]
        colour = _colour(str(name), place)
        traces.append(
            {"type": "scatter", "mode": "lines+markers", "name": str(name),
             "x": part["latency"].to_numpy(float) / factor, "y": 100 * part["accuracy"].to_numpy(float),
             "customdata": said, "hovertemplate": HOVER,
             "line": {"color": colour, "width": 2.2, "dash": theme.DASHES[place % len(theme.DASHES)]},
             "marker": {"size": 8, "color": colour, "symbol": theme.MARKERS[place % len(theme.MARKERS)]}}
        )  # fmt: skip
    return theme.drawn(
        traces, dark=dark, legend={"title": {"text": "Caching"}},
        xaxis={"title": {"text": theme.with_unit("Mean latency", unit)}},
        yaxis={"title": {"text": "Served top-1 accuracy"}, "ticksuffix": " %"},
        **theme.heading(title, "Accuracy against latency", about),
    )  # fmt: skip


def layers(frame: pd.DataFrame, *, title: str = "", about: str = "", dark: bool = False) -> go.Figure:
    """Where the time of a SubNet's layers goes, and on top of it what the cached SubGraph saves.

    What moves while the array computes is not drawn: first activations are taken to be hidden, then weights.

    Args:
        frame: of :func:`dse.domains.sushi.latency.explain`: ``slot`` (or ``layer``, their names), ``compute``,
            ``weights``, ``activations``, ``fixed``, ``hidden`` and ``saved``, in seconds.
    """
    names = [str(name) for name in frame["layer" if "layer" in frame else "slot"]]
    shown = _exposed(frame)
    total = sum(shown.values())
    factor, unit = theme.axis_scale(total, "s")
    traces = []
    for column, words, colour, hatch in PARTS:
        values = shown[column]
        if not values.any():
            continue
        said = [f"<b>{n}</b><br>{words}: {engineering(v, 's')}" for n, v in zip(names, values, strict=True)]
        traces.append(
            {"type": "bar", "name": words, "x": names, "y": values / factor, "customdata": said, "hovertemplate": HOVER,
             "marker": {"color": colour, "line": {"width": 0}, "pattern": {"shape": hatch, "solidity": 0.3}}}
        )  # fmt: skip
    saved = shown["saved"].sum() / total.sum()
    return theme.drawn(
        traces, dark=dark, barmode="stack", bargap=0.1, legend=theme.BELOW,
        xaxis={**_names("Slot of the SuperNet"), "tickfont": {"size": 11}},
        yaxis={"title": {"text": theme.with_unit("Time", unit)}},
        **_low(theme.heading(title, "Time of the layers", about or f"{saved:.1%} of the time is saved")),
    )  # fmt: skip


def _exposed(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """The parts of the times that add up to the time with nothing cached."""
    parts = {column: frame[column].to_numpy(float) for column, *_ in PARTS}
    hidden = frame["hidden"].to_numpy(float)
    for name in ("activations", "weights", "compute"):
        left = np.maximum(parts[name] - hidden, 0.0)
        hidden = hidden - (parts[name] - left)
        parts[name] = left
    return parts
