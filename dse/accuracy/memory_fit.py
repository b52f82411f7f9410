"""Refitting the memory constants that cannot be read off a framework's code, and how well they hold for unseen runs.

Run ``python -m dse.accuracy.memory_fit`` to refit on the shipped tables and to see both. The values in ``data/stacks``
are these, rounded. There are no factors of single rows, publications or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.accuracy.corpus import Batch, batches
from dse.accuracy.memory import GIB, SPREAD, MemoryReport, predict, read_runs, report

if TYPE_CHECKING:
    import pandas as pd

PRIOR = 0.01  # pull towards the starting value, per squared log ratio
SCALE = 0.05  # error of the log of the peak memory beyond which a row counts less than quadratically


@dataclass(frozen=True)
class Constant:
    """A field of ``stack.memory``; ``stack`` "*" is one value for all stacks."""

    stack: str
    name: str
    start: float
    low: float
    high: float


# Fixed memory in bytes; logits and scores in bytes each; norm in multiples of its input.
CONSTANTS = (
    Constant("*", "fragmentation", 0.1, 0.01, 0.4),
    Constant("megatron-deepspeed", "fixed", 6 * GIB, 0.5 * GIB, 15 * GIB),
    Constant("eager-3d", "logits", 14.0, 8.0, 24.0),
    Constant("eager-3d", "logits_gathered", 6.0, 2.0, 12.0),
    Constant("eager-3d", "norm_unfused", 3.0, 1.0, 6.0),
    Constant("eager-3d", "scores_working", 8.0, 2.0, 20.0),
)


@dataclass
class Sample:
    """Runs with what was observed of them, ready to be priced with other constants."""

    frame: pd.DataFrame
    found: list[Batch]
    refused: dict[str, str]
    specs: list[dict[str, Any]] = field(init=False)
    owners: list[np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self.specs = [batch.specs for batch in self.found]
        self.owners = [np.array([run.stack.id for run in batch.runs]) for batch in self.found]
        rows = self.frame.set_index("id").loc[[i for batch in self.found for i in batch.ids]]
        self.ran = (rows["status"] == "ok").to_numpy()
        self.peak = rows["peak_memory_gib"].to_numpy(float) * GIB
        self.source = rows["source_key"].astype(str).to_numpy()
        self.capacity = np.array([r.cluster.accelerator.memory.capacity for b in self.found for r in b.runs])

    def changed(self, values: Sequence[float]) -> list[dict[str, Any]]:
        """Specifications with these values of ``CONSTANTS``."""
        result = []
        for specs, owner in zip(self.specs, self.owners, strict=True):
            memory = specs["stack"].memory
            update: dict[str, Any] = {}
            for constant, value in zip(CONSTANTS, values, strict=True):
                now = update.get(constant.name, getattr(memory, constant.name))
                mine = np.ones(len(owner), bool) if constant.stack == "*" else owner == constant.stack
                update[constant.name] = np.where(mine, value, now)
            stack = specs["stack"].model_copy(update={"memory": memory.model_copy(update=update)})
            result.append({**specs, "stack": stack})
        return result

    def totals(self, values: Sequence[float]) -> np.ndarray:
        """Bytes of each run with these constants."""
        return np.concatenate([predict(specs)["total"] for specs in self.changed(values)])

    def loss(self, values: Sequence[float], weights: np.ndarray) -> float:
        """Robust squared log error where the peak was read, logistic loss where only fitting is known."""
        total = self.totals(values)
        with np.errstate(invalid="ignore"):
            error = np.log(total / self.peak) / SCALE
        margin = np.log(self.capacity / total) / SPREAD
        logistic = np.logaddexp(0.0, np.where(self.ran, -margin, margin))
        each = np.where(np.isfinite(error), np.sqrt(1.0 + error**2) - 1.0, logistic)
        return float(np.sum((weights * each)[weights > 0]))

    def weights(self, used: np.ndarray) -> np.ndarray:
        """Sources alike, and in each the runs that ran as much as those that did not.

        A source counts where it tells something: five measured peaks, or both outcomes.
        """
        result = np.zeros(len(used))
        for source in np.unique(self.source):
            here = used & (self.source == source)
            read = here & np.isfinite(self.peak)
            ran, failed = here & ~read & self.ran, here & ~read & ~self.ran
            groups = [read] if read.sum() >= 5 else []
            groups += [ran, failed] if ran.any() and failed.any() else []
            for group in groups:
                result[group] = 1.0 / (len(groups) * group.sum())
        return result


def sample(path: Path | str | Sequence[Path | str] | None = None) -> Sample:
    """Runs of one or several tables (by default the shipped ones) whose source has peaks or runs out of memory."""
    frame = read_runs(path)
    telling = frame["peak_memory_gib"].notna() | (frame["status"] == "oom")
    frame = frame[frame["source_key"].isin(frame.loc[telling, "source_key"].unique())].reset_index(drop=True)
    return Sample(frame, *batches(frame))


def fit_memory(
    seed: int = 0, data: Sample | None = None, used: np.ndarray | None = None
) -> dict[str, dict[str, float]]:
    """Constants that explain peak memory and fitting best, within their ranges.

    Args:
        seed: of the order of the restarts' starting points.
        data: the runs; by default those of the shipped tables.
        used: which of them; by default all.

    Returns:
        Values by stack and field.
    """
    from scipy.optimize import minimize

    data = sample() if data is None else data
    weights = data.weights(np.ones(len(data.ran), bool) if used is None else used)
    low, high = np.log([c.low for c in CONSTANTS]), np.log([c.high for c in CONSTANTS])
    start = np.log([c.start for c in CONSTANTS])

    def objective(point: np.ndarray) -> float:
        return data.loss(np.exp(np.clip(point, low, high)), weights) + PRIOR * float(np.sum((point - start) ** 2))

    random = np.random.default_rng(seed)
    best: Any = None
    for first in (start, np.clip(start + random.normal(0.0, 0.3, len(start)), low, high)):
        options = {"maxiter": 300, "xatol": 1e-3, "fatol": 1e-5}
        found = minimize(objective, first, method="Nelder-Mead", options=options)
        best = found if best is None or found.fun < best.fun else best
    result: dict[str, dict[str, float]] = {}
    for constant, value in zip(CONSTANTS, np.exp(np.clip(best.x, low, high)), strict=True):
        result.setdefault(constant.stack, {})[constant.name] = float(value)
    return result


def held_out(column: str = "source_key", folds: int = 5, seed: int = 0, data: Sample | None = None) -> MemoryReport:
    """Predictions for runs whose ``column`` (source, model) took no part in the fit.

    Where a whole source is left out, what is fitted to its stack alone stays at the value it starts from.
    """
    data = sample() if data is None else data
    rows = data.frame.set_index("id").loc[[i for batch in data.found for i in batch.ids]]
    keys = rows[column].astype(str).to_numpy()
    known = np.unique(keys[data.weights(np.ones(len(keys), bool)) > 0])
    groups = [known[k::folds] for k in range(min(folds, len(known)))]
    parts: dict[str, np.ndarray] = {}
    for group in groups:
        out = np.isin(keys, group)
        values = as_vector(fit_memory(seed, data, ~out))
        for name, size in _joined(data, values).items():
            parts[name] = np.where(out, size, parts.get(name, np.nan))
    sizes = np.cumsum([len(batch.ids) for batch in data.found])[:-1]
    split = {name: np.split(size, sizes) for name, size in parts.items()}
    priced = [{name: split[name][k] for name in split} for k in range(len(data.found))]
    found = report(data.found, priced, data.frame, data.refused)
    return MemoryReport(found.rows[found.rows["predicted [GiB]"].notna()].reset_index(drop=True), found.refused)


def _joined(data: Sample, values: Sequence[float]) -> dict[str, np.ndarray]:
    """Parts of the footprint of all runs; a part that a batch does not have is zero there."""
    priced = [predict(specs) for specs in data.changed(values)]
    names = dict.fromkeys(name for parts in priced for name in parts)
    return {n: np.concatenate([p.get(n, np.zeros(len(p["total"]))) for p in priced]) for n in names}


def as_vector(values: dict[str, dict[str, float]]) -> list[float]:
    """Values in the order of ``CONSTANTS``."""
    return [values[c.stack][c.name] for c in CONSTANTS]


def main() -> None:
    """Refit and print the constants, and the errors on runs that took no part."""
    import sys

    data = sample()
    for stack, values in fit_memory(data=data).items():
        for name, value in values.items():
            shown = f"{value / GIB:.3g} GiB" if name == "fixed" else f"{value:.3g}"
            sys.stdout.write(f"{stack:<20} {name:<18} {shown}\n")
    for column in ("source_key", "model"):
        sys.stdout.write(f"\nleaving out by {column}\n{held_out(column, data=data)}\n")


if __name__ == "__main__":
    main()
