"""Memory: what one device must hold. Where it lies, and what moving it costs, is in ``dse.cost.placement``.

The first pipeline stage holds most activations in flight, the last one the logits; both are computed and the larger
footprint counts. What a real framework holds beyond the published equations comes from ``stack.memory``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dse.cost.arrays import Array, select, total
from dse.cost.compute import GRADIENT_BYTES, OPERAND_BYTES
from dse.cost.graph import quantity
from dse.spec.workload.op import Block, Gemm

WEIGHT_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "fp8": 2, "mxfp8": 2, "nvfp4": 2}
# FP32 moments, and the FP32 master copy where the weights themselves are narrower.
OPTIMIZER_BYTES = {"adam": 8, "sgd": 0, "sgd_momentum": 4}
CLASSES = ("weights", "gradients", "optimizer", "activations")


# -- parameters ---------------------------------------------------------------------------------------------


@quantity("1", "parameters of the fullest stage, per device: dense and expert", source="Megatron-LM sharding")
def stage_parameters(
    model: Any, blocks: tuple[Block, ...], pp: Array, stage_layers: Array
) -> dict[str, dict[str, Array]]:
    """Trainable parameters that one device of the first and of the last stage holds, before ZeRO.

    Tied embeddings are stored once without pipelining and twice (first and last stage) with it.
    """
    share = stage_layers / model.depth if model.pipelined else 1.0
    tied = np.where(np.logical_and(getattr(model, "tied_embeddings", False), np.less_equal(pp, 1)), 0.0, 1.0)
    kinds = {}
    for kind, expert in (("dense", False), ("expert", True)):
        body = total(b.count * o.weights for b in blocks for o in b.ops if b.place == "body" and o.expert == expert)
        ends = {
            place: total(o.weights for b in blocks for o in b.ops if b.place == place and o.expert == expert)
            for place in ("first", "last")
        }
        head = np.where(np.greater(tied, 0), ends["last"], 0.0)
        alone = np.less_equal(pp, 1)
        kinds[kind] = {
            "first": share * body + ends["first"] + np.where(alone, head, 0.0),
            "last": share * body + head + np.where(alone, ends["first"], 0.0),
        }
    return {stage: {kind: kinds[kind][stage] for kind in kinds} for stage in ("first", "last")}


@quantity("1", "ranks that share the ZeRO-partitioned states: dp·cp or the shard group, for experts dp·cp/ep")
def zero_ranks(data_parallel: Array, cp: Array, ep: Array, shard_group: Array) -> dict[str, Array]:
    """Over how many ranks ZeRO splits the states of dense and of expert parameters."""
    replicas = data_parallel * cp
    group = np.where(np.greater(shard_group, 0), np.minimum(shard_group, replicas), replicas)
    return {"dense": group, "expert": replicas / ep}


@quantity(
    "B",
    "2Ψ, 2–4Ψ, 12Ψ; stage 1 divides the optimizer, 2 the gradients, 3 the weights by d",
    source="Rajbhandari et al., ZeRO, SC'20 §3–5",
)
def model_states(
    stage_parameters: dict[str, dict[str, Array]],
    zero_ranks: dict[str, Array],
    zero_stage: Array,
    precision: Array,
    gradient_precision: Array,
    optimizer: Array,
    trainable_share: Array,
    stack: Any,
) -> dict[str, dict[str, Array]]:
    """Bytes of weights, gradients and optimizer states on a device of the first and of the last stage."""
    width, gradient = select(precision, WEIGHT_BYTES), select(gradient_precision, GRADIENT_BYTES)
    master = np.where(np.less(width, 4), 4.0, 0.0)
    master = np.where(np.equal(optimizer, "sgd"), 0.0, master)
    own = np.where(np.greater(gradient, width), stack.memory.gradient_own * width, 0.0)
    copy = np.where(np.less(gradient, 4), 4.0 * stack.memory.gradient_copy, 0.0)
    shared = np.where(np.greater_equal(zero_stage, 3) & np.greater(master, 0), stack.memory.master_shards, 0.0)
    bytes_each = {
        "weights": (width * (1.0 - shared), 3),
        "gradients": (trainable_share * (gradient + own), 2),
        "optimizer": (trainable_share * (select(optimizer, OPTIMIZER_BYTES) + master + copy), 1),
    }
    result: dict[str, dict[str, Array]] = {}
    for stage, parameters in stage_parameters.items():
        result[stage] = {
            name: size
            * total(
                parameters[kind] / np.where(np.greater_equal(zero_stage, from_stage), zero_ranks[kind], 1.0)
                for kind in parameters
            )
            for name, (size, from_stage) in bytes_each.items()
        }
    return result


# -- activations --------------------------------------------------------------------------------------------


@quantity(
    "1",
    "micro-batches whose activations the first and the last stage hold at once",
    source="Narayanan et al. SC'21 §2.2; Korthikanti et al. §4.2.3; Qi et al., zero bubble, §2",
)
def in_flight(schedule: Array, pp: Array, virtual_stages: Array, micro_batches: Array) -> dict[str, Array]:
    """In units of one micro-batch through all layers of the stage.

    GPipe holds all m. 1F1B holds p − i on stage i. Interleaving holds (2(p−i−1) + (v−1)p + 1)/v, that is
    p + (p−1)/v on the first stage. Zero-bubble stages put weight gradients off so that all hold the same: p under
    ZB-H1, 2p − 1 under ZB-H2 (what waits for its weight gradient is counted in full). ``head`` counts those whose
    logits the last stage holds: one under 1F1B, interleaved or not, as the last chunk turns back at once.
    """
    v = virtual_stages
    result = {}
    for stage, index in (("first", 0.0), ("last", pp - 1.0)):
        left = pp - index
        interleaved = (2.0 * (left - 1.0) + (v - 1.0) * pp + 1.0) / v
        one_f_one_b = np.where(np.greater(v, 1), interleaved, left)
        held = select(
            schedule,
            {
                "gpipe": micro_batches,
                "1f1b": one_f_one_b,
                "interleaved": one_f_one_b,
                "zero_bubble_h1": pp,
                "zero_bubble_h2": 2.0 * pp - 1.0,
            },
        )
        result[stage] = np.minimum(held, micro_batches)
    single = np.logical_or(np.equal(schedule, "1f1b"), np.equal(schedule, "interleaved"))
    result["head"] = np.where(single, 1.0, result["last"])
    return result


@dataclass(frozen=True)
class Layer:
    """Bytes that one micro-batch keeps for one layer of a block: all, those of the attention core, the input alone.

    ``scores`` counts the attention scores that a kernel without flash writes out.
    """

    block: Block
    everything: Array
    core: Array
    boundary: Array
    scores: Array


@quantity("B", "Σ saved tensors of a layer's operators, and what unfused kernels keep besides", source="re-derived")
def kept_layers(
    model: Any,
    blocks: tuple[Block, ...],
    stack: Any,
    fused_norm: Array,
    attention: Array,
    precision: Array,
    sequence_parallel: Array,
    tp: Array,
) -> list[Layer]:
    """What each block's layer keeps from forward to backward.

    The tensors besides the published ones are those of ``stack.memory``: 32-bit copies of an unfused norm, the
    activated gate, 32-bit probabilities of plain attention, inputs gathered from their sequence shards. In FP8 and
    FP4 the inputs of tensor-parallel layers are kept quantized.
    """
    software, layers = stack.memory, []
    saving = 1.0 - select(precision, OPERAND_BYTES) / select(precision, WEIGHT_BYTES)
    norm = np.where(fused_norm, 0.0, software.norm_unfused)
    gate = np.where(getattr(model, "gated_mlp", False), 0.5 * software.gate_unfused, 0.0)
    plain = np.where(np.equal(attention, "unfused"), software.scores_unfused, 0.0)
    gathered = 2.0 * software.inputs_gathered * (np.where(sequence_parallel, tp, 1) - 1.0)
    for block in blocks:
        scores = total(o.forward.m * o.forward.n * o.forward.count for o in block.ops if o.name == "scores")
        besides = [factor * total(o.saved for o in block.ops if o.name.endswith(ending))
                   for ending, factor in (("_norm", norm), ("_activation", gate)) if np.any(factor)]  # fmt: skip
        if np.any(gathered):
            besides.append(gathered * block.boundary)
        if np.any(saving) and block.place == "body":
            besides.append(-saving * _inputs(block, np.where(sequence_parallel, tp, 1)))
        core = total(o.saved for o in block.ops if o.core)
        extra = plain * scores if np.any(plain) else 0.0
        everything = total([*(o.saved for o in block.ops), *besides, extra])
        layers.append(Layer(block, everything, core + extra, block.boundary, scores))
    return layers


def _inputs(block: Block, split: Array) -> Array:
    """Bytes that the column- and row-parallel layers of a block keep of their inputs."""
    found = []
    for op in block.ops:
        if isinstance(op.forward, Gemm) and op.weight_grad is not None and op.collectives:
            work, gathered = op.forward, any(c.kind == "all_gather" and c.phase == "forward" for c in op.collectives)
            size = work.m * work.k * work.count * work.element
            found.append(np.minimum(op.saved, size / split if gathered else size))
    return total(found)


@quantity(
    "B",
    "Σ saved tensors of the layers; none, selective: without the attention core; full: the input only",
    source="Korthikanti et al., Reducing Activation Recomputation, eqs. 1–5",
)
def saved_per_pass(
    kept_layers: list[Layer], recompute: Array, partition_checkpoints: Array, sequence_parallel: Array, tp: Array
) -> dict[str, Array]:
    """Bytes that one micro-batch keeps from forward to backward: ``body`` over all layers, ``first``, ``last``."""
    split = np.where(np.logical_and(partition_checkpoints, np.logical_not(sequence_parallel)), tp, 1)
    result: dict[str, Array] = {}
    for place in ("first", "body", "last"):
        here = [layer for layer in kept_layers if layer.block.place == place]
        everything = total(layer.block.count * layer.everything for layer in here)
        core = total(layer.block.count * layer.core for layer in here)
        boundary = total(layer.block.count * layer.boundary for layer in here)
        kept = boundary / split if any(np.any(layer.boundary) for layer in here) else everything
        result[place] = select(recompute, {"none": everything, "selective": everything - core, "full": kept})
    return result


@quantity("B", "saved per pass · layers of the stage / layers · micro-batches in flight")
def activation_bytes(
    model: Any, saved_per_pass: dict[str, Array], in_flight: dict[str, Array], stage_layers: Array, pp: Array
) -> dict[str, Array]:
    """Activations held on the first and on the last stage."""
    share = stage_layers / model.depth if model.pipelined else 1.0
    alone = np.less_equal(pp, 1)
    body = saved_per_pass["body"] * share
    first = body + saved_per_pass["first"] + np.where(alone, saved_per_pass["last"], 0.0)
    last = body + np.where(alone, saved_per_pass["first"], 0.0)
    return {
        "first": first * in_flight["first"],
        "last": last * in_flight["last"] + saved_per_pass["last"] * in_flight["head"],
    }


# -- what lives only for a while -----------------------------------------------------------------------------


@quantity("B", "2 · weights of the largest layer, and its gradients, under ZeRO-3")
def gathered_bytes(
    blocks: tuple[Block, ...], zero_stage: Array, precision: Array, gradient_precision: Array, stack: Any
) -> Array:
    """Weights of the layer that runs and of the next one, gathered from all ranks, and unsharded gradients."""
    weights = 0.0
    for block in blocks:
        if block.place == "body":
            weights = np.maximum(weights, total(o.weights for o in block.ops))
    each = 2.0 * select(precision, WEIGHT_BYTES)
    each = each + stack.memory.gathered_gradients * select(gradient_precision, GRADIENT_BYTES)
    return np.where(np.greater_equal(zero_stage, 3), each * weights, 0.0)


@quantity("B", "largest layer's dropped activations while it is recomputed + gathered ZeRO-3 weights")
def working_bytes(kept_layers: list[Layer], recompute: Array, gathered_bytes: Array, stack: Any) -> Array:
    """Memory that lives only while a layer runs: its recomputed activations, and two layers' gathered weights."""
    software = stack.memory
    again, whole, core = 0.0, 0.0, 0.0
    for layer in kept_layers:
        if layer.block.place != "body":
            continue
        passing = software.scores_working * layer.scores if np.any(software.scores_working) else 0.0
        again = np.maximum(again, passing)
        whole = np.maximum(whole, layer.everything + passing)
        core = np.maximum(core, layer.core + passing)
    return select(recompute, {"none": again, "selective": core, "full": whole}) + gathered_bytes


