"""Streams of queries: when each arrives, and the accuracy and latency it asks for.

Arrivals and demands are made apart, and any of one goes with any of the other. Each stream carries the seed and the
settings that made it. A million queries take a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from dse.errors import Fault, SpecError


class Span(NamedTuple):
    """What queries may ask for: least and most accuracy (a fraction), least and most latency (s)."""

    accuracy: tuple[float, float]
    latency: tuple[float, float]

    @classmethod
    def of(cls, table: Any) -> Span:
        """From the least to the most that a latency table offers."""
        a, t = np.asarray(table.accuracy), np.asarray(table.latency)
        return cls((float(a.min()), float(a.max())), (float(t.min()), float(t.max())))

    def at(self, accuracy: np.ndarray, latency: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Demands at shares 0 ... 1 of the two ranges."""
        (a, b), (c, d) = self
        return a + (b - a) * accuracy, c + (d - c) * latency


@dataclass(frozen=True, eq=False)
class Stream:
    """Queries in order of arrival.

    Attributes:
        arrival: [q], s.
        accuracy: [q], top-1 accuracy asked for, a fraction.
        latency: [q], latency asked for, s.
        policy: by which they ask to be served, where the stream says so.
        made: what made it: name of the maker, its settings and seed.
    """

    arrival: np.ndarray
    accuracy: np.ndarray
    latency: np.ndarray
    policy: str | None = None
    made: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        faults = []
        for name in ("arrival", "accuracy", "latency"):
            column = np.ascontiguousarray(getattr(self, name), dtype=np.float64)
            object.__setattr__(self, name, column)
            if column.ndim != 1 or len(column) != len(self.arrival):
                faults.append(Fault(name, str(column.shape), f"must be one column of {len(self.arrival)} numbers"))
            elif not np.isfinite(column).all():
                at = int(np.argmin(np.isfinite(column)))
                faults.append(Fault(f"{name}[{at}]", str(column[at]), "must be a finite number"))
        if not faults and (np.diff(self.arrival) < 0).any():
            at = int(np.argmax(np.diff(self.arrival) < 0)) + 1
            faults.append(Fault(f"arrival[{at}]", str(self.arrival[at]), "must not be before the arrival ahead of it"))
        if faults:
            raise SpecError(faults)

    def __len__(self) -> int:
        return len(self.arrival)


def random(count: int, span: Span, *, rate: float | None = None, seed: int = 0) -> Stream:
    """Demands drawn evenly over the whole span, each apart from the last; arrivals as :func:`poisson`."""
    made = {"maker": "random", "count": count, "rate": rate, "seed": seed}
    rng = generator(count, seed, rate=rate)
    return Stream(poisson(count, rate, rng), *_uniform(count, span, rng), made=made)


def markov(
    count: int,
    span: Span,
    *,
    regimes: int | Sequence[tuple[float, float]] = 3,
    stay: float = 0.98,
    spread: float = 0.1,
    rate: float | None = None,
    seed: int = 0,
) -> Stream:
    """Regimes of demand: a query is of the regime of the last one with probability ``stay``, else of any other.

    Args:
        count: queries.
        span: what they may ask for.
        regimes: how many, placed evenly from lax (little accuracy, much time) to strict, or their centres as shares
            0 ... 1 of the ranges of accuracy and latency.
        stay: probability of remaining in a regime; runs are 1/(1 - stay) queries long on average.
        spread: demands are drawn evenly this share of the range to either side of the centre, within the span.
        rate: arrivals a second, as :func:`poisson`.
        seed: of the random numbers.
    """
    made = {"maker": "markov", "count": count, "regimes": regimes, "stay": stay, "spread": spread, "rate": rate}
    rng = generator(count, seed, rate=rate, stay=stay, spread=spread)
    return Stream(poisson(count, rate, rng), *_regimes(count, span, regimes, stay, spread, rng),
                  made=made | {"seed": seed})  # fmt: skip


def bursty(
    count: int,
    span: Span,
    *,
    rate: float,
    burst: float = 8.0,
    share: float = 0.1,
    cycle: float = 1.0,
    stay: float = 0.98,
    seed: int = 0,
) -> Stream:
    """Bursts: a Poisson process whose rate alternates at random between calm and ``burst`` times as much (an MMPP).

    Args:
        count: queries.
        span: what they may ask for; demands are drawn evenly in calm, and in regimes of length 1/(1 - stay) where
            ``stay`` is more than 0.
        rate: arrivals a second on average over calm and bursts.
        burst: rate within a burst over that in calm.
        share: of the time that is in bursts.
        cycle: s, mean time from burst to burst; both states last exponentially long.
        stay: as :func:`markov`.
        seed: of the random numbers.
    """
    made = {"maker": "bursty", "count": count, "rate": rate, "burst": burst, "share": share, "cycle": cycle}
    rng = generator(count, seed, rate=rate, burst=burst, share=share, cycle=cycle, stay=stay)
    if count > _MOST_CYCLES * rate * cycle:
        least = f"must be {count / (_MOST_CYCLES * cycle):.3g} or more"
        rule = f"{least}: {count:,} queries must not last longer than {_MOST_CYCLES:,} cycles of {cycle:g} s"
        raise SpecError([Fault("rate", f"{rate:g}", rule)])
    arrival = bursts(count, rate, burst, share, cycle, rng)
    demands = _regimes(count, span, 3, stay, 0.1, rng) if stay else _uniform(count, span, rng)
    return Stream(arrival, *demands, made=made | {"stay": stay, "seed": seed})


