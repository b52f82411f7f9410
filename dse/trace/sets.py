"""All ranks' traces at once: find the files of a prefix, read each distinct one once, write a set back as files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.study.export import write_atomically
from dse.trace import files
from dse.trace import groups as grouping
from dse.trace.columns import Ints, Trace, TraceSet
from dse.trace.scan import Scanned, scan
from dse.trace.schema import Attribute, Kind, Metadata, Node

NAME = re.compile(r"(?P<prefix>.*)\.(?P<rank>\d{1,9})\.(?:et|et\.gz|json)")
Where = Path | str | Sequence[Path | str]


def _refuse(value: str, rule: str) -> SpecError:
    return SpecError([Fault("traces", value[-200:], rule)])


def _ranked(found: Mapping[Path, int], where: str) -> list[Path]:
    """Files in the order of their ranks, which must be 0 ... R-1, each once."""
    by_rank: dict[int, Path] = {}
    for path, rank in sorted(found.items()):
        if rank in by_rank:
            raise _refuse(where, f"rank {rank} has two files: {by_rank[rank].name} and {path.name}")
        by_rank[rank] = path
    missing = [rank for rank in range(min(max(by_rank), len(by_rank)) + 1) if rank not in by_rank]
    if missing:
        rule = f"ranks must be 0 ... {max(by_rank)} without a gap; no file for rank {', '.join(map(str, missing[:5]))}"
        raise _refuse(where, rule)
    return [by_rank[rank] for rank in range(len(by_rank))]


def find(where: Where) -> tuple[list[Path], str]:
    """The trace files, by rank, and their common prefix ("" if they have none).

    ``where`` is a prefix (``PREFIX.<rank>.et``, ``.et.gz`` or ``.json``), a folder with one such prefix, one file, or a
    list of files (in the order of ranks if their names carry none).

    Raises:
        SpecError: no file, several prefixes in the folder, or ranks missing or twice.
    """
    if not isinstance(where, Path | str):
        paths = [Path(path) for path in where]
        names = [NAME.fullmatch(path.name) for path in paths]
        if not paths:
            raise _refuse("", "no file given")
        if len(paths) > 1 and all(names):
            return _ranked({path: int(name["rank"]) for path, name in zip(paths, names, strict=True) if name}, ""), ""
        return paths, ""
    path = Path(where)
    if path.is_file():
        return [path], ""
    folder = path if path.is_dir() else path.parent
    try:
        matches = {entry: NAME.fullmatch(entry.name) for entry in folder.iterdir()} if folder.is_dir() else {}
    except OSError as error:
        raise _refuse(str(folder), f"cannot be read: {error.strerror or error}") from None
    named = {entry: (match["prefix"], int(match["rank"])) for entry, match in matches.items() if match}
    prefixes = sorted({prefix for prefix, _ in named.values()}) if path.is_dir() else [path.name]
    if len(prefixes) > 1:
        raise _refuse(str(path), f"holds traces of several prefixes, give one: {', '.join(prefixes[:6])}")
    found = {entry: rank for entry, (prefix, rank) in named.items() if [prefix] == prefixes}
    if not found:
        raise _refuse(str(path), "no file PREFIX.<rank>.et or PREFIX.<rank>.et.gz")
    return _ranked(found, str(path)), str(folder / prefixes[0])


def load(where: Where, groups: Any = None) -> TraceSet:
    """The traces of all ranks as columns; files of equal content share theirs.

    Args:
        where: see :func:`find`.
        groups: the communication groups: a mapping ``{label: [ranks]}`` or the path of a JSON file of one. Without it
            ``PREFIX.json`` beside the traces is taken if there is one. What the traces carry themselves is kept unless
            the label is given here.

    Raises:
        SpecError: a file that is not a trace, ranks or groups that do not fit; the message says which and where.
    """
    paths, prefix = find(where)
    first: dict[bytes, int] = {}
    scanned: list[Scanned] = []
    of = np.zeros(len(paths), np.int64)
    for rank, path in enumerate(paths):
        data = b"".join(files.blocks(path))
        digest = hashlib.blake2b(data, digest_size=20).digest()
        if digest not in first:
            first[digest] = len(scanned)
            scanned.append(scan(path, data))
        of[rank] = first[digest]
    carried = grouping.merged((item.groups for item in scanned), len(paths))
    beside = Path(f"{prefix}.json") if prefix else None
    if groups is None and beside is not None and grouping.looks_like(beside):
        groups = beside
    if isinstance(groups, str | Path):
        given = grouping.read(Path(groups), len(paths))
    else:
        given = grouping.from_mapping(groups or {}, len(paths))
    return TraceSet(tuple(item.trace for item in scanned), of, {**carried, **given}, prefix or str(paths[0]))


# --- writing --------------------------------------------------------------------------------------------------------


def _attributes(trace: Trace, row: int) -> list[Attribute]:
    """Attributes of a row that do not depend on the rank."""
    out = []
    if trace.cpu[row] >= 0:
        out.append(Attribute("is_cpu_op", "bool", bool(trace.cpu[row] > 0)))
    if trace.flops[row]:
        out.append(_real("num_ops", "int64", float(trace.flops[row])))
    if trace.bytes[row]:
        out.append(_real("tensor_size", "uint64", float(trace.bytes[row])))
    if trace.coll[row] >= 0:
        out.append(Attribute("comm_type", "int64", int(trace.coll[row])))
    if trace.size[row] >= 0:
        out.append(Attribute("comm_size", "int64", int(trace.size[row])))
    for name, column in (("comm_tag", trace.tag), ("comm_priority", trace.priority)):
        if column[row]:
            out.append(_whole(name, int(column[row])))
    if trace.dims[row] >= 0:
        out.append(Attribute("involved_dim", "bool_list", list(trace.involved[trace.dims[row]])))
    for name, codes, table in (("stream", trace.stream, trace.streams), ("dse.tier", trace.tier, trace.tiers)):
        if codes[row] >= 0:
            out.append(Attribute(name, "string", table[codes[row]]))
    if trace.seconds[row] != trace.micros[row] * 1e-6:
        out.append(Attribute("dse.seconds", "double", float(trace.seconds[row])))
    return out


def _whole(name: str, value: int) -> Attribute:
    return Attribute(name, "int32" if abs(value) < 1 << 31 else "int64", value)


def _real(name: str, kind: str, value: float) -> Attribute:
    """As an integer, which every reader takes, unless it has a fraction or is out of range."""
    fits = value.is_integer() and (0 <= value < 1 << 63)
    return Attribute(name, kind, int(value)) if fits else Attribute(name, "double", value)


def _nodes(trace: Trace) -> list[Node]:
    ids, data, ctrl = trace.ids.tolist(), trace.data.tolist(), trace.ctrl.tolist()
    return [
        Node(
            ids[row],
            trace.names[trace.name[row]],
            int(trace.kind[row]),
            [ids[i] for i in ctrl[trace.ctrl_ptr[row] : trace.ctrl_ptr[row + 1]]],
            [ids[i] for i in data[trace.data_ptr[row] : trace.data_ptr[row + 1]]],
            int(trace.start[row]),
            int(trace.micros[row]),
            attrs=_attributes(trace, row),
        )
        for row in range(len(trace))
    ]


def _peers(trace: Trace, row: int, rank: int, ranks: int) -> list[Attribute]:
    """``comm_src`` and ``comm_dst`` of a row as ranks."""
    kind, src, dst = int(trace.kind[row]), int(trace.src[row]), int(trace.dst[row])
    if trace.relative:
        src, dst = (rank, rank + dst) if kind == Kind.SEND else (rank + src, rank)
        peer = dst if kind == Kind.SEND else src
        if not 0 <= peer < ranks:
            raise _refuse(f"rank {rank}, node {trace.ids[row]}", f"its peer is rank {peer}, outside 0 ... {ranks - 1}")
    return [_whole(name, value) for name, value in (("comm_src", src), ("comm_dst", dst)) if value >= 0]


def _clear(prefix: Path | str, kept: list[Path]) -> None:
    """Remove what an earlier set of traces of this prefix left: its other ranks and its groups."""
    path = Path(prefix)
    old = re.compile(re.escape(path.name) + r"\.(\d+\.et(\.gz)?|json)")
    names = {file.name for file in kept}
    for file in path.parent.iterdir():
        if old.fullmatch(file.name) and file.name not in names:
            file.unlink()


def save(traces: TraceSet, prefix: Path | str, *, gzip: bool = False, numbered: bool = False) -> list[Path]:
    """Write ``PREFIX.<rank>.et`` for every rank and, if there are groups, ``PREFIX.json``; earlier ones are replaced.

    Relative peers become ranks. A label that several groups carry becomes one label a group, ``label.row``. Only what
    the columns hold is written: texts of inputs and outputs are not.

    Args:
        gzip: compress, as ``PREFIX.<rank>.et.gz``.
        numbered: name the groups 1, 2, ... as simulators need that take labels for integers.

    Raises:
        SpecError: a relative peer outside the ranks, or a rank that is in no group of a label it uses.
        StudyError: a file cannot be written.
    """
    names = {
        (label, row): f"{label}.{row}" if len(table) > 1 else label
        for label, table in traces.groups.items()
        for row in range(len(table))
    }
    if numbered:
        names = {key: str(index) for index, key in enumerate(names, 1)}
    rows_of = {label: _rows(table, len(traces)) for label, table in traces.groups.items()}
    head = [Metadata(trace.version) for trace in traces.classes]
    bodies = [_nodes(trace) for trace in traces.classes]
    out = []
    for rank, trace in traces.items():
        index = int(traces.of[rank])
        nodes = bodies[index]
        for row in np.flatnonzero((trace.group >= 0) | np.isin(trace.kind, (Kind.SEND, Kind.RECV))).tolist():
            kept = [item for item in nodes[row].attrs if item.name not in ("pg_name", "comm_src", "comm_dst")]
            if trace.kind[row] in (Kind.SEND, Kind.RECV):
                kept += _peers(trace, row, rank, len(traces))
            if trace.group[row] >= 0:
                label = trace.labels[trace.group[row]]
                if label in rows_of and rows_of[label][rank] < 0:
                    raise _refuse(f"rank {rank}, node {trace.ids[row]}", f"is in no group {label!r}"[:100])
                kept.append(
                    Attribute(
                        "pg_name", "string", names[label, int(rows_of[label][rank])] if label in rows_of else label
                    )
                )
            nodes[row].attrs = kept
        out.append(files.write(f"{prefix}.{rank}.et{'.gz' if gzip else ''}", head[index], nodes))
    if traces.groups:
        table = {
            names[label, row]: ranks.tolist() for label, rows in traces.groups.items() for row, ranks in enumerate(rows)
        }
        text = json.dumps(table, separators=(", ", ": "))
        out.append(
            write_atomically(
                Path(f"{prefix}.json"), lambda path: path.write_text(text + "\n", encoding="utf-8") and None
            )
        )
    _clear(prefix, out)
    return out


def _rows(table: Ints, ranks: int) -> Ints:
    """The row of each rank in a table of groups, -1 if in none."""
    rows = np.full(ranks, -1, np.int64)
    rows[table] = np.arange(len(table))[:, None]
    return rows
