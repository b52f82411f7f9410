"""Search: persistent buffer, bandwidth, array, queries between SubGraphs and candidate SubGraphs, under budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.sushi.accelerator import SubGraphAccelerator, load_subgraph_accelerator
from dse.domains.sushi.problem import machine, priced, stream
from dse.domains.sushi.scheduler import CACHING, POLICIES
from dse.domains.sushi.serve import serve
from dse.domains.sushi.streams import Stream
from dse.errors import Fault, SpecError
from dse.units import UnitError, engineering, parse

if TYPE_CHECKING:
    import pandas as pd

    from dse.domains.sushi.supernet import SubNet
    from dse.explore.search.outcome import Outcome
    from dse.explore.search.space import Point, Variable

MIB = 2.0**20
# Objectives and their units; of accuracy more is better. Budgets bound any of them, accuracy from below.
OBJECTIVES = {"latency": "s", "p99": "s", "accuracy": "1", "energy": "J", "area": "m^2"}
USUAL: dict[str, tuple[Any, ...]] = {
    "buffer": tuple(round(MIB * m) for m in (0, 0.5, 1, 1.6875, 2.5, 3.375, 5, 6.5, 8, 12, 16)),
    "bandwidth": (3.2e9, 4.8e9, 6.4e9, 9.6e9, 12.8e9, 19.2e9, 25.6e9),
    "kernels": (8, 16, 32, 64),
    "channels": (4, 9, 16, 32),
    "window": (1, 2, 4, 8, 16, 32, 64),
    "count": (8, 16, 32, 64),
    "kinds": ("cuts", "cuts+orders", "shared", "cuts+shared+average", "greedy"),
}
CLOSED = ("random", "markov", "edge")  # streams that need no arrivals
UNITS = {"buffer": "B", "bandwidth": "B/s", **OBJECTIVES}


def variables(values: Mapping[str, Sequence[Any]] | None = None) -> list[Variable]:
    """What varies: the usual values, or those that are given.

    Args:
        values: for ``buffer`` (bytes), ``bandwidth`` (of weights, B/s), ``kernels`` and ``channels`` (of the array),
            ``window`` (queries between SubGraphs), ``count`` (of candidates) and ``kinds`` (joined by ``+``).

    Raises:
        SpecError: an unknown name, or values that are none.
    """
    from dse.explore.search.space import Variable

    given = dict(values or {})
    if unknown := sorted(set(given) - set(USUAL)):
        raise SpecError([Fault(f"vary.{name}"[:60], "", f"must be one of {', '.join(USUAL)}") for name in unknown])
    return [Variable(name, tuple(given.get(name, of)), categorical=name == "kinds") for name, of in USUAL.items()]


@dataclass(frozen=True)
class Problem:
    """What is searched.

    Attributes:
        subnets: that are served.
        accelerator: what the designs are changes of.
        stream: the queries; the same for every design.
        policy, caching: of the scheduler.
        objectives: some of ``OBJECTIVES``; ``latency`` is the mean with waiting for loads, energy is a query's.
        budgets: the most (of ``accuracy`` the least) that a design may have of some of them, in SI units.
        seed: of candidates.
    """

    subnets: Sequence[SubNet]
    accelerator: SubGraphAccelerator
    stream: Stream
    policy: str = "strict-accuracy"
    caching: str = "average"
    objectives: tuple[str, ...] = ("latency", "energy", "area")
    budgets: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (("objectives", self.objectives, OBJECTIVES), ("budgets", self.budgets, OBJECTIVES),
                  ("policy", (self.policy,), POLICIES), ("caching", (self.caching,), CACHING))  # fmt: skip
        faults = [
            Fault(where, repr(name)[:60], f"must be one of {', '.join(known)}")
            for where, names, known in checks
            for name in names
            if name not in known
        ]
        faults += [fault for name, limit in self.budgets.items() if (fault := _no_limit(name, limit, f"{limit:g}"))]
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            faults.append(Fault("objectives", ", ".join(self.objectives), "must be one or more, each once"))
        if faults:
            raise SpecError(faults)

    def design(self, point: Point) -> SubGraphAccelerator:
        """The accelerator of a point; its dynamic buffer grows with the array, of which it holds two tiles at least."""
        tile = point["kernels"] * point["channels"] * self.accelerator.taps
        base = self.accelerator.replace(
            kernels=point["kernels"], channels=point["channels"],
            dynamic_buffer=max(self.accelerator.dynamic_buffer, 2.0 * tile),
        )  # fmt: skip
        return machine(base, buffer=point["buffer"], bandwidth=point["bandwidth"])

    def __call__(self, point: Point) -> Outcome:
        """Price the design, serve the stream on it, and hold it against the budgets."""
        from dse.explore.search.outcome import Outcome

        built = self.design(point)
        table = priced(built, self.subnets, count=point["count"], kinds=point["kinds"].split("+"), seed=self.seed)
        done = serve(table, self.stream, policy=self.policy, caching=self.caching, window=point["window"])
        told = done.summary()
        numbers = {"latency": told["response_mean"], "p99": told["response_p99"], "accuracy": told["accuracy"],
                   "energy": told["energy"] / len(self.stream), "area": float(built.area)}  # fmt: skip
        over = {name: _excess(name, numbers[name], limit) for name, limit in self.budgets.items()}
        payload = {**numbers, "hit": told["hit"], "missed": told[_missed(self.policy)]}
        return Outcome(tuple(numbers[name] for name in self.objectives), over, payload)


def _excess(name: str, value: float, limit: float) -> float:
    """By which share a budget is exceeded."""
    share = value / limit - 1
    return -share if name == "accuracy" else share


def _no_limit(name: str, limit: float, shown: str) -> Fault | None:
    """What is wrong with the limit of a budget."""
    if name == "accuracy" and not 0 < limit <= 1:
        return Fault("budget.accuracy", shown[:40], "must be above 0 and at most 100 %")
    return None if 0 < limit < np.inf else Fault(f"budget.{name}"[:60], shown[:40], "must be above 0, and finite")


def _missed(policy: str) -> str:
    return "accuracy_missed" if policy == "strict-accuracy" else "deadline_missed"


@dataclass(frozen=True)
class Found:
    """What a search has tried.

    Attributes:
        frame: a row for each design: its variables, ``latency``, ``p99``, ``accuracy``, ``energy``, ``area``, ``hit``,
            ``missed`` (SI units), ``feasible`` and ``on_front``.
        objectives: of the search.
        stopped: why it stopped.
        budgets: of the problem, in SI units.
    """

    frame: pd.DataFrame
    objectives: tuple[str, ...]
    stopped: str
    budgets: Mapping[str, float] = field(default_factory=dict)

    @property
    def front(self) -> pd.DataFrame:
        """The designs that no other beats in all objectives, by the first of them."""
        return (
            self.frame[self.frame["on_front"]].sort_values(list(self.objectives)).drop(columns=["feasible", "on_front"])
        )

    @property
    def exceeded(self) -> dict[str, dict[str, float]]:
        """Budgets that designs do not keep, the one that most of them miss first.

        For each: ``designs`` that miss it, the ``limit``, the ``best`` that any design reaches (SI units), and the
        ``excess`` of that best over the limit as a share of the limit (of accuracy what is lacking), 0 where it is
        kept.
        """
        found = {}
        for name, limit in self.budgets.items():
            values = self.frame[name].to_numpy(float)
            over = np.array([_excess(name, value, limit) for value in values])
            if (over > 0).any():
                at = int(np.nanargmin(over))
                found[name] = {"designs": int((over > 0).sum()), "limit": float(limit), "best": float(values[at]),
                               "excess": float(max(over[at], 0.0))}  # fmt: skip
        return dict(sorted(found.items(), key=lambda item: (-item[1]["designs"], -item[1]["excess"])))

    def _misses(self) -> str:
        """The budgets that are missed, in words."""
        lines = ["No design keeps within all budgets:"]
        for name, of in self.exceeded.items():
            limit, best = _cell(name, of["limit"]), _cell(name, of["best"])
            away = f", {of['excess']:.2%} above it" if of["excess"] else ""
            if of["excess"] and name == "accuracy":
                away = f", {100 * (of['limit'] - of['best']):.2f} points below it"
            elif of["excess"] > 10:
                away = f", {of['excess'] + 1:,.4g} times as much"
            bound = "least" if name == "accuracy" else "most"
            lines.append(f"  {name}: {of['designs']:,} of {len(self.frame):,} miss {limit} at {bound}; "
                         f"the best has {best}{away}")  # fmt: skip
        return "\n".join(lines)

    def __str__(self) -> str:
        good = int(self.frame["feasible"].sum())
        head = f"{len(self.frame):,} designs tried, {good:,} within the budgets; {self.stopped}"
        if not good and self.exceeded:
            return f"{head}\n\n{self._misses()}"
        columns = [*USUAL, *dict.fromkeys((*self.objectives, "accuracy", "hit"))]
        shown = self.front[columns].head(12)
        cells = [[_cell(name, value) for name, value in row.items()] for row in shown.to_dict("records")]
        widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
        lines = ["  ".join(text.rjust(w) for text, w in zip(row, widths, strict=True)) for row in (columns, *cells)]
        left = len(self.front) - len(shown)
        more = f"\n... and {left} more on the front" if left > 0 else ""
        return "\n".join([head, "", f"On the front ({len(self.front)}):", *lines]) + more


def _cell(name: str, value: Any) -> str:
    if name == "buffer":
        return f"{value / MIB:.4g} MiB"
    if name == "area":
        return f"{value * 1e6:.4g} mm2"
    if name in ("accuracy", "hit"):
        return f"{value:.2%}"
    return engineering(float(value), UNITS[name], 4) if name in UNITS else str(value)


def search(
    problem: Problem, *, vary: Mapping[str, Sequence[Any]] | None = None, trials: int = 200, seed: int = 0,
    method: str = "auto", folder: Path | str | None = None, storage: str | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Found:  # fmt: skip
    """Search with Optuna's samplers; the same seed finds the same designs.

    Interrupted (Ctrl-C) it returns what was tried so far; with a folder or a storage the same call goes on from there.

    Args:
        vary: values of some variables, see :func:`variables`.
        trials: designs to try in all.
        seed: of the sampler.
        method: of :func:`dse.explore.search.driver.run_search`; ``auto`` is NSGA-II, from four objectives on NSGA-III,
            and TPE for one.
        folder, storage: where the search is kept, see :mod:`dse.explore.search.storage`.
        progress: called with the numbers of designs done and to do.
    """
    from dse.explore.search.driver import run_search

    chosen = variables(vary)
    if method == "auto":
        method = "tpe" if len(problem.objectives) == 1 else "nsga2" if len(problem.objectives) < 4 else "nsga3"
    kept = _Kept(problem)
    directions = ["maximize" if name == "accuracy" else "minimize" for name in problem.objectives]
    try:
        log = run_search(
            chosen, directions, kept, trials=trials, seed=seed, method=method, folder=folder, storage=storage,
            progress=progress,
        )  # fmt: skip
    except KeyboardInterrupt:
        if not kept.tried:
            raise
        return _found(kept.tried, problem, f"interrupted after {len(kept.tried):,} of {trials:,}")
    return _found([(trial.point, trial.outcome) for trial in log.trials], problem, log.stopped)


class _Kept:
    """An evaluation that remembers what it was asked."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.tried = problem, []

    def __call__(self, point: Point) -> Outcome:
        outcome = self.problem(point)
        self.tried.append((point, outcome))
        return outcome


