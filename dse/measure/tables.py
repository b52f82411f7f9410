"""The tables of a measured folder: ``gemm.parquet`` with the corpus' columns, ``kernels.csv`` with everything else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dse.errors import Fault, SpecError
from dse.measure.cases import SHAPE
from dse.measure.journal import Journal

if TYPE_CHECKING:
    import pandas as pd

TEXT, NUMBER, WHOLE = "str", "float64", "Int64"
# The columns of data/measured/gemm.parquet, in its order; a test holds the two together.
GEMM = {
    "id": TEXT, "source": TEXT, "source_key": TEXT, "verification": TEXT, "gpu": TEXT, "dtype": TEXT, "m": "int64",
    "n": "int64", "k": "int64", "time_us": NUMBER, "tflops": NUMBER, "peak_tflops_ref": NUMBER, "efficiency": NUMBER,
    "derived": TEXT, "notes": TEXT,
}  # fmt: skip
KERNELS = {
    "id": TEXT, "gpu": TEXT, "kind": TEXT, "kernel": TEXT, "dtype": TEXT, "phase": TEXT,
    **dict.fromkeys(SHAPE, WHOLE), "causal": "boolean", "recompute": "boolean", "time_us": NUMBER, "spread": NUMBER,
    "repeats": WHOLE, "bytes": NUMBER, "flops": NUMBER, "achieved_tflops": NUMBER, "achieved_gbs": NUMBER,
    "peak_memory_bytes": NUMBER, "notes": TEXT,
}  # fmt: skip
DICTIONARY = """\
# What the columns of these tables mean. Blank is unknown or does not apply. Units as given here.
gemm:
  about: time of single matrix products C (m x n) = A (m x k) . B (k x n), short runs on one device, cold caches
  columns:
    id: row id
    source: what measured it, and when
    verification: measured, by the command that wrote the table
    gpu: device
    dtype: bf16, fp16, tf32 (fp32 operands on the matrix engine), fp32 or fp8 (e4m3, scaled per tensor)
    m: rows
    n: columns
    k: inner size
    time_us: microseconds, median of the repeats
    tflops: 1e12 FLOP/s
    peak_tflops_ref: dense peak of the device in the catalogue, 1e12 FLOP/s
    efficiency: tflops over peak_tflops_ref
    derived: fields that were computed, not timed
    notes: kernel, spread (interquartile range over median) and repeats
kernels:
  about: time of attention, element-wise kernels, copies, launches, a layer and a whole step
  columns:
    kind: attention, elementwise, copy, launch, layer or step
    kernel: sdpa and sdpa_cudnn are attention as PyTorch chooses it and by cuDNN; queued and graph are launches
    phase: forward, backward (of all gradients, forward not included), forward_backward or step
    batch: sequences
    heads: attention heads; hidden size = heads x head_dim
    rows: tokens
    width: elements of a row; of layers and steps the width of the gated MLP
    vocab: of the step's model; 0 for a layer
    elements: of the copied tensor
    recompute: activations of each layer are recomputed (torch.utils.checkpoint)
    time_us: microseconds, median of the repeats
    spread: interquartile range over median
    bytes: B, each input read once and each output written once; weights alone for layers, the optimizer's for steps
    flops: FLOP, a multiply-add is two; recomputation does not count, half of attention does under a causal mask
    achieved_tflops: 1e12 FLOP/s
    achieved_gbs: 1e9 B/s
    peak_memory_bytes: B, most that was allocated on the device during the call; blank on a CPU
