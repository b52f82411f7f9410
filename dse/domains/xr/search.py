"""Search for XR accelerators: parts, split of PEs and bandwidth, dataflows, L2 and scheduler, under area and power."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.xr.conditions import Conditions
from dse.domains.xr.costs import LayerModel
from dse.domains.xr.policies import policy
from dse.domains.xr.runtime import OWN, simulate
from dse.domains.xr.scenarios import scenario, scenario_ids
from dse.domains.xr.systems import SubAccelerator, System
from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.catalogue import asset_root
from dse.spec.fields import Area, CountOrZero
from dse.spec.load import read_yaml
from dse.units import UnitError, engineering, parse

if TYPE_CHECKING:
    import pandas as pd

    from dse.explore.search.outcome import Outcome
    from dse.explore.search.space import Point, Variable

MIB = 2**20
# Objectives and their units; of the score more is better. Budgets bound any of them, the score from below.
OBJECTIVES = {"score": "1", "energy": "J", "power": "W", "area": "m^2"}
USUAL: dict[str, tuple[Any, ...]] = {
    "pes": (2048, 4096, 6144, 8192),
    "parts": (1, 2, 4),
    "split": ("even", "3:1", "1:3"),
    "dataflows": ("WS", "OS", "RS", "WS+OS", "WS+RS", "OS+RS"),
    "noc": (128, 256, 512, 1024),
    "noc_split": ("even", "by PEs"),
    "l2": (2 * MIB, 4 * MIB, 8 * MIB, 16 * MIB),
    "policy": ("published", "fcfs", "edf", "least-slack", "wait-for-best", "edf-wait", "thrifty", "dynamic"),
}
_UNORDERED = ("split", "dataflows", "noc_split", "policy")
UNITS = {"l2": "B", **OBJECTIVES}


class Silicon(Spec):
    """What things take on the die.

    Attributes:
        pe: of a multiply-add unit. sram: of a byte. link: of an element a cycle of NoC bandwidth. part: of each part.
        l1: bytes of each PE.
    """

    pe: Area
    sram: Area
    link: Area
    part: Area = 0.0
    l1: CountOrZero = 0

    def area(self, item: System) -> float:
        """Area of a system, m^2."""
        per_part = (
            self.part + (part.num_pes or 0) * (self.pe + self.l1 * self.sram) + (part.noc_bandwidth or 0) * self.link
            + (part.l2 or 0) * self.sram
            for part in item.parts
        )  # fmt: skip
        return float(sum(per_part))


@lru_cache(maxsize=1)
def silicon() -> Silicon:
    """Assumed values of ``data/xrbench/area.yaml``."""
    path = asset_root("data") / "xrbench" / "area.yaml"
    data, lines = read_yaml(path)
    return Silicon.parse(data, where=str(path), lines=lines)


def variables(values: Mapping[str, Sequence[Any]] | None = None) -> list[Variable]:
    """What varies: the usual values, or those that are given.

    Args:
        values: for ``pes`` (of all parts), ``parts``, ``split`` (of PEs and L2: even, or shares such as 3:1 in turn),
            ``dataflows`` (in turn over the parts), ``noc`` (elements a cycle of all), ``noc_split`` (even, by PEs),
            ``l2`` (bytes of all) and ``policy``.

    Raises:
        SpecError: an unknown name, or values that are none.
    """
    from dse.explore.search.space import Variable

    given = dict(values or {})
    if unknown := sorted(set(given) - set(USUAL)):
        raise SpecError([Fault(f"vary.{name}"[:60], "", f"must be one of {', '.join(USUAL)}") for name in unknown])
    return [Variable(name, tuple(given.get(name, of)), categorical=name in _UNORDERED) for name, of in USUAL.items()]


def design(point: Point, offchip: int = 128) -> System:
    """The system of a point. Splits are in turn over the parts, in whole PEs, elements and bytes.

    Args:
        offchip: elements a cycle of all parts, split evenly; used where DRAM is counted.

    Raises:
        SpecError: a part that would have nothing.
    """
    count = int(point["parts"])
    shares = np.ones(count) if point["split"] == "even" else np.resize(_shares(point["split"]), count)
    flows = str(point["dataflows"]).split("+")
    pes = _split(int(point["pes"]), shares, "pes")
    noc = _split(int(point["noc"]), np.ones(count) if point["noc_split"] == "even" else shares, "noc")
    l2 = _split(int(point["l2"]), shares, "l2")
    off = _split(offchip, np.ones(count), "offchip")
    kinds = {flows[a % len(flows)] for a in range(count)}
    style = "FDA" if count == 1 else "SFDA" if len(kinds) == 1 else "HDA"
    parts = [
        {
            "dataflow": flows[a % len(flows)],
            "num_pes": pes[a],
            "noc_bandwidth": noc[a],
            "l2": l2[a],
            "offchip_bandwidth": off[a],
        }
        for a in range(count)
    ]
    told = f"{point['pes']}-{count}-{'+'.join(flows)}"
    return System(id=told, style=style, parts=tuple(SubAccelerator.parse(part) for part in parts))


def _shares(text: str) -> np.ndarray:
    try:
        found = np.array([float(part) for part in str(text).split(":")])
    except ValueError:
        found = np.zeros(1)
    if found.size < 2 or not (found > 0).all() or not np.isfinite(found).all():
        raise SpecError([Fault("split", repr(text)[:40], "must be even, or shares such as 3:1")])
    return found


def _split(total: int, shares: np.ndarray, name: str) -> list[int]:
    edges = np.rint(np.cumsum(shares) / shares.sum() * total).astype(np.int64)
    found = np.diff(np.concatenate([[0], edges]))
    if found.min() < 1:
        raise SpecError([Fault(name, str(total), f"must be {shares.size} at least: one for each part")])
    return [int(value) for value in found]


@dataclass(frozen=True)
class Problem:
    """What is searched.

    Attributes:
        scenarios: ids, paths or specs; the score is the mean over them and over seeds.
        objectives: some of :data:`OBJECTIVES`. Energy is of a frame that was run; power that of all models, with what
            ran behind the horizon.
        budgets: the most (of the score the least) that a design may have of some of them, in SI units.
        seeds: of each run; all designs meet the same.
        conditions: how runs are carried out and counted; ours with DRAM and L2 counted by default.
        offchip: bandwidth of DRAM, elements a cycle, split evenly between the parts.
        area: of what things take.
        compare: also score each design as published (dense layers, published scheduler and counting).
    """

    scenarios: Sequence[Any] = field(default_factory=scenario_ids)
    objectives: tuple[str, ...] = ("score", "energy", "area")
    budgets: Mapping[str, float] = field(default_factory=dict)
    seeds: Sequence[int] = tuple(range(1, 21))
    conditions: Conditions = field(default_factory=lambda: OWN.replace(memory="counted"))
    offchip: int = 128
    area: Silicon = field(default_factory=silicon)
    compare: bool = False

    def __post_init__(self) -> None:
        checks = (("objectives", self.objectives), ("budgets", self.budgets))
        faults = [
            Fault(where, repr(name)[:60], f"must be one of {', '.join(OBJECTIVES)}")
            for where, names in checks
            for name in names
            if name not in OBJECTIVES
        ]
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            faults.append(Fault("objectives", ", ".join(self.objectives), "must be one or more, each once"))
        if not self.scenarios:
            faults.append(Fault("scenarios", "", "must be one or more"))
        if faults:
            raise SpecError(faults)
        object.__setattr__(self, "scenarios", tuple(scenario(item) for item in self.scenarios))
        object.__setattr__(self, "_costs", {})

    def __call__(self, point: Point) -> Outcome:
        """Run the scenarios on the design, and hold it against the budgets."""
        from dse.explore.search.outcome import Outcome

        built = design(point, self.offchip)
        numbers = self.measured(built, point["policy"]) | {"area": self.area.area(built)}
        over = {name: _excess(name, numbers[name], limit) for name, limit in self.budgets.items()}
        payload = dict(numbers)
        if self.compare:
            payload["published"] = self._score(built, "published", Conditions())[0]
        return Outcome(tuple(numbers[name] for name in self.objectives), over, payload)

    def measured(self, built: System, policy_: Any) -> dict[str, float]:
        """Score, share of frames missed, energy [J a frame] and power [W], means over scenarios and seeds."""
        score, missed, energy, power = self._score(built, policy_, self.conditions)
        return {"score": score, "missed": missed, "energy": energy, "power": power}

    def _score(self, built: System, policy_: Any, conditions: Conditions) -> np.ndarray:
        """Score, missed, energy and power."""
        rule = policy(policy_)
        kind = (conditions.depthwise, conditions.memory == "counted")
        known = self._costs.setdefault(kind, _Remembered(*kind))  # type: ignore[attr-defined]
        costs = None if rule.preempt else known
        found = []
        for item in self.scenarios:
            runs = simulate(item, [built], policy_=rule, seeds=self.seeds, costs=costs, conditions=conditions)
            counted = runs.sums.values.sum(axis=(0, 1, 2))
            ran, spent = max(counted[0] - counted[1], 1), 1e-3 * counted[6]
            span = np.maximum(1e-3 * runs.sums.values[..., 7].max(axis=2), conditions.horizon).sum()
            score = float(runs.scores().overall.mean())
            found.append((score, (counted[1] + counted[2]) / max(counted[0], 1), spent / ran, spent / span))
        return np.mean(found, axis=0).tolist()


class _Remembered:
    """The cost model of layers, which remembers what it was asked: parts come again in many designs."""

    def __init__(self, depthwise: Any, dram: bool) -> None:
        self.model, self.known = LayerModel(depthwise, dram=dram), {}

    def of(self, models: Sequence[str], parts: Sequence[SubAccelerator]) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`dse.domains.xr.costs.Costs`."""
        for part in parts:
            new = [model for model in models if (model, part) not in self.known]
            if new:
                latency, energy = self.model.of(new, [part])
                self.known |= {(model, part): (latency[m, 0], energy[m, 0]) for m, model in enumerate(new)}
        found = np.array([[self.known[model, part] for part in parts] for model in models])
        return found[..., 0], found[..., 1]


