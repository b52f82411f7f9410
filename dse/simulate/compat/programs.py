"""Traces from their descriptions in words, as the table of recorded small programs has them.

A description is operations joined by ``->`` or ``then`` (one after the other) and ``||`` or ``+`` (at once): ``COMP
20us``, ``COMP 1e9 flop, 1e8 B``, ``2 independent AR 1MB``, ``LOAD 64MB``; or a pattern: sends, incast, a pipeline, a
chain that spawns collectives, a prefetch. Sizes count 1024 to the kilobyte. All ranks run the same unless the pattern
says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.simulate.compat.whole import small_trace
from dse.trace.columns import TraceSet
from dse.trace.schema import Collective, Kind

SIZE = r"(\d+(?:\.\d+)?)\s*(B|KB|MB|GB)\b"
TIME = r"(\d+(?:\.\d+)?)\s*(us|ms|s)\b"
BYTES = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
MICROS = {"us": 1, "ms": 1000, "s": 1_000_000}
COLLECTIVES = {
    "AR": Collective.ALL_REDUCE,
    "AG": Collective.ALL_GATHER,
    "RS": Collective.REDUCE_SCATTER,
    "A2A": Collective.ALL_TO_ALL,
    "all_reduce": Collective.ALL_REDUCE,
    "all_gather": Collective.ALL_GATHER,
    "reduce_scatter": Collective.REDUCE_SCATTER,
    "all_to_all": Collective.ALL_TO_ALL,
    "rs_block": Collective.REDUCE_SCATTER_BLOCK,
    "reduce_scatter_block": Collective.REDUCE_SCATTER_BLOCK,
    "reduce": Collective.REDUCE,
    "gather": Collective.GATHER,
    "scatter": Collective.SCATTER,
    "broadcast": Collective.BROADCAST,
    "barrier": Collective.BARRIER,
}
COLL = rf"\b({'|'.join(COLLECTIVES)})\b"
LOAD = 64 << 20  # where a description says nothing
Row = dict[str, Any]


def _size(text: str, otherwise: int = LOAD) -> int:
    found = re.search(SIZE, text)
    return int(float(found[1]) * BYTES[found[2]]) if found else otherwise


def _micros(text: str, otherwise: int = 10) -> int:
    found = re.search(TIME, text)
    return int(float(found[1]) * MICROS[found[2]]) if found else otherwise


def _comp(micros: int, deps: list[int] | None = None) -> Row:
    return {"kind": Kind.COMP, "micros": micros, "flops": 1e9, "bytes": 1e8, "deps": deps or []}


def _send(size: int, src: int, dst: int, tag: int = 0, deps: list[int] | None = None) -> Row:
    return {"kind": Kind.SEND, "size": size, "src": src, "dst": dst, "tag": tag, "deps": deps or []}


def _recv(size: int, src: int, dst: int, tag: int = 0) -> Row:
    return {"kind": Kind.RECV, "size": size, "src": src, "dst": dst, "tag": tag, "deps": []}


def _messages(pairs: list[tuple[int, int]], size: int, npus: int) -> list[list[Row]]:
    """Independent messages; every rank also has a COMP of no length."""
    ranks: list[list[Row]] = [[_comp(0)] for _ in range(npus)]
    for src, dst in pairs:
        if max(src, dst) >= npus:
            raise SpecError([Fault("program", f"{src}->{dst}", f"ranks must be below {npus}")])
        ranks[src].append(_send(size, src, dst))
        ranks[dst].append(_recv(size, src, dst))
    return ranks


def _pipeline(stages: int, batches: int, micros: int, size: int) -> list[list[Row]]:
    ranks = []
    for stage in range(stages):
        rows: list[Row] = []
        for batch in range(batches):
            deps = []
            if stage:
                deps = [len(rows)]
                rows.append(_recv(size, stage - 1, stage, batch))
            rows.append(_comp(micros, deps))
            if stage < stages - 1:
                rows.append(_send(size, stage, stage + 1, batch, [len(rows) - 1]))
        ranks.append(rows)
    return ranks


def _pattern(text: str, npus: int) -> list[list[Row]] | None:
    """The ranks' rows of a description that is a pattern; None if it is not."""
    size = _size(text, 1 << 20)
    if found := re.search(r"(\d+)->1 incast", text):
        return _messages([(src, 0) for src in range(1, int(found[1]) + 1)], size, npus)
    if found := re.search(r"send \S+ (\d+)->(\d+)", text):
        return _messages([(int(found[1]), int(found[2]))], size, npus)
    if found := re.search(r"(\d+) sends \S+ to ([\d, and]+)", text):
        return _messages([(int(found[1]), int(dst)) for dst in re.findall(r"\d+", found[2])], size, npus)
    if found := re.search(r"(\d+)-stage pipeline, (\d+) microbatches", text):
        return _pipeline(int(found[1]), int(found[2]), _micros(text), size)
    if found := re.search(rf"(\d+)x\(COMP .*\) chain, each spawns {COLL}", text):
        rows: list[Row] = []
        for k in range(int(found[1])):
            rows.append(_comp(_micros(text), [2 * k - 2] if k else []))
            rows.append({"kind": Kind.COLL, "coll": COLLECTIVES[found[2]], "size": size, "deps": [2 * k]})
        return [rows] * npus
    if found := re.search(r"(\d+)-layer prefetch", text):
        rows = []
        for k in range(int(found[1])):
            rows.append({"kind": Kind.MEM_LOAD, "bytes": _size(text), "deps": [2 * k - 2] if k else []})
            rows.append(_comp(_micros(text), [2 * k, 2 * k - 1] if k else [0]))
        return [rows] * npus
    return None


