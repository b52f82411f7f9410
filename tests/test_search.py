"""The search finds what enumeration finds, twice the same, whatever the batches; its inner problem is exact."""

from __future__ import annotations

import hashlib
import json
from itertools import product

import numpy as np
import pytest
from search_spaces import Random

import dse
from dse.errors import SpecError
from dse.explore.search import evaluate
from dse.explore.search.inner import grid, solve
from dse.explore.search.problem import problem
from dse.explore.search.run import resume, search
from dse.explore.search.variables import coupling, span

PRICE, CAPACITY = "cluster.accelerator.price", "cluster.accelerator.memory.capacity"
BANDWIDTH = "cluster.network.inter.bandwidth"
SMALL = {"pp": [1, 2], "tp": [1, 2, 4], "micro_batch": [1, 2, 4], "zero_stage": [0, 1], "virtual_stages": [1],
         "recompute": ["none", "full"], "sequence_parallel": [False]}  # fmt: skip
GPT = {"model": "gpt-1.7b", "cluster": "dgx-a100", "global_batch": 64, "options": SMALL}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DSE_CACHE", str(tmp_path / "cache"))


# -- search equals enumeration ----------------------------------------------------------------------------------


SEEDS = (0, 2, 4, 6, 7, 8, 11, 13, 14, 16, 18, 19, 20, 23, 26, 29, 32, 33, 34, 37)  # 11: nothing is feasible


@pytest.mark.parametrize("seed", SEEDS)
def test_enumeration_and_samplers_find_the_front_of_all_designs(seed):
    """Exhaustive search agrees with sweeps of every hardware design; samplers with enough trials agree with it."""
    space = Random(seed)
    found = search(**space.arguments)
    assert found.exhaustive and found.method == "exhaustive"
    assert [list(point.values()) for point in found.points] == [list(point.values()) for point in space.points]
    assert found.evaluated == len(space.points) * len(space.strategies)
    assert [a.feasible for a in found.answers] == [int(space.allowed(n).sum()) for n in range(len(space.points))]
    columns = {name.partition(" [")[0]: name for name in found.table}
    rows = [
        (row["design"], {name: row[name] for name in space.options}, tuple(row[columns[o]] for o in space.objectives))
        for row in found.front.to_dict("records")
    ]
    assert rows == [(number, space.strategies[place], values) for number, place, values in space.front]
    assert (seed == 11) == (not rows)
    table = found.table.drop(columns="trial")
    for method in ("nsga2", "tpe", "random"):
        sampled = search(**space.arguments, method=method, trials=len(space.points) + 3, seed=seed)
        assert sampled.exhaustive
        assert sampled.table.drop(columns="trial").equals(table), method


@pytest.mark.parametrize(("seed", "objective", "sign"), [(7, "step_time", 1), (10, "mfu", -1), (28, "cost", 1)])
def test_one_estimate_a_design_gives_the_same_optimum(seed, objective, sign):
    """For the smallest spaces, one design at a time through the public call."""
    space = Random(seed)
    found = search(**{**space.arguments, "objective": objective})
    rows = []
    for number, (place, strategy) in product(range(len(space.points)), enumerate(space.strategies)):
        cluster, devices = space.hardware(number)
        one = dse.estimate(space.model, cluster, {**strategy, "global_batch": space.global_batch}, devices=devices)
        kept = [float(one[b.split()[0]]) <= float(b.split()[2]) for b in space.budgets if "<=" in b]
        kept += [float(one[b.split()[0]]) >= float(b.split()[2]) for b in space.budgets if ">=" in b]
        if one.is_feasible and all(kept):
            rows.append((sign * float(one[objective]), number, place))
    number, values, place = found.rows[found.front_rows[0]]
    assert (sign * values[0], number, place) == min(rows)
    assert found.feasible_count == len(rows)
    assert float(found.best[objective]) == values[0]


