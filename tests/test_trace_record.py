"""Steps of PyTorch recorded for real: one process, and four with gloo that train in parallel."""

from __future__ import annotations

import gzip
import json
import sys
import warnings

import numpy as np
import pytest

from dse.errors import SpecError
from dse.trace import Collective, Kind, load, read, validate
from dse.trace.convert import pytorch
from dse.trace.record import record

WORLD, BATCH, WIDE, HIDDEN, OUT = 4, 16, 24, 48, 8
PARAMETERS = WIDE * HIDDEN + HIDDEN + HIDDEN * OUT + OUT
FLOAT = 4


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch")
    if not module.distributed.is_available():
        pytest.skip("PyTorch without torch.distributed")
    return module


def build(torch):
    torch.manual_seed(0)
    nn = torch.nn
    return nn.Sequential(nn.Linear(WIDE, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUT))


def train(rank, folder):
    """One of the processes: data-parallel over all, an all-reduce by hand among pairs of neighbours."""
    import torch
    import torch.distributed as dist

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    pairs = [dist.new_group([first, first + 1]) for first in range(0, WORLD, 2)]
    model = torch.nn.parallel.DistributedDataParallel(build(torch))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(BATCH, WIDE)

    def step():
        optimizer.zero_grad()
        y = model(x)
        part = y.detach().clone()
        dist.all_reduce(part, group=pairs[rank // 2])
        (y.sum() + part.sum()).backward()
        optimizer.step()

    for _ in range(2):
        step()
    with record(model, folder=f"{folder}/run") as recording:
        step()
    trace = recording.trace
    told = {"nodes": len(trace), "groups": recording.groups, "seconds": float(trace.seconds.sum())}
    with open(f"{folder}/told.{rank}.json", "w") as file:  # noqa: PTH123
        json.dump(told, file)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(torch, tmp_path_factory):
    """A run of four processes."""
    path = tmp_path_factory.mktemp("recorded")
    torch.multiprocessing.spawn(train, (str(path),), nprocs=WORLD)
    return path


@pytest.fixture(scope="module")
def traces(folder):
    return load(folder / "run")


def test_every_rank_wrote_its_trace(folder, traces):
    assert len(traces) == WORLD
    assert [str(finding) for finding in validate(traces)] == []
    for rank, trace in traces.items():
        told = json.loads((folder / f"told.{rank}.json").read_text())
        assert len(trace) == told["nodes"]
        assert trace.seconds.sum() == pytest.approx(told["seconds"])
        first = rank // 2 * 2
        assert sorted(told["groups"].values()) == sorted([list(range(WORLD)), [first, first + 1]])


def test_collectives_are_those_of_the_step(traces):
    """The gradients once, in all bytes of them, among all; the activations by hand, among two."""
    for rank, trace in traces.items():
        rows = np.flatnonzero(trace.kind == Kind.COLL)
        assert trace.coll[rows].tolist() == [Collective.ALL_REDUCE] * 2
        assert trace.size[rows].tolist() == [BATCH * OUT * FLOAT, PARAMETERS * FLOAT]
        labels = [trace.labels[k] if k >= 0 else "" for k in trace.group[rows]]
        assert labels[1] == "" and traces.members(rank, labels[0]).tolist() == [rank // 2 * 2, rank // 2 * 2 + 1]


def test_times_fit_into_the_span(folder, traces):
    """Own times of a thread's operators add up to no more than the time from its first to its last."""
    for rank, trace in traces.items():
        data = gzip.decompress((folder / "run" / f"kineto.{rank}.json.gz").read_bytes())
        events = [e for e in json.loads(data)["traceEvents"] if "Record function id" in e.get("args", {})]
        begin, end = min(e["ts"] for e in events), max(e["ts"] + e["dur"] for e in events)
        compute = trace.seconds[trace.kind == Kind.COMP].sum()
        assert 0 < compute <= 1e-6 * (end - begin)
        assert np.all(trace.start * 1e-6 <= 1e-6 * (end - begin) + 1e-6)


def test_work_of_the_step(traces):
    """Forward: two products; backward: weights of both layers and the input of the second."""
    first, second = 2 * BATCH * WIDE * HIDDEN, 2 * BATCH * HIDDEN * OUT
    for trace in traces.classes:
        assert trace.flops.sum() == 2 * first + 3 * second
        assert any("Optimizer.step" in name for name in trace.names)
        assert any("AddmmBackward0" in name for name in trace.names)


def test_files_convert_again(folder, traces):
    """The kept files of the observer and the profiler give the same traces."""
    again = pytorch(folder / "run")
    assert sorted(again.groups) == sorted(traces.groups)
    for rank, trace in traces.items():
        assert np.array_equal(again[rank].seconds, trace.seconds)
        assert np.array_equal(again[rank].parents[1], trace.parents[1])


def test_official_package_reads_them(folder, traces):
    schema = pytest.importorskip("chakra.schema.protobuf.et_def_pb2")
    for rank, trace in traces.items():
        path = folder / "run" / f"trace.{rank}.et"
        nodes = _official(schema, path.read_bytes())
        head, mine = read(path)
        assert [node.id for node in nodes] == [node.id for node in mine] == trace.ids.tolist()
        assert [list(node.data_deps) for node in nodes] == [node.data_deps for node in mine]
        sizes = {a.name: a.int64_val for node in nodes if node.type == 7 for a in node.attr}
        assert sizes["comm_size"] == PARAMETERS * FLOAT
        said = {item.name: item.value for item in head.attrs}
        assert (said["parameters"], said["parameter_bytes"]) == (PARAMETERS, PARAMETERS * FLOAT)


def _official(schema, data):
    """The nodes of a file, read by the official classes."""
    from google.protobuf.internal.decoder import _DecodeVarint32

    place, found = 0, []
    while place < len(data):
        size, place = _DecodeVarint32(data, place)
        found.append(data[place : place + size])
        place += size
    schema.GlobalMetadata.FromString(found[0])
    return [schema.Node.FromString(item) for item in found[1:]]


def test_one_process_in_memory(torch):
    """Without a folder and without torch.distributed the trace is there all the same."""
    model = build(torch)
    x = torch.randn(BATCH, WIDE)
    with record(model) as recording:
        model(x).sum().backward()
    trace = recording.trace
    assert recording.files == {} and recording.groups == {} and (recording.rank, recording.world) == (0, 1)
    assert trace.flops.sum() > 0 and not (trace.kind == Kind.COLL).any()
    assert trace.seconds.sum() > 0 and "nodes" in repr(recording)


def test_a_failing_step_is_not_hidden(torch, tmp_path):
    with pytest.raises(ValueError, match="mine"), record(folder=tmp_path / "run") as recording:
        raise ValueError("mine")
    assert not (tmp_path / "run").exists()
    with pytest.raises(SpecError, match="has ended"):
        _ = recording.trace
    with record() as recording:  # the observer is free again
        torch.ones(3).sum()
    assert len(recording.trace)


def test_faults(torch, monkeypatch):
    with pytest.raises(SpecError, match=r"must be a torch\.nn\.Module"), record("model"):
        pass
    with pytest.raises(SpecError, match="no operator"), record():
        pass
    monkeypatch.setattr(torch, "__version__", "2.1.0+cpu")
    with pytest.raises(SpecError, match=r"at least 2\.4"), record():
        pass


def test_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SpecError, match=r"install dse\[record\]"), record():
        pass
