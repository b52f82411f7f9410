"""Figures of execution traces: the graph, the timeline, and how much is communicated among whom."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.trace.columns import Floats, Ints, Trace, TraceSet
from dse.trace.critical import critical_path, earliest, kind_name, trace_of
from dse.trace.lanes import FAMILIES, Played, family_of, played
from dse.trace.schema import Kind
from dse.trace.summary import ALL, summary, type_name
from dse.units import engineering
from dse.view import theme

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS = {"host": "host", "compute": "compute", "memory": "memory", "communication": "links"}  # family: whose colour
MARKS = {"host": "circle-open", "compute": "circle", "memory": "square", "communication": "diamond"}
EVENTS = 12_000  # bars that are drawn at most
PIXELS = 1100  # of the drawing in a figure 1280 pixels wide
LANES = 24  # rows of a timeline at most
LABELS = 16  # groups with a column of their own in the heat map; more are put together by their size
NAMED = 60  # nodes of a graph whose names are written
ACROSS = 12  # layers of a graph in a line; more go on in the next line, as text does


def timeline(
    traces: Trace | TraceSet,
    *,
    rank: int = 0,
    start: Floats | None = None,
    seconds: Floats | None = None,
    title: str = "",
    dark: bool = False,
) -> go.Figure:
    """What one rank does over time, a row a stream or thread.

    Args:
        traces: a trace, or those of all ranks.
        rank: whose.
        start, seconds: times of the nodes, for instance of a simulation; by default as recorded, or as early as the
            dependences allow where nothing was recorded.

    Raises:
        SpecError: no such rank, an empty trace, or times of another shape.
    """
    trace = _filled(trace_of(traces, rank))
    run = played(trace, start, seconds)
    if not run.seconds.any():
        raise SpecError([Fault("seconds", "", "no node of the trace takes time: give those of a simulation")])
    end = float(np.max(run.start + run.seconds))
    factor, unit = theme.axis_scale([end], "s")
    how = "as recorded" if run.recorded else "as early as dependences allow" if start is None else "as simulated"
    lanes = _busiest(run)
    about = f"rank {rank}, {len(trace):,} nodes, {engineering(end, 's')}, {how}"
    still = int((run.seconds == 0).sum())
    about += f"; not drawn: {still:,} without a duration" if still else ""
    about += f"; the {LANES} busiest rows" if len(lanes) == LANES else ""
    bars = []
    families = family_of(trace)
    shown = np.isin(run.lane, lanes) & (run.seconds > 0)
    if shown.sum() > EVENTS:  # the longest, in the order of the file
        shown &= run.seconds >= np.sort(run.seconds[shown])[-EVENTS]
    for place, name in enumerate(FAMILIES):
        rows = np.flatnonzero(shown & (families == place))
        if len(rows):
            bars.append(_bars(trace, run, rows, name, factor, dark))
    names = [run.lanes[k] for k in lanes]
    down = {"type": "category", "categoryarray": names, "autorange": "reversed", "showgrid": False}
    across = {"title": {"text": theme.with_unit("Time", unit)}, "range": [0, 1.01 * end / factor]}
    words = theme.heading(title, "What a rank does over time", about)
    words["margin"] = {**words["margin"], "b": 90}
    height = int(min(900, max(300, 210 + 34 * len(lanes))))
    layout = {"barmode": "overlay", "bargap": 0.15, "height": height, "legend": theme.BELOW}
    return theme.drawn(bars, dark=dark, xaxis=across, yaxis=down, **words, **layout)


def _filled(trace: Trace) -> Trace:
    if not len(trace):
        raise SpecError([Fault("trace", "", "has no nodes to draw")])
    return trace


def _busiest(run: Played) -> Ints:
    """The rows to draw, in their order: those with the most time where there are many."""
    time = np.bincount(run.lane, run.seconds, len(run.lanes))
    used = np.flatnonzero(time > 0)
    return np.sort(used[np.argsort(-time[used], kind="stable")[:LANES]])


def _bars(trace: Trace, run: Played, rows: Ints, name: str, factor: float, dark: bool) -> dict[str, Any]:
    """The nodes of one family as bars."""
    said = [
        f"<b>{trace.names[trace.name[row]]}</b><br>node {trace.ids[row]}, {_what(trace, row)}"
        f"<br>from {engineering(run.start[row], 's', 5)}, takes {engineering(run.seconds[row], 's')}"
        for row in rows.tolist()
    ]
    usual = float(np.median(run.seconds[rows]) / np.max(run.start + run.seconds)) * PIXELS
    edge = {"width": 0.6 if usual > 5 else 0, "color": theme.paper(dark)}
    return {
        "type": "bar", "orientation": "h", "name": name,
        "x": run.seconds[rows] / factor, "base": run.start[rows] / factor, "y": [run.lanes[k] for k in run.lane[rows]],
        "marker": {**theme.fill(COLOURS[name]), "line": edge},
        "customdata": said, "hovertemplate": "%{customdata}<extra></extra>",
    }  # fmt: skip


def _what(trace: Trace, row: int) -> str:
    """Kind of a node, with type, size and group of what it communicates, or its operations and bytes."""
    kind = int(trace.kind[row])
    if kind in (Kind.SEND, Kind.RECV, Kind.COLL):
        group = f"group {trace.labels[trace.group[row]]}" if trace.group[row] >= 0 else ALL
        return f"{type_name(kind, int(trace.coll[row]))}, {engineering(max(trace.size[row], 0), 'B')}, {group}"
    parts = [kind_name(kind)]
    parts += [engineering(v[row], u) for v, u in ((trace.flops, "FLOP"), (trace.bytes, "B")) if v[row]]
    return ", ".join(parts)


def graph(
    traces: Trace | TraceSet, *, rank: int = 0, first: int = 0, count: int = 40, title: str = "", dark: bool = False
) -> go.Figure:
    """Nodes and dependences of a part of a trace, in layers from left to right; the critical path stands out.

    Args:
        traces: a trace, or those of all ranks.
        rank: whose.
        first: how many nodes to leave out, in the order in which they can start.
        count: how many to draw.

    Raises:
        SpecError: no such rank, nothing to draw there, or dependences in a circle.
    """
    trace = _filled(trace_of(traces, rank))
    order = _order(trace)
    rows = order[first : first + count]
    if first < 0 or count < 1 or not len(rows):
        rule = f"a part of the {len(trace)} nodes: first from 0, count from 1"
        raise SpecError([Fault("first, count", f"{first}, {count}", f"must be {rule}")])
    one, other = _edges(trace, rows)
    x, y, line = _wrapped(*_places(len(rows), one, other))
    on_path = np.isin(rows, critical_path(trace).rows)
    bold = on_path[one] & on_path[other]
    lines = [_lines(x, y, line, one[part], other[part], heavy, dark) for heavy, part in ((False, ~bold), (True, bold))]
    dots = []
    families = family_of(trace)[rows]
    for place, name in enumerate(FAMILIES):
        part = np.flatnonzero(families == place)
        if len(part):
            dots.append(_dots(trace, rows, part, x, y, name, dark))
    about = f"rank {rank}, nodes {first + 1:,} to {first + len(rows):,} of {len(trace):,}, as early as they can start"
    words = theme.heading(title, "What depends on what", about)
    words["margin"] = {**words["margin"], "b": 60, "l": 20}
    bare = {"visible": False, "showgrid": False, "zeroline": False}
    reach = max(float(np.ptp(y)), 2.0)
    # Names slant up to the right of their nodes: leave room above and at the right.
    up = {**bare, "range": [float(y.min()) - 0.08 * reach - 0.4, float(y.max()) + 0.2 * reach + 0.4]}
    across = {**bare, "range": [-0.7, max(float(x.max()), 1.0) * 1.1 + 0.6]}
    return theme.drawn(
        [*lines, *dots],
        dark=dark,
        xaxis=across,
        yaxis=up,
        height=620,
        legend=theme.BELOW,
        annotations=_names(trace, rows, x, y),
        **words,
    )


def _order(trace: Trace) -> Ints:
    """Rows in an order in which they can run: by earliest start, layer and place in the file."""
    found = earliest(trace)
    return np.lexsort((np.arange(len(trace)), found.level, found.start))


def _edges(trace: Trace, rows: Ints) -> tuple[Ints, Ints]:
    """Dependences among the chosen rows, as places in them; those that follow from others are left out."""
    place = np.full(len(trace), -1, np.int64)
    place[rows] = np.arange(len(rows))
    pointers, parents = trace.parents
    child = np.repeat(place, np.diff(pointers))
    parent = place[parents]
    kept = (child >= 0) & (parent >= 0)
    one, other = parent[kept], child[kept]
    reach = np.zeros((len(rows), len(rows)), bool)  # who comes before whom, at all
    direct = np.zeros_like(reach)
    direct[one, other] = True
    for node in range(len(rows)):  # parents come first in this order
        before = np.flatnonzero(direct[:, node])
        reach[:, node] = reach[:, before].any(axis=1)
        direct[reach[:, node], node] = False
        reach[before, node] = True
    found = np.nonzero(direct)
    return found[0], found[1]


def _places(count: int, one: Ints, other: Ints) -> tuple[Floats, Floats]:
    """Layer of each node along the longest chain, and its height in the layer near the mean of its neighbours."""
    x = np.zeros(count)
    for node in range(count):
        before = one[other == node]
        x[node] = x[before].max() + 1 if len(before) else 0
    y = np.zeros(count)
    for sweep in range(6):
        layers = np.unique(x)
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            inside = np.flatnonzero(x == layer)
            ends = (one, other) if sweep % 2 == 0 else (other, one)
            mean = [
                float(y[ends[0][ends[1] == node]].mean()) if (ends[1] == node).any() else y[node] for node in inside
            ]
            ranked = inside[np.argsort(mean, kind="stable")]
            y[ranked] = np.arange(len(inside)) - (len(inside) - 1) / 2
    return x, y


def _wrapped(x: Floats, y: Floats) -> tuple[Floats, Floats, Ints]:
    """Many layers in lines of :data:`ACROSS`, one below the other: places, and the line of each node."""
    line = (x // ACROSS).astype(np.int64)
    down, place = 0.0, y.copy()
    for number in range(int(line.max()) + 1):
        inside = line == number
        down -= float(y[inside].max()) + (2.0 if number else 0.0)
        place[inside] = y[inside] + down
        down += float(y[inside].min())
    return x - ACROSS * line, place, line


def _lines(x: Floats, y: Floats, line: Ints, one: Ints, other: Ints, heavy: bool, dark: bool) -> dict[str, Any]:
    """Dependences; one that passes over layers is bent, so that it does not run through the nodes between."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for a, b in zip(one.tolist(), other.tolist(), strict=True):
        if line[a] != line[b]:  # round the ends of the lines
            below = float(y[line == line[a]].min()) - 0.5
            xs += [x[a], ACROSS - 0.5, ACROSS - 0.5, -0.5, -0.5, x[b], None]
            ys += [y[a], y[a], below, below, y[b], y[b], None]
            continue
        span = x[b] - x[a]
        middle = (y[a] + y[b]) / 2 - (0.45 * np.sqrt(span - 1) if span > 1 and abs(y[a] - y[b]) < 0.5 else 0.0)
        steps = np.linspace(0.0, 1.0, 9 if span > 1 else 2)
        xs += [*(x[a] + span * steps).tolist(), None]
        ys += [*(y[a] * (1 - steps) ** 2 + 2 * middle * steps * (1 - steps) + y[b] * steps**2).tolist(), None]
    look = {"color": theme.BAD if heavy else theme.ink(dark), "width": 2.5 if heavy else 1.2}
    return {
        "type": "scatter", "mode": "lines", "x": xs, "y": ys, "line": look, "opacity": 0.9 if heavy else 0.45,
        "hoverinfo": "skip", "name": "critical path" if heavy else "dependence",
    }  # fmt: skip


