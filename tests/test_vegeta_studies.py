"""Sparse engines: pruning, granularity, cost, rooflines, the design space, and the engine as a catalogue entry."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import dse
from dse.domains.vegeta import accelerator, cost, granularity, language, prune, roofline, running, sweep
from dse.domains.vegeta.engine import Engine, load_engine
from dse.domains.vegeta.kernels import gemm_program
from dse.domains.vegeta.workloads import Layer
from dse.errors import SpecError
from dse.spec import catalogue
from dse.spec.hardware import Accelerator

SHARES = st.floats(0.0, 1.0)
SEEDS = st.integers(0, 2**31)
HEADLINE = "vegeta-s-16-2-of"


@lru_cache
def headline() -> Engine:
    return load_engine(HEADLINE)


@lru_cache
def trained() -> language.Model:
    return language.train(300)


@given(SHARES, st.integers(1, 40), st.integers(1, 40), SEEDS)
@settings(max_examples=25, deadline=None)
def test_pruning_keeps_the_largest_and_counts(sparsity: float, m: int, k: int, seed: int) -> None:
    """Magnitude pruning zeroes exactly the share asked for, and nothing kept is smaller than anything dropped."""
    w = np.random.default_rng(seed).standard_normal((m, k))
    whole, rows = prune.magnitude(w, sparsity), prune.magnitude_rows(w, sparsity)
    assert np.count_nonzero(~whole) == round(sparsity * m * k)
    assert np.all(np.count_nonzero(~rows, axis=1) == round(sparsity * k))
    if whole.any() and not whole.all():
        assert np.abs(w)[whole].min() >= np.abs(w)[~whole].max()


@given(st.integers(1, 8), st.integers(1, 20), st.integers(1, 50), SEEDS)
@settings(max_examples=25, deadline=None)
def test_n_of_m_is_the_best_mask_of_its_kind(block: int, m: int, k: int, seed: int) -> None:
    """Every block keeps min(N, its length) weights, and by magnitude no choice of N could keep more."""
    rng = np.random.default_rng(seed)
    w, n = rng.standard_normal((m, k)), int(rng.integers(1, block + 1))
    kept = prune.n_of_m(w, n, block=block)
    for first in range(0, k, block):
        part, chosen = np.abs(w[:, first : first + block]), kept[:, first : first + block]
        count = min(n, part.shape[1])
        assert np.all(chosen.sum(axis=1) == count)
        np.testing.assert_allclose((part * chosen).sum(axis=1), np.sort(part, axis=1)[:, -count:].sum(axis=1))


def test_block_pruning_drops_whole_blocks() -> None:
    """Blocks are kept or dropped as one, the weakest go, and cut blocks at the edges count as blocks."""
    w = np.random.default_rng(1).standard_normal((10, 13))
    kept = prune.magnitude_blocks(w, 0.5, shape=(4, 4))
    corners = kept[::4, ::4]
    assert np.array_equal(np.kron(corners, np.ones((4, 4), bool))[:10, :13], kept)
    assert np.count_nonzero(~corners) == 6
    scores = [np.abs(w[i : i + 4, j : j + 4]).sum() for i in range(0, 10, 4) for j in range(0, 13, 4)]
    assert min(np.array(scores)[corners.ravel()]) > max(np.array(scores)[~corners.ravel()])


@pytest.mark.parametrize("make", [prune.random, prune.blocks, prune.skewed])
def test_made_matrices_have_the_sparsity_asked_for(make: object) -> None:
    """Random, block and skewed zeros: the mean is right, the seed decides, and the extremes are exact."""
    for sparsity in (0.3, 0.9):
        a = make(1024, 256, sparsity, seed=3)  # type: ignore[operator]
        assert a.dtype == np.float32
        assert prune.sparsity_of(a) == pytest.approx(sparsity, abs=0.03)
        assert np.array_equal(a, make(1024, 256, sparsity, seed=3))  # type: ignore[operator]
    assert np.count_nonzero(make(64, 64, 1.0)) == 0  # type: ignore[operator]
    assert np.count_nonzero(make(64, 64, 0.0)) == 64 * 64  # type: ignore[operator]


def test_skew_spreads_the_rows_as_stated() -> None:
    """The variance of a row's density over the rows is spread · s · (1 − s), and the binomial's besides."""
    a = prune.skewed(20_000, 400, 0.7, spread=0.25, seed=0)
    share = 1.0 - np.count_nonzero(a, axis=1) / 400
    own = 0.25 * 0.7 * 0.3
    assert share.var() == pytest.approx(own + (0.7 * 0.3 - own) / 400, rel=0.04)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: prune.random(4, 4, 1.5), "sparsity"),
        (lambda: prune.random(0, 4, 0.5), "m"),
        (lambda: prune.random(4, 2.5, 0.5), "k"),  # type: ignore[arg-type]
        (lambda: prune.skewed(4, 4, 0.5, spread=1.0), "spread"),
        (lambda: prune.magnitude(np.array([1.0]), 0.5), "weights"),
        (lambda: prune.magnitude(np.array([[np.nan]]), 0.5), "weights"),
        (lambda: prune.n_of_m(np.ones((2, 8)), 5), "n"),
        (lambda: prune.mask(np.ones((2, 8)), "magic", 0.5), "kind"),
        (lambda: granularity.expected(0.5, "weekly"), "granularity"),
        (lambda: granularity.expected(-0.1), "sparsity"),
        (lambda: granularity.expected(0.5, patterns=(1, 2)), "patterns"),
        (lambda: granularity.network("tea", 0.5), "kind"),
    ],
)
def test_faults_name_the_field(call: object, field: str) -> None:
    """What cannot be is refused with the field, the value and the rule."""
    with pytest.raises(SpecError) as error:
        call()  # type: ignore[operator]
    assert error.value.faults[0].path == field


def test_gradients_of_the_language_model() -> None:
    """Back-propagation agrees with differences of the loss in every kind of weight."""
    rng = np.random.default_rng(0)
    weights = {name: w.astype(np.float64) for name, w in trained().weights.items()}
    before, target = language._examples(language.text().train, rng.integers(100, 9000, (2, 8)))

    def mean_loss() -> float:
        return language._cross_entropy(weights, before, target)

    slopes = language._slopes(weights, before, target)
    for name, slope in slopes.items():
        at = np.unravel_index(np.argmax(np.abs(slope)), slope.shape)
        kept, step = weights[name][at], 1e-6
        weights[name][at] = kept + step
        above = mean_loss()
        weights[name][at] = kept - step
        below = mean_loss()
        weights[name][at] = kept
        assert slope[at] == pytest.approx((above - below) / (2 * step), rel=1e-4), name


def test_the_language_model_learns_and_pruning_costs() -> None:
    """Training beats the entropy of single characters; looser pruning loses less, and retraining wins some back."""
    codes = language.text().train
    share = np.bincount(codes) / len(codes)
    dense = language.loss(trained())
    assert dense < 0.75 * -float(np.sum(share * np.log2(share)))
    losses = [language.loss(language.prune(trained(), "unstructured", s)) for s in (0.0, 0.5, 0.75, 0.9)]
    assert losses[0] == dense and losses == sorted(losses)
    at_half = {kind: language.loss(language.prune(trained(), kind, 0.5)) for kind in prune.KINDS}
    assert at_half["unstructured"] < at_half["n:m"] < at_half["block"]
    again = language.prune(trained(), "n:m", 0.75, steps=40)
    assert language.loss(again) < language.loss(language.prune(trained(), "n:m", 0.75))
    masks = {name: prune.mask(w, "n:m", 0.75) for name, w in trained().matrices().items()}
    assert all(not np.any(w[~masks[name]]) for name, w in again.matrices().items())


def test_row_wise_closed_form_gives_the_published_speedups() -> None:
    """2.36 at 90 % and 3.28 at 95 % (second-hand, from notes and the abstract), within half a per cent."""
    np.testing.assert_allclose(granularity.expected([0.9, 0.95]), [2.36, 3.28], rtol=0.005)


def test_finer_granularity_is_never_slower() -> None:
    """Network- to row-wise, speed-ups are ordered at every sparsity, lie between 1 and M, and grow with sparsity."""
    zeros = np.linspace(0.0, 1.0, 201)
    curves = [granularity.expected(zeros, name) for name in granularity.GRANULARITIES]
    for coarse, fine in pairwise(curves):
        assert np.all(coarse <= fine + 1e-12)
    for curve in curves:
        assert np.all(np.diff(curve) >= -1e-12)
        assert curve[0] == 1.0 and curve[-1] == pytest.approx(4.0)


@given(st.sampled_from([2, 4, 8]), st.floats(0.0, 1.0), st.integers(1, 32))
@settings(max_examples=40, deadline=None)
def test_closed_form_against_counting(block: int, sparsity: float, blocks: int) -> None:
    """More patterns, or narrower pieces, never lose; dense alone always gives 1."""
    powers = tuple(2**i for i in range(block.bit_length()))
    wide, narrow = (
        granularity.expected(sparsity, block=block, patterns=powers, width=w * block) for w in (2 * blocks, blocks)
    )
    assert narrow >= wide - 1e-12
    assert granularity.expected(sparsity, block=block, patterns=(block,), width=block) == pytest.approx(1.0)
    assert granularity.expected(sparsity, block=block, patterns=powers[-2:], width=blocks * block) <= narrow + 1e-12


@pytest.mark.parametrize("engine", ["vegeta-s-16-2-of", "example-s-16-2-m8"])
def test_the_packer_agrees_with_the_closed_form(engine: str) -> None:
    """Random zeros through the real covers and packer: what is left of the gap is the last tile of each panel."""
    table = granularity.study(load_engine(engine), kinds=("random",), sparsities=(0.6, 0.8, 0.9, 0.95))
    # Rows kept in order leave gaps in tiles as well, and the more the wider the steps from one N to the next.
    least = {"tile": 0.99, "pseudo-row": 0.97, "row": 0.99}
    fine = table[table.granularity.isin(least)]
    assert np.all(fine.speedup <= fine.expected * 1.01)
    assert np.all(fine.speedup >= fine.expected * fine.granularity.map(least))
    assert table.loss.isna().all() and table.accuracy.isna().all()


def test_granularity_of_pruned_models() -> None:
    """N:M pruning gains its full M/N at any granularity; the accuracy of the user's network is carried along."""
    table = granularity.study(
        headline(), kinds=("model", "model, N:M"), sparsities=(0.75,), accuracy=lambda kind, s: 1.0 - s / 10
    )
    gain = table.set_index(["kind", "granularity"]).speedup
    assert gain["model, N:M"].to_numpy() == pytest.approx(4.0, rel=0.02)
    assert gain["model"]["network"] == 1.0 < gain["model"]["row"]
    assert table.accuracy.eq(0.925).all()
    loss = table.groupby("kind").loss.first()
    assert loss["model"] < loss["model, N:M"]


