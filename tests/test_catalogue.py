"""The catalogue: every entry loads, names a source for each of its numbers, and is plausible."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from dse.errors import SpecError
from dse.spec import catalogue
from dse.spec.hardware import Accelerator, Cluster, Node
from dse.spec.load import read_yaml
from dse.spec.stack import Stack
from dse.spec.workload import Transformer, load_model

CLASSES = {"accelerator": Accelerator, "node": Node, "cluster": Cluster, "stack": Stack}
ENTRIES = [(kind, id) for kind in catalogue.FOLDERS for id in catalogue.ids(kind)]
MODELS = catalogue.ids("model")
TRANSFORMERS = [id for id in MODELS if isinstance(load_model(id), Transformer)]

EXPECTED = {
    "accelerator": """
        v100-16gb-sxm v100-32gb-sxm a100-40gb-sxm a100-80gb-sxm h100-80gb-sxm h200-141gb-sxm
        gh200-96gb b200-192gb gb200-192gb mi300x-192gb tpu-v4 tpu-v5p gaudi2-96gb dojo-d1
        comet-a100 comet-v100""",
    "node": """
        dgx-v100 dgx-a100 dgx-a100-40gb dgx-h100 dgx-h200 dgx-b200 gb200-nvl72-tray gh200-node
        mi300x-node tpu-v4-node tpu-v5p-node gaudi2-node dojo-tile comet-node""",
    "cluster": """
        dgx-v100 dgx-a100 dgx-a100-40gb dgx-h100 dgx-h200 dgx-b200 gb200-nvl72 gh200-nvl256
        mi300x-pod tpu-v4-pod tpu-v5p-pod gaudi2-pod dojo-exapod comet-baseline comet-validation""",
    "model": """
        gpt-1.7b gpt-3.6b gpt-7.5b gpt-18.4b gpt-39.1b gpt-76.1b gpt-145.6b gpt-310.1b
        gpt-529.6b gpt-1008b gpt-22b gpt3-175b transformer-1t llama2-7b llama2-13b llama2-70b
        llama3-8b llama3-70b llama3.1-405b mixtral-8x7b mixtral-8x22b deepseek-v3 qwen3-30b-a3b
        qwen3-235b-a22b bloom-176b opt-175b dlrm-1.2t dlrm-criteo-1tb resnet-50""",
    "stack": "ideal megatron fsdp",
}
QUANTITY = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?(\s*[A-Za-zµ$%/^2* ]+)?")
TEXT_KEYS = {"id", "name", "kind", "base", "vendor", "family", "topology", "algorithm", "sources",
             "accelerator", "node"}  # fmt: skip


def load(kind: str, id: str) -> Any:
    return load_model(id) if kind == "model" else catalogue.load(CLASSES[kind], kind, id)


def own(kind: str, id: str) -> dict[str, Any]:
    """What the file itself says, without what it inherits."""
    return read_yaml(catalogue.locate(kind, id))[0]


def numbers(data: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Dotted paths of all numeric values; items of a list go by their name, or else by their position."""
    if isinstance(data, dict):
        for key, value in data.items():
            if key not in TEXT_KEYS or isinstance(value, dict):
                yield from numbers(value, (*path, str(key)))
    elif isinstance(data, list | tuple):
        for i, item in enumerate(data):
            label = str(item["name"]) if isinstance(item, dict) and "name" in item else str(i)
            yield from numbers(item, (*path, label))
    elif not isinstance(data, bool) and (
        isinstance(data, int | float) or (isinstance(data, str) and QUANTITY.fullmatch(data.strip()))
    ):
        yield ".".join(path)


@pytest.mark.parametrize(("kind", "id"), ENTRIES)
def test_entry_loads_under_its_own_id(kind: str, id: str) -> None:
    """Every entry parses, is named after its file, and declares its kind."""
    entry, data = load(kind, id), own(kind, id)
    assert entry.id == id == data["id"]
    assert data["kind"] == kind
    assert entry.name and len(entry.name) < 120


