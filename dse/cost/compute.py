"""Compute: the roofline of every operator, with GEMM traffic that knows the on-chip buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dse.cost.arrays import Array, select, total
from dse.cost.graph import quantity
from dse.spec.workload.op import PHASES, Block, Fused, Gemm, Op, Phase, Shard, Stream, Work

# Bytes of an activation, and of a matrix operand, by precision. FP8 recipes keep activations in 16 bit.
ACTIVATION_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "fp8": 2, "mxfp8": 2, "nvfp4": 2}
OPERAND_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "mxfp8": 1, "nvfp4": 0.5}
GRADIENT_BYTES = ACTIVATION_BYTES
# Bits of the matrix operands where they are narrower than 16.
NARROW_BITS = {"fp32": 16, "tf32": 16, "fp16": 16, "bf16": 16, "fp8": 8, "mxfp8": 8, "nvfp4": 4}
# What runs where the matrix engine lacks a data type (a rule marks such designs infeasible).
FALLBACK = {
    "nvfp4": ("fp4", "fp8", "bf16", "fp16", "tf32", "fp32"),
    "mxfp8": ("fp8", "bf16", "fp16", "tf32", "fp32"),
    "fp8": ("fp8", "bf16", "fp16", "tf32", "fp32"),
    "bf16": ("bf16", "fp16", "tf32", "fp32"),
    "fp16": ("fp16", "bf16", "tf32", "fp32"),
    "tf32": ("tf32", "fp32", "bf16"),
    "fp32": ("fp32", "tf32", "bf16", "fp16"),
}


def gemm_traffic(m: Array, k: Array, n: Array, element: Array, buffer: Array, a_bytes: Array | None = None) -> Array:
    """Bytes between memory and chip for one (m×k)·(k×n) product with an on-chip buffer of ``buffer`` bytes.

    With A, B, C the bytes of the operands and the result, and S the buffer::

        Θ = C + min( ceil(B/S)·A + B ,                 B kept, A streamed once per part of B
                     ceil(A/S)·B + A ,                 A kept
                     ceil(C/S)·min(A,B) + max(A,B) )   C kept (weight gradients: k is the number of tokens)

    It falls to A + B + C as soon as one of them fits. Source: re-derived; COMET describes a buffer-aware formula
    whose printed form is not public.
    """
    a = element * m * k if a_bytes is None else a_bytes
    b, c = element * k * n, element * m * n
    parts = np.maximum(buffer, 1.0)
    keep_b = np.ceil(b / parts) * a + b
    keep_a = np.ceil(a / parts) * b + a
    keep_c = np.ceil(c / parts) * np.minimum(a, b) + np.maximum(a, b)
    return c + np.minimum(np.minimum(keep_b, keep_a), keep_c)


@quantity("1", "devices of the cluster")
def devices(cluster: Any) -> Array:
    """Number of accelerators."""
    return cluster.devices


@quantity("1", "dp, or devices / (tp · pp · cp) where it is not given")
def data_parallel(dp: Array, tp: Array, pp: Array, cp: Array, devices: Array) -> Array:
    """Data-parallel replicas."""
    return np.maximum(devices / (tp * pp * cp), 1.0) if dp is None else dp


@quantity("FLOP/s", "dense peak of the matrix engine in the strategy's precision")
def matrix_peak(cluster: Any, precision: Array) -> Array:
    """Peak of one device's matrix engine; the nearest wider type where the precision is not supported."""
    peaks = cluster.accelerator.matrix
    table = {name: _first(peaks, FALLBACK[name]) for name in FALLBACK}
    return select(precision, table)


def _first(peaks: Any, names: tuple[str, ...]) -> Array:
    for name in (*names, "fp64", "int8", "fp4"):
        value = getattr(peaks, name)
        if value is not None:
            return value
    return 1.0


@quantity("FLOP/s", "peak of the vector units (FP32 where present)")
def vector_peak(cluster: Any) -> Array:
    """Peak of one device's vector units for element-wise work."""
    peaks = cluster.accelerator.vector
    for name in ("fp32", "bf16", "fp16", "fp64"):
        value = getattr(peaks, name)
        if value is not None:
            return value
    matrix = cluster.accelerator.matrix
    return next((peak for peak in (matrix.bf16, matrix.fp16) if peak is not None), 1e12)


