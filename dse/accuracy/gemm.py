"""The GEMM efficiency surface of an accelerator, fitted to measured GEMMs.

Run ``python -m dse.accuracy.gemm`` to refit every accelerator of the shipped table and to see the errors. The values in
``data/accelerators`` are these, rounded; a test holds them together.
"""

from __future__ import annotations

import numpy as np

from dse.accuracy.corpus import measured
from dse.cost.compute import gemm_traffic, tile_efficiency
from dse.spec import Accelerator, load_accelerator
from dse.spec.workload.op import Gemm

ACCELERATORS = {
    "A100-80GB": "a100-80gb-sxm",
    "H100-80GB": "h100-80gb-sxm",
    "H200": "h200-141gb-sxm",
    "B200": "b200-192gb",
    "GB200": "gb200-192gb",
}
STREAMING = 0.85  # of the memory bandwidth, in products that it limits
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
    cast = 3.0 * m * k / bandwidth if fp8 else 0.0
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
