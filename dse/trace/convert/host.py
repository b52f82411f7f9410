"""The host trace of PyTorch's ``ExecutionTraceObserver``: operators, who called them, and their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dse.errors import Fault, SpecError
from dse.trace.convert.reading import WIDEST, integer, read_json

SCHEMAS = re.compile(r"1\.[01]\.\d+")
ROOTS = re.compile(r"\[pytorch\|profiler\|execution_(graph|trace)\|(process|thread)\]")
GROUPS = "process_group:init"
NUMBERS = {"rf_id": 0, "fw_parent": 0, "seq_id": -1, "scope": 0, "tid": 0, "fw_tid": 0}


class Tensor(NamedTuple):
    """A view of a storage: ``offset`` and ``count`` in elements of ``width`` bytes."""

    id: int
    storage: int
    offset: int
    count: int
    width: int
    device: str

    @property
    def bytes(self) -> int:
        return self.count * self.width


@dataclass(slots=True)
class Values:
    """Arguments or results: each a value, its shape and its type."""

    values: list[Any] = field(default_factory=list)
    shapes: list[Any] = field(default_factory=list)
    types: list[Any] = field(default_factory=list)

    def tensors(self, place: int | None = None) -> list[Tensor]:
        """All tensors, or those of one argument, lists of tensors included."""
        if place is None:
            return list(_tensors(self.values))
        return list(_tensors(self.values[place])) if place < len(self.values) else []


@dataclass(slots=True)
class HostOp:
    """One call of an operator; ``numbers`` are the integers of :data:`NUMBERS`."""

    id: int
    name: str
    parent: int
    numbers: dict[str, int]
    schema: str
    inputs: Values
    outputs: Values

    @property
    def rf(self) -> int:
        """The record function's number: the order in which operators started, and the link to the profiler's events."""
        return self.numbers["rf_id"]


@dataclass(slots=True)
class HostTrace:
    """Operators in the order in which they started, without the nodes that stand for processes and threads."""

    schema: str
    head: dict[str, Any]
    ops: list[HostOp]
    groups: list[dict[str, Any]]


def _tensors(value: Any) -> Iterator[Tensor]:
    if not isinstance(value, list):
        return
    if len(value) == 6 and isinstance(value[5], str) and all(isinstance(item, int) for item in value[:5]):
        tensor = Tensor(*value)
        if 0 <= tensor.offset < WIDEST and 0 <= tensor.bytes < WIDEST and tensor.count >= 0:
            yield tensor
        return
    for item in value:
        yield from _tensors(item)


def _values(raw: dict[str, Any], name: str) -> Values:
    """Arguments or results; up to version 1.0.1 shapes and types lie beside them."""
    found = raw.get(name, {})
    if isinstance(found, dict):
        parts = [found.get(part, []) for part in ("values", "shapes", "types")]
    else:
        one = name.removesuffix("s")
        parts = [found, raw.get(f"{one}_shapes", []), raw.get(f"{one}_types", [])]
    return Values(*(part if isinstance(part, list) else [] for part in parts))


def _op(raw: dict[str, Any]) -> HostOp:
    attrs = {item["name"]: item.get("value") for item in raw.get("attrs", [])}
    parent = raw["ctrl_deps"] if "ctrl_deps" in raw else raw.get("parent", 0)
    numbers = {name: integer(attrs.get(name, raw.get(name, usual)), usual) for name, usual in NUMBERS.items()}
    schema = str(attrs.get("op_schema", raw.get("op_schema", "")))
    values = (_values(raw, "inputs"), _values(raw, "outputs"))
    return HostOp(int(raw["id"]), str(raw["name"]), int(parent or 0), numbers, schema, *values)


def read_host(path: Path) -> HostTrace:
    """Read a host trace, schema 1.0.x or 1.1.x.

    Raises:
        SpecError: the file cannot be read, has another schema, or a node lacks what every node has.
    """
    found = read_json(path, "host trace")
    where = str(path)[-200:]
    schema = str(found.get("schema", ""))
    if not SCHEMAS.match(schema):
        rule = "must be 1.0.x or 1.1.x, as PyTorch's ExecutionTraceObserver writes it"
        raise SpecError([Fault("schema", repr(schema[:40]), rule, where)])
    nodes = found.get("nodes")
    if not isinstance(nodes, list):
        raise SpecError([Fault("nodes", "", "must be a list", where)])
    ops = []
    for place, raw in enumerate(nodes):
        try:
            ops.append(_op(raw))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            rule = f"a node needs id, name, ctrl_deps and attributes: {error!r}"[:200]
            raise SpecError([Fault(f"nodes[{place}]", repr(raw)[:60], rule, where)]) from None
    groups = _groups(next((op for op in ops if GROUPS in op.name), None))
    kept = [op for op in ops if not ROOTS.fullmatch(op.name) and GROUPS not in op.name]
    return HostTrace(schema, found, sorted(kept, key=lambda op: (op.rf, op.id)), groups)


def _groups(op: HostOp | None) -> list[dict[str, Any]]:
    """The process groups that the node of their creation lists as a string of JSON."""
    import json

    for value in op.inputs.values if op else []:
        try:
            found = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            continue
        if isinstance(found, list):
            return [item for item in found if isinstance(item, dict) and "pg_name" in item]
    return []
