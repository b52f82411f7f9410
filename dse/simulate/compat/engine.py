"""Put a simulation together: tables for the compiled loop, pools that grow, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dse.errors import Fault, SpecError
from dse.simulate.compat import layout as L
from dse.simulate.compat import plan as plans
from dse.simulate.compat.layout import Ints, State
from dse.simulate.formats import Memory, Network, System
from dse.trace.columns import Trace, TraceSet
from dse.trace.schema import Collective, Kind

COMMS = {
    Collective.ALL_REDUCE: L.AR,
    Collective.ALL_GATHER: L.AG,
    Collective.REDUCE_SCATTER: L.RS,
    Collective.ALL_TO_ALL: L.A2A,
}
TOPOLOGIES = {"Ring": 0, "FullyConnected": 1, "Switch": 2}
MEMORIES = ("NO_MEMORY_EXPANSION", "PER_NPU_MEMORY_EXPANSION", "PER_NODE_MEMORY_EXPANSION", "MEMORY_POOL")
ALL_DIMS = 4  # without involved_dim, a collective takes part in the first four dimensions
POOL = 1 << 27  # rows, after which a run is too large for message by message


def runtime_ns(flops: np.ndarray, size: np.ndarray, system: System) -> np.ndarray:
    """Roofline times in whole ns: flops / min(peak, bandwidth x intensity); 0 where there is nothing to move."""
    with np.errstate(divide="ignore", invalid="ignore"):
        intensity = flops / size
        rate = np.minimum(system.local_mem_bw * 1e9 * intensity, system.peak_perf * 1e12)
        time = flops / rate * 1e9
    return np.where(np.isfinite(time), time, 0).astype(np.int64)


@dataclass
class Tables:
    """Plans, phases and masks that the nodes of all traces refer to, each once."""

    network: Network
    system: System
    plan_rows: list[tuple[int, int, int]] = field(default_factory=list)
    chunk_ptr: list[int] = field(default_factory=lambda: [0])
    phase_rows: list[tuple[int, ...]] = field(default_factory=list)
    masks: list[int] = field(default_factory=list)
    keys: list[tuple[int, int, int, int]] = field(default_factory=list)
    _seen: dict[tuple[int, int, int, int], int] = field(default_factory=dict)
    _lists: dict[int, tuple[int, int]] = field(default_factory=dict)

    def mask(self, bits: int) -> int:
        """The number of a set of dimensions."""
        if bits not in self.masks:
            self.masks.append(bits)
        return self.masks.index(bits)

    def plan(self, comm: int, size: int, bits: int, group: int) -> int:
        """The number of a collective's plan; ``group`` NPUs of a group, 0 for all."""
        key = (comm, size, bits, group)
        if key not in self._seen:
            if group:
                dims, takes = plans.group_ring(self.system, comm, group), [True]
            else:
                dims = plans.rings(self.network, self.system.implementation(comm))
                takes = [bool(bits >> d & 1) for d in range(len(dims))]
            if not dims:
                name = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")[comm]
                raise SpecError([Fault(f"{name}-implementation", "", "must name an algorithm for each dimension")])
            made = plans.make(dims, takes, comm, size, self.network.npus, self.system, self.network)
            self._seen[key] = len(self.plan_rows)
            for variant in made:
                self.keys.append(key)
                low = len(self.chunk_ptr) - 1
                for chunk in variant.chunks:
                    self.phase_rows.extend(chunk)
                    self.chunk_ptr.append(len(self.phase_rows))
                self.plan_rows.append((low, len(self.chunk_ptr) - 1, len(made)))
        return self._seen[key]

    def arrays(self) -> tuple[Ints, Ints, Ints]:
        """Plans [P, 3], chunks [C + 1] and phases [X, 9]."""
        phases = np.array(self.phase_rows or [(0,) * 9], np.int64).reshape(-1, 9)
        rows = np.array(self.plan_rows or [(0, 0, 1)], np.int64).reshape(-1, 3)
        return rows, np.array(self.chunk_ptr, np.int64), phases


def _involved(trace: Trace, row: int, dims: int) -> int:
    index = trace.dims[row]
    flags = trace.involved[index] if index >= 0 else (True,) * ALL_DIMS
    return sum(1 << d for d in range(min(dims, len(flags))) if flags[d])


