"""Sensitivity at one design: what each number of the hardware does to a quantity, in large steps and in small ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.explore.evaluate import RULES
from dse.explore.result import Result
from dse.explore.sensitivity.factors import BoundFactor, Factor, bind, hardware_inputs, legal_range
from dse.explore.sensitivity.samples import (
    Search,
    evaluate,
    evaluate_arrays,
    quantity_output,
    require_all,
    search_of,
    single,
)
from dse.explore.sensitivity.text import as_text, columns_of
from dse.space.axes import locate
from dse.units import engineering

if TYPE_CHECKING:
    import pandas as pd

SAME = 1e-12  # relative difference below which a quantity has not changed


@dataclass(frozen=True)
class Tornado:
    """A quantity at both ends of each input, all others kept; the widest swing first.

    Attributes:
        quantity, unit, base: the quantity, its SI unit, and its value at the design.
        table: a row an input: ``input``, ``unit``, ``value``, ``low``, ``high`` (SI, in ``unit``), the quantity at
            both ends, its ``swing`` in all, and ``note`` where an end breaks (or mends) a rule.
    """

    quantity: str
    unit: str
    base: float
    table: pd.DataFrame

    def __str__(self) -> str:
        rows = []
        for _, row in columns_of(self.table).iterrows():
            ends = [engineering(row[end], row["unit"]) if row["unit"] else str(row[end]) for end in ("low", "high")]
            values = [engineering(row[name], self.unit) for name in ("at_low", "at_high", "swing")]
            rows.append([row["input"], *ends, *values, row["note"]])
        head = f"{self.quantity} = {engineering(self.base, self.unit)} at the design"
        header = ["input", "low", "high", "at low", "at high", "swing", ""]
        return f"{head}\n{as_text(header, rows)}"


def tornado(
    design: Result,
    inputs: Sequence[str] | Mapping[str, tuple[Any, Any]] | None = None,
    *,
    by: float = 0.2,
    quantity: str = "step_time",
    reoptimize: bool | Search = False,
) -> Tornado:
    """Vary the inputs one at a time, and see how far a quantity swings; all points are priced at once.

    Args:
        design: one design.
        inputs: paths of numbers to vary by ``by``, or a mapping of paths to their own low and high; by default every
            positive number of the cluster and the software stack. Inputs without effect are left out of the default.
        by: relative step to both sides; ends are kept within the range that a field may take.
        quantity: what is watched.
        reoptimize: take the best strategy at each point, instead of the design's.

    Raises:
        SpecError: an unknown path or quantity, a value out of range, or an input that is not a positive number.
        InfeasibleDesign: with ``reoptimize``, a point has no feasible strategy.
    """
    import pandas as pd

    single(design)
    if not 0 < by < 1:
        raise SpecError([Fault("by", f"{by!r}"[:40], "must be above 0 and below 1")])
    search = search_of(reoptimize)
    bound = _ends(design, inputs, by)
    count = 1 + 2 * len(bound)
    columns = []
    for i in range(len(bound)):  # the design itself, then the two ends of each input
        column = np.zeros(count, dtype=np.int64)
        column[1 + 2 * i], column[2 + 2 * i] = 1, 2
        columns.append(column)
    outputs = {"value": quantity_output(design, quantity)}
    outputs |= {rule: lambda evaluation, rule=rule: evaluation[rule] for rule in RULES}
    found = evaluate(design, bound, columns, outputs, search)
    require_all(found)
    value, base = found["value"], float(found["value"][0])
    rows = []
    for i, b in enumerate(bound):
        low, high = 1 + 2 * i, 2 + 2 * i
        note = "; ".join(filter(None, (_note(found, low, "low"), _note(found, high, "high"))))
        moved = np.max(np.abs(value[[low, high]] - base)) > SAME * abs(base)
        if moved or note or inputs is not None:
            at = [float(value[low]), float(value[high])]
            swing = max(*at, base) - min(*at, base)
            rows.append([b.path, b.unit, *(b.labels[k] for k in (0, 1, 2)), *at, swing, note])
    unit = design.unit(quantity)
    names = [
        "input",
        "unit",
        "value",
        "low",
        "high",
        *(f"{n} [{unit}]" for n in ("at_low", "at_high", "swing")),
        "note",
    ]
    table = pd.DataFrame(rows, columns=names)
    table = table.sort_values([names[7], "input"], ascending=[False, True], ignore_index=True)
    return Tornado(quantity, unit, base, table)


def _ends(design: Result, inputs: Any, by: float) -> list[BoundFactor]:
    """A factor for each input, with the levels (design's value, low end, high end)."""
    paths = hardware_inputs(design.specs) if inputs is None else [inputs] if isinstance(inputs, str) else list(inputs)
    factors = []
    for path in paths:
        own = bind(design.specs, [Factor(path, values=(_value_at(design, path),))])[0]
        value = own.levels[0]
        if isinstance(inputs, Mapping):
            ends = bind(design.specs, [Factor(path, values=tuple(inputs[path]))])[0].levels
            if len(ends) != 2:
                raise SpecError([Fault(path, str(inputs[path])[:60], "must be a low and a high value")])
        else:
            if isinstance(value, bool) or not isinstance(value, float) or value <= 0:
                rule = "is not a positive quantity; give its low and high value"
                raise SpecError([Fault(path, str(value)[:60], rule)])
            least, most = legal_range(own.place)
            ends = (max(value * (1.0 - by), least), min(value * (1.0 + by), most))
        levels = (value, *ends)
        structural = own.structural or bind(design.specs, [Factor(path, values=tuple(ends))])[0].structural
        factors.append(BoundFactor(own.factor, own.place, own.path, levels, own.low, own.high, structural))
    return factors


def _value_at(design: Result, path: str) -> Any:
    """The design's own value of a field."""
    from dse.spec.strategy import Strategy

    place = locate(f"strategy.{path}" if path in Strategy.model_fields else path, design.specs)
    return getattr(place.parent, place.field) if place.steps else design.specs[place.root]


def _note(found: Mapping[str, np.ndarray], index: int, end: str) -> str:
    """Rules whose verdict at a point is not that at the design."""
    broken = [rule for rule in RULES if found[rule][index] < 0 <= found[rule][0]]
    mended = [rule for rule in RULES if found[rule][0] < 0 <= found[rule][index]]
    parts = [f"breaks {', '.join(broken)}"] * bool(broken) + [f"mends {', '.join(mended)}"] * bool(mended)
    return f"{end} {' and '.join(parts)}" if parts else ""


# -- elasticities -------------------------------------------------------------------------------------------

STEPS = 0.01 * 0.5 ** np.arange(11)  # steps in ln x: from 1 % down to 1e-5
KINK = 1e-5  # difference of left and right elasticity from which a point is a kink


@dataclass(frozen=True)
class Elasticities:
    """Percent that a quantity changes for one percent more of each input, at one design.

    Attributes:
        table: a row an input: ``elasticity`` (the mean of both sides at a kink), ``left`` and ``right`` (towards less
            and more of the input), ``error`` (estimated), and ``kind``: "smooth", "kink" where a maximum or minimum
            changes over at the design itself, "jump" where the quantity steps there (no elasticity on that side), and
            "local" where a kink or step lies so near that the elasticity holds for changes of less than 1 % only.
    """

    quantity: str
    unit: str
    base: float
    table: pd.DataFrame

    def __str__(self) -> str:
        rows = [
            [
                row["input"],
                engineering(row["value"], row["unit"]),
                *(f"{row[name]:+.4f}" if np.isfinite(row[name]) else "-" for name in ("elasticity", "left", "right")),
                row["kind"] if row["kind"] != "smooth" else "",
            ]
            for _, row in self.table.iterrows()
        ]
        head = f"% of {self.quantity} ({engineering(self.base, self.unit)}) per % of the input"
        return f"{head}\n{as_text(['input', 'value', 'elasticity', 'left', 'right', ''], rows)}"


def elasticities(design: Result, inputs: Sequence[str] | None = None, *, quantity: str = "step_time") -> Elasticities:
    """d ln q / d ln x of a quantity q for each input x, from both sides.

    One-sided differences over eleven steps in ln x, from 1 % halved each time, are extrapolated to the step 0 (Ridders
    1982: Neville's table, the entry with the least estimated error). All points are priced at once.

    Args:
        design: one design.
        inputs: paths of positive numbers; by default all of the hardware's and the stack's that have an effect.
        quantity: a positive quantity.

    Raises:
        SpecError: an unknown path or quantity, an input or a quantity that is not positive.
    """
    import pandas as pd

    single(design)
    chosen = hardware_inputs(design.specs) if inputs is None else [inputs] if isinstance(inputs, str) else list(inputs)
    places = [locate(path, design.specs) for path in chosen]
    base = [getattr(p.parent, p.field) if p.steps else None for p in places]
    faults = [
        Fault(path, str(x)[:40], "has no elasticity: it is not a positive quantity")
        for path, x in zip(chosen, base, strict=True)
        if isinstance(x, bool) or not isinstance(x, float) or x <= 0
    ]
    if faults:
        raise SpecError(faults)
    offsets = np.concatenate([[0.0], STEPS, -STEPS])
    count = len(offsets) * len(chosen)
    changes = []
    for i, (place, x) in enumerate(zip(places, base, strict=True)):
        values = np.full(count, float(x))
        values[i * len(offsets) : (i + 1) * len(offsets)] = x * np.exp(offsets)
        changes.append((place, values))
    q = evaluate_arrays(design, design.specs, changes, count, {"q": quantity_output(design, quantity)})["q"]
    if count and not np.all(q > 0):
        raise SpecError([Fault("quantity", quantity, f"must be positive to have elasticities; it is {q.min():g}")])
    logs = np.log(q).reshape(len(chosen), len(offsets))
    logs = logs - logs[:, :1]
    kept = np.max(np.abs(logs), axis=1, initial=0.0) > SAME if inputs is None else np.ones(len(chosen), dtype=bool)
    n = len(STEPS)
    sides = [_side(logs[kept, 1 : n + 1] / STEPS), _side(-logs[kept, n + 1 :] / STEPS)]
    numbers = [(p, x, pl.unit) for p, x, pl, k in zip(chosen, base, places, kept, strict=True) if k]
    rows = [
        [path, unit, x, *_row(*(float(v[i]) for side in sides for v in side))]
        for i, (path, x, unit) in enumerate(numbers)
    ]
    table = pd.DataFrame(rows, columns=["input", "unit", "value", "elasticity", "left", "right", "error", "kind"])
    order = np.lexsort((table["input"], -table["elasticity"].abs().fillna(np.inf)))
    return Elasticities(
        quantity, design.unit(quantity), float(design[quantity]), table.iloc[order].reset_index(drop=True)
    )


def _side(slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Extrapolate difference quotients (n, steps) to the step 0.

    Returns:
        The limit and its estimated error; whether the quantity steps at the point itself; whether it bends
        or steps within 1 %.
    """
    table = [slopes]
    for order in range(1, slopes.shape[1]):
        previous = table[-1]
        table.append(previous[:, 1:] + (previous[:, 1:] - previous[:, :-1]) / (2.0**order - 1.0))
    best, error = slopes[:, -1].copy(), np.abs(slopes[:, -1] - slopes[:, -2])
    for previous, current in pairwise(table):
        for k in range(current.shape[1]):
            guess = np.maximum(np.abs(current[:, k] - previous[:, k]), np.abs(current[:, k] - previous[:, k + 1]))
            better = guess < error
            best, error = np.where(better, current[:, k], best), np.where(better, guess, error)
    steps = np.stack([_at_zero(slopes * STEPS, back) for back in (0, 1)])  # what is left of the change at step 0
    jump = (np.min(np.abs(steps), axis=0) > 1e-9) & (np.abs(steps[0] - steps[1]) < 0.05 * np.abs(steps[0]))
    coarse = table[2][:, 0]
    near = ~jump & (np.abs(best - coarse) > 1e-3 * (1.0 + np.abs(best)))
    return np.where(jump, np.nan, best), np.where(jump, np.nan, error), jump, near


def _at_zero(changes: np.ndarray, back: int) -> np.ndarray:
    """Changes over three steps in a row, each half the one before, extrapolated to the step 0 (exact for parabolas)."""
    whole, half, quarter = (changes[:, changes.shape[1] - 1 - back - k] for k in (2, 1, 0))
    return (8.0 * quarter - 6.0 * half + whole) / 3.0


def _row(*values: float) -> tuple[float, float, float, float, str]:
    """Elasticity, left, right, error and kind from (limit, error, jump, near) of the right and of the left side."""
    right, right_error, right_jump, right_near, left, left_error, left_jump, left_near = values
    error = max(right_error, left_error)
    if right_jump or left_jump:
        return (
            float(np.nanmean([left, right])) if not (right_jump and left_jump) else np.nan,
            left,
            right,
            error,
            "jump",
        )
    if abs(right - left) > KINK + 10.0 * error:
        return (left + right) / 2.0, left, right, error, "kink"
    return (left + right) / 2.0, left, right, error, "local" if right_near or left_near else "smooth"
