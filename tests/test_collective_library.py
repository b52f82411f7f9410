"""Known algorithms: closed forms on the networks they were made for, exact data on any other."""

from __future__ import annotations

import numpy as np
import pytest
from collective_replay import ALPHA, BETA, fat_tree, full, grid, hypercube, random_network, replay, ring, star
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.collective.library import LIBRARY, names
from dse.collective.library.base import Net
from dse.collective.library.order import ring_order
from dse.collective.routing import distances, routes
from dse.collective.schedule import COLLECTIVES
from dse.collective.topology import Topology
from dse.errors import SpecError

GIB = 2.0**30
NETWORKS = [
    ring(6), ring(5, both=False), full(5), grid(3, 4), grid(4, 4, wrap=True), grid(3, 3, wrap=True), grid(2, 3, 2),
    hypercube(3), star(6), fat_tree(8, 4), random_network(2, 2), random_network(7, 7), random_network(11, 11),
]  # fmt: skip


def time_of(name, topology, collective, nbytes=GIB, **fields):
    return LIBRARY[name](topology, collective, nbytes, **fields).time


@pytest.mark.parametrize("n", [2, 3, 4, 7, 16])
def test_ring_on_a_ring(n):
    step = ALPHA + GIB / n / BETA
    assert time_of("ring", ring(n), "all_reduce") == pytest.approx(2 * (n - 1) * step, rel=1e-9)
    assert time_of("ring", ring(n), "all_gather") == pytest.approx((n - 1) * step, rel=1e-9)
    assert time_of("ring", ring(n), "reduce_scatter") == pytest.approx((n - 1) * step, rel=1e-9)
    if n > 2:
        half = ALPHA + GIB / 2 / n / BETA
        assert time_of("bidirectional_ring", ring(n), "all_reduce") == pytest.approx(2 * (n - 1) * half, rel=1e-9)


@pytest.mark.parametrize("pieces", [1, 5, 40])
def test_ring_broadcast_is_a_pipeline(pieces):
    want = (7 - 1 + pieces - 1) * (ALPHA + GIB / pieces / BETA)
    assert time_of("ring", ring(7), "broadcast", per_shard=pieces, root=3) == pytest.approx(want, rel=1e-9)
    assert time_of("ring", ring(7), "reduce", per_shard=pieces, root=3) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("n", [2, 5, 8])
def test_direct_on_a_full_network(n):
    step = ALPHA + GIB / n / BETA
    assert time_of("direct", full(n), "all_reduce") == pytest.approx(2 * step, rel=1e-9)
    assert time_of("direct", full(n), "all_to_all") == pytest.approx(step, rel=1e-9)
    assert time_of("direct", full(n), "broadcast") == pytest.approx(ALPHA + GIB / BETA, rel=1e-9)


@pytest.mark.parametrize("n", [3, 8])
def test_direct_through_a_switch_never_waits_for_a_receiver(n):
    assert time_of("direct", star(n), "all_gather") == pytest.approx(n * (ALPHA + GIB / n / BETA), rel=1e-9)


@pytest.mark.parametrize("bits", [1, 2, 3, 5])
def test_halving_doubling_on_a_hypercube(bits):
    n = 1 << bits
    want = 2 * (bits * ALPHA + (n - 1) / n * GIB / BETA)
    assert time_of("halving_doubling", hypercube(bits), "all_reduce") == pytest.approx(want, rel=1e-9)
    exchange = bits * (ALPHA + GIB / 2 / BETA)
    assert time_of("halving_doubling", hypercube(bits), "all_to_all") == pytest.approx(exchange, rel=1e-9)
    spread = bits * (ALPHA + GIB / BETA)
    assert time_of("halving_doubling", hypercube(bits), "broadcast") == pytest.approx(spread, rel=1e-9)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_bruck_on_a_full_network(bits):
    n = 1 << bits
    want = bits * ALPHA + (n - 1) / n * GIB / BETA
    assert time_of("bruck", full(n), "all_gather") == pytest.approx(want, rel=1e-9)
    assert time_of("bruck", full(n), "all_to_all") == pytest.approx(bits * (ALPHA + GIB / 2 / BETA), rel=1e-9)


@pytest.mark.parametrize("n", [6, 7, 13, 16])
def test_double_binary_tree_is_a_pipeline_of_logarithmic_depth(n):
    """Each tree takes half of the data; a link is in both at most, up in one and down in the other."""
    pieces = 64
    step = ALPHA + GIB / pieces / BETA
    took = time_of("double_binary_tree", full(n), "all_reduce", per_shard=pieces)
    depth = int(np.ceil(np.log2(n))) + 1
    assert pieces / 2 * step <= took <= (pieces + 2 * depth) * step
    made = LIBRARY["double_binary_tree"](full(n), "all_reduce", GIB, per_shard=2)
    for piece in range(2):
        assert (made.chunk == piece).sum() == 2 * (n - 1)
        inner = np.unique(made.source[(made.chunk == piece) & ~made.reduce])
        assert len(inner) <= n // 2 + 1


@pytest.mark.parametrize("shape", [(4, 4), (4, 6), (5, 4, 4)])
def test_hierarchical_on_a_torus(shape):
    """Outer dimensions first, with what has been gathered so far."""
    want, held = 0.0, GIB / np.prod(shape)
    for side in shape:
        want += (side - 1) * (ALPHA + held / BETA)
        held *= side
    assert time_of("hierarchical", grid(*shape, wrap=True), "all_gather") == pytest.approx(want, rel=1e-9)
    assert time_of("hierarchical", grid(*shape, wrap=True), "all_reduce") == pytest.approx(2 * want, rel=1e-9)


