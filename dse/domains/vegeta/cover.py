"""Lossless covers of unstructured sparsity by N:M patterns, of row pieces up to networks, and their packing.

A row piece (``width`` neighbours in a row, 64 at block 4) runs at the smallest N that every block of it keeps; an empty
one costs as much as the sparsest pattern. That rule, with width 64, reproduces the published row-wise speed-ups of 2.36
and 3.28 at 90 and 95 % (re-derived). SPMM_R takes rows of mixed N until a tile of A is full. Three orders of rows:

- ``panel``: rows are sorted by N anew in every panel of ``width`` columns, so tiles are full; each tile makes partial
  sums of other rows of C, which software adds up. This is what the published count allows for; the cost of the adding
  is not in it.
- ``none``: rows keep their order ("pseudo row-wise"; the paper's definition is not known, this is ours): a row of half
  a column of the engine (N = 1) shares it with the other row of its pair, 2i and 2i + 1, if that has the same N, else
  it runs as the next denser pattern; tiles are filled in order. Partial sums of C as above.
- ``matrix``: rows are sorted once for the whole matrix (by their total values) and cut into groups; the rows of C of a
  group stay in registers while k runs, and each panel takes as many tiles as its pieces need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from dse.domains.vegeta.registers import registers
from dse.errors import Fault, SpecError
from dse.jit import njit

RowOrder = Literal["panel", "none", "matrix"]
ORDERS: tuple[str, ...] = get_args(RowOrder)


def row_patterns(
    a: np.ndarray, patterns: Sequence[int] = (1, 2, 4), block: int = 4, width: int | None = 64
) -> np.ndarray:
    """The smallest N of each row piece, int64 [row, piece]; ``width`` None makes a row one piece."""
    a = np.asarray(a)
    if a.ndim != 2 or not a.size:
        raise SpecError([Fault("a", f"shape {a.shape}", "must be a matrix with elements")])
    choice = np.array(sorted(patterns), np.int64)
    if not choice.size or choice[0] < 1 or choice[-1] != block:
        raise SpecError([Fault("patterns", str(tuple(patterns)), f"must be N of 1 to {block} and end with {block}")])
    width = -(-a.shape[1] // block) * block if width is None else width
    if width < 1 or width % block:
        raise SpecError([Fault("width", str(width), f"must be a multiple of the block, {block}")])
    smallest = choice[np.searchsorted(choice, np.arange(block + 1))]
    return smallest[_fullest(np.ascontiguousarray(a != 0), block, width)]


def common_pattern(*matrices: np.ndarray, patterns: Sequence[int] = (1, 2, 4), block: int = 4) -> int:
    """The smallest N that every block of all matrices keeps: of one, its layer-wise cover; of several, network-wise."""
    return max(int(row_patterns(a, patterns, block, None).max()) for a in matrices)


def tile_patterns(n: np.ndarray, rows: int = 16) -> np.ndarray:
    """The N of tiles of ``rows`` row pieces [tile, piece], from those of the pieces."""
    return np.maximum.reduceat(n, np.arange(0, n.shape[0], rows), axis=0)


def pair_patterns(n: np.ndarray, patterns: Sequence[int] = (1, 2, 4)) -> np.ndarray:
    """The N that rows run at in order ``none``: an N of 1 needs a neighbour of the same N."""
    choice = sorted(patterns)
    if choice[0] != 1 or len(choice) == 1:
        return n
    ones = n == 1
    even, odd = ones[: len(n) // 2 * 2 : 2], ones[1::2]
    alone = np.zeros_like(ones)
    alone[: len(n) // 2 * 2 : 2], alone[1::2] = even & ~odd, odd & ~even
    return np.where(alone, choice[1], n)


def speedup(n: np.ndarray, block: int = 4, axis: Any = None) -> np.ndarray:
    """Dense instructions over those of a cover with full tiles: M over the mean N."""
    return block / np.mean(n, axis=axis)


@dataclass(frozen=True)
class Packed:
    """A matrix as tiles of SPMM_R, in the order that they run.

    Attributes:
        values: of A, row by row of the tile [tile, value], float32; unused ones are zero.
        positions: place of each value in its block [tile, value], uint8.
        n: N of each row of the tile, 0 where it takes no part [tile, row].
        panel: which ``span`` columns of A (rows of B) a tile covers [tile].
        group: the rows of C that a tile adds to [tile]; in orders ``panel`` and ``none`` each tile has its own.
        rows: rows of the matrix in a group, -1 where there is none [group, row].
        shape: of the matrix.
        span: columns of a panel.
        dense_tiles: tiles of A that TILE_GEMM takes.
    """

    values: np.ndarray
    positions: np.ndarray
    n: np.ndarray
    panel: np.ndarray
    group: np.ndarray
    rows: np.ndarray
    shape: tuple[int, int]
    span: int
    dense_tiles: int

    @property
    def speedup(self) -> float:
        """Dense instructions over row-wise ones."""
        return self.dense_tiles / len(self.panel)


def pack(a: np.ndarray, engine: Any, *, order: RowOrder = "panel", group: int | None = None) -> Packed:
    """The tiles of a matrix.

    Args:
        a: [row, column]; taken as float32.
        engine: one with a row-wise instruction.
        order: how rows are ordered; see the module.
        group: rows of a group in order ``matrix``; the number with the fewest tiles by default.

    Raises:
        SpecError: if the engine has no row-wise instruction, or for an unknown order.
    """
    r = registers(engine)
    if not r.row_wise:
        raise SpecError([Fault("engine", getattr(engine, "id", ""), "has no row-wise instruction")])
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        a = np.ascontiguousarray(a, np.float32)
    n = row_patterns(a, r.patterns, r.block, r.span)
    cost = n * (r.span // r.block)
    if order == "panel":
        lines = np.argsort(-n, axis=0, kind="stable")
    elif order == "none":
        n = pair_patterns(n, r.patterns)
        cost = n * (r.span // r.block)
        lines = np.broadcast_to(np.arange(len(n))[:, None], n.shape)
    elif order == "matrix":
        lines = np.argsort(-cost.sum(axis=1), kind="stable")
    else:
        raise SpecError([Fault("order", repr(order), "must be panel, none or matrix")])
    if order == "matrix":
        sizes = range(1, r.rows + 1) if group is None else [group]
        if not 1 <= min(sizes) <= max(sizes) <= r.rows:
            raise SpecError([Fault("group", str(group), f"must be 1 to {r.rows} rows")])
        size = min(sizes, key=lambda rows: (_tiles_of_groups(cost, lines, rows, r.values), -rows))
        tile_n, panel, owner, rows = _grouped(n, cost, lines, size, r)
    else:
        tile_n, panel, rows = _streamed(n, cost, lines, r)
        owner = np.arange(len(panel))
    values = np.zeros((len(panel), r.values), np.float32)
    positions = np.zeros((len(panel), r.values), np.uint8)
    _fill(a, rows[owner], panel, tile_n, r.block, r.span, values, positions)
    dense = -(-a.shape[0] // r.tile_m) * (-(-a.shape[1] // r.tile_k))
    return Packed(values, positions, tile_n, panel, owner, rows, a.shape, r.span, dense)


def _streamed(n: np.ndarray, cost: np.ndarray, lines: np.ndarray, r: Any) -> tuple[np.ndarray, ...]:
    """Tiles filled one after the other along ``lines`` [row, panel]: N [tile, row], panel [tile], rows [tile, row]."""
    ordered = np.take_along_axis(cost, lines, axis=0)
    tile, slot = _next_fit(ordered, r.values)
    per_panel = tile[-1] + 1
    tile += (np.cumsum(per_panel) - per_panel)[None, :]
    panel = np.repeat(np.arange(n.shape[1]), per_panel)
    tile_n = np.zeros((len(panel), r.rows), np.int64)
    rows = np.full((len(panel), r.rows), -1, np.int64)
    tile_n[tile, slot] = np.take_along_axis(n, lines, axis=0)
    rows[tile, slot] = lines
    return tile_n, panel, rows


def _grouped(n: np.ndarray, cost: np.ndarray, lines: np.ndarray, size: int, r: Any) -> tuple[np.ndarray, ...]:
    """Tiles of groups of ``size`` rows along ``lines`` [row]: N [tile, row], panel, group [tile], rows [group, row]."""
    groups = -(-len(lines) // size)
    rows = np.full((groups, r.rows), -1, np.int64)
    rows[np.arange(len(lines)) // size, np.arange(len(lines)) % size] = lines
    tile_n, panels, owners = [], [], []
    for group in range(groups):
        mine = rows[group, rows[group] >= 0]
        heavy = np.argsort(-cost[mine], axis=0, kind="stable")  # the largest first leaves no gaps
        tile, _ = _next_fit(np.take_along_axis(cost[mine], heavy, axis=0), r.values)
        per_panel = tile[-1] + 1
        tile += (np.cumsum(per_panel) - per_panel)[None, :]
        part = np.zeros((int(per_panel.sum()), r.rows), np.int64)
        part[tile, heavy] = np.take_along_axis(n[mine], heavy, axis=0)
        tile_n.append(part)
        panels.append(np.repeat(np.arange(n.shape[1]), per_panel))
        owners.append(np.full(len(part), group))
    return np.concatenate(tile_n), np.concatenate(panels), np.concatenate(owners), rows


def _tiles_of_groups(cost: np.ndarray, lines: np.ndarray, size: int, capacity: int) -> int:
    sums = np.add.reduceat(cost[lines], np.arange(0, len(lines), size), axis=0)
    return int((-(-sums // capacity)).sum())


@njit(cache=True)
def _fullest(kept, block, width):
    """Non-zeros of the fullest block of each row piece."""
    rows, columns = kept.shape
    most = np.zeros((rows, -(-columns // width)), np.int64)
    for i in range(rows):
        for first in range(0, columns, block):
            count = 0
            for q in range(first, min(first + block, columns)):
                count += kept[i, q]
            piece = first // width
            if count > most[i, piece]:
                most[i, piece] = count
    return most


@njit(cache=True)
def _next_fit(cost, capacity):
    """Tile and slot of each piece [row, panel]; a piece that does not fit opens the next tile of its panel."""
    tile, slot = np.zeros(cost.shape, np.int64), np.zeros(cost.shape, np.int64)
    for p in range(cost.shape[1]):
        used, at, place = 0, 0, 0
        for i in range(cost.shape[0]):
            if used + cost[i, p] > capacity:
                used, at, place = 0, at + 1, 0
            tile[i, p], slot[i, p] = at, place
            used += cost[i, p]
            place += 1
    return tile, slot


@njit(cache=True)
def _fill(a, rows, panel, n, block, span, values, positions):
    """Values and positions of each tile: the non-zeros of a block and, to fill up, its first zeros."""
    columns = a.shape[1]
    for t in range(panel.size):
        used = 0
        for slot in range(rows.shape[1]):
            most, row = n[t, slot], rows[t, slot]
            if most == 0:
                continue
            for first in range(panel[t] * span, (panel[t] + 1) * span, block):
                spare = most
                for q in range(first, min(first + block, columns)):
                    spare -= a[row, q] != 0
                for q in range(first, first + block):
                    value = a[row, q] if q < columns else np.float32(0)
                    if value != 0 or spare > 0:
                        values[t, used] = value
                        positions[t, used] = q - first
                        used += 1
                        spare -= value == 0
