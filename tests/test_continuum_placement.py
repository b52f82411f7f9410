"""The continuum's planner: closed forms, every design against programs, break-even rates, flows, lines and ensembles."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.domains.continuum.breakeven import break_even
from dse.domains.continuum.ensemble import Members, mean_squared_error, optimal_ratio, split
from dse.domains.continuum.flows import Outages, flow, needed_rate, needed_reduction, outage, stores
from dse.domains.continuum.graph import Continuum, Link, Tier, library, load_continuum
from dse.domains.continuum.placement import Placement, blocks, place, plan, solve
from dse.domains.continuum.price import MAXIMISED, METRICS, Model
from dse.domains.continuum.queueing import simulate
from dse.errors import InfeasibleDesign, SpecError
from dse.simulate.serving import mean_wait
from dse.spec.catalogue import asset_root
from dse.spec.load import read_yaml

TOP = 1e12


def chain(**changes: Any) -> Continuum:
    """Cameras at two nodes, a detector at the node or behind a link of 1 MB/s, a report where the blade is."""
    data: dict[str, Any] = {
        "tiers": [
            {"id": "node", "sites": 2, "rate": TOP, "efficiency": 0.5, "memory": 4e9, "storage": 1e9, "idle_power": 4,
             "busy_power": 10},
            {"id": "blade", "rate": 20 * TOP, "efficiency": 0.5, "memory": 16e9, "idle_power": 50, "busy_power": 150,
             "price": 1e-4},
        ],
        "links": [{"id": "up", "ends": ["node", "blade"], "count": 2, "rate": 1e6, "round_trip": 0.04, "power": 2.0}],
        "stages": [
            {"name": "camera", "kind": "sense", "copies": 2, "cadence": [10.0], "tiers": ["node"],
             "variants": [{"output": 2e6}]},
            {"name": "detect", "kind": "infer", "after": ["camera"],
             "variants": [{"work": 1e11, "output": 1e4, "passes": 0.1}]},
            {"name": "report", "kind": "distribute", "after": ["detect"], "tiers": ["blade"]},
        ],
    }  # fmt: skip
    return Continuum.parse({**data, **changes})


def test_times_loads_and_power_by_hand() -> None:
    """Each number of two placements is what a person computes."""
    near, far = place(chain(), {"detect": "node"}), place(chain(), {"detect": "blade"})
    assert near.metrics["time_to_insight"] == pytest.approx(5 + 1e11 / 0.5e12 + 1e4 / 1e6 + 0.02)
    assert far.metrics["time_to_insight"] == pytest.approx(5 + 2e6 / 1e6 + 0.02 + 1e11 / 10e12)
    assert near.metrics["traffic"] == pytest.approx(0.2 * 0.1 * 1e4)
    assert far.metrics["traffic"] == pytest.approx(0.2 * 2e6)
    sending = 2.0 * (0.2 * 2e6 / 1e6) / 2
    assert far.metrics["node_power"] == pytest.approx(4 + sending)
    assert near.metrics["node_power"] == pytest.approx(4 + 6 * 0.1 * 0.2 + 2.0 * (0.2 * 0.1 * 1e4 / 1e6) / 2)
    assert far.metrics["dollars"] == pytest.approx(0.2 * 0.01 * 1e-4 * 30 * 86400)
    assert far.metrics["energy"] == pytest.approx((2 * (4 + sending) + 50 + 100 * 0.2 * 0.01) * 30 * 86400)
    assert far.links()["busy"].tolist() == pytest.approx([0.2])
    never = place(chain().with_stage("report", gather=3), {"detect": "node"}, passes={"detect": 0.0})
    assert never.metrics["time_to_insight"] == near.metrics["time_to_insight"] and never.metrics["traffic"] == 0
    assert place(chain().with_link("up", availability=0.9), {"detect": "blade"}).availability == pytest.approx(0.9)
    assert far.feasible and far.summary()["choices"]["detect"]["tier"] == "blade"


def test_gathering_holding_and_joining_by_hand() -> None:
    """A stage that gathers waits for the others; one that holds sends less; a join waits for the later input."""
    stages = [
        {"name": "a", "kind": "sense", "cadence": [4.0], "copies": 2, "tiers": ["node"],
         "variants": [{"output": 100.0}]},
        {"name": "fast", "kind": "filter", "after": ["a"], "tiers": ["node"], "gather": 5, "hold": 10.0},
        {"name": "slow", "kind": "infer", "after": ["a"], "tiers": ["node"], "variants": [{"work": 1e12}]},
        {"name": "join", "kind": "assimilate", "after": ["fast", "slow"], "tiers": ["node"]},
    ]  # fmt: skip
    found = place(chain(stages=stages), {})
    assert [float(x) for x in found.priced.done] == pytest.approx([2, 2 + 4 / 2 / 0.5, 4, 6])
    assert [float(x) for x in found.priced.runs] == pytest.approx([0.5, 0.1, 0.5, 0.1 / (1 + 0.1 * 10)])
    assert [float(x) for x in found.priced.sent] == pytest.approx([100, 500, 100, 500])


def test_every_rule_is_told() -> None:
    """Each rule that a design breaks is named with its numbers."""
    tight = chain(budget=1e-6, min_fidelity=0.5)
    tight = tight.with_tier("node", power_limit=4.0, memory=1.0).with_link("up", rate=1e4)
    tight = tight.with_stage(
        "detect", deadline=1.0, nodes=(2,), variants=[{"work": 9e12, "output": 2e6, "memory": 9.0}]
    )
    near, far = place(tight, {"detect": "node"}).reasons, place(tight, {"detect": "blade"}).reasons
    for word in ("power of a site", "memory of a node", "busy nodes", "end of detect", "nodes of a run", "busy links"):
        assert any(word in reason for reason in near), (word, near)
    assert any("dollars" in reason for reason in far)
    assert "of at most" in near[0]
    blurred = chain(min_fidelity=0.5).with_stage("detect", reductions=(1, 100), reduction_loss=0.5)
    assert place(blurred, {"detect": {"reduction": 100}}).reasons == ["fidelity: 0.1 of at least 0.5"]
    apart = place(chain(links=[]), {"detect": "blade"})
    assert apart.reasons == ["no link leads from one stage's tier to the next"]
    for method in ("exhaustive", "milp"):
        with pytest.raises(InfeasibleDesign, match="none of the 2 designs obeys every rule"):
            plan(tight, method=method)


def random_graph(seed: int) -> Continuum:
    """A small graph of three tiers with choices of every kind, and now and then a rule that binds."""
    rng = np.random.default_rng(seed)
    tiers = [
        {"id": f"t{i}", "sites": int(rng.integers(1, 4)), "nodes": int(rng.integers(1, 4)), "memory": 10.0,
         "rate": float(rng.uniform(1, 9)) * 10**i, "idle_power": float(rng.uniform(0, 2)),
         "busy_power": float(rng.uniform(2, 9)), "price": float(rng.uniform(0, 2)), "metered": bool(rng.random() < 0.5),
         "wait": float(rng.uniform(0, 1)), "power_limit": float(rng.uniform(5, 30)) if rng.random() < 0.4 else None}
        for i in range(3)
    ]  # fmt: skip
    links = [
        {"id": f"k{i}", "ends": [f"t{i}", f"t{i + 1}"], "rate": float(rng.uniform(5, 200)), "price": float(rng.random()),
         "round_trip": float(rng.random()), "energy_per_byte": float(rng.random()), "power": float(rng.random())}
        for i in range(2)
    ]  # fmt: skip
    stages: list[dict[str, Any]] = [
        {"name": "s0", "kind": "sense", "cadence": [5.0, 20.0], "copies": 2, "tiers": ["t0"],
         "variants": [{"output": float(rng.uniform(10, 200))}]}
    ]  # fmt: skip
    for n in range(1, 4):
        before = [f"s{p}" for p in rng.permutation(n)[: 2 if n == 3 else 1]]
        variants = [
            {"name": f"v{v}", "work": float(rng.uniform(1, 30)), "memory": float(rng.uniform(0, 7)),
             "output": float(rng.uniform(1, 50)) if rng.random() < 0.7 else None, "passes": float(rng.uniform(0.2, 1)),
             "fidelity": float(rng.uniform(0.5, 1))}
            for v in range(2)
        ]  # fmt: skip
        stages.append(
            {"name": f"s{n}", "kind": "infer", "after": before, "variants": variants, "nodes": [1, 2] if n == 1 else [1],
             "reductions": [1.0, 4.0] if n == 2 else [1.0], "reduction_loss": 0.1, "gather": 1 + (n == 3),
             "hold": float(n == 2), "deadline": float(rng.uniform(15, 60)) if rng.random() < 0.4 else None}
        )  # fmt: skip
    rules = {"min_fidelity": (0.3, 0.0, 0.0, 0.95)[seed % 4], "horizon": 100.0}
    return Continuum.parse({"tiers": tiers, "links": links, "stages": stages, **rules})


@pytest.mark.parametrize("seed", range(14))
def test_programs_agree_with_every_design(seed: int) -> None:
    """The optimum of a program is that of pricing all designs, for several metrics and with a bound; so is none."""
    graph = random_graph(seed)
    try:
        ideal = {name: solve(graph, name, method="exhaustive").metrics[name] for name in METRICS}
    except InfeasibleDesign:
        with pytest.raises(InfeasibleDesign):
            solve(graph, "dollars", method="milp")
        return
    for name in itertools.islice(itertools.cycle(METRICS), seed % len(METRICS), seed % len(METRICS) + 3):
        found = solve(graph, name, method="milp")
        assert found.feasible, found.reasons
        assert found.metrics[name] == pytest.approx(ideal[name], rel=2e-6, abs=1e-9)
    worst = solve(graph, "time_to_insight").metrics["dollars"]
    bounds = {"dollars": (ideal["dollars"] + worst) / 2}
    exact, program = (solve(graph, "time_to_insight", bounds, method=m) for m in ("exhaustive", "milp"))
    assert program.metrics["time_to_insight"] == pytest.approx(exact.metrics["time_to_insight"], rel=2e-6)


def test_random_graphs_try_both_answers() -> None:
    """Of the random graphs some have a design that obeys all rules and some have none."""
    found = set()
    for seed in range(14):
        model = Model.of(random_graph(seed))
        grids = list(np.ix_(*(np.arange(len(option)) for option in model.options)))
        found.add(bool(np.any(model.price(grids).feasible())))
    assert found == {True, False}


def test_a_front_is_what_no_design_beats() -> None:
    """Every design of a small graph is beaten or matched by the front, no design of the front by another."""
    graph, names = random_graph(1), ("time_to_insight", "dollars", "fidelity")
    found = plan(graph, names)
    model = found.model
    picks = np.array(list(itertools.product(*(range(len(option)) for option in model.options))))
    priced = model.price(list(picks.T))
    sign = np.array([-1.0 if name in MAXIMISED else 1.0 for name in names])
    every = np.stack([np.broadcast_to(priced.metrics[n], len(picks)) for n in names], axis=1) * sign
    every = every[np.broadcast_to(priced.feasible(), len(picks))]
    front = np.stack([found.metrics[n] for n in names], axis=1) * sign
    assert found.counts == {"designs": len(picks), "feasible": len(every)}
    assert all((np.all(front <= row + 1e-12, axis=1)).any() for row in every)
    for i, row in enumerate(front):
        rest = np.delete(front, i, axis=0)
        assert not (np.all(rest <= row, axis=1) & np.any(rest < row, axis=1)).any()
    for name in names:
        best = found.best(name)
        assert best.metrics[name] * (-1 if name in MAXIMISED else 1) == pytest.approx(every[:, names.index(name)].min())
    assert len(found.table()) == len(found)
    by_programs = plan(graph, names[:2], method="milp")
    exact = plan(graph, names[:2])
    reached = {tuple(np.round(row, 4)) for row in np.stack([exact.metrics[n] for n in names[:2]], axis=1)}
    assert {tuple(np.round(row, 4)) for row in np.stack([by_programs.metrics[n] for n in names[:2]], axis=1)} <= reached


def test_a_front_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Priced in hundreds of small blocks, a space has the same front and the same counts."""
    graph, names = random_graph(1), ("time_to_insight", "dollars", "fidelity")
    whole = plan(graph, names)
    monkeypatch.setattr("dse.domains.continuum.placement.BLOCK", 20)
    parts = plan(graph, names)
    assert parts.picks.tolist() == whole.picks.tolist()
    assert (parts.counts, parts.broken) == (whole.counts, whole.broken)


