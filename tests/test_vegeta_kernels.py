"""Kernels of sparse tile engines: real matrices of any shape against NumPy, and the covers of unstructured sparsity.

``DSE_SPARSE_GEMMS=1000`` runs as many random products of shapes up to 700 instead of the few of a quick run.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.domains.vegeta.bf16 import rounded
from dse.domains.vegeta.cover import common_pattern, pack, pair_patterns, row_patterns, speedup, tile_patterns
from dse.domains.vegeta.engine import load_engine
from dse.domains.vegeta.im2col import columns
from dse.domains.vegeta.kernels import convolve, gemm_program, matmul, row_wise_program
from dse.domains.vegeta.machine import check
from dse.domains.vegeta.program import Op
from dse.domains.vegeta.registers import registers
from dse.errors import SpecError

ENGINES = {
    name: load_engine(name)
    for name in ("vegeta-d-1-2", "vegeta-s-16-2", "vegeta-stc-like", "example-s-16-2-m8", "example-s-16-2-1024")
}
SPARSE = ENGINES["vegeta-s-16-2"]
ODD = SPARSE.replace(tile_m=12, alpha=4, tile_n=10, tile_k=24, tile_register=832, tile_registers=11, patterns=(1, 2, 4))
ENGINES["odd"] = ODD
SPECIAL = (np.nan, np.inf, -np.inf, 1e-39, -3e-40, -0.0)


# --- products against NumPy ---------------------------------------------------------------------------------------


def _matrix(rng: np.random.Generator, shape: tuple[int, int], density: float, special: float) -> np.ndarray:
    """Numbers over forty binades, zeros, and a share of NaN, infinities and denormals."""
    x = rng.normal(size=shape) * 2.0 ** rng.integers(-20, 20, shape)
    x *= rng.random(shape) < density
    odd = rng.random(shape) < special
    x[odd] = rng.choice(SPECIAL, int(odd.sum()))
    return x.astype(np.float32)


def _prune(rng: np.random.Generator, a: np.ndarray, n: int, block: int) -> np.ndarray:
    """At most N values other than zero in every block."""
    out = np.zeros((a.shape[0], -(-a.shape[1] // block) * block), a.dtype)
    out[:, : a.shape[1]] = a
    blocks = out.reshape(a.shape[0], -1, block)
    drop = np.argsort(rng.random(blocks.shape), axis=2)[:, :, : block - n]
    np.put_along_axis(blocks, drop, 0, axis=2)
    return out[:, : a.shape[1]]


def _reference(a: np.ndarray, b: np.ndarray, zeros: str) -> tuple[np.ndarray, np.ndarray]:
    """The product in binary64, and the sum of sizes of its terms."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        if zeros == "ieee":
            return a @ b, np.abs(a) @ np.abs(b)
        bad = ~np.isfinite(b).all(axis=1)  # rows of B that a zero of A must not touch
        c, size = a[:, ~bad] @ b[~bad], np.abs(a[:, ~bad]) @ np.abs(b[~bad])
        for k in np.flatnonzero(bad):
            c += np.where(a[:, k, None] != 0, a[:, k, None] * b[k], 0)
            size += np.where(a[:, k, None] != 0, np.abs(a[:, k, None] * b[k]), 0)
        return c, size


def _check(a: np.ndarray, b: np.ndarray, engine, zeros: str, **options) -> None:
    """NaN and infinities where NumPy has them; else within the bound of k roundings to FP32."""
    found = matmul(a, b, engine, zeros=zeros, **options)
    want, size = _reference(rounded(a), rounded(b), zeros)
    assert found.dtype == np.float32 and found.shape == want.shape
    np.testing.assert_array_equal(np.isnan(found), np.isnan(want))
    np.testing.assert_array_equal(found[np.isinf(want)], want[np.isinf(want)].astype(np.float32))
    finite = np.isfinite(want)
    roundings = a.shape[1] + 200  # additions, and partial sums of panels
    bound = size[finite] * roundings * 2.0**-24 + roundings * 2.0**-149
    assert (np.abs(found[finite] - want[finite]) <= bound).all()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*(st.integers(1, 70),) * 2, st.integers(1, 200)),
    name=st.sampled_from(sorted(ENGINES)),
    kind=st.sampled_from(["auto", "dense", "native", "row-wise"]),
    zeros=st.sampled_from(["ieee", "skip"]),
    order=st.sampled_from(["panel", "none", "matrix"]),
    special=st.sampled_from([0.0, 0.001, 0.05]),
)
def test_products_of_any_shape_equal_numpy(seed, shape, name, kind, zeros, order, special):
    rng, engine = np.random.default_rng(seed), ENGINES[name]
    m, n, k = shape
    a, b = _matrix(rng, (m, k), rng.random(), special), _matrix(rng, (k, n), 0.9, special)
    pattern: int | str = kind
    if kind == "dense" or (kind == "row-wise" and not engine.row_wise):
        pattern = engine.block
    elif kind == "native":
        pattern = int(rng.choice(engine.patterns))
        a = _prune(rng, a, pattern, engine.block)
    _check(a, b, engine, zeros, pattern=pattern, order=order)


