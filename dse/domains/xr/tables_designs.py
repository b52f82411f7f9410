"""Tables of XRBench for studies, second part: what conditions, schedulers, power and sensors do to systems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dse.domains.tables import Say, Table
from dse.domains.xr.conditions import Conditions
from dse.domains.xr.corrected import CORRECTED, EFFECTS, compare
from dse.domains.xr.policies import POLICIES, policy
from dse.domains.xr.runtime import OWN, Runs, simulate
from dse.domains.xr.scenarios import scenario, scenario_ids
from dse.domains.xr.scores import by_seed
from dse.domains.xr.systems import System, system, systems
from dse.domains.xr.tables import KEYS, Seeds
from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.fields import Count, CountOrZero, Text

if TYPE_CHECKING:
    import pandas as pd

Mode = Literal["published", "corrected", "own"]
UNITS = {"power": "W", "mean": "W", "peak": "W", "sustainable": "W", "time_to_limit": "s",
         **dict.fromkeys(("p50", "p95", "p99", "max"), "s"), "missed": "%", "over": "%", "p_best": "%"}  # fmt: skip


def mode(name: str, changes: dict[str, Any] | None = None) -> Conditions:
    """Conditions by name, with changes.

    Args:
        name: ``published``, ``corrected`` (each effect put right) or ``own`` (the runtime of the workbench: as
            corrected, without jitter).
        changes: fields of conditions and their values; texts may carry units.

    Raises:
        SpecError: no such mode, or with every fault of the changes.
    """
    known = {"published": Conditions(), "corrected": Conditions().replace(**EFFECTS[CORRECTED]), "own": OWN}
    if name not in known:
        raise SpecError([Fault("mode", repr(name)[:40], f"must be one of {', '.join(known)}")])
    return Conditions.parse({**known[name].model_dump(), **(changes or {})})


def listed(names: Sequence[Any]) -> list[System]:
    """Systems by id or file; all of XRBench for none, all of a size for ``4K`` or ``8K``."""
    found: list[System] = []
    for name in names or ("4K", "8K"):
        group = [item for key, item in systems().items() if key.startswith(f"{name}-")]
        found += group or [system(name)]
    return found


class Effects(Spec):
    """Gross scores and ranks under each effect (:mod:`dse.domains.xr.corrected`); one row an effect and system.

    ``score`` is the mean over seeds with its 95 % interval ``low`` to ``high``. ``rank`` and ``p_best`` (share of seeds
    in which it is the best) are among systems of its size, ``change`` and ``rank_change`` from the first effect.
    """

    effects: tuple[Text, ...] = tuple(EFFECTS)
    systems: tuple[Text, ...] = ()
    scenarios: tuple[Text, ...] = ()
    seeds: Seeds = 30
    first: Seeds = 1

    def table(self, say: Say) -> Table:
        found = compare(
            self.effects, systems_=listed(self.systems), scenarios=self.scenarios or scenario_ids(),
            seeds=range(self.first, self.first + self.seeds), say=lambda done, of: say(f"effect {done} of {of}"),
        )  # fmt: skip
        rows = found.table().rename(columns={"mean": "score"})
        rows = rows.astype({"rank": float, "rank_change": float})
        return Table(rows, ("effect", "system", "size"), {"p_best": "%"})


class Schedulers(Spec):
    """Systems under each scheduler, means over scenarios and seeds; one row a scheduler and system.

    ``score`` is gross, ``missed`` the share of frames that were dropped or late, ``power`` that of the models.
    ``gain`` is over the scheduler that is published, where that is among them.
    """

    schedulers: tuple[Text, ...] = tuple(POLICIES)
    systems: tuple[Text, ...] = ("8K",)
    scenarios: tuple[Text, ...] = ()
    conditions: Mode = "own"
    seeds: Seeds = 10

    def table(self, say: Say) -> Table:
        import pandas as pd

        rows, chosen = [], listed(self.systems)
        for name in self.schedulers:
            parts = [
                _run(item, chosen, self.seeds, mode(self.conditions), policy_=name)
                for item in self.scenarios or scenario_ids()
            ]
            rows.append(pd.concat(parts).groupby("system", sort=False).mean(numeric_only=True).assign(scheduler=name))
            say(f"scheduler {name}")
        frame = pd.concat(rows).reset_index()[["scheduler", "system", "score", "missed", "power"]]
        frame["size"] = frame["system"].map({item.id: item.num_pes for item in chosen})
        if "published" in self.schedulers:
            base = frame[frame["scheduler"] == "published"].set_index("system")["score"]
            frame["gain"] = frame["score"] - frame["system"].map(base)
        return Table(frame, ("scheduler", "system", "size"), UNITS)


def _run(scenario_: Any, chosen: list[System], seeds: int, conditions: Conditions, **settings: Any) -> pd.DataFrame:
    """Scores, misses and power by system and seed."""
    runs = simulate(scenario_, chosen, seeds=range(1, seeds + 1), conditions=conditions, **settings)
    frame = by_seed(runs.sums, runs.scores())
    missed = (frame["dropped"] + frame["late"]) / np.maximum(frame["frames"], 1)
    return frame.assign(missed=missed).rename(columns={"overall": "score"})


class Carried(Spec):
    """Power, heat and hours on a battery of systems in a headset; one row a system and scenario."""

    systems: tuple[Text, ...] = ("8K",)
    scenarios: tuple[Text, ...] = ()
    scheduler: Text = "published"
    headset: Text | None = None
    seeds: Seeds = 5

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.xr.power import summary

        parts, chosen = [], listed(self.systems)
        for name in self.scenarios or scenario_ids():
            runs = simulate(name, chosen, seeds=range(1, self.seeds + 1), conditions=OWN, policy_=self.scheduler,
                            width=1e-3)  # fmt: skip
            told = summary(runs, self.headset).drop(columns="mJ_per_frame").rename(columns={"accelerator": "power"})
            parts.append(told.assign(scenario=name, score=runs.scores().overall.mean(axis=1)))
        say(f"power of {len(chosen)} systems in {len(parts)} scenarios")
        return Table(pd.concat(parts, ignore_index=True), KEYS, UNITS)


class EndToEnd(Spec):
    """Time from a sensor to what each model finds, by scheduler; one row a scheduler, system and model.

    Frames come from sensors with jitter of their own; ``frames`` were done, ``dropped`` is the share that was not.
    """

    scenario: Text = "VR_gaming"
    systems: tuple[Text, ...] = ("8K",)
    schedulers: tuple[Text, ...] = ("published", "edf-wait", "dynamic")
    sensors: Text | None = None
    seeds: Seeds = 10

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.xr.models import code
        from dse.domains.xr.sensors import end_to_end, sensing

        parts, chosen, posed = [], listed(self.systems), scenario(self.scenario)
        for name in self.schedulers:
            runs = simulate(posed, chosen, seeds=range(1, self.seeds + 1), conditions=OWN, policy_=policy(name),
                            sensors=sensing(self.sensors), keep=True)  # fmt: skip
            told = end_to_end(runs)
            times = {f"{kind}_ms": kind for kind in ("p50", "p95", "p99", "max")}
            for column, short in times.items():
                told[short] = 1e-3 * told[column]
            told = told.assign(scheduler=name, model=told["model"].map(code), dropped=_dropped(runs))
            parts.append(told[["scheduler", "system", "model", "frames", "dropped", *times.values()]])
        say(f"{self.scenario}: {len(parts)} schedulers from sensor to model")
        keys = ("scheduler", "system", "model")
        return Table(pd.concat(parts, ignore_index=True), keys, {**UNITS, "dropped": "%"})


class Searched(Spec):
    """Accelerators that a search tried; one row a design, with what it scores as published beside its own score.

    ``on_front`` is yes for designs that no other beats; ``agreement`` is Kendall's rank correlation of both scores over
    all designs.
    """

    objectives: tuple[Text, ...] = ("score", "energy", "area")
    budgets: tuple[Text, ...] = ()
    scenarios: tuple[Text, ...] = ()
    trials: Count = 120
    seeds: Seeds = 5
    seed: CountOrZero = 0

    def table(self, say: Say) -> Table:
        from dse.domains.xr.search import Problem, budgets, search

        problem = Problem(
            scenarios=self.scenarios or scenario_ids(), objectives=self.objectives, budgets=budgets(self.budgets),
            seeds=range(1, self.seeds + 1), compare=True,
        )  # fmt: skip
        found = search(problem, trials=self.trials, seed=self.seed)
        say(f"{len(found.frame)} designs tried, {int(found.frame['on_front'].sum())} on the front")
        told = found.frame.assign(design=[str(at) for at in range(len(found.frame))], agreement=found.agreement())
        flags = {name: told[name].map({True: "yes", False: "no"}) for name in ("feasible", "on_front")}
        units = {"energy": "J", "power": "W", "area": "m^2", "l2": "B", "missed": "%"}
        return Table(told.assign(**flags), ("design", "parts", "dataflows", "policy", "feasible", "on_front"), units)


def _dropped(runs: Runs) -> np.ndarray:
    """Share of the frames that were dropped, of each system and model, flat."""
    logged, dropped = runs.sums.values[..., 0].sum(axis=1), runs.sums.values[..., 1].sum(axis=1)
    return np.ravel(dropped / np.maximum(logged, 1))
