"""Legality: named rules, each a margin that must not be negative, and the sentence that tells why it failed.

A rule is a quantity like any other (its parameters name what it needs), so it is computed only over the axes it
depends on. Add one by writing a function here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dse.cost.arrays import Array, select, values_of
from dse.cost.graph import Quantity, quantity

_TEXTS: dict[str, str] = {}


def rule(unit: str, text: str) -> Callable[[Callable[..., Array]], Quantity]:
    """Declare a legality rule.

    Args:
        unit: unit of the margin.
        text: why a design breaks it; ``{name}`` is replaced by the value of that quantity at the design.
    """

    def declare(function: Callable[..., Array]) -> Quantity:
        _TEXTS[function.__name__] = text
        return quantity(unit, f"margin ≥ 0, else: {text}")(function)

    return declare


def texts() -> dict[str, str]:
    """Sentence of each rule, by name, in the order they are checked."""
    return dict(_TEXTS)


def _divides(part: Array, whole: Array) -> Array:
    """0 where ``part`` divides ``whole``, minus the remainder otherwise."""
    remainder = np.mod(whole, np.maximum(part, 1e-9))
    near = np.minimum(remainder, np.abs(part - remainder))
    return -np.where(near < 1e-6, 0.0, near)


@rule("1", "tp·pp·dp·cp = {tp}·{pp}·{data_parallel}·{cp} must equal the {devices} devices")
def degrees_multiply(tp: Array, pp: Array, cp: Array, data_parallel: Array, devices: Array) -> Array:
    """The parallel degrees use every device exactly once."""
    whole = data_parallel - np.floor(data_parallel + 1e-9)
    return -np.abs(tp * pp * cp * data_parallel - devices) - np.where(whole > 1e-9, whole, 0.0)


@rule("1", "global_batch = {global_batch} must be a multiple of dp·micro_batch = {data_parallel}·{micro_batch}")
def batch_divides(global_batch: Array, data_parallel: Array, micro_batch: Array, execution: Array) -> Array:
    """Every replica runs the same whole number of micro-batches (COMET: the whole batch at once)."""
    per_replica = np.where(np.equal(execution, "comet"), data_parallel, data_parallel * micro_batch)
    return _divides(per_replica, global_batch)


@rule("1", "tp = {tp}, pp = {pp} and cp = {cp}: this model family is not split that way")
def family_splits(model: Any, tp: Array, pp: Array, cp: Array) -> Array:
    """Families without equal layers or attention are not cut into stages, columns or sequences."""
    excess = np.where(model.tensor_parallel, 0, tp - 1) + np.where(model.pipelined, 0, pp - 1 + cp - 1)
    return -1.0 * excess


@rule("1", "tp = {tp} must divide the attention heads and the MLP width of the model")
def tensor_divides(model: Any, tp: Array) -> Array:
    """Attention heads and MLP columns are dealt out whole."""
    worst: Array = 0.0
    for size, _ in model.divisibility().values():
        worst = np.minimum(worst, _divides(tp, size))
    return worst


@rule("1", "tp = {tp} and the model's key/value heads must divide one another")
def key_heads_divide(model: Any, tp: Array) -> Array:
    """Key/value heads are dealt out whole or replicated."""
    if not model.pipelined:
        return 0.0
    return np.maximum(_divides(tp, model.groups), _divides(model.groups, tp))


@rule("1", "pp·virtual_stages = {pp}·{virtual_stages} must not exceed the model's layers")
def stages_fit(model: Any, pp: Array, virtual_stages: Array) -> Array:
    """Every virtual stage has at least one layer."""
    return model.depth - pp * virtual_stages if model.pipelined else -1.0 * (virtual_stages - 1)


@rule(
    "1", "shard_group = {shard_group} must divide dp·cp = {data_parallel}·{cp}, with zero_stage of 1 or more and ep = 1"
)
def shards_divide(shard_group: Array, data_parallel: Array, cp: Array, zero_stage: Array, ep: Array) -> Array:
    """Shard groups are equal, hold whole replicas, and hold all experts."""
    if not np.any(shard_group):
        return 0.0
    usable = np.logical_and(np.greater_equal(zero_stage, 1), np.equal(ep, 1))
    torn = _divides(np.maximum(shard_group, 1), data_parallel * cp) - np.where(usable, 0.0, 1.0)
    return np.where(np.greater(shard_group, 0), torn, 0.0)


@rule("1", "tp·cp = {tp}·{cp} must divide the attention heads where context parallelism exchanges them")
def heads_exchange(model: Any, context: Array, tp: Array, cp: Array) -> Array:
    """Every rank gets whole heads for all tokens."""
    if not model.pipelined or not np.any(np.equal(context, "all_to_all")):
        return 0.0
    return np.where(np.equal(context, "all_to_all"), _divides(tp * cp, model.heads), 0.0)


@rule("1", "ep = {ep} must divide the model's experts and dp·cp = {data_parallel}·{cp}")
def experts_divide(model: Any, ep: Array, data_parallel: Array, cp: Array) -> Array:
    """Experts are dealt out whole, over the ranks that hold different tokens."""
    experts = getattr(model, "moe", None)
    if experts is None:
        return -1.0 * (ep - 1)
    return np.minimum(_divides(ep, experts.experts), _divides(ep, data_parallel * cp))


@rule("1", "the sequence must be a multiple of cp = {cp} (and of tp = {tp} under sequence parallelism)")
def sequence_divides(model: Any, cp: Array, tp: Array, sequence_parallel: Array) -> Array:
    """Sequences are cut into equal parts."""
    if not model.pipelined:
        return 0.0
    return _divides(cp * np.where(sequence_parallel, tp, 1), model.seq_len)


@rule("1", "virtual_stages = {virtual_stages} needs schedule 1f1b or interleaved, pp > 1, and interleaved needs it")
def schedule_fits(schedule: Array, virtual_stages: Array, pp: Array) -> Array:
    """Interleaving is a form of 1F1B with more than one virtual stage on more than one stage."""
    apart = np.logical_and(np.not_equal(schedule, "1f1b"), np.not_equal(schedule, "interleaved"))
    alone = np.logical_or(apart, np.less_equal(pp, 1))
    excess = np.where(np.logical_and(np.greater(virtual_stages, 1), alone), virtual_stages - 1.0, 0.0)
    missing = np.logical_and(np.equal(schedule, "interleaved"), np.less(virtual_stages, 2))
    return -excess - np.where(missing, 1.0, 0.0)


@rule("1", "interleaving needs micro-batches ({micro_batches}) in multiples of pp = {pp}")
def interleaving_divides(virtual_stages: Array, micro_batches: Array, pp: Array) -> Array:
    """Megatron's interleaved schedule runs micro-batches in groups of pp."""
    return np.where(np.greater(virtual_stages, 1), _divides(pp, micro_batches), 0.0)


