"""Programs as the compiled cycle model takes them: one row an instruction, checked, sizes in place of shapes."""

from __future__ import annotations

import numpy as np

from dse.domains.vegeta.program import Op, Program
from dse.domains.vegeta.registers import ROW, Registers
from dse.jit import njit

_LOAD, _LOAD_M, _LOAD_RP, _STORE, _ZERO, _GEMM, _SPMM, _SPMM_R = (int(op) for op in Op)
CODE = ("op", "dst", "a", "b", "m", "width", "slot", "lines", "b_width")
_MOST_SLOTS = 1 << 24


def encode(program: Program, r: Registers, line: int = 64) -> np.ndarray:
    """A program as rows [instruction, ``CODE``], int64.

    ``width`` counts the tregs of a load, store or zero, or of C; ``b_width`` those of B. ``slot`` numbers the lines
    that instructions start at, ``lines`` counts those they move.

    Raises:
        SpecError: for an instruction that an engine with these registers does not have.
    """
    from dse.domains.vegeta.machine import check

    sizes = np.zeros(len(Op), np.int64)
    sizes[[_LOAD, _LOAD_M, _LOAD_RP, _STORE]] = r.size, r.metadata_size, r.pattern_size, r.size
    widths = np.zeros(r.block + 1, np.bool_)
    widths[[r.block // n for n in r.patterns]] = True
    rows = np.empty((len(program), len(CODE)), np.int64)
    limits = np.array([r.count, r.metadata_count, r.rows_width, r.span_width, r.row_wise], np.int64)
    if not _fill(*program, sizes, widths, limits, line, rows):
        reach = int(np.abs(program.stride).max(initial=0)) * (r.size * r.count // ROW)
        check(program, int(program.address.max(initial=0)) + reach + r.size * r.count, r)  # says what is wrong
    slot = rows[:, CODE.index("slot")]
    if slot.size and slot.max() >= _MOST_SLOTS:
        rows[:, CODE.index("slot")] = np.unique(slot, return_inverse=True)[1]
    return rows


@njit(cache=True)
def _fill(op, dst, a, b, m, width, address, stride, sizes, widths, limits, line, rows):
    """Fill the rows; whether all instructions are ones that there are, on registers that there are."""
    count, count_m, rows_width, span_width, row_wise = limits
    for i in range(op.shape[0]):
        kind, w, wide = op[i], np.int64(width[i]), np.int64(0)
        if kind > _SPMM_R or w < 1 or w > count or (kind < _ZERO and address[i] < 0):
            return False
        small, positions = kind in (_LOAD_M, _LOAD_RP), np.int64(-1)
        if kind >= _GEMM:
            if kind == _SPMM and (w >= widths.shape[0] or not widths[w]):
                return False
            if kind == _SPMM_R and (w != rows_width or not row_wise):
                return False
            wide = w if kind == _SPMM else span_width if kind == _SPMM_R else np.int64(1)
            if kind == _SPMM_R or (kind == _SPMM and w > 1):
                positions = np.int64(m[i])
                if positions < 0 or positions >= count_m:
                    return False
            w = w if kind == _SPMM_R else np.int64(1)
            if a[i] < 0 or a[i] >= count or b[i] < 0 or b[i] + wide > count:
                return False
            if dst[i] <= a[i] < dst[i] + w or (dst[i] < b[i] + wide and b[i] < dst[i] + w):
                return False
        first = a[i] if kind == _STORE else dst[i]
        if first < 0 or first + (np.int64(1) if small else w) > (count_m if small else count):
            return False
        size = sizes[kind] * (np.int64(1) if small else w)
        rows[i, 0], rows[i, 1], rows[i, 2], rows[i, 3], rows[i, 4] = kind, dst[i], a[i], b[i], positions
        rows[i, 5], rows[i, 6], rows[i, 7], rows[i, 8] = w, max(address[i], 0) // line, -(-size // line), wide
    return True
