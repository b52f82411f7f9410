"""Single designs of a result: where they lie on the axes, and their numbers in the sentences of rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.explore.evaluate import BoundAxis
from dse.units import UnitError, engineering, parse


class Sentence(dict[str, str]):
    """Formats quantities of one evaluation for the sentences of rules."""

    def __init__(self, evaluation: Any) -> None:
        super().__init__()
        self.evaluation = evaluation

    def __missing__(self, key: str) -> str:
        value = self.evaluation[key]
        if key == "tier_overflow":
            return "; ".join(
                f"{tier} memory needs {engineering(held, 'B')} of {engineering(capacity, 'B')}"
                for tier, (held, capacity) in value.items()
            )
        q = self.evaluation.graph.quantities.get(key)
        number = np.asarray(value)
        return engineering(float(number), q.unit if q else "1") if number.dtype.kind in "fiu" else str(value)


def index_of(b: BoundAxis, point: Mapping[str, Any]) -> int:
    """Position on an axis of the value that a point names (text with a unit is understood).

    Raises:
        SpecError: no value is named, or the axis has no such value.
    """
    if b.name not in point:
        if len(b.values) == 1:
            return 0
        raise SpecError([Fault("point", b.name, f"name a value: one of {', '.join(map(str, b.coordinates[:12]))}")])
    wanted = point[b.name]
    if isinstance(wanted, str) and b.unit and wanted not in b.coordinates:
        try:
            wanted = parse(wanted, b.unit)
        except UnitError as error:
            raise SpecError([Fault(f"point.{b.name}", repr(wanted)[:40], str(error))]) from None
    for index, (value, shown) in enumerate(zip(b.values, b.coordinates, strict=True)):
        close = isinstance(wanted, int | float) and isinstance(value, int | float) and np.isclose(value, wanted)
        if wanted == shown or close:
            return index
    raise SpecError([Fault(f"point.{b.name}", repr(wanted)[:40], f"is not on the axis: {b.coordinates[:12]}")])


def reason_column(margins: Sequence[tuple[str, Any]], axes: Sequence[BoundAxis], rows: int) -> list[str]:
    """The rules that each row of a table breaks, with the margin; rows go over the axes, the last one fastest.

    Args:
        margins: each rule with its labelled array of margins, along the axes that it depends on.
    """
    import xarray as xr

    reasons = [""] * rows
    order = [b.name for b in axes]
    full = xr.Dataset(coords={b.name: b.coordinates for b in axes})
    for rule, given in margins:
        if not bool((given < 0).any()):
            continue
        margin = given
        for b in axes:
            if b.name not in margin.dims:
                margin = margin * xr.DataArray(np.ones(len(b.values)), dims=b.name, coords={b.name: full[b.name]})
        flat = margin.transpose(*order).values.ravel() if order else np.atleast_1d(margin.values)
        for index in np.flatnonzero(flat < 0):
            separator = "; " if reasons[index] else ""
            reasons[index] += f"{separator}{rule} ({engineering(flat[index], given.attrs['units'])})"
    return reasons
