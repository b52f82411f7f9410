"""Jobs that are cancelled, killed, refused or orphaned: nothing is lost, nothing is left, and it is said why."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from jobs_cases import BOTH, CAPACITY, LARGE, PRICES, STATE, bytes_in, grid, here, lives, ranges, until

import dse
from dse.app.jobs import Job, Status
from dse.errors import SpecError, StudyError


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSE_CACHE", "off")


@pytest.mark.parametrize(
    ("variables", "how"),
    [(grid(30), {"objective": BOTH}), (ranges(), {"objective": BOTH, "trials": 60, "batch": 10})],
    ids=["exhaustive", "sampled"],
)
def test_a_cancelled_search_stops_and_goes_on_to_the_same_bytes(tmp_path: Path, variables: list[Any], how: Any):
    here(LARGE, variables, folder=tmp_path / "here", **how).save(tmp_path / "here")
    job = Job.search(LARGE, variables, couplings=PRICES, folder=tmp_path / "there", **how).start()
    until(lambda: job.status.done or job.status.ended)
    begin = time.monotonic()
    job.cancel()
    assert time.monotonic() - begin < 2 and not lives(job.pid)
    status = job.status
    assert status.state == "cancelled" and status.done < status.total and str(tmp_path) in status.message
    with pytest.raises(StudyError, match="cancelled"):
        job.result()
    job.cancel()  # nothing more happens
    assert job.start().status.state == "running"
    assert job.result(60).cached > 0 or "trials" in how  # a sampler's answers are in its journal
    assert bytes_in(tmp_path / "there") == bytes_in(tmp_path / "here")
    job.cancel()
    assert job.status.state == "done"


def test_a_job_is_cancelled_before_it_has_read_its_request():
    job = Job.search(STATE, grid(40)).start()
    job.cancel()
    assert job.status.state == "cancelled" and not lives(job.pid) and job.partial() is None


def test_a_process_that_does_not_listen_is_ended_all_the_same():
    job = Job.search(STATE, grid(40)).start()
    os.kill(job.pid, signal.SIGSTOP)
    begin = time.monotonic()
    job.cancel()
    assert time.monotonic() - begin < 2 and job.status.state == "cancelled" and not lives(job.pid)


def test_a_killed_process_is_a_failure_that_says_so():
    job = Job.search(LARGE, grid(60), objective=BOTH, couplings=PRICES).start()
    until(lambda: job.status.done)
    os.kill(job.pid, signal.SIGKILL)
    status = job.wait(5)
    assert status.state == "failed" and "SIGKILL" in status.message and "memory" in status.message
    with pytest.raises(StudyError, match="killed"):
        job.result()


def test_faults_are_those_of_the_function():
    variables = [dse.span("cluster.nothing", "1 GB", "2 GB"), dse.span(CAPACITY, "3 GB", "2 GB")]
    how: dict[str, Any] = {"objective": ["step_time", "beauty"], "budget": "capital <= 3 fish"}
    with pytest.raises(SpecError) as expected:
        here(STATE, variables, **how)
    job = Job.search(STATE, variables, couplings=PRICES, **how).start()
    with pytest.raises(SpecError) as raised:
        job.result(60)
    assert raised.value.faults == expected.value.faults and len(raised.value.faults) > 2
    assert job.status.state == "failed" and job.status.message == str(expected.value)
    assert "Traceback" in job.trace and "Traceback" not in job.status.message


def test_other_errors_keep_their_class_or_are_named(tmp_path: Path):
    (tmp_path / "sweep.json").write_text("{}")
    job = Job.search(STATE, grid(2), folder=tmp_path).start()
    with pytest.raises(StudyError, match="holds a sweep"):
        job.result(60)
    job = Job.sensitivity(STATE, analysis="bottlenecks", colour="red").start()
    with pytest.raises(StudyError, match=r"TypeError: .*colour"):
        job.result(60)


@pytest.mark.parametrize("job", [Job.sensitivity({}, analysis="guess"), Job.validate("guess")])
def test_unknown_names_are_faults(job: Job):
    with pytest.raises(SpecError, match="must be one of"):
        job.start().result(60)


def test_stacks_set_by_hand_are_refused_by_a_search_as_they_are_here():
    job = Job.search(STATE.set("stack.step_overhead", "9 us"), grid(2)).start()
    with pytest.raises(SpecError, match="stacks as the catalogue has them"):
        job.result(60)


def test_misuse_of_a_job():
    job = Job.search(STATE, grid(2), replace={"bubble": lambda pp: 0.0})
    assert job.status == Status("waiting", message="not started") and job.partial() is None
    job.cancel()
    with pytest.raises(StudyError, match="not started"):
        job.result()
    with pytest.raises(SpecError, match="cannot be sent"):
        job.start()
    with pytest.raises(SpecError, match="must be a state"):
        Job.search("gpt-1.7b")
    running = Job.search(STATE, grid(2)).start()
    with pytest.raises(StudyError, match="runs already"):
        running.start()
    with pytest.raises(TimeoutError):
        running.result(0.01)
    running.result(60)


def test_two_jobs_at_once():
    jobs = [Job.search(STATE, grid(5), couplings=PRICES, objective=o).start() for o in ("step_time", "capital")]
    for job, objective in zip(jobs, ("step_time", "capital"), strict=True):
        expected = here(STATE, grid(5), objective=objective)
        pd.testing.assert_frame_equal(job.result(60).table, expected.table)


ALONE = """
import dse, os, sys, time
from dse.app.jobs import Job
given = {"model": "gpt-1.7b", "cluster": "dgx-a100", "devices": 64, "global_batch": 256}
steps = int(sys.argv[1])
vary = [dse.span("cluster.network.inter.bandwidth", "5 GB/s", "100 GB/s", steps=steps),
        dse.span("cluster.memory.capacity", "20 GB", "160 GB", steps=steps)]
