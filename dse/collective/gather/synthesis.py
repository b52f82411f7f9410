"""Near-optimal all-gather, reduce-scatter, broadcast and reduce on any topology."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from dse.collective.bounds import require_connected
from dse.collective.gather.chains import chained
from dse.collective.gather.matching import Moves, matched
from dse.collective.gather.reverse import reversed_schedule
from dse.collective.gather.symmetry import Symmetry, symmetry, translated, trivial
from dse.collective.gather.trees import packed
from dse.collective.maxflow import distances, worst_cut
from dse.collective.schedule import Schedule, whole_chunks
from dse.collective.topology import Floats, Ints, Topology
from dse.errors import Fault, SpecError

PerShard = int | Literal["auto"]
NEAR = 1.002  # times the bound of some cuts: not improved further
ENOUGH = 1.005  # the same when half of the time is over
PIECES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
FINEST = 64  # chunks of a shard
WORK, SIZE = 6e5, 4e6  # transfers planned, and in the schedule, beyond which chunks are not cut finer
DEPTHS = (6.0, 15.0, 1.0, 0.3)  # prices of distance in trees
SECONDS = 0.4  # spent improving at 512 NPUs, and in proportion to the transfers elsewhere
LEAST_SECONDS = 0.25
SINKS = 8  # members whose cuts are looked at


def all_gather(
    topology: Topology,
    nbytes: float,
    *,
    members: ArrayLike | None = None,
    per_shard: PerShard = "auto",
    seeds: int = 4,
    deadline: float | None = None,
) -> Schedule:
    """Every member gets the shards of all.

    Where translations leave the network as it is, one NPU's schedule serves all. Chunks are matched to links as time
    goes on, or travel on packed trees where there are switches or NPUs that take no part; the best is kept.

    Args:
        topology: the network.
        nbytes: the whole result.
        members: NPUs that take part, ascending; the others only pass on. None: all.
        per_shard: chunks a shard is cut into; ``"auto"``: a few numbers are tried.
        seeds: tries of what is random.
        deadline: seconds after which no further try begins. None: some tenths of a second at 512 NPUs.

    Raises:
        SpecError: bad input, or members that cannot reach each other.
    """
    return _Search(topology, "all_gather", nbytes, members, None, per_shard, seeds, deadline).best()


def reduce_scatter(
    topology: Topology,
    nbytes: float,
    *,
    members: ArrayLike | None = None,
    per_shard: PerShard = "auto",
    seeds: int = 4,
    deadline: float | None = None,
) -> Schedule:
    """Every member gets its shard of the sum of all inputs, ``nbytes`` each: an all-gather turned round."""
    found = _Search(topology.reverse(), "all_gather", nbytes, members, None, per_shard, seeds, deadline).best()
    return reversed_schedule(found, topology)


def broadcast(
    topology: Topology,
    nbytes: float,
    root: int,
    *,
    members: ArrayLike | None = None,
    per_shard: PerShard = "auto",
    seeds: int = 4,
    deadline: float | None = None,
) -> Schedule:
    """Every member gets the root's ``nbytes``, cut into ``per_shard`` chunks; see :func:`all_gather`."""
    return _Search(topology, "broadcast", nbytes, members, root, per_shard, seeds, deadline).best()


def reduce(
    topology: Topology,
    nbytes: float,
    root: int,
    *,
    members: ArrayLike | None = None,
    per_shard: PerShard = "auto",
    seeds: int = 4,
    deadline: float | None = None,
) -> Schedule:
    """The root gets the sum of all inputs, ``nbytes`` each: a broadcast on the network turned round."""
    found = _Search(topology.reverse(), "broadcast", nbytes, members, root, per_shard, seeds, deadline).best()
    return reversed_schedule(found, topology)


@dataclass(frozen=True)
class _Plan:
    """Something to try."""

    pieces: int
    method: str
    limit: float = math.inf  # of a matching; of trees the price of depth; of chains their number
    samples: int = 1
    rounds: int = 1
    seed: int = 0


