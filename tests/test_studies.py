"""Studies: the shipped ones hold, say what they hold against, repeat byte for byte, and bad files are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import dse
from dse.errors import SpecError, StudyError
from dse.study import report
from dse.study.checks import measure
from dse.study.quantities import at_point, evaluate
from dse.study.study import StudyReport, load_study, run_study, studies

SHIPPED = ("comet-clusters", "comet-dlrm", "comet-transformer-1t")
PNG = b"\x89PNG\r\n\x1a\n"

SMALL = """
kind: study
id: small
title: A small study
question: Does it run?
defaults:
  model: gpt-1.7b
  cluster: dgx-a100
  devices: 32
  strategy: {global_batch: 512, micro_batch: 4}
runs:
  - id: sweep
    axes: [{path: tp, values: [1, 2, 4]}]
figures:
  - {id: bars, kind: breakdown, run: sweep, along: tp, labels: "tp {tp}", title: Where the time goes}
  - {id: against, kind: verdicts, title: Verdicts}
expected: expected.csv
trends:
  - {check: memory falls, run: sweep, quantity: memory_bytes, measure: falling, along: tp}
"""
EXPECTED = """check,run,quantity,at,reference_run,reference_at,published,unit,tolerance,label,source
devices,sweep,devices,tp=2,,,32,1,0,re-derived,arithmetic
ratio to itself,sweep,step_time,tp=2,sweep,tp=2,1,1,0,re-derived,arithmetic
too far,sweep,devices,tp=4,,,33,1,0.01,re-derived,made to fail
within,sweep,devices,tp=4,,,33,1,0.04,re-derived,made to pass
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StudyReport]:
    """Every shipped study, run once without pictures."""
    folder = tmp_path_factory.mktemp("studies")
    return {name: run_study(name, folder / name, images=False) for name in SHIPPED}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A small study of one's own, in a folder."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "study.yaml").write_text(SMALL, encoding="utf-8")
    (folder / "expected.csv").write_text(EXPECTED, encoding="utf-8")
    return folder


def test_the_shipped_studies_are_listed() -> None:
    """``studies()`` names each folder with a study.yaml."""
    assert set(SHIPPED) <= set(studies())
    assert studies() == sorted(studies())


@pytest.mark.parametrize("name", SHIPPED)
def test_every_verdict_passes_and_names_its_source(reports: dict[str, StudyReport], name: str) -> None:
    """No shipped check falls short; nothing re-derived is passed off as the paper's."""
    found = reports[name]
    short = found.verdicts[found.verdicts["verdict"] != "pass"]
    assert found.ok, short[["check", "published", "ours", "tolerance"]].to_string()
    assert set(found.verdicts["label"]) <= {"paper", "recorded", "re-derived", "trend"}
    numbered = found.verdicts["label"] != "trend"
    assert (found.verdicts.loc[numbered, "source"] != "").all()
    printed = found.verdicts[found.verdicts["label"] == "paper"]
    assert printed["source"].str.contains("abstract").all()


def test_the_recorded_runs_are_met_to_half_a_percent(reports: dict[str, StudyReport]) -> None:
    """T1 and T2 of the authors' simulator: all rows within 0.5 %."""
    table = reports["comet-transformer-1t"].verdicts
    recorded = table[table["label"] == "recorded"]
    assert len(recorded) == 15
    gap = np.abs(recorded["ours"] - recorded["published"])
    assert (gap <= np.maximum(0.005 * recorded["published"].abs(), 1.0)).all()


def test_the_memory_table_has_all_its_cells(reports: dict[str, StudyReport]) -> None:
    """11 strategies by 4 ZeRO stages, within 0.1 % or the printed decimal."""
    table = reports["comet-transformer-1t"].verdicts
    cells = table[table["group"] == "zero"]
    assert len(cells) == 44
    gap = np.abs(cells["ours"] - cells["published"])
    assert (gap <= np.maximum(0.001 * cells["published"], 0.05 + 1e-9)).all()


