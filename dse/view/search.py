"""Figures of searches: the front with what it beats and what cannot be built, and designs as lines over all axes."""

from __future__ import annotations

from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, InfeasibleDesign, SpecError
from dse.explore.objectives import TIME_POWER, log_deviation, quantity_value
from dse.view import theme
from dse.view.parts import (
    ALL_WHISKERS,
    CROSS,
    DOT,
    SOME_WHISKERS,
    axis,
    coloured,
    dimension,
    interval_trace,
    lines_figure,
    spreads,
    whiskers,
)
from dse.view.priced import values

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dse.explore.search.found import SearchResult

INFEASIBLE_SHOWN = 300  # infeasible designs that are priced for the background
DOMINATED_SHOWN = 2_000  # dominated designs that are drawn
PARALLEL = 120  # characters over all headers of the lines
FEW = 8  # values of a colour that are told apart one by one


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
    marks = partial(_marks, found, x=x, y=y, scales=scales)
    traces = marks(missed, "infeasible", CROSS, of=int((~frame["feasible"]).sum()))
    beaten = good[~good["on_front"]]
    shown = beaten.iloc[np.linspace(0, len(beaten) - 1, min(len(beaten), DOMINATED_SHOWN)).round().astype(int)]
    traces += marks(shown, "dominated", DOT, of=len(beaten))
    traces += _intervals(found, best, (x, y), scales)
    marker = {"size": 11, "color": theme.SPARE[0], "line": {"width": 1, "color": theme.paper(dark)}}
    if colour is not None:
        marker |= _shades(_numbers(best[names[colour]]), found, colour, units[colour], dark)
    line = {"color": theme.SPARE[0], "width": 1.5, "shape": "hv" if len(wanted) > 1 else "linear"}
    kind = "on the front" if len(wanted) > 1 else "best"
    traces += marks(best, kind, marker, mode="lines+markers" if len(best) > 1 else "markers", line=line)
    axes: dict[str, Any] = {}
    bounds: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for name, letter in ((x, "x"), (y, "y")):
        values = everything[name] / scales[name][0]
        shown = theme.with_unit(theme.sentence(_words(found, name)), _counted(found, name, scales[name][1]))
        axes[f"{letter}axis"] = axis(shown, values)
        bounds += _budgets(found, name, letter, scales[name][0], values, dark)
    return theme.drawn(
        traces, title=title or theme.sentence(f"{_words(found, y)} against {_words(found, x)}"), dark=dark,
        subtitle=_subtitle(found), legend=theme.BELOW, margin={"t": 85},
        shapes=[shape for shape, _ in bounds], annotations=[note for _, note in bounds], **axes,
    )  # fmt: skip


def _columns(found: SearchResult) -> tuple[dict[str, str], dict[str, str]]:
    """Headers and units of the table's columns by name."""
    names = {column.partition(" [")[0]: column for column in found.table.columns}
    return names, {name: column.partition(" [")[2].rstrip("]") for name, column in names.items()}


