"""Sweeps streamed to Parquet: how time, memory and bytes grow with points and with workers.

Run: python tests/bench/bench_stream.py [--quick] [--out FOLDER]. Each case runs in a process of its own, so that its peak
memory is its own; everything is measured in one run, so the ratios hold on any machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from bench_core import OPTIONS

import dse
from dse.explore.stream import open_table, plan_of
from dse.explore.stream.plan import PART_ROWS
from dse.explore.stream.run import carry_out

MINIMAL = ("step_time", "memory_bytes")
WHOLE = 8 * 25_200 * 512  # about 10^8


def plan_for(points: int, columns: tuple[str, ...] | None):
    """A space of about ``points`` designs, eight to sixteen axes."""
    choices, size = [], 25_200  # the strategies of the default axes
    for name, values in reversed(OPTIONS.items()):
        if size * len(values) > points:
            break
        choices, size = [dse.axis(name, values), *choices], size * len(values)
    steps = max(points // size, 1)
    bandwidth = dse.axis("cluster.network.inter.bandwidth", [10.0 * (i + 1) for i in range(steps)], unit="GB/s")
    return plan_of("gpt3-175b", "dgx-a100", "global_batch=4096", bandwidth, *choices, devices=4096,
                   all_strategies=True, columns=columns)  # fmt: skip


class Peak(threading.Thread):
    """Watches the memory of worker processes; the main process knows its own."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes, self.done = 0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.2):
            for child in psutil.Process().children(recursive=True):
                try:
                    self.bytes = max(self.bytes, child.memory_info().rss)
                except psutil.Error:
                    continue


def cpu_seconds() -> float:
    """Processor time of this process and of its workers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def measure(case: dict) -> dict:
    """One sweep in this process: seconds, rows, bytes and peak memory of this process and of its workers."""
    plan = plan_for(case["points"], tuple(case["columns"]) if case["columns"] else None)
    folder = Path(case["folder"])
    watch = Peak()
    watch.start()
    start, before = time.perf_counter(), cpu_seconds()
    manifest = carry_out(plan, folder, workers=case["workers"], threads=case["threads"])
    seconds = time.perf_counter() - start
    cpu = cpu_seconds() - before
    watch.done.set()
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    table = open_table(folder)
    best = table.best("step_time", 5)
    query = time.perf_counter() - start
    return {"rows": plan.rows, "parts": plan.parts, "seconds": seconds, "cpu": cpu, "bytes": manifest["bytes"], "peak": own,
            "workers_peak": watch.bytes, "query": query, "found": len(best), "axes": len(plan.axes),
            "sha256": manifest["sha256"]}  # fmt: skip


def run(out: Path, points: int, columns=None, *, workers: int = 1, threads: int = 1) -> dict:
    """A case in a fresh process and folder."""
    folder = out / "sweep"
    shutil.rmtree(folder, ignore_errors=True)
    case = {"points": points, "columns": columns, "workers": workers, "threads": threads, "folder": str(folder)}
    done = subprocess.run([sys.executable, __file__, "--case", json.dumps(case)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    return json.loads(done.stdout)


def show(label: str, r: dict) -> None:
    """A line of the table."""
    print(f"{label:<34} {r['rows']:>13,} {r['seconds']:>8.2f} s {r['cpu']:>8.2f} s {r['rows'] / r['seconds'] / 1e6:>7.2f} M/s "
          f"{r['bytes'] / 1e6:>9.1f} MB {r['peak'] / 1e6:>6.0f} MB {r['workers_peak'] / 1e6:>6.0f} MB "
          f"{r['query']:>6.2f} s", flush=True)  # fmt: skip


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10^5 and 10^6 points only")
    parser.add_argument("--out", type=Path, help="folder for the tables; a temporary one by default")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(measure(json.loads(given.case))))
        return
    cores = os.cpu_count() or 1
    top = 1_000_000 if given.quick else WHOLE
    with tempfile.TemporaryDirectory(prefix="bench-stream-", dir=given.out) as place:
        out = Path(place)
        print(
            f"{'':<34} {'rows':>13} {'time':>10} {'CPU':>10} {'rate':>11} {'disk':>12} {'peak':>9} {'workers':>9} {'best 5':>8}"
        )
        for points in [10**5, 10**6, 10**7, WHOLE]:
            if points <= top:
                show(f"points, {cores} threads", run(out, points, threads=cores))
        middle = 10**6 if given.quick else 2 * 10**7
        found = {}
        for workers, threads, label in ((1, 1, "1 thread"), (1, 2, "2 threads"), (2, 1, "2 processes (Dask)")):
            if not (given.quick and workers > 1):
                found[label] = run(out, middle, workers=workers, threads=threads)
                show(label, found[label])
        print(
            "tables of all of these are",
            "identical" if len({r["sha256"] for r in found.values()}) == 1 else "DIFFERENT",
        )
        minimal = run(out, top, MINIMAL, threads=cores)
        show(f"step_time, memory_bytes; {minimal['axes']} axes", minimal)
    each, size = minimal["cpu"] / minimal["rows"], minimal["bytes"] / minimal["rows"]
    hours, parts = each * 1e12 / 1000 / 3600, 10**12 // PART_ROWS
    print(f"10^12 points on 1,000 such cores: {hours:.2f} h of work, {size:.1f} TB, {parts:,} parts")


if __name__ == "__main__":
    main()
