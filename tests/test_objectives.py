"""Objectives and conditions: what text means, with which unit and direction, and how risk follows the intervals."""

from __future__ import annotations

from functools import cache
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

import dse
from dse.cost.graph import Evaluation
from dse.errors import SpecError
from dse.explore.evaluate import graph_of
from dse.explore.objectives import (
    DIRECTIONS,
    TIME_POWER,
    condition,
    conditions,
    log_deviation,
    margins,
    objective,
    objectives,
    quantity_value,
    unit_of_quantity,
)

STRATEGY = "tp=2,pp=2,micro_batch=1,global_batch=64,recompute=full"


@cache
def one() -> dse.Result:
    return dse.estimate("llama2-7b", "dgx-a100", STRATEGY, devices=16)


@cache
def many() -> Evaluation:
    """Eight designs along two axes."""
    axes = (dse.axis("pp", [1, 2, 4, 8]), dse.axis("cluster.network.inter.bandwidth", [5e9, 5e10]))
    return (
        dse.sweep("llama2-7b", "dgx-a100", "tp=2,micro_batch=1,global_batch=64", *axes, devices=16).cells[0].evaluation
    )


def at_one(text: str) -> float:
    return float(objective(text).value(one().cells[0].evaluation))


# -- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIRECTIONS)
def test_every_quantity_with_a_direction_is_an_objective(name):
    """Its value is the estimate's; "min" and "max" turn the direction and nothing else."""
    found = objective(name)
    assert (found.less, found.unit, found.risk) == (DIRECTIONS[name], unit_of_quantity(name), "point")
    assert at_one(name) == float(one()[name])
    for word, less in (("min", True), ("maximise", False), ("minimize", True)):
        other = objective(f"{word} {name}")
        assert (other.less, other.sign) == (less, 1.0 if less else -1.0)
        assert at_one(f"{word} {name}") == at_one(name)


def test_entries_of_tables_are_objectives_with_a_direction():
    assert at_one("min time.bubble") == float(one()["time.bubble"])
    assert objective("min memory.weights").unit == "B"
    with pytest.raises(SpecError, match=r"'min time\.bubble' or 'max time\.bubble'"):
        objective("time.bubble")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step_tim", "did you mean step_time"),
        ("min stp_time", "step_time"),
        ("racks@90%", "has no interval"),
        ("mean energy", "has no interval"),
        ("P(power <= 1 MW)", "has no interval"),
        ("memory_headroom@90%", "P\\(memory_headroom >= 0\\)"),
        ("step_time@40%", "between 50 % and 99 %"),
        ("step_time@99.5%", "between 50 % and 99 %"),
        ("P(step_time <= 3 GB)", "dimension"),
        ("P(step_time)", "quantity <= value"),
        ("data_parallel", "'min data_parallel' or 'max data_parallel'"),
        ("", "quantity"),
    ],
)
def test_bad_objectives_say_what_is_wrong(text, message):
    with pytest.raises(SpecError, match=message):
        objective(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step_time", "must be"),
        ("step_time <= ", "number"),
        ("step_time == 3 s", "must be|number"),
        ("step_time <= 3", "needs a unit"),
        ("step_time <= 3 W", "wrong dimension"),
        ("step_tim <= 3 s", "did you mean"),
        ("power <= 1e999 W", "finite"),
        (3.5, "must be"),
    ],
)
def test_bad_conditions_say_what_is_wrong(text, message):
    with pytest.raises(SpecError, match=message):
        condition(text)


def test_several_objectives():
    assert [o.name for o in objectives(["step_time", "tco"])] == ["step_time", "tco"]
    assert objectives(objective("tco"))[0].name == "tco"
    for bad, message in (([], "1 to 8"), (["tco", "tco"], "twice"), ([f"min time.{i}" for i in range(9)], "1 to 8")):
        with pytest.raises(SpecError, match=message):
            objectives(bad)


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=40)
    | st.from_regex(r"(min |max |mean |P\()?[a-z_]{1,12}[@<>=. 0-9%]{0,6}[a-zA-Z]{0,3}\)?", fullmatch=True)
)
def test_any_text_is_read_or_refused(text):
    for read in (objective, condition):
        try:
            read(text)
        except SpecError as error:
            assert error.faults


@pytest.mark.parametrize("name", sorted(graph_of("megatron").quantities))
def test_every_quantity_is_one_number_or_refused_by_a_search(name):
    """Tables, functions and lists inside the cost model are no objectives; the message names the quantity."""
    from dse.explore.search.problem import problem

    arguments = {"devices": 16, "global_batch": 64, "options": {"tp": [2], "pp": [2]}}
    value = one().cells[0].evaluation[name]
    number = not isinstance(value, list) and np.asarray(value).dtype.kind in "biuf"
    if number:
        assert problem("llama2-7b", "dgx-a100", objective=f"min {name}", **arguments).objectives[0].name == name
        return
    with pytest.raises(SpecError, match=name):
        problem("llama2-7b", "dgx-a100", objective=f"min {name}", **arguments)


# -- conditions -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(DIRECTIONS)), st.booleans(), st.floats(1e-3, 1e6))
def test_margins_are_the_distance_to_the_bound(name, at_most, value):
    unit = unit_of_quantity(name)
    found = condition(f"{name} {'<=' if at_most else '>='} {value!r} {'' if unit == '1' else unit}")
    held = quantity_value(many(), name)
    assert found.value == pytest.approx(value)
    assert np.array_equal(found.margin(many()), found.value - held if at_most else held - found.value)
    assert found.why(2 * value).startswith(f"{name} = ")
    assert ("above" if at_most else "below") in found.why(2 * value)


