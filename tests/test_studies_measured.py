"""Studies of measured tables: the shipped ones, tables of one's own, checks that fall short, figures, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dse.accuracy.corpus import measured
from dse.accuracy.ranking import rankings
from dse.accuracy.uncertainty import corpus_runs
from dse.accuracy.validate import validate_training
from dse.errors import SpecError
from dse.study import report
from dse.study.checks import KNOWN, PASS, SHORT
from dse.study.corpus import design, places, select, sweep_table
from dse.study.study import StudyReport, run_study, studies
from dse.view.accuracy import predicted_vs_measured, ranking

SHIPPED = {"narayanan-sc21": 10, "korthikanti": 9, "megatron-weak-scaling": 12, "mosaicml": 216, "bloom-tuning": 106,
           "layout-sweep": 400}  # fmt: skip
# How many rows have a place in the fit of the constants: all or none.
IN_SAMPLE = {"korthikanti", "mosaicml", "bloom-tuning", "layout-sweep"}

MINE = """
kind: study
id: mine
title: A table of my own
question: How far off is it?
measured:
  - id: table
    table: mine.csv
    where: {n_gpus: {at_least: 64}}
    checks:
      - {check: rows, statistic: rows, at_least: 3}
      - {check: mean, statistic: mean_error, at_most: 0.3}
      - {check: theirs, statistic: median_error, at_most: 0.3, label: published, source: a paper}
figures:
  - {id: points, kind: accuracy, run: table, title: Mine}
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StudyReport]:
    """Every shipped study of measured tables, run once without pictures."""
    folder = tmp_path_factory.mktemp("measured")
    return {name: run_study(name, folder / name, images=False) for name in SHIPPED}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A study of a table of one's own: Narayanan's, under other ids, without a source."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "study.yaml").write_text(MINE, encoding="utf-8")
    table = measured("training").query("source_key == 'narayanan-sc21'")
    table.assign(id=[f"row-{i}" for i in range(len(table))]).drop(columns=["source_key", "fully_specified"]).to_csv(
        folder / "mine.csv", index=False
    )
    return folder


def by_check(found: StudyReport) -> pd.DataFrame:
    return found.verdicts.set_index("check")


# -- the shipped ones -------------------------------------------------------------------------------------------


def test_all_rows_are_there(reports: dict[str, StudyReport]) -> None:
    """No row of a table is lost, and every one has an interval and a design."""
    assert set(SHIPPED) <= set(studies())
    for name, rows in SHIPPED.items():
        first = next(iter(reports[name].measured.values()))
        assert len(first.rows) == rows and not first.refused, name
        assert (first.rows["low"] < first.rows["predicted"]).all() and (first.rows["design"] != "").all()
    assert len(reports["megatron-weak-scaling"].measured["readme-2021"].rows) == 11


def test_the_same_numbers_as_validate(reports: dict[str, StudyReport]) -> None:
    """A study's rows and statistics are those of ``dse validate training``."""
    found = validate_training()
    summary = found.summary()
    rows = found.rows.set_index("id")
    for report_of in reports.values():
        for table in report_of.measured.values():
            assert np.array_equal(rows.loc[table.rows["id"], "predicted"], table.rows["predicted"])
    layouts, checks = summary["by_source"]["layouts"], by_check(reports["layout-sweep"])
    assert checks.loc["Mean error of the step time", "ours"] == pytest.approx(100 * layouts["mean_ape"])
    sweeps = summary["ranking"]["layouts"]
    assert checks.loc["Pairs of layouts ranked in the right order", "ours"] == pytest.approx(100 * sweeps["agreement"])
    assert checks.loc["Mean regret of the layout predicted fastest", "ours"] == pytest.approx(100 * sweeps["regret"])


