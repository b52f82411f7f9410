"""Jobs on stations: each station has servers and a line; a job that is done releases those that wait for it.

Independent jobs on one station are a queue, chains of jobs stages one behind the other, trees a cascade of models. Jobs
are not interrupted. All that happens at one instant happens before servers take new jobs, so that the order within an
instant does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dse.errors import Fault, SpecError
from dse.jit import njit
from dse.simulate.heap import inner
from dse.simulate.serving.lines import due, enter, lines, take

SERVED, DROPPED, WAITING = 0, 1, 2


class Jobs(NamedTuple):
    """Columns [job], times in s; ``then`` [then_of[job] : then_of[job + 1]] are the jobs that one releases."""

    arrival: np.ndarray
    station: np.ndarray
    service: np.ndarray
    key: np.ndarray
    deadline: np.ndarray
    then_of: np.ndarray
    then: np.ndarray
    pending: np.ndarray


class Stations(NamedTuple):
    """Servers of each station, ``first`` [stations + 1]; of each server its speed and when it is away.

    The absences of a server are ``away`` [away_of[server] : away_of[server + 1]], rows of begin and end in order.
    """

    first: np.ndarray
    speed: np.ndarray
    away_of: np.ndarray
    away: np.ndarray


class Log(NamedTuple):
    """Of each job [job]: when it was ready, started and done (NaN: never), its server (-1: none), what became of it."""

    ready: np.ndarray
    start: np.ndarray
    finish: np.ndarray
    server: np.ndarray
    outcome: np.ndarray


def stations(
    servers: Sequence[int] = (1,),
    *,
    speed: Sequence[float] | None = None,
    away: Sequence[tuple[int, float, float]] = (),
) -> Stations:
    """Stations of so many servers each, numbered through.

    Args:
        servers: of each station.
        speed: of each server: a job takes its service time over the speed. The fastest that is idle goes first.
        away: absences: server, begin and end (s). A server finishes its job first and takes none before the end.
    """
    first = np.concatenate([[0], np.cumsum(np.asarray(servers, np.int64))])
    absent = sorted(away)
    speeds = np.ones(first[-1]) if speed is None else np.asarray(speed, float)
    if (np.diff(first) < 1).any() or len(speeds) != first[-1] or not (speeds > 0).all():
        rule = "must be 1 or more at each station, with as many speeds above 0"
        raise SpecError([Fault("servers", str(list(servers))[:60], rule)])
    for server, begin, end in absent:
        if not (0 <= server < first[-1] and 0 <= begin < end < np.inf):
            raise SpecError([Fault("away", f"{server}, {begin}, {end}", "must be a server, a begin and a later end")])
    count = np.bincount([row[0] for row in absent], minlength=first[-1]) if absent else np.zeros(first[-1])
    windows = np.array([row[1:] for row in absent], float).reshape(-1, 2)
    return Stations(first, speeds, np.concatenate([[0], np.cumsum(count)]).astype(np.int64), windows)


def serve(
    arrival: np.ndarray,
    service: np.ndarray,
    on: Stations | None = None,
    *,
    station: np.ndarray | None = None,
    key: np.ndarray | None = None,
    deadline: np.ndarray | None = None,
    after: np.ndarray | None = None,
) -> Log:
    """Serve jobs.

    Args:
        arrival: [job] s; of a job that waits for others, the earliest it may be ready.
        service: [job] s.
        on: the stations; one with one server where not given.
        station: [job]; all at the first where not given.
        key: [job] place in the line, the least first, the lower number among equals: a class, or a deadline (EDF). Not
            given: who is ready first is served first.
        deadline: [job] s; whose turn comes later is dropped, and all that wait for it too.
        after: pairs [n, 2] of jobs, the second of which waits for the first.

    Raises:
        SpecError: a column of the wrong length, a time that is not a number or below 0, or an unknown station or job.
    """
    on = stations() if on is None else on
    arrival, service = (np.ascontiguousarray(column, float) for column in (arrival, service))
    count = len(arrival)
    station = np.zeros(count, np.int64) if station is None else np.ascontiguousarray(station, np.int64)
    key = np.full(count, np.nan) if key is None else np.ascontiguousarray(key, float)
    deadline = np.full(count, np.inf) if deadline is None else np.ascontiguousarray(deadline, float)
    after = np.zeros((0, 2), np.int64) if after is None else np.asarray(after, np.int64).reshape(-1, 2)
    faults = [
        Fault(name, f"{len(column)} rows", f"must have {count}, one a job")
        for name, column in (("service", service), ("station", station), ("key", key), ("deadline", deadline))
        if len(column) != count
    ]
    for name, column in (("arrival", arrival), ("service", service)):
        if not (np.isfinite(column) & (column >= 0)).all():
            faults.append(Fault(name, "", "must be finite and 0 or more, in s"))
    if ((station < 0) | (station >= len(on.first) - 1)).any():
        faults.append(Fault("station", "", f"must be from 0 to {len(on.first) - 2}"))
    if after.size and not (after.min() >= 0 and after.max() < count):
        faults.append(Fault("after", "", f"must be jobs, from 0 to {count - 1}"))
    if faults:
        raise SpecError(faults)
    then = np.ascontiguousarray(after[np.argsort(after[:, 0], kind="stable"), 1])
    then_of = np.concatenate([[0], np.cumsum(np.bincount(after[:, 0], minlength=count))]).astype(np.int64)
    jobs = Jobs(arrival, station, service, key, deadline, then_of, then, np.bincount(after[:, 1], minlength=count))
    log = Log(*np.full((3, count), np.nan), np.full(count, -1), np.full(count, WAITING))
    free = np.flatnonzero(jobs.pending == 0)
    free = free[np.argsort(arrival[free], kind="stable")]
    servers = len(on.speed)
    # One agenda for servers, who are done or back, and for jobs, which are released; lines of jobs and of idle servers.
    run(jobs, free, on, log, lines(servers + count), *(lines(n, len(on.first) - 1) for n in (count, servers)))
    return log


def tandem(arrival: np.ndarray, services: np.ndarray, servers: Sequence[int] | None = None) -> Log:
    """Stages one behind the other: each request passes all stations in order; a log of jobs [request, stage].

    Args:
        arrival: [request] s.
        services: [request, stage] s.
        servers: of each stage, one where not given.
    """
    services = np.asarray(services, float)
    requests, stages = services.shape
    number = np.arange(requests * stages).reshape(requests, stages)
    log = serve(
        np.repeat(arrival, stages),
        services.ravel(),
        stations([1] * stages if servers is None else servers),
        station=np.tile(np.arange(stages), requests),
        after=np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()], axis=1),
    )
    return Log(*(column.reshape(requests, stages) for column in log))


@njit(cache=True)
def run(jobs, free, on, log, agenda, waiting, idle):
    """Go from event to event until nothing happens any more; ``free`` are the jobs that wait for none, as they come."""
    servers, arrived = len(on.speed), 0
    working = np.full(servers, -1, np.int64)
    touched = np.empty(servers + len(jobs.arrival), np.int64)
    fallen = np.empty(len(jobs.arrival), np.int64)
    for place in range(len(on.first) - 1):
        for server in range(on.first[place], on.first[place + 1]):
            enter(idle, place, np.int64(server), -on.speed[server])
    while arrived < len(free) or agenda.first[0] >= 0:
        now, count = due(agenda, 0), 0
        if arrived < len(free):
            now = min(now, jobs.arrival[free[arrived]])
        while arrived < len(free) and jobs.arrival[free[arrived]] == now:
            touched[count] = _ready(jobs, log, waiting, free[arrived], now)
            arrived, count = arrived + 1, count + 1
        while due(agenda, 0) == now:
            item = take(agenda, 0)
            if item >= servers:
                touched[count] = _ready(jobs, log, waiting, item - servers, now)
            else:
                touched[count] = _back(jobs, on, log, agenda, idle, working, item, now)
            count += 1
        for k in range(count):
            _dispatch(jobs, on, log, agenda, waiting, idle, working, fallen, touched[k], now)


@inner
def _ready(jobs, log, waiting, job, now):
    """A job enters its line; returns the station."""
    log.ready[job] = now
    place = jobs.station[job]
    enter(waiting, place, job, now if np.isnan(jobs.key[job]) else jobs.key[job])
    return place


@inner
def _back(jobs, on, log, agenda, idle, working, server, now):
    """A server is done with its job, or back from an absence; returns its station."""
    done, working[server] = working[server], -1
    if done >= 0:
        log.finish[done], log.outcome[done] = now, SERVED
        for at in range(jobs.then_of[done], jobs.then_of[done + 1]):
            job = jobs.then[at]
            jobs.pending[job] -= 1
            if jobs.pending[job] == 0:
                enter(agenda, 0, len(on.speed) + job, max(now, jobs.arrival[job]))
    place = np.searchsorted(on.first, server, side="right") - 1
    enter(idle, place, server, -on.speed[server])
    return place


@inner
def _dispatch(jobs, on, log, agenda, waiting, idle, working, fallen, place, now):
    """Idle servers of a station take jobs from its line."""
    while waiting.first[place] >= 0:
        job = waiting.first[place]
        if now > jobs.deadline[job]:
            _drop(jobs, log, fallen, take(waiting, place))
            continue
        server = _present(on, agenda, idle, place, now)
        if server < 0:
            return
        take(waiting, place)
        log.start[job], log.server[job], working[server] = now, server, job
        enter(agenda, 0, server, now + jobs.service[job] / on.speed[server])


@inner
def _present(on, agenda, idle, place, now):
    """An idle server that is not away, -1 if there is none; those that are away are back on the agenda."""
    while idle.first[place] >= 0:
        server, until = take(idle, place), now
        for row in range(on.away_of[server], on.away_of[server + 1]):
            if on.away[row, 0] <= now < on.away[row, 1]:
                until = max(until, on.away[row, 1])
        if until == now:
            return server
        enter(agenda, 0, server, until)
    return np.int64(-1)


@inner
def _drop(jobs, log, fallen, job):
    """Drop a job and all that wait for it."""
    fallen[0], count = job, 1
    log.outcome[job] = DROPPED
    while count:
        count -= 1
        gone = fallen[count]
        for at in range(jobs.then_of[gone], jobs.then_of[gone + 1]):
            if log.outcome[jobs.then[at]] == WAITING:
                log.outcome[jobs.then[at]] = DROPPED
                fallen[count] = jobs.then[at]
                count += 1
