"""Blocked GEMM and SpMM as instruction streams of tile engines.

The C tiles of ``accumulators`` (tiles in m, tiles in n) stay in registers while k runs; the tiles of A and of B that
feed them are loaded once a step. The default, three tiles of A against one of B, fills the eight tile registers at 1:4
exactly (3 of C, 4 of B, 1 of A). Which blocking the published kernels use is not known: it is a knob.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import numpy as np

from dse.domains.vegeta.emit import instruction, once, spread, steps
from dse.domains.vegeta.program import Op, Program
from dse.domains.vegeta.registers import ROW, Registers, native, registers
from dse.errors import Fault, SpecError

Order = Literal["m", "n"]


@dataclass(frozen=True)
class Layout:
    """Where a kernel finds its tiles in memory: images of whole registers, one after the other.

    Attributes:
        m, n, k: shape of the product, unpadded.
        pattern: the N of A.
        tiles: tiles of C in m and n, and steps in k (each ``width`` tiles of B).
        width: tregs of B a step.
        a, metadata, b, c: byte address of the first tile; A and its metadata are [tile of m, step], B is [tile of n,
            tile of k], C is [tile of n, tile of m].
        metadata_slot: bytes from one metadata image to the next.
        size: bytes of memory.
    """

    m: int
    n: int
    k: int
    pattern: int
    tiles: tuple[int, int, int]
    width: int
    a: int
    metadata: int
    b: int
    c: int
    metadata_slot: int
    size: int

    @classmethod
    def of(cls, m: int, n: int, k: int, pattern: int, r: Registers) -> Layout:
        """The layout of a product on an engine."""
        width = r.width(pattern)
        mt, nt, kt = -(-m // r.tile_m), -(-n // r.tile_n), -(-k // (r.tile_k * width))
        slot = -(-r.metadata_size // ROW) * ROW if width > 1 else 0
        metadata = mt * kt * r.size
        b = metadata + mt * kt * slot
        c = b + nt * kt * width * r.size
        return cls(m, n, k, pattern, (mt, nt, kt), width, 0, metadata, b, c, slot, c + nt * mt * r.size)


def gemm_program(
    m: int,
    n: int,
    k: int,
    engine: Any,
    *,
    pattern: int | str | None = None,
    accumulators: int | tuple[int, int] = 3,
    order: Order = "m",
    k_steps: int | None = None,
    accumulate: bool = True,
) -> tuple[Program, Layout]:
    """C += A B as an instruction stream.

    Args:
        m, n, k: rows of A, columns of B, columns of A; any positive numbers, padded to whole tiles.
        engine: an :class:`~dse.domains.vegeta.engine.Engine`.
        pattern: N:M that A keeps, or its N alone; the block (dense, TILE_GEMM) by default.
        accumulators: tiles of C in registers: in m (they share a tile of B), or (in m, in n); fewer are taken where the
            register file is too small.
        order: the direction that runs faster from panel to panel, "m" or "n".
        k_steps: steps of k after which C goes back to memory and the next panel follows; all by default.
        accumulate: whether C is loaded first; else it starts at zero.

    Raises:
        SpecError: for a shape, pattern or blocking that the engine cannot run.
    """
    r = registers(engine)
    check_positive(m=m, n=n, k=k, k_steps=1 if k_steps is None else k_steps)
    layout = Layout.of(m, n, k, r.block if pattern is None else native(pattern, r), r)
    mt, nt, kt = layout.tiles
    cm, cn = fitted(accumulators, mt, nt, layout.width, r)
    panels, kinds, downs, rights = {}, [], [], []
    for first in range(0, kt, k_steps or kt):
        last = min(first + (k_steps or kt), kt)
        down, right = _corners(mt, nt, cm, cn, order)
        high, wide = np.minimum(cm, mt - down), np.minimum(cn, nt - right)
        kinds += [(first, h, w) for h, w in zip(high.tolist(), wide.tolist(), strict=True)]
        for kind in set(kinds[-len(down) :]):
            panels[kind] = _panel(
                kind[1], kind[2], np.arange(first, last), accumulate or first > 0, (cm, cn), layout, r
            )
        downs.append(down)
        rights.append(right)
    return spread(panels, kinds, np.concatenate(downs), np.concatenate(rights)), layout


def _panel(
    cm: int, cn: int, ks: np.ndarray, load_c: bool, blocking: tuple[int, int], layout: Layout, r: Registers
) -> np.ndarray:
    """Columns of one panel of cm x cn tiles of C over the steps ``ks``."""
    mt, _, kt = layout.tiles
    size, w = r.size, layout.width
    regs = Allocation.of(*blocking, w, r)
    c_tiles = [(i, j, regs.c(i * cn + j)) for i in range(cm) for j in range(cn)]
    c_at = {c: (layout.c + (j * mt + i) * size, {"down": size, "right": mt * size}) for i, j, c in c_tiles}
    head = [
        instruction(Op.LOAD, c, at=at, **move) if load_c else instruction(Op.ZERO, c) for c, (at, move) in c_at.items()
    ]
    turn = ks - ks[0]
    body, tiles_b = [], []
    for j in range(cn):
        tile = regs.b(turn * cn + j)
        at = layout.b + (j * kt + ks) * w * size
        body.append(instruction(Op.LOAD, tile, width=w, at=at, right=kt * w * size))
        tiles_b.append(tile)
    for i in range(cm):
        tile = regs.a(turn * cm + i)
        body.append(instruction(Op.LOAD, tile, at=layout.a + (i * kt + ks) * size, down=kt * size))
        positions = -1
        if w > 1:
            positions, slot = (turn * cm + i) % r.metadata_count, layout.metadata_slot
            at = layout.metadata + (i * kt + ks) * slot
            body.append(instruction(Op.LOAD_M, positions, at=at, down=kt * slot))
        for j in range(cn):
            op = Op.SPMM if w > 1 else Op.GEMM
            body.append(instruction(op, regs.c(i * cn + j), a=tile, b=tiles_b[j], m=positions, width=w))
    tail = [instruction(Op.STORE, -1, a=c, at=at, **move) for c, (at, move) in c_at.items()]
    return np.concatenate([once(head), steps(body, len(ks)), once(tail)], axis=1)


@dataclass(frozen=True)
class Allocation:
    """Tregs of a kernel: B from 0 up, then A, and C from the top down; A and B take turns in what they have."""

    first_a: int
    count_a: int
    count_b: int
    width: int
    top: int
    c_width: int

    @classmethod
    def of(cls, cm: int, cn: int, width: int, r: Registers, c_width: int = 1) -> Allocation:
        top = r.count // c_width * c_width
        free = top - cm * cn * c_width
        stages = free // (cm + cn * width)  # whole steps whose tiles fit at once
        count_a = cm * stages if stages else free - cn * width
        count_b = (free - count_a) // width
        return cls(count_b * width, count_a, count_b, width, top, c_width)

    def a(self, turn: np.ndarray) -> np.ndarray:
        return self.first_a + turn % self.count_a

    def b(self, turn: np.ndarray) -> np.ndarray:
        return self.width * (turn % self.count_b)

    def c(self, tile: int) -> int:
        return self.top - self.c_width * (tile + 1)


def fitted(accumulators: int | tuple[int, int], mt: int, nt: int, width: int, r: Registers) -> tuple[int, int]:
    """The blocking asked for, cut to the tiles there are and to the register file."""
    pair = isinstance(accumulators, tuple | list) and len(accumulators) == 2
    cm, cn = accumulators if pair else (accumulators, 1)
    check_positive(accumulators=cm)
    check_positive(accumulators=cn)
    cm, cn = min(cm, mt), min(cn, nt)
    while cm * cn + cn * width + 1 > r.count:
        cm, cn = (cm - 1, cn) if cm >= cn else (cm, cn - 1)
    return cm, cn


def _corners(mt: int, nt: int, cm: int, cn: int, order: Order) -> tuple[np.ndarray, np.ndarray]:
    down, right = np.arange(0, mt, cm), np.arange(0, nt, cn)
    if order == "m":
        right, down = (x.ravel() for x in np.meshgrid(right, down, indexing="ij"))
    elif order == "n":
        down, right = (x.ravel() for x in np.meshgrid(down, right, indexing="ij"))
    else:
        raise SpecError([Fault("order", repr(order), "must be m or n: the direction that runs faster")])
    return down, right


def check_positive(**numbers: int) -> None:
    """Raise SpecError unless all numbers, given by name, are whole and at least 1."""
    rule = "must be a whole number of at least 1"
    faults = [
        Fault(name, str(value)[:40], rule)
        for name, value in numbers.items()
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1
    ]
    if faults:
        raise SpecError(faults)
