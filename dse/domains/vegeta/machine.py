"""What the instructions do: programs run on the bytes of a memory and of a register file.

Products of BF16 values are exact in FP32 (down to its denormals). Each element of C takes them one after the other, in
ascending order of A's values in their row, starting from what C held; every sum is rounded to FP32. An engine with
``beta`` above 1 sums in ``beta`` lanes that meet in an adder tree, so its last bits may differ; which lane C enters is
not published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dse.domains.vegeta.program import Op, Program
from dse.domains.vegeta.registers import ROW, Registers, registers
from dse.errors import Fault, SpecError
from dse.jit import njit

Zeros = Literal["ieee", "skip"]
_LOAD, _LOAD_M, _LOAD_RP, _STORE, _ZERO, _GEMM, _SPMM, _SPMM_R = (int(op) for op in Op)


@dataclass(frozen=True)
class State:
    """Registers of a machine, as bytes.

    Attributes:
        tiles: tregs [register, byte]; a ureg or vreg is 2 or 4 neighbours.
        metadata: positions of A's values in their blocks [register, byte], lowest bits first.
        patterns: row patterns [register, byte], lowest bits first.
    """

    tiles: np.ndarray
    metadata: np.ndarray
    patterns: np.ndarray

    @classmethod
    def of(cls, engine: Any) -> State:
        """Registers of an engine, all zero."""
        r = registers(engine)
        sizes = ((r.count, r.size), (r.metadata_count, r.metadata_size), (r.metadata_count, r.pattern_size))
        return cls(*(np.zeros(shape, np.uint8) for shape in sizes))


def run(
    program: Program, memory: np.ndarray, engine: Any, *, state: State | None = None, zeros: Zeros = "ieee"
) -> State:
    """Execute a program; stores change ``memory`` in place.

    Args:
        memory: bytes (uint8) [address].
        engine: whose registers and patterns it runs on.
        state: registers to start from, changed in place; zeros by default.
        zeros: "ieee" multiplies zeros of A, so that 0 times infinity is NaN; "skip" gates them: a zero adds nothing.

    Returns:
        The registers afterwards.

    Raises:
        SpecError: for an instruction that reaches outside memory or registers, or that the engine does not have
            (nothing has been executed then), and for row patterns that need more values than a tile has.
    """
    r = registers(engine)
    if memory.dtype != np.uint8 or memory.ndim != 1 or not (memory.flags.c_contiguous and memory.flags.writeable):
        raise SpecError([Fault("memory", f"{memory.dtype} {memory.shape}", "must be writable bytes (uint8) in a row")])
    check(program, memory.size, r)
    state = State.of(engine) if state is None else state
    blocks = r.span // r.block
    counts = np.zeros((1 << r.pattern_bits) + 1, np.int64)  # values that a row of each pattern takes of a tile
    counts[1 : 1 + len(r.patterns)] = [blocks * n for n in r.patterns]
    counts[-1] = r.values  # all that there are
    stopped = _execute(
        *program, memory, state.tiles, state.metadata, state.patterns, counts,
        r.tile_m, r.tile_n, r.tile_k, r.block, r.position_bits, r.pattern_bits, r.span_width, r.rows, zeros == "skip",
    )  # fmt: skip
    if stopped >= 0:
        rule = f"the row patterns need more than the {r.values} values of a tile"
        raise SpecError([Fault("SPMM_R", "", rule, f"instruction {stopped}")])
    return state


def check(program: Program, memory_size: int, r: Registers) -> None:
    """Raise SpecError for the first instruction that an engine with these registers and this memory cannot run."""
    op, width = program.op, program.width
    moves = np.isin(op, (_LOAD, _STORE, _ZERO))
    matrix = op >= _GEMM
    sizes = np.select(
        [op == _LOAD_M, op == _LOAD_RP, op == _ZERO, op < _ZERO],
        [r.metadata_size, r.pattern_size, 0, (width - 1) * r.size + r.size],
        0,
    )
    rows = np.where(moves, sizes // ROW, 1)
    first = program.address + np.minimum(program.stride * (rows - 1), 0)
    last = program.address + np.maximum(program.stride * (rows - 1), 0) + np.where(moves, ROW, sizes)
    touches = sizes > 0
    written = np.where(op == _STORE, program.a, program.dst)
    c_width = np.where(op == _SPMM_R, r.rows_width, np.where(moves, width, 1))
    b_width = np.select([op == _SPMM, op == _SPMM_R], [width, r.span_width], 1)
    small = (op == _LOAD_M) | (op == _LOAD_RP)
    runs = np.isin(width, [r.block // n for n in r.patterns]) | (op != _SPMM)
    wants_m = (op == _SPMM) & (width > 1) | (op == _SPMM_R)
    overlap = matrix & (_meet(written, c_width, program.a, 1) | _meet(written, c_width, program.b, b_width))
    rules = {
        "op": (op > _SPMM_R, "is no instruction"),
        "width": ((width < 1) | (width > r.count), f"must be 1 to {r.count} registers"),
        "address": (touches & ((first < 0) | (last > memory_size)), f"must stay in the {memory_size} bytes of memory"),
        "dst": (~small & _outside(written, c_width, r.count), f"must lie in the {r.count} tile registers"),
        "a": (matrix & _outside(program.a, 1, r.count), f"must be one of the {r.count} tile registers"),
        "b": (matrix & _outside(program.b, b_width, r.count), f"must lie in the {r.count} tile registers"),
        "m": (
            small & _outside(program.dst, 1, r.metadata_count) | wants_m & _outside(program.m, 1, r.metadata_count),
            f"must be one of the {r.metadata_count} metadata registers",
        ),
        "SPMM": (~runs, f"this engine reads {', '.join(str(r.block // n) for n in r.patterns)} registers of B"),
        "SPMM_R": ((op == _SPMM_R) & (not r.row_wise), "this engine has no row-wise instruction"),
        "width of C": ((op == _SPMM_R) & (width != r.rows_width), f"TILE_SPMM_R writes {r.rows_width} tile registers"),
        "C": (overlap, "must be other registers than A and B"),
    }
    for name, (broken, rule) in rules.items():
        if broken.any():
            i = int(np.argmax(broken))
            value = int(getattr(program, name)[i]) if name in Program._fields else Op(op[i]).name
            value = int(width[i]) if name == "width of C" else value
            raise SpecError([Fault(name, str(value), rule, f"instruction {i}")])


def _outside(first: np.ndarray, width: Any, count: int) -> np.ndarray:
    return (first < 0) | (first + width > count)


def _meet(first: np.ndarray, width: np.ndarray, other: np.ndarray, other_width: Any) -> np.ndarray:
    return (first < other + other_width) & (other < first + width)


@njit(cache=True)
def _execute(
    op, dst, a, b, m, width, address, stride, memory, tiles, metadata, patterns, counts,
    tile_m, tile_n, tile_k, block, bits, pattern_bits, span_width, most_rows, skip,
):  # fmt: skip
    """One instruction after the other. Returns the one whose row patterns ask for too much, or -1."""
    halves, singles, flat = tiles.view(np.uint16), tiles.view(np.float32), tiles.reshape(-1)
    count, size = tiles.shape
    wide_bits = np.zeros((count + 1, tile_k * tile_n), np.uint32)  # tiles of B in FP32; the last stays zero
    b_rows = wide_bits.view(np.float32).reshape(-1, tile_n)
    known = np.zeros(count, np.bool_)  # which of them hold what the register holds
    a_bits = np.empty(tile_m * tile_k, np.uint32)
    values = a_bits.view(np.float32)
    index = np.empty(tile_m * tile_k, np.int64)
    ends = np.empty(max(most_rows, tile_m) + 1, np.int64)
    for i in range(op.shape[0]):
        kind = op[i]
        if kind == _LOAD:
            _gather(memory, address[i], stride[i], flat, dst[i] * size, width[i] * size)
            known[dst[i] : dst[i] + width[i]] = False
        elif kind == _STORE:
            _scatter(flat, a[i] * size, width[i] * size, memory, address[i], stride[i])
        elif kind == _LOAD_M:
            _copy(memory, address[i], metadata[dst[i]], 0, metadata.shape[1])
        elif kind == _LOAD_RP:
            _copy(memory, address[i], patterns[dst[i]], 0, patterns.shape[1])
        elif kind == _ZERO:
            flat[dst[i] * size : (dst[i] + width[i]) * size] = 0
            known[dst[i] : dst[i] + width[i]] = False
        else:
            tiles_b = 1 if kind == _GEMM else (width[i] if kind == _SPMM else span_width)
            for register in range(b[i], b[i] + tiles_b):
                if not known[register]:
                    _widen(halves[register], wide_bits[register])
                    known[register] = True
            _widen(halves[a[i]], a_bits)
            rows = most_rows if kind == _SPMM_R else tile_m
            if not _rows(kind, rows, tile_k, counts, patterns[m[i]], pattern_bits, ends):
                return i
            base = b[i] * tile_k
            if kind != _SPMM_R and tiles_b == 1:
                for row in range(tile_m):
                    for k in range(tile_k):
                        index[row * tile_k + k] = base + k
            else:
                _places(ends[: rows + 1], tiles_b * tile_k // block, block, metadata[m[i]], bits, base, index)
            if skip:
                for q in range(ends[rows]):
                    if values[q] == 0:
                        index[q] = count * tile_k
            for row in range(rows):
                register = dst[i] + row // tile_m
                at = row % tile_m * tile_n
                _add(singles[register], at, values, index, b_rows, ends[row], ends[row + 1])
                known[register] = False
    return -1


@njit(cache=True)
def _widen(halves, wide):
    """FP32 bits of BF16 ones."""
    for q in range(wide.size):
        wide[q] = np.uint32(halves[q]) << np.uint32(16)


@njit(cache=True)
def _rows(kind, rows, tile_k, counts, pattern, pattern_bits, ends):
    """Where each row's values start and end in a tile of A; False if they are more than it has."""
    ends[0] = 0
    for row in range(rows):
        count = counts[_field(pattern, row, pattern_bits)] if kind == _SPMM_R else tile_k
        ends[row + 1] = ends[row] + count
    return ends[rows] <= counts[-1]


