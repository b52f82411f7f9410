"""All-reduce in which some chunks are still added up while others are handed out already."""

from __future__ import annotations

import math
import time
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dse.collective.fused import halves
from dse.collective.fused.doubling import doubling
from dse.collective.fused.packing import MEMBER, SWITCH, Network, Trees, network, pack
from dse.collective.fused.pipeline import Pipeline, finish, in_order, justified, pipeline, staggered
from dse.collective.schedule import EVERYONE, Chunks, Schedule
from dse.collective.topology import Floats, Ints, Topology
from dse.errors import Fault, SpecError

NEAR = 1.01  # a schedule this near what its trees' bytes need is left alone
SWITCHED = 1.08  # trees through switches take long to grow: not for less
WORK = 5_000_000  # tasks put in time, over all tries, where no deadline says otherwise
MOST = 1_300_000  # tasks of one schedule
SPREAD = 0.8  # share of the time over which the chunks start one after another
PATIENT = 10.0  # seconds that leave room for schedules twice as large
CENTRAL = 0.35  # share of the members that roots are taken from
MU = ((1.0, 10.0), (0.3, 3.0))  # prices on depth: tried first, and later on


def all_reduce(
    topology: Topology,
    nbytes: float,
    *,
    members: ArrayLike | None = None,
    chunks: int | Literal["auto"] = "auto",
    seeds: int = 4,
    deadline: float | None = None,
) -> Schedule:
    """A schedule near the bound for any all-reduce algorithm.

    Each chunk is added up along a tree and handed out along a tree, all chunks in one schedule. Where the bounds of
    reduce-scatter and all-gather leave room, those two joined are tried as well, and for few bytes an all-gather of
    everyone's whole vector.

    Args:
        topology: the network.
        nbytes: each NPU's input, bytes.
        members: NPUs that take part; the others only pass on.
        chunks: pieces an NPU's share is cut into: ``chunks * len(members)`` in all. ``"auto"`` chooses, any number.
        seeds: tries of what is random.
        deadline: seconds to spend at most; None: what it takes.

    Raises:
        SpecError: members that cannot reach each other, or bad input.
    """
    who = topology.members if members is None else np.unique(np.asarray(members, np.int64).reshape(-1))
    strangers = np.setdiff1d(who, topology.members)
    if len(who) == 0 or len(strangers):
        raise SpecError([Fault("members", str(strangers[:5]), "must be at least one NPU, and only such as work")])
    if not (nbytes > 0 and math.isfinite(nbytes)):
        raise SpecError([Fault("bytes", str(nbytes), "must be more than 0, and finite")])
    if chunks != "auto" and chunks < 1:
        raise SpecError([Fault("chunks", str(chunks), "must be auto, or at least 1")])
    if len(who) == 1:
        return _schedule(topology, nbytes, who, None)
    search = Search(topology, nbytes, who, max(seeds, 1), deadline)
    if chunks == "auto":
        search.run()
    else:
        search.fixed(chunks * len(who))
    if search.other is not None and (search.best is None or search.other.time < search.best.time):
        return search.other
    return _schedule(topology, nbytes, who, search.best)


class Found(NamedTuple):
    """A schedule in the making.

    Attributes:
        time: seconds it takes.
        start: of the tasks, [tasks].
        work: the tasks.
        pieces: chunks.
        ideal: seconds that the busiest link would need for the bytes alone.
        algorithm: what made it.
    """

    time: float
    start: Floats
    work: Pipeline
    pieces: int
    ideal: float
    algorithm: str = "fused trees"