def test_blocks_cover_a_space_once() -> None:
    """Blocks of a large space hold every design exactly once."""
    shape = (3, 40, 50, 60)
    size = sum(int(np.prod([g.size for g in grids])) for grids in blocks(shape))
    assert size == np.prod(shape)
    assert len(list(blocks(shape))) == 3


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(1.1, 50))
def test_more_is_never_worse(seed: int, factor: float) -> None:
    """A faster link shortens all times and breaks no rule; more of what triggers never lessens the traffic."""
    graph = random_graph(seed)
    picks = [int(p) for p in np.random.default_rng(seed).integers(0, [len(o) for o in Model.of(graph).options])]
    base = Model.of(graph).price(picks)
    fast = Model.of(graph, link_rate={k.id: k.rate * factor for k in graph.links}).price(picks)
    assert fast.metrics["time_to_insight"] <= base.metrics["time_to_insight"] * (1 + 1e-12)
    assert not base.feasible() or fast.feasible()
    eager = Model.of(graph, passes={"s1": 1.0}).price(picks)
    assert eager.metrics["traffic"] >= base.metrics["traffic"] * (1 - 1e-12)


def test_pricing_on_axes_is_pricing_one_by_one() -> None:
    """A grid of designs, with link rates and triggers as further axes, equals a loop."""
    graph = random_graph(3)
    rates, passes = np.array([7.0, 70.0]).reshape(2, 1, 1, 1, 1, 1), np.array([0.1, 0.9]).reshape(2, 1, 1, 1, 1)
    grids = list(np.ix_(*(np.arange(len(o)) for o in Model.of(graph).options)))
    whole = Model.of(graph, link_rate={"k0": rates}, passes={"s1": passes}).price(grids)
    shape = np.broadcast_shapes(*(np.shape(v) for v in whole.metrics.values()))
    rng = np.random.default_rng(0)
    for _ in range(20):
        at = tuple(int(rng.integers(n)) for n in shape)
        given = {"link_rate": {"k0": rates.ravel()[at[0]]}, "passes": {"s1": passes.ravel()[at[1]]}}
        one = Model.of(graph, **given).price(at[2:])
        for name in METRICS:
            assert np.broadcast_to(whole.metrics[name], shape)[at] == pytest.approx(float(one.metrics[name]))
        assert np.broadcast_to(whole.feasible(), shape)[at] == one.feasible()


