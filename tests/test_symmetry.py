"""Symmetric designs: what counts as one design is one, in every quantity and rule, on large spaces of all options."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

import dse
from dse.explore.best import Space, strategy_space
from dse.explore.evaluate import feasible, price, violations
from dse.space.symmetry import RULES, canonical, representatives
from dse.spec.strategy import PLACEMENTS

SWITCH = [True, False]
SCHEDULES = ["gpipe", "zero_bubble_h1", "interleaved", "1f1b", "zero_bubble_h2"]
QUANTITIES = ("step_time", "memory_bytes", "energy", "cost", "carbon", "tokens_per_s", "mfu", "hfu")
DEGREES: dict[str, list[Any]] = {"pp": [1, 2, 4], "tp": [1, 2], "micro_batch": [1, 2]}
ALONE = {"pp": [1], "tp": [1], "cp": [1], "ep": [1], "micro_batch": [1], "virtual_stages": [1], "zero_stage": [0],
         "recompute": ["none"], "sequence_parallel": [False]}  # fmt: skip
# Groups of options whose rules share conditions, each with the degrees that decide them.
OPTIONS: dict[str, dict[str, list[Any]]] = {
    "pipeline": {**DEGREES, "virtual_stages": [1, 2], "schedule": SCHEDULES, "overlap_pp": SWITCH},
    "replicas": {**DEGREES, "cp": [1, 2], "zero_stage": [3, 2, 1, 0], "overlap_dp": SWITCH, "shard_group": [0, 2]},
    "tensor": {**DEGREES, "recompute": ["none", "selective", "full"], "sequence_parallel": SWITCH,
               "overlap_tp": SWITCH, "partition_checkpoints": SWITCH},
    "sequence": {"pp": [1, 2], "tp": [1, 2], "cp": [1, 2, 4], "context": ["all_to_all", "ring"],
                 "sequence_parallel": SWITCH, "placement": list(PLACEMENTS)},
    "experts": {"tp": [1, 2], "pp": [1, 2], "ep": [1, 2, 8], "overlap_ep": SWITCH, "capacity_factor": [1.25, 1.0],
                "placement": list(PLACEMENTS[::2])},
    "memory": {**DEGREES, "offload_weights": ["local", "lpddr"], "offload_gradients": ["local", "lpddr"],
               "offload_activations": ["local", "lpddr"], "overlap_offload": SWITCH, "memory_expansion": ["none", "spread"],
               "hybrid_bandwidth": ["overlapped", "harmonic"]},
}  # fmt: skip
PLACES = [("llama3-8b", "dgx-h100", 8), ("mixtral-8x7b", "dgx-h100", 32), ("llama3.1-70b", "gh200-nvl256", 4),
          ("gpt3-5b", "tpu-v4-pod", 8)]  # fmt: skip
STACKS = ["megatron", "ideal", "fsdp", "eager-3d"]


def spaces(group: str) -> list[Any]:
    """Every place, with one software stack each, that has the memory tiers of the options."""
    found = []
    for i, (model, cluster, devices) in enumerate(PLACES):
        if group != "memory" or cluster.startswith("gh200"):
            found.append(pytest.param(group, model, cluster, devices, STACKS[i], id=f"{group}-{model}"))
    return found


def whole(space: Space) -> list[slice]:
    return [slice(0, length) for length in space.shape]


def masks(space: Space) -> list[np.ndarray]:
    """The masks of a space whose axes are all fields of the strategy."""
    return representatives([(b.name, b.values) for b in space.axes], space.evaluate(whole(space)).__getitem__)


@pytest.mark.parametrize(("group", "model", "cluster", "devices", "stack"), [s for g in OPTIONS for s in spaces(g)])
def test_alike_designs_are_one_design(group: str, model: str, cluster: str, devices: int, stack: str) -> None:
    """Designs of one canonical form have the same legality, and the same value of every quantity where legal; the
    masks keep the first of each form and no other."""
    base = {"stack": stack, "precision": "bf16"}
    space = strategy_space(model, cluster, devices=devices, global_batch=16, base=base, options=ALONE | OPTIONS[group])
    evaluation = space.evaluate(whole(space))
    replicas = np.broadcast_to(evaluation["data_parallel"], space.shape)
    spec = space.specs["model"]
    classes: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for number in range(space.size):
        index = np.unravel_index(number, space.shape)
        form = canonical({**base, "global_batch": 16, **space.strategy_at(index)}, float(replicas[index]), spec)
        classes[tuple(form[b.name] for b in space.axes)].append(number)
    kept = np.ones(space.shape, dtype=bool)
    for mask in masks(space):
        kept &= mask
    assert sorted(members[0] for members in classes.values()) == np.flatnonzero(kept).tolist()
    first = np.empty(space.size, dtype=int)
    for members in classes.values():
        first[members] = members[0]
    allowed = np.broadcast_to(feasible(violations(evaluation)), space.shape).ravel()
    assert np.array_equal(allowed, allowed[first])
    legal = np.broadcast_to(
        feasible({k: v for k, v in violations(evaluation).items() if k != "memory_fits"}), space.shape
    )
    legal = legal.ravel()
    assert legal.any() and np.array_equal(legal, legal[first])
    for name in QUANTITIES:
        values = np.broadcast_to(evaluation[name], space.shape).ravel()
        assert np.allclose(values[legal], values[first][legal], rtol=1e-12, atol=0.0), name


def rows(space: Space, strategies: list[dict[str, Any]]) -> Any:
    """Many strategies side by side, a row each."""
    strategy = space.specs["strategy"].model_copy(
        update={name: np.array([given[name] for given in strategies]) for name in strategies[0]}
    )
    return price({**space.specs, "strategy": strategy}, devices_given=True)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(("model", "cluster", "devices"), [*PLACES, ("deepseek-v2-lite", "dgx-h100", 32)])
def test_canonical_designs_are_the_given_ones(model: str, cluster: str, devices: int, stack: str) -> None:
    """A random strategy of all options at once and its canonical form agree in legality and every quantity."""
    options = {name: values for group in OPTIONS.values() for name, values in group.items()}
    if not cluster.startswith("gh200"):
        options = {name: values for name, values in options.items() if "lpddr" not in values and "spread" not in values}
    generator = random.Random(f"{model} {stack}")
    space = strategy_space(model, cluster, devices=devices, global_batch=16, base={"stack": stack}, options=ALONE)
    given = [{name: generator.choice(values) for name, values in options.items()} for _ in range(800)]
    replicas = [max(devices / (s["tp"] * s["pp"] * s["cp"]), 1.0) for s in given]
    forms = [
        canonical({**s, "global_batch": 16}, d, space.specs["model"]) for s, d in zip(given, replicas, strict=True)
    ]
    first, second = rows(space, given), rows(space, [{name: form[name] for name in options} for form in forms])
    legal = True
    for name, margin in violations(first).items():
        legal = legal & (margin >= 0) if name != "memory_fits" else legal
    assert np.array_equal(feasible(violations(first)), feasible(violations(second)))
    assert np.count_nonzero(legal) >= 5
    for name in QUANTITIES:
        assert np.allclose(first[name][legal], second[name][legal], rtol=1e-12, atol=0.0), name


def test_every_rule_finds_something() -> None:
    """No rule is idle: each merges some values of its field in the spaces above."""
    merged = set()
    for group, model, cluster, devices in (("pipeline", *PLACES[0]), ("replicas", *PLACES[0]), ("tensor", *PLACES[0]),
                                           ("sequence", *PLACES[0]), ("experts", *PLACES[0]), ("memory", *PLACES[2])):  # fmt: skip
        space = strategy_space(model, cluster, devices=devices, global_batch=16, options=ALONE | OPTIONS[group])
        for b in space.axes:
            cut = [(x.name if x is b else "", x.values) for x in space.axes]
            if representatives(cut, space.evaluate(whole(space)).__getitem__):
                merged.add(b.name)
    assert merged == set(RULES)


def test_canonical_forms_are_fixed_points() -> None:
    """The canonical form of a canonical form is itself, whatever the strategy."""
    options = {name: values for group in OPTIONS.values() for name, values in group.items()}
    generator = random.Random(7)
    model = strategy_space("mixtral-8x7b", "dgx-h100", devices=8, global_batch=8).specs["model"]
    for _ in range(300):
        strategy = {name: generator.choice(values) for name, values in options.items()}
        replicas = generator.choice([1, 2, 8])
        form = canonical({**strategy, "global_batch": 16}, replicas, model)
        assert canonical(form, replicas, model) == form
        assert all(form[name] == value for name, value in strategy.items() if name not in RULES)


def test_known_symmetries() -> None:
    """One device: of all switches that concern more than one, one setting is left."""
    space = strategy_space(
        "tinyllama-1.1b", "dgx-h100", devices=1, global_batch=4,
        options={"pp": [1], "tp": [1], "micro_batch": [4], "virtual_stages": [1], "recompute": ["full"],
                 "zero_stage": [0, 1, 2], "sequence_parallel": SWITCH, "overlap_tp": SWITCH, "overlap_dp": SWITCH,
                 "overlap_pp": SWITCH, "schedule": ["1f1b", "gpipe", "zero_bubble_h1"], "placement": list(PLACEMENTS),
                 "partition_checkpoints": SWITCH, "context": ["ring", "all_to_all"], "overlap_offload": SWITCH},
    )  # fmt: skip
    count = np.ones((1,) * len(space.shape), dtype=int)
    for mask in masks(space):
        count = count * mask
    assert math.prod(space.shape) > 20_000 and int(np.sum(count)) == 1


@pytest.mark.parametrize(("field", "degree"), [("overlap_tp", "tp"), ("overlap_pp", "pp")])
def test_what_the_stack_decides_is_a_design_of_its_own(field: str, degree: str) -> None:
    """A stack that hides what the strategy leaves open is faster than one that is forbidden to: two designs, but one
    where there is nothing to hide."""
    model = dse.load_model("llama2-7b")
    fixed = {"stack": "megatron", "sequence_parallel": True, "global_batch": 64, "micro_batch": 1}
    for size in (1, 2):
        # Interleaving needs stages, and is what lets the stack hide their transfers.
        chosen = {**fixed, "tp": 1, "pp": 1, degree: size, "virtual_stages": 2 if degree == "pp" and size > 1 else 1}
        times, forms = [], []
        for value in (None, False):
            strategy = {**chosen, field: value}
            times.append(float(dse.estimate(model, "dgx-a100", strategy, devices=16)["step_time"]))
            forms.append(canonical(strategy, 16 / size, model))
        assert (times[0] < times[1]) == (forms[0] != forms[1]) == (size > 1)
