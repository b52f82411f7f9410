"""Figures of sensitivity: tornado, elasticities, shadow prices, Sobol and Morris, boxes of PRIM, bottlenecks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.units import engineering
from dse.view import theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dse.explore.sensitivity import (
        Bottlenecks,
        Discovery,
        Elasticities,
        MorrisEffects,
        ShadowPrices,
        SobolIndices,
        Tornado,
    )

LOW, HIGH = theme.SPARE[0], theme.SPARE[1]
NARROW = "\N{NO-BREAK SPACE}"  # a gap between the end of a bar and its label
HOVER = "%{customdata}<extra></extra>"
LEGEND = {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"}


def _rows(title: str, dark: bool, count: int, **layout: Any) -> go.Figure:
    """A figure with one row an entry, the first on top."""
    figure = theme.blank(title, dark, **{"height": 190 + 30 * max(count, 4), "legend": LEGEND, **layout})
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category")
    return figure


def _named(inputs: Sequence[str]) -> list[str]:
    """Paths as people call them, as long as that keeps them apart."""
    short = [path.removeprefix("cluster.").removeprefix("strategy.").replace("_", " ") for path in inputs]
    return short if len(set(short)) == len(short) else list(inputs)


def tornado(found: Tornado, *, top: int = 20, title: str = "", dark: bool = False) -> go.Figure:
    """Bars from the design's value to that at the low and the high end of each input, the widest on top."""
    import plotly.graph_objects as go

    table, unit = found.table.head(top), found.unit
    names, ends = (
        _named(table["input"].tolist()),
        [table[f"{end} [{unit}]"].to_numpy(float) for end in ("at_low", "at_high")],
    )
    factor, shown = theme.axis_scale([found.base, *np.concatenate(ends)], unit)
    figure = _rows(title, dark, len(table), barmode="overlay")
    for end, values, colour in zip(("low", "high"), ends, (LOW, HIGH), strict=True):
        hover = [
            f"<b>{row['input']}</b> = {_value(row[end], row['unit'])}<br>{engineering(value, unit)}"
            + (f"<br>{row['note']}" if row["note"] else "")
            for value, (_, row) in zip(values, table.iterrows(), strict=True)
        ]
        marks = ["!" if f"{end} breaks" in note else "" for note in table["note"]]
        figure.add_trace(
            go.Bar(
                x=(values - found.base) / factor,
                base=found.base / factor,
                y=names,
                orientation="h",
                name=f"input at its {end} end",
                marker={"color": colour, "opacity": 0.85},
                text=marks,
                textposition="outside",
                customdata=hover,
                hovertemplate=HOVER,
            )
        )
    figure.add_vline(found.base / factor, line={"color": theme.ink(dark), "width": 1.5})
    figure.update_xaxes(title={"text": theme.axis_title(found.quantity, shown)})
    if "!" in "".join(text for trace in figure.data for text in trace.text):
        _note(figure, "! breaks a rule there")
    return figure


def _value(value: Any, unit: str) -> str:
    return engineering(value, unit) if unit and isinstance(value, int | float) else str(value)


def _note(figure: go.Figure, text: str) -> None:
    place = {"xref": "paper", "yref": "paper", "x": 1.0, "y": 1.0, "xanchor": "right", "yanchor": "bottom"}
    figure.add_annotation(text=text, showarrow=False, font={"size": 13}, **place)


def elasticity(found: Elasticities, *, top: int = 20, title: str = "", dark: bool = False) -> go.Figure:
    """Elasticities as bars; at a kink, marks for its left and right side."""
    import plotly.graph_objects as go

    table = found.table.head(top)
    names = _named(table["input"].tolist())
    figure = _rows(title, dark, len(table))
    values = np.nan_to_num(table["elasticity"].to_numpy(float))
    figure.add_trace(
        go.Bar(
            x=values,
            y=names,
            orientation="h",
            name="elasticity",
            marker={"color": [HIGH if v > 0 else LOW for v in values]},
            customdata=[_elasticity_hover(row) for _, row in table.iterrows()],
            hovertemplate=HOVER,
            showlegend=False,
        )
    )
    bent = table[table["kind"].isin(["kink", "jump"])]
    for side, symbol in (("left", "triangle-left"), ("right", "triangle-right")):
        kept = bent[np.isfinite(bent[side].astype(float))]
        if len(kept):
            marks = [names[i] for i in kept.index]
            style = {"symbol": symbol, "size": 11, "color": theme.ink(dark)}
            name = "towards less" if side == "left" else "towards more"
            figure.add_trace(go.Scatter(x=kept[side], y=marks, mode="markers", name=name, marker=style))
    words = theme.title_of(found.quantity)
    figure.update_xaxes(title={"text": f"Change of {words} [%] for 1 % more of the input"})
    return figure


