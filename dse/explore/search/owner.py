"""Whose a trial is, and whether that worker still lives.

A mark names the machine, the process, its start (process ids are used again), the search within the process, and a
count that the worker raises as long as it lives. On the same machine a dead process is recognised at once; elsewhere
when its mark has not changed for the grace period, on the observer's own clock. This works in every storage. Optuna's
heartbeats exist in databases only, compare clocks, and miss a worker that was killed before its first beat.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_running: set[str] = set()  # the searches of this process that are under way


class Mark:
    """The mark of this worker."""

    def __init__(self) -> None:
        self.machine = _machine()
        self._search = uuid.uuid4().hex
        self._process = [os.getpid(), _process_start(os.getpid()), self._search]

    def start(self) -> None:
        _running.add(self._search)

    def stop(self) -> None:
        _running.discard(self._search)

    def at(self, beat: int) -> list[Any]:
        """The mark as it stands in the record."""
        return [self.machine, *self._process, beat]

    def made(self, mark: Sequence[Any] | None) -> bool:
        """Whether a mark is of this worker."""
        return mark is not None and mark[3] == self._search


class Watch:
    """Watches the marks of others.

    Args:
        mark: of this worker.
        grace: seconds without a change after which a worker on another machine, or a trial without a mark, is dead.
    """

    def __init__(self, mark: Mark, grace: float) -> None:
        self._machine = mark.machine
        self._grace = grace
        self._seen: dict[int, tuple[Any, float]] = {}

    def dead(self, number: int, mark: Sequence[Any] | None) -> bool:
        """Whether the worker that holds trial ``number`` under ``mark`` is dead."""
        if mark is not None and mark[0] == self._machine:
            _, pid, start, search, _ = mark
            return search not in _running if pid == os.getpid() else _process_start(pid) != start
        seen, since = self._seen.setdefault(number, (mark, time.monotonic()))
        if seen != mark:
            self._seen[number] = (mark, time.monotonic())
            return False
        return time.monotonic() - since > self._grace


def _machine() -> str:
    """Where process ids mean the same thing: the host, and on Linux its boot and process namespace."""
    if os.name == "nt":
        return uuid.uuid4().hex  # process ids cannot be looked up safely there: only changes of the mark count
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    return " ".join(parts)


def _process_start(pid: int) -> str | None:
    """When a process of this machine started; None when it does not run."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
    return "running"
