"""Measuring the device at hand: points, tables, resumption, the fit, and the command with its errors."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import dse
from dse.accuracy.corpus import measured
from dse.errors import SpecError, StudyError
from dse.measure import fit, load
from dse.measure.cases import DTYPES, GRIDS, KINDS, SIZES, Case, cases
from dse.measure.device import NAMES, MeasureError, catalogue_id, conditions, dtypes, load_torch
from dse.measure.journal import NAME, Journal
from dse.measure.tables import DICTIONARY, GEMM, KERNELS, write
from dse.measure.timing import Timer
from dse.spec import load_accelerator, load_cluster


def command(monkeypatch, *arguments):
    """Run ``dse`` in this process; returns its exit code."""
    from dse.cli import main

    monkeypatch.setattr(sys, "argv", ["dse", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code or 0


@pytest.fixture(scope="module")
def torch():
    """PyTorch on one thread: timings of two would hang on what else the machine does."""
    module = pytest.importorskip("torch")
    threads = module.get_num_threads()
    module.set_num_threads(1)
    yield module
    module.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(torch, tmp_path_factory):
    """All kinds, measured for real at the smallest size."""
    from dse.measure.run import measure

    path = tmp_path_factory.mktemp("measured")
    done = measure(path, size="tiny", device="cpu", dtypes=["bf16", "fp32"])
    assert done.measured > 40 and done.failed == done.left == done.before == 0
    return path


def synthetic(path, name="NVIDIA H100 80GB HBM3", *, constants=(0.8, 0.9, 150.0, 3e-6)):
    """A journal as an H100 would write it whose products follow the model exactly."""
    from dse.cost.compute import gemm_traffic, tile_efficiency
    from dse.spec.workload.op import Gemm

    short, entry = catalogue_id(name)
    chip = load_accelerator("h100-80gb-sxm")
    matrix, small_tile, k_overhead, launch = constants
    about = {"gpu": short, "name": name, "catalogue": entry, "type": "cuda", "cores": chip.cores, "torch": "2.8.0",
             "cache": int(chip.buffer), "memory": 8 * 10**10, "driver": "570"}  # fmt: skip
    entries = [{"device": about}]
    chosen = ("gemm", "attention", "copy", "elementwise")
    for case in cases("full", chosen, ["bf16"], cuda=True):
        seconds = case.bytes / (0.9 * chip.memory.bandwidth)
        if case.kind == "gemm":
            m, n, k = (case.shape[axis] for axis in "mnk")
            share = matrix * tile_efficiency(Gemm(m, k, n), chip.cores, small_tile, k_overhead)
            traffic = gemm_traffic(m, k, n, 2, chip.buffer) / (0.9 * chip.memory.bandwidth)
            seconds = float(max(case.flops / (chip.matrix.bf16 * share), traffic) + launch)
        elif case.kind == "attention":
            slower = (0.7 if case.phase == "backward" else 1.0) * (0.5 if case.kernel == "sdpa" else 1.0)
            seconds = case.flops / (0.6 * slower * chip.matrix.bf16)
        entries.append({
            "id": case.id, "kind": case.kind, "kernel": case.kernel, "dtype": case.dtype, "phase": case.phase,
            "shape": case.shape, "options": case.options, "flops": case.flops, "bytes": case.bytes, "note": "",
            "date": "2026-01-01", "seconds": seconds, "spread": 0.01, "repeats": 9,
        })  # fmt: skip
    entries.append({"run": {"ended": "2026-01-01T00:00:00+00:00"}})
    # All at once: entry by entry each would wait for the disk.
    (path / NAME).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return Journal(path)


# -- points ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cuda", [False, True])
def test_points_are_distinct_and_complete(size, cuda):
    """Every kind has points, no two share an id, and each states its work, its traffic or is a launch."""
    points = cases(size, KINDS, DTYPES, cuda=cuda)
    assert {case.kind for case in points} == set(KINDS)
    assert len({case.id for case in points}) == len(points)
    assert all(case.flops or case.bytes or case.kind == "launch" for case in points)
    assert {case.dtype for case in points if case.kind == "gemm"} == set(DTYPES)


def test_a_budget_cuts_all_kinds_alike():
    """Half way through the points, half of each kind's are done; the seed changes the order and nothing else."""
    points = cases("full", KINDS, ["bf16"], cuda=True)
    half = points[: len(points) // 2]
    for kind in ("gemm", "attention", "elementwise", "copy"):
        count = [sum(case.kind == kind for case in part) for part in (half, points)]
        assert count[0] / count[1] == pytest.approx(0.5, abs=0.1)
    other = cases("full", KINDS, ["bf16"], cuda=True, seed=1)
    assert other != points and {case.id for case in other} == {case.id for case in points}


def test_work_and_traffic_by_hand():
    """FLOP and bytes of a product, of attention, of a copy and of a layer, worked out on paper."""
    found = {case.id: case for case in cases("tiny", KINDS, ["bf16", "fp8"], cuda=True)}
    product = found["gemm.matmul.bf16.forward.64x128x256"]
    assert product.flops == 2 * 64 * 128 * 256
    assert product.bytes == 2 * (64 * 256 + 256 * 128 + 64 * 128)
    assert found["gemm.matmul.fp8.forward.64x128x256"].bytes == 64 * 256 + 256 * 128 + 2 * 64 * 128
    full, half = (found[f"attention.sdpa.bf16.forward.1x2x128x32{end}"] for end in ("", ".causal"))
    assert full.flops == 2 * half.flops == 4 * 2 * 128 * 128 * 32
    assert found["attention.sdpa.bf16.backward.1x2x128x32"].flops == 2.5 * full.flops
    assert found["copy.copy.fp32.forward.1048576"].bytes == 2 * 4 * 2**20
    layer = found["layer.transformer.bf16.forward.1x2x64x32x64x128x1x0"]
    assert layer.flops == 2 * 64 * (4 * 64 * 64 + 3 * 64 * 128) + 0.5 * 4 * 2 * 64 * 64 * 32


# -- tables ------------------------------------------------------------------------------------------------------


def test_the_gemm_table_has_the_corpus_columns(tmp_path):
    """Same columns, order and types as the shipped table, so that either can stand for the other."""
    write(tmp_path, synthetic(tmp_path))
    shipped, own = measured("gemm"), measured_file(tmp_path)
    assert list(own.columns) == list(shipped.columns) == list(GEMM)
    assert own.dtypes.to_dict() == shipped.dtypes.to_dict()
    row = own.iloc[0]
    assert row["tflops"] == pytest.approx(2e-6 * row["m"] * row["n"] * row["k"] / row["time_us"], rel=1e-4)
    assert row["efficiency"] == pytest.approx(row["tflops"] / row["peak_tflops_ref"], rel=1e-4)
    assert set(own["gpu"]) == {"H100-80GB"} <= set(shipped["gpu"])


def measured_file(folder):
    """The GEMM table as it lies on the disk."""
    import pandas as pd

    return pd.read_parquet(folder / "gemm.parquet")


def test_the_dictionary_and_manifest_describe_the_tables(tmp_path):
    """Every column with a meaning of its own is explained; rows, digests and device are in the manifest."""
    write(tmp_path, synthetic(tmp_path))
    assert (tmp_path / "dictionary.yaml").read_text() == DICTIONARY
    for column in (*GEMM, *KERNELS):
        assert f" {column}:" in DICTIONARY or column in ("source_key", "seq", "head_dim", "layers", "causal", "repeats")
    tables = load(tmp_path)
    assert tables.manifest["files"]["gemm.parquet"]["rows"] == len(tables.gemm)
    assert tables.manifest["files"]["kernels.csv"]["rows"] == len(tables.kernels)
    assert tables.device["driver"] == "570"
    assert tables.kernels["causal"].notna().sum() == (tables.kernels["kind"] == "attention").sum()


def test_a_torn_journal_line_costs_one_point(tmp_path):
    """A line cut short is measured again, and what is appended after it is whole."""
    journal = synthetic(tmp_path)
    text = journal.path.read_text()
    lines = text.splitlines(keepends=True)
    journal.path.write_text("".join(lines[:10]) + lines[10][:25])
    again = Journal(tmp_path)
    assert len(again.done) == 9
    again.append(json.loads(lines[10]))
    assert len(Journal(tmp_path).done) == 10


def test_a_killed_run_is_not_lost(tmp_path):
    """Tables that lack points of the journal are made anew; a folder of tables alone is read as it is."""
    journal = synthetic(tmp_path)
    whole = len(load(tmp_path).gemm)
    text = journal.path.read_text()
    extra = next(json.loads(line) for line in text.splitlines() if '"kind": "gemm"' in line)
    journal.append({**extra, "id": "gemm.matmul.bf16.forward.1x1x1", "shape": {"m": 1, "n": 1, "k": 1}})
    assert len(load(tmp_path).gemm) == whole + 1
    journal.path.unlink()
    assert len(load(tmp_path).gemm) == whole + 1


def test_a_folder_belongs_to_one_device(tmp_path):
    """Another GPU, or another PyTorch, is refused with what differs."""
    journal = synthetic(tmp_path)
    with pytest.raises(SpecError, match="gpu 'H100-80GB', here it is 'H200'"):
        Journal(tmp_path).open({**journal.device, "gpu": "H200"})
    with pytest.raises(SpecError, match="torch"):
        Journal(tmp_path).open({**journal.device, "torch": "3.0"})


def test_broken_folders_are_refused(tmp_path):
    """No measurements, or files that are not tables, end in an error that names the folder."""
    with pytest.raises(SpecError, match="holds no measurements"):
        load(tmp_path)
    write(tmp_path, synthetic(tmp_path))
    (tmp_path / "gemm.parquet").write_text("no table")
    with pytest.raises(SpecError, match="not readable"):
        load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="cannot be read"):
        Journal(tmp_path / "file" / "below")
    journal = Journal(tmp_path / "new")
    (tmp_path / "new").write_text("")
    with pytest.raises(StudyError, match="cannot write"):
        journal.append({"id": "x"})


