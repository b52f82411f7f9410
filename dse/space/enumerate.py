"""Enumeration: the axes of all strategies for a model on a number of devices."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dse.errors import Fault, SpecError
from dse.space.axes import Axis, axis
from dse.spec.strategy import Strategy

LONG_SEQUENCE = 16_384  # from here on, context parallelism is worth an axis by default


def divisors(number: int, limit: int | None = None) -> list[int]:
    """Divisors in rising order, none above ``limit``."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    every = sorted({*small, *(number // d for d in small)})
    return [d for d in every if limit is None or d <= limit]


def powers_of_two(limit: int) -> list[int]:
    """1, 2, 4, ... up to ``limit``."""
    return [1 << i for i in range(max(limit, 1).bit_length()) if 1 << i <= max(limit, 1)]


def default_options(model: Any, cluster: Any, devices: int, global_batch: int) -> dict[str, list[Any]]:
    """Values that are tried for each field of the strategy, outermost loop first.

    Tensor parallelism stays within the innermost network dimension's size (times two), data parallelism follows from
    the rest. Families without layers or columns to split get one value.
    """
    inner = cluster.network.dimensions[0].size or devices
    layers = int(model.depth)
    experts = getattr(model, "moe", None)
    options: dict[str, list[Any]] = {
        "pp": divisors(devices, layers) if model.pipelined else [1],
        "tp": divisors(devices, min(2 * inner, devices)) if model.tensor_parallel else [1],
        "micro_batch": powers_of_two(min(global_batch, 16 if model.pipelined else global_batch)),
        "virtual_stages": [v for v in (1, 2, 3, 4, 6, 8) if v <= layers] if model.pipelined else [1],
        "recompute": ["none", "selective", "full"] if model.pipelined else ["none"],
        "zero_stage": [0, 1, 2, 3],
        "sequence_parallel": [False, True] if model.tensor_parallel and model.pipelined else [False],
    }
    if experts is not None:
        options["ep"] = [d for d in divisors(int(experts.experts)) if devices % d == 0]
    if model.pipelined and model.units_per_sample >= LONG_SEQUENCE:
        options["cp"] = [d for d in powers_of_two(16) if devices % d == 0]
    return options


def strategy_axes(
    model: Any,
    cluster: Any,
    devices: int,
    global_batch: int,
    chosen: Mapping[str, Sequence[Any]] | None = None,
    fixed: Collection[str] = (),
) -> list[Axis]:
    """Axes of the strategy space: the defaults without the ``fixed`` fields, those in ``chosen`` replaced or added.

    Raises:
        SpecError: a field that is not one of the strategy's, or no values for it.
    """
    options = default_options(model, cluster, devices, global_batch)
    options = {name: values for name, values in options.items() if name not in fixed}
    for name, values in (chosen or {}).items():
        if name not in Strategy.model_fields:
            raise SpecError([Fault(f"options.{name[:40]}", "", "is not a field of the strategy")])
        options[name] = list(values) if isinstance(values, list | tuple | range) else [values]
    return [axis(name, values) for name, values in options.items()]
