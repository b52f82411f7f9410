"""Which SubNet serves a query, and which SubGraph stays on the chip: the paper's rules, baselines, and better ones.

A query asks for an accuracy and a latency. ``strict-accuracy`` takes, of the SubNets that are accurate enough, the one
of least latency under the SubGraph that is cached; ``strict-latency``, of those that are fast enough, the most
accurate. Where none will do, the nearest serves: the most accurate, or the fastest.

Every ``window`` queries the cache is decided anew:

- ``none``: nothing is ever cached.
- ``static``: one SubGraph, the best for the whole stream in hindsight (or one that is named).
- ``random``: any, drawn anew each time.
- ``lru``: after every query the SubGraph under which its SubNet is fastest comes in and the one before it goes out.
  (LRU of kernels or layers would be no cache at all: a SubNet is larger than the persistent buffer and walks through
  its layers in a cycle, so each is evicted just before it is used again.)
- ``recent``: the SubGraph nearest to the last SubNet.
- ``average``: the paper's: the SubGraph nearest to the mean vector of the SubNets of the window.
- ``expected``: the SubGraph under which the queries of the window would have cost least, each with the SubNet that
  it would then have had, and with the cost of loading it.
- ``discounted``: the same over all past windows, the older ones counting less.
- ``work-function``: the rule of Borodin, Linial and Saks for metrical task systems: stay near to where the best
  schedule in hindsight would end, as far as moving there is worth it.
- ``oracle``: the best schedule of SubGraphs in hindsight (``dse.domains.sushi.oracle``): what no rule that decides as
  often can beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dse.simulate.heap import inner

POLICIES = ("strict-accuracy", "strict-latency")
STRICT_ACCURACY, STRICT_LATENCY = range(2)
CACHING = (
    "none", "static", "random", "lru", "recent", "average", "expected", "discounted", "work-function", "oracle",
)  # fmt: skip
PLANNED, LRU, RECENT, AVERAGE, SCORED, WORK = range(6)  # what the loop tells apart: a plan is decided before it starts
_RULES = {
    "lru": LRU, "recent": RECENT, "average": AVERAGE, "expected": SCORED, "discounted": SCORED, "work-function": WORK,
}  # fmt: skip


@dataclass(frozen=True)
class Caching:
    """A rule for the cache.

    Attributes:
        kind: one of ``CACHING``.
        column: SubGraph that ``static`` holds (its place in the table); None for the best.
        discount: what a window counts for ``discounted`` when one more has passed.
        margin: what a load counts for ``expected``, ``discounted`` and ``work-function``, relative to its cost.
        seed: of ``random``.
    """

    kind: str = "average"
    column: int | None = None
    discount: float = 0.9
    margin: float = 1.0
    seed: int = 0

    @property
    def rule(self) -> int:
        """The number by which the compiled loop knows the rule."""
        return _RULES.get(self.kind, PLANNED)

    @property
    def kept(self) -> float:
        """Share of the scores that stays after a decision."""
        return self.discount if self.kind == "discounted" else 0.0


class Costs(NamedTuple):
    """The table as the loop reads it; j counts SubGraphs, i SubNets, the most accurate first.

    Attributes:
        place: [i], of the SubNet in the table.
        accuracy: [i], falling.
        latency: [j, i], s.
        value: [j, i], what serving costs in terms of the objective.
        load_time: [j, j] from one SubGraph to another, s; zero on the diagonal.
        load_value: [j, j], what loading costs in terms of the objective; its time counts only where it blocks.
        alike: [j, i], inner products of the vectors of SubGraphs and SubNets.
        size: [j], squared lengths of the vectors of the SubGraphs.
        quickest: [j], SubNet of least latency.
        fastest: [i], SubGraph under which a SubNet is fastest.
    """

    place: np.ndarray
    accuracy: np.ndarray
    latency: np.ndarray
    value: np.ndarray
    load_time: np.ndarray
    load_value: np.ndarray
    alike: np.ndarray
    size: np.ndarray
    quickest: np.ndarray
    fastest: np.ndarray


class Memory(NamedTuple):
    """What each replica remembers: ``counts`` [replica, i] of the window, ``score`` and ``work`` [replica, j]."""

    counts: np.ndarray
    score: np.ndarray
    work: np.ndarray


@inner
def choose(accuracies, latencies, quickest, column, policy, accuracy, latency):
    """The SubNet for a query that asks for an accuracy and a latency; of equals the faster, or the more accurate.

    The first three are of ``Costs``. (Taken out of it by whoever calls: to do so for each choice takes longer than
    to choose.)
    """
    last = len(accuracies) - 1
    best, least = np.int64(0), min(accuracy, accuracies[0])
    if policy == STRICT_LATENCY:
        while best < last and latencies[column, best] > latency:
            best += 1
        if latencies[column, best] > latency:
            best = quickest[column]
        least = accuracies[best]
    # Those that are accurate enough stand together; the fastest of them.
    i = best + 1
    while i <= last and accuracies[i] >= least:
        if latencies[column, i] < latencies[column, best]:
            best = i
        i += 1
    return best


@inner
def note(costs, memory, replica, rule, policy, subnet, accuracy, latency):
    """Remember a query and the SubNet that served it."""
    memory.counts[replica, subnet] += 1
    if rule in (SCORED, WORK):
        accuracies, latencies, quickest = costs.accuracy, costs.latency, costs.quickest
        value, score = costs.value, memory.score
        for j in range(len(quickest)):
            score[replica, j] += value[j, choose(accuracies, latencies, quickest, j, policy, accuracy, latency)]


@inner
def decide(costs, memory, replica, rule, kept, margin, cached, subnet):
    """The SubGraph to cache from now on, given the one that is and the last SubNet; forgets the window.

    Among equals the one that is cached stays, else the first.
    """
    best = cached
    if rule == LRU:
        best = costs.fastest[subnet]
    elif rule == RECENT:
        best = _nearest_one(costs, cached, subnet)
    elif rule == AVERAGE:
        best = _nearest(costs, cached, memory.counts[replica])
    elif rule == SCORED:
        best = _least(costs, cached, memory.score[replica], margin)
    elif rule == WORK:
        work = _advance(costs, memory.work[replica], memory.score[replica], margin)
        best = _least(costs, cached, work, margin)
    memory.counts[replica] = 0
    memory.score[replica] *= kept
    return best


@inner
def _nearest_one(costs, cached, subnet):
    best, least = cached, costs.size[cached] - 2.0 * costs.alike[cached, subnet]
    for j in range(len(costs.size)):
        far = costs.size[j] - 2.0 * costs.alike[j, subnet]
        if far < least:
            best, least = np.int64(j), far
    return best


@inner
def _nearest(costs, cached, counts):
    """Least |S - mean|^2, times the number of queries and less what all have in common: exact in whole numbers."""
    total = counts.sum()
    best, least = cached, np.inf
    for step in range(-1, len(costs.size)):
        j = cached if step < 0 else np.int64(step)
        far = total * costs.size[j]
        for i in range(len(counts)):
            far -= 2.0 * counts[i] * costs.alike[j, i]
        if far < least:
            best, least = j, far
    return best


@inner
def _least(costs, cached, score, margin):
    best, least = cached, score[cached]
    for j in range(len(score)):
        cost = score[j] + margin * costs.load_value[cached, j]
        if cost < least:
            best, least = np.int64(j), cost
    return best


@inner
def _advance(costs, work, score, margin):
    """Bring the work function up to date; returns it, with infinity where a better schedule ends elsewhere and moves.

    ``work`` is the least cost of serving all queries so far and ending with each SubGraph, less the least of all. Moves
    count half of there and back: the same over any schedule, up to its ends, where a load costs what it brings in.
    """
    stayed = work + score
    work[:] = stayed
    for j in range(len(work)):
        for k in range(len(work)):
            move = 0.5 * margin * (costs.load_value[k, j] + costs.load_value[j, k])
            work[j] = min(work[j], stayed[k] + move)
    supported = np.where(work < stayed, np.inf, stayed)
    work -= work.min()
    return supported
