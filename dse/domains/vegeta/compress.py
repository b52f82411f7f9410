"""N:M compression: the values of each block that may be other than zero, and their positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dse.errors import Fault, SpecError
from dse.jit import njit


@dataclass(frozen=True)
class Compressed:
    """A matrix with at most N non-zeros in each block of M neighbours in a row.

    Attributes:
        values: [row, blocks · N] of the matrix' type, in ascending order of column in each block.
        positions: place of each value in its block [row, blocks · N], uint8; a slot without a non-zero points to a
            place whose element is zero, so that it holds what it points to.
        n, block: N and M.
        shape: rows and columns of the matrix; its last block may be cut off.
    """

    values: np.ndarray
    positions: np.ndarray
    n: int
    block: int
    shape: tuple[int, int]

    def dense(self) -> np.ndarray:
        """The matrix."""
        rows, columns = self.shape
        blocks = self.values.shape[1] // self.n
        out = np.zeros((rows, blocks, self.block), self.values.dtype)
        shape = (rows, blocks, self.n)
        np.put_along_axis(out, self.positions.reshape(shape).astype(np.int64), self.values.reshape(shape), axis=2)
        return out.reshape(rows, -1)[:, :columns]


def compress(a: np.ndarray, n: int, block: int = 4) -> Compressed:
    """A matrix in N:M form. NaN is no zero; −0 is one.

    Args:
        a: [row, column].
        n: most non-zeros in a block, 1 to ``block``.
        block: neighbours in a row that make a block.

    Raises:
        SpecError: naming row and block, if a block has more than ``n`` non-zeros.
    """
    if not 1 <= n <= block <= 256:
        raise SpecError([Fault("n", f"{n}:{block}", "N must be 1 to M, and M at most 256")])
    a = np.asarray(a)
    if a.ndim != 2:
        raise SpecError([Fault("a", f"{a.ndim} axes", "must be a matrix")])
    rows, columns = a.shape
    blocks = -(-columns // block)
    padded = np.zeros((rows, blocks, block), a.dtype)
    padded.reshape(rows, -1)[:, :columns] = a
    zero = padded == 0
    positions = np.empty((rows, blocks, n), np.uint8)
    full = choose(zero.reshape(-1, block), positions.reshape(-1, n))
    if full >= 0:
        row, at = divmod(full, blocks)
        count = int((~zero[row, at]).sum())
        raise SpecError([Fault("a", f"{count} non-zeros", f"at most {n} of {block}", f"row {row}, block {at}")])
    values = np.take_along_axis(padded, positions, axis=2)
    return Compressed(values.reshape(rows, -1), positions.reshape(rows, -1), n, block, (rows, columns))


@njit(cache=True)
def choose(zero, positions):
    """Places of the values to keep of each block: its non-zeros and, to fill up, its first zeros, ascending.

    Args:
        zero: whether an element is zero [block, M].
        positions: filled with places [block, N].

    Returns:
        The first block with more than N non-zeros, or -1.
    """
    most = positions.shape[1]
    for i in range(zero.shape[0]):
        spare = most
        for q in range(zero.shape[1]):
            spare -= not zero[i, q]
        if spare < 0:
            return i
        used = 0
        for q in range(zero.shape[1]):
            if not zero[i, q] or spare > 0:
                positions[i, used] = q
                used += 1
                spare -= zero[i, q]
    return -1


def pack_bits(numbers: np.ndarray, bits: int, size: int) -> np.ndarray:
    """Small numbers [..., i] as bytes [..., size]: ``bits`` each, one after the other, lowest first."""
    numbers = np.asarray(numbers, np.uint8)
    spread = (numbers[..., None] >> np.arange(bits, dtype=np.uint8)) & np.uint8(1)
    packed = np.packbits(spread.reshape(*numbers.shape[:-1], -1), axis=-1, bitorder="little")
    out = np.zeros((*numbers.shape[:-1], size), np.uint8)
    out[..., : packed.shape[-1]] = packed
    return out


def unpack_bits(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The inverse of :func:`pack_bits`: numbers [..., count], uint8."""
    single = np.unpackbits(np.asarray(packed, np.uint8), axis=-1, bitorder="little")[..., : count * bits]
    weights = np.uint8(1) << np.arange(bits, dtype=np.uint8)
    return (single.reshape(*single.shape[:-1], count, bits) * weights).sum(axis=-1).astype(np.uint8)
