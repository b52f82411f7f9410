"""Streamed sweeps: the table equals the sweep in memory, its bytes depend on the inputs alone, and it answers queries."""

from __future__ import annotations

import json
import math
import random
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_cases import AXES, CLUSTER, MODEL, STRATEGY, files, make_table, same_as_sweep, small

import dse
from dse.errors import SpecError, StudyError
from dse.explore.stream import open_table, plan_of, resume, run, stream
from dse.explore.stream import plan as planning
from dse.explore.stream.plan import Plan, read_plan

# -- the table ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return make_table(tmp_path_factory)


def test_table_equals_the_sweep_in_memory(table):
    """Same rows in the same order, numbers, feasibility and rules that fail."""
    found = table.to_dataframe()
    same_as_sweep(found, dse.sweep(MODEL, CLUSTER, STRATEGY, *AXES, devices=512))
    assert 0 < found["feasible"].sum() < len(found)


@pytest.mark.parametrize("part_rows", [1, 7, 1000])
def test_structural_axes_anywhere(tmp_path, part_rows):
    """Whole models and clusters, fields that may be unset, and device counts are axes like others, in any position."""
    axes = (
        dse.axis("tp", [2, 8]),
        dse.axis("model", ["gpt3-175b", "llama3-70b"]),
        dse.axis("cluster.devices", [64, 512]),
        dse.axis("overlap_tp", [None, True, False]),
    )
    found = stream(MODEL, CLUSTER, "global_batch=512,pp=8", *axes, out=tmp_path, part_rows=part_rows)
    same_as_sweep(found.to_dataframe(), dse.sweep(MODEL, CLUSTER, "global_batch=512,pp=8", *axes))
    again = read_plan((tmp_path / "sweep.json").read_text())
    assert again.id == found.manifest["sweep"]


def test_axis_of_clusters_and_timing_models(tmp_path):
    """Clusters by id and the timing model as axes: each evaluated with its own graph and software stack."""
    axes = (dse.axis("cluster", ["dgx-a100", "dgx-h100"]), dse.axis("execution", ["megatron", "comet"]))
    found = stream("gpt3-175b", "dgx-a100", "global_batch=512,tp=8", *axes, out=tmp_path, devices=64, part_rows=3)
    same_as_sweep(found.to_dataframe(), dse.sweep("gpt3-175b", "dgx-a100", "global_batch=512,tp=8", *axes, devices=64))


def test_a_sweep_without_axes_is_one_row(tmp_path):
    """No axes: one design."""
    found = stream(MODEL, CLUSTER, "tp=8,pp=8,global_batch=512", devices=512, out=tmp_path)
    result = dse.estimate(MODEL, CLUSTER, "tp=8,pp=8,global_batch=512", devices=512)
    assert found.rows == 1
    assert found.to_dataframe()["step_time [s]"].item() == pytest.approx(float(result["step_time"]), rel=1e-12)


def test_columns_are_chosen_by_name_and_carry_units(tmp_path):
    """Any quantity, entry of a table or rule's margin; every column has a unit, and so has the file's header."""
    chosen = ["time.forward", "tier.local", "margin.batch_divides", "step_time"]
    found = small(tmp_path, columns=chosen)
    result = dse.sweep(MODEL, CLUSTER, STRATEGY, *AXES, devices=512)
    frame = found.to_dataframe()
    order = [b.name for b in result.axes]
    for name in ("time.forward", "step_time"):
        whole = result[name].broadcast_like(result.dataset["feasible"].broadcast_like(result["step_time"]))
        wanted = (result["step_time"] * 0 + whole).transpose(*order).values.ravel()
        np.testing.assert_allclose(frame[f"{name} [s]"], wanted, rtol=1e-12)
    assert {"time.forward [s]", "tier.local [B]", "margin.batch_divides [1]"} <= set(frame)
    assert all(column["unit"] for column in found.manifest["columns"])
    assert pq.read_schema(found.files[0]).names == [c["header"] for c in found.manifest["columns"]]


def test_all_strategies_are_the_space_of_best(tmp_path):
    """``all_strategies`` streams the space that ``dse.best`` enumerates, and agrees with it on the best design."""
    found = stream(MODEL, CLUSTER, "global_batch=512,recompute=full", out=tmp_path, devices=512, all_strategies=True)
    best = dse.best(MODEL, CLUSTER, devices=512, global_batch=512, base="recompute=full")
    assert found.rows == best.evaluated
    assert found.feasible_rows() == best.feasible_count
    first = found.best("step_time").iloc[0]
    assert first["step_time [s]"] == pytest.approx(best.ranking[0]["step_time"], rel=1e-12)
    for name, value in best.ranking[0].items():
        if name != "step_time":
            assert first[found.headers[name]] == value


