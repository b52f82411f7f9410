"""The command line and the figures of sensitivity, and what an analysis says before it starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import dse
from dse.errors import SpecError
from dse.explore.forecast import seconds_for
from dse.explore.sensitivity import (
    Factor,
    Search,
    bottlenecks,
    discover,
    elasticities,
    forecast,
    morris,
    shadow_prices,
    sobol,
    tornado,
)
from dse.explore.sensitivity import samples as pricing
from dse.explore.sensitivity.cli import attach
from dse.explore.sensitivity.factors import bind
from dse.view import sensitivity as views

GPT = ("gpt3-175b", "dgx-a100", "tp=8,pp=8,micro_batch=1,global_batch=1536,zero_stage=1")
SMALL = ("llama2-7b", "dgx-a100", "tp=8,micro_batch=1,global_batch=256,zero_stage=1")
COMMON = ["--model", SMALL[0], "--cluster", SMALL[1], "--strategy", SMALL[2], "--devices", "64"]
FACTORS = ["--factor", "cluster.memory.bandwidth=1:4 TB/s log", "--factor", "recompute=none,full"]


def run(*arguments: str) -> Any:
    app = typer.Typer()
    attach(app)
    return CliRunner().invoke(app, [*COMMON, *arguments])


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        ("tornado", [], "step_time = "),
        ("elasticity", ["--input", "cluster.memory.bandwidth"], "cluster.memory.bandwidth"),
        ("shadow", [], "is worth up to"),
        ("sobol", [*FACTORS, "--samples", "16"], "shares of the variance of ln step_time"),
        ("morris", [*FACTORS, "--samples", "8"], "effects on ln step_time"),
        ("discover", [*FACTORS, "--samples", "64", "--target", "mfu >= 0.45"], "designs miss mfu >= 0.45"),
        (
            "discover",
            ["--axis", "tp=1,2,4,8", "--axis", "micro_batch=1,2,4", "--target", "mfu >= 0.45"],
            "designs miss",
        ),
        ("bottleneck", ["--depth", "2"], "bound by"),
    ],
)
def test_the_command_prints_text_json_tables_and_figures(
    kind: str, more: list[str], words: str, tmp_path: Path
) -> None:
    """Each kind prints its text, the same as JSON, and writes its table and its figure."""
    text = run("--kind", kind, *more)
    assert text.exit_code == 0, text.exception
    assert words in text.output
    out, page = tmp_path / "table.csv", tmp_path / "figure.html"
    found = run("--kind", kind, *more, "--json", "--out", str(out), "--figure", str(page))
    assert found.exit_code == 0, found.exception
    data = json.loads(found.output)
    assert data["kind"] == kind
    assert out.is_file() and page.stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "nothing"], "must be one of tornado"),
        (["--kind", "sobol"], "at least one factor"),
        (["--kind", "discover", *FACTORS], "name a condition"),
        (["--figure", "x.gif"], "must end in"),
        (["--input", "cluster.nothing"], "no such field"),
        (["--objective", "mfu"], "give both"),
        (["--reoptimize", "--objective", "power factor"], "not a quantity"),
    ],
)
def test_bad_arguments_are_faults_and_not_tracebacks(arguments: list[str], message: str) -> None:
    """What the command line shows with exit code 2."""
    found = run(*arguments)
    assert isinstance(found.exception, SpecError) and message in str(found.exception)


def test_the_command_finds_the_best_strategy_itself() -> None:
    """Without a strategy, devices and batch are needed, and the best design is looked at."""
    app = typer.Typer()
    attach(app)
    common = ["--model", SMALL[0], "--cluster", SMALL[1], "--devices", "64", "--kind", "bottleneck", "--json"]
    found = CliRunner().invoke(app, [*common, "--global-batch", "256"])
    best = dse.best(SMALL[0], SMALL[1], devices=64, global_batch=256)
    assert json.loads(found.output)["step_time"] == pytest.approx(float(best["step_time"]), rel=1e-12)
    missing = CliRunner().invoke(app, common)
    assert isinstance(missing.exception, SpecError) and "global_batch" in str(missing.exception)


def test_figures_show_the_tables_numbers() -> None:
    """Bars are the tables' rows, in the light and in the dark theme."""
    gpt = dse.estimate(*GPT, devices=1024)
    found = tornado(gpt)
    for dark in (False, True):
        figure = views.tornado(found, top=5, dark=dark)
        low = figure.data[0]
        assert len(low.y) == 5
        ends = np.asarray(low.x) + np.asarray(low.base)
        assert ends == pytest.approx(found.table["at_low [s]"][:5].to_numpy())
    parts = bottlenecks(gpt)
    bars = views.bottleneck(parts).data[0]
    assert bars.x[0] == pytest.approx(parts.step_time) and len(bars.x) == 1 + len(parts.ladder)


