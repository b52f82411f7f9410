"""Figures of searches: the front with what it beats and what cannot be built, and designs as lines over all axes."""

from __future__ import annotations

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
FAINT = "#B2B2B2"


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

    Args:
        found: a search's result.
        x, y: columns of the table by name without unit; by default the two first objectives (one objective: the first
            variable that is a number, and the objective).
        colour: column that colours the front; by default none.

    Raises:
        SpecError: no such column, or one that holds no numbers.
    """
    import plotly.graph_objects as go
    from pandas.api.types import is_numeric_dtype

    frame = found.table
    names = {column.partition(" [")[0]: column for column in frame.columns}
    units = {name: column.partition(" [")[2].rstrip("]") for name, column in names.items()}
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
    figure = theme.blank(title or f"{_words(y)} against {_words(x)}".capitalize(), dark)

    def marks(rows: pd.DataFrame, name: str, marker: dict[str, Any], of: int | None = None, **more: Any) -> None:
        if not len(rows):
            return
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

    cross = {"symbol": "x-thin", "size": 7, "line": {"width": 1.2, "color": FAINT}}
    marks(missed, "infeasible", cross, of=int((~frame["feasible"]).sum()))
    marks(good[~good["on_front"]], "dominated", {"size": 6, "color": FAINT, "opacity": 0.55})
    best = found.front.sort_values(names[x])
    marker: dict[str, Any] = {"size": 11, "color": theme.SPARE[0], "line": {"width": 1, "color": theme.paper(dark)}}
    if colour is not None:
        shades = _numbers(best[names[colour]])
        scale, unit = theme.axis_scale(shades, units[colour])
        bar = {"title": {"text": theme.axis_title(colour, unit), "side": "right"}}
        marker |= {"color": shades / scale, "colorscale": "Cividis", "showscale": True, "colorbar": bar}
    line = {"color": theme.SPARE[0], "width": 1.5, "shape": "hv" if len(wanted) > 1 else "linear"}
    whiskers = _whiskers(found, best, {x: "error_x", y: "error_y"}, scales)
    kind = "on the front" if len(wanted) > 1 else "best"
    marks(best, kind, marker, mode="lines+markers" if len(best) > 1 else "markers", line=line, **whiskers)
    for name, update in ((x, figure.update_xaxes), (y, figure.update_yaxes)):
        values = everything[name] / scales[name][0]
        positive = values[np.isfinite(values) & (values > 0)]
        log = len(positive) == len(values) and len(positive) > 1 and positive.max() > 8 * positive.min()
        extra = {"type": "log", **theme.log_ticks(positive)} if log else {}
        update(title_text=theme.with_unit(_words(name).capitalize(), scales[name][1]), **extra)
    return figure.update_layout(legend={"orientation": "h", "y": -0.18})


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
        if o is None or o.risk != "point" or o.name not in TIME_POWER or len(rows) > 150:
            continue
        from dse.explore.objectives import log_deviation

        evaluations = [found.design(int(row)).cells[0].evaluation for row in rows.index]
        half = np.array([1.645 * float(log_deviation(e, o.name)) for e in evaluations])
        value = np.array([float(quantity_value(e, o.name)) for e in evaluations]) / scales[name][0]
        up, down = value * (np.exp(half) - 1), value * (1 - np.exp(-half))
        line = {"color": theme.SPARE[0], "thickness": 0.8, "width": 0}
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
        lines = [f"<b>{escape(theme.title_of(n))}: {theme.label(row[names[n]], units[n])}</b>" for n in objectives]
        lines += [f"{escape(n)} = {escape(theme.label(row[names[n]], units[n]))}" for n in measures]
        given = [f"{n}={str(row[names[n]]).lower()}" for n in rest if not isna(row[names[n]])]
        lines += [escape(", ".join(given[i : i + 5])) for i in range(0, len(given), 5)]
        if row["reasons"]:
            lines.append(f"<i>{escape(row['reasons'])}</i>")
        texts.append("<br>".join(lines))
    return texts


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
    header = {column.partition(" [")[0]: column for column in frame.columns}
    good = good.sort_values(header[lead.text], ascending=lead.less, kind="stable")
    good = good.iloc[: max(30, int(len(good) * share))]
    dimensions = []
    for name in [*(v.name for v in found.problem.variables), *(o.text for o in found.problem.objectives)]:
        column = good[header[name]]
        unit = header[name].partition(" [")[2].rstrip("]")
        dimensions.append(_dimension(name, column, unit))
    colour = good[header[lead.text]].to_numpy(float)
    scale, unit = theme.axis_scale(colour, lead.unit)
    bar = {"title": {"text": theme.axis_title(lead.text, unit), "side": "right"}}
    line = {"color": colour / scale, "colorscale": "Cividis", "showscale": True, "colorbar": bar, "reversescale": False}
    figure = theme.blank(title or f"The best {len(good):,} designs by {theme.title_of(lead.text)}", dark)
    figure.add_trace(go.Parcoords(dimensions=dimensions, line=line, rangefont={"color": "rgba(0,0,0,0)", "size": 1}))
    return figure.update_layout(margin={"l": 90, "r": 40, "t": 110, "b": 40})


def _words(name: str) -> str:
    """A path's last two parts, which tell one bandwidth from another; objectives as people call them."""
    parts = name.split(".")
    path = len(parts) > 1 and name.replace(".", "").replace("_", "").isalnum()
    return " ".join(parts[-2:]).replace("_", " ") if path else theme.title_of(name)


def _dimension(name: str, column: pd.Series, unit: str) -> dict[str, Any]:
    from pandas.api.types import is_numeric_dtype

    if not is_numeric_dtype(column):
        kinds = list(dict.fromkeys(column.astype(str)))
        codes = [kinds.index(str(value)) for value in column]
        return {"label": _words(name), "values": codes, "tickvals": list(range(len(kinds))), "ticktext": kinds}
    values = column.to_numpy(float)
    scale, shown = theme.axis_scale(values, unit)
    values = values / scale
    title = theme.with_unit(_words(name), shown).replace(" ", "<br>", 1)
    if values.min() > 0 and values.max() > 8 * values.min():
        ticks = theme.log_ticks(values)
        inside = [t for t in ticks["tickvals"] if values.min() * 0.99 <= t <= values.max() * 1.01]
        marks = {"tickvals": np.log10(inside).tolist(), "ticktext": [f"{t:g}" for t in inside]}
        return {"label": title, "values": np.log10(values), **marks}
    return {"label": title, "values": values}
