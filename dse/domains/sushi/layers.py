"""Layers of SubNets and what SubGraphs hold of their weights, as columns over the slots of a SuperNet."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Layers(NamedTuple):
    """Convolutions, one a slot of the SuperNet, in the last axis; axes before it count SubNets. Absent: ``k`` is 0.

    Attributes:
        k: kernels (output channels).
        c: channels that a kernel sees (input channels over groups).
        r: height and width of a kernel.
        x: height and width of the input.
        stride: of the window.
        groups: 1, or the number of channels of a depthwise convolution.
    """

    k: np.ndarray
    c: np.ndarray
    r: np.ndarray
    x: np.ndarray
    stride: np.ndarray
    groups: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """Whether the slot has a layer."""
        return self.k > 0

    @property
    def y(self) -> np.ndarray:
        """Height and width of the output (padding of (r - 1)/2)."""
        return -(-self.x // np.maximum(self.stride, 1))

    @property
    def weights(self) -> np.ndarray:
        """Number of weights, which is their bytes in INT8."""
        return self.k * self.c * self.r**2

    @property
    def macs(self) -> np.ndarray:
        """Multiply-adds for one input."""
        return self.weights * self.y**2
