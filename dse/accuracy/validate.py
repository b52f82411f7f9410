"""``dse validate training``: predictions held against measured runs, with the errors by what drives them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.accuracy.corpus import measured, read_table
from dse.accuracy.features import KINDS
from dse.accuracy.predict import predictions
from dse.accuracy.ranking import QUESTION, rankings
from dse.accuracy.report import by_group, error_lines, error_statistics, refusal_lines, scale_labels, with_refusals
from dse.accuracy.uncertainty import widths
from dse.errors import Fault, SpecError
from dse.spec import calibration

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.9
GIB = 2.0**30
SCALES = (1, 8, 64, 512)
GROUPS = ("source", "hardware", "stack", "scale")


@dataclass(frozen=True)
class Report:
    """Predicted rows with their errors and intervals, and the rows that were refused with the reason.

    ``rows`` holds a line for every row that was predicted. Statistics are over those with a measured step time that
    count: successful, each configuration once, and fully specified where the table says so (``counts``).
    """

    rows: pd.DataFrame
    refused: dict[str, str]
    given: int
    given_specified: int
    in_sample: bool = False  # the constants in use were fitted to these rows

    @property
    def counted(self) -> pd.DataFrame:
        return self.rows[self.rows["counts"]]

    def summary(self) -> dict[str, Any]:
        """Errors as fractions: absolute relative error of the step time (median, mean, P90), median bias, coverage of
        the 90 % interval; by publication, hardware, stack and scale; ranking agreement and regret."""
        rows, everything = self.counted, self.rows[self.rows["measured"].notna()]
        found = {
            "calibration": calibration.active().id,
            "in_sample": self.in_sample,
            "n": self.given,
            "n_predicted": len(self.rows),
            "n_specified": self.given_specified,
            "n_specified_predicted": int(self.rows["specified"].sum()),
            "n_measured": len(rows),
            **_statistics(rows),
            "publications_alike": _weighted(rows),
            "all_rows": {"n": len(everything), **_statistics(everything)},
        }
        for group in GROUPS:
            found[f"by_{group}"] = by_group(rows, group, _statistics)
        found["ranking"] = {name: asdict(r) for name, r in rankings(_for_ranking(rows)).items()}
        found["refused"] = dict(Counter(self.refused.values()))
        return found

    def worst(self, n: int = 10) -> pd.DataFrame:
        """The rows that are predicted worst, with where their time goes."""
        rows = self.counted
        order = np.log(rows["predicted"] / rows["measured"]).abs().sort_values(ascending=False).index[:n]
        return rows.loc[order, ["id", "source", "hardware", "measured", "predicted", "error", "reason"]]

    def table(self) -> pd.DataFrame:
        """Every row given: its prediction and interval, or why there is none."""
        columns = {"id": "id", "predicted": "predicted_iter_time_s", "low": "low", "high": "high",
                   "memory": "predicted_peak_memory_gib", "feasible": "feasible", "reason": "reason"}  # fmt: skip
        return with_refusals(self.rows[list(columns)].rename(columns=columns), self.refused)

    def __str__(self) -> str:
        s = self.summary()
        lines = [
            f"{s['n_predicted']} of {s['n']} rows predicted ({s['n_specified_predicted']} of {s['n_specified']} fully "
            f"specified), calibration {s['calibration']}",
            f"error of the step time over {s['n_measured']} measured, fully specified rows, each configuration once"
            + (", which the constants were fitted to" if s["in_sample"] else ""),
            "",
        ]
        parts: dict[str, dict[str, Any]] = {}
        for group in GROUPS:
            parts.update({f"{group} {name}": part for name, part in s[f"by_{group}"].items()})
        parts["publications weighted alike"] = {"n": s["n_measured"], **s["publications_alike"]}
        parts["these rows"] = {"n": s["n_measured"], **{k: s[k] for k in _NUMBERS}}
        parts["all measured rows"] = s["all_rows"]
        lines += error_lines("", parts)
        if s["ranking"]:
            head = "".join(f"{name:>8}" for name in ("sweeps", "pairs", "agree", "regret", "worst"))
            lines += ["", f"{'sweeps of one question':<34}{head}"]
            for name, r in s["ranking"].items():
                lines.append(f"{name:<34}{r['sweeps']:>8}{r['pairs']:>8}{r['agreement']:>8.1%}{r['regret']:>8.1%}"
                             f"{r['worst_regret']:>8.1%}")  # fmt: skip
        shown = self.worst()
        if len(shown):
            lines += ["", "worst rows", shown.to_string(index=False, float_format=lambda v: f"{v:.4g}")]
        lines += refusal_lines(s["refused"])
        return "\n".join(lines)


_NUMBERS = ("median_ape", "mean_ape", "p90_ape", "bias", "coverage90")


def _statistics(rows: pd.DataFrame) -> dict[str, float]:
    inside = rows["measured"].between(rows["low"], rows["high"])
    return {**error_statistics(rows["error"]), "coverage90": float(inside.mean()) if len(rows) else float("nan")}


def _weighted(rows: pd.DataFrame) -> dict[str, float]:
    """The same with every publication of the same weight."""
    if not len(rows):
        return _statistics(rows)
    weights = (1.0 / rows.groupby("source")["id"].transform("size")).to_numpy(float)
    inside = rows["measured"].between(rows["low"], rows["high"]).to_numpy(float)
    return {**error_statistics(rows["error"], weights), "coverage90": float(np.average(inside, weights=weights))}


def _for_ranking(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.rename(columns={"source": "source_key"})


def validate_training(path: Path | str | None = None) -> Report:
    """Predict every row of a table of training runs (by default the shipped one) and compare.

    Raises:
        SpecError: the table cannot be read or has no ``id``.
    """
    frame = measured("training") if path is None else read_table(path)
    given = len(frame)
    if not {"gpu", "n_gpus", "layers", "hidden"} <= set(frame.columns):
        lacking = sorted({"gpu", "n_gpus", "layers", "hidden"} - set(frame.columns))
        raise SpecError([Fault("file", "", f"is not a table of runs: it lacks {', '.join(lacking)}", str(path))])
    if "status" in frame.columns:
        status = frame["status"].fillna("ok").astype(str).str.strip().str.lower()
        frame = frame[status.isin(["ok", "", "1", "true"])]
        if given and not len(frame):
            raise SpecError([Fault("file", "", "has no row whose status is ok", str(path))])
    frame = frame.assign(id=frame["id"].astype(str))
    twice = frame["id"].duplicated()
    if twice.any():
        raise SpecError([Fault("id", frame["id"][twice].iloc[0][:40], "is given twice", str(path))])
    frame = frame.reset_index(drop=True)
    found, refused = predictions(frame)
    specified = _flag(frame, "fully_specified", default=True)
    rows = _compared(found, frame)
    rows["specified"] = rows["id"].map(dict(zip(frame["id"].astype(str), specified, strict=True))).astype(bool)
    rows["counts"] = rows["specified"] & rows["once"] & (rows["measured"] > 0)
    return Report(rows, refused, len(frame), int(specified.sum()), in_sample=path is None)


def _flag(frame: pd.DataFrame, name: str, *, default: bool) -> np.ndarray:
    if name not in frame.columns:
        return np.full(len(frame), default)
    return frame[name].astype(str).str.lower().isin(("true", "1", "1.0", "yes")).to_numpy()


def _compared(found: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Predictions beside what was measured, with intervals and the reason for the size of the error."""
    import pandas as pd

    given = frame.assign(id=frame["id"].astype(str)).set_index("id")
    given = given.loc[list(found["id"].astype(str))] if len(found) else given.iloc[:0]
    time = found["time"].to_numpy(float)
    half = np.asarray(widths(found, found, LEVEL), float) if len(found) else np.zeros(0)
    table = {
        "id": found["id"].to_numpy(),
        "source": given["source_key"].astype(str).to_numpy() if "source_key" in given else np.full(len(found), "file"),
        "hardware": given["gpu"].astype(str).to_numpy() if "gpu" in given else "",
        "measured": _seconds(given),
        "predicted": time,
        "low": time * np.exp(-half) * found.get("spread_low", 1.0),
        "high": time * np.exp(half) * found.get("spread_high", 1.0),
        "memory": found["memory"].to_numpy(float) / GIB,
        "feasible": found["fits"].to_numpy(float) >= 0.5,
    }
    rows = pd.DataFrame(table)
    rows["error"] = rows["predicted"] / rows["measured"] - 1.0
    rows["once"] = given["dup_of"].isna().to_numpy() if "dup_of" in given else True
    rows["stack"] = found["stack"].astype(str).to_numpy() if len(found) else ""
    rows["scale"] = scale_labels(given["n_gpus"].to_numpy(float), SCALES) if len(found) else ""
    rows["reason"] = [_reason(row) for row in found.itertuples()] if len(found) else ""
    for name in (*QUESTION, "global_batch"):
        if name in given and name != "source_key":
            rows[name] = given[name].to_numpy()
    return rows


