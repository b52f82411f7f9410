"""Measured tables of a study: the rows it asks for, predicted as ``dse validate`` predicts them, and their sweeps."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.accuracy.corpus import measured as shipped_table
from dse.accuracy.corpus import read_table
from dse.accuracy.memory import SPREAD, validate_memory
from dse.accuracy.ranking import LEAST, QUESTION, WIDER
from dse.accuracy.runs import KERNELS
from dse.accuracy.uncertainty import corpus_runs
from dse.accuracy.validate import validate_training
from dse.errors import Fault, SpecError
from dse.spec import calibration
from dse.study.measured import Measured, is_blank

if TYPE_CHECKING:
    import pandas as pd

SHIPPED = "training"
Z90 = 1.645  # half of a 90 % interval in standard deviations


@dataclass(frozen=True)
class Compared:
    """A measured table of a study with its predictions.

    Attributes:
        rows: the rows that count, in seconds: id, source, model, gpu, n_gpus, design, measured, predicted, low, high,
            error, held_out and error_held_out (by constants that never saw the row's publication; the prediction
            itself where no constants did), seen (whether the constants in use were fitted to it).
        refused: reason of each row that could not be predicted.
        given: number of rows that the filter leaves.
        memory: of the rows with a measured peak or known to have (not) fitted: see ``dse.accuracy.memory``.
        memory_held_out: the same with constants that never saw the row's publication; None for tables of one's own.
        places: designs of each sweep with their measured and predicted places.
    """

    block: Measured
    rows: pd.DataFrame
    refused: dict[str, str]
    given: int
    memory: pd.DataFrame | None
    memory_held_out: pd.DataFrame | None
    places: pd.DataFrame
    selected: pd.DataFrame


def compare_table(block: Measured, folder: Path) -> Compared:
    """Predict the rows of one measured table.

    Raises:
        SpecError: the table, a column of the filter, or any row is missing.
    """
    path = _path(block.table, folder)
    frame, report = _validated(path, *_stamp(path))
    chosen = select(frame, block.where)
    if not len(chosen):
        raise SpecError([Fault("where", str(block.where)[:120], "leaves no row of the table")])
    ids = set(chosen["id"])
    rows = _rows(report.rows[report.rows["id"].astype(str).isin(ids)], chosen, block)
    refused = {key: why for key, why in report.refused.items() if key in ids}
    memory = memory_held_out = None
    if block.needs_memory:
        memory, memory_held_out = _memory(block, path)
    return Compared(block, rows, refused, len(chosen), memory, memory_held_out, places(rows), chosen)


def _path(table: str, folder: Path) -> Path | None:
    if table == SHIPPED:
        return None
    beside = folder / table
    return beside if beside.is_file() else Path(table)


def _stamp(path: Path | None) -> tuple[str, int]:
    """What changes predictions besides the table itself."""
    time = path.stat().st_mtime_ns if path is not None and path.is_file() else 0
    return f"{calibration.active().path}:{calibration.active().id}", time


@lru_cache(maxsize=4)
def _validated(path: Path | None, _calibration: str, _time: int) -> Any:
    """The table and the report of ``dse validate training`` over all of it."""
    frame = shipped_table(SHIPPED) if path is None else read_table(path)
    return frame.assign(id=frame["id"].astype(str)).drop_duplicates("id"), validate_training(path)


def select(frame: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """Rows whose columns have the values asked for (see :class:`dse.study.measured.Measured`).

    Raises:
        SpecError: a column that the table lacks, or a range that is not one.
    """
    import pandas as pd

    kept = np.ones(len(frame), bool)
    for name, wanted in where.items():
        if name not in frame.columns:
            near = difflib.get_close_matches(name, frame.columns, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SpecError([Fault(f"where.{name}"[:80], "", f"is not a column of the table{hint}")])
        if isinstance(wanted, Mapping):
            if not wanted or not set(wanted) <= {"at_least", "at_most"}:
                raise SpecError([Fault(f"where.{name}", str(wanted)[:60], "a range has at_least, at_most or both")])
            numbers = pd.to_numeric(frame[name], errors="coerce").to_numpy(float)
            kept &= (numbers >= float(wanted.get("at_least", -np.inf))) & (
                numbers <= float(wanted.get("at_most", np.inf))
            )
            continue
        values = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
        given = [value for value in values if not is_blank(value)]
        match = frame[name].isin(given) | frame[name].astype(str).isin([str(value) for value in given])
        kept &= (match | (frame[name].isna() & (len(given) < len(values)))).to_numpy(bool)
    return frame[kept]


# -- rows -----------------------------------------------------------------------------------------------------


def _rows(found: pd.DataFrame, chosen: pd.DataFrame, block: Measured) -> pd.DataFrame:
    """Rows that count, with their design and what constants predict that never saw their publication."""
    given = chosen.set_index("id")
    counts = found["measured"].to_numpy(float) > 0
    if block.rows == "specified":
        counts &= found["specified"].to_numpy(bool)
    if "dup_of" in given:
        first = given["dup_of"].astype(str).reindex(found["id"]).isin(given.index)
        counts &= ~first.to_numpy()
    rows = found[counts].reset_index(drop=True)
    here = given.reindex(rows["id"])
    for name in ("model", "gpu", "n_gpus"):
        rows[name] = here[name].to_numpy() if name in here else ""
    rows["design"] = [design(row) for row in here.to_dict("records")]
    seen, without = _without_source(rows, shipped=block.table == SHIPPED)
    rows["seen"] = seen
    rows["held_out"] = np.where(seen, without, rows["predicted"])
    rows["error_held_out"] = rows["held_out"] / rows["measured"] - 1.0
    return rows


def _without_source(rows: pd.DataFrame, *, shipped: bool) -> tuple[np.ndarray, np.ndarray]:
    """Which rows the constants in use were fitted to, and their step times by constants that never saw their source."""
    nothing = np.zeros(len(rows), bool), np.full(len(rows), np.nan)
    try:
        runs = corpus_runs().drop_duplicates("id").set_index("id")
    except SpecError:  # no calibration, or one without its table of runs
        return nothing
    known = runs.reindex(rows["id"])
    same = np.isclose(known["measured"].to_numpy(float), rows["measured"].to_numpy(float), rtol=1e-6)
    seen = same if not shipped else known["measured"].notna().to_numpy()
    return seen, known["without_source"].to_numpy(float)


def design(row: Mapping[str, Any]) -> str:
    """The layout of a row as people write it: what it gives and what differs from one."""
    parts = [f"{name}{row[name]:g}" for name in ("tp", "pp", "vpp", "cp", "ep", "dp") if _counts(row, name)]
    if not is_blank(row.get("micro_batch")):
        parts.append(f"micro-batch {row['micro_batch']:g}")
    if str(row.get("recompute")) in ("selective", "full"):
        parts.append(f"{row['recompute']} recompute")
    if str(row.get("seq_parallel")).lower() in ("true", "1", "1.0"):
        parts.append("sequence parallel")
    if str(row.get("sharding")) not in ("none", "nan", "None", ""):
        parts.append(str(row["sharding"]))
    notes = str(row.get("notes"))
    kernel = next((name for mark, name in KERNELS.items() if mark in notes), "")
    parts += [f"{kernel} attention"] if kernel else []
    parts += ["fused norm"] if "RMS kernel" in notes else []
    return ", ".join(parts)


def _counts(row: Mapping[str, Any], name: str) -> bool:
    value = row.get(name)
    return isinstance(value, int | float) and value == value and (value != 1 or name in ("tp", "pp"))


# -- sweeps ---------------------------------------------------------------------------------------------------


def places(rows: pd.DataFrame, predicted: str = "predicted") -> pd.DataFrame:
    """Designs of each sweep of one question, in the order of ``dse.accuracy.ranking``, with their places.

    Returns:
        A row a design: source, sweep, id (of all its rows), design, ``measured`` and ``predicted`` seconds a token,
        measured_place and predicted_place.
    """
    import pandas as pd

    parts = []
    for _, publication in rows.groupby("source", sort=True):
        for question in (QUESTION, WIDER):
            keys = ["source", *(name for name in question if name in publication.columns and name != "source_key")]
            groups = publication.groupby(keys, dropna=False, sort=True)
            found = [part for _, sweep in groups if len(part := _one_sweep(sweep, predicted)) >= LEAST]
            if found:
                parts += found
                break
    if not parts:
        return pd.DataFrame({name: [] for name in PLACES})
    _name_apart(parts)
    return pd.concat(parts, ignore_index=True)[list(PLACES)]


PLACES = ("source", "sweep", "id", "design", "measured", "predicted", "measured_place", "predicted_place")


def _one_sweep(sweep: pd.DataFrame, predicted: str) -> pd.DataFrame:
    tokens = np.full(len(sweep), np.nan)
    if {"global_batch", "seq_len"} <= set(sweep):
        tokens = (sweep["global_batch"] * sweep["seq_len"]).to_numpy(float)
    scale = np.where(np.isfinite(tokens), tokens, 1.0)
    table = sweep.assign(measured=sweep["measured"] / scale, predicted=sweep[predicted] / scale)
    table = table[np.isfinite(table["predicted"].to_numpy(float))]
    lengths = sorted({float(n) for n in sweep.get("seq_len", ()) if not is_blank(n)})
    if len(lengths) > 1:
        table["design"] = [f"seq {n:g}, {text}" for n, text in zip(table["seq_len"], table["design"], strict=True)]
    same = table["predicted"].round(15)
    how = {"source": "first", "id": ", ".join, "design": "first", "measured": "median", "predicted": "median"}
    found = table.groupby(same, sort=True).agg(how).reset_index(drop=True)
    for name in ("measured", "predicted"):
        found[f"{name}_place"] = found[name].rank(method="min")
    first = sweep.iloc[0]
    model = sweep["model"].astype(str).mode().iloc[0]
    length = f", seq {' to '.join(f'{n:g}' for n in dict.fromkeys((lengths[0], lengths[-1])))}" if lengths else ""
    found["sweep"] = f"{model}, {float(first['n_gpus']):g} {first['gpu']}{length}"
    found["more"] = f"{float(first['layers']):g} layers, {first.get('precision', '')}".rstrip(", ")
    return found


def _name_apart(parts: list[pd.DataFrame]) -> None:
    """Sweeps of the same name get what else sets them apart, or a number."""
    for tell in (lambda part, _: part["more"].iloc[0], lambda _, number: f"{number + 1}"):
        names = [part["sweep"].iloc[0] for part in parts]
        for number, (name, part) in enumerate(zip(names, parts, strict=True)):
            if names.count(name) > 1:
                part["sweep"] = f"{name}, {tell(part, number)}"


def sweep_table(found: pd.DataFrame) -> pd.DataFrame:
    """A row a sweep: the fastest design as measured and as predicted, and what the choice costs."""
    import pandas as pd

    rows = []
    for (source, sweep), part in found.groupby(["source", "sweep"], sort=False):
        best, pick = part.loc[part["measured"].idxmin()], part.loc[part["predicted"].idxmin()]
        rows.append(
            {
                "source": source,
                "sweep": sweep,
                "designs": len(part),
                "fastest measured": best["design"],
                "id measured": best["id"],
                "fastest predicted": pick["design"],
                "id predicted": pick["id"],
                "same": bool(best["id"] == pick["id"]),
                "measured place of the pick": int(pick["measured_place"]),
                "regret": float(pick["measured"] / best["measured"] - 1.0),
            }
        )
    return pd.DataFrame(rows)


# -- memory ---------------------------------------------------------------------------------------------------


def _memory(block: Measured, path: Path | None) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Memory of the rows asked for, and what constants predict that never saw their source (shipped table only)."""
    import pandas as pd

    kept = [name for name in block.where if name != "status"]
    if path is None:
        frame = pd.concat([shipped_table(SHIPPED), shipped_table("training_oom")], ignore_index=True)
    else:
        frame = read_table(path)
    chosen = select(frame, {name: block.where[name] for name in kept if name in frame.columns}).copy()
    chosen["id"] = chosen["id"].astype(str)
    found = _all_memory(path, *_stamp(path))
    parts = [_memory_rows(table, chosen) for table in found]
    return parts[0], parts[1] if path is None else None


@lru_cache(maxsize=4)
def _all_memory(path: Path | None, _calibration: str, _time: int) -> Any:
    from dse.accuracy.memory_fit import held_out

    rows = validate_memory(path).rows
    return rows, (held_out("source_key").rows if path is None else rows.iloc[:0])


def _memory_rows(table: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    rows = table[table["id"].astype(str).isin(set(chosen["id"]))].reset_index(drop=True)
    given = chosen.drop_duplicates("id").set_index("id").reindex(rows["id"].astype(str))
    for name in ("model", "gpu", "n_gpus"):
        rows[name] = given[name].to_numpy() if name in given else ""
    rows["design"] = [design(row) for row in given.to_dict("records")]
    rows["measured"], rows["predicted"] = rows["measured [GiB]"], rows["predicted [GiB]"]
    half = np.exp(Z90 * SPREAD)
    return rows.assign(low=rows["predicted"] / half, high=rows["predicted"] * half)
