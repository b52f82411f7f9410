"""Several collectives at once on one network: one clock, shared links."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from dse.collective.merge import Flow, tasks_of, timed
from dse.collective.precedence import Precedence, start_times, tails
from dse.collective.schedule import Schedule
from dse.collective.tasks import seconds
from dse.collective.topology import Floats, Topology
from dse.errors import Fault, SpecError

Maker = Callable[[Topology], Schedule]


def together(
    jobs: Sequence[Schedule | Maker],
    topology: Topology | None = None,
    *,
    weights: ArrayLike | None = None,
    rounds: int = 2,
) -> list[Schedule]:
    """Schedules of several collectives that start at once and share the links, with times of one clock.

    Each link serves the transfer with the longest remaining way, whichever collective it is of. Collectives given as
    makers are made anew in each round, on a network whose links are slower by what the others load them with, so that
    they keep out of each other's way; what does not help is dropped.

    Args:
        jobs: schedules, or functions that make one on the topology they are given.
        topology: the network; needed if there are makers.
        weights: more than 0, [jobs]: how urgent each is; 1 by default.
        rounds: times makers are called with the load of the others.

    Returns:
        A schedule for each job; their latest time is at least the time that all together keep any link busy.

    Raises:
        SpecError: no topology, schedules on different ones, or wrong weights.
    """
    makers = [job for job in jobs if not isinstance(job, Schedule)]
    if makers and topology is None:
        raise SpecError([Fault("topology", "", "must be given to make schedules on")])
    made = [job if isinstance(job, Schedule) else job(topology) for job in jobs]
    network = topology or (made[0].topology if made else None)
    for i, one in enumerate(made):
        if one.topology.key != network.key:
            raise SpecError([Fault(f"jobs.{i}.topology", one.topology.name, "must be the topology of the others")])
    urgency = np.ones(len(made)) if weights is None else np.asarray(weights, float)
    if urgency.shape != (len(made),) or not (urgency > 0).all() or not np.isfinite(urgency).all():
        raise SpecError([Fault("weights", str(weights)[:60], "must be a number more than 0 for each job")])
    best = _joint(made, urgency)
    for _ in range(rounds if makers and len(jobs) > 1 else 0):
        tried = list(made)
        for i, job in enumerate(jobs):
            if not isinstance(job, Schedule):
                tried[i] = _aside(job, network, tried[:i] + tried[i + 1 :], tried[i])
        new = _joint(tried, urgency)
        if _ends(new, urgency) < _ends(best, urgency):
            best, made = new, tried
    return best


def link_load(schedules: Sequence[Schedule]) -> Floats:
    """Seconds that schedules on one topology keep each link busy, [links]."""
    load = np.zeros(schedules[0].topology.links)
    for one in schedules:
        sent = np.arange(one.transfers)
        if one.message is not None:
            sent = np.unique(one.message, return_index=True)[1]
        load += np.bincount(one.link[sent], (one.end - one.start)[sent], minlength=len(load))
    return load


def _aside(make: Maker, topology: Topology, others: list[Schedule], own: Schedule) -> Schedule:
    """Made on links as much slower as the others' load is beside its own; with the times of the real links."""
    most = float(link_load([own]).max(initial=0.0)) or 1.0
    slower = 1 + link_load(others) / most
    seen = replace(topology, latency=topology.latency, bandwidth=topology.bandwidth / slower)
    return replace(make(seen), topology=topology)


def _ends(schedules: list[Schedule], urgency: Floats) -> tuple[float, float]:
    times = np.array([one.time for one in schedules])
    return float(f"{times.max(initial=0.0):.9g}"), float((times * urgency).sum())  # not decided by rounding


def _joint(made: list[Schedule], urgency: Floats) -> list[Schedule]:
    """All tasks in one list, scheduled by their remaining ways and by their own schedules' order; the quicker one."""
    if not made:
        return []
    topology = made[0].topology
    flows = [tasks_of(one) for one in made]
    order = _union([flow.order for flow in flows])
    link = np.concatenate([flow.link for flow in flows])
    duration = seconds(topology.latency, topology.bandwidth, link, np.concatenate([flow.size for flow in flows]))
    weight = np.repeat(urgency, [flow.order.tasks for flow in flows])
    rules = [-tails(duration, order) * weight]
    rules.append(np.concatenate([_starts(one, flow) for one, flow in zip(made, flows, strict=True)]) / weight)
    choices = [_one_after_the_other(made, flows, urgency)]
    for priority in rules:
        start = start_times(link, duration, order, priority, topology.links)
        parts = np.cumsum([flow.order.tasks for flow in flows])[:-1]
        times = zip(made, flows, np.split(start, parts), np.split(start + duration, parts), strict=True)
        choices.append([timed(*columns) for columns in times])
    return min((c for c in choices if all(one is not None for one in c)), key=lambda c: _ends(c, urgency))


def _starts(schedule: Schedule, flow: Flow) -> Floats:
    start = np.zeros(flow.order.tasks)
    start[flow.task] = schedule.start
    return start


def _one_after_the_other(made: list[Schedule], flows: list[Flow], urgency: Floats) -> list[Schedule]:
    """Each alone, the urgent ones first: always possible, and what the others are compared with."""
    parts, now = list(made), 0.0
    for i in np.argsort(-urgency, kind="stable").tolist():
        one, size = made[i], flows[i].size[flows[i].task]
        least = one.topology.latency[one.link] + size / one.topology.bandwidth[one.link]
        stretch = max(1.0, float((least / (one.end - one.start)).max(initial=1.0)))  # made for quicker links
        parts[i] = replace(one, start=now + one.start * stretch, end=now + one.end * stretch)
        now = max(now, parts[i].time)
    return parts


def _union(orders: list[Precedence]) -> Precedence:
    """Of several sets of tasks, one after the other, their joins behind all."""
    tasks, joins = sum(o.tasks for o in orders), 0
    before, after, first = [], [], 0
    for order in orders:
        number = np.append(first + np.arange(order.tasks), tasks + joins + np.arange(order.joins))
        before.append(number[order.before])
        after.append(number[order.after])
        first += order.tasks
        joins += order.joins
    return Precedence(np.concatenate(before), np.concatenate(after), tasks, joins)
