"""What the error of a prediction depends on: where the time goes, and what kind of design it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dse.accuracy.corpus import Batch
from dse.cost.arrays import total

# Terms of the step time by the kind of model that predicts them; their errors are taken to be independent.
KINDS: dict[str, tuple[str, ...]] = {
    "compute": ("forward", "recompute", "input_grad", "weight_grad"),
    "host": ("host_forward", "host_backward"),
    "inner": ("tp_comm_forward", "tp_comm_backward", "cp_comm", "ep_comm"),
    "pipeline": ("pp_comm", "imbalance", "bubble"),
    "replicas": ("dp_comm", "optimizer", "offload", "stragglers"),
}
# Sizes of a design, compared by their logarithm.
SIZES = ("devices", "parameters", "seq_len", "tp", "pp", "dp", "cp", "ep", "micro_batch")
# What either agrees or does not.
CLASSES = ("generation", "stack", "precision", "recompute", "attention", "experts")


def shares(evaluation: Any, shape: tuple[int, ...] | None = None) -> dict[str, np.ndarray]:
    """Share of the step time by kind, keyed ``share.<kind>``; adds up to one."""
    terms = evaluation["breakdown"]
    time = evaluation["step_time"]
    found = {f"share.{kind}": total(terms.get(name, 0.0) for name in names) / time for kind, names in KINDS.items()}
    if shape is None:
        return found
    return {name: np.broadcast_to(value, shape) for name, value in found.items()}


def design(specs: Mapping[str, Any], evaluation: Any) -> dict[str, Any]:
    """Sizes and classes of one design."""
    model, cluster, strategy, stack = (specs[name] for name in ("model", "cluster", "strategy", "stack"))
    generation = cluster.accelerator.generation
    sizes = {name: getattr(strategy, name) for name in ("tp", "pp", "cp", "ep", "micro_batch")}
    return {
        **sizes,
        "dp": evaluation["data_parallel"],
        "devices": evaluation["devices"],
        "parameters": model.parameters(),
        "seq_len": getattr(model, "seq_len", 1),
        "generation": "" if generation is None else generation,
        "stack": stack.id,
        "precision": strategy.precision,
        "recompute": strategy.recompute,
        "attention": strategy.attention,
        "experts": getattr(model, "moe", None) is not None,
    }


def describe(batch: Batch, evaluation: Any) -> dict[str, np.ndarray]:
    """Sizes and classes of a batch of runs."""
    count = (len(batch.ids),)
    found = design({**batch.specs, "stack": batch.runs[0].stack}, evaluation)
    found["generation"] = np.array([run.cluster.accelerator.generation or "" for run in batch.runs])
    found["stack"] = np.array([run.stack.id for run in batch.runs])
    return {name: np.broadcast_to(np.asarray(value), count) for name, value in found.items()}
