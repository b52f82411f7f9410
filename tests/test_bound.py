"""Branch and bound: what it rests on, that it finds the optimum of the enumeration, and what it refuses."""

from __future__ import annotations

import dataclasses
import random
from itertools import product

import numpy as np
import pytest

import dse
from dse.errors import SpecError
from dse.explore.search.bound import _Search
from dse.explore.search.evaluate import Evaluator
from dse.explore.search.inner import grid, solve
from dse.explore.search.problem import problem
from dse.explore.search.provable import CHEAP, FAST, direction, provable
from dse.explore.search.run import chosen_method, run
from dse.explore.search.variables import coupling, span

MODELS = ("gpt-1.7b", "llama2-7b", "gpt-18.4b", "mixtral-8x7b")
CLUSTERS = ("dgx-a100", "dgx-h100", "mi300x-pod", "comet-baseline", "tpu-v5p-pod", "gb200-nvl72")
RESOURCES = (
    "cluster.accelerator.matrix.bf16",
    "cluster.memory.bandwidth",
    "cluster.memory.capacity",
    "cluster.network.intra.bandwidth",
    "cluster.network.inter.bandwidth",
    "cluster.network.inter.latency",
)
OPTIONS = {"pp": [1, 2, 4], "tp": [1, 2, 8], "micro_batch": [1, 2], "recompute": ["none", "full"], "zero_stage": [1, 3]}


def value_at(cluster, path):
    spec = dse.load_cluster(cluster)
    part = {
        "cluster.accelerator.matrix.bf16": lambda: spec.accelerator.matrix.bf16,
        "cluster.memory.bandwidth": lambda: spec.accelerator.memory.bandwidth,
        "cluster.memory.capacity": lambda: spec.accelerator.memory.capacity,
        "cluster.network.intra.bandwidth": lambda: spec.network.dimensions[0].bandwidth,
        "cluster.network.inter.bandwidth": lambda: spec.network.dimensions[-1].bandwidth,
        "cluster.network.inter.latency": lambda: spec.network.dimensions[-1].latency or 1e-6,
    }
    return part[path]()


def random_problem(seed, *, steps=3, budget=True):
    draw = random.Random(seed)
    model, cluster = draw.choice(MODELS), draw.choice(CLUSTERS)
    paths = draw.sample(RESOURCES, 3)
    if cluster in ("tpu-v5p-pod",):  # one dimension is both intra and inter
        paths = [p for p in paths if "intra" not in p] or paths[:1]
    hardware = [span(p, value_at(cluster, p) * 0.3, value_at(cluster, p) * 3, steps=steps) for p in paths]
    links = [
        coupling("cluster.accelerator.price", "cluster.memory.capacity", "40 USD/GB"),
        coupling("cluster.accelerator.tdp", "cluster.memory.bandwidth", "0.05 W/(GB/s)"),
        coupling("cluster.accelerator.price", "cluster.network.inter.bandwidth", "60 USD/(GB/s)"),
    ]
    devices = draw.choice((16, 32))
    if draw.random() < 0.5:
        hardware.append(dse.axis("cluster.devices", [16, 32, 64]))
        devices = None
    price = float(dse.estimate(model, cluster, "global_batch=64", devices=devices or 32)["capital"])
    return problem(
        model, cluster, hardware, devices=devices, global_batch=64, objective=draw.choice(("step_time", "effective_tokens_per_s")),
        budget=[f"capital <= {price * draw.choice((0.9, 1.0, 1.2)):.0f} USD"] if budget else None, couplings=links,
        options=OPTIONS,
    )  # fmt: skip


LIMITED = ("capital", "investment", "peak_power", "tco", "cost", "mfu", "memory_headroom", "step_time", "tokens_per_s",
           "power", "tokens_per_dollar")  # fmt: skip


