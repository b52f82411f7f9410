"""The top of the workbench: the design in a line, what can be done, the headline numbers, and what is wrong."""

from __future__ import annotations

from typing import Any

from dse.app import markup
from dse.app.state import History, State
from dse.errors import DseError
from dse.units import engineering
from dse.view import theme

TILES = ("step_time", "tokens_per_s", "mfu", "memory_bytes", "cost", "power", "goodput")
TITLES = {"memory_bytes": "memory/device", "cost": "cost/step", "goodput": "goodput"}
LESS = {"step_time", "memory_bytes", "cost", "power"}  # what is better when it is less
SURE = {"step_time", "tokens_per_s", "cost"}  # what is shown with its interval


def toolbar(state: State, history: History, *, name: str = "") -> str:
    """The line of the design and its buttons."""
    pins = dict(state.pins)
    design = theme.design_text(state.design.specs, state.design.devices)
    title = f"<span class='dse-design'>{markup.escape(design)}{f' · {markup.escape(name)}' if name else ''}</span>"
    goal = theme.title_of(state.view.objectives[0])
    return title + "".join(
        (
            "<span class='dse-actions'>",
            markup.tool("undo", "undo", "Undo", off=not history.past),
            markup.tool("redo", "redo", "Redo", off=not history.future),
            markup.button("reset", "Reset", "Put everything that is not locked back to the start"),
            markup.button("best", "Find the best strategy", f"The best of all by {goal}; locked fields stay"),
            markup.button("follow", "Keep it best", "Find the best strategy again after every change",
                          on=state.view.follow, kind="toggle"),
            *(markup.button(f"pin:{pin}", f"Pin {pin}", f"Keep this design as {pin}, to compare with",
                            on=pin in pins, kind="toggle") for pin in ("A", "B")),
            markup.tool("theme", "theme", "Light or dark"),
            "</span>",
        )
    )  # fmt: skip


def headline(state: State) -> str:
    """The headline numbers, each with its change against the pinned design A, or against the start."""
    base, against = dict(state.pins).get("A", state.origin), "A" if dict(state.pins) else "start"
    other = base.result if base != state.design else None
    return markup.tiles([_tile(state, name, other, against) for name in TILES])


def _tile(state: State, name: str, other: Any, against: str) -> dict[str, str]:
    result = state.result
    value, unit = float(result.number(name)), result.unit(name)
    item = {"name": name, "title": _title(state, name), "value": _text(state, name, value, unit)}
    if name in SURE:
        item["note"] = _interval(state, name, unit)
    if name == "memory_bytes":
        capacity = float(result.cells[0].evaluation["tier_capacity"]["local"])
        item["note"] = f"of {engineering(capacity, 'B', 3)}"
        item["kind"] = "bad" if any(r["rule"] == "memory_fits" for r in result.reasons()) else ""
    if other is not None:
        before = float(other.number(name))
        if before and abs(value / before - 1) >= 5e-4:
            better = (value < before) == (name in LESS)
            item |= {"change": f"{value / before - 1:+.1%} on {against}", "direction": "better" if better else "worse"}
    return item


def _title(state: State, name: str) -> str:
    """A title; rates say what they count."""
    if name == "tokens_per_s":
        return theme.counted(name, "1/s", state.design.specs["model"])
    return TITLES.get(name, theme.title_of(name))


def _text(state: State, name: str, value: float, unit: str) -> str:
    if name in ("mfu", "goodput"):
        return f"{value:.1%}"
    if unit.startswith("1/"):
        return theme.compact(value) + ("/s" if unit == "1/s" else f" {unit}")
    return engineering(value, unit, 3) if unit != "s" else engineering(value, unit)


def _interval(state: State, name: str, unit: str) -> str:
    try:
        found = state.result.interval(quantity=name)
    except DseError:
        return ""
    ends = (found.low, found.high)
    if unit.startswith("1/"):
        return "–".join(theme.compact(end) for end in ends) + " (90 %)"
    return f"{_span(ends, unit)} (90 %)"


def _span(ends: tuple[float, float], unit: str) -> str:
    """Two ends with their unit once, where they share it."""
    low, high = (engineering(end, unit, 3) for end in ends)
    if unit == "USD":
        return f"{low}–{high.removeprefix('$')}"
    same = low.rpartition(" ")[2] == high.rpartition(" ")[2] and " " in low
    return f"{low.rpartition(' ')[0] if same else low}–{high}"


def rules(state: State) -> str:
    """Which rules the design breaks, with its numbers; empty for a feasible one."""
    why = "; ".join(reason["why"] for reason in state.result.reasons())
    if not why:
        return ""
    action = markup.button("best", "Find the best strategy", "The best of all strategies that satisfy the rules")
    return markup.message("rules", f"This design cannot be built: {why}", action)
