"""Streamed sweeps: queries, exports, reports and the commands."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import typer
from stream_cases import AXES, CLUSTER, MODEL, STRATEGY, make_table, small
from typer.testing import CliRunner

import dse
from dse.errors import InfeasibleDesign, SpecError, StudyError
from dse.explore.evaluate import RULES
from dse.explore.stream import cli, plan_of, stream
from dse.explore.stream.plan import read_plan
from dse.explore.stream.run import carry_out

# -- queries and exports --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return make_table(tmp_path_factory)


def test_queries_give_what_pandas_gives(table):
    """SQL over the parts; columns of the table get their units back."""
    frame = table.to_dataframe()
    found = table.query("select tp, min(step_time) as least from designs where feasible group by tp order by tp")
    wanted = frame[frame["feasible"]].groupby(frame["tp [1]"].astype(int))["step_time [s]"].min()
    assert list(found["least"]) == list(wanted) and list(found["tp [1]"]) == list(wanted.index)
    with pytest.raises(SpecError, match="stp_time"):
        table.query("select stp_time from designs")


def test_infeasible_designs_are_counted_by_rule(table):
    """Each rule's count is that of its negative margins."""
    result = dse.sweep(MODEL, CLUSTER, STRATEGY, *AXES, devices=512)
    ones = result["step_time"] * 0 + 1
    wanted = {rule: int(((result[rule] < 0) * ones).sum()) for rule in RULES}
    assert table.infeasible() == {rule: n for rule, n in wanted.items() if n}
    assert table.feasible_rows() == int((result["feasible"] * ones).sum())


def test_best_breaks_ties_by_the_order_of_the_axes(tmp_path):
    """Designs that differ in nothing that counts come in the table's order."""
    axes = (dse.axis("cluster.network.inter.energy", [3e-10, 1e-10, 2e-10]), dse.axis("virtual_stages", [2, 1]))
    found = stream(MODEL, CLUSTER, "tp=8,pp=8,global_batch=512,zero_stage=1", *axes, devices=512, out=tmp_path,
                   part_rows=2)  # fmt: skip
    ranked = found.best("step_time", 6)
    assert list(ranked[found.headers["cluster.network.inter.energy"]]) == [3e-10, 1e-10, 2e-10] * 2
    assert ranked["step_time [s]"].is_monotonic_increasing
    assert found.best("mfu", 2)["mfu [1]"].is_monotonic_decreasing


def test_no_feasible_design_says_why(tmp_path):
    """The error counts the rules that fail."""
    found = stream(MODEL, CLUSTER, "global_batch=512", dse.axis("tp", [1, 2]), devices=8, out=tmp_path)
    with pytest.raises(InfeasibleDesign, match=r"memory_fits \(2\)"):
        found.best()
    assert "No design is feasible" in found.report()


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".xlsx", ".md", ".tex", ".html"])
def test_exports_hold_the_rows_of_the_query(table, tmp_path, ending):
    """Every format, with a condition, an order and a limit, and a manifest with the file's digest."""
    path = table.export(tmp_path / f"t{ending}", where="feasible", order_by="step_time desc", limit=5,
                        columns=["tp", "step_time"])  # fmt: skip
    manifest = json.loads((tmp_path / f"t{ending}.manifest.json").read_text())
    assert manifest["rows"] == 5 and manifest["table_sha256"] == table.manifest["sha256"]
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".xlsx": pd.read_excel}
    if ending in readers:
        frame = readers[ending](path)
        wanted = table.to_dataframe().query("feasible").nlargest(5, "step_time [s]")
        assert list(frame) == ["tp [1]", "step_time [s]"]
        np.testing.assert_allclose(frame["step_time [s]"], wanted["step_time [s]"])
    else:
        assert "step" in path.read_text()


def test_whole_exports_keep_the_order_and_every_bit(table, tmp_path):
    """Without a query the rows are those of the table, number for number."""
    wanted = table.to_dataframe()
    for ending, read in ((".csv", pd.read_csv), (".parquet", pd.read_parquet)):
        frame = read(
            table.export(tmp_path / f"all{ending}"), **({"keep_default_na": False} if ending == ".csv" else {})
        )
        assert list(frame) == list(wanted)
        for name in wanted:
            assert [str(v) for v in frame[name]] == [str(v) for v in wanted[name]]


