"""Network: collectives on nested dimensions.

A group of ranks meets each network dimension in a share of its size. A collective runs dimension by dimension, each
with its own algorithm, on pieces that keep all dimensions busy at once, so the slowest dimension sets the time.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from dse.cost.algorithms import AUTOMATIC, CLOSED, PAIRWISE, REGISTRY, WITH_OWN_SHARE, all_to_all_load, share
from dse.cost.arrays import Array, select, total, values_of
from dse.cost.graph import quantity
from dse.cost.synthesized import PIECES, is_synthesized, on_graph, synthesized
from dse.errors import Fault, SpecError

LEAST = 1e-6  # of a link's bandwidth that contention leaves


class Part(NamedTuple):
    """What one dimension does in a collective, per byte of it."""

    dimension: Any
    load: Array  # bytes each device sends
    work: Array  # the same, and more where the reduction in the switch is slower than sending
    steps: Array  # latencies in a row
    reduced: Array = False  # the switch adds
    seconds: Array = 0.0  # latencies of links that have their own


class Protocol(NamedTuple):
    """Time of a collective of S > 0 bytes: ``per_byte`` · S + ``ramp`` · sqrt(S) + ``fixed``, in seconds."""

    per_byte: Array
    ramp: Array | None  # None where nothing ramps up
    fixed: Array

    def time(self, size: Array) -> Array:
        """Seconds of ``size`` bytes (0 for none)."""
        seconds = size * self.per_byte
        if self.ramp is not None:
            seconds = seconds + np.sqrt(size) * self.ramp
        return seconds + np.where(np.greater(size, 0), self.fixed, 0.0)


class Links:
    """The network as one group after another sees it; times and loads of collectives on it.

    Args:
        dimensions: network dimensions, innermost first (fields may be arrays).
        shares: for each group name, the number of its ranks in each dimension.
        chunks: pieces a collective is cut into; None is infinitely many.
    """

    def __init__(self, dimensions: Any, shares: dict[str, list[Array]], chunks: Array | None) -> None:
        self.dimensions = tuple(dimensions)
        self.shares = shares
        self.chunks = chunks
        self._rates: dict[tuple[str, str], tuple[Protocol, ...]] = {}
        # Ideal links skip what only measured constants need.
        self._flat, self._reducing = self._any("flat"), self._any("in_network_reduction")
        self._ramps = self._any("ramp") or self._any("in_network_ramp")
        self._copies, self._shared = self._any("own_copy"), self._any("contention")
        self._meshed = any("fully_connected" in values_of(d.topology) for d in self.dimensions)
        self._pieces = PIECES if any(map(is_synthesized, self.dimensions)) else 1
        self._small = any(dimension.small_efficiency is not None for dimension in self.dimensions)

    def _any(self, field: str) -> bool:
        return any(bool(np.any(getattr(dimension, field))) for dimension in self.dimensions)

    def time(self, kind: str, group: str, size: Array) -> Array:
        """Seconds of one collective of ``size`` bytes (0 for an empty one), by the quickest protocol::

            T = max_i( busy_i + wait_i / chunks ) + Σ_i (steps_i · latency_i + overhead_i + 2 sqrt(busy_i · ramp_i))
            busy_i = work_i / (BW_i · efficiency_i · loaded_i)

        ``wait_i`` is what a dimension waits for the first piece, and is waited for with the last one: Σ_{j≠i} busy_j,
        and for an all-reduce Σ_{j<i} busy_j (inner dimensions scatter before and gather after it, outer ones hide
        behind it). Exact for chains of servers; a lower bound for an all-reduce. k hops that pass on a message cut
        into c pieces take (k + c) (ramp + busy / c), least where c = sqrt(k · busy / ramp): hence the square root.
        """
        bulk, *others = self.rates(kind, group)
        seconds = bulk.time(size)
        for protocol in others:
            seconds = np.minimum(seconds, protocol.time(size))
        return seconds

    def rates(self, kind: str, group: str) -> tuple[Protocol, ...]:
        """The protocols a collective in a group can use: that for large messages first."""
        if (kind, group) not in self._rates:
            found = [self._protocol(kind, group)]
            if self._reducing and kind in ("all_reduce", "broadcast"):  # a switch takes longer to start
                found.append(self._protocol(kind, group, switched=False))
            if self._small:
                found.append(self._protocol(kind, group, small=True, switched=False))
            # A synthesized schedule of smaller sizes for each piece of the curve.
            found += [self._protocol(kind, group, piece=piece) for piece in range(1, self._pieces)]
            self._rates[kind, group] = tuple(found)
        return self._rates[kind, group]

    def _protocol(
        self, kind: str, group: str, *, small: bool = False, switched: bool = True, piece: int = 0
    ) -> Protocol:
        busy: list[Array] = []
        fixed: Array = 0.0
        ramp: Array = 0.0
        shares = self.shares[group]
        parts = self._per_dimension(kind, group, switched=switched, piece=piece)
        for index, (part, n) in enumerate(zip(parts, shares, strict=True)):
            dimension, work = part.dimension, part.work
            if self._copies and index == 0 and kind in WITH_OWN_SHARE:
                work = work + own_copy(part, n) / math.prod(shares)
            efficiency, latency, overhead, slope = _constants(dimension, small=small)
            busy.append(work / (self._bandwidth(dimension, n) * efficiency * dimension.loaded))
            if small and kind in PAIRWISE and dimension.pair_efficiency is not None:
                message = part.load if kind == "point_to_point" else np.greater(n, 1) / math.prod(shares)
                pair = self._bandwidth(dimension, n) * dimension.pair_efficiency * dimension.loaded
                busy[-1] = np.fmax(busy[-1], message / pair)
            fixed = fixed + part.seconds + part.steps * latency + np.where(np.greater(part.load, 0), overhead, 0.0)
            if self._ramps:
                ramp = ramp + 2.0 * np.sqrt(busy[-1] * ramp_of(part, slope))
        whole = self.chunks is None or len(busy) == 1 or kind == "point_to_point"
        longest, inner, everything = 0.0, 0.0, total(busy)
        for part in busy:
            wait = 0.0 if whole else inner if kind == "all_reduce" else everything - part
            longest = np.maximum(longest, part + (0.0 if whole else wait / self.chunks))
            inner = inner + part
        return Protocol(longest, ramp if self._ramps else None, fixed)

    def _bandwidth(self, dimension: Any, n: Array) -> Array:
        """What a device gets of its links: fewer where ranks share a root; a full mesh's only to the group's ranks."""
        rate = dimension.bandwidth
        if self._shared:
            rate = rate * np.maximum((2.0 / np.maximum(n, 2.0)) ** dimension.contention, LEAST)
        if self._meshed and dimension.size is not None:
            reached = np.clip((n - 1.0) / np.maximum(dimension.size - 1.0, 1.0), 0.0, 1.0)
            partial = np.logical_and(np.equal(dimension.topology, "fully_connected"), np.greater(n, 1))
            rate = rate * np.where(np.logical_and(partial, np.greater(reached, 0)), reached, 1.0)
        return rate

    def _per_dimension(self, kind: str, group: str, *, switched: bool = True, piece: int = 0) -> list[Part]:
        """The part of each dimension in a collective, innermost first; ``switched``: switches may add; ``piece``: of
        the curve of synthesized schedules."""
        shares = self.shares[group]
        if kind == "point_to_point":
            return self._hop(shares)
        if kind == "all_to_all":
            return self._exchange(shares, piece)
        rings = self._rings(shares) if self._flat and kind != "broadcast" else None
        result, entering, inside = [], 1.0, 1.0
        for index, (dimension, n) in enumerate(zip(self.dimensions, shares, strict=True)):
            inside = inside * n
            reduces = switched and dimension.in_network_reduction
            if rings is not None:
                reduces = np.logical_and(reduces, np.less_equal(rings[index], n))
            load, work, steps, reduced = _dimension_cost(kind, dimension, n, reduces)
            part = synthesized(kind, Part(dimension, load, work, steps, reduced), n, piece)
            part = part._replace(load=part.load * entering, work=part.work * entering)
            result.append(part if rings is None else _on_ring(kind, part, n, rings[index], inside))
            if kind != "broadcast":
                entering = entering / n
        return result

    def _rings(self, shares: list[Array]) -> list[Array]:
        """Ranks on the ring that passes through each dimension: all inside the outermost flat one the group spans."""
        inside, running = [], 1.0
        for n in shares:
            running = running * n
            inside.append(running)
        rings: list[Array] = []
        whole: Array = 1.0
        for dimension, n, ranks in zip(self.dimensions[::-1], shares[::-1], inside[::-1], strict=True):
            spanned = np.logical_and(dimension.flat, np.greater(n, 1))
            whole = np.maximum(whole, np.where(spanned, ranks, 1.0))
            rings.append(whole)
        return rings[::-1]

    def _exchange(self, shares: list[Array], piece: int) -> list[Part]:
        """All-to-all: peers are reached through the outermost dimension in which they differ; on rings, meshes and
        tori every message also travels the inner dimensions, so each carries its own all-to-all of the buffer."""
        everyone: Array = 1.0
        for n in shares:
            everyone = everyone * n
        result, inside = [], 1.0
        for dimension, n in zip(self.dimensions, shares, strict=True):
            switched = (n - 1.0) * inside / everyone
            table = {
                name: switched
                if name in ("switch", "fully_connected")
                else all_to_all_load(name, n, dimension.bidirectional)
                for name in values_of(dimension.topology)
            }
            load = select(dimension.topology, table)
            part = Part(dimension, load, load, np.minimum(n - 1.0, 1.0))
            result.append(on_graph("all_to_all", part, n, piece))
            inside = inside * n
        return result

    def _hop(self, shares: list[Array]) -> list[Part]:
        """To the next rank of the group: through the outermost dimension the group spans."""
        result, further = [], 1.0
        for dimension, n in zip(self.dimensions[::-1], shares[::-1], strict=True):
            here = np.where(np.logical_and(np.greater(n, 1), np.less_equal(further, 1)), 1.0, 0.0)
            result.append(Part(dimension, here, here, here))
            further = further * n
        return result[::-1]

    def energy(self, kind: str, group: str, size: Array) -> Array:
        """Joules that one device's links spend on one collective."""
        return total(size * part.load * part.dimension.energy for part in self._per_dimension(kind, group))

    def load(self, kind: str, group: str, size: Array) -> list[Array]:
        """Bytes one device sends into each dimension."""
        return [size * part.load for part in self._per_dimension(kind, group)]


