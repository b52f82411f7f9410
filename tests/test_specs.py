"""Specifications: round trips through YAML, units, inheritance, and faults that say what, where and what else."""

from __future__ import annotations

import math
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import dse
from dse import units
from dse.domains.sushi.accelerator import SubGraphAccelerator
from dse.domains.vegeta.engine import Engine
from dse.errors import SpecError
from dse.spec import catalogue
from dse.spec.base import Spec
from dse.spec.fields import unit_of
from dse.spec.hardware import ON_GRAPHS, Accelerator, Cluster, MemoryTier, Network, NetworkDimension, Node
from dse.spec.load import read_yaml
from dse.spec.stack import Stack
from dse.spec.strategy import PLACEMENTS, Strategy
from dse.spec.workload import FAMILIES, ConvNet, LayerList, Transformer, load_model
from dse.spec.workload.dlrm import DLRM
from dse.spec.workload.layers import Layer
from dse.spec.workload.transformer import Experts

quick = settings(deadline=None, derandomize=True, max_examples=30)
MODEL_CLASSES = tuple(FAMILIES.values())
NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._+-]{0,20}\Z")
TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=40)
CLASSES = {"accelerator": Accelerator, "node": Node, "cluster": Cluster, "stack": Stack, "engine": Engine,
           "subgraph-accelerator": SubGraphAccelerator}  # fmt: skip


def round_trip(spec: Spec) -> Spec:
    data, lines = read_yaml("spec.yaml", spec.to_yaml())
    return type(spec).parse(data, where="spec.yaml", lines=lines)


# -- a generator for any specification, from its own field types ----------------------------------------------


