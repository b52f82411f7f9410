"""The search that prunes finds what the search that times everything finds; its bounds bound every design."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import dse
from dse.cost.graph import Quantity
from dse.errors import InfeasibleDesign, SpecError
from dse.explore import boxes, exhaustive
from dse.explore.best import OBJECTIVES, Found, Space, enumerate_space, strategy_space
from dse.explore.bounds import relaxed
from dse.explore.boxes import count_true, cover, mask_at
from dse.explore.evaluate import feasible, violations
from dse.explore.objectives import DIRECTIONS, objective
from dse.space.symmetry import canonical
from dse.spec.catalogue import ids

SWITCH = [True, False]
MODELS = {"gpt3-175b": 256, "llama3-8b": 16, "mixtral-8x7b": 32, "deepseek-v2-lite": 16, "gpt-22b": 48, "bert-large": 8}
CLUSTERS = ("dgx-a100", "dgx-h100", "gh200-nvl256", "tpu-v4-pod", "l40s-pcie", "mi300x-pod", "gb200-nvl72")
STACKS = ("megatron", "ideal", "fsdp", "xla", "eager-3d")
CHOICES: dict[str, list[Any]] = {
    "schedule": ["1f1b", "gpipe", "zero_bubble_h1", "zero_bubble_h2", "interleaved"],
    "overlap_dp": SWITCH, "overlap_tp": SWITCH, "overlap_pp": SWITCH, "overlap_ep": SWITCH, "overlap_offload": SWITCH,
    "overlap_efficiency": [0.5, 1.0], "attention": ["flash", "unfused", "fused"], "cuda_graphs": SWITCH,
    "partition_checkpoints": SWITCH, "placement": ["tp-cp-dp-pp", "pp-dp-cp-tp", "cp-tp-pp-dp"],
    "gradient_precision": ["fp32", "bf16"], "cp": [1, 2], "context": ["all_to_all", "ring"], "ep": [1, 2],
    "offload_optimizer": ["local", "@"], "offload_activations": ["@", "local"], "offload_weights": ["local", "@"],
    "memory_expansion": ["none", "spread"], "hybrid_bandwidth": ["harmonic", "overlapped"], "shard_group": [0, 2],
    "capacity_factor": [1.0, 1.25], "lora_rank": [0, 16], "precision": ["bf16", "fp16"],
}  # fmt: skip


def random_space(seed: int) -> Space:
    """A space of some thousand designs: any model, cluster, stack, and five to seven options."""
    generator = random.Random(seed)
    model, cluster = generator.choice(list(MODELS)), generator.choice(CLUSTERS)
    tiers = [tier.name for tier in dse.load_cluster(cluster).node.expansion]
    chosen = generator.sample(list(CHOICES), generator.randint(5, 7))
    options: dict[str, list[Any]] = {"virtual_stages": [1, 2], "micro_batch": [1, 2, 4]}
    for name in chosen:
        values = [tiers[0] if tiers and value == "@" else value for value in CHOICES[name]]
        options[name] = [value for value in values if value != "@" and (tiers or value != "spread")]
    devices = MODELS[model] * generator.choice([1, 2])
    base = {"stack": generator.choice(STACKS)}
    return strategy_space(model, cluster, devices=devices, global_batch=4 * devices, base=base, options=options)


def whole(space: Space) -> list[slice]:
    return [slice(0, length) for length in space.shape]


def outcome(found: Found) -> dict[str, Any]:
    """What must not depend on how the search went about it."""
    counts = {name: count for name, count in found.counts().items() if name not in ("bounded", "timed")}
    return {"best": found.best, **counts}


@pytest.mark.parametrize("seed", range(36))
def test_pruning_changes_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same designs, same values bit for bit, same order, same counts: pruned or not, in blocks and boxes of any size."""
    space, generator = random_space(seed), random.Random(seed)
    goal, top = generator.choice(list(OBJECTIVES)), generator.choice([1, 3, 40])
    plain = enumerate_space(space, goal, top=top, prune=False)
    assert plain.bounded == 0
    for block, survey, call in (
        (exhaustive.BLOCK, exhaustive.SURVEY, boxes.CALL),
        (1 << 12, 1 << 10, 300),
        (700, 90, 1),
    ):
        if space.size // min(block, survey) > 400:
            continue
        monkeypatch.setattr(exhaustive, "BLOCK", block)
        monkeypatch.setattr(exhaustive, "SURVEY", survey)
        monkeypatch.setattr(boxes, "CALL", call)
        pruned = enumerate_space(space, goal, top=top, prune=True)
        assert outcome(pruned) == outcome(plain)
        assert 0 <= pruned.bounded <= max(pruned.distinct - top, 0)


