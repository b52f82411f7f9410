"""Goodput: closed forms, an event-driven simulation, published runs, and what must hold."""

from __future__ import annotations

import heapq
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import lambertw
from test_specs import specs

import dse
from dse.cost import goodput as model
from dse.errors import SpecError
from dse.explore.evaluate import load_specs, price
from dse.spec.hardware import Cluster, Reliability
from dse.study.study import run_study

quick = settings(deadline=None, derandomize=True, max_examples=60)
DAY = 86400.0
PLAN = {"tp": 8, "pp": 16, "global_batch": 2048, "zero_stage": 1, "sequence_parallel": True, "recompute": "full"}
MEGASCALE = {"detection": 600.0, "restart": 300.0}  # the bounds of its section 6.3: 10 min to find, 15 min in all
CLUSTER = dse.load_cluster("dgx-h100")


def shares(rate: float, work: float, write: float, lag: float, restart: float, waiting: float = 0.0, **r: float) -> Any:
    """The model's shares of wall time, without planned maintenance."""
    cluster = SimpleNamespace(reliability=Reliability(maintenance_interval=0.0, **r))
    return model.goodput_shares.function(rate, work, write, lag, restart, waiting, cluster)


def estimate(devices: int = 16384, name: str = "llama3.1-405b", cluster: Any = CLUSTER, **reliability: Any) -> Any:
    changed = cluster.replace(reliability={**cluster.reliability.model_dump(), **reliability})
    return dse.estimate(name, changed, PLAN, devices=devices)


# -- an event-driven simulation -----------------------------------------------------------------------------


def simulate(rate: float, work: float, write: float, lag: float, down: float, restart: float, *, failures: int,
             node_share: float = 0.0, repair: float = 0.0, spares: int = 0, steady_repair: bool = False,
             seed: int = 1) -> dict[str, float]:  # fmt: skip
    """Play a job phase by phase (train, write, flush, fail, find, wait, restart) and count where its time goes."""
    rng = np.random.default_rng(seed)
    lifetimes, coins = iter(rng.exponential(1 / rate, 3 * failures)), iter(rng.random(3 * failures))
    repairs = iter(np.full(3 * failures, repair) if steady_repair else rng.exponential(repair, 3 * failures))
    spent = dict.fromkeys(("useful", "checkpoint", "rework", "down", "waiting"), 0.0)
    in_repair: list[float] = []
    now, count = 0.0, 0

    def fail() -> None:
        nonlocal now, count
        count += 1
        if next(coins) < node_share:
            heapq.heappush(in_repair, now + next(repairs))
        now += down
        spent["down"] += down
        while in_repair and in_repair[0] <= now:
            heapq.heappop(in_repair)
        while len(in_repair) > spares:
            back = heapq.heappop(in_repair)
            spent["waiting"] += back - now
            now = back

    while count < failures:
        death, pending, since = now + next(lifetimes), [], 0.0  # copies on their way; time since the last safe one
        while now < death:
            for length in (work, write):
                end = min(now + length, death)
                while pending and pending[0] <= end:
                    pending.pop(0)
                    spent["useful"] += work
                    spent["checkpoint"] += write
                    since -= work + write
                since += end - now
                now = end
            pending.append(now + lag)
        spent["rework"] += since
        fail()
        while True:  # restarts may fail like anything else
            life = next(lifetimes)
            now += min(life, restart)
            spent["down"] += min(life, restart)
            if life >= restart:
                break
            fail()
    return {name: value / now for name, value in spent.items()} | {"rate": count / now}


@pytest.mark.parametrize(("write", "lag", "restart"), [(20.0, 0.0, 0.0), (5.0, 90.0, 50.0), (60.0, 0.0, 300.0)])
def test_a_simulation_spends_the_same_time(write: float, lag: float, restart: float) -> None:
    """Played event by event, a job spends its time as the closed form says, restarts that fail and slow copies too."""
    rate, work, down = 1e-3, 150.0, 40.0
    played = simulate(rate, work, write, lag, down, restart, failures=30_000)
    expected = shares(rate, work, write, lag, restart, detection=down)
    for name, value in expected.items():
        assert played.get(name, 0.0) == pytest.approx(value, abs=0.006), name
    assert played["rate"] == pytest.approx(rate / (1 + rate * down), rel=0.02)


