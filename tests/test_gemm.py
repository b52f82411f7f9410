"""The catalogue's GEMM constants are what the shipped measurements give, and explain them."""

from __future__ import annotations

import numpy as np
import pytest

from dse.accuracy.gemm import ACCELERATORS, fit_gemm
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