class _Search:
    """Plans for one collective, and what has come of them."""

    def __init__(
        self, topology: Topology, collective: str, nbytes: float, members: ArrayLike | None, root: int | None,
        per_shard: PerShard, seeds: int, deadline: float | None,
    ) -> None:  # fmt: skip
        self.began = time.perf_counter()
        _check(nbytes, per_shard, seeds)
        self.topology, self.collective, self.nbytes, self.root = topology, collective, float(nbytes), root
        given = topology.members if members is None else np.unique(np.asarray(members, np.int64).reshape(-1))
        require_connected(topology, collective, given, root)
        self.members, self.per_shard, self.seeds = given, per_shard, seeds
        self.whole = len(given) == len(topology.members) and topology.nodes == topology.npus
        rooted = collective == "broadcast"
        same = len(given) == topology.npus and not rooted
        self.symmetry: Symmetry = symmetry(topology) if same else trivial(topology)
        self.first = np.array([root]) if rooted else (self.symmetry.first if same else given)
        self.shards = 1 if rooted else len(given)
        self.unit = self.nbytes / self.shards
        self.count = self.shards * (len(given) - 1)
        if deadline is None:
            deadline = max(SECONDS * (self.count / (512 * 511)), LEAST_SECONDS)
        self.deadline = self.began + deadline
        few = self.symmetry.size > 1 or rooted
        self.sources = self.first if few else given[:: max(len(given) // SINKS, 1)]
        self._paths: dict[int, float] = {}
        self._slots: dict[int, float] = {}
        self.found: tuple[_Plan, Moves] | None = None

    # What the plans are judged by ---------------------------------------------------------------------------------
    def durations(self, pieces: int) -> Floats:
        """Seconds a class of links is busy with a chunk, [classes]."""
        busy = np.zeros(len(self.symmetry.share))
        busy[self.symmetry.machine] = self.topology.times(self.unit / pieces)
        return busy * self.symmetry.share

    def path(self, pieces: int) -> float:
        """Longest shortest path of a chunk from some sources."""
        if pieces not in self._paths:
            t = self.topology
            far = distances(t.nodes, t.src, t.dst, t.times(self.unit / pieces), self.sources)
            self._paths[pieces] = float(far[:, self.members].max())
        return self._paths[pieces]

    def slots(self, pieces: int) -> float:
        """Least time in which the links of each known cut have room for its chunks, each a whole number of them."""
        if pieces not in self._slots:
            times = self.topology.times(self.unit / pieces)
            self._slots[pieces] = max(_fill(times[links], shards * pieces) for links, shards in self.cuts)
        return self._slots[pieces]

    @cached_property
    def cuts(self) -> list[tuple[Ints, int]]:
        """Links and the shards that have to cross them: round the members that are slowest to fill, and a worse cut."""
        t, into = self.topology, self.topology.incoming
        demand = np.zeros(t.nodes)
        demand[self.members if self.root is None else self.root] = 1.0
        rate = 1 / t.times(self.unit)
        sinks = self.members[self.members != self.root]
        sinks = sinks[np.argsort(np.bincount(t.dst, rate, t.nodes)[sinks], kind="stable")]
        near = [(into.link[into.ptr[v] : into.ptr[v + 1]], self.shards - (self.root is None)) for v in sinks[:4]]
        few = 1 if self.symmetry.size == t.npus else SINKS
        some = np.unique(np.concatenate([sinks[: few // 2 + 1], sinks[:: max(len(sinks) // few, 1)]]))
        start = max(shards / rate[links].sum() for links, shards in near)
        inside = np.zeros(t.nodes, bool)
        worst_cut(t.nodes, t.src, t.dst, rate, np.zeros(t.links), demand, some, start, inside)
        crossing = np.flatnonzero(inside[t.src] & ~inside[t.dst])
        return [*near, (crossing, int(demand[inside].sum()))] if len(crossing) else near

    def least(self, pieces: int) -> float:
        """What no schedule with so many chunks can beat."""
        return max(self.slots(pieces), self.path(pieces))

    def guess(self, pieces: int) -> float:
        """Time to expect: whole slots, and the last chunk on its way while few links have work."""
        times = self.topology.times(self.unit / pieces)
        uneven = times.max() > 1.001 * times.min()
        if self.whole and self.root is None:
            return self.least(pieces) + (float(times.max()) if uneven else 0.0)
        return self.slots(pieces) + self.path(pieces)

    # Plans --------------------------------------------------------------------------------------------------------
    def pieces(self) -> list[int]:
        """Numbers of chunks to try first, the most promising first."""
        if self.per_shard != "auto":
            return [self.per_shard]
        ranked = sorted((c for c in PIECES if c <= self.finest), key=self.guess)
        least = self.guess(ranked[0])
        return [c for c in ranked if self.guess(c) <= 1.05 * least][:3]

    @cached_property
    def finest(self) -> int:
        """Most chunks of a shard: what a schedule may grow to, in work and in size."""
        if self.per_shard != "auto":
            return self.per_shard
        most = min(WORK * self.symmetry.size / self.count, SIZE / self.count)
        return int(np.clip(most, 1, PIECES[-1] if self.root is not None else FINEST))

    def near(self, pieces: int) -> list[int]:
        """The same number of chunks, and those about it."""
        at = PIECES.index(pieces) if pieces in PIECES and self.per_shard == "auto" else None
        return [pieces] if at is None else [c for c in (PIECES[at : at + 3] + PIECES[at - 1 : at]) if c <= self.finest]

    def plans(self) -> Iterator[_Plan]:
        """What to try, in turn: first numbers of chunks, then variations on the best so far."""
        even = len(np.unique(self.durations(1))) == 1
        matching, trees = self.whole, not (self.whole and even) or self.root is not None
        ends = np.stack([self.topology.src, self.topology.dst]) >= self.topology.npus
        levels = bool(ends.any(axis=0).all() and ends.all(axis=0).any()) and self.root is None  # of switches only
        samples = 16 if self.count / self.symmetry.size < 1e5 else 6
        # Links that are all alike seldom need to look ahead. With some hundreds of NPUs there is time for one try only.
        quick = even and (
            not 1e5 < self.count / self.symmetry.size < 5e5 or self.topology.links > 8 * self.topology.nodes
        )
        options = self.pieces()
        coarsest = sorted({*options, *self.near(1)} if self.per_shard == "auto" else options, key=self.least)
        for c, coarse in zip(options, coarsest, strict=False):
            if levels:
                yield _Plan(c, "chains", 4)
            if matching:
                pieces = c if even else coarse
                yield (
                    _Plan(pieces, "matching") if quick else _Plan(pieces, "matching", self.limit(pieces, 1.4), samples)
                )
            if trees:
                yield _Plan(c, "trees", DEPTHS[0])
        for turn in range(1, 4 * self.seeds):
            for c in self.near(self.found[0].pieces):
                if matching:
                    yield _Plan(c, "matching", self.limit(c, (0.6, 1.0, 1.4, 0.3)[turn % 4]), samples, seed=turn)
                if matching and even:
                    yield _Plan(c, "matching", seed=turn)
                if trees or self.symmetry.size > 1:
                    yield _Plan(c, "trees", DEPTHS[turn % len(DEPTHS)], rounds=1 + turn // 4, seed=turn)
                if levels and turn < 4:
                    yield _Plan(c, "chains", (4, 2, 8, 1)[turn])

    def limit(self, pieces: int, slots: float) -> float:
        """Some slots of the slowest link after what no schedule can beat."""
        return self.least(pieces) + slots * float(self.durations(pieces).max())

    def best(self) -> Schedule:
        """The quickest schedule found in time."""
        if len(self.members) < 2:
            none = np.empty(0, np.int32)
            return self.schedule(_Plan(1, "matching"), Moves(none, none, np.empty(0), none, 0.0))
        seen: set[_Plan] = set()
        pace: dict[str, float] = {}  # seconds for one piece
        for plan in self.plans():
            if plan in seen:
                continue
            began = time.perf_counter()
            work = plan.pieces * (1 + plan.rounds if plan.method == "trees" else 1)
            kind = plan.method if plan.samples > 1 else f"{plan.method} of few samples"
            if self.found is not None and began + pace.get(kind, 0.0) * work > self.deadline:
                if began > self.deadline:
                    break
                continue
            seen.add(plan)
            moves = self.tried(plan)
            pace[kind] = (time.perf_counter() - began) / work
            if moves is not None and (self.found is None or moves.time < self.found[1].time * (1 - 1e-9)):
                self.found = plan, moves
            if self.found is not None and self.found[1].time <= (ENOUGH if self.late else NEAR) * self.floor:
                break
        return self.schedule(*self.found)

    @property
    def late(self) -> bool:
        """Whether half of the time is over."""
        return 2 * time.perf_counter() > self.began + self.deadline

    @property
    def floor(self) -> float:
        """What the plans' chunks cannot beat."""
        return min(self.least(c) for c in list(self._slots) or self.pieces()[:1])

    def tried(self, plan: _Plan) -> Moves | None:
        roots, duration = np.repeat(self.first, plan.pieces), self.durations(plan.pieces)
        if plan.method == "chains":
            seconds = self.topology.times(self.unit / plan.pieces)
            return chained(self.topology, seconds, self.members, plan.pieces, int(plan.limit))
        if plan.method == "trees":
            args = (plan.limit, plan.rounds, plan.seed)
            return packed(self.topology, self.symmetry.machine, duration, roots, self.members, *args)
        args = (plan.limit, plan.samples, plan.seed)
        moves = matched(self.topology, self.symmetry.machine, duration, roots, len(self.members), *args)
        return moves if len(moves.chunk) == len(roots) * (len(self.members) - 1) else None

    def schedule(self, plan: _Plan, moves: Moves) -> Schedule:
        """All transfers of a plan's: each translation's, in the order of their starts."""
        topology, pieces = self.topology, plan.pieces
        sym, first = (trivial(topology), self.members) if plan.method == "chains" else (self.symmetry, self.first)
        chunks = whole_chunks(self.collective, self.nbytes, self.members, pieces, self.root)
        order = np.argsort(moves.start, kind="stable")
        chunk, link, start = moves.chunk[order], moves.link[order], moves.start[order]
        index = np.zeros(topology.npus, np.int32)
        index[self.members] = np.arange(len(self.members), dtype=np.int32)
        owner = np.repeat(first, pieces)[chunk]
        copies = sym.size
        along = translated(sym, link, sym.link).T
        place = 0 if self.root is not None else index[translated(sym, owner, sym.node).T] * pieces
        number = place + (chunk % pieces if self.root is None else chunk)[:, None].astype(np.int32)
        begin = np.repeat(start[:, None], copies, axis=1)
        seconds = topology.times(self.unit / pieces)
        shared = np.flatnonzero(sym.share[sym.machine[link]] > 1)
        if shared.size:
            begin[shared] += _turn(along[shared]) * seconds[link[shared]][:, None]
        passes = None
        if topology.nodes > topology.npus and (moves.past >= 0).any():
            place = np.empty(len(order), np.int64)
            place[order] = np.arange(len(order))
            past = np.where(moves.past[order] >= 0, place[moves.past[order]], -1)
            past[topology.src[link] < topology.npus] = -1
            passes = np.where(past[:, None] >= 0, past[:, None] * copies + np.arange(copies), -1)
            passes = passes.astype(np.int32).ravel()
        along, begin = np.ascontiguousarray(along, np.int32).ravel(), begin.ravel()
        number = np.ascontiguousarray(number, np.int32).ravel()
        notes = {
            "per_shard": pieces,
            "translations": copies,
            "seed": plan.seed,
            "synthesis_s": time.perf_counter() - self.began,
        }
        return Schedule(
            topology, self.collective, self.nbytes, self.members, chunks, number, along, begin, begin + seconds[along],
            np.zeros(len(along), bool), self.root, None, f"synthesized ({plan.method})", notes, passes,
        )  # fmt: skip


def _turn(links: Ints) -> Ints:
    """How many before it in its row are the same, [rows, columns]."""
    order = np.argsort(links, axis=1, kind="stable")
    there = np.take_along_axis(links, order, axis=1)
    column = np.broadcast_to(np.arange(links.shape[1]), links.shape)
    new = np.ones(links.shape, bool)
    new[:, 1:] = there[:, 1:] != there[:, :-1]
    rank = column - np.maximum.accumulate(np.where(new, column, 0), axis=1)
    found = np.empty_like(rank)
    np.put_along_axis(found, order, rank, axis=1)
    return found


def _fill(times: Floats, need: int) -> float:
    """Least T with at least ``need`` whole chunks in all, by links that take ``times`` each."""
    if not len(times) or need <= 0:
        return 0.0
    low = need / (1 / times).sum()
    ends = np.unique(np.concatenate([np.ceil(low / times * (1 - 1e-12)) * times, low + times * 0]))
    for _ in range(64):
        for end in ends[ends >= low * (1 - 1e-12)]:
            if np.floor(end / times * (1 + 1e-12)).sum() >= need:
                return float(end)
        low = float(ends[-1])
        ends = np.unique((np.floor(low / times * (1 + 1e-12)) + 1) * times)
    return low


def _check(nbytes: float, per_shard: PerShard, seeds: int) -> None:
    faults = []
    if not (nbytes > 0 and math.isfinite(nbytes)):
        faults.append(Fault("bytes", str(nbytes), "must be more than 0, and finite"))
    if per_shard != "auto" and not (isinstance(per_shard, int | np.integer) and per_shard >= 1):
        faults.append(Fault("chunks", str(per_shard)[:40], "must be auto, or a whole number from 1"))
    if not seeds >= 1:
        faults.append(Fault("seeds", str(seeds), "must be at least 1"))
    if faults:
        raise SpecError(faults)
