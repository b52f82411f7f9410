"""Tables of XRBench for studies, first part: recorded runs of the artifact and of its cost model against ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from dse.domains.tables import Say, Table
from dse.spec.base import Spec
from dse.spec.catalogue import asset_root
from dse.spec.fields import Count, CountOrZero

if TYPE_CHECKING:
    import pandas as pd

Seeds = Annotated[Count, Field(le=100_000)]
KEYS = ("system", "scenario")
METRICS = ("rt", "en", "ux", "overall")
UNITS = {"time_error": "s", "energy_error": "J"}
FILES = {"seeds": "scores_by_seed", "models": "scores_by_model", "power": "power_and_drops_seed1"}
# Recorded conditions, those of the workbench, and the seeds over which the recorded means were taken.
VARIANTS: dict[str, tuple[int, dict[str, Any]]] = {
    "as-coded(30 seeds)": (30, {}),
    "horizon 10 s": (5, {"horizon": 10.0}),
    "no QoE^2": (30, {"qoe": "once"}),
    "triggered-only denominator": (30, {"absent": "left-out"}),
    "depthwise corrected": (30, {"depthwise": "grouped"}),
    "dw+10s+noQoE2": (3, {"depthwise": "grouped", "horizon": 10.0, "qoe": "once"}),
}
EQUAL_NOC = "NoC 256 in all"


def reference(name: str) -> pd.DataFrame:
    """A table of recorded runs, with ``system`` as ids of systems have it."""
    import pandas as pd

    frame = pd.read_parquet(asset_root("data") / "reference" / "xrbench" / f"{name}.parquet")
    if "pe_budget" in frame and "accelerator" in frame:
        frame.insert(0, "system", frame["pe_budget"].astype(str) + "-" + frame["accelerator"].astype(str))
    return frame


class Recorded(Spec):
    """Recorded scores, drops and energy against a run of the same seed; one row a system and scenario.

    ``error`` is the largest of any score and of any seed, ``wrong`` counts rows whose frames, drops or models differ.
    """

    of: Literal["seeds", "models", "power"] = "seeds"

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.xr.score_validate import validate

        file = asset_root("data") / "reference" / "xrbench" / f"{FILES[self.of]}.parquet"
        found = validate(file)
        rows = found.table
        system = rows["pe_budget"].astype(str) + "-" + rows["accelerator"].astype(str)
        made = {"system": system, "scenario": rows["scenario"], "wrong": (~rows["drops"]).astype(int), "runs": 1}
        if found.scores:
            made["error"] = rows["error"]
        for name in found.quantities:
            made[f"{name.partition('_')[0]}_apart"] = (rows[f"{name}_dse"] / rows[name] - 1).abs()
        grouped = pd.DataFrame(made).groupby(list(KEYS), sort=False)
        totals = {name: "sum" if name in ("wrong", "runs") else "max" for name in made if name not in KEYS}
        say(f"{len(rows):,} recorded rows")
        return Table(grouped.agg(totals).reset_index(), KEYS, UNITS)


class Timelines(Spec):
    """Recorded timelines of seed 1, frame by frame.

    ``wrong`` counts rows whose part, model, frame or fate differ, ``time_error`` and ``energy_error`` are the largest.
    """

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.xr.published import timeline

        rows, known = [], reference("schedules_seed1")
        for (system, scenario), part in known.groupby(list(KEYS), sort=False):
            ours, part = timeline(str(scenario), str(system)), part.reset_index(drop=True)
            same = len(ours) == len(part)
            told = {"system": system, "scenario": scenario, "frames": len(part), "wrong": abs(len(ours) - len(part))}
            if same:
                labels = ["acc", "model", "frame", "dropped"]
                times = [name for name in ours if name.endswith("_ms")]
                told["wrong"] = int((ours[labels].astype(str) != part[labels].astype(str)).any(axis=1).sum())
                told["time_error"] = 1e-3 * float((ours[times] - part[times]).abs().max(axis=None))
                told["energy_error"] = 1e-3 * float((ours["energy_mJ"] - part["energy_mJ"]).abs().max())
            rows.append(told)
        say(f"{len(known):,} frames of {len(rows)} timelines")
        return Table(pd.DataFrame(rows), KEYS, UNITS)


class Bars(Spec):
    """Bars of the published figure of scores against the nearest of the seeds; one row a system and scenario.

    ``chance`` says whether the scenario has any. ``error`` is the largest of the four scores of that seed.
    """

    seeds: Seeds = 100

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.xr.published import simulate
        from dse.domains.xr.scores import scores

        rows = []
        known = reference("published_fig5_bars")
        known = known[known["scenario"] != "gross_average"]  # means over scenarios, each of a seed that is not told
        for scenario, part in known.groupby("scenario", sort=False):
            run = simulate(str(scenario), part["system"], seeds=range(1, self.seeds + 1))
            found = scores(run)
            ours = np.stack([*found.bars, found.overall], axis=-1)
            apart = np.abs(ours - part[list(METRICS)].to_numpy(float)[:, None]).max(axis=2)
            near = apart.argmin(axis=1)
            chance = any(task.probability < 1 for task in run.scenario.tasks)
            for s, (system, n) in enumerate(zip(part["system"], near, strict=True)):
                rows.append({"system": system, "scenario": scenario, "chance": "yes" if chance else "no",
                             "seed": float(run.seeds[n]), "published": float(part["overall"].iloc[s]),
                             "mean": float(found.overall[s].mean()), "error": float(apart[s, n]),
                             **dict(zip(METRICS, ours[s, n], strict=True))})  # fmt: skip
        say(f"{4 * len(rows)} bars")
        # The published bar of a scenario with chance is that of one seed: how far it lies from the mean is luck.
        frame = pd.DataFrame(rows).assign(luck=lambda f: f["published"] - f["mean"])
        frame = frame.sort_values(list(KEYS), kind="stable", ignore_index=True)
        return Table(frame, (*KEYS, "chance"))


class Means(Spec):
    """Recorded means over seeds 1 to 100 of scenarios with chance in them, against means over seeds of one's own.

    ``apart`` is in standard errors of the difference.
    """

    seeds: Seeds = 100
    first: CountOrZero = 101

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.xr.published import simulate
        from dse.domains.xr.scores import scores

        rows, known = [], reference("scores_by_scenario")
        for scenario, part in known[known["n_seeds"] >= 100].groupby("scenario", sort=False):
            run = simulate(str(scenario), part["system"], seeds=range(self.first, self.first + self.seeds))
            overall = scores(run).overall
            mean, deviation = overall.mean(axis=1), overall.std(axis=1, ddof=1)
            told = part["overall_mean"].to_numpy(float), part["overall_std"].to_numpy(float)
            spread = np.sqrt(deviation**2 / self.seeds + told[1] ** 2 / part["n_seeds"].to_numpy(float))
            for s, system in enumerate(part["system"]):
                rows.append({"system": system, "scenario": scenario, "ours": mean[s], "recorded": told[0][s],
                             "deviation": deviation[s],
                             "apart": abs(mean[s] - told[0][s]) / max(spread[s], 1e-9)})  # fmt: skip
        say(f"{len(rows)} means over {self.seeds} seeds")
        return Table(pd.DataFrame(rows), KEYS)


class ProbabilitySweep(Spec):
    """Points of the published figure in which gaze follows the eye with different probabilities.

    ``published_error`` is the largest of four scores; ``recorded_error`` is against runs of the artifact, same seeds.
    """

    scenario: str = "VR_gaming"
    follower: str = "GE"

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.xr.published import simulate
        from dse.domains.xr.scenarios import scenario
        from dse.domains.xr.scores import scores

        rows = []
        for point in reference("figure7_probability_sweep").itertuples():
            chance = float(str(point.prob).rstrip("p")) / 100
            posed, system = scenario(self.scenario).with_probability(self.follower, chance), f"4K-{str(point.acc)[-1]}"
            found = scores(simulate(posed, [system], seeds=range(1, int(point.n_seeds) + 1)))
            ours = [*found.bars.mean(axis=(1, 2)), found.overall.mean()]
            errors = {
                kind: max(abs(v - getattr(point, f"{prefix}{name}")) for v, name in zip(ours, METRICS, strict=True))
                for kind, prefix in (("published_error", "fig7_"), ("recorded_error", ""))
            }
            rows.append({"system": system, "probability": chance, **dict(zip(METRICS, ours, strict=True)), **errors})
        say(f"{len(rows)} points")
        return Table(pd.DataFrame(rows), ("system", "probability"))


class LayerCosts(Spec):
    """Recorded layer costs against the cost model of layers; one row a dataflow and quantity.

    No constant of the model is fitted to them.
    """

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.xr.layer_validate import RECORDED, validate_layers

        found = validate_layers()
        summary = found.summary()
        rows = []
        for flow, errors in {"all": summary, **summary["by_dataflow"]}.items():
            count = len(found.table) if flow == "all" else int((found.table["dataflow"] == flow).sum())
            rows += [{"dataflow": flow, "quantity": name, "layers": count, **errors[name]} for name in RECORDED]
        say(f"{len(found.table):,} layer costs")
        frame = pd.DataFrame(rows).rename(columns={"median_ape": "median", "p95_ape": "p95", "worst_ape": "worst",
                                                   "exact_fraction": "equal"})  # fmt: skip
        return Table(frame, ("dataflow", "quantity"), dict.fromkeys(("median", "p95", "worst", "equal"), "%"))


class OwnCosts(Spec):
    """Scores from the cost model of layers against those from recorded costs, means over seeds.

    ``correlation`` is Spearman's over all systems and scenarios of a size.
    """

    seeds: Seeds = 3

    def table(self, say: Say) -> Table:
        import pandas as pd
        from scipy.stats import spearmanr

        from dse.domains.xr.costs import LayerModel
        from dse.domains.xr.published import simulate
        from dse.domains.xr.scenarios import scenario_ids
        from dse.domains.xr.scores import scores
        from dse.domains.xr.systems import systems

        rows, model = [], LayerModel("dense")
        for scenario in scenario_ids():
            runs = [
                simulate(scenario, systems(), seeds=range(1, self.seeds + 1), costs=costs) for costs in (None, model)
            ]
            recorded, own = (scores(run).overall.mean(axis=1) for run in runs)
            rows += [
                {"system": name, "scenario": scenario, "size": system.num_pes, "recorded": r, "own": o}
                for (name, system), r, o in zip(systems().items(), recorded, own, strict=True)
            ]
        frame = pd.DataFrame(rows).assign(error=lambda f: (f["own"] - f["recorded"]).abs())
        by = {size: spearmanr(part["own"], part["recorded"]).statistic for size, part in frame.groupby("size")}
        say(f"{len(frame)} scores from the cost model of layers")
        return Table(frame.assign(correlation=frame["size"].map(by)), (*KEYS, "size"))


class Sensitivities(Spec):
    """Recorded gross scores under changed conditions against ours; one row a change and system."""

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.xr.corrected import EFFECTS, compare

        known = reference("sensitivity_overall")
        parts = [
            _gross(name, known[known["variant"] == name], "overall", *VARIANTS[name], compare) for name in VARIANTS
        ]
        equal = reference("sensitivity_iso_noc_bw")
        parts.append(_gross(EQUAL_NOC, equal, "iso_256_mean30", 30, EFFECTS[EQUAL_NOC], compare))
        say(f"{len(parts)} changes of conditions")
        return Table(pd.concat(parts, ignore_index=True), ("variant", "system"))


def _gross(name: str, known: pd.DataFrame, column: str, seeds: int, change: Any, compare: Any) -> pd.DataFrame:
    import pandas as pd

    ids: Iterable[str] = list(known["system"])
    ours = compare({name: change}, systems_=ids, seeds=range(1, seeds + 1)).scores[0].mean(axis=1)
    frame = pd.DataFrame({"variant": name, "system": ids, "recorded": known[column].to_numpy(float), "ours": ours})
    return frame.assign(error=(frame["ours"] - frame["recorded"]).abs())
