"""Fused all-reduce: every schedule adds every contribution exactly once, and comes near the bound."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from dse.collective.bounds import bound
from dse.collective.files import load
from dse.collective.fused import all_reduce
from dse.collective.fused.doubling import doubling
from dse.collective.schedule import EVERYONE, Schedule
from dse.collective.tasks import list_schedule, successors
from dse.collective.topology import Topology
from dse.collective.verifier import verify
from dse.errors import SpecError

GIB, US = 2.0**30, 1e-6


def replay(schedule: Schedule) -> None:
    """Sets of contributors as integers; switches hand on what came in first."""
    t = schedule.topology
    took = schedule.end - schedule.start
    least = t.latency[schedule.link] + schedule.chunks.size[schedule.chunk] / t.bandwidth[schedule.link]
    assert np.all(took >= least * (1 - 1e-9))
    order = np.lexsort((schedule.start, schedule.link))
    same = np.diff(schedule.link[order]) == 0
    slack = 1e-9 * schedule.time
    assert np.all((schedule.start[order][1:] - schedule.end[order][:-1])[same] >= -slack)
    everyone = sum(1 << int(v) for v in schedule.members)
    origin = schedule.chunks.origin.tolist()
    whole = [everyone if o == EVERYONE else 1 << o for o in origin]

    def own(key: tuple[int, int]) -> int:
        return (1 << key[1]) & whole[key[0]]

    holds: dict[tuple[int, int], int] = {}
    waiting: dict[tuple[int, int], list[int]] = {}
    flying: list[tuple[float, int, int, int]] = []

    def arrive(until: float) -> None:
        while flying and flying[0][0] <= until:
            _, _, i, what = heapq.heappop(flying)
            key = (int(schedule.chunk[i]), int(schedule.destination[i]))
            if key[1] >= t.npus:
                assert not schedule.reduce[i]
                waiting.setdefault(key, []).append(what)
                continue
            held = holds.get(key, own(key))
            if schedule.reduce[i]:
                assert held & what == 0, "added twice"
                holds[key] = held | what
            else:
                assert held & ~what == 0, "lost"
                holds[key] = what

    for i in np.argsort(schedule.start, kind="stable").tolist():
        arrive(float(schedule.start[i]) + slack)
        key = (int(schedule.chunk[i]), int(schedule.source[i]))
        what = waiting[key].pop(0) if key[1] >= t.npus else holds.get(key, own(key))
        assert what, "nothing to send"
        heapq.heappush(flying, (float(schedule.end[i]), i, i, what))
    arrive(np.inf)
    for k in range(len(schedule.chunks.size)):
        for v in schedule.members.tolist():
            assert holds.get((k, v), own((k, v))) == whole[k]
    if origin[0] == EVERYONE:
        assert schedule.chunks.size.sum() == pytest.approx(schedule.nbytes)
    else:  # everyone's whole vector
        assert sorted(origin) == schedule.members.tolist()
        assert np.all(schedule.chunks.size == schedule.nbytes)


def both(pairs: list[tuple[int, int]], npus: int, rate: float = 50 * GIB, latency: float = 0.5 * US) -> Topology:
    return Topology.of([(*p, rate, latency) for a, b in pairs for p in ((a, b), (b, a))], npus)


def mesh(x: int, y: int, wrap: bool = False) -> Topology:
    pairs = []
    for i in range(x):
        for j in range(y):
            pairs += [(i * y + j, (i + 1) % x * y + j)] if i + 1 < x or wrap else []
            pairs += [(i * y + j, i * y + (j + 1) % y)] if j + 1 < y or wrap else []
    return both(pairs, x * y)


def digraph(rng: np.random.Generator, npus: int, switches: int = 0) -> Topology:
    nodes = npus + switches
    ring = rng.permutation(nodes)
    ends = [(int(a), int(b)) for a, b in zip(ring, np.roll(ring, 1), strict=True)]
    for _ in range(int(rng.integers(0, 2 * nodes))):
        a, b = rng.choice(nodes, 2, replace=False)
        ends.append((int(a), int(b)))
    rows = [(a, b, rng.choice([5, 25, 50, 100]) * GIB, rng.choice([0.1, 0.5, 2]) * US) for a, b in ends]
    return Topology.of(rows, npus, nodes=nodes)


@pytest.mark.parametrize("seed", range(30))
def test_random_digraphs_add_exactly_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    topology = digraph(rng, int(rng.integers(2, 14)))
    for nbytes in (2**10, 2**20, 2**30):
        made = all_reduce(topology, nbytes, seeds=1, chunks=("auto", 1, 3)[seed % 3])
        replay(made)


@pytest.mark.parametrize("seed", range(30))
def test_groups_and_switches(seed: int) -> None:
    rng = np.random.default_rng(seed)
    npus = int(rng.integers(3, 12))
    topology = digraph(rng, npus, int(rng.integers(1, 5)))
    members = np.sort(rng.choice(npus, int(rng.integers(1, npus + 1)), replace=False))
    replay(all_reduce(topology, 2**24, members=members, chunks=2, seeds=1))
    replay(all_reduce(topology, 2**10, members=members, seeds=1))


@pytest.mark.parametrize(("x", "y"), [(4, 4), (8, 4), (6, 6)])
def test_meshes_come_near_the_strength(x: int, y: int) -> None:
    # Partition into single NPUs: each byte crosses 2 (n - 1) times, over all links together.
    topology = mesh(x, y)
    least = 2 * (x * y - 1) * GIB / topology.bandwidth.sum()
    made = all_reduce(topology, GIB)
    assert least < made.time <= 1.10 * least
    replay(made)


def test_a_torus_comes_near_its_bandwidth() -> None:
    topology = mesh(4, 4, wrap=True)
    least = 2 * 15 / 16 * GIB / (4 * 50 * GIB)
    made = all_reduce(topology, GIB)
    assert least < made.time <= 1.03 * least
    replay(made)


def test_a_failed_cable_costs_about_its_share() -> None:
    topology = mesh(4, 4, wrap=True)
    broken = topology.without(links=[0, 1])
    least = 2 * 15 * GIB / broken.bandwidth.sum()
    assert all_reduce(broken, GIB).time <= 1.10 * least


def test_links_of_different_speed_share_the_load() -> None:
    pairs = [(i, j) for i in range(6) for j in range(i)]
    rng = np.random.default_rng(5)
    rates = rng.choice([25, 50, 100], len(pairs)) * GIB
    rows = [(*p, r, 0.5 * US) for (a, b), r in zip(pairs, rates, strict=True) for p in ((a, b), (b, a))]
    topology = Topology.of(rows, 6)
    made = all_reduce(topology, GIB)
    used = np.bincount(made.link, made.end - made.start, topology.links)
    assert made.time <= 1.10 * used.max()
    replay(made)


def test_few_bytes_take_a_few_latencies() -> None:
    line = both([(i, i + 1) for i in range(8)], 9)
    made = all_reduce(line, 8)
    assert made.time <= 1.01 * 8 * 0.5 * US  # to the middle and back, or everything to everyone


def test_chunks_that_are_asked_for() -> None:
    made = all_reduce(mesh(3, 3), 2**20, chunks=2)
    assert len(made.chunks.size) == 18
    replay(made)


def test_one_member_has_nothing_to_do() -> None:
    made = all_reduce(mesh(2, 2), 2**20, members=[3])
    assert made.transfers == 0
    assert made.time == 0


def test_input_that_makes_no_sense() -> None:
    apart = both([(0, 1), (2, 3)], 4)
    with pytest.raises(SpecError, match="reach"):
        all_reduce(apart, 2**20)
    for nbytes in (0, -1, np.inf, np.nan):
        with pytest.raises(SpecError, match="bytes"):
            all_reduce(mesh(2, 2), nbytes)
    for members in ([], [0, 4]):
        with pytest.raises(SpecError, match="members"):
            all_reduce(mesh(2, 2), 1, members=members)
    with pytest.raises(SpecError, match="chunks"):
        all_reduce(mesh(2, 2), 1, chunks=0)


def test_a_deadline_still_gives_a_schedule() -> None:
    made = all_reduce(mesh(8, 8), GIB, deadline=0.01)
    assert made.time <= 1.5 * 2 * 63 * GIB / made.topology.bandwidth.sum()


def test_the_same_input_gives_the_same_schedule() -> None:
    one, two = (all_reduce(mesh(3, 4), 2**22) for _ in range(2))
    assert np.array_equal(one.start, two.start)
    assert np.array_equal(one.link, two.link)


def test_list_schedule_keeps_priorities_and_order() -> None:
    # Tasks 0 and 1 want link 0; 2 waits for both, on link 1; 3 is ready on link 1 at once but comes last.
    waits, ptr, following = successors(np.array([0, 1]), np.array([2, 2]), 4)
    link = np.array([0, 0, 1, 1])
    duration = np.array([1.0, 2.0, 1.0, 5.0])
    start = list_schedule(link, duration, waits, ptr, following, np.array([1.0, 0.0, 0.0, 9.0]), 2)
    assert start.tolist() == [2.0, 0.0, 5.0, 0.0]
    never = list_schedule(link[:1], duration[:1], np.array([1]), np.array([0, 0]), following[:0], np.zeros(1), 1)
    assert np.isnan(never[0])


@pytest.mark.parametrize("shape", ["hypercube:16", "torus:4x4", "fully_connected:8", "torus:4x2"])
def test_recursive_doubling_takes_no_longer_than_the_diameter_for_little_data(shape: str) -> None:
    network = load(f"{shape},bandwidth=50GiB/s,latency=0.5us")
    made = doubling(network, 64.0, network.members)
    assert made is not None and verify(made).valid
    assert made.time <= 1.01 * bound(network, "all_reduce", 64.0).latency
    big = doubling(network, 2.0**30, network.members)
    assert big is not None and verify(big).valid


@pytest.mark.parametrize("shape", ["torus:3x3", "mesh:2x4", "ring:8", "switch:4"])
def test_networks_without_the_links_have_no_recursive_doubling(shape: str) -> None:
    network = load(shape)
    assert doubling(network, 64.0, network.members) is None
