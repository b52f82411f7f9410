"""From traces and a system to what the event loop runs: programs, transfers, plans, ports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dse.errors import Fault, SpecError
from dse.simulate import fold, records
from dse.simulate.layout import Layout, Program, layout
from dse.simulate.system import Device, System
from dse.trace.columns import TraceSet
from dse.trace.schema import Kind

Ints = NDArray[np.int64]
COMPUTE, HOST, LOAD, STORE, FIRST_COMM = 0, 1, 2, 3, 4  # streams of a device
UNLIMITED = 1 << 62


class Call(NamedTuple):
    """Nodes that take part in collectives of groups, or that move data between memories; one row a node."""

    node: Ints
    actor: Ints
    row: Ints  # of the program
    group: Ints  # class of groups
    turn: Ints  # the how-manieth call of the group


@dataclass
class Problem:
    """What to run, and what its parts are.

    Attributes:
        layout: programs, groups, peers of all ranks.
        actor_of: actor that stands for each rank [R].
        rank: the first rank of each actor [A].
        kinds: the kind of device of each actor [A].
        program: of each actor [A], an index into the programs of the event loop.
        base: first node of each actor [A + 1].
        transfer: transfer of each node, -1.
        group: of each transfer, a group that carries it out; -1: none.
        turn: of each transfer, the how-manieth call of its group.
        arrays: what the event loop takes.
    """

    system: System
    layout: Layout
    actor_of: Ints
    rank: Ints
    kinds: Ints
    program: Ints
    base: Ints
    transfer: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    group: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    turn: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    arrays: dict[str, Any] = field(default_factory=dict)


def prepare(traces: TraceSet, system: System, *, fidelity: str, fold_ranks: bool, gather: str, replay: bool) -> Problem:
    """Everything that the event loop needs.

    Args:
        fidelity: ``analytical`` or ``flows``, which keeps all ranks.
        fold_ranks: simulate ranks that are alike once.
        gather: whether the size of an all-gather is what a rank puts in (``input``) or gets (``output``).
        replay: nodes take the durations of the trace where it has them; else the roofline's.
    """
    from dse.simulate.transfers import build

    known = layout(traces, system)
    ranks = np.arange(known.ranks)
    colour = fold.colours(known, system) if fold_ranks and fidelity == "analytical" else ranks
    rank = np.unique(colour, return_index=True)[1]
    kinds = system.kinds(known.ranks)[rank]
    pairs, program = np.unique(np.stack([known.program[rank], kinds], axis=1), axis=0, return_inverse=True)
    programs = _programs(known, pairs, system, replay)
    lengths = np.asarray([len(known.programs[p].trace) for p in known.program[rank]], np.int64)
    base = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    problem = Problem(system, known, colour, rank, kinds, program.reshape(-1), base)
    problem.arrays["programs"] = programs
    build(problem, gather, flows=fidelity == "flows")
    return problem


def _programs(known: Layout, pairs: Ints, system: System, replay: bool) -> records.Programs:
    parts = [_rows(known.programs[p], known, system, system.devices[k], replay) for p, k in pairs]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "child_ptr"}
    lengths = [len(part["kind"]) for part in parts]
    starts = np.concatenate([[0], np.cumsum([len(part["child"]) for part in parts])])
    child_ptr = np.concatenate(
        [part["child_ptr"][:-1] + at for part, at in zip(parts, starts, strict=False)] + [starts[-1:]]
    )
    return records.Programs(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        *(joined[name] for name in ("kind", "stream", "seconds", "priority", "order", "parents")),
        child_ptr.astype(np.int64),
        joined["child"],
        _streams(known, system),
    )


def _streams(known: Layout, system: System) -> Ints:
    comm = [1] * known.peers.shape[1] if system.comm_streams is None else [system.comm_streams]
    fixed = [system.compute_streams, 1, system.memory_streams, system.memory_streams]
    return np.asarray([*fixed, *comm, UNLIMITED], np.int64)


def _rows(program: Program, known: Layout, system: System, device: Device, replay: bool) -> dict[str, Any]:
    trace = program.trace
    pointers, child = trace.children
    kind = np.full(len(trace), records.TIMED, np.int8)
    joins = np.isin(trace.kind, (Kind.COLL, Kind.SEND)) | (moves(program) & bool(system.tiers)) | (program.slot >= 0)
    kind[joins] = records.JOIN
    kind[trace.kind == Kind.RECV] = records.RECEIVE
    stream = np.full(len(trace), -1, np.int64)
    stream[trace.kind == Kind.COMP] = COMPUTE
    stream[(trace.kind == Kind.COMP) & (trace.cpu == 1)] = HOST
    own = program.slot < 0  # what a group does has no stream: it goes when all are there
    stream[(trace.kind == Kind.MEM_LOAD) & own], stream[(trace.kind == Kind.MEM_STORE) & own] = LOAD, STORE
    coll, send = trace.kind == Kind.COLL, trace.kind == Kind.SEND
    if system.comm_streams is None:
        stream[send] = FIRST_COMM + program.peer[send]  # collectives of a group queue up when all have come
    else:
        stream[coll | send] = FIRST_COMM
    return {
        "kind": kind,
        "stream": stream,
        "seconds": seconds(program, device, replay),
        "priority": trace.priority.astype(np.int64),
        "order": program.order,
        "parents": np.diff(trace.parents[0]).astype(np.int64),
        "child_ptr": pointers,
        "child": child.astype(np.int64),
    }


def is_memory(program: Program) -> NDArray[np.bool_]:
    """Rows that load from or store to a memory."""
    return (program.trace.kind == Kind.MEM_LOAD) | (program.trace.kind == Kind.MEM_STORE)


def moves(program: Program) -> NDArray[np.bool_]:
    """Rows that move a known number of bytes to or from a memory."""
    return is_memory(program) & (program.trace.bytes > 0)


def seconds(program: Program, device: Device, replay: bool) -> NDArray[np.float64]:
    """Duration of each row that computes, or moves data in the device's own memory: of the trace, or the roofline's::

        T = max(FLOP / FLOP/s, bytes / memory bandwidth) + launch

    Raises:
        SpecError: a node has operations and no duration, and the device no rate.
    """
    trace = program.trace
    timed = (trace.kind == Kind.COMP) | is_memory(program)
    given = timed & (trace.seconds > 0) & replay
    modelled = timed & ~given & ((trace.flops > 0) | (trace.bytes > 0))
    unknown = np.flatnonzero(modelled & (trace.flops > 0) & np.isinf(device.flops))
    if len(unknown):
        row = int(unknown[0])
        rule = "has operations and no duration: give the device its FLOP/s"
        raise SpecError([Fault(f"node {int(trace.ids[row])}", trace.names[trace.name[row]][:60], rule)])
    result = np.zeros(len(trace))
    result[given] = trace.seconds[given] / device.speed
    work = np.maximum(trace.flops / device.flops, trace.bytes / device.memory_bandwidth) + device.launch
    result[modelled] = work[modelled]
    return result


def where(problem: Problem, node: int) -> str:
    """A node for messages: its rank, id and name."""
    actor = int(np.searchsorted(problem.base, node, side="right")) - 1
    trace = problem.layout.programs[problem.layout.program[problem.rank[actor]]].trace
    row = node - int(problem.base[actor])
    name = trace.names[trace.name[row]] if trace.names else ""
    return f"rank {int(problem.rank[actor])} node {int(trace.ids[row])}" + (f" ({name[:40]})" if name else "")


def calls(problem: Problem, group_class: Ints) -> Call:
    """All nodes of actors that take part in a group's transfers, with the group's class and the turn."""
    known = problem.layout
    found = []
    for actor, rank in enumerate(problem.rank):
        program = known.programs[known.program[rank]]
        rows = np.flatnonzero(program.slot >= 0)
        if not len(rows):
            continue
        rows = rows[np.argsort(program.order[rows], kind="stable")]
        slot = program.slot[rows]
        turn = running(slot)
        group = group_class[known.slots[rank, slot]]
        found.append((problem.base[actor] + rows, np.full(len(rows), actor), rows, group, turn))
    if not found:
        return Call(*(np.zeros(0, np.int64) for _ in Call._fields))
    return Call(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def column(problem: Problem, call: Call, name: str) -> NDArray[Any]:
    """A column of the traces, of each call."""
    result = np.zeros(len(call.node), np.float64 if name in ("bytes", "seconds") else np.int64)
    program = problem.layout.program[problem.rank][call.actor]
    for index in np.unique(program):
        these = program == index
        result[these] = getattr(problem.layout.programs[index].trace, name)[call.row[these]]
    return result


def running(values: Ints) -> Ints:
    """For each value, how many equal ones came before."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.concatenate([[0], np.flatnonzero(np.diff(ordered)) + 1]) if len(values) else np.zeros(0, np.int64)
    counts = np.diff(np.append(first, len(values)))
    result = np.empty(len(values), np.int64)
    result[order] = np.arange(len(values)) - np.repeat(first, counts)
    return result
