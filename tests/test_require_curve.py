"""Inverse design: two resources, what cannot be met, bad input, tables and the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from require_cases import CASE, INTER, INTRA, PLAN, SMALL, changed, half_width, timed
from typer.testing import CliRunner

import dse
from dse.errors import InfeasibleDesign, SpecError
from dse.explore.require import IsoCurve, require
from dse.explore.require import cli as require_cli
from dse.space.axes import locate, with_value

# -- two resources -----------------------------------------------------------------------------------------------

A, B, BOUND = 2e12, 3e13, 100.0


def iso(**more: Any) -> IsoCurve:
    """T = A / x + B / y: x = A / (T − B / y) along the curve."""
    own = timed(
        lambda cluster: A / cluster.network.dimensions[-1].bandwidth + B / cluster.network.dimensions[0].bandwidth
    )
    return require(f"step_time <= {BOUND} s", (INTER, INTRA), *CASE, replace=own, low=("1 GB/s", "10 GB/s"),
                   high=("10 TB/s", "100 TB/s"), tolerance=1e-6, **more)  # fmt: skip


def test_the_iso_curve_is_the_hyperbola() -> None:
    """The curve, its band and its slope equal the closed form; where y alone takes too long there is no x."""
    found = iso(points=65)
    y, h = found.across, math.exp(half_width())
    rest = BOUND - B / y
    open_ = (rest > 0) & (A / np.maximum(rest, 1e-9) < 1e13)
    assert np.array_equal(np.isfinite(found.found[0]), open_)
    exact = A / rest[open_]
    assert found.found[0][open_] == pytest.approx(exact, rel=3e-6)
    worse = A / np.maximum(BOUND / h - B / y, 1e-9)
    assert found.found[2][worse < 9e12] == pytest.approx(worse[worse < 9e12], rel=3e-6)
    inner = np.flatnonzero(open_)[3:-1]
    assert found.elasticity[inner] == pytest.approx(-(B / y / rest)[inner], rel=0.05)
    assert found.rate[inner] == pytest.approx((A * B / (y * rest) ** 2)[inner], rel=0.05)


def test_the_cheapest_pair_is_the_closed_form() -> None:
    """p·x + q·y is least at x = (A + √(A·B·q/p)) / T and y = (B + √(A·B·p/q)) / T."""
    p, q = 100e-9, 5e-9
    found = iso(points=33, prices={INTER: "100 USD/(GB/s)", INTRA: "5 USD/(GB/s)"})
    x, y = (A + math.sqrt(A * B * q / p)) / BOUND, (B + math.sqrt(A * B * p / q)) / BOUND
    assert found.cheapest["first"] == pytest.approx(x, rel=0.02)
    assert found.cheapest["second"] == pytest.approx(y, rel=0.02)
    assert found.cheapest["cost"] == pytest.approx(128 * (p * x + q * y), rel=1e-4)
    assert np.nanmin(found.cost) >= found.cheapest["cost"]


def test_devices_are_paid_for_each_and_bandwidth_on_each() -> None:
    """With a price per device the total is devices · (device + bandwidth)."""
    found = require("step_time <= 15 s", ("devices", INTER), *CASE, low=(16, "5 GB/s"), high=(1024, "200 GB/s"), points=9,
                    prices={"devices": "30000 USD", INTER: "100 USD/(GB/s)"})  # fmt: skip
    frame = found.to_dataframe()
    wanted = frame["cluster.devices"] * (30000 + 100e-9 * frame[f"{INTER} [B/s]"])
    assert frame["cost [USD]"].to_numpy() == pytest.approx(wanted.to_numpy(), nan_ok=True)
    each = [require("step_time <= 15 s", "devices", "llama3-70b", with_bandwidth(b), PLAN, low=16, high=1024).value
            for b in found.across[[2, 6]]]  # fmt: skip
    assert found.found[0][[2, 6]].tolist() == each


def with_bandwidth(value: float) -> Any:
    cluster = dse.load_cluster("dgx-h100")
    return with_value(cluster, locate(INTER, {"cluster": cluster}).steps, float(value))


# -- what cannot be met, and what is met already -----------------------------------------------------------------


def test_out_of_reach_says_what_comes_nearest_and_what_bounds_it() -> None:
    """The message holds the best value, where it lies, and the largest terms there."""
    with pytest.raises(InfeasibleDesign) as caught:
        require("mfu >= 0.95", INTER, *CASE)
    nearest = changed(CASE, INTER, 64 * dse.load_cluster("dgx-h100").network.dimensions[-1].bandwidth)
    assert f"mfu = {float(nearest['mfu']):.4g}" in str(caught.value)
    assert "forward" in str(caught.value) and "%" in str(caught.value)
    with pytest.raises(InfeasibleDesign, match="memory"):
        require("mfu >= 0.1", INTER, "gpt3-175b", "dgx-a100", "tp=1,pp=1,dp=8,global_batch=8")
    with pytest.raises(InfeasibleDesign, match="none of the"):
        require("mfu >= 0.1", INTER, "gpt3-175b", "dgx-a100", devices=8, global_batch=8, options=SMALL)
    with pytest.raises(InfeasibleDesign, match="is not met by any"):
        require("mfu >= 0.95", (INTER, INTRA), *CASE, points=9)


def test_already_met_says_by_how_much_and_how_far_it_may_fall() -> None:
    """The ratio of what there is to what is needed."""
    found = require("mfu >= 0.2", INTER, *CASE)
    score = float(dse.estimate(*CASE)["mfu"]) / 0.2 - 1
    assert found.already_met and found.current_score == pytest.approx(score)
    assert f"may fall by a factor of {found.field.current / found.value:.4g}" in repr(found)
    missed = require("mfu >= 0.47", "cluster.node.memory.bandwidth", *CASE, low="100 GB/s", high="1e15 B/s")
    assert missed.already_met or "misses by" in repr(missed)


# -- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({"target": "mfu"}, "condition"),
        ({"target": []}, "needs a condition"),
        ({"target": "mfu >= 3 GB"}, "dimension"),
        ({"target": "mfo >= 0.5"}, "mfu"),
        ({"vary": "cluster.network.inter.bandwith"}, "bandwidth"),
        ({"vary": "cluster.accelerator.name"}, "not a number"),
        ({"vary": "strategy.recompute"}, "not a number"),
        ({"vary": "cluster"}, "not a number"),
        ({"vary": "model.bottom_mlp", "model": "dlrm-1.2t"}, "not a number"),
        ({"vary": ("tp", "pp", "dp")}, "one field or two"),
        ({"vary": (INTER, INTER)}, "names one field twice"),
        ({"low": "3 GB"}, "dimension"),
        ({"low": "30"}, "needs a unit"),
        ({"low": "2 TB/s", "high": "1 TB/s"}, "below high"),
        ({"high": "1e30 B/s"}, "less than or equal"),
        ({"vary": "cluster.network.inter.contention"}, "must be given"),
        ({"vary": "cluster.network.inter.size"}, "is open now"),
        ({"low": ("1 GB/s", "2 GB/s")}, "must have 1 values"),
        ({"level": 0.99}, "between 0.5 and 0.95"),
        ({"probability": 0.2}, "between 0.5 and 0.99"),
        ({"direction": "up"}, "least or most"),
        ({"points": 1}, "from 3"),
        ({"tolerance": 0}, "between"),
        ({"global_batch": 8}, "name it in the strategy"),
        ({"strategy": "best"}, "global_batch"),
        ({"strategy": "best", "global_batch": 256}, "devices"),
        ({"prices": {INTER: "1 USD/(GB/s)"}}, "two fields"),
        ({"vary": (INTER, INTRA), "prices": {INTER: "1 USD"}}, "USD"),
        ({"vary": (INTER, INTRA), "prices": {INTER: "1 USD/(GB/s)"}}, "required too"),
        ({"vary": (INTER, INTRA), "prices": {"tp": "1 USD"}}, "does not vary"),
        ({"vary": (INTER, INTRA), "prices": {INTER: "-1 USD/(GB/s)", INTRA: "1 USD/(GB/s)"}}, "negative"),
        ({"vary": (INTER, "cluster.network.inter.latency"), "low": (None, 0), "high": (None, "1 ms")}, "above 0"),
        ({"vary": "global_batch", "low": 1, "high": 10**9}, "whole numbers"),
    ],
)  # fmt: skip
def test_bad_input_names_the_field_and_the_rule(arguments: dict[str, Any], wanted: str) -> None:
    """Each fault is told in one sentence."""
    given_ = {
        "target": "mfu >= 0.3",
        "vary": INTER,
        "model": CASE[0],
        "cluster": CASE[1],
        "strategy": PLAN,
        **arguments,
    }
    with pytest.raises(SpecError, match=wanted):
        require(**given_)


# -- tables, figures, the command line ---------------------------------------------------------------------------


def test_tables_text_and_figures_hold_the_answer(tmp_path) -> None:
    """The scan crosses the bound at the answer; the figure marks it; the page and the text name it."""
    found = require("mfu >= 0.3", INTER, *CASE, points=33)
    frame = found.to_dataframe()
    least = frame.loc[frame["meets"], f"{INTER} [B/s]"].min()
    assert found.value <= least and (frame["mfu (pessimistic)"] <= frame["mfu"]).all()
    assert (frame["mfu"].to_numpy() >= 0.3).tolist() == frame["meets"].tolist()
    figure = found.figure(title="bandwidth", dark=True)
    assert {trace.name for trace in figure.data} == {"90% interval", "prediction"}
    assert "least needed" in repr(found) and INTER in found._repr_html_()
    assert found.export(tmp_path / "scan.csv").stat().st_size > 0
    several = require(["mfu >= 0.3", "memory_bytes <= 70 GB", "power <= 1 MW"], INTER, *CASE, points=17)
    assert "power: no interval is known" in repr(several)
    assert several.figure().layout.yaxis.title.text.startswith("Worst margin")
    curve = iso(points=17, prices={INTER: "100 USD/(GB/s)", INTRA: "5 USD/(GB/s)"})
    names = {trace.name for trace in curve.figure().data}
    assert {"misses the target", "90% interval", "target just met", "now"} <= names
    assert "replaces" in repr(curve) and "cheapest" in curve._repr_html_()
    assert curve.export(tmp_path / "curve.parquet").is_file() and len(curve.to_dataframe()) == 17
    assert json.loads(json.dumps(curve.summary()))["cheapest"]["cost"] == curve.cheapest["cost"]


def test_the_command_line_answers_in_text_and_json(tmp_path) -> None:
    """JSON holds the value and its ends; files are written; nothing in reach ends with InfeasibleDesign (exit code 1)."""
    app = typer.Typer()
    require_cli.attach(app)
    common = ["--vary", INTER, "--model", CASE[0], "--cluster", CASE[1], "--strategy", PLAN, "--points", "33"]
    done = CliRunner().invoke(app, ["--target", "mfu >= 0.3", *common, "--json", "--out", str(tmp_path / "scan.csv"),
                                    "--figure", str(tmp_path / "scan.html")])  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["optimistic"] <= found["value"] <= (found["pessimistic"] or math.inf)
    assert (tmp_path / "scan.html").stat().st_size > 1000 and (tmp_path / "scan.csv").is_file()
    text = CliRunner().invoke(app, ["--target", "mfu >= 0.3", *common])
    assert "least needed" in text.stdout
    none = CliRunner().invoke(app, ["--target", "mfu >= 0.95", *common, "--json"])
    assert isinstance(none.exception, InfeasibleDesign) and json.loads(none.stdout)["feasible"] is False
    for more in (["--figure", "x.gif"], ["--best"], ["--price", "x"]):
        assert isinstance(CliRunner().invoke(app, ["--target", "mfu >= 0.3", *common, *more]).exception, SpecError)
    pair = CliRunner().invoke(app, ["--target", "mfu >= 0.3", *common, "--vary", INTRA, "--json", "--points", "9",
                                    "--price", f"{INTER}=100 USD/(GB/s)", "--price", f"{INTRA}=10 USD/(GB/s)"])  # fmt: skip
    assert len(json.loads(pair.stdout)["curve"]) == 9


def test_a_dry_run_prints_the_forecast_and_writes_nothing(tmp_path: Path) -> None:
    """One line, or JSON; no scan is written."""
    app = typer.Typer()
    require_cli.attach(app)
    out = tmp_path / "scan.csv"
    common = ["--model", CASE[0], "--cluster", CASE[1], "--strategy", PLAN, "--vary", INTER, "--target", "mfu >= 0.3",
              "--out", str(out), "--dry-run"]  # fmt: skip
    text, data = (CliRunner().invoke(app, [*common, *more]) for more in ([], ["--json"]))
    assert text.exit_code == 0 and len(text.output.splitlines()) == 1 and "points of the scan" in text.output
    found = json.loads(data.output)
    assert found["points"] - found["refinement_points"] == 258 and found["seconds"] > 0 and not out.exists()


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".xlsx", ".tex", ".md"])
def test_answers_and_curves_are_written_with_their_manifest(ending: str, tmp_path: Path) -> None:
    """Every format holds a row a value, and the manifest says where it comes from."""
    single = require("mfu >= 0.3", INTER, *CASE, points=9)
    curve = require("mfu >= 0.3", [INTER, INTRA], *CASE, points=5)
    for name, found in (("single", single), ("curve", curve)):
        path = found.export(tmp_path / f"{name}{ending}")
        manifest = json.loads(path.with_name(path.name + ".manifest.json").read_text())
        assert manifest["rows"] == len(found.to_dataframe()) and manifest["provenance"]
