"""``simulate`` and ``collective``: traces, or one collective, on a system."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dse.errors import Fault, SpecError
from dse.simulate.system import System, _one_of
from dse.trace.columns import Trace, TraceSet
from dse.trace.schema import Collective, Kind

EXPLAINED = 10_000_000  # nodes that are simulated one by one to explain a deadlock


def simulate(
    traces: TraceSet | str | Path,
    system: System,
    *,
    fidelity: Literal["analytical", "flows"] = "analytical",
    fold: bool = True,
    schedule: Literal["ascending", "themis"] | None = None,
    gather: Literal["input", "output"] = "input",
    replay: bool = True,
    record: bool = True,
) -> Any:
    """Execute traces on a system, event by event.

    Args:
        traces: what each rank does, or the prefix of their files.
        system: what they do it on.
        fidelity: ``analytical``: a collective flows through the ports of its members; ``flows``: every message of its
            algorithm flows over the links on its way.
        fold: simulate ranks that are alike once (exact); ``flows`` does not.
        schedule: order of chunks over dimensions, instead of the system's.
        gather: whether the size of an all-gather is what a rank puts in, as in Chakra traces, or what it gets.
        replay: take durations from the trace where it has them; else the roofline's.
        record: note what passes every port over time.

    Returns:
        :class:`~dse.simulate.result.Simulation`.

    Raises:
        SpecError: traces that do not fit the system or each other.
        Deadlock: nodes that wait for ever, with who waits for whom.
    """
    if isinstance(traces, str | Path):
        from dse.trace import load

        traces = load(traces)
    from dse.simulate import engine, fluid, records
    from dse.simulate.deadlock import explain
    from dse.simulate.prepare import prepare
    from dse.simulate.result import Simulation

    _one_of("fidelity", fidelity, ("analytical", "flows"))
    _one_of("gather", gather, ("input", "output"))
    for name in ("graph", "algorithms") if fidelity == "analytical" else ():
        if getattr(system, name) is not None:
            raise SpecError(
                [Fault(f"system.{name}", "", "needs fidelity 'flows', which sends every message by itself")]
            )
    if schedule is not None:
        system = system.replace(schedule=schedule)
    problem = prepare(traces, system, fidelity=fidelity, fold_ranks=fold, gather=gather, replay=replay)
    arrays = problem.arrays
    state, timers = records.create(
        arrays["programs"], arrays["transfers"], arrays["plans"], program=problem.program, transfer=problem.transfer,
        job_transfer=arrays["job_transfer"], job_lane=arrays["job_lane"],
    )  # fmt: skip
    sets = arrays["sets"]
    flow = fluid.create(*sets.arrays(), arrays["job_set"], record)
    done = engine.run(
        arrays["programs"], arrays["transfers"], arrays["plans"], state, flow, timers, records.POLICY[system.policy]
    )
    if done < len(state.end):
        if len(problem.rank) < problem.layout.ranks and problem.layout.ranks * len(state.end) <= EXPLAINED:
            options = {"gather": gather, "replay": replay, "record": False}
            return simulate(traces, system, fidelity=fidelity, fold=False, **options)  # to name all ranks
        raise explain(problem, state)
    return Simulation(problem, state, flow)


def collective(
    kind: str | Collective, size: float, system: System, *, ranks: int | Iterable[int] | None = None, **options: Any
) -> Any:
    """One collective alone.

    Args:
        kind: ``all_reduce``, ``all_gather``, ``reduce_scatter``, ``all_to_all``, ``broadcast``, ...
        size: bytes of the full buffer (of an all-gather: what a rank gets).
        ranks: how many, or which; None: all places of the system.
        options: of :func:`simulate`.
    """
    name = kind.name if isinstance(kind, Collective) else str(kind)
    if name.upper() not in Collective.__members__:
        known = ", ".join(name.lower() for name in Collective.__members__)
        raise SpecError([Fault("kind", repr(name)[:40], f"must be one of {known}")])
    if not 0 <= size < 2.0**62:
        raise SpecError([Fault("size", repr(size), "must be bytes, at least 0")])
    chosen = range(ranks if isinstance(ranks, int) else system.ranks) if not isinstance(ranks, Iterable) else ranks
    table = np.asarray(chosen, np.int64).reshape(1, -1)
    if table.size == 0 or table.min() < 0 or table.max() >= system.ranks:
        raise SpecError([Fault("ranks", str(ranks)[:60], f"must be of 0 to {system.ranks - 1}")])
    of = np.ones(int(table.max()) + 1, np.int64)
    of[table] = 0
    classes = (_node(Collective[name.upper()], int(size)), _node(None, 0))
    return simulate(TraceSet(classes, of, {"group": table}), system, **{"gather": "output", **options})


def _node(kind: Collective | None, size: int) -> Trace:
    """A trace of one collective of the group ``group``, or of nothing."""
    n = int(kind is not None)
    empty = {name: np.zeros(n, kind) for name, kind in _COLUMNS.items()}
    known = empty | {"coll": np.full(n, kind or 0, np.int8), "kind": np.full(n, Kind.COLL, np.int8)}
    known["size"] = np.full(n, size)
    known |= {name: np.full(n, -1, np.int32) for name in ("dims", "stream", "tier")}
    pointers = np.zeros(n + 1, np.int64)
    none = np.zeros(0, np.int64)
    name = kind.name.lower() if kind is not None else ""
    return Trace(**known, data_ptr=pointers, data=none, ctrl_ptr=pointers, ctrl=none, names=(name,), labels=("group",))


_COLUMNS = {
    **dict.fromkeys(("ids", "start", "micros"), np.uint64),
    **dict.fromkeys(("name", "group"), np.int32),
    **dict.fromkeys(("seconds", "flops", "bytes"), np.float64),
    **dict.fromkeys(("src", "dst", "tag", "priority"), np.int64),
    "cpu": np.int8,
}
