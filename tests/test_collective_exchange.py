"""All-to-all near the bound, merged messages, and several collectives on one network."""

from __future__ import annotations

import numpy as np
import pytest
from collective_replay import ALPHA, BETA, fat_tree, full, grid, hypercube, random_network, replay, ring, star
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from dse.collective.concurrent import link_load, together
from dse.collective.exchange import all_to_all
from dse.collective.library import LIBRARY, names
from dse.collective.merge import merged, tasks_of, timed
from dse.collective.precedence import start_times, tails
from dse.collective.schedule import COLLECTIVES
from dse.collective.tasks import seconds
from dse.collective.topology import Topology
from dse.errors import SpecError

GIB = 2.0**30


def fluid(topology, nbytes, members):
    """Least time for the bytes alone: flows by source, any split, as one linear programme."""
    n, links, nodes = len(members), topology.links, topology.nodes
    unit = topology.bandwidth.mean()  # of bytes/s, and blocks of 1: so that the solver's tolerances mean something
    rows, needs = [], []
    for s, source in enumerate(members):
        for v in range(nodes):
            if v == source:
                continue
            row = np.zeros(n * links + 1)
            row[s * links + np.flatnonzero(topology.dst == v)] = 1
            row[s * links + np.flatnonzero(topology.src == v)] -= 1
            rows.append(row)
            needs.append(1.0 if v in members else 0.0)
    full_links = np.hstack([np.tile(np.eye(links), n), -topology.bandwidth[:, None] / unit])
    cost = np.append(np.zeros(n * links), 1.0)
    found = linprog(cost, full_links, np.zeros(links), np.array(rows), np.array(needs), method="highs")
    return found.fun * nbytes / n / unit


@pytest.mark.parametrize(
    "topology",
    [ring(8), grid(4, 4), grid(4, 4, wrap=True), hypercube(3), full(6), star(8), fat_tree(8, 4), random_network(9, 1)],
    ids=lambda t: t.name,
)
def test_near_the_flow_bound_when_large(topology):
    """The linear programme knows neither latencies nor whole pieces; at 1 GiB they cost little."""
    made = all_to_all(topology, GIB)
    replay(made, 1e-11)
    least = fluid(topology, GIB, topology.members.tolist())
    assert least * (1 - 1e-9) <= made.time <= 1.1 * least
    assert made.notes["bound_s"] <= made.notes["fullest_link_s"] * (1 + 1e-9)


@given(st.integers(3, 8), st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_near_the_flow_bound_on_random_networks(n, seed):
    topology = random_network(n, seed)
    made = all_to_all(topology, 8 * GIB, seeds=1)
    assert made.time <= 1.1 * fluid(topology, 8 * GIB, range(n))


@given(st.integers(2, 12), st.integers(0, 10**6), st.floats(1, 1e9), st.data())
@settings(max_examples=25, deadline=None)
def test_every_block_arrives_once(n, seed, nbytes, data):
    topology = random_network(n, seed)
    members = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))
    made = all_to_all(topology, nbytes, members=members, per_shard=data.draw(st.integers(1, 3)))
    replay(made)
    ends = made.destination == made.chunks.target[made.chunk]
    assert np.bincount(made.chunk[ends], minlength=len(made.chunks.size)).tolist() == [1] * len(made.chunks.size)


@pytest.mark.parametrize("shape", [(16, 8), (4, 4, 8)])
def test_a_torus_of_128(shape):
    """The links of the longest dimension carry at least what has to go along it."""
    topology = grid(*shape, wrap=True)
    made = all_to_all(topology, GIB)
    hops = max(np.minimum(np.arange(k), k - np.arange(k)).mean() for k in shape) * topology.npus**2
    least = hops / (2 * topology.npus) * GIB / topology.npus / BETA
    assert least <= made.time <= 1.1 * least


def test_small_blocks_take_the_shortest_way():
    made = all_to_all(full(8), 1024)
    assert made.time == pytest.approx(ALPHA + 128 / BETA, rel=1e-9)
    assert made.transfers == 56
    wide = all_to_all(grid(6, 6, wrap=True), 1.0)
    assert np.bincount(wide.chunk).max() <= 6


def test_all_to_all_is_reproducible():
    one, other = (all_to_all(random_network(12, 3), 1e8) for _ in range(2))
    assert (one.start == other.start).all() and (one.link == other.link).all()


@pytest.mark.parametrize(
    ("topology", "fields", "match"),
    [
        (ring(4), {"nbytes": -1}, "bytes = -1"),
        (ring(4), {"nbytes": 1e6, "per_shard": 0}, "per_shard = 0"),
        (ring(4), {"nbytes": 1e6, "members": [5]}, "members = 5"),
        (Topology.of([(0, 1, 1e9, 0)], 2), {"nbytes": 1e6}, "NPU 0.*reachable from NPU 1"),
    ],
)
def test_bad_input_is_named(topology, fields, match):
    with pytest.raises(SpecError, match=match):
        all_to_all(topology, **fields)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 10), st.integers(0, 10**6), st.sampled_from(COLLECTIVES), st.sampled_from([1e2, 1e5, 1e8]), st.data()
)
def test_merging_is_exact_and_never_slower(n, seed, collective, nbytes, data):
    topology = data.draw(st.sampled_from([random_network(n, seed), star(n), fat_tree(8, 4)]))
    name = data.draw(st.sampled_from(names(collective)))
    made = LIBRARY[name](topology, collective, nbytes, per_shard=2)
    better = merged(made)
    replay(better)
    assert better.time <= made.time


