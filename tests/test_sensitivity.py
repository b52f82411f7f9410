"""Sensitivity: points equal estimates, elasticities equal closed forms, prices break even, parts of the time add up."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dse
from dse.errors import SpecError
from dse.explore.sensitivity import Factor, Search, bottlenecks, elasticities, shadow_prices, tornado
from dse.explore.sensitivity.bottleneck import _ladder, shapley_values
from dse.explore.sensitivity.factors import bind
from dse.explore.sensitivity.samples import evaluate, is_feasible

GPT = ("gpt3-175b", "dgx-a100", "tp=8,pp=8,micro_batch=1,global_batch=1536,zero_stage=1")
SMALL = ("llama2-7b", "dgx-a100", "tp=8,micro_batch=1,global_batch=256,zero_stage=1")


@pytest.fixture(scope="module")
def gpt() -> dse.Result:
    return dse.estimate(*GPT, devices=1024)


@pytest.fixture(scope="module")
def small() -> dse.Result:
    return dse.estimate(*SMALL, devices=64)


def made(**replace: Any) -> dse.Result:
    """A design whose quantities are functions of the specifications' fields, through the same graph as any other."""
    return dse.estimate(*SMALL, devices=64, replace=replace)


# -- points -------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(
    bandwidth=st.floats(5e9, 2e11), peak=st.floats(1e14, 1e15), micro=st.sampled_from([1, 2, 4]),
    recompute=st.sampled_from(["none", "selective", "full"]), cluster=st.sampled_from(["dgx-a100", "dgx-h100"]),
)  # fmt: skip
def test_a_point_equals_the_estimate_of_that_point(
    gpt: dse.Result, bandwidth: float, peak: float, micro: int, recompute: str, cluster: str
) -> None:
    """Fields of hardware and strategy and whole clusters vary at once, and every number is that of dse.estimate."""
    bound = bind(gpt.specs, [
        Factor("cluster.network.inter.bandwidth", 1e9, 1e12), Factor("cluster.accelerator.matrix.bf16", 1e13, 1e16),
        Factor("micro_batch", values=(1, 2, 4)), Factor("recompute", values=("none", "selective", "full")),
        Factor("cluster", values=("dgx-a100", "dgx-h100")),
    ])  # fmt: skip
    columns = [np.array([2e10, bandwidth]), np.array([3e14, peak]), np.array([0, [1, 2, 4].index(micro)]),
               np.array([1, bound[3].levels.index(recompute)]), np.array([0, ["dgx-a100", "dgx-h100"].index(cluster)])]  # fmt: skip
    outputs = {name: (lambda e, name=name: e[name]) for name in ("step_time", "cost", "memory_bytes")}
    found = evaluate(gpt, bound, columns, {**outputs, "feasible": is_feasible})
    spec = dse.load_cluster(cluster).to_plain()
    spec["network"]["dimensions"][-1]["bandwidth"] = bandwidth
    spec["node"]["accelerator"]["matrix"]["bf16"] = peak
    point = dse.estimate(GPT[0], spec, {**gpt.specs["strategy"].model_dump(), "micro_batch": micro, "recompute": recompute}, devices=1024)  # fmt: skip
    for name in outputs:
        assert found[name][1] == pytest.approx(float(point[name]), rel=1e-13)
    assert bool(found["feasible"][1]) == point.is_feasible


def test_the_best_strategy_of_each_point_is_that_of_the_exhaustive_search(small: dse.Result) -> None:
    """Points with a search equal dse.best on each changed cluster, and name its strategy's time exactly."""
    bound = bind(small.specs, ["cluster.network.inter.bandwidth=2,10,100 GB/s", "cluster.memory.capacity=20,40,80 GB"])
    grid = np.meshgrid(np.arange(3), np.arange(3), indexing="ij")
    found = evaluate(small, bound, [g.ravel() for g in grid], {"t": lambda e: e["step_time"]}, Search())
    fixed = {k: v for k, v in small.specs["strategy"].model_dump().items() if v is not None}
    for name in ("tp", "pp", "micro_batch", "virtual_stages", "recompute", "zero_stage", "sequence_parallel", "dp"):
        fixed.pop(name, None)
    batch = fixed.pop("global_batch")
    for i in (0, 4, 8):
        spec = dse.load_cluster("dgx-a100").to_plain()
        spec["network"]["dimensions"][-1]["bandwidth"] = bound[0].levels[grid[0].ravel()[i]]
        spec["node"]["accelerator"]["memory"]["capacity"] = bound[1].levels[grid[1].ravel()[i]]
        best = dse.best(SMALL[0], spec, devices=64, global_batch=batch, base=fixed)
        assert found["t"][i] == pytest.approx(float(best["step_time"]), rel=1e-12)


# -- tornado ------------------------------------------------------------------------------------------------


