"""Predictions held against measured runs, with the errors grouped by where the runs were published."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.accuracy.corpus import batches, measured, predictable, read_table
from dse.errors import Fault, SpecError
from dse.explore.evaluate import price

if TYPE_CHECKING:
    import pandas as pd

NEEDED = ("id", "status", "dup_of", "fully_specified", "source_key", "iter_time_s", "task", "arch", "gpu", "precision",
          "sharding", "recompute", "gated_mlp", "seq_parallel", "notes")  # fmt: skip


@dataclass(frozen=True)
class Report:
    """Predicted rows with their errors, and the rows that were refused with the reason."""

    rows: pd.DataFrame  # id, source, measured [s], predicted [s], error
    refused: dict[str, str]

    def summary(self) -> dict[str, Any]:
        """Counts and errors: the absolute relative error's median, mean and 90th percentile, and the median bias."""
        groups = self.rows.groupby("source")["error"]
        return {
            "n": len(self.rows) + len(self.refused),
            "n_predicted": len(self.rows),
            **_errors(self.rows["error"]),
            "by_source": {str(name): {"n": len(errors), **_errors(errors)} for name, errors in groups},
            "refused": dict(Counter(self.refused.values())),
        }

    def __str__(self) -> str:
        found = self.summary()
        lines = [f"{found['n_predicted']} of {found['n']} rows predicted; error of the step time", ""]
        lines.append(f"{'publication':<26}{'rows':>6}{'median':>9}{'mean':>9}{'P90':>9}{'bias':>9}")
        table = {**found["by_source"], "all rows": {"n": found["n_predicted"], **_errors(self.rows["error"])}}
        for name, e in table.items():
            sizes = (e["median_ape"], e["mean_ape"], e["p90_ape"])
            lines.append(f"{name:<26}{e['n']:>6}" + "".join(f"{v:>9.1%}" for v in sizes) + f"{e['bias']:>+9.1%}")
        if found["refused"]:
            lines += ["", "not predicted"]
            lines += [f"{count:>6}  {why}" for why, count in found["refused"].items()]
        return "\n".join(lines)


def _errors(errors: pd.Series) -> dict[str, float]:
    size = np.abs(errors)
    if not len(size):
        return dict.fromkeys(("median_ape", "mean_ape", "p90_ape", "bias"), 0.0)
    return {
        "median_ape": float(np.median(size)),
        "mean_ape": float(np.mean(size)),
        "p90_ape": float(np.quantile(size, 0.9)),
        "bias": float(np.median(errors)),
    }


def validate_training(path: Path | None = None) -> Report:
    """Predict every usable row of a table of training runs (by default the shipped one).

    Successful, fully specified rows are used, each configuration once.

    Raises:
        SpecError: the table cannot be read or lacks columns.
    """
    import pandas as pd

    frame = measured("training") if path is None else read_table(path)
    lacking = [name for name in NEEDED if name not in frame.columns]
    if lacking:
        raise SpecError([Fault("file", "", f"lacks the columns {', '.join(lacking)}", str(path))])
    frame = predictable(frame)
    found, refused = batches(frame)
    indexed = frame.set_index("id")
    parts = []
    for batch in found:
        predicted = np.broadcast_to(price(batch.specs, devices_given=True)["step_time"], (len(batch.ids),))
        rows = indexed.loc[list(batch.ids)]
        seconds = rows["iter_time_s"].to_numpy(float)
        part = {"id": batch.ids, "source": rows["source_key"].astype(str).to_numpy(), "measured [s]": seconds,
                "predicted [s]": predicted, "error": predicted / seconds - 1.0}  # fmt: skip
        parts.append(pd.DataFrame(part))
    empty = pd.DataFrame({"id": [], "source": [], "measured [s]": [], "predicted [s]": [], "error": []})
    table = pd.concat(parts) if parts else empty
    known = table["measured [s]"] > 0
    refused.update(dict.fromkeys(table["id"][~known], "no measured step time"))
    return Report(table[known].reset_index(drop=True), refused)