def periodic(
    count: int, span: Span, *, period: float, jitter: float = 0.0, stay: float = 0.98, seed: int = 0
) -> Stream:
    """A sensor: one query a period, each later by up to ``jitter`` s (at random); demands as :func:`bursty`."""
    made = {"maker": "periodic", "count": count, "period": period, "jitter": jitter, "stay": stay, "seed": seed}
    rng = generator(count, seed, period=period, jitter=jitter, stay=stay)
    demands = _regimes(count, span, 3, stay, 0.1, rng) if stay else _uniform(count, span, rng)
    return Stream(ticks(count, period, jitter, rng), *demands, made=made)


MAKERS = {"random": random, "markov": markov, "bursty": bursty, "periodic": periodic}


def poisson(count: int, rate: float | None, rng: np.random.Generator) -> np.ndarray:
    """Arrivals [count] at ``rate`` a second; all at 0 where the rate is None, which is for closed loops."""
    return np.zeros(count) if rate is None else np.cumsum(rng.exponential(1 / rate, count))


def bursts(count: int, rate: float, burst: float, share: float, cycle: float, rng: np.random.Generator) -> np.ndarray:
    """Arrivals [count] of a Poisson process whose rate is ``burst`` times as high for ``share`` of the time.

    Exact: a unit Poisson process in the integral of the rate, taken back to time.
    """
    calm = rate / (1 - share + share * burst)
    unit = np.cumsum(rng.exponential(1.0, count))
    times, integrals = [np.zeros(1)], [np.zeros(1)]
    while count and integrals[-1][-1] < unit[-1]:
        phases = int(2 * (unit[-1] - integrals[-1][-1]) / (rate * cycle) * 1.1) // 2 * 2 + 16
        lengths = rng.exponential(1.0, phases) * np.tile([(1 - share) * cycle, share * cycle], phases // 2)
        times.append(times[-1][-1] + np.cumsum(lengths))
        integrals.append(integrals[-1][-1] + np.cumsum(lengths * np.tile([calm, calm * burst], phases // 2)))
    return np.interp(unit, np.concatenate(integrals), np.concatenate(times))


def ticks(count: int, period: float, jitter: float, rng: np.random.Generator) -> np.ndarray:
    """Arrivals [count] every ``period`` s, each later by 0 ... ``jitter`` s, in order."""
    return np.sort(np.arange(count) * period + jitter * rng.random(count))


def _uniform(count: int, span: Span, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return span.at(rng.random(count), rng.random(count))


def _regimes(
    count: int,
    span: Span,
    regimes: int | Sequence[tuple[float, float]],
    stay: float,
    spread: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Demands in runs of geometric length, each of another regime than the one before."""
    centres = _centres(regimes)
    if not ((centres >= 0) & (centres <= 1)).all():
        raise SpecError([Fault("regimes", str(regimes)[:80], "must be shares from 0 to 1")])
    runs = np.zeros(0, np.int64)
    while runs.sum() < count:
        runs = np.concatenate([runs, rng.geometric(1 - stay, int(count * (1 - stay)) + 16)])
    steps = rng.integers(1, len(centres), len(runs))  # never 0: the next regime is another one
    lengths = np.diff(np.minimum(np.cumsum(runs), count), prepend=0)
    at = centres[np.repeat(np.cumsum(steps) % len(centres), lengths)]
    shares = np.clip(at + spread * (2 * rng.random((count, 2)) - 1), 0.0, 1.0)
    return span.at(shares[:, 0], shares[:, 1])


def _centres(regimes: int | Sequence[tuple[float, float]]) -> np.ndarray:
    """Shares of the ranges of accuracy and latency [regime, 2]."""
    rule = f"must be 2 or more (up to {_MOST_REGIMES:,}), or as many pairs of shares"
    wrong = SpecError([Fault("regimes", str(regimes)[:80], rule)])
    if isinstance(regimes, Integral):
        if not 2 <= regimes <= _MOST_REGIMES:
            raise wrong
        even = np.linspace(0.0, 1.0, int(regimes))
        return np.stack([even, even[::-1]], axis=1)
    try:
        centres = np.array(regimes, float)
    except (TypeError, ValueError):
        raise wrong from None
    if centres.ndim != 2 or centres.shape[1] != 2 or not 2 <= len(centres) <= _MOST_REGIMES:
        raise wrong
    return centres


_LIMITS: dict[str, tuple[float, float]] = {
    "rate": (1e-9, 1e12), "burst": (1e-6, 1e6), "cycle": (1e-9, 1e9), "share": (1e-9, 1 - 1e-9), "period": (1e-12, 1e9),
    "stay": (0.0, 1 - 1e-9), "spread": (0.0, 1.0), "jitter": (0.0, 1e9),
}  # fmt: skip
_MOST_CYCLES = 10_000_000  # bursts that are drawn one by one
_MOST_REGIMES = 100_000


def generator(count: int, seed: int, **settings: float | None) -> np.random.Generator:
    """Random numbers for ``count`` queries, once the settings are what they must be.

    Raises:
        SpecError: naming every setting that is out of its range.
    """
    faults = []
    if not (isinstance(count, Integral) and 1 <= count <= 10**9):
        faults.append(Fault("count", str(count)[:40], "must be a whole number from 1 to 1,000,000,000"))
    if not (isinstance(seed, Integral) and seed >= 0):
        faults.append(Fault("seed", str(seed)[:40], "must be a whole number, 0 or more"))
    for name, value in settings.items():
        least, most = _LIMITS[name]
        if value is not None and not least <= value <= most:
            top = "less than 1" if most == 1 - 1e-9 else f"{most:g}"
            faults.append(Fault(name, f"{value:g}", f"must be from {least:g} to {top}"))
    if faults:
        raise SpecError(faults)
    return np.random.default_rng(seed)
