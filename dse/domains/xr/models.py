"""The 11 unit models of XRBench: their names and their layers."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dse.domains.xr.layer import Layer
from dse.errors import Fault, SpecError
from dse.spec.catalogue import asset_root

# Short code and name as the artifact's files have it. Its runtime serves models in the order of these names.
NAMES = {
    "HT": "HT_hand_graph_cnn_half",
    "ES": "ES_RITNet",
    "GE": "GE_FBNet_C",
    "KD": "KD_res8_narrow",
    "SR": "ASR_EM_24L",
    "SS": "SS_HRViT_b1",
    "OD": "OD_D2go_FasterRCNN",
    "AS": "AS_ED_TCN",
    "DE": "DE_midas_v21_small",
    "DR": "DR_RGBd_200",
    "PD": "PD_Plane_RCNN_Quarter",
}
TITLES = {
    "HT": "hand tracking",
    "ES": "eye segmentation",
    "GE": "gaze estimation",
    "KD": "keyword detection",
    "SR": "speech recognition",
    "SS": "semantic segmentation",
    "OD": "object detection",
    "AS": "action segmentation",
    "DE": "depth estimation",
    "DR": "depth refinement",
    "PD": "plane detection",
}
# One scenario calls object detection by another name, which changes its place in the order.
CODES = {name: code for code, name in NAMES.items()} | {"D2go_FastRCNN": "OD"}


class UnitModel(NamedTuple):
    """Attributes:
    code: two letters. name: as in the artifact. title: what it does.
    layer_names: one a layer.
    layers: convolutions of stride 1. ``groups`` counts depthwise layers right; ``layers.as_dense()`` are the published
        ones, all dense.
    """

    code: str
    name: str
    title: str
    layer_names: tuple[str, ...]
    layers: Layer


def full_name(name: str) -> str:
    """A model's name in the artifact's files: of a code its name, of any other name that name."""
    return NAMES.get(name, name)


def code(name: str) -> str:
    """A model's short code; a model that is not of XRBench has its name for a code."""
    return CODES.get(name, name)


@lru_cache(maxsize=1)
def unit_models() -> dict[str, UnitModel]:
    """The unit models by code."""
    import pandas as pd

    # "NA" and the like could be names of layers.
    table = pd.read_csv(asset_root("data") / "xrbench" / "layers.csv", keep_default_na=False)
    found = {}
    for short, rows in table.groupby("task", sort=False):
        sizes = (rows[column].to_numpy(np.int64) for column in ("K", "C", "R", "S", "Y", "X", "groups"))
        found[str(short)] = UnitModel(
            str(short), NAMES[str(short)], TITLES[str(short)], tuple(rows["layer"]), Layer(*sizes)
        )
    return found


def unit_model(name: str) -> UnitModel:
    """A unit model by its code or name.

    Raises:
        SpecError: it is none of XRBench.
    """
    found = unit_models().get(code(name))
    if found is None:
        raise SpecError([Fault("model", repr(name)[:60], f"must be one of {', '.join(NAMES)}")])
    return found
