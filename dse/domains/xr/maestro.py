"""Traffic and time of one cluster level by the rules of the MAESTRO fork that XRBench ships.

The steps of a level fall into cases: each loop is at its first piece, at a later whole piece, or at a cut last piece.
All steps of a case move the same data and take the same time, so a level costs a sum over cases. Rules re-derived from
the fork's behaviour and checked against its recorded layer costs, its approximations included:

* what is new at a step follows from the innermost loop that moved; a cut piece is loaded as if it were whole;
* a piece larger than its dimension is loaded as the remainder of the dimension by the offset, which may be nothing;
* a unit's work is that of a whole piece of the level below, whatever the case.

All functions work on columns: arrays of shape (cases, designs).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from dse.domains.xr.clusters import INPUT_OF, KERNEL_OF, Cluster, Loop, lay_out
from dse.domains.xr.counts import Counts, Tensors
from dse.domains.xr.dataflow import Dataflow
from dse.domains.xr.layer import Layer
from dse.errors import Fault, SpecError

FIRST, LATER, CUT, START = range(4)  # START: the very first step, where nothing is resident yet
Array = np.ndarray


@dataclass(frozen=True)
class LevelCost:
    """Counts of elements and cycles of one cluster level, one entry a design.

    Attributes:
        cycles: time.
        bound: cycles by what sets the time of a step: compute, ingress, egress.
        macs: multiply-adds as the level counts them.
        upstream_reads: elements read from the buffer above the level: input, weight.
        downstream_writes: elements written to the buffers of the units: input, weight, output.
        downstream_reads: elements read from them: input, weight, output.
        upstream_size: elements that the buffer above must hold for the first step, twice: input, weight, output.
        downstream_size: elements that a unit's buffer must hold, twice: input, weight, output.
    """

    cycles: Array
    bound: dict[str, Array]
    macs: Array
    upstream_reads: dict[str, Array]
    downstream_writes: dict[str, Array]
    downstream_reads: dict[str, Array]
    upstream_size: dict[str, Array]
    downstream_size: dict[str, Array]


def count(layer: Layer, tensors: Tensors, flow: Dataflow, pes: Array, bandwidth: Array, latency: Array) -> Counts:
    """Counts of layers; those of the buffers are of the top level alone, as the fork takes them for its energy.

    Args:
        layer: columns.
        tensors: what indexes what.
        flow: the loops.
        pes: of each design.
        bandwidth: elements per cycle into, and out of, each level's network.
        latency: cycles from its entry to a unit.

    Raises:
        SpecError: no positive time comes out, which some kernels larger than their input lead to.
    """
    below = None
    for cluster in reversed(lay_out(flow, layer, pes)):
        top = level_cost(cluster, tensors, below, bandwidth, latency)
        below = top.cycles
    if (top.cycles <= 0).any():
        at = int(np.flatnonzero(top.cycles <= 0)[0])
        shown = ", ".join(f"{name}={int(column[at])}" for name, column in zip("KCRSYX", layer, strict=False))
        rule = (
            f"takes {int(top.cycles[at])} cycles by the rules of MAESTRO, which do not hold for it; use rules 'exact'"
        )
        raise SpecError([Fault("layer", shown, rule)])
    channels = layer.k * (layer.c if "C" in tensors.output else 1)
    outputs = channels * (layer.y - layer.r + 1) * (layer.x - layer.s + 1)  # not clamped where a kernel hangs over
    accesses = {f"l2 reads {name}": value for name, value in top.upstream_reads.items()}
    accesses |= {"l2 writes input": layer.inputs, "l2 writes weight": layer.weights, "l2 writes output": outputs}
    accesses |= {f"l1 reads {name}": value for name, value in top.downstream_reads.items()}
    accesses |= {f"l1 writes {name}": value for name, value in top.downstream_writes.items()}
    l1, l2 = sum(top.downstream_size.values()), sum(top.upstream_size.values())
    return Counts(top.cycles, top.bound, top.macs, accesses, np.asarray(l1), np.asarray(l2))


def level_cost(cluster: Cluster, tensors: Tensors, below: Array | None, bandwidth: Array, latency: Array) -> LevelCost:
    """Cost of a level.

    Args:
        cluster: its loops.
        tensors: what indexes what.
        below: cycles of one unit of the level below; None where units are PEs.
        bandwidth: elements per cycle into, and out of, the level's network.
        latency: cycles from its entry to a unit.
    """
    return _Level(cluster, tensors).cost(below, bandwidth, latency)


class _Level:
    """One level of all designs, and the cases that occur in any of them."""

    def __init__(self, cluster: Cluster, tensors: Tensors) -> None:
        self.cluster, self.tensors, self.loops = cluster, tensors, cluster.loops
        self.place = {loop.dim: i for i, loop in enumerate(self.loops)}
        self.spatial = [i for i, loop in enumerate(self.loops) if loop.spatial]
        self.lead = self.loops[self.spatial[0]]
        self.whole = [self._is_whole(loop) for loop in self.loops]  # one step covers the dimension
        self.short = [self._is_short(loop) for loop in self.loops]  # less than one step covers it
        self.rest_units, self.spatial_rest = self._remainder()
        self.states, self.count = self._cases()
        self.moved = np.array([max((i for i, s in enumerate(c) if s in (LATER, CUT)), default=-1) for c in self.states])

    def cost(self, below: Array | None, bandwidth: Array, latency: Array) -> LevelCost:
        """See ``level_cost``."""
        work = self._outputs(partial=True)
        done = self._outputs(partial=False)
        count = np.where(work == 0, 0, self.count)
        active = self._active_units()
        loads = {name: (self._load(name, first=True), self._load(name, first=False)) for name in ("input", "weight")}
        traffic = {name: self._traffic(name, *load) for name, load in loads.items()}
        compute = work if below is None else np.where(below == 0, work, below)
        delays = np.stack([
            np.broadcast_to(compute, count.shape),
            _transfer(sum(traffic.values()), bandwidth, latency),
            _transfer(done, bandwidth, latency),
        ])  # fmt: skip
        cycles, setter = delays.max(axis=0), delays.argmax(axis=0)

        def total(each: Array) -> Array:
            return np.asarray((count * each).sum(axis=0))

        return LevelCost(
            cycles=total(cycles),
            bound={name: total(cycles * (setter == i)) for i, name in enumerate(("compute", "ingress", "egress"))},
            macs=total((active - 1) * work + self._outputs(partial=True, last_unit=True)),
            upstream_reads={name: total(moved) for name, moved in traffic.items()},
            downstream_writes={name: total(load[0] * active) for name, load in loads.items()} | {"output": total(work)},
            downstream_reads={name: total(work * active) for name in loads} | {"output": total(work - 1)},
            upstream_size={n: 2 * np.where(work[0] == 0, 0, v[0]) for n, v in (traffic | {"output": done}).items()},
            downstream_size={n: 2 * self._mapped(dims) for n, dims in vars(self.tensors).items()},
        )

    # Cases

    def _is_whole(self, loop: Loop) -> Array:
        covered = (self.cluster.units - 1) * loop.offset + loop.size if loop.spatial else loop.size
        return np.asarray(covered >= loop.extent)

    def _is_short(self, loop: Loop) -> Array:
        return np.asarray((loop.offset * self.cluster.units if loop.spatial else loop.size) > loop.extent)

    def _positions(self, loop: Loop) -> Array:
        """Positions to cover: of rows and columns, those of the output."""
        if loop.dim not in KERNEL_OF:
            return loop.extent
        return loop.extent - self.cluster.of(KERNEL_OF[loop.dim]).extent + 1

    def _remainder(self) -> tuple[Array, Array]:
        """Units at work in the last step over units, and whether that step leaves units idle."""
        positions, offset = self._positions(self.lead), self.lead.offset
        left = np.fmod(positions, offset * self.cluster.units)
        return np.where(positions <= self.lead.size, 1, _divide(left, offset)), left != 0

    def _occurrences(self, i: int) -> list[Array]:
        """How many steps of a loop are its first, later whole ones, its cut last one, and the very first."""
        loop = self.loops[i]
        reach = loop.offset * self.cluster.units if loop.spatial else loop.offset
        positions = self._positions(loop)
        cut = np.fmod(positions, reach) != 0
        steps = _divide(positions, reach) + cut
        ends_cut = self.spatial_rest if loop.spatial else cut
        one_step = self.short[i] | (reach >= loop.extent if loop.spatial else loop.size >= loop.extent)
        later = np.where(self.whole[i], 0, steps - np.where(ends_cut, 2, 1))
        first = np.ones_like(later)
        return [first, later, np.where(ends_cut & ~one_step, 1, 0), first]

    def _cases(self) -> tuple[Array, Array]:
        """States of the loops (cases, loops) and how often each case occurs (cases, designs)."""
        occurrences = [self._occurrences(i) for i in range(len(self.loops))]
        options = [[s for s in (FIRST, LATER, CUT) if counts[s].any()] for counts in occurrences]
        states = [c if any(c) else (START,) * len(c) for c in itertools.product(*options)]
        count = np.stack([_product(counts[s] for counts, s in zip(occurrences, c, strict=True)) for c in states])
        kept = count.any(axis=1)
        return np.array(states)[kept], count[kept]

    def _by_state(self, i: int, first: Array, later: Array, cut: Array, start: Array) -> Array:
        """A loop's value in each case (cases, designs)."""
        return np.stack(np.broadcast_arrays(first, later, cut, start))[self.states[:, i]]

    # Work of a step

    def _piece(self, i: int, *, last_unit: bool) -> Array:
        """Elements of a piece, cut where the dimension ends (cases, designs)."""
        loop = self.loops[i]
        left = np.fmod(loop.extent, loop.offset)
        if not loop.spatial:
            first = np.where(self.short[i], loop.extent, loop.size)
            return self._by_state(i, first, loop.size, left, first)
        end = np.where(left == 0, loop.size, left) if last_unit else loop.size
        end = np.where(loop.extent < loop.size, loop.extent, end)
        start = np.where(self.short[i], end, loop.size)
        return self._by_state(i, np.where(self.whole[i], loop.size, start), loop.size, end, start)

    def _outputs(self, *, partial: bool, last_unit: bool = False) -> Array:
        """Partial sums, or outputs, of a unit in a step."""
        found = np.ones_like(self.count)
        for i, loop in enumerate(self.loops):
            if partial:
                piece = self._piece(i, last_unit=last_unit)
                if loop.dim in KERNEL_OF:
                    piece = np.maximum(piece - self.cluster.of(KERNEL_OF[loop.dim]).size + 1, 1)
                elif loop.dim in INPUT_OF:
                    piece = np.broadcast_to(loop.size, found.shape)
                found = found * piece
            elif loop.dim in self.tensors.output:
                piece = self._piece(i, last_unit=False)
                if loop.dim in KERNEL_OF:
                    window = self.cluster.of(KERNEL_OF[loop.dim]).size
                    piece = np.where(loop.size < window, piece, loop.size - window + 1)
                found = found * piece
        return found

    def _active_units(self) -> Array:
        i = self.spatial[0]
        units, rest = self.cluster.units, self.rest_units
        begin = np.where(self.short[i], rest, units)
        return self._by_state(i, begin, units, rest, begin)

    # Traffic of a step

    def _mapped(self, dims: str) -> Array:
        return _product(self.cluster.of(d).size for d in dims)

    def _load(self, name: str, *, first: bool) -> Array:
        """Elements new to a unit in a step: the first unit's, or those its neighbours do not get with it."""
        at = [self.place[d] for d in vars(self.tensors)[name]]
        full = self._full(at, first=first)
        steady = [self.states[:, i] == FIRST for i in range(len(self.loops))]
        resident = [s[:, None] & self.whole[i] for i, s in enumerate(steady)]  # did not move: the dimension is whole
        inside = np.isin(self.moved, at)[:, None]
        all_resident = np.logical_and.reduce([resident[i] for i in at])
        none_outside = np.logical_and.reduce([resident[i] | (self.moved <= i)[:, None] for i in at])
        found = np.where(inside, self._new(at, resident, first=first), np.where(none_outside, full, 0))
        found = np.where(all_resident, 0, found)
        return np.where((self.moved == -1)[:, None], full, found)

    def _full(self, at: list[int], *, first: bool) -> Array:
        """Elements of a piece of a tensor where nothing is resident."""
        loops = [self.loops[i] for i in at]
        if not first and not any(loop.spatial for loop in loops):
            return np.zeros_like(self.cluster.units)
        return _product(
            (loop.size if first else np.minimum(loop.size, loop.offset)) if loop.spatial
            else np.where(self.short[i], np.fmod(loop.extent, loop.offset), loop.size)
            for i, loop in zip(at, loops, strict=True)
        )  # fmt: skip

    def _new(self, at: list[int], resident: list[Array], *, first: bool) -> Array:
        """Elements of a piece of a tensor that one of its own loops moved to."""
        found = np.ones_like(self.count)
        for i in at:
            loop = self.loops[i]
            fresh = np.minimum(loop.size, loop.offset)
            if loop.spatial:
                found = found * (loop.size if first else fresh)
            else:
                still = np.where(resident[i], loop.extent, loop.size)
                found = found * np.where((self.moved == i)[:, None], fresh, still)
        return found

    def _traffic(self, name: str, first: Array, others: Array) -> Array:
        """Elements sent to all units in a step; what several need is sent once."""
        if not any(self.loops[self.place[d]].spatial for d in vars(self.tensors)[name]):
            return first
        i = self.spatial[0]
        units = np.where(self.short[i], self.rest_units, self.cluster.units)
        units = self._by_state(i, units, self.cluster.units, self.rest_units, units)
        return first + np.maximum(units - 1, 0) * others


def _transfer(elements: Array, bandwidth: Array, latency: Array) -> Array:
    """Cycles until the last element has arrived."""
    return latency - 1 + -(-elements // bandwidth)


def _divide(a: Array, b: Array) -> Array:
    """Integer quotient towards zero."""
    return np.asarray(np.sign(a) * (np.abs(a) // b))


def _product(factors: object) -> Array:
    found: Array = np.int64(1)
    for factor in factors:  # type: ignore[attr-defined]
        found = found * factor
    return found
