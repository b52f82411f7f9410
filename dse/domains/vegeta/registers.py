"""What the registers and instructions of an engine hold: sizes that follow from its tile, block and register file."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

from dse.errors import Fault, SpecError

ROW = 64  # bytes: rows of registers that loads and stores move


@dataclass(frozen=True)
class Registers:
    """The register file of an engine and what its tiles take of it.

    A tile of A has ``tile_m`` rows of ``tile_k`` BF16 values, row-major. B lies in tiles of ``tile_k`` rows of
    ``tile_n`` BF16 values, one a treg; a ureg or vreg has 2 or 4 of them, k ascending. C has rows of ``tile_n`` FP32
    values, ``tile_m`` of them a treg. SPMM_R takes rows of A of ``span`` columns with N of M non-zeros in every block,
    one after the other, and adds to as many rows of C.

    Attributes:
        tile_m, tile_n, tile_k: rows of A, columns of B, values in a row of A.
        block: the M of N:M.
        patterns: the N that run natively, ascending; the last is ``block`` (dense).
        row_wise: whether SPMM_R runs.
        size, count: bytes of a treg and their number.
        metadata_count: registers of positions; as many of row patterns.
    """

    tile_m: int
    tile_n: int
    tile_k: int
    block: int
    patterns: tuple[int, ...]
    row_wise: bool
    size: int
    count: int
    metadata_count: int

    @property
    def values(self) -> int:
        """Values of A that a treg feeds to one instruction."""
        return self.tile_m * self.tile_k

    @property
    def position_bits(self) -> int:
        """Bits of a position in a block."""
        return (self.block - 1).bit_length()

    @property
    def metadata_size(self) -> int:
        """Bytes of a metadata register: a position for each value of a tile of A."""
        return -(-self.values * self.position_bits // 8)

    @property
    def span(self) -> int:
        """Columns of A (rows of B) that a SPMM_R covers: ``tile_k`` M/2."""
        return self.tile_k * self.span_width

    @property
    def span_width(self) -> int:
        """Tregs of B that a SPMM_R reads."""
        return max(self.block // 2, 1)

    @property
    def rows(self) -> int:
        """Most rows of A that one SPMM_R can hold: all of the sparsest pattern."""
        return self.values // (self.span // self.block * self.patterns[0])

    @property
    def rows_width(self) -> int:
        """Tregs of C that a SPMM_R adds to."""
        return -(-self.rows // self.tile_m)

    @property
    def pattern_bits(self) -> int:
        """Bits of a row's pattern: 0 is a row that takes no part, then the index into ``patterns`` plus one."""
        return len(self.patterns).bit_length()

    @property
    def pattern_size(self) -> int:
        """Bytes of a row-pattern register."""
        return -(-self.rows * self.pattern_bits // 8)

    def width(self, pattern: int) -> int:
        """Tregs of B that an instruction of a pattern reads: M over N.

        Raises:
            SpecError: for a pattern that the engine does not run.
        """
        if pattern not in self.patterns:
            raise SpecError([Fault("pattern", str(pattern), f"this engine runs N = {_names(self.patterns)}")])
        return self.block // pattern


def native(pattern: int | str, r: Registers) -> int:
    """The N of a pattern, given as N or as ``"N:M"``.

    Raises:
        SpecError: for what is neither, another M, or an N that the engine does not run.
    """
    names = ", ".join(f"{n}:{r.block}" for n in r.patterns)
    n, block = pattern, r.block
    if isinstance(pattern, str):
        first, colon, second = pattern.strip().partition(":")
        if not (colon and first.isdecimal() and second.isdecimal() and len(pattern) < 9):
            raise SpecError([Fault("pattern", repr(pattern[:40]), f"must be N:M; this engine runs {names}")])
        n, block = int(first), int(second)
    if block != r.block:
        raise SpecError([Fault("pattern", str(pattern), f"must have M = {r.block}; this engine runs {names}")])
    if isinstance(n, bool) or not isinstance(n, Integral):
        raise SpecError([Fault("pattern", repr(n)[:40], f"must be N or N:M; this engine runs {names}")])
    r.width(int(n))
    return int(n)


def registers(engine: Any) -> Registers:
    """The register file of an engine.

    Args:
        engine: anything with the geometry of :class:`dse.domains.vegeta.engine.Engine`.

    Raises:
        SpecError: if a tile does not fit its register, or patterns and blocks do not divide each other.
    """
    found = Registers(
        engine.tile_m,
        engine.tile_n,
        engine.tile_k,
        engine.block,
        tuple(sorted(engine.patterns)),
        engine.row_wise,
        int(engine.tile_register),
        engine.tile_registers,
        engine.metadata_registers,
    )
    faults = _faults(found)
    if faults:
        raise SpecError(faults)
    return found


def _faults(r: Registers) -> list[Fault]:
    faults = []
    for name in ("tile_m", "tile_n", "tile_k", "block", "size", "count"):
        if getattr(r, name) < 1:
            faults.append(Fault(name, str(getattr(r, name)), "must be at least 1"))
    if faults:
        return faults
    if not r.patterns or r.patterns[-1] != r.block:
        faults.append(Fault("patterns", _names(r.patterns), f"must end with the dense one, {r.block}"))
    if any(n < 1 or r.block % n for n in r.patterns):
        faults.append(Fault("patterns", _names(r.patterns), f"each must divide the block of {r.block}"))
    if r.tile_k % r.block:
        faults.append(Fault("tile_k", str(r.tile_k), f"must be a multiple of the block, {r.block}"))
    if r.size % ROW:
        faults.append(Fault("tile_register", str(r.size), f"must be a multiple of {ROW} bytes"))
    if faults:
        return faults
    tiles = {"A": 2 * r.values, "B": 2 * r.tile_k * r.tile_n, "C": 4 * r.tile_m * r.tile_n}
    for name, need in tiles.items():
        if need > r.size:
            faults.append(Fault("tile_register", str(r.size), f"a tile of {name} takes {need} bytes"))
    need = 2 + max(r.width(n) for n in r.patterns)
    if r.row_wise:
        need = max(need, 2 * r.rows_width + r.span_width)
    if r.count < need:
        faults.append(Fault("tile_registers", str(r.count), f"one tile each of A, B and C takes {need}"))
    if r.row_wise and r.span > r.values:
        faults.append(Fault("block", str(r.block), f"a dense row takes {r.span} values, a tile has {r.values}"))
    if len(r.patterns) > 1 and r.metadata_count < 1:
        faults.append(Fault("metadata_registers", str(r.metadata_count), "a sparse engine needs at least 1"))
    return faults


def _names(patterns: tuple[int, ...]) -> str:
    return ", ".join(map(str, patterns))