# -- the fit -----------------------------------------------------------------------------------------------------


def test_the_fit_finds_the_constants_that_made_the_times(tmp_path):
    """Times computed from known constants give them back, and the files carry them into an estimate."""
    synthetic(tmp_path)
    found = fit(tmp_path)
    wanted = {"matrix": 0.8, "small_tile": 0.9, "k_overhead": 150.0, "launch": 3e-6, "memory": 0.9, "attention": 0.6,
              "attention_backward": 0.7}  # fmt: skip
    assert found["base"] == "h100-80gb-sxm" and found["errors"]["bf16"]["p90"] < 0.01
    chip = load_accelerator(str(tmp_path / "accelerator.yaml"))
    for name, value in wanted.items():
        assert found["efficiency"][name] == pytest.approx(value, rel=0.02), name
        assert getattr(chip.efficiency, name) == found["efficiency"][name]
        assert chip.source_of(f"efficiency.{name}").kind == "measured"
    assert chip.matrix == load_accelerator("h100-80gb-sxm").matrix
    strategy = "tp=1,micro_batch=1,global_batch=8"
    node = {"base": "dgx-h100", "node": {"accelerator": str(tmp_path / "accelerator.yaml")}}
    own = dse.estimate("llama3-8b", node, strategy, devices=8)
    assert (
        own.summary()["step_time_s"]
        != dse.estimate("llama3-8b", "dgx-h100", strategy, devices=8).summary()["step_time_s"]
    )


