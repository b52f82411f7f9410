"""Calibration, intervals, comparisons: where constants come from, and how sure predictions are."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import dse
from dse.accuracy import intervals
from dse.accuracy.constants import Constant, constants
from dse.accuracy.corpus import batches, measured, predictable
from dse.accuracy.features import KINDS, shares
from dse.accuracy.fit import Problem
from dse.accuracy.ranking import rankings
from dse.accuracy.uncertainty import corpus_runs
from dse.cli import app
from dse.errors import SpecError
from dse.spec import calibration

PLAN = {"tp": 4, "pp": 4, "dp": 8, "micro_batch": 1, "global_batch": 256, "zero_stage": 1, "sequence_parallel": True}


@pytest.fixture(scope="module")
def design() -> dse.Result:
    return dse.estimate("llama3-70b", "dgx-h100", PLAN)


# -- calibration -------------------------------------------------------------------------------------------------


def test_nameplates_take_over_calibrated_constants_and_say_so() -> None:
    """An H100 has no efficiency of its own; its source names the calibration. What a file states itself wins."""
    found = dse.load_accelerator("h100-80gb-sxm")
    source = found.source_of("efficiency.matrix")
    assert source is not None and calibration.active().id in source.title and source.kind == "measured"
    own = dse.load_accelerator({"base": "h100-80gb-sxm", "efficiency": {"matrix": 0.5}})
    assert own.efficiency.matrix == 0.5 and own.efficiency.attention == found.efficiency.attention
    assert dse.load_accelerator("comet-a100").efficiency.matrix == 1.0


def test_what_was_not_measured_inherits_from_a_relative() -> None:
    """A V100 takes the constants of the Ampere generation, marked as an assumption."""
    source = dse.load_accelerator("v100-32gb-sxm").source_of("efficiency.attention")
    assert source is not None and source.kind == "assumed" and "inherited" in source.title


def test_another_calibration_can_be_used(tmp_path) -> None:
    """Constants of a file of the user's own are in effect until it is put away; the result names it."""
    path = tmp_path / "mine.yaml"
    path.write_text("kind: calibration\nid: mine\ndate: 2026\nseed: 0\nstacks: {}\n"
                    "accelerators: {hopper: {matrix: 0.5, memory: 0.5}}\n")  # fmt: skip
    before = dse.estimate("llama3-70b", "dgx-h100", PLAN)
    try:
        dse.use_calibration(path)
        slow = dse.estimate("llama3-70b", "dgx-h100", PLAN)
        assert slow.calibration == "mine" and float(slow["step_time"]) > float(before["step_time"])
        assert slow.dataset.attrs["calibration"] == "mine"
    finally:
        dse.use_calibration(None)
    again = dse.estimate("llama3-70b", "dgx-h100", PLAN)
    assert float(again["step_time"]) == float(before["step_time"])


@pytest.mark.parametrize(
    "text", ["", "kind: stack\n", "kind: calibration\nid: x\n", "kind: calibration\nid: x\nstacks: {}\nmore: 1\n"]
)
def test_a_broken_calibration_is_refused(tmp_path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=r"calibration|YAML|mapping"):
        calibration.load(path)
    with pytest.raises(SpecError, match="does not exist"):
        calibration.load(tmp_path / "none.yaml")


def test_every_shipped_constant_lies_in_its_physical_range() -> None:
    """The file holds what ``constants`` allows, and the tables it was fitted to are the shipped ones."""
    from dse.accuracy.calibrate import _digest

    active = calibration.active()
    tables = {"device": active.accelerators, "stack": active.stacks, "up": active.fabrics, "out": active.fabrics}
    for c in constants():
        value = tables[c.kind].get(c.owner, {}).get(c.field)
        if value is not None:
            number = float(str(value).removesuffix(" us")) * (1e-6 if "us" in str(value) else 1.0)
            assert c.low * 0.999 <= number <= c.high * 1.001, c.name
    for name, digest in active.data.items():
        assert _digest(measured(name)) == digest, name


def test_a_stack_of_ones_own_starts_from_the_calibrated_one() -> None:
    """Only what it states differs from its base."""
    base = dse.spec.load_stack("megatron")
    own = dse.spec.load_stack({"base": "megatron", "id": "mine", "hop": "5 us"})
    assert own.hop == 5e-6 and own.activation_passes == base.activation_passes > 1 and own.launch == base.launch


def test_the_stack_says_what_it_overlaps() -> None:
    """Megatron-class runs hide tensor-parallel collectives where sequence parallelism cuts them; a strategy can say no."""
    default, off, on = (dse.estimate("llama3-70b", "dgx-h100", {**PLAN, "overlap_tp": o}) for o in (None, False, True))
    assert float(default["step_time"]) == float(on["step_time"]) < float(off["step_time"])


