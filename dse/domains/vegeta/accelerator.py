"""A processor whose cores have a tile engine, as an accelerator of the catalogue, so that cluster studies can use it.

Peaks are effective: at 2:4 the matrix peak is twice the array's. What the cycle model reaches of it, on average over
the shipped layers, becomes ``efficiency.matrix``; nothing else of the efficiency is known, so the rest is ideal or
assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dse.domains.vegeta.check import share, sizes
from dse.domains.vegeta.roofline import VECTOR_PEAK, peak
from dse.spec.hardware import Accelerator

# The host is a Xeon Platinum 8480+ as Intel states it: 56 cores, 2 MiB of L2 each and 105 MiB of L3, eight channels of
# DDR5-4800. The published engine's core clock of 2 GHz and tile registers are at home there. Power is assumed: cores
# idle at 110 W, and what is above is near what :mod:`dse.domains.vegeta.cost` gives for 56 engines at full rate.
HOST: dict[str, Any] = {
    "vendor": "hypothetical",
    "year": 2023,
    "generation": "vegeta",  # nothing of it was measured
    "buffer": "217 MiB",
    "memory": {
        "name": "ddr", "kind": "ddr", "capacity": "512 GiB", "bandwidth": "307.2 GB/s", "latency": "100 ns",
        "energy": "15 pJ/bit",
    },
    "reserved_memory": "8 GiB",
    "idle_power": "110 W",
    "tdp": "225 W",
    "area": "1600 mm^2",
    "price": "14000 USD",
    "embodied_carbon": "60 kg",
}  # fmt: skip
MEMORY_EFFICIENCY = 0.8  # of DDR bandwidth in streams; assumed
CORES = 56
TRAINING_SHARE = 2.0 / 3.0
SOURCES: list[dict[str, Any]] = [
    {
        "title": "Intel Xeon Platinum 8480+ product specifications: the host that the engine is placed in",
        "date": "2023-01",
        "kind": "datasheet",
        "url": "https://www.intel.com/content/www/us/en/products/sku/231746/specifications.html",
        "covers": ["year", "cores", "buffer", "memory.bandwidth"],
    },
    {
        "title": "Computed by dse.domains.vegeta: peaks from the engine's geometry, efficiency.matrix and "
        "efficiency.attention the mean utilisation of its cycle model over the shipped layers",
        "date": "2026-11",
        "kind": "assumed",
        "covers": ["matrix", "efficiency.matrix", "efficiency.attention"],
    },
    {
        "title": "VEGETA (Jeong et al., HPCA 2023), recalled with medium confidence: 64 GFLOP/s of a core's vectors",
        "date": "2023-02",
        "kind": "assumed",
        "url": "https://arxiv.org/abs/2302.08687",
        "covers": ["vector"],
    },
    {
        "title": "Estimates of the dse authors from typical published figures; refine with your own quotes "
        "and measurements",
        "date": "2026-11",
        "kind": "assumed",
        "covers": ["*"],
    },
]


def utilisation(engine: Any, pattern: int | None = None, layers: Sequence[Any] | None = None, **kernel: Any) -> float:
    """Rate that the cycle model reaches over all layers together, of the effective peak.

    Padding, fill and drain, waits for loads and for C count against it: Σ FLOP / (peak · Σ time).

    Args:
        engine: an :class:`~dse.domains.vegeta.engine.Engine`.
        pattern: the N of its N:M; dense by default.
        layers: with ``m``, ``n``, ``k``; by default the shipped ones.
        kernel: knobs of the kernel.
    """
    from dse.domains.vegeta.timing import time_gemm
    from dse.domains.vegeta.workloads import layers as shipped

    taken = shipped() if layers is None else layers
    seconds = sum(time_gemm(x.m, x.n, x.k, engine, pattern=pattern or engine.block, **kernel).seconds for x in taken)
    return sum(2.0 * x.m * x.n * x.k for x in taken) / (peak(engine, pattern) * seconds)


def to_accelerator(
    engine: Any, *, cores: int = CORES, pattern: int | None = None, sparse_share: float | None = None,
    id: str | None = None, name: str | None = None, layers: Sequence[Any] | None = None, **host: Any,
) -> Accelerator:  # fmt: skip
    """A socket of ``cores`` cores with an engine each, as an entry of the catalogue.

    With share f of the matrix FLOP under pruned weights (rate P_s u_s) and the rest dense (P_d u_d), one effective FLOP
    takes f / (P_s u_s) + (1 − f) / (P_d u_d); ``efficiency.matrix`` is what that leaves of P_s. Attention has no
    weights and runs dense.

    Args:
        engine: an :class:`~dse.domains.vegeta.engine.Engine`.
        cores: of the socket.
        pattern: the N that the weights are pruned to; the block (dense) by default.
        sparse_share: f. 1 if only forward passes are run. By default two thirds if pruned: of the three products of a
            training step those of the forward pass and of the input's gradient have the weights as an operand; that
            the mask also holds for the transposed weights is then the pruner's duty.
        id, name: of the entry.
        layers: that the mean utilisation is taken over.
        host: fields of :class:`~dse.spec.hardware.Accelerator` other than those of :data:`HOST`.

    Raises:
        SpecError: a pattern that the engine does not run, or a host field out of range.
    """
    sizes(cores=cores)
    pattern = engine.block if pattern is None else pattern
    dense = pattern == engine.block
    f = (1.0 if dense else TRAINING_SHARE) if sparse_share is None else sparse_share
    share("sparse_share", f)
    top, flat = peak(engine, pattern), peak(engine)
    unpruned = utilisation(engine, None, layers)
    pruned = unpruned if dense else utilisation(engine, pattern, layers)
    mean = 1.0 / (f / pruned + (1.0 - f) * top / (flat * unpruned))
    kind = "dense" if dense else f"{pattern}to{engine.block}"
    return Accelerator.parse(
        {
            "id": id or f"{engine.id}-{cores}c-{kind}",
            "name": name or f"{engine.name or engine.id}, {cores} cores, {_weights(engine, pattern)}",
            "cores": cores,
            "matrix": {"bf16": cores * top},
            "vector": {"fp32": cores * VECTOR_PEAK},
            "efficiency": {
                "matrix": round(mean, 3),
                "attention": round(unpruned * flat / top, 3),
                "memory": MEMORY_EFFICIENCY,
            },
            "sources": SOURCES,
            **HOST,
            **host,
        }
    )


def _weights(engine: Any, pattern: int) -> str:
    return "dense weights" if pattern == engine.block else f"weights pruned to {pattern}:{engine.block}"
