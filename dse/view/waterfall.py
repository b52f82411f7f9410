"""Waterfalls: how a footprint builds up to the capacity, and how one design becomes another, term by term."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.units import engineering
from dse.view import theme
from dse.view.formulas import formula

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from dse.explore.result import Result

HOVER = "%{customdata}<extra></extra>"
NARROW = "\N{NO-BREAK SPACE}"
WIDTH, REASONS = 64, 3  # characters of a reason's line in a figure 500 pixels wide; lines at most


def heading(result: Result, title: str) -> dict[str, str]:
    """Title and subtitle of a figure of one design: which design, and where it is infeasible, why.

    Raises:
        SpecError: the result has axes.
    """
    if result.axes:
        raise SpecError([Fault("result", "", "has axes; this figure is of one design, chosen with .at(...)")])
    design = theme.design_text(result.specs, result.number("devices"))
    lines = [line for reason in result.reasons() for line in textwrap.wrap(reason["why"], WIDTH)]
    if len(lines) > 1:
        lines[0] += " …"  # cards show the first alone
    if len(lines) > REASONS:
        lines = [*lines[: REASONS - 1], f"{lines[REASONS - 1]} …"]
    return {
        "title": f"{title} (infeasible)" if lines else title,
        "subtitle": "<br>".join([design, *([f"Infeasible: {lines[0]}", *lines[1:]] if lines else [])]),
    }


def room(words: dict[str, str]) -> dict[str, int]:
    """Margin for a title and as many lines as its subtitle has."""
    return {"t": 80 + 18 * words["subtitle"].count("<br>")}


def memory_waterfall(result: Result, *, title: str = "", dark: bool = False) -> go.Figure:
    """The tensor classes of the fullest device, one after the other up to its footprint, then what each tier holds.

    Lines mark the capacities: through all rows for the local memory, at its own row for every other tier that holds
    something. A capacity beyond the axis is written at the end of the row.
    """

    words = heading(result, title or "What fills the memory of the fullest device")
    classes = {name: size for name, size in result.terms("memory").items() if size}
    tiers = {name: held for name, held in result.terms("tier").items() if held or name == "local"}
    capacity = {name: float(size) for name, size in result.cells[0].evaluation["tier_capacity"].items()}
    footprint = sum(classes.values())
    factor, shown = theme.axis_scale([footprint, capacity["local"]], "B")
    rows = Rows(dark)
    base = 0.0
    for position, (name, size) in enumerate(classes.items()):
        hover = f"<b>{theme.term_title(name)}</b><br>{engineering(size, 'B')}, {size / footprint:.1%} of the footprint"
        hover += _how(formula(result, "memory", name))
        rows.bar(theme.term_title(name), base, size, factor, "B", theme.fill(name, position), hover)
        base += size
    plain = {"color": theme.ink(dark), "opacity": 0.65}
    rows.bar("footprint", 0.0, footprint, factor, "B", plain, f"<b>footprint</b><br>{engineering(footprint, 'B')}")
    top = max(footprint, capacity["local"])
    for name, held in tiers.items():
        over = held > capacity[name]
        hover = f"<b>{_tier(name)}</b><br>holds {engineering(held, 'B')} of {engineering(capacity[name], 'B')}"
        colour = theme.BAD if over else theme.GOOD
        note = f" of {theme.short(capacity[name], 'B')}" + (": overflows" if over else "")
        rows.bar(_tier(name), 0.0, held, factor, "B", {"color": colour}, hover, note)
        if name != "local" and capacity[name] <= top:
            row, place = len(rows.traces) - 1, capacity[name] / factor
            line = {"color": theme.ink(dark), "width": 2, "dash": "dash"}
            ends = {"x0": place, "x1": place, "y0": row - 0.45, "y1": row + 0.45}
            rows.shapes.append({"type": "line", "line": line, **ends})
    over = any(held > capacity[name] for name, held in tiers.items())
    reach = (2.2 if over else 1.5) * top  # room for what is written
    text = f"local memory, {theme.short(capacity['local'], 'B')}"
    right = capacity["local"] > 0.45 * reach
    side = {"xanchor": "right", "xshift": -4} if right else {"xanchor": "left", "xshift": 4}
    ends = {"y": -0.5, "yref": "y", "yanchor": "bottom", **side}
    marks = theme.line_at(capacity["local"] / factor, dark, text=text, **ends)
    rows.shapes += marks["shapes"]
    rows.notes += marks["annotations"]
    return rows.figure(words, theme.with_unit("Memory of one device", shown), reach / factor, above=0.8)


def _how(line: str) -> str:
    return f"<br>{line}" if line else ""


def _tier(name: str) -> str:
    return "held in local memory" if name == "local" else f"held in {name.upper() if len(name) <= 4 else name}"


class Rows:
    """Horizontal bars that are drawn one by one, a row each, from the top down."""

    def __init__(self, dark: bool) -> None:
        self.dark = dark
        self.traces: list[dict[str, Any]] = []
        self.notes: list[dict[str, Any]] = []
        self.shapes: list[dict[str, Any]] = []

    def bar(
        self, name: str, base: float, size: float, factor: float, unit: str, marker: dict[str, Any], hover: str,
        note: str = "", *, signed: bool = False,
    ) -> None:  # fmt: skip
        """One row: a bar from ``base`` to ``base + size`` with its size written at its right end."""
        row = {"x": [size / factor], "base": [base / factor], "y": [name], "orientation": "h", "name": name}
        words = {"customdata": [hover], "hovertemplate": HOVER}
        self.traces.append({"type": "bar", **row, "marker": marker, **words, "width": 0.75})
        sign = ("+" if size > 0 else "−") if signed else ""
        text = f"{NARROW}<b>{sign}{theme.short(abs(size) if signed else size, unit)}</b>{note}"
        end = max(base, base + size) / factor
        place = {"x": end, "y": name, "xanchor": "left", "showarrow": False, "bgcolor": theme.paper(self.dark)}
        self.notes.append({"text": text, **place})

    def figure(self, words: dict[str, str], title: str, top: float, *, above: float = 0.0) -> go.Figure:
        """The figure, as high as its rows need, with room for ``above`` rows over the first."""
        names = [trace["y"][0] for trace in self.traces]
        ends = [len(names) - 0.5, -0.5 - above]
        rows = {"range": ends, "type": "category", "categoryarray": names, "showgrid": False, "dtick": 1}
        return theme.drawn(
            self.traces, dark=self.dark, **words, margin=room(words), showlegend=False, annotations=self.notes,
            shapes=self.shapes, xaxis={"title": {"text": title}, "range": [0, top]}, yaxis=rows, barmode="overlay",
            height=min(720, 210 + 36 * len(names)),
        )  # fmt: skip


def difference(
    a: Result,
    b: Result,
    *,
    table: str = "time",
    names: tuple[str, str] = ("A", "B"),
    title: str = "",
    dark: bool = False,
) -> go.Figure:
    """From design A to design B, term by term: what each term saves (green) or adds (red), adding up exactly.

    Args:
        table: ``time``, ``memory``, ``energy``, ``cost``, ``tco`` or another breakdown of one unit.
        names: what to call the two designs.

    Raises:
        SpecError: a result has axes, or the table is unknown.
    """
    words = heading(a, title or f"{theme.sentence(theme.title_of(table))}: from {names[0]} to {names[1]}")
    other = heading(b, words["title"].removesuffix(" (infeasible)"))
    lines = [f"{name}: {each['subtitle']}" for name, each in zip(names, (words, other), strict=True)]
    words = {"title": other["title"] if not b.is_feasible else words["title"], "subtitle": "<br>".join(lines)}
    a.breakdown(table)  # refuses an unknown table, and says which there are
    left, right = a.terms(table), b.terms(table)
    unit = a.unit(f"{table}.{next(iter(left))}")
    before, after = sum(left.values()), sum(right.values())
    factor, shown = theme.axis_scale([before, after], unit)
    rows = Rows(dark)
    plain = {"color": theme.ink(dark), "opacity": 0.65}
    rows.bar(names[0], 0.0, before, factor, unit, plain, f"<b>{names[0]}</b><br>{engineering(before, unit)}")
    base = top = before
    for term in dict.fromkeys([*left, *right]):
        was, is_ = left.get(term, 0.0), right.get(term, 0.0)
        if was == is_:
            continue
        marker = {"color": theme.GOOD if is_ < was else theme.BAD}
        hover = f"<b>{theme.term_title(term)}</b><br>{engineering(was, unit)} to {engineering(is_, unit)}"
        rows.bar(theme.term_title(term), base, is_ - was, factor, unit, marker, hover, signed=True)
        base += is_ - was
        top = max(top, base)
    hover = f"<b>{names[1]}</b><br>{engineering(after, unit)}, {after / before - 1:+.1%} on {names[0]}"
    change = f" ({after / before - 1:+.1%})" if np.isfinite(after / before) else ""
    rows.bar(names[1], 0.0, after, factor, unit, plain, hover, change)
    return rows.figure(words, theme.axis_title(table, shown), 1.2 * top / factor)
