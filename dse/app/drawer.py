"""What lies below the views: the table of designs, explanations, comparison, search, saving, and the same as code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import ipywidgets as widgets

from dse.app import markup
from dse.app.clicks import clicked
from dse.app.keep import Keep
from dse.app.later import Later
from dse.app.operators import Operators
from dse.app.searching import Searching
from dse.app.sides import Code, Compare, Explain, Table
from dse.app.state import State
from dse.app.widgets import Html

if TYPE_CHECKING:
    from dse.app.workbench import Workbench

REST = 0.08  # seconds after the last change until the open tab follows


class Tab(Protocol):
    """A tab: its title, its widget, and how it follows a state and takes what is done in it."""

    title: str
    widget: Any

    def show(self, state: State) -> None:
        """Follow a state."""

    def act(self, verb: str, what: str, value: Any) -> bool:
        """Carry out what was clicked; False if it is not for this tab."""


class Drawer:
    """The tabs; only the open one follows the state, when the kernel is idle."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._later = Later(bench.mutex)
        self.tabs: dict[str, Tab] = {
            "designs": Table(bench),
            "operators": Operators(bench),
            "explain": Explain(bench),
            "compare": Compare(bench),
            "search": Searching(bench),
            "keep": Keep(bench),
            "code": Code(bench),
        }
        self.now = "designs"
        self._bar = Html(on_do=bench.act, kind="dse-tabs")
        self._body = widgets.VBox()
        self.widget = widgets.VBox([self._bar, self._body])
        self.widget.add_class("dse-drawer")
        self._open()

    def _open(self) -> None:
        self._bar.html = "".join(
            markup.button(f"tab:{name}", tab.title, on=name == self.now, kind="toggle")
            for name, tab in self.tabs.items()
        )
        self._body.children = [self.tabs[self.now].widget]

    def show(self, state: State, *, moving: bool = False) -> None:
        """Follow a state when the kernel is idle; while a slider is dragged, when it rests."""
        rest = REST if moving else 0.0
        self._later.plan([(rest, lambda: self._bench.guarded(lambda: self.tabs[self.now].show(state)))])

    def turn(self, name: str) -> None:
        """Open a tab."""
        self.now = name
        self._open()
        self.tabs[name].show(self._bench.state)

    def act(self, verb: str, what: str, value: Any) -> bool:
        """Carry out what was clicked below the views; False if it is not for here."""
        if verb == "tab":
            self.turn(what)
            return True
        if verb == "explain":
            self.explain(what)
            return True
        return any(tab.act(verb, what, value) for tab in self.tabs.values())

    def explain(self, name: str) -> Any:
        """Open the tree of equations behind a number."""
        tab: Any = self.tabs["explain"]
        found = tab.look_up(self._bench.state, name)
        self.turn("explain")
        return found

    def compare(self) -> Any:
        """Open the comparison of the pinned designs."""
        self.turn("compare")
        tab: Any = self.tabs["compare"]
        return tab.found

    def clicked(self, view: str, message: dict[str, Any], meta: dict[str, Any]) -> None:
        """A click in a figure: a term explains itself, a design is gone to."""
        clicked(self._bench, view, message, meta)
