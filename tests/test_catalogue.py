"""The catalogue: every entry loads, names a source for each of its numbers, and is plausible."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pytest

from dse.accuracy import corpus
from dse.domains.sushi.accelerator import SubGraphAccelerator
from dse.domains.vegeta.engine import Engine
from dse.errors import SpecError
from dse.spec import catalogue
from dse.spec.hardware import Accelerator, Cluster, Node
from dse.spec.load import read_yaml
from dse.spec.stack import Stack
from dse.spec.workload import Transformer, load_model

TABLES = ("training", "training_supplement", "training_oom", "gemm", "nccl")
measured = lru_cache(corpus.measured)
CLASSES = {"accelerator": Accelerator, "node": Node, "cluster": Cluster, "stack": Stack, "engine": Engine,
           "subgraph-accelerator": SubGraphAccelerator}  # fmt: skip
ENTRIES = [(kind, id) for kind in catalogue.FOLDERS for id in catalogue.ids(kind)]
MODELS = catalogue.ids("model")
TRANSFORMERS = [id for id in MODELS if isinstance(load_model(id), Transformer)]

EXPECTED = {
    "accelerator": """
        v100-16gb-sxm v100-32gb-sxm a100-40gb-sxm a100-80gb-sxm h100-80gb-sxm h200-141gb-sxm
        gh200-96gb b200-192gb gb200-192gb mi300x-192gb tpu-v4 tpu-v5p gaudi2-96gb dojo-d1
        comet-a100 comet-v100 a100-40gb-pcie a100-80gb-pcie h100-80gb-pcie l40s-48gb h20-96gb
        h800-80gb-sxm b300-288gb gb300-288gb mi250x-128gb mi325x-256gb mi350x-288gb mi355x-288gb
        tpu-v3 tpu-v5e tpu-v6e tpu-v7 gaudi3-128gb trainium1-32gb trainium2-96gb trainium3-144gb""",
    "node": """
        dgx-v100 dgx-a100 dgx-a100-40gb dgx-h100 dgx-h200 dgx-b200 gb200-nvl72-tray gh200-node
        mi300x-node tpu-v4-node tpu-v5p-node gaudi2-node dojo-tile comet-node dgx1-v100 p3-16xlarge
        jean-zay-a100 hgx-a100-40gb-4 a100-pcie-node nc-a100-v4 h100-pcie-node l40s-pcie-node
        l40s-pcie-8x-node h800-node h20-node dgx-b300 gb300-nvl72-tray frontier-node mi325x-node
        mi350x-node mi355x-node gaudi3-node tpu-v3-node tpu-v5e-node tpu-v6e-node tpu-v7-node
        trn1-32xlarge trn2-48xlarge trn3-sled""",
    "cluster": """
        dgx-v100 dgx-a100 dgx-a100-40gb dgx-h100 dgx-h200 dgx-b200 gb200-nvl72 gh200-nvl256
        mi300x-pod tpu-v4-pod tpu-v5p-pod gaudi2-pod dojo-exapod comet-baseline comet-validation
        dgx1-v100 dgx2-v100-32gb p3-16xlarge jean-zay-a100 a100-cloud-200g a100-roce-1600g
        a100-40gb-roce-1600g a100-40gb-4x-200g a100-pcie a100-pairwise-nvlink p4d-24xlarge
        h100-roce-1600g h100-roce-3200g h100-pcie p5-48xlarge p5en-48xlarge p6-b200-48xlarge
        l40s-pcie l40s-pcie-8x h800-pod h20-pod dgx-b300 gb300-nvl72 frontier-mi250x mi325x-pod
        mi350x-pod mi355x-pod gaudi3-pod tpu-v3-pod tpu-v5e-pod tpu-v6e-pod tpu-v7-pod
        trn1-32xlarge trn1n-32xlarge trn2-48xlarge trn2-ultraserver trn3-ultraserver""",
    "model": """
        gpt-1.7b gpt-3.6b gpt-7.5b gpt-18.4b gpt-39.1b gpt-76.1b gpt-145.6b gpt-310.1b
        gpt-529.6b gpt-1008b gpt-22b gpt3-175b transformer-1t llama2-7b llama2-13b llama2-70b
        llama3-8b llama3-70b llama3.1-405b mixtral-8x7b mixtral-8x22b deepseek-v3 qwen3-30b-a3b
        qwen3-235b-a22b bloom-176b opt-175b dlrm-1.2t dlrm-criteo-1tb resnet-50
        llama-7b llama-13b llama-30b llama-65b llama-13b-vocab128k llama-30b-vocab128k
        llama-65b-vocab128k llama3.1-8b llama3.1-70b llama3.2-1b llama3.2-3b llama4-scout
        llama4-maverick mpt-125m mpt-350m mpt-760m mpt-1b mpt-3b mpt-7b mpt-13b mpt-30b
        mpt-70b megatron-1.2b megatron-2.5b megatron-4.2b megatron-8.3b gpt-1.16b
        gpt-2.03b gpt-4.24b gpt-8.67b gpt-290.8b gpt-2t mt-nlg-530b gpt3-5b gpt3-20b
        alpa-gpt-350m alpa-gpt-1.3b alpa-gpt-2.6b alpa-gpt-6.7b alpa-gpt-15b alpa-gpt-39b
        gpt2-xl gpt-j-6b gpt-neox-20b bloom-560m bloom-1.1b bloom-1.7b bloom-3b bloom-7.1b
        opt-125m opt-1.3b opt-2.7b opt-6.7b opt-13b opt-30b opt-66b nemotron3-8b
        nemotron3-22b nemotron4-15b nemotron4-340b tinyllama-1.1b mistral-7b
        mistral-nemo-12b mistral-small-24b mistral-large-123b yi-6b yi-34b baichuan-7b
        baichuan-13b baichuan2-7b baichuan2-13b phi3-mini phi3-medium phi4-14b phi3.5-moe
        olmo2-7b olmo2-13b olmo2-32b falcon-7b falcon-40b falcon-180b palm-8b palm-62b
        palm-540b command-r-35b command-r-plus-104b qwen2-7b qwen2-72b qwen2-57b-a14b
        qwen2.5-0.5b qwen2.5-1.5b qwen2.5-3b qwen2.5-7b qwen2.5-14b qwen2.5-32b
        qwen2.5-72b qwen3-8b qwen3-0.6b qwen3-1.7b qwen3-4b qwen3-14b qwen3-32b
        qwen3-coder-480b-a35b gemma-2b gemma-7b gemma2-2b gemma2-9b gemma2-27b gemma3-1b
        gemma3-4b gemma3-12b gemma3-27b grok-1 dbrx-132b gpt-oss-20b gpt-oss-120b
        deepseek-7b deepseek-67b deepseek-moe-16b deepseek-v2 deepseek-v2-lite kimi-k2
        glm-4.5 glm-4.5-air minimax-m2 bert-large bert-base""",
    "stack": "ideal megatron fsdp",
}
# What the measured tables call a device, and its entry. "A100" without more is the 80 GB part, the more common one.
DEVICES = {
    "A100": "a100-80gb-sxm",
    "A100-40GB": "a100-40gb-sxm",
    "A100-80GB": "a100-80gb-sxm",
    "B200": "b200-192gb",
    "B300": "b300-288gb",
    "GB200": "gb200-192gb",
    "GB300": "gb300-288gb",
    "GH200-480GB": "gh200-96gb",
    "Gaudi2-96GB": "gaudi2-96gb",
    "H100-80GB": "h100-80gb-sxm",
    "H100-80GB-power-capped": "h100-80gb-sxm",
    "H20": "h20-96gb",
    "H200": "h200-141gb-sxm",
    "H800-80GB": "h800-80gb-sxm",
    "L40S": "l40s-48gb",
    "MI300X": "mi300x-192gb",
    "TPUv5e": "tpu-v5e",
    "TPUv5p": "tpu-v5p",
    "TPUv6e": "tpu-v6e",
    "V100-16GB": "v100-16gb-sxm",
    "V100-32GB": "v100-32gb-sxm",
}
# What the measured tables call a model, where that is not its id in capitals.
MEASURED_MODELS = {
    "GPT-1B": "gpt-1.16b",
    "GPT-2B": "gpt-2.03b",
    "GPT-4B": "gpt-4.24b",
    "GPT-8B": "gpt-8.67b",
    "GPT-2.6B": "alpa-gpt-2.6b",
    "GPT-18B": "gpt-18.4b",
    "GPT-39B": "gpt-39.1b",
    "GPT-76B": "gpt-76.1b",
    "GPT-145B": "gpt-145.6b",
    "GPT-175B": "gpt3-175b",
    "GPT-291B": "gpt-290.8b",
    "GPT-310B": "gpt-310.1b",
    "GPT-530B": "gpt-529.6b",
    "GPT-1T": "gpt-1008b",
    "GPT-1T-zero3-offload": "gpt-1008b",
    "Grok1-314B": "grok-1",
    "Llama-13B(128k vocab)": "llama-13b-vocab128k",
    "Llama-30B(128k vocab)": "llama-30b-vocab128k",
    "Llama-65B(128k vocab)": "llama-65b-vocab128k",
}
# Shapes that were tried on the way to a model; they are in the rows of the table, not in the catalogue.
PROTOTYPES = {"BLOOM-proto": "bloom-176b"}
QUANTITY = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?(\s*[A-Za-zµ$%/^2* ]+)?")
TEXT_KEYS = {"id", "name", "kind", "base", "vendor", "family", "topology", "algorithm", "sources",
             "accelerator", "node"}  # fmt: skip


def measured_devices() -> list[str]:
    """Every device that a shipped table names."""
    return sorted({str(gpu) for name in TABLES for gpu in measured(name).gpu.dropna()})


def measured_models() -> list[str]:
    """Every model of a stated size in the training table that the model class can express."""
    table = measured("training")
    known = table[table.n_params.notna() & table.arch.isin(("dense", "moe", "mla_moe"))]
    return sorted({str(model) for model in known.model.unique()})


def entry_of(model: str) -> str:
    """The id of a model of the tables."""
    prototype = next((id for prefix, id in PROTOTYPES.items() if model.startswith(prefix)), None)
    return prototype or MEASURED_MODELS.get(model, model.lower())


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
    estimated = "price price_per_hour embodied_carbon memory.energy memory.latency"
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
    assert 20 < peak / device.memory.bandwidth < 600
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
    ("b300-288gb", 2250e12, 288.4e9, 7.67e12),
    ("gb300-288gb", 2500e12, 298e9, 8e12),
    ("mi355x-288gb", 2516.6e12, 288 * 2**30, 8e12),
    ("l40s-48gb", 362.05e12, 48.3e9, 864e9),
    ("h20-96gb", 148e12, 102.6e9, 4e12),
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
    ("dgx-b300", 900e9, 100e9),
    ("gb300-nvl72", 900e9, 100e9),
    ("jean-zay-a100", 300e9, 6.25e9),
    ("a100-cloud-200g", 300e9, 3.125e9),
    ("a100-roce-1600g", 300e9, 25e9),
    ("h800-pod", 200e9, 50e9),
    ("gaudi3-pod", 525e9, 75e9),
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


@pytest.mark.parametrize("id", catalogue.ids("accelerator"))
def test_real_devices_name_their_generation(id: str) -> None:
    """Every device but the ideal ones says whose measured efficiency it shares."""
    ideal = id.startswith("comet-") or id == "dojo-d1"
    assert (load("accelerator", id).generation is None) == ideal


@pytest.mark.parametrize("id", catalogue.ids("cluster"))
def test_real_networks_name_their_fabric(id: str) -> None:
    """Every dimension of every cluster but the ideal ones names its fabric."""
    fabrics = [dimension.fabric for dimension in load("cluster", id).network.dimensions]
    assert all((fabric is None) == id.startswith("comet-") for fabric in fabrics)


@pytest.mark.parametrize("gpu", sorted({*measured_devices(), *DEVICES}))
def test_measured_devices_are_in_the_catalogue(gpu: str) -> None:
    """Every device of the measured tables has an entry, and some node and cluster with it."""
    assert load("accelerator", DEVICES[gpu]).memory.capacity > 0
    assert any(load("node", id).accelerator.id == DEVICES[gpu] for id in catalogue.ids("node"))
    assert any(load("cluster", id).accelerator.id == DEVICES[gpu] for id in catalogue.ids("cluster"))


@pytest.mark.parametrize("model", measured_models())
def test_measured_models_are_in_the_catalogue(model: str) -> None:
    """Every dense model and mixture of experts of the training table has an entry of the shape the rows give."""
    entry = load_model(entry_of(model))
    if any(model.startswith(prefix) for prefix in PROTOTYPES):
        return
    table = measured("training")
    rows = table[(table.model == model) & table.n_params.notna()]
    for field in ("layers", "hidden", "heads"):
        assert set(rows[field].dropna()) <= {getattr(entry, field)}, field


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
    assert 0.8 < per_token / (2 * float(model.active_parameters())) < 2
    assert float(model.active_parameters()) <= float(model.parameters())


@pytest.mark.parametrize(("id", "active"), [
    ("mixtral-8x7b", 12.9e9),
    ("mixtral-8x22b", 39e9),
    ("deepseek-v3", 37e9),
    ("qwen3-30b-a3b", 3.3e9),
    ("qwen3-235b-a22b", 22e9),
    ("qwen3-coder-480b-a35b", 35e9),
    ("llama4-scout", 17e9),
    ("llama4-maverick", 17e9),
    ("dbrx-132b", 36e9),
    ("deepseek-v2", 21e9),
    ("qwen2-57b-a14b", 14e9),
    ("kimi-k2", 32e9),
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
