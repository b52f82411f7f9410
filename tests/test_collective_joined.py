"""Synthesized collectives in the cost model and in the simulator: tables, graphs as dimensions, schedules as messages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from simulate_traces import coll, trace_set

import dse
from dse.collective import joined
from dse.collective.bounds import bound
from dse.collective.library import LIBRARY
from dse.collective.merge import merged
from dse.collective.text import parse
from dse.cost.network import Links
from dse.errors import SpecError
from dse.simulate import System, collective, dimension, simulate
from dse.trace import Collective

GB, US, MIB = 1e9, 1e-6, 2.0**20
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")
FLOWS = {"fidelity": "flows"}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    """Each test has a cache of its own."""
    monkeypatch.setenv("DSE_CACHE", str(tmp_path / "cache"))
    joined.graph_lines.cache_clear()
    joined.unit_lines.cache_clear()


def seconds(dimensions, kind, sizes, *shares):
    """Closed form of a lone group with these shares."""
    return Links(dimensions, {"group": [np.asarray(n, float) for n in shares]}, None).time(kind, "group", sizes)


# -- lines of the size ----------------------------------------------------------------------------------------------


def least(lines, size):
    return min(line.slope * size + line.fixed for line in lines)


@pytest.mark.parametrize("seed", range(20))
def test_lines_are_the_least_concave_majorant(seed):
    rng = np.random.default_rng(seed)
    sizes = np.array(joined.SIZES)
    times = np.maximum.accumulate(rng.uniform(0, 1, 5)) + 1e-5 * sizes * rng.uniform(0, 1)
    found = joined.line_of(tuple(zip(sizes, times, strict=True)))
    assert len(found) == joined.PIECES and all(slope >= 0 and fixed >= 0 for slope, fixed in found)
    at = [least(found, size) for size in sizes]
    assert all(value >= time * (1 - 1e-12) for value, time in zip(at, times, strict=True))
    assert at[-1] == pytest.approx(times[-1]) and found[0].slope == min(line.slope for line in found)
    # Each line touches two of the points: a lower one would cut some off.
    for slope, fixed in set(found):
        assert (np.isclose(slope * sizes + fixed, times, rtol=1e-9)).sum() >= 2


def test_a_straight_line_stays_one():
    assert set(joined.line_of(tuple((s, 3.0 + 2.0 * s) for s in joined.SIZES))) == {(2.0, 3.0)}
    assert joined.line_of(((2.0, 6.0),)) == ((3.0, 0.0),) * joined.PIECES


@pytest.mark.parametrize("n", [2, 5, 8])
def test_known_algorithms_have_their_closed_forms_as_lines(n):
    """A ring one way: 2 (n - 1) / n of the bytes and 2 (n - 1) latencies; direct on a full mesh: 2 latencies."""
    ring = joined.lines(joined.unit_network("ring", n, False), "all_reduce", algorithm="ring")
    direct = joined.lines(joined.unit_network("fully_connected", n, True), "all_reduce", algorithm="direct")
    for size in (0.1, 100.0, 1e6):
        assert least(ring, size) == pytest.approx(2 * (n - 1) / n * size + 2 * (n - 1), rel=1e-9)
        assert least(direct, size) == pytest.approx(2 * (n - 1) / n * size + 2, rel=1e-9)


@pytest.mark.parametrize("network", ["torus:3x3", "rails:2x3", "mesh:3x2,fail=1", "fully_connected:6,latency=0us"])
@pytest.mark.parametrize("kind", ["all_reduce", "all_gather"])
def test_lines_lie_between_the_bound_and_the_library(network, kind):
    topology = parse(network)
    own = joined.lines(topology, kind)
    for size in joined.sizes_of(topology):
        assert least(own, size) >= bound(topology, kind, size).any * (1 - 1e-9)
        for algorithm in LIBRARY.values():
            if algorithm.does(kind) and algorithm.name in ("ring", "direct", "multitree"):
                assert least(own, size) <= merged(algorithm(topology, kind, size)).time * 1.02


def test_tables_are_kept_by_network(monkeypatch, tmp_path):
    made = []
    before = joined.schedule_of
    monkeypatch.setattr(joined, "schedule_of", lambda *a: (made.append(a), before(*a))[1])
    first = joined.lines("ring:4", "all_gather", algorithm="ring")
    count = len(made)
    assert count == len(joined.SIZES)
    assert joined.lines(replace(parse("ring:4"), name="the same"), "all_gather", algorithm="ring") == first
    assert len(made) == count
    files = list((tmp_path / "cache" / "collectives").iterdir())
    assert len(files) == 1
    for broken in ("", "[[1, 2]]", '[["x", 1], [1, 1], [1, 1], [1, 1]]', "[[1, -1], [1, 1], [1, 1], [1, NaN]]", "{}"):
        files[0].write_text(broken)
        assert joined.lines("ring:4", "all_gather", algorithm="ring") == first
    assert len(made) == 6 * count
    monkeypatch.setenv("DSE_CACHE", "off")
    assert joined.lines("ring:4", "all_gather", algorithm="ring") == first and len(made) == 7 * count


# -- dimensions of the cost model -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_that_is_a_ring_is_that_ring(kind):
    """The same links as a topology and as a graph; the pipelined broadcast apart, whose pieces the formula ignores."""
    plain = dimension("ring", 100 * GB, size=6, latency=2 * US, bidirectional=False)
    graph = "ring:6,directions=1,bandwidth=100GB/s,latency=2us"
    algorithm = "ring" if kind != "all_to_all" else "direct"
    own = dimension("ring", 100 * GB, size=6, graph=graph, algorithm=algorithm, bidirectional=False)
    sizes = np.array([1e3, 1e6, 1e9])
    one, other = seconds((plain,), kind, sizes, 6), seconds((own,), kind, sizes, 6)
    if kind in ("all_to_all", "broadcast"):
        np.testing.assert_allclose(other[-1], one[-1], rtol=0.06)  # latencies of many small pieces
    else:
        np.testing.assert_allclose(other, one, rtol=1e-9)


@pytest.mark.parametrize("topology", ["ring", "switch", "fully_connected", "mesh", "torus"])
@pytest.mark.parametrize("n", [2, 6])
def test_synthesized_is_seldom_worse_than_the_usual_algorithm(topology, n):
    plain = dimension(topology, 100 * GB, size=n, latency=2 * US)
    own = dimension(topology, 100 * GB, size=n, latency=2 * US, algorithm="synthesized")
    sizes = 10.0 ** np.arange(3, 10)
    usual, found = (seconds((d,), "all_reduce", sizes, n) for d in (plain, own))
    assert (np.diff(found) > 0).all()
    # Store and forward through the switch costs some; a line has room for what a ring around it leaves idle.
    assert (found <= 1.3 * usual).all()
    assert (found >= 2 * (n - 1) / n * sizes / (100 * GB) * (0.5 if topology == "mesh" else 0.99)).all()


def test_small_sizes_take_fewer_steps():
    ring = dimension("ring", 100 * GB, size=8, latency=10 * US)
    own = dimension("ring", 100 * GB, size=8, latency=10 * US, algorithm="synthesized")
    small, large = seconds((own,), "all_reduce", np.array([10.0, 1e10]), 8)
    assert small < 0.7 * seconds((ring,), "all_reduce", 10.0, 8)
    assert large == pytest.approx(2 * 7 / 8 * 1e10 / (100 * GB), rel=0.03)


def test_more_ranks_than_are_synthesized_scale_as_the_usual_algorithm(monkeypatch):
    from dse.cost import synthesized

    monkeypatch.setattr(synthesized, "MOST", 4)
    own = dimension("ring", 100 * GB, latency=2 * US, algorithm="synthesized")
    usual = dimension("ring", 100 * GB, latency=2 * US)
    sizes = np.array([1e10])
    ratio = [seconds((own,), "all_reduce", sizes, n) / seconds((usual,), "all_reduce", sizes, n) for n in (4, 4096)]
    assert ratio[1] == pytest.approx(ratio[0], rel=0.05)


def test_graphs_and_algorithms_are_axes():
    cluster = own_cluster("torus:2x4", 8)
    graphs = ["torus:2x4", "torus:2x4,fail=2,seed=1", "mesh:2x4"]
    path = "cluster.network.dimensions.0"
    algorithms = ["synthesized", "ring", "auto"]
    strategy = {"tp": 8, "pp": 2, "dp": 2, "global_batch": 16}
    found = dse.sweep("gpt-1.7b", cluster, strategy, dse.axis(f"{path}.graph", graphs, name="graph"),
                      dse.axis(f"{path}.algorithm", algorithms, name="how"))["step_time"]  # fmt: skip
    for graph in graphs:
        for how in algorithms:
            alone = dse.estimate("gpt-1.7b", own_cluster(graph, 8, how), strategy)["step_time"]
            assert float(found.sel(graph=graph, how=how)) == pytest.approx(float(alone), rel=1e-12)
    np.testing.assert_array_equal(found.sel(how="auto"), found.sel(how="synthesized"))
    assert (found.sel(how="synthesized") <= found.sel(how="ring") * (1 + 1e-9)).all()
    assert (found.sel(graph="torus:2x4", how="synthesized") < found.sel(graph="mesh:2x4", how="synthesized")).all()


def own_cluster(graph, size, algorithm="auto"):
    first = {"name": "nvlink", "topology": "switch", "size": size, "bandwidth": "300 GB/s", "graph": graph,
             "algorithm": algorithm}  # fmt: skip
    outer = {"name": "infiniband", "topology": "switch", "bandwidth": "25 GB/s", "latency": "5 us"}
    return {"base": "dgx-a100", "id": "own", "network": {"dimensions": [first, outer]}}


def test_a_part_of_a_graph_and_ranks_that_are_not_whole():
    own = dimension("switch", 100 * GB, size=8, graph="ring:8,bandwidth=50GB/s")
    times = [float(seconds((own,), "all_reduce", 1e9, n)) for n in (1.0, 2.0, 3.5, 4.0, 8.0)]
    assert times[0] == 0 and times[2] == times[3]
    assert times[4] == pytest.approx(2 * 7 / 8 * 1e9 / (100 * GB), rel=0.03)


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"graph": "torus:4x4", "size": 8}, "size must be 16"),
        ({"graph": "torus:4x4,fail_npus=1", "size": 16}, "size must be 15"),
        ({"graph": "tours:4x4", "size": 16}, "did you mean torus"),
        ({"graph": "nothing.csv", "size": 16}, "nothing.csv"),
        ({"algorithm": "multitree"}, "needs a graph"),
        ({"algorithm": "synthetic"}, "synthesized"),
    ],
)
def test_what_is_wrong_with_a_graph_is_said(fields, rule):
    with pytest.raises(SpecError, match=rule):
        dimension("ring", 1e9, **fields)


# -- the simulator ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["ring:6", "mesh:3x3,bandwidths=50GiB/s:100GiB/s,latencies=1us:3us", "rails:2x3"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("together", [False, True])
def test_a_synthesized_schedule_takes_as_long_as_it_says(network, kind, together):
    """Messages go as soon as their data is there and the link free, in the order of the schedule: never later."""
    topology = parse(network)
    schedule = LIBRARY["multitree" if kind != "all_to_all" else "direct"](topology, kind, MIB)
    schedule = merged(schedule) if together else schedule
    system = System.on_graph(topology, topology.npus, algorithms={kind: schedule})
    assert collective(kind, MIB, system, **FLOWS).time == pytest.approx(schedule.time, rel=1e-6)
    own = System.on_graph(topology, topology.npus, algorithms={kind: "synthesized"})
    found = joined.schedule_of(topology, kind, MIB, "synthesized", tuple(range(topology.npus)))
    time = collective(kind, MIB, own, **FLOWS).time
    assert bound(topology, kind, MIB).any * (1 - 1e-9) <= time <= found.time * (1 + 1e-6)


def test_waiting_for_data_is_never_longer_than_waiting_for_steps():
    topology = parse("mesh:3x3,bandwidths=50GiB/s:100GiB/s,latencies=1us:3us")
    schedule = LIBRARY["direct"](topology, "all_gather", MIB)
    system = System.on_graph(topology, 9, algorithms={"all_gather": schedule})
    assert collective("all_gather", MIB, system, **FLOWS).time <= schedule.time * (1 + 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_dimensions_are_synthesized_as_one_network(kind):
    dims = (dimension("ring", 100 * GB, name="a", latency=US, algorithm="synthesized"),
            dimension("switch", 50 * GB, name="b", latency=US))  # fmt: skip
    system = System(dims, (4, 2))
    time = collective(kind, 64 * MIB, system, **FLOWS).time
    from dse.simulate.wires import wires

    known = wires(system)
    assert len(known.keys) == known.topology.links == 2 * 8 + 4 * 4  # two rings both ways, four pairs on switches
    limit = bound(known.topology, kind, 64 * MIB).any
    assert limit * (1 - 1e-9) <= time <= 1.5 * limit


def test_a_dimension_that_is_a_graph_is_simulated_on_its_links():
    graph = "torus:3x3,bandwidth=25GB/s,latency=1us"
    system = System((dimension("switch", 100 * GB, size=9, graph=graph),), (9,))
    closed = collective("all_reduce", 64 * MIB, system).time
    flows = collective("all_reduce", 64 * MIB, system, **FLOWS).time
    assert flows == pytest.approx(closed, rel=0.05)
    assert flows >= bound(parse(graph), "all_reduce", 64 * MIB).any


def test_two_collectives_share_the_links():
    """Reductions of two halves of a ring's places at once take about as long as one after the other."""
    topology = parse("fully_connected:4,bandwidth=1GB/s,latency=0us")
    system = System.on_graph(topology, 4, algorithms={"all_gather": "synthesized"})
    traces = trace_set([[coll(0, Collective.ALL_GATHER, 10**8, group="pair")]] * 4, {"pair": [[0, 1], [2, 3]]})
    pair = simulate(traces, system, gather="output", **FLOWS).time
    lone = collective("all_gather", 10**8, system, ranks=2, **FLOWS).time
    # The others pass on what the direct link has no room for, so both groups use all links.
    assert lone <= pair * (1 + 1e-9) <= 2 * lone * (1 + 1e-6)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"all_reduce": "synthetic"}, "synthesized"),
        ({"all_reduce": LIBRARY["ring"](parse("ring:4"), "all_gather", MIB)}, "collective all_reduce"),
        ({"all_reduce": LIBRARY["ring"](parse("ring:4"), "all_reduce", MIB, members=[0, 1, 2])}, "ranks of the group"),
        ({"all_reduce": LIBRARY["ring"](parse("mesh:2x2"), "all_reduce", MIB)}, "on the links"),
    ],
)
def test_schedules_that_do_not_fit_are_refused(change, rule):
    with pytest.raises(SpecError, match=rule):
        collective("all_reduce", MIB, System.on_graph(parse("ring:4"), 4, algorithms=change), **FLOWS)


