"""Shapes of networks. Each is one function, beside its siblings; :mod:`dse.collective.text` reads their names.

Grids number their NPUs along the first dimension fastest, as the tools of the field do. ``bandwidth`` is that of a link
in one direction unless a shape says otherwise.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dse.collective.faults import connected
from dse.collective.topology import Floats, Topology
from dse.errors import Fault, SpecError

GIB, US = 2.0**30, 1e-6
MAX_LINKS = 20_000_000
Rates = float | Sequence[float]
Dims = int | Sequence[int]
REGISTRY: dict[str, Callable[..., Topology]] = {}


def shape(builder: Callable[..., Topology]) -> Callable[..., Topology]:
    """Register a builder under its name."""
    REGISTRY[builder.__name__] = builder
    return builder


def fault(field: str, value: object, rule: str) -> SpecError:
    """The error of one argument."""
    return SpecError([Fault(field, str(value)[:80], rule)])


def _sizes(dims: Dims, field: str, least: int = 1) -> list[int]:
    found = [int(d) for d in np.atleast_1d(dims)]
    if not found or min(found) < least:
        raise fault(field, "x".join(map(str, found)), f"each must be at least {least}")
    if math.prod(found) > MAX_LINKS:
        raise fault(field, "x".join(map(str, found)), f"must not be more than {MAX_LINKS:,} NPUs")
    return found


def _each(values: Rates, dims: Sequence[int], field: str) -> list[float]:
    """One value a dimension: a single one counts for all."""
    found = [float(v) for v in np.atleast_1d(values)]
    if len(found) not in (1, len(dims)):
        raise fault(field, len(found), f"must be 1 value or {len(dims)}, one a dimension")
    return found * (len(dims) // len(found))


def _cables(a: Any, b: Any, bandwidth: Any, latency: Any) -> Floats:
    """Rows (source, destination, bytes/s, seconds) of links both ways, each next to its twin, [2 cables, 4]."""
    a, b, bandwidth, latency = np.broadcast_arrays(*(np.asarray(v, float) for v in (a, b, bandwidth, latency)))
    there = np.stack([a, b, bandwidth, latency], -1)
    return np.stack([there, there[..., [1, 0, 2, 3]]], -2).reshape(-1, 4)


def _named(name: str, rows: Floats, npus: int, **fields: Any) -> Topology:
    return Topology.of(rows, npus, name=name, **fields)


def _grid(name: str, dims: Dims, bandwidth: Rates, latency: Rates, wrap: bool) -> Topology:
    sizes = _sizes(dims, f"{name}.dims")
    rates, delays = _each(bandwidth, sizes, "bandwidth"), _each(latency, sizes, "latency")
    npus, stride, there, keep = math.prod(sizes), 1, [], []
    node = np.arange(npus)
    for size, rate, delay in zip(sizes, rates, delays, strict=True):
        place = node // stride % size
        following = node + stride * ((place + 1) % size - place)
        there.append(_cables(node, following, rate, delay).reshape(npus, 2, 4))
        # Two neighbours share one cable, so only three or more in a row make a ring.
        keep.append((place < size - 1) | (wrap and size > 2))
        stride *= size
    rows = np.stack(there, 1)[np.stack(keep, 1)].reshape(-1, 4)
    text = f"{name} {'x'.join(map(str, sizes))}"
    return _named(text, rows, npus, shape=tuple(reversed(sizes)))


@shape
def line(npus: int, bandwidth: float = 50 * GIB, latency: float = 0.5 * US) -> Topology:
    """NPUs in a row."""
    return replace(_grid("line", [npus], bandwidth, latency, wrap=False), name=f"line {npus}")


@shape
def ring(npus: int, bandwidth: float = 50 * GIB, latency: float = 0.5 * US, directions: int = 2) -> Topology:
    """A ring, both ways or (``directions=1``) one way."""
    if directions not in (1, 2):
        raise fault("ring.directions", directions, "must be 1 or 2")
    if directions == 2:
        return replace(_grid("ring", [npus], bandwidth, latency, wrap=True), name=f"ring {npus}")
    return replace(unfolded(npus, 1, bandwidth, latency), name=f"one-way ring {npus}")


@shape
def mesh(dims: Dims, bandwidth: Rates = 50 * GIB, latency: Rates = 0.5 * US) -> Topology:
    """A grid without wrap-around."""
    return _grid("mesh", dims, bandwidth, latency, wrap=False)


@shape
def torus(dims: Dims, bandwidth: Rates = 50 * GIB, latency: Rates = 0.5 * US) -> Topology:
    """A grid with wrap-around (in dimensions of three and more)."""
    return _grid("torus", dims, bandwidth, latency, wrap=True)


@shape
def hypercube(npus: int, bandwidth: float = 50 * GIB, latency: float = 0.5 * US) -> Topology:
    """A binary hypercube: links between numbers that differ in one bit."""
    if npus < 2 or npus & (npus - 1):
        raise fault("hypercube.npus", npus, "must be a power of 2, at least 2")
    made = _grid("hypercube", [2] * (npus.bit_length() - 1), bandwidth, latency, wrap=False)
    return replace(made, name=f"hypercube {npus}")


@shape
def fully_connected(npus: int, bandwidth: float = 50 * GIB, latency: float = 0.5 * US) -> Topology:
    """A link from each NPU to each other."""
    if not 1 <= npus <= math.isqrt(MAX_LINKS):
        raise fault("fully_connected.npus", npus, f"must be 1 to {math.isqrt(MAX_LINKS)}")
    a, b = np.triu_indices(npus, 1)
    return _named(f"fully connected {npus}", _cables(a, b, bandwidth, latency), npus)


@shape
def switch(npus: int, bandwidth: float = 50 * GIB, latency: float = 0.5 * US, planes: int = 1) -> Topology:
    """NPUs on switches that are nodes: ``bandwidth`` of an NPU, split over ``planes`` switches; latency of each hop."""
    _sizes([npus, planes], "switch")
    npu, plane = np.meshgrid(np.arange(npus), npus + np.arange(planes), indexing="ij")
    rows = _cables(npu, plane, bandwidth / planes, latency)
    return _named(f"switch {npus}", rows, npus, nodes=npus + planes)


@shape
def unfolded(npus: int, degree: int = 1, bandwidth: float = 50 * GIB, latency: float = 0.5 * US) -> Topology:
    """A switch as links from each NPU to the ``degree`` next ones, which share the port's ``bandwidth``."""
    _sizes(npus, "unfolded.npus")
    if not 1 <= degree < max(npus, 2):
        raise fault("unfolded.degree", degree, f"must be 1 to {max(npus - 1, 1)}")
    if npus == 1:
        return _named("unfolded switch 1", np.empty((0, 4)), 1)
    npu, step = np.meshgrid(np.arange(npus), np.arange(1, degree + 1), indexing="ij")
    ends = [npu.ravel(), ((npu + step) % npus).ravel()]
    rows = np.stack([*ends, np.full(npu.size, bandwidth / degree), np.full(npu.size, latency)], 1)
    return _named(f"unfolded switch {npus}, degree {degree}", rows, npus)