def test_designs_of_the_table_are_those_results():
    """Every row, built anew as a result, has the row's objectives to the last bit and is feasible where it says so."""
    space = Random(2)
    found = search(**space.arguments)
    for row in range(0, len(found.rows), max(1, len(found.rows) // 25)):
        _, values, place = found.rows[row]
        if place is None:
            continue
        result = found.design(row)
        if values is None:
            assert not result.is_feasible or found.table["reasons"][row]
            continue
        assert result.is_feasible
        evaluation = result.cells[0].evaluation
        assert tuple(float(o.value(evaluation)) for o in found.problem.objectives) == values
        assert all(float(c.margin(evaluation)) >= 0 for c in found.problem.constraints)


@pytest.mark.parametrize("seed", [55, 70, 78, 95, 104, 117])
@pytest.mark.parametrize("objective", ["step_time", "max tokens_per_s"])
def test_branch_and_bound_proves_the_value_of_enumeration(seed, objective):
    """Without tolerance the value is the same to the last bit; of designs that are equal it may name another."""
    arguments = {**Random(seed).arguments, "objective": objective}
    whole = search(**arguments)
    proved = search(**arguments, method="bound", tolerance=0.0)
    lead = [found.rows[found.front_rows[0]][1] for found in (whole, proved)]
    assert lead[0] == lead[1]
    assert proved.best.is_feasible


# -- the same twice -----------------------------------------------------------------------------------------------

CONTINUOUS = {
    **GPT,
    "hardware": [span(CAPACITY, "20 GB", "160 GB"), span(BANDWIDTH, "5 GB/s", "100 GB/s")],
    "devices": 16,
}
MIXED = {**GPT, "hardware": [dse.axis("cluster.devices", [8, 16, 32]), *CONTINUOUS["hardware"]]}


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("nsga2", {**MIXED, "objective": ["step_time", "capital"]}),
        ("tpe", MIXED),
        ("random", MIXED),
        ("cmaes", CONTINUOUS),
    ],
)
def test_fifteen_trials_and_fifteen_more_are_thirty(method, arguments, tmp_path, monkeypatch):
    """Byte for byte the same table, in a folder or not, interrupted or not, with small blocks or large ones."""
    couplings = [coupling(PRICE, CAPACITY, "30 USD/GB")]
    settings = {**arguments, "couplings": couplings, "method": method, "seed": 5, "cache": False}
    search(**settings, trials=30).save(tmp_path / "whole")
    search(**settings, trials=15, folder=tmp_path / "kept")
    monkeypatch.setattr(evaluate, "solve", lambda given, points: solve(given, points, limit=50))
    resumed = resume(tmp_path / "kept", trials=30, cache=False)
    resumed.save(tmp_path / "kept")
    assert len(resumed.points) == 30
    for name in ("designs.parquet", "front.csv", "summary.json"):
        digests = {hashlib.sha256((tmp_path / f / name).read_bytes()).hexdigest() for f in ("whole", "kept")}
        assert len(digests) == 1, name


def test_threads_do_not_matter():
    """One thread or several, the cache on or off."""
    arguments = {**GPT, "hardware": [dse.axis("cluster.devices", [8, 16, 32]), span(CAPACITY, 2e10, 1.6e11, steps=9)]}
    tables = [
        search(**arguments, workers=w, cache=c).table for w, c in ((1, False), (None, False), (None, True), (1, True))
    ]
    assert all(table.equals(tables[0]) for table in tables)


# -- the inner problem ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [2, 7, 14, 16, 29])
def test_the_answer_depends_on_neither_block_nor_company(seed):
    """Bit for bit the same for any limit, alone or in any company."""
    given = problem(**Random(seed).arguments)
    points = list(grid(given))
    whole = [answer.to_dict() for answer in solve(given, points)]
    for limit in (19, 150):
        assert [answer.to_dict() for answer in solve(given, points, limit)] == whole
    assert [solve(given, [point])[0].to_dict() for point in points] == whole
    assert [answer.to_dict() for answer in solve(given, points[::-1])][::-1] == whole


