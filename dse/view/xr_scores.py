"""Figures of XR scores: what they are made of, how sure a rank is, rankings before and after, layer costs, searches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.units import engineering
from dse.view import theme

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import plotly.graph_objects as go

HOVER = "%{customdata}<extra></extra>"
# Column, title, colour.
PARTS = (("rt", "real time", "#0772DF"), ("en", "energy", "#44AA99"), ("ux", "frames not dropped", "#FBAE1E"),
         ("score", "score", "#5A3418"))  # fmt: skip
STYLES = {"WS": 0, "OS": 1, "RS": 2}
POINTS = 5000  # of a cloud, at most
_EQUAL = 1e-9  # recorded energies are decimal fractions
AXES = {"score": ("Score", "1"), "energy": ("Energy of a frame", "J"), "power": ("Power of the models", "W"),
        "area": ("Area", "m^2"), "missed": ("Frames dropped or late", "1"),
        "published": ("Published score", "1")}  # fmt: skip


def breakdown(frame: pd.DataFrame, *, title: str = "", about: str = "", dark: bool = False) -> go.Figure:
    """Scores and their parts: by system, or of a single system by scenario.

    Args:
        frame: ``system``, ``scenario``, ``rt``, ``en``, ``ux`` and ``score`` (0 to 1); of systems, means are shown.
    """
    single = frame["system"].nunique() == 1
    key = "scenario" if single else "system"
    rows = frame.groupby(key, sort=False)[[name for name, *_ in PARTS]].mean()
    if not single:
        rows = rows.sort_values("score", ascending=False, kind="stable")
    names = [str(name).replace("_", " ") for name in rows.index]
    traces = []
    for name, words, colour in PARTS:
        said = [f"<b>{at}</b><br>{words}: {v:.3f}" for at, v in zip(names, rows[name], strict=True)]
        text = [f"{v:.2f}" for v in rows[name]] if name == "score" and len(rows) <= 8 else None
        traces.append({
            "type": "bar", "name": words, "x": names, "y": rows[name], "customdata": said, "hovertemplate": HOVER,
            "marker": {"color": "#DDCC77" if dark and name == "score" else colour, "line": {"width": 0}},
            **({} if text is None else {"text": text, "textposition": "outside", "cliponaxis": False}),
        })  # fmt: skip
    usual = f"Scores of {frame['system'].iloc[0]}" if single else "Scores, the best first"
    return theme.drawn(
        traces, dark=dark, barmode="group", bargap=0.25, bargroupgap=0.05, legend=theme.BELOW,
        xaxis={"type": "category", "showgrid": False, "title": {"text": theme.sentence(key)}},
        yaxis={"title": {"text": "Score"}, "range": [0, 1.06]}, **_low(theme.heading(title, usual, about)),
    )  # fmt: skip


def _low(words: dict[str, Any], below: int = 110) -> dict[str, Any]:
    return {**words, "margin": {**words["margin"], "b": below}}


def ranking(
    table: pd.DataFrame, before: str, after: str, *, size: int | None = None, title: str = "", dark: bool = False
) -> go.Figure:
    """Systems ranked under two effects, side by side: a line each, bold where the rank moves by three places or more.

    Args:
        table: of :meth:`dse.domains.xr.corrected.Comparison.table`.
        before, after: effects.
        size: PEs of the systems; by default the largest.

    Raises:
        SpecError: an effect or a size that is not in the table.
    """
    size = int(table["size"].max()) if size is None else size
    for field, value in (("effect", before), ("effect", after), ("size", size)):
        if value not in set(table[field]):
            known = ", ".join(str(v) for v in dict.fromkeys(table[field]))
            raise SpecError([Fault(field, repr(value)[:60], f"must be one of {known}"[:300])])
    part = table[table["size"] == size]
    ends = [part[part["effect"] == name].set_index("system") for name in (before, after)]
    places = [_places(end["mean"].to_numpy(float)) for end in ends]
    traces, notes = [], []
    for at, name in enumerate(ends[0].index):
        rows = [end.loc[name] for end in ends]
        y = [place[at] for place in places]
        moved = y[0] - y[1]
        shade = theme.GOOD if moved >= 3 else theme.BAD if moved <= -3 else "#888888"
        shade = {theme.GOOD: "#5DB04A", theme.BAD: "#FF6FA5"}.get(shade, shade) if dark else shade
        said = [
            f"<b>{name}, {effect}</b><br>rank {int(row['rank'])}, mean {row['mean']:.3f} "
            f"({row['low']:.3f} to {row['high']:.3f})<br>best of its size in {row['p_best']:.0%} of the seeds"
            for effect, row in zip((before, after), rows, strict=True)
        ]
        traces.append({
            "type": "scatter", "mode": "lines+markers", "x": [0, 1], "y": y, "name": str(name), "showlegend": False,
            "line": {"color": shade, "width": 3.5 if abs(moved) >= 3 else 1.6}, "marker": {"size": 9, "color": shade},
            "customdata": said, "hovertemplate": HOVER,
        })  # fmt: skip
        for x, row, anchor in zip((0, 1), rows, ("right", "left"), strict=True):
            sure = f" · best in {row['p_best']:.0%}" if row["p_best"] >= 0.005 else ""
            text = f"{name} {row['mean']:.3f}{sure}" if x else f"{sure.strip(' ·')}  {name} {row['mean']:.3f}".strip()
            notes.append({"x": x, "y": y[x], "text": text, "showarrow": False, "xanchor": anchor,
                          "xshift": 12 if x else -12, "font": {"size": 13}})  # fmt: skip
    axis = {"range": [-0.75, 1.75], "tickvals": [0, 1], "ticktext": [theme.sentence(before), theme.sentence(after)],
            "side": "top", "showgrid": False, "showline": False, "zeroline": False, "ticks": ""}  # fmt: skip
    words = theme.heading(title, "The ranking before and after", f"{size:,} PEs; means over seeds, the best at the top")
    return theme.drawn(
        traces, dark=dark, height=170 + 36 * max(len(ends[0]), 6), annotations=notes, xaxis=axis,
        yaxis={"visible": False, "range": [len(ends[0]) + 0.6, 0.4]},
        **{**words, "margin": {"t": 110, "l": 20, "r": 20, "b": 30}},
    )  # fmt: skip


def _places(values: np.ndarray) -> np.ndarray:
    """1 for the greatest, each place once."""
    places = np.empty(len(values), int)
    places[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
    return places


def seeds(frame: pd.DataFrame, *, title: str = "", about: str = "", dark: bool = False) -> go.Figure:
    """How the score of each system spreads over seeds, with its mean and the share of seeds in which it is the best.

    Args:
        frame: ``system``, ``scenario``, ``seed`` and ``score``; scores are means over scenarios.
    """
    wide = frame.groupby(["seed", "system"], sort=False)["score"].mean().unstack("system")
    wide = wide[wide.mean().sort_values(ascending=False, kind="stable").index]
    top = wide.eq(wide.max(axis=1), axis=0)
    best = top.div(top.sum(axis=1), axis=0).mean()
    traces = []
    for name in wide:
        values = wide[name].to_numpy(float)
        shade = theme.SPARE[0] if best[name] > 0 else "#888888"
        said = [f"<b>{name}, seed {seed}</b><br>{v:.4f}" for seed, v in wide[name].items()]
        traces.append({
            "type": "box", "name": str(name), "y": values, "boxpoints": "all" if values.size <= 200 else "outliers",
            "jitter": 0.5, "pointpos": 0, "showlegend": False, "boxmean": True, "customdata": said,
            "hovertemplate": HOVER, "line": {"color": shade, "width": 1.6},
            "marker": {"size": 4, "color": shade, "opacity": 0.6}, "fillcolor": "rgba(0,0,0,0)",
        })  # fmt: skip
        traces.append({
            "type": "scatter", "mode": "text", "x": [str(name)], "y": [values.max()], "showlegend": False,
            "text": [f"{best[name]:.0%}" if best[name] else ""], "textposition": "top center", "hoverinfo": "skip",
            "textfont": {"size": 13},
        })  # fmt: skip
    low, high = float(wide.min().min()), float(wide.max().max())
    room = max(high - low, 0.02)
    told = f"{about or f'{len(wide):,} seeds'}; above: share of seeds in which it is the best"
    return theme.drawn(
        traces, dark=dark, xaxis={"type": "category", "showgrid": False, "title": {"text": "System"}},
        yaxis={"title": {"text": "Score"}, "range": [low - 0.05 * room, high + 0.12 * room]},
        **theme.heading(title, "How sure is the best? Scores by seed", told),
    )  # fmt: skip


def parity(
    frame: pd.DataFrame, quantity: str = "latency", *, title: str = "", dark: bool = False
) -> go.Figure:  # fmt: skip
    """Layer costs of the cost model against recorded ones, by dataflow.

    Args:
        frame: of :func:`dse.domains.xr.layer_validate.validate_layers`, its table.
        quantity: latency or energy.

    Raises:
        SpecError: another quantity.
    """
    from dse.domains.xr.layer_validate import RECORDED

    if quantity not in RECORDED:
        raise SpecError([Fault("quantity", repr(quantity)[:40], f"must be one of {', '.join(RECORDED)}")])
    unit = {"latency": "cycles", "energy": "nJ"}[quantity]
    every = frame if len(frame) <= POINTS else frame.sample(POINTS, random_state=0)
    traces = []
    ends = [float(every[RECORDED[quantity]].min()), float(every[RECORDED[quantity]].max())]
    traces.append({"type": "scatter", "mode": "lines", "x": ends, "y": ends, "name": "equal", "hoverinfo": "skip",
                   "line": {"color": theme.ink(dark), "dash": "dash", "width": 1.2}})  # fmt: skip
    for flow, part in every.groupby("dataflow"):
        said = [
            f"<b>{flow}</b>, {r.num_pes} PEs, NoC {r.noc_bw}<br>K {r.K} C {r.C} R {r.R} S {r.S} Y {r.Y} X {r.X}<br>"
            f"{getattr(r, quantity):.6g} {unit}, recorded {getattr(r, RECORDED[quantity]):.6g}"
            for r in part.itertuples()
        ]
        at = STYLES.get(str(flow), 3)
        off = float(part[f"{quantity}_ape"].max())
        words = "all equal" if off <= _EQUAL else f"off by {off:.2%} at most"
        traces.append({
            "type": "scatter", "mode": "markers", "name": f"{flow}: {words}",
            "x": part[RECORDED[quantity]], "y": part[quantity], "customdata": said, "hovertemplate": HOVER,
            "marker": {"size": 6, "symbol": theme.MARKERS[at], "color": theme.SPARE[at], "opacity": 0.6},
        })  # fmt: skip
    axis = {"type": "log", "exponentformat": "power", "dtick": 1}
    head = theme.heading(title, f"{theme.sentence(quantity)} of layers: cost model against recorded",
                           f"{len(frame):,} layer costs")  # fmt: skip
    return theme.drawn(
        traces, dark=dark, height=600, legend=theme.BELOW, **_low(head, 120),
        xaxis={**axis, "title": {"text": f"Recorded [{unit}]"}},
        yaxis={**axis, "title": {"text": f"Cost model [{unit}]"}},
    )  # fmt: skip


def search_front(
    frame: pd.DataFrame, x: str = "area", y: str = "score", *, title: str = "", about: str = "", dark: bool = False
) -> go.Figure:
    """Accelerators that were tried, those within the budgets, and those that no other beats.

    Args:
        frame: of :class:`dse.domains.xr.search.Found`.
        x, y: columns of it.

    Raises:
        SpecError: a column that is not there.
    """
    for name in (x, y):
        if name not in frame or name not in AXES:
            known = ", ".join(column for column in AXES if column in frame)
            raise SpecError([Fault("column", repr(name)[:40], f"must be one of {known}")])
    good, best = frame["feasible"].to_numpy(bool), frame["on_front"].to_numpy(bool)
    kinds = (
        ("over a budget", ~good, {"symbol": "x-thin", "size": 8, "line": {"width": 1.6, "color": "#888888"}}),
        ("feasible", good & ~best, {"size": 7, "color": "#888888", "opacity": 0.55}),
        ("on the front", best, {"size": 11, "color": theme.SPARE[0], "symbol": "diamond",
                                "line": {"width": 1, "color": theme.paper(dark)}}),
    )  # fmt: skip
    scales = {name: _scale(frame[name], name) for name in (x, y)}
    traces = []
    for words, mask, marker in kinds:
        part = frame[mask]
        if len(part):
            traces.append({
                "type": "scatter", "mode": "markers", "name": f"{words} ({len(part):,})", "marker": marker,
                "x": part[x].to_numpy(float) / scales[x][0], "y": part[y].to_numpy(float) / scales[y][0],
                "customdata": [_design(row) for row in part.to_dict("records")], "hovertemplate": HOVER,
            })  # fmt: skip
    titles = {name: theme.with_unit(AXES[name][0], scales[name][1]) for name in (x, y)}
    usual = about or "On the front: no design beats them in all objectives"
    return theme.drawn(
        traces, dark=dark, legend=theme.BELOW, xaxis={"title": {"text": titles[x]}},
        yaxis={"title": {"text": titles[y]}}, **_low(theme.heading(title, "Accelerators that were tried", usual)),
    )  # fmt: skip


def _scale(values: Sequence[float], name: str) -> tuple[float, str]:
    return (1e-6, "mm²") if name == "area" else theme.axis_scale(values, AXES[name][1])


def _design(row: dict[str, Any]) -> str:
    """What a mark says: parts, how they are split, and what comes of it."""
    lines = [
        f"<b>{row['parts']} x {row['dataflows']}</b>, {row['pes']:,} PEs split {row['split']}",
        f"NoC {row['noc']} elements a cycle, {row['noc_split']}; L2 {engineering(float(row['l2']), 'B', 3)}",
        f"scheduler {row['policy']}",
        f"score {row['score']:.4f}, {row['missed']:.1%} missed",
        f"{engineering(row['energy'], 'J', 3)} a frame, {row['power']:.3g} W, {1e6 * row['area']:.3g} mm²",
    ]
    return "<br>".join([*lines, *([f"as published {row['published']:.4f}"] if "published" in row else [])])