# -- studies ------------------------------------------------------------------------------------------------------------

SMALL = {
    "kind": "study",
    "id": "small",
    "title": "A small study",
    "question": "Does it run?",
    "collectives": [
        {
            "id": "lone",
            "networks": [
                {"families": ["mesh2d", "torus3d"], "npus": [8, 16]},
                {"id": "words", "title": "In words", "topology": "torus:3x3", "fails": [0, 0.2], "samples": 3},
            ],
            "collectives": ["all_reduce", "all_gather"],
            "sizes": ["1 GiB"],
            "algorithms": ["ring", "multitree", "recorded", "best_known"],
        },
        {
            "id": "steps",
            "networks": [{"id": "torus", "topology": "torus:2x4"}, {"id": "mesh", "topology": "mesh:2x4"}],
            "collectives": [],
            "algorithms": ["synthesized", "ring", "best_known"],
            "steps": [{"id": "gpt", "model": "gpt-1.7b", "dimension": "nvlink", "cluster": "own.yaml",
                       "strategy": {"tp": 8, "pp": 1, "dp": 2, "global_batch": 16}}],
        },
    ],
    "simulation_checks": [
        {"check": "geomean", "simulation": "lone", "at": {"algorithm": "ring", "family": "words", "fail": 0.2,
         "collective": "all_reduce"}, "measure": "geomean", "unit": "ms", "at_least": 0},
        {"check": "p90", "simulation": "lone", "at": {"algorithm": "ring", "family": "words", "fail": 0.2,
         "collective": "all_reduce"}, "measure": "p90", "unit": "ms", "at_least": 0},
        {"check": "gain", "simulation": "steps", "at": {"algorithm": "synthesized"}, "measure": "min",
         "reference": {"algorithm": "ring"}, "at_least": 1},
    ],
    "figures": [
        {"id": "ratios", "kind": "ratios", "run": "lone", "at": {"collective": "all_reduce"}},
        {"id": "spread", "kind": "spread", "run": "lone", "at": {"family": "words", "collective": "all_gather"}},
        {"id": "sizes", "kind": "sizes", "run": "lone", "at": {"network": "mesh2d_8", "collective": "all_gather"}},
        {"id": "bars", "kind": "bars", "run": "steps", "along": "network", "by": "algorithm"},
    ],
}  # fmt: skip


