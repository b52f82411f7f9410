"""PyTorch execution traces, merged with the profiler's, as Chakra traces.

The observer's host trace says which operators called which and with what tensors, the profiler's (Kineto) when they ran
and what ran on the device. Merged:

- every operator of the host is a node with its *own* time (that of what it called is theirs; calls that wait for the
  device are left out, a dependence says what they waited for); every kernel, copy and memory set of a device is a node.
- control dependences: the caller, and the operator before on the same thread (the order of the host); the kernel before
  on the same stream.
- data dependences: a kernel on the operator that launched it (by correlation and external id); who wrote the tensors
  last (by storage and range); a stream on the event of another it waits for; the host on the kernels it waits for; a
  backward operator on its forward one (by sequence number); the first operator of another thread on what was running.
- communication: kernels of NCCL, or operators of gloo and other backends, become collectives, sends and receives with
  bytes, group and peers; where only the host trace is there, the operators that would have launched them.

Where the recording has no device, the host is the device: its nodes have ``is_cpu_op`` false, and simulators that run
device operators only (ASTRA-sim does) see them. Time in which the host runs no operator (the interpreter's) is in no
node.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dse.errors import Fault, SpecError
from dse.trace.columns import Trace, TraceSet
from dse.trace.convert import comm
from dse.trace.convert.host import read_host
from dse.trace.convert.kineto import read_kineto
from dse.trace.convert.merge import Merged, merge
from dse.trace.convert.reading import integer
from dse.trace.schema import Kind

Source = str | Path


def pytorch(
    host: Source | Sequence[Source], kineto: Source | Sequence[Source] | None = None, *, rank: int | None = None
) -> TraceSet:
    """Convert the execution traces of PyTorch, schema 1.0.x to 1.1.x, to Chakra.

    Args:
        host: the observer's file (JSON, plain or gzip); or those of all ranks, in order; or a folder with
            ``host.<rank>.json`` and ``kineto.<rank>.json``, as :func:`dse.trace.record` writes them.
        kineto: the profiler's file of the same step, or those of all ranks; without it nodes have no times.
        rank: of a single file; by default the one that it names, or 0.

    Returns:
        The traces of all ranks. A single file of a run with more ranks stands for all of them, and the groups of the
        others are those of this rank, shifted; :func:`merged` gives the nodes of the one rank.

    Raises:
        SpecError: a file is not what it should be, files do not belong together, or one that cannot stand for all: it
            sends or receives, or its groups cannot be shifted.
    """
    hosts, profiles = _sources(host, kineto)
    found = [merged(h, p, rank=rank) for h, p in zip(hosts, profiles, strict=True)]
    if len(found) == 1:
        return _spread(found[0], str(hosts[0]))
    found.sort(key=lambda one: one.rank)
    if [one.rank for one in found] != list(range(len(found))):
        ranks = ", ".join(str(one.rank) for one in found[:20])
        raise SpecError([Fault("host", ranks, "the files must be those of ranks 0, 1, 2, ..., each once")])
    from dse.trace.groups import merged as union

    groups = union([one.groups for one in found], len(found))
    traces = tuple(_columns(one) for one in found)
    return TraceSet(traces, np.arange(len(found)), groups, source=str(hosts[0]))


def merged(host: Source, kineto: Source | None = None, *, rank: int | None = None) -> Merged:
    """The nodes of one rank, with its number, the groups it knows and the size of the run.

    Raises:
        SpecError: as :func:`pytorch`.
    """
    trace, profile = read_host(Path(host)), read_kineto(None if kineto is None else Path(kineto))
    if kineto is not None and trace.ops and not any(op.rf in profile.host for op in trace.ops):
        rule = "names no operator of the host trace: the two are not of one recording"
        raise SpecError([Fault("kineto", str(kineto)[-200:], rule)])
    groups = comm.groups_of(trace, profile)
    world = comm.world_of(profile, groups)
    if world > comm.MOST:
        raise SpecError([Fault("ranks", str(world), f"must be at most {comm.MOST}", str(host)[-200:])])
    own = integer(profile.info.get("rank")) if rank is None else rank
    if own < 0:
        number = re.search(r"\d+", Path(host).name)
        own = int(number.group()) if number and int(number.group()) < world else 0
    if own >= world > 1:
        raise SpecError([Fault("rank", str(own), f"must be below {world}, the ranks of the run", str(host)[-200:])])
    return merge(trace, profile, own, world, groups)


def _sources(
    host: Source | Sequence[Source], kineto: Source | Sequence[Source] | None
) -> tuple[list[Path], list[Path | None]]:
    """Host and profiler files in pairs."""
    if isinstance(host, str | Path) and Path(host).is_dir():
        folder = Path(host)
        hosts = sorted(path for end in ("json", "json.gz") for path in folder.glob(f"host.*.{end}"))
        if not hosts:
            raise SpecError([Fault("host", str(host)[-200:], "the folder has no host.<rank>.json or .json.gz")])
        twins = [
            [h.with_name(h.name.replace("host.", "kineto.", 1).removesuffix(".gz") + end) for end in ("", ".gz")]
            for h in hosts
        ]
        return hosts, [next((path for path in pair if path.exists()), None) for pair in twins]
    hosts = [Path(host)] if isinstance(host, str | Path) else [Path(one) for one in host]
    given = [kineto] if kineto is None or isinstance(kineto, str | Path) else list(kineto)
    profiles = [None if one is None else Path(one) for one in given]
    if kineto is None:
        profiles = [None] * len(hosts)
    if not hosts or len(hosts) != len(profiles):
        raise SpecError([Fault("kineto", f"{len(profiles)} files", f"must be as many as host traces, {len(hosts)}")])
    return hosts, profiles


def _columns(one: Merged) -> Trace:
    from dse.trace.dialects import columns

    return columns(one.nodes, one.metadata)


def _spread(one: Merged, source: str) -> TraceSet:
    """One rank's trace for all ranks of its run."""
    trace = _columns(one)
    point = np.flatnonzero((trace.kind == Kind.SEND) | (trace.kind == Kind.RECV))
    if one.world > 1 and len(point):
        name = trace.names[trace.name[point[0]]]
        rule = f"of a run of {one.world} ranks, sends or receives ({name!r}): give the files of all ranks"
        raise SpecError([Fault("host", f"rank {one.rank}", rule, source[-200:])])
    groups = {}
    for label in trace.labels if one.world > 1 else ():
        groups[label] = _shifted(label, sorted(one.groups.get(label, [])), one.world, source)
    return TraceSet((trace,), np.zeros(one.world, np.int64), groups, source=source)


def _shifted(label: str, group: list[int], world: int, source: str) -> np.ndarray:
    """Groups of the same shape that every rank is in one of: [groups, size]."""
    rows, free = [], np.ones(world, bool)
    for first in range(world):
        if free[first] and group:
            row = np.array(group) - group[0] + first
            if row[-1] >= world or not free[row].all():
                break
            free[row] = False
            rows.append(row)
    if free.any():
        rule = f"of ranks {group[:20]} cannot be shifted over {world} ranks: give the files of all ranks"
        raise SpecError([Fault(f"group {label!r}", "", rule, source[-200:])])
    return np.array(rows, np.int64)
