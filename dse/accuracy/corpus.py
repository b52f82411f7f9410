"""Measured training runs as specifications: one table row becomes one design, and many rows one batch of arrays.

The columns are documented in ``data/measured/dictionary.yaml``. A row that the cost model cannot express is refused
with a reason; nothing is guessed silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.spec import Strategy, load_cluster, load_stack
from dse.spec.base import Spec
from dse.spec.catalogue import asset_root
from dse.spec.hardware import Cluster, MatrixPeak
from dse.spec.stack import Stack
from dse.spec.workload import Transformer

if TYPE_CHECKING:
    import pandas as pd

# The cluster that a GPU of the corpus is taken to sit in, unless the row says otherwise.
CLUSTERS = {
    "V100-32GB": "dgx-v100",
    "A100-80GB": "dgx-a100",
    "A100": "dgx-a100",
    "A100-40GB": "dgx-a100-40gb",
    "H100-80GB": "dgx-h100",
    "H200": "dgx-h200",
    "B200": "dgx-b200",
    "GB200": "gb200-nvl72",
}
SHARDING = {"none": 0, "zero1": 1, "zero2": 2, "zero3": 3, "fsdp": 3}
PRECISION = {"bf16": "bf16", "fp16": "fp16", "fp32": "fp32", "fp8": "fp8", "mxfp8": "fp8"}
NUMBERS = (
    "layers",
    "hidden",
    "heads",
    "ffn_hidden",
    "vocab",
    "seq_len",
    "n_gpus",
    "tp",
    "pp",
    "dp",
    "micro_batch",
    "global_batch",
)
# The run's own record of its attention and norm kernels, as the notes write it.
KERNELS = {
    "kernel=flash_attention2": "flash",
    "kernel=flash_attentionv1": "flash1",
    "kernel=fused": "fused",
    "kernel=torch": "unfused",
}
CLASSIC_MEGATRON = (
    "korthikanti22",
    "bigscience-176B",
    "bloom-176B",
    "narayanan-sc21",
    "megatron-2020",
    "megatron-readme-jan21",
    "mt-nlg",
)


@dataclass(frozen=True)
class Run:
    """One measured run: its design, and where it comes from."""

    id: str
    model: Transformer
    cluster: Cluster
    strategy: Strategy
    stack: Stack


@dataclass(frozen=True)
class Batch:
    """Runs of one structure, their specifications merged into arrays with one entry a run."""

    ids: tuple[str, ...]
    specs: dict[str, Any]
    runs: tuple[Run, ...]


def read_table(path: Path | str) -> pd.DataFrame:
    """A table of the corpus, CSV or Parquet; numbers and switches are made so.

    Raises:
        SpecError: the file is missing or not a table with an ``id``.
    """
    import pandas as pd

    path = Path(path)
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except FileNotFoundError:
        raise SpecError([Fault("file", "", "does not exist", str(path))]) from None
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise SpecError([Fault("file", "", f"is not a table: {error}"[:300], str(path))]) from None
    if "id" not in frame.columns:
        raise SpecError([Fault("file", "", "has no column 'id'", str(path))])
    return frame


def measured(name: str) -> pd.DataFrame:
    """A shipped table: ``training``, ``training_oom``, ``training_supplement``, ``gemm`` or ``nccl``."""
    return read_table(asset_root("data") / "measured" / f"{name}.parquet")


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value).strip()


def _number(row: Any, name: str, default: float | None = None) -> float | None:
    value = getattr(row, name, None)
    if value is None or value != value:
        return default
    return float(value)


def _switch(value: Any) -> bool:
    return _text(value).lower() in ("true", "1", "1.0", "yes")


def run_of(row: Any) -> Run:
    """The design of one row.

    Raises:
        SpecError: what the row lacks, or what the cost model cannot express.
    """
    lacking = [name for name in NUMBERS if _number(row, name) is None]
    if lacking:
        raise SpecError(f"blank: {', '.join(lacking)}")
    if _text(row.task) not in ("pretrain", "sft", ""):
        raise SpecError(f"task {_text(row.task)!r} trains only a part of the parameters")
    if _text(row.arch) not in ("dense", ""):
        raise SpecError(f"architecture {_text(row.arch)!r} needs columns the table does not have")
    if _text(row.gpu) not in CLUSTERS:
        raise SpecError(f"GPU {_text(row.gpu)!r} is not in the catalogue")
    if _text(row.precision) not in PRECISION:
        raise SpecError(f"precision {_text(row.precision)!r} is not modelled")
    if _text(row.sharding) not in SHARDING or _text(row.recompute) not in ("none", "selective", "full"):
        raise SpecError("sharding and recompute must be known")
    cluster = load_cluster(CLUSTERS[_text(row.gpu)]).replace(devices=_number(row, "n_gpus"))
    return Run(str(row.id), _model(row), cluster, _strategy(row), load_stack(_stack(row)))


def _stack(row: Any) -> str:
    return "fsdp" if _text(row.sharding) == "fsdp" else "megatron"


def _model(row: Any) -> Transformer:
    gated = _switch(row.gated_mlp)
    classic = _text(row.source_key) in CLASSIC_MEGATRON
    return Transformer.parse(
        {
            "id": "row",
            "layers": _number(row, "layers"),
            "hidden": _number(row, "hidden"),
            "heads": _number(row, "heads"),
            "kv_heads": _number(row, "kv_heads", _number(row, "heads")),
            "head_dim": _number(row, "head_dim", (_number(row, "hidden") or 1) / (_number(row, "heads") or 1)),
            "ffn_hidden": _number(row, "ffn_hidden"),
            "vocab": _number(row, "vocab"),
            "seq_len": _number(row, "seq_len"),
            "gated_mlp": gated,
            "norm": "rms_norm" if gated else "layer_norm",
            "bias": not gated and _text(row.source_key) != "llm-foundry",
            "positions": "rotary" if gated else "learned",
            "tied_embeddings": not gated,
            "dropout": classic,
        }
    )


def _strategy(row: Any) -> Strategy:
    notes, source = _text(row.notes), _text(row.source_key)
    kernel = next((name for mark, name in KERNELS.items() if mark in notes), None)
    default = "fused" if source in CLASSIC_MEGATRON else "flash"
    unfused = kernel is not None and "RMS kernel" not in notes
    return Strategy.parse(
        {
            **{name: _number(row, name) for name in ("tp", "pp", "dp", "micro_batch", "global_batch")},
            "cp": _number(row, "cp", 1),
            "virtual_stages": _number(row, "vpp", 1),
            "sequence_parallel": _switch(row.seq_parallel),
            "recompute": _text(row.recompute),
            "zero_stage": SHARDING[_text(row.sharding)],
            "precision": PRECISION[_text(row.precision)],
            "attention": kernel or default,
            "fused_norm": not unfused,
            "stack": _stack(row),
        }
    )


def batches(frame: pd.DataFrame) -> tuple[list[Batch], dict[str, str]]:
    """All rows of a table as batches, and the reason for each row that is refused."""
    runs: list[Run] = []
    refused: dict[str, str] = {}
    for row in frame.itertuples():
        try:
            runs.append(run_of(row))
        except SpecError as error:
            refused[str(row.id)] = " ".join(str(error).split())[:200]
    return ([merge_runs(runs)] if runs else []), refused


def merge_runs(runs: Sequence[Run]) -> Batch:
    """One batch of runs of the same structure."""
    specs: dict[str, Any] = {
        "model": merged([run.model for run in runs]),
        "cluster": merged([_plain(run.cluster) for run in runs]),
        "strategy": merged([run.strategy for run in runs]),
        "stack": merged([run.stack for run in runs]),
    }
    return Batch(tuple(run.id for run in runs), specs, tuple(runs))


def _plain(cluster: Cluster) -> Cluster:
    """Without what differs in shape between clusters and does not matter here; peaks filled by the nearest type."""
    node = cluster.node
    peaks = node.accelerator.matrix
    sixteen = peaks.bf16 or peaks.fp16
    filled = MatrixPeak.model_construct(**{name: getattr(peaks, name) or sixteen for name in MatrixPeak.model_fields})
    device = node.accelerator.model_copy(update={"matrix": filled})
    dimensions = cluster.network.dimensions
    last = dimensions[-1].model_copy(update={"size": None})
    network = cluster.network.model_copy(update={"dimensions": (*dimensions[:-1], last)})
    update = {"accelerator": device, "expansion": ()}
    return cluster.model_copy(update={"node": node.model_copy(update=update), "network": network})


def merged(specs: Sequence[Spec]) -> Any:
    """Specifications of one class as one whose fields hold arrays (a value that all share stays as it is)."""
    first = specs[0]
    update = {
        name: _merged_values([getattr(spec, name) for spec in specs])
        for name in type(first).model_fields
        if name not in ("id", "name", "sources", "vendor", "year", "published_parameters")
    }
    return first.model_copy(update=update)


def _merged_values(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Spec):
        return merged(values)
    if isinstance(first, tuple):
        return tuple(_merged_values(parts) for parts in zip(*values, strict=True))
    if all(value == first for value in values):
        return first
    return np.array([np.nan if value is None else value for value in values])


def predictable(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows for statistics: successful runs, each configuration once, fully specified."""
    kept = (frame["status"] == "ok") & frame["dup_of"].isna() & frame["fully_specified"].astype(bool)
    return frame[kept].reset_index(drop=True)


def column(frame: pd.DataFrame, name: str, ids: Iterable[str]) -> np.ndarray:
    """A column of a table in the order of these ids."""
    return frame.set_index("id").loc[list(ids), name].to_numpy()
