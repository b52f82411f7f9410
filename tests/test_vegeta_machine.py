"""The machine of sparse tile engines: number format, compression, registers, each instruction, listings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.domains.vegeta.asm import assemble, disassemble
from dse.domains.vegeta.bf16 import decode, encode, rounded
from dse.domains.vegeta.compress import compress, pack_bits, unpack_bits
from dse.domains.vegeta.engine import engines, load_engine
from dse.domains.vegeta.gemm import gemm_program
from dse.domains.vegeta.machine import State, check, run
from dse.domains.vegeta.program import Op, Program
from dse.domains.vegeta.registers import registers
from dse.errors import SpecError

SPARSE = load_engine("vegeta-s-16-2")
DENSE = load_engine("vegeta-d-1-2")
EIGHTS = load_engine("example-s-16-2-m8")


# --- BF16 ---------------------------------------------------------------------------------------------------------


def test_every_bf16_number_survives_a_round_trip_and_nan_becomes_quiet():
    bits = np.arange(1 << 16, dtype=np.uint16)
    back = encode(decode(bits))
    nan = np.isnan(decode(bits))
    assert (back[~nan] == bits[~nan]).all()
    assert (back[nan] == (bits[nan] | 0x40)).all()  # sign and payload stay


@settings(deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_rounding_takes_the_nearest_and_the_even_one_of_two(x):
    below = np.float64(decode(np.uint16(np.float32(abs(x)).view(np.uint32) >> 16)))
    above = np.float64(decode(np.uint16((np.float32(abs(x)).view(np.uint32) >> 16) + 1)))
    if np.isinf(above):
        above = 2.0**128  # where the next number would be
    found = np.float64(rounded(np.float32(abs(x))))
    found = 2.0**128 if np.isinf(found) else found
    error = abs(found - abs(x))
    assert error == min(abs(x) - below, above - abs(x))
    if abs(x) - below == above - abs(x):
        assert encode(np.float32(abs(x))) % 2 == 0
    assert np.signbit(rounded(np.float32(x))) == np.signbit(np.float32(x))


def test_every_tie_goes_to_the_even_neighbour():
    bits = np.arange(0x7F80, dtype=np.uint32)
    found = encode(((bits << 16) | 0x8000).view(np.float32))
    np.testing.assert_array_equal(found, bits + bits % 2)  # past the largest: infinity


def test_flush_drops_denormals_and_nothing_else():
    x = np.array([1e-39, -1e-39, 2.0**-126, np.inf, np.nan, 3.0], np.float32)
    kept, flushed = rounded(x), rounded(x, flush=True)
    assert kept[0] > 0 > kept[1]
    np.testing.assert_array_equal(flushed, [0, 0, 2.0**-126, np.inf, np.nan, 3.0])
    assert np.signbit(flushed[1])


# --- compression --------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 9), columns=st.integers(1, 40), block=st.integers(1, 9))
def test_compression_loses_nothing_and_empty_slots_point_to_zeros(seed, rows, columns, block):
    rng = np.random.default_rng(seed)
    a = rng.choice([0.0, -0.0, 1.5, np.nan, -np.inf], size=(rows, columns), p=[0.5, 0.2, 0.1, 0.1, 0.1])
    padded = np.zeros((rows, -(-columns // block) * block))
    padded[:, :columns] = a
    blocks = padded.reshape(rows, -1, block)
    n = max(1, int((blocks != 0).sum(axis=2).max()))
    found = compress(a, n, block)
    np.testing.assert_array_equal(found.dense(), a)
    positions = found.positions.reshape(rows, -1, n)
    assert (np.diff(positions.astype(int), axis=2) > 0).all()  # no place twice
    held = np.take_along_axis(blocks, positions.astype(int), axis=2)
    np.testing.assert_array_equal(held.reshape(rows, -1), found.values)
    if n > 1:
        with pytest.raises(SpecError, match=r"row .*, block"):
            compress(a, n - 1, block)


def test_the_first_block_that_is_too_full_is_named():
    a = np.zeros((3, 12))
    a[1, 8:11] = 1
    with pytest.raises(SpecError, match=r"row 1, block 2: a = 3 non-zeros: at most 2 of 4"):
        compress(a, 2)
    with pytest.raises(SpecError, match="N must be 1 to M"):
        compress(a, 5)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), bits=st.integers(1, 8), count=st.integers(1, 50))
def test_packed_bits_come_back(seed, bits, count):
    numbers = np.random.default_rng(seed).integers(0, 1 << bits, (3, count), dtype=np.uint8)
    packed = pack_bits(numbers, bits, -(-count * bits // 8) + 1)
    np.testing.assert_array_equal(unpack_bits(packed, bits, count), numbers)


# --- registers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in engines() if name.startswith("vegeta-")])
def test_the_published_register_file_and_work_of_an_instruction(name):
    engine = load_engine(name)
    r = registers(engine)
    assert engine.rows * engine.cols * engine.alpha * engine.beta == 512
    assert r.tile_m * r.tile_n * r.tile_k == 8192  # multiply-adds of every matrix instruction
    assert [r.size * width for width in (1, 2, 4)] == [1024, 2048, 4096]
    assert (r.count, r.metadata_size, r.span) == (8, 128, 64)
    if len(r.patterns) == 3:
        assert (r.rows, r.pattern_size, r.position_bits, r.pattern_bits) == (32, 8, 2, 2)


def test_wider_blocks_take_more_bits_and_more_of_b():
    r = registers(EIGHTS)  # N of 8 with N = 2, 4, 8
    assert (r.position_bits, r.metadata_size, r.span, r.span_width) == (3, 192, 128, 4)
    assert (r.rows, r.rows_width, [r.width(n) for n in r.patterns]) == (16, 1, [4, 2, 1])


@pytest.mark.parametrize(
    "change, words",
    [
        ({"tile_n": 17}, "a tile of C takes 1088"),
        ({"tile_k": 64}, "a tile of A takes 2048"),
        ({"tile_register": 1000}, "multiple of 64"),
        ({"patterns": (1, 3, 4)}, "divide the block"),
        ({"patterns": (1, 2)}, "end with the dense one"),
        ({"tile_registers": 5}, "takes 6"),
        ({"block": 8, "patterns": (8, 1)}, "takes 10"),
        ({"metadata_registers": 0}, "at least 1"),
    ],
)
def test_an_engine_whose_tiles_do_not_fit_is_refused(change, words):
    with pytest.raises(SpecError, match=words):
        SPARSE.replace(**change)


# --- instructions -------------------------------------------------------------------------------------------------


def _one(op: Op, **columns: int) -> Program:
    blank = {"dst": -1, "a": -1, "b": -1, "m": -1, "width": 1, "address": -1, "stride": 0}
    return Program.of(op=[int(op)], **{name: [columns.get(name, value)] for name, value in blank.items()})


def _loaded(rng: np.random.Generator, engine) -> State:
    """Registers full of BF16 numbers, which also make plain FP32 ones."""
    state = State.of(engine)
    state.tiles.view(np.uint16)[:] = encode(rng.normal(size=state.tiles.shape).astype(np.float32))[:, ::2]
    return state


def _rows_of_b(state: State, first: int, count: int, r) -> np.ndarray:
    tiles = decode(state.tiles.view(np.uint16)[first : first + count, : r.tile_k * r.tile_n])
    return tiles.reshape(count * r.tile_k, r.tile_n)


def _sum_in_order(c: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """FP32 sums, one product after the other, in ascending order of k."""
    for k in range(a.shape[1]):
        c = c + a[:, k, None] * b[k]
    return c


@pytest.mark.parametrize("engine", [SPARSE, EIGHTS, load_engine("example-s-16-2-1024")], ids=lambda e: e.id)
def test_dense_and_sparse_products_equal_sums_in_order_to_the_last_bit(engine):
    r, rng = registers(engine), np.random.default_rng(3)
    for n in r.patterns:
        width, state = r.width(n), _loaded(rng, engine)
        k = r.tile_k * width
        full = np.zeros((r.tile_m, k // r.block, r.block), np.float32)
        full[..., :n] = rounded(rng.normal(size=(*full.shape[:2], n)))
        full = rng.permuted(full, axis=2).reshape(r.tile_m, k)
        packed = compress(full, n, r.block)
        state.tiles.view(np.uint16)[6, : r.values] = encode(packed.values).ravel()
        state.metadata[1] = pack_bits(packed.positions.ravel(), r.position_bits, r.metadata_size)
        before = state.tiles.view(np.float32)[7, : r.tile_m * r.tile_n].reshape(r.tile_m, r.tile_n).copy()
        want = _sum_in_order(before, full, _rows_of_b(state, 0, width, r))
        op = Op.GEMM if width == 1 else Op.SPMM
        run(
            _one(op, dst=7, a=6, b=0, m=1 if width > 1 else -1, width=width), np.zeros(0, np.uint8), engine, state=state
        )
        found = state.tiles.view(np.float32)[7, : r.tile_m * r.tile_n].reshape(r.tile_m, r.tile_n)
        np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("engine", [SPARSE, EIGHTS], ids=lambda e: e.id)
def test_row_wise_products_take_rows_of_mixed_patterns_and_leave_others_alone(engine):
    r, rng = registers(engine), np.random.default_rng(4)
    state = _loaded(rng, engine)
    n = np.zeros(r.rows, int)
    order = rng.permutation(r.rows)
    for row, pattern in zip(order, [*r.patterns, *r.patterns, r.patterns[0]], strict=False):
        n[row] = pattern
    assert (n * (r.span // r.block)).sum() <= r.values
    full, values, positions = np.zeros((r.rows, r.span), np.float32), [], []
    for row in np.flatnonzero(n):
        blocks = np.zeros((r.span // r.block, r.block), np.float32)
        blocks[:, : n[row]] = rounded(rng.normal(size=(len(blocks), n[row])))
        full[row] = rng.permuted(blocks, axis=1).ravel()
        packed = compress(full[row : row + 1], int(n[row]), r.block)
        values.append(packed.values.ravel())
        positions.append(packed.positions.ravel())
    values, positions = np.concatenate(values), np.concatenate(positions)
    state.tiles.view(np.uint16)[5, : len(values)] = encode(values)
    state.metadata[2] = pack_bits(positions, r.position_bits, r.metadata_size)
    state.patterns[2] = pack_bits(np.searchsorted([0, *r.patterns], n), r.pattern_bits, r.pattern_size)
    c = state.tiles.view(np.float32)[6 : 6 + r.rows_width].reshape(-1, r.tile_n)
    want = c[: r.rows].copy()
    want[n > 0] = _sum_in_order(want[n > 0], full[n > 0], _rows_of_b(state, 0, r.span_width, r))
    run(_one(Op.SPMM_R, dst=6, a=5, b=0, m=2, width=r.rows_width), np.zeros(0, np.uint8), engine, state=state)
    np.testing.assert_array_equal(c[: r.rows], want)


def test_a_tile_cannot_hold_more_values_than_its_row_patterns_ask_for():
    state = State.of(SPARSE)
    state.patterns[0] = pack_bits(np.full(32, 3), 2, 8)  # 32 dense rows where 8 fit
    with pytest.raises(SpecError, match=r"instruction 0.*more than the 512 values"):
        run(_one(Op.SPMM_R, dst=4, a=2, b=0, m=0, width=2), np.zeros(0, np.uint8), SPARSE, state=state)


def test_skipped_zeros_add_nothing_and_ieee_zeros_make_nan_of_infinity():
    for zeros, word in (("ieee", np.nan), ("skip", 5.0)):
        state = State.of(DENSE)
        state.tiles.view(np.uint16)[0, :16] = encode(np.full(16, np.inf))  # the first row of B; A is zero
        state.tiles.view(np.float32)[2] = 5.0
        run(_one(Op.GEMM, dst=2, a=1, b=0), np.zeros(0, np.uint8), DENSE, state=state, zeros=zeros)
        np.testing.assert_array_equal(state.tiles.view(np.float32)[2], word)


def test_loads_and_stores_move_rows_and_wide_registers_are_neighbours():
    memory = np.arange(1 << 13, dtype=np.uint32).astype(np.uint8)
    text = """
        TILE_LOAD_U ureg1, [0x100], 128     # tmm2 and tmm3
        TILE_STORE_T [0x1c00], tmm3
        TILE_ZERO_T tmm3
        TILE_LOAD_M mreg5, [3]
        TILE_LOAD_RP rpreg4, [7]
    """
    first = memory.copy()
    state = run(assemble(text), memory, SPARSE)
    rows = np.stack([first[0x100 + 128 * i :][:64] for i in range(32)])
    np.testing.assert_array_equal(state.tiles[2], rows[:16].ravel())
    assert not state.tiles[3].any()
    np.testing.assert_array_equal(memory[0x1C00:0x2000], rows[16:].ravel())
    np.testing.assert_array_equal(memory[:0x1C00], first[:0x1C00])
    np.testing.assert_array_equal(state.metadata[5], first[3:131])
    np.testing.assert_array_equal(state.patterns[4], first[7:15])


def test_a_product_sees_what_was_last_written_to_its_registers():
    """B is an earlier result's register, loaded anew between two products."""
    memory = np.zeros(4096, np.uint8)
    memory[:2048].view(np.uint16)[:] = encode(np.repeat([1.0, 3.0], 512))
    text = """
        TILE_LOAD_T tmm0, [0]
        TILE_LOAD_T tmm1, [0]
        TILE_GEMM tmm2, tmm0, tmm1
        TILE_LOAD_T tmm1, [1024]
        TILE_GEMM tmm3, tmm0, tmm1
        TILE_ZERO_T tmm1
        TILE_GEMM tmm4, tmm0, tmm1
    """
    state = run(assemble(text), memory, DENSE)
    assert [state.tiles.view(np.float32)[i, 0] for i in (2, 3, 4)] == [32.0, 96.0, 0.0]