def values_of(annotation: Any, metadata: tuple[Any, ...] = (), most: int = 10**9) -> st.SearchStrategy[Any]:
    """Legal values of a field: its range, its choices, or specifications inside it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is bool:
        return st.booleans()
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of([st.none() if a is type(None) else values_of(a, (), most) for a in arguments])
    if origin is tuple:
        return st.lists(values_of(arguments[0], (), most), min_size=1, max_size=3).map(tuple)
    if hasattr(annotation, "__metadata__"):
        return values_of(arguments[0], tuple(annotation.__metadata__), most)
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return specs(annotation, most)
    low, high, open_low = _bounds(metadata)
    if annotation is int:
        return st.integers(int(low), min(int(high), most))
    if annotation is float:
        return st.floats(low, high, exclude_min=open_low, allow_subnormal=False)
    return NAMES if any("pattern" in str(m) for m in metadata) else TEXTS


def _bounds(metadata: tuple[Any, ...]) -> tuple[float, float, bool]:
    flat = [inner for m in metadata for inner in (m.metadata if hasattr(m, "metadata") else [m])]
    low, high, open_low = -1e9, 1e9, False
    for m in flat:
        if isinstance(m, annotated_types.Ge):
            low = m.ge
        elif isinstance(m, annotated_types.Gt):
            low, open_low = m.gt, True
        elif isinstance(m, annotated_types.Le):
            high = m.le
    return low, high, open_low


def unique(found: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(found, min_size=1, max_size=3, unique_by=lambda part: part.name).map(tuple)


@st.composite
def specs(draw: st.DrawFn, cls: type[Spec], most: int = 10**9) -> Spec:
    """A legal specification of any class, integers up to ``most``; fields that one rule binds are drawn together."""
    fields = {name: draw(values_of(f.annotation, tuple(f.metadata), most)) for name, f in cls.model_fields.items()}
    if cls is Network:
        parts = draw(unique(specs(NetworkDimension)))
        fields["dimensions"] = tuple(p.model_copy(update={"size": p.size or 8}) for p in parts[:-1]) + parts[-1:]
    if cls is NetworkDimension:
        fields["graph"] = ""  # which has to be a network of the dimension's size
        if fields["topology"] not in ("switch", "fully_connected") or fields["algorithm"] in ON_GRAPHS:
            fields["algorithm"] = "auto"
        fields.update(in_network_reduction=fields["topology"] == "switch" and fields["in_network_reduction"])
    if cls is Node:
        fields["expansion"] = draw(unique(specs(MemoryTier)))
    if cls is Cluster:
        fields["node"] = fields["node"].model_copy(update={"devices": 1})  # nodes nest with network dimensions
    if cls is Strategy:
        fields["placement"] = draw(st.sampled_from(PLACEMENTS))
    if cls is Experts:
        fields.update(top_k=min(fields["top_k"], fields["experts"]))
    if cls is Transformer:
        groups, times = draw(st.integers(1, 64)), draw(st.integers(1, 16))
        fields.update(kv_heads=groups, heads=groups * times, hidden=groups * times * draw(st.integers(1, 256)))
        if fields["moe"]:
            fields["moe"] = fields["moe"].model_copy(update={"dense_layers": 0})
    if cls is Layer:
        fields.update({k: max(fields[k], 1.0) for k in ("m", "k", "n", "traffic")})
    return cls.parse(fields)


# -- round trips --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Accelerator, Node, Cluster, Stack, Strategy, Transformer, DLRM, ConvNet, LayerList],
                         ids=lambda cls: cls.__name__)  # fmt: skip
def test_any_specification_survives_yaml(cls: type[Spec]) -> None:
    """Every legal specification, written as YAML and read again, is equal to itself in every field."""

    @given(specs(cls))
    @quick
    def check(spec: Spec) -> None:
        again = round_trip(spec)
        assert again == spec and again.model_dump() == spec.model_dump()

    check()


@pytest.mark.parametrize(("kind", "id"), [(kind, id) for kind in catalogue.FOLDERS for id in catalogue.ids(kind)])
def test_catalogue_entries_survive_yaml(kind: str, id: str) -> None:
    """Every entry of the catalogue, inheritance resolved, survives YAML."""
    entry = load_model(id) if kind == "model" else catalogue.load(CLASSES[kind], kind, id)
    assert round_trip(entry) == entry
    assert entry.replace() == entry


@given(specs(Strategy))
@quick
def test_strategies_survive_text(strategy: Strategy) -> None:
    """A strategy as ``name=value`` text, in a file or as a mapping, is the same strategy."""
    given = {k: v for k, v in strategy.model_dump().items() if v is not None}
    text = ",".join(f"{name}={value}" for name, value in given.items())
    assert dse.load_strategy(text) == strategy == dse.load_strategy(given) == dse.load_strategy(strategy)


def test_specifications_are_frozen() -> None:
    """A specification cannot be changed in place, only replaced by a validated copy."""
    device = dse.load_accelerator("h100-80gb-sxm")
    with pytest.raises(ValueError):
        device.buffer = 1.0  # type: ignore[misc]
    assert device.replace(buffer="1 MB").buffer == 1e6
    with pytest.raises(SpecError, match="buffer"):
        device.replace(buffer="-1 MB")


# -- fields and units ---------------------------------------------------------------------------------------


def every_class(cls: type[BaseModel] = Spec) -> list[type[BaseModel]]:
    return [cls, *(c for sub in cls.__subclasses__() for c in every_class(sub))]


def is_numeric(annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return False
    return annotation in (int, float) or any(is_numeric(a) for a in get_args(annotation))


def test_every_number_has_a_unit() -> None:
    """Each numeric field of every specification class is marked with its SI unit, which units.py understands."""
    found = [(cls.__name__, name, unit_of(f)) for cls in every_class() for name, f in cls.model_fields.items()
             if cls.__module__.startswith("dse.spec") and is_numeric(f.annotation)]  # fmt: skip
    assert len(found) > 120
    assert [entry for entry in found if entry[2] is None] == []
    for unit in {entry[2] for entry in found}:
        assert units.parse(f"1 {unit}", unit) == 1.0


UNITS = ["B", "B/s", "FLOP/s", "W", "J", "s", "J/B", "J/FLOP", "USD/s", "USD/J", "kg", "kg/J", "m^2", "1/s", "1"]


@given(st.floats(1e-11, 1e19), st.sampled_from(UNITS))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_engineering_text_parses_back(value: float, unit: str) -> None:
    """What ``engineering`` prints is what ``parse`` reads, to the digits shown."""
    text = units.engineering(value, unit, digits=9)
    tolerance = 1e-3 if unit == "s" and value >= 60 else 1e-8
    assert units.parse(text.replace(",", ""), unit) == pytest.approx(value, rel=tolerance, abs=0.5 * (unit == "1"))


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(UNITS))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_plain_numbers_pass_through(value: float, unit: str) -> None:
    """A number is SI; text needs a unit, unless it is a pure number or zero, and the SI unit changes nothing."""
    assert units.parse(value, unit) == value
    assert units.parse(f"{value!r} {unit}" if unit != "1" else f"{value!r}", unit) == value
    if value and unit != "1":
        with pytest.raises(units.UnitError, match="needs a unit"):
            units.parse(f"{value!r}", unit)


@pytest.mark.parametrize(("text", "unit", "wanted"), [
    ("80 GB", "B", 80e9), ("80 GiB", "B", 80 * 2**30), ("40 MiB", "B", 40 * 2**20), ("1 TiB", "B", 2**40),
    ("400 Gb/s", "B/s", 50e9), ("400 GB/s", "B/s", 400e9), ("400 Gbit/s", "B/s", 50e9), ("2.039 TB/s", "B/s", 2.039e12),
    ("150 GiB/s", "B/s", 150 * 2**30), ("5 pJ/bit", "J/B", 4e-11), ("5 pJ/B", "J/B", 5e-12), ("8 b", "B", 1.0),
    ("312 TFLOP/s", "FLOP/s", 312e12), ("312 TFLOPS", "FLOP/s", 312e12), ("2.5 us", "s", 2.5e-6),
    ("2.5 µs", "s", 2.5e-6), ("2.5 μs", "s", 2.5e-6), ("3 h", "s", 10800), ("4 years", "s", 4 * 365.25 * 86400),
    ("0.08 USD/kWh", "USD/J", 0.08 / 3.6e6), ("2 USD/h", "USD/s", 2 / 3600), ("400 g/kWh", "kg/J", 0.4 / 3.6e6),
    ("826 mm^2", "m^2", 826e-6), ("75 %", "1", 0.75), ("1e12", "1", 1e12), ("1_000 MB", "B", 1e9),
    ("−3 s", "s", -3.0), (".5 s", "s", 0.5), ("700 W", "W", 700), ("0.7 kW", "W", 700), ("1 kWh", "J", 3.6e6),
])  # fmt: skip
def test_quantities(text: str, unit: str, wanted: float) -> None:
    """Bits and bytes, binary and decimal prefixes, times, energies and prices come out in SI, exactly."""
    assert units.parse(text, unit) == pytest.approx(wanted, rel=1e-14)


@pytest.mark.parametrize("text", [
    "80 s", "80 GB/s", "80 W", "80 FLOP", "GB", "80 XB", "", "80 GB GB", "NaN", "inf GB", "1e5000 GB x", "80 GB^9^9",
    "1 9^9^9 B", "1 KiB^(9^9)", "80 B/(0)", "80 ((B", "x" * 500, "80 GB; import os", True, None, [], {}, b"80 GB",
])  # fmt: skip
def test_wrong_quantities_are_refused(text: Any) -> None:
    """A wrong dimension, an unknown or costly unit, or no number at all is refused with a reason, at once."""
    with pytest.raises(units.UnitError) as caught:
        units.parse(text, "B")
    assert 5 < len(str(caught.value)) < 300


# -- faults -------------------------------------------------------------------------------------------------


def message(data: Any, cls: type[Spec] = Strategy) -> str:
    with pytest.raises(SpecError) as caught:
        cls.parse(data)
    return str(caught.value)


@pytest.mark.parametrize(("cls", "data", "words"), [
    (Strategy, {"global_batch": 8, "micro_bach": 2}, ["micro_bach", "did you mean 'micro_batch'"]),
    (Strategy, {"global_batch": 8, "tp": 0}, ["tp", "= 0", "greater than or equal to 1"]),
    (Strategy, {"global_batch": 8, "zero_stage": 4}, ["zero_stage", "= 4", "less than or equal to 3"]),
    (Strategy, {"global_batch": 8, "tp": 2.5}, ["tp", "2.5", "whole number"]),
    (Strategy, {"global_batch": 8, "tp": True}, ["tp", "True", "whole number"]),
    (Strategy, {"global_batch": 8, "recompute": "ful"}, ["'ful'", "'none', 'selective' or 'full'", "did you mean"]),
    (Strategy, {"global_batch": 8, "placement": "tp-dp"}, ["placement", "tp-dp", "tp, cp, dp and pp once each"]),
    (Strategy, {"global_batch": 8, "overlap_dp": "maybe"}, ["overlap_dp", "maybe", "true or false"]),
    (Strategy, {}, ["global_batch", "is required"]),
    (MemoryTier, {"name": "m", "capacity": "8 GB/s", "bandwidth": 1}, ["capacity", "8 GB/s", "wrong dimension"]),
    (MemoryTier, {"name": "m", "capacity": 1, "bandwidth": "-1 GB/s"}, ["-1 GB/s", "greater than or equal to 1"]),
    (MemoryTier, {"name": "m", "capacity": "1e22 B", "bandwidth": 1}, ["1e22 B", "less than or equal to 1"]),
    (MemoryTier, {"name": "a b", "capacity": 1, "bandwidth": 1}, ["name", "'a b'", "pattern"]),
    (MemoryTier, {"name": "m", "capacity": math.nan, "bandwidth": math.inf}, ["2 faults", "capacity", "nan", "inf"]),
    (NetworkDimension, {"name": "x", "topology": "ring", "bandwidth": 1, "algorithm": "halving_doubling"},
     ["'halving_doubling' needs a switch"]),
])  # fmt: skip
def test_faults_name_field_value_and_bound(cls: type[Spec], data: dict[str, Any], words: list[str]) -> None:
    """A fault names the field, the value that stands there, and the bound or the choices."""
    text = message(data, cls)
    assert all(word in text for word in words), text


FILE = """\
kind: node
id: mine
accelerator: a100-80gb-sxm
devices: zero
host_prise: 10 USD
expansion:
  - {name: cxl, kind: cxl,
     capacity: 1 TB/s, bandwidth: 1 GB/s}
