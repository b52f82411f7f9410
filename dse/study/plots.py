"""The figures of a study: its declarations turned into calls of :mod:`dse.view.figures`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.study.quantities import BEST, at_point, ratio
from dse.study.simulated_plots import draw_simulated
from dse.study.spec import OF_MEASURED, OF_SEARCHES, OF_SIMULATIONS, Figure, Study
from dse.view import figures as draw
from dse.view import theme
from dse.view.accuracy import predicted_vs_measured, ranking
from dse.view.reading import axis_of, pick

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    import xarray as xr

    from dse.explore.result import Result
    from dse.explore.search.found import SearchResult
    from dse.study.corpus import Compared
    from dse.study.simulations import SimulationTable


def draw_all(
    study: Study,
    results: Mapping[str, Result],
    verdicts: pd.DataFrame,
    compared: Mapping[str, Compared],
    searched: Mapping[str, SearchResult],
    simulated: Mapping[str, SimulationTable],
) -> dict[str, go.Figure]:
    """Every figure of a study by id.

    Raises:
        SpecError: with every figure that cannot be drawn.
    """
    found: dict[str, go.Figure] = {}
    faults: list[Fault] = []
    for index, figure in enumerate(study.figures):
        try:
            if figure.kind in OF_MEASURED:
                found[figure.id] = _accuracy(figure, compared[figure.run or ""])
            elif figure.kind in OF_SEARCHES:
                found[figure.id] = _searched(figure, searched[figure.run or ""])
            elif figure.kind in OF_SIMULATIONS:
                found[figure.id] = draw_simulated(figure, simulated[figure.run or ""])
            else:
                found[figure.id] = _draw(figure, study, results, verdicts)
        except SpecError as error:
            faults += [Fault(f"figures.{index}.{f.path}"[:200], f.value, f.rule) for f in error.faults]
    if faults:
        raise SpecError(faults)
    return found


def _searched(figure: Figure, result: SearchResult) -> go.Figure:
    """The front of a search, or its best designs as lines."""
    from dse.view.search import front, parallel

    if figure.kind == "parallel":
        return parallel(result, title=figure.title)
    return front(result, figure.x, figure.y, colour=figure.by, title=figure.title)


def _accuracy(figure: Figure, found: Compared) -> go.Figure:
    """Predictions over measured values, or the places of designs in their sweeps."""
    if figure.kind == "ranking":
        if not len(found.places):
            raise SpecError([Fault("kind", figure.kind, "these rows hold no sweep of three designs or more")])
        return ranking(found.places, title=figure.title)
    memory = figure.quantity == "memory"
    rows = found.memory if memory else found.rows
    if rows is None:
        raise SpecError([Fault("quantity", "memory", "needs a check of memory in the measured table")])
    colour = figure.by or "source"
    if colour not in rows:
        raise SpecError([Fault("by", colour[:60], f"must be one of {', '.join(map(str, rows.columns))}"[:300])])
    return predicted_vs_measured(rows, colour=colour, unit="GiB" if memory else "s", title=figure.title)


def _draw(figure: Figure, study: Study, results: Mapping[str, Result], verdicts: pd.DataFrame) -> go.Figure:
    if figure.kind == "verdicts":
        chosen = verdicts if figure.run is None else verdicts[verdicts["group"] == figure.run]
        return draw.verdicts(chosen, title=figure.title)
    run = next(r for r in study.runs if r.id == figure.run)
    result = results[run.id]
    common = {"title": figure.title}
    if figure.kind == "roofline":
        return draw.roofline(result.at(**_exact(result, figure.at)), **common)
    if figure.kind in ("breakdown", "footprint"):
        options: dict[str, Any] = {"along": figure.along, "at": figure.at, "along_title": figure.x_title, **common}
        if figure.along:
            options["labels"] = _labels(figure, result, figure.along)
        if figure.kind == "footprint":
            return draw.footprint(result, **options)
        return draw.breakdown(result, table=figure.table, **options)
    array = _array(figure, study, results)
    options = {"x_title": figure.x_title, "y_title": figure.y_title, "log": figure.log, "ignore": run.ignore, **common}
    if figure.kind == "heatmap":
        labels = _labels(figure, result, figure.y or "")
        return draw.heatmap(result, array, figure.x or "", figure.y or "", at=figure.at, y_labels=labels, **options)
    if figure.kind == "lines":
        labels = _labels(figure, result, figure.by) if figure.by else None
        options.update(by_title=figure.by_title, reference=figure.line, reference_label=figure.line_label)
        return draw.lines(result, array, figure.along or "", by=figure.by, at=figure.at, labels=labels, **options)
    return _comparison(figure, study, result, array)


def _array(figure: Figure, study: Study, results: Mapping[str, Result]) -> xr.DataArray:
    """The figure's quantity on the axes it keeps; the figure itself fixes the others."""
    ignore = {run.id: run.ignore for run in study.runs}
    at = figure.at if figure.kind == "comparison" else {}
    array = ratio(results, figure.run or "", figure.quantity, at, figure.reference, ignore)
    if figure.value_title:
        array.attrs["long_name"] = figure.value_title
    return array