def _excess(name: str, value: float, limit: float) -> float:
    """By which share a budget is exceeded."""
    share = value / limit - 1 if limit else np.inf
    return -share if name == "score" else share


@dataclass(frozen=True)
class Found:
    """What a search has tried.

    Attributes:
        frame: a row for each design: its variables, ``score``, ``missed``, ``energy``, ``power``, ``area`` (SI units),
            ``published`` if it was compared, ``feasible`` and ``on_front``.
        objectives: of the search.
        stopped: why it stopped.
    """

    frame: pd.DataFrame
    objectives: tuple[str, ...]
    stopped: str

    @property
    def front(self) -> pd.DataFrame:
        """The designs that no other beats in all objectives, the best in the first of them first."""
        kept = self.frame[self.frame["on_front"]]
        upwards = [name != "score" for name in self.objectives]
        return kept.sort_values(list(self.objectives), ascending=upwards).drop(columns=["feasible", "on_front"])

    def agreement(self) -> float:
        """Kendall's rank correlation of the score with the published one, over all designs.

        Raises:
            SpecError: the designs were not compared.
        """
        from scipy.stats import kendalltau

        if "published" not in self.frame:
            raise SpecError([Fault("compare", "", "was not asked for")])
        return float(kendalltau(self.frame["score"], self.frame["published"]).statistic)

    def __str__(self) -> str:
        good = int(self.frame["feasible"].sum())
        head = f"{len(self.frame):,} designs tried, {good:,} within the budgets; {self.stopped}"
        columns = [*USUAL, *(name for name in (*OBJECTIVES, "missed", "published") if name in self.frame)]
        shown = self.front[columns].head(12)
        cells = [[_cell(name, value) for name, value in row.items()] for row in shown.to_dict("records")]
        widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
        lines = ["  ".join(text.rjust(w) for text, w in zip(row, widths, strict=True)) for row in (columns, *cells)]
        left = len(self.front) - len(shown)
        more = f"\n... and {left} more on the front" if left > 0 else ""
        return "\n".join([head, "", f"On the front ({len(self.front)}):", *lines]) + more


