"""Systems scored in several scenarios: gross scores with confidence, and tables by system, scenario, model and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.xr import published, runtime
from dse.domains.xr.conditions import Conditions
from dse.domains.xr.corrected import Comparison
from dse.domains.xr.costs import Costs
from dse.domains.xr.scenarios import scenario, scenario_ids
from dse.domains.xr.scores import by_model, by_seed, scores
from dse.domains.xr.systems import System

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Scored:
    """Attributes:
    compared: gross scores of one effect, whose name is that of the runs.
    seeds: by scenario, system and seed, as :func:`dse.domains.xr.scores.by_seed` with ``scenario``, ``score`` and
        ``missed`` (share of frames that were dropped or late).
    models: by scenario, system, seed and model.
    """

    compared: Comparison
    seeds: pd.DataFrame
    models: pd.DataFrame

    def by_system(self) -> pd.DataFrame:
        """One row a system: gross score with the ends of its 95 % interval, rank and chance to be the best of its size,
        means over scenarios and seeds of rt, en, ux, missed and power [W]."""
        told = self.compared.table().rename(columns={"mean": "score"})
        told = told[["system", "size", "score", "low", "high", "deviation", "rank", "p_best"]]
        means = self.seeds.groupby("system", sort=False)[["rt", "en", "ux", "missed", "power"]].mean()
        return told.merge(means, left_on="system", right_index=True, how="left", validate="one_to_one")

    def by_scenario(self) -> pd.DataFrame:
        """One row a system and scenario: means over seeds, and the deviation of the score between them."""
        columns = ["score", "rt", "en", "ux", "frames", "dropped", "late", "missed", "power"]
        grouped = self.seeds.groupby(["system", "scenario"], sort=False)
        found = grouped[columns].mean()
        found.insert(1, "deviation", grouped["score"].std().fillna(0.0))
        return found.reset_index()

    def by_model(self) -> pd.DataFrame:
        """One row a system, scenario and model: means over the seeds in which it was asked for; energy [J]."""
        keys = ["system", "scenario", "model"]
        grouped = self.models.groupby(keys, sort=False)
        found = grouped[["score", "rt", "en", "ux", "frames", "dropped", "late", "energy"]].mean()
        return found.assign(seeds=grouped.size()).reset_index()

    def table(self, by: str) -> pd.DataFrame:
        """By system, scenario, model or seed."""
        return self.seeds if by == "seed" else getattr(self, f"by_{by}")()


def scored(
    scenarios: Sequence[Any] | None, systems: Sequence[System], *, conditions: Conditions | None = None,
    policy_: Any = None, costs: Costs | None = None, seeds: Sequence[int] = range(1, 101), **extras: Any,
) -> Scored:  # fmt: skip
    """Score systems.

    Args:
        scenarios: by default all of XRBench.
        conditions: as published by default.
        policy_: scheduler; None: the one of the conditions.
        extras: ``sensors`` and ``memory``, as of :func:`dse.domains.xr.runtime.simulate`.

    Raises:
        SpecError: what does not fit together.
    """
    import pandas as pd

    conditions = conditions or Conditions()
    chosen = [scenario(item) for item in scenarios or scenario_ids()]
    names = tuple(
        item if isinstance(item, str) and item in scenario_ids() else posed.name
        for item, posed in zip(scenarios or scenario_ids(), chosen, strict=True)
    )
    own, overall, frames, models = policy_ is not None or bool(extras), [], [], []
    for name, posed in zip(names, chosen, strict=True):
        if own:
            sums = runtime.simulate(posed, systems, policy_=policy_ or "published", seeds=seeds, costs=costs,
                                    conditions=conditions, **extras).sums  # fmt: skip
        else:
            sums = published.simulate(posed, systems, seeds=seeds, costs=costs, conditions=conditions)
        found = scores(sums, conditions)
        overall.append(found.overall)
        frames.append(by_seed(sums, found).assign(scenario=name))
        models.append(by_model(sums, found).assign(scenario=name))
    values = np.moveaxis(np.array(overall), 0, 1)
    compared = Comparison(
        ("score",), tuple(item.id for item in systems), tuple(item.num_pes for item in systems),
        values.mean(axis=1)[None], values[None], names,
    )  # fmt: skip
    every = pd.concat(frames, ignore_index=True).rename(columns={"overall": "score"})
    every["missed"] = (every["dropped"] + every["late"]) / every["frames"].clip(lower=1)
    return Scored(compared, every, pd.concat(models, ignore_index=True))
