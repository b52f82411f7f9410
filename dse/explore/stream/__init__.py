"""Sweeps of any size, streamed to a folder of Parquet files: bounded memory, any number of workers, never half done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dse.space.axes import Axis

if TYPE_CHECKING:
    from dse.explore.stream.plan import Plan
    from dse.explore.stream.progress import Report
    from dse.explore.stream.table import StreamedTable

__all__ = ["open_table", "plan_of", "resume", "stream"]


def stream(
    model: Any,
    cluster: Any,
    strategy: Any,
    *axes: Axis,
    out: str | Path,
    devices: int | None = None,
    replace: Any = (),
    all_strategies: bool = False,
    columns: Sequence[str] | None = None,
    workers: int | None = None,
    threads: int | None = None,
    scheduler: str | None = None,
    chunk: int | None = None,
    progress: Report | bool | None = None,
    part_rows: int | None = None,
) -> StreamedTable:
    """Price every combination of the axes' values into a folder of Parquet files, and open it as a table.

    The table has one row a design in the order of the axes, the last fastest: the axes, ``columns``, ``feasible``
    and ``reasons`` (the rules that fail). Its bytes depend on the inputs alone: not on workers, threads or ``chunk``,
    nor on how often the sweep was stopped or killed. The same call again goes on where the last one ended.

    Args:
        model, cluster, strategy, axes, devices, replace: as for :func:`dse.sweep`.
        out: the folder.
        all_strategies: add the axes of the strategy space behind ``axes``; fields that ``strategy`` states stay fixed.
        columns: quantities, entries (``time.forward``), margins of rules (``margin.memory_fits``), and ``dp``.
        workers: processes; more than one are a local Dask cluster (scripts then need ``if __name__ == "__main__"``).
        threads: threads of a single process, by default one a core.
        scheduler: address of a Dask scheduler, such as ``tcp://node1:8786``, whose workers do the work.
        chunk: designs that a worker is given at once, rounded to whole parts.
        progress: called with a :class:`~dse.explore.stream.progress.Progress`; True shows a bar.
        part_rows: designs in one file. An input: it decides where files are cut. A worker holds a part in memory.

    Raises:
        SpecError: with every fault of the inputs, axes and options.
        StudyError: another writer, other inputs in the folder, a full disk, or a lost cluster.
    """
    from dse.explore.stream.run import carry_out
    from dse.explore.stream.table import StreamedTable

    plan = plan_of(model, cluster, strategy, *axes, devices=devices, replace=replace, all_strategies=all_strategies,
                   columns=columns, part_rows=part_rows)  # fmt: skip
    carry_out(plan, Path(out), workers=workers, threads=threads, scheduler=scheduler, chunk=chunk, progress=progress)
    return StreamedTable(out)


def plan_of(
    model: Any,
    cluster: Any,
    strategy: Any,
    *axes: Axis,
    devices: int | None = None,
    replace: Any = (),
    all_strategies: bool = False,
    columns: Sequence[str] | None = None,
    part_rows: int | None = None,
) -> Plan:
    """The plan of a sweep (see :func:`stream`), with every input checked and nothing computed yet.

    Raises:
        SpecError: with every fault of the inputs, axes and columns.
    """
    from dse.explore.stream.columns import COLUMNS
    from dse.explore.stream.plan import PART_ROWS, make_plan

    if all_strategies:
        axes = with_strategies(model, cluster, strategy, axes, devices)
    return make_plan(
        model,
        cluster,
        strategy,
        axes,
        devices=devices,
        replace=replace,
        columns=[c for c in COLUMNS if c not in {a.name for a in axes}] if columns is None else columns,
        part_rows=PART_ROWS if part_rows is None else part_rows,
    )


def with_strategies(
    model: Any, cluster: Any, strategy: Any, axes: Sequence[Axis], devices: int | None = None
) -> tuple[Axis, ...]:
    """The axes, and behind them those of the strategy space without the fields that are given.

    Where an axis varies the number of devices or the batch, degrees are tried that suit any of its values.

    Raises:
        SpecError: with every fault of the inputs, or axes of whole models or strategies.
    """
    from dse.errors import Fault, SpecError
    from dse.explore.evaluate import bind_axes, load_specs
    from dse.space.enumerate import strategy_axes
    from dse.spec import Strategy, parse_strategy

    if isinstance(strategy, Strategy):
        raise SpecError([Fault("strategy", "Strategy", "must be text or a mapping of the fields that stay fixed")])
    specs: dict[str, Any] = load_specs(model, cluster, strategy, devices)
    bound = {b.axis.path: b for b in bind_axes(specs, axes, devices)}
    for path in ("model", "strategy"):
        if path in bound:
            raise SpecError([Fault(f"axis {path}", "", "the strategy space is of one model; sweep each by itself")])
    given = parse_strategy(strategy) if isinstance(strategy, str) and "=" in strategy else strategy
    fixed = set(given) if isinstance(given, dict) else set(specs["strategy"].model_fields_set)
    fixed |= {b.place.field for b in bound.values() if b.place.root == "strategy"}
    clusters = bound["cluster"].values if "cluster" in bound else (specs["cluster"],)
    counts = bound["cluster.devices"].values if "cluster.devices" in bound else ()
    batches = bound["strategy.global_batch"].values if "strategy.global_batch" in bound else ()
    merged: dict[str, dict[Any, None]] = {}
    for one in clusters:
        for count in counts or (one.devices,):
            for batch in batches or (specs["strategy"].global_batch,):
                for found in strategy_axes(specs["model"], one, int(count), int(batch), None, fixed):
                    merged.setdefault(found.path, {}).update(dict.fromkeys(found.values))
    return (*axes, *(Axis(path, _ordered(values), path.removeprefix("strategy.")) for path, values in merged.items()))


def _ordered(values: dict[Any, None]) -> tuple[Any, ...]:
    numbers = all(isinstance(v, int) and not isinstance(v, bool) for v in values)
    return tuple(sorted(values)) if numbers else tuple(values)


def resume(folder: str | Path, *, replace: Any = (), **options: Any) -> StreamedTable:
    """Go on with the sweep of a folder and open the table; options are those of :func:`stream` that say how to run.

    Raises:
        StudyError: the folder holds no sweep, one of another version, or one that another process writes.
    """
    from dse.explore.stream.run import resume as go_on

    go_on(folder, replace=replace, **options)
    return open_table(folder)


def open_table(folder: str | Path) -> StreamedTable:
    """A finished sweep.

    Raises:
        StudyError: the folder holds no finished sweep.
    """
    from dse.explore.stream.table import StreamedTable

    return StreamedTable(folder)
