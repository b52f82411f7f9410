"""Timing one call: warm-up, cold caches, device events, and the median of repeats with its spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SECONDS = {"tiny": 0.01, "small": 0.15, "full": 0.3}  # of repeats aimed at for one point, without the flushing
REPEATS = {"tiny": (3, 10), "small": (5, 30), "full": (7, 50)}

HEAD_START = 256 * 2**20  # B


@dataclass(frozen=True)
class Timing:
    """Median time of a call in s, the spread (interquartile range over median), and the number of repeats."""

    seconds: float
    spread: float
    repeats: int


class Timer:
    """Times calls on one device; ``flush`` overwrites the caches first, as the rest of a training step would."""

    def __init__(self, torch: Any, device: Any, *, cache: int, size: str) -> None:
        self.torch, self.device, self.size = torch, device, size
        # Twice the last-level cache: a least-recently-used cache then keeps nothing of the operands. On a GPU at
        # least 256 MiB: overwriting them takes longer than the host needs to launch what follows.
        least = HEAD_START if device.type == "cuda" else 2**20
        self.buffer = torch.empty(max(2 * cache, least) // 4, dtype=torch.float32, device=device)

    @property
    def bytes(self) -> int:
        """Memory that the timer itself holds on the device, in B."""
        return self.buffer.numel() * self.buffer.element_size()

    def time(self, call: Callable[[], Any], *, flush: bool = True) -> Timing:
        """Median time of one call."""
        rough = self._warm_up(call)
        low, high = REPEATS[self.size]
        repeats = int(min(max(SECONDS[self.size] / max(rough, 1e-7), low), high))
        measure = self._on_cuda if self.device.type == "cuda" else self._on_cpu
        times = measure(call, repeats, flush=flush)
        median = statistics.median(times)
        low_quarter, _, high_quarter = statistics.quantiles(times, n=4, method="inclusive")
        return Timing(median, (high_quarter - low_quarter) / median if median else 0.0, repeats)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()

    def _warm_up(self, call: Callable[[], Any]) -> float:
        """Load code, pick algorithms and raise the clocks; returns the time of the last call in s."""
        spent, rounds, started = 0.0, 0, time.perf_counter()
        while rounds < 2 or (rounds < 10 and time.perf_counter() - started < SECONDS[self.size] / 3):
            begin = time.perf_counter()
            call()
            self.synchronize()
            spent, rounds = time.perf_counter() - begin, rounds + 1
        return spent

    def _on_cuda(self, call: Callable[[], Any], repeats: int, *, flush: bool) -> list[float]:
        """Events around each call. The flush also gives the host the head start that hides its launch time."""
        new = self.torch.cuda.Event
        pairs = [(new(enable_timing=True), new(enable_timing=True)) for _ in range(repeats)]
        for begin, end in pairs:
            if flush:
                self.buffer.zero_()
            begin.record()
            call()
            end.record()
        self.torch.cuda.synchronize()
        return [begin.elapsed_time(end) * 1e-3 for begin, end in pairs]

    def _on_cpu(self, call: Callable[[], Any], repeats: int, *, flush: bool) -> list[float]:
        times = []
        for _ in range(repeats):
            if flush:
                self.buffer.fill_(0.0)
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        return times
