"""Figures of a simulation: what ranks do over time, use of the ports, memories, the critical path, the closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.units import engineering
from dse.view import theme
from dse.view.played import (
    GREY,
    REASONS,
    Bars,
    Floats,
    Ints,
    Played,
    bars,
    lanes_of,
    looks,
    ordered,
    played,
    trace_of,
    unions,
)
from dse.view.ports import both_ways, means, ports_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from dse.simulate.design import SimulatedStep

BARS, WAITS = 3_000, 1_000  # of nodes and of waiting, at most
ROWS = 32  # ports with a row of their own; of more, means are drawn
LINES = 8  # memories of a tier that are drawn, the fullest ones
POINTS = 1_000  # of a line; of more, the most in each stretch of time
HOVER = "%{customdata}<extra></extra>"
FAINT = 0.3  # opacity of the emptiest bar
BAND = 0.86  # of a rank's row that its lanes take
PARTS = {"computing": "compute", "communication": "links", "memory": "memory", "idle": "bubble",
         "stragglers": "stragglers"}  # fmt: skip
PATTERNS = ("", "/", "x")  # of what is waited for


def timeline(
    simulation: Any, ranks: Any = None, window: tuple[float, float] | None = None, *, title: str = "",
    dark: bool = False,
) -> go.Figure:  # fmt: skip
    """What ranks do over time: a band a rank, in it a lane for computing, each group's collectives, messages, memory.

    Thin grey bars are nodes that were issued and wait: for their peers, or for the transfer before them.

    Args:
        simulation: :class:`~dse.simulate.result.Simulation`, or a run with the public simulator's semantics.
        ranks: which; by default those that were simulated, each for all that are alike (twelve of more).
        window: seconds from and to which to draw; by default all.

    Raises:
        SpecError: no such rank, an empty window, or nothing that takes time.
    """
    run = played(simulation, ranks)
    low, high = (0.0, run.end_of_all) if window is None else (float(window[0]), float(window[1]))
    if not 0 <= low < high:
        known = f"must be from and to, rising, of 0 to {engineering(run.end_of_all, 's')}"
        raise SpecError([Fault("window", str(window)[:60], known if run.end_of_all else "no node takes time")])
    seen = np.flatnonzero((run.begin < high) & (run.end > low) & (run.end > run.begin))
    drawn, stretch = bars(run.key[seen], run.begin[seen], run.end[seen], BARS)
    factor, unit = theme.axis_scale([high], "s")
    traces = _waits(run, low, high, factor)
    for lane, name in enumerate(run.titles):
        mine = run.lane[seen[drawn.first]] == lane
        if mine.any():
            part = Bars(*(column[mine] for column in drawn))
            traces.append(_lane(run, seen, part, lane, name, factor))
    about = f"{engineering(high - low, 's')}, {_counted(len(seen))}"
    about += f"; those under {engineering(stretch, 's', 3)} together, paler with gaps" if stretch else ""
    words = theme.heading(title, "What ranks do over time", about)
    words["margin"] = {**words["margin"], "b": 95}
    height = int(min(900, max(330, 190 + 13 * len(run.ranks) * len(run.titles))))
    across = {"title": {"text": theme.with_unit("Time", unit)}, "range": [low / factor, high / factor]}
    return theme.drawn(
        traces, dark=dark, xaxis=across, yaxis=_bands(run), barmode="overlay", height=height, showlegend=True,
        legend=theme.BELOW, **words,
    )  # fmt: skip


def _counted(nodes: int) -> str:
    return f"{nodes:,} node{'s' if nodes != 1 else ''}"


def _place(run: Played, owner: Ints, lane: Ints) -> Floats:
    """Height of a lane's middle: ranks are 1 apart, from the top down."""
    return owner + (lane + 0.5) * BAND / len(run.titles)


