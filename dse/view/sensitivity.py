"""Figures of sensitivity: tornado, elasticities, shadow prices, Sobol and Morris, boxes of PRIM, bottlenecks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.units import engineering
from dse.view import naming, theme
from dse.view.regions import HOVER, NARROW, regions, trajectories

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dse.explore.result import Result
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


def _heading(title: str, default: str, design: Result | None) -> dict[str, str]:
    """The title, and below it the design that the figure is about."""
    if design is None:
        return {"title": title or default}
    given = design.devices_given and not any(b.name in ("cluster", "devices") for b in design.axes)
    count = design.specs["cluster"].devices if given else None  # type: ignore[attr-defined]
    if not design.axes:
        count = float(design.cells[0].evaluation["devices"])
    return {"title": title or default, "subtitle": theme.design_text(design.specs, count)}


def _rows(title: str, dark: bool, count: int, **layout: Any) -> go.Figure:
    """A figure with one row an entry, the first on top."""
    figure = theme.blank(title, dark, **_row_layout(count, bool(layout.get("subtitle"))), **layout)
    figure.update_yaxes(_row_axis(count))
    return figure


def _row_axis(count: int) -> dict[str, Any]:
    """The names of the rows, all of them, from the top down; many are small."""
    font = {"size": 12 if count <= 12 else 11}
    return {"autorange": "reversed", "showgrid": False, "type": "category", "dtick": 1, "tickfont": font}


def _row_layout(count: int, described: bool) -> dict[str, Any]:
    """Room for the rows, the heading, and the legend underneath."""
    return {"height": 230 + 30 * max(count, 4), "legend": theme.BELOW, "margin": {"t": 80 if described else 60}}


def _named(inputs: Sequence[str]) -> list[str]:
    """Paths as people call them; those that would be called the same keep their path."""
    from collections import Counter

    words = [theme.words(path) for path in inputs]
    count = Counter(words)
    whole = [path.removeprefix("cluster.").removeprefix("strategy.").replace("_", " ") for path in inputs]
    return [word if count[word] == 1 else path for word, path in zip(words, whole, strict=True)]


def tornado(
    found: Tornado, *, top: int = 20, title: str = "", design: Result | None = None, dark: bool = False
) -> go.Figure:
    """Bars from the design's value to that at the low and the high end of each input, the widest on top.

    One input changes at a time; the others keep their values.
    """
    table, unit = found.table.head(top), found.unit
    names = _named(table["input"].tolist())
    ends = [table[f"{end} [{unit}]"].to_numpy(float) for end in ("at_low", "at_high")]
    factor, shown = theme.axis_scale([found.base, *np.concatenate(ends)], unit)
    heading = _heading(title, f"What moves the {theme.title_of(found.quantity)}", design)
    rows = table.to_dict("records")
    traces, broken = [], False
    for end, values, colour in zip(("low", "high"), ends, (LOW, HIGH), strict=True):
        hover = [
            f"<b>{row['input']}</b> = {_value(row[end], row['unit'])}<br>{engineering(value, unit)}"
            + (f"<br>{row['note']}" if row["note"] else "")
            for value, row in zip(values, rows, strict=True)
        ]
        marks = ["!" if f"{end} breaks" in row["note"] else "" for row in rows]
        broken = broken or any(marks)
        bar = {"x": (values - found.base) / factor, "base": found.base / factor, "y": names, "orientation": "h"}
        words = {"text": marks, "textposition": "outside", "customdata": hover, "hovertemplate": HOVER}
        marker = {"color": colour, "opacity": 0.85}
        traces.append({"type": "bar", **bar, **words, "name": f"at its {end} end", "marker": marker})
    model = None if design is None else design.specs["model"]
    quantity = theme.axis_title(found.quantity, theme.counted(found.quantity, shown, model))
    line = {"type": "line", "x0": found.base / factor, "x1": found.base / factor, "y0": 0, "y1": 1, "yref": "y domain"}
    return theme.drawn(
        traces, dark=dark, barmode="overlay", **heading, **_row_layout(len(names), "subtitle" in heading),
        xaxis={"title": {"text": quantity}},
        yaxis=_row_axis(len(names)),
        shapes=[{**line, "line": {"color": theme.ink(dark), "width": 1.5}}],
        annotations=[{**NOTE, "text": "! breaks a rule there"}] if broken else [],
    )  # fmt: skip


def _output(text: str) -> str:
    """``ln step_time`` as people call it."""
    head, _, name = text.rpartition(" ")
    return f"{head} {theme.title_of(name)}".strip()


def _quantity(found: SobolIndices | MorrisEffects) -> str:
    """The same without its logarithm."""
    return theme.title_of(found.output.rpartition(" ")[2])


def _value(value: Any, unit: str) -> str:
    return engineering(value, unit) if unit and isinstance(value, int | float) else str(value)


NOTE = {"xref": "paper", "yref": "paper", "x": 1.0, "y": 1.0, "xanchor": "right", "yanchor": "bottom",
        "showarrow": False, "font": {"size": 13}}  # fmt: skip


def _note(figure: go.Figure, text: str) -> None:
    figure.add_annotation(text=text, **NOTE)


def elasticity(
    found: Elasticities, *, top: int = 20, title: str = "", design: Result | None = None, dark: bool = False
) -> go.Figure:
    """Elasticities as bars; at a kink, marks for its left and right side."""
    import plotly.graph_objects as go

    table = found.table.head(top)
    names = _named(table["input"].tolist())
    heading = _heading(title, f"What 1 % more of each input does to the {theme.title_of(found.quantity)}", design)
    figure = _rows(dark=dark, count=len(table), **heading)
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
    figure.update_xaxes(title={"text": f"Change of {theme.title_of(found.quantity)} [%]"})
    return figure


def _elasticity_hover(row: Any) -> str:
    sides = "" if row["kind"] == "smooth" else f"<br>{row['kind']}: left {row['left']:+.4g}, right {row['right']:+.4g}"
    return f"<b>{row['input']}</b> = {_value(row['value'], row['unit'])}<br>{row['elasticity']:+.4g}{sides}"


def shadow(found: ShadowPrices, *, title: str = "", design: Result | None = None, dark: bool = False) -> go.Figure:
    """What one unit more of each resource is worth per device, and beside its bar the time that it saves of a step.

    The axis is logarithmic. Units differ, so what 1 % more of each saves is shown on hover; it takes the rate of the
    unit for that of 1 %. Delays are made less instead.
    """
    column = f"worth [{found.worth_unit}]"
    table = found.table[found.table[column] > 0]
    scale, unit = (1.0, "USD") if found.worth_unit == "USD" else (3600.0, "USD/h")
    worth, names = scale * table[column].to_numpy(float), _resources(table)
    prices = [theme.compact(value, "USD") + unit.removeprefix("USD") for value in worth]
    saved = [theme.short(seconds, "s") for seconds in table["saved [s]"]]
    hover = [
        f"<b>{naming.spelled(words)}</b><br>{now} now<br>worth {price} per device, saves {less} of a step"
        f"<br>1 % of it saves {part:.2g} % of a step"
        for words, now, price, less, part in zip(
            table["words"], _amounts(table), prices, saved, _relative_savings(table, found.step_time), strict=True
        )
    ]
    texts = [f"{NARROW}<b>{price}</b>, {less}" for price, less in zip(prices, saved, strict=True)]
    bar = {"type": "bar", "x": worth, "y": names, "orientation": "h", "marker": {"color": LOW}, "cliponaxis": False}
    words = {"text": texts, "textposition": "outside", "customdata": hover, "hovertemplate": HOVER}
    heading = _heading(title, "What one more unit of each resource is worth", design)
    across = {"title": {"text": f"Worth [{unit} per device] and time saved", "font": {"size": 14}}}
    across |= _logarithmic(worth)
    return theme.drawn(
        [{**bar, **words}], dark=dark, showlegend=False, **heading,
        **_row_layout(len(names), "subtitle" in heading), xaxis=across, yaxis=_row_axis(len(names)),
        annotations=[] if names else [{**NOTE, "text": "no resource saves time at the margin"}],
    )  # fmt: skip


def _resources(table: pd.DataFrame) -> list[str]:
    """Resources in few words, with the step that is priced: ``InfiniBand bandwidth, +1 GB/s``."""
    steps = [
        ("+" if step > 0 else "−") + engineering(abs(step), unit, 3)
        for step, unit in zip(table["step"], table["unit"], strict=True)
    ]
    names = [naming.RESOURCES.get(name) or naming.spelled(name) for name in table["resource"]]
    return [f"{name}, {step}" for name, step in zip(names, steps, strict=True)]


def _logarithmic(values: np.ndarray) -> dict[str, Any]:
    """A logarithmic axis with a tick a decade or two, and room behind the bars for what is written there."""
    if not len(values):
        return {}
    low, high = np.log10(values.min()), np.log10(values.max())
    apart = 1 if high - low < 3 else 2
    powers = [p for p in range(int(np.floor(low)), int(np.ceil(high)) + 1) if p % apart == 0]
    ends = [low - 0.3, high + 0.6 * (high - low) + 0.6]
    ticks = {"tickvals": [10.0**p for p in powers], "ticktext": [theme.tick(10.0**p) for p in powers]}
    return {"type": "log", "tickangle": 0, "range": ends, **ticks}


def _relative_savings(table: pd.DataFrame, step_time: float) -> np.ndarray:
    """Per cent of the step time that 1 % of each resource saves, at the rate of the step that was priced."""
    steps = np.abs(table["step"].to_numpy(float)) / table["now"].to_numpy(float)
    return 100.0 * table["saved [s]"].to_numpy(float) / step_time * 0.01 / steps


def _amounts(table: pd.DataFrame) -> list[str]:
    return [engineering(now, unit) for now, unit in zip(table["now"], table["unit"], strict=True)]


def sobol(found: SobolIndices, *, title: str = "", design: Result | None = None, dark: bool = False) -> go.Figure:
    """First-order and total indices with the whiskers of their confidence intervals."""
    import plotly.graph_objects as go

    table = found.table.sort_values("ST", ascending=False, kind="stable")
    names = _named(table["factor"].tolist())
    heading = _heading(title, f"Which factors make the {_quantity(found)} vary", design)
    figure = _rows(dark=dark, count=2 * len(table), barmode="group", **heading)
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
    figure.update_xaxes(title={"text": f"Share of the variance of {_output(found.output)}"}, rangemode="tozero")
    return figure


def morris(found: MorrisEffects, *, title: str = "", design: Result | None = None, dark: bool = False) -> go.Figure:
    """Spread against mean size of the effects: right is strong, high (above the line) is bent or interacting."""
    import plotly.graph_objects as go

    table = found.table
    names = _named(table["factor"].tolist())
    x, y = table["mu_star"].to_numpy(float), table["sigma"].to_numpy(float)
    hover = [
        f"<b>{n}</b><br>mu* = {a:.4g} ± {c:.2g}<br>sigma = {b:.4g}"
        for n, a, b, c in zip(names, x, y, table["mu_star_conf"], strict=True)
    ]
    heading = _heading(title, f"Which factors matter to the {_output(found.output)}", design)
    figure = theme.blank(dark=dark, margin={"t": 95}, legend=theme.BELOW, **heading)
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
    across = {"text": f"Mean size of the effect on {_output(found.output)} (mu*)", "font": {"size": 15}}
    figure.update_xaxes(title=across, rangemode="tozero")
    figure.update_yaxes(title={"text": "Spread of the effect (sigma)"}, rangemode="tozero")
    return figure


def discover(
    found: Discovery,
    *,
    ranges: Mapping[str, Sequence[Any]] | None = None,
    title: str = "",
    design: Result | None = None,
    dark: bool = False,
) -> go.Figure:
    """Peeling trajectories (a star marks each box as it was given), and the boxes against the ranges of their fields.

    Args:
        ranges: values of each field that were looked at (of numbers the ends are enough), for the second panel; by
            default those of the design's axes, where it has any.
    """
    from plotly.subplots import make_subplots

    known = dict(ranges or getattr(found, "ranges", None) or {})
    if design is not None:
        known = {b.name: b.coordinates for b in design.axes} | known
    rows = [
        (place, limit)
        for place, box in enumerate(found.boxes)
        for limit in box.limits
        if len(known.get(limit.name, ())) > 1
    ]
    verb = "miss" if found.case == "miss" else "meet"
    heading = _heading(title, f"Where designs {verb} {found.target.replace('<=', '≤').replace('>=', '≥')}", design)
    legend = {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"}
    styled = theme.blank(dark=dark, legend=legend, margin={"t": 110}, **heading)
    if rows:
        spacing = {"horizontal_spacing": 0.24, "column_widths": [0.45, 0.55]}
        figure = make_subplots(1, 2, **spacing)
        figure.update_layout(styled.layout)
        regions(figure, rows, known, dark)
    else:
        figure = styled
    trajectories(figure, found.boxes, dark)
    if not found.boxes:
        _note(figure, f"{found.cases:,} of {found.designs:,} designs {found.case} {found.target}; no box stands out")
    word = "misses" if found.case == "miss" else "hits"
    axes = {"xaxis": f"Coverage: share of all {word} in the box", "yaxis": f"Density: share of {word} in the box"}
    for name, text in axes.items():
        figure.update_layout({name: {"title": {"text": text}, "range": [-0.03, 1.05], "tickformat": ".0%"}})
    return figure


def bottleneck(found: Bottlenecks, *, title: str = "", design: Result | None = None, dark: bool = False) -> go.Figure:
    """The ladder as a waterfall from the design's time down: what binds, what binds next, and the time left."""
    import plotly.graph_objects as go

    ladder = found.ladder
    factor, shown = theme.axis_scale([found.step_time], "s")
    rungs = [f"{naming.spelled(name)} unlimited" for name in ladder["resource"]]
    names = ["the design", *rungs[:1], *(f"… and {rung}" for rung in rungs[1:])]
    left = np.concatenate([[found.step_time], ladder["left [s]"].to_numpy(float)])
    saved = np.concatenate([[0.0], ladder["saved [s]"].to_numpy(float)])
    heading = _heading(title, "What bounds the step time, and what next", design)
    figure = _rows(dark=dark, count=len(names), barmode="stack", **heading)
    notes = [_shares(found), *(_alone(found, names) for names in ladder["resource"])]
    pattern = {"color": HIGH, "opacity": 0.6, "pattern": {"shape": "/"}}
    for values, name, marker in ((left, "step time left", {"color": LOW}), (saved, "saved", pattern)):
        hover = [
            f"<b>{n}</b><br>{name}: {engineering(v, 's')}{more}"
            for n, v, more in zip(names, values, notes, strict=True)
        ]
        bar = {"x": values / factor, "y": names, "orientation": "h", "name": name, "marker": marker}
        figure.add_trace(go.Bar(**bar, customdata=hover, hovertemplate=HOVER))
    for name, rest, less in zip(names, left, saved, strict=True):
        text = f"{NARROW}<b>{theme.short(rest, 's')}</b>" + (f" (−{theme.short(less, 's')})" if less else "")
        figure.add_annotation(x=(rest + less) / factor, y=name, text=text, showarrow=False, xanchor="left",
                              font={"size": 13})  # fmt: skip
    figure.update_xaxes(range=[0, 2.1 * found.step_time / factor])
    figure.update_xaxes(title={"text": theme.axis_title("step_time", shown)})
    return figure


def _shares(found: Bottlenecks) -> str:
    """How the step divides among the resources."""
    rows = found.table[found.table["share"] > 5e-4]
    return "".join(
        f"<br>{name}: {share:.1%} of the step" for name, share in zip(rows["resource"], rows["share"], strict=True)
    )


def _alone(found: Bottlenecks, rung: str) -> str:
    """What each resource of a rung would bring by itself; nothing, where its work is hidden behind another's."""
    texts = []
    for name in rung.split(" with "):
        speed = float(found.table.loc[found.table["resource"] == name, "speed-up"].iloc[0])
        if speed < 1.0005:
            texts.append(
                f"<br>{name} unlimited by itself: speed-up {speed:.3f}.<br>Nothing is gained: other work at the same "
                "time takes as long;<br>it counts once the resources above no longer limit."
            )
        else:
            texts.append(f"<br>{name} unlimited by itself: {speed:.4g} times as fast")
    return "".join(texts)