def test_break_even_rates_are_those_of_the_closed_forms() -> None:
    """Time: what more is sent over what is computed sooner. Power: the radio against the processor."""
    graph = chain()
    found = break_even(graph, "detect", "up", rates=np.geomspace(1e6, 1e9, 31))
    seconds = 1e11 / 0.5e12 - 1e11 / 10e12
    assert found.flips[["from", "to", "why"]].values.tolist() == [["node", "blade", "value"]]
    assert found.flips["rate"][0] == pytest.approx((2e6 - 1e4) / seconds, rel=1e-9)
    power = break_even(graph, "detect", "up", objective="node_power", rates=np.geomspace(1e6, 1e9, 31))
    assert power.flips["rate"][0] == pytest.approx(2.0 * (2e6 - 0.1 * 1e4) / (6 * 0.2), rel=1e-9)


def test_break_even_over_triggers_and_rules() -> None:
    """The more triggers, the less a node saves by inferring; below the rate of the frames only it can."""
    passes = [1e-3, 0.1, 1.0]
    graph = chain().with_stage("detect", variants=[{"work": 1e11, "output": 1e6, "passes": 0.1}])
    found = break_even(graph, "detect", "up", objective="node_power", rates=np.geomspace(1e3, 1e9, 61), passes=passes)
    changes = found.flips[found.flips["from"] == "node"]
    assert np.all(np.diff(changes["rate"]) < 0) and len(changes) == 3
    # Two megabytes in ten seconds, of 0.8 of a link's time.
    few = break_even(graph, "detect", "up", rates=np.geomspace(1e3, 1e9, 61), passes=[1e-3])
    value = few.value[:, 0, :]
    assert np.array_equal(np.isinf(value[1]), few.rates < 2e6 / 10 / 0.8)
    assert few.table()["belongs"].tolist()[0] == "node" and few.table()["belongs"].tolist()[-1] == "blade"
    silent = chain().with_link("up", power=0.0)  # sending is free: only the link's rate speaks for the node
    limited = break_even(silent, "detect", "up", objective="node_power", rates=np.geomspace(1e3, 1e9, 61))
    assert limited.flips["why"].tolist() == ["busy links of up: node to blade"]
    assert limited.flips["rate"][0] == pytest.approx(2e6 / 10 / 0.8)
    for bad in ({"stage": "detct"}, {"link": "down"}, {"tiers": ("node",)}, {"rates": (2.0, 1.0)}):
        with pytest.raises(SpecError):
            break_even(graph, **{"stage": "detect", "link": "up"} | bad)


