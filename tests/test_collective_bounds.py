"""Bounds of collectives: against recorded ones, closed forms, all cuts and partitions of small networks, and a programme."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from dse.collective.bounds import Bound, bound, require_connected
from dse.collective.files import reference_runs, reference_topologies
from dse.collective.flows import good_lengths, programme
from dse.collective.maxflow import distances
from dse.collective.schedule import COLLECTIVES
from dse.collective.text import parse
from dse.collective.topology import Topology
from dse.errors import SpecError

NAMES = {"AllGather": "all_gather", "ReduceScatter": "reduce_scatter", "AllReduce": "all_reduce"}
GIB, US = 2.0**30, 1e-6


@cache
def recorded():
    return reference_runs().drop_duplicates(["family", "n_npus", "collective", "chunks_per_npu", "total_bytes"])


@pytest.mark.parametrize("name", NAMES)
def test_equal_the_recorded_bounds(name):
    runs = recorded()
    known = reference_topologies()
    assert {(f, n) for f, n in zip(runs.family, runs.n_npus, strict=True)} == set(known)
    for row in runs[runs.collective == name].itertuples():
        topology, chunks = known[row.family, row.n_npus], row.chunks_per_npu
        here = bound(topology, NAMES[name], row.total_bytes)
        parts = [here]
        if name == "AllReduce":
            parts = [bound(topology, half, row.total_bytes) for half in ("reduce_scatter", "all_gather")]
            assert here.rs_ag(chunks) / US == pytest.approx(row.lb_us, rel=1e-5)
            assert here.bandwidth / US == pytest.approx(row.lb_allreduce_any_us, rel=1e-5)
            # The recorded one rounds rates in partitions, and leaves latencies out of plain cuts.
            ours, at_least = here.cut_time(chunks * row.n_npus) / US, row.lb_allreduce_any_alpha_us
            assert ours >= at_least * (1 - 1e-5)
            if at_least > row.lb_allreduce_any_us * (1 + 1e-6):
                assert ours == pytest.approx(at_least, rel=2e-4)
        else:
            assert here.strict(chunks) / US == pytest.approx(row.lb_us, rel=1e-5)
        assert sum(b.bandwidth for b in parts) / US == pytest.approx(row.lb_bw_us, rel=1e-5)
        assert sum(b.cut_time(chunks) for b in parts) / US == pytest.approx(row.lb_alpha_chunk_us, rel=1e-5)
        assert sum(b.path_time(chunks) for b in parts) / US == pytest.approx(row.lb_latency_us, rel=1e-5)


def test_recorded_schedules_do_not_beat_them():
    for row in recorded().itertuples():
        if row.tacos_causal_time_us == row.tacos_causal_time_us:
            here = bound(reference_topologies()[row.family, row.n_npus], NAMES[row.collective], row.total_bytes)
            assert row.tacos_causal_time_us * US >= here.any * (1 - 1e-5)
            if row.n_npus <= 128:
                assert row.tacos_causal_time_us * US >= here.best * (1 - 1e-5)


def small(seed: int) -> Topology:
    """A random network of 3 to 6 nodes, sometimes with a switch among them, sometimes with an idle NPU."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 7))
    made = parse(f"random_graph:{n},degree={rng.uniform(1.2, 4)},seed={seed},bandwidth=1GB/s:9GB/s,latency=0us:3us")
    return replace(made, npus=n - 1, nodes=n) if seed % 3 == 2 else made


def inside_sets(topology: Topology):
    for bits in range(1, 2**topology.nodes - 1):
        yield np.array([bits >> v & 1 for v in range(topology.nodes)], bool)


def partitions(items: list[int]):
    if not items:
        yield []
        return
    for rest in partitions(items[1:]):
        yield [[items[0]], *rest]
        for i in range(len(rest)):
            yield [*rest[:i], [items[0], *rest[i]], *rest[i + 1 :]]


def over(topology: Topology, inside: np.ndarray) -> float:
    return topology.bandwidth[inside[topology.src] & ~inside[topology.dst]].sum()


