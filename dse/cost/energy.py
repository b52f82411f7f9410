"""Energy of a step: arithmetic, each memory tier, links, and what is drawn while idle."""

from __future__ import annotations

from typing import Any

import numpy as np

from dse.cost.arrays import Array, select, total
from dse.cost.compute import OPERAND_BYTES, work_traffic
from dse.cost.graph import quantity
from dse.cost.network import Links
from dse.spec.workload.op import PHASES, Block


@quantity("J/FLOP", "given, or (TDP − idle − BW·e_mem) / (peak · efficiency)", source="re-derived; an assumption")
def energy_per_flop(cluster: Any, matrix_peak: Array) -> Array:
    """Dynamic energy of one matrix FLOP: large GEMMs draw TDP at the rate they reach, memory at full rate included.

    Never less than a fifth of the dynamic power, so that an optimistic memory energy cannot make arithmetic free.
    """
    accelerator = cluster.accelerator
    if accelerator.energy_per_flop is not None:
        return accelerator.energy_per_flop
    dynamic = np.maximum(accelerator.tdp - accelerator.idle_power, 0.0)
    memory = accelerator.memory.bandwidth * accelerator.memory.energy
    reached = matrix_peak * accelerator.efficiency.matrix * accelerator.efficiency.sustained
    return np.maximum(dynamic - memory, 0.2 * dynamic) / reached


@quantity("B", "Σ_ops Θ of every phase and repeat", source="as operator_times")
def pass_traffic(blocks: tuple[Block, ...], cluster: Any, precision: Array, recompute: Array) -> Array:
    """Memory traffic of one micro-batch through the whole model, on the devices of one model replica's tp group."""
    operand = select(precision, OPERAND_BYTES) / 2.0
    buffer = cluster.accelerator.buffer
    again = {"none": 0.0, "selective": 0.0, "full": 1.0}
    parts = []
    for block in blocks:
        for op in block.ops:
            for phase in PHASES:
                work = op.work(phase)
                if work is not None:
                    runs = 1.0 + select(recompute, again) if phase == "forward" and block.place == "body" else 1.0
                    parts.append(runs * block.count * work_traffic(work, buffer, operand))
    return total(parts)


@quantity("J", "hardware FLOP · J/FLOP")
def compute_energy(hardware_flops: Array, energy_per_flop: Array) -> Array:
    """Energy of the matrix arithmetic of one step on all devices."""
    return hardware_flops * energy_per_flop


@quantity("J", "passes · traffic · J/B of the local memory, all devices")
def memory_energy(
    pass_traffic: Array, micro_batches: Array, devices: Array, pp: Array, cluster: Any, offload_transfer: Array
) -> Array:
    """Energy of memory traffic in one step, offload transfers included."""
    memory = cluster.accelerator.memory
    moved = pass_traffic * micro_batches / pp * memory.energy
    for tier in cluster.node.expansion[:1]:
        moved = moved + offload_transfer * tier.bandwidth / tier.shared_by * tier.energy
    return moved * devices


@quantity("J", "Σ collectives: bytes into each dimension · J/B")
def link_energy(
    blocks: tuple[Block, ...],
    links: Links,
    micro_batches: Array,
    pp: Array,
    devices: Array,
    recompute: Array,
    stage_parameters: dict[str, dict[str, Array]],
) -> Array:
    """Energy of the network links in one step on all devices."""
    again = select(recompute, {"none": 1.0, "selective": 1.0, "full": 2.0})
    per_pass = total(
        block.count * links.energy(c.kind, c.group, c.bytes) * (again if c.phase == "forward" else 1.0)
        for block in blocks
        for op in block.ops
        for c in op.collectives
        if np.any(c.bytes)
    )
    parameters = stage_parameters["first"]
    gradients = links.energy("all_reduce", "grad", 2.0 * parameters["dense"]) + links.energy(
        "all_reduce", "expert_grad", 2.0 * parameters["expert"]
    )
    boundary: Array = 0.0
    for block in blocks:
        boundary = np.maximum(boundary, block.boundary)
    hops = np.where(np.greater(pp, 1), 2.0 * links.energy("point_to_point", "pp", boundary), 0.0)
    return devices * (micro_batches * (per_pass / pp + hops) + gradients)


@quantity("J", "step_time · devices · power of idle devices, hosts, network ports")
def standing_energy(cluster: Any, devices: Array, step_time: Array) -> dict[str, Array]:
    """Energy drawn whatever the work."""
    node = cluster.node
    each = {
        "idle": node.accelerator.idle_power,
        "host": node.host_power / node.devices,
        "network": total(dimension.power for dimension in cluster.network.dimensions),
    }
    return {name: step_time * devices * watts for name, watts in each.items()}


@quantity("J", "compute, memory, links, idle, host, network; the devices' part capped at TDP · step_time")
def energy_breakdown(
    compute_energy: Array,
    memory_energy: Array,
    link_energy: Array,
    standing_energy: dict[str, Array],
    cluster: Any,
    devices: Array,
    step_time: Array,
) -> dict[str, Array]:
    """Energy of one step by cause, before the facility's overhead.

    A device cannot draw more than its TDP for long; where the sum says so, compute and memory are scaled down.
    """
    accelerator = cluster.accelerator
    budget = np.maximum(accelerator.tdp - accelerator.idle_power, 0.0) * devices * step_time
    scale = np.minimum(1.0, budget / np.maximum(compute_energy + memory_energy, 1e-30))
    return {"compute": compute_energy * scale, "memory": memory_energy * scale, "links": link_energy, **standing_energy}


@quantity("J", "PUE · Σ energy_breakdown")
def energy(energy_breakdown: dict[str, Array], cluster: Any) -> Array:
    """Energy of one step at the facility's meter."""
    return total(energy_breakdown.values()) * cluster.facility.pue


@quantity("W", "energy / step_time")
def power(energy: Array, step_time: Array) -> Array:
    """Mean power at the facility's meter."""
    return energy / step_time


@quantity("1/J", "tokens per step / energy")
def tokens_per_joule(model: Any, global_batch: Array, energy: Array) -> Array:
    """Tokens (or samples) per joule."""
    return global_batch * model.units_per_sample / np.maximum(energy, 1e-30)
