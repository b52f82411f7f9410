"""SuperNets and SubNets: the published networks layer by layer, spaces, files."""

from __future__ import annotations

import contextlib
import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.domains.sushi import pareto, sharing
from dse.domains.sushi.layers import Layers
from dse.domains.sushi.ofa_mobilenet import MobileNet
from dse.domains.sushi.subnets import (
    SPACES,
    SubNetFile,
    load_subnets,
    load_supernet,
    mobilenetv3,
    read_layers,
    resnet50,
    stack,
)  # fmt: skip
from dse.domains.sushi.supernet import make_divisible
from dse.errors import SpecError
from dse.spec.catalogue import asset_root
from dse.spec.load import read_yaml

DATA = asset_root("data") / "sushi"
RESNET, MOBILENET = SPACES["ofa-resnet50"], SPACES["ofa-mobilenetv3"]
WHOLE = ("squeeze-excite", "final-expand", "feature-mix", "classifier")
MIB = 2**20

NOTE8_22MS = {  # read from open-mmlab/mmrazor, OFA_SUBNET_NOTE8_LAT22.yaml
    "resolution": 140,
    "depth": [2, 2, 2, 2, 2],
    "expand": [3, 3, 3, 3, 3, 3, 3, 3, 4, 3, 3, 3, 3, 4, 3, 3, 6, 6, 3, 6],
    "kernel": [3, 3, 3, 3, 5, 5, 3, 3, 7, 3, 3, 3, 5, 3, 3, 3, 3, 7, 3, 3],
}
NOTE8_31MS = {  # OFA_SUBNET_NOTE8_LAT31.yaml
    "resolution": 152,
    "depth": [2, 2, 3, 3, 4],
    "expand": [3, 3, 3, 3, 4, 3, 3, 3, 4, 4, 4, 4, 4, 3, 4, 3, 6, 3, 3, 3],
    "kernel": [5, 3, 3, 3, 5, 5, 3, 3, 3, 3, 5, 3, 3, 5, 7, 3, 3, 3, 5, 5],
}


def table(name: str) -> list[dict[str, str]]:
    """Rows of a table of the data folder."""
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def published(network: str) -> dict[str, str]:
    """The row of a network in the table that Once-for-All published."""
    return next(row for row in table("once-for-all.csv") if row["network"] == network)


def parameters(space, config) -> float:
    """Parameters of a whole network: weights, two of each normalised channel, biases of the other layers."""
    whole = space.replace(counted=WHOLE)
    layers = whole.layers(config)
    plain = [any(part in name for part in ("squeeze", "excite", "classifier")) for name in whole.slots]
    normed = [not p and "feature-mix" not in name for p, name in zip(plain, whole.slots, strict=True)]
    return float(layers.weights.sum() + layers.k[plain].sum() + 2 * layers.k[normed].sum())


def test_the_space_generates_the_six_published_networks_layer_by_layer() -> None:
    """The configurations give exactly the layers that a public notebook printed, and none besides."""
    printed = {subnet.name: subnet.layers for subnet in read_layers(DATA / "resnet50-layers.csv")}
    assert [subnet.name for subnet in resnet50()] == list("ABCDEF")
    for subnet in resnet50():
        for made, read in zip(subnet.layers, printed[subnet.name], strict=True):
            np.testing.assert_array_equal(made, read, err_msg=subnet.name)
    names = {row["layer"] for row in table("resnet50-layers.csv")}
    assert names == set(RESNET.slots) and len(RESNET.slots) == 61


def test_s1_weights_and_shared_weights() -> None:
    """Target S1: MiB of INT8 weights of A to F, and of what all of them share."""
    sizes = [subnet.weights / MIB for subnet in resnet50()]
    assert sizes == pytest.approx([7.58, 12.21, 17.78, 25.62, 23.66, 27.47], abs=0.01)
    assert sharing.nbytes(sharing.core(stack(resnet50()))) / MIB == pytest.approx(7.55, abs=0.01)


def test_s2_multiply_adds() -> None:
    """Target S2: multiply-adds of A to F in 10^9."""
    macs = [subnet.macs / 1e9 for subnet in resnet50()]
    assert macs == pytest.approx([0.598, 0.896, 1.793, 2.379, 3.666, 4.063], rel=1e-3)