def test_the_smoke_camera() -> None:
    """The worked graph: exhaustive, feasible, and the node's detector flips at a link rate (C5)."""
    graph = load_continuum("smoke-camera")
    found = plan(graph)
    assert found.method == "exhaustive" and found.counts["feasible"] > 0 and found.broken
    best = found.best("time_to_insight")
    assert best.feasible and simulate(best, 1000).insight()["items"] >= 0
    program = solve(graph, method="milp")
    assert program.metrics["time_to_insight"] == pytest.approx(best.metrics["time_to_insight"], rel=1e-6)
    only = graph.with_stage("detect", variants=[graph.stages[2].variants[2].model_dump()])
    flips = break_even(only, "detect", "uplink", objective="node_power", free=("compress",)).flips
    # The modem's 2.5 W for a compressed frame, less what the node would send, against 10 W for 700 GFLOP at 4.2 TFLOP/s.
    frame = 6.2208e6 / 40
    assert flips["to"].tolist() == ["blade"]
    assert flips["rate"][0] == pytest.approx(2.5 * (frame - 1e-3 * 400e3) / (10 * 700 / 4200), rel=1e-9)


def test_the_library_states_its_sources() -> None:
    """Every tier and link of the library loads, alone or changed, and names a source for each number."""
    for folder, cls in (("tiers", Tier), ("links", Link)):
        for name in library(folder):
            data, lines = read_yaml(asset_root("data") / "continuum" / folder / f"{name}.yaml")
            extra = {"ends": ["a", "b"]} if cls is Link else {}
            entry = cls.parse({**data, **extra}, where=name, lines=lines)
            assert entry.id == name
            numbers = [key for key in data if key not in ("id", "name", "sources")]
            assert all(entry.source_of(key) for key in numbers), name
    graph = load_continuum("smoke-camera")
    assert graph.tiers[0].source_of("sites").title == "given in the graph"
    assert Continuum.parse(graph.to_plain()) == graph


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"stages": [{"name": "a", "kind": "sense"}]}, "give either after or"),
        ({"tiers": ["xavier"]}, "did you mean 'xavier-nx'"),
        ({"edge": "nod"}, "did you mean 'node'"),
        ({"links": [{"id": "x", "ends": ["node", "sky"], "rate": 1.0}]}, "must be one of node, blade"),
        ({"max_utilisation": 2}, "less than or equal to 1"),
    ],
)
def test_faults_name_the_field(change: dict[str, Any], match: str) -> None:
    with pytest.raises(SpecError, match=match):
        chain(**change)


