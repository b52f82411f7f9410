"""The accelerator's constants from measured layers: least squares, checked by leaving out one SubNet at a time.

A layer takes compute_overhead · cycles / clock + weights / weight_bandwidth + inputs / input_bandwidth + layer_time,
with cycles and bytes counted by :func:`dse.domains.sushi.latency.work` (whole tiles, a window at every input pixel).
The rows shipped are the 108 3x3 layers of six SubNets on a ZCU104. Run as a module it writes the catalogue's
``zcu104-calibrated``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.sushi.accelerator import KIND, SubGraphAccelerator, load_subgraph_accelerator
from dse.domains.sushi.latency import layer_times, work
from dse.domains.sushi.layers import Layers
from dse.errors import Fault, SpecError
from dse.spec.catalogue import FOLDERS, asset_root

if TYPE_CHECKING:
    import pandas as pd

BASE = "zcu104"
_WHOLE = ("k", "c", "r", "x", "stride")
_TERMS = ("compute_overhead", "weight_bandwidth", "input_bandwidth", "layer_time")


def shipped() -> Path:
    """The measured layers of the ZCU104."""
    return asset_root("data") / "sushi" / "zcu104-3x3.csv"


def measured(path: Path | str | None = None) -> pd.DataFrame:
    """Measured layers: columns subnet, k, c, r, x, stride, optionally groups, and time [s].

    Args:
        path: CSV with those columns, the time as ``ms``; by default the shipped one.

    Raises:
        SpecError: the file cannot be read, a column is missing, or a value is not what it should be.
    """
    import pandas as pd

    where = str(path or shipped())
    try:
        rows = pd.read_csv(where)
    except (OSError, ValueError, UnicodeError) as error:
        raise SpecError([Fault("layers", "", f"cannot be read as CSV: {str(error)[:200]}", where)]) from None
    wanted = ("subnet", *_WHOLE, "ms")
    if missing := [name for name in wanted if name not in rows]:
        raise SpecError([Fault(name, "", "column is missing", where) for name in missing])
    rows["groups"] = rows.get("groups", 1)
    for name in (*_WHOLE, "groups", "ms"):
        values = pd.to_numeric(rows[name], errors="coerce")
        wrong = ~(values > 0) | np.isinf(values) | ((name != "ms") & (values % 1 != 0))
        if wrong.any():
            line = int(np.flatnonzero(wrong)[0])
            rule = "must be a finite time above 0" if name == "ms" else "must be a whole number, 1 or more"
            raise SpecError([Fault(name, repr(rows[name].iloc[line])[:60], rule, f"{where}:{line + 2}")])
        rows[name] = values if name == "ms" else values.astype(np.int64)
    rows["time"] = rows["ms"] * 1e-3
    return rows


def layers_of(rows: pd.DataFrame) -> Layers:
    """The measured layers as columns [row]."""
    return Layers(*(rows[name].to_numpy(dtype=np.int64) for name in Layers._fields))


def fit(rows: pd.DataFrame, base: Any = BASE, *, border: int = 0) -> SubGraphAccelerator:
    """The accelerator whose times come nearest to the measured ones (least squares of seconds).

    Args:
        rows: as :func:`measured` gives them.
        base: the accelerator whose array, clock and everything else is kept.
        border: pixels that are streamed with each row and column.

    Raises:
        SpecError: the rows do not tell the four constants apart, or only by constants that mean nothing (a negative
            time, an array faster than its clock).
    """
    machine = _ideal(base, border)
    if len(rows) < len(_TERMS):
        rule = f"must be {len(_TERMS)} or more to fit as many constants"
        raise SpecError([Fault("layers", f"{len(rows)} rows", rule)])
    done = work(machine, layers_of(rows))
    columns = np.stack([done.cycles / machine.clock, done.weights, done.inputs, np.ones(len(rows))], axis=-1)
    scale = columns.max(axis=0)  # seconds, bytes and counts: a common scale keeps the system well conditioned
    found, _, rank, _ = np.linalg.lstsq(columns / scale, rows["time"].to_numpy(), rcond=None)
    found = found / scale
    if abs(found[0] - 1) < 1e-6:  # the array as fast as its clock, but for rounding
        found[0] = 1.0
    if abs(found[3]) < 1e-9:
        found[3] = 0.0
    faults = []
    if rank < len(_TERMS):
        faults.append(Fault("layers", "", "do not tell the constants apart: their shapes are too much alike"))
    elif (found[:3] <= 0).any() or found[3] < 0 or found[0] < 1:
        shown = ", ".join(f"{name} {value:.3g}" for name, value in zip(_TERMS, found, strict=True))
        rule = "fit no such accelerator: time falls with work, or the array is faster than its clock"
        faults.append(Fault("layers", shown, rule))
    if faults:
        raise SpecError(faults)
    values = (found[0], 1 / found[1], 1 / found[2], found[3])
    return machine.replace(**dict(zip(_TERMS, map(float, values), strict=True)))


def _ideal(base: Any, border: int) -> SubGraphAccelerator:
    """The base as the form that is fitted: everything one after the other, outputs drained beside the reads."""
    given = load_subgraph_accelerator(base)
    return given.replace(
        compute_overhead=1.0, border=border, folding="tiles", positions="input", storage="padded", overlap="none",
        output_bandwidth=None, burst_efficiency=1.0, streaming_buffer=None, accounting="layers", layer_time=0.0,
    )  # fmt: skip


@dataclass(frozen=True)
class Validation:
    """How good the fit is on rows that it has not seen.

    Attributes:
        accelerator: fitted to all rows.
        rows: those measured, with ``fitted`` and ``predicted`` (by the fit without their SubNet) [s] and ``error``, the
            prediction's relative error.
        totals: by SubNet the sums of measured and predicted times [s], and their relative error.
        mape: mean absolute relative error of the predictions.
        worst: the largest.
    """

    accelerator: SubGraphAccelerator
    rows: pd.DataFrame
    totals: pd.DataFrame
    mape: float
    worst: float


def validate(rows: pd.DataFrame | None = None, base: Any = BASE, *, border: int = 0) -> Validation:
    """Fit, and predict each SubNet's layers by a fit to the others'."""
    rows = (measured() if rows is None else rows).copy()
    predicted = np.empty(len(rows))
    for name in rows["subnet"].unique():
        out = (rows["subnet"] == name).to_numpy()
        predicted[out] = times(fit(rows[~out], base, border=border), rows[out])
    accelerator = fit(rows, base, border=border)
    rows["fitted"], rows["predicted"] = times(accelerator, rows), predicted
    rows["error"] = rows["predicted"] / rows["time"] - 1
    totals = rows.groupby("subnet", sort=False)[["time", "fitted", "predicted"]].sum().reset_index()
    totals["error"] = totals["predicted"] / totals["time"] - 1
    size = rows["error"].abs()
    return Validation(accelerator, rows, totals, float(size.mean()), float(size.max()))


def times(accelerator: SubGraphAccelerator, rows: pd.DataFrame) -> np.ndarray:
    """Time of each row's layer with nothing cached [s]."""
    return layer_times(accelerator, layers_of(rows)).total


