"""Validation of traces: each fault is found and said, and what is right has none."""

from __future__ import annotations

import graphlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_cases import coll, of, peer, pipeline, unpacked

import dse.trace as trace
from dse.trace import Attribute, Kind, Node, TraceSet
from dse.trace.validate import find_cycle

SEND, RECV = Kind.SEND, Kind.RECV
FAULTS = {
    "kind 0": of([Node(1)]),
    "kind 9": of([Node(1, kind=9)]),
    "identifier is taken": of([Node(1, kind=4), Node(1, kind=4)]),
    "no comm_type": of([Node(1, kind=7, attrs=[Attribute("comm_size", "int64", 1)])]),
    "comm_type 12": of([coll(1, kind=12)]),
    "no comm_size": of([Node(1, kind=7, attrs=[Attribute("comm_type", "int64", 0)])]),
    "comm_size -7": of([coll(1, size=-7)]),
    "comm_size 0": of([coll(1, size=0)]),
    "no comm_dst": of([Node(1, kind=5, attrs=[Attribute("comm_size", "int64", 1)])]),
    "no comm_src": of([Node(1, kind=6, attrs=[Attribute("comm_size", "int64", 1)])]),
    "peer is rank 5": of([peer(1, SEND, 5)]),
    "peer is itself": of([peer(1, SEND, 0)]),
    "num_ops -2": of([Node(1, kind=4, attrs=[Attribute("num_ops", "int64", -2)])]),
    "tensor_size -2": of([Node(1, kind=4, attrs=[Attribute("tensor_size", "int64", -2)])]),
    "no tensor_size": of([Node(1, kind=2)]),
    "-1.0 s long": of([Node(1, kind=4, attrs=[Attribute("dse.seconds", "double", -1.0)])]),
    "1 dependence on a node that is not there": of([Node(1, kind=4, data_deps=[3])]),
    "waits for itself: 1 -> 1": of([Node(1, kind=4, data_deps=[1])]),
    "group 'g' is not known": of([coll(1, group="g")]),
    "rank is not in group 'g'": of([coll(1, group="g")], [], groups={"g": [[1]]}),
    "send to rank 1 \\(tag 3, 8 bytes\\) has no matching receive": of([peer(1, SEND, 1, tag=3)], [peer(1, RECV, 0, tag=4)]),
    "receive from rank 0 \\(tag 0, 9 bytes\\) has no matching send": of([peer(1, SEND, 1)], [peer(1, RECV, 0, 9)]),
    "collective 2 in the group of all ranks is ALL_GATHER of 8 bytes, on rank 0 ALL_REDUCE": of([coll(1), coll(2)], [coll(1), coll(2, kind=2)]),
    "collective 1 in group 'g' is ALL_REDUCE of 9 bytes": of([coll(1, group="g")], [], [coll(4, 9, group="g")], groups={"g": [[0, 2]]}),
    "1 collectives in the group of all ranks, where rank 0 has 2": of([coll(1), coll(2)], [coll(1)]),
}  # fmt: skip


@pytest.mark.parametrize("what", FAULTS)
def test_each_fault_is_found_and_said(what: str) -> None:
    found = trace.validate(FAULTS[what])
    assert any(re.search(what, str(item)) for item in found), list(map(str, found))
    assert all(item.rule and str(item).startswith(item.severity) for item in found)


def test_what_is_right_has_no_findings(tmp_path: Path) -> None:
    fixtures = unpacked(tmp_path)
    assert trace.validate(of([peer(1, SEND, 1), coll(2)], [peer(4, RECV, 0), coll(9)])) == []
    for prefix in sorted({str(path).rsplit(".", 2)[0] for path in fixtures.rglob("*.et")}):
        if not prefix.endswith(("one_comm_send_node", "one_comm_recv_node")):  # these do not say to whom, nor how much
            assert trace.validate(trace.load(prefix)) == [], prefix


def test_many_findings_are_counted_not_listed() -> None:
    found = trace.validate(of([Node(i + 1, kind=9) for i in range(500)]))
    assert len(found) == 11 and "490 more" in str(found[-1])


@settings(max_examples=100, deadline=None)
@given(
    st.integers(2, 9).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=14))
    )
)
def test_a_cycle_is_one_exactly_when_there_is_one(case: tuple[int, list[tuple[int, int]]]) -> None:
    n, edges = case
    nodes = [Node(i, kind=4, data_deps=[b for a, b in edges if a == i]) for i in range(n)]
    cycle = find_cycle(trace.columns(nodes))
    sorter = graphlib.TopologicalSorter({i: [b for a, b in edges if a == i] for i in range(n)})
    if cycle:
        with pytest.raises(graphlib.CycleError):
            sorter.prepare()
    else:
        sorter.prepare()
    for at, row in enumerate(cycle):
        assert (row, cycle[(at + 1) % len(cycle)]) in edges


def test_relative_peers_are_matched_as_expanded_ones_are() -> None:
    right = pipeline()
    assert trace.validate(right) == []
    send, receive = right.classes
    wrong = {
        "send to rank 2 .* no matching receive": TraceSet(
            (send, replace(receive, tag=receive.tag + 1)), right.of, right.groups
        ),
        "receive from rank 0 .* no matching send": TraceSet(
            (replace(send, size=send.size * 2), receive), right.of, right.groups
        ),
        "send to rank 3 .* no matching receive": TraceSet((send, receive), np.array([0, 0, 1, 0]), right.groups),
        "send to rank 4 .* no matching receive": TraceSet((send, receive), np.array([0, 0, 0, 1]), right.groups),
    }
    for what, traces in wrong.items():
        found = [str(item) for item in trace.validate(traces)]
        assert any(re.search(what, item) for item in found), found