def test_parameters_accuracies_and_multiply_adds_are_those_that_once_for_all_states() -> None:
    """Two decimals of the README, which counts normalisation and classifier."""
    listed = SubNetFile.parse(read_yaml(DATA / "resnet50-subnets.yaml")[0]).subnets
    for entry, subnet in zip(listed, resnet50(), strict=True):
        row = published(entry.origin)
        whole = RESNET.replace(counted=WHOLE).subnet(subnet.config)
        assert round(parameters(RESNET, subnet.config) / 1e6, 1) == float(row["parameters_millions"])
        assert round(whole.macs / 1e8) * 100 == float(row["macs_millions"])
        assert subnet.accuracy == pytest.approx(float(row["top1_percent"]) / 100)


@pytest.mark.parametrize(
    ("network", "config"),
    [("note8_lat@22ms_top1@70.4_finetune@25", NOTE8_22MS), ("note8_lat@31ms_top1@72.8_finetune@25", NOTE8_31MS)],
)
def test_published_mobile_networks(network: str, config: dict) -> None:
    """Parameters and multiply-adds of two networks whose configurations are public."""
    row = published(network)
    macs = MOBILENET.replace(counted=WHOLE).subnet(config).macs
    assert round(parameters(MOBILENET, config) / 1e6, 1) == float(row["parameters_millions"])
    assert round(macs / 1e6) == float(row["macs_millions"])


def test_size_of_the_spaces() -> None:
    """Once-for-All states ((3 x 3)^2 + (3 x 3)^3 + (3 x 3)^4)^5, about 2 x 10^19, for one resolution."""
    assert MOBILENET.size == (9**2 + 9**3 + 9**4) ** 5 * 25
    assert pytest.approx(2e19, rel=0.1) == MOBILENET.size / 25
    tiny = RESNET.replace(stages=(8, 16), base_depths=(1, 1), depths=(0, 1), widths=(1.0,), resolutions=(32,))
    assert tiny.size == 2 * (3 + 9) ** 2


def test_mobile_networks_of_the_stated_counting() -> None:
    """Seven networks, growing; the smallest and the largest of the uniform ones; accuracies read off the curve."""
    seven = mobilenetv3()
    accuracy = pareto.published_accuracy(MOBILENET)
    assert [seven[0].weights / MIB, seven[-1].weights / MIB] == pytest.approx([2.976, 4.872], abs=1e-3)
    for cost in ("macs", "weights"):
        best = pareto.front(*(np.array([getattr(s, name) for s in seven]) for name in ("accuracy", cost)))
        assert best.tolist() == list(range(7))
    for subnet in seven:
        assert subnet.accuracy == pytest.approx(float(accuracy(subnet.config, subnet.layers)), abs=6e-4)


def test_measured_latencies_belong_to_layers() -> None:
    """Each of the 108 rows is a 3x3 layer of its network; the totals are the published ones."""
    rows = table("zcu104-3x3.csv")
    layers = {(s.name, slot): s.layers for s in resnet50() for slot in np.flatnonzero(s.layers.r == 3)}
    assert {(row["subnet"], int(row["slot"])) for row in rows} == set(layers)
    for row in rows:
        own, slot = layers[row["subnet"], int(row["slot"])], int(row["slot"])
        assert [int(row[key]) for key in ("k", "c", "r", "x", "stride")] == [column[slot] for column in own[:5]]
    totals = [sum(float(row["ms"]) for row in rows if row["subnet"] == name) for name in "ABCDEF"]
    assert totals == pytest.approx([7.20, 9.93, 18.09, 24.56, 34.86, 35.63], abs=0.01)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_sampling(space) -> None:
    """A seed repeats; many at once equal one at a time; nothing exceeds the largest network in any slot."""
    drawn, again = space.sample(50, seed=3), space.sample(50, seed=3)
    assert all(np.array_equal(drawn[knob], again[knob]) for knob in drawn)
    layers, largest = space.layers(drawn), space.layers(space.largest())
    for column, most in zip(layers, largest, strict=True):
        assert (column <= most).all()
    assert (layers.macs.sum(axis=-1) >= space.subnet(space.smallest()).macs).all()
    for i in (0, 17, 49):
        one = space.subnet({knob: values[i] for knob, values in drawn.items()})
        for column, mine in zip(layers, one.layers, strict=True):
            np.testing.assert_array_equal(column[i], mine)
        assert space.subnet(one.config).macs == one.macs


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_layers_fit_together(space) -> None:
    """What leaves a layer enters the next; a shortcut joins equal shapes."""
    layers = space.layers(space.sample(20, seed=0))
    slots = {name: i for i, name in enumerate(space.slots)}
    inner = [(".conv1", ".conv2"), (".conv2", ".conv3"), (".expand", ".depthwise"), (".depthwise", ".project")]
    for name, slot in slots.items():
        for before, after in inner:
            if name.endswith(before):
                there = slots[name.replace(before, after)]
                np.testing.assert_array_equal(layers.k[:, slot], (layers.c * layers.groups)[:, there])
                np.testing.assert_array_equal(layers.y[:, slot], layers.x[:, there])
    if "stem.0" in slots:
        for stage in range(1, 5):
            main, short = slots[f"stage{stage}.0.conv3"], slots[f"stage{stage}.0.shortcut"]
            np.testing.assert_array_equal(layers.k[:, main], layers.k[:, short])
            np.testing.assert_array_equal(layers.y[:, main], layers.y[:, short])
    joined = [name for name, short in zip(space.slots, space.shortcuts, strict=True) if short]
    assert len(joined) == (19 if "stem.0" in slots else 16)