def write(path: Path | None = None, date: str = "2026-11") -> Path:
    """Fit the shipped rows and write the catalogue's entry, with what it was fitted to and how well.

    Raises:
        StudyError: the file cannot be written.
    """
    from dse.study.export import write_atomically

    found = validate()
    machine = found.accelerator
    entry = f"{BASE}-calibrated"
    text = f"""\
# Written by python -m dse.domains.sushi.calibrate from data/sushi/{shipped().name}
kind: {KIND}
base: {BASE}
id: {entry}
name: SUSHI accelerator on a ZCU104, calibrated
compute_overhead: {machine.compute_overhead:.6g}
weight_bandwidth: {machine.weight_bandwidth / 1e9:.6g} GB/s
input_bandwidth: {machine.input_bandwidth / 1e9:.6g} GB/s
output_bandwidth: null
overlap: none
layer_time: {machine.layer_time * 1e6:.6g} us
sources:
  - title: Least squares on {len(found.rows)} layers (3x3 alone) timed on a ZCU104 (maeri-project/FEATHER notebook;
      the same array without a persistent buffer). Each SubNet predicted from the others, the mean error is
      {100 * found.mape:.2f} % and the largest {100 * found.worst:.1f} %
    date: {date}
    kind: measured
    url: https://github.com/maeri-project/FEATHER
    covers: [compute_overhead, weight_bandwidth, input_bandwidth, layer_time]
"""
    target = path or asset_root("data") / FOLDERS[KIND] / f"{entry}.yaml"
    return write_atomically(target, lambda file: file.write_text(text, encoding="utf-8") and None)


if __name__ == "__main__":
    write()
