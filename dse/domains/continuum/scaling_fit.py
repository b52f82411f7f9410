"""Strong and weak scaling as a hierarchical model: time is a sum of terms, curves share how the terms compare.

The time of a run is ``Σ_k θ_k·x_k(nodes)`` with positive θ: work of a device, halo exchange, latency and, where the
problem grows with the machine, exchange across it. Every curve (a machine with an algorithm) has its own θ; the logs of
their ratios are drawn around a common mean, so that a curve with few sizes borrows from the others. Software variants
are random effects. The posterior is taken as normal around its mode (Laplace). Run-to-run noise has two parts: one of
everything, one of the time that is not the device's own work, because other jobs disturb networks and file systems but
not a kernel; its size is averaged over a grid, site by site. Noise has the tails of Student's t.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

SPREAD = 1.0  # sd of a curve's log ratio of terms around the common one: a factor e
TYPICAL, TYPICAL_SD = np.log(0.3), 2.0  # of another term over the device's, at the typical size: hardly a constraint
VARIANT = 0.05  # prior sd of a software variant, counted as PRIOR_COUNT observations
LEVEL = 0.3  # prior sd of a machine's work relative to what its device needs for the bare dycore
FREE = 5.0  # the same where the device's need is not known: no constraint
PRIOR_COUNT = 2.0
TAIL = 4.0  # degrees of freedom of Student's t for runs: now and then one is far slower than its replicates
ROUNDS = 5
EVEN = np.geomspace(0.003, 0.12, 14)  # grid of the noise of everything
OTHER = np.array([0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8])  # and of what is not device work
EVEN_PRIOR = -0.5 * (np.log(EVEN / 0.03) / 0.7) ** 2
OTHER_PRIOR = -0.5 * (OTHER / 0.3) ** 2


@dataclass(frozen=True)
class Rows:
    """Runs as the fit sees them.

    Attributes:
        terms: [run, term], the first is the device's.
        curve, site: [run], numbers of the curve and of the machine.
        variant: [run], number of the software variant; -1: none that is known.
    """

    terms: Floats
    curve: Ints
    site: Ints
    variant: Ints


@dataclass(frozen=True)
class Fitted:
    """Attributes:
    theta: [curve, term], seconds (log).
    effects: [variant], log seconds.
    covariance: of all parameters, in the order of :func:`fit`.
    noise: [site, even, other], probabilities over the grid of noise.
    variant_sd: between software variants.
    """

    theta: Floats
    effects: Floats
    covariance: Floats
    noise: Floats
    variant_sd: float

    def predict(self, rows: Rows) -> tuple[Floats, Floats]:
        """Log seconds of new runs and their standard deviation, noise of a run included. Shape [run] each."""
        mean, share = _mean(self.theta, self.effects, rows)
        jacobian = _jacobian(share, rows, self.theta.shape, len(self.effects))
        wide = np.zeros((len(mean), len(self.covariance)))
        wide[:, _observed(self.theta.shape, len(self.effects))] = jacobian
        variance = np.einsum("ri,ij,rj->r", wide, self.covariance, wide)
        noise = _variance(self.noise[rows.site], 1 - share[:, 0])
        noise *= TAIL / (TAIL - 2)  # the variance of Student's t by its scale
        return mean, np.sqrt(variance + noise + np.where(rows.variant < 0, self.variant_sd**2, 0.0))

    def shares(self, rows: Rows) -> Floats:
        """[run, term], what each term has of the time."""
        return _mean(self.theta, self.effects, rows)[1]


def _mean(theta: Floats, effects: Floats, rows: Rows) -> tuple[Floats, Floats]:
    parts = rows.terms * np.exp(theta[rows.curve])
    total = parts.sum(axis=1)
    shift = np.where(rows.variant >= 0, np.append(effects, 0.0)[rows.variant], 0.0)
    return np.log(total) + shift, parts / total[:, None]


def _observed(shape: tuple[int, ...], variants: int) -> Ints:
    """Which parameters the time of a run depends on directly: all θ and effects."""
    curves, terms = shape
    start = curves * terms + terms
    return np.concatenate([np.arange(curves * terms), np.arange(start, start + variants)])


def _jacobian(share: Floats, rows: Rows, shape: tuple[int, ...], variants: int) -> Floats:
    """Of log seconds by θ (curve after curve) and effects."""
    runs, (curves, terms) = len(share), shape
    out = np.zeros((runs, curves * terms + variants))
    at = np.arange(runs)
    for k in range(terms):
        out[at, rows.curve * terms + k] = share[:, k]
    known = rows.variant >= 0
    out[at[known], curves * terms + rows.variant[known]] = 1.0
    return out


def _variance(noise: Floats, other: Floats) -> Floats:
    """Expected squared scale of a run's noise over the grid."""
    even = np.einsum("reo,e->r", noise, EVEN**2)
    return even + np.einsum("reo,o->r", noise, OTHER**2) * other**2