@shape
def dragonfly(
    groups: int,
    per_group: int,
    local_bandwidth: float = 50 * GIB,
    global_bandwidth: float = 50 * GIB,
    latency: float = 0.5 * US,
    global_latency: float | None = None,
) -> Topology:
    """Fully connected groups; a cable between each two groups, taken in turn by the NPUs of a group."""
    _sizes([groups, per_group], "dragonfly")
    a, b = np.triu_indices(per_group, 1)
    first = np.arange(groups)[:, None] * per_group
    rows = [_cables(first + a, first + b, local_bandwidth, latency)]
    one, other = np.triu_indices(groups, 1)
    # A group has met all groups before it and those between by the time it meets this one.
    ends = one * per_group + (other - 1) % per_group, other * per_group + one % per_group
    rows.append(_cables(*ends, global_bandwidth, latency if global_latency is None else global_latency))
    return _named(f"dragonfly {groups}x{per_group}", np.concatenate(rows), groups * per_group)


@shape
def fat_tree(
    down: Dims,
    up: Dims | None = None,
    bandwidth: Rates = 50 * GIB,
    latency: Rates = 0.5 * US,
    oversubscription: float = 1.0,
) -> Topology:
    """Switches in levels: each has ``down[level]`` children, each child ``up[level]`` parents (an XGFT).

    By default there is one parent for an NPU and, above that, one for each link downwards, divided by the
    oversubscription. Öhring, Ibel, Das, Kumar, "On generalized fat trees", IPPS 1995.
    """
    m = _sizes(down, "fat_tree.down")
    if not (oversubscription > 0 and math.isfinite(oversubscription)):
        raise fault("fat_tree.oversubscription", oversubscription, "must be more than 0")
    usual = [1, *(max(1, round(children / oversubscription)) for children in m[:-1])]
    w = usual if up is None else _sizes(up, "fat_tree.up")
    if len(w) != len(m):
        raise fault("fat_tree.up", len(w), f"must be {len(m)} numbers, one a level")
    rates, delays = _each(bandwidth, m, "bandwidth"), _each(latency, m, "latency")
    rows, base, npus = [], 0, math.prod(m)
    for level in range(len(m)):
        above, below = math.prod(m[level + 1 :]), math.prod(w[:level])
        # A node is (which subtree, which child of it, which copy of the switch below); parents add their own copy.
        tree, child, copy, parent = np.indices((above, m[level], below, w[level]))
        lower = base + (tree * m[level] + child) * below + copy
        upper = base + above * m[level] * below + (tree * w[level] + parent) * below + copy
        rows.append(_cables(lower, upper, rates[level], delays[level]))
        base += above * m[level] * below
    nodes = base + math.prod(w)
    return _named(f"fat tree {'x'.join(map(str, m))}", np.concatenate(rows), npus, nodes=nodes)


