"""Goodput: what failures, checkpoints, restarts, repairs and maintenance leave of a training run's time.

A job runs segments of W seconds of training, each ended by a checkpoint that blocks it for C. Failures interrupt it
as a Poisson process of rate λ. After one, D passes until it is found (whatever else breaks meanwhile is found with
it), then R for the restart, in which failures begin all over. A checkpoint counts once its copy has reached the
storage, F after the job went on. The work of a cycle is W for each segment that has its copy, the cycle lasts
e^{λR} (1/λ + D), and their quotient is exact::

    goodput = W · λ e^{-λ(R + F)} / ((1 + λD) (e^{λ(W + C)} - 1))

With F = 0 this is E[T] = e^{λR} (1/λ + D) (e^{λ(W + C)} - 1) of Bougeret et al., SC'11, and for D = 0 that of Daly
2006. The best W depends on λ and C alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dse.cost.arrays import Array, select, total, values_of
from dse.cost.graph import quantity
from dse.cost.memory import OPTIMIZER_BYTES, WEIGHT_BYTES
from dse.errors import Fault, SpecError

# -- how often something fails ------------------------------------------------------------------------------


@quantity("1", "⌈devices / devices of a node⌉")
def nodes(cluster: Any, devices: Array) -> Array:
    """Nodes that the job runs on."""
    return np.ceil(devices / cluster.node.devices)


@quantity("1", "spare_share · nodes + spare_nodes")
def spares(cluster: Any, nodes: Array) -> Array:
    """Spare nodes; a small job owns a fraction of the pool it shares with others."""
    return cluster.reliability.spare_share * nodes + cluster.reliability.spare_nodes


@quantity("1/s", "number of parts / mean time between failures of one", source="independent exponential lifetimes")
def failure_rates(cluster: Any, devices: Array, nodes: Array) -> dict[str, Array]:
    """Interruptions of a job by the part that causes them, in a second of operation."""
    r = cluster.reliability
    parts = {
        "accelerator": (devices, r.accelerator_mtbf),
        "memory": (devices, r.memory_mtbf),
        "host": (nodes, r.host_mtbf),
        "network": (devices, r.network_mtbf),
        "software": (devices, r.software_mtbf),
    }
    return {name: count / np.maximum(mtbf, 1.0) for name, (count, mtbf) in parts.items()}


@quantity("1/s", "Σ failure_rates")
def failure_rate(failure_rates: dict[str, Array]) -> Array:
    """λ: interruptions of the job in a second of operation."""
    return total(failure_rates.values())


@quantity("s", "1 / failure_rate")
def mtbf(failure_rate: Array) -> Array:
    """Mean time between the failures that interrupt the job."""
    return 1.0 / failure_rate


@quantity("1/s", "λ / (1 + λD) · share of the time that is neither waiting for a node nor planned", source="re-derived")
def interruption_rate(failure_rate: Array, cluster: Any, goodput_shares: dict[str, Array]) -> Array:
    """Unplanned interruptions in a second of wall time, those of restarts included."""
    there = 1.0 - goodput_shares["waiting"] - goodput_shares["maintenance"]
    return failure_rate / (1.0 + failure_rate * cluster.reliability.detection) * there


# -- checkpoints --------------------------------------------------------------------------------------------


@quantity("B", "trained parameters · (weight + optimizer + 32-bit master), and lookup tables", source="as model_states")
def checkpoint_bytes(model: Any, precision: Array, optimizer: Array, trainable_share: Array) -> Array:
    """Size of a checkpoint: weights and optimizer states, each written once; of adapters alone where these train."""
    width = select(precision, WEIGHT_BYTES)
    master = np.where(np.less(width, 4) & np.not_equal(optimizer, "sgd"), 4.0, 0.0)
    states = trainable_share * (width + select(optimizer, OPTIMIZER_BYTES) + master)
    if model.family != "dlrm":
        return model.parameters() * states
    tables = model.table_parameters()
    return (model.parameters() - tables) * states + tables * model.table_element_bytes


@quantity("s", "checkpoint_bytes / devices / bandwidth of the tier")
def checkpoint_copy_time(checkpoint_bytes: Array, cluster: Any, devices: Array) -> Array:
    """Time of the first copy, from each device its share into its node's memory; 0 where the node has no such tier.

    Raises:
        SpecError: the node has no tier of the name given.
    """
    tiers, chosen = cluster.node.expansion, cluster.reliability.checkpoint_tier
    known = {tier.name: tier for tier in tiers} | ({"auto": tiers[0]} if tiers else {})
    missing = [name for name in values_of(chosen) if name not in known and name != "auto"]
    if missing:
        rule = f"the node's expansion tiers are {', '.join(t.name for t in tiers) or 'none'}; or say auto"
        raise SpecError([Fault("cluster.reliability.checkpoint_tier", repr(missing[0]), rule)])
    if not tiers:
        return 0.0
    times = {
        name: tier.latency + checkpoint_bytes / devices / (tier.bandwidth / tier.shared_by)
        for name, tier in known.items()
    }
    return select(np.asarray(chosen), times)


@quantity("s", "checkpoint_bytes / min(file system, nodes · node to it)")
def storage_time(checkpoint_bytes: Array, cluster: Any, nodes: Array) -> Array:
    """Time to write a checkpoint to storage, or to read it, all nodes at once (copies are passed on by network)."""
    r = cluster.reliability
    return checkpoint_bytes / np.minimum(r.storage_bandwidth, nodes * r.node_storage_bandwidth)


@quantity("s", "overhead + first copy; overhead + the slower of copy and storage if that blocks too")
def checkpoint_time(checkpoint_copy_time: Array, storage_time: Array, cluster: Any) -> Array:
    """C: how long a checkpoint holds up the training."""
    whole = np.maximum(checkpoint_copy_time, storage_time)
    return cluster.reliability.checkpoint_overhead + np.where(_goes_on(cluster), checkpoint_copy_time, whole)


@quantity("s", "storage_time while training goes on, else 0")
def checkpoint_lag(storage_time: Array, cluster: Any) -> Array:
    """F: time after the job went on in which a checkpoint is not safe yet."""
    return np.where(_goes_on(cluster), storage_time, 0.0)


def _goes_on(cluster: Any) -> Array:
    return np.logical_and(cluster.reliability.asynchronous, len(cluster.node.expansion) > 0)


@quantity("s", "restart + storage_time")
def restart_time(cluster: Any, storage_time: Array) -> Array:
    """R: from the decision to start again until training goes on from the last checkpoint."""
    return cluster.reliability.restart + storage_time


# -- the best interval --------------------------------------------------------------------------------------


def young_interval(checkpoint: Array, mtbf: Array) -> Array:
    """√(2CM): Young, CACM 17(9), 1974. For C ≪ M; in seconds, as are ``checkpoint`` C and ``mtbf`` M."""
    return np.sqrt(2.0 * checkpoint * mtbf)


def daly_interval(checkpoint: Array, mtbf: Array) -> Array:
    """√(2CM) (1 + ⅓√(C/2M) + C/18M) − C for C < 2M, else M: Daly, Future Gener. Comput. Syst. 22, 2006."""
    part = np.minimum(checkpoint / (2.0 * mtbf), 1.0)
    series = young_interval(checkpoint, mtbf) * (1.0 + np.sqrt(part) / 3.0 + part / 9.0) - checkpoint
    return np.where(np.less(checkpoint, 2.0 * mtbf), series, mtbf)


def optimal_interval(checkpoint: Array, mtbf: Array) -> Array:
    """M (1 + W₀(−e^{−C/M − 1})): least expected time under exponential failures (W₀ is Lambert's function).

    The root y of y − 1 + e^{−(x + y)}, x = C/M, y = W/M, by Newton's method from above: the function is convex and
    grows, so that each step comes nearer and none goes past. Lambert's function itself cancels for C ≪ M.

    Args:
        checkpoint: time of one, any shape [s].
        mtbf: any shape that broadcasts with it [s].
    """
    x = checkpoint / mtbf
    y = np.minimum(np.sqrt(2.0 * x), 1.0)
    for _ in range(6):
        slope = -np.expm1(-(x + y))
        y = y - (y - slope) / np.maximum(slope, 1e-300)
    return np.maximum(y, 0.0) * mtbf


@quantity("s", "given, or optimal_interval; at least a step, and the storage's time", source="see optimal_interval")
def checkpoint_interval(
    checkpoint_time: Array, checkpoint_lag: Array, mtbf: Array, cluster: Any, step_time: Array
) -> Array:
    """W: training between two checkpoints; the copy of one must have reached the storage before the next begins."""
    given = cluster.reliability.checkpoint_interval
    best = optimal_interval(checkpoint_time, mtbf) if np.any(np.equal(given, 0)) else 0.0
    chosen = np.where(np.greater(given, 0), given, best)
    return np.maximum(np.maximum(chosen, step_time), checkpoint_lag - checkpoint_time)


# -- goodput ------------------------------------------------------------------------------------------------


def erlang_loss(servers: Array, load: Array) -> Array:
    """B(c, a) = (a^c / c!) / Σ_{k ≤ c} a^k / k!, for real c through the incomplete gamma function.

    Args:
        servers: c, at least 0, any shape.
        load: a, any shape that broadcasts with it.
    """
    from scipy.special import gammaincc, gammaln

    a = np.maximum(load, 1e-300)
    below = gammaincc(servers + 1.0, a)
    exactly = np.exp(servers * np.log(a) - a - gammaln(servers + 1.0))
    flooded = 1.0 - servers / np.maximum(a, servers)  # far beyond its servers a system serves c of a
    return np.where(np.greater(below, 1e-250), np.minimum(exactly / np.maximum(below, 1e-300), 1.0), flooded)


@quantity("1", "Erlang's B(spares + 1, node failures · repair)", source="birth–death; Erlang 1917")
def waiting_share(failure_rates: dict[str, Array], failure_rate: Array, spares: Array, cluster: Any) -> Array:
    """Share of the time in which the job waits because more nodes are in repair than there are spares.

    Nodes go into repair one by one while the job is there, each for ``repair`` in the mean, independently; with one
    more than the spares the job waits and nothing fails. That is a loss system of spares + 1 servers, whose
    occupancy does not depend on how repair times scatter about their mean.
    """
    r = cluster.reliability
    rate = total(failure_rates[part] for part in ("accelerator", "memory", "host"))
    return erlang_loss(spares + 1.0, rate * r.repair / (1.0 + failure_rate * r.detection))


@quantity("1", "shares of wall time; they add up to 1", source="re-derived; see the module")
def goodput_shares(
    failure_rate: Array,
    checkpoint_interval: Array,
    checkpoint_time: Array,
    checkpoint_lag: Array,
    restart_time: Array,
    waiting_share: Array,
    cluster: Any,
) -> dict[str, Array]:
    """Where the wall time of a run goes.

    ``useful`` training, ``checkpoint`` writing, ``rework`` (training and checkpoints lost with a failure), ``down``
    (detection and restart), ``waiting`` for a node to be repaired, planned ``maintenance``.
    """
    r, rate = cluster.reliability, failure_rate
    stop = (r.maintenance_time + restart_time) / np.maximum(r.maintenance_interval, 1.0)
    planned = np.where(np.greater(r.maintenance_interval, 0), 1.0 / (1.0 + stop), 1.0)
    there = (1.0 - waiting_share) * planned
    up = np.exp(-rate * restart_time) / (1.0 + rate * r.detection)
    segment = rate * (checkpoint_interval + checkpoint_time)
    # Segments of a cycle that count, by λ: e^{-λF} / (e^{λ(W + C)} - 1), with exponents that cannot overflow.
    count = np.exp(-rate * checkpoint_lag - segment) / np.maximum(-np.expm1(-segment), 1e-300)
    useful, written = count * rate * checkpoint_interval, count * rate * checkpoint_time
    return {
        "useful": there * up * useful,
        "checkpoint": there * up * written,
        "rework": there * up * np.maximum(1.0 - useful - written, 0.0),
        "down": there * (1.0 - up),
        "waiting": waiting_share,
        "maintenance": (1.0 - waiting_share) * (1.0 - planned),
    }


@quantity("1", "useful share of wall time", source="re-derived; see the module")
def goodput(goodput_shares: dict[str, Array]) -> Array:
    """Effective training time: useful training time over wall time (ETTR)."""
    return goodput_shares["useful"]


@quantity("s", "step_time / goodput")
def effective_step_time(step_time: Array, goodput: Array) -> Array:
    """Wall time of a step in a long run."""
    return step_time / np.maximum(goodput, 1e-30)


@quantity("1/s", "tokens_per_s · goodput")
def effective_tokens_per_s(tokens_per_s: Array, goodput: Array) -> Array:
    """Tokens (or samples) trained per second of wall time in a long run."""
    return tokens_per_s * goodput