def test_strategies_of_several_device_counts():
    """With an axis of device counts, degrees that suit any of them are tried."""
    counts = dse.axis("cluster.devices", [48, 64])
    plan = plan_of(MODEL, CLUSTER, "global_batch=192", counts, all_strategies=True)
    degrees = next(b.values for b in plan.axes if b.name == "pp")
    assert {3, 6, 16, 32} <= set(degrees) and list(degrees) == sorted(degrees)


# -- tiles and parts ------------------------------------------------------------------------------------------


@given(shape=st.lists(st.integers(1, 9), max_size=6), tile_rows=st.integers(1, 300), part_rows=st.integers(1, 1000))
@settings(max_examples=150, deadline=None)
def test_tiles_and_parts_cover_the_space_in_order(shape, tile_rows, part_rows):
    """Tiles are runs of rows, in order, without gaps or overlaps, within the limit; parts are runs of tiles."""
    axes = tuple(SimpleNamespace(values=tuple(range(n)), structural=False) for n in shape)
    old, planning.TILE_ROWS = planning.TILE_ROWS, tile_rows
    try:
        plan = Plan({}, axes, (), True, part_rows)  # type: ignore[arg-type]
        numbers = np.arange(math.prod(shape)).reshape(shape)
        seen = []
        for part in range(plan.parts):
            tiles = [numbers[plan.tile(t)].ravel() for t in plan.tiles_of(part)]
            assert sum(map(len, tiles)) == plan.rows_of(part) <= max(part_rows, 1)
            assert all(0 < len(t) <= tile_rows for t in tiles)
            seen += tiles
        assert np.array_equal(np.concatenate(seen), np.arange(plan.rows))
    finally:
        planning.TILE_ROWS = old


# -- the same bytes -------------------------------------------------------------------------------------------


def test_bytes_do_not_depend_on_threads_chunks_or_interruptions(table, tmp_path):
    """Random threads, chunks and lost parts: every file is the same to the last byte."""
    wanted = files(table.path)
    rng = random.Random(4)
    small(tmp_path / "out", threads=1, chunk=1)
    for _ in range(8):
        there = sorted((tmp_path / "out").glob("part-*"))
        for path in rng.sample(there, rng.randrange(len(there))):
            path.unlink()
        small(tmp_path / "out", threads=rng.randrange(1, 5), chunk=rng.choice([1, 29, 31, 64, 100, 10_000]))
        assert files(tmp_path / "out") == wanted


def test_bytes_do_not_depend_on_processes(table, tmp_path):
    """Two processes of a local Dask cluster write the same files."""
    small(tmp_path / "out", workers=2, chunk=60)
    assert files(tmp_path / "out") == files(table.path)
    assert not list((tmp_path / "out").glob(".*.tmp"))


def test_workers_that_do_not_see_the_folder_send_their_parts(table, tmp_path, monkeypatch):
    """Without a shared file system the client writes what the workers computed."""
    from dse.explore.stream import dask

    monkeypatch.setattr(dask.Sweep, "__init__", _blind(dask.Sweep.__init__))
    small(tmp_path / "out", workers=2)
    assert files(tmp_path / "out") == files(table.path)


def _blind(original):
    def init(self, plan, folder, token):
        original(self, plan, folder, token)
        self.folder = "/nonexistent"

    return init


