"""Power, heat and battery of XR runs: average and peak power against a budget, temperature of a one-node model, hours.

Heat: C dT/dt = P - T / R, T above the air, solved exactly for power that is constant within each bin of the trace. The
run is taken to repeat for ever, so that the temperature of its end is that of its begin.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.xr.runtime import Runs
from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.catalogue import asset_root
from dse.spec.fields import PositiveFraction, Watts, quantity
from dse.spec.load import read_yaml

if TYPE_CHECKING:
    import pandas as pd

_Positive = quantity("1", 1e-6, 1e9)


class Headset(Spec):
    """What carries the accelerator.

    Attributes:
        static: power of all else: display, sensors, radio, host.
        idle: of each part of the accelerator, always; the energy of models comes on top.
        budget: of all.
        battery: energy of a full one.
        efficiency: from the battery to what uses it.
        resistance: from the chip to the air, K/W.
        capacity: of heat, J/K.
        rise: above the air that is allowed, K.
    """

    static: Watts = 0.0
    idle: Watts = 0.0
    budget: Watts
    battery: quantity("J", 1e-3, 1e9)  # type: ignore[valid-type]
    efficiency: PositiveFraction = 1.0
    resistance: _Positive  # type: ignore[valid-type]
    capacity: _Positive  # type: ignore[valid-type]
    rise: _Positive  # type: ignore[valid-type]


def headset(reference: Any = None) -> Headset:
    """A headset from a YAML file, a mapping or a spec; an assumed one where nothing is given.

    Raises:
        SpecError: with every fault, the file and the lines.
    """
    if isinstance(reference, Headset):
        return reference
    if isinstance(reference, dict):
        return Headset.parse(reference)
    if reference is not None and not isinstance(reference, str | Path):
        raise SpecError([Fault("headset", type(reference).__name__, "must be a path or a mapping")])
    path = Path(reference) if reference is not None else asset_root("data") / "xrbench" / "headset.yaml"
    data, lines = read_yaml(path)
    return Headset.parse(data, where=str(path), lines=lines)


def watts(runs: Runs, carrier: Headset | None = None) -> np.ndarray:
    """Power in each bin of the trace, W [S, N, bins], over the horizon; with a carrier, that of all.

    Raises:
        SpecError: the runs have no trace.
    """
    bins = int(1e3 * runs.conditions.horizon / runs.width)
    if not runs.trace.shape[2] or not bins:
        raise SpecError([Fault("trace", "", "was not kept: run again with a width below the horizon")])
    found = runs.trace[:, :, :bins] / runs.width  # mJ per ms
    if carrier is not None:
        parts = np.isfinite(runs.work.latency[:, 0, 0]).sum(axis=1)
        found = found + (carrier.static + carrier.idle * parts)[:, None, None]
    return found


def temperature(power: np.ndarray, width: float, carrier: Headset) -> np.ndarray:
    """Rise above the air at the end of each bin, K, of power [..., bins] in W that repeats for ever.

    Args:
        width: of a bin, s.
    """
    decay, bins = width / (carrier.resistance * carrier.capacity), power.shape[-1]
    cold, step = -np.expm1(-decay) * carrier.resistance * power, 1
    while step < bins:  # each bin has gathered what ``step`` bins before it left; twice as many each time
        cold[..., step:] += np.exp(-decay * step) * cold[..., :-step].copy()
        step *= 2
    left = np.exp(-decay * np.arange(1, bins + 1))
    return cold + cold[..., -1:] / -np.expm1(-decay * bins) * left


def summary(runs: Runs, carrier: Any = None, *, window: float = 0.01) -> pd.DataFrame:
    """Power of each system over all seeds.

    Args:
        carrier: headset, see :func:`headset`.
        window: over which peak power is averaged, s.

    Returns:
        One row a system: ``accelerator`` (mean power of its models), ``mean`` and ``peak`` of all [W], ``over`` (share
        of the time over budget, by window), ``rise`` (highest, K), ``sustainable`` (power at which the rise is what is
        allowed, W), ``time_to_limit`` [s] from cold (infinite: never), ``hours`` on a battery, ``mJ_per_frame``.
    """
    import pandas as pd

    carrier = headset(carrier)
    power, models = watts(runs, carrier), watts(runs)
    step = 1e-3 * runs.width
    wide = max(round(window / step), 1)
    if wide > power.shape[2]:
        raise SpecError([Fault("window", f"{window!r} s", f"must be {power.shape[2] * step:g} s at most")])
    sums = np.cumsum(np.pad(power, ((0, 0), (0, 0), (1, 0))), axis=2)
    moving = (sums[:, :, wide:] - sums[:, :, :-wide]) / wide
    mean = power.mean(axis=(1, 2))
    limit = carrier.rise / carrier.resistance
    with np.errstate(divide="ignore", invalid="ignore"):
        soon = -carrier.resistance * carrier.capacity * np.log1p(-limit / mean)
    hours = np.full_like(mean, np.inf)
    np.divide(carrier.battery * carrier.efficiency / 3600, mean, out=hours, where=mean > 0)
    frames = runs.sums.values[..., 0].sum(axis=(1, 2)) - runs.sums.values[..., 1].sum(axis=(1, 2))
    energy = runs.sums.values[..., 6].sum(axis=(1, 2))
    return pd.DataFrame({
        "system": [item.id for item in runs.systems], "accelerator": models.mean(axis=(1, 2)), "mean": mean,
        "peak": moving.max(axis=(1, 2)), "over": (moving > carrier.budget).mean(axis=(1, 2)),
        "rise": temperature(power, step, carrier).max(axis=(1, 2)), "sustainable": limit,
        "time_to_limit": np.where(mean > limit, soon, np.inf),
        "hours": hours,
        "mJ_per_frame": np.divide(energy, frames, out=np.zeros_like(energy), where=frames > 0),
    })  # fmt: skip