def _marks(
    found: SearchResult, rows: pd.DataFrame, name: str, marker: dict[str, Any],
    *, x: str, y: str, scales: dict[str, tuple[float, str]], of: int | None = None, **more: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of the table as points; their count is in the legend."""
    if not len(rows):
        return []
    names, units = _columns(found)
    count = f"{len(rows):,}" if of in (None, len(rows)) else f"{len(rows):,} of {of:,}"
    return [
        {
            "type": "scatter",
            "x": _numbers(rows[names[x]]) / scales[x][0],
            "y": _numbers(rows[names[y]]) / scales[y][0],
            "name": f"{name} ({count})",
            "marker": marker,
            "customdata": _hover(found, rows, names, units),
            "hovertemplate": "%{customdata}<extra></extra>",
            **{"mode": "markers", **more},
        }
    ]


def _intervals(
    found: SearchResult, rows: pd.DataFrame, axes: tuple[str, str], scales: dict[str, tuple[float, str]]
) -> list[dict[str, Any]]:
    """90 % intervals of the front: faint, and a trace of their own that can be switched off."""
    if len(rows) > ALL_WHISKERS:
        rows = rows.iloc[np.linspace(0, len(rows) - 1, SOME_WHISKERS).round().astype(int)]
    bars = _whiskers(found, rows, dict(zip(axes, ("error_x", "error_y"), strict=True)), scales)
    names, _ = _columns(found)
    x, y = (_numbers(rows[names[name]]) / scales[name][0] for name in axes)
    return [interval_trace(x, y, bars)] if bars else []


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
    bar = {"title": title, "tickvals": list(range(count)), "ticktext": texts, "ticks": "", "len": 0.75, "thickness": 16}
    codes = np.where(np.isfinite(values), np.searchsorted(levels, values), np.nan)
    return {"color": codes, "cmin": -0.5, "cmax": count - 0.5, **colours, "colorscale": steps, "colorbar": bar}


def _budgets(
    found: SearchResult, name: str, letter: str, scale: float, values: np.ndarray, dark: bool
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """A dashed line at each bound of what the axis shows, where it is not far off all designs."""
    quantity = next((o.name for o in found.problem.objectives if o.text == name and o.risk == "point"), name)
    finite, log = values[np.isfinite(values)], spreads(values)
    bounds = []
    for c in found.problem.constraints:
        place = c.value / scale
        if c.name != quantity or not len(finite) or not finite.min() / 2 <= place <= 2 * finite.max():
            continue
        other = "y" if letter == "x" else "x"
        span = {f"{letter}0": place, f"{letter}1": place, f"{other}0": 0, f"{other}1": 1, f"{other}ref": "paper"}
        line = {"dash": "dash", "width": 1.5, "color": theme.ink(dark)}
        amount = theme.compact(c.value, _counted(found, c.name, c.unit))
        text = f"budget {amount}" if c.at_most else f"at least {amount}"
        at = {letter: np.log10(place) if log else place, other: 1.0 if letter == "x" else 0.01, f"{other}ref": "paper"}
        ends = {"xanchor": "left", "yanchor": "top" if letter == "x" else "bottom"}
        note = {"text": text, "showarrow": False, "font": {"size": 13}, **at, **ends}
        bounds.append(({"type": "line", "layer": "below", "line": line, **span}, note))
    return bounds


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
    objectives = found.problem.objectives
    columns = values(found, rows.index.tolist(), *(o.value for o in objectives))
    return rows.assign(**{names[o.text]: column for o, column in zip(objectives, columns, strict=True)})


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
        wanted = (partial(log_deviation, name=o.name), partial(quantity_value, name=o.name))
        half, value = values(found, rows.index.tolist(), *wanted)
        half, value = 1.645 * half, value / scales[name][0]
        result[side] = whiskers(value, value * np.exp(-half), value * np.exp(half))
    return result


def _hover(found: SearchResult, rows: pd.DataFrame, names: dict[str, str], units: dict[str, str]) -> list[str]:
    """The whole design of each row."""
    hidden = {"design", "trial", "feasible", "on_front", "dominated_by", "reasons", "strategies", "feasible_strategies"}
    objectives = [o.text for o in found.problem.objectives]
    measures = [*(v.name for v in found.problem.variables), *found.problem.noted]
    rest = [n for n in names if n not in hidden and n not in objectives and n not in measures]

    def column(name: str, before: str, *, amounts: bool, after: str = "") -> list[str]:
        values = rows[names[name]].tolist()
        known = {}  # most columns have few values
        for value in values:
            if value not in known:
                text = _amount(found, name, value, units[name]) if amounts else str(value).lower()
                known[value] = "" if _missing(value) and not amounts else f"{before}{escape(text)}{after}"
        return [known[value] for value in values]

    bold = [column(n, f"<b>{escape(_words(found, n))}: ", amounts=True, after="</b>") for n in objectives]
    plain = [column(n, f"{escape(n)} = ", amounts=True) for n in measures]
    given = list(zip(*(column(n, f"{escape(n)}=", amounts=False) for n in rest), strict=True)) or [()] * len(rows)
    whys = [f"<i>{escape(why)}</i>" if why else "" for why in rows["reasons"].tolist()]
    texts = []
    for *lines, fields, why in zip(*bold, *plain, given, whys, strict=True):
        fields = [field for field in fields if field]
        lines += [", ".join(fields[i : i + 5]) for i in range(0, len(fields), 5)]
        texts.append("<br>".join([*lines, why] if why else lines))
    return texts


def _missing(value: Any) -> bool:
    from pandas import isna

    return bool(isna(value))


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
    dimensions = []
    for name in shown:
        words = theme.sentence(_words(found, name))
        made = dimension(words, name, good[header[name]], units[name], width, found.problem.specs["model"])
        dimensions.append({key: value for key, value in made.items() if key != "meta"})
    colour = good[header[lead.text]].to_numpy(float)
    scale, unit = theme.axis_scale(colour, lead.unit)
    words = theme.with_unit(theme.sentence(_words(found, lead.text)), _counted(found, lead.text, unit))
    heading = title or f"The best {len(good):,} designs by {_words(found, lead.text)}"
    line = coloured(colour / scale, words, dark, less=lead.less)
    return lines_figure(dimensions, line, dark, title=heading, subtitle=_subtitle(found), margin={"t": 88})


def _words(found: SearchResult, name: str) -> str:
    """A column as people call it: a variable by the end of its path, an objective by its quantity."""
    o = next((o for o in found.problem.objectives if o.text == name), None)
    if o is not None:
        return theme.title_of(o.name) if o.risk == "point" else o.text
    return theme.words(name) if any(v.name == name for v in found.problem.variables) else theme.title_of(name)