def own_copy(part: Part, n: Array) -> Array:
    """Work of copying a device's own share of the buffer; where the switch adds, every share goes through it."""
    return np.where(np.logical_and(np.greater(n, 1), np.logical_not(part.reduced)), part.dimension.own_copy, 0.0)


def ramp_of(part: Part, slope: Array) -> Array:
    """Ramp of a dimension: reductions in the switch may have their own."""
    own = part.dimension.in_network_ramp
    return slope if own is None else np.where(np.logical_and(part.reduced, np.isfinite(own)), own, slope)


def _dimension_cost(kind: str, dimension: Any, n: Array, reduces: Array) -> tuple[Array, Array, Array, Array]:
    """Load, work and steps of one dimension under its algorithm and topology, and whether its switch adds.

    ``reduces``: it may add.
    """
    table = REGISTRY[kind]
    loads, steps = {}, {}
    for topology in values_of(dimension.topology):
        # What is synthesized, or runs on a graph, is put in its place later.
        names = {a: a if a in CLOSED else AUTOMATIC[topology] for a in values_of(dimension.algorithm)}
        found = {a: table.get(name, table["halving_doubling"])(n) for a, name in names.items()}
        line = 2.0 if topology == "mesh" else 1.0  # no way around: half the bandwidth
        loads[topology] = line * select(dimension.algorithm, {a: cost[0] for a, cost in found.items()})
        steps[topology] = select(dimension.algorithm, {a: cost[1] for a, cost in found.items()})
    load, step = select(dimension.topology, loads), select(dimension.topology, steps)
    work, chosen = load, False
    if "in_network" in table and np.any(reduces):
        fast_load, fast_step = table["in_network"](n)
        if kind == "all_reduce":
            fast_load = fast_load + np.where(np.greater(n, 1), dimension.in_network_pull, 0.0) / n
        slower = fast_load / dimension.in_network_efficiency
        chosen = np.logical_and(reduces, np.less_equal(slower, load))
        load, work = np.where(chosen, fast_load, load), np.where(chosen, slower, load)
        step = np.where(reduces, np.minimum(fast_step, step), step)
    return load, work, step, chosen


