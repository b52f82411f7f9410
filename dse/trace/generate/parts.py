"""What one phase of one block consists of: work and collectives, in the order in which a trace shows them.

Operators, their times and their collectives are the cost model's; what hides behind what follows its ``layer_terms``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.cost.arrays import select
from dse.cost.compute import ACTIVATION_BYTES, OPERAND_BYTES, work_traffic
from dse.spec.workload.op import Block, Collective, Op, Phase, Stream

if TYPE_CHECKING:
    from dse.trace.generate.design import Design


@dataclass(frozen=True)
class Work:
    """Computation: seconds, FLOP, bytes between memory and chip.

    ``grad``: gradients of weights, which no later operator needs; ``core``: part of the attention core.
    """

    name: str
    seconds: float
    flops: float = 0.0
    bytes: float = 0.0
    grad: bool = False
    core: bool = False


@dataclass(frozen=True)
class Comm:
    """A collective of ``size`` bytes (the whole buffer) in a group of the cost model, and its time alone in seconds."""

    name: str
    kind: str
    group: str
    size: float
    seconds: float


@dataclass(frozen=True)
class Part:
    """One phase of one instance of a block.

    Attributes:
        steps: what runs one after the other.
        aside: collectives that run beside the steps; all but ``hidden`` seconds of them come after these.
        ring: collectives that run beside the attention core, hidden by its last ``behind`` seconds.
        host: seconds after it in which the device waits for the host.
    """

    steps: tuple[Work | Comm, ...] = ()
    aside: tuple[Comm, ...] = ()
    hidden: float = 0.0
    ring: tuple[Comm, ...] = ()
    behind: float = 0.0
    host: float = 0.0


def forward(design: Design, block: Block) -> Part:
    """The forward phase of a block, or its repetition under full recomputation (which costs the same)."""
    steps: list[Work | Comm] = []
    for op in block.ops:
        before, after = _around(design, block, op, "forward")
        steps += [*before, *_work(design, block, op, "forward"), *after]
    runs = 2.0 if design.recompute == "full" and block.place == "body" else 1.0
    host = float(design.of["layer_terms"][block.name]["host_forward"]) / runs
    return _beside(design, block, "forward", steps, host)


def backward(design: Design, block: Block) -> Part:
    """Input gradients and, but for zero-bubble schedules, weight gradients, from the last operator to the first."""
    steps: list[Work | Comm] = []
    for op in reversed(block.ops):
        before, after = _around(design, block, op, "input_grad")
        steps += [*before, *_work(design, block, op, "input_grad"), *after]
        if not design.split:
            steps += _work(design, block, op, "weight_grad")
    return _beside(design, block, "input_grad", steps, float(design.of["layer_terms"][block.name]["host_backward"]))


def weight_grad(design: Design, block: Block) -> Part:
    """The weight gradients alone."""
    return Part(tuple(work for op in reversed(block.ops) for work in _work(design, block, op, "weight_grad")))


def again(design: Design, block: Block) -> Part:
    """What is recomputed before the backward phase: nothing, the attention core, or a whole layer."""
    if design.recompute == "full" and block.place == "body":
        return forward(design, block)
    if design.recompute != "selective":
        return Part()
    return Part(tuple(work for op in block.ops if op.core for work in _work(design, block, op, "forward")))


def merged(design: Design, parts: Iterable[Part], *, collectives: bool) -> Part:
    """Several parts as one with a single piece of work; ``collectives``: also those of a kind and group become one.

    What a merged collective no longer takes to start is added to the wait for the host.
    """
    early: list[Comm] = []
    late: list[Comm] = []
    aside: list[Comm] = []
    works: list[Work] = []
    hidden, host = 0.0, 0.0
    for part in parts:
        begun = False
        for step in part.steps:
            if isinstance(step, Work):
                works.append(step)
                begun = True
            else:
                (late if begun else early).append(step)
        aside += [*part.aside, *part.ring]
        hidden += part.hidden + min(part.behind, seconds(part.ring))
        host += part.host
    sums = {name: sum(getattr(work, name) for work in works) for name in ("seconds", "flops", "bytes")}
    one = [Work("", **sums, grad=bool(works) and all(work.grad for work in works))] if works else []
    if collectives:
        alone, exposed = seconds([*early, *late]), seconds(aside) - hidden
        early, late, aside = [], _by_kind(design, [*early, *late]), _by_kind(design, aside)
        hidden = seconds(aside) - exposed
        host += alone - seconds(late) + max(-hidden, 0.0)
    # Communication first, so that what is hidden is so behind work that can be cut anywhere.
    return Part((*early, *late, *one), tuple(aside), max(hidden, 0.0), host=host)


def seconds(comms: Iterable[Comm]) -> float:
    """Of collectives one after the other, each alone."""
    return sum(comm.seconds for comm in comms)


def _by_kind(design: Design, comms: list[Comm]) -> list[Comm]:
    sizes: dict[tuple[str, str], float] = {}
    for comm in comms:
        sizes[comm.kind, comm.group] = sizes.get((comm.kind, comm.group), 0.0) + comm.size
    return [one for (kind, group), size in sizes.items() for one in design.comms(f"{group}.{kind}", kind, group, size)]


def _work(design: Design, block: Block, op: Op, phase: Phase) -> list[Work]:
    """An operator's phase, unless it takes no time (operators that the strategy fuses into others)."""
    work = op.work(phase)
    seconds = float(design.of["operator_times"].get(f"{block.name}.{op.name}.{phase}", 0.0))
    if work is None or not seconds:
        return []
    if isinstance(work, Stream):
        traffic = design.of["stream_passes"].get(op.name.rpartition("_")[2], 1.0) * work.bytes
    else:
        precision = design.strategy.precision
        operand = select(precision, OPERAND_BYTES) / select(precision, ACTIVATION_BYTES)
        narrow = 1.0 if op.wide or op.kind == "batched_gemm" else operand
        traffic = work_traffic(work, design.of["cluster"].accelerator.buffer, narrow)
    name = f"{op.name}.{phase}" if phase != "forward" else op.name
    grad = phase == "weight_grad"
    return [Work(name, seconds, float(work.flops), float(traffic), grad, op.core and not grad)]


