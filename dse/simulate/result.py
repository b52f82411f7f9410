"""What a simulation found: time of each rank, every event, use of every port, the critical path, memory over time."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dse.simulate import fluid, records, times
from dse.simulate.prepare import Problem
from dse.trace.schema import Kind

if TYPE_CHECKING:
    from dse.simulate.occupancy import Overflow

Floats = NDArray[np.float64]
REASONS = ("dependence", "stream", "peer")
FIELDS = ("wall", "compute", "comm", "memory", "exposed_comm", "exposed_memory", "waiting")
MEANING = {
    "wall": "until the last node ends",
    "compute": "compute nodes run",
    "comm": "collectives and messages move",
    "memory": "data move between memories",
    "exposed_comm": "of comm, while nothing computes",
    "exposed_memory": "of memory, while nothing computes or communicates",
    "waiting": "nodes wait for peers and nothing else happens",
    "idle": "nothing computes, communicates or loads (waiting is a part of it)",
}


class Simulation:
    """Times of ranks [R] and of nodes in seconds; the ranks that were simulated once stand for all that are alike.

    Attributes:
        time: when the last rank is done.
        wall, compute, comm, memory, exposed_comm, exposed_memory, waiting, idle: of each rank [R]; see ``MEANING``.
            ``wall`` = compute + exposed_comm + exposed_memory + idle.
        actor_of: which simulated rank (an index) stands for each rank [R].
    """

    def __init__(self, problem: Problem, state: records.State, flow: fluid.Fluid) -> None:
        self.problem = problem
        self.actor_of = problem.actor_of
        self.base = state.base
        self.ready, self.issued, self.begin, self.end = state.ready, state.issued, state.begin, state.end
        self._cause, self._why = state.cause, state.why
        self._flow = flow
        self.time = float(np.max(state.end, initial=0.0))

    @cached_property
    def _spent(self) -> Floats:
        return times.account(self.base, self._category, self.issued, self.begin, self.end)

    @cached_property
    def _category(self) -> NDArray[np.int64]:
        of = np.full(len(Kind), times.NOTHING)
        of[Kind.COMP] = times.COMPUTE
        of[[Kind.COLL, Kind.SEND, Kind.RECV]] = times.COMM
        of[[Kind.MEM_LOAD, Kind.MEM_STORE]] = times.MEMORY
        found = of[self.column("kind")]
        found[(self.column("kind") == Kind.COMP) & (self.column("cpu") == 1)] = times.NOTHING
        return found

    def column(self, name: str) -> NDArray[Any]:
        """A column of the traces, of every simulated node."""
        known = self.problem.layout
        parts = [getattr(known.programs[p].trace, name) for p in known.program[self.problem.rank]]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def __getattr__(self, name: str) -> Floats:
        if name in FIELDS:
            return self._spent[self.actor_of, FIELDS.index(name)]
        raise AttributeError(name)

    @property
    def idle(self) -> Floats:
        """Seconds in which nothing computes, communicates or moves data, of each rank."""
        return np.maximum(self.wall - self.compute - self.exposed_comm - self.exposed_memory, 0.0)

    def per_rank(self) -> dict[str, Floats]:
        """Seconds of each rank, by name."""
        return {**{name: getattr(self, name) for name in FIELDS}, "idle": self.idle}

    @cached_property
    def dataset(self) -> Any:
        """An ``xarray.Dataset``: seconds by rank, and the use of every port over time (1: all of its bandwidth)."""
        import xarray as xr

        data = {
            name: ("rank", values, {"units": "s", "long_name": MEANING[name]})
            for name, values in self.per_rank().items()
        }
        bins, edges = self.utilization()
        found = xr.Dataset(data, coords={"rank": np.arange(len(self.actor_of))}, attrs={"time": self.time})
        if len(bins):
            middle = (edges[1:] + edges[:-1]) / 2
            about = {"units": "1", "long_name": "share of the bandwidth in use"}
            found["utilization"] = (("port", "when"), bins, about)
            found = found.assign_coords(port=self.ports, when=("when", middle, {"units": "s"}))
        return found

    def occupancy(self) -> Any:
        """Bytes in each memory over time, as a table; see :func:`dse.simulate.occupancy.occupancy`."""
        from dse.simulate.occupancy import occupancy

        return occupancy(self)

    @cached_property
    def overflows(self) -> tuple[Overflow, ...]:
        """Memories that hold more than fits at some time."""
        from dse.simulate.occupancy import overflows

        return overflows(self)

    @cached_property
    def ports(self) -> list[str]:
        """Names of the ports, links and memories that bytes flow over."""
        return self.problem.arrays["sets"].names()

    def utilization(self, bins: int = 100) -> tuple[Floats, Floats]:
        """Share of each port's bandwidth in use over time.

        Returns:
            ``[ports, bins]`` and the bins' edges ``[bins + 1]`` in seconds; no ports where nothing was recorded.
        """
        flow, edges = self._flow, np.linspace(0.0, self.time, bins + 1)
        if not len(flow.bins) or self.time <= 0:
            return np.zeros((0, bins)), edges
        at = np.concatenate([[0.0], np.arange(1, fluid.BINS + 1) * flow.width[0]])
        total = np.concatenate([np.zeros((len(flow.bins), 1)), np.cumsum(flow.bins, axis=1)], axis=1)
        total = np.stack([np.interp(edges, np.minimum(at, self.time), row) for row in total])
        return np.diff(total, axis=1) / np.diff(edges) / flow.capacity[:, None], edges

    def critical_path(self) -> Any:
        """The chain of nodes that sets the time, first to last, as a table.

        Columns: ``rank``, ``id``, ``name``, ``kind``, ``begin``, ``end`` (s), ``waited_for`` (what let it go: a
        ``dependence``, the ``stream`` that was busy, a ``peer``), ``seconds`` (what it adds to the path).
        """
        import pandas as pd

        chain = [int(np.argmax(self.end))] if len(self.end) else []
        while chain and self._cause[chain[-1]] >= 0:
            chain.append(int(self._cause[chain[-1]]))
        nodes = np.asarray(chain[::-1], np.int64)
        table = self._events(nodes)
        if len(nodes):
            receives = self.column("kind")[nodes] == Kind.RECV
            peer = self._why[nodes] == records.BY_PEER
            before = np.where(np.arange(len(nodes)) > 0, self.end[np.roll(nodes, 1)], 0.0)
            gate = np.where(peer & receives, before, self.begin[nodes])
            table["seconds"] = np.diff(np.append(gate, self.time))
        table["waited_for"] = [REASONS[code] for code in self._why[nodes]]
        columns = ["rank", "id", "name", "kind", "begin", "end", "waited_for", "seconds"]
        return table.reindex(columns=columns) if len(nodes) else pd.DataFrame(columns=columns)

    def _events(self, nodes: NDArray[np.int64]) -> Any:
        import pandas as pd

        actor = np.searchsorted(self.base, nodes, side="right") - 1
        known = self.problem.layout
        names = np.concatenate(
            [np.zeros(0, object)]
            + [
                np.asarray((*program.trace.names, ""), object)[program.trace.name]
                for program in (known.programs[p] for p in known.program[self.problem.rank])
            ]
        )
        kinds = np.asarray([kind.name for kind in Kind], object)
        return pd.DataFrame(
            {
                "rank": self.problem.rank[actor],
                "ranks": np.bincount(self.actor_of, minlength=len(self.problem.rank))[actor],
                "id": self.column("ids")[nodes],
                "name": names[nodes],
                "kind": kinds[self.column("kind")[nodes]],
                "ready": self.ready[nodes],
                "issued": self.issued[nodes],
                "begin": self.begin[nodes],
                "end": self.end[nodes],
            }
        )

    def to_pandas(self) -> Any:
        """Every node that was simulated: when it was ready, was issued, began and ended (seconds).

        ``rank`` is the first of the ``ranks`` ranks that the node stands for.
        """
        return self._events(np.arange(len(self.end)))

    def to_parquet(self, path: str | Path) -> Path:
        """Write :meth:`to_pandas`; never half a file."""
        return self.to_file(path)

    def to_file(self, path: str | Path) -> Path:
        """Write :meth:`to_pandas` as ``.parquet`` or ``.csv``.

        Raises:
            SpecError: another ending.
            StudyError: the file cannot be written.
        """
        from dse.study.export import write_table

        return write_table(path, self.to_pandas)

    def to_perfetto(self, path: str | Path) -> Path:
        """Write the timeline of the simulated ranks in the trace-event format that Perfetto opens."""
        from dse.study.export import write_atomically

        table = self.to_pandas()
        stream = np.concatenate([np.zeros(0, np.int64), *self._streams()])
        events: list[dict[str, Any]] = [
            {"ph": "M", "name": "process_name", "pid": int(rank), "args": {"name": f"rank {rank}" + _alike(count)}}
            for rank, count in zip(self.problem.rank, np.bincount(self.actor_of), strict=True)
        ]
        for row, line in zip(table.itertuples(), stream, strict=True):
            events.append(
                {
                    "ph": "X", "pid": int(row.rank), "tid": int(line), "name": row.name or row.kind, "cat": row.kind,
                    "ts": row.issued * 1e6, "dur": (row.end - row.issued) * 1e6, "args": {"id": int(row.id)},
                }
            )  # fmt: skip
        text = json.dumps({"traceEvents": events, "displayTimeUnit": "ns"})
        return write_atomically(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8") and None)

    def _streams(self) -> list[NDArray[np.int64]]:
        programs = self.problem.arrays["programs"]
        return [programs.stream[programs.base[p] : programs.base[p + 1]] for p in self.problem.program]

    def summary(self) -> Any:
        """Seconds by rank: least, mean and most, as a table."""
        import pandas as pd

        rows = {name: (v.min(), v.mean(), v.max()) for name, v in self.per_rank().items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["least", "mean", "most"])

    def to_dict(self) -> dict[str, Any]:
        """For JSON, in nanoseconds as traces' simulators count: the whole, and an entry a rank."""
        known = self.per_rank()
        names = {"wall": "wall", "compute": "compute", "communication": "comm", "exposed": "exposed_comm",
                 "memory": "memory", "exposed_memory": "exposed_memory", "idle": "idle"}  # fmt: skip
        columns = {name: np.rint(known[field] * 1e9).astype(np.int64).tolist() for name, field in names.items()}
        wall = columns["wall"]
        return {
            "cycles_max": max(wall, default=0),
            "cycles_min": min(wall, default=0),
            "unit": "ns",
            "simulated_ranks": len(self.problem.rank),
            "nodes": len(self.end),
            "overflows": [str(overflow) for overflow in self.overflows],
            "ranks": [dict(rank=rank, **dict(zip(columns, row, strict=True)))
                      for rank, row in enumerate(zip(*columns.values(), strict=True))],
        }  # fmt: skip

    def __repr__(self) -> str:
        from dse.units import engineering

        mean = {name: float(values.mean()) for name, values in self.per_rank().items()}
        head = f"Simulation: {engineering(self.time, 's')} on {len(self.actor_of)} ranks"
        if len(self.problem.rank) < len(self.actor_of):
            head += f" ({len(self.problem.rank)} simulated)"
        rows = (f"  {name:<15}{engineering(seconds, 's'):>12}  {MEANING[name]}" for name, seconds in mean.items())
        return "\n".join([f"{head}; mean over the ranks:", *rows, *map(str, self.overflows)])


def _alike(count: int) -> str:
    return f" (and {count - 1} alike)" if count > 1 else ""