def test_merging_pays_one_latency_where_blocks_wait_together():
    """A line: what goes beyond the next NPU travels with what is for it."""
    line = grid(1, 9)
    made = all_to_all(line, 9.0)
    better = merged(made)
    replay(better)
    assert made.time >= 20 * ALPHA  # the middle link carries 4 * 5 blocks
    assert better.time == pytest.approx(8 * ALPHA, rel=0.26)  # the line is 8 links long
    assert len(np.unique(better.message)) < better.transfers


def test_merging_on_a_large_torus():
    topology = grid(8, 8, 8, wrap=True)
    made = LIBRARY["multitree"](topology, "all_gather", 1024.0)
    better = merged(made)
    assert better.time < 0.25 * made.time
    assert better.time >= 12 * ALPHA  # its diameter


def test_merging_leaves_large_messages_alone():
    made = LIBRARY["ring"](ring(4), "all_gather", GIB)
    assert merged(made) is made


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_tasks_scheduled_again_are_the_same_collective(collective):
    for topology in (grid(3, 3), fat_tree(8, 4), random_network(9, 4)):
        for name in names(collective):
            made = LIBRARY[name](topology, collective, 1e6, per_shard=2)
            flow = tasks_of(made)
            duration = seconds(topology.latency, topology.bandwidth, flow.link, flow.size)
            start = start_times(flow.link, duration, flow.order, -tails(duration, flow.order), topology.links)
            again = timed(made, flow, start, start + duration)
            assert again is not None
            replay(again)


def test_groups_at_once_keep_the_links_busy():
    """Eight rings, one in each row of a torus, share no link: together they take as long as one."""
    torus = grid(8, 8, wrap=True)
    rows = [LIBRARY["ring"](torus, "all_reduce", 1e8, members=np.arange(8) + 8 * i) for i in range(8)]
    made = together(rows)
    assert max(one.time for one in made) == pytest.approx(rows[0].time, rel=1e-9)
    doubled = together([*rows, *rows])
    load = link_load(doubled).max()
    assert load == pytest.approx(2 * link_load(rows).max(), rel=1e-9)
    assert load * (1 - 1e-9) <= max(one.time for one in doubled) <= 2 * rows[0].time * (1 + 1e-9)


def test_together_on_one_clock_is_valid():
    for topology in (grid(3, 4), fat_tree(8, 4), random_network(8, 8)):
        jobs = [LIBRARY["ring"](topology, "all_reduce", 1e6), all_to_all(topology, 2e6),
                LIBRARY["multitree"](topology, "broadcast", 1e6)]  # fmt: skip
        made = together(jobs)
        message = [np.arange(one.transfers) if one.message is None else one.message for one in made]
        first = [np.unique(m, return_index=True)[1] for m in message]
        link, start, end = (
            np.concatenate([getattr(one, column)[f] for one, f in zip(made, first, strict=True)])
            for column in ("link", "start", "end")
        )
        order = np.lexsort((start, link))
        same = np.diff(link[order]) == 0
        assert (start[order][1:][same] >= end[order][:-1][same] - 1e-12).all()
        for one in made:
            replay(one)
        assert max(one.time for one in made) <= sum(job.time for job in jobs) * (1 + 1e-9)
        assert max(one.time for one in made) >= link_load(made).max() * (1 - 1e-9)


def test_makers_keep_out_of_each_others_way():
    """Two all-to-alls between the same corners of a square can each have a side to itself."""
    square = grid(2, 2)
    makers = [lambda net: all_to_all(net, GIB, members=[0, 3], per_shard=1)] * 2
    made = together(makers, square)
    for one in made:
        replay(one)
    assert max(one.time for one in made) == pytest.approx(2 * (ALPHA + GIB / 2 / BETA), rel=1e-9)


def test_the_urgent_one_ends_first():
    line = ring(6)
    job = LIBRARY["ring"](line, "all_gather", 1e8)
    calm, urgent = together([job, job], weights=[1, 1000])
    assert urgent.time < calm.time


def test_together_names_bad_input():
    job = LIBRARY["ring"](ring(4), "all_gather", 1e6)
    with pytest.raises(SpecError, match="topology"):
        together([lambda net: job])
    with pytest.raises(SpecError, match=r"jobs\.1\.topology"):
        together([job, LIBRARY["ring"](ring(5), "all_gather", 1e6)])
    with pytest.raises(SpecError, match="weights"):
        together([job], weights=[0])
    assert together([]) == []
