"""Figures of a continuum: where stages are placed, trade-offs, break-even rates of links, waiting, ensembles."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.units import engineering
from dse.view import theme

if TYPE_CHECKING:
    import plotly.graph_objects as go

HOVER = "%{customdata}<extra></extra>"
KINDS = ("sense", "filter", "infer", "assimilate", "emulate", "simulate", "distribute")
TITLES = {"time_to_insight": "Time to insight", "node_power": "Power of a node", "traffic": "Traffic on links",
          "node_hours": "Node-hours", "dollars": "Cost", "energy": "Energy", "fidelity": "Fidelity"}  # fmt: skip
HOURS = 7200.0  # from so many seconds on, times are told in hours
WIDE = 30.0  # ranges over a larger factor are drawn on a logarithmic axis
NEITHER = "neither"
COLOURS = [theme.SPARE[place] for place in (0, 1, 7, 4, 3, 5, 9, 8)]  # all can be told from a dark background
CURVE = np.linspace(0, 1, 21)


def placement(design: Any, *, title: str = "", dark: bool = False) -> go.Figure:
    """The graph of stages from left to right, on the tiers that they run on; lines between tiers say what one item is.

    Args:
        design: :class:`~dse.domains.continuum.placement.Placement`.
    """
    problem, rows = design.problem, design.stages()
    used = set(rows["tier"])
    tiers = [tier for tier in problem.tiers if tier.id in used]
    lane = {tier.id: place for place, tier in enumerate(tiers)}
    order = list(problem.order())
    at = {rows["stage"][s]: (column, lane[rows["tier"][s]]) for column, s in enumerate(order)}
    traces, notes = _flows(design, at, dark)
    traces += [_stages(rows, at, kind, dark) for kind in KINDS if (rows["kind"] == kind).any()]
    notes += [_done(row, at[row["stage"]], dark) for row in rows.to_dict("records")]
    bands = [
        {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": place - 0.5, "y1": place + 0.5, "layer": "below",
         "line": {"width": 0}, "fillcolor": theme.ink(dark), "opacity": 0.05}
        for place in range(0, len(tiers), 2)
    ]  # fmt: skip
    names = [f"{tier.id}{f' ×{tier.sites}' if tier.sites > 1 else ''}" for tier in tiers]
    axis = {"showgrid": False, "zeroline": False, "ticks": ""}
    return theme.drawn(
        traces, dark=dark, shapes=bands, annotations=notes, height=180 + 92 * max(len(tiers), 3), legend=theme.BELOW,
        xaxis={**axis, "showticklabels": False, "range": [-0.6, len(order) - 0.4]},
        yaxis={**axis, "tickvals": list(range(len(tiers))), "ticktext": names, "range": [-0.55, len(tiers) - 0.45]},
        **_low(theme.heading(title, problem.name or problem.id, summary(design)), 70),
    )  # fmt: skip


def summary(design: Any) -> str:
    """The numbers of a design in one line; the rules that it breaks, if any."""
    found = design.metrics
    said = (
        f"{_said('time_to_insight', found['time_to_insight'])} to insight, {_said('node_power', found['node_power'])} "
    )
    said += f"at a node, {_said('traffic', found['traffic'])} on links"
    if found["node_hours"]:
        said += (
            f", {_said('node_hours', found['node_hours'])} in {engineering(design.problem.horizon / 86400, '')} days"
        )
    return said + ("; breaks rules" if not design.feasible else "")


def _time(seconds: float) -> str:
    return theme.short(seconds, "s") if seconds < HOURS else f"{seconds / 3600:.3g} h"


def _said(metric: str, value: float) -> str:
    from dse.domains.continuum.price import METRICS

    if metric == "node_hours":
        return f"{value:,.0f} node-hours"
    return _time(value) if METRICS[metric] == "s" else theme.short(value, METRICS[metric])


def _low(words: dict[str, Any], below: int = 110) -> dict[str, Any]:
    """A heading with room for a legend below."""
    return {**words, "margin": {**words["margin"], "b": below}}


def _flows(design: Any, at: dict[str, tuple[int, int]], dark: bool) -> tuple[list[Any], list[Any]]:
    """A line for each stage that another takes items from; those between tiers say how large an item is."""
    rows = design.stages().set_index("stage")
    traces, notes = [], []
    for stage in design.problem.stages:
        for name in stage.after:
            (x0, y0), (x1, y1) = at[name], at[stage.name]
            size = float(rows.loc[name, "sent"])
            said = f"{name} to {stage.name}: {engineering(size, 'B')} an item"
            traces.append(
                {"type": "scatter", "mode": "lines", "x": x0 + (x1 - x0) * CURVE,
                 "y": y0 + (y1 - y0) * CURVE**2 * (3 - 2 * CURVE),
                 "line": {"color": theme.ink(dark), "width": 3 if y0 != y1 else 1.2}, "opacity": 0.55,
                 "showlegend": False, "customdata": [said] * len(CURVE), "hovertemplate": HOVER}
            )  # fmt: skip
            if y0 != y1:
                notes.append(
                    {"x": (x0 + x1) / 2, "y": (y0 + y1) / 2, "text": theme.short(size, "B"), "showarrow": False,
                     "bgcolor": theme.paper(dark), "borderpad": 1, "font": {"size": 12}}
                )  # fmt: skip
    return traces, notes


def _stages(rows: Any, at: dict[str, tuple[int, int]], kind: str, dark: bool) -> dict[str, Any]:
    some = rows[rows["kind"] == kind].to_dict("records")
    said = [
        f"<b>{r['stage']}</b> ({r['variant']}) at {r['tier']}, {r['nodes']} nodes<br>"
        f"{engineering(r['time'], 's')} a run, {engineering(r['runs'], '1/s')}<br>"
        f"done after {engineering(r['done'], 's')}, sends {engineering(r['sent'], 'B')}"
        for r in some
    ]
    return {
        "type": "scatter", "mode": "markers+text", "name": kind, "x": [at[r["stage"]][0] for r in some],
        "y": [at[r["stage"]][1] for r in some], "text": [f"<b>{r['stage']}</b>" for r in some],
        "textposition": "top center", "customdata": said, "hovertemplate": HOVER, "cliponaxis": False,
        "marker": {"size": 20, "symbol": "square", "color": COLOURS[KINDS.index(kind)],
                   "line": {"width": 1, "color": theme.paper(dark)}},
    }  # fmt: skip


def _done(row: dict[str, Any], at: tuple[int, int], dark: bool) -> dict[str, Any]:
    """Below a stage: how it is done, and when."""
    how = [f"{row['nodes']} nodes"] if row["nodes"] > 1 else []
    how += [f"÷{row['reduction']:g}"] if row["reduction"] > 1 else []
    how += [f"every {theme.short(row['cadence'], 's')}"] if row["cadence"] is not None and row["cadence"] > 0 else []
    text = "<br>".join([*how, _time(row["done"])])
    return {"x": at[0], "y": at[1], "yshift": -14, "yanchor": "top", "text": text, "showarrow": False,
            "font": {"size": 12, "color": theme.ink(dark)}}  # fmt: skip


def front(
    found: Any, x: str = "time_to_insight", y: str = "node_power", *, by: str = "", title: str = "", dark: bool = False
) -> go.Figure:
    """The designs that no other beats, in two objectives, by the tier of one stage.

    Args:
        found: :class:`~dse.domains.continuum.placement.Plan`.
        by: the stage whose tier is told by colours; where not given, the one that the front's designs differ in most.

    Raises:
        SpecError: no such metric or stage.
    """
    from dse.domains.continuum.price import METRICS
    from dse.domains.continuum.tables_plans import words

    for name in (x, y):
        if name not in METRICS:
            raise SpecError([Fault("objective", repr(name)[:60], f"must be one of {', '.join(METRICS)}")])
    table = found.table()
    tiers = {name.removesuffix(".tier"): table[name] for name in table if name.endswith(".tier")}
    if by and by not in tiers:
        raise SpecError([Fault("by", repr(by)[:60], f"must be one of {', '.join(tiers)}")])
    stage = by or max(tiers, key=lambda name: tiers[name].nunique())
    axes = {"xaxis": _axis(x, table[x]), "yaxis": _axis(y, table[y])}
    factors = [theme.axis_scale(table[name], _unit(name))[0] for name in (x, y)]
    traces = []
    for place, tier in enumerate(dict.fromkeys(tiers[stage])):
        rows = np.flatnonzero((tiers[stage] == tier).to_numpy())
        said = [
            f"<b>{i + 1}</b> {words(found[int(i)])}<br>"
            + "<br>".join(f"{TITLES[n]}: {_said(n, table[n][i])}" for n in found.objectives)
            for i in rows
        ]
        traces.append(
            {"type": "scatter", "mode": "markers", "name": f"{stage} at {tier}",
             "x": table[x].to_numpy()[rows] / factors[0],
             "y": table[y].to_numpy()[rows] / factors[1], "customdata": said, "hovertemplate": HOVER,
             "marker": {"size": 12, "color": COLOURS[place % len(COLOURS)], "symbol": theme.MARKERS[place]}}
        )  # fmt: skip
    about = f"{len(found)} designs that no other beats in {len(found.objectives)} objectives"
    words_ = theme.heading(title, found.model.problem.name or found.model.problem.id, about)
    return theme.drawn(traces, dark=dark, legend=theme.BELOW, **axes, **_low(words_))


def _unit(metric: str) -> str:
    from dse.domains.continuum.price import METRICS

    return "" if metric == "node_hours" else METRICS[metric]


def _axis(metric: str, values: Any) -> dict[str, Any]:
    factor, unit = theme.axis_scale(values, _unit(metric))
    axis: dict[str, Any] = {"title": {"text": theme.with_unit(TITLES[metric], unit)}}
    if min(values) > 0 and max(values) > WIDE * min(values):
        return {**axis, "type": "log", **theme.log_ticks(np.asarray(values) / factor)}
    return axis


def break_even(found: Any, *, title: str = "", dark: bool = False) -> go.Figure:
    """Where a stage belongs as a link becomes faster: the objective on either tier, or a map over trigger
    probabilities; the rates of change are told in bit/s.

    Args:
        found: :class:`~dse.domains.continuum.breakeven.BreakEven`.
    """
    draw = _sides if len(found.passes) > 1 else _lines
    traces, layout = draw(found, dark)
    about = "; ".join(dict.fromkeys(_change(found, row) for row in found.flips.to_dict("records")))
    usual = f"Where {found.stage} belongs, by {TITLES[found.objective].lower()}"
    axis = {"type": "log", "title": {"text": f"Rate of {found.link} [bit/s]"}, **theme.log_ticks(8 * found.rates)}
    words = theme.heading(title, usual, _cut(about or "One side over the whole range", 120))
    return theme.drawn(traces, dark=dark, xaxis=axis, legend=theme.BELOW, **layout, **_low(words))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _change(found: Any, row: dict[str, Any]) -> str:
    why = TITLES[found.objective].lower() if row["why"] == "value" else row["why"]
    return f"{row['from']} to {row['to']} at {engineering(8 * row['rate'], 'bit/s', 3)} ({why})"


def _lines(found: Any, dark: bool) -> tuple[list[Any], dict[str, Any]]:
    table = found.table()
    values = [table[f"{found.objective}.{tier}"].to_numpy(float) for tier in found.tiers]
    known = np.concatenate([v[np.isfinite(v)] for v in values])
    if not len(known):
        raise SpecError([Fault("rates", "", "no rate at which either tier obeys the rules")])
    factor = theme.axis_scale(known, _unit(found.objective))[0]
    traces = []
    for place, (tier, line) in enumerate(zip(found.tiers, values, strict=True)):
        shown = [float(v) / factor if np.isfinite(v) else None for v in line]
        said = [f"<b>{tier}</b><br>{engineering(8 * r, 'bit/s')}: {_said(found.objective, v)}" if np.isfinite(v) else ""
                for r, v in zip(found.rates, line, strict=True)]  # fmt: skip
        traces.append(
            {"type": "scatter", "mode": "lines", "name": f"{found.stage} at {tier}", "x": 8 * found.rates, "y": shown,
             "line": {"color": COLOURS[place % len(COLOURS)], "width": 2.6, "dash": theme.DASHES[place]},
             "customdata": said, "hovertemplate": HOVER}
        )  # fmt: skip
    shapes = [theme.line_at(8 * rate, dark)["shapes"][0] for rate in found.flips["rate"]]
    return traces, {"yaxis": _axis(found.objective, known), "shapes": shapes}


def _sides(found: Any, dark: bool) -> tuple[list[Any], dict[str, Any]]:
    """A map in three colours, and a mark at each change."""
    names = (*found.tiers, NEITHER)
    belongs = found.belongs()
    colours = [theme.SPARE[0], theme.SPARE[4], "#888888"]
    used = [k for k in range(3) if (belongs == (k if k < 2 else -1)).any()]
    said = [
        [f"<b>{names[side]}</b><br>{engineering(8 * r, 'bit/s')}, {p:g} of the items go on"
         for side, r in zip(row, found.rates, strict=True)]
        for row, p in zip(belongs, found.passes, strict=True)
    ]  # fmt: skip
    steps = [[k / 3 + e, colours[k]] for k in range(3) for e in (0, 1 / 3)]
    heat = {
        "type": "heatmap", "x": 8 * found.rates, "y": [f"{p:g}" for p in found.passes],
        "z": np.where(belongs < 0, 2, belongs),
        "zmin": -0.5, "zmax": 2.5, "colorscale": steps, "showscale": False, "customdata": said, "hovertemplate": HOVER,
        "ygap": 2,
    }  # fmt: skip
    keys = [
        {"type": "scatter", "mode": "markers", "x": [None], "y": [None],
         "name": names[k] if k == 2 else f"at {names[k]}",
         "marker": {"symbol": "square", "size": 12, "color": colours[k]}, "hoverinfo": "skip"}
        for k in used
    ]  # fmt: skip
    axis = {"type": "category", "title": {"text": f"Share that {found.stage} sends on"}, "showgrid": False}
    return [heat, *keys], {"yaxis": axis, "height": 300 + 40 * len(found.passes)}


def played(run: Any, *, title: str = "", dark: bool = False) -> go.Figure:
    """Stage by stage, the time since what happened: as planned, without waiting, and as played (mean to p95).

    Args:
        run: :class:`~dse.domains.continuum.queueing.Played`.
    """
    rows = run.table()
    rows = rows[(rows["runs"] > 0).to_numpy()]
    names = [f"{name} ({runs:,})" for name, runs in zip(rows["stage"], rows["runs"], strict=True)]
    every = np.concatenate([rows[c].to_numpy(float) for c in ("unloaded", "mean", "p95")])
    factor, unit = theme.axis_scale(every, "s")
    mean, late = rows["mean"].to_numpy(float) / factor, rows["p95"].to_numpy(float) / factor
    said = [
        f"<b>{name}</b><br>mean {engineering(m, 's')}, p50 {engineering(h, 's')}, p95 {engineering(q, 's')}<br>"
        f"{engineering(w, 's')} of it in line; {engineering(u, 's')} planned"
        for name, m, h, q, w, u in rows[["stage", "mean", "p50", "p95", "wait", "unloaded"]].itertuples(index=False)
    ]
    shared = {"type": "scatter", "mode": "markers", "x": names, "customdata": said, "hovertemplate": HOVER}
    traces = [
        {**shared, "name": "mean to p95", "y": mean, "marker": {"size": 11, "color": theme.SPARE[0]},
         "error_y": {"type": "data", "symmetric": False, "array": np.maximum(late - mean, 0.0),
                     "arrayminus": np.zeros(len(mean)), "color": theme.SPARE[0], "thickness": 2, "width": 5}},
        {**shared, "name": "planned, without waiting", "y": rows["unloaded"].to_numpy(float) / factor,
         "marker": {"size": 13, "color": theme.SPARE[1], "symbol": "diamond-open", "line": {"width": 2}}},
    ]  # fmt: skip
    told = run.insight()
    about = f"{told['items']:,.0f} insight{'s' if told['items'] != 1 else ''}"
    if told["items"]:
        about += f", after {theme.short(told['mean'], 's')} in the mean, p95 {theme.short(told['p95'], 's')}"
    return theme.drawn(
        traces, dark=dark, legend=theme.BELOW,
        xaxis={"type": "category", "showgrid": False, "title": {"text": "Stage (runs)"}},
        yaxis={"type": "log", "title": {"text": theme.with_unit("Time since what happened", unit)},
               **theme.log_ticks(every[every > 0] / factor)},
        **_low(theme.heading(title, "Time from what happens to the end of each stage", about), 120),
    )  # fmt: skip


def ensemble(found: Any, *, title: str = "", about: str = "", dark: bool = False) -> go.Figure:
    """The error of an ensemble by what may be spent: physics alone, emulator alone, both.

    Args:
        found: :class:`~dse.domains.continuum.ensemble.Split` of several budgets.

    Raises:
        SpecError: a single budget.
    """
    if len(found.budget) < 2:
        raise SpecError([Fault("budget", str(found.budget), "must be two or more")])
    table = found.table()
    traces = []
    for place, name in enumerate(("physics", "emulator", "both")):
        error = table[f"error.{name}"].to_numpy(float)
        said = [
            f"<b>{name}</b>, budget {b:,.4g}<br>error {e:.4g}" if np.isfinite(e) else ""
            for b, e in zip(found.budget, error, strict=True)
        ]
        traces.append(
            {"type": "scatter", "mode": "lines", "name": name, "x": found.budget,
             "y": [e if np.isfinite(e) else None for e in error], "customdata": said, "hovertemplate": HOVER,
             "line": {"color": COLOURS[place % len(COLOURS)], "width": 2.4, "dash": theme.DASHES[place]}}
        )  # fmt: skip
    taken = np.array([*("physics", "emulator", "both"), "none"])[found.estimator]
    turns = [
        f"{b} from {theme.compact(x)}" for (a, b), x in zip(pairwise(taken), found.budget[1:], strict=True) if a != b
    ]
    known = found.alternatives[np.isfinite(found.alternatives)]
    told = about or "; ".join([f"best: {taken[0]}", *turns])
    return theme.drawn(
        traces, dark=dark, legend=theme.BELOW,
        xaxis={"type": "log", "title": {"text": "Budget"}, **theme.log_ticks(found.budget)},
        yaxis={"type": "log", "title": {"text": "Root mean squared error"}, **theme.log_ticks(known)},
        **_low(theme.heading(title, "Physics members, emulator members, or both", told)),
    )  # fmt: skip
