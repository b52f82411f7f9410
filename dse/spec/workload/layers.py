"""A plain list of layers, from YAML or from a CSV file: the way in for any network that has no family of its own."""

from __future__ import annotations

import csv
import io
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.fields import Bytes, Count, Flop, Name, Number
from dse.spec.workload.base import Model
from dse.spec.workload.op import Array, Block, Collective, Fused, Gemm, Op, Phase, Shard, element_wise, linear

MAX_ROWS = 20_000
CollectiveName = Literal["none", "all_reduce", "reduce_scatter", "all_gather", "all_to_all"]


class Layer(Spec):
    """One row. ``m``, ``traffic`` and the collective sizes are per sample; k and n are the full (unsharded) sizes.

    ``shard`` splits a GEMM over tp: "column" divides n, "row" divides k and adds the forward all-reduce of its
    output, "none" replicates it. ``traffic`` is for element-wise and lookup rows, in bytes; a row of type "kernel"
    states the FLOP and traffic of a phase, the same in all three.
    """

    name: Name
    type: Literal["gemm", "batched_gemm", "element_wise", "lookup", "kernel"] = "gemm"
    m: Number = 0.0
    k: Number = 0.0
    n: Number = 0.0
    count: Count = 1
    repeat: Count = 1
    traffic: Bytes = 0.0
    work: Flop = 0.0
    parameters: Number | None = None
    shard: Literal["none", "column", "row"] = "none"
    forward_collective: CollectiveName = "none"
    forward_bytes: Bytes = 0.0
    input_grad_collective: CollectiveName = "none"
    input_grad_bytes: Bytes = 0.0

    @model_validator(mode="after")
    def _shape_given(self) -> Layer:
        if "gemm" in self.type and min(self.m, self.k, self.n) <= 0:
            raise ValueError(f"layer {self.name}: a {self.type} needs m, k and n above 0")
        if "gemm" not in self.type and self.traffic <= 0:
            raise ValueError(f"layer {self.name}: a layer of type {self.type} needs traffic above 0")
        return self

    @property
    def weights(self) -> Array:
        if self.parameters is not None:
            return self.parameters
        return self.k * self.n * self.count if self.type == "gemm" else 0.0

    @property
    def flops(self) -> Array:
        return self.work + 2.0 * self.m * self.k * self.n * self.count

    def op(self, shard: Shard) -> Op:
        """This row on one device."""
        b, e = shard.micro_batch, shard.element
        collectives = self._collectives(b, e)
        if self.type == "gemm":
            k = self.k / shard.tp if self.shard == "row" else self.k
            n = self.n / shard.tp if self.shard == "column" else self.n
            split = shard.tp if self.shard != "none" else 1
            op = linear(
                self.name,
                b * self.m,
                k,
                n,
                element=e,
                count=self.count,
                saved=b * self.m * k * self.count * e,
                collectives=collectives,
            )
            return Op(**{**op.__dict__, "weights": self.weights / split})
        if self.type == "batched_gemm":
            count, m, k, n = b * self.count, self.m, self.k, self.n
            return Op(
                self.name,
                "batched_gemm",
                Gemm(m, k, n, count, e),
                Gemm(m, n, k, count, e),
                Gemm(k, m, n, count, e),
                saved=count * (m * k + k * n) * e,
                collectives=collectives,
            )
        if self.type == "kernel":
            phase = Fused(b * self.work, b * self.traffic)
            return Op(self.name, "gemm", phase, phase, phase, weights=self.weights, collectives=collectives)
        return element_wise(
            self.name, b * self.traffic, weights=self.weights, saved=b * self.traffic / 2, collectives=collectives
        )

    def _collectives(self, b: Array, e: Array) -> tuple[Collective, ...]:
        found: list[Collective] = []
        given: tuple[tuple[Phase, str, Array], ...] = (
            ("forward", self.forward_collective, b * self.forward_bytes),
            ("input_grad", self.input_grad_collective, b * self.input_grad_bytes),
        )
        for phase, kind, size in given:
            if kind != "none":
                found.append(Collective(phase, kind, size, "tp"))  # type: ignore[arg-type]
        if self.shard == "row" and self.forward_collective == "none":
            found.append(Collective("forward", "all_reduce", b * self.m * self.n * self.count * e, "tp"))
        if self.shard == "column" and self.input_grad_collective == "none":
            found.append(Collective("input_grad", "all_reduce", b * self.m * self.k * self.count * e, "tp"))
        return tuple(found)


class LayerList(Model):
    """Layers in execution order, given as ``layers`` in YAML or as ``csv: FILE`` with a column for each field."""

    family: Literal["layers"] = "layers"
    layers: tuple[Layer, ...]

    tensor_parallel: ClassVar[bool] = True

    @model_validator(mode="before")
    @classmethod
    def _rows_from_csv(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("csv"), str):
            rest = {key: value for key, value in data.items() if key != "csv"}
            return {**rest, "layers": read_csv(Path(data["csv"]))}
        return data

    def parameters(self) -> Array:
        return sum(layer.weights * layer.repeat for layer in self.layers)

    def forward_flops(self) -> Array:
        return sum(layer.flops * layer.repeat for layer in self.layers)

    def lower(self, shard: Shard) -> tuple[Block, ...]:
        return tuple(Block(layer.name, (layer.op(shard),), layer.repeat) for layer in self.layers)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a layer table; empty cells take the field's default.

    Raises:
        SpecError: the file cannot be read, or has no header.
    """
    try:
        if path.stat().st_size > 10_000_000:
            raise SpecError([Fault("csv", "", "is larger than 10 MB", str(path))])
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError([Fault("csv", "", f"cannot be read: {error}"[:200], str(path))]) from None
    try:
        rows = list(islice(csv.DictReader(io.StringIO(text)), MAX_ROWS + 1))
    except csv.Error as error:
        raise SpecError([Fault("csv", "", f"is not a table: {error}"[:200], str(path))]) from None
    if len(rows) > MAX_ROWS:
        raise SpecError([Fault("csv", "", f"has more than {MAX_ROWS:,} rows", str(path))])
    if not rows or None in rows[0]:
        raise SpecError([Fault("csv", "", "must have a header line and at least one row of the same width", str(path))])
    return [
        {key.strip(): value.strip() for key, value in row.items() if key and value and value.strip()} for row in rows
    ]
