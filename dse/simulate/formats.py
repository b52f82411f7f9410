"""ASTRA-sim's input files: network (YAML), system (JSON), remote memory (JSON), communicator groups (JSON)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from dse.errors import Fault, SpecError

GB = 1 << 30  # ASTRA-sim's networks count a gigabyte as 2^30 bytes
ALGORITHM = r"^(one(Ring|Direct\d*|HalvingDoubling|DoubleBinaryTree)|ring|direct\d*|halvingDoubling|doubleBinaryTree)$"
Algorithm = Annotated[str, Field(pattern=ALGORITHM)]
LIMIT = 1 << 24  # NPUs


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Topology = Literal["Ring", "FullyConnected", "Switch"]
ONE_OR_MORE = BeforeValidator(_listed)


class Spec(BaseModel):
    """A file that is read and never changed."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, allow_inf_nan=False)


class Network(Spec):
    """Dimensions of the network, innermost first.

    Attributes:
        topology: of each dimension.
        npus_count: NPUs in each dimension.
        bandwidth: GB/s (2^30 bytes) of a link.
        latency: ns of a link.
        aware: whether messages wait for links (the congestion-aware backend; one dimension only).
    """

    topology: Annotated[tuple[Topology, ...], ONE_OR_MORE]
    npus_count: Annotated[tuple[Annotated[int, Field(ge=1, le=LIMIT)], ...], ONE_OR_MORE]
    bandwidth: Annotated[tuple[Positive, ...], ONE_OR_MORE]
    latency: Annotated[tuple[NotNegative, ...], ONE_OR_MORE]
    aware: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        lengths = {len(self.topology), len(self.npus_count), len(self.bandwidth), len(self.latency)}
        if len(lengths) > 1 or not self.topology:
            raise ValueError("topology, npus_count, bandwidth and latency must have one entry a dimension")
        if self.npus > LIMIT:
            raise ValueError(f"the product of npus_count must be at most {LIMIT}")
        if self.aware and len(self.topology) > 1:
            raise ValueError("the congestion-aware backend has one dimension only")
        return self

    @property
    def npus(self) -> int:
        """NPUs of all dimensions."""
        total = 1
        for n in self.npus_count:
            total *= n
        return total

    @property
    def bytes_per_ns(self) -> tuple[float, ...]:
        """Bandwidth of each dimension in bytes per ns."""
        return tuple(b * GB / 1e9 for b in self.bandwidth)


class System(Spec):
    """The system file, and what is given on the command line there.

    Attributes:
        scheduling_policy: of collectives that wait: ``LIFO``, ``FIFO`` or ``EXPLICIT`` (the trace's priority).
        endpoint_delay: ns of a message at each end.
        active_chunks_per_dimension: chunks that run in a dimension at once.
        preferred_dataset_splits: chunks of a collective.
        all_reduce_implementation: algorithm of each dimension; the others likewise.
        collective_optimization: ``localBWAware`` all-reduces by reduce-scatter inwards and all-gather back.
        local_mem_bw: GB/s (10^9 bytes) of local memory.
        peak_perf: TFLOP/s. roofline_enabled: whether compute takes its roofline time, not the recorded one.
        replay_only: every node takes the time recorded.
        inter_dimension_scheduling, intra_dimension_scheduling: orders of chunks; options of older versions.
        queues_per_dim, rendezvous: ``--num-queues-per-dim`` and ``--rendezvous-protocol``.
    """

    scheduling_policy: Literal["LIFO", "FIFO", "EXPLICIT"] = Field("LIFO", alias="scheduling-policy")
    endpoint_delay: int = Field(10, alias="endpoint-delay", ge=0, le=10**12)
    active_chunks_per_dimension: int = Field(1, alias="active-chunks-per-dimension", ge=1, le=10**6)
    preferred_dataset_splits: int = Field(1, alias="preferred-dataset-splits", ge=1, le=1 << 14)
    all_reduce_implementation: tuple[Algorithm, ...] = Field((), alias="all-reduce-implementation")
    all_gather_implementation: tuple[Algorithm, ...] = Field((), alias="all-gather-implementation")
    reduce_scatter_implementation: tuple[Algorithm, ...] = Field((), alias="reduce-scatter-implementation")
    all_to_all_implementation: tuple[Algorithm, ...] = Field((), alias="all-to-all-implementation")
    collective_optimization: Literal["baseline", "localBWAware"] = Field("baseline", alias="collective-optimization")
    local_mem_bw: NotNegative = Field(0, alias="local-mem-bw")
    peak_perf: NotNegative = Field(0, alias="peak-perf")
    roofline_enabled: bool = Field(False, alias="roofline-enabled")
    replay_only: bool = Field(False, alias="replay-only")
    inter_dimension_scheduling: Literal["ascending", "roundRobin", "offlineGreedy", "offlineGreedyFlex"] = Field(
        "ascending", alias="inter-dimension-scheduling"
    )
    intra_dimension_scheduling: Literal["FIFO", "RG", "smallestFirst"] = Field(
        "FIFO", alias="intra-dimension-scheduling"
    )
    queues_per_dim: int = Field(1, alias="num-queues-per-dim", ge=1, le=1024)
    rendezvous: bool = Field(False, alias="rendezvous-protocol")

    def implementation(self, comm: int) -> tuple[str, ...]:
        """The algorithms of a collective: 0 all-reduce, 1 all-gather, 2 reduce-scatter, 3 all-to-all."""
        return (
            self.all_reduce_implementation,
            self.all_gather_implementation,
            self.reduce_scatter_implementation,
            self.all_to_all_implementation,
        )[comm]

    @property
    def greedy(self) -> bool:
        """Whether chunks take the dimensions by load (Themis)."""
        return self.inter_dimension_scheduling.startswith("offlineGreedy")


