"""The plan of a search is a pure function of its seed and its results, covers finite spaces, and finds what it should."""

from __future__ import annotations

import math
import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.errors import SpecError
from dse.explore.search.driver import Refusal, run_search
from dse.explore.search.outcome import Outcome
from dse.explore.search.planner import METHODS, Planner, choose_method, default_batch
from dse.explore.search.space import Space, Variable

LADDER = Variable("lanes", (1, 2, 4, 8, 16))
KIND = Variable("kind", ("ring", "tree", "mesh"), categorical=True)
COUNT = Variable("count", tuple(range(7)))
SPEED = Variable("speed", low=1e-3, high=10.0, log=True)
SHARE = Variable("share", low=0.0, high=1.0)
MIXED = (LADDER, KIND, SHARE)
FINITE = (LADDER, KIND, COUNT)
TORCHLESS = [method for method in METHODS if method != "gp"]


def toy(point: dict) -> Outcome:
    """Two objectives that pull apart, a constraint, and a corner where nothing is defined."""
    number = sum(value for value in point.values() if not isinstance(value, str))
    text = sum(len(value) for value in point.values() if isinstance(value, str))
    if point.get("count") == 6:
        return Outcome(None, {"memory": 2.0}, {"reason": "does not fit"})
    return Outcome((number - text, 1.0 / (1.0 + number)), {"memory": (number - 20.0) / 20.0}, {"number": number})


def single(point: dict) -> Outcome:
    outcome = toy(point)
    return Outcome(None if outcome.values is None else outcome.values[:1], outcome.constraints)


def cases() -> list[tuple[str, tuple[Variable, ...], int]]:
    spaces = {"grid": [FINITE], "cmaes": [(SPEED, SHARE), (LADDER, SHARE)]}
    found = [(m, v, n) for m in TORCHLESS for v in spaces.get(m, [FINITE, MIXED, (SPEED, SHARE)]) for n in (1, 2)]
    return [(m, v, n) for m, v, n in found if not (m == "cmaes" and n > 1)]


@pytest.mark.parametrize(("method", "variables", "objectives"), cases())
def test_fifteen_and_fifteen_more_are_thirty(method, variables, objectives, tmp_path):
    evaluate = single if objectives == 1 else toy
    directions = ["minimize", "maximize"][:objectives]
    whole = run_search(variables, directions, evaluate, trials=30, seed=7, method=method)
    first = run_search(variables, directions, evaluate, trials=15, seed=7, method=method, folder=tmp_path)
    second = run_search(variables, directions, evaluate, trials=30, seed=7, method=method, folder=tmp_path)
    assert second == whole
    assert first.trials == whole.trials[:15]
    assert len({tuple(trial.point.values()) for trial in whole.trials}) == 30


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    method=st.sampled_from([m for m in TORCHLESS if m != "cmaes"]),
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(4, 9),
    cuts=st.lists(st.integers(1, 25), min_size=1, max_size=4),
)
def test_any_interruptions_give_the_same_sequence(sizes, method, seed, batch, cuts):
    variables = [Variable(f"v{i}", tuple(range(size))) for i, size in enumerate(sizes)]
    evaluated = []

    def evaluate(point: dict) -> Outcome:
        evaluated.append(tuple(point.values()))
        return toy(point)

    def search(trials: int, folder: str | None):
        return run_search(
            variables,
            ["minimize", "minimize"],
            evaluate,
            trials=trials,
            seed=seed,
            method=method,
            batch=batch,
            folder=folder,
        )

    with tempfile.TemporaryDirectory() as folder:
        for cut in sorted(cuts):
            resumed = search(cut, folder)
        assert len(evaluated) == len(set(evaluated)) == len(resumed.trials) == min(max(cuts), math.prod(sizes))
    assert resumed == search(max(cuts), None)


@pytest.mark.parametrize("method", [method for method in TORCHLESS if method != "cmaes"])
def test_a_finite_space_is_enumerated_each_point_once(method):
    log = run_search(FINITE, ["minimize", "minimize"], toy, trials=10**6, seed=3, method=method)
    points = [tuple(trial.point.values()) for trial in log.trials]
    assert sorted(points) == sorted(product(*(variable.values for variable in FINITE)))
    assert log.stopped == "all 105 points of the space are evaluated"


