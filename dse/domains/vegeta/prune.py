"""Sparse matrices: random ones, blocks, rows of unequal sparsity, and weights pruned by magnitude.

The weights to prune may be the user's own, or those of the small language model of
:mod:`dse.domains.vegeta.language`, which is trained here in seconds and whose loss tells what pruning costs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dse.domains.vegeta.check import fault, share, sizes


def random(m: int, k: int, sparsity: float, *, seed: int = 0) -> np.ndarray:
    """Normal weights, each zero with the same probability independently of the others.

    Args:
        m, k: rows and columns.
        sparsity: probability of a zero, 0 to 1.
        seed: of the generator.

    Returns:
        float32 [m, k].
    """
    sizes(m=m, k=k)
    share("sparsity", sparsity)
    rng = np.random.default_rng(seed)
    return _nonzero(rng, (m, k)) * (rng.random((m, k), dtype=np.float32) >= np.float32(sparsity))


def blocks(m: int, k: int, sparsity: float, *, shape: tuple[int, int] = (4, 4), seed: int = 0) -> np.ndarray:
    """Normal weights of which whole blocks of ``shape`` are zero with probability ``sparsity``: float32 [m, k]."""
    sizes(m=m, k=k, rows=shape[0], columns=shape[1])
    share("sparsity", sparsity)
    rng = np.random.default_rng(seed)
    grid = rng.random((-(-m // shape[0]), -(-k // shape[1]))) >= sparsity
    kept = np.repeat(np.repeat(grid, shape[0], axis=0), shape[1], axis=1)[:m, :k]
    return _nonzero(rng, (m, k)) * kept


def skewed(m: int, k: int, sparsity: float, *, spread: float = 0.5, seed: int = 0) -> np.ndarray:
    """Rows of unequal sparsity: each row draws its own from a Beta distribution with mean ``sparsity``.

    Args:
        spread: 0 gives all rows the mean; near 1 rows are either empty or full. The variance over the rows is
            spread · sparsity · (1 − sparsity).

    Returns:
        float32 [m, k].
    """
    sizes(m=m, k=k)
    share("sparsity", sparsity)
    if not 0.0 <= spread < 1.0:
        raise fault("spread", spread, "must be at least 0 and below 1")
    rng = np.random.default_rng(seed)
    each = np.full(m, sparsity)
    if 0.0 < sparsity < 1.0 and spread > 0.0:
        strength = 1.0 / spread - 1.0
        each = rng.beta(sparsity * strength, (1.0 - sparsity) * strength, m)
    return _nonzero(rng, (m, k)) * (rng.random((m, k)) >= each[:, None])


def _nonzero(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Normal numbers without the rare exact zero, which would count as pruned."""
    drawn = rng.standard_normal(shape, dtype=np.float32)
    return np.where(drawn == 0.0, np.float32(1.0), drawn)


def magnitude(weights: np.ndarray, sparsity: float) -> np.ndarray:
    """Mask of the largest magnitudes anywhere in the matrix: bool, like ``weights``; round(sparsity · size) are off."""
    share("sparsity", sparsity)
    return _largest(np.abs(_matrix(weights)).reshape(1, -1), sparsity).reshape(np.shape(weights))


def magnitude_rows(weights: np.ndarray, sparsity: float) -> np.ndarray:
    """Mask of the largest magnitudes of each row: every row [m, k] keeps equally many."""
    share("sparsity", sparsity)
    return _largest(np.abs(_matrix(weights)), sparsity)


def magnitude_blocks(weights: np.ndarray, sparsity: float, *, shape: tuple[int, int] = (4, 4)) -> np.ndarray:
    """Mask of the blocks of ``shape`` with the largest sums of magnitudes; blocks at the edges may be cut off."""
    share("sparsity", sparsity)
    weights = np.abs(_matrix(weights))
    sizes(rows=shape[0], columns=shape[1])
    m, k = weights.shape
    rows, columns = -(-m // shape[0]), -(-k // shape[1])
    padded = np.zeros((rows * shape[0], columns * shape[1]), dtype=weights.dtype)
    padded[:m, :k] = weights
    score = padded.reshape(rows, shape[0], columns, shape[1]).sum(axis=(1, 3))
    kept = _largest(score.reshape(1, -1), sparsity).reshape(rows, columns)
    return np.repeat(np.repeat(kept, shape[0], axis=0), shape[1], axis=1)[:m, :k]


def n_of_m(weights: np.ndarray, n: int, *, block: int = 4) -> np.ndarray:
    """Mask of the ``n`` largest magnitudes of every ``block`` neighbours in a row; the last block may be shorter."""
    weights = np.abs(_matrix(weights))
    sizes(block=block)
    if not 1 <= n <= block:
        raise fault("n", n, f"must be 1 to block = {block}")
    m, k = weights.shape
    groups = -(-k // block)
    padded = np.full((m, groups * block), -1.0, dtype=weights.dtype)
    padded[:, :k] = weights
    by_block = padded.reshape(m * groups, block)
    kept = np.zeros(by_block.shape, dtype=bool)
    largest = np.argsort(-by_block, axis=1, kind="stable")[:, :n]
    np.put_along_axis(kept, largest, True, axis=1)
    return kept.reshape(m, -1)[:, :k]


def _largest(score: np.ndarray, sparsity: float) -> np.ndarray:
    """Mask [r, c] of the largest of each row; of equal ones the first stay."""
    off = round(sparsity * score.shape[1])
    kept = np.ones(score.shape, dtype=bool)
    if off:
        smallest = np.argsort(score[:, ::-1], axis=1, kind="stable")[:, :off]
        np.put_along_axis(kept, score.shape[1] - 1 - smallest, False, axis=1)
    return kept


def mask(weights: np.ndarray, kind: str, sparsity: float, *, block: int = 4) -> np.ndarray:
    """Mask by a named kind of pruning; ``n:m`` keeps the N of ``block`` that comes nearest to the sparsity.

    Raises:
        SpecError: an unknown kind, or a sparsity outside 0 to 1.
    """
    if kind not in KINDS:
        raise fault("kind", kind, f"must be one of {', '.join(KINDS)}")
    return KINDS[kind](weights, sparsity, block)


KINDS: dict[str, Callable[[np.ndarray, float, int], np.ndarray]] = {
    "unstructured": lambda weights, sparsity, block: magnitude(weights, sparsity),
    "rows": lambda weights, sparsity, block: magnitude_rows(weights, sparsity),
    "block": lambda weights, sparsity, block: magnitude_blocks(weights, sparsity, shape=(block, block)),
    "n:m": lambda weights, sparsity, block: n_of_m(weights, nearest_n(sparsity, block), block=block),
}


def nearest_n(sparsity: float, block: int = 4) -> int:
    """Non-zeros of a block that come nearest to a sparsity, at least 1."""
    share("sparsity", sparsity)
    return max(1, round((1.0 - sparsity) * block))


def sparsity_of(*matrices: np.ndarray) -> float:
    """Share of zeros in all matrices together."""
    return 1.0 - sum(int(np.count_nonzero(a)) for a in matrices) / max(sum(np.size(a) for a in matrices), 1)


def _matrix(weights: np.ndarray) -> np.ndarray:
    weights = np.asarray(weights)
    if weights.ndim != 2 or not weights.size:
        raise fault("weights", weights.shape, "must be a matrix with rows and columns")
    if not np.issubdtype(weights.dtype, np.number) or not np.all(np.isfinite(weights)):
        raise fault("weights", weights.dtype, "must be finite numbers")
    return weights
