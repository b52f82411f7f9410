"""The design space of tile engines: geometry, forwarding, block, blocking, array and clock, on all layers and patterns.

Every design is timed by the cycle model on the real instruction streams. Area and power are the estimates of
:mod:`dse.domains.vegeta.cost`, for listed and unlisted engines alike, so that designs compare like with like; how fast
a geometry may be clocked is not known, so the clock is an axis and not a result. Accuracy is the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.vegeta import cost
from dse.domains.vegeta.check import fault
from dse.domains.vegeta.engine import Engine, load_engine
from dse.domains.vegeta.kernels import gemm_program
from dse.domains.vegeta.pipeline import CAUSES
from dse.domains.vegeta.timing import simulate_many
from dse.domains.vegeta.workloads import layers as shipped
from dse.errors import SpecError
from dse.spec.base import Spec
from dse.spec.fields import Count, PositiveFraction, Switch, Text, quantity

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

ARRAY = ("block", "tile_k")
GEOMETRY = ("alpha", "beta", "forwarding", "clock")
DESIGN = (*ARRAY, "accumulators", *GEOMETRY)
OBJECTIVES = {"time": 1.0, "energy": 1.0, "power": 1.0, "area": 1.0, "accuracy": -1.0}  # minimised, or maximised
UNITS = {"time": "s", "energy": "J", "power": "W"}


_Clock = quantity("1", 1e-3, 1e3)


class Space(Spec):
    """The axes of a sweep; what they leave out is as in ``engine``.

    Attributes:
        engine: id or file of the engine that all designs start from.
        layers: names of shipped layers; all by default.
        density: N/M of the weights: 1 is dense.
        block: M of N:M; the engine runs M, M/2, M/4 ... as far as its registers hold the tiles of B.
        tile_k: multiply-adds of a column of the array, and values of a row of A in a tile register, which grows with
            it.
        accumulators: tiles of C that share a tile of B; fewer are taken where the registers are too few.
        alpha, beta: broadcast and reduction factor.
        forwarding: of outputs to the next instruction on the same tile.
        clock: against that of ``engine``; the core's stays.
    """

    engine: Text = "vegeta-s-16-2"
    layers: tuple[Text, ...] = ()
    density: tuple[PositiveFraction, ...] = (1.0, 0.5, 0.25)
    block: tuple[Count, ...] = (4,)
    tile_k: tuple[Count, ...] = (32,)
    accumulators: tuple[Count, ...] = (1, 2, 3)
    alpha: tuple[Count, ...] = (1, 2, 4, 8, 16)
    beta: tuple[Count, ...] = (1, 2, 4)
    forwarding: tuple[Switch, ...] = (False, True)
    clock: tuple[_Clock, ...] = (1.0,)


def sweep(
    space: Space | None = None, *, accuracy: Mapping[float, float] | None = None,
    energies: cost.Energies = cost.ENERGIES, gates: cost.Gates = cost.GATES, say: Callable[[str], Any] | None = None,
) -> xr.Dataset:  # fmt: skip
    """Time every design of a space on every layer and density.

    Args:
        space: the axes.
        accuracy: of the user's network by density (N/M); it becomes a variable, and an objective of :func:`front`.
        energies, gates: constants of energy and area.
        say: told of progress.

    Returns:
        Dataset with an axis for each name of :class:`Space`: ``time`` [s], ``cycles`` (of the engine), ``utilisation``
        (share of the time in which the array is fed), ``energy`` [J] and ``power`` [W] by layer, density and design;
        ``stalls`` (engine cycles) also by ``cause``; ``area`` (against D-1-1) by geometry; ``feasible`` and ``reason``
        (empty where feasible) by density and design. What is infeasible is NaN.

    Raises:
        SpecError: an unknown engine or layer, an axis without values or with one twice, or an accuracy outside 0 to 1
            or of a density that is not swept.
    """
    import xarray as xr

    space = Space() if space is None else space
    layers, base, axes = _layers(space), load_engine(space.engine), _axes(space)
    _check_accuracy(accuracy, space)
    shape = (len(layers), *(len(axes[name]) for name in ("density", *DESIGN)))
    numbers = {name: np.full(shape, np.nan) for name in ("cycles", "seconds", "utilisation")}
    counts = {name: np.full(shape[:5], np.nan) for name in cost.COUNTS}
    stalls = np.full((*shape, len(CAUSES)), np.nan)
    reason = np.full(shape[1:], "", dtype=object)
    for d, b, t in np.ndindex(*shape[1:4]):
        engines, faults = _engines(base, space, space.density[d], space.block[b], space.tile_k[t])
        reason[d, b, t] = faults
        for at, program in _programs(engines, layers, space, (d, b, t)):
            good = np.flatnonzero([engine is not None for engine in engines])
            timed = simulate_many(program, [engines[i] for i in good])
            for name, values in numbers.items():
                values[at].reshape(-1)[good] = getattr(timed, name)
            stalls[at].reshape(-1, len(CAUSES))[good] = timed.stalls
            for name, value in asdict(cost.work(program, engines[good[0]])).items():
                counts[name][at] = value
        if say is not None:
            say(f"density {space.density[d]:g}, block {space.block[b]}, tile_k {space.tile_k[t]}")
    dims = ("layer", "density", *DESIGN)
    coordinates = {"layer": [layer.name for layer in layers], **axes, "cause": list(CAUSES)}
    data = xr.Dataset({name: (dims, values) for name, values in numbers.items()}, coordinates)
    data = data.rename(seconds="time").assign(
        stalls=((*dims, "cause"), stalls), reason=(dims[1:], reason.astype(str)), feasible=(dims[1:], reason == "")
    )
    return _priced(
        data, {name: xr.DataArray(v, dims=dims[:5]) for name, v in counts.items()}, base, energies, gates
    ).pipe(_with_accuracy, accuracy)


def _priced(data: xr.Dataset, counts: Any, base: Engine, energies: cost.Energies, gates: cost.Gates) -> xr.Dataset:
    """Area of the geometries; energy and mean power of everything that was timed."""
    import xarray as xr

    sparse, of = cost.is_sparse(base), ("alpha", "beta", "block", "tile_k")
    data["area"] = xr.apply_ufunc(
        lambda alpha, beta, block, tile_k: cost.relative(
            alpha, beta, block=block, sparse=sparse, tile_m=base.tile_m, tile_k=tile_k, gates=gates
        ),
        *(data[name] for name in of),
    )  # fmt: skip
    # A larger array of the same make burns more only because it does more: power here is by multiply-add.
    each = data["area"] * (512.0 / (base.tile_m * data["tile_k"]))
    total = sum(cost.energy(counts, each, energies).values())
    data["energy"] = total.where(data["time"].notnull()).transpose(*data["time"].dims)
    data["power"] = data["energy"] / data["time"]
    for name, unit in UNITS.items():
        data[name].attrs["units"] = unit
    return data


def _with_accuracy(data: xr.Dataset, accuracy: Mapping[float, float] | None) -> xr.Dataset:
    if accuracy is None:
        return data
    known = [accuracy.get(float(density), np.nan) for density in data["density"].values]
    return data.assign(accuracy=("density", known))


def _check_accuracy(accuracy: Mapping[float, float] | None, space: Space) -> None:
    for density, value in (accuracy or {}).items():
        if density not in space.density:
            swept = ", ".join(f"{x:g}" for x in space.density)
            raise fault("accuracy", f"{density:g}={value:g}", f"must be of a density that is swept: {swept}")
        if not 0.0 <= value <= 1.0:
            raise fault("accuracy", f"{density:g}={value:g}", "must be a fraction from 0 to 1")


def _layers(space: Space) -> list[Any]:
    known = {layer.name: layer for layer in shipped()}
    unknown = [name for name in space.layers if name not in known]
    if unknown:
        raise fault("layers", unknown[0], f"must be one of {', '.join(known)}"[:400])
    return [known[name] for name in space.layers or known]


def _axes(space: Space) -> dict[str, list[Any]]:
    axes = {name: list(getattr(space, name)) for name in ("density", *DESIGN)}
    for name, values in axes.items():
        if not values or len(set(values)) < len(values):
            raise fault(name, values, "must have at least one value, and each only once")
    return axes


def _engines(
    base: Engine, space: Space, density: float, block: int, tile_k: int
) -> tuple[list[Engine | None], np.ndarray]:
    """Engines of all geometries, flat, None where infeasible; and the reasons [accumulators, *geometry]."""
    axes = [getattr(space, name) for name in GEOMETRY]
    engines: list[Engine | None] = []
    reasons = np.full([len(axis) for axis in axes], "", dtype=object)
    patterns = _patterns(base, block)
    for at in np.ndindex(*reasons.shape):
        alpha, beta, forwarding, clock = (axis[i] for axis, i in zip(axes, at, strict=True))
        size = max(2 * tile_k * max(base.tile_m, base.tile_n), 4 * base.tile_m * base.tile_n)
        engine = None
        try:
            made = base.replace(
                alpha=alpha, beta=beta, output_forwarding=forwarding, clock=clock * base.clock, block=block,
                patterns=patterns, tile_k=tile_k, tile_register=size, row_wise=False,
            )  # fmt: skip
            if density * block not in patterns:
                known = ", ".join(f"{n / block:g}" for n in patterns)
                rule = f"{density * block:g}:{block} does not run; N/M is {known}"
                raise fault("density", f"{density:g}", rule)
            engine = made
        except SpecError as error:
            first = error.faults[0]
            reasons[at] = first.rule if " = " in first.rule else f"{first.path} = {first.value}: {first.rule}"
        engines.append(engine)
    return engines, np.broadcast_to(reasons, (len(space.accumulators), *reasons.shape))


def _patterns(base: Engine, block: int) -> tuple[int, ...]:
    """The N of an engine with blocks of M: halves of M whose tiles of B the registers hold beside one of A and of C."""
    if not cost.is_sparse(base):
        return (block,)
    halves = (block >> i for i in range(block.bit_length()) if block % (1 << i) == 0)
    return tuple(sorted(n for n in halves if block // n + 2 <= base.tile_registers))


def _programs(engines: Sequence[Engine | None], layers: Sequence[Any], space: Space, at: tuple[int, int, int]) -> Any:
    """Index and instruction stream of every layer and blocking; none if no engine is feasible."""
    first = next((engine for engine in engines if engine is not None), None)
    if first is None:
        return
    pattern = round(space.density[at[0]] * first.block)
    for i, c in np.ndindex(len(layers), len(space.accumulators)):
        layer, accumulators = layers[i], space.accumulators[c]
        program, _ = gemm_program(layer.m, layer.n, layer.k, first, pattern=pattern, accumulators=accumulators)
        yield (i, *at, c), program


def overall(data: xr.Dataset) -> pd.DataFrame:
    """All layers together: a row for each feasible density and design.

    Returns:
        Columns of the axes, then ``time`` [s] and ``energy`` [J] summed over the layers, ``power`` [W], ``utilisation``
        (mean over time), ``area``, ``accuracy`` if the sweep has it, ``over_dense``: the speed-up over dense weights
        on the same design, if the sweep has these, and ``speedup`` over the slowest design at the largest density.
    """
    total = data[["time", "energy"]].sum("layer", min_count=data.sizes["layer"])
    total["power"] = total["energy"] / total["time"]
    total["utilisation"] = (data["utilisation"] * data["time"]).sum("layer") / total["time"]
    for name in ("area", "accuracy"):
        if name in data:
            total[name] = data[name]
    if 1.0 in data["density"]:
        total["over_dense"] = total["time"].sel(density=1.0, drop=True) / total["time"]
    frame = total.to_dataframe(dim_order=("density", *DESIGN)).reset_index()
    frame = frame.dropna(subset=["time"]).reset_index(drop=True)
    return frame.assign(
        speedup=frame.loc[frame["density"] == data["density"].values.max(), "time"].max() / frame["time"]
    )


def front(table: pd.DataFrame, objectives: Sequence[str] = ("time", "area")) -> pd.DataFrame:
    """Rows of a table that no other beats in every objective, in the order of the first objective.

    Args:
        table: of :func:`overall`, or part of it: give one density, or ``accuracy`` among the objectives, or the
            sparsest weights win everything.
        objectives: columns of :data:`OBJECTIVES`; ``accuracy`` is maximised, all others are minimised.

    Raises:
        SpecError: an unknown objective, or one without values.
    """
    from dse.explore.search.pareto import front as best

    for name in objectives:
        if name not in OBJECTIVES or name not in table:
            raise fault("objectives", name, f"must be among {', '.join(n for n in OBJECTIVES if n in table)}")
    if not objectives or len(set(objectives)) < len(objectives):
        rule = f"must be at least one of {', '.join(OBJECTIVES)}, each once"
        raise fault("objectives", ", ".join(objectives) or "none", rule)
    known = table.dropna(subset=list(objectives))
    points = np.stack([OBJECTIVES[name] * known[name].to_numpy(float) for name in objectives], axis=1)
    return known.iloc[best(points)].reset_index(drop=True)
