"""Intervals around predictions, and whether a design lies within what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.accuracy.features import CLASSES, SIZES
from dse.accuracy.intervals import LEVELS, deviation, difference, quantile
from dse.errors import Fault, SpecError
from dse.spec import calibration
from dse.spec.catalogue import asset_root

if TYPE_CHECKING:
    import pandas as pd

Array = Any
BEYOND = 1.5  # a size beyond the measured ones by more than this factor is an extrapolation
UNCALIBRATED = {"run": 0.15, "site": 0.1, "compute": 0.1, "host": 0.5, "inner": 0.4, "pipeline": 0.4, "replicas": 0.4}
NORMAL = {"all": [0.674, 0.842, 1.036, 1.282, 1.44, 1.645, 1.96]}


@dataclass(frozen=True)
class Interval:
    """Low and high ends (arrays like the prediction's), its level, and why the design is an extrapolation (if so)."""

    low: Array
    high: Array
    level: float
    unit: str = "s"
    reasons: tuple[str, ...] = ()

    @property
    def extrapolating(self) -> bool:
        return bool(self.reasons)

    def __str__(self) -> str:
        from dse.units import engineering

        text = f"{engineering(float(self.low), self.unit)} to {engineering(float(self.high), self.unit)}"
        note = f"; extrapolating: {'; '.join(self.reasons)}" if self.reasons else ""
        return f"{text} ({self.level:.0%}){note}"


def checked_level(level: float) -> float:
    """The level itself.

    Raises:
        SpecError: outside 0.5 to 0.95, beyond which the corpus is too small.
    """
    if not isinstance(level, int | float) or not LEVELS[0] <= level <= LEVELS[-1]:
        raise SpecError([Fault("level", repr(level)[:40], f"must lie between {LEVELS[0]} and {LEVELS[-1]}")])
    return float(level)


def widths(shares: Mapping[str, Array], classes: Mapping[str, Any], level: float) -> Array:
    """Half-width of the interval of the logarithm of the time.

    Args:
        shares: of the step time by kind (see ``dse.accuracy.features``).
        classes: ``generation`` and ``stack`` of the design; arrays broadcast.
        level: coverage.
    """
    errors = calibration.active().errors
    sigma, table = errors.get("sigma", UNCALIBRATED), errors.get("quantiles", NORMAL)
    known = errors.get("ranges", {}).get("classes", {})
    scale = deviation(shares, sigma)
    for name in ("generation", "stack"):
        wider = errors.get("wider", {}).get(name, 1.5)
        scale = scale * np.where(np.isin(classes[name], known.get(name, [])), 1.0, wider)
    return scale * quantile(table, level)


def beyond(design: Mapping[str, Any]) -> tuple[str, ...]:
    """What about a design was never measured: sizes outside the runs of its generation, or classes without runs."""
    ranges = calibration.active().errors.get("ranges")
    if not ranges:
        return ("no calibration is in use",)
    found = [
        f"{name} {design[name] or '(none)'!s} was never measured" for name in CLASSES if _unseen(design, name, ranges)
    ]
    sizes = ranges["sizes"].get(design["generation"])
    if sizes is None:
        return tuple(found)
    for name in SIZES:
        low, high = sizes[name]
        value = float(design[name])
        if value > BEYOND * high or value < low / BEYOND:
            side, limit = ("above", high) if value > high else ("below", low)
            found.append(f"{name.replace('_', ' ')} = {value:,.0f} lies {side} the measured {limit:,.0f}")
    return tuple(found)


def _unseen(design: Mapping[str, Any], name: str, ranges: Mapping[str, Any]) -> bool:
    return str(design[name]) not in ranges["classes"][name]


@lru_cache(maxsize=4)
def _runs(path: Any, _stamp: int) -> pd.DataFrame:
    import pandas as pd

    return pd.read_parquet(path)


def corpus_runs() -> pd.DataFrame:
    """The measured runs behind the calibration, with features and predictions.

    Raises:
        SpecError: the calibration in use has none beside it.
    """
    path = calibration.active().path
    beside = None if path is None else calibration.runs_beside(path)
    if beside is None or not beside.is_file():
        raise SpecError([Fault("calibration", str(path)[-60:], "has no table of runs beside it")])
    return _runs(beside, beside.stat().st_mtime_ns)


# How much a factor of two in a size, or another class, sets two designs apart.
DISTANCE = {"devices": 0.5, "parameters": 1.0, "seq_len": 0.7, "tp": 0.7, "pp": 0.5, "cp": 0.7, "ep": 0.7, "dp": 0.2,
            "micro_batch": 0.4}  # fmt: skip
APART = {"generation": 4.0, "stack": 2.0, "precision": 1.5, "recompute": 1.0, "attention": 0.7, "experts": 4.0}


def nearest(design: Mapping[str, Any], count: int = 5) -> pd.DataFrame:
    """The measured runs most like a design, with their errors.

    Returns:
        A row a run: id, source, model, sizes, measured and predicted seconds, ``tokens`` of a step (NaN where the
        shipped table does not have the run), ``error`` and ``error_held_out`` (of the constants fitted without its
        publication), ``distance``.
    """
    runs = corpus_runs()
    distance = np.zeros(len(runs))
    for name, weight in DISTANCE.items():
        gap = np.log2(np.maximum(runs[name].to_numpy(float), 1e-9) / max(float(design[name]), 1e-9))
        distance += weight * np.abs(gap)
    for name, weight in APART.items():
        distance += weight * (runs[name].astype(str).to_numpy() != str(design[name]))
    found = runs.assign(distance=distance).nsmallest(count, "distance")
    found["tokens"] = _tokens(found)
    found["error"] = found["time"] / found["measured"] - 1.0
    found["error_held_out"] = found["without_source"] / found["measured"] - 1.0
    shown = ["id", "source", "model", "generation", "devices", "tp", "pp", "dp", "micro_batch", "precision",
             "measured", "time", "tokens", "error", "error_held_out", "distance"]  # fmt: skip
    return found[shown].rename(columns={"measured": "measured [s]", "time": "predicted [s]"}).reset_index(drop=True)


@lru_cache(maxsize=1)
def _steps() -> dict[str, tuple[float, ...]]:
    """Devices, sequence length, seconds and samples of a step of the shipped runs, by id."""
    import pandas as pd

    columns = ["id", "n_gpus", "seq_len", "iter_time_s", "global_batch"]
    table = pd.read_parquet(asset_root("data") / "measured" / "training.parquet", columns=columns)
    return {name: tuple(sizes) for name, *sizes in table.itertuples(index=False)}


def _tokens(runs: pd.DataFrame) -> list[float]:
    """Tokens of a step of each run; a run that only shares its id with a shipped one has none."""
    found = []
    for name, *sizes in zip(*(runs[c].tolist() for c in ("id", "devices", "seq_len", "measured")), strict=True):
        *shipped, samples = _steps().get(name, (np.nan,) * 4)
        same = all(abs(a - b) <= 1e-6 * abs(b) for a, b in zip(sizes, shipped, strict=True))
        found.append(samples * shipped[1] if same else np.nan)
    return found


Side = tuple[Array, Mapping[str, Array], Mapping[str, Any]]  # time, shares, classes


def ratio_deviation(a: Side, b: Side) -> tuple[Array, bool]:
    """σ of the logarithm of the ratio of two times, and whether errors of hardware and software are shared."""
    sigma = calibration.active().errors.get("sigma", UNCALIBRATED)
    related = a[2]["generation"] != "" and all(a[2][name] == b[2][name] for name in ("generation", "stack"))
    return difference(a[1], b[1], sigma, related=related), related


def probability_faster(a: Side, b: Side) -> Array:
    """P(a is faster than b); what both get wrong alike cancels."""
    from scipy.stats import norm

    return norm.cdf(np.log(b[0] / a[0]) / ratio_deviation(a, b)[0])
