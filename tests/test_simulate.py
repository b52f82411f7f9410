"""The simulator against closed forms, and what contention, order and unequal devices must do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulate_traces import coll, comp, line, node, random_system, random_traces, recv, send, trace_set

from dse.cost.network import Links
from dse.errors import SpecError
from dse.simulate import Deadlock, Device, System, collective, dimension, simulate
from dse.trace import Collective, Kind, TraceSet

KINDS = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast")
AR, AG, RS = Collective.ALL_REDUCE, Collective.ALL_GATHER, Collective.REDUCE_SCATTER


def closed(system: System, kind: str, size: float) -> float:
    shares = {"group": [np.float64(n) for n in system.sizes]}
    return float(Links(system.dimensions, shares, system.chunks).time(kind, "group", np.float64(size)))


def mixed(*sizes: int, chunks: int = 64, **fields: float) -> System:
    """Dimensions of different topologies, bandwidths and latencies, quickest inside."""
    topologies = ("fully_connected", "ring", "switch")
    dimensions = tuple(
        dimension(topologies[i % 3], 100e9 / 2**i, name=f"d{i}", latency=2e-7 * (i + 1), **fields)
        for i in range(len(sizes))
    )
    return System(dimensions, sizes, chunks=chunks)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(8,), (4, 8), (4, 2, 8)])
@pytest.mark.parametrize("size", [2**12, 2**20, 2**30])
def test_a_lone_collective_takes_as_long_as_in_the_closed_form(kind, sizes, size):
    system = mixed(*sizes, efficiency=0.8, overhead=3e-6, ramp=1e-7)
    assert collective(kind, size, system).time == pytest.approx(closed(system, kind, size), rel=1e-3)


@pytest.mark.parametrize("name", ["dgx-h100", "dgx-a100"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_lone_collective_on_a_cluster_with_its_calibrated_constants(name, kind):
    from dse.explore.evaluate import load_specs

    cluster = load_specs("llama3-8b", name, "dp=32,global_batch=32", 32)["cluster"]
    system = System.of(cluster, 32)
    for size in 2.0 ** np.arange(8, 34, 5):
        assert collective(kind, size, system).time == pytest.approx(closed(system, kind, size), rel=1e-3)


def test_a_ring_by_hand():
    n, size, bandwidth, latency = 5, 10**8, 2e10, 3e-6
    found = collective("all_reduce", size, line(n, topology="ring", bandwidth=bandwidth, latency=latency))
    assert found.time == pytest.approx(2 * (n - 1) * latency + 2 * (n - 1) / n * size / bandwidth, rel=1e-12)
    assert np.all(found.comm == found.time)
    assert np.all(found.exposed_comm == found.time)
    assert np.all(found.idle == 0)


def test_chunks_fill_and_drain_the_dimensions():
    """c chunks through servers that take a and b: the longer one, and one chunk of the shorter."""
    for chunks in (1, 2, 5, 64):
        system = line(4, 4, chunks=chunks)
        a, b = 0.75, 0.1875
        assert collective("reduce_scatter", 10**9, system).time == pytest.approx(a + b / chunks, rel=1e-12)


def test_two_collectives_share_the_ports():
    calls = [[coll(0, AR, 10**9, "a"), coll(1, AR, 10**9, "b")]] * 4
    one = simulate(trace_set([[coll(0, AR, 10**9, "a")]] * 4, {"a": range(4)}), line(4)).time
    both = simulate(trace_set(calls, {"a": range(4), "b": range(4)}), line(4))
    assert both.time == pytest.approx(2 * one, rel=1e-12)
    assert both.begin[0] == both.begin[1] == 0.0
    # In one group they go one after the other.
    turns = simulate(trace_set([[coll(0, AR, 10**9), coll(1, AR, 10**9)]] * 4), line(4))
    assert turns.end.tolist() == pytest.approx([one, 2 * one], rel=1e-12)


@pytest.mark.parametrize("senders", [1, 2, 5])
def test_incast_takes_as_many_times_as_there_are_senders(senders):
    receives = [recv(i, i, 10**9) for i in range(1, senders + 1)]
    found = simulate(trace_set([receives, *[[send(0, 0, 10**9)]] * senders]), line(senders + 1))
    assert found.time == pytest.approx(senders, rel=1e-12)


def test_a_message_cuts_through_the_dimensions():
    """Latencies add up along the way, transfer times do not: the slowest port sets the rate."""
    quick = dimension("ring", 4e9, name="a", latency=1e-3)
    slow = dimension("ring", 1e9, name="b", latency=2e-3)
    traces = trace_set([[send(0, 9, 10**9)], *[[comp(0, 0)]] * 8, [recv(0, 0, 10**9)], *[[comp(0, 0)]] * 6])
    found = simulate(traces, System((quick, slow), (4, 4)))
    assert found.wall[9] == pytest.approx(1e-3 + 2 * 2e-3 + 1.0, rel=1e-9)  # one hop in a, two in b
    assert found.wall[0] == pytest.approx(1.0, rel=1e-9)  # it has left


def test_reduction_in_the_switch_halves_the_time():
    plain = dimension("switch", 1e9, algorithm="ring")
    adds = dimension("switch", 1e9, algorithm="ring", in_network_reduction=True)
    times = [collective("all_reduce", 10**9, System((d,), (64,))).time for d in (plain, adds)]
    assert times[0] / times[1] == pytest.approx(2 * 63 / 64, rel=0.02)


@pytest.mark.parametrize("kind", ["all_reduce", "reduce_scatter", "all_gather"])
@pytest.mark.parametrize("chunks", [1, 4, 64])
def test_themis_is_never_slower_and_comes_near_the_bandwidth(kind, chunks):
    dimensions = tuple(dimension("ring", b, name=str(b)) for b in (200e9, 100e9, 50e9))
    system = System(dimensions, (8, 8, 4), chunks=chunks)
    rising, mixed_up = (collective(kind, 2**30, system, schedule=s).time for s in ("ascending", "themis"))
    least = (2 if kind == "all_reduce" else 1) * 2**30 * (1 - 1 / 256) / 350e9
    assert least * (1 - 1e-9) <= mixed_up <= rising
    if chunks == 64:
        assert mixed_up < 1.06 * least < 0.8 * rising


def test_a_slow_rank_holds_up_its_group():
    traces = TraceSet(
        tuple(trace_set([[comp(0, 1.0), coll(1, AR, 10**6, deps=[0])]]).classes), np.zeros(4, np.int64), {}
    )
    kinds = np.array([0, 0, 1, 0])
    system = line(4, devices=(Device(), Device(speed=0.5)), device_of=kinds)
    found = simulate(traces, system)
    alone = simulate(traces, line(4))
    assert found.time - alone.time == pytest.approx(1.0, rel=1e-9)
    assert found.waiting.tolist() == pytest.approx([1, 1, 0, 1], abs=1e-9)
    path = found.critical_path()
    assert path["rank"].tolist()[0] == 2
    assert path["seconds"].sum() == pytest.approx(found.time, rel=1e-12)


def test_a_slow_port_slows_the_collective():
    system = line(4, devices=(Device(), Device(links=0.25)), device_of=np.array([0, 1, 0, 0]))
    assert collective("all_gather", 10**9, system).time == pytest.approx(3.0, rel=1e-9)


def test_all_gathers_of_traces_give_what_a_rank_puts_in():
    traces = trace_set([[coll(0, AG, 10**9)]] * 4)
    assert simulate(traces, line(4)).time == pytest.approx(3.0, rel=1e-12)
    assert simulate(traces, line(4), gather="output").time == pytest.approx(0.75, rel=1e-12)


def test_involved_dimensions_are_groups_of_their_own():
    from dse.trace import Attribute, columns

    nodes = [coll(0, AR, 10**9)]
    nodes[0].attrs.append(Attribute("involved_dim", "bool_list", [False, True]))
    found = simulate(TraceSet((columns(nodes),), np.zeros(8, np.int64), {}), line(4, 2))
    assert found.time == pytest.approx(1.0, rel=1e-12)


def test_compute_by_replay_and_by_the_roofline():
    nodes = [[node(0, Kind.COMP, num_ops=10**12, tensor_size=10**9), comp(1, 0.25, num_ops=1)]]
    system = line(1, devices=(Device(flops=1e12, memory_bandwidth=2e9, launch=0.125),))
    assert simulate(trace_set(nodes), system).time == pytest.approx(1.0 + 0.125 + 0.25)
    modelled = simulate(trace_set(nodes), system, replay=False)
    assert modelled.time == pytest.approx(1.0 + 0.125 + 0.125, rel=1e-9)
    with pytest.raises(SpecError, match="give the device its FLOP/s"):
        simulate(trace_set(nodes), line(1))


@pytest.mark.parametrize(
    ("policy", "order"), [("fifo", [0, 1, 2, 3]), ("lifo", [0, 3, 1, 2]), ("priority", [0, 2, 1, 3])]
)
def test_streams_take_ready_nodes_by_their_policy(policy, order):
    # 1 and 2 are ready when 0 begins; 3 becomes ready while 0 runs.
    nodes = [comp(0, 1.0, comm_priority=9), comp(1, 1.0), comp(2, 1.0, comm_priority=3), comp(3, 1.0, [4])]
    nodes.append(node(4, Kind.COMP, is_cpu_op=True, **{"dse.seconds": 0.5}))
    found = simulate(trace_set([nodes]), line(1, policy=policy))
    assert np.argsort(found.begin[:4]).tolist() == order
    both = simulate(trace_set([nodes]), line(1, policy=policy, compute_streams=4))
    assert both.time == pytest.approx(1.5)


def test_exposed_time_adds_up():
    nodes = [comp(0, 1.0), coll(1, AR, 2 * 10**9), comp(2, 0.5, [1])]
    found = simulate(trace_set([nodes] * 2), line(2))
    assert found.wall[0] == pytest.approx(2.5)
    assert found.comm[0] == pytest.approx(2.0)
    assert found.exposed_comm[0] == pytest.approx(1.0)
    assert found.compute[0] == pytest.approx(1.5)
    assert found.idle[0] == pytest.approx(0.0, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_times_are_consistent_and_ports_never_overfull(seed):
    rng = np.random.default_rng(seed)
    traces = random_traces(rng)
    system = random_system(rng, len(traces))
    found = simulate(traces, system)
    spent = found.compute + found.exposed_comm + found.exposed_memory + found.idle
    np.testing.assert_allclose(spent, found.wall, rtol=1e-9, atol=1e-15)
    assert np.all(found.ready <= found.issued)
    assert np.all(found.issued <= found.begin)
    assert np.all(found.begin <= found.end)
    share, edges = found.utilization(20)
    assert edges[-1] == found.time
    assert share.min() >= 0.0
    assert share.max() <= 1 + 1e-9
    path = found.critical_path()
    assert path["seconds"].sum() == pytest.approx(found.time, rel=1e-9, abs=1e-15)
    assert path["seconds"].min() >= -1e-12


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(KINDS))
def test_more_bandwidth_never_slows_a_collective(seed, kind):
    rng = np.random.default_rng(seed)
    system = random_system(rng, 12)
    more = tuple(d.model_copy(update={"bandwidth": d.bandwidth * 1.5}) for d in system.dimensions)
    assert collective(kind, 10**7, system.replace(dimensions=more)).time <= collective(kind, 10**7, system).time


def test_bytes_through_a_port_are_those_sent():
    found = collective("reduce_scatter", 4 * 10**9, line(4))
    share, edges = found.utilization(7)
    np.testing.assert_allclose(share @ np.diff(edges) * 1e9, 3e9, rtol=1e-9)
    assert found.dataset["utilization"].sizes["port"] == len(found.ports) == 2


def test_results_as_tables_and_files(tmp_path):
    found = simulate(trace_set([[comp(0, 1.0), coll(1, AR, 10**9, deps=[0])]] * 2), line(2))
    table = found.to_pandas()
    assert table["end"].max() == found.time
    assert table["ranks"].tolist() == [2, 2]
    pd.testing.assert_frame_equal(pd.read_parquet(found.to_parquet(tmp_path / "events.parquet")), table)
    import json

    events = json.loads(found.to_perfetto(tmp_path / "timeline.json").read_text())["traceEvents"]
    assert sum(event["ph"] == "X" for event in events) == len(table)
    assert found.to_dict()["cycles_max"] == round(found.time * 1e9)
    assert "2 ranks (1 simulated)" in repr(found)
    with pytest.raises(SpecError, match="parquet"):
        found.to_file(tmp_path / "events.txt")


def test_16384_and_a_million_ranks_are_one():
    system = line(64, 128, 128, topology="ring", latency=1e-6)
    few, many = (collective("all_reduce", 2**30, system, ranks=n) for n in (16_384, 2**20))
    assert len(few.end) == len(many.end) == 1
    assert len(many.wall) == 2**20
    assert few.time < many.time


# -- what cannot work ---------------------------------------------------------------------------------------


def test_a_peer_that_does_not_come_is_named():
    with pytest.raises(
        Deadlock, match=r"rank 0 node 5 .* waits for ranks 1, 3, whose traces have fewer than 1"
    ) as caught:
        simulate(trace_set([[coll(5, AR, 8)], [comp(0, 1)], [coll(0, AR, 8)], [comp(0, 1)]]), line(4))
    assert caught.value.unfinished == 2
    assert caught.value.time == 1.0
    with pytest.raises(Deadlock, match=r"rank 0 node 0 .* message from rank 1 \(tag 7\) that is never sent"):
        simulate(trace_set([[recv(0, 1, 8, tag=7)], [comp(0, 1)]]), line(2))


def test_a_cycle_is_named():
    ring = [[recv(0, 1, 8), send(1, 1, 8, [0], tag=1)], [recv(0, 0, 8, tag=1), send(1, 0, 8, [0])]]
    with pytest.raises(Deadlock, match="a cycle") as caught:
        simulate(trace_set(ring), line(2))
    assert len(caught.value.cycle) == 4
    crossed = [[coll(0, AR, 8, "a"), coll(1, AR, 8, "b", [0])], [coll(0, AR, 8, "b"), coll(1, AR, 8, "a", [0])]]
    for fold in (True, False):
        with pytest.raises(Deadlock, match=r"rank 1 node 1 \(coll1\) waits for"):
            simulate(trace_set(crossed, {"a": range(2), "b": range(2)}), line(2), fold=fold)
    with pytest.raises(Deadlock, match="rank 0 node 0"):
        simulate(trace_set([[comp(0, 1, [1]), comp(1, 1, [0])]]), line(1))


def test_a_stream_that_is_held_can_lock_up():
    late = [node(9, Kind.COMP, is_cpu_op=True, **{"dse.seconds": 1.0})]
    one = [coll(0, AR, 8, "a"), coll(1, AR, 8, "b", [9]), *late]
    other = [coll(0, AR, 8, "a", [9]), coll(1, AR, 8, "b"), *late]
    traces = trace_set([one, other], {"a": range(2), "b": range(2)})
    assert simulate(traces, line(2)).time > 1.0
    with pytest.raises(Deadlock, match="a cycle"):
        simulate(traces, line(2, comm_streams=1))


@pytest.mark.parametrize(
    ("nodes", "groups", "rule"),
    [
        ([[coll(0, AR, 8)], [coll(0, RS, 8)]], {}, "members must issue the same ones"),
        ([[coll(0, AR, 8)], [coll(0, AR, 9)]], {}, "members must issue the same ones"),
        ([[coll(0, AR, 8, "x")], [comp(0, 1)]], {}, "no such group"),
        ([[coll(0, AR, 8, "x")], [comp(0, 1)]], {"x": [1]}, "rank 0 uses the group and is not in it"),
        ([[send(0, 1, 8)], [comp(0, 1)]], {}, "no rank receives this message"),
        ([[send(0, 5, 8)], [comp(0, 1)]], {}, "rank 0 names it as a peer"),
        ([[coll(0, AR, -1)], [coll(0, AR, -1)]], {}, "how many bytes"),
        ([[node(0, Kind.COLL, comm_size=8)], [node(0, Kind.COLL, comm_size=8)]], {}, "must say which it is"),
        ([[comp(0, 1)]] * 3, {}, "the system has 2 places"),
    ],
)
def test_what_does_not_fit_is_said(nodes, groups, rule):
    with pytest.raises(SpecError, match=rule):
        simulate(trace_set(nodes, groups), line(2))


@pytest.mark.parametrize(
    "make",
    [
        lambda: line(2, policy="random"),
        lambda: line(0),
        lambda: line(2, devices=(Device(),), device_of=np.array([0, 1])),
        lambda: Device(flops=0.0),
        lambda: collective("all_in", 8, line(2)),
        lambda: collective("all_reduce", -1, line(2)),
        lambda: collective("all_reduce", 8, line(2), ranks=[0, 2]),
        lambda: simulate(trace_set([[comp(0, 1)]]), line(1), fidelity="exact"),
    ],
)
def test_bad_systems_and_options_are_faults(make):
    with pytest.raises(SpecError):
        make()
