"""Weight sharing as sets of kernels and channels, and fronts of accuracy over cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dse.domains.sushi import pareto, sharing
from dse.domains.sushi.sharing import SubGraph, WeightSets
from dse.domains.sushi.subnets import SPACES, mobilenetv3, resnet50, stack
from dse.errors import SpecError

RESNET, MOBILENET = SPACES["ofa-resnet50"], SPACES["ofa-mobilenetv3"]
MIB = 2**20

SIZES = np.array([[6, 5, 4], [4, 3, 6], [7, 5, 3]])  # kernels, channels, windows of three slots


@st.composite
def subgraphs(draw, count: int = 3) -> SubGraph:
    """A stack of SubGraphs inside of the slots of SIZES; windows are odd, absent layers are all 0."""
    k, c = (draw(arrays.arrays(np.int64, (count, 3), elements=st.integers(0, 6))) for _ in range(2))
    r = draw(arrays.arrays(np.int64, (count, 3), elements=st.sampled_from([1, 3, 5, 7])))
    k, c, r = (np.minimum(column, most) for column, most in zip((k, c, r), SIZES, strict=True))
    present = (k > 0) & (c > 0)
    return SubGraph(*(np.where(present, column, 0) for column in (k, c, r)))


LARGEST = SubGraph(*SIZES)


def one(stacked: SubGraph, i: int) -> SubGraph:
    """A SubGraph of a stack."""
    return SubGraph(*(column[i] for column in stacked))


def dense(sets: WeightSets, slot: int) -> np.ndarray:
    """Every weight of a slot: whether it is in the set [kernel, channel, position]."""
    return np.einsum("k,c,r->kcr", sets.kernels[slot], sets.channels[slot], sets.window[slot]) > 0


@given(subgraphs())
def test_sharing_is_an_intersection(stacked: SubGraph) -> None:
    """Commutative, associative, idempotent, in each, and monotone."""
    a, b, c = (one(stacked, i) for i in range(3))
    both = sharing.shared(a, b)
    for mine, its in zip(both, sharing.shared(b, a), strict=True):
        np.testing.assert_array_equal(mine, its)
    for mine, its in zip(sharing.shared(both, c), sharing.shared(a, sharing.shared(b, c)), strict=True):
        np.testing.assert_array_equal(mine, its)
    for mine, its in zip(sharing.shared(a, a), a, strict=True):
        np.testing.assert_array_equal(mine, its)
    assert (both.weights <= a.weights).all() and (both.weights <= b.weights).all()
    larger = SubGraph(*(np.maximum(x, y) for x, y in zip(b, c, strict=True)))
    assert (sharing.shared(a, larger).weights >= both.weights).all()


@given(subgraphs())
def test_prefixes_share_what_their_sets_share(stacked: SubGraph) -> None:
    """The three numbers of a slot count what intersecting every single weight counts."""
    sets = [WeightSets.of(one(stacked, i), LARGEST) for i in range(3)]
    a, b = one(stacked, 0), one(stacked, 1)
    both = sharing.shared(a, b).weights
    np.testing.assert_array_equal(sets[0].shared(sets[1]).weights, both)
    for slot in range(3):
        masks = [dense(own, slot) for own in sets]
        assert (masks[0] & masks[1]).sum() == both[slot]
        assert (masks[0] & masks[1] & masks[2]).sum() == sharing.core(stacked).weights[slot]


@given(subgraphs(3), subgraphs(2))
def test_cached_weights_of_all_pairs(networks: SubGraph, cached: SubGraph) -> None:
    """[i, j, slot] holds what i and j share, for prefixes and for sets alike; apart, kernels of one size only."""
    hits = sharing.cached_weights(networks, cached)
    sets = WeightSets.of(networks, LARGEST).cached(WeightSets.of(cached, LARGEST))
    np.testing.assert_array_equal(hits, sets)
    apart = sharing.cached_weights(networks, cached, windows="apart")
    for i in range(3):
        for j in range(2):
            a, b = one(networks, i), one(cached, j)
            np.testing.assert_array_equal(hits[i, j], sharing.shared(a, b).weights)
            np.testing.assert_array_equal(apart[i, j], sharing.shared(a, b, windows="apart").weights)
            np.testing.assert_array_equal(apart[i, j], np.where(a.r == b.r, hits[i, j], 0))


@given(st.integers(0, 2**32))
def test_any_kernels_and_channels(seed: int) -> None:
    """Sets that are no prefixes: counted as every single weight counts them."""
    draw = np.random.default_rng(seed)
    stacks = [
        WeightSets(*(tuple(draw.random((2, n)) < 0.6 for n in sizes) for sizes in (SIZES[0], SIZES[1], SIZES[2] ** 2)))
        for _ in range(2)
    ]
    hits = stacks[0].cached(stacks[1])
    for i in range(2):
        for j in range(2):
            a, b = (
                WeightSets(*(tuple(m[n] for m in masks) for masks in s)) for s, n in zip(stacks, (i, j), strict=True)
            )
            np.testing.assert_array_equal(a.shared(b).weights, hits[i, j])
            np.testing.assert_array_equal([(dense(a, s) & dense(b, s)).sum() for s in range(3)], hits[i, j])


@given(subgraphs(), st.integers(0, 1200), st.permutations([0, 1, 2]), st.sampled_from([1, 2]))
def test_truncation_fills_the_budget_to_within_a_kernel(whole: SubGraph, budget: int, order: list, wide: int) -> None:
    """The cut fits, is a part, and could take no further kernel of the slot where it was cut."""
    cut = sharing.truncated(whole, budget, np.array(order), bytes_per_weight=wide)
    size = sharing.nbytes(cut, wide)
    assert (size <= budget).all()
    for mine, its in zip(sharing.shared(cut, whole), cut, strict=True):
        np.testing.assert_array_equal(mine, its)
    for i in range(3):
        part = [slot for slot in order if cut.k[i, slot] < whole.k[i, slot]]
        if part:
            kernel = int(whole.c[i, part[0]] * whole.r[i, part[0]] ** 2) * wide
            assert budget - size[i] < kernel
            assert (cut.k[i, part[1:]] == 0).all()


def test_truncation_takes_one_order_a_row_and_refuses_a_negative_budget() -> None:
    """Orders broadcast against networks; a budget is a size."""
    network = resnet50()[0]
    orders = np.stack([np.arange(61), np.arange(61)[::-1]])
    cut = sharing.truncated(network, 1.6875 * MIB, orders)
    assert cut.k.shape == (2, 61) and cut.k[0, 0] == 24 and cut.k[1, 0] == 0
    np.testing.assert_allclose(sharing.nbytes(cut), 1.6875 * MIB, rtol=0.01)
    with pytest.raises(SpecError, match="budget = -1: must be 0 bytes or more"):
        sharing.truncated(network, -1)


def test_shared_weights_of_the_published_networks() -> None:
    """What all share is what A and B share, and less than any of them has."""
    networks = stack(resnet50())
    hits = sharing.cached_weights(networks, networks).sum(axis=-1)
    np.testing.assert_array_equal(np.diag(hits), networks.weights.sum(axis=-1))
    np.testing.assert_array_equal(hits, hits.T)
    core = sharing.nbytes(sharing.core(networks))
    assert core == hits[0, 1] == hits.min() < networks.weights.sum(axis=-1).min()


def test_vectors() -> None:
    """K1, C1, K2, C2, ... with zeros for what is absent."""
    vector = sharing.vectors(resnet50()[0])
    assert vector.shape == (122,) and vector[:6].tolist() == [24, 3, 0, 0, 40, 24]
    assert sharing.vectors(stack(resnet50())).shape == (6, 122)


# Fronts

values = arrays.arrays(float, st.shared(st.integers(1, 30), key="n"), elements=st.integers(0, 6).map(float))


@given(values, values)
def test_front_is_what_nobody_beats(accuracy: np.ndarray, cost: np.ndarray) -> None:
    """Against the definition, point by point; one stands for equals; rising in both."""
    chosen = pareto.front(accuracy, cost)
    beaten = [
        any((accuracy >= a) & (cost <= c) & ((accuracy > a) | (cost < c)))
        for a, c in zip(accuracy, cost, strict=True)
    ]  # fmt: skip
    best = {(a, c) for a, c, lost in zip(accuracy, cost, beaten, strict=True) if not lost}
    assert [(accuracy[i], cost[i]) for i in chosen] == sorted(best)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=40, unique=True), st.integers(1, 12))
def test_spaced(costs: list, count: int) -> None:
    """As many as asked for, rising, each once, with both ends where there is room for them."""
    chosen = pareto.spaced(np.array(sorted(costs), dtype=float), count)
    assert len(chosen) == min(count, len(costs)) and (np.diff(chosen) > 0).all()
    assert chosen[0] == 0 and (count == 1 or chosen[-1] == len(costs) - 1)


def test_search_beats_random_networks_and_repeats() -> None:
    """No random network beats the found front; the same seed finds it again."""
    settings_of = {"population": 400, "rounds": 12, "seed": 5}
    found = pareto.pareto(MOBILENET, 6, **settings_of)
    assert [(s.weights, s.macs) for s in pareto.pareto(MOBILENET, 6, **settings_of)] == [
        (s.weights, s.macs) for s in found
    ]
    assert len(found) == 6
    best = pareto.front(*(np.array([getattr(s, name) for s in found]) for name in ("accuracy", "weights")))
    assert best.tolist() == list(range(6))
    drawn = MOBILENET.sample(2000, seed=1)
    layers = MOBILENET.layers(drawn)
    accuracy, weights = pareto.published_accuracy(MOBILENET)(drawn, layers), layers.weights.sum(axis=-1)
    assert not any(((accuracy > s.accuracy) & (weights < s.weights)).any() for s in found)


def test_an_accuracy_model_and_a_cost_of_ones_own() -> None:
    """Both are functions of many networks at once; a model that likes depth finds the deepest for a cost without it."""
    found = pareto.pareto(
        RESNET, 3,
        accuracy=lambda config, layers: config["depth"].sum(axis=-1) / 10,
        cost=lambda layers: layers.x[..., 0] / 1e3,
        population=200, rounds=10,
    )  # fmt: skip
    assert found[-1].accuracy == 1.0 and found[-1].resolution == 128
    with pytest.raises(SpecError, match="cost = 'area': must be one of macs, weights"):
        pareto.pareto(RESNET, 3, cost="area")


def test_published_curves_rise_and_stay_level_outside() -> None:
    """Near the networks they were drawn through, and never above the best of them by more than they scatter."""
    for family, largest in (("resnet", 0.798), ("mobilenet", 0.802)):
        curve = pareto.published_curve(family)
        macs = np.geomspace(curve.low / 3, curve.high * 3, 60)
        assert (np.diff(curve(macs)) >= 0).all() and curve.deviation < 0.003
        assert curve(macs[-1]) == curve(curve.high) == pytest.approx(largest, abs=0.005)


def test_the_seven_mobile_networks_are_those_that_their_rule_picks() -> None:
    """Of the 27 uniform networks the front of multiply-adds over weights, evenly spaced."""
    uniform = [
        MOBILENET.subnet(MOBILENET.uniform(expand=e, depth=d, kernel=k, resolution=224))
        for e in (3, 4, 6)
        for d in (2, 3, 4)
        for k in (3, 5, 7)
    ]
    weights, macs = (np.array([getattr(s, name) for s in uniform], dtype=float) for name in ("weights", "macs"))
    best = pareto.front(macs, weights)
    picked = [uniform[i].config for i in best[pareto.spaced(macs[best], 7)]]
    assert picked == [subnet.config for subnet in mobilenetv3()]
