"""Scheduler, oracle and serving of SuperNets: rules that hold always, against plain Python and by brute force."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.domains.sushi import streams
from dse.domains.sushi.scheduler import CACHING, POLICIES, Caching
from dse.domains.sushi.serve import kept, serve
from dse.domains.sushi.served import COLUMNS, SUMMARY
from dse.domains.sushi.sharing import SubGraph
from dse.domains.sushi.streams import Span, Stream
from dse.domains.sushi.table import LatencyTable
from dse.errors import SpecError
from dse.simulate.serving import mean_wait

ONLINE = tuple(kind for kind in CACHING if kind != "oracle")


def table(seed: int = 0, subnets: int = 4, subgraphs: int = 5, slots: int = 3, load: float = 0.2) -> LatencyTable:
    """A small random table, in which each SubNet is fastest under another SubGraph; some are equally accurate."""
    rng = np.random.default_rng(seed)
    nets = rng.integers(1, 9, (subnets, 2 * slots))
    graphs = nets[rng.integers(0, subnets, subgraphs)] * (rng.random((subgraphs, 2 * slots)) < 0.6)
    share = rng.random((subnets, subgraphs))
    graphs[0], share[:, 0] = 0, 0
    whole = np.sort(rng.random(subnets)) + 0.5
    size, weights = graphs.sum(axis=1) * 8.0, nets.sum(axis=1) * 8.0
    return LatencyTable(
        subnets=tuple("ABCDEFGH"[:subnets]), subgraphs=("none", *(f"G{j}" for j in range(1, subgraphs))),
        latency=whole[:, None] * (1 - 0.4 * share), energy=whole[:, None] * (2 - share),
        off_chip=weights[:, None] * (1 - share), hits=weights[:, None] * share, weights=weights, size=size,
        accuracy=np.sort(rng.integers(70, 80, subnets)) / 100, load_time=load * size / 100, load_energy=size / 1000,
        subnet_vectors=nets, subgraph_vectors=graphs,
    )  # fmt: skip


def stream(of: LatencyTable, count: int, seed: int = 0, rate: float | None = None) -> Stream:
    """Demands a little beyond what the table has, so that some cannot be met."""
    a, t = Span.of(of)
    wide = Span((a[0] - 0.02, a[1] + 0.02), (t[0] * 0.8, t[1] * 1.2))
    return streams.markov(count, wide, stay=0.8, spread=0.3, rate=rate, seed=seed)


def pick(of, j, policy, accuracy, latency):
    """The SubNet, by its definition."""
    rows = range(len(of.accuracy))
    if policy == "strict-accuracy":
        fit = [i for i in rows if of.accuracy[i] >= accuracy] or [i for i in rows if of.accuracy[i] == max(of.accuracy)]
        return min(fit, key=lambda i: (of.latency[i, j], -of.accuracy[i], i))
    fit = [i for i in rows if of.latency[i, j] <= latency]
    if not fit:
        return min(rows, key=lambda i: (of.latency[i, j], -of.accuracy[i], i))
    return min(fit, key=lambda i: (-of.accuracy[i], of.latency[i, j], i))


def nearest(of, cached, mean):
    """The SubGraph nearest to a vector; the one that is cached among equals."""
    far = ((of.subgraph_vectors - mean) ** 2).sum(axis=1)
    return cached if far[cached] <= far.min() + 1e-9 else int(np.argmin(far))


class Plain:
    """One replica after another in plain Python, one query at a time."""

    def __init__(self, of, policy, kind, window, blocking, initial):
        self.of, self.policy, self.kind, self.window, self.blocking = of, policy, kind, window, blocking
        self.cached, self.before, self.there, self.past = initial, initial, 0.0, []
        self.score = np.zeros(len(of.size))

    def value(self, i, j):
        return self.of.latency[i, j] if self.policy == "strict-accuracy" else -self.of.accuracy[i]

    def serve(self, now, accuracy, latency):
        """SubNet, SubGraph, finish, and when the replica is free."""
        j = self.cached if now >= self.there else self.before
        i = pick(self.of, j, self.policy, accuracy, latency)
        finish = free = now + self.of.latency[i, j]
        self.past.append(i)
        self.score += [self.value(pick(self.of, k, self.policy, accuracy, latency), k) for k in range(len(self.score))]
        if self.kind == "lru" or len(self.past) % self.window == 0:
            free = max(free, self.there)
            wanted = self.decide(i)
            if wanted != self.cached:
                self.before, self.cached = self.cached, wanted
                self.there = free + self.of.load_time[wanted]
                free = self.there if self.blocking else free
        return i, j, finish, free

    def decide(self, last):
        """What to cache now."""
        nets, load = self.of.subnet_vectors, self.of.load_time
        score, self.score = self.score, self.score * (0.9 if self.kind == "discounted" else 0.0)
        if self.kind == "lru":
            return int(np.argmin(self.of.latency[last]))
        if self.kind in ("recent", "average"):
            mean = nets[last] if self.kind == "recent" else nets[self.past[-self.window :]].mean(axis=0)
            return nearest(self.of, self.cached, mean)
        counted = load if self.blocking and self.policy == "strict-accuracy" else load * 0
        cost = score + np.where(np.arange(len(load)) == self.cached, 0.0, counted)
        return self.cached if cost[self.cached] <= cost.min() else int(np.argmin(cost))


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6), policy=st.sampled_from(POLICIES), window=st.integers(1, 5), blocking=st.booleans(),
    kind=st.sampled_from(["lru", "recent", "average", "expected", "discounted"]), opened=st.booleans(),
    replicas=st.integers(1, 3), slack=st.booleans(), drop=st.booleans(), edf=st.booleans(),
)  # fmt: skip
def test_it_serves_as_plain_python_does(seed, policy, window, blocking, kind, opened, replicas, slack, drop, edf):
    """Every query has the same SubNet, SubGraph and times: each rule, both loops and loads, any number of replicas."""
    of = table(seed)
    asked = stream(of, 40, seed, rate=1.2 * replicas)
    got = serve(
        of, asked, policy=policy, caching=kind, window=window, loading="blocking" if blocking else "overlapped", slack=slack,
        loop="open" if opened else "closed", replicas=replicas, discipline="edf" if edf and opened else "fifo",
        drop=drop and opened,
    )  # fmt: skip
    initial = int(np.argmin(of.latency.mean(axis=0)))
    each = [Plain(of, policy, kind, window, blocking, initial) for _ in range(replicas)]
    free, done, left, next_one = np.zeros(replicas), np.zeros(replicas), set(range(40)), 0
    while left:
        r = int(np.argmin(free))
        now = free[r]
        if opened:
            now = max(now, min(asked.arrival[q] for q in left))
            line = [q for q in left if asked.arrival[q] <= now]
            query = min(line, key=lambda q: (asked.arrival[q] + asked.latency[q] if edf else 0.0, q))
            issued = asked.arrival[query]
        else:
            query, next_one, issued = next_one, next_one + 1, done[r]
        left.discard(query)
        if opened and drop and now > issued + asked.latency[query]:
            assert got.subnet[query] == -1
            continue
        latency = asked.latency[query] - (now - issued if slack else 0.0)
        i, j, done[r], free[r] = each[r].serve(now, asked.accuracy[query], latency)
        assert (got.subnet[query], got.subgraph[query], got.replica[query]) == (i, j, r)
        np.testing.assert_allclose((got.issued[query], got.start[query], got.finish[query]), (issued, now, done[r]))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), policy=st.sampled_from(POLICIES), kind=st.sampled_from(CACHING))
def test_a_demand_that_can_be_met_is_met(seed, policy, kind):
    """S5: strict-accuracy is never less accurate, strict-latency never slower than asked for, where a SubNet fits."""
    of = table(seed, subnets=6)
    asked = stream(of, 60, seed)
    got = serve(of, asked, policy=policy, caching=kind, window=3)
    if policy == "strict-accuracy":
        can = asked.accuracy <= of.accuracy.max()
        assert (got.accuracy[can] >= asked.accuracy[can]).all()
        assert (got.accuracy[~can] == of.accuracy.max()).all()
    else:
        least = of.latency.min(axis=0)[got.subgraph]
        can = asked.latency >= least
        assert (got.latency[can] <= asked.latency[can]).all()
        np.testing.assert_array_equal(got.latency[~can], least[~can])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), policy=st.sampled_from(POLICIES), loading=st.sampled_from(["blocking", "overlapped"]),
    window=st.integers(1, 4), weights=st.sampled_from([None, {"latency": 1.0, "energy": 0.3, "accuracy": 2.0}]),
)  # fmt: skip
def test_nothing_beats_the_oracle(seed, policy, loading, window, weights):
    """No rule and no plan at all costs less under the same accounting; the oracle's own cost is what it promised."""
    of = table(seed, subgraphs=3, load=1.0)
    asked = stream(of, 4 * window - 1, seed)
    given_ = {"policy": policy, "window": window, "loading": loading, "objective": weights}
    best = cost(serve(of, asked, caching="oracle", **given_))
    plans = [cost(serve(of, asked, caching=list(plan), **given_)) for plan in itertools.product(range(3), repeat=4)]
    assert best == pytest.approx(min(plans), rel=1e-9)
    for kind in ONLINE:
        if kind != "lru" or window == 1:
            assert best <= cost(serve(of, asked, caching=kind, **given_)) + 1e-9


