"""Measured runs become designs: all at once, each as it would be alone, and refusals say why."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dse.accuracy.corpus import Batch, batches, measured, merge_runs, predictable, read_table
from dse.accuracy.predict import predictions
from dse.accuracy.validate import Report, validate_training
from dse.errors import SpecError
from dse.explore.evaluate import price


@pytest.fixture(scope="module")
def runs() -> tuple[list[Batch], dict[str, str]]:
    """Batches of all predictable training runs."""
    return batches(predictable(measured("training")))


@pytest.fixture(scope="module")
def report() -> Report:
    """The shipped training runs, predicted."""
    return validate_training()


def test_a_batch_prices_each_run_as_it_would_be_alone(runs: tuple[list[Batch], dict[str, str]]) -> None:
    """Merging hundreds of designs into arrays changes none of them."""
    for batch in runs[0]:
        together = price(batch.specs, devices_given=True)["step_time"]
        assert together.shape == (len(batch.ids),) and np.all(np.isfinite(together)) and np.all(together > 0)
        for index in range(0, len(batch.ids), 40):
            alone = price(merge_runs(batch.runs[index : index + 1]).specs, devices_given=True)["step_time"]
            assert together[index] == pytest.approx(float(alone), rel=1e-12)


def test_every_row_is_predicted_or_refused_with_a_reason(report: Report) -> None:
    """No row disappears; nearly all fully specified rows and most others get a prediction."""
    frame = measured("training")
    wanted = set(frame[frame["status"] == "ok"]["id"])
    assert set(report.rows["id"]) | set(report.refused) == wanted
    assert not set(report.rows["id"]) & set(report.refused)
    assert all(len(reason) > 10 for reason in report.refused.values())
    found = report.summary()
    assert found["n_specified_predicted"] >= 0.95 * found["n_specified"]
    assert found["n_predicted"] >= 0.80 * found["n"]


def test_the_errors_stay_within_their_goals(report: Report) -> None:
    """Goals of the project for rows that the constants were fitted to; held-out errors are tested with the fit."""
    found = report.summary()
    alike = found["publications_alike"]
    assert alike["median_ape"] < 0.05 and alike["p90_ape"] < 0.15 and alike["coverage90"] > 0.85
    assert found["by_source"]["korthikanti22"]["mean_ape"] < 0.036
    rows = report.rows[report.rows["source"] == "narayanan-sc21"]
    assert len(rows) == 10 and rows["error"].abs().mean() < 0.06
    for name in ("layouts", "llm-foundry", "bigscience-176B"):
        assert found["ranking"][name]["agreement"] > 0.8 and found["ranking"][name]["regret"] < 0.06
    assert "korthikanti22" in str(report) and "not predicted" in str(report)


def test_blank_recomputation_widens_the_interval() -> None:
    """A row that leaves recomputation open stands for several designs; what is known narrows it."""
    frame = measured("training")
    row = frame[(frame["source_key"] == "layouts") & (frame["recompute"] == "full")].head(1)
    open_row = row.assign(recompute=None, id="open")
    found, refused = predictions(pd.concat([row, open_row], ignore_index=True))
    assert not refused and len(found) == 2
    known, unknown = found.iloc[0], found.loc["open"]
    assert known["spread_low"] == known["spread_high"] == 1.0 and not known["chosen"]
    assert unknown["chosen"]["recompute"] in ("none", "full")
    tight = row.assign(recompute=None, id="tight", micro_batch=8, global_batch=row["global_batch"] * 8)
    found, _ = predictions(tight)  # without recomputation this one cannot fit
    assert found.loc["tight"]["chosen"]["recompute"] == "full"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gpu": "Cray-1"}, "Cray-1"),
        ({"arch": "hybrid_ssm_moe"}, "state-space"),
        ({"precision": "int4"}, "int4"),
        ({"layers": None}, "layers"),
        ({"tp": "many"}, "not a number"),
        ({"sharding": "zero9"}, "zero9"),
        ({"task": "inference"}, "inference"),
    ],
)
def test_rows_that_cannot_be_expressed_are_refused(change: dict[str, object], reason: str) -> None:
    """Each with what is wrong, never guessed."""
    frame = measured("training").head(1).astype(object).assign(**change)
    found, refused = predictions(frame)
    assert not len(found) and reason in next(iter(refused.values()))


def test_hostile_tables_are_refused(tmp_path) -> None:
    """A missing file, a file that is no table, and a table without ids are clear errors."""
    junk = tmp_path / "junk.csv"
    junk.write_bytes(b"\x00\xff\xfe")
    bare = tmp_path / "bare.csv"
    bare.write_text("a,b\n1,2\n")
    for path in (tmp_path / "none.csv", junk, bare):
        with pytest.raises(SpecError):
            read_table(path)


def test_a_table_of_the_bare_minimum_is_predicted(tmp_path) -> None:
    """Columns that the table lacks count as blank; without measured times there are predictions and no errors."""
    columns = ["id", "layers", "hidden", "heads", "ffn_hidden", "vocab", "seq_len", "gpu", "n_gpus", "tp", "pp", "dp",
               "micro_batch", "global_batch"]  # fmt: skip
    path = tmp_path / "mine.csv"
    measured("training").head(3)[columns].to_csv(path, index=False)
    report = validate_training(path)
    assert len(report.rows) == 3 and report.summary()["n_measured"] == 0
    assert list(report.table().columns)[:2] == ["id", "predicted_iter_time_s"]
