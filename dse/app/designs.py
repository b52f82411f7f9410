"""The strategies around a design as a table: all that are feasible, the front, and a sample of what is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.app.broken import reasons
from dse.app.design import Design
from dse.app.state import State
from dse.errors import Fault, SpecError
from dse.explore.best import strategy_space
from dse.explore.bounds import relaxed
from dse.explore.boxes import mask_at, narrow
from dse.explore.evaluate import feasible, price, violations
from dse.explore.exhaustive import SURVEY, Space
from dse.explore.objectives import DIRECTIONS, TIME_POWER, Objective, log_deviation, quantity_value
from dse.explore.objectives import objective as read_objective
from dse.explore.search import pareto
from dse.space.axes import with_value
from dse.space.enumerate import default_options
from dse.space.symmetry import representatives
from dse.spec.calibration import stamp
from dse.spec.strategy import Strategy
from dse.view.theme import design_text

if TYPE_CHECKING:
    import pandas as pd

    from dse.explore.search.found import SearchResult

MOST = 200_000  # feasible designs that a table keeps
QUANTITIES = ("step_time", "memory_bytes", "mfu", "tokens_per_s", "cost", "energy")
PLAIN = ("cp", "ep", "shard_group")  # degrees that go back to none where they are neither varied nor locked
_GOLDEN = (5**0.5 - 1) / 2
_HALF_90 = 1.6448536269514722  # half-width of the central 90 % of a normal distribution, in standard deviations


@dataclass(frozen=True)
class Designs:
    """A table of designs, with what a view needs to know about it.

    Attributes:
        table: a row a design; numbers have their SI unit in the header, as ``step_time [s]``. ``feasible``,
            ``reasons`` (empty where it is), ``on_front``, and ``dominated_by``: a row that is at least as good in all
            objectives. Ends of 90 % intervals, such as ``step_time low [s]``, are there for rows on the front.
        variables: columns that vary, of what can be chosen.
        objectives: columns; ``less``: whether less is better, of each.
        counts: ``designs`` (all there are), ``feasible``, ``distinct`` (of those, without designs that are like
            others) and ``shown`` (rows).
        fixed: fields of the strategy that all rows share.
        about: the model and the cluster.
    """

    table: pd.DataFrame
    variables: tuple[str, ...]
    objectives: tuple[str, ...]
    less: tuple[bool, ...]
    counts: Mapping[str, int]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""

    def column(self, name: str) -> str:
        """A column by its header, or by its name without the unit.

        Raises:
            SpecError: there is none.
        """
        if name in self.table.columns:
            return name
        names = {column.partition(" [")[0]: column for column in self.table.columns}
        if name not in names:
            raise SpecError([Fault("column", repr(name)[:60], f"must be one of {', '.join(names)}")])
        return names[name]

    def strategy(self, row: int) -> dict[str, Any]:
        """Fields of the strategy of a row, without ``dp``, which follows from them and the devices."""
        chosen = self.table.iloc[row]
        fields = [name for name in self.table.columns if name in Strategy.model_fields and name != "dp"]
        return {**self.fixed, **{name: _plain(chosen[name]) for name in fields}}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def chosen(designs: Designs, ranges: Mapping[str, Any]) -> np.ndarray:
    """Rows of the table that lie within all ranges.

    Args:
        ranges: column → (low, high), both ends included, None for an open end, or ``{"values": [...]}``.

    Returns:
        A truth value a row; a row without a number in a column with a range is not chosen.

    Raises:
        SpecError: no such column, or a range that is none.
    """
    mask = np.ones(len(designs.table), dtype=bool)
    for name, wanted in ranges.items():
        column = designs.table[designs.column(name)]
        if isinstance(wanted, Mapping) and set(wanted) == {"values"}:
            mask &= column.isin(list(wanted["values"])).to_numpy(bool)
        else:
            low, high = _ends(name, wanted, column)
            values = column.to_numpy(float, na_value=np.nan)
            mask &= (values >= low) & (values <= high)
    return mask


def _ends(name: str, wanted: Any, column: pd.Series) -> tuple[float, float]:
    from pandas.api.types import is_numeric_dtype

    if not is_numeric_dtype(column):
        raise SpecError([Fault(str(name)[:60], repr(wanted)[:60], "holds no numbers; give {'values': [...]}")])
    try:
        low, high = wanted
        return -np.inf if low is None else float(low), np.inf if high is None else float(high)
    except (TypeError, ValueError):
        rule = "must be a low and a high end, or {'values': [...]}"
        raise SpecError([Fault(str(name)[:60], repr(wanted)[:60], rule)]) from None


# -- strategies -----------------------------------------------------------------------------------------------


def strategies(
    state: State, objectives: Sequence[str] = ("step_time", "memory_bytes"), infeasible: int = 300
) -> Designs:
    """All feasible strategies for a state's model, cluster, devices and batch, and a sample of infeasible ones.

    Strategies that differ only in what cannot matter are there once. Fields are held as by :meth:`State.find_best`.
    Feasible rows come first, by the first objective, best first. Of more than 200,000 the best by the first objective
    are kept, and the whole front.

    Args:
        objectives: two of :mod:`dse.explore.objectives`.
        infeasible: how many to show of the strategies that break a rule; they are spread evenly.

    Raises:
        SpecError: not two different objectives, or unknown ones.
    """
    goals = tuple(read_objective(text).text for text in objectives)
    if len(goals) != 2 or goals[0] == goals[1]:
        raise SpecError([Fault("objectives", ", ".join(goals)[:80], "must be two different ones")])
    locked = frozenset(path.removeprefix("strategy.") for path in state.locks if path.startswith("strategy."))
    return _strategies(state.design, locked, goals, int(infeasible), stamp())


def space_of(state: State) -> Space:
    """The strategies of a state that :meth:`State.best` searches."""
    locked = frozenset(path.removeprefix("strategy.") for path in state.locks if path.startswith("strategy."))
    return _space(state.design, locked)[0]


def present(state: State, designs: Designs) -> dict[str, Any]:
    """The state's design as a row of the table would have it: its fields and its quantities."""
    known = set(designs.table.columns)
    row: dict[str, Any] = {n: getattr(state.design.strategy, n) for n in Strategy.model_fields if n in known}
    if "dp" in known:
        whole, rest = divmod(state.design.devices, state.design.width)
        row["dp"] = state.design.devices / state.design.width if rest else whole
    for name in dict.fromkeys((*QUANTITIES, *(column.partition(" [")[0] for column in designs.objectives))):
        header = _header(name)
        if header in known:
            row[header] = float(np.asarray(read_objective(name).value(state.result.cells[0].evaluation)))
    return row


