"""``dse.workbench``: the application. It holds a history of states; widgets show the present one and ask for the next.

Everything that can be clicked is a method here, so a notebook, a test and the page do the same things.
"""

from __future__ import annotations

import functools
import gc
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from dse.app import header, markup
from dse.app.actions import Actions, followed
from dse.app.board import Board
from dse.app.controls import controls
from dse.app.drawer import Drawer
from dse.app.keep import write
from dse.app.panel import Panel
from dse.app.presets import best_value, take
from dse.app.saved import open_study, save
from dse.app.state import History, State, start
from dse.app.views import Scene, figure
from dse.app.widgets import FRONT, Html
from dse.errors import DseError
from dse.view import theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dse.app.compare import Difference

LOG = logging.getLogger("dse")


def alone(method: Any) -> Any:
    """A method that no other thread disturbs."""

    @functools.wraps(method)
    def locked(self: Workbench, *args: Any, **kwargs: Any) -> Any:
        with self.mutex:
            return method(self, *args, **kwargs)

    return locked


class Workbench:
    """The workbench in a notebook: ``state`` is what it shows, and every change goes through :meth:`go`.

    Args:
        model, cluster, strategy, devices: as for :func:`dse.estimate`; without a strategy the best is found.
        study: a saved study to open instead.
        dark: the theme; by default the notebook's.
        folder: where studies are saved.
    """

    def __init__(
        self, model: Any = "gpt3-175b", cluster: Any = "dgx-h100", strategy: Any = None, *, devices: int | None = None,
        study: str | Path | None = None, dark: bool | None = None, folder: str | Path = "studies",
    ) -> None:  # fmt: skip
        self.mutex = threading.RLock()  # JupyterLab handles widgets in several threads
        self.folder, self.name = Path(folder), ""
        note = ""
        if study is None:
            state = start(model, cluster, strategy, devices=devices)
        else:
            opened = open_study(study)
            state, self.name, note = opened.state, opened.name, "; ".join(opened.warnings)
            self.folder = _parent(study)
        if dark is not None:
            state = state.look(dark=dark)
        self.history = History(state)
        self._build(asks_theme=dark is None and study is None)
        self.show()
        self.say("warn" if note else "info", note)
        gc.collect()
        gc.freeze()  # what is loaded by now stays: later collections would stop a slider for a tenth of a second

    def _build(self, *, asks_theme: bool) -> None:
        act = self.act
        self._actions = Actions(self)
        self._style = Html(f"<style>{(FRONT / 'workbench.css').read_text(encoding='utf-8')}</style>")
        self._toolbar = Html(on_do=act, kind="dse-toolbar", asks_theme=asks_theme)
        self._headline, self._message, self._rules = (Html(on_do=act) for _ in range(3))
        self.panel = Panel(self.state, act)
        self.board = Board(act, self._event, self.mutex)
        self.drawer = Drawer(self)
        right = widgets.VBox([self.board.chooser, self.board.grid, self.drawer.widget])
        right.add_class("dse-right")
        body = widgets.HBox([self.panel.widget, right])
        body.add_class("dse-body")
        top = [self._style, self._toolbar, self._headline, self._rules, self._message]
        self.widget = widgets.VBox([*top, body])
        self.widget.add_class("dse-app")

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = self.widget._repr_mimebundle_(**kwargs)
        return {**bundle, "text/plain": repr(self)} if isinstance(bundle, dict) else bundle

    def __repr__(self) -> str:
        design = theme.design_text(self.state.design.specs, self.state.design.devices)
        return f"dse.workbench: {design}\n\n{self.state.result!r}"

    def close(self) -> None:
        """Take the workbench off the page and free its widgets."""
        self.searching.stop()
        for widget in [*_within(self.widget)]:
            widget.close()

    # -- the state ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What is shown now."""
        return self.history.present

    @property
    def result(self) -> Any:
        """The design priced, as :func:`dse.estimate` returns it."""
        return self.state.result

    @alone
    def go(self, state: State, *, moving: bool = False) -> None:
        """Show another state; undo comes back to the present one.

        Args:
            moving: more is to come, as from a slider that is dragged: what costs more than milliseconds waits for it.
        """
        if state.view.follow and (state.design, state.locks) != (self.state.design, self.state.locks):
            state = followed(state)
        self.history = self.history.push(state)
        self.show(moving=moving)

    @alone
    def show(self, *, moving: bool = False) -> None:
        """Bring everything on the page up to the present state."""
        state = self.state
        if state.view.dark:
            self.widget.add_class("dse-dark")
        else:
            self.widget.remove_class("dse-dark")
        self.board.show(state, moving=moving)  # first: the page draws the figures while the rest is made
        self._toolbar.html = header.toolbar(state, self.history, name=self.name)
        self._headline.html = header.headline(state)
        self._rules.html = header.rules(state)
        found = controls(state)
        self.board.offer(state, found)
        self.panel.show(state, found)
        self.drawer.show(state, moving=moving)

    @alone
    def say(self, kind: str, text: str) -> None:
        """A line above the views: ``info``, ``warn`` or ``bad``; empty takes it away."""
        self._message.html = markup.message(kind, text)

    # -- what can be done ----------------------------------------------------------------------------------------

    @alone
    def set(self, path: str, value: Any) -> None:
        """Set one field (see :meth:`dse.app.state.State.set`)."""
        self.go(self.state.set(path, value))

    @alone
    def reset(self, path: str | None = None) -> None:
        """Put one field, or all that are not locked, back to the start."""
        self.go(self.state.reset(path))

    @alone
    def lock(self, path: str) -> None:
        """Keep a field as it is."""
        self.go(self.state.lock(path))

    @alone
    def unlock(self, path: str) -> None:
        """Let a field be set again."""
        self.go(self.state.unlock(path))

    @alone
    def undo(self) -> None:
        """Go back to the state before."""
        self.history = self.history.undo()
        self.show()

    @alone
    def redo(self) -> None:
        """Take back an undo."""
        self.history = self.history.redo()
        self.show()

    @alone
    def find_best(self, path: str | None = None) -> None:
        """Find the best strategy, or the best value of one strategy field, by the first objective of the view."""
        field = (path or "").removeprefix("strategy.")
        if path and path.startswith("strategy.") and field != "global_batch":
            self.go(best_value(self.state, field))
        else:
            self.go(self.state.find_best(self.state.view.objectives[0]))

    @alone
    def take_preset(self, key: str) -> None:
        """Take a strategy from the list: ``best:OBJECTIVE`` or ``run:ID``."""
        self.go(take(self.state, key))

    @alone
    def pin(self, name: str) -> None:
        """Keep the present design as ``A`` or ``B``."""
        self.go(self.state.pin(name))

    @alone
    def unpin(self, name: str) -> None:
        """Forget a pinned design."""
        self.go(self.state.unpin(name))

    @alone
    def look(self, **changes: Any) -> None:
        """Change what is on the screen (see :class:`dse.app.look.View`)."""
        self.go(self.state.look(**changes))

    def select(self, ranges: dict[str, Any] | None = None) -> None:
        """Select designs by ranges of columns (``{"tp": (2, 8)}``) or values; nothing clears the selection."""
        self.look(selected=ranges or {})

    @property
    def selection(self) -> dict[str, Any]:
        """What is brushed: ranges or values by column."""
        return dict(self.state.view.selected)

    @property
    def selected(self) -> pd.DataFrame:
        """The selected designs, a row each; all of them where nothing is selected."""
        scene = self.scene
        table = scene.designs.table
        return table if scene.selected is None else table[scene.selected]

    @property
    def scene(self) -> Scene:
        """What the views are drawn from."""
        return Scene(self.state, searched=self.board.searched)

    def figure(self, name: str) -> go.Figure:
        """One of the views as a figure."""
        return figure(self.state, name, searched=self.board.searched)

    @alone
    def show_designs(self, designs: Any) -> None:
        """Let the front, the parallel lines and the table show these designs; None: the strategies of the state."""
        self.board.searched = designs
        state = self.state.look(selected={})
        if designs is not None and "front" not in state.view.shown:
            state = state.look(shown=[*state.view.shown, "front"])
        self.history = self.history.push(state)
        self.show()

    @property
    def searching(self) -> Any:
        """The tab of searches: its form as ``ranges`` and ``wanted``, ``start()`` and ``job``."""
        return self.drawer.tabs["search"]

    def export_table(self, path: str | Path) -> Path:
        """Write the selected designs (or all of them): .csv .parquet .xlsx .tex .md, with a manifest."""
        from dse.study.export import export

        return export(self.selected.reset_index(drop=True), path)

    def export_figure(self, name: str, path: str | Path) -> Path:
        """Write a view: .html .png .svg .pdf (images need Chromium or Chrome)."""
        return write(self.figure(name), Path(path))

    @alone
    def explain(self, name: str = "step_time") -> Any:
        """The tree of equations behind a number, shown on the page and returned."""
        return self.drawer.explain(name)

    @alone
    def compare(self) -> Difference:
        """The pinned designs side by side; the present one stands in for a missing pin."""
        return self.drawer.compare()

    @alone
    def save(self, name: str, question: str = "") -> Path:
        """Save as ``FOLDER/NAME/study.yaml``; ``dse.workbench(study=...)`` and :meth:`open` bring it back."""
        path = save(self.state, name, self.folder, question)
        self.name = name
        self.show()
        return path

    @alone
    def open(self, study: str | Path) -> None:
        """Open a saved study, by name or path; undo comes back to the present state."""
        path = Path(study)
        opened = open_study(path if path.exists() else self.folder / path)
        self.name = opened.name
        self.history = self.history.push(opened.state)
        self.show()
        self.say("warn" if opened.warnings else "info", "; ".join(opened.warnings) or f"Opened {opened.name}.")

    # -- what the page asks for ------------------------------------------------------------------------------------

    def act(self, do: str, value: Any = None) -> None:
        """Carry out what was clicked; a refusal is shown, and the controls go back to what holds."""
        self.guarded(lambda: self._actions.act(do, value))

    def _event(self, view: str, message: dict[str, Any]) -> None:
        """A click or a brush in a figure."""
        self.guarded(lambda: self._actions.happened(view, message))

    @alone
    def guarded(self, work: Callable[[], None]) -> None:
        """Do something; show what is wrong with it instead of raising."""
        try:
            work()
        except DseError as error:
            self.show()
            self.say("bad", refusal(error))
        except Exception as error:  # nobody sees a traceback in a widget's callback
            LOG.exception("the workbench")
            self.show()
            self.say("bad", f"{type(error).__name__}: {error}")


def _within(widget: Any) -> list[Any]:
    """A widget's children, and theirs, and itself."""
    return [found for child in getattr(widget, "children", ()) for found in _within(child)] + [widget]


def refusal(error: DseError) -> str:
    """An error as a sentence."""
    faults = getattr(error, "faults", None)
    return "; ".join(str(fault) for fault in faults) if faults else str(error)


def _parent(study: str | Path) -> Path:
    """The folder of studies that a study lies in."""
    path = Path(study)
    return (path if path.is_dir() else path.parent).parent
