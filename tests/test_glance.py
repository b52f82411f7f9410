"""The names that pickers show are those of the full reading."""

from __future__ import annotations

import pytest

from dse.spec import load_cluster, load_model
from dse.spec.catalogue import ids
from dse.spec.glance import family, glance, vendor


@pytest.mark.parametrize("entry", ids("model"))
def test_models(entry: str):
    """Name and kind of a model."""
    model = load_model(entry)
    assert glance("model", entry)["name"] == model.name
    usual = {"transformer": "Dense transformers", "dlrm": "Recommendation"}.get(model.family, "Convolution")
    assert family(entry) == ("Mixtures of experts" if getattr(model, "moe", None) else usual)


@pytest.mark.parametrize("entry", ids("cluster"))
def test_clusters(entry: str):
    """Name and maker of a cluster."""
    cluster = load_cluster(entry)
    assert glance("cluster", entry)["name"] == cluster.name
    assert vendor(entry) == cluster.accelerator.vendor
