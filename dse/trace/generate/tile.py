"""From the chains of a stage to the columns of its trace: a chain is laid down once for each pass that it serves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dse.trace.columns import Ints, Trace
from dse.trace.generate.chain import Chain, Outside, Piece
from dse.trace.generate.design import LABELS
from dse.trace.generate.stage import Stage
from dse.trace.schema import Collective, Kind

STREAMS = ("compute", "tp", "cp", "ep", "dp", "pp", "memory", "all")
KINDS = {
    "all_reduce": Collective.ALL_REDUCE, "all_gather": Collective.ALL_GATHER, "all_to_all": Collective.ALL_TO_ALL,
    "reduce_scatter": Collective.REDUCE_SCATTER, "broadcast": Collective.BROADCAST,
}  # fmt: skip
EXITS = {Outside.PREVIOUS: "wait", Outside.BEFORE: "wait", Outside.MATCH: "flow", Outside.GATHERED: "flow",
         Outside.MARKED: "mark"}  # fmt: skip


@dataclass(frozen=True)
class Codes:
    """What the columns of all traces of a design index."""

    labels: tuple[str, ...]
    tiers: tuple[str, ...]
    ranks: dict[str, int]
    stride: int  # ranks between a stage and the next
    durations: bool


class Form:
    """A chain as arrays: columns [n], edges inside as (child, parent, is control), and what it waits for outside."""

    def __init__(self, chain: Chain, codes: Codes) -> None:
        rows = {id(piece): row for row, piece in enumerate(chain.pieces)}
        self.names = [f"{piece.name}" for piece in chain.pieces]
        inside: list[tuple[int, int, bool]] = []
        self.outside: list[tuple[int, bool, Outside]] = []
        for row, piece in enumerate(chain.pieces):
            for control, needs in ((False, piece.data), (True, piece.ctrl)):
                for need in needs:
                    if isinstance(need, Outside):
                        self.outside.append((row, control, need))
                    elif not (control and need in piece.data):
                        inside.append((row, rows[id(need)], control))
        self.edges = np.array(inside, np.int64).reshape(-1, 3)
        self.exits = {
            name: [rows[id(piece)] for piece in getattr(chain, name) if isinstance(piece, Piece)]
            for name in ("wait", "flow", "mark")
        }
        records = [_record(piece, codes) for piece in chain.pieces]
        fields = zip(*records, strict=True) if records else [()] * len(COLUMNS)
        self.columns = {name: np.array(v, kind) for (name, kind), v in zip(COLUMNS.items(), fields, strict=True)}


COLUMNS = {
    "kind": np.int8, "seconds": np.float64, "flops": np.float64, "bytes": np.float64, "coll": np.int8,
    "size": np.int64, "src": np.int64, "dst": np.int64, "tag": np.int64, "group": np.int32, "stream": np.int32,
    "tier": np.int32,
}  # fmt: skip


def _record(piece: Piece, codes: Codes) -> tuple[float, ...]:
    """A node's columns; the tag is that of micro-batch 0. Sizes are whole bytes, and a gather's is one rank's share."""
    coll, size, group, src, dst = -1, -1, -1, -1, -1
    if piece.comm is not None:
        comm = piece.comm
        whole = comm.size / codes.ranks[comm.group] if comm.kind == "all_gather" else comm.size
        coll, size = KINDS[comm.kind], max(round(whole), 1)
        label = LABELS[comm.group]
        group = codes.labels.index(label) if label else -1
    elif piece.kind in (Kind.SEND, Kind.RECV):
        size, offset = max(round(piece.size), 1), piece.peer * codes.stride
        src, dst = (0, offset) if piece.kind == Kind.SEND else (offset, 0)
    seconds = piece.expected if codes.durations and piece.kind == Kind.COMP else 0.0
    stream = STREAMS.index(piece.stream)
    tier = codes.tiers.index(piece.tier) if piece.tier else -1
    return (piece.kind, seconds, round(piece.flops), round(piece.bytes), coll, size, src, dst, piece.tag, group, stream,
            tier)  # fmt: skip


