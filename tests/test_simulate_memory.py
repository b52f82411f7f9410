"""Memory tiers in the simulator: shared links and memories, reductions on the way, capacity."""

from __future__ import annotations

import pytest
from simulate_traces import coll, comp, line, node, trace_set

from dse.errors import SpecError
from dse.simulate import Hop, Tier, simulate
from dse.trace import Collective, Kind

SIZE = 10**9


def load(ident, deps=(), **attrs):
    return node(ident, Kind.MEM_LOAD, deps, tensor_size=SIZE, **attrs)


def store(ident, deps=(), **attrs):
    return node(ident, Kind.MEM_STORE, deps, tensor_size=SIZE, **attrs)


def pool(**fields):
    return Tier("pool", 10e9, **{"shared_by": 0, "path": (Hop(4e9), Hop(8e9, shared_by=4)), **fields})


def system(ranks, *tiers):
    return line(ranks, tiers=tiers)


@pytest.mark.parametrize(("ranks", "seconds"), [(1, 1 / 4), (2, 1 / 4), (4, 4 / 8), (8, 8 / 10), (16, 16 / 10)])
def test_a_pool_is_shared_where_its_links_are(ranks, seconds):
    """First a device's link limits (4 GB/s), then that of its four (8 GB/s), then the memory (10 GB/s)."""
    found = simulate(trace_set([[load(0)]] * ranks), system(ranks, pool()))
    assert found.time == pytest.approx(seconds, rel=1e-12)
    assert found.exposed_memory.tolist() == pytest.approx([seconds] * ranks)


def test_loads_and_stores_share_the_memory_but_not_the_links():
    both = [[load(0), store(1)]]
    assert simulate(trace_set(both), system(1, pool())).time == pytest.approx(1 / 4)
    narrow = Tier("pool", 5e9, shared_by=0, path=(Hop(4e9),))
    assert simulate(trace_set(both), system(1, narrow)).time == pytest.approx(2 / 5)


def test_latency_of_the_way_counts_once():
    tier = pool(latency=1e-3, path=(Hop(4e9, latency=2e-3),))
    assert simulate(trace_set([[load(0), load(1, [0])]]), system(1, tier)).time == pytest.approx(2 * (0.25 + 3e-3))


@pytest.mark.parametrize(
    ("kind", "make", "once"),
    [
        (Collective.REDUCE, store, True),
        (Collective.GATHER, store, False),
        (Collective.BROADCAST, load, True),
        (Collective.SCATTER, load, False),
    ],
)
def test_switches_add_stores_up_and_copy_loads_out(kind, make, once):
    """A sum or a copy passes every shared link once; pieces of each member pass one by one."""
    nodes = [[make(0, pg_name="g", comm_type=int(kind))]] * 8
    traces = trace_set(nodes, {"g": range(8)})
    adds, plain = (simulate(traces, system(8, pool(reduces=r))).time for r in (True, False))
    assert plain == pytest.approx(8 / 10)
    assert adds == pytest.approx(1 / 4 if once else 8 / 10)


def test_an_access_of_a_group_waits_for_all():
    nodes = [[comp(0, 0.5 * r), store(1, [0], pg_name="g", comm_type=int(Collective.REDUCE))] for r in range(2)]
    found = simulate(trace_set(nodes, {"g": range(2)}), system(2, pool()))
    assert found.begin.tolist() == pytest.approx([0.0, 0.5, 0.0, 0.5])
    nodes[1][1] = load(1, [0], pg_name="g", comm_type=int(Collective.BROADCAST))
    with pytest.raises(SpecError, match="do something else"):
        simulate(trace_set(nodes, {"g": range(2)}), system(2, pool()))


def test_tiers_by_name_and_accesses_beside_collectives():
    local = Tier("hbm", 100e9)
    nodes = [[load(0, **{"dse.tier": "pool"}), load(1, **{"dse.tier": "local"}), coll(2, Collective.ALL_REDUCE, 10**8)]]
    found = simulate(trace_set(nodes * 2), system(2, local, pool()))
    assert found.end[1] == pytest.approx(0.25 + 0.01)  # loads of a device go one after the other
    two = simulate(trace_set(nodes * 2), system(2, local, pool()).replace(memory_streams=2))
    assert two.end[1] == pytest.approx(0.01)
    with pytest.raises(SpecError, match="no such memory; the system has: hbm, pool"):
        simulate(trace_set([[load(0, **{"dse.tier": "disk"})]]), system(1, local, pool()))


def test_what_a_memory_holds_over_time():
    nodes = [[store(0), comp(1, 1.0, [0]), load(2, [1]), load(3, [2])]]
    found = simulate(trace_set(nodes * 4), system(4, pool(capacity=3.5e9, held=1e8)))
    table = found.occupancy()
    assert table["bytes"].tolist() == pytest.approx([1e8, 1e8 + 4 * SIZE, 1e8, 1e8])
    assert table["when"].tolist() == pytest.approx([0.0, 0.0, 2.0, 2.5])
    (over,) = found.overflows
    assert (over.tier, over.held, over.capacity) == ("pool", pytest.approx(4.1e9), 3.5e9)
    assert "too much" in repr(found)
    roomy = simulate(trace_set(nodes * 4), system(4, pool(capacity=5e9)))
    assert not roomy.overflows
