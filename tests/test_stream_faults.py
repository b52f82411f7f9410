"""Sweeps whose processes, workers or schedulers are killed: nothing is lost."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from stream_faults_cases import files, make, parts, wait_for_parts, whole

import dse
from dse.errors import StudyError
from dse.explore.stream import plan_of, resume
from dse.explore.stream.folder import keep_inputs
from dse.explore.stream.run import carry_out

KILLS_ALONE, KILLS_OF_CLIENTS, KILLS_OF_LOCAL_WORKERS, KILLS_OF_REMOTE_WORKERS = 30, 4, 6, 10


@pytest.fixture(scope="module")
def plan():
    """The sweep in 150 parts."""
    return make(16)


@pytest.fixture(scope="module")
def wanted(plan, tmp_path_factory):
    """Files of the uninterrupted sweep."""
    return whole(plan, tmp_path_factory)


# -- kill -9 --------------------------------------------------------------------------------------------------


def test_killed_at_random_one_process(plan, wanted, tmp_path):
    """Thirty kills of a single process at random moments: the table is that of the uninterrupted sweep."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dse.explore.stream.run", "dse.explore.stream.plan", "pyarrow.parquet"])
    rng, kills, round_, midway = random.Random(11), 0, 0, 0
    while kills < KILLS_ALONE:
        out = tmp_path / str(round_)
        out.mkdir()
        keep_inputs(out, plan)
        while not (out / "manifest.json").exists():
            process = context.Process(target=resume, args=(out,))
            process.start()
            before = parts(out)
            if kills < KILLS_ALONE:  # any moment: on starting up, or between and within parts
                wait_for_parts(out, before + rng.randrange(12), process.is_alive)
                process.join(rng.uniform(0, 0.1))
            else:
                process.join()
            if process.is_alive():
                process.kill()
                process.join()
                kills += 1
                midway += before < parts(out) < plan.parts
            else:
                assert process.exitcode == 0
        assert files(out) == wanted
        round_ += 1
    assert midway > KILLS_ALONE / 2  # most kills hit a sweep at work


SCRIPT = """
import sys
from dse.explore.stream import resume
if __name__ == "__main__":
    resume(sys.argv[1], workers=2)
"""


def test_killed_client_of_several_processes(plan, wanted, tmp_path):
    """The process that leads a local cluster is killed: its workers end too, and the sweep goes on where it was."""
    script, out = tmp_path / "sweep.py", tmp_path / "out"
    script.write_text(SCRIPT)
    out.mkdir()
    keep_inputs(out, plan)
    rng = random.Random(5)
    for kill in range(KILLS_OF_CLIENTS):
        process = subprocess.Popen([sys.executable, script, out])
        before = parts(out)
        wait_for_parts(out, before + rng.randrange(1, 20), lambda process=process: process.poll() is None)
        children = psutil.Process(process.pid).children(recursive=True)
        assert process.poll() is None, f"ended before kill {kill}"
        process.kill()
        process.wait()
        psutil.wait_procs(children, timeout=30)
        assert not any(child.is_running() for child in children)
        assert not (out / "manifest.json").exists()
    resume(out)
    assert files(out) == wanted