def test_more_faults(tmp_path: Any) -> None:
    circle = [{"name": n, "kind": "infer", "after": [m]} for n, m in (("a", "b"), ("b", "a"))]
    with pytest.raises(SpecError, match="circle"):
        chain(stages=circle)
    for curve in ({"tier": "node", "nodes": [1, 1], "times": [1, 2]}, {"tier": "node", "nodes": [1]}):
        with pytest.raises(SpecError, match="curve"):
            chain().with_stage("detect", curves=[curve])
    file = tmp_path / "mine.yaml"
    file.write_text("tiers: [{base: xavier-nx, sites: 3}]\nstages:\n  - {name: eye, kind: sense, cadence: [10]}\n")
    with pytest.raises(SpecError, match=r"mine\.yaml:3.*needs a unit"):
        load_continuum(file)
    plain = chain().to_plain()
    junk = [plain | {field: value} for field in plain if field != "name" for value in (-1, [None], [{"base": 3}], {})]
    for bad in ("nowhere", 3, "none.yaml", {}, *junk):
        with pytest.raises(SpecError):
            load_continuum(bad)
    for call in (
        lambda: plan(chain(), ("speed",)), lambda: plan(chain(), method="luck"), lambda: place(chain(), {"detct": "node"}),
        lambda: place(chain(), {"detect": "moon"}), lambda: Model.of(chain(), link_rate={"up": 0.0}),
        lambda: Model.of(chain(), passes={"detect": 1.5}), lambda: chain().with_link("down", rate=1.0),
    ):  # fmt: skip
        with pytest.raises(SpecError):
            call()
    with pytest.raises(InfeasibleDesign, match="no design that obeys every rule reaches dollars"):
        solve(chain(), "time_to_insight", {"dollars": -1.0})