@given(st.integers(1, 10**6), st.sampled_from([1, 4, 8, 16]))
def test_make_divisible(channels: int, divisor: int) -> None:
    """A multiple, near by, never less than nine tenths."""
    rounded = int(make_divisible(np.asarray(channels), divisor))
    assert rounded % divisor == 0 and rounded >= 0.9 * channels and abs(rounded - channels) < 1.5 * divisor


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 7}, r"depth\[0\] \(stage 1\) = 7: must be one of 2, 3, 4"),
        ({"kernel": [3, 5]}, "kernel = 2 values: must be one value or 20"),
        ({"resolution": 225}, "resolution.*225: must be one of 128, 132"),
        ({"expand": "wide"}, "expand = 'wide': must be numbers"),
        ({"width": 1}, "width: unknown knob; ofa-mobilenetv3 has depth, expand, kernel, resolution"),
        ({"expand": None}, "expand"),
    ],
)
def test_a_wrong_choice_is_named(change: dict, message: str) -> None:
    """The message says which choice, what it is, and what is allowed."""
    with pytest.raises(SpecError, match=message):
        MOBILENET.subnet({"resolution": 224, "depth": 2, "expand": 3, "kernel": 3} | change)


def test_a_choice_that_is_missing_is_named() -> None:
    """Every knob is needed: nothing is chosen silently."""
    with pytest.raises(SpecError, match="expand: is required"):
        MOBILENET.subnet({"resolution": 224, "depth": 2, "kernel": 3})


# Files

OWN = """
supernet: {base: ofa-mobilenetv3, id: mine, counted: [squeeze-excite]}
subnets:
  - {name: small, accuracy: 70 %, config: {resolution: 128, depth: 2, expand: 3, kernel: 3}}
  - {name: given, layers: [{slot: 0, k: 16, c: 3, r: 3, x: 128, stride: 2}, {slot: 2, k: 16, c: 16, r: 1, x: 64}]}
"""


