"""All-to-all on any network: paths that load the links evenly, then all blocks on their way at once."""

from __future__ import annotations

import math
import time
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dse.collective.library.base import checked_members, checked_pieces, checked_size
from dse.collective.routing import distances
from dse.collective.schedule import Schedule, whole_chunks
from dse.collective.topology import Floats, Ints, Topology
from dse.collective.ways import balanced, proved, walks, ways_scheduled
from dse.errors import Fault, SpecError

NEAR = 1.005  # times a bound: not improved further
STEEPNESS = (0, 5, 10, 20, 30, 40, 50, 60, 60, 80, 80, 80)  # of the weights, by round of routing
GAIN = 0.002  # share by which a round must improve what it is at, for another to follow
WORK = 6e7  # links and nodes looked at in all rounds of one routing; about 2 s
MANY_HOPS = 2_000_000  # beyond these blocks are not cut into more pieces
IMBALANCE = 1.5  # blocks on the fullest link over those on the average one, before ways are known
HUGE = 8_000_000  # beyond these a schedule is not justified
LARGE, SMALL = 128, 32  # members beyond which one number of pieces, one order is tried
FINEST = 64


class Ways(NamedTuple):
    """Way of every block: those links of way i are ``link[ptr[i]:ptr[i + 1]]``; by sender, receiver, piece.

    Attributes:
        load: seconds that the fullest link is busy.
        bound: seconds that some link is busy at least, whatever the ways.
    """

    ptr: Ints
    link: NDArray[np.int32]
    load: float
    bound: float


def all_to_all(
    topology: Topology,
    nbytes: float,
    *,
    members: ArrayLike | None = None,
    per_shard: int | Literal["auto"] = "auto",
    seeds: int = 4,
    deadline: float | None = None,
) -> Schedule:
    """Every member sends a block to every other, each block (or piece of it) on one way.

    Blocks of one sender take trees of shortest paths for link weights that grow exponentially with the load
    (multiplicative weights for multi-commodity flow: Garg and Könemann, FOCS 1998); trees are routed again until the
    fullest link is near the bound that the weights prove. Then each link serves the block with the longest way left,
    and the schedule is justified: pushed together from its end and from its start, in turn.

    Args:
        topology: the network.
        nbytes: each member's input; a block is nbytes / members.
        members: NPUs that take part, ascending; the others only pass on. None: all.
        per_shard: pieces of a block, which may go different ways; ``"auto"``: where finer pieces cost as much latency
            as they save waiting, and their neighbours.
        seeds: orders of routing to try while the bound is not near.
        deadline: seconds after which no further try begins.

    Returns:
        A schedule with ``notes``: pieces, seconds of the fullest link, its proved bound.

    Raises:
        SpecError: bad input, or members that cannot reach each other.
    """
    who = checked_members(topology, members)
    checked_size(nbytes)
    checked_pieces(per_shard)
    stop = time.perf_counter() + (math.inf if deadline is None else deadline)
    if len(who) < 2:
        none = Ways(np.zeros(1, np.int64), np.empty(0, np.int32), 0.0, 0.0)
        return _schedule(topology, nbytes, who, 1, none, np.empty(0))
    far = distances(topology, nbytes / len(who), who)[:, who]
    lost = np.argwhere(~np.isfinite(far))
    if lost.size:  # said here: routing would only find no way
        rule = f"must be reachable from NPU {who[lost[0, 0]]}: no path of links leads there"
        raise SpecError([Fault("topology.links", f"NPU {who[lost[0, 1]]}", rule)])
    first, others = (per_shard, []) if per_shard != "auto" else _granularity(topology, nbytes, who, far)
    tries = [(first, 0)]
    if len(who) <= LARGE:
        tries.extend((c, 0) for c in others)
    if len(who) <= SMALL:
        tries.extend((first, seed) for seed in range(1, seeds))
    best, least = None, 0.0
    for pieces, seed in tries:
        if best is not None and (best.time <= NEAR * least or time.perf_counter() > stop):
            break
        made = _made(topology, nbytes, who, pieces, seed, stop)
        least = made.notes["bound_s"] if best is None else min(least, made.notes["bound_s"])
        best = made if best is None or made.time < best.time else best
    return best


