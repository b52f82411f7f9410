"""COMET's timing: the whole batch of a replica in one pass, layer by layer, with its blocking rules.

The quantities here replace those of the Megatron-style step. Source of the rules: the loops of the simulator that the
paper's authors published, as described in the COMET notes: forward collectives block; an input-gradient collective
overlaps the weight-gradient compute of its own layer; weight-gradient collectives queue behind one another, overlap
all remaining backward work, and the next forward pass waits for the last of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dse.cost.arrays import Array, select, total
from dse.cost.graph import quantity
from dse.cost.memory import GRADIENT_BYTES
from dse.cost.network import Links
from dse.spec.workload.op import Block, Op, Shard

_SOURCE = "COMET's simulator (ASTRA-sim 1.0 training loop), re-derived closed form"


@dataclass(frozen=True)
class Row:
    """One layer of the loop: compute of the three phases and its collectives, all in seconds."""

    name: str
    forward: Array
    input_grad: Array
    weight_grad: Array
    forward_comm: Array
    input_comm: Array
    weight_comm: Array
    exchange_forward: Array = 0.0
    exchange_backward: Array = 0.0


@quantity("1", "global_batch / dp")
def batch_per_pass(global_batch: Array, data_parallel: Array) -> Array:
    """Samples of one replica: COMET does not cut the batch into micro-batches."""
    return global_batch / data_parallel


@quantity("1", "1")
def micro_batches(pp: Array) -> Array:
    """One pass per step."""
    return 1.0


@quantity("", "the stacks of the model lowered to operators")
def blocks(model: Any, shard: Shard) -> tuple[Block, ...]:
    """COMET's layer list: the repeated stacks only. Embedding and logits count as parameters, not as layers."""
    return tuple(block for block in model.lower(shard) if block.place == "body")


@quantity("1", "Ψ = P / tp", source="ZeRO; COMET §5 as known")
def stage_parameters(model: Any, tp: Array, blocks: tuple[Block, ...]) -> dict[str, dict[str, Array]]:
    """Parameters per device: the model's count over the model-parallel degree (look-up tables apart)."""
    tables = model.table_parameters() if model.family == "dlrm" else 0.0
    parameters = (model.parameters() - tables) / tp
    held: dict[str, Array] = {"dense": parameters, "expert": 0.0}
    return {"first": held, "last": held}


@quantity(
    "B",
    "b·s·(16·H + 2·h·s) / tp while a layer is recomputed; + 4·H·4·H / tp under ZeRO-3",
    source="ZeRO-Infinity §3; COMET §5 as known",
)
def working_bytes(
    model: Any, blocks: tuple[Block, ...], batch_per_pass: Array, recompute: Array, tp: Array, zero_stage: Array
) -> Array:
    """Working memory of activations between two checkpoints (AWM), and of the largest gathered layer's states."""
    if model.family != "transformer":
        return 0.0
    s = model.seq_len
    layer = batch_per_pass * s * (16.0 * model.hidden + 2.0 * model.heads * s) / tp
    gathered = np.where(np.greater_equal(zero_stage, 3), 4.0 * model.hidden * 4.0 * model.hidden / tp, 0.0)
    return select(recompute, {"none": 0.0, "selective": layer, "full": layer}) + gathered


@quantity("s", "roofline and collective times of each layer", source=_SOURCE)
def comet_rows(
    blocks: tuple[Block, ...],
    operator_times: dict[str, Array],
    links: Links,
    gradient_precision: Array,
    zero_stage: Array,
) -> list[tuple[Block, list[Row]]]:
    """The layers of each block, in execution order."""
    width = select(gradient_precision, GRADIENT_BYTES)
    return [(b, [_row(b, op, operator_times, links, width, zero_stage) for op in b.ops]) for b in blocks]


def _row(block: Block, op: Op, times: dict[str, Array], links: Links, width: Array, zero_stage: Array) -> Row:
    def compute(phase: str) -> Array:
        return times.get(f"{block.name}.{op.name}.{phase}", 0.0)

    def comm(phase: str, exchange: bool) -> Array:
        return total(
            links.time(c.kind, c.group, c.bytes)
            for c in op.collectives
            if c.phase == phase and (c.group == "all") == exchange
        )

    group = "expert_grad" if op.expert else "grad"
    size = op.weights * width
    reduce: Array = 0.0
    if np.any(size):
        # ZeRO 1 and 2 reduce-scatter and gather: the volume of an all-reduce. Stage 3 gathers once more.
        gather = np.where(np.greater_equal(zero_stage, 3), links.time("all_gather", group, size), 0.0)
        reduce = links.time("all_reduce", group, size) + gather
    return Row(
        op.name,
        compute("forward"),
        compute("input_grad"),
        compute("weight_grad"),
        comm("forward", False),
        comm("input_grad", False),
        reduce,
        comm("forward", True),
        comm("input_grad", True),
    )


