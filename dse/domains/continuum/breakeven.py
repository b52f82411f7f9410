"""Where a stage belongs as a link becomes faster: at the node, to send less, or behind the link, to compute faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.continuum.graph import Continuum, load_continuum
from dse.domains.continuum.placement import Placement, _checked, place, solve
from dse.domains.continuum.price import MAXIMISED, TOLERANCE, Model
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    import pandas as pd

RATES = tuple(np.geomspace(1e4, 1e9, 61).tolist())  # B/s
MOST = 5_000_000  # designs times points
STEPS = 50  # halvings of the last interval of the logarithm of the rate


@dataclass(frozen=True)
class BreakEven:
    """A stage on two tiers over the rate of a link (and a trigger probability).

    Attributes:
        rates: [rate] B/s; ``passes``: [probability], one NaN where it stays as it is.
        value: [tier, probability, rate]: the objective at its best, infinite where a rule is broken whatever is chosen.
        flips: one row a change of side: ``passes``, ``rate`` (B/s), the tiers it goes ``from`` and ``to``, and what
            decides, ``why``: ``value``, or the rule that the other tier breaks there.
    """

    stage: str
    link: str
    tiers: tuple[str, str]
    objective: str
    rates: np.ndarray
    passes: np.ndarray
    value: np.ndarray
    flips: pd.DataFrame

    def belongs(self) -> np.ndarray:
        """[probability, rate]: number of the better tier (0 of equals), -1 where neither obeys the rules."""
        return _better(self.value)

    def table(self) -> pd.DataFrame:
        """One row a point: ``passes``, ``rate``, the value of each tier, and the tier it belongs on."""
        import pandas as pd

        probability, rate = np.meshgrid(self.passes, self.rates, indexing="ij")
        sides = np.array([*self.tiers, "neither"])[self.belongs().ravel()]
        sign = -1.0 if self.objective in MAXIMISED else 1.0
        values = {f"{self.objective}.{tier}": sign * self.value[i].ravel() for i, tier in enumerate(self.tiers)}
        return pd.DataFrame({"passes": probability.ravel(), "rate": rate.ravel(), **values, "belongs": sides})


def break_even(
    graph: Any, stage: str, link: str, tiers: Sequence[str] = ("node", "blade"), *,
    objective: str = "time_to_insight", rates: Sequence[float] = RATES, passes: Sequence[float] | None = None,
    free: Sequence[str] = (), baseline: Placement | Mapping[str, Any] | None = None,
) -> BreakEven:  # fmt: skip
    """On which of two tiers a stage belongs, at each rate of a link, and where that changes.

    Args:
        graph: as for :func:`load_continuum`.
        stage: it is taken to both tiers, with its best variant and node count on each.
        link: whose rate is varied.
        rates: B/s, rising; between two of them that disagree, the rate of the change is found by halving.
        passes: trigger probabilities of the stage; as it is where not given.
        free: other stages that may change with it, as one that compresses. The rest stays.
        baseline: what stays, a design or choices as for :func:`place`; where not given, the best by the objective.

    Raises:
        SpecError: an unknown name, rates that do not rise, or a tier that the stage may not be on.
    """
    problem, (name,) = load_continuum(graph), _checked(objective)
    rate_axis, pass_axis = np.asarray(rates, float), np.asarray([np.nan] if passes is None else passes, float)
    _check(problem, stage, link, tiers, rate_axis, free)
    if not isinstance(baseline, Placement):
        baseline = solve(problem, name) if baseline is None else place(problem, baseline)
    sides = [_side(problem, stage, tier, free, baseline) for tier in tiers]

    def values(rate: np.ndarray, probability: np.ndarray) -> np.ndarray:
        return np.stack([_best(problem, picks, stage, link, name, rate, probability)[0] for picks in sides])

    grid = np.broadcast_arrays(rate_axis[None, :], pass_axis[:, None])
    value = values(*(axis.ravel() for axis in grid)).reshape(2, len(pass_axis), len(rate_axis))
    flips = _flips(value, rate_axis, pass_axis, values)
    for row in flips:  # on the side of the change where it no longer belongs, what speaks against the tier it left?
        point = np.array([row["rate"]]), np.array([row["passes"]])
        row["why"] = _why(problem, sides, stage, link, name, point, row)
        row["from"], row["to"] = (tiers[row[key]] if row[key] >= 0 else "neither" for key in ("from", "to"))
    import pandas as pd

    table = pd.DataFrame(flips, columns=["passes", "rate", "from", "to", "why"])
    return BreakEven(stage, link, tuple(tiers), name, rate_axis, pass_axis, value, table)


def _check(
    problem: Continuum, stage: str, link: str, tiers: Sequence[str], rates: np.ndarray, free: Sequence[str]
) -> None:
    stages, links, ids = (
        [s.name for s in problem.stages],
        [k.id for k in problem.links],
        [t.id for t in problem.tiers],
    )
    faults = [
        Fault(field, repr(given)[:60], f"must be one of {', '.join(known)}")
        for field, names, known in (("stage", [stage], stages), ("link", [link], links), ("tiers", tiers, ids),
                                    ("free", free, stages))
        for given in names if given not in known
    ]  # fmt: skip
    if len(tiers) != 2:
        faults.append(Fault("tiers", str(len(tiers)), "must be two"))
    if (
        rates.ndim != 1
        or len(rates) < 2
        or not (np.isfinite(rates).all() and rates[0] > 0 and (np.diff(rates) > 0).all())
    ):
        faults.append(Fault("rates", "", "must be two or more, above 0 B/s, each above the last"))
    if faults:
        raise SpecError(faults)


def _side(problem: Continuum, stage: str, tier: str, free: Sequence[str], baseline: Placement) -> list[np.ndarray]:
    """The options left to each stage with one stage on a tier."""
    model, number = baseline.model, [t.id for t in problem.tiers].index(tier)
    picks = []
    for s, item in enumerate(problem.stages):
        every = np.arange(len(model.options[s]))
        if item.name == stage:
            every = every[model.options[s].tier == number]
            if not len(every):
                raise SpecError([Fault("tiers", repr(tier), f"stage {stage} may not be on it")])
        elif item.name not in free:
            every = np.array([baseline.picks[s]])
        picks.append(every)
    return list(np.ix_(*picks))


def _best(
    problem: Continuum, picks: list[np.ndarray], stage: str, link: str, name: str, rate: np.ndarray, passes: np.ndarray
) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """The objective [point] at its best over the options left; and each rule with whether all options break it."""
    shape = tuple(pick.size for pick in picks)
    size, found = int(np.prod(shape)), np.empty(len(rate))
    broken: list[tuple[str, np.ndarray]] = []
    step = max(1, MOST // max(size, 1))
    axes = tuple(range(1, len(shape) + 1))
    for start in range(0, len(rate), step):
        part = slice(start, start + step)
        points = (-1,) + (1,) * len(shape)
        given = {} if np.isnan(passes[part]).all() else {stage: passes[part].reshape(points)}
        model = Model.of(problem, link_rate={link: rate[part].reshape(points)}, passes=given)
        priced, full = model.price(picks), (len(rate[part]), *shape)
        value = np.broadcast_to(priced.metrics[name], full) * (-1.0 if name in MAXIMISED else 1.0)
        found[part] = np.where(np.broadcast_to(priced.feasible(), full), value, np.inf).min(axis=axes)
        broken = [(r.text, np.broadcast_to(r.excess > TOLERANCE, full).all(axis=axes)) for r in priced.limits]
    return found, broken


def _better(value: np.ndarray) -> np.ndarray:
    side = (value[1] < value[0]).astype(int)
    return np.where(np.isinf(value).all(axis=0), -1, side)


def _flips(value: np.ndarray, rates: np.ndarray, passes: np.ndarray, values: Any) -> list[dict[str, Any]]:
    side = _better(value)
    at, place = np.nonzero(side[:, 1:] != side[:, :-1])
    if not len(at):
        return []
    low, high = np.log(rates[place]), np.log(rates[place + 1])
    before = side[at, place]
    for _ in range(STEPS):
        middle = (low + high) / 2
        same = _better(values(np.exp(middle), passes[at])) == before
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return [
        {"passes": float(passes[p]), "rate": float(np.exp(h)), "from": int(side[p, r]), "to": int(side[p, r + 1])}
        for p, r, h in zip(at, place, high, strict=True)
    ]


def _why(
    problem: Continuum, sides: list[list[np.ndarray]], stage: str, link: str, name: str, point: Any, row: dict[str, Any]
) -> str:
    """What decides at a change: a rule that holds on one side of it only, else the objective."""
    loser = 1 - max(row["from"], 0) if row["from"] >= 0 and row["to"] >= 0 else max(row["from"], row["to"])
    for factor in (1 - 1e-6, 1 + 1e-6):
        value, rules = _best(problem, sides[loser], stage, link, name, point[0] * factor, point[1])
        if np.isinf(value).any():
            return next((text for text, all_break in rules if all_break.any()), "several rules at once")
    return "value"
