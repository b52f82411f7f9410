"""Accelerators that keep a SubGraph: an array of dot-product engines, its buffers, its memory, and what hides what.

Every number of a description may be an array along leading axes (:meth:`SubGraphAccelerator.over`): a design space is
then one accelerator, and one call prices all of it.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from pydantic import model_validator

from dse.errors import Fault, SpecError
from dse.spec import catalogue
from dse.spec.base import Entry
from dse.spec.fields import (
    Area,
    Bandwidth,
    Bytes,
    Count,
    CountOrZero,
    JoulesPerByte,
    PositiveFraction,
    Ratio,
    Seconds,
    Watts,
    quantity,
)

Hertz = quantity("Hz", 1.0, 1e12)
Joules = quantity("J", 0, 1.0)
AreaPerByte = quantity("m^2/B", 0, 1e-6)
KIND = "subgraph-accelerator"
Overlap = Literal["none", "activations", "ping_pong", "all"]
OVERLAPS: dict[str, str] = {
    "none": "compute, weights and activations one after the other",
    "activations": "activations move while the array computes; weights are exposed",
    "ping_pong": "all move while the array computes, but for the first tile of each layer's weights",
    "all": "all move while the array computes, a layer's first tile during the layer before",
}
Accounting = Literal["weights", "boundary", "spilled", "layers", "residuals"]
ACCOUNTINGS: dict[str, str] = {
    "weights": "weights alone",
    "boundary": "weights, the image and the last result; all other activations stay on chip",
    "spilled": "weights, and activations that do not fit into half of the streaming buffer",
    "layers": "weights, and the input and output of every layer",
    "residuals": "as layers, and what shortcuts add, read once more",
}


class SubGraphAccelerator(Entry):
    """An array of dot-product engines (DPEs) with a persistent buffer, in INT8: a weight or an activation is a byte.

    ``kernels`` × ``channels`` DPEs of ``taps`` multipliers each take one window position of ``channels`` input
    channels a cycle and add to ``kernels`` output channels. A kernel smaller than a DPE is folded: taps // r² input
    channels share one. A larger one is cut into pieces of √taps × √taps, which count as further channels. The loop
    order is tile of kernels, tile of channels, position.

    Attributes:
        folding: ``tiles``, the array as it is; ``ideal``, any layer fills it (a roofline).
        positions: of the window: at every ``input`` pixel, whatever the stride, or at every ``output`` pixel.
        border: pixels of padding that are streamed with each row and column of the input.
        compute_overhead: cycles of the array against those counted.
        weight_bandwidth: off-chip memory to the buffers of weights, of long bursts;
        input_bandwidth: the same for input activations;
        output_bandwidth: of output activations to memory; None: they drain beside the reads and cost no time.
        burst_efficiency: what real bursts reach of the three (on the board of the MAERI 2.0 tutorial, ICS 2022, 256
            beats take 256 cycles in one burst and 1182 one by one).
        storage: weights and activations in memory are ``padded`` to whole tiles, or ``dense``.
        overlap: which times hide behind which, see ``OVERLAPS``.
        accounting: what moves off chip, see ``ACCOUNTINGS``.
        layer_time: fixed time of a layer: set-up, a host that polls.
        persistent_buffer: holds the SubGraph (PB);
        dynamic_buffer: two tiles or more of a layer's other weights (DB);
        streaming_buffer: input activations (SB): a larger input is read again for each tile of kernels; None: never;
        line_buffer, output_buffer: rows under the window (LB) and results (OB), which count for the area alone.
        energy_per_mac, energy_per_on_chip_byte, energy_per_off_chip_byte: of a multiply-add, and of a byte that is read
            or written.
        idle_power: of the board, all the time that a SubNet runs.
        area_per_mac, area_per_buffer_byte: of a multiplier with its share of the adders, and of a byte of SRAM.
    """

    kernels: Count = 16
    channels: Count = 9
    taps: Count = 9
    folding: Literal["tiles", "ideal"] = "tiles"
    positions: Literal["input", "output"] = "input"
    border: CountOrZero = 0
    clock: Hertz
    compute_overhead: Ratio = 1.0
    weight_bandwidth: Bandwidth
    input_bandwidth: Bandwidth
    output_bandwidth: Bandwidth | None = None
    burst_efficiency: PositiveFraction = 1.0
    storage: Literal["padded", "dense"] = "padded"
    overlap: Overlap = "activations"
    accounting: Accounting = "layers"
    layer_time: Seconds = 0.0
    persistent_buffer: Bytes
    dynamic_buffer: Bytes
    streaming_buffer: Bytes | None = None
    line_buffer: Bytes = 0.0
    output_buffer: Bytes = 0.0
    energy_per_mac: Joules
    energy_per_on_chip_byte: JoulesPerByte
    energy_per_off_chip_byte: JoulesPerByte
    idle_power: Watts = 0.0
    area_per_mac: Area
    area_per_buffer_byte: AreaPerByte

    @model_validator(mode="after")
    def _dynamic_buffer_holds_tiles(self) -> Self:
        if message := self._too_small():
            raise ValueError(message)
        return self

    def _too_small(self) -> str:
        """What is wrong where the dynamic buffer does not hold the tiles that the overlap needs."""
        tiles = 2 if self.overlap in ("ping_pong", "all") else 1
        need, have = np.broadcast_arrays(tiles * self.tile_bytes, self.dynamic_buffer)
        if not (have < need).any():
            return ""
        worst = np.unravel_index(np.argmin(have - need), need.shape)
        return (
            f"dynamic_buffer = {have[worst]:g} B is too small: overlap {self.overlap!r} needs {tiles} tile(s) of "
            f"kernels * channels * taps weights, {need[worst]:g} B"
        )

    @property
    def tile_bytes(self) -> Any:
        """Weights that the array holds at once [B]."""
        return self.kernels * self.channels * self.taps

    @property
    def macs_per_second(self) -> Any:
        """Peak rate [1/s]."""
        return self.tile_bytes * self.clock

    @property
    def buffers(self) -> Any:
        """All storage on chip [B]."""
        streaming = 0.0 if self.streaming_buffer is None else self.streaming_buffer
        return self.persistent_buffer + self.dynamic_buffer + streaming + self.line_buffer + self.output_buffer

    @property
    def area(self) -> Any:
        """Silicon area of the multipliers and the buffers [m²]."""
        return self.tile_bytes * self.area_per_mac + self.buffers * self.area_per_buffer_byte

    def over(self, **values: Any) -> Self:
        """A copy with some numbers as arrays; all arrays broadcast against each other, as leading axes of every result.

        Raises:
            SpecError: an unknown field, one that is not a number, a value out of range, shapes that do not broadcast.
        """
        arrays = {name: np.asarray(value) for name, value in values.items()}
        for name, array in arrays.items():
            if name not in type(self).model_fields or not array.size or not np.issubdtype(array.dtype, np.number):
                rule = "must be a numeric field of the accelerator with one value or more"
                raise SpecError([Fault(name[:60], repr(values[name])[:60], rule)])
        try:
            np.broadcast_shapes(*(array.shape for array in arrays.values()))
        except ValueError:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise SpecError([Fault("over", shapes, "shapes must broadcast against each other")]) from None
        copy = self.model_copy(update={name: self._checked(name, array) for name, array in arrays.items()})
        if message := copy._too_small():
            raise SpecError([Fault("dynamic_buffer", "", message)])
        return copy

    def _checked(self, name: str, array: np.ndarray) -> np.ndarray:
        """The array in the field's type, its least and its largest value accepted by the field."""
        one = {field: value.flat[0].item() for field, value in self if isinstance(value, np.ndarray)}
        base = self.model_copy(update=one | {"overlap": "none", "dynamic_buffer": 1e18})  # checked for all together
        kinds = {type(getattr(base.replace(**{name: end.item()}), name)) for end in (array.min(), array.max())}
        return array.astype(np.int64 if kinds == {int} else np.float64)


def load_subgraph_accelerator(reference: Any) -> SubGraphAccelerator:
    """An accelerator from the catalogue, a YAML file or a mapping (with an optional ``base``).

    Raises:
        SpecError: with every fault, the file and the lines.
    """
    return catalogue.load(SubGraphAccelerator, KIND, reference)
