"""Put a simulation together: tables for the compiled loop, pools that grow, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dse.errors import Fault, SpecError
from dse.simulate.compat import layout as L
from dse.simulate.compat import plan as plans
from dse.simulate.compat.layout import Ints
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
            names = self.system.implementation(comm)
            if len(names) > len(self.network.npus_count) or not dims:
                name = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")[comm]
                raise SpecError(
                    [Fault(f"{name}-implementation", " ".join(names), "must name an algorithm a dimension")]
                )
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


def nodes_of(trace: Trace, traces: TraceSet, tables: Tables, memory: Memory) -> tuple[Ints, Ints]:
    """The columns ``N_*`` of a trace's nodes in the order of their ids, and that order."""
    order = np.argsort(trace.ids, kind="stable")
    system = tables.system
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
        _messages(out, trace, order, kind)
        _collectives(out, trace, order, kind, traces, tables)
        on_cpu = cpu & np.isin(kind, (Kind.SEND, Kind.RECV, Kind.COLL))
        out[on_cpu, L.N_KIND], out[on_cpu, L.N_BAD] = L.K_BAD, L.ON_CPU
    out[kind == Kind.INVALID, L.N_KIND] = L.K_SKIP
    out[kind == Kind.METADATA, L.N_KIND], out[kind == Kind.METADATA, L.N_BAD] = L.K_BAD, L.METADATA
    return out, order


def _roofline(out: Ints, trace: Trace, order: Ints, kind: Ints, cpu: Ints, size: np.ndarray, system: System) -> None:
    if not system.roofline_enabled:
        return
    on = (kind == Kind.COMP) & ~cpu
    out[on, L.N_TIME] = runtime_ns(trace.flops[order], size, system)[on]
    out[on & (size == 0), L.N_KIND] = L.K_SKIP


def _messages(out: Ints, trace: Trace, order: Ints, kind: Ints) -> None:
    """Sends and receives; what ASTRA-sim refuses becomes ``K_BAD`` with the reason."""
    for what, code, peers, why in (
        (Kind.SEND, L.K_SEND, trace.dst, L.NO_DST),
        (Kind.RECV, L.K_RECV, trace.src, L.NO_SRC),
    ):
        on = kind == what
        out[on, L.N_KIND] = code
        out[on, L.N_PEER], out[on, L.N_MASK] = peers[order][on], trace.relative
        own = trace.src if what == Kind.SEND else trace.dst
        out[on, L.N_PLAN] = -1 if trace.relative else own[order][on]
        for wrong, reason in ((on & (trace.size[order] <= 0), L.NO_SIZE), (on & (peers[order] < 0), why)):
            if reason == L.NO_SIZE or not trace.relative:
                out[wrong, L.N_KIND], out[wrong, L.N_BAD] = L.K_BAD, reason


def _collectives(out: Ints, trace: Trace, order: Ints, kind: Ints, traces: TraceSet, tables: Tables) -> None:
    """Collectives, each distinct one planned once."""
    at = np.flatnonzero(kind == Kind.COLL)
    if not len(at):
        return
    rows = order[at]
    told = np.stack([trace.coll[rows], trace.size[rows], trace.dims[rows], trace.group[rows]], axis=1).astype(np.int64)
    distinct, which = np.unique(told, axis=0, return_inverse=True)
    made = np.array([_collective(*row, trace, traces, tables) for row in distinct.tolist()], np.int64)
    columns = [L.N_KIND, L.N_BAD, L.N_PLAN, L.N_MASK, L.N_LABEL]
    out[np.ix_(at, columns)] = made[which.ravel()]


def _collective(
    coll: int, size: int, dims: int, label: int, trace: Trace, traces: TraceSet, tables: Tables
) -> tuple[int, int, int, int, int]:
    """Kind, fault, plan, mask and label of a collective."""
    if coll == Collective.BROADCAST:  # replayed: 1 ns where nothing is recorded
        return L.K_REPLAY, L.FINE, -1, 0, -1
    comm = COMMS.get(coll)
    if comm is None or size < 0:
        return L.K_BAD, L.NO_TYPE if coll < 0 else L.UNSUPPORTED if comm is None else L.NO_SIZE, 0, 0, -1
    count, group = len(tables.network.npus_count), 0
    flags = trace.involved[dims] if dims >= 0 else (True,) * ALL_DIMS
    bits = sum(1 << d for d in range(min(count, len(flags))) if flags[d])
    if label >= 0:
        table = traces.groups.get(trace.labels[label])
        if table is None:
            return L.K_BAD, L.NO_GROUP, 0, 0, -1
        group = 0 if table.shape[1] == tables.network.npus else table.shape[1]
        bits = (1 << count) - 1
    return L.K_COLL, L.FINE, tables.plan(comm, size, bits, group), tables.mask(bits), label


def group_ids(labels: Mapping[str, Ints]) -> tuple[Ints, Ints, Ints, dict[str, Ints]]:
    """Groups as (pointers [G + 1], members, id of each, by label the places of its groups among all members)."""
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