def _prior_rows(level: Floats, terms: int, variants: int, variant: float, start: float) -> Floats:
    """The priors as rows of a linear least-squares problem: weights of each parameter, and the aim in the last column.

    Parameters are θ [curve·term], the common log ratios [term − 1], the common level [1], and the effects [variant].
    ``level`` is the sd of each curve's level around the common one.
    """
    curves = len(level)
    size = curves * terms + terms + variants
    common = curves * terms
    out = []
    for c in range(curves):
        row = np.zeros(size + 1)
        row[c * terms], row[common + terms - 1] = 1 / level[c], -1 / level[c]
        out.append(row)
        for k in range(1, terms):
            row = np.zeros(size + 1)
            row[c * terms + k], row[c * terms], row[common + k - 1] = 1 / SPREAD, -1 / SPREAD, -1 / SPREAD
            out.append(row)
    for k in range(terms - 1):
        row = np.zeros(size + 1)
        row[common + k], row[-1] = 1 / TYPICAL_SD, TYPICAL / TYPICAL_SD
        out.append(row)
    row = np.zeros(size + 1)
    row[common + terms - 1], row[-1] = 0.1, 0.1 * start  # a level may be anything
    out.append(row)
    for v in range(variants):
        row = np.zeros(size + 1)
        row[common + terms + v] = 1 / variant
        out.append(row)
    return np.array(out)


def fit(rows: Rows, log_seconds: Floats, levelled: NDArray[np.bool_], sites: int, variants: int) -> Fitted:
    """The mode of the posterior and its curvature. Curves and sites without a run get what the others suggest.

    Args:
        rows: the runs, with terms of order one at the typical size.
        log_seconds: [run].
        levelled: [curve], whether its device term is in seconds of its device, which other machines' levels tell about.
        sites, variants: how many there are.
    """
    from scipy.optimize import least_squares

    curves, terms = len(levelled), rows.terms.shape[1]
    observed = _observed((curves, terms), variants)
    start = float(np.mean(log_seconds - np.log(rows.terms[:, 0]))) - 0.5
    parameters = np.zeros(curves * terms + terms + variants)
    parameters[: curves * terms] = start + np.tile(np.r_[0.0, np.full(terms - 1, TYPICAL)], curves)
    parameters[curves * terms :][:terms] = np.r_[np.full(terms - 1, TYPICAL), start]
    noise = _noise_posterior(np.zeros(0), np.zeros(0), np.zeros(0, np.intp), sites)
    level, variant, squared = LEVEL, VARIANT, np.zeros(len(log_seconds))
    for _ in range(ROUNDS):
        prior = _prior_rows(np.where(levelled, level, FREE), terms, variants, variant, start)

        def split(p: Floats) -> tuple[Floats, Floats]:
            return p[: curves * terms].reshape(curves, terms), p[curves * terms + terms :]

        share = _mean(*split(parameters), rows)[1]
        variance = _variance(noise[rows.site], 1 - share[:, 0])
        weight = np.sqrt((TAIL + 1) / (TAIL + squared / variance) / variance)

        def residuals(p: Floats, weight: Floats = weight, prior: Floats = prior) -> Floats:
            return np.concatenate(
                [(_mean(*split(p), rows)[0] - log_seconds) * weight, prior[:, :-1] @ p - prior[:, -1]]
            )

        def slopes(p: Floats, weight: Floats = weight, prior: Floats = prior) -> Floats:
            wide = np.zeros((len(weight), len(p)))
            wide[:, observed] = _jacobian(_mean(*split(p), rows)[1], rows, (curves, terms), variants)
            return np.vstack([wide * weight[:, None], prior[:, :-1]])

        found = least_squares(residuals, parameters, slopes, method="lm", xtol=1e-6, ftol=1e-9)
        parameters = found.x
        covariance = np.linalg.inv(found.jac.T @ found.jac)
        theta, effects = split(parameters)
        mean, share = _mean(theta, effects, rows)
        top = found.jac[: len(mean)]
        leverage = np.clip(np.einsum("ri,ij,rj->r", top, covariance, top), 0.0, 0.95)
        squared = (log_seconds - mean) ** 2 / (1 - leverage)
        noise = _noise_posterior(squared, 1 - share[:, 0], rows.site, sites)
        variant = _pooled(effects, VARIANT)
        seen = [c for c in np.unique(rows.curve) if levelled[c]]
        if seen:
            level = _pooled(theta[seen, 0] - theta[seen, 0].mean(), LEVEL)
    return Fitted(theta, effects, covariance, noise, variant)


def _pooled(values: Floats, prior: float) -> float:
    """A standard deviation, shrunk to the prior's."""
    return float(np.sqrt((PRIOR_COUNT * prior**2 + (values**2).sum()) / (PRIOR_COUNT + len(values))))


def _noise_posterior(squared: Floats, other: Floats, site: Ints, sites: int) -> Floats:
    """[site, even, other]: how likely each size of noise is; a site without runs has the mean of the others."""
    variance = EVEN[None, :, None] ** 2 + OTHER[None, None, :] ** 2 * other[:, None, None] ** 2
    log = -0.5 * np.log(variance) - (TAIL + 1) / 2 * np.log1p(squared[:, None, None] / (TAIL * variance))
    total = np.broadcast_to(EVEN_PRIOR[:, None] + OTHER_PRIOR[None, :], (sites, len(EVEN), len(OTHER))).copy()
    np.add.at(total, site, log)
    weights = np.exp(total - total.max(axis=(1, 2), keepdims=True))
    weights /= weights.sum(axis=(1, 2), keepdims=True)
    seen = np.isin(np.arange(sites), site)
    if seen.any() and not seen.all():
        weights[~seen] = weights[seen].mean(axis=0)
    return weights
