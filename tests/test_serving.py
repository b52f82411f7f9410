"""The serving engine against closed forms, against plain Python, and through its own laws."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.errors import SpecError
from dse.simulate.serving import erlang_c, mean_wait, serve, stations, summarise, tandem
from dse.simulate.serving.network import DROPPED, SERVED, WAITING

JOBS = 100_000


def plain(arrival, service, servers, station, key, deadline, after, away):
    """The same by scanning everything at every instant: slow, and nothing like a heap."""
    n, log = len(arrival), {}
    before = {j: {int(a) for a, b in after if b == j} for j in range(n)}
    owner = [place for place, count in enumerate(servers) for _ in range(count)]
    ready, start, finish, outcome = ({} for _ in range(4))
    times = {float(t) for t in arrival} | {end for _, _, end in away}
    while times:
        now = min(times)
        times.remove(now)
        for j in range(n):
            if j in finish and finish[j] == now:
                outcome[j] = SERVED
        for j in range(n):
            if j not in ready and j not in outcome and all(outcome.get(b) == SERVED for b in before[j]):
                at = max([arrival[j], *(finish[b] for b in before[j])])
                if at == now:
                    ready[j] = now
        for place in range(len(servers)):
            while True:
                line = [j for j in ready if station[j] == place and j not in start and j not in outcome]
                if not line:
                    break
                job = min(line, key=lambda j: (ready[j] if key is None else key[j], j))
                if now > deadline[job]:
                    fallen = [job]
                    while fallen:
                        gone = fallen.pop()
                        outcome[gone] = DROPPED
                        fallen += [j for j in range(n) if gone in before[j] and j not in outcome]
                    continue
                taken = {log[j] for j in start if finish[j] > now or (finish[j] == now and outcome.get(j) != SERVED)}
                idle = [s for s in range(len(owner)) if owner[s] == place and s not in taken
                        and not any(w == s and b <= now < e for w, b, e in away)]  # fmt: skip
                if not idle:
                    break
                log[job], start[job], finish[job] = idle[0], now, now + service[job]
                times.add(finish[job])
    return ([ready.get(j, np.nan) for j in range(n)], [start.get(j, np.nan) for j in range(n)],
            [finish.get(j, np.nan) for j in range(n)], [log.get(j, -1) for j in range(n)],
            [outcome.get(j, WAITING) for j in range(n)])  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_it_does_what_plain_python_does(data):
    """Lines, priorities, deadlines, absences and dependents, with many equal times, exactly as a scan of everything."""
    n = data.draw(st.integers(1, 14))
    whole = lambda most: data.draw(st.lists(st.integers(0, most), min_size=n, max_size=n))  # noqa: E731
    servers = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    arrival, service = np.array(whole(12), float), 1.0 + np.array(whole(5), float)
    station = np.array(whole(len(servers) - 1))
    key = data.draw(st.sampled_from([None, np.array(whole(3), float)]))
    deadline = arrival + data.draw(st.sampled_from([np.inf, 3.0]))
    pairs = data.draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=8))
    after = np.array(sorted({(min(p), max(p)) for p in pairs if p[0] != p[1]}), np.int64).reshape(-1, 2)
    away = [(data.draw(st.integers(0, sum(servers) - 1)), 2.0, 7.0)] if data.draw(st.booleans()) else []
    found = serve(
        arrival, service, stations(servers, away=away), station=station, key=key, deadline=deadline, after=after
    )
    wanted = plain(arrival, service, servers, station, key, deadline, after, away)
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("servers", "variation"), [(1, 1.0), (1, 0.0), (4, 1.0), (16, 1.0)], ids=["M/M/1", "M/D/1", "M/M/4", "M/M/16"]
)
def test_waits_are_those_of_the_closed_forms(servers, variation):
    """Mean waits within four standard errors, the utilisation within 1 %."""
    rng = np.random.default_rng(servers)
    arrival = np.cumsum(rng.exponential(1.0, JOBS))
    load = 0.7 * servers
    service = rng.exponential(load, JOBS) if variation else np.full(JOBS, load)
    found = summarise(serve(arrival, service, stations([servers])), servers=servers)
    assert abs(found["wait"] - mean_wait(1.0, load, servers, variation)) < 4 * found["wait_error"]
    assert found["utilisation"] == pytest.approx(0.7, rel=0.01)
    assert found["queue"] == pytest.approx(found["throughput"] * found["wait"])


def test_the_share_that_waits_is_erlangs():
    """Of the arrivals at four servers, as many find them all busy as Erlang's C says."""
    rng = np.random.default_rng(5)
    log = serve(np.cumsum(rng.exponential(1.0, JOBS)), rng.exponential(3.0, JOBS), stations([4]))
    assert np.mean(log.start > log.ready) == pytest.approx(erlang_c(3.0, 4), abs=0.01)
    assert erlang_c(0.5, 1) == pytest.approx(0.5)
    assert erlang_c(1.0, 2) == pytest.approx(1 / 3)  # by hand: B = 1/5, C = B / (1 - (1 - B)/2)


