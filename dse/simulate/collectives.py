"""What a collective or a message asks of each network dimension: seconds of its ports, and seconds of waiting.

The formulas and constants are those of the closed form (:class:`dse.cost.network.Links`), so that a collective which
has the network to itself takes as long in both.
"""

from __future__ import annotations

from copy import copy
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dse.cost.network import Links
from dse.simulate.system import System
from dse.trace.schema import Collective

Floats = NDArray[np.float64]
KINDS = {
    Collective.ALL_REDUCE: "all_reduce",
    Collective.REDUCE: "broadcast",  # the same steps in reverse
    Collective.ALL_GATHER: "all_gather",
    Collective.GATHER: "reduce_scatter",  # the root's link carries as much
    Collective.SCATTER: "reduce_scatter",
    Collective.BROADCAST: "broadcast",
    Collective.ALL_TO_ALL: "all_to_all",
    Collective.REDUCE_SCATTER: "reduce_scatter",
    Collective.REDUCE_SCATTER_BLOCK: "reduce_scatter",
    Collective.BARRIER: "all_reduce",  # of nothing
}
MESSAGE = -1  # beside the kinds of collective: a message from one rank to another


class Demand(NamedTuple):
    """Of n collectives: ``busy`` [n, dimensions], seconds of a port in each; ``fixed`` [n], seconds besides;
    ``latency`` [n, dimensions], the part of those that is latency of steps (0 where not asked for)."""

    busy: Floats
    fixed: Floats
    latency: Floats


class _Only(Links):
    """The closed form with one dimension that takes time; the others are infinitely quick."""

    def __init__(self, dimensions: tuple[Any, ...], shares: Floats, only: int) -> None:
        # Copies, so that each can be told from its like.
        super().__init__([copy(d) for d in dimensions], {"group": list(shares.T)}, None)
        self._only = only

    def _bandwidth(self, dimension: Any, n: Any) -> Any:
        return super()._bandwidth(dimension, n) if dimension is self.dimensions[self._only] else np.inf

    def _per_dimension(self, *args: Any, **options: Any) -> list[Any]:
        parts = super()._per_dimension(*args, **options)
        return [p if i == self._only else p._replace(load=0.0, steps=0.0) for i, p in enumerate(parts)]


def demand(system: System, kind: int, shares: Floats, size: Floats, *, latencies: bool = False) -> Demand:
    """What collectives of one kind need, each by its quickest protocol.

    Args:
        system: the network.
        kind: :class:`~dse.trace.schema.Collective`, or MESSAGE.
        shares: [n, dimensions], ranks of the group in each dimension.
        size: [n], bytes of the full buffer.
        latencies: say what part of the fixed time is latency.
    """
    name = "point_to_point" if kind == MESSAGE else KINDS[Collective(kind)]
    size, shares = np.asarray(size, float), np.asarray(shares, float)
    found = _protocols(name, system.dimensions, shares, size)
    best = np.argmin([lone_time(name, need, system.chunks) for need in found], axis=0)
    pick = np.arange(len(size))
    busy = np.stack([need.busy for need in found])[best, pick]
    fixed = np.stack([need.fixed for need in found])[best, pick]
    latency = np.zeros(busy.shape)
    if latencies:
        for d in range(len(system.dimensions)):
            quick = [_quick(x) if i == d else x for i, x in enumerate(system.dimensions)]
            without = np.stack([need.fixed for need in _protocols(name, tuple(quick), shares, size)])
            latency[:, d] = fixed - without[best, pick]
    return Demand(busy, fixed, latency)


def _quick(dimension: Any) -> Any:
    return dimension.model_copy(update={"latency": 0.0, "small_latency": 0.0})


def _protocols(name: str, dimensions: tuple[Any, ...], shares: Floats, size: Floats) -> list[Demand]:
    """What each protocol needs, dimension by dimension."""
    rates = [_Only(dimensions, shares, d).rates(name, "group") for d in range(len(dimensions))]
    found = []
    for parts in zip(*rates, strict=True):
        busy = np.stack([np.broadcast_to(size * part.per_byte, size.shape) for part in parts], axis=1)
        fixed = np.zeros(len(size))
        for part in parts:
            fixed = fixed + part.fixed + (0.0 if part.ramp is None else np.sqrt(size) * part.ramp)
        found.append(Demand(busy, fixed, np.zeros(busy.shape)))
    return found


def lone_time(name: str, need: Demand, chunks: int) -> Floats:
    """Seconds that the closed form gives: see :meth:`dse.cost.network.Links.time`."""
    busy = need.busy
    longest = np.zeros(len(busy))
    everything, inner = busy.sum(axis=1), np.zeros(len(busy))
    whole = busy.shape[1] == 1 or name == "point_to_point"
    for part in busy.T:
        wait = inner if name == "all_reduce" else everything - part
        longest = np.maximum(longest, part + (0.0 if whole else wait / chunks))
        inner = inner + part
    return longest + need.fixed


class Phases(NamedTuple):
    """How the chunks of one collective go: the dimension and the seconds of every phase, [chunks, phases] each."""

    dimension: NDArray[np.int64]
    busy: Floats


def phases(
    kind: int, busy: Floats, shares: Floats, system: System, *, chunks: int | None = None, halved: bool = False
) -> Phases:
    """Phases of a collective that needs ``busy`` [dimensions] seconds of each dimension's ports.

    An all-reduce scatters inwards out and gathers back, half of a dimension's time each; other collectives pass each
    dimension once. One over a single dimension is not cut.

    Args:
        chunks: instead of the system's.
        halved: an all-reduce passes its outermost dimension in two phases, too.
    """
    spanned = [int(d) for d in np.flatnonzero(busy > 0)]
    cut = (chunks or system.chunks) if len(spanned) > 1 and kind != MESSAGE else 1
    if not spanned:
        return Phases(np.zeros((1, 0), np.int64), np.zeros((1, 0)))
    both_ways = kind == Collective.ALL_REDUCE
    rising = _order(kind, spanned, busy, both_ways, cut, halved)
    if system.schedule == "themis" and cut > 1 and not any(d.flat for d in system.dimensions):
        from dse.simulate.themis import schedule

        return schedule(KINDS[Collective(kind)], rising, busy, shares, cut, halved)
    return rising


def _order(kind: int, spanned: list[int], busy: Floats, both_ways: bool, cut: int, halved: bool) -> Phases:
    if both_ways:
        way = [*spanned, *spanned[::-1]] if halved else [*spanned, *spanned[-2::-1]]
        seconds = [busy[d] / cut / (1 if d == spanned[-1] and not halved else 2) for d in way]
    else:
        way = spanned[::-1] if kind == Collective.ALL_GATHER else spanned
        seconds = [busy[d] / cut for d in way]
    return Phases(np.tile(np.asarray(way), (cut, 1)), np.tile(np.asarray(seconds, float), (cut, 1)))
