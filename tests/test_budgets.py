"""Budgets: total cost of ownership, power, racks, room and memory left, each against arithmetic by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dse
from dse.cost.money import run_totals
from dse.errors import SpecError

DAY = 86400.0
PLAN = {"tp": 8, "pp": 16, "global_batch": 2048, "zero_stage": 1, "sequence_parallel": True, "recompute": "full"}
CLUSTER = dse.load_cluster("dgx-h100")


def test_ownership_by_hand() -> None:
    """Capital with spares, construction, maintenance and electricity add up to the total, computed here by hand."""
    facility = {**CLUSTER.facility.model_dump(), "construction": 10.0, "maintenance": 0.05}
    result = dse.estimate("gpt3-175b", CLUSTER.replace(facility=facility), PLAN, devices=1024)
    f, years, spare = result.specs["cluster"].facility, 4.0, 0.05
    node = result["node_power"].item()
    assert node == pytest.approx(8 * (700 + 12 + 35) + 3200)
    assert result["peak_power"].item() == pytest.approx(1.3 * node * (128 + 6.4))
    bought = result["capital"].item() * (1 + spare)
    idle = 1.3 * (8 * (70 + 12 + 35) + 3200) * 128
    mean = 0.8 * result["power"].item() + (0.2 + spare) * idle
    electricity = mean * years * 365.25 * DAY * f.electricity_price
    expected = bought * (1 + 0.05 * years) + 10 * result["peak_power"].item() + electricity
    assert result["tco"].item() == pytest.approx(expected, rel=1e-9)
    tokens = result["effective_tokens_per_s"].item() * 0.8 * years * 365.25 * DAY
    assert result["tokens_per_tco_dollar"].item() == pytest.approx(tokens / expected, rel=1e-9)


def test_rent_is_what_the_steps_cost() -> None:
    """Rented, the total over a life is the cost of the steps that fit into the time in use."""
    facility = {**CLUSTER.facility.model_dump(), "pricing": "rent"}
    result = dse.estimate("gpt3-175b", CLUSTER.replace(facility=facility), PLAN, devices=1024)
    steps = 4 * 365.25 * DAY * 0.8 / result["step_time"].item()
    assert result["tco"].item() == pytest.approx(steps * result["cost"].item(), rel=1e-12)


@pytest.mark.parametrize(("cluster", "devices", "facility", "racks"), [
    ("dgx-h100", 1024, {}, 34),  # 134.4 nodes of 9.2 kW, four a rack
    ("dgx-h100", 1024, {"rack_power": 20e3}, 68),  # two a rack by power
    ("dgx-h100", 1024, {"rack_power": 4.6e3}, 268),  # a node over two racks
    ("dgx-h100", 1024, {"rack_power": 1e6, "rack_devices": 8}, 135),
    ("gb200-nvl72", 1152, {}, 17),  # 16 racks and the spares
    ("tpu-v4-pod", 4096, {}, 68),
])  # fmt: skip
def test_racks(cluster: str, devices: int, facility: dict[str, Any], racks: int) -> None:
    """Racks hold as many nodes as their power and their room allow."""
    loaded = dse.load_cluster(cluster)
    changed = loaded.replace(facility={**loaded.facility.model_dump(), **facility})
    result = dse.estimate("gpt-1.7b", changed, {"global_batch": 8192}, devices=devices)
    assert result["racks"].item() == pytest.approx(racks, abs=1)
    assert result["floor_area"].item() == 3.0 * result["racks"].item()


def test_headroom_is_the_memory_rule() -> None:
    """Headroom is negative exactly where a tier overflows, and what is left of the local memory otherwise."""
    batches = dse.axis("micro_batch", [1, 2, 4, 8, 16, 32, 64])
    plan = {**PLAN, "recompute": "none", "dp": 8}
    result = dse.sweep("gpt3-175b", CLUSTER, plan, batches)
    margin = result.dataset["margin.memory_fits"]
    assert np.array_equal(result["memory_headroom"].values < 0, margin.values < 0)
    assert (margin.values < 0).any() and (margin.values > 0).any()
    one = result.at(micro_batch=1)
    held, capacity = one["tier.local"].item(), CLUSTER.accelerator.memory.capacity
    assert one["memory_headroom"].item() == pytest.approx(1 - held / capacity)


def test_silicon_needs_its_area() -> None:
    """Die area is that of all devices; where the catalogue does not know it the refusal says what to give."""
    assert dse.estimate("llama3.1-405b", CLUSTER, PLAN, devices=16384)["silicon_area"].item() == pytest.approx(
        16384 * 814e-6
    )
    bare = CLUSTER.replace(node={**CLUSTER.node.model_dump(), "accelerator": CLUSTER.accelerator.replace(area=None)})
    with pytest.raises(SpecError, match=r"accelerator\.area"):
        dse.estimate("gpt-1.7b", bare, {"global_batch": 64})["silicon_area"]


def test_a_whole_run_in_wall_time() -> None:
    """A run's wall time is its training time over goodput, and its interruptions come at their rate."""
    result = dse.estimate("llama3.1-405b", CLUSTER, PLAN, devices=16384)
    parts = [result[name] for name in ("step_time", "energy", "cost", "carbon")]
    tokens, rate = result["tokens_per_s"] * result["step_time"], result["interruption_rate"].item()
    plain = run_totals(*parts, tokens, 15.6e12)
    full = run_totals(*parts, tokens, 15.6e12, result["goodput"], result["interruption_rate"])
    assert all(full[name].item() == value.item() for name, value in plain.items())
    wall = full["run_wall_time"].item()
    assert wall == pytest.approx(plain["run_time"].item() / result["goodput"].item())
    assert full["run_interruptions"].item() == pytest.approx(wall * rate)
