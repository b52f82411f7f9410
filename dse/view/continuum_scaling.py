"""Figures of scaling: throughput on sizes not yet run, errors of sizes left out, and what the time consists of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.view import theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

HOVER = "%{customdata}<extra></extra>"
COLOURS = [theme.SPARE[place] for place in (0, 1, 7, 4, 3, 5, 9, 8)]  # all can be told from a dark background
RATE = "Simulated days per day"
TERMS = {"device": "on the device", "even": "work, even", "surface": "surface of a node's part", "latency": "latency",
         "machine": "over the whole machine"}  # fmt: skip


def forecasts(
    found: Sequence[Any], runs: pd.DataFrame | None = None, *, target: float | None = None, title: str = "",
    dark: bool = False,
) -> go.Figure:  # fmt: skip
    """Throughput against nodes: median and interval of each machine, and the runs that were measured.

    Args:
        found: :class:`~dse.domains.continuum.scaling.Forecast`, one a machine or algorithm; those without an answer are
            named below the title.
        runs: measured ones, as of :attr:`~dse.domains.continuum.scaling.ScalingModel.runs`.
        target: simulated days per day to reach.

    Raises:
        SpecError: none has an answer, and there is no run either.
    """
    several = len({one.algorithm for one in found}) > 1
    traces, values, sizes = [], [], []
    for place, one in enumerate(found):
        colour = COLOURS[place % len(COLOURS)]
        name = f"{one.machine}, {one.algorithm}" if several else one.machine
        if not one.reason:
            traces += _band(one, name, colour, theme.DASHES[place % len(theme.DASHES)])
            values += [one.low, one.high]
            sizes.append(one.nodes)
        ran = _ran(one, runs)
        if ran is not None and len(ran[0]):
            traces.append(_marks(*ran, name, colour, theme.MARKERS[place % len(theme.MARKERS)], lone=bool(one.reason)))
            values.append(ran[1])
            sizes.append(ran[0])
    if not traces:
        raise SpecError([Fault("machine", ", ".join(one.machine for one in found)[:60], found[0].reason)])
    shown = theme.line_at(target, dark, letter="y", text="") if target else {"shapes": [], "annotations": []}
    missing = [f"{one.machine}: {one.reason.partition(':')[0]}" for one in found if one.reason]
    good = [one.coverage for one in found if not one.reason]
    about = "; ".join(
        [*([f"Bands: {good[0]:.0%} intervals"] if good else []), *([f"dashed: {target:g}"] if target else []), *missing]
    )
    every, nodes = np.concatenate([*values, [target] if target else []]), np.concatenate(sizes)
    return theme.drawn(
        traces, dark=dark, legend=theme.BELOW, **shown,
        xaxis={"type": "log", "title": {"text": "Nodes"}, **theme.log_ticks(nodes), "range": _ends(nodes)},
        yaxis={"type": "log", "title": {"text": RATE}, **theme.log_ticks(every), "range": _ends(every)},
        **_low(theme.heading(title, "Throughput on sizes run and not yet run", about)),
    )  # fmt: skip


def _low(words: dict[str, Any]) -> dict[str, Any]:
    return {**words, "margin": {**words["margin"], "b": 110}}


def _ends(values: np.ndarray) -> list[float]:
    return [float(np.log10(values.min() * 0.85)), float(np.log10(values.max() * 1.18))]


def _band(one: Any, name: str, colour: str, dash: str) -> list[dict[str, Any]]:
    said = [
        f"<b>{name}, {n:,.0f} nodes</b><br>{r:.4g} ({low:.4g} to {high:.4g}) simulated days per day"
        + ("<br>beyond what was run" if out else "")
        for n, r, low, high, out in zip(one.nodes, one.rate, one.low, one.high, one.beyond, strict=True)
    ]
    area = {
        "type": "scatter", "mode": "lines", "x": np.concatenate([one.nodes, one.nodes[::-1]]), "fill": "toself",
        "y": np.concatenate([one.high, one.low[::-1]]), "line": {"width": 0}, "fillcolor": colour, "opacity": 0.18,
        "hoverinfo": "skip", "showlegend": False,
    }  # fmt: skip
    line = {
        "type": "scatter", "mode": "lines", "name": name, "x": one.nodes, "y": one.rate, "customdata": said,
        "hovertemplate": HOVER, "line": {"color": colour, "width": 2.2, "dash": dash},
    }  # fmt: skip
    return [area, line]


def _ran(one: Any, runs: pd.DataFrame | None) -> tuple[np.ndarray, np.ndarray, list[str]] | None:
    """Nodes, rates and variants of the runs of a forecast's machine and algorithm; without an answer, of any."""
    from dse.domains.continuum.scaling_tables import DAY

    if runs is None:
        return None
    some = runs[runs["machine"] == one.machine]
    some = some if one.reason else some[some["algorithm"] == one.algorithm]
    return some["nodes"].to_numpy(float), (some["days"] * DAY / some["seconds"]).to_numpy(float), list(some["variant"])


