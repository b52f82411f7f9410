"""``dse calibrate``: every constant refitted from the measured tables, with the error of what they predict.

The order is from parts to wholes: matrix products by accelerator, collectives by fabric, then the remaining constants
of devices, software stacks and fabrics from whole training runs. Each publication is then left out in turn, as is each
hardware generation and each stack; what the constants fitted to the others get wrong there makes the error model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.accuracy.collectives import RELATIVES as FABRIC_RELATIVES
from dse.accuracy.collectives import fit_collectives, with_relatives
from dse.accuracy.constants import FAMILY, constants
from dse.accuracy.corpus import batches, measured, predictable
from dse.accuracy.fit import Problem, Values, source_weights
from dse.accuracy.gemm import ACCELERATORS, fit_gemm
from dse.accuracy.intervals import LEVELS, conformal, deviation, fit_deviations
from dse.accuracy.predict import from_batches
from dse.accuracy.report import error_statistics
from dse.spec import calibration, load_accelerator
from dse.spec.load import as_yaml

if TYPE_CHECKING:
    import pandas as pd

DATE = "2026-11"
TABLES = ("gemm", "nccl", "training")
# Where measurements are missing, the nearest relative: by generation, fabric and stack.
RELATIVES = {
    "volta": "ampere",
    **dict.fromkeys(("tpu_v3", "tpu_v4", "tpu_v5", "tpu_v6", "tpu_v7"), "hopper"),
    **dict.fromkeys(("gaudi2", "gaudi3", "trainium1", "trainium2", "trainium3"), "hopper"),
    "ada": "ampere",
    "blackwell_ultra": "blackwell",
    "cdna2": "ampere",
    "cdna3": "hopper",
    "cdna4": "hopper",
    **FABRIC_RELATIVES,
}
# Sources that are versions of one publication, by the beginning of their key: their errors are not independent.
FAMILIES = ("megatron-bridge", "dgxc", "bigscience", "bloom")
ALIKE = {"bloom": "bigscience"}
REPRESENTATIVE = {"ampere": "A100-80GB", "hopper": "H100-80GB", "blackwell": "B200", "blackwell_ultra": "B200"}
TIMES = ("launch", "overhead", "latency", "hop", "stall", "step_overhead", "small_overhead", "small_latency", "ramp",
         "in_network_ramp")  # fmt: skip
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Fold:
    """What is left out of a fit: a table of a publication, all tables of a publisher, a generation or a stack."""

    kind: str  # "source", "family", "generation", "stack"
    name: str


def calibrate(*, seed: int = 0, workers: int = 2, progress: Progress = lambda _: None) -> tuple[dict[str, Any], Any]:
    """Fit everything.

    Args:
        seed: orders the folds; the fits themselves have no randomness.
        workers: processes for the fits that leave something out.
        progress: called with a line about each step.

    Returns:
        The calibration as plain data, and the table of runs with their predictions (see ``run_table``).
    """
    progress("matrix products")
    parts: dict[str, Any] = {"accelerators": gemm_constants()}
    progress("collectives")
    parts["fabrics"] = fabric_constants()
    parts["stacks"] = {}
    with in_use(parts):
        frame = predictable(measured("training"))
        problem, seconds, table = training_problem(frame)
        progress(f"training runs: {len(problem.ids)} runs, {len(problem.free)} constants")
        values = problem.fit(seconds, training_weights(problem, table))
        held_out = leave_out(problem, seconds, table, values, workers=workers, seed=seed, progress=progress)
    placed = place(parts, values)
    with in_use(placed):
        runs = run_table(frame, held_out)
    placed["errors"] = error_model(runs)
    return finished(placed, seed), runs


def finished(parts: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The file's content with digests of the tables and an id made of all of it."""
    digests = {name: _digest(measured(name)) for name in TABLES}
    body = {"seed": seed, "data": digests, **parts}
    text = json.dumps(body, sort_keys=True)
    return {"kind": "calibration", "id": hashlib.sha256(text.encode()).hexdigest()[:8], "date": DATE, **body}


def _digest(frame: pd.DataFrame) -> str:
    return hashlib.sha256(frame.to_csv(index=False).encode()).hexdigest()[:16]


