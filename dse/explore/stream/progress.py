"""Progress of a sweep: rows done, rate and time left, as a callback and as a bar in a terminal or a notebook."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Progress:
    """How far a sweep is.

    Attributes:
        done: rows of the table that are there or being written, those of an earlier run included.
        total: rows of the whole table.
        kept: rows that an earlier run left.
        seconds: since this run started.
    """

    done: int
    total: int
    kept: int
    seconds: float

    @property
    def rate(self) -> float:
        """Rows per second of this run."""
        return (self.done - self.kept) / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float:
        """At this run's rate; infinite before its first rows."""
        return (self.total - self.done) / self.rate if self.rate > 0 else float("inf")


Report = Callable[[Progress], Any]


@dataclass
class Meter:
    """Counts rows from any thread and reports."""

    total: int
    kept: int
    report: Report | None
    done: int = 0
    start: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.done = self.kept
        self.add(0)

    def add(self, rows: int) -> None:
        """Note rows that are done."""
        with self._lock:
            self.done += rows
            now = Progress(self.done, self.total, self.kept, time.monotonic() - self.start)
            if self.report is not None:
                self.report(now)


@contextmanager
def bar() -> Iterator[Report]:
    """A progress bar with rate and time left: on stderr in a terminal, in the output of a notebook's cell."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.fields[rows]}"),
        BarColumn(),
        TextColumn("{task.percentage:>5.1f} %"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    with Bar(*columns, console=Console(stderr=not in_notebook()), transient=False) as shown:
        task = shown.add_task("", total=None, rows="", rate="")

        def report(now: Progress) -> None:
            shown.update(
                task, completed=now.done, total=now.total, rows=f"{now.done:,} of {now.total:,} designs",
                rate=f"{now.rate / 1e6:.2f} M/s",
            )  # fmt: skip

        yield report


def in_notebook() -> bool:
    """Does this run in a Jupyter kernel?"""
    import sys

    shell = sys.modules.get("IPython")
    return bool(shell and getattr(shell.get_ipython(), "kernel", None))