def test_crossover_with_an_unstructured_engine() -> None:
    """The ideal engine of equal area always wins; at the crossover both are equal; larger ones need more zeros."""
    areas = np.array([1.0, 2.0, 4.0, 6.0, 8.0])
    at = granularity.crossover(areas)
    assert at[0] == 0.0 and np.all(np.diff(at) > 0.0)
    for area, sparsity in zip(areas[1:], at[1:], strict=True):
        row = granularity.expected(sparsity)
        assert row == pytest.approx(float(granularity.unstructured(sparsity, area=area)), rel=1e-3)
    assert np.isnan(granularity.crossover(1e6))
    grid = granularity.crossover_map((0.5, 0.95), (1.0, 10.0))
    assert list(grid.ratio > 1.0) == [False, True, False, True]


def test_area_counts_parts() -> None:
    """Against the plain array: broadcasting shares input registers, sparsity adds them, larger blocks more so."""
    alphas = np.array([1, 2, 4, 8, 16])
    sparse = cost.relative(alphas, 2)
    assert np.all(np.diff(sparse) < 0.0)
    assert np.all(sparse > cost.relative(alphas, 2, sparse=False))
    assert np.all(cost.relative(alphas, 2, block=8) > sparse)
    assert cost.relative(1, 1, sparse=False) == 1.0
    assert cost.relative(1, 1, sparse=False, tile_k=64) == pytest.approx(2.0)
    assert cost.relative(1, 1, block=1) == pytest.approx(1.0)  # blocks of one: nothing to choose
    assert cost.of_engine(headline()) == pytest.approx(float(sparse[-1]))


