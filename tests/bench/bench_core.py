"""Speed of the cost core: one estimate, and strategies per second on full enumerations.

Run: python tests/bench/bench_core.py. Everything is measured in one process, so the ratios hold on any machine.
"""

from __future__ import annotations

import resource
import time

import numpy as np

import dse
from dse.cost.arrays import total
from dse.explore.best import enumerate_space, strategy_space
from dse.explore.evaluate import feasible, violations

STRATEGY = ("tp=8,pp=8,dp=64,micro_batch=1,global_batch=4096,recompute=selective,sequence_parallel=true,"
            "zero_stage=1")  # fmt: skip
# Every choice that Calculon's GPT-3 study enumerates and that the core expresses, and a few more.
OPTIONS = {
    "schedule": ["1f1b", "gpipe", "zero_bubble_h1", "zero_bubble_h2"],
    "overlap_dp": [True, False],
    "overlap_tp": [True, False],
    "overlap_pp": [True, False],
    "attention": ["flash", "unfused"],
    "partition_checkpoints": [False, True],
    "placement": ["tp-cp-dp-pp", "tp-cp-pp-dp"],
    "gradient_precision": ["fp32", "bf16"],
}


def one_estimate(repeats: int = 50) -> float:
    """Seconds of one complete estimate through the public call (specifications already read)."""
    dse.estimate("gpt3-175b", "dgx-a100", STRATEGY, devices=4096).summary()
    start = time.perf_counter()
    for _ in range(repeats):
        dse.estimate("gpt3-175b", "dgx-a100", STRATEGY, devices=4096)["step_time"]
    return (time.perf_counter() - start) / repeats


def enumeration(workers: int, *, prune: bool) -> tuple[int, int, float]:
    """Designs, feasible designs and seconds of the best-strategy search.

    Without pruning time, memory and all rules of each design are computed, else the time of those that can win.
    """
    space = strategy_space("gpt3-175b", "dgx-a100", devices=4096, global_batch=4096, options=OPTIONS)
    start = time.perf_counter()
    found = enumerate_space(space, "step_time", workers=workers, prune=prune)
    return found.evaluated, found.feasible, time.perf_counter() - start


def full_breakdown() -> tuple[int, float]:
    """Designs and seconds when every breakdown term, memory class and rule is spread over every design."""
    space = strategy_space("gpt3-175b", "dgx-a100", devices=4096, global_batch=4096, options=OPTIONS)
    count, start = 0, time.perf_counter()
    for block in space.blocks():
        evaluation = space.evaluate(block)
        shape = tuple(part.stop - part.start for part in block)
        scratch = np.empty(shape)
        terms = [*evaluation["breakdown"].values(), *evaluation["memory_breakdown"].values()]
        for term in terms:
            np.copyto(scratch, term)
        np.copyto(scratch, total(evaluation["breakdown"].values()))
        np.copyto(scratch, feasible(violations(evaluation)))
        count += scratch.size
    return count, time.perf_counter() - start


def main() -> None:
    """Print the figures."""
    single = one_estimate()
    print(f"one estimate                          {single * 1e3:8.2f} ms")
    for workers, prune in ((1, False), (2, False), (1, True), (2, True)):
        enumeration(workers, prune=prune)
        designs, good, seconds = enumeration(workers, prune=prune)
        rate, threads = designs / seconds, f"{workers} thread{'s' if workers > 1 else ' '}"
        print(f"{'best strategy' if prune else 'every strategy'}, {threads:<22} {rate / 1e6:8.1f} M strategies/s")
        print(f"    {designs:,} designs, {good:,} feasible, {seconds:.2f} s; {rate * single:,.0f} x one by one")
    designs, seconds = full_breakdown()
    print(f"every term of every design, 1 thread  {designs / seconds / 1e6:8.1f} M strategies/s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory                           {peak:8.0f} MB")


if __name__ == "__main__":
    main()
