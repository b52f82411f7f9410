"""Figures of a table of designs: the front with what it beats and what cannot be built, and designs as lines.

Both draw :class:`dse.app.designs.Designs`, the strategies around a design or a search's result. ``layout.meta`` says
which column is on which axis, and by what its SI values were divided, so that a range that is selected on the
screen can be turned back. The marks, axes and lines are those of the figures of searches too.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, InfeasibleDesign, SpecError
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
    whiskers,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dse.app.designs import Designs

DRAWN = 5_000  # points of one figure
LINES = 2_000  # lines of one figure
HEADERS, DIMENSIONS = 80, 8  # characters over all headers of the lines; lines that stand for a column
LEAST = ("dp", "sequence_parallel", "zero_stage", "virtual_stages")  # left out first; dp follows from the others
SHADER = 1_500  # points of one kind from which on the graphics processor draws them
HIDDEN = ("design", "trial", "feasible", "on_front", "dominated_by", "reasons", "strategies", "feasible_strategies")


def front(
    designs: Designs,
    x: str | None = None,
    y: str | None = None,
    *,
    selected: Sequence[bool] | np.ndarray | None = None,
    now: Mapping[str, Any] | None = None,
    title: str = "",
    dark: bool = False,
) -> go.Figure:
    """Two columns against each other: the front with 90 % intervals, dominated designs, and infeasible ones.

    At most 5,000 points are drawn: the front and what is selected, and an even sample of the rest. The ``ids`` of a
    point are its row in the table.

    Args:
        designs: a table of designs.
        x, y: columns; by default the two objectives (one objective: the first number that varies, and the objective).
        selected: a truth value a row; selected feasible designs stand out and the others fade.
        now: fields of the present design, and its quantities where it need not be in the table; it gets a ring.

    Raises:
        SpecError: no such column, or one that holds no numbers.
    """
    x, y = _axes(designs, x, y)
    table = designs.table
    numbers = {name: table[name].to_numpy(float, na_value=np.nan) for name in dict.fromkeys((x, y))}
    there = np.isfinite(numbers[x]) & np.isfinite(numbers[y])
    good, best = table["feasible"].to_numpy(bool), table["on_front"].to_numpy(bool)
    marked = np.zeros(len(table), dtype=bool) if selected is None else np.asarray(selected, dtype=bool) & good
    kinds = {
        "infeasible": there & ~good,
        "dominated": there & good & ~best & ~marked,
        "selected": there & marked & ~best,
        "front": there & best,
    }
    rows = _sampled(kinds)
    measured = there & good if (there & good).any() else there
    scales = {name: theme.axis_scale(values[measured], _unit(name)) for name, values in numbers.items()}
    places = {name: values / scales[name][0] for name, values in numbers.items()}

    def points(kind: str, words: str, **style: Any) -> dict[str, Any]:
        shown, count = rows[kind], int(kinds[kind].sum())
        of = theme.compact(count)
        of = of if len(shown) == count else f"{theme.compact(len(shown))} of {of}"
        return {
            "type": "scattergl" if len(shown) > SHADER else "scatter",
            "mode": "markers",
            "x": places[x][shown],
            "y": places[y][shown],
            "ids": [str(row) for row in shown],
            "name": f"{words} ({of})",
            **_hover(designs, shown),
            **style,
        }

    fade = 0.3 if marked.any() else 1.0
    traces = []
    if len(rows["infeasible"]):
        traces.append(points("infeasible", "infeasible", marker=CROSS, opacity=fade))
    if len(rows["dominated"]):
        faint = {**DOT, "opacity": 0.3} if dark else DOT  # grey is loud on a dark ground
        traces.append(points("dominated", "dominated", marker=faint, opacity=fade))
    traces += _intervals(designs, rows["front"], (x, y), places, scales)
    edge = {"width": 1, "color": theme.paper(dark)}
    if len(rows["selected"]):
        marker = {"size": 6, "color": theme.SPARE[1], "line": {**edge, "width": 0.5}}
        traces.append(points("selected", "selected", marker=marker))
    if len(rows["front"]):
        rows["front"] = rows["front"][np.lexsort((places[y][rows["front"]], places[x][rows["front"]]))]
        traces.append(points("front", "on the front", **_front_style(designs, x, y, marked[rows["front"]], edge)))
    traces += _ring(designs, now, (x, y), scales, dark)
    if any(trace["type"] == "scattergl" for trace in traces):  # else what is drawn that way covers all the others
        traces = [{**{k: v for k, v in trace.items() if k != "cliponaxis"}, "type": "scattergl"} for trace in traces]
    axes = {f"{letter}axis": axis(_title(n, scales[n][1]), places[n][there]) for n, letter in ((x, "x"), (y, "y"))}
    meta = {"x": x, "y": y, "x_scale": scales[x][0], "y_scale": scales[y][0]}
    heading = theme.heading(title, f"{_words(y)} against {_small(_words(x))}", designs.about)
    return theme.drawn(traces, dark=dark, legend=theme.BELOW, meta=meta, **heading, **axes)


def _axes(designs: Designs, x: str | None, y: str | None) -> tuple[str, str]:
    """The columns to draw.

    Raises:
        SpecError: one that is not there or holds no numbers.
    """
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    table = designs.table
    numeric = [n for n in table.columns if is_numeric_dtype(table[n]) and not is_bool_dtype(table[n])]
    defaults = list(designs.objectives[:2])
    if len(defaults) < 2:
        defaults = [next((n for n in designs.variables if n in numeric), numeric[0]), *defaults]
    chosen = [designs.column(given or usual) for given, usual in zip((x, y), defaults, strict=True)]
    for name in chosen:
        if name not in numeric:
            raise SpecError([Fault("column", repr(name)[:60], f"must be one of {', '.join(numeric)}")])
    return chosen[0], chosen[1]


def _sampled(kinds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows to draw of each kind: what matters first, then an even sample of the rest."""
    left, rows = DRAWN, {}
    for kind in ("front", "selected", "infeasible", "dominated"):
        every = np.flatnonzero(kinds[kind])
        room = left if kind != "infeasible" else max(left - int(kinds["dominated"].sum()), left // 4)
        rows[kind] = every[np.linspace(0, len(every) - 1, min(len(every), room)).round().astype(int)]
        left -= len(rows[kind])
    return rows


def _front_style(designs: Designs, x: str, y: str, marked: np.ndarray, edge: dict[str, Any]) -> dict[str, Any]:
    """Points of the front, as steps where both axes are objectives."""
    colour: Any = theme.SPARE[0]
    if marked.any():
        colour = [theme.SPARE[1] if mark else theme.SPARE[0] for mark in marked]
    style: dict[str, Any] = {"type": "scatter", "marker": {"size": 10, "color": colour, "line": edge}}
    if {x, y} == set(designs.objectives[:2]) and x != y and len(marked) > 1:
        shape = "hv" if designs.less[designs.objectives.index(x)] else "vh"
        style |= {"mode": "lines+markers", "line": {"color": theme.SPARE[0], "width": 1.5, "shape": shape}}
    return style


def _intervals(
    designs: Designs, rows: np.ndarray, names: tuple[str, str], places: Mapping[str, np.ndarray],
    scales: Mapping[str, tuple[float, str]],
) -> list[dict[str, Any]]:  # fmt: skip
    """90 % intervals of the front, of the columns that have one."""
    if len(rows) > ALL_WHISKERS:
        rows = rows[np.linspace(0, len(rows) - 1, SOME_WHISKERS).round().astype(int)]
    bars = {}
    for name, side in zip(names, ("error_x", "error_y"), strict=True):
        text, unit = name.partition(" [")[0], name.partition(" [")[1:]
        ends = ["".join((f"{text} {word}", *unit)) for word in ("low", "high")]
        if all(end in designs.table.columns for end in ends):
            low, high = (designs.table[end].to_numpy(float)[rows] / scales[name][0] for end in ends)
            bars[side] = whiskers(places[name][rows], low, high)
    x, y = names
    return [interval_trace(places[x][rows], places[y][rows], bars)] if bars and len(rows) else []


def _ring(
    designs: Designs, now: Mapping[str, Any] | None, names: tuple[str, str],
    scales: Mapping[str, tuple[float, str]], dark: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    """A ring around the present design, where it is known where it lies."""
    if not now:
        return []
    found = dict(now)
    if any(name not in found for name in names):
        table = designs.table
        same = np.ones(len(table), dtype=bool)
        for name in designs.variables:
            if name in found:
                same &= (table[name] == found[name]).to_numpy(bool)
        if not same.any() or not set(designs.variables) & set(found):
            return []
        found = {**table.iloc[int(np.argmax(same))].to_dict(), **found}
    x, y = ([float(found[name]) / scales[name][0]] for name in names)
    style = {"symbol": "circle-open", "size": 20, "line": {"width": 3}, "color": theme.ink(dark)}
    return [{"type": "scatter", "mode": "markers", "x": x, "y": y, "name": "this design", "marker": style,
             "hoverinfo": "skip", "cliponaxis": False}]  # fmt: skip


def _unit(column: str) -> str:
    return column.partition(" [")[2].rstrip("]")


def _words(column: str) -> str:
    return theme.sentence(theme.words(column.partition(" [")[0]))


def _small(words: str) -> str:
    """Words within a sentence; those in capitals stay."""
    return words if words[:2].isupper() else words[:1].lower() + words[1:]


def _title(column: str, unit: str) -> str:
    """Title of an axis; the unit of a rate says what is counted."""
    return theme.with_unit(_words(column), theme.counted(column.partition(" [")[0], unit))


def _hover(designs: Designs, rows: np.ndarray) -> dict[str, Any]:
    """The whole design of each row: objectives, the other quantities, the fields, and why it is infeasible.

    Words and units stand in the template once; a point holds only its numbers and names, as text.
    """
    part = designs.table.iloc[rows]
    columns: list[list[str]] = []
    groups: dict[str, list[str]] = {"objective": [], "quantity": [], "field": []}
    for name in part.columns:
        text = name.partition(" [")[0]
        if name in HIDDEN or text.endswith((" low", " high")):
            continue
        place = f"%{{customdata[{len(columns)}]}}"
        values = part[name]
        if "[" in name or values.dtype.kind == "f":
            written, unit = _amounts(text, _unit(name), values.to_numpy(float))
            kind = "objective" if name in designs.objectives else "quantity"
            amount = f"${place}" if unit == "USD" else f"{place} {unit}".strip()
            groups[kind].append(f"{escape(_words(name))}: {amount}")
            columns.append(written)
        else:
            groups["field"].append(f"{escape(text)}={place}")
            known = {value: escape(str(value).lower()) for value in values.unique().tolist()}
            columns.append([known[value] for value in values.tolist()])
    lines = [f"<b>{line}</b>" for line in groups["objective"]] + groups["quantity"]
    lines += [", ".join(groups["field"][i : i + 5]) for i in range(0, len(groups["field"]), 5)]
    if (part["reasons"] != "").any():
        lines.append(f"<i>%{{customdata[{len(columns)}]}}</i>")
        columns.append([_wrapped(why) for why in part["reasons"].tolist()])
    data = np.array(columns, dtype=str).T if columns else np.zeros((len(part), 0), dtype=str)
    return {"customdata": data, "hovertemplate": "<br>".join(lines) + "<extra></extra>"}


@lru_cache(maxsize=2048)
def _wrapped(text: str) -> str:
    return "<br>".join(textwrap.wrap(escape(text), 70))


def _amounts(name: str, unit: str, values: np.ndarray) -> tuple[list[str], str]:
    """Numbers in one unit that suits them, and that unit."""
    scale, shown = theme.axis_scale(values, unit)
    form = ",.2f" if shown == "USD" else ",.4g"
    written = [format(v, ",.0f" if abs(v) >= 1e4 else form) for v in (values / scale).tolist()]
    return written, theme.counted(name, shown)


# -- designs as lines ------------------------------------------------------------------------------------------


def parallel(
    designs: Designs,
    *,
    selected: Sequence[bool] | np.ndarray | None = None,
    share: float = 0.1,
    title: str = "",
    dark: bool = False,
) -> go.Figure:
    """Feasible designs as lines over what varies and the objectives, coloured by the first objective.

    At most eight columns are shown, the objectives last; what has one value in all feasible designs is left out.

    Args:
        selected: a truth value a row; selected designs are drawn over the others, which are faint then.
        share: of the feasible rows that are drawn, the best by the first objective (at least 30).

    Raises:
        InfeasibleDesign: nothing is feasible.
    """
    table = designs.table
    good = np.flatnonzero(table["feasible"].to_numpy(bool))
    if not len(good):
        raise InfeasibleDesign("no design of the table is feasible: there is nothing to draw")
    lead = designs.objectives[0]
    sign = 1.0 if designs.less[0] else -1.0
    good = good[np.argsort(sign * table[lead].to_numpy(float)[good], kind="stable")]
    rows = good[: min(max(30, int(len(good) * share)), LINES)]
    marked = np.zeros(len(table), dtype=bool) if selected is None else np.asarray(selected, dtype=bool)
    if selected is not None:
        chosen = good[marked[good]][:LINES]
        rows = np.concatenate([rows[~marked[rows]], chosen])
    frame = table.iloc[rows]
    shown = _shown(designs, table.iloc[good])
    width = max(HEADERS // max(len(shown), 1), 5)
    dimensions = [dimension(_header(n), n.partition(" [")[0], frame[n], _unit(n), width, smooth=True) for n in shown]
    scale, unit = theme.axis_scale(frame[lead].to_numpy(float), _unit(lead))
    if marked[rows].any():
        line: dict[str, Any] = {"color": marked[rows].astype(float), "colorscale": _two(dark), "cmin": 0, "cmax": 1}
        words = f"{int(marked[good].sum()):,} selected designs"
    else:
        line = coloured(frame[lead].to_numpy(float) / scale, _title(lead, unit), dark, less=designs.less[0])
        words = f"The best {len(rows):,} designs by {_small(_words(lead))}"
    meta = {"dimensions": [{"column": n, **dim.pop("meta")} for n, dim in zip(shown, dimensions, strict=True)]}
    return lines_figure(dimensions, line, dark, meta=meta, **theme.heading(title, words, designs.about))


def _shown(designs: Designs, feasible: pd.DataFrame) -> list[str]:
    """The columns of the lines. They do not depend on what is selected."""
    names = [name for name in designs.variables if feasible[name].nunique(dropna=False) > 1]
    more = len(names) + len(designs.objectives) - DIMENSIONS
    order = [*(name for name in LEAST if name in names), *(name for name in reversed(names) if name not in LEAST)]
    dropped = order[: max(more, 0)]
    return [*(name for name in names if name not in dropped), *designs.objectives]


def _header(column: str) -> str:
    """A header that is short: fields of the strategy by their name."""
    from dse.spec.strategy import Strategy

    return column.replace("_", " ") if column in Strategy.model_fields else _words(column)


def _two(dark: bool) -> list[list[Any]]:
    faint = "#3A404C" if dark else "#DDE1E8"
    return [[0.0, faint], [0.5, faint], [0.5, theme.SPARE[1]], [1.0, theme.SPARE[1]]]
