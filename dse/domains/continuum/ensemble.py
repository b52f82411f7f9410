"""A budget split between members of a physics model and members of its emulator.

Physics members are dear and take as truth; emulator members are cheap, correlated with them, and may be biased. Three
estimators of an ensemble's mean (or spread) are weighed for each budget, by the mean squared error:

- ``physics``: n members, σ² / n;
- ``emulator``: m members, σ_e² / m + bias²;
- ``both``: n pairs of the same initial states, and m - n more of the emulator, which correct the physics' mean without
  its bias: σ² / n · (1 − (1 − n / m) ρ²).

The third is the multifidelity estimator (control variate) of Peherstorfer, Willcox and Gunzburger (2016); the formulas
are re-derived. For the spread (the variance of members) the members are taken to be Gaussian: σ² becomes 2 σ⁴ and ρ
becomes ρ². All of ``deviation``, ``correlation`` and ``bias`` are the user's to state: none is claimed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from pydantic import model_validator

from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.fields import quantity

Statistic = Literal["mean", "spread"]
ESTIMATORS = ("physics", "emulator", "both")
Cost = quantity("1", 1e-15, 1e18)
Deviation = quantity("1", 1e-12, 1e12)
Correlation = quantity("1", -1, 1)
Bias = quantity("1", -1e12, 1e12)


class Members(Spec):
    """What members cost and are worth.

    Attributes:
        physics_cost, emulator_cost: of a member, in the budget's unit (node-hours, dollars).
        deviation: σ of physics members; ``emulator_deviation``: of the emulator's, the same where not given.
        correlation: ρ between the two from the same initial state.
        bias: of the emulator's mean.
        spread_bias: of the emulator's variance.
    """

    physics_cost: Cost
    emulator_cost: Cost
    deviation: Deviation = 1.0
    emulator_deviation: Deviation | None = None
    correlation: Correlation
    bias: Bias = 0.0
    spread_bias: Bias = 0.0

    @model_validator(mode="after")
    def _emulator_is_cheaper(self) -> Self:
        if self.emulator_cost > self.physics_cost:
            raise ValueError("emulator_cost must not be more than physics_cost")
        return self

    def moments(self, statistic: Statistic) -> tuple[float, float, float, float]:
        """Variance of one physics term and one emulator term, squared correlation, and bias, of a statistic."""
        s, e = self.deviation, self.emulator_deviation or self.deviation
        if statistic == "mean":
            return s**2, e**2, self.correlation**2, self.bias
        return 2 * s**4, 2 * e**4, self.correlation**4, self.spread_bias


@dataclass(frozen=True)
class Split:
    """The best split of each budget, arrays [budget].

    Attributes:
        estimator: number in ``ESTIMATORS``, -1 where the budget buys none.
        physics, emulator: members; those of a pair count in both.
        error: root of the mean squared error.
        alternatives: [estimator, budget] the same of each estimator at its own best split; infinite: there is none.
        spent: of the budget.
    """

    budget: np.ndarray
    estimator: np.ndarray
    physics: np.ndarray
    emulator: np.ndarray
    error: np.ndarray
    alternatives: np.ndarray
    spent: np.ndarray

    def table(self) -> Any:
        """One row a budget, with the error of each estimator."""
        import pandas as pd

        names = np.array([*ESTIMATORS, "none"])
        columns = {"budget": self.budget, "estimator": names[self.estimator], "physics": self.physics,
                   "emulator": self.emulator, "error": self.error, "spent": self.spent}  # fmt: skip
        columns |= {f"error.{name}": self.alternatives[i] for i, name in enumerate(ESTIMATORS)}
        return pd.DataFrame(columns)


def mean_squared_error(members: Members, physics: Any, emulator: Any, statistic: Statistic = "mean") -> np.ndarray:
    """Mean squared error of each estimator [3, ...] with so many members; infinite where it lacks them.

    Args:
        physics, emulator: members, arrays that broadcast; ``both`` needs as many of the emulator as of the physics.
        statistic: the mean, or the spread, which needs two members.
    """
    own, other, squared, bias = members.moments(statistic)
    n, m = np.broadcast_arrays(np.asarray(physics, float), np.asarray(emulator, float))
    a, b = (n, m) if statistic == "mean" else (n - 1, m - 1)  # a sample variance has one degree of freedom less
    with np.errstate(divide="ignore", invalid="ignore"):
        alone = np.where(a > 0, own / a, np.inf)
        emulated = np.where(b > 0, other / b + bias**2, np.inf)
        both = np.where((a > 0) & (m >= n), own * ((1 - squared) / a + squared / b), np.inf)
    return np.stack([alone, emulated, both])


def optimal_ratio(members: Members, statistic: Statistic = "mean") -> float:
    """Emulator members for each physics member that make the error of ``both`` least, without rounding (1 or more)."""
    squared = members.moments(statistic)[2]
    if squared >= 1:
        return np.inf
    return float(max(1.0, np.sqrt(members.physics_cost * squared / (members.emulator_cost * (1 - squared)))))


def split(members: Members, budget: Any, *, statistic: Statistic = "mean") -> Split:
    """The best split of budgets, by the mean squared error; of equal ones the estimator that comes first.

    Numbers of physics members of up to 512 around the optimum without rounding are tried, with all the emulator members
    that the rest buys.

    Raises:
        SpecError: a budget that is not above 0, or an unknown statistic.
    """
    if statistic not in ("mean", "spread"):
        raise SpecError([Fault("statistic", repr(statistic)[:60], "must be mean or spread")])
    budgets = np.atleast_1d(np.asarray(budget, float))
    if budgets.ndim != 1 or not (np.isfinite(budgets) & (budgets > 0)).all():
        raise SpecError([Fault("budget", str(budget)[:60], "must be above 0")])
    p, e = members.physics_cost, members.emulator_cost
    alone, emulated = np.floor(budgets / p * (1 + 1e-12)), np.floor(budgets / e * (1 + 1e-12))
    ratio = optimal_ratio(members, statistic)
    middle = np.floor(budgets / (p + ratio * e)) if np.isfinite(ratio) else np.zeros(len(budgets))
    tried = np.maximum(middle[:, None] + np.arange(-256, 256), 1.0)
    left = np.floor((budgets[:, None] - tried * p) / e * (1 + 1e-12))
    errors = mean_squared_error(members, tried, np.maximum(left, 0.0), statistic)[2]
    at = errors.argmin(axis=1)
    rows = np.arange(len(budgets))
    pairs, more = tried[rows, at], np.maximum(left[rows, at], 0.0)
    best = np.stack([
        mean_squared_error(members, alone, 0.0, statistic)[0], mean_squared_error(members, 0.0, emulated, statistic)[1],
        errors[rows, at],
    ])  # fmt: skip
    which = best.argmin(axis=0)
    none = np.isinf(best[which, rows])
    physics, emulator = np.choose(which, [alone, 0 * alone, pairs]), np.choose(which, [0 * alone, emulated, more])
    physics, emulator = np.where(none, 0.0, physics), np.where(none, 0.0, emulator)
    return Split(
        budgets, np.where(none, -1, which), physics.astype(np.int64), emulator.astype(np.int64),
        np.sqrt(best[which, rows]), np.sqrt(best), physics * p + emulator * e,
    )  # fmt: skip