@quantity("B/s", "BW_local · efficiency.memory")
def memory_bandwidth(cluster: Any, bandwidth_share: Array) -> Array:
    """Bandwidth that operators see: local memory, or the mix with expanded memory (see ``bandwidth_share``)."""
    accelerator = cluster.accelerator
    return accelerator.memory.bandwidth * accelerator.efficiency.memory * bandwidth_share


@quantity("", "sharding of one micro-batch on one device")
def shard(
    tp: Array,
    cp: Array,
    ep: Array,
    sequence_parallel: Array,
    batch_per_pass: Array,
    precision: Array,
    attention: Array,
    capacity_factor: Array,
    devices: Array,
    context: Array,
) -> Shard:
    """What an operator needs to know of the strategy."""
    return Shard(
        tp=tp,
        cp=cp,
        ep=ep,
        sequence_parallel=sequence_parallel,
        micro_batch=batch_per_pass,
        element=select(precision, ACTIVATION_BYTES),
        flash=np.logical_or(np.equal(attention, "flash"), np.equal(attention, "flash1")),
        capacity_factor=capacity_factor,
        devices=devices,
        exchange_heads=np.equal(context, "all_to_all"),
    )


@quantity("", "the model lowered to operators")
def blocks(model: Any, shard: Shard) -> tuple[Block, ...]:
    """Operators of one pass, grouped into blocks that repeat."""
    return model.lower(shard)


@quantity(
    "1",
    "matrix · sustained · useful share of tiles and waves · k / (k + k_overhead) (hook)",
    source="tile and wave quantization re-derived; constants fitted to measured GEMMs",
)
def operator_efficiency(cluster: Any, precision: Array, attention: Array, stack: Any) -> Callable[..., Array]:
    """Hook: maps (operator, work, phase) to the achieved fraction of the matrix peak.

    Replace this quantity to bring your own surface.
    """
    limits, cores = cluster.accelerator.efficiency, cluster.accelerator.cores
    bits = select(precision, NARROW_BITS)
    wide = limits.matrix * limits.sustained
    eight = (limits.matrix if limits.matrix_fp8 is None else limits.matrix_fp8) * limits.sustained_fp8
    four = (limits.matrix if limits.matrix_fp4 is None else limits.matrix_fp4) * limits.sustained_fp4
    matrix = np.where(np.equal(bits, 8), eight, np.where(np.equal(bits, 4), four, wide))
    # Attention kernels, routers and logits compute in 16 bit: a half or less of a narrow peak.
    halved = np.where(np.less(bits, 16), _sixteen_bit_share(cluster, precision), 1.0)
    first = np.where(np.equal(attention, "flash1"), limits.attention_first, 1.0)
    core = limits.attention * limits.sustained * halved * first * stack.attention
    tiled = limits.tiles if isinstance(limits.tiles, np.ndarray) else bool(limits.tiles)

    def efficiency(op: Op, work: Work, phase: Phase) -> Array:
        if isinstance(work, Fused):
            return core * (limits.attention_backward if phase != "forward" else 1.0)
        if not isinstance(work, Gemm):
            return 1.0
        rate = wide * halved if op.wide or op.kind == "batched_gemm" else matrix
        if np.any(tiled):
            filled = tile_efficiency(work, cores, limits.small_tile, limits.k_overhead)
            rate = rate * np.where(tiled, filled, 1.0)
        if op.kind == "batched_gemm":
            rate = rate * np.where(_multiple(work, 64), 1.0, limits.unaligned)
            rate = rate * np.where(_multiple(work, 8), 1.0, limits.misaligned)
        return rate

    return efficiency


def _multiple(work: Gemm, of: int) -> Array:
    """Whether all sizes of a product are multiples."""
    return np.equal(np.mod(work.m, of), 0) & np.equal(np.mod(work.k, of), 0) & np.equal(np.mod(work.n, of), 0)


def _sixteen_bit_share(cluster: Any, precision: Array) -> Array:
    """Peak in 16 bit over the peak of the strategy's precision."""
    peaks = cluster.accelerator.matrix
    return _first(peaks, FALLBACK["bf16"]) / select(precision, {n: _first(peaks, FALLBACK[n]) for n in FALLBACK})