def test_only_what_is_missing_is_computed(table, tmp_path, monkeypatch):
    """Lost and damaged parts are computed again, whole ones are not touched; so is the manifest last."""
    out = tmp_path / "out"
    small(out)
    parts = sorted(out.glob("part-*"))
    parts[1].unlink()
    parts[3].write_bytes(parts[3].read_bytes()[:-1])  # torn
    data = bytearray(parts[5].read_bytes())
    data[len(data) // 2] ^= 1  # a flipped bit
    parts[5].write_bytes(data)
    parts[6].rename(out / parts[6].name.replace("part-000006", "part-000007"))  # in another's place
    (out / ".part-000001.x.tmp").write_bytes(b"half")
    computed = []
    original = run.part_bytes
    monkeypatch.setattr(run, "part_bytes", lambda plan, n, after: computed.append(n) or original(plan, n, after))
    resume(out)
    assert sorted(computed) == [1, 3, 5, 6]
    assert files(out) == files(table.path)
    assert not list(out.glob(".*.tmp"))
    computed.clear()
    resume(out)
    assert not computed


def test_progress_rises_to_the_total(tmp_path):
    """The callback hears rows, rate and time left, those of an earlier run included."""
    heard = []
    small(tmp_path, progress=heard.append)
    done = [p.done for p in heard]
    assert done == sorted(done) and done[0] == 0 and done[-1] == heard[-1].total == 288
    assert math.isinf(heard[0].seconds_left) and heard[-1].seconds_left == 0 and heard[-1].rate > 0
    next(tmp_path.glob("part-000002-*")).unlink()
    heard.clear()
    small(tmp_path, progress=heard.append)
    assert heard[0].done == heard[0].kept > 200 and heard[-1].done == 288


# -- refusals -------------------------------------------------------------------------------------------------


def test_other_inputs_are_refused_by_name(table, tmp_path):
    """A folder keeps to the inputs it was started with; the error says which differ."""
    small(tmp_path / "a")
    with pytest.raises(StudyError, match="strategy"):
        stream(MODEL, CLUSTER, "global_batch=512", *AXES, devices=512, out=tmp_path / "a", part_rows=30)
    with pytest.raises(StudyError, match=r"axis micro_batch"):
        small(tmp_path / "a", *AXES[:-1], dse.axis("micro_batch", [1, 4]))
    with pytest.raises(StudyError, match="columns"):
        small(tmp_path / "a", columns=["mfu"])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("mine")
    with pytest.raises(StudyError, match=r"thesis\.tex"):
        small(tmp_path / "b")
    assert (tmp_path / "b" / "thesis.tex").read_text() == "mine"


def test_another_version_is_refused(tmp_path):
    """Parts of two versions are never mixed."""
    small(tmp_path)
    saved = json.loads((tmp_path / "sweep.json").read_text())
    saved["versions"]["numpy"] = "1.0"
    (tmp_path / "sweep.json").write_text(json.dumps(saved))
    with pytest.raises(StudyError, match=r"numpy 1\.0"):
        resume(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"versions": {}}', '{"versions": 3}'])
def test_a_damaged_description_is_refused(tmp_path, text):
    """A torn or foreign sweep.json is an error that names the file."""
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(StudyError, match=r"sweep\.json"):
        resume(tmp_path)


def test_quantities_of_ones_own_are_part_of_the_inputs(tmp_path):
    """A replaced quantity changes the table, must be given again to resume, and not another."""
    found = small(tmp_path, replace={"operator_efficiency": 0.5})
    plain = dse.sweep(MODEL, CLUSTER, STRATEGY, *AXES, devices=512, replace={"operator_efficiency": 0.5})
    same_as_sweep(found.to_dataframe(), plain)
    with pytest.raises(StudyError, match="of your own"):
        resume(tmp_path)
    with pytest.raises(StudyError, match="of your own"):
        resume(tmp_path, replace={"operator_efficiency": 0.6})
    resume(tmp_path, replace={"operator_efficiency": 0.5})


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"columns": ["step_tmie"]}, "step_time"),
        ({"columns": ["time.foward"]}, "foward"),
        ({"columns": ["margin.none"]}, "margin"),
        ({"columns": ["breakdown"]}, "time.forward"),
        ({"columns": ["tp"]}, "tp"),
        ({"columns": ["mfu", "mfu"]}, "mfu"),
        ({"part_rows": 0}, "part_rows"),
        ({"workers": -1}, "workers"),
        ({"threads": 1.5}, "threads"),
        ({"chunk": "many"}, "chunk"),
    ],
)
def test_bad_options_are_named(tmp_path, options, field):
    """Every bad option is refused by name before anything is written."""
    with pytest.raises(SpecError, match=field):
        small(tmp_path / "out", **options)
    assert not list(tmp_path.glob("out/*"))


def test_no_table_is_said_plainly(tmp_path):
    """Folders without a sweep, with an unfinished one, or with a part missing."""
    with pytest.raises(StudyError, match="no sweep is there"):
        open_table(tmp_path)
    small(tmp_path)
    lost = next(tmp_path.glob("part-000001-*"))
    lost.unlink()
    with pytest.raises(StudyError, match="dse resume"):
        open_table(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(StudyError, match="dse resume"):
        open_table(tmp_path)
