"""Inverse design: the least resource that meets a target, against closed forms, single estimates and enumeration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from require_cases import BEST, CASE, FEW, INTER, INTRA, PLAN, SMALL, changed, half_width, meets, timed

import dse
from dse.errors import InfeasibleDesign, SpecError
from dse.explore.objectives import condition
from dse.explore.require import Requirement, forecast, require
from dse.explore.require.field import roundest
from dse.explore.require.scan import runs
from dse.space.axes import locate, with_value

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


# -- before it starts --------------------------------------------------------------------------------------------


def test_a_forecast_counts_the_scan_and_bounds_its_refinement() -> None:
    """The scan is that of the answer, strategy by strategy; refining a crossing takes no more than was said."""
    for target, more in (("mfu >= 0.42", BEST), ("mfu >= 0.4", {"points": 40, **BEST})):
        plan = forecast(target, INTER, *CASE[:2], devices=128, **more)
        found = require(target, INTER, *CASE[:2], devices=128, **more)
        size = found.problem.space([found.value]).size
        assert plan.points - plan.refinement == len(found.values) and plan.designs == plan.points * size
        assert len(found.values) * size <= found.problem.evaluated <= plan.designs and plan.seconds > 0


def test_a_forecast_of_whole_numbers_and_of_curves() -> None:
    """All whole numbers are tried, so nothing is refined; a curve scans all pairs, and prices bring it closer."""
    plan = forecast("step_time <= 15 s", "devices", *CASE, low=16, high=2048)
    found = require("step_time <= 15 s", "devices", *CASE, low=16, high=2048)
    assert found.exhaustive and plan.refinement <= 3 and plan.points - plan.refinement >= len(found.values)
    pair = [INTER, "cluster.memory.bandwidth"]
    curve = forecast("mfu >= 0.3", pair, *CASE, points=9)
    bought = forecast("mfu >= 0.3", pair, *CASE, points=9, prices=dict.fromkeys(pair, "10 USD/(GB/s)"))
    assert curve.points - curve.refinement == 81 and bought.refinement > curve.refinement
    assert require("mfu >= 0.3", pair, *CASE, points=9).problem.evaluated <= curve.designs
    with pytest.raises(SpecError, match="must be least or most"):
        forecast("mfu >= 0.3", INTER, *CASE, direction="up")
