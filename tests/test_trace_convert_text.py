"""Text workloads of ASTRA-sim 1.0 converted: what waits for what under each policy, groups, and faults."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from dse.errors import SpecError
from dse.trace import Kind, load, validate
from dse.trace.convert import text


def name(trace, row):
    return trace.names[trace.name[row]]


def row_of(trace, wanted):
    """The only node of that name."""
    rows = [k for k in range(len(trace)) if name(trace, k) == wanted]
    assert len(rows) == 1, (wanted, rows)
    return rows[0]


def parents(trace, row):
    return {name(trace, k) for k in trace.data[trace.data_ptr[row] : trace.data_ptr[row + 1]]}


LAYER = "{} -1 {} {} {} {} {} {} {} {} {} 10"


def workload(tmp_path, head, layers):
    path = tmp_path / "workload.txt"
    path.write_text("\n".join([head, str(len(layers)), *layers]))
    return path


def layer(label, forward=("NONE", 0), back=("NONE", 0), weight=("NONE", 0), cycles=(100, 200, 300), more=""):
    return LAYER.format(label, cycles[0], *forward, cycles[1], *back, cycles[2], *weight) + more


def test_data_parallel(tmp_path):
    """Weight gradients are reduced beside the rest of the backward pass; the next step's forward pass waits for them."""
    path = workload(tmp_path, "DATA", [layer(f"l{k}", weight=("ALLREDUCE", 1000 * (k + 1))) for k in range(3)])
    one = text(path, 4).classes[0]
    assert len(one) == 3 + 3 + 2 + 3
    assert one.seconds.sum() == pytest.approx((3 * 100 + 3 * 300 + 2 * 200) * 1e-9)
    assert one.size[one.size > 0].sum() == 6000
    assert parents(one, row_of(one, "l1.weight_grad")) == {"l2.input_grad"}
    assert parents(one, row_of(one, "l1.weight_grad.all_reduce")) == {"l1.weight_grad"}
    two = text(path, 4, passes=2).classes[0]
    assert len(two) == 2 * len(one)
    assert parents(two, row_of(two, "step1.l2.forward")) == {"step1.l1.forward", "l2.weight_grad.all_reduce"}


def test_model_parallel(tmp_path):
    """Activations' collectives hold up the next layer; an input gradient's runs beside the weight gradient."""
    parts = {"forward": ("ALLGATHER", 64), "back": ("ALLREDUCE", 32), "weight": ("NONE", 0)}
    trace = text(workload(tmp_path, "MODEL", [layer("a", **parts), layer("b", **parts)]), 2).classes[0]
    assert parents(trace, row_of(trace, "b.forward")) == {"a.forward", "a.forward.all_gather"}
    assert parents(trace, row_of(trace, "a.input_grad")) == {"b.weight_grad", "b.input_grad.all_reduce"}
    assert parents(trace, row_of(trace, "b.weight_grad")) == {"b.input_grad"}
    assert "a.input_grad.all_reduce" not in trace.names


@pytest.mark.parametrize(
    ("policy", "activations", "weights"),
    [
        ("HYBRID_DATA_MODEL", (True, False, False, False), (False, True, True, True)),
        ("HYBRID_MODEL_DATA", (False, True, True, True), (True, False, False, False)),
    ],
)
def test_hybrids_differ(tmp_path, policy, activations, weights):
    parts = {"forward": ("ALLGATHER", 64), "back": ("ALLREDUCE", 32), "weight": ("ALLREDUCE", 16)}
    trace = text(workload(tmp_path, policy, [layer("a", **parts), layer("b", **parts)]), 8).classes[0]
    spans = {name(trace, k): trace.involved[trace.dims[k]] for k in np.flatnonzero(trace.kind == Kind.COLL)}
    assert spans["a.forward.all_gather"] == spans["b.input_grad.all_reduce"] == activations
    assert spans["a.weight_grad.all_reduce"] == weights


def test_customized_layers_have_their_own(tmp_path):
    both = {"forward": ("ALLGATHER", 8), "weight": ("ALLREDUCE", 8)}
    kinds = ("DATA", "MODEL", "HYBRID_DATA_MODEL")
    path = workload(
        tmp_path, "HYBRID_CUSTOMIZED", [layer(f"l{k}", **both, more=f" {kind}") for k, kind in enumerate(kinds)]
    )
    names = text(path, 8).classes[0].names
    assert "l0.forward.all_gather" not in names and "l0.weight_grad.all_reduce" in names
    assert "l1.forward.all_gather" in names and "l1.weight_grad.all_reduce" not in names
    assert "l2.forward.all_gather" in names and "l2.weight_grad.all_reduce" in names


