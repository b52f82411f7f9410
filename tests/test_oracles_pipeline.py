"""Pipelines: the closed forms of the bubble and of the micro-batches in flight against a slot-by-slot simulation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import PipelineRun, pipeline_order, run_pipeline

import dse
from dse.cost.memory import in_flight
from dse.cost.pipeline import bubble_time, micro_batches, stage_layers

EXACT = 1e-12
TIMES = st.floats(0.1, 3.0)
ZERO_BUBBLE = st.sampled_from(["zero_bubble_h1", "zero_bubble_h2"])
quick = settings(deadline=None, derandomize=True, max_examples=60)


def closed_form(schedule: str, m: int, forward: Sequence[float], input_grad: Sequence[float],
                weight_grad: Sequence[float], v: int = 1) -> float:  # fmt: skip
    """Time of a step as the cost model composes it: m passes on the slowest stage, and the bubble."""
    stages = np.add(np.add(forward, input_grad), weight_grad)
    bubble = bubble_time(schedule, len(stages), v, stages.mean(), stages.max(), np.mean(weight_grad))
    return float(m * stages.max() + bubble)


def held(schedule: str, p: int, m: int, v: int = 1) -> tuple[float, float]:
    """Micro-batches in flight on the first and on the last stage, by the cost model."""
    found = in_flight.function(schedule, p, v, m)
    return float(found["first"]), float(found["last"])


def equal(schedule: str, p: int, m: int, v: int = 1, times: Sequence[float] = (1.0, 1.25, 0.75)) -> PipelineRun:
    """A simulated step of equal stages."""
    f, b, w = times
    return run_pipeline(schedule, m, [f] * p, [b] * p, [w] * p, v)


@given(st.sampled_from(["gpipe", "1f1b"]), st.integers(1, 8), st.integers(1, 24), TIMES, TIMES, TIMES)
@quick
def test_equal_stages_are_exact(schedule: str, p: int, m: int, f: float, b: float, w: float) -> None:
    """GPipe and 1F1B of equal stages take (m + p − 1)·t, for any m, even fewer than stages."""
    run = equal(schedule, p, m, times=(f, b, w))
    assert run.makespan == pytest.approx(closed_form(schedule, m, [f] * p, [b] * p, [w] * p), rel=EXACT)
    assert run.makespan == pytest.approx((m + p - 1) * (f + b + w), rel=EXACT)


@given(st.integers(2, 8), st.integers(1, 4), st.integers(2, 5), TIMES, TIMES, TIMES)
@quick
def test_interleaving_is_exact(p: int, groups: int, v: int, f: float, b: float, w: float) -> None:
    """Megatron's interleaved order divides the bubble by v when m is a multiple of p."""
    m = p * groups
    run = equal("interleaved", p, m, v, (f, b, w))
    assert run.makespan == pytest.approx(closed_form("interleaved", m, [f] * p, [b] * p, [w] * p, v), rel=EXACT)


@given(st.integers(1, 8), st.integers(0, 16), TIMES, TIMES, st.floats(0.05, 1.0))
@quick
def test_first_zero_bubble_schedule_is_exact(p: int, more: int, f: float, b: float, part: float) -> None:
    """ZB-H1 of equal stages leaves (p−1)(F + B − W) idle when W ≤ F, W ≤ B and m ≥ p."""
    w, m = part * min(f, b), p + more
    run = equal("zero_bubble_h1", p, m, times=(f, b, w))
    expected = closed_form("zero_bubble_h1", m, [f] * p, [b] * p, [w] * p)
    assert max(run.spans) == run.makespan == pytest.approx(expected, rel=EXACT)
    assert expected == pytest.approx(m * (f + b + w) + (p - 1) * (f + b - w), rel=EXACT)


@given(st.integers(1, 7), st.integers(0, 16), TIMES, TIMES, st.floats(0.05, 1.0))
@quick
def test_second_zero_bubble_schedule_is_exact(p: int, more: int, f: float, b: float, part: float) -> None:
    """ZB-H2 leaves each stage max(0, (p−1)(F + B − 2W)) idle in its own span when W ≤ F, W ≤ B and m ≥ 2p − 1."""
    w, m = part * min(f, b), 2 * p - 1 + more
    run = equal("zero_bubble_h2", p, m, times=(f, b, w))
    expected = closed_form("zero_bubble_h2", m, [f] * p, [b] * p, [w] * p)
    assert max(run.spans) == pytest.approx(expected, rel=EXACT)


