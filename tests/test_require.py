"""Inverse design: the least resource that meets a target, against closed forms, single estimates and enumeration."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import dse
from dse.accuracy.features import KINDS
from dse.accuracy.uncertainty import widths
from dse.errors import InfeasibleDesign, SpecError
from dse.explore.objectives import condition
from dse.explore.require import IsoCurve, Requirement, require
from dse.explore.require import cli as require_cli
from dse.explore.require.field import roundest
from dse.explore.require.scan import runs
from dse.space.axes import locate, with_value

FEW = settings(deadline=None, derandomize=True, max_examples=12)
INTER, INTRA = "cluster.network.inter.bandwidth", "cluster.network.intra.bandwidth"
PLAN = "tp=8,pp=4,dp=4,micro_batch=1,global_batch=256,zero_stage=1,sequence_parallel=true"
CASE = ("llama3-70b", "dgx-h100", PLAN)
SMALL = {"tp": [4, 8], "pp": [2, 4, 8], "micro_batch": [1, 2], "virtual_stages": [1, 2], "zero_stage": [1]}
BEST = {"global_batch": 256, "options": SMALL}


def changed(design: tuple[str, str, str], path: str, value: float) -> dse.Result:
    """One estimate of the design with one field at another value."""
    loaders = {"model": dse.load_model, "cluster": dse.load_cluster, "strategy": dse.load_strategy}
    specs = {name: loaders[name](given) for name, given in zip(loaders, design, strict=True)}
    specs["stack"] = None
    place = locate(path, specs)
    specs[place.root] = with_value(specs[place.root], place.steps, value)
    return dse.estimate(specs["model"], specs["cluster"], specs["strategy"])


def meets(result: dse.Result, *targets: str) -> bool:
    return result.is_feasible and all(float(condition(t).margin(result.cells[0].evaluation)) >= 0 for t in targets)


def timed(function: Any) -> dict[str, Any]:
    """Quantities of a cost model in which all time is compute: its interval has one width everywhere."""
    return {"step_time": function, "breakdown": lambda step_time: {"forward": step_time}}


def half_width(level: float = 0.9) -> float:
    """Of a design that only computes, on the machine and stack of CASE."""
    shares = {f"share.{kind}": float(kind == "compute") for kind in KINDS}
    return float(widths(shares, {"generation": "hopper", "stack": "megatron"}, level))


# -- closed forms ------------------------------------------------------------------------------------------------


def test_time_that_is_work_over_bandwidth_gives_the_bandwidth_back() -> None:
    """T = W / x is at most 10 s from x = W / 10 s on; the interval of x is that of T."""
    work = 1e12
    own = timed(lambda cluster: work / cluster.network.dimensions[-1].bandwidth)
    found = require("step_time <= 10 s", INTER, *CASE, replace=own, tolerance=1e-6)
    assert isinstance(found, Requirement) and found.least and not found.at_end
    assert found.value == pytest.approx(work / 10, rel=2e-6) and found.value >= work / 10
    assert found.pessimistic == pytest.approx(found.value * math.exp(half_width()), rel=3e-6)
    assert found.optimistic == pytest.approx(found.value * math.exp(-half_width()), rel=3e-6)
    assert found.intervals == [(pytest.approx(found.value), found.field.high)]


def test_certainty_agrees_with_the_probability_of_the_condition() -> None:
    """At the value for P ≥ q the condition holds with q, and hardly with more."""
    target = condition("mfu >= 0.3")
    for q in (0.6, 0.8, 0.9):
        found = require(target, INTER, *CASE, probability=q, tolerance=1e-5)
        at = changed(CASE, INTER, found.probable).cells[0].evaluation
        assert q <= float(target.probability(at)) < q + 1e-3


def test_the_most_of_a_price_is_where_its_straight_line_reaches_the_budget() -> None:
    """Cost is linear in the price of an accelerator, and less is better."""
    path, budget = "cluster.accelerator.price", 3.0
    at = [float(changed(CASE, path, price)["cost"]) for price in (1e4, 2e4)]
    exact = 1e4 + (budget - at[0]) / (at[1] - at[0]) * 1e4
    found = require(f"cost <= {budget} USD", path, *CASE, tolerance=1e-6)
    assert not found.least and found.value == pytest.approx(exact, rel=2e-6)
    assert found.pessimistic < found.value < found.optimistic


def test_the_least_memory_is_what_the_design_holds() -> None:
    """The rules are part of the target: a capacity below the footprint is no answer, however quick."""
    found = require("step_time <= 1e6 s", "cluster.node.memory.capacity", *CASE, tolerance=1e-6)
    held = float(dse.estimate(*CASE)["memory_bytes"])
    assert found.value == pytest.approx(held, rel=2e-6) and found.value >= held


def test_a_response_that_rises_and_falls_gives_every_range() -> None:
    """Several separate ranges meet the target; their ends are the crossings of the sine."""

    def wave(cluster: Any) -> Any:
        return 10 + 5 * np.sin(2 * np.log(cluster.network.dimensions[-1].bandwidth / 1e9))

    found = require(
        "step_time <= 8 s",
        INTER,
        *CASE,
        low="1 GB/s",
        high="1 TB/s",
        direction="least",
        replace=timed(wave),
        tolerance=1e-7,
    )
    dense = np.geomspace(1e9, 1e12, 400_001)
    spans = runs(10 + 5 * np.sin(2 * np.log(dense / 1e9)) <= 8)
    assert len(found.intervals) == len(spans) == 2
    for (low, high), (first, last) in zip(found.intervals, spans, strict=True):
        assert low == pytest.approx(dense[first], rel=1e-4) and high == pytest.approx(dense[last], rel=1e-4)
    assert found.value == found.intervals[0][0] and "2 ranges" in repr(found)


@given(st.lists(st.floats(1.0, 20.0), min_size=4, max_size=9), st.floats(2.0, 19.0))
@settings(FEW, max_examples=25)
def test_random_broken_lines_are_met_where_a_dense_grid_says(levels: list[float], bound: float) -> None:
    """Piecewise linear responses in ln x: the least value and the number of ranges equal brute force."""
    knots = np.linspace(math.log(1e9), math.log(1e12), len(levels))
    own = timed(lambda cluster: np.interp(np.log(cluster.network.dimensions[-1].bandwidth), knots, levels))
    dense = np.geomspace(1e9, 1e12, 50_001)
    met = np.interp(np.log(dense), knots, levels) <= bound
    wide = [(a, b) for a, b in runs(met) if b - a > 1000]
    gaps = [(a, b) for a, b in runs(~met) if b - a > 1000]
    arguments: dict[str, Any] = {"low": "1 GB/s", "high": "1 TB/s", "replace": own, "direction": "least"}
    if len(wide) != len(runs(met)) or len(gaps) != len(runs(~met)):
        return  # narrower than the steps of a scan
    if not met.any():
        with pytest.raises(InfeasibleDesign):
            require(f"step_time <= {bound} s", INTER, *CASE, **arguments)
        return
    found = require(f"step_time <= {bound} s", INTER, *CASE, **arguments)
    assert len(found.intervals) == len(wide)
    assert found.value == pytest.approx(dense[np.argmax(met)], rel=2e-3)


def test_a_range_from_zero_is_searched_evenly() -> None:
    """A latency may be 0; the most of it is where the straight line meets the bound."""
    own = timed(lambda cluster: 1.0 + 1e3 * cluster.network.dimensions[-1].latency)
    found = require("step_time <= 2 s", "cluster.network.inter.latency", *CASE, low=0, high="10 ms", replace=own)
    assert not found.least and found.value == pytest.approx(1e-3, rel=2e-3) and found.intervals[0][0] == 0


# -- against single estimates ------------------------------------------------------------------------------------

MIXTURE = ("mixtral-8x7b", "dgx-h100", "tp=2,pp=2,dp=8,ep=4,micro_batch=1,global_batch=128,zero_stage=1")
RECOMMENDER = ("dlrm-1.2t", "comet-baseline", "tp=1,dp=64,global_batch=65536,execution=comet")
DESIGNS = [
    (("gpt3-175b", "dgx-a100", PLAN.replace("pp=4", "pp=8")), INTER, "mfu", 0.9),
    (CASE, INTRA, "step_time", 1.05),
    (CASE, "cluster.node.memory.bandwidth", "mfu", 1.02),
    (CASE, "cluster.accelerator.matrix.bf16", "step_time", 0.8),
    (CASE, "cluster.network.inter.latency", "tokens_per_s", 0.999),
    (CASE, "cluster.facility.electricity_price", "cost", 1.2),
    (MIXTURE, INTER, "mfu", 0.9),
    (RECOMMENDER, INTER, "step_time", 1.3),
]


@pytest.mark.parametrize(("design", "path", "name", "factor"), DESIGNS, ids=[f"{d[0]}-{n}" for d, _, n, _ in DESIGNS])
def test_the_answer_meets_the_target_and_a_little_less_does_not(
    design: Any, path: str, name: str, factor: float
) -> None:
    """Checked by estimating both designs, one by one; the ends are in order."""
    now = dse.estimate(*design)
    unit = "" if now.unit(name) == "1" else now.unit(name)
    sense = "<=" if name in ("step_time", "cost") else ">="
    target = f"{name} {sense} {factor * float(now[name])!r} {unit}".strip()
    found = require(target, path, *design)
    worse = found.value * (1 - 2e-3 if found.least else 1 + 2e-3)
    assert not found.at_end and found.already_met == meets(now, target)
    assert meets(changed(design, path, found.value), target) and meets(found.design, target)
    assert not meets(changed(design, path, worse), target)
    ends = [found.optimistic, found.value, *([] if found.pessimistic is None else [found.pessimistic])]
    assert ends == sorted(ends, reverse=not found.least)


@given(st.lists(st.floats(0.15, 0.47), min_size=2, max_size=3))
@FEW
def test_a_higher_target_needs_no_less(targets: list[float]) -> None:
    """The least bandwidth rises with the target; all targets together need what the highest does."""
    targets = sorted(targets)
    found = [require(f"mfu >= {t}", INTER, *CASE, low="100 MB/s", high="1 TB/s") for t in targets]
    values = [r.value for r in found]
    assert values == sorted(values)
    both = require([f"mfu >= {t}" for t in targets], INTER, *CASE, low="100 MB/s", high="1 TB/s")
    assert both.value == pytest.approx(values[-1], rel=2e-3)


def test_wider_intervals_hold_narrower_ones() -> None:
    """The ends move apart with the level."""
    found = [require("mfu >= 0.35", INTER, *CASE, level=level) for level in (0.5, 0.8, 0.95)]
    lows = [r.optimistic for r in found]
    highs = [math.inf if r.pessimistic is None else r.pessimistic for r in found]
    assert lows == sorted(lows, reverse=True) and highs == sorted(highs)
    assert found[0].value == found[2].value


# -- whole numbers -----------------------------------------------------------------------------------------------


def test_devices_of_a_fixed_strategy_are_all_tried() -> None:
    """The least number of devices equals a loop over every legal number; data parallelism follows."""
    target = "step_time <= 15 s"
    found = require(target, "devices", *CASE, low=16, high=2048)
    free = PLAN.replace("dp=4,", "")
    loop = [n for n in range(32, 2049, 32) if meets(dse.estimate(*CASE[:2], free, devices=n), target)]
    assert found.exhaustive and found.value == min(loop) and found.intervals[0][0] == min(loop)
    assert float(found.design["devices"]) == found.value


def test_the_global_batch_equals_a_loop() -> None:
    """All whole numbers are tried where the strategy is given."""
    target = "mfu >= 0.4"
    found = require(target, "global_batch", *CASE, low=8, high=512)
    loop = [b for b in range(8, 513, 4) if meets(changed(CASE, "strategy.global_batch", b), target)]
    assert found.exhaustive and found.value == min(loop)


def test_devices_with_the_best_strategy_equal_the_best_of_each_number() -> None:
    """The least number of whole nodes for which some strategy meets the target."""
    target, path = "tokens_per_s >= 150000 1/s", "devices"
    found = require(target, path, *CASE[:2], low=32, high=256, devices=64, points=200, **BEST)
    counts = [n for n in found.field.whole if n >= 32]
    best = {}
    for n in counts:
        try:
            best[n] = dse.best(*CASE[:2], devices=n, objective="tokens_per_s", **BEST)
        except InfeasibleDesign:
            continue
    least = min(n for n, result in best.items() if float(result["tokens_per_s"]) >= 150000)
    assert found.value == least and found.exhaustive
    assert float(found.design["tokens_per_s"]) == float(best[least]["tokens_per_s"])


def test_every_number_of_devices_that_can_be_split_is_a_candidate() -> None:
    """Counts left out have no legal strategy: each is refused by the enumeration."""
    found = require("mfu >= 0.1", "devices", *CASE[:2], low=32, high=96, devices=64, points=200, **BEST)
    for n in set(range(32, 97, 8)) - set(found.field.whole):
        with pytest.raises(InfeasibleDesign):
            dse.best(*CASE[:2], devices=n, objective="mfu", **BEST)


def test_sizes_that_do_not_nest_with_the_nodes_are_left_out() -> None:
    """A dimension of the network takes only sizes that divide the node or are its multiples."""
    found = require("mfu >= 0.1", "cluster.network.intra.size", *CASE, low=1, high=40)
    assert set(found.field.whole) == {1, 2, 4, 8, 16, 24, 32, 40}


def test_round_numbers_stand_for_their_stretch() -> None:
    """Of many whole numbers the ends and the ones with the most factors of two are taken."""
    chosen = roundest(np.arange(16, 65_537), 24)
    assert chosen[0] == 16 and chosen[-1] == 65_536 and len(chosen) <= 24
    assert {1024, 2048, 4096} <= set(chosen.tolist())


def test_a_field_that_changes_the_model_is_evaluated_value_by_value() -> None:
    """The number of dense layers of a mixture shapes the model; the answer equals single estimates."""
    design = (
        "deepseek-v3",
        "dgx-h100",
        "tp=8,pp=4,dp=32,ep=32,micro_batch=1,global_batch=512,zero_stage=1,recompute=full",
    )
    path = "model.moe.dense_layers"
    times = [changed(design, path, n) for n in range(13)]
    target = f"step_time <= {float(times[6]['step_time'])!r} s"
    loop = [n for n, result in enumerate(times) if meets(result, target)]
    found = require(target, path, *design, low=0, high=12)
    assert found.exhaustive and 6 in loop and len(loop) < 13
    assert found.value == (min(loop) if found.least else max(loop))


def test_a_case_that_is_met_nowhere_has_no_value() -> None:
    """Whole numbers too: the prediction meets the target, the pessimistic end nowhere in the range."""
    now = float(dse.estimate(*CASE)["mfu"])
    found = require(f"mfu >= {now!r}", "global_batch", *CASE[:2], devices=128, low=64, high=256, points=8, **BEST)
    assert found.pessimistic is None and not found.exhaustive and "not met up to 256" in repr(found)
    assert found.summary()["pessimistic"] is None


# -- the best strategy -------------------------------------------------------------------------------------------


def test_the_best_strategy_at_the_answer_is_that_of_best() -> None:
    """At the answer the enumeration finds the same value; below it, none that meets the target."""
    found = require("mfu >= 0.42", INTER, *CASE[:2], devices=128, **BEST)
    cluster = found.design.specs["cluster"]
    best = dse.best("llama3-70b", cluster, devices=128, objective="mfu", **BEST)
    assert float(best["mfu"]) == float(found.design["mfu"]) >= 0.42
    place = locate(INTER, {"cluster": cluster})
    less = with_value(cluster, place.steps, found.value * (1 - 2e-3))
    assert float(dse.best("llama3-70b", less, devices=128, objective="mfu", **BEST)["mfu"]) < 0.42
    assert found.strategy.items() <= best.strategy.items()


def test_the_least_over_strategies_is_the_least_of_each() -> None:
    """Every strategy by itself needs no less than the best of them."""
    options = {"tp": [4, 8], "pp": [4], "micro_batch": [1], "virtual_stages": [1], "zero_stage": [1],
               "recompute": ["selective"], "sequence_parallel": [True]}  # fmt: skip
    ends = {"low": "200 MB/s", "high": "400 GB/s", "tolerance": 1e-6}
    found = require("mfu >= 0.38", INTER, *CASE[:2], devices=128, global_batch=256, options=options, **ends)
    each = []
    for tp in (4, 8):
        text = f"tp={tp},pp=4,micro_batch=1,global_batch=256,zero_stage=1,recompute=selective,sequence_parallel=true"
        try:
            each.append(require("mfu >= 0.38", INTER, *CASE[:2], text, devices=128, **ends).value)
        except InfeasibleDesign:
            continue
    assert found.value == pytest.approx(min(each), rel=3e-6)


@given(
    st.sets(st.sampled_from([2, 4, 8]), min_size=1),
    st.sets(st.sampled_from([1, 2, 4, 8]), min_size=1),
    st.sets(st.sampled_from(["none", "selective", "full"]), min_size=1),
    st.floats(0.2, 0.5),
)
@FEW
def test_random_spaces_agree_with_a_sweep_of_everything(tp: set, pp: set, recompute: set, bound: float) -> None:
    """The answer lies in the step of a fine grid in which the best of all strategies first meets the target."""
    options = {"tp": sorted(tp), "pp": sorted(pp), "recompute": sorted(recompute), "micro_batch": [1, 2],
               "virtual_stages": [1, 2], "zero_stage": [1], "sequence_parallel": [True]}  # fmt: skip
    grid = np.geomspace(1e9, 1e12, 161)
    axes = [dse.axis(name, values) for name, values in options.items()]
    swept = dse.sweep(*CASE[:2], "global_batch=256", *axes, dse.axis(INTER, grid), devices=128)
    mfu = swept["mfu"].where(swept["feasible"]).max([a.name for a in axes]).values
    arguments: Any = {"devices": 128, "global_batch": 256, "options": options, "low": "1 GB/s", "high": "1 TB/s"}
    if not np.any(mfu >= bound):
        with pytest.raises(InfeasibleDesign):
            require(f"mfu >= {bound!r}", INTER, *CASE[:2], **arguments)
        return
    found = require(f"mfu >= {bound!r}", INTER, *CASE[:2], **arguments)
    first = int(np.argmax(mfu >= bound))
    assert (grid[first - 1] if first else 0) < found.value <= grid[first] * 1.001


def test_a_varied_field_of_the_strategy_is_not_chosen_too() -> None:
    """The most micro-batch for which some strategy meets the target."""
    options = {name: values for name, values in SMALL.items() if name != "micro_batch"}
    found = require(
        "mfu >= 0.3", "micro_batch", *CASE[:2], devices=128, global_batch=256, low=1, high=16, options=options
    )
    assert "micro_batch" not in found.strategy and found.design.specs["strategy"].micro_batch == found.value
    with pytest.raises(SpecError, match="varies already"):
        require("mfu >= 0.3", "micro_batch", *CASE[:2], devices=128, **BEST)


# -- two resources -----------------------------------------------------------------------------------------------

A, B, BOUND = 2e12, 3e13, 100.0


def iso(**more: Any) -> IsoCurve:
    """T = A / x + B / y: x = A / (T − B / y) along the curve."""
    own = timed(
        lambda cluster: A / cluster.network.dimensions[-1].bandwidth + B / cluster.network.dimensions[0].bandwidth
    )
    return require(f"step_time <= {BOUND} s", (INTER, INTRA), *CASE, replace=own, low=("1 GB/s", "10 GB/s"),
                   high=("10 TB/s", "100 TB/s"), tolerance=1e-6, **more)  # fmt: skip


def test_the_iso_curve_is_the_hyperbola() -> None:
    """The curve, its band and its slope equal the closed form; where y alone takes too long there is no x."""
    found = iso(points=65)
    y, h = found.across, math.exp(half_width())
    rest = BOUND - B / y
    open_ = (rest > 0) & (A / np.maximum(rest, 1e-9) < 1e13)
    assert np.array_equal(np.isfinite(found.found[0]), open_)
    exact = A / rest[open_]
    assert found.found[0][open_] == pytest.approx(exact, rel=3e-6)
    worse = A / np.maximum(BOUND / h - B / y, 1e-9)
    assert found.found[2][worse < 9e12] == pytest.approx(worse[worse < 9e12], rel=3e-6)
    inner = np.flatnonzero(open_)[3:-1]
    assert found.elasticity[inner] == pytest.approx(-(B / y / rest)[inner], rel=0.05)
    assert found.rate[inner] == pytest.approx((A * B / (y * rest) ** 2)[inner], rel=0.05)


def test_the_cheapest_pair_is_the_closed_form() -> None:
    """p·x + q·y is least at x = (A + √(A·B·q/p)) / T and y = (B + √(A·B·p/q)) / T."""
    p, q = 100e-9, 5e-9
    found = iso(points=33, prices={INTER: "100 USD/(GB/s)", INTRA: "5 USD/(GB/s)"})
    x, y = (A + math.sqrt(A * B * q / p)) / BOUND, (B + math.sqrt(A * B * p / q)) / BOUND
    assert found.cheapest["first"] == pytest.approx(x, rel=0.02)
    assert found.cheapest["second"] == pytest.approx(y, rel=0.02)
    assert found.cheapest["cost"] == pytest.approx(128 * (p * x + q * y), rel=1e-4)
    assert np.nanmin(found.cost) >= found.cheapest["cost"]


def test_devices_are_paid_for_each_and_bandwidth_on_each() -> None:
    """With a price per device the total is devices · (device + bandwidth)."""
    found = require("step_time <= 15 s", ("devices", INTER), *CASE, low=(16, "5 GB/s"), high=(1024, "200 GB/s"), points=9,
                    prices={"devices": "30000 USD", INTER: "100 USD/(GB/s)"})  # fmt: skip
    frame = found.to_dataframe()
    wanted = frame["cluster.devices"] * (30000 + 100e-9 * frame[f"{INTER} [B/s]"])
    assert frame["cost [USD]"].to_numpy() == pytest.approx(wanted.to_numpy(), nan_ok=True)
    each = [require("step_time <= 15 s", "devices", "llama3-70b", with_bandwidth(b), PLAN, low=16, high=1024).value
            for b in found.across[[2, 6]]]  # fmt: skip
    assert found.found[0][[2, 6]].tolist() == each


def with_bandwidth(value: float) -> Any:
    cluster = dse.load_cluster("dgx-h100")
    return with_value(cluster, locate(INTER, {"cluster": cluster}).steps, float(value))


# -- what cannot be met, and what is met already -----------------------------------------------------------------


def test_out_of_reach_says_what_comes_nearest_and_what_bounds_it() -> None:
    """The message holds the best value, where it lies, and the largest terms there."""
    with pytest.raises(InfeasibleDesign) as caught:
        require("mfu >= 0.95", INTER, *CASE)
    nearest = changed(CASE, INTER, 64 * dse.load_cluster("dgx-h100").network.dimensions[-1].bandwidth)
    assert f"mfu = {float(nearest['mfu']):.4g}" in str(caught.value)
    assert "forward" in str(caught.value) and "%" in str(caught.value)
    with pytest.raises(InfeasibleDesign, match="memory"):
        require("mfu >= 0.1", INTER, "gpt3-175b", "dgx-a100", "tp=1,pp=1,dp=8,global_batch=8")
    with pytest.raises(InfeasibleDesign, match="none of the"):
        require("mfu >= 0.1", INTER, "gpt3-175b", "dgx-a100", devices=8, global_batch=8, options=SMALL)
    with pytest.raises(InfeasibleDesign, match="is not met by any"):
        require("mfu >= 0.95", (INTER, INTRA), *CASE, points=9)


def test_already_met_says_by_how_much_and_how_far_it_may_fall() -> None:
    """The ratio of what there is to what is needed."""
    found = require("mfu >= 0.2", INTER, *CASE)
    score = float(dse.estimate(*CASE)["mfu"]) / 0.2 - 1
    assert found.already_met and found.current_score == pytest.approx(score)
    assert f"may fall by a factor of {found.field.current / found.value:.4g}" in repr(found)
    missed = require("mfu >= 0.47", "cluster.node.memory.bandwidth", *CASE, low="100 GB/s", high="1e15 B/s")
    assert missed.already_met or "misses by" in repr(missed)


# -- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({"target": "mfu"}, "condition"),
        ({"target": []}, "needs a condition"),
        ({"target": "mfu >= 3 GB"}, "dimension"),
        ({"target": "mfo >= 0.5"}, "mfu"),
        ({"vary": "cluster.network.inter.bandwith"}, "bandwidth"),
        ({"vary": "cluster.accelerator.name"}, "not a number"),
        ({"vary": "strategy.recompute"}, "not a number"),
        ({"vary": "cluster"}, "not a number"),
        ({"vary": "model.bottom_mlp", "model": "dlrm-1.2t"}, "not a number"),
        ({"vary": ("tp", "pp", "dp")}, "one field or two"),
        ({"vary": (INTER, INTER)}, "names one field twice"),
        ({"low": "3 GB"}, "dimension"),
        ({"low": "30"}, "needs a unit"),
        ({"low": "2 TB/s", "high": "1 TB/s"}, "below high"),
        ({"high": "1e30 B/s"}, "less than or equal"),
        ({"vary": "cluster.network.inter.contention"}, "must be given"),
        ({"vary": "cluster.network.inter.size"}, "is open now"),
        ({"low": ("1 GB/s", "2 GB/s")}, "must have 1 values"),
        ({"level": 0.99}, "between 0.5 and 0.95"),
        ({"probability": 0.2}, "between 0.5 and 0.99"),
        ({"direction": "up"}, "least or most"),
        ({"points": 1}, "from 3"),
        ({"tolerance": 0}, "between"),
        ({"global_batch": 8}, "name it in the strategy"),
        ({"strategy": "best"}, "global_batch"),
        ({"strategy": "best", "global_batch": 256}, "devices"),
        ({"prices": {INTER: "1 USD/(GB/s)"}}, "two fields"),
        ({"vary": (INTER, INTRA), "prices": {INTER: "1 USD"}}, "USD"),
        ({"vary": (INTER, INTRA), "prices": {INTER: "1 USD/(GB/s)"}}, "required too"),
        ({"vary": (INTER, INTRA), "prices": {"tp": "1 USD"}}, "does not vary"),
        ({"vary": (INTER, INTRA), "prices": {INTER: "-1 USD/(GB/s)", INTRA: "1 USD/(GB/s)"}}, "negative"),
        ({"vary": (INTER, "cluster.network.inter.latency"), "low": (None, 0), "high": (None, "1 ms")}, "above 0"),
        ({"vary": "global_batch", "low": 1, "high": 10**9}, "whole numbers"),
    ],
)  # fmt: skip
def test_bad_input_names_the_field_and_the_rule(arguments: dict[str, Any], wanted: str) -> None:
    """Each fault is told in one sentence."""
    given_ = {
        "target": "mfu >= 0.3",
        "vary": INTER,
        "model": CASE[0],
        "cluster": CASE[1],
        "strategy": PLAN,
        **arguments,
    }
    with pytest.raises(SpecError, match=wanted):
        require(**given_)


# -- tables, figures, the command line ---------------------------------------------------------------------------


def test_tables_text_and_figures_hold_the_answer(tmp_path) -> None:
    """The scan crosses the bound at the answer; the figure marks it; the page and the text name it."""
    found = require("mfu >= 0.3", INTER, *CASE, points=33)
    frame = found.to_dataframe()
    least = frame.loc[frame["meets"], f"{INTER} [B/s]"].min()
    assert found.value <= least and (frame["mfu (pessimistic)"] <= frame["mfu"]).all()
    assert (frame["mfu"].to_numpy() >= 0.3).tolist() == frame["meets"].tolist()
    figure = found.figure(title="bandwidth", dark=True)
    assert {trace.name for trace in figure.data} == {"90% interval", "prediction"}
    assert "least needed" in repr(found) and INTER in found._repr_html_()
    assert found.export(tmp_path / "scan.csv").stat().st_size > 0
    several = require(["mfu >= 0.3", "memory_bytes <= 70 GB", "power <= 1 MW"], INTER, *CASE, points=17)
    assert "power: no interval is known" in repr(several)
    assert several.figure().layout.yaxis.title.text.startswith("Worst margin")
    curve = iso(points=17, prices={INTER: "100 USD/(GB/s)", INTRA: "5 USD/(GB/s)"})
    names = {trace.name for trace in curve.figure().data}
    assert {"misses the target", "90% interval", "target just met", "now"} <= names
    assert "replaces" in repr(curve) and "cheapest" in curve._repr_html_()
    assert curve.export(tmp_path / "curve.parquet").is_file() and len(curve.to_dataframe()) == 17
    assert json.loads(json.dumps(curve.summary()))["cheapest"]["cost"] == curve.cheapest["cost"]


def test_the_command_line_answers_in_text_and_json(tmp_path) -> None:
    """JSON holds the value and its ends; files are written; nothing in reach ends with InfeasibleDesign (exit code 1)."""
    app = typer.Typer()
    require_cli.attach(app)
    common = ["--vary", INTER, "--model", CASE[0], "--cluster", CASE[1], "--strategy", PLAN, "--points", "33"]
    done = CliRunner().invoke(app, ["--target", "mfu >= 0.3", *common, "--json", "--out", str(tmp_path / "scan.csv"),
                                    "--figure", str(tmp_path / "scan.html")])  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["optimistic"] <= found["value"] <= (found["pessimistic"] or math.inf)
    assert (tmp_path / "scan.html").stat().st_size > 1000 and (tmp_path / "scan.csv").is_file()
    text = CliRunner().invoke(app, ["--target", "mfu >= 0.3", *common])
    assert "least needed" in text.stdout
    none = CliRunner().invoke(app, ["--target", "mfu >= 0.95", *common, "--json"])
    assert isinstance(none.exception, InfeasibleDesign) and json.loads(none.stdout)["feasible"] is False
    for more in (["--figure", "x.gif"], ["--best"], ["--price", "x"]):
        assert isinstance(CliRunner().invoke(app, ["--target", "mfu >= 0.3", *common, *more]).exception, SpecError)
    pair = CliRunner().invoke(app, ["--target", "mfu >= 0.3", *common, "--vary", INTRA, "--json", "--points", "9",
                                    "--price", f"{INTER}=100 USD/(GB/s)", "--price", f"{INTRA}=10 USD/(GB/s)"])  # fmt: skip
    assert len(json.loads(pair.stdout)["curve"]) == 9
