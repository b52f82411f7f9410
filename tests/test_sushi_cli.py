"""``dse sushi`` from a shell, and its figures."""

from __future__ import annotations

import json
import warnings
from functools import cache
from textwrap import dedent

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from typer.testing import CliRunner

from dse.domains.sushi import unknowns
from dse.domains.sushi.accelerator import load_subgraph_accelerator
from dse.domains.sushi.breakeven import break_even
from dse.domains.sushi.cli import QUERIES, SUBNETS, app
from dse.domains.sushi.latency import explain
from dse.domains.sushi.problem import machine, priced, stream
from dse.domains.sushi.search import problem, search
from dse.domains.sushi.serve import serve
from dse.domains.sushi.sharing import core, shared, truncated
from dse.domains.sushi.subnets import load_subnets, resnet50, stack
from dse.errors import SpecError
from dse.view import sushi as views
from dse.view import sushi_maps as maps
from dse.view import theme

MIB = 2.0**20
FAST = ["--candidates", "4", "--accelerator", "sushi-roofline"]


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def answer(*arguments: str):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# -- the shell ----------------------------------------------------------------------------------------------------


def test_a_table_is_printed_and_kept_and_served(tmp_path):
    file = tmp_path / "table.csv"
    told = answer("table", *FAST, "--buffer", "2 MiB", "--out", str(file))
    assert told["subnets"] == list("ABCDEF") and told["subgraphs"][0] == "none" and len(told["subgraphs"]) == 5
    assert max(told["size"]) <= 2 * MIB
    shown = run("table", *FAST, "--buffer", "2 MiB").stdout
    assert shown.count("\n") == 6 and "latency [ms]" in shown
    same = [
        answer("serve", *where, "--queries", "300") for where in ((*FAST, "--buffer", "2 MiB"), ("--table", str(file)))
    ]
    assert same[0] == same[1]
    stream = tmp_path / "stream.csv"
    stream.write_text("arrival,accuracy,latency\n" + "0,0.76,1\n" * 64)
    drawn = [answer("serve", "--table", str(file), "--stream", str(stream), "--caching", "random", "--window", "1",
                    "--seed", seed)["latency_mean"] for seed in "12"]  # fmt: skip
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("policy", ["strict-accuracy", "strict-latency"])
@pytest.mark.parametrize("caching", ["none", "static", "average", "oracle"])
def test_streams_are_served(policy, caching, tmp_path):
    out = tmp_path / "queries.csv"
    told = answer("serve", *FAST, "--queries", "200", "--policy", policy, "--caching", caching, "--out", str(out))
    rows = pd.read_csv(out)
    assert told["queries"] == 200 == len(rows) and told["policy"] == policy
    assert set(rows["subnet"]) <= set("ABCDEF") and (caching != "none" or set(rows["subgraph"]) == {"none"})
    late = rows["response [s]"] > rows["deadline [s]"]
    assert (late == rows["deadline_missed"]).all() and late.mean() == told["deadline_missed"]
    assert ((rows["accuracy"] < rows["asked_accuracy"]) == rows["accuracy_missed"]).all()
    assert told["response_p50"] <= told["response_p95"] <= told["response_p99"]


def test_an_open_loop_waits_and_a_recorded_stream_is_read(tmp_path):
    slow = answer("serve", *FAST, "--stream", "bursty", "--rate", "50", "--queries", "300")
    quick = answer("serve", *FAST, "--stream", "bursty", "--rate", "400", "--queries", "300")
    assert slow["loop"] == "open" and quick["queueing_mean"] > slow["queueing_mean"]
    file = tmp_path / "stream.csv"
    file.write_text("arrival [ms],accuracy [%],latency [ms]\n0,76,10\n5,79,10\n5,75,2\n")
    assert answer("serve", *FAST, "--stream", str(file))["queries"] == 3
    closed = answer("serve", *FAST, "--stream", str(file), "--loop", "closed", "--caching", "oracle")
    assert closed["loop"] == "closed" and closed["queueing_mean"] == 0
    waited = [answer("serve", *FAST, "--stream", "bursty", "--rate", "400", "--queries", "300", "--policy", "strict-latency",
                     *more)["deadline_missed"] for more in ((), ("--slack", "--initial", "0"))]  # fmt: skip
    assert waited[1] < waited[0]
    assert "3 queries" in run("serve", *FAST, "--stream", str(file)).stdout


