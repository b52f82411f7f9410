"""Flows over links: message by message, on dimensions and on graphs of any shape."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from simulate_traces import coll, comp, line, random_system, random_traces, recv, send, trace_set

from dse.errors import SpecError
from dse.simulate import System, collective, dimension, simulate
from dse.trace import Collective

KINDS = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast")
FLOWS = {"fidelity": "flows"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("topology", ["ring", "torus", "mesh", "fully_connected", "switch"])
@pytest.mark.parametrize("n", [2, 4, 7, 8])
def test_lone_collectives_agree_with_the_analytical_backend(kind, topology, n):
    system = line(n, topology=topology, latency=1e-6)
    one = collective(kind, 10**8, system).time
    flows = collective(kind, 10**8, system, **FLOWS).time
    if topology == "switch" and n == 7:  # halving needs powers of two: a ring takes more steps
        assert flows == pytest.approx(one, rel=1e-3)
    elif kind == "all_to_all" and topology in ("ring", "torus") and n == 7:
        assert one == pytest.approx(flows, rel=1e-2)
    else:
        assert flows == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_several_dimensions_agree_within_the_latency_of_chunks(kind):
    for latency, near in ((0.0, 0.02), (1e-7, 0.05)):
        topologies = ("fully_connected", "ring", "switch")
        dimensions = tuple(dimension(t, 100e9 / 2**i, name=t, latency=latency) for i, t in enumerate(topologies))
        system = System(dimensions, (4, 2, 4))
        one = collective(kind, 2**28, system).time
        assert collective(kind, 2**28, system, **FLOWS).time == pytest.approx(one, rel=near)


@pytest.mark.parametrize("algorithm", ["ring", "direct", "halving_doubling", "double_binary_tree"])
def test_algorithms_on_a_switch(algorithm):
    system = System((dimension("switch", 1e9, algorithm=algorithm, latency=1e-6),), (8,))
    one, flows = (collective("all_reduce", 10**8, system, fidelity=f).time for f in ("analytical", "flows"))
    # An inner place of a tree has three neighbours, of which the closed form spreads the load evenly.
    assert flows == pytest.approx(one, rel=0.6 if algorithm == "double_binary_tree" else 1e-6)


def test_the_far_way_around_a_ring_is_shared():
    """0 sends to 2 and 1 to 2 along the same link: half the rate each."""
    system = System((dimension("ring", 2e9),), (6,))
    files = [[send(0, 2, 10**9)], [send(0, 2, 10**9)], [recv(0, 0, 10**9), recv(1, 1, 10**9)], *[[comp(0, 0)]] * 3]
    assert simulate(trace_set(files), system, **FLOWS).time == pytest.approx(2.0, rel=1e-9)
    # The ports of the analytical backend do not see the link: only the receiver's port is shared.
    assert simulate(trace_set(files), system).time == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("senders", [1, 3])
def test_incast_through_a_switch(senders):
    receives = [recv(i, i, 10**9) for i in range(1, senders + 1)]
    files = [receives, *[[send(0, 0, 10**9)]] * senders]
    assert simulate(trace_set(files), line(senders + 1), **FLOWS).time == pytest.approx(senders, rel=1e-12)


def test_reduction_in_the_switch():
    plain = System((dimension("switch", 1e9, algorithm="ring"),), (16,))
    adds = System((dimension("switch", 1e9, in_network_reduction=True),), (16,))
    times = [collective("all_reduce", 10**9, s, **FLOWS).time for s in (plain, adds)]
    assert times[0] / times[1] == pytest.approx(2 * 15 / 16, rel=1e-9)


def star(ranks, bandwidth=1e9, latency=0.0):
    return [edge for r in range(ranks) for edge in ((r, "s", bandwidth, latency), ("s", r, bandwidth, latency))]


def test_a_graph_that_is_a_switch():
    graph, system = System.on_graph(star(4, latency=1e-6), 4), line(4, latency=2e-6)
    for kind in ("reduce_scatter", "all_gather", "all_to_all"):
        expected = {"all_to_all": 2e-6}.get(kind, 3 * 2e-6) + 0.75
        assert collective(kind, 10**9, graph, **FLOWS).time == pytest.approx(expected, rel=1e-9)
    files = [[send(0, 1, 10**9)], [recv(0, 0, 10**9)], [comp(0, 0)], [comp(0, 0)]]
    assert simulate(trace_set(files), graph, **FLOWS).time == pytest.approx(1.0 + 2e-6, rel=1e-9)
    assert simulate(trace_set(files), system).time == pytest.approx(1.0 + 2e-6, rel=1e-9)


def test_asymmetric_graphs_and_networkx():
    graph = nx.DiGraph()
    graph.add_edge(0, 1, bandwidth=4e9, latency=0.0)
    graph.add_edge(1, 0, bandwidth=1e9, latency=0.0)
    system = System.on_graph(graph, 2)
    there = [[send(0, 1, 10**9)], [recv(0, 0, 10**9)]]
    back = [[recv(0, 1, 10**9)], [send(0, 0, 10**9)]]
    times = [simulate(trace_set(files), system, **FLOWS).time for files in (there, back)]
    assert times == pytest.approx([0.25, 1.0], rel=1e-9)
    both_ways = nx.path_graph(3)
    nx.set_edge_attributes(both_ways, 1e9, "bandwidth")
    assert collective("broadcast", 10**9, System.on_graph(both_ways, 3), **FLOWS).time == pytest.approx(1.0, rel=1e-9)
    with pytest.raises(SpecError, match="needs fidelity 'flows'"):
        simulate(trace_set(back), system)
    with pytest.raises(SpecError, match="no way leads"):
        simulate(trace_set(back), System.on_graph([(0, 1, 1e9, 0.0)], 2), **FLOWS)
    with pytest.raises(SpecError, match="rank 2 has no link"):
        collective("broadcast", 8, System.on_graph([(0, 1, 1e9, 0.0)], 3), **FLOWS)


def test_an_algorithm_of_ones_own():
    """A ring written as steps takes as long as the library's ring; one that sends all to one place takes longer."""
    n, size = 4, 10**8
    system = System((dimension("switch", 1e9, algorithm="ring", latency=1e-6),), (n,))
    ring = [(s, i, (i + 1) % n, 1 / n) for s in range(2 * (n - 1)) for i in range(n)]
    own = system.replace(algorithms={"all_reduce": ring})
    expected = collective("all_reduce", size, system, **FLOWS).time
    assert collective("all_reduce", size, own, **FLOWS).time == pytest.approx(expected, rel=1e-9)
    central = [(0, i, 0, 1.0) for i in range(1, n)] + [(1, 0, i, 1.0) for i in range(1, n)]
    through = collective("all_reduce", size, system.replace(algorithms={"all_reduce": central}), **FLOWS).time
    assert through == pytest.approx(2 * (n - 1) * size / 1e9 + 2e-6, rel=1e-9)
    with pytest.raises(SpecError, match="places 0 to 3"):
        collective("all_reduce", size, system.replace(algorithms={"all_reduce": [(0, 0, 4, 1.0)]}), **FLOWS)


def test_random_traces_finish_with_flows():
    for seed in range(25):
        rng = np.random.default_rng(seed)
        traces = random_traces(rng)
        system = random_system(rng, len(traces))
        found = simulate(traces, system, **FLOWS)
        assert np.isfinite(found.end).all()
        assert found.utilization()[0].max(initial=0.0) <= 1 + 1e-9


def test_concurrent_collectives_share_links():
    calls = [[coll(0, Collective.ALL_REDUCE, 10**8, "a"), coll(1, Collective.ALL_REDUCE, 10**8, "b")]] * 4
    traces = trace_set(calls, {"a": range(4), "b": range(4)})
    one, flows = (simulate(traces, line(4, topology="ring"), fidelity=f).time for f in ("analytical", "flows"))
    assert flows == pytest.approx(one, rel=1e-6)