def cost(got) -> float:
    """What a closed loop cost in terms of its objective; a load after the last query serves nobody."""
    weights = got.settings["objective"]
    of, first = got.table, got.subgraph[np.argmin(got.start)]
    late = len(got) % got.settings["window"] == 0 and len(got.loaded) and got.loaded[-1] != got.subgraph[-1]
    pairs = list(zip(got.before, got.loaded, strict=True))[: -1 if late else None]
    joules = got.energy.sum() + of.load_energy[first] + sum(got.loads.energy[a, b] for a, b in pairs)
    seconds = got.response.sum()
    return (weights.get("latency", 0) * seconds + weights.get("energy", 0) * joules
            - weights.get("accuracy", 0) * got.accuracy.sum())  # fmt: skip


def test_the_work_function_follows_its_definition():
    """Each decision is the SubGraph that least work and the way there point to, by the definition, step by step."""
    of = table(3, load=0.05)
    asked = stream(of, 400, 3)
    got = serve(of, asked, caching="work-function", window=8)
    load = np.tile(of.load_time, (5, 1))
    np.fill_diagonal(load, 0)
    now = int(np.argmin(of.latency.mean(axis=0)))
    work = load[now].copy()
    for first in range(0, 400, 8):
        assert (got.subgraph[first : first + 8] == now).all()
        served = range(first, first + 8)
        stayed = work + [
            sum(of.latency[pick(of, j, POLICIES[0], asked.accuracy[q], 0), j] for q in served) for j in range(5)
        ]
        work = (stayed[:, None] + (load + load.T) / 2).min(axis=0)
        now = min((j for j in range(5) if work[j] >= stayed[j]), key=lambda j: (stayed[j] + load[now, j], j != now, j))
        work = work - work.min()
    assert len(got.loaded) > 3