def test_the_report_needs_nothing_else_and_escapes(table):
    """One page: best designs, rules, inputs, provenance and figures; titles are text, not markup."""
    page = table.report("<script>alert(1)</script>")
    assert "<script>alert(1)" not in page
    for wanted in ("Best by step time", "memory_fits", "cluster.network.inter.bandwidth", table.manifest["sha256"]):
        assert wanted in page
    assert 'src="http' not in page and "<link" not in page
    assert page.count("plotly-graph-div") >= 2


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [
        ("t.doc", {}, "must end in"),
        ("t.csv", {"columns": ["speed"]}, "speed"),
        ("t.csv", {"where": "speed > 1"}, "speed"),
        ("t.md", {"order_by": "speed"}, r"order_by = speed: speed is not a column of the table; they are .*step_time"),
        ("t.csv", {"where": "tp > 1; drop view designs"}, "one SQL expression"),
        ("t.csv", {"where": "tp > 1 -- and"}, "one SQL expression"),
        ("t.csv", {"where": "tp > 1) or (tp < 2"}, "where"),
        ("t.csv", {"where": "tp >"}, "where = tp >: syntax error"),
    ],
)
def test_wrong_exports_are_refused(table, tmp_path, name, options, wanted):
    """Unknown endings, columns and conditions leave no file."""
    with pytest.raises(SpecError, match=wanted):
        table.export(tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_semicolons_in_text_are_text(table, tmp_path):
    """The rules of a design are separated by semicolons: a condition may name them."""
    path = table.export(tmp_path / "t.csv", where="reasons like '%; %' and tp >= 1 or false", columns=["reasons"])
    frame = table.to_dataframe()
    assert len(pd.read_csv(path)) == frame["reasons"].str.contains("; ").sum() > 0


@pytest.mark.parametrize(
    "call", [lambda t, to: t.query("select min(step_time) from designs"), lambda t, to: t.export(to)]
)
def test_a_torn_part_is_named_with_the_way_out(tmp_path, call):
    """A query or an export that meets a torn part says which, and how to get it back."""
    found = small(tmp_path / "out")
    path = Path(found.files[3])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StudyError, match=rf"{path.name} is torn or damaged: 'dse resume .*' computes it again"):
        call(found, tmp_path / "x.csv")
    assert not (tmp_path / "x.csv").exists()


def test_queries_in_a_notebook_without_widgets(table, monkeypatch):
    """DuckDB refuses to set its progress bar in a kernel where ipywidgets is missing: queries do without."""
    import __main__

    shell = SimpleNamespace(config={"IPKernelApp": {}}, kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.delattr(__main__, "__file__", raising=False)
    assert table.query("select count(*) as n from designs")["n"].item() == table.rows


def test_the_report_has_one_table_of_the_best(table):
    """Figures come first, then the best by the first objective, and a line for each of the others; cells have units."""
    page = table.report()
    assert page.index("plotly-graph-div") < page.index("Best by step time") < page.index("Best by others")
    assert page.count("<h2>Best by") == 2
    assert " GB</td>" in page and "/s</td>" in page and "%</td>" in page


def test_data_parallelism_is_a_column(tmp_path):
    """``dp`` is the quotient of the devices by the other degrees, unless it is an axis."""
    frame = small(tmp_path / "a").to_dataframe()
    assert list(frame["dp [1]"]) == list(512 / (frame["tp [1]"].astype(int) * frame["pp [1]"].astype(int)))
    plan = plan_of(MODEL, CLUSTER, STRATEGY, dse.axis("dp", [8, 16]))
    assert "dp" not in [c.name for c in plan.columns]


def test_damage_is_found(tmp_path):
    """``verify`` reads every byte."""
    found = small(tmp_path)
    found.verify()
    path = Path(found.files[2])
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(StudyError, match="damaged"):
        found.verify()


# -- the command line -----------------------------------------------------------------------------------------


@pytest.fixture
def dse_cli():
    """The commands on an application of their own."""
    app = typer.Typer()
    cli.attach(app)
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)))


COMMON = ("sweep", "--model", MODEL, "--cluster", CLUSTER, "--devices", "512", "--strategy", STRATEGY)