def test_curves_replace_work() -> None:
    """Measured times go by node count; speeds by what is simulated."""
    curve = {"tier": "blade", "nodes": [1, 4], "speeds": [10.0, 20.0], "span": 100.0}
    graph = chain().with_tier("blade", nodes=4).with_stage("detect", tiers=("blade",), curves=[curve])
    times = Model.of(graph).options[1].time
    assert times.tolist() == [10.0, 5.0]
    assert place(graph, {"detect": {"nodes": 4}}).priced.tier_load[1] == pytest.approx(0.2 * 5 * 4)


def test_forecasts_are_curves() -> None:
    """Speeds of a simulation on sizes that may not have been run; a machine without enough runs is refused."""

    def graph(machine: str, nodes: list[int], end: str = "median") -> Continuum:
        scaling = {"machine": machine, "end": end}
        curve = {"tier": "blade", "nodes": nodes, "span": 86400.0, "scaling": scaling}
        return chain().with_tier("blade", nodes=9000).with_stage("detect", tiers=("blade",), curves=[curve])

    median, slow = (Model.of(graph("Frontier", [1024, 6000], end)).options[1].time for end in ("median", "low"))
    assert median[0] > median[1] > 0 and np.all(slow > median)
    assert 86400 / median[0] == pytest.approx(103.7, rel=0.2)  # simulated days a day, measured on 1,024 nodes
    with pytest.raises(SpecError, match="not enough data"):
        Model.of(graph("Perlmutter-CPU", [512]))


# Flows


def test_the_archive_of_a_decade() -> None:
    """C6: 1.05 TB a day, the mean of 2016 to 2022 of ARM's archive, needs 97 Mb/s; with outages and reduction by hand."""
    assert needed_rate(1.05e12) * 8 / 1e6 == pytest.approx(97.2, abs=0.05)
    per_day = (3300e12 - 1000e12) / (6 * 365.25)
    assert per_day / 1e12 == pytest.approx(1.05, abs=0.005)
    assert needed_rate(1.05e12, reduction=10, availability=0.9) == pytest.approx(needed_rate(1.05e12) / 9)
    assert needed_reduction([1e6, 9e6], 3e6, availability=0.5).tolist() == [1.0, 6.0]


def test_one_outage_by_hand_and_played() -> None:
    """Backlog and recovery of one outage, and the same flow played."""
    told = outage(2e6, 5e6, 600.0)
    assert told == {"backlog": 1.2e9, "recovery": pytest.approx(400.0), "delay": 600.0}
    played = flow(2e6, 5e6, 3600.0, outages=[(1000.0, 1600.0)])
    assert played.peak == told["backlog"] and played.lost == 0 and played.left == 0
    assert played.mean * 3600 == pytest.approx(1.2e9 * (600 + 400) / 2)
    small = flow(2e6, 5e6, 3600.0, buffer=np.array([0.5e9, 1e9, 2e9]), outages=[(1000.0, 1600.0)])
    assert small.lost.tolist() == [0.7e9, 0.2e9, 0.0]
    with pytest.raises(SpecError, match="never recovers"):
        outage(5e6, 5e6, 1.0)


@settings(max_examples=40, deadline=None)
@given(
    st.floats(0, 10), st.floats(0, 10), st.floats(0, 50),
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 30)), max_size=4), st.floats(0, 3),
)  # fmt: skip
def test_no_byte_appears_or_vanishes(rate: float, link: float, buffer: float, downs: Any, burst: float) -> None:
    """What arrives is sent, lost or left; the buffer holds no more than it can."""
    windows = [(a, a + b) for a, b in downs]
    found = flow(rate, link, 80.0, buffer=buffer, outages=windows, changes=[(30.0, burst)])
    assert found.arrived == pytest.approx(found.sent + found.lost + found.left, abs=1e-9)
    assert found.arrived == pytest.approx(rate * 30 + rate * burst * 50)
    assert 0 <= found.left <= found.peak <= buffer + 1e-12
    assert -1e-9 <= found.sent <= link * 80 + 1e-9