# -- the fit -----------------------------------------------------------------------------------------------------


def test_the_fit_finds_the_constants_that_made_the_data() -> None:
    """Step times made with known constants give them back, and the gradient is the slope."""
    frame = predictable(measured("training"))
    frame = frame[frame["source_key"].isin(["korthikanti22"])]
    found, _ = batches(frame)
    free = [
        Constant("device", "ampere", "sustained", 0.9, 0.6, 1.0),
        Constant("stack", "megatron-classic", "norm_passes", 1.5, 1.0, 6.0),
    ]
    problem = Problem(found, free)
    truth = {"device.ampere.sustained": 0.8, "stack.megatron-classic.norm_passes": 3.0}
    seconds = problem.predict(truth)
    fitted = problem.fit(seconds, np.full(len(seconds), 30.0), steps=200)
    assert fitted == pytest.approx(truth, rel=0.05)
    base, slopes = problem.gradient(truth)
    moved = np.log(problem.predict({**truth, free[0].name: 0.8 * np.exp(1e-3)}))
    assert slopes[:, 0] == pytest.approx((moved - base) / 1e-3, rel=0.02, abs=1e-4)


def test_held_out_errors_meet_the_goals() -> None:
    """Publications left out in turn, weighted alike: median of at most 7 %, and the stated coverage."""
    held = calibration.active().errors["held_out"]
    assert held["source"]["median_ape"] <= 0.07
    assert 0.85 <= held["source"]["coverage90"] <= 1.0
    assert held["family"]["median_ape"] <= 0.12
    runs = corpus_runs()
    errors = (runs["without_source"] / runs["measured"] - 1.0).abs()
    assert errors.median() < 0.08 and errors.notna().mean() > 0.99


# -- intervals ---------------------------------------------------------------------------------------------------


def test_an_interval_holds_the_estimate_and_grows_with_its_level(design: dse.Result) -> None:
    value = float(design["step_time"])
    widths = []
    for level in (0.5, 0.8, 0.9, 0.95):
        found = design.interval(level)
        assert found.low < value < found.high and found.level == level
        widths.append(found.high / found.low)
    assert widths == sorted(widths)
    rate = design.interval(0.9, "tokens_per_s")
    time = design.interval(0.9)
    assert rate.low * time.high == pytest.approx(float(design["tokens_per_s"]) * value)
    assert design.interval(quantity="memory_bytes").unit == "B"
    summary = design.summary()
    assert summary["interval_90_s"] == [time.low, time.high] and summary["calibration"] == design.calibration


def test_intervals_of_a_space_have_its_axes() -> None:
    swept = dse.sweep("llama3-70b", "dgx-h100", PLAN, dse.axis("micro_batch", [1, 2, 4]))
    found = swept.interval(0.9)
    assert found.low.dims == ("micro_batch",) and bool((found.low < found.high).all())
    one = swept.at(micro_batch=2).interval(0.9)
    assert float(found.low.sel(micro_batch=2)) == pytest.approx(one.low)


@pytest.mark.parametrize(("level", "quantity"), [(0.3, "step_time"), (1.0, "step_time"), ("x", "mfu"), (0.9, "energy")])
def test_other_levels_and_quantities_are_refused(design: dse.Result, level: object, quantity: str) -> None:
    with pytest.raises(SpecError):
        design.interval(level, quantity)  # type: ignore[arg-type]


def test_extrapolation_is_named(design: dse.Result) -> None:
    """A plain design is inside what was measured; a wafer of GPUs, an unknown generation and long sequences are not."""
    assert not design.interval().extrapolating
    far = dse.estimate({"base": "llama3-70b", "seq_len": 1_048_576}, "dgx-h100", {**PLAN, "cp": 8})
    assert any("seq len" in reason for reason in far.interval().reasons)
    tpu = dse.estimate("llama3-70b", "tpu-v5p-pod", PLAN, devices=128)
    assert any("generation" in reason for reason in tpu.interval().reasons)
    assert tpu.interval().high / tpu.interval().low > design.interval().high / design.interval().low
    assert "extrapolating" in str(tpu)


def test_the_nearest_runs_are_near(design: dse.Result) -> None:
    """They are sorted by distance, of the same generation, and a measured run is nearest to itself."""
    found = design.nearest(5)
    assert len(found) == 5 and found["distance"].is_monotonic_increasing
    assert set(found["generation"]) == {"hopper"}


