"""A small exact Gaussian process for what an analytic model gets wrong.

With y = log(measured / predicted) of the rows that were measured,

    y = f(row) + e,    f ~ GP(0, s² (κ² + k(x, x') + ρ² [same row])),    e ~ N(0, s² η²)

``κ²`` is a common factor of unknown size, ``k`` a Matérn-5/2 kernel with one length a feature, ``ρ`` what is particular
to a row, ``η`` what differs between repetitions. The scale s² has an inverse-gamma prior and is integrated out, so that
predictions follow Student's t and are wide while little is known; lengths, ``ρ`` and ``η`` maximise the marginal
likelihood times a weak log-normal prior (Rasmussen and Williams 2006, chapters 2 and 5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dse.errors import Fault, SpecError

SHAPE = 2.0  # of the prior of s²: as if four residuals had been seen
SPAN = 8.0  # positive features that span more than this are taken as logarithms
LENGTH, LENGTH_SPREAD = 0.6, 0.7  # prior of a length, in ranges of the feature times √features; spread of its log
ROUGH, ROUGH_SPREAD = np.log(0.1), 1.0  # prior of log ρ, against s
NOISE, NOISE_SPREAD = np.log(0.1), 1.0  # prior of log η, against s
JITTER = 1e-6  # of a covariance, in units of s²: for what rounding leaves below zero
FEW = 16  # measurements up to which the fit starts from the prior alone
LOWEST = 1e-4  # of ρ and η: keeps matrices regular


def encode(features: Mapping[str, Sequence[object]]) -> tuple[np.ndarray, np.ndarray]:
    """Features as columns from 0 to 1, and the feature that each column belongs to.

    Numbers are scaled to their range, after a logarithm where all are positive and span more than a factor of 8. Names
    become one column each, so that two rows that differ in the name are as far apart as the ends of a range.

    Returns:
        (n, columns) and (columns,).

    Raises:
        SpecError: a feature holds something that is not finite.
    """
    columns, owner = [], []
    for place, (name, values) in enumerate(features.items()):
        array = np.asarray(values)
        if array.dtype.kind in "biuf":
            array = array.astype(float)
            if not np.isfinite(array).all():
                raise SpecError([Fault(f"features.{name}", "", "must hold finite numbers or names")])
            if array.min() > 0 and array.max() > SPAN * array.min():
                array = np.log(array)
            width = np.ptp(array)
            found = [(array - array.min()) / width] if width > 0 else []
        else:
            text = array.astype(str)
            kinds = np.unique(text)
            found = [(text == kind) / np.sqrt(2) for kind in kinds] if len(kinds) > 1 else []
        columns += found
        owner += [place] * len(found)
    size = len(next(iter(features.values()))) if features else 0
    table = np.stack(columns, axis=1).astype(float) if columns else np.zeros((size, 0))
    return table, np.unique(np.asarray(owner, int), return_inverse=True)[1]


@dataclass(frozen=True)
class Kernel:
    """Of the rows of one problem.

    Args:
        columns: encoded features, (n, columns); owner: feature of each column, (columns,).
        error: how far the prior is expected to be off from row to row, in logarithms.
        level: how far by a common factor, in logarithms.
        noise: of a repetition, in logarithms; None where it is to be learnt.
    """

    columns: np.ndarray
    owner: np.ndarray
    error: float = 0.3
    level: float = 1.0
    noise: float | None = None

    @property
    def features(self) -> int:
        """Features that differ between rows."""
        return int(self.owner.max()) + 1 if len(self.owner) else 0

    @property
    def common(self) -> float:
        """κ²."""
        return (self.level / self.error) ** 2

    def squares(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Squared distances by feature, (features, a, b)."""
        found = np.zeros((self.features, len(a), len(b)))
        for column, feature in enumerate(self.owner):
            found[feature] += (self.columns[a, column][:, None] - self.columns[b, column][None, :]) ** 2
        return found

    def between(self, a: np.ndarray, b: np.ndarray, point: np.ndarray) -> np.ndarray:
        """Covariance of f in units of s², (a, b)."""
        scaled = self.columns / np.exp(point[: self.features])[self.owner] if self.features else self.columns
        left, right = scaled[a], scaled[b]
        square = (left**2).sum(1)[:, None] + (right**2).sum(1)[None, :] - 2 * left @ right.T
        same = a[:, None] == b[None, :]
        return self.common + matern(np.maximum(square, 0.0))[0] + np.exp(2 * point[self.features]) * same

    def start(self) -> np.ndarray:
        """Log lengths, log ρ and, where it is learnt, log η at the mode of their prior."""
        tail = [ROUGH] if self.noise is not None else [ROUGH, NOISE]
        return np.concatenate([np.full(self.features, np.log(LENGTH * np.sqrt(max(self.features, 1)))), tail])