@pytest.mark.parametrize("method", ["nsga2", "tpe", "cmaes"])
def test_order_and_number_of_workers_change_nothing(method):
    def slow(point: dict) -> Outcome:
        time.sleep(random.Random(str(point)).uniform(0, 0.004))
        return single(point)

    options = {"trials": 40, "seed": 5, "method": method}
    serial = run_search((SPEED, SHARE), ["minimize"], single, **options)
    for workers in (2, 7):
        with ThreadPoolExecutor(workers) as pool:
            assert run_search((SPEED, SHARE), ["minimize"], slow, executor=pool, **options) == serial


def test_many_points_at_a_time_are_the_same_points():
    class Together:
        sizes: list[int] = []  # noqa: RUF012

        def __call__(self, point: dict) -> Outcome:
            raise AssertionError("one by one")

        def many(self, points: list[dict]) -> list[Outcome]:
            self.sizes.append(len(points))
            return [toy(point) for point in points]

    options = {"trials": 20, "seed": 5, "method": "nsga2", "batch": 8}
    directions = ["minimize", "maximize"]
    assert run_search(MIXED, directions, Together(), **options) == run_search(MIXED, directions, toy, **options)
    assert Together.sizes == [8, 8, 4]


def test_another_seed_gives_other_points():
    logs = [run_search(MIXED, ["minimize"], single, trials=20, seed=seed, method="nsga2") for seed in (1, 2)]
    assert logs[0].trials != logs[1].trials


@pytest.mark.parametrize("method", [method for method in TORCHLESS if method != "grid"])
@pytest.mark.parametrize("defined", [True, False])
def test_where_nothing_is_feasible_the_reasons_are_given(method, defined):
    def hopeless(point: dict) -> Outcome:
        return Outcome(
            (point["share"],) if defined else None, {"power": point["share"] + 0.5, "racks": point["speed"] - 5.0}
        )

    log = run_search((SPEED, SHARE), ["minimize"], hopeless, trials=64, seed=1, method=method)
    assert log.feasible == ()
    refusals = log.refusals()
    shares = [trial.point["share"] for trial in log.trials]
    assert next(iter(refusals)) == "power"
    assert refusals["power"] == Refusal(64, min(shares) + 0.5)
    assert refusals.get("racks", Refusal(0, 0.0)).trials == sum(trial.point["speed"] > 5.0 for trial in log.trials)


def test_undefined_without_a_constraint_counts_as_undefined():
    log = run_search([COUNT], ["minimize"], lambda point: Outcome(None), trials=99, method="nsga2")
    assert log.refusals() == {"undefined": Refusal(7, math.inf)}


@pytest.mark.parametrize("method", [method for method in TORCHLESS if method != "grid"])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_no_number_stops_a_sampler(method, value):
    def odd(point: dict) -> Outcome:
        strange = point["share"] > 0.5
        return Outcome((value if strange else point["share"],), {"margin": value if point["speed"] > 1 else -1.0})

    log = run_search((SPEED, SHARE), ["minimize"], odd, trials=60, seed=2, method=method)
    assert len(log.trials) == 60
    assert all(trial.outcome.values == (trial.point["share"],) for trial in log.trials if trial.point["share"] <= 0.5)


@pytest.mark.parametrize(("method", "trials"), [("cmaes", 240), ("tpe", 120), ("nsga2", 480)])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_constrained_optimum_is_found(method, trials, direction):
    """min x² + y² with x >= 0.3 has its optimum 0.09 on the boundary, at (0.3, 0)."""
    sign = 1.0 if direction == "minimize" else -1.0

    def bowl(point: dict) -> Outcome:
        return Outcome((sign * (point["x"] ** 2 + point["y"] ** 2),), {"x": 0.3 - point["x"]})

    variables = [Variable("x", low=-1, high=1), Variable("y", low=-1, high=1)]
    log = run_search(variables, [direction], bowl, trials=trials, seed=4, method=method)
    best = min(sign * trial.outcome.values[0] for trial in log.feasible)
    assert 0.09 <= best < 0.13
    blind = run_search(variables, [direction], bowl, trials=trials, seed=4, method="random")
    assert best < min(sign * trial.outcome.values[0] for trial in blind.feasible)


