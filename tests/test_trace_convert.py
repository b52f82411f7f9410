"""PyTorch traces and text workloads converted: dependences, times, communication, and faults in what is read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from dse.errors import SpecError
from dse.trace import Collective, Kind, columns, load, save, validate
from dse.trace.convert import pytorch
from dse.trace.convert.comm import kind_of
from dse.trace.convert.host import Tensor
from dse.trace.convert.pytorch import merged
from dse.trace.convert.writers import Writers

DATA = Path(__file__).parent.parent / "data" / "reference" / "pytorch"
HEAD = {"schema": "1.1.1-chakra.0.0.4", "pid": 1, "time": "now", "start_ts": 1, "finish_ts": 2}


def name(trace, row):
    return trace.names[trace.name[row]]


def row_of(trace, wanted):
    """The only node of that name."""
    rows = [k for k in range(len(trace)) if name(trace, k) == wanted]
    assert len(rows) == 1, (wanted, rows)
    return rows[0]


def parents(trace, row, which="data"):
    pointers, rows = getattr(trace, f"{which}_ptr"), getattr(trace, which)
    return {name(trace, k) for k in rows[pointers[row] : pointers[row + 1]]}


def ancestors(trace, row):
    """Every node that comes before a node, whatever the kind of dependence."""
    pointers, rows = trace.parents
    found, open_ = set(), [row]
    while open_:
        for k in rows[pointers[(at := open_.pop())] : pointers[at + 1]].tolist():
            if k not in found:
                found.add(k)
                open_.append(k)
    return {name(trace, k) for k in found}


# ---------------------------------------------------------------- the recorded step


@pytest.fixture(scope="module")
def recorded():
    return pytorch(DATA)


def test_recorded_communication(recorded):
    """Kinds, bytes, groups, peers and tags of what two gloo processes did, from the sizes of the tensors."""
    share, gradients = 16 * 8 * 4, 4 * (32 * 64 + 64 + 64 * 8 + 8)
    for rank, trace in recorded.items():
        rows = np.flatnonzero(trace.kind >= Kind.SEND)
        kinds = [(Kind(trace.kind[k]), int(trace.coll[k]), int(trace.size[k])) for k in rows]
        point = Kind.SEND if rank == 0 else Kind.RECV
        assert kinds == [
            (Kind.COLL, Collective.ALL_REDUCE, share),
            (Kind.COLL, Collective.ALL_GATHER, share),
            (point, -1, 5 * 8 * 4),
            (Kind.COLL, Collective.BARRIER, 0),
            (Kind.COLL, Collective.ALL_REDUCE, gradients),
        ]
        groups = [trace.labels[k] if k >= 0 else "" for k in trace.group[rows]]
        assert groups == ["1", "1", "", "", ""]
        send = rows[2]
        assert (trace.src[send], trace.dst[send], trace.tag[send]) == (0, 1, 7)
    assert recorded.members(0, "1").tolist() == [0, 1]


def test_recorded_is_valid_and_ordered(recorded):
    assert [str(finding) for finding in validate(recorded)] == []
    for trace in recorded.classes:
        child = np.repeat(np.arange(len(trace)), np.diff(trace.parents[0]))
        assert np.all(trace.parents[1] < child)
        assert not trace.dangling


def test_recorded_times(recorded):
    """Own times of the operators of a thread do not overlap, so they fit into the span of the recording."""
    for rank, trace in recorded.items():
        events = json.loads(gzip.decompress((DATA / f"kineto.{rank}.json.gz").read_bytes()))["traceEvents"]
        spans = [e for e in events if e.get("ph") == "X" and e.get("cat") in ("cpu_op", "user_annotation")]
        begin, end = min(e["ts"] for e in spans), max(e["ts"] + e["dur"] for e in spans)
        compute = trace.seconds[trace.kind == Kind.COMP].sum()
        assert 0 < compute <= (end - begin) * 1e-6
        longest = max((e for e in spans if e["name"].endswith(":all_reduce")), key=lambda e: e["dur"])
        assert trace.seconds[trace.kind == Kind.COLL].max() == pytest.approx(longest["dur"] * 1e-6)


def test_recorded_operations(recorded):
    """A forward pass multiplies twice, a backward pass three times (the input needs no gradient)."""
    first, second = 2 * 16 * 32 * 64, 2 * 16 * 64 * 8
    for trace in recorded.classes:
        assert trace.flops.sum() == 2 * first + 3 * second


def test_recorded_gradients_wait(recorded):
    """The all-reduce of the gradients comes after all backward functions, the optimizer after it."""
    trace = recorded[0]
    reduce = np.flatnonzero(trace.coll == Collective.ALL_REDUCE)[-1]
    before = ancestors(trace, reduce)
    assert {"AddmmBackward0", "ReluBackward0", "SumBackward0", "aten::addmm"} <= before
    assert not any(item.startswith("Optimizer.step") for item in before)
    copies = [k for k in range(len(trace)) if name(trace, k).endswith("copy_bucket_to_grad")]
    assert copies and all(name(trace, reduce) in ancestors(trace, k) for k in copies)


def test_one_file_stands_for_all_ranks_unless_it_sends():
    """Who would receive is not known; the nodes of the one rank are there all the same."""
    files = DATA / "host.0.json.gz", DATA / "kineto.0.json.gz"
    with pytest.raises(SpecError, match="give the files of all ranks"):
        pytorch(*files)
    one = merged(*files)
    assert (one.rank, one.world) == (0, 2) and Kind.SEND in {node.kind for node in one.nodes}


def test_host_trace_alone_keeps_communication():
    """Without the profiler nothing has a duration; what was communicated is still there."""
    found = columns(merged(DATA / "host.1.json.gz", rank=1).nodes)
    assert not found.seconds.any()
    assert sorted(found.size[found.kind == Kind.COLL].tolist()) == [0, 512, 512, 10528]


def test_saved_and_loaded_again(recorded, tmp_path):
    save(recorded, tmp_path / "step")
    again = load(tmp_path / "step")
    for rank, trace in recorded.items():
        assert np.array_equal(trace.seconds, again[rank].seconds)
        assert np.array_equal(trace.parents[1], again[rank].parents[1])
        assert np.array_equal(trace.size, again[rank].size)


# ---------------------------------------------------------------- a device, as the profiler writes it


class Device:
    """A small step on a GPU, in the observer's and the profiler's own words."""

    def __init__(self):
        self.nodes, self.events, self.clock = [], [], 100.0
        self.stack, self.correlation = [1], 500

    def op(self, label, *, inputs=(), outputs=(), dur=10.0, tid=1, seq=-1, scope=0, inside=(), ahead=2.0, values=None):
        """A call of an operator and, within it, kernels (name, stream, start, duration) and calls of ``inside``."""
        number = len(self.nodes) + 10
        attrs = {
            "rf_id": number,
            "fw_parent": 0,
            "seq_id": seq,
            "scope": scope,
            "tid": tid,
            "fw_tid": 1,
            "op_schema": "",
        }
        self.nodes.append(
            {
                "id": number, "name": label, "ctrl_deps": self.stack[-1],
                "inputs": {"values": list(inputs) if values is None else values, "shapes": [], "types": []},
                "outputs": {"values": list(outputs), "shapes": [], "types": []},
                "attrs": [{"name": k, "type": "", "value": v} for k, v in attrs.items()],
            }
        )  # fmt: skip
        self.stack.append(number)
        start = self.clock
        self.clock += ahead
        for call in inside:
            call(number)
        self.clock = max(self.clock, start + dur)
        args = {"External id": number + 1000, "Record function id": number}
        self.event("cpu_op", label, start, self.clock - start, tid, args)
        self.clock += 1.0
        self.stack.pop()
        return number

    def event(self, category, label, start, dur, tid, args):
        self.events.append(
            {"ph": "X", "cat": category, "name": label, "ts": start, "dur": dur, "pid": 7, "tid": tid, "args": args}
        )

    def launch(self, label, stream, start, dur, tid=1, **args):
        def call(number):
            self.correlation += 1
            self.event(
                "cuda_runtime",
                "cudaLaunchKernel",
                self.clock,
                1.0,
                tid,
                {"correlation": self.correlation, "External id": number + 1000},
            )
            said = {
                "correlation": self.correlation,
                "External id": number + 1000,
                "stream": stream,
                "device": 0,
                **args,
            }
            self.event("kernel", label, start, dur, stream, said)
            self.clock += 1.5

        return call

    def runtime(self, label, dur=1.0, tid=1):
        """A call of the runtime within no operator; its correlation."""
        self.correlation += 1
        self.event("cuda_runtime", label, self.clock, dur, tid, {"correlation": self.correlation})
        self.clock += dur + 0.5
        return self.correlation

    def write(self, folder, **info):
        host, kineto = folder / "host.json", folder / "kineto.json"
        host.write_text(json.dumps({**HEAD, "nodes": self.nodes}))
        shown = {"distributedInfo": {"rank": 1, "world_size": 4, **info}, "traceEvents": self.events}
        kineto.write_text(json.dumps(shown))
        return host, kineto


def tensor(number, storage, count=1024, offset=0, device="cuda:0"):
    return [number, storage, offset, count, 2, device]


@pytest.fixture
def device(tmp_path):
    """mm on stream 7, its result reduced on stream 20 behind an event, read again on 7 behind another, then a wait."""
    step = Device()
    a, b, c, d = (tensor(k, 100 + k) for k in range(1, 5))
    step.op("aten::mm", inputs=[a, b], outputs=[c], seq=5, inside=[step.launch("gemm", 7, 150.0, 40.0)])
    record = step.runtime("cudaEventRecord")
    wait = step.runtime("cudaStreamWaitEvent")
    sync = {
        "stream": 20,
        "wait_on_stream": 7,
        "wait_on_cuda_event_record_corr_id": record,
        "correlation": wait,
        "device": 0,
    }
    step.event("cuda_sync", "Stream Wait Event", 120.0, 0.0, 20, sync)
    said = {"Collective name": "allreduce", "In msg nelems": 1024, "Out msg nelems": 1024, "dtype": "BFloat16",
            "Process Group Name": "3", "Process Group Ranks": "[1, 3]", "Group size": 2}  # fmt: skip
    nccl = step.launch("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", 20, 190.0, 60.0, **said)
    backend = lambda _: step.op("nccl:all_reduce", inputs=[c], dur=3.0, inside=[nccl])  # noqa: E731
    step.op("c10d::allreduce_", values=[[c], "<Object>"], outputs=[[c]], inside=[backend])
    record = step.runtime("cudaEventRecord")
    wait = step.runtime("cudaStreamWaitEvent")
    sync = {
        "stream": 7,
        "wait_on_stream": 20,
        "wait_on_cuda_event_record_corr_id": record,
        "correlation": wait,
        "device": 0,
    }
    step.event("cuda_sync", "Stream Wait Event", 160.0, 0.0, 7, sync)
    step.op("aten::relu", inputs=[c], outputs=[d], inside=[step.launch("relu", 7, 255.0, 5.0)])
    step.op("MmBackward0", tid=2, seq=5, scope=1, inside=[step.launch("gemm_backward", 7, 262.0, 30.0, tid=2)])
    step.runtime("cudaDeviceSynchronize", dur=200.0)
    step.op("aten::empty")
    return step


def test_device_kernels(device, tmp_path):
    """Kernels are nodes of the device, after their launch, in the order of their stream, with the profiler's times."""
    found = pytorch(*device.write(tmp_path))
    trace = found.classes[0]
    gemm = row_of(trace, "gemm")
    assert trace.cpu[gemm] == 0 and trace.cpu[row_of(trace, "aten::mm")] == 1
    assert trace.seconds[gemm] == pytest.approx(40e-6) and trace.micros[gemm] == 40
    assert parents(trace, gemm) == {"aten::mm"}
    assert trace.streams[trace.stream[gemm]] == "7"
    assert "relu" in parents(trace, row_of(trace, "gemm_backward"), "ctrl")
    assert trace.start[row_of(trace, "relu")] == 155  # 255 on a clock that starts at 100


