"""Bytes that flow: jobs share resources max-min fairly, and only what a change touches is solved anew.

A job moves ``left`` bytes at one rate over all resources of its set (ports or links; a resource may count several
times). Rates are max-min fair: raise all rates together until a resource is full, fix its jobs, go on with the rest.
The rates of a set of jobs and resources that hang together depend on capacities and counts only, not on the order in
which jobs came, so that symmetric parts of a system get the same rates to the last bit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dse.simulate import heap
from dse.simulate.heap import inner

BINS = 256


class Fluid(NamedTuple):
    """State of J jobs on R resources; E is the sum of the jobs' set sizes."""

    capacity: np.ndarray  # float64 [R], bytes/s
    set_ptr: np.ndarray  # int64 [sets + 1]
    set_resource: np.ndarray  # int64, the resources of each set
    set_count: np.ndarray  # int64, how often
    job_set: np.ndarray  # int64 [J]
    job_entry: np.ndarray  # int64 [J], the job's first entry
    rate: np.ndarray  # float64 [J], bytes/s; < 0: not solved
    left: np.ndarray  # float64 [J], bytes
    since: np.ndarray  # float64 [J], when ``left`` was right
    flowing: np.ndarray  # bool [J]
    head: np.ndarray  # int64 [R], first entry on the resource, -1
    after: np.ndarray  # int64 [E], the list of entries on a resource
    before: np.ndarray  # int64 [E]
    owner: np.ndarray  # int64 [E], the entry's job
    count: np.ndarray  # int64 [E], the entry's count
    used: np.ndarray  # float64 [R], bytes/s
    noted: np.ndarray  # float64 [R], until when usage is noted
    bins: np.ndarray  # float64 [R or 0, BINS], bytes
    width: np.ndarray  # float64 [1], seconds of a bin
    touched: np.ndarray  # int64 [R], and how many [1]
    touches: np.ndarray
    mark: np.ndarray  # bool [R]
    queue: np.ndarray  # int64 [R], scratch
    jobs: np.ndarray  # int64 [J], scratch
    seen: np.ndarray  # bool [J]
    load: np.ndarray  # int64 [R], scratch: counts of jobs without a rate
    spare: np.ndarray  # float64 [R], scratch: capacity left
    fixed: np.ndarray  # int64 [R], scratch: counts fixed in this round


def create(
    capacity: np.ndarray,
    set_ptr: np.ndarray,
    set_resource: np.ndarray,
    set_count: np.ndarray,
    job_set: np.ndarray,
    record: bool,
) -> Fluid:
    """Nothing flows yet."""
    resources, jobs = len(capacity), len(job_set)
    sizes = np.diff(set_ptr)[job_set]
    entry = np.zeros(jobs + 1, np.int64)
    np.cumsum(sizes, out=entry[1:])
    total = int(entry[-1])
    ints, floats, flags = (lambda n, kind=kind: np.zeros(n, kind) for kind in (np.int64, np.float64, np.bool_))
    return Fluid(
        capacity, set_ptr, set_resource, set_count, job_set, entry[:-1],
        floats(jobs), floats(jobs), floats(jobs), flags(jobs),
        np.full(resources, -1, np.int64), ints(total), ints(total), ints(total), ints(total),
        floats(resources), floats(resources), np.zeros((resources if record else 0, BINS)), np.full(1, 1e-7),
        ints(resources), ints(1), flags(resources), ints(resources), ints(jobs), flags(jobs),
        ints(resources), floats(resources), ints(resources),
    )  # fmt: skip


@inner
def _touch(f, resource):
    if not f.mark[resource]:
        f.mark[resource] = True
        f.touched[f.touches[0]] = resource
        f.touches[0] += 1


@inner
def start(f, job, size, now):
    """Let a job flow; :func:`solve` gives it its rate."""
    f.left[job], f.since[job], f.rate[job], f.flowing[job] = size, now, 0.0, True
    first = f.set_ptr[f.job_set[job]]
    for i in range(first, f.set_ptr[f.job_set[job] + 1]):
        entry, resource = f.job_entry[job] + i - first, f.set_resource[i]
        f.owner[entry], f.count[entry] = job, f.set_count[i]
        f.before[entry], f.after[entry] = -1, f.head[resource]
        if f.head[resource] >= 0:
            f.before[f.head[resource]] = entry
        f.head[resource] = entry
        _touch(f, resource)


