"""The catalogue's GEMM constants are what the shipped measurements give, and explain them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dse.accuracy.gemm import ACCELERATORS, fit_gemm, validate_gemm
from dse.errors import SpecError
from dse.spec import load_accelerator


@pytest.mark.parametrize("gpu", sorted(ACCELERATORS))
def test_catalogue_holds_the_fitted_surface(gpu):
    """A refit in 16 bit gives the catalogue's constants, with a median error below 7 %."""
    values, errors = fit_gemm(gpu, "bf16")
    limits = load_accelerator(ACCELERATORS[gpu]).efficiency
    for name, value in values.items():
        assert getattr(limits, name) == pytest.approx(value, rel=0.03), name
    assert np.median(np.abs(errors)) < 0.07
    assert limits.matrix_fp8 is None or limits.matrix_fp8 == pytest.approx(fit_gemm(gpu, "fp8")[0]["matrix"], rel=0.03)


ROW = {"id": "r", "source_key": "s", "gpu": "H200", "dtype": "bf16", "m": 8192, "n": 8192, "k": 8192, "time_us": 1500.0}


def test_shipped_products_are_predicted():
    """Every shipped product is predicted, within 8 % at the median and 12 % at the mean."""
    report = validate_gemm()
    found = report.summary()
    assert found["n_predicted"] == found["n"] == 3204
    assert found["median_ape"] < 0.08 and found["mean_ape"] < 0.12 and abs(found["bias"]) < 0.03
    assert all(part["median_ape"] < 0.12 for part in found["by_gpu"].values())
    assert set(found["by_dtype"]) == {"bf16", "fp8"} and len(found["by_size"]) == 4
    assert len(found["worst"]) == 10 and "B300" in str(report)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gpu": "abacus"}, "unknown GPU"),
        ({"dtype": "fp3"}, "data type"),
        ({"gpu": "A100-80GB", "dtype": "fp8"}, "no FP8"),
        ({"m": 0}, "not positive"),
        ({"time_us": np.nan}, "not positive"),
    ],
)
def test_products_are_refused_with_the_reason(change, reason, tmp_path):
    """What cannot be predicted is refused with its reason beside the rows that are predicted."""
    path = tmp_path / "rows.csv"
    pd.DataFrame([ROW, {**ROW, **change, "id": "odd"}]).to_csv(path, index=False)
    report = validate_gemm(path)
    assert reason in report.refused["odd"] and list(report.rows["id"]) == ["r"]
    assert abs(report.rows["error"][0]) < 0.5
    assert reason in str(report)


def test_nothing_to_predict(tmp_path):
    """A table of refused rows gives an empty report, one without its columns an error."""
    path = tmp_path / "rows.csv"
    pd.DataFrame([{**ROW, "gpu": "abacus"}]).to_csv(path, index=False)
    assert validate_gemm(path).summary()["n_predicted"] == 0 and str(validate_gemm(path))
    pd.DataFrame([{"id": "r", "gpu": "H200"}]).to_csv(path, index=False)
    with pytest.raises(SpecError, match="time_us"):
        validate_gemm(path)
