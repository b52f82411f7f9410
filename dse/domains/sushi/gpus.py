"""The same serving problem on the catalogue's accelerators: weights resident in a faster tier of memory.

``buffer``: some of the weights stay in the on-chip buffer (a GPU's L2) and the rest comes from the device's memory;
``memory``: some stay in the device's memory, which other models fill, and the rest comes from the host's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dse.cost.compute import tile_efficiency
from dse.domains.sushi import sharing
from dse.domains.sushi.candidates import KINDS, named_candidates
from dse.domains.sushi.layers import Layers
from dse.domains.sushi.sharing import SubGraph
from dse.domains.sushi.supernet import SubNet, stack
from dse.domains.sushi.table import EMPTY, LatencyTable
from dse.errors import Fault, SpecError
from dse.spec import load_accelerator, load_node
from dse.spec.hardware import Accelerator, Node
from dse.spec.workload.op import Gemm

if TYPE_CHECKING:
    import pandas as pd

Tier = Literal["buffer", "memory"]
SHARE = 0.75  # of the on-chip buffer that may be set aside, as CUDA's persisting L2 accesses allow
FASTER = 3.0  # bandwidth of the on-chip buffer over that of memory: an assumption, of the order of A100's and H100's L2


@dataclass(frozen=True)
class Tiers:
    """Where weights lie.

    Attributes:
        capacity: bytes of weights that the fast tier takes.
        fast, slow: B/s of the two tiers.
        room: bytes of a layer's input and output that stay on chip; more go to the device's memory.
        fast_energy, slow_energy, activation_energy: J/B.
        beside: whether activations pass the channel of the slow weights rather than that of the fast ones.
    """

    capacity: float
    fast: float
    slow: float
    room: float
    fast_energy: float
    slow_energy: float
    activation_energy: float
    beside: bool


def tiers(
    device: Accelerator, tier: Tier, *, node: Node | None = None, resident: float | None = None, faster: float = FASTER
) -> Tiers:
    """The tiers of a device.

    Args:
        device: of the catalogue.
        tier: the fast tier, see the module.
        node: whose first expansion tier (its host memory) is the slow one of ``memory``.
        resident: bytes of weights that the fast tier takes; by default 75 % of the on-chip buffer, must be given for
            ``memory``.
        faster: bandwidth of the on-chip buffer over that of the device's memory.

    Raises:
        SpecError: more bytes than the tier has, or no host memory.
    """
    memory, reached = device.memory, device.memory.bandwidth * device.efficiency.memory
    most = device.buffer if tier == "buffer" else memory.capacity
    resident = SHARE * most if resident is None and tier == "buffer" else resident
    if resident is None or not 0 <= resident <= most:
        given = "" if resident is None else f"{resident:g} B"
        raise SpecError([Fault("resident", given, f"must be 0 to {most:g} B, what {device.id} has in its {tier}")])
    on_chip = faster * reached
    if tier == "buffer":
        return Tiers(resident, on_chip, reached, most - resident, 0.0, memory.energy, memory.energy, True)
    if node is None or not node.expansion:
        raise SpecError(
            [Fault("node", "" if node is None else node.id, "must be a node with a memory beside the devices'")]
        )
    host = node.expansion[0]
    slow = host.bandwidth / host.shared_by
    return Tiers(resident, reached, slow, device.buffer, memory.energy, host.energy, memory.energy, False)


def table(
    device: Any, subnets: Sequence[SubNet], *, tier: Tier = "buffer", node: Any = None, resident: float | None = None,
    faster: float = FASTER, batch: int = 1, count: int = 32, kinds: Sequence[str] = KINDS, seed: int = 0,
) -> LatencyTable:  # fmt: skip
    """The latency table of SubNets on a device, in INT8, by the roofline of each layer.

    A layer takes the longest of computing, of what passes the device's memory, and of what passes the other tier (which
    move at the same time), and the launch of a kernel. Convolutions are products of m = batch · y² rows, n = k columns
    and depth c · r², with the tiles and waves of :func:`dse.cost.compute.tile_efficiency`.

    Args:
        device: an id of the catalogue, a file, a mapping, or an accelerator; ``node``: the same of a node.
        tier, resident, faster: see :func:`tiers`.
        batch: inputs at a time.
        count, kinds, seed: of the candidate SubGraphs.

    Raises:
        SpecError: a device without INT8, or see :func:`tiers`.
    """
    chosen = load_node(node) if node is not None else None
    machine = load_accelerator(device) if device is not None or chosen is None else chosen.accelerator
    if machine.matrix.int8 is None:
        raise SpecError([Fault("device", machine.id, "must compute in INT8")])
    if batch < 1:
        raise SpecError([Fault("batch", str(batch), "must be 1 or more")])
    at = tiers(machine, tier, node=chosen, resident=resident, faster=faster)
    found = named_candidates(subnets, at.capacity, count, seed, kinds=kinds) if at.capacity else {}
    layers = stack(subnets)
    slots = layers.k.shape[-1]
    held = {EMPTY: SubGraph(*(np.zeros(slots, dtype=np.int64) for _ in SubGraph._fields)), **found}
    columns = sharing.stacked(list(held.values()))
    hits = sharing.cached_weights(layers, columns)
    parts = parted(machine, at, Layers(*(column[:, None, :] for column in layers)), hits, batch)
    size = sharing.nbytes(columns)
    latency, off_chip = parts["total"].sum(axis=-1), parts["slow_bytes"].sum(axis=-1)
    return LatencyTable(
        subnets=tuple(subnet.name for subnet in subnets), subgraphs=tuple(held), latency=latency,
        energy=parts["energy"].sum(axis=-1) + machine.idle_power * latency, off_chip=off_chip,
        hits=hits.sum(axis=-1).astype(float), accuracy=np.array([subnet.accuracy for subnet in subnets], float),
        weights=layers.weights.sum(axis=-1).astype(float), size=size, load_time=size / at.slow,
        load_energy=size * (at.slow_energy + at.fast_energy), subnet_vectors=sharing.vectors(layers),
        subgraph_vectors=sharing.vectors(columns),
    )  # fmt: skip


def parted(machine: Accelerator, at: Tiers, layers: Layers, hits: np.ndarray, batch: int = 1) -> dict[str, np.ndarray]:
    """Seconds, bytes and joules of layers, term by term [subnet, subgraph, slot]: ``compute``, ``fast``, ``slow``,
    ``launch``, ``total``, ``slow_bytes`` and ``energy`` (without what is drawn while idle)."""
    limits = machine.efficiency
    groups = np.maximum(layers.groups, 1)
    product = Gemm(m=batch * layers.y**2, k=layers.c * layers.r**2, n=layers.k // groups, count=groups)
    share = limits.matrix * limits.sustained
    if limits.tiles:
        share = share * np.maximum(tile_efficiency(product, machine.cores, limits.small_tile, limits.k_overhead), 1e-9)
    compute = 2.0 * batch * layers.macs / (machine.matrix.int8 * share)
    moved = batch * (layers.c * groups * layers.x**2 + layers.k * layers.y**2) * layers.present
    moved = np.where(moved <= at.room, 0.0, moved)
    missing = layers.weights - hits
    if at.beside:
        fast, slow = hits / at.fast, (missing + moved) / at.slow
    else:
        fast, slow = (layers.weights + moved) / at.fast, missing / at.slow
    launch = limits.launch * layers.present
    total = np.maximum(compute, np.maximum(fast, slow)) + launch
    flop = machine.energy_per_flop or (machine.tdp - machine.idle_power) / machine.matrix.int8
    energy = 2.0 * batch * layers.macs * flop + missing * at.slow_energy + layers.weights * at.fast_energy
    energy = energy + moved * at.activation_energy
    slow_bytes = missing + (moved if at.beside else 0.0)
    return {"compute": compute, "fast": fast, "slow": slow, "launch": launch, "total": total,
            "slow_bytes": slow_bytes + np.zeros(np.shape(total)), "energy": energy}  # fmt: skip


def compared(
    subnets: Sequence[SubNet], devices: Sequence[str], *, tier: Tier = "buffer", nodes: Sequence[str] = (),
    resident: float | None = None, queries: int = 2000, window: int = 8, stay: float = 0.98, count: int = 32,
    seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Devices side by side: what residence saves of each SubNet's latency, and served with the rules of the scheduler.

    Args:
        devices: ids of accelerators for ``buffer``; for ``memory`` ``nodes`` are given instead.

    Returns:
        Columns ``device``, ``caching``, ``latency`` (s, mean response), ``p99`` (s), ``energy`` (J a query), ``hit``
        (share of the bytes) and ``saving`` against nothing resident.
    """
    import pandas as pd

    from dse.domains.sushi.problem import stream
    from dse.domains.sushi.serve import serve

    rows = []
    for name in nodes if tier == "memory" else devices:
        given: dict[str, Any] = {"device": None, "node": name} if tier == "memory" else {"device": name}
        priced = table(**given, subnets=subnets, tier=tier, resident=resident, count=count, seed=seed)
        asked = stream(priced, "markov", queries, seed=seed, stay=stay)
        alone = None
        for caching in ("none", "static", "average", "oracle"):
            done = serve(priced, asked, caching=caching, window=window).summary()
            alone = alone or done["response_mean"]
            rows.append(
                {"device": name, "caching": caching, "latency": done["response_mean"], "p99": done["response_p99"],
                 "energy": done["energy"] / queries, "hit": done["hit"], "saving": 1 - done["response_mean"] / alone}
            )  # fmt: skip
    return pd.DataFrame(rows)
