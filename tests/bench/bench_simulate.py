"""Speed of the simulators: collectives on many devices, a Transformer trace on 64 ranks, folding against all ranks.

Run: python tests/bench/bench_simulate.py. Compiled code is warmed up first. Beside the figures stand those recorded from
the public ASTRA-sim (two cores of another machine, so the ratios to them are a guide; those within this run hold anywhere).
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dse
from dse.simulate import System, collective, compat, dimension, simulate
from dse.trace import generate, load, save

# Recorded: CPU seconds and MB of ASTRA-sim.
TORUS = ("3-D torus 16x32x32, all-reduce 1 MiB", 29.2, 824)
SWITCHES = ("switches 128x128, all-reduce 1 GiB", 19.9, 1874)
TRANSFORMER = ("64 ranks x 5,224 nodes", 17.8, 464)
SYSTEM = {"endpoint-delay": 10, "local-mem-bw": 1600, "collective-optimization": "localBWAware",
          "preferred-dataset-splits": 1}  # fmt: skip
GIB = 2**30


def cpu(work: Callable[[], Any], repeats: int = 3) -> float:
    """Least CPU seconds of some repeats, after one that compiles and fills caches."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def show(what: str, seconds: float, recorded: tuple[str, float, float] | None = None) -> None:
    """One line."""
    beside = (
        f"   ASTRA-sim recorded {recorded[1]:.1f} s, {recorded[2]:,} MB: {recorded[1] / seconds:,.0f}x"
        if recorded
        else ""
    )
    print(f"{what:<62}{seconds * 1e3:>12,.2f} ms CPU{beside}")


def compatible(topology: str, sizes: list[int], algorithm: str, size: int) -> Callable[[], Any]:
    """A collective with the public simulator's semantics."""
    n = len(sizes)
    network = {"topology": [topology] * n, "npus_count": sizes, "bandwidth": [100.0] * n, "latency": [500.0] * n}
    system = SYSTEM | {f"{k}-implementation": [algorithm] * n
                       for k in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")}  # fmt: skip
    return lambda: compat.collective(network, system, "all_reduce", size)


def physical(topology: str, sizes: list[int], size: int) -> Callable[[], Any]:
    """The same on physical links."""
    system = System(
        tuple(dimension(topology, 100e9, name=f"d{i}", latency=5e-7) for i in range(len(sizes))), tuple(sizes)
    )
    return lambda: collective("all_reduce", size, system, record=False)


def collectives() -> None:
    show(f"compat, {TORUS[0]}", cpu(compatible("Ring", [16, 32, 32], "ring", 2**20)), TORUS)
    show(f"compat, {SWITCHES[0]}", cpu(compatible("Switch", [128, 128], "halvingDoubling", GIB)), SWITCHES)
    show(f"physical, {TORUS[0]}", cpu(physical("ring", [16, 32, 32], 2**20)), TORUS)
    show(f"physical, {SWITCHES[0]}", cpu(physical("switch", [128, 128], GIB)), SWITCHES)
    show("physical, a million devices, torus 64x128x128, all-reduce 1 GiB", cpu(physical("ring", [64, 128, 128], GIB)))
    show(
        "compat, a million NPUs, torus 64x128x128, all-reduce 1 GiB",
        cpu(compatible("Ring", [64, 128, 128], "ring", GIB)),
    )


def transformer(folder: Path) -> None:
    """A Transformer's step, tp 8 x dp 8, from its files: read, prepared and executed."""
    model = {"base": "llama3-8b", "layers": 23}
    traces = generate(
        model, "dgx-h100", "tp=8,pp=1,micro_batch=1,global_batch=64,zero_stage=1", devices=64, detail="operator"
    )
    save(traces, folder / "step", numbered=True)
    nodes = len(traces.classes[0])
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"\na Transformer's step: 64 ranks x {nodes:,} nodes, {size:.0f} MB of files")
    cluster = System.of(dse.load_cluster("dgx-h100"), 64)
    network = {
        "topology": ["Switch", "Switch"],
        "npus_count": [8, 8],
        "bandwidth": [400.0, 50.0],
        "latency": [900.0, 2000.0],
    }
    rings = {
        f"{k}-implementation": ["ring", "ring"] for k in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")
    }
    system = SYSTEM | rings | {"preferred-dataset-splits": 4}
    read = cpu(lambda: load(folder / "step"))
    found = load(folder / "step")
    show("read the files", read)
    show("physical, equal ranks once", folded := cpu(lambda: simulate(found, cluster)), None)
    show("physical, every rank", full := cpu(lambda: simulate(found, cluster, fold=False), 1), None)
    show("compat, with reading", cpu(lambda: compat.run(load(folder / "step"), network, system), 1), TRANSFORMER)
    show("physical, with reading", read + folded, TRANSFORMER)
    print(f"folding is {full / folded:.1f} times as fast, with the same end times: ", end="")
    print(bool((simulate(found, cluster).wall == simulate(found, cluster, fold=False).wall).all()))


def main() -> None:
    if len(sys.argv) > 1:  # one part in a process of its own, for its memory
        with tempfile.TemporaryDirectory() as folder:
            {"collectives": collectives, "transformer": lambda: transformer(Path(folder))}[sys.argv[1]]()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak memory of this part, Python and compiler included: {peak:,.0f} MB")
        return
    for part in ("collectives", "transformer"):
        subprocess.run([sys.executable, __file__, part], check=True)


if __name__ == "__main__":
    main()
