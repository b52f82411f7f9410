"""How far off predictions are: an error model fitted to runs of publications that the constants had not seen.

The logarithm of measured over predicted time of run i of publication j is taken to be

    e_ij = w_ij + a_j + Σ_k share_ijk · b_jk        w ~ N(0, σ_w²)   a ~ N(0, σ_a²)   b_k ~ N(0, σ_k²)

``w`` is what changes from run to run, ``a`` what a site or code base has in common, ``b_k`` the error of one kind of
term (compute, communication, pipeline ...), which counts by the share of the time that it takes. The standard
deviations maximize the likelihood of the residuals. Conformal quantiles of |e| / σ(e), of publishers weighted alike,
replace those of the normal distribution. Two designs share ``a`` and ``b`` where they
run on the same kind of hardware and software, so their comparison is more certain than each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dse.accuracy.features import KINDS

Array = Any
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
NAMES = ("run", "site", *KINDS)
START = (0.04, 0.04, 0.05, 0.2, 0.2, 0.2, 0.3)
CLIP = 0.35  # residuals beyond this are outliers and do not drive the standard deviations


def fit_deviations(errors: np.ndarray, shares: np.ndarray, sources: np.ndarray) -> dict[str, float]:
    """Standard deviations that maximize the likelihood; a publication counts with the square root of its rows.

    Args:
        errors: log of measured over predicted time, (n,).
        shares: of the kinds of time, (n, kinds).
        sources: publication of each run, (n,).
    """
    from scipy.optimize import minimize

    groups = [np.flatnonzero(sources == name) for name in np.unique(sources)]
    clipped = np.clip(errors, -CLIP, CLIP)

    def loss(point: np.ndarray) -> float:
        sigma = np.exp(point)
        value = sum(_minus_log_likelihood(clipped[g], shares[g], sigma) / np.sqrt(len(g)) for g in groups)
        return value + 0.5 * float(np.sum((point - np.log(START)) ** 2))  # a weak prior of a factor of e

    found = minimize(loss, np.log(START), method="L-BFGS-B", bounds=[(np.log(0.01), np.log(0.6))] * len(START))
    return {name: float(v) for name, v in zip(NAMES, np.exp(found.x), strict=True)}


def _minus_log_likelihood(e: np.ndarray, shares: np.ndarray, sigma: np.ndarray) -> float:
    """Of a low-rank plus diagonal covariance, by the Woodbury identity."""
    u = np.concatenate([np.full((len(e), 1), sigma[1]), shares * sigma[2:]], axis=1)
    inner = np.eye(u.shape[1]) + u.T @ u / sigma[0] ** 2
    solved = np.linalg.solve(inner, u.T @ e) / sigma[0] ** 2
    square = (e @ e - (u.T @ e) @ solved) / sigma[0] ** 2
    log_determinant = len(e) * 2 * np.log(sigma[0]) + np.linalg.slogdet(inner)[1]
    return 0.5 * float(square + log_determinant)


def deviation(shares: Mapping[str, Array], sigma: Mapping[str, float]) -> Array:
    """σ of the log of measured over predicted time for designs with these shares (arrays of any shape)."""
    variance: Array = sigma["run"] ** 2 + sigma["site"] ** 2
    for kind in KINDS:
        variance = variance + (sigma[kind] * shares[f"share.{kind}"]) ** 2
    return np.sqrt(variance)


def difference(a: Mapping[str, Array], b: Mapping[str, Array], sigma: Mapping[str, float], *, related: bool) -> Array:
    """σ of the log ratio of two designs' times; ``related`` designs share the errors of site and kinds."""
    variance: Array = 2.0 * sigma["run"] ** 2 + (0.0 if related else 2.0 * sigma["site"] ** 2)
    for kind in KINDS:
        x, y = a[f"share.{kind}"], b[f"share.{kind}"]
        variance = variance + sigma[kind] ** 2 * ((x - y) ** 2 if related else x**2 + y**2)
    return np.sqrt(variance)


def conformal(scores: np.ndarray, groups: np.ndarray, levels: Sequence[float] = LEVELS) -> list[float]:
    """Quantiles of |e|/σ over the runs of groups that were left out, groups weighted alike.

    The correction for a finite number of exchangeable groups (one more at infinity) is not made: with seven publishers
    it would ask for the largest score at 90 %. What the quantiles are worth is measured instead, by building them
    without each group and counting its runs inside (``held_out.coverage90`` of the calibration).
    """
    names, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    weights = 1.0 / counts[inverse] / len(names)
    order = np.argsort(scores)
    reached = np.cumsum(weights[order])
    places = [min(int(np.searchsorted(reached, level - 1e-12)), len(order) - 1) for level in levels]
    return [float(scores[order][place]) for place in places]


def quantile(table: Mapping[str, Any], level: float) -> float:
    """The factor on σ for a level, interpolated."""
    return float(np.interp(level, LEVELS, table["all"]))


# Half-widths of the logarithm of the memory at LEVELS: an assumption after the residuals of the BLOOM experiments, the
# only publication with many peaks.
MEMORY = [0.03, 0.04, 0.055, 0.075, 0.09, 0.11, 0.15]


def memory_half_width(level: float) -> float:
    """Half-width of the interval of the logarithm of the memory."""
    return float(np.interp(level, LEVELS, MEMORY))