def written(folder, changes=None):
    import yaml

    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump({**SMALL, **(changes or {})}))
    cluster = {"kind": "cluster", "sources": [{"title": "assumed", "date": "2026-11", "kind": "assumed", "covers": ["*"]}],
               **own_cluster("", 8)}  # fmt: skip
    (folder / "own.yaml").write_text(yaml.safe_dump(cluster))
    return folder


def test_collectives_in_a_study(tmp_path):
    from dse.collective.files import reference_runs
    from dse.study.study import run_study

    found = run_study(written(tmp_path / "study"), tmp_path / "out", images=False)
    rows = found.simulations["lone"].rows
    words = rows[rows["network"] == "words"]
    assert len(words) == (1 + 3) * 2 * 3 and set(words["algorithm"]) == {"ring", "multitree", "best_known"}
    assert (words["npus"] == 9).all() and (rows["ratio"] >= 1 - 1e-9).all()
    case = ["network", "collective", "fail", "sample"]
    known = rows[rows["algorithm"].isin(["ring", "multitree"])].groupby(case)["time"].min()
    best = rows[rows["algorithm"] == "best_known"].set_index(case)["time"]
    np.testing.assert_array_equal(best.sort_index(), known.sort_index())
    recorded = rows[(rows["network"] == "torus3d_16") & (rows["algorithm"] == "recorded")]
    recorded = recorded.set_index("collective")["time"]
    runs = reference_runs()
    runs = runs[(runs["family"] == "torus3d") & (runs["n_npus"] == 16) & (runs["total_bytes"] == 2.0**30)]
    for kind, name in (("all_reduce", "AllReduce"), ("all_gather", "AllGather")):
        assert recorded[kind] * 1e6 == pytest.approx(runs[runs["collective"] == name]["tacos_causal_time_us"].min())
    ours = found.verdicts.set_index("check")["ours"]
    chosen = (words["fail"] == 0.2) & (words["algorithm"] == "ring") & (words["collective"] == "all_reduce")
    broken = words["time"][chosen]
    assert ours["geomean"] == pytest.approx(np.exp(np.log(broken).mean()) * 1e3)
    assert ours["p90"] == pytest.approx(np.quantile(broken, 0.9) * 1e3)
    assert ours["gain"] >= 1 and found.ok
    steps = found.simulations["steps"].rows.set_index(["network", "algorithm"])
    plan = {"tp": 8, "pp": 1, "dp": 2, "global_batch": 16}
    alone = dse.estimate("gpt-1.7b", own_cluster("mesh:2x4", 8, "ring"), plan)
    assert steps.loc[("mesh", "ring"), "time"] == pytest.approx(float(alone["step_time"]))
    assert list(found.figures) == ["ratios", "spread", "sizes", "bars"]
    assert "| lone |  | 2 systems |" in (tmp_path / "out" / "report.md").read_text()
    again = run_study(tmp_path / "study")
    assert again.simulations["lone"].rows.equals(rows)