@lru_cache(maxsize=8)
def _strategies(
    design: Design, locked: frozenset[str], texts: tuple[str, ...], infeasible: int, _calibration: Any
) -> Designs:
    goals = [read_objective(text) for text in texts]
    space, fixed = _space(design, locked)
    every = tuple(np.arange(length) for length in space.shape)
    alike = _alike(space, every, goals)
    good, counts = _feasible(space, every, alike, goals)
    order = np.lexsort((good["place"], goals[0].sign * good[goals[0].text]))
    good = {name: values[order] for name, values in good.items()}
    signed = np.stack([goal.sign * good[goal.text] for goal in goals], axis=1)
    best = pareto.front(signed)
    bad = _infeasible(space, alike, infeasible)
    columns = _columns(space, good, bad, goals)
    columns |= _verdicts(space, len(good["place"]), best, signed, bad)
    columns |= _intervals(space, good, len(bad), best, goals)
    return _table(design, space, columns, goals, counts, fixed)


def _space(design: Design, locked: frozenset[str]) -> tuple[Space, dict[str, Any]]:
    """The space that :meth:`State.best` searches, and the fields that are held in it."""
    specs: Any = design.specs
    strategy = design.strategy
    varied = default_options(specs["model"], specs["cluster"], design.devices, strategy.global_batch)
    base = {f: getattr(strategy, f) for f in Strategy.model_fields if f not in varied or f in locked}
    base = {f: v for f, v in base.items() if f not in ("dp", "global_batch")}
    base |= {f: v for f, v in zip(PLAIN, (1, 1, 0), strict=True) if f in base and f not in locked}
    space = strategy_space(
        specs["model"], specs["cluster"], devices=design.devices, global_batch=strategy.global_batch, base=base
    )
    return Space({**space.specs, "stack": specs["stack"]}, space.axes), base