def _seconds(given: pd.DataFrame) -> np.ndarray:
    """Measured step time, from the throughput where the time itself is blank."""
    import pandas as pd

    def column(name: str) -> np.ndarray:
        return (
            pd.to_numeric(given[name], errors="coerce").to_numpy(float)
            if name in given
            else np.full(len(given), np.nan)
        )

    rate = column("tokens_per_s_per_gpu") * column("n_gpus")
    derived = column("global_batch") * column("seq_len") / rate
    time = column("iter_time_s")
    return np.where(np.isfinite(time), time, np.where(np.isfinite(derived), derived, np.nan))


def _reason(row: Any) -> str:
    """Where the time goes, and what the row left open."""
    fields = row._asdict() if hasattr(row, "_asdict") else {}
    parts = sorted(((float(value), kind) for kind, value in _shares(fields).items()), reverse=True)[:2]
    text = ", ".join(f"{share:.0%} {kind}" for share, kind in parts)
    chosen = fields.get("chosen") or {}
    filled = ", ".join(f"{name} {value}" for name, value in chosen.items())
    return f"{text}; blank, taken as {filled}" if filled else text


def _shares(fields: dict[str, Any]) -> dict[str, float]:
    # itertuples renames columns with a dot by their position; the kinds follow fits in order.
    values = list(fields.values())
    start = list(fields).index("fits") + 1
    return dict(zip(KINDS, values[start : start + len(KINDS)], strict=True))
