"""The state of a run, made from tables; pools that double until the run fits; collectives that are answered whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dse.errors import Fault, SpecError
from dse.simulate.compat import layout as L
from dse.simulate.compat.engine import MEMORIES, POOL, TOPOLOGIES, Tables, group_ids, nodes_of
from dse.simulate.compat.layout import Ints, State
from dse.simulate.formats import Memory, Network, System
from dse.trace.columns import TraceSet

INTRA = {"FIFO": 0, "RG": 1, "smallestFirst": 2}
POLICIES = {"LIFO": 0, "FIFO": 1, "EXPLICIT": 2}


@dataclass
class Program:
    """The nodes of all distinct traces, one class after the other, and the tables they refer to."""

    tables: Tables
    traces: TraceSet
    memory: Memory
    nodes: Ints
    orders: list[Ints]  # of each class: its rows in the order of ids
    class_ptr: Ints
    slot_ptr: Ints
    child_ptr: Ints
    child: Ints
    parents: Ints  # number of dependences of each node


def compile_program(traces: TraceSet, network: Network, system: System, memory: Memory) -> Program:
    """Tables of a set of traces for a system.

    Raises:
        SpecError: the traces do not fit the network, or a collective cannot be planned.
    """
    if len(traces) != network.npus:
        raise SpecError([Fault("npus_count", str(network.npus), f"must be the number of traces, {len(traces)}")])
    if memory.memory_type == MEMORIES[2] and memory.num_nodes * memory.num_npus_per_node < network.npus:
        rule = f"num-nodes x num-npus-per-node must be at least the {network.npus} NPUs of the network"
        raise SpecError([Fault("num-nodes", f"{memory.num_nodes} x {memory.num_npus_per_node}", rule)])
    tables = Tables(network, system)
    rows, orders, slots, child_ptr, child, parents = [], [], [], [np.zeros(1, np.int64)], [], []
    for trace in traces.classes:
        out, order = nodes_of(trace, traces, tables, memory)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        pointers, down = trace.children
        counts = np.diff(pointers)[order]
        ends = np.cumsum(counts)
        pick = np.repeat(pointers[:-1][order] - (ends - counts), counts) + np.arange(counts.sum())
        child_ptr.append(child_ptr[-1][-1] + ends)
        child.append(place[down[pick]] if len(down) else np.zeros(0, np.int64))
        parents.append(np.diff(trace.parents[0])[order])
        slots.append(np.concatenate([[0], np.cumsum(np.bincount(out[:, L.N_SLOT], minlength=4))]))
        rows.append(out)
        orders.append(order)
    return Program(
        tables,
        traces,
        memory,
        np.concatenate(rows),
        orders,
        np.cumsum([0, *(len(row) for row in rows)]),
        np.array(slots, np.int64),
        np.concatenate(child_ptr).astype(np.int64),
        np.concatenate(child).astype(np.int64),
        np.concatenate(parents).astype(np.int64),
    )


def _free_list(rows: int, cols: int, column: int) -> Ints:
    pool = np.zeros((rows, cols), np.int64)
    pool[1:-1, column] = np.arange(2, rows)
    return pool


def _settings(network: Network, system: System, memory: Memory, masks: list[int], whole: bool, fold: bool) -> Ints:
    out = np.zeros(L.MASKS + max(len(masks), 1), np.int64)
    out[L.G_RANKS], out[L.G_DIMS], out[L.G_QUEUES] = network.npus, len(network.npus_count), system.queues_per_dim
    out[L.G_AWARE], out[L.G_EP], out[L.G_RENDEZVOUS] = network.aware, system.endpoint_delay, system.rendezvous
    out[L.G_RUNNING] = -(-system.active_chunks_per_dimension // system.queues_per_dim)
    out[L.G_INTRA], out[L.G_POLICY] = INTRA[system.intra_dimension_scheduling], POLICIES[system.scheduling_policy]
    out[L.G_MEMORY], out[L.G_PER_NODE] = MEMORIES.index(memory.memory_type), max(memory.num_npus_per_node, 1)
    out[L.G_WHOLE], out[L.G_FOLD] = whole, fold
    out[L.G_TURNS] = system.inter_dimension_scheduling == "roundRobin"
    out[L.MASKS : L.MASKS + len(masks)] = masks
    return out


def _links(network: Network) -> int:
    n = network.npus_count[0]
    return n * n if network.topology[0] == "FullyConnected" else 2 * n


def state(program: Program, scale: int, whole: bool, fold: bool = False) -> State:
    """Arrays of a run that is about to begin; ``scale`` sizes the pools, ``fold`` simulates NPU 0 for all."""
    tables, traces = program.tables, program.traces
    network, system = tables.network, tables.system
    ranks = 1 if fold else network.npus
    dims, queues = len(network.npus_count), system.queues_per_dim
    of = traces.of[:ranks]
    lengths = np.diff(program.class_ptr)[of]
    base = np.concatenate([[0], np.cumsum(lengths)])
    pointers, members, ids, slots = group_ids(traces.groups)
    plans, chunks, phases = tables.arrays()
    widest = int(np.diff(chunks).max(initial=1))
    most = max(int((plans[:, 1] - plans[:, 0]).max(initial=1)), 1)
    pool = 64 + scale * ranks
    clock = np.zeros(16, np.int64)
    clock[[L.ITEM0, L.BATCH0, L.MSG0, L.STREAM0, L.DATA0]] = 1
    r = np.zeros((ranks, L.RANK_COLS), np.int64)
    r[:, L.R_END], r[:, L.R_CLASS], r[:, L.R_BASE] = -1, of, base[:-1]
    group_of, starts = _group_table(traces, slots, ranks)
    r[:, L.R_LABEL] = starts
    strides = np.cumprod([1, *network.npus_count[:-1]])
    levels = np.zeros((ranks * dims, 3), np.int64)
    levels[:, L.LAST] = queues // 2
    comms = np.zeros((len(pointers) - 1 + max(len(tables.masks), 1) * ranks, 4), np.int64)
    comms[: len(pointers) - 1, L.C_SIZE] = np.diff(pointers)
    for k, bits in enumerate(tables.masks):
        size = int(np.prod([n for d, n in enumerate(network.npus_count) if bits >> d & 1], dtype=np.int64))
        comms[len(pointers) - 1 + k * ranks : len(pointers) - 1 + (k + 1) * ranks, L.C_SIZE] = size
    return State(
        clock=clock,
        heap=np.zeros((4 * pool, 5), np.int64),
        items=_free_list(2 * pool, 5, L.ITEM_NEXT),
        batches=_free_list(pool, 4, L.BATCH_NEXT),
        pending=np.zeros(ranks, np.int64),
        msgs=_free_list(2 * pool, L.MSG, L.NEXT),
        buckets=np.zeros(1 << (pool - 1).bit_length(), np.int64),
        links=np.zeros((_links(network) if network.aware else 1, 3), np.int64),
        sizes=np.array(
            [[TOPOLOGIES[t], n, s] for t, n, s in zip(network.topology, network.npus_count, strides, strict=True)]
        ),
        rates=np.array(list(zip(network.bytes_per_ns, network.latency, strict=True))),
        local=np.array([system.local_mem_bw * 1e9 or np.inf]),
        streams=_free_list(2 + (1 if whole else ranks * 2 * most), L.STREAM_COLS + widest, L.S_NEXT),
        data=_free_list(2 + 2 * ranks, 4, L.D_NEXT),
        queues=np.zeros((ranks * dims * queues, 2), np.int64),
        levels=levels,
        trees=np.zeros(ranks * dims * 4, np.int64),
        ranks=r,
        plans=plans,
        chunks=chunks,
        phases=phases,
        members=members,
        group_of=group_of,
        group_ptr=pointers,
        counters=np.zeros(len(members), np.int64),
        group_id=ids,
        nodes=program.nodes,
        child_ptr=program.child_ptr,
        child=program.child,
        class_ptr=program.class_ptr,
        slot_ptr=program.slot_ptr,
        left=_of_all(program.parents, program.class_ptr, of),
        start=np.full(base[-1], -1, np.int64),
        end=np.full(base[-1], -1, np.int64),
        ready=np.zeros(base[-1], np.int64),
        ready_n=np.zeros((ranks, 4), np.int64),
        later=np.zeros(int(lengths.max(initial=0)) + ranks + 1, np.int64),
        servers=np.zeros((max(program.memory.num_nodes, 1), 3), np.int64),
        waiting=np.zeros(base[-1], np.int64),
        comms=comms,
        arrived=np.zeros(ranks, np.int64),
        settings=_settings(network, system, program.memory, tables.masks, whole, fold),
    )


def _of_all(values: Ints, class_ptr: Ints, of: Ints) -> Ints:
    parts = [values[class_ptr[c] : class_ptr[c + 1]] for c in of]
    return np.concatenate(parts) if parts else values[:0].copy()


def _group_table(traces: TraceSet, slots: dict[str, Ints], ranks: int) -> tuple[Ints, Ints]:
    """For each rank and each label of its trace the rank's place among all members (-1: none), and where they start."""
    found = {}
    for label, place in slots.items():
        row = np.full(len(traces), -1, np.int64)
        row[traces.groups[label]] = place
        found[label] = row
    nowhere = np.full(len(traces), -1, np.int64)
    widths = np.array([len(trace.labels) for trace in traces.classes], np.int64)[traces.of[:ranks]]
    starts = np.concatenate([[0], np.cumsum(widths)])
    out = np.full(max(int(starts[-1]), 1), -1, np.int64)
    for c, trace in enumerate(traces.classes):
        who = np.flatnonzero(traces.of[:ranks] == c)
        for k, label in enumerate(trace.labels):
            out[starts[who] + k] = found.get(label, nowhere)[who]
    return out, starts[:-1]


def exactly(program: Program, fold: bool = False, at: Ints | None = None, order: Ints | None = None) -> State:
    """Run message by message; NPUs start ``at`` [R] and in the ``order`` [R] given, or all at 0 in the order of ranks.

    Raises:
        SpecError: more messages at once than fit in memory.
    """
    from dse.simulate.compat.arrays import pack
    from dse.simulate.compat.work import advance, begin

    scale = 32
    while True:
        w = state(program, scale, False, fold)
        packed = pack(w)
        everyone = np.arange(len(w.ranks))
        begin(packed, everyone * 0 if at is None else at, everyone if order is None else order)
        advance(packed)
        if not w.clock[L.FULL]:
            return w
        scale *= 4
        if scale * len(w.ranks) > POOL:
            raise SpecError([Fault("npus_count", str(len(w.ranks)), "too many messages at once to simulate each")])