@pytest.mark.parametrize(
    "line, words",
    [
        ("TILE_LOAD_T tmm8, [0]", "dst = 8.*8 tile registers"),
        ("TILE_LOAD_X tmm7:2, [0]", "dst = 7"),
        ("TILE_LOAD_T tmm0, [0x1000]", "4096 bytes of memory"),
        ("TILE_LOAD_T tmm0, [0], 0x200", "4096 bytes of memory"),
        ("TILE_LOAD_M mreg8, [0]", "8 metadata registers"),
        ("TILE_SPMM_X tmm0, tmm1, tmm2:3, mreg0", "reads 4, 2, 1 registers of B"),
        ("TILE_GEMM tmm0, tmm1, tmm0", "other registers"),
        ("TILE_SPMM_V tmm5, tmm0, vreg1, mreg0", "other registers"),
    ],
)
def test_instructions_outside_the_machine_are_refused_before_anything_runs(line, words):
    memory = np.ones(4096, np.uint8)
    with pytest.raises(SpecError, match=f"(?s)instruction 1.*{words}"):
        run(assemble("TILE_STORE_T [0], tmm0\n" + line), memory, SPARSE)
    assert memory.all()


def test_dense_engines_refuse_sparse_instructions():
    memory = np.zeros(0, np.uint8)
    for line in ("TILE_SPMM_U tmm4, tmm0, ureg1, mreg0", "TILE_SPMM_R ureg2, tmm0, ureg1, mreg0"):
        with pytest.raises(SpecError):
            run(assemble(line), memory, DENSE)