def test_a_larger_choice_is_never_worse_for_those_who_know_the_stream():
    """With more SubGraphs to choose from the oracle and the best static one cost as much or less; so do longer looks."""
    of = table(1, subgraphs=8)
    asked = stream(of, 300)
    for kind in ("static", "oracle"):
        costs = [cost(serve(of.select(range(n)), asked, caching=kind, window=4)) for n in range(1, 9)]
        assert (np.diff(costs) <= 1e-9).all() and costs[-1] < costs[0]
    often = [cost(serve(of, asked, caching="oracle", window=window)) for window in (1, 2, 4, 12, 300)]
    assert (np.diff(often) >= -1e-9).all()
    assert often[-1] == pytest.approx(cost(serve(of, asked, caching="static", window=300)))


def test_an_open_loop_is_the_queue_it_should_be():
    """One SubNet, Poisson arrivals: M/D/1; far apart, nobody waits; two replicas take the line together."""
    of = replace(table(0), latency=np.full((4, 5), 0.8))
    asked = streams.random(200_000, Span.of(of), rate=1.0, seed=1)
    got = serve(of, asked, caching="none", loop="open").summary()
    assert got["queueing_mean"] == pytest.approx(mean_wait(1.0, 0.8, 1, 0.0), rel=0.03)
    assert got["utilisation"] == pytest.approx(0.8, rel=0.01)
    calm = streams.periodic(100, Span.of(of), period=1.0)
    assert (serve(of, calm, caching="none", loop="open").queueing == 0).all()
    pair = streams.periodic(100, Span.of(of), period=0.4)
    np.testing.assert_allclose(serve(of, pair, caching="none", loop="open", replicas=2).queueing, 0, atol=1e-9)


