"""Work for when the kernel has nothing else to do: a newer plan replaces what the last one has not done yet."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

Step = tuple[float, Callable[[], None]]  # seconds to wait, and what to do


class Later:
    """Runs planned steps one at a time on the event loop, so that messages from the page come in between.

    JupyterLab sends messages of widgets over several threads (subshells), each with a loop of its own: a plan is
    carried out on the loop it was made on, under the lock, and gives up when there is a newer one.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._steps: list[Step] = []
        self._turn = 0

    def plan(self, steps: Sequence[Step]) -> None:
        """Do these steps, in order, and forget what was planned before. Without an event loop they are done at once."""
        with self._lock:
            self._turn += 1
            self._steps = list(steps)
            self._next(self._turn)

    @property
    def idle(self) -> bool:
        """Is everything done?"""
        return not self._steps

    def _next(self, turn: int) -> None:
        while turn == self._turn and self._steps:
            delay, _ = self._steps[0]
            try:
                asyncio.get_running_loop().call_later(delay, self._run, turn)
                return
            except RuntimeError:  # a script or a test
                self._do(turn)

    def _run(self, turn: int) -> None:
        with self._lock:
            self._do(turn)
            self._next(turn)

    def _do(self, turn: int) -> None:
        if turn == self._turn and self._steps:
            _, work = self._steps.pop(0)
            work()
