"""What a click in a figure does: a design among many is gone to, a term of one design is explained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import SpecError
from dse.view.theme import TERMS

if TYPE_CHECKING:
    from dse.app.workbench import Workbench

# What a figure of one design explains where the click hit no term of its own.
EXPLAINS = {
    "breakdown": "step_time", "memory": "memory_bytes", "roofline": "step_time", "timeline": "step_time",
    "energy": "energy", "tornado": "step_time", "shadow": "step_time", "nearest": "step_time",
}  # fmt: skip


def clicked(bench: Workbench, view: str, message: dict[str, Any], meta: dict[str, Any]) -> None:
    """Carry out a click on the first point of the message."""
    point = (message.get("points") or [{}])[0]
    if view == "landscape":
        _go_to_cell(bench, point, meta)
    elif view == "front":
        _go_to_design(bench, point, meta)
    elif view in EXPLAINS:
        bench.explain(_term(bench, view, point))


def _term(bench: Workbench, view: str, point: dict[str, Any]) -> str:
    """The quantity that a bar stands for."""
    titles = {title: term for term, (title, _, _) in TERMS.items()}
    for text in (point.get("meta"), titles.get(str(point.get("name"))), titles.get(str(point.get("y")))):
        if not text:
            continue
        try:
            bench.result.explain(str(text))
        except SpecError:
            continue
        return str(text)
    return EXPLAINS[view]


def _go_to_cell(bench: Workbench, point: dict[str, Any], meta: dict[str, Any]) -> None:
    """Set both axes of the landscape to where it was clicked."""
    state, view = bench.state, bench.state.view
    for axis, path in (("x", view.x), ("y", view.y)):
        place = point.get(axis)
        if place is None:
            return
        state = state.set(path, _value(place, axis, meta, path))
    bench.go(state)


def _value(place: Any, axis: str, meta: dict[str, Any], path: str) -> Any:
    values, texts = meta.get(f"{axis}_values"), meta.get(f"{axis}_texts")
    if values and isinstance(place, str):
        return values[[str(t) for t in (texts or values)].index(place)]
    if values:
        return values[min(max(round(place), 0), len(values) - 1)]
    value = float(place) * float(meta.get(f"{axis}_scale", 1))
    return round(value) if path in ("devices", "model.seq_len", "strategy.global_batch") else value


def _go_to_design(bench: Workbench, point: dict[str, Any], meta: dict[str, Any]) -> None:
    """Take the design of a point of the front; its id is its row, and the nearest row stands in for a missing one."""
    designs = bench.scene.designs
    if str(point.get("id") or "").isdigit() and int(point["id"]) < len(designs.table):
        take_row(bench, int(point["id"]))
        return
    if point.get("x") is None or not len(designs.table):
        return
    distance = np.zeros(len(designs.table))
    for axis in ("x", "y"):
        values = designs.table[meta[axis]].to_numpy(float, na_value=np.nan)
        wanted = float(point[axis]) * float(meta[f"{axis}_scale"])
        distance += np.abs(values / wanted - 1)
    take_row(bench, int(np.nanargmin(distance)))


def take_row(bench: Workbench, row: int) -> None:
    """Go to a row of the table: its strategy, and for a search its hardware too."""
    scene = bench.scene
    if scene.searched is not None:
        bench.go(bench.searching.state_of(row))
        return
    bench.go(bench.state.strategy(**scene.designs.strategy(row)))
