"""Counts of what a literal run of a dataflow's loop nest does, without running it.

The run that is counted: at each step of a level every unit gets a piece of each loop's dimension, cut where the
dimension ends, and works through it by the loops of the level below; a PE does one multiply-add a cycle.

* A unit holds the input and weights of one step. At the next it is sent what it does not hold; what several units need
  is sent once, and idle units listen. Windows along a dimension that is spread over units are kept only while they
  slide forward; a unit whose own piece of a spread dimension changes, or that starts the work of a step above, holds
  nothing.
* Outputs leave a unit when it goes on to other ones. Units that worked on the same ones are summed on the way, and the
  buffer above adds what comes in parts.
* A step takes as long as the slowest of its work (of its first unit), its transfers in and its transfers out.

Where a kernel hangs over its input the missing input counts as zeros that are stored. Loops must cut K, C, R, S, Y', X'
into pieces that do not overlap; Y with R, or X with S, may be spread along a diagonal.

Steps fall into cases: each loop is at its first piece, at a later whole one, or at a cut last one. The innermost loop
that is not at its first piece has just moved, those inside it have begun again. All steps of a case cost the same.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from dse.domains.xr.counts import Counts, Tensors, at_once
from dse.domains.xr.dataflow import Dataflow, Level
from dse.domains.xr.layer import Layer
from dse.errors import Fault, SpecError

DIMS = ("C", "K", "R", "S", "Y'", "X'")
OUTPUT_OF = {"Y": "Y'", "X": "X'"}
AXES = (("Y'", "R"), ("X'", "S"))
FIRST, LATER, CUT = range(3)
MOVED = ("input", "weight")
Array = np.ndarray


@dataclass(frozen=True)
class _Loop:
    dim: str
    spatial: bool
    size: int  # 0: whole


@dataclass(frozen=True)
class _Steps:
    """A loop of one level in each case: arrays (cases, designs), or (designs,) where cases do not differ."""

    span: Array  # elements of all units
    piece: Array  # of the first unit
    last: Array  # of the last unit at work
    active: Array  # units at work
    size: Array  # of a whole piece
    moved: Array  # this is the loop that moved
    again: Array  # it has begun again
    came_from: Array  # span of the step before
    shift: Array  # of the span's start


def count(layer: Layer, tensors: Tensors, flow: Dataflow, pes: Array, bandwidth: Array, latency: Array) -> Counts:
    """Counts of layers.

    Args:
        layer: columns.
        tensors: what indexes what.
        flow: the loops.
        pes: of each design.
        bandwidth: elements per cycle into, and out of, each level's network.
        latency: cycles from its entry to a unit.

    Raises:
        SpecError: pieces that overlap, or loops in coordinates of the input that are not along a diagonal.
    """
    nest = [_loops(level, number) for number, level in enumerate(flow.levels)]
    units = [level.units for level in flow.levels]
    extents = [layer.c, layer.k, layer.r, layer.s, layer.rows, layer.columns]
    designs = np.stack([*extents, pes // flow.cluster_units, bandwidth, latency], axis=1)
    found = _level(nest, units, 0, designs, tensors)
    deepest = len(nest) - 1
    accesses = {f"l2 reads {name}": found[f"0 in {name}"] for name in MOVED}
    outputs = layer.outputs * (layer.c if "C" in tensors.output else 1)
    accesses |= {"l2 reads output": found["0 out"] - outputs, "l2 writes output": found["0 out"]}
    accesses |= {"l2 writes input": layer.inputs, "l2 writes weight": layer.weights}
    for name in MOVED:
        accesses[f"cluster reads {name}"] = sum((found[f"{d} in {name}"] for d in range(1, deepest + 1)), 0 * pes)
        accesses[f"cluster writes {name}"] = sum((found[f"{d} sent {name}"] for d in range(deepest)), 0 * pes)
        accesses |= {f"l1 reads {name}": layer.macs, f"l1 writes {name}": found[f"{deepest} sent {name}"]}
    for way in ("reads", "writes"):
        accesses[f"cluster {way} output"] = sum((found[f"{d} out"] for d in range(1, deepest + 1)), 0 * pes)
        accesses[f"l1 {way} output"] = layer.macs
    bound = {name: found[name] for name in ("compute", "ingress", "egress")}
    return Counts(found["cycles"], bound, layer.macs, accesses, 2 * found["held"], 2 * found["0 step"])


def _loops(level: Level, number: int) -> tuple[_Loop, ...]:
    """Loops of a level in coordinates of the output, outermost first; a dimension it does not mention is whole."""
    diagonal = {m.dim for m in level.maps if m.spatial} if sum(m.spatial for m in level.maps) == 2 else set()
    found = []
    for m in level.maps:
        where = f"loops of level {number}"
        if m.dim in OUTPUT_OF and m.dim not in diagonal:
            rule = f"must be stated as {OUTPUT_OF[m.dim]} for rules 'exact', except with its kernel along a diagonal"
            raise SpecError([Fault(where, m.dim, rule)])
        if m.offset != m.size:
            raise SpecError([Fault(where, f"{m.dim} {m.size} by {m.offset}", "must not overlap for rules 'exact'")])
        if m.dim in OUTPUT_OF:  # one row of the input with one row of the kernel: one row of the output
            kernel = next(k.size for k in level.maps if k.dim in diagonal - {m.dim})
            if m.size != kernel or m.size != 1:
                raise SpecError([Fault(where, f"{m.dim} {m.size}", "must be 1, as its kernel's, along a diagonal")])
            found.append(_Loop(OUTPUT_OF[m.dim], False, 1))
        else:
            found.append(_Loop(m.dim, m.spatial, m.size))
    stated = {loop.dim for loop in found}
    return (*found, *(_Loop(dim, False, 0) for dim in DIMS if dim not in stated))


def _level(
    nest: list[tuple[_Loop, ...]], units: list[int], depth: int, designs: Array, tensors: Tensors
) -> dict[str, Array]:
    """Totals of a level and those below it, each different design computed once.

    ``designs`` has columns of extents in the order of ``DIMS``, units of this level, bandwidth, latency.
    """
    different, back = np.unique(designs, axis=0, return_inverse=True)
    blocks = -(-len(different) // at_once(sum(loop.size > 0 for loop in nest[depth])))
    parts = [_block(nest, units, depth, each, tensors) for each in np.array_split(different, blocks)]
    return {name: np.concatenate([part[name] for part in parts])[back.ravel()] for name in parts[0]}


def _block(
    nest: list[tuple[_Loop, ...]], units: list[int], depth: int, each: Array, tensors: Tensors
) -> dict[str, Array]:
    """Totals of designs that all differ."""
    loops = nest[depth]
    extent = dict(zip(DIMS, each.T[:6], strict=True))
    states, counts, steps = _steps(loops, extent, each[:, 6])
    moves = _moves(loops, steps, tensors, states)
    below = _below(nest, units, depth, each, tensors, loops, steps, states)
    delays = np.stack([
        below.pop("slowest"),
        _transfer(moves["in input"] + moves["in weight"], each[:, 7], each[:, 8]),
        _transfer(moves["out"], each[:, 7], each[:, 8]),
    ])  # fmt: skip
    cycles, setter = delays.max(axis=0), delays.argmax(axis=0)
    found = {"cycles": (counts * cycles).sum(axis=0), "held": below.pop("held")}
    for i, name in enumerate(("compute", "ingress", "egress")):
        found[name] = (counts * cycles * (setter == i)).sum(axis=0)
    found |= {f"{depth} {name}": (counts * value).sum(axis=0) for name, value in moves.items()}
    found |= {name: (counts * value).sum(axis=0) for name, value in below.items()}
    found[f"{depth} step"] = moves["in input"][0] + moves["in weight"][0] + moves["out"][0]
    return found


def _steps(loops: tuple[_Loop, ...], extent: dict[str, Array], units: Array) -> tuple[Array, Array, dict[str, _Steps]]:
    """States of the loops (cases, loops), how often each case occurs (cases, designs), and the loops in each."""
    sizes = [np.minimum(loop.size or extent[loop.dim], extent[loop.dim]) for loop in loops]
    reach = [size * units if loop.spatial else size for loop, size in zip(loops, sizes, strict=True)]
    number = [-(-extent[loop.dim] // r) for loop, r in zip(loops, reach, strict=True)]
    rest = [extent[loop.dim] - (n - 1) * r for loop, n, r in zip(loops, number, reach, strict=True)]
    cut = [(n > 1) & (left < r) for n, left, r in zip(number, rest, reach, strict=True)]
    occurrences = [[np.ones_like(n), n - 1 - c, c.astype(n.dtype)] for n, c in zip(number, cut, strict=True)]
    options = [[s for s in (FIRST, LATER, CUT) if counts[s].any()] for counts in occurrences]
    states = np.array(list(itertools.product(*options)))
    counts = np.stack([_product([o[s] for o, s in zip(occurrences, case, strict=True)]) for case in states])
    states, counts = states[counts.any(axis=1)], counts[counts.any(axis=1)]
    prime = np.array([max(np.flatnonzero(case), default=-1) for case in states])[:, None]
    found = {}
    for i, loop in enumerate(loops):
        span = np.stack([np.minimum(reach[i], extent[loop.dim]), reach[i], rest[i]])[states[:, i]]
        active = -(-span // sizes[i]) if loop.spatial else np.ones_like(span)
        moved, again = prime == i, (prime < i) & (number[i] > 1)
        found[loop.dim] = _Steps(
            span=span,
            piece=np.minimum(sizes[i], span) if loop.spatial else span,
            last=span - (active - 1) * sizes[i] if loop.spatial else span,
            active=active,
            size=sizes[i],
            moved=np.broadcast_to(moved, span.shape),
            again=again,
            came_from=np.where(moved, reach[i], np.where(again, np.where(cut[i], rest[i], reach[i]), span)),
            shift=np.where(moved, reach[i], np.where(again, -(number[i] - 1) * reach[i], 0)),
        )
    return states, counts, found


def _moves(loops: tuple[_Loop, ...], steps: dict[str, _Steps], tensors: Tensors, states: Array) -> dict[str, Array]:
    """Elements of each step: into the level's network, to its units, and out of it."""
    spread = next(loop.dim for loop in loops if loop.spatial)
    begun = ~states.any(axis=1)[:, None]  # the very first step

    def changes(dims: list[str]) -> Array:
        return functools.reduce(np.logical_or, [steps[d].moved | steps[d].again for d in dims], begun)

    weight = list(tensors.weight)
    outputs = [OUTPUT_OF.get(d, d) for d in tensors.output]
    into = np.where(changes(weight), _product([steps[d].span for d in weight]), 0)
    sent, units_get = _input(steps, spread, changes(["C"]))
    copies = steps[spread].active
    return {
        "in weight": into,
        "sent weight": into if spread in weight else into * copies,
        "in input": sent,
        "sent input": units_get * copies if spread == "K" else units_get,
        "out": np.where(changes(outputs), _product([steps[d].span for d in outputs]), 0),
    }