@contextmanager
def in_background(call, *arguments, **options):
    """Run a call in a thread; its result or error comes when the block ends."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(call, *arguments, **options)
        yield future
        future.result(timeout=120)


def kill_workers(workers, folder: Path, future, kills: int, seed: int) -> int:
    """Kill random worker processes while a sweep makes progress; returns how many."""
    rng, done = random.Random(seed), 0
    while done < kills and not future.done():
        wait_for_parts(folder, parts(folder) + rng.randrange(1, 8), lambda: not future.done())
        found = workers()
        if found and not future.done():
            with suppress(psutil.NoSuchProcess):
                rng.choice(found).kill()
                done += 1
    return done


def test_killed_workers_of_this_machine(plan, wanted, tmp_path):
    """Workers of the local cluster are killed while it runs: their parts are computed by others."""
    here = psutil.Process()

    def workers():
        names = [(p, " ".join(p.cmdline())) for p in here.children(recursive=True) if p.status() != "zombie"]
        return [p for p, name in names if "spawn_main" in name or "Dask Worker" in name]

    kills = 0
    for attempt in range(4):
        if kills >= KILLS_OF_LOCAL_WORKERS:
            break
        out = tmp_path / str(attempt)
        with in_background(carry_out, plan, out, workers=2) as future:
            kills += kill_workers(workers, out, future, KILLS_OF_LOCAL_WORKERS - kills, attempt)
        assert files(out) == wanted
    assert kills >= KILLS_OF_LOCAL_WORKERS


class Cluster:
    """A Dask scheduler and a nanny with two workers, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{port}"
        # Every death of a worker is the last that the scheduler allows a task: resubmission is put to the test.
        environment = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
        self.log = (folder / "dask.log").open("wb")
        options = {"stdout": self.log, "stderr": self.log, "env": environment, "cwd": folder}
        dask = [sys.executable, "-m", "dask"]
        self.scheduler = subprocess.Popen(
            [*dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"], **options
        )
        self.nanny = subprocess.Popen(
            [*dask, "worker", self.address, "--nworkers", "2", "--nthreads", "1", "--no-dashboard",
             "--local-directory", str(folder)], **options
        )  # fmt: skip

    def workers(self) -> list[psutil.Process]:
        """Processes of the workers, not of the nanny."""
        children = psutil.Process(self.nanny.pid).children(recursive=True)
        return [p for p in children if p.status() != "zombie" and "spawn_main" in " ".join(p.cmdline())]

    def close(self) -> None:
        """Stop everything."""
        for process in (self.nanny, self.scheduler):
            with suppress(ProcessLookupError):
                children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
                process.send_signal(signal.SIGKILL)
                process.wait()
                for child in children:
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
        self.log.close()


@pytest.fixture
def cluster(tmp_path):
    """A cluster of its own."""
    found = Cluster(tmp_path)
    yield found
    found.close()


def test_killed_workers_of_a_dask_cluster(plan, wanted, tmp_path, cluster, monkeypatch):
    """Workers of an external cluster are killed while it runs; then its scheduler is, which is a plain error."""
    monkeypatch.setattr("dse.explore.stream.dask.GATHER", 3.0)
    kills = 0
    for attempt in range(5):
        if kills >= KILLS_OF_REMOTE_WORKERS:
            break
        out = tmp_path / str(attempt)
        with in_background(carry_out, plan, out, scheduler=cluster.address) as future:
            kills += kill_workers(cluster.workers, out, future, KILLS_OF_REMOTE_WORKERS - kills, attempt)
        assert files(out) == wanted
    assert kills >= KILLS_OF_REMOTE_WORKERS
    out = tmp_path / "lost"
    lost = pytest.raises(StudyError, match="lost the Dask scheduler")
    with lost, in_background(carry_out, plan, out, scheduler=cluster.address) as future:
        wait_for_parts(out, 10, lambda: not future.done())
        cluster.scheduler.kill()
    assert 10 <= parts(out) < plan.parts and not (out / "manifest.json").exists()
    resume(out)
    assert files(out) == wanted


def test_a_task_that_kills_every_worker_ends_the_sweep(tmp_path, monkeypatch):
    """Resubmission is bounded: in the end there is an error that says what happens."""
    monkeypatch.setattr("dse.explore.stream.dask.RETRIES", 0)
    survivor = os.getpid()

    def operator_efficiency():
        import os as system

        if system.getpid() != survivor:
            system.kill(system.getpid(), 9)
        return 0.5

    deadly = plan_of("gpt3-175b", "dgx-a100", "global_batch=512", dse.axis("tp", [4, 8]), devices=512,
                     replace={"operator_efficiency": operator_efficiency})  # fmt: skip
    with pytest.raises(StudyError, match="killed again and again"):
        carry_out(deadly, tmp_path / "out", workers=2)
    carry_out(deadly, tmp_path / "out")
