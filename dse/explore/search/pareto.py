"""Pareto fronts: which points no other point beats in every objective."""

from __future__ import annotations

import numpy as np


def front(points: np.ndarray) -> np.ndarray:
    """Rows that no other row dominates, all columns being minimised, in lexicographic order of their values.

    Of rows with equal values only the first is kept.

    Args:
        points: (n, m), finite.

    Returns:
        Their indices.
    """
    points = np.asarray(points, dtype=float)
    count, width = points.shape
    if count == 0:
        return np.empty(0, dtype=np.intp)
    order = np.lexsort((np.arange(count), *(points[:, column] for column in range(width - 1, -1, -1))))
    if width == 1:
        return order[:1]
    if width == 2:  # sorted by the first column: a point is on the front where the second falls below all before it
        second = points[order, 1]
        before = np.concatenate([[np.inf], np.minimum.accumulate(second)[:-1]])
        return order[second < before]
    kept = []
    left = order
    while len(left):  # the first of those left is not dominated by any other: strike out what it dominates
        chosen = left[0]
        kept.append(chosen)
        left = left[np.any(points[left] < points[chosen], axis=1)]
    return np.array(kept)


def matched_by(points: np.ndarray, best: np.ndarray) -> np.ndarray:
    """For each row of ``points``, the first row of ``best`` that is nowhere worse; −1 where there is none.

    Args:
        points: (n, m), minimised; rows with NaN are matched by nothing.
        best: (k, m).
    """
    points, best = np.asarray(points, dtype=float), np.asarray(best, dtype=float)
    found = np.full(len(points), -1)
    for place in range(len(best) - 1, -1, -1):
        found[np.all(best[place] <= points, axis=1)] = place
    return found


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """Volume that the points dominate below a reference point (all columns minimised), by slicing along the last.

    Args:
        points: (n, m); those that do not lie below the reference count nothing.
        reference: (m,).
    """
    points, reference = np.asarray(points, dtype=float), np.asarray(reference, dtype=float)
    inside = points[np.all(points < reference, axis=1)]
    if not len(inside):
        return 0.0
    if inside.shape[1] == 1:
        return float(reference[0] - inside.min())
    inside = inside[np.argsort(inside[:, -1], kind="stable")]
    ends = np.append(inside[1:, -1], reference[-1])
    slices = ends - inside[:, -1]
    volumes = (hypervolume(inside[: i + 1, :-1], reference[:-1]) if s > 0 else 0.0 for i, s in enumerate(slices))
    return float(sum(s * v for s, v in zip(slices, volumes, strict=True) if s > 0))
