"""Hardware: accelerators, memory tiers, nodes, networks of any number of dimensions, clusters.

Bandwidths are per direction and per device unless a name says otherwise.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, field_validator, model_validator

from dse.errors import SpecError
from dse.spec import catalogue
from dse.spec.base import Entry, Spec
from dse.spec.fields import (
    Area,
    Bandwidth,
    Bytes,
    Count,
    CountOrZero,
    Dollars,
    DollarsPerJoule,
    DollarsPerSecond,
    DollarsPerWatt,
    FloorArea,
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
Algorithm = Literal[
    "auto", "ring", "direct", "halving_doubling", "double_binary_tree", "synthesized",
    "bidirectional_ring", "bruck", "hierarchical", "themis", "multitree",
]  # fmt: skip
ON_GRAPHS = ("bidirectional_ring", "bruck", "hierarchical", "themis", "multitree")  # without a closed form here
ANYWHERE = ("auto", "ring", "direct", "synthesized")
DAY, YEAR = 86400.0, 365.25 * 86400.0


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
        in_network_ramp: their ramp; None: as above.
        in_network_pull: 1 where a device fetches its share of the sum from the switch and sends it to all (NVLink), so
            that 1 + 1/n of the buffer leaves it; 0 where the switch sends the sum to all by itself (InfiniBand).
        contention: the rate of a device falls as (2 / ranks)^contention where links are shared, as under a PCIe root.
        algorithm: of its collectives. ``synthesized``: schedules made for the dimension's own network
            (:mod:`dse.collective`), for which each size takes the best; ``auto``: the usual one of the topology.
        graph: links of any shape, in words or as a file (``"torus:4x4x4,fail=5%"``, see ``dse collective``), with
            bandwidths and latencies of their own, instead of those of ``topology``, ``bandwidth`` and ``latency``,
            which then are of messages between two devices alone. Collectives run as ``algorithm`` says, by default
            synthesized. A group of n devices is of the first n; others that run beside it are not seen.
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
    in_network_ramp: Seconds | None = None
    in_network_pull: Fraction = 0.0
    flat: Switch = False
    algorithm: Algorithm = "auto"
    graph: Text = ""
    jitter: Fraction = 0.0
    energy: JoulesPerByte = 0.0
    power: Watts = 0.0
    price: Dollars = 0.0

    @model_validator(mode="after")
    def _algorithm_fits(self) -> Self:
        if self.graph:
            _graph_fits(self.graph, self.size)
        elif self.algorithm in ON_GRAPHS:
            raise ValueError(f"algorithm {self.algorithm!r} needs a graph")
        elif self.topology not in ("switch", "fully_connected") and self.algorithm not in ANYWHERE:
            raise ValueError(f"algorithm {self.algorithm!r} needs a switch or fully_connected topology")
        if self.in_network_reduction and self.topology != "switch":
            raise ValueError("in_network_reduction needs a switch topology")
        return self


def _graph_fits(graph: str, size: int | None) -> None:
    """A dimension that is a graph must have as many places as NPUs that work."""
    from dse.collective.files import load

    try:
        working = len(load(graph).members)
    except SpecError as error:
        raise ValueError("; ".join(str(fault) for fault in error.faults)[:300]) from None
    if size != working:
        raise ValueError(f"size must be {working}, the NPUs of the graph {graph[:60]!r} that work, not {size}")


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
    """Power, money, carbon and room of the place the cluster stands in.

    Attributes:
        utilization: share of the lifetime in which the cluster works.
        maintenance: spent a year, of the purchase price.
        construction: building, power feed and cooling, by watt of provisioned power; 0: they are there already.
        rack_power: that a rack can be fed and cooled with; the default is an air-cooled rack of four 10 kW servers.
        rack_devices: devices that a rack has room for (but at least one node); the default is four 8U servers of 8.
        rack_area: floor that a rack takes with its part of the aisles: 0.6 m by 1.2 m and as much again in front and
            behind, and for power and cooling beside the rows.
    """

    pue: Ratio = 1.3
    electricity_price: DollarsPerJoule = 0.08 / 3.6e6
    carbon_intensity: KilogramsPerJoule = 0.4 / 3.6e6
    lifetime: Seconds = 4 * YEAR
    utilization: PositiveFraction = 0.8
    maintenance: Fraction = 0.0
    pricing: Literal["own", "rent"] = "own"
    construction: DollarsPerWatt = 0.0
    rack_power: Watts = 42e3
    rack_devices: Count = 32
    rack_area: FloorArea = 3.0


class Reliability(Spec):
    """How often parts interrupt a training job, how the job comes back, and where its checkpoints go.

    The mean times between failures are of one part, by the interruptions of a job they cause. Their defaults are
    exposure over count of the 419 unexpected interruptions of Llama 3 405B in 54 days on 16,384 H100 (Grattafiori et
    al. 2024, table 5): 196 of the accelerator, 72 of its HBM, 46 of hosts, 42 of network, 63 of software. The times to
    come back are assumed, within what Jiang et al. (MegaScale, NSDI'24, section 6.3) report for over 10,000 GPUs: under
    10 min to detect and diagnose, under 15 min to catch up. A failed accelerator, memory or host takes its node out
    for ``repair``; a spare takes its place if one is left, else the job waits.

    Attributes:
        accelerator_mtbf, memory_mtbf: of one device without its memory, and of its memory.
        host_mtbf: of one node: processors, drives, power supplies, unplanned maintenance.
        network_mtbf: of one device's ports and cables and its part of the switches.
        software_mtbf: of the job, times its devices.
        detection: from the failure until the job is stopped and the failed part is found.
        restart: start of processes, collectives and warm-up; reading the checkpoint comes on top.
        repair: of a node, by which it is back among the spares (assumed).
        spare_share: spare nodes, of the job's nodes (5 %: Cui et al. 2025 on the Delta system, to keep a job going).
        spare_nodes: spare nodes besides.
        maintenance_interval, maintenance_time: how often the job is stopped as planned, and for how long besides the
            restart (47 times in those 54 days; how long is assumed).
        checkpoint_interval: training between two checkpoints; 0: the best.
        checkpoint_overhead: stall of a checkpoint besides its copy: synchronization, planning (assumed).
        checkpoint_tier: expansion tier that takes the first copy; "auto": the node's first.
        asynchronous: training goes on while the first copy is written to storage.
        storage_bandwidth: of the whole file system, and
        node_storage_bandwidth: of one node to it (2 TB/s for 2,048 nodes: Grattafiori et al. 2024, section 3.3.1).
    """

    accelerator_mtbf: Seconds = 16384 * 54 * DAY / 196
    memory_mtbf: Seconds = 16384 * 54 * DAY / 72
    host_mtbf: Seconds = 2048 * 54 * DAY / 46
    network_mtbf: Seconds = 16384 * 54 * DAY / 42
    software_mtbf: Seconds = 16384 * 54 * DAY / 63
    detection: Seconds = 300.0
    restart: Seconds = 300.0
    repair: Seconds = DAY
    spare_share: Fraction = 0.05
    spare_nodes: CountOrZero = 0
    maintenance_interval: Seconds = 54 * DAY / 47
    maintenance_time: Seconds = 600.0
    checkpoint_interval: Seconds = 0.0
    checkpoint_overhead: Seconds = 1.0
    checkpoint_tier: Name = "auto"
    asynchronous: Switch = True
    storage_bandwidth: Bandwidth = 2e12
    node_storage_bandwidth: Bandwidth = 1e9


class Cluster(Entry):
    """Nodes on a network; a template for any device count (``devices`` is only the default)."""

    node: Annotated[Node, BeforeValidator(lambda v: catalogue.resolve("node", v))]
    network: Network
    devices: Count
    facility: Facility = Facility()
    reliability: Reliability = Reliability()

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
