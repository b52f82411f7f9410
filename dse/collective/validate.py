"""Synthesis held against recorded runs of the public TACOS synthesizer, and against the bounds recorded with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.collective.topology import Topology
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    import pandas as pd

NAMES = {"AllGather": "all_gather", "ReduceScatter": "reduce_scatter", "AllReduce": "all_reduce"}
NEEDED = ("family", "n_npus", "collective", "total_bytes", "tacos_time_us")
ROUNDED = 2e-5  # recorded times have six digits
CASE = ["family", "n_npus", "collective", "total_bytes"]
Report = Callable[[int, int], object]


@dataclass(frozen=True)
class Agreement:
    """Attributes:
    table: one row for each network, collective and size.
    skipped: rows whose network is in no file, by name.
    """

    table: pd.DataFrame
    skipped: dict[str, int]

    def summary(self) -> dict[str, Any]:
        """Counts, ratios to the bounds by collective, and every case slower than the recorded best."""
        table = self.table
        found: dict[str, Any] = {
            "n": len(table),
            "rows": int(table["rows"].sum()) if len(table) else 0,
            "skipped": self.skipped,
            "valid": bool(table["valid"].all()) if len(table) else True,
            "below_bound": int(table["below_bound"].sum()) if len(table) else 0,
            "slower_than_tacos": _names(table[table["to_tacos"] > 1 + ROUNDED]) if len(table) else [],
            "largest_bound_difference": _largest(table["bound_difference"]) if len(table) else None,
        }
        for (collective, nbytes), part in table.groupby(["collective", "total_bytes"]) if len(table) else ():
            found[f"{collective} of {nbytes:.0f} B"] = _ratios(part)
        return found

    def __str__(self) -> str:
        lines = [f"{'':<36}{'NPUs':>6}{'time us':>12}{'/ bound':>9}{'/ recorded':>11}{'/ TACOS':>9}{'made in s':>10}"]
        for row in self.table.to_dict("records"):
            name = f"{row['family']} {row['collective']} {row['total_bytes']:.3g} B"
            lines.append(
                f"{name[:35]:<36}{row['n_npus']:>6}{row['time_us']:>12,.5g}{row['ratio']:>9.3f}"
                f"{row['to_recorded_bound']:>11.3f}{row['to_tacos']:>9.3f}{row['synthesis_s']:>10.3g}"
            )
        summary = self.summary()
        for name, value in summary.items():
            if isinstance(value, dict) and "max_ratio" in value:
                text = f"at most {value['max_ratio']:.3f}, geometric mean {value['mean_ratio']:.3f}"
                lines.append(f"{name}: {text} times the bound of {value['n']} networks")
        slower = summary["slower_than_tacos"]
        lines.append(f"slower than the recorded best: {len(slower)}{': ' if slower else ''}{', '.join(slower[:12])}")
        lines.append(f"below a bound: {summary['below_bound']}; all valid: {'yes' if summary['valid'] else 'NO'}")
        if self.skipped:
            lines.append(f"without a file of links: {', '.join(f'{k} ({v} rows)' for k, v in self.skipped.items())}")
        return "\n".join(lines)


def _names(table: pd.DataFrame) -> list[str]:
    return [f"{r['family']}_{r['n_npus']} {r['collective']} {r['total_bytes']:.0f} B" for r in table.to_dict("records")]


def _largest(values: pd.Series[float]) -> float | None:
    return None if values.isna().all() else float(values.max())


def _ratios(part: pd.DataFrame) -> dict[str, Any]:
    """Ratios to our own bound, to the recorded one, and to the recorded times: maximum and geometric mean."""
    found: dict[str, Any] = {"n": len(part)}
    for name, column in (
        ("ratio", "ratio"),
        ("ratio_to_recorded_bound", "to_recorded_bound"),
        ("to_tacos", "to_tacos"),
    ):
        values = part[column].dropna()
        found[f"max_{name}"] = float(values.max()) if len(values) else None
        found[f"mean_{name}"] = float(np.exp(np.log(values).mean())) if len(values) else None
    if "symmetric" in part:
        for kind, some in part.groupby("symmetric"):
            label = "symmetric" if kind else "asymmetric"
            found[f"max_ratio_{label}"] = float(some["to_recorded_bound"].max())
    found["max_synthesis_s"] = float(part["synthesis_s"].max())
    return found


def validate(
    file: Path | str, topologies: Path | str | None = None, *, seeds: int = 4, progress: Report | None = None
) -> Agreement:
    """Synthesize what each row of a table names, once for each network, collective and size.

    Args:
        file: CSV or Parquet with the columns of the recorded runs; the bounds in it are optional.
        topologies: folder of ``FAMILY_NPUS.txt``; None: the shipped networks.
        seeds: tries of what is random.
        progress: called with the cases done and in all.

    Raises:
        SpecError: the table lacks a column, names an unknown collective, or the folder does not exist.
    """
    import pandas as pd

    from dse.simulate.compat.validate import table as read

    runs = read(file)
    missing = [name for name in NEEDED if name not in runs]
    if missing:
        raise SpecError([Fault("columns", ", ".join(missing), "must be in the table", str(file)[-80:])])
    wrong = sorted(set(runs["collective"]) - set(NAMES))
    if wrong:
        raise SpecError([Fault("collective", str(wrong[0]), f"must be one of {', '.join(NAMES)}", str(file)[-80:])])
    networks = _Networks(topologies)
    cases = list(runs.groupby(CASE, sort=True))
    rows, skipped = [], {}
    for done, (case, part) in enumerate(cases):
        network = networks.find(case[0], int(case[1]))
        if network is None:
            name = f"{case[0]}_{case[1]}"
            skipped[name] = skipped.get(name, 0) + len(part)
        else:
            rows.append(_case(case, part, network, seeds))
        if progress is not None:
            progress(done + 1, len(cases))
    return Agreement(pd.DataFrame(rows), skipped)


class _Networks:
    """Networks by family and number of NPUs."""

    def __init__(self, folder: Path | str | None) -> None:
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None and not self.folder.is_dir():
            raise SpecError([Fault("topologies", str(folder)[-80:], "must be a folder of FAMILY_NPUS.txt")])
        self.known: dict[tuple[str, int], Topology | None] = {}
        if self.folder is None:
            from dse.collective.files import reference_topologies

            self.known.update(reference_topologies())

    def find(self, family: str, npus: int) -> Topology | None:
        """None where there is no file of it."""
        if (family, npus) not in self.known:
            from dse.collective.files import load

            path = self.folder / f"{family}_{npus}.txt" if self.folder is not None else None
            self.known[family, npus] = load(path) if path is not None and path.is_file() else None
        return self.known[family, npus]


def _case(case: tuple[Any, ...], part: pd.DataFrame, network: Topology, seeds: int) -> dict[str, Any]:
    from dse.collective.synthesis import synthesize

    family, npus, collective, nbytes = case
    found = synthesize(network, NAMES[collective], float(nbytes), seeds=seeds)
    microseconds = found.time * 1e6
    recorded = _recorded(part, collective)
    causal = part["tacos_causal_time_us"] if "tacos_causal_time_us" in part else part["tacos_time_us"]
    sound = part.get("causality_violations", 0) == 0
    best = float(causal.where(causal.notna(), part["tacos_time_us"].where(sound)).min())
    own = found.bound
    bandwidth = own.bandwidth * 1e6
    row = {
        "family": family, "n_npus": int(npus), "collective": NAMES[collective], "total_bytes": float(nbytes),
        "rows": len(part), "time_us": microseconds, "algorithm": found.schedule.algorithm,
        "chunks": len(found.schedule.chunks.size), "valid": found.valid, "bound_us": found.bound_seconds * 1e6,
        "ratio": found.ratio, "recorded_bound_us": recorded, "to_recorded_bound": microseconds / recorded,
        "tacos_us": best, "to_tacos": microseconds / best, "synthesis_s": found.seconds,
        "below_bound": bool(microseconds < max(bandwidth, own.any * 1e6) * (1 - 1e-9)),
        "bound_difference": _difference(part, collective, bandwidth),
    }  # fmt: skip
    if "symmetric" in part:
        row["symmetric"] = bool(part["symmetric"].iloc[0])
    return row


def _recorded(part: pd.DataFrame, collective: str) -> float:
    """The recorded bound with one chunk for each NPU: of any algorithm for an all-reduce."""
    name = "lb_allreduce_any_alpha_us" if collective == "AllReduce" else "lb_us"
    return float(part[name].min()) if name in part else float("nan")


def _difference(part: pd.DataFrame, collective: str, bandwidth: float) -> float:
    """How far our bandwidth bound is from the recorded one, relative."""
    name = "lb_allreduce_any_us" if collective == "AllReduce" else "lb_bw_us"
    if name not in part or part[name].isna().all():
        return float("nan")
    return abs(bandwidth / float(part[name].min()) - 1.0)