def test_the_fit_agrees_with_the_corpus_fit():
    """On the shipped products of an H100 both fits find the same surface."""
    from dse.accuracy.gemm import fit_gemm
    from dse.measure.calibrate import fit_surface

    table = measured("gemm")
    rows = table[(table["gpu"] == "H100-80GB") & (table["dtype"] == "bf16")]
    chip = load_accelerator("h100-80gb-sxm")
    bandwidth = chip.memory.bandwidth * chip.efficiency.memory
    values, errors = fit_surface(rows, chip.matrix.bf16, bandwidth, (chip.cores, chip.buffer))
    for name, value in fit_gemm("H100-80GB", "bf16")[0].items():
        assert values[name] == pytest.approx(value, rel=0.05), name
    assert np.median(np.abs(errors)) < 0.07


def test_a_device_outside_the_catalogue_is_its_own_peak(tmp_path):
    """An unknown GPU gets a whole entry with its fastest product and copy as peaks; without copies it is refused."""
    synthetic(tmp_path, "Some Other GPU 24GB")
    found = fit(tmp_path)
    gemm = load(tmp_path).gemm
    assert found["base"] is None and gemm["efficiency"].isna().all()
    assert found["peaks"]["bf16"] == pytest.approx(gemm["tflops"].max() * 1e12)
    chip = load_accelerator(str(tmp_path / "accelerator.yaml"))
    assert chip.memory.bandwidth == pytest.approx(found["peaks"]["bandwidth"], rel=1e-4)
    assert load_cluster(str(tmp_path / "cluster.yaml")).accelerator.matrix.bf16 == chip.matrix.bf16
    journal = Journal(tmp_path)
    journal.points = {name: point for name, point in journal.points.items() if point["kind"] != "copy"}
    write(tmp_path, journal)
    journal.path.unlink()
    with pytest.raises(SpecError, match="needs gemm and copy"):
        fit(tmp_path)


