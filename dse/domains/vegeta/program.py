"""Instruction streams of tile engines as columns: what the machine executes, the clock counts and listings show."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np


class Op(IntEnum):
    """Instructions. ``GEMM`` multiplies a dense tile, ``SPMM`` an N:M one, ``SPMM_R`` rows of different N:M."""

    LOAD = 0
    LOAD_M = 1
    LOAD_RP = 2
    STORE = 3
    ZERO = 4
    GEMM = 5
    SPMM = 6
    SPMM_R = 7


_TYPES = (np.uint8, np.int16, np.int16, np.int16, np.int16, np.int16, np.int64, np.int64)


class Program(NamedTuple):
    """Instructions in program order, one an entry of each column [n].

    Registers are named by the first tile register (treg) that they cover; one of ``width`` 2 is a ureg, of 4 a vreg.

    Attributes:
        op: :class:`Op`.
        dst: what is written: the first treg; for LOAD_M and LOAD_RP a metadata or row-pattern register.
        a: treg with the (compressed) tile of A; for STORE the first treg that is stored; -1 if unused.
        b: first treg with the tile of B; -1 if unused.
        m: metadata register that goes with ``a`` (SPMM_R: and the row-pattern register of its number); -1 if unused.
        width: tregs of a LOAD, STORE or ZERO; of B in a SPMM (M over N); of C in a SPMM_R, whose B is M/2 wide.
        address: byte address of the first row in memory; -1 if the instruction touches none.
        stride: bytes from one row to the next in memory.
    """

    op: np.ndarray
    dst: np.ndarray
    a: np.ndarray
    b: np.ndarray
    m: np.ndarray
    width: np.ndarray
    address: np.ndarray
    stride: np.ndarray

    @classmethod
    def of(cls, **columns: np.ndarray) -> Program:
        """The columns in the types that compiled code expects."""
        return cls(*(np.ascontiguousarray(columns[name], kind) for name, kind in zip(cls._fields, _TYPES, strict=True)))

    def __len__(self) -> int:  # of instructions, not of columns
        return self.op.shape[0]