TILES = ((256, 128), (128, 128), (128, 64))


def tile_efficiency(work: Gemm, cores: Array, small_tile: Array, k_overhead: Array) -> Array:
    """Useful share of the time of a tiled GEMM: the best of three tile shapes.

    A GEMM of ceil(m/a)·ceil(n/b)·count tiles runs in ceil(tiles/cores) waves of a·b·(k + k₀) each; the useful work
    is m·n·k·count/cores. Tiles of 64 columns re-use less and run at ``small_tile`` of the rate.
    """
    useful = work.m * work.n * work.k * work.count / cores
    spent: Array = np.inf
    for a, b in TILES:
        tiles = np.ceil(work.m / a) * np.ceil(work.n / b) * work.count
        wave = np.ceil(tiles / cores - 1e-9) * (a * b) * (work.k + k_overhead)
        spent = np.minimum(spent, wave / small_tile if b < 128 else wave)
    return np.where(useful > 0, useful / np.maximum(spent, 1e-30), 1.0)  # no work: any rate will do


@quantity("s", "max(FLOP / (peak · efficiency), Θ / BW) + launch", source="roofline; COMET §3.1 and 3.2")
def operator_times(
    blocks: tuple[Block, ...],
    matrix_peak: Array,
    vector_peak: Array,
    memory_bandwidth: Array,
    operator_efficiency: Any,
    precision: Array,
    cluster: Any,
    stream_passes: dict[str, Array],
    gradient_precision: Array,
    stack: Any,
    lora_rank: Array,
) -> dict[str, Array]:
    """Time of each operator and phase in one pass of one device, keyed ``block.operator.phase``.

    A weight-gradient GEMM also adds to the gradient buffer: the share ``stack.gradient_accumulation`` of that read
    and write is not hidden. In FP8 and FP4 each GEMM first quantizes its activations. With adapters, the weights they
    stand beside have no gradients.
    """
    operand = select(precision, OPERAND_BYTES) / select(precision, ACTIVATION_BYTES)
    launch, buffer = cluster.accelerator.efficiency.launch, cluster.accelerator.buffer
    quantizing = {"fp8": stack.cast_fp8, "mxfp8": stack.cast_mxfp8, "nvfp4": stack.cast_nvfp4}
    cast = select(precision, {name: quantizing.get(name, 0.0) for name in OPERAND_BYTES}) / memory_bandwidth
    adapters = np.greater(lora_rank, 0)
    update = 2.0 * select(gradient_precision, GRADIENT_BYTES) * stack.gradient_accumulation / memory_bandwidth
    times: dict[str, Array] = {}
    for block in blocks:
        for op in block.ops:
            for phase in PHASES:
                work = op.work(phase)
                if work is None:
                    continue
                if isinstance(work, Stream):
                    passes = stream_passes.get(op.name.rpartition("_")[2], 1.0)
                    busy = np.maximum(passes * work.bytes / memory_bandwidth, work.flops / vector_peak)
                else:
                    traffic = work_traffic(work, buffer, 1.0 if op.wide or op.kind == "batched_gemm" else operand)
                    hook = operator_efficiency
                    rate = matrix_peak * (hook(op, work, phase) if callable(hook) else hook)
                    busy = np.maximum(work.flops / rate, traffic / memory_bandwidth)
                    if isinstance(work, Gemm) and np.any(cast) and not op.wide and op.kind != "batched_gemm":
                        busy = busy + cast * work.element * work.m * work.k * work.count
                if phase == "weight_grad" and np.any(update):
                    busy = busy + update * op.weights
                if phase == "weight_grad" and np.any(adapters):
                    busy = np.where(np.logical_and(adapters, op.kind == "gemm"), 0.0, busy)
                key = f"{block.name}.{op.name}.{phase}"
                times[key] = busy + np.where(busy > 0, launch, 0.0) if np.any(launch) else busy
    return times