def test_device_collective(device, tmp_path):
    """Bytes, type and group come from the kernel's arguments; the group's ranks are shifted for the others."""
    found = pytorch(*device.write(tmp_path))
    trace = found.classes[0]
    reduce = row_of(trace, "ncclDevKernel_AllReduce_Sum_bf16_RING_LL")
    assert (trace.kind[reduce], trace.coll[reduce], trace.size[reduce]) == (Kind.COLL, Collective.ALL_REDUCE, 2048)
    assert trace.labels[trace.group[reduce]] == "3"
    assert sorted(map(sorted, found.groups["3"].tolist())) == [[0, 2], [1, 3]]
    assert np.sum(trace.kind == Kind.COLL) == 1
    assert [str(finding) for finding in validate(found)] == []


def test_device_events_order_streams(device, tmp_path):
    """Across streams: by the events that were waited for, and by who wrote the tensor."""
    host, kineto = device.write(tmp_path)
    trace = pytorch(host, kineto).classes[0]
    reduce = row_of(trace, "ncclDevKernel_AllReduce_Sum_bf16_RING_LL")
    assert "gemm" in parents(trace, reduce)
    assert name(trace, reduce) in parents(trace, row_of(trace, "relu"))
    for node in device.nodes:  # without tensors the events remain
        node["inputs"]["values"], node["outputs"]["values"] = [], []
    trace = pytorch(*device.write(tmp_path)).classes[0]
    reduce = row_of(trace, "ncclDevKernel_AllReduce_Sum_bf16_RING_LL")
    assert "gemm" in parents(trace, reduce) and name(trace, reduce) in parents(trace, row_of(trace, "relu"))


