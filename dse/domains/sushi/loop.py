"""The compiled loop that serves a stream: who is free takes the next query; every few queries the cache is decided."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dse.domains.sushi.scheduler import LRU, PLANNED, choose, decide, note
from dse.jit import njit
from dse.simulate.heap import inner
from dse.simulate.serving.lines import enter, take


class Queries(NamedTuple):
    """Columns of a stream [q]: times in s, the accuracy asked for, and the place in the line (the least first)."""

    arrival: np.ndarray
    accuracy: np.ndarray
    latency: np.ndarray
    key: np.ndarray


class Rules(NamedTuple):
    """How to serve; ``policy`` and ``rule`` are the numbers of the scheduler."""

    policy: int
    rule: int
    window: int
    kept: float
    margin: float
    blocking: bool
    closed: bool
    slack: bool
    drop: bool


class Replicas(NamedTuple):
    """Of each [replica]: the SubGraph that is or comes in, when it is there, the one before; last finish; queries."""

    cached: np.ndarray
    there: np.ndarray
    before: np.ndarray
    finish: np.ndarray
    served: np.ndarray


class Log(NamedTuple):
    """What happened to each query [q]; -1 where it was dropped. ``loaded``: the SubGraph brought in after it, or -1."""

    issued: np.ndarray
    start: np.ndarray
    finish: np.ndarray
    subnet: np.ndarray
    subgraph: np.ndarray
    replica: np.ndarray
    loaded: np.ndarray


@njit(cache=True)
def run(queries, costs, rules, plan, replicas, memory, waiting, free, log):
    """Serve all queries; each is dispatched when a replica is free, in the order of their keys."""
    count, arrived = len(queries.arrival), 0
    for replica in range(len(replicas.cached)):
        enter(free, 0, replica, 0.0)
    for _ in range(count):
        replica = free.first[0]
        now = free.key[replica]
        if rules.closed:
            query, arrived = np.int64(arrived), arrived + 1
            log.issued[query] = replicas.finish[replica]
        else:
            if waiting.length[0] == 0:
                now = max(now, queries.arrival[arrived])
            while arrived < count and queries.arrival[arrived] <= now:
                enter(waiting, 0, np.int64(arrived), queries.key[arrived])
                arrived += 1
            query = take(waiting, 0)
            log.issued[query] = queries.arrival[query]
            if rules.drop and now > log.issued[query] + queries.latency[query]:
                continue
        take(free, 0)
        enter(free, 0, replica, _serve(queries, costs, rules, plan, replicas, memory, log, query, replica, now))


@inner
def _serve(queries, costs, rules, plan, replicas, memory, log, query, replica, now):
    """Serve one query and decide what to cache; returns when the replica is free again."""
    column = replicas.cached[replica] if now >= replicas.there[replica] else replicas.before[replica]
    accuracy, latency = queries.accuracy[query], queries.latency[query]
    if rules.slack:
        latency -= now - log.issued[query]
    subnet = choose(costs.accuracy, costs.latency, costs.quickest, column, rules.policy, accuracy, latency)
    finish = now + costs.latency[column, subnet]
    log.start[query], log.finish[query], log.replica[query] = now, finish, replica
    log.subnet[query], log.subgraph[query] = costs.place[subnet], column
    note(costs, memory, replica, rules.rule, rules.policy, subnet, accuracy, latency)
    replicas.finish[replica] = finish
    replicas.served[replica] += 1
    if rules.rule != LRU and replicas.served[replica] % rules.window:
        return finish
    finish = max(finish, replicas.there[replica])  # one load ends before the next is decided
    cached = replicas.cached[replica]
    if rules.rule == PLANNED:
        wanted = plan[min(replicas.served[replica] // rules.window, len(plan) - 1)]
    else:
        wanted = decide(costs, memory, replica, rules.rule, rules.kept, rules.margin, cached, subnet)
    if wanted == cached:
        return finish
    log.loaded[query] = wanted
    replicas.before[replica], replicas.cached[replica] = cached, wanted
    replicas.there[replica] = finish + costs.load_time[cached, wanted]
    return replicas.there[replica] if rules.blocking else finish
