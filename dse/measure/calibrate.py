"""Constants of the measured device, fitted to its tables, and the accelerator file that carries them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    import pandas as pd

    from dse.measure.tables import Tables

SIXTEEN = ("bf16", "fp16", "fp32")  # the type whose products give ``matrix``: the first that was measured
# Constant, start, lowest and highest value. Wide: a CPU starts kernels slower, and untuned code falls far short.
SURFACE = {
    "matrix": (0.8, 0.05, 1.0),
    "small_tile": (0.8, 0.2, 1.0),
    "k_overhead": (100.0, 0.1, 5000.0),
    "launch": (3e-6, 1e-7, 1e-3),
}
PRIOR = 0.01  # pull towards the start, in relative errors: keeps a constant that no point depends on where it was
LARGE = 4  # copies of at least so many times the cache show the memory's bandwidth


def fit(folder: Path | str) -> dict[str, Any]:
    """Fit the efficiency constants of a measured device and write ``accelerator.yaml`` and ``cluster.yaml`` beside.

    The peaks are the catalogue's; for a device that is not in it, its own fastest product and copy. Constants whose
    kernels were not measured are left out.

    Args:
        folder: what ``dse measure`` wrote.

    Returns:
        ``device``, ``base`` (catalogue id or None), ``peaks`` in FLOP/s and B/s, ``efficiency`` (fields of
        :class:`dse.spec.hardware.Efficiency`), ``errors`` (median and 90th percentile of the relative error of the
        products by type), ``points`` used, ``notes`` and ``files``.

    Raises:
        SpecError: no measurements, or too few of them.
    """
    from dse.measure.files import write_files
    from dse.measure.tables import load

    tables = load(folder)
    peaks, found = device_peaks(tables), _Found()
    found.efficiency["tiles"] = True
    _fit_memory(tables, peaks, found)
    _fit_products(tables, peaks, found)
    _fit_attention(tables, peaks, found)
    if len(found.efficiency) == 1:
        raise SpecError([Fault("folder", str(folder)[:200], "has too few points to fit anything")])
    absent = [name for name in ("matrix", "memory", "attention", "attention_backward") if name not in found.efficiency]
    if absent:
        kept = "as in the catalogue" if tables.device["catalogue"] else "ideal (1)"
        found.notes.append(f"not measured, so {kept}: {', '.join(absent)}")
    files = write_files(Path(folder), tables, peaks, found.efficiency)
    return {
        "device": tables.device["gpu"],
        "base": tables.device["catalogue"],
        "peaks": peaks,
        "efficiency": found.efficiency,
        "errors": found.errors,
        "points": found.points,
        "notes": found.notes,
        "files": [str(file) for file in files],
    }


class _Found:
    """What a fit collects."""

    def __init__(self) -> None:
        self.efficiency: dict[str, Any] = {}
        self.errors: dict[str, dict[str, float]] = {}
        self.points: dict[str, int] = {}
        self.notes: list[str] = []

    def take(self, name: str, value: float, points: int) -> None:
        """Keep a fraction; the model knows none above one (a peak stated too low gives such values)."""
        if value > 1.0:
            self.notes.append(f"{name} came out as {value:.3g} and was set to 1")
        self.efficiency[name], self.points[name] = _digits(min(value, 1.0)), points


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def device_peaks(tables: Tables) -> dict[str, float]:
    """Peak by data type in FLOP/s, ``bandwidth`` in B/s."""
    from dse.measure.tables import peak_rate
    from dse.spec import load_accelerator

    device, best = tables.device, tables.gemm.groupby("dtype")["tflops"].max()
    if device["catalogue"]:
        peaks = {str(dtype): peak_rate(device, str(dtype)) for dtype in {*best.index, "bf16"}}
        stated = {name: value for name, value in peaks.items() if value}
        return {**stated, "bandwidth": load_accelerator(device["catalogue"]).memory.bandwidth}
    copies = _large_copies(tables)
    if best.empty or copies.empty:
        missing = "gemm" if best.empty else "copy"
        rule = f"has no times of kind {missing}; a device outside the catalogue needs gemm and copy"
        raise SpecError([Fault("folder", "", rule)])
    rates = {str(name): float(value) * 1e12 for name, value in best.items()}
    return {**rates, "bandwidth": float(copies.max()) * 1e9}


def _large_copies(tables: Tables) -> pd.Series:
    """Rates in 1e9 B/s of the copies within the device that no cache can hold (of the largest, if all are small)."""
    kernels = tables.kernels
    copies = kernels[(kernels["kind"] == "copy") & kernels["kernel"].isin(["copy", "triad"])]
    large = copies[copies["bytes"] >= LARGE * tables.device["cache"]]
    return (large if len(large) else copies[copies["bytes"] >= 0.5 * copies["bytes"].max()])["achieved_gbs"]


def _fit_memory(tables: Tables, peaks: Mapping[str, float], found: _Found) -> None:
    copies = _large_copies(tables)
    if len(copies):
        found.take("memory", float(copies.median()) * 1e9 / peaks["bandwidth"], len(copies))


def _fit_products(tables: Tables, peaks: Mapping[str, float], found: _Found) -> None:
    """The surface of 16-bit products (or the next wider type), and the rate alone of fp8 ones."""
    gemm = tables.gemm
    main = next((name for name in SIXTEEN if name in peaks and len(gemm[gemm["dtype"] == name]) >= 6), None)
    if main is None:
        return
    bandwidth = peaks["bandwidth"] * found.efficiency.get("memory", 1.0)
    for dtype in (main, "fp8"):
        rows = gemm[gemm["dtype"] == dtype]
        if len(rows) < 6 or dtype not in peaks:
            continue
        values, errors = fit_surface(rows, peaks[dtype], bandwidth, _hardware(tables))
        if dtype == "fp8":
            found.take("matrix_fp8", values["matrix"], len(rows))
        else:
            found.take("matrix", values["matrix"], len(rows))
            found.efficiency |= {name: _digits(values[name]) for name in ("small_tile", "k_overhead", "launch")}
            found.notes.append(f"matrix, small_tile, k_overhead and launch are those of {dtype} products")
            edge = [name for name, (_, low, high) in SURFACE.items() if not 1.01 * low < values[name] < 0.99 * high]
            if edge:
                found.notes.append(f"at the end of its range, so not pinned down: {', '.join(edge)}")
        size = np.abs(errors)
        found.errors[dtype] = {"median": _digits(np.median(size)), "p90": _digits(np.quantile(size, 0.9))}


def _hardware(tables: Tables) -> tuple[int, float]:
    """Cores and on-chip buffer in B as the model sees them."""
    from dse.spec import load_accelerator

    device = tables.device
    if device["catalogue"]:
        entry = load_accelerator(device["catalogue"])
        return entry.cores, entry.buffer
    return device["cores"], float(device["cache"])


def fit_surface(
    rows: pd.DataFrame, peak: float, bandwidth: float, hardware: tuple[int, float]
) -> tuple[dict[str, float], np.ndarray]:
    """Fit the tile model of :mod:`dse.cost.compute` to measured products of one type.

    Args:
        rows: with ``m``, ``n``, ``k``, ``dtype`` and ``time_us``.
        peak: of the matrix engine in FLOP/s.
        bandwidth: that streaming kernels reach, in B/s.
        hardware: cores, and on-chip buffer in B.

    Returns:
        The constants (launch in s), and the relative error of each product.
    """
    from scipy.optimize import least_squares

    from dse.cost.compute import gemm_traffic, tile_efficiency
    from dse.measure.cases import BYTES
    from dse.spec.workload.op import Gemm

    cores, buffer = hardware
    dtype = str(rows["dtype"].iloc[0])
    m, n, k = (rows[name].to_numpy(float) for name in ("m", "n", "k"))
    seconds = rows["time_us"].to_numpy(float) * 1e-6
    work = Gemm(m, k, n, 1, BYTES[dtype])
    moving = gemm_traffic(m, k, n, BYTES[dtype], buffer) / bandwidth
    cast = 3.0 * m * k / bandwidth if dtype == "fp8" else 0.0  # activations come in bf16

    def errors(point: np.ndarray) -> np.ndarray:
        matrix, small_tile, k_overhead, launch = np.exp(point)
        computing = work.flops / (peak * matrix * tile_efficiency(work, cores, small_tile, k_overhead))
        return np.log((np.maximum(computing, moving) + launch + cast) / seconds)

    start, low, high = np.log(np.array(list(SURFACE.values()))).T
    solved = least_squares(
        lambda point: np.concatenate([errors(point), PRIOR * (point - start)]),
        start,
        bounds=(low - 1e-9, high + 1e-9),
        loss="soft_l1",
        f_scale=0.05,
    )
    values = {name: min(float(v), SURFACE[name][2]) for name, v in zip(SURFACE, np.exp(solved.x), strict=True)}
    return values, np.expm1(errors(solved.x))


def _fit_attention(tables: Tables, peaks: Mapping[str, float], found: _Found) -> None:
    """Rates of the best kernel at long sequences, where neither launches nor the mask's diagonal blocks matter."""
    kernels = tables.kernels
    rows = kernels[(kernels["kind"] == "attention") & kernels["dtype"].isin(list(peaks))]
    if rows.empty:
        return
    rows = rows[rows["seq"] >= rows["seq"].max() / 2].assign(causal=lambda r: r["causal"].astype(bool))
    shape = ["dtype", "batch", "heads", "seq", "head_dim", "causal"]
    rates = rows.groupby([*shape, "phase"])["achieved_tflops"].max().unstack("phase") * 1e12
    if "forward" in rates:
        peak = np.array([peaks[dtype] for dtype in rates.index.get_level_values("dtype")])
        shares = (rates["forward"] / peak).dropna()
        found.take("attention", float(shares.median()), len(shares))
    if {"forward", "backward"} <= set(rates):
        ratios = (rates["backward"] / rates["forward"]).dropna()
        if len(ratios):
            found.take("attention_backward", float(ratios.median()), len(ratios))
