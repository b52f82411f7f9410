"""The arrays of a run behind one pointer, for compiled functions.

As a tuple the arrays would be arguments of every compiled function one by one, which takes minutes to compile.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.experimental import structref

from dse.jit import njit
from dse.simulate.compat.layout import State

# Nothing is divided by zero, so no code for that exception. Functions that only compiled code calls need nothing for
# Python to call them, which is much of what takes time to compile.
compiled = njit(cache=True, error_model="numpy")
inner = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy")


@structref.register
class StateType(types.StructRef):
    """The type of :class:`~dse.simulate.compat.layout.State` in compiled code."""

    def preprocess_fields(self, fields: Any) -> Any:
        """Fields as they are, none literal."""
        return tuple((name, types.unliteral(kind)) for name, kind in fields)


FLOATS = {"rates": types.float64[:, ::1], "local": types.float64[::1]}
TABLES = frozenset(
    {
        *("heap", "items", "batches", "msgs", "links", "sizes", "streams", "data", "queues", "levels", "ranks"),
        *("plans", "phases", "nodes", "slot_ptr", "ready_n", "servers", "comms"),
    }
)


def _kind(name: str) -> Any:
    return FLOATS.get(name) or (types.int64[:, ::1] if name in TABLES else types.int64[::1])


STATE = StateType([(name, _kind(name)) for name in State._fields])


structref.define_boxing(StateType, structref.StructRefProxy)


@compiled
def pack(a):
    """The arrays of a :class:`State` as one object that compiled functions share."""
    w = structref.new(STATE)
    w.clock = a.clock
    w.heap = a.heap
    w.items = a.items
    w.batches = a.batches
    w.pending = a.pending
    w.msgs = a.msgs
    w.buckets = a.buckets
    w.links = a.links
    w.sizes = a.sizes
    w.rates = a.rates
    w.local = a.local
    w.streams = a.streams
    w.data = a.data
    w.queues = a.queues
    w.levels = a.levels
    w.trees = a.trees
    w.ranks = a.ranks
    w.plans = a.plans
    w.chunks = a.chunks
    w.phases = a.phases
    w.members = a.members
    w.group_of = a.group_of
    w.group_ptr = a.group_ptr
    w.counters = a.counters
    w.group_id = a.group_id
    w.nodes = a.nodes
    w.child_ptr = a.child_ptr
    w.child = a.child
    w.class_ptr = a.class_ptr
    w.slot_ptr = a.slot_ptr
    w.left = a.left
    w.start = a.start
    w.end = a.end
    w.ready = a.ready
    w.ready_n = a.ready_n
    w.later = a.later
    w.servers = a.servers
    w.waiting = a.waiting
    w.comms = a.comms
    w.arrived = a.arrived
    w.settings = a.settings
    return w
