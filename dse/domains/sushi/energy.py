"""Off-chip traffic and energy of SubNets on an accelerator that keeps a SubGraph, with the accounting stated.

Energy = multiply-adds · e_mac + on-chip bytes · e_on + off-chip bytes · e_off + idle power · latency.
On-chip bytes follow the loop order: each weight is read once into the array (and written to its buffer once where it
does not hit), each input once for every tile of kernels, each 4-byte partial sum is read and written for every tile of
channels but the first, and what crosses the chip's edge is written or read once in a buffer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dse.cost.arrays import safe_divide
from dse.domains.sushi.accelerator import ACCOUNTINGS, SubGraphAccelerator
from dse.domains.sushi.latency import hardware_axes, layer_times, work
from dse.domains.sushi.layers import Layers
from dse.errors import Fault, SpecError

Array = Any
_PARTIAL_SUM = 4  # bytes of an accumulator


class Traffic(NamedTuple):
    """Bytes that cross the chip's edge, by layer."""

    weights: Array
    inputs: Array
    outputs: Array
    residuals: Array

    @property
    def total(self) -> Array:
        """All of them [B]."""
        return self.weights + self.inputs + self.outputs + self.residuals


class Energy(NamedTuple):
    """Energy by layer [J]."""

    macs: Array
    on_chip: Array
    off_chip: Array
    idle: Array

    @property
    def total(self) -> Array:
        """All of it [J]."""
        return self.macs + self.on_chip + self.off_chip + self.idle


def traffic(
    accelerator: SubGraphAccelerator,
    layers: Layers,
    cached: Array = 0.0,
    *,
    accounting: str | None = None,
    shortcuts: Array = None,
) -> Traffic:
    """Off-chip bytes of layers, axes as in :func:`dse.domains.sushi.latency.layer_times`.

    Args:
        accelerator, layers, cached, shortcuts: as there.
        accounting: one of ``ACCOUNTINGS`` in place of the accelerator's own.

    Raises:
        SpecError: an unknown accounting.
    """
    a = hardware_axes(counted(accelerator, accounting), np.ndim(layers.k))
    done = work(a, layers, shortcuts)
    missing = done.weights * (1 - safe_divide(cached, layers.weights))
    return Traffic(missing, done.inputs, done.outputs, done.residuals)


def counted(accelerator: SubGraphAccelerator, accounting: str | None) -> SubGraphAccelerator:
    """The accelerator under another accounting of its traffic."""
    if accounting is None:
        return accelerator
    if accounting not in ACCOUNTINGS:
        raise SpecError([Fault("accounting", repr(accounting)[:60], f"must be one of {', '.join(ACCOUNTINGS)}")])
    return accelerator.model_copy(update={"accounting": accounting})


def layer_energy(
    accelerator: SubGraphAccelerator,
    layers: Layers,
    cached: Array = 0.0,
    *,
    accounting: str | None = None,
    shortcuts: Array = None,
) -> Energy:
    """Energy of layers [J]; arguments and axes as in :func:`traffic`.

    Idle power lasts as long as the layers take on the accelerator as it is, whatever ``accounting`` counts.
    """
    counts = counted(accelerator, accounting)
    moved = traffic(counts, layers, cached, shortcuts=shortcuts)
    times = layer_times(accelerator, layers, cached, shortcuts=shortcuts)
    a = hardware_axes(counts, np.ndim(layers.k))
    done = work(a, layers, shortcuts)
    inputs = layers.c * layers.groups * layers.x**2 * done.kernel_tiles
    outputs = layers.k * layers.y**2
    sums = 2 * _PARTIAL_SUM * outputs * np.maximum(done.channel_tiles - 1, 0)
    on_chip = done.weights + inputs + sums + outputs + moved.total
    return Energy(
        layers.macs * a.energy_per_mac,
        on_chip * a.energy_per_on_chip_byte,
        moved.total * a.energy_per_off_chip_byte,
        times.total * a.idle_power,
    )


def load_energy(accelerator: SubGraphAccelerator, size: Array) -> Array:
    """Energy to bring ``size`` bytes of a SubGraph into the persistent buffer [J], idle power meanwhile included."""
    a = hardware_axes(accelerator, np.ndim(size))
    return size * (a.energy_per_off_chip_byte + a.energy_per_on_chip_byte) + load_time(accelerator, size) * a.idle_power


def load_time(accelerator: SubGraphAccelerator, size: Array) -> Array:
    """Time to bring ``size`` bytes of a SubGraph into the persistent buffer [s]."""
    a = hardware_axes(accelerator, np.ndim(size))
    return size / (a.weight_bandwidth * a.burst_efficiency)
