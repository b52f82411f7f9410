"""How long items wait for one another: a placement played event by event on the shared serving engine.

Each site of a tier is a station with its nodes as servers, for all stages whose runs take equally many nodes; stages
whose runs take more have stations of their own, as if the tier were large enough for both. Each sensor belongs to a
site of its tier and uses that site's link. Round trips and queues of batch systems are delays that hold up nobody else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from dse.domains.continuum.placement import Placement
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    import pandas as pd

Arrivals = Literal["periodic", "poisson"]
Service = Literal["constant", "exponential"]
MOST = 2_000_000  # jobs


@dataclass(frozen=True)
class Played:
    """Items of a placement.

    Attributes:
        since_capture: of each stage, time from the capture at the sensor to the end of each run, s [run].
        since_event: the same from what happened, which waited for the next capture.
        items: of each stage, number of the item at the sensor that each run goes back to (the last it gathered).
        waits: of each stage, time of each run in lines, s.
    """

    placement: Placement
    since_capture: dict[str, np.ndarray]
    since_event: dict[str, np.ndarray]
    items: dict[str, np.ndarray]
    waits: dict[str, np.ndarray]

    def table(self) -> pd.DataFrame:
        """One row a stage: ``runs``, ``wait`` of a run in line (mean), ``mean``, ``p50``, ``p95``, ``p99`` since what
        happened, and ``unloaded``, what the plan says without waiting; s."""
        import pandas as pd

        priced, rows = self.placement.priced, []
        for s, stage in enumerate(self.placement.problem.stages):
            times = self.since_event[stage.name]
            row: dict[str, Any] = {"stage": stage.name, "runs": len(times), "unloaded": float(priced.done[s])}
            if len(times):
                row |= {"wait": float(self.waits[stage.name].mean()), "mean": float(times.mean())}
                row |= {f"p{q}": float(np.percentile(times, q)) for q in (50, 95, 99)}
            rows.append(row)
        columns = ["stage", "runs", "unloaded", "wait", "mean", "p50", "p95", "p99"]
        return pd.DataFrame(rows, columns=columns)

    def insight(self) -> dict[str, float]:
        """``items``, ``mean`` and ``p95`` of the time to insight, of the runs of the last stages that count, s."""
        names = [self.placement.problem.stages[s].name for s in self.placement.problem.insights()]
        last = np.full(1 + max(max(self.items[n], default=0) for n in names), -np.inf)
        for name in names:
            np.maximum.at(last, self.items[name], self.since_event[name])
        times = last[last > -np.inf]
        if not len(times):
            return {"items": 0.0, "mean": np.nan, "p95": np.nan}
        return {"items": float(len(times)), "mean": float(times.mean()), "p95": float(np.percentile(times, 95))}


class _Jobs:
    """Columns of jobs, grown part by part."""

    def __init__(self) -> None:
        self.arrival, self.service, self.station, self.after = [], [], [], []
        self.count = 0

    def add(self, arrival: np.ndarray, service: np.ndarray, station: np.ndarray) -> np.ndarray:
        number = np.arange(self.count, self.count + len(arrival))
        for column, part in ((self.arrival, arrival), (self.service, service), (self.station, station)):
            column.append(part)
        self.count += len(arrival)
        if self.count > MOST:
            raise SpecError([Fault("items", "", f"must be fewer: they are more than {MOST:,} jobs")])
        return number

    def wait_for(self, first: np.ndarray, second: np.ndarray) -> None:
        self.after.append(np.stack([first, second], axis=1))


class _Stations:
    """Stations by what they stand for, numbered as they are asked for; the first delays, with a server for each job."""

    def __init__(self) -> None:
        self.first: dict[Any, int] = {}
        self.servers = [1]

    def of(self, key: Any, count: int, servers: int) -> int:
        """Number of the first of ``count`` stations of ``servers`` each."""
        if key not in self.first:
            self.first[key] = len(self.servers)
            self.servers += [servers] * count
        return self.first[key]


class Runs(NamedTuple):
    """Runs of a stage: the jobs that do them, the item and the sensor each goes back to, when it was taken (s)."""

    jobs: np.ndarray
    item: np.ndarray
    sensor: np.ndarray
    taken: np.ndarray


def simulate(
    placement: Placement, items: int = 10_000, *, arrivals: Arrivals = "periodic", service: Service = "constant",
    seed: int = 0,
) -> Played:  # fmt: skip
    """Play a placement.

    Args:
        placement: a design; its rates need not fit, the lines then grow.
        items: of the fastest sensor; the others give as many as their cadence allows in that time.
        arrivals: of each sensor: ``periodic`` with a phase of its own, or ``poisson``.
        service: time of runs and transfers: ``constant``, or ``exponential`` with that mean.
        seed: of phases, arrivals, triggers and what happens between two captures.

    Raises:
        SpecError: fewer than one item, more than two million jobs, or a rate or probability that is an array.
    """
    if items < 1:
        raise SpecError([Fault("items", str(items), "must be 1 or more")])
    for name, given in (("link_rate", placement.model.link_rate), ("passes", placement.model.passes)):
        for key, value in given.items():
            if np.ndim(value):
                raise SpecError([Fault(f"{name}.{key}", "an array", "must be one number")])
    return _Play(placement, arrivals, service, np.random.default_rng(seed)).played(items)


class _Play:
    def __init__(self, placement: Placement, arrivals: str, service: str, rng: np.random.Generator) -> None:
        self.placement, self.problem, self.model = placement, placement.problem, placement.model
        self.arrivals, self.service, self.rng = arrivals, service, rng
        self.jobs, self.stations = _Jobs(), _Stations()
        self.delays = 0
        self.on = [o.tier[p] for o, p in zip(self.model.options, placement.picks, strict=True)]
        self.place = {stage.name: i for i, stage in enumerate(self.problem.stages)}
        self.runs: list[Runs | None] = [None] * len(self.problem.stages)
        self.ended: list[Runs | None] = [None] * len(self.problem.stages)

    def played(self, items: int) -> Played:
        from dse.simulate.serving import serve, stations

        priced = self.placement.priced
        sensors = [s for s, stage in enumerate(self.problem.stages) if not stage.after]
        span = items / max(float(priced.runs[s]) for s in sensors)
        for s in self.problem.order():
            self._stage(s, span)
        jobs = self.jobs
        self.stations.servers[0] = max(self.delays, 1)
        after = np.concatenate(jobs.after) if jobs.after else None
        log = serve(
            np.concatenate(jobs.arrival), np.concatenate(jobs.service), stations(self.stations.servers),
            station=np.concatenate(jobs.station), after=after,
        )  # fmt: skip
        names = [stage.name for stage in self.problem.stages]
        since, happened, item, waits = {}, {}, {}, {}
        for s, name in enumerate(names):
            ended = self.ended[s]
            finish = log.finish[ended.jobs]
            since[name] = finish - ended.taken
            sensor = self._sensor(s)
            cadence = float(self.model.options[sensor].cadence[self.placement.picks[sensor]])
            happened[name] = since[name] + self._lag(sensor)[ended.item] * cadence
            item[name] = ended.item
            waits[name] = log.start[ended.jobs] - log.ready[ended.jobs]
        return Played(self.placement, since, happened, item, waits)

    def _sensor(self, s: int) -> int:
        while self.problem.stages[s].after:
            s = self.place[self.problem.stages[s].after[0]]
        return s

    def _lag(self, sensor: int) -> np.ndarray:
        """Of each capture, how long ago what it shows happened, in cadences."""
        if not hasattr(self, "lags"):
            self.lags: dict[int, np.ndarray] = {}
        if sensor not in self.lags:
            self.lags[sensor] = self.rng.random(1 + max(self.ended[sensor].item, default=0))
        return self.lags[sensor]

    def _stage(self, s: int, span: float) -> None:
        stage, pick = self.problem.stages[s], self.placement.picks[s]
        option = self.model.options[s]
        if stage.after:
            runs, inputs = self._inputs(s)
        else:
            runs, inputs = self._captures(s, span), None
        tier = self.problem.tiers[self.on[s]]
        if option.wait[pick]:
            held = self._delay(runs.taken, float(option.wait[pick]))
            self._wait(inputs, held)
            inputs = [(held, np.arange(len(held)))]
        nodes, time = int(option.nodes[pick]), float(option.time[pick])
        if time > 0:
            first = self.stations.of(("tier", self.on[s], nodes), tier.sites, max(tier.nodes // nodes, 1))
            done = self.jobs.add(runs.taken, self._times(time, len(runs.taken)), first + runs.sensor % tier.sites)
        else:  # nothing is run: no line to stand in
            done = self._delay(runs.taken, 0.0)
        self._wait(inputs, done)
        self.ended[s] = runs._replace(jobs=done)
        self.runs[s] = self._going_on(s, self.ended[s])

    def _times(self, mean: float, count: int) -> np.ndarray:
        return self.rng.exponential(mean, count) if self.service == "exponential" else np.full(count, mean)

    def _delay(self, earliest: np.ndarray, time: float) -> np.ndarray:
        self.delays += len(earliest)
        return self.jobs.add(earliest, np.full(len(earliest), time), np.zeros(len(earliest), np.int64))

    def _wait(self, inputs: Any, jobs: np.ndarray) -> None:
        for before, which in inputs or ():
            self.jobs.wait_for(before, jobs[which])

    def _captures(self, s: int, span: float) -> Runs:
        """Captures of all copies of a sensor in order of time."""
        stage = self.problem.stages[s]
        cadence = float(self.model.options[s].cadence[self.placement.picks[s]])
        each = max(round(span / cadence), 1)
        if self.arrivals == "poisson":
            taken = np.cumsum(self.rng.exponential(cadence, (stage.copies, each)), axis=1)
        else:
            taken = self.rng.random((stage.copies, 1)) * cadence + np.arange(each) * cadence
        sensor = np.repeat(np.arange(stage.copies), each)
        order = np.argsort(taken.ravel(), kind="stable")
        return Runs(np.zeros(0, np.int64), np.arange(len(order)), sensor[order], taken.ravel()[order])

    def _inputs(self, s: int) -> tuple[Runs, list[tuple[np.ndarray, np.ndarray]]]:
        """Runs of a stage that its first input starts, and the jobs that each waits for."""
        stage = self.problem.stages[s]
        parents = [self.place[name] for name in stage.after]
        came = self.runs[parents[0]]
        count = len(came.jobs) // stage.gather
        used = slice(0, count * stage.gather)
        last = slice(stage.gather - 1, count * stage.gather, stage.gather)
        taken = came.taken[used].reshape(count, stage.gather).mean(axis=1)  # of all that it gathered, in the mean
        runs = Runs(np.zeros(0, np.int64), came.item[last], came.sensor[last], taken)
        sent = self._sent(parents[0], s, Runs(*(column[used] for column in came)))
        inputs = [(sent, np.repeat(np.arange(count), stage.gather))]
        for other in parents[1:]:  # of the others, what goes back to the same capture; else they are not waited for
            more = self.runs[other]
            sent = self._sent(other, s, more)
            if self._sensor(other) == self._sensor(s):
                _, left, right = np.intersect1d(more.item, runs.item, return_indices=True)
                inputs.append((sent[left], right))
        return runs, inputs

    def _sent(self, a: int, b: int, runs: Runs) -> np.ndarray:
        """Jobs that carry items over the links of their way; those that made them where there is none."""
        before, size = runs.jobs, float(self.placement.priced.sent[a])
        for d in self._way(a, b):
            number = self.model.ways.link[d]
            link = self.problem.links[number]
            first = self.stations.of(("link", d), link.count, 1)
            time = self._times(size / float(self.model.rates[number]), len(before))
            moved = self.jobs.add(runs.taken, time, first + runs.sensor % link.count)
            self.jobs.wait_for(before, moved)
            before = moved
            if link.round_trip:
                before = self._delay(runs.taken, link.round_trip / 2)
                self.jobs.wait_for(moved, before)
        return before

    def _way(self, a: int, b: int) -> list[int]:
        """Directed links from stage to stage, in the order in which they are passed."""
        links, ids = (
            list(np.flatnonzero(self.model.ways.uses[self.on[a], self.on[b]])),
            [t.id for t in self.problem.tiers],
        )
        at, way = int(self.on[a]), []
        while links:
            step = next(d for d in links if self.model.ways.source[d] == at)
            links.remove(step)
            way.append(step)
            ends = self.problem.links[self.model.ways.link[step]].ends
            at = ids.index(ends[1] if ids[at] == ends[0] else ends[0])
        return way

    def _going_on(self, s: int, runs: Runs) -> Runs:
        """Of the runs of a stage those that go on: drawn, and none for a while after one."""
        stage, option = self.problem.stages[s], self.model.options[s]
        passes = float(self.model.passes.get(stage.name, option.passes[self.placement.picks[s]]))
        kept = np.flatnonzero(self.rng.random(len(runs.jobs)) < passes) if passes < 1 else np.arange(len(runs.jobs))
        if stage.hold and len(kept):
            free, chosen = -np.inf, []
            for at, time in zip(kept.tolist(), runs.taken[kept].tolist(), strict=True):
                if time >= free:
                    chosen.append(at)
                    free = time + stage.hold
            kept = np.array(chosen)
        return Runs(*(column[kept] for column in runs))
