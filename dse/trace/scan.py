"""Trace files straight into columns: exactly what ``columns(*read(path))`` gives, compiled."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dse.trace import groups, wire
from dse.trace.columns import Trace
from dse.trace.dialects import ABSENT, I8_HIGH, I8_LOW, INTEGERS, REALS, TEXTS, WHOLE, columns
from dse.trace.files import read
from dse.trace.schema import Kind, Metadata, Node


class Scanned(NamedTuple):
    """Columns of a file and the process groups that its nodes carry (label -> ranks)."""

    trace: Trace
    groups: dict[str, list[int]]


def scan(path: Path, data: bytes) -> Scanned:
    """Columns of a trace file whose decompressed bytes are ``data``.

    Raises:
        SpecError: as :func:`dse.trace.files.stream`.
    """
    if path.suffix != ".json":
        found = _fast(data)
        if found is not None:
            return found
    head, nodes = read(path)
    carried = [groups.of_node(node) for node in nodes]
    return Scanned(columns(nodes, head), {label: ranks for item in carried for label, ranks in item.items()})


@cache
def _names() -> tuple[np.ndarray, np.ndarray]:
    """Names of the attributes with columns, in the order of ``parse.nodes``, and where each ends."""
    names = [name.encode() for name in (*INTEGERS, *REALS, *TEXTS, "involved_dim")]
    return np.frombuffer(b"".join(names), np.uint8), np.cumsum([len(name) for name in names])


def _fast(data: bytes) -> Scanned | None:
    """None if the bytes are malformed or of a rare form: the plain reader knows more."""
    from dse.trace import hashing, parse

    buf = np.frombuffer(data, np.uint8)
    bounds, status = parse.frames(buf)
    if status != parse.OK or not len(bounds):
        return None
    try:
        head = wire.metadata(data[bounds[0, 0] : bounds[0, 1]])
    except wire.WireError:
        return None
    bounds = bounds[1:]
    n = len(bounds)
    stamps, pointers = np.zeros((3, n), np.uint64), np.zeros((2, n + 1), np.int64)
    ints = np.zeros((len(parse.INT_COLUMNS), n), np.int64)
    for row, name in enumerate(parse.INT_COLUMNS):
        ints[row] = ABSENT.get(name, 0)
    reals = np.zeros((len(parse.REAL_COLUMNS), n))
    reals[parse.REAL_COLUMNS.index("seconds")] = np.nan
    shape = (len(parse.TEXT_COLUMNS), n)
    texts = np.zeros(shape, np.int8), np.zeros(shape, np.uint64), np.zeros(shape, np.int64)
    status, data_ids, ctrl_ids = parse.nodes(buf, bounds, *_names(), stamps, ints, reals, *texts, pointers)
    if status != parse.OK:
        return None
    table = dict(zip(parse.INT_COLUMNS, ints, strict=True)) | dict(zip(parse.REAL_COLUMNS, reals, strict=True))
    found = dict(zip(parse.TEXT_COLUMNS, zip(*texts, strict=True), strict=True))
    table["data_ptr"], table["data"] = hashing.resolve(stamps[0], pointers[0], data_ids)
    table["ctrl_ptr"], table["ctrl"] = hashing.resolve(stamps[0], pointers[1], ctrl_ids)
    table["dangling"] = len(data_ids) + len(ctrl_ids) - len(table["data"]) - len(table["ctrl"])
    trace = _trace(data, buf, head, stamps, table, found)
    return Scanned(trace, _groups(data, bounds, ints[0]))


def _trace(data: bytes, buf: np.ndarray, head: Metadata, stamps: np.ndarray, table: dict, texts: dict) -> Trace:
    micros = stamps[2]
    said = texts["stream"][0] != 0
    stream = tuple(np.where(said, ours, other) for ours, other in zip(texts["stream"], texts["thread"], strict=True))
    name, names = _codes(data, buf, texts["name"])
    group, labels = _codes(data, buf, texts["group"], WHOLE)
    dims, involved = _codes(data, buf, texts["dims"])
    lane, streams = _codes(data, buf, stream)
    tier, tiers = _codes(data, buf, texts["tier"])
    return Trace(
        ids=stamps[0],
        kind=np.clip(table["kind"], I8_LOW, I8_HIGH).astype(np.int8),
        name=name,
        start=stamps[1],
        micros=micros,
        seconds=np.where(np.isnan(table["seconds"]), micros * 1e-6, table["seconds"]),
        cpu=table["cpu"].astype(np.int8),
        coll=np.clip(table["coll"], I8_LOW, I8_HIGH).astype(np.int8),
        group=group,
        dims=dims,
        stream=lane,
        tier=tier,
        names=names,
        labels=labels,
        involved=involved,
        streams=streams,
        tiers=tiers,
        version=head.version,
        **{key: table[key] for key in ("data_ptr", "data", "ctrl_ptr", "ctrl", "dangling")},
        **{key: table[key] for key in ("flops", "bytes", "size", "src", "dst", "tag", "priority")},
    )


def _codes(data: bytes, buf: np.ndarray, found: tuple, absent: tuple[str, ...] = ()) -> tuple[np.ndarray, tuple]:
    """Codes and their table; values that differ in bytes and not in meaning (5 and "5") become one."""
    from dse.trace import hashing

    kinds, bits, stops = (np.ascontiguousarray(item) for item in found)
    codes, first = hashing.codes(buf, kinds, bits, stops)
    starts, ends = bits[first].tolist(), stops[first].tolist()
    if (kinds[first] == 29).all():  # all at once; a text that holds the separator spoils it
        values: list[Any] = b"\0".join(map(data.__getitem__, map(slice, starts, ends))).decode("utf-8").split("\0")
        if len(values) == len(first) and not set(absent).intersection(values):
            return codes, tuple(values)
    values = [_value(data, *span) for span in zip(kinds[first].tolist(), starts, ends, strict=True)]
    table: dict[Any, int] = {}
    final = [-1 if value in absent or value == () else table.setdefault(value, len(table)) for value in values]
    return np.array([*final, -1], np.int32)[codes], tuple(table)


def _value(data: bytes, kind: int, start: int, stop: int) -> Any:
    if kind == 29:
        return data[start:stop].decode("utf-8")
    if kind == 28:
        flags = wire.attribute(wire.put_varint(28 << 3 | wire.BYTES) + wire.put_varint(stop - start) + data[start:stop])
        return tuple(flags.value)
    scalar = wire.SCALARS[wire.KINDS[kind - wire.FIRST_VALUE]]
    if scalar.wire == wire.VARINT:
        return str(scalar.get(start))
    return str(scalar.get(start.to_bytes(4 if scalar.wire == wire.FIXED32 else 8, "little")))


def _groups(data: bytes, bounds: np.ndarray, kinds: np.ndarray) -> dict[str, list[int]]:
    out: dict[str, list[int]] = {}
    for start, stop in bounds[kinds == Kind.METADATA].tolist():
        message = data[start:stop]
        if b"pg_name" in message:
            node: Node = wire.node(message)
            out.update(groups.of_node(node))
    return out
