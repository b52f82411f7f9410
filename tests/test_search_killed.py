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
    "--couple", "cluster.accelerator.price ~ cluster.memory.capacity at 30 USD/GB",
]  # fmt: skip
METHODS = {
    "sampled": ["--objective", "step_time", "--objective", "capital", "--trials", "128", "--batch", "16"],
    "proved": ["--objective", "step_time", "--trials", "250"],
}
KEPT = ("designs.parquet", "front.csv", "summary.json")
KILLS = 3


def command(method: str, folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "DSE_CACHE": "off"}
    return subprocess.Popen(
        [*COMMAND, *METHODS[method], "--out", str(folder)], env=environment, stdout=subprocess.DEVNULL
    )


def kept(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in KEPT}


def progress(folder: Path) -> int:
    """Bytes that a search has written so far beside its inputs and its results."""
    sizes = 0
    for path in folder.glob("*"):
        try:
            sizes += path.stat().st_size if path.name not in KEPT else 0
        except FileNotFoundError:  # renamed or removed since it was listed
            continue
    return sizes


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_search_ends_like_an_undisturbed_one(method: str, tmp_path: Path):
    """Each kill comes once the folder has grown by a random part of all that a search writes there."""
    assert command(method, tmp_path / "whole").wait(120) == 0
    whole, folder, draw = progress(tmp_path / "whole"), tmp_path / "killed", random.Random(7)
    killed = 0
    for _ in range(KILLS):
        process, wanted = command(method, folder), progress(folder) + whole * draw.uniform(0.02, 0.3)
        while process.poll() is None and progress(folder) < wanted:
            time.sleep(0.002)
        killed += process.poll() is None
        process.kill()
        process.wait()
    assert killed
    assert command(method, folder).wait(120) == 0
    assert kept(folder) == kept(tmp_path / "whole")
