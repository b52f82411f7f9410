"""Layer costs held against recorded ones of the fork of MAESTRO that XRBench ships."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.xr.analysis import layer_costs
from dse.domains.xr.dataflow import load_dataflow
from dse.domains.xr.layer import COLUMNS, layer
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    import pandas as pd

MACHINE = ("num_pes", "noc_bw", "dataflow")
RECORDED = {"latency": "latency_cycles", "energy": "energy_nJ"}
REQUIREMENT = "l2_req_elems"
_EQUAL = 1e-9  # energies are recorded as decimal fractions of a double


@dataclass(frozen=True)
class LayerAgreement:
    """Attributes:
    table: the rows as given, with what was computed and its absolute relative errors (``latency_ape``, ...).
    """

    table: pd.DataFrame

    def summary(self) -> dict[str, Any]:
        """Errors of latency and energy: median, 95th percentile, worst, and the fraction of rows that are equal.

        ``median_ape`` and ``p95_ape`` at the top are those of the worse of the two.
        """
        found: dict[str, Any] = {"n": len(self.table)}
        errors = {name: _errors(self.table[f"{name}_ape"]) for name in RECORDED}
        for key in ("median_ape", "p95_ape"):
            values = [e[key] for e in errors.values() if e[key] is not None]
            found[key] = max(values) if values else None
        found |= errors
        if REQUIREMENT in self.table:
            equal = self.table[REQUIREMENT] == self.table["l2_required"]
            found["l2_requirement_exact_fraction"] = float(equal.mean()) if len(equal) else None
        found["by_dataflow"] = {
            str(flow): {name: _errors(part[f"{name}_ape"]) for name in RECORDED}
            for flow, part in self.table.groupby("dataflow")
        }
        return found

    def __str__(self) -> str:
        summary = self.summary()
        lines = [f"{summary['n']} layer costs", f"{'':<14}{'median':>10}{'95 %':>10}{'worst':>10}{'equal':>9}"]
        rows = {name: summary[name] for name in RECORDED}
        rows |= {f"{flow} {name}": errors[name] for flow, errors in summary["by_dataflow"].items() for name in RECORDED}
        for name, e in rows.items():
            if e["median_ape"] is not None:
                lines.append(
                    f"{name:<14}{e['median_ape']:>10.3%}{e['p95_ape']:>10.3%}{e['worst_ape']:>10.3%}"
                    f"{e['exact_fraction']:>9.2%}"
                )
        return "\n".join(lines)


def validate_layers(file: Path | str | None = None) -> LayerAgreement:
    """Compute the cost of every row of a table of recorded layer costs.

    Args:
        file: CSV or Parquet with columns K, C, R, S, Y, X, num_pes, noc_bw (elements per cycle), dataflow,
            latency_cycles, energy_nJ and, where recorded, l2_req_elems and groups. None: the shipped table.

    Raises:
        SpecError: the file cannot be read, lacks a column, or holds what no layer or machine can have.
    """
    from dse.simulate.compat.validate import table as read
    from dse.spec.catalogue import asset_root

    path = file or asset_root("data") / "reference" / "xrbench" / "layer_costs_unique.parquet"
    rows = read(path).reset_index(drop=True)
    missing = [name for name in (*COLUMNS, *MACHINE, *RECORDED.values()) if name not in rows]
    if missing:
        raise SpecError([Fault("columns", ", ".join(missing), "must be in the table", str(path)[-80:])])
    found = rows.assign(latency=0, energy=0.0, l2_required=0)
    for flow, part in rows.groupby("dataflow", dropna=False):
        groups = part["groups"].to_numpy() if "groups" in part else 1
        layers = layer(*(part[name].to_numpy() for name in COLUMNS), groups)
        costs = layer_costs(layers, load_dataflow(str(flow)), part["num_pes"].to_numpy(), part["noc_bw"].to_numpy())
        found.loc[part.index, "latency"] = costs.latency
        found.loc[part.index, "energy"] = 1e9 * costs.energy
        found.loc[part.index, "l2_required"] = costs.l2_required
    for name, column in RECORDED.items():
        recorded = _numbers(found, column, path)
        found[f"{name}_ape"] = np.abs(found[name] - recorded) / np.maximum(np.abs(recorded), 1e-300)
    return LayerAgreement(found)


def _numbers(rows: pd.DataFrame, column: str, path: Path | str) -> pd.Series[float]:
    import pandas as pd

    numbers = pd.to_numeric(rows[column], errors="coerce")
    bad = ~(np.isfinite(numbers) & (numbers > 0))
    if bad.any():
        shown = str(rows[column][bad].iloc[0])[:40]
        raise SpecError([Fault(column, shown, "must be a positive number", f"{str(path)[-80:]}, row {bad.idxmax()}")])
    return numbers


def _errors(ape: pd.Series[float]) -> dict[str, float | None]:
    if not len(ape):
        return dict.fromkeys(("median_ape", "p95_ape", "worst_ape", "exact_fraction"))
    return {
        "median_ape": float(ape.median()),
        "p95_ape": float(ape.quantile(0.95)),
        "worst_ape": float(ape.max()),
        "exact_fraction": float((ape <= _EQUAL).mean()),
    }