# --- listings -----------------------------------------------------------------------------------------------------

_TILE = st.integers(0, 60)
_PLACE = st.integers(0, 2**40)


@st.composite
def _programs(draw) -> Program:
    rows = []
    for op in draw(st.lists(st.sampled_from(list(Op)), max_size=12)):
        row = {"op": int(op), "dst": -1, "a": -1, "b": -1, "m": -1, "width": 1, "address": -1, "stride": 0}
        if op in (Op.LOAD, Op.STORE, Op.ZERO, Op.SPMM, Op.SPMM_R):
            row["width"] = draw(st.integers(1, 9))
        if op != Op.STORE:
            row["dst"] = draw(_TILE)
        if op >= Op.GEMM:
            row |= {"a": draw(_TILE), "b": draw(_TILE)}
        if op == Op.STORE:
            row["a"] = draw(_TILE)
        if op in (Op.SPMM, Op.SPMM_R):
            row["m"] = draw(_TILE)
        if op <= Op.STORE:
            row |= {"address": draw(_PLACE), "stride": 64}
        if op in (Op.LOAD, Op.STORE):
            row["stride"] = draw(st.integers(0, 5000))
        rows.append(row)
    return Program.of(**{name: [row[name] for row in rows] for name in Program._fields})


def test_a_row_wise_product_writes_as_many_registers_as_it_says():
    """TILE_SPMM_R writes a ureg here: naming one register, or four, is refused."""
    good = assemble("TILE_SPMM_R ureg3, tmm0, ureg1, mreg0")
    check(good, 0, registers(SPARSE))
    for c in ("tmm6", "vreg1"):
        with pytest.raises(SpecError, match="writes 2 tile registers"):
            check(assemble(f"TILE_SPMM_R {c}, tmm0, ureg1, mreg0"), 0, registers(SPARSE))


