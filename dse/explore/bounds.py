"""Proved bounds: no design can be better than itself on a network, and with memory tiers, that cost no time.

The relaxation is the cost model itself with five terms taken out: collectives, transfers between stages,
communication of data parallelism, and offloading take no time, and so nothing hides. It is cheap, because placement
and overlap no longer matter, and close, because operators keep the rates they really reach.

**Proof.** Write T for the time of a step, t̄ and t_max for the time of one micro-batch on the mean and on the slowest
stage, m for the micro-batches, p for the stages, v for the virtual stages, W ≥ 0 for the weight gradients' part of t̄.

1. Every term of a layer's pass that communicates is at least 0: collectives of tp hide at most themselves
   (t − min(w, s·t) with s ≤ 1), those of cp and ep are cut off at 0. The terms of compute and of the host do not
   depend on communication. So t̄, and the time of each stage, is at least what it is without; so is t_max, a maximum
   of sums of them with weights of at least 0.
2. m·t̄ + imbalance + bubble = m·t_max + max(0, (p·t̄ − t_max)/v), or with p·t̄ − t_max − c·(p − 1)·W in the maximum
   for zero-bubble schedules. As m ≥ 1 ≥ 1/v, each branch grows with t̄ and with t_max, and W is the same.
3. What else T adds up is at least 0 (transfers between stages; data parallelism, max((1 − g)·c, c − g·behind) with
   0 ≤ g ≤ 1; offloading) or the same (the optimizer), and stragglers multiply the sum by one factor ≥ 1.
   So T is at least the relaxed T.
4. Every objective is monotone in T with all else equal: tokens/s and MFU are constants over T; energy is
   min(compute + memory, budget·T) + links + power·T; cost and carbon are sums of T and energy with weights of at
   least 0; tokens per dollar and per joule are constants over these; memory does not depend on T. The relaxation
   leaves all else equal (energy counts bytes, not their times). So the objective of the relaxed T bounds the
   objective of T. ∎

The relaxed step is never shorter than its matrix FLOP over the peak, as no operator beats its roofline.

Nothing is proved for quantities of the user's own, nor for COMET's loop: those are searched without bounds.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.cost.graph import Quantity

if TYPE_CHECKING:
    from dse.explore.exhaustive import Space


def _fixed(name: str, unit: str, value: Any) -> Quantity:
    return Quantity(name, lambda: value, unit, f"{value}", "relaxation: communication takes no time", ())


FREE_COMMUNICATION = (
    _fixed("collective_times", "s", {}),
    _fixed("pp_comm", "s", 0.0),
    _fixed("dp_comm", "s", 0.0),
    _fixed("offload", "s", 0.0),
    # Nothing is left to hide: constants here keep the axes of these fields out of every array.
    _fixed("overlap_tp", "", False),
    _fixed("overlap_ep", "", False),
    _fixed("overlap_efficiency", "1", 1.0),
)


def relaxed(space: Space) -> Space | None:
    """The space with free communication, whose objectives bound those of the space; None where nothing is proved."""
    if space.replace or np.any(np.equal(space.specs["strategy"].execution, "comet")):
        return None
    return dataclasses.replace(space, replace=FREE_COMMUNICATION)
