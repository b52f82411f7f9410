"""Convolution layers as columns: one entry a layer, so that costs are computed for all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from dse.errors import Fault, SpecError

COLUMNS = ("K", "C", "R", "S", "Y", "X")
_LARGEST = 2**20  # of a dimension
_MOST_MACS = 2**48  # what the cost models count per layer stays exact in 64 bits


class Layer(NamedTuple):
    """Convolutions of stride 1 without padding; strides and padding are folded into ``y`` and ``x``.

    Each attribute is an integer array; all have one shape. A matrix product is a layer with ``r = s = 1``.

    Attributes:
        k: output channels.
        c: input channels.
        r: kernel rows.
        s: kernel columns.
        y: input rows.
        x: input columns.
        groups: 1, or the number of groups that channels fall into; ``k`` and ``c`` count all groups.
    """

    k: np.ndarray
    c: np.ndarray
    r: np.ndarray
    s: np.ndarray
    y: np.ndarray
    x: np.ndarray
    groups: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """Output rows; one where the kernel is taller than its input and hangs over."""
        return np.maximum(self.y - self.r + 1, 1)

    @property
    def columns(self) -> np.ndarray:
        """Output columns; one where the kernel is wider than its input and hangs over."""
        return np.maximum(self.x - self.s + 1, 1)

    @property
    def macs(self) -> np.ndarray:
        """Multiply-adds of one input."""
        return self.weights * self.rows * self.columns

    @property
    def weights(self) -> np.ndarray:
        """Number of weights."""
        return self.k * self.c * self.r * self.s // self.groups

    @property
    def inputs(self) -> np.ndarray:
        """Number of input elements."""
        return self.c * self.y * self.x

    @property
    def outputs(self) -> np.ndarray:
        """Number of output elements."""
        return self.k * self.rows * self.columns

    def as_dense(self) -> Layer:
        """The same layers with every input channel read by every kernel, as the published model files state them."""
        return self._replace(groups=np.ones_like(self.groups))


def layer(k: Any, c: Any, r: Any, s: Any, y: Any, x: Any, groups: Any = 1) -> Layer:
    """Layers from numbers or arrays, which broadcast.

    Raises:
        SpecError: a size below 1, too large or not whole, or channels that groups do not divide.
    """
    names = (*COLUMNS, "groups")
    arrays = [_whole(name, value) for name, value in zip(names, (k, c, r, s, y, x, groups), strict=True)]
    try:
        found = Layer(*(np.array(a) for a in np.broadcast_arrays(*arrays)))
    except ValueError:
        shapes = ", ".join(f"{n} {a.shape}" for n, a in zip(names, arrays, strict=True))
        raise SpecError([Fault("layer", shapes, "columns must have one length")]) from None
    faults = []
    for name, bad, rule in (
        ("groups", (found.k % found.groups != 0) | (found.c % found.groups != 0), "must divide K and C"),
        ("layer", _dense_macs(found) > _MOST_MACS, f"must have at most {_MOST_MACS:.3g} MACs, counted without groups"),
    ):
        if bad.any():
            at = int(np.flatnonzero(bad.ravel())[0])
            values = ", ".join(f"{n}={int(v.ravel()[at])}" for n, v in zip(names, found, strict=True))
            faults.append(Fault(name, values, rule, f"layer {at}"))
    if faults:
        raise SpecError(faults)
    return found


def _dense_macs(layers: Layer) -> np.ndarray:
    k, c, r, s, *_ = (column.astype(float) for column in layers)
    return k * c * r * s * layers.rows * layers.columns


def from_rows(rows: Iterable[Mapping[str, Any]]) -> Layer:
    """Layers from mappings with keys K, C, R, S, Y, X and optionally ``groups``, as in a CSV of layers."""
    listed = list(rows)
    missing = sorted({name for row in listed for name in COLUMNS if name not in row})
    if missing or not listed:
        raise SpecError([Fault("layers", ", ".join(missing), "must have columns K, C, R, S, Y, X and a row or more")])
    return layer(*([row[name] for row in listed] for name in COLUMNS), [row.get("groups", 1) for row in listed])


def _whole(name: str, value: Any) -> np.ndarray:
    try:
        numbers = np.asarray(value, dtype=float)
    except (TypeError, ValueError, OverflowError):
        raise SpecError([Fault(name, repr(value)[:60], "must be whole numbers")]) from None
    bad = ~(np.isfinite(numbers) & (numbers >= 1) & (numbers <= _LARGEST) & (numbers == np.floor(numbers)))
    if bad.any():
        at = int(np.flatnonzero(bad.ravel())[0])
        shown = repr(float(numbers.ravel()[at]))
        raise SpecError([Fault(name, shown, f"must be a whole number from 1 to {_LARGEST}", f"layer {at}")])
    return numbers.astype(np.int64)