def _cell(name: str, value: Any) -> str:
    if name == "l2":
        return f"{value / MIB:.4g} MiB"
    if name == "area":
        return f"{value * 1e6:.4g} mm2"
    if name in ("score", "published"):
        return f"{value:.4f}"
    if name == "missed":
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
        method: of :func:`dse.explore.search.driver.run_search`; ``auto`` is NSGA-II, NSGA-III for four objectives,
            and TPE for one.
        folder, storage: where the search is kept, see :mod:`dse.explore.search.storage`.
        progress: called with the numbers of designs done and to do.

    Raises:
        SpecError: values of a variable that make no design.
    """
    from dse.explore.search.driver import run_search

    chosen = variables(vary)
    _check(chosen)
    if method == "auto":
        method = "tpe" if len(problem.objectives) == 1 else "nsga2" if len(problem.objectives) < 4 else "nsga3"
    tried: list[tuple[Point, Outcome]] = []

    def evaluate(point: Point) -> Outcome:
        outcome = problem(point)
        tried.append((point, outcome))
        return outcome

    directions = ["maximize" if name == "score" else "minimize" for name in problem.objectives]
    try:
        log = run_search(
            chosen, directions, evaluate, trials=trials, seed=seed, method=method, folder=folder, storage=storage,
            progress=progress,
        )  # fmt: skip
    except KeyboardInterrupt:
        if not tried:
            raise
        return _found(tried, problem, f"interrupted after {len(tried):,} of {trials:,}")
    return _found([(trial.point, trial.outcome) for trial in log.trials], problem, log.stopped)


def _check(chosen: Sequence[Variable]) -> None:
    """Refuse values that make no design before anything is tried: the least of each size with the most parts."""
    values = {item.name: item.values for item in chosen}
    for name in values["policy"]:
        policy(name)
    least = {name: min(values[name]) for name in ("pes", "noc", "l2")} | {"parts": max(values["parts"])}
    for split in values["split"]:
        for noc_split in values["noc_split"]:
            if noc_split not in ("even", "by PEs"):
                raise SpecError([Fault("noc_split", repr(noc_split)[:40], "must be even or by PEs")])
            for flows in values["dataflows"]:
                design({**least, "split": split, "noc_split": noc_split, "dataflows": flows, "policy": "published"})


def _found(tried: Iterable[tuple[Point, Outcome]], problem: Problem, stopped: str) -> Found:
    import pandas as pd

    from dse.explore.search.pareto import front

    frame = pd.DataFrame([{**point, **outcome.payload, "feasible": outcome.feasible} for point, outcome in tried])
    signs = [-1.0 if name == "score" else 1.0 for name in problem.objectives]
    good = np.flatnonzero(frame["feasible"])
    best = good[front(frame.loc[good, list(problem.objectives)].to_numpy(float) * signs)]
    return Found(frame.assign(on_front=np.isin(np.arange(len(frame)), best)), problem.objectives, stopped)


def budgets(texts: Sequence[str]) -> dict[str, float]:
    """Budgets in words: ``area <= 8 mm^2``, ``power <= 2 W``, ``score >= 0.8``.

    Raises:
        SpecError: another form, or a unit that does not fit.
    """
    found = {}
    for text in texts:
        sign = "<=" if "<=" in text else ">="
        name, _, value = (part.strip() for part in text.partition(sign))
        if name not in OBJECTIVES or not value or (sign == ">=") != (name == "score"):
            rule = f"must be NAME <= VALUE UNIT (score >= VALUE), NAME one of {', '.join(OBJECTIVES)}"
            raise SpecError([Fault("budget", repr(text[:60]), rule)])
        try:
            found[name] = float(parse(value, OBJECTIVES[name]))
        except UnitError as error:
            raise SpecError([Fault(f"budget.{name}", repr(value)[:40], str(error))]) from None
    return found