def test_continuous_hardware_depends_on_neither_block_nor_company():
    """Values off any grid too, with a risk and a coupling."""
    given = problem(**{**MIXED, "objective": ["step_time@90%", "capital"], "budget": "memory_headroom >= 0.1",
                       "couplings": [coupling(PRICE, CAPACITY, "proportional")]})  # fmt: skip
    draw = np.random.default_rng(1)
    points = [
        {
            v.name: v.shown[draw.integers(len(v.shown))] if v.values else float(draw.uniform(v.low, v.high))
            for v in given.variables
        }
        for _ in range(17)
    ]
    whole = [answer.to_dict() for answer in solve(given, points)]
    assert [solve(given, [point], 13)[0].to_dict() for point in points] == whole
    assert any(answer["front"] for answer in whole)


def test_answers_survive_json_bit_by_bit():
    given = problem(**{**Random(2).arguments, "budget": ["capital <= 1 USD"]})
    for answers in (solve(given, list(grid(given))), solve(problem(**Random(2).arguments), list(grid(given)))):
        for answer in answers:
            again = type(answer).from_dict(json.loads(json.dumps(answer.to_dict())))
            assert again.to_dict() == answer.to_dict()
            assert (again.front, again.nearest) == (answer.front, answer.nearest)


def _nearest(space: Random, number: int, limits: list[tuple[str, bool, float]]) -> tuple[int, dict[str, float]]:
    """Of the legal strategies the one with the least sum of relative shortfalls; of equal ones the best, then the first."""
    evaluation = space.sweep(number).cells[0].evaluation
    rules = dse.explore.evaluate.violations(evaluation)
    memory = space._spread(rules.pop("memory_fits"))
    legal = space._spread(dse.explore.evaluate.feasible(rules))
    capacity = space.hardware(number)[0].accelerator.memory.capacity
    short = {"memory_fits": (np.maximum(-memory, 0) / capacity, memory)}
    for name, at_most, bound in limits:
        margin = (bound - space.quantity(number, name)) * (1 if at_most else -1)
        short[name] = (np.maximum(-margin, 0) / abs(bound), margin)
    distance = sum(share for share, _ in short.values())
    score = space.signs[0] * space.goals(number)[:, 0]
    place = min(np.flatnonzero(legal), key=lambda i: (distance[i], score[i], i))
    return int(place), {name: float(margin[place]) for name, (_, margin) in short.items() if margin[place] < 0}


@pytest.mark.parametrize("seed", [0, 2, 4, 8, 9, 13])
def test_infeasible_hardware_names_its_nearest_miss(seed):
    """The strategy that breaks budgets and memory least, and by how much, agrees with a search through all of them."""
    space = Random(seed)
    power = np.concatenate([space.quantity(n, "power") for n in range(len(space.points))])
    headroom = np.concatenate([space.quantity(n, "memory_headroom") for n in range(len(space.points))])
    limits = [
        ("power", True, float(f"{power.min() * 0.7:.6g}")),
        ("memory_headroom", False, float(f"{headroom.max() + 0.01:.6g}")),
    ]
    budget = [f"{name} {'<=' if at_most else '>='} {bound}{' W' if at_most else ''}" for name, at_most, bound in limits]
    found = search(**{**space.arguments, "budget": budget})
    assert not len(found.front_rows) and found.feasible_count == 0
    texts = dict(zip(("power", "memory_headroom", "memory_fits"), [*budget, "memory_fits"], strict=True))
    for number, answer in enumerate(found.answers):
        place, broken = _nearest(space, number, limits)
        assert answer.nearest == (place, {texts[name]: margin for name, margin in broken.items()})
        reasons = found.table["reasons"][number]
        assert all(name in reasons or name == "memory_fits" for name in broken)
        assert ("memory overflows" in reasons) == ("memory_fits" in broken)
    with pytest.raises(dse.InfeasibleDesign, match="none of the"):
        found.design()


def test_a_budget_that_hardware_alone_breaks_is_the_reason():
    """Capital depends on hardware only: the reason gives what it costs, and the nearest strategy is the fastest."""
    arguments = {**GPT, "hardware": [dse.axis("cluster.devices", [8, 16, 32])]}
    free = search(**arguments)
    costs = [float(free.design(row)["capital"]) for row in range(3)]
    limited = search(**arguments, budget=f"capital <= {(costs[0] + costs[1]) / 2} USD")
    assert limited.table["feasible"].tolist() == [True, False, False]
    for row in (1, 2):
        answer = limited.answers[row]
        assert answer.feasible == 0
        assert answer.nearest[0] == free.answers[row].front[0][1]
        assert list(answer.nearest[1].values()) == [pytest.approx((costs[0] + costs[1]) / 2 - costs[row])]
        assert limited.table["reasons"][row].startswith("capital = $")