def test_tornado_ends_are_estimates_and_sorted(gpt: dse.Result) -> None:
    """Both ends of an input equal the estimates there; swings fall; ends stay within what the field may be."""
    found = tornado(gpt, by=0.2)
    table = found.table.set_index("input")
    assert table["swing [s]"].is_monotonic_decreasing
    row = table.loc["cluster.memory.bandwidth"]
    for end in ("low", "high"):
        spec = dse.load_cluster("dgx-a100").to_plain()
        spec["node"]["accelerator"]["memory"]["bandwidth"] = row[end]
        point = dse.estimate(GPT[0], spec, GPT[2], devices=1024)
        assert row[f"at_{end} [s]"] == pytest.approx(float(point["step_time"]), rel=1e-13)
    assert table.loc["cluster.accelerator.efficiency.sustained", "high"] == 1.0
    assert "cluster.facility.electricity_price" not in table.index
    assert "cluster.facility.electricity_price" in tornado(gpt, quantity="cost").table["input"].tolist()


def test_tornado_shows_where_memory_overflows_and_takes_own_ends(small: dse.Result) -> None:
    """A capacity has no effect on the time, but its low end breaks a rule; names and counts have ends of their own."""
    held = float(small["memory_bytes"])
    ends = {"cluster.memory.capacity": (0.5 * held, 2 * held), "recompute": ("none", "full")}
    table = tornado(small, ends).table.set_index("input")
    assert table.loc["cluster.memory.capacity", "note"] == "low breaks memory_fits"
    assert table.loc["cluster.memory.capacity", "swing [s]"] == 0
    full = dse.estimate(SMALL[0], SMALL[1], SMALL[2] + ",recompute=full", devices=64)
    assert table.loc["strategy.recompute", "at_high [s]"] == pytest.approx(float(full["step_time"]), rel=1e-13)


def test_tornado_refuses_what_cannot_vary(gpt: dse.Result) -> None:
    """Counts and names need their own ends; a space of designs is no design."""
    with pytest.raises(SpecError, match="give its low and high"):
        tornado(gpt, ["micro_batch"])
    with pytest.raises(SpecError, match="above 0 and below 1"):
        tornado(gpt, by=1.5)
    with pytest.raises(SpecError, match="one design"):
        tornado(dse.sweep(*GPT, dse.axis("tp", [4, 8]), devices=1024))


# -- elasticities -------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(a=st.floats(-3, 3), b=st.floats(-2, 2), share=st.floats(0.01, 0.99))
def test_elasticities_of_power_laws_and_sums(a: float, b: float, share: float) -> None:
    """q = x^a · y^b has elasticities a and b; q = s·x + (1 − s)/y at x = y = 1 has s and s − 1."""
    base = dse.load_cluster("dgx-a100").accelerator.memory

    def x(cluster: Any) -> Any:
        return cluster.accelerator.memory.bandwidth / base.bandwidth

    def y(cluster: Any) -> Any:
        return cluster.accelerator.memory.capacity / base.capacity

    paths = ["cluster.memory.bandwidth", "cluster.memory.capacity"]
    for quantity, wanted in (
        (lambda cluster: x(cluster) ** a * y(cluster) ** b, (a, b)),
        (lambda cluster: share * x(cluster) + (1 - share) / y(cluster), (share, share - 1)),
    ):
        table = elasticities(made(step_time=quantity), paths).table.set_index("input")
        for path, value in zip(paths, wanted, strict=True):
            row = table.loc[path]
            assert row["kind"] == "smooth"
            assert row["elasticity"] == pytest.approx(value, abs=1e-8)
            assert row["left"] == pytest.approx(value, abs=1e-8) == row["right"]


def test_elasticities_at_kinks_and_jumps() -> None:
    """max(x, 1/x) at 1 has −1 to the left and 1 to the right; a step at the design has none; one nearby is said."""
    base = dse.load_cluster("dgx-a100").accelerator.memory.bandwidth

    def of(function: Any) -> Any:
        design = made(step_time=lambda cluster: function(cluster.accelerator.memory.bandwidth / base))
        return elasticities(design, ["cluster.memory.bandwidth"]).table.iloc[0]

    kink = of(lambda x: np.maximum(x, 1.0 / x))
    assert (kink["kind"], kink["left"], kink["right"]) == ("kink", pytest.approx(-1), pytest.approx(1))
    jump = of(lambda x: x**2 * (1.0 + 0.1 * np.floor(x)))
    assert jump["kind"] == "jump" and math.isnan(jump["left"]) and jump["right"] == pytest.approx(2)
    near = of(lambda x: x**2 + np.where(x > 1.003, 0.5, 0.0))
    assert near["kind"] == "local" and near["elasticity"] == pytest.approx(2, abs=1e-6)
    bent = of(lambda x: np.maximum(x, 1.002**2 / x))
    assert bent["kind"] == "local" and bent["elasticity"] == pytest.approx(-1, abs=1e-6)


