"""Figures of simulations show the simulation's own numbers; thinning keeps the time; errors say what is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulate_traces import coll, comp, line, node, random_system, random_traces, recv, send, trace_set
from typer.testing import CliRunner

import dse
from dse.cli import app
from dse.errors import SpecError
from dse.simulate import Hop, Tier, collective, compat, simulate
from dse.trace import Collective, Kind, load, save
from dse.view import simulation as view
from dse.view.played import bars, lanes_of, looks, unions
from dse.view.ports import Port, both_ways, means

UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}


def second(figure):
    """Seconds of a unit of the time axis."""
    return UNITS[figure.layout.xaxis.title.text.split("[")[1].rstrip("]")]


def named(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def seconds(figure, name):
    return sum(float(np.sum(trace.x)) for trace in named(figure, name)) * second(figure)


def two():
    """Rank 1 comes half a second late to the sum, and sends what rank 0 then works on."""
    size = 10**9
    return trace_set(
        [
            [comp(0, 0.5), coll(1, Collective.ALL_REDUCE, size, "tp", [0]), recv(2, 1, size), comp(3, 0.25, [2])],
            [comp(0, 1.0), coll(1, Collective.ALL_REDUCE, size, "tp", [0]), send(2, 0, size, [1])],
        ],
        {"tp": [0, 1]},
    )


@pytest.fixture(scope="module")
def pair():
    return simulate(two(), line(2))


def test_timeline_adds_up_to_the_simulation(pair):
    figure = view.timeline(pair)
    table = pair.to_pandas()
    assert seconds(figure, "compute") == pytest.approx(pair.compute.sum())
    of = table.assign(seconds=table["end"] - table["begin"], waits=table["begin"] - table["issued"]).groupby("kind")
    assert seconds(figure, "TP comm.") == pytest.approx(of["seconds"].sum()["COLL"])
    assert seconds(figure, "messages") == pytest.approx(of["seconds"].sum()[["SEND", "RECV"]].sum())
    assert seconds(figure, "waiting") == pytest.approx(of["waits"].sum().sum())
    assert of["waits"].sum()["COLL"] == pytest.approx(0.5)
    [compute] = named(figure, "compute")
    assert sorted(np.asarray(compute.base) * second(figure)) == pytest.approx(
        sorted(table[table["kind"] == "COMP"]["begin"])
    )
    assert list(figure.layout.yaxis.ticktext) == ["rank 0", "rank 1"]


def test_hover_says_what_let_a_node_go_and_how_long_it_waited(pair):
    [messages] = named(view.timeline(pair), "messages")
    received = next(text for text in messages.customdata if "recv2" in text)
    assert "let go by a peer: send2 of rank 1" in received and "waited" in received
    [compute] = named(view.timeline(pair), "compute")
    assert any("let go by a dependence: recv2 of rank 0" in text for text in compute.customdata)


def test_ranks_that_are_alike_are_drawn_once_unless_asked_for():
    found = collective("all_reduce", 1e8, line(4, 4))
    assert list(view.timeline(found).layout.yaxis.ticktext) == ['rank 0<span style="font-size:11px"> +15 alike</span>']
    figure = view.timeline(found, ranks=[3, 9])
    assert list(figure.layout.yaxis.ticktext) == ["rank 3", "rank 9"]
    assert seconds(figure, "group") == pytest.approx(2 * found.time)


def test_a_window_keeps_the_nodes_in_it(pair):
    figure = view.timeline(pair, window=(0.6, 0.9))  # rank 1 computes, rank 0 waits
    assert [trace.name for trace in figure.data] == ["waiting", "compute"]
    assert np.asarray(figure.layout.xaxis.range) * second(figure) == pytest.approx([0.6, 0.9])
    for wrong in ((0.9, 0.6), (-1.0, 1.0)):
        with pytest.raises(SpecError, match="window"):
            view.timeline(pair, window=wrong)
    for wrong in ([2], [-1], [], [0.5]):
        with pytest.raises(SpecError, match="ranks"):
            view.timeline(pair, ranks=wrong)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 400), st.integers(1, 6))
def test_thinning_keeps_lanes_long_nodes_and_all_time(seed, most, lanes):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 3000))
    key = rng.integers(0, lanes, n)
    begin = rng.uniform(0.0, 10.0, n)
    end = begin + rng.exponential(1.0, n) ** 3 * 1e-2
    found, stretch = bars(key, begin, end, most)
    assert len(found.first) <= max(most, lanes) and found.count.sum() == n
    assert found.busy.sum() == pytest.approx((end - begin).sum())
    assert (stretch == 0) == (n <= most)
    assert np.bincount(key[found.first], found.busy, lanes) == pytest.approx(np.bincount(key, end - begin, lanes))
    long = np.flatnonzero(end - begin > stretch)
    assert set(long) <= set(found.first[found.count == 1])
    merged = found.count > 1
    assert np.all(found.end[merged] - found.begin[merged] <= 2 * stretch * (1 + 1e-9))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_unions_count_every_moment_once(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 60))
    key = rng.integers(0, 3, n)
    begin = rng.integers(0, 100, n)
    end = begin + rng.integers(1, 9, n)
    of, first, last = unions(key, begin.astype(float), end.astype(float))
    for k in range(3):
        covered = {t for b, e in zip(begin[key == k], end[key == k], strict=True) for t in range(b, e)}
        assert (last - first)[of == k].sum() == len(covered)


def test_many_nodes_become_few_bars_of_the_same_time():
    nodes = [comp(i, 1e-4 * (1 + i % 3), [i - 1] if i else []) for i in range(9_000)]
    nodes.append(comp(9_000, 0.5, [8_999]))
    found = simulate(trace_set([nodes, nodes]), line(2))
    figure = view.timeline(found)
    [compute] = named(figure, "compute")
    assert len(compute.x) <= view.BARS
    assert seconds(figure, "compute") == pytest.approx(found.compute[0])  # no gaps: bars are as long as their nodes
    assert max(compute.x) * second(figure) == pytest.approx(0.5)
    assert "9,001 nodes" in figure.layout.title.subtitle.text and "together" in figure.layout.title.subtitle.text


def test_utilization_is_that_of_the_simulation():
    found = collective("all_reduce", 1e9, line(4, 2, bandwidth=10e9))
    figure = view.utilization(found, bins=50)
    [heat] = figure.data
    shares, _ = found.utilization(50)
    assert list(heat.y) == ["d0, rank 0 +7", "d1, rank 0 +7"]
    assert np.asarray(heat.z) == pytest.approx(100 * np.clip(shares[[0, 2]], 0, 1))
    passed = np.asarray(heat.z).mean(axis=1) / 100 * found.time * 10e9
    assert passed == pytest.approx([2 * 3 / 4 * 1e9, 2 * 1 / 2 * 1e9 / 4], rel=0.02)
    many = view.utilization(collective("all_reduce", 1e8, line(8, 4), fidelity="flows"))
    assert list(many.data[0].y) == ["d0", "d1"] and "mean over the ranks" in many.layout.title.subtitle.text


@pytest.mark.parametrize("fidelity", ["analytical", "flows"])
def test_utilization_stays_within_all_of_the_bandwidth(fidelity):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        traces = random_traces(rng)
        found = simulate(traces, random_system(rng, len(traces)), fidelity=fidelity)
        [heat] = view.utilization(found).data
        assert np.min(heat.z) >= 0 and np.max(heat.z) <= 100 and np.max(heat.z) <= heat.zmax
        assert len(set(heat.y)) == len(heat.y) <= view.ROWS


def test_means_count_each_port_as_often_as_it_stands_for():
    ports = [Port("d0", way, f"rank {r}", 1 + 2 * r, np.full(3, float(r))) for r in range(2) for way in ("out", "in")]
    assert [port.title for port in both_ways(ports)] == ["d0, rank 0", "d0, rank 1 +2"]
    [both] = both_ways(means(ports, "place", "way"))
    assert both.title == "d0" and both.share == pytest.approx(np.full(3, 0.75))


def test_utilization_needs_bytes():
    with pytest.raises(SpecError, match="no bytes"):
        view.utilization(simulate(trace_set([[comp(0, 1.0)]]), line(1)))
    with pytest.raises(SpecError, match="bins"):
        view.utilization(collective("all_reduce", 1e8, line(2)), bins=0)


def stored(capacity, count=3):
    nodes = [node(i, Kind.MEM_STORE, [i - 1] if i else [], tensor_size=10**9) for i in range(count)]
    tier = Tier("pool", 10e9, capacity=capacity, shared_by=0, path=(Hop(4e9),))
    return simulate(trace_set([nodes] * 2), line(2, tiers=(tier,)))


def test_occupancy_peaks_as_the_simulation_does():
    found = stored(5e9)
    figure = view.occupancy(found)
    [held] = figure.data
    assert held.x[-1] * second(figure) == pytest.approx(found.time)
    assert max(held.y) * 1e9 == pytest.approx(found.occupancy()["bytes"].max()) == pytest.approx(6e9)
    [level] = figure.layout.shapes
    assert level.y0 == pytest.approx(5.0) and "more than fits" in figure.layout.title.subtitle.text
    assert not view.occupancy(stored(1e15)).layout.shapes
    with pytest.raises(SpecError, match="no node stores"):
        view.occupancy(simulate(trace_set([[comp(0, 1.0)]]), line(1)))


def test_each_tier_has_a_panel_and_each_rank_a_colour():
    import plotly.graph_objects as go

    def nodes(size):
        return [node(i, Kind.MEM_STORE, tensor_size=size, **{"dse.tier": tier}) for i, tier in enumerate("ab")]

    tiers = (Tier("a", 1e9, capacity=4e9), Tier("b", 2e9), Tier("unused", 1e9))
    figure = view.occupancy(simulate(trace_set([nodes(10**9), nodes(2 * 10**9)]), line(2, tiers=tiers)), dark=True)
    go.Figure(figure.to_dict())  # checks every property
    assert [(line.yaxis, line.name, line.showlegend) for line in figure.data] == [
        ("y", "rank 0", True),
        ("y", "rank 1", True),
        ("y2", "rank 0", False),
        ("y2", "rank 1", False),
    ]
    assert [max(line.y) for line in figure.data] == pytest.approx([1, 2, 1, 2])
    assert figure.data[0].line.color == figure.data[2].line.color != figure.data[1].line.color
    assert figure.layout.yaxis.domain[0] > figure.layout.yaxis2.domain[1]
    assert [level.y0 for level in figure.layout.shapes] == pytest.approx([4.0])  # only where there is a capacity


def test_occupancy_of_many_steps_keeps_the_peak():
    found = stored(1e15, count=3_000)
    [held] = view.occupancy(found).data
    assert len(held.x) <= view.POINTS + 1 and np.all(np.diff(held.x) >= 0)
    assert max(held.y) == pytest.approx(6.0) == held.y[-1]  # TB


def test_critical_path_adds_up_to_the_time(pair):
    figure = view.critical(pair)
    real = [trace for trace in figure.data if trace.showlegend is False]
    assert sum(float(np.sum(trace.x)) for trace in real) * second(figure) == pytest.approx(pair.time)
    by = dict(zip(real[0].y, np.sum([trace.x for trace in real], axis=0) * second(figure), strict=True))
    path = pair.critical_path()
    assert by["compute"] == pytest.approx(path[path["kind"] == "COMP"]["seconds"].sum()) == pytest.approx(1.25)
    reasons = path.groupby("waited_for")["seconds"].sum()
    assert {trace.name for trace in real} == {f"after a {why}" for why in reasons[reasons > 0].index}
    with pytest.raises(SpecError, match="no node takes time"):
        view.critical(simulate(trace_set([[comp(0, 0.0)]]), line(1)))


@pytest.fixture(scope="module")
def step():
    design = "tp=2,pp=2,micro_batch=1,global_batch=8,zero_stage=1"
    return dse.estimate("llama2-7b", "dgx-h100", design, devices=8, fidelity="simulated").simulated


@pytest.mark.parametrize("dark", [False, True])
def test_parts_add_up_to_both_steps(step, dark):
    figure = view.parts(step, dark=dark)
    both = np.sum([trace.x for trace in figure.data], axis=0) * second(figure)
    assert both == pytest.approx([float(step.result.number("step_time")), step.step_time], rel=1e-5)
    assert f"{abs(step.difference):.1%}" in figure.layout.annotations[1].text


def test_all_figures_of_a_design_are_valid_in_light_and_dark(step):
    import plotly.graph_objects as go

    for draw in (view.timeline, view.utilization, view.critical):
        for dark in (False, True):
            figure = draw(step.simulation, dark=dark)
            go.Figure(figure.to_dict())  # checks every property
            assert figure.layout.template.layout.paper_bgcolor == ("#16191F" if dark else "#FFFFFF")
            assert draw(step.simulation, title="Mine").layout.title.text == "Mine"
    timeline = view.timeline(step.simulation)
    assert {"compute", "TP comm.", "messages"} <= {trace.name for trace in timeline.data}


def test_lanes_have_colours_of_their_own():
    labels = [f"g{i}" for i in range(9)]
    nodes = [[coll(i, Collective.ALL_REDUCE, 10**6 * (i + 1), label) for i, label in enumerate(labels)]] * 2
    figure = view.timeline(simulate(trace_set(nodes, {label: [0, 1] for label in labels}), line(2)))
    drawn = [trace for trace in figure.data if trace.name != "waiting"]
    assert [trace.name for trace in drawn] == [*(f"group g{i}" for i in range(4, 9)), "other groups"]
    assert len({trace.marker.color for trace in drawn}) == 6
    usual = looks(["compute", "TP comm.", "DP comm.", "all ranks", "messages", "loads"])
    assert len({look["color"] for look in usual.values()}) == len(usual)


def test_host_nodes_and_groups_of_all_have_lanes():
    found = two()[0]
    assert lanes_of(found).tolist() == ["compute", "TP comm.", "messages", "compute"]
    every = trace_set(
        [[comp(0, 1.0, is_cpu_op=True), coll(1, Collective.ALL_REDUCE, 8), coll(2, Collective.BARRIER, 0, "0")]]
    )
    assert lanes_of(every[0]).tolist() == ["host", "all ranks", "all ranks"]


SYSTEM = {
    "scheduling-policy": "LIFO", "endpoint-delay": 10, "active-chunks-per-dimension": 1, "preferred-dataset-splits": 4,
    "all-reduce-implementation": ["ring"], "all-gather-implementation": ["ring"], "local-mem-bw": 1600,
    "reduce-scatter-implementation": ["ring"], "all-to-all-implementation": ["ring"], "roofline-enabled": 0,
    "collective-optimization": "localBWAware",
}  # fmt: skip
NETWORK = "topology: [ Ring ]\nnpus_count: [ 2 ]\nbandwidth: [ 50.0 ]\nlatency: [ 500.0 ]\n"


@pytest.fixture
def files(tmp_path):
    """Traces of two ranks (computing 1 + 2 µs, then a sum), and a system and network in the public format."""
    nodes = [
        node(0, Kind.COMP, is_cpu_op=False, num_ops=1),
        coll(2, Collective.ALL_REDUCE, 2**20, deps=[0], is_cpu_op=False),
    ]
    nodes[0].duration_micros = 3
    save(trace_set([nodes] * 2), tmp_path / "t")
    (tmp_path / "system.json").write_text(json.dumps(SYSTEM), encoding="utf-8")
    (tmp_path / "network.yml").write_text(NETWORK, encoding="utf-8")
    return tmp_path


def test_runs_with_the_public_semantics_have_a_timeline(files):
    run = compat.run(load(str(files / "t")), files / "network.yml", files / "system.json", None)
    figure = view.timeline(run)
    assert seconds(figure, "compute") == pytest.approx(2 * 3e-6) and not named(figure, "waiting")
    assert seconds(figure, "all ranks") == pytest.approx(run.comm.sum() * 1e-9)
    assert figure.layout.xaxis.range[1] * second(figure) == pytest.approx(run.cycles_max * 1e-9)


def test_command_writes_the_figure(files):
    base = ["simulate", "--workload", str(files / "t"), "--system", str(files / "system.json")]
    base += ["--network", str(files / "network.yml")]
    out = files / "f.html"
    for more in ([], ["--compat", "astra-sim"]):
        out.unlink(missing_ok=True)
        done = CliRunner().invoke(app, [*base, *more, "--figure", "timeline", "--figure-out", str(out)])
        assert done.exit_code == 0, done.output
        assert "all ranks" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--figure", "pie", "--figure-out", "f.html"], "must be one of timeline"),
        (["--figure", "timeline"], "figure-out"),
        (["--figure-out", "f.html"], "must be one of timeline"),
        (["--figure", "critical", "--figure-out", "f.txt"], "must be a file that ends in"),
        (["--figure", "critical", "--figure-out", "f.html", "--compat", "astra-sim"], "must be timeline"),
        (["--figure", "occupancy", "--figure-out", "f.html"], "no node stores"),
    ],
)
def test_command_says_why_it_draws_nothing(files, more, why, monkeypatch):
    monkeypatch.chdir(files)
    base = ["simulate", "--workload", "t", "--system", "system.json", "--network", "network.yml"]
    with pytest.raises(SpecError, match=why):
        CliRunner().invoke(app, [*base, *more], catch_exceptions=False)
    assert not (files / "f.html").exists()
