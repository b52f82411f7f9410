"""Searches in storages: torn journals, races, dead workers, foreign records, exact numbers."""

from __future__ import annotations

import json
import math
import multiprocessing
import random
import shutil
import threading
import time

import pytest

from dse.errors import StudyError
from dse.explore.search.driver import run_search
from dse.explore.search.outcome import Outcome
from dse.explore.search.record import OWNER, RETRY, Record
from dse.explore.search.space import Space, Variable
from dse.explore.search.storage import JOURNAL, open_storage, shown

VARIABLES = (
    Variable("count", tuple(range(9))),
    Variable("kind", ("ring", "tree", True), categorical=True),
    Variable("share", low=0.0, high=1.0),
)
DIRECTIONS = ("minimize", "maximize")
OPTIONS = {"seed": 11, "method": "nsga2", "batch": 6}


def evaluate(point: dict) -> Outcome:
    if point["count"] == 8:
        return Outcome(None, {"memory": 0.5}, {"why": ["does not fit", {"tier": 1}]})
    return Outcome(
        (point["count"] / 3.0 + point["share"], -point["share"]),
        {"memory": point["count"] - 5.5},
        {"p": point["count"]},
    )


def search(trials: int = 14, **options):
    return run_search(VARIABLES, DIRECTIONS, evaluate, trials=trials, **OPTIONS, **options)


PROBLEM = {
    "batch": 6,
    "directions": list(DIRECTIONS),
    "method": "nsga2",
    "seed": 11,
    "variables": [vars(variable) for variable in VARIABLES],
}


def worker(storage, folder, grace=60.0):
    return Record(storage, "test", "search", Space(VARIABLES), DIRECTIONS, PROBLEM, grace)


@pytest.fixture(scope="module")
def whole():
    return search()


def test_a_journal_cut_at_any_byte_goes_on(whole, tmp_path):
    """(3) Whatever a crash left of the last write, the search resumes and ends as if nothing had happened."""
    search(folder=tmp_path / "full")
    content = (tmp_path / "full" / JOURNAL).read_bytes()
    last = content[:-1].rfind(b"\n")
    cuts = {*range(last, len(content), 9), *random.Random(1).sample(range(len(content)), 50), 0, 1, len(content)}
    for cut in sorted(cuts):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / JOURNAL).write_bytes(content[:cut])
        assert search(folder=folder) == whole, cut
        torn = folder / (JOURNAL + ".torn")
        kept = content[:cut].rfind(b"\n") + 1
        assert torn.exists() == (kept < cut)
        if torn.exists():
            assert torn.read_bytes() == content[kept:cut] + b"\n"
        shutil.rmtree(folder)


def test_a_tail_torn_while_others_write_is_cut_by_the_next_writer(whole, tmp_path):
    journal = tmp_path / JOURNAL

    def tear(done: int, of: int) -> None:
        if done % 3 == 0:
            with journal.open("ab") as file:
                file.write(b'{"op_code": 4, "worker')

    assert search(folder=tmp_path, progress=tear) == whole
    assert search(folder=tmp_path) == whole
    for line in journal.read_bytes().splitlines():
        json.loads(line)


def test_a_last_line_of_garbage_is_cut(whole, tmp_path):
    search(trials=5, folder=tmp_path)
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b"\0" * 40 + b"\n")
    assert search(folder=tmp_path) == whole


def test_damage_in_the_middle_is_refused_with_its_line(tmp_path):
    search(trials=5, folder=tmp_path)
    journal = tmp_path / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    for number in (1, 7, len(lines) - 1):
        damaged = list(lines)
        damaged[number - 1] = damaged[number - 1][:10] + b"\n"
        journal.write_bytes(b"".join(damaged))
        with pytest.raises(StudyError, match=f"line {number}: damaged in the middle"):
            search(folder=tmp_path)
        assert journal.read_bytes() == b"".join(damaged)


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_fifteen_and_fifteen_more_in_a_file(kind, tmp_path):
    storage = "journal" if kind == "journal" else f"sqlite:///{tmp_path}/study.db"
    first = search(15, folder=tmp_path, storage=storage)
    second = search(30, folder=tmp_path, storage=storage)
    assert second == search(30)
    assert second.trials[:15] == first.trials
    assert search(30, folder=tmp_path, storage=storage) == second
    assert search(7, folder=tmp_path, storage=storage).trials == second.trials[:7]


def _six(storage: str, barrier, results) -> None:
    barrier.wait()
    try:
        log = search(24, storage=storage)
    except BaseException as error:
        results.put(repr(error))
        raise
    results.put([trial.outcome.encode() for trial in log.trials])


