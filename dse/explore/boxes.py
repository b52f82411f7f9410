"""Boxes and masks on named axes.

A *box* is one rising array of positions for each axis, and stands for their product. A *mask* has one dimension an
axis, of the axis' length or, where it does not depend on the axis, of length 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

CALL = 1 << 17  # designs that could be computed in the time that one more evaluation takes

Box = tuple[np.ndarray, ...]


def tiles(lengths: Sequence[int], limit: int) -> Iterator[tuple[slice, ...]]:
    """Slices of axes of these lengths, outermost first, each of at most about ``limit`` designs (none if empty)."""
    if 0 in lengths:
        return
    inner, split = 1, len(lengths)
    for position in range(len(lengths) - 1, -1, -1):
        if inner * lengths[position] > limit:
            break
        inner *= lengths[position]
        split = position
    outer = [_pieces(length, 1) for length in lengths[: max(split - 1, 0)]]
    if split > 0:
        outer.append(_pieces(lengths[split - 1], max(limit // inner, 1)))
    for choice in product(*outer):
        yield (*choice, *(slice(0, length) for length in lengths[split:]))


def _pieces(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def narrow(box: Box, parts: Sequence[slice | np.ndarray]) -> Box:
    """A slice, or some positions, of each side of a box."""
    return tuple(side[part] for side, part in zip(box, parts, strict=True))


def mask_at(mask: np.ndarray, box: Sequence[np.ndarray]) -> np.ndarray:
    """A mask at the positions of a box, on the axes that it depends on."""
    return mask[np.ix_(*(side if size > 1 else [0] for side, size in zip(box, mask.shape, strict=True)))]


def count_true(masks: list[np.ndarray], lengths: Sequence[int]) -> int:
    """Designs at which all masks are true: sums over axes that one mask alone depends on come before the product."""
    scale, factors = 1, [mask.astype(np.int64) for mask in masks]
    for axis, length in enumerate(lengths):
        on = [i for i, factor in enumerate(factors) if factor.shape[axis] > 1]
        if not on:
            scale *= length
        elif len(on) == 1:
            factors[on[0]] = factors[on[0]].sum(axis=axis, keepdims=True)
    whole: Any = 1
    for factor in sorted(factors, key=np.size):
        whole = whole * factor
    return scale * int(np.sum(whole))


def cover(mask: np.ndarray, weights: Sequence[int]) -> list[list[slice | np.ndarray]]:
    """Boxes that hold all true cells of a mask: an axis is split into its values where that saves enough designs.

    ``weights`` are the designs that a position stands for on the axes that the mask does not depend on.
    """
    outside = math.prod(w for w, size in zip(weights, mask.shape, strict=True) if size == 1)

    def extents(cells: list[np.ndarray]) -> list[np.ndarray]:
        return [np.flatnonzero(np.bincount(where)) for where in cells]

    def volume(sides: list[np.ndarray]) -> int:
        return outside * math.prod(map(len, sides))

    def split(cells: list[np.ndarray], first: int) -> list[list[np.ndarray]]:
        sides = extents(cells)
        whole = volume(sides)
        for axis in range(first, len(cells)):
            if whole <= 2 * CALL:
                break
            if len(sides[axis]) < 2:
                continue
            parts = [[where[cells[axis] == value] for where in cells] for value in sides[axis]]
            if sum(volume(extents(part)) + CALL for part in parts) < whole + CALL:
                return [box for part in parts for box in split(part, axis + 1)]
        return [sides]

    cells = list(np.nonzero(mask))
    if not len(cells[0]):
        return []
    return [
        [side if size > 1 else slice(None) for side, size in zip(sides, mask.shape, strict=True)]
        for sides in split(cells, 0)
    ]
