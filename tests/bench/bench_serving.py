"""Speed of serving: a million queries of SUSHI by every rule, a million jobs on stations, a million queries made.

Run: python tests/bench/bench_serving.py. Compiled code is warmed up first; CPU seconds of one core, least of three.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dse.domains.sushi import streams
from dse.domains.sushi.candidates import candidates
from dse.domains.sushi.scheduler import CACHING
from dse.domains.sushi.serve import serve
from dse.domains.sushi.subnets import resnet50
from dse.domains.sushi.table import build
from dse.simulate import serving

COUNT = 1_000_000


def cpu(work: Callable[[], Any], repeats: int = 3) -> float:
    """Least CPU seconds of some repeats, after one that compiles and fills caches."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def show(what: str, seconds: float) -> None:
    """One line."""
    print(f"{what:<70}{seconds:>8.2f} s CPU {COUNT / seconds / 1e6:>8.2f} M/s")


def main() -> None:
    from dse.domains.sushi.accelerator import load_subgraph_accelerator

    accelerator = load_subgraph_accelerator("zcu104")
    subnets = resnet50()
    found = candidates(subnets, accelerator.persistent_buffer, 40, 0)
    table = build(accelerator, subnets, found)
    span = streams.Span.of(table)
    print(f"{len(table.subnets)} SubNets, {len(table.subgraphs)} SubGraphs, {COUNT:,} queries")
    for name, maker in streams.MAKERS.items():
        settings = {"period": 0.03} if name == "periodic" else {"rate": 30.0}
        show(f"make a {name} stream", cpu(lambda maker=maker, settings=settings: maker(COUNT, span, **settings)))
    stream = streams.markov(COUNT, span, rate=30.0)
    for kind in CACHING:
        show(f"serve, closed loop, {kind}", cpu(lambda kind=kind: serve(table, stream, caching=kind)))
    for settings in ({}, {"discipline": "edf", "policy": "strict-latency", "slack": True}):
        show(f"serve, open loop, {settings.get('discipline', 'fifo')}, 4 replicas",
             cpu(lambda settings=settings: serve(table, stream, loop="open", replicas=4, **settings)))  # fmt: skip
    served = serve(table, stream)
    show("summary", cpu(served.summary))
    rng = np.random.default_rng(0)
    arrival = np.cumsum(rng.exponential(1.0, COUNT))
    for servers in (1, 16):
        service = rng.exponential(0.8 * servers, COUNT)
        on = serving.stations([servers])
        show(
            f"jobs on a station, M/M/{servers}", cpu(lambda service=service, on=on: serving.serve(arrival, service, on))
        )
    stages = rng.exponential(0.5, (COUNT // 4, 4))
    show("jobs on four stations, one behind the other", cpu(lambda: serving.tandem(arrival[: COUNT // 4], stages)))


if __name__ == "__main__":
    main()
