"""Compute: the roofline of every operator, with GEMM traffic that knows the on-chip buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dse.cost.arrays import Array, select, total
from dse.cost.graph import quantity
from dse.spec.workload.op import PHASES, Block, Fused, Gemm, Op, Phase, Shard, Stream, Work

# Bytes of an activation, and of a matrix operand, by precision. FP8 recipes keep activations in 16 bit.
ACTIVATION_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "fp8": 2}
OPERAND_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "fp8": 1}
# What runs where the matrix engine lacks a data type (a rule marks such designs infeasible).
FALLBACK = {"fp8": ("fp8", "bf16", "fp16", "tf32", "fp32"), "bf16": ("bf16", "fp16", "tf32", "fp32"),
            "fp16": ("fp16", "bf16", "tf32", "fp32"), "tf32": ("tf32", "fp32", "bf16"),
            "fp32": ("fp32", "tf32", "bf16", "fp16")}  # fmt: skip


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
    return cluster.accelerator.matrix.bf16 or cluster.accelerator.matrix.fp16 or 1e12


@quantity("B/s", "BW_local · efficiency.memory")
def memory_bandwidth(cluster: Any, bandwidth_share: Array) -> Array:
    """Bandwidth that operators see: local memory, or the mix with expanded memory (see ``bandwidth_share``)."""
    accelerator = cluster.accelerator
    return accelerator.memory.bandwidth * accelerator.efficiency.memory * bandwidth_share


@quantity("", "sharding of one micro-batch on one device")
def shard(tp: Array, cp: Array, ep: Array, sequence_parallel: Array, batch_per_pass: Array, precision: Array,
          attention: Array, capacity_factor: Array, devices: Array) -> Shard:  # fmt: skip
    """What an operator needs to know of the strategy."""
    return Shard(
        tp=tp, cp=cp, ep=ep, sequence_parallel=sequence_parallel, micro_batch=batch_per_pass,
        element=select(precision, ACTIVATION_BYTES), flash=np.equal(attention, "flash"),
        capacity_factor=capacity_factor, devices=devices,
    )  # fmt: skip


@quantity("", "the model lowered to operators")
def blocks(model: Any, shard: Shard) -> tuple[Block, ...]:
    """Operators of one pass, grouped into blocks that repeat."""
    return model.lower(shard)


@quantity("1", "fraction of the peak an operator reaches (hook)", source="assumed until calibrated")
def operator_efficiency(cluster: Any) -> Callable[[Op, Work, Array], Array]:
    """Hook: maps (operator, work, padded share) to the achieved fraction of the matrix peak.

    Replace this quantity to bring your own surface. The default is the accelerator's ``efficiency.matrix`` or
    ``.attention``, times the useful share of the tiles.
    """
    limits = cluster.accelerator.efficiency
    matrix, attention, tile_m, tile_n = limits.matrix, limits.attention, limits.tile_m, limits.tile_n

    def efficiency(op: Op, work: Work) -> Array:
        if isinstance(work, Fused):
            return attention
        if isinstance(work, Gemm):
            return matrix * _filled(work.m, tile_m) * _filled(work.n, tile_n)
        return 1.0

    return efficiency


def _filled(size: Array, tile: Array) -> Array:
    """Useful share of the tiles that cover ``size`` rows."""
    if isinstance(tile, int) and tile == 1:
        return 1.0
    return size / (np.ceil(size / tile) * tile)


@quantity("s", "max(FLOP / (peak · efficiency), Θ / BW) + launch", source="roofline; COMET §3.1 and 3.2")
def operator_times(
    blocks: tuple[Block, ...], matrix_peak: Array, vector_peak: Array, memory_bandwidth: Array,
    operator_efficiency: Any, precision: Array, cluster: Any,
) -> dict[str, Array]:  # fmt: skip
    """Time of each operator and phase in one pass of one device, keyed ``block.operator.phase``."""
    operand = select(precision, OPERAND_BYTES) / select(precision, ACTIVATION_BYTES)
    launch, buffer = cluster.accelerator.efficiency.launch, cluster.accelerator.buffer
    times: dict[str, Array] = {}
    for block in blocks:
        for op in block.ops:
            for phase in PHASES:
                work = op.work(phase)
                if work is None:
                    continue
                key = f"{block.name}.{op.name}.{phase}"
                if isinstance(work, Stream):
                    busy = np.maximum(work.bytes / memory_bandwidth, work.flops / vector_peak)
                else:
                    traffic = work_traffic(work, buffer, operand)
                    rate = matrix_peak * operator_efficiency(op, work)
                    busy = np.maximum(work.flops / rate, traffic / memory_bandwidth)
                times[key] = busy + np.where(busy > 0, launch, 0.0) if np.any(launch) else busy
    return times


def work_traffic(work: Work, buffer: Array, operand: Array = 1.0) -> Array:
    """Bytes a piece of work moves between memory and chip; ``operand`` scales matrix operands (FP8: one half)."""
    if isinstance(work, Gemm):
        a_bytes = None if work.a_bytes is None else work.a_bytes * operand
        return work.count * gemm_traffic(work.m, work.k, work.n, work.element * operand, buffer, a_bytes)
    return work.bytes


def phase_time(block: Block, times: dict[str, Array], phase: Phase, *, core_only: bool = False) -> Array:
    """Time of one phase of one instance of a block, or of its attention core alone."""
    return total(times[f"{block.name}.{op.name}.{phase}"] for op in block.ops
                 if op.work(phase) is not None and (op.core or not core_only))  # fmt: skip


@quantity("FLOP", "3 · forward FLOP of a sample · global batch", source="Narayanan et al. SC'21 eq. 3; PaLM app. B")
def model_flops(model: Any, global_batch: Array) -> Array:
    """Useful matrix FLOP of a training step, attention in full, without recomputation."""
    return 3.0 * model.forward_flops() * global_batch


@quantity("FLOP", "model FLOP + recomputed forward FLOP")
def hardware_flops(model: Any, model_flops: Array, recompute: Array, blocks: tuple[Block, ...]) -> Array:
    """Matrix FLOP executed in a step with recomputation of the layers, not of the logits (the numerator of HFU)."""
    core = total(b.count * o.forward.flops for b in blocks for o in b.ops if o.core and o.kind != "element_wise")
    work = [(b, b.count * o.forward.flops) for b in blocks for o in b.ops if o.kind != "element_wise"]
    forward = np.maximum(total(flops for _, flops in work), 1.0)
    body = total(flops for b, flops in work if b.place == "body")
    again = select(recompute, {"none": 0.0, "selective": core / forward, "full": body / forward})
    return model_flops * (1.0 + again / 3.0)
