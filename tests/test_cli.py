"""The command line as a user meets it: output, JSON, errors and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dse.cli import parse_axis

STRATEGY = "tp=8,pp=8,dp=16,micro_batch=1,global_batch=1536,recompute=selective,sequence_parallel=true,zero_stage=1"


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``dse`` in a process of its own."""
    command = [sys.executable, "-m", "dse", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)


def test_no_arguments_shows_help_a_new_user_can_act_on():
    """Without arguments the help names the first commands to try."""
    done = run()
    assert "dse catalogue list" in done.stdout + done.stderr
    assert "reproduce" in done.stdout + done.stderr


def test_estimate_prints_every_promised_key():
    """The documented JSON keys are there and the breakdown adds up to the step time."""
    done = run("estimate", "--model", "gpt3-175b", "--cluster", "dgx-a100", "--devices", "1024", "--strategy", STRATEGY,
               "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for key in ("step_time_s", "tokens_per_s", "mfu", "hfu", "memory_bytes", "feasible", "reasons", "breakdown_s",
                "energy_j", "cost_usd"):  # fmt: skip
        assert key in found
    assert found["feasible"] is True
    assert sum(found["breakdown_s"].values()) == pytest.approx(found["step_time_s"], rel=1e-12)
    assert 0.2 < found["mfu"] <= found["hfu"] < 1


