"""Convolutions as matrix products: each window of the input becomes a column."""

from __future__ import annotations

import numpy as np

from dse.errors import Fault, SpecError

Pair = int | tuple[int, int]


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Windows along one axis: ⌊(size + 2 padding − dilation (kernel − 1) − 1)/stride⌋ + 1."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def columns(
    x: np.ndarray, kernel: tuple[int, int], stride: Pair = 1, padding: Pair = 0, dilation: Pair = 1
) -> tuple[np.ndarray, tuple[int, int]]:
    """The windows of images.

    Args:
        x: [image, channel, height, width].
        kernel: height and width of the window.
        stride, padding, dilation: of the window, one number or (in height, in width); padding is zeros on each side.

    Returns:
        The matrix [channel · kernel height · kernel width, image · output height · output width], and the output's
        height and width.

    Raises:
        SpecError: if no window fits, or for a stride or dilation below 1 or a negative padding.
    """
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    if x.ndim != 4:
        raise SpecError([Fault("x", f"shape {x.shape}", "must be [image, channel, height, width]")])
    if min(stride) < 1 or min(dilation) < 1 or min(padding) < 0:
        rule = "stride and dilation must be at least 1, padding at least 0"
        raise SpecError([Fault("window", f"{stride}, {dilation}, {padding}", rule)])
    out = tuple(output_size(*numbers) for numbers in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True))
    if min(out) < 1:
        raise SpecError([Fault("kernel", str(kernel), f"does not fit an input of {x.shape[2]} x {x.shape[3]}")])
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)))
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    windows = windows[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
    matrix = windows.transpose(1, 4, 5, 0, 2, 3).reshape(x.shape[1] * kernel[0] * kernel[1], -1)
    return matrix, out


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
