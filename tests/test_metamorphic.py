"""Relations that must hold between whole estimates, for any legal strategy on any machine."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dse
from dse.explore.best import Space
from dse.spec.hardware import Cluster

FAST = settings(deadline=None, derandomize=True, max_examples=40)
SLOW = settings(deadline=None, derandomize=True, max_examples=20)
CLUSTERS = ("dgx-a100", "dgx-h100", "gb200-nvl72", "tpu-v4-pod", "comet-baseline")
MODELS = ("gpt3-175b", "llama3-70b", "mixtral-8x7b", "deepseek-v3", "dlrm-1.2t", "resnet-50")
LAYERS = {"gpt3-175b": 96, "llama3-70b": 80, "mixtral-8x7b": 32, "deepseek-v3": 61}
EXPERTS = {"mixtral-8x7b": 8, "deepseek-v3": 256}
TABLES = {"time": "step_time", "memory": "memory_bytes", "energy": "energy", "cost": "cost"}
UP = 1 + 1e-12  # room for the last bits of a sum
SWITCH = st.booleans()


@st.composite
def designs(draw: st.DrawFn, models: tuple[str, ...] = MODELS) -> tuple[str, str, dict[str, Any]]:
    """A model, a cluster and a legal strategy (memory aside)."""
    model, cluster = draw(st.sampled_from(models)), draw(st.sampled_from(CLUSTERS))
    dp, micro = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from([1, 2, 4]))
    overlaps = {f"overlap_{name}": draw(SWITCH) for name in ("dp", "tp", "pp", "offload")}
    plan: dict[str, Any] = {"dp": dp, "micro_batch": micro, **overlaps, "precision": "bf16",
                            "overlap_efficiency": draw(st.sampled_from([0.5, 1.0]))}  # fmt: skip
    if model not in LAYERS:
        return model, cluster, {**plan, "global_batch": dp * micro * draw(st.sampled_from([1, 4])),
                                "zero_stage": draw(st.integers(0, 3))}  # fmt: skip
    tp, pp = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from([1, 2, 4, 8]))
    cp = draw(st.sampled_from([1, 2]))
    schedule = draw(st.sampled_from(["gpipe", "1f1b", "interleaved", "zero_bubble_h1", "zero_bubble_h2"]))
    many = schedule == "interleaved" and pp > 1
    stages = draw(st.sampled_from([2, 3])) if many else 1
    plan.update(
        tp=tp, pp=pp, cp=cp, virtual_stages=stages, schedule=schedule if many or schedule != "interleaved" else "1f1b",
        global_batch=dp * micro * 2 * pp * draw(st.sampled_from([1, 3])),
        zero_stage=draw(st.integers(0, 3 if pp == 1 else 1)), sequence_parallel=draw(SWITCH),
        recompute=draw(st.sampled_from(["none", "selective", "full"])),
        attention=draw(st.sampled_from(["flash", "unfused"])),
        placement=draw(st.sampled_from(["tp-cp-dp-pp", "tp-cp-pp-dp", "dp-cp-tp-pp"])),
    )  # fmt: skip
    if model in EXPERTS:
        plan["ep"] = draw(st.sampled_from([e for e in (1, 2, 4, 8) if dp * cp % e == 0]))
    return model, cluster, plan


def legal(result: dse.Result) -> bool:
    """No rule but memory is broken."""
    return all(reason["rule"] == "memory_fits" for reason in result.reasons())


def falls(values: Any, up: float = UP) -> bool:
    """Does a series never rise?"""
    return bool(np.all(values[1:] <= values[:-1] * up))


def rises(values: Any) -> bool:
    return falls(np.asarray(values)[::-1])


def along(result: dse.Result, name: str = "step_time") -> np.ndarray:
    return np.atleast_1d(result[name].values).astype(float)


# -- hardware -----------------------------------------------------------------------------------------------


@given(designs(), st.floats(1.01, 8.0))
@FAST
def test_better_hardware_is_never_slower(design: tuple[str, str, dict[str, Any]], factor: float) -> None:
    """More peak, more memory or network bandwidth, and less latency or launch overhead never lengthen a step."""
    model, name, plan = design
    if plan.get("cp", 1) > 1:  # the attention core may hide both the ring of cp and the gradients of dp behind it
        plan["overlap_dp"] = False
    cluster = dse.load_cluster(name)
    device = cluster.accelerator
    assert legal(dse.estimate(model, cluster, plan))
    rates = {"node.accelerator.matrix.bf16": device.matrix.bf16, "node.accelerator.vector.fp32": device.vector.fp32,
             "node.accelerator.memory.bandwidth": device.memory.bandwidth}  # fmt: skip
    delays = {"node.accelerator.efficiency.launch": device.efficiency.launch}
    for i, dimension in enumerate(cluster.network.dimensions):
        rates[f"network.dimensions.{i}.bandwidth"] = dimension.bandwidth
        delays[f"network.dimensions.{i}.latency"] = dimension.latency
        delays[f"network.dimensions.{i}.overhead"] = dimension.overhead
    for path, value in rates.items():
        if value is not None:
            ladder = [value * factor**n for n in range(-2, 3)]
            assert falls(along(dse.sweep(model, cluster, plan, dse.axis(f"cluster.{path}", ladder)))), path
    for path, value in delays.items():
        ladder = [value, value + 1e-6, (value + 1e-6) * factor, 1.0]
        assert rises(along(dse.sweep(model, cluster, plan, dse.axis(f"cluster.{path}", ladder)))), path


def test_inner_bandwidth_crosses_outer_smoothly() -> None:
    """Where inner and outer dimension become equally busy, a faster inner one still never slows a collective."""
    ladder = np.linspace(20e9, 400e9, 400).tolist()
    plan = "tp=32,global_batch=64"
    swept = dse.sweep("gpt3-175b", "dgx-a100", plan, dse.axis("cluster.network.intra.bandwidth", ladder), devices=64)
    assert falls(along(swept))


@given(designs(), st.sampled_from([2.0, 10.0, 0.125]))
@FAST
def test_the_unit_of_time_does_not_matter(design: tuple[str, str, dict[str, Any]], k: float) -> None:
    """All rates times k and all latencies divided by k divide every time by k (without the host's own times)."""
    model, name, plan = design
    plan["stack"] = "ideal"
    cluster = dse.load_cluster(name)
    scaled = dse.estimate(model, faster(cluster, k), plan)
    plain = dse.estimate(model, cluster, plan)
    assert float(scaled["step_time"]) * k == pytest.approx(float(plain["step_time"]), rel=1e-12)
    assert (scaled.breakdown() * k).to_numpy() == pytest.approx(plain.breakdown().to_numpy(), rel=1e-9, abs=1e-15)


def faster(cluster: Cluster, k: float) -> Cluster:
    """The same machine with a clock that runs k times faster."""
    data = cluster.model_dump()
    device = data["node"]["accelerator"]
    for table in (device["matrix"], device["vector"]):
        table.update({kind: rate * k for kind, rate in table.items() if rate is not None})
    for part in (device["memory"], *data["node"]["expansion"], *data["network"]["dimensions"]):
        part.update(bandwidth=part["bandwidth"] * k, latency=part["latency"] / k)
    for dimension in data["network"]["dimensions"]:
        for time in ("overhead", "ramp", "small_overhead", "small_latency"):
            dimension[time] /= k
        if dimension["in_network_ramp"] is not None:
            dimension["in_network_ramp"] /= k
    device["efficiency"]["launch"] /= k
    return Cluster.parse(data)


@given(designs())
@FAST
def test_a_step_does_its_arithmetic(design: tuple[str, str, dict[str, Any]]) -> None:
    """No step is shorter than its matrix FLOP at peak; causal flash attention may skip half of the attention."""
    model, cluster, plan = design
    result = dse.estimate(model, cluster, plan)
    ideal = float(result["model_flops"]) / float(result["devices"]) / float(result["matrix_peak"])
    spec = dse.load_model(model)
    skipped = 0.0
    if model in LAYERS and plan["attention"] == "flash":
        z = spec.latent
        size = 2 * spec.width if z is None else z.nope_dim + z.rope_dim + z.value_dim
        skipped = spec.layers * spec.seq_len**2 * spec.heads * size / float(spec.forward_flops())
    assert float(result["step_time"]) >= ideal * (1 - skipped) * (1 - 1e-3)  # norms and biases count as FLOP
    if cluster != "comet-baseline":
        assert 0 < float(result["mfu"]) < 1 and float(result["hfu"]) >= float(result["mfu"])


# -- sums ---------------------------------------------------------------------------------------------------


@given(designs())
@FAST
def test_tables_add_up(design: tuple[str, str, dict[str, Any]]) -> None:
    """The breakdowns of time, memory, energy and cost add up to their totals, and no entry is negative."""
    result = dse.estimate(*design)
    for table, whole in TABLES.items():
        terms = result.breakdown(table)
        total = float(result[whole]) / (result.specs["cluster"].facility.pue if table == "energy" else 1.0)
        assert math.fsum(terms) == pytest.approx(total, rel=1e-12), table
        assert (terms >= 0).all(), table


@given(designs())
@FAST
def test_explanations_hold_the_result(design: tuple[str, str, dict[str, Any]]) -> None:
    """The root of an explanation is the result itself, each node has its inputs beneath, and sums add up."""
    result = dse.estimate(*design)
    for name in ("step_time", "memory_bytes", "energy"):
        tree = result.explain(name).to_dict()
        assert tree["name"] == name and tree["value"] == result[name].item()
        assert tree["inputs"]
        graph = result._cells[0].evaluation.graph.quantities
        stack = [tree]
        while stack:
            node = stack.pop()
            if node["name"] in graph and not node.get("shown_above"):
                needs = set(graph[node["name"]].needs) - {"model", "cluster", "strategy", "stack"}
                assert {child["name"] for child in node["inputs"]} == needs
            stack += node.get("inputs", [])
        assert str(result.explain(name)).startswith(name)
    breakdown = result.explain("breakdown").to_dict()
    assert math.fsum(breakdown["value"].values()) == pytest.approx(result["step_time"].item(), rel=1e-12)


# -- memory -------------------------------------------------------------------------------------------------


@given(designs())
@FAST
def test_more_replicas_never_need_more_memory(design: tuple[str, str, dict[str, Any]]) -> None:
    """Doubling the devices at a fixed global batch never raises the memory of one device."""
    model, cluster, plan = design
    plan = {**plan, "global_batch": plan["global_batch"] * 8}
    steps = [dse.estimate(model, cluster, {**plan, "dp": plan["dp"] * k}) for k in (1, 2, 4, 8)]
    assert falls(np.array([float(step["memory_bytes"]) for step in steps]))


@given(designs(tuple(LAYERS)))
@FAST
def test_more_sharding_never_needs_more_memory(design: tuple[str, str, dict[str, Any]]) -> None:
    """Doubling the devices by tensor or context parallelism, or equal stages, never raises memory per device."""
    model, cluster, plan = design
    for name in ("tp", "cp"):
        found = dse.sweep(model, cluster, {**plan, "ep": 1}, dse.axis(name, [1, 2, 4, 8]))
        assert falls(along(found, "memory_bytes")), name
    if LAYERS[model] % 16 == 0 and plan["schedule"] in ("gpipe", "1f1b"):
        plan = {**plan, "global_batch": 64 * plan["dp"] * plan["micro_batch"], "zero_stage": 0, "pp": 1}
        assert falls(along(dse.sweep(model, cluster, plan, dse.axis("pp", [2, 4, 8, 16])), "memory_bytes"), up=1.02)


@given(designs())
@FAST
def test_zero_stages_and_micro_batches_order_memory(design: tuple[str, str, dict[str, Any]]) -> None:
    """ZeRO-3 ≤ 2 ≤ 1 ≤ 0 in model states and memory (gathered layers aside), and memory grows with the micro-batch."""
    model, cluster, plan = design
    found = dse.sweep(model, cluster, plan, dse.axis("zero_stage", [0, 1, 2, 3]))
    states = along(found, "memory.weights") + along(found, "memory.gradients") + along(found, "memory.optimizer")
    assert falls(states)
    working = np.broadcast_to(along(found, "memory.working"), 4)
    assert falls(along(found, "memory_bytes") - (working - working[0]))
    plan = {**plan, "global_batch": plan["global_batch"] * 16}
    assert rises(along(dse.sweep(model, cluster, plan, dse.axis("micro_batch", [1, 2, 4, 8, 16])), "memory_bytes"))


@given(designs(tuple(LAYERS)))
@FAST
def test_recomputation_trades_memory_for_time(design: tuple[str, str, dict[str, Any]]) -> None:
    """Full recomputation keeps no more than selective, selective no more than none; their times go the other way."""
    found = dse.sweep(*design, dse.axis("recompute", ["none", "selective", "full"]))
    assert falls(along(found, "memory.activations"))
    assert rises(along(found, "time.recompute"))
    assert rises(along(found)) and rises(along(found, "hardware_flops"))


# -- pipelines ----------------------------------------------------------------------------------------------


@given(designs(tuple(LAYERS)))
@FAST
def test_the_bubble_fades(design: tuple[str, str, dict[str, Any]]) -> None:
    """The bubble's share falls towards 0 as micro-batches grow, and one stage has no bubble, hops or imbalance."""
    model, cluster, plan = design
    base = plan["dp"] * plan["micro_batch"] * plan["pp"]
    found = dse.sweep(model, cluster, plan, dse.axis("global_batch", [base * 4**n for n in range(8)]))
    share = np.broadcast_to(along(found, "time.bubble"), 8) / along(found)
    assert falls(share) and share[-1] < 1e-3
    alone = dse.estimate(model, cluster, {**plan, "pp": 1, "virtual_stages": 1, "schedule": "1f1b"}).breakdown()
    assert alone[["bubble", "pp_comm", "imbalance"]].tolist() == [0.0, 0.0, 0.0]


# -- sweeps -------------------------------------------------------------------------------------------------


@given(designs(), st.sampled_from(["global_batch", "micro_batch", "tp", "zero_stage", "precision", "dp"]))
@FAST
def test_a_sweep_of_one_point_is_an_estimate(design: tuple[str, str, dict[str, Any]], name: str) -> None:
    """Axes of one value give bit for bit what the estimate gives, in every variable."""
    model, cluster, plan = design
    one = dse.estimate(model, cluster, plan)
    value = {"tp": 1, "precision": "bf16", **plan}[name]
    rate = dse.load_cluster(cluster).accelerator.memory.bandwidth
    axes = [dse.axis(name, [value]), dse.axis("cluster.node.accelerator.memory.bandwidth", [rate]),
            dse.axis("cluster", [cluster])]  # fmt: skip
    devices = int(one["devices"])
    swept = dse.sweep(model, cluster, {**plan, "dp": plan["dp"]}, *axes, devices=devices).dataset
    for variable, values in dse.estimate(model, cluster, plan, devices=devices).dataset.data_vars.items():
        assert swept[variable].values.reshape(()).item() == values.item(), variable
        assert one.dataset[variable].item() == values.item(), variable


@given(designs(tuple(LAYERS)))
@SLOW
def test_cells_equal_their_designs(design: tuple[str, str, dict[str, Any]]) -> None:
    """Each cell of a sweep is the design that ``at`` returns, feasible where it has no reasons not to be."""
    axes = [dse.axis("tp", [1, 2, 3]), dse.axis("pp", [1, 2]), dse.axis("micro_batch", [1, 2, 5]),
            dse.axis("cluster", ["dgx-a100", "gb200-nvl72"])]  # fmt: skip
    found = dse.sweep(*design, *axes, devices=None)
    table = found.to_dataframe(breakdown=False).rename(columns=lambda header: header.split(" [")[0])
    mask = found["feasible"].broadcast_like(found["step_time"])
    for row in table.sample(6, random_state=0).to_dict("records"):
        point = {a.name: row[a.name] for a in axes}
        cell = found.at(**point)
        for name in ("step_time", "memory_bytes", "energy", "cost"):
            assert float(cell[name]) == pytest.approx(float(found[name].sel(point)), rel=1e-12)
        assert cell.is_feasible == bool(mask.sel(point)) == (not cell.reasons()) == (row["reasons"] == "")
        broken = {text.split(" (")[0] for text in row["reasons"].split("; ") if text}
        assert broken == {reason["rule"] for reason in cell.reasons()}


@given(designs(tuple(LAYERS)), st.permutations(range(4)))
@SLOW
def test_axes_in_any_order(design: tuple[str, str, dict[str, Any]], order: list[int]) -> None:
    """Permuting the axes permutes the result, bit for bit."""
    axes = [dse.axis("tp", [1, 2, 8]), dse.axis("recompute", ["none", "full"]), dse.axis("micro_batch", [1, 2]),
            dse.axis("cluster.network.intra.bandwidth", [1e11, 3e11])]  # fmt: skip
    first = dse.sweep(*design, *axes).dataset
    second = dse.sweep(*design, *(axes[i] for i in order)).dataset
    for name, values in first.data_vars.items():
        assert np.array_equal(values.values, second[name].transpose(*values.dims).values), name


# -- search -------------------------------------------------------------------------------------------------

SPACES: list[tuple[str, str, int, int, dict[str, list[Any]]]] = [
    ("gpt3-175b", "dgx-a100", 256, 128, {"virtual_stages": [1, 2], "recompute": ["none", "full"]}),
    ("mixtral-8x7b", "dgx-h100", 64, 64, {"virtual_stages": [1], "micro_batch": [1, 2], "cp": [1, 2]}),
    ("deepseek-v3", "gb200-nvl72", 1152, 2304, {"micro_batch": [1, 2], "virtual_stages": [1], "tp": [1, 2, 3]}),
    ("dlrm-1.2t", "comet-baseline", 64, 4096, {"zero_stage": [0, 1]}),
    ("resnet-50", "tpu-v4-pod", 64, 512, {}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "cluster", "devices", "batch", "options"), SPACES, ids=lambda v: str(v)[:14])
@pytest.mark.parametrize("objective", ["step_time", "mfu", "cost", "memory_bytes"])
def test_best_is_the_minimum_of_the_sweep(model: str, cluster: str, devices: int, batch: int,
                                          options: dict[str, list[Any]], objective: str) -> None:  # fmt: skip
    """The search finds what sorting the whole sweep finds, and counts what the sweep counts."""
    found = dse.best(model, cluster, devices=devices, global_batch=batch, options=options, objective=objective)
    from dse.space.enumerate import strategy_axes

    specs = dse.load_model(model), dse.load_cluster(cluster)
    axes = strategy_axes(*specs, devices, batch, options)
    swept = dse.sweep(*specs, {"global_batch": batch}, *axes, devices=devices)
    mask = swept["feasible"]
    values, mask = swept[objective].broadcast_like(mask), mask.broadcast_like(swept[objective])
    values = values.transpose(*mask.dims).values[mask.values]
    wanted = values.max() if objective == "mfu" else values.min()
    assert float(found[objective]) == pytest.approx(float(wanted), rel=1e-12)
    assert found.evaluated == math.prod(len(a.values) for a in axes)
    assert found.is_feasible and len(found.ranking) == min(5, found.feasible_count)
    again = dse.estimate(model, cluster, found.strategy, devices=devices)
    assert float(again[objective]) == pytest.approx(found.ranking[0][objective], rel=1e-12)


@pytest.mark.parametrize(("model", "cluster", "devices", "batch", "options"), SPACES[:4], ids=lambda v: str(v)[:14])
def test_blocks_and_workers_change_nothing(
    model: str, cluster: str, devices: int, batch: int, options: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any block size and number of threads finds the same ranking, ties included."""
    whole, rankings = Space.blocks, []
    for limit, workers in ((1 << 20, 1), (997, 1), (997, 3), (48, 2)):
        monkeypatch.setattr(Space, "blocks", lambda space, _=0, limit=limit: whole(space, limit))
        found = dse.best(model, cluster, devices=devices, global_batch=batch, options=options, top=12, workers=workers)
        values = [entry.pop("step_time") for entry in found.ranking]
        rankings.append((found.evaluated, found.feasible_count, found.ranking, found.strategy))
        assert values == sorted(values)
    assert all(ranking == rankings[0] for ranking in rankings[1:])
    alone = dse.best(model, cluster, devices=devices, global_batch=batch, options=options, top=1)
    assert alone.strategy == rankings[0][3] and len(alone.ranking) == 1


def test_blocks_cover_a_space_once() -> None:
    """Blocks of any size visit every design exactly once."""
    from dse.explore.best import strategy_space

    space = strategy_space("gpt3-175b", "dgx-a100", devices=64, global_batch=64, options={"tp": [1, 2, 3]})
    for limit in (1, 7, 100, 5000, 1 << 20):
        seen = np.zeros([len(b.values) for b in space.axes], dtype=int)
        for block in space.blocks(limit):
            seen[block] += 1
            assert seen[block].size <= max(limit, 1)
        assert seen.min() == seen.max() == 1
