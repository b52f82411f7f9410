"""Symmetric designs: values of a strategy's fields that cannot matter, given the other fields.

A rule is a function named as its field. It takes one value of the field and, by name, what decides whether that
value matters: other fields of the strategy, quantities of the cost model, or the model. It returns the value that
stands for the given one. Two designs with the same :func:`canonical` form have the same memory, step time, energy,
cost and legality. The rules hold for the Megatron-style step and the cost model's own equations.

No rule comes out differently once another has replaced a value, so that rules can be applied in any order, and the
designs that are alike form a product of values on the axes of a space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from itertools import permutations
from typing import Any

import numpy as np

from dse.cost.arrays import Array
from dse.cost.pipeline import micro_batches
from dse.spec.strategy import GROUPS, Strategy

Rule = Callable[..., Array]
RULES: dict[str, Rule] = {}


def rule(function: Rule) -> Rule:
    """Declare the rule of the field that the function is named after."""
    RULES[function.__name__] = function
    return function


@rule
def sequence_parallel(value: bool, tp: Array) -> Array:
    """One rank holds whole sequences either way: every use is through ``tp`` or a collective of a group of one."""
    return np.logical_and(np.greater(tp, 1), value)


@rule
def overlap_tp(value: bool | None, tp: Array) -> Array:
    """A group of one exchanges nothing that could hide. (None, what the stack does, is neither of the others.)"""
    return np.where(np.greater(tp, 1), value, False)


@rule
def partition_checkpoints(value: bool, tp: Array, sequence_parallel: Array, recompute: Array) -> Array:
    """Only full recomputation keeps checkpoints; sequence parallelism has cut them already."""
    kept_whole = np.logical_and(np.equal(recompute, "full"), np.logical_not(sequence_parallel))
    return np.logical_and(np.logical_and(np.greater(tp, 1), kept_whole), value)


@rule
def overlap_pp(value: bool | None, pp: Array) -> Array:
    """One stage sends nothing. (None, what the stack does, is neither of the others.)"""
    return np.where(np.greater(pp, 1), value, False)


@rule
def schedule(value: str, pp: Array, virtual_stages: Array, micro_batches: Array) -> Array:
    """Interleaved is 1F1B with several virtual stages. Without any, one micro-batch passes GPipe as it does 1F1B;
    zero-bubble schedules of one stage hold one micro-batch and idle not at all, as does 1F1B."""
    alike: Array = False
    if value == "interleaved":
        alike = np.greater(virtual_stages, 1)
    elif value == "gpipe":
        alike = np.logical_and(np.less_equal(micro_batches, 1), np.less_equal(virtual_stages, 1))
    elif value != "1f1b":
        alike = np.less_equal(pp, 1)
    return np.where(alike, "1f1b", value)


@rule
def zero_stage(value: int, data_parallel: Array, cp: Array, pp: Array, shard_group: Array) -> Array:
    """Stages 1 and 2 divide by the number of replicas, so by one. (Stage 3 also gathers layers into buffers, 2 is
    illegal with pipeline stages, and shard groups ask for a stage above 0.)"""
    alone = np.logical_and(np.less_equal(data_parallel * cp, 1), np.equal(shard_group, 0))
    if value == 2:
        alone = np.logical_and(alone, np.less_equal(pp, 1))
    return np.where(np.logical_and(alone, value < 3), 0, value)


@rule
def overlap_dp(value: bool, data_parallel: Array, cp: Array) -> Array:
    """One replica reduces and gathers nothing."""
    return np.logical_or(np.less_equal(data_parallel * cp, 1), value)


@rule
def overlap_ep(value: bool, ep: Array, model: Any) -> Array:
    """Without expert parallelism no tokens travel (recommenders exchange embeddings, which this hides too)."""
    return np.logical_and(np.greater(ep, 1), value) if model.pipelined else np.asarray(value)


@rule
def capacity_factor(value: float, model: Any) -> Array:
    """A limit on the tokens of an expert; without experts there are none."""
    return np.asarray(1.0 if getattr(model, "moe", None) is None else value)


@rule
def context(value: str, cp: Array) -> Array:
    """Whole sequences are not passed around. (The heads that an exchange must divide, tp divides already.)"""
    return np.where(np.greater(cp, 1), value, "ring")


@rule
def overlap_offload(value: bool, offload_weights: Array, offload_gradients: Array, offload_activations: Array) -> Array:
    """Nothing is moved where weights, gradients and activations are all local."""
    local = [np.equal(place, "local") for place in (offload_weights, offload_gradients, offload_activations)]
    return np.logical_or(np.logical_and(np.logical_and(*local[:2]), local[2]), value)


@rule
def hybrid_bandwidth(value: str, memory_expansion: Array) -> Array:
    """How the bandwidths of two memories combine matters where a footprint may overflow into the second."""
    return np.where(np.equal(memory_expansion, "spread"), value, "harmonic")


def _orders() -> np.ndarray:
    """Full placement orders by code: the groups that matter as digits in base 5, the others after them."""
    table = np.full(5**4, "-".join(GROUPS), dtype="U11")
    for count in range(5):
        for chosen in permutations(GROUPS, count):
            code = 0
            for name in chosen:
                code = 5 * code + GROUPS.index(name) + 1
            table[code] = "-".join([*chosen, *(name for name in GROUPS if name not in chosen)])
    return table


_ORDERS = _orders()


@rule
def placement(
    value: str, tp: Array, cp: Array, data_parallel: Array, pp: Array, shard_group: Array, model: Any
) -> Array:
    """A group of one takes no room, wherever it stands; but experts and shard groups start at the inner one of dp
    and cp, whatever its size."""
    anchored = np.not_equal(shard_group, 0)
    if getattr(model, "moe", None) is not None:
        anchored = np.logical_or(anchored, True)
    matters = {
        "tp": np.greater(tp, 1),
        "cp": np.logical_or(np.greater(cp, 1), anchored),
        "dp": np.logical_or(np.greater(data_parallel, 1), anchored),
        "pp": np.greater(pp, 1),
    }
    code: Array = np.asarray(0)
    for name in value.split("-"):
        code = np.where(matters[name], 5 * code + GROUPS.index(name) + 1, code)
    return _ORDERS[code]


def _needs(function: Rule) -> list[str]:
    return [name for name in signature(function).parameters if name != "value"]


def canonical(strategy: Mapping[str, Any], data_parallel: float, model: Any) -> dict[str, Any]:
    """The strategy with every value that cannot matter replaced by the one that stands for it.

    Args:
        strategy: fields of one strategy; those left out have their defaults.
        data_parallel: its replicas (``dp``, or devices / (tp · pp · cp)).
        model: the workload.
    """
    fields = {name: field.default for name, field in Strategy.model_fields.items()} | dict(strategy)
    known = {**fields, "data_parallel": data_parallel, "model": model}
    known["micro_batches"] = micro_batches.function(fields["global_batch"], data_parallel, fields["micro_batch"])
    changed = {
        name: np.asarray(function(fields[name], **{need: known[need] for need in _needs(function)})).item()
        for name, function in RULES.items()
    }
    return {**fields, **changed}


def representatives(axes: Sequence[tuple[str, Sequence[Any]]], values: Callable[[str], Array]) -> list[np.ndarray]:
    """Masks of the designs that stand for all that are like them: the first in the axes' order.

    Args:
        axes: name of the strategy's field ("" for a field of another specification) and values of each axis.
        values: what the rules need by name, each as an array on these axes.

    Returns:
        Boolean arrays that broadcast against the space, each on the few axes that it depends on. A design stands
        for its class where all are true.
    """
    masks = []
    for position, (name, given) in enumerate(axes):
        if name not in RULES or len(given) < 2:
            continue
        function = RULES[name]
        conditions = {need: values(need) for need in _needs(function)}
        forms = [np.asarray(function(value, **conditions)) for value in given]
        shape = np.broadcast_shapes(*(form.shape for form in forms), (1,) * len(axes))
        first = np.ones((len(given), *shape), dtype=bool)
        for i, form in enumerate(forms):
            for other in forms[:i]:
                first[i] &= np.not_equal(form, other)
        if not first.all():
            masks.append(np.concatenate(list(first), axis=position))
    return masks
