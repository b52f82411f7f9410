"""The public ASTRA-sim's semantics, to the nanosecond: ``run`` for traces, ``collective`` for one collective.

Network, system, memory and group files are ASTRA-sim's own (:mod:`dse.simulate.formats`). What it gets wrong it gets
wrong here too: gigabytes of 2^30 bytes in the network and 10^9 in memory, times cut to whole ns step by step, three
passes over memory for a reduction, all-gathers sized by what each NPU contributes, several dimensions charged for the
first that differs, and nodes without work that strand what depends on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    from dse.simulate.compat.outcome import CompatRun
    from dse.trace.columns import TraceSet

Source = Mapping[str, Any] | str | Path | Any
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")


def run(
    traces: TraceSet | str | Path,
    network: Source,
    system: Source,
    memory: Source | None = None,
    groups: Source | None = None,
    *,
    every_message: bool | None = None,
) -> CompatRun:
    """Execute traces as ASTRA-sim does.

    Args:
        traces: of all ranks, or the prefix of their files.
        network, system, memory: specifications (:class:`~dse.simulate.formats.Network` and so on), mappings, or files.
        groups: communicator groups ``{"label": [ranks]}`` or a file, where the traces are read from files.
        every_message: simulate each message, or (False) answer collectives whole where nothing congests. The times are
            the same but where unrelated things happen to one NPU in the same ns. None: each message while they are few.

    Returns:
        The times; :meth:`~dse.simulate.compat.outcome.CompatRun.check` raises where ranks did not finish.

    Raises:
        SpecError: a file or specification that is wrong, or traces that do not fit the network.
    """
    from dse.simulate.compat.machine import compile_program, exactly
    from dse.simulate.compat.outcome import collect
    from dse.simulate.compat.whole import can_answer, cheap, wholly
    from dse.simulate.formats import Memory, Network, System, checked

    if isinstance(traces, str | Path):
        from dse.trace import load

        traces = load(traces, groups)
    elif groups is not None:
        from dataclasses import replace

        from dse.trace import groups as grouping

        found = grouping.read(Path(groups), len(traces)) if isinstance(groups, str | Path) else None
        traces = replace(traces, groups=found or grouping.from_mapping(groups, len(traces)))
    program = compile_program(
        traces, checked(Network, network), checked(System, system), checked(Memory, {} if memory is None else memory)
    )
    if every_message is None:
        every_message = cheap(program)
    w = None if every_message or not can_answer(program.tables) else wholly(program)
    return collect(program, exactly(program) if w is None else w)


def collective(network: Source, system: Source, kind: str, size: int) -> tuple[int, int]:
    """Longest and shortest time in ns of one collective over all NPUs; (-1, -1) where its chunks block each other.

    On a symmetric network without congestion one NPU is simulated for all, so that the cost grows with the steps of the
    algorithms and not with the NPUs.

    Args:
        network, system: specifications, mappings or files.
        kind: ``all_reduce``, ``all_gather``, ``reduce_scatter`` or ``all_to_all``.
        size: ``comm_size`` in bytes: what each NPU holds before.

    Raises:
        SpecError: a specification that is wrong, or an algorithm that cannot do the collective.
    """
    from dse.simulate.compat.whole import durations
    from dse.simulate.formats import Network, System, checked

    if kind not in COLLECTIVES:
        raise SpecError([Fault("collective", kind, f"must be one of {', '.join(COLLECTIVES)}")])
    if size <= 0:
        raise SpecError([Fault("size", str(size), "must be above 0 bytes")])
    return durations(checked(Network, network), checked(System, system), COLLECTIVES.index(kind), size)


__all__ = ["collective", "run"]
