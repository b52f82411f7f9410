"""Where nodes of a network are drawn, and the curves of the links between them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dse.collective.topology import Topology

Floats = NDArray[np.float64]
OBLIQUE = (0.38, 0.27)  # a step into the depth of a drawing
POINTS = 9  # of the curve of one link
FULL = 0.6  # share of all pairs from which on a network is drawn as a circle
CLEAR = 0.3  # modularity from which on groups of nodes are drawn as circles of their own


def places(topology: Topology) -> Floats:
    """Positions of the nodes, [nodes, 2]; the same network is always drawn in the same way.

    Grids are drawn as grids (further dimensions into the depth, then side by side), rings and full meshes as circles,
    groups as circles on a circle; the rest by their distances.
    """
    if _is_grid(topology):
        return _ring(topology) if len(topology.shape) == 1 else _grid(topology.shape)
    pairs = len(np.unique(topology.src * topology.nodes + topology.dst))
    if topology.nodes <= 3 or pairs >= FULL * topology.nodes * (topology.nodes - 1):
        return _circle(topology.nodes)
    return _groups(topology)


def _angles(count: int) -> Floats:
    return math.pi / 2 - 2 * math.pi * np.arange(count) / max(count, 1)


def _circle(count: int, turn: float = 0.0, radius: float | None = None) -> Floats:
    """Clockwise from the top; by default neighbours are about 1 apart."""
    angle = turn + _angles(count)
    return np.stack([np.cos(angle), np.sin(angle)], 1) * (max(count, 3) / 6 if radius is None else radius)


def _ring(topology: Topology) -> Floats:
    """A circle where the last NPU has a link to the first, else a row."""
    last = topology.npus - 1
    ends = np.stack([topology.src, topology.dst], 1)
    around = last > 1 and bool((np.sort(ends, 1) == (0, last)).all(1).any())
    return _circle(topology.npus) if around else np.stack([np.arange(last + 1.0), np.zeros(last + 1)], 1)


def _grid(shape: tuple[int, ...]) -> Floats:
    """The last dimension to the right, the one before upwards, the one before that into the depth; then again, with
    the whole of it as a tile."""
    place = np.stack(np.unravel_index(np.arange(math.prod(shape)), shape), 1)[:, ::-1].astype(float)
    at, tile = np.zeros((len(place), 2)), np.ones(2)
    for first in range(0, len(shape), 3):
        sizes = (*shape[::-1][first : first + 3], 1, 1)[:3]
        steps = np.array([(1, 0), (0, 1), OBLIQUE]) * tile
        for k in range(min(3, len(shape) - first)):
            at += place[:, [first + k]] * steps[k]
        tile = tile * (np.array(sizes[:2]) + np.array(OBLIQUE) * (sizes[2] - 1) + 0.4)
    return at


def _groups(topology: Topology) -> Floats:
    """Groups as circles on a circle: of nodes that the fastest links join, or that share their neighbours; where there
    are none, nodes as far apart as their distance on the network."""
    from scipy.sparse import csr_array

    shape = (topology.nodes, topology.nodes)
    link = csr_array((np.ones(topology.links), (topology.src, topology.dst)), shape=shape)
    fast = topology.bandwidth > 0.99 * topology.bandwidth.max()
    # Two ends of a link inside a full mesh have all others of it as common neighbours.
    common = (link @ link)[topology.src, topology.dst]
    degree = np.minimum(link.sum(1)[topology.src], link.sum(1)[topology.dst])
    for inside in (fast, common >= 0.4 * degree):
        found = _parts(topology, inside)
        large = sum(len(group) for group in found if len(group) > 1)
        if len(found) > 1 and max(map(len, found)) <= topology.nodes / 2 and large >= topology.npus:
            return _of_groups(topology, found)
    found = _rings(topology) if (topology.src >= topology.npus).any() and not _direct(topology) else None
    return _scaled(link) if found is None else found


def _direct(topology: Topology) -> bool:
    """Whether some NPUs are linked without a switch."""
    return bool(((topology.src < topology.npus) & (topology.dst < topology.npus)).any())


def _parts(topology: Topology, inside: NDArray[np.bool_]) -> list[list[int]]:
    """Nodes that some of the links join."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    ends = (topology.src[inside], topology.dst[inside])
    graph = csr_array((np.ones(int(inside.sum())), ends), shape=(topology.nodes, topology.nodes))
    _, part = connected_components(graph, directed=False)
    return [np.flatnonzero(part == number).tolist() for number in range(part.max() + 1)]


def _scaled(link: Any) -> Floats:
    """Classical scaling: distances in the drawing as near as can be to hops on the network."""
    from scipy.sparse.csgraph import shortest_path

    hops = shortest_path(link, directed=False, unweighted=True)
    hops[~np.isfinite(hops)] = hops[np.isfinite(hops)].max() + 1
    squared = -0.5 * hops**2
    centred = squared - squared.mean(0) - squared.mean(1)[:, None] + squared.mean()
    values, vectors = np.linalg.eigh(centred)
    at = vectors[:, -2:][:, ::-1] * np.sqrt(np.maximum(values[-2:][::-1], 1e-9))
    # The sign of an eigenvector is arbitrary: the first node lies to the left and below.
    return at * np.where(at[0] > 0, -1.0, 1.0) + 0.12 * _circle(len(at))


