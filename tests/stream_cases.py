"""What the tests of streamed sweeps share: a small sweep, its files, and the table as a sweep in memory has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

import dse
from dse.explore.stream import stream

MODEL, CLUSTER, STRATEGY = "gpt3-175b", "dgx-a100", "global_batch=512,zero_stage=1"
AXES = (
    dse.axis("tp", [1, 2, 4, 8]),
    dse.axis("recompute", ["none", "full"]),
    dse.axis("cluster.network.inter.bandwidth", [10, 25, 50], unit="GB/s"),
    dse.axis("pp", [1, 4, 8]),
    dse.axis("sequence_parallel", [False, True]),
    dse.axis("micro_batch", [1, 2]),
)


def small(out: Path, *axes: dse.Axis, **options):
    """A sweep of 288 designs in parts of 30 rows."""
    return stream(MODEL, CLUSTER, STRATEGY, *(axes or AXES), devices=512, out=out, **{"part_rows": 30, **options})


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a table."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".parquet", ".json")}


def make_table(tmp_path_factory):
    """The small sweep."""
    return small(tmp_path_factory.mktemp("sweep") / "out")


def same_as_sweep(found: pd.DataFrame, result: dse.Result) -> None:
    """The rows of a streamed table against those of the sweep in memory."""
    wanted = result.to_dataframe(breakdown=False)
    assert len(found) == len(wanted)
    assert list(found["feasible"]) == list(wanted["feasible"])
    for name in (b.name for b in result.axes):
        head = next(c for c in wanted if c.partition(" [")[0] == name)
        assert [str(v).lower() for v in found[head]] == [str(v).lower() for v in wanted[head]]
    for head in ("step_time [s]", "tokens_per_s [1/s]", "mfu [1]", "memory_bytes [B]", "energy [J]", "cost [USD]"):
        np.testing.assert_allclose(found[head], wanted[head], rtol=1e-12)
    for mine, theirs in zip(found["reasons"], wanted["reasons"], strict=True):
        assert mine == "; ".join(reason.partition(" (")[0] for reason in filter(None, theirs.split("; ")))
