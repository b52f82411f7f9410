"""What a search keeps: answers by content, its inputs in a folder; and what follows from the hardware it varies."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from search_spaces import Random

import dse
from dse.errors import SpecError, StudyError
from dse.explore.search import cache, evaluate
from dse.explore.search.inner import grid, solve
from dse.explore.search.problem import problem
from dse.explore.search.run import resume, search
from dse.explore.search.saved import keep, load
from dse.explore.search.variables import Coupling, coupling, span

PRICE, CAPACITY = "cluster.accelerator.price", "cluster.accelerator.memory.capacity"
INTER, RATE = "cluster.network.inter.bandwidth", "cluster.network.inter.price"
OPTIONS = {"pp": [1, 2], "tp": [1, 2], "micro_batch": [1, 2], "zero_stage": [1], "virtual_stages": [1],
           "recompute": ["none"], "sequence_parallel": [False]}  # fmt: skip
GPT = {"model": "gpt-1.7b", "cluster": "dgx-a100", "global_batch": 64, "options": OPTIONS}
SIZES = {**GPT, "hardware": [dse.axis("cluster.devices", [8, 16]), dse.axis(CAPACITY, [40e9, 80e9])]}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "answers.sqlite"


@pytest.fixture
def solved(monkeypatch):
    """Hardware designs that were solved, not looked up."""
    found: list[dict] = []

    def counting(given, points):
        found.extend(points)
        return solve(given, points)

    monkeypatch.setattr(evaluate, "solve", counting)
    return found


# -- answers kept by content ------------------------------------------------------------------------------------


def test_a_second_run_computes_nothing(solved):
    first = search(**SIZES)
    assert len(solved) == 4 and first.cached == 0
    again = search(**SIZES)
    sampled = search(**SIZES, method="tpe", trials=3)
    assert len(solved) == 4 and again.cached == 4 and sampled.cached == 3
    assert again.table.equals(first.table)


def test_more_values_compute_only_what_is_new(solved):
    search(**SIZES)
    more = [SIZES["hardware"][0], dse.axis(CAPACITY, [20e9, 40e9, 80e9])]
    search(**{**SIZES, "hardware": more})
    assert len(solved) == 6


CHANGES = {
    "objective": {"objective": "cost"},
    "direction": {"objective": "max step_time"},
    "order of objectives": {"objective": ["step_time", "cost"]},
    "budget": {"budget": "capital <= 1 MUSD"},
    "base": {"base": "precision=fp16"},
    "batch": {"global_batch": 128},
    "options": {"options": {**OPTIONS, "tp": [1]}},
    "order of options": {"options": {**OPTIONS, "tp": [2, 1]}},
    "model": {"model": "gpt-3.6b"},
    "cluster": {"cluster": "dgx-h100"},
    "coupling": {"couplings": [coupling(PRICE, CAPACITY, "1 USD/GB")]},
    "edited entry": {"cluster": dse.load_cluster("dgx-a100").replace(reliability={"restart": 301.0})},
}  # fmt: skip


@pytest.mark.parametrize("changed", CHANGES)
def test_any_change_of_the_inputs_is_another_problem(changed, solved):
    search(**SIZES)
    search(**{**SIZES, **CHANGES[changed]})
    assert len(solved) == 8
    search(**{**SIZES, **CHANGES[changed]})
    assert len(solved) == 8


def test_another_calibration_is_another_problem(solved, monkeypatch):
    search(**SIZES)
    other = dataclasses.replace(cache.calibration.active(), id="another")
    monkeypatch.setattr(cache.calibration, "active", lambda: other)
    search(**SIZES)
    assert len(solved) == 8


def test_other_code_is_another_problem(solved, monkeypatch):
    search(**SIZES)
    monkeypatch.setattr(cache, "code_digest", lambda: "another")
    search(**SIZES)
    assert len(solved) == 8


def test_identities_tell_apart_what_answers_depend_on():
    """Order of added options, names of variables and texts of budgets: answers are decoded by them."""
    one = {**SIZES, "options": {**OPTIONS, "precision": ["bf16", "fp16"], "attention": ["flash", "unfused"]}}
    other = {**SIZES, "options": {**OPTIONS, "attention": ["flash", "unfused"], "precision": ["bf16", "fp16"]}}
    assert cache.identity(problem(**one)) != cache.identity(problem(**other))
    named = [
        {**GPT, "hardware": [dse.axis(CAPACITY, [4e10, 8e10], name=a), dse.axis("cluster.memory.bandwidth", [4e10, 8e10], name=b)]}
        for a, b in (("x", "y"), ("y", "x"))
    ]  # fmt: skip
    assert cache.identity(problem(**named[0])) != cache.identity(problem(**named[1]))
    texts = [{**SIZES, "budget": text} for text in ("capital <= 1 USD", "capital<=1 USD")]
    for arguments in texts:
        assert "capital = " in search(**arguments).table["reasons"][0]


def test_own_quantities_are_never_taken_from_the_cache(solved):
    """What a function of the user's own depends on is not known; values in the place of quantities differ."""
    tables = [search(**SIZES, objective="cost", replace={"cost": value}).front for value in (1.0, 2.0, 1.0)]
    assert [frame["cost [USD]"].iloc[0] for frame in tables] == [1.0, 2.0, 1.0]
    assert len(solved) == 12