def test_a_search_is_kept_and_its_exit_code_says_whether_anything_fits(tmp_path):
    few = ["--trials", "4", "--queries", "60", "--vary", "buffer=0 MiB, 2 MiB", "--vary", "kinds=cuts, shared",
           "--vary", "count=4"]  # fmt: skip
    told = answer("search", *few, "--out", str(tmp_path / "kept"), "--objective", "latency", "--objective", "accuracy")
    assert told["designs"] == 4 and set(told["front"][0]["kinds"].split("+")) <= {"cuts", "shared"}
    assert len(pd.read_csv(tmp_path / "kept" / "designs.csv")) == 4 and (tmp_path / "kept" / "front.csv").is_file()
    result = run("search", *few, "--budget", "area <= 1 um^2")
    assert result.exit_code == 1 and "0 within the budgets" in result.stdout
    assert "area: 4 of 4 miss 1e-06 mm2 at most; the best has" in result.stdout and "On the front" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--stream", "noise"], "must be one of random"),
        (["serve", "--stream", "bursty"], "needs the arrivals"),
        (["serve", "--rate", "0"], "must be from 1e-09"),
        (["serve", "--stream", "edge", "--rate", "5"], "is not for edge"),
        (["serve", "--stream", "no.csv"], "cannot be read"),
        (["serve", "--stream", "x.csv", "--rate", "5", "--stay", ".5", "--queries", "7"], "3 faults"),
        (["serve", "--stream", "random", "--stay", ".5"], "stay = 0.5: is of no use with the stream random"),
        (["serve", "--table", "x.csv", "--kinds", "cuts"], "kinds = cuts: is of no use with the table x.csv"),
        (["serve", "--rate", "5", "--loop", "closed"], "rate = 5: is for an open loop"),
        (["serve", "--loop", "open"], "rate: is needed for an open loop"),
        (["serve", "--drop"], "drop = True: is for an open loop"),
        (["serve", "--initial", "99"], "initial = 99: must be from 0"),
        (["serve", "--caching", "psychic"], "must be one of none"),
        (["serve", "--out", "queries.xyz"], "must end in .csv or .parquet"),
        (["serve", "--supernet", "resnet51"], "resnet50"),
        (["table", "--buffer", "2 parsecs"], "buffer"),
        (["table", "--kinds", "cuts+magic"], "kinds"),
        (["table", "--accelerator", "zcu105"], "did you mean zcu104"),
        (["table", "--figure", "a.doc"], "must end in .html"),
        (["table", "--out", "/nowhere/at/all.csv"], "folder that exists"),
        (["search", "--vary", "buffer"], "NAME=VALUE"),
        (["search", "--vary", "size=3"], "vary.size"),
        (["search", "--vary", "window=a"], "vary.window"),
        (["search", "--vary", "kernels=16, 1.5"], "vary.kernels = 1.5: must be a whole number"),
        (["search", "--vary", "kernels=1e300"], "kernels"),
        (["search", "--stream", "bursty"], "must be one of random, markov, edge"),
        (["search", "--stream", "edge", "--stay", ".5"], "is of no use with the stream edge"),
        (["search", "--budget", "speed <= 3"], "must be NAME"),
        (["search", "--budget", "area <= -1 mm^2"], "budget.area = -1 mm^2: must be above 0"),
        (["search", "--budget", "energy <= 0 J"], "budget.energy = 0 J: must be above 0"),
        (["search", "--budget", "accuracy >= 200 %"], "budget.accuracy = 200 %: must be above 0 and at most 100 %"),
        (["search", "--budget", "area <= 4 mm^2", "--budget", "area <= 5 mm^2"], "is given twice"),
        (["search", "--vary", "buffer=1 MiB", "--vary", "buffer=2 MiB"], "vary.buffer = '2 MiB': is given twice"),
        (["search", "--figure", "/nowhere/at/all.svg"], "figure = /nowhere/at/all.svg: must be a file in a folder"),
        (["search", "--out", __file__], "must be a folder"),
        (["serve", "--figure", "/nowhere/at/all.svg"], "folder that exists"),
        (["serve", "--out", "/nowhere/at/all.csv"], "folder that exists"),
        (["serve", "--discipline", "edf"], "discipline = edf: is for an open loop; in a closed one"),
        (["serve", "--slack", "--candidates", "1", "--queries", "9"], "slack = True: is for the policy strict-latency"),
        (["serve", "--table", "x.csv", "--stream", "y.csv", "--seed", "3"], "seed = 3: is of no use with the table"),
        (["table", "--out", "table.parquet"], "must end in .csv"),
    ],
)  # fmt: skip
def test_bad_input_says_what_would_be_right(arguments, said):
    error = run(*arguments).exception
    assert isinstance(error, SpecError) and said in str(error), error