def test_random_outages_agree_with_their_closed_form() -> None:
    """Mean delay and the chance of a backlog, of 10,000 outages."""
    link = Outages(between=100.0, length=20.0)
    span = 10_000 * 120.0
    windows = link.windows(span, seed=2)
    played = flow(1.0, 2.0, span, outages=windows)
    assert played.delay == pytest.approx(link.mean_delay(1.0, 2.0), rel=0.06)
    size = link.buffer(1.0, 2.0, 0.05)
    assert link.chance(size, 1.0, 2.0) == pytest.approx(0.05)
    grid = np.arange(0.0, span, 7.0)
    above = played.at(grid) > size
    assert above.mean() == pytest.approx(0.05, rel=0.1)
    with pytest.raises(SpecError, match="grows for ever"):
        link.buffer(1.0, 1.1, 0.1)


def test_stores_of_a_placement() -> None:
    """Frames that wait at a node while its link is down: backlog against storage."""
    table = stores(place(chain(), {"detect": "blade"}), 3600.0)
    assert table["backlog"].tolist() == pytest.approx([2e5 * 3600])
    assert table["lasts"].tolist() == pytest.approx([1e9 / 2e5]) and table["fits"].all()
    assert not stores(place(chain(), {"detect": "blade"}), 6000.0)["fits"].any()


# Lines


def single(load: float, sites: int = 1, nodes: int = 1) -> Placement:
    """One stage on one tier, busy for a share of the time."""
    stages = [
        {"name": "eye", "kind": "sense", "cadence": [1.0], "tiers": ["box"], "variants": [{"output": 0.0}]},
        {"name": "work", "kind": "infer", "after": ["eye"], "tiers": ["box"], "variants": [{"work": load}]},
    ]
    tier = {"id": "box", "rate": 1.0, "efficiency": 1.0, "memory": 1.0, "sites": sites, "nodes": nodes}
    return place({"tiers": [tier], "stages": stages, "max_utilisation": 1.0}, {})


@pytest.mark.parametrize(
    ("service", "variation", "nodes"), [("exponential", 1.0, 1), ("constant", 0.0, 1), ("exponential", 1.0, 3)]
)
def test_waits_are_those_of_the_closed_forms(service: Any, variation: float, nodes: int) -> None:
    """M/M/1, M/D/1 and M/M/3: the mean wait of Poisson arrivals."""
    time = 0.7 * nodes
    played = simulate(single(time, nodes=nodes), 200_000, arrivals="poisson", service=service, seed=4)
    assert played.waits["work"].mean() == pytest.approx(mean_wait(1.0, time, nodes, variation), rel=0.06)
    assert played.since_capture["work"].mean() - played.waits["work"].mean() == pytest.approx(time, rel=0.01)


def test_without_load_time_is_that_of_the_plan() -> None:
    """Items far apart take, from capture to insight, what the plan says, with links, a batch queue and gathering."""
    graph = chain().with_tier("blade", wait=3.0).with_stage("report", gather=1)
    for tier in ("node", "blade"):
        found = place(graph, {"detect": tier, "camera": {"cadence": 10.0}}, passes={"detect": 1.0})
        played = simulate(found, 40, seed=1)
        expected = float(found.priced.done[2]) - 5.0
        assert played.since_capture["report"] == pytest.approx(expected, abs=1e-9)
        assert played.insight()["items"] == 40
    gathered = place(
        chain().with_stage("camera", copies=1).with_stage("report", gather=4),
        {"detect": "node"},
        passes={"detect": 1.0},
    )
    mean = simulate(gathered, 8000, seed=3).insight()["mean"]
    assert mean == pytest.approx(gathered.metrics["time_to_insight"], rel=0.02)


