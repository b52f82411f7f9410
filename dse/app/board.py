"""The board: the views that are shown, each a card with a figure, redrawn with every state."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from dse.app import markup
from dse.app.brush import boxes, unpicked
from dse.app.controls import Control
from dse.app.envelope import Envelope
from dse.app.later import Later, Step
from dse.app.look import VIEWS
from dse.app.state import State
from dse.app.views import COARSE, ENVELOPE, FINE, KINDS, Scene, depends
from dse.app.widgets import Html, Plot
from dse.errors import DseError
from dse.view import theme

LOG = logging.getLogger("dse")
ROUGH = 8  # points of an axis of the first landscape of the best strategies
MIDDLE = 120  # points of an axis of the landscape on its way from coarse to fine
REST = (0.06, 0.2)  # seconds after the last step of a slider: heavy views, then the finest landscape
QUANTITIES = ("step_time", "tokens_per_s", "mfu", "memory_bytes", "cost", "energy", "power", "goodput", "tco")
Event = Callable[[str, dict[str, Any]], None]


class Card:
    """One view on the page: a line with its choices, and the figure."""

    def __init__(self, name: str, act: Callable[[str, Any], None], event: Event, wake: Callable[[], None]) -> None:
        self.name = name
        self.head = Html(on_do=act, kind="dse-card-head")
        self.plot = Plot(on_event=lambda message: event(name, message))
        self.widget = widgets.VBox([self.head, self.plot])
        self.widget.add_class("dse-card")
        self.widget.add_class(f"dse-view-{name}")
        self.meta: dict[str, Any] = {}
        self.plot.observe(lambda change: wake() if change["new"] else None, names="seen")

    def show(self, figure: dict[str, Any], revision: int) -> None:
        """Draw; what the figure says of its axes is kept, to read brushes by."""
        self.meta = figure["layout"].get("meta") or {}
        self.plot.show(json.dumps(figure, separators=(",", ":")), revision)


class Board:
    """All views. ``act`` gets what is clicked outside the figures, ``event`` what happens in them."""

    def __init__(self, act: Callable[[str, Any], None], event: Event, lock: threading.RLock) -> None:
        self._act, self._event = act, event
        self.cards: dict[str, Card] = {}
        self.chooser = Html(on_do=act, kind="dse-chooser")
        self.grid = widgets.Box()
        self.grid.add_class("dse-grid")
        self.later = Later(lock)
        self._mutex = lock
        self._state: State | None = None
        self.searched: Any = None
        self.revision = 0
        self._known: dict[str, tuple[Any, Any, int]] = {}  # what a figure was drawn from, and how fine
        self._surface: tuple[Any, Any] = (None, None)  # the last landscape of the best strategies, and of what

    def show(self, state: State, *, moving: bool = False) -> None:
        """Draw a state: what is cheap now, the rest when the kernel is idle, unless a newer state comes.

        Views that the page has scrolled out of sight are drawn when they come back.

        Args:
            moving: a slider is being dragged, so the rest waits a little for the next state.
        """
        self.revision += 1
        self._state = state
        shown = state.view.shown
        for name in shown:
            if name not in self.cards:
                self.cards[name] = Card(name, self._act, self._event, self._wake)
        children = tuple(self.cards[name].widget for name in shown)
        if children != self.grid.children:
            self.grid.children = children
        scene = Scene(state, COARSE, self.searched)
        seen = [name for name in shown if self.cards[name].plot.seen]
        for name in seen:
            if self._cheap(name, state):
                self._draw(name, scene)
        waits = REST if moving else (0.0, 0.0)
        rest = [name for name in seen if KINDS[name].heavy]
        later = [
            (waits[0] if i == 0 else 0.0, lambda name=name: self._draw(name, scene)) for i, name in enumerate(rest)
        ]
        self.later.plan([*later, *self._refined(seen, state, waits)])

    def _wake(self) -> None:
        """Draw what has come into sight."""
        with self._mutex:
            if self._state is not None:
                self.show(self._state)

    def _cheap(self, name: str, state: State) -> bool:
        return not (KINDS[name].heavy or (name == "landscape" and state.view.best))

    def offer(self, state: State, found: Sequence[Control]) -> None:
        """What can be chosen: which views are shown, and the axes of the landscape out of these controls."""
        self.chooser.html = _chooser(state)
        axes = [("", c.path, c.label) for c in found if c.kind in ("slider", "choice", "switch")]
        for name in state.view.shown:
            self.cards[name].head.html = _head(name, state, axes, searched=self.searched is not None)

    def _refined(self, seen: Sequence[str], state: State, waits: tuple[float, float]) -> list[Step]:
        if "landscape" not in seen:
            return []
        if state.view.best:
            return [step for points in (ROUGH, ENVELOPE) for step in self._enveloping(state, points, waits[0])]
        finer = [
            (wait, Scene(state, points, self.searched)) for wait, points in zip(waits, (MIDDLE, FINE), strict=True)
        ]
        return [(wait, lambda scene=scene: self._draw("landscape", scene)) for wait, scene in finer]

    def _enveloping(self, state: State, points: int, wait: float) -> list[Step]:
        """The best strategies of the landscape row by row, then the picture of them."""
        key = (depends("landscape", Scene(state)), points)
        if key == self._surface[0]:
            return [(0.0, lambda: self._draw("landscape", Scene(state, points, self.searched, self._surface[1])))]
        made: list[Envelope] = []

        def begin() -> None:
            with contextlib.suppress(DseError):  # the picture says why
                made.append(Envelope(state, state.view.x, state.view.y, points))

        def row(number: int) -> None:
            if made and number < made[0].rows:
                made[0].step(number)

        def draw() -> None:
            self._surface = (key, made[0].result()) if made else (None, None)
            self._draw("landscape", Scene(state, points, self.searched, self._surface[1]))

        rows: list[Step] = [(0.0, lambda number=number: row(number)) for number in range(points)]
        return [(wait, begin), *rows, (0.0, draw)]

    def widen(self, name: str) -> None:
        """Let a card take the whole width, or no longer."""
        card = self.cards[name].widget
        if "dse-wide" in card._dom_classes:
            card.remove_class("dse-wide")
        else:
            card.add_class("dse-wide")

    def _draw(self, name: str, scene: Scene) -> None:
        """Draw a view, unless nothing that it depends on has changed; a finer landscape stays as fine."""
        base, selected = depends(name, scene), scene.state.view.selected if KINDS[name].brush else ()
        known = self._known.get(name, (None, (), 0))
        if (base, selected) == known[:2] and scene.points <= known[2]:
            self.cards[name].plot.revision = self.revision
            return
        if base == known[0]:
            scene = dataclasses.replace(scene, points=max(scene.points, known[2]))
        self.cards[name].show(drawn(name, scene), self.revision)
        self._known[name] = (base, selected, scene.points)


def drawn(name: str, scene: Scene) -> dict[str, Any]:
    """A view as plain data in the sizes of the board; where it cannot be drawn, the reason in its place."""
    kind = KINDS[name]
    try:
        figure = kind.draw(scene)
    except DseError as error:
        figure = _reason(str(error), scene.dark)
    except Exception as error:  # a fault of ours must not take the other views with it
        LOG.exception("the view %s", name)
        figure = _reason(f"{type(error).__name__}: {error}", scene.dark)
    plain = compact(json.loads(figure.to_json()), name)
    return _with_selection(plain, dict(scene.state.view.selected))


def _with_selection(figure: dict[str, Any], selected: dict[str, Any]) -> dict[str, Any]:
    """The figure with what is selected drawn on it as the user would draw it."""
    meta = figure["layout"].get("meta") or {}
    figure["layout"]["selections"] = boxes(meta, selected)
    for place, dimension in enumerate(meta.get("dimensions", ())):
        ends = unpicked(dimension, selected[dimension["column"]]) if dimension["column"] in selected else None
        if ends:
            for trace in figure["data"]:
                trace["dimensions"][place]["constraintrange"] = ends
    return figure


def compact(figure: dict[str, Any], name: str) -> dict[str, Any]:
    """A figure for a card: smaller type, and without the line that says which design it is of."""
    kind, layout = KINDS[name], figure["layout"]
    title = layout.get("title", {})
    words = title.get("subtitle", {}).get("text", "")
    bad = next((line for line in words.split("<br>") if line.startswith("Infeasible")), "")
    layout["title"] = {
        **title,
        "font": {"size": 15},
        "subtitle": {"text": bad, "font": {"size": 12}},
        "x": 0.01,
        "y": 0.98,
    }
    if name in ("landscape", "front", "parallel"):  # the line above the figure says it
        layout["title"]["text"] = ""
    layout["font"] = {**layout.get("font", {}), "size": 12}
    layout["height"] = kind.height
    top = 58 if bad else 40 if layout["title"]["text"] else 26
    layout["margin"] = {**layout.get("margin", {}), "t": top, "r": 16}
    legend = layout.get("legend", {})
    layout["legend"] = {**legend, "font": {"size": 12}}
    layout["dragmode"] = "select" if kind.brush else "zoom"
    axes = [layout.get(axis, {}).get("title", {}).get("text", "") for axis in ("xaxis", "yaxis")]
    layout["uirevision"] = "|".join([name, *axes])  # what was zoomed stays so while the units do
    layout["newselection"] = {"mode": "immediate"}
    layout["modebar"] = {"remove": ["lasso2d", "autoScale2d"]}
    return figure


def _reason(text: str, dark: bool) -> Any:
    """A figure that says why there is none."""
    import textwrap

    figure = theme.blank("", dark)
    lines = "<br>".join(textwrap.wrap(text, 80)[:8])
    figure.add_annotation(text=lines, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"size": 14})
    return figure.update_xaxes(visible=False).update_yaxes(visible=False)


# -- HTML -----------------------------------------------------------------------------------------------------


def _chooser(state: State) -> str:
    shown = state.view.shown
    return "".join(
        markup.button(f"view:{name}", KINDS[name].title, KINDS[name].hint, on=name in shown, kind="toggle")
        for name in VIEWS
    )


def _head(name: str, state: State, axes: list[tuple[str, str, str]], *, searched: bool) -> str:
    """What can be chosen on a card."""
    view, parts = state.view, [""]
    if name == "landscape":
        parts = [
            markup.select("look:quantity", _quantities(), view.quantity, "Quantity"),
            "over", markup.select("look:x", axes, view.x, "Horizontal axis"),
            "and", markup.select("look:y", axes, view.y, "Vertical axis"),
            markup.button("everywhere", "Best at each", "Each point with its own best strategy, "
                          "instead of the present one everywhere", on=view.best, kind="toggle"),
        ]  # fmt: skip
    if name in ("front", "parallel") and searched:
        parts = ["The designs of the search", markup.button("work:strategies", "Show the strategies again")]
    elif name in ("front", "parallel"):
        parts = [
            markup.select("objective:0", _quantities(), view.objectives[0], "First objective"),
            "and", markup.select("objective:1", _quantities(), view.objectives[1], "Second objective"),
        ]  # fmt: skip
    close = markup.tool(f"view:{name}", "close", f"Hide {KINDS[name].title}")
    wide = markup.tool(f"wide:{name}", "wide", f"Widen {KINDS[name].title}")
    return f"<div class='dse-card-line'><span class='dse-card-choices'>{' '.join(parts)}</span>{wide}{close}</div>"


def _quantities() -> list[tuple[str, str, str]]:
    return [("", name, theme.sentence(theme.title_of(name))) for name in QUANTITIES]
