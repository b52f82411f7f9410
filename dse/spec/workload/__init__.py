"""Workloads: model families that lower themselves to operators."""

from __future__ import annotations

from typing import Any

from dse.errors import Fault, SpecError
from dse.spec import catalogue
from dse.spec.workload.base import Model
from dse.spec.workload.convnet import ConvNet
from dse.spec.workload.dlrm import DLRM
from dse.spec.workload.layers import LayerList
from dse.spec.workload.transformer import Transformer

FAMILIES: dict[str, type[Model]] = {"transformer": Transformer, "dlrm": DLRM, "convnet": ConvNet, "layers": LayerList}


def load_model(reference: Any) -> Model:
    """Load a model from the catalogue, a YAML file, a CSV of layers, a mapping, or return an instance as it is.

    Raises:
        SpecError: with every fault, the file and the lines.
    """
    if isinstance(reference, Model):
        return reference
    if str(reference).endswith(".csv"):
        from pathlib import Path

        path = Path(reference)
        name = "".join(c if c.isalnum() or c in "._-" else "-" for c in path.stem).lstrip("._-") or "layers"
        return LayerList.parse({"id": name, "csv": str(path)}, where=str(path))
    if isinstance(reference, dict):
        data = catalogue.inherit("model", reference, folder=None)
        where = ""
    else:
        data, path, _ = catalogue.read("model", reference)
        where = str(path)
    family = data.get("family", "transformer")
    if not isinstance(family, str) or family not in FAMILIES:
        raise SpecError([Fault("family", repr(family)[:60], f"must be one of {', '.join(FAMILIES)}", where)])
    return catalogue.load(FAMILIES[family], "model", reference)