@lru_cache
def product(pattern: int) -> tuple[object, cost.Work]:
    program, _ = gemm_program(48, 32, 256, headline(), pattern=pattern)
    return program, cost.work(program, headline())


def test_work_of_a_kernel_in_closed_form() -> None:
    """48 x 256 times 256 x 32: arithmetic and traffic add up by hand for dense, 2:4 and 1:4 weights."""
    for pattern, width in ((4, 1), (2, 2), (1, 4)):
        work = product(pattern)[1]
        tiles = 3 * 2 * 8 // width
        positions = 0 if width == 1 else 128
        assert work.instructions == tiles and work.macs == 8192 * tiles
        loads = tiles * (1024 + positions) + 2 * 8 * 1024  # A anew for each tile of n; B is shared by three tiles of C
        c = 2 * 6 * 1024
        assert work.l2_bytes == loads + c
        assert work.dram_bytes == 3 * 8 // width * (1024 + positions) + 2 * 8 * 1024 + c
        assert work.register_bytes == tiles * (1024 + positions + width * 1024 + 2048) + work.l2_bytes


def test_energy_falls_with_sparsity_and_goes_with_its_constants() -> None:
    """The engine's energy is MACs times stated picojoules; sparser weights cost less of everything but C."""
    dense, half, quarter = (cost.energy(product(n)[1]) for n in (4, 2, 1))
    assert dense["engine"] == pytest.approx(48 * 8192 * 2.0e-12)
    assert all(dense[name] > half[name] > quarter[name] for name in dense)
    assert cost.energy(product(4)[1], 1.5)["engine"] == pytest.approx(1.5 * dense["engine"])
    free = cost.Energies(multiply=0.0, add=0.0, dram=0.0)
    assert cost.energy(product(4)[1], energies=free) | {"registers": 0, "l2": 0} == dict.fromkeys(dense, 0)


