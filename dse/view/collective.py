"""Figures of collectives on a network: the network with the use of its links, a schedule over time, and times and
ratios of many schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dse.units import engineering
from dse.view import theme
from dse.view.graph import Floats, curves, path, places
from dse.view.progress import trips, use

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from dse.collective.bounds import Bound
    from dse.collective.schedule import Schedule
    from dse.collective.topology import Topology

SHADES = {
    False: ("#D3DAE3", "#F5B94A", "#E8643C", "#B01765", "#3E0B4A"),  # idle to busy
    True: ("#3B424F", "#8B2A86", "#E0517A", "#F79A56", "#FCF37E"),
}
STEPS = 8  # shades of links on a drawing: each is a trace of its own
WIDTHS = (1.2, 2.2, 3.6)  # of slow, usual and fast links
HOVER = "%{customdata}<extra></extra>"
SAID = 4_000  # links that can be pointed at, at most
NAMED = 72  # nodes that are drawn with their number
ROWS = 400  # of the heat map; of more links, means are drawn
BINS = 240  # of time
BUSIEST = 24  # links of the Gantt chart
BARS = 4_000
COPY, ADD = theme.SPARE[:2]


def network(
    topology: Topology | Schedule, *, healthy: Topology | None = None, bound: Bound | None = None, title: str = "",
    dark: bool = False,
) -> go.Figure:  # fmt: skip
    """A network: NPUs, switches (squares) and links, fast ones thicker, each direction by itself.

    Args:
        topology: the network, or a schedule, whose use of each link then is its colour.
        healthy: the network before something failed: what is missing is dotted.
        bound: the cut that proves it is highlighted: its links, and the two sides (or parts) as colours of the nodes.
    """
    from dse.collective.schedule import Schedule

    schedule = topology if isinstance(topology, Schedule) else None
    of = schedule.topology if schedule else topology
    whole = of if healthy is None else healthy
    at = places(whole)
    shade = use(schedule)[:, 0] if schedule else None
    traces = _failed(of, whole, at) + _links(of, at, shade, bound, dark) + _nodes(of, at, bound, dark)
    about = f"{len(of.members)} NPUs, {of.links} links"
    if schedule:
        about += f"; {what(schedule)} in {engineering(schedule.time, 's')}, links busy {shade.mean():.0%} of it"
    if bound is not None:
        about += f"; at least {engineering(bound.bandwidth, 's')}, as the marked links bound it"
    words = theme.heading(title, theme.sentence(of.name), about)
    axes = flat(np.concatenate([at, curves(whole, at).reshape(-1, 2)]))
    return theme.drawn(traces, dark=dark, **axes, legend=theme.BELOW, **{**words, "height": 640})


def flat(at: Floats) -> dict[str, Any]:
    """Axes of a drawing: none to be seen, both to the same scale."""
    low, high = np.nanmin(at, 0), np.nanmax(at, 0)
    room = 0.03 * float((high - low).max()) + 0.2
    hidden = {"visible": False, "showgrid": False}
    return {
        "xaxis": {**hidden, "range": [low[0] - room, high[0] + room]},
        "yaxis": {**hidden, "range": [low[1] - room, high[1] + room], "scaleanchor": "x"},
    }


def _failed(of: Topology, whole: Topology, at: Floats) -> list[dict[str, Any]]:
    """Links that are gone, dotted."""
    left: dict[tuple[int, int], int] = {}
    for pair in zip(of.src.tolist(), of.dst.tolist(), strict=True):
        left[pair] = left.get(pair, 0) + 1
    gone = []
    for link, pair in enumerate(zip(whole.src.tolist(), whole.dst.tolist(), strict=True)):
        left[pair] = left.get(pair, 0) - 1
        if left[pair] < 0:
            gone.append(link)
    if not gone:
        return []
    x, y = path(curves(whole, at)[gone])
    line = {"color": theme.BAD, "width": 1.6, "dash": "dot"}
    return [{"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, "hoverinfo": "skip", "name": "failed"}]


def _links(of: Topology, at: Floats, shade: Floats | None, bound: Bound | None, dark: bool) -> list[dict[str, Any]]:
    points = curves(of, at)
    speed = _speeds(of.bandwidth)
    step = np.full(of.links, -1) if shade is None else np.minimum((shade * STEPS).astype(int), STEPS - 1)
    cut = np.zeros(of.links, bool)
    if bound is not None:
        cut[bound.cut.link] = len(bound.cut.blocks) > 0
    traces = []
    if cut.any():
        x, y = path(points[cut])
        glow = {"color": theme.BAD, "width": 8}
        traces.append({"type": "scatter", "mode": "lines", "x": x, "y": y, "line": glow, "opacity": 0.45,
                       "hoverinfo": "skip", "name": "links that bound it"})  # fmt: skip
    for s, w in sorted(set(zip(step.tolist(), speed.tolist(), strict=True))):
        x, y = path(points[(step == s) & (speed == w)])
        colour = link_ink(dark) if s < 0 else _shade((s + 0.5) / STEPS, dark)
        traces.append({"type": "scatter", "mode": "lines", "x": x, "y": y, "hoverinfo": "skip", "showlegend": False,
                       "line": {"color": colour, "width": WIDTHS[w]}})  # fmt: skip
    if of.links <= SAID:
        middle = points[:, 3]
        traces.append(_dots(middle, _said(of, shade), shade, dark))
    elif shade is not None:
        traces.append(_dots(points[:1, 0], [""], shade, dark))
    return traces


def link_ink(dark: bool) -> str:
    """Colour of links that say nothing."""
    return "#8791A3" if dark else "#7C8798"


def _dots(at: Floats, said: list[str], shade: Floats | None, dark: bool) -> dict[str, Any]:
    """Marks that cannot be seen but pointed at; with them the colour bar."""
    marker: dict[str, Any] = {"size": 7, "opacity": 0}
    if shade is not None:
        bar = {"title": {"text": "Link busy"}, "tickformat": ".0%", "thickness": 14, "len": 0.8}
        marker |= {"color": shade[: len(at)], "cmin": 0, "cmax": 1, "colorscale": scale(dark), "colorbar": bar}
    return {"type": "scatter", "mode": "markers", "x": at[:, 0], "y": at[:, 1], "marker": marker, "customdata": said,
            "hovertemplate": HOVER, "showlegend": False}  # fmt: skip


def _said(of: Topology, shade: Floats | None) -> list[str]:
    text = []
    for link in range(of.links):
        line = f"<b>{link_name(of, link)}</b><br>{engineering(of.bandwidth[link], 'B/s')}, "
        line += engineering(of.latency[link], "s")
        text.append(line if shade is None else f"{line}<br>busy {shade[link]:.1%}")
    return text


def link_name(of: Topology, link: int) -> str:
    """``3 to 7``, or ``3 to switch 8``."""
    ends = [int(of.src[link]), int(of.dst[link])]
    return " to ".join(f"{end}" if end < of.npus else f"switch {end}" for end in ends)


def _speeds(bandwidth: Floats) -> NDArray[np.int64]:
    """Class of each link: 0 slow, 1 usual (or all alike), 2 fast."""
    low, high = bandwidth.min(initial=np.inf), bandwidth.max(initial=0.0)
    if not high > 1.05 * low:
        return np.ones(len(bandwidth), np.int64)
    return np.minimum(3 * np.log(bandwidth / low) / np.log(high / low), 2).astype(np.int64)


def _nodes(of: Topology, at: Floats, bound: Bound | None, dark: bool) -> list[dict[str, Any]]:
    number = np.arange(of.nodes)
    failed = np.isin(number, of.failed)
    side = np.zeros(of.nodes, np.int64)
    if bound is not None:
        for block, nodes in enumerate(bound.cut.blocks):
            side[list(nodes)] = block
    size = float(np.clip(520 / max(of.nodes, 1) ** 0.75, 5, 26))
    back = theme.paper(dark)
    traces = []
    kinds = ((number < of.npus) & ~failed, number >= of.npus, failed)
    for which, name, symbol in zip(kinds, ("NPU", "switch", "failed NPU"), ("circle", "square", "x"), strict=True):
        if not which.any():
            continue
        colour = [theme.SPARE[k % len(theme.SPARE)] for k in side[which]] if bound is not None else theme.SPARE[0]
        if symbol != "circle":
            colour = theme.BAD if symbol == "x" else "#5A6270"
        labels = symbol == "circle" and of.nodes <= NAMED
        traces.append(
            {
                "type": "scatter", "mode": "markers+text" if labels else "markers", "name": name,
                "x": at[which, 0], "y": at[which, 1], "text": number[which].astype(str) if labels else None,
                "textfont": {"size": max(8.0, 0.45 * size), "color": "#FFFFFF"},
                "marker": {"symbol": symbol, "size": size, "color": colour, "line": {"color": back, "width": 1}},
                "customdata": [f"{name} {node}" for node in number[which]], "hovertemplate": HOVER,
                "showlegend": of.nodes > of.npus or bool(failed.any()),
            }
        )  # fmt: skip
    return traces


def scale(dark: bool) -> list[list[Any]]:
    """Colours from idle to busy."""
    colours = SHADES[dark]
    return [[k / (len(colours) - 1), colour] for k, colour in enumerate(colours)]


def _shade(share: float, dark: bool) -> str:
    from plotly.colors import sample_colorscale

    return sample_colorscale(scale(dark), [float(np.clip(share, 0, 1))])[0]


def what(schedule: Schedule) -> str:
    """``all_reduce of 1 GiB by ring``."""
    name = f"{schedule.collective.replace('_', '-')} of {binary(schedule.nbytes)}"
    return f"{name} by {schedule.algorithm}" if schedule.algorithm else name


# -- over time ------------------------------------------------------------------------------------------------


def utilization(schedule: Schedule, *, title: str = "", dark: bool = False) -> go.Figure:
    """Use of the links over time: a row a link, the busiest on top (many links: means of some that are next to each
    other in this order)."""
    of = schedule.topology
    order = np.argsort(-use(schedule)[:, 0], kind="stable")
    row = np.empty(of.links, np.int64)
    row[order] = np.arange(of.links) * min(ROWS, of.links) // max(of.links, 1)
    shares = use(schedule, BINS, row)
    factor, unit = theme.axis_scale([schedule.time], "s")
    at = (np.arange(BINS) + 0.5) * schedule.time / BINS / factor
    grouped = of.links > ROWS
    names = None if grouped else [[link_name(of, int(link))] * BINS for link in order]
    label = "links %{y}" if grouped else "<b>%{customdata}</b>"
    heat = {
        "type": "heatmap", "x": at, "z": shares, "zmin": 0, "zmax": 1, "colorscale": scale(dark),
        "customdata": names, "hovertemplate": f"{label}<br>at %{{x:.4g}} {unit}: busy %{{z:.0%}}<extra></extra>",
        "colorbar": {"title": {"text": "Link busy"}, "tickformat": ".0%", "thickness": 14},
    }  # fmt: skip
    about = f"{what(schedule)}; busy {shares.mean():.0%} on average"
    words = theme.heading(title, "Use of the links over time", about)
    down = f"Links, busiest first ({of.links / ROWS:.1f} a row)" if grouped else "Links, busiest first"
    return theme.drawn(
        [heat], dark=dark, xaxis={"title": {"text": theme.with_unit("Time", unit)}, "showgrid": False},
        yaxis={"title": {"text": down}, "autorange": "reversed", "showgrid": False, "showticklabels": False}, **words,
    )  # fmt: skip


def gantt(schedule: Schedule, *, links: int = BUSIEST, title: str = "", dark: bool = False) -> go.Figure:
    """What the busiest links carry when; messages that follow each other closely are drawn as one where there are
    many."""
    of, found = schedule.topology, trips(schedule)
    busiest = np.argsort(-use(schedule)[:, 0], kind="stable")[:links]
    row = np.full(of.links, -1)
    row[busiest] = np.arange(len(busiest))
    mine = np.flatnonzero(row[found.link] >= 0)
    mine = mine[np.lexsort((found.start[mine], row[found.link[mine]]))]
    adds = schedule.reduce[found.first[mine]]
    bars = _joined(row[found.link[mine]], adds, found.start[mine], found.end[mine], found.chunks[mine], schedule.time)
    factor, unit = theme.axis_scale([schedule.time], "s")
    chunk = schedule.chunk[found.first[mine]]
    traces = []
    for kind, name, colour in ((False, "copied", COPY), (True, "added", ADD)):
        these = bars["reduce"] == kind
        if not these.any():
            continue
        said = [
            f"<b>{link_name(of, int(busiest[r]))}</b><br>"
            + (f"chunk {chunk[f]}" if count == 1 else f"{count} chunks from {chunk[f]} on")
            + f"<br>{engineering(s, 's', 5)} to {engineering(e, 's', 5)}"
            for r, f, count, s, e in zip(*(bars[c][these] for c in ("row", "first", "count", "start", "end")),
                                         strict=True)
        ]  # fmt: skip
        traces.append(
            {
                "type": "bar", "orientation": "h", "name": f"chunks that are {name}", "y": bars["row"][these],
                "base": bars["start"][these] / factor, "x": (bars["end"] - bars["start"])[these] / factor,
                "marker": {"color": colour, "line": {"color": theme.paper(dark), "width": 0.6}},
                "customdata": said, "hovertemplate": HOVER, "width": 0.82,
            }
        )  # fmt: skip
    names = [link_name(of, int(link)) for link in busiest]
    words = theme.heading(title, f"The {len(busiest)} busiest of {of.links} links", what(schedule))
    words["margin"] = {**words["margin"], "b": 95}
    return theme.drawn(
        traces, dark=dark, barmode="overlay", legend=theme.BELOW, height=230 + 20 * max(len(names), 6),
        xaxis={"title": {"text": theme.with_unit("Time", unit)}, "rangemode": "tozero"},
        yaxis={"tickvals": np.arange(len(names)), "ticktext": names, "autorange": "reversed", "showgrid": False},
        **words,
    )  # fmt: skip


def _joined(row: Any, adds: Any, start: Any, end: Any, count: Any, total: float) -> dict[str, NDArray[Any]]:
    """Messages as bars; those of a kind that follow at once on a link become one where there are too many."""
    gap = np.inf if len(row) <= BARS else total / 2_000
    new = np.ones(len(row), bool)
    if len(row) > BARS:
        new[1:] = (row[1:] != row[:-1]) | (adds[1:] != adds[:-1]) | (start[1:] - end[:-1] > gap)
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(row)) - 1
    return {"row": row[first], "reduce": adds[first], "start": start[first], "end": end[last], "first": first,
            "count": np.add.reduceat(count, first) if len(first) else count[:0]}  # fmt: skip


def binary(size: float) -> str:
    """``64 KiB``."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.4g} {unit}"
    return f"{size:.4g} B"


def _played(schedule: Schedule, **options: Any) -> go.Figure:
    from dse.view.collective_played import animation

    return animation(schedule, **options)


# What can be drawn of a schedule, by name.
FIGURES = {"network": network, "heat": network, "utilization": utilization, "gantt": gantt, "animation": _played}
