"""Themis: chunks of one collective visit the dimensions in different orders, so that all dimensions finish together.

The dimension that a reduce-scatter passes first moves the whole chunk, the next what is left of it, and so on. Every
chunk takes the order that leaves the most loaded dimension least loaded. Source: Rashidi et al., Themis (ISCA'22), as
known second-hand; the greedy rule is re-derived.
"""

from __future__ import annotations

import heapq
from itertools import permutations
from typing import Any

import numpy as np

from dse.simulate.collectives import Phases

MOST = 5  # dimensions of which all orders are tried; of more, only the one by load


def schedule(kind: str, rising: Phases, busy: np.ndarray, shares: np.ndarray, cut: int, halved: bool) -> Phases:
    """The quicker of Themis' phases and the ascending ones.

    Args:
        kind: of collective; only those whose data shrink from dimension to dimension gain anything.
        rising: the ascending phases.
        busy: [dimensions], seconds of each dimension in ascending order.
        shares: [dimensions], ranks in each.
        cut: chunks.
        halved: an all-reduce passes the outermost dimension of a chunk in two phases, too.
    """
    if kind not in ("all_reduce", "reduce_scatter", "all_gather"):
        return rising
    spanned = np.flatnonzero(busy > 0)
    n = shares[spanned]
    # Seconds if the whole chunk entered the dimension; an all-reduce passes it twice.
    whole = busy[spanned] / cut * np.cumprod(np.concatenate([[1.0], n[:-1]]))
    load = np.zeros(len(spanned))
    dimension, seconds = [], []
    for _ in range(cut):
        order = _best(load, whole, n)
        spent = _spent(order, whole, n)
        load[list(order)] += spent
        way, each = [int(spanned[d]) for d in order], list(spent)
        if kind == "all_gather":
            way, each = way[::-1], each[::-1]
        elif kind == "all_reduce":
            half = [x / 2 for x in each]
            middle = half[-1:] * 2 if halved else each[-1:]
            way = [*way, *way[::-1]] if halved else [*way, *way[-2::-1]]
            each = [*half[:-1], *middle, *half[-2::-1]]
        dimension.append(way)
        seconds.append(each)
    mixed = Phases(np.asarray(dimension), np.asarray(seconds))
    return mixed if alone(mixed) < alone(rising) else rising


def _spent(order: tuple[int, ...], whole: np.ndarray, n: np.ndarray) -> np.ndarray:
    entering = np.concatenate([[1.0], np.cumprod(1.0 / n[list(order)])[:-1]])
    return whole[list(order)] * entering


def _best(load: np.ndarray, whole: np.ndarray, n: np.ndarray) -> tuple[int, ...]:
    """The order whose loads, sorted from the highest, are least."""
    if len(load) > MOST:
        return tuple(int(d) for d in np.argsort(load, kind="stable"))

    def outcome(order: tuple[int, ...]) -> Any:
        after = load.copy()
        after[list(order)] += _spent(order, whole, n)
        return tuple(np.sort(after)[::-1])

    return min(permutations(range(len(load))), key=outcome)


def alone(phases: Phases) -> float:
    """Seconds of the phases with all ports free: the event loop's rule, for one collective by itself."""
    chunks, count = phases.dimension.shape
    at, moving = np.zeros(chunks, np.int64), set()
    events: list[tuple[float, int]] = []
    now = 0.0

    def fill() -> None:
        for d in set(phases.dimension.flat) - moving:
            ready = [(at[c], c) for c in range(chunks) if 0 <= at[c] < count and phases.dimension[c, at[c]] == d]
            if ready:
                place, chunk = min(ready)
                heapq.heappush(events, (now + phases.busy[chunk, place], chunk))
                moving.add(d)
                at[chunk] = -1 - place

    fill()
    while events:
        now, chunk = heapq.heappop(events)
        place = -1 - at[chunk]
        moving.remove(phases.dimension[chunk, place])
        at[chunk] = place + 1
        fill()
    return now