@pytest.mark.parametrize("seed", range(60))
def test_equal_the_worst_of_all_cuts_and_partitions(seed):
    topology = small(seed)
    members, nbytes = topology.members, 7e6
    n = len(members)
    cuts = [(inside[members], over(topology, inside)) for inside in inside_sets(topology)]
    parted = [(m, b) for m, b in cuts if 0 < m.sum() < n]
    gather = max(m.sum() / b for m, b in parted) * nbytes / n
    scatter = max((n - m.sum()) / b for m, b in parted) * nbytes / n
    assert bound(topology, "all_gather", nbytes).bandwidth == pytest.approx(gather, rel=1e-9)
    assert bound(topology, "reduce_scatter", nbytes).bandwidth == pytest.approx(scatter, rel=1e-9)
    cast = max(1 / b for m, b in parted if m[0]) * nbytes
    assert bound(topology, "broadcast", nbytes, root=0).bandwidth == pytest.approx(cast, rel=1e-9)
    fold = max(1 / b for m, b in parted if not m[0]) * nbytes
    assert bound(topology, "reduce", nbytes, root=0).bandwidth == pytest.approx(fold, rel=1e-9)
    worst = max(1 / b for _, b in parted)
    for net in (topology, topology.reverse()):
        least = {}
        for inside in inside_sets(net):
            key = tuple(members[inside[members]].tolist())
            least[key] = min(least.get(key, np.inf), over(net, inside))
        for blocks in partitions(members.tolist()):
            if len(blocks) > 1:
                worst = max(worst, 2 * (len(blocks) - 1) / sum(least[tuple(block)] for block in blocks))
    assert bound(topology, "all_reduce", nbytes).bandwidth == pytest.approx(worst * nbytes, rel=1e-9)
    exchange = bound(topology, "all_to_all", nbytes).bandwidth
    pairs = max(m.sum() * (n - m.sum()) / b for m, b in parted) * nbytes / n
    assert exchange >= pairs * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_unknown_only_lowers_them(seed):
    """More may be done without a rule than with it, and with links of no latency."""
    topology = small(seed)
    for collective in COLLECTIVES:
        for nbytes in (1e3, 1e6, 1e9):
            here = bound(topology, collective, nbytes)
            free = bound(replace(topology, latency=np.zeros(topology.links)), collective, nbytes)
            assert free.any == pytest.approx(here.bandwidth, rel=1e-9)
            assert max(here.bandwidth, here.latency) <= here.any * (1 + 1e-9)
            assert here.any <= here.best * (1 + 1e-9)
            faster = replace(topology, bandwidth=topology.bandwidth * 2)
            assert bound(faster, collective, nbytes).best <= here.best * (1 + 1e-9)


def greedy(topology: Topology, sources: dict[int, list[int]], sinks: set[int], size: float, seed: int) -> float:
    """Time of a schedule: a free link takes at random what its source has, its destination lacks and none is bringing."""
    rng = np.random.default_rng(seed)
    has = [set(sources.get(v, ())) for v in range(topology.nodes)]
    coming = [set(held) for held in has]
    everything = set().union(*has)
    free, events = np.zeros(topology.links), [0.0]
    moving: list[tuple[float, int, int]] = []
    while events:
        now = events.pop(0)
        for end, node, chunk in moving:
            if end == now:
                has[node].add(chunk)
        for e in rng.permutation(topology.links):
            a, b = topology.src[e], topology.dst[e]
            ready = sorted(has[a] - coming[b])
            if free[e] <= now and ready:
                chunk, free[e] = int(rng.choice(ready)), now + topology.times(size)[e]
                coming[b].add(chunk)
                moving.append((free[e], b, chunk))
                events = sorted({*events, free[e]})
    assert all(everything <= has[v] for v in sinks)
    return now


@pytest.mark.parametrize("seed", range(60))
def test_schedules_do_not_beat_them(seed):
    shapes = (
        "ring:5,directions=1",
        "line:4",
        "torus:3x3",
        "mesh:3x2",
        "fully_connected:5",
        "dragonfly:3x2",
        "hypercube:8",
    )
    topology = parse(shapes[seed % 7]) if seed < 21 else replace(small(seed), npus=small(seed).nodes)
    members, chunks = topology.members.tolist(), 1 + seed % 4
    for nbytes in (1e3, 3e5, 1e9):
        own = {v: list(range(k * chunks, k * chunks + chunks)) for k, v in enumerate(members)}
        size = nbytes / len(members) / chunks
        times = {
            "all_gather": greedy(topology, own, set(members), size, seed),
            "reduce_scatter": greedy(topology.reverse(), own, set(members), size, seed),
            "broadcast": greedy(topology, {0: list(range(chunks))}, set(members), nbytes / chunks, seed),
            "reduce": greedy(topology.reverse(), {0: list(range(chunks))}, set(members), nbytes / chunks, seed),
        }
        times["all_reduce"] = times["all_gather"] + times["reduce_scatter"]
        for collective, time in times.items():
            here = bound(topology, collective, nbytes, root=0 if collective in ("broadcast", "reduce") else None)
            assert time >= max(here.strict(chunks), here.any, here.best) * (1 - 1e-9), collective
        if seed == 0:  # one chunk after the other round the ring: it cannot be done better
            assert times["all_gather"] == pytest.approx(bound(topology, "all_gather", nbytes).strict(chunks))