@pytest.mark.parametrize("steady", [False, True])
@pytest.mark.parametrize(("spares", "repair"), [(0, 1000.0), (2, 3000.0), (5, 3000.0)])
def test_spares_run_out_as_often_as_simulated(spares: int, repair: float, steady: bool) -> None:
    """Waiting for repairs takes Erlang's share of the time, whether all repairs take as long or scatter."""
    rate, work, down, restart = 1e-3, 150.0, 10.0, 10.0
    played = simulate(rate, work, 5.0, 0.0, down, restart, failures=30_000, node_share=0.7, repair=repair,
                      spares=spares, steady_repair=steady)  # fmt: skip
    cluster = SimpleNamespace(reliability=Reliability(repair=repair, detection=down))
    rates = {"accelerator": 0.5 * rate, "memory": 0.1 * rate, "host": 0.1 * rate}
    waiting = model.waiting_share.function(rates, rate, float(spares), cluster)
    assert played["waiting"] == pytest.approx(float(waiting), abs=0.012)
    expected = shares(rate, work, 5.0, 0.0, restart, waiting, detection=down)
    assert played["useful"] == pytest.approx(float(expected["useful"]), abs=0.012)


@given(st.integers(0, 40), st.floats(1e-3, 60.0))
@quick
def test_erlang_is_a_birth_death_process(spares: int, load: float) -> None:
    """The loss formula is the last state of the birth–death chain, by recursion and by its stationary distribution."""
    recursion = 1.0
    for servers in range(1, spares + 2):
        recursion = load * recursion / (servers + load * recursion)
    weights = np.cumprod([1.0, *(load / k for k in range(1, spares + 2))])
    found = float(model.erlang_loss(spares + 1.0, load))
    assert found == pytest.approx(recursion, rel=1e-9) == pytest.approx(weights[-1] / weights.sum(), rel=1e-9)


def test_erlang_holds_far_out() -> None:
    """No load, floods and millions of servers give shares, without a warning."""
    servers, load = np.meshgrid([1.0, 1.05, 3.0, 1e3, 1e6, 1e9], [0.0, 1e-9, 1.0, 1e3, 1e6, 1e12])
    found = model.erlang_loss(servers, load)
    assert np.all((found >= 0) & (found <= 1))
    assert np.all(np.diff(found, axis=1) <= 1e-9) and np.all(np.diff(found, axis=0) >= -1e-9)


# -- the best interval --------------------------------------------------------------------------------------


@given(st.floats(1e-12, 1e4))
@quick
def test_the_best_interval_is_lamberts(ratio: float) -> None:
    """Newton's root satisfies the optimality equation; where Lambert's function is exact it is the same."""
    y = float(model.optimal_interval(ratio, 1.0))
    assert y == pytest.approx(-np.expm1(-(ratio + y)), rel=1e-12, abs=1e-15)
    if ratio > 1e-4:
        assert y == pytest.approx(1.0 + lambertw(-np.exp(-1.0 - ratio)).real, rel=1e-9)


@given(st.floats(1e-6, 1e-1))
@quick
def test_no_other_interval_is_better(ratio: float) -> None:
    """A numeric search over the whole goodput, detection, restarts and lag in, ends at the closed form."""
    best = float(model.optimal_interval(ratio, 1.0))

    def lost(log_work: float) -> float:
        return -float(shares(1.0, np.exp(log_work), ratio, 0.03, 0.02, detection=0.05)["useful"])

    found = minimize_scalar(
        lost, bounds=(np.log(best) - 3, np.log(best) + 3), method="bounded", options={"xatol": 1e-9}
    )
    assert -lost(np.log(best)) >= -found.fun * (1 - 1e-12)
    assert best == pytest.approx(float(np.exp(found.x)), rel=1e-3)