def test_device_tensors_order_streams(device, tmp_path):
    """Without recorded synchronization the tensors say what waits for what."""
    device.events = [event for event in device.events if event["cat"] != "cuda_sync"]
    trace = pytorch(*device.write(tmp_path)).classes[0]
    reduce = row_of(trace, "ncclDevKernel_AllReduce_Sum_bf16_RING_LL")
    assert parents(trace, reduce) == {"nccl:all_reduce", "gemm"}
    assert name(trace, reduce) in parents(trace, row_of(trace, "relu"))


def test_device_host_waits(device, tmp_path):
    """What the host does after a synchronization depends on the kernels; backward on forward by sequence number."""
    trace = pytorch(*device.write(tmp_path)).classes[0]
    after = row_of(trace, "aten::empty")
    assert {"gemm_backward", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL"} <= parents(trace, after)
    backward = row_of(trace, "MmBackward0")
    assert "aten::mm" in parents(trace, backward)
    assert "gemm_backward" not in ancestors(trace, backward)


def test_waiting_is_not_an_operators_own_time(tmp_path):
    step = Device()
    step.op("aten::mm", inside=[step.launch("gemm", 7, 110.0, 90.0)])
    step.op("aten::item", dur=110.0, inside=[lambda _: step.runtime("cudaStreamSynchronize", dur=95.0)])
    step.op("aten::add")
    trace = pytorch(*step.write(tmp_path, world_size=1, rank=0)).classes[0]
    assert trace.seconds[row_of(trace, "aten::item")] == pytest.approx(15e-6)
    assert "gemm" in parents(trace, row_of(trace, "aten::add"))


def test_kernel_found_by_its_launch(tmp_path):
    """A kernel without an external id belongs to the innermost operator that was running when it was launched."""
    step = Device()
    inner = lambda _: step.op("aten::mm", inside=[step.launch("gemm", 7, 130.0, 9.0)])  # noqa: E731
    step.op("aten::linear", dur=40.0, inside=[inner])
    for event in step.events:
        if event["cat"] != "cpu_op":
            event["args"].pop("External id", None)
    trace = pytorch(*step.write(tmp_path, world_size=1, rank=0)).classes[0]
    assert parents(trace, row_of(trace, "gemm")) == {"aten::mm"}


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("gloo:all_reduce", (Kind.COLL, Collective.ALL_REDUCE)),
        ("c10d::_allgather_base_", (Kind.COLL, Collective.ALL_GATHER)),
        ("c10d::_reduce_scatter_base_", (Kind.COLL, Collective.REDUCE_SCATTER)),
        ("c10d::alltoall_base_", (Kind.COLL, Collective.ALL_TO_ALL)),
        ("ncclDevKernel_Broadcast_RING_LL(ncclDevKernelArgsStorage<4096ul>)", (Kind.COLL, Collective.BROADCAST)),
        ("c10d::recv_", (Kind.RECV, None)),
        ("nccl:send 0->1", (Kind.SEND, None)),
        ("ncclDevKernel_SendRecv", None),
        ("aten::addmm", None),
    ],
)
def test_names_of_collectives(label, found):
    assert kind_of(label) == found