def test_lines_grow_with_load_and_triggers_thin_them() -> None:
    """Tandem stages share a tier's node; p95 is above the mean; the share that goes on is the probability."""
    graph = chain().with_stage("detect", tiers=("node",), variants=[{"work": 4e12, "output": 1e4, "passes": 0.1}])
    calm, busy = (
        simulate(place(graph.with_stage("camera", cadence=(c,)), {}), 4000, arrivals="poisson", seed=5).table()
        for c in (80.0, 10.0)
    )
    assert busy["wait"][1] > calm["wait"][1] > 0
    assert busy["runs"][2] == pytest.approx(400, rel=0.2)
    assert busy["p95"][1] > busy["mean"][1] > busy["unloaded"][1]
    held = simulate(place(graph.with_stage("detect", hold=1e9), {}), 1000, seed=5)
    assert len(held.since_capture["report"]) == 1
    with pytest.raises(SpecError):
        simulate(single(0.5), 0)


# Ensembles


def test_errors_of_estimators_are_those_of_drawn_ensembles() -> None:
    """Mean and spread of physics, emulator and both, against 4,000 drawn ensembles."""
    members = Members(physics_cost=10, emulator_cost=1, deviation=2.0, correlation=0.8, bias=0.5, spread_bias=0.7)
    n, m, rng = 8, 40, np.random.default_rng(0)
    physics = rng.normal(0, 2.0, (4000, n))
    extra = rng.normal(0, 2.0, (4000, m))
    emulator = extra.copy()
    emulator[:, :n] = 0.8 * physics + 0.6 * extra[:, :n]
    drawn = [
        physics.mean(1),
        emulator.mean(1) + 0.5,
        physics.mean(1) + 0.8 * (emulator.mean(1) - emulator[:, :n].mean(1)),
    ]
    told = mean_squared_error(members, n, m)
    assert told == pytest.approx([(d**2).mean() for d in drawn], rel=0.08)
    spread = [physics.var(1, ddof=1), emulator.var(1, ddof=1) + 0.7]
    told = mean_squared_error(members, n, m, "spread")
    assert told[:2] == pytest.approx([((d - 4) ** 2).mean() for d in spread], rel=0.08)
    corrected = spread[0] + 0.64 * (emulator.var(1, ddof=1) - emulator[:, :n].var(1, ddof=1))
    assert told[2] == pytest.approx(((corrected - 4) ** 2).mean(), rel=0.08)


@settings(max_examples=40, deadline=None)
@given(st.floats(-0.99, 0.99), st.floats(0.001, 1), st.floats(0, 2), st.floats(0.5, 400))
def test_splits_are_the_best_there_are(correlation: float, cost: float, bias: float, budget: float) -> None:
    """No other split that the budget buys has a smaller error."""
    members = Members(physics_cost=1, emulator_cost=cost, correlation=correlation, bias=bias)
    found = split(members, budget)
    most = int(min(budget, 400))
    n = np.arange(most + 1)
    m = np.floor((budget - n) / cost * (1 + 1e-12))
    best = np.sqrt(mean_squared_error(members, n, np.maximum(m, 0)).min(initial=np.inf))
    assert found.error[0] == pytest.approx(best, rel=1e-9) or (np.isinf(best) and np.isinf(found.error[0]))
    assert found.spent[0] <= budget * (1 + 1e-9)


def test_which_estimator_wins() -> None:
    """A biased emulator alone wins while the budget is small; an unbiased one always; the ratio is the known one."""
    members = Members(physics_cost=100, emulator_cost=1, correlation=0.9, bias=0.2)
    table = split(members, [0.5, 50, 150, 1e5]).table()
    assert table["estimator"].tolist() == ["none", "emulator", "emulator", "both"]
    assert table["physics"][3] > 0 and table["emulator"][3] / table["physics"][3] == pytest.approx(
        np.sqrt(100 * 0.81 / 0.19), rel=0.01
    )
    assert optimal_ratio(members) == pytest.approx(np.sqrt(100 * 0.81 / 0.19))
    assert split(members.replace(correlation=0.0), 1e5).table()["error.both"][0] >= 0.0316
    assert np.all(np.diff(split(members, np.geomspace(100, 1e6, 40)).error) <= 1e-12)
    for bad in ({"budget": 0.0}, {"budget": 1.0, "statistic": "median"}):
        with pytest.raises(SpecError):
            split(members, **bad)