def test_the_examples_of_the_help_are_read(tmp_path):
    parts = (SUBNETS + QUERIES).replace("\b\n", "").strip().split("\n\n")
    for name, part in zip(("nets.yaml", "nets.csv", "queries.csv"), parts, strict=True):
        (tmp_path / name).write_text(dedent(part.partition("\n")[2].partition("A column")[0]))
    chosen, listed = (load_subnets(tmp_path / f"nets.{kind}") for kind in ("yaml", "csv"))
    for nets in (chosen, listed):
        assert [(net.name, net.accuracy) for net in nets] == [("small", 0.761), ("large", 0.793)]
        assert nets[0].layers.weights.sum() < nets[1].layers.weights.sum()
    told = answer("serve", *FAST, "--supernet", str(tmp_path / "nets.csv"), "--stream", str(tmp_path / "queries.csv"))
    assert told["queries"] == 2 and told["accuracy_missed"] == 0
    for command in ("table", "serve", "search"):
        assert "large,1,64,64,3,80,1," in run(command, "--help").stdout.replace("  ", "")


# -- figures ------------------------------------------------------------------------------------------------------


@cache
def table():
    return priced(machine("sushi-roofline", buffer=3.375 * MIB), resnet50(), count=12)


@cache
def served(policy: str = "strict-accuracy", caching: str = "average"):
    return serve(table(), stream(table(), "markov", 300), policy=policy, caching=caching)


@cache
def layer_rows(accelerator: str = "zcu104-calibrated"):
    """The first SubNet with 2 MiB of what all share."""
    nets = stack(resnet50())
    hits = shared(resnet50()[0], truncated(core(nets), 2 * MIB)).weights
    return explain(load_subgraph_accelerator(accelerator), resnet50()[0].layers, hits)


@cache
def trade():
    rows = []
    for name in ("none", "static", "oracle"):
        for level in (0.75, 0.78, 0.798):
            asked = stream(table(), "markov", 100)
            done = serve(table(), type(asked)(asked.arrival, np.full(100, level), asked.latency), caching=name)
            rows.append({"caching": name, "latency": done.response.mean(), "accuracy": done.accuracy.mean(),
                         "level": f"at least {level:.1%}"})  # fmt: skip
    return pd.DataFrame(rows)


@cache
def unknown():
    return unknowns.latency_savings(resnet50(), throughputs=(1e11, 1e12), bandwidths=(3e9, 2e10),
                                    buffers=(MIB, 4 * MIB, 8 * MIB), overlaps=("activations",), count=4)  # fmt: skip


@cache
def even():
    slow = machine("sushi-roofline", overlap="all", bandwidth=4.8e9)
    return break_even(resnet50(), slow, buffers=(4 * MIB, 12 * MIB),
                      stays=(0.0, 0.9, 0.999), caching=("average",), queries=600, count=8)  # fmt: skip


@cache
def tried():
    return search(problem(resnet50(), queries=60, budgets={"area": 6e-6}), vary={"count": [4]}, trials=12).frame


DRAW = {
    "latency_table": lambda d: views.latency_table(table(), dark=d),
    "timeline": lambda d: views.timeline(served(), dark=d),
    "timeline-latency": lambda d: views.timeline(served("strict-latency", "lru"), first=50, count=60, dark=d),
    "latencies": lambda d: views.latencies(
        {k: served(caching=k).response for k in ("none", "average", "oracle")}, dark=d
    ),
    "trade_off": lambda d: views.trade_off(trade(), dark=d),
    "layers": lambda d: views.layers(layer_rows(), dark=d),
    "unknowns": lambda d: maps.unknowns(unknown(), "latency_saving", level=0.25, dark=d),
    "break_even": lambda d: maps.break_even(even(), dark=d),
    "search_front": lambda d: maps.search_front(tried(), dark=d),
    "search_front-area": lambda d: maps.search_front(tried(), "area", "accuracy", dark=d),
}