@given(ZERO_BUBBLE, st.integers(1, 6), st.integers(1, 16), TIMES, TIMES, TIMES)
@quick
def test_zero_bubble_forms_are_lower_bounds(schedule: str, p: int, m: int, f: float, b: float, w: float) -> None:
    """Outside their assumptions (W > F, few micro-batches) the zero-bubble forms are optimistic, never pessimistic."""
    run = equal(schedule, p, m, times=(f, b, w))
    assert closed_form(schedule, m, [f] * p, [b] * p, [w] * p) <= max(run.spans) * (1 + EXACT)
    assert max(run.spans) >= m * (f + b + w) * (1 - EXACT)


@given(st.integers(1, 20), st.floats(0.2, 3.0), st.lists(TIMES, min_size=1, max_size=6))
@quick
def test_uneven_stages_of_gpipe_are_exact(m: int, ratio: float, forward: list[float]) -> None:
    """GPipe takes Σt + (m−1)·t_max for any stages whose backward times are in proportion to the forward times."""
    back = [ratio / 2 * f for f in forward]
    run = run_pipeline("gpipe", m, forward, back, back)
    assert run.makespan == pytest.approx(closed_form("gpipe", m, forward, back, back), rel=EXACT)


@given(st.integers(1, 20), st.lists(st.tuples(TIMES, TIMES, TIMES), min_size=1, max_size=6))
@quick
def test_uneven_stages_of_1f1b_are_bounded(m: int, stages: list[tuple[float, float, float]]) -> None:
    """For any stages, 1F1B takes at most what the formula says, and the gap is at most the time behind the slowest.

    The lower bound is proven: the slowest stage s runs m micro-batches, starts after Σ_{i<s} F and ends before
    Σ_{i<s} (B + W); the formula is that plus Σ_{i>s} t.
    """
    f, b, w = map(list, zip(*stages, strict=True))
    t = [sum(stage) for stage in stages]
    run, formula = run_pipeline("1f1b", m, f, b, w), closed_form("1f1b", m, f, b, w)
    slowest = int(np.argmax(t))
    assert formula - sum(t[slowest + 1 :]) <= run.makespan * (1 + EXACT)
    assert run.makespan <= formula * (1 + EXACT)


@given(st.integers(2, 6), st.integers(1, 4), st.integers(2, 4), st.floats(0.3, 1.0), st.data())
@quick
def test_uneven_stages_of_interleaving_are_near(p: int, groups: int, v: int, ratio: float, data: st.DataObject) -> None:
    """Interleaving with stages that differ by up to a third stays within 25 % of the formula, and above the work."""
    m = p * groups
    f = data.draw(st.lists(st.floats(0.75, 1.0), min_size=p, max_size=p))
    back = [ratio * x for x in f]
    run, formula = run_pipeline("interleaved", m, f, back, back, v), closed_form("interleaved", m, f, back, back, v)
    assert run.makespan >= m * max(x * (1 + 2 * ratio) for x in f) * (1 - EXACT)
    assert run.makespan == pytest.approx(formula, rel=0.25)


@given(ZERO_BUBBLE, st.integers(2, 6), st.integers(0, 12), st.floats(0.3, 1.0), st.data())
@quick
def test_uneven_zero_bubble_is_near(schedule: str, p: int, more: int, part: float, data: st.DataObject) -> None:
    """Zero-bubble stages that differ by up to a third, with W ≤ F, stay within 25 % of the formula."""
    m = 2 * p - 1 + more
    f = data.draw(st.lists(st.floats(0.75, 1.0), min_size=p, max_size=p))
    w = [part * x for x in f]
    run = run_pipeline(schedule, m, f, f, w)
    assert max(run.spans) == pytest.approx(closed_form(schedule, m, f, f, w), rel=0.25)