@pytest.mark.parametrize("which", ["gpt", "small"])
def test_elasticities_of_all_rates_and_delays_add_up(which: str, request: pytest.FixtureRequest) -> None:
    """Euler: with all rates λ times and all delays 1/λ times as great, the time is 1/λ: Σ rates − Σ delays = −1."""
    design = request.getfixturevalue(which)
    inputs = elasticities(design).table.set_index("input")["elasticity"]
    units = elasticities(design).table.set_index("input")["unit"]
    rates, delays = inputs[units.isin(["FLOP/s", "B/s"])].sum(), inputs[units == "s"].sum()
    assert rates - delays == pytest.approx(-1, abs=1e-9)
    throughput = elasticities(design, quantity="tokens_per_s").table.set_index("input")["elasticity"]
    assert (throughput + inputs).abs().max() < 1e-7


def test_elasticities_refuse_what_has_none(gpt: dse.Result) -> None:
    """Only positive numbers have logarithms."""
    with pytest.raises(SpecError, match="not a positive quantity"):
        elasticities(gpt, ["cluster.network.nvlink.jitter"])
    with pytest.raises(SpecError, match="must be positive"):
        elasticities(gpt, ["cluster.memory.bandwidth"], quantity="time.offload")


# -- shadow prices ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pricing", ["own", "rent"])
def test_at_the_shadow_price_the_cost_per_token_stays(pricing: str) -> None:
    """Buy one GB/s more at exactly its worth: the model's own cost of a step is what it was."""
    spec = dse.load_cluster("dgx-a100").to_plain()
    spec["facility"].update(pricing=pricing, maintenance=0.05)
    spec["node"]["accelerator"]["price_per_hour"] = "2 USD/h"
    before = dse.estimate(GPT[0], spec, GPT[2], devices=1024)
    found = shadow_prices(before, ["cluster.network.inter.bandwidth", "cluster.accelerator.matrix.bf16"])
    assert found.worth_unit == ("USD" if pricing == "own" else "USD/s")
    for _, row in found.table.iterrows():
        changed = json.loads(json.dumps(spec))
        accelerator = changed["node"]["accelerator"]
        if "bandwidth" in row["path"]:
            changed["network"]["dimensions"][-1]["bandwidth"] = row["now"] + row["step"]
        else:
            accelerator["matrix"]["bf16"] = row["now"] + row["step"]
        name = "price" if pricing == "own" else "price_per_hour"
        was = before.specs["cluster"].accelerator.model_dump()[name]
        accelerator[name] = was + row[f"worth [{found.worth_unit}]"]
        after = dse.estimate(GPT[0], changed, GPT[2], devices=1024)
        assert float(before["step_time"]) - float(after["step_time"]) == pytest.approx(row["saved [s]"], rel=1e-9)
        assert float(after["cost"]) == pytest.approx(float(before["cost"]), rel=1e-12)


def test_shadow_prices_read_as_sentences(gpt: dse.Result) -> None:
    """Natural steps with units, what is saved, and what it is worth."""
    text = str(shadow_prices(gpt))
    assert "one more GB/s of infiniband bandwidth (25 GB/s now) saves " in text
    assert "one more TFLOP/s of matrix peak (bf16)" in text and "one less µs of nvlink latency" in text
    assert "is worth up to $" in text and "per device; without limit it would save" in text


def test_tiers_behind_the_memory_are_listed_though_nothing_waits_for_them(gpt: dse.Result) -> None:
    """What saves nothing, even without limit, is named in one last line; what only a great step helps, in its own."""
    found = shadow_prices(gpt)
    tiers = [f"cluster.node.expansion.{i}.bandwidth" for i in range(len(gpt.specs["cluster"].node.expansion))]
    table = found.table.set_index("path")
    assert tiers and (table.loc[tiers, ["saved [s]", "most [s]"]] == 0).all(axis=None)
    last = str(found).splitlines()[-1]
    assert "ddr bandwidth" in last and "memory capacity" in last and "nothing at the margin, nor without limit" in last
    assert str(found).count("ddr bandwidth") == 1
    hidden = made(step_time=lambda cluster: np.where(cluster.accelerator.memory.bandwidth > 1e14, 1.0, 2.0))
    text = str(shadow_prices(hidden, ["cluster.memory.bandwidth"]))
    assert "saves nothing at the margin; without limit it would save 1 s" in text


