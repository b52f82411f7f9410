"""``dse.workbench``: the application. It holds a history of states; widgets show the present one and ask for the next.

Everything that can be clicked is a method here, so a notebook, a test and the page do the same things.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from dse.app import header, markup
from dse.app.board import Board
from dse.app.brush import picked
from dse.app.controls import controls
from dse.app.drawer import Drawer
from dse.app.keep import write
from dse.app.panel import Panel
from dse.app.presets import best_value, take
from dse.app.saved import open_study, save
from dse.app.state import History, State, start
from dse.app.steps import snapped
from dse.app.views import Scene, figure
from dse.app.widgets import FRONT, Html
from dse.errors import DseError, Fault, InfeasibleDesign, SpecError

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dse.app.compare import Difference

LOG = logging.getLogger("dse")


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
        self.folder, self.name = Path(folder), ""
        note = ""
        if study is None:
            count = 1024 if devices is None and cluster == "dgx-h100" else devices
            state = start(model, cluster, strategy, devices=count)
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

    def _build(self, *, asks_theme: bool) -> None:
        act = self.act
        self._style = Html(f"<style>{(FRONT / 'workbench.css').read_text(encoding='utf-8')}</style>")
        self._toolbar = Html(on_do=act, kind="dse-toolbar", asks_theme=asks_theme)
        self._headline, self._message, self._rules = (Html(on_do=act) for _ in range(3))
        self.panel = Panel(self.state, act)
        self.board = Board(act, self._event)
        self.drawer = Drawer(self)
        right = widgets.VBox([self.board.chooser, self.board.grid, self.drawer.widget])
        right.add_class("dse-right")
        body = widgets.HBox([self.panel.widget, right])
        body.add_class("dse-body")
        top = [self._style, self._toolbar, self._headline, self._rules, self._message]
        self.widget = widgets.VBox([*top, body])
        self.widget.add_class("dse-app")

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return self.widget._repr_mimebundle_(**kwargs)

    def __repr__(self) -> str:
        return f"<dse.workbench: {self.state.result!r}>"

    # -- the state ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What is shown now."""
        return self.history.present

    @property
    def result(self) -> Any:
        """The design priced, as :func:`dse.estimate` returns it."""
        return self.state.result

    def go(self, state: State) -> None:
        """Show another state; undo comes back to the present one."""
        if state.view.follow and (state.design, state.locks) != (self.state.design, self.state.locks):
            state = _followed(state)
        self.history = self.history.push(state)
        self.show()

    def show(self) -> None:
        """Bring everything on the page up to the present state."""
        state = self.state
        if state.view.dark:
            self.widget.add_class("dse-dark")
        else:
            self.widget.remove_class("dse-dark")
        self._toolbar.html = header.toolbar(state, self.history, name=self.name)
        self._headline.html = header.headline(state)
        self._rules.html = header.rules(state)
        found = controls(state)
        self.board.show(state, found)
        self.panel.show(state, found)
        self.drawer.show(state)

    def say(self, kind: str, text: str) -> None:
        """A line above the views: ``info``, ``warn`` or ``bad``; empty takes it away."""
        self._message.html = markup.message(kind, text)

    # -- what can be done ----------------------------------------------------------------------------------------

    def set(self, path: str, value: Any) -> None:
        """Set one field (see :meth:`dse.app.state.State.set`)."""
        self.go(self.state.set(path, value))

    def reset(self, path: str | None = None) -> None:
        """Put one field, or all that are not locked, back to the start."""
        self.go(self.state.reset(path))

    def lock(self, path: str) -> None:
        """Keep a field as it is."""
        self.go(self.state.lock(path))

    def unlock(self, path: str) -> None:
        """Let a field be set again."""
        self.go(self.state.unlock(path))

    def undo(self) -> None:
        """Go back to the state before."""
        self.history = self.history.undo()
        self.show()

    def redo(self) -> None:
        """Take back an undo."""
        self.history = self.history.redo()
        self.show()

    def find_best(self, path: str | None = None) -> None:
        """Find the best strategy, or the best value of one strategy field, by the first objective of the view."""
        field = (path or "").removeprefix("strategy.")
        if path and path.startswith("strategy.") and field != "global_batch":
            self.go(best_value(self.state, field))
        else:
            self.go(self.state.find_best(self.state.view.objectives[0]))

    def take_preset(self, key: str) -> None:
        """Take a strategy from the list: ``best:OBJECTIVE`` or ``run:ID``."""
        self.go(take(self.state, key))

    def pin(self, name: str) -> None:
        """Keep the present design as ``A`` or ``B``."""
        self.go(self.state.pin(name))

    def unpin(self, name: str) -> None:
        """Forget a pinned design."""
        self.go(self.state.unpin(name))

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

    def explain(self, name: str = "step_time") -> Any:
        """The tree of equations behind a number, shown on the page and returned."""
        return self.drawer.explain(name)

    def compare(self) -> Difference:
        """The pinned designs side by side; the present one stands in for a missing pin."""
        return self.drawer.compare()

    def save(self, name: str, question: str = "") -> Path:
        """Save as ``FOLDER/NAME/study.yaml``; ``dse.workbench(study=...)`` and :meth:`open` bring it back."""
        path = save(self.state, name, self.folder, question)
        self.name = name
        self.show()
        return path

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
        self.guarded(lambda: self._act(do, value))

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

    def _act(self, do: str, value: Any) -> None:
        verb, _, what = do.partition(":")
        if verb == "dismiss":
            return self.say("info", "")
        if verb == "why":
            return self.say("warn", self._why(what, str(value)))
        if self.drawer.act(verb, what, value):
            return None
        self.say("info", "")
        done = self._verbs().get(verb)
        if done is None:
            raise SpecError([Fault("action", do[:60], "is unknown")])
        return done(what, value)

    def _verbs(self) -> dict[str, Callable[[str, Any], None]]:
        return {
            "set": lambda what, value: self.set(what, self._meant(what, value)),
            "slide": lambda what, value: self.set(what, snapped(self.state, what, float(value))),
            "reset": lambda what, value: self.reset(what or None),
            "lock": lambda what, value: self.lock(what),
            "unlock": lambda what, value: self.unlock(what),
            "undo": lambda what, value: self.undo(),
            "redo": lambda what, value: self.redo(),
            "best": lambda what, value: self.find_best(what or None),
            "follow": lambda what, value: self._follow(),
            "preset": lambda what, value: self.take_preset(str(value)) if value else None,
            "pin": lambda what, value: self.pin(what),
            "unpin": lambda what, value: self.unpin(what),
            "take": lambda what, value: self.go(self.state.take(what)),
            "view": lambda what, value: self._toggle(what),
            "wide": lambda what, value: self.board.widen(what),
            "look": lambda what, value: self.look(**{what: value}),
            "objective": lambda what, value: self._objective(int(what), str(value)),
            "clear": lambda what, value: self.select(),
            "everywhere": lambda what, value: self.look(best=not self.state.view.best),
            "theme": self._theme,
        }

    def _meant(self, path: str, value: Any) -> Any:
        """The value of a chip or a text field: options by their label, whole numbers without separators."""
        for control in controls(self.state):
            if control.path == path and control.options:
                return next((o.value for o in control.options if str(value) in (o.label, str(o.value))), value)
            if control.path == path and control.whole:
                return str(value).replace(",", "").strip()
        return value

    def _why(self, path: str, label: str) -> str:
        for control in controls(self.state):
            for option in control.options:
                if control.path == path and option.label == label:
                    reasons = "; ".join(option.reasons) or f"{control.label} is locked; unlock it first"
                    return f"{control.label} {label} is not possible here: {reasons}"
        return ""

    def _toggle(self, name: str) -> None:
        shown = self.state.view.shown
        self.look(shown=[other for other in shown if other != name] if name in shown else [*shown, name])

    def _objective(self, index: int, name: str) -> None:
        pair = list(self.state.view.objectives)
        pair[1 - index] = pair[index] if name == pair[1 - index] else pair[1 - index]
        pair[index] = name
        self.look(objectives=pair)

    def _follow(self) -> None:
        state = self.state.look(follow=not self.state.view.follow)
        self.go(_followed(state) if state.view.follow else state)

    def _theme(self, _what: str, value: Any) -> None:
        """Switch the theme; at the start the page says which one the notebook has, which is nothing to undo."""
        if value not in ("light", "dark"):
            return self.look(dark=not self.state.view.dark)
        if self.state.view.dark != (value == "dark"):
            self.history = History(self.state.look(dark=value == "dark"), self.history.past, self.history.future)
            self.show()
        return None

    def _event(self, view: str, message: dict[str, Any]) -> None:
        """A click or a brush in a figure."""
        self.guarded(lambda: self._happened(view, message))

    def _happened(self, view: str, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "clear":
            if self.state.view.selected:
                self.select()
        elif kind in ("brush", "ranges"):
            self.select(picked(self.board.cards[view].meta, message))
        elif kind == "click":
            self.drawer.clicked(view, message, self.board.cards[view].meta)


def _followed(state: State) -> State:
    """The state with its best strategy; where none is feasible, as it is."""
    try:
        return state.find_best(state.view.objectives[0])
    except InfeasibleDesign:
        return state


def refusal(error: DseError) -> str:
    """An error as a sentence."""
    faults = getattr(error, "faults", None)
    return "; ".join(str(fault) for fault in faults) if faults else str(error)


def _parent(study: str | Path) -> Path:
    """The folder of studies that a study lies in."""
    path = Path(study)
    return (path if path.is_dir() else path.parent).parent
