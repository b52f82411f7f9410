"""XRBench as published: recorded timelines, scores and figures are repeated, and no run breaks the rules of a runtime."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.domains.xr import glibc
from dse.domains.xr.conditions import Conditions
from dse.domains.xr.costs import CostTable, LayerModel, from_csv, recorded
from dse.domains.xr.models import NAMES, code, unit_model, unit_models
from dse.domains.xr.published import Sums, simulate, timeline
from dse.domains.xr.scenarios import Scenario, scenario, scenario_ids
from dse.domains.xr.score_validate import validate
from dse.domains.xr.scores import by_model, by_seed, scores
from dse.domains.xr.systems import System, system, systems
from dse.errors import SpecError
from dse.spec.catalogue import asset_root

REFERENCE = asset_root("data") / "reference" / "xrbench"
KEYS = ["pe_budget", "accelerator", "scenario"]


@lru_cache
def runs(name: str, seeds: int = 100) -> Sums:
    """All systems under a scenario."""
    return simulate(name, systems(), seeds=range(1, seeds + 1))


@lru_cache
def table() -> pd.DataFrame:
    """Scores of every system, scenario and seed."""
    parts = [by_seed(runs(name), scores(runs(name))).assign(scenario=name) for name in scenario_ids()]
    joined = pd.concat(parts, ignore_index=True)
    joined[KEYS[:2]] = joined["system"].str.split("-", expand=True)
    return joined


def reference(name: str) -> pd.DataFrame:
    return pd.read_parquet(REFERENCE / f"{name}.parquet")


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**31 - 1, 2**31, 2**32 - 1])
def test_random_numbers_are_those_of_the_c_library(seed: int) -> None:
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        pytest.skip("this C library is not glibc")
    library.srand(ctypes.c_uint(seed))
    assert glibc.rand(seed, 400).tolist() == [library.rand() for _ in range(400)]


def test_random_numbers_of_seed_1_are_the_well_known_ones() -> None:
    assert glibc.rand(1, 3).tolist() == [1804289383, 846930886, 1681692777]


def test_twelve_recorded_timelines_are_repeated_row_by_row() -> None:
    known = reference("schedules_seed1")
    assert known.groupby(KEYS).ngroups == 12
    for (size, accelerator, name), rows in known.groupby(KEYS):
        ours = timeline(name, f"{size}-{accelerator}", seed=1)
        rows = rows.reset_index(drop=True)
        same = ["acc", "model", "frame", "dropped"]
        pd.testing.assert_frame_equal(ours[same], rows[same], check_dtype=False)
        numbers = [column for column in ours if column.endswith(("_ms", "_mJ"))]
        assert np.abs(ours[numbers] - rows[numbers]).max(axis=None) <= 5.1e-7  # printed with six digits


def test_recorded_scores_of_every_seed_are_repeated() -> None:
    found = validate(REFERENCE / "scores_by_seed.parquet").summary()
    assert found["n"] > 5000
    assert found["max_abs_error"] <= 2e-6
    assert found["drops_exact"] is True


def test_recorded_scores_and_drops_of_every_model_are_repeated() -> None:
    found = validate(REFERENCE / "scores_by_model.parquet").summary()
    assert found["max_abs_error"] <= 2e-6
    assert (found["errors"]["n_logged"], found["errors"]["n_dropped"]) == (0, 0)


def test_sums_of_products_are_those_of_single_precision() -> None:
    known = reference("scores_by_model").assign(code=lambda t: t["task"])
    parts = [by_model(runs(n), scores(runs(n))).assign(scenario=n) for n in scenario_ids()]
    ours = pd.concat(parts).assign(code=lambda t: t["model"].map(code))
    ours[KEYS[:2]] = ours["system"].str.split("-", expand=True)
    both = known.merge(ours, on=[*KEYS, "seed", "code"])
    assert len(both) == len(known)
    assert np.allclose(both["sum_rt_x_en"], both["sum_rt_en"], rtol=1e-6, atol=1e-6)


def test_recorded_drops_energy_and_power_are_repeated() -> None:
    errors = validate(REFERENCE / "power_and_drops_seed1.parquet").summary()["errors"]
    assert errors["dropped"] == errors["requests_logged"] == errors["completed_late"] == 0
    assert errors["energy_mJ"] <= 1e-3
    assert errors["span_ms"] <= 6e-4
    assert errors["mean_power_W"] <= 6e-4


def test_published_bars_are_repeated() -> None:
    """Bars without chance at any seed; those with chance by one of 100 seeds."""
    bars = reference("published_fig5_bars")
    names = ["rt", "en", "ux", "overall"]
    compared = 0
    for bar in bars[bars["scenario"] != "gross_average"].to_dict("records"):
        rows = table()[(table()[KEYS] == [bar[key] for key in KEYS]).all(axis=1)]
        apart = np.abs(rows[names].to_numpy() - [bar[name] for name in names]).max(axis=1)
        assert apart.min() <= 1e-6
        if not any(task.probability < 1 for task in scenario(bar["scenario"]).tasks):
            assert apart.max() <= 1e-6
            compared += 1
    assert compared > 50


def test_published_gross_averages_are_means_over_seven_scenarios() -> None:
    """Where no scenario has chance in it the average is exact; with chance it lies in the range of the seeds."""
    bars = reference("published_fig5_bars")
    for bar in bars[bars["scenario"] == "gross_average"].to_dict("records"):
        rows = table()[(table()[KEYS[:2]] == [bar[key] for key in KEYS[:2]]).all(axis=1)]
        ends = rows.groupby("scenario")["overall"].agg(["min", "max"]).mean()
        assert ends["min"] - 1e-6 <= bar["overall"] <= ends["max"] + 1e-6


def test_means_over_seeds_agree() -> None:
    known = reference("scores_by_scenario")
    ours = table().groupby(KEYS)["overall"].agg(["mean", "std", "count"]).reset_index()
    both = known[known["n_seeds"] == 100].merge(ours, on=KEYS)
    assert len(both) > 40
    assert (np.abs(both["overall_mean"] - both["mean"]) <= 3 * both["std"] / 10 + 1e-6).all()
    assert np.abs(both["overall_mean"] - both["mean"]).max() <= 1e-6  # the very same seeds


def test_figure_7_is_repeated() -> None:
    for point in reference("figure7_probability_sweep").to_dict("records"):
        changed = scenario("VR_gaming").with_probability("GE", int(point["prob"][:-1]) / 100)
        found = scores(simulate(changed, [f"4K-{point['acc'][-1]}"], seeds=range(1, 101)))
        means = [*found.bars.mean(axis=(1, 2)), found.overall.mean()]
        names = ("rt", "en", "ux", "overall")
        assert np.abs(np.array(means) - [point[f"fig7_{name}"] for name in names]).max() <= 0.02
        assert np.abs(np.array(means) - [point[name] for name in names]).max() <= 1e-6


def test_a_batch_is_what_its_runs_are() -> None:
    """No run leaves anything behind for the next one."""
    many = simulate("AR_Assistant", ["8K-M", "4K-A"], seeds=[5, 77, 5])
    alone = simulate("AR_Assistant", ["4K-A"], seeds=[77])
    assert np.array_equal(many.values[1, 1], alone.values[0, 0])
    assert np.array_equal(many.values[:, 0], many.values[:, 2])


RATES = st.sampled_from([3, 10, 15, 30, 45, 60])
CODES = sorted(NAMES)


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    codes = draw(st.lists(st.sampled_from(CODES), min_size=1, max_size=4, unique=True))
    tasks = []
    for at, name in enumerate(codes):
        after = draw(st.sampled_from([None, *codes[:at]])) if at else None
        # Counting completions is only meant for models of one rate.
        rate = next((t["rate"] for t in tasks if t["model"] == after), None) or draw(RATES)
        chance = draw(st.sampled_from([1.0, 0.5]))
        tasks.append({"model": name, "rate": rate, "probability": chance, **({"after": after} if after else {})})
    return Scenario.parse({"tasks": tasks})


CONDITIONS = st.builds(
    Conditions, horizon=st.just(0.7), periods=st.sampled_from(["whole-ms", "real"]), jitter=st.sampled_from([0, 2e-3]),
    dependencies=st.sampled_from(["count", "frame"]), in_flight=st.sampled_from(["logged", "unlogged"]),
    order=st.sampled_from(["name", "deadline"]), placing=st.sampled_from(["idle", "wait"]),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(scenarios(), st.sampled_from(["4K-A", "4K-K", "8K-E", "8K-M"]), st.integers(0, 2**32 - 1), CONDITIONS)
def test_every_timeline_obeys_the_rules(chosen: Scenario, machine: str, seed: int, how: Conditions) -> None:
    rows = timeline(chosen, machine, seed=seed, conditions=how)
    ran, lost = rows[rows["dropped"] == 0], rows[rows["dropped"] == 1]
    assert not rows.duplicated(["model", "frame"]).any()
    assert (ran["dispatch_ms"] >= ran["injection_ms"]).all()
    assert (ran["completion_ms"] > ran["dispatch_ms"]).all()
    # An accelerator runs one model at a time; a job counts as ended 0.01 ms early.
    for _, own in ran.groupby("acc"):
        assert (own["dispatch_ms"].to_numpy()[1:] >= own["completion_ms"].to_numpy()[:-1] - 0.0101).all()
    if how.dependencies == "count":
        assert (lost["completion_ms"] >= lost["deadline_ms"]).all()
    ends = {(r.model, r.frame): r.completion_ms for r in ran.itertuples()}
    for task in chosen.tasks:
        for row in ran[ran["model"] == task.model].itertuples():
            for name in task.after:
                if how.dependencies == "frame" and task.rate == next(t.rate for t in chosen.tasks if t.model == name):
                    assert ends[name, row.frame] <= row.dispatch_ms + 0.0101
    if how.in_flight == "logged" and how.dependencies == "count":
        certain = [task for task in chosen.tasks if task.probability == 1]
        for task in certain:
            period = 1000 / task.rate if how.periods == "real" else 1000 // task.rate
            assert (rows["model"] == task.model).sum() == int(700 / period + 1e-9)


def test_one_model_that_keeps_up_scores_in_closed_form() -> None:
    """21 frames of 10 ms, 33 ms apart: all 23 ms early, and the last still runs when the published run ends."""
    costs = CostTable({("mine", "npu"): 0.010}, {("mine", "npu"): 0.3})
    own = System.parse({"id": "own", "parts": [{"name": "npu"}]})
    run = simulate({"tasks": [{"model": "mine", "rate": "30 Hz"}]}, [own], costs=costs)
    found, seen = scores(run), by_seed(run, scores(run)).iloc[0]
    assert (seen["frames"], seen["dropped"], seen["late"]) == (20, 0, 0)
    assert found.overall[0, 0] == pytest.approx((1.5 - 0.3) / 1.5, abs=1e-6)
    assert seen["power"] == pytest.approx(20 * 0.3 / (19 * 0.033 + 0.010), rel=1e-6)


def test_one_model_that_is_twice_too_slow_loses_every_other_frame() -> None:
    """50 ms for a period of 25 ms: one frame runs while the next passes its deadline."""
    costs = CostTable({("mine", "npu"): 0.050}, {("mine", "npu"): 0.3})
    own = System.parse({"parts": [{"name": "npu"}]})
    rows = timeline({"tasks": [{"model": "mine", "rate": "40 Hz"}]}, own, costs=costs)
    assert rows["dropped"].iloc[1:-1].mean() == pytest.approx(0.5, abs=0.05)
    assert (rows[rows["dropped"] == 0]["completion_ms"] > rows[rows["dropped"] == 0]["deadline_ms"]).all()


def test_unit_models_have_the_parameters_of_the_networks() -> None:
    """Counted right, FBNet-C has its 5.5 million parameters; as coded almost thirty times as many."""
    assert len(unit_models()) == 11
    assert sum(len(model.layer_names) for model in unit_models().values()) == 1301
    gaze = unit_model("GE").layers
    assert gaze.weights.sum() == pytest.approx(5.53e6, rel=0.01)
    assert gaze.as_dense().weights.sum() == pytest.approx(159.4e6, rel=0.01)
    depthwise = {name: int((m.layers.groups > 1).sum()) for name, m in unit_models().items()}
    assert {k: v for k, v in depthwise.items() if v} == {"SS": 145, "DE": 35, "OD": 31, "GE": 21}


def test_systems_have_the_pes_of_their_size() -> None:
    assert len(systems()) == 26
    assert all(item.num_pes == {"4K": 4096, "8K": 8192}[name[:2]] for name, item in systems().items())
    assert [systems()[f"8K-{name}"].noc_bandwidth for name in "ADM"] == [256, 512, 1024]


@pytest.mark.parametrize("depthwise", ["dense", "grouped"])
def test_the_cost_model_of_layers_agrees_with_recorded_models(depthwise: str) -> None:
    parts = list({part.name: part for item in systems().values() for part in item.parts}.values())
    latency, energy = recorded(depthwise).of(list(NAMES.values()), parts)
    ours = LayerModel(depthwise).of(list(NAMES.values()), parts)
    assert np.abs(ours[0] / latency - 1).max() <= 0.02
    assert np.median(np.abs(ours[1] / energy - 1)) <= 0.02


def test_a_cost_table_of_layers_adds_them_up(tmp_path: Path) -> None:
    file = tmp_path / "costs.csv"
    file.write_text("model,layer,sub_accelerator,latency [us],energy [uJ]\nm,a,npu,100,5\nm,b,npu,200,7\n")
    part = System.parse({"parts": [{"name": "npu"}]}).parts
    latency, energy = from_csv(file).of(["m"], part)
    assert (latency[0, 0], energy[0, 0]) == (pytest.approx(3e-4), pytest.approx(12e-6))


WRONG_COSTS = [
    ("model,latency [ms],energy [mJ]\nm,1,1\n", "sub_accelerator"),
    ("model,sub_accelerator,latency [ms],energy [mJ]\nm,npu,fast,1\n", "line 2"),
    ("model,sub_accelerator,latency [ms],energy [mJ]\nm,npu,1,0\n", "above 0"),
    ("model,sub_accelerator,latency [W],energy [mJ]\nm,npu,1,1\n", "latency"),
    ("model,sub_accelerator,latency [ms],energy [mJ]\nm,npu,1,1\nm,npu,2,1\n", "twice"),
    ("model,sub_accelerator,latency [ms],energy [mJ]\n", "no rows"),
]


@pytest.mark.parametrize(("text", "told"), WRONG_COSTS)
def test_a_wrong_cost_table_is_told(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "costs.csv"
    file.write_text(text)
    with pytest.raises(SpecError, match=told):
        from_csv(file)


WRONG_SCENARIOS = [
    ("tasks: []", "tasks"),
    ("tasks: [{model: ES, rate: 60}]", "unit"),
    ("tasks: [{model: ES, rate: 60 W}]", "rate"),
    ("tasks: [{model: ES, rate: 60 Hz, after: GE}]", "ES_RITNet"),
    ("tasks: [{model: ES, rate: 60 Hz}, {model: ES, rate: 30 Hz}]", "one task"),
    ("tasks: [{model: ES, rate: 60 Hz, after: GE}, {model: GE, rate: 60 Hz, after: ES}]", "wait for each other"),
    ("tasks: [{model: ES, rate: 60 Hz, probability: 1.5}]", "probability"),
    ("tasks: [{model: ES, rate: 60 Hz, chance: 1}]", "chance"),
]


@pytest.mark.parametrize(("text", "told"), WRONG_SCENARIOS)
def test_a_wrong_scenario_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text + "\n")
    with pytest.raises(SpecError, match=told) as caught:
        scenario(str(file))
    assert "mine.yaml" in str(caught.value)


def test_a_scenario_of_ten_lines_runs(tmp_path: Path) -> None:
    file = tmp_path / "walk.yaml"
    file.write_text(
        "name: Walk\ntasks:\n  - {model: ES, rate: 60 Hz}\n  - {model: GE, rate: 60 Hz, after: ES}\n"
        "  - {model: SR, rate: 3 Hz, probability: 20 %}\n"
    )
    found = scores(simulate(str(file), ["4K-J"], seeds=range(1, 51)))
    assert 0 < found.overall.mean() < 1
    assert 2 <= found.logged.min() < found.logged.max() == 3


@pytest.mark.parametrize(
    ("scenario_", "machine", "seeds", "told"),
    [
        ("VR_gamin", "4K-A", [1], "VR_gaming"),
        ("VR_gaming", "4K-Z", [1], "4K-"),
        ("VR_gaming", "4K-A", [-1], "4294967295"),
        ("VR_gaming", "4K-A", [], "seeds"),
        ({"tasks": [{"model": "ES", "rate": 29.97}]}, "4K-A", [1], "whole number"),
        ({"tasks": [{"model": "ES", "rate": 1}]}, "4K-A", [1], "horizon"),
        ({"tasks": [{"model": "face", "rate": 30}]}, "4K-A", [1], "face"),
    ],
)
def test_what_does_not_fit_is_told(scenario_: object, machine: str, seeds: list[int], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        simulate(scenario_, [machine], seeds=seeds)


def test_accuracy_scales_the_score_of_its_model() -> None:
    run = runs("social_interactionB")
    plain, half = scores(run), scores(run, accuracy={"ES": 0.5})
    at = run.scenario.models.index("ES_RITNet")
    assert np.allclose(plain.models[..., at] / 2, half.models[..., at])
    assert np.allclose(plain.overall - half.overall, plain.models[..., at] / 2 / 3)
    with pytest.raises(SpecError, match=r"accuracy\.ES"):
        scores(run, accuracy={"ES": 95})


def test_validation_sees_a_changed_score_and_a_changed_drop(tmp_path: Path) -> None:
    """A check that cannot fail would be none."""
    some = reference("scores_by_seed").iloc[:5].copy()
    some.loc[some.index[0], "overall_raw"] += 1e-3
    some.loc[some.index[1], "ux_mean"] += 1e-3
    some.to_csv(tmp_path / "a.csv", index=False)
    found = validate(tmp_path / "a.csv").summary()
    assert found["max_abs_error"] == pytest.approx(1e-3, rel=0.01)
    assert (found["drops_exact"], found["drops_wrong"]) == (False, 1)
    counts = reference("power_and_drops_seed1").iloc[:5].copy()
    counts.loc[counts.index[2], "dropped"] += 1
    counts.to_csv(tmp_path / "b.csv", index=False)
    assert validate(tmp_path / "b.csv").summary()["drops_exact"] is False
    assert "NO" in str(validate(tmp_path / "b.csv"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b\n1,2\n", "pe_budget"),
        ("pe_budget,accelerator,scenario\n4K,A,VR_gaming\n", "none to compare"),
        ("pe_budget,accelerator,scenario,overall_raw\n4K,A,VR_gaming,high\n", "line 2"),
        ("pe_budget,accelerator,scenario,overall_raw\n4K,Z,VR_gaming,0.5\n", "4K-Z"),
        ("pe_budget,accelerator,scenario,overall_raw\n", "no rows"),
    ],
)
def test_a_file_that_cannot_be_validated_is_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(SpecError, match=told):
        validate(tmp_path / "x.csv")


def test_a_system_of_ones_own_is_priced_by_the_cost_model() -> None:
    mine = system({"id": "mine", "parts": [{"dataflow": "WS", "num_pes": 512, "noc_bandwidth": 64}]})
    found = simulate("social_interactionB", [mine, "4K-A"])
    overall = scores(found).overall[:, 0]
    assert 0 <= overall[0] < overall[1]