def _elasticity_hover(row: Any) -> str:
    sides = "" if row["kind"] == "smooth" else f"<br>{row['kind']}: left {row['left']:+.4g}, right {row['right']:+.4g}"
    return f"<b>{row['input']}</b> = {_value(row['value'], row['unit'])}<br>{row['elasticity']:+.4g}{sides}"


def shadow(found: ShadowPrices, *, title: str = "", dark: bool = False) -> go.Figure:
    """What one step of each resource is worth per device, logarithmic; the step is named with each bar."""
    import plotly.graph_objects as go

    column = f"worth [{found.worth_unit}]"
    table = found.table[found.table[column] > 0]
    worth = table[column].to_numpy(float)
    texts = [
        f"{NARROW}<b>{theme.short(w, found.worth_unit)}</b>  saves {theme.short(s, 's')} a step"
        for w, s in zip(worth, table["saved [s]"], strict=True)
    ]
    figure = _rows(title, dark, len(table), showlegend=False)
    names = table["words"].tolist()
    figure.add_trace(
        go.Bar(
            x=worth,
            y=names,
            orientation="h",
            marker={"color": LOW},
            text=texts,
            textposition="outside",
            cliponaxis=False,
            customdata=[f"<b>{n}</b><br>{t}" for n, t in zip(names, texts, strict=True)],
            hovertemplate=HOVER,
        )
    )
    if len(worth):
        low, high = np.log10(worth.min()), np.log10(worth.max())
        figure.update_xaxes(type="log", range=[low - 0.3, high + 0.6 * (high - low) + 1.0], **theme.log_ticks(worth))
    unit = "USD per device" if found.worth_unit == "USD" else f"{found.worth_unit} per device"
    figure.update_xaxes(title={"text": f"Worth of one step [{unit}]"})
    return figure


def sobol(found: SobolIndices, *, title: str = "", dark: bool = False) -> go.Figure:
    """First-order and total indices with the whiskers of their confidence intervals."""
    import plotly.graph_objects as go

    table = found.table.sort_values("ST", ascending=False, kind="stable")
    names = _named(table["factor"].tolist())
    figure = _rows(title, dark, 2 * len(table), barmode="group")
    for index, words, colour in (("S1", "alone", LOW), ("ST", "with interactions", HIGH)):
        values, errors = table[index].to_numpy(float), np.nan_to_num(table[f"{index}_conf"].to_numpy(float))
        whiskers = {"type": "data", "array": errors, "color": theme.ink(dark), "visible": bool(np.any(errors))}
        hover = [f"<b>{n}</b><br>{index} = {v:.4f} ± {e:.4f}" for n, v, e in zip(names, values, errors, strict=True)]
        figure.add_trace(
            go.Bar(
                x=values, y=names, orientation="h", name=f"{words} ({index})", marker={"color": colour},
                error_x=whiskers, customdata=hover, hovertemplate=HOVER,
            )
        )  # fmt: skip
    figure.update_xaxes(
        title={"text": f"Share of the variance of {found.output.replace('_', ' ')}"}, rangemode="tozero"
    )
    return figure


def morris(found: MorrisEffects, *, title: str = "", dark: bool = False) -> go.Figure:
    """Spread against mean size of the effects: right is strong, high (above the line) is bent or interacting."""
    import plotly.graph_objects as go

    table = found.table
    names = _named(table["factor"].tolist())
    x, y = table["mu_star"].to_numpy(float), table["sigma"].to_numpy(float)
    hover = [
        f"<b>{n}</b><br>mu* = {a:.4g} ± {c:.2g}<br>sigma = {b:.4g}"
        for n, a, b, c in zip(names, x, y, table["mu_star_conf"], strict=True)
    ]
    figure = theme.blank(title, dark)
    for i, name in enumerate(names):
        marker = {
            "size": 12,
            "color": theme.SPARE[i % len(theme.SPARE)],
            "symbol": theme.MARKERS[i % len(theme.MARKERS)],
        }
        whisker = {"type": "data", "array": [table["mu_star_conf"].iloc[i]], "thickness": 1}
        figure.add_trace(
            go.Scatter(
                x=x[i : i + 1],
                y=y[i : i + 1],
                mode="markers",
                name=name,
                cliponaxis=False,
                error_x=whisker,
                marker=marker,
                customdata=hover[i : i + 1],
                hovertemplate=HOVER,
            )
        )
    reach = max(float(x.max(initial=0.0)), 1e-12)
    dash = {"dash": "dot", "color": theme.ink(dark), "width": 1}
    figure.add_trace(
        go.Scatter(x=[0, reach], y=[0, reach], mode="lines", line=dash, name="mu* = sigma", hoverinfo="skip")
    )
    output = found.output.replace("_", " ")
    figure.update_xaxes(title={"text": f"Mean size of the effect on {output} (mu*)"}, rangemode="tozero")
    figure.update_yaxes(title={"text": "Spread of the effect (sigma)"}, rangemode="tozero")
    return figure