def test_the_ladder_of_memory_is_what_enumeration_finds(small: dse.Result) -> None:
    """At the first rung's capacity dse.best finds its time, and a byte less memory gives a slower best strategy."""
    tight = dse.load_cluster("dgx-a100").to_plain()
    tight["node"]["accelerator"]["memory"]["capacity"] = "12 GB"
    base = "overlap_dp=true"
    best = dse.best(SMALL[0], tight, devices=64, global_batch=256, base=base)
    found = shadow_prices(best, reoptimize=True)
    assert found.step_time == pytest.approx(float(best["step_time"]), rel=1e-12)
    assert len(found.ladder) >= 2 and found.ladder["capacity [B]"].is_monotonic_increasing
    assert found.ladder["saved [s]"].is_monotonic_increasing
    rung = found.ladder.iloc[0]
    times = []
    for capacity in (rung["capacity [B]"] * (1 - 1e-9), rung["capacity [B]"] * (1 + 1e-9)):
        tight["node"]["accelerator"]["memory"]["capacity"] = capacity
        times.append(float(dse.best(SMALL[0], tight, devices=64, global_batch=256, base=base)["step_time"]))
    assert times[0] == pytest.approx(found.step_time, rel=1e-9)
    assert times[1] == pytest.approx(rung["step_time [s]"], rel=1e-9) and times[1] < times[0]
    assert "lets " in str(found) and " fit, saves " in str(found)


def test_only_resources_have_shadow_prices(gpt: dse.Result) -> None:
    """A strategy's field is nothing to buy."""
    with pytest.raises(SpecError, match="is no resource"):
        shadow_prices(gpt, ["strategy.tp"])


# -- bottlenecks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "design",
    [
        (*GPT, 1024),
        ("mixtral-8x7b", "dgx-h100", "tp=4,pp=2,ep=4,micro_batch=1,global_batch=512,zero_stage=1", 128),
        ("transformer-1t", "comet-baseline", "tp=8,global_batch=1024,execution=comet,precision=fp16,recompute=full,zero_stage=2", 1024),
        ("llama2-7b", "dgx-a100", "global_batch=8,zero_stage=1", 1),
    ],
)  # fmt: skip
def test_parts_of_the_time_add_up(design: tuple[str, str, str, int]) -> None:
    """Shapley values and floor make the step time; nobody's part is negative; the ladder only goes down."""
    result = dse.estimate(*design[:3], devices=design[3])
    found = bottlenecks(result, depth=20)
    assert found.step_time == pytest.approx(float(result["step_time"]), rel=1e-12)
    assert found.table["shapley [s]"].sum() + found.floor == pytest.approx(found.step_time, rel=1e-9)
    assert found.table["shapley [s]"].min() >= -1e-9 * found.step_time
    left = [found.step_time, *found.ladder["left [s]"]]
    assert all(b < a for a, b in itertools.pairwise(left))
    assert left[-1] == pytest.approx(found.floor, abs=2e-9 * found.step_time)
    alone = found.table.set_index("resource")["alone [s]"]
    assert found.ladder["saved [s]"][0] == pytest.approx(alone.max())
    if design[3] == 1:
        assert not any("nvlink" in name or "bubble" in name for name in alone.index)


def test_a_resource_alone_is_that_of_an_estimate_with_it_unlimited(gpt: dse.Result) -> None:
    """The speed-up of unlimited InfiniBand equals that of a network of 10^18 B/s."""
    alone = bottlenecks(gpt).table.set_index("resource")["alone [s]"]
    spec = dse.load_cluster("dgx-a100").to_plain()
    spec["network"]["dimensions"][-1]["bandwidth"] = 1e18
    fast = dse.estimate(GPT[0], spec, GPT[2], devices=1024)
    saved = float(gpt["step_time"]) - float(fast["step_time"])
    assert alone["infiniband bandwidth"] == pytest.approx(saved, rel=1e-4)  # a ramp goes with the root of the rate


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 10_000))
def test_shapley_values_are_means_over_all_orders(n: int, seed: int) -> None:
    """From the definition: the mean of what each saves when it comes, over all n! orders."""
    times = np.random.default_rng(seed).random(1 << n)
    wanted = np.zeros(n)
    for order in itertools.permutations(range(n)):
        done = 0
        for i in order:
            wanted[i] += times[done] - times[done | 1 << i]
            done |= 1 << i
    assert shapley_values(times) == pytest.approx(wanted / math.factorial(n), abs=1e-12)


def test_two_equally_slow_resources_are_one_rung() -> None:
    """T = max(a, b) + c with a = b: neither helps alone, both together do; their parts are equal."""

    def time(done: int) -> float:
        a, b, c = (0.0 if done >> i & 1 else t for i, t in enumerate((2.0, 2.0, 1.0)))
        return max(a, b) + c

    times = np.array([time(done) for done in range(8)])
    ladder = _ladder(times, ["a", "b", "c"], 9)
    assert ladder["resource"].tolist() == ["c", "a with b"]
    assert ladder["left [s]"].tolist() == [2.0, 0.0]
    assert shapley_values(times) == pytest.approx([1.0, 1.0, 1.0])
