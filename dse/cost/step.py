"""One training step, Megatron-style: micro-batches through pipeline stages, then gradients, then the optimizer.

``breakdown`` holds the terms; ``step_time`` is their sum by construction.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dse.cost.arrays import Array, select, total
from dse.cost.compute import phase_time
from dse.cost.graph import quantity
from dse.cost.network import Links
from dse.cost.pipeline import bubble_time
from dse.spec.workload.op import Block

PLACES = ("body", "first", "last")
PASS_TERMS = (
    "forward",
    "recompute",
    "input_grad",
    "weight_grad",
    "host_forward",
    "host_backward",
    "tp_comm_forward",
    "tp_comm_backward",
    "cp_comm",
    "ep_comm",
)
TERMS = (*PASS_TERMS, "pp_comm", "imbalance", "bubble", "dp_comm", "optimizer", "offload", "stragglers")


@quantity("1", "micro_batch")
def batch_per_pass(micro_batch: Array) -> Array:
    """Samples that one device works on in one pass."""
    return micro_batch


@quantity("s", "collective time of the operator's sharding (see Links.time)", source="COMET §4 as known; re-derived")
def collective_times(blocks: tuple[Block, ...], links: Links) -> dict[str, Array]:
    """Time of each collective in one pass, keyed ``block.operator.phase.kind.group``."""
    return {
        f"{block.name}.{op.name}.{c.phase}.{c.kind}.{c.group}": links.time(c.kind, c.group, c.bytes)
        for block in blocks
        for op in block.ops
        for c in op.collectives
        if np.any(c.bytes)
    }


def communication(
    block: Block, times: dict[str, Array], group: str, phase: str, *, blocking: bool | None = None
) -> Array:
    """Time of all collectives of one group and phase in one instance of a block (only those that block, or do not)."""
    found = [
        times[key]
        for op in block.ops
        for c in op.collectives
        if c.group == group
        and c.phase == phase
        and blocking in (None, c.blocking)
        and (key := f"{block.name}.{op.name}.{c.phase}.{c.kind}.{c.group}") in times
    ]
    return total(found)


@quantity("", "the strategy's choice, or the stack's where sequence parallelism cuts the exchange into pieces")
def overlap_tp(strategy: Any, stack: Any, sequence_parallel: Array) -> Array:
    """Whether collectives of tensor parallelism hide behind products."""
    return np.logical_and(stack.hides_tp, sequence_parallel) if strategy.overlap_tp is None else strategy.overlap_tp


@quantity("", "the strategy's choice, or the stack's for interleaved stages")
def overlap_pp(strategy: Any, stack: Any, virtual_stages: Array) -> Array:
    """Whether transfers between stages hide behind the other micro-batches."""
    if strategy.overlap_pp is not None:
        return strategy.overlap_pp
    return np.logical_and(stack.hides_pp, np.greater(virtual_stages, 1))


@quantity("s", "per layer: phases of compute, exposed collectives of tp, cp and ep")
def layer_terms(
    blocks: tuple[Block, ...],
    operator_times: dict[str, Array],
    collective_times: dict[str, Array],
    recompute: Array,
    overlap_tp: Array,
    overlap_ep: Array,
    overlap_efficiency: Array,
    host_floor: Array,
    host_stall: Array,
    stack: Any,
) -> dict[str, dict[str, Array]]:
    """Time of one instance of each block by term.

    ``host_*`` is what the launches of a layer's kernels take longer than the kernels themselves, and ``stack.stall``.

    Collectives of tp and ep block the operators around them; with ``overlap_tp`` and ``overlap_ep`` they hide behind
    the GEMMs of the same phase, those of tp only up to the share ``stack.overlap_tp``. The ring of context
    parallelism hides behind the attention core.
    """
    result = {}
    for block in blocks:
        ops, comm = operator_times, collective_times
        forward = phase_time(block, ops, "forward")
        backward = (phase_time(block, ops, "input_grad"), phase_time(block, ops, "weight_grad"))
        core = {p: phase_time(block, ops, p, core_only=True) for p in ("forward", "input_grad")}
        again = select(
            recompute, {"none": 0.0, "selective": core["forward"], "full": forward if block.place == "body" else 0.0}
        )
        floor, stall = (host_floor, host_stall) if block.place == "body" else (0.0, 0.0)
        runs = select(recompute, {"none": 1.0, "selective": 1.0, "full": 2.0 if block.place == "body" else 1.0})
        tp = [communication(block, comm, "tp", p) for p in ("forward", "input_grad")]
        work = [overlap_efficiency * t for t in (forward, total(backward))]
        hidden = [np.where(overlap_tp, np.minimum(w, stack.overlap_tp * t), 0.0) for t, w in zip(tp, work, strict=True)]
        tp = [t - h for t, h in zip(tp, hidden, strict=True)]
        cp = [
            np.maximum(communication(block, comm, "cp", p, blocking=False) - core[p], 0.0)
            + communication(block, comm, "cp", p, blocking=True)
            for p in core
        ]
        ep = [
            communication(block, comm, "ep", p) + communication(block, comm, "all", p)
            for p in ("forward", "input_grad")
        ]
        left = [stack.overlap * np.maximum(w - h, 0.0) for w, h in zip(work, hidden, strict=True)]
        ep = [np.maximum(t - np.where(overlap_ep, w, 0.0), 0.0) for t, w in zip(ep, left, strict=True)]
        result[block.name] = {
            "forward": forward,
            "recompute": again,
            "input_grad": backward[0],
            "weight_grad": backward[1],
            "host_forward": runs * (np.maximum(floor - forward, 0.0) + stall),
            "host_backward": np.maximum(2.0 * floor - total(backward), 0.0) + stall,
            "tp_comm_forward": tp[0] * runs,
            "tp_comm_backward": tp[1],
            "cp_comm": cp[0] * runs + cp[1],
            "ep_comm": ep[0] * runs + ep[1],
        }
    return result


@quantity("s", "Σ_blocks count · term")
def pass_terms(blocks: tuple[Block, ...], layer_terms: dict[str, dict[str, Array]]) -> dict[str, dict[str, Array]]:
    """Time of one micro-batch through all blocks of the body, and of the first and last stage's extra blocks."""
    return {
        place: {
            term: total(b.count * layer_terms[b.name][term] for b in blocks if b.place == place) for term in PASS_TERMS
        }
        for place in PLACES
    }