job = Job.search(given, vary, method="exhaustive").start()
print(job.pid, flush=True)
if steps > 9:
    while not job.status.done:
        time.sleep(0.01)
    copy = os.fork() if sys.argv[2] == "forked" else -1  # it holds the pipe open too
    if copy == 0:
        time.sleep(60)
        os._exit(0)
    print(copy, flush=True)
    time.sleep(60)
print(len(job.result(60).points), flush=True)
"""


def test_a_main_program_without_a_file_or_a_guard():
    done = subprocess.run([sys.executable, "-c", ALONE, "3"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split()[1] == "9" and done.stderr == ""


@pytest.mark.parametrize(("how", "copies"), [("SIGKILL", "alone"), ("SIGTERM", "alone"), ("SIGKILL", "forked")])
def test_when_the_parent_ends_nothing_is_left(how: str, copies: str):
    command = [sys.executable, "-W", "ignore", "-c", ALONE, "140", copies]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child, copy = (int(parent.stdout.readline()) for _ in range(2))
        assert (copy > 0) == (copies == "forked")
        try:
            assert lives(child)
            parent.send_signal(getattr(signal, how))
            parent.wait(5)
            until(lambda: not lives(child), 3)
        finally:
            if copy > 0:
                os.kill(copy, signal.SIGKILL)


def members(group: int) -> set[int]:
    """Processes of a group."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z":
                found.add(int(entry.parent.name))
    return found


@pytest.mark.parametrize("end", ["cancelled", "killed"])
def test_the_workers_of_a_job_end_with_it(end: str):
    job = Job.search(LARGE, grid(60), objective=BOTH, couplings=PRICES, workers=2).start()
    until(lambda: job.status.done or job.status.ended, 100)
    assert job.status.state == "running", job.trace
    group = members(job.pid)
    assert len(group) > 2
    job.cancel() if end == "cancelled" else os.kill(job.pid, signal.SIGKILL)
    until(lambda: not any(map(lives, group)), 3)
    assert job.wait(2).state == ("cancelled" if end == "cancelled" else "failed")
