"""What an analysis would price, and how long that takes: told from a few of its points."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SAMPLE = 1 << 11  # points of one design each that are timed
DESIGNS = 1 << 21  # designs that are timed where each point has many strategies
Price = Callable[[int], int]


@dataclass(frozen=True)
class Forecast:
    """Work ahead of an analysis.

    Attributes:
        points: hardware, or samples, that are looked at.
        designs: points times the strategies that are tried on each.
        seconds: elapsed time of pricing them on this machine.
        refinement: the part of ``points`` that is a guess from above, as it depends on what is found.
    """

    points: int
    designs: int
    seconds: float
    refinement: int = 0

    def summary(self) -> dict[str, float]:
        """Plain data, as the command line prints it."""
        return {
            "points": self.points,
            "refinement_points": self.refinement,
            "strategies_per_point": self.designs / max(self.points, 1),
            "designs": self.designs,
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        text = f"{self.designs:,} designs"
        if self.designs != self.points:
            each = self.designs / max(self.points, 1)
            text += f": {self.points:,} points, {'about ' * (each % 1 > 0)}{each:,.0f} strategies on each"
        if self.refinement:
            text += (
                f"; {self.points - self.refinement:,} points of the scan, up to about {self.refinement:,} to refine it"
            )
        return f"{text}; about {self.seconds:.2g} s of pricing"


def seconds_for(points: int, designs: int, price: Price) -> float:
    """Seconds that all points take, from the time of few and of four times as many: a constant and a rate.

    Args:
        points: how many there are, of ``designs`` in all.
        price: prices about so many of them, and returns how many.
    """
    most = min(SAMPLE, max(DESIGNS * points // max(designs, 1), 2), points)
    price(max(most // 4, 1))  # the first evaluation also imports and reads files
    (few, first), (more, second) = (_timed(price, size) for size in (max(most // 4, 1), most))
    if more >= points:
        return second
    each = (second - first) / (more - few) if more > few and second > first else second / more
    return second + each * (points - more)


def spread(points: int, size: int) -> np.ndarray:
    """At most ``size`` positions from all over some points."""
    return np.unique(np.linspace(0, points - 1, size).round().astype(np.int64))


def _timed(price: Price, size: int) -> tuple[int, float]:
    start = time.perf_counter()
    count = price(size)
    return count, time.perf_counter() - start
