"""Money, carbon and room: capital over its life, electricity, rent; for a step, a whole run and a lifetime."""

from __future__ import annotations

from typing import Any

import numpy as np

from dse.cost.arrays import Array, total
from dse.cost.graph import quantity
from dse.errors import Fault, SpecError
from dse.spec.hardware import YEAR


@quantity("USD", "devices · (accelerator + memory + node share + fabric)")
def capital(cluster: Any, devices: Array) -> Array:
    """Purchase price of the devices that work, their memory tiers, hosts and network (see also ``investment``)."""
    node = cluster.node
    memory = node.accelerator.memory.price + total(tier.price / tier.shared_by for tier in node.expansion)
    fabric = total(dimension.price for dimension in cluster.network.dimensions)
    return devices * np.maximum(node.accelerator.price + memory + node.host_price / node.devices + fabric, 0.0)


@quantity("USD", "capital · (1 + spares / nodes) + construction · peak power")
def investment(capital: Array, spares: Array, nodes: Array, peak_power: Array, cluster: Any) -> Array:
    """What has to be paid before the first step: the devices that work, the spare nodes behind them, the building."""
    return capital * (1.0 + spares / nodes) + cluster.facility.construction * peak_power


@quantity("USD/s", "capital · (1 + maintenance · years) / (lifetime · utilization)")
def capital_rate(capital: Array, cluster: Any) -> Array:
    """What the capital costs per second of use over its life."""
    facility = cluster.facility
    years = facility.lifetime / YEAR
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


# -- what must be built and bought --------------------------------------------------------------------------


@quantity("W", "TDP + host and network of a device · devices of a node")
def node_power(cluster: Any) -> Array:
    """Nameplate power of one node with its ports."""
    node = cluster.node
    network = total(dimension.power for dimension in cluster.network.dimensions)
    return node.devices * (node.accelerator.tdp + network) + node.host_power


@quantity("W", "PUE · node_power · (devices / devices of a node + spares)")
def peak_power(cluster: Any, devices: Array, spares: Array, node_power: Array) -> Array:
    """Power that must be provisioned at the facility's meter, spare nodes included."""
    return cluster.facility.pue * node_power * (devices / cluster.node.devices + spares)


@quantity("1", "⌈(nodes + spares) / nodes of a rack⌉, limited by its power and its room")
def racks(cluster: Any, nodes: Array, spares: Array, node_power: Array) -> Array:
    """Racks of nodes and spares; a node of more power than one can take spreads over several."""
    facility = cluster.facility
    powered = facility.rack_power / np.maximum(node_power, 1.0)
    room = np.maximum(np.floor(facility.rack_devices / cluster.node.devices), 1.0)
    each = np.minimum(np.where(np.greater_equal(powered, 1.0), np.floor(powered), powered), room)
    return np.ceil((nodes + spares) / np.maximum(each, 1e-9))


@quantity("m^2", "racks · rack_area")
def floor_area(racks: Array, cluster: Any) -> Array:
    """Floor of the racks with their aisles."""
    return racks * cluster.facility.rack_area


@quantity("m^2", "devices · accelerator.area")
def silicon_area(cluster: Any, devices: Array) -> Array:
    """Area of all accelerator dies.

    Raises:
        SpecError: the accelerator's area is not known.
    """
    if cluster.accelerator.area is None:
        raise SpecError([Fault("cluster.accelerator.area", "", "is not known; give it to use silicon_area")])
    return devices * cluster.accelerator.area


@quantity("1", "min over tiers of (capacity − held) / capacity")
def memory_headroom(tier_bytes: dict[str, Array], tier_capacity: dict[str, Array]) -> Array:
    """Share of its capacity that the fullest memory tier has left; negative where it does not fit."""
    left: Array = 1.0
    for tier, held in sorted(tier_bytes.items(), key=lambda item: np.size(item[1])):
        left = np.minimum(left, 1.0 - held / np.maximum(tier_capacity[tier], 1.0))
    return left


