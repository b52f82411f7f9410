"""Matrices as the images of registers in memory, and back."""

from __future__ import annotations

import numpy as np

from dse.domains.vegeta.bf16 import encode
from dse.domains.vegeta.compress import compress, pack_bits
from dse.domains.vegeta.cover import Packed
from dse.domains.vegeta.gemm import Layout
from dse.domains.vegeta.registers import Registers
from dse.domains.vegeta.rowwise import RowLayout


def gemm_memory(a: np.ndarray, b: np.ndarray, c: np.ndarray | None, layout: Layout, r: Registers) -> np.ndarray:
    """Memory (uint8) with A [m, k] compressed, B [k, n] and C [m, n] (zeros by default) where a layout wants them."""
    mt, _, kt = layout.tiles
    memory = np.zeros(layout.size, np.uint8)
    values = _padded(a, mt * r.tile_m, kt * r.tile_k * layout.width)
    if layout.width > 1:
        found = compress(values, layout.pattern, r.block)
        values, positions = found.values, _tiled(found.positions, r.tile_m, r.tile_k)
        _put(memory, layout.metadata, pack_bits(positions, r.position_bits, layout.metadata_slot))
    _put(memory, layout.a, _image(encode(_tiled(values, r.tile_m, r.tile_k)), r.size))
    _put(memory, layout.b, _b_image(b, kt * layout.width, r))
    if c is not None:
        tiles = _tiled(_padded(c, mt * r.tile_m, layout.tiles[1] * r.tile_n), r.tile_m, r.tile_n)
        _put(memory, layout.c, _image(tiles.swapaxes(0, 1), r.size))
    return memory


def gemm_result(memory: np.ndarray, layout: Layout, r: Registers) -> np.ndarray:
    """C [m, n] out of memory."""
    mt, nt, _ = layout.tiles
    tiles = _singles(memory, layout.c, (nt, mt, r.size))[:, :, : r.tile_m * r.tile_n]
    c = tiles.reshape(nt, mt, r.tile_m, r.tile_n).transpose(1, 2, 0, 3).reshape(mt * r.tile_m, nt * r.tile_n)
    return c[: layout.m, : layout.n].copy()


def row_wise_memory(packed: Packed, b: np.ndarray, layout: RowLayout, r: Registers) -> np.ndarray:
    """Memory (uint8) with the tiles of a packed A and B [k, n] where a layout wants them."""
    memory = np.zeros(layout.size, np.uint8)
    codes = np.searchsorted(np.array([0, *r.patterns]), packed.n)
    _put(memory, layout.a, _image(encode(packed.values), r.size))
    _put(memory, layout.metadata, pack_bits(packed.positions, r.position_bits, layout.metadata_slot))
    _put(memory, layout.patterns, pack_bits(codes, r.pattern_bits, r.pattern_size))
    _put(memory, layout.b, _b_image(b, layout.panels * r.span_width, r))
    return memory


def row_wise_result(memory: np.ndarray, packed: Packed, layout: RowLayout, r: Registers) -> np.ndarray:
    """C [m, n] out of memory: rows back in their order, partial sums of panels added in ascending order, in FP32."""
    nt = layout.tiles[1]
    tiles = _singles(memory, layout.c, (nt, layout.groups, r.rows_width, r.size))[..., : r.tile_m * r.tile_n]
    rows = tiles.reshape(nt, layout.groups, r.rows_width * r.tile_m, r.tile_n)[:, :, : r.rows]
    c = np.zeros((packed.shape[0], nt, r.tile_n), np.float32)
    first = packed.panel[np.searchsorted(packed.group, np.arange(layout.groups))]
    with np.errstate(over="ignore", invalid="ignore"):
        for panel in np.unique(first):  # no row comes twice in a panel
            mine = packed.rows[first == panel]
            there = mine >= 0
            c[mine[there]] += rows[:, first == panel].transpose(1, 2, 0, 3)[there]
    return c.reshape(packed.shape[0], -1)[:, : layout.n].copy()


def _b_image(b: np.ndarray, tiles: int, r: Registers) -> np.ndarray:
    nt = -(-b.shape[1] // r.tile_n)
    bits = encode(_padded(b, tiles * r.tile_k, nt * r.tile_n))
    return _image(_tiled(bits, r.tile_k, r.tile_n).swapaxes(0, 1), r.size)


def _padded(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    out = np.zeros((rows, columns), x.dtype)
    out[: x.shape[0], : x.shape[1]] = x
    return out


def _tiled(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Tiles [tile row, tile column, element] of a matrix of whole tiles."""
    high, wide = x.shape[0] // rows, x.shape[1] // columns
    return x.reshape(high, rows, wide, columns).swapaxes(1, 2).reshape(high, wide, rows * columns)


def _image(tiles: np.ndarray, size: int) -> np.ndarray:
    """Bytes [..., size] of tiles [..., element], zeros after the last element."""
    content = np.ascontiguousarray(tiles).view(np.uint8)
    if content.shape[-1] == size:
        return content
    out = np.zeros((*content.shape[:-1], size), np.uint8)
    out[..., : content.shape[-1]] = content
    return out


def _put(memory: np.ndarray, at: int, image: np.ndarray) -> None:
    memory[at : at + image.size] = image.reshape(-1)


def _singles(memory: np.ndarray, at: int, shape: tuple[int, ...]) -> np.ndarray:
    """FP32 numbers of images of ``shape``, whose last axis counts bytes."""
    return memory[at : at + int(np.prod(shape))].view(np.float32).reshape(*shape[:-1], shape[-1] // 4)