def test_a_run_leaves_tables_figures_report_and_provenance(reports: dict[str, StudyReport]) -> None:
    """Everything that a study declares is in its folder, and nothing half-written."""
    for name, found in reports.items():
        out = found.out
        assert out is not None
        for run in found.study.runs:
            assert len(pd.read_csv(out / f"{run.id}.csv")) == len(pd.read_parquet(out / f"{run.id}.parquet"))
        for figure in found.study.figures:
            assert "plotly.min.js" in (out / f"{figure.id}.html").read_text(encoding="utf-8")
        facts = json.loads((out / "provenance.json").read_text(encoding="utf-8"))
        assert facts["study"] == name and facts["files"]["study.yaml"] and facts["packages"]["numpy"] == np.__version__
        assert set(facts["inputs"]) == {run.id for run in found.study.runs}
        text = (out / "report.md").read_text(encoding="utf-8")
        assert found.study.title in text and "/tmp" not in text and str(out) not in text
        assert {path.name for path in out.iterdir()} == {path.name for path in found.files}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_second_run_is_the_same_to_the_byte(reports: dict[str, StudyReport], name: str, tmp_path: Path) -> None:
    """Tables, verdicts, report, provenance and pages do not depend on when they were made."""
    first = reports[name]
    again = run_study(name, tmp_path / "again", images=False)
    assert [path.name for path in again.files] == [path.name for path in first.files]
    for one, other in zip(first.files, again.files, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_a_study_without_a_folder_writes_nothing(small: Path) -> None:
    """In a notebook the figures and verdicts are enough."""
    found = run_study(small)
    assert found.files == [] and set(found.figures) == {"bars", "against"}
    assert sorted(path.name for path in small.iterdir()) == ["expected.csv", "study.yaml"]


def test_tolerances_decide(small: Path, tmp_path: Path) -> None:
    """32 is not 33 to 1 %, and is to 4 %; the report says which check falls short."""
    lines: list[str] = []
    found = run_study(small, tmp_path / "out", lines.append, images=False)
    verdicts = found.verdicts.set_index("check")["verdict"]
    assert not found.ok
    assert verdicts.to_dict() == {"devices": "pass", "ratio to itself": "pass", "too far": "short", "within": "pass",
                                  "memory falls": "pass"}  # fmt: skip
    assert any(line.startswith("short: too far") for line in lines)
    assert "4 of 5 checks pass" in lines[-1]
    assert "**short**" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_the_file_itself_names_the_study_too(small: Path) -> None:
    """A folder and the study.yaml in it mean the same."""
    assert load_study(small)[0] == load_study(small / "study.yaml")[0]


def test_files_beside_the_study_are_found(small: Path) -> None:
    """A cluster may be a file in the study's folder."""
    text = "kind: cluster\nbase: dgx-a100\nid: mine\nname: Mine\n"
    (small / "mine.yaml").write_text(text, encoding="utf-8")
    study = SMALL.replace("cluster: dgx-a100", "cluster: mine.yaml")
    (small / "study.yaml").write_text(study, encoding="utf-8")
    assert run_study(small).results["sweep"].specs["cluster"].id == "mine"  # type: ignore[attr-defined]


def test_pictures_are_drawn_where_there_is_a_browser(small: Path, tmp_path: Path) -> None:
    """One PNG a figure, and the report shows them."""
    if not report.browser_found():
        pytest.skip("no Chromium")
    found = run_study(small, tmp_path / "out")
    for name in found.figures:
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(PNG)
    assert "(bars.png)" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_without_a_browser_there_is_one_message(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Chromium is not an error: pages are written, pictures are not, and a line says so once."""
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    lines: list[str] = []
    run_study(small, tmp_path / "out", lines.append)
    assert lines.count(report.NO_BROWSER) == 1
    assert not list((tmp_path / "out").glob("*.png"))
    assert (tmp_path / "out" / "bars.html").is_file()
    assert "bars.png" not in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


# -- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "hint"), [("comet-dlmr", "comet-dlrm"), ("", "shipped"), ("x" * 5000, "shipped"),
                                            ("a\0b", "shipped")])  # fmt: skip
def test_an_unknown_study_is_refused_with_a_suggestion(name: str, hint: str) -> None:
    """The nearest name is offered."""
    with pytest.raises(StudyError, match=hint):
        run_study(name)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("title: A small study", "titel: A small study", ["titel", "did you mean 'title'", "title: is required"]),
        ("kind: breakdown", "kind: breakdwn", ["breakdwn", "did you mean 'breakdown'", "study.yaml:"]),
        ("run: sweep, along", "run: swep, along", ["'swep'", "did you mean 'sweep'"]),
        ("model: gpt-1.7b", "model: gpt-1.8b", ["runs.0 (sweep)", "gpt-1.8b"]),
        ("path: tp, values", "path: tq, values", ["runs.0 (sweep)", "tq"]),
        ("kind: study", "kind: cluster", ["expected a file of kind 'study'"]),
        ("quantity: memory_bytes", "quantity: memory_bites", ["memory_bites", "did you mean", "memory_bytes"]),
        ("measure: falling, along: tp", "measure: argmin, at_most: 4", ["needs the axis"]),
        ("along: tp, labels", "along: pp, labels", ["figures.0", "pp"]),
        ('labels: "tp {tp}"', 'labels: "tp {tq}"', ["figures.0", "tq"]),
        ("expected: expected.csv", "expected: ../expected.csv", ["without folders"]),
        ("expected: expected.csv", "expected: none.csv", ["none.csv", "cannot be read"]),
        ("id: bars", "id: ../bars", ["figures.0.id"]),
        ("id: bars", "id: against", ["given twice"]),
        ("runs:\n", "runs: 5\nrunz:\n", ["runs", "runz"]),
        ("defaults:", "defaults: [1]\nother:", ["defaults", "other"]),
    ],
)
def test_a_malformed_study_names_its_faults(small: Path, old: str, new: str, words: list[str]) -> None:
    """Every fault is a SpecError that says where and what."""
    assert old in SMALL
    (small / "study.yaml").write_text(SMALL.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SpecError) as error:
        run_study(small)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("x,sweep,step_time,tp,,,1,s,0.01,paper,s", ["tp=8;zero_stage=2", "expected.csv:6"]),
        ("x,swept,step_time,tp=1,,,1,s,0.01,paper,s", ["'swept'", "did you mean 'sweep'"]),
        ("x,sweep,step_time,tp=1,,,one,s,0.01,paper,s", ["published", "expected.csv:6"]),
        ("x,sweep,step_time,tp=1,,,1,s,2,paper,s", ["tolerance"]),
        ("x,sweep,step_time,tp=1,,,1,s,0.01,hearsay,s", ["label", "paper"]),
        ("x,sweep,step_time,tp=1,,,1,GB,0.01,paper,s", ["unit", "dimension"]),
        ("x,sweep,step_time,tp=3,,,1,s,0.01,paper,s", ["tp", "not on the axis"]),
        ("x,sweep,step_time,,,,1,s,0.01,paper,s", ["leaves the axes tp open"]),
        ("x,sweep,step_time-devices,tp=1,,,1,s,0.01,paper,s", ["step_time-devices"]),
        ("x,sweep,layer.q.forward,tp=1,,,1,s,0.01,paper,s", ["execution: comet"]),
        ("x,sweep,step_time,tp=1,,,1,s,0.01,paper,s,extra", ["more cells"]),
    ],
)
def test_a_bad_expected_value_is_refused(small: Path, row: str, words: list[str]) -> None:
    """Rows of the table are checked like everything else."""
    (small / "expected.csv").write_text(EXPECTED + row + "\n", encoding="utf-8")
    with pytest.raises(SpecError) as error:
        run_study(small)
    for word in words:
        assert word in str(error.value)


def test_all_faults_are_told_at_once(small: Path) -> None:
    """A study with three mistakes is corrected in one go."""
    text = SMALL.replace("run: sweep, along", "run: swep, along")
    text = text.replace("run: sweep, quantity", "run: sweeep, quantity")
    (small / "study.yaml").write_text(text, encoding="utf-8")
    (small / "expected.csv").write_text(EXPECTED + "x,swept,step_time,tp=1,,,1,s,0.01,paper,s\n", encoding="utf-8")
    with pytest.raises(SpecError) as error:
        run_study(small)
    assert len(error.value.faults) == 3


def test_a_file_in_the_way_is_refused(small: Path, tmp_path: Path) -> None:
    """The output folder must be one."""
    (tmp_path / "out").write_text("mine")
    with pytest.raises(StudyError, match="not a folder"):
        run_study(small, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


# -- quantities and measures --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sweep() -> dse.Result:
    """A sweep with feasible and infeasible designs."""
    axes = dse.axis("tp", [1, 2, 4, 8]), dse.axis("pp", [1, 2, 4, 8])
    return dse.sweep("gpt3-175b", "dgx-a100", "global_batch=1536,micro_batch=1,recompute=full", *axes, devices=1024)


def test_expressions_add_multiply_and_divide(sweep: dse.Result) -> None:
    """Sums of products of quantities, with their unit."""
    states = evaluate(sweep, "memory.weights + memory.gradients + memory.optimizer")
    xr.testing.assert_allclose(states, sweep["memory.weights"] + sweep["memory.gradients"] + sweep["memory.optimizer"])
    assert states.attrs["units"] == "B"
    xr.testing.assert_allclose(evaluate(sweep, "step_time * devices / 2"), sweep["step_time"] * 512)
    assert evaluate(sweep, "tp").values.tolist() == [1, 2, 4, 8]
    assert evaluate(sweep, "time.forward/step_time").attrs["units"] == "1"


@pytest.mark.parametrize("expression", ["", "+", "step_time +", "step_time - 1", "__import__", "a b", "layer.x",
                                        "2 ** 3", "step_time // 2", "1e9999"])  # fmt: skip
def test_other_expressions_are_refused(sweep: dse.Result, expression: str) -> None:
    """There is no code in a study."""
    with pytest.raises(SpecError):
        evaluate(sweep, expression)


def test_best_takes_the_fastest_feasible_design(sweep: dse.Result) -> None:
    """``best`` on both axes equals the least feasible step time."""
    time = sweep["step_time"].where(sweep["feasible"])
    found = at_point(sweep, "step_time", {"tp": "best", "pp": "best"})
    assert float(found) == float(time.min())
    fastest = at_point(sweep, "tp", {"tp": "best", "pp": "best"})
    assert float(fastest) == float(time.where(time == time.min(), drop=True).tp[0])
    by_pp = at_point(sweep, "step_time", {"tp": "best"})
    np.testing.assert_allclose(by_pp.values, time.min("tp").values)


@pytest.mark.parametrize(
    ("values", "name", "wanted"),
    [
        ([1.0, 2.0, 2.0], "rising", 1.0), ([0.0, 2.0, 1.0], "rising", 0.0), ([3.0, 2.0], "falling", 1.0),
        ([1.0, np.nan, 2.0], "rising", 1.0), ([1.0, 4.0, 2.0], "argmax", 1), ([3.0, 1.0, 2.0], "argmin", 1),
        ([1.0, 2.0, 3.0], "first_gain", 2.0), ([1.0, 2.0, 3.0], "last_gain", 1.5), ([1.0, np.nan], "max", 1.0),
        ([np.nan, np.nan], "min", np.nan), ([np.nan, 1.0], "last_gain", np.nan),
    ],
)  # fmt: skip
def test_measures(values: list[float], name: str, wanted: Any) -> None:
    """One number of a line; designs that do not count are NaN."""
    array = xr.DataArray(values, dims=["x"], coords={"x": list(range(len(values)))})
    np.testing.assert_equal(measure(array, name, "x"), float(wanted))


def test_whole_clusters_on_an_axis_take_the_device_count() -> None:
    """``devices`` holds for every cluster of an axis, not only for the first."""
    axes = dse.axis("cluster", ["dgx-a100", "tpu-v4-pod"], name="system")
    found = dse.sweep("gpt-1.7b", "dgx-a100", "global_batch=512", axes, devices=256)
    assert found["devices"].values.tolist() == [256, 256]
    assert found["step_time"].coords["system"].values.tolist() == ["dgx-a100", "tpu-v4-pod"]
