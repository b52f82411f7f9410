"""Networks that are not as they were drawn: failed links and NPUs, links of different speeds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from dse.collective.topology import Ints, Topology
from dse.errors import Fault, SpecError


def components(topology: Topology) -> Ints:
    """Number of the strongly connected part each node is in, [nodes]."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(topology.links, np.int8)
    graph = csr_array((ones, (topology.src, topology.dst)), shape=(topology.nodes,) * 2)
    return connected_components(graph, connection="strong")[1]


def connected(topology: Topology, members: ArrayLike | None = None) -> bool:
    """Whether each member reaches each other."""
    part = components(topology)[topology.members if members is None else np.asarray(members, np.int64)]
    return bool((part == part[:1]).all())


def cables(topology: Topology) -> list[list[int]]:
    """Links grouped with the one in the other direction (parallel ones in turn), in order of the first of each."""
    found: list[list[int]] = []
    waiting: dict[tuple[int, int], list[int]] = {}
    for link, (a, b) in enumerate(zip(topology.src.tolist(), topology.dst.tolist(), strict=True)):
        if waiting.get((b, a)):
            found[waiting[b, a].pop(0)].append(link)
        else:
            waiting.setdefault((a, b), []).append(len(found))
            found.append([link])
    return found


def fail_links(
    topology: Topology, share: float, seed: int = 0, *, keep_connected: bool = True, directed: bool = False
) -> Topology:
    """Without a share (or, from 1 on, a number) of its cables, or of its links one by one.

    Candidates come in random order; with ``keep_connected`` those that hold the network together stay.

    Raises:
        SpecError: a negative share, or more than can fail.
    """
    groups = [[link] for link in range(topology.links)] if directed else cables(topology)
    random.Random(seed).shuffle(groups)
    gone = groups[: _count(share, len(groups), "fail")]
    made = topology.without([link for group in gone for link in group])
    if not keep_connected or connected(made) or not connected(topology):
        return made
    wanted, made, failed = len(gone), topology, []
    for group in groups:
        if len(failed) == wanted:
            break
        links = [link for other in [*failed, group] for link in other]
        if connected(topology.without(links)):
            failed.append(group)
            made = topology.without(links)
    if len(failed) < wanted:
        raise SpecError([_apart("fail", wanted, len(failed), "links" if directed else "cables")])
    return made


def fail_npus(topology: Topology, share: float, seed: int = 0, *, keep_connected: bool = True) -> Topology:
    """Without a share (or, from 1 on, a number) of its NPUs; the others (``keep_connected``) still reach each other."""
    order = topology.members.tolist()
    wanted = _count(share, len(order), "fail_npus")
    random.Random(seed).shuffle(order)
    gone: list[int] = []
    for npu in order[: len(order) - 1]:
        if len(gone) == wanted:
            break
        if not keep_connected or connected(topology.without(npus=[*gone, npu])):
            gone.append(npu)
    if len(gone) < wanted:
        raise SpecError([_apart("fail_npus", wanted, len(gone), "NPUs")])
    return topology.without(npus=gone)


def _apart(field: str, wanted: int, found: int, what: str) -> Fault:
    return Fault(field, f"{wanted} {what}", f"only {found} were found whose loss leaves the others connected")


def vary(
    topology: Topology,
    bandwidths: Sequence[float] = (),
    latencies: Sequence[float] = (),
    seed: int = 0,
    *,
    directed: bool = False,
) -> Topology:
    """Each cable (or link) with a bandwidth and a latency drawn from the lists; an empty list leaves them."""
    rng = random.Random(seed)
    groups = [[link] for link in range(topology.links)] if directed else cables(topology)
    rate, delay = topology.bandwidth.copy(), topology.latency.copy()
    for group in groups:
        if bandwidths:
            rate[group] = rng.choice(list(bandwidths))
        if latencies:
            delay[group] = rng.choice(list(latencies))
    return replace(topology, bandwidth=rate, latency=delay)


def _count(share: float, total: int, field: str) -> int:
    if not 0 <= share <= total:
        raise SpecError([Fault(field, str(share), f"must be a share (0 to 1) or a number up to {total}")])
    return round(share * total) if share < 1 else round(share)
