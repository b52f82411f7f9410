"""Corners of the simulators: what never ends, irregular groups, algorithms and graphs that are wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from simulate_traces import coll, columns, comp

from dse.errors import SpecError
from dse.simulate import Device, System, collective, compat, dimension, simulate
from dse.trace import Collective, TraceSet

RINGS = {f"{kind}-implementation": ["ring"] for kind in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")}


@pytest.mark.parametrize("every", [True, False])
def test_what_cannot_end_is_a_deadlock_in_both_modes(every: bool):
    """Halving-doubling of three; answered whole it must not end before the computing does."""
    nodes = [comp(0, 0.0, duration=5), coll(1, Collective.ALL_REDUCE, 2**20, "", [0])]
    traces = TraceSet((columns(nodes),), np.zeros(3, np.int64), {})
    network = {"topology": ["Ring"], "npus_count": [3], "bandwidth": [50.0], "latency": [500.0]}
    settings = {"all-reduce-implementation": ["halvingDoubling"], "local-mem-bw": 1600}
    assert compat.run(traces, network, settings, every_message=every).outcome == "deadlock"


@pytest.mark.parametrize("every", [True, False])
def test_themis_leaves_groups_alone(every: bool):
    """A group has one logical dimension whatever the network has."""
    trace = columns([coll(0, Collective.ALL_REDUCE, 2**20, "1")])
    idle = columns([])
    traces = TraceSet((trace, idle), np.array([0, 0, *[1] * 14]), {"1": np.array([[0, 1]])})
    network = {"topology": ["Ring", "Ring"], "npus_count": [4, 4], "bandwidth": [50.0, 50.0], "latency": [500.0, 500.0]}
    two = {kind: names * 2 for kind, names in RINGS.items()} | {"local-mem-bw": 1600}
    times = [
        compat.run(traces, network, two | {"inter-dimension-scheduling": how}, every_message=every).cycles_max
        for how in ("ascending", "offlineGreedy")
    ]
    assert times[0] == times[1] > 0


@pytest.mark.parametrize(("ranks", "least"), [([0, 1, 2, 7], 1.0), ([0, 1, 4, 5], 0.5), ([0, 1, 2, 4, 9], 1.0)])
def test_no_group_beats_its_outer_port(ranks: list[int], least: float):
    """A rank alone in its node sends at least the whole buffer through its outer port, whoever else is in the group."""
    system = System((dimension("switch", 1e10), dimension("switch", 1e9)), (4, 4))
    assert collective("all_reduce", 1e9, system, ranks=ranks).time >= least


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"algorithms": {"allreduce": [(0, 0, 1, 1.0)]}}, "algorithms"),
        ({"algorithms": {"all_reduce": [(0, 0, 1, float("nan"))]}}, "share"),
        ({"algorithms": {"all_reduce": [(0, 0, 1.5, 1.0)]}}, "share"),
        ({"algorithms": {"all_reduce": []}}, "at least one"),
        ({"chunks": 2.5}, "chunks"),
        ({"devices": (Device(links=(1.0, 0.5)),)}, "links"),
    ],
)
def test_systems_that_are_wrong(changes: dict[str, Any], word: str):
    with pytest.raises(SpecError, match=word):
        collective("all_reduce", 1e6, System((dimension("switch", 1e9),), (4,), **changes), fidelity="flows")


@pytest.mark.parametrize(
    "links", [[(0, 1, 1e9, 0.0), (0, 1, 1e9, 0.0), (1, 0, 1e9, 0.0)], [(0, 1)], [(0, 1, 0.0, 0.0), (1, 0, 1e9, 0.0)]]
)
def test_graphs_that_are_wrong(links: list[Any]):
    with pytest.raises(SpecError, match="link"):
        collective("all_reduce", 1e6, System.on_graph(links, 2), fidelity="flows")


def test_a_group_with_a_rank_twice():
    trace = columns([coll(0, Collective.ALL_REDUCE, 100, "g")])
    traces = TraceSet((trace,), np.zeros(2, np.int64), {"g": np.array([[0, 1, 1]])})
    with pytest.raises(SpecError, match="twice"):
        simulate(traces, System((dimension("switch", 1e9),), (2,)))
