"""Large results in blocks that fit the cache: fresh memory for a million designs costs more than the arithmetic."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dse.explore.evaluate import NESTING, RULES, BoundAxis, bind_axes
from dse.explore.exhaustive import Space
from dse.explore.result import Result
from dse.space.axes import STRUCTURAL, Axis
from dse.spec.base import Spec

BLOCK = 1 << 17  # designs of one block
MANY = 64  # values of a range from which on its ends alone are checked


def fill(result: Result, names: Iterable[str] = ()) -> Result:
    """Compute quantities and all rules of a result on axes, block by block, and keep them in it.

    What the result asks for later is as it would be without this, only sooner. A result with structural axes, or
    few designs, is left as it is; so are entries of tables.
    """
    size = int(np.prod([len(b.values) for b in result.axes]))
    if size <= BLOCK or any(b.structural for b in result.axes) or result.replace:
        return result
    space = Space(result.specs, result.axes, result.devices_given)
    evaluation = result.cells[0].evaluation
    wanted = [*(name for name in names if name in evaluation.graph.quantities), *RULES]
    blocks = list(space.blocks(BLOCK))
    parts: list[Mapping[str, Any]] = [space.evaluate(block).get(wanted) for block in blocks]
    for name in wanted:
        pieces = [part[name] for part in parts]
        if all(isinstance(piece, np.ndarray | np.generic | float | int) for piece in pieces):
            evaluation.values[name] = _joined(pieces, blocks, space.shape)
    return result


def _joined(pieces: Sequence[Any], blocks: Sequence[tuple[slice, ...]], shape: tuple[int, ...]) -> Any:
    """One array of all blocks, on the axes that any of them depends on."""
    arrays = [np.asarray(piece).reshape((1,) * (len(shape) - np.ndim(piece)) + np.shape(piece)) for piece in pieces]
    sides = [{array.shape[i] for array in arrays} for i in range(len(shape))]
    first = arrays[0]
    if all(side == {1} for side in sides) and all(np.array_equal(array, first) for array in arrays):
        return pieces[0]
    whole = np.empty(shape, dtype=np.result_type(*arrays))
    for block, array in zip(blocks, arrays, strict=True):
        whole[block] = array
    for i, side in enumerate(sides):
        start = whole.take([0], axis=i)
        if side == {1} and np.array_equal(np.broadcast_to(start, whole.shape), whole):
            whole = start
    return whole


def bind(specs: Mapping[str, Spec], axes: Sequence[Axis], devices: Any) -> list[BoundAxis]:
    """As :func:`dse.explore.evaluate.bind_axes`; of long ranges of numbers the ends alone are checked.

    The values that a field takes have no gaps: what lies between two of them is one. (Not so of what must nest.)

    Raises:
        SpecError: as there.
    """
    cut = [_ends(item) if _is_range(item) else item for item in axes]
    found = bind_axes(specs, cut, devices)
    whole = []
    for item, short, b in zip(axes, cut, found, strict=True):
        if short is item:
            whole.append(b)
            continue
        kind = type(b.values[0])
        if kind is int and not all(isinstance(value, int) for value in item.values):
            return bind_axes(specs, axes, devices)
        whole.append(dataclasses.replace(b, axis=item, values=tuple(kind(value) for value in item.values)))
    return whole


def _ends(item: Axis) -> Axis:
    return dataclasses.replace(item, values=(min(item.values), max(item.values)))


def _is_range(item: Axis) -> bool:
    """Many finite numbers in SI units, of a field of its own."""
    field = item.path.rpartition(".")[2]
    nested = field in NESTING and item.path != "cluster.devices"
    if len(item.values) < MANY or item.unit or item.labels or nested or field in STRUCTURAL:
        return False
    return all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in item.values)