@quantity("s", "(T_body + T_first + T_last) / p")
def mean_stage_terms(pass_terms: dict[str, dict[str, Array]], pp: Array) -> dict[str, Array]:
    """Terms of one micro-batch on the mean stage."""
    return {term: total(pass_terms[place][term] for place in PLACES) / pp for term in PASS_TERMS}


@quantity("s", "Σ of the mean stage's terms")
def mean_stage_time(mean_stage_terms: dict[str, Array]) -> Array:
    """t̄: forward and backward of one micro-batch on the mean stage."""
    return total(mean_stage_terms.values())


@quantity("s", "max(⌈L/p⌉·t, ⌊L/p⌋·t + T_first, ⌊L/p⌋·t + T_last)", source="re-derived; see the docstring")
def slowest_stage_time(
    pass_terms: dict[str, dict[str, Array]], model: Any, pp: Array, stage_layers: Array, mean_stage_time: Array
) -> Array:
    """t_max: one micro-batch on the slowest stage.

    The first stage also embeds, the last also computes logits and loss. Where the layers do not divide evenly, the
    stages with an extra layer are taken to lie in the middle, as planners place them.
    """
    body, first, last = (total(pass_terms[place].values()) for place in PLACES)
    depth = model.depth
    few = np.maximum(np.floor(depth / pp), 0.0) if model.pipelined else 1.0
    few = np.where(np.equal(stage_layers * pp, depth), stage_layers, few)
    slowest = np.maximum(stage_layers * body, few * body + np.maximum(first, last) * depth) / depth
    return np.where(np.less_equal(pp, 1), mean_stage_time, np.maximum(slowest, mean_stage_time))


@quantity("s", "m · (t_max − t̄)")
def imbalance(micro_batches: Array, slowest_stage_time: Array, mean_stage_time: Array) -> Array:
    """Time that the mean stage waits for the slowest one."""
    return micro_batches * (slowest_stage_time - mean_stage_time)


@quantity("s", "see bubble_time", source="Narayanan et al. SC'21 §2.2; Qi et al. 2023 table 1")
def bubble(
    schedule: Array,
    pp: Array,
    virtual_stages: Array,
    mean_stage_time: Array,
    slowest_stage_time: Array,
    mean_stage_terms: dict[str, Array],
) -> Array:
    """Pipeline fill and drain."""
    return bubble_time(
        schedule, pp, virtual_stages, mean_stage_time, slowest_stage_time, mean_stage_terms["weight_grad"]
    )


