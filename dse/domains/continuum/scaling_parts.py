"""What the time of a SCREAM run goes into: each part of the model scales in its own way."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from dse.domains.continuum.scaling import ScalingModel, fit_scaling
from dse.domains.continuum.scaling_tables import DAY, PARTS

if TYPE_CHECKING:
    import pandas as pd


@cache
def part_model(part: str) -> ScalingModel:
    """The model of one part of a SCREAM run, intervals not calibrated."""
    return fit_scaling("scream", response=part)


def part_times(machine: str, nodes: ArrayLike, *, algorithm: str | None = None) -> pd.DataFrame:
    """Seconds of a simulated day by part and node count, medians.

    Their sum differs a little from the forecast of the whole, which is fitted by itself.

    Args:
        machine: name.
        nodes: shape [size] or a number.
        algorithm: of transport; None: the usual one.

    Returns:
        Table with the columns machine, nodes, part, seconds and reason; a row for each part and size.

    Raises:
        SpecError: as :meth:`dse.domains.continuum.scaling.ScalingModel.forecast`.
    """
    import pandas as pd

    rows = []
    for part in PARTS:
        found = part_model(part).forecast(machine, nodes, algorithm=algorithm)
        shown = {"machine": machine, "nodes": found.nodes, "part": part, "seconds": DAY / found.rate}
        rows.append(pd.DataFrame({**shown, "reason": found.reason}))
    return pd.concat(rows, ignore_index=True)
