"""Pipelines: stages, uneven stages, and the bubble of each schedule."""

from __future__ import annotations

from typing import Any

import numpy as np

from dse.cost.arrays import Array, select
from dse.cost.graph import quantity


@quantity("1", "global_batch / (dp · micro_batch)")
def micro_batches(global_batch: Array, data_parallel: Array, micro_batch: Array) -> Array:
    """Micro-batches that each pipeline runs per step (a rule asks that it is a whole number)."""
    return np.maximum(np.ceil(global_batch / (data_parallel * micro_batch) - 1e-9), 1.0)


@quantity("1", "ceil(L / (p·v)) · v")
def stage_layers(model: Any, pp: Array, virtual_stages: Array) -> Array:
    """Layers of the fullest stage; stages are uneven where p·v does not divide L."""
    return np.minimum(np.ceil(model.depth / (pp * virtual_stages)) * virtual_stages, model.depth)


def bubble_time(
    schedule: Array, pp: Array, virtual_stages: Array, mean: Array, slowest: Array, weight_grad: Array
) -> Array:
    """Idle time of the slowest stage in one step, in seconds.

    With t̄ the time of one micro-batch on the mean stage (forward and backward), t_max on the slowest and T_W the
    weight-gradient part of t̄::

        GPipe, 1F1B:    p·t̄ − t_max               (= (p−1)·t̄ for equal stages)
        interleaved:    (p·t̄ − t_max) / v
        ZB-H1:          p·t̄ − t_max − 2(p−1)·T_W
        ZB-H2:          p·t̄ − t_max − 3(p−1)·T_W

    never below zero. Source: Narayanan et al. SC'21 §2.2; Qi et al., Zero Bubble Pipeline Parallelism, table 1.
    Uneven stages are re-derived: the first micro-batch crosses all stages, the others pass at the slowest one's pace.
    """
    fill = pp * mean - slowest
    deferred = (pp - 1.0) * weight_grad
    one_f_one_b = fill / virtual_stages
    idle = select(
        schedule,
        {
            "gpipe": fill,
            "1f1b": one_f_one_b,
            "interleaved": one_f_one_b,
            "zero_bubble_h1": fill - 2.0 * deferred,
            "zero_bubble_h2": fill - 3.0 * deferred,
        },
    )
    return np.maximum(idle, 0.0)
