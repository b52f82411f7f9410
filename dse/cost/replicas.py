"""Replicas: what data parallelism communicates, and the optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dse.cost.arrays import Array, select, total, values_of
from dse.cost.compute import GRADIENT_BYTES
from dse.cost.graph import quantity
from dse.cost.memory import OPTIMIZER_BYTES, WEIGHT_BYTES
from dse.cost.network import Links


@quantity("s", "gradients and parameters over the replicas; see the docstring", source="ZeRO §7; FSDP; re-derived")
def dp_comm(
    stage_parameters: dict[str, dict[str, Array]],
    links: Links,
    zero_stage: Array,
    gradient_precision: Array,
    precision: Array,
    micro_batches: Array,
    overlap_dp: Array,
    overlap_efficiency: Array,
    mean_stage_terms: dict[str, Array],
    mean_stage_time: Array,
    offload: Array,
    stage_layers: Array,
    trainable_share: Array,
    shard_group: Array,
    zero_ranks: dict[str, Array],
    stack: Any,
) -> Array:
    """Exposed communication of data parallelism.

    ========== ==========================================================================================
    ZeRO stage communication per step
    ========== ==========================================================================================
    0          all-reduce of the gradients
    1          reduce-scatter of the gradients, all-gather of the parameters
    2          the same, the reduce-scatter for every micro-batch
    3          all-gather of the parameters in every forward and backward pass, reduce-scatter in every backward
    ========== ==========================================================================================

    With ``overlap_dp`` a reduction hides behind the backward pass that makes its gradients, and a gather behind the
    forward (stage 3: also the backward) pass that uses the parameters. Within a shard group the same happens there,
    and copies of a shard all-reduce their part of the gradients after the last micro-batch. Stage 3 communicates
    layer by layer. What hides slows the compute it hides behind by ``stack.interference``. Passes that wait for
    offloaded tensors take longer, and hide more.
    """
    stage = mean_stage_terms
    forward = stage["forward"] + stage["host_forward"] + stage["tp_comm_forward"]
    backward = total(stage[k] for k in ("input_grad", "weight_grad", "recompute", "host_backward", "tp_comm_backward"))
    stretch = _stretch(offload, micro_batches, mean_stage_time)
    forward, backward = (
        np.where(overlap_dp, overlap_efficiency * stack.overlap * t, 0.0) * stretch for t in (forward, backward)
    )
    pieces = _pieces(
        stage_parameters, links, gradient_precision, precision, zero_stage, stage_layers, shard_group, zero_ranks,
        trainable_share,
    )  # fmt: skip

    def of_stage(zero: int) -> Array:
        reduce, gather, everything, copies = pieces(zero)
        last = _exposed(copies, backward, stack) if np.any(copies) else 0.0
        if zero == 0:
            return _exposed(everything, backward, stack)
        if zero == 3:
            both = _exposed(gather, forward, stack) + _exposed(gather + reduce, backward, stack)
            return micro_batches * both + last
        each = _exposed(reduce, backward, stack) * (micro_batches if zero == 2 else 1.0)
        return each + _exposed(gather * trainable_share, forward, stack) + last

    return select(zero_stage, {zero: of_stage(zero) for zero in values_of(zero_stage)})


def least_dp_comm(
    stage_parameters: dict[str, dict[str, Array]],
    links: Links,
    zero_stage: Array,
    gradient_precision: Array,
    precision: Array,
    micro_batches: Array,
    overlap_dp: Array,
    overlap_efficiency: Array,
    mean_stage_terms: dict[str, Array],
    mean_stage_time: Array,
    offload: Array,
    stage_layers: Array,
    trainable_share: Array,
    shard_group: Array,
    zero_ranks: dict[str, Array],
    stack: Any,
) -> Array:
    """A lower bound of :func:`dp_comm` with which the whole step never gets slower as work gets faster.

    All communication hides behind whole passes P = t̄ + offload / m instead of their forward and backward parts, and
    copies of shards are left out. A sum of max(c − w, 0) is at least max(Σc − Σw, 0), so this is no more than dp_comm;
    and m · P + max(C − k · P, 0) rises with P, as k ≤ m.
    """
    window = mean_stage_time * _stretch(offload, micro_batches, mean_stage_time)
    window = np.where(overlap_dp, overlap_efficiency * stack.overlap * window, 0.0)
    pieces = _pieces(
        stage_parameters, links, gradient_precision, precision, zero_stage, stage_layers, shard_group, zero_ranks,
        trainable_share,
    )  # fmt: skip

    def of_stage(zero: int) -> Array:
        reduce, gather, everything, _ = pieces(zero)
        if zero == 0:
            return _exposed(everything, window, stack)
        if zero == 1:
            return _exposed(reduce + gather * trainable_share, window, stack)
        if zero == 2:
            return _exposed(micro_batches * reduce + gather * trainable_share, micro_batches * window, stack)
        return micro_batches * _exposed(2.0 * gather + reduce, window, stack)

    return select(zero_stage, {zero: of_stage(zero) for zero in values_of(zero_stage)})


def _stretch(offload: Array, micro_batches: Array, mean_stage_time: Array) -> Array:
    """How much longer passes take that wait for offloaded tensors."""
    if not np.any(offload):
        return 1.0
    return 1.0 + offload / np.maximum(micro_batches * mean_stage_time, 1e-30)


def _exposed(communication: Array, behind: Array, stack: Any) -> Array:
    """communication − gain · min(communication, behind), with the products on the small arrays."""
    gain = 1.0 - stack.interference
    return np.maximum((1.0 - gain) * communication, communication - gain * behind)


def _pieces(
    stage_parameters: dict[str, dict[str, Array]],
    links: Links,
    gradient_precision: Array,
    precision: Array,
    zero_stage: Array,
    stage_layers: Array,
    shard_group: Array,
    zero_ranks: dict[str, Array],
    trainable_share: Array,
) -> Callable[[int], tuple[Array, ...]]:
    """By ZeRO stage: seconds of a reduce-scatter, all-gather, all-reduce, and all-reduce over copies of shards."""

    def times(pieces: Array) -> tuple[Array, ...]:
        found = _replica_times(stage_parameters, links, gradient_precision, precision, pieces)
        if not np.any(shard_group):
            return (*found, 0.0)
        inside = _shard_times(stage_parameters, links, gradient_precision, precision, pieces, zero_ranks["dense"])
        grouped = np.greater(shard_group, 0)
        reduce, gather = (np.where(grouped, inside[i], found[i]) for i in (0, 1))
        return reduce, gather, found[2], np.where(grouped, inside[2], 0.0)

    stages = values_of(zero_stage)
    whole = times(1.0) if min(stages) < 3 else ()
    layered = times(stage_layers) if max(stages) == 3 else ()

    def of_stage(zero: int) -> tuple[Array, ...]:
        reduce, gather, everything, copies = layered if zero == 3 else whole
        return reduce * trainable_share, gather, everything * trainable_share, copies * trainable_share

    return of_stage


def _replica_times(
    stage_parameters: dict[str, dict[str, Array]],
    links: Links,
    gradient_precision: Array,
    precision: Array,
    pieces: Array,
) -> tuple[Array, Array, Array]:
    """Reduce-scatter of gradients, all-gather of parameters and all-reduce of gradients of one stage, in pieces."""
    grad, weight = select(gradient_precision, GRADIENT_BYTES), select(precision, WEIGHT_BYTES)
    groups = {"dense": "grad", "expert": "expert_grad"}
    fullest = {kind: np.maximum(stage_parameters["first"][kind], stage_parameters["last"][kind]) for kind in groups}

    def times(kind: str, width: Array) -> Array:
        sizes = {name: fullest[name] * width / pieces for name in groups}
        return pieces * total(links.time(kind, group, sizes[name]) for name, group in groups.items())

    return times("reduce_scatter", grad), times("all_gather", weight), times("all_reduce", grad)


def _shard_times(
    stage_parameters: dict[str, dict[str, Array]],
    links: Links,
    gradient_precision: Array,
    precision: Array,
    pieces: Array,
    group: Array,
) -> tuple[Array, Array, Array]:
    """In a shard group: reduction of gradients, all-gather of parameters; and the all-reduce over its copies."""
    fullest = np.maximum(*(total(stage_parameters[stage].values()) for stage in ("first", "last"))) / pieces
    gradients = fullest * select(gradient_precision, GRADIENT_BYTES)
    reduce = links.time("reduce_scatter", "shard", gradients)
    gather = links.time("all_gather", "shard", fullest * select(precision, WEIGHT_BYTES))
    return pieces * reduce, pieces * gather, pieces * links.time("all_reduce", "copies", gradients / group)


@quantity(
    "s", "Ψ/d · (gradients read + 2 · optimizer states + weights written) / BW of their tier", source="re-derived"
)
def optimizer_time(
    stage_parameters: dict[str, dict[str, Array]],
    zero_ranks: dict[str, Array],
    zero_stage: Array,
    precision: Array,
    gradient_precision: Array,
    optimizer: Array,
    memory_bandwidth: Array,
    stack: Any,
    offload_optimizer: Array,
    trainable_share: Array,
    cluster: Any,
) -> Array:
    """The optimizer step: passes over gradients, states and weights, and its host time.

    Offloaded states are updated where they lie, at that tier's bandwidth, once the last gradient is there.
    """
    width = select(precision, WEIGHT_BYTES)
    states = select(optimizer, OPTIMIZER_BYTES) + np.where(np.less(width, 4), 4.0, 0.0)
    each = select(gradient_precision, GRADIENT_BYTES) + 2.0 * states + width
    sharded = np.greater_equal(zero_stage, 1)
    worst: Array = 0.0
    for parameters in stage_parameters.values():
        local = total(parameters[kind] / np.where(sharded, zero_ranks[kind], 1.0) for kind in parameters)
        worst = np.maximum(worst, local)
    rates = {"local": memory_bandwidth, **{t.name: t.bandwidth / t.shared_by for t in cluster.node.expansion}}
    worst = worst * trainable_share
    return stack.optimizer_passes * worst * each / select(offload_optimizer, rates) + stack.step_overhead
