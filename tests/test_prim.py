"""PRIM: planted boxes are found, what is said of a box is true of it, and boxes do not depend on scales."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

import dse
from dse.errors import SpecError
from dse.explore.sensitivity import Box, Limit, discover, prim
from dse.explore.sensitivity.prim import Column


def planted(seed: int, points: int = 6000, noise: float = 0.02) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Points with three dimensions that matter and three that do not; the true box, and the cases with some noise."""
    rng = np.random.default_rng(seed)
    data: dict[str, np.ndarray] = {f"x{i}": rng.random(points) for i in range(3)}
    data["degree"] = 2 ** rng.integers(6, size=points)
    data["kind"] = rng.choice(list("abcd"), size=points)
    data["other"] = rng.choice(list("uvw"), size=points)
    truth = (data["x0"] <= 0.5) & (data["degree"] >= 8) & np.isin(data["kind"], ["a", "c"])
    return data, truth, truth ^ (rng.random(points) < noise)


def columns(data: dict[str, np.ndarray]) -> list[Column]:
    return [Column.of(name, values) for name, values in data.items()]


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_box_of_numbers_degrees_and_names_is_found(seed: int) -> None:
    """Exactly the three dimensions that matter are restricted; names and degrees are exact, the number is near."""
    data, truth, interest = planted(seed)
    box = prim(columns(data), interest, density=0.95, boxes=1)[0]
    limits = {limit.name: limit for limit in box.limits}
    assert set(limits) == {"x0", "degree", "kind"}
    assert limits["kind"].members == ("a", "c")
    assert limits["degree"].low == 8 and limits["degree"].high is None
    assert limits["x0"].low is None and abs(limits["x0"].high - 0.5) < 0.03
    inside = box.contains(data)
    assert np.mean(inside != truth) < 0.01
    assert all(limit.p < 1e-6 for limit in box.limits)


def test_two_separate_boxes_are_found_one_after_the_other() -> None:
    """Covering: the second box lies among the points that the first leaves, and both cover nearly all cases."""
    rng = np.random.default_rng(3)
    data = {"x": rng.random(8000), "y": rng.random(8000)}
    interest = ((data["x"] < 0.3) & (data["y"] < 0.4)) | ((data["x"] > 0.8) & (data["y"] > 0.7))
    boxes = prim(columns(data), interest, density=0.9)
    assert len(boxes) >= 2
    assert boxes[0].coverage > 0.55 > 0.25 < boxes[1].coverage
    first, second = (box.contains(data) for box in boxes[:2])
    assert interest[first | second].mean() > 0.9
    assert (first | second)[interest].mean() > 0.9


def recount(box: Box, data: dict[str, np.ndarray], interest: np.ndarray) -> tuple[float, float, float]:
    inside = box.contains(data)
    return inside.mean(), interest[inside].mean(), interest[inside].sum() / interest.sum()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.1, 0.9), points=st.integers(30, 300))
def test_mass_density_and_coverage_of_the_first_box_are_those_of_its_rule(seed: int, share: float, points: int) -> None:
    """The rule that is printed, applied to the points, gives the numbers that are printed, even for noise."""
    rng = np.random.default_rng(seed)
    data: dict[str, Any] = {
        "x": rng.random(points),
        "n": rng.integers(4, size=points),
        "c": rng.choice(["p", "q"], points),
    }
    interest = rng.random(points) < share
    for box in prim(columns(data), interest, boxes=1):
        assert (box.mass, box.density, box.coverage) == pytest.approx(recount(box, data, interest))
        assert box.density > interest.mean()
        path = box.trajectory
        assert path["mass"].is_monotonic_decreasing and path["coverage"].is_monotonic_decreasing
        assert path["chosen"].sum() == 1 and path["mass"].iloc[0] == 1 and path["coverage"].iloc[0] == 1


@pytest.mark.parametrize("scale", [lambda v: np.log(v + 0.1), lambda v: 1e9 * v**3])
def test_boxes_hold_the_same_points_on_any_scale(scale: Any) -> None:
    """Peeling goes by order alone: a monotone change of scale changes no membership."""
    data, _, interest = planted(7)
    changed = {**data, "x0": scale(data["x0"]), "x1": scale(data["x1"])}
    before, after = (prim(columns(d), interest, density=0.9) for d in (data, changed))
    assert len(before) == len(after)
    for left, right in zip(before, after, strict=True):
        assert np.array_equal(left.contains(data), right.contains(changed))


def test_quasi_p_values_are_binomial_tails_against_the_box_without_the_restriction() -> None:
    """Bryant and Lempert's definition, computed from the printed rule alone."""
    data, _, interest = planted(11)
    box = prim(columns(data), interest, density=0.95, boxes=1)[0]
    inside = box.contains(data)
    for limit in box.limits:
        others = tuple(other for other in box.limits if other is not limit)
        wider = Box(others, 0, 0, 0, box.trajectory).contains(data)
        expected = binom.sf(interest[inside].sum() - 1, inside.sum(), interest[wider].mean())
        assert limit.p == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_noise_gives_no_restriction_that_means_anything() -> None:
    """Without any structure a box is at most a chance find: few points, or none."""
    rng = np.random.default_rng(5)
    data = {f"x{i}": rng.random(3000) for i in range(4)}
    for box in prim(columns(data), rng.random(3000) < 0.3, density=0.9):
        assert box.density < 0.75 and box.coverage < 0.3


