"""Which row to measure next.

``regret`` takes the row whose measurement is expected to lower the decision's regret most for its cost: the value of
sample information, E_y[min over options of E(loss | y)] against min of E(loss), exact for the Gaussian posterior up to
a quadrature over the outcome y. The others are what it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dse.explore.modex.decisions import Decision
from dse.explore.modex.gp import Posterior

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
REACH = 4.0  # deviations within which an option may still turn out best
OPTIONS = 2000  # that are followed at once
BLOCK = 2_000_000  # numbers in an intermediate table
SMALL = 1e-6  # expected reductions of regret below this are rounding


@dataclass(frozen=True)
class Belief:
    """A posterior seen through the decision: the quantity that each option depends on, normal, (options,)."""

    posterior: Posterior
    decision: Decision
    prior: np.ndarray  # logarithm of what was predicted, (rows,)
    stretch: float  # of the deviations, from the calibration
    mean: np.ndarray
    variance: np.ndarray
    loss: np.ndarray
    taken: np.ndarray
    open: np.ndarray  # options that may still turn out best, in groups with more than one


def believe(posterior: Posterior, decision: Decision, prior: np.ndarray, stretch: float) -> Belief:
    """The decision as it stands, and the options still open."""
    rows = np.arange(len(prior))
    mean = decision.quantity(posterior.mean(rows) + prior)
    variance = stretch**2 * _variance(posterior, decision)
    loss = decision.expected(mean, variance)
    deviation = REACH * np.sqrt(variance)
    ends = np.stack([decision.loss(mean - deviation), decision.loss(mean + deviation)])
    worst = decision.least(ends.max(0))[decision.group]
    contends = ends.min(0) <= worst  # equals too: "none" may be the worst there is
    contends &= np.bincount(decision.group, contends, decision.groups)[decision.group] > 1
    still = np.flatnonzero(contends)
    if len(still) > OPTIONS:
        gap = np.argsort(ends.min(0)[still] - worst[still], kind="stable")
        still = np.sort(still[gap[:OPTIONS]])
    taken = decision.take(loss)
    still = np.union1d(still, taken[np.isin(np.arange(decision.groups), decision.group[still])])
    return Belief(posterior, decision, prior, stretch, mean, variance, loss, taken, still.astype(int))


def _variance(posterior: Posterior, decision: Decision) -> np.ndarray:
    """Of what each option depends on."""
    known = decision.rows >= 0
    variance = np.zeros(len(known))
    every = posterior.variance(np.arange(len(posterior.kernel.columns)))
    variance[known] = every[decision.rows[known]]
    pair = decision.against >= 0
    if pair.any():
        a, b = decision.rows[pair], decision.against[pair]
        used, place = np.unique(np.concatenate([a, b]), return_inverse=True)
        both = posterior.covariance(used, used)[place[: len(a)], place[len(a) :]]
        variance[pair] = np.maximum(every[a] + every[b] - 2 * both, 0.0)
    return variance


def probability(belief: Belief, random: np.random.Generator, draws: int = 1000) -> tuple[float, float]:
    """Probability that with every value known the decision would be another, and its expected regret (logarithm)."""
    if not len(belief.open):
        return 0.0, 0.0
    decision, options = belief.decision, belief.open
    rows = np.unique(np.concatenate([decision.rows[options], decision.against[options]]))
    rows = rows[rows >= 0]
    values = np.zeros((draws, len(belief.prior)))
    values[:, rows] = belief.posterior.draws(rows, draws, random, belief.stretch) + belief.prior[rows]
    part = _Part(belief)
    loss = decision.loss(decision.quantity(values))[:, options]
    lost = (loss[:, part.taken] - np.minimum.reduceat(loss[:, part.order], part.starts, axis=1)).sum(1)
    lost = lost / decision.groups
    return float(np.mean(lost > decision.tolerance)), float(np.mean(lost))


class _Part:
    """The open options as a decision of their own: their order by group, where groups start, which are taken."""

    def __init__(self, belief: Belief) -> None:
        group = belief.decision.group[belief.open]
        self.order = np.argsort(group, kind="stable")
        self.starts = np.flatnonzero(np.append(True, np.diff(group[self.order]) > 0))
        self.taken = np.searchsorted(belief.open, belief.taken[group[self.order][self.starts]])


def reductions(belief: Belief, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By measuring each row once: expected reduction of the regret, and variance explained of what is still open.

    Args:
        rows: candidates, (rows,).
    """
    gain, told = np.zeros(len(rows)), np.zeros(len(rows))
    if not len(belief.open):
        return gain, told
    step = max(1, BLOCK // len(belief.open))
    part = _Part(belief)
    for first in range(0, len(rows), step):
        some = slice(first, first + step)
        gain[some], told[some] = _reductions(belief, rows[some], part)
    return gain / belief.decision.groups, told


def _reductions(belief: Belief, rows: np.ndarray, part: _Part) -> tuple[np.ndarray, np.ndarray]:
    slope = _slopes(belief, rows)
    left = np.maximum(belief.variance[belief.open] - slope**2, 0.0)
    mean = belief.mean[belief.open]
    average, best = np.zeros(slope.shape), np.zeros((len(rows), len(part.starts)))
    part_of = belief.decision.of(belief.open)
    for node, weight in zip(NODES, WEIGHTS, strict=True):
        loss = part_of.expected(mean + node * slope, left)
        average += weight * loss
        best += weight * np.minimum.reduceat(loss[:, part.order], part.starts, axis=1)
    now = np.minimum.reduceat(average[:, part.order], part.starts, axis=1)
    return np.maximum((now - best).sum(1), 0.0), (slope**2).sum(1)


def _slopes(belief: Belief, rows: np.ndarray) -> np.ndarray:
    """How far each open option's quantity moves for one deviation of the outcome, (rows, open)."""
    decision, posterior = belief.decision, belief.posterior
    first, second = decision.rows[belief.open], decision.against[belief.open]
    used, place = np.unique(np.concatenate([first, second]), return_inverse=True)
    real = used >= 0
    shared = np.zeros((len(rows), len(used)))
    shared[:, real] = posterior.covariance(rows, used[real])
    moved = shared[:, place[: len(first)]] - shared[:, place[len(first) :]]
    outcome = np.sqrt(np.maximum(posterior.variance(rows) + posterior.noise, 1e-18))
    return belief.stretch * moved / outcome[:, None]


def scores(strategy: str, belief: Belief, rows: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """How much each row is worth measuring, (rows,); the greatest is measured.

    Args:
        strategy: a key of :data:`STRATEGIES` other than ``random``.
        costs: of the rows.
    """
    return STRATEGIES[strategy](belief, rows, costs)


def _by_regret(belief: Belief, rows: np.ndarray, costs: np.ndarray) -> np.ndarray:
    gain, told = reductions(belief, rows)
    if gain.max(initial=0.0) > SMALL:
        return gain / costs
    # No single measurement is expected to change the decision: take what tells most about the options still open.
    return (told if told.max(initial=0.0) > 0 else belief.posterior.variance(rows)) / costs


def _by_variance(belief: Belief, rows: np.ndarray, costs: np.ndarray) -> np.ndarray:
    return belief.posterior.variance(rows)


def _by_variance_per_cost(belief: Belief, rows: np.ndarray, costs: np.ndarray) -> np.ndarray:
    return belief.posterior.variance(rows) / costs


def _by_improvement(belief: Belief, rows: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Expected improvement of the best option that hangs on the row over the one taken, as Bayesian optimisation."""
    decision = belief.decision
    gain = np.zeros(len(belief.prior))
    deviation, now = np.sqrt(belief.variance), belief.loss[belief.taken][decision.group]
    better = sum(w * np.maximum(now - decision.loss(belief.mean + z * deviation), 0.0)
                 for z, w in zip(NODES, WEIGHTS, strict=True))  # fmt: skip
    for places in (decision.rows, decision.against):
        np.maximum.at(gain, places[places >= 0], better[places >= 0])
    # Rows that no option hangs on come last, the least known first.
    return gain[rows] + 1e-9 * belief.posterior.variance(rows)


STRATEGIES: dict[str, Callable[[Belief, np.ndarray, np.ndarray], np.ndarray]] = {
    "regret": _by_regret,
    "variance": _by_variance,
    "variance-per-cost": _by_variance_per_cost,
    "improvement": _by_improvement,
}
NAMES = (*STRATEGIES, "random")