def nodes_of(trace: Trace, traces: TraceSet, tables: Tables, memory: Memory) -> tuple[Ints, Ints]:
    """The columns ``N_*`` of a trace's nodes in the order of their ids, and that order."""
    order = np.argsort(trace.ids, kind="stable")
    system, network = tables.system, tables.network
    out = np.zeros((len(trace), L.NODE_COLS), np.int64)
    kind = trace.kind[order].astype(np.int64)
    cpu = trace.cpu[order] == 1
    out[:, L.N_LABEL] = -1
    out[:, L.N_SIZE], out[:, L.N_TAG], out[:, L.N_PRIO] = trace.size[order], trace.tag[order], trace.priority[order]
    slot = np.where(kind == Kind.COMP, L.GPU, np.where(kind == Kind.RECV, L.FREE_SLOT, L.COMM))
    out[:, L.N_SLOT] = np.where(cpu, L.CPU, slot)
    micros = trace.micros[order].astype(np.int64)
    replay = np.where(micros == 0, 1, micros * 1000)
    size = trace.bytes[order]
    out[:, L.N_KIND], out[:, L.N_TIME] = L.K_REPLAY, replay
    if not system.replay_only:
        _roofline(out, trace, order, kind, cpu, size, system)
        is_mem = (kind == Kind.MEM_LOAD) | (kind == Kind.MEM_STORE)
        with np.errstate(divide="ignore", invalid="ignore"):
            time = memory.latency + np.nan_to_num(size / (memory.bandwidth * 1e9) * 1e9).astype(np.int64)
        out[is_mem, L.N_KIND], out[is_mem, L.N_TIME] = L.K_MEM, time[is_mem]
        for at in np.flatnonzero((kind == Kind.SEND) | (kind == Kind.RECV) | (kind == Kind.COLL)):
            _comm(out[at], trace, int(order[at]), traces, tables, len(network.npus_count))
    out[kind == Kind.INVALID, L.N_KIND] = L.K_SKIP
    out[kind == Kind.METADATA, L.N_KIND], out[kind == Kind.METADATA, L.N_BAD] = L.K_BAD, L.METADATA
    return out, order


def _roofline(out: Ints, trace: Trace, order: Ints, kind: Ints, cpu: Ints, size: np.ndarray, system: System) -> None:
    if not system.roofline_enabled:
        return
    on = (kind == Kind.COMP) & ~cpu
    out[on, L.N_TIME] = runtime_ns(trace.flops[order], size, system)[on]
    out[on & (size == 0), L.N_KIND] = L.K_SKIP


def _comm(row: Ints, trace: Trace, at: int, traces: TraceSet, tables: Tables, dims: int) -> None:
    """Fill in a node that communicates; what ASTRA-sim refuses becomes ``K_BAD`` with the reason."""
    kind = trace.kind[at]
    row[L.N_KIND] = {Kind.SEND: L.K_SEND, Kind.RECV: L.K_RECV, Kind.COLL: L.K_COLL}[Kind(kind)]
    why = L.FINE
    if row[L.N_SLOT] == L.CPU:
        why = L.ON_CPU
    elif kind == Kind.SEND:
        row[L.N_PEER] = trace.dst[at]
        why = L.NO_DST if trace.dst[at] < 0 and not trace.relative else L.FINE
    elif kind == Kind.RECV:
        row[L.N_PEER] = trace.src[at]
        why = L.NO_SRC if trace.src[at] < 0 and not trace.relative else L.FINE
    if kind != Kind.COLL:
        row[L.N_MASK] = trace.relative  # the peer is so many ranks away
    if why == L.FINE and kind != Kind.COLL and trace.size[at] <= 0:
        why = L.NO_SIZE
    if why == L.FINE and kind == Kind.COLL:
        comm = COMMS.get(Collective(trace.coll[at])) if trace.coll[at] >= 0 else None
        if trace.coll[at] == Collective.BROADCAST:  # replayed: 1 ns where nothing is recorded
            row[L.N_KIND] = L.K_REPLAY
            row[L.N_SLOT] = L.COMM
        elif comm is None:
            why = L.UNSUPPORTED if trace.coll[at] >= 0 else L.NO_TYPE
        elif trace.size[at] < 0:
            why = L.NO_SIZE
        else:
            _collective(row, trace, at, comm, traces, tables, dims)
    if why != L.FINE:
        row[L.N_KIND], row[L.N_BAD] = L.K_BAD, why


def _collective(row: Ints, trace: Trace, at: int, comm: int, traces: TraceSet, tables: Tables, dims: int) -> None:
    size, bits, group = int(trace.size[at]), _involved(trace, at, dims), 0
    label = int(trace.group[at])
    if label >= 0:
        row[L.N_LABEL] = label
        table = traces.groups.get(trace.labels[label])
        if table is None:
            row[L.N_KIND], row[L.N_BAD] = L.K_BAD, L.NO_GROUP
            return
        group = 0 if table.shape[1] == tables.network.npus else table.shape[1]
        bits = (1 << dims) - 1
    row[L.N_PLAN] = tables.plan(comm, size, bits, group)
    row[L.N_MASK] = tables.mask(bits)


def group_ids(labels: Mapping[str, Ints]) -> tuple[Ints, Ints, Ints, dict[str, Ints]]:
    """Groups as (pointers [G + 1], members, id of each, by label the member slot of each rank's place [groups, size])."""
    pointers, members, ids, slots = [0], [], [], {}
    for number, (label, table) in enumerate(labels.items()):
        # What tells messages of groups apart: the number that the label is, or one of its own.
        own = int(label) if label.isdigit() and 0 < int(label) < 1 << 20 else (1 << 20) + number
        place = np.empty(table.shape, np.int64)
        for row, ranks in enumerate(table):
            place[row] = np.arange(pointers[-1], pointers[-1] + len(ranks))
            members.append(ranks)
            pointers.append(pointers[-1] + len(ranks))
            ids.append(own)
        slots[label] = place
    flat = np.concatenate(members) if members else np.zeros(0, np.int64)
    return np.array(pointers, np.int64), flat.astype(np.int64), np.array(ids, np.int64), slots