@given(st.integers(2, 12), st.integers(1, 30), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_conformal_quantiles_cover(publications: int, rows: int, random) -> None:
    """At least the stated share of the known publications' rows lies below each quantile, and they grow."""
    sources = np.repeat([f"s{i}" for i in range(publications)], rows)
    scores = np.array([random.random() for _ in sources])
    found = intervals.conformal(scores, sources)
    assert found == sorted(found)
    for level, value in zip(intervals.LEVELS, found, strict=True):
        assert np.mean(scores <= value) >= level - 1e-9 or value == scores.max()


def test_deviations_are_found_again() -> None:
    """Residuals made by the error model give back its standard deviations within their uncertainty."""
    random = np.random.default_rng(0)
    truth = {"run": 0.03, "site": 0.05, "compute": 0.05, "host": 0.2, "inner": 0.3, "pipeline": 0.3, "replicas": 0.3}
    errors, rows, names = [], [], []
    for source in range(60):
        share = random.dirichlet(np.ones(len(KINDS)), 40)
        own = random.normal(0, list(truth.values())[2:])
        errors.append(random.normal(0, truth["run"], 40) + random.normal(0, truth["site"]) + share @ own)
        rows.append(share)
        names += [f"s{source}"] * 40
    found = intervals.fit_deviations(np.concatenate(errors), np.concatenate(rows), np.array(names))
    assert found["run"] == pytest.approx(truth["run"], rel=0.3)
    assert found["inner"] == pytest.approx(truth["inner"], rel=0.5)


# -- comparisons -------------------------------------------------------------------------------------------------


def test_comparisons_are_antisymmetric_and_cancel_shared_errors(design: dse.Result) -> None:
    """P(a < b) + P(b < a) = 1; alike designs are a coin's toss; sharing hardware makes a comparison surer."""
    other = dse.estimate("llama3-70b", "dgx-h100", {**PLAN, "tp": 8, "pp": 2})
    with pytest.raises(SpecError, match="one model"):
        dse.compare(design, dse.estimate("llama3-8b", "dgx-h100", PLAN))
    ab, ba = dse.compare(design, other), dse.compare(other, design)
    assert ab.faster + ba.faster == pytest.approx(1.0) and ab.ratio == pytest.approx(1 / ba.ratio)
    same = dse.compare(design, design)
    assert same.faster == 0.5 and same.low == pytest.approx(1.0) == same.high
    broken = dse.compare(design, dse.estimate("llama3-70b", "dgx-h100", {**PLAN, "tp": 3}))
    assert any("b is infeasible" in note for note in broken.notes)
    assert ab.shared and set(ab.changed) == {"strategy.tp", "strategy.pp"}
    elsewhere = dse.compare(design, dse.estimate("llama3-70b", "dgx-a100", PLAN))
    assert not elsewhere.shared and elsewhere.high / elsewhere.low > ab.high / ab.low
    assert elsewhere.faster > 0.95
    assert "P(a is faster than b)" in str(ab)


def test_shares_add_up_to_one(design: dse.Result) -> None:
    found = shares(design.cells[0].evaluation)
    assert float(sum(found.values())) == pytest.approx(1.0)


def test_ranking_and_regret_of_known_sweeps() -> None:
    """A perfect ranking has no regret; a reversed one regrets all there is."""
    table = measured("training").head(4).assign(source_key="s", gpu="g", n_gpus=8, layers=1, hidden=1, vocab=1, seq_len=1,
                                                precision="bf16", global_batch=1, measured=[1.0, 2.0, 3.0, 4.0])  # fmt: skip
    right = rankings(table.assign(predicted=[10.0, 20.0, 30.0, 40.0]))["s"]
    assert (right.agreement, right.regret, right.pairs) == (1.0, 0.0, 6)
    wrong = rankings(table.assign(predicted=[4.0, 3.0, 2.0, 1.0]))["s"]
    assert (wrong.agreement, wrong.regret) == (0.0, 3.0)


# -- command line ------------------------------------------------------------------------------------------------


def test_the_command_line_validates_and_compares(tmp_path) -> None:
    runner = CliRunner()
    path, out = tmp_path / "some.csv", tmp_path / "predictions.csv"
    measured("training").head(12).to_csv(path, index=False)
    done = runner.invoke(app, ["validate", "training", str(path), "--json", "--out", str(out)])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    for name in ("n", "n_predicted", "median_ape", "mean_ape", "p90_ape", "bias", "coverage90", "by_source"):
        assert name in found
    header = out.read_text().splitlines()[0]
    assert header == "id,predicted_iter_time_s,low,high,predicted_peak_memory_gib,feasible,reason"
    plan = "tp=4,pp=4,dp=8,micro_batch=1,global_batch=256"
    done = runner.invoke(app, ["compare", "--model", "llama3-70b", "--cluster", "dgx-h100", "--a", plan,
                               "--b", plan.replace("tp=4", "tp=8").replace("dp=8", "dp=4"), "--json"])  # fmt: skip
    assert done.exit_code == 0 and 0 <= json.loads(done.stdout)["p_a_faster"] <= 1
    assert isinstance(runner.invoke(app, ["validate", "weather"]).exception, SpecError)
