"""Traces whose sharded parameters go through the switches of a shared memory instead of the network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.trace.columns import Trace, TraceSet
from dse.trace.schema import Collective, Kind

SHARED = ("dp", "expert_dp", "shard")  # groups whose ranks hold shards of the same parameters
OWN = (".load_weights", ".store_gradients")  # accesses of a rank to its own shard


def through_switches(traces: TraceSet, tier: str) -> TraceSet:
    """The traces of a training step with ZeRO whose parameters are in the memory ``tier``, with in-switch collectives.

    The ranks of a group that gather parameters load all of them together, one copy passing each link that they share;
    gradients are added up on their way into the memory. Loads and stores of a rank's own shard are then no longer
    needed and take no time.

    Raises:
        SpecError: no trace loads weights from this memory.
    """
    found = [_transformed(trace, traces, tier) for trace in traces.classes]
    if not any(changed for _, changed in found):
        rule = "no rank gathers parameters that are in this memory: it takes ZeRO-3 and offload_weights"
        raise SpecError([Fault("in_switch", repr(tier)[:60], rule)])
    return TraceSet(tuple(trace for trace, _ in found), traces.of, traces.groups, traces.source)


def _transformed(trace: Trace, traces: TraceSet, tier: str) -> tuple[Trace, bool]:
    if tier not in trace.tiers:
        return trace, False
    code = trace.tiers.index(tier)
    shared = [i for i, label in enumerate(trace.labels) if label in SHARED]
    ours = (trace.kind == Kind.COLL) & np.isin(trace.group, shared)
    gathers = ours & (trace.coll == Collective.ALL_GATHER)
    reduces = ours & (trace.coll == Collective.REDUCE_SCATTER)
    named = np.asarray([name.endswith(OWN) for name in trace.names], bool)
    own = (trace.tier == code) & named[trace.name] & np.isin(trace.kind, (Kind.MEM_LOAD, Kind.MEM_STORE))
    kind, size, where = trace.kind.copy(), trace.bytes.copy(), trace.tier.copy()
    members = np.asarray([traces.groups[label].shape[1] if i in shared else 1 for i, label in enumerate(trace.labels)])
    kind[gathers], kind[reduces] = Kind.MEM_LOAD, Kind.MEM_STORE
    size[gathers] = trace.size[gathers] * members[trace.group[gathers]]
    size[reduces] = trace.size[reduces]
    where[gathers | reduces] = code
    size[own] = 0.0
    changed: dict[str, Any] = {"kind": kind, "bytes": size, "tier": where}
    return replace(trace, **changed), bool(gathers.any() and own.any())
