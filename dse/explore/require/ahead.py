"""What an inverse question would take: the scan is counted, its refinement guessed, and a few values are timed."""

from __future__ import annotations

import math

import numpy as np

from dse.explore.forecast import Forecast, seconds_for, spread
from dse.explore.require.curve import ZOOM
from dse.explore.require.field import Field
from dse.explore.require.problem import Problem
from dse.explore.require.scan import PIECES
from dse.explore.require.single import scanned


def ahead(problem: Problem, *, points: int, tolerance: float, priced: bool = False) -> Forecast:
    """Count the designs of :func:`solve` or :func:`trace`.

    Every case of the prediction is taken to have one crossing (for each value of the second field), a span of legal
    values to have two ends, and a crossing to be cut into equal pieces until it is narrower than ``tolerance``.

    Args:
        priced: look for the cheapest point of a curve too.
    """
    first, kinds = problem.fields[0], len(problem.cases)
    if len(problem.fields) == 2:
        values, across = first.scan(points), problem.fields[1].scan(points)
        grid = np.stack([np.repeat(values, len(across)), np.tile(across, len(values))])
        closer = sum(ZOOM) if priced else 0
        refined = (len(across) + closer) * kinds * cuts(first, values, tolerance) + closer * len(values)
        extra = len(across) + 1  # strategies along the curve, and the design as it is
    else:
        values, exhaustive = scanned(first, points)
        grid = values[None]
        refined = 0 if exhaustive else (kinds + 2) * cuts(first, values, tolerance)
        extra = 3  # the design as it is, the answer, and its strategy
    scan, more = grid.shape[1], refined + extra
    designs = problem.size(grid)
    total = round(designs * (scan + more) / max(scan, 1))
    seconds = seconds_for(scan + more, total, lambda size: _price(problem, grid[:, spread(scan, min(size, scan))]))
    return Forecast(scan + more, total, seconds, more)


def cuts(item: Field, values: np.ndarray, tolerance: float) -> int:
    """Values that are tried within the last step of the scan until its ends are ``tolerance`` apart."""
    if len(values) < 2:
        return 0
    low, high = float(values[-2]), float(values[-1])
    if item.whole is not None:
        width = len(item.between(low, high, len(item.whole))) + 1.0
    else:
        width = (high - low) / (tolerance * abs(high))
    return PIECES * math.ceil(math.log(width, PIECES + 1)) if width > 1 else 0


def _price(problem: Problem, points: np.ndarray) -> int:
    before = problem.evaluated
    problem.scores(points)
    problem.evaluated = before  # only a rehearsal
    return points.shape[1]