@shape
def rails(
    nodes: int,
    per_node: int = 8,
    bandwidth: float = 450e9,
    latency: float = 0.5 * US,
    rail_bandwidth: float = 50e9,
    rail_latency: float = 1.0 * US,
    inside: str = "switch",
    rail: str = "switch",
    planes: int = 1,
) -> Topology:
    """Nodes of NPUs, and a network (a rail) among the NPUs of the same place in each node.

    ``inside``, ``rail``: ``full`` (``bandwidth`` of each link), ``ring`` (the same), ``switch`` (of each NPU; inside a
    node over ``planes`` switches).
    """
    _sizes([nodes, per_node], "rails")
    npus = nodes * per_node
    parts = [np.arange(npus).reshape(nodes, per_node), np.arange(npus).reshape(nodes, per_node).T]
    kinds = [("rails.inside", inside, per_node, bandwidth, latency, planes)]
    kinds += [("rails.rail", rail, nodes, rail_bandwidth, rail_latency, 1)]
    made = {"full": fully_connected, "ring": ring, "switch": switch}
    rows, total = [], npus
    for groups, (field, kind, size, rate, delay, over) in zip(parts, kinds, strict=True):
        if kind not in made:
            raise fault(field, kind, f"must be one of {', '.join(made)}")
        if size == 1:
            continue
        one = switch(size, rate, delay, over) if kind == "switch" else made[kind](size, rate, delay)
        extra = one.nodes - one.npus
        for group in groups:
            name = np.concatenate([group, total + np.arange(extra)])
            rows.append(np.stack([name[one.src], name[one.dst], one.bandwidth, one.latency], 1))
            total += extra
    rows.append(np.empty((0, 4)))
    return _named(f"rails {nodes}x{per_node}", np.concatenate(rows), npus, nodes=total)