def test_random_sparse_products_of_shapes_up_to_700():
    for seed in range(int(os.environ.get("DSE_SPARSE_GEMMS", "30"))):
        rng = np.random.default_rng(seed)
        m, n, k = rng.integers(1, 701, 3)
        special = 10.0 ** -rng.uniform(2, 7) * (seed % 2)
        a, b = _matrix(rng, (m, k), rng.random(), special), _matrix(rng, (k, n), 1.0, special / 10)
        pattern = ("auto", "row-wise", 1, 2)[seed % 4]
        if isinstance(pattern, int):
            a = _prune(rng, a, pattern, 4)
        _check(a, b, SPARSE, ("ieee", "skip")[seed // 2 % 2], pattern=pattern)


def test_sparse_steps_stay_sparse_beside_one_that_is_not_finite():
    """Zeros of A meet an infinity in the second of three steps: NaN there, as in NumPy, and from no other step."""
    a = np.zeros((4, 384), np.float32)
    a[:, ::4] = 1.0
    b = np.ones((384, 8), np.float32)
    b[130, 3] = np.inf
    found = matmul(a, b, SPARSE)
    assert np.isnan(found[:, 3]).all()
    assert (np.delete(found, 3, axis=1) == 96).all()
    assert (matmul(a, b, SPARSE, zeros="skip") == 96).all()


def test_flushed_denormals_count_as_zeros():
    a, b = np.full((1, 4), 1e-39, np.float32), np.full((4, 1), 1e30, np.float32)
    assert matmul(a, b, SPARSE)[0, 0] > 0
    assert matmul(a, b, SPARSE, flush=True)[0, 0] == 0


@given(
    st.integers(0, 100),
    st.sampled_from([1, 2, 4]),
    st.one_of(st.integers(1, 9), st.tuples(st.integers(1, 3), st.integers(1, 3))),
    st.sampled_from(["m", "n"]),
    st.one_of(st.none(), st.integers(1, 4)),
)
@settings(deadline=None, max_examples=30)
def test_blocking_changes_no_bit(seed, pattern, accumulators, order, k_steps):
    rng = np.random.default_rng(seed)
    m, n, k = rng.integers(1, [90, 60, 300])
    a, b = _prune(rng, rng.normal(size=(m, k)), pattern, 4), rng.normal(size=(k, n))
    knobs = {"accumulators": accumulators, "k_steps": k_steps}
    plain = matmul(a, b, SPARSE, pattern=4)
    from dse.domains.vegeta.images import gemm_memory, gemm_result
    from dse.domains.vegeta.machine import run

    program, layout = gemm_program(m, n, k, SPARSE, pattern=pattern, order=order, accumulate=False, **knobs)
    memory = gemm_memory(rounded(a), rounded(b), None, layout, registers(SPARSE))
    run(program, memory, SPARSE)
    np.testing.assert_array_equal(gemm_result(memory, layout, registers(SPARSE)), plain)
    np.testing.assert_array_equal(matmul(a, b, load_engine("vegeta-s-1-2"), pattern=pattern), plain)
    grouped = [
        matmul(a, b, SPARSE, pattern="row-wise", order="matrix", accumulators=count) for count in (1, 2)
    ]  # its sums run over k in order, too
    np.testing.assert_array_equal(grouped, [plain, plain])


def test_what_cannot_be_multiplied_is_refused():
    a = np.ones((4, 8))
    for b, options, words in [
        (np.ones((7, 2)), {}, "at least one element"),
        (np.ones((8, 0)), {}, "at least one element"),
        (np.ones((8, 2)), {"pattern": 3}, "runs N = 1, 2, 4"),
        (np.ones((8, 2)), {"pattern": 2}, "4 non-zeros"),
        (np.ones((8, 2)), {"zeros": "maybe"}, "ieee or skip"),
        (np.ones((8, 2)), {"pattern": "row-wise", "order": "up"}, "panel, none or matrix"),
        (np.ones((8, 2)), {"accumulators": 0}, "at least 1"),
        (np.ones((8, 2)), {"k_steps": 0}, "at least 1"),
    ]:
        with pytest.raises(SpecError, match=words):
            matmul(a, b, SPARSE, **options)
    with pytest.raises(SpecError, match="no row-wise instruction"):
        matmul(a, np.ones((8, 2)), ENGINES["vegeta-d-1-2"], pattern="row-wise")
    with pytest.raises(SpecError, match="must be m or n"):
        gemm_program(4, 4, 4, SPARSE, order="k")


# --- convolutions -------------------------------------------------------------------------------------------------


def _direct(x, w, stride, padding, dilation, groups):
    """A convolution by its definition, one output at a time."""
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    kernels, per_group, high, wide = w.shape
    size = [(x.shape[2 + i] - dilation[i] * (w.shape[2 + i] - 1) - 1) // stride[i] + 1 for i in range(2)]
    y = np.zeros((len(x), kernels, *size))
    for kernel in range(kernels):
        first = kernel // (kernels // groups) * per_group
        for i in range(size[0]):
            for j in range(size[1]):
                rows = i * stride[0] + dilation[0] * np.arange(high)
                cols = j * stride[1] + dilation[1] * np.arange(wide)
                window = x[:, first : first + per_group][:, :, rows[:, None], cols]
                y[:, kernel, i, j] = (window * w[kernel]).sum(axis=(1, 2, 3))
    return y


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000),
    images=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 3]),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
)
def test_convolutions_equal_their_definition(seed, images, groups, kernel, stride, padding, dilation):
    rng = np.random.default_rng(seed)
    x = rounded(rng.normal(size=(images, 2 * groups, *rng.integers(5, 9, 2))))
    w = rounded(rng.normal(size=(3 * groups, 2, *kernel)) * (rng.random((3 * groups, 2, *kernel)) < 0.4))
    want = _direct(x.astype(float), w.astype(float), stride, padding, dilation, groups)
    found = convolve(x, w, stride, padding, SPARSE, dilation=dilation, groups=groups)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_convolutions_that_do_not_fit_are_refused():
    x, w = np.ones((1, 4, 5, 5)), np.ones((2, 4, 7, 7))
    with pytest.raises(SpecError, match="does not fit an input of 5 x 5"):
        convolve(x, w, 1, 0, SPARSE)
    with pytest.raises(SpecError, match="stride and dilation"):
        columns(x, (1, 1), stride=0)
    with pytest.raises(SpecError, match="channel/groups"):
        convolve(x, w, 1, 0, SPARSE, groups=2)


