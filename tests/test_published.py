"""Published equations and recorded runs: activation memory, ZeRO, FLOP counts, bubbles, and the COMET case study."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dse
from dse.spec.workload import load_model
from dse.spec.workload.op import Shard

GPTS = ["gpt-1.7b", "gpt-18.4b", "gpt-22b", "gpt3-175b", "gpt-529.6b", "gpt-1008b"]

# -- Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models, 2022 -----------------


def per_layer(id: str, b: int, **strategy: Any) -> float:
    """Bytes that one layer keeps for one micro-batch of ``b``, by the cost model."""
    plan = {"micro_batch": b, "global_batch": b, "dp": 1, "attention": "unfused", "precision": "fp16", **strategy}
    saved = dse.estimate(id, "dgx-a100", plan)._cells[0].evaluation["saved_per_pass"]
    return float(saved["body"]) / load_model(id).layers


@pytest.mark.parametrize("id", GPTS)
@pytest.mark.parametrize("t", [1, 2, 8])
@pytest.mark.parametrize("b", [1, 4])
def test_activations_of_a_layer(id: str, t: int, b: int) -> None:
    """Activation bytes of a layer equal the five published equations exactly, dropout masks included."""
    model = load_model(id)
    s, h, a = model.seq_len, model.hidden, model.heads
    sbh, attention = s * b * h, 5 * a * s / h
    expected = {
        (False, "none"): sbh * (10 + 24 / t + attention / t),
        (True, "none"): sbh * (34 + attention) / t,
        (False, "selective"): sbh * (10 + 24 / t),
        (True, "selective"): sbh * 34 / t,
        (False, "full"): 2 * sbh,
        (True, "full"): 2 * sbh / t,
    }
    for (parallel, recompute), wanted in expected.items():
        found = per_layer(id, b, tp=t, sequence_parallel=parallel, recompute=recompute)
        assert found == pytest.approx(wanted, rel=1e-12), (parallel, recompute)
    assert per_layer(id, b, tp=t, partition_checkpoints=True, recompute="full") == pytest.approx(2 * sbh / t, rel=1e-12)
    # Flash attention keeps no scores, only one 32-bit log-sum-exp a query and head.
    flash = per_layer(id, b, tp=t, sequence_parallel=True, attention="flash")
    assert flash == pytest.approx(34 * sbh / t + 4 * b * a * s / t, rel=1e-12)


@pytest.mark.parametrize(("p", "v"), [(1, 1), (4, 1), (8, 1), (8, 3), (8, 6)])
def test_activations_of_the_first_and_last_stage(p: int, v: int) -> None:
    """The first stage holds L layers, L·(1 + (p−1)/(p·v)) when interleaved; the last one logits in 32 bit once."""
    model = load_model("gpt-22b")
    s, b, h, t, layers = model.seq_len, 2, model.hidden, 8, model.layers
    plan = {"tp": t, "pp": p, "dp": 1, "virtual_stages": v, "micro_batch": b, "global_batch": 16 * p * b,
            "sequence_parallel": True, "recompute": "selective", "attention": "unfused"}  # fmt: skip
    held = dse.estimate("gpt-22b", "dgx-a100", plan)._cells[0].evaluation["activation_bytes"]
    body = layers * 34 * s * b * h / t
    in_flight = p * (1 + (p - 1) / (p * v)) if v > 1 else p
    mask, logits = s * b * h / t, 4 * s * b * h / t * (1 + model.vocab / h)
    first = (body / p + mask + (logits if p == 1 else 0)) * in_flight
    assert float(held["first"]) == pytest.approx(first, rel=1e-12)
    if p > 1:
        last = ((v - 1) * p + 1) / v if v > 1 else 1
        assert float(held["last"]) == pytest.approx(body / p * last + logits, rel=1e-12)


# -- FLOP: Narayanan et al., SC 2021, equation 3; Korthikanti et al., appendix A ------------------------------


@pytest.mark.parametrize("id", GPTS)
@pytest.mark.parametrize("batch", [8, 1536])
def test_flop_of_a_step(id: str, batch: int) -> None:
    """72·B·s·L·h²·(1 + s/6h + V/12Lh) FLOP, with recomputation 96·(1 + s/6h + V/16Lh), to 0.5 % (biases, norms)."""
    model = load_model(id)
    s, h, n, v = model.seq_len, model.hidden, model.layers, model.vocab
    base = batch * s * n * h**2
    plan = {"dp": 8, "global_batch": batch, "attention": "unfused"}
    result = dse.sweep(id, "dgx-a100", plan, dse.axis("recompute", ["none", "selective", "full"]))
    none, selective, full = result["hardware_flops"].values
    assert float(result["model_flops"]) == none == pytest.approx(72 * base * (1 + s / 6 / h + v / 12 / n / h), rel=5e-3)
    assert full == pytest.approx(96 * base * (1 + s / 6 / h + v / 16 / n / h), rel=5e-3)
    # One more attention core: 4·B·s²·L·h.
    assert selective - none == pytest.approx(4 * base * s / h, rel=1e-2)


# -- bubbles: Narayanan et al., SC 2021, section 2.2 ---------------------------------------------------------


@pytest.mark.parametrize(("p", "v"), [(2, 1), (8, 1), (8, 2), (4, 4), (16, 3)])
@pytest.mark.parametrize("groups", [1, 4, 16])
def test_bubble_share(p: int, v: int, groups: int) -> None:
    """Bubble over ideal time is (p−1)/m, divided by v when interleaved, for equal stages."""
    model = {"layers": 96, "hidden": 4096, "heads": 32, "ffn_hidden": 16384, "vocab": 1, "seq_len": 2048, "head": False}
    plan = {"pp": p, "dp": 1, "global_batch": p * groups, "virtual_stages": v, "attention": "unfused", "stack": "ideal"}
    terms = dse.estimate({"id": "m", **model}, "comet-baseline", plan).breakdown()
    compute = terms[["forward", "recompute", "input_grad", "weight_grad"]].sum() + terms["imbalance"]
    # The embedding look-up and final norm make the end stages a little longer than the others: 1 %.
    assert terms["bubble"] / compute == pytest.approx((p - 1) / (p * groups) / v, rel=0.01)


# -- ZeRO: Rajbhandari et al., SC 2020; decimal GB of model states of a trillion parameters on 1024 nodes ------

ZERO_TABLE = {
    1: (16128.6, 4044.0, 2029.9, 15.8),
    2: (8064.3, 2027.9, 1021.8, 15.8),
    4: (4032.2, 1019.9, 517.8, 15.8),
    8: (2016.1, 515.8, 265.8, 15.8),
    16: (1008.0, 263.8, 139.8, 15.8),
    32: (504.0, 137.8, 76.8, 15.8),
    64: (252.0, 74.8, 45.3, 15.8),
    128: (126.0, 43.3, 29.5, 15.8),
    256: (63.0, 27.6, 21.7, 15.8),
    512: (31.5, 19.7, 17.7, 15.8),
    1024: (15.8, 15.8, 15.8, 15.8),
}
COMET = {"global_batch": 1024, "execution": "comet", "precision": "fp16", "gradient_precision": "fp16",
         "attention": "unfused", "recompute": "full", "partition_checkpoints": True, "zero_stage": 2}  # fmt: skip


def test_model_states_of_a_trillion_parameters() -> None:
    """Weights, gradients and optimizer states per node agree with the ZeRO equations to 0.1 % and to print."""
    swept = dse.sweep("transformer-1t", "comet-baseline", COMET, dse.axis("tp", list(ZERO_TABLE)),
                      dse.axis("zero_stage", [0, 1, 2, 3]), devices=1024)  # fmt: skip
    states = (swept["memory.weights"] + swept["memory.gradients"] + swept["memory.optimizer"]) / 1e9
    psi = float(load_model("transformer-1t").parameters())
    for tp, row in ZERO_TABLE.items():
        d = 1024 / tp
        exact = np.array([16, 4 + 12 / d, 2 + 14 / d, 16 / d]) * psi / tp / 1e9
        found = states.sel(tp=tp).values
        assert found == pytest.approx(exact, rel=1e-3)
        assert found == pytest.approx(np.array(row), rel=1e-3, abs=0.06)  # the table prints one digit


def test_lowest_model_parallelism_that_fits() -> None:
    """With ZeRO-2 and 80 GB a node, 64-way model parallelism is the least that fits, with 13.4 GB of checkpoints."""
    swept = dse.sweep("transformer-1t", "comet-baseline", COMET, dse.axis("tp", [8, 16, 32, 64, 128]), devices=1024)
    assert (swept["memory_bytes"] <= 80e9).values.tolist() == [False, False, False, True, True]
    assert (swept.dataset["margin.memory_fits"] >= 0).values.tolist() == [False, False, False, True, True]
    assert float(swept["memory.activations"].sel(tp=64)) == pytest.approx(13.4e9, rel=0.01)
    assert float(swept["memory.working"].sel(tp=64)) == pytest.approx(2.2e9, rel=0.02)
    assert 270e9 < float(swept["memory_bytes"].sel(tp=8)) < 282e9


# -- recorded runs of the COMET authors' simulator -----------------------------------------------------------

RECORDED = {**COMET, "tp": 128, "dp": 8, "global_batch": 8, "recompute": "none", "zero_stage": 0}


def test_recorded_run_of_one_layer() -> None:
    """One column-parallel GEMM on 16 × 64 nodes: every recorded time within 0.5 %."""
    layer = {"name": "Q1", "m": 131072, "k": 24576, "n": 192 * 128, "shard": "column"}
    result = dse.estimate({"family": "layers", "id": "T1", "layers": [layer]}, "comet-validation", RECORDED)
    terms = result.breakdown() * 1e6
    for phase in ("forward", "input_grad", "weight_grad"):
        assert terms[phase] == pytest.approx(9895.605, rel=1e-6)
    assert terms["tp_comm_backward"] == pytest.approx(65122.70, rel=5e-3)
    ((_, (row,)),) = result._cells[0].evaluation["comet_rows"]
    assert float(row.input_comm) * 1e6 == pytest.approx(75018.305, rel=5e-3)
    assert float(row.weight_comm) * 1e6 == pytest.approx(1231.553, rel=5e-3)
    assert float(result["step_time"]) * 1e6 == pytest.approx(94809.517, rel=5e-3)
    assert terms["dp_comm"] == 0
    # Payload sent into each dimension by the two all-reduces together, in MiB.
    links = result._cells[0].evaluation["links"]
    loads = [links.load("all_reduce", group, size) for group, size in (("tp", 6442450944), ("grad", 9437184))]
    payload = [float(a + b) / 2**20 for a, b in zip(*loads, strict=True)]
    assert payload == pytest.approx([11520.0, 687.75], rel=1e-12)


def test_recorded_run_of_ten_passes() -> None:
    """A memory-bound kernel at 100 GB/s: compute, hidden input-gradient and exposed weight-gradient communication."""
    layer = {"name": "Q1", "type": "kernel", "work": 10737418240000 / 3, "traffic": 34734080000 / 3,
             "parameters": 2359296 / 2, "input_grad_bytes": 201326592,
             "input_grad_collective": "all_reduce"}  # fmt: skip
    swept = dse.sweep({"family": "layers", "id": "T2", "layers": [layer]}, "comet-validation", RECORDED,
                      dse.axis("cluster.node.accelerator.memory.bandwidth", [100], unit="GB/s"))  # fmt: skip
    result = swept.at()
    terms = result.breakdown() * 1e7  # ten passes, in microseconds
    assert terms[["forward", "input_grad", "weight_grad"]].sum() == pytest.approx(3473407.98, rel=1e-6)
    assert terms["tp_comm_backward"] == 0
    assert terms["dp_comm"] == pytest.approx(3087.7, rel=5e-3)
    assert float(result["step_time"]) * 1e7 == pytest.approx(3476495.72, rel=5e-3)


# -- re-derived breakdown of the trillion-parameter study, in seconds ----------------------------------------
# total, forward, input gradient, weight gradient, exposed forward (with recomputation) and input-gradient collectives

BREAKDOWN = {
    1: (53.8, 13.4, 13.4, 13.4, 0, 0),
    2: (54.2, 13.5, 13.5, 13.4, 0.4, 0),
    4: (55.2, 13.6, 13.6, 13.4, 1.1, 0),
    8: (57.1, 13.7, 13.7, 13.4, 2.5, 0),
    16: (60.7, 14.0, 14.0, 13.4, 5.0, 0.2),
    32: (69.2, 14.7, 14.7, 13.4, 10.3, 1.5),
    64: (91.8, 15.9, 15.9, 13.4, 24.1, 6.5),
    128: (140.6, 18.5, 18.5, 13.4, 51.5, 20.3),
    256: (247.1, 25.9, 25.9, 15.8, 106.5, 47.2),
    512: (467.6, 42.7, 42.7, 22.5, 216.5, 100.5),
    1024: (925.2, 81.2, 81.2, 40.7, 436.4, 204.7),
}


def test_breakdown_of_the_case_study() -> None:
    """Totals of the eleven (MP, DP) points agree to 2 %, each term to 3 % or the printed digit."""
    swept = dse.sweep("transformer-1t", "comet-baseline", COMET, dse.axis("tp", list(BREAKDOWN)), devices=1024)
    names = ("forward", "input_grad", "weight_grad", "tp_comm_forward", "tp_comm_backward")
    for tp, (total, *row) in BREAKDOWN.items():
        assert float(swept["step_time"].sel(tp=tp)) == pytest.approx(total, rel=0.02), tp
        terms = swept.at(tp=tp).breakdown()
        assert terms[list(names)].to_numpy() == pytest.approx(np.array(row), rel=0.03, abs=0.12), tp
        assert terms["recompute"] == terms["forward"]
        assert terms["dp_comm"] < 0.06


# Speedup over the 64-way reference without expansion, by bandwidth of the expanded memory in GB/s (harmonic mix).
SPEEDUP = {
    8: (0.81, 1.39, 1.51, 1.55, 1.57, 1.60, 1.61),
    16: (1.03, 1.31, 1.42, 1.46, 1.48, 1.50, 1.51),
    32: (1.13, 1.25, 1.29, 1.31, 1.31, 1.32, 1.33),
    4: (0.87, 1.46, 1.57, 1.61, 1.63, 1.65, 1.66),
}


def test_memory_expansion_of_the_case_study() -> None:
    """Speedups of memory-expanded strategies agree with the re-derived table within 0.04 at every bandwidth."""
    reference = float(dse.estimate("transformer-1t", "comet-baseline", {**COMET, "tp": 64}, devices=1024)["step_time"])
    swept = dse.sweep("transformer-1t", "comet-baseline", {**COMET, "memory_expansion": "spread"},
                      dse.axis("tp", list(SPEEDUP)), dse.axis("cluster.node.expansion.cxl.bandwidth",
                      [100, 250, 500, 750, 1000, 1500, 2000], unit="GB/s", name="cxl"), devices=1024)  # fmt: skip
    assert swept["feasible"].all()
    for tp, row in SPEEDUP.items():
        assert reference / swept["step_time"].sel(tp=tp).values == pytest.approx(np.array(row), abs=0.04), tp


@pytest.mark.parametrize(("devices", "table_bytes"), [(64, 75e9), (32, 150e9), (16, 300e9), (8, 600e9)])
def test_tables_of_the_recommender(devices: int, table_bytes: float) -> None:
    """1.2e12 embedding values of four bytes fill 75 GB on each of 64 nodes, and more on fewer."""
    plan = {"global_batch": 32768, "execution": "comet", "precision": "fp16"}
    result = dse.estimate("dlrm-1.2t", "comet-baseline", plan, devices=devices)
    assert result.breakdown("memory")["tables"] == pytest.approx(table_bytes, rel=1e-3)


def test_exchange_of_the_recommender() -> None:
    """The stand-in's all-to-all moves 4,194,304 bytes a node each way, and its MLPs reduce 114,823,168 (to 0.2 %)."""
    model = load_model("dlrm-1.2t")
    (block,) = model.lower(Shard(micro_batch=512, element=2, devices=64))
    forward, backward = block.ops[0].collectives
    assert float(forward.bytes) == float(backward.bytes) == 4194304
    assert 2 * float(model.mlp_parameters()) == pytest.approx(114823168, rel=2e-3)