def forkserver():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["optuna", "scipy.stats", "dse.explore.search.driver"])
    return context


def test_six_processes_open_a_fresh_sqlite_study(tmp_path):
    """(4) None of the six dies, and each gives the log of a search alone."""
    context = forkserver()
    storage, barrier, results = f"sqlite:///{tmp_path}/study.db", context.Barrier(6), context.Queue()
    processes = [context.Process(target=_six, args=(storage, barrier, results)) for _ in range(6)]
    for process in processes:
        process.start()
    logs = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    assert logs == [[trial.outcome.encode() for trial in search(24).trials]] * 6
    with open_storage(storage, None) as opened:
        states = [trial.state.name for trial in opened.get_all_trials(1)]
    assert states.count("COMPLETE") + states.count("PRUNED") == 24


def _proxy(folder: str, port: int) -> None:
    import warnings

    import optuna

    warnings.simplefilter("ignore")
    with open_storage("journal", folder) as opened:
        optuna.storages.run_grpc_proxy_server(opened, host="localhost", port=port)


def test_the_grpc_proxy_shares_a_search(whole, tmp_path):
    import socket

    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    server = forkserver().Process(target=_proxy, args=(tmp_path, port), daemon=True)
    server.start()
    try:
        storage, logs = f"grpc://localhost:{port}", {}
        threads = [threading.Thread(target=lambda i=i: logs.update({i: search(storage=storage)})) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        server.kill()
        server.join()
    assert logs == {0: whole, 1: whole}
    assert search(folder=tmp_path) == whole  # the proxy's journal, taken over directly


@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_threads_share_a_search(storage, whole, tmp_path):
    logs, address = {}, "journal" if storage == "journal" else f"sqlite:///{tmp_path}/study.db"
    threads = [
        threading.Thread(target=lambda i=i: logs.update({i: search(folder=tmp_path, storage=address)}))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert logs == dict.fromkeys(range(4), whole)


def test_the_dead_of_another_machine_are_replaced_and_the_living_are_not(whole, tmp_path):
    """(5) No process id to look up: a worker counts as dead when its sign of life stands still."""
    with open_storage("journal", tmp_path) as storage:
        dead, living = worker(storage, tmp_path), worker(storage, tmp_path, grace=0.2)
        for record in (dead, living):
            record._mark.machine = "elsewhere"
        dead.claim(dead.read(), range(6), 14)
        with living:
            slot, _ = living.claim(living.read(), range(6), 14)
            assert slot == 1
            log = {}
            other = threading.Thread(target=lambda: log.update(it=search(folder=tmp_path, grace=1.0)))
            other.start()
            time.sleep(2.5)
            snapshot = living.read()
            assert sorted(snapshot.done) == [0, 2, 3, 4, 5]
            assert list(living.held(snapshot, range(6))) == [1]
            point = whole.trials[1].point
            living.finish(1, point, evaluate(point))
        other.join(30)
        assert log["it"] == whole
        states = [trial.state.name for trial in storage.get_all_trials(0)]
    assert states[0] == "FAIL" and states[1] in ("COMPLETE", "PRUNED")


def test_trials_that_others_left_in_the_study_are_replaced(whole, tmp_path):
    """A trial begun with Optuna itself, without a mark, and two retries of one slot made at the same moment."""
    import optuna

    with open_storage("journal", tmp_path) as storage:
        study = worker(storage, tmp_path)._study
        study.ask()
        study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
        for _ in range(2):
            study.add_trial(optuna.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs={RETRY: 1}))
    assert search(folder=tmp_path, grace=0.3) == whole


def test_a_search_stopped_by_an_error_gives_its_trial_back(whole, tmp_path):
    calls = []

    def failing(point: dict) -> Outcome:
        calls.append(point)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return evaluate(point)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            calls.clear()
            run_search(VARIABLES, DIRECTIONS, failing, trials=14, folder=tmp_path, **OPTIONS)
    assert search(folder=tmp_path) == whole
    with open_storage("journal", tmp_path) as storage:
        trials = storage.get_all_trials(0)
    assert [trial.state.name for trial in trials].count("FAIL") == 2
    assert all(OWNER in trial.user_attrs for trial in trials)


def test_a_result_told_too_late_is_dropped(whole, tmp_path):
    """A worker taken for dead that comes back finds its slot evaluated by another, and leaves it so."""
    with open_storage("journal", tmp_path) as storage, worker(storage, tmp_path) as late:
        slot, snapshot = late.claim(late.read(), range(6), 14)
        late._fail(snapshot.live[slot][0])
        assert search(folder=tmp_path) == whole
        late.finish(slot, whole.trials[0].point, Outcome((1.0, 1.0)))
    assert search(folder=tmp_path) == whole


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 12}, "seed was 11, now 12"),
        ({"batch": 8}, "batch was 6, now 8"),
        ({"method": "tpe"}, 'method was "nsga2", now "tpe"'),
        ({"directions": ["minimize", "minimize"]}, "directions was"),
        ({"variables": VARIABLES[:2]}, "variables was"),
    ],
)
@pytest.mark.parametrize("place", ["folder", "storage"])
def test_another_search_in_the_same_place_is_refused(change, named, place, tmp_path):
    options = {"folder": tmp_path} if place == "folder" else {"storage": f"sqlite:///{tmp_path}/study.db"}
    search(2, **options)
    asked = {"variables": VARIABLES, "directions": DIRECTIONS, "trials": 2, **OPTIONS, **options, **change}
    with pytest.raises(StudyError, match=named):
        run_search(evaluate=evaluate, **asked)