def test_device_names_match_whole_and_lead_to_entries():
    """A slice or another board of a chip is not taken for the catalogue's; every id that is named exists."""
    assert catalogue_id("NVIDIA H100 80GB HBM3") == ("H100-80GB", "h100-80gb-sxm")
    assert catalogue_id("NVIDIA A100-SXM4-80GB") == ("A100-80GB", "a100-80gb-sxm")
    for other in ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA H100 NVL", "NVIDIA H200 NVL", "Radeon"):
        assert catalogue_id(other)[1] is None
    assert {short for _, short, _ in NAMES} >= set(measured("gemm")["gpu"])


# -- timing on a GPU, without one -----------------------------------------------------------------------------------


def test_gpu_timing_flushes_before_each_repeat_and_takes_the_median():
    """Order of the calls, and the median of what the events say, on a stand-in for the device."""
    told = []

    class Event:
        count = 0

        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            told.append("event")

        def elapsed_time(self, end):
            Event.count += 1
            return 100.0 if Event.count == 1 else 2.0  # the first one stumbles

    buffer = SimpleNamespace(zero_=lambda: told.append("flush"), numel=lambda: 25, element_size=lambda: 4)
    cuda = SimpleNamespace(Event=Event, synchronize=lambda: told.append("wait"))
    fake = SimpleNamespace(cuda=cuda, float32=None, empty=lambda *a, **k: buffer)
    timer = Timer(fake, SimpleNamespace(type="cuda"), cache=100, size="tiny")
    found = timer.time(lambda: told.append("call"))
    assert found.seconds == pytest.approx(2e-3) and timer.bytes == 100
    repeated = told[len(told) - 1 - 4 * found.repeats : -1]
    assert repeated == ["flush", "event", "call", "event"] * found.repeats and told[-1] == "wait"


@pytest.mark.parametrize(("capability", "wanted"), [((7, 0), False), ((8, 0), False), ((8, 9), True), ((9, 0), True)])
def test_fp8_only_where_the_device_has_it(capability, wanted):
    """FP8 from compute capability 8.9 on; bf16 and tf32 from 8.0 on."""
    fake = SimpleNamespace(cuda=SimpleNamespace(get_device_capability=lambda n: capability),
                           version=SimpleNamespace(hip=None))  # fmt: skip
    found = dtypes(fake, SimpleNamespace(type="cuda"))
    assert ("fp8" in found) == wanted and ("bf16" in found) == ("tf32" in found) == (capability >= (8, 0))


