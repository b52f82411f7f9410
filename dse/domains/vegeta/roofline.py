"""Rooflines of a core's vector unit and matrix engine, and where layers stand under them at each sparsity.

Rates are *effective*: FLOP of the dense product, so that skipping zeros shows as a higher roof. Intensity is effective
FLOP over the bytes that must cross memory once: A compressed with its positions, B, and C read and written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dse.domains.vegeta.check import fault
from dse.domains.vegeta.registers import registers

if TYPE_CHECKING:
    import pandas as pd

VECTOR_PEAK = 64e9  # FLOP/s of a core; recalled, medium confidence
BANDWIDTH = 94e9  # B/s; recalled, low confidence


class Roof(NamedTuple):
    """A ceiling: its name, effective FLOP/s, and the N of N:M (None: the vector unit)."""

    name: str
    peak: float
    pattern: int | None


def peak(engine: Any, pattern: int | None = None) -> float:
    """Effective FLOP/s of the array: 2 · MACs · clock · M/N."""
    pattern = engine.block if pattern is None else pattern
    registers(engine).width(pattern)  # refuses a pattern that does not run
    return 2.0 * engine.macs * engine.clock * engine.block / pattern


def roofs(engine: Any, *, vector: float = VECTOR_PEAK) -> list[Roof]:
    """The ceilings of a core with an engine: vector unit, dense matrix, and each sparse pattern."""
    found = [Roof("vector", vector, None)]
    for n in sorted(engine.patterns, reverse=True):
        found.append(Roof(f"matrix {n}:{engine.block}", peak(engine, n), n))
    return found


def intensity(m: Any, n: Any, k: Any, pattern: Any, *, block: int = 4) -> np.ndarray:
    """Effective FLOP per byte of C += A B with A at N:M, all arguments broadcast.

    2mnk / (mk (N/M) (2 + bits/8) + 2kn + 8mn): BF16 operands, ``bits`` = log2 M of position for each kept weight
    (none where dense), FP32 results read and written.
    """
    m, n, k, pattern = (np.asarray(x, dtype=float) for x in (m, n, k, pattern))
    position = np.where(pattern < block, np.ceil(np.log2(block)) / 8.0, 0.0)
    return 2.0 * m * n * k / (m * k * pattern / block * (2.0 + position) + 2.0 * k * n + 8.0 * m * n)


def attainable(intensity: Any, peak: Any, bandwidth: Any = BANDWIDTH) -> np.ndarray:
    """min(peak, intensity · bandwidth) in FLOP/s."""
    return np.minimum(peak, np.asarray(intensity, dtype=float) * bandwidth)


def points(
    engine: Any, layers: Sequence[Any] | None = None, *, patterns: Sequence[int] | None = None,
    bandwidth: float = BANDWIDTH, reached: bool = True, **kernel: Any,
) -> pd.DataFrame:  # fmt: skip
    """Every layer at every pattern: intensity, attainable rate, and the rate that the cycle model reaches.

    Args:
        engine: an :class:`~dse.domains.vegeta.engine.Engine`.
        layers: with ``name``, ``m``, ``n``, ``k``; by default those of :mod:`dse.domains.vegeta.workloads`.
        patterns: the N to look at; by default all that the engine runs.
        bandwidth: of memory, B/s.
        reached: also run the cycle model, whose operands come out of the L2 cache.
        kernel: knobs of :func:`dse.domains.vegeta.kernels.gemm_program`.

    Returns:
        A row a layer and pattern: ``layer, pattern, intensity [FLOP/B], peak, attainable, reached [FLOP/s], bound``.

    Raises:
        SpecError: a bandwidth that is not positive, or a pattern that the engine does not run.
    """
    import pandas as pd

    from dse.domains.vegeta.timing import time_gemm
    from dse.domains.vegeta.workloads import layers as shipped

    if not bandwidth > 0.0:
        raise fault("bandwidth", bandwidth, "must be above 0 B/s")
    rows = []
    for layer in shipped() if layers is None else layers:
        for n in sorted(engine.patterns if patterns is None else patterns, reverse=True):
            flops, top = 2.0 * layer.m * layer.n * layer.k, peak(engine, n)
            dense = float(intensity(layer.m, layer.n, layer.k, n, block=engine.block))
            row = {"layer": layer.name, "pattern": n, "intensity": dense, "peak": top}
            row["attainable"] = float(attainable(dense, top, bandwidth))
            if reached:
                row["reached"] = flops / time_gemm(layer.m, layer.n, layer.k, engine, pattern=n, **kernel).seconds
            rows.append(row | {"bound": "memory" if row["attainable"] < top else "compute"})
    return pd.DataFrame(rows)
