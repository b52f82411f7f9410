"""One pass of one micro-batch through one virtual stage as a chain of nodes: the template of all its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dse.cost.placement import tier_table
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
        self._made: dict[tuple[int, int, bool], Part] = {}

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
            units = _units(instances)
            for unit in units:
                self._unit(chain, place, unit, last=final and unit is units[-1])
        if design.zero == 2 and place.kind == (WEIGHT if design.split else BACKWARD):
            self._hide(chain, 0, self.reductions(place.stage), self._pass_window("backward"), "gradients.host")
        if not chain.spine:  # adapters alone, say, have no weight gradients worth a node
            chain.add(Piece(place.phase, Kind.COMP))
        self._sent(chain, place)
        return chain

    # -- what a pass consists of -------------------------------------------------------------------------------

    def part(self, block: Block, kind: int, *, repeat: bool = False) -> Part:
        """A block's part of a pass, or what is recomputed before it, in the detail asked for."""
        key = (id(block), kind, repeat)
        if key not in self._made:
            make = parts.again if repeat else (parts.forward, parts.backward, parts.weight_grad)[kind]
            part = make(self.design, block)
            self._made[key] = (
                part if self.detail == "operator" else parts.merged(self.design, [part], collectives=False)
            )
        return self._made[key]

    @staticmethod
    def _recompute(chain: Chain, part: Part, where: str) -> None:
        """Run a part again before the gradients that came are used."""
        if part.steps:
            came = list(chain.flow)
            chain.wait, chain.flow = [*chain.wait, *came], []
            chain.emit(part, where)
            chain.flow = [*came, *chain.flow]

    def _unit(self, chain: Chain, place: Place, unit: list[tuple[str, Block]], *, last: bool) -> None:
        """A layer (and the embedding or head beside it), with offloaded tensors, and sharded ones under ZeRO-3."""
        start = len(chain.spine)
        for name, block in unit:
            self._load(chain, place, [(name, block)], name)
            if place.kind == BACKWARD:
                self._recompute(chain, self.part(block, FORWARD, repeat=True), f"{name}.recompute")
            chain.emit(self.part(block, place.kind), f"{name}.{place.phase}")
            self._store(chain, place, [(name, block)], name)
        if self.design.zero == 3:
            layer = next(name for name, block in unit if block.place == "body")
            self._sharded(chain, start, place, layer, self._window(unit, place), 1, last)

    def _whole(self, chain: Chain, place: Place, instances: list[tuple[str, Block]], final: bool) -> None:
        """A whole pass as one piece of work, and one collective of each kind and group."""
        where = f"chunk{place.chunk}" if self.design.virtual > 1 else "pass"
        self._load(chain, place, instances, where)
        if place.kind == BACKWARD:
            repeated = [self.part(block, FORWARD, repeat=True) for _, block in instances]
            self._recompute(chain, parts.merged(self.design, repeated, collectives=True), f"{where}.recompute")
        found = [self.part(block, place.kind) for _, block in instances]
        chain.emit(parts.merged(self.design, found, collectives=True), f"{where}.{place.phase}")
        if self.design.zero == 3:
            layers = sum(block.place == "body" for _, block in instances)
            self._sharded(chain, 0, place, where, self._window(instances, place), layers, final)
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

    def hop_time(self) -> float:
        """Seconds of a transfer between stages that nothing hides."""
        _, gathers, sent, host = self._hop()
        return sent + parts.seconds(gathers) + host

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
        arrived = chain.free(receive)
        for comm in gathers:
            gather = collective(f"{name}.gather", comm)
            if design.overlap_pp:
                gather.data, arrived = [arrived], chain.free(gather)
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
            chain.free(send)
        else:
            chain.add(send, passes_on=False)

    # -- data parallelism --------------------------------------------------------------------------------------

    def _window(self, instances: list[tuple[str, Block]], place: Place) -> float:
        terms = self.design.of["layer_terms"]
        return sum(self.design.window(terms[block.name], place.phase) for _, block in instances)

    def _pass_window(self, side: str) -> float:
        return self.design.window(self.design.of["mean_stage_terms"], side)

    def _hide(self, chain: Chain, start: int, comms: list[Comm], window: float, host: str, alone: float = 0.0) -> None:
        """Communication of data parallelism beside the spine, and what it slows the compute there.

        ``alone``: seconds of the collectives that these stand for; what does not fit behind the window is exposed.
        """
        taken = parts.seconds(comms)
        exposed = max(alone - window, 0.0)
        room = max(taken - exposed, 0.0) if alone else window
        chain.beside(start, [collective(comm.name, comm, "dp") for comm in comms], room, flows=False)
        slowed = self.design.interference(max(alone, taken), window)
        chain.idle(host, slowed + max(exposed - taken, 0.0))

    def _sharded(
        self, chain: Chain, start: int, place: Place, name: str, window: float, layers: int, last: bool
    ) -> None:
        """ZeRO-3: while a layer runs, the parameters of the next are gathered and its own gradients are reduced."""
        if place.kind == WEIGHT:
            return
        going_back = place.kind == BACKWARD
        wanted = layers - 1 if last and going_back else layers
        comms = self.gathers(place.stage, wanted, f"{name}.{place.phase}") if wanted else []
        alone = wanted * parts.seconds(self.gathers(place.stage, 1))
        if going_back:
            comms += self.reductions(place.stage, layers, f"{name}.")
            alone += layers * parts.seconds(self.reductions(place.stage, 1))
        merged = alone if layers > 1 else 0.0
        self._hide(chain, start, comms, window, f"{name}.{place.phase}.dp_host", merged)

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
        across = "expert_grad" if design.ep > 1 else "grad"
        return [*dense, *design.comms(f"{name}.expert", kind, across, scale * held["expert"])]

    def gathers(self, stage: int, layers: int = 0, name: str = "parameters") -> list[Comm]:
        """All-gather of parameters (ZeRO-1 and 2: only those that were trained)."""
        width = self.design.widths["weights"] * (1.0 if layers else self.design.number("trainable_share"))
        return self._over_ranks("all_gather", f"{name}.all_gather", stage, width, layers)

    def reductions(self, stage: int, layers: int = 0, prefix: str = "") -> list[Comm]:
        """Reduction of gradients: all-reduce without ZeRO, else reduce-scatter."""
        width = self.design.widths["gradients"] * self.design.number("trainable_share")
        kind = "reduce_scatter" if self.design.zero else "all_reduce"
        return self._over_ranks(kind, f"{prefix}gradients.{kind}", stage, width, layers)

    def copies(self, stage: int) -> list[Comm]:
        """All-reduce of gradients over the copies of a shard, after the last micro-batch."""
        design = self.design
        if not (design.strategy.shard_group and design.zero):
            return []
        size = sum(design.stage_parameters(stage).values()) * design.widths["gradients"]
        size *= design.number("trainable_share") / design.ranks["shard"]
        pieces = self._stage_layers(stage) if design.zero == 3 else 1
        return design.comms("gradients.copies", "all_reduce", "copies", size, pieces)

    def at_end(self, stage: int) -> tuple[list[Comm], list[Comm]]:
        """What is reduced once all micro-batches are done: gradients (without ZeRO-2 and 3), and copies of shards."""
        return (self.reductions(stage) if self.design.zero < 2 else []), self.copies(stage)

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

    def access(self, name: str, kind: Kind, size: float, tier: str) -> Piece:
        """A load from or a store to a memory tier."""
        memory = tier_table(self.design.of["cluster"])[tier]
        seconds = size * memory.shared_by / float(memory.bandwidth)
        return Piece(name, kind, seconds, bytes=size, stream="memory", tier=tier)

    def _load(self, chain: Chain, place: Place, instances: list[tuple[str, Block]], name: str) -> None:
        """Offloaded tensors that a pass needs: weights always, activations and gradients going backward."""
        if place.kind == WEIGHT:
            return
        names = ("weights",) if place.kind == FORWARD else ("weights", "activations", "gradients")
        for what, tier, size in self._moved(place, instances, names):
            piece = self.access(f"{name}.{place.phase}.load_{what}", Kind.MEM_LOAD, size, tier)
            if self.design.strategy.overlap_offload:
                piece.ctrl = [Outside.BEFORE]
                chain.flow = [*chain.flow, chain.free(piece)]
            else:
                before = list(chain.flow)
                chain.add(piece, data=[])
                chain.flow = [*before, piece]

    def _store(self, chain: Chain, place: Place, instances: list[tuple[str, Block]], name: str) -> None:
        """Offloaded tensors that a pass makes: activations going forward, gradients going backward."""
        if place.kind == WEIGHT:
            return
        for what, tier, size in self._moved(place, instances, (("activations",), ("gradients",))[place.kind]):
            piece = self.access(f"{name}.{place.phase}.store_{what}", Kind.MEM_STORE, size, tier)
            if self.design.strategy.overlap_offload:
                piece.data = [one for one in chain.wait if isinstance(one, Piece)]
                chain.free(piece)
            else:
                chain.add(piece, passes_on=False)


def _units(instances: list[tuple[str, Block]]) -> list[list[tuple[str, Block]]]:
    """Each layer of the body with the embedding or head that stands beside it."""
    units: list[list[tuple[str, Block]]] = []
    for name, block in instances:
        if units and (block.place != "body" or all(other.place != "body" for _, other in units[-1])):
            units[-1].append((name, block))
        else:
            units.append([(name, block)])
    return units