def wild_problem(seed):
    """Any strategy whose communication may hide twice, and conditions on any quantity in either sense."""
    draw = random.Random(seed)
    model, cluster = draw.choice(MODELS), draw.choice(("dgx-a100", "dgx-h100", "gb200-nvl72"))
    options = dict(OPTIONS)
    base = {"stack": draw.choice(("ideal", "megatron"))}
    twice = draw.choice(("offload", "cp", "shard", "bubble", "ep"))
    if twice == "offload":
        options["offload_activations"] = ["local", "ddr"]
        options["offload_weights"] = ["local", "ddr"]
    elif twice == "cp":
        options["cp"] = [1, 2, 4]
    elif twice == "shard":
        options["shard_group"] = [0, 4, 8]
    elif twice == "bubble":
        options["schedule"] = ["1f1b", "zero_bubble_h1", "zero_bubble_h2"]
    elif model.startswith("mixtral"):
        options["ep"] = [1, 4, 8]
        base["overlap_ep"] = True
    paths = draw.sample(RESOURCES, 2)
    hardware = [span(p, value_at(cluster, p) * 0.1, value_at(cluster, p) * 8, steps=5) for p in paths]
    arguments = {
        "devices": 16, "global_batch": 64, "objective": draw.choice(("step_time", "tokens_per_s")), "options": options,
        "base": base, "couplings": [
            coupling("cluster.accelerator.price", "cluster.memory.capacity", "40 USD/GB"),
            coupling("cluster.accelerator.price", "cluster.network.inter.bandwidth", "60 USD/(GB/s)"),
        ],
    }  # fmt: skip
    free = run(problem(model, cluster, hardware, also=LIMITED, **arguments), method="exhaustive", cache=False).table
    budget = []
    for name in draw.sample(LIMITED, 2):
        column = next(c for c in free.columns if c.partition(" [")[0] == name)
        unit = column.partition(" [")[2].rstrip("]")
        limit = (
            float(free.loc[free["feasible"], column].quantile(draw.uniform(0.2, 0.8)))
            if free["feasible"].any()
            else 1.0
        )
        budget.append(f"{name} {draw.choice(('<=', '>='))} {limit:.6g} {unit if unit != '1' else ''}")
    return problem(model, cluster, hardware, budget=budget, **arguments)


@pytest.mark.parametrize("seed", range(24))
def test_the_optimum_under_any_condition_and_strategy(seed):
    given = wild_problem(seed)
    every = run(given, method="exhaustive", cache=False)
    proved = run(given, method="bound", tolerance=0.0, trials=100_000, cache=False)
    assert proved.stopped.startswith("proved")
    assert len(every.front_rows) == len(proved.front_rows)
    if len(every.front_rows):
        name = given.objectives[0].text
        assert float(proved.front.filter(like=name).iloc[0, 0]) == float(every.front.filter(like=name).iloc[0, 0])


@pytest.mark.parametrize("seed", range(24))
def test_the_bound_of_a_box_is_below_every_design_in_it(seed):
    """Box by box, so that a wrong bound cannot hide behind an optimum found by luck."""
    given = dataclasses.replace(wild_problem(seed), constraints=())
    search = _Search(Evaluator(given, None), 0.0)
    draw = random.Random(seed)
    every = list(grid(given))
    answers = dict(zip(map(str, every), solve(given, every), strict=True))
    sign = given.objectives[0].sign
    for _ in range(6):
        low, high = [], []
        for v in search.free:
            i, j = sorted(draw.choices(range(len(v.shown)), k=2))
            poor, rich = (i, j) if direction(v) > 0 else (j, i)
            low.append(poor)
            high.append(rich)
        bound = search.relaxed.answers([search.point((), high)])[0].front
        inside = [
            answers[str(search.point((), place))].front
            for place in product(*(range(min(a, b), max(a, b) + 1) for a, b in zip(low, high, strict=True)))
        ]
        values = [sign * front[0][0][0] for front in inside if front]
        assert not values or sign * bound[0][0][0] <= min(values) * (1 + 1e-12 * sign)


