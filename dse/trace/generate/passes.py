"""One pass of one micro-batch through one virtual stage, as a chain of nodes: the template of all passes of its kind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from dse.explore.timeline import BACKWARD, FORWARD, WEIGHT
from dse.spec.workload.op import Block
from dse.trace.generate import parts
from dse.trace.generate.chain import Chain, Outside, Piece, collective
from dse.trace.generate.design import Design
from dse.trace.generate.parts import Comm, Part
from dse.trace.schema import Kind

PHASES = ("forward", "backward", "weight_grad")


@dataclass(frozen=True)
class Place:
    """Which pass it is: stage, virtual stage, and kind (FORWARD, BACKWARD, WEIGHT)."""

    stage: int
    chunk: int
    kind: int

    @property
    def phase(self) -> str:
        return PHASES[self.kind]


class Passes:
    """Makes the passes of a design at a level of detail: "operator", "block" or "pass"."""

    def __init__(self, design: Design, detail: str) -> None:
        self.design, self.detail = design, detail
        self.part = cache(self._part)

    def chain(self, place: Place, *, final: bool = False) -> Chain:
        """The nodes of a pass. ``final``: the last of the step, after which no parameters need be gathered."""
        design = self.design
        chain = self._received(place)
        instances = design.instances(place.stage, place.chunk)
        if place.kind != FORWARD:
            instances.reverse()
        if self.detail == "pass":
            self._whole(chain, place, instances, final)
        else:
            for index, (name, block) in enumerate(instances):
                last = final and not any(b.place == "body" for _, b in instances[index + 1 :])
                self._instance(chain, place, name, block, last)
        if design.zero == 2 and place.kind == (WEIGHT if design.split else BACKWARD):
            self._hide(chain, 0, self.reductions(place.stage), self._pass_window("backward"), "gradients.host")
        self._sent(chain, place)
        return chain

    # -- what a pass consists of -------------------------------------------------------------------------------

    def _part(self, block: Block, kind: int, repeat: bool) -> Part:
        """A block's part of a pass, in the detail asked for."""
        make = parts.again if repeat else (parts.forward, parts.backward, parts.weight_grad)[kind]
        part = make(self.design, block)
        return part if self.detail == "operator" else parts.merged([part], collectives=False)

    def _instance(self, chain: Chain, place: Place, name: str, block: Block, last: bool) -> None:
        """One block instance, with its offloaded tensors and, under ZeRO-3, its parameters and gradients."""
        start = len(chain.spine)
        self._load(chain, place, [(name, block)], name)
        if place.kind == BACKWARD:
            chain.emit(self.part(block, FORWARD, True), f"{name}.recompute")
        chain.emit(self.part(block, place.kind, False), f"{name}.{place.phase}")
        if self.design.zero == 3 and block.place == "body":
            self._sharded(chain, start, place, name, self._window(block, place), 1, last)
        self._store(chain, place, [(name, block)], name)

    def _whole(self, chain: Chain, place: Place, instances: list[tuple[str, Block]], final: bool) -> None:
        """A whole pass as one piece of work, and one collective of each kind and group."""
        where = f"chunk{place.chunk}" if self.design.virtual > 1 else "pass"
        self._load(chain, place, instances, where)
        if place.kind == BACKWARD:
            repeated = [self.part(block, FORWARD, True) for _, block in instances]
            chain.emit(parts.merged(repeated, collectives=True), f"{where}.recompute")
        found = [self.part(block, place.kind, False) for _, block in instances]
        chain.emit(parts.merged(found, collectives=True), f"{where}.{place.phase}")
        body = [block for _, block in instances if block.place == "body"]
        if self.design.zero == 3:
            window = sum(self._window(block, place) for block in body)
            self._sharded(chain, 0, place, where, window, len(body), final)
        self._store(chain, place, instances, where)

    # -- between stages ----------------------------------------------------------------------------------------

    def _hop(self) -> tuple[float, list[Comm], float, float]:
        """Bytes that a rank sends to the next stage, what gathers them there, and seconds of hop and host."""
        design = self.design
        boundary = max((float(block.boundary) for block in design.blocks), default=0.0)
        sharded = bool(design.strategy.sequence_parallel)
        size = boundary if sharded else boundary / design.tp
        whole = [] if sharded else design.comms("gather", "all_gather", "tp", boundary)
        return size, whole, float(design.of["links"].time("point_to_point", "pp", size)), float(design.stack.hop)

    def _ends(self, place: Place) -> tuple[int, int]:
        """Position of the slice of the model, counted in the direction of the pass, and of the last one."""
        at, last = place.chunk * self.design.pp + place.stage, self.design.pp * self.design.virtual - 1
        return (at if place.kind == FORWARD else last - at), last

    def _received(self, place: Place) -> Chain:
        """The start of a pass: what it waits for. A receive is posted while the pass before runs."""
        design, chain = self.design, Chain([Outside.PREVIOUS])
        if place.kind != FORWARD:
            chain.flow = [Outside.MATCH]
        at, _ = self._ends(place)
        if place.kind == WEIGHT or at == 0:
            return chain
        size, gathers, _, host = self._hop()
        step = -1 if place.kind == FORWARD else 1
        peer = step if 0 <= place.stage + step < design.pp else -step * (design.pp - 1)
        name = f"chunk{place.chunk}.{place.phase}" if design.virtual > 1 else place.phase
        tag = 2 * place.chunk * design.batches + (place.kind == BACKWARD)
        receive = Piece(f"{name}.receive", Kind.RECV, stream="pp", peer=peer, tag=tag, size=size)
        receive.ctrl = [Outside.BEFORE]
        arrived = chain.float(receive)
        for comm in gathers:
            gather = collective(f"{name}.gather", comm)
            if design.overlap_pp:
                gather.data, arrived = [arrived], chain.float(gather)
            else:
                arrived = chain.add(gather, data=[arrived])
        chain.flow = [arrived, *(chain.flow if place.kind != FORWARD else [])]
        if not design.overlap_pp:
            self._wait_for(chain, arrived)
            chain.idle(f"{name}.hop", host)
        return chain

    @staticmethod
    def _wait_for(chain: Chain, arrived: Piece) -> None:
        if arrived not in chain.wait:
            chain.wait = [*chain.wait, arrived]

    def _sent(self, chain: Chain, place: Place) -> None:
        """The end of a pass: the next one waits for the send unless the design overlaps it."""
        at, last = self._ends(place)
        if place.kind == WEIGHT or at == last:
            return
        design = self.design
        size, _, seconds, _ = self._hop()
        step = 1 if place.kind == FORWARD else -1
        inside = 0 <= place.stage + step < design.pp
        peer, chunk = (step, place.chunk) if inside else (-step * (design.pp - 1), place.chunk + step)
        name = f"chunk{place.chunk}.{place.phase}" if design.virtual > 1 else place.phase
        tag = 2 * chunk * design.batches + (place.kind == BACKWARD)
        send = Piece(f"{name}.send", Kind.SEND, seconds, stream="pp", peer=peer, tag=tag, size=size)
        if design.overlap_pp:
            send.data = [one for one in dict.fromkeys([*chain.flow]) if isinstance(one, Piece)]
            chain.float(send)
        else:
            chain.add(send, passes_on=False)

    # -- data parallelism --------------------------------------------------------------------------------------

    def _window(self, block: Block, place: Place) -> float:
        return self.design.window(self.design.of["layer_terms"][block.name], place.phase)

    def _pass_window(self, side: str) -> float:
        return self.design.window(self.design.of["mean_stage_terms"], side)

    def _hide(self, chain: Chain, start: int, comms: list[Comm], window: float, host: str) -> None:
        """Communication of data parallelism beside the spine, and what it slows the compute there."""
        chain.beside(start, [collective(comm.name, comm, "dp") for comm in comms], window, flows=False)
        chain.idle(host, self.design.interference(comms, window))

    def _sharded(
        self, chain: Chain, start: int, place: Place, name: str, window: float, layers: int, last: bool
    ) -> None:
        """ZeRO-3: while a layer runs, the parameters of the next are gathered and its own gradients are reduced."""
        if place.kind == WEIGHT:
            return
        comms = [] if last and place.kind == BACKWARD else self.gathers(place.stage, layers, f"{name}.{place.phase}")
        if place.kind == BACKWARD:
            comms += self.reductions(place.stage, layers, f"{name}.")
        self._hide(chain, start, comms, window, f"{name}.{place.phase}.dp_host")

    def _stage_layers(self, stage: int) -> int:
        slices = (self.design.dealt[c * self.design.pp + stage :][:2] for c in range(self.design.virtual))
        return max(int(sum(end - begin for begin, end in slices)), 1)

    def _over_ranks(self, kind: str, name: str, stage: int, width: float, layers: int) -> list[Comm]:
        """A collective over the ranks that share parameters: of a whole stage, or of so many of its layers (ZeRO-3)."""
        design = self.design
        held = design.stage_parameters(stage)
        scale = width * (layers / self._stage_layers(stage) if layers else 1.0)
        if design.strategy.shard_group and kind != "all_reduce":
            return design.comms(name, kind, "shard", scale * sum(held.values()))
        dense = design.comms(name, kind, "grad", scale * held["dense"])
        return [*dense, *design.comms(f"{name}.expert", kind, "expert_grad", scale * held["expert"])]

    def gathers(self, stage: int, layers: int = 0, name: str = "parameters") -> list[Comm]:
        """All-gather of parameters (ZeRO-1 and 2: only those that were trained)."""
        width = self.design.widths["weights"] * (1.0 if layers else self.design.number("trainable_share"))
        return self._over_ranks("all_gather", f"{name}.all_gather", stage, width, layers)

    def reductions(self, stage: int, layers: int = 0, prefix: str = "") -> list[Comm]:
        """Reduction of gradients: all-reduce without ZeRO, else reduce-scatter."""
        width = self.design.widths["gradients"] * self.design.number("trainable_share")
        kind = "reduce_scatter" if self.design.zero else "all_reduce"
        return self._over_ranks(kind, f"{prefix}gradients.{kind}", stage, width, layers)

    # -- offload -----------------------------------------------------------------------------------------------

    def _moved(self, place: Place, instances: list[tuple[str, Block]], names: tuple[str, ...]) -> list[Any]:
        """Tensor class, tier and bytes of what these instances move."""
        design, found = self.design, []
        for what in names:
            if not (tier := design.tier(what)):
                continue
            if what == "activations":
                layers = sum(block.place == "body" for _, block in instances)
                size = float(design.of["saved_per_pass"]["body"]) * layers / len(design.layers)
            else:
                held = [design.parameters(block) for _, block in instances]
                size = design.state_bytes(what, {k: sum(one[k] for one in held) for k in ("dense", "expert")})
            if size > 0:
                found.append((what, tier, size))
        return found

    def _load(self, chain: Chain, place: Place, instances: list[tuple[str, Block]], name: str) -> None:
        """Offloaded tensors that a pass needs: weights always, activations and gradients going backward."""
        if place.kind == WEIGHT:
            return
        names = ("weights",) if place.kind == FORWARD else ("weights", "activations", "gradients")
        for what, tier, size in self._moved(place, instances, names):
            piece = Piece(f"{name}.{place.phase}.load_{what}", Kind.MEM_LOAD, bytes=size, stream="memory", tier=tier)
            if self.design.strategy.overlap_offload:
                piece.ctrl = [Outside.BEFORE]
                chain.flow = [*chain.flow, chain.float(piece)]
            else:
                before = list(chain.flow)
                chain.add(piece, data=[])
                chain.flow = [*before, piece]

    def _store(self, chain: Chain, place: Place, instances: list[tuple[str, Block]], name: str) -> None:
        """Offloaded tensors that a pass makes: activations going forward, gradients going backward."""
        if place.kind == WEIGHT:
            return
        for what, tier, size in self._moved(place, instances, (("activations",), ("gradients",))[place.kind]):
            piece = Piece(f"{name}.{place.phase}.store_{what}", Kind.MEM_STORE, bytes=size, stream="memory", tier=tier)
            if self.design.strategy.overlap_offload:
                piece.data = [one for one in chain.wait if isinstance(one, Piece)]
                chain.float(piece)
            else:
                chain.add(piece, passes_on=False)