@pytest.mark.parametrize(("hours", "minutes"), [(24.0, 117.0), (6.0, 57.0), (0.25, 9.1)])
def test_dalys_published_intervals(hours: float, minutes: float) -> None:
    """Daly 2006 figures 3 to 5: a dump of 5 min is best taken every 117, 57 and 9.1 min at M of 24 h, 6 h and 15 min."""
    digits = 1 if minutes < 10 else 0
    assert round(float(model.daly_interval(300.0, hours * 3600.0)) / 60.0, digits) == minutes
    assert float(model.optimal_interval(300.0, hours * 3600.0)) / 60.0 == pytest.approx(minutes, rel=0.01)


def test_young_and_daly_are_the_limits() -> None:
    """Young's interval is too long by ~√(2x)/3, Daly's by less than its next term, and both close in as C/M falls."""
    x = np.logspace(-10, -0.4, 60)
    exact, young, daly = (f(x, 1.0) for f in (model.optimal_interval, model.young_interval, model.daly_interval))
    errors_young, errors_daly = young / exact - 1.0, np.abs(daly / exact - 1.0)
    assert np.all(errors_young > 0) and np.all(np.diff(errors_young) > 0)
    assert np.all(errors_daly <= errors_young) and errors_daly.max() < 0.02
    small = x < 1e-4
    assert errors_young[small] == pytest.approx(np.sqrt(2 * x[small]) / 3, rel=0.02, abs=1e-9)
    assert model.daly_interval(3.0, 1.0) == 1.0


@given(st.floats(1e-7, 1e-4), st.floats(100.0, 5e3), st.floats(0.1, 20.0), st.floats(0.0, 300.0))
@quick
def test_the_published_expression_is_the_limit(rate: float, work: float, write: float, restart: float) -> None:
    """Kokolis et al. 2025: ETTR ≈ (1 − λ(R + W/2)) / (1 + C/W), for rare failures; the exact form differs in λ²."""
    exact = float(shares(rate, work, write, 0.0, restart, detection=0.0)["useful"])
    approximate = (1 - rate * (restart + (work + write) / 2)) / (1 + write / work)
    assert exact == pytest.approx(approximate, abs=2 * (rate * (restart + work + write)) ** 2 + 1e-12)


# -- published runs -----------------------------------------------------------------------------------------


def test_llama_interruptions_by_component() -> None:
    """The failure rates are fitted to Llama 3: on its 16,384 devices 419 in 54 days of operation, by its causes."""
    for cluster in (CLUSTER, dse.load_cluster("h100-roce-3200g")):
        result = estimate(cluster=cluster)
        counts = {name: rate * 54 * DAY for name, rate in result.cells[0].evaluation["failure_rates"].items()}
        fitted = {"accelerator": 196, "memory": 72, "host": 46, "network": 42, "software": 63}
        assert counts == pytest.approx(fitted, rel=1e-3) and sum(fitted.values()) == 419
        assert 54 * DAY * result["interruption_rate"].item() == pytest.approx(419, abs=1.96 * np.sqrt(419))


def test_llama_trains_nine_tenths_of_the_time() -> None:
    """Predicted: more than 90 % effective time for Llama 3 405B by default, less than 3 points below with the longest
    times to come back that MegaScale's bounds allow; its checkpoints lie within the 1 MB to 4 GB a device published."""
    result = estimate()
    assert 0.90 < result["goodput"].item() < 0.96
    assert 0.87 < estimate(**MEGASCALE)["goodput"].item() < 0.92
    assert 1e6 < result["checkpoint_bytes"].item() / 16384 < 4e9


def test_megascale_trains_nine_tenths_of_the_time() -> None:
    """Predicted with Llama's failure rates and MegaScale's own times: over 90 % on 12,288 devices, and its more than
    100 restarts in 'several weeks' come in two to four."""
    result = estimate(12288, "gpt3-175b", dse.load_cluster("dgx-a100"), **MEGASCALE, maintenance_interval=0.0)
    assert result["goodput"].item() > 0.90
    assert 2 < 100 / result["interruption_rate"].item() / (7 * DAY) < 4


