"""The attention block: projections, rotary embedding, and the core in its flash and its unfused form."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dse.spec.workload.op import Array, Collective, Fused, Gemm, Op, Shard, element_wise, linear

if TYPE_CHECKING:
    from dse.spec.workload.transformer import Transformer


def head_dims(model: Transformer) -> tuple[Array, Array]:
    """Dimensions of a head for queries/keys and for values."""
    if model.latent:
        return model.latent.nope_dim + model.latent.rope_dim, model.latent.value_dim
    return model.width, model.width


def output_width(model: Transformer) -> Array:
    """Columns that the output projection reads: heads × value dimension."""
    return model.heads * head_dims(model)[1]


def core_flops(model: Transformer) -> Array:
    """Attention FLOP of one sequence in one layer, counted in full: 2·s²·a·(d_qk + d_v)."""
    qk, value = head_dims(model)
    return 2.0 * model.seq_len * model.seq_len * model.heads * (qk + value)


def key_split(model: Transformer, shard: Shard) -> Array:
    """By what keys and values are divided: tp, but grouped heads fewer than tp are replicated."""
    return np.where(np.equal(model.groups, model.heads), shard.tp, np.minimum(shard.tp, model.groups))


def attention_ops(model: Transformer, shard: Shard) -> tuple[Op, ...]:
    """Norm, projections, core, output projection for one micro-batch on one device."""
    t, e = model.tokens(shard), shard.element
    size = t * model.hidden * e
    width = output_width(model) / shard.tp
    out = linear(
        "attention_output",
        t,
        width,
        model.hidden,
        element=e,
        bias=np.where(model.bias, model.hidden, 0),
        saved=t * width * e + model.dropout_mask(shard),
        collectives=model.leaving(shard, size),
    )
    return (model.norm_op("attention_norm", shard), *_projections(model, shard), *_core(model, shard), out)


def _projections(model: Transformer, shard: Shard) -> tuple[Op, ...]:
    """Queries, keys and values. The saved bytes: the input once, and the three outputs."""
    if model.latent:
        return _latent_projections(model, shard)
    t, h, e, d = model.tokens(shard), model.hidden, shard.element, model.width
    entering = model.entering(shard, t * h * e)
    queries, keys = model.heads * d / shard.tp, model.groups * d / key_split(model, shard)
    biased = np.where(model.bias | model.qkv_bias, 1, 0)
    source = t * h * e / model.sequence_split(shard)
    rotary = element_wise(
        "rotary",
        2 * t * (queries + keys) * e * np.where(np.equal(model.positions, "rotary"), 1, 0),
        weights=np.where(model.qk_norm, 2 * d, 0),
    )
    if model.fused_qkv:
        columns = queries + 2 * keys
        qkv = linear(
            "qkv", t, h, columns, element=e, bias=biased * columns, saved=source + t * columns * e, collectives=entering
        )
        return (qkv, rotary)
    names = (("query", queries, source, entering), ("key", keys, 0.0, ()), ("value", keys, 0.0, ()))
    apart = tuple(
        linear(name, t, h, n, element=e, bias=biased * n, saved=extra + t * n * e, collectives=collectives)
        for name, n, extra, collectives in names
    )
    return (*apart, rotary)


def _latent_projections(model: Transformer, shard: Shard) -> tuple[Op, ...]:
    """Multi-latent attention: down-projections on every rank, up-projections split over heads."""
    z, t, h, e = model.latent, model.tokens(shard), model.hidden, shard.element
    if z is None:
        return ()
    local_heads = model.heads / shard.tp
    qk = z.nope_dim + z.rope_dim
    source = t * h * e / model.sequence_split(shard)
    entering = model.entering(shard, t * h * e)
    ops = []
    if np.any(z.query_rank):
        ops.append(
            linear(
                "query_down",
                t,
                h,
                z.query_rank,
                element=e,
                bias=1.0 * z.query_rank,
                saved=source + t * z.query_rank * e,
                collectives=entering,
            )
        )
        ops.append(linear("query_up", t, z.query_rank, local_heads * qk, element=e, saved=t * local_heads * qk * e))
    else:
        ops.append(
            linear(
                "query",
                t,
                h,
                local_heads * qk,
                element=e,
                saved=source + t * local_heads * qk * e,
                collectives=entering,
            )
        )
    up = local_heads * (z.nope_dim + z.value_dim)
    ops.append(
        linear(
            "kv_down",
            t,
            h,
            z.kv_rank + z.rope_dim,
            element=e,
            bias=1.0 * z.kv_rank,
            saved=t * (z.kv_rank + z.rope_dim) * e,
        )
    )
    ops.append(linear("kv_up", t, z.kv_rank, up, element=e, saved=t * up * e))
    ops.append(element_wise("rotary", 2 * t * (local_heads + 1) * z.rope_dim * e))
    return tuple(ops)


def _core(model: Transformer, shard: Shard) -> tuple[Op, ...]:
    """Softmax(Q·Kᵀ)·V on the local heads and the local part of the sequence.

    Under context parallelism each rank's queries meet the keys and values of all ranks, passed around a ring: they
    are gathered forward, and their gradients are reduced on the way back. Or all-to-alls exchange heads for tokens:
    queries, keys and values before the core, its result after it (DeepSpeed-Ulysses, arXiv 2309.14509).
    """
    qk, value = head_dims(model)
    heads, groups = model.heads / shard.tp, model.groups / key_split(model, shard)
    b, s, e = shard.micro_batch, model.seq_len, shard.element
    local = s / shard.cp
    split = np.greater(shard.cp, 1)
    around = np.logical_and(split, np.logical_not(shard.exchange_heads))
    gathered = np.where(around, b * s * groups * (qk + value) * e, 0.0)
    own = b * local * (heads * (qk + value) + groups * (qk + value)) * e
    exchanged = np.where(np.logical_and(split, shard.exchange_heads), own, 0.0)
    ring = (
        Collective("forward", "all_gather", gathered, "cp", blocking=False),
        Collective("input_grad", "all_gather", gathered, "cp", blocking=False),
        Collective("input_grad", "reduce_scatter", gathered, "cp", blocking=False),
        Collective("forward", "all_to_all", exchanged, "cp"),
        Collective("input_grad", "all_to_all", exchanged, "cp"),
    )
    flash, scores = shard.flash, b * heads * local * s
    flops = np.where(model.causal, 0.5, 1.0) * 2.0 * scores * (qk + value)
    tensors = b * local * heads * (qk + value) * e + b * s * groups * (qk + value) * e
    # Flash backward recomputes the scores: five products for the forward pass's two.
    on = np.where(flash, 1.0, 0.0)
    fused = Op(
        "flash_attention",
        "attention",
        forward=Fused(on * flops, on * tensors),
        input_grad=Fused(on * 2.5 * flops, on * 2.0 * tensors),
        saved=on * 4 * b * heads * local,
        core=True,
        collectives=tuple(replace(c, bytes=on * c.bytes) for c in ring),
    )
    if np.all(flash):
        return (fused,)
    off = np.where(flash, 0.0, 1.0)
    plain = _unfused(model, shard, heads, local, off)
    first = replace(plain[0], collectives=tuple(replace(c, bytes=off * c.bytes) for c in ring))
    plain = (first, *plain[1:])
    return plain if not np.any(flash) else (fused, *plain)


def _unfused(model: Transformer, shard: Shard, heads: Array, local: Array, on: Array) -> tuple[Op, ...]:
    """Separate kernels that write the s × s scores: softmax output, dropout output (2 B) and mask (1 B) are kept."""
    qk, value = head_dims(model)
    b, s, e = shard.micro_batch, model.seq_len, shard.element
    scores = on * b * heads * local * s
    count = on * b * heads

    def product(name: str, k: Array, n: Array) -> Op:
        return Op(
            name,
            "batched_gemm",
            forward=Gemm(local, k, n, count, e),
            input_grad=Gemm(local, n, k, count, e),
            weight_grad=Gemm(k, local, n, count, e),
            core=True,
        )

    kept = scores * e + np.where(model.dropout, scores * (e + 1), 0.0)
    softmax = element_wise(
        "softmax", 2.0 * model.unfused * scores * e, flops=5 * scores, saved=kept, core=True, backward=1.5
    )
    return (product("scores", qk, s), softmax, product("context", s, value))