def test_frequent_cases_still_give_a_box() -> None:
    """Where 90 % miss anyway, a box is wanted that is denser than that."""
    rng = np.random.default_rng(6)
    data = {"x": rng.random(4000), "y": rng.random(4000)}
    interest = ~((data["x"] > 0.7) & (data["y"] > 0.65))
    box = prim(columns(data), interest, boxes=1)[0]
    assert box.limits and box.density >= 0.9


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (Limit("inter.bandwidth", "B/s", None, 40e9, (), 0), "inter.bandwidth <= 40 GB/s"),
        (Limit("tp", "1", 16, None, (), 0), "tp >= 16"),
        (Limit("tp", "1", 4, 8, (), 0), "4 <= tp <= 8"),
        (Limit("tp", "1", 4, 4, (), 0), "tp = 4"),
        (Limit("recompute", "", None, None, ("full",), 0), "recompute is full"),
        (Limit("recompute", "", None, None, ("full", "none"), 0), "recompute in {full, none}"),
    ],
)
def test_rules_read_like_conditions(limit: Limit, text: str) -> None:
    """Units, bounds and sets as people write them."""
    assert str(limit) == text


# -- on designs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def space() -> dse.Result:
    """Designs on five axes; one of them structural, some infeasible."""
    return dse.sweep(
        "gpt3-175b", "dgx-a100", "micro_batch=1,global_batch=1536,zero_stage=1,sequence_parallel=true",
        dse.axis("cluster.network.inter.bandwidth", [5, 10, 25, 50, 100], unit="GB/s"),
        dse.axis("tp", [1, 2, 4, 8, 16, 32]), dse.axis("pp", [1, 2, 4, 8, 16, 32]),
        dse.axis("recompute", ["none", "selective", "full"]),
        dse.axis("stack", ["megatron", "ideal"]), devices=1024,
    )  # fmt: skip


def test_designs_of_a_sweep_are_counted_right(space: dse.Result) -> None:
    """Cases, density and coverage of the printed rule equal those of the sweep's own table."""
    found = discover(space, "mfu >= 0.4", boxes=1, density=0.85)
    table = space.to_dataframe()
    table.columns = [name.partition(" [")[0] for name in table.columns]
    table = table[table["feasible"]]
    missed = (table["mfu"] < 0.4).to_numpy()
    assert (found.designs, found.cases) == (len(table), missed.sum())
    box = found.boxes[0]
    inside = box.contains({limit.name: table[limit.name].to_numpy() for limit in box.limits})
    assert inside.mean() == pytest.approx(box.mass)
    assert missed[inside].mean() == pytest.approx(box.density)
    assert missed[inside].sum() / missed.sum() == pytest.approx(box.coverage)
    assert f"{box.density:.0%} of designs miss" in str(found)


def test_meeting_and_missing_share_all_designs(space: dse.Result) -> None:
    """Among all designs, those that miss and those that meet are all; infeasible ones miss."""
    miss, meet = (
        discover(space, ["mfu >= 0.4", "step_time <= 60 s"], case=case, among="all") for case in ("miss", "meet")
    )
    assert miss.designs == meet.designs == 5 * 6 * 6 * 3 * 2
    assert miss.cases + meet.cases == miss.designs
    both = (space["mfu"] >= 0.4) & (space["step_time"] <= 60) & space["feasible"]
    assert meet.cases == int(both.broadcast_like(space["step_time"]).sum())


def test_sampled_hardware_with_the_best_strategy() -> None:
    """Where slow networks miss a target whatever the strategy, the rule names the network and its unit."""
    design = dse.estimate("llama2-7b", "dgx-a100", "tp=8,micro_batch=1,global_batch=256,zero_stage=1", devices=64)
    factors = ["cluster.network.inter.bandwidth=1:100 GB/s log", "cluster.memory.bandwidth=1.5:3 TB/s"]
    best = dse.best("llama2-7b", "dgx-a100", devices=64, global_batch=256, base="zero_stage=1")
    target = f"step_time <= {1.1 * float(best['step_time'])} s"
    found = discover(design, target, factors, samples=128, reoptimize=True)
    assert found.designs == 128
    assert "cluster.network.inter.bandwidth <= " in str(found) and "GB/s" in str(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "mfu"}, "condition"),
        ({"case": "hit"}, "miss or meet"),
        ({"among": "some"}, "feasible or all"),
        ({"density": 1.5}, "below 1"),
        ({"depth": 1}, "not options"),
        ({"boxes": 0}, "at least 1"),
    ],
)
def test_faults_name_the_argument(space: dse.Result, change: dict[str, Any], message: str) -> None:
    """Bad input is refused with the argument and the rule."""
    with pytest.raises(SpecError, match=message):
        discover(space, **{"target": "mfu >= 0.4", **change})


def test_a_single_design_needs_factors(space: dse.Result) -> None:
    """A result without axes has no region."""
    design = dse.estimate("llama2-7b", "dgx-a100", "tp=8,micro_batch=1,global_batch=256", devices=64)
    with pytest.raises(SpecError, match="no axes"):
        discover(design, "mfu >= 0.4")
    with pytest.raises(SpecError, match="one design"):
        discover(space, "mfu >= 0.4", ["tp=1,2"])
