"""Where each stage goes and how it is done: every design of a small graph, a mixed-integer program for larger ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.continuum.choices import chosen
from dse.domains.continuum.graph import Continuum, load_continuum
from dse.domains.continuum.price import MAXIMISED, METRICS, TOLERANCE, Model, Priced
from dse.errors import Fault, InfeasibleDesign, SpecError

if TYPE_CHECKING:
    import pandas as pd

OBJECTIVES = ("time_to_insight", "node_power", "traffic", "node_hours", "dollars")
EXHAUSTIVE = 2_000_000  # designs, up to which every one is priced
BLOCK = 200_000
POINTS = 9  # over the range of each objective but the first, on a front found by programs


@dataclass(frozen=True)
class Placement:
    """One design of a graph.

    Attributes:
        model: the graph as it was priced.
        picks: number of the option of each stage.
    """

    model: Model
    picks: tuple[int, ...]

    @property
    def problem(self) -> Continuum:
        return self.model.problem

    @property
    def priced(self) -> Priced:
        """Its numbers, each an array without axes."""
        return self.model.price(self.picks)

    @property
    def metrics(self) -> dict[str, float]:
        """The quantities of ``METRICS``, SI but for ``node_hours``."""
        return {name: float(value) for name, value in self.priced.metrics.items()}

    @property
    def choices(self) -> dict[str, dict[str, Any]]:
        """Of each stage its tier, variant, nodes, reduction and cadence."""
        return {
            stage.name: chosen(self.problem, s, self.model.options[s], self.picks[s])
            for s, stage in enumerate(self.problem.stages)
        }

    @property
    def reasons(self) -> list[str]:
        """The rules it breaks, in words."""
        return [r.reason(float(r.value)) for r in self.priced.limits if float(r.excess) > TOLERANCE]

    @property
    def availability(self) -> float:
        """Share of the time that all tiers and links it uses can be used, as if they failed apart from one another."""
        places, links = {choice["tier"] for choice in self.choices.values()}, set(self.links()["link"])
        parts = [tier.availability for tier in self.problem.tiers if tier.id in places]
        return float(np.prod(parts + [link.availability for link in self.problem.links if link.id in links]))

    @property
    def feasible(self) -> bool:
        return not self.reasons

    def stages(self) -> pd.DataFrame:
        """One row a stage: choices, ``runs`` (1/s), ``time`` of a run, ``done`` since the event (s), ``sent`` (B)."""
        import pandas as pd

        priced, rows = self.priced, []
        for s, (name, choice) in enumerate(self.choices.items()):
            time = float(self.model.options[s].time[self.picks[s]])
            rows.append(
                {"stage": name, "kind": self.problem.stages[s].kind, **choice, "runs": float(priced.runs[s]),
                 "time": time, "done": float(priced.done[s]), "sent": float(priced.sent[s])}
            )  # fmt: skip
        return pd.DataFrame(rows)

    def links(self) -> pd.DataFrame:
        """One row a directed link that carries data: ``load`` and ``rate`` of all of them (B/s), ``busy`` (share)."""
        import pandas as pd

        rows = []
        for d, load in enumerate(self.priced.link_load):
            link = self.problem.links[self.model.ways.link[d]]
            rate = float(self.model.rates[self.model.ways.link[d]]) * link.count
            if float(load) > 0:
                rows.append(
                    {"link": link.id, "way": self.model.ways.names[d], "load": float(load), "rate": rate,
                     "busy": float(load) / rate}
                )  # fmt: skip
        return pd.DataFrame(rows, columns=["link", "way", "load", "rate", "busy"])

    def tiers(self) -> pd.DataFrame:
        """One row a tier: ``busy_nodes``, ``busy`` (share), ``site_power`` (W)."""
        import pandas as pd

        priced = self.priced
        return pd.DataFrame(
            [
                {"tier": tier.id, "busy_nodes": float(load), "busy": float(load) / (tier.sites * tier.nodes),
                 "site_power": float(power)}
                for tier, load, power in zip(self.problem.tiers, priced.tier_load, priced.site_power, strict=True)
            ]
        )  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """Plain data: choices, metrics, and the rules it breaks."""
        return {"choices": self.choices, **self.metrics, "feasible": self.feasible, "reasons": self.reasons}


@dataclass(frozen=True)
class Plan:
    """The designs that no other beats in all objectives.

    Attributes:
        picks: numbers of options [design, stage], in the order of the first objective.
        objectives: by which they were chosen.
        method: ``exhaustive``: every design was priced; ``milp``: points of the front, each proved.
        counts: designs of the space (``designs``), and of an exhaustive plan how many are ``feasible``;
        broken: how many break each rule.
    """

    model: Model
    picks: np.ndarray
    objectives: tuple[str, ...]
    method: str
    counts: dict[str, int]
    broken: dict[str, int]

    def __len__(self) -> int:
        return len(self.picks)

    def __getitem__(self, row: int) -> Placement:
        return Placement(self.model, tuple(int(p) for p in self.picks[row]))

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """The quantities of ``METRICS`` [design]."""
        found = self.model.price(list(self.picks.T)).metrics
        return {name: np.broadcast_to(value, len(self.picks)) for name, value in found.items()}

    def best(self, objective: str) -> Placement:
        """The design of the front that is best in one objective; of equal ones the best in the others, in turn."""
        names = [objective, *(name for name in self.objectives if name != objective)]
        columns = _signed(self.metrics, _checked(names))
        return self[int(np.lexsort(columns[:, ::-1].T)[0])]

    def table(self) -> pd.DataFrame:
        """One row a design: metrics, and for each stage ``stage.tier`` and what else it was free to choose."""
        import pandas as pd

        columns: dict[str, Any] = dict(self.metrics)
        for s, stage in enumerate(self.model.problem.stages):
            option = self.model.options[s]
            rows = [chosen(self.model.problem, s, option, int(at)) for at in self.picks[:, s]]
            every = [chosen(self.model.problem, s, option, at) for at in range(len(option))]
            for key in every[0]:
                if key == "tier" or len({choice[key] for choice in every}) > 1:
                    columns[f"{stage.name}.{key}"] = [row[key] for row in rows]
        return pd.DataFrame(columns)


def place(graph: Any, choices: Mapping[str, Any], **changes: Any) -> Placement:
    """A design of the user's own, feasible or not.

    Args:
        graph: as for :func:`load_continuum`.
        choices: of each stage its tier, or a mapping of ``tier``, ``variant``, ``nodes``, ``reduction``, ``cadence``;
            what is left open is the first that fits.
        changes: as for :meth:`Model.of`.

    Raises:
        SpecError: a stage that there is not or is left out, or an option that it does not have.
    """
    model = Model.of(load_continuum(graph), **changes)
    names = [stage.name for stage in model.problem.stages]
    faults = [Fault("choices", repr(n)[:60], f"must be one of {', '.join(names)}") for n in choices if n not in names]
    picks = []
    for s, name in enumerate(names):
        wanted = choices.get(name, {})
        wanted = {"tier": wanted} if isinstance(wanted, str) else dict(wanted)
        every = [chosen(model.problem, s, model.options[s], at) for at in range(len(model.options[s]))]
        fits = [at for at, have in enumerate(every) if all(_same(have.get(k), v) for k, v in wanted.items())]
        if not fits:
            known = {key: list(dict.fromkeys(have[key] for have in every)) for key in every[0]}
            faults.append(Fault(f"choices.{name}", str(wanted)[:60], f"no such option; there are {known}"[:400]))
        picks.append(fits[0] if fits else 0)
    if faults:
        raise SpecError(faults)
    return Placement(model, tuple(picks))


def _same(have: Any, wanted: Any) -> bool:
    return have == wanted or (isinstance(have, float) and isinstance(wanted, int | float) and np.isclose(have, wanted))


def plan(
    graph: Any, objectives: Sequence[str] = OBJECTIVES, *, method: str = "auto", **changes: Any
) -> Plan:  # fmt: skip
    """The designs that no other beats in all objectives at once.

    Args:
        graph: as for :func:`load_continuum`.
        objectives: some of ``METRICS``; fidelity is maximised, the others are minimised.
        method: ``exhaustive``, ``milp``, or ``auto``: by the number of designs.
        changes: as for :meth:`Model.of`.

    Raises:
        SpecError: an unknown objective or method.
        InfeasibleDesign: no design obeys all rules; the message names those that the nearest one breaks.
    """
    model, names = Model.of(load_continuum(graph), **changes), _checked(objectives)
    if method not in ("auto", "exhaustive", "milp"):
        raise SpecError([Fault("method", repr(method)[:60], "must be auto, exhaustive or milp")])
    if method == "milp" or (method == "auto" and model.size > EXHAUSTIVE):
        return _by_programs(model, names)
    return _exhaustive(model, names)


def _checked(objectives: Sequence[str]) -> tuple[str, ...]:
    names = (objectives,) if isinstance(objectives, str) else tuple(dict.fromkeys(objectives))
    wrong = [name for name in names if name not in METRICS]
    if wrong or not names:
        raise SpecError([Fault("objectives", repr(wrong)[:60], f"must be some of {', '.join(METRICS)}")])
    return names


def _signed(metrics: Mapping[str, Any], names: Sequence[str]) -> np.ndarray:
    """Columns [design, objective], all to be minimised."""
    return np.stack([-metrics[name] if name in MAXIMISED else metrics[name] for name in names], axis=-1)


def _exhaustive(model: Model, names: tuple[str, ...]) -> Plan:
    from dse.explore.search.pareto import front

    shape = tuple(len(option) for option in model.options)
    kept, values = np.zeros((0, len(shape)), np.int64), np.zeros((0, len(names)))
    feasible, broken = 0, {}
    nearest: tuple[float, tuple[int, ...]] = (np.inf, (0,) * len(shape))
    for grids in blocks(shape):
        priced = model.price(grids)
        extent = tuple(g.size for g in grids)
        legal = np.broadcast_to(priced.feasible(), extent)
        for limit in priced.limits:
            over = np.broadcast_to(limit.excess > TOLERANCE, extent)
            broken[limit.name] = broken.get(limit.name, 0) + int(np.count_nonzero(over))
        rows = np.argwhere(legal)
        feasible += len(rows)
        if len(rows):
            place = tuple(rows.T)
            found = _signed({n: np.broadcast_to(priced.metrics[n], extent)[place] for n in names}, names)
            best = front(found)
            picks = np.stack([g.ravel()[rows[best, s]] for s, g in enumerate(grids)], axis=1)
            kept, values = np.concatenate([kept, picks]), np.concatenate([values, found[best]])
            best = front(values)
            kept, values = kept[best], values[best]
        elif not feasible:
            total: Any = sum(np.maximum(limit.excess, 0) for limit in priced.limits)
            at = np.unravel_index(np.argmin(np.broadcast_to(total, extent)), extent)
            least = float(np.broadcast_to(total, extent)[at])
            if least < nearest[0]:
                nearest = (least, tuple(int(g.ravel()[i]) for g, i in zip(grids, at, strict=True)))
    if not feasible:
        raise InfeasibleDesign(_why_none(Placement(model, nearest[1]), model.size))
    counts = {"designs": model.size, "feasible": feasible}
    return Plan(model, kept, names, "exhaustive", counts, {name: n for name, n in broken.items() if n})


def blocks(shape: Sequence[int]) -> Iterator[list[np.ndarray]]:
    """Open grids over a space: the first axes one value at a time, the last ones whole, ``BLOCK`` designs at most.

    An axis of more than that many values is one block.
    """
    whole, size = len(shape), 1
    while whole > 0 and size * shape[whole - 1] <= BLOCK:
        size, whole = size * shape[whole - 1], whole - 1
    lengths = [[np.array([i]) for i in range(n)] for n in shape[:whole]] + [[np.arange(n)] for n in shape[whole:]]
    for axes in itertools.product(*lengths):
        yield list(np.ix_(*axes))


def _why_none(nearest: Placement, designs: int) -> str:
    free = [s.name for s, o in zip(nearest.problem.stages, nearest.model.options, strict=True) if len(set(o.tier)) > 1]
    tiers = ", ".join(f"{name} on {nearest.choices[name]['tier']}" for name in free) or "the only placement"
    reasons = "; ".join(nearest.reasons)
    return f"none of the {designs:,} designs obeys every rule; the nearest ({tiers}) breaks: {reasons}"[:1500]


def _by_programs(model: Model, names: tuple[str, ...]) -> Plan:
    """Points of the front by programs: each objective alone, then the first with each of the others bounded."""
    from dse.domains.continuum.milp import Program
    from dse.explore.search.pareto import front

    program = Program(model)
    picks = program.minimise(names[0], then=names[1:])
    if picks is None:
        raise InfeasibleDesign(_why_none(Placement(model, program.nearest()), model.size))
    found = {picks, *(program.minimise(name, then=names) for name in names[1:])}
    for name in names[1:]:
        ends = [Placement(model, p).metrics[name] for p in found]
        for bound in np.linspace(min(ends), max(ends), POINTS)[1:-1]:
            found.add(program.minimise(names[0], {name: float(bound)}, then=names))
    rows = np.array(sorted(p for p in found if p is not None))
    metrics = {n: np.broadcast_to(v, len(rows)) for n, v in model.price(list(rows.T)).metrics.items()}
    rows = rows[front(_signed(metrics, names))]
    return Plan(model, rows, names, "milp", {"designs": model.size}, {})


def solve(
    graph: Any, objective: str = "time_to_insight", limits: Mapping[str, float] | None = None, *,
    method: str = "auto", **changes: Any,
) -> Placement:  # fmt: skip
    """The best design in one objective.

    Args:
        graph: as for :func:`load_continuum`.
        objective: one of ``METRICS``.
        limits: bounds of other metrics (fidelity: a least value), SI.
        method: as for :func:`plan`; ties go to the design found first.
        changes: as for :meth:`Model.of`.

    Raises:
        SpecError: an unknown metric or method.
        InfeasibleDesign: none obeys all rules and limits.
    """
    model, (name,) = Model.of(load_continuum(graph), **changes), _checked(objective)
    bounds = {key: float(value) for key, value in (limits or {}).items()}
    _checked(tuple(bounds) or name)
    if method == "exhaustive" or (method == "auto" and model.size <= EXHAUSTIVE):
        found = _exhaustive(model, (name, *bounds))
        metrics = found.metrics
        signs = {key: -1 if key in MAXIMISED else 1 for key in bounds}
        legal = np.ones(len(found), bool)
        for key, bound in bounds.items():
            legal &= signs[key] * metrics[key] <= signs[key] * bound + TOLERANCE * abs(bound)
        if legal.any():
            values = np.where(legal, _signed(metrics, (name,))[:, 0], np.inf)
            return found[int(np.argmin(values))]
    elif method in ("auto", "milp"):
        from dse.domains.continuum.milp import Program

        program = Program(model)
        picks = program.minimise(name, bounds)
        if picks is not None:
            return Placement(model, picks)
        if not bounds:
            raise InfeasibleDesign(_why_none(Placement(model, program.nearest()), model.size))
    else:
        raise SpecError([Fault("method", repr(method)[:60], "must be auto, exhaustive or milp")])
    text = ", ".join(
        f"{key} {'>=' if key in MAXIMISED else '<='} {bound:g} {METRICS[key]}" for key, bound in bounds.items()
    )
    raise InfeasibleDesign(f"no design that obeys every rule reaches {text}")