def optimum(topology: Topology, nbytes: float) -> float:
    """Time of an all-to-all by the flow's linear programme, solved with one variable a pair and path-free."""
    length = programme(topology, topology.members, topology.bandwidth)
    away = distances(topology.nodes, topology.src, topology.dst, length, topology.members)[:, topology.members]
    return nbytes / len(topology.members) * away.sum() / (length @ topology.bandwidth)


@pytest.mark.parametrize("seed", range(15))
def test_all_to_all_is_its_flow(seed):
    scipy = pytest.importorskip("scipy.optimize")
    topology = small(seed)
    n, m, members = topology.nodes, topology.links, topology.members
    # Independent of the package's programme: a flow for each pair.
    pairs = list(itertools.permutations(members.tolist(), 2))
    equal, right = np.zeros((len(pairs) * n, len(pairs) * m + 1)), np.zeros(len(pairs) * n)
    for k, (a, b) in enumerate(pairs):
        for e in range(m):
            equal[k * n + topology.src[e], k * m + e] += 1
            equal[k * n + topology.dst[e], k * m + e] -= 1
        right[k * n + a], right[k * n + b] = 1, -1
    limit = np.concatenate([np.tile(np.eye(m), len(pairs)), -topology.bandwidth[:, None] / 1e9], axis=1)
    cost = np.zeros(len(pairs) * m + 1)
    cost[-1] = 1
    exact = scipy.linprog(cost, A_ub=limit, b_ub=np.zeros(m), A_eq=equal, b_eq=right).fun / 1e9 * 5e6 / len(members)
    assert bound(topology, "all_to_all", 5e6).bandwidth == pytest.approx(exact, rel=1e-7)
    assert optimum(topology, 5e6) == pytest.approx(exact, rel=1e-7)
    lengths = good_lengths(topology, members)
    away = distances(n, topology.src, topology.dst, lengths, members)[:, members]
    near = 5e6 / len(members) * away.sum() / (lengths @ topology.bandwidth)
    assert 0.85 * exact <= near <= exact * (1 + 1e-9)


def test_closed_forms():
    b, m = 50 * GIB, GIB
    for side in (4, 6):
        mesh = bound(parse(f"mesh:{side}x{side}"), "all_reduce", m)
        assert mesh.bandwidth == pytest.approx(m * (side + 1) / (2 * side * b), rel=1e-12)
    cube = bound(parse("mesh:4x4x4"), "all_reduce", m)
    assert cube.bandwidth == pytest.approx(m * (4**3 - 1) / (3 * 4**2 * 3 * b), rel=1e-12)
    torus = parse("torus:4x4x4")
    assert bound(torus, "all_reduce", m).bandwidth == pytest.approx(m * 2 * 63 / (6 * 64 * b), rel=1e-12)
    assert bound(torus, "all_gather", m).bandwidth == pytest.approx(m * 63 / (64 * 6 * b), rel=1e-12)
    assert bound(torus, "all_to_all", m).bandwidth == pytest.approx(m / 64 * 64 * 3 / (6 * b), rel=1e-12)
    ring = bound(parse("ring:9,directions=1"), "all_gather", m)
    assert ring.strict(2) == pytest.approx(16 * (m / 18 / b + 0.5 * US), rel=1e-12)
    assert ring.latency == pytest.approx(8 * 0.5 * US)
    star = parse("switch:8,bandwidth=50GiB/s")
    assert bound(star, "all_reduce", m).bandwidth == pytest.approx(2 * 7 / 8 * m / b, rel=1e-12)
    line = bound(parse("line:5"), "broadcast", m, root=0)
    # One link after the other: c chunks take c + 3 turns, so the best number follows from both ends of the bound.
    assert line.best >= m / b + 4 * 0.5 * US
    assert line.any == pytest.approx(m / b + 4 * 0.5 * US, rel=1e-12)