def test_subnets_of_ones_own(tmp_path: Path) -> None:
    """A file may change a published space, choose from it, and list layers beside."""
    path = tmp_path / "own.yaml"
    path.write_text(OWN, encoding="utf-8")
    small, other = load_subnets(path)
    assert small.accuracy == 0.7 and np.isnan(other.accuracy) and small.resolution == other.resolution == 128
    assert other.weights == 16 * 27 + 256 and stack([small, other]).k.shape == (2, small.layers.k.size)
    space = load_supernet({"base": "ofa-mobilenetv3", "id": "mine", "counted": ["squeeze-excite"]})
    assert isinstance(space, MobileNet) and small.macs == space.subnet(small.config).macs
    (tmp_path / "space.yaml").write_text("{base: ofa-mobilenetv3, counted: [squeeze-excite]}", encoding="utf-8")
    path.write_text(OWN.replace("{base: ofa-mobilenetv3, id: mine, counted: [squeeze-excite]}", "space.yaml"))
    assert load_subnets(path)[0].macs == small.macs
    again = load_supernet({"family": "resnet", "id": "wide", "stages": [64, 128], "base_depths": [1, 1]})
    assert again.slots[-1] == "stage2.2.conv3" and again.to_plain() == load_supernet(again.to_plain()).to_plain()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subnets: []", "subnets: must list one or more"),
        ("subnets: [{name: a}]", "needs either config or layers"),
        ("subnets: [{name: a, config: {depth: 2}}]", "a.config: needs the file to name its supernet"),
        ("{supernet: ofa-resnet50, subnets: [{name: a, config: {depth: 2}}]}", "a.config.expand: is required"),
        ("{supernet: ofa-resnet, subnets: [{name: a, config: {}}]}", "supernet = 'ofa-resnet': must be one of ofa-res"),
        ("{supernet: {base: x}, subnets: [{name: a, config: {}}]}", "base = 'x': must be one of"),
        ("{supernet: {id: x}, subnets: [{name: a, config: {}}]}", "family = None: must be one of resnet, mobilenet"),
        ("subnets: [{name: a, layers: [{slot: 0, k: 1, c: 1, r: 1, x: 0}]}]", "x = 0: must be greater"),
        ("subnets: [{name: a, layers: [{slot: 20000, k: 1, c: 1, r: 1, x: 1}]}]", "a.slot = 20000: must be below"),
        ("subnets: [{name: a, layers: [{slot: 0, k: 1000000000, c: 1000000000, r: 9, x: 9}]}]", "multiply-adds"),
        ("{supernet: {family: resnet, base_depths: [1]}, subnets: [{name: a, config: {}}]}", "one entry for each of"),
        ("{supernet: {family: resnet, depths: []}, subnets: [{name: a, config: {}}]}", "at least 1 item"),
        ("{supernet: {family: mobilenet, depths: [90000000]}, subnets: [{name: a, config: {}}]}", "1000 or fewer"),
        ("{supernet: {base: ofa-resnet50, stem: 900000000}, subnets: [{name: a, config: {}}]}", "multiply-adds"),
    ],
)
def test_a_faulty_file_is_refused_with_its_reason(tmp_path: Path, text: str, message: str) -> None:
    """Bad input names the field, the value and the rule."""
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=message):
        load_subnets(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slot,k,c\n0,1,1\n", "columns: r, x missing"),
        ("slot,k,c,r,x\n0,1,1,1,8\n0,1,1,1,8\n", "net.slot = 0: is given twice"),
        ("slot,k,c,r,x\n0,one,1,1,8\n", r"net.csv:2: k = 'one': must be a whole number"),
        ("slot,k,c,r,x\n", "layers: must list one or more"),
        ("slot,k,c,r,x\n0,1,1,1,\n", "x: is required"),
    ],
)
def test_a_faulty_table_of_layers_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """The row is named."""
    path = tmp_path / "net.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=message):
        load_subnets(path)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    """Neither a name nor a file, and networks that do not line up."""
    with pytest.raises(SpecError, match="must be one of mobilenetv3, resnet50"):
        load_subnets("resnet18")
    with pytest.raises(SpecError, match="cannot be read"):
        load_subnets(tmp_path / "none.csv")
    with pytest.raises(SpecError, match="the same number of slots"):
        stack([resnet50()[0], mobilenetv3()[0]])
    with pytest.raises(SpecError, match="describes 4 SubNets where one is meant"):
        RESNET.subnet(RESNET.sample(4, seed=0))


KEYS = [
    "supernet",
    "subnets",
    "name",
    "config",
    "layers",
    "slot",
    "k",
    "base",
    "family",
    "depth",
    "resolution",
    "stages",
]
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10**12)
    | st.floats()
    | st.sampled_from(["resnet", "ofa-resnet50", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(KEYS), plain, max_size=5), plain, plain)
def test_no_input_raises_anything_but_a_spec_error(data: dict, supernet: object, config: object) -> None:
    """Whatever a file holds, the fault is told."""
    subnets = [{"name": "a", "config": config}]
    for loader, given_data in (
        (load_subnets, data),
        (load_supernet, data),
        (load_supernet, {"base": "ofa-resnet50"} | data),
        (load_subnets, {"supernet": supernet, "subnets": subnets}),
        (load_subnets, {"supernet": "ofa-resnet50", "subnets": subnets}),
    ):
        with contextlib.suppress(SpecError):
            loader(given_data)


@settings(max_examples=30)
@given(st.integers(0, 2**31))
def test_layers_survive_a_table(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Any network written as a CSV of layers is read back the same."""
    network = MOBILENET.subnet({knob: values[0] for knob, values in MOBILENET.sample(1, seed).items()})
    path = tmp_path_factory.mktemp("layers") / "net.csv"
    rows = [",".join(str(column[slot]) for column in network.layers) for slot in range(network.layers.k.size)]
    present = np.flatnonzero(network.layers.present)
    path.write_text("slot,k,c,r,x,stride,groups\n" + "\n".join(f"{i},{rows[i]}" for i in present), encoding="utf-8")
    (read,) = load_subnets(path)
    for mine, its in zip(read.layers, network.layers, strict=True):
        np.testing.assert_array_equal(mine, its)
    assert isinstance(read.layers, Layers) and read.macs == network.macs
