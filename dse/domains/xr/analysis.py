"""Latency, traffic and energy of convolution layers on an array of PEs, under a dataflow stated as a loop nest.

All layers and machines of a call are computed together: every argument is a number or an array, and they broadcast.
Sizes are in elements, bandwidths in elements per cycle, times in cycles of the array's clock, energies in J.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dse.domains.xr.counts import Counts, Tensors, at_once
from dse.domains.xr.dataflow import Dataflow, load_dataflow
from dse.domains.xr.layer import Layer
from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.fields import Multiple, quantity

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
Rules = Literal["maestro", "exact"]
RULES = ("maestro", "exact")
DEPTHWISE = Tensors(output="KCYX")
BUFFERS = ("l1", "cluster", "l2", "dram")
TENSORS = ("input", "weight", "output")
JoulesPerMac = quantity("J", 0, 1e-3)


class AccessEnergy(Spec):
    """Energy of an operation; the defaults are those of XRBench's fork of MAESTRO (from GANAX, ISCA 2018).

    Attributes:
        mac: J of a multiply-add.
        l1: an element read from or written to a PE's buffer, in multiply-adds.
        cluster: the same of a buffer between L1 and L2 (only ``rules="exact"`` counts them).
        l2: the same of the shared buffer.
        dram: the same of DRAM, counted where DRAM is modelled (75 is stated in the fork, but not used there).
    """

    mac: JoulesPerMac = 2.88e-12
    l1: Multiple = 0.55
    cluster: Multiple = 0.55
    l2: Multiple = 6.0
    dram: Multiple = 75.0


@dataclass(frozen=True)
class LayerCosts:
    """Costs of layers; each array has one entry a design (a layer on a machine).

    Attributes:
        latency: cycles.
        bound: cycles of ``latency`` in steps whose time is set by compute, by data going into the array (ingress), out
            of it (egress), or by DRAM. At the top cluster level: compute is the time of the levels below.
        macs: multiply-adds that the layer needs.
        macs_counted: those that the rules count, and charge energy for.
        pes_used: PEs in whole clusters; the others never work.
        utilisation: ``macs`` over what all PEs could do in ``latency``; by the rules of MAESTRO it may exceed 1.
        accesses: elements by "BUFFER reads|writes TENSOR"; buffers are l1, cluster, l2, dram.
        energy: J.
        energy_of: J by mac, l1, cluster, l2, dram.
        l1_required: elements that a PE's buffer must hold, double-buffered.
        l2_required: elements that the shared buffer must hold for one step, double-buffered.
        fits: whether the buffers given are as large as required.
        resident: tensors kept whole in L2, where its size is given: "input+weight", "" for none.
    """

    latency: Array
    bound: dict[str, Array]
    macs: Array
    macs_counted: Array
    pes_used: Array
    utilisation: Array
    accesses: dict[str, Array]
    energy: Array
    energy_of: dict[str, Array]
    l1_required: Array
    l2_required: Array
    fits: Array
    resident: Array

    def table(self) -> pd.DataFrame:
        """One row a design; columns have their units in brackets."""
        import pandas as pd

        columns: dict[str, Array] = {"latency [cycles]": self.latency}
        columns |= {f"{name} bound [cycles]": value for name, value in self.bound.items()}
        columns |= {"MACs": self.macs, "MACs counted": self.macs_counted, "utilisation": self.utilisation}
        columns |= {"PEs used": self.pes_used, "energy [J]": self.energy}
        columns |= {f"energy {name} [J]": value for name, value in self.energy_of.items()}
        columns |= {f"{name} [elements]": value for name, value in self.accesses.items()}
        columns |= {"L1 required [elements]": self.l1_required, "L2 required [elements]": self.l2_required}
        columns |= {"fits": self.fits, "resident": self.resident}
        return pd.DataFrame({name: np.ravel(value) for name, value in columns.items()})


def layer_costs(
    layer: Layer,
    dataflow: Dataflow | str | list[str],
    pes: Any,
    noc_bandwidth: Any,
    *,
    noc_latency: Any = 1,
    rules: Rules = "maestro",
    energy: AccessEnergy | None = None,
    dram_bandwidth: Any = None,
    l1_size: Any = None,
    l2_size: Any = None,
) -> LayerCosts:
    """Cost of each layer on each machine.

    Args:
        layer: columns of layers (``dse.domains.xr.layer``).
        dataflow: an id (ws, os, rs), a YAML file, a list of loops, or a ``Dataflow``.
        pes: processing elements, one multiply-add a cycle each.
        noc_bandwidth: elements per cycle into, and out of, the network of a cluster, at every level.
        noc_latency: cycles from the entry of a network to a unit.
        rules: "maestro": those of XRBench's fork of MAESTRO, whose recorded layer costs they repeat to the cycle
            (``dse.domains.xr.maestro``). They count a fixed halo around pieces of rows and columns, so up to 16 times
            the multiply-adds of a layer with a 1 x 1 kernel.
            "exact": what a literal run of the loop nest counts (``dse.domains.xr.exact``).
        energy: of an operation; None: the published values.
        dram_bandwidth: elements per cycle; None: DRAM is not modelled, as in the fork. Its transfers overlap with all
            other work of the layer.
        l1_size: elements of a PE's buffer; None: as large as required.
        l2_size: elements of the shared buffer; None: as large as required, and whole tensors stay in it. A smaller one
            keeps those tensors whole that save most DRAM traffic, and streams the others at each use.

    Returns:
        Arrays of the broadcast shape.

    Raises:
        SpecError: a number out of range, shapes that do not broadcast, or a dataflow that does not fit the machine.
    """
    if rules not in RULES:
        raise SpecError([Fault("rules", repr(rules)[:60], f"must be one of {', '.join(RULES)}")])
    flow, prices = load_dataflow(dataflow), energy or AccessEnergy()
    given = {"pes": pes, "noc_bandwidth": noc_bandwidth, "noc_latency": noc_latency}
    limits = {"dram_bandwidth": dram_bandwidth, "l1_size": l1_size, "l2_size": l2_size}
    given |= {name: value for name, value in limits.items() if value is not None}
    numbers = {name: _number(name, value) for name, value in given.items()}
    try:
        shape = np.broadcast_shapes(layer.k.shape, *(a.shape for a in numbers.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {a.shape}" for name, a in numbers.items())
        raise SpecError([Fault("shapes", f"layer {layer.k.shape}, {shapes}", "must broadcast")]) from None
    flat = Layer(*(np.broadcast_to(a, shape).ravel() for a in layer))
    columns = {name: np.broadcast_to(a, shape).ravel() for name, a in numbers.items()}
    counts = _counts(flat, flow, columns, rules)
    return _shaped(_priced(flat, flow, counts, columns, prices), shape)


def _counts(layer: Layer, flow: Dataflow, machine: dict[str, Array], rules: Rules) -> Counts:
    """Counts of dense layers, of depthwise ones, and of grouped ones, which are as many dense ones in turn."""
    depthwise = (layer.groups > 1) & (layer.groups == layer.c)
    passes = np.where(depthwise, 1, layer.groups)
    inside = layer._replace(
        k=np.where(depthwise, layer.k // layer.groups, layer.k // passes),
        c=layer.c // passes,
        groups=np.ones_like(layer.groups),
    )
    parts = []
    most = at_once(max(len(level.maps) for level in flow.levels))
    for mask, tensors in ((~depthwise, Tensors()), (depthwise, DEPTHWISE)):
        places = np.flatnonzero(mask)
        for block in np.array_split(places, -(-len(places) // most)) if len(places) else ():
            part = Layer(*(column[block] for column in inside))
            found = _count(part, tensors, flow, {name: a[block] for name, a in machine.items()}, rules)
            parts.append((block, found.times(passes[block])))
    return Counts.merged(len(depthwise), parts)


def _count(layer: Layer, tensors: Tensors, flow: Dataflow, machine: dict[str, Array], rules: Rules) -> Counts:
    least = flow.cluster_units
    if (machine["pes"] < least).any():
        rule = f"must be at least {least}, the PEs of one unit of the top level"
        raise SpecError([Fault("pes", str(int(machine["pes"].min())), rule)])
    if rules == "maestro":
        from dse.domains.xr import maestro as model
    else:
        from dse.domains.xr import exact as model  # type: ignore[no-redef]
    return model.count(layer, tensors, flow, machine["pes"], machine["noc_bandwidth"], machine["noc_latency"])


def _priced(
    layer: Layer, flow: Dataflow, counts: Counts, machine: dict[str, Array], prices: AccessEnergy
) -> LayerCosts:
    """Counts with DRAM, limits of buffers and energy."""
    dram, resident = _dram(layer, counts, machine.get("l2_size"))
    bound, latency, accesses = dict(counts.bound), counts.cycles, dict(counts.accesses)
    if "dram_bandwidth" in machine:
        accesses |= dram
        transfer = np.ceil(sum(dram.values()) / machine["dram_bandwidth"]).astype(np.int64)
        waits = transfer > latency
        bound = {name: np.where(waits, 0, value) for name, value in bound.items()} | {"dram": waits * transfer}
        latency = np.maximum(latency, transfer)
    energy_of = {"mac": prices.mac * counts.macs}
    for buffer in BUFFERS:
        touched = sum((n for name, n in accesses.items() if name.startswith(f"{buffer} ")), np.zeros_like(latency))
        energy_of[buffer] = prices.mac * getattr(prices, buffer) * touched
    unlimited = np.full(latency.shape, np.inf)
    return LayerCosts(
        latency=latency,
        bound=bound,
        macs=layer.macs,
        macs_counted=counts.macs,
        pes_used=machine["pes"] // flow.cluster_units * flow.cluster_units,
        utilisation=layer.macs / (machine["pes"] * latency),
        accesses=accesses,
        energy=np.asarray(sum(energy_of.values())),
        energy_of=energy_of,
        l1_required=counts.l1_required,
        l2_required=counts.l2_required,
        fits=(counts.l1_required <= machine.get("l1_size", unlimited))
        & (counts.l2_required <= machine.get("l2_size", unlimited)),
        resident=resident,
    )


def _dram(layer: Layer, counts: Counts, l2_size: Array | None) -> tuple[dict[str, Array], Array]:
    """Elements to and from DRAM, and which tensors stay in L2 whole, so that they move once."""
    once = {"input": layer.inputs, "weight": layer.weights, "output": layer.outputs}
    reads = {name: np.maximum(counts.accesses.get(f"l2 reads {name}", 0), once[name]) for name in TENSORS[:2]}
    spilled = np.maximum(counts.accesses["l2 writes output"], once["output"])
    moved = reads | {"output": spilled + np.maximum(spilled - once["output"], 0)}
    best: dict[str, Array] = {}
    total = np.full(layer.k.shape, np.inf)
    resident = np.full(layer.k.shape, "", dtype="U19")
    for kept in itertools.chain.from_iterable(itertools.combinations(TENSORS, n) for n in (3, 2, 1, 0)):
        held = counts.l2_required + sum(once[name] for name in kept)
        case = {name: once[name] if name in kept else moved[name] for name in TENSORS}
        amount = sum(case.values())
        better = (amount < total) & ((held <= l2_size) if l2_size is not None and kept else True)
        best = {name: np.where(better, case[name], best.get(name, 0)) for name in TENSORS}
        total, resident = np.where(better, amount, total), np.where(better, "+".join(kept), resident)
    returned = np.where(best["output"] > once["output"], (best["output"] - once["output"]) // 2, 0)
    named = {"dram reads input": best["input"], "dram reads weight": best["weight"], "dram reads output": returned}
    return named | {"dram writes output": best["output"] - returned}, resident


def _shaped(costs: LayerCosts, shape: tuple[int, ...]) -> LayerCosts:
    def shaped(value: Any) -> Any:
        return {k: v.reshape(shape) for k, v in value.items()} if isinstance(value, dict) else value.reshape(shape)

    return LayerCosts(**{field.name: shaped(getattr(costs, field.name)) for field in fields(costs)})


def _number(name: str, value: Any) -> Array:
    try:
        numbers = np.asarray(value, dtype=float)
    except (TypeError, ValueError, OverflowError):
        raise SpecError([Fault(name, repr(value)[:60], "must be a number or an array of numbers")]) from None
    whole = name != "dram_bandwidth"
    low = 1e-6 if not whole else 1
    bad = ~(np.isfinite(numbers) & (numbers >= low) & (numbers <= 2**40))
    if whole:
        bad |= numbers != np.floor(numbers)
    if bad.any():
        shown = repr(float(numbers.ravel()[np.flatnonzero(bad.ravel())[0]]))
        kind = "whole numbers" if whole else "numbers"
        raise SpecError([Fault(name, shown, f"must be {kind} from {low:g} to {2**40}")])
    return numbers.astype(np.int64) if whole else numbers
