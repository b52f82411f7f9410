"""Traces as files for Perfetto and ``chrome://tracing``."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.trace.columns import Floats, Trace, TraceSet
from dse.trace.critical import kind_name, trace_of
from dse.trace.lanes import FAMILIES, family_of, played
from dse.trace.schema import Kind
from dse.trace.summary import type_name

MOST = 16  # ranks that are written unless the caller names them
ARROWS = 20_000  # dependences between rows that are drawn for a rank at most


def to_perfetto(
    traces: Trace | TraceSet,
    path: str | Path,
    *,
    ranks: Sequence[int] | None = None,
    times: Mapping[int, tuple[Floats, Floats]] | None = None,
    arrows: bool = True,
) -> Path:
    """Write a timeline: a process a rank, a thread a stream, an event a node, arrows for dependences between threads.

    Args:
        traces: a trace, or those of all ranks.
        path: ends in .json or .json.gz.
        ranks: which; by default the first rank of each distinct trace, 16 at most.
        times: start and duration of the nodes of a rank in seconds, for instance of a simulation; by default the
            recorded ones, or the earliest that dependences allow where none were recorded.
        arrows: draw dependences.

    Raises:
        SpecError: another ending, no such rank, or as :func:`dse.trace.lanes.played`.
        StudyError: the file cannot be written.
    """
    from dse.study.export import write_atomically

    path = Path(path)
    if not path.name.endswith((".json", ".json.gz")):
        raise SpecError([Fault("perfetto", str(path)[-80:], "must end in .json or .json.gz")])
    if ranks is None:
        ranks = [0] if isinstance(traces, Trace) else np.unique(traces.of, return_index=True)[1].tolist()[:MOST]
    events: list[dict[str, Any]] = []
    for rank in ranks:
        trace = trace_of(traces, rank)
        events += _events(trace, rank, (times or {}).get(rank, (None, None)), arrows)
    data = json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, allow_nan=False).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    return write_atomically(path, lambda temporary: temporary.write_bytes(data) and None)


def _events(trace: Trace, rank: int, times: tuple[Floats | None, Floats | None], arrows: bool) -> list[dict[str, Any]]:
    """The events of one rank; times in microseconds, as the format has them."""
    run = played(trace, *times)
    meta = {"ph": "M", "pid": rank}
    out: list[dict[str, Any]] = [{**meta, "name": "process_name", "args": {"name": f"rank {rank}"}}]
    out += [{**meta, "tid": k, "name": "thread_name", "args": {"name": name}} for k, name in enumerate(run.lanes)]
    start, took = (1e6 * run.start).tolist(), (1e6 * run.seconds).tolist()
    family, lane = family_of(trace).tolist(), run.lane.tolist()
    for row, (name, kind) in enumerate(zip(trace.name.tolist(), trace.kind.tolist(), strict=True)):
        out.append(
            {"ph": "X", "name": trace.names[name], "cat": FAMILIES[family[row]], "pid": rank, "tid": lane[row],
             "ts": start[row], "dur": took[row], "args": _said(trace, row, kind)}
        )  # fmt: skip
    return out + _arrows(trace, rank, lane, start, took) if arrows else out


def _said(trace: Trace, row: int, kind: int) -> dict[str, Any]:
    """What a click on an event shows."""
    said: dict[str, Any] = {"node": int(trace.ids[row]), "kind": kind_name(kind)}
    if trace.flops[row]:
        said["FLOP"] = float(trace.flops[row])
    if trace.bytes[row]:
        said["bytes"] = float(trace.bytes[row])
    if kind in (Kind.SEND, Kind.RECV, Kind.COLL):
        said |= {"type": type_name(kind, int(trace.coll[row])), "size [B]": int(trace.size[row])}
        said["group"] = trace.labels[trace.group[row]] if trace.group[row] >= 0 else "all ranks"
    if kind in (Kind.SEND, Kind.RECV):
        said |= {"source": int(trace.src[row]), "destination": int(trace.dst[row])}
    return said


def _arrows(trace: Trace, rank: int, lane: list[int], start: list[float], took: list[float]) -> list[dict[str, Any]]:
    """From the end of a node to the start of one on another thread that depends on it."""
    pointers, parents = trace.parents
    child = np.repeat(np.arange(len(trace)), np.diff(pointers))
    rows = np.array(lane, np.int64)
    across = np.flatnonzero(rows[child] != rows[parents])[:ARROWS]
    out = []
    for number, (one, other) in enumerate(zip(parents[across].tolist(), child[across].tolist(), strict=True)):
        both = {"cat": "dependence", "name": "dependence", "pid": rank, "id": (rank << 32) + number}
        # An arrow is bound to the event around its end: just inside.
        out.append({**both, "ph": "s", "tid": lane[one], "ts": start[one] + 0.999 * took[one]})
        out.append({**both, "ph": "f", "bp": "e", "tid": lane[other], "ts": start[other]})
    return out