def test_older_schema(tmp_path):
    """Up to 1.0.1 a node has parent, types and shapes beside its values, and no list of attributes."""
    node = {"name": "aten::mm", "id": 5, "rf_id": 1, "parent": 1, "fw_parent": 0, "seq_id": -1, "scope": 0, "tid": 1,
            "fw_tid": 0, "op_schema": "", "inputs": [tensor(1, 9, device="cpu")], "input_shapes": [[32, 32]],
            "input_types": ["Tensor(float)"], "outputs": [], "output_shapes": [], "output_types": []}  # fmt: skip
    path = tmp_path / "host.json"
    path.write_text(
        json.dumps({**HEAD, "schema": "1.0.1", "nodes": [node, {**node, "id": 6, "rf_id": 2, "parent": 5}]})
    )
    trace = pytorch(path).classes[0]
    assert len(trace) == 2 and trace.ctrl.tolist() == [0]


def test_writers_by_range():
    """A reader of a bucket depends on who wrote its slices last, and on no one else."""
    writers = Writers()
    part = [Tensor(k, 1, 10 * k, 10, 4, "cpu") for k in range(3)]
    for k in range(3):
        writers.write([part[k]], [k])
    assert writers.read([Tensor(9, 1, 0, 30, 4, "cpu")]) == {0, 1, 2}
    assert writers.read([part[1]]) == {1}
    writers.write([Tensor(9, 1, 5, 10, 4, "cpu")], [7])
    assert writers.read([part[0]]) == {0, 7} and writers.read([part[1]]) == {1, 7} and writers.read([part[2]]) == {2}
    assert writers.read([Tensor(9, 1, 5, 10, 4, "cuda:0")]) == set()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "not JSON"),
        ("[1]", "JSON object"),
        ('{"schema": "0.9"}', "1.0.x or 1.1.x"),
        ('{"schema": "1.1.0-chakra.0.0.4", "nodes": 3}', "must be a list"),
        ('{"schema": "1.1.0-chakra.0.0.4", "nodes": [{"id": "x"}]}', "nodes[0]"),
    ],
)
def test_host_faults(tmp_path, content, word):
    path = tmp_path / "host.json"
    path.write_text(content)
    with pytest.raises(SpecError, match=word.replace("[", r"\[")):
        pytorch(path)