def _on_ring(kind: str, part: Part, n: Array, ring: Array, inside: Array) -> Part:
    """A dimension's part where one ring passes through it and others: ``ring`` ranks in all, ``inside`` up to here.

    A ring of R ranks sends (R − 1)/R of the data through every link and takes R − 1 steps, (n − 1) R / inside of
    them in this dimension. Small all-reduces use trees, whose steps are those of the dimensions one by one (NCCL
    2.19, src/graph/tuning.cc).
    """
    covered = np.logical_and(np.greater(ring, 1), np.greater(n, 1))
    more = np.where(covered, share(ring) / np.where(covered, share(n), 1.0), 1.0)
    steps = part.steps if kind == "all_reduce" else np.where(covered, (n - 1.0) * ring / inside, part.steps)
    return part._replace(load=part.load * more, work=part.work * more, steps=steps)


def _constants(dimension: Any, *, small: bool) -> tuple[Array, Array, Array, Array]:
    """Efficiency, latency, overhead and ramp of a protocol; where a dimension has one only, of that."""
    bulk = (dimension.efficiency, dimension.latency, dimension.overhead, dimension.ramp)
    if not small or dimension.small_efficiency is None:
        return bulk
    quick = (dimension.small_efficiency, dimension.small_latency, dimension.small_overhead, 0.0)
    has = np.greater(dimension.small_efficiency, 0)  # not a number where a merged array holds none
    return quick if np.all(has) else tuple(np.where(has, q, b) for q, b in zip(quick, bulk, strict=True))