def test_a_record_of_other_samplers_is_refused(tmp_path):
    search(3, folder=tmp_path)
    journal = tmp_path / JOURNAL
    lines = [json.loads(line) for line in journal.read_bytes().splitlines()]
    for line in lines:
        if line.get("param_name") == "share" and line["trial_id"] == 2:
            line["param_value_internal"] = 0.123
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(StudyError, match=r"trial 2 of the record .* another version of the samplers"):
        search(9, folder=tmp_path)


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_every_double_survives_the_record(kind, tmp_path):
    extremes = [math.inf, -math.inf, 5e-324, 1.7976931348623157e308, -0.0, 0.1 + 0.2, 1e16 + 2, math.pi]
    text = "long " * 40_000 + '"\\ \u0000 \u2028 €'

    def odd(point: dict) -> Outcome:
        number = extremes[point["n"]]
        return Outcome((number,), {"c": number, "nan": math.nan}, {"text": text, "number": number})

    variables, storage = (
        [Variable("n", tuple(range(8)))],
        "journal" if kind == "journal" else f"sqlite:///{tmp_path}/s.db",
    )
    options = {"variables": variables, "directions": ["minimize"], "trials": 8, "method": "grid"}
    run_search(evaluate=odd, folder=tmp_path, storage=storage, **options)
    log = run_search(evaluate=lambda point: None, folder=tmp_path, storage=storage, **options)
    assert [trial.outcome.encode() for trial in log.trials] == [odd(trial.point).encode() for trial in log.trials]


def test_the_record_is_an_ordinary_optuna_study(whole, tmp_path):
    import optuna

    search(folder=tmp_path, storage=f"sqlite:///{tmp_path}/study.db")
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path}/study.db")
    assert [trial.params for trial in study.trials] == [trial.point for trial in whole.trials]
    for shown_trial, trial in zip(study.trials, whole.trials, strict=True):
        assert shown_trial.values == (None if trial.outcome.values is None else list(trial.outcome.values))
        assert shown_trial.constraints == trial.outcome.constraints
    study._storage._backend.engine.dispose()


def test_a_storage_that_cannot_be_had_is_a_clear_error(tmp_path):
    with pytest.raises(StudyError, match=r"storage postgresql.*nobody-listens"):
        search(storage=f"postgresql://user:secret@/db?host={tmp_path}/nobody-listens")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StudyError, match="file"):
        search(folder=tmp_path / "file" / "folder")
    with pytest.raises(StudyError, match="file"):
        search(storage=f"sqlite:///{tmp_path}/file/study.db")
    (tmp_path / "search.json").write_text("[1")
    with pytest.raises(StudyError, match=r"search\.json"):
        search(folder=tmp_path)


def _on_a_small_disk(folder, results) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        search(folder=folder)
    except StudyError as error:
        results.put(str(error))


def test_a_full_disk_is_a_clear_error_and_loses_nothing(whole, tmp_path):
    context = forkserver()
    results = context.Queue()
    process = context.Process(target=_on_a_small_disk, args=(tmp_path, results))
    process.start()
    message = results.get(timeout=60)
    process.join(60)
    assert "File too large" in message and str(tmp_path) in message
    evaluated = []
    log = run_search(
        VARIABLES,
        DIRECTIONS,
        lambda point: evaluated.append(1) or evaluate(point),
        trials=14,
        folder=tmp_path,
        **OPTIONS,
    )
    assert log == whole
    assert len(evaluated) < 14


def test_passwords_are_not_shown():
    assert shown("postgresql://user:secret@host:5432/db") == "postgresql://user@host:5432/db"
    assert shown("grpc://host:13000") == "grpc://host:13000"
    assert shown("sqlite:////folder/study.db") == "sqlite:////folder/study.db"
