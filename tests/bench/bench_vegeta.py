"""Speed of the cycle model of tile engines: ``python tests/bench/bench_vegeta.py``.

Instructions a second of kernels on the largest shipped layers, each beside the same recurrence in plain Python on a
small layer (a ratio within this run), and designs a second of a sweep over one program. Compiled code is warmed up first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import product
from typing import Any

from dse.domains.vegeta.engine import load_engine
from dse.domains.vegeta.gemm import gemm_program
from dse.domains.vegeta.sensitivity import sensitivity
from dse.domains.vegeta.timing import simulate, simulate_many, time_gemm
from dse.domains.vegeta.workloads import layers


def cpu(work: Callable[[], Any], repeats: int = 5) -> float:
    """Least CPU seconds of some repeats, after one that compiles and fills caches."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def plain(tiles: int) -> float:
    """The stage recurrence of one product of tiles after the other, in plain Python: what the model must beat."""
    wl_free = ff_free = stream = end = 0.0
    ready = [0.0, 0.0, 0.0]
    for i in range(tiles):
        stream += 16 / 3
        wl = max(wl_free, stream) + 16
        start = max(wl, ff_free, ready[i % 3])
        wl_free, ff_free, ready[i % 3] = start, start + 16, start + 17
        end = max(end, start + 33)
    return end


def main() -> None:
    """Print a line for each measurement."""
    engine = load_engine("vegeta-s-16-2-of")
    reference = cpu(lambda: plain(100_000)) / 100_000
    print(f"plain Python, four operations an instruction: {1e-6 / reference:.2f} M matrix instructions/s")
    for layer in sorted(layers(), key=lambda x: -x.flops)[:4]:
        for n in engine.patterns:
            program, _ = gemm_program(layer.m, layer.n, layer.k, engine, pattern=n)
            seconds = cpu(lambda program=program: simulate(program, engine))
            whole = cpu(lambda layer=layer, n=n: time_gemm(layer.m, layer.n, layer.k, engine, pattern=n))
            matrix = simulate(program, engine).starts.size
            print(f"{layer.name:<11}{n}:{engine.block}{len(program):>9,} instructions {seconds * 1e3:>7.1f} ms "
                  f"{len(program) / seconds / 1e6:>6.1f} M/s ({reference * matrix / seconds:>5.1f} x plain); "
                  f"with its kernel {whole * 1e3:>7.1f} ms")  # fmt: skip
    ready = engine.replace(core=engine.core.replace(engine_order="ready"))
    program, _ = gemm_program(256, 256, 12288, engine)
    ratio = cpu(lambda: simulate(program, ready)) / cpu(lambda: simulate(program, engine))
    print(f"in order of readiness: {ratio:.1f} x the time of program order")
    designs = [
        engine.replace(alpha=a, beta=b, output_forwarding=f, core=engine.core.replace(load_lines=rate))
        for a, b, f, rate in product((1, 2, 4, 8, 16), (1, 2, 4), (False, True), (0.5, 0.75, 1.0, 2.0))
    ]
    program, _ = gemm_program(128, 784, 1152, engine, pattern=2)
    seconds = cpu(lambda: simulate_many(program, designs), 2)
    print(f"{len(designs)} designs on resnet50-4 at 2:4: {seconds:.2f} s, {len(designs) / seconds:,.0f} designs/s, "
          f"{len(designs) * len(program) / seconds / 1e6:.1f} M instructions/s")  # fmt: skip
    print(f"sensitivity of the twelve layers, all knobs: {cpu(sensitivity, 1):.1f} s")


if __name__ == "__main__":
    main()
