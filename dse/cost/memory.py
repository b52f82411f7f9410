"""Memory: what one device must hold, where it lies in the hierarchy, and what moving it costs.

The first pipeline stage holds most activations in flight, the last one the logits; both are computed and the larger
footprint counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dse.cost.arrays import Array, safe_divide, select, total
from dse.cost.compute import GRADIENT_BYTES
from dse.cost.graph import quantity
from dse.spec.workload.op import Block

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


@quantity("1", "ranks that share the ZeRO-partitioned states: dp·cp, for experts dp·cp/ep")
def zero_ranks(data_parallel: Array, cp: Array, ep: Array) -> dict[str, Array]:
    """Over how many ranks ZeRO splits the states of dense and of expert parameters."""
    return {"dense": data_parallel * cp, "expert": data_parallel * cp / ep}


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
) -> dict[str, dict[str, Array]]:
    """Bytes of weights, gradients and optimizer states on a device of the first and of the last stage."""
    width = select(precision, WEIGHT_BYTES)
    master = np.where(np.less(width, 4), 4.0, 0.0)
    master = np.where(np.equal(optimizer, "sgd"), 0.0, master)
    bytes_each = {
        "weights": (width, 3),
        "gradients": (select(gradient_precision, GRADIENT_BYTES), 2),
        "optimizer": (select(optimizer, OPTIMIZER_BYTES) + master, 1),
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


@quantity(
    "B",
    "Σ saved tensors of the operators; none, selective: without the attention core; full: the input only",
    source="Korthikanti et al., Reducing Activation Recomputation, eqs. 1–5",
)
def saved_per_pass(
    blocks: tuple[Block, ...], recompute: Array, partition_checkpoints: Array, sequence_parallel: Array, tp: Array
) -> dict[str, Array]:
    """Bytes that one micro-batch keeps from forward to backward: ``body`` over all layers, ``first``, ``last``."""
    split = np.where(np.logical_and(partition_checkpoints, np.logical_not(sequence_parallel)), tp, 1)
    result: dict[str, Array] = {}
    for place in ("first", "body", "last"):
        here = [b for b in blocks if b.place == place]
        everything = total(b.count * o.saved for b in here for o in b.ops)
        core = total(b.count * o.saved for b in here for o in b.ops if o.core)
        boundary = total(b.count * b.boundary for b in here)
        kept = boundary / split if any(np.any(b.boundary) for b in here) else everything
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


@quantity("B", "largest layer's dropped activations while it is recomputed + gathered ZeRO-3 weights")
def working_bytes(blocks: tuple[Block, ...], recompute: Array, zero_stage: Array, precision: Array) -> Array:
    """Memory that lives only while a layer runs: its recomputed activations, and two layers' gathered weights."""
    layers = [b for b in blocks if b.place == "body"]
    whole, core, weights = 0.0, 0.0, 0.0
    for block in layers:
        whole = np.maximum(whole, total(o.saved for o in block.ops))
        core = np.maximum(core, total(o.saved for o in block.ops if o.core))
        weights = np.maximum(weights, total(o.weights for o in block.ops))
    again = select(recompute, {"none": 0.0, "selective": core, "full": whole})
    gathered = 2.0 * weights * select(precision, WEIGHT_BYTES)
    return again + np.where(np.greater_equal(zero_stage, 3), gathered, 0.0)


# -- footprint and placement --------------------------------------------------------------------------------


@quantity("B", "model states + tables + activations + working + reserved, by stage")
def footprints(
    model_states: dict[str, dict[str, Array]],
    activation_bytes: dict[str, Array],
    working_bytes: Array,
    blocks: tuple[Block, ...],
    cluster: Any,
) -> dict[str, dict[str, Array]]:
    """Everything a device of the first and of the last stage holds, wherever it lies."""
    rest = {"working": working_bytes, "reserved": cluster.accelerator.reserved_memory}
    tables = total(b.count * o.table_bytes for b in blocks for o in b.ops)
    if np.any(tables):
        rest["tables"] = tables
    return {stage: {**states, "activations": activation_bytes[stage], **rest} for stage, states in model_states.items()}


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


def tier_table(cluster: Any) -> dict[str, Any]:
    """Tiers by name; ``local`` is the accelerator's own memory."""
    return {"local": cluster.accelerator.memory, **{tier.name: tier for tier in cluster.node.expansion}}


@quantity("B", "Σ of the tensor classes that are placed in each tier; an overflow spreads into the expansion")
def tier_bytes(
    footprints: dict[str, dict[str, Array]],
    cluster: Any,
    offload_weights: Array,
    offload_gradients: Array,
    offload_optimizer: Array,
    offload_activations: Array,
    memory_expansion: Array,
) -> dict[str, Array]:
    """Bytes of one device in each memory tier, on the stage that fills it most."""
    home = {
        "weights": offload_weights,
        "gradients": offload_gradients,
        "optimizer": offload_optimizer,
        "activations": offload_activations,
    }
    tiers = tier_table(cluster)
    per_stage = []
    for parts in footprints.values():
        per_stage.append(
            {
                tier: total(
                    np.where(np.equal(home.get(name, "local"), tier), size, 0.0)
                    if name in home
                    else (size if tier == "local" else 0.0)
                    for name, size in parts.items()
                )
                for tier in tiers
            }
        )
    held = {tier: np.maximum(per_stage[0][tier], per_stage[1][tier]) for tier in tiers}
    if len(tiers) > 1 and np.any(np.equal(memory_expansion, "spread")):
        first = next(name for name in tiers if name != "local")
        over = np.maximum(held["local"] - tiers["local"].capacity, 0.0)
        over = np.where(np.equal(memory_expansion, "spread"), over, 0.0)
        held = {**held, "local": held["local"] - over, first: held[first] + over}
    return held


