"""Transformers: multi-head, grouped-query and multi-latent attention, plain and gated MLPs, mixtures of experts.

Sharding follows Megatron-LM: attention heads and MLP columns over ``tp``, norms and dropout over the sequence when
``sequence_parallel`` is on, sequences over ``cp``, experts over ``ep``.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import model_validator

from dse.spec.base import Spec
from dse.spec.fields import Count, CountOrZero, Switch
from dse.spec.workload.attention import attention_ops, core_flops
from dse.spec.workload.base import Model
from dse.spec.workload.moe import moe_ops
from dse.spec.workload.op import Array, Block, Collective, Op, Shard, Stream, element_wise, linear


class LatentAttention(Spec):
    """Multi-latent attention (DeepSeek-V2): low-rank queries and keys/values; rope and no-rope parts of a head."""

    query_rank: CountOrZero = 0
    kv_rank: Count
    nope_dim: Count
    rope_dim: Count
    value_dim: Count


class Experts(Spec):
    """Mixture of experts in place of the MLP: ``top_k`` of ``experts`` per token, and shared experts for all."""

    experts: Count
    top_k: Count
    hidden: Count
    shared_experts: CountOrZero = 0
    shared_hidden: CountOrZero = 0
    dense_layers: CountOrZero = 0
    interval: Count = 1

    @model_validator(mode="after")
    def _top_k_fits(self) -> Self:
        if self.top_k > self.experts:
            raise ValueError(f"top_k = {self.top_k} must not exceed experts = {self.experts}")
        return self


class Transformer(Model):
    """A decoder-only or encoder transformer. ``kv_heads`` None: as many as heads; ``head_dim`` None: hidden/heads.

    ``fused_element_wise``: softmax and activation function run inside the neighbouring GEMMs, without memory traffic
    of their own.
    """

    family: Literal["transformer"] = "transformer"
    layers: Count
    hidden: Count
    heads: Count
    kv_heads: Count | None = None
    head_dim: Count | None = None
    ffn_hidden: Count
    gated_mlp: Switch = False
    vocab: Count
    seq_len: Count
    max_positions: CountOrZero = 0
    positions: Literal["learned", "rotary", "alibi", "none"] = "rotary"
    norm: Literal["layer_norm", "rms_norm"] = "rms_norm"
    bias: Switch = False
    qkv_bias: Switch = False
    qk_norm: Switch = False
    embedding_norm: Switch = False
    tied_embeddings: Switch = False
    dropout: Switch = False
    causal: Switch = True
    fused_qkv: Switch = True
    fused_element_wise: Switch = False
    head: Switch = True
    latent: LatentAttention | None = None
    moe: Experts | None = None

    sample_name: ClassVar[str] = "token"
    pipelined: ClassVar[bool] = True

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.head_dim is None and self.hidden % self.heads:
            raise ValueError(f"hidden = {self.hidden} must be a multiple of heads = {self.heads}, or give head_dim")
        if self.heads % self.groups:
            raise ValueError(f"heads = {self.heads} must be a multiple of kv_heads = {self.groups}")
        if self.moe and self.moe.dense_layers > self.layers:
            raise ValueError(f"moe.dense_layers = {self.moe.dense_layers} must not exceed layers = {self.layers}")
        return self

    @property
    def groups(self) -> Array:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def width(self) -> Array:
        """Dimension of one attention head."""
        return self.hidden / self.heads if self.head_dim is None else self.head_dim

    @property
    def units_per_sample(self) -> Array:
        return self.seq_len

    @property
    def depth(self) -> Array:
        return self.layers

    @property
    def moe_layers(self) -> Array:
        """Layers whose MLP is a mixture of experts."""
        return (self.layers - self.moe.dense_layers) // self.moe.interval if self.moe else 0

    def _norm_size(self) -> Array:
        return self.hidden * np.where(np.equal(self.norm, "layer_norm"), 2, 1)

    # -- parameters ------------------------------------------------------------------------------------------

    def attention_parameters(self) -> Array:
        """Parameters of one attention block, its norm included."""
        h, a, g, d = self.hidden, self.heads, self.groups, self.width
        if self.latent:
            z = self.latent
            query = h * z.query_rank + z.query_rank * (1 + a * (z.nope_dim + z.rope_dim))
            if not np.any(z.query_rank):
                query = h * a * (z.nope_dim + z.rope_dim)
            kv = h * (z.kv_rank + z.rope_dim) + z.kv_rank * (1 + a * (z.nope_dim + z.value_dim))
            return query + kv + a * z.value_dim * h + self._norm_size()
        qkv = (h + np.where(self.bias | self.qkv_bias, 1, 0)) * (a + 2 * g) * d
        return qkv + a * d * h + np.where(self.bias, h, 0) + np.where(self.qk_norm, 2 * d, 0) + self._norm_size()

    def _mlp_parameters(self, width: Array) -> Array:
        up = np.where(self.gated_mlp, 2, 1)
        return (up + 1) * self.hidden * width + np.where(self.bias, up * width + self.hidden, 0)

    def _expert_parameters(self, experts: Array) -> Array:
        """Parameters of a mixture-of-experts MLP with that many routed experts counted."""
        if not self.moe:
            return 0
        router = self.hidden * self.moe.experts
        shared = np.where(np.greater(self.moe.shared_hidden, 0), self._mlp_parameters(self.moe.shared_hidden), 0)
        return router + experts * self._mlp_parameters(self.moe.hidden) + shared

    def _count(self, experts: Array) -> Array:
        dense, sparse = self.layers - self.moe_layers, self.moe_layers
        body = self.layers * (self.attention_parameters() + self._norm_size())
        body = body + dense * self._mlp_parameters(self.ffn_hidden) + sparse * self._expert_parameters(experts)
        tables = np.where(self.head & np.logical_not(self.tied_embeddings), 2, 1)
        positions = np.where(np.equal(self.positions, "learned"), self.positions_kept * self.hidden, 0)
        norms = self._norm_size() * (1 + np.where(self.embedding_norm, 1, 0))
        return body + tables * self.vocab * self.hidden + positions + norms

    @property
    def positions_kept(self) -> Array:
        return self.max_positions or self.seq_len

    def parameters(self) -> Array:
        return self._count(self.moe.experts if self.moe else 0)

    def active_parameters(self) -> Array:
        return self._count(self.moe.top_k if self.moe else 0)

    def forward_flops(self) -> Array:
        """2 FLOP per active matrix parameter and token, plus attention 2·s²·a·(d_qk + d_v) per layer, in full."""
        inert = self.vocab * self.hidden * np.where(self.head, 1, 0)
        inert = np.where(self.head & np.logical_not(self.tied_embeddings), inert, 0)
        inert = inert + np.where(self.head, 0, self.vocab * self.hidden)
        inert = inert + np.where(np.equal(self.positions, "learned"), self.positions_kept * self.hidden, 0)
        return 2.0 * (self.active_parameters() - inert) * self.seq_len + self.layers * core_flops(self)

    def divisibility(self) -> dict[str, tuple[Any, str]]:
        rules = {"heads": (self.heads, "attention heads"), "ffn_hidden": (self.ffn_hidden, "MLP columns")}
        return rules

    # -- lowering --------------------------------------------------------------------------------------------

    def lower(self, shard: Shard) -> tuple[Block, ...]:
        attention = attention_ops(self, shard)
        boundary = self.tokens(shard) * self.hidden * shard.element / self.sequence_split(shard)
        dense = Block("layer", (*attention, *self._mlp_ops(shard)), self.layers - self.moe_layers, "body", boundary)
        blocks = [self._embedding(shard)]
        if not self.moe or np.any(self.moe.dense_layers) or np.any(self.moe.interval > 1):
            blocks.append(dense)
        if self.moe:
            sparse = (*attention, *moe_ops(self, shard))
            blocks.append(Block("moe_layer", sparse, self.moe_layers, "body", boundary))
        blocks.append(self._head(shard))
        return tuple(blocks)

    def tokens(self, shard: Shard) -> Array:
        """Tokens of a micro-batch on one device: b·s/cp."""
        return shard.micro_batch * self.seq_len / shard.cp

    @staticmethod
    def sequence_split(shard: Shard) -> Array:
        """By what norms, dropout and layer inputs are divided: tp under sequence parallelism, else 1."""
        return np.where(shard.sequence_parallel, shard.tp, 1)

    def norm_op(self, name: str, shard: Shard) -> Op:
        """Residual add and norm in one pass: two reads and a write of the activation; saves its input."""
        size = self.tokens(shard) * self.hidden * shard.element / self.sequence_split(shard)
        return element_wise(name, 3 * size, flops=5 * size / shard.element, weights=self._norm_size(), saved=size)

    @property
    def unfused(self) -> Array:
        """1 where element-wise kernels run on their own, 0 where they are fused into GEMMs."""
        return np.where(self.fused_element_wise, 0.0, 1.0)

    def dropout_mask(self, shard: Shard) -> Array:
        """One byte an element, kept where the model trains with dropout."""
        return np.where(self.dropout, self.tokens(shard) * self.hidden / self.sequence_split(shard), 0.0)

    def entering(self, shard: Shard, size: Array) -> tuple[Collective, ...]:
        """Collectives of a column-parallel layer's input (Megatron's f): gather forward, reduce backward."""
        sp = shard.sequence_parallel
        return (
            Collective("forward", "all_gather", np.where(sp, size, 0.0), "tp"),
            Collective("input_grad", "reduce_scatter", np.where(sp, size, 0.0), "tp"),
            Collective("input_grad", "all_reduce", np.where(sp, 0.0, size), "tp"),
        )

    def leaving(self, shard: Shard, size: Array) -> tuple[Collective, ...]:
        """Collectives of a row-parallel layer's output (Megatron's g): reduce forward, gather backward."""
        sp = shard.sequence_parallel
        return (
            Collective("forward", "reduce_scatter", np.where(sp, size, 0.0), "tp"),
            Collective("forward", "all_reduce", np.where(sp, 0.0, size), "tp"),
            Collective("input_grad", "all_gather", np.where(sp, size, 0.0), "tp"),
        )

    def mlp(self, shard: Shard, width: Array, prefix: str = "mlp") -> tuple[Op, ...]:
        """Column-parallel up (and gate), activation, row-parallel down."""
        t, h, e = self.tokens(shard), self.hidden, shard.element
        f, size, split = width / shard.tp, t * h * e, self.sequence_split(shard)
        up = np.where(self.gated_mlp, 2, 1)
        hidden_bytes = t * f * e
        return (
            linear(
                f"{prefix}_up",
                t,
                h,
                up * f,
                element=e,
                bias=np.where(self.bias, up * f, 0),
                saved=size / split,
                collectives=self.entering(shard, size),
            ),
            element_wise(
                f"{prefix}_activation",
                self.unfused * (up + 1) * hidden_bytes,
                flops=10 * t * f,
                saved=up * hidden_bytes,
                backward=1.5,
            ),
            linear(
                f"{prefix}_down",
                t,
                f,
                h,
                element=e,
                bias=np.where(self.bias, h, 0),
                saved=hidden_bytes + self.dropout_mask(shard),
                collectives=self.leaving(shard, size),
            ),
        )

    def _mlp_ops(self, shard: Shard) -> tuple[Op, ...]:
        return (self.norm_op("mlp_norm", shard), *self.mlp(shard, self.ffn_hidden))

    def _embedding(self, shard: Shard) -> Block:
        """Token (and position) lookup, table split over tp by vocabulary."""
        size = self.tokens(shard) * self.hidden * shard.element
        rows = self.vocab / shard.tp + np.where(np.equal(self.positions, "learned"), self.positions_kept, 0)
        lookup = Op(
            "embedding",
            "lookup",
            forward=Stream(2 * size),
            input_grad=Stream(2 * size),
            weights=rows * self.hidden + np.where(self.embedding_norm, self._norm_size(), 0),
            saved=self.dropout_mask(shard),
            collectives=self.leaving(shard, size)[:2],
        )
        return Block("embedding", (lookup,), 1, "first")

    def _head(self, shard: Shard) -> Block:
        """Final norm, logits over the tp-split vocabulary, and the loss in 32-bit."""
        norm = self.norm_op("final_norm", shard)
        if not self.head:
            return Block("head", (norm,), 1, "last")
        t, v, size = self.tokens(shard), self.vocab / shard.tp, self.tokens(shard) * self.hidden * shard.element
        logits = linear(
            "logits",
            t,
            self.hidden,
            v,
            element=shard.element,
            wide=True,
            saved=size / self.sequence_split(shard),
            collectives=self.entering(shard, size),
        )
        loss = element_wise("loss", 3 * 4 * t * v, flops=5 * t * v, saved=4 * t * v)
        return Block("head", (norm, logits, loss), 1, "last")