def test_themis_uses_all_dimensions_at_once():
    for topology in (grid(4, 4, wrap=True), grid(4, 4, 4, wrap=True)):
        one = time_of("hierarchical", topology, "all_reduce")
        assert time_of("themis", topology, "all_reduce") < 0.6 * one


@pytest.mark.parametrize("topology", [grid(4, 4, wrap=True), grid(6, 6), hypercube(4), ring(9)], ids=lambda t: t.name)
def test_multitree_fills_the_links(topology):
    """Within a step or two of what the least connected NPU can take in."""
    n, degree = topology.npus, np.bincount(topology.dst).min()
    step = ALPHA + GIB / n / BETA
    least = int(np.ceil((n - 1) / degree))
    assert least * step * (1 - 1e-9) <= time_of("multitree", topology, "all_gather") <= (least + 2) * step * (1 + 1e-9)


@pytest.mark.parametrize("topology", NETWORKS, ids=lambda t: t.name)
@pytest.mark.parametrize("collective", COLLECTIVES)
def test_exact_everywhere(topology, collective):
    for name in names(collective):
        for fields in ({"per_shard": 3}, {"members": [0, topology.npus - 1], "root": None}):
            replay(LIBRARY[name](topology, collective, 3e5, **fields))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10**6), st.sampled_from(COLLECTIVES), st.data())
def test_exact_on_random_networks_and_groups(n, seed, collective, data):
    topology = random_network(n, seed)
    members = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))
    root = data.draw(st.sampled_from(members)) if collective in ("broadcast", "reduce") else None
    name = data.draw(st.sampled_from(names(collective)))
    replay(LIBRARY[name](topology, collective, 1e6, members=members, root=root, per_shard=data.draw(st.integers(1, 4))))


def test_every_collective_has_algorithms():
    assert {name for collective in COLLECTIVES for name in names(collective)} == set(LIBRARY)
    for collective in COLLECTIVES:
        assert len(names(collective)) >= 4
    with pytest.raises(SpecError, match=r"double_binary_tree.*not all_to_all"):
        LIBRARY["double_binary_tree"](ring(4), "all_to_all", GIB)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"nbytes": 0}, "bytes = 0"), ({"nbytes": float("nan")}, "bytes = nan"), ({"per_shard": 0}, "per_shard = 0"),
        ({"members": [0, 9]}, "members = 9"), ({"members": []}, "members = none"), ({"root": 7}, "root = 7"),
        ({"collective": "gather"}, "collective = gather"),
    ],
)  # fmt: skip
def test_bad_input_is_named(fields, match):
    given_ = {"collective": "broadcast", "nbytes": GIB, **fields}
    with pytest.raises(SpecError, match=match):
        LIBRARY["ring"](ring(4), given_.pop("collective"), given_.pop("nbytes"), **given_)


def test_a_network_in_two_parts_is_refused():
    apart = Topology.of([(0, 1, 1e9, 0), (1, 0, 1e9, 0), (2, 3, 1e9, 0), (3, 2, 1e9, 0)], 4)
    for name in names("all_gather"):
        with pytest.raises(SpecError):
            LIBRARY[name](apart, "all_gather", GIB)


@pytest.mark.parametrize("topology", [grid(4, 6), grid(3, 4, 5), grid(5, 5, wrap=True), grid(2, 2, 2)], ids=repr)
def test_a_ring_on_a_grid_goes_from_neighbour_to_neighbour(topology):
    net = Net(topology, topology.members, 1e6)
    order = ring_order(net)
    assert sorted(order) == list(range(topology.npus))
    assert net.adjacent[order, np.roll(order, -1)].all()


def test_a_ring_finds_a_hidden_cycle():
    """NPUs of a ring numbered at random."""
    names_ = np.random.default_rng(5).permutation(20)
    plain = ring(20)
    mixed = Topology(20, names_[plain.src], names_[plain.dst], ALPHA, BETA)
    assert time_of("ring", mixed, "all_gather") == pytest.approx(time_of("ring", plain, "all_gather"), rel=1e-9)


@given(st.integers(2, 15), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_routes_are_shortest_paths(n, seed):
    import networkx as nx

    topology = random_network(n, seed)
    graph = nx.DiGraph()
    for u, v, t in zip(topology.src.tolist(), topology.dst.tolist(), topology.times(1e5), strict=True):
        graph.add_edge(u, v, weight=t)
    far = distances(topology, 1e5)
    src, dst = np.divmod(np.arange(n * n), n)
    ways = routes(topology, 1e5, src, dst)
    for i, (u, v) in enumerate(zip(src.tolist(), dst.tolist(), strict=True)):
        way = ways.link[ways.ptr[i] : ways.ptr[i + 1]]
        want = nx.dijkstra_path_length(graph, u, v)
        assert far[u, v] == pytest.approx(want, rel=1e-9, abs=1e-15)
        assert topology.times(1e5)[way].sum() == pytest.approx(want, rel=1e-9, abs=1e-15)
        stops = [u, *topology.dst[way].tolist()]
        assert stops[-1] == v and stops[:-1] == topology.src[way].tolist()


def test_equal_paths_share_the_load():
    """From corner to corner of a square there are two ways, and a fat tree has two spines."""
    ways = routes(grid(2, 2), 1e6, [0] * 10, [3] * 10)
    assert np.bincount(ways.link).max() == 5
    tree = fat_tree(8, 4)
    ways = routes(tree, 1e6, [0, 1, 2, 3], [4, 5, 6, 7])
    spines = tree.dst[ways.link][tree.dst[ways.link] >= 10]
    assert sorted(np.bincount(spines)[10:]) == [2, 2]
