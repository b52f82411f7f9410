"""The whole command killed in the middle: it goes on from its folder, and ends in the same bytes."""

from __future__ import annotations

import os
import random
import signal
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
KILLS = 4


def command(method: str, folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "DSE_CACHE": "off"}
    return subprocess.Popen(
        [*COMMAND, *METHODS[method], "--out", str(folder)], env=environment, stdout=subprocess.DEVNULL
    )


def kept(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("designs.parquet", "front.csv", "summary.json")}


def written(folder: Path) -> tuple[int, ...]:
    """When the files were last changed that answers and trials are kept in; empty before there are any."""
    files = (folder / name for name in ("answers.sqlite", "search.journal"))
    return tuple(path.stat().st_mtime_ns for path in files if path.exists())


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_search_ends_like_an_undisturbed_one(method: str, tmp_path: Path):
    """Each kill comes once a random number of writes has been seen, so that it meets a search at work."""
    assert command(method, tmp_path / "whole").wait(120) == 0
    folder, draw, killed = tmp_path / "killed", random.Random(7), 0
    for _ in range(KILLS):
        before, writes, wanted = written(folder), 0, draw.randint(1, 8)
        process = command(method, folder)
        while process.poll() is None and writes < wanted:
            now = written(folder)
            writes, before = writes + (now != before), now
            time.sleep(0.001)
        process.kill()
        killed += process.wait() == -signal.SIGKILL
    assert killed
    assert command(method, folder).wait(120) == 0
    assert kept(folder) == kept(tmp_path / "whole")
