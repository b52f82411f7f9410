"""Summaries, critical paths, differences, timelines and figures of traces, against what can be counted by hand."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.errors import SpecError
from dse.trace import Attribute, Collective, Kind, Node, TraceSet, columns
from dse.trace.critical import critical_path, earliest
from dse.trace.diff import diff
from dse.trace.lanes import played
from dse.trace.perfetto import to_perfetto
from dse.trace.summary import family, summary
from dse.view import trace as view


def compute(number, after=(), seconds=1.0, name="", flops=0.0, bytes_=0.0, **more):
    attrs = [Attribute("dse.seconds", "double", seconds), Attribute("is_cpu_op", "bool", False)]
    attrs += [Attribute(key, "double", value) for key, value in (("num_ops", flops), ("tensor_size", bytes_)) if value]
    return Node(number, name or f"op{number}", int(Kind.COMP), data_deps=list(after), attrs=attrs, **more)


def collective(number, after=(), size=100, coll=Collective.ALL_REDUCE, group="", seconds=0.0, name=""):
    attrs = [Attribute("comm_type", "int64", int(coll)), Attribute("comm_size", "int64", size)]
    attrs += [Attribute("pg_name", "string", group)] if group else []
    attrs.append(Attribute("dse.seconds", "double", seconds))
    return Node(number, name or f"comm{number}", int(Kind.COLL), data_deps=list(after), attrs=attrs)


def example():
    """Two branches from one node, joined by a collective."""
    return [
        compute(1, seconds=1.0, flops=8.0, bytes_=4.0),
        compute(2, [1], seconds=5.0, name="layer3.up"),
        compute(3, [1], seconds=2.0, name="layer14.up"),
        collective(4, [2, 3], size=100, seconds=3.0),
        compute(5, [4], seconds=1.0),
    ]


@st.composite
def graphs(draw):
    """Random graphs without circles, with durations."""
    count = draw(st.integers(1, 25))
    nodes = []
    for k in range(count):
        after = draw(st.lists(st.integers(0, k - 1), max_size=3, unique=True)) if k else []
        nodes.append(compute(k, after, draw(st.sampled_from([0.0, 0.5, 1.0, 2.5]))))
    return columns(nodes)


def longest(trace):
    """Length of the longest chain, from the definition."""
    pointers, parents = trace.parents
    ends = np.zeros(len(trace))
    for k in range(len(trace)):  # parents come first in these graphs
        ends[k] = trace.seconds[k] + max((ends[p] for p in parents[pointers[k] : pointers[k + 1]]), default=0.0)
    return ends.max()


@given(graphs())
@settings(max_examples=60, deadline=None)
def test_critical_path_is_the_longest_chain(trace):
    found = critical_path(trace)
    assert found.total == pytest.approx(longest(trace))
    pointers, parents = trace.parents
    for before, after in zip(found.rows, found.rows[1:], strict=False):
        assert before in parents[pointers[after] : pointers[after + 1]]


@given(graphs())
@settings(max_examples=30, deadline=None)
def test_earliest_starts_when_the_last_parent_ends(trace):
    found = earliest(trace)
    pointers, parents = trace.parents
    for k in range(len(trace)):
        rows = parents[pointers[k] : pointers[k + 1]]
        assert found.start[k] == max((found.start[p] + trace.seconds[p] for p in rows), default=0.0)
        assert found.level[k] == max((found.level[p] + 1 for p in rows), default=0)


def test_critical_path_by_hand():
    trace = columns(example())
    path = critical_path(trace)
    assert trace.ids[path.rows].tolist() == [1, 2, 4, 5]
    assert path.total == 10.0 and path.by_kind == {"COMP": 7.0, "COLL": 3.0}
    table = path.to_pandas()
    assert table["share"].sum() == pytest.approx(1.0) and table["start [s]"].tolist() == [0.0, 1.0, 6.0, 9.0]
    other = critical_path(trace, seconds=np.array([1.0, 1.0, 2.0, 30.0, 1.0]))
    assert trace.ids[other.rows].tolist() == [1, 3, 4, 5] and other.total == 34.0
    bare = critical_path(replace(trace, seconds=np.zeros(5)))  # by number of nodes
    assert bare.total == 0.0 and len(bare.rows) == 4
    assert len(critical_path(columns([])).rows) == 0


def test_circles_and_wrong_durations():
    circle = columns([compute(1, [2]), compute(2, [1]), compute(3)])
    with pytest.raises(SpecError, match="in a circle"):
        critical_path(circle)
    trace = columns(example())
    for wrong in (np.ones(3), np.full(5, -1.0), np.full(5, np.nan)):
        with pytest.raises(SpecError, match="seconds"):
            earliest(trace, wrong)
    with pytest.raises(SpecError, match="rank"):
        critical_path(TraceSet((trace,), np.zeros(2, np.int64)), rank=2)


def many():
    """Four ranks in pairs: three run one trace, the last another."""
    one = columns([compute(1, flops=10.0, seconds=2.0), collective(2, [1], 64, group="pair"), collective(3, [2], 8)])
    other = columns([compute(1, flops=30.0, seconds=2.0), collective(2, [1], 64, group="pair"), collective(3, [2], 8)])
    return TraceSet((one, other), np.array([0, 0, 0, 1]), {"pair": np.array([[0, 1], [2, 3]])})


def test_summary_counts_all_ranks():
    found = summary(many())
    kinds = found.kinds.set_index("kind")
    assert kinds.loc["COMP", "nodes"] == 4 and kinds.loc["COLL", "nodes"] == 8
    assert kinds.loc["COMP", "compute [FLOP]"] == 3 * 10 + 30 and kinds.loc["COMP", "duration [s]"] == 8.0
    rows = found.to_pandas("communication").to_dict("records")
    assert [(r["type"], r["group"], r["ranks"], r["size [B]"], r["calls"], r["volume [B]"]) for r in rows] == [
        ("all_reduce", "pair", 2, 64, 4, 256.0),
        ("all_reduce", "all ranks", 4, 8, 4, 32.0),
    ]
    told = json.loads(json.dumps(found.to_dict(), default=lambda x: x.item()))
    assert told["ranks"] == 4 and told["classes"] == 2 and told["critical_path"]["seconds"] == 2.0
    assert "4 ranks" in str(found) and "critical path of rank 0" in str(found)
    with pytest.raises(SpecError, match="table"):
        found.to_pandas("nodes")
    with pytest.raises(SpecError, match="rank"):
        summary(many(), rank=4)


def test_operators_are_put_together_by_family():
    found = summary(columns(example())).operators.set_index("operator")
    assert found.loc["layer#.up", "nodes"] == 2 and found.loc["layer#.up", "duration [s]"] == 7.0
    assert found["share"].sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("mb3.layer12.forward.mlp_up", "mb#.layer#.forward.mlp_up"),
        ("aten::conv2d", "aten::conv2d"),
        ("void at::native::vectorized_elementwise_kernel<4, at::AddFunctor<float> >(int, float)",
         "at::native::vectorized_elementwise_kernel"),
        ("ProfilerStep#12", "ProfilerStep##"),
        ("<<<>>>", "<<<>>>"),
    ],
)  # fmt: skip
def test_family(name, wanted):
    assert family(name) == wanted


def renumbered(nodes, step=1000):
    out = []
    for node in reversed(nodes):
        out.append(replace(node, id=node.id + step, data_deps=[k + step for k in node.data_deps]))
    return out


@given(graphs())
@settings(max_examples=30, deadline=None)
def test_a_trace_does_not_differ_from_itself(trace):
    assert diff(trace, trace).equal


def test_identifiers_and_order_do_not_count():
    found = diff(columns(example()), columns(renumbered(example())))
    assert found.equal and str(found) == "no difference"


def test_what_was_added_removed_and_changed():
    a, b = example(), example()
    b[1].attrs[0] = Attribute("dse.seconds", "double", 6.0)
    b[3].attrs[1] = Attribute("comm_size", "int64", 200)
    b[4].data_deps = [3]
    b.append(compute(9, [5], name="new"))
    del b[0]
    b[0].data_deps, b[1].data_deps = [], []
    found = diff(columns(a), columns(b))
    assert not found.equal
    table = found.to_pandas()
    assert table.loc[table["what"] == "removed", "name"].tolist() == ["op1"]
    assert table.loc[table["what"] == "added", "name"].tolist() == ["new"]
    changed = table[table["what"] == "changed"]
    rows = {(r.node, r.attribute): (r.a, r.b) for r in changed.itertuples()}
    assert rows == {(2, "seconds"): (5.0, 6.0), (4, "size"): (100, 200), (5, "dependences"): ([4], [3])}
    assert found.counts == {"removed": 1, "added": 1, "changed": 3}
    assert found.totals["communicated"] == (100.0, 200.0)
    assert found.to_dict()["differences"][0]["what"] == "removed" and "new" in str(found)


def test_one_more_among_many_equal_ones():
    """A node put into the middle of a row of nodes of one name is the only difference, with who waits for it."""
    names = ["relu", "mm", "mm", "add", "mm", "norm", "mm", "mm"]
    a = [compute(k, [k - 1] if k else [], name=name) for k, name in enumerate(names)]
    longer = [*names[:4], "mm", *names[4:]]
    b = [compute(k, [k - 1] if k else [], name=name) for k, name in enumerate(longer)]
    found = diff(columns(a), columns(b))
    assert found.counts["added"] == 1 and found.counts["removed"] == 0
    assert found.counts["changed"] == 1


def test_renamed_nodes_are_found_by_their_place():
    other = [replace(node, name=f"x{k}") for k, node in enumerate(example())]
    found = diff(columns(example()), columns(other))
    assert found.counts == {"removed": 0, "added": 0, "changed": 5}
    assert set(found.to_pandas()["attribute"]) == {"name"}


def test_ranks_and_groups_count():
    fewer = TraceSet(many().classes, np.array([0, 0, 0]), {"pair": np.array([[0, 1]])})
    found = diff(many(), fewer)
    assert found.ranks == (4, 3) and found.groups == ("pair",) and not found.equal
    assert all(not len(pair.removed) and not pair.changed for pair in found.pairs)
    assert diff(many(), many()).equal


def test_timeline_of_recorded_and_of_earliest_times():
    nodes = example()
    free = played(columns(nodes))
    assert not free.recorded and free.start.tolist() == [0.0, 1.0, 1.0, 6.0, 9.0]
    assert free.lane[1] != free.lane[2], "two that run at once are in two rows"
    assert sorted(free.lanes) == ["communication", "compute (1)", "compute (2)"]
    for k, node in enumerate(nodes):
        node.start_micros = 10 * k
    run = played(columns(nodes))
    assert run.recorded and run.start.tolist() == pytest.approx([0.0, 1e-5, 2e-5, 3e-5, 4e-5])
    with pytest.raises(SpecError, match="shape"):
        played(columns(nodes), start=np.zeros(2))


@given(graphs())
@settings(max_examples=30, deadline=None)
def test_nodes_in_a_row_do_not_overlap(trace):
    run = played(trace)
    for lane in range(len(run.lanes)):
        rows = np.flatnonzero(run.lane == lane)
        rows = rows[np.lexsort((run.start[rows] + run.seconds[rows], run.start[rows]))]
        ends = run.start[rows] + run.seconds[rows]
        assert np.all(ends[:-1] <= run.start[rows[1:]])


def test_perfetto(tmp_path):
    path = to_perfetto(many(), tmp_path / "run.json")
    events = json.loads(path.read_text())["traceEvents"]
    drawn = [event for event in events if event["ph"] == "X"]
    assert {event["pid"] for event in drawn} == {0, 3}, "one rank of each distinct trace"
    assert len(drawn) == 6 and {event["dur"] for event in drawn if event["cat"] == "compute"} == {2e6}
    assert len([event for event in events if event["ph"] == "s"]) == 2  # from compute to communication, each rank
    times = {1: (np.array([0.0, 3.0, 5.0]), np.array([3.0, 2.0, 1.0]))}
    packed = to_perfetto(many(), tmp_path / "run.json.gz", ranks=[1], times=times, arrows=False)
    events = json.loads(gzip.decompress(packed.read_bytes()))["traceEvents"]
    assert [event["ts"] for event in events if event["ph"] == "X"] == [0.0, 3e6, 5e6]
    with pytest.raises(SpecError, match="must end in"):
        to_perfetto(many(), tmp_path / "run.txt")
    with pytest.raises(SpecError, match="rank"):
        to_perfetto(many(), tmp_path / "run.json", ranks=[7])


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["graph", "timeline", "volume"])
def test_figures_pass_plotlys_checks(name, dark):
    """The figures are put together unchecked; every property of theirs is one that Plotly knows."""
    import plotly.graph_objects as go

    figure = getattr(view, name)(many(), rank=1, dark=dark)
    again = go.Figure(figure.to_dict())
    assert len(again.data) and again.layout.title.text


def test_graph_leaves_out_what_follows():
    """An edge that other edges imply is not drawn; the critical path is."""
    nodes = [compute(0), compute(1, [0]), compute(2, [0, 1]), compute(3, [2, 0])]
    figure = view.graph(columns(nodes))
    plain, path = figure.data[0], figure.data[1]
    assert path.name == "critical path" and sum(x is None for x in path.x) == 3
    assert sum(x is None for x in plain.x or ()) == 0
    with pytest.raises(SpecError, match="first from 0"):
        view.graph(columns(nodes), first=4)


def test_long_graphs_go_on_in_the_next_line():
    chain = columns([compute(k, [k - 1] if k else []) for k in range(30)])
    dots = view.graph(chain, count=30).data[-1]
    assert max(dots.x) == view.ACROSS - 1 and len(set(dots.y)) == 3


def test_figures_of_nothing():
    silent = columns([compute(1, seconds=0.0)])
    with pytest.raises(SpecError, match="communicates nothing"):
        view.volume(silent)
    with pytest.raises(SpecError, match="takes time"):
        view.timeline(silent)
    with pytest.raises(SpecError, match="no nodes"):
        view.graph(columns([]))


def test_volume_adds_up():
    figure = view.volume(many())
    [heat] = figure.data
    assert list(heat.x) == ["all ranks", "pair"] and list(heat.y) == ["all-reduce"]
    assert (10 ** np.array(heat.z)).round().tolist() == [[32.0, 256.0]]