def test_text_estimate_run_and_explain():
    """The readable forms: a summary, the whole run, and the equations behind a number."""
    common = ("estimate", "--model", "gpt3-175b", "--cluster", "dgx-a100", "--devices", "1024", "--strategy", STRATEGY)
    text = run(*common, "--tokens", "300e9").stdout
    assert "step time" in text and "the whole run" in text and "days" in text
    assert "failures included" in text and "goodput" in text and "TCO" in text
    tree = run(*common, "--explain", "bubble").stdout
    assert "mean_stage_time" in tree and "Narayanan" in tree


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("estimate", "--model", "gpt4", "--cluster", "dgx-a100", "--strategy", "global_batch=8"), "gpt"),
        (("estimate", "--model", "gpt3-175b", "--cluster", "dgx-a100", "--strategy", "tp=8,glob_batch=8"), "global_batch"),
        (("estimate", "--model", "gpt3-175b", "--cluster", "dgx-a100", "--strategy", "tp=0,global_batch=8"), "greater"),
        (("estimate", "--model", "gpt3-175b", "--cluster", "dgx-a100", "--strategy", "tp=x,global_batch=8"), "whole"),
        (("estimate", "--model", "missing.yaml", "--cluster", "dgx-a100", "--strategy", "global_batch=8"), "not exist"),
        (("estimate", "--model", "gpt3-175b", "--cluster", "dgx-a100", "--devices", "-3", "--strategy", "global_batch=8"),
         "devices"),
        (("estimate", "--model", "gpt3-175b", "--cluster", "dgx-a100", "--strategy",
          "global_batch=8,offload_optimizer=tape"), "tape"),
        (("sweep", "--model", "gpt3-175b", "--cluster", "dgx-a100", "--strategy", "global_batch=8", "--axis", "tp"), "tp"),
        (("sweep", "--model", "gpt3-175b", "--cluster", "dgx-a100", "--strategy", "global_batch=8", "--axis",
          "cluster.network.intre.bandwidth=1,2 GB/s"), "intre"),
        (("sweep", "--model", "gpt3-175b", "--cluster", "dgx-a100", "--strategy", "global_batch=8", "--axis",
          "cluster.network.inter.bandwidth=1,2 GHz"), "dimension"),
        (("best", "--model", "gpt3-175b", "--cluster", "dgx-a100", "--devices", "8", "--global-batch", "8",
          "--objective", "speed"), "step_time"),
        (("catalogue", "show", "dgx-a10"), "dgx-a100"),
        (("catalogue", "list", "chips"), "accelerator"),
    ],
)  # fmt: skip
def test_bad_input_exits_2_with_a_clear_error(arguments, wanted):
    """Bad input ends with exit code 2, a message that helps, and no traceback."""
    done = run(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert wanted in done.stderr
    assert "Traceback" not in done.stderr


def test_best_reports_what_it_evaluated():
    """The best strategy comes with the same fields as an estimate and the number of designs evaluated."""
    done = run(
        "best", "--model", "llama3-8b", "--cluster", "dgx-h100", "--devices", "16", "--global-batch", "64", "--json"
    )
    found = json.loads(done.stdout)
    assert found["evaluated"] > 1000 and found["feasible"] is True
    assert found["step_time_s"] == pytest.approx(found["ranking"][0]["step_time"])


@pytest.mark.parametrize("objective", ["min power", "P(step_time <= 4 s)"])
def test_best_takes_any_objective(objective):
    """Every objective of a search is one of ``dse best``, and the ranking is by it."""
    done = run("best", "--model", "llama3-8b", "--cluster", "dgx-h100", "--devices", "16", "--global-batch", "64",
               "--objective", objective)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"the best 5 by {objective}" in done.stdout


@pytest.mark.parametrize(
    ("text", "values", "unit"),
    [
        ("cluster.memory.capacity=40,80,160GB", (40.0, 80.0, 160.0), "GB"),
        ("cluster.memory.capacity=40, 80, 160 GB", (40.0, 80.0, 160.0), "GB"),
        ("cluster.network.inter.bandwidth=25:100:4GB/s", (25.0, 50.0, 75.0, 100.0), "GB/s"),
        ("cluster.network.inter.bandwidth=1e10,2e10B/s", (1e10, 2e10), "B/s"),
        ("cluster.memory.capacity=40GB,80 GB", ("40GB", "80 GB"), ""),
        ("tp=1, 2, 4", ("1", "2", "4"), ""),
        ("recompute=none, full", ("none", "full"), ""),
        ("cluster=dgx-a100,dgx-h100", ("dgx-a100", "dgx-h100"), ""),
        ("overlap_efficiency=0.5,1e-1", ("0.5", "1e-1"), ""),
    ],
)
def test_axes_are_read_with_and_without_spaces(text, values, unit):
    """The unit behind the last number is that of all; names and numbers without a unit stay text."""
    found = parse_axis(text)
    assert (found.values, found.unit) == (values, unit)


def test_best_without_a_feasible_design_says_what_is_lacking():
    """One device cannot train GPT-3: exit code 1 and the gap in memory."""
    done = run("best", "--model", "gpt3-175b", "--cluster", "dgx-a100", "--devices", "1", "--global-batch", "8")
    assert done.returncode == 1
    assert "lacks" in done.stderr and "GB" in done.stderr


def test_own_files_start_from_the_catalogue(tmp_path):
    """``dse catalogue show`` gives a file that works where the id does, changed or not."""
    shown = run("catalogue", "show", "dgx-a100")
    mine = tmp_path / "mine.yaml"
    mine.write_text(shown.stdout.replace("25 GB/s", "50 GB/s"))
    common = ("--model", "gpt3-175b", "--devices", "1024", "--strategy", STRATEGY, "--json")
    before = json.loads(run("estimate", "--cluster", "dgx-a100", *common).stdout)
    after = json.loads(run("estimate", "--cluster", "mine.yaml", *common, cwd=tmp_path).stdout)
    assert after["step_time_s"] < before["step_time_s"]


def test_layers_from_csv(tmp_path):
    """A plain table of layers is a model."""
    (tmp_path / "net.csv").write_text("name,m,k,n,shard\nup,512,1024,4096,column\ndown,512,4096,1024,row\n")
    done = run("estimate", "--model", "net.csv", "--cluster", "dgx-a100", "--strategy", "tp=4,dp=2,global_batch=64",
               "--json", cwd=tmp_path)  # fmt: skip
    found = json.loads(done.stdout)
    assert found["feasible"] and found["breakdown_s"]["tp_comm_forward"] > 0


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".xlsx", ".tex", ".md"])
def test_sweep_exports_with_units_and_manifest(tmp_path, ending):
    """Every format is written with units in its headers and a manifest beside it."""
    target = tmp_path / f"table{ending}"
    done = run("sweep", "--model", "gpt3-175b", "--cluster", "dgx-a100", "--devices", "256", "--strategy",
               "global_batch=256,zero_stage=1", "--axis", "tp=4,8", "--axis", "pp=4,8,16", "--out", str(target))  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / f"table{ending}.manifest.json").read_text())
    assert manifest["rows"] == 6 and manifest["columns"]["step_time"] == "s"
    assert manifest["provenance"]["dse_version"]
    assert target.stat().st_size > 100


def test_installed_wheel_carries_data_and_studies(tmp_path):
    """A built wheel, installed elsewhere and run from an empty folder, finds its catalogue and studies."""
    root = Path(__file__).resolve().parent.parent
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(root)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    wheel = next((tmp_path / "dist").glob("*.whl"))
    target, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    script = ("import sys; sys.path.insert(0, sys.argv[1]); import dse; print(dse.__file__);"
              "from dse.study.study import studies; print(studies());"
              "print(dse.estimate('llama3-8b', 'dgx-h100', 'dp=8,global_batch=8,zero_stage=3')['step_time'].item())")  # fmt: skip
    done = subprocess.run([sys.executable, "-I", "-c", script, str(target)], cwd=empty, capture_output=True, text=True,
                          timeout=120, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(target) in done.stdout and "comet-transformer-1t" in done.stdout
