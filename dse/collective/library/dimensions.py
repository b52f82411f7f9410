"""Algorithms that go through a network one dimension after the other: hierarchical (BlueConnect) and Themis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dse.collective.library.base import Algorithm, Net
from dse.collective.library.program import Moves
from dse.collective.topology import Ints


@dataclass(frozen=True)
class Grid:
    """Ranks along dimensions.

    Attributes:
        place: rank at each coordinate, [sides].
        direct: of each dimension, whether all its ranks are each other's neighbours: they send at once, not in a ring.
        rate: bytes/s with which a rank sends along each dimension.
    """

    place: Ints
    direct: tuple[bool, ...]
    rate: tuple[float, ...]


def grid_of(net: Net) -> Grid:
    """The topology's shape; without one, groups of equal size joined by its fastest links, and a ring of groups."""
    shape = tuple(side for side in net.topology.shape if side > 1)
    whole = shape and int(np.prod(shape)) == net.n == net.topology.npus
    place = np.arange(net.n).reshape(shape) if whole else _groups(net)
    direct, rate = [], []
    for axis in range(place.ndim):
        row = np.moveaxis(place, axis, 0).reshape(place.shape[axis], -1)[:, 0]
        near = net.adjacent[np.ix_(row, row)]
        direct.append(bool((near | np.eye(len(row), dtype=bool)).all()))
        from_first = (net.topology.src == net.members[row[0]]) & np.isin(net.topology.dst, net.members[row[1:]])
        rate.append(float(net.topology.bandwidth[from_first].sum()) or float(net.topology.bandwidth.min()))
    return Grid(place, tuple(direct), tuple(rate))


