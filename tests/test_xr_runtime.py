"""The XR runtime: schedulers against the published replay, closed forms and each other; sensors, memory, power, reasons."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.domains.xr import explain, power, published, runtime, sensors, work
from dse.domains.xr.conditions import Conditions
from dse.domains.xr.costs import CostTable, LayerModel
from dse.domains.xr.policies import POLICIES, policy
from dse.domains.xr.runtime import OWN, run, simulate, stretches, timeline
from dse.domains.xr.scenarios import Scenario, scenario, scenario_ids
from dse.domains.xr.systems import System, systems
from dse.errors import SpecError
from dse.simulate.serving import serve

SOME = ("4K-A", "4K-D", "4K-J", "4K-M", "8K-L")


def machine(parts: int) -> System:
    return System.parse({"id": "own", "parts": [{"name": f"p{a}"} for a in range(parts)]})


def costs(ms: dict[str, list[float]], mj: float = 1.0) -> CostTable:
    keys = [(model, f"p{a}") for model, values in ms.items() for a in range(len(values))]
    times = [value for values in ms.values() for value in values]
    return CostTable(dict(zip(keys, (1e-3 * t for t in times), strict=True)), dict.fromkeys(keys, 1e-3 * mj))


def tasks(**rates: float) -> Scenario:
    return Scenario.parse({"tasks": [{"model": name, "rate": rate} for name, rate in rates.items()]})


# --- against the published replay -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", scenario_ids())
def test_with_the_published_policy_runs_are_the_published_ones_to_the_bit(name):
    seeds = range(1, 8)
    assert np.array_equal(
        simulate(name, systems(), seeds=seeds).sums.values, published.simulate(name, systems(), seeds=seeds).values
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"dependencies": "frame", "in_flight": "logged"},
        {"periods": "real", "jitter": 1e-3, "dependencies": "frame", "in_flight": "logged", "power": 2.0},
        {"periods": "real", "depthwise": "grouped"},
    ],
    ids=["cascade", "real", "grouped"],
)
@pytest.mark.parametrize("order", ["name", "deadline"])
@pytest.mark.parametrize("placing", ["idle", "wait"])
def test_under_other_conditions_the_two_loops_agree_to_the_bit(changes, order, placing):
    for name in ("AR_Assistant", "social_interactionA"):
        same = Conditions(**changes, order=order, placing=placing)
        theirs = published.simulate(name, SOME, seeds=[1, 2, 3], conditions=same)
        ours = simulate(
            name, SOME, seeds=[1, 2, 3], conditions=same, policy_=policy({"order": order, "placing": placing})
        )
        assert np.array_equal(ours.sums.values, theirs.values)


def test_the_published_timeline_is_the_one_that_is_kept():
    theirs = published.timeline("social_interactionA", "4K-J").sort_values(["model", "frame"])
    ours = timeline(run("social_interactionA", "4K-J")).sort_values(["model", "frame"])
    ours = ours[ours["outcome"].isin(["in time", "late", "dropped"])]
    for column in ("frame", "injection_ms", "deadline_ms", "completion_ms", "energy_mJ"):
        assert np.array_equal(ours[column], theirs[column]), column
    ran = ours["outcome"] != "dropped"
    assert np.array_equal(ours["acc"][ran], theirs["acc"][(theirs["dropped"] == 0).to_numpy()])


# --- against queues and scheduling theory ---------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.3, 9.0), min_size=3, max_size=3), st.booleans(), st.integers(0, 99))
def test_first_come_first_served_is_the_queue_of_the_serving_engine(ms, edf, seed):
    chosen = tasks(a=97.0, b=41.0, c=53.0)
    rule = {"order": "deadline" if edf else "arrival", "drop": "never"}
    conditions = OWN.replace(jitter=2e-3)
    found = run(
        chosen,
        machine(1),
        policy_=rule,
        seed=seed,
        conditions=conditions,
        costs=costs({n: [t] for n, t in zip("abc", ms, strict=True)}),
    )
    frames = found.outcomes()[0, 0]
    model, number = np.nonzero(np.arange(frames.shape[1]) < found.count[:, None])
    at = frames[model, number]
    key = found.deadline[model, number] if edf else None
    log = serve(at["injected"], np.array(ms)[model], key=key)
    assert np.allclose(log.finish, at["finish"], rtol=1e-12, atol=1e-9)


def fine_layers(ms: np.ndarray, parts: int, count: int, traffic: float = 0.0):
    """Models cut into equal layers, one system: ms [M]; bytes a model."""
    shape = (1, len(ms), count, parts)
    each = np.broadcast_to((ms / count)[None, :, None, None], shape).copy()
    return work.of_layers(each, np.ones(shape) / count, np.full(shape, traffic / count), [count] * len(ms))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.05, 1.0), min_size=2, max_size=4), st.floats(0.5, 1.0), st.integers(2, 60))
def test_interruptible_edf_meets_all_deadlines_up_to_full_load(shares, load, count):
    rates = np.array([90.0, 60.0, 30.0, 45.0])[: len(shares)]
    ms = load * np.array(shares) / sum(shares) * 1e3 / rates
    chosen = tasks(**dict(zip("abcd", rates, strict=False)))
    rule = {"order": "deadline", "drop": "never", "preempt": True}
    found = run(chosen, machine(1), policy_=rule, conditions=OWN, work=fine_layers(ms, 1, count))
    frames = found.outcomes()[0, 0]
    done = frames["status"] == 3
    assert done.sum() == found.count.sum()
    # Liu and Layland: nobody is late if jobs can be interrupted at any time; here one layer is in the way at most.
    assert (frames["finish"] - found.deadline)[done].max() <= (ms / count).max() + 1e-9


def test_interruption_lets_urgent_work_pass_and_resumes_where_it_was():
    chosen = tasks(long=2.0, short=100.0)
    ms = np.array([300.0, 2.0])
    kept = {}
    for preempt in (False, True):
        rule = {"order": "deadline", "preempt": preempt, "switch": "0.25 ms"}
        found = run(
            chosen,
            machine(1),
            policy_=rule,
            conditions=OWN.replace(horizon=0.5),
            work=fine_layers(ms, 1, 100),
            width=1e-3,
        )
        kept[preempt] = found
        table, pieces = timeline(found), stretches(found)
        assert (pieces["start_ms"].to_numpy()[1:] >= pieces["end_ms"].to_numpy()[:-1] - 1e-9).all()
        assert found.trace.sum() == pytest.approx(table["energy_mJ"].sum())
    missed = {preempt: int(found.sums.values[..., 1:3].sum()) for preempt, found in kept.items()}
    assert missed[True] == 0 < missed[False]
    pieces = stretches(kept[True])
    own = pieces[pieces["model"] == "long"]
    ran = (own["end_ms"] - own["start_ms"]).sum()
    assert ran == pytest.approx(300.0 + 0.25 * (len(own) - 1))  # each time that it goes on costs a switch


# --- whatever happens -----------------------------------------------------------------------------------------------

names = st.sampled_from([*POLICIES, "newest", "pinned"])
SPECIAL = {
    "newest": policy({"newest": True, "drop": "never", "order": "arrival"}),
    "pinned": policy({"pins": {"ES": [0], "GE": [1], "SR": [1]}, "order": "slack"}),
}


@settings(max_examples=40, deadline=None)
@given(names, st.sampled_from(scenario_ids()), st.sampled_from(["4K-D", "4K-J", "8K-M", "4K-K"]), st.integers(0, 9))
def test_frames_and_parts_keep_their_books(name, scene, machine_id, seed):
    rule = SPECIAL.get(name) or POLICIES[name]
    found = run(scene, machine_id, policy_=rule, seed=seed, conditions=OWN.replace(jitter=1e-3), width=1e-3)
    frames = found.outcomes()[0, 0]
    inside = np.arange(frames.shape[1]) < found.count[:, None]
    assert (frames["status"][inside] >= 3).all() and (frames["status"][~inside] == 0).all()
    done, gone = frames["status"] == 3, frames["status"] == 4
    at = frames[done]
    assert (at["injected"] <= at["ready"]).all() and (at["ready"] <= at["begun"]).all()
    assert (at["begun"] < at["finish"]).all()
    assert ((frames["reason"] > 0) == gone).all()
    sums = found.sums.values[0, 0]
    assert np.array_equal(sums[:, 0], (done | gone).sum(axis=1)) and np.array_equal(sums[:, 1], gone.sum(axis=1))
    assert sums[:, 6].sum() == pytest.approx(at["energy"].sum()) == pytest.approx(found.trace.sum())
    for m, n in zip(*np.nonzero(found.source[:, :, 0] >= 0), strict=True):
        own, source = frames[m], frames[n, found.source[m, n]]
        both = own["status"] == 3
        assert (source["finish"][both] <= own["begun"][both]).all()
        assert not (both & (source["status"] >= 4)).any()
        fell = (own["status"] == 4) & (own["reason"] == 4)
        assert (source["status"][fell] == 4).all()
    pieces = stretches(found)
    for _, own in pieces.groupby("acc"):
        assert (own["start_ms"].to_numpy()[1:] >= own["end_ms"].to_numpy()[:-1] - 1e-9).all()
    for model, places in rule.pins.items():
        if model in found.scenario.models:
            used = frames[found.scenario.models.index(model)]
            assert set(used["part"][used["status"] == 3]) <= set(places)


def test_who_waits_for_the_best_part_never_runs_on_a_worse_one_that_ends_later():
    chosen, prices = tasks(a=50.0, b=50.0), costs({"a": [2.0, 19.0], "b": [3.0, 19.0]})
    parts = {
        rule: set(timeline(run(chosen, machine(2), policy_=rule, conditions=OWN, costs=prices))["acc"])
        for rule in ("published", "wait-for-best")
    }
    assert parts == {"published": {0, 1}, "wait-for-best": {0}}


def test_thrifty_takes_the_part_of_least_energy_that_is_in_time():
    prices = CostTable(
        {("a", "p0"): 1e-3, ("a", "p1"): 9e-3, ("a", "p2"): 90e-3},
        {("a", "p0"): 5e-3, ("a", "p1"): 2e-3, ("a", "p2"): 1e-3},
    )
    found = timeline(run(tasks(a=50.0), machine(3), policy_="thrifty", conditions=OWN, costs=prices))
    assert set(found["acc"]) == {1}


def test_the_dynamic_order_prefers_what_is_urgent_and_gives_up_what_is_lost():
    prices = costs({"slow": [15.0], "tight": [9.0], "lost": [40.0]})
    found = timeline(run(tasks(slow=20.0, tight=50.0, lost=30.0), machine(1), policy_="dynamic", conditions=OWN,
                         costs=prices))  # fmt: skip
    first = found[found["injection_ms"] == 0].set_index("model")
    assert first.loc["lost", "reason"] == "hopeless"
    assert first.loc["tight", "dispatch_ms"] == 0 < first.loc["slow", "dispatch_ms"]
    assert (found["outcome"][found["model"] == "tight"] == "in time").mean() > 0.9


def test_tuned_weights_change_the_run_and_repeat():
    settings_ = {"seeds": [1, 2], "conditions": OWN.replace(horizon=3.0)}
    plain, tuned, again = (
        simulate("AR_Assistant", ["4K-J"], policy_=name, **settings_).sums.values
        for name in ("dynamic", "dynamic-tuned", "dynamic-tuned")
    )
    assert np.array_equal(tuned, again) and not np.array_equal(plain, tuned)


def test_a_newer_frame_takes_the_place_of_one_that_waits():
    sensing = sensors.Sensing.parse(
        {"sensors": {"s": {"rate": 100}}, "feeds": {"a": "s"}, "deadlines": {"a": "200 ms"}}
    )
    rule = {"newest": True, "order": "arrival"}
    found = timeline(run(tasks(a=100.0), machine(1), policy_=rule, conditions=OWN.replace(horizon=0.2), sensors=sensing,
                         costs=costs({"a": [35.0]})))  # fmt: skip
    assert set(found["reason"]) == {"", "superseded"}
    ran = found[
        (found["outcome"] == "in time") & (found["dispatch_ms"] < 200.0)
    ]  # behind the last picture none is newer
    assert (ran["dispatch_ms"] - ran["injection_ms"]).max() < 10.0  # never older than the next picture


def test_frames_that_can_never_begin_do_not_keep_a_run_from_ending():
    # Counted dependencies lag for ever behind a frame that a newer one has replaced.
    rule = {"order": "arrival", "drop": "never", "newest": True}
    for periods in ("whole-ms", "real"):
        conditions = Conditions(in_flight="logged", periods=periods)
        found = run("social_interactionA", "4K-B", policy_=rule, conditions=conditions)
        assert (timeline(found)["outcome"] == "waiting").any()


def test_a_cascade_names_the_frame_that_fell_first():
    chosen = Scenario.parse({"tasks": [{"model": "a", "rate": 20}, {"model": "b", "rate": 20, "after": "a"},
                                       {"model": "c", "rate": 20, "after": "b"}, {"model": "z", "rate": 20}]})  # fmt: skip
    found = run(chosen, machine(1), conditions=OWN, costs=costs({"a": [30.0], "b": [30.0], "c": [1.0], "z": [1.0]}))
    table = timeline(found)
    fell = table[table["reason"] == "cascaded"]
    assert len(fell) > 0 and all(row.ancestor == f"b {row.frame}" for row in fell.itertuples() if row.model == "c")
    why = explain.misses(found)
    assert (why.loc[why["cause"] == "cascade", "root"] != "").all()


# --- shared DRAM ----------------------------------------------------------------------------------------------------


def test_two_parts_that_stream_share_dram_evenly():
    chosen, ms = tasks(a=10.0, b=10.0), np.array([10.0, 10.0])
    streaming = fine_layers(ms, 2, 1, traffic=10e6)  # 1 GB/s each
    rule = {"order": "arrival", "pins": {"a": [0], "b": [1]}}
    for bandwidth, factor in ((2e9, 1.0), (1e9, 2.0), (0.5e9, 4.0)):
        found = timeline(run(chosen, machine(2), policy_=rule, conditions=OWN, work=streaming,
                             memory=work.Memory(bandwidth=bandwidth)))  # fmt: skip
        assert np.allclose(found["completion_ms"] - found["dispatch_ms"], 10.0 * factor)


def test_who_asks_for_little_dram_is_not_slowed():
    chosen, ms = tasks(a=10.0, b=10.0), np.array([10.0, 10.0])
    given_ = fine_layers(ms, 2, 1, traffic=10e6)
    given_ = given_._replace(demand=given_.demand * np.array([0.1, 1.0])[None, :, None, None])
    rule = {"order": "arrival", "pins": {"a": [0], "b": [1]}}
    found = timeline(run(chosen, machine(2), policy_=rule, conditions=OWN, work=given_,
                         memory=work.Memory(bandwidth=0.6e9)))  # fmt: skip
    took = (found["completion_ms"] - found["dispatch_ms"]).groupby(found["model"]).mean()
    # 0.1 of 0.6 GB/s goes to a; b has 0.5 of the 1 GB/s it wants, and all 0.6 once a is done.
    assert took["a"] == pytest.approx(10.0) and took["b"] == pytest.approx(10.0 + 5.0 / 0.6)


def test_layers_add_up_to_models_and_more_dram_bandwidth_is_never_worse():
    chosen, listed = scenario("AR_Assistant"), [systems()[name] for name in ("4K-A", "4K-J")]
    parts = [part for item in listed for part in item.parts]
    latency, energy = LayerModel("grouped").of(chosen.models, parts)
    made = work.layered(chosen, listed, None, OWN, None)
    assert np.allclose(made.rest[0, :, 0, 0], 1e3 * latency[:, 0]) and np.allclose(made.joules[1], 1e3 * energy[:, 1:])
    assert (made.demand == 0).all()
    alone = tasks(SS=4.0)
    took = []
    for bandwidth in (4e9, 16e9, 64e9, 1e12):
        found = run(alone, "4K-A", conditions=OWN, memory=work.Memory(bandwidth=bandwidth))
        took.append(timeline(found)["completion_ms"].iloc[0])
    assert took == sorted(took, reverse=True) and took[0] > 2 * took[-1]


def test_what_models_need_of_memory_is_at_least_their_weights():
    needs = work.memory_needs(scenario("outdoor_activity_A"), systems()["4K-J"])
    assert (needs["dram"] >= needs["weights"]).all() and (needs["fits"] <= 1).all() and (needs["l2_needed"] > 0).all()


# --- sensors --------------------------------------------------------------------------------------------------------


def test_a_perfect_sensor_of_the_models_rate_changes_nothing():
    sensing = sensors.Sensing.parse({"sensors": {"eye": {"rate": 60}, "hand": {"rate": 45}},
                                     "feeds": {"ES": "eye", "HT": "hand"}})  # fmt: skip
    plain = simulate("VR_gaming", SOME, conditions=OWN)
    sensed = simulate("VR_gaming", SOME, conditions=OWN, sensors=sensing)
    assert np.array_equal(plain.sums.values, sensed.sums.values)


def test_models_on_one_sensor_take_its_pictures():
    sensing = sensors.Sensing.parse(
        {"sensors": {"s": {"rate": 60, "jitter": "1 ms", "latency": "3 ms"}}, "feeds": {"a": "s", "b": "s"}}
    )
    found = run(tasks(a=60.0, b=45.0), machine(2), conditions=OWN, sensors=sensing,
                costs=costs({"a": [1.0, 1.0], "b": [1.0, 1.0]}))  # fmt: skip
    of_a, of_b = found.captured[0, 0], found.captured[0, 1]
    assert np.array_equal(of_b[:8], of_a[[0, 1, 2, 4, 5, 6, 8, 9]])
    nominal = np.arange(42) * 1e3 / 60
    assert 0 < np.abs(of_a[:42] - nominal).max() <= 1.0
    frames = found.outcomes()[0, 0]
    assert np.allclose(frames["injected"][0, 1:42], of_a[1:42] + 3.0)
    late = sensors.end_to_end(found).set_index("model")
    assert late.loc["a", "mean_ms"] == pytest.approx(4.0, abs=0.1)


def test_time_from_sensor_to_the_last_model_adds_up_along_the_chain():
    chosen = Scenario.parse({"tasks": [{"model": "a", "rate": 50}, {"model": "b", "rate": 50, "after": "a"},
                                       {"model": "c", "rate": 25, "after": "b"}]})  # fmt: skip
    sensing = sensors.Sensing.parse({"sensors": {"s": {"rate": 50, "latency": "2 ms"}}, "feeds": {"a": "s"}})
    found = run(chosen, machine(1), policy_="edf", conditions=OWN, sensors=sensing,
                costs=costs({"a": [1.0], "b": [3.0], "c": [4.0]}))  # fmt: skip
    told = sensors.end_to_end(found).set_index("model")
    assert told.loc["c", "through"] == "a > b > c"
    assert told["max_ms"].to_dict() == pytest.approx({"a": 3.0, "b": 6.0, "c": 10.0})
    # A display in step with the sensor: the result of 6 ms and 5 ms to draw shows at 20 ms, its middle 10 ms later.
    shown = sensors.motion_to_photon(found, "b", sensors.Display(rate=50.0))
    assert shown["mean_ms"].iloc[0] == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ({"sensors": {"s": {"rate": 60}}, "feeds": {"ES": "cam"}}, "known: s"),
        ({"sensors": {"s": {"rate": 30}}, "feeds": {"ES": "s", "HT": "s"}}, "60 Hz at least"),
        ({"sensors": {"s": {"rate": 60}}, "feeds": {"ES": "s"}}, "needs a sensor"),
    ],
)
def test_sensors_that_do_not_fit_are_named(data, word):
    with pytest.raises(SpecError, match=word):
        simulate("VR_gaming", ["4K-A"], conditions=OWN, sensors=sensors.sensing(data))
    with pytest.raises(SpecError, match="real periods"):
        simulate("VR_gaming", ["4K-A"], sensors=sensors.sensing())


# --- power ----------------------------------------------------------------------------------------------------------


def test_constant_power_heats_by_power_times_resistance():
    carrier = power.headset().replace(static=0.0, idle=0.0)
    assert power.temperature(np.full(50, 3.0), 0.01, carrier) == pytest.approx(np.full(50, 3.0 * carrier.resistance))
    pulse = np.zeros(100)
    pulse[0] = 100.0
    rise = power.temperature(pulse, 10.0, carrier)
    assert rise.argmax() == 0 and rise.mean() < rise[0]
    kept = np.exp(-10.0 / (carrier.resistance * carrier.capacity))
    assert np.allclose(rise[1:], rise[:-1] * kept) and rise[0] == pytest.approx(
        rise[-1] * kept + 100.0 * carrier.resistance * (1 - kept)
    )


def test_power_of_a_part_that_is_always_busy_is_energy_over_time():
    carrier = power.headset(
        {"budget": 12, "battery": "24 Wh", "resistance": 2, "capacity": 50, "rise": 15, "static": 2}
    )
    found = simulate(tasks(a=100.0), [machine(1)], conditions=OWN, costs=costs({"a": [10.0]}, mj=80.0), width=1e-3)
    told = power.summary(found, carrier).iloc[0]
    assert told["accelerator"] == pytest.approx(8.0) and told["mean"] == told["peak"] == pytest.approx(10.0)
    assert told["rise"] == pytest.approx(20.0) and told["hours"] == pytest.approx(2.4) and told["over"] == 0
    # From cold: T = P R (1 - exp(-t / RC)) reaches 15 K of 20 K at RC ln 4.
    assert told["time_to_limit"] == pytest.approx(100 * np.log(4)) and told["mJ_per_frame"] == pytest.approx(80.0)
    with pytest.raises(SpecError, match="width"):
        power.summary(simulate("VR_gaming", ["4K-A"]))


# --- why ------------------------------------------------------------------------------------------------------------


def test_the_terms_of_a_miss_add_up_to_its_time():
    found = run("AR_Assistant", "4K-J", policy_="edf", conditions=OWN)
    why, table = explain.misses(found), timeline(found).set_index(["model", "frame"])
    assert len(why) == (table["outcome"].isin(["late", "dropped"])).sum() > 20
    late = why[why["outcome"] == "late"]
    rows = table.loc[list(zip(late["model"], late["frame"], strict=True))]
    total = late[["input_ms", "blocked_ms", "best_ms", "part_ms", "slowed_ms"]].sum(axis=1)
    assert np.allclose(total, rows["completion_ms"] - rows["injection_ms"], atol=1e-3)
    assert set(why["cause"]) <= set(explain.CAUSES)


def test_a_chain_leads_to_what_began_first():
    chosen, prices = tasks(a=10.0, b=10.0, c=50.0), costs({"a": [30.0], "b": [30.0], "c": [1.0]})
    found = run(chosen, machine(1), conditions=OWN, costs=prices)
    told = explain.blocking_chain(found, "c", 0)
    assert [line.split(" ")[0] for line in told] == ["c", "a"] and "held by a 0" in told[0]
    why = explain.misses(found).set_index(["model", "frame"])
    assert why.loc[("c", 0), "cause"] == "blocked" and why.loc[("c", 0), "blockers"] == "a 0 (20 ms)"
    with pytest.raises(SpecError, match="frame of the run"):
        explain.blocking_chain(found, "c", 99)


def test_a_model_too_slow_for_every_part_is_impossible_not_blocked():
    found = run(tasks(a=50.0), machine(1), conditions=OWN, costs=costs({"a": [21.0]}))
    assert set(explain.misses(found)["cause"]) == {"impossible"}


def test_what_if_is_what_a_run_with_that_change_says():
    base = {"seeds": range(1, 4), "conditions": OWN}
    told = explain.what_if("social_interactionA", "4K-J", faster=0.2, policies=("edf-wait",), **base)
    told = told.set_index("change")
    plain = simulate("social_interactionA", ["4K-J"], **base)
    assert told["score"].iloc[0] == plain.scores().overall.mean()
    assert told.loc["scheduler edf-wait", "score"] == pytest.approx(
        simulate("social_interactionA", ["4K-J"], policy_="edf-wait", **base).scores().overall.mean()
    )
    factor = np.array([0.8 if model.startswith("DR") else 1.0 for model in plain.scenario.models])[None, :, None, None]
    less = plain.work._replace(latency=plain.work.latency * factor, rest=plain.work.rest * factor)
    changed = simulate("social_interactionA", ["4K-J"], work=less, **base)
    assert told.loc["DR_RGBd_200: 20 % less time", "score"] == changed.scores().overall.mean()


# --- policies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "word"),
    [
        ("edff", "did you mean"),
        ({"order": "fifo"}, "order"),
        ({"pins": {"ES": []}}, "pins"),
        ({"pins": {"ES": [7]}}, "0 to 1"),
        (3, "must be a name"),
    ],
)
def test_policies_that_are_none_are_refused(reference, word):
    with pytest.raises(SpecError, match=word):
        simulate("VR_gaming", ["4K-D"], policy_=reference)


def test_interruption_needs_layers():
    with pytest.raises(SpecError, match="cost model of layers"):
        simulate(tasks(a=10.0), [machine(1)], policy_="edf-preempt", costs=costs({"a": [1.0]}))
    with pytest.raises(SpecError, match="keep"):
        timeline(simulate("VR_gaming", ["4K-A"]))
    with pytest.raises(SpecError, match="of 2 systems"):
        simulate("VR_gaming", ["4K-A", "4K-D"], work=runtime.simulate("VR_gaming", ["4K-A"]).work)