@contextmanager
def in_use(parts: Mapping[str, Any]) -> Iterator[None]:
    """Let the catalogue take these constants, without a file of the user's."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / calibration.NAME
        text = json.dumps(parts, sort_keys=True)
        name = "trial-" + hashlib.sha256(text.encode()).hexdigest()[:8]
        data = {"kind": "calibration", "id": name, "date": DATE, "seed": 0, "relatives": RELATIVES, **parts}
        path.write_text(as_yaml(data), encoding="utf-8")
        before = list(calibration._chosen)
        calibration.use(path)
        try:
            yield
        finally:
            calibration._chosen[:] = before


# -- parts --------------------------------------------------------------------------------------------------------


def gemm_constants() -> dict[str, dict[str, float]]:
    """Constants of matrix products by accelerator id, and by generation those of a representative."""
    found: dict[str, dict[str, float]] = {}
    for gpu, accelerator in ACCELERATORS.items():
        values = _rounded(fit_gemm(gpu, "bf16")[0])
        if load_accelerator(accelerator).matrix.fp8:
            narrow = _rounded(fit_gemm(gpu, "fp8")[0])["matrix"]
            values.update(matrix_fp8=narrow, matrix_fp4=narrow)
        found[accelerator] = {"tiles": True, **values}
    for generation, gpu in REPRESENTATIVE.items():
        found[generation] = dict(found[ACCELERATORS[gpu]])
    return found


def fabric_constants() -> dict[str, dict[str, Any]]:
    """Constants of collectives by fabric; fabrics that training runs used start from their relative's."""
    found = {name: _rounded(values) for name, values in fit_collectives().items()}
    used = dict.fromkeys(c.owner for c in constants() if c.kind in ("up", "out"))
    return {**found, **{name: dict(values) for name, values in with_relatives(found, used).items()}}


def training_problem(frame: pd.DataFrame) -> tuple[Problem, np.ndarray, pd.DataFrame]:
    """The fit of training runs, the measured seconds in its order, and the rows in its order."""
    found, _ = batches(frame)
    problem = Problem(found, constants())
    table = frame.set_index("id").loc[problem.ids]
    return problem, table["iter_time_s"].to_numpy(float), table


def training_weights(problem: Problem, table: pd.DataFrame) -> np.ndarray:
    """Publications alike; runs that had to be filled in do not count."""
    filled = np.array([bool(run.chosen) for batch in problem.batches for run in batch.runs])
    return np.where(filled, 0.0, source_weights(np.array(table["source_key"].tolist())))


