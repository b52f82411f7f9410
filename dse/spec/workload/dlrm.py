"""Deep-learning recommendation models: embedding tables split over all devices, MLPs replicated."""

from __future__ import annotations

from typing import ClassVar, Literal

from dse.spec.fields import Count
from dse.spec.workload.base import Model
from dse.spec.workload.op import Array, Block, Collective, Op, Shard, Stream, element_wise, linear


class DLRM(Model):
    """DLRM: ``tables`` of ``rows`` × ``dim``, ``pooling`` lookups a table and sample, bottom and top MLP.

    ``bottom_mlp`` and ``top_mlp`` list the widths from input to output. The interaction takes dot products of all
    pairs of feature vectors when ``interaction`` is "dot" and concatenates them when it is "concat".
    ``table_element_bytes`` is the size of an embedding value (4: FP32).
    """

    family: Literal["dlrm"] = "dlrm"
    tables: Count
    rows: Count
    dim: Count
    pooling: Count
    table_element_bytes: Count = 4
    bottom_mlp: tuple[Count, ...]
    top_mlp: tuple[Count, ...]
    interaction: Literal["dot", "concat"] = "dot"

    tensor_parallel: ClassVar[bool] = False

    def table_parameters(self) -> Array:
        """Embedding values in all tables."""
        return 1.0 * self.tables * self.rows * self.dim

    def _widths(self) -> tuple[list[tuple[Array, Array]], list[tuple[Array, Array]]]:
        top_in = self.interaction_width()
        bottom = list(zip(self.bottom_mlp[:-1], self.bottom_mlp[1:], strict=True))
        top = list(zip((top_in, *self.top_mlp[:-1]), self.top_mlp, strict=True))
        return bottom, top

    def interaction_width(self) -> Array:
        """Inputs of the top MLP: all pairs of (tables + 1) vectors and the dense one, or all vectors joined."""
        vectors = self.tables + 1
        if self.interaction == "dot":
            return vectors * (vectors - 1) / 2 + self.dim
        return vectors * self.dim

    def mlp_parameters(self) -> Array:
        bottom, top = self._widths()
        return sum(k * n + n for k, n in (*bottom, *top))

    def parameters(self) -> Array:
        return self.table_parameters() + self.mlp_parameters()

    def active_parameters(self) -> Array:
        return self.tables * self.pooling * self.dim + self.mlp_parameters()

    def forward_flops(self) -> Array:
        bottom, top = self._widths()
        pairs = 2.0 * (self.tables + 1) ** 2 * self.dim if self.interaction == "dot" else 0.0
        return sum(2.0 * k * n for k, n in (*bottom, *top)) + pairs

    def lower(self, shard: Shard) -> tuple[Block, ...]:
        """Row 0 the embedding, then bottom MLP, interaction, top MLP. Each device looks up its tables for the whole
        global batch and sends every other device the pooled vectors of that device's samples."""
        b, e = shard.micro_batch, shard.element
        lookups = b * self.tables * self.pooling * self.dim * self.table_element_bytes
        pooled = b * self.tables * self.dim * e
        exchange = (
            Collective("forward", "all_to_all", pooled, "all", blocking=False),
            Collective("input_grad", "all_to_all", pooled, "all", blocking=False),
        )
        # Backward: read the gradient, read and write every touched row.
        embedding = Op(
            "embedding",
            "lookup",
            forward=Stream(lookups + pooled),
            input_grad=Stream(2 * lookups + pooled),
            table_bytes=self.table_parameters() * self.table_element_bytes / shard.devices,
            saved=pooled,
            collectives=exchange,
        )
        bottom, top = self._widths()
        ops = [embedding, *self._mlp("bottom", bottom, b, e)]
        traffic = b * (self.tables + 1) * self.dim * e + b * self.interaction_width() * e
        flops = 2.0 * b * (self.tables + 1) ** 2 * self.dim if self.interaction == "dot" else 0.0
        ops.append(element_wise("interaction", traffic, flops=flops, saved=b * self.interaction_width() * e))
        ops.extend(self._mlp("top", top, b, e))
        return (Block("dlrm", tuple(ops), 1, "body"),)

    @staticmethod
    def _mlp(name: str, widths: list[tuple[Array, Array]], b: Array, e: Array) -> list[Op]:
        return [
            linear(f"{name}_mlp_{i}", b, k, n, element=e, bias=1.0 * n, saved=b * k * e)
            for i, (k, n) in enumerate(widths)
        ]