@quantity("USD", "own: capital with spares, construction, maintenance, electricity; rent: price per hour of use")
def tco_breakdown(
    capital: Array,
    peak_power: Array,
    power: Array,
    standing_energy: dict[str, Array],
    step_time: Array,
    nodes: Array,
    spares: Array,
    cluster: Any,
    devices: Array,
) -> dict[str, Array]:
    """Cost of owning or renting the cluster over the facility's lifetime, by cause.

    In use, ``utilization`` of the lifetime, it draws the mean power of this training; else, and in spare nodes, what
    idle devices, hosts and ports draw. Rent is paid for the time in use. Money is not discounted.
    """
    facility = cluster.facility
    spare, used = spares / nodes, facility.utilization
    bought, years = capital * (1.0 + spare), facility.lifetime / YEAR
    standing = facility.pue * total(standing_energy.values()) / step_time
    drawn = used * power + (1.0 - used + spare) * standing
    rate = cluster.accelerator.price_per_hour
    owned = {
        "capital": bought,
        "construction": facility.construction * peak_power,
        "maintenance": facility.maintenance * years * bought,
        "electricity": drawn * facility.lifetime * facility.electricity_price,
    }
    own, rent = np.equal(facility.pricing, "own"), devices * (0.0 if rate is None else rate)
    return {
        **{name: np.where(own, money, 0.0) for name, money in owned.items()},
        "rent": np.where(own, 0.0, rent * used * facility.lifetime),
    }


@quantity("USD", "Σ tco_breakdown")
def tco(tco_breakdown: dict[str, Array]) -> Array:
    """Total cost of ownership over the facility's lifetime."""
    return total(tco_breakdown.values())


@quantity("USD", "tco / (effective_tokens_per_s · utilization · lifetime)")
def tco_per_token(tco: Array, effective_tokens_per_s: Array, cluster: Any) -> Array:
    """Total cost of ownership of one token (or sample) trained, failures counted."""
    facility = cluster.facility
    return tco / np.maximum(effective_tokens_per_s * facility.utilization * facility.lifetime, 1e-30)


@quantity("1/USD", "1 / tco_per_token")
def tokens_per_tco_dollar(tco_per_token: Array) -> Array:
    """Tokens (or samples) trained per US dollar of total cost of ownership."""
    return 1.0 / np.maximum(tco_per_token, 1e-300)


@quantity("USD", "cost / goodput")
def effective_cost(cost: Array, goodput: Array) -> Array:
    """Cost of a step in a long run: the time lost is paid for like the rest."""
    return cost / np.maximum(goodput, 1e-30)


RUN_UNITS = {
    "run_steps": "1",
    "run_time": "s",
    "run_wall_time": "s",
    "run_interruptions": "1",
    "run_energy": "J",
    "run_effective_energy": "J",
    "run_cost": "USD",
    "run_effective_cost": "USD",
    "run_carbon": "kg",
    "run_effective_carbon": "kg",
}


def run_totals(
    step_time: Array,
    energy: Array,
    cost: Array,
    carbon: Array,
    tokens_per_step: Array,
    tokens: Array,
    goodput: Array = None,
    interruption_rate: Array = None,
) -> dict[str, Array]:
    """Time, energy, cost and carbon of training on ``tokens`` tokens (or samples), in whole steps.

    With the run's ``goodput`` [1] also its wall time and what it takes with failures, checkpoints and maintenance
    included (``run_effective_*``): the cluster is held, and taken to draw its mean power, all the wall time. That
    bounds the energy from above, as devices that wait for a restart draw less. With the ``interruption_rate`` [1/s]
    besides, the unplanned interruptions to expect. Units are in ``RUN_UNITS``.
    """
    steps = np.ceil(tokens / tokens_per_step)
    found = {
        "run_steps": steps,
        "run_time": steps * step_time,
        "run_energy": steps * energy,
        "run_cost": steps * cost,
        "run_carbon": steps * carbon,
    }
    if goodput is None:
        return found
    longer = 1.0 / np.maximum(goodput, 1e-30)
    found["run_wall_time"] = found["run_time"] * longer
    if interruption_rate is not None:
        found["run_interruptions"] = found["run_wall_time"] * interruption_rate
    effective = {f"run_effective_{name}": found[f"run_{name}"] * longer for name in ("energy", "cost", "carbon")}
    return {**found, **effective}
