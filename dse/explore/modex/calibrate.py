"""Intervals that hold although the rows were not chosen at random.

Where a loop picks what it is unsure about, the rows it measured are unlike the rest, and quantiles of their residuals
say little about the others. So every few measurements one is drawn at random from all that are left: the reserve. Such
a row is exchangeable with those not measured, at the moment when it is drawn; its score is |residual| / deviation of
the prediction made just before. The scores, the latest with the greatest weight, are held against the model's own
distribution as if that had been seen ``TRUST`` times: with many of them this is weighted split conformal prediction
(Tibshirani et al. 2019; Barber et al. 2023), with none the model's own interval.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dse.explore.modex.gp import Posterior

TRUST = 4.0  # scores that the model's own distribution counts for
FORGET = 30.0  # scores after which one counts half as much
EARLY = 3  # measurements before which predictions rest on the prior alone and their scores say nothing
WIDEST = 8.0  # normal deviations


def score(posterior: Posterior, row: int, y: float) -> float:
    """How far a measurement is off what was predicted, as deviations of a normal with the same tail.

    Args:
        posterior: before it was measured; y: log(measured / predicted by the prior).
    """
    from scipy.stats import norm
    from scipy.stats import t as student

    where = np.array([row])
    deviation = np.sqrt(posterior.variance(where) + posterior.noise)
    off = abs(y - posterior.mean(where)) / np.maximum(deviation, 1e-12)
    return float(min(norm.isf(student.sf(off[0], posterior.freedom)), WIDEST))


def half_width(posterior: Posterior, scores: Sequence[float], level: float) -> tuple[float, float]:
    """Deviations that an interval of this level spans on each side, and how many times those of the model.

    Args:
        scores: of the reserve, in the order they were drawn, see :func:`score`.
    """
    from scipy.stats import norm
    from scipy.stats import t as student

    plain = float(student.ppf(0.5 + 0.5 * level, posterior.freedom))
    if not len(scores):
        return plain, 1.0
    seen = np.asarray(scores, float)
    weights = 0.5 ** (np.arange(len(seen))[::-1] / FORGET)
    count = float(weights.sum())
    # As conformal prediction has it, the row to come counts as one outside, as far as scores count at all.
    aim = level * (TRUST + count + count / (TRUST + count))
    low, high = 0.0, WIDEST
    for _ in range(50):
        middle = 0.5 * (low + high)
        below = TRUST * (2 * float(norm.cdf(middle)) - 1) + float(weights[seen <= middle].sum())
        low, high = (low, middle) if below >= aim else (middle, high)
    width = float(student.isf(norm.sf(high), posterior.freedom))
    return width, width / plain