def test_whole_chunks_take_whole_turns():
    torus = bound(parse("torus:8x8x8"), "all_gather", 1024.0)
    turn = 0.5 * US + 2 / (50 * GIB)
    assert torus.best == pytest.approx(86 * turn, rel=1e-6)  # 511 chunks over 6 links
    assert torus.strict(1) == pytest.approx(511 / 6 * turn, rel=1e-9)


def test_groups_and_switches():
    ring = parse("ring:8")
    pair = bound(ring, "all_reduce", 1e9, members=[0, 4])
    assert pair.bandwidth == pytest.approx(1e9 / (100 * GIB), rel=1e-12)  # both ways round
    assert pair.latency == pytest.approx(2 * US)
    assert bound(ring, "all_gather", 1e9, members=[3]).best == 0.0
    tree = parse("fat_tree:4x4,oversubscription=2")
    assert bound(tree, "all_to_all", 1e9).bandwidth == pytest.approx(1e9 / 16 * 4 * 12 / (2 * 50 * GIB), rel=1e-9)


def test_the_cut_is_one():
    for seed in range(20):
        topology = small(seed)
        for collective in COLLECTIVES:
            here = bound(topology, collective, 3e6)
            cut = here.cut
            assert cut.need / (cut.weight * topology.bandwidth[cut.link]).sum() == pytest.approx(here.bandwidth)
            if len(cut.blocks) == 2 and not set(cut.blocks[0]) & set(cut.blocks[1]):
                side = np.isin(topology.src, cut.blocks[0]) != np.isin(topology.dst, cut.blocks[0])
                assert set(cut.link) <= set(np.flatnonzero(side))
            assert ("us" in here.text() and "GB/s" in here.text()) or "distance" in here.text()


def test_disconnected_networks_are_refused_with_the_cut():
    broken = Topology.of(
        [(0, 1, 1e9, 0), (1, 0, 1e9, 0), (2, 3, 1e9, 0), (3, 2, 1e9, 0), (1, 2, 1e9, 0)], 4, name="broken"
    )
    for collective in COLLECTIVES:
        root = 2 if collective in ("broadcast", "reduce") else None
        if collective == "reduce":
            require_connected(broken, collective, None, root)
            continue
        with pytest.raises(SpecError, match=r"no link leads from \{2, 3\} \(2\) to \{0, 1\} \(2\)"):
            bound(broken, collective, 1e6, root=root)
    require_connected(broken, "all_reduce", [0, 1])
    for wrong in ({"members": [0, 9]}, {"members": []}, {"root": 5}):
        with pytest.raises(SpecError):
            bound(parse("ring:4"), "broadcast", 1e6, **wrong)
    for nbytes in (0, -1, float("nan"), float("inf")):
        with pytest.raises(SpecError, match="bytes"):
            bound(parse("ring:4"), "all_gather", nbytes)
    with pytest.raises(SpecError, match="all_gather"):
        bound(parse("ring:4"), "gather", 1.0)


def test_large_networks():
    healthy = bound(parse("torus:16x16x16"), "all_gather", GIB)
    assert isinstance(healthy, Bound)
    assert healthy.bandwidth == pytest.approx(GIB * 4095 / 4096 / (300 * GIB), rel=1e-12)
    hurt = parse("torus:8x8x8,fail=5%,seed=11")
    weakest = np.bincount(hurt.dst, hurt.bandwidth, hurt.npus).min()
    assert bound(hurt, "all_gather", GIB).bandwidth >= GIB * 511 / 512 / weakest * (1 - 1e-12)


def test_the_cut_is_told_the_way_its_links_lead():
    lopsided = Topology.of([[0, 1, 4e9, 0], [1, 0, 1e9, 0]], 2)
    for collective, way in (("all_gather", "from {1} (1) to {0}"), ("reduce_scatter", "from {1} (1) to {0}")):
        found = bound(lopsided, collective, 1e6)
        assert way in found.text() and "1 link of 1 GB/s" in found.text()
        told = found.to_dict()["cut"]
        assert told["ends"] == [[1, 0]] and told["links"] == [1]
    assert "both ways" in bound(parse("ring:2"), "all_reduce", 1e6).text()
