"""Progress of a search: hardware designs done, in all, and the time left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dse.explore.stream.progress import in_notebook

Report = Callable[[int, int], object]


@contextmanager
def shown(*, terminal: bool = False) -> Iterator[Report | None]:
    """A bar on the error stream or in the notebook; with ``terminal`` only where that stream is one."""
    if terminal and not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("hardware designs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=not in_notebook()), transient=True) as bar:
        task = bar.add_task("search", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