def test_faults_of_pairs(tmp_path):
    with pytest.raises(SpecError, match="cannot be read"):
        pytorch(tmp_path / "none.json")
    with pytest.raises(SpecError, match="no host"):
        pytorch(tmp_path)
    with pytest.raises(SpecError, match="as many as"):
        pytorch([DATA / "host.0.json.gz"] * 2, [DATA / "kineto.0.json.gz"])
    with pytest.raises(SpecError, match="each once"):
        pytorch([DATA / "host.0.json.gz"] * 2, [DATA / "kineto.0.json.gz"] * 2)
    with pytest.raises(SpecError, match="below 2"):
        pytorch(DATA / "host.0.json.gz", DATA / "kineto.0.json.gz", rank=2)
    step = Device()
    step.op("aten::mm")
    host, _ = step.write(tmp_path)
    other = tmp_path / "other.json"
    other.write_text(
        json.dumps(
            {"traceEvents": [{"ph": "X", "cat": "cpu_op", "name": "x", "ts": 1, "args": {"Record function id": 99}}]}
        )
    )
    with pytest.raises(SpecError, match="not of one recording"):
        pytorch(host, other)


def test_groups_that_cannot_be_shifted(device, tmp_path):
    for event in device.events:
        if "Process Group Ranks" in event["args"]:
            event["args"]["Process Group Ranks"] = "[0, 1, 3]"
    with pytest.raises(SpecError, match="give the files of all ranks"):
        pytorch(*device.write(tmp_path))


def test_damaged_recordings_are_faults_or_traces(device, tmp_path):
    """Whatever a value of the files becomes: a clear error or a trace, nothing else."""
    generator = np.random.default_rng(0)
    junk = [None, -1, 3.5, "x", [], {}, [[1]], True, 1 << 70, "[1, 2", float("inf")]
    host, kineto = device.write(tmp_path, pg_config=[{"pg_name": "3", "ranks": [1, 3], "pg_size": 2}])
    whole = [json.loads(path.read_text()) for path in (host, kineto)]
    counts = {"error": 0, "trace": 0}
    for _ in range(400):
        files = json.loads(json.dumps(whole))
        place = files[generator.integers(2)]
        while True:  # down to some value, which is replaced
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = keys[generator.integers(len(keys))]
            if not isinstance(place[key], dict | list) or not place[key] or generator.random() < 0.1:
                break
            place = place[key]
        place[key] = junk[generator.integers(len(junk))]
        for path, content in zip((host, kineto), files, strict=True):
            path.write_text(json.dumps(content))
        try:
            validate(pytorch(host, kineto))
            counts["trace"] += 1
        except SpecError:
            counts["error"] += 1
    assert min(counts.values()) > 20