def test_hardware_without_any_legal_strategy_says_so():
    """Three devices cannot be cut into the degrees asked for."""
    found = search(
        **{**GPT, "options": {**SMALL, "tp": [2, 4], "pp": [2]}}, hardware=[dse.axis("cluster.devices", [3, 8])]
    )
    assert found.table["reasons"].tolist() == ["no strategy is legal on it", ""]
    assert found.table["feasible"].tolist() == [False, True]


def test_memory_that_is_too_small_is_the_reason():
    found = search(**GPT, devices=8, hardware=[dse.axis(CAPACITY, ["1 GB", "80 GB"])])
    row = int(np.flatnonzero(~found.table["feasible"])[0])
    margin = float(found.design(row)["memory_fits"])
    assert margin < 0
    assert found.answers[0].nearest[1] == {"memory_fits": margin}
    assert "memory overflows by" in found.table["reasons"][row]


def test_an_objective_that_is_infinite_leaves_no_design():
    """An infinite objective cannot be ranked: the design is not on the front, and the reason says why."""
    found = search(**GPT, devices=8, objective=["step_time", "cost"], replace={"cost": np.inf})
    assert found.feasible_count == 0 and not len(found.front_rows)
    assert "infinite" in found.table["reasons"][0]
    single = search(**GPT, devices=8, objective="cost", replace={"cost": np.nan})
    assert single.feasible_count == 0 and not len(single.front_rows)


def test_rows_that_equal_one_on_the_front_point_to_it():
    """Hardware that changes nothing gives equal rows: the first is on the front, the others name it."""
    found = search(
        **GPT, devices=8, hardware=[dse.axis("cluster.facility.pue", [1.1, 1.2, 1.3])], objective="step_time"
    )
    assert found.table["on_front"].tolist() == [True, False, False]
    assert found.table["dominated_by"].tolist()[1:] == [0, 0]


def test_structure_inside_other_clusters_is_found_by_its_path():
    """ "inter" is the outermost dimension of each cluster, however many it has; couplings too."""
    hardware = [dse.axis("cluster", ["dgx-a100", "tpu-v4-pod"]), dse.axis(BANDWIDTH, ["10 GB/s", "40 GB/s"])]
    rate = coupling("cluster.network.inter.price", BANDWIDTH, "2 USD/(GB/s)")
    found = search(**GPT, devices=64, hardware=hardware, couplings=[rate])
    for number, point in enumerate(found.points):
        cluster = found.problem.specs_at(point)["cluster"]
        base = dse.load_cluster(point["cluster"])
        assert cluster.network.dimensions[-1].bandwidth == point["network.inter.bandwidth"]
        assert cluster.network.dimensions[:-1] == base.network.dimensions[:-1]
        grown = 2e-9 * (point["network.inter.bandwidth"] - base.network.dimensions[-1].bandwidth)
        assert cluster.network.dimensions[-1].price == pytest.approx(
            max(base.network.dimensions[-1].price + grown, 0.0)
        )
        fixed = dse.best("gpt-1.7b", cluster, devices=64, global_batch=64, options=SMALL)
        assert found.answers[number].front[0][0][0] == float(fixed["step_time"])


def test_the_strategies_of_a_group_are_those_of_its_largest_member():
    """A deeper model on the hardware axis may be cut into more stages than the base."""
    given = problem("gpt-1.7b", "dgx-a100", [dse.axis("model.layers", [24, 48])], devices=48, global_batch=48)
    group = given.group({"model.layers": 24})
    pipeline = next(b for b in group.strategies if b.name == "pp")
    assert max(pipeline.values) == 48


def test_continuous_spans_are_not_enumerated():
    given = problem(**CONTINUOUS)
    assert given.hardware_size is None
    with pytest.raises(SpecError, match="steps"):
        search(**CONTINUOUS, method="exhaustive")
