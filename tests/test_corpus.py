"""Measured runs become designs: all at once, each as it would be alone, and refusals say why."""

from __future__ import annotations

import numpy as np
import pytest

from dse.accuracy.corpus import batches, measured, merge_runs, predictable, read_table
from dse.accuracy.validate import validate_training
from dse.errors import SpecError
from dse.explore.evaluate import price


@pytest.fixture(scope="module")
def runs():
    """The batch of all predictable training runs."""
    found, refused = batches(predictable(measured("training")))
    return found[0], refused


def test_a_batch_prices_each_run_as_it_would_be_alone(runs):
    """Merging hundreds of designs into arrays changes none of them."""
    batch, _ = runs
    together = price(batch.specs, devices_given=True)["step_time"]
    assert together.shape == (len(batch.ids),) and np.all(np.isfinite(together)) and np.all(together > 0)
    for index in range(0, len(batch.ids), 60):
        alone = price(merge_runs(batch.runs[index : index + 1]).specs, devices_given=True)["step_time"]
        assert together[index] == pytest.approx(float(alone), rel=1e-12)


def test_every_row_is_predicted_or_refused_with_a_reason(runs):
    """No row disappears."""
    batch, refused = runs
    frame = predictable(measured("training"))
    assert set(batch.ids) | set(refused) == set(frame["id"]) and not set(batch.ids) & set(refused)
    assert all(len(reason) > 10 for reason in refused.values())


def test_hostile_tables_are_refused(tmp_path):
    """A missing file, a file that is no table, and a table without ids are clear errors."""
    junk = tmp_path / "junk.csv"
    junk.write_bytes(b"\x00\xff\xfe")
    bare = tmp_path / "bare.csv"
    bare.write_text("a,b\n1,2\n")
    for path in (tmp_path / "none.csv", junk, bare):
        with pytest.raises(SpecError):
            read_table(path)


def test_the_report_counts_every_row_and_every_publication():
    """Errors by publication add up to all rows, and a table without columns is refused."""
    report = validate_training()
    found = report.summary()
    assert found["n"] == found["n_predicted"] + sum(found["refused"].values())
    assert sum(e["n"] for e in found["by_source"].values()) == found["n_predicted"] > 800
    assert 0 < found["median_ape"] < 0.25
    assert "korthikanti22" in str(report)


def test_a_table_that_lacks_columns_is_refused(tmp_path):
    """The message names the columns."""
    bare = tmp_path / "bare.csv"
    bare.write_text("id,status\n1,ok\n")
    with pytest.raises(SpecError, match="dup_of"):
        validate_training(bare)
