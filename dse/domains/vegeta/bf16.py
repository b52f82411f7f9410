"""BF16: the upper half of a binary32 number."""

from __future__ import annotations

import numpy as np


def encode(x: np.ndarray, *, flush: bool = False) -> np.ndarray:
    """BF16 bits (uint16) of numbers: to nearest, ties to even; NaN stays a quiet NaN with its sign.

    Args:
        x: numbers of any shape; wider ones are rounded to binary32 first.
        flush: make denormals zero (of their sign), as the AMX instructions do.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        bits = np.ascontiguousarray(x, np.float32).view(np.uint32).reshape(np.shape(x))
    sign = bits & np.uint32(0x80000000)
    size = bits ^ sign
    rounded = size + (np.uint32(0x7FFF) + ((size >> np.uint32(16)) & np.uint32(1)))
    if flush:
        rounded = np.where(rounded < 0x00800000, np.uint32(0), rounded)
    rounded = np.where(size > 0x7F800000, size | np.uint32(0x400000), rounded)
    return ((sign | rounded) >> np.uint32(16)).astype(np.uint16)


def decode(bits: np.ndarray) -> np.ndarray:
    """Numbers (float32) of BF16 bits; exact."""
    return (np.asarray(bits, np.uint32) << np.uint32(16)).view(np.float32)


def rounded(x: np.ndarray, *, flush: bool = False) -> np.ndarray:
    """Numbers (float32) rounded to BF16."""
    return decode(encode(x, flush=flush))