def discover(found: Discovery, *, title: str = "", dark: bool = False) -> go.Figure:
    """Peeling trajectories: density against coverage, step by step; a star marks each box as it was given."""
    import plotly.graph_objects as go

    figure = theme.blank(title, dark, legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"})
    for position, box in enumerate(found.boxes):
        colour, path = theme.SPARE[position % len(theme.SPARE)], box.trajectory
        hover = [_peel_hover(row) for _, row in path.iterrows()]
        figure.add_trace(
            go.Scatter(
                x=path["coverage"],
                y=path["density"],
                mode="lines+markers",
                name=f"box {position + 1}: {box}",
                line={"color": colour, "width": 1.5},
                marker={"size": 6},
                customdata=hover,
                hovertemplate=HOVER,
            )
        )
        star = {"symbol": "star", "size": 17, "color": colour, "line": {"width": 1, "color": theme.ink(dark)}}
        text = f"<b>{box}</b><br>density {box.density:.1%}, coverage {box.coverage:.1%}, mass {box.mass:.1%}"
        point = {"x": [box.coverage], "y": [box.density], "mode": "markers", "marker": star}
        figure.add_trace(go.Scatter(**point, customdata=[text], hovertemplate=HOVER, showlegend=False))
    if not found.boxes:
        _note(figure, f"{found.cases:,} of {found.designs:,} designs {found.case} {found.target}; no box stands out")
    word = "misses" if found.case == "miss" else "hits"
    figure.update_xaxes(title={"text": f"Coverage: share of all {word} in the box"}, range=[-0.02, 1.02])
    figure.update_yaxes(title={"text": f"Density: share of {word} among the box's designs"}, range=[-0.02, 1.05])
    return figure


def _peel_hover(row: pd.Series) -> str:
    return (
        f"density {row['density']:.1%}, coverage {row['coverage']:.1%}<br>"
        f"mass {row['mass']:.1%}, {int(row['restricted'])} restrictions"
    )


def bottleneck(found: Bottlenecks, *, title: str = "", dark: bool = False) -> go.Figure:
    """The ladder as a waterfall from the design's time down: what binds, what binds next, and the time left."""
    import plotly.graph_objects as go

    ladder = found.ladder
    factor, shown = theme.axis_scale([found.step_time], "s")
    names = ["the design", *(f"{'' if i == 0 else '… and '}{n} unlimited" for i, n in enumerate(ladder["resource"]))]
    left = np.concatenate([[found.step_time], ladder["left [s]"].to_numpy(float)])
    saved = np.concatenate([[0.0], ladder["saved [s]"].to_numpy(float)])
    figure = _rows(title, dark, len(names), barmode="stack")
    pattern = {"color": HIGH, "opacity": 0.6, "pattern": {"shape": "/"}}
    for values, name, marker in ((left, "step time left", {"color": LOW}), (saved, "saved", pattern)):
        hover = [f"<b>{n}</b><br>{name}: {engineering(v, 's')}" for n, v in zip(names, values, strict=True)]
        bar = {"x": values / factor, "y": names, "orientation": "h", "name": name, "marker": marker}
        figure.add_trace(go.Bar(**bar, customdata=hover, hovertemplate=HOVER))
    for name, rest, less in zip(names, left, saved, strict=True):
        text = f"{NARROW}<b>{theme.short(rest, 's')}</b>" + (f" (−{theme.short(less, 's')})" if less else "")
        figure.add_annotation(x=(rest + less) / factor, y=name, text=text, showarrow=False, xanchor="left")
    figure.update_xaxes(range=[0, 1.25 * found.step_time / factor])
    figure.update_xaxes(title={"text": theme.axis_title("step_time", shown)})
    return figure
