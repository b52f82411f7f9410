"""The controls as widgets: sections that fold, sliders with a value to type in, chips of legal values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from dse.app import markup
from dse.app.controls import Control, controls
from dse.app.presets import presets
from dse.app.state import State
from dse.app.steps import STEPS, position, value_at
from dse.app.widgets import Html

SECTIONS = ("Design", "Parallelism", "Strategy", "Compute", "Memory", "Network")
OPEN = ("Design", "Parallelism", "Compute", "Memory")
HOME = {"Work": "Design"}  # groups that stand in another one's section


class Panel:
    """All controls of a state. ``act(do, value)`` gets what the user does; :meth:`show` follows the state."""

    def __init__(self, state: State, act: Callable[[str, Any], None]) -> None:
        self._act, self._quiet, self._moving = act, False, ""
        self._sliders: dict[str, tuple[Html, Any]] = {}
        self._controls: dict[str, Control] = {}
        self._parts: dict[str, Html] = {}
        self._sections: dict[str, tuple[Html, widgets.VBox]] = {}
        self._open = set(OPEN)
        self._preset_key: Any = None
        self._preset_html = ""
        self._layout: tuple[tuple[str, str], ...] = ()
        self.widget = widgets.VBox()
        self.widget.add_class("dse-panel")
        self.show(state, controls(state))

    def show(self, state: State, found: Sequence[Control]) -> None:
        """Follow a state and its controls: only what changed is sent to the page."""
        layout = tuple((control.path, control.kind) for control in found)
        if layout != self._layout:
            self._build(found)
            self._layout = layout
        broken = frozenset(reason["rule"] for reason in state.result.reasons())
        self._quiet = True
        try:
            for control in found:
                if control.kind == "slider":
                    self._update(control)
            for section, part in self._parts.items():
                part.html = self._static(state, section, found, broken)
        finally:
            self._quiet = False

    # -- building ----------------------------------------------------------------------------------------------

    def _build(self, found: Sequence[Control]) -> None:
        """Make the widgets: once, and again where another cluster has other tiers and dimensions."""
        self._sliders.clear()
        children: list[Any] = []
        for section in SECTIONS:
            members = [c for c in found if HOME.get(c.group, c.group) == section]
            if not members:
                continue
            part = self._parts.setdefault(section, Html(on_do=self._act, kind="dse-static"))
            rows: list[Any] = [part]
            rows += [self._slider(control) for control in members if control.kind == "slider"]
            body = widgets.VBox(rows)
            body.add_class("dse-section")
            head = Html(on_do=self._toggle, kind="dse-head")
            self._sections[section] = (head, body)
            self._fold(section)
            children += [head, body]
        self.widget.children = children

    def _slider(self, control: Control) -> widgets.VBox:
        line = Html(markup.field(control), on_do=self._act, kind="dse-line")
        slider = widgets.IntSlider(position(control, control.value), min=0, max=STEPS, readout=False)
        slider.observe(lambda change, path=control.path: self._moved(path, change["new"]), names="value")
        slider.add_class("dse-slider")
        self._sliders[control.path] = (line, slider)
        return widgets.VBox([line, slider])

    # -- following ---------------------------------------------------------------------------------------------

    def _update(self, control: Control) -> None:
        line, slider = self._sliders[control.path]
        self._controls[control.path] = control
        line.html = markup.field(control)
        slider.disabled = control.locked
        if control.path != self._moving:  # else the handle stays where the hand is
            slider.value = position(control, control.value)

    def _static(self, state: State, section: str, found: Sequence[Control], broken: frozenset[str]) -> str:
        """Pickers and chips of a section."""
        parts = []
        for control in found:
            if HOME.get(control.group, control.group) != section:
                continue
            if control.kind == "pick":
                parts.append(markup.picker(control))
            elif control.kind in ("choice", "switch"):
                parts.append(markup.choice(control, broken))
        if section == "Design":
            parts.append(self._presets(state))
        return "".join(parts)

    def _presets(self, state: State) -> str:
        design = state.design
        key = (design.model, design.cluster, design.devices, design.strategy.global_batch)
        if key != self._preset_key:
            options = [("", "", "Take a strategy …")]
            for preset in presets(state):
                group = "Best of all strategies" if preset.key.startswith("best:") else "As published runs did"
                options.append((group, preset.key, preset.label))
            chosen = markup.select("preset", options, "", "Strategy")
            head = "<div class='dse-field'><span class='dse-name'>Strategy</span></div>"
            self._preset_key, self._preset_html = key, f"<div class='dse-pick'>{head}{chosen}</div>"
        return self._preset_html

    # -- what the user does ------------------------------------------------------------------------------------

    def _moved(self, path: str, place: int) -> None:
        if self._quiet or place == position(control := self._controls[path], control.value):
            return
        self._moving = path
        try:
            self._act(f"slide:{path}", value_at(control, place))
        finally:
            self._moving = ""

    def _toggle(self, do: str, _value: Any) -> None:
        self._open ^= {do.removeprefix("fold:")}
        self._fold(do.removeprefix("fold:"))

    def _fold(self, section: str) -> None:
        head, body = self._sections[section]
        shown = section in self._open
        arrow = "▾" if shown else "▸"
        head.html = markup.button(f"fold:{section}", f"{arrow} {section}", kind="dse-fold")
        body.layout.display = "" if shown else "none"
