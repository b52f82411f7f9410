"""What designs cost: one pass over the graph in which every stage's options are an axis of their own.

Without load: no item waits for another here, but machines and links may be busy for a stated share of the time only;
:mod:`dse.domains.continuum.queueing` tells the waiting. Re-derived:

- A sensor gives ``copies / cadence`` items a second, and what happens waits cadence / 2 in the mean for the next.
- A stage runs at the rate of its first input over ``gather``; an item waits (gather - 1) / 2 intervals for the others.
- A transfer takes, on each link of its way, bytes / rate + round trip / 2.
- A stage is done when the last of its inputs has come, after the wait of its tier and the time of its run.
- A stage sends each item to every stage that comes after it, also where two of them are on one tier.
- A tier is busy with rate · time · nodes of its sites · nodes; a directed link with bytes a second of count · rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dse.domains.continuum.choices import Options, Ways, options, ways
from dse.domains.continuum.graph import Continuum
from dse.errors import Fault, SpecError
from dse.units import engineering

METRICS: dict[str, str] = {
    "time_to_insight": "s",
    "node_power": "W",
    "traffic": "B/s",
    "node_hours": "h",
    "dollars": "USD",
    "energy": "J",
    "fidelity": "1",
}
MAXIMISED = ("fidelity",)
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Limit:
    """A rule of a design: ``value`` must be at most ``bound`` (or at least, if ``floor``); arrays along the axes."""

    name: str
    text: str
    value: Any
    bound: float
    unit: str
    floor: bool = False

    @property
    def excess(self) -> Any:
        """How far the rule is broken, as a share of the bound; 0 or less: it holds."""
        scale = self.bound if self.bound > 0 else 1.0
        gap = np.subtract(self.bound, self.value) if self.floor else np.subtract(self.value, self.bound)
        return gap / scale

    def reason(self, value: float) -> str:
        """The rule in words, with the number of one design."""
        if not self.unit:
            return self.text
        word = "of at least" if self.floor else "of at most"
        return f"{self.text}: {engineering(value, self.unit)} {word} {engineering(self.bound, self.unit)}"


@dataclass(frozen=True)
class Priced:
    """Numbers of designs; arrays broadcast over the axes of the stages.

    Attributes:
        metrics: of ``METRICS``; ``node_hours``, ``energy`` and ``dollars`` over the horizon.
        limits: the rules.
        runs: of each stage, runs a second; ``done``: from what happens to its end, s; ``sent``: bytes of an item.
        tier_load: of each tier, busy nodes; ``site_power``: of each tier, of a site, W.
        link_load: of each directed link, B/s.
    """

    metrics: dict[str, Any]
    limits: tuple[Limit, ...]
    runs: tuple[Any, ...] = ()
    done: tuple[Any, ...] = ()
    sent: tuple[Any, ...] = ()
    tier_load: tuple[Any, ...] = ()
    site_power: tuple[Any, ...] = ()
    link_load: tuple[Any, ...] = ()

    def feasible(self) -> Any:
        """Where no rule is broken."""
        legal: Any = True
        for limit in sorted(self.limits, key=lambda rule: np.size(rule.excess)):
            legal = np.logical_and(legal, limit.excess <= TOLERANCE)
        return legal


@dataclass(frozen=True)
class Model:
    """A graph with its options and ways, made once; prices any set of designs.

    Attributes:
        link_rate: B/s of links by id, in the place of those of the graph: numbers, or arrays of axes of their own.
        passes: trigger probabilities of stages by name, the same.
    """

    problem: Continuum
    options: tuple[Options, ...]
    ways: Ways
    link_rate: Mapping[str, Any] = field(default_factory=dict)
    passes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, problem: Continuum, *, link_rate: Mapping[str, Any] | None = None, passes: Mapping[str, Any] | None = None
    ) -> Model:
        """The model of a graph.

        Raises:
            SpecError: an unknown link or stage, a rate of 0 or below, or a probability outside 0 ... 1.
        """
        faults = []
        for name, known, given, high in (
            ("link_rate", [k.id for k in problem.links], link_rate or {}, np.inf),
            ("passes", [s.name for s in problem.stages], passes or {}, 1.0),
        ):
            for key, value in given.items():
                numbers = np.asarray(value, float)
                if key not in known:
                    faults.append(Fault(name, repr(key)[:60], f"must be one of {', '.join(known)}"))
                elif not ((numbers >= 0) & (numbers <= high) & np.isfinite(numbers)).all() or (
                    name == "link_rate" and not (numbers > 0).all()
                ):
                    rule = "must be above 0 B/s" if name == "link_rate" else "must be from 0 to 1"
                    faults.append(Fault(f"{name}.{key}", str(value)[:60], rule))
        if faults:
            raise SpecError(faults)
        return cls(problem, options(problem), ways(problem), dict(link_rate or {}), dict(passes or {}))

    @property
    def rates(self) -> list[Any]:
        """B/s of each link in one direction."""
        return [self.link_rate.get(link.id, link.rate) for link in self.problem.links]

    def going_on(self, stage: int, runs: Any, passes: Any) -> Any:
        """Items a second that a stage sends on, of its runs a second and the trigger probability of its option."""
        rate = runs * self.passes.get(self.problem.stages[stage].name, passes)
        return rate / (1 + rate * self.problem.stages[stage].hold)

    @property
    def size(self) -> int:
        """Designs there are."""
        count = 1
        for option in self.options:
            count *= len(option)
        return count

    def price(self, picks: Sequence[Any]) -> Priced:
        """Price designs.

        Args:
            picks: of each stage, the numbers of options: whole numbers or arrays of any shapes that broadcast.
        """
        flow = _Flow(self, picks)
        problem = self.problem
        for s in problem.order():
            flow.run(s)
        return flow.priced()


class _Flow:
    """The pass over the graph: what each stage receives, does and sends."""

    def __init__(self, model: Model, picks: Sequence[Any]) -> None:
        self.model, self.problem, self.ways = model, model.problem, model.ways
        count = len(self.problem.stages)
        self.of = [
            Options(*(column[pick] for column in option)) for option, pick in zip(model.options, picks, strict=True)
        ]
        self.place = {stage.name: i for i, stage in enumerate(self.problem.stages)}
        self.runs, self.done, self.sent, self.item_rate = ([0.0] * count for _ in range(4))
        self.tier_load: list[Any] = [0.0] * len(self.problem.tiers)
        self.memory: list[Any] = [0.0] * len(self.problem.tiers)
        self.link_load: list[Any] = [0.0] * len(self.ways.names)
        self.missing: Any = 0.0

    def run(self, s: int) -> None:
        """One stage, all of whose inputs have been run."""
        stage, option = self.problem.stages[s], self.of[s]
        start: Any = option.cadence / 2
        self.runs[s], received = stage.copies / option.cadence, np.nan
        if stage.after:
            parents = [self.place[name] for name in stage.after]
            first = parents[0]
            self.runs[s], received = self.item_rate[first] / stage.gather, self.sent[first] * stage.gather
            start = self.done[first] + self._transfer(first, s)
            for other in parents[1:]:
                start = np.maximum(start, self.done[other] + self._transfer(other, s))
            if stage.gather > 1:  # a stage that is never reached keeps no one waiting
                with np.errstate(divide="ignore"):
                    start = start + np.where(
                        self.item_rate[first] > 0, (stage.gather - 1) / 2 / self.item_rate[first], 0
                    )
        self.done[s] = start + option.wait + option.time
        output = np.where(np.isnan(option.output), received, option.output)
        self.sent[s] = output / option.reduction
        self.item_rate[s] = self.model.going_on(s, self.runs[s], option.passes)
        busy = self.runs[s] * option.time * option.nodes
        for t in np.unique(option.tier):
            here = option.tier == t
            self.tier_load[t] = self.tier_load[t] + np.where(here, busy, 0.0)
            need = np.where(here, option.memory, 0.0)
            alone = self.problem.tiers[t].nodes > 1  # stages get nodes of their own, else they share the one
            self.memory[t] = np.maximum(self.memory[t], need) if alone else self.memory[t] + need

    def _transfer(self, a: int, b: int) -> Any:
        """Time of an item from stage to stage; what the links carry is added up on the way."""
        source, target = self.of[a].tier, self.of[b].tier
        self.missing = self.missing + ~self.ways.exists[source, target]
        total: Any = 0.0
        for d, used in enumerate(self._used(source, target)):
            if used is None:
                continue
            link = self.problem.links[self.ways.link[d]]
            rate = self.model.rates[self.ways.link[d]]
            total = total + np.where(used, self.sent[a] / rate + link.round_trip / 2, 0.0)
            self.link_load[d] = self.link_load[d] + np.where(used, self.item_rate[a] * self.sent[a], 0.0)
        return total

    def _used(self, source: Any, target: Any) -> list[Any]:
        """Of each directed link where it is on the way, None where it never is."""
        return [
            used if (used := self.ways.uses[:, :, d][source, target]).any() else None
            for d in range(len(self.ways.names))
        ]

    def priced(self) -> Priced:
        problem = self.problem
        site_power = [self._site_power(t) for t in range(len(problem.tiers))]
        time: Any = 0.0
        for s in problem.insights():
            time = np.maximum(time, self.done[s])
        fidelity: Any = 1.0
        for option in self.of:
            fidelity = fidelity * option.fidelity
        node_time: Any = 0.0
        dollars: Any = 0.0
        energy: Any = 0.0
        for tier, load, power in zip(problem.tiers, self.tier_load, site_power, strict=True):
            node_time = node_time + load * tier.metered
            dollars = dollars + load * tier.price
            energy = energy + power * tier.sites
        for d, load in enumerate(self.link_load):
            dollars = dollars + load * problem.links[self.ways.link[d]].price
        span = problem.horizon
        metrics = {
            "time_to_insight": time,
            "node_power": site_power[problem.edge_tier],
            "traffic": sum(self.link_load, 0.0),
            "node_hours": node_time * span / 3600,
            "dollars": dollars * span,
            "energy": energy * span,
            "fidelity": fidelity,
        }
        rules = tuple(self._limits(site_power, metrics))
        parts = (self.runs, self.done, self.sent, self.tier_load, site_power, self.link_load)
        return Priced(metrics, rules, *(tuple(part) for part in parts))

    def _site_power(self, t: int) -> Any:
        """Power of a site with what its links draw, W."""
        tier = self.problem.tiers[t]
        load = self.tier_load[t] / tier.sites
        # The idle nodes of a shared machine are someone else's.
        power = load * tier.busy_power if tier.metered else (
            tier.nodes * tier.idle_power + load * (tier.busy_power - tier.idle_power)
        )  # fmt: skip
        for d in np.flatnonzero(self.ways.source == t):
            link, rate = self.problem.links[self.ways.link[d]], self.model.rates[self.ways.link[d]]
            power = power + self.link_load[d] * (link.energy_per_byte + link.power / rate) / tier.sites
        return power

    def _limits(self, site_power: list[Any], metrics: dict[str, Any]) -> Any:
        problem, most = self.problem, self.problem.max_utilisation
        yield Limit("route", "no link leads from one stage's tier to the next", self.missing, 0.0, "")
        for t, tier in enumerate(problem.tiers):
            have = tier.sites * tier.nodes * tier.availability * most
            yield Limit(f"{tier.id} busy", f"busy nodes of {tier.id}", self.tier_load[t], have, "1")
            yield Limit(f"{tier.id} memory", f"memory of a node of {tier.id}", self.memory[t], tier.memory, "B")
            if tier.power_limit is not None:
                text = f"power of a site of {tier.id}"
                yield Limit(f"{tier.id} power", text, site_power[t], tier.power_limit, "W")
        for d, name in enumerate(self.ways.names):
            link = problem.links[self.ways.link[d]]
            have = link.count * link.availability * most
            share = self.link_load[d] / self.model.rates[self.ways.link[d]]
            yield Limit(f"{name} busy", f"busy links of {name}", share, have, "1")
        for s, stage in enumerate(problem.stages):
            option = self.of[s]
            nodes = np.array([tier.nodes for tier in problem.tiers])[option.tier]
            if (option.nodes > nodes).any():
                share = option.nodes / nodes
                yield Limit(
                    f"{stage.name} nodes", f"nodes of a run of {stage.name} over those of a site", share, 1.0, "1"
                )
            if stage.deadline is not None:
                yield Limit(f"{stage.name} deadline", f"end of {stage.name}", self.done[s], stage.deadline, "s")
        if problem.min_fidelity > 0:
            yield Limit("fidelity", "fidelity", metrics["fidelity"], problem.min_fidelity, "1", floor=True)
        if problem.budget is not None:
            yield Limit("budget", "dollars over the horizon", metrics["dollars"], problem.budget, "USD")
