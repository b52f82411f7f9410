"""Hardware: accelerators, memory tiers, nodes, networks of any number of dimensions, clusters.

Bandwidths are per direction and per device unless a name says otherwise.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, field_validator, model_validator

from dse.spec import catalogue
from dse.spec.base import Entry, Spec
from dse.spec.fields import (
    Area,
    Bandwidth,
    Bytes,
    Count,
    Dollars,
    DollarsPerJoule,
    DollarsPerSecond,
    FlopRate,
    Fraction,
    JoulesPerByte,
    JoulesPerFlop,
    KilogramsPerDevice,
    KilogramsPerJoule,
    Multiple,
    Name,
    Number,
    PositiveFraction,
    Ratio,
    Seconds,
    Switch,
    Text,
    Watts,
)

Datatype = Literal["fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "fp4", "int8"]
Topology = Literal["ring", "fully_connected", "switch", "mesh", "torus"]
Algorithm = Literal["auto", "ring", "direct", "halving_doubling", "double_binary_tree"]


class MemoryTier(Spec):
    """One level of the memory hierarchy; capacity and bandwidth are those of ``shared_by`` devices together."""

    name: Name
    kind: Literal["hbm", "gddr", "sram", "ddr", "lpddr", "cxl", "pooled", "nvme"] = "hbm"
    capacity: Bytes
    bandwidth: Bandwidth
    latency: Seconds = 0.0
    energy: JoulesPerByte = 0.0
    price: Dollars = 0.0
    shared_by: Count = 1


class MatrixPeak(Spec):
    """Dense peak of the matrix engine by data type (a multiply-add is two FLOP). Absent: not supported."""

    fp64: FlopRate | None = None
    fp32: FlopRate | None = None
    tf32: FlopRate | None = None
    fp16: FlopRate | None = None
    bf16: FlopRate | None = None
    fp8: FlopRate | None = None
    fp4: FlopRate | None = None
    int8: FlopRate | None = None


class VectorPeak(Spec):
    """Peak of the vector (non-matrix) units by data type."""

    fp64: FlopRate | None = None
    fp32: FlopRate | None = None
    fp16: FlopRate | None = None
    bf16: FlopRate | None = None


class Efficiency(Spec):
    """What real kernels reach of the peaks; the defaults give the ideal roofline.

    A GEMM is cut into tiles that the cores work off in waves. It reaches ``matrix`` of the peak (``matrix_fp8`` in
    FP8 and ``matrix_fp4`` in FP4, by default the same) when its tiles fill whole waves; a tile of k steps takes as
    long as k + ``k_overhead``; tiles smaller than 128 columns run at ``small_tile`` of the rate. ``tiles`` false
    switches the quantization off.

    Attributes:
        sustained: rate of long runs against short benchmarks (power and heat), in 16 bit or wider.
        sustained_fp8, sustained_fp4: the same in 8 and in 4 bit.
        attention: forward rate of the best flash-attention kernel against the peak.
        attention_backward: its backward rate against its forward rate.
        attention_first: rate of first-generation flash attention against that kernel's.
        unaligned: rate of batched products with a size that is not a multiple of 64 elements.
        misaligned: the same for sizes that are not a multiple of 8 (16 bytes, the width of a vector load).
        memory: fraction of the memory bandwidth that streaming kernels reach.
        launch: start-up time of a kernel on the device.
    """

    matrix: PositiveFraction = 1.0
    matrix_fp8: PositiveFraction | None = None
    matrix_fp4: PositiveFraction | None = None
    tiles: Switch = False
    small_tile: PositiveFraction = 1.0
    k_overhead: Number = 0.0
    sustained: PositiveFraction = 1.0
    sustained_fp8: PositiveFraction = 1.0
    sustained_fp4: PositiveFraction = 1.0
    attention: PositiveFraction = 1.0
    attention_backward: PositiveFraction = 1.0
    attention_first: PositiveFraction = 1.0
    unaligned: PositiveFraction = 1.0
    misaligned: PositiveFraction = 1.0
    memory: PositiveFraction = 1.0
    launch: Seconds = 0.0


class Accelerator(Entry):
    """A device: matrix and vector engines, on-chip buffer, local memory, power and price.

    ``generation`` names the family whose measured efficiency the device shares (see ``data/calibration.yaml``).
    """

    vendor: Text = ""
    year: Count | None = None
    generation: Name | None = None
    matrix: MatrixPeak
    vector: VectorPeak
    cores: Count = 1
    buffer: Bytes
    memory: MemoryTier
    efficiency: Efficiency = Efficiency()
    reserved_memory: Bytes = 0.0
    idle_power: Watts
    tdp: Watts
    energy_per_flop: JoulesPerFlop | None = None
    area: Area | None = None
    price: Dollars
    price_per_hour: DollarsPerSecond | None = None
    embodied_carbon: KilogramsPerDevice = 0.0


class Node(Entry):
    """A server: some accelerators, the memory they share beyond their own, host power and price."""

    _shortcuts: ClassVar[dict[str, str]] = {"memory": "accelerator.memory"}

    accelerator: Annotated[Accelerator, BeforeValidator(lambda v: catalogue.resolve("accelerator", v))]
    devices: Count
    expansion: tuple[MemoryTier, ...] = ()
    host_power: Watts = 0.0
    host_price: Dollars = 0.0

    @field_validator("expansion")
    @classmethod
    def _distinct_tiers(cls, tiers: tuple[MemoryTier, ...]) -> tuple[MemoryTier, ...]:
        return _distinct(tiers, "memory tier")

    @property
    def tiers(self) -> tuple[MemoryTier, ...]:
        """Local memory first, then the expansion tiers in the order given."""
        return (self.accelerator.memory, *self.expansion)


class NetworkDimension(Spec):
    """One level of the network, innermost first.

    ``size`` None marks the elastic dimension that grows with the number of devices. ``bandwidth`` is what one
    device can inject into this dimension, all its links together, per direction. ``fabric`` names the technology whose
    measured constants the dimension takes over; the defaults are an ideal link. ``jitter`` is the growth of the step
    time per doubling of this dimension's size: all wait for the slowest link and node.

    Attributes:
        latency: per step of an algorithm.
        overhead: once per collective that uses the dimension.
        efficiency: of the bandwidth in large messages of short benchmarks.
        loaded: what is left of that in long training (congestion, traffic of others, computing beside it).
        ramp: time of one piece of a message that is cut to be pipelined; cutting it in the best way adds
            2·sqrt(ramp · transfer time).
        small_efficiency: of the bandwidth in the protocol for small messages, with its own ``small_latency`` and
            ``small_overhead``; the quicker protocol is taken. None: there is only one.
        pair_efficiency: of the bandwidth between two devices in that protocol, which gives a pair few channels (in
            point-to-point and all-to-all); None: as above.
        own_copy: time to copy a device's own share of a buffer, against that of sending it.
        in_network_efficiency: rate of reductions in the switch against ``efficiency``.
        contention: the rate of a device falls as (2 / ranks)^contention where links are shared, as under a PCIe root.
        flat: rings pass through the devices of all inner dimensions too, as NCCL's do, rather than work dimension
            by dimension; all-reduces of small messages use trees.
    """

    name: Name
    topology: Topology
    fabric: Name | None = None
    size: Count | None = None
    bandwidth: Bandwidth
    latency: Seconds = 0.0
    overhead: Seconds = 0.0
    efficiency: PositiveFraction = 1.0
    loaded: PositiveFraction = 1.0
    bidirectional: Switch = True
    ramp: Seconds = 0.0
    small_efficiency: PositiveFraction | None = None
    small_latency: Seconds = 0.0
    small_overhead: Seconds = 0.0
    pair_efficiency: PositiveFraction | None = None
    own_copy: Multiple = 0.0
    contention: Multiple = 0.0
    in_network_reduction: Switch = False
    in_network_efficiency: PositiveFraction = 1.0
    flat: Switch = False
    algorithm: Algorithm = "auto"
    jitter: Fraction = 0.0
    energy: JoulesPerByte = 0.0
    power: Watts = 0.0
    price: Dollars = 0.0

    @model_validator(mode="after")
    def _algorithm_fits(self) -> Self:
        if self.topology not in ("switch", "fully_connected") and self.algorithm not in ("auto", "ring", "direct"):
            raise ValueError(f"algorithm {self.algorithm!r} needs a switch or fully_connected topology")
        if self.in_network_reduction and self.topology != "switch":
            raise ValueError("in_network_reduction needs a switch topology")
        return self


class Network(Spec):
    """Dimensions from the innermost (fastest) to the outermost.

    ``pipeline_chunks`` is the number of pieces a collective is cut into so that its dimensions work at once;
    None means perfectly fine cutting. ``sizing`` says how the dimensions follow the number of devices: fill the
    inner ones and let the elastic one grow, or keep all sizes near equal (a torus).
    """

    _shortcuts: ClassVar[dict[str, str]] = {"intra": "dimensions.0", "inter": "dimensions.-1"}

    dimensions: tuple[NetworkDimension, ...]
    pipeline_chunks: Count | None = 64
    sizing: Literal["fill", "balanced"] = "fill"

    @field_validator("dimensions")
    @classmethod
    def _named_apart(cls, dimensions: tuple[NetworkDimension, ...]) -> tuple[NetworkDimension, ...]:
        if not 1 <= len(dimensions) <= 8:
            raise ValueError("must have 1 to 8 dimensions")
        if sum(d.size is None for d in dimensions[:-1]):
            raise ValueError("only the outermost dimension may leave its size open")
        return _distinct(dimensions, "dimension")


class Facility(Spec):
    """Power, money and carbon of the place the cluster stands in."""

    pue: Ratio = 1.3
    electricity_price: DollarsPerJoule = 0.08 / 3.6e6
    carbon_intensity: KilogramsPerJoule = 0.4 / 3.6e6
    lifetime: Seconds = 4 * 365.25 * 86400.0
    utilization: PositiveFraction = 0.8
    maintenance: Fraction = 0.0
    pricing: Literal["own", "rent"] = "own"


class Cluster(Entry):
    """Nodes on a network; a template for any device count (``devices`` is only the default)."""

    node: Annotated[Node, BeforeValidator(lambda v: catalogue.resolve("node", v))]
    network: Network
    devices: Count
    facility: Facility = Facility()

    @model_validator(mode="after")
    def _node_fits_the_network(self) -> Self:
        """Nodes and the inner dimensions must nest: one divides the other at every level."""
        places = 1
        for dimension in self.network.dimensions:
            if dimension.size is None or self.network.sizing == "balanced":
                break
            places *= dimension.size
            if places % self.node.devices and self.node.devices % places:
                raise ValueError(
                    f"node.devices = {self.node.devices} does not nest with network dimension {dimension.name!r}, "
                    f"which reaches {places} devices"
                )
        return self

    @property
    def accelerator(self) -> Accelerator:
        return self.node.accelerator

    _shortcuts: ClassVar[dict[str, str]] = {"accelerator": "node.accelerator", "memory": "node.accelerator.memory"}


def _distinct(parts: tuple[Any, ...], what: str) -> tuple[Any, ...]:
    names = [part.name for part in parts]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"{what} names must differ: {', '.join(sorted(twice))} given twice")
    return parts