@njit(cache=True)
def _places(ends, blocks, block, metadata, bits, base, index):
    """The row of B for each value: its block, and its place in it, read from the metadata bit by bit."""
    held, have, byte = np.uint32(0), 0, 0
    mask = np.uint32((1 << bits) - 1)
    for row in range(ends.size - 1):
        q, n = ends[row], (ends[row + 1] - ends[row]) // blocks
        for first in range(base, base + blocks * block, block):
            for _ in range(n):
                if have < bits:
                    held |= np.uint32(metadata[byte]) << np.uint32(have)
                    have += 8
                    byte += 1
                index[q] = first + np.int64(held & mask)
                held >>= np.uint32(bits)
                have -= bits
                q += 1


@njit(cache=True)
def _gather(memory, address, stride, registers, at, count):
    """Rows of 64 bytes from memory to registers."""
    if stride == ROW:
        _copy(memory, address, registers, at, count)
    else:
        for row in range(count // ROW):
            _copy(memory, address + row * stride, registers, at + row * ROW, ROW)


@njit(cache=True)
def _scatter(registers, at, count, memory, address, stride):
    """Rows of 64 bytes from registers to memory."""
    if stride == ROW:
        _copy(registers, at, memory, address, count)
    else:
        for row in range(count // ROW):
            _copy(registers, at + row * ROW, memory, address + row * stride, ROW)


@njit(cache=True)
def _copy(source, first, target, at, count):
    near, far = source[first : first + count], target[at : at + count]
    for i in range(count):  # plain indices from 0 up become wide moves
        far[i] = near[i]


@njit(cache=True)
def _field(packed, i, bits):
    """The i-th number of ``bits`` bits; one that crosses a byte's end takes its rest from the next."""
    at = i * bits
    value = np.uint32(packed[at >> 3])
    if (at & 7) + bits > 8:
        value |= np.uint32(packed[(at >> 3) + 1]) << np.uint32(8)
    return (value >> np.uint32(at & 7)) & np.uint32((1 << bits) - 1)


@njit(cache=True)
def _add(sums, at, values, index, b_rows, first, last):
    """c[j] += values[q] b_rows[index[q], j] for q in turn; four a pass over j, in the same order of sums."""
    c = sums[at : at + b_rows.shape[1]]
    q = first
    while q + 4 <= last:
        a0, a1, a2, a3 = values[q], values[q + 1], values[q + 2], values[q + 3]
        b0, b1, b2, b3 = b_rows[index[q]], b_rows[index[q + 1]], b_rows[index[q + 2]], b_rows[index[q + 3]]
        for j in range(c.size):
            c[j] = (((c[j] + a0 * b0[j]) + a1 * b1[j]) + a2 * b2[j]) + a3 * b3[j]
        q += 4
    while q < last:
        a0, b0 = values[q], b_rows[index[q]]
        for j in range(c.size):
            c[j] += a0 * b0[j]
        q += 1