@settings(deadline=None)
@given(_programs(), st.sampled_from([2, 4, 6, 8, 16]))
def test_a_listing_reads_back_as_its_program(program, block):
    back = assemble(disassemble(program, block=block))
    for name in Program._fields:
        np.testing.assert_array_equal(getattr(back, name), getattr(program, name), err_msg=name)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 300), st.sampled_from([1, 2, 4]))
def test_kernels_read_back_from_their_listings(m, n, k, pattern):
    program, _ = gemm_program(m, n, k, SPARSE, pattern=pattern)
    text = disassemble(program)
    back = assemble(text.lower().replace("0x", "0X") + "\n; the end")
    for name in Program._fields:
        np.testing.assert_array_equal(getattr(back, name), getattr(program, name), err_msg=name)


def test_every_faulty_line_is_named():
    text = "TILE_GEMM tmm0, tmm1\n\nMOV r0\nTILE_LOAD_U tmm0, [3]\nTILE_LOAD_M tmm0, [1]\nTILE_ZERO_T tmm0\nTILE_LOAD_T tmm0, x"
    with pytest.raises(SpecError) as caught:
        assemble(text, "my.lst")
    assert [fault.location for fault in caught.value.faults] == [f"my.lst, line {i}" for i in (1, 3, 4, 5, 7)]
    for word in (
        "takes tile registers of C, A and B",
        "is no instruction",
        "2 tile registers wide",
        "mreg0",
        "address",
    ):
        assert word in str(caught.value)


@settings(deadline=None)
@given(st.text(alphabet="TILE_GEMSPORADVZXR mureg0123:,[]x;\n\t", max_size=60))
def test_no_text_upsets_the_assembler(text):
    try:
        program = assemble(text)
        check(program, 1 << 20, registers(SPARSE))
    except SpecError:
        pass
