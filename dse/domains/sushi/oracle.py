"""The best schedule of SubGraphs in hindsight, by dynamic programming: a bound for every rule that decides as often."""

from __future__ import annotations

import numpy as np

from dse.domains.sushi.scheduler import choose
from dse.jit import njit
from dse.simulate.heap import inner


@njit(cache=True)
def schedule(queries, costs, policy, window, blocking, time_value, first_value):
    """SubGraph of each block of ``window`` queries, served one at a time, and what they cost together.

    Args:
        queries: of the stream.
        costs: of the table.
        policy: number of the policy by which SubNets are chosen.
        window: queries between decisions.
        blocking: a load goes before the next query; else queries that start before its end use the SubGraph before.
        time_value: cost of a second.
        first_value: [j], cost of having a SubGraph at the start.
    """
    count, columns = len(queries.accuracy), len(costs.size)
    blocks = (count + window - 1) // window
    came = np.zeros((blocks, columns), np.int32)
    total, value, time = first_value.copy(), np.zeros((window + 1, columns)), np.zeros((window, columns))
    for block in range(blocks):
        first = block * window
        length = min(window, count - first)
        _block(queries, costs, policy, first, length, value, time)
        before = total.copy()
        for to in range(columns):
            total[to], came[block, to] = before[to] + value[0, to], to
            if block == 0:
                continue
            for start in range(columns):
                if start == to:
                    continue
                cost = before[start] + costs.load_value[start, to]
                if blocking:
                    cost += value[0, to]
                else:
                    cost += _overlap(value, time, length, start, to, costs.load_time[start, to], time_value)
                if cost < total[to]:
                    total[to], came[block, to] = cost, start
    plan = np.zeros(max(blocks, 1), np.int64)
    best = np.int64(np.argmin(total))
    least = total[best]
    for block in range(blocks - 1, -1, -1):
        plan[block] = best
        best = np.int64(came[block, best])
    return plan, least


@njit(cache=True)
def sums(queries, costs, policy):
    """Cost of the whole stream under each SubGraph [j], served one at a time."""
    accuracies, latencies, quickest, value = costs.accuracy, costs.latency, costs.quickest, costs.value
    accuracy, latency = queries.accuracy, queries.latency
    result = np.zeros(len(quickest))
    for j in range(len(result)):
        for q in range(len(accuracy)):
            result[j] += value[j, choose(accuracies, latencies, quickest, j, policy, accuracy[q], latency[q])]
    return result


@njit(cache=True)
def services(accuracy, latency, costs, policy):
    """Service time of each query [q] with the SubNet it would have, on the mean over all SubGraphs."""
    accuracies, latencies, quickest = costs.accuracy, costs.latency, costs.quickest
    result = np.zeros(len(accuracy))
    for j in range(len(quickest)):
        for q in range(len(result)):
            subnet = choose(accuracies, latencies, quickest, j, policy, accuracy[q], latency[q])
            result[q] += latencies[j, subnet] / len(quickest)
    return result


@inner
def _block(queries, costs, policy, first, length, value, time):
    """Cost from the k-th query of a block to its end [k, j], and service time of the k-th [k, j]."""
    accuracies, latencies, quickest, each = costs.accuracy, costs.latency, costs.quickest, costs.value
    accuracy, latency = queries.accuracy, queries.latency
    for j in range(len(quickest)):
        value[length, j] = 0.0
        for k in range(length - 1, -1, -1):
            q = first + k
            subnet = choose(accuracies, latencies, quickest, j, policy, accuracy[q], latency[q])
            value[k, j] = value[k + 1, j] + each[j, subnet]
            time[k, j] = latencies[j, subnet]


@inner
def _overlap(value, time, length, start, to, load, time_value):
    """Cost of a block whose first queries are served while the SubGraph is brought in."""
    k, passed = 0, 0.0
    while k < length and passed < load:
        passed += time[k, start]
        k += 1
    wait = max(load - passed, 0.0) * time_value
    return value[0, start] - value[k, start] + value[k, to] + wait
