"""Work for when the kernel has nothing else to do: a newer plan replaces what the last one has not done yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

Step = tuple[float, Callable[[], None]]  # seconds to wait, and what to do


class Later:
    """Runs planned steps one at a time on the event loop, so that messages from the page come in between."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._handle: asyncio.TimerHandle | None = None

    def plan(self, steps: Sequence[Step]) -> None:
        """Do these steps, in order, and forget what was planned before. Without an event loop they are done at once."""
        self.drop()
        self._steps = list(steps)
        self._next()

    def drop(self) -> None:
        """Forget what was planned."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self._steps = None, []

    @property
    def idle(self) -> bool:
        """Is everything done?"""
        return not self._steps

    def _next(self) -> None:
        while self._steps:
            delay, _ = self._steps[0]
            try:
                self._handle = asyncio.get_running_loop().call_later(delay, self._run)
                return
            except RuntimeError:  # a script or a test
                self._do()

    def _run(self) -> None:
        self._do()
        self._next()

    def _do(self) -> None:
        _, work = self._steps.pop(0)
        work()
