"""Figures of collectives in studies: time against size, ratios to the bound, spread over random failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.study.simulations import SimulationTable
from dse.view import theme
from dse.view.collective_times import against_size, ratios, spread

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dse.study.spec import Figure


def draw_collectives(figure: Figure, table: SimulationTable, rows: pd.DataFrame, dark: bool) -> go.Figure:
    """A figure of a block of collectives.

    Raises:
        SpecError: several rows on one place, or a column that is not there.
    """
    for name in ("algorithm", "network"):
        if name not in rows:
            raise SpecError([Fault("run", str(figure.run), "must be a block of collectives")])
    named = rows.assign(network=[(table.titles or {}).get("network", {}).get(v, v) for v in rows["network"]])
    if figure.kind == "ratios":
        return ratios(named.to_dict("records"), title=figure.title, dark=dark)
    if figure.kind == "sizes":
        if named.duplicated(["algorithm", "size"]).any():
            raise SpecError([Fault("at", "", "must leave one network and one collective")])
        return against_size(named.to_dict("records"), title=figure.title, dark=dark)
    return _spread(figure, table, named, dark)


def _spread(figure: Figure, table: SimulationTable, rows: pd.DataFrame, dark: bool) -> go.Figure:
    along = figure.along or "fail"
    if along not in rows or rows[along].dtype.kind not in "fi":
        raise SpecError([Fault("along", repr(along)[:60], "must be a column of numbers: fail, npus, size")])
    unit = "1" if figure.reference is not None else table.units.get(figure.quantity, "1")
    found: dict[str, dict[float, Any]] = {}
    for (name, place), part in rows.groupby(["algorithm", along], sort=False):
        found.setdefault(name, {})[float(place)] = np.asarray(part["value"], float)
    words = figure.value_title or theme.sentence(figure.quantity.replace("_", " "))
    return spread(found, unit=unit, value_title=words, along_title=figure.x_title or "Failed", title=figure.title,
                  dark=dark)  # fmt: skip
