"""A literal run of a dataflow's loop nest on a tiny layer: every unit, every step, every element as a member of a set."""

from __future__ import annotations

import itertools
from collections import Counter

from dse.domains.xr.dataflow import Dataflow

KERNEL_OF = {"Y'": "R", "X'": "S"}


def run(
    flow: Dataflow, extents: dict[str, int], pes: int, bandwidth: int, latency: int = 1, *, depthwise: bool = False
):
    """Cycles of the whole array, and elements by name, counted one by one.

    Args:
        flow: loops in coordinates of the output.
        extents: of C, K, R, S, Y', X'.
        pes: processing elements.
        bandwidth: elements per cycle of each network.
        latency: of each network.
        depthwise: outputs are indexed by C as well.
    """
    levels = flow.levels
    total: Counter[str] = Counter()
    arrived: Counter[tuple[int, ...]] = Counter()  # outputs at the top buffer

    def level(depth: int, box: dict[str, range]) -> int:
        if depth == len(levels):
            done = 1
            for piece in box.values():
                done *= len(piece)
            total["macs"] += done
            return done
        units = pes // flow.cluster_units if depth == 0 else levels[depth].units
        maps = list(levels[depth].maps)
        spread = next(m.dim for m in maps if m.spatial)
        sizes = {m.dim: m.size or len(box[m.dim]) for m in maps}
        steps = {d: -(-len(box[d]) // (size * (units if d == spread else 1))) for d, size in sizes.items()}
        holds = [{"input": set(), "weight": set()} for _ in range(units)]
        before: dict[str, int] | None = None
        outputs_before = None
        cycles = 0
        for index in itertools.product(*(range(steps[m.dim]) for m in maps)):
            at = dict(zip([m.dim for m in maps], index, strict=True))
            pieces = [_piece(box, sizes, at, spread, units, unit) for unit in range(units)]
            work = [piece for piece in pieces if all(piece.values())]
            moved = {}
            for tensor, elements, indexed in TENSORS:
                if (
                    spread in indexed
                    and before is not None
                    and (at[spread] != before[spread] or (tensor == "input" and _slides_back(spread, before, at)))
                ):
                    for hold in holds:
                        hold[tensor] = set()
                sent: set[tuple[int, ...]] = set()
                for unit, piece in enumerate(pieces):
                    need = elements(piece)
                    if not need:  # an idle unit listens to what all units get
                        if spread not in indexed:
                            holds[unit][tensor] = elements(pieces[0])
                        continue
                    new = need - holds[unit][tensor]
                    sent |= new
                    total[f"{depth} sent {tensor}"] += len(new)
                    holds[unit][tensor] = need
                total[f"{depth} in {tensor}"] += len(sent)
                moved[tensor] = len(sent)
            outputs = set().union(*(_output(piece, depthwise=depthwise) for piece in work))
            out = 0 if outputs == outputs_before else len(outputs)
            if out and depth == 0:
                arrived.update(outputs)
            total[f"{depth} out"] += out
            slowest = max(level(depth + 1, piece) for piece in work)
            cycles += max(slowest, _transfer(moved["input"] + moved["weight"]), _transfer(out))
            before, outputs_before = at, outputs
        return cycles

    def _transfer(elements: int) -> int:
        return latency - 1 + -(-elements // bandwidth) if elements else 0

    whole = {d: range(n) for d, n in extents.items()}
    total["cycles"] = level(0, whole)
    total["outputs"] = len(arrived)
    total["added"] = sum(arrived.values()) - len(arrived)
    return total


def _piece(box, sizes, at, spread, units, unit):
    piece = dict(box)
    for dim, size in sizes.items():
        begin = (at[dim] * units + unit if dim == spread else at[dim]) * size
        piece[dim] = box[dim][begin : begin + size]
    return piece


def _slides_back(spread, before, at) -> bool:
    """Windows along a spread dimension are kept only while they slide forward."""
    other = {**KERNEL_OF, **{kernel: out for out, kernel in KERNEL_OF.items()}}.get(spread)
    return at.get(other, 0) < before.get(other, 0)


def _input(piece):
    rows = {y + r for y in piece["Y'"] for r in piece["R"]}
    columns = {x + s for x in piece["X'"] for s in piece["S"]}
    return set(itertools.product(piece["C"], rows, columns)) if all(piece.values()) else set()


def _weight(piece):
    parts = itertools.product(piece["K"], piece["C"], piece["R"], piece["S"])
    return set(parts) if all(piece.values()) else set()


def _output(piece, *, depthwise: bool):
    channels = piece["C"] if depthwise else (0,)
    return set(itertools.product(piece["K"], channels, piece["Y'"], piece["X'"]))


TENSORS = (("input", _input, {"C", "R", "S", "Y'", "X'"}), ("weight", _weight, {"K", "C", "R", "S"}))