def trace_of(stage: Stage, codes: Codes) -> Trace:
    """The trace of all ranks of a stage; peers are offsets."""
    forms = [Form(chain, codes) for chain in stage.chains]
    counts = np.array([len(form.names) for form in forms])[stage.which]
    begin = np.concatenate([[0], np.cumsum(counts)])
    n = int(begin[-1])
    columns = {name: np.empty(n, kind) for name, kind in COLUMNS.items()}
    edges = [np.zeros((0, 3), np.int64)]
    for number, form in enumerate(forms):
        places = np.flatnonzero(stage.which == number)
        rows = begin[places][:, None] + np.arange(len(form.names))
        for name, values in form.columns.items():
            columns[name][rows] = values
        shift = np.array([1, 1, 0]) * begin[places][:, None, None]
        edges.append((form.edges + shift).reshape(-1, 3))
        peers = np.flatnonzero(np.isin(form.columns["kind"], (Kind.SEND, Kind.RECV)))
        columns["tag"][rows[:, peers]] += 2 * stage.batch[places][:, None]
    edges += _between(stage, forms, begin)
    data, ctrl = (_rows(np.concatenate(edges), control, n) for control in (0, 1))
    names = [
        prefix + name
        for batch, which in zip(stage.batch.tolist(), stage.which.tolist(), strict=True)
        for prefix in ((f"mb{batch}." if batch >= 0 else ""),)
        for name in forms[which].names
    ]
    none, zero = np.full(n, -1, np.int32), np.zeros(n, np.int64)
    return Trace(
        ids=np.arange(n, dtype=np.uint64), name=np.arange(n, dtype=np.int32), start=np.zeros(n, np.uint64),
        micros=np.rint(1e6 * columns["seconds"]).astype(np.uint64), data_ptr=data[0], data=data[1], ctrl_ptr=ctrl[0],
        ctrl=ctrl[1], cpu=np.zeros(n, np.int8), priority=zero, dims=none, names=tuple(names), labels=codes.labels,
        streams=STREAMS, tiers=codes.tiers, relative=True, version="", **columns,
    )  # fmt: skip


def _between(stage: Stage, forms: list[Form], begin: Ints) -> list[Ints]:
    """Edges from one pass to another."""
    exits = {}
    for name in ("wait", "flow", "mark"):
        width = max((len(form.exits[name]) for form in forms), default=0)
        exits[name] = np.array([form.exits[name] + [-1] * (width - len(form.exits[name])) for form in forms], np.int64)
    found = []
    for number, form in enumerate(forms):
        places = np.flatnonzero(stage.which == number)
        sources = {
            Outside.PREVIOUS: places - 1, Outside.BEFORE: places - 2, Outside.MATCH: stage.match[places],
            Outside.GATHERED: np.zeros_like(places), Outside.MARKED: np.full_like(places, stage.marked),
        }  # fmt: skip
        for row, control, need in form.outside:
            source = sources[need]
            leaving = exits[EXITS[need]][stage.which[source]]
            child = np.broadcast_to((begin[places] + row)[:, None], leaving.shape)
            parent = begin[source][:, None] + leaving
            valid = (leaving >= 0) & (source >= 0)[:, None]
            kind = np.full(int(valid.sum()), int(control))
            found.append(np.stack([child[valid], parent[valid], kind], axis=1))
    return found


def _rows(edges: Ints, control: int, n: int) -> tuple[Ints, Ints]:
    """Edges of a kind as compressed rows, each once, parents ascending."""
    chosen = edges[edges[:, 2] == control]
    keys = np.unique(chosen[:, 0] * max(n, 1) + chosen[:, 1])
    pointers = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(keys // max(n, 1), minlength=n), out=pointers[1:])
    return pointers, keys % max(n, 1)
