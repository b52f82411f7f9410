"""Morris screening of factors of any kind: which ones matter at all, for few designs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dse.errors import Fault, SpecError
from dse.explore.result import Result
from dse.explore.sensitivity.factors import BoundFactor, Factor, bind
from dse.explore.sensitivity.samples import Search, search_of, single
from dse.explore.sensitivity.text import as_text
from dse.explore.sensitivity.variance import Study

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class MorrisEffects:
    """Elementary effects: what changing one factor does, over the whole space.

    Attributes:
        table: a row a factor, the greatest first: mean effect ``mu``, mean size ``mu_star`` with the half-width
            ``mu_star_conf`` of its confidence interval, spread ``sigma`` (great where a factor interacts or bends),
            ``mu_star_half`` from the first half of the trajectories, and ``kind``.
        output, trajectories, evaluations, feasible, seed: as for :class:`SobolIndices`.
    """

    table: pd.DataFrame
    output: str
    trajectories: int
    evaluations: int
    feasible: float
    seed: int

    def __str__(self) -> str:
        rows = [
            [
                r["factor"],
                f"{r['mu']:+.4g}",
                f"{r['mu_star']:.4g} ± {r['mu_star_conf']:.2g}",
                f"{r['sigma']:.4g}",
                r["kind"],
            ]
            for _, r in self.table.iterrows()
        ]
        head = f"effects on {self.output} over the whole range ({self.trajectories} trajectories, seed {self.seed})"
        note = f"{self.feasible:.1%} of the designs satisfy every rule"
        return f"{head}\n{as_text(['factor', 'mu', 'mu*', 'sigma', ''], rows)}\n{note}"


def morris(
    design: Result,
    factors: Sequence[Factor | str],
    *,
    quantity: str = "step_time",
    trajectories: int = 64,
    grid: int = 4,
    log: bool = True,
    reoptimize: bool | Search = False,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> MorrisEffects:
    """Morris screening: the mean size and the spread of the effect of changing one factor at a time.

    SALib lays out the trajectories, on a ``grid`` of levels for ranges. An effect is the change of the output over the
    change of the factor, as a part of its range, so it is the effect of the whole range. Levels are not put on that
    grid: in each trajectory a factor with k levels goes from one, drawn at random, to another. Numbers keep their order
    (rank i counts as i / (k − 1) of the range). Names have none: the effect is the plain change of the output, its
    sign that of a random direction, and only ``mu_star`` and ``sigma`` mean something.

    Args:
        trajectories: r; r (D + 1) designs for D factors.
        grid: levels of a range, an even number.

    Other arguments, infeasible designs and errors as for :func:`sobol`.

    Source: Morris, Technometrics 33 (1991) 161-174; Campolongo et al., Environmental Modelling & Software 22 (2007).
    """
    import pandas as pd
    from SALib.sample import morris as sampling

    single(design)
    bound = bind(design.specs, factors)
    if not isinstance(trajectories, int) or not 4 <= trajectories <= 100_000:
        raise SpecError([Fault("trajectories", repr(trajectories)[:40], "must be a whole number from 4 to 100,000")])
    if grid not in range(2, 65, 2):
        raise SpecError([Fault("grid", repr(grid)[:40], "must be an even number from 2 to 64")])
    names, d = [b.name for b in bound], len(bound)
    problem = {"num_vars": d, "names": names, "bounds": [[0.0, 1.0]] * d}
    unit = sampling.sample(problem, trajectories, num_levels=grid, seed=seed).reshape(trajectories, d + 1, d)
    rng = np.random.default_rng(seed)
    columns, steps = [], []
    for i, b in enumerate(bound):
        column, step = _walk(b, unit[:, :, i], rng)
        columns.append(column.ravel())
        steps.append(step)
    study = Study(design, bound, quantity, log, search_of(reoptimize))
    value, share = study.price(columns)
    y = value.reshape(trajectories, d + 1)
    moved = np.argmax(np.diff(unit, axis=1) != 0, axis=1)  # (trajectory, factor) → the step that moves the factor
    effects = np.take_along_axis(np.diff(y, axis=1), moved, axis=1) / np.stack(steps, axis=1)
    size = np.abs(effects)
    drawn = rng.integers(trajectories, size=(resamples, trajectories))
    spread = np.stack([size[:, i][drawn].mean(axis=1).std(ddof=1) for i in range(d)])
    table = pd.DataFrame(
        {
            "factor": names,
            "mu": effects.mean(axis=0),
            "mu_star": size.mean(axis=0),
            "mu_star_conf": _normal_quantile(confidence) * spread,
            "sigma": effects.std(axis=0, ddof=1),
            "mu_star_half": size[: trajectories // 2].mean(axis=0),
            "kind": ["range" if not b.levels else "ordered" if b.ordered else "unordered" for b in bound],
        }
    ).sort_values(["mu_star", "factor"], ascending=[False, True], ignore_index=True)
    return MorrisEffects(table, study.output, trajectories, y.size, share, seed)


def _walk(b: BoundFactor, unit: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A factor's column along trajectories (r, D + 1), and the size of its one step in each (r,)."""
    first, last = unit[:, 0], unit[:, -1]
    if not b.levels:
        return b.at(unit), last - first
    count = len(b.levels)
    if count == 1:
        return np.zeros(unit.shape, dtype=np.int64), np.ones(len(unit))
    start = rng.integers(count, size=len(unit))
    end = (start + rng.integers(1, count, size=len(unit))) % count  # any other level, each as likely
    column = np.where(unit == first[:, None], start[:, None], end[:, None])
    if not b.ordered:
        return column, np.ones(len(unit))
    rank = np.argsort(np.argsort(b.levels))
    return column, (rank[end] - rank[start]) / (count - 1.0)


def _normal_quantile(confidence: float) -> float:
    from scipy.special import ndtri

    if not 0 < confidence < 1:
        raise SpecError([Fault("confidence", repr(confidence)[:40], "must be above 0 and below 1")])
    return float(ndtri(0.5 + confidence / 2.0))
