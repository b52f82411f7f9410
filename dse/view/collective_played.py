"""A schedule as an animation on its network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dse.units import engineering
from dse.view import theme
from dse.view.collective import ADD, COPY, HOVER, NAMED, SHADES, flat, link_ink, scale, what
from dse.view.graph import curves, path, places
from dse.view.progress import completed, trips

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from dse.collective.schedule import Schedule

FRAMES, FEW_FRAMES = 60, 24  # of networks up to MANY links, and beyond
MANY = 1_000
BUSY = 600  # links in use that are drawn in a frame, at most: of more, evenly spread ones


def animation(schedule: Schedule, *, frames: int | None = None, title: str = "", dark: bool = False) -> go.Figure:
    """The schedule as it runs: links in use, and how much of its result each NPU has; with a slider and a button.

    Args:
        frames: how many; by default fewer of larger networks.
    """
    of = schedule.topology
    count = frames or (FRAMES if of.links <= MANY else FEW_FRAMES)
    times = np.linspace(0, schedule.time, count)
    at, points = places(of), curves(of, places(of))
    have, found = completed(schedule, times), trips(schedule)
    adds = schedule.reduce[found.first]
    factor, unit = theme.axis_scale([schedule.time], "s")
    names = [f"{t / factor:.4g}" for t in times]
    shown = [_frame(k, t, have, found, adds, points) for k, t in enumerate(times)]
    x, y = path(points)
    still = {"type": "scatter", "mode": "lines", "x": x, "y": y, "hoverinfo": "skip", "showlegend": False,
             "line": {"color": SHADES[dark][0], "width": 1.2}}  # fmt: skip
    parts: list[dict[str, Any]] = [still]
    for name, colour in (("copied over", COPY), ("added over", ADD)):
        parts.append({"type": "scatter", "mode": "lines", "name": name, "hoverinfo": "skip",
                      "line": {"color": colour, "width": 3.2}})  # fmt: skip
    parts.append(_nodes(schedule, at, dark))
    traces = [{**part, **now} for part, now in zip(parts, [{}, *shown[0]], strict=True)]
    about = f"{what(schedule)} in {engineering(schedule.time, 's')}"
    if (found.end > found.start).sum() and of.links > BUSY:
        about += f"; at most {BUSY} links in use are drawn"
    words = theme.heading(title, theme.sentence(of.name), about)
    figure = theme.drawn(
        traces, dark=dark, **flat(np.concatenate([at, points.reshape(-1, 2)])), legend=_LEGEND,
        updatemenus=[_button()], sliders=[_slider(names, unit)], **{**words, "height": 720},
    )  # fmt: skip
    figure.frames = [{"name": name, "data": now, "traces": [1, 2, 3]} for name, now in zip(names, shown, strict=True)]
    return figure


_LEGEND = {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"}


def _frame(k: int, t: float, have: Any, found: Any, adds: Any, points: Any) -> list[dict[str, Any]]:
    """Links that carry something at a time, and what the NPUs have."""
    now = (found.start <= t) & (t < found.end)
    lines = []
    for kind in (False, True):
        links = np.unique(found.link[now & (adds == kind)])
        if len(links) > BUSY // 2:
            links = links[np.linspace(0, len(links) - 1, BUSY // 2).astype(int)]
        x, y = path(points[links])
        lines.append({"x": x, "y": y} if len(links) else {"x": [None], "y": [None]})
    share = have[:, k]
    said = [f"NPU {npu}" + ("" if np.isnan(s) else f" has {s:.0%}") for npu, s in enumerate(share)]
    return [*lines, {"marker.color": np.nan_to_num(share), "customdata": said}]


def _nodes(schedule: Schedule, at: Any, dark: bool) -> dict[str, Any]:
    of = schedule.topology
    size = float(np.clip(520 / max(of.nodes, 1) ** 0.75, 6, 26))
    named = of.nodes <= NAMED
    bar = {"title": {"text": "Of its result"}, "tickformat": ".0%", "thickness": 14, "len": 0.7}
    return {
        "type": "scatter", "mode": "markers+text" if named else "markers", "showlegend": False,
        "x": at[: of.npus, 0], "y": at[: of.npus, 1], "hovertemplate": HOVER,
        "text": [str(npu) for npu in range(of.npus)] if named else None,
        "textfont": {"size": max(8.0, 0.42 * size), "color": theme.ink(dark)}, "textposition": "top center",
        "marker": {"size": size, "cmin": 0, "cmax": 1, "colorscale": scale(dark), "colorbar": bar,
                   "line": {"color": link_ink(dark), "width": 1}},
    }  # fmt: skip


def _button() -> dict[str, Any]:
    play = {"frame": {"duration": 120, "redraw": False}, "fromcurrent": True, "transition": {"duration": 0}}
    stop = {"frame": {"duration": 0, "redraw": False}, "mode": "immediate"}
    buttons = [
        {"label": "▶", "method": "animate", "args": [None, play]},
        {"label": "❚❚", "method": "animate", "args": [[None], stop]},
    ]
    return {"type": "buttons", "direction": "left", "buttons": buttons, "showactive": False, "x": 0.0, "y": -0.03,
            "xanchor": "left", "yanchor": "top", "pad": {"t": 6}}  # fmt: skip


def _slider(names: list[str], unit: str) -> dict[str, Any]:
    options = {"frame": {"duration": 0, "redraw": False}, "mode": "immediate", "transition": {"duration": 0}}
    steps = [{"label": name, "method": "animate", "args": [[name], options]} for name in names]
    return {"steps": steps, "currentvalue": {"prefix": "Time ", "suffix": f" {unit}"}, "x": 0.12, "len": 0.86,
            "y": -0.02, "pad": {"t": 4}, "ticklen": 0, "minorticklen": 0, "font": {"size": 1}}  # fmt: skip