@quantity("B", "t·V/tp · (logits − 4), or t·V · (logits + gathered) − t·V/tp · 4 where each rank has the whole loss")
def loss_bytes(blocks: tuple[Block, ...], tp: Array, stack: Any) -> Array:
    """Copies and gradients of the logits on the last stage, beyond the 32-bit logits among the activations."""
    software = stack.memory
    local = total(b.count * o.saved for b in blocks for o in b.ops if o.name == "loss") / 4.0
    gathered = np.greater(software.logits_gathered, 0)
    each = software.logits + np.where(np.greater(tp, 1), software.logits_gathered, 0.0)
    return local * np.maximum(np.where(gathered, tp * each, each) - 4.0, 0.0)


# -- footprint ----------------------------------------------------------------------------------------------


@quantity("B", "model states + tables + activations + working + reserved, by stage")
def footprints(
    model_states: dict[str, dict[str, Array]],
    activation_bytes: dict[str, Array],
    working_bytes: Array,
    gathered_bytes: Array,
    loss_bytes: Array,
    pp: Array,
    blocks: tuple[Block, ...],
    cluster: Any,
    stack: Any,
) -> dict[str, dict[str, Array]]:
    """Everything a device of the first and of the last stage holds, wherever it lies.

    The temporaries of the loss and of a layer are not alive at once, but differ in size, so that the allocator keeps
    both. ``reserved`` is the runtime's and the framework's fixed memory, and what the allocator loses between tensors
    of differing size (gathered layers are all alike).
    """
    software = stack.memory
    tables = total(b.count * o.table_bytes for b in blocks for o in b.ops)
    loss = {"first": np.where(np.less_equal(pp, 1), loss_bytes, 0.0), "last": loss_bytes}
    result = {}
    for stage, states in model_states.items():
        activations, working = activation_bytes[stage], working_bytes + loss[stage]
        fixed = cluster.accelerator.reserved_memory + software.fixed
        uneven = activations + np.maximum(working - gathered_bytes, 0.0)
        lost = software.fragmentation * uneven if np.any(software.fragmentation) else 0.0
        result[stage] = {**states, "activations": activations, "working": working, "reserved": fixed + lost}
        if np.any(tables):
            result[stage]["tables"] = tables
    return result


@quantity("B", "max over first and last stage of Σ footprint")
def memory_bytes(footprints: dict[str, dict[str, Array]]) -> Array:
    """Memory footprint of the fullest device over all tiers."""
    sums = [total(parts.values()) for parts in footprints.values()]
    return np.maximum(sums[0], sums[1])


@quantity("B", "parts of the fuller stage")
def memory_breakdown(footprints: dict[str, dict[str, Array]]) -> dict[str, Array]:
    """The footprint of the fullest device by tensor class; adds up to ``memory_bytes``."""
    first, last = (total(parts.values()) for parts in footprints.values())
    return {
        name: np.where(first >= last, footprints["first"][name], footprints["last"][name])
        for name in footprints["first"]
    }
