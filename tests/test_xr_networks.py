"""Networks of one's own for XR: ONNX graphs as layers, and variants of models."""

from __future__ import annotations

import numpy as np
import pytest

from dse.domains.xr import variants
from dse.domains.xr.costs import LayerModel
from dse.domains.xr.layer import layer
from dse.domains.xr.models import unit_model
from dse.domains.xr.onnx_import import read_onnx
from dse.domains.xr.runtime import OWN, simulate
from dse.domains.xr.systems import systems
from dse.errors import SpecError

# --- variants -------------------------------------------------------------------------------------------------------


def test_half_the_width_and_resolution_is_about_a_sixteenth_of_the_work():
    layers = unit_model("DE").layers
    less = variants.scaled(layers, resolution=0.5, width=0.5)
    assert less.macs.sum() / layers.macs.sum() == pytest.approx(1 / 16, rel=0.1)
    assert np.array_equal(variants.scaled(layers).macs, layers.macs)
    layer(*less)  # groups still divide


def test_variants_trade_accuracy_for_deadlines(tmp_path):
    path = tmp_path / "variants.csv"
    path.write_text(
        "model,variant,metric,target,better,resolution,latency,energy\n"
        "SS,half,70,77.5,higher,0.5,,\nSR,int4,9.2,8.79,lower,,0.5,0.4\n"
    )
    known = variants.read_variants(path)
    assert [item.accuracy for item in known] == pytest.approx([70 / 77.5, 8.79 / 9.2])
    told = variants.trade_off("outdoor_activity_A", "4K-J", known, seeds=range(1, 4))
    full = told[(told["SS_HRViT_b1"] == "full") & (told["ASR_EM_24L"] == "full")].iloc[0]
    plain = simulate("outdoor_activity_A", ["4K-J"], policy_="edf-wait", seeds=range(1, 4), conditions=OWN)
    assert len(told) == 4 and full["score"] == pytest.approx(plain.scores().overall.mean()) and full["accuracy"] == 1
    assert told.loc[told["on_front"], "energy"].min() == told["energy"].min()
    path.write_text("model,variant,metric,target\nSS,half,no,1\nSS,half,1,0\n")
    with pytest.raises(SpecError, match="line 3"):
        variants.read_variants(path)


# --- ONNX -----------------------------------------------------------------------------------------------------------


def _field(number: int, payload: bytes | int | str) -> bytes:
    def varint(value: int) -> bytes:
        out = bytearray()
        while value > 127:
            out.append(value & 127 | 128)
            value >>= 7
        return bytes([*out, value])

    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    data = payload.encode() if isinstance(payload, str) else payload
    return varint(number << 3 | 2) + varint(len(data)) + data


def _node(operator: str, inputs: str, output: str, **attributes: int) -> bytes:
    made = b"".join(_field(1, name) for name in inputs.split()) + _field(2, output) + _field(4, operator)
    made += b"".join(_field(5, _field(1, key) + _field(3, value)) for key, value in attributes.items())
    return _field(1, made + _field(3, output))


def _weight(name: str, *dims: int) -> bytes:
    return _field(5, b"".join(_field(1, size) for size in dims) + _field(8, name))


def _shape(number: int, name: str, *dims: int | str) -> bytes:
    sizes = b"".join(_field(1, _field(1 if isinstance(size, int) else 2, size)) for size in dims)
    return _field(number, _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, sizes))))


def _model(*parts: bytes) -> bytes:
    return _field(1, 8) + _field(7, b"".join(parts)) + _field(8, _field(2, 17))


def test_a_graph_of_onnx_becomes_layers(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(
        _model(
            _node("Conv", "x w bias", "a"), _node("Relu", "a", "b"), _node("Conv", "b d", "c", group=8),
            _node("ConvTranspose", "c t", "u"), _node("Gemm", "f g", "y", transB=1), _node("MatMul", "q k", "s"),
            _node("MatMul", "q v", "o"), _shape(11, "x", "N", 3, 32, 32), _shape(13, "a", "N", 8, 16, 16),
            _shape(13, "b", "N", 8, 16, 16), _shape(13, "c", "N", 8, 14, 14), _shape(13, "u", "N", 4, 28, 28),
            _shape(13, "f", "N", 64), _shape(12, "y", "N", 10), _shape(13, "q", "N", 4, 12, 16),
            _shape(13, "k", "N", 4, 16, 12), _shape(13, "s", "N", 4, 12, 12), _shape(13, "o", "N", 4, 12, 32),
            _weight("w", 8, 3, 3, 5), _weight("d", 8, 1, 3, 3), _weight("t", 8, 4, 2, 2), _weight("g", 10, 64),
            _weight("v", 16, 32), _weight("bias", 8),
        )
    )  # fmt: skip
    found = read_onnx(path, {"N": 1})
    assert found.names == ("a", "c", "u", "y", "s", "o") and found.ignored == {"Relu": 1}
    assert found.layers.macs.tolist() == [
        16 * 16 * 8 * 3 * 15, 14 * 14 * 8 * 9, 14 * 14 * 8 * 4 * 4, 640, 4 * 12 * 12 * 16, 4 * 12 * 16 * 32,
    ]  # fmt: skip
    assert found.layers.groups.tolist() == [1, 8, 1, 1, 4, 1]
    latency, energy = LayerModel(networks={"net": found.layers}).of(["net"], systems()["4K-A"].parts)
    assert (latency > 0).all() and (energy > 0).all()
    twice = read_onnx(path, {"N": 2}).layers.macs
    assert np.array_equal(twice, 2 * found.layers.macs)


def test_files_that_are_no_graphs_are_refused(tmp_path):
    path = tmp_path / "net.onnx"
    for data, word in (
        (b"\x07abc", "not an ONNX model"),
        (_model(_node("Relu", "x", "y"), _shape(11, "x", 1)), "no convolution"),
        (_model(_node("LSTM", "x w", "y"), _shape(11, "x", 1)), "LSTM is not read"),
        (
            _model(_node("Gemm", "x g", "y"), _shape(11, "x", "N", 8), _shape(12, "y", "N", 4), _weight("g", 8, 4)),
            "'N'",
        ),
        (_field(1, 8), "no graph"),
    ):
        path.write_bytes(data)
        with pytest.raises(SpecError, match=word):
            read_onnx(path)
    with pytest.raises(SpecError, match="cannot be read"):
        read_onnx(tmp_path / "none.onnx")


def test_shapes_that_are_missing_are_inferred(tmp_path):
    onnx = pytest.importorskip("onnx")
    path, helper = tmp_path / "net.onnx", onnx.helper
    weight = helper.make_tensor("w", 1, [8, 3, 3, 3], [0.0] * 216)
    nodes = [helper.make_node("Relu", ["x"], ["b"]), helper.make_node("Conv", ["b", "w"], ["y"], strides=[2, 2])]
    ends = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", [1, 3, 33, 33]), ("y", None))]
    onnx.save(helper.make_model(helper.make_graph(nodes, "n", ends[:1], ends[1:], [weight])), path)
    assert read_onnx(path).layers.macs.tolist() == [16 * 16 * 8 * 27]
