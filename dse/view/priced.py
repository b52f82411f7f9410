"""Rows of a search's table priced together: their hardware and their strategies as arrays of one axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.explore.evaluate import price
from dse.explore.search.variables import coupled
from dse.space.axes import with_value

if TYPE_CHECKING:
    from dse.cost.graph import Evaluation
    from dse.explore.search.found import SearchResult


def values(found: SearchResult, rows: Sequence[int], *wanted: Callable[[Evaluation], Any]) -> list[np.ndarray]:
    """Numbers of some rows of the table, each by a function of what is priced.

    Args:
        rows: of the table, each with a strategy.
        wanted: what to compute, in SI units.

    Returns:
        An array of a number a row for each of ``wanted``.
    """
    results = [np.full(len(rows), np.nan) for _ in wanted]
    for places, evaluation in _priced(found, rows):
        for result, function in zip(results, wanted, strict=True):
            result[places] = np.broadcast_to(np.asarray(function(evaluation), dtype=float), (len(places),))
    return results


def _priced(found: SearchResult, rows: Sequence[int]) -> list[tuple[np.ndarray, Evaluation]]:
    """Places among ``rows`` and their evaluation, hardware of one structure together."""
    alike: dict[Any, list[int]] = {}
    for place, row in enumerate(rows):
        alike.setdefault(found.problem.key(found.points[found.rows[row][0]]), []).append(place)
    return [(np.array(places), _evaluation(found, [rows[p] for p in places])) for places in alike.values()]


def _evaluation(found: SearchResult, rows: Sequence[int]) -> Evaluation:
    chosen = [found.rows[row] for row in rows]
    points = [found.points[number] for number, _, _ in chosen]
    group = found.problem.group(points[0])
    specs: dict[str, Any] = dict(group.specs)
    for v in found.problem.variables:
        if v.name in group.places:
            place = group.places[v.name]
            lying = np.array([v.value(point[v.name]) for point in points])
            specs[place.root] = with_value(specs[place.root], place.steps, lying)
    specs = coupled(specs, group.base, group.couplings)
    indices = np.unravel_index([strategy for _, _, strategy in chosen], group.shape)
    for b, index in zip(group.strategies, indices, strict=True):
        specs[b.place.root] = with_value(specs[b.place.root], b.place.steps, np.asarray(b.values)[index])
    return price(specs, devices_given=True, replace=found.problem.replace)
