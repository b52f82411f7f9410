"""Random networks to synthesize collectives on."""

from __future__ import annotations

import networkx as nx
import numpy as np

from dse.collective.topology import Topology


def random_graph(rng: np.random.Generator, largest: int = 64) -> Topology:
    """A strongly connected network of 2 to ``largest`` NPUs: any shape, links unlike, one-way ones, some failed.

    Every link has a latency of 0.1 to 10 us and a bandwidth of 1 to 900 GB/s, both drawn on a log scale; in one network
    of four all links are alike. NPUs may have failed, and up to three switches may forward.
    """
    npus = int(rng.integers(2, largest + 1))
    nodes = npus + int(rng.choice([0, 0, 0, 1, 3]))
    order = rng.permutation(nodes)
    pairs = {(int(a), int(b)) for a, b in zip(order, np.roll(order, -1), strict=True) if a != b}  # one-way: connected
    extra = int(rng.integers(0, 4 * nodes))
    ends = rng.integers(0, nodes, (extra, 2))
    pairs |= {(int(a), int(b)) for a, b in ends if a != b}
    if rng.random() < 0.5:
        pairs |= {(b, a) for a, b in pairs}
    rows = sorted(pairs)
    count = len(rows)
    alike = rng.random() < 0.25
    latency = np.full(count, 5e-7) if alike else 10 ** rng.uniform(-7, -5, count)
    bandwidth = np.full(count, 50e9) if alike else 10 ** rng.uniform(9, np.log10(900e9), count)
    src, dst = np.asarray(rows, np.int64).T
    made = Topology(npus, src, dst, latency, bandwidth, name="random", nodes=nodes)
    return _with_failures(made, rng)


def _with_failures(made: Topology, rng: np.random.Generator) -> Topology:
    """Up to a tenth of the links and now and then an NPU gone, where what is left stays connected."""
    gone = rng.permutation(made.links)[: int(rng.integers(0, made.links // 10 + 1))]
    npus = [int(rng.integers(made.npus))] if rng.random() < 0.2 and made.npus > 2 else []
    broken = made.without(gone, npus)
    return broken if connected(broken) else made


def connected(topology: Topology) -> bool:
    """Whether every member reaches every other."""
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(topology.members.tolist())
    graph.add_edges_from(zip(topology.src.tolist(), topology.dst.tolist(), strict=True))
    members = set(topology.members.tolist())
    one = next(iter(members))
    return members <= nx.descendants(graph, one) | {one} and members <= nx.ancestors(graph, one) | {one}
