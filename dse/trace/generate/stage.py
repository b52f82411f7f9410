"""All passes of a pipeline stage in the order of its schedule, and what begins and ends the step there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dse.cost.arrays import select
from dse.cost.memory import OPTIMIZER_BYTES
from dse.explore.timeline import BACKWARD
from dse.trace.columns import Ints
from dse.trace.generate.chain import Chain, Dependence, Outside, Piece, collective
from dse.trace.generate.design import Design
from dse.trace.generate.parts import seconds
from dse.trace.generate.passes import Passes, Place
from dse.trace.schema import Kind

Own = Callable[..., Chain]  # the chain of the pass at a place, which is then no other's


@dataclass(frozen=True)
class Stage:
    """A stage's step as a sequence of chains; arrays of shape [sequence].

    Attributes:
        chains: the distinct ones. The first of the sequence gathers parameters, the last ends the step; both may be
            empty, and all between are passes.
        which: position in ``chains``.
        batch: micro-batch (-1 for the first and the last).
        match: place in the sequence of the pass whose results this one continues; -1: none.
        marked: place in the sequence of the pass that holds the mark.
    """

    chains: list[Chain]
    which: Ints
    batch: Ints
    match: Ints
    marked: int


def stage_of(passes: Passes, stage: int, order: tuple[Ints, Ints, Ints]) -> Stage:
    """The step of one stage.

    Args:
        order: kind, micro-batch and virtual stage of its passes, each int64 [passes].
    """
    design = passes.design
    kind, batch, chunk = order
    chains, keys = [Chain()], {}
    which = np.zeros(len(kind) + 2, np.int64)
    for place, at in _distinct(kind, chunk):
        keys[place] = len(chains)
        which[1:-1][at] = len(chains)
        chains.append(passes.chain(Place(stage, place[1], place[0])))
    lengths = np.array([chain.length for chain in chains])[which[1:-1]]

    def own(place: int, *, final: bool = False) -> Chain:
        """A pass that differs from the others of its kind gets a chain of its own."""
        if which[place + 1] < len(keys) + 1:
            which[place + 1] = len(chains)
            chains.append(passes.chain(Place(stage, int(chunk[place]), int(kind[place])), final=final))
        return chains[which[place + 1]]

    if design.zero == 3:
        own(int(np.flatnonzero(kind == BACKWARD)[-1]), final=True)
    _begin(passes, stage, chains[0], lengths, own)
    marked = _reduced(passes, stage, lengths, own)
    chains.append(_end(passes, stage))
    which[-1] = len(chains) - 1
    match = _match(kind, batch, chunk, design)
    return Stage(chains, which, np.concatenate([[-1], batch, [-1]]), match, marked + 1)


def _distinct(kind: Ints, chunk: Ints) -> list[tuple[tuple[int, int], NDArray[np.bool_]]]:
    pairs = sorted(set(zip(kind.tolist(), chunk.tolist(), strict=True)))
    return [(pair, (kind == pair[0]) & (chunk == pair[1])) for pair in pairs]


def _match(kind: Ints, batch: Ints, chunk: Ints, design: Design) -> Ints:
    """Where in the sequence each pass's counterpart stands: backward passes continue forward ones, and so on."""
    number = (kind * design.virtual + chunk) * design.batches + batch
    where = np.full(3 * design.virtual * design.batches, -1, np.int64)
    where[number] = 1 + np.arange(len(kind))
    before = number - design.virtual * design.batches
    found = np.where(before >= 0, where[np.maximum(before, 0)], -1)
    return np.concatenate([[-1], found, [-1]])


def _begin(passes: Passes, stage: int, chain: Chain, lengths: NDArray[np.float64], own: Own) -> None:
    """Parameters that ZeRO has sharded are gathered while the first forward passes run; ZeRO-3: one layer, at once."""
    design = passes.design
    if not design.zero:
        return
    comms = passes.gathers(stage, 1, "parameters") if design.zero == 3 else passes.gathers(stage)
    if not comms:
        return
    chain.beside(0, [collective(comm.name, comm, "dp") for comm in comms], 0.0)
    chain.wait = []  # only who uses the parameters waits for them
    window = 0.0 if design.zero == 3 else design.window(design.of["mean_stage_terms"], "forward")
    ends = np.cumsum(lengths)
    place = min(int(np.searchsorted(ends, window)), len(ends) - 1)
    elapsed = min(window - (ends[place] - lengths[place]), lengths[place])
    idle = Piece("parameters.host", Kind.COMP, design.interference(seconds(comms), window))
    own(place).join_at(float(elapsed), Outside.GATHERED, idle)


def _reduced(passes: Passes, stage: int, lengths: NDArray[np.float64], own: Own) -> int:
    """Mark where the reduction of gradients may begin: the window of the backward pass, back from the end of all."""
    if not any(passes.at_end(stage)):
        return -1
    window = passes.design.window(passes.design.of["mean_stage_terms"], "backward")
    after = np.cumsum(lengths[::-1])[::-1]
    place = max(int(np.sum(after > window * (1 + 1e-9))) - 1, 0)
    own(place).mark_at(max(float(window - (after[place] - lengths[place])), 0.0))
    return place


def _end(passes: Passes, stage: int) -> Chain:
    """What follows the passes: gradients are reduced, the optimizer runs, and offloaded weights are written back.

    Copies of shards are averaged bucket by bucket while other buckets are still reduced, so both begin together.
    """
    design = passes.design
    chain = Chain([Outside.PREVIOUS])
    window = design.window(design.of["mean_stage_terms"], "backward")
    at_end = passes.at_end(stage)
    slowed = sum(design.interference(seconds(series), window) for series in at_end)
    for series in at_end:
        needs: list[Dependence] = [Outside.MARKED]
        for comm in series:
            piece = collective(comm.name, comm, "dp")
            piece.data = needs
            needs = [chain.free(piece)]
        if series:
            chain.wait, chain.flow = [*chain.wait, *needs], [*chain.flow, *needs]
    chain.idle("gradients.host", slowed)
    _optimizer(passes, chain, stage)
    return chain


def _optimizer(passes: Passes, chain: Chain, stage: int) -> None:
    """The optimizer reads gradients and states and writes states and weights, in the memory where the states lie."""
    design = passes.design
    held, ranks = design.stage_parameters(stage), design.of["zero_ranks"]
    local = sum(held[k] / (float(ranks[k]) if design.zero else 1.0) for k in held)
    worst = max(
        sum(float(p[k]) / (float(ranks[k]) if design.zero else 1.0) for k in p)
        for p in design.of["stage_parameters"].values()
    )
    overhead = float(design.stack.step_overhead)
    busy = (design.number("optimizer_time") - overhead) * local / max(worst, 1.0)
    width = design.widths["weights"]
    states = float(select(design.strategy.optimizer, OPTIMIZER_BYTES)) + (4.0 if width < 4 else 0.0)
    read, written = design.widths["gradients"] + states, states + width
    moved = float(design.stack.optimizer_passes) * local * design.number("trainable_share")
    tier = design.tier("optimizer")
    if tier:
        for kind, name, size in ((Kind.MEM_LOAD, "load", read), (Kind.MEM_STORE, "store", written)):
            chain.add(passes.access(f"optimizer.{name}", kind, moved * size, tier))
    else:
        chain.add(Piece("optimizer", Kind.COMP, busy, bytes=moved * (read + written)))
    chain.idle("optimizer.host", overhead)
    home = design.tier("weights")
    if home:
        size = design.state_bytes("weights", held)
        chain.add(passes.access("optimizer.store_weights", Kind.MEM_STORE, size, home))
