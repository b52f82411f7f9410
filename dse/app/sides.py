"""Tabs below the views that only show: the table of designs, explanations, the comparison, and the design as code."""

from __future__ import annotations

import shlex
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import numpy as np

from dse.app import markup
from dse.app.clicks import take_row
from dse.app.design import Design
from dse.app.state import State
from dse.app.widgets import Html, Plot
from dse.errors import DseError
from dse.explore.tables import TABLES
from dse.space.axes import locate
from dse.units import engineering
from dse.view import theme

if TYPE_CHECKING:
    import pandas as pd

    from dse.app.compare import Difference
    from dse.app.workbench import Workbench

CLOSE = 0.3  # of the step time: smaller differences are shown without the 0 of the axis
ROWS = 60  # rows of the table on the page; the whole table is ``selected``
FIELDS = ("tp", "pp", "dp", "cp", "ep", "micro_batch", "virtual_stages", "recompute", "zero_stage", "sequence_parallel")


class Table:
    """The designs: those that are brushed, best first; a click on a row goes to its design."""

    title = "Designs"

    def __init__(self, bench: Workbench) -> None:
        self._bench, self._by = bench, ""
        self.widget = Html(on_do=bench.act)

    def act(self, verb: str, what: str, _value: Any) -> bool:
        """``sort:COLUMN`` and ``row:NUMBER``."""
        if verb == "sort":
            self._by = what if what != self._by else f"-{what}" if not what.startswith("-") else what
            self.show(self._bench.state)
        elif verb == "row":
            take_row(self._bench, int(what))
        return verb in ("sort", "row")

    def show(self, state: State) -> None:
        """The table of the designs that are selected."""
        scene = self._bench.scene
        designs, mask = scene.designs, scene.selected
        frame = designs.table
        rows = frame if mask is None else frame[mask]
        counts = designs.counts
        text = f"{counts['feasible']:,} of {counts['designs']:,} designs are feasible"
        if mask is not None:
            text += f"; {int(mask.sum()):,} of {len(frame):,} rows are selected by " + "; ".join(
                f"{theme.words(column.partition(' [')[0])} {_range(picked, column)}"
                for column, picked in state.view.selected
            )
        clear = markup.button("clear", "Clear the selection", off=not state.view.selected)
        columns = self._columns(frame, designs)
        rows = self._sorted(rows, designs)
        shown = rows.head(ROWS)
        texts = [[_cell(row[name], name) for name in columns] for row in shown.to_dict("records")]
        now = _same(shown, scene.now) if scene.searched is None else [False] * len(shown)
        marks = [
            "now" if same else "" if row["feasible"] else "bad"
            for same, row in zip(now, shown.to_dict("records"), strict=True)
        ]
        head = [_head(name) for name in columns]
        table = markup.table(
            head, texts, do=[f"row:{index}" for index in shown.index], marks=marks,
            sort=[f"sort:{name}" for name in columns], label="designs",
        )  # fmt: skip
        more = f"<p class='dse-note'>{len(shown):,} of {len(rows):,} rows; a click on a row goes to its design.</p>"
        self.widget.html = f"<div class='dse-line'><span>{escape(text)}.</span>{clear}</div>{table}{more}"

    def _columns(self, frame: pd.DataFrame, designs: Any) -> list[str]:
        amounts = [c for c in frame.columns if " [" in c or c == "mfu"]
        amounts = [c for c in amounts if not c.partition(" [")[0].endswith((" low", " high"))]
        lead = [c for c in designs.objectives if c in frame.columns]
        fields = [c for c in designs.variables if c not in amounts] or [c for c in FIELDS if c in frame.columns]
        return [*lead, *(c for c in amounts if c not in lead), *fields, "reasons"]

    def _sorted(self, rows: pd.DataFrame, designs: Any) -> pd.DataFrame:
        name = self._by.removeprefix("-")
        if name in rows.columns:
            return rows.sort_values(name, ascending=not self._by.startswith("-"), kind="stable")
        lead, less = designs.objectives[0], designs.less[0]
        return rows.sort_values(["feasible", lead], ascending=[False, less], kind="stable")


def _range(picked: tuple[Any, ...], column: str) -> str:
    if isinstance(picked[0], str | bool):
        return "in " + ", ".join(map(str, picked))
    unit = column.partition(" [")[2].rstrip("]")
    return " to ".join(engineering(end, unit, 3) if unit else f"{end:.4g}" for end in picked)


