"""Sensitivity over a whole space: Sobol indices and Morris' elementary effects of factors of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.explore.result import Result
from dse.explore.sensitivity.factors import BoundFactor, Factor, bind
from dse.explore.sensitivity.samples import (
    Search,
    evaluate,
    is_feasible,
    quantity_output,
    require_all,
    search_of,
    single,
)
from dse.explore.sensitivity.text import as_text

if TYPE_CHECKING:
    import pandas as pd

MOST_POINTS = 5_000_000
EXACT = 1 << 16  # combinations of levels that are enumerated rather than sampled
CONVERGED = 0.05  # change of an index between half of the sample and all of it


@dataclass(frozen=True)
class SobolIndices:
    """Shares of the variance of an output that factors explain.

    Attributes:
        table: a row a factor: ``S1`` alone, ``ST`` with all interactions; half-widths ``S1_conf`` and ``ST_conf`` of
            their bootstrapped confidence intervals; ``S1_half`` and ``ST_half`` from the first half of the sample.
        second: interaction of each two factors, where asked for.
        output: what was analysed, such as ``ln step_time``.
        method: "sampled", or "exact" where all levels were enumerated (then there are no errors).
        samples, evaluations: base samples N, and points priced.
        mean, variance: of the output.
        feasible: share of the points that satisfy every rule (the output takes no notice of it).
        converged: no index changes by more than 0.05 from half of the sample to all of it.
    """

    table: pd.DataFrame
    second: pd.DataFrame | None
    output: str
    method: str
    samples: int
    evaluations: int
    mean: float
    variance: float
    feasible: float
    converged: bool
    seed: int

    def __str__(self) -> str:
        rows = [
            [r["factor"], f"{r['S1']:.3f} ± {r['S1_conf']:.3f}", f"{r['ST']:.3f} ± {r['ST_conf']:.3f}"]
            for _, r in self.table.iterrows()
        ]
        how = "all levels enumerated" if self.method == "exact" else f"N = {self.samples:,}, seed {self.seed}"
        state = "" if self.converged else "; NOT converged: take more samples"
        head = f"shares of the variance of {self.output} ({self.evaluations:,} designs, {how}{state})"
        note = f"{self.feasible:.1%} of the designs satisfy every rule; all are analysed, feasible or not"
        return f"{head}\n{as_text(['factor', 'alone (S1)', 'with interactions (ST)'], rows)}\n{note}"


def sobol(
    design: Result,
    factors: Sequence[Factor | str],
    *,
    quantity: str = "step_time",
    samples: int = 1024,
    log: bool = True,
    second_order: bool = False,
    exact: bool | None = None,
    reoptimize: bool | Search = False,
    confidence: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> SobolIndices:
    """Sobol indices: how much of the variance of a quantity each factor explains, alone and with interactions.

    Factors vary independently. A factor with k levels (numbers, names, whole clusters) takes each with probability
    1/k: the unit interval is cut into k equal parts, so the indices are those of the uniform distribution over the
    levels and not of a rounded continuous factor. Where all factors have levels, all combinations are enumerated if
    that takes no more designs than sampling (or 65,536), and the indices are exact.

    Infeasible designs: the indices need independent factors, so designs can neither be left out nor given a penalty
    time. The quantity of every design is analysed, whatever the rules say; ``quantity="feasible"`` analyses whether a
    design satisfies them, P(feasible). With ``reoptimize`` each point takes its best feasible strategy, and points
    without one are refused (``Search(memory=False)`` leaves the memory limit out).

    Args:
        design: what does not vary.
        factors: the factors, or their text (see :meth:`Factor.parse`).
        quantity: the output; ``feasible`` is 1 where every rule is satisfied.
        samples: base samples N, rounded up to a power of two; N (D + 2) designs for D factors.
        log: analyse the logarithm of the quantity, in which factors that multiply add up.
        second_order: also the interaction of each two factors; N (2 D + 2) designs.
        exact: enumerate (True), sample (False), or choose (None).
        confidence: of the intervals, found from ``resamples`` bootstrap samples.

    Raises:
        SpecError: faults of factors, quantity or sizes; a logarithm of what is not positive.
        InfeasibleDesign: with ``reoptimize``, some points have no feasible strategy.

    Source: Saltelli et al., Computer Physics Communications 181 (2010) 259-270; SALib.
    """
    single(design)
    bound = bind(design.specs, factors)
    if not isinstance(samples, int) or not 8 <= samples <= 1 << 24:
        raise SpecError([Fault("samples", repr(samples)[:40], "must be a whole number from 8 to 16,777,216")])
    count = 1 << (samples - 1).bit_length()
    total = count * ((2 * len(bound) if second_order else len(bound)) + 2)
    levels = all(b.levels for b in bound)
    full = int(np.prod([len(b.levels) for b in bound], dtype=np.float64)) if levels else 0
    if exact and not levels:
        ranges = ", ".join(b.name for b in bound if not b.levels)
        raise SpecError([Fault("exact", "true", f"needs levels for every factor; these are ranges: {ranges}"[:300])])
    affordable = full <= max(total, 0 if reoptimize else EXACT)
    enumerated = levels and (affordable if exact is None else exact)
    if (full if enumerated else total) > MOST_POINTS:
        raise SpecError([Fault("samples", f"{full if enumerated else total:,} designs", f"at most {MOST_POINTS:,}")])
    study = Study(design, bound, quantity, log, search_of(reoptimize))
    if enumerated:
        return _enumerated(study, second_order)
    return _sampled(study, count, second_order, confidence, resamples, seed)


@dataclass(frozen=True)
class Study:
    """A design, its factors and the output: what both methods price their points with."""

    design: Result
    bound: list[BoundFactor]
    quantity: str
    log: bool
    search: Search | None

    @property
    def output(self) -> str:
        return self.quantity if self.quantity == "feasible" or not self.log else f"ln {self.quantity}"

    def price(self, columns: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
        """The output at each point, and the share of feasible points."""
        plain = self.quantity == "feasible"
        outputs = {"feasible": is_feasible}
        if not plain:
            outputs["value"] = quantity_output(self.design, self.quantity)
        found = evaluate(self.design, self.bound, columns, outputs, self.search)
        if plain:
            value = np.nan_to_num(found["feasible"])
            return value, float(value.mean())
        require_all(found)
        value = found["value"]
        if self.log and not np.all(value > 0):
            raise SpecError(
                [Fault("log", self.quantity, f"is not positive everywhere ({value.min():g}); use log=False")]
            )
        return (np.log(value) if self.log else value), float(found["feasible"].mean())


def _sampled(
    study: Study, count: int, second_order: bool, confidence: float, resamples: int, seed: int
) -> SobolIndices:
    import pandas as pd
    from SALib.sample import sobol as sampling

    names = [b.name for b in study.bound]
    problem = {"num_vars": len(names), "names": names, "bounds": [[0.0, 1.0]] * len(names)}
    unit = sampling.sample(problem, count, calc_second_order=second_order, seed=seed)
    value, share = study.price([b.at(unit[:, i]) for i, b in enumerate(study.bound)])
    found = _analyzed(problem, value, second_order, confidence, resamples, seed)
    half = _analyzed(problem, value[: len(value) // 2], second_order, confidence, 2, seed)
    table = pd.DataFrame(
        {
            "factor": names,
            **{name: found[name] for name in ("S1", "S1_conf", "ST", "ST_conf")},
            "S1_half": half["S1"],
            "ST_half": half["ST"],
        }
    )
    change = max(np.max(np.abs(found[name] - half[name])) for name in ("S1", "ST"))
    second = _matrix(found["S2"], names) if second_order else None
    base = value.reshape(count, -1)[:, [0, -1]]
    return SobolIndices(
        table, second, study.output, "sampled", count, len(value), float(base.mean()), float(base.var()), share,
        bool(change <= CONVERGED), seed,
    )  # fmt: skip


def _analyzed(
    problem: dict[str, Any], value: np.ndarray, second_order: bool, confidence: float, resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """SALib's indices; all zero where the output does not vary."""
    from SALib.analyze import sobol as analysis

    d = problem["num_vars"]
    if np.ptp(value) <= 1e-12 * max(float(np.max(np.abs(value))), 1e-300):
        zeros = {name: np.zeros(d) for name in ("S1", "S1_conf", "ST", "ST_conf")}
        return {**zeros, "S2": np.zeros((d, d))}
    options = {"calc_second_order": second_order, "num_resamples": resamples, "conf_level": confidence}
    # A bootstrap sample of a rare 0/1 output may not vary at all. SALib takes a seed of 0 for none.
    with np.errstate(divide="ignore", invalid="ignore"):
        found = analysis.analyze(problem, value, **options, seed=seed + 1)
    return {name: np.asarray(found[name]) for name in found}


