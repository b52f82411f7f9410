"""Sliders: positions on a scale, and where one of whole numbers comes to rest.

A slider holds a whole position, not the value: nothing is rounded on the way to the page and back. The template's value
has a position of its own, and other positions stand for values of four digits.
"""

from __future__ import annotations

import math

from dse.app.controls import Control
from dse.app.state import State
from dse.space.enumerate import divisors

STEPS = 240  # positions of a slider
COARSE = 128  # tokens between the lengths of a sequence that a slider stops at


def position(control: Control, value: float) -> int:
    """The position that stands nearest to a value."""
    low, high = control.low, control.high
    if not low < high:
        return 0
    share = math.log(value / low) / math.log(high / low) if control.log else (value - low) / (high - low)
    return min(max(round(STEPS * share), 0), STEPS)


def value_at(control: Control, place: int) -> float:
    """What a position stands for."""
    if place == position(control, float(control.template)):
        return float(control.template)
    if place in (0, STEPS):
        return float(control.high if place else control.low)
    share, low, high = place / STEPS, control.low, control.high
    value = low * (high / low) ** share if control.log else low + (high - low) * share
    return float(f"{value:.4g}")


def snapped(state: State, path: str, value: float) -> float:
    """The value that a slider means.

    Devices come in whole replicas that share the batch evenly, the batch in whole micro-batches of every replica, and
    sequences in multiples of 128 tokens. Where the strategy follows, devices are 2^k or 3·2^k instead. Values that
    are typed are taken as they are.
    """
    strategy = state.design.strategy
    if path == "devices":
        if state.view.follow:
            return float(_nearest(value, [2**k * odd for k in range(18) for odd in (1, 3)]))
        shares = strategy.global_batch // strategy.micro_batch or 1
        return float(_nearest(value, [state.design.width * replicas for replicas in divisors(shares)]))
    if path == "strategy.global_batch":
        replicas = max(state.design.devices // state.design.width, 1)
        share = replicas * strategy.micro_batch
        return float(max(round(value / share), 1) * share)
    if path == "model.seq_len":
        return float(max(round(value / COARSE), 1) * COARSE)
    return value


def _nearest(value: float, candidates: list[int]) -> int:
    return min(candidates, key=lambda candidate: abs(math.log(candidate / value)))