def _granularity(topology: Topology, nbytes: float, who: Ints, far: Floats) -> tuple[int, list[int]]:
    """Pieces of a block to try first, and others.

    With c pieces a full link pays c latencies for each block on it, and the last block waits for a way of 1 / c.
    """
    n = len(who)
    typical = float(np.median(topology.times(nbytes / n)))
    hops = max(float(far.sum()) / typical, n * (n - 1))
    paid = IMBALANCE * hops / topology.links * float(topology.latency.mean())
    most = int(np.clip(MANY_HOPS / hops, 1, FINEST))
    beyond = float(far.max() - topology.times(nbytes / n).min())  # the first link is never waited for
    first = (most if beyond else 1) if paid == 0 else int(np.clip(round(math.sqrt(beyond / paid)), 1, most))
    # Few members are spread over idle links only in many pieces.
    others = (2 * first, first // 2, 1) if n > SMALL else (4 * first, 8, 32, 2 * first, first // 2, 1)
    return first, list(dict.fromkeys(c for c in others if 1 <= c <= most and c != first))


def _made(topology: Topology, nbytes: float, who: Ints, pieces: int, seed: int, stop: float) -> Schedule:
    size = nbytes / len(who) / pieces
    ways = _routed(topology, size, who, pieces, seed, stop)
    return _schedule(topology, nbytes, who, pieces, ways, _starts(topology, size, who, pieces, ways))


def _routed(topology: Topology, size: float, who: Ints, pieces: int, seed: int, stop: float) -> Ways:
    """Ways of the blocks; finer trees and more rounds where the network is small."""
    n, busy = len(who), topology.times(size)
    out, into = topology.outgoing, topology.incoming
    rounds = len(STEEPNESS)
    each = n * pieces * (topology.links + topology.nodes)
    parts = int(np.clip(WORK / rounds / each, 1, n - 1))
    rank = np.full(topology.nodes, -1)
    rank[who] = np.arange(n)
    count = n * pieces * parts
    part = np.tile(np.arange(parts), n * pieces)
    trees = np.array([np.repeat(who, pieces * parts), part, np.full(count, parts)])
    parent = np.full((count, topology.nodes), -1, np.int32)
    load = np.zeros(topology.links)
    usual = load
    random = np.random.default_rng(seed)
    best, kept, bound, stale = math.inf, parent, 0.0, 0
    for done, steep in enumerate(STEEPNESS):
        order = random.permutation(count)
        balanced(out.ptr, out.link, into.ptr, into.link, topology.src, topology.dst, busy, rank, trees, order,
                 float(steep), parent, load)  # fmt: skip
        usual = usual + 0.3 * (load - usual) if done > 1 else load.copy()  # one load swings, its mean proves more
        for eta in (0, 10, 40) if steep else (0,):
            least = proved(out.ptr, out.link, topology.dst, busy, usual, float(eta), rank, who, pieces)
            bound = max(bound, least)
        stale = stale + 1 if load.max() > best * (1 - GAIN) else 0
        if load.max() < best:
            best, kept = float(load.max()), parent.copy()
        spent = (done + 1) * each * parts > WORK
        if best <= NEAR * bound or stale > 3 or spent or time.perf_counter() > stop:
            break
    return Ways(*walks(kept, parts, topology.src, who, pieces), best, bound)


def _starts(topology: Topology, size: float, who: Ints, pieces: int, ways: Ways) -> Floats:
    """Start of every hop."""
    n, ptr, link = len(who), ways.ptr, ways.link
    busy, links = topology.times(size), topology.links
    took = busy[link]
    hops = np.diff(ptr)
    so_far = np.cumsum(took)
    left = np.repeat(so_far[ptr[1:] - 1], hops) - so_far + took
    # Of equal ways the one to the next rank goes first: at any time all senders serve different receivers.
    apart = (np.arange(n) - np.arange(n)[:, None]) % n
    apart = np.repeat(np.repeat(apart[~np.eye(n, dtype=bool)], pieces), hops)
    tie = apart * (busy.min() * 1e-3 / n)
    start = ways_scheduled(ptr, link, busy, tie - left, links)
    if len(link) > HUGE:
        return start
    kept = _justified(ptr, link, busy, took, start, ways.load)
    if (kept + took).max() > NEAR * ways.load and pieces > 1 and len(link) < HUGE // 8:
        # First one piece of every block, then the next of every block.
        piece = np.repeat(np.tile(np.arange(pieces), n * (n - 1)), hops)
        start = ways_scheduled(ptr, link, busy, piece * left.max() + tie - left, links)
        other = _justified(ptr, link, busy, took, start, ways.load)
        kept = min(kept, other, key=lambda start: (start + took).max())
    return kept


def _justified(ptr: Ints, link: Ints, busy: Floats, took: Floats, start: Floats, load: float) -> Floats:
    """Starts after pushing everything towards the end and back to the beginning; the quickest met."""
    hops, links = np.diff(ptr), len(busy)
    back_ptr, back_link, back_took = np.append(0, np.cumsum(hops[::-1])), link[::-1].copy(), took[::-1]
    kept, best = start, float((start + took).max())
    for _ in range(3 if len(link) < MANY_HOPS // 2 else 1):
        if best <= NEAR * load:
            break
        before = best
        back = ways_scheduled(back_ptr, back_link, busy, -(start + took)[::-1], links) + back_took
        start = ways_scheduled(ptr, link, busy, -back[::-1], links)
        for tried in (back.max() - back[::-1], start):
            end = float((tried + took).max())
            if end < best:
                best, kept = end, tried
        if best > (1 - GAIN) * before:
            break
    return kept


def _schedule(topology: Topology, nbytes: float, who: Ints, pieces: int, ways: Ways, start: Floats) -> Schedule:
    chunk = np.repeat(np.arange(len(ways.ptr) - 1, dtype=np.int32), np.diff(ways.ptr))
    return Schedule(
        topology,
        "all_to_all",
        float(nbytes),
        who,
        whole_chunks("all_to_all", nbytes, who, pieces),
        chunk,
        ways.link,
        start,
        start + topology.times(nbytes / len(who) / pieces)[ways.link],
        np.zeros(len(chunk), bool),
        algorithm="exchange",
        notes={"pieces": pieces, "fullest_link_s": ways.load, "bound_s": ways.bound},
    )