@pytest.mark.parametrize(("kind", "id"), ENTRIES)
def test_every_number_has_a_source(kind: str, id: str) -> None:
    """Each numeric value, inherited or not, is covered by a dated source of a known kind."""
    entry, merged = load(kind, id), catalogue.read(kind, id)[0]
    paths = list(numbers(merged))
    assert paths or kind in ("node", "cluster", "stack")
    uncovered = [path for path in paths if entry.source_of(path) is None]
    assert not uncovered
    assert all(entry.source_of(path).date != "own" for path in paths), "a shipped number must have a source"
    for source in (s for s in entry.sources if s.date != "own"):
        assert source.title.strip() and source.covers
        assert re.match(r"20\d\d(-\d\d)?", source.date)
        assert source.kind in ("datasheet", "measured", "assumed")
        assert source.url == "" or source.url.startswith("https://")


@pytest.mark.parametrize(("kind", "id"), ENTRIES)
def test_a_variant_sources_what_it_changes(kind: str, id: str) -> None:
    """A number that a derived entry overrides is covered by its own sources, not its parent's."""
    data, entry = own(kind, id), load(kind, id)
    if "base" not in data:
        assert entry.sources
        return
    titles = {source["title"] for source in data.get("sources", [])}
    for path in numbers(data):
        source = entry.source_of(path)
        assert source is not None and source.title in titles, path


@pytest.mark.parametrize(("kind", "id"), ENTRIES)
def test_sources_cover_fields_that_exist(kind: str, id: str) -> None:
    """Every path that a source claims to cover leads to a value of the entry."""
    merged, entry = catalogue.read(kind, id)[0], load(kind, id)
    for source in entry.sources:
        for path in source.covers:
            part: Any = merged
            for key in () if path == "*" else path.split("."):
                if isinstance(part, list):
                    part = {item["name"]: item for item in part}
                assert isinstance(part, dict) and key in part, (source.title, path)
                part = part[key]


@pytest.mark.parametrize("id", catalogue.ids("accelerator"))
def test_prices_are_never_called_datasheet_values(id: str) -> None:
    """Prices, carbon, derates and energies per bit are estimates, and their sources say so."""
    entry = load("accelerator", id)
    estimated = "price price_per_hour embodied_carbon efficiency.sustained memory.energy memory.latency"
    for path in estimated.split():
        source = entry.source_of(path)
        assert source is not None and source.kind == "assumed", path
    surface = entry.source_of("efficiency.matrix")
    assert surface is not None and surface.kind in ("assumed", "measured")


@pytest.mark.parametrize("id", MODELS)
def test_parameters_match_the_published_count(id: str) -> None:
    """The computed parameters of every model are within 1 % of what its authors state."""
    model = load_model(id)
    assert model.published_parameters is not None
    assert float(model.parameters()) == pytest.approx(model.published_parameters, rel=0.01)


def test_the_catalogue_is_as_large_as_promised() -> None:
    """There are at least 12 accelerators, 6 clusters and 12 models, the well-known ones among them."""
    assert len(catalogue.ids("accelerator")) >= 12
    assert len(catalogue.ids("cluster")) >= 6
    assert len(MODELS) >= 12
    missing = {kind: set(text.split()) - set(catalogue.ids(kind)) for kind, text in EXPECTED.items()}
    assert not any(missing.values()), missing


@pytest.mark.parametrize("id", catalogue.ids("accelerator"))
def test_peaks_grow_as_data_types_shrink(id: str) -> None:
    """A narrower data type is never slower on the matrix engine, and vectors are slower than matrices."""
    device = load("accelerator", id)
    matrix, vector = device.matrix.model_dump(), device.vector.model_dump()
    ladder = [matrix[t] for t in ("fp64", "tf32", "bf16", "fp8", "fp4") if matrix[t] is not None]
    assert ladder == sorted(ladder)
    if matrix["fp16"] and matrix["bf16"]:
        assert matrix["fp16"] == matrix["bf16"]
    best = max(peak for peak in matrix.values() if peak)
    assert all(peak < best for peak in vector.values() if peak)


