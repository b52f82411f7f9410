"""Floating-point operations and bytes of PyTorch's operators, from the shapes of their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from dse.trace.convert.host import HostOp
from dse.trace.convert.reading import WIDEST

# Operators that only look at a tensor in another way, or make room for one: they move nothing.
VIEWS = {
    "as_strided", "transpose", "t", "view", "_unsafe_view", "reshape", "expand", "permute", "slice", "select", "narrow",
    "split", "chunk", "unsqueeze", "squeeze", "detach", "alias", "unbind", "empty", "empty_like", "empty_strided",
    "resolve_conj", "resolve_neg", "result_type", "lift_fresh", "set_", "resize_", "item", "_local_scalar_dense",
}  # fmt: skip


def flops(op: HostOp) -> float:
    """Operations of a matrix product, convolution or attention (a multiply-add is 2); 0 for all else."""
    name = op.name.removeprefix("aten::")
    rule = RULES.get(name)
    if rule is None:
        return 0.0
    try:
        found = float(rule(op))
    except (
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        StopIteration,
    ):  # shapes that are not what the operator takes: say nothing
        return 0.0
    return found if 0.0 <= found < WIDEST else 0.0


def moved(op: HostOp) -> float:
    """Bytes of all arguments and results; 0 for what only makes a view."""
    if op.name.removeprefix("aten::") in VIEWS or not op.name.startswith("aten::"):
        return 0.0
    return float(min(sum(tensor.bytes for part in (op.inputs, op.outputs) for tensor in part.tensors()), WIDEST))


def _product(op: HostOp, place: int) -> float:
    """(..., m, k) times (..., k, n): 2 ... m k n."""
    left, right = op.inputs.shapes[place], op.inputs.shapes[place + 1]
    return 2.0 * prod(left) * right[-1]


def _convolution(op: HostOp) -> float:
    """2 times the elements of the result times those that each is made of."""
    weight = op.inputs.shapes[1]
    return 2.0 * prod(_result(op)) * prod(weight[1:])


def _convolution_backward(op: HostOp) -> float:
    """Once for each gradient asked for, of the input and of the weight."""
    once = 2.0 * prod(op.inputs.shapes[0]) * prod(op.inputs.shapes[2][1:])
    asked = next(v for v in op.inputs.values[::-1] if isinstance(v, list) and len(v) == 3)
    return once * sum(map(bool, asked[:2]))


def _attention(op: HostOp) -> float:
    """Scores and their product with the values: (..., q, e), (..., k, e), (..., k, v) take 2 ... q k (e + v)."""
    query, key, value = op.inputs.shapes[:3]
    return 2.0 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _result(op: HostOp) -> Sequence[Any]:
    return op.outputs.shapes[0]


RULES = {
    "mm": lambda op: _product(op, 0),
    "bmm": lambda op: _product(op, 0),
    "addmm": lambda op: _product(op, 1),
    "addmm_": lambda op: _product(op, 1),
    "baddbmm": lambda op: _product(op, 1),
    "mv": lambda op: 2.0 * prod(op.inputs.shapes[0]),
    "dot": lambda op: 2.0 * prod(op.inputs.shapes[0]),
    "mkldnn_convolution": _convolution,
    "cudnn_convolution": _convolution,
    "_slow_conv2d_forward": _convolution,
    "thnn_conv2d": _convolution,
    "convolution_backward": _convolution_backward,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
}
