"""The exhaustive search, pruned and not, on a space like that of a published search.

Run: python tests/bench/bench_search.py. Everything is measured in one process on the same space, so that the ratios
hold on any machine; the end-to-end time is that of fresh processes.

The space is the nearest on this model's fields to the 7,126,368 executions that Calculon's search enumerates for
GPT-3 175B on 4,096 GPUs with batch 4,096 (its options in brackets):

==================== ============================================================================================
pp                   1, 2, 4, ... 32 (divisors of the devices that divide the 96 layers)
tp                   1, 2, 4, ... 32 (divisors of the devices that divide the 96 heads)
micro_batch          1, 2, 4, ... 1024 (divisors of a replica's batch)
virtual_stages       the 12 divisors of 96 (divisors of the layers of a stage)
recompute            none, selective, full
zero_stage           0, 1 (optimizer sharding)
sequence_parallel    no, yes (all-reduce, or reduce-scatter and all-gather)
overlap_dp           no, yes
overlap_tp           no, yes (none, ring, pipe)
offload_weights      local, host memory
offload_activations  local, host memory
offload_optimizer    local, host memory
placement            4 orders of tp, dp and pp on the network (8 assignments of tp, dp and pp to 2 networks)
==================== ============================================================================================

dp follows. That makes 7,299,072 designs, legal or not (70 % of Calculon's are rejected at once, too).
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import dse
from dse.explore.best import Space, enumerate_space, strategy_space
from dse.explore.evaluate import feasible, violations

POWERS = [1 << i for i in range(11)]
OPTIONS: dict[str, list[Any]] = {
    "pp": POWERS[:6],
    "tp": POWERS[:6],
    "micro_batch": POWERS,
    "virtual_stages": [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 96],
    "recompute": ["none", "selective", "full"],
    "zero_stage": [0, 1],
    "sequence_parallel": [False, True],
    "overlap_dp": [False, True],
    "overlap_tp": [False, True],
    "offload_weights": ["local", "ddr"],
    "offload_activations": ["local", "ddr"],
    "offload_optimizer": ["local", "ddr"],
    "placement": ["tp-cp-dp-pp", "tp-cp-pp-dp", "cp-dp-tp-pp", "cp-pp-tp-dp"],
}
PLACE: dict[str, Any] = {"model": "gpt3-175b", "cluster": "dgx-a100", "devices": 4096, "global_batch": 4096}
END_TO_END = "import dse; print(dse.best({model!r}, {cluster!r}, devices={devices}, global_batch={global_batch}, \
options={options!r}).evaluated)"


def best_of(function: Any, repeats: int = 5) -> tuple[float, Any]:
    """Least seconds of some calls, and what the last returned."""
    least, result = np.inf, None
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        least = min(least, time.perf_counter() - start)
    return least, result


def evaluate_all(space: Space, workers: int, *, spread: bool) -> int:
    """Step time, all its terms, memory and its parts, and all rules of every design; feasible designs.

    Args:
        spread: also write every term out for every design, as a table of all designs would hold them.
    """

    def block(part: tuple[slice, ...]) -> int:
        evaluation = space.evaluate(part)
        shape = tuple(side.stop - side.start for side in part)
        scratch = np.empty(shape)
        if spread:
            for term in (*evaluation["breakdown"].values(), *evaluation["memory_breakdown"].values()):
                np.copyto(scratch, term)
        for name in ("step_time", "memory_bytes"):
            np.copyto(scratch, evaluation[name])
        np.copyto(scratch, feasible(violations(evaluation)))
        return int(np.count_nonzero(scratch))

    with ThreadPoolExecutor(workers) as pool:
        return sum(pool.map(block, space.blocks()))


def one_by_one(space: Space, count: int = 200) -> float:
    """Seconds of one estimate through the public call, the mean over random designs of the space."""
    generator = np.random.default_rng(1)
    specs = space.specs["model"], space.specs["cluster"]
    designs = [space.strategy_at([int(generator.integers(n)) for n in space.shape]) for _ in range(count)]
    start = time.perf_counter()
    for design in designs:
        result = dse.estimate(*specs, {**design, "global_batch": PLACE["global_batch"]}, devices=PLACE["devices"])
        result["step_time"], result["memory_bytes"], result["feasible"]
    return (time.perf_counter() - start) / count


def end_to_end(repeats: int = 5) -> tuple[float, float]:
    """Least wall and mean CPU seconds of fresh processes that import, read the catalogue, search and print."""
    command = [sys.executable, "-c", END_TO_END.format(**PLACE, options=OPTIONS)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall, _ = best_of(lambda: subprocess.run(command, check=True, capture_output=True), repeats)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / repeats


def main() -> None:
    """Print the figures."""
    space = strategy_space(**PLACE, options=OPTIONS)
    print(f"{space.size:,} designs of {PLACE['model']} on {PLACE['devices']:,} x {PLACE['cluster']}\n")
    single = one_by_one(space)
    print(f"one by one                          {single * 1e3:9.2f} ms a design {1 / single:16,.0f} designs/s")
    rates = {}
    for workers in (1, 2):
        for spread in (False, True):
            seconds, _ = best_of(lambda w=workers, s=spread: evaluate_all(space, w, spread=s))
            rates[workers, spread] = space.size / seconds
            what = "all terms written out" if spread else "all terms"
            print(f"plain, {what:<21} {workers} thread{'s'[: workers - 1]:<1} {seconds:9.3f} s "
                  f"{space.size / seconds / 1e6:20.1f} M/s  {space.size / seconds * single:12,.0f} x one by one")  # fmt: skip
    for workers in (1, 2):
        seconds, found = best_of(lambda w=workers: enumerate_space(space, "step_time", top=5, workers=w))
        print(f"pruned search                {workers} thread{'s'[: workers - 1]:<1} {seconds:9.3f} s "
              f"{space.size / seconds / 1e6:20.1f} M/s  {space.size / seconds / rates[workers, False]:12.1f} x plain")  # fmt: skip
    print("    " + ", ".join(f"{name} {count:,}" for name, count in found.counts().items()))
    for place, (value, index) in enumerate(found.best, 1):
        print(f"    {place}  {value:8.4f} s  {', '.join(f'{k}={v}' for k, v in space.strategy_at(index).items())}")
    wall, busy = end_to_end()
    print(f"end to end, a process               {wall:9.2f} s, {busy:.2f} s of CPU")
    print(f"peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:17.0f} MB")


if __name__ == "__main__":
    main()