@pytest.mark.parametrize("id", catalogue.ids("accelerator"))
def test_device_is_physically_plausible(id: str) -> None:
    """Power, area, compute to bandwidth, and dynamic energy per FLOP lie in the range of real devices."""
    device = load("accelerator", id)
    peak = device.matrix.bf16 or device.matrix.fp16
    assert 0 < device.idle_power < 0.6 * device.tdp <= 1200
    assert 3e-4 < device.area < 3e-3
    assert 20 < peak / device.memory.bandwidth < 400
    assert device.reserved_memory < 0.1 * device.memory.capacity
    assert device.buffer <= device.memory.capacity
    dynamic = device.tdp - device.idle_power - device.memory.bandwidth * device.memory.energy
    assert 1e-13 < dynamic / peak < 3e-12
    assert 50 < device.embodied_carbon < 500


@pytest.mark.parametrize("id", catalogue.ids("accelerator"))
def test_peaks_are_dense(id: str) -> None:
    """NVIDIA's fp16 peak is twice tf32 and half of fp8; a sparse figure among them would break the ratios."""
    device = load("accelerator", id)
    if device.vendor != "NVIDIA":
        return
    peak = device.matrix
    if peak.tf32:
        assert peak.fp16 / peak.tf32 == pytest.approx(2, rel=0.03)
    if peak.fp8:
        assert peak.fp8 / peak.fp16 == pytest.approx(2, rel=0.03)
    assert peak.fp16 / device.vector.fp32 < 35


@pytest.mark.parametrize(("id", "peak", "capacity", "bandwidth"), [
    ("v100-32gb-sxm", 125e12, 32 * 2**30, 0.9e12),
    ("a100-80gb-sxm", 312e12, 80 * 2**30, 2.039e12),
    ("a100-40gb-sxm", 312e12, 40 * 2**30, 1.555e12),
    ("h100-80gb-sxm", 989.4e12, 80 * 2**30, 3.35e12),
    ("h200-141gb-sxm", 989.4e12, 150.7e9, 4.8e12),
    ("b200-192gb", 2250e12, 192.3e9, 7.7e12),
    ("mi300x-192gb", 1307.4e12, 192 * 2**30, 5.3e12),
    ("comet-a100", 312e12, 80e9, 2.039e12),
])  # fmt: skip
def test_well_known_devices(id: str, peak: float, capacity: float, bandwidth: float) -> None:
    """Dense half-precision peak, capacity and bandwidth of well-known devices, inheritance applied."""
    device = load("accelerator", id)
    assert device.matrix.fp16 == pytest.approx(peak, rel=1e-3)
    assert device.memory.capacity == pytest.approx(capacity, rel=0.01)
    assert device.memory.bandwidth == pytest.approx(bandwidth, rel=0.01)


@pytest.mark.parametrize("id", catalogue.ids("node"))
def test_node_is_plausible(id: str) -> None:
    """Expansion tiers are slower per device than local memory, larger, and common to all its devices."""
    node = load("node", id)
    local = node.accelerator.memory
    for tier in node.expansion:
        assert tier.shared_by == node.devices
        assert tier.bandwidth / tier.shared_by < local.bandwidth
        assert tier.capacity > local.capacity
    assert 0 <= node.host_power <= node.devices * node.accelerator.tdp


