"""Figures of searches: the front with what it beats and what cannot be built, and designs as lines over all axes."""

from __future__ import annotations

import textwrap
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, InfeasibleDesign, SpecError
from dse.explore.objectives import TIME_POWER, quantity_value
from dse.view import theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dse.explore.search.found import SearchResult

INFEASIBLE_SHOWN = 300  # infeasible designs that are priced for the background
ALL_WHISKERS, SOME_WHISKERS = 40, 25  # up to so many points each has its interval, beyond that so many have
PARALLEL, TICKS = 120, 5  # characters over all headers; ticks of an axis
FEW = 8  # values of a colour that are told apart one by one
FAINT, WHISKER = "#B2B2B2", "rgba(7,114,223,0.35)"


def front(
    found: SearchResult,
    x: str | None = None,
    y: str | None = None,
    *,
    colour: str | None = None,
    title: str = "",
    dark: bool = False,
) -> go.Figure:
    """Two objectives against each other: the front with 90 % intervals, dominated designs, and infeasible ones.

    Budgets on what an axis shows are dashed lines. Of a front of more than 40 points 25 have their interval drawn.

    Args:
        found: a search's result.
        x, y: columns of the table by name without unit; by default the two first objectives (one objective: the first
            variable that is a number, and the objective).
        colour: column that colours the front; by default the number of devices, where it varies.

    Raises:
        SpecError: no such column, or one that holds no numbers.
    """
    from pandas.api.types import is_numeric_dtype

    frame = found.table
    names, units = _columns(found)
    wanted = [o.text for o in found.problem.objectives]
    numeric = [n for n in names if is_numeric_dtype(frame[names[n]])]
    varied = next((v.name for v in found.problem.variables if v.name in numeric), "design")
    defaults = wanted[:2] if len(wanted) > 1 else [varied, wanted[0]]
    x, y = x or defaults[0], y or defaults[1]
    for name in (x, y, colour):
        if name is not None and name not in numeric:
            raise SpecError([Fault("column", repr(name)[:60], f"must be one of {', '.join(numeric)}")])
    good = frame[frame["feasible"]]
    missed = _infeasible(found, frame[~frame["feasible"]], names)
    missed = missed[np.isfinite(_numbers(missed[names[x]])) & np.isfinite(_numbers(missed[names[y]]))]
    everything = {n: np.concatenate([_numbers(rows[names[n]]) for rows in (good, missed)]) for n in (x, y)}
    scales = {n: theme.axis_scale(values, units[n]) for n, values in everything.items()}
    best = found.front.sort_values(names[x])
    if colour is None and "devices" in numeric and best[names["devices"]].nunique() > 1:
        colour = "devices"
    heading = title or theme.sentence(f"{_words(found, y)} against {_words(found, x)}")
    figure = theme.blank(heading, dark, subtitle=_subtitle(found))
    marks = partial(_marks, figure, found, x=x, y=y, scales=scales)
    cross = {"symbol": "x-thin", "size": 7, "line": {"width": 1.2, "color": FAINT}}
    marks(missed, "infeasible", cross, of=int((~frame["feasible"]).sum()))
    marks(good[~good["on_front"]], "dominated", {"size": 6, "color": FAINT, "opacity": 0.55})
    _intervals(figure, found, best, (x, y), scales)
    marker = {"size": 11, "color": theme.SPARE[0], "line": {"width": 1, "color": theme.paper(dark)}}
    if colour is not None:
        marker |= _shades(_numbers(best[names[colour]]), found, colour, units[colour], dark)
    line = {"color": theme.SPARE[0], "width": 1.5, "shape": "hv" if len(wanted) > 1 else "linear"}
    kind = "on the front" if len(wanted) > 1 else "best"
    marks(best, kind, marker, mode="lines+markers" if len(best) > 1 else "markers", line=line)
    for name, letter in ((x, "x"), (y, "y")):
        values = everything[name] / scales[name][0]
        positive = values[np.isfinite(values) & (values > 0)]
        log = len(positive) == len(values) and len(positive) > 1 and positive.max() > 8 * positive.min()
        axis = {"type": "log", **theme.log_ticks(positive)} if log else {}
        shown = theme.with_unit(theme.sentence(_words(found, name)), _counted(found, name, scales[name][1]))
        figure.update_layout({f"{letter}axis": {"title": {"text": shown}, **axis}})
        _budgets(figure, found, name, letter, scales[name][0], values, dark, log=log)
    return figure.update_layout(legend={"orientation": "h", "y": -0.18}, margin={"t": 95})