class Memory(Spec):
    """The remote memory: none, one an NPU, one a node, or one pool; each serves one request at a time.

    Attributes:
        latency: ns. bandwidth: GB/s (10^9 bytes).
        num_nodes, num_npus_per_node: of a memory for each node.
    """

    memory_type: Literal[
        "NO_MEMORY_EXPANSION", "PER_NPU_MEMORY_EXPANSION", "PER_NODE_MEMORY_EXPANSION", "MEMORY_POOL"
    ] = Field("NO_MEMORY_EXPANSION", alias="memory-type")
    latency: int = Field(0, alias="remote-mem-latency", ge=0, le=10**15)
    bandwidth: NotNegative = Field(0, alias="remote-mem-bw")
    num_nodes: int = Field(0, alias="num-nodes", ge=0, le=LIMIT)
    num_npus_per_node: int = Field(0, alias="num-npus-per-node", ge=0, le=LIMIT)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.memory_type != "NO_MEMORY_EXPANSION" and self.bandwidth <= 0:
            raise ValueError("remote-mem-bw must be above 0")
        if self.memory_type == "PER_NODE_MEMORY_EXPANSION" and not (self.num_nodes and self.num_npus_per_node):
            raise ValueError("num-nodes and num-npus-per-node must be above 0")
        return self


def _faults(error: ValidationError, where: str) -> SpecError:
    faults = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"]) or "file"
        value = "" if isinstance(item["input"], dict) else repr(item["input"])[:80]
        faults.append(Fault(path, value, item["msg"].removeprefix("Value error, "), where))
    return SpecError(faults)


T = TypeVar("T", bound=Spec)


def checked(kind: type[T], source: T | Mapping[str, Any] | str | Path, **more: Any) -> T:
    """A specification from itself, a mapping or a file (JSON or YAML), with ``more`` set on top.

    Raises:
        SpecError: the file cannot be read, or a field breaks its rule; the message names field, value, rule and file.
    """
    where = ""
    if isinstance(source, str | Path):
        where = str(source)[-200:]
        source = _read(Path(source), where)
    data = source.model_dump(by_alias=False) if isinstance(source, Spec) else source
    if not isinstance(data, Mapping):
        raise SpecError([Fault(kind.__name__.lower(), repr(data)[:60], "must be a mapping of fields", where)])
    try:
        return kind.model_validate({**data, **more})
    except ValidationError as error:
        raise _faults(error, where) from None


def _read(path: Path, where: str) -> Any:
    if path.suffix != ".json":
        from dse.spec.load import read_yaml

        return read_yaml(path)[0]
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError([Fault("file", where, f"cannot be read: {error.strerror or error}")]) from None
    except (ValueError, RecursionError) as error:
        raise SpecError([Fault("file", "", f"not JSON: {str(error)[:160]}", where)]) from None