def _dots(trace: Trace, rows: Ints, part: Ints, x: Floats, y: Floats, name: str, dark: bool) -> dict[str, Any]:
    """The nodes of one family, with their names where there is room."""
    said = [
        f"<b>{trace.names[trace.name[row]]}</b><br>node {trace.ids[row]}, {_what(trace, row)}"
        f"<br>takes {engineering(trace.seconds[row], 's')}"
        for row in rows[part].tolist()
    ]
    out = {
        "type": "scatter", "mode": "markers", "x": x[part], "y": y[part], "name": name,
        "marker": {"color": theme.colour_of(COLOURS[name]), "symbol": MARKS[name], "size": 13,
                   "line": {"width": 1.5, "color": theme.paper(dark)}},
        "customdata": said, "hovertemplate": "%{customdata}<extra></extra>",
    }  # fmt: skip
    return out


def _names(trace: Trace, rows: Ints, x: Floats, y: Floats) -> list[dict[str, Any]]:
    """The names of the nodes, slanted, where there are few."""
    if len(rows) > NAMED:
        return []
    flat = x.max() < 6 and len(rows) > 8  # few layers of many nodes: names lie beside them
    look = {"showarrow": False, "xanchor": "left", "yanchor": "bottom", "font": {"size": 11}, "xshift": 4}
    look |= {"textangle": 0, "yshift": 2} if flat else {"textangle": -30, "yshift": 6}
    texts = [trace.names[k] for k in trace.name[rows]]
    return [
        {**look, "x": a, "y": b, "text": text if len(text) < 26 else f"…{text[-24:]}"}
        for a, b, text in zip(x.tolist(), y.tolist(), texts, strict=True)
    ]


