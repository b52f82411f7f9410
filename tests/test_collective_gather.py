"""All-gather, reduce-scatter, broadcast and reduce: valid, complete, near bounds and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from collective_graphs import random_graph

from dse.collective import shapes
from dse.collective.bounds import bound
from dse.collective.gather import all_gather, broadcast, reduce, reduce_scatter, reversed_schedule
from dse.collective.gather.symmetry import symmetry, translated
from dse.collective.schedule import Schedule
from dse.collective.topology import Topology
from dse.collective.verifier import verify
from dse.errors import SpecError

MAKERS = {"all_gather": all_gather, "reduce_scatter": reduce_scatter, "broadcast": broadcast, "reduce": reduce}


def made(topology: Topology, collective: str, nbytes: float, **options) -> Schedule:
    """A schedule that the verifier has passed and that does not beat its bound."""
    root = {"root": options.pop("root")} if "root" in options else {}
    schedule = MAKERS[collective](topology, nbytes, *root.values(), **options)
    report = verify(schedule)
    assert report.valid, report
    limit = bound(topology, collective, nbytes, members=options.get("members"), **root)
    assert schedule.time >= limit.best * (1 - 1e-9)
    return schedule


@pytest.mark.parametrize(
    ("topology", "slots"),
    [
        (shapes.ring(9), 4),
        (shapes.ring(9, directions=1), 8),
        (shapes.torus((8, 8)), 16),
        (shapes.torus((4, 4, 4)), 11),
        (shapes.hypercube(32), 7),
        (shapes.fully_connected(12), 1),
        (shapes.unfolded(32, 4), 8),
    ],
)
def test_optimal_slots_where_translations_exist(topology: Topology, slots: int) -> None:
    # Each NPU needs npus - 1 chunks over its links, a whole number on each, and links are all alike.
    nbytes = 1e8
    schedule = made(topology, "all_gather", nbytes, per_shard=1)
    assert schedule.notes["translations"] == topology.npus
    assert schedule.time == pytest.approx(slots * topology.times(nbytes / topology.npus)[0], rel=1e-12)
    assert made(topology, "reduce_scatter", nbytes, per_shard=1).time == pytest.approx(schedule.time, rel=1e-12)


@pytest.mark.parametrize(
    "topology",
    [
        shapes.mesh((6, 6)),
        shapes.torus((4, 4, 4)).without(np.arange(0, 380, 37)),
        shapes.dragonfly(8, 8, 100e9, 50e9),
        shapes.rails(8, 8, 30e9, 5e-7, 25e9, 1e-6, "full", "ring"),
        shapes.rfs3d((4, 4, 4)),
        shapes.switch2d(64),
        shapes.mesh((8, 4), (100e9, 50e9)),
        shapes.switch(16),
        shapes.fat_tree((4, 8)),
        shapes.torus((4, 4, 2), (200e9, 100e9, 50e9)).without(npus=[3]),
    ],
    ids=repr,
)
def test_near_the_bound_at_large_sizes(topology: Topology) -> None:
    for collective in ("all_gather", "reduce_scatter"):
        schedule = made(topology, collective, 2.0**30)
        assert schedule.time <= 1.05 * bound(topology, collective, 2.0**30).best


@pytest.mark.parametrize("nbytes", [2.0**10, 2.0**20])
@pytest.mark.parametrize("topology", [shapes.torus((4, 4)), shapes.mesh((4, 4)), shapes.hypercube(16)], ids=repr)
def test_near_the_bound_at_small_sizes(topology: Topology, nbytes: float) -> None:
    assert made(topology, "all_gather", nbytes).time <= 1.2 * bound(topology, "all_gather", nbytes).best


def test_random_networks() -> None:
    rng = np.random.default_rng(5)
    for _ in range(12):
        topology = random_graph(rng, 20)
        group = np.sort(rng.permutation(topology.members)[: max(2, topology.npus // 3)])
        nbytes, root = 2.0 ** rng.integers(10, 31), int(group[0])
        for collective in ("all_gather", "reduce_scatter"):
            made(topology, collective, nbytes, deadline=0.01)
            made(topology, collective, nbytes, members=group, deadline=0.01)
        for collective in ("broadcast", "reduce"):
            made(topology, collective, nbytes, root=root, deadline=0.01)
            made(topology, collective, nbytes, root=root, members=group, deadline=0.01)


def test_broadcast_over_a_line_is_a_pipeline() -> None:
    # With c chunks over h links: h + c - 1 slots.
    line = shapes.line(6)
    schedule = made(line, "broadcast", 6e8, root=0, per_shard=40)
    assert schedule.time == pytest.approx(44 * line.times(6e8 / 40)[0], rel=1e-9)
    assert made(line, "broadcast", 2.0**30, root=0).time <= 1.05 * bound(line, "broadcast", 2.0**30, root=0).bandwidth


def test_two_reversals_change_nothing() -> None:
    for topology in (shapes.mesh((3, 3)), shapes.fat_tree((2, 3))):
        schedule = all_gather(topology, 1e7)
        there = reversed_schedule(schedule, topology.reverse())
        assert verify(there).valid
        back = reversed_schedule(there, topology)
        for column in ("start", "end"):
            assert np.allclose(np.sort(getattr(back, column)), np.sort(getattr(schedule, column)), rtol=1e-12)
        rows = [np.lexsort((s.start, s.link)) for s in (schedule, back)]
        assert np.array_equal(schedule.chunk[rows[0]], back.chunk[rows[1]])
        assert not back.reduce.any()
    with pytest.raises(SpecError, match="reversed"):
        reversed_schedule(Schedule(**{**vars(schedule), "collective": "all_reduce"}), topology)


@pytest.mark.parametrize(
    ("topology", "size"),
    [
        (shapes.torus((3, 4, 5)), 60),
        (shapes.torus((6, 4)).without([0]), 1),
        (shapes.torus((4, 4), (1e9, 2e9)), 16),
        (shapes.mesh((2, 5)), 2),
        (shapes.switch(6, planes=2), 6),
        (shapes.fat_tree((3, 4)), 4),
    ],
    ids=repr,
)
def test_translations(topology: Topology, size: int) -> None:
    found = symmetry(topology)
    assert found.size == size
    nodes = translated(found, np.arange(topology.nodes), found.node)
    links = translated(found, np.arange(topology.links), found.link)
    for node, link in zip(nodes, links, strict=True):
        assert np.array_equal(node[topology.src], topology.src[link])
        assert np.array_equal(node[topology.dst], topology.dst[link])
        assert np.array_equal(topology.bandwidth, topology.bandwidth[link])
        assert np.array_equal(found.machine, found.machine[link])
    assert len(np.unique(nodes[:, 0])) == size  # no two are the same


def test_same_seed_same_schedule() -> None:
    topology = shapes.mesh((4, 4))
    one, other = (all_gather(topology, 1e8, per_shard=2, deadline=0) for _ in range(2))
    assert np.array_equal(one.start, other.start)
    assert np.array_equal(one.link, other.link)


def test_one_member() -> None:
    schedule = all_gather(shapes.ring(4), 1e6, members=[2])
    assert schedule.transfers == 0
    assert schedule.time == 0


@pytest.mark.parametrize(
    "options",
    [{"nbytes": 0.0}, {"nbytes": np.nan}, {"per_shard": 0}, {"per_shard": "some"}, {"seeds": 0}, {"members": [9]}],
)
def test_bad_input(options: dict) -> None:
    with pytest.raises(SpecError):
        all_gather(shapes.ring(4), **{"nbytes": 1e6, **options})


def test_unconnected_networks_are_refused() -> None:
    with pytest.raises(SpecError, match="no link leads"):
        all_gather(shapes.line(4).without([2, 3]), 1e6)
