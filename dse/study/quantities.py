"""What studies read from results: sums and products of quantities, at a point or at the best design."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.cost.arrays import select, total
from dse.cost.memory import GRADIENT_BYTES
from dse.errors import Fault, SpecError
from dse.view.reading import pick, violated

if TYPE_CHECKING:
    import xarray as xr

    from dse.explore.result import Result

BEST = "best"
_NAME = re.compile(r"^[A-Za-z][\w.-]*$")
_NUMBER = re.compile(r"^\d{1,20}(\.\d{1,20})?(e[+-]?\d{1,3})?$")


def evaluate(result: Result, expression: str) -> xr.DataArray:
    """A sum of products of quantities, such as ``memory.weights + memory.optimizer`` or ``step_time * devices``.

    Besides the quantities of the cost model there are the axes of the result by name, plain numbers,
    ``layer.NAME.FIELD`` (one row of COMET's loop: ``forward_comm``, ``input_comm``, ``weight_comm`` and others),
    ``sent.DIMENSION`` (bytes one device sends into a network dimension in one pass of COMET's loop) and
    ``activations.layers`` (bytes of activations of the layers alone on the fullest stage: no embedding, head or loss).

    Raises:
        SpecError: a name that means nothing, or an expression of another form.
    """
    found, unit = None, ""
    for summand in expression.split("+"):
        product, unit = _product(result, summand.strip(), expression)
        found = product if found is None else found + product
    found = found.astype(float)
    found.name, found.attrs = expression, {"units": unit}
    return found


def _product(result: Result, text: str, whole: str) -> tuple[xr.DataArray, str]:
    import xarray as xr

    value, unit = xr.DataArray(1.0), []
    pieces = re.split(r"([*/])", f"*{text}")[1:]
    for operator, factor in zip(pieces[::2], pieces[1::2], strict=True):
        name = factor.strip()
        if _NUMBER.match(name):
            part, symbol = xr.DataArray(float(name)), "1"
        elif _NAME.match(name):
            part, symbol = _named(result, name)
        else:
            raise SpecError([Fault("quantity", repr(whole)[:80], "must be names and numbers joined by +, * and /")])
        with np.errstate(divide="ignore", invalid="ignore"):
            value = value / part if operator == "/" else value * part
        if symbol not in ("", "1"):
            unit.append(f"1/{symbol}" if operator == "/" else symbol)
    return value, _product_unit(unit)


def _product_unit(units: list[str]) -> str:
    """s and 1/s cancel; the rest is joined."""
    left = list(units)
    for unit in units:
        inverse = f"1/{unit}"
        if unit in left and inverse in left:
            left.remove(unit)
            left.remove(inverse)
    return "·".join(left) or "1"


def _named(result: Result, name: str) -> tuple[xr.DataArray, str]:
    import xarray as xr

    bound = next((b for b in result.axes if b.name == name), None)
    if bound is not None and name not in result._graph.quantities:
        return xr.DataArray(bound.coordinates, dims=[name], coords={name: bound.coordinates}), bound.unit or "1"
    head, _, rest = name.partition(".")
    if (head in ("layer", "sent") and rest) or name == "activations.layers":
        reader = {"layer": _layer, "sent": _sent}.get(head, _activations)
        dims, values = result._combine([reader(cell.evaluation, rest) for cell in result._cells])
        coords = {b.name: b.coordinates for b in result.axes if b.name in dims}
        return xr.DataArray(values, dims=dims, coords=coords), "s" if head == "layer" else "B"
    return result[name], result.unit(name)


def _layer(evaluation: Any, rest: str) -> Any:
    name, _, field = rest.rpartition(".")
    if "comet_rows" not in evaluation.graph.quantities:
        raise SpecError([Fault("quantity", f"layer.{rest}"[:80], "needs a run with execution: comet")])
    rows = {row.name: row for _, layer in evaluation["comet_rows"] for row in layer}
    if name not in rows or field not in vars(rows[name]) or field == "name":
        raise SpecError([Fault("quantity", f"layer.{rest}"[:80], f"layers here: {', '.join(rows)}"[:300])])
    return getattr(rows[name], field)


def _activations(evaluation: Any, _: str) -> Any:
    share = evaluation["stage_layers"] / evaluation["model"].layers
    return evaluation["saved_per_pass"]["body"] * share * evaluation["in_flight"]["first"]


def _sent(evaluation: Any, dimension: str) -> Any:
    links, zero = evaluation["links"], evaluation["zero_stage"]
    names = [d.name for d in links.dimensions]
    if dimension not in names or np.any(np.asarray(zero) == 3):
        raise SpecError([Fault("quantity", f"sent.{dimension}"[:80], f"dimensions here: {', '.join(names)}; ZeRO 0-2")])
    width = select(evaluation["gradient_precision"], GRADIENT_BYTES)
    index = names.index(dimension)
    return total(
        block.count * links.load(kind, group, size)[index]
        for block in evaluation["blocks"]
        for op in block.ops
        for kind, group, size in (
            *((c.kind, c.group, c.bytes) for c in op.collectives),
            ("all_reduce", "grad", op.weights * width),
        )
    )


# -- at a point ---------------------------------------------------------------------------------------------


def at_point(
    result: Result, expression: str, at: Mapping[str, Any], *, ignore: Sequence[str] = (), feasible: bool = False
) -> xr.DataArray:
    """An expression at some coordinates; ``best`` means the feasible value of that axis with the least step time.

    Args:
        ignore: rules that do not count.
        feasible: NaN wherever a design breaks another rule.
    """
    fixed = {name: value for name, value in at.items() if value != BEST}
    loose = [name for name, value in at.items() if value == BEST]
    array = pick(result, evaluate(result, expression), fixed)
    if feasible or loose:
        legal = pick(result, violated(result, ignore=ignore), fixed) == ""
        if feasible:
            array = array.where(legal)
        if loose:
            array = _at_best(array, pick(result, "step_time", fixed).where(legal), loose)
    array.attrs["units"] = evaluate_unit(result, expression)
    return array


def evaluate_unit(result: Result, expression: str) -> str:
    """SI unit of an expression."""
    return _product(result, expression.split("+")[-1].strip(), expression)[1]


def _at_best(array: xr.DataArray, score: xr.DataArray, loose: list[str]) -> xr.DataArray:
    import xarray as xr

    for name in loose:
        if name not in score.dims:
            raise SpecError([Fault(f"at.{name}", BEST, "is not an axis of this result")])
    array, score = xr.broadcast(array, score)
    kept = [d for d in score.dims if d not in loose]
    values = array.transpose(*kept, *loose).values.reshape(*(array.sizes[d] for d in kept), -1)
    scores = score.transpose(*kept, *loose).values.reshape(values.shape)
    none = np.isnan(scores).all(axis=-1)
    index = np.argmin(np.where(np.isnan(scores), np.inf, scores), axis=-1)
    chosen = np.take_along_axis(values, index[..., None], axis=-1)[..., 0].astype(float)
    coords = {d: array.coords[d] for d in kept}
    return xr.DataArray(np.where(none, np.nan, chosen), dims=kept, coords=coords, name=array.name)


def ratio(
    results: Mapping[str, Result],
    run: str,
    expression: str,
    at: Mapping[str, Any],
    reference: Any,
    ignore: Mapping[str, Sequence[str]],
    *,
    feasible: bool = False,
) -> xr.DataArray:
    """The expression itself, or (expression at the reference) / (expression) where a reference is given.

    A reference in the same run takes the coordinates it does not name from ``at``.
    """
    ours = at_point(results[run], expression, at, ignore=ignore[run], feasible=feasible)
    if reference is None:
        return ours
    base_run = reference.run or run
    point = reference.at if reference.run else {**at, **reference.at}
    base = at_point(results[base_run], expression, point, ignore=ignore[base_run])
    loose = [str(d) for d in base.dims if d not in ours.dims and base.sizes[d] > 1]
    if loose:
        raise SpecError([Fault("reference.at", ", ".join(loose)[:80], "name one value of this axis")])
    with np.errstate(divide="ignore", invalid="ignore"):
        value = base / ours
    value.attrs["units"] = "1"
    return value