@pytest.mark.parametrize(
    ("block", "rule"),
    [
        ({"networks": [{"families": ["mesh4d"], "npus": [8]}]}, "must be of the recorded"),
        ({"networks": [{"families": ["mesh2d"]}]}, "families need npus"),
        ({"networks": [{"topology": "ring:4"}]}, "needs either id"),
        ({"networks": [{"id": "a", "topology": "rang:4"}]}, "did you mean ring"),
        ({"algorithms": ["rings"]}, "must be one of synthesized"),
        ({"sizes": []}, "needs collectives with sizes"),
    ],
)
def test_wrong_blocks_are_refused(tmp_path, block, rule):
    from dse.study.study import run_study

    blocks = [{**SMALL["collectives"][0], **block}]
    changes = {"collectives": blocks, "figures": [], "simulation_checks": []}
    with pytest.raises(SpecError, match=rule):
        run_study(written(tmp_path / "study", changes))


def test_the_shipped_study_is_complete():
    from dse.study.study import load_study

    study, _, folder = load_study("tacos")
    ids = [block.id for block in study.collectives]
    assert ids == ["families", "large", "sizes", "training", "robust", "robust-steps"]
    robust = next(block for block in study.collectives if block.id == "robust").networks[0]
    assert robust.samples >= 100 and max(robust.fails) == 0.1
    assert all(check.label != "paper" for check in study.simulation_checks)
    assert sorted(path.name for path in folder.glob("clusters/*")) == ["fabric-16.yaml", "fabric.yaml"]