def _columns(found: SearchResult) -> tuple[dict[str, str], dict[str, str]]:
    """Headers and units of the table's columns by name."""
    names = {column.partition(" [")[0]: column for column in found.table.columns}
    return names, {name: column.partition(" [")[2].rstrip("]") for name, column in names.items()}


def _marks(
    figure: go.Figure, found: SearchResult, rows: pd.DataFrame, name: str, marker: dict[str, Any],
    *, x: str, y: str, scales: dict[str, tuple[float, str]], of: int | None = None, **more: Any,
) -> None:  # fmt: skip
    """Rows of the table as points; their count is in the legend."""
    import plotly.graph_objects as go

    if not len(rows):
        return
    names, units = _columns(found)
    count = f"{len(rows):,}" if of in (None, len(rows)) else f"{len(rows):,} of {of:,}"
    figure.add_trace(
        go.Scatter(
            x=_numbers(rows[names[x]]) / scales[x][0],
            y=_numbers(rows[names[y]]) / scales[y][0],
            name=f"{name} ({count})",
            marker=marker,
            customdata=_hover(found, rows, names, units),
            hovertemplate="%{customdata}<extra></extra>",
            **{"mode": "markers", **more},
        )
    )


def _intervals(
    figure: go.Figure,
    found: SearchResult,
    rows: pd.DataFrame,
    axes: tuple[str, str],
    scales: dict[str, tuple[float, str]],
) -> None:
    """90 % intervals of the front: faint, and a trace of their own that can be switched off."""
    import plotly.graph_objects as go

    if len(rows) > ALL_WHISKERS:
        rows = rows.iloc[np.linspace(0, len(rows) - 1, SOME_WHISKERS).round().astype(int)]
    bars = _whiskers(found, rows, dict(zip(axes, ("error_x", "error_y"), strict=True)), scales)
    if not bars:
        return
    names, _ = _columns(found)
    x, y = (_numbers(rows[names[name]]) / scales[name][0] for name in axes)
    behind = {"symbol": "line-ew", "size": 10, "line": {"width": 1.5, "color": WHISKER}}  # for the legend
    unseen = {"mode": "markers", "marker": behind, "hoverinfo": "skip"}
    figure.add_trace(go.Scatter(x=x, y=y, name="90 % interval", **unseen, **bars))


def _shades(values: np.ndarray, found: SearchResult, name: str, unit: str, dark: bool) -> dict[str, Any]:
    """Colours of the points by a column, with a bar; few values are steps of their own."""
    scale, shown = theme.axis_scale(values, unit)
    title = {
        "text": theme.with_unit(theme.sentence(_words(found, name)), _counted(found, name, shown)),
        "side": "right",
    }
    colours = {"colorscale": theme.shades(dark), "showscale": True}
    levels = np.unique(values[np.isfinite(values)])
    if not 1 < len(levels) <= FEW:
        return {"color": values / scale, **colours, "colorbar": {"title": title}}
    count = len(levels)
    picked = [theme.shades(dark)[round(10 * k / (count - 1))][1] for k in range(count)]
    steps = [[(k + end) / count, shade] for k, shade in enumerate(picked) for end in (0, 1)]
    texts = [theme.label(level / scale) for level in levels]
    bar = {"title": title, "tickvals": list(range(count)), "ticktext": texts, "ticks": "", "len": 0.75}
    codes = np.where(np.isfinite(values), np.searchsorted(levels, values), np.nan)
    return {"color": codes, "cmin": -0.5, "cmax": count - 0.5, **colours, "colorscale": steps, "colorbar": bar}


def _budgets(
    figure: go.Figure, found: SearchResult, name: str, letter: str, scale: float, values: np.ndarray, dark: bool,
    *, log: bool,
) -> None:  # fmt: skip
    """A dashed line at each bound of what the axis shows, where it is not far off all designs."""
    quantity = next((o.name for o in found.problem.objectives if o.text == name and o.risk == "point"), name)
    finite = values[np.isfinite(values)]
    for c in found.problem.constraints:
        place = c.value / scale
        if c.name != quantity or not len(finite) or not finite.min() / 2 <= place <= 2 * finite.max():
            continue
        other = "y" if letter == "x" else "x"
        span = {f"{letter}0": place, f"{letter}1": place, f"{other}0": 0, f"{other}1": 1, f"{other}ref": "paper"}
        line = {"dash": "dash", "width": 1.5, "color": theme.ink(dark)}
        figure.add_shape(type="line", layer="below", line=line, **span)
        amount = theme.compact(c.value, _counted(found, c.name, c.unit))
        text = f"budget {amount}" if c.at_most else f"at least {amount}"
        at = {letter: np.log10(place) if log else place, other: 1.0 if letter == "x" else 0.01, f"{other}ref": "paper"}
        ends = {"xanchor": "left", "yanchor": "top" if letter == "x" else "bottom"}
        figure.add_annotation(text=text, showarrow=False, font={"size": 13}, **at, **ends)