@shape
def dgx1(bandwidth: float = 25e9, latency: float = 0.5 * US) -> Topology:
    """The hybrid cube mesh of the DGX-1 with V100: six NVLinks at a GPU, doubled ones together."""
    double = [(0, 3), (0, 4), (1, 2), (1, 5), (2, 3), (4, 7), (5, 6), (6, 7)]
    single = [(0, 1), (0, 2), (1, 3), (2, 6), (3, 7), (4, 5), (4, 6), (5, 7)]
    a, b = np.array(double + single).T
    return _named("DGX-1", _cables(a, b, np.repeat([2 * bandwidth, bandwidth], 8), latency), 8)


@shape
def dgx_a100(
    nodes: int = 1, bandwidth: float = 300e9, latency: float = 0.5 * US, rail_bandwidth: float = 25e9
) -> Topology:
    """Nodes of 8 GPUs on 6 NVSwitches, one NIC each on its rail."""
    made = rails(nodes, 8, bandwidth, latency, rail_bandwidth, planes=6)
    return replace(made, name=f"DGX A100 x {nodes}")


@shape
def dgx_h100(
    nodes: int = 1, bandwidth: float = 450e9, latency: float = 0.5 * US, rail_bandwidth: float = 50e9
) -> Topology:
    """Nodes of 8 GPUs on 4 NVSwitches, one NIC each on its rail."""
    made = rails(nodes, 8, bandwidth, latency, rail_bandwidth, planes=4)
    return replace(made, name=f"DGX H100 x {nodes}")


@shape
def nvl72(npus: int = 72, bandwidth: float = 900e9, latency: float = 0.5 * US, planes: int = 18) -> Topology:
    """GPUs of a rack, each with a link to each of 18 NVSwitches."""
    return replace(switch(npus, bandwidth, latency, planes), name=f"NVL{npus}")