def test_dlrm_waits_for_embeddings(tmp_path):
    rows = ("ALLTOALL", 96)
    layers = [
        layer("emb", forward=rows, back=rows),
        *(layer(k, weight=("ALLREDUCE", 8)) for k in ("b0", "b1", "t0", "t1")),
    ]
    trace = text(workload(tmp_path, "HYBRID_DLRM 2", layers), 4).classes[0]
    assert parents(trace, row_of(trace, "b0.forward")) == {"emb.forward"}
    assert "emb.forward.all_to_all" in parents(trace, row_of(trace, "b1.forward"))
    assert parents(trace, row_of(trace, "emb.input_grad.all_to_all")) == {"t0.input_grad"}
    assert "emb.input_grad.all_to_all" in parents(trace, row_of(trace, "emb.weight_grad"))


def test_transformer_groups_and_checkpoints(tmp_path):
    """Layers from the checkpoint run again, up to the one that asked, before its backward pass."""
    parts = {"forward": ("ALLREDUCE", 64), "weight": ("ALLREDUCE", 16)}
    head = "HYBRID_TRANSFORMER_FWD_IN_BCKWD model_parallel_NPU_group: 4 checkpoints: 1 1 checkpoint_initiates: 1 3"
    found = text(workload(tmp_path, head, [layer(f"l{k}", **parts) for k in range(4)]), 8)
    trace = found.classes[0]
    order = [name(trace, k) for k in range(len(trace)) if trace.kind[k] == Kind.COMP]
    assert order[4:8] == ["l1.forward", "l2.forward", "l3.input_grad", "l3.weight_grad"]
    assert found.groups["model"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert found.groups["data"].tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    labels = {name(trace, k): trace.labels[trace.group[k]] for k in np.flatnonzero(trace.kind == Kind.COLL)}
    assert labels["l0.forward.all_reduce"] == "model" and labels["l0.weight_grad.all_reduce"] == "data"
    assert validate(found) == []


def test_updates_and_cycles(tmp_path):
    path = workload(tmp_path, "DATA", [layer("a", weight=("ALLREDUCE", 8), cycles=(1500, 0, 2500))])
    trace = text(path, 1, updates=True, cycle=1e-6).classes[0]
    assert trace.micros.tolist() == [1500, 2500, 0, 10]
    assert parents(trace, row_of(trace, "a.update")) == {"a.weight_grad.all_reduce"}


@pytest.mark.parametrize(
    ("head", "layers", "word"),
    [
        ("NONSENSE", [layer("a")], "must be one of DATA"),
        ("DATA", ["a -1 5"], "12 columns|columns"),
        ("DATA", [layer("a", weight=("SUM", 4))], "collective"),
        ("DATA", [layer("a", cycles=(-1, 0, 0))], "integer from 0"),
        ("HYBRID_DLRM 9", [layer("a")], "below 1"),
        ("HYBRID_TRANSFORMER", [layer("a")], "at least 1"),
        ("HYBRID_TRANSFORMER model_parallel_NPU_group: 3", [layer("a")], "multiple"),
        ("HYBRID_CUSTOMIZED", [layer("a", more=" MICRO")], "of the layer"),
        ("HYBRID_TRANSFORMER_FWD_IN_BCKWD model_parallel_NPU_group: 1 checkpoint_initiates: 1 0", [layer("a")], "checkpoint"),
    ],
)  # fmt: skip
def test_text_faults(tmp_path, head, layers, word):
    with pytest.raises(SpecError, match=word):
        text(workload(tmp_path, head, layers), 4)


def test_text_numbers_out_of_range(tmp_path):
    path = workload(tmp_path, "DATA", [layer("a")])
    for wrong in ({"npus": 0}, {"npus": 1, "passes": 0}, {"npus": 1, "cycle": -1.0}):
        with pytest.raises(SpecError):
            text(path, **wrong)
    with pytest.raises(SpecError, match="cannot be read"):
        text(tmp_path / "none.txt", 2)


def test_the_same_work_as_the_shipped_converter(tmp_path):
    """Nodes by kind and bytes are those that the public converter finds; its times are 1000 times as long."""
    shipped = Path(__file__).parent.parent / "data" / "reference" / "astrasim" / "fixtures" / "text_workloads_et.tar.gz"
    with tarfile.open(shipped) as archive:
        archive.extractall(tmp_path, filter="data")
    seen = 0
    for folder in sorted(path for path in (tmp_path / "out").iterdir() if (path / "w.0.et").exists()):
        theirs = load(folder / "w").classes[0]
        mine = text(tmp_path / "text" / f"{folder.name}.txt", 8).classes[0]
        assert np.bincount(mine.kind).tolist() == np.bincount(theirs.kind).tolist(), folder.name
        assert np.sort(mine.size).tolist() == np.sort(theirs.size).tolist(), folder.name
        assert mine.seconds.sum() * 1000 == pytest.approx(theirs.seconds.sum()), folder.name
        seen += 1
    assert seen >= 7
    for other in ("Transformer_HybridParallel", "Transformer_HybridParallel_Fwd_In_Bckwd"):  # which it refuses
        assert validate(text(tmp_path / "text" / f"{other}.txt", 8)) == []