# --- instruction streams ------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, 200),) * 3),
    name=st.sampled_from(sorted(ENGINES)),
    pick=st.integers(0, 2),
    accumulators=st.one_of(st.integers(1, 9), st.tuples(st.integers(1, 3), st.integers(1, 3))),
    k_steps=st.one_of(st.none(), st.integers(1, 5)),
    order=st.sampled_from(["m", "n"]),
)
def test_programs_are_valid_and_do_the_counted_work(shape, name, pick, accumulators, k_steps, order):
    engine, (m, n, k) = ENGINES[name], shape
    r = registers(engine)
    pattern = r.patterns[pick % len(r.patterns)]
    program, layout = gemm_program(
        m, n, k, engine, pattern=pattern, accumulators=accumulators, k_steps=k_steps, order=order
    )
    check(program, layout.size, r)
    mt, nt, kt = -(-m // r.tile_m), -(-n // r.tile_n), -(-k // (r.tile_k * r.block // pattern))
    count = np.bincount(program.op, minlength=8)
    assert count[Op.GEMM] + count[Op.SPMM] == mt * nt * kt
    assert count[Op.STORE] == mt * nt * -(-kt // (k_steps or kt))
    stored = program.address[program.op == Op.STORE]
    assert len(np.unique(stored)) == mt * nt and stored.min() == layout.c
    last = np.flatnonzero(program.op == Op.STORE)[-mt * nt :]
    assert len(np.unique(program.address[last])) == mt * nt  # the final sums of every tile, once
    assert count[Op.LOAD_M] == (0 if pattern == engine.block else count[Op.LOAD] - _loads_but_a(program, layout))


def _loads_but_a(program, layout):
    return int(((program.op == Op.LOAD) & (program.address >= layout.b)).sum())


def test_three_accumulators_share_a_tile_of_b_and_fill_the_registers():
    for pattern in (4, 2, 1):
        program, layout = gemm_program(96, 16, 512, SPARSE, pattern=pattern)
        loads_b = (program.op == Op.LOAD) & (program.address >= layout.b) & (program.address < layout.c)
        assert (program.op >= Op.GEMM).sum() == 3 * loads_b.sum()
        matrix = program.op >= Op.GEMM
        used = set(program.dst[matrix]) | set(program.a[matrix])
        used |= {b + i for b in program.b[matrix] for i in range(4 // pattern)}
        assert used == set(range(8))


@given(seed=st.integers(0, 500), order=st.sampled_from(["panel", "none", "matrix"]), count=st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_row_wise_programs_are_valid_and_run_every_tile_once(seed, order, count):
    rng = np.random.default_rng(seed)
    engine = (SPARSE, ENGINES["example-s-16-2-m8"], ODD)[seed % 3]
    a = rng.random(rng.integers(1, [150, 300])) < rng.random()
    n, r = int(rng.integers(1, 40)), registers(engine)
    packed = pack(a, engine, order=order)
    program, layout = row_wise_program(packed, n, engine, accumulators=count)
    check(program, layout.size, r)
    nt = -(-n // r.tile_n)
    ran = program.address[(program.op == Op.LOAD) & (program.address < layout.metadata)]
    np.testing.assert_array_equal(np.bincount(ran // r.size), np.full(len(packed.panel), nt))
    assert (program.op == Op.SPMM_R).sum() == nt * len(packed.panel)
    if order != "matrix":  # a tile of B is loaded once for all tiles of A that need it
        loads_b = (program.op == Op.LOAD) & (program.address >= layout.b)
        assert loads_b.sum() == nt * layout.panels
    stored = program.address[program.op == Op.STORE]
    assert len(np.unique(stored)) == len(stored) == nt * len(packed.rows)


# --- covers -------------------------------------------------------------------------------------------------------


def _independent(density: float) -> tuple[float, float, float]:
    """Shares of blocks of 4 with at most 1 and 2 non-zeros, to the 16 of a row piece; and the row-wise speed-up."""
    zero = 1 - density
    p1 = (zero**4 + 4 * density * zero**3) ** 16
    p2 = (zero**4 + 4 * density * zero**3 + 6 * density**2 * zero**2) ** 16
    return p1, p2, 1 / (p1 / 4 + (p2 - p1) / 2 + (1 - p2))


def _zeros(sparsity: float, shape: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) >= sparsity


@pytest.mark.parametrize("sparsity, published", [(0.90, 2.36), (0.95, 3.28)])
def test_row_wise_speed_ups_of_the_paper_through_the_packer(sparsity, published):
    """Found through a public note and the abstract; the closed form is re-derived."""
    a = _zeros(sparsity, (8192, 256), 7)
    packed = pack(a, SPARSE)
    program, _ = row_wise_program(packed, 16, SPARSE)
    dense, _ = gemm_program(*(8192, 16, 256), SPARSE)
    real = (dense.op == Op.GEMM).sum() / (program.op == Op.SPMM_R).sum()
    closed = _independent(1 - sparsity)[2]
    assert real == packed.speedup
    assert real == pytest.approx(published, rel=0.01)
    assert closed == pytest.approx(published, rel=0.01)
    assert speedup(row_patterns(a)) == pytest.approx(closed, rel=0.01)


@pytest.mark.parametrize("sparsity", [0.6, 0.8, 0.9, 0.95, 0.99])
def test_other_covers_follow_their_closed_forms(sparsity):
    """Of independent zeros: pairs of rows for order none, all 16 rows of a tile for tiles."""
    n = row_patterns(_zeros(sparsity, (1 << 14, 256), 8))
    p1, p2, row = _independent(1 - sparsity)
    pair = 1 / (p1**2 / 4 + (p2 - p1**2) / 2 + 1 - p2)
    tile = 1 / (p1**16 / 4 + (p2**16 - p1**16) / 2 + 1 - p2**16)
    for found, want in ((n, row), (pair_patterns(n), pair), (tile_patterns(n), tile)):
        assert speedup(found) == pytest.approx(want, rel=0.02)
    layer = common_pattern(_zeros(sparsity, (1 << 10, 256), 8))
    order = [speedup(x) for x in (np.array(layer), tile_patterns(n), pair_patterns(n), n)]
    assert order == sorted(order)


@given(seed=st.integers(0, 10**6), order=st.sampled_from(["panel", "none", "matrix"]))
@settings(deadline=None, max_examples=60)
def test_packing_loses_nothing_and_keeps_to_the_tile(seed, order):
    rng = np.random.default_rng(seed)
    engine = (SPARSE, ENGINES["example-s-16-2-m8"], ODD)[seed % 3]
    r = registers(engine)
    m, k = rng.integers(1, [120, 260])
    a = rng.normal(size=(m, k)).astype(np.float32) * (rng.random((m, k)) < rng.random((m, 1)) ** 2)
    packed = pack(a, engine, order=order)
    back = np.zeros((m, -(-k // r.span) * r.span))
    seen = np.zeros((m, back.shape[1] // r.span), int)
    for tile, (panel, group) in enumerate(zip(packed.panel, packed.group, strict=True)):
        used = 0
        for n, row in zip(packed.n[tile], packed.rows[group], strict=True):
            for block in range(r.span // r.block if n else 0):
                places = packed.positions[tile, used : used + n].astype(int)
                assert (np.diff(places) > 0).all()
                back[row, panel * r.span + block * r.block + places] = packed.values[tile, used : used + n]
                used += n
            seen[row, panel] += n > 0
        assert 0 < used <= r.values and (packed.n[tile] > 0).sum() <= r.rows
    assert (seen == 1).all()
    np.testing.assert_array_equal(back[:, :k], a)
    assert set(np.unique(packed.n)) <= {0, *r.patterns}
    cost = row_patterns(a, r.patterns, r.block, r.span) * (r.span // r.block)
    if order != "none":  # no fewer tiles are possible for a panel, or for a group of rows in a panel
        groups = [np.arange(m)] if order == "panel" else [rows[rows >= 0] for rows in packed.rows]
        assert len(packed.panel) == sum((-(-cost[rows].sum(axis=0) // r.values)).sum() for rows in groups)
    if order == "none":
        for rows in packed.rows:
            rows = rows[rows >= 0]
            assert (np.diff(rows) == 1).all()


def test_full_tiles_hold_8_16_or_32_rows():
    for n, rows in ((4, 8), (2, 16), (1, 32)):
        a = np.zeros((64, 64))
        a.reshape(64, 16, 4)[:, :, :n] = 1
        packed = pack(a, SPARSE)
        assert {int((tile > 0).sum()) for tile in packed.n} == {rows}
        assert packed.speedup == 4 / n


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([(1, 2, 4), (2, 4), (4,), (1, 4)]))
def test_the_smallest_pattern_that_covers_is_chosen(seed, patterns):
    rng = np.random.default_rng(seed)
    a = rng.random(rng.integers(1, [20, 200])) < rng.random()
    found = row_patterns(a, patterns)
    for (i, piece), n in np.ndenumerate(found):
        part = np.zeros(64, bool)
        own = a[i, piece * 64 : piece * 64 + 64]
        part[: len(own)] = own
        fullest = part.reshape(16, 4).sum(axis=1).max()
        assert n == min(p for p in patterns if p >= fullest)
    assert common_pattern(a, a[:1], patterns=patterns) == found.max()


def test_covers_and_packings_that_make_no_sense_are_refused():
    a = np.ones((4, 8))
    for make, words in [
        (lambda: row_patterns(a, (1, 2)), "end with 4"),
        (lambda: row_patterns(a, width=6), "multiple of the block"),
        (lambda: row_patterns(np.ones(4)), "must be a matrix"),
        (lambda: pack(a, ENGINES["vegeta-d-1-2"]), "no row-wise"),
        (lambda: pack(a, SPARSE, order="matrix", group=33), "1 to 32 rows"),
        (lambda: row_wise_program(pack(a, SPARSE), 4, ENGINES["example-s-16-2-m8"]), "another engine"),
    ]:
        with pytest.raises(SpecError, match=words):
            make()