# -- groups on the network ----------------------------------------------------------------------------------


def balanced_sizes(devices: float, dimensions: int, limits: list[float]) -> list[float]:
    """Factor a device count into near-equal torus sides, none above its limit where that is possible."""
    best: tuple[float, list[float]] | None = None
    small = [side for side in range(1, math.isqrt(int(devices)) + 1) if devices % side == 0]
    divisors = sorted({*small, *(int(devices) // side for side in small)})

    def search(rest: int, sides: list[int]) -> None:
        nonlocal best
        if len(sides) == dimensions - 1:
            candidate = [float(side) for side in (*sides, rest)]
            over = sum(max(0.0, side / limit - 1) for side, limit in zip(candidate, limits, strict=True))
            score = over * 1e6 + max(candidate) / min(candidate)
            if best is None or score < best[0]:
                best = (score, candidate)
            return
        for side in divisors:
            if rest % side == 0:
                search(rest // side, [*sides, side])

    search(int(devices), [])
    return best[1] if best else [float(devices)]


@quantity("1", "sizes of the network dimensions for this many devices")
def dimension_sizes(cluster: Any, devices: Array) -> list[Array]:
    """Fill the dimensions from the innermost; the outermost takes what is left (or a balanced torus)."""
    dimensions = cluster.network.dimensions
    if cluster.network.sizing == "balanced":
        if any(np.ndim(d.size) for d in dimensions if d.size is not None):
            rule = "the sides of a balanced torus follow the number of devices and cannot be an axis"
            raise SpecError([Fault("cluster.network.dimensions.size", "", rule)])
        limits = [float(d.size or np.inf) for d in dimensions]
        table = {value: balanced_sizes(value, len(limits), limits) for value in values_of(devices)}
        return [select(devices, {value: sizes[i] for value, sizes in table.items()}) for i in range(len(limits))]
    sizes, left = [], np.maximum(devices * 1.0, 1.0)
    for dimension in dimensions[:-1]:
        size = np.minimum(dimension.size, left)
        sizes.append(size)
        left = left / size
    return [*sizes, np.maximum(left, 1.0)]


def group_shares(stride: Array, size: Array, sizes: list[Array]) -> list[Array]:
    """Ranks of a group in each dimension: ``size`` ranks, ``stride`` apart, packed from the innermost dimension.

    With C the running product of the dimension sizes, the share of dimension i is
    min(C_i, stride·size) / max(C_{i−1}, stride), at least 1. A group that straddles a boundary unevenly gets a
    fractional share: its mean over the boundary.
    """
    shares, inner = [], 1.0
    last = len(sizes) - 1
    for i, dimension in enumerate(sizes):
        outer = inner * dimension
        reach = stride * size if i == last else np.minimum(outer, stride * size)
        shares.append(np.maximum(reach / np.maximum(inner, stride), 1.0))
        inner = outer
    return shares


@quantity("1", "ranks of each group in each network dimension")
def placement_shares(
    placement: Array,
    tp: Array,
    cp: Array,
    data_parallel: Array,
    pp: Array,
    ep: Array,
    devices: Array,
    dimension_sizes: list[Array],
    shard_group: Array,
    zero_ranks: dict[str, Array],
) -> dict[str, list[Array]]:
    """Where each parallel group lies. Gradients are reduced over dp·cp; experts take the innermost of those ranks, as
    does a shard group, whose copies lie further out."""
    degrees = {"tp": tp, "cp": cp, "dp": data_parallel, "pp": pp}
    shares: dict[str, dict[str, list[Array]]] = {}
    for order in values_of(placement):
        stride: dict[str, Array] = {}
        running: Array = 1.0
        for name in order.split("-"):
            stride[name] = running
            running = running * degrees[name]
        # The innermost of the two groups; one of size 1 lies nowhere.
        first = np.where(np.less_equal(data_parallel, 1), stride["cp"], np.minimum(stride["dp"], stride["cp"]))
        first = np.where(np.less_equal(cp, 1), stride["dp"], first)
        replicas = data_parallel * cp
        found = {name: group_shares(stride[name], degrees[name], dimension_sizes) for name in degrees}
        found["grad"] = _joint(found["dp"], found["cp"])
        found["ep"] = group_shares(first, ep, dimension_sizes)
        found["expert_grad"] = group_shares(first * ep, replicas / ep, dimension_sizes)
        if np.any(shard_group):
            found["shard"] = group_shares(first, zero_ranks["dense"], dimension_sizes)
            found["copies"] = group_shares(first * zero_ranks["dense"], replicas / zero_ranks["dense"], dimension_sizes)
        shares[order] = found
    groups = next(iter(shares.values()))
    result = {
        name: [
            select(placement, {order: shares[order][name][i] for order in shares}) for i in range(len(dimension_sizes))
        ]
        for name in groups
    }
    result["all"] = dimension_sizes
    return result


def _joint(first: list[Array], second: list[Array]) -> list[Array]:
    return [a * b for a, b in zip(first, second, strict=True)]


@quantity("", "the network as each group sees it")
def links(cluster: Any, placement_shares: dict[str, list[Array]]) -> Links:
    """Collective times on this cluster for this placement."""
    network = cluster.network
    return Links(network.dimensions, placement_shares, network.pipeline_chunks)
