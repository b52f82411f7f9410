"""The whole command killed in the middle: it goes on from its folder, and ends in the same bytes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [
    sys.executable, "-m", "dse", "search", "--model", "gpt-1.7b", "--cluster", "dgx-a100", "--devices", "64",
    "--global-batch", "256", "--vary", "cluster.network.inter.bandwidth=5..100 GB/s",
    "--vary", "cluster.memory.capacity=20..160 GB", "--budget", "capital <= 2 MUSD",
    "--couple", "cluster.memory.price ~ cluster.memory.capacity at 30 USD/GB",
]  # fmt: skip
METHODS = {
    "sampled": ["--objective", "step_time", "--objective", "capital", "--trials", "128", "--batch", "16"],
    "proved": ["--objective", "step_time", "--trials", "250"],
}


def command(method: str, folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "DSE_CACHE": "off"}
    return subprocess.Popen(
        [*COMMAND, *METHODS[method], "--out", str(folder)], env=environment, stdout=subprocess.DEVNULL
    )


def kept(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("designs.parquet", "front.csv", "summary.json")}


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_search_ends_like_an_undisturbed_one(method: str, tmp_path: Path):
    start = time.monotonic()
    assert command(method, tmp_path / "whole").wait(120) == 0
    alone = time.monotonic() - start
    draw = random.Random(7)
    killed = 0
    for _ in range(4):
        process = command(method, tmp_path / "killed")
        try:
            process.wait(alone * draw.uniform(0.4, 0.95))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
    assert killed
    assert command(method, tmp_path / "killed").wait(120) == 0
    assert kept(tmp_path / "killed") == kept(tmp_path / "whole")
