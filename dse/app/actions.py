"""What the page asks for: each text that markup puts into ``data-do``, as a call of the workbench."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dse.app.brush import picked
from dse.app.controls import controls
from dse.app.state import History, State
from dse.app.steps import snapped
from dse.errors import Fault, InfeasibleDesign, SpecError

if TYPE_CHECKING:
    from dse.app.workbench import Workbench


class Actions:
    """The verbs of the page. Refusals are raised; the workbench shows them."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    def act(self, do: str, value: Any) -> None:
        """Carry out ``verb`` or ``verb:what``.

        Raises:
            SpecError: an unknown verb, or what the verb refuses.
        """
        verb, _, what = do.partition(":")
        if verb == "dismiss":
            return self._bench.say("info", "")
        if verb == "why":
            return self._bench.say("warn", self._why(what, str(value)))
        if self._bench.drawer.act(verb, what, value):
            return None
        self._bench.say("info", "")
        done = self._verbs().get(verb)
        if done is None:
            raise SpecError([Fault("action", do[:60], "is unknown")])
        return done(what, value)

    def _verbs(self) -> dict[str, Callable[[str, Any], None]]:
        return {
            "set": lambda what, value: self._bench.set(what, self._meant(what, value)),
            "slide": lambda what, value: self._slide(what, float(value)),
            "reset": lambda what, value: self._bench.reset(what or None),
            "lock": lambda what, value: self._bench.lock(what),
            "unlock": lambda what, value: self._bench.unlock(what),
            "undo": lambda what, value: self._bench.undo(),
            "redo": lambda what, value: self._bench.redo(),
            "best": lambda what, value: self._bench.find_best(what or None),
            "follow": lambda what, value: self._follow(),
            "preset": lambda what, value: self._bench.take_preset(str(value)) if value else None,
            "pin": lambda what, value: self._bench.pin(what),
            "unpin": lambda what, value: self._bench.unpin(what),
            "take": lambda what, value: self._bench.go(self._bench.state.take(what)),
            "view": lambda what, value: self._toggle(what),
            "wide": lambda what, value: self._bench.board.widen(what),
            "look": lambda what, value: self._bench.look(**{what: value}),
            "objective": lambda what, value: self._objective(int(what), str(value)),
            "clear": lambda what, value: self._bench.select(),
            "everywhere": lambda what, value: self._bench.look(best=not self._bench.state.view.best),
            "theme": self._theme,
        }

    def _slide(self, path: str, value: float) -> None:
        state = self._bench.state
        self._bench.go(state.set(path, snapped(state, path, value)), moving=True)

    def _meant(self, path: str, value: Any) -> Any:
        """The value of a chip or a text field: options by their label, whole numbers without separators."""
        for control in controls(self._bench.state):
            if control.path == path and control.options:
                return next((o.value for o in control.options if str(value) in (o.label, str(o.value))), value)
            if control.path == path and control.whole:
                return str(value).replace(",", "").strip()
        return value

    def _why(self, path: str, label: str) -> str:
        for control in controls(self._bench.state):
            for option in control.options:
                if control.path == path and option.label == label:
                    reasons = "; ".join(option.reasons) or f"{control.label} is locked; unlock it first"
                    return f"{control.label} {label} is not possible here: {reasons}"
        return ""

    def _toggle(self, name: str) -> None:
        shown = self._bench.state.view.shown
        self._bench.look(shown=[other for other in shown if other != name] if name in shown else [*shown, name])

    def _objective(self, index: int, name: str) -> None:
        pair = list(self._bench.state.view.objectives)
        pair[1 - index] = pair[index] if name == pair[1 - index] else pair[1 - index]
        pair[index] = name
        self._bench.look(objectives=pair)

    def _follow(self) -> None:
        state = self._bench.state.look(follow=not self._bench.state.view.follow)
        self._bench.go(followed(state) if state.view.follow else state)

    def _theme(self, _what: str, value: Any) -> None:
        """Switch the theme; at the start the page says which one the notebook has, which is nothing to undo."""
        if value not in ("light", "dark"):
            return self._bench.look(dark=not self._bench.state.view.dark)
        if self._bench.state.view.dark != (value == "dark"):
            history = self._bench.history
            self._bench.history = History(history.present.look(dark=value == "dark"), history.past, history.future)
            self._bench.show()
        return None

    def happened(self, view: str, message: dict[str, Any]) -> None:
        """A click, a brush, or the end of one in a figure."""
        kind = message.get("type")
        if kind == "clear":
            if self._bench.state.view.selected:
                self._bench.select()
        elif kind in ("brush", "ranges"):
            self._bench.select(picked(self._bench.board.cards[view].meta, message))
        elif kind == "click":
            self._bench.drawer.clicked(view, message, self._bench.board.cards[view].meta)


def followed(state: State) -> State:
    """The state with its best strategy; where none is feasible, as it is."""
    try:
        return state.find_best(state.view.objectives[0])
    except InfeasibleDesign:
        return state
