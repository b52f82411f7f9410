"""Synthesis on random networks: every schedule valid, none below a bound; the disconnected are refused with their cut.

``DSE_RANDOM_GRAPHS=5000`` tries as many as that; by default a few.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from collective_graphs import connected, random_graph

from dse.collective import bound, synthesize, verify
from dse.collective.schedule import COLLECTIVES
from dse.collective.topology import Topology
from dse.errors import SpecError

GRAPHS = int(os.environ.get("DSE_RANDOM_GRAPHS", "8"))
BATCHES = 8


@pytest.mark.parametrize("batch", range(BATCHES))
def test_schedules_are_valid_and_no_bound_is_beaten(batch: int) -> None:
    for number in range(batch, GRAPHS, BATCHES):
        rng = np.random.default_rng([7, number])
        network = random_graph(rng, largest=64 if number % 4 == 0 else 24)
        size = float(10 ** rng.uniform(3, 9.03))
        for collective in COLLECTIVES:
            for merge in (False, True) if number % 5 == 0 else (False,):
                found = synthesize(network, collective, size, seeds=1, merge=merge)
                assert found.valid and verify(found.schedule).valid, (number, collective)
                floor = max(found.bound.any, found.bound.bandwidth, found.bound.latency)
                assert found.time >= floor * (1 - 1e-9), (number, collective, merge)
                assert found.ratio >= 1 - 1e-9, (number, collective, merge)


@pytest.mark.parametrize("seed", range(4))
def test_groups_are_served_by_the_rest(seed: int) -> None:
    rng = np.random.default_rng([8, seed])
    network = random_graph(rng, largest=24)
    members = np.sort(rng.permutation(network.members)[: max(2, len(network.members) // 3)])
    for collective in COLLECTIVES:
        found = synthesize(network, collective, 1e8, members=members, seeds=1)
        assert found.valid and found.ratio >= 1 - 1e-9
        assert found.schedule.members.tolist() == members.tolist()


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_what_cannot_be_reached_is_named(collective: str) -> None:
    islands = Topology.of([[0, 1, 1e9, 0], [1, 0, 1e9, 0], [2, 3, 1e9, 0], [3, 2, 1e9, 0]], 4)
    assert not connected(islands)
    with pytest.raises(SpecError, match=r"(?s)(0|1).*(2|3)"):
        synthesize(islands, collective, 1e6)


def test_one_way_networks_are_refused_where_the_collective_needs_the_way_back() -> None:
    chain = Topology.of([[0, 1, 1e9, 0], [1, 2, 1e9, 0]], 3)
    assert synthesize(chain, "broadcast", 1e6, root=0).valid
    assert synthesize(chain, "reduce", 1e6, root=2).valid
    for collective, root in (("all_reduce", None), ("broadcast", 2), ("reduce", 0)):
        with pytest.raises(SpecError):
            synthesize(chain, collective, 1e6, root=root)


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_one_npu_has_nothing_to_do(collective: str) -> None:
    alone = synthesize(Topology.of([[0, 1, 1e9, 0], [1, 0, 1e9, 0]], 2), collective, 1e6, members=[1])
    assert alone.time == 0 and alone.ratio == 1 and alone.valid


@pytest.mark.parametrize(
    "wrong",
    [
        {"collective": "allreduce"}, {"nbytes": "1"}, {"nbytes": 0}, {"nbytes": float("nan")}, {"chunks": 0},
        {"chunks": 1.5}, {"seeds": 0}, {"members": [5]}, {"members": []}, {"root": 1},
        {"collective": "broadcast", "root": 9},
    ],
)  # fmt: skip
def test_bad_input_is_named(wrong: dict[str, object]) -> None:
    pair = Topology.of([[0, 1, 1e9, 0], [1, 0, 1e9, 0]], 2)
    given = {"collective": "all_reduce", "nbytes": 1e6, **wrong}
    field = next(name for name in ("root", "members", "seeds", "chunks", "nbytes", "collective") if name in wrong)
    with pytest.raises(SpecError, match="bytes" if field == "nbytes" else field):
        synthesize(pair, **given)  # type: ignore[arg-type]


def test_more_bandwidth_never_raises_the_bound() -> None:
    rng = np.random.default_rng(9)
    for _ in range(20):
        network = random_graph(rng, largest=12)
        fast = Topology(network.npus, network.src, network.dst, network.latency, network.bandwidth * 2,
                        nodes=network.nodes, failed=network.failed)  # fmt: skip
        for collective in COLLECTIVES:
            assert bound(fast, collective, 1e8).any <= bound(network, collective, 1e8).any * (1 + 1e-9)