# -- before it starts ---------------------------------------------------------------------------------------

RANGES = ["cluster.memory.bandwidth=1:4 TB/s", "cluster.network.inter.bandwidth=10:100 GB/s log"]
LEVELS = ["global_batch=128,256,512", "cluster=dgx-a100,dgx-h100"]
FEW = Search(options={"tp": [4, 8], "pp": [1, 2], "micro_batch": [1, 2], "virtual_stages": [1], "zero_stage": [1],
                      "recompute": ["none", "full"], "sequence_parallel": [True]})  # fmt: skip


@pytest.fixture(scope="module")
def small() -> dse.Result:
    return dse.estimate(*SMALL, devices=64)


@pytest.mark.parametrize("strategies", [1, 16])
@pytest.mark.parametrize(
    ("analysis", "arguments", "options", "points"),
    [
        (tornado, (["cluster.memory.bandwidth", "cluster.network.inter.bandwidth"],), {}, 5),
        (elasticities, (["cluster.memory.bandwidth"],), {}, 23),
        (shadow_prices, (["cluster.memory.bandwidth"],), {}, 3),
        (sobol, (RANGES,), {"samples": 100}, 128 * 4),
        (sobol, (RANGES,), {"samples": 64, "second_order": True}, 64 * 6),
        (sobol, (LEVELS,), {}, 6),
        (morris, ([*RANGES, *LEVELS],), {"trajectories": 10}, 50),
        (discover, ("mfu >= 0.45", [*RANGES, *LEVELS]), {"samples": 100, "among": "all"}, 128),
    ],
)
def test_a_forecast_counts_what_is_then_priced(
    small: dse.Result, analysis: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any], points: int,
    strategies: int,
) -> None:  # fmt: skip
    """Points by the methods' own formulas, times all combinations of the options tried on each; and no others."""
    if strategies > 1 and analysis is elasticities:
        pytest.skip("a derivative is that of the design's own strategy")
    search = {"reoptimize": FEW} if strategies > 1 else {}
    found = forecast(analysis, small, *arguments, **options, **search)
    assert (found.points, found.designs, found.refinement) == (points, points * strategies, 0)
    assert found.seconds > 0 and f"{points * strategies:,} designs" in str(found)
    done = analysis(small, *arguments, **options, **search)
    counted = getattr(done, "evaluations", None) or getattr(done, "designs", points)
    assert counted == points


def test_forecasts_of_whole_spaces_and_of_bottlenecks(small: dse.Result) -> None:
    """A sweep has its own designs, structural axes included; n resources have 2^n combinations."""
    axes = (
        dse.axis("tp", [1, 2, 4, 8]),
        dse.axis("micro_batch", [1, 2, 4]),
        dse.axis("cluster", LEVELS[1][8:].split(",")),
    )
    space = dse.sweep(*SMALL, *axes, devices=64)
    assert forecast(discover, space, "mfu >= 0.45").designs == 24 == discover(space, "mfu >= 0.45", among="all").designs
    assert forecast(bottlenecks, small).designs == 2 ** len(bottlenecks(small).table)