def _matrix(values: np.ndarray, names: list[str]) -> pd.DataFrame:
    import pandas as pd

    upper = np.triu(np.nan_to_num(values), 1)
    return pd.DataFrame(upper + upper.T, index=names, columns=names)


def _enumerated(study: Study, second_order: bool) -> SobolIndices:
    """Exact indices of independent, uniform levels: S1 = V[E(y|i)] / V[y], ST = 1 − V[E(y|others)] / V[y]."""
    import pandas as pd

    names = [b.name for b in study.bound]
    shape = [len(b.levels) for b in study.bound]
    columns = [grid.ravel() for grid in np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")]
    value, share = study.price(columns)
    y = value.reshape(shape)
    variance = float(y.var())
    flat = np.ptp(y) <= 1e-12 * max(float(np.max(np.abs(y))), 1e-300)
    scale = 0.0 if flat else 1.0 / variance
    axes = range(len(shape))
    first = np.array([y.mean(axis=tuple(a for a in axes if a != i)).var() * scale for i in axes])
    without = np.array([y.mean(axis=i).var() * scale for i in axes])
    total = np.zeros(len(shape)) if flat else 1.0 - without
    zero = np.zeros(len(shape))
    table = pd.DataFrame(
        {
            "factor": names,
            "S1": first,
            "S1_conf": zero,
            "ST": total,
            "ST_conf": zero,
            "S1_half": first,
            "ST_half": total,
        }
    )
    second = None
    if second_order:
        pairs = np.zeros((len(shape), len(shape)))
        for i in axes:
            for j in range(i + 1, len(shape)):
                both = y.mean(axis=tuple(a for a in axes if a not in (i, j))).var() * scale
                pairs[i, j] = both - first[i] - first[j]
        second = _matrix(pairs, names)
    return SobolIndices(
        table, second, study.output, "exact", y.size, y.size, float(y.mean()), variance, share, True, 0
    )  # fmt: skip