def test_slack_meets_deadlines_that_waiting_would_miss():
    """Under load, counting the time waited misses fewer deadlines than asking for the whole latency again."""
    of = table(4, subnets=6)
    asked = streams.bursty(5000, Span.of(of), rate=0.9 / of.latency.mean(), seed=2)
    plain = serve(of, asked, policy="strict-latency", loop="open").summary()
    aware = serve(of, asked, policy="strict-latency", loop="open", slack=True).summary()
    assert aware["deadline_missed"] < plain["deadline_missed"]
    dropped = serve(of, asked, policy="strict-latency", loop="open", drop=True)
    assert dropped.summary()["dropped"] == np.isnan(dropped.finish).sum() > 0


def test_the_summary_adds_up():
    """Every number has a unit; totals are the queries' and the loads'; the frame has a row a query."""
    of = table(2)
    got = serve(of, stream(of, 500), window=3)
    told = got.summary()
    assert list(told) == list(SUMMARY)
    assert [head.partition(" [")[0] for head in got.frame()] == list(COLUMNS)
    assert list(got.frame()["subnet"]) == [of.subnets[i] for i in got.subnet] and "latency [s]" in got.frame()
    brought = [of.size[j] for j in got.loaded]
    assert told["loads"] == len(brought) > 10
    assert told["off_chip"] == pytest.approx(got.off_chip.sum() + sum(brought))
    assert told["energy"] == pytest.approx(got.energy.sum() + sum(of.load_energy[j] for j in got.loaded))
    assert told["span"] == pytest.approx(got.latency.sum() + told["load_time"], rel=0.01)
    ratio = np.linalg.norm(np.minimum(of.subnet_vectors[2], of.subgraph_vectors[1])) / np.linalg.norm(
        of.subnet_vectors[2]
    )
    at = serve(of, stream(of, 50), caching=Caching("static", column=1))
    assert (at.hit_ratio[at.subnet == 2] == pytest.approx(ratio)) and (at.subnet == 2).any()
    assert (got.hit <= 1).all() and (got.hit >= 0).all()


def test_what_a_subgraph_shares_need_not_be_loaded_again():
    """Shares between SubGraphs are of their weights; with them loads bring in less."""
    a, b = (
        SubGraph(*(np.array(column) for column in columns))
        for columns in [([4, 0], [2, 0], [1, 0]), ([2, 3], [2, 1], [1, 1])]
    )
    np.testing.assert_allclose(kept([a, b]), [[0, 0, 0], [0, 1, 4 / 7], [0, 0.5, 1]])
    of = table(2)
    whole, less = (serve(of, stream(of, 300), reuse=reuse).summary() for reuse in (None, np.full((5, 5), 0.5)))
    assert less["load_bytes"] == pytest.approx(whole["load_bytes"] / 2)
    assert less["response_mean"] < whole["response_mean"]


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ({"policy": "fast"}, "policy = fast: must be one of strict-accuracy, strict-latency"),
        ({"caching": "fifo"}, "caching = fifo: must be one of none, static"),
        ({"window": 0}, "window = 0: must be from 1"),
        ({"replicas": 0}, "replicas = 0"),
        ({"caching": [0, 9]}, "a list of SubGraphs, from 0 to 4"),
        ({"caching": Caching("static", column=7)}, "caching.column = 7: must be from 0 to 4"),
        ({"caching": Caching("discounted", discount=2.0)}, "caching.discount = 2.0: must be from 0 to 1"),
        ({"caching": "oracle", "loop": "open"}, "only for one replica in a closed loop"),
        ({"objective": {"speed": 1.0}}, "objective = speed"),
        ({"loading": "soon", "loop": "half", "discipline": "any"}, "3 faults"),
        ({"drop": True, "discipline": "edf"}, "2 faults(?s:.*)is for an open loop"),
        ({"reuse": np.ones((2, 2))}, "shares from 0 to 1 of 5 by 5"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings_, said):
    """All of them at once, with what would be right."""
    of = table()
    with pytest.raises(SpecError, match=said):
        serve(of, stream(of, 5), **settings_)


def test_tables_that_cannot_be_served_are_named():
    """Accuracies that are not known, vectors that are missing and needed."""
    of = table()
    with pytest.raises(SpecError, match=r"table\.accuracy"):
        serve(replace(of, accuracy=np.full(4, np.nan)), stream(of, 5))
    bare = replace(of, subnet_vectors=np.zeros((4, 0)), subgraph_vectors=np.zeros((5, 0)))
    with pytest.raises(SpecError, match="must be given for the rule average"):
        serve(bare, stream(of, 5))
    assert serve(bare, stream(of, 5), caching="expected").served.all()