@rule("1", "zero_stage = {zero_stage} splits gradients, which pipelining (pp = {pp}) accumulates whole")
def zero_fits(zero_stage: Array, pp: Array) -> Array:
    """ZeRO 2 and 3 do not go with pipeline stages (as in DeepSpeed)."""
    return -1.0 * np.where(np.greater_equal(zero_stage, 2), pp - 1, 0)


@rule("1", "execution = comet has no pipeline: pp = {pp} must be 1")
def comet_unpipelined(execution: Array, pp: Array) -> Array:
    """COMET's loop runs model and data parallelism only."""
    return -1.0 * np.where(np.equal(execution, "comet"), pp - 1, 0)


@rule("1", "precision = {precision} is not supported by the accelerator's matrix engine")
def precision_supported(cluster: Any, precision: Array) -> Array:
    """The matrix engine has a rate for the data type."""
    peaks = cluster.accelerator.matrix
    engine = {"mxfp8": "fp8", "nvfp4": "fp4"}
    names = values_of(precision)
    return select(precision, {n: 0.0 if getattr(peaks, engine.get(n, n)) is not None else -1.0 for n in names})


@rule("1", "the network has fewer places than {devices} devices")
def network_reaches(cluster: Any, devices: Array) -> Array:
    """A network whose every dimension has a size holds at most their product."""
    if cluster.network.dimensions[-1].size is None:
        return 0.0
    places: Array = 1.0
    for dimension in cluster.network.dimensions:
        places = places * dimension.size
    return places - devices


@rule("B", "memory overflows: {tier_overflow}")
def memory_fits(tier_bytes: dict[str, Array], tier_capacity: dict[str, Array]) -> Array:
    """What is placed in each memory tier fits there."""
    worst: Array = np.inf
    for tier, held in tier_bytes.items():
        worst = np.minimum(worst, tier_capacity[tier] - held)
    return worst
