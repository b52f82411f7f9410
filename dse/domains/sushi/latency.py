"""Time of layers on an accelerator that keeps a SubGraph, term by term, for any axes of hardware and SubGraphs.

Axes are [hardware..., subnet, subgraph, slot]; a term that does not depend on an axis is not computed along it.
The equations are re-derived from the array's loop order (tile of kernels, tile of channels, window position) and agree
with 108 measured layers (:mod:`dse.domains.sushi.calibrate`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dse.cost.arrays import safe_divide
from dse.domains.sushi.accelerator import SubGraphAccelerator
from dse.domains.sushi.layers import Layers
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    import pandas as pd

Array = Any


class Work(NamedTuple):
    """What layers ask of the array and of the memory; nothing is cached yet.

    Attributes:
        tiles: of weights that the array holds one after the other.
        kernel_tiles: how often each input is read into the array;
        channel_tiles: how many sums make up an output.
        cycles: of the array.
        weights: bytes of weights as memory stores them.
        inputs, outputs: bytes of activations that move off chip.
        residuals: bytes of shortcuts that are read once more.
    """

    tiles: Array
    kernel_tiles: Array
    channel_tiles: Array
    cycles: Array
    weights: Array
    inputs: Array
    outputs: Array
    residuals: Array

    @property
    def activations(self) -> Array:
        """All that moves off chip but weights [B]."""
        return self.inputs + self.outputs + self.residuals


class LayerTimes(NamedTuple):
    """Times of layers [s], 0 where a slot has none.

    Attributes:
        compute: of the array.
        weights: to fetch the weights that are not cached.
        activations: to move activations.
        fixed: per layer.
        total: with what hides behind what.
    """

    compute: Array
    weights: Array
    activations: Array
    fixed: Array
    total: Array

    @property
    def hidden(self) -> Array:
        """Time that the accelerator saves by doing things at once [s]."""
        return self.compute + self.weights + self.activations + self.fixed - self.total


def work(accelerator: SubGraphAccelerator, layers: Layers, shortcuts: Array = None) -> Work:
    """Tiles, cycles and bytes of layers.

    Args:
        accelerator: numbers, or arrays that broadcast against the axes of ``layers`` (see :func:`hardware_axes`).
        layers: of shape [..., slot].
        shortcuts: [..., slot], whether a shortcut is added to the slot's output (for accounting ``residuals``).

    Raises:
        SpecError: accounting ``residuals`` without ``shortcuts``, or ``spilled`` without a streaming buffer.
    """
    a, r, groups = accelerator, np.maximum(layers.r, 1), np.maximum(layers.groups, 1)
    side = np.maximum(np.sqrt(a.taps).astype(np.int64), 1)
    fold = np.maximum(a.taps // r**2, 1)  # input channels that share a DPE
    pieces = np.where(r**2 > a.taps, -(-r // side), 1) ** 2  # windows of a DPE's size that make up a kernel
    lanes = layers.c * pieces
    kernels = layers.k // groups  # of one group: those that see the same channels
    # All rows of the array get the same input channels, so groups share it only side by side in both directions.
    beside = np.maximum(np.minimum(a.kernels // np.maximum(kernels, 1), a.channels * fold // np.maximum(lanes, 1)), 1)
    kernel_tiles = -(-kernels // a.kernels)
    channel_tiles = -(-lanes // (a.channels * fold))
    tiles = -(-groups // beside) * kernel_tiles * channel_tiles * layers.present
    if a.folding == "ideal":
        cycles = layers.macs / a.tile_bytes
    else:
        cycles = tiles * (layers.x + a.border) ** 2 if a.positions == "input" else tiles * layers.y**2
    inputs, outputs = layers.c * groups * layers.x**2 * layers.present, layers.k * layers.y**2
    moved_in, moved_out = _moved(a, layers, inputs, outputs)
    residuals = _residuals(a, outputs, shortcuts)
    weights = layers.weights
    if a.storage == "padded":
        weights = tiles * a.tile_bytes
        more_in, more_out = _padding(layers.c * groups, a.channels * fold), _padding(layers.k, a.kernels)
        moved_in, moved_out, residuals = moved_in * more_in, moved_out * more_out, residuals * more_out
    if a.streaming_buffer is not None:  # an input that does not fit is read again for each tile of kernels
        moved_in = moved_in * np.where(inputs > a.streaming_buffer, kernel_tiles, 1)
    cycles = cycles * a.compute_overhead
    return Work(tiles, kernel_tiles, channel_tiles, cycles, weights, moved_in, moved_out, residuals)


def _padding(count: Array, tile: Array) -> Array:
    """Size of a dimension rounded up to whole tiles, against its own."""
    return safe_divide(-(-count // tile) * tile, count)


def _moved(a: SubGraphAccelerator, layers: Layers, inputs: Array, outputs: Array) -> tuple[Array, Array]:
    """Inputs and outputs that move off chip [B], by the accounting."""
    if a.accounting in ("layers", "residuals"):
        return inputs, outputs
    if a.accounting == "weights":
        return np.zeros(np.shape(inputs)), np.zeros(np.shape(outputs))
    present = layers.present
    first = present & (np.cumsum(present, axis=-1) == 1)
    last = present & (np.cumsum(present[..., ::-1], axis=-1)[..., ::-1] == 1)
    if a.accounting == "boundary":
        return inputs * first, outputs * last
    if a.streaming_buffer is None:
        rule = "needs the size of the accelerator's streaming_buffer: what does not fit into half of it spills"
        raise SpecError([Fault("accounting", "'spilled'", rule)])
    room = a.streaming_buffer / 2
    return inputs * (first | (inputs > room)), outputs * (last | (outputs > room))


def _residuals(a: SubGraphAccelerator, outputs: Array, shortcuts: Array) -> Array:
    if a.accounting != "residuals":
        return np.zeros(np.shape(outputs))
    if shortcuts is None:
        rule = "needs the slots to whose output a shortcut is added (shortcuts)"
        raise SpecError([Fault("accounting", "'residuals'", rule)])
    return outputs * np.asarray(shortcuts, bool)


def hardware_axes(accelerator: SubGraphAccelerator, axes: int) -> SubGraphAccelerator:
    """The accelerator with its arrays moved in front of ``axes`` further axes."""
    columns = {
        name: value.reshape(value.shape + (1,) * axes)
        for name in type(accelerator).model_fields
        if isinstance(value := getattr(accelerator, name), np.ndarray)
    }
    return accelerator.model_copy(update=columns) if columns else accelerator


def layer_times(
    accelerator: SubGraphAccelerator, layers: Layers, cached: Array = 0.0, *, shortcuts: Array = None
) -> LayerTimes:
    """Times of layers when some of their weights are in the persistent buffer.

    Args:
        accelerator: numbers, or arrays [hardware...] (:meth:`SubGraphAccelerator.over`).
        layers: of shape [..., slot]; all axes but the hardware's, of length one where ``cached`` alone has them.
        cached: weights that hit; broadcasts against the layers, with or without the hardware's axes in front.
        shortcuts: see :func:`work`.

    Returns:
        Times of shape [hardware..., ..., slot].

    Equations, with W the time to fetch the weights that miss, A that of the activations, C that of the array, F the
    fixed time, and w that of one tile of weights (at most W):
        none: C + A + W + F;  activations: max(C, A) + W + F;  ping_pong: w + max(C, A + W − w) + F;
        all: max(C, A + W) + F.
    Each is at most the one before, and none grows with what is cached.
    """
    a = hardware_axes(accelerator, np.ndim(layers.k))
    return _times(a, layers, work(a, layers, shortcuts), cached)


def _times(a: SubGraphAccelerator, layers: Layers, done: Work, cached: Array) -> LayerTimes:
    missing = 1 - safe_divide(cached, layers.weights)
    rate = a.weight_bandwidth * a.burst_efficiency
    weights = done.weights * missing / rate
    activations = (done.inputs + done.residuals) / (a.input_bandwidth * a.burst_efficiency)
    if a.output_bandwidth is not None:
        activations = activations + done.outputs / (a.output_bandwidth * a.burst_efficiency)
    compute = done.cycles / a.clock
    fixed = a.layer_time * layers.present
    if a.overlap == "none":
        total = compute + activations + weights
    elif a.overlap == "activations":
        total = np.maximum(compute, activations) + weights
    else:
        first = np.minimum(a.tile_bytes / rate, weights) if a.overlap == "ping_pong" else 0.0
        total = first + np.maximum(compute, activations + weights - first)
    return LayerTimes(compute, weights, activations, fixed, total + fixed)


def subnet_times(accelerator: SubGraphAccelerator, layers: Layers, cached: Array, *, shortcuts: Array = None) -> Array:
    """Latency of each SubNet under each SubGraph [s].

    Args:
        accelerator: numbers, or arrays [hardware...].
        layers: of the SubNets [subnet, slot].
        cached: weights that hit [subnet, subgraph, slot], or with the hardware's axes before.
        shortcuts: [slot] or [subnet, slot], see :func:`work`.

    Returns:
        [hardware..., subnet, subgraph].
    """
    columns = Layers(*(np.asarray(column)[..., None, :] for column in layers))
    added = None if shortcuts is None else np.broadcast_to(shortcuts, np.shape(layers.k))[..., None, :]
    return layer_times(accelerator, columns, cached, shortcuts=added).total.sum(axis=-1)


def explain(
    accelerator: SubGraphAccelerator, layers: Layers, cached: Array = 0.0, *, shortcuts: Array = None
) -> pd.DataFrame:
    """One row a layer of one SubNet: its shape, the terms of its time [s], and what the cache saves [s]."""
    import pandas as pd

    times = layer_times(accelerator, layers, cached, shortcuts=shortcuts)
    bare = layer_times(accelerator, layers, 0.0, shortcuts=shortcuts)
    columns = {
        **layers._asdict(),
        "weight_bytes": layers.weights,
        "cached_bytes": np.broadcast_to(cached, np.shape(layers.k)),
        **times._asdict(),
        "hidden": times.hidden,
        "saved": bare.total - times.total,
    }
    rows = pd.DataFrame(columns, index=pd.RangeIndex(np.shape(layers.k)[-1], name="slot"))
    return rows[layers.present].reset_index()
