"""One design as the generator sees it: plain numbers of the cost model, layers dealt to stages, groups of ranks."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from dse.cost.arrays import select
from dse.cost.compute import GRADIENT_BYTES
from dse.cost.memory import WEIGHT_BYTES
from dse.cost.placement import tier_table
from dse.errors import Fault, SpecError
from dse.explore.result import Result
from dse.spec.workload.op import Block
from dse.trace.columns import Ints
from dse.trace.generate.parts import Comm

# Label of a group in a trace, by its name in the cost model ("" is all ranks).
LABELS = {
    "tp": "tp", "cp": "cp", "ep": "ep", "grad": "dp", "expert_grad": "expert_dp", "shard": "shard", "copies": "copies",
    "all": "",
}  # fmt: skip
NEEDED = frozenset({"memory_fits", "precision_supported"})  # rules that a design may break and still be laid out


class Design:
    """Numbers of a single priced design.

    Raises:
        SpecError: the result has axes, uses COMET's timing model (which has no schedule of passes), or breaks a rule
            without which ranks, layers or batches cannot be dealt out.
    """

    def __init__(self, result: Result) -> None:
        if result.axes:
            raise SpecError([Fault("result", "", "has axes; a trace is of one design, chosen with .at(...)")])
        strategy: Any = result.specs["strategy"]
        if strategy.execution != "megatron":
            rule = "has no schedule of passes; traces are of execution = megatron"
            raise SpecError([Fault("strategy.execution", repr(strategy.execution), rule)])
        broken = [reason for reason in result.reasons() if reason["rule"] not in NEEDED]
        if broken:
            raise SpecError([Fault(reason["rule"], "", reason["why"]) for reason in broken])
        self.result, self.strategy = result, strategy
        self.of = result.cells[0].evaluation
        self.model: Any = self.of["model"]
        self.stack: Any = self.of["stack"]
        self.tp, self.cp, self.pp, self.ep = (int(getattr(strategy, name)) for name in ("tp", "cp", "pp", "ep"))
        self.dp, self.devices = int(self.of["data_parallel"]), int(self.of["devices"])
        self.virtual, self.batches = int(strategy.virtual_stages), int(self.of["micro_batches"])
        self.zero, self.schedule, self.recompute = int(strategy.zero_stage), strategy.schedule, strategy.recompute
        self.split = self.schedule.startswith("zero_bubble")
        self.blocks: list[Block] = [block for block in self.of["blocks"] if int(block.count)]
        replicas, group = self.dp * self.cp, int(self.of["zero_ranks"]["dense"])
        self.ranks = {
            "tp": self.tp, "cp": self.cp, "ep": self.ep, "grad": replicas, "expert_grad": replicas // self.ep,
            "shard": group, "copies": replicas // group, "all": self.devices, "pp": self.pp,
        }  # fmt: skip
        self.widths = {
            "gradients": float(select(strategy.gradient_precision, GRADIENT_BYTES)),
            "weights": float(select(strategy.precision, WEIGHT_BYTES)),
        }
        self.overlap_pp = bool(self.of["overlap_pp"])

    def number(self, name: str) -> float:
        """A quantity of the cost model."""
        return float(self.of[name])

    # -- communication -----------------------------------------------------------------------------------------

    def comms(self, name: str, kind: str, group: str, size: float, pieces: int = 1) -> list[Comm]:
        """A collective of ``size`` bytes, in that many pieces; none where the group or the buffer is empty."""
        if self.ranks[group] < 2 or size <= 0:
            return []
        seconds = float(self.of["links"].time(kind, group, size / pieces))
        return [Comm(f"{name}.{i}" if pieces > 1 else name, kind, group, size / pieces, seconds) for i in range(pieces)]

    @cached_property
    def share(self) -> float:
        """Of compute behind which communication of data parallelism hides."""
        return float(self.strategy.overlap_efficiency * self.stack.overlap) if self.strategy.overlap_dp else 0.0

    @cached_property
    def stretch(self) -> float:
        """How much longer passes are with the loads and stores that are part of them (overlapped ones stretch them too,
        but as waits, which the simulation finds)."""
        busy = self.batches * self.number("mean_stage_time")
        return 1.0 if self.strategy.overlap_offload or not busy else 1.0 + self.number("offload") / busy

    def window(self, terms: Any, side: str) -> float:
        """Seconds of a forward or backward pass, of which ``terms`` are the terms, behind which collectives hide."""
        names = ["forward", "host_forward", "tp_comm_forward"]
        if side == "backward":
            names = ["input_grad", "weight_grad", "recompute", "host_backward", "tp_comm_backward"]
        return self.share * self.stretch * sum(float(terms[name]) for name in names)

    def interference(self, seconds: float, window: float) -> float:
        """Seconds by which so much communication slows the compute it hides behind."""
        return float(self.stack.interference) * min(seconds, window)

    # -- layers ------------------------------------------------------------------------------------------------

    @cached_property
    def layers(self) -> list[tuple[str, Block]]:
        """Name and block of every instance of the body's blocks, in the order in which they run."""
        body = [block for block in self.blocks if block.place == "body"]
        if not self.model.pipelined:
            return [(f"{b.name}.{i}" if b.count > 1 else b.name, b) for b in body for i in range(int(b.count))]
        sparse = next((block for block in body if block.name == "moe_layer"), body[0])
        kinds = [body[0]] * int(self.model.depth)
        if len(body) > 1:
            first, step = int(self.model.moe.dense_layers), int(self.model.moe.interval)
            for i in range(first + step - 1, first + step * int(sparse.count), step):
                kinds[i] = sparse
        return [(f"layer{i}", block) for i, block in enumerate(kinds)]

    @cached_property
    def dealt(self) -> Ints:
        """First layer of every slice of the model, and one past the last: shape [virtual · pp + 1].

        Slice c · pp + s is virtual stage c of stage s. Where layers are left over, every stage takes one before any
        takes two: those in the middle first, as the cost model has it, then the end with less besides.
        """
        slices = self.pp * self.virtual
        few, more = divmod(len(self.layers), slices)
        ends = {place: sum(float(t) for t in self.of["pass_terms"][place].values()) for place in ("first", "last")}
        outer = [0, self.pp - 1] if ends["first"] <= ends["last"] else [self.pp - 1, 0]
        preferred = [*range(1, self.pp - 1), *outer]
        takers = [chunk * self.pp + stage for chunk in range(self.virtual) for stage in preferred][:more]
        counts = np.full(slices, few, np.int64)
        counts[takers] += 1
        return np.concatenate([[0], np.cumsum(counts)])

    def instances(self, stage: int, chunk: int) -> list[tuple[str, Block]]:
        """Blocks of a virtual stage in forward order, the embedding and the head where they belong."""
        at = chunk * self.pp + stage
        first = [(b.name, b) for b in self.blocks if b.place == "first" and at == 0]
        last = [(b.name, b) for b in self.blocks if b.place == "last" and at == self.pp * self.virtual - 1]
        return [*first, *self.layers[self.dealt[at] : self.dealt[at + 1]], *last]

    def parameters(self, block: Block) -> dict[str, float]:
        """Parameters of an instance of a block on one device that the optimizer sees: dense and expert."""
        tied = bool(getattr(self.model, "tied_embeddings", False)) and self.pp == 1
        if tied and block.place == "last":
            return {"dense": 0.0, "expert": 0.0}
        return {
            kind: sum(float(op.weights) for op in block.ops if op.expert == expert)
            for kind, expert in (("dense", False), ("expert", True))
        }

    def stage_parameters(self, stage: int) -> dict[str, float]:
        """The same of a whole stage."""
        found = [self.parameters(b) for chunk in range(self.virtual) for _, b in self.instances(stage, chunk)]
        return {kind: sum(part[kind] for part in found) for kind in ("dense", "expert")}

    # -- offload -----------------------------------------------------------------------------------------------

    def tier(self, what: str) -> str:
        """Memory tier of a tensor class; "" where it is the device's own."""
        name = str(getattr(self.strategy, f"offload_{what}"))
        return name if name != "local" and name in tier_table(self.of["cluster"]) else ""

    def state_bytes(self, what: str, parameters: dict[str, float]) -> float:
        """Bytes of weights or gradients of these parameters, sharded as ZeRO does."""
        first, ranks = self.of["stage_parameters"]["first"], self.of["zero_ranks"]
        sharded = self.zero >= {"weights": 3, "gradients": 2}[what]
        local = {
            name: sum(float(p[k]) / (float(ranks[k]) if sharded else 1.0) for k in p)
            for name, p in (("whole", first), ("part", parameters))
        }
        return float(self.of["model_states"]["first"][what]) * local["part"] / max(local["whole"], 1.0)
