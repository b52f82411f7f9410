"""Text workloads of ASTRA-sim 1.0 as Chakra traces.

A file names a parallelization and lists layers: compute time, collective and bytes of the forward pass, of the input
gradient and of the weight gradient. The loop that the simulator ran over them becomes a graph:

- compute nodes follow one another (one compute stream);
- the collective after a forward pass holds up the next layer, except the embeddings' of a DLRM, which the last layer of
  the bottom MLP waits for;
- the collective of an input gradient runs beside the weight gradient of its layer, and holds up the next layer;
- the collective of a weight gradient holds up the layer's forward pass of the next step only;
- ``HYBRID_TRANSFORMER_FWD_IN_BCKWD`` runs the layers from a checkpoint again before the backward pass through them.

Where this differs from the converter that is shipped with Chakra: times are cycles of 1 ns and not microseconds (which
makes compute 1000 times longer), rounded in ``duration_micros`` and exact in ``dse.seconds``; ``involved_dim`` is kept;
a layer without a collective has none (not one of 0 bytes); transformers and customized workloads are converted too,
with the groups of their model-parallel ranks. The time of weight updates is left out there and, unless asked for, here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dse.errors import Fault, SpecError
from dse.trace.columns import Ints, TraceSet
from dse.trace.schema import Attribute, Collective, Kind, Metadata, Node

COLLECTIVES = {
    "ALLREDUCE": Collective.ALL_REDUCE,
    "ALLTOALL": Collective.ALL_TO_ALL,
    "ALLGATHER": Collective.ALL_GATHER,
    "REDUCESCATTER": Collective.REDUCE_SCATTER,
}
PASSES = ("forward", "input_grad", "weight_grad")
# Whether the collectives of (activations: forward and input gradient; weight gradients) span the first dimension of the
# network, and the others; None where the policy has no such collectives.
SPANS: dict[str, tuple[tuple[bool, bool] | None, tuple[bool, bool] | None]] = {
    "DATA": (None, (True, True)),
    "MODEL": ((True, True), None),
    "HYBRID_DATA_MODEL": ((True, False), (False, True)),
    "HYBRID_MODEL_DATA": ((False, True), (True, False)),
}
DLRM = ("HYBRID_DLRM", "HYBRID_DLRM_ENHANCED")
TRANSFORMERS = ("HYBRID_TRANSFORMER", "HYBRID_TRANSFORMER_FWD_IN_BCKWD")
CUSTOMIZED = "HYBRID_CUSTOMIZED"
POLICIES = (*SPANS, *DLRM, *TRANSFORMERS, CUSTOMIZED, "MICRO", "DISTRIBUTED_INFERENCE")
MOST = (1 << 63) - 1


@dataclass(slots=True)
class Part:
    """One pass through a layer: cycles, and the collective after it (None: none)."""

    cycles: int
    coll: Collective | None
    size: int


@dataclass(slots=True)
class Layer:
    """A line of the file."""

    name: str
    parts: dict[str, Part]
    update: int
    policy: str


@dataclass(slots=True)
class Workload:
    """A file: policy, layers, and what stands behind the policy's name."""

    policy: str
    layers: list[Layer]
    group: int = 0  # model-parallel ranks of a transformer
    bottom: int = -1  # last layer of the bottom MLP of a DLRM
    checkpoints: set[int] = field(default_factory=set)
    restarts: set[int] = field(default_factory=set)


def text(
    path: str | Path, npus: int, *, passes: int = 1, dims: int = 4, cycle: float = 1e-9, updates: bool = False
) -> TraceSet:
    """Convert a text workload of ASTRA-sim 1.0.

    Args:
        path: the workload.
        npus: ranks, which all run the same.
        passes: training steps.
        dims: entries of ``involved_dim``; a network may have fewer dimensions.
        cycle: seconds of a cycle.
        updates: add a compute node for the time of the update after the collective of a weight gradient.

    Raises:
        SpecError: the file cannot be read or is not such a workload, or a number out of range.
    """
    from dse.trace.dialects import columns

    where = str(path)[-200:]
    limits = {"npus": (npus, 1 << 24), "passes": (passes, 1 << 16), "dims": (dims, 64)}
    faults = [
        Fault(name, str(value), f"must be 1 to {most}")
        for name, (value, most) in limits.items()
        if not 1 <= value <= most
    ]
    if not 0 < cycle < float("inf"):
        faults.append(Fault("cycle", str(cycle), "must be above 0 s"))
    if faults:
        raise SpecError(faults)
    try:
        lines = Path(path).read_text("utf-8", errors="replace").splitlines()
    except OSError as error:
        raise SpecError([Fault("workload", where, f"cannot be read: {error.strerror or error}")]) from None
    workload = parse(lines, where)
    graph = _Graph(workload, dims, cycle, updates)
    for step in range(passes):
        graph.step(step)
    metadata = Metadata("1.0.0", [Attribute("parallelism", "string", workload.policy)])
    trace = columns(graph.nodes, metadata)
    return TraceSet((trace,), np.zeros(npus, np.int64), _groups(workload, npus, where), source=where)


