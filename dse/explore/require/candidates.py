"""Whole numbers that a field can take: what the specification allows, and counts that devices can be dealt to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.explore.require.field import Field, roundest
from dse.space.axes import with_value
from dse.space.enumerate import default_options, divisors, powers_of_two

MOST_CHECKED = 512  # values whose whole specification is validated
DEVICES = ("cluster", ("devices",))


def usable(item: Field, specs: Mapping[str, Any], choice: Mapping[str, Any] | None) -> Field:
    """The field with the whole numbers that can be legal; the same field where real numbers are.

    Raises:
        SpecError: there is none in the range.
    """
    if item.whole is None or item.place.root not in ("cluster", "model"):
        return item
    if (item.place.root, item.place.steps) == DEVICES:
        whole = item.whole if choice is None else device_counts(item, specs, choice)
        return _checked(item, whole, "no number of devices in the range can be split into equal groups of whole nodes")
    values, root = np.asarray(item.whole), specs[item.place.root]
    few = len(values) <= MOST_CHECKED
    tried = values if few else roundest(values, MOST_CHECKED)
    kept = [int(value) for value in tried if _valid(with_value(root, item.place.steps, int(value)))]
    if not few and len(kept) == len(tried):  # round numbers fit, and if their neighbours do too, it takes any
        odd = np.setdiff1d(np.clip(tried - 1, values[0], None), tried)
        if all(_valid(with_value(root, item.place.steps, int(value))) for value in odd):
            return item
    found = _checked(item, kept, "no value in the range fits the rest of the specification")
    return replace(found, complete=few)


def _checked(item: Field, whole: Any, rule: str) -> Field:
    if not len(whole):
        raise SpecError([Fault(item.path, f"{item.low:.0f} to {item.high:.0f}", rule)])
    return replace(item, whole=whole)


def _valid(spec: Any) -> bool:
    try:
        type(spec).parse(spec.model_dump())
    except SpecError:
        return False
    return True


def device_counts(item: Field, specs: Mapping[str, Any], choice: Mapping[str, Any]) -> list[int]:
    """Counts tp·pp·cp·dp in the range with dp a divisor of the global batch, in whole nodes where more than one.

    Degrees that the model cannot be split into are left to the rules; this only leaves out counts that no strategy
    can use. Fields given as options or in the base take only those values.
    """
    model, cluster = specs["model"], specs["cluster"]
    given = {**{k: [v] for k, v in choice["base"].items()}, **(choice["options"] or {})}
    inner = default_options(model, cluster, int(item.high), choice["global_batch"])
    tensor = range(1, int(max(inner["tp"])) + 1) if model.tensor_parallel else [1]
    stages = range(1, int(model.depth) + 1) if model.pipelined else [1]
    degrees: dict[str, Any] = {"tp": tensor, "pp": stages, "cp": powers_of_two(16) if "cp" in inner else [1]}
    counts = np.array([1])
    for name, values in degrees.items():
        chosen = np.array([int(v) for v in given.get(name, values)])
        counts = np.unique(np.outer(counts, chosen))
        counts = counts[counts <= item.high]
    batches = np.array(divisors(int(choice["global_batch"])))
    counts = np.unique(np.outer(counts, batches))
    nodes = cluster.node.devices
    whole = (counts % nodes == 0) | ((counts < nodes) & (nodes % np.maximum(counts, 1) == 0))
    return counts[(counts >= item.low) & (counts <= item.high) & whole].tolist()
