"""Placement: in which memory tier each tensor class lies, what fits, and what moving it costs."""

from __future__ import annotations

from typing import Any

import numpy as np

from dse.cost.arrays import Array, safe_divide, select, total
from dse.cost.graph import quantity


def tier_table(cluster: Any) -> dict[str, Any]:
    """Tiers by name; ``local`` is the accelerator's own memory."""
    return {"local": cluster.accelerator.memory, **{tier.name: tier for tier in cluster.node.expansion}}


@quantity("B", "Σ of the tensor classes that are placed in each tier; an overflow spreads into the expansion")
def tier_bytes(
    footprints: dict[str, dict[str, Array]],
    cluster: Any,
    offload_weights: Array,
    offload_gradients: Array,
    offload_optimizer: Array,
    offload_activations: Array,
    memory_expansion: Array,
) -> dict[str, Array]:
    """Bytes of one device in each memory tier, on the stage that fills it most."""
    home = {
        "weights": offload_weights,
        "gradients": offload_gradients,
        "optimizer": offload_optimizer,
        "activations": offload_activations,
    }
    tiers = tier_table(cluster)
    per_stage = []
    for parts in footprints.values():
        per_stage.append(
            {
                tier: total(
                    np.where(np.equal(home.get(name, "local"), tier), size, 0.0)
                    if name in home
                    else (size if tier == "local" else 0.0)
                    for name, size in parts.items()
                )
                for tier in tiers
            }
        )
    held = {tier: np.maximum(per_stage[0][tier], per_stage[1][tier]) for tier in tiers}
    if len(tiers) > 1 and np.any(np.equal(memory_expansion, "spread")):
        first = next(name for name in tiers if name != "local")
        over = np.maximum(held["local"] - tiers["local"].capacity, 0.0)
        over = np.where(np.equal(memory_expansion, "spread"), over, 0.0)
        held = {**held, "local": held["local"] - over, first: held[first] + over}
    return held


@quantity("B", "capacity of each tier per device")
def tier_capacity(cluster: Any) -> dict[str, Array]:
    """Capacity that one device may use in each tier."""
    return {name: tier.capacity / tier.shared_by for name, tier in tier_table(cluster).items()}


@quantity("B", "bytes held, and capacity, of each tier that overflows")
def tier_overflow(tier_bytes: dict[str, Array], tier_capacity: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
    """Tiers that hold more than they can, each with what it holds and what it can hold (of one design)."""
    return {
        name: (held, tier_capacity[name])
        for name, held in tier_bytes.items()
        if np.any(np.greater(held, tier_capacity[name]))
    }


def hybrid_bandwidth_share(footprint: Array, capacity: Array, local: Array, expanded: Array, mode: Array) -> Array:
    """Effective over local bandwidth when a footprint overflows ``capacity``.

    With f = min(1, capacity/footprint) of the accesses local::

        harmonic:    BW = 1 / ( f/BW_local + (1−f)/BW_expanded )
        overlapped:  BW = 1 / max( f/BW_local , (1−f)/BW_expanded )

    Accesses are taken to spread over the tiers in proportion to the bytes they hold. Source: the paper's form is not
    public; harmonic is the conservative choice, overlapped what GenZ (same group) uses.
    """
    inside = np.minimum(1.0, safe_divide(capacity, np.maximum(footprint, 1.0)))
    here, there = inside, (1.0 - inside) * local / expanded
    serial = 1.0 / (here + there)
    parallel = 1.0 / np.maximum(here, there)
    return select(mode, {"harmonic": serial, "overlapped": parallel})


@quantity("1", "effective / local bandwidth with memory expansion, else 1", source="re-derived; see the docstring")
def bandwidth_share(cluster: Any, memory_expansion: Array, expanded_share: Array) -> Array:
    """What is left of the local bandwidth: 1 unless the strategy lets the footprint overflow."""
    if not len(cluster.node.expansion) or not np.any(np.equal(memory_expansion, "spread")):
        return 1.0
    return np.where(np.equal(memory_expansion, "spread"), expanded_share, 1.0)


@quantity("1", "see hybrid_bandwidth_share", source="re-derived; COMET §3.3 as known")
def expanded_share(cluster: Any, memory_expansion: Array, hybrid_bandwidth: Array, expansion_footprint: Array) -> Array:
    """Effective over local bandwidth if the footprint overflows into the first expansion tier."""
    if not len(cluster.node.expansion) or not np.any(np.equal(memory_expansion, "spread")):
        return 1.0
    local, tier = cluster.accelerator.memory, cluster.node.expansion[0]
    return hybrid_bandwidth_share(
        expansion_footprint, local.capacity, local.bandwidth, tier.bandwidth / tier.shared_by, hybrid_bandwidth
    )


@quantity("B", "footprint that memory expansion spreads")
def expansion_footprint(memory_bytes: Array) -> Array:
    """Bytes whose accesses are spread over local and expanded memory."""
    return memory_bytes


# -- offload ------------------------------------------------------------------------------------------------


@quantity("s", "Σ_class bytes moved per step / tier bandwidth", source="ZeRO-Infinity §4; re-derived")
def offload_transfer(
    model_states: dict[str, dict[str, Array]],
    saved_per_pass: dict[str, Array],
    cluster: Any,
    stage_layers: Array,
    model: Any,
    micro_batches: Array,
    offload_weights: Array,
    offload_gradients: Array,
    offload_activations: Array,
) -> Array:
    """Time to move offloaded tensors between local memory and their tiers in one step, each tier on its own.

    Weights are fetched for every forward and backward pass and written back once, gradients are read and written in
    every backward pass, activations leave in forward and return in backward. Optimizer states are updated where they
    lie (see ``optimizer_time``).
    """
    states = model_states["first"]
    share = stage_layers / model.depth if model.pipelined else 1.0
    moved = {
        "weights": (offload_weights, states["weights"] * (2.0 * micro_batches + 1.0)),
        "gradients": (offload_gradients, 2.0 * states["gradients"] * micro_batches),
        "activations": (offload_activations, 2.0 * saved_per_pass["body"] * share * micro_batches),
    }
    times: Array = 0.0
    for tier in cluster.node.expansion:
        size = total(
            np.where(np.equal(home, tier.name), amount, 0.0)
            for home, amount in moved.values()
            if np.any(np.equal(home, tier.name))
        )
        times = np.maximum(times, size / (tier.bandwidth / tier.shared_by))
    return times
