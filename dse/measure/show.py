"""What a measured folder says, as a table: rates by kernel, and what they are of the peaks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from dse.measure.tables import Tables

BY = ["kind", "kernel", "dtype", "phase"]
HEADERS = ("kind", "kernel", "type", "phase", "points", "fastest", "best TFLOP/s", "best GB/s", "median", "best")


def summary(folder: Path | str) -> dict[str, Any]:
    """Device, and one row a kernel, type and phase: points, least time in s, rates and shares of the peaks.

    ``share_median`` and ``share_best`` are fractions of the peak that limits the kernel: arithmetic for products,
    attention, layers and steps, bandwidth for the rest; of the fastest product and copy where no peak is known.
    """
    from dse.measure.tables import load

    tables = load(folder)
    gemm = tables.gemm.assign(kind="gemm", kernel="matmul", phase="forward", achieved_tflops=tables.gemm["tflops"])
    peaks = _peaks(tables)
    rows = [_row(key, part, peaks) for table in (gemm, tables.kernels) for key, part in table.groupby(BY, sort=False)]
    failed = tables.manifest.get("failed", {})
    return {"device": tables.device, "peaks": peaks, "kernels": rows, "failed": failed}


def _peaks(tables: Tables) -> dict[str, float]:
    from dse.errors import SpecError
    from dse.measure.calibrate import device_peaks

    try:
        return device_peaks(tables)
    except SpecError:  # too little was measured to say: no shares
        return {}


def _row(key: Any, part: pd.DataFrame, peaks: dict[str, float]) -> dict[str, Any]:
    names = dict(zip(BY, (str(value) for value in key), strict=True))
    across_host = names["kernel"] in ("host_to_device", "device_to_host")
    flops, moved = (part.get(name) for name in ("achieved_tflops", "achieved_gbs"))
    computing = flops is not None and flops.notna().any()
    rates, peak = (
        (flops, peaks.get(names["dtype"], 0.0) / 1e12) if computing else (moved, peaks.get("bandwidth", 0) / 1e9)
    )
    known = peak > 0 and rates is not None and rates.notna().any() and not across_host
    return {
        **names,
        "points": len(part),
        "least_time_s": float(part["time_us"].min()) * 1e-6,
        "best_tflops": _best(flops),
        "best_gbs": None if computing else _best(moved),
        "share_median": float(rates.median() / peak) if known else None,
        "share_best": float(rates.max() / peak) if known else None,
    }


def _best(values: pd.Series | None) -> float | None:
    return float(values.max()) if values is not None and values.notna().any() else None


def text(found: dict[str, Any]) -> str:
    """The summary as text, with a table that fits a terminal of 100 columns."""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table

    from dse.units import engineering

    table = Table(box=None, pad_edge=False, header_style="none")
    for place, header in enumerate(HEADERS):
        table.add_column(header, justify="left" if place < 4 else "right", no_wrap=True)
    for row in found["kernels"]:
        shares = (f"{row[name]:.0%}" if row[name] is not None else "" for name in ("share_median", "share_best"))
        rates = (f"{row[name]:.4g}" if row[name] is not None else "" for name in ("best_tflops", "best_gbs"))
        time = engineering(row["least_time_s"], "s")
        table.add_row(*(row[name] for name in BY), str(row["points"]), time, *rates, *shares)
    out = StringIO()
    Console(file=out, width=110, color_system=None).print(table)
    device, peaks = found["device"], found["peaks"]
    units = {name: "B/s" if name == "bandwidth" else "FLOP/s" for name in peaks}
    stated = ", ".join(f"{name} {engineering(value, units[name])}" for name, value in sorted(peaks.items()))
    origin = f"catalogue {device['catalogue']}" if device["catalogue"] else "its own fastest product and copy"
    lines = [f"{device['name']}, torch {device['torch']}, driver {device['driver']}"]
    lines += [f"peaks ({origin}): {stated}" if peaks else "peaks: unknown (measure gemm and copy)", ""]
    lines += [line.rstrip() for line in out.getvalue().rstrip().splitlines()]
    if found["failed"]:
        reasons = sorted({reason[:90] for reason in found["failed"].values()})
        lines += ["", f"{len(found['failed'])} points failed:", *(f"  {reason}" for reason in reasons[:5])]
    return "\n".join(lines)