@dataclass
class _Backward:
    """Clock of the backward pass and of the queue of weight-gradient collectives."""

    clock: Array = 0.0
    queue: Array = 0.0

    def advance(self, rows: list[Row], count: Array) -> None:
        """Run ``count`` equal copies of these rows, last row first.

        One copy is a max-plus map of (clock, queue): the clock grows by d, the queue's end becomes
        max(queue + q, clock + g) with q the sum of its collectives. After n copies the queue ends at
        max(queue + n·q, clock + g + (n−1)·max(d, q)), because what lies between is linear in the copy's index.
        """
        inner = _Backward()
        inner.queue = -np.inf
        for row in reversed(rows):
            issued = inner.clock + row.input_grad + row.weight_grad
            inner.clock = inner.clock + row.input_grad + np.maximum(row.weight_grad, row.input_comm)
            busy = np.greater(row.weight_comm, 0)
            inner.queue = np.where(busy, np.maximum(inner.queue, issued) + row.weight_comm, inner.queue)
        load = total(row.weight_comm for row in rows)
        later = inner.queue + np.maximum(count - 1.0, 0.0) * np.maximum(inner.clock, load)
        self.queue = np.where(
            np.greater(count, 0), np.maximum(self.queue + count * load, self.clock + later), self.queue
        )
        self.clock = self.clock + count * inner.clock


@quantity("s", "terms of one pass; see the module", source=_SOURCE)
def breakdown(model: Any, comet_rows: list[tuple[Block, list[Row]]], recompute: Array) -> dict[str, Array]:
    """Where the time of a step goes: compute of each phase and exposed communication of each kind."""
    rows = [(block, row) for block, layer in comet_rows for row in layer]

    def over(field: str, *, body: bool = False) -> Array:
        return total(b.count * getattr(r, field) for b, r in rows if b.place == "body" or not body)

    again = select(recompute, {"none": 0.0, "selective": 0.0, "full": 1.0})
    if model.family == "dlrm":
        exchange, tail = _dlrm_exposed([row for _, row in rows])
    else:
        exchange, tail = over("exchange_forward") + over("exchange_backward"), _tail(comet_rows, recompute)
    waits = total(b.count * np.maximum(r.input_comm - r.weight_grad, 0.0) for b, r in rows)
    return {
        "forward": over("forward"),
        "recompute": again * over("forward", body=True),
        "input_grad": over("input_grad"),
        "weight_grad": over("weight_grad"),
        "tp_comm_forward": over("forward_comm") + again * over("forward_comm", body=True),
        "tp_comm_backward": waits,
        "ep_comm": exchange,
        "dp_comm": tail,
    }


def _tail(layers: list[tuple[Block, list[Row]]], recompute: Array) -> Array:
    """Weight-gradient communication left when the backward pass ends (the next forward pass waits for it)."""
    again = select(recompute, {"none": 0.0, "selective": 0.0, "full": 1.0})
    state = _Backward()
    for block, rows in reversed(layers):
        replay = again * total(r.forward + r.forward_comm for r in rows) if block.place == "body" else 0.0
        # The replay runs before the block's last row: it delays everything in this copy alike.
        head = Row("replay", 0.0, replay, 0.0, 0.0, 0.0, 0.0)
        state.advance([*rows, head], block.count)
    return np.maximum(state.queue - state.clock, 0.0)


def _dlrm_exposed(rows: list[Row]) -> tuple[Array, Array]:
    """Exposed all-to-all and weight-gradient tail of COMET's DLRM loop.

    Forward: the pooled embeddings travel while the bottom MLP runs. Backward, per row: weight gradient, issue its
    all-reduce, input gradient; after the first top row the embedding gradients travel, at the highest priority, while
    the bottom MLP runs backward.
    """
    embedding = rows[0]
    bottom = [row for row in rows if row.name.startswith("bottom_")]
    top = [row for row in rows[1:] if row not in bottom]
    forward = np.maximum(embedding.exchange_forward - total(r.forward for r in bottom), 0.0)
    clock: Array = 0.0
    queue: Array = 0.0
    for row in (*reversed(top), *reversed(bottom)):
        if bottom and row is bottom[-1]:
            issued = clock
            queue = np.maximum(queue, clock) + embedding.exchange_backward
        clock = clock + row.weight_grad
        queue = np.maximum(queue, clock) + row.weight_comm
        clock = clock + row.input_grad
    waiting = np.maximum(issued + embedding.exchange_backward - clock, 0.0) if bottom else embedding.exchange_backward
    clock = clock + waiting + embedding.input_grad
    return forward + waiting, np.maximum(queue - clock, 0.0)


@quantity("s", "Σ breakdown")
def step_time(breakdown: dict[str, Array]) -> Array:
    """Time of one training step."""
    return total(breakdown.values())
