"""ONNX graphs to layers: convolutions and matrix products with their shapes; all else costs next to nothing here.

Only the few fields that are needed are read, so that no ONNX library is. Shapes that a file does not hold are inferred
with the ``onnx`` package if it is installed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dse.domains.xr.layer import Layer, layer
from dse.errors import Fault, SpecError
from dse.trace.wire import BYTES, WireError, fields

# Operators that multiply and add and are not read: leaving them out in silence would make a network look cheap.
_UNREAD = ("LSTM", "GRU", "RNN", "Einsum", "Attention", "MultiHeadAttention", "DeformConv", "ConvInteger",
           "QLinearConv", "QLinearMatMul", "MatMulInteger", "Loop", "If", "Scan")  # fmt: skip
_LARGEST = 2**31
Shape = tuple[int | str, ...]


class Network(NamedTuple):
    """Attributes:
    names: one a layer: of its node, or of what it makes.
    layers: for the cost model. Strides and padding are folded into the input, dilation is left out; of a transposed
        convolution each input makes a kernel's worth of outputs.
    ignored: how often operators without multiply-adds occur.
    """

    names: tuple[str, ...]
    layers: Layer
    ignored: dict[str, int]


class _Node(NamedTuple):
    inputs: list[str]
    outputs: list[str]
    name: str
    operator: str
    attributes: dict[str, Any]


class _Graph(NamedTuple):
    nodes: list[_Node]
    shapes: dict[str, Shape]


def read_onnx(path: Path | str, dims: Mapping[str, int] | None = None) -> Network:
    """Read the layers of an ONNX file.

    Args:
        path: of the file. Weights are not needed: those kept beside it may be missing.
        dims: values of its symbolic dimensions, such as ``{"batch": 1}``.

    Raises:
        SpecError: not an ONNX model, a shape that is not known, an operator that is not read, or no layer at all.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SpecError([Fault("onnx", str(path)[-200:], f"cannot be read: {error.strerror}")]) from None
    graph = _parsed(data, path.name)
    if any(_unknown(graph, node) for node in graph.nodes):
        graph = _parsed(_inferred(data, path.name), path.name)
    names, rows, faults = [], [], []
    ignored: Counter[str] = Counter()
    for node in graph.nodes:
        title = node.name or (node.outputs[0] if node.outputs else node.operator)
        try:
            if node.operator in _LAYERS:
                rows.append(_LAYERS[node.operator](node, _Sizes(graph, dims or {})))
                names.append(title)
            elif node.operator in _UNREAD:
                raise ValueError(f"operator {node.operator} is not read: replace it by convolutions or matrix products")
            else:
                ignored[node.operator] += 1
        except ValueError as error:
            faults.append(Fault(f"node {title}"[:80], "", str(error), path.name))
    if not rows and not faults:
        faults.append(Fault("onnx", path.name, "holds no convolution and no matrix product"))
    if faults:
        raise SpecError(faults[:16])
    columns = layer(*np.array(rows, dtype=np.int64).T)
    return Network(tuple(names), columns, dict(sorted(ignored.items())))


class _Sizes:
    """Shapes of tensors as numbers."""

    def __init__(self, graph: _Graph, dims: Mapping[str, int]) -> None:
        self.graph, self.dims = graph, dims

    def __call__(self, name: str) -> list[int]:
        shape = self.graph.shapes.get(name)
        if shape is None:
            raise ValueError(f"the shape of {name!r} is not known")
        found = []
        for size in shape:
            value = self.dims.get(size) if isinstance(size, str) else size
            if value is None:
                raise ValueError(f"{name!r} has a dimension {size or 'without a name'!r}: give its value in dims")
            if not 1 <= value < _LARGEST:
                raise ValueError(f"{name!r} has a dimension of {value}: must be 1 or more")
            found.append(int(value))
        return found


def _convolution(node: _Node, sizes: _Sizes) -> tuple[int, ...]:
    weight, out = sizes(node.inputs[1]), sizes(node.outputs[0])
    groups = int(node.attributes.get("group", 1))
    if not 3 <= len(weight) <= 4 or len(out) != len(weight):
        raise ValueError(f"has {len(weight) - 2} dimensions of space: must have 1 or 2")
    r, s = _plane(weight[2:])
    y, x = _plane(out[2:])
    return weight[0], weight[1] * groups, r, s, out[0] * y + r - 1, x + s - 1, groups


def _transposed(node: _Node, sizes: _Sizes) -> tuple[int, ...]:
    weight, given = sizes(node.inputs[1]), sizes(node.inputs[0])
    groups = int(node.attributes.get("group", 1))
    if not 3 <= len(weight) <= 4 or len(given) != len(weight):
        raise ValueError(f"has {len(weight) - 2} dimensions of space: must have 1 or 2")
    r, s = _plane(weight[2:])
    y, x = _plane(given[2:])
    return weight[1] * groups, weight[0], r, s, given[0] * y + r - 1, x + s - 1, groups


def _plane(sizes: list[int]) -> tuple[int, int]:
    """Rows and columns; of one dimension rows."""
    return (sizes[0], sizes[1]) if len(sizes) > 1 else (sizes[0], 1)


def _gemm(node: _Node, sizes: _Sizes) -> tuple[int, ...]:
    a, b = sizes(node.inputs[0]), sizes(node.inputs[1])
    rows, inner = a[::-1] if node.attributes.get("transA") else a
    return b[0] if node.attributes.get("transB") else b[1], inner, 1, 1, rows, 1, 1


