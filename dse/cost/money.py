"""Money and carbon: capital spread over its life, electricity, rent; for a step and for a whole run."""

from __future__ import annotations

from typing import Any

import numpy as np

from dse.cost.arrays import Array, total
from dse.cost.graph import quantity


@quantity("USD", "devices · (accelerator + memory + node share + fabric)")
def capital(cluster: Any, devices: Array) -> Array:
    """Purchase price of the devices, their memory tiers, hosts and network."""
    node = cluster.node
    memory = node.accelerator.memory.price + total(tier.price / tier.shared_by for tier in node.expansion)
    fabric = total(dimension.price for dimension in cluster.network.dimensions)
    return devices * (node.accelerator.price + memory + node.host_price / node.devices + fabric)


@quantity("USD/s", "capital · (1 + maintenance · years) / (lifetime · utilization)")
def capital_rate(capital: Array, cluster: Any) -> Array:
    """What the capital costs per second of use over its life."""
    facility = cluster.facility
    years = facility.lifetime / (365.25 * 86400.0)
    return capital * (1.0 + facility.maintenance * years) / np.maximum(facility.lifetime * facility.utilization, 1.0)


@quantity("USD", "own: capital and electricity; rent: the accelerator's price per hour")
def cost_breakdown(
    capital_rate: Array, step_time: Array, energy: Array, cluster: Any, devices: Array
) -> dict[str, Array]:
    """Cost of one step by cause."""
    own = np.equal(cluster.facility.pricing, "own")
    rate = cluster.accelerator.price_per_hour
    rent = devices * step_time * (0.0 if rate is None else rate)
    electricity = energy * cluster.facility.electricity_price
    return {
        "capital": np.where(own, capital_rate * step_time, 0.0),
        "electricity": np.where(own, electricity, 0.0),
        "rent": np.where(own, 0.0, rent),
    }


@quantity("USD", "Σ cost_breakdown")
def cost(cost_breakdown: dict[str, Array]) -> Array:
    """Cost of one step."""
    return total(cost_breakdown.values())


@quantity("kg", "energy · carbon intensity + embodied carbon · step_time / (lifetime · utilization)")
def carbon(energy: Array, cluster: Any, devices: Array, step_time: Array) -> Array:
    """CO2 equivalent of one step: electricity, and the devices' own spread over their life."""
    facility = cluster.facility
    embodied = devices * cluster.accelerator.embodied_carbon * step_time
    return energy * facility.carbon_intensity + embodied / np.maximum(facility.lifetime * facility.utilization, 1.0)


@quantity("1/USD", "tokens per step / cost")
def tokens_per_dollar(model: Any, global_batch: Array, cost: Array) -> Array:
    """Tokens (or samples) per US dollar."""
    return global_batch * model.units_per_sample / np.maximum(cost, 1e-30)


def run_totals(
    step_time: Array, energy: Array, cost: Array, carbon: Array, tokens_per_step: Array, tokens: Array
) -> dict[str, Array]:
    """Time, energy, cost and carbon of training on ``tokens`` tokens (or samples), in whole steps."""
    steps = np.ceil(tokens / tokens_per_step)
    return {
        "run_steps": steps,
        "run_time": steps * step_time,
        "run_energy": steps * energy,
        "run_cost": steps * cost,
        "run_carbon": steps * carbon,
    }
