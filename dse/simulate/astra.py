"""ASTRA-sim's network, system and memory files as a system with physical links.

What the files leave open is read physically: ``bandwidth`` is what one NPU sends into a dimension with all its links
(GB of 2^30 bytes), a message over a switch crosses two links, and the endpoint delay belongs to every step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dse.simulate.formats import GB, Memory, Network, checked
from dse.simulate.formats import System as Settings
from dse.simulate.system import Device, System, Tier, dimension

TOPOLOGY = {"Ring": ("ring", 1), "FullyConnected": ("fully_connected", 1), "Switch": ("switch", 2)}
ALGORITHM = {"ring": "ring", "direct": "direct", "halvingDoubling": "halving_doubling",
             "doubleBinaryTree": "double_binary_tree"}  # fmt: skip
SHARED = {"PER_NPU_MEMORY_EXPANSION": 1, "MEMORY_POOL": 0}


def system_of(
    network: Network | str | Path, system: Settings | str | Path, memory: Memory | str | Path | None = None
) -> System:
    """The system that ASTRA-sim's files describe, for physical simulation.

    Args:
        network: YAML. system: JSON; its all-reduce algorithms stand for all collectives. memory: JSON.

    Raises:
        SpecError: with every fault of a file.
    """
    wires, settings = checked(Network, network), checked(Settings, system)
    names = settings.all_reduce_implementation
    dimensions = []
    for i, (topology, bandwidth, latency) in enumerate(
        zip(wires.topology, wires.bandwidth, wires.latency, strict=True)
    ):
        kind, hops = TOPOLOGY[topology]
        name = names[min(i, len(names) - 1)].rstrip("0123456789") if names else ""
        dimensions.append(
            dimension(
                kind,
                bandwidth * GB,
                name=f"dim{i}",
                algorithm=ALGORITHM.get(name, "auto"),
                latency=(hops * latency + settings.endpoint_delay) * 1e-9,
            )
        )
    known: dict[str, Any] = {}
    if settings.peak_perf > 0 and settings.local_mem_bw > 0:
        known["devices"] = (Device(settings.peak_perf * 1e12, settings.local_mem_bw * 1e9),)
    remote = checked(Memory, memory) if memory is not None else Memory()
    if remote.memory_type != "NO_MEMORY_EXPANSION":
        shared = SHARED.get(remote.memory_type, remote.num_npus_per_node)
        known["tiers"] = (Tier("remote", remote.bandwidth * 1e9, remote.latency * 1e-9, shared_by=shared),)
    return System(
        tuple(dimensions), tuple(wires.npus_count), chunks=settings.preferred_dataset_splits,
        schedule="themis" if settings.greedy else "ascending",
        policy={"LIFO": "lifo", "FIFO": "fifo", "EXPLICIT": "priority"}[settings.scheduling_policy], **known,
    )  # fmt: skip