def test_roofs_and_points() -> None:
    """64 and 512 GFLOP/s (recalled), times M/N where weights are pruned; no layer passes its roof; starved ones are
    bound by memory."""
    assert [roof.peak for roof in roofline.roofs(headline())] == [64e9, 512e9, 1024e9, 2048e9]
    assert [roof.pattern for roof in roofline.roofs(load_engine("vegeta-d-1-2"))] == [None, 4]
    small = [Layer(name="small", m=64, n=64, k=256)]
    table = roofline.points(headline(), small)
    assert np.all(table.reached <= table.peak) and list(table.pattern) == [4, 2, 1]
    by_hand = 2 * 64 * 64 * 256 / (2 * 64 * 256 + 2 * 64 * 256 + 8 * 64 * 64)
    assert table.intensity[0] == pytest.approx(by_hand)
    assert np.all(np.diff(table.intensity) > 0)
    starved = roofline.points(headline(), small, bandwidth=1e9, reached=False)
    assert starved.bound.eq("memory").all()
    assert starved.attainable.to_numpy() == pytest.approx(1e9 * starved.intensity.to_numpy())
    with pytest.raises(SpecError, match="bandwidth"):
        roofline.points(headline(), small, bandwidth=0.0)


@lru_cache
def swept() -> xr.Dataset:
    space = sweep.Space(
        layers=("bert-2",), density=(1.0, 0.5, 0.125), block=(4, 8), tile_k=(32, 64), accumulators=(3,), alpha=(1, 16),
        beta=(2, 3), clock=(1.0, 2.0),
    )  # fmt: skip
    return sweep.sweep(space, accuracy={1.0: 0.76, 0.5: 0.75})


