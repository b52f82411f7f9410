"""Designs and searches that jobs are tried on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dse
from dse.app.state import State, start

BANDWIDTH, CAPACITY = "cluster.network.inter.bandwidth", "cluster.memory.capacity"
PRICES = [dse.coupling("cluster.accelerator.price", CAPACITY, "30 USD/GB")]
BOTH = ["step_time", "capital"]
KEPT = ("designs.parquet", "front.csv", "best-cluster.yaml", "best-strategy.yaml")


def _small() -> State:
    """A design with a field of hardware set by hand, and a lock."""
    opened = start("gpt-1.7b", "dgx-a100", "tp=2,pp=2,global_batch=256,zero_stage=1", devices=64, seed=3)
    return opened.set("cluster.node.accelerator.memory.bandwidth", "1.7 TB/s").lock("strategy.tp")


def _large() -> State:
    """A design with 25,000 strategies: a search of some seconds."""
    return start("gpt3-175b", "dgx-a100", "tp=8,pp=8,global_batch=1536,zero_stage=1", devices=1024, seed=3)


STATE, LARGE = _small(), _large()


def grid(steps: int) -> list[Any]:
    return [dse.span(BANDWIDTH, "5 GB/s", "100 GB/s", steps=steps), dse.span(CAPACITY, "20 GB", "160 GB", steps=steps)]


def ranges() -> list[Any]:
    return [dse.span(BANDWIDTH, "5 GB/s", "100 GB/s"), dse.span(CAPACITY, "20 GB", "160 GB")]


def here(state: State, variables: list[Any], **how: Any) -> dse.SearchResult:
    """The same search as a user writes it, in this process."""
    specs: Any = state.design.specs
    base = {lock.removeprefix("strategy."): state.get(lock) for lock in state.locks}
    return dse.search(
        specs["model"], specs["cluster"], variables, devices=state.design.devices,
        global_batch=state.design.strategy.global_batch, base=base, seed=3, couplings=PRICES, **how,
    )  # fmt: skip


def until(true: Callable[[], Any], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "this takes too long"
        time.sleep(0.01)


def lives(pid: int) -> bool:
    """A process that is not merely waiting to be asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in KEPT}
