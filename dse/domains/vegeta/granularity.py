"""How finely sparsity may vary: the speed-up when a network, a layer, a tile, a pair of rows or a row has one N of N:M.

Zeros are never lost: whatever shares one N takes the smallest that holds its fullest block. The coarser the sharing,
the more often one full block spoils it, which is why random zeros gain nothing network-wise.

The closed form is for zeros that fall independently. With density d, blocks of M and b blocks that share one N, the
chance that N suffices is F(N)^b, F the binomial distribution of M draws; a piece of N costs N/M of its dense time, so

    speed-up = 1 / Σ_N (N/M) · [F(N)^b − F(N')^b],   N' the next smaller of the engine's patterns.

Re-derived; with pieces of 64 columns it gives the 2.36 and 3.28 published for row-wise sparsity at 90 and 95 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import comb
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dse.domains.vegeta import language, prune
from dse.domains.vegeta.check import fault
from dse.domains.vegeta.registers import registers

if TYPE_CHECKING:
    import pandas as pd

GRANULARITIES = ("network", "layer", "tile", "pseudo-row", "row")
SPARSITIES = (*(round(0.05 * i, 2) for i in range(20)), 0.98, 0.99)


def holds(sparsity: Any, n: int, *, block: int = 4) -> np.ndarray:
    """Chance that a block of ``block`` weights has at most ``n`` that are not zero, by sparsity (any shape)."""
    zero = np.asarray(sparsity, dtype=float)
    if np.any(zero < 0.0) or np.any(zero > 1.0):
        raise fault("sparsity", sparsity, "must be from 0 to 1")
    if n >= block:
        return np.ones_like(zero)
    terms = (comb(block, j) * (1.0 - zero) ** j * zero ** (block - j) for j in range(n + 1))
    return np.minimum(sum(terms, start=np.zeros_like(zero)), 1.0)


def expected(
    sparsity: Any, granularity: str = "row", *, block: int = 4, patterns: Sequence[int] = (1, 2, 4), width: int = 64,
    rows: int = 16, layer: int = 16 * 1024, layers: int = 12,
) -> np.ndarray:  # fmt: skip
    """Speed-up over dense for zeros that fall independently; the equation stands above.

    Args:
        sparsity: share of zeros, 0 to 1, any shape.
        granularity: one of :data:`GRANULARITIES`; ``pseudo-row`` lets a row run at N = 1, which fills half a column of
            the array, only if its neighbour in a pair does, too.
        block, patterns: M, and the N that the engine runs; the largest must be M.
        width: columns of the matrix in one piece of a row.
        rows: of a tile.
        layer: blocks of a layer.
        layers: of the network, all alike.

    Returns:
        Speed-up, the shape of ``sparsity``.
    """
    blocks = {
        "row": width // block, "pseudo-row": width // block, "tile": rows * (width // block), "layer": layer,
        "network": layer * layers,
    }  # fmt: skip
    if granularity not in blocks:
        raise fault("granularity", granularity, f"must be one of {', '.join(GRANULARITIES)}")
    if max(patterns) != block:
        raise fault("patterns", patterns, f"must have block = {block} as its largest, or dense blocks do not fit")
    zero = np.asarray(sparsity, dtype=float)
    cost, below = np.zeros_like(zero), np.zeros_like(zero)
    for n in sorted(patterns):
        share = holds(zero, n, block=block) ** blocks[granularity]
        if granularity == "pseudo-row" and n == 1 < block:  # less than a column: both rows of the pair must need it
            share = share**2
        cost += n / block * (share - below)
        below = share
    return 1.0 / cost


def unstructured(sparsity: Any, *, area: Any = 1.0) -> np.ndarray:
    """Speed-up per area of an ideal engine that skips every zero and is ``area`` times as large: 1 / ((1 − s) · area).

    How much larger such an engine is, and how near it comes to the ideal, is not known: ``area`` stands for both.
    """
    with np.errstate(divide="ignore"):
        return 1.0 / ((1.0 - np.asarray(sparsity, dtype=float)) * np.asarray(area, dtype=float))


def break_even_area(sparsity: Any, granularity: str = "row", **engine: Any) -> np.ndarray:
    """Relative area below which the ideal unstructured engine wins at a sparsity (keywords as :func:`expected`)."""
    return unstructured(sparsity) / expected(sparsity, granularity, **engine)


def crossover(area: Any, granularity: str = "row", **engine: Any) -> np.ndarray:
    """Sparsity above which the ideal unstructured engine of a relative area wins, by ``area`` (any shape).

    At an area of 1 it always wins: 0. Found on a grid of sparsities 1e-4 apart up to 0.9999, NaN beyond it.
    """
    grid = np.linspace(0.0, 0.9999, 10_000)
    needed = np.maximum.accumulate(break_even_area(grid, granularity, **engine))
    area = np.asarray(area, dtype=float)
    found = np.interp(area, needed, grid, left=0.0, right=np.nan)
    return np.where(area <= needed[0], 0.0, found)


def crossover_map(sparsity: Sequence[float], area: Sequence[float], **engine: Any) -> pd.DataFrame:
    """Row-wise speed-up against the ideal unstructured engine's per area, over both unknowns.

    Returns:
        Rows of sparsity x area with ``row_wise``, ``unstructured`` and their ``ratio`` (above 1: row-wise wins).
    """
    import pandas as pd

    s, a = (g.ravel() for g in np.meshgrid(np.asarray(sparsity, float), np.asarray(area, float), indexing="ij"))
    row, ideal = expected(s, "row", **engine), unstructured(s, area=a)
    return pd.DataFrame({"sparsity": s, "area": a, "row_wise": row, "unstructured": ideal, "ratio": row / ideal})


def measured(matrices: Iterable[np.ndarray], engine: Any) -> dict[str, float]:
    """Speed-up over dense of a network's matrices by granularity, by the real covers and the real packer.

    Args:
        matrices: weights [m, k] of each layer, whose products have equally many columns.
        engine: an :class:`~dse.domains.vegeta.engine.Engine` that packs rows (``row_wise``).

    Returns:
        Of each of :data:`GRANULARITIES`: work of the dense tiles over that of the cover, all layers together. A
        row-wise tile is counted as packed, gaps included; adding up the partial sums of reordered rows is not.
    """
    from dse.domains.vegeta.cover import pack, row_patterns, tile_patterns

    block, fullest = engine.block, []
    dense = work = pieces = 0.0
    packed = dict.fromkeys(("pseudo-row", "row"), 0)
    r = registers(engine)
    for a in matrices:
        n = row_patterns(a, engine.patterns, block, r.span)
        tiles = tile_patterns(n, engine.tile_m)
        pieces += tiles.size
        work += tiles.sum() / block
        fullest.append((tiles.size, tiles.max() / block))
        for name, order in (("pseudo-row", "none"), ("row", "panel")):
            found = pack(a, engine, order=order)  # type: ignore[arg-type]
            packed[name] += len(found.panel)
        dense += found.dense_tiles
    return {
        "network": 1.0 / max(n for _, n in fullest),
        "layer": pieces / sum(size * n for size, n in fullest),
        "tile": pieces / work,
        **{name: dense / count for name, count in packed.items()},
    }


MATRICES = ("random", "skewed", "block", "model", "model, block", "model, N:M")
SHAPES = ((4096, 128),) * 3  # tall, so that the last tile of a panel, seldom full, counts little


class Network(NamedTuple):
    """Pruned matrices [m, k], and the loss of the language model that they belong to in bits a character, or NaN."""

    matrices: list[np.ndarray]
    loss: float


def network(kind: str, sparsity: float, *, seed: int = 0, block: int = 4, steps: int = 0) -> Network:
    """A network of one kind at a sparsity.

    Args:
        kind: one of :data:`MATRICES`: made ones of :data:`SHAPES` with zeros that fall independently, in rows of
            unequal sparsity or in square blocks; or the trained language model, pruned by the magnitude of single
            weights, of blocks, or to the nearest N:M.
        seed: of made ones, and of the model.
        block: M of N:M, and the side of blocks.
        steps: of retraining of the pruned model.
    """
    made = {
        "random": lambda m, k, at: prune.random(m, k, sparsity, seed=at),
        "skewed": lambda m, k, at: prune.skewed(m, k, sparsity, seed=at),
        "block": lambda m, k, at: prune.blocks(m, k, sparsity, shape=(block, block), seed=at),
    }
    pruned = {"model": "unstructured", "model, block": "block", "model, N:M": "n:m"}
    if kind in made:
        return Network([made[kind](m, k, seed + i) for i, (m, k) in enumerate(SHAPES)], np.nan)
    if kind not in pruned:
        raise fault("kind", kind, f"must be one of {', '.join(MATRICES)}")
    model = language.prune(language.train(seed=seed), pruned[kind], sparsity, block=block, steps=steps)
    return Network(list(model.matrices().values()), language.loss(model))


def study(
    engine: Any, *, kinds: Sequence[str] = MATRICES, sparsities: Sequence[float] = SPARSITIES, seed: int = 0,
    steps: int = 0, accuracy: Callable[[str, float], float] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Speed-up by granularity against sparsity, for each kind of matrix.

    Args:
        engine: one that packs rows.
        kinds, sparsities, seed, steps: see :func:`network`.
        accuracy: of the user's own network by kind and sparsity; by default none.

    Returns:
        Rows of kind x sparsity x granularity: ``speedup``; ``expected`` of the closed form (random zeros only); the
        ``reached`` sparsity; ``loss`` of the language model in bits a character (its kinds only); ``accuracy``.
    """
    import pandas as pd

    rows = []
    for kind in kinds:
        for wanted in sparsities:
            matrices, loss = network(kind, wanted, seed=seed, block=engine.block, steps=steps)
            shared = {
                "kind": kind,
                "sparsity": float(wanted),
                "reached": prune.sparsity_of(*matrices),
                "loss": loss,
                "accuracy": np.nan if accuracy is None else accuracy(kind, float(wanted)),
            }
            for granularity, gain in measured(matrices, engine).items():
                known = _expected(engine, float(wanted), granularity) if kind == "random" else np.nan
                rows.append(shared | {"granularity": granularity, "speedup": gain, "expected": known})
    return pd.DataFrame(rows)


def _expected(engine: Any, sparsity: float, granularity: str) -> float:
    shape = {"block": engine.block, "patterns": engine.patterns, "width": registers(engine).span}
    sizes = {"rows": engine.tile_m, "layer": SHAPES[0][0] * SHAPES[0][1] // engine.block, "layers": len(SHAPES)}
    return float(expected(sparsity, granularity, **shape, **sizes))
