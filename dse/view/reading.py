"""Reading results for figures and checks: one quantity at some coordinates, why designs fail, the operators of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.units import UnitError, engineering, parse

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from dse.explore.result import Result

PHASES = ("forward", "input_grad", "weight_grad")


def axis_of(result: Result, name: str | None, where: str) -> Any:
    """The bound axis of a result by name.

    Raises:
        SpecError: there is none; the message lists those there are.
    """
    bound = next((b for b in result.axes if b.name == name), None)
    if bound is None:
        known = ", ".join(b.name for b in result.axes) or "none"
        raise SpecError([Fault(where, str(name)[:80], f"is not an axis of this result; its axes are {known}")])
    return bound


def pick(result: Result, quantity: str | xr.DataArray, at: Mapping[str, Any] | None = None) -> xr.DataArray:
    """A quantity of a result at some coordinates; the axes not named stay.

    Args:
        quantity: a name such as ``step_time`` or ``memory.weights``, or an array already computed.
        at: axis name to value; text with a unit (``"500 GB/s"``) is understood.

    Raises:
        SpecError: no such quantity, axis or value.
    """
    array = result[quantity] if isinstance(quantity, str) else quantity
    chosen = {}
    for name, value in (at or {}).items():
        bound = axis_of(result, name, "at")
        index = next((i for i, known in enumerate(bound.coordinates) if _same(known, value, bound.unit)), None)
        if index is None:
            raise SpecError([Fault(f"at.{name}", repr(value)[:40], f"is not on the axis: {bound.coordinates[:12]}")])
        if name in array.dims:
            chosen[name] = index
    return array.isel(chosen)


def _same(known: Any, value: Any, unit: str) -> bool:
    if known == value or str(known) == str(value):
        return True
    if isinstance(known, bool) or not isinstance(known, int | float):
        return str(known).lower() == str(value).lower()
    try:
        return bool(np.isclose(known, parse(value, unit or "1"), rtol=1e-9, atol=0.0))
    except UnitError:
        return False


def violated(result: Result, *, ignore: Sequence[str] = ()) -> xr.DataArray:
    """For every design the rules it breaks, as one line of text (empty: feasible)."""
    import xarray as xr

    from dse.explore.evaluate import RULES

    coords = {b.name: b.coordinates for b in result.axes}
    shape = tuple(len(values) for values in coords.values())
    texts = xr.DataArray(np.full(shape, "", dtype=object), dims=list(coords), coords=coords)
    for rule in (r for r in RULES if r not in ignore):
        margin = result[rule]
        if not bool((margin < 0).any()):
            continue
        words, full = rule.replace("_", " "), margin.broadcast_like(texts).transpose(*texts.dims)
        for index in np.argwhere(full.values < 0):
            gap = engineering(abs(float(full.values[tuple(index)])), result.unit(rule))
            line = f"{words} (short by {gap})" if result.unit(rule) == "B" else words
            texts.values[tuple(index)] = "; ".join(filter(None, (texts.values[tuple(index)], line)))
    return texts


def along_axis(result: Result, quantity: Any, along: str | None, at: Mapping[str, Any] | None) -> xr.DataArray:
    """A quantity along one axis (or of one design), with every other axis fixed."""
    array = pick(result, quantity, at)
    loose = [str(d) for d in array.dims if d != along]
    for name in loose:
        if array.sizes[name] > 1:
            raise SpecError([Fault("at", name, "this figure needs one value of every other axis: name it in 'at'")])
    array = array.isel(dict.fromkeys(loose, 0))
    bound = axis_of(result, along, "along") if along is not None else None
    if bound is not None and along not in array.dims:
        array = array.expand_dims({along: bound.coordinates})
    return array


def operators(result: Result) -> pd.DataFrame:
    """Operators of one design: FLOP, traffic, time and count in one pass of a device, by phase."""
    import pandas as pd

    from dse.cost.arrays import select
    from dse.cost.compute import ACTIVATION_BYTES, OPERAND_BYTES, work_traffic

    if any(len(b.values) > 1 for b in result.axes):
        raise SpecError("a roofline is of one design; choose one with .at(...)")
    evaluation = result._cells[0].evaluation
    precision, buffer = evaluation["precision"], evaluation["cluster"].accelerator.buffer
    operand = select(precision, OPERAND_BYTES) / select(precision, ACTIVATION_BYTES)
    rows = []
    for block in evaluation["blocks"]:
        for op in block.ops:
            for phase in PHASES:
                work, key = op.work(phase), f"{block.name}.{op.name}.{phase}"
                if work is None or key not in evaluation["operator_times"]:
                    continue
                traffic = work_traffic(work, buffer, operand)
                numbers = (work.flops, traffic, evaluation["operator_times"][key], block.count)
                rows.append((f"{block.name}.{op.name}", phase, *(float(np.asarray(n).item()) for n in numbers)))
    return pd.DataFrame(rows, columns=["operator", "phase", "work [FLOP]", "traffic [B]", "time [s]", "count"])
