"""The order of a ring: neighbours of the ring should be neighbours in the network."""

from __future__ import annotations

import numpy as np

from dse.collective.library.base import Net
from dse.collective.topology import Ints
from dse.jit import njit


def ring_order(net: Net) -> Ints:
    """Ranks in the order of a ring, [n].

    On a grid a Hamiltonian cycle (to and fro over the rows, back along the first column), where a side is even;
    else the tour of nearest neighbours improved by reversing stretches of it, or the order of the ranks. The one whose
    longest step is shortest is taken, and of those the shortest in total.
    """
    n = net.n
    tours = [np.arange(n)]
    shape = net.topology.shape
    if len(shape) > 1 and int(np.prod(shape)) == n == net.topology.npus:
        tours.extend(_grid_cycles(shape))
    far = np.ascontiguousarray(net.far)
    best = min(tours, key=lambda tour: _length(far, tour))
    if _length(far, best)[0] <= far[far > 0].min(initial=np.inf) * (1 + 1e-9):
        return best
    tours.extend(_improved(far, _nearest(far, start), 30) for start in range(min(n, 4)))
    return min(tours, key=lambda tour: _length(far, tour))


def _length(far, tour) -> tuple[float, float]:
    steps = far[tour, np.roll(tour, -1)]
    return round(float(steps.max()), 15), float(steps.sum())


def _grid_cycles(shape: tuple[int, ...]) -> list[Ints]:
    """Closed tours of a grid: one side against a snake through all the others."""
    place = np.arange(int(np.prod(shape))).reshape(shape)
    tours = []
    for side in range(len(shape)):
        rows = np.moveaxis(place, side, 0)
        rows = rows.reshape(rows.shape[0], -1)[:, _snake(rows.shape[1:])]
        tours.extend(_closed(grid) for grid in (rows, rows.T))
        tours.append(np.concatenate([np.roll(row, i) for i, row in enumerate(rows)]))  # tori: a row ends one back
    return tours


def _snake(shape: tuple[int, ...]) -> Ints:
    """To and fro through a grid, every step to a neighbour."""
    path = np.arange(shape[0])
    for side in shape[1:]:
        row = np.arange(side)
        path = np.concatenate([p * side + (row if i % 2 == 0 else row[::-1]) for i, p in enumerate(path)])
    return path


def _closed(grid: Ints) -> Ints:
    if grid.shape[1] == 1:
        return grid.ravel()
    turns = [row[1:] if i % 2 == 0 else row[:0:-1] for i, row in enumerate(grid)]
    return np.concatenate([*turns, grid[::-1, 0]])


@njit(cache=True)
def _nearest(far, start):
    n = len(far)
    seen = np.zeros(n, np.bool_)
    tour = np.empty(n, np.int64)
    at = start
    for i in range(n):
        tour[i] = at
        seen[at] = True
        best = -1
        for j in range(n):
            if not seen[j] and (best < 0 or far[at, j] < far[at, best]):
                best = j
        at = best
    return tour


@njit(cache=True)
def _improved(far, tour, rounds):
    """Reverse a stretch (2-opt) while that shortens the tour; the stretch is measured both ways, links may differ."""
    n = len(tour)
    for _ in range(rounds):
        better = False
        for i in range(n - 2):
            a, b = tour[i], tour[i + 1]
            gain = 0.0  # of the links inside the stretch, turned round
            for j in range(i + 2, n):
                gain += far[tour[j - 1], tour[j]] - far[tour[j], tour[j - 1]]
                c, d = tour[j], tour[(j + 1) % n]
                if d == a:
                    continue
                if far[a, b] + far[c, d] + gain > (far[a, c] + far[b, d]) * (1 + 1e-12):
                    tour[i + 1 : j + 1] = tour[i + 1 : j + 1][::-1].copy()
                    better = True
                    b = tour[i + 1]
                    gain = 0.0
                    for k in range(i + 2, j + 1):
                        gain += far[tour[k - 1], tour[k]] - far[tour[k], tour[k - 1]]
        if not better:
            break
    return tour