@pytest.mark.parametrize("p", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("m", [1, 2, 3, 8, 19])
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_micro_batches_in_flight(schedule: str, p: int, m: int) -> None:
    """The first and the last stage hold exactly as many micro-batches as the formula says."""
    run = equal(schedule, p, m)
    assert (run.held[0], run.held[-1]) == held(schedule, p, m)


@pytest.mark.parametrize("p", [2, 4, 8])
@pytest.mark.parametrize("v", [2, 3, 4])
@pytest.mark.parametrize("groups", [1, 2, 5])
def test_interleaved_micro_batches_in_flight(p: int, v: int, groups: int) -> None:
    """Interleaving holds p + (p−1)/v micro-batches on the first stage, ((v−1)p + 1)/v on the last, at most m."""
    run = equal("interleaved", p, p * groups, v)
    assert (run.held[0], run.held[-1]) == pytest.approx(held("interleaved", p, p * groups, v))
    assert max(run.held) == run.held[0]


@pytest.mark.parametrize("p", [1, 2, 4, 8])
@pytest.mark.parametrize("m", [1, 3, 8, 20])
@pytest.mark.parametrize("schedule", ["zero_bubble_h1", "zero_bubble_h2"])
def test_zero_bubble_stages_all_hold_the_same(schedule: str, p: int, m: int) -> None:
    """Weight gradients that wait keep their activations: every stage holds p (ZB-H1) or 2p − 1 (ZB-H2), at most m."""
    run = equal(schedule, p, m)
    assert (run.held[0], run.held[-1]) == held(schedule, p, m)
    assert len(set(run.held)) == 1


@pytest.mark.parametrize(("schedule", "v"), [("1f1b", 1), ("interleaved", 2), ("interleaved", 4), ("gpipe", 1)])
@pytest.mark.parametrize("p", [2, 4, 8])
def test_logits_in_flight(schedule: str, v: int, p: int) -> None:
    """The last stage turns its last chunk back at once, so it holds the logits of one micro-batch (GPipe: of all)."""
    m = 2 * p
    chunk = [kind for kind, c, _ in pipeline_order(schedule, p - 1, p, m, v) if c == v - 1]
    most = max(chunk[: i + 1].count("F") - chunk[:i].count("B") for i in range(len(chunk)))
    assert most == float(in_flight.function(schedule, p, v, m)["head"])


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved", "zero_bubble_h1", "zero_bubble_h2"])
def test_simulated_orders_are_complete(schedule: str) -> None:
    """The oracle itself runs each task of each stage exactly once."""
    p, m, v = 4, 8, 2 if schedule == "interleaved" else 1
    for stage in range(p):
        order = pipeline_order(schedule, stage, p, m, v)
        kinds = "FBW" if schedule.startswith("zero") else "FB"
        assert sorted(order) == sorted((k, c, i) for k in kinds for c in range(v) for i in range(m))


@pytest.mark.parametrize(("pp", "v"), [(1, 1), (2, 1), (4, 1), (8, 1), (4, 2), (2, 4), (4, 5)])
def test_estimates_compose_like_the_simulation(pp: int, v: int) -> None:
    """A whole estimate's passes, imbalance and bubble equal the simulated pipeline for a model of equal layers.

    One layer a stage is free of embedding and logits only in theory, so the stage times come from the estimate: the
    first and last stage carry the extra blocks; the formula must bound the simulation from above within 2 %.
    """
    result = dse.estimate("gpt-18.4b", "dgx-a100", {"tp": 8, "pp": pp, "dp": 1, "global_batch": 16 * pp,
                                                    "virtual_stages": v, "zero_stage": 1})  # fmt: skip
    places = result._cells[0].evaluation["pass_terms"]
    split = (
        ("forward", "host_forward", "tp_comm_forward"),
        ("recompute", "input_grad", "host_backward", "tp_comm_backward"),
        ("weight_grad",),
    )
    f, b, w = ([float(sum(places["body"][term] for term in terms)) / pp for _ in range(pp)] for terms in split)
    for place, stage in (("first", 0), ("last", pp - 1)):
        for times, terms in zip((f, b, w), split, strict=True):
            times[stage] += float(sum(places[place][term] for term in terms))
    m = int(result["micro_batches"])
    simulated = run_pipeline("interleaved" if v > 1 else "1f1b", m, f, b, w, v).makespan
    terms = result.breakdown()
    others = terms[["pp_comm", "dp_comm", "optimizer", "offload", "stragglers"]].sum()
    formula = float(result["step_time"]) - others
    assert simulated <= formula * (1 + 1e-9)
    assert simulated == pytest.approx(formula, rel=0.02)


def test_helpers_of_the_pipeline() -> None:
    """Micro-batches are rounded up, and the fullest stage's layers are ⌈L/(p·v)⌉·v, at most L."""
    assert micro_batches.function(1536, 6, 4) == 64
    assert micro_batches.function(1, 8, 4) == 1
    model = dse.load_model("gpt-18.4b")
    assert [int(stage_layers.function(model, p, v)) for p, v in ((1, 1), (8, 1), (16, 1), (4, 2), (6, 3))] == [
        40, 5, 3, 10, 9]  # fmt: skip
