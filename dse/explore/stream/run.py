"""Carrying out a plan: what is missing is computed, by threads here or by the workers of a Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from dse.errors import Fault, SpecError, StudyError
from dse.explore.stream.folder import (
    MANIFEST,
    Part,
    keep_inputs,
    locked,
    parts_in,
    sweep_up,
    write_manifest,
    write_part,
)
from dse.explore.stream.parts import part_bytes
from dse.explore.stream.plan import Plan
from dse.explore.stream.progress import Meter, Report, bar

MAX_THREADS = 8


def carry_out(
    plan: Plan,
    folder: Path,
    *,
    workers: int | None = None,
    threads: int | None = None,
    scheduler: str | None = None,
    chunk: int | None = None,
    progress: Report | bool | None = None,
) -> dict[str, Any]:
    """Compute the parts that are missing in a folder, and write the manifest.

    Args:
        plan: the sweep.
        folder: where the table goes; made if it is not there.
        workers: processes; 1 (the default) is this one, more are a local Dask cluster.
        threads: threads of this process, by default one a core.
        scheduler: address of a Dask scheduler whose workers are used instead.
        chunk: designs that a worker is given at once, rounded to whole parts.
        progress: called with a :class:`Progress`; True shows a bar.

    Returns:
        The manifest.

    Raises:
        SpecError: an option out of range, or both workers and a scheduler.
        StudyError: another writer, other inputs in the folder, a full disk, or a lost cluster.
    """
    workers = _whole_number("workers", 1 if workers is None else workers, 1024)
    if scheduler is not None and workers > 1:
        raise SpecError(
            [Fault("workers", str(workers), "and a scheduler exclude each other: it has workers of its own")]
        )
    threads = _whole_number("threads", threads or min(os.cpu_count() or 1, MAX_THREADS), 1024)
    chunk = _whole_number("chunk", chunk or plan.part_rows, 1 << 48)
    folder = Path(folder)
    with ExitStack() as stack:
        stack.enter_context(locked(folder))
        keep_inputs(folder, plan)
        parts = parts_in(folder, plan, threads)
        missing = [number for number in range(plan.parts) if number not in parts]
        if missing:
            (folder / MANIFEST).unlink(missing_ok=True)  # until the table is whole again
        report = stack.enter_context(bar()) if progress is True else progress or None
        meter = Meter(plan.rows, sum(part.rows for part in parts.values()), report)
        per_task = max(chunk // plan.part_rows, 1)
        tasks = [missing[i : i + per_task] for i in range(0, len(missing), per_task)]
        if not tasks:
            done: Iterator[Part] = iter(())
        elif scheduler is not None or workers > 1:
            from dse.explore.stream.dask import compute_there

            done = compute_there(plan, folder, tasks, workers=workers, scheduler=scheduler, meter=meter)
        else:
            done = compute_here(plan, folder, tasks, threads, meter)
        for part in done:
            parts[part.number] = part
        sweep_up(folder)
        return write_manifest(folder, plan, parts.values())


def _whole_number(name: str, value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise SpecError([Fault(name, repr(value)[:40], f"must be a whole number from 1 to {most:,}")])
    return value


def compute_here(
    plan: Plan, folder: Path, tasks: Sequence[Sequence[int]], threads: int, meter: Meter
) -> Iterator[Part]:
    """Parts as they are written by threads of this process; NumPy and Arrow let them run at the same time."""

    def run(numbers: Sequence[int]) -> list[Part]:
        return [write_part(folder, plan, n, part_bytes(plan, n, meter.add)) for n in numbers]

    with ThreadPoolExecutor(min(threads, len(tasks))) as pool:
        for done in bounded(lambda numbers: pool.submit(run, numbers), tasks, 2 * threads):
            yield from done.result()


def bounded(
    submit: Callable[[Sequence[int]], Future[list[Part]]], tasks: Sequence[Sequence[int]], most: int
) -> Iterator[Future[list[Part]]]:
    """Futures as they finish, with never more than ``most`` under way; on an error the rest is not begun."""
    waiting = iter(tasks)
    pending = {submit(task) for task in islice(waiting, most)}
    try:
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            pending |= {submit(task) for task in islice(waiting, len(finished))}
            yield from finished
    finally:
        for future in pending:
            future.cancel()


def resume(folder: str | Path, *, replace: Any = (), **options: Any) -> dict[str, Any]:
    """Go on with the sweep that a folder holds; see :func:`carry_out` for the options.

    Raises:
        StudyError: the folder holds no sweep, or one of another version.
    """
    plan = saved_plan(folder, replace)
    return carry_out(plan, Path(folder), **options)


def saved_plan(folder: str | Path, replace: Any = ()) -> Plan:
    """The plan of the sweep that a folder holds.

    Raises:
        StudyError: the folder holds no sweep, or one of another version.
    """
    from dse.explore.stream.folder import INPUTS
    from dse.explore.stream.plan import read_plan

    path = Path(folder) / INPUTS
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise StudyError(f"{folder} holds no sweep: there is no readable {INPUTS} in it") from None
    return read_plan(text, replace, where=str(path))
