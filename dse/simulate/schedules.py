"""Messages of collective algorithms: who sends what to whom, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dse.cost.algorithms import AUTOMATIC

Ints = NDArray[np.int64]
Step = tuple[int, int, int, float]  # step, from, to (places in the group), share of the bytes


class Schedule(NamedTuple):
    """Messages [m]; ``share`` of the phase's bytes, ``latency`` seconds. A message goes when all that reached its
    sender in the step before (the last one in which any did) has arrived."""

    source: Ints
    target: Ints
    share: NDArray[np.float64]
    latency: NDArray[np.float64]
    waits: Ints
    next_ptr: Ints
    next: Ints


def compile_steps(steps: Sequence[Step], latency: float, pipelined: bool) -> Schedule:
    """A schedule of these steps; ``latency`` of all steps in a row, by which a pipelined message comes later."""
    table = sorted(steps, key=lambda step: step[0])
    step = np.asarray([s for s, *_ in table], np.int64)
    source, target = (np.asarray([row[i] for row in table], np.int64) for i in (1, 2))
    share = np.asarray([row[3] for row in table], float)
    rounds = len(np.unique(step))
    sends: dict[int, list[int]] = {}
    for m, who in enumerate(source.tolist()):
        sends.setdefault(who, []).append(m)
    waits, following = np.zeros(len(table), np.int64), []
    for m, who in enumerate(target.tolist()):
        later = [k for k in sends.get(who, ()) if step[k] > step[m]]
        first = [k for k in later if step[k] == step[later[0]]]
        waits[first] += 1
        following.append(first)
    next_ptr = np.concatenate([[0], np.cumsum([len(f) for f in following])]).astype(np.int64)
    flat = np.asarray([k for f in following for k in f], np.int64)
    each = np.full(len(table), latency if pipelined else latency / max(rounds, 1))
    return Schedule(source, target, share, each, waits, next_ptr, flat)


def steps_of(kind: str, dimension: Any, n: int, *, reduced: bool) -> tuple[list[Step], bool]:
    """Steps among n places of a dimension that pass one unit of the closed form's load a place, and whether all of
    them flow at once (pieces follow each other through them).

    Reduce-scatter and all-gather are each half of an all-reduce.
    """
    algorithm = dimension.algorithm if dimension.algorithm != "auto" else AUTOMATIC[dimension.topology]
    both = dimension.topology in ("ring", "torus") and dimension.bidirectional and n > 2
    unit = 0.5 if dimension.topology == "mesh" else 1.0  # its load counts twice in the closed form: half the links
    if kind == "broadcast":
        return _broadcast(dimension, n, both, unit), True
    if reduced:
        # Up to the switch and down again; the switch is no place of its own: its ports are those of the devices.
        return [(0, i, (i + 1) % n, unit) for i in range(n)], True
    if algorithm == "double_binary_tree":
        return _trees(n), True
    if algorithm == "direct":
        return [(0, i, j, unit / (n - 1)) for i in range(n) for j in range(n) if i != j], False
    if algorithm == "halving_doubling" and n & (n - 1) == 0:
        return _halving(n), False
    turns = ((1, 0.5), (-1, 0.5)) if both else ((1, 1.0),)
    return [
        (s, i, (i + way) % n, unit * part / (n - 1)) for s in range(n - 1) for way, part in turns for i in range(n)
    ], False


def _halving(n: int) -> list[Step]:
    """Halves go to the partner at distance n/2, quarters to that at n/4, ..."""
    steps, distance, step = [], n // 2, 0
    while distance:
        steps += [(step, i, i ^ distance, distance / (n - 1)) for i in range(n)]
        distance, step = distance // 2, step + 1
    return steps


def _broadcast(dimension: Any, n: int, both: bool, unit: float) -> list[Step]:
    if dimension.topology == "fully_connected":  # pieces to all, who pass them on to all
        return [(0, i, j, unit / (n - 1)) for i in range(n) for j in range(1, n) if i != j]
    chain = [(0, i, i + 1, unit * (0.5 if both else 1.0)) for i in range(n - 1)]
    return chain + ([(0, -i % n, -i - 1 + n, 0.5) for i in range(n - 1)] if both else [])


def _trees(n: int) -> list[Step]:
    """Two binary trees, each with half of the bytes; the leaves of one are inside the other."""
    steps = []
    for i in range(1, n):
        bit = i & -i
        parent = (i ^ bit) | (bit << 1)
        parent = parent if parent < n else i ^ bit
        second = (lambda place: n - 1 - place) if n % 2 == 0 else (lambda place: (place + 1) % n)
        for child, above in ((i, parent), (second(i), second(parent))):
            steps += [(0, child, above, 0.25), (0, above, child, 0.25)]
    return steps
