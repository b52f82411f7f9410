"""MultiTree: a tree from every NPU, all grown at the same time, one link at most to each tree in turn."""

from __future__ import annotations

import numpy as np

from dse.collective.library.base import Algorithm, Net
from dse.collective.library.program import Moves
from dse.collective.topology import Ints, Topology
from dse.errors import Fault, SpecError
from dse.jit import njit


def _edges(net: Net):
    """Ways from member to member over nothing but switches and outsiders: (ptr, link) and (first, head) by rank.

    Way w of rank u, first[u] <= w < first[u + 1], ends at rank head[w] and takes the links link[ptr[w]:ptr[w + 1]].
    """
    topology, rank = net.topology, np.full(net.topology.nodes, -1)
    rank[net.members] = np.arange(net.n)
    out = topology.outgoing
    first, head, ptr, link = [0], [], [0], []
    for member in net.members.tolist():
        for path in _ways(topology, out, rank, member):
            head.append(rank[topology.dst[path[-1]]])
            link.extend(path)
            ptr.append(len(link))
        first.append(len(head))
    return tuple(np.array(column, np.int64) for column in (first, head, ptr, link))


def _ways(topology: Topology, out, rank, member: int) -> list[list[int]]:
    """Shortest ways from a member to others, breadth first; every link to a neighbour is a way of its own."""
    found, met = [], {member}
    front: list[tuple[int, list[int]]] = [(member, [])]
    while front:
        ahead, new = [], set()
        for node, path in front:
            for e in out.link[out.ptr[node] : out.ptr[node + 1]].tolist():
                v = int(topology.dst[e])
                if v in met:
                    continue
                if rank[v] >= 0:
                    found.append([*path, e])
                elif v not in new:
                    ahead.append((v, [*path, e]))
                new.add(v)
        met |= new
        front = ahead
    return found


def _gather(net: Net, pieces: int) -> Moves:
    step, src, dst, tree = _trees(net, np.arange(net.n))
    return Moves.of(step[:, None], src[:, None], dst[:, None], tree[:, None], np.arange(pieces))


def _spread(net: Net, root: int | None, pieces: int) -> Moves:
    step, src, dst, _ = _trees(net, np.array([root or 0]))
    return Moves.of(step[:, None], src[:, None], dst[:, None], 0, np.arange(pieces))


def _trees(net: Net, roots: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Step, ends and tree of every branch."""
    made = _grow(*_edges(net), roots, net.topology.links)
    if len(made[0]) < len(roots) * (net.n - 1):
        short = next(root for root in roots if (made[3] == root).sum() < net.n - 1)
        missing = np.setdiff1d(np.arange(net.n), np.append(made[2][made[3] == short], short))
        rule = f"must be reachable from NPU {net.members[short]}: no path of links leads there"
        raise SpecError([Fault("topology.links", f"NPU {net.members[missing[0]]}", rule)])
    return made


@njit(cache=True)
def _grow(first, head, ptr, link, roots, links):
    """In each step the trees take turns, and each takes a free way from one of its ranks to one that it lacks."""
    trees, n = len(roots), len(first) - 1
    total = trees * (n - 1)
    step, src, dst, tree = np.empty((4, total), np.int64)
    inside = np.zeros((trees, n), np.bool_)
    ranks = np.empty((trees, n), np.int64)  # of each tree in the order of arrival
    size = np.ones(trees, np.int64)
    open_from = np.zeros(trees, np.int64)  # ranks before this one have no way left to a rank that the tree lacks
    for t in range(trees):
        inside[t, roots[t]] = True
        ranks[t, 0] = roots[t]
    taken = np.full(links, -1)
    spent = np.full(n, -1)  # step in which no way out of a rank is free
    count = 0
    now = 0
    begun = size.copy()  # only ranks that a tree had before a step send in it
    at_rank = np.zeros(trees, np.int64)
    while count < total:
        begun[:] = size
        at_rank[:] = open_from
        busy = True
        while busy:
            busy = False
            for turn in range(trees):
                t = (turn + now) % trees
                if size[t] == n:
                    continue
                grown = False
                while at_rank[t] < begun[t] and not grown:
                    u = ranks[t, at_rank[t]]
                    useful = False
                    some = False
                    if spent[u] != now:
                        for w in range(first[u], first[u + 1]):
                            free = True
                            for k in range(ptr[w], ptr[w + 1]):
                                free &= taken[link[k]] != now
                            some |= free
                            if inside[t, head[w]]:
                                continue
                            useful = True
                            if free:
                                for k in range(ptr[w], ptr[w + 1]):
                                    taken[link[k]] = now
                                v = head[w]
                                inside[t, v] = True
                                ranks[t, size[t]] = v
                                size[t] += 1
                                step[count], src[count], dst[count], tree[count] = now, u, v, roots[t]
                                count += 1
                                grown = True
                                break
                        if not some:
                            spent[u] = now
                    else:
                        useful = True
                    if not grown:
                        if not useful and at_rank[t] == open_from[t]:
                            open_from[t] += 1
                        at_rank[t] += 1
                busy |= grown
        if size.sum() == begun.sum():  # no way leads on
            break
        now += 1
    return step[:count], src[:count], dst[:count], tree[:count]


MULTITREE = Algorithm("multitree", _gather, _spread)