def test_constant_times_are_exact():
    """D/D/1: no wait below the rate of the server, a wait that grows by the same for each job above it."""
    arrival = np.arange(1000.0)
    assert (serve(arrival, np.full(1000, 1.0)).start == arrival).all()
    late = serve(arrival, np.full(1000, 1.5))
    np.testing.assert_allclose(late.start - late.ready, 0.5 * arrival)
    assert (serve(arrival, np.full(1000, 2.0), stations([2])).start == arrival).all()


def test_stages_in_tandem_are_queues_of_their_own():
    """Burke: behind an M/M/1 stage arrivals are Poisson again, so that each stage waits as if it were alone."""
    rng = np.random.default_rng(2)
    services = rng.exponential([0.5, 0.7], (JOBS, 2))
    log = tandem(np.cumsum(rng.exponential(1.0, JOBS)), services)
    waits = (log.start - log.ready).mean(axis=0)
    assert waits[0] == pytest.approx(mean_wait(1.0, 0.5), rel=0.05)
    assert waits[1] == pytest.approx(mean_wait(1.0, 0.7), rel=0.08)
    assert (log.ready[:, 1] == log.finish[:, 0]).all()


def test_the_order_of_the_line_does_not_change_the_work():
    """Conservation: by any key that does not look at the service the mean wait is the same; the spread is not."""
    rng = np.random.default_rng(3)
    arrival, service = np.cumsum(rng.exponential(1.0, 20_000)), np.full(20_000, 0.8)
    fifo, lifo = serve(arrival, service), serve(arrival, service, key=-arrival)
    assert (lifo.start - lifo.ready).mean() == pytest.approx((fifo.start - fifo.ready).mean())
    assert (lifo.start - lifo.ready).std() > (fifo.start - fifo.ready).std()
    mixed = rng.exponential(0.8, 20_000)
    short = serve(arrival, mixed, key=mixed)
    assert (short.start - short.ready).mean() < (serve(arrival, mixed).start - arrival).mean()


def test_classes_deadlines_and_speeds():
    """An urgent job passes others; one whose time is over is dropped, with all that wait for it; the fast server first."""
    log = serve(np.array([0.0, 1, 2]), np.array([5.0, 1, 1]), key=np.array([1.0, 1, 0]))
    assert log.start.tolist() == [0, 6, 5]
    log = serve(np.zeros(4), np.array([5.0, 1, 1, 1]), deadline=np.array([9.0, 4, 9, 9]), after=np.array([[1, 2]]))
    assert log.outcome.tolist() == [SERVED, DROPPED, DROPPED, SERVED]
    log = serve(np.zeros(2), np.ones(2), stations([2], speed=[1.0, 4.0]))
    assert log.server.tolist() == [1, 0]
    assert log.finish.tolist() == [0.25, 1.0]


def test_jobs_that_wait_for_each_other_are_left_waiting():
    """A cycle is never ready; nothing is made up for it."""
    log = serve(np.zeros(3), np.ones(3), after=np.array([[0, 1], [1, 0]]))
    assert log.outcome.tolist() == [WAITING, WAITING, SERVED]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: serve(np.zeros(2), np.zeros(3)), "service = 3 rows: must have 2"),
        (lambda: serve(np.array([np.nan]), np.zeros(1)), "arrival: must be finite"),
        (lambda: serve(np.zeros(1), np.zeros(1), station=np.array([1])), "station: must be from 0 to 0"),
        (lambda: serve(np.zeros(1), np.zeros(1), after=np.array([[0, 1]])), "after: must be jobs, from 0 to 0"),
        (lambda: stations([0]), "servers"),
        (lambda: stations([1], away=[(0, 2.0, 1.0)]), "a later end"),
        (lambda: erlang_c(2.0, 2), "load = 2: must be from 0 to less than the 2 servers"),
    ],
)
def test_what_is_wrong_is_named(call, said):
    """Columns of other lengths, times that are none, stations and jobs that are not there."""
    with pytest.raises(SpecError, match=said):
        call()


def test_a_second_process_does_not_compile_again():
    """The compiled loop is kept on disk: another process finds it there."""
    code = (
        "import numpy as np\nfrom dse.simulate.serving import network\n"
        "network.serve(np.zeros(1), np.ones(1))\n"
        "print(sum(network.run.stats.cache_hits.values()), sum(network.run.stats.cache_misses.values()))"
    )
    serve(np.zeros(1), np.ones(1))
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.split() == ["1", "0"]
