"""Synthesis against size: ``python tests/bench/bench_collective.py [largest]``, a process for each network.

Seconds of synthesis (warm), transfers a second, time over bound, seconds of verification, peak memory; and how much the
time grows where the NPUs double, which the transfers do fourfold.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys

ONE = """
import json, resource, sys, time
from dse.collective import synthesize
from dse.collective.verifier import verify
shape, collective = sys.argv[1:]
found = synthesize(shape, collective, "1GiB")
began = time.perf_counter()
verify(found.schedule)
print(json.dumps({
    "npus": found.schedule.topology.npus, "seconds": found.seconds, "ratio": found.ratio,
    "transfers": found.schedule.transfers, "verify": time.perf_counter() - began,
    "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
}))
"""
PLAIN = "bandwidth=50GiB/s,latency=0.5us"
SHAPES = {
    "3-D torus": ["4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16"],
    "2-D mesh": ["8x8", "8x16", "16x16", "16x32", "32x32"],
}


def shape_of(family: str, dims: str) -> str:
    """A torus is whole, a mesh has lost 5 % of its cables."""
    return f"torus:{dims},{PLAIN}" if family.endswith("torus") else f"mesh:{dims},{PLAIN},fail=5%"


def main(largest: int) -> None:
    """Print a line for each network and collective."""
    for collective in ("all_gather", "all_reduce"):
        for family, sizes in SHAPES.items():
            before = None
            for dims in sizes:
                if math.prod(int(n) for n in dims.split("x")) > largest:
                    break
                ran = subprocess.run(
                    [sys.executable, "-c", ONE, shape_of(family, dims), collective], capture_output=True, text=True, check=True
                )  # fmt: skip
                row = json.loads(ran.stdout)
                growth = f"x {row['seconds'] / before:.1f}" if before else ""
                before = row["seconds"]
                print(f"{collective:<12}{family:<10}{dims:<10}{row['npus']:>6} NPUs {row['seconds']:>8.3f} s {growth:<8}"
                      f"{row['transfers'] / row['seconds'] / 1e6:>7.2f} M transfers/s  {row['ratio']:.4f} x bound  "
                      f"verified in {row['verify']:.2f} s  {row['gb']:.2f} GB", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4096)