def test_limits_hold_or_show_as_short(reports: dict[str, StudyReport]) -> None:
    """A verdict is pass exactly where the number keeps its limit; what is known to fall short says why."""
    for name, found in reports.items():
        limits = {check.check: check for table in found.study.measured for check in table.checks}
        for row in found.verdicts[found.verdicts["label"].isin(["goal", "published"])].itertuples():
            if row.check not in limits:
                continue
            check, ours = limits[row.check], row.ours / (1 if row.unit == "1" else 100)
            low, high = check.at_least or -np.inf, np.inf if check.at_most is None else check.at_most
            kept = low - 1e-9 <= ours <= high + 1e-9
            assert (row.verdict == PASS) == kept, (name, row)
            assert (row.cause != "") == (row.verdict == KNOWN)


@pytest.mark.parametrize("name", sorted(set(SHIPPED) - {"layout-sweep"}))
def test_nothing_falls_short_unexplained(reports: dict[str, StudyReport], name: str) -> None:
    """Every check passes, or is a known shortfall with its cause."""
    assert reports[name].ok, reports[name].verdicts.query("verdict == 'short'").to_string()


def test_headline_errors(reports: dict[str, StudyReport]) -> None:
    """The goals for the two tables of Megatron: 6 % and 3.6 % in the mean; activations to 3 %."""
    assert by_check(reports["narayanan-sc21"]).loc["Mean error of the step time", "ours"] <= 6
    korthikanti = by_check(reports["korthikanti"])
    assert korthikanti.loc["Mean error of the step time", "ours"] <= 3.6
    assert korthikanti.loc["Mean error of the activation memory of figures 1 and 7", "ours"] <= 3


def test_limits_are_the_projects_own(reports: dict[str, StudyReport]) -> None:
    """No limit is passed off as a paper's; figure 1's values, which it does not print, are not the paper's either."""
    for found in reports.values():
        table = found.verdicts
        assert set(table.loc[table["published"].isna(), "label"]) == {"goal"}
        assert "this project (goal)" in (found.out / "report.md").read_text(encoding="utf-8")  # type: ignore[operator]
    table = reports["korthikanti"].verdicts
    assert set(table.loc[table["check"].str.contains("figure 1 "), "label"]) == {"re-derived"}
    assert set(table.loc[table["check"].str.contains("figure 7 ") & table["published"].notna(), "label"]) == {"paper"}


def test_in_sample_and_held_out_are_told_apart(reports: dict[str, StudyReport]) -> None:
    """Each check says whether the constants had seen its rows; held out is by those that never did."""
    runs = corpus_runs().set_index("id")
    for name, found in reports.items():
        errors = by_check(found).loc[["Mean error of the step time"]]
        assert errors["sample"].str.startswith("in-sample" if name in IN_SAMPLE else "not fitted").all()
        for table, held_out in zip(found.measured.values(), errors["held_out"], strict=True):
            rows = table.rows
            without = runs["without_source"].reindex(rows["id"]).to_numpy(float)
            wanted = np.where(np.isfinite(without), without, rows["predicted"])
            assert held_out == pytest.approx(100 * np.abs(wanted / rows["measured"] - 1).mean())
    memory = by_check(reports["layout-sweep"]).loc["Running out of memory told right (balanced)"]
    assert memory["sample"].startswith("in-sample") and memory["held_out"] > 90


def test_the_winning_layouts(reports: dict[str, StudyReport]) -> None:
    """A row for each model, number of GPUs and sequence length, with the same regret as the ranking's."""
    found = reports["layout-sweep"].measured["layouts"]
    table = sweep_table(found.places)
    assert len(table) == 10 and table["sweep"].is_unique
    one = rankings(found.rows.assign(source_key=found.rows["source"]))["layouts"]
    assert table["regret"].mean() == pytest.approx(one.regret) and table["regret"].max() == pytest.approx(
        one.worst_regret
    )
    assert (table.loc[table["same"], "regret"] == 0).all() and table["same"].mean() >= 0.5
    text = (reports["layout-sweep"].out / "report.md").read_text(encoding="utf-8")  # type: ignore[operator]
    assert "fastest predicted" in text and "Llama-65B" in text