@quantity("s", "2 · T_hop · (v·m + p − 1), or 2 · T_hop · (p − 1) when overlapped", source="re-derived")
def pp_comm(
    blocks: tuple[Block, ...],
    links: Links,
    tp: Array,
    sequence_parallel: Array,
    pp: Array,
    virtual_stages: Array,
    micro_batches: Array,
    overlap_pp: Array,
    stack: Any,
) -> Array:
    """Activations and their gradients between stages; with overlap only the fill is exposed.

    Each rank of a tensor-parallel group sends its slice; without sequence parallelism the receivers gather them
    (scatter/gather of Narayanan et al. SC'21 §4.1).
    """
    boundary: Array = 0.0
    for block in blocks:
        boundary = np.maximum(boundary, block.boundary)
    whole = np.where(sequence_parallel, 0.0, boundary)
    slice_ = np.where(sequence_parallel, boundary, boundary / tp)
    hop = links.time("point_to_point", "pp", slice_) + links.time("all_gather", "tp", whole) + stack.hop
    steady = np.where(overlap_pp, 0.0, virtual_stages * micro_batches)
    return np.where(np.greater(pp, 1), 2.0 * hop * (steady + pp - 1.0), 0.0)


@quantity("s", "max(T_transfer − m · t̄, 0), or T_transfer without overlap", source="re-derived; ZeRO-Infinity §6")
def offload(offload_transfer: Array, overlap_offload: Array, mean_stage_time: Array, micro_batches: Array) -> Array:
    """Exposed time of moving offloaded tensors.

    Their link is used by nothing else, so they move while the device computes and while it waits for the network.
    """
    if not np.any(offload_transfer):
        return 0.0
    return np.where(
        overlap_offload, np.maximum(offload_transfer - micro_batches * mean_stage_time, 0.0), offload_transfer
    )


@quantity("s", "terms of one training step, before waiting for the slowest")
def busy_terms(
    mean_stage_terms: dict[str, Array],
    micro_batches: Array,
    pp_comm: Array,
    imbalance: Array,
    bubble: Array,
    dp_comm: Array,
    optimizer_time: Array,
    offload: Array,
) -> dict[str, Array]:
    """Where the time of a step goes on the mean device."""
    terms = {name: mean_stage_terms[name] * micro_batches for name in PASS_TERMS}
    return {
        **terms,
        "pp_comm": pp_comm,
        "imbalance": imbalance,
        "bubble": bubble,
        "dp_comm": dp_comm,
        "optimizer": optimizer_time,
        "offload": offload,
    }


@quantity("s", "Σ busy terms")
def busy_time(busy_terms: dict[str, Array]) -> Array:
    """Time of a step if all devices and links were as fast as the mean one."""
    return total(busy_terms.values())


@quantity("s", "busy terms, and straggler share · busy time")
def breakdown(busy_terms: dict[str, Array], busy_time: Array, straggler_share: Array) -> dict[str, Array]:
    """Where the time of a step goes; adds up to ``step_time``."""
    return {**busy_terms, "stragglers": straggler_share * busy_time if np.any(straggler_share) else 0.0}


@quantity("1", "Σ_dimensions jitter · log2(size)", source="re-derived; the slowest of many sets the pace")
def straggler_share(cluster: Any, dimension_sizes: list[Array]) -> Array:
    """Share by which a step grows because all wait for the slowest link and node."""
    dimensions = zip(cluster.network.dimensions, dimension_sizes, strict=True)
    return total(d.jitter * np.log2(np.maximum(size, 1.0)) for d, size in dimensions)


@quantity("s", "Σ breakdown = busy time · (1 + straggler share)")
def step_time(busy_time: Array, straggler_share: Array) -> Array:
    """Time of one training step."""
    return busy_time * (1.0 + straggler_share) if np.any(straggler_share) else busy_time


@quantity("1/s", "global_batch · tokens per sample / step_time")
def tokens_per_s(model: Any, global_batch: Array, step_time: Array) -> Array:
    """Tokens (or samples, for models without sequences) trained per second by the whole cluster."""
    return global_batch * model.units_per_sample / step_time


@quantity("1", "model FLOP / (step_time · devices · peak)", source="Chowdhery et al., PaLM, appendix B")
def mfu(model_flops: Array, step_time: Array, devices: Array, matrix_peak: Array) -> Array:
    """Model FLOP utilization; attention counted in full, recomputation not."""
    return model_flops / (step_time * devices * matrix_peak)


@quantity("1", "hardware FLOP / (step_time · devices · peak)", source="Korthikanti et al. §6")
def hfu(hardware_flops: Array, step_time: Array, devices: Array, matrix_peak: Array) -> Array:
    """Hardware FLOP utilization: recomputed work counts."""
    return hardware_flops / (step_time * devices * matrix_peak)