def _around(design: Design, block: Block, op: Op, phase: Phase) -> tuple[list[Comm], list[Comm]]:
    """Blocking collectives before and after an operator's phase: those that run beside others are left out."""
    sides: tuple[list[Comm], list[Comm]] = ([], [])
    for c in op.collectives:
        if c.phase == phase and not _overlaps(design, c):
            sides[not _leads(op, c)].extend(_comms(design, op, c))
    return sides


def _leads(op: Op, c: Collective) -> bool:
    """Whether a collective brings an operator's input: gathers do, and exchanges to combine or to attend."""
    if c.kind == "all_to_all":
        return (op.core or op.name == "combine") == (c.phase == "forward")
    return c.kind == "all_gather"


def _comms(design: Design, op: Op, c: Collective) -> list[Comm]:
    return design.comms(f"{op.name}.{c.kind}", c.kind, c.group, float(c.bytes))


def _overlaps(design: Design, c: Collective) -> bool:
    """Whether the cost model lets a collective hide behind compute of its block."""
    if c.group == "tp":
        return bool(design.of["overlap_tp"])
    return bool(design.strategy.overlap_ep) if c.group in ("ep", "all") else c.group == "cp" and not c.blocking


def _beside(design: Design, block: Block, phase: Phase, steps: list[Work | Comm], host: float) -> Part:
    """The steps of a phase with the collectives beside them, hidden as far as ``layer_terms`` has it."""
    ops = block.ops if phase == "forward" else tuple(reversed(block.ops))
    found = [(c, _comms(design, op, c)) for op in ops for c in op.collectives if c.phase == phase]
    found = [(c, comms) for c, comms in found if comms and _overlaps(design, c)]
    ring = tuple(comm for c, comms in found if c.group == "cp" for comm in comms)
    tp = [comm for c, comms in found if c.group == "tp" for comm in comms]
    ep = [comm for c, comms in found if c.group in ("ep", "all") for comm in comms]
    times: Any = design.of["operator_times"]
    phases = ("forward",) if phase == "forward" else ("input_grad", "weight_grad")
    work = sum(float(times.get(f"{block.name}.{op.name}.{p}", 0.0)) for op in ops for p in phases)
    work *= float(design.strategy.overlap_efficiency)
    hidden = min(work, float(design.stack.overlap_tp) * seconds(tp))
    hidden += min(float(design.stack.overlap) * max(work - hidden, 0.0), seconds(ep))
    behind = sum(float(times.get(f"{block.name}.{op.name}.{phase}", 0.0)) for op in ops if op.core)
    return Part(tuple(steps), (*tp, *ep), hidden, ring, behind if ring else 0.0, float(np.maximum(host, 0.0)))