@inner
def stop(f, job):
    """Take a job that is through off its resources."""
    f.flowing[job] = False
    first = f.set_ptr[f.job_set[job]]
    for i in range(first, f.set_ptr[f.job_set[job] + 1]):
        entry, resource = f.job_entry[job] + i - first, f.set_resource[i]
        if f.before[entry] >= 0:
            f.after[f.before[entry]] = f.after[entry]
        else:
            f.head[resource] = f.after[entry]
        if f.after[entry] >= 0:
            f.before[f.after[entry]] = f.before[entry]
        _touch(f, resource)


@inner
def note(f, resource, now):
    """Add what passed the resource since last noted to its bins; bins double in width where time runs past them."""
    begin, rate = f.noted[resource], f.used[resource]
    f.noted[resource] = now
    if len(f.bins) == 0 or rate == 0.0 or now <= begin:
        return
    while now > BINS * f.width[0]:
        for r in range(len(f.bins)):
            for k in range(BINS // 2):
                f.bins[r, k] = f.bins[r, 2 * k] + f.bins[r, 2 * k + 1]
            f.bins[r, BINS // 2 :] = 0.0
        f.width[0] *= 2.0
    width = f.width[0]
    k = min(int(begin / width), BINS - 1)
    while begin < now and k < BINS:
        end = min(now, (k + 1) * width) if k < BINS - 1 else now
        if end > begin:
            f.bins[resource, k] += rate * (end - begin)
            begin = end
        k += 1


@inner
def solve(f, timers, first_job, now):
    """New rates for all that hangs together with what was touched; when each of those jobs is through."""
    for k in range(f.touches[0]):
        resource = f.touched[k]
        if f.mark[resource]:
            _component(f, timers, first_job, now, resource)
    f.touches[0] = 0


@inner
def _component(f, timers, first_job, now, resource):
    resources, jobs = _reach(f, resource)
    for k in range(resources):
        note(f, f.queue[k], now)
        f.used[f.queue[k]] = 0.0
    for k in range(jobs):
        job = f.jobs[k]
        f.left[job] = max(f.left[job] - f.rate[job] * (now - f.since[job]), 0.0)
        f.since[job] = now
        f.rate[job] = -1.0
    _share(f, resources)
    for k in range(jobs):
        job = f.jobs[k]
        f.seen[job] = False
        heap.put(timers, first_job + job, now + f.left[job] / f.rate[job])


@inner
def _reach(f, resource):
    """Resources and jobs that hang together with one resource: how many, in ``queue`` and ``jobs``."""
    f.queue[0] = resource
    f.mark[resource] = False
    f.load[resource] = -1
    resources, jobs, k = 1, 0, 0
    while k < resources:
        entry = f.head[f.queue[k]]
        while entry >= 0:
            job = f.owner[entry]
            if not f.seen[job]:
                f.seen[job] = True
                f.jobs[jobs] = job
                jobs += 1
                for i in range(f.set_ptr[f.job_set[job]], f.set_ptr[f.job_set[job] + 1]):
                    other = f.set_resource[i]
                    if f.load[other] != -1:
                        f.load[other] = -1
                        f.mark[other] = False
                        f.queue[resources] = other
                        resources += 1
            entry = f.after[entry]
        k += 1
    return resources, jobs


@inner
def _share(f, resources):
    """Max-min fair rates of the jobs on the first resources in ``queue``."""
    for k in range(resources):
        resource = f.queue[k]
        f.spare[resource], f.load[resource] = f.capacity[resource], 0
        entry = f.head[resource]
        while entry >= 0:
            f.load[resource] += f.count[entry]
            entry = f.after[entry]
    while True:
        level = np.inf
        for k in range(resources):
            resource = f.queue[k]
            f.fixed[resource] = 0
            if f.load[resource] > 0:
                level = min(level, f.spare[resource] / f.load[resource])
        if level == np.inf:
            return
        for k in range(resources):
            resource = f.queue[k]
            if f.load[resource] > 0 and f.spare[resource] / f.load[resource] <= level:
                _fix(f, resource, level)
        for k in range(resources):
            resource = f.queue[k]
            if f.fixed[resource]:
                f.spare[resource] -= level * f.fixed[resource]
                f.used[resource] += level * f.fixed[resource]
                f.load[resource] -= f.fixed[resource]


@inner
def _fix(f, resource, level):
    entry = f.head[resource]
    while entry >= 0:
        job = f.owner[entry]
        if f.rate[job] < 0.0:
            f.rate[job] = level
            for i in range(f.set_ptr[f.job_set[job]], f.set_ptr[f.job_set[job] + 1]):
                f.fixed[f.set_resource[i]] += f.set_count[i]
        entry = f.after[entry]