@quantity("B", "capacity of each tier per device")
def tier_capacity(cluster: Any) -> dict[str, Array]:
    """Capacity that one device may use in each tier."""
    return {name: tier.capacity / tier.shared_by for name, tier in tier_table(cluster).items()}


@quantity("B", "bytes held, and capacity, of each tier that overflows")
def tier_overflow(tier_bytes: dict[str, Array], tier_capacity: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
    """Tiers that hold more than they can, each with what it holds and what it can hold (of one design)."""
    return {
        name: (held, tier_capacity[name])
        for name, held in tier_bytes.items()
        if np.any(np.greater(held, tier_capacity[name]))
    }


def hybrid_bandwidth_share(footprint: Array, capacity: Array, local: Array, expanded: Array, mode: Array) -> Array:
    """Effective over local bandwidth when a footprint overflows ``capacity``.

    With f = min(1, capacity/footprint) of the accesses local::

        harmonic:    BW = 1 / ( f/BW_local + (1−f)/BW_expanded )
        overlapped:  BW = 1 / max( f/BW_local , (1−f)/BW_expanded )

    Accesses are taken to spread over the tiers in proportion to the bytes they hold. Source: the paper's form is not
    public; harmonic is the conservative choice, overlapped what GenZ (same group) uses.
    """
    inside = np.minimum(1.0, safe_divide(capacity, np.maximum(footprint, 1.0)))
    here, there = inside, (1.0 - inside) * local / expanded
    serial = 1.0 / (here + there)
    parallel = 1.0 / np.maximum(here, there)
    return select(mode, {"harmonic": serial, "overlapped": parallel})


@quantity("1", "effective / local bandwidth with memory expansion, else 1", source="re-derived; see the docstring")
def bandwidth_share(cluster: Any, memory_expansion: Array, expanded_share: Array) -> Array:
    """What is left of the local bandwidth: 1 unless the strategy lets the footprint overflow."""
    if not len(cluster.node.expansion) or not np.any(np.equal(memory_expansion, "spread")):
        return 1.0
    return np.where(np.equal(memory_expansion, "spread"), expanded_share, 1.0)


@quantity("1", "see hybrid_bandwidth_share", source="re-derived; COMET §3.3 as known")
def expanded_share(cluster: Any, memory_expansion: Array, hybrid_bandwidth: Array, expansion_footprint: Array) -> Array:
    """Effective over local bandwidth if the footprint overflows into the first expansion tier."""
    if not len(cluster.node.expansion) or not np.any(np.equal(memory_expansion, "spread")):
        return 1.0
    local, tier = cluster.accelerator.memory, cluster.node.expansion[0]
    return hybrid_bandwidth_share(
        expansion_footprint, local.capacity, local.bandwidth, tier.bandwidth / tier.shared_by, hybrid_bandwidth
    )


@quantity("B", "footprint that memory expansion spreads")
def expansion_footprint(memory_bytes: Array) -> Array:
    """Bytes whose accesses are spread over local and expanded memory."""
    return memory_bytes


# -- offload ------------------------------------------------------------------------------------------------


@quantity("s", "Σ_class bytes moved per step / tier bandwidth", source="ZeRO-Infinity §4; re-derived")
def offload_transfer(
    model_states: dict[str, dict[str, Array]],
    saved_per_pass: dict[str, Array],
    cluster: Any,
    stage_layers: Array,
    model: Any,
    micro_batches: Array,
    offload_weights: Array,
    offload_gradients: Array,
    offload_activations: Array,
) -> Array:
    """Time to move offloaded tensors between local memory and their tiers in one step, each tier on its own.

    Weights are fetched for every forward and backward pass and written back once, gradients are read and written in
    every backward pass, activations leave in forward and return in backward. Optimizer states are updated where they
    lie (see ``optimizer_time``).
    """
    states = model_states["first"]
    share = stage_layers / model.depth if model.pipelined else 1.0
    moved = {
        "weights": (offload_weights, states["weights"] * (2.0 * micro_batches + 1.0)),
        "gradients": (offload_gradients, 2.0 * states["gradients"] * micro_batches),
        "activations": (offload_activations, 2.0 * saved_per_pass["body"] * share * micro_batches),
    }
    times: Array = 0.0
    for tier in cluster.node.expansion:
        size = total(
            np.where(np.equal(home, tier.name), amount, 0.0)
            for home, amount in moved.values()
            if np.any(np.equal(home, tier.name))
        )
        times = np.maximum(times, size / (tier.bandwidth / tier.shared_by))
    return times