@pytest.mark.parametrize(("devices", "days", "seen", "parts", "factor"), [
    (8000, 1.0, 6.50, "all", 2.0),  # RSC-1: 1000 nodes for a day; Kokolis et al. 2025
    (8000, 1.0, 2.34, "all", 2.0),  # RSC-2
    (504, 55.0, 10, "device", 2.0),  # B200 nodes: GPU failures alone; Lablup, arXiv:2605.09370
    (992, 61.0, 105, "all", 4.0),  # OPT-175B in 2021: 35 manual and about 70 automatic restarts; Zhang et al. 2022
])  # fmt: skip
def test_other_fleets_fail_within_a_factor(devices: int, days: float, seen: float, parts: str, factor: float) -> None:
    """Llama's rates predict the failures of clusters they were not fitted to within a factor of two, and of four for
    the oldest, which was the least reliable."""
    cluster = CLUSTER.replace(devices=devices)
    nodes = model.nodes.function(cluster, devices)
    rates = model.failure_rates.function(cluster, devices, nodes)
    chosen = ("accelerator", "memory") if parts == "device" else tuple(rates)
    expected = sum(rates[name] for name in chosen) * days * DAY
    assert 1 / factor < seen / expected < factor


def test_the_shipped_study_holds(tmp_path: Path) -> None:
    """Every check of the study of Llama 3's goodput passes."""
    report = run_study("llama3-goodput", tmp_path / "out", images=False)
    assert report.ok, report.verdicts.to_string()


def test_projected_mttf_of_large_jobs() -> None:
    """With RSC-1's 6.50 failures per 1000 node-days, 16,384 devices fail every 1.8 h and 131,072 every 0.23 h."""
    never = dict.fromkeys(("accelerator_mtbf", "memory_mtbf", "network_mtbf", "software_mtbf"), 1e12)
    for devices, hours in ((16384, 1.8), (131072, 0.23)):
        result = estimate(devices, host_mtbf=1000 / 6.5 * DAY, **never)
        assert result["mtbf"].item() / 3600 == pytest.approx(hours, rel=0.03)


# -- what must hold -----------------------------------------------------------------------------------------

WORSE = {"detection": 2.0, "restart": 2.0, "repair": 2.0, "checkpoint_overhead": 2.0, "maintenance_time": 2.0,
         "accelerator_mtbf": 0.5, "memory_mtbf": 0.5, "host_mtbf": 0.5, "network_mtbf": 0.5, "software_mtbf": 0.5,
         "storage_bandwidth": 0.5, "node_storage_bandwidth": 0.5, "spare_share": 0.5}  # fmt: skip


@pytest.mark.parametrize("name", WORSE)
@given(st.floats(0.05, 20.0), st.sampled_from([8, 512, 16384, 131072]), st.booleans())
@settings(quick, max_examples=8)
def test_worse_parts_never_help(name: str, scale: float, devices: int, asynchronous: bool) -> None:
    """Longer outages, rarer spares, slower storage and parts that fail more often never raise the goodput."""
    start = getattr(CLUSTER.reliability, name) * (min(scale, 1.0) if name == "spare_share" else scale)
    values = [start * WORSE[name] ** k for k in range(4)]
    cluster = CLUSTER.replace(reliability={**CLUSTER.reliability.model_dump(), "asynchronous": asynchronous})
    result = dse.sweep("gpt3-175b", cluster, PLAN, dse.axis(f"cluster.reliability.{name}", values), devices=devices)
    assert np.all(np.diff(result["goodput"].values) <= 1e-12)


@given(specs(Reliability), st.sampled_from(["dgx-h100", "comet-baseline"]), st.integers(1, 10**6))
@settings(quick, suppress_health_check=list(HealthCheck))
def test_any_reliability_gives_shares(found: Reliability, name: str, devices: int) -> None:
    """Whatever the specification, the shares of wall time are shares, add up to one, and the useful one is goodput."""
    cluster = dse.load_cluster(name).replace(reliability={**found.model_dump(), "checkpoint_tier": "auto"})
    evaluation = price(load_specs("gpt-1.7b", cluster, {"global_batch": 64}, devices), devices_given=True)
    parts = evaluation["goodput_shares"]
    assert all(0 <= value <= 1 for value in parts.values())
    assert sum(parts.values()) == pytest.approx(1.0, abs=1e-9)
    for quantity in ("effective_step_time", "effective_cost", "tco_per_token", "interruption_rate", "racks"):
        assert np.isfinite(evaluation[quantity]) and evaluation[quantity] >= 0