def _exact(result: Result, at: Mapping[str, Any]) -> dict[str, Any]:
    """The coordinates of the axes as the result itself spells them."""
    exact = {}
    for name, value in at.items():
        bound = axis_of(result, name, "at")
        place = _place(result, name, bound.coordinates)
        exact[name] = bound.coordinates[int(pick(result, place, {name: value}))]
    return exact


def _place(result: Result, name: str, coordinates: list[Any]) -> xr.DataArray:
    import xarray as xr

    return xr.DataArray(np.arange(len(coordinates)), dims=[name])


def _labels(figure: Figure, result: Result, axis: str) -> list[str] | None:
    """``"MP{tp}_DP{data_parallel}"`` for each value of an axis."""
    if not figure.labels:
        return None
    return _filled(figure.labels, result, axis, {k: v for k, v in figure.at.items() if v != BEST})


def _filled(template: str, result: Result, axis: str, at: Mapping[str, Any], ignore: Any = ()) -> list[str]:
    bound = axis_of(result, axis, "labels")
    columns = {}
    for name in re.findall(r"{([^{}]+)}", template):
        if name == axis:
            columns[name] = [f"{v:g}" if isinstance(v, int | float) else str(v) for v in bound.coordinates]
            continue
        array = at_point(result, name, at, ignore=ignore)
        extra = {str(d): 0 for d in array.dims if d != axis}
        values = np.broadcast_to(array.isel(extra).values, len(bound.coordinates))
        columns[name] = ["–" if np.isnan(v) else theme.short(float(v), str(array.attrs["units"])) for v in values]
    return [re.sub(r"{([^{}]+)}", lambda m, i=i: columns[m[1]][i], template) for i in range(len(bound.coordinates))]


def _comparison(figure: Figure, study: Study, result: Result, array: xr.DataArray) -> go.Figure:
    run = next(r for r in study.runs if r.id == figure.run)
    along = figure.along or ""
    if array.dims != (along,):
        raise SpecError([Fault("at", "", f"name one value, or best, of every axis but {along}")])
    names = _labels(figure, result, along) or [str(v) for v in array.coords[along].values]
    notes = dict.fromkeys(names, "")
    if figure.notes:
        texts = _filled(figure.notes, result, along, figure.at, run.ignore)
        notes = dict(zip(names, texts, strict=True))
    values = dict(zip(names, array.values.astype(float), strict=True))
    notes = {name: notes[name] if np.isfinite(values[name]) else "no feasible design" for name in names}
    return draw.comparison(
        values,
        unit=str(array.attrs["units"]),
        notes=notes,
        value_title=figure.value_title,
        title=figure.title,
        log=figure.log,
    )