def _input(steps: dict[str, _Steps], spread: str, fresh: Array) -> tuple[Array, Array]:
    """Input elements that no unit of those that need them holds: sent, and received by all units together."""
    axes = [_axis(steps[out], steps[kernel], spread, (out, kernel)) for out, kernel in AXES]
    fresh = fresh | axes[0].lost | axes[1].lost
    if spread in AXES[0]:
        spread_axis, other = axes
    else:
        other, spread_axis = axes
    found = []
    for whole, new in ((spread_axis.union, spread_axis.union_new), (spread_axis.total, spread_axis.total_new)):
        partly = whole * other.union_new + new * (other.union - other.union_new)
        found.append(steps["C"].span * np.where(fresh, whole * other.union, partly))
    return found[0], found[1]


@dataclass(frozen=True)
class _Axis:
    """Rows (or columns) of the input in a step: of all units as a set, and summed over units; new ones of them."""

    union: Array
    union_new: Array
    total: Array
    total_new: Array
    lost: Array  # units hold nothing of the tensor


def _axis(out: _Steps, kernel: _Steps, spread: str, names: tuple[str, str]) -> _Axis:
    if spread not in names:
        new, old = out.span + kernel.span - 1, out.came_from + kernel.came_from - 1
        shift = out.shift + kernel.shift
        kept = np.maximum(np.minimum(old, shift + new) - np.maximum(0, shift), 0)
        return _Axis(new, new - kept, new, new - kept, np.zeros(new.shape, dtype=bool))
    wide, other = (out, kernel) if spread == names[0] else (kernel, out)
    lost = wide.moved | wide.again | other.again
    union = wide.span + other.span - 1
    total = (wide.active - 1) * (wide.piece + other.span - 1) + wide.last + other.span - 1
    # The window of a unit of which ``piece`` elements are its own slides: new are those from ``low`` to ``high``.
    slid = other.moved & ~lost
    high, high_last = (other.shift + p + other.span - 1 for p in (wide.piece, wide.last))
    low, low_last = (np.maximum(other.shift, p + other.came_from - 1) for p in (wide.piece, wide.last))
    new, new_last = high - low, high_last - low_last
    beyond = np.maximum(high_last + wide.size - np.maximum(low_last + wide.size, high), 0)
    several = new + (wide.active - 2) * np.minimum(new, wide.size) + beyond
    union_new = np.where(slid, np.where(wide.active > 1, several, new_last), 0)
    return _Axis(union, union_new, total, np.where(slid, (wide.active - 1) * new + new_last, 0), lost)