def test_a_forecast_refuses_what_the_analysis_refuses(small: dse.Result) -> None:
    """Faults come before anything is priced; and afterwards analyses run as ever."""
    with pytest.raises(SpecError, match="at most 5,000,000"):
        forecast(sobol, small, RANGES, samples=1 << 24)
    with pytest.raises(SpecError, match="prices no designs"):
        forecast(lambda design: None, small)
    assert len(tornado(small, ["cluster.memory.bandwidth"]).table) == 1


@pytest.mark.parametrize("overhead", [0.0, 3.0])
def test_time_is_a_constant_and_a_rate(overhead: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock of its own: two samples tell both, whatever the number of points; a small space is all timed."""
    clock = [0.0]

    def price(size: int) -> int:
        clock[0] += overhead + 0.25 * size
        return size

    monkeypatch.setattr("dse.explore.forecast.time.perf_counter", lambda: clock[0])
    for points, strategies in ((10**9, 1), (10**6, 10**5), (7, 1)):
        wanted = overhead + 0.25 * points
        assert seconds_for(points, points * strategies, price) == pytest.approx(wanted, rel=1e-9)


def test_a_dry_run_prints_the_forecast_and_nothing_else(tmp_path: Path) -> None:
    """As text and as JSON; no table and no figure is written."""
    out, page = tmp_path / "table.csv", tmp_path / "figure.html"
    more = [*FACTORS, "--samples", "16", "--dry-run", "--out", str(out), "--figure", str(page)]
    text = run("--kind", "sobol", *more)
    assert text.exit_code == 0 and text.output.startswith("sobol: 64 designs; about ")
    assert len(text.output.splitlines()) == 1 and not list(tmp_path.iterdir())
    data = json.loads(run("--kind", "sobol", *more, "--json").output)
    assert data["kind"] == "sobol" and data["designs"] == data["points"] == 64 and data["seconds"] > 0


# -- objectives ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["mfu", "min peak_power", "max goodput", "step_time@90%", "P(step_time <= 6 s)"])
def test_the_best_strategy_goes_by_any_objective(small: dse.Result, objective: str) -> None:
    """The strategy of a point is the best of all in a plain sweep over them, by the objective's own value."""
    from dse.explore.objectives import objective as parse

    text = f"max {objective}" if objective.startswith("P") else objective
    goal = parse(text)
    options: Any = FEW.options
    bound = [Factor("cluster.memory.bandwidth", values=("1 TB/s", "2 TB/s"))]
    found = pricing.evaluate(
        small, bind(small.specs, bound), [np.array([0, 1])], {"v": goal.value}, Search(text, options)
    )
    axes = [dse.axis(name, values) for name, values in options.items()]
    strategy = small.specs["strategy"].model_copy(update={"dp": None})
    space = dse.sweep(
        SMALL[0], SMALL[1], strategy, *axes, dse.axis("cluster.memory.bandwidth", [1, 2], unit="TB/s"), devices=64
    )
    value = np.broadcast_to(goal.value(space.cells[0].evaluation), [len(b.values) for b in space.axes])
    legal = np.broadcast_to(pricing.is_feasible(space.cells[0].evaluation), value.shape)
    best = np.where(legal, goal.sign * value, np.inf).reshape(-1, 2).min(axis=0) * goal.sign
    assert found["v"] == pytest.approx(best, rel=1e-12)


def test_an_infeasible_design_is_analysed_with_a_warning_and_a_batch_is_named_once() -> None:
    app = typer.Typer()
    attach(app)
    broken = [*COMMON[:4], "--strategy", "tp=8,pp=7,micro_batch=1,global_batch=256", "--devices", "64"]
    found = CliRunner().invoke(app, [*broken, "--kind", "bottleneck"])
    assert found.exit_code == 0
    assert "this design is infeasible" in found.stderr and "must equal the 64 devices" in found.stderr
    refused = run("--kind", "bottleneck", "--global-batch", "512")
    assert isinstance(refused.exception, SpecError) and "global_batch = 512" in str(refused.exception)
