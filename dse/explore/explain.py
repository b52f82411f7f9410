"""Explanations: the tree of equations behind a number, with values, units and sources."""

from __future__ import annotations

from typing import Any

import numpy as np

from dse.cost.graph import Evaluation, Step
from dse.units import engineering

_MAX_ENTRIES = 200


class Explanation:
    """Prints as an indented tree; ``to_dict`` gives the same as nested mappings, ``to_html`` as a folding tree."""

    def __init__(self, name: str, evaluation: Evaluation) -> None:
        self.name = name
        self.steps: dict[str, Step] = evaluation.steps or {}
        self._evaluation = evaluation

    def to_dict(self, name: str | None = None, _seen: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Node of the tree: name, value, unit, equation, source, fields read, and inputs (nodes of their own)."""
        name = name or self.name
        step = self.steps.get(name)
        if step is None:
            return {"name": name, "value": _plain(self._evaluation[name]), "unit": "1", "equation": "strategy"}
        q = step.quantity
        node: dict[str, Any] = {
            "name": name,
            "value": _plain(step.value),
            "unit": q.unit,
            "equation": q.equation,
            "meaning": q.summary,
            "source": q.source,
            "fields": [
                {"path": r.path, "value": _plain(r.value), "unit": r.unit, "source": r.source} for r in step.fields
            ],
        }
        if name in _seen:
            return {**node, "fields": [], "inputs": [], "shown_above": True}
        node["inputs"] = [self.to_dict(need, _seen | {name}) for need in step.inputs]
        return node

    def text(self, levels: int = 99) -> str:
        """The tree as indented text, at most ``levels`` below the root."""
        lines: list[str] = []
        self._write(self.name, 0, set(), lines, levels)
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()

    __repr__ = __str__

    def _write(self, name: str, depth: int, seen: set[str], lines: list[str], levels: int) -> None:
        pad = "  " * depth
        step = self.steps.get(name)
        if step is None:
            lines.append(f"{pad}{name} = {shown(self._evaluation[name], '1')}   (strategy)")
            return
        q = step.quantity
        value = "" if _is_object(step.value) else f" = {shown(step.value, q.unit)}"
        if name in seen:
            lines.append(f"{pad}{name}{value}   (shown above)")
            return
        seen.add(name)
        lines.append(f"{pad}{name}{value}")
        lines.append(f"{pad}  ┆ {name} := {q.equation}   [{q.source}]")
        for entry, amount in list(entries(step.value).items()):
            lines.append(f"{pad}  · {entry} = {shown(amount, q.unit)}")
        for read in step.fields:
            unit = read.unit or "1"
            lines.append(f"{pad}  ← {read.path} = {shown(read.value, unit)}   [{read.source}]")
        for need in step.inputs if depth < levels else ():
            self._write(need, depth + 1, seen, lines, levels)

    def to_html(self) -> str:
        """A folding tree for notebooks; needs no script."""
        return f"<div class='dse-explain'>{self._html(self.name, 0, set())}</div>"

    _repr_html_ = to_html

    def _html(self, name: str, depth: int, seen: set[str]) -> str:
        from html import escape

        step = self.steps.get(name)
        if step is None:
            return f"<div><b>{escape(name)}</b> = {escape(shown(self._evaluation[name], '1'))} <i>strategy</i></div>"
        q = step.quantity
        value = "" if _is_object(step.value) else f" = {escape(shown(step.value, q.unit))}"
        if name in seen:
            return f"<div><b>{escape(name)}</b>{value} <i>shown above</i></div>"
        seen.add(name)
        rows = [
            f"<div><code>{escape(q.equation)}</code> <i>{escape(q.source)}</i></div>",
            f"<div>{escape(q.summary)}</div>",
        ]
        rows += [f"<div>· {escape(e)} = {escape(shown(v, q.unit))}</div>" for e, v in entries(step.value).items()]
        rows += [
            f"<div>← {escape(r.path)} = {escape(shown(r.value, r.unit or '1'))} <i>{escape(r.source)}</i></div>"
            for r in step.fields
        ]
        rows += [self._html(need, depth + 1, seen) for need in step.inputs]
        opened = " open" if depth < 1 else ""
        return (
            f"<details{opened} style='margin-left:1em'><summary><b>{escape(name)}</b>{value}</summary>"
            f"<div style='margin-left:1em'>{''.join(rows)}</div></details>"
        )


def entries(value: Any, prefix: str = "") -> dict[str, Any]:
    """Entries of a table-valued quantity, flattened to dotted names."""
    if not isinstance(value, dict):
        return {}
    found: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict):
            found.update(entries(item, f"{name}."))
        elif not _is_object(item):
            found[name] = item
        if len(found) >= _MAX_ENTRIES:
            break
    return found


def shown(value: Any, unit: str) -> str:
    """A value as people read it."""
    if isinstance(value, dict):
        return f"{len(value)} entries"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shown(item, unit) for item in value) + "]"
    array = np.asarray(value)
    if array.dtype.kind == "b":
        return str(bool(array)).lower()
    if array.dtype.kind in "fiu" and array.size == 1:
        return engineering(float(array.reshape(())), unit)
    return str(value)


def _is_object(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return bool(value) and all(_is_object(v) for v in (value.values() if isinstance(value, dict) else value))
    return np.asarray(value).dtype.kind == "O"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if not _is_object(v)}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value if not _is_object(v)]
    array = np.asarray(value)
    if array.dtype.kind == "O" or array.size != 1:
        return None if array.dtype.kind == "O" else array.tolist()
    return array.reshape(()).item()