def _alike(space: Space, every: tuple[np.ndarray, ...], goals: Sequence[Objective]) -> list[np.ndarray]:
    """Masks of the strategies that stand for all that are like them."""
    if relaxed(space) is None or any(goal.name not in DIRECTIONS for goal in goals):
        return []
    fields = [(str(b.place.steps[-1]), b.values) for b in space.axes]
    return representatives(fields, space.evaluate(every).__getitem__)


def _feasible(
    space: Space, every: tuple[np.ndarray, ...], alike: Sequence[np.ndarray], goals: Sequence[Objective]
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Place and quantities of the feasible strategies that are kept, and the counts."""
    kept: dict[str, np.ndarray] = {}
    counts = {"designs": space.size, "feasible": 0, "distinct": 0}
    whole = np.arange(space.size).reshape(space.shape) if space.size <= SURVEY else None
    for tile in space.blocks(SURVEY):
        box = narrow(every, tile)
        evaluation, shape = space.evaluate(box), tuple(len(side) for side in box)
        fits = np.broadcast_to(feasible(violations(evaluation)), shape)
        counts["feasible"] += int(fits.sum())
        for mask in alike:
            fits = fits & mask_at(mask, box)
        values = {goal.text: goal.value(evaluation) for goal in goals}
        values |= {name: quantity_value(evaluation, name) for name in QUANTITIES if name not in values}
        values["dp"] = evaluation["data_parallel"]
        inside = np.unravel_index(np.flatnonzero(fits), shape)
        counts["distinct"] += len(inside[0])
        found = {name: np.broadcast_to(value, shape)[inside].astype(float) for name, value in values.items()}
        place = np.ravel_multi_index([side[i] for side, i in zip(box, inside, strict=True)], space.shape)
        found["place"] = place if whole is None else whole[inside]
        kept = {name: np.concatenate([kept[name], value]) for name, value in found.items()} if kept else found
        if len(kept["place"]) > 2 * MOST:
            kept = _best(kept, goals)
    finite = np.isfinite(kept[goals[0].text]) & np.isfinite(kept[goals[1].text])
    return _best({name: value[finite] for name, value in kept.items()}, goals), counts


def _best(kept: dict[str, np.ndarray], goals: Sequence[Objective]) -> dict[str, np.ndarray]:
    """The best by the first objective, and the front of all."""
    if len(kept["place"]) <= MOST:
        return kept
    signed = np.stack([goal.sign * kept[goal.text] for goal in goals], axis=1)
    first = np.argpartition(signed[:, 0], MOST - 1)[:MOST]
    rows = np.union1d(first, pareto.front(signed))
    return {name: value[rows] for name, value in kept.items()}


def _infeasible(space: Space, alike: Sequence[np.ndarray], count: int) -> np.ndarray:
    """Places of strategies that break a rule: at multiples of the golden section, which are in step with no axis."""
    if count < 1:
        return np.zeros(0, dtype=np.intp)
    tried = min(space.size, 4 * count)
    places = np.arange(tried) if tried == space.size else np.floor(np.arange(tried) * _GOLDEN % 1 * space.size)
    places = places.astype(np.intp)
    index = np.unravel_index(places, space.shape)
    for mask in alike:
        at = tuple(i if size > 1 else np.zeros_like(i) for i, size in zip(index, mask.shape, strict=True))
        keep = mask[at]
        places, index = places[keep], tuple(i[keep] for i in index)
    fits = np.broadcast_to(feasible(violations(_points(space, places))), places.shape)
    missed = places[~fits]
    return missed[np.linspace(0, len(missed) - 1, min(count, len(missed))).round().astype(int)]


def _points(space: Space, places: np.ndarray) -> Any:
    """An evaluation of single strategies side by side, as arrays of one axis."""
    specs = dict(space.specs)
    for b, index in zip(space.axes, np.unravel_index(places, space.shape), strict=True):
        specs[b.place.root] = with_value(specs[b.place.root], b.place.steps, np.asarray(b.values)[index])
    return price(specs, devices_given=space.devices_given, replace=space.replace)


# -- the table ------------------------------------------------------------------------------------------------


def _columns(
    space: Space, good: Mapping[str, np.ndarray], bad: np.ndarray, goals: Sequence[Objective]
) -> dict[str, np.ndarray]:
    """Fields of the strategy and quantities of all rows."""
    places = np.concatenate([good["place"], bad])
    index = np.unravel_index(places, space.shape)
    columns = {b.name: np.asarray(b.values)[i] for b, i in zip(space.axes, index, strict=True)}
    evaluation = _points(space, bad) if len(bad) else None
    named = {goal.text: goal.value for goal in goals}
    for name in dict.fromkeys(("dp", *named, *QUANTITIES)):
        values = good[name]
        if evaluation is not None:
            reads = named.get(name, lambda e, name=name: quantity_value(e, "data_parallel" if name == "dp" else name))
            values = np.concatenate([values, np.broadcast_to(reads(evaluation), bad.shape)])
        columns[name if name == "dp" else _header(name)] = values
    whole = columns["dp"] == np.floor(columns["dp"])
    if whole.all():
        columns["dp"] = columns["dp"].astype(int)
    return columns


def _verdicts(space: Space, count: int, best: np.ndarray, signed: np.ndarray, bad: np.ndarray) -> dict[str, Any]:
    """What is feasible, why the rest is not, what is on the front, and by which row of it the others are beaten."""
    import pandas as pd

    rows = count + len(bad)
    on_front = np.zeros(rows, dtype=bool)
    on_front[best] = True
    beaten = np.full(rows, -1)
    # The front rises in the first and falls in the second objective: the first row that the second is not below.
    falls = np.searchsorted(-signed[best, 1], -signed[:, 1])
    beaten[:count] = best[np.minimum(falls, max(len(best) - 1, 0))] if len(best) else -1
    beaten[best] = -1
    return {
        "feasible": np.arange(rows) < count,
        "reasons": [""] * count + reasons(_points(space, bad), len(bad)),
        "on_front": on_front,
        "dominated_by": pd.arrays.IntegerArray(np.maximum(beaten, 0).astype("int64"), beaten < 0),
    }


def _intervals(
    space: Space, good: Mapping[str, np.ndarray], bad: int, best: np.ndarray, goals: Sequence[Objective]
) -> dict[str, np.ndarray]:
    """Ends of the 90 % intervals of what has one, on the front."""
    found: dict[str, np.ndarray] = {}
    timed = [goal for goal in goals if goal.risk == "point" and goal.name in TIME_POWER]
    evaluation = _points(space, good["place"][best]) if timed and len(best) else None
    for goal in timed:
        ends = np.full((2, len(good["place"]) + bad), np.nan)
        if evaluation is not None:
            half = _HALF_90 * log_deviation(evaluation, goal.name)
            ends[:, best] = good[goal.text][best] * np.exp([-1 * half, half])
        found |= {_header(goal.text, word): end for word, end in zip(("low", "high"), ends, strict=True)}
    return found


def _table(
    design: Design, space: Space, columns: dict[str, Any], goals: Sequence[Objective], counts: dict[str, int],
    fixed: dict[str, Any],
) -> Designs:  # fmt: skip
    import pandas as pd

    table = pd.DataFrame(columns)
    fields = [*(b.name for b in space.axes), "dp"]
    varied = tuple(name for name in fields if len(table) and (table[name] != table[name].iloc[0]).any())
    headers = tuple(_header(goal.text) for goal in goals)
    less = tuple(goal.sign > 0 for goal in goals)
    about = design_text(design.specs, design.devices)
    return Designs(table, varied, headers, less, {**counts, "shown": len(table)}, fixed, about)


def _header(text: str, word: str = "") -> str:
    """Header of an objective, or of an end of its interval."""
    unit, text = read_objective(text).unit, f"{text} {word}".strip()
    return f"{text} [{unit}]" if unit not in ("", "1") else text


# -- searches -------------------------------------------------------------------------------------------------


def from_search(found: SearchResult) -> Designs:
    """The table of a search of hardware; what varies is the hardware, then the strategy."""
    table = found.table
    names = {column.partition(" [")[0]: column for column in table.columns}
    fields = [names[v.name] for v in found.problem.variables]
    fields += [name for name in table.columns if name in Strategy.model_fields and name not in fields]
    varied = tuple(name for name in fields if table[name].nunique() > 1)
    headers = tuple(names[goal.text] for goal in found.problem.objectives)
    counts = {"designs": found.evaluated, "feasible": found.feasible_count, "distinct": int(table["feasible"].sum())}
    less = tuple(goal.less for goal in found.problem.objectives)
    about = design_text(found.problem.specs)
    return Designs(table, varied, headers, less, {**counts, "shown": len(table)}, {}, about)
