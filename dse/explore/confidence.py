"""How sure: intervals of a result's quantities, the nearest measured runs, and which of two designs is faster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.accuracy import features
from dse.accuracy.intervals import memory_half_width
from dse.accuracy.uncertainty import Interval, beyond, checked_level, probability_faster, ratio_deviation, widths
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    import pandas as pd

    from dse.cost.graph import Evaluation
    from dse.explore.result import Result

# Quantities that are proportional to the step time or its inverse, so that they share its relative error.
FROM_TIME = ("step_time", "tokens_per_s", "mfu", "hfu", "cost", "tokens_per_dollar")


def interval(result: Result, level: float = 0.9, quantity: str = "step_time") -> Interval:
    """Interval of a quantity, with the coverage ``level`` over publications that the constants had not seen.

    Args:
        result: one design or a space; the ends have the space's axes.
        level: from 0.5 to 0.95.
        quantity: ``step_time``, ``tokens_per_s``, ``mfu``, ``hfu``, ``cost``, ``tokens_per_dollar`` or
            ``memory_bytes``.

    Raises:
        SpecError: another quantity or level.
    """
    level = checked_level(level)
    if quantity not in (*FROM_TIME, "memory_bytes"):
        options = ", ".join((*FROM_TIME, "memory_bytes"))
        raise SpecError([Fault("quantity", repr(quantity)[:60], f"has no interval; those with one are {options}")])
    value = result[quantity] if result.axes else result.number(quantity)
    if quantity == "memory_bytes":
        half: Any = memory_half_width(level)
    else:
        halves = [half_width(cell.evaluation, level) for cell in result.cells]
        half = result.wrapped("half_width", halves) if result.axes else float(halves[0])
    reasons = () if result.axes else beyond(describe(result))
    low, high = value * np.exp(-half), value * np.exp(half)
    if not result.axes:
        low, high = float(low), float(high)
    return Interval(low, high, level, result.unit(quantity), reasons)


def half_width(evaluation: Evaluation, level: float) -> Any:
    """Half-width of the interval of the logarithm of the step time, broadcast over an evaluation's axes."""
    generation = evaluation.specs["cluster"].accelerator.generation
    classes = {"generation": "" if generation is None else generation, "stack": evaluation.specs["stack"].id}
    return widths(features.shares(evaluation), classes, level)


def describe(result: Result) -> dict[str, Any]:
    """Sizes and classes of one design.

    Raises:
        SpecError: the result has axes.
    """
    if result.axes:
        raise SpecError("this is of one design; choose one with .at(...)")
    evaluation = result.cells[0].evaluation
    return features.design(evaluation.specs, evaluation)


def nearest(result: Result, count: int = 5) -> pd.DataFrame:
    """The measured runs most like a design, with what the model gets wrong there."""
    from dse.accuracy.uncertainty import nearest as find

    return find(describe(result), count)


def nearest_records(result: Result, count: int = 3) -> list[dict[str, Any]]:
    """The nearest runs as plain data (None is unknown); empty where the calibration has no table of runs."""
    try:
        records = nearest(result, count).to_dict("records")
    except SpecError:
        return []
    return [{str(k): None if v != v else v for k, v in record.items()} for record in records]


@dataclass(frozen=True)
class Comparison:
    """Two designs side by side.

    Attributes:
        faster: P(a is faster than b).
        ratio: step time of a over that of b.
        low, high: ends of the 90 % interval of the ratio.
        shared: whether hardware generation and software stack agree, so that what the model gets wrong about them
            counts for neither.
        changed: input → (value in a, value in b).
        terms: a row a term of the step time: seconds of a, of b and the difference.
        notes: what is infeasible or beyond what was measured, and what is compared where the work differs.
    """

    faster: float
    ratio: float
    low: float
    high: float
    shared: bool
    changed: dict[str, tuple[Any, Any]]
    terms: pd.DataFrame
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        word = "shared errors cancelled" if self.shared else "other hardware or software: errors add up"
        lines = [
            f"P(a is faster than b) = {self.faster:.0%}; a takes {self.ratio:.3f} of b's time "
            f"(90 %: {self.low:.3f} to {self.high:.3f}; {word})",
            *(f"note: {note}" for note in self.notes),
            "",
            *_shown(self.changed),
            "",
            self.terms.to_string(float_format=lambda v: f"{v:.4g}"),
        ]
        return "\n".join(lines)


def compare(a: Result, b: Result) -> Comparison:
    """Which of two designs is faster, and how sure that is.

    Only equal work compares: the same model and global batch, else tokens per second are compared.

    Raises:
        SpecError: a result has axes, or the models are not the same.
    """
    import pandas as pd

    models = [result.specs["model"] for result in (a, b)]
    if models[0].id != models[1].id:  # type: ignore[attr-defined]
        raise SpecError([Fault("model", f"{models[0].id} and {models[1].id}", "only runs of one model compare")])  # type: ignore[attr-defined]

    sides = []
    for result in (a, b):
        design = describe(result)
        evaluation = result.cells[0].evaluation
        per_token = 1.0 / float(evaluation["tokens_per_s"])
        sides.append((per_token, features.shares(evaluation), design))
    sigma, shared = ratio_deviation(sides[0], sides[1])
    changed = changes(a, b)
    sigma = sigma if changed else 1e-12  # the same design
    ratio = sides[0][0] / sides[1][0]
    terms = pd.DataFrame({"a [s]": a.breakdown("time"), "b [s]": b.breakdown("time")}).fillna(0.0)
    terms["difference [s]"] = terms["a [s]"] - terms["b [s]"]
    spread = np.exp(1.645 * sigma)
    faster = float(probability_faster(sides[0], sides[1])) if changed else 0.5
    kept = terms[(terms != 0).any(axis=1)]
    return Comparison(faster, ratio, ratio / spread, ratio * spread, shared, changed, kept, _notes(a, b))


def _notes(a: Result, b: Result) -> tuple[str, ...]:
    """Reasons not to trust a comparison."""
    found = []
    for name, result in (("a", a), ("b", b)):
        found += [f"{name} is infeasible: {reason['why']}" for reason in result.reasons()]
        found += [f"{name} extrapolates: {reason}" for reason in beyond(describe(result))]
    batches = [result.specs["strategy"].global_batch for result in (a, b)]  # type: ignore[attr-defined]
    if batches[0] != batches[1]:
        found.append("the global batches differ: times are compared per token, the terms below are per step")
    return tuple(found)


def _shown(changed: dict[str, tuple[Any, Any]], most: int = 20) -> list[str]:
    lines = [f"  {name}: {left} -> {right}" for name, (left, right) in changed.items()]
    return lines if len(lines) <= most else [*lines[:most], f"  ... and {len(lines) - most} more inputs"]


def changes(a: Result, b: Result) -> dict[str, tuple[Any, Any]]:
    """Inputs that differ, by their dotted path."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in ("model", "cluster", "strategy", "stack"):
        left, right = (_flat(result.specs[name].model_dump(), name) for result in (a, b))
        for path in dict.fromkeys([*left, *right]):
            if left.get(path) != right.get(path):
                found[path] = (left.get(path), right.get(path))
    return found


def _flat(data: Any, path: str) -> dict[str, Any]:
    if isinstance(data, dict):
        items = [(key, value) for key, value in data.items() if key not in ("sources", "name")]
        return {p: v for key, value in items for p, v in _flat(value, f"{path}.{key}").items()}
    if isinstance(data, list | tuple) and data and isinstance(data[0], dict):
        return {p: v for i, value in enumerate(data) for p, v in _flat(value, f"{path}.{value.get('name', i)}").items()}
    return {path: data}
