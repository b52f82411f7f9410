"""Predicted memory held against measured runs: peak memory where it was read, and which runs fitted at all.

What a framework holds beyond the tensors of the published equations are constants of its software stack
(``stack.memory``); ``fit_memory`` in ``dse.accuracy.memory_fit`` refits those that cannot be read off its code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.accuracy.corpus import Batch, batches, measured, read_table
from dse.accuracy.report import error_statistics, refusal_lines, scale_labels, with_refusals
from dse.errors import Fault, SpecError
from dse.explore.evaluate import price

if TYPE_CHECKING:
    import pandas as pd

GIB = 2.0**30
NEEDED = ("id", "status", "dup_of", "fully_specified", "source_key", "n_gpus", "gpu", "precision", "notes")
SPREAD = 0.06  # standard deviation of the log of measured over predicted memory
SCALES = (8, 64, 512)


@dataclass(frozen=True)
class MemoryReport:
    """Predicted rows, and the rows that were refused with the reason.

    ``rows`` has a line for each run: measured and predicted peak memory and the capacity in GiB, whether it is
    predicted to fit, the probability of that, and the largest part of the footprint.
    """

    rows: pd.DataFrame
    refused: dict[str, str]

    def summary(self) -> dict[str, Any]:
        """Counts, errors of the peak memory, and how well fitting is predicted, overall and by source."""
        groups = self.rows.groupby("source")
        return {
            "n": len(self.rows) + len(self.refused),
            "n_predicted": len(self.rows),
            **figures(self.rows),
            "confusion": confusion(self.rows),
            "by_source": {str(name): {"n": len(part), **figures(part)} for name, part in groups},
            "refused": dict(Counter(self.refused.values())),
        }

    def by(self, column: str) -> dict[str, dict[str, Any]]:
        """The same figures by another column: ``accelerator``, ``stack`` or ``scale``."""
        return {str(name): {"n": len(part), **figures(part)} for name, part in self.rows.groupby(column)}

    def table(self) -> pd.DataFrame:
        """Every row given: its predicted peak memory and whether it fits, or why there is no prediction."""
        names = {"id": "id", "predicted [GiB]": "predicted_peak_memory_gib", "fits": "feasible",
                 "probability": "probability_fits", "largest part": "reason"}  # fmt: skip
        return with_refusals(self.rows[list(names)].rename(columns=names), self.refused)

    def worst(self, n: int = 10) -> pd.DataFrame:
        """The rows whose peak memory is predicted worst, with the part of the footprint that dominates."""
        order = self.rows["error"].abs().sort_values(ascending=False).dropna().index[:n]
        return self.rows.loc[order, ["id", "source", "measured [GiB]", "predicted [GiB]", "error", "largest part"]]

    def __str__(self) -> str:
        found = self.summary()
        lines = [f"{found['n_predicted']} of {found['n']} rows predicted; error of the peak memory, and fitting", ""]
        names = ("median", "mean", "P90", "bias")
        lines.append(f"{'':<26}{'rows':>6}{'read':>6}" + "".join(f"{n:>8}" for n in names) + f"{'balanced':>10}")
        parts = {**found["by_source"], "all rows": {**found, "n": found["n_predicted"]}}
        for column in ("accelerator", "stack", "scale"):
            parts.update({f"{column} {name}": part for name, part in self.by(column).items()})
        lines += [_line(name, part) for name, part in parts.items()]
        c = found["confusion"]
        lines += ["", f"ran: {c['ran_fits']} predicted to fit, {c['ran_overflows']} not; "
                      f"out of memory: {c['oom_overflows']} predicted, {c['oom_fits']} not"]  # fmt: skip
        lines += ["", "worst", self.worst().to_string(index=False)]
        lines += refusal_lines(found["refused"])
        return "\n".join(lines)


def _line(name: str, part: dict[str, Any]) -> str:
    sizes = [part["median_ape"], part["mean_ape"], part["p90_ape"]]
    shown = "".join(f"{v:>8.1%}" for v in sizes) + f"{part['bias']:>+8.1%}" if part["n_measured"] else " " * 32
    known = part["balanced_accuracy"]
    return f"{name:<26}{part['n']:>6}{part['n_measured']:>6}{shown}" + ("" if known is None else f"{known:>10.1%}")


def confusion(rows: pd.DataFrame) -> dict[str, int]:
    """Runs that ran and runs that did not, by what is predicted."""
    ran, fits = (rows["status"] == "ok").to_numpy(), rows["fits"].to_numpy(bool)
    cells = {"ran_fits": ran & fits, "ran_overflows": ran & ~fits}
    cells.update(oom_fits=~ran & fits, oom_overflows=~ran & ~fits)
    return {name: int(cell.sum()) for name, cell in cells.items()}


def figures(rows: pd.DataFrame) -> dict[str, Any]:
    """Errors of the peak memory, and the mean of the shares of running and of failing runs that are told right."""
    errors = rows["error"].dropna().to_numpy()
    c = confusion(rows)
    ran, failed = c["ran_fits"] + c["ran_overflows"], c["oom_fits"] + c["oom_overflows"]
    balanced = (c["ran_fits"] / ran + c["oom_overflows"] / failed) / 2 if ran and failed else None
    return {"n_measured": len(errors), **error_statistics(errors), "balanced_accuracy": balanced}


def validate_memory(
    path: Path | str | Sequence[Path | str] | None = None,
    *,
    margin: float = 1.0,
    spread: float = SPREAD,
    vocab: int | None = None,
) -> MemoryReport:
    """Predict the peak memory of every usable row of one or several tables, and whether it fits.

    Args:
        path: tables with the columns of ``training`` and ``training_oom``; by default these two.
        vocab: of rows that leave it blank (else they are refused), padded to a multiple of 128 · tp.
        margin: a run is predicted to fit where ``margin`` times its memory does not exceed the capacity.
        spread: standard deviation of the log-normal residual, for the probability of fitting.

    Raises:
        SpecError: a table cannot be read or lacks columns.
    """
    frame = read_runs(path)
    frame = frame.assign(id=frame["id"].astype(str)).drop_duplicates("id").reset_index(drop=True)
    if vocab is not None:
        step = 128.0 * frame["tp"].fillna(1)
        frame["vocab"] = frame["vocab"].fillna(np.ceil(vocab / step) * step)
    found, refused = batches(frame)
    priced = [predict(batch.specs) for batch in found]
    return report(found, priced, frame, refused, margin, spread)


def read_runs(path: Path | str | Sequence[Path | str] | None) -> pd.DataFrame:
    """Rows that ran, fully specified or with a measured peak, and rows out of memory; each configuration once."""
    import pandas as pd

    if path is None:
        frames = [measured("training"), measured("training_oom")]
    else:
        frames = [read_table(p) for p in ([path] if isinstance(path, str | Path) else path)]
    for frame in frames:
        lacking = [name for name in NEEDED if name not in frame.columns]
        if lacking:
            raise SpecError([Fault("file", "", f"lacks the columns {', '.join(lacking)}", str(path))])
    frame = pd.concat([f.assign(peak_memory_gib=f.get("peak_memory_gib", np.nan)) for f in frames], ignore_index=True)
    known = frame["fully_specified"].astype(str).str.lower().isin(("true", "1")) | frame["peak_memory_gib"].notna()
    kept = ((frame["status"] == "ok") & known | (frame["status"] == "oom")) & frame["dup_of"].isna()
    return frame[kept].reset_index(drop=True)


def _said(frame: pd.DataFrame) -> dict[str, str]:
    text = frame["notes"].astype(str) + " " + frame["source_key"].astype(str)
    return dict(zip(frame["id"].astype(str), text, strict=True))


def predict(specs: dict[str, Any]) -> dict[str, np.ndarray]:
    """Bytes of each run by part of the footprint, and their sum as ``total``."""
    evaluation = price(specs, devices_given=True)
    parts = {**evaluation["memory_breakdown"], "total": evaluation["memory_bytes"]}
    return dict(zip(parts, np.broadcast_arrays(*map(np.atleast_1d, parts.values())), strict=True))


def report(
    found: Sequence[Batch],
    priced: Sequence[dict[str, np.ndarray]],
    frame: pd.DataFrame,
    refused: dict[str, str],
    margin: float = 1.0,
    spread: float = SPREAD,
) -> MemoryReport:
    """Predicted runs as a table, beside what was observed; alternatives of one row become one.

    What was read is what the driver or the allocator had reserved, or, where the notes say so, what was allocated.
    """
    import pandas as pd
    from scipy.stats import norm

    said = _said(frame)
    pieces = []
    for batch, parts in zip(found, priced, strict=True):
        names = [name for name in parts if name != "total"]
        capacity = np.array([run.cluster.accelerator.memory.capacity for run in batch.runs])
        largest = np.argmax([parts[name] for name in names], axis=0)
        share = np.max([parts[name] for name in names], axis=0) / parts["total"]
        allocated = ["max_allocated" in said[i] for i in batch.ids]
        piece = {
            "id": batch.ids,
            "accelerator": [run.cluster.accelerator.id for run in batch.runs],
            "stack": [run.stack.id for run in batch.runs],
            "log": np.log((parts["total"] - np.where(allocated, parts["reserved"], 0.0)) / GIB),
            "held": np.log(parts["total"] / GIB),
            "capacity [GiB]": capacity / GIB,
            "probability": norm.cdf(np.log(capacity / parts["total"]) / spread),
            "largest part": [f"{names[k]} {s:.0%}" for k, s in zip(largest, share, strict=True)],
        }
        pieces.append(pd.DataFrame(piece))
    columns = ["id", "accelerator", "stack", "log", "held", "capacity [GiB]", "probability", "largest part"]
    table = pd.concat(pieces) if pieces else pd.DataFrame({name: [] for name in columns})
    # Alternatives of one row: the geometric mean of their memory, the mean of their probabilities.
    means = {name: "mean" if name in ("log", "held", "probability") else "first" for name in columns[1:]}
    table = table.groupby("id", sort=False, as_index=False).agg(means)
    rows = frame.set_index("id").loc[table["id"]]
    table.insert(1, "source", rows["source_key"].astype(str).to_numpy())
    table["status"] = rows["status"].to_numpy()
    table["scale"] = scale_labels(rows["n_gpus"].to_numpy(float), SCALES)
    table["predicted [GiB]"] = np.exp(table.pop("log").to_numpy(float))
    table["measured [GiB]"] = pd.to_numeric(rows["peak_memory_gib"]).to_numpy(float)
    table["error"] = table["predicted [GiB]"] / table["measured [GiB]"] - 1.0
    table["fits"] = margin * np.exp(table.pop("held").to_numpy(float)) <= table["capacity [GiB]"]
    return MemoryReport(table, refused)
