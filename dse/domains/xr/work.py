"""What the runtime has to do: models as whole jobs, or as layers that can be interrupted and that share DRAM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dse.domains.xr.conditions import Conditions
from dse.domains.xr.costs import Costs, LayerModel
from dse.domains.xr.layer import Layer
from dse.domains.xr.models import unit_model
from dse.domains.xr.scenarios import Scenario
from dse.domains.xr.systems import SubAccelerator, System
from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.fields import Bandwidth, PositiveFraction, quantity

if TYPE_CHECKING:
    import pandas as pd

    from dse.domains.xr.loop_parts import Work


class Memory(Spec):
    """DRAM that all parts share. A part has its off-chip bandwidth at most, and all together have this bandwidth.

    Where more is asked for, it is divided max-min fair, and layers take longer. Layers of a part that are bound by
    something else slow down only when they get less than they ask for.

    Attributes:
        bandwidth: of all parts together.
        efficiency: share of it that is reached.
        element: size of a weight, input or output.
    """

    bandwidth: Bandwidth
    efficiency: PositiveFraction = 1.0
    element: quantity("B", 0.125, 16) = 1.0  # type: ignore[valid-type]


def whole(latency: np.ndarray, energy: np.ndarray) -> Work:
    """Models as whole jobs, from latency [ms] and energy [mJ], both [S, M, A]."""
    return of_layers(
        latency[:, :, None], energy[:, :, None], np.zeros_like(latency)[:, :, None], [1] * latency.shape[1]
    )


def layered(
    scenario: Scenario, systems: Sequence[System], costs: Costs | None, conditions: Conditions, memory: Memory | None
) -> Work:
    """Models as layers, priced with the cost model of layers; with a memory, DRAM is counted.

    Raises:
        SpecError: costs of whole models, or a part that does not state what the cost model needs.
    """
    counted = memory is not None or conditions.memory == "counted"
    if costs is None:
        costs = LayerModel(conditions.depthwise, dram=counted)
    if not isinstance(costs, LayerModel):
        rule = "are of whole models: interruption between layers and shared DRAM need the cost model of layers"
        raise SpecError([Fault("costs", "", rule)])
    shared = {name: getattr(conditions, name) for name in ("noc_bandwidth", "offchip_bandwidth", "l2")}
    systems = [item.sharing(**shared) for item in systems]
    loads = [network(costs, model) for model in scenario.models]
    counts = [layers.k.size for layers in loads]
    every = Layer(*(np.concatenate(columns) for columns in zip(*loads, strict=True)))
    parts = list(dict.fromkeys(part for item in systems for part in item.parts))
    priced = dict(zip(parts, _priced(every, parts, costs.rules, costs.dram or counted, memory), strict=True))
    shape = (len(systems), len(loads), max(counts), max(len(item.parts) for item in systems))
    latency, energy, traffic = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    inside = np.arange(max(counts)) < np.array(counts)[:, None]
    for s, item in enumerate(systems):
        latency[s, :, :, len(item.parts) :] = np.inf
        for a, part in enumerate(item.parts):
            for column, values in zip((latency, energy, traffic), priced[part], strict=True):
                column[s, :, :, a][inside] = values
    return of_layers(latency, energy, traffic, counts)


def network(costs: LayerModel, model: str) -> Layer:
    """The layers of a model as a cost model has them."""
    layers = costs.networks[model] if model in costs.networks else unit_model(model).layers
    return layers.as_dense() if costs.depthwise == "dense" else layers


def memory_needs(
    scenario: Scenario, system: System, costs: LayerModel | None = None, element: float = 1.0
) -> pd.DataFrame:
    """What models need of L2 and DRAM on each part of a system.

    Args:
        element: size of a weight, input or output, bytes.

    Returns:
        One row a part and model: ``l2_needed`` (of the layer that needs most), ``l2`` (of the part), ``fits`` (share of
        layers), ``weights``, ``dram`` (a frame, with this L2) in bytes, and ``bandwidth`` [B/s] at the model's rate.
    """
    import pandas as pd

    from dse.domains.xr.analysis import layer_costs

    costs = costs or LayerModel()
    rows = []
    for a, part in enumerate(system.parts):
        for task in scenario.tasks:
            layers = network(costs, task.model)
            ((_, _, moved),) = _priced(layers, [part], costs.rules, True, Memory(bandwidth=1e18, element=element))
            needed = element * layer_costs(
                layers, str(part.dataflow), part.num_pes, part.noc_bandwidth, rules=costs.rules
            ).l2_required  # fmt: skip
            fits, weights, dram = (needed <= part.l2).mean(), element * layers.weights.sum(), moved.sum()
            rows.append((a, task.model, needed.max(), part.l2, fits, weights, dram, task.rate * dram))
    names = ["part", "model", "l2_needed", "l2", "fits", "weights", "dram", "bandwidth"]
    return pd.DataFrame(rows, columns=names)


def _priced(
    layers: Layer, parts: list[SubAccelerator], rules: str, dram: bool, memory: Memory | None
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each part: ms, mJ and bytes of every layer."""
    from dse.domains.xr.analysis import layer_costs

    needed = ["dataflow", "num_pes", "noc_bandwidth", *(["offchip_bandwidth", "l2"] if dram else [])]
    faults = [
        Fault(f"{part.name}.{name}", "", "is needed for layers to be priced on it")
        for part in parts for name in needed if getattr(part, name) is None
    ]  # fmt: skip
    if faults:
        raise SpecError(faults)
    element = memory.element if memory else 1.0
    found = []
    for part in parts:
        limits = {}
        if dram:
            offchip = float(part.offchip_bandwidth)  # type: ignore[arg-type]
            if memory:
                offchip = min(offchip, memory.bandwidth * memory.efficiency / element / part.clock)
            limits = {"dram_bandwidth": offchip, "l2_size": max(int(part.l2 / element), 1)}  # type: ignore[operator]
        sizes = (str(part.dataflow), part.num_pes, part.noc_bandwidth)
        cost = layer_costs(layers, *sizes, rules=rules, **limits)  # type: ignore[arg-type]
        moved = sum(value for name, value in cost.accesses.items() if name.startswith("dram"))
        found.append((1e3 * cost.latency / part.clock, 1e3 * cost.energy, moved * element + np.zeros(layers.k.size)))
    return found


def of_layers(latency: np.ndarray, energy: np.ndarray, traffic: np.ndarray, counts: Sequence[int]) -> Work:
    """Models as layers, the first ``counts`` of each.

    Args:
        latency, energy, traffic: ms with all DRAM bandwidth, mJ, and bytes to and from DRAM, [S, M, L, A]; an infinite
            latency is no part.
    """
    from dse.domains.xr.loop_parts import Work

    with np.errstate(invalid="ignore", divide="ignore"):
        demand = np.where((latency > 0) & np.isfinite(latency), traffic / latency, 0.0)
    rest = np.zeros((*latency.shape[:2], latency.shape[2] + 1, latency.shape[3]))
    rest[:, :, :-1] = np.cumsum(latency[:, :, ::-1], axis=2)[:, :, ::-1]
    none = np.isinf(latency[:, :, 0])
    joules = np.where(none, np.inf, energy.sum(axis=2))
    return Work(latency, energy, demand, rest, joules, np.array(counts, np.int64))