def test_files_of_a_study(reports: dict[str, StudyReport]) -> None:
    """Tables as CSV, Parquet and Markdown, figures as pages, provenance with the rows' digest; nothing else."""
    for name, found in reports.items():
        out = found.out
        assert out is not None and {path.name for path in out.iterdir()} == {path.name for path in found.files}
        for table in found.measured.values():
            stem = out / table.block.id
            frame = pd.read_parquet(stem.with_suffix(".parquet"))
            assert len(frame) == len(pd.read_csv(stem.with_suffix(".csv"))) == len(table.rows)
            wanted = {"id", "measured [s]", "predicted [s]", "low [s]", "high [s]", "error [1]", "error held out [1]"}
            assert wanted <= set(frame) and stem.with_suffix(".md").read_text(encoding="utf-8").startswith("|")
        for figure in found.study.figures:
            assert "plotly" in (out / f"{figure.id}.html").read_text(encoding="utf-8")
        facts = json.loads((out / "provenance.json").read_text(encoding="utf-8"))
        assert set(facts["measured"]) == set(found.measured) and facts["calibration"], name


def test_a_second_run_is_the_same_to_the_byte(reports: dict[str, StudyReport], tmp_path: Path) -> None:
    """Nothing depends on when it was made."""
    for name in ("korthikanti", "bloom-tuning"):
        again = run_study(name, tmp_path / name, images=False)
        for one, other in zip(reports[name].files, again.files, strict=True):
            assert one.read_bytes() == other.read_bytes(), one.name


# -- a table of one's own -----------------------------------------------------------------------------------------


def test_a_table_of_ones_own(mine: Path, tmp_path: Path) -> None:
    """A CSV beside the study, or by its path, takes the same YAML; its rows count as never seen."""
    found = run_study(mine, tmp_path / "out", images=False)
    assert found.ok and len(found.measured["table"].rows) == 9
    assert set(found.measured["table"].rows["source"]) == {"file"} and not found.measured["table"].rows["seen"].any()
    table = by_check(found)
    assert table.loc["theirs", "label"] == "published" and table.loc["theirs", "source"] == "a paper"
    assert "publication: a paper" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    (mine / "mine.csv").rename(tmp_path / "elsewhere.csv")
    (mine / "study.yaml").write_text(MINE.replace("mine.csv", str(tmp_path / "elsewhere.csv")), encoding="utf-8")
    assert run_study(mine).verdicts["ours"].tolist() == found.verdicts["ours"].tolist()