def place(parts: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """Constants of the training fit put beside those of the parts."""
    tables = {"device": "accelerators", "stack": "stacks", "up": "fabrics", "out": "fabrics"}
    placed = {name: {k: dict(v) for k, v in parts[name].items()} for name in ("accelerators", "fabrics", "stacks")}
    generations = [name for name in placed["accelerators"] if name in REPRESENTATIVE]
    for constant in constants():
        if constant.name not in values:
            continue
        owners = generations if constant.owner == "*" else [constant.owner]
        for owner in owners:
            table = placed[tables[constant.kind]].setdefault(owner, {})
            table[constant.field] = _rounded({constant.field: values[constant.name]})[constant.field]
    for heir, parent in FAMILY.items():
        placed["stacks"][heir] = {**placed["stacks"].get(parent, {}), **placed["stacks"].get(heir, {})}
    placed["relatives"] = dict(RELATIVES)
    return placed


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of four digits, times as people write them."""

    def shown(name: str, value: Any) -> Any:
        if isinstance(value, bool | str) or value is None:
            return value
        return f"{value * 1e6:.4g} us" if name in TIMES else float(f"{value:.4g}")

    return {name: shown(name, value) for name, value in values.items()}


# -- leaving out --------------------------------------------------------------------------------------------------

_shared: dict[str, Any] = {}


def leave_out(
    problem: Problem,
    seconds: np.ndarray,
    table: pd.DataFrame,
    start: Values,
    *,
    workers: int,
    seed: int,
    progress: Progress,
) -> dict[Fold, np.ndarray]:
    """Predicted seconds of the runs that each fold leaves out (NaN elsewhere)."""
    weights = training_weights(problem, table)
    sources = np.array(table["source_key"].tolist())
    kinds = {"source": sources, "family": families(sources), **_kinds(problem)}
    folds = [Fold(kind, str(name)) for kind, column in kinds.items() for name in np.unique(column)]
    order = np.random.default_rng(seed).permutation(len(folds))
    _shared.update(problem=problem, seconds=seconds, weights=weights, start=dict(start), kinds=kinds)
    jobs = [folds[i] for i in order]
    found: dict[Fold, np.ndarray] = {}
    if workers <= 1:
        results: Any = map(_without, jobs)
    else:
        import multiprocessing

        pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork"))
        results = pool.map(_without, jobs)
    for fold, predicted in zip(jobs, results, strict=True):
        found[fold] = predicted
        progress(f"without {fold.kind} {fold.name} ({len(found)} of {len(jobs)})")
    return found


def families(sources: np.ndarray) -> np.ndarray:
    """The publisher of each source."""
    found = [next((f for f in FAMILIES if str(s).startswith(f)), str(s)) for s in sources]
    return np.array([ALIKE.get(name, name) for name in found])


def _kinds(problem: Problem) -> dict[str, np.ndarray]:
    owners = [problem._owners[i] for i in range(len(problem.batches))]
    return {
        "generation": np.concatenate([o["device"] for o in owners]),
        "stack": np.concatenate([o["stack"] for o in owners]),
    }


def _without(fold: Fold) -> np.ndarray:
    """Fit to all other runs, starting from the full fit, and predict those of the fold."""
    problem, weights = _shared["problem"], _shared["weights"]
    out = _shared["kinds"][fold.kind] == fold.name
    if not np.any(weights[~out] > 0):
        return np.full(len(out), np.nan)
    # Constants that the fold alone determines go back to their relative's or to their starting value.
    values = problem.fit(np.where(out, np.nan, _shared["seconds"]), weights, start=_shared["start"], steps=20)
    if fold.kind == "generation":
        values = _inherited(problem, values, fold.name)
    return np.where(out, problem.predict(values), np.nan)


def _inherited(problem: Problem, values: Values, generation: str) -> dict[str, float]:
    """What a generation without runs would get: the constants of its nearest relative with runs."""
    relative = {"hopper": "ampere", "ampere": "hopper", "blackwell": "hopper", "blackwell_ultra": "blackwell"}
    changed = dict(values)
    for constant in problem.free:
        if constant.kind == "device" and constant.owner == generation:
            other = f"device.{relative.get(generation, 'hopper')}.{constant.field}"
            changed[constant.name] = values.get(other, constant.start)
    return changed


# -- errors -------------------------------------------------------------------------------------------------------


def run_table(frame: pd.DataFrame, held_out: Mapping[Fold, np.ndarray]) -> pd.DataFrame:
    """Measured runs with features, prediction [s], and the prediction made without their publication [s]."""
    found, _ = batches(frame)
    table = from_batches(found, memory=False).drop(columns=["chosen", "memory", "fits"])
    ids = np.array([i for b in found for i in b.ids])
    rows = frame.set_index("id").loc[table.index]
    table["source"] = rows["source_key"].astype(str).to_numpy()
    table["model"] = rows["model"].astype(str).to_numpy()
    table["measured"] = rows["iter_time_s"].to_numpy(float)
    for kind in ("source", "family", "generation", "stack"):
        merged = np.full(len(ids), np.nan)
        for fold, predicted in held_out.items():
            if fold.kind == kind:
                merged = np.where(np.isnan(predicted), merged, predicted)
        values = dict(zip(ids, merged, strict=True))
        table[f"without_{kind}"] = [values[i] for i in table.index]
    return table.reset_index(drop=True)


def error_model(runs: pd.DataFrame) -> dict[str, Any]:
    """Standard deviations and conformal quantiles from publishers left out (see ``dse.accuracy.intervals``)."""
    known = runs[np.isfinite(runs["measured"]) & np.isfinite(runs["without_family"])]
    groups = families(np.array(known["source"].tolist()))
    errors = np.log(known["measured"] / known["without_family"]).to_numpy(float)
    sigma, scale = _scale(known, errors, groups)
    widths = conformal(np.abs(errors) / scale, groups)
    wider = {}
    for kind in ("generation", "stack"):
        scores = np.abs(np.log(known["measured"] / known[f"without_{kind}"]).to_numpy(float)) / scale
        usable = np.isfinite(scores)
        new = conformal(scores[usable], np.array(known[kind].tolist())[usable])
        # A relative's constants are a guess: at least a quarter wider.
        wider[kind] = max(1.25, new[LEVELS.index(0.8)] / widths[LEVELS.index(0.8)])
    return {
        "held_out": {kind: _rounded(_held_out(runs, kind)) for kind in ("source", "family", "generation", "stack")},
        "sigma": _rounded(sigma),
        "quantiles": {"all": [float(f"{v:.4g}") for v in widths]},
        "wider": _rounded(wider),
        "ranges": _ranges(known),
    }


def _scale(
    known: pd.DataFrame, errors: np.ndarray, groups: np.ndarray, used: np.ndarray | slice = slice(None)
) -> tuple[dict[str, float], np.ndarray]:
    """The deviations fitted to the residuals of the rows used, and σ of every row."""
    shares = known[[c for c in known.columns if c.startswith("share.")]].to_numpy(float)
    sigma = fit_deviations(errors[used], shares[used], groups[used])
    return sigma, np.asarray(deviation(known, sigma), float)


def _held_out(runs: pd.DataFrame, kind: str) -> dict[str, float]:
    """Errors and coverage of 90 % intervals for what was left out, sources (or publishers) weighted alike.

    The intervals of each come from the others alone: deviations and quantiles are fitted without it.
    """
    known = runs[np.isfinite(runs["measured"]) & np.isfinite(runs[f"without_{kind}"])]
    sources = np.array(known["source"].tolist())
    groups = families(sources) if kind == "family" else sources
    errors = np.log(known["measured"] / known[f"without_{kind}"]).to_numpy(float)
    inside = []
    for name in np.unique(groups):
        mine = groups == name
        scores = np.abs(errors) / _scale(known, errors, groups, ~mine)[1]
        inside.append(float(np.mean(scores[mine] <= conformal(scores[~mine], groups[~mine], [0.9])[0])))
    return {**error_statistics(np.expm1(-errors), alike(groups)), "coverage90": float(np.mean(inside))}


def alike(sources: np.ndarray) -> np.ndarray:
    """Weights that give every publication the same sum."""
    _, inverse, counts = np.unique(sources, return_inverse=True, return_counts=True)
    return 1.0 / counts[inverse]


def held_out_statistics(runs: pd.DataFrame) -> dict[str, Any]:
    """Errors by publication left out, and with publications weighted alike for each kind of leaving out."""
    parts: dict[str, Any] = {}
    for kind in ("source", "family", "generation", "stack"):
        known = runs[np.isfinite(runs[f"without_{kind}"]) & np.isfinite(runs["measured"])]
        errors = known[f"without_{kind}"] / known["measured"] - 1.0
        if kind == "source":
            for name, part in errors.groupby(known["source"]):
                parts[f"without {name}"] = {"n": len(part), **error_statistics(part)}
        sources = np.array(known["source"].tolist())
        weights = alike(families(sources) if kind == "family" else sources)
        name = {"source": "table, tables alike", "family": "publisher, publishers alike"}.get(
            kind, f"{kind}, tables alike"
        )
        parts[f"without its {name}"] = {"n": len(known), **error_statistics(errors, weights)}
    return {"parts": parts}


def _ranges(runs: pd.DataFrame) -> dict[str, Any]:
    """Smallest and largest size of the measured designs by generation, and the classes that occur."""
    from dse.accuracy.features import CLASSES, SIZES

    found: dict[str, Any] = {"classes": {}, "sizes": {}}
    for name in CLASSES:
        found["classes"][name] = sorted({str(v) for v in runs[name]})
    for generation, part in runs.groupby("generation"):
        found["sizes"][str(generation)] = {n: [float(part[n].min()), float(part[n].max())] for n in SIZES}
    return found


def write(data: Mapping[str, Any], runs: pd.DataFrame, path: Path) -> None:
    """Write the calibration and, beside it, the runs with their predictions; both whole or not at all."""
    from dse.study.export import write_atomically

    text = as_yaml(data)
    write_atomically(calibration.runs_beside(path), lambda file: runs.to_parquet(file, index=False))
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))