def _bands(run: Played) -> dict[str, Any]:
    """An axis with the ranks' names, and how many are alike."""
    small = '<span style="font-size:11px"> +{} alike</span>'
    names = [
        f"rank {rank}" + (small.format(alike - 1) if alike > 1 else "")
        for rank, alike in zip(run.ranks.tolist(), run.alike.tolist(), strict=True)
    ]
    places = (np.arange(len(names)) + BAND / 2).tolist()
    return {"tickvals": places, "ticktext": names, "range": [len(names) - 1 + BAND + 0.03, -0.05], "showgrid": False,
            "zeroline": False}  # fmt: skip


def _waits(run: Played, low: float, high: float, factor: float) -> list[dict[str, Any]]:
    """Waiting of each lane, however many nodes wait at once."""
    waits = np.flatnonzero((run.begin > run.issued) & (run.issued < high) & (run.begin > low))
    key, begin, end = unions(run.key[waits], run.issued[waits], run.begin[waits])
    found, _ = bars(key, begin, end, WAITS)
    if not len(found.first):
        return []
    owner, lane = np.divmod(key[found.first], len(run.titles))
    said = [
        f"{run.titles[k]} of rank {run.ranks[o]} waits<br>from {engineering(b, 's', 5)}, {engineering(t, 's')}"
        for o, k, b, t in zip(owner, lane, found.begin, found.busy, strict=True)
    ]
    return [
        {
            "type": "bar", "orientation": "h", "name": "waiting", "legendrank": 2000,
            "x": (found.end - found.begin) / factor, "base": found.begin / factor,
            "y": _place(run, owner, lane), "width": 0.3 * BAND / len(run.titles),
            "marker": {"color": GREY, "opacity": 0.7, "line": {"width": 0}}, "customdata": said, "hovertemplate": HOVER,
        }
    ]  # fmt: skip


def _lane(run: Played, seen: Ints, part: Bars, lane: int, name: str, factor: float) -> dict[str, Any]:
    """The bars of one lane of all ranks."""
    nodes = seen[part.first]
    said = []
    for node, count, begin, length in zip(nodes, part.count, part.begin, part.busy, strict=True):
        text = run.said(int(node)) if count == 1 else f"<b>{count} nodes</b>, {name}"
        took = "takes" if count == 1 else "take together"
        said.append(f"{text}<br>from {engineering(begin, 's', 5)}, {took} {engineering(length, 's')}")
    return {
        "type": "bar", "orientation": "h", "name": name,
        "x": (part.end - part.begin) / factor, "base": part.begin / factor,
        "y": _place(run, run.owner[nodes], np.full(len(nodes), lane)), "width": 0.92 * BAND / len(run.titles),
        "marker": {**run.looks[name], "opacity": np.maximum(part.share, FAINT), "line": {"width": 0}},
        "customdata": said, "hovertemplate": HOVER,
    }  # fmt: skip