def test_a_shortfall_fails_unless_it_is_known(mine: Path) -> None:
    """Short is short; a cause makes it known as far as it says, and no further."""
    lines: list[str] = []
    strict = MINE.replace("at_most: 0.3}", "at_most: 0.0001}")
    (mine / "study.yaml").write_text(strict, encoding="utf-8")
    found = run_study(mine, echo=lines.append)
    assert not found.ok and by_check(found).loc["mean", "verdict"] == SHORT and "fall short" in found.summary()
    known = "at_most: 0.0001, known_shortfall: {until: %s, cause: because it was made to fall short here}}"
    for until, verdict in ((0.3, KNOWN), (0.0002, SHORT)):
        (mine / "study.yaml").write_text(MINE.replace("at_most: 0.3}", known % until), encoding="utf-8")
        found = run_study(mine, echo=lines.append)
        row = by_check(found).loc["mean"]
        assert row["verdict"] == verdict and found.ok == (verdict == KNOWN) and "1 fall short" in found.summary()
        assert (row["cause"] != "") == (verdict == KNOWN)
    assert any("made to fall short" in line for line in lines) and any(line.startswith("short:") for line in lines)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("mine.csv", "none.csv", ["measured.0 (table)", "does not exist"]),
        ("n_gpus:", "n_gpu:", ["n_gpu", "did you mean 'n_gpus'"]),
        ("at_least: 64", "at_leest: 64", ["at_least, at_most or both"]),
        ("at_least: 64", "at_least: 1e9", ["leaves no row"]),
        ("statistic: mean_error", "statistic: mean_eror", ["did you mean 'mean_error'"]),
        (", at_most: 0.3}", "}", ["at_least or at_most"]),
        (", source: a paper", "", ["needs its source"]),
        ("statistic: mean_error", "statistic: agreement", ["nothing to compute it from"]),
        ("statistic: mean_error", "statistic: balanced_accuracy", ["lacks the columns"]),
        ("run: table", "run: tabel", ["did you mean 'table'"]),
        ("kind: accuracy", "kind: ranking", ["no sweep"]),
        ("kind: accuracy", "kind: breakdown", ["a run of this study, and it has none"]),
        ("run: table,", "run: table, quantity: memory,", ["needs a check of memory"]),
        ("run: table,", "run: table, by: colour,", ["must be one of"]),
        ("measured:", "measurd:", ["did you mean 'measured'"]),
        ("cause", "cause", []),
    ],
)
def test_a_malformed_study_names_its_faults(mine: Path, old: str, new: str, words: list[str]) -> None:
    """Every fault is a SpecError that says where and what."""
    if not words:
        old, new, words = "at_most: 0.3}", "at_most: 0.1, known_shortfall: {until: 1, cause: why}}", ["cause"]
    assert old in MINE
    (mine / "study.yaml").write_text(MINE.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SpecError) as error:
        run_study(mine)
    for word in words:
        assert word in str(error.value)


def test_filters() -> None:
    """One value, several, a range, blank; numbers match however they are written."""
    frame = pd.DataFrame({"id": list("abcd"), "n": [1.0, 8.0, 64.0, np.nan], "name": ["x", "y", None, "x"]})
    for where, wanted in (
        ({"n": 8}, "b"), ({"n": [1, 64]}, "ac"), ({"n": {"at_least": 8}}, "bc"), ({"n": {"at_most": 8}}, "ab"),
        ({"name": None}, "c"), ({"name": ["x", None]}, "acd"), ({"name": "x", "n": {"at_least": 0}}, "a"), ({}, "abcd"),
    ):  # fmt: skip
        assert "".join(select(frame, where)["id"]) == wanted, where  # type: ignore[arg-type]


def test_designs_say_what_differs() -> None:
    """Degrees of one are left out except tp and pp; blanks are too."""
    row = {"tp": 8.0, "pp": 1.0, "cp": 1.0, "dp": 4.0, "vpp": np.nan, "micro_batch": 2.0, "recompute": "full",
           "seq_parallel": True, "sharding": "zero1", "notes": "kernel=flash_attention2 + RMS kernel"}  # fmt: skip
    text = "tp8, pp1, dp4, micro-batch 2, full recompute, sequence parallel, zero1, flash attention, fused norm"
    assert design(row) == text
    assert design({"tp": 1.0, "pp": 1.0, "recompute": None, "sharding": None, "notes": None}) == "tp1, pp1"


def test_places_of_a_sweep() -> None:
    """Seconds a token decide; repeats of one design become one; two designs are no sweep."""
    base = {"source": "s", "gpu": "A100", "n_gpus": 8.0, "layers": 4.0, "hidden": 64.0, "vocab": 100.0, "seq_len": 10.0,
            "precision": "bf16", "model": "m", "design": "d"}  # fmt: skip
    times = [(2.0, 1.0, 2.0), (1.0, 1.5, 1.0), (1.2, 1.5, 1.0), (9.0, 9.0, 1.0)]
    rows = [
        {**base, "id": f"r{i}", "measured": m, "predicted": p, "global_batch": b} for i, (m, p, b) in enumerate(times)
    ]
    found = places(pd.DataFrame(rows))
    assert found["id"].tolist() == ["r0", "r1, r2", "r3"]
    assert found["measured_place"].tolist() == [1, 2, 3] and found["predicted_place"].tolist() == [1, 2, 3]
    assert not len(places(pd.DataFrame(rows[1:])))