@pytest.mark.parametrize("seed", range(20))
def test_the_optimum_is_that_of_the_enumeration(seed):
    """With no tolerance the proof ends on the value that looking at every design finds, and bounds it by itself."""
    given = random_problem(seed)
    every = run(given, method="exhaustive", cache=False)
    proved = run(given, method="bound", tolerance=0.0, trials=100_000, cache=False)
    assert proved.stopped.startswith("proved")
    if not len(every.front_rows):
        assert not len(proved.front_rows)
        return
    name = given.objectives[0].text
    best = float(every.front.filter(like=name).iloc[0, 0])
    assert float(proved.front.filter(like=name).iloc[0, 0]) == best
    assert proved.bound == best


def test_fewer_designs_are_solved_than_there_are():
    given = random_problem(3, steps=9)
    every = run(given, method="exhaustive", cache=False)
    proved = run(given, method="bound", tolerance=0.0, trials=100_000, cache=False)
    assert proved.evaluated < every.evaluated / 4


@pytest.mark.parametrize("seed", range(30))
def test_richer_hardware_is_never_slower_nor_cheaper(seed):
    """What the bounds rest on, on random pairs of hardware of which one is nowhere poorer."""
    given = random_problem(seed, steps=17, budget=False)
    draw = random.Random(1000 + seed)
    poor, rich = [], []
    for _ in range(12):
        a, b = {}, {}
        for v in given.variables:
            i, j = sorted(draw.sample(range(len(v.shown)), 2)) if v.place.field != "devices" else (0, 0)
            low, high = (v.shown[j], v.shown[i]) if v.place.field == "latency" else (v.shown[i], v.shown[j])
            a[v.name], b[v.name] = low, high
        poor.append(a)
        rich.append(b)
    less = given.objectives[0].sign
    for low, high, a, b in zip(poor, rich, solve(given, poor), solve(given, rich), strict=True):
        if a.front:
            assert b.front and less * b.front[0][0][0] <= less * a.front[0][0][0] * (1 + 1e-12 * less)
        for name in CHEAP:
            if name == "silicon_area":
                continue
            costs = [float(design_at(given, point)[name]) for point in (low, high)]
            assert costs[0] <= costs[1] * (1 + 1e-12)


def design_at(given, point):
    from dse.explore.result import Result

    return Result(given.specs_at(point), [], devices_given=True)


def test_a_search_that_stops_early_bounds_what_is_left():
    """The bound holds for every design of the space, and gets no worse with more boxes."""
    given = random_problem(5, steps=None)
    short, longer = (run(given, method="bound", tolerance=0.0, trials=n, cache=False) for n in (8, 200))
    sign = given.objectives[0].sign
    assert sign * short.bound <= sign * longer.bound * (1 + 1e-12 * sign)
    draw = np.random.default_rng(0)
    points = []
    for _ in range(60):
        shares = draw.random(len(given.variables))
        points.append({
            v.name: v.shown[int(u * len(v.shown))] if v.values else float(v.low * (v.high / v.low) ** u)
            for v, u in zip(given.variables, shares, strict=True)
        })  # fmt: skip
    found = [sign * a.front[0][0][0] for a in solve(given, points) if a.front]
    assert found and min(found) >= sign * longer.bound * (1 - 1e-12 * sign)


def test_what_is_not_proved_is_refused():
    hardware = [span("cluster.network.inter.bandwidth", "10 GB/s", "100 GB/s")]
    common = {"devices": 16, "global_batch": 64}
    for objective in ("mfu", "cost", ["step_time", "capital"], "step_time@90%"):
        with pytest.raises(SpecError, match="bounds are proved for one objective"):
            provable(problem("gpt-1.7b", "dgx-a100", hardware, objective=objective, **common))
    dear = coupling("cluster.network.inter.price", "cluster.network.inter.bandwidth", "-20 USD/(GB/s)")
    with pytest.raises(SpecError, match="cheaper or slower"):
        provable(problem("gpt-1.7b", "dgx-a100", hardware, couplings=[dear], **common))
    slow = coupling("cluster.network.inter.latency", "cluster.network.inter.bandwidth", "1e-17 s/(B/s)")
    with pytest.raises(SpecError, match="cheaper or slower"):
        provable(problem("gpt-1.7b", "dgx-a100", hardware, couplings=[slow], **common))
    with pytest.raises(SpecError, match="nothing is proved"):
        provable(problem("gpt-1.7b", "dgx-a100", hardware, replace={"operator_efficiency": 0.5}, **common))
    with pytest.raises(SpecError, match="no variable is a capacity"):
        provable(problem("gpt-1.7b", "dgx-a100", [dse.axis("cluster.devices", [16, 32])], global_batch=64))


