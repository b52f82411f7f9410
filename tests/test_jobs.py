"""Long work in a process of its own: the same results as here, live answers, and a free caller."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import pickle
import re
import statistics
import threading
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from jobs_cases import BANDWIDTH, BOTH, CAPACITY, LARGE, PRICES, STATE, bytes_in, grid, here, ranges, until

import dse
from dse.app import listen, process, work
from dse.app.jobs import Job, Status
from dse.app.state import start
from dse.explore.search import pareto
from dse.explore.search.inner import Inner
from dse.spec import calibration


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSE_CACHE", "off")


# -- the same results -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "how"),
    [
        (grid(6), {"objective": BOTH}),
        (ranges(), {"objective": BOTH, "trials": 32, "batch": 8}),
        (ranges(), {"budget": "capital <= 2 MUSD", "trials": 60}),
    ],
    ids=["exhaustive", "sampled", "proved"],
)
def test_a_search_elsewhere_writes_the_same_bytes(tmp_path: Path, variables: list[Any], how: Any):
    found = here(STATE, variables, **how)
    found.save(tmp_path / "here")
    job = Job.search(STATE, variables, couplings=PRICES, folder=tmp_path / "there", **how).start()
    told = job.result(60)
    assert bytes_in(tmp_path / "there") == bytes_in(tmp_path / "here")
    assert told.method == found.method and told.trials == found.trials and told.bound == found.bound
    pd.testing.assert_frame_equal(told.table, found.table)
    assert told.best.number("step_time") == found.best.number("step_time")
    assert job.status.state == "done" and 0 < job.status.done == job.status.total
    assert job.partial() is job.result()


def test_arguments_by_name_are_those_of_the_function():
    given = {"model": "gpt-1.7b", "cluster": "dgx-a100", "devices": 64, "global_batch": 256, "options": {"tp": [1, 2]}}
    job = Job.search(given, grid(3)).start()
    pd.testing.assert_frame_equal(job.result(60).table, dse.search(hardware=grid(3), **given).table)


def test_a_sweep_elsewhere_writes_the_same_bytes(tmp_path: Path):
    axes = [dse.axis("micro_batch", [1, 2, 4]), dse.axis(CAPACITY, [40, 80], unit="GB")]
    mine = STATE.set("stack.step_overhead", "9 us")
    job = Job.sweep(mine, axes, folder=tmp_path / "there", part_rows=2).start()
    specs: Any = mine.design.specs
    by_hand = dse.axis("stack.step_overhead", [9e-6])
    table = dse.stream(
        specs["model"], specs["cluster"], specs["strategy"], *axes, by_hand, devices=64, out=tmp_path / "here",
        part_rows=2,
    )  # fmt: skip
    assert job.result(60).rows == table.rows == 6
    parts = {p.name: p.read_bytes() for p in (tmp_path / "here").glob("part-*")}
    assert {p.name: p.read_bytes() for p in (tmp_path / "there").glob("part-*")} == parts
    time_ = job.result().query("select * from designs where micro_batch = 1 limit 1")["step_time [s]"].iloc[0]
    assert time_ == pytest.approx(mine.set("micro_batch", 1).set(CAPACITY, "40 GB").result.number("step_time"))
    assert job.status.done == job.status.total == 6


def test_an_analysis_is_of_the_design_as_it_was_when_the_job_was_made():
    factors = ["cluster.node.accelerator.memory.bandwidth=1:4 TB/s", f"{BANDWIDTH}=5:100 GB/s"]
    mine = STATE.set("stack.step_overhead", "9 us")
    job = Job.sensitivity(mine, factors, samples=64)
    mine = mine.set("cluster.node.accelerator.memory.bandwidth", "1 TB/s")
    job.start()
    expected = dse.sensitivity.sobol(job._design.result, factors, samples=64, seed=3)
    found = job.result(60)
    pd.testing.assert_frame_equal(found.table, expected.table)
    assert found.mean == expected.mean and found.seed == 3
    assert job.status.done == job.status.total == 64 * 4


def test_a_design_of_ones_own_parts_arrives_whole():
    cluster = {"base": "dgx-a100", "id": "mine", "node": {"accelerator": {"memory": {"bandwidth": "3 TB/s"}}}}
    mine = start("gpt-1.7b", cluster, "tp=2,global_batch=256", devices=64)
    assert str(Job.sensitivity(mine, analysis="bottlenecks").start().result(60)) == str(
        dse.sensitivity.bottlenecks(mine.result)
    )


@pytest.mark.parametrize(
    ("strategy", "locks"),
    [
        ("tp=2,pp=2,global_batch=256", ()),
        ("tp=2,cp=2,global_batch=256,precision=fp16", ("cp", "zero_stage", "devices")),
    ],
)
def test_a_search_keeps_what_find_best_keeps(monkeypatch: pytest.MonkeyPatch, strategy: str, locks: tuple[str, ...]):
    mine = start("gpt-1.7b", "dgx-a100", strategy, devices=64)
    for lock in locks:
        mine = mine.lock(lock)
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("dse.explore.best.best", lambda *parts, **how: asked.append(how))
    mine.best()
    assert work.fields_kept(mine.design, mine.locks) == asked[0]["base"]


def test_what_is_asked_for_wins_over_what_the_design_implies():
    axes = [dse.axis("cluster.devices", [64, 128])]
    asked = {"hardware": axes, "base": "precision=fp16", "options": {"tp": [1, 4]}, "objective": "tco"}
    found = work.search_inputs(STATE.design, STATE.locks, asked)
    assert found["devices"] is None and found["objective"] == "tco" and found["global_batch"] == 256
    assert found["base"]["precision"] == "fp16" and "tp" not in found["base"]
    kept = work.search_inputs(STATE.design, STATE.locks, {"hardware": grid(2)})
    assert kept["devices"] == 64 and kept["base"]["tp"] == 2


def test_an_analysis_without_factors_or_seed():
    job = Job.sensitivity(STATE, analysis="bottlenecks").start()
    assert str(job.result(60)) == str(dse.sensitivity.bottlenecks(STATE.result))


def test_a_validation_elsewhere():
    from dse.accuracy.gemm import validate_gemm

    assert Job.validate("gemm").start().result(60).summary() == validate_gemm().summary()


def test_the_calibration_in_use_here_is_used_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = calibration.shipped().read_text(encoding="utf-8")
    mine = tmp_path / "mine.yaml"
    mine.write_text(re.sub(r"^id: .*$", "id: of-my-own", text, count=1, flags=re.MULTILINE), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    calibration.use("mine.yaml")
    try:
        job = Job.search(STATE, grid(2)).start()
    finally:
        calibration.use(None)
    assert job.result(60).provenance["calibration"] == "of-my-own"


# -- how far it is ----------------------------------------------------------------------------------------------


def followed(job: Job) -> tuple[list[Status], list[Any]]:
    """Every status and what was known then, until the end."""
    statuses, known = [], []
    job.start()
    while not job.status.ended:
        statuses.append(job.status)
        if (now := job.partial()) is not None and (not known or now is not known[-1]):
            known.append(now)
        time.sleep(0.02)
    return [*statuses, job.status], known


@pytest.mark.parametrize(
    ("variables", "how"),
    [(grid(40), {"objective": BOTH}), (ranges(), {"objective": BOTH, "trials": 120, "method": "nsga2"})],
    ids=["exhaustive", "sampled"],
)
def test_what_is_known_grows_and_the_end_confirms_it(tmp_path: Path, variables: list[Any], how: Any):
    job = Job.search(LARGE, variables, couplings=PRICES, folder=tmp_path, **how)
    statuses, known = followed(job)
    counts = [s.done for s in statuses]
    assert counts == sorted(counts) and len(set(counts)) > 3 and counts[-1] == statuses[-1].total
    assert all(s.eta_s is None or s.eta_s >= 0 for s in statuses) and any(s.eta_s for s in statuses)
    assert [s.elapsed_s for s in statuses] == sorted(s.elapsed_s for s in statuses)
    final = job.result().table
    whole = final.set_index(["trial", *strategy(final)])
    assert len(known) >= 2
    for now in known:
        rows = now.table.set_index(whole.index.names)
        there = whole.loc[rows.index]  # each row that was told is a row of the end
        same = [c for c in whole.columns if c not in ("design", "on_front", "dominated_by")]
        pd.testing.assert_frame_equal(rows[same], there[same], check_dtype=False)
        assert not (there["on_front"] & ~rows["on_front"]).any()  # what the end has on its front was on it
        fronts = [
            frame[frame["on_front"]][["step_time [s]", "capital [USD]"]].to_numpy() for frame in (now.table, final)
        ]
        assert (pareto.matched_by(*fronts) >= 0).all()  # and nothing was better than it
    for before, after in itertools.pairwise(known):
        assert set(before.trials) <= set(after.trials)


def strategy(table: pd.DataFrame) -> list[str]:
    names = list(table.columns)
    return names[names.index("reasons") + 1 : names.index("strategies")]


def test_the_front_is_told_whole_and_the_rest_up_to_a_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(listen, "SHOWN", 5)
    draw = np.random.default_rng(1)
    values = [tuple(map(float, draw.integers(0, 30, 2))) for _ in range(200)]
    answers = listen.Answers("random", 0, recorded=False)
    goals = [types.SimpleNamespace(sign=1.0), types.SimpleNamespace(sign=-1.0)]
    answers._problem = types.SimpleNamespace(objectives=goals)
    sent: list[tuple[int, list[Any]]] = []

    def send(kind: bytes, content: bytes) -> None:
        if kind == listen.ANSWERS:
            sent.append(pickle.loads(content))

    ever = set()
    for begin in range(0, 200, 20):
        part = range(begin, begin + 20)
        found = [Inner(1, i % 7, [] if i % 7 == 0 else [(values[i], 0)]) for i in part]
        answers.answered([{"x": i} for i in part], found)
        monkeypatch.setattr(listen.pickle, "dumps", pickle.dumps)
        answers.tell(send)
        told = {trial for _, items in sent for trial, _, _ in items}
        good = [i for i in range(begin + 20) if i % 7]
        front = {good[i] for i in pareto.front(np.array([values[i] for i in good]) * [1, -1])}
        signed = {values[i] for i in front}
        assert signed <= {values[i] for i in told}
        ever |= {i for i in good if values[i] in signed}
    told_in_order = [trial for _, items in sent for trial, _, _ in items]
    assert len(told_in_order) == len(set(told_in_order)) and sent[-1][0] == 200
    assert len(set(told_in_order) - ever) == 5


def test_a_frame_that_is_cut_off_is_dropped():
    read, write = os.pipe()
    process.send(write, process.RESULT, b"whole")
    os.write(write, process.HEAD.pack(process.RESULT, 100) + b"half")
    os.close(write)
    with os.fdopen(read, "rb", buffering=0) as pipe:
        assert process._frame(pipe) == (process.RESULT, b"whole")
        assert process._frame(pipe) is None


# -- the caller ---------------------------------------------------------------------------------------------------


def test_callbacks_come_on_the_thread_of_the_loop():
    seen: list[tuple[str, int]] = []

    async def use() -> list[Status]:
        job = Job.search(STATE, grid(30), couplings=PRICES, objective=BOTH)
        job.on_change(lambda status: seen.append((status.state, threading.get_ident())))
        job.start()
        statuses = [status async for status in job.watch(0.1)]
        await job._task
        return statuses

    statuses = asyncio.run(use())
    assert statuses[0].state == "running" and statuses[-1].state == "done" and sum(s.ended for s in statuses) == 1
    assert seen[-1][0] == "done" and {thread for _, thread in seen} == {threading.get_ident()}


def test_callbacks_come_while_waiting_where_there_is_no_loop():
    seen: list[Status] = []
    job = Job.search(STATE, grid(3)).on_change(seen.append).start()
    assert job.wait(0.0).state == "running" and len(seen) == 1
    assert job.wait(60).state == "done" == seen[-1].state


def test_a_callback_that_fails_is_named_and_the_job_goes_on():
    async def use() -> Any:
        job = Job.search(STATE, grid(3)).on_change(lambda status: 1 / 0).start()
        with pytest.warns(UserWarning, match="ZeroDivisionError"):
            async for _ in job.watch():
                pass
        return job.result(60)

    assert len(asyncio.run(use()).points) == 9


def test_the_caller_keeps_its_pace():
    """5 ms of work in Python takes about as long while a search runs."""

    def step() -> float:
        begin = time.perf_counter()
        for _ in range(40):
            json.loads(json.dumps({str(i): i for i in range(60)}))
        return time.perf_counter() - begin

    alone = statistics.median(step() for _ in range(50))
    job = Job.search(LARGE, grid(80), couplings=PRICES, objective=BOTH).start()
    until(lambda: job.status.done)
    beside = []
    while not job.status.ended and len(beside) < 100:
        beside.append(step())
    job.cancel()
    assert len(beside) > 20 and statistics.median(beside) < 2 * alone