@quantity("1", "memory passes of element-wise kernels", source="the software stack's constants")
def stream_passes(stack: Any, attention: Array, fused_norm: Array) -> dict[str, Array]:
    """Multiplier of the memory traffic of element-wise operators, by the last word of their name."""
    softmax = np.where(np.equal(attention, "unfused"), stack.softmax_passes_unfused, stack.softmax_passes)
    norm = np.where(fused_norm, stack.norm_passes, stack.norm_passes_unfused)
    return {
        "norm": norm,
        "activation": stack.activation_passes,
        "rotary": stack.rotary_passes,
        "dispatch": stack.permute_passes,
        "combine": stack.permute_passes,
        "softmax": softmax,
        "loss": stack.loss_passes,
    }


@quantity("s", "kernels_per_layer · launch", source="re-derived; a layer cannot run faster than the host launches it")
def host_floor(stack: Any, cuda_graphs: Array) -> Array:
    """Least time of one layer's forward pass: what the host takes to launch its kernels (backward: twice that)."""
    return np.where(cuda_graphs, 0.0, stack.kernels_per_layer * stack.launch)


@quantity("s", "stall, none where the host launches whole graphs")
def host_stall(stack: Any, cuda_graphs: Array) -> Array:
    """Idle time of one pass of a layer while the host synchronizes."""
    return np.where(cuda_graphs, 0.0, stack.stall) if np.any(cuda_graphs) else stack.stall


def work_traffic(work: Work, buffer: Array, operand: Array = 1.0) -> Array:
    """Bytes a piece of work moves between memory and chip; ``operand`` scales matrix operands (FP8: one half)."""
    if isinstance(work, Gemm):
        a_bytes = None if work.a_bytes is None else work.a_bytes * operand
        return work.count * gemm_traffic(work.m, work.k, work.n, work.element * operand, buffer, a_bytes)
    return work.bytes


def phase_time(block: Block, times: dict[str, Array], phase: Phase, *, core_only: bool = False) -> Array:
    """Time of one phase of one instance of a block, or of its attention core alone."""
    return total(
        times[f"{block.name}.{op.name}.{phase}"]
        for op in block.ops
        if op.work(phase) is not None and (op.core or not core_only)
    )


@quantity("1", "1, or Σ rank · (k + n) / Σ k · n of the linear layers with adapters", source="Hu et al., LoRA, §4.1")
def trainable_share(blocks: tuple[Block, ...], lora_rank: Array) -> Array:
    """Share of the parameters that have gradients and optimizer states."""
    if not np.any(lora_rank):
        return 1.0
    linear = [(b.count * o.forward.count, o.forward) for b in blocks for o in b.ops if o.kind == "gemm" and not o.wide]
    adapters = total(count * lora_rank * (work.k + work.n) for count, work in linear)
    weights = total(b.count * o.weights for b in blocks for o in b.ops)
    return np.where(np.greater(lora_rank, 0), adapters / weights, 1.0)


@quantity("FLOP", "3 · forward FLOP of a sample · global batch", source="Narayanan et al. SC'21 eq. 3; PaLM app. B")
def model_flops(model: Any, global_batch: Array, lora_rank: Array) -> Array:
    """Useful matrix FLOP of a training step, attention in full, without recomputation.

    Training adapters alone needs no weight gradients of what they stand beside: two thirds.
    """
    passes = np.where(np.greater(lora_rank, 0), 2.0, 3.0)
    return passes * model.forward_flops() * global_batch


@quantity("FLOP", "model FLOP + recomputed forward FLOP")
def hardware_flops(
    model: Any, model_flops: Array, recompute: Array, blocks: tuple[Block, ...], lora_rank: Array
) -> Array:
    """Matrix FLOP executed in a step with recomputation of the layers, not of the logits (the numerator of HFU)."""
    core = total(b.count * o.forward.flops for b in blocks for o in b.ops if o.core and o.kind != "element_wise")
    work = [(b, b.count * o.forward.flops) for b in blocks for o in b.ops if o.kind != "element_wise"]
    forward = np.maximum(total(flops for _, flops in work), 1.0)
    body = total(flops for b, flops in work if b.place == "body")
    again = select(recompute, {"none": 0.0, "selective": core / forward, "full": body / forward})
    return model_flops * (1.0 + again / np.where(np.greater(lora_rank, 0), 2.0, 3.0))