# -- figures ----------------------------------------------------------------------------------------------------


def rows_to_draw() -> pd.DataFrame:
    measured_values = np.array([1.0, 10.0, 100.0])
    return pd.DataFrame({"id": list("abc"), "source": ["s", "s", "t"], "measured": measured_values,
                         "predicted": measured_values * [1.1, 0.9, 1.0], "low": measured_values * 0.8,
                         "high": measured_values * 1.3, "design": "tp8"})  # fmt: skip


def test_predicted_over_measured() -> None:
    """Logarithmic axes of one range, the diagonal, the band, a colour a source, whiskers, and hover with id and design."""
    figure = predicted_vs_measured(rows_to_draw(), title="T")
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log" and figure.layout.yaxis2.type is None
    assert tuple(figure.layout.xaxis.range) == tuple(figure.layout.yaxis.range)
    names = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert {"within 10 %", "no error", "s (2, 10.0 %)", "t (1, 0.0 %)"} == set(names)
    marks = next(trace for trace in figure.data if trace.name == "s (2, 10.0 %)")
    np.testing.assert_allclose(marks.error_y.array, [0.2, 4.0])
    np.testing.assert_allclose(marks.error_y.arrayminus, [0.3, 1.0])
    assert "<b>a</b>" in marks.customdata[0] and "tp8" in marks.customdata[0] and "+10.0%" in marks.customdata[0]


@pytest.mark.parametrize("columns", [["id", "measured", "predicted"], ["id", "source", "measured", "predicted", "low"]])
def test_predicted_over_measured_takes_what_there_is(columns: list[str]) -> None:
    """Without source, intervals or design there still is a figure; rows without a number are left out."""
    rows = rows_to_draw()
    rows.loc[1, "measured"] = np.nan
    figure = predicted_vs_measured(rows[columns], unit="GiB", dark=True)
    assert sum(len(t.x) for t in figure.data if t.mode == "markers" and t.showlegend is not False) == 2
    assert "GiB" in figure.layout.xaxis.title.text
    assert "no row" in predicted_vs_measured(rows[columns].iloc[:0]).layout.annotations[0].text


def test_the_report_of_validate_can_be_drawn(reports: dict[str, StudyReport]) -> None:
    """The rows of ``validate_training`` as they are, by any of their columns."""
    rows = validate_training().rows
    for colour in ("source", "hardware", "stack"):
        assert len(predicted_vs_measured(rows, colour=colour).data) >= 4
    found = reports["layout-sweep"].measured["layouts"]
    figure = ranking(found.places)
    assert sum(trace.name == "predicted fastest" for trace in figure.data) == 10
    assert any("regret" in note.text for note in figure.layout.annotations)


def test_pictures_are_drawn_where_there_is_a_browser(mine: Path, tmp_path: Path) -> None:
    """A PNG beside the page."""
    if not report.browser_found():
        pytest.skip("no Chromium")
    run_study(mine, tmp_path / "out")
    assert (tmp_path / "out" / "points.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_command_exits_with_one_only_for_what_is_unexplained(mine: Path, tmp_path: Path) -> None:
    """``dse reproduce`` on a study of one's own."""
    from typer.testing import CliRunner

    from dse.cli import app

    arguments: list[Any] = ["reproduce", str(mine), "--out", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and json.loads(done.stdout)["ok"]
    (mine / "study.yaml").write_text(MINE.replace("at_most: 0.3}", "at_most: 0.0001}"), encoding="utf-8")
    assert CliRunner().invoke(app, arguments).exit_code == 1