@pytest.mark.parametrize("seed", range(100, 112))
def test_ranking_is_that_of_all_designs(seed: int) -> None:
    """The ranking is what sorting the whole space by value and position gives, once copies of a design are dropped."""
    space = random_space(seed)
    found = enumerate_space(space, "tokens_per_s", top=12, prune=True)
    evaluation = space.evaluate(whole(space))
    legal = np.broadcast_to(
        feasible({k: m for k, m in violations(evaluation).items() if k != "memory_fits"}), space.shape
    )
    allowed = np.broadcast_to(feasible(violations(evaluation)), space.shape)
    values = np.broadcast_to(evaluation["tokens_per_s"], space.shape)
    replicas = np.broadcast_to(evaluation["data_parallel"], space.shape)
    fixed = space.specs["strategy"].model_dump()
    seen: set[Any] = set()
    wanted = []
    for number in np.argsort(np.where(allowed, -values, np.inf), axis=None, kind="stable")[: np.count_nonzero(allowed)]:
        index = tuple(int(i) for i in np.unravel_index(number, space.shape))
        form = canonical({**fixed, **space.strategy_at(index)}, float(replicas[index]), space.specs["model"])
        if str(form) not in seen:
            wanted.append((float(values[index]), index))
        seen.add(str(form))
        if len(wanted) == 12:
            break
    assert found.best == wanted
    assert (found.legal, found.feasible) == (np.count_nonzero(legal), np.count_nonzero(allowed))


@pytest.mark.parametrize("goal", OBJECTIVES)
@pytest.mark.parametrize("seed", range(200, 210))
def test_bounds_bound_every_design(seed: int, goal: str) -> None:
    """No design of a space, feasible or not, is better than its bound."""
    space = random_space(seed)
    loose = relaxed(space)
    assert loose is not None
    bound, value = loose.evaluate(whole(space))[goal], space.evaluate(whole(space))[goal]
    slack = 1 + exhaustive.SLACK
    assert np.all(bound <= value * slack if OBJECTIVES[goal] else value <= bound * slack)


@pytest.mark.parametrize("cluster", sorted(ids("cluster")))
def test_bounds_hold_on_every_cluster(cluster: str) -> None:
    """On every cluster of the catalogue, the relaxed step takes no longer than the step, and at least the matrix FLOP
    of causal attention over the peak."""
    options = {"micro_batch": [1, 4], "virtual_stages": [1, 2], "overlap_dp": SWITCH, "overlap_tp": SWITCH,
               "schedule": ["1f1b", "gpipe", "zero_bubble_h2"], "ep": [1, 2], "cp": [1, 2]}  # fmt: skip
    space = strategy_space("mixtral-8x7b", cluster, devices=64, global_batch=128, options=options)
    loose = relaxed(space)
    assert loose is not None
    bound, exact = loose.evaluate(whole(space)), space.evaluate(whole(space))
    legal = feasible({name: m for name, m in violations(exact).items() if name != "memory_fits"})
    assert np.all(bound["step_time"] <= exact["step_time"] * (1 + exhaustive.SLACK))
    attention = 3 * space.specs["model"].layers * 2 * 4096 * space.specs["model"].seq_len ** 2 * 128
    flops = (exact["model_flops"] - 2 * attention) / exact["devices"]
    shortest = flops / np.maximum(exact["matrix_peak"], exact["vector_peak"])
    assert np.all(np.where(legal, bound["step_time"], np.inf) >= shortest)


PRUNED = ("goodput", "min power", "step_time@90%", "max step_time", "min bubble", "P(step_time <= 12 s)")
PLAIN = tuple(name for name in DIRECTIONS if name != "silicon_area")


@pytest.mark.parametrize("goal", PRUNED)
def test_any_objective_is_pruned_exactly(goal: str) -> None:
    """By objectives without a proved bound, or against its direction, the funnel finds what timing everything finds."""
    space = random_space(300)
    pruned = enumerate_space(space, goal, top=3, prune=True)
    assert outcome(pruned) == outcome(enumerate_space(space, goal, top=3, prune=False))
    assert pruned.bounded == 0 and pruned.best


@pytest.mark.parametrize("seed", [300, 302])
def test_alike_designs_are_alike_by_every_objective(seed: int) -> None:
    """The best value of all feasible designs, in either direction, is also that of those that are not like another."""
    space = random_space(seed)
    evaluation = space.evaluate(whole(space))
    allowed = np.broadcast_to(feasible(violations(evaluation)), space.shape)
    for name in (*PLAIN, "step_time@90%", "mean cost", "P(step_time <= 12 s)", "max data_parallel"):
        one = objective(name)
        for goal in [dataclasses.replace(one, less=less) for less in (True, False)] if one.risk == "point" else [one]:
            values = goal.sign * np.broadcast_to(goal.value(evaluation), space.shape)[allowed]
            found = enumerate_space(space, goal, prune=False)
            assert found.best[0][0] == pytest.approx(goal.sign * values.min(), rel=1e-12), name


def test_objectives_that_are_not_numbers_are_refused() -> None:
    """A table of the cost model, and a quantity without a direction, are no objectives."""
    for wrong in ("min breakdown", "bubble", "speed"):
        with pytest.raises(SpecError, match="objective"):
            dse.best("llama3-8b", "dgx-h100", devices=8, global_batch=8, objective=wrong)
    found = dse.best("llama3-8b", "dgx-h100", devices=8, global_batch=64, objective="goodput")
    assert found.ranking[0]["goodput"] == found["goodput"].item()


