"""``dse search`` as a user meets it, and the figures of a search."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import dse
from dse.cli import app
from dse.errors import InfeasibleDesign, SpecError
from dse.explore.search.cli import parse_coupling, parse_variable
from dse.explore.search.run import search
from dse.explore.search.variables import coupling, span
from dse.view import search as view

CAPACITY, INTER = "cluster.accelerator.memory.capacity", "cluster.network.inter.bandwidth"
OPTIONS = {"pp": [1, 2], "tp": [1, 2], "micro_batch": [1, 2], "zero_stage": [1], "virtual_stages": [1],
           "recompute": ["none"], "sequence_parallel": [False]}  # fmt: skip
GPT = {"model": "gpt-1.7b", "cluster": "dgx-a100", "global_batch": 64, "options": OPTIONS}
COMMAND = ["search", "--model", "gpt-1.7b", "--cluster", "dgx-a100", "--global-batch", "64", "--vary",
           "cluster.devices=8,16,32", "--vary", f"{CAPACITY}=20..80:3 GB"]  # fmt: skip
COMMAND += [part for name, values in OPTIONS.items()
            for part in ("--option", f"{name}={','.join(str(v).lower() for v in values)}")]  # fmt: skip
FRONT = ["--objective", "step_time", "--objective", "capital"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DSE_CACHE", str(tmp_path / "cache"))


def run(*arguments: str, code: int = 0) -> str:
    """Standard output of a command that ends with ``code``."""
    done = CliRunner().invoke(app, [*COMMAND, *arguments])
    if code != 2 and done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout


def refused(*arguments: str) -> str:
    """The message of the SpecError that a command ends with."""
    done = CliRunner().invoke(app, [*COMMAND, *arguments])
    assert isinstance(done.exception, SpecError), (done.exception, done.output)
    return str(done.exception)


# -- the command ------------------------------------------------------------------------------------------------


def test_the_table_names_method_counts_and_designs():
    """What was searched, how, and the best designs with hardware and strategy in full."""
    text = run(*FRONT)
    assert "9 hardware designs, 72 with their strategies (every one looked at)" in text
    assert "the best by step_time and capital" in text
    for part in ("devices=8", "accelerator.memory.capacity=40 GB", "pp=1", "tp=1", "micro_batch=", "$"):
        assert part in text


def test_json_is_the_python_result():
    found = search(**GPT, hardware=[dse.axis("cluster.devices", [8, 16, 32]), span(CAPACITY, "20 GB", "80 GB", steps=3)],
                   objective=["step_time", "capital"], budget="peak_power <= 40 kW")  # fmt: skip
    data = json.loads(run(*FRONT, "--budget", "peak_power <= 40 kW", "--json"))
    assert {key: data[key] for key in found.summary()} == json.loads(json.dumps(found.summary()))
    assert data["provenance"]["search"] == found.provenance["search"]
    assert len(data["front"]) == len(found.front)
    assert data["front"][0]["step_time [s]"] == pytest.approx(found.front["step_time [s]"].iloc[0], rel=1e-14)


def test_a_sampler_shows_its_name_and_trials():
    text = run("--method", "tpe", "--trials", "4", "--seed", "3")
    assert "hardware chosen by tpe" in text and "4 trials" in text


def test_a_dry_run_counts_without_searching(monkeypatch):
    from dse.explore.search import run as module

    monkeypatch.setattr(module, "run", None)
    data = json.loads(run("--dry-run", "--json"))
    assert data["method"] == "exhaustive"
    assert (data["hardware designs"], data["strategies on each"], data["designs"]) == ("9 of 9", "8", "72")
    assert re.fullmatch(r"\d+\.\d s of pricing.*", data["estimated time"]) and data["estimated disk"].endswith("MB")
    wide = run("--dry-run", "--vary", f"{INTER}=5..100 GB/s", "--method", "nsga2", "--trials", "40")
    assert "hardware designs       40\n" in wide and "designs                320\n" in wide
    few = json.loads(run("--dry-run", "--json", "--method", "tpe"))
    assert few["hardware designs"] == "9 of 9"
    assert "continuous spans" in refused("--dry-run", "--vary", f"{INTER}=5..100 GB/s", "--method", "exhaustive")


def test_a_folder_keeps_the_search_and_takes_it_up(tmp_path):
    out = tmp_path / "kept"
    first = run("--method", "nsga2", "--trials", "4", "--out", str(out), "--no-cache")
    assert f"kept in {out}" in first
    assert {"designs.parquet", "front.csv", "summary.json", "problem.json"} <= {p.name for p in out.iterdir()}
    assert len(pd.read_parquet(out / "designs.parquet")["design"].unique()) == 4
    run("--method", "nsga2", "--trials", "9", "--out", str(out), "--no-cache")
    table = pd.read_parquet(out / "designs.parquet")
    assert len(table["design"].unique()) == 9
    whole = json.loads(run("--json"))
    kept = json.loads((out / "summary.json").read_text())
    drop = {"design", "trial"}
    assert [{k: v for k, v in row.items() if k not in drop} for row in kept["front"]] == [
        {k: v for k, v in row.items() if k not in drop} for row in whole["front"]
    ]


@pytest.mark.parametrize("ending", ["html", "svg"])
def test_a_figure_is_written(ending, tmp_path):
    if ending == "svg":
        pytest.importorskip("kaleido")
    path = tmp_path / f"front.{ending}"
    try:
        run(*FRONT, "--figure", str(path))
    except Exception as error:
        if ending == "svg" and "hrome" in str(error):
            pytest.skip("no browser to draw with")
        raise
    assert path.stat().st_size > 5000
    assert ("plotly" if ending == "html" else "<svg") in path.read_text(encoding="utf-8")[:5_000_000]


def test_nothing_feasible_ends_with_code_1_and_says_why(tmp_path):
    text = run("--budget", "capital <= 1 kUSD", "--out", str(tmp_path / "kept"), code=1)
    assert "none of the 9 hardware designs is feasible: 9 break capital <= 1 kUSD" in text
    assert "the nearest: devices=8" in text and "capital = $" in text
    assert json.loads((tmp_path / "kept" / "summary.json").read_text())["front"] == []
    assert json.loads(run("--budget", "capital <= 1 kUSD", "--json", code=1))["feasible_hardware"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--objective", "step_tim"], "did you mean step_time"),
        (["--objective", "min breakdown"], "breakdown: is not one number"),
        (["--objective", "min time.bubbel"], "its entries are .*bubble"),
        (["--objective", "step_time@30%"], "between 50 % and 99 %"),
        (["--budget", "capital <= 5"], "capital = '5': '5' needs a unit"),
        (["--budget", "cheap"], "condition = 'cheap': must be"),
        (["--vary", "cluster.memory.bandwith=1,2 TB/s"], "bandwidth"),
        (["--vary", "cluster.memory.bandwidth=1..x TB/s"], "bandwidth"),
        (["--vary", "cluster.memory.bandwidth=2..1 TB/s"], "low must be below high"),
        (["--vary", "cluster.memory.bandwidth=1..2"], "needs a unit"),
        (["--vary", "cluster.memory.bandwidth"], "must be"),
        (["--vary", "..=3"], "must"),
        (["--vary", "tp=1,2"], "go into 'options'"),
        (["--vary", "cluster.memory.bandwidth=1..2:1 TB/s"], "from 2 to 10,000"),
        (["--couple", "cluster.accelerator.price"], "TARGET ~ SOURCE at RATE"),
        (["--couple", f"cluster.accelerator.price ~ {INTER} at 3 W/s"], "dimension"),
        (["--option", "speed=3"], "options.speed|must start with"),
        (["--option", "tp=0"], "tp"),
        (["--base", "tp=4"], "named|once"),
        (["--method", "simplex"], "must be one of auto"),
        (["--figure", "front.gif"], "must end in"),
        (["--devices", "8"], "name it once"),
    ],
)
def test_bad_input_is_refused_with_the_field_and_the_rule(arguments, message):
    assert re.search(message, refused(*arguments))


def test_exit_codes_and_messages_of_the_program():
    """In a process of its own: no traceback, the message on the error stream, the code that is documented."""
    for more, code, message in (
        (["--objective", "step_tim"], 2, "did you mean"),
        (["--budget", "racks <= 0"], 1, "racks"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "dse", *COMMAND, *more], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == code, done.stderr
        assert message in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_variables_and_couplings_are_read_as_in_python():
    assert parse_variable(f"{INTER}=25..400 GB/s") == span(INTER, "25 GB/s", "400 GB/s")
    assert parse_variable(f"{INTER}=lin:1.5..4:6 GB/s") == span(INTER, "1.5 GB/s", "4 GB/s", log=False, steps=6)
    assert parse_variable(f"{CAPACITY}=40 GB..160 GB:7") == span(CAPACITY, "40 GB", "160 GB", steps=7)
    assert parse_variable(f"{INTER}=lin:500 MB/s .. 2GB/s") == span(INTER, "500 MB/s", "2GB/s", log=False)
    assert parse_variable("cluster.facility.pue=1.1..1.5") == span("cluster.facility.pue", "1.1", "1.5")
    assert parse_variable("cluster.devices=8,16").values == ("8", "16")
    assert parse_coupling(f"cluster.accelerator.price ~ {CAPACITY} at 3 USD/GB") == coupling(
        "cluster.accelerator.price", CAPACITY, "3 USD/GB"
    )
    assert parse_coupling(f"cluster.accelerator.tdp~{CAPACITY}").rate == "proportional"


# -- figures ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several():
    """Two objectives, a noted quantity, some designs that do not fit and some that nothing is legal on."""
    return search(
        **GPT,
        hardware=[dse.axis("cluster.devices", [3, 8, 16, 32]), span(CAPACITY, "3 GB", "80 GB", steps=4)],
        objective=["step_time", "capital"], budget="peak_power <= 35 kW", cache=False,
    )  # fmt: skip


def _traces(figure):
    return {trace.name.partition(" (")[0]: trace for trace in figure.data}


def test_the_front_figure_shows_every_row_of_the_table(several):
    """Counts in the legend and points drawn match the table; values in the shown unit are those of the table."""
    table = several.table
    traces = _traces(view.front(several))
    bars = traces.pop("90 % interval")
    counts = {
        "on the front": int(table["on_front"].sum()),
        "dominated": int((table["feasible"] & ~table["on_front"]).sum()),
        "infeasible": int((~table["feasible"] & (table["reasons"] != "no strategy is legal on it")).sum()),
    }
    assert min(counts.values()) > 0
    assert {name: len(trace.x) for name, trace in traces.items()} == counts
    assert list(bars.x) == list(traces["on the front"].x)
    missed = int((~table["feasible"]).sum())
    assert missed > counts["infeasible"]
    assert traces["infeasible"].name == f"infeasible ({counts['infeasible']} of {missed})"
    assert traces["on the front"].name == f"on the front ({counts['on the front']})"
    front = several.front.sort_values("step_time [s]")
    ratio = np.asarray(traces["on the front"].x) / front["step_time [s]"].to_numpy()
    assert np.allclose(ratio, ratio[0])
    assert np.allclose(np.asarray(traces["on the front"].y), front["capital [USD]"])
    assert np.isfinite(np.concatenate([np.asarray(t.x, float) for t in traces.values()])).all()


def test_whiskers_are_the_intervals_of_the_designs(several):
    trace = _traces(view.front(several))["90 % interval"]
    rows = several.front.sort_values("step_time [s]").index
    for place, row in enumerate(rows):
        ends = several.design(int(row)).interval(0.9, "step_time")
        scale = float(several.table["step_time [s]"][row]) / trace.x[place]
        assert (trace.x[place] + trace.error_x.array[place]) * scale == pytest.approx(ends.high, rel=1e-4)
        assert (trace.x[place] - trace.error_x.arrayminus[place]) * scale == pytest.approx(ends.low, rel=1e-4)
    assert trace.error_y.array is None  # what is bought costs what it costs


def test_hovering_tells_the_whole_design(several):
    for name, trace in _traces(view.front(several)).items():
        if name == "90 % interval":
            continue
        for text in trace.customdata:
            for part in (
                "devices = ",
                "accelerator.memory.capacity = ",
                "peak_power = ",
                "pp=",
                "tp=",
                "micro_batch=",
                "zero_stage=1",
            ):
                assert part in text, (name, text)
            assert ("<i>" in text) == (name == "infeasible")
            assert "nan" not in text and "&lt;na" not in text


def test_columns_can_be_chosen_and_coloured(several):
    figure = view.front(
        several, x="peak_power", y="mfu" if "mfu" in several.table else "step_time", colour="tp", dark=True
    )
    assert figure.data[-1].marker.showscale
    assert view.front(several, x="dominated_by", y="step_time").data
    for bad in ({"x": "recompute"}, {"y": "stept_time"}, {"colour": "reasons"}):
        with pytest.raises(SpecError, match="must be one of"):
            view.front(several, **bad)


def test_parallel_lines_show_the_best_designs(several):
    trace = view.parallel(several).data[0]
    assert trace.dimensions[0].label.lower().startswith("devices")
    assert len(trace.dimensions) == 4
    assert {len(d["values"]) for d in trace.dimensions} == {int(several.table["feasible"].sum())}


@pytest.mark.parametrize(
    "arguments",
    [
        {"devices": 8},
        {"devices": 8, "hardware": [dse.axis("cluster.node.accelerator", ["a100-80gb-sxm", "h100-80gb-sxm"])]},
        {"devices": 8, "hardware": [dse.axis("cluster.node.accelerator", ["a100-80gb-sxm", "h100-80gb-sxm"])],
         "objective": ["P(step_time <= 1.5 s)", "step_time@90%", "memory_headroom"]},
        {"devices": 8, "hardware": [dse.axis("cluster.network.inter.in_network_reduction", [False])], "budget": "racks <= 0"},
        {"devices": 3, "options": {**OPTIONS, "tp": [2]}},
    ],
)  # fmt: skip
def test_any_search_can_be_drawn(arguments):
    """Without hardware, with names for hardware, with risks, with nothing feasible, with nothing legal."""
    found = search(**{**GPT, **arguments}, cache=False)
    figure = found.figure()
    assert figure.layout.xaxis.title.text and figure.to_json()
    if len(found.front_rows):
        assert view.parallel(found).to_json()
    else:
        with pytest.raises(InfeasibleDesign, match="none of the 1 hardware designs"):
            view.parallel(found)
    assert found._repr_html_()


def test_many_infeasible_designs_are_sampled(monkeypatch):
    monkeypatch.setattr(view, "INFEASIBLE_SHOWN", 5)
    found = search(**GPT, devices=8, hardware=[span(CAPACITY, "2 GB", "6 GB", steps=20)], cache=False)
    trace = _traces(found.figure())["infeasible"]
    assert len(trace.x) == 5 and trace.name == f"infeasible (5 of {int((~found.table['feasible']).sum())})"
