"""VEGETA: matrix engines of a core that run N:M sparse tiles (Jeong et al., HPCA 2023)."""

from __future__ import annotations

from dse.lazy import lazily

_HOME = {
    "Engine": "engine",
    "Timing": "timing",
    "assemble": "asm",
    "convolve": "kernels",
    "engines": "engine",
    "layers": "workloads",
    "load_engine": "engine",
    "matmul": "kernels",
    "pack": "cover",
    "simulate": "timing",
    "time_gemm": "timing",
    "to_accelerator": "accelerator",
}

__all__ = [
    "Engine", "Timing", "assemble", "convolve", "engines", "layers", "load_engine", "matmul", "pack",
    "simulate", "time_gemm", "to_accelerator",
]  # fmt: skip

__getattr__ = lazily(__name__, _HOME)