def test_a_point_of_the_sweep_is_one_estimate() -> None:
    """A design picked out of the sweep takes the cycles of the same engine timed alone, and the same energy."""
    point = swept().sel(layer="bert-2", density=0.5, block=4, tile_k=32, accumulators=3, alpha=16, beta=2, clock=1.0)
    for forwarding, engine in ((False, "vegeta-s-16-2"), (True, "vegeta-s-16-2-of")):
        own = running.run(512, 512, 768, load_engine(engine), pattern="2:4")
        here = point.sel(forwarding=forwarding)
        assert float(here.cycles) == own.cycles and float(here.time) == pytest.approx(own.seconds)
        assert float(here.energy) == pytest.approx(sum(own.energy.values()))
        assert float(here.utilisation) == pytest.approx(own.utilisation)
        assert float(here.stalls.sel(cause="bandwidth")) == own.stalls["bandwidth"]


def test_infeasible_designs_are_masked_with_their_reason() -> None:
    """What cannot be built or run stays in the table as NaN and says why; what is feasible has all its numbers."""
    data = swept()
    feasible = data.feasible.broadcast_like(data.time)
    for name in ("time", "energy", "power", "utilisation"):
        assert np.array_equal(np.isfinite(data[name].transpose(*feasible.dims)), feasible), name
    reasons = data.reason.sel(accumulators=3, alpha=1, forwarding=False, clock=1.0, tile_k=32)
    assert "must divide" in str(reasons.sel(density=1.0, block=4, beta=3).item())
    assert "does not run" in str(reasons.sel(density=0.125, block=4, beta=2).item())
    assert "1:8 does not run" in str(reasons.sel(density=0.125, block=8, beta=2).item())
    assert str(reasons.sel(density=0.5, block=8, beta=2).item()) == ""


def test_designs_are_ordered_as_they_must_be() -> None:
    """Forwarding, a faster clock and fewer weights never slow a design; broadcasting makes it smaller.

    A deeper array halves the instructions, but each takes as long as its weights take to load: rows are what bounds.
    """
    time = swept().time.sel(layer="bert-2", accumulators=3, beta=2, density=[1.0, 0.5])
    assert np.all(time.sel(forwarding=True) <= time.sel(forwarding=False))
    assert np.all(time.sel(clock=2.0) <= time.sel(clock=1.0))
    assert np.all(time.sel(density=0.5) <= time.sel(density=1.0))
    used = swept().utilisation.sel(layer="bert-2", accumulators=3, beta=2, density=1.0)
    assert np.all(used.sel(tile_k=64) <= 0.5) and used.sel(tile_k=32).max() > 0.95
    area = swept().area.sel(beta=2)
    assert np.all(area.sel(alpha=16) < area.sel(alpha=1))
    assert np.all(area.sel(tile_k=64) > area.sel(tile_k=32))


