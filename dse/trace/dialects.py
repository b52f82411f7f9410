"""From nodes to columns, whichever tool wrote the nodes: what the attributes of each dialect mean.

Tools differ in the types of the same attribute (``comm_size`` is signed, unsigned or 32-bit, ``is_cpu_op`` a boolean
or an integer, ``pg_name`` text or an integer), leave attributes without a value, or leave them out. One rule serves
all: the column of an attribute holds the first value of that name that has a fitting type. :mod:`dse.trace.scan` does
the same from the bytes of a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.trace.columns import Trace
from dse.trace.schema import Attribute, Metadata, Node

# Attribute -> column. What has an integer column takes any number; what is text takes text or an integer.
INTEGERS = {
    "is_cpu_op": "cpu",
    "comm_type": "coll",
    "comm_size": "size",
    "comm_src": "src",
    "comm_dst": "dst",
    "comm_tag": "tag",
    "comm_priority": "priority",
}
REALS = {"num_ops": "flops", "tensor_size": "bytes", "dse.seconds": "seconds"}
TEXTS = {"pg_name": "group", "stream": "stream", "tid": "thread", "dse.tier": "tier"}
ABSENT = {"cpu": -1, "coll": -1, "size": -1, "src": -1, "dst": -1, "tag": 0, "priority": 0}
WHOLE = ("", "0")  # labels of the group of all ranks
I64_LOW, I64_HIGH = -(1 << 63), (1 << 63) - 1
I8_LOW, I8_HIGH = -128, 127
NOT_NUMBERS = ("", "string", "bytes")


def _number(item: Attribute) -> float | int | None:
    if item.kind in NOT_NUMBERS or item.kind.endswith("_list"):
        return None
    return item.value if math.isfinite(item.value) else None


def _integer(item: Attribute) -> int | None:
    number = _number(item)
    return None if number is None else min(max(int(number), I64_LOW), I64_HIGH)


def _text(item: Attribute) -> str | None:
    if item.kind == "string":
        return item.value
    number = None if item.kind in ("double", "float", "bool") else _number(item)
    return None if number is None else str(number)


def _values(node: Node) -> dict[str, Any]:
    """Column -> value of the attributes that a trace has columns for."""
    out: dict[str, Any] = {}
    for item in node.attrs:
        if item.name in INTEGERS:
            column, value = INTEGERS[item.name], _integer(item)
        elif item.name in REALS:
            column, value = REALS[item.name], _number(item)
        elif item.name in TEXTS:
            column, value = TEXTS[item.name], _text(item)
        elif item.name == "involved_dim" and item.kind == "bool_list" and item.value:
            column, value = "dims", tuple(item.value)
        else:
            continue
        if value is not None:
            out.setdefault(column, value)
    return out


class _Codes:
    """Texts as integers, in the order in which they come."""

    def __init__(self) -> None:
        self.of: dict[Any, int] = {}

    def __call__(self, value: Any) -> int:
        return -1 if value is None else self.of.setdefault(value, len(self.of))

    @property
    def table(self) -> tuple[Any, ...]:
        return tuple(self.of)


def _compressed(rows: Sequence[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    pointers = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=pointers[1:])
    return pointers, np.array([item for row in rows for item in row], np.int64)


def columns(nodes: Iterable[Node], metadata: Metadata | None = None) -> Trace:
    """The columns of one rank's nodes.

    A dependence on an identifier that no node has is left out and counted (``dangling``); where several nodes have one
    identifier, dependences are on the first. Numbers beyond the column's range become the nearest in range; values
    that are not finite count as absent.
    """
    nodes = list(nodes)
    rows: dict[int, int] = {}
    for row, node in enumerate(nodes):
        rows.setdefault(node.id, row)
    data = [[rows[i] for i in node.data_deps if i in rows] for node in nodes]
    ctrl = [[rows[i] for i in node.ctrl_deps if i in rows] for node in nodes]
    total = sum(len(node.data_deps) + len(node.ctrl_deps) for node in nodes)
    found = [_values(node) for node in nodes]
    names, labels, involved, streams, tiers = (_Codes() for _ in range(5))
    micros = np.array([node.duration_micros for node in nodes], np.uint64)
    said = np.array([value.get("seconds", math.nan) for value in found], np.float64)

    def whole(column: str, low: int = I64_LOW, high: int = I64_HIGH) -> list[int]:
        return [min(max(value.get(column, ABSENT[column]), low), high) for value in found]

    def label(value: str | None) -> int:
        return -1 if value in WHOLE else labels(value)

    data_ptr, data_rows = _compressed(data)
    ctrl_ptr, ctrl_rows = _compressed(ctrl)
    return Trace(
        ids=np.array([node.id for node in nodes], np.uint64),
        kind=np.array([min(max(node.kind, I8_LOW), I8_HIGH) for node in nodes], np.int8),
        name=np.array([names(node.name) for node in nodes], np.int32),
        start=np.array([node.start_micros for node in nodes], np.uint64),
        micros=micros,
        seconds=np.where(np.isnan(said), micros * 1e-6, said),
        data_ptr=data_ptr,
        data=data_rows,
        ctrl_ptr=ctrl_ptr,
        ctrl=ctrl_rows,
        cpu=np.array([-1 if "cpu" not in value else int(value["cpu"] != 0) for value in found], np.int8),
        flops=np.array([value.get("flops", 0.0) for value in found], np.float64),
        bytes=np.array([value.get("bytes", 0.0) for value in found], np.float64),
        coll=np.array(whole("coll", I8_LOW, I8_HIGH), np.int8),
        size=np.array(whole("size"), np.int64),
        src=np.array(whole("src"), np.int64),
        dst=np.array(whole("dst"), np.int64),
        tag=np.array(whole("tag"), np.int64),
        priority=np.array(whole("priority"), np.int64),
        group=np.array([label(value.get("group")) for value in found], np.int32),
        dims=np.array([involved(value.get("dims")) for value in found], np.int32),
        stream=np.array([streams(value.get("stream", value.get("thread"))) for value in found], np.int32),
        tier=np.array([tiers(value.get("tier")) for value in found], np.int32),
        names=names.table,
        labels=labels.table,
        involved=involved.table,
        streams=streams.table,
        tiers=tiers.table,
        dangling=total - len(data_rows) - len(ctrl_rows),
        version=metadata.version if metadata else "",
    )


def from_json(path: Path) -> Iterator[Metadata | Node]:
    """The messages of a trace in JSON, as older simulators took: ``{"workload_graph": [{"Id": ...}, ...]}``.

    Of a node: ``Id``, ``Name``, ``NodeType``, ``data_deps``, ``ctrl_deps``, ``runtime`` (microseconds), and attributes
    by their names.

    Raises:
        SpecError: the file cannot be read, or is not of that form.
    """
    where = str(path)[-200:]
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise SpecError([Fault("trace", where, f"cannot be read: {error.strerror or error}")]) from None
    except (ValueError, RecursionError) as error:
        raise SpecError([Fault("trace", "", f"not JSON: {error}"[:200], where)]) from None
    items = found.get("workload_graph") if isinstance(found, dict) else None
    if not isinstance(items, list):
        raise SpecError([Fault("trace", "", 'must be {"workload_graph": [nodes]}', where)])
    yield Metadata()
    for index, item in enumerate(items):
        try:
            yield _json_node(item)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise SpecError([Fault("trace", f"node {index}", f"is not a node: {error}"[:200], where)]) from None


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise ValueError(f"{value!r} is not an integer of 64 bits"[:120])
    return value


def _json_node(item: dict[str, Any]) -> Node:
    known = ("Id", "Name", "NodeType", "data_deps", "ctrl_deps", "runtime")
    attrs = []
    for name, value in item.items():
        if name in known:
            continue
        if isinstance(value, bool | str):
            attrs.append(Attribute(name, type(value).__name__.replace("str", "string"), value))
        elif isinstance(value, int):
            attrs.append(Attribute(name, "int64" if value < 0 else "uint64", value if value < 0 else _count(value)))
        elif isinstance(value, list) and all(isinstance(flag, bool) for flag in value):
            attrs.append(Attribute(name, "bool_list", value))
    return Node(
        _count(item["Id"]),
        str(item.get("Name", "")),
        _count(item["NodeType"]) & 0x7FFFFFFF,
        [_count(i) for i in item.get("ctrl_deps", [])],
        [_count(i) for i in item.get("data_deps", [])],
        duration_micros=_count(item.get("runtime", 0)),
        attrs=attrs,
    )