def _operation(text: str, whole: str) -> Row:
    """One operation of a description; ``whole`` gives what it leaves out."""
    if found := re.search(COLL, text):
        return {"kind": Kind.COLL, "coll": COLLECTIVES[found[1]], "size": _size(text, _size(whole, 1 << 20))}
    if re.search(r"LOAD|STORE", text):
        return {"kind": Kind.MEM_STORE if "STORE" in text else Kind.MEM_LOAD, "bytes": _size(text)}
    if "COMP" not in text:
        raise SpecError(
            [Fault("program", text[:80], "no operation known: COMP, LOAD, STORE, a collective, or a pattern")]
        )
    row = _comp(0 if re.search(r"duration 0\b", text) else _micros(text, _micros(whole)))
    if found := re.search(r"(\S+) flop, (\S+) B\b", text):
        row |= {"flops": float(found[1]), "bytes": float(found[2])}
    if re.search(r"tensor_size 0\b", text):
        row["bytes"] = 0
    row["cpu"] = int(bool(re.search(r"\bCPU\b", text)))
    return row


def _expression(text: str) -> list[Row]:
    """The rows of operations joined by ``->`` and ``||``."""
    rows: list[Row] = []
    before: list[int] = []
    for stage in re.split(r"->|\bthen\b", text):
        added: list[int] = []
        for part in re.split(r"\|\||\+", stage):
            count = re.match(r"\s*(\d+)\s+[A-Za-z]", part)
            for k in range(int(count[1]) if count else 1):
                chained = bool(re.search(r"\bdep(endent)?\b", part)) and k
                deps = [len(rows) - 1] if chained else before
                rows.append({**_operation(part, text), "deps": list(deps)})
                added.append(len(rows) - 1)
        before = added
    return rows


def traces_of(text: str, npus: int, dims: int = 1, groups: Mapping[str, list[int]] | None = None) -> TraceSet:
    """The traces that a description stands for.

    Args:
        text: the description. npus: ranks. dims: dimensions of the network.
        groups: communicator groups; collectives of a description with ``pg`` run in the group of their rank.

    Raises:
        SpecError: nothing known stands there.
    """
    ranks = _pattern(text, npus)
    involved: tuple[tuple[bool, ...], ...] = ()
    if ranks is None:
        rows = _expression(re.sub(r"involved_dim=?\[.*?\]", "", text))
        found = re.search(r"involved_dim=?\[(.*?)\]", text)
        if found or "explicit involved_dim" in text:
            involved = (tuple("true" in flag.lower() for flag in found[1].split(",")) if found else (True,) * dims,)
            rows = [{**row, "dims": 0} for row in rows]
        ranks = [rows] * npus
    labels = tuple(groups or {}) if re.search(r"\bpg\b", text) else ()
    table = {label: np.array([members], np.int64) for label, members in (groups or {}).items()}
    classes: list[Any] = []
    seen: dict[str, int] = {}
    of = np.zeros(npus, np.int64)
    for rank in range(npus):
        rows = ranks[rank] if rank < len(ranks) else []
        mine = next((k for k, label in enumerate(labels) if rank in (groups or {})[label]), -1)
        key = f"{mine} {rows}"
        if key not in seen:
            seen[key] = len(classes)
            classes.append(
                small_trace([{**row, "group": mine} if mine >= 0 else row for row in rows], labels, involved)
            )
        of[rank] = seen[key]
    return TraceSet(tuple(classes), of, table, text)
