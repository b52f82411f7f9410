"""Matrix products and convolutions on the machine, from NumPy arrays to NumPy arrays, and the kernels that they run."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from dse.domains.vegeta.bf16 import rounded
from dse.domains.vegeta.cover import RowOrder, common_pattern, pack
from dse.domains.vegeta.engine import as_engine
from dse.domains.vegeta.gemm import Layout, gemm_program
from dse.domains.vegeta.im2col import Pair, columns
from dse.domains.vegeta.registers import Registers, native, registers
from dse.domains.vegeta.rowwise import RowLayout, row_wise_program
from dse.errors import Fault, SpecError

__all__ = ["Layout", "RowLayout", "convolve", "gemm_program", "matmul", "row_wise_program"]

Pattern = int | str  # N, "N:M", "auto" or "row-wise"
Zeros = Literal["ieee", "skip"]


def matmul(
    a: np.ndarray,
    b: np.ndarray,
    engine: Any,
    *,
    pattern: Pattern = "auto",
    zeros: Zeros = "ieee",
    flush: bool = False,
    order: RowOrder = "panel",
    **knobs: Any,
) -> np.ndarray:
    """A B as an engine computes it: inputs rounded to BF16, sums in FP32.

    Args:
        a: the sparse operand [m, k].
        b: [k, n].
        engine: an :class:`~dse.domains.vegeta.engine.Engine`, or its id, file or mapping.
        pattern: N:M of A, or its N alone; "auto" takes the smallest that A keeps everywhere, "row-wise" packs
            rows of different N.
        zeros: "ieee" gives what IEEE arithmetic gives, also where a zero of A meets an infinity or NaN of B: steps of k
            in which B is not finite run on dense tiles, after all others. "skip": zeros of A add nothing.
        flush: BF16 denormals of both operands become zero.
        order: of row-wise tiles; see :mod:`dse.domains.vegeta.cover`.
        knobs: of :func:`gemm_program` or :func:`row_wise_program`.

    Returns:
        float32 [m, n].

    Raises:
        SpecError: for shapes that do not fit together, a pattern that the engine does not run, or one that A breaks.
    """
    engine = as_engine(engine)
    r = registers(engine)
    a, b = (np.asarray(x) for x in (a, b))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or 0 in (*a.shape, *b.shape):
        rule = "must be [m, k] times [k, n] with at least one element each"
        raise SpecError([Fault("a, b", f"{a.shape}, {b.shape}", rule)])
    if zeros not in ("ieee", "skip"):
        raise SpecError([Fault("zeros", repr(zeros), "must be ieee or skip")])
    a, b = rounded(a, flush=flush), rounded(b, flush=flush)
    if pattern == "auto":
        pattern = common_pattern(a, patterns=r.patterns, block=r.block)
    elif pattern != "row-wise":
        pattern = native(pattern, r)
    step = r.span if pattern == "row-wise" else r.tile_k * r.width(pattern)
    dense = np.zeros(a.shape[1], bool)
    if zeros == "ieee" and pattern != r.block:
        dense = _steps_not_finite(b, step)
    c = None
    if not dense.all():
        part = a[:, ~dense], b[~dense]
        if pattern == "row-wise":
            c = _row_wise(*part, engine, r, zeros, order, knobs)
        else:
            c = _blocked(*part, None, engine, r, pattern, zeros, knobs)
    if dense.any():
        c = _blocked(a[:, dense], b[dense], c, engine, r, r.block, zeros, knobs)
    return c


def convolve(
    x: np.ndarray,
    w: np.ndarray,
    stride: Pair,
    padding: Pair,
    engine: Any,
    *,
    dilation: Pair = 1,
    groups: int = 1,
    **options: Any,
) -> np.ndarray:
    """A convolution (as networks mean it: the kernel is not turned) through :func:`columns` and :func:`matmul`.

    Args:
        x: [image, channel, height, width].
        w: the sparse operand [kernel, channel of the group, height, width].
        stride, padding, dilation: one number or (in height, in width).
        engine: as for :func:`matmul`, like the ``options``.
        groups: parts into which channels and kernels are cut.

    Returns:
        float32 [image, kernel, output height, output width].

    Raises:
        SpecError: for shapes that do not fit together, and as :func:`matmul`.
    """
    engine, x, w = as_engine(engine), np.asarray(x), np.asarray(w)
    if x.ndim != 4 or w.ndim != 4 or groups < 1 or x.shape[1] != w.shape[1] * groups or w.shape[0] % groups:
        rule = "must be [image, channel, y, x] and [kernel, channel/groups, y, x], kernels a multiple of groups"
        raise SpecError([Fault("x, w, groups", f"{x.shape}, {w.shape}, {groups}", rule)])
    parts = []
    for part_x, part_w in zip(np.split(x, groups, axis=1), np.split(w, groups), strict=True):
        matrix, (high, wide) = columns(part_x, w.shape[2:], stride, padding, dilation)
        y = matmul(part_w.reshape(len(part_w), -1), matrix, engine, **options)
        parts.append(y.reshape(len(part_w), x.shape[0], high, wide))
    return np.concatenate(parts).swapaxes(0, 1).copy()


def _steps_not_finite(b: np.ndarray, step: int) -> np.ndarray:
    """Which rows of B [k] lie in a step of k with an infinity or NaN."""
    finite = np.isfinite(b).all(axis=1)
    starts = np.arange(0, len(finite), step)
    return np.repeat(~np.logical_and.reduceat(finite, starts), step)[: len(finite)]


def _blocked(
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray | None,
    engine: Any,
    r: Registers,
    pattern: int,
    zeros: Zeros,
    knobs: dict[str, Any],
) -> np.ndarray:
    from dse.domains.vegeta.images import gemm_memory, gemm_result
    from dse.domains.vegeta.machine import run

    shape = a.shape[0], b.shape[1], a.shape[1]
    program, layout = gemm_program(*shape, engine, pattern=pattern, accumulate=c is not None, **knobs)
    memory = gemm_memory(a, b, c, layout, r)
    run(program, memory, engine, zeros=zeros)
    return gemm_result(memory, layout, r)


def _row_wise(
    a: np.ndarray, b: np.ndarray, engine: Any, r: Registers, zeros: Zeros, order: RowOrder, knobs: dict[str, Any]
) -> np.ndarray:
    from dse.domains.vegeta.images import row_wise_memory, row_wise_result
    from dse.domains.vegeta.machine import run

    packed = pack(a, engine, order=order)
    program, layout = row_wise_program(packed, b.shape[1], engine, **knobs)
    memory = row_wise_memory(packed, b, layout, r)
    run(program, memory, engine, zeros=zeros)
    return row_wise_result(memory, packed, layout, r)