@pytest.mark.parametrize("damage", ["garbage", "truncated", "bad answers", "not a file"])
def test_a_damaged_cache_is_survived(damage, own_cache, solved):
    first = search(**SIZES)
    if damage == "bad answers":
        with sqlite3.connect(own_cache) as store:
            store.execute("UPDATE answers SET answer = substr(answer, 1, 20)")
        store.close()
    else:
        for beside in own_cache.parent.iterdir():
            beside.unlink()
    if damage == "garbage":
        own_cache.write_bytes(b"not a database " * 1000)
    if damage == "truncated":
        with sqlite3.connect(own_cache) as store:
            store.execute("CREATE TABLE answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
            store.executemany("INSERT INTO answers VALUES (?, ?)", [(str(i), "x" * 1000) for i in range(100)])
        store.close()
        own_cache.write_bytes(own_cache.read_bytes()[:5000])
    if damage == "not a file":
        own_cache.mkdir()
    assert search(**SIZES).table.equals(first.table)
    assert len(solved) == 8


def test_the_cache_can_be_switched_off(own_cache, solved, monkeypatch):
    search(**SIZES, cache=False)
    monkeypatch.setenv("DSE_CACHE", "off")
    search(**SIZES)
    search(**SIZES)
    assert len(solved) == 12 and not own_cache.exists()


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path, monkeypatch, solved):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DSE_CACHE", str(tmp_path / "file"))
    search(**SIZES)
    search(**SIZES)
    assert len(solved) == 8


def test_processes_write_one_cache_together(own_cache):
    """Four processes fill it at once; every answer can be read afterwards, and is whole."""
    code = """
import sys
from dse.explore.search.cache import Cache
store, me = Cache(sys.argv[1]), int(sys.argv[2])
for start in range(0, 300, 20):
    store.put((f"{i}", {"number": i, "text": "x" * 500}) for i in range(start, start + 20))
    store.put([(f"own {me} {start}", {"number": me})])
    found = store.get([f"{i}" for i in range(start + 20)])
    assert len(found) == start + 20 and all(found[k]["number"] == int(k) for k in found)
"""
    command = [sys.executable, "-c", code, str(own_cache)]
    running = [subprocess.Popen([*command, str(i)], stderr=subprocess.PIPE, text=True) for i in range(4)]
    assert [(p.communicate(timeout=120)[1], p.returncode) for p in running] == [("", 0)] * 4
    found = cache.Cache(own_cache).get([f"own {me} {start}" for me in range(4) for start in range(0, 300, 20)])
    assert len(found) == 60


