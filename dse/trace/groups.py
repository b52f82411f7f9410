"""Communication groups: the JSON file beside a trace, and the process groups that PyTorch records in traces."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.trace.columns import Ints
from dse.trace.dialects import WHOLE
from dse.trace.schema import Kind, Node

RANKS = 1 << 31  # ranks are below this


def _members(label: str, ranks: Any, where: str) -> list[int]:
    fault = None
    if not isinstance(ranks, Sequence) or isinstance(ranks, str | bytes):
        fault = "must be a list of ranks"
    elif not all(isinstance(rank, int | np.integer) and not isinstance(rank, bool) for rank in ranks):
        fault = "every rank must be an integer"
    elif not all(0 <= rank < RANKS for rank in ranks):
        fault = f"every rank must be within 0 ... {RANKS - 1}"
    elif len(set(ranks)) < len(ranks):
        fault = "a rank may be in a group only once"
    elif not ranks:
        fault = "a group needs at least one rank"
    if fault:
        raise SpecError([Fault(f"group {label!r}"[:80], repr(ranks)[:80], fault, where)])
    return [int(rank) for rank in ranks]


def from_mapping(groups: Mapping[Any, Any], ranks: int, where: str = "") -> dict[str, Ints]:
    """Groups by label, as ``TraceSet`` wants them: {label: ranks, or a table [groups, size]}.

    Raises:
        SpecError: not lists of ranks, a rank twice, or a rank that there is not.
    """
    if not isinstance(groups, Mapping):
        raise SpecError([Fault("groups", repr(groups)[:60], 'must be {"label": [ranks], ...}', where)])
    out = {}
    for label, members in groups.items():
        if isinstance(members, Mapping) and "ranks" in members:
            members = members["ranks"]  # a newer form: {"ranks": [...], "dimensions": [...]}
        table = members.tolist() if isinstance(members, np.ndarray) else members
        nested = isinstance(table, Sequence) and bool(table) and isinstance(table[0], list)
        rows = [_members(str(label), row, where) for row in (table if nested else [table])]
        if len({len(row) for row in rows}) > 1 or len({rank for row in rows for rank in row}) < sum(map(len, rows)):
            rule = "groups of one label must be of one size and have no rank in common"
            raise SpecError([Fault(f"group {label!r}"[:80], "", rule, where)])
        if max(max(row) for row in rows) >= ranks:
            rule = f"ranks must be below {ranks}, the number of traces"
            raise SpecError([Fault(f"group {label!r}"[:80], str(max(map(max, rows))), rule, where)])
        out[str(label)] = np.array(rows, np.int64)
    return out


def read(path: Path, ranks: int) -> dict[str, Ints]:
    """Groups of a JSON file ``{"label": [ranks], ...}``.

    Raises:
        SpecError: the file cannot be read, or as :func:`from_mapping`.
    """
    path = Path(path)
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise SpecError([Fault("groups", str(path)[-200:], f"cannot be read: {error.strerror or error}")]) from None
    except (ValueError, RecursionError) as error:
        raise SpecError([Fault("groups", "", f"not JSON: {error}"[:200], str(path)[-200:])]) from None
    return from_mapping(found, ranks, str(path)[-200:])


def looks_like(path: Path) -> bool:
    """Whether a file found beside a trace is one of groups: a JSON object of lists."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and all(isinstance(item, list) for item in found.values())


def of_node(node: Node) -> dict[str, list[int]]:
    """The process groups that a METADATA node carries: label -> ranks ([] for all); {} if it carries none."""
    if node.kind != Kind.METADATA or node.inputs is None or "pg_name" not in node.inputs.values:
        return {}
    values = node.inputs.values
    text = values[values.find("[{") : values.rfind("}]") + 2]
    try:
        found = json.loads(text.replace('\\"', '"'))
    except (ValueError, RecursionError):
        return {}
    out = {}
    for item in found:
        if isinstance(item, dict) and "pg_name" in item and isinstance(item.get("ranks"), list):
            label = str(item["pg_name"])
            out[label] = _members(label, item["ranks"], "") if item["ranks"] else []
    return out


def merged(found: Iterable[Mapping[str, list[int]]], ranks: int) -> dict[str, Ints]:
    """One table per label from what the ranks' traces carry.

    Ranks may use one label for groups of their own, as long as these are of one size and have no rank in common. Groups
    with ranks that have no trace are left out: such a set of traces is a part of a whole.

    Raises:
        SpecError: the ranks contradict each other.
    """
    seen: dict[str, dict[tuple[int, ...], None]] = {}
    for groups in found:
        for label, members in groups.items():
            if label not in WHOLE and all(rank < ranks for rank in members):
                seen.setdefault(label, {})[tuple(members) or tuple(range(ranks))] = None
    tables = {label: [list(row) for row in rows] for label, rows in seen.items()}
    return from_mapping(tables, ranks, "process groups in the traces")