def parse(lines: list[str], where: str) -> Workload:
    """Read the lines of a workload; ``where`` names the file in messages.

    Raises:
        SpecError: what is wrong, with its line.
    """
    rows = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    if len(rows) < 2 or rows[0][1][0] not in POLICIES:
        found = rows[0][1][0][:40] if rows else ""
        raise SpecError([Fault("parallelism", repr(found), f"must be one of {', '.join(POLICIES)}", f"{where}:1")])
    policy, *more = rows[0][1]
    count = _number(rows[1][1][0], "layers", f"{where}:{rows[1][0]}")
    layers = [_layer(words, policy, f"{where}:{number}") for number, words in rows[2:]]
    if not 0 < count <= len(layers):
        rule = f"must be 1 to {len(layers)}, the layers that follow"
        raise SpecError([Fault("layers", str(count), rule, f"{where}:{rows[1][0]}")])
    out = Workload(policy, layers[:count])
    _options(out, more, count, f"{where}:1")
    return out


def _number(word: str, what: str, where: str) -> int:
    if not word.isascii() or not word.isdigit() or int(word) > MOST:
        raise SpecError([Fault(what, repr(word[:40]), "must be an integer from 0", where)])
    return int(word)


def _layer(words: list[str], policy: str, where: str) -> Layer:
    needed = 13 if policy == CUSTOMIZED else 11
    if len(words) < needed:
        rule = f"a layer has {needed} columns: name, dependence, 3 times (cycles, collective, bytes), update"
        raise SpecError([Fault("layer", f"{len(words)} columns", rule, where)])
    parts = {}
    for name, first in zip(PASSES, (2, 5, 8), strict=True):
        cycles, kind, size = words[first : first + 3]
        known = {"NONE": None, **COLLECTIVES}
        if kind not in known:
            raise SpecError([Fault(f"{name} collective", repr(kind[:40]), f"must be one of {', '.join(known)}", where)])
        moved = _number(size, f"{name} bytes", where)
        parts[name] = Part(_number(cycles, f"{name} cycles", where), known[kind] if moved else None, moved)
    own = words[12] if policy == CUSTOMIZED else policy
    if policy == CUSTOMIZED and own not in SPANS:
        raise SpecError(
            [Fault("parallelism of the layer", repr(own[:40]), f"must be one of {', '.join(SPANS)}", where)]
        )
    return Layer(words[0], parts, _number(words[11], "update", where) if len(words) > 11 else 0, own)


def _options(out: Workload, words: list[str], count: int, where: str) -> None:
    """What stands behind the policy: the last bottom layer of a DLRM, or groups and checkpoints of a transformer."""
    if out.policy in DLRM:
        out.bottom = _number(words[0] if words else "", "last bottom layer", where)
        if out.bottom >= count:
            raise SpecError([Fault("last bottom layer", str(out.bottom), f"must be below {count}", where)])
    if out.policy not in TRANSFORMERS:
        return
    found: dict[str, list[int]] = {}
    name = ""
    for word in words:
        if word.endswith(":"):
            name = word.removesuffix(":")
            found[name] = []
        else:
            found.setdefault(name, []).append(_number(word, name or "option", where))
    out.group = next(iter(found.get("model_parallel_NPU_group", ())), 0)
    if out.group < 1:
        raise SpecError([Fault("model_parallel_NPU_group", str(out.group), "must be at least 1", where)])
    for name, to in (("checkpoints", out.checkpoints), ("checkpoint_initiates", out.restarts)):
        amount, *places = found.get(name, [0])
        if len(places) < amount or any(place >= count for place in places[:amount]):
            rule = f"must be a count and as many layers below {count}"
            raise SpecError([Fault(name, " ".join(map(str, [amount, *places]))[:60], rule, where)])
        to.update(places[:amount])
    if out.restarts and (not out.checkpoints or min(out.restarts) < min(out.checkpoints)):
        rule = "each needs a checkpoint at or before it"
        raise SpecError([Fault("checkpoint_initiates", str(sorted(out.restarts))[:60], rule, where)])


def _groups(workload: Workload, npus: int, where: str) -> dict[str, Ints]:
    """Model-parallel ranks of a transformer are neighbours, data-parallel ones a group apart."""
    if workload.policy not in TRANSFORMERS:
        return {}
    if npus % workload.group:
        rule = f"must be a multiple of the {workload.group} model-parallel ranks of the workload"
        raise SpecError([Fault("npus", str(npus), rule, where)])
    ranks = np.arange(npus).reshape(-1, workload.group)
    return {"model": ranks, "data": ranks.T.copy()}


