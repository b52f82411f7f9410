"""What of the closed form no node stands for, and by how much, as far as that is known before a simulation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dse.trace.generate.parts import seconds
from dse.trace.generate.passes import Passes


@dataclass(frozen=True)
class Residual:
    """A term of the cost model that the trace leaves out or shows otherwise.

    ``seconds`` of a step that the closed form has and the trace lacks (below zero: the trace has more); None: only a
    simulation can tell.
    """

    term: str
    seconds: float | None
    why: str


def residual(passes: Passes) -> tuple[Residual, ...]:
    """Every difference, but for those of less than a millionth of the step."""
    least = 1e-6 * passes.design.number("step_time")
    rows = (*_waits(passes), *_stages(passes), *_replicas(passes), *_offload(passes))
    return tuple(row for row in rows if row.seconds is None or abs(row.seconds) > least)


def _waits(passes: Passes) -> Iterator[Residual]:
    of = passes.design.of
    share, busy = float(of["straggler_share"]), float(of["busy_time"])
    yield Residual("stragglers", share * busy, "jitter of links and nodes: the nodes of a trace take their mean times")


def _stages(passes: Passes) -> Iterator[Residual]:
    """Uneven stages, and transfers at the ends of the pipeline."""
    design = passes.design
    if design.pp == 1:
        return
    terms = {name: sum(map(float, parts.values())) for name, parts in design.of["layer_terms"].items()}
    busy = [
        sum(terms[block.name] for chunk in range(design.virtual) for _, block in design.instances(stage, chunk))
        for stage in range(design.pp)
    ]
    slowest, batches = max(busy), design.batches
    uneven = (batches - 1 / design.virtual) * (design.number("slowest_stage_time") - slowest)
    yield Residual("imbalance", uneven, "stages hold whole layers of their own kinds; the closed form has mean layers")
    if design.split:
        yield Residual("bubble", None, "the closed form of a zero bubble takes forward and both gradients to be equal")
    if design.split and bool(design.of["overlap_tp"]):
        yield Residual(
            "tp_comm_backward", None, "it hides behind input gradients only: the others have their own passes"
        )
    hop, host = passes.hop_time(), float(design.stack.hop)
    if design.overlap_pp:
        yield Residual("pp_comm", 2 * (design.pp - 1) * host, "host time of hidden transfers has no node")
        if design.virtual == 1:
            yield Residual("pp_comm", None, "without virtual stages no pass is left to hide a transfer behind")
    elif slowest in (busy[0], busy[-1]):
        why = "the slowest stage is at an end of the pipeline and has half the transfers that the closed form charges"
        yield Residual("pp_comm", design.virtual * batches * hop, why)


def _replicas(passes: Passes) -> Iterator[Residual]:
    """Each stage reduces its own gradients; copies of shards are averaged while others are reduced."""
    design = passes.design
    if design.zero > 1:
        why = "parameters are gathered, and gradients reduced, layer by layer: the first and the last are exposed"
        yield Residual("dp_comm", None, why)
        return
    forward, backward = (design.window(design.of["mean_stage_terms"], side) for side in ("forward", "backward"))
    found = []
    for stage in range(design.pp if design.split else 1):  # else the first stage is the last to finish
        reduce, copies = seconds(passes.reductions(stage)), seconds(passes.copies(stage))
        gather = seconds(passes.gathers(stage)) if design.zero else 0.0
        slowed = [(reduce, backward), (copies, backward), (gather, forward)]
        exposed = max(reduce - backward, copies - backward, 0.0) + max(gather - forward, 0.0)
        found.append(exposed + sum(design.interference(*pair) for pair in slowed))
    why = "a stage moves its own parameters, the closed form the most of any; copies and shards are moved at once"
    yield Residual("dp_comm", design.number("dp_comm") - max(found), why)


def _offload(passes: Passes) -> Iterator[Residual]:
    if any(map(passes.design.tier, ("weights", "gradients", "activations"))):
        yield Residual(
            "offload",
            None,
            "tensors move layer by layer, also while the device waits; the first load and the last store are exposed",
        )