class Search:
    """Tries of numbers of chunks, prices on depth and seeds, within a budget; ``best`` is the best so far."""

    def __init__(self, topology: Topology, nbytes: float, members: Ints, seeds: int, deadline: float | None) -> None:
        self.topology, self.nbytes, self.members, self.seeds = topology, nbytes, members, seeds
        self.net = network(topology, members)
        self.even = regular(topology, members)
        self.hard = bool((self.net.twin < 0).any()) and not self.even
        self.central, self.far = centre(topology, members, nbytes)
        square = len(members) ** 2
        self.most = max(1, max(MOST, min(4 * square, 3 * MOST), square) // (2 * len(members) - 2))
        if deadline is not None and deadline >= PATIENT:
            self.most *= 2
        self.until = math.inf if deadline is None else time.monotonic() + deadline
        self.left = max(WORK, min(10 * square, 6 * WORK)) if deadline is None else math.inf
        self.best: Found | None = None
        self.other: Schedule | None = None  # made otherwise
        self.least = halves.least(topology, nbytes, members)
        self.ideal = math.inf
        if self.even:  # a chunk for each member is about right, unless latency counts
            chunk = topology.times(nbytes / len(members))
            if float((topology.latency / chunk).max()) < 0.1:
                self.ideal = halves.least(topology, nbytes, members, chunk)

    def run(self) -> None:
        """Look for the best number of chunks, then vary the rest."""
        members = len(self.members)
        steps = doubling(self.topology, self.nbytes, self.members)
        if steps is not None:
            self.keep(steps)
        switched = self.topology.nodes > self.topology.npus and bool((self.net.twin >= 0).all())
        if self.even or switched:
            self.halves("auto")
        if switched and math.isinf(self.until) and self.time <= SWITCHED * self.floor():
            return
        if self.even and not self.near():
            # Each member the root of as many chunks: the trees can be images of each other.
            for share in (1, 2, 4):
                if share * members <= self.most and not self.near():
                    self.attempt(share * members, MU[0][0], 2)
        guess = self.guess()
        small = 2 * (members - 1) * guess < WORK // 60
        if small:  # too cheap to predict
            for pieces in sorted({max(1, guess // 2**i) for i in range(1, 5)} | {1, 2}):
                for mu in (MU[0][1], *MU[1]):
                    self.attempt(pieces, mu, 2)
        last = max(1, guess if small else guess // 4)
        mu, one = MU[0][0], None
        for price in MU[0]:
            found = self.attempt(last, price, int(small))
            if found is not None and (one is None or found.time < one.time):
                one, mu = found, price
        for _ in range(3):
            if one is None or self.near():
                break
            pieces = self.better(one)
            if abs(math.log(pieces / last)) < 0.2:
                break
            last = pieces
            found = self.attempt(pieces, mu, int(small))
            if found is None or found.time > one.time:
                break
            one = found
        self.improve()
        if not (self.even or switched) and self.least < 0.99 * self.time:
            self.halves("auto")
        if self.vectors() < 0.95 * self.time:
            left = None if math.isinf(self.until) else max(self.until - time.monotonic(), 0.01)
            self.keep(halves.whole_vectors(self.topology, self.nbytes, self.members, self.seeds, left))
        for seed in range(1, self.seeds + 1):
            for price in (mu, *MU[1]):
                if self.near() or self.spent():
                    return
                pieces = self.best.pieces if self.best else last
                self.attempt(pieces, price, 2, seed)
                self.attempt(max(1, min(self.most, round(pieces * (0.75, 1.33)[seed % 2]))), price, 2, seed)

    def halves(self, per_shard: int | Literal["auto"]) -> None:
        """Reduce-scatter and all-gather, joined so that a chunk need not wait for the others."""
        left = None if math.isinf(self.until) else max(self.until - time.monotonic(), 0.01)
        given = (self.topology, self.nbytes, self.members)
        scatter, ahead = halves.pair(*given, self.net.twin, per_shard, self.seeds, left)
        self.keep(halves.one_after_the_other(scatter, ahead))
        self.left -= 2 * ahead.transfers
        trees = halves.as_trees(scatter, ahead) if ahead.transfers < 2 * MOST and not self.near() else None
        if trees is not None:
            pieces = len(ahead.chunks.size)
            seconds = self.topology.times(self.nbytes / pieces)
            work = pipeline(trees[0], seconds)
            start = in_order(work, trees[1], self.topology.links)
            self.left -= len(start)
            ideal = float((trees[0].load * (seconds - self.topology.latency)).max())
            found = Found(finish(work, start), start, work, pieces, ideal, "reduce-scatter and all-gather, joined")
            if self.best is None or found.time < self.best.time:
                self.best = found

    def keep(self, made: Schedule) -> None:
        """Note a schedule that was made otherwise."""
        if self.other is None or made.time < self.other.time:
            self.other = made

    @property
    def time(self) -> float:
        """Of the best schedule so far."""
        return min(found.time if found is not None else math.inf for found in (self.best, self.other))

    def fixed(self, pieces: int) -> None:
        """The same with the number of chunks given."""
        for seed in range(self.seeds):
            for mu in MU[seed % 2]:
                if not (self.best and (self.near() or self.spent())):
                    self.attempt(pieces, mu, 2 if self.best else 0, seed)
        self.improve()

    def guess(self) -> int:
        """Chunks for which latency and the time to fill the pipeline are balanced: both grow with a square root."""
        t = self.topology
        latency, bandwidth = float(t.latency.mean()), 1 / float((1 / t.bandwidth).mean())
        share = 2 * (len(self.members) - 1) / t.links
        if latency * bandwidth * self.most**2 <= 2 * self.far * self.nbytes / share:
            return self.most
        return max(1, min(self.most, math.ceil(math.sqrt(2 * self.far * self.nbytes / (share * latency * bandwidth)))))

    def vectors(self) -> float:
        """Seconds that an all-gather of whole vectors takes at least."""
        t, others = self.topology, len(self.members) - 1
        rate = np.bincount(t.dst, 1 / t.times(self.nbytes), t.nodes)[self.members]
        return others / float(rate.min()) if rate.min() > 0 else math.inf

    def better(self, found: Found) -> int:
        """Number of chunks that would have balanced them."""
        ramp, latency = found.time - found.work.busy, found.work.busy - found.ideal
        step = math.sqrt(max(ramp, 1e-3 * found.time) / max(latency, 1e-9 * found.time))
        return max(1, min(self.most, round(found.pieces * min(max(step, 0.25), 4.0))))

    def near(self) -> bool:
        """Whether there is little left to gain."""
        return self.time <= NEAR * self.ideal

    def floor(self) -> float:
        """What no all-reduce can beat, by its bytes."""
        from dse.collective.bounds import bound

        return bound(self.topology, "all_reduce", self.nbytes, members=self.members).bandwidth

    def spent(self) -> bool:
        """Whether the budget is."""
        return self.left <= 0 or time.monotonic() >= self.until

    def attempt(self, pieces: int, mu: float, passes: int, seed: int = 0) -> Found | None:
        """One set of trees, put in time; None where the budget is spent and there is a schedule already."""
        if self.best is not None and self.spent():
            return None
        count = len(self.central)
        if not self.even:  # roots in the middle keep trees shallow, some spread keeps links evenly used
            count = min(pieces, math.ceil(CENTRAL * count))
        trees, seconds = grown(self.topology, self.net, pieces, self.nbytes, mu, seed, self.central[:count], self.hard)
        work = pipeline(trees, seconds)
        ideal = float((trees.load * (seconds - self.topology.latency)).max())
        start = in_order(work, staggered(work, pieces, SPREAD), self.topology.links)
        found = Found(finish(work, start), start, work, pieces, ideal)
        self.ideal = min(self.ideal, ideal)
        self.left -= len(start)
        # What starts far from the best does not end as the best.
        if passes and (self.best is None or self.even or found.time < 1.1 * self.best.time):
            found = self.improved(found, passes)
        if self.best is None or found.time < self.best.time:
            self.best = found
        return found

    def improve(self) -> None:
        """Justify the best until that gains nothing."""
        if self.best is not None:
            self.best = self.improved(self.best, 4)

    def improved(self, found: Found, passes: int) -> Found:
        for _ in range(passes):
            if found.time <= 1.002 * found.work.busy or self.spent():
                break
            start = justified(found.work, found.start, self.topology.links)
            self.left -= 2 * len(start)
            gain = found.time - finish(found.work, start)
            if gain > 0:
                found = found._replace(time=found.time - gain, start=start)
            if gain <= 0.002 * found.time:
                break
        return found


def _schedule(topology: Topology, nbytes: float, members: Ints, found: Found | None) -> Schedule:
    pieces = 0 if found is None else found.pieces
    size = nbytes / max(pieces, 1)
    everyone = np.full(max(pieces, 1), EVERYONE)
    chunks = Chunks(np.arange(max(pieces, 1)) * size, np.full(max(pieces, 1), size), everyone, everyone)
    if found is None:
        empty = np.zeros(0, np.int32)
        return Schedule(
            topology, "all_reduce", nbytes, members, chunks, empty, empty, np.zeros(0), np.zeros(0), np.zeros(0, bool),
            algorithm="nothing to do",
        )  # fmt: skip
    work = found.work
    adds = ~work.out & (topology.dst[work.link] < topology.npus)
    return Schedule(
        topology, "all_reduce", nbytes, members, chunks, work.chunk, work.link, found.start,
        found.start + work.duration, adds, algorithm=found.algorithm, notes={"busiest_link_us": work.busy * 1e6},
    )  # fmt: skip


def grown(
    topology: Topology, net: Network, pieces: int, nbytes: float, mu: float, seed: int, roots: Ints, hard: bool
) -> tuple[Trees, Floats]:
    """Trees of ``pieces`` chunks, and the seconds a chunk takes on each link."""
    seconds = topology.times(nbytes / pieces)
    src, dst = net.src, net.dst
    forth = (net.out_ptr, net.out_link, net.in_ptr, net.in_link, src, dst)
    reverse = (net.in_ptr, net.in_link, net.out_ptr, net.out_link, dst, src)
    room = int((net.kind != SWITCH).sum()) - 1
    if topology.nodes > topology.npus:
        room += 6 * int((net.kind == MEMBER).sum())
    rng = np.random.default_rng(seed)
    if pieces <= len(roots):
        drawn = rng.permutation(roots[:pieces])
    else:
        drawn = np.concatenate([rng.permutation(roots) for _ in range(-(-pieces // len(roots)))])[:pieces]
    candidates, rounds = (5, 2) if hard else (1, 0)
    goal = 1.02 * per_chunk(topology, seconds, int((net.kind == MEMBER).sum()))
    while True:
        made = pack(drawn, net.kind, forth, reverse, net.twin, seconds, mu, candidates, goal, rounds, room, seed)
        if made[2].min() >= 0:
            return Trees(*made), seconds
        room *= 2
        if room > 64 * topology.nodes * (topology.nodes + 1):
            raise SpecError([Fault("members", str(len(net.kind)), "must all reach each other")])


def per_chunk(topology: Topology, seconds: Floats, members: int) -> float:
    """Seconds that a chunk keeps the busiest link busy at least, where all nodes are members."""
    least = 2 * (members - 1) / float((1 / seconds).sum())
    for ends in (topology.src, topology.dst):
        rate = np.bincount(ends, 1 / seconds, topology.nodes)[topology.members]
        least = max(least, 1 / float(rate.min()))
    return least


def regular(topology: Topology, members: Ints) -> bool:
    """Whether all nodes are members with the same links in and out, as far as latency and bandwidth go."""
    if len(members) != topology.nodes:
        return False
    kinds = np.unique(np.stack([topology.latency, topology.bandwidth]), axis=1, return_inverse=True)[1].ravel()
    width = int(kinds.max(initial=0)) + 1
    for ends in (topology.src, topology.dst):
        count = np.bincount(ends * width + kinds, minlength=topology.nodes * width).reshape(topology.nodes, width)
        if (count != count[0]).any():
            return False
    return True


def centre(topology: Topology, members: Ints, nbytes: float) -> tuple[Ints, int]:
    """Members, the most central first; and the hops from the first to the farthest.

    Distances are taken from a few members far from each other.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import dijkstra

    nodes = topology.nodes
    seconds = np.maximum(topology.times(nbytes / max(1024, len(members))), 1e-12)
    # Of parallel links the fastest counts.
    order = np.lexsort((seconds, topology.dst, topology.src))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(topology.src[order]) != 0) | (np.diff(topology.dst[order]) != 0)
    use = order[first]
    there = csr_array((seconds[use], (topology.src[use], topology.dst[use])), shape=(nodes, nodes))
    back = csr_array(there.T)
    farthest = np.zeros(len(members))
    nearest = np.full(len(members), np.inf)
    mark = int(members[0])
    for _ in range(min(8, len(members))):
        trip = (dijkstra(there, indices=mark) + dijkstra(back, indices=mark))[members]
        farthest, nearest = np.maximum(farthest, trip), np.minimum(nearest, trip)
        mark = int(members[int(np.argmax(nearest))])
    ranked = members[np.argsort(farthest, kind="stable")]
    hops = dijkstra(there, indices=int(ranked[0]), unweighted=True)[members]
    if not np.isfinite(farthest).all():
        raise SpecError([Fault("members", str(members[~np.isfinite(farthest)][:5]), "must all reach each other")])
    return ranked, int(hops.max())