# -- couplings ----------------------------------------------------------------------------------------------------


def _price(couplings, point, cluster="dgx-a100", **arguments):
    found = problem(**{**GPT, "cluster": cluster, "couplings": couplings, **arguments})
    return found.specs_at(point)["cluster"].accelerator.price


def test_couplings_are_straight_lines_through_the_base():
    """Price = base + rate · (capacity − base), both as single designs and along the hardware axis."""
    base = dse.load_cluster("dgx-a100").accelerator
    hardware = [dse.axis(CAPACITY, [40e9, 80e9, 160e9]), dse.axis("cluster.memory.bandwidth", [1e12, 2e12, 4e12])]
    rates = [coupling(PRICE, CAPACITY, "20 USD/GB"), coupling(PRICE, "cluster.memory.bandwidth", "1000 USD/(TB/s)")]
    for capacity in (40e9, 80e9, 160e9):
        for bandwidth in (1e12, 2e12, 4e12):
            point = {"accelerator.memory.capacity": capacity, "memory.bandwidth": bandwidth}
            more = [20e-9 * (capacity - base.memory.capacity), 1e-9 * (bandwidth - base.memory.bandwidth)]
            prices = [_price(chosen, point, hardware=hardware) for chosen in ([], rates[:1], rates[1:], rates)]
            assert prices == pytest.approx([base.price + g for g in (0, more[0], more[1], sum(more))])
    found = search(**GPT, hardware=hardware, couplings=rates, devices=8, objective="capital")
    for number, point in enumerate(found.points):
        cluster = found.problem.specs_at(point)["cluster"]
        fixed = dse.estimate("gpt-1.7b", cluster, "tp=1,pp=1,micro_batch=1,zero_stage=1,global_batch=64", devices=8)
        assert found.answers[number].front[0][0][0] == float(fixed["capital"])


def test_a_coupled_field_is_never_below_zero():
    hardware = [dse.axis(CAPACITY, [1e9, 80e9])]
    steep = [coupling(PRICE, CAPACITY, "1 MUSD/GB")]
    assert _price(steep, {"accelerator.memory.capacity": 1e9}, hardware=hardware) == 0.0
    assert search(**GPT, hardware=hardware, couplings=steep, devices=8, objective="min capital").feasible_count


def test_couplings_that_could_only_take_away_from_nothing_are_refused():
    """The memory's price is part of the device's: less memory takes it off there."""
    hardware = [dse.axis(CAPACITY, [1e9, 80e9])]
    with pytest.raises(SpecError, match=r"is 0 here and would fall to .* couple cluster\.accelerator\.price"):
        search(**GPT, hardware=hardware, couplings=[coupling("cluster.memory.price", CAPACITY, "1 USD/GB")], devices=8)


def test_proportional_couplings_scale():
    base = dse.load_cluster("dgx-a100").accelerator
    hardware = [span(CAPACITY, "20 GB", "320 GB")]
    for share in (0.5, 1.0, 3.0):
        point = {"accelerator.memory.capacity": base.memory.capacity * share}
        assert _price([coupling(PRICE, CAPACITY, "proportional")], point, hardware=hardware) == pytest.approx(
            base.price * share
        )


def test_couplings_count_from_the_accelerator_that_was_chosen():
    """A whole accelerator brings its own price; memory beyond its own costs extra."""
    names = ["a100-80gb-sxm", "h100-80gb-sxm"]
    hardware = [dse.axis("cluster.node.accelerator", names), dse.axis(CAPACITY, [80e9, 160e9])]
    for name in names:
        base = dse.load_accelerator(name)
        point = {"node.accelerator": name, "accelerator.memory.capacity": 160e9}
        expected = base.price + 20e-9 * (160e9 - base.memory.capacity)
        assert _price([coupling(PRICE, CAPACITY, "20 USD/GB")], point, hardware=hardware) == pytest.approx(expected)