def test_the_rule_of_auto():
    assert choose_method(10**8, 1, False) == "exhaustive"
    assert choose_method(10**8, 1, False, seconds_per_trial=1e-3) == "tpe"
    assert choose_method(10**8 + 1, 1, False) == "tpe"
    assert choose_method(None, 1, True) == "cmaes"
    assert choose_method(None, 1, False) == "tpe"
    assert choose_method(None, 3, True) == "nsga2"
    assert choose_method(None, 4, True) == "nsga3"
    assert choose_method(None, 2, True, seconds_per_trial=2.0) in ("tpe", "gp")
    assert run_search(FINITE, ["minimize"], single, trials=105).method == "grid"
    assert run_search(FINITE, ["minimize"], single, trials=10).method == "tpe"
    assert run_search((SPEED, SHARE), ["minimize"], single, trials=10).method == "cmaes"


@given(st.integers(1, 30), st.integers(1, 9))
def test_batches_fit_their_method(variables, objectives):
    assert default_batch("nsga3", variables, objectives) >= math.comb(objectives + 2, 3)
    assert default_batch("cmaes", variables, 1) >= 4 + math.floor(3 * math.log(variables))


@pytest.mark.parametrize(
    "arguments",
    [
        {"values": ()},
        {"values": (1, 1)},
        {"values": (1, math.nan)},
        {"values": ("a", "b")},
        {"values": ((1, 2),), "categorical": True},
        {"low": 1, "high": 1},
        {"low": 0, "high": math.inf},
        {"low": 0, "high": 1, "log": True},
        {"categorical": True},
    ],
)
def test_bad_variables_are_refused_by_name(arguments):
    with pytest.raises(SpecError, match=r"search\.bad"):
        Variable("bad", **arguments)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"method": "annealing"}, "search.method"),
        ({"method": "grid", "variables": [SHARE]}, "search.method"),
        ({"method": "cmaes"}, "search.method"),
        ({"method": "cmaes", "variables": [SHARE], "directions": ["minimize"] * 2}, "search.method"),
        ({"directions": []}, "search.directions"),
        ({"directions": ["down"]}, "search.directions"),
        ({"seed": -1}, "search.seed"),
        ({"trials": 0}, "search.trials"),
        ({"batch": 0}, "search.batch"),
        ({"variables": []}, "search"),
        ({"variables": [SHARE, SHARE]}, "share"),
        ({"storage": "mysql://host/db"}, "search.storage"),
        ({"storage": "journal"}, "search.storage"),
        ({"storage": "grpc://host"}, "search.storage"),
        ({"storage": "sqlite://"}, "search.storage"),
    ],
)
def test_impossible_searches_are_refused_by_field(change, named):
    asked = {"variables": MIXED, "directions": ["minimize"], "evaluate": single, "trials": 5, "method": "tpe", **change}
    with pytest.raises(SpecError, match=named):
        run_search(**asked)


NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


@given(
    st.none() | st.lists(NUMBERS, max_size=4).map(tuple),
    st.dictionaries(st.text(max_size=8), NUMBERS, max_size=4),
    st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | NUMBERS | st.text(max_size=9), max_size=4),
)
def test_outcomes_survive_their_text_to_the_last_bit(values, constraints, payload):
    outcome = Outcome(values, constraints, payload)
    again = Outcome.decode(outcome.encode())
    assert repr(again.values) == repr(values)
    assert repr(sorted(again.constraints.items())) == repr(sorted(constraints.items()))
    assert again.encode() == outcome.encode()
    assert again.feasible == outcome.feasible and repr(again.violation) == repr(outcome.violation)


@given(st.floats(0, 1, exclude_max=True), st.floats(1e-9, 1e9), st.floats(1.5, 1e9), st.booleans())
def test_points_of_the_unit_cube_stay_in_range(unit, low, ratio, log):
    variable = Variable("x", low=low, high=low * ratio, log=log)
    assert low <= variable.at(unit) <= low * ratio
    assert LADDER.at(unit) == LADDER.values[int(unit * 5)]


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_the_fallback_permutation_visits_every_point(sizes, seed):
    variables = [Variable(f"v{i}", tuple(range(size))) for i, size in enumerate(sizes)]
    planner = Planner(variables, ["minimize"], seed=seed, method="random", batch=4)
    points = [tuple(planner._unseen().values()) for _ in range(math.prod(sizes))]
    space = Space(tuple(variables))
    assert sorted(points) == [tuple(space.point(index).values()) for index in range(math.prod(sizes))]