def test_a_missing_nvidia_smi_is_no_fault(monkeypatch):
    """Without the tool the clocks are blank; with it, numbers are numbers."""
    fake = SimpleNamespace(cuda=SimpleNamespace(get_device_properties=lambda n: SimpleNamespace(uuid="1-2")))
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert conditions(fake, SimpleNamespace(type="cuda")) == {}
    monkeypatch.setattr("shutil.which", lambda name: "/bin/nvidia-smi")
    asked = []

    def answer(line, **_):
        asked.append(line)
        return SimpleNamespace(returncode=0, stdout="1980, 1980, 2619, 412.5, 700.0, [N/A]\n")

    monkeypatch.setattr(subprocess, "run", answer)
    state = conditions(fake, SimpleNamespace(type="cuda"))
    assert state["clocks.sm"] == 1980 and state["power.draw"] == 412.5 and state["temperature.gpu"] == "[N/A]"
    assert asked[0][1:3] == ["-i", "GPU-1-2"]


# -- without PyTorch -----------------------------------------------------------------------------------------------


def test_importing_never_imports_torch():
    """The package, its command line and this part of it load without PyTorch."""
    code = "import sys, dse, dse.cli, dse.measure.run, dse.measure.show; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_without_torch_the_error_names_the_extra(monkeypatch, tmp_path, capsys):
    """Exit code 2, how to install it, and nothing written."""
    monkeypatch.setitem(sys.modules, "torch", None)
    assert command(monkeypatch, "measure", "--out", tmp_path / "new") == 2
    assert "pip install 'dse[measure]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_an_old_torch_is_refused(monkeypatch):
    """The error names the version found and the one needed."""
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__="2.3.1+cu121"))
    with pytest.raises(MeasureError, match=r"2.4 or newer, not 2.3.1"):
        load_torch()


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("--kinds", "gemm,convolution"), "convolution"),
        (("--device", "tpu"), "auto, cpu, cuda"),
        (("--size", "huge"), "tiny, small, full"),
        (("--budget", "0"), "above 0"),
    ],
)
def test_wrong_options_end_with_two(monkeypatch, tmp_path, capsys, arguments, wanted):
    """Each names what is allowed, whether or not PyTorch is there."""
    assert command(monkeypatch, "measure", "--out", tmp_path, *arguments) == 2
    assert wanted in capsys.readouterr().err


def test_out_is_required(monkeypatch, capsys):
    """Without a folder the command says how it is called."""
    assert command(monkeypatch, "measure") == 2
    assert "--out DIR" in capsys.readouterr().err


def test_show_and_fit_without_torch(monkeypatch, tmp_path, capsys):
    """Both read the tables alone: rates with their shares of the catalogue's peaks, and the fitted constants."""
    monkeypatch.setitem(sys.modules, "torch", None)
    synthetic(tmp_path)
    assert command(monkeypatch, "measure", "show", tmp_path) == 0
    text = capsys.readouterr().out
    assert "catalogue h100-80gb-sxm" in text and "989.4 TFLOP/s" in text
    assert command(monkeypatch, "measure", "show", tmp_path, "--json") == 0
    rows = {(r["kernel"], r["phase"]): r for r in json.loads(capsys.readouterr().out)["kernels"]}
    assert rows["copy", "forward"]["share_median"] == pytest.approx(0.9, rel=1e-3)
    assert rows["host_to_device", "forward"]["share_best"] is None
    assert command(monkeypatch, "measure", "fit", tmp_path) == 0
    assert "attention_backward" in capsys.readouterr().out
    assert command(monkeypatch, "measure", "fit", tmp_path / "none") == 2


# -- for real, on the CPU ------------------------------------------------------------------------------------------


def test_every_kind_is_measured_on_the_cpu(folder):
    """All points have a time, and the rates are those of a computer: neither zero nor beyond any CPU's."""
    tables = load(folder)
    assert set(tables.kernels["kind"]) == set(KINDS) - {"gemm"}
    assert set(tables.gemm["dtype"]) == {"bf16", "fp32"} and len(tables.gemm) == 2 * 8
    assert (tables.gemm["time_us"] > 0.5).all() and (tables.gemm["tflops"] < 20).all()
    assert (tables.kernels["time_us"] > 0.01).all()
    assert tables.gemm["peak_tflops_ref"].isna().all()
    state = tables.manifest["runs"][0]
    assert state["seed"] == 0 and state["size"] == "tiny" and len(state["conditions"]) >= 2
    assert tables.manifest["failed"] == {}


