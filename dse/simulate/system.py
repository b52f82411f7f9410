"""The machine that traces run on: devices, network dimensions, memory tiers, and the rules of issue."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from dse.errors import Fault, SpecError

POLICIES = ("fifo", "lifo", "priority")
SCHEDULES = ("ascending", "themis")
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")  # that have algorithms


def _positive(path: str, value: float, *, zero: bool = False) -> None:
    if not (value > 0 or (zero and value == 0)):
        raise SpecError([Fault(path, repr(value), f"must be {'at least' if zero else 'more than'} 0")])


def _whole(path: str, value: Any) -> None:
    if not isinstance(value, int | np.integer) or value < 1:
        raise SpecError([Fault(path, repr(value)[:40], "must be a whole number, at least 1")])


def _one_of(path: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SpecError([Fault(path, repr(value)[:40], f"must be one of {', '.join(allowed)}")])


@dataclass(frozen=True)
class Device:
    """What runs compute nodes.

    Attributes:
        flops: FLOP/s it reaches; infinite: nodes must say how long they take.
        memory_bandwidth: bytes/s it reaches of its own memory.
        launch: seconds added to every node timed by the roofline.
        speed: durations in the trace are divided by it.
        links: its share of the bandwidth of each network dimension; one number for all of them.
    """

    flops: float = math.inf
    memory_bandwidth: float = math.inf
    launch: float = 0.0
    speed: float = 1.0
    links: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        for name in ("flops", "memory_bandwidth", "speed"):
            _positive(f"device.{name}", getattr(self, name))
        for share in np.atleast_1d(self.links):
            _positive("device.links", float(share))
        _positive("device.launch", self.launch, zero=True)


@dataclass(frozen=True)
class Hop:
    """A stage on the way to a memory tier: one link for every ``shared_by`` devices, ``bandwidth`` each way."""

    bandwidth: float
    shared_by: int = 1
    latency: float = 0.0

    def __post_init__(self) -> None:
        _positive("hop.bandwidth", self.bandwidth)
        _positive("hop.shared_by", self.shared_by)
        _positive("hop.latency", self.latency, zero=True)


@dataclass(frozen=True)
class Tier:
    """A memory that nodes load from and store to.

    Attributes:
        name: as in ``dse.tier`` of the nodes.
        bandwidth: of all devices that share one of these memories together, loads and stores together.
        latency: seconds to the first byte; those of ``path`` come on top.
        capacity: bytes of one of these memories.
        shared_by: devices that share one; 0: all of them (a pool).
        path: links between a device and the memory, nearest first.
        held: bytes that are in one of these memories from the start.
        reduces: its switches add up stores and copy out loads of a group, so that one copy passes each shared link.
    """

    name: str
    bandwidth: float
    latency: float = 0.0
    capacity: float = math.inf
    shared_by: int = 1
    path: tuple[Hop, ...] = ()
    held: float = 0.0
    reduces: bool = True

    def __post_init__(self) -> None:
        _positive(f"tier {self.name}.bandwidth", self.bandwidth)
        _positive(f"tier {self.name}.capacity", self.capacity)
        _positive(f"tier {self.name}.latency", self.latency, zero=True)
        _positive(f"tier {self.name}.shared_by", self.shared_by, zero=True)
        _positive(f"tier {self.name}.held", self.held, zero=True)


@dataclass(frozen=True)
class System:
    """Devices on a network.

    Attributes:
        dimensions: :class:`~dse.spec.hardware.NetworkDimension`, innermost first, with their measured constants.
        sizes: devices in each; rank r is at (r, r // sizes[0], ...) modulo the sizes.
        devices: the kinds of device.
        device_of: the kind of each rank (index into ``devices``); None: all the first.
        tiers: memories besides those that the roofline knows; the first is where nodes without a tier go.
        chunks: pieces a collective over several dimensions is cut into.
        schedule: order in which the chunks of a collective visit the dimensions: ``ascending``, or ``themis``, which
            sends every chunk first where least is to be done, and is taken for a collective where it is quicker.
        policy: which ready node a stream takes: the one longest ready, the one last ready, or that of the highest
            ``comm_priority``; the lower id where they are equal.
        compute_streams, memory_streams: nodes of a kind that a device runs at once (loads and stores apart).
        comm_streams: the same for collectives and sends; None: one for every group, as PyTorch has.
        algorithms: for ``fidelity="flows"``, algorithms of one's own by kind of collective (``all_reduce``, ...): steps
            (step, from, to, share of the buffer) among the places of a group, which is ascending ranks; a
            :class:`~dse.collective.Schedule` on the links of the system; or ``"synthesized"``: one that is made for
            these links and the group. Schedules run by the data they wait for, not step by step.
        graph: for ``fidelity="flows"``, links between ranks (integers) and switches (anything else) instead of those of
            the dimensions: (from, to, bytes/s, seconds) each, a :class:`~dse.collective.Topology` whose NPUs are the
            ranks, or a NetworkX graph with ``bandwidth`` and ``latency``.
    """

    dimensions: tuple[Any, ...]
    sizes: tuple[int, ...]
    devices: tuple[Device, ...] = (Device(),)
    device_of: NDArray[np.int64] | None = field(default=None, compare=False)
    tiers: tuple[Tier, ...] = ()
    chunks: int = 64
    schedule: Literal["ascending", "themis"] = "ascending"
    policy: Literal["fifo", "lifo", "priority"] = "fifo"
    compute_streams: int = 1
    comm_streams: int | None = None
    memory_streams: int = 1
    algorithms: Any = None
    graph: Any = None

    def __post_init__(self) -> None:
        if not self.dimensions or len(self.dimensions) != len(self.sizes):
            rule = "there must be at least one network dimension, and as many sizes"
            raise SpecError([Fault("system.sizes", str(self.sizes), rule)])
        for size in self.sizes:
            _whole("system.sizes", size)
        _one_of("system.schedule", self.schedule, SCHEDULES)
        _one_of("system.policy", self.policy, POLICIES)
        for name in ("chunks", "compute_streams", "memory_streams"):
            _whole(f"system.{name}", getattr(self, name))
        if self.comm_streams is not None:
            _whole("system.comm_streams", self.comm_streams)
        for name, own in (self.algorithms or {}).items():
            _one_of("system.algorithms", name, COLLECTIVES)
            if isinstance(own, str):
                _one_of(f"system.algorithms.{name}", own, ("synthesized",))
        for number, device in enumerate(self.devices):
            if np.size(device.links) not in (1, len(self.sizes)):
                rule = f"must be one number, or one for each of the {len(self.sizes)} dimensions"
                raise SpecError([Fault(f"system.devices.{number}.links", str(device.links)[:60], rule)])
        if self.device_of is not None:
            kinds = np.asarray(self.device_of)
            if kinds.min(initial=0) < 0 or kinds.max(initial=0) >= len(self.devices) or len(kinds) > self.ranks:
                rule = f"must name one of {len(self.devices)} devices for each rank"
                raise SpecError([Fault("system.device_of", "", rule)])

    @property
    def ranks(self) -> int:
        """Places for devices."""
        return math.prod(self.sizes)

    @classmethod
    def of(cls, cluster: Any, devices: int | None = None, **changes: Any) -> Self:
        """The system that the closed forms see: a cluster's dimensions filled with ``devices``, its memories.

        Args:
            cluster: :class:`~dse.spec.hardware.Cluster`, catalogue id or YAML file.
            devices: how many; None: the cluster's own number.
            changes: other fields of the system.
        """
        from dse.cost.network import dimension_sizes

        if isinstance(cluster, str):
            from dse.spec import load_cluster

            cluster = load_cluster(cluster)
        count = cluster.devices if devices is None else devices
        _whole("devices", count)
        sizes = tuple(math.ceil(float(size) - 1e-9) for size in dimension_sizes.function(cluster, float(count)))
        known = {
            "dimensions": tuple(cluster.network.dimensions),
            "sizes": sizes,
            "devices": (_device(cluster.accelerator),),
            "tiers": tuple(_tier(tier) for tier in cluster.node.tiers),
            "chunks": cluster.network.pipeline_chunks or FINE,
        }
        return cls(**{**known, **changes})

    @classmethod
    def on_graph(cls, graph: Any, ranks: int, **changes: Any) -> Self:
        """Devices 0 ... ranks - 1 on links of any shape; see ``graph``. Collectives go around rings of ranks."""
        ideal = dimension("switch", 1.0, algorithm="ring")
        return cls(**{"dimensions": (ideal,), "sizes": (ranks,), "graph": graph, **changes})

    def replace(self, **changes: Any) -> Self:
        """The same with some fields changed."""
        return replace(self, **changes)

    def coordinates(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Position of each rank in each dimension, [..., dimensions]."""
        strides = np.cumprod((1, *self.sizes[:-1]))
        return np.asarray(ranks)[..., None] // strides % np.asarray(self.sizes)

    def kinds(self, ranks: int) -> NDArray[np.int64]:
        """Kind of device of ranks 0 ... ranks - 1."""
        if self.device_of is None:
            return np.zeros(ranks, np.int64)
        if len(self.device_of) < ranks:
            rule = f"{len(self.device_of)} ranks have a device, the traces have {ranks}"
            raise SpecError([Fault("system.device_of", "", rule)])
        return np.asarray(self.device_of, np.int64)[:ranks]


FINE = 512  # chunks where a cluster says that cutting is perfectly fine


def dimension(topology: str, bandwidth: Any, *, name: str = "network", **fields: Any) -> Any:
    """A network dimension: ``bandwidth`` in bytes/s per device and direction, ``latency`` in seconds, ...

    Takes every field of :class:`~dse.spec.hardware.NetworkDimension`; the defaults are ideal links.
    """
    from dse.spec.hardware import NetworkDimension

    return NetworkDimension.parse({"name": name, "topology": topology, "bandwidth": bandwidth, **fields})


def _device(accelerator: Any) -> Device:
    efficiency = accelerator.efficiency
    peak = accelerator.matrix
    flops = max((getattr(peak, kind) or 0.0 for kind in ("bf16", "fp16", "tf32", "fp32")), default=0.0)
    reached = flops * efficiency.matrix * efficiency.sustained
    return Device(reached or math.inf, accelerator.memory.bandwidth * efficiency.memory, efficiency.launch)


def _tier(tier: Any) -> Tier:
    return Tier(tier.name, tier.bandwidth, tier.latency, tier.capacity, tier.shared_by)