# Strategies under which faster compute uncovers more communication than it saves, in this cost model.
HIDDEN_TWICE = {
    "shard group": ("llama2-7b", {"zero_stage": [1], "shard_group": [8]}),
    "context and stage 3": ("llama2-7b", {"zero_stage": [3], "cp": [8]}),
    "shard group and stage 3": ("llama2-7b", {"zero_stage": [3], "shard_group": [8]}),
    "experts": ("mixtral-8x7b", {"zero_stage": [1], "ep": [8], "overlap_ep": [True]}),
}


@pytest.mark.parametrize("case", HIDDEN_TWICE)
def test_communication_that_hides_twice_is_left_out_of_the_bound(case):
    """The best of a box is not its richest corner here, and the bound still lies below everything."""
    model, options = HIDDEN_TWICE[case]
    network = {"base": "dgx-a100", "id": "slow", "network": {"dimensions": [
        {"name": "nvlink", "bandwidth": "30 GB/s"}, {"name": "infiniband", "bandwidth": "2.5 GB/s"}]}}  # fmt: skip
    given = problem(
        model, network, [span("cluster.accelerator.matrix.bf16", "100 TFLOP/s", "20000 TFLOP/s", steps=12)],
        devices=32, global_batch=64, base="stack=ideal",
        options={"pp": [1], "tp": [1], "micro_batch": [1], "recompute": ["none"], **options},
    )  # fmt: skip
    every = list(grid(given))
    values = [a.front[0][0][0] for a in solve(dataclasses.replace(given, constraints=()), every) if a.front]
    relaxed = _Search(Evaluator(given, None), 0.0).relaxed.answers(every)
    bounds = [a.front[0][0][0] for a in relaxed if a.front]
    if not values:
        pytest.skip("this strategy does not fit")
    assert bounds == sorted(bounds, reverse=True)
    for place, bound in enumerate(bounds):
        assert bound <= min(values[: place + 1])


def test_what_cannot_be_bounded_is_refused():
    common = {"devices": 16, "global_batch": 64}
    memory = span("cluster.memory.capacity", "20 GB", "160 GB")
    loose = span("cluster.reliability.storage_bandwidth", "1 GB/s", "100 GB/s")
    with pytest.raises(SpecError, match="more is not always better"):
        provable(problem("gpt-1.7b", "dgx-a100", [memory, loose], **common))
    with pytest.raises(SpecError, match="nothing is proved"):
        provable(problem("gpt-1.7b", "dgx-a100", [memory], base="memory_expansion=spread", **common))
    with pytest.raises(SpecError, match="micro-batched"):
        provable(problem("gpt-1.7b", "dgx-a100", [memory], base="execution=comet", **common))


def test_auto_proves_where_it_cannot_enumerate():
    hardware = [span("cluster.network.inter.bandwidth", "10 GB/s", "100 GB/s")]
    common = {"devices": 16, "global_batch": 64, "options": OPTIONS}
    for name in FAST:
        assert chosen_method(problem("gpt-1.7b", "dgx-a100", hardware, objective=name, **common), "auto") == "bound"
    assert chosen_method(problem("gpt-1.7b", "dgx-a100", hardware, objective="cost", **common), "auto") == "cmaes"
    both = problem("gpt-1.7b", "dgx-a100", hardware, objective=["cost", "step_time"], **common)
    assert chosen_method(both, "auto") == "nsga2"
    stepped = [span("cluster.network.inter.bandwidth", "10 GB/s", "100 GB/s", steps=4)]
    assert chosen_method(problem("gpt-1.7b", "dgx-a100", stepped, **common), "auto") == "exhaustive"