def utilization(simulation: Any, bins: int = 200, *, title: str = "", dark: bool = False) -> go.Figure:
    """How much of each port's bandwidth is in use over time: a row a port, by dimension of the network and memory.

    The two directions of a port are one row where they are alike. Of many ports the mean of both directions is drawn,
    of very many the mean over the ranks.

    Args:
        simulation: :class:`~dse.simulate.result.Simulation` with ``record=True``.
        bins: stretches of time.

    Raises:
        SpecError: nothing was recorded, or nothing passes any port.
    """
    if bins < 1:
        raise SpecError([Fault("bins", str(bins), "must be at least 1")])
    shares, edges = simulation.utilization(bins)
    if not shares.any():
        raise SpecError([Fault("simulation", "", "no bytes were recorded on any port, link or memory")])
    ports = ports_of(simulation, np.clip(shares, 0.0, 1.0))  # rounding may leave a little more than all of it
    used = [port for port in ports if port.share.any()]
    rows, how = both_ways(used), ""
    if len(rows) > ROWS:
        rows, how = means(used, "place", "who", "alike"), "; mean of both directions"
    if len(rows) > ROWS:
        rows, how = both_ways(means(ports, "place", "way")), "; mean over the ranks"
        rows = [row for row in rows if row.share.any()]
    about = f"{len(used):,} of {len(ports):,} ports carry bytes{how}"
    most = max(float(row.share.max()) for row in rows)
    factor, unit = theme.axis_scale([edges[-1]], "s")
    heat = {
        "type": "heatmap", "z": 100 * np.stack([row.share for row in rows]), "x": edges / factor,
        "y": [row.title for row in rows], "zmin": 0, "zmax": 10 * np.ceil(10 * most),
        "ygap": int(len(rows) <= ROWS // 2),
        "colorscale": theme.shades(dark), "colorbar": {"ticksuffix": "%", "thickness": 14},
        "hovertemplate": f"<b>%{{y}}</b><br>at %{{x:.4~r}} {unit}: %{{z:.1f}}%<extra></extra>",
    }  # fmt: skip
    words = theme.heading(title, "Share of the bandwidth in use", about)
    down = {"type": "category", "autorange": "reversed", "showgrid": False, "tickfont": {"size": 12}}
    across = {"title": {"text": theme.with_unit("Time", unit)}, "showgrid": False}
    return theme.drawn([heat], dark=dark, xaxis=across, yaxis=down, height=170 + max(24 * len(rows), 130), **words)


def occupancy(simulation: Any, *, title: str = "", dark: bool = False) -> go.Figure:
    """Bytes in each memory over time, a panel a tier that holds any, with its capacity where that is in reach.

    Args:
        simulation: :class:`~dse.simulate.result.Simulation`.

    Raises:
        SpecError: no memory ever holds anything.
    """
    table = simulation.occupancy()
    table = table[table.groupby("tier")["bytes"].transform("max") > 0]
    if not len(table):
        raise SpecError([Fault("simulation", "", "no node stores to a memory, and none holds anything from the start")])
    end = max(simulation.time, float(table["when"].max()))
    factor, unit = theme.axis_scale([end], "s")
    tiers = list(dict.fromkeys(table["tier"]))
    letters = ["y", *(f"y{place + 1}" for place in range(1, len(tiers)))]
    across = {"title": {"text": theme.with_unit("Time", unit)}, "range": [0, end / factor], "anchor": letters[-1]}
    layout: dict[str, Any] = {"xaxis": across, "shapes": [], "annotations": []}
    lines: list[dict[str, Any]] = []
    for place, (tier, letter) in enumerate(zip(tiers, letters, strict=True)):
        drawn, axis = _tier(table[table["tier"] == tier], tier, letter, end, factor, dark)
        top = 1 - place / len(tiers)
        axis["domain"] = [top - (1.0 if place + 1 == len(tiers) else 0.75) / len(tiers), top]
        layout[letter.replace("y", "yaxis")] = axis
        lines += drawn["lines"]
        layout["shapes"] += drawn["shapes"]
        layout["annotations"] += drawn["annotations"]
    first: dict[str, dict[str, Any]] = {}  # a rank has one colour, and is in the legend once
    for line in lines:
        known = first.setdefault(line["name"], line)
        line["showlegend"] = known is line
        line["line"]["color"] = theme.SPARE[list(first).index(line["name"]) % len(theme.SPARE)]
    over = len(simulation.overflows)
    about = "all fits" if np.isfinite(table["capacity"]).any() else ""
    about = f"{over:,} {'memory holds' if over == 1 else 'memories hold'} more than fits" if over else about
    words = theme.heading(title, "What memories hold over time", about)
    return theme.drawn(lines, dark=dark, height=180 + 220 * len(tiers), showlegend=len(first) > 1, **words, **layout)


def _tier(part: Any, tier: str, letter: str, end: float, factor: float, dark: bool) -> tuple[dict[str, Any], Any]:
    """Lines of one tier's fullest memories, its capacity, and its axis."""
    peaks = part.groupby("rank", sort=False)["bytes"].max()
    capacity, peak = float(part["capacity"].iloc[0]), float(peaks.max())
    near = capacity < 3 * peak
    scale, unit = theme.axis_scale([peak, capacity if near else 0.0], "B")
    ranks = sorted(peaks.sort_values(ascending=False, kind="stable").index[:LINES])
    lines = []
    for rank in ranks:
        rows = part[part["rank"] == rank]
        when, held = _thinned(rows["when"].to_numpy(), rows["bytes"].to_numpy(), end)
        hover = f"<b>{tier} of rank {rank}</b><br>%{{y:.4~r}} {unit} from %{{x:.4~r}} on<extra></extra>"
        lines.append(
            {"type": "scatter", "mode": "lines", "x": when / factor, "y": held / scale, "yaxis": letter,
             "line": {"shape": "hv", "width": 2}, "name": f"rank {rank}", "legendgroup": f"{rank}",
             "hovertemplate": hover}
        )  # fmt: skip
    text = f"{tier}: {theme.short(peak, 'B')} at most"
    text += f" of {theme.short(capacity, 'B')}" if np.isfinite(capacity) else ""
    note = {"text": text, "x": 1, "xref": "paper", "xanchor": "right", "y": 1, "yref": f"{letter} domain",
            "yanchor": "bottom", "showarrow": False}  # fmt: skip
    shapes = []
    if near:
        look = {"color": theme.BAD if peak > capacity else theme.ink(dark), "dash": "dash", "width": 2}
        level = {"y0": capacity / scale, "y1": capacity / scale, "yref": letter}
        shapes.append({"type": "line", "x0": 0, "x1": 1, "xref": "paper", "line": look, **level})
    top = 1.08 * max(peak, capacity if near else 0.0) / scale
    axis = {"title": {"text": theme.with_unit("Held", unit)}, "range": [0, top], "nticks": 5}
    return {"lines": lines, "shapes": shapes, "annotations": [note]}, axis


def _thinned(when: Floats, held: Floats, end: float) -> tuple[Floats, Floats]:
    """A stepped line up to the end; of very many steps, the first and the most of each stretch of time."""
    when, held = np.append(when, end), np.append(held, held[-1])
    if len(when) <= POINTS:
        return when, held
    place = np.minimum(when / end * (POINTS // 2), POINTS // 2 - 1).astype(np.int64)
    most = np.lexsort((-held, place))
    kept = np.unique([*np.unique(place, return_index=True)[1], *most[np.unique(place[most], return_index=True)[1]],
                      len(when) - 1])  # fmt: skip
    return when[kept], held[kept]


def parts(step: SimulatedStep, *, title: str = "", dark: bool = False) -> go.Figure:
    """The step in parts: the closed form above, the simulation below with what each part differs by.

    Args:
        step: of ``dse.estimate(..., fidelity="simulated").simulated``.
    """
    closed = float(step.result.number("step_time"))
    factor, unit = theme.axis_scale([closed, step.step_time], "s")
    rows = ["closed form", "simulated"]
    traces = []
    for name, pair in step.parts.items():
        if max(map(abs, pair)) <= 1e-6 * closed:
            continue
        change = (pair[1] - pair[0]) / closed
        texts = [theme.short(pair[0], "s"), f"{theme.short(pair[1], 's')}<br>{_signed(change)}"]
        said = [
            f"<b>{name}</b>, {row}<br>{engineering(value, 's')}, {value / closed:.1%} of the closed form's step"
            for row, value in zip(rows, pair, strict=True)
        ]
        said[1] += f"<br>differs by {_signed(change)} of the step"
        traces.append(
            {"type": "bar", "orientation": "h", "name": name, "x": np.asarray(pair) / factor, "y": rows,
             "marker": theme.fill(PARTS[name]), "text": texts, "textposition": "inside", "textangle": 0,
             "insidetextanchor": "middle", "customdata": said, "hovertemplate": HOVER}
        )  # fmt: skip
    note = {"xanchor": "left", "showarrow": False, "xshift": 4}
    notes = [
        {**note, "x": closed / factor, "y": rows[0], "text": f"<b>{theme.short(closed, 's')}</b>"},
        {**note, "x": step.step_time / factor, "y": rows[1],
         "text": f"<b>{theme.short(step.step_time, 's')}</b><br>{_signed(step.difference)}"},
    ]  # fmt: skip
    words = theme.heading(title, "The closed form and the simulated step", theme.design_text(
        step.result.specs, step.result.number("devices")))  # fmt: skip
    words["margin"] = {**words["margin"], "b": 95}
    top = 1.16 * max(closed, step.step_time) / factor
    across = {"title": {"text": theme.with_unit("Step time, mean over the ranks", unit)}, "range": [0, top]}
    down = {"type": "category", "autorange": "reversed", "showgrid": False}
    return theme.drawn(
        traces, dark=dark, barmode="stack", xaxis=across, yaxis=down, height=360, annotations=notes,
        legend=theme.BELOW, uniformtext={"minsize": 11, "mode": "hide"}, **words,
    )  # fmt: skip


def _signed(share: float) -> str:
    return f"{round(share, 3) + 0.0:+.1%}".replace("-", "−")


def critical(simulation: Any, *, title: str = "", dark: bool = False) -> go.Figure:
    """What the critical path consists of: seconds by lane of the timeline, and what let its nodes go.

    Args:
        simulation: :class:`~dse.simulate.result.Simulation`.

    Raises:
        SpecError: nothing takes time.
    """
    table = simulation.critical_path()
    if not table["seconds"].sum() > 0:
        raise SpecError([Fault("simulation", "", "no node takes time")])
    actors = simulation.actor_of[table["rank"].to_numpy()]
    lanes = np.empty(len(table), object)
    for actor in np.unique(actors):
        trace, mine = trace_of(simulation, actor), actors == actor
        order = np.argsort(trace.ids, kind="stable")
        wanted = table["id"].to_numpy()[mine].astype(np.uint64)
        lanes[mine] = lanes_of(trace)[order[np.searchsorted(trace.ids, wanted, sorter=order)]]
    found = table.assign(lane=np.where(lanes == "", "other", lanes))
    seconds = found.pivot_table(index="lane", columns="waited_for", values="seconds", aggfunc="sum", fill_value=0.0)
    total = seconds.sum(axis=1).sort_values(ascending=False)
    total = total[total > 0]
    factor, unit = theme.axis_scale([total.max()], "s")
    look = looks(ordered(set(total.index)))
    names = total.index.tolist()
    colours = [look[name]["color"] if name in look else GREY for name in names]
    traces = []
    for pattern, reason in zip(PATTERNS, REASONS, strict=True):
        if reason not in seconds or not seconds[reason].sum() > 0:
            continue
        values = seconds[reason].reindex(names).to_numpy()
        hatch = {"shape": pattern, "fillmode": "overlay", "fgcolor": "#FFFFFF", "fgopacity": 0.7, "solidity": 0.2}
        said = [
            f"<b>{name}</b><br>let go by a {reason}: {engineering(v, 's')}"
            for name, v in zip(names, values, strict=True)
        ]
        bar = {"type": "bar", "orientation": "h", "name": f"after a {reason}", "legendgroup": reason}
        traces.append({**bar, "x": values / factor, "y": names, "showlegend": False, "customdata": said,
                       "marker": {"color": colours, "pattern": hatch}, "hovertemplate": HOVER})  # fmt: skip
        traces.append({**bar, "x": [None], "y": names[:1], "marker": {"color": GREY, "pattern": hatch}})
    whole = float(total.sum())
    notes = [
        {"x": value / factor, "y": name, "text": f"<b>{theme.short(value, 's')}</b> {value / whole:.1%}",
         "xanchor": "left", "showarrow": False, "xshift": 4}
        for name, value in total.items()
    ]  # fmt: skip
    about = f"{engineering(whole, 's')} in {_counted(len(table))}, by what let each of them go"
    words = theme.heading(title, "What the critical path consists of", about)
    words["margin"] = {**words["margin"], "b": 95}
    across = {"title": {"text": theme.with_unit("On the path", unit)}, "range": [0, 1.38 * total.max() / factor]}
    down = {"type": "category", "categoryarray": names, "autorange": "reversed", "showgrid": False}
    return theme.drawn(
        traces, dark=dark, barmode="stack", xaxis=across, yaxis=down, height=230 + 36 * len(names), annotations=notes,
        legend=theme.BELOW, **words,
    )  # fmt: skip
