"""The GEMM efficiency surface of an accelerator, fitted to measured GEMMs.

Run ``python -m dse.accuracy.gemm`` to refit every accelerator of the shipped table and to see the errors. The values in
``data/accelerators`` are these, rounded; a test holds them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.accuracy.corpus import measured, numeric, read_table
from dse.accuracy.report import GroupedReport
from dse.cost.compute import gemm_traffic, tile_efficiency
from dse.errors import Fault, SpecError
from dse.spec import Accelerator, load_accelerator
from dse.spec.workload.op import Gemm

if TYPE_CHECKING:
    import pandas as pd

ACCELERATORS = {
    "A100-80GB": "a100-80gb-sxm",
    "H100-80GB": "h100-80gb-sxm",
    "H200": "h200-141gb-sxm",
    "B200": "b200-192gb",
    "GB200": "gb200-192gb",
}
# Also in the tables: predicted from their generation or as the part with the same chip.
OTHERS = {
    "A100": "a100-80gb-sxm",
    "A100-40GB": "a100-40gb-sxm",
    "H100": "h100-80gb-sxm",
    "B300": "b300-288gb",
    "GB300": "gb300-288gb",
    "H800": "h800-80gb-sxm",
    "H20": "h20-96gb",
    "L40S": "l40s-48gb",
    "MI300X": "mi300x-192gb",
    "V100-16GB": "v100-16gb-sxm",
    "V100-32GB": "v100-32gb-sxm",
}
DTYPES = {"bf16": "bf16", "bfloat16": "bf16", "fp16": "bf16", "float16": "bf16", "fp8": "fp8"}
NEEDED = ("id", "source_key", "gpu", "dtype", "m", "n", "k", "time_us")
STREAMING = 0.85  # of the memory bandwidth, in products that it limits
# Start-up of the kernels that scale and cast the activations in the table's FP8 rows: what its smallest FP8 products
# take longer than those in 16 bit, on every GPU.
CASTING = 1e-5
# Fraction of the peak of whole tiles, rate of 64-column tiles, extra k steps of a tile, start-up time in seconds.
NAMES = ("matrix", "small_tile", "k_overhead", "launch")
START = (0.8, 0.8, 100.0, 3e-6)
LOW = (0.3, 0.4, 1.0, 1e-7)
HIGH = (1.0, 1.0, 2000.0, 5e-5)


def gemm_time(device: Accelerator, values: np.ndarray, shape: tuple[np.ndarray, ...], *, fp8: bool) -> np.ndarray:
    """Seconds of products of shape (m, n, k) with these constants; the FP8 kernels cast their activations first."""
    m, n, k = shape
    matrix, small_tile, k_overhead, launch = values
    element, peak = (1, device.matrix.fp8) if fp8 else (2, device.matrix.bf16)
    work = Gemm(m, k, n, 1, element)
    rate = (peak or 1.0) * matrix * tile_efficiency(work, device.cores, small_tile, k_overhead)
    bandwidth = device.memory.bandwidth * STREAMING
    traffic = gemm_traffic(m, k, n, element, device.buffer)
    cast = CASTING + 3.0 * m * k / bandwidth if fp8 else 0.0
    return np.maximum(work.flops / rate, traffic / bandwidth) + launch + cast


def fit_gemm(gpu: str, dtype: str) -> tuple[dict[str, float], np.ndarray]:
    """Fit one accelerator and data type.

    Returns:
        The constants, and the relative error of each measured product.
    """
    from scipy.optimize import least_squares

    table = measured("gemm")
    table = table[(table["gpu"] == gpu) & (table["dtype"] == dtype)]
    device, fp8 = load_accelerator(ACCELERATORS[gpu]), dtype == "fp8"
    shape = tuple(table[name].to_numpy(float) for name in ("m", "n", "k"))
    seconds = table["time_us"].to_numpy(float) * 1e-6

    def residuals(point: np.ndarray) -> np.ndarray:
        return np.log(gemm_time(device, np.exp(point), shape, fp8=fp8) / seconds)

    bounds = (np.log(LOW), np.log(HIGH))
    found = least_squares(residuals, np.log(START), bounds=bounds, loss="soft_l1", f_scale=0.05)
    values = {name: float(v) for name, v in zip(NAMES, np.exp(found.x), strict=True)}
    return values, np.expm1(residuals(found.x))


class GemmReport(GroupedReport):
    """Measured matrix products against predictions."""

    what = "the time of a matrix product"
    groups = ("source", "gpu", "dtype", "size")


def validate_gemm(path: Path | str | None = None) -> GemmReport:
    """Predict every usable row of a table of matrix products (by default the shipped one) with the catalogue's values.

    Args:
        path: CSV or Parquet with the columns of the shipped table.

    Raises:
        SpecError: the table cannot be read or lacks columns.
    """
    import pandas as pd

    frame = measured("gemm") if path is None else read_table(path)
    frame = numeric(frame, ("m", "n", "k", "time_us"))
    lacking = [name for name in NEEDED if name not in frame.columns]
    if lacking:
        raise SpecError([Fault("file", "", f"lacks the columns {', '.join(lacking)}", str(path))])
    refused: dict[str, str] = {}
    for row in frame.to_dict("records"):
        why = _refusal(row)
        if why:
            refused[str(row["id"])] = why
    known = frame[~frame["id"].astype(str).isin(refused)]
    parts = [_predicted(part, str(gpu), str(dtype)) for (gpu, dtype), part in known.groupby(["gpu", "dtype"])]
    empty = pd.DataFrame({name: [] for name in ("id", *GemmReport.groups, "error", "reason")})
    return GemmReport(pd.concat(parts, ignore_index=True) if parts else empty, refused)


def _refusal(row: Mapping[str, Any]) -> str:
    """Why a row cannot be predicted; empty where it can."""
    gpu, dtype = str(row["gpu"]), DTYPES.get(str(row["dtype"]))
    name = ACCELERATORS.get(gpu) or OTHERS.get(gpu)
    if name is None:
        return f"unknown GPU {gpu}"
    if dtype is None:
        return f"no constants for data type {row['dtype']}"
    if dtype == "fp8" and not load_accelerator(name).matrix.fp8:
        return f"{gpu} has no FP8 matrix engine"
    numbers = np.array([row[key] for key in ("m", "n", "k", "time_us")], dtype=float)
    if not (np.isfinite(numbers).all() and (numbers > 0).all()):
        return "shape or time is missing or not positive"
    return ""


def _predicted(part: pd.DataFrame, gpu: str, dtype: str) -> pd.DataFrame:
    """Rows of one GPU and data type with their predictions."""
    import pandas as pd

    device, fp8 = load_accelerator(ACCELERATORS.get(gpu) or OTHERS[gpu]), DTYPES[dtype] == "fp8"
    limits = device.efficiency
    peak = (limits.matrix_fp8 or limits.matrix) if fp8 else limits.matrix
    values = np.array([peak, limits.small_tile, limits.k_overhead, limits.launch])
    m, n, k = (part[name].to_numpy(float) for name in ("m", "n", "k"))
    seconds = part["time_us"].to_numpy(float) * 1e-6
    predicted = gemm_time(device, values, (m, n, k), fp8=fp8)
    shapes = [f"{gpu} {dtype}, {int(a)} x {int(b)} x {int(c)}" for a, b, c in zip(m, n, k, strict=True)]
    sizes = [_size_class(flops) for flops in 2.0 * m * n * k]
    return pd.DataFrame({
        "id": part["id"].astype(str).to_numpy(), "source": part["source_key"].astype(str).to_numpy(), "gpu": gpu,
        "dtype": dtype, "size": sizes, "measured [s]": seconds, "predicted [s]": predicted,
        "error": predicted / seconds - 1.0,
        "reason": [f"{shape}: {_reason(size, gpu)}" for shape, size in zip(shapes, sizes, strict=True)],
    })  # fmt: skip


def _size_class(flops: float) -> str:
    limits = ((1e10, "1: up to 10 GFLOP"), (1e11, "2: up to 100 GFLOP"), (1e12, "3: up to 1 TFLOP"))
    return next((name for limit, name in limits if flops <= limit), "4: above 1 TFLOP")


def _reason(size: str, gpu: str) -> str:
    """What may explain an error of a product of this size."""
    inherited = "" if gpu in ACCELERATORS else "; constants inherited within the generation"
    if size.startswith("1"):
        return "a few microseconds, of which start-up is much" + inherited
    return "the library chose another tiling than the surface expects" + inherited


def main() -> None:
    """Refit and print."""
    import sys

    for gpu in ACCELERATORS:
        for dtype in ("bf16", "fp8"):
            if gpu.startswith("A100") and dtype == "fp8":
                continue
            values, errors = fit_gemm(gpu, dtype)
            shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            size = np.abs(errors)
            line = f"{gpu:<10} {dtype:<5} {shown}; error median {np.median(size):.1%}, P90 {np.quantile(size, 0.9):.1%}"
            sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