def _subtitle(found: SearchResult) -> str:
    """The model, the cluster that was varied, and the budget."""
    model = found.problem.specs["model"]
    budget = " and ".join(theme.condition_text(c, model) for c in found.problem.constraints)
    return theme.design_text(found.problem.specs) + (f"; {budget}" if budget else "")


def _counted(found: SearchResult, name: str, unit: str) -> str:
    return theme.counted(name, unit, found.problem.specs["model"])


def _numbers(column: pd.Series) -> np.ndarray:
    return column.to_numpy(float, na_value=np.nan)


def _infeasible(found: SearchResult, rows: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """Infeasible rows (a sample of them where there are many) with the objectives of their nearest strategy."""
    rows = rows.loc[np.array([found.answers[n].nearest is not None for n in rows["design"]], dtype=bool)]
    if len(rows) > INFEASIBLE_SHOWN:
        rows = rows.iloc[np.linspace(0, len(rows) - 1, INFEASIBLE_SHOWN).astype(int)]
    evaluations = [found.design(int(row)).cells[0].evaluation for row in rows.index]
    return rows.assign(
        **{names[o.text]: [float(np.asarray(o.value(e))) for e in evaluations] for o in found.problem.objectives}
    )


def _whiskers(
    found: SearchResult, rows: pd.DataFrame, sides: dict[str, str], scales: dict[str, tuple[float, str]]
) -> dict[str, Any]:
    """Error bars of the axes that show a predicted quantity with an interval."""
    texts = {o.text: o for o in found.problem.objectives}
    result: dict[str, Any] = {}
    for name, side in sides.items():
        o = texts.get(name)
        if o is None or o.risk != "point" or o.name not in TIME_POWER:
            continue
        from dse.explore.objectives import log_deviation

        evaluations = [found.design(int(row)).cells[0].evaluation for row in rows.index]
        half = np.array([1.645 * float(log_deviation(e, o.name)) for e in evaluations])
        value = np.array([float(quantity_value(e, o.name)) for e in evaluations]) / scales[name][0]
        up, down = value * (np.exp(half) - 1), value * (1 - np.exp(-half))
        line = {"color": WHISKER, "thickness": 1, "width": 0}
        result[side] = {"symmetric": False, "array": up, "arrayminus": down, **line}
    return result


def _hover(found: SearchResult, rows: pd.DataFrame, names: dict[str, str], units: dict[str, str]) -> list[str]:
    """The whole design of each row."""
    from pandas import isna

    hidden = {"design", "trial", "feasible", "on_front", "dominated_by", "reasons", "strategies", "feasible_strategies"}
    objectives = [o.text for o in found.problem.objectives]
    measures = [*(v.name for v in found.problem.variables), *found.problem.noted]
    rest = [n for n in names if n not in hidden and n not in objectives and n not in measures]
    texts = []
    for row in rows.to_dict("records"):
        lines = [
            f"<b>{escape(_words(found, n))}: {escape(_amount(found, n, row[names[n]], units[n]))}</b>"
            for n in objectives
        ]
        lines += [f"{escape(n)} = {escape(_amount(found, n, row[names[n]], units[n]))}" for n in measures]
        given = [f"{n}={str(row[names[n]]).lower()}" for n in rest if not isna(row[names[n]])]
        lines += [escape(", ".join(given[i : i + 5])) for i in range(0, len(given), 5)]
        if row["reasons"]:
            lines.append(f"<i>{escape(row['reasons'])}</i>")
        texts.append("<br>".join(lines))
    return texts


def _amount(found: SearchResult, name: str, value: Any, unit: str) -> str:
    counted = _counted(found, name, unit)
    return theme.label(value, unit) if counted == unit else theme.compact(value, counted)


def parallel(found: SearchResult, *, share: float = 0.1, title: str = "", dark: bool = False) -> go.Figure:
    """Feasible designs as lines over the hardware axes and the objectives, coloured by the first objective.

    Args:
        share: of the feasible rows that are drawn, the best by the first objective (at least 30).

    Raises:
        InfeasibleDesign: nothing is feasible.
    """
    import plotly.graph_objects as go

    frame = found.table
    lead = found.problem.objectives[0]
    good = frame[frame["feasible"]]
    if not len(good):
        raise InfeasibleDesign(found.why_none())
    header, units = _columns(found)
    good = good.sort_values(header[lead.text], ascending=lead.less, kind="stable")
    good = good.iloc[: max(30, int(len(good) * share))]
    shown = [*(v.name for v in found.problem.variables), *(o.text for o in found.problem.objectives)]
    width = max(PARALLEL // max(len(shown), 1), 8)
    dimensions = [_dimension(found, name, good[header[name]], units[name], width) for name in shown]
    colour = good[header[lead.text]].to_numpy(float)
    scale, unit = theme.axis_scale(colour, lead.unit)
    words = theme.with_unit(theme.sentence(_words(found, lead.text)), _counted(found, lead.text, unit))
    bar = {"title": {"text": words, "side": "right", "font": {"size": 14}}, "tickfont": {"size": 13}, "thickness": 20}
    line = {"color": colour / scale, "colorscale": theme.shades(dark), "showscale": True, "colorbar": bar}
    heading = title or f"The best {len(good):,} designs by {_words(found, lead.text)}"
    figure = theme.blank(heading, dark, subtitle=_subtitle(found))
    sizes = {"labelfont": {"size": 14 if len(shown) <= 7 else 12}, "tickfont": {"size": 12 if len(shown) <= 7 else 11}}
    unseen = {"color": "rgba(0,0,0,0)", "size": 1}
    figure.add_trace(go.Parcoords(dimensions=dimensions, line=line, rangefont=unseen, labelside="bottom", **sizes))
    lines = max(d["label"].count("<br>") for d in dimensions) + 1
    return figure.update_layout(margin={"l": 70, "r": 40, "t": 110, "b": 40 + 18 * lines})


def _words(found: SearchResult, name: str) -> str:
    """A column as people call it: a variable by the end of its path, an objective by its quantity."""
    o = next((o for o in found.problem.objectives if o.text == name), None)
    if o is not None:
        return theme.title_of(o.name) if o.risk == "point" else o.text
    return theme.words(name) if any(v.name == name for v in found.problem.variables) else theme.title_of(name)


def _dimension(found: SearchResult, name: str, column: pd.Series, unit: str, width: int) -> dict[str, Any]:
    """An axis of the parallel lines with its values and a few round ticks; few values are ticks themselves."""
    from pandas.api.types import is_numeric_dtype

    words = theme.sentence(_words(found, name))
    if not is_numeric_dtype(column):
        kinds = list(dict.fromkeys(column.astype(str)))
        codes = [kinds.index(str(value)) for value in column]
        return {"label": _wrapped(words, "", width), "values": codes, "tickvals": list(range(len(kinds))),
                "ticktext": kinds}  # fmt: skip
    scale, shown = theme.axis_scale(column.to_numpy(float), unit)
    values = column.to_numpy(float) / scale
    low, high = values.min(), values.max()
    log = bool(low > 0 and high > 8 * low)
    levels = np.unique(values)
    round_ones = theme.log_ticks(values)["tickvals"] if log else theme.linear_ticks(low, high)
    inside = [t for t in round_ones if low * 0.99 <= t <= high * 1.01]
    ticks = np.asarray(levels if len(levels) <= TICKS or len(inside) < 2 else inside)
    axis = {
        "label": _wrapped(words, _counted(found, name, shown), width),
        "ticktext": [theme.tick(float(f"{t:.4g}")) for t in ticks],
    }
    if low == high:  # a line needs a range, and one value has none
        axis["range"] = [values[0] - 1, values[0] + 1]
    return axis | ({"values": np.log10(values), "tickvals": np.log10(ticks)} if log else
                   {"values": values, "tickvals": ticks})  # fmt: skip


def _wrapped(words: str, unit: str, width: int) -> str:
    """A header in lines of about ``width`` characters, at most two, and its unit in a line of its own."""
    lines = textwrap.wrap(words, width, break_long_words=False)
    lines = [*lines[:1], " ".join(lines[1:])] if len(lines) > 2 else lines
    return "<br>".join([*lines, *([f"[{unit}]"] if unit not in ("", "1") else [])])