def test_the_front_of_a_sweep() -> None:
    """No design beats one on the front; accuracy joins as the user gave it; what is unknown cannot be asked for."""
    table = sweep.overall(swept())
    assert table.over_dense[table.density == 1.0].eq(1.0).all()
    assert table.over_dense[table.density == 0.5].between(1.0, 2.05).all()  # waits may shrink by more than the work
    best = sweep.front(table, ("time", "area", "accuracy"))
    assert set(best.density) == {1.0, 0.5}
    points = table[["time", "area"]].assign(loss=-table.accuracy).to_numpy()
    for own in best[["time", "area"]].assign(loss=-best.accuracy).to_numpy():
        assert not np.any(np.all(points <= own, axis=1) & np.any(points < own, axis=1))
    for wrong in (("beauty",), (), ("time", "reason")):
        with pytest.raises(SpecError, match="objectives"):
            sweep.front(table, wrong)


@pytest.mark.parametrize(
    ("id", "engine", "pattern"),
    [
        ("vegeta-d-1-2-56c-dense", "vegeta-d-1-2", None),
        ("vegeta-s-16-2-of-56c-dense", HEADLINE, None),
        ("vegeta-s-16-2-of-56c-2to4", HEADLINE, 2),
    ],
)
def test_the_catalogue_has_what_the_cycle_model_gives(id: str, engine: str, pattern: int | None) -> None:
    """Shipped entries are those that the engine file and the cycle model make."""
    made = accelerator.to_accelerator(load_engine(engine), pattern=pattern)
    assert made.id == id
    shipped = catalogue.load(Accelerator, "accelerator", id)
    assert shipped.model_dump(exclude={"sources"}) == made.model_dump(exclude={"sources"})


def test_mean_rate_of_sparse_and_dense_products() -> None:
    """Forward passes alone reach the sparse peak, training mixes, and attention stays at the dense rate."""
    layers = [Layer(name="one", m=256, n=256, k=512)]
    dense = accelerator.to_accelerator(headline(), layers=layers)
    forward, training = (
        accelerator.to_accelerator(headline(), pattern=2, sparse_share=f, layers=layers, cores=56) for f in (1.0, None)
    )
    rate = {x: x.matrix.bf16 * x.efficiency.matrix for x in (dense, forward, training)}
    assert 3.0 / rate[training] == pytest.approx(2.0 / rate[forward] + 1.0 / rate[dense], rel=2e-3)
    assert rate[forward] == pytest.approx(
        dense.matrix.bf16 * 2 * accelerator.utilisation(headline(), 2, layers), rel=1e-3
    )
    for sparse in (forward, training):
        attention = sparse.matrix.bf16 * sparse.efficiency.attention
        assert attention == pytest.approx(dense.matrix.bf16 * dense.efficiency.attention, rel=2e-3)
    with pytest.raises(SpecError, match="sparse_share"):
        accelerator.to_accelerator(headline(), sparse_share=1.5)


def test_a_cluster_of_engines_trains_faster_with_pruned_weights() -> None:
    """A training step on the shipped clusters: 2:4 gains, but less than the 1.5 that its products gain at most."""
    step = {}
    for cluster in ("vegeta-pod", "vegeta-pod-2to4"):
        found = dse.estimate("bert-large", cluster, "dp=64,global_batch=2048,micro_batch=32", devices=64)
        step[cluster] = float(found.summary()["step_time_s"])
    assert 1.05 < step["vegeta-pod"] / step["vegeta-pod-2to4"] < 1.5


def test_partial_sums_stay_in_the_cache_that_holds_c() -> None:
    """Row-wise, DRAM gets C once where it fits the cache, and every partial sum where it does not."""
    engine = headline()
    a = prune.random(64, 512, 0.9, seed=1)
    program = running.kernels(64, 64, 512, engine, a=a, pattern="row-wise", order="panel")["row-wise"]
    result = 4.0 * 64 * 64
    held, spilt = (cost.work(program, engine, result=result, cache=size) for size in (result, result - 1.0))
    assert held.l2_bytes == spilt.l2_bytes and held.macs == spilt.macs
    assert spilt.dram_bytes == cost.work(program, engine).dram_bytes
    assert spilt.dram_bytes - held.dram_bytes >= 7 * result, "eight panels of 64 columns"