def words(node) -> list[str]:
    """All words of a figure but the encoded arrays and the template."""
    if isinstance(node, str):
        return [node]
    if isinstance(node, list):
        return [text for item in node for text in words(item)]
    if isinstance(node, dict) and "bdata" not in node:
        return [text for key, item in node.items() if key != "template" for text in words(item)]
    return []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", DRAW)
def test_figures_are_valid_and_say_nothing_that_is_no_number(name, dark):
    figure = DRAW[name](dark)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        go.Figure(figure.to_dict())
    assert figure.layout.template.layout.paper_bgcolor == theme.paper(dark) and figure.layout.title.text
    for trace in figure.data:
        if "customdata" in (trace.hovertemplate or ""):
            rows = trace.z if trace.type == "heatmap" else trace.x
            assert len(trace.customdata) == len(rows)
        for axis in ("x", "y"):
            drawn = np.asarray(getattr(trace, axis), dtype=object)
            assert all(np.isfinite(v) for v in drawn.ravel() if not isinstance(v, str))
    for text in words(json.loads(figure.to_json())):
        assert not {"nan", "inf", "None"} & set(text.replace("<br>", " ").split())


def test_the_timeline_shows_what_was_served():
    done = served("strict-latency", "lru")
    figure = views.timeline(done, first=10, count=50)
    marks = next(trace for trace in figure.data if trace.mode == "markers")
    np.testing.assert_array_equal(marks.y, done.subnet[10:60])
    np.testing.assert_allclose(marks.marker.color, 100 * done.hit[10:60])
    assert 0 <= marks.marker.cmax - 100 * done.hit[10:60].max() < 5
    assert figure.layout.title.subtitle.text.startswith("50 of 300 queries: 10 to 59")
    assert [s == "x" for s in marks.marker.symbol] == done.deadline_missed[10:60].tolist()
    bands = [trace for trace in figure.data if trace.type == "bar"]
    assert sum(float(np.sum(trace.x)) for trace in bands) == 50
    with pytest.raises(SpecError, match="must be 0 to 299"):
        views.timeline(done, first=300)


@pytest.mark.parametrize("accelerator", ["zcu104-calibrated", "zcu104", "alveo-u50-like"])
def test_layers_add_up_to_the_time_of_the_subnet_with_nothing_cached(accelerator):
    figure = views.layers(layer_rows(accelerator))
    parts = {trace.name: np.asarray(trace.y, float) for trace in figure.data}
    assert min(part.min() for part in parts.values()) >= 0
    bare = explain(load_subgraph_accelerator(accelerator), resnet50()[0].layers)["total"].to_numpy()
    ratio = sum(parts.values()) / bare
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)
    assert np.log10(ratio[0]) == pytest.approx(round(np.log10(ratio[0])))


def test_the_map_has_a_line_where_the_level_is_reached():
    figure = maps.unknowns(unknown(), "latency_saving", level=0.25)
    heat = [trace for trace in figure.data if trace.type == "heatmap"]
    lines = [trace for trace in figure.data if trace.type == "contour"]
    assert len(heat) == 2 and len(lines) == sum((np.min(h.z) < 25) & (np.max(h.z) > 25) for h in heat) > 0
    assert np.max([np.max(h.z) for h in heat]) == pytest.approx(100 * unknown().latency_saving.max())
    with pytest.raises(SpecError, match="must be one of"):
        maps.unknowns(unknown(), "speed")


def test_the_front_counts_designs():
    rows = tried()
    named = {trace.name.partition(" (")[0]: len(trace.x) for trace in maps.search_front(rows).data}
    assert named["on the front"] == rows["on_front"].sum() and sum(named.values()) == len(rows)
    assert named.get("over a budget", 0) == (~rows["feasible"]).sum()
    with pytest.raises(SpecError, match="must be one of"):
        maps.search_front(rows, "speed")
