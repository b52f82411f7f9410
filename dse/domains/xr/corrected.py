"""What each thing that the published benchmark gets wrong or hides does to its scores and to its ranking, side by side.

Each effect is a change of :class:`dse.domains.xr.conditions.Conditions`, by itself and all together. Systems meet
the same seeds, so that the share of seeds in which one wins says how sure its place is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.xr.conditions import Conditions
from dse.domains.xr.costs import Costs
from dse.domains.xr.published import simulate
from dse.domains.xr.scenarios import Scenario, scenario_ids
from dse.domains.xr.scores import scores
from dse.domains.xr.systems import System, system, systems
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = "as published"
CORRECTED = "corrected"
_JITTER = {"periods": "real", "jitter": 1e-5}  # as wide as what the artifact draws and does not use
_ALL = {
    **_JITTER, "dependencies": "frame", "in_flight": "logged", "qoe": "once",
    "absent": "left-out", "depthwise": "grouped",
}  # fmt: skip
EFFECTS: dict[str, dict[str, Any]] = {
    PUBLISHED: {},
    "real periods and jitter": _JITTER,
    "depthwise layers as such": {"depthwise": "grouped"},
    "dropped frames count once": {"qoe": "once"},
    "drops cascade": {"dependencies": "frame"},
    "work in flight logged": {"in_flight": "logged"},
    "models not asked for left out": {"absent": "left-out"},
    "horizon 10 s": {"horizon": 10.0},
    "NoC 256 in all": {"noc_bandwidth": 256},
    "DRAM and L2 counted": {"memory": "counted"},
    "NoC, DRAM and L2 equal": {"memory": "counted", "noc_bandwidth": 256, "offchip_bandwidth": 128, "l2": 2.0**23},
    "earliest deadline first": {"order": "deadline"},
    "earliest deadline, wait for best": {"order": "deadline", "placing": "wait"},
    "energy against 2 W": {"power": 2.0},
    CORRECTED: _ALL,
}
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Comparison:
    """Attributes:
    effects: names, in order.
    systems: ids.
    sizes: PEs of each system; systems of a size are ranked among themselves.
    scores: gross score (mean over scenarios) of each effect, system and seed [E, S, N].
    scenarios: score of each scenario, [E, S, scenarios, N].
    scenario_names: ids or names.
    """

    effects: tuple[str, ...]
    systems: tuple[str, ...]
    sizes: tuple[int, ...]
    scores: np.ndarray
    scenarios: np.ndarray
    scenario_names: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """One row an effect and system.

        Columns: effect, system, size (PEs), mean over seeds with the ends ``low`` and ``high`` of its 95 % interval
        (Student's t), deviation between seeds, rank of the mean and share of seeds ``p_best`` in which it is the best
        of its size, and the change of mean and rank from the first effect.
        """
        import pandas as pd

        effects, count, seeds = self.scores.shape
        mean = self.scores.mean(axis=2)
        deviation = self.scores.std(axis=2, ddof=1) if seeds > 1 else np.zeros_like(mean)
        half = _half_width(deviation, seeds)
        rank, best = np.empty((effects, count), dtype=int), np.empty((effects, count))
        for at in self._groups():
            rank[:, at] = (mean[:, None, at] > mean[:, at, None]).sum(axis=2) + 1
            top = self.scores[:, at] == self.scores[:, at].max(axis=1, keepdims=True)
            best[:, at] = (top / top.sum(axis=1, keepdims=True)).mean(axis=2)
        columns = {
            "effect": np.repeat(np.array(self.effects), count).reshape(effects, count),
            "system": np.tile(np.array(self.systems), (effects, 1)), "size": np.tile(self.sizes, (effects, 1)),
            "mean": mean, "low": mean - half, "high": mean + half, "deviation": deviation, "rank": rank, "p_best": best,
            "change": mean - mean[:1], "rank_change": rank - rank[:1],
        }  # fmt: skip
        return pd.DataFrame({name: np.ravel(values) for name, values in columns.items()})

    def by_scenario(self) -> pd.DataFrame:
        """One row an effect, system and scenario: mean over seeds and deviation between them."""
        import pandas as pd

        names = [self.effects, self.systems, self.scenario_names]
        index = pd.MultiIndex.from_product(names, names=["effect", "system", "scenario"])
        deviation = self.scenarios.std(axis=3, ddof=1) if self.scenarios.shape[3] > 1 else np.zeros(index.size)
        mean = self.scenarios.mean(axis=3).ravel()
        return pd.DataFrame({"mean": mean, "deviation": np.ravel(deviation)}, index=index).reset_index()

    def _groups(self) -> list[np.ndarray]:
        sizes = np.array(self.sizes)
        return [np.flatnonzero(sizes == size) for size in np.unique(sizes)]


def compare(
    effects: Mapping[str, Mapping[str, Any]] | Iterable[str] | None = None, *,
    systems_: Iterable[System | str] | None = None, scenarios: Sequence[Scenario | str] | None = None,
    seeds: Sequence[int] = range(1, 101), costs: Costs | None = None, base: Conditions | None = None,
    say: Callable[[int, int], object] | None = None,
) -> Comparison:  # fmt: skip
    """Score systems under each effect.

    Args:
        effects: names of :data:`EFFECTS`, or changes of conditions by names of one's own; by default all of EFFECTS.
        systems_, scenarios: by default all of XRBench.
        seeds: the same for all.
        costs: of models, for all effects alike; by default each effect's own (dense or grouped layers, NoC bandwidth).
        base: what the effects change; by default as published.
        say: told how many of how many effects are done.

    Raises:
        SpecError: an effect that is not known, or changes that do not fit.
    """
    changes = _changes(effects)
    listed = [system(item) for item in (systems_ if systems_ is not None else systems())]
    chosen = list(scenarios if scenarios is not None else scenario_ids())
    if not chosen:
        raise SpecError([Fault("scenarios", "", "must be one or more")])
    found = []
    for at, change in enumerate(changes.values()):
        conditions = (base or Conditions()).replace(**change)
        runs = [simulate(item, listed, seeds=seeds, costs=costs, conditions=conditions) for item in chosen]
        found.append([scores(run, conditions).overall for run in runs])
        if say is not None:
            say(at + 1, len(changes))
    values = np.moveaxis(np.array(found), 1, 2)
    names = tuple(item if isinstance(item, str) else item.name for item in chosen)
    sizes = tuple(item.num_pes for item in listed)
    return Comparison(tuple(changes), tuple(i.id for i in listed), sizes, values.mean(axis=2), values, names)


def _changes(effects: Mapping[str, Mapping[str, Any]] | Iterable[str] | None) -> dict[str, Mapping[str, Any]]:
    if effects is None:
        return dict(EFFECTS)
    if isinstance(effects, Mapping):
        return dict(effects)
    names = list(effects)
    wrong = [Fault("effect", repr(n)[:60], f"must be one of {', '.join(EFFECTS)}") for n in names if n not in EFFECTS]
    if wrong or not names:
        raise SpecError(wrong or [Fault("effects", "", "must be one or more")])
    return {name: EFFECTS[name] for name in names}


def _half_width(deviation: np.ndarray, seeds: int) -> np.ndarray:
    """Half of the interval that holds the mean over all seeds; infinite from one seed of runs that differ."""
    if seeds == 1:
        return np.full_like(deviation, np.inf)
    from scipy.stats import t

    return t.ppf(0.5 + _CONFIDENCE / 2, seeds - 1) * deviation / np.sqrt(seeds)