@given(specs(Cluster), st.sampled_from([1, 8, 64]))
@settings(quick, suppress_health_check=list(HealthCheck))
def test_any_cluster_has_a_budget(cluster: Cluster, devices: int) -> None:
    """Any legal cluster has goodput, cost of ownership, power, racks and floor, or a typed refusal."""
    evaluation = price(load_specs("gpt-1.7b", cluster, {"global_batch": 64}, devices), devices_given=True)
    for name in ("goodput", "tco", "tokens_per_tco_dollar", "peak_power", "racks", "floor_area", "memory_headroom"):
        try:
            value = evaluation[name]
        except SpecError as error:
            assert "checkpoint_tier" in str(error)
            continue
        assert np.isfinite(value) and (value >= 0 or name == "memory_headroom"), name


def test_a_sweep_equals_its_points() -> None:
    """Fields of the reliability and the facility are axes like any other, switches and tiers too."""
    axes = [
        dse.axis("cluster.reliability.accelerator_mtbf", [1e6, 1e8]),
        dse.axis("cluster.reliability.asynchronous", [True, False]),
        dse.axis("cluster.reliability.checkpoint_tier", ["auto", "ddr", "nvme"]),
        dse.axis("cluster.reliability.checkpoint_interval", [0.0, 600.0]),
        dse.axis("cluster.facility.pricing", ["own", "rent"]),
        dse.axis("cluster.node.devices", [8]),
    ]
    result = dse.sweep("llama3.1-405b", CLUSTER, PLAN, *axes, devices=2048)
    assert result["goodput"].shape[:4] == (2, 2, 3, 2)
    for at in ((0, 0, 0, 0, 0), (1, 1, 2, 1, 1), (0, 1, 1, 0, 1)):
        point = {b.name: b.coordinates[i] for b, i in zip(result.axes, (*at, 0), strict=True)}
        one = result.at(**point)
        for name in ("goodput", "tco", "checkpoint_time", "effective_cost"):
            chosen = {k: v for k, v in point.items() if k in result[name].dims}
            assert result[name].sel(chosen).item() == pytest.approx(one[name].item(), rel=1e-12)


def test_the_tier_takes_the_first_copy() -> None:
    """A checkpoint to memory holds the job up for less than one to storage; an unknown tier is refused by name."""
    fast, slow = estimate(), estimate(asynchronous=False)
    assert fast["checkpoint_time"].item() < slow["checkpoint_time"].item()
    assert slow["checkpoint_lag"].item() == 0 < fast["checkpoint_lag"].item()
    assert estimate(checkpoint_tier="nvme")["checkpoint_copy_time"] > fast["checkpoint_copy_time"]
    with pytest.raises(SpecError, match=r"checkpoint_tier.*'tape'.*ddr, nvme"):
        estimate(checkpoint_tier="tape")["goodput"]


def test_checkpoints_hold_what_is_trained() -> None:
    """Adam in bf16 saves 14 bytes a parameter, adapters alone little; tables go in as they are."""
    model_of = dse.load_model("llama3.1-405b")
    assert estimate()["checkpoint_bytes"].item() == pytest.approx(14 * model_of.parameters(), rel=1e-12)
    adapters = dse.estimate("llama3.1-405b", CLUSTER, {**PLAN, "lora_rank": 16}, devices=2048)
    assert adapters["checkpoint_bytes"].item() < 0.01 * 14 * model_of.parameters()
    tables = dse.load_model("dlrm-1.2t")
    saved = dse.estimate("dlrm-1.2t", "comet-baseline", {"global_batch": 65536}, devices=64)["checkpoint_bytes"]
    size = tables.table_parameters() * tables.table_element_bytes
    assert size < saved.item() < 1.01 * size
