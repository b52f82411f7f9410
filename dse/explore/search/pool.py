"""Where hardware designs are solved: threads of this process, local processes, or a Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any

DEATHS = 20  # tasks whose workers were killed, before the search gives up
AHEAD = 32  # tasks under way at a time


@contextmanager
def executor(workers: int | None, scheduler: str | None) -> Iterator[Any]:
    """Threads of this process, or a Dask client as an executor: of a local cluster of processes or of a scheduler."""
    if scheduler is None and (workers is None or workers <= 1):
        with ThreadPoolExecutor(1 if workers == 1 else min(os.cpu_count() or 1, 8)) as pool:
            yield pool
        return
    from dse.explore.cluster import connected

    with connected(workers or 1, scheduler) as client:
        yield client


def in_order(pool: Any, function: Callable[[Any], Any], items: Sequence[Any], most: int = AHEAD) -> Iterator[Any]:
    """Results in order, with never more than ``most`` under way; a task whose worker was killed is given out again."""
    options = {"pure": False} if hasattr(pool, "scheduler_info") else {}
    waiting = iter(items)
    pending = [(item, pool.submit(function, item, **options)) for item in islice(waiting, most)]
    deaths = 0
    while pending:
        item, future = pending.pop(0)
        try:
            yield future.result()
        except Exception as error:
            deaths += 1
            if type(error).__name__ != "KilledWorker" or deaths > DEATHS:
                raise
            pending.insert(0, (item, pool.submit(function, item, **options)))
            continue
        pending += [(item, pool.submit(function, item, **options)) for item in islice(waiting, 1)]
