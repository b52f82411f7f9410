"""Operators: what a workload is lowered to. Shapes are per device and per micro-batch, and may be arrays.

Every field that depends on the strategy may be an array on the named axes of a sweep; the classes only carry them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Array = Any  # a float or a NumPy array that broadcasts over the axes of the design space
Phase = Literal["forward", "input_grad", "weight_grad"]
PHASES: tuple[Phase, ...] = ("forward", "input_grad", "weight_grad")


@dataclass(frozen=True)
class Gemm:
    """``count`` matrix products of shape (m × k)·(k × n) on the matrix engine.

    ``a_bytes`` replaces the size of the first operand where it is not m·k elements (a convolution reads its
    feature map, not the unfolded matrix).
    """

    m: Array
    k: Array
    n: Array
    count: Array = 1
    element: Array = 2
    a_bytes: Array | None = None

    @property
    def flops(self) -> Array:
        return 2.0 * self.m * self.k * self.n * self.count


@dataclass(frozen=True)
class Fused:
    """A fused kernel on the matrix engine whose traffic is known (flash attention)."""

    flops: Array
    bytes: Array


@dataclass(frozen=True)
class Stream:
    """Work limited by memory traffic: element-wise, normalization, lookup, softmax. ``flops`` are vector FLOP."""

    bytes: Array
    flops: Array = 0.0


Work = Gemm | Fused | Stream


@dataclass(frozen=True)
class Collective:
    """A collective that an operator's sharding needs in one phase.

    ``bytes`` is the full buffer: what every rank holds after an all-gather or before a reduce-scatter, and what
    one rank sends in total (its own share included) in an all-to-all.
    """

    phase: Phase
    kind: Literal["all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast", "point_to_point"]
    bytes: Array
    group: Literal["tp", "cp", "dp", "ep", "all"]
    blocking: bool = True


@dataclass(frozen=True)
class Op:
    """One operator with its three phases.

    Attributes:
        weights: trainable parameters on this device.
        saved: bytes kept from forward to backward when nothing is recomputed.
        core: part of the attention core, which selective recomputation drops and runs again.
        wide: stays in 16 bit where the strategy's precision is narrower (routers, logits).
        expert: the weights belong to experts (reduced over dp·cp/ep, not dp·cp).
        table_bytes: a lookup table on this device that is updated in place (no gradients or optimizer states).
    """

    name: str
    kind: Literal["gemm", "batched_gemm", "convolution", "element_wise", "lookup", "attention"]
    forward: Work
    input_grad: Work | None = None
    weight_grad: Work | None = None
    weights: Array = 0.0
    saved: Array = 0.0
    core: bool = False
    wide: bool = False
    expert: bool = False
    table_bytes: Array = 0.0
    collectives: tuple[Collective, ...] = ()

    def work(self, phase: Phase) -> Work | None:
        return getattr(self, phase)


@dataclass(frozen=True)
class Block:
    """A run of operators repeated ``count`` times. ``place``: on the first stage, the last, or spread over all."""

    name: str
    ops: tuple[Op, ...]
    count: Array = 1
    place: Literal["first", "body", "last"] = "body"
    boundary: Array = 0.0  # bytes of the block's input activation (what a checkpoint keeps)


@dataclass(frozen=True)
class Shard:
    """How one device sees the work: parallel degrees, batch and element sizes; arrays broadcast."""

    tp: Array = 1
    cp: Array = 1
    ep: Array = 1
    sequence_parallel: Array = False
    micro_batch: Array = 1
    element: Array = 2
    flash: Array = True
    capacity_factor: Array = 1.0
    devices: Array = 1
    exchange_heads: Array = False  # context parallelism by all-to-all
    extra: dict[str, Array] = field(default_factory=dict)


def linear(
    name: str,
    m: Array,
    k: Array,
    n: Array,
    *,
    element: Array,
    bias: Array = 0.0,
    saved: Array = 0.0,
    count: Array = 1,
    wide: bool = False,
    expert: bool = False,
    collectives: tuple[Collective, ...] = (),
) -> Op:
    """A layer with weights: y = x·W. Forward m×k×n, input gradient m×n×k, weight gradient k×m×n."""
    return Op(
        name,
        "gemm",
        forward=Gemm(m, k, n, count, element),
        input_grad=Gemm(m, n, k, count, element),
        weight_grad=Gemm(k, m, n, count, element),
        weights=(k * n + bias) * count,
        saved=saved,
        wide=wide,
        expert=expert,
        collectives=collectives,
    )


def element_wise(
    name: str,
    traffic: Array,
    *,
    flops: Array = 0.0,
    backward: float = 1.0,
    weights: Array = 0.0,
    saved: Array = 0.0,
    core: bool = False,
    collectives: tuple[Collective, ...] = (),
) -> Op:
    """A memory-bound operator: ``traffic`` bytes forward, ``backward`` times that in the input gradient."""
    return Op(
        name,
        "element_wise",
        forward=Stream(traffic, flops),
        input_grad=Stream(traffic * backward, flops),
        weights=weights,
        saved=saved,
        core=core,
        collectives=collectives,
    )
