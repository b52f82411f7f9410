"""Where a sampler starts: hardware at the edge of the budget, which chance alone may take long to come upon."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from dse.explore.search.bound import Box, Corners
from dse.explore.search.problem import Problem
from dse.explore.search.provable import direction
from dse.explore.search.variables import HardwareVariable

MOST = 16  # combinations of the fields that are no resources


def starts(given: Problem) -> list[dict[str, Any]]:
    """Hardware designs to look at first: for each choice of the fields that are no resources (device counts, whole
    clusters; evenly chosen where there are many) the richest design on the way from poor to rich that keeps the budgets
    which no strategy changes, and then the poorest.

    They depend on the problem alone, so a search resumed starts from the same ones.
    """
    if not given.variables:
        return []
    fixed = dataclasses.replace(given, variables=tuple(_middle(v) for v in given.variables))
    corners = Corners(fixed)
    sizes = [len(v.shown) for v in corners.apart]
    chosen = np.unique(np.linspace(0, math.prod(sizes) - 1, min(MOST, math.prod(sizes))).astype(np.int64))
    poor, rich = corners.ends()
    boxes = []
    for number in chosen:
        places = np.unravel_index(int(number), sizes) if sizes else ()
        values = tuple(v.shown[int(i)] for v, i in zip(corners.apart, places, strict=True))
        boxes.append(Box(0.0, 0, values, poor, rich))
    kept = corners.affordable([corners.point(b.fixed, b.poor) for b in boxes])
    boxes = [box for box, good in zip(boxes, kept, strict=True) if good]
    if not boxes:
        return []
    found = [*corners.richest(boxes), *(corners.point(b.fixed, b.poor) for b in boxes)]
    distinct = {tuple(point.values()): point for point in found}
    return list(distinct.values())


def _middle(v: HardwareVariable) -> HardwareVariable:
    """A continuous field of which more is neither better nor worse stands at its middle."""
    if v.values or direction(v):
        return v
    middle = math.sqrt(v.low * v.high) if v.log else (v.low + v.high) / 2
    return dataclasses.replace(v, values=(middle,), shown=(middle,))