def _of_groups(topology: Topology, groups: list[list[int]]) -> Floats:
    """Groups with NPUs on a large circle, their switches in the middle of each; switches of no group inside."""
    outer = [[node for node in group if node < topology.npus] for group in groups if group[0] < topology.npus]
    within = [[node for node in group if node >= topology.npus] for group in groups if group[0] < topology.npus]
    lone = [node for group in groups if group[0] >= topology.npus for node in group]
    radius = max(max(len(group), 3) / 6 for group in outer)
    core = 0.6 * max(len(lone), 3) / 6 if lone else 0.0
    # Neighbours on the large circle must not touch, nor what is inside it.
    around = max(radius * 1.25 / math.sin(math.pi / max(len(outer), 2)), 1.6 * radius + core)
    at = np.zeros((topology.nodes, 2))
    for group, switches, middle in zip(outer, within, _circle(len(outer), radius=around), strict=True):
        at[group] = middle + _circle(len(group))
        at[switches] = middle + _circle(len(switches), radius=0.35 * radius if len(switches) > 1 else 0.0)
    at[lone] = _circle(len(lone), radius=core if len(lone) > 1 else 0.0)
    return at


def _rings(topology: Topology) -> Floats | None:
    """NPUs on the outermost circle, switches further inside the more hops they are from an NPU, near what they join."""
    level = np.where(np.arange(topology.nodes) < topology.npus, 0, -1)
    mean = np.exp(1j * _angles(topology.npus))
    mean = np.concatenate([mean, np.zeros(topology.nodes - topology.npus)])
    depth = 0
    while (level < 0).any():
        up = (level[topology.src] == depth) & (level[topology.dst] < 0)
        found = np.unique(topology.dst[up])
        if not len(found):
            return None
        np.add.at(mean, topology.dst[up], mean[topology.src[up]])
        depth += 1
        level[found] = depth
    at = np.zeros((topology.nodes, 2))
    whole = max(topology.npus, 3) / 6
    for k in range(depth + 1):
        nodes = np.flatnonzero(level == k)
        if len(nodes) == 1 and k == depth:
            continue
        angle = np.round(np.mod(math.pi / 2 - np.angle(mean[nodes]), 2 * math.pi), 9)
        order = nodes[np.argsort(angle, kind="stable")] if k else nodes
        turn = -(2 * math.pi / len(nodes) - 2 * math.pi / topology.npus) / 2 if k else 0.0
        at[order] = _circle(len(nodes), turn, radius=whole * (1 - k / (depth + 0.6)))
    return at


def curves(topology: Topology, at: Floats) -> Floats:
    """Points of each link, [links, POINTS, 2].

    A link bends to its right, so that the two directions can be told apart; a long one more, past the nodes between.
    One around the edge of a grid leaves it and comes back on the other side.
    """
    start, end = at[topology.src], at[topology.dst]
    around = _around(topology)
    usual = np.median(np.hypot(*(end - start)[~around].T)) if (~around).any() else 1.0
    found = _bent(start, end, usual)
    if around.any():
        step = (end - start)[around] / _steps(topology)[1][around, None]
        out = _bent(start[around], start[around] - step, usual)[:, : POINTS // 2 + 1]
        home = _bent(end[around] + step, end[around], usual)[:, -(POINTS // 2) :]
        out[:, -1] = np.nan
        found[around] = np.concatenate([out, home], 1)
    return found


def _bent(start: Floats, end: Floats, usual: float) -> Floats:
    along = end - start
    length = np.hypot(*along.T)[:, None]
    aside = np.stack([along[:, 1], -along[:, 0]], 1) / np.maximum(length, 1e-12)
    bend = np.where(length > 1.5 * usual, 0.16, 0.09) * length
    middle = (start + end) / 2 + 2 * bend * aside
    t = np.linspace(0, 1, POINTS)[None, :, None]
    return (1 - t) ** 2 * start[:, None] + 2 * t * (1 - t) * middle[:, None] + t**2 * end[:, None]


def _steps(topology: Topology) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each link of a grid: the dimension it is in (-1: several) and its steps along it."""
    ends = [np.stack(np.unravel_index(nodes, topology.shape), 1) for nodes in (topology.src, topology.dst)]
    apart = np.abs(ends[1] - ends[0])
    one = (apart > 0).sum(1) == 1
    return np.where(one, apart.argmax(1), -1), apart.max(1)


def _around(topology: Topology) -> NDArray[np.bool_]:
    """Links from one edge of a grid to the other, in dimensions where all other links are between neighbours."""
    found = np.zeros(topology.links, bool)
    if not _is_grid(topology) or len(topology.shape) == 1:
        return found
    dimension, steps = _steps(topology)
    for d, size in enumerate(topology.shape):
        mine = dimension == d
        if size > 2 and np.isin(steps[mine], (1, size - 1)).all():
            found |= mine & (steps == size - 1)
    return found


def _is_grid(topology: Topology) -> bool:
    return topology.nodes == topology.npus == math.prod(topology.shape) and bool(topology.shape)


def path(points: Floats) -> tuple[list[Any], list[Any]]:
    """x and y of many curves in one trace, with a gap after each."""
    gap = np.full((len(points), 1, 2), np.nan)
    joined = np.concatenate([points, gap], 1).reshape(-1, 2)
    return joined[:, 0], joined[:, 1]
