"""Pareto fronts and hypervolumes against brute force, whatever the order and the company."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.explore.search.pareto import front, hypervolume, matched_by

# Few distinct numbers, so that ties in one column, in several and in all are common.
FEW = st.sampled_from([-1.5, 0.0, 1.0, 2.0, 3.25, 1e300])
ANY = st.floats(-1e6, 1e6)


def points(number: st.SearchStrategy[float], widths: tuple[int, ...] = (1, 2, 3, 4), most: int = 40):
    def rows(width: int):
        row = st.lists(number, min_size=width, max_size=width)
        return st.lists(row, min_size=0, max_size=most).map(lambda found: np.array(found).reshape(-1, width))

    return st.sampled_from(widths).flatmap(rows)


def brute(given: np.ndarray) -> list[int]:
    """Rows that no row dominates, of equal rows the first, in lexicographic order."""
    kept = [
        i
        for i, row in enumerate(given)
        if not any((other <= row).all() and (other < row).any() for other in given)
        and not any((other == row).all() for other in given[:i])
    ]
    return sorted(kept, key=lambda i: tuple(given[i]))


@settings(max_examples=200, deadline=None)
@given(points(FEW) | points(ANY))
def test_the_front_is_that_of_comparing_all_pairs(rows):
    assert front(rows).tolist() == brute(rows)


@settings(max_examples=100, deadline=None)
@given(points(FEW), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_no_values(rows, random):
    """A permutation gives the same values in the same order; of equal rows the first of the new order is kept."""
    order = list(range(len(rows)))
    random.shuffle(order)
    assert rows[order][front(rows[order])].tolist() == rows[front(rows)].tolist()
    assert front(rows[order]).tolist() == brute(rows[order])


@settings(max_examples=100, deadline=None)
@given(points(ANY), st.lists(st.floats(0.0, 10.0), min_size=1, max_size=10), st.integers(0, 10**6))
def test_dominated_and_repeated_points_change_nothing(rows, steps, pick):
    if not len(rows):
        return
    worse = np.array([rows[(pick + i) % len(rows)] + step for i, step in enumerate(steps)])
    assert front(np.concatenate([rows, worse])).tolist() == front(rows).tolist()


@settings(max_examples=100, deadline=None)
@given(points(FEW), points(FEW))
def test_matched_by_names_the_first_row_that_is_nowhere_worse(rows, best):
    if rows.shape[1] != best.shape[1]:
        best = best[:0, :1].reshape(0, rows.shape[1])
    expected = [next((k for k, b in enumerate(best) if (b <= row).all()), -1) for row in rows]
    assert matched_by(rows, best).tolist() == expected
    kept = rows[front(rows)]
    assert (matched_by(rows, kept) >= 0).all()  # every row is on the front, equals one on it or is dominated


def test_rows_that_are_no_numbers_are_matched_by_nothing():
    assert matched_by(np.array([[np.nan, 1.0], [2.0, 2.0]]), np.array([[0.0, 0.0]])).tolist() == [-1, 0]


def union(rows: np.ndarray, reference: np.ndarray) -> float:
    """Volume of the union of boxes between points and reference, by inclusion and exclusion."""
    inside = [row for row in rows if (row < reference).all()]
    total = 0.0
    for count in range(1, len(inside) + 1):
        for chosen in combinations(inside, count):
            total -= (-1) ** count * float(np.prod(reference - np.max(chosen, axis=0)))
    return total


@settings(max_examples=100, deadline=None)
@given(points(st.integers(0, 6).map(float), widths=(1, 2, 3, 4), most=7), st.integers(2, 7))
def test_hypervolume_is_that_of_the_union_of_boxes(rows, end):
    """Whole numbers make both exact; points beyond the reference count nothing."""
    reference = np.full(rows.shape[1], float(end))
    assert hypervolume(rows, reference) == union(rows, reference)
    assert hypervolume(rows[front(rows)], reference) == union(rows, reference)


@pytest.mark.parametrize("width", [2, 3])
def test_hypervolume_agrees_with_sampling(width):
    draw = np.random.default_rng(width)
    rows = draw.random((30, width))
    samples = draw.random((200_000, width))
    below = np.zeros(len(samples), dtype=bool)
    for row in rows:
        below |= (samples >= row).all(axis=1)
    share = below.mean()
    spread = np.sqrt(share * (1 - share) / len(samples))
    assert hypervolume(rows, np.ones(width)) == pytest.approx(share, abs=5 * spread)


@settings(max_examples=60, deadline=None)
@given(points(st.floats(0.0, 1.0), widths=(2, 3), most=8), st.floats(0.0, 1.0), st.floats(0.01, 5.0))
def test_hypervolume_grows_with_points_and_scales_with_units(rows, extra, unit):
    reference = np.ones(rows.shape[1])
    more = np.concatenate([rows, np.full((1, rows.shape[1]), extra)])
    assert hypervolume(more, reference) >= hypervolume(rows, reference) * (1 - 1e-12)
    assert hypervolume(rows * unit, reference * unit) == pytest.approx(
        hypervolume(rows, reference) * unit ** rows.shape[1], rel=1e-9, abs=1e-12
    )