def volume(traces: Trace | TraceSet, *, rank: int = 0, title: str = "", dark: bool = False) -> go.Figure:
    """Bytes communicated by all ranks together, by type and group.

    Args:
        traces: a trace, or those of all ranks.
        rank: counts for nothing here; the other figures have it.

    Raises:
        SpecError: the trace communicates nothing.
    """
    found = summary(traces, rank)
    table = found.communication
    if not len(table):
        raise SpecError([Fault("trace", "", "communicates nothing")])
    many = table["group"].nunique() > LABELS
    groups = [f"{ranks:,} ranks" for ranks in table["ranks"]] if many else table["group"].tolist()
    pivot = table.assign(group=groups).pivot_table(
        index="type", columns="group", values=["volume [B]", "calls"], aggfunc="sum", sort=False
    )
    columns = sorted(dict.fromkeys(groups), key=_natural)
    bytes_, calls = (pivot[name].reindex(columns=columns) for name in ("volume [B]", "calls"))
    cells = bytes_.to_numpy(np.float64)
    text = [[theme.short(v, "B") if np.isfinite(v) else "" for v in row] for row in cells]
    hover = [
        [
            f"<b>{kind}</b>, {group}<br>{text[i][j]} in {int(calls.iloc[i, j]):,} calls" if text[i][j] else ""
            for j, group in enumerate(bytes_.columns)
        ]
        for i, kind in enumerate(bytes_.index)
    ]
    across = [str(group) for group in bytes_.columns]
    down = [kind.replace("_", "-") for kind in bytes_.index]
    heat = {
        "type": "heatmap", "z": np.log10(np.where(cells > 0, cells, np.nan)), "x": across, "y": down, "text": text,
        "texttemplate": "%{text}", "customdata": hover, "hovertemplate": "%{customdata}<extra></extra>",
        "colorscale": theme.shades(dark), "showscale": False, "xgap": 2, "ygap": 2, "hoverongaps": False,
    }  # fmt: skip
    total = engineering(float(np.nansum(cells)), "B")
    about = f"{len(found.traces):,} ranks put {total} into {int(table['calls'].sum()):,} calls"
    words = theme.heading(title, "What is communicated, among whom", about)
    titles = ("Group" if not many else "Size of the group", "Type")
    axes = {
        f"{letter}axis": {"type": "category", "showgrid": False, "title": {"text": name}}
        for letter, name in zip("xy", titles, strict=True)
    }
    axes["yaxis"]["autorange"] = "reversed"
    return theme.drawn([heat], dark=dark, height=200 + max(52 * len(down), 160), **axes, **words)


def _natural(label: str) -> tuple[bool, list[tuple[int, str]]]:
    """Order of labels: all ranks first, numbers as numbers."""
    return label != ALL, [(int(part) if part.isdigit() else -1, part) for part in re.findall(r"\d+|\D+", label)]