def _below(
    nest: list[tuple[_Loop, ...]], units: list[int], depth: int, each: Array, tensors: Tensors,
    loops: tuple[_Loop, ...], steps: dict[str, _Steps], states: Array,
) -> dict[str, Array]:  # fmt: skip
    """Totals of the levels below in each step, the cycles of its first unit, and what a PE holds at first."""
    spread = next(loop.dim for loop in loops if loop.spatial)
    first = np.stack([steps[d].piece for d in DIMS])
    if depth == len(nest) - 1:
        c, k, r, s, y, x = first[:, 0]
        outputs = _product([{"C": c, "K": k, "Y": y, "X": x}[d] for d in tensors.output])
        held = c * (y + r - 1) * (x + s - 1) + k * c * r * s + outputs
        return {"slowest": _product(list(first)), "held": held}
    last = first.copy()
    last[DIMS.index(spread)] = steps[spread].last
    # Pieces differ between cases only by which loops are cut: one case without later pieces stands for each set.
    kinds, kind = np.unique(np.where(states == LATER, FIRST, states), axis=0, return_inverse=True)
    bare = np.flatnonzero(~(states == LATER).any(axis=1))
    case = np.empty(len(kinds), dtype=int)
    case[kind.ravel()[bare]] = bare
    machine = np.stack([np.full(len(each), units[depth + 1]), each[:, 7], each[:, 8]])
    some = [np.concatenate([part[:, c], machine]) for part in (first, last) for c in case]
    found = _level(nest, units, depth + 1, np.maximum(np.concatenate(some, axis=1).T, 1), tensors)

    def of(value: Array, which: int) -> Array:
        return value.reshape(2, len(case), len(each))[which][kind.ravel()]

    idle = {"cycles", "held", "compute", "ingress", "egress", f"{depth + 1} step"}
    totals = {
        name: (steps[spread].active - 1) * of(value, 0) + of(value, 1)
        for name, value in found.items() if name not in idle
    }  # fmt: skip
    return totals | {"slowest": of(found["cycles"], 0), "held": of(found["held"], 0)[0]}


def _transfer(elements: Array, bandwidth: Array, latency: Array) -> Array:
    """Cycles until the last element has arrived."""
    return np.where(elements > 0, latency - 1 - (-elements // bandwidth), 0)


def _product(factors: list[Array]) -> Array:
    found = factors[0]
    for factor in factors[1:]:
        found = found * factor
    return found
