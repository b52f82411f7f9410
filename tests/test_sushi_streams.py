"""Streams of queries: their statistics are those that are asked for; recorded ones come back or say what is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dse.domains.sushi import recorded, streams
from dse.domains.sushi.streams import Span, Stream
from dse.errors import SpecError


def test_streams_are_what_they_say():
    """Rates, regimes, spans, order; the same seed makes the same stream and another one another."""
    span = Span((0.7, 0.8), (0.01, 0.03))
    for maker in streams.MAKERS.values():
        settings_ = {"period": 0.1} if maker is streams.periodic else {"rate": 10.0}
        one, again, other = (maker(20_000, span, seed=seed, **settings_) for seed in (1, 1, 2))
        assert (one.accuracy == again.accuracy).all() and (one.arrival == again.arrival).all()
        assert (one.accuracy != other.accuracy).any()
        assert one.arrival[-1] / 2000 == pytest.approx(1.0, rel=0.1)
        assert 0.7 <= one.accuracy.min() < 0.71 and 0.79 < one.accuracy.max() <= 0.8
        assert 0.01 <= one.latency.min() < 0.0105 and 0.0295 < one.latency.max() <= 0.03
        assert one.made["seed"] == 1 and one.made["count"] == 20_000
    runs = streams.markov(50_000, span, stay=0.95, spread=0.0)
    changes = (np.diff(runs.accuracy) != 0).mean()
    assert changes == pytest.approx(0.05, rel=0.1)
    assert set(np.round(runs.accuracy, 6)) == {0.7, 0.75, 0.8}
    forever = streams.markov(5, span, stay=1 - 1e-9)  # drawn runs may be longer than the stream by far
    assert np.ptp(forever.accuracy) <= 0.02
    assert np.corrcoef(runs.accuracy, runs.latency)[0, 1] == pytest.approx(-1)


def test_bursts_are_bursts():
    """The counts of a bursty stream vary as a Markov-modulated Poisson process must, those of a plain one as Poisson."""
    span, window = Span((0.7, 0.8), (0.01, 0.03)), 1.0
    rate, burst, share, cycle = 50.0, 8.0, 0.2, 2.0
    of = {
        "random": streams.random(200_000, span, rate=rate).arrival,
        "bursty": streams.bursty(200_000, span, rate=rate, burst=burst, share=share, cycle=cycle).arrival,
    }
    counts = {name: np.bincount((arrival / window).astype(int))[:-1] for name, arrival in of.items()}
    spread = {name: count.var() / count.mean() for name, count in counts.items()}
    assert spread["random"] == pytest.approx(1.0, rel=0.1)
    calm = rate / (1 - share + share * burst)
    turn = 1 / (cycle * share) + 1 / (cycle * (1 - share))  # rate at which the state is forgotten
    variance = share * (1 - share) * (calm * (burst - 1)) ** 2
    wanted = 1 + 2 * variance / (rate * turn) * (1 - (1 - np.exp(-turn * window)) / (turn * window))
    assert spread["bursty"] == pytest.approx(wanted, rel=0.15)


def test_a_recorded_stream_comes_back(tmp_path):
    """Bit by bit from its own file; with other units, another order and other columns from anybody's."""
    made = replace(streams.bursty(300, Span((0.7, 0.8), (0.01, 0.03)), rate=9.0), policy="strict-latency")
    back = recorded.from_csv(recorded.to_csv(made, tmp_path / "a.csv"))
    for name in ("arrival", "accuracy", "latency"):
        assert (getattr(back, name) == getattr(made, name)).all()
    assert back.policy == "strict-latency"
    (tmp_path / "b.csv").write_text("user,latency [ms],accuracy [%],arrival (ms)\nx,20,75.5,2000\ny,30,76,1000\n")
    theirs = recorded.from_csv(tmp_path / "b.csv")
    np.testing.assert_allclose(theirs.arrival, [1, 2])
    np.testing.assert_allclose(theirs.accuracy, [0.76, 0.755])
    np.testing.assert_allclose(theirs.latency, [0.03, 0.02])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arrival,accuracy,latency\n0,0.7,1\n1,abc,1\n", "c.csv, line 3: accuracy = abc: must be a fraction"),
        ("arrival,accuracy,latency\n0,75,1\n", r"line 2: accuracy = 75: .*say accuracy \[%\]"),
        ("arrival,accuracy,latency\n0,0.7,\n", "line 2: latency = nothing: must be a number, 0 or more"),
        ("arrival,accuracy,latency\n0,0.7,-1\n", "line 2: latency = -1"),
        ("arrival,accuracy\n0,0.7\n", "c.csv, line 1: latency: is missing"),
        ("arrival [GB],accuracy,latency\n0,0.7,1\n", "line 1: arrival = GB: .*wrong dimension"),
        ("arrival,accuracy,latency\n", "holds no queries"),
        ("", "cannot be read"),
        ("arrival,accuracy,latency,policy\n0,0.7,1,a\n0,0.7,1,b\n", "policy = a, b: must be the same"),
    ],
)
def test_what_is_wrong_in_a_recorded_stream_is_named(tmp_path, text, said):
    """Line, column, value and rule."""
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(SpecError, match=said):
        recorded.from_csv(tmp_path / "c.csv")


def test_streams_that_cannot_be_are_named():
    """Times out of order or no numbers, and settings of makers."""
    span = Span((0.7, 0.8), (0.01, 0.03))
    for call, said in [
        (lambda: Stream(np.array([1.0, 0]), np.zeros(2), np.zeros(2)), r"arrival\[1\]"),
        (lambda: Stream(np.zeros(2), np.array([0, np.nan]), np.zeros(2)), r"accuracy\[1\] = nan"),
        (lambda: Stream(np.zeros(2), np.zeros(3), np.zeros(2)), "one column of 2 numbers"),
        (lambda: streams.random(0, span), "count = 0"),
        (lambda: streams.markov(5, span, stay=1.0), "stay = 1: must be from 0 to less than 1"),
        (lambda: streams.markov(5, span, regimes=1), "regimes = 1: must be 2 or more"),
        (lambda: streams.markov(5, span, regimes=[(0, 2), (1, 1)]), "shares from 0 to 1"),
        (lambda: streams.bursty(5, span, rate=-1.0, share=1.0), "2 faults"),
        (lambda: streams.bursty(5, span, rate=1e-300), "rate = 1e-300: must be from 1e-09"),
        (lambda: streams.bursty(5, span, rate=1e-9), "5 queries must not last longer than 10,000,000 cycles"),
        (lambda: streams.markov(5, span, regimes=10**10), "regimes = 10000000000: must be 2 or more"),
        (lambda: streams.markov(5, span, regimes=-3), "regimes = -3: must be 2 or more"),
        (lambda: streams.markov(5, span, regimes=[(0, 1), (1,)]), "regimes = .*must be 2 or more"),
        (lambda: streams.random(2.5, span), "count = 2.5: must be a whole number"),
        (lambda: streams.random(5, span, seed=1.5), "seed = 1.5: must be a whole number"),
        (lambda: streams.periodic(5, span, period=1e308), r"period = 1e\+308: must be from"),
    ]:
        with pytest.raises(SpecError, match=said):
            call()
