"""Bytes from acquisition to archive: what a link must carry, what waits in a buffer while it is down, what is lost.

A flow is a fluid: bytes come at a rate, leave at the link's rate while it is up, and wait in a buffer in between. Every
function takes arrays and broadcasts. Re-derived.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    import pandas as pd

    from dse.domains.continuum.placement import Placement

DAY = 86400.0


def needed_rate(volume: Any, span: Any = DAY, *, reduction: Any = 1.0, availability: Any = 1.0) -> Any:
    """Rate that a link must have to carry a volume in a span, B/s.

    Args:
        volume: B; ``span``: s.
        reduction: factor by which the data are made smaller first.
        availability: share of the time that the link is up.

    Raises:
        SpecError: a volume below 0, a span of 0, a reduction below 1, or an availability outside 0 ... 1.
    """
    _check(volume=(volume, 0, np.inf), span=(span, 1e-9, np.inf), reduction=(reduction, 1, np.inf),
           availability=(availability, 1e-9, 1))  # fmt: skip
    return np.divide(volume, np.multiply(np.multiply(span, reduction), availability))


def needed_reduction(rate_in: Any, link: Any, *, availability: Any = 1.0, utilisation: float = 1.0) -> Any:
    """Factor by which data must be made smaller so that a link carries them; 1 where it does as they are.

    Args:
        rate_in, link: B/s.
        availability: share of the time that the link is up; ``utilisation``: share of that which may be used.
    """
    _check(rate_in=(rate_in, 0, np.inf), link=(link, 1e-9, np.inf), availability=(availability, 1e-9, 1),
           utilisation=(utilisation, 1e-9, 1))  # fmt: skip
    return np.maximum(1.0, np.divide(rate_in, np.multiply(link, availability) * utilisation))


def outage(rate_in: Any, link: Any, length: Any) -> dict[str, Any]:
    """One outage of a link whose buffer was empty.

    Args:
        rate_in, link: B/s, ``link`` more than comes in.
        length: of the outage, s.

    Returns:
        ``backlog`` at its end (B), ``recovery`` from its end until the buffer is empty (s), ``delay``: the longest that
        a byte waits (s), which is that of the first one.
    """
    _check(rate_in=(rate_in, 0, np.inf), link=(link, 1e-9, np.inf), length=(length, 0, np.inf))
    if np.any(np.greater_equal(rate_in, link)):
        raise SpecError([Fault("link", str(link)[:60], "must be faster than what comes in, or it never recovers")])
    backlog = np.multiply(rate_in, length)
    return {"backlog": backlog, "recovery": backlog / np.subtract(link, rate_in), "delay": np.multiply(length, 1.0)}


class Outages(NamedTuple):
    """A link that fails now and then: up for ``between`` s in the mean, down for ``length`` s, both exponential."""

    between: Any
    length: Any

    @property
    def availability(self) -> Any:
        return np.divide(self.between, np.add(self.between, self.length))

    def windows(self, span: float, seed: int = 0) -> np.ndarray:
        """Outages [n, 2] (begin and end, s) drawn for a span; the link is up at first."""
        _check(between=(self.between, 1e-9, np.inf), length=(self.length, 1e-9, np.inf))
        rng = np.random.default_rng(seed)
        count = int(2 * span / (self.between + self.length)) + 20
        ups, downs = rng.exponential(self.between, count), rng.exponential(self.length, count)
        begin = np.cumsum(ups) + np.concatenate([[0.0], np.cumsum(downs)[:-1]])
        found = np.stack([begin, begin + downs], axis=1)
        return found[begin < span]

    def decay(self, rate_in: Any, link: Any) -> Any:
        """How fast the chance of a backlog falls with its size, 1/B: the backlog while there is one is exponential.

        While the link is down the buffer fills at λ = ``rate_in``, while it is up it empties at μ − λ. Balance of the
        two states gives, for failures at rate α and repairs at rate β, decay β/λ − α/(μ − λ).

        Raises:
            SpecError: the link cannot carry what comes in.
        """
        _check(rate_in=(rate_in, 1e-12, np.inf), link=(link, 1e-9, np.inf), between=(self.between, 1e-9, np.inf),
               length=(self.length, 1e-9, np.inf))  # fmt: skip
        if np.any(np.greater_equal(rate_in, np.multiply(link, self.availability))):
            rule = "times its availability must be more than what comes in, or the buffer grows for ever"
            raise SpecError([Fault("link", str(link)[:60], rule)])
        return 1 / (np.multiply(rate_in, self.length)) - 1 / (np.multiply(np.subtract(link, rate_in), self.between))

    def chance(self, size: Any, rate_in: Any, link: Any) -> Any:
        """Share of the time that more than ``size`` bytes wait, in a buffer without bound."""
        some = (1 - self.availability) * np.divide(link, np.subtract(link, rate_in))
        return some * np.exp(-self.decay(rate_in, link) * np.asarray(size))

    def buffer(self, rate_in: Any, link: Any, chance: Any) -> Any:
        """Bytes of a buffer that more than ``chance`` of the time are not exceeded: the size for a risk."""
        _check(chance=(chance, 1e-15, 1))
        return np.maximum(0.0, np.log(self.chance(0.0, rate_in, link) / chance) / self.decay(rate_in, link))

    def mean_delay(self, rate_in: Any, link: Any) -> Any:
        """Mean time that a byte waits for the link, s (Little: the mean backlog over what comes in)."""
        return self.chance(0.0, rate_in, link) / self.decay(rate_in, link) / rate_in


class Flow(NamedTuple):
    """What became of a flow, arrays [...] of the designs.

    Attributes:
        arrived, sent, lost, left: B; ``left`` waits at the end.
        peak: most that waited, B; ``mean``: over time, B.
        delay: mean wait of what was kept, s (backlog over time by bytes kept).
        times, backlog: [time] s and [time, ...] B at each change of what comes or goes; :meth:`at` knows it between.
    """

    arrived: np.ndarray
    sent: np.ndarray
    lost: np.ndarray
    left: np.ndarray
    peak: np.ndarray
    mean: np.ndarray
    delay: np.ndarray
    times: np.ndarray
    backlog: np.ndarray
    slope: np.ndarray
    buffer: np.ndarray

    def at(self, times: Any) -> np.ndarray:
        """What waits [time, ...] at times of the span, B: it changes evenly until the buffer is full or empty."""
        times = np.atleast_1d(np.asarray(times, float))
        part = np.clip(np.searchsorted(self.times, times, side="right") - 1, 0, len(self.slope) - 1)
        since = (times - self.times[part]).reshape(-1, *(1,) * self.left.ndim)
        return np.clip(self.backlog[part] + self.slope[part] * since, 0.0, self.buffer)


def flow(
    rate_in: Any, link: Any, span: float, *, buffer: Any = np.inf, outages: Any = (),
    changes: Sequence[tuple[float, float]] = (),
) -> Flow:  # fmt: skip
    """A flow through a buffer and a link over a span, exactly; designs are axes of the first three.

    Args:
        rate_in: B/s that come; ``link``: B/s; ``buffer``: B, what does not fit is lost.
        span: s.
        outages: windows [n, 2] of begin and end (s) when the link is down.
        changes: times (s) and factors: from then on, so many times ``rate_in`` come.

    Raises:
        SpecError: a number below 0, or windows that end before they begin.
    """
    windows = np.asarray(outages, float).reshape(-1, 2)
    _check(rate_in=(rate_in, 0, np.inf), link=(link, 0, np.inf), span=(span, 1e-9, 1e15), buffer=(buffer, 0, np.inf),
           outages=(windows, 0, np.inf))  # fmt: skip
    if (windows[:, 1] < windows[:, 0]).any():
        raise SpecError([Fault("outages", "", "must end after they begin")])
    _check(changes=([row[0] for row in changes], 0, np.inf), factors=([row[1] for row in changes], 0, np.inf))
    rate_in, link, buffer = np.broadcast_arrays(*(np.asarray(x, float) for x in (rate_in, link, buffer)))
    marks = np.unique(np.clip([0.0, span, *windows.ravel(), *(t for t, _ in changes)], 0, span))
    level = np.zeros(rate_in.shape)
    arrived, lost, area = (np.zeros(rate_in.shape) for _ in range(3))
    peak, times, history, slopes = level, [0.0], [level], []
    for begin, end in pairwise(marks.tolist()):
        length = end - begin
        factor = next((f for t, f in sorted(changes, reverse=True) if t <= begin), 1.0)
        down = bool(((windows[:, 0] <= begin) & (windows[:, 1] > begin)).any())
        slope = rate_in * factor - (0.0 if down else link)
        raw = level + slope * length
        new = np.clip(raw, 0.0, buffer)
        lost = lost + np.maximum(raw - buffer, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):  # until it is full or empty it changes in a straight line
            moving = np.where(slope == 0, 0.0, np.minimum(length, np.abs((new - level) / slope)))
        area = area + (level + new) / 2 * moving + new * (length - moving)
        arrived = arrived + rate_in * factor * length
        peak, level = np.maximum(peak, new), new
        times.append(float(end))
        history.append(level)
        slopes.append(slope)
    kept = arrived - lost
    with np.errstate(divide="ignore", invalid="ignore"):
        delay = np.where(kept > 0, area / kept, 0.0)
    played = np.array(times), np.stack(history), np.stack(slopes), buffer
    return Flow(arrived, kept - level, lost, level, peak, area / span, delay, *played)


def stores(placement: Placement, length: float) -> pd.DataFrame:
    """What an outage of each link of a placement leaves behind, against the storage of the sites that send.

    Args:
        length: of the outage, s.

    Returns:
        One row a directed link that carries data: ``way``, ``backlog`` of a site (B), ``storage`` of it (B), ``fits``,
        ``lasts``: the longest outage that the storage bridges (s), and ``recovery`` (s; infinite: it never recovers).
    """
    table = placement.links()
    model = placement.model
    source = [model.ways.source[model.ways.names.index(way)] for way in table["way"]]
    sites = np.array([placement.problem.tiers[t].sites for t in source], float)
    storage = np.array([placement.problem.tiers[t].storage for t in source], float)
    load, spare = table["load"].to_numpy(), (table["rate"] - table["load"]).to_numpy()
    _check(length=(length, 0, 1e12))
    backlog = load * length / sites
    with np.errstate(divide="ignore"):
        recovery = np.where(spare > 0, load * length / np.maximum(spare, 0), np.inf)
    return table[["way"]].assign(
        backlog=backlog, storage=storage, fits=backlog <= storage, lasts=storage * sites / load, recovery=recovery
    )


def _check(**given: tuple[Any, float, float]) -> None:
    faults = []
    for name, (value, low, high) in given.items():
        numbers = np.asarray(value, float)
        if not ((numbers >= low) & (numbers <= high)).all():
            faults.append(Fault(name, str(value)[:60], f"must be from {low:g} to {high:g}"))
    if faults:
        raise SpecError(faults)
