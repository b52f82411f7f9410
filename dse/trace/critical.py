"""When nodes can run at the earliest, and the chain of dependences that takes longest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.jit import njit
from dse.trace.columns import Floats, Ints, Trace, TraceSet
from dse.trace.schema import Kind

if TYPE_CHECKING:
    import pandas as pd


@njit(cache=True)
def _earliest(parent_ptr, parents, child_ptr, children, seconds):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Order in which nodes become ready, start of each, the parent that it waits for longest, and its level."""
    n = len(seconds)
    left = np.empty(n, np.int64)
    order = np.empty(n, np.int64)
    start = np.zeros(n, np.float64)
    via = np.full(n, -1, np.int64)
    level = np.zeros(n, np.int64)
    tail = 0
    for i in range(n):
        left[i] = parent_ptr[i + 1] - parent_ptr[i]
        if left[i] == 0:
            order[tail] = i
            tail += 1
    head = 0
    while head < tail:
        i = order[head]
        head += 1
        end = start[i] + seconds[i]
        for k in range(child_ptr[i], child_ptr[i + 1]):
            j = children[k]
            # Of parents that end together the first is taken, so that the answer does not depend on the order.
            if via[j] < 0 or end > start[j] or (end == start[j] and i < via[j]):
                start[j] = end
                via[j] = i
            level[j] = max(level[j], level[i] + 1)
            left[j] -= 1
            if left[j] == 0:
                order[tail] = j
                tail += 1
    return order[:tail], start, via, level


@dataclass(frozen=True, eq=False)
class Schedule:
    """Every node as early as its dependences allow; n nodes.

    Attributes:
        start, seconds: float [n], in seconds.
        via: int [n], the parent that ends last; -1 without parents.
        level: int [n], dependences from the first nodes, along the longest chain.
    """

    start: Floats
    seconds: Floats
    via: Ints
    level: Ints

    @property
    def end(self) -> float:
        """When the last node ends, in seconds."""
        return float(np.max(self.start + self.seconds, initial=0.0))


def earliest(trace: Trace, seconds: Floats | None = None) -> Schedule:
    """Run every node as soon as what it depends on has ended, with no other limit.

    Args:
        trace: n nodes.
        seconds: durations [n] to use in place of the recorded ones, for instance a simulation's.

    Raises:
        SpecError: durations of another shape, negative or not finite, or dependences in a circle.
    """
    took = trace.seconds if seconds is None else np.asarray(seconds, np.float64)
    if took.shape != (len(trace),):
        raise SpecError([Fault("seconds", str(took.shape), f"must have the shape ({len(trace)},), one a node")])
    if not np.all(np.isfinite(took) & (took >= 0)):
        node = int(trace.ids[np.flatnonzero(~(np.isfinite(took) & (took >= 0)))[0]])
        raise SpecError([Fault("seconds", f"of node {node}", "must be finite and not negative")])
    order, start, via, level = _earliest(*trace.parents, *trace.children, took)
    if len(order) < len(trace):
        inside = np.ones(len(trace), bool)
        inside[order] = False
        node = int(trace.ids[np.flatnonzero(inside)[0]])
        rule = f"{int(inside.sum())} nodes depend on each other in a circle or on such: check with validate()"
        raise SpecError([Fault("dependences", f"of node {node}", rule)])
    return Schedule(start, took, via, level)


def trace_of(traces: Trace | TraceSet, rank: int) -> Trace:
    """The trace of a rank, or the trace itself.

    Raises:
        SpecError: there is no such rank.
    """
    if isinstance(traces, Trace):
        return traces
    if rank not in traces:
        raise SpecError([Fault("rank", str(rank), f"must be 0 to {len(traces) - 1}")])
    return traces[rank]


@dataclass(frozen=True, eq=False)
class CriticalPath:
    """The chain of dependences that takes longest; k nodes from the first to the last.

    Attributes:
        rows: int [k], nodes as rows of the trace.
        start, seconds: float [k], in seconds, in the earliest schedule.
        trace: what they are rows of.
    """

    trace: Trace
    rows: Ints
    start: Floats
    seconds: Floats

    @property
    def total(self) -> float:
        """Length in seconds: no machine runs the trace faster with these durations."""
        return float(self.seconds.sum())

    @property
    def by_kind(self) -> dict[str, float]:
        """Seconds of the path in each kind of node."""
        kinds = self.trace.kind[self.rows]
        return {kind_name(kind): float(self.seconds[kinds == kind].sum()) for kind in np.unique(kinds)}

    def to_pandas(self) -> pd.DataFrame:
        """A row a node of the path: id, name, kind, start and duration in seconds, share of the path."""
        import pandas as pd

        trace, rows = self.trace, self.rows
        return pd.DataFrame(
            {
                "node": trace.ids[rows],
                "name": [trace.names[k] for k in trace.name[rows]],
                "kind": [kind_name(kind) for kind in trace.kind[rows]],
                "start [s]": self.start,
                "duration [s]": self.seconds,
                "share": self.seconds / (self.total or 1.0),
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Length, number of nodes and seconds by kind."""
        return {"seconds": self.total, "nodes": len(self.rows), "by_kind": self.by_kind}

    def __repr__(self) -> str:
        from dse.units import engineering

        parts = ", ".join(f"{name} {engineering(value, 's', 3)}" for name, value in self.by_kind.items() if value)
        return f"CriticalPath({len(self.rows):,} nodes, {engineering(self.total, 's')}{': ' + parts if parts else ''})"


def kind_name(kind: int) -> str:
    """``COMP`` for 4; the number itself where it has no name."""
    return Kind(int(kind)).name if 0 <= kind <= max(Kind) else str(int(kind))


def critical_path(traces: Trace | TraceSet, rank: int = 0, seconds: Floats | None = None) -> CriticalPath:
    """The longest chain of dependences of one rank, by the durations of its nodes; by their number if none takes time.

    Args:
        traces: a trace, or those of all ranks.
        rank: whose, of several.
        seconds: durations [n] in place of the recorded ones: with those of a simulation the communication counts too
            (in traces that were generated it has none of its own).

    Raises:
        SpecError: no such rank, or as :func:`earliest`.
    """
    trace = trace_of(traces, rank)
    found = earliest(trace, seconds)
    chain = found if found.end > 0 else earliest(trace, np.ones(len(trace)))
    rows = []
    at = int(np.argmax(chain.start + chain.seconds)) if len(trace) else -1
    while at >= 0:
        rows.append(at)
        at = int(chain.via[at])
    path = np.array(rows[::-1], np.int64)
    return CriticalPath(trace, path, found.start[path], found.seconds[path])