def test_nothing_is_proved_of_foreign_equations() -> None:
    """Quantities of the user's own and COMET's loop are searched without bounds or symmetry, and exactly."""
    space = random_space(4)
    own = Quantity("dp_comm", lambda micro_batches: -0.01 * micro_batches, "s", "", "", ("micro_batches",))
    replaced = dataclasses.replace(space, replace=(own,))
    comet = strategy_space("llama3-8b", "dgx-h100", devices=64, global_batch=64, base="execution=comet",
                           options={"zero_stage": [2, 1, 0]})  # fmt: skip
    for foreign in (replaced, comet):
        assert relaxed(foreign) is None
        pruned = enumerate_space(foreign, "step_time", top=7, prune=True)
        assert outcome(pruned) == outcome(enumerate_space(foreign, "step_time", top=7, prune=False))
        assert pruned.bounded == pruned.symmetric == 0 and pruned.best


def test_time_is_not_computed_where_nothing_fits() -> None:
    """Memory comes first: the step time of a space without a feasible design is never asked for."""
    calls = []

    def step_time(devices: Any) -> Any:
        calls.append(np.shape(devices))
        return 1.0

    own = Quantity("step_time", step_time, "s", "", "", ("devices",))
    for model, many in (("gpt3-175b", False), ("llama3-8b", True)):
        space = strategy_space(model, "dgx-a100", devices=8, global_batch=8, options={"zero_stage": [0]})
        found = enumerate_space(dataclasses.replace(space, replace=(own,)), "step_time", prune=True)
        assert (found.feasible > 0) == many == bool(calls) == bool(found.best)
        assert found.too_large == found.legal - found.feasible > 0


@pytest.mark.parametrize("workers", [2, 5])
def test_counts_do_not_depend_on_threads(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All counts, those of pruned designs too, are the same on any number of threads."""
    monkeypatch.setattr(exhaustive, "SURVEY", 4000)
    monkeypatch.setattr(exhaustive, "SMALL", 10)
    monkeypatch.setattr(boxes, "CALL", 1000)
    space = random_space(33)
    alone = enumerate_space(space, "step_time", top=3, workers=1, prune=True)
    assert enumerate_space(space, "step_time", top=3, workers=workers, prune=True) == alone
    assert alone.bounded > 0


def test_best_reports_what_was_pruned() -> None:
    """The counts add up, and the large default space is found with most designs neither timed nor met twice."""
    options = {"schedule": ["1f1b", "gpipe"], "overlap_dp": SWITCH, "overlap_tp": SWITCH, "overlap_pp": SWITCH,
               "placement": ["tp-cp-dp-pp", "tp-cp-pp-dp"], "gradient_precision": ["fp32", "bf16"]}  # fmt: skip
    found = dse.best("gpt3-175b", "dgx-a100", devices=512, global_batch=512, options=options, top=5)
    counts = found.counts
    assert counts["evaluated"] == found.evaluated > exhaustive.SMALL
    assert counts["legal"] == counts["too_large"] + counts["feasible"]
    assert counts["feasible"] == found.feasible_count == counts["symmetric"] + counts["distinct"]
    assert counts["distinct"] > counts["bounded"] > 0.5 * counts["distinct"] and counts["symmetric"] > 0
    assert counts["timed"] < 0.2 * counts["evaluated"]
    assert len(found.ranking) == 5 and found.summary()["distinct_designs"] == counts["distinct"]
    values = [entry["step_time"] for entry in found.ranking]
    assert values == sorted(values) and float(found["step_time"]) == values[0]
    with pytest.raises(InfeasibleDesign, match="fits in memory"):
        dse.best("gpt3-175b", "dgx-a100", devices=8, global_batch=512, options=options)


@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)), st.tuples(*[st.booleans()] * 3), st.data()
)
@settings(deadline=None, derandomize=True, max_examples=150)
def test_boxes_hold_every_true_cell_once(mask: np.ndarray, thin: tuple[bool, ...], data: st.DataObject) -> None:
    """Boxes cover all true cells, no cell twice; counts of masks on fewer axes equal those of the full arrays."""
    shape = mask.shape
    mask = mask[tuple(slice(0, 1) if cut else slice(None) for cut in thin)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boxes, "CALL", data.draw(st.sampled_from([0, 1, 4])))
        found = cover(mask, shape)
    met = np.zeros(shape, dtype=int)
    for box in found:
        sides = [np.arange(length)[side] for side, length in zip(box, shape, strict=True)]
        met[np.ix_(*sides)] += 1
        assert mask_at(mask, sides).any()
    full = np.broadcast_to(mask, shape)
    assert met.max(initial=0) <= 1 and np.all(met[full] == 1)
    other = data.draw(hnp.arrays(bool, st.sampled_from([shape, (1, *shape[1:]), (*shape[:2], 1)])))
    assert count_true([mask, other], shape) == np.count_nonzero(full & np.broadcast_to(other, shape))
