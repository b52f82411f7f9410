"""What training a weather emulator costs, counted from its configuration alone: an estimate, not a measurement.

FLOPs are counted layer by layer; a backward pass takes twice the forward one. The rate that a device reaches is one
that was published for the same code at another scale, so that the answer may well be off by a factor of two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from dse.domains.continuum.scaling_tables import FOLDER, read
from dse.errors import Fault, SpecError
from dse.spec.catalogue import asset_root

PETA, HOUR = 1e15, 3600.0
BACKWARD = 2.0  # of the forward pass


@dataclass(frozen=True)
class Training:
    """Attributes:
    name: of the emulator.
    step: FLOPs of one step forward.
    flops: of the whole training.
    rate: FLOP/s that a device is taken to reach.
    hours: device-hours.
    published: device-hours that were published; None: none.
    note: what the estimate rests on.
    """

    name: str
    step: float
    flops: float
    rate: float
    hours: float
    published: float | None
    note: str

    @property
    def ratio(self) -> float:
        """Estimated over published device-hours; NaN where none were published."""
        return math.nan if self.published is None else self.hours / self.published


def step_flops(config: dict[str, Any]) -> float:
    """FLOPs of one step forward of an adaptive Fourier neural operator: matrix products and transforms.

    Every block mixes modes by two complex products, block-diagonal over channels, on half of the spectrum, between a
    transform and its inverse; then comes a two-layer perceptron.
    """
    high, wide = (edge // config["patch"] for edge in config["grid"])
    tokens, width = high * wide, config["width"]
    pixels = config["channels"] * config["patch"] ** 2
    modes = high * (wide // 2 + 1)
    mixing = 2 * 4 * modes * width * width // config["blocks"]
    perceptron = 2 * tokens * width * width * config["mlp_ratio"]
    transforms = 2 * 2.5 * tokens * math.log2(tokens) * width  # real ones, there and back
    ends = 2 * tokens * pixels * width
    return 2.0 * (config["depth"] * (mixing + perceptron) + ends) + config["depth"] * transforms


def training_hours(name: str = "FourCastNet", *, rate: float | None = None) -> Training:
    """Device-hours of training, from the configuration.

    Args:
        name: an emulator of ``data/continuum/emulators.yaml``.
        rate: FLOP/s that a device reaches; None: the published one.

    Raises:
        SpecError: no such emulator, or a rate that is not positive.
    """
    config = _config(name)
    if rate is not None and not 0 < rate < math.inf:
        raise SpecError([Fault("rate", f"{rate:g}", "must be above 0 FLOP/s")])
    step = step_flops(config)
    passes = sum(s["epochs"] * (s["steps"] * (1 + BACKWARD) + s["frozen"]) for s in config["stages"])
    flops = step * config["samples"] * passes
    known = config["rate"]
    reached = _anchor(known["quantity"]) * PETA / known["devices"] if rate is None else rate
    published = _anchor(config["published"]["quantity"]) * config["published"]["devices"]
    source = f"rate of {known['quantity']}" if rate is None else "rate as given"
    note = f"estimated from the configuration alone ({config['source']}); {source}"
    return Training(name, step, flops, reached, flops / reached / HOUR, published, note)


def _config(name: str) -> dict[str, Any]:
    from ruamel.yaml import YAML

    known = YAML(typ="safe", pure=True).load(asset_root("data") / "continuum" / "emulators.yaml")
    if name not in known:
        raise SpecError([Fault("emulator", repr(name)[:60], f"must be one of {', '.join(known)}")])
    return dict(known[name])


def _anchor(quantity: str) -> float:
    """A published value."""
    table = read(asset_root("data") / FOLDER / "published_anchor_points.csv")
    return float(table.set_index("quantity").loc[quantity, "value"])
