"""Sweeps that run out of disk, meet another writer or are interrupted: nothing is lost."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from stream_faults_cases import files, make, parts, wait_for_parts, whole

from dse.errors import StudyError
from dse.explore.stream import folder as folders
from dse.explore.stream import open_table, resume, run
from dse.explore.stream.folder import keep_inputs, locked
from dse.explore.stream.run import carry_out


@pytest.fixture(scope="module")
def plan():
    """The sweep in 150 parts."""
    return make(16)


@pytest.fixture(scope="module")
def wanted(plan, tmp_path_factory):
    """Files of the uninterrupted sweep."""
    return whole(plan, tmp_path_factory)


# -- full disks -----------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 400 kB, where one can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", place], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_loses_nothing(plan, wanted, tiny_disk, tmp_path):
    """A disk that is really full: a clear error, whole parts only, and after making room only the rest is computed."""
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(bytes(200_000))
    out = tiny_disk / "out"
    with pytest.raises(StudyError, match=r"disk is full.*dse resume"):
        carry_out(plan, out)
    kept = {name: data for name, data in files(out).items() if name.startswith("part-")}
    assert 0 < len(kept) < plan.parts and kept.items() <= wanted.items()
    assert not (out / "manifest.json").exists() and not list(out.glob(".*.tmp"))
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=16m", tiny_disk], check=True)
    heard = []
    carry_out(plan, out, progress=heard.append)
    assert heard[0].kept == sum(plan.rows_of(int(name[5:11])) for name in kept)
    assert files(out) == wanted


@pytest.mark.parametrize("stage", ["write", "fsync", "rename"])
def test_every_stage_of_writing_may_fail(plan, wanted, tmp_path, monkeypatch, stage):
    """Whatever call the system refuses for want of room, the folder holds whole files only and the sweep goes on."""
    calls = iter(range(1_000_000))

    def failing(original):
        def call(*arguments, **options):
            if next(calls) >= 40:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*arguments, **options)

        return call

    target = {"write": (Path, "open"), "fsync": (folders.os, "fsync"), "rename": (Path, "replace")}[stage]
    with monkeypatch.context() as patch:
        patch.setattr(*target, failing(getattr(*target)))
        with pytest.raises(StudyError, match="disk is full"):
            carry_out(plan, tmp_path / "out")
    assert 0 < parts(tmp_path / "out") < plan.parts
    assert not list((tmp_path / "out").glob(".*.tmp"))
    resume(tmp_path / "out")
    assert files(tmp_path / "out") == wanted


def test_a_full_disk_of_a_worker_reaches_the_user(plan, tmp_path):
    """The error of a worker is the error of the sweep: here the folder may not be written at all."""
    if os.geteuid() == 0:
        (tmp_path / "out").write_text("a file, not a folder")
        with pytest.raises(StudyError, match="cannot write"):
            carry_out(plan, tmp_path / "out")
    else:
        tmp_path.chmod(0o500)
        with pytest.raises(StudyError, match="cannot write"):
            carry_out(plan, tmp_path / "out")
        tmp_path.chmod(0o700)


# -- two writers ----------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_until_the_first_is_done(plan, wanted, tmp_path):
    """The error names the process that writes; nothing is touched, and afterwards the folder is free."""
    out = tmp_path / "out"
    with locked(out):
        with pytest.raises(StudyError, match=f"is being written by process {os.getpid()}"):
            carry_out(plan, out)
        assert [p.name for p in out.iterdir()] == [".lock"]
    carry_out(plan, out)
    assert files(out) == wanted


def test_a_killed_writer_lets_go(plan, wanted, tmp_path):
    """A stopped process still holds the folder; once killed it does not."""
    out = tmp_path / "out"
    out.mkdir()
    keep_inputs(out, plan)
    process = multiprocessing.get_context("forkserver").Process(target=resume, args=(out,))
    process.start()
    wait_for_parts(out, 3, process.is_alive)
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(StudyError, match=f"process {process.pid}"):
        resume(out)
    process.kill()
    process.join()
    resume(out)
    assert files(out) == wanted


def test_many_writers_at_once_leave_one_table(plan, wanted, tmp_path):
    """Of threads that start the same sweep together one writes, the others are refused."""
    barrier, refused = threading.Barrier(4), []

    def start() -> None:
        barrier.wait()
        try:
            carry_out(plan, tmp_path / "out", threads=1)
        except StudyError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3 and all("is being written" in text for text in refused)
    assert files(tmp_path / "out") == wanted
    assert open_table(tmp_path / "out").rows == plan.rows


def test_an_interrupted_sweep_begins_no_more_parts(plan, tmp_path, monkeypatch):
    """Ctrl-C leaves whole parts and stops soon."""
    seen = []

    def stop(now) -> None:
        seen.append(now.done)
        if now.done > 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(plan, tmp_path / "out", threads=2, progress=stop)
    assert parts(tmp_path / "out") < plan.parts / 2
    assert run.resume(tmp_path / "out")["rows"] == plan.rows