@pytest.mark.parametrize("id", catalogue.ids("cluster"))
def test_cluster_is_plausible(id: str) -> None:
    """Outer dimensions are no faster than inner ones, nodes fill the inner switch, devices fill nodes."""
    cluster = load("cluster", id)
    dimensions, devices = cluster.network.dimensions, cluster.node.devices
    rates = [d.bandwidth * d.efficiency for d in dimensions]
    assert rates == sorted(rates, reverse=True)
    assert cluster.devices % devices == 0
    first = dimensions[0]
    if first.topology in ("switch", "fully_connected"):
        assert first.size is not None and first.size % devices == 0
        if cluster.node.devices > 4:  # a server: the innermost dimension is the server's own network
            assert first.size == devices
    assert all(d.bandwidth < cluster.accelerator.memory.bandwidth for d in dimensions)


@pytest.mark.parametrize(("id", "inner", "outer"), [
    ("dgx-a100", 300e9, 25e9),
    ("dgx-h100", 450e9, 50e9),
    ("dgx-h200", 450e9, 50e9),
    ("dgx-b200", 900e9, 50e9),
    ("gb200-nvl72", 900e9, 50e9),
    ("mi300x-pod", 448e9, 50e9),
    ("gaudi2-pod", 262.5e9, 37.5e9),
    ("comet-baseline", 300e9, 31.25e9),
    ("comet-validation", 150 * 2**30, 12.5 * 2**30),
])  # fmt: skip
def test_link_rates_are_per_direction(id: str, inner: float, outer: float) -> None:
    """Network bandwidths are those of one device and one direction, not the bidirectional figures."""
    dimensions = load("cluster", id).network.dimensions
    assert dimensions[0].bandwidth == pytest.approx(inner)
    assert dimensions[-1].bandwidth == pytest.approx(outer)


def test_comet_entries_are_ideal() -> None:
    """The clusters of the case study carry no derates, latencies, or chunking of collectives."""
    for id in ("comet-baseline", "comet-validation"):
        cluster = load("cluster", id)
        efficiency = cluster.accelerator.efficiency
        assert (efficiency.matrix, efficiency.attention, efficiency.memory, efficiency.launch) == (1, 1, 1, 0)
        assert (cluster.accelerator.reserved_memory, cluster.accelerator.memory.latency) == (0, 0)
        assert cluster.network.pipeline_chunks is None
        assert all((d.latency, d.efficiency) == (0, 1) for d in cluster.network.dimensions)
        assert cluster.devices == 1024 and cluster.node.devices == 1


@pytest.mark.parametrize("id", TRANSFORMERS)
def test_flops_follow_active_parameters(id: str) -> None:
    """A token costs about two FLOP per active parameter; attention adds, and untied embeddings take away."""
    model = load_model(id)
    per_token = float(model.forward_flops()) / model.units_per_sample
    assert 0.8 < per_token / (2 * float(model.active_parameters())) < 1.6
    assert float(model.active_parameters()) <= float(model.parameters())


@pytest.mark.parametrize(("id", "active"), [
    ("mixtral-8x7b", 12.9e9),
    ("mixtral-8x22b", 39e9),
    ("deepseek-v3", 37e9),
    ("qwen3-30b-a3b", 3.3e9),
    ("qwen3-235b-a22b", 22e9),
])  # fmt: skip
def test_active_parameters_of_mixtures(id: str, active: float) -> None:
    """Active parameters of mixtures of experts agree with what their authors state, which is rounded."""
    assert float(load_model(id).active_parameters()) == pytest.approx(active, rel=0.03)


def test_resnet_flops() -> None:
    """ResNet-50 takes 4.1 billion multiply-adds an image in 53 convolutions and a classifier."""
    model = load_model("resnet-50")
    assert float(model.forward_flops()) / 2 == pytest.approx(4.09e9, rel=0.005)
    assert sum(layer.repeat for layer in model.convolutions) == 54


def test_unknown_entry_suggests_the_nearest() -> None:
    """A misspelt id is refused with the ids it may have meant."""
    with pytest.raises(SpecError, match="h100-80gb-sxm"):
        catalogue.load(Accelerator, "accelerator", "h100-80g-sxm")
