"""Placement as a mixed-integer program, for graphs with more designs than can be priced one by one.

A stage's rate and the bytes it receives follow from what is chosen before it. So that all sums are linear, each option
is taken once for every *state* (items a second, bytes an item) that can reach its stage, and an edge carries one
variable for each tier and state of its sender and each tier of its receiver: how many states there are, not how many
designs, makes the program large. Times become a variable a stage, at least the end of each input and the transfer.
Re-derived; the optimum is that of the exhaustive search, to the solver's tolerance: about 1e-6 of the largest term.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dse.domains.continuum.price import Model
from dse.errors import DseError, Fault, SpecError

SECONDS = 120.0
Row = dict[int, float]


class Taken(NamedTuple):
    """An option of a stage in one state: its variable, its numbers, and the state it sends on."""

    variable: int
    option: int
    tier: int
    state: int
    runs: float
    item_rate: float
    sent: float
    after: int


class Program:
    """The program of a model: variables, rules as rows of at most 1, metrics as sums.

    Raises:
        SpecError: a rate or probability of the model is an array.
    """

    def __init__(self, model: Model) -> None:
        for name, given in (("link_rate", model.link_rate), ("passes", model.passes)):
            for key, value in given.items():
                if np.ndim(value):
                    raise SpecError([Fault(f"{name}.{key}", "an array", "must be one number for a program")])
        self.model, self.problem = model, model.problem
        self.count, self.whole = 0, []
        self.equal: list[tuple[Row, float]] = []
        self.rules: list[tuple[Row, float]] = []  # each at most 1 (or what is given) once divided by its bound
        self.taken: list[list[Taken]] = [[] for _ in self.problem.stages]
        self.end = [-1] * len(self.problem.stages)
        self.load: list[Row] = [defaultdict(float) for _ in self.problem.tiers]
        self.carried: list[Row] = [defaultdict(float) for _ in model.ways.names]
        self.order: list[tuple[Row, float]] = []  # of the ends of stages: at most 0
        self.place = {stage.name: i for i, stage in enumerate(self.problem.stages)}
        for s in self.problem.order():
            self._stage(s)
        self.metrics = self._metrics()
        self._limits()

    def _new(self, count: int = 1, *, whole: bool = False) -> int:
        self.whole.extend([whole] * count)
        self.count += count
        return self.count - count

    def _stage(self, s: int) -> None:
        stage, option = self.problem.stages[s], self.model.options[s]
        parents = [self.place[name] for name in stage.after]
        states = _states(self.taken[parents[0]]) if parents else [(0.0, np.nan)]
        after: dict[tuple[float, float], int] = {}
        for k, (rate, size) in enumerate(states):
            for o in range(len(option)):
                tier = self.problem.tiers[option.tier[o]]
                if option.nodes[o] > tier.nodes or option.memory[o] > tier.memory:
                    continue  # no other choice can mend that
                runs = rate / stage.gather if parents else stage.copies / option.cadence[o]
                sent = size * stage.gather if np.isnan(option.output[o]) else option.output[o]
                sent, item_rate = sent / option.reduction[o], self.model.going_on(s, runs, option.passes[o])
                key = (float(item_rate), float(sent))
                out = after.setdefault(key, len(after))
                self.taken[s].append(
                    Taken(self._new(whole=True), o, int(option.tier[o]), k, float(runs), *key, out)
                )  # fmt: skip
        self.equal.append(({t.variable: 1.0 for t in self.taken[s]}, 1.0))
        self.end[s] = self._new()
        own = {}
        for t in self.taken[s]:
            wait = option.cadence[t.option] / 2 if not parents else 0.0
            if stage.gather > 1 and states[t.state][0] > 0:
                wait += (stage.gather - 1) / 2 / states[t.state][0]
            own[t.variable] = wait + option.wait[t.option] + option.time[t.option]
            self.load[t.tier][t.variable] += t.runs * option.time[t.option] * option.nodes[t.option]
        self.order.append(({**own, self.end[s]: -1.0}, 0.0))
        for number, parent in enumerate(parents):
            delay = self._edge(parent, s, states=number == 0)
            self.order.append(({**delay, **own, self.end[parent]: 1.0, self.end[s]: -1.0}, 0.0))

    def _edge(self, a: int, b: int, *, states: bool) -> Row:
        """Variables of an edge, tied to the options at its ends; returns the time of its transfer."""
        uses, exists = self.model.ways.uses, self.model.ways.exists
        sends, takes = defaultdict(list), defaultdict(list)
        for t in self.taken[a]:
            sends[t.tier, t.after].append(t)
        for t in self.taken[b]:
            takes[t.tier, t.state if states else 0].append(t)
        delay: Row = {}
        into: dict[tuple[int, int], Row] = {key: {} for key in takes}
        for (source, state), group in sends.items():
            out: Row = {}
            for target, wanted in takes:
                if (states and wanted != state) or not exists[source, target]:
                    continue
                y = self._new()
                out[y], into[target, wanted][y], delay[y] = 1.0, 1.0, 0.0
                for d in np.flatnonzero(uses[source, target]):
                    number = self.model.ways.link[d]
                    delay[y] += group[0].sent / float(self.model.rates[number])
                    delay[y] += self.problem.links[number].round_trip / 2
                    self.carried[d][y] += group[0].item_rate * group[0].sent
            self.equal.append((out | {t.variable: -1.0 for t in group}, 0.0))
        for key, row in into.items():
            self.equal.append((row | {t.variable: -1.0 for t in takes[key]}, 0.0))
        return delay

    def _metrics(self) -> dict[str, tuple[Row, float]]:
        """Each metric as a sum and a constant; of fidelity, minus its logarithm."""
        problem, span = self.problem, self.problem.horizon
        last = self._new()
        for s in problem.insights():
            self.order.append(({self.end[s]: 1.0, last: -1.0}, 0.0))
        self.power = [self._power(t) for t in range(len(problem.tiers))]
        node_time, dollars, energy, base = (defaultdict(float), defaultdict(float), defaultdict(float), 0.0)
        for t, tier in enumerate(problem.tiers):
            _add(node_time, self.load[t], tier.metered * span / 3600)
            _add(dollars, self.load[t], tier.price * span)
            _add(energy, self.power[t][0], tier.sites * span)
            base += self.power[t][1] * tier.sites * span
        traffic: Row = defaultdict(float)
        for d, row in enumerate(self.carried):
            _add(traffic, row, 1.0)
            _add(dollars, row, problem.links[self.model.ways.link[d]].price * span)
        loss = {
            t.variable: -float(np.log(self.model.options[s].fidelity[t.option]))
            for s, taken in enumerate(self.taken) for t in taken
        }  # fmt: skip
        return {
            "time_to_insight": ({last: 1.0}, 0.0),
            "node_power": self.power[problem.edge_tier],
            "traffic": (traffic, 0.0),
            "node_hours": (node_time, 0.0),
            "dollars": (dollars, 0.0),
            "energy": (energy, base),
            "fidelity": (loss, 0.0),
        }

    def _power(self, t: int) -> tuple[Row, float]:
        tier, row = self.problem.tiers[t], defaultdict(float)
        _add(row, self.load[t], (tier.busy_power - (0.0 if tier.metered else tier.idle_power)) / tier.sites)
        for d in np.flatnonzero(self.model.ways.source == t):
            number = self.model.ways.link[d]
            link, rate = self.problem.links[number], float(self.model.rates[number])
            _add(row, self.carried[d], (link.energy_per_byte + link.power / rate) / tier.sites)
        return row, 0.0 if tier.metered else tier.nodes * tier.idle_power

    def _limits(self) -> None:
        problem = self.problem
        for t, tier in enumerate(problem.tiers):
            have = tier.sites * tier.nodes * tier.availability * problem.max_utilisation
            self._rule(self.load[t], have)
            if tier.nodes == 1:
                memory = {
                    x.variable: float(self.model.options[s].memory[x.option])
                    for s, taken in enumerate(self.taken) for x in taken if x.tier == t
                }  # fmt: skip
                self._rule(memory, tier.memory)
            if tier.power_limit is not None:
                row, base = self.power[t]
                self._rule(row, tier.power_limit, base)
        for d, row in enumerate(self.carried):
            number = self.model.ways.link[d]
            link = problem.links[number]
            have = link.count * link.availability * problem.max_utilisation
            self._rule(row, have * float(self.model.rates[number]))
        for s, stage in enumerate(problem.stages):
            if stage.deadline is not None:
                self._rule({self.end[s]: 1.0}, stage.deadline)
        if problem.min_fidelity > 0:
            self.rules.append((self.metrics["fidelity"][0], -float(np.log(problem.min_fidelity))))
        if problem.budget is not None:
            self._rule(self.metrics["dollars"][0], problem.budget)

    def _rule(self, row: Row, bound: float, base: float = 0.0) -> None:
        scale = bound if bound > 0 else 1.0
        if row:
            self.rules.append(({v: c / scale for v, c in row.items()}, (bound - base) / scale))

    def minimise(
        self, name: str, bounds: Mapping[str, float] | None = None, then: Sequence[str] = ()
    ) -> tuple[int, ...] | None:
        """The option of each stage that makes a metric least (fidelity: most), None if none obeys the rules.

        Args:
            bounds: of metrics, at most (of fidelity, at least) so much, SI.
            then: among designs of equal value, the sum of these is least, each over its largest term.
        """
        rows = [*self.rules, *(self._bound(key, value) for key, value in (bounds or {}).items())]
        goal, _ = self.metrics[name]
        found = self._solved(goal, rows)
        if found is None or not then:
            return found and found[0]
        scale = max(map(abs, goal.values()), default=0.0) or 1.0
        best = sum(c * found[1][v] for v, c in goal.items()) / scale
        rows.append(({v: c / scale for v, c in goal.items()}, best + 1e-7 * max(abs(best), 1e-3)))
        rest: Row = defaultdict(float)
        for key in then:
            row = self.metrics[key][0]
            _add(rest, row, 1 / (max(map(abs, row.values()), default=0.0) or 1.0))
        again = self._solved(rest, rows)
        return (again or found)[0]

    def _bound(self, name: str, value: float) -> tuple[Row, float]:
        row, base = self.metrics[name]
        value = -float(np.log(max(value, 1e-300))) if name == "fidelity" else value - base
        scale = abs(value) or 1.0
        return {v: c / scale for v, c in row.items()}, value / scale + 1e-9

    def nearest(self) -> tuple[int, ...]:
        """The design whose broken rules, each as a share of its bound, add up to least."""
        first, count = self._new(len(self.rules)), len(self.rules)
        rows = [(row | {first + i: -1.0}, bound) for i, (row, bound) in enumerate(self.rules)]
        found = self._solved({first + i: 1.0 for i in range(count)}, rows)
        return found[0] if found else tuple(0 for _ in self.taken)

    def _solved(self, goal: Row, rules: list[tuple[Row, float]]) -> tuple[tuple[int, ...], np.ndarray] | None:
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import coo_array

        if any(not taken for taken in self.taken):
            return None
        scale = max(map(abs, goal.values()), default=0.0) or 1.0
        cost = np.zeros(self.count)
        for v, c in goal.items():
            cost[v] = c / scale
        rows = [*self.equal, *self.order, *rules]
        entries = [(i, v, c) for i, (row, _) in enumerate(rows) for v, c in row.items() if c]
        at, columns, numbers = (np.array(x) for x in zip(*entries, strict=True))
        matrix = coo_array((numbers, (at, columns)), shape=(len(rows), self.count)).tocsr()
        high = np.array([bound for _, bound in rows])
        low = np.where(np.arange(len(rows)) < len(self.equal), high, -np.inf)
        top = np.full(self.count, np.inf)
        top[np.array(self.whole)] = 1.0
        done = milp(
            cost, integrality=np.array(self.whole, int), bounds=Bounds(0.0, top),
            constraints=LinearConstraint(matrix, low, high), options={"mip_rel_gap": 0.0, "time_limit": SECONDS},
        )  # fmt: skip
        if done.status == 1:
            raise DseError(f"no placement was proved best within {SECONDS:g} s; allow fewer options")
        if done.x is None:
            return None
        return tuple(max(taken, key=lambda t: done.x[t.variable]).option for taken in self.taken), done.x


def _states(taken: list[Taken]) -> list[tuple[float, float]]:
    """Items a second and bytes an item that a stage may send, in the order of their numbers."""
    return [key for _, key in sorted({t.after: (t.item_rate, t.sent) for t in taken}.items())]


def _add(total: Row, row: Row, factor: float) -> None:
    if factor:
        for v, c in row.items():
            total[v] = total.get(v, 0.0) + c * factor