"""


@dataclass(frozen=True)
class Tables:
    """What a folder holds."""

    gemm: pd.DataFrame
    kernels: pd.DataFrame
    manifest: dict[str, Any]

    @property
    def device(self) -> dict[str, Any]:
        """Description of the device that was measured."""
        return self.manifest["device"]


def load(folder: Path | str) -> Tables:
    """Tables and manifest of a folder; where a run was killed they are made of its journal first.

    Raises:
        SpecError: there are no measurements, or a file is broken.
    """
    import pandas as pd

    folder = Path(folder)
    journal = Journal(folder)
    if len(journal.done) > _rows(folder):
        write(folder, journal)
    elif not (folder / "manifest.json").is_file():
        raise SpecError([Fault("folder", str(folder)[:200], "holds no measurements; run dse measure --out")])
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        gemm = pd.read_parquet(folder / "gemm.parquet")
        kernels = pd.read_csv(folder / "kernels.csv")
        return Tables(gemm.astype(GEMM)[list(GEMM)], kernels.astype(KERNELS)[list(KERNELS)], manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError([Fault("folder", str(folder)[:200], f"is not readable: {error}"[:300])]) from None


def _rows(folder: Path) -> int:
    """Points in the folder's tables; fewer than in the journal where a run was killed."""
    try:
        files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
        return sum(int(file["rows"]) for file in files.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0


def write(folder: Path, journal: Journal) -> None:
    """Write the tables, their dictionary and the manifest, each at once or not at all."""
    from dse.study.export import write_atomically

    gemm, kernels = frames(journal)
    write_atomically(folder / "gemm.parquet", lambda p: gemm.to_parquet(p, index=False, compression="zstd"))
    write_atomically(folder / "kernels.csv", lambda p: kernels.to_csv(p, index=False, lineterminator="\n"))
    write_atomically(folder / "dictionary.yaml", lambda p: _put(p, DICTIONARY))
    # The manifest comes last: where it is, the tables are.
    manifest = _manifest(folder, journal, {"gemm.parquet": len(gemm), "kernels.csv": len(kernels)})
    write_atomically(folder / "manifest.json", lambda p: _put(p, json.dumps(manifest, indent=2) + "\n"))


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def frames(journal: Journal) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The GEMM table and the table of the other kernels."""
    import pandas as pd

    device = journal.device
    done = sorted((point for point in journal.points.values() if "seconds" in point), key=lambda p: p["id"])
    gemm = [_gemm_row(point, device) for point in done if point["kind"] == "gemm"]
    other = [_kernel_row(point, device) for point in done if point["kind"] != "gemm"]
    tables = (pd.DataFrame(gemm, columns=list(GEMM)), pd.DataFrame(other, columns=list(KERNELS)))
    return tables[0].astype(GEMM), tables[1].astype(KERNELS)


def _gemm_row(point: dict[str, Any], device: dict[str, Any]) -> dict[str, Any]:
    seconds, rate = point["seconds"], point["flops"] / point["seconds"]
    peak = peak_rate(device, point["dtype"])
    return {
        "id": f"{device['gpu']}.{point['id']}",
        "source": f"dse measure, torch {device['torch']}, {point['date']}",
        "source_key": "dse-measure",
        "verification": "measured",
        "gpu": device["gpu"],
        "dtype": point["dtype"],
        **point["shape"],
        "time_us": round(seconds * 1e6, 4),
        "tflops": _digits(rate * 1e-12),
        "peak_tflops_ref": peak and peak * 1e-12,
        "efficiency": peak and _digits(rate / peak),
        "derived": "tflops;efficiency" if peak else "tflops",
        "notes": f"{point['note']}; spread {point['spread']:.1%}, {point['repeats']} repeats",
    }


def _kernel_row(point: dict[str, Any], device: dict[str, Any]) -> dict[str, Any]:
    seconds = point["seconds"]
    same = ("kind", "kernel", "dtype", "phase", "repeats", "bytes", "flops", "peak_memory_bytes")
    return {
        **{name: point.get(name) for name in same},
        "id": f"{device['gpu']}.{point['id']}",
        "gpu": device["gpu"],
        **point["shape"],
        **point["options"],
        "time_us": round(seconds * 1e6, 4),
        "spread": round(point["spread"], 4),
        "achieved_tflops": _digits(point["flops"] / seconds * 1e-12) if point["flops"] else None,
        "achieved_gbs": _digits(point["bytes"] / seconds * 1e-9) if point["bytes"] else None,
        "notes": point["note"],
    }


def _digits(value: float) -> float:
    return float(f"{value:.5g}")


def peak_rate(device: dict[str, Any], dtype: str) -> float | None:
    """Dense peak in FLOP/s that the catalogue states for this device and type; None where it states none."""
    if not device.get("catalogue"):
        return None
    from dse.spec import load_accelerator

    entry = load_accelerator(device["catalogue"])
    # Full fp32 products run on the vector units where the matrix engine only has tf32.
    return getattr(entry.matrix, dtype) or (entry.vector.fp32 if dtype == "fp32" else None)


def _manifest(folder: Path, journal: Journal, rows: dict[str, int]) -> dict[str, Any]:
    files = {
        name: {"rows": count, "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}
        for name, count in rows.items()
    }
    failed = {name: point["error"] for name, point in sorted(journal.points.items()) if "seconds" not in point}
    return {"format": 1, "device": journal.device, "runs": journal.runs, "files": files, "failed": failed}