@shape
def wafer(
    dims: Dims,
    reticle: Dims = (5, 5),
    bandwidth: float = 2e12,
    latency: float = 0.1 * US,
    crossing_bandwidth: float = 1e12,
    crossing_latency: float = 0.2 * US,
) -> Topology:
    """A 2-D mesh of dies on a wafer; links between reticles (of ``reticle`` dies) are slower."""
    sizes, parts = _sizes(dims, "wafer.dims"), _sizes(reticle, "wafer.reticle")
    if len(sizes) != 2 or len(parts) != 2:
        raise fault("wafer.dims", "x".join(map(str, sizes)), "dims and reticle must be 2 numbers each")
    made = mesh(sizes, bandwidth, latency)
    ends = [(node % sizes[0] // parts[0], node // sizes[0] // parts[1]) for node in (made.src, made.dst)]
    crosses = (ends[0][0] != ends[1][0]) | (ends[0][1] != ends[1][1])
    rate, delay = np.where(crosses, crossing_bandwidth, bandwidth), np.where(crosses, crossing_latency, latency)
    return replace(made, bandwidth=rate, latency=delay, name=f"wafer {sizes[0]}x{sizes[1]}")


@shape
def random_regular(
    npus: int, degree: int = 4, seed: int = 0, bandwidth: float = 50 * GIB, latency: float = 0.5 * US
) -> Topology:
    """A random connected graph with ``degree`` cables at each NPU, by swapping cables of a circulant graph."""
    if not 1 <= degree < npus or npus * degree % 2:
        raise fault("random_regular.degree", degree, f"must be 1 to {npus - 1}, and NPUs times degree even")
    rng, node = random.Random(seed), range(npus)
    pairs = [(v, (v + step) % npus) for step in range(1, degree // 2 + 1) for v in node]
    pairs += [(v, v + npus // 2) for v in range(npus // 2)] if degree % 2 else []
    linked, swaps = {frozenset(pair) for pair in pairs}, 10 * len(pairs)
    while True:
        for _ in range(swaps):
            i, j = rng.randrange(len(pairs)), rng.randrange(len(pairs))
            (a, b), (c, d) = pairs[i], rng.choice((pairs[j], pairs[j][::-1]))
            new = frozenset((a, d)), frozenset((c, b))
            if i == j or len({a, b, c, d}) < 4 or linked & {*new}:
                continue
            linked -= {frozenset((a, b)), frozenset((c, d))}
            linked |= {*new}
            pairs[i], pairs[j] = (a, d), (c, b)
        made = _named(f"random regular {npus}, degree {degree}", _cables(*np.array(pairs).T, bandwidth, latency), npus)
        if connected(made) or degree == 1:
            return made


@shape
def random_graph(
    npus: int, degree: float = 4.0, seed: int = 0, bandwidth: Rates = 50 * GIB, latency: Rates = 0.5 * US
) -> Topology:
    """A random strongly connected graph with ``degree`` links out of an NPU on average, one-way links among them.

    Two bandwidths (latencies) are the ends of a range that links are drawn from, evenly in the logarithm (evenly).
    """
    _sizes(npus, "random_graph.npus")
    rng = np.random.default_rng(seed)
    order = rng.permutation(npus)
    ends = np.stack([order, np.roll(order, -1)], 1) if npus > 1 else np.empty((0, 2), np.int64)
    if not 0 <= degree <= 1000:
        raise fault("random_graph.degree", degree, "must be 0 to 1000 links")
    more = rng.integers(0, npus, (max(0, round(npus * degree) - len(ends)), 2))
    ends = np.unique(np.concatenate([ends, more[more[:, 0] != more[:, 1]]]), axis=0)
    slow, fast = np.atleast_1d(bandwidth).min(), np.atleast_1d(bandwidth).max()
    least, most = np.atleast_1d(latency).min(), np.atleast_1d(latency).max()
    rate = slow * (fast / slow) ** rng.random(len(ends))
    rows = np.stack([*ends.T, rate, rng.uniform(least, most, len(ends))], 1)
    return _named(f"random graph {npus}, seed {seed}", rows, npus)


@shape
def switch2d(
    npus: int,
    per_box: int = 8,
    box_bandwidth: float = 280 * GIB,
    latency: float = 0.7 * US,
    bandwidth: float = 24 * GIB,
    scale_latency: float = 1.3 * US,
) -> Topology:
    """Boxes whose switch is unfolded to all pairs, joined by switches unfolded to one link; 8 NPUs are 2 x 4."""
    box = 4 if npus == per_box == 8 else per_box
    if npus < 1 or npus % box:
        raise fault("switch2d.npus", npus, f"must be a multiple of {box}")
    return _product(
        [unfolded(box, box - 1, box_bandwidth, latency), unfolded(npus // box, 1, bandwidth, scale_latency)],
        "switch 2-D",
    )


@shape
def rfs3d(dims: Dims, bandwidth: Rates = (200 * GIB, 100 * GIB, 50 * GIB), latency: Rates = 0.5 * US) -> Topology:
    """Ring, fully connected and (unfolded) switch dimensions; bandwidth of a link, a link and a port."""
    sizes = _sizes(dims, "rfs3d.dims")
    if len(sizes) != 3:
        raise fault("rfs3d.dims", "x".join(map(str, sizes)), "must be 3 numbers")
    rate, delay = _each(bandwidth, sizes, "bandwidth"), _each(latency, sizes, "latency")
    parts = [ring(sizes[0], rate[0], delay[0]), fully_connected(sizes[1], rate[1], delay[1])]
    return _product([*parts, unfolded(sizes[2], max(sizes[2] - 1, 1), rate[2], delay[2])], "ring-full-switch")


def _product(parts: list[Topology], name: str) -> Topology:
    """Each part along a dimension of its own, the first fastest."""
    npus, stride, rows = math.prod(p.npus for p in parts), 1, []
    node = np.arange(npus)
    for part in parts:
        others = node[node // stride % part.npus == 0][:, None]
        ends = [others + stride * end for end in (part.src, part.dst)]
        rows.append(
            np.stack([*(np.broadcast_to(v, ends[0].shape).ravel() for v in (*ends, part.bandwidth, part.latency))], 1)
        )
        stride *= part.npus
    sizes = [part.npus for part in parts]
    return _named(f"{name} {'x'.join(map(str, sizes))}", np.concatenate(rows), npus, shape=tuple(reversed(sizes)))
