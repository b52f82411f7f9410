"""The mixture-of-experts MLP: router, dispatch, routed and shared experts, combine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dse.spec.workload.op import Collective, Gemm, Op, Shard, Stream, element_wise, linear

if TYPE_CHECKING:
    from dse.spec.workload.transformer import Transformer


def moe_ops(model: Transformer, shard: Shard) -> tuple[Op, ...]:
    """Operators of one mixture-of-experts MLP for one micro-batch on one device.

    Every token goes to ``top_k`` experts, times the capacity factor. With ``ep`` ranks each holding experts/ep of
    them, a rank receives as many tokens as it sends (balanced routing), spread over its experts.
    """
    moe = model.moe
    if moe is None:
        return ()
    t, h, e = model.tokens(shard), model.hidden, shard.element
    split = model.sequence_split(shard)
    routed = t * moe.top_k * shard.capacity_factor
    payload = routed * h * e / split
    exchange = np.where(np.greater(shard.ep, 1), payload, 0.0)
    dispatch = (
        Collective("forward", "all_to_all", exchange, "ep"),
        Collective("input_grad", "all_to_all", exchange, "ep"),
    )
    kept = t / split * (h * e + 4 * moe.experts)
    router = linear("router", t / split, h, moe.experts, element=e, wide=True, saved=kept)
    permute = element_wise("dispatch", 2 * payload, saved=payload, collectives=dispatch)
    combine = element_wise("combine", 2 * payload, collectives=dispatch)
    ops: tuple[Op, ...] = (model.norm_op("mlp_norm", shard), router, permute, *_routed(model, shard), combine)
    if np.any(moe.shared_hidden):
        ops = (*ops, *model.mlp(shard, moe.shared_hidden, "shared"))
    return ops


def _routed(model: Transformer, shard: Shard) -> tuple[Op, ...]:
    """The routed experts of one rank: grouped GEMMs of (tokens per expert) × h × f, columns split over tp."""
    moe = model.moe
    if moe is None:
        return ()
    h, e, f = model.hidden, shard.element, moe.hidden / shard.tp
    local_experts = moe.experts / shard.ep
    routed = model.tokens(shard) * moe.top_k * shard.capacity_factor
    rows = routed / local_experts
    up = np.where(model.gated_mlp, 2, 1)
    size = routed * h * e
    entering, leaving = model.entering(shard, size), model.leaving(shard, size)
    expert_up = linear(
        "expert_up",
        rows,
        h,
        up * f,
        element=e,
        count=local_experts,
        expert=True,
        bias=np.where(model.bias, up * f, 0),
        saved=size / model.sequence_split(shard),
        collectives=entering,
    )
    activation = Op(
        "expert_activation",
        "element_wise",
        forward=Stream(model.unfused * (up + 1) * routed * f * e, 10 * routed * f),
        input_grad=Stream(1.5 * model.unfused * (up + 1) * routed * f * e, 10 * routed * f),
        saved=up * routed * f * e,
    )
    expert_down = Op(
        "expert_down",
        "gemm",
        forward=Gemm(rows, f, h, local_experts, e),
        input_grad=Gemm(rows, h, f, local_experts, e),
        weight_grad=Gemm(f, rows, h, local_experts, e),
        weights=(f * h + np.where(model.bias, h, 0)) * local_experts,
        saved=routed * f * e,
        expert=True,
        collectives=leaving,
    )
    return (expert_up, activation, expert_down)