class _Graph:
    """The nodes that the loop over the layers leaves behind."""

    def __init__(self, workload: Workload, dims: int, cycle: float, updates: bool) -> None:
        self.workload, self.dims, self.cycle, self.updates = workload, dims, cycle, updates
        self.nodes: list[Node] = []
        self.wait: set[int] = set()  # what the next compute node waits for
        self.ready: dict[int, int] = {}  # layer -> what its weights wait for
        self.prefix = ""

    def step(self, number: int) -> None:
        """One forward and backward pass."""
        self.prefix = f"step{number}." if number else ""
        policy = self.workload.policy
        if policy == "MICRO":
            for place in range(len(self.workload.layers)):
                self.collective(place, "weight_grad", ())
        elif policy in DLRM:
            self.dlrm()
        else:
            count = len(self.workload.layers)
            for place in range(count):
                self.forward(place)
            if policy == "DATA":
                self.data_backward(count)
            elif policy != "DISTRIBUTED_INFERENCE":
                self.backward(count)

    def forward(self, place: int) -> None:
        """A layer forward; its collective holds up the next."""
        if place in self.ready:
            self.wait.add(self.ready[place])
        done = self.compute(place, "forward")
        self.wait |= self.collective(place, "forward", (done,))

    def backward(self, count: int) -> None:
        """Input gradient, then beside its collective the weight gradient, from the last layer to the first."""
        for place in reversed(range(count)):
            if place in self.workload.restarts:
                first = max(k for k in self.workload.checkpoints if k <= place)
                for again in range(first, place):
                    self.forward(again)
            done = self.compute(place, "input_grad")
            sent = self.collective(place, "input_grad", (done,)) if place else set()
            self.weight_gradient(place)
            self.wait |= sent

    def data_backward(self, count: int) -> None:
        """Weight gradient, whose collective nothing waits for, then the input gradient."""
        for place in reversed(range(count)):
            self.weight_gradient(place)
            if place:
                self.compute(place, "input_grad")

    def weight_gradient(self, place: int) -> None:
        """A weight gradient and its collective, for which the layer waits in the next step."""
        done = self.compute(place, "weight_grad")
        sent = self.collective(place, "weight_grad", (done,))
        self.ready[place] = next(iter(sent), done)
        if self.updates and self.workload.layers[place].update:
            name = f"{self.prefix}{self.workload.layers[place].name}.update"
            self.ready[place] = self.node(name, Kind.COMP, {self.ready[place]}, self.workload.layers[place].update)

    def dlrm(self) -> None:
        """Embeddings exchange their rows with all while the bottom MLP runs, and their gradients likewise."""
        count, bottom = len(self.workload.layers), self.workload.bottom
        rows: set[int] = set()
        for place in range(count):
            if place in self.ready:
                self.wait.add(self.ready[place])
            if place == bottom:
                self.wait |= rows
            done = self.compute(place, "forward")
            if self.workload.layers[place].parts["forward"].coll == Collective.ALL_TO_ALL:
                sent = self.collective(place, "forward", (done,))
                rows |= sent if place == 0 else set()
        back: set[int] = set()
        for place in reversed(range(count)):
            self.wait |= back if place == 0 else set()
            self.weight_gradient(place)
            if place:
                done = self.compute(place, "input_grad")
            if place and place == bottom + 1:
                back = self.collective(0, "input_grad", (done,))

    def compute(self, place: int, part: str) -> int:
        """A compute node after all that came before it; its identifier."""
        layer = self.workload.layers[place]
        done = self.node(f"{self.prefix}{layer.name}.{part}", Kind.COMP, self.wait, layer.parts[part].cycles)
        self.wait = {done}
        return done

    def collective(self, place: int, part: str, after: tuple[int, ...]) -> set[int]:
        """The collective behind a part of a layer, if it has one: its identifier, or nothing."""
        layer = self.workload.layers[place]
        coll, size = layer.parts[part].coll, layer.parts[part].size
        span = self.span(layer, part)
        if coll is None or span is None:
            return set()
        done = self.node(f"{self.prefix}{layer.name}.{part}.{coll.name.lower()}", Kind.COLL, set(after), 0)
        sizes = [Attribute("comm_type", "int64", int(coll)), Attribute("comm_size", "int64", size)]
        self.nodes[done].attrs += [*sizes, span]
        return {done}

    def span(self, layer: Layer, part: str) -> Attribute | None:
        """Among which ranks: dimensions of the network, or a group; None for a collective that the policy has not."""
        if self.workload.policy in TRANSFORMERS:
            return Attribute("pg_name", "string", "data" if part == "weight_grad" else "model")
        usual = ((True, True), (True, True))
        pair = SPANS.get(layer.policy, usual)[part == "weight_grad"]
        if pair is None:
            return None
        return Attribute("involved_dim", "bool_list", [pair[0]] + [pair[1]] * (self.dims - 1))

    def node(self, name: str, kind: Kind, after: set[int], cycles: int) -> int:
        seconds = cycles * self.cycle
        attrs = [Attribute("is_cpu_op", "bool", False)]
        if kind == Kind.COMP:
            attrs.append(Attribute("dse.seconds", "double", seconds))
        done = len(self.nodes)
        self.nodes.append(Node(done, name, int(kind), [], sorted(after), 0, round(seconds * 1e6), attrs=attrs))
        return done