def _marks(
    nodes: np.ndarray, rates: np.ndarray, variants: list[str], name: str, colour: str, mark: str, *, lone: bool
) -> dict[str, Any]:
    said = [
        f"<b>{name}, {n:,.0f} nodes</b>, {v}<br>measured {r:.4g}"
        for n, r, v in zip(nodes, rates, variants, strict=True)
    ]
    return {
        "type": "scatter", "mode": "markers", "name": f"{name}: runs" if lone else name, "showlegend": lone, "x": nodes,
        "y": rates, "customdata": said, "hovertemplate": HOVER,
        "marker": {"color": colour, "symbol": f"{mark}-open", "size": 9, "line": {"width": 2}},
    }  # fmt: skip


def held_out(frame: pd.DataFrame, *, title: str = "", dark: bool = False) -> go.Figure:
    """What was predicted of each run without its size over what was measured, with the interval.

    Args:
        frame: of :func:`dse.domains.continuum.tables.held_out` or
            :attr:`dse.domains.continuum.scaling_validate.Agreement.table`.

    Raises:
        SpecError: none was predicted.
    """
    good = frame[frame["reason"] == ""]
    if not len(good):
        raise SpecError([Fault("frame", "", "holds no run that was predicted")])
    traces = []
    for place, (name, part) in enumerate(good.groupby("machine", sort=False)):
        ratio, low, high = (part[c].to_numpy(float) / part["measured"].to_numpy(float) for c in ("rate", "low", "high"))
        colour = COLOURS[place % len(COLOURS)]
        said = [
            f"<b>{name}, {n:,.0f} nodes</b>, {v}<br>measured {m:.4g}, predicted {r:.4g} ({r / m - 1:+.1%})"
            for n, v, m, r in part[["nodes", "variant", "measured", "rate"]].itertuples(index=False)
        ]
        shift = (
            part.groupby("nodes").cumcount().to_numpy()
            - (part.groupby("nodes")["nodes"].transform("size").to_numpy() - 1) / 2
        )
        traces.append(
            {"type": "scatter", "mode": "markers", "name": str(name), "x": part["nodes"].to_numpy(float) * 1.025**shift,
             "y": ratio, "customdata": said, "hovertemplate": HOVER,
             "marker": {"size": 9, "color": colour, "symbol": theme.MARKERS[place % len(theme.MARKERS)]},
             "error_y": {"type": "data", "symmetric": False, "array": high - ratio, "arrayminus": ratio - low,
                         "color": colour, "thickness": 1.3, "width": 0}}
        )  # fmt: skip
    inside, missing = good["inside"].mean(), len(frame) - len(good)
    about = f"{len(good)} runs: median error {good['ape'].median():.1%}, {inside:.0%} in their 90 % intervals"
    about += f"; {missing} not predicted: not enough data" if missing else ""
    return theme.drawn(
        traces, dark=dark, legend=theme.BELOW, **theme.line_at(1.0, dark, letter="y"),
        xaxis={"type": "log", "title": {"text": "Nodes"}, **theme.log_ticks(good["nodes"])},
        yaxis={"title": {"text": "Predicted over measured rate"}},
        **_low(theme.heading(title, "Sizes left out", about)),
    )  # fmt: skip


def shares(
    model: Any, machine: str, nodes: Sequence[float], *, algorithm: str | None = None, title: str = "",
    dark: bool = False,
) -> go.Figure:  # fmt: skip
    """What the time of a run consists of as nodes are added.

    Args:
        model: :class:`~dse.domains.continuum.scaling.ScalingModel`.
    """
    counts = np.asarray(nodes, float)
    found = model.shares(machine, counts, algorithm=algorithm)
    traces = [
        {"type": "scatter", "mode": "lines", "name": TERMS.get(term, term), "x": counts, "y": 100 * np.asarray(share),
         "stackgroup": "one", "line": {"width": 0.6, "color": COLOURS[place % len(COLOURS)]},
         "customdata": [
             f"<b>{TERMS.get(term, term)}</b><br>{n:,.0f} nodes: {s:.1%}" for n, s in zip(counts, share, strict=True)
         ],
         "hovertemplate": HOVER}
        for place, (term, share) in enumerate(found.items())
    ]  # fmt: skip
    about = f"{machine}, {algorithm or model.usual}"
    return theme.drawn(
        traces, dark=dark, legend=theme.BELOW,
        xaxis={"type": "log", "title": {"text": "Nodes"}, **theme.log_ticks(counts),
               "range": np.log10(counts[[0, -1]]).tolist()},
        yaxis={"title": {"text": "Share of the time"}, "ticksuffix": " %", "range": [0, 100]},
        **_low(theme.heading(title, "What the time consists of", about)),
    )  # fmt: skip