def test_a_far_larger_product_takes_longer(torch):
    """A product of ten thousand times the work: no noise of a busy machine turns that around."""
    from dse.measure.kernels import prepare

    timer = Timer(torch, torch.device("cpu"), cache=2**20, size="tiny")
    small, large = (Case("gemm", "matmul", "fp32", "forward", {"m": s, "n": s, "k": s}) for s in (32, 768))
    times = [timer.time(prepare(torch, timer.device, case).call) for case in (small, large)]
    assert times[1].seconds > 5 * times[0].seconds > 0
    assert all(found.spread >= 0 and found.repeats >= 3 for found in times)


def test_the_measured_cpu_prices_a_model(folder, monkeypatch, capsys):
    """The fitted cluster file goes straight into an estimate."""
    found = fit(folder)
    assert {"matrix", "memory", "attention", "launch"} <= set(found["efficiency"])
    model = {"id": "m", "family": "transformer", "layers": 2, "hidden": 64, "heads": 2, "ffn_hidden": 128,
             "gated_mlp": True, "vocab": 256, "seq_len": 64}  # fmt: skip
    priced = dse.estimate(model, str(folder / "cluster.yaml"), "micro_batch=2,global_batch=2", devices=1).summary()
    assert 1e-5 < priced["step_time_s"] < 10 and priced["feasible"]


def test_an_interrupted_run_goes_on(torch, tmp_path, monkeypatch):
    """Ctrl-C leaves whole tables; the next run measures the rest and nothing twice."""
    import dse.measure.run as module

    begun = []
    prepare = module.prepare

    def counted(torch, device, case):
        begun.append(case.id)
        if len(begun) == 4:
            raise KeyboardInterrupt
        return prepare(torch, device, case)

    monkeypatch.setattr(module, "prepare", counted)
    arguments = ("measure", "--out", tmp_path, "--size", "tiny", "--device", "cpu", "--kinds", "gemm,copy", "--dtypes",
                 "fp32")  # fmt: skip
    assert command(monkeypatch, *arguments) == 130
    first = load(tmp_path)
    assert len(first.gemm) + len(first.kernels) == 3
    assert command(monkeypatch, *arguments) == 0
    second = load(tmp_path)
    total = len(cases("tiny", ["gemm", "copy"], ["fp32"], cuda=False))
    assert len(second.gemm) + len(second.kernels) == total
    assert len(begun) == total + 1 and len(second.manifest["runs"]) == 2


def test_a_spent_budget_leaves_the_rest(torch, tmp_path):
    """With next to no time one point at most is measured, and the outcome says how many are left."""
    from dse.measure.run import measure

    done = measure(tmp_path, size="tiny", device="cpu", kinds=["copy"], budget=1e-9)
    assert done.left == len(GRIDS["tiny"].copies) * 2 and done.measured == 0
    assert len(load(tmp_path).kernels) == 0


def test_what_the_device_cannot_do_is_noted(torch, tmp_path, monkeypatch, capsys):
    """A failing point is listed with its reason, left out of the tables, and tried again later."""
    import dse.measure.run as module

    def refuse(torch, device, case):
        raise NotImplementedError("no such kernel")

    monkeypatch.setattr(module, "prepare", refuse)
    arguments = ("measure", "--out", tmp_path, "--size", "tiny", "--device", "cpu", "--kinds", "launch")
    assert command(monkeypatch, *arguments) == 0
    assert "1 failed" in capsys.readouterr().out
    assert list(load(tmp_path).manifest["failed"].values()) == ["no such kernel"]
    monkeypatch.undo()
    assert command(monkeypatch, *arguments, "--json") == 0
    assert json.loads(capsys.readouterr().out)["measured"] == 1


@pytest.mark.parametrize("arguments", [("--device", "cuda"), ("--device", "cpu", "--dtypes", "fp8")])
def test_what_needs_a_gpu_says_so(torch, tmp_path, monkeypatch, capsys, arguments):
    """CUDA and FP8 are refused where there is no GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command(monkeypatch, "measure", "--out", tmp_path, "--size", "tiny", *arguments) == 2
    assert "GPU" in capsys.readouterr().err or arguments[1] == "cuda"
