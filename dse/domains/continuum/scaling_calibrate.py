"""Intervals held against runs that a fit had not seen: sizes left out, the largest sizes, whole machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from dse.domains.continuum import scaling_tables as tables
from dse.domains.continuum.scaling import ScalingModel, fit_scaling, usual

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Kind = Literal["within", "beyond", "machine"]
KINDS: tuple[Kind, ...] = ("within", "beyond", "machine")
LARGEST = 4  # of a machine's node counts, those that are left out as if not yet run
FEWEST = 2  # sizes that a curve must keep for one of it to be left out


@dataclass(frozen=True)
class Widening:
    """Errors of runs left out, in standard deviations that were stated for them.

    Attributes:
        within: sizes between others.
        beyond: sizes larger than all that the fit had seen of the machine.
        machine: machines of which it had seen none.
    """

    within: Floats
    beyond: Floats
    machine: Floats

    def quantile(self, kind: Kind, coverage: float) -> float:
        """Standard deviations to each side that hold the stated share of runs left out (split conformal).

        Never fewer than a normal distribution has. With too few runs left out for that share the largest error counts.
        """
        from scipy.stats import norm

        errors = np.sort(np.abs(getattr(self, kind)))
        stated = float(norm.ppf(0.5 + coverage / 2))
        if not len(errors):
            return stated
        rank = min(int(np.ceil((len(errors) + 1) * coverage)), len(errors))
        return max(stated, float(errors[rank - 1]))


@cache
def shipped_errors(family: str, response: str = "seconds") -> tuple[ScalingModel, dict[Kind, pd.DataFrame]]:
    """The model of the shipped runs, not calibrated, and its :func:`errors`."""
    model = fit_scaling(family, response=response)
    return model, errors(model)


def errors(model: ScalingModel) -> dict[Kind, pd.DataFrame]:
    """The runs left out in every way, each with its error, see :func:`leave_out`."""
    import pandas as pd

    found = {kind: list(leave_out(model.family, model.runs, kind, model.response)) for kind in KINDS}
    none = model.runs.head(0).assign(log_mean=0.0, log_sd=1.0, error=0.0)
    return {kind: pd.concat(some) if some else none for kind, some in found.items()}


def widening(found: dict[Kind, pd.DataFrame], but: tuple[str, float, float] | None = None) -> Widening:
    """From errors of runs left out, without those of a (machine, elements, nodes)."""
    kept = {}
    for kind, some in found.items():
        scaled = (some["error"] / some["log_sd"]).to_numpy(float)
        if but is not None:
            same = [key == but for key in zip(some["machine"], some["elements"], some["nodes"], strict=True)]
            scaled = scaled[~np.array(same, bool)]
        kept[kind] = scaled
    return Widening(**kept)  # type: ignore[arg-type]


def leave_out(family: str, runs: pd.DataFrame, kind: Kind, response: str = "seconds") -> Iterator[pd.DataFrame]:
    """Fits without some runs, and what they predict for these.

    Yields:
        The runs left out, with the columns log_mean, log_sd and error (log of measured over predicted seconds).
    """
    for out in folds(runs, kind):
        rest, aside = runs[~out], runs[out]
        if kind != "machine":
            aside = aside[_kept(rest, aside)]
        else:
            aside = aside[(aside["algorithm"] == usual(runs)).to_numpy()]
        if not len(aside) or not len(rest):
            continue
        model = fit_scaling(family, rest, response=response)
        if kind == "machine" and (aside["machine"].iloc[0], aside["algorithm"].iloc[0]) not in model.curves:
            continue
        mean, sd = model.fitted.predict(model.rows(aside))
        yield aside.assign(log_mean=mean, log_sd=sd, error=np.log(aside[response].to_numpy(float)) - mean)


def folds(runs: pd.DataFrame, kind: Kind) -> Iterator[NDArray[np.bool_]]:
    """Which runs are left out together, shape [run]."""
    for name in dict.fromkeys(runs["machine"]):
        here = (runs["machine"] == name).to_numpy()
        if kind == "machine":
            if tables.machine(name).curve:
                yield here
            continue
        nodes = runs["nodes"].to_numpy(float)
        counts = np.unique(nodes[here])
        if kind == "beyond":
            for count in counts[FEWEST:][-LARGEST:]:
                yield here & (nodes >= count)
            continue
        sizes = runs.loc[here, ["elements", "nodes"]].drop_duplicates()
        for elements, count in sizes.itertuples(index=False):
            if counts[0] < count < counts[-1]:
                yield here & (runs["elements"].to_numpy() == elements) & (nodes == count)


def _kept(rest: pd.DataFrame, aside: pd.DataFrame) -> NDArray[np.bool_]:
    """Which of the runs left out belong to curves that keep enough sizes, and come next after them."""
    out = []
    first = aside["nodes"].min()
    for name, algorithm, nodes in zip(aside["machine"], aside["algorithm"], aside["nodes"], strict=True):
        same = rest[(rest["machine"] == name) & (rest["algorithm"] == algorithm)]
        out.append(len(same[["elements", "nodes"]].drop_duplicates()) >= FEWEST and nodes == first)
    return np.array(out, bool)