def _found(tried: Sequence[tuple[Point, Outcome]], problem: Problem, stopped: str) -> Found:
    import pandas as pd

    from dse.explore.search.pareto import front

    frame = pd.DataFrame([{**point, **outcome.payload, "feasible": outcome.feasible} for point, outcome in tried])
    signs = [-1.0 if name == "accuracy" else 1.0 for name in problem.objectives]
    good = np.flatnonzero(frame["feasible"])
    best = good[front(frame.loc[good, list(problem.objectives)].to_numpy(float) * signs)]
    return Found(
        frame.assign(on_front=np.isin(np.arange(len(frame)), best)), problem.objectives, stopped, problem.budgets
    )


def budgets(texts: Sequence[str]) -> dict[str, float]:
    """Budgets in words: ``area <= 40 mm^2``, ``energy <= 20 mJ``, ``accuracy >= 78 %``.

    Raises:
        SpecError: another form, a unit that does not fit, a limit of nothing or less, a budget given twice.
    """
    found = {}
    for text in texts:
        sign = "<=" if "<=" in text else ">="
        name, _, value = (part.strip() for part in text.partition(sign))
        if name not in OBJECTIVES or not value or (sign == ">=") != (name == "accuracy"):
            rule = f"must be NAME <= VALUE UNIT (accuracy >= VALUE), NAME one of {', '.join(OBJECTIVES)}"
            raise SpecError([Fault("budget", repr(text[:60]), rule)])
        try:
            limit = float(parse(value, OBJECTIVES[name]))
        except UnitError as error:
            raise SpecError([Fault(f"budget.{name}", repr(value)[:40], str(error))]) from None
        fault = _no_limit(name, limit, value)
        if name in found:
            fault = Fault(f"budget.{name}", value[:40], "is given twice")
        if fault:
            raise SpecError([fault])
        found[name] = limit
    return found


def problem(
    subnets: Sequence[SubNet], accelerator: Any = "zcu104", *, kind: str = "markov", queries: int = 2000, seed: int = 0,
    stay: float = 0.98, **settings: Any,
) -> Problem:  # fmt: skip
    """A problem whose queries ask for what the unchanged accelerator offers without a SubGraph."""
    if kind not in CLOSED:
        rule = f"must be one of {', '.join(CLOSED)}: a search serves one query after the other"
        raise SpecError([Fault("stream", repr(kind)[:60], rule)])
    base = load_subgraph_accelerator(accelerator)
    plain = priced(base, subnets, count=1, kinds=("shared",))
    extra = {"stay": stay} if kind == "markov" else {}
    return Problem(subnets, base, stream(plain, kind, queries, seed=seed, **extra), seed=seed, **settings)