def _head(column: str) -> str:
    """A short header: degrees by their letters, as everybody calls them."""
    name = column.partition(" [")[0]
    short = name in ("tp", "pp", "dp", "cp", "ep")
    return name if short else theme.sentence(theme.words(name))


def _cell(value: Any, column: str) -> str:
    unit = column.partition(" [")[2].rstrip("]")
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, str) or value is None:
        return str(value or "")
    if value != value:
        return ""
    if column == "mfu":
        return f"{value:.1%}"
    return (
        theme.compact(float(value), "" if unit == "1/s" else unit) + ("/s" if unit == "1/s" else "")
        if unit
        else f"{value:g}"
    )


def _same(rows: pd.DataFrame, now: dict[str, Any]) -> list[bool]:
    """Which rows are the present design."""
    names = [name for name in rows.columns if name in now]
    return [all(row[name] == now[name] for name in names) for row in rows.to_dict("records")]


class Explain:
    """The tree of equations behind a number."""

    title = "Explain"

    def __init__(self, bench: Workbench) -> None:
        self._name = "step_time"
        self.widget = Html(on_do=bench.act, kind="dse-explained")

    def act(self, _verb: str, _what: str, _value: Any) -> bool:
        """Nothing is done here."""
        return False

    def look_up(self, state: State, name: str) -> Any:
        """Choose the number to explain.

        Raises:
            SpecError: there is no such number.
        """
        found = state.result.explain(name)
        self._name = name
        return found

    def show(self, state: State) -> None:
        """The tree with the numbers of this state."""
        try:
            tree = state.result.explain(self._name)
        except DseError:  # another timing model has other terms
            self._name = "step_time"
            tree = state.result.explain(self._name)
        words = escape(theme.sentence(theme.title_of(self._name)))
        self.widget.html = f"<h4>{words}{escape(_as_term(state, self._name))}</h4>{tree.to_html()}"


def _as_term(state: State, name: str) -> str:
    """Of a term of a breakdown, which the tree below has among others: its value and its share."""
    table, _, term = name.rpartition(".")
    for candidate in (table,) if table else TABLES:
        terms = state.result.terms(candidate)
        if term in terms:
            value, unit = terms[term], state.result.unit(f"{candidate}.{term}")
            share = value / (sum(terms.values()) or 1.0)
            return f" = {engineering(value, unit)}, {share:.1%} of the {theme.title_of(candidate)}"
    return ""


class Compare:
    """Two pinned designs: what differs in the inputs and outputs, the difference by term, and which is faster."""

    title = "Compare A and B"

    def __init__(self, bench: Workbench) -> None:
        self.found: Difference | None = None
        self._words = Html(on_do=bench.act)
        self._plot = Plot()
        self._figure = widgets.VBox([self._plot])
        self.widget = widgets.VBox([self._words, self._figure])

    def act(self, _verb: str, _what: str, _value: Any) -> bool:
        """Nothing is done here."""
        return False

    def show(self, state: State) -> None:
        """The comparison, or how to make one."""
        from dse.app.compare import pinned

        pins = dict(state.pins)
        self._figure.layout.display = "" if pins else "none"
        if not pins:
            self.found = None
            self._words.html = "<p>Pin a design as A, change something, and pin B: the difference stands here.</p>"
            return
        self.found = pinned(state)
        a, b = (pins.get(name, state.design) for name in ("A", "B"))
        self._words.html = _compared(self.found, pins)
        self._plot.show(_difference(a, b, dark=state.view.dark))


def _difference(a: Design, b: Design, *, dark: bool) -> Any:
    from dse.view.waterfall import difference

    figure = difference(a.result, b.result, dark=dark)
    title = {"font": {"size": 15}, "subtitle": {"text": ""}}  # the tables beside it say what differs
    figure.update_layout(height=420, font={"size": 12}, margin={"t": 40}, title=title)
    path = np.cumsum([sum(a.result.terms("time").values()), *_steps(a, b)])
    span = float(np.ptp(path))
    if 0 < span < CLOSE * path[0]:  # small changes of a large number: look closer, and say so
        scale = path[0] / float(figure.data[0].x[0])
        low, high = (float(path.min()) - 0.6 * span) / scale, (float(path.max()) + 0.6 * span) / scale
        title = f"{figure.layout.xaxis.title.text}, not from 0"
        figure.update_xaxes(range=[low, high], title={"text": title})
    return figure