def _groups(net: Net) -> Ints:
    """Ranks by group, [groups, ranks of each]: what links of the greatest bandwidth join; or one group of all."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    topology, everyone = net.topology, np.arange(net.n)
    fast = topology.bandwidth >= topology.bandwidth.max(initial=0.0) * (1 - 1e-9)
    graph = coo_array((np.ones(fast.sum()), (topology.src[fast], topology.dst[fast])), shape=(topology.nodes,) * 2)
    label = connected_components(graph, directed=False)[1][net.members]
    _, sizes = np.unique(label, return_counts=True)
    if len(sizes) in (1, net.n) or (sizes != sizes[0]).any():
        return everyone
    return everyone[np.argsort(label, kind="stable")].reshape(len(sizes), -1)


def _ring(net: Net, grid: Grid, axis: int) -> Ints:
    """Coordinates along a dimension in the order of a ring: round a torus, out and back by twos on a line."""
    row = np.moveaxis(grid.place, axis, 0).reshape(grid.place.shape[axis], -1)[:, 0]
    side = np.arange(len(row))
    if net.far[row[-1], row[0]] <= net.far[row[0], row[1]] * (1 + 1e-9):
        return side
    return np.concatenate([side[::2], side[1::2][::-1]])


def _gather_along(net: Net, grid: Grid, axes: list[int], lane: int) -> Moves:
    """All-gather along one dimension after the other, each rank passing on all that it holds."""
    n, shape = net.n, grid.place.shape
    flat = np.arange(n)  # a shard, by the place of its owner
    parts, base, done = [], 0, []
    for axis in axes:
        ring, held = _ring(net, grid, axis), _combinations(grid, done)
        side = shape[axis]
        position = np.argsort(ring)
        coordinate = np.array(np.unravel_index(flat, shape))[:, :, None, None]  # [axes, shards, 1, 1]
        own = position[coordinate[axis]]
        step = np.arange(side - 1)[:, None]
        src, dst = (np.broadcast_arrays(*coordinate, step, held[0])[: len(shape)] for _ in range(2))
        src, dst = list(src), list(dst)
        src[axis] = coordinate[axis] if grid.direct[axis] else ring[(own + step) % side]
        dst[axis] = ring[(own + step + 1) % side]
        for k, other in enumerate(done):
            src[other] = dst[other] = held[k]
        shard = grid.place.ravel()[flat][:, None, None]
        moves = Moves.of(base + step, _at(grid, src), _at(grid, dst), shard, lane)
        parts.append(moves)
        base += side - 1
        done.append(axis)
    return Moves.joined(parts)


def _combinations(grid: Grid, axes: list[int]) -> Ints:
    """Coordinates of every place in some dimensions, [axes or 1, places]."""
    if not axes:
        return np.zeros((1, 1), np.int64)
    sides = [grid.place.shape[axis] for axis in axes]
    return np.array(np.unravel_index(np.arange(int(np.prod(sides))), sides))


def _at(grid: Grid, coordinates: list[Ints]) -> Ints:
    return grid.place[tuple(np.broadcast_arrays(*coordinates))]


def _spread_along(net: Net, grid: Grid, axes: list[int], root: int, pieces: int) -> Moves:
    shape = grid.place.shape
    home = np.argwhere(grid.place == root)[0]
    parts, base, done = [], 0, []
    for axis in axes:
        ring, held, side = _ring(net, grid, axis), _combinations(grid, done), shape[axis]
        ring = np.roll(ring, -int(np.flatnonzero(ring == home[axis])[0]))
        step = np.arange(side - 1)[:, None]
        src, dst = [np.full((1, 1), c) for c in home], [np.full((1, 1), c) for c in home]
        for k, other in enumerate(done):
            src[other] = dst[other] = held[k]
        src[axis] = ring[0 * step if grid.direct[axis] else step]
        dst[axis] = ring[step + 1]
        columns = (base + step, _at(grid, src), _at(grid, dst))
        parts.append(Moves.of(*(c[:, :, None] for c in columns), 0, np.arange(pieces)))
        base += side - 1
        done.append(axis)
    return Moves.joined(parts)


def _exchange_along(net: Net, grid: Grid, axes: list[int], lane: int) -> Moves:
    """Every block goes to its receiver's coordinate, one dimension after the other."""
    n, shape = net.n, grid.place.shape
    inverse = np.argsort(grid.place.ravel())
    sender, receiver = (a.ravel() for a in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
    at = list(np.unravel_index(inverse[sender], shape))
    to = np.unravel_index(inverse[receiver], shape)
    parts, base = [], 0
    for axis in axes:
        src = _at(grid, at)
        off = (to[axis] - at[axis]) % shape[axis]
        at[axis] = to[axis]
        moved = off > 0
        chunk = (sender * n + receiver)[moved]
        parts.append(Moves.of(base + off[moved] - 1, src[moved], _at(grid, at)[moved], chunk, lane))
        base += shape[axis] - 1
    return Moves.joined(parts)


def _themis_orders(grid: Grid, pieces: int) -> list[list[int]]:
    """Order of an all-gather for each piece: the dimension with the least to do so far comes last, with the most."""
    dims = grid.place.ndim
    todo = np.zeros(dims)
    orders = []
    for _ in range(pieces):
        order = sorted(range(dims), key=lambda axis: -todo[axis])
        held = 1.0
        for axis in order:
            todo[axis] += held * (grid.place.shape[axis] - 1) / grid.rate[axis]
            held *= grid.place.shape[axis]
        orders.append(order)
    return orders


def _last_first(grid: Grid, pieces: int) -> list[list[int]]:
    """An all-gather goes through the outer dimensions first, with little, and the innermost last."""
    return [list(range(grid.place.ndim))] * pieces


def _algorithm(name: str, orders, lanes: int) -> Algorithm:
    def gather(net: Net, pieces: int) -> Moves:
        grid = grid_of(net)
        return Moves.joined([_gather_along(net, grid, axes, k) for k, axes in enumerate(orders(grid, pieces))])

    def spread(net: Net, root: int | None, pieces: int) -> Moves:
        return _spread_along(net, grid := grid_of(net), orders(grid, 1)[0], root or 0, pieces)

    def exchange(net: Net, pieces: int) -> Moves:
        grid = grid_of(net)
        return Moves.joined([_exchange_along(net, grid, axes, k) for k, axes in enumerate(orders(grid, pieces))])

    return Algorithm(name, gather, spread, exchange, lanes)


BLUECONNECT = _algorithm("hierarchical", _last_first, 1)
THEMIS = _algorithm("themis", _themis_orders, 4)
