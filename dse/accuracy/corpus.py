"""Tables of measured runs, and many runs merged into one batch of arrays that is priced at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.accuracy.runs import Run, runs_of
from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.catalogue import asset_root
from dse.spec.hardware import Cluster, MatrixPeak, VectorPeak

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Batch:
    """Runs of one structure, their specifications merged into arrays with one entry a run."""

    ids: tuple[str, ...]  # of the rows; repeated where a row may stand for several designs
    specs: dict[str, Any]
    runs: tuple[Run, ...]


def read_table(path: Path | str) -> pd.DataFrame:
    """A table of the corpus, CSV or Parquet, as it stands in the file.

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


def numeric(frame: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """The table with these columns as numbers; what is none becomes blank."""
    import pandas as pd

    present = [name for name in columns if name in frame.columns]
    return frame.assign(**{name: pd.to_numeric(frame[name], errors="coerce").astype(float) for name in present})


def measured(name: str) -> pd.DataFrame:
    """A shipped table: ``training``, ``training_oom``, ``training_supplement``, ``gemm`` or ``nccl``."""
    return read_table(asset_root("data") / "measured" / f"{name}.parquet")


def batches(frame: pd.DataFrame) -> tuple[list[Batch], dict[str, str]]:
    """All rows of a table as batches, and the reason for each row that is refused.

    A row that leaves something blank stands in its batch several times, once for each design it may stand for.
    """
    groups: dict[Any, list[Run]] = {}
    refused: dict[str, str] = {}
    for row in frame.itertuples():
        try:
            runs = runs_of(row)
        except SpecError as error:
            refused[str(row.id)] = " ".join(str(error).split())[:200]
            continue
        groups.setdefault(_structure(runs[0]), []).extend(runs)
    return [merge_runs(runs) for runs in groups.values()], refused


def _structure(run: Run) -> tuple[Any, ...]:
    """What must agree for runs to be merged into arrays: which operators and network dimensions there are."""
    moe, latent, network = run.model.moe, run.model.latent, run.cluster.network
    experts = (moe.interval, moe.dense_layers > 0, moe.shared_hidden > 0) if moe else None
    low_rank = latent.query_rank > 0 if latent else None
    return experts, low_rank, len(network.dimensions), network.sizing, network.pipeline_chunks is None


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
    vector = node.accelerator.vector
    plain = vector.fp32 or vector.bf16 or vector.fp16 or vector.fp64 or sixteen
    vector = VectorPeak.model_construct(**{name: getattr(vector, name) or plain for name in VectorPeak.model_fields})
    reached = node.accelerator.efficiency
    narrow = {name: getattr(reached, name) or reached.matrix for name in ("matrix_fp8", "matrix_fp4")}
    reached = reached.model_copy(update=narrow)
    device = node.accelerator.model_copy(update={"matrix": filled, "vector": vector, "efficiency": reached})
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