def _steps(a: Design, b: Design) -> list[float]:
    """Differences of the terms in the order of the waterfall."""
    left, right = a.result.terms("time"), b.result.terms("time")
    return [right.get(term, 0.0) - left.get(term, 0.0) for term in dict.fromkeys([*left, *right])]


def _compared(found: Difference, pins: dict[str, Design]) -> str:
    parts = [
        markup.button(f"take:{name}", f"Go to {name}") + markup.button(f"unpin:{name}", f"Unpin {name}")
        for name in pins
    ]
    missing = [name for name in ("A", "B") if name not in pins]
    notes = [f"{name} is the present design" for name in missing]
    if found.faster is not None:
        notes.insert(0, f"P(A is faster than B) = {found.faster:.0%}")
    notes += [note[:1].upper() + note[1:] if note[1:2] == " " else note for note in found.notes]
    line = f"<div class='dse-line'><b>{escape('; '.join(notes))}.</b><span>{''.join(parts)}</span></div>"
    inputs = [
        [row["input"], *(_amount(row[pin], row["unit"]) for pin in ("A", "B"))]
        for row in found.inputs.to_dict("records")
    ]
    outputs = [
        [theme.sentence(theme.title_of(row["quantity"])), *(_amount(row[pin], row["unit"]) for pin in ("A", "B")),
         f"{row['B / A'] - 1:+.1%}" if row["B / A"] == row["B / A"] else ""]
        for row in found.outputs.to_dict("records")
    ]  # fmt: skip
    tables = markup.table(["Input", "A", "B"], inputs, label="changed inputs")
    tables += markup.table(["Output", "A", "B", "B against A"], outputs, label="changed outputs")
    return f"{line}<div class='dse-pair'>{tables}</div>"


def _amount(value: Any, unit: str) -> str:
    if isinstance(value, bool | np.bool_ | str) or value is None:
        return str(value).lower() if isinstance(value, bool | np.bool_) else str(value or "—")
    return engineering(float(value), unit) if unit not in ("", "1") else f"{float(value):.5g}"


class Code:
    """The present design as a line of Python and as a command."""

    title = "As code"

    def __init__(self, bench: Workbench) -> None:
        self.widget = Html(on_do=bench.act)

    def act(self, _verb: str, _what: str, _value: Any) -> bool:
        """Nothing is done here."""
        return False

    def show(self, state: State) -> None:
        """Both, ready to copy."""
        self.widget.html = (
            "<p>The same in Python:</p><pre data-code='python'>" + escape(python_of(state.design)) + "</pre>"
            "<p>and in a shell:</p><pre data-code='shell'>" + escape(command_of(state.design)) + "</pre>"
        )


def _strategy_text(design: Design) -> str:
    plain = {k: v for k, v in design.strategy.to_plain().items() if v is not None}
    usual = type(design.strategy).model_fields
    told = {k: v for k, v in plain.items() if k == "global_batch" or v != usual[k].default}
    return ",".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in told.items()
    )


def _part(part: Any) -> str:
    return part if isinstance(part, str) else f"{part.id}.yaml"


def python_of(design: Design) -> str:
    """The call that prices the design."""
    arguments = [repr(_part(design.model)), repr(_part(design.cluster)), repr(_strategy_text(design))]
    axes = [f"    dse.axis({path!r}, [{value!r}])," for path, value in design.overrides]
    if not axes:
        return f"import dse\n\ndse.estimate({', '.join(arguments)}, devices={design.devices})"
    lines = [f"    {', '.join(arguments)},", *axes, f"    devices={design.devices},"]
    return "\n".join(["import dse\n", "dse.sweep(", *lines, ")"])


def _unit(design: Design, path: str) -> str:
    unit = locate(path, design.specs).unit
    return "" if unit == "1" else unit


def command_of(design: Design) -> str:
    """The command that prices the design."""
    words = [
        "dse",
        "sweep" if design.overrides else "estimate",
        "--model",
        _part(design.model),
        "--cluster",
        _part(design.cluster),
    ]
    words += ["--devices", str(design.devices), "--strategy", _strategy_text(design)]
    for path, value in design.overrides:
        words += ["--axis", f"{path}={value!r} {_unit(design, path)}".rstrip()]
    return " ".join(shlex.quote(word) for word in words)
