"""What a search found: every hardware design with its best strategies, the front, and why the rest is not on it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, InfeasibleDesign, SpecError, StudyError
from dse.explore.objectives import unit_of_quantity
from dse.explore.result import Result
from dse.explore.search import pareto
from dse.explore.search.inner import Inner
from dse.explore.search.problem import Group, Problem
from dse.explore.search.text import point_text, text
from dse.plain import plain
from dse.spec.load import as_yaml
from dse.units import engineering

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


ANSWERS = "answers.json"
KEPT = ("points", "method", "stopped", "seed", "trials", "bound", "provenance")  # beside the answers


@dataclass
class SearchResult:
    """The outcome of a search.

    Attributes:
        problem: what was searched.
        points: every hardware design that was looked at, in the order of the variables and their values.
        answers: the exact answer of the inner problem for each of them.
        method: "exhaustive", or the sampler that chose the hardware.
        stopped: why no more designs were looked at.
        seed: of the sampler.
        cached: hardware designs whose answer was known already (of this run; not part of the saved table).
        trials: when the search came upon each of them.
        bound: of branch and bound: value that nothing in the space is better than.
    """

    problem: Problem
    points: list[dict[str, Any]]
    answers: list[Inner]
    method: str
    stopped: str
    seed: int = 0
    cached: int = 0
    provenance: dict[str, str] = field(default_factory=dict)
    trials: list[int] = field(default_factory=list)
    bound: float | None = None

    @property
    def exhaustive(self) -> bool:
        """Was every design looked at?"""
        return self.method == "exhaustive" or (
            self.problem.hardware_size is not None and len(self.points) >= self.problem.hardware_size
        )

    @property
    def evaluated(self) -> int:
        """Designs (hardware and strategy) that were priced or excluded by a proof."""
        return sum(answer.evaluated for answer in self.answers)

    @property
    def feasible_count(self) -> int:
        """How many keep every rule and budget."""
        return sum(answer.feasible for answer in self.answers)

    # -- rows --------------------------------------------------------------------------------------------------

    @cached_property
    def rows(self) -> list[tuple[int, tuple[float, ...] | None, int | None]]:
        """(hardware design, objective values, strategy) of every row of the table."""
        rows: list[tuple[int, tuple[float, ...] | None, int | None]] = []
        for number, answer in enumerate(self.answers):
            if answer.front:
                rows += [(number, values, place) for values, place in answer.front]
            else:
                rows.append((number, None, answer.nearest[0] if answer.nearest else None))
        return rows

    @cached_property
    def _notes(self) -> list[tuple[float, ...]]:
        """Noted quantities of every row; NaN where no strategy is legal."""
        nothing = (float("nan"),) * len(self.problem.noted)
        return [note for answer in self.answers for note in (answer.noted or [nothing])]

    @cached_property
    def _groups(self) -> dict[tuple[Any, ...], Group]:
        found: dict[tuple[Any, ...], Group] = {}
        for point in self.points:
            key = self.problem.key(point)
            if key not in found:
                found[key] = self.problem.group(point)
        return found

    def strategy(self, number: int, place: int | None) -> dict[str, Any]:
        """Field values of the strategy at a place of a hardware design's enumeration."""
        if place is None:
            return {}
        group = self._groups[self.problem.key(self.points[number])]
        return group.strategy([int(i) for i in np.unravel_index(place, group.shape)])

    @cached_property
    def _signed(self) -> np.ndarray:
        """Objective values of every row, all minimised; NaN where infeasible."""
        signs = [o.sign for o in self.problem.objectives]
        nothing = (np.nan,) * len(signs)
        values = np.array([values or nothing for _, values, _ in self.rows], dtype=float).reshape(-1, len(signs))
        return values * signs

    @cached_property
    def front_rows(self) -> np.ndarray:
        """Rows of the table on the Pareto front, in lexicographic order of the objectives (one: the best row).

        Of designs with equal objectives the first stands for all: hardware in the order of the variables and their
        values, strategies in the order of their axes.
        """
        good = np.flatnonzero(np.isfinite(self._signed).all(axis=1))
        return good[pareto.front(self._signed[good])]

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for every hardware design and strategy on that design's own front; infeasible designs say why.

        Columns: ``design`` (number of the hardware design), ``trial`` (when the search came upon it), the hardware, the
        objectives, the quantities of the budget, ``feasible``, ``on_front``, ``dominated_by`` (a row on the front that
        is at least as good in all), ``reasons``, the strategy, ``strategies`` and ``feasible_strategies`` (of those
        looked at).
        """
        import pandas as pd

        rows = self.rows
        front = self.front_rows
        beaten = pareto.matched_by(self._signed, self._signed[front])
        beaten[front] = -1
        on_front = np.zeros(len(rows), dtype=bool)
        on_front[front] = True
        trials = self.trials or list(range(len(self.points)))
        columns: dict[str, Any] = {"design": [n for n, _, _ in rows], "trial": [trials[n] for n, _, _ in rows]}
        for v in self.problem.variables:
            columns[_header(v.name, v.unit)] = [self.points[number][v.name] for number, _, _ in rows]
        values = self._signed * [o.sign for o in self.problem.objectives]
        for position, o in enumerate(self.problem.objectives):
            columns[_header(o.text, o.unit)] = values[:, position]
        for position, name in enumerate(self.problem.noted):
            columns[_header(name, unit_of_quantity(name))] = [note[position] for note in self._notes]
        columns["feasible"] = [values is not None for _, values, _ in rows]
        columns["on_front"] = on_front
        columns["dominated_by"] = pd.array([int(front[b]) if b >= 0 else None for b in beaten], dtype="Int64")
        columns["reasons"] = ["" if values is not None else self.why(number) for number, values, _ in rows]
        strategies = [self.strategy(number, place) for number, _, place in rows]
        for name in dict.fromkeys(n for s in strategies for n in s):
            column = [s.get(name) for s in strategies]
            missing = any(value is None for value in column)
            whole = all(isinstance(value, int) and not isinstance(value, bool) for value in column if value is not None)
            columns[name] = pd.array(column, dtype="Int64") if missing and whole else column
        columns["strategies"] = [self.answers[number].evaluated for number, _, _ in rows]
        columns["feasible_strategies"] = [self.answers[number].feasible for number, _, _ in rows]
        return pd.DataFrame(columns)

    @property
    def front(self) -> pd.DataFrame:
        """The rows of the table on the Pareto front."""
        return self.table.iloc[self.front_rows]

    def why(self, number: int) -> str:
        """Why a hardware design is infeasible: what its nearest strategy breaks, and by how much."""
        answer = self.answers[number]
        if answer.feasible:
            return ""
        if answer.nearest is None:
            return "no strategy is legal on it"
        texts = []
        limits = {c.text: c for c in self.problem.constraints}
        for name, margin in answer.nearest[1].items():
            if name in limits:
                c = limits[name]
                texts.append(c.why(c.value - margin if c.at_most else c.value + margin))
            else:
                texts.append(f"memory overflows by {engineering(-margin, 'B')} per device in the nearest strategy")
        return "; ".join(texts) or "an objective is infinite for every strategy that keeps the rules"

    # -- designs -----------------------------------------------------------------------------------------------

    def design(self, row: int | None = None) -> Result:
        """The design of a row of the table as a result; by default the best by the first objective.

        Raises:
            InfeasibleDesign: nothing is feasible, and no row was named.
            SpecError: no such row, or its hardware has no legal strategy.
        """
        if row is None:
            if not len(self.front_rows):
                raise InfeasibleDesign(self.why_none())
            row = int(self.front_rows[0])
        if not 0 <= row < len(self.rows):
            raise SpecError([Fault("row", str(row), f"must lie between 0 and {len(self.rows) - 1}")])
        number, _, place = self.rows[row]
        if place is None:
            raise SpecError([Fault("row", str(row), "its hardware has no legal strategy")])
        specs = self.problem.specs_at(self.points[number])
        strategy: Any = specs["strategy"]
        specs["strategy"] = strategy.replace(**self.strategy(number, place))
        return Result(specs, [], devices_given=True, replace=self.problem.replace)

    @property
    def best(self) -> Result:
        """The best design by the first objective."""
        return self.design()

    def why_none(self) -> str:
        """The commonest reasons why no design is feasible, nearest misses first."""
        broken = Counter("; ".join(a.nearest[1]) if a.nearest else "no legal strategy" for a in self.answers)
        texts = [f"{count:,} break {names}" for names, count in broken.most_common(4)]
        nearest = min((n for n, a in enumerate(self.answers) if a.nearest), key=self._shortfall, default=None)
        example = "" if nearest is None else f"; the nearest: {point_text(self, nearest)}: {self.why(nearest)}"
        return f"none of the {len(self.points):,} hardware designs is feasible: {', '.join(texts)}{example}"

    def _shortfall(self, number: int) -> float:
        """How far the nearest strategy of an infeasible hardware design is from feasible, in relative terms."""
        nearest = self.answers[number].nearest
        if nearest is None:
            return float("inf")
        scales = {c.text: max(abs(c.value), 1e-12) for c in self.problem.constraints}
        return sum(-margin / scales.get(name, 1e11) for name, margin in nearest[1].items())

    # -- showing and keeping -----------------------------------------------------------------------------------

    def figure(self, x: str | None = None, y: str | None = None, *, dark: bool = False) -> go.Figure:
        """The front over two objectives, dominated designs behind it (see :func:`dse.view.search.front`)."""
        from dse.view.search import front

        return front(self, x, y, dark=dark)

    def save(self, folder: str | Path) -> Path:
        """Write ``designs.parquet``, ``front.csv``, ``summary.json``, the best design as ``best-cluster.yaml`` and
        ``best-strategy.yaml``, and ``answers.json`` for :func:`load_result`."""
        from dse.study.export import export, write_atomically

        folder = Path(folder)
        export(self.table, folder / "designs.parquet", provenance=self.provenance)
        export(self.front, folder / "front.csv", provenance=self.provenance)
        kept = {name: getattr(self, name) for name in KEPT}
        whole = json.dumps({**kept, "answers": [a.to_dict() for a in self.answers]}, default=plain) + "\n"
        write_atomically(folder / ANSWERS, _writer(whole))
        if len(self.front_rows):
            best = self.best
            for name in ("cluster", "strategy"):
                page = as_yaml({"kind": name, **best.specs[name].to_plain()})
                write_atomically(folder / f"best-{name}.yaml", _writer(page))
        return write_atomically(
            folder / "summary.json", _writer(json.dumps(self.summary(), indent=2, sort_keys=True, default=plain) + "\n")
        )

    def summary(self) -> dict[str, Any]:
        """Plain data: method, counts and the front."""
        front = self.front.drop(columns=["on_front", "dominated_by", "reasons", "feasible"])
        return {
            "method": self.method,
            "exhaustive": self.exhaustive,
            "stopped": self.stopped,
            "seed": self.seed,
            "bound": self.bound,
            "objectives": [o.text for o in self.problem.objectives],
            "budget": [c.text for c in self.problem.constraints],
            "hardware_designs": len(self.points),
            "evaluated": self.evaluated,
            "feasible_designs": self.feasible_count,
            "feasible_hardware": sum(bool(a.feasible) for a in self.answers),
            "front": json.loads(front.to_json(orient="records", double_precision=15)),
        }

    def __repr__(self) -> str:
        return text(self)

    def _repr_html_(self) -> str:
        if not len(self.front_rows):
            return f"<pre>{escape(repr(self))}</pre>"
        head = escape(text(self).split("\n")[0]).replace("$", "<span>$</span>")  # two would be taken for a formula
        return f"<p>{head}</p>{self.front.drop(columns=['on_front', 'dominated_by', 'reasons']).to_html(index=True)}"


def load_result(folder: str | Path) -> SearchResult:
    """The result that :meth:`SearchResult.save` wrote, as it was found then.

    Raises:
        StudyError: the folder holds no finished search, or one that cannot be read.
    """
    from dse.explore.search.saved import load

    given, _ = load(folder)
    path = Path(folder) / ANSWERS
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        answers = [Inner.from_dict(answer) for answer in data.pop("answers")]
        return SearchResult(problem=given, answers=answers, **data)
    except FileNotFoundError:
        raise StudyError(f"the search in {folder} is not finished: 'dse resume {folder}' first") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path} cannot be read: {error!r}"[:300]) from None


def _writer(page: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(page, encoding="utf-8") and None


def _header(name: str, unit: str) -> str:
    return f"{name} [{unit}]" if unit not in ("", "1") else name