"""


def test_all_faults_of_a_file_at_once(tmp_path: Path) -> None:
    """Every fault of a file is reported together, each with the file and its own line."""
    path = tmp_path / "mine.yaml"
    path.write_text(FILE, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        dse.load_node(path)
    found = {fault.path: fault.location for fault in caught.value.faults}
    assert found == {"devices": f"{path}:4", "host_prise": f"{path}:5", "expansion.0.capacity": f"{path}:8"}
    assert "did you mean 'host_price'" in str(caught.value) and str(caught.value).startswith("3 faults")


def test_faults_of_all_inputs_at_once() -> None:
    """An estimate with a bad model, cluster and strategy says so of all three."""
    with pytest.raises(SpecError) as caught:
        dse.estimate("gpt3-175", "dgx-a10", "tp=0")
    assert len(caught.value.faults) == 4  # model, cluster, tp, and global_batch that is missing
    assert "gpt3-175b" in str(caught.value) and "dgx-a100" in str(caught.value)


# -- inheritance --------------------------------------------------------------------------------------------


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_base_is_overridden_field_by_field(tmp_path: Path) -> None:
    """An entry starts as a copy of its base: nested fields and named list items are overridden, the rest stays."""
    parent = dse.load_cluster("dgx-a100")
    inner = parent.network.dimensions[0].name
    path = write(tmp_path, "mine", "kind: cluster\nbase: dgx-a100\nid: mine\ndevices: 32\n"
                 f"network:\n  dimensions:\n    - {{name: {inner}, bandwidth: 1 TB/s}}\n")  # fmt: skip
    mine = dse.load_cluster(path)
    assert (mine.id, mine.devices) == ("mine", 32)
    assert mine.network.dimensions[0].bandwidth == 1e12
    assert mine.network.dimensions[0].replace(bandwidth=1) == parent.network.dimensions[0].replace(bandwidth=1)
    assert mine.network.dimensions[1:] == parent.network.dimensions[1:]
    assert mine.node == parent.node
    stated = [source for source in parent.sources if not source.title.startswith("Calibration")]
    assert list(mine.sources[-len(stated) :]) == stated  # what is inherited keeps its sources
    grandchild = write(tmp_path, "young", "base: mine.yaml\nid: young\nnode: {base: dgx-h100}\n")
    assert dse.load_cluster(grandchild).accelerator.id == dse.load_cluster("dgx-h100").accelerator.id


@pytest.mark.parametrize("length", [1, 2, 5])
def test_cyclic_bases_are_refused(tmp_path: Path, length: int) -> None:
    """A chain of bases that comes back to its start is refused with the field's name, as is one that is too long."""
    for i in range(length):
        write(tmp_path, f"f{i}", f"kind: accelerator\nid: f{i}\nbase: f{(i + 1) % length}.yaml\n")
    with pytest.raises(SpecError, match=r"base.*more than 8 levels"):
        dse.load_accelerator(tmp_path / "f0.yaml")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """The cache of read files notices a change, also of a base."""
    write(tmp_path, "base", "base: a100-80gb-sxm\nid: base\nbuffer: 1 MB\n")
    path = write(tmp_path, "top", "base: base.yaml\nid: top\n")
    assert dse.load_accelerator(path).buffer == 1e6
    write(tmp_path, "base", "base: a100-80gb-sxm\nid: base\nbuffer: 22 MB\n")
    assert dse.load_accelerator(path).buffer == 22e6


@pytest.mark.parametrize(("text", "wanted"), [("true", True), ("yes", True), ("on", True), ("no", False)])
@pytest.mark.parametrize("head", ["", "%YAML 1.1\n---\n", "%YAML 1.2\n---\n"])
def test_switches_mean_the_same_in_any_yaml(text: str, wanted: bool, head: str) -> None:
    """A switch written yes, on or true is on, whatever YAML version the file declares."""
    data, _ = read_yaml("s.yaml", f"{head}global_batch: 8\nsequence_parallel: {text}\n")
    assert Strategy.parse(data).sequence_parallel is wanted


@pytest.mark.parametrize(
    ("value", "text"),
    [(19835641.2, "$19,835,641"), (1e4, "$10,000"), (9999.994, "$9,999.99"), (5.911, "$5.91"), (0.0123456, "$0.01235")],
)
def test_large_sums_have_no_cents(value, text):
    """From $10,000 on money is shown in whole dollars."""
    assert units.engineering(value, "USD") == text