def test_units_and_signs_of_conditions():
    assert condition("capital <= 500 MUSD").value == 5e8
    assert condition("peak_power ≤ 10 MW").value == 1e7
    assert condition("mfu >= 50 %").value == 0.5
    assert condition("step_time < 3 min").at_most and not condition("mfu > 0.5").at_most
    assert conditions(None) == ()
    assert [c.name for c in conditions("racks <= 64")] == ["racks"]
    assert list(margins(many(), conditions(["racks <= 64", "mfu >= 0.1"]))) == ["racks <= 64", "mfu >= 0.1"]


# -- risk ---------------------------------------------------------------------------------------------------------

WITH_INTERVAL = sorted({*TIME_POWER, "memory_bytes"})


@pytest.mark.parametrize("name", WITH_INTERVAL)
def test_levels_are_monotone_and_start_at_the_prediction(name):
    """The more certain, the worse the value that is promised; 50 % is the prediction, the mean is no smaller."""
    values = [float(objective(name).sign) * at_one(f"{name}@{level}%") for level in (50, 60, 75, 90, 95, 99)]
    assert values[0] == at_one(name) * objective(name).sign
    assert all(a < b for a, b in pairwise(values))
    assert at_one(f"mean {name}") > at_one(name)


@pytest.mark.parametrize(
    "name", ["step_time", "tokens_per_s", "mfu", "hfu", "cost", "tokens_per_dollar", "memory_bytes"]
)
def test_levels_agree_with_the_interval(name):
    """The value that holds with 95 % is the worse end of the central 90 % interval, and P says so."""
    ends = one().interval(0.9, name)
    worse = ends.high if objective(name).less else ends.low
    assert at_one(f"{name}@95%") == pytest.approx(worse, rel=1e-12)
    unit = "" if unit_of_quantity(name) == "1" else unit_of_quantity(name)
    assert at_one(f"P({name} <= {ends.high!r} {unit})") == pytest.approx(0.95, abs=1e-9)
    assert at_one(f"P({name} >= {ends.high!r} {unit})") == pytest.approx(0.05, abs=1e-9)
    assert at_one(f"P({name} <= {ends.low!r} {unit})") == pytest.approx(0.05, abs=1e-9)
    assert at_one(f"P({name} <= {at_one(name)!r} {unit})") == pytest.approx(0.5, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(WITH_INTERVAL), st.floats(0.2, 5.0), st.floats(1.0, 3.0))
def test_the_probability_grows_with_the_room(name, share, more):
    """P(at most) rises with the target, P(at least) falls, and the two add up to one."""
    unit = "" if unit_of_quantity(name) == "1" else unit_of_quantity(name)
    target = share * at_one(name)
    low, high = (np.asarray(condition(f"{name} <= {t!r} {unit}").probability(many())) for t in (target, more * target))
    assert (low <= high).all() and (low >= 0).all() and (high <= 1).all()
    least = condition(f"{name} >= {target!r} {unit}").probability(many())
    assert np.allclose(low + least, 1.0, atol=1e-12)


def test_the_mean_and_the_quantiles_are_those_of_the_distribution():
    """Against samples of the log-normal error."""
    sigma = float(log_deviation(one().cells[0].evaluation, "step_time"))
    time = float(one()["step_time"]) * np.exp(sigma * np.random.default_rng(0).standard_normal(400_000))
    assert at_one("mean step_time") == pytest.approx(time.mean(), rel=4 * sigma / 600)
    assert at_one("step_time@90%") == pytest.approx(np.quantile(time, 0.9), rel=0.01)
    # Tokens/s go with the inverse: 90 % of what may happen lies above, and their mean is that of the inverse.
    rate = float(one()["tokens_per_s"]) * float(one()["step_time"]) / time
    assert at_one("tokens_per_s@90%") == pytest.approx(np.quantile(rate, 0.1), rel=0.01)
    assert at_one("mean tokens_per_s") == pytest.approx(rate.mean(), rel=4 * sigma / 600)


def test_the_probability_of_headroom_is_that_of_memory():
    """P(headroom >= h) is the probability that what the fullest tier holds stays below 1 − h of it."""
    evaluation = one().cells[0].evaluation
    sigma = float(log_deviation(evaluation, "memory_headroom"))
    held = 1.0 - float(one()["memory_headroom"])
    for room in (0.0, 0.1, 1.0 - held, 0.8):
        expected = norm.cdf(np.log((1.0 - room) / held) / sigma)
        assert at_one(f"P(memory_headroom >= {room!r})") == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert at_one(f"P(memory_headroom <= {room!r})") == pytest.approx(1.0 - expected, rel=1e-9, abs=1e-12)


def test_probabilities_are_maximised_unless_asked_otherwise():
    text = "P(step_time <= 2 s)"
    assert not objective(text).less and not objective(f"max {text}").less and objective(f"min {text}").less
    assert objective(text).unit == "1"
    assert at_one(text) == at_one(f"min {text}")


@pytest.mark.parametrize("text", ["step_time", "step_time@90%", "mean cost", "P(step_time <= 2 s)", "capital"])
def test_objectives_broadcast_like_the_designs(text):
    """A value a design, the same as one at a time."""
    value = np.broadcast_to(objective(text).value(many()), (4, 2))
    for (i, pp), (j, bandwidth) in product(enumerate((1, 2, 4, 8)), enumerate((5e9, 5e10))):
        data = dse.load_cluster("dgx-a100").model_dump()
        data["network"]["dimensions"][-1]["bandwidth"] = bandwidth
        strategy = f"tp=2,pp={pp},micro_batch=1,global_batch=64"
        single = dse.estimate("llama2-7b", dse.load_cluster(data), strategy, devices=16)
        assert value[i, j] == float(objective(text).value(single.cells[0].evaluation))