def test_commands_stream_resume_and_export(dse_cli, tmp_path):
    """A folder is streamed to, resumed and exported; a file and the screen work as ever."""
    axes = ("--axis", "tp=4,8", "--axis", "pp=4,8", "--axis", "cluster.network.inter.bandwidth=10:50:3 GB/s")
    out = tmp_path / "folder"
    done = dse_cli(*COMMON, *axes, "--out", out, "--columns", "step_time,mfu", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["rows"] == 12 and "best" in found and found["sha256"]
    next(out.glob("part-*")).unlink()
    assert json.loads(dse_cli("resume", out, "--json").stdout)["sha256"] == found["sha256"]
    done = dse_cli("export", out, tmp_path / "x.csv", "--where", "feasible", "--order-by", "mfu desc", "--limit", 2,
                   "--columns", "tp,mfu", "--json")  # fmt: skip
    assert json.loads(done.stdout)["rows"] == 2, done.output
    printed = dse_cli(*COMMON, *axes).stdout
    assert "step_time" in printed and len(printed.splitlines()) == 13
    assert dse_cli(*COMMON, *axes, "--out", tmp_path / "y.csv").exit_code == 0
    assert len(pd.read_csv(tmp_path / "y.csv")) == 12
    assert "12 designs" in dse_cli(*COMMON, *axes, "--out", out, "--columns", "step_time,mfu").stdout


def test_the_best_design_is_printed_with_units(dse_cli, tmp_path):
    """What a sweep prints at its end: the design with its data parallelism, and the numbers with their units."""
    axes = ("--axis", "tp=4,8", "--axis", "pp=8", "--axis", "cluster.network.inter.bandwidth=10:50:3GB/s")
    text = dse_cli(*COMMON, *axes, "--out", tmp_path / "out").stdout
    assert "best by step_time: tp = 4, pp = 8, cluster.network.inter.bandwidth = 50 GB/s, dp = 16\n" in text
    numbers = text.splitlines()[-1]
    assert "[" not in numbers and " GB, " in numbers and "%" in numbers and "reasons" not in numbers


@pytest.mark.parametrize("command", ["sweep", "resume"])
def test_interrupted_sweeps_say_how_to_go_on(dse_cli, tmp_path, monkeypatch, command):
    """Ctrl-C ends with exit code 130 and the command that goes on; what was done is kept."""
    from dse.explore.stream import run

    out, original, calls = tmp_path / "out", run.part_bytes, []
    small(out)
    next(out.glob("part-000003-*")).unlink()

    def interrupted(plan, number, after):
        calls.append(number)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "part_bytes", interrupted)
    if command == "sweep":
        out = tmp_path / "other"
        done = dse_cli(*COMMON, "--axis", "tp=4,8", "--out", out)
    else:
        done = dse_cli("resume", out)
    assert done.exit_code == 130 and calls
    assert f"interrupted: what is done is kept; 'dse resume {out}' goes on" in done.stderr
    monkeypatch.setattr(run, "part_bytes", original)
    assert dse_cli("resume", out).exit_code == 0


def test_dry_run_counts_and_writes_nothing(dse_cli, tmp_path):
    """The forecast knows the designs exactly and the bytes about; no folder appears."""
    command = ("sweep", "--model", MODEL, "--cluster", CLUSTER, "--devices", "512", "--global-batch", "512",
               "--all-strategies", "--out", tmp_path / "out")  # fmt: skip
    found = json.loads(dse_cli(*command, "--dry-run", "--json").stdout)
    assert not (tmp_path / "out").exists()
    done = json.loads(dse_cli(*command, "--json").stdout)
    assert done["rows"] == found["rows"] == math.prod(found["axes"].values())
    assert done["bytes"] == pytest.approx(found["bytes"], rel=0.5)
    assert "designs" in dse_cli(*command, "--dry-run").stdout


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((*COMMON, "--axis", "tp=1,2", "--workers", "2"), "folder"),
        ((*COMMON, "--axis", "zero_stage=1,2"), "strategy gives zero_stage=1 too; name it once"),
        (
            (*COMMON, "--axis", "tp=1,2", "--out", "DIR", "--workers", "2", "--scheduler", "tcp://127.0.0.1:9"),
            "exclude",
        ),
        ((*COMMON,), "--all-strategies"),
        ((*COMMON, "--axis", "tp=1,2", "--out", "DIR", "--columns", "speed"), "speed"),
        ((*COMMON, "--axis", "tp=1,2", "--out", "DIR", "--scheduler", "tcp://127.0.0.1:9"), "no Dask scheduler"),
        ((*COMMON, "--axis", "cluster.network.inter.bandwidth=1:2:6000000 GB/s"), "count from 2"),
        (("resume", "DIR"), "no sweep"),
        (("export", "DIR", "x.csv"), "no sweep is there"),
    ],
)
def test_commands_refuse_plainly(dse_cli, tmp_path, arguments, wanted):
    """Errors are those that the command line prints with exit code 2."""
    done = dse_cli(*(str(tmp_path / "d") if a == "DIR" else a for a in arguments))
    assert isinstance(done.exception, SpecError | StudyError), done.output
    assert wanted in str(done.exception)


def test_every_option_of_a_run_is_an_option_of_resume(tmp_path):
    """A sweep of the same plan in another folder by the low-level call is the same sweep."""
    plan = plan_of(MODEL, CLUSTER, STRATEGY, *AXES, devices=512, part_rows=30)
    manifest = carry_out(plan, tmp_path, chunk=90, threads=2)
    assert manifest["sweep"] == plan.id == read_plan(plan.to_json()).id
