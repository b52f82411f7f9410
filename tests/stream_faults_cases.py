"""What the tests of sweeps that go wrong share: a sweep in many parts, and its files when nothing happens to it."""

from __future__ import annotations

import time
from pathlib import Path

import dse
from dse.explore.stream import plan_of
from dse.explore.stream.run import carry_out


def make(part_rows: int):
    """A sweep of 2,400 designs."""
    axes = (
        dse.axis("cluster.network.inter.bandwidth", [10, 25, 50, 100, 200], unit="GB/s"),
        dse.axis("tp", [1, 2, 4, 8]),
        dse.axis("pp", [1, 2, 4, 8, 16]),
        dse.axis("micro_batch", [1, 2, 4]),
        dse.axis("zero_stage", [0, 1]),
        dse.axis("overlap_dp", [False, True]),
        dse.axis("overlap_tp", [True, None]),
    )
    return plan_of("gpt3-175b", "dgx-a100", "global_batch=512", *axes, devices=512, part_rows=part_rows)


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a table."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".parquet", ".json")}


def whole(plan, tmp_path_factory) -> dict[str, bytes]:
    """Files of the uninterrupted sweep."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    carry_out(plan, folder)
    return files(folder)


def parts(folder: Path) -> int:
    """Parts that are in place."""
    return len(list(folder.glob("part-*")))


def wait_for_parts(folder: Path, count: int, alive=lambda: True) -> None:
    """Wait until some parts are in place, or until nobody is at work."""
    deadline = time.monotonic() + 60
    while parts(folder) < count and alive() and time.monotonic() < deadline:
        time.sleep(0.002)
