"""Tables of placements, links, buffers, waiting and ensembles for studies."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from dse.domains.continuum.ensemble import Bias, Correlation, Cost
from dse.domains.continuum.placement import OBJECTIVES, Placement
from dse.domains.continuum.price import METRICS
from dse.domains.continuum.stage import Period
from dse.domains.tables import Say, Table
from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.catalogue import asset_root
from dse.spec.fields import Bandwidth, Bytes, Count, CountOrZero, Fraction, Multiple, Name, PositiveFraction, Text

UNITS = {**{name: unit for name, unit in METRICS.items() if unit != "h"}, "rate": "B/s", "volume": "B", "needed": "B/s",
         "load": "B/s", "buffer": "B", "delay": "s", "done": "s", "time": "s", "sent": "B", "runs": "1/s", "mean": "s",
         "p95": "s", "wait": "s", "unloaded": "s", "cadence": "s", "availability": "%", "busy": "%"}  # fmt: skip


def words(placement: Placement, only: str = "") -> str:
    """What a placement decides, in words: the tier of each stage that had a choice, with variant and nodes.

    Args:
        only: a stage, in place of all.
    """
    said = []
    model = placement.model
    for stage, option, choice in zip(model.problem.stages, model.options, placement.choices.values(), strict=True):
        if (only and stage.name != only) or (not only and len(set(option.tier)) == 1):
            continue
        nodes = f" x{choice['nodes']}" if len(set(option.nodes)) > 1 else ""
        said.append(f"{stage.name} at {choice['tier']}{nodes}")
    return ", ".join(said)


class Front(Spec):
    """The designs of a graph that no other beats in all objectives, and what each is best in (``best``)."""

    graph: Text = "smoke-camera"
    objectives: tuple[Name, ...] = OBJECTIVES

    def table(self, say: Say) -> Table:
        from dse.domains.continuum.placement import plan

        found = plan(self.graph, self.objectives)
        rows = found.table()
        best = [", ".join(n for n in self.objectives if _same(found[i], found.best(n))) for i in range(len(found))]
        rows = rows.assign(design=[f"{i + 1}" for i in range(len(found))], best=best,
                           words=[words(found[i]) for i in range(len(found))])  # fmt: skip
        labels = [name for name in rows if rows[name].dtype == object]
        say(f"{len(found)} designs, {found.method} over {found.counts['designs']:,}")
        return Table(rows, tuple(labels), UNITS)


def _same(one: Placement, other: Placement) -> bool:
    return one.picks == other.picks


class Stages(Spec):
    """Stage by stage, the design that is best in each of some objectives: where, how, and when it is done."""

    graph: Text = "smoke-camera"
    objectives: tuple[Name, ...] = ("time_to_insight", "traffic", "node_power")

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.continuum.placement import plan

        found = plan(self.graph)
        rows = [found.best(name).stages().assign(objective=name) for name in self.objectives]
        say(f"{len(self.objectives)} designs")
        return Table(pd.concat(rows, ignore_index=True), ("objective", "stage", "kind", "tier", "variant"), UNITS)


class BreakEvens(Spec):
    """On which of two tiers a stage belongs, at each rate of a link and trigger probability.

    ``of: map`` has a row a point, with ``side``: 1 where it belongs on the second tier, 0 on the first, NaN on neither;
    ``of: flips`` has a row a change, with the ``rate`` at which it comes and ``why``.
    """

    of: Literal["map", "flips"] = "map"
    graph: Text = "smoke-camera"
    stage: Name = "detect"
    link: Name = "uplink"
    tiers: tuple[Name, Name] = ("node", "blade")
    objectives: tuple[Name, ...] = ("time_to_insight",)
    rates: tuple[Bandwidth, ...] = ()
    passes: tuple[Fraction, ...] = ()
    free: tuple[Name, ...] = ()

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.continuum.breakeven import RATES, break_even

        parts = []
        for name in self.objectives:
            made = break_even(self.graph, self.stage, self.link, self.tiers, objective=name, free=self.free,
                              rates=self.rates or RATES, passes=self.passes or None)  # fmt: skip
            rows = made.flips if self.of == "flips" else made.table()
            if self.of == "map":
                side = {self.tiers[0]: 0.0, self.tiers[1]: 1.0}
                rows = rows.rename(columns={f"{name}.{tier}": tier for tier in self.tiers})
                rows = rows.assign(side=rows["belongs"].map(side))
            parts.append(rows.assign(objective=name))
            say(f"{self.stage} over the rate of {self.link} by {name}: {len(made.flips)} changes")
        rows = pd.concat(parts, ignore_index=True).rename(columns={"from": "before", "to": "after"})
        rows = rows.astype({"passes": float, "rate": float})
        labels = ("before", "after", "why") if self.of == "flips" else ("rate", "belongs")
        return Table(rows, ("objective", "passes", *labels), UNITS)


class Streams(Spec):
    """The rate that a volume of data a day needs, by reduction and availability of the link, and the buffer for it.

    ``buffer`` is exceeded for a share ``risk`` of the time where the link is ``headroom`` times as fast as needed and
    its outages last ``outage`` in the mean; ``delay`` is the mean wait of a byte. Both are 0 without outages.
    """

    volume: Bytes = 1.05e12
    span: Period = 86400.0
    reductions: tuple[Multiple, ...] = (1.0, 10.0, 100.0)
    availabilities: tuple[PositiveFraction, ...] = (1.0, 0.99, 0.95, 0.9)
    outage: Period = 3600.0
    headroom: Multiple = 2.0
    risk: PositiveFraction = 0.001

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.continuum.flows import Outages, needed_rate

        rows = []
        for reduction in self.reductions:
            for up in self.availabilities:
                needed = float(needed_rate(self.volume, self.span, reduction=reduction, availability=up))
                row = {"reduction": reduction, "availability": up, "needed": needed, "buffer": 0.0, "delay": 0.0}
                if up < 1:
                    fails = Outages(self.outage * up / (1 - up), self.outage)
                    coming, link = needed * up, self.headroom * needed
                    row |= {"buffer": float(fails.buffer(coming, link, self.risk))}
                    row |= {"delay": float(fails.mean_delay(coming, link))}
                rows.append(row)
        say(f"{len(rows)} links")
        return Table(pd.DataFrame(rows), ("reduction", "availability"), UNITS)


class Archive(Spec):
    """How a published archive grew: mean daily volume between two years, and the link rate that carries it."""

    name: Text = "ARM archive"
    years: tuple[Count, ...] = (2002, 2010, 2016, 2022)

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.continuum.flows import needed_rate
        from dse.domains.continuum.scaling_tables import FOLDER, read

        known = read(asset_root("data") / FOLDER / "published_anchor_points.csv").set_index("quantity")["value"]
        names = [f"{self.name} {year}" for year in self.years]
        missing = [name for name in names if name not in known]
        if missing:
            raise SpecError([Fault("years", missing[0][:60], "is no published anchor point")])
        held = [float(known[name]) * 1e12 for name in names]
        rows = []
        for first, last, before, after in zip(self.years, self.years[1:], held, held[1:], strict=False):
            daily = (after - before) / ((last - first) * 365.25)
            rows.append({"years": f"{first} to {last}", "volume": daily, "needed": float(needed_rate(daily))})
        say(f"{self.name}: {len(rows)} spans")
        return Table(pd.DataFrame(rows), ("years",), UNITS)


class Waiting(Spec):
    """Time from what happens to the end of a stage as a link becomes slower: played event by event, beside the plan.

    The design is that of ``choices`` (stage to tier). ``busy`` is the load of the busiest link.
    """

    graph: Text = "smoke-camera"
    stage: Name = "detect"
    link: Name = "uplink"
    choices: dict[Name, Any] = Field(default_factory=dict)
    rates: tuple[Bandwidth, ...]
    arrivals: tuple[Literal["periodic", "poisson"], ...] = ("periodic", "poisson")
    items: Count = 4000
    seed: CountOrZero = 0

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.continuum.placement import place
        from dse.domains.continuum.queueing import simulate

        rows = []
        for rate in self.rates:
            design = place(self.graph, self.choices, link_rate={self.link: rate})
            busy = float(design.links().set_index("link")["busy"].get(self.link, 0.0))
            for arrivals in self.arrivals:
                played = simulate(design, self.items, arrivals=arrivals, seed=self.seed)
                row = played.table().set_index("stage").loc[self.stage]
                times = {name: float(row[name]) for name in ("unloaded", "wait", "mean", "p95")}
                rows.append({"rate": rate, "load": busy * rate, "busy": busy, "arrivals": arrivals, **times})
        say(f"{len(rows)} plays of {self.items:,} items")
        return Table(pd.DataFrame(rows), ("rate", "arrivals"), UNITS)


class Ensembles(Spec):
    """The error of the best split of a budget between physics and emulator members, beside that of either alone."""

    physics_cost: Cost = 250.0
    emulator_cost: Cost = 1.0
    correlations: tuple[Correlation, ...] = (0.8, 0.9, 0.95)
    bias: Bias = 0.1
    statistic: Literal["mean", "spread"] = "mean"
    budgets: tuple[Cost, ...] = (300.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0)

    def table(self, say: Say) -> Table:
        import pandas as pd

        from dse.domains.continuum.ensemble import ESTIMATORS, Members, split

        parts = []
        for correlation in self.correlations:
            members = Members(physics_cost=self.physics_cost, emulator_cost=self.emulator_cost, bias=self.bias,
                              correlation=correlation)  # fmt: skip
            made = split(members, np.array(self.budgets), statistic=self.statistic).table()
            for name in (*ESTIMATORS, "split"):
                error = made["error"] if name == "split" else made[f"error.{name}"]
                parts.append(
                    made[["budget", "physics", "emulator"]].assign(
                        correlation=correlation, by=name, taken=made["estimator"], error=error
                    )
                )
        say(f"{len(self.budgets)} budgets, {len(self.correlations)} correlations")
        return Table(pd.concat(parts, ignore_index=True), ("budget", "correlation", "by", "taken"), {})
