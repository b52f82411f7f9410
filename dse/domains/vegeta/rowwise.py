"""Row-wise SpMM as instruction streams of tile engines: rows of mixed N:M packed into tiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from dse.domains.vegeta.cover import Packed
from dse.domains.vegeta.emit import instruction, once, spread
from dse.domains.vegeta.gemm import Allocation, check_positive
from dse.domains.vegeta.program import Op, Program
from dse.domains.vegeta.registers import ROW, Registers, registers
from dse.errors import Fault, SpecError


@dataclass(frozen=True)
class RowLayout:
    """Where a row-wise kernel finds its tiles in memory.

    Attributes:
        n: columns of B, unpadded.
        tiles: tiles of A, and tiles of C in n.
        panels, groups: of the packed matrix.
        a, metadata, patterns, b, c: byte address of the first image; A, its metadata and row patterns are [tile], B is
            [tile of n, panel], C is [tile of n, group].
        metadata_slot: bytes from one metadata image to the next; row patterns lie close together.
        size: bytes of memory.
    """

    n: int
    tiles: tuple[int, int]
    panels: int
    groups: int
    a: int
    metadata: int
    patterns: int
    b: int
    c: int
    metadata_slot: int
    size: int

    @classmethod
    def of(cls, packed: Packed, n: int, r: Registers) -> RowLayout:
        """The layout of a packed matrix times one of ``n`` columns."""
        tiles, nt = len(packed.panel), -(-n // r.tile_n)
        panels, groups = -(-packed.shape[1] // packed.span), len(packed.rows)
        slot = -(-r.metadata_size // ROW) * ROW
        metadata = tiles * r.size
        patterns = metadata + tiles * slot
        b = -(-(patterns + tiles * r.pattern_size) // ROW) * ROW
        c = b + nt * panels * r.span_width * r.size
        size = c + nt * groups * r.rows_width * r.size
        return cls(n, (tiles, nt), panels, groups, 0, metadata, patterns, b, c, slot, size)


def row_wise_program(packed: Packed, n: int, engine: Any, *, accumulators: int = 3) -> tuple[Program, RowLayout]:
    """C = A B of a packed A as an instruction stream; C comes as sums of its groups of rows.

    Args:
        packed: tiles of A.
        n: columns of B.
        engine: the one that ``packed`` was made for.
        accumulators: groups of rows of C in registers, which share a tile of B; fewer where registers are short.

    Raises:
        SpecError: if the engine has no row-wise instruction.
    """
    r = registers(engine)
    check_positive(n=n, accumulators=accumulators)
    if not r.row_wise or packed.values.shape[1] != r.values or packed.span != r.span:
        raise SpecError([Fault("packed", "", "was made for another engine")])
    layout = RowLayout.of(packed, n, r)
    together = fitted_groups(accumulators, r)
    regs = Allocation.of(together, 1, r.span_width, r, r.rows_width)
    panels = {i: _stretch(units, packed, regs, layout, r) for i, units in enumerate(_stretches(packed, together))}
    nt = layout.tiles[1]
    kinds = np.repeat(np.arange(len(panels)), nt)
    return spread(panels, kinds.tolist(), np.zeros_like(kinds), np.tile(np.arange(nt), len(panels))), layout


def fitted_groups(accumulators: int, r: Registers) -> int:
    """The groups of rows of C asked for, cut to the register file."""
    room = r.count // r.rows_width * r.rows_width - r.span_width - 1
    return min(accumulators, room // r.rows_width)


def _stretches(packed: Packed, accumulators: int) -> Iterator[list[list[range]]]:
    """What runs for one tile of n before the next: units of groups of tiles whose rows of C are in registers together.

    Groups of one tile each come by panel, and all units of a panel share its tile of B; groups over all panels come a
    unit at a time.
    """
    ends = [*(np.flatnonzero(np.diff(packed.group)) + 1).tolist(), len(packed.group)]
    groups = [range(first, last) for first, last in zip([0, *ends], ends, strict=False)]
    if len(groups) < len(packed.panel):
        yield from ([unit] for unit in _chunks(groups, accumulators))
        return
    bounds = [0, *(np.flatnonzero(np.diff(packed.panel)) + 1).tolist(), len(groups)]
    for first, last in pairwise(bounds):
        yield list(_chunks(groups[first:last], accumulators))


def _chunks(groups: list[range], size: int) -> Iterator[list[range]]:
    return (groups[first : first + size] for first in range(0, len(groups), size))


def _stretch(
    units: Iterable[list[range]], packed: Packed, regs: Allocation, layout: RowLayout, r: Registers
) -> np.ndarray:
    """Columns of the units of a stretch for the first tile of n."""
    out, turn_a, turn_b, loaded, tile_b = [], 0, 0, -1, -1
    wide_b, wide_c = r.span_width, r.rows_width
    size, right_b = wide_b * r.size, layout.panels * wide_b * r.size
    size_c, right_c = wide_c * r.size, layout.groups * wide_c * r.size
    for unit in units:
        out += [instruction(Op.ZERO, regs.c(i), width=wide_c) for i in range(len(unit))]
        for panel, i, tile in sorted((int(packed.panel[t]), i, t) for i, tiles in enumerate(unit) for t in tiles):
            if panel != loaded:
                loaded, tile_b, turn_b = panel, regs.b(turn_b), turn_b + 1
                at = layout.b + panel * size
                out.append(instruction(Op.LOAD, tile_b, width=wide_b, at=at, right=right_b))
            tile_a, m, turn_a = regs.a(turn_a), turn_a % r.metadata_count, turn_a + 1
            out.append(instruction(Op.LOAD, tile_a, at=layout.a + tile * r.size))
            out.append(instruction(Op.LOAD_M, m, at=layout.metadata + tile * layout.metadata_slot))
            out.append(instruction(Op.LOAD_RP, m, at=layout.patterns + tile * r.pattern_size))
            out.append(instruction(Op.SPMM_R, regs.c(i), a=tile_a, b=tile_b, m=m, width=wide_c))
        for i, tiles in enumerate(unit):
            at = layout.c + int(packed.group[tiles[0]]) * size_c
            out.append(instruction(Op.STORE, -1, a=regs.c(i), width=wide_c, at=at, right=right_c))
    return once(out)
