"""Points of a design space along one sample axis: any fields vary at once, and all points are priced together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dse.cost.graph import Evaluation
from dse.errors import Fault, InfeasibleDesign, SpecError
from dse.explore.best import Space
from dse.explore.evaluate import bind_axes, feasible, price, violations, with_stack
from dse.explore.forecast import spread
from dse.explore.objectives import Objective
from dse.explore.objectives import objective as parse_objective
from dse.explore.result import Result
from dse.explore.sensitivity.factors import BoundFactor
from dse.explore.sensitivity.forecast import planned, planning
from dse.space.axes import Place, axis, locate, with_value
from dse.space.enumerate import default_options
from dse.spec.strategy import Strategy

CHUNK = 1 << 13  # points priced at once: their arrays fit in the cache
BLOCK = 1 << 20  # strategies of points priced at once
Outputs = Mapping[str, Callable[[Evaluation], Any]]


@dataclass(frozen=True)
class Search:
    """How the strategy follows each point: by enumeration of all of them.

    Attributes:
        objective: what the best strategy has the least (or most) of: any text that
            :func:`dse.explore.objectives.objective` reads, such as ``"mfu"``, ``"min power"`` or ``"step_time@90%"``.
        options: values to try for strategy fields, instead of the defaults.
        memory: whether a strategy must fit in memory.
    """

    objective: str | Objective = "step_time"
    options: Mapping[str, Sequence[Any]] | None = None
    memory: bool = True

    def __post_init__(self) -> None:
        parse_objective(self.objective)  # faults of the text, now rather than later

    def scores(self, evaluation: Evaluation) -> Any:
        """The objective of each strategy, negated where more is better: the least is best. Infinite where there is no
        number."""
        goal = parse_objective(self.objective)
        value = goal.sign * np.asarray(goal.value(evaluation), dtype=float)
        return np.where(np.isnan(value), np.inf, value)

    def allowed(self, evaluation: Evaluation) -> Any:
        """True where a strategy satisfies the rules."""
        margins = violations(evaluation)
        return feasible({name: m for name, m in margins.items() if self.memory or name != "memory_fits"})


def search_of(reoptimize: bool | Search) -> Search | None:
    """The search that ``reoptimize`` asks for: none, the default one, or a given one."""
    return reoptimize if isinstance(reoptimize, Search) else Search() if reoptimize else None


def single(design: Result) -> Result:
    """The design, if it is one.

    Raises:
        SpecError: it is a space of designs, or no result at all.
    """
    if not isinstance(design, Result) or design.axes:
        raise SpecError([Fault("design", type(design).__name__, "must be one design, as dse.estimate or .at() gives")])
    return design


def quantity_output(design: Result, name: str) -> Callable[[Evaluation], Any]:
    """Reads a quantity, or one entry of a table as ``time.bubble``.

    Raises:
        SpecError: the design has no such number.
    """
    from dse.explore.objectives import quantity_value, unit_of_quantity

    unit_of_quantity(name)
    value = quantity_value(design.cells[0].evaluation, name)
    if isinstance(value, list | tuple | dict) or np.asarray(value).dtype.kind not in "fiu":
        raise SpecError([Fault("quantity", repr(name)[:60], "is not a number")])
    return lambda evaluation: quantity_value(evaluation, name)


def is_feasible(evaluation: Evaluation) -> Any:
    """1 where every rule is satisfied."""
    return feasible(violations(evaluation))


def evaluate(
    design: Result,
    bound: Sequence[BoundFactor],
    columns: Sequence[np.ndarray],
    outputs: Outputs,
    search: Search | None = None,
) -> dict[str, np.ndarray]:
    """Outputs of ``design`` with its factors replaced by those of n points.

    Points that share their structural values (whole specifications, fields that change the model's operators) are
    priced as arrays along one axis; there is no loop over points.

    Args:
        design: what all points share.
        bound: the factors.
        columns: for each factor an array of shape (n,): SI numbers, or positions among its levels.
        outputs: functions of an evaluation by name.
        search: enumerate the strategy for every point; None keeps the design's.

    Returns:
        Arrays of shape (n,); with a search also ``strategy.<field>`` of the best strategy, and ``found``: whether
        there is one (elsewhere outputs are not numbers).
    """
    count = len(columns[0]) if columns else 1
    if planning():
        _plan(design, bound, columns, count, outputs, search)
    found: dict[str, np.ndarray] = {}
    for specs, rows in _groups(design, bound, columns, count):
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            changes = _changes(specs, bound, columns, part)
            for name, values in evaluate_arrays(design, specs, changes, len(part), outputs, search).items():
                if name not in found:
                    found[name] = np.full(count, np.nan, values.dtype if values.dtype.kind in "OU" else float)
                found[name] = _fitting(found[name], values)
                found[name][part] = values
    return found


def _plan(
    design: Result,
    bound: Sequence[BoundFactor],
    columns: Sequence[np.ndarray],
    count: int,
    outputs: Outputs,
    search: Search | None,
) -> None:
    """Count the designs that all points stand for, and say how to price some of the points."""
    designs = 0
    for specs, rows in _groups(design, bound, columns, count):
        arrays = _changes(specs, bound, columns, rows)
        designs += len(rows) * (1 if search is None else _space(design, counted(design, specs), arrays, search).size)

    def some(size: int) -> int:
        rows = spread(count, size)
        evaluate(design, bound, [column[rows] for column in columns], outputs, search)
        return len(rows)

    planned(count, designs, some)


def _changes(
    specs: Mapping[str, Any], bound: Sequence[BoundFactor], columns: Sequence[np.ndarray], rows: np.ndarray
) -> list[tuple[Place, np.ndarray]]:
    """Arrays for some rows of the factors that need no specification of their own."""
    return [
        (b.place_in(specs), b.values(column[rows]))
        for b, column in zip(bound, columns, strict=True)
        if not b.structural
    ]


def _fitting(whole: np.ndarray, part: np.ndarray) -> np.ndarray:
    """An array wide enough for text of another part."""
    return whole.astype(np.promote_types(whole.dtype, part.dtype)) if part.dtype.kind == "U" else whole


def _groups(
    design: Result, bound: Sequence[BoundFactor], columns: Sequence[np.ndarray], count: int
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Specifications and rows of each combination of structural values that occurs."""
    chosen = [(b, column) for b, column in zip(bound, columns, strict=True) if b.structural]
    if not chosen:
        yield dict(design.specs), np.arange(count)
        return
    chosen.sort(key=lambda pair: len(pair[0].place.steps))  # whole specifications first, then fields inside them
    keys = np.stack([column for _, column in chosen], axis=1)
    for key in np.unique(keys, axis=0):
        specs: dict[str, Any] = dict(design.specs)
        for (b, _), index in zip(chosen, key, strict=True):
            place, value = b.place_in(specs), b.levels[int(index)]
            if place.root == "cluster" and not place.steps and design.devices_given:
                value = value.replace(devices=int(design.specs["cluster"].devices))  # type: ignore[attr-defined]
            specs[place.root] = with_value(specs[place.root], place.steps, value)
        yield with_stack(specs, [b for b, _ in chosen]), np.flatnonzero((keys == key).all(axis=1))


def evaluate_arrays(
    design: Result,
    specs: Mapping[str, Any],
    changes: Sequence[tuple[Place, np.ndarray]],
    count: int,
    outputs: Outputs,
    search: Search | None = None,
) -> dict[str, np.ndarray]:
    """Outputs of ``specs`` with arrays of shape (count,) in some fields; see :func:`evaluate`."""
    best: dict[str, np.ndarray] = {}
    given = design.devices_given
    if search is not None:
        specs, given = counted(design, specs), True
    if planning():
        size = 1 if search is None else _space(design, specs, changes, search).size

        def some(wanted: int) -> int:
            rows = spread(count, wanted)
            less = [(place, values[rows]) for place, values in changes]
            evaluate_arrays(design, specs, less, len(rows), outputs, search)
            return len(rows)

        planned(count, count * size, some)
    if search is not None:
        best, legal = _best_strategies(design, specs, changes, count, search)
        taken = [(locate(f"strategy.{name}", specs), values) for name, values in best.items()]
        changes = [*changes, *taken]
    evaluation = price(_changed(specs, changes), devices_given=given, replace=design.replace)
    found = {
        name: np.array(np.broadcast_to(np.asarray(function(evaluation), dtype=float), count))
        for name, function in outputs.items()
    }
    if search is not None:
        found = {name: np.where(legal, values, np.nan) for name, values in found.items()}
        found |= {f"strategy.{name}": values for name, values in best.items()}
        found["found"] = legal.astype(float)
    return found


def _changed(specs: Mapping[str, Any], changes: Sequence[tuple[Place, np.ndarray]]) -> dict[str, Any]:
    changed = dict(specs)
    for place, values in changes:
        changed[place.root] = with_value(changed[place.root], place.steps, values)
    return changed


def counted(design: Result, specs: Mapping[str, Any]) -> dict[str, Any]:
    """Specifications whose cluster has the design's number of devices, and whose strategy leaves dp open."""
    changed = dict(specs)
    if not design.devices_given:
        changed["cluster"] = changed["cluster"].model_copy(update={"devices": int(design["devices"].item())})
    changed["strategy"] = changed["strategy"].model_copy(update={"dp": None})
    return changed


# -- the best strategy of every point -----------------------------------------------------------------------


def strategy_space(design: Result, specs: Mapping[str, Any], fixed: Mapping[str, Any], search: Search) -> Space:
    """All strategies to try: the defaults for the devices and batches that occur, with the design's own values.

    Args:
        specs: with the number of devices in the cluster.
        fixed: fields of the strategy, and ``devices``, that the points set themselves (arrays or values).
    """
    cluster, strategy = specs["cluster"], specs["strategy"]
    counts = np.unique(fixed.get("devices", cluster.devices)).tolist()
    batch = int(np.max(fixed.get("global_batch", strategy.global_batch)))
    options: dict[str, list[Any]] = {}
    for devices in counts:
        for name, values in default_options(specs["model"], cluster, int(devices), batch).items():
            options[name] = list(dict.fromkeys([*options.get(name, []), *values]))
    for name, values in options.items():
        own = getattr(strategy, name)
        options[name] = sorted({*values, own}) if isinstance(own, int) else list(dict.fromkeys([*values, own]))
    for name, chosen in (search.options or {}).items():
        if name not in Strategy.model_fields:
            raise SpecError([Fault(f"options.{name[:40]}", "", "is not a field of the strategy")])
        options[name] = list(chosen) if isinstance(chosen, list | tuple | range) else [chosen]
    axes = [axis(name, values) for name, values in options.items() if name not in fixed]
    bound = bind_axes(specs, axes)
    loops = [b.name for b in bound if b.structural]
    if loops:
        raise SpecError([Fault(f"options.{loops[0]}", "", "changes the model's structure; it cannot be searched here")])
    return Space(specs, tuple(bound), True, design.replace)


def _space(
    design: Result, specs: Mapping[str, Any], changes: Sequence[tuple[Place, np.ndarray]], search: Search
) -> Space:
    """The strategies to try at points that set some fields themselves."""
    fixed = {place.field: values for place, values in changes if place.root == "strategy"}
    fixed |= {place.field: values for place, values in changes if place.root == "cluster" and place.field == "devices"}
    return strategy_space(design, specs, fixed, search)


def _best_strategies(
    design: Result, specs: Mapping[str, Any], changes: Sequence[tuple[Place, np.ndarray]], count: int, search: Search
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Fields of the best strategy of every point, and where there is one; ties go to the first in the axes' order."""
    space = _space(design, specs, changes, search)
    lengths = [len(b.values) for b in space.axes]
    step = max(min(BLOCK // max(space.size, 1), count), 1)
    score, winner = np.full(count, np.inf), np.zeros(count, dtype=np.int64)
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        for block in space.blocks(BLOCK):
            values = _scores(space, changes, rows, block, search)
            place = values.argmin(axis=1)
            least = values[np.arange(len(place)), place]
            inside = np.unravel_index(place, [part.stop - part.start for part in block]) if block else ()
            whole = [i + part.start for i, part in zip(inside, block, strict=True)]
            index = np.ravel_multi_index(whole, lengths) if whole else place
            better = least < score[rows]
            score[rows] = np.where(better, least, score[rows])
            winner[rows] = np.where(better, index, winner[rows])
    positions = np.unravel_index(winner, lengths) if lengths else ()
    chosen = {b.name: np.asarray(b.values)[index] for b, index in zip(space.axes, positions, strict=True)}
    return chosen, np.isfinite(score)


def _scores(
    space: Space, changes: Sequence[tuple[Place, np.ndarray]], rows: slice, block: Sequence[slice], search: Search
) -> np.ndarray:
    """Objective of each point (first axis) under each strategy of a block (second); infinite where it is illegal."""
    count, dims = rows.stop - rows.start, len(space.axes)
    wide = [(place, values[rows].reshape(count, *[1] * dims)) for place, values in changes]
    for position, (b, part) in enumerate(zip(space.axes, block, strict=True)):
        shape = [1] * (dims + 1)
        shape[position + 1] = part.stop - part.start
        wide.append((b.place, np.asarray(b.values)[part].reshape(shape)))
    evaluation = price(_changed(space.specs, wide), devices_given=True, replace=space.replace)
    shape = (count, *(part.stop - part.start for part in block))
    score = np.where(search.allowed(evaluation), search.scores(evaluation), np.inf)
    return np.broadcast_to(score, shape).reshape(count, -1)


def require_all(found: Mapping[str, np.ndarray]) -> None:
    """Refuse points without any feasible strategy: they have no time to analyse, and inventing one would mislead.

    Raises:
        InfeasibleDesign: with their share.
    """
    share = float(np.mean(found["found"])) if "found" in found else 1.0
    if share < 1.0:
        raise InfeasibleDesign(
            f"{1.0 - share:.1%} of the points have no feasible strategy; narrow the ranges, allow more strategies, "
            "analyse the quantity 'feasible', or leave the memory limit out"
        )