def test_what_follows_the_number_of_devices_follows_it():
    """The network of a larger cluster costs more a device."""
    hardware = [dse.axis("cluster.devices", [8, 16, 64])]
    given = problem(**GPT, hardware=hardware, couplings=[coupling(RATE, "cluster.devices", 1.0)])
    base = dse.load_cluster("dgx-a100")
    for devices in (8, 16, 64):
        cluster = given.specs_at({"devices": devices})["cluster"]
        expected = base.network.dimensions[-1].price + 1.0 * (devices - base.devices)
        assert cluster.network.dimensions[-1].price == pytest.approx(max(expected, 0.0))


BAD = {
    "unknown field": ([coupling("cluster.prise", CAPACITY, "1 USD/GB")], "no such field"),
    "unit": ([coupling(PRICE, CAPACITY, "1 W/GB")], "dimension"),
    "no unit": ([coupling(PRICE, CAPACITY, "3")], "needs a unit"),
    "no number": ([coupling("cluster.accelerator.vendor", CAPACITY, "1 USD/GB")], "not a number"),
    "whole number": ([coupling("cluster.node.devices", CAPACITY, 1e-9)], "whole number"),
    "searched": ([coupling(CAPACITY, PRICE, "1 GB/USD")], "searched and follows"),
    "chained": ([coupling(PRICE, CAPACITY, "1 USD/GB"), coupling(RATE, PRICE, 0.1)], "follows and is followed"),
    "zero": ([coupling(PRICE, "cluster.facility.maintenance", "proportional")], "proportion to zero"),
    "form": ([{"target": PRICE}], "dse.coupling"),
    "no coupling": (["price ~ capacity"], "dse.coupling"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_couplings_are_refused(kind):
    couplings, message = BAD[kind]
    with pytest.raises(SpecError, match=message):
        problem(**GPT, hardware=[dse.axis(CAPACITY, [40e9, 80e9])], couplings=couplings, devices=8)


@pytest.mark.parametrize(
    ("hardware", "message"),
    [
        ([dse.axis("tp", [1, 2])], "go into 'options'"),
        ([dse.axis(CAPACITY, ["1 GB", "1000 MB"])], "stands for two"),
        ([dse.axis("cluster", [dse.load_cluster("dgx-a100"), dse.load_cluster("dgx-a100").replace(devices=8)])], "its own id"),
        ([span(CAPACITY, "80 GB", "40 GB")], "low must be below high"),
        ([span("cluster.facility.maintenance", 0.0, 0.5)], "above 0"),
        ([span("cluster", 1, 2)], "must be an id"),
        ([span(CAPACITY, 4e10, 8e10, name="design")], "another column"),
        ([dse.axis(CAPACITY, [4e10], name="a"), dse.axis(INTER, [1e10], name="a")], "share one"),
        ([dse.axis(CAPACITY, [-1.0])], "capacity"),
    ],
)  # fmt: skip
def test_bad_hardware_is_refused(hardware, message):
    with pytest.raises(SpecError, match=message):
        problem(**GPT, hardware=hardware, devices=8)


# -- a search in its folder ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 8, 16, 20, 23])
def test_a_problem_comes_back_from_its_folder(seed, tmp_path):
    """The same identity, designs and answers."""
    given = problem(**Random(seed).arguments)
    keep(tmp_path, given, {"method": "tpe", "trials": 7, "seed": 1, "batch": None})
    again, settings = load(tmp_path)
    assert cache.identity(again) == cache.identity(given)
    assert settings == {"method": "tpe", "trials": 7, "seed": 1, "batch": None}
    assert list(grid(again)) == list(grid(given))
    points = list(grid(given))[:3]
    assert [a.to_dict() for a in solve(again, points)] == [a.to_dict() for a in solve(given, points)]


def test_spans_structure_and_the_order_of_options_come_back(tmp_path):
    arguments = {
        **GPT,
        "options": {"recompute": ["none", "full"], "precision": ["bf16"], "attention": ["flash"], "tp": [2, 1]},
        "hardware": [span(INTER, "5 GB/s", "80 GB/s", name="wire"), dse.axis("cluster.network.pipeline_chunks", [None, 64]),
                     span("cluster.devices", 8, 32, steps=3), dse.axis("cluster.node.accelerator", ["a100-80gb-sxm"])],
        "couplings": [coupling(RATE, INTER, "40 USD/(GB/s)"), Coupling(PRICE, CAPACITY, "proportional")],
        "budget": ["capital <= 3 MUSD"],
        "base": "zero_stage=1",
        "objective": ["P(step_time <= 2 s)", "tco"],
    }  # fmt: skip
    given = problem(**arguments)
    keep(tmp_path, given, {})
    again, _ = load(tmp_path)
    assert cache.identity(again) == cache.identity(given)
    assert [(v.name, v.values, v.low, v.high, v.log) for v in again.variables] == [
        (v.name, v.values, v.low, v.high, v.log) for v in given.variables
    ]
    assert list(again.options) == list(given.options)


def test_another_search_in_the_folder_is_refused(tmp_path):
    search(**SIZES, folder=tmp_path)
    for change, name in (
        ({"budget": "capital <= 1 MUSD"}, "budget"),
        ({"objective": "cost"}, "objective"),
        ({"hardware": SIZES["hardware"][:1]}, "hardware"),
        ({"options": {**OPTIONS, "tp": [1]}}, "options"),
        ({"global_batch": 128}, "global_batch"),
        ({"model": "gpt-3.6b"}, "model"),
    ):
        with pytest.raises(StudyError, match=f"another search .*{name}"):
            search(**{**SIZES, **change}, folder=tmp_path)
    with pytest.raises(StudyError, match="seed = 0, now 3"):
        search(**SIZES, folder=tmp_path, seed=3)
    assert resume(tmp_path).table.equals(search(**SIZES).table)


def test_a_search_by_another_version_is_refused(tmp_path, monkeypatch):
    search(**SIZES, folder=tmp_path)
    monkeypatch.setattr(cache, "code_digest", lambda: "another")
    with pytest.raises(StudyError, match="another version"):
        resume(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "not json", "[]", "{}", '{"kind": "search"}', '{"kind": "search", "problem": {}}',
             '{"kind": "search", "problem": {}, "identity": "x", "settings": 3}',
             '{"kind": "search", "problem": {}, "identity": "x", "settings": {}}', b"\xff\xfe", "null"],
)  # fmt: skip
def test_what_is_not_a_search_is_refused(text, tmp_path):
    (tmp_path / "problem.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StudyError, match="not the description of a search"):
        resume(tmp_path)
    with pytest.raises(StudyError):
        search(**SIZES, folder=tmp_path)
    with pytest.raises(StudyError, match="holds no search"):
        resume(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"method": "simplex"}, "must be one of"), ({"method": "cmaes", "objective": ["tco", "cost"]}, "one objective"),
     ({"method": "tpe", "trials": 0}, "at least 1"), ({"method": "nsga2", "batch": 2}, "population"),
     ({"method": "tpe", "seed": -1}, "seed")],
)  # fmt: skip
def test_a_refused_method_leaves_no_folder(settings, message, tmp_path):
    with pytest.raises(SpecError, match=message):
        search(**{**SIZES, **settings}, folder=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_the_table_is_kept_with_its_summary(tmp_path):
    import pandas as pd

    found = search(**SIZES, folder=tmp_path, objective=["step_time", "capital"])
    found.save(tmp_path)
    table = pd.read_parquet(tmp_path / "designs.parquet")
    assert table["step_time [s]"].tolist() == found.table["step_time [s]"].tolist()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["hardware_designs"] == 4 and summary["exhaustive"] and len(summary["front"]) == len(found.front)
    assert np.isclose(summary["front"][0]["step_time [s]"], found.front["step_time [s]"].iloc[0])
