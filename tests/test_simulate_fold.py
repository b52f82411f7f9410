"""Simulating one rank of each kind gives what simulating all of them gives, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from simulate_traces import coll, comp, line, random_system, random_traces, recv, send, trace_set

from dse.simulate import simulate
from dse.trace import Collective

PAIRS = 150


def assert_equal_bits(folded, full):
    for rank in range(len(folded.actor_of)):
        actor = folded.actor_of[rank]
        for name in ("ready", "issued", "begin", "end"):
            one = getattr(folded, name)[folded.base[actor] : folded.base[actor + 1]]
            other = getattr(full, name)[full.base[rank] : full.base[rank + 1]]
            assert np.array_equal(one, other), (rank, name)
    for name, values in folded.per_rank().items():
        assert np.array_equal(values, full.per_rank()[name]), name


def test_random_traces_on_random_systems():
    fewer = 0
    for seed in range(PAIRS):
        rng = np.random.default_rng(seed)
        traces = random_traces(rng)
        system = random_system(rng, len(traces))
        folded, full = (simulate(traces, system, fold=fold) for fold in (True, False))
        assert len(full.problem.rank) == len(traces)
        assert_equal_bits(folded, full)
        fewer += len(folded.problem.rank) < len(traces)
    assert fewer > PAIRS / 4


@pytest.mark.parametrize("ranks", [3, 8])
def test_files_that_differ_in_names_only_are_one(ranks):
    """Rings of neighbours: every file has its own labels and peers, and all do the same."""
    groups = {f"g{r}": [sorted((r, (r + 1) % ranks))] for r in range(ranks)}
    files = [
        [
            comp(0, 1e-3),
            coll(1, Collective.ALL_REDUCE, 10**6, f"g{r}", [0]),
            coll(2, Collective.ALL_REDUCE, 10**6, f"g{(r - 1) % ranks}", [0]),
            send(3, (r + 1) % ranks, 10**6, [0]),
            recv(4, (r - 1) % ranks, 10**6),
        ]
        for r in range(ranks)
    ]
    traces = trace_set(files, groups)
    folded, full = (simulate(traces, line(ranks), fold=fold) for fold in (True, False))
    assert len(folded.problem.rank) == 1
    assert_equal_bits(folded, full)


def test_one_that_differs_tells_all_apart_that_see_it():
    ranks = 6
    files = [
        [
            comp(0, 1e-3 * (r == 0)),
            send(1, (r + 1) % ranks, 10**6, [0]),
            recv(2, (r - 1) % ranks, 10**6),
            comp(3, 1e-3, [2]),
        ]
        for r in range(ranks)
    ]
    folded, full = (simulate(trace_set(files), line(ranks), fold=fold) for fold in (True, False))
    assert len(folded.problem.rank) == ranks  # each is at another distance from the first
    assert_equal_bits(folded, full)