def matern(square: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matérn 5/2 of a squared distance, and −2 times its derivative by it."""
    root = np.sqrt(5 * square)
    decay = np.exp(-root)
    return (1 + root + 5 * square / 3) * decay, (5 / 3) * (1 + root) * decay


def fit(kernel: Kernel, rows: np.ndarray, y: np.ndarray, point: np.ndarray | None = None) -> np.ndarray:
    """Log lengths, log ρ and log η that maximise the marginal posterior; ``point``: an earlier answer to try too.

    Args:
        rows: measured, (m,), with repetitions; y: log(measured / predicted), (m,).
    """
    from scipy.optimize import minimize

    middle = kernel.start()
    if len(rows) < 2:
        return middle
    squares, same = kernel.squares(rows, rows), rows[:, None] == rows[None, :]
    lengths = kernel.features
    spread = np.concatenate([np.full(lengths, LENGTH_SPREAD), [ROUGH_SPREAD, NOISE_SPREAD][: len(middle) - lengths]])

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = _marginal(kernel, squares, same, y, at)
        off = (at - middle) / spread
        return value + 0.5 * float(off @ off), slope + off / spread

    starts = [middle] if point is None or len(rows) <= FEW else [middle, point]
    bounds = [(-3.0, 3.0)] * lengths + [(np.log(LOWEST), np.log(3.0))] * (len(middle) - lengths)
    tries = [minimize(loss, at, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 40}) for at in starts]
    return np.asarray(min(tries, key=lambda found: found.fun).x)


def _marginal(
    kernel: Kernel, squares: np.ndarray, same: np.ndarray, y: np.ndarray, point: np.ndarray
) -> tuple[float, np.ndarray]:
    """Minus the logarithm of the marginal likelihood, s² integrated out, and its gradient."""
    lengths, size = kernel.features, len(y)
    scaled = squares * np.exp(-2 * point[:lengths])[:, None, None]
    shape, slope = matern(scaled.sum(0))
    rough = np.exp(2 * point[lengths]) * same
    learnt = kernel.noise is None
    noise = np.exp(2 * point[lengths + 1]) if learnt else (kernel.noise / kernel.error) ** 2
    matrix = kernel.common + shape + rough + (noise + LOWEST**2) * np.eye(size)
    inverse = np.linalg.inv(matrix)
    weights = inverse @ y
    left = SHAPE * kernel.error**2 + 0.5 * float(y @ weights)
    power = SHAPE + 0.5 * size
    value = 0.5 * float(np.linalg.slogdet(matrix)[1]) + power * np.log(left)
    # d value / d θ = ½ tr((R⁻¹ − (power / left) α αᵀ) dR)
    pull = 0.5 * (inverse - (power / left) * np.outer(weights, weights))
    gradient = [float(np.sum(pull * slope * part)) for part in scaled]
    gradient.append(2 * float(np.sum(pull * rough)))
    if learnt:
        gradient.append(2 * noise * float(np.trace(pull)))
    return value, np.asarray(gradient)


@dataclass(frozen=True)
class Posterior:
    """What is known of f after the measurements. Variances are those of Student's t with ``freedom`` degrees."""

    kernel: Kernel
    rows: np.ndarray
    y: np.ndarray
    point: np.ndarray
    inverse: np.ndarray  # of the covariance of the measurements, in units of s²
    scale: float  # s², its estimate
    freedom: float

    @property
    def noise(self) -> float:
        """Variance of one repetition."""
        if self.kernel.noise is not None:
            return self.scale * (self.kernel.noise / self.kernel.error) ** 2
        return self.scale * float(np.exp(2 * self.point[-1]))

    def mean(self, rows: np.ndarray) -> np.ndarray:
        """Of f, (rows,)."""
        if not len(self.rows):
            return np.zeros(len(rows))
        return self.kernel.between(rows, self.rows, self.point) @ (self.inverse @ self.y)

    def variance(self, rows: np.ndarray) -> np.ndarray:
        """Of f, (rows,)."""
        own = self.kernel.common + 1 + np.exp(2 * self.point[self.kernel.features])
        cross = self.kernel.between(rows, self.rows, self.point)
        return self.scale * np.maximum(own - np.einsum("ij,jk,ik->i", cross, self.inverse, cross, optimize=True), 0.0)

    def covariance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Of f between rows, (a, b)."""
        cross = self.kernel.between(a, self.rows, self.point) @ self.inverse
        return self.scale * (
            self.kernel.between(a, b, self.point) - cross @ self.kernel.between(self.rows, b, self.point)
        )

    def draws(self, rows: np.ndarray, count: int, random: np.random.Generator, stretch: float = 1.0) -> np.ndarray:
        """Joint draws of f, (count, rows), with deviations stretched by a factor."""
        matrix = self.covariance(rows, rows)
        root = _root(0.5 * (matrix + matrix.T), JITTER * self.scale)
        heavy = np.sqrt(self.freedom / random.chisquare(self.freedom, (count, 1)))
        return self.mean(rows) + stretch * heavy * (random.standard_normal((count, len(rows))) @ root.T)


def _root(matrix: np.ndarray, jitter: float) -> np.ndarray:
    """A lower triangle L with L Lᵀ the covariance, and as little added to its diagonal as makes it regular."""
    while True:
        try:
            return np.linalg.cholesky(matrix + jitter * np.eye(len(matrix)))
        except np.linalg.LinAlgError:
            jitter *= 10


def condition(kernel: Kernel, rows: np.ndarray, y: np.ndarray, point: np.ndarray) -> Posterior:
    """The posterior at given log lengths, log ρ and log η."""
    noise = np.exp(2 * point[-1]) if kernel.noise is None else (kernel.noise / kernel.error) ** 2
    matrix = kernel.between(rows, rows, point) + (noise + LOWEST**2) * np.eye(len(rows))
    inverse = np.linalg.inv(matrix) if len(rows) else np.zeros((0, 0))
    left = SHAPE * kernel.error**2 + 0.5 * float(y @ inverse @ y)
    # The common factor and the lengths were fitted to the same measurements: they take degrees of freedom, as in
    # least squares, but never more than half of what there is.
    worth = len(y) - min(0.5 * len(y), 1.0 + kernel.features)
    return Posterior(kernel, rows, y, point, inverse, left / (SHAPE + 0.5 * worth), 2 * SHAPE + worth)
