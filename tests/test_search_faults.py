"""Searches killed with -9 at random moments end exactly like the search that nobody disturbed: 20 kills in all.

One process, several processes on a journal, several on PostgreSQL, and Dask workers under a real scheduler.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from postgres import postgresql

from dse.errors import StudyError
from dse.explore.search.driver import run_search
from dse.explore.search.outcome import Outcome
from dse.explore.search.record import RESULT
from dse.explore.search.space import Variable
from dse.explore.search.storage import open_storage

VARIABLES = (
    Variable("chips", (1, 2, 4, 8, 16, 32)),
    Variable("fabric", ("ring", "tree", "mesh"), categorical=True),
    Variable("bandwidth", low=1e9, high=1e12, log=True),
)
OPTIONS = {"seed": 17, "method": "nsga2", "batch": 8}


def evaluate(point: dict, seconds: float = 0.008, diary: Path | None = None) -> Outcome:
    """A few milliseconds of work; each call leaves a line in the diary."""
    if diary is not None:
        with diary.open("ab") as file:
            file.write(f"{sorted(point.items())}\n".encode())
    time.sleep(seconds)
    speed = point["chips"] * point["bandwidth"] / (1e9 + point["bandwidth"])
    if point["chips"] == 32 and point["fabric"] == "ring":
        return Outcome(None, {"links": 1.0}, {"reason": "too long a ring"})
    return Outcome((1.0 / speed, 3.0 * point["chips"]), {"power": point["chips"] - 20.0}, {"speed": speed})


def search(trials: int, diary: Path | None = None, seconds: float = 0.008, **options):
    work = partial(evaluate, diary=diary, seconds=seconds)
    return run_search(VARIABLES, ["minimize", "minimize"], work, trials=trials, **OPTIONS, **options)


def member(trials: int, diary: Path, folder: Path, storage: str) -> None:
    """One process of a search."""
    warnings.simplefilter("ignore")
    search(trials, diary, folder=folder, storage=storage)


def context() -> multiprocessing.context.ForkServerContext:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(
        ["optuna", "psycopg", "sqlalchemy", "dse.explore.search.driver", "dse.explore.search.streams"]
    )
    return server


def torment(trials: int, kills: int, processes: int, folder: Path, storage: str, seed: int) -> None:
    """Run a search with so many processes; at random points of its progress kill one and start another instead."""
    chance, diary = random.Random(seed), folder / "diary"
    diary.touch()
    start = partial(context().Process, target=member, args=(trials, diary, folder, storage), daemon=True)
    running = []
    for moment in [*sorted(chance.sample(range(trials * 4 // 5), kills)), None]:
        while len(running) < processes:
            running.append(start())
            running[-1].start()
        if moment is not None:
            while len(diary.read_bytes().splitlines()) < moment:
                time.sleep(0.002)
            time.sleep(chance.uniform(0.0, 0.02))
            victim = running.pop(chance.randrange(processes))
            victim.kill()
            victim.join()
            assert victim.exitcode == -signal.SIGKILL
    for process in running:
        process.join(60)
        assert process.exitcode == 0


def check(folder: Path, storage: str, trials: int, killed: int) -> None:
    """The log is that of the quiet search; each slot was told once, and evaluated again only for a death."""
    assert search(trials, folder=folder, storage=storage) == search(trials, seconds=0.0)
    diary = Counter((folder / "diary").read_bytes().splitlines())
    assert len(diary) == trials
    assert sum(diary.values()) - trials <= killed
    with open_storage(storage, folder) as opened:
        study = opened.get_study_id_from_name("search")
        finished = [trial for trial in opened.get_all_trials(study) if trial.state.name in ("COMPLETE", "PRUNED")]
    assert len(finished) == trials
    assert all(RESULT in trial.user_attrs for trial in finished)


def test_one_process_killed_six_times(tmp_path):
    torment(120, 6, 1, tmp_path, "journal", seed=1)
    check(tmp_path, "journal", 120, 6)


def test_three_processes_on_a_journal_killed_six_times(tmp_path):
    torment(160, 6, 3, tmp_path, "journal", seed=2)
    check(tmp_path, "journal", 160, 6)


def test_three_processes_on_postgresql_killed_five_times(tmp_path):
    with postgresql() as storage:
        torment(80, 5, 3, tmp_path, storage, seed=3)
        check(tmp_path, storage, 80, 5)


def test_dask_workers_killed_three_times(tmp_path):
    distributed = pytest.importorskip("distributed")
    killed, chance = set(), random.Random(4)

    def kill(done: int, of: int) -> None:
        if len(killed) < 3 and done >= (len(killed) + 1) * 20:
            pids = [nanny.pid for nanny in cluster.workers.values() if nanny.pid and nanny.pid not in killed]
            if pids:
                victim = chance.choice(pids)
                os.kill(victim, signal.SIGKILL)
                killed.add(victim)

    with (
        distributed.LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        log = search(120, tmp_path / "diary", 0.01, folder=tmp_path, executor=client, progress=kill)
    assert len(killed) == 3
    assert log == search(120, seconds=0.0)
    check(tmp_path, "journal", 120, 3 * OPTIONS["batch"])


def test_a_broken_pool_is_a_clear_error_and_the_search_goes_on(tmp_path):
    def kill(done: int, of: int) -> None:
        if done == 20:
            for process in list(pool._processes.values()):
                process.kill()

    with ProcessPoolExecutor(2, mp_context=context()) as pool, pytest.raises(StudyError, match="worker process"):
        search(60, folder=tmp_path, executor=pool, progress=kill)
    with ProcessPoolExecutor(2, mp_context=context()) as pool:
        assert search(60, folder=tmp_path, executor=pool) == search(60, seconds=0.0)
