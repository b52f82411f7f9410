"""Small and random traces for tests of the simulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dse.simulate import Device, Hop, System, Tier, dimension
from dse.trace import Attribute, Collective, Kind, Node, TraceSet, columns

TOPOLOGIES = ("ring", "fully_connected", "switch", "torus", "mesh")


def comp(ident, seconds, deps=(), **attrs):
    return node(ident, Kind.COMP, deps, **{"dse.seconds": float(seconds)}, **attrs)


def coll(ident, kind, size, group="", deps=(), **attrs):
    return node(ident, Kind.COLL, deps, comm_type=int(kind), comm_size=int(size), pg_name=group, **attrs)


def send(ident, to, size, deps=(), tag=0):
    return node(ident, Kind.SEND, deps, comm_dst=int(to), comm_size=int(size), comm_tag=tag)


def recv(ident, source, size, deps=(), tag=0):
    return node(ident, Kind.RECV, deps, comm_src=int(source), comm_size=int(size), comm_tag=tag)


def node(ident, kind, deps=(), **attrs):
    kinds = {str: "string", float: "double", int: "int64", bool: "bool"}
    listed = [Attribute(name, kinds[type(value)], value) for name, value in attrs.items()]
    return Node(ident, f"{kind.name.lower()}{ident}", int(kind), data_deps=list(deps), attrs=listed)


def trace_set(per_rank, groups=None):
    """A trace for each rank, given as lists of nodes."""
    classes = tuple(columns(nodes) for nodes in per_rank)
    tables = {label: np.atleast_2d(np.asarray(rows)) for label, rows in (groups or {}).items()}
    return TraceSet(classes, np.arange(len(classes)), tables)


def line(*sizes, topology="switch", bandwidth=1e9, latency=0.0, **fields):
    """A system of dimensions of these sizes, all alike."""
    dimensions = tuple(dimension(topology, bandwidth, name=f"d{i}", latency=latency) for i in range(len(sizes)))
    return System(dimensions, sizes, **fields)


def random_system(rng, ranks):
    """One to three dimensions that hold so many ranks, each of its own kind."""
    sizes, left = [], ranks
    while left > 1 and len(sizes) < 2:
        fits = [n for n in range(1, left + 1) if left % n == 0]
        sizes.append(int(rng.choice(fits)))
        left //= sizes[-1]
    sizes.append(left)
    dimensions = tuple(
        dimension(
            str(rng.choice(TOPOLOGIES)),
            float(rng.choice([1e9, 3e9, 7.7e9])),
            name=f"d{i}",
            latency=float(rng.choice([0.0, 1e-6, 3.3e-7])),
            efficiency=float(rng.choice([1.0, 0.83])),
        )
        for i in range(len(sizes))
    )
    kinds = None
    if rng.random() < 0.4:  # some devices are slower than others
        kinds = (np.arange(ranks) // int(rng.integers(1, ranks + 1))) % 2
    pool = Tier("pool", 6.1e9, 1e-6, shared_by=0, path=(Hop(3e9), Hop(4.3e9, shared_by=int(rng.integers(1, 5)))))
    return System(
        dimensions,
        tuple(sizes),
        devices=(Device(), Device(speed=0.7, links=0.9)),
        device_of=kinds,
        tiers=(replace(pool, reduces=bool(rng.random() < 0.5)),),
        chunks=int(rng.choice([1, 3, 8])),
        policy=str(rng.choice(["fifo", "lifo", "priority"])),
        schedule=str(rng.choice(["ascending", "themis"])),
        compute_streams=int(rng.choice([1, 2])),
    )


def random_traces(rng):
    """Traces of ranks that are partly alike: pipelines of groups, or rings of neighbours whose files differ."""
    return _pipeline(rng) if rng.random() < 0.7 else _neighbours(rng)


def _neighbours(rng):
    """Every rank with its own file: groups with the next and the one before, each known by its own label to both."""
    ranks = int(rng.integers(3, 9))
    groups = {f"g{r}": np.sort([r, (r + 1) % ranks])[None, :] for r in range(ranks)}
    sizes = rng.integers(1, 9, 3) * 100_000
    odd = int(rng.integers(0, ranks)) if rng.random() < 0.5 else -1
    files = []
    for r in range(ranks):
        mine, theirs = f"g{r}", f"g{(r - 1) % ranks}"
        late = 1e-4 if r == odd else 0.0
        files.append(
            [
                comp(0, 1e-5 + late),
                coll(1, Collective.ALL_REDUCE, sizes[0], mine, [0]),
                coll(2, Collective.ALL_REDUCE, sizes[0], theirs, [0]),
                coll(3, Collective.ALL_GATHER, sizes[1], mine),
                coll(4, Collective.ALL_GATHER, sizes[1], theirs),
                send(5, (r + 1) % ranks, sizes[2], [1]),
                recv(6, (r - 1) % ranks, sizes[2]),
                comp(7, 2e-5, [2, 4, 6]),
                node(8, Kind.MEM_STORE, [7], tensor_size=int(sizes[1])),
                coll(9, Collective.BARRIER, 0, "", [8, 3]),
            ]
        )
    return trace_set(files, groups)


def _pipeline(rng):
    """Ranks of tp x dp x pp in a random order of placement, with a random trace for each stage of the pipeline."""
    tp, dp, pp = (int(n) for n in rng.choice([1, 2, 3, 4], 3))
    ranks = tp * dp * pp
    order = rng.permutation(3)
    shape = [(tp, dp, pp)[i] for i in order]
    grid = np.arange(ranks).reshape(shape).transpose(np.argsort(order))  # [tp, dp, pp]
    groups = {
        "tp": grid.transpose(1, 2, 0).reshape(-1, tp),
        "dp": grid.transpose(0, 2, 1).reshape(-1, dp),
        "few": grid.reshape(tp * dp, pp).T[:, : tp * dp],
    }
    stride = int(np.prod(shape[list(order).index(2) + 1 :]))
    calls = [_calls(rng) for _ in range(pp)]
    stages = tuple(_stage(rng, stage, pp, stride, calls[stage]) for stage in range(pp))
    of = np.empty(ranks, np.int64)
    for stage in range(pp):
        of[grid[:, :, stage]] = stage
    return TraceSet(stages, of, groups)


def _calls(rng):
    kinds = [k for k in Collective if k is not Collective.REDUCE_SCATTER_BLOCK]
    labels = ["tp", "dp", "few"]
    return [
        (str(rng.choice(labels)), kinds[rng.integers(len(kinds))], int(rng.integers(0, 5_000_000)))
        for _ in range(int(rng.integers(1, 9)))
    ]


def _stage(rng, stage, stages, stride, calls):
    """A random graph; the groups of a stage are its own, so that all members have the same calls."""
    nodes = []

    def add(make, *args, **attrs):
        before = len(nodes)
        deps = rng.choice(before, min(before, int(rng.integers(0, 4))), replace=False).tolist() if before else []
        nodes.append(make(before, *args, deps=deps, **attrs))
        return before

    for label, kind, size in calls:
        if rng.random() < 0.3:
            add(
                node,
                Kind(int(rng.choice([Kind.MEM_LOAD, Kind.MEM_STORE]))),
                tensor_size=int(rng.integers(1, 9)) * 10_000,
            )
        for _ in range(int(rng.integers(0, 4))):
            add(comp, rng.choice([0.0, 1e-3, 2.5e-4, 7e-5]))
        add(coll, kind, size, label, comm_priority=int(rng.integers(0, 3)))
    if stages > 1:
        forward, back = stride, -stride
        if stage + 1 < stages:
            add(send, forward, 1_000_000, tag=1)
            add(recv, forward, 500_000, tag=2)
        if stage > 0:
            add(recv, back, 1_000_000, tag=1)
            add(send, back, 500_000, tag=2)
    add(comp, 1e-4)
    if rng.random() < 0.5:
        kind = Collective(int(rng.choice([Collective.REDUCE, Collective.GATHER])))
        add(node, Kind.MEM_STORE, tensor_size=70_000, pg_name="few", comm_type=int(kind))
    nodes.append(coll(len(nodes), Collective.ALL_TO_ALL, 64_000, deps=list(range(len(nodes)))))  # of all stages
    return replace(columns(nodes), relative=True)
