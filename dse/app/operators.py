"""The tab of the model's operators: what each does, how fast, its share of the time. A box on the roofline selects."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from dse.app import markup
from dse.app.state import State
from dse.app.widgets import Html
from dse.units import engineering
from dse.view import theme

if TYPE_CHECKING:
    import pandas as pd

    from dse.app.workbench import Workbench
    from dse.explore.result import Result

INTENSITY, RATE = "intensity [FLOP/B]", "rate [FLOP/s]"  # the axes of the roofline


def table(result: Result) -> pd.DataFrame:
    """Operators of a micro-batch on a device: work, traffic, time, count, intensity, rate and share of the time."""
    from dse.view.reading import operators

    frame = operators(result)
    frame[INTENSITY] = frame["work [FLOP]"] / frame["traffic [B]"].where(frame["traffic [B]"] > 0)
    frame[RATE] = frame["work [FLOP]"] / frame["time [s]"].where(frame["time [s]"] > 0)
    spent = frame["time [s]"] * frame["count"]
    frame["share"] = spent / (spent.sum() or 1.0)
    return frame.sort_values("share", ascending=False, kind="stable")


def selected(state: State) -> pd.DataFrame:
    """The operators within the box on the roofline; all of them without one."""
    frame = table(state.result)
    for column, picked in state.view.selected:
        if column in (INTENSITY, RATE):
            frame = frame[frame[column].between(*picked)]
    return frame


class Operators:
    """The operators, heaviest first."""

    title = "Operators"

    def __init__(self, bench: Workbench) -> None:
        self.widget = Html(on_do=bench.act)

    def act(self, _verb: str, _what: str, _value: Any) -> bool:
        """Nothing is done here."""
        return False

    def show(self, state: State) -> None:
        """The table of this state's operators."""
        frame = selected(state)
        clear = markup.button("clear", "Clear the selection", off=not state.view.selected)
        text = f"{len(frame)} operators of a micro-batch take {frame['share'].sum():.1%} of the time of all"
        rows = [
            [
                str(row["operator"]), theme.title_of(row["phase"]), f"{row['count']:g}",
                engineering(row["time [s]"], "s", 3), f"{row['share']:.1%}",
                engineering(row["work [FLOP]"], "FLOP", 3), engineering(row["traffic [B]"], "B", 3),
                _maybe(row[INTENSITY], "FLOP/B"), _maybe(row[RATE], "FLOP/s"),
            ]
            for row in frame.to_dict("records")
        ]  # fmt: skip
        head = ["Operator", "Pass", "Count", "Time", "Share", "Work", "Traffic", "Intensity", "Rate"]
        shown = markup.table(head, rows, label="operators")
        self.widget.html = f"<div class='dse-line'><span>{escape(text)}.</span>{clear}</div>{shown}"


def _maybe(value: float, unit: str) -> str:
    if value != value:
        return ""
    return f"{value:.4g}" if unit == "FLOP/B" else engineering(value, unit, 3)