def _product(node: _Node, sizes: _Sizes) -> tuple[int, ...]:
    a, b = sizes(node.inputs[0]), sizes(node.inputs[1])
    a, b = ([1, *a] if len(a) == 1 else a), ([*b, 1] if len(b) == 1 else b)
    batch = math.prod(np.broadcast_shapes(tuple(a[:-2]), tuple(b[:-2])))
    if math.prod(b[:-2]) == 1:  # one right matrix for all rows
        return b[-1], a[-1], 1, 1, batch * a[-2], 1, 1
    return b[-1] * batch, a[-1] * batch, 1, 1, a[-2], 1, batch


_LAYERS = {"Conv": _convolution, "ConvTranspose": _transposed, "Gemm": _gemm, "MatMul": _product}


def _unknown(graph: _Graph, node: _Node) -> bool:
    return node.operator in _LAYERS and any(n not in graph.shapes for n in (*node.inputs[:2], *node.outputs[:1]))


def _inferred(data: bytes, name: str) -> bytes:
    try:
        import onnx
    except ImportError:
        rule = (
            "does not hold the shapes of its tensors: install the package onnx, or save the model with inferred shapes"
        )
        raise SpecError([Fault("onnx", name, rule)]) from None
    try:
        return onnx.shape_inference.infer_shapes(onnx.load_model_from_string(data)).SerializeToString()
    except Exception as error:  # the library raises errors of its own and of protobuf
        raise SpecError([Fault("onnx", name, f"shapes cannot be inferred: {str(error)[:200]}")]) from None


def _parsed(data: bytes, name: str) -> _Graph:
    """Nodes, shapes and names of weights; field numbers are those of onnx.proto."""
    try:
        graphs = [value for number, wire, value in fields(data) if number == 7 and wire == BYTES]
        if not graphs:
            raise WireError("it has no graph")
        return _graph(b"".join(graphs))  # a message in several parts is one
    except (WireError, UnicodeDecodeError, IndexError, KeyError, ValueError) as error:
        raise SpecError([Fault("onnx", name, f"is not an ONNX model: {str(error)[:120]}")]) from None


def _graph(data: bytes) -> _Graph:
    nodes: list[_Node] = []
    shapes: dict[str, Shape] = {}
    for number, value in _messages(data, (1, 5, 11, 12, 13)):
        if number == 1:
            node = _node(value)
            nodes.append(node)
            if node.operator == "Constant" and isinstance(node.attributes.get("value"), tuple):
                shapes[node.outputs[0]] = node.attributes["value"]
        elif number == 5:
            tensor, dims = _tensor(value)
            shapes[tensor] = dims
        else:
            tensor, known = _value(value)
            if known is not None:
                shapes.setdefault(tensor, known)
    return _Graph(nodes, shapes)


def _messages(data: bytes, numbers: tuple[int, ...]) -> Iterator[tuple[int, bytes]]:
    for number, wire, value in fields(data):
        if number in numbers and wire == BYTES:
            yield number, value


def _node(data: bytes) -> _Node:
    inputs, outputs, name, operator, attributes = [], [], "", "", {}
    for number, value in _messages(data, (1, 2, 3, 4, 5)):
        if number == 5:
            key, held = _attribute(value)
            attributes[key] = held
            continue
        word = bytes(value).decode()
        if number == 1:
            inputs.append(word)
        elif number == 2:
            outputs.append(word)
        elif number == 3:
            name = word
        else:
            operator = word
    return _Node(inputs, outputs, name, operator, attributes)


def _attribute(data: bytes) -> tuple[str, Any]:
    """Name and value: whole numbers, and the shape of a tensor."""
    name, held = "", None
    for number, wire, value in fields(data):
        if number == 1 and wire == BYTES:
            name = bytes(value).decode()
        elif number == 3:
            held = _signed(value)
        elif number == 5 and wire == BYTES:
            held = _tensor(value)[1]
    return name, held


def _tensor(data: bytes) -> tuple[str, Shape]:
    name, dims = "", []
    for number, wire, value in fields(data):
        if number == 1:
            dims += _packed(value) if wire == BYTES else [_signed(value)]
        elif number == 8 and wire == BYTES:
            name = bytes(value).decode()
    return name, tuple(dims)


def _value(data: bytes) -> tuple[str, Shape | None]:
    """Name and shape of an input, output or a tensor between; None: it has none."""
    name, shape = "", None
    for number, value in _messages(data, (1, 2)):
        if number == 1:
            name = bytes(value).decode()
            continue
        for _, tensor in _messages(value, (1,)):
            for _, dims in _messages(tensor, (2,)):
                shape = tuple(_dimension(dim) for _, dim in _messages(dims, (1,)))
    return name, shape


def _dimension(data: bytes) -> int | str:
    found: int | str = ""
    for number, wire, value in fields(data):
        if number == 1:
            found = _signed(value)
        elif number == 2 and wire == BYTES:
            found = bytes(value).decode()
    return found


def _packed(data: bytes) -> list[int]:
    from dse.trace.wire import varint

    found, at = [], 0
    while at < len(data):
        value, at = varint(data, at, len(data))
        found.append(_signed(value))
    return found


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
