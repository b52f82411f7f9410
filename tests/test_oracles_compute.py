"""Compute: GEMM traffic against tile loops that run, the roofline and the lowering against sums over operators."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import tiled_traffic

import dse
from dse.cost.compute import gemm_traffic
from dse.spec import catalogue
from dse.spec.workload import Transformer, load_model
from dse.spec.workload.op import PHASES, Fused, Gemm, Shard, Stream

SIDE = st.integers(1, 24)
quick = settings(deadline=None, derandomize=True, max_examples=150)
TRANSFORMERS = [id for id in catalogue.ids("model") if isinstance(load_model(id), Transformer)]


def formula(m: int, k: int, n: int, buffer: int) -> float:
    return float(gemm_traffic(m, k, n, 1, buffer))


@given(SIDE, SIDE, SIDE, st.integers(1, 700))
@quick
def test_traffic_never_beats_the_data(m: int, k: int, n: int, buffer: int) -> None:
    """Every element of A, B and C crosses the chip's edge at least once."""
    assert formula(m, k, n, buffer) >= m * k + k * n + m * n


@given(SIDE, SIDE, SIDE, st.integers(0, 300))
@quick
def test_traffic_is_compulsory_when_a_matrix_fits(m: int, k: int, n: int, spare: int) -> None:
    """As soon as one of the three matrices fits on chip, each element moves exactly once, as in the simulated loop."""
    buffer = min(m * k, k * n, m * n) + spare
    assert formula(m, k, n, buffer) == m * k + k * n + m * n == min(tiled_traffic(m, k, n, buffer).values())


@given(SIDE, SIDE, SIDE, st.integers(1, 700))
@quick
def test_no_simulated_loop_beats_the_formula(m: int, k: int, n: int, buffer: int) -> None:
    """The best of the loops that keep a part of A, B or C moves at least what the formula says."""
    simulated = tiled_traffic(m, k, n, buffer)
    if simulated:
        assert formula(m, k, n, buffer) <= min(simulated.values())


@given(st.integers(1, 40), st.integers(1, 40))
@quick
def test_simulated_loops_reach_the_formula(side: int, columns: int) -> None:
    """For square matrices and a buffer of whole columns the best simulated loop moves exactly that much."""
    simulated = tiled_traffic(side, side, side, columns * side)
    assert min(simulated.values()) == formula(side, side, side, columns * side)


@given(SIDE, SIDE, SIDE, st.integers(60, 700))
@quick
def test_simulated_loops_stay_near_the_formula(m: int, k: int, n: int, buffer: int) -> None:
    """Parts must be whole columns in a real loop: with room for three of them the gap is below 4/3."""
    if buffer >= 3 * max(m, k, n):
        assert min(tiled_traffic(m, k, n, buffer).values()) <= formula(m, k, n, buffer) * 4 / 3


@given(SIDE, SIDE, SIDE, st.integers(1, 700), st.integers(0, 200))
@quick
def test_traffic_falls_with_the_buffer(m: int, k: int, n: int, buffer: int, more: int) -> None:
    """A larger buffer never costs traffic, nor does a smaller problem."""
    assert formula(m, k, n, buffer + more) <= formula(m, k, n, buffer)
    assert formula(m, k, n, buffer) <= formula(m + more, k, n, buffer)
    assert formula(m, k, n, buffer) == formula(n, k, m, buffer)


@given(SIDE, SIDE, SIDE, st.integers(1, 700), st.sampled_from([1, 2, 4]))
@quick
def test_traffic_counts_bytes(m: int, k: int, n: int, buffer: int, element: int) -> None:
    """Elements of e bytes in a buffer of e·S bytes move e times the traffic of single bytes in S."""
    assert float(gemm_traffic(m, k, n, element, element * buffer)) == element * formula(m, k, n, buffer)


@given(st.integers(64, 4096), st.integers(64, 4096), st.integers(64, 4096), st.integers(1 << 12, 1 << 20))
@quick
def test_traffic_respects_the_lower_bound_of_any_order(m: int, k: int, n: int, buffer: int) -> None:
    """No order of a product can move less than 2mkn/√S − 2S elements (Hong and Kung; Smith et al. 2019).

    S here has room for the kept part and for a row and a column that stream by.
    """
    room = buffer + m + k + n
    if buffer >= min(m, k, n):
        assert formula(m, k, n, buffer) >= 2 * m * k * n / math.sqrt(room) - 2 * room


# -- roofline -----------------------------------------------------------------------------------------------


def evaluation_of(model: str, cluster: str, strategy: str) -> Any:
    return dse.estimate(model, cluster, strategy)._cells[0].evaluation


@pytest.mark.parametrize(("model", "cluster", "strategy"), [
    ("gpt3-175b", "dgx-a100", "tp=8,pp=8,dp=2,global_batch=64,attention=unfused"),
    ("llama3-70b", "dgx-h100", "tp=8,pp=4,dp=2,global_batch=64,sequence_parallel=true"),
    ("deepseek-v3", "gb200-nvl72", "tp=1,pp=8,dp=16,ep=16,global_batch=64"),
    ("dlrm-1.2t", "comet-baseline", "dp=64,global_batch=4096,micro_batch=64,precision=fp16"),
    ("resnet-50", "dgx-a100", "dp=8,global_batch=256,micro_batch=32,precision=tf32"),
])  # fmt: skip
def test_every_operator_lies_on_its_roofline(model: str, cluster: str, strategy: str) -> None:
    """Each operator takes the longer of its arithmetic and its traffic, plus the launch: recomputed one by one."""
    evaluation = evaluation_of(model, cluster, f"{strategy},stack=ideal")
    device = evaluation["cluster"].accelerator
    plan = evaluation["strategy"]
    peak = getattr(device.matrix, plan.precision)
    rate = device.memory.bandwidth * device.efficiency.memory
    checked = 0
    for block in evaluation["blocks"]:
        for op in block.ops:
            for phase in PHASES:
                work = op.work(phase)
                if work is None:
                    continue
                if isinstance(work, Stream):
                    arithmetic, traffic = work.flops / device.vector.fp32, work.bytes
                elif isinstance(work, Fused):
                    reached = device.efficiency.attention * device.efficiency.sustained
                    reached *= 1.0 if phase == "forward" else device.efficiency.attention_backward
                    arithmetic, traffic = work.flops / peak / reached, work.bytes
                else:
                    arithmetic, traffic = _gemm(work, peak, device, op.kind)
                busy = max(float(arithmetic), float(traffic) / rate)
                wanted = busy + (device.efficiency.launch if busy > 0 else 0)
                found = float(evaluation["operator_times"][f"{block.name}.{op.name}.{phase}"])
                assert found == pytest.approx(wanted, rel=1e-12), (block.name, op.name, phase)
                checked += 1
    assert checked > 20


def _gemm(work: Gemm, peak: float, device: Any, kind: str) -> tuple[float, float]:
    """Seconds of arithmetic, tile by tile and wave by wave, and bytes of traffic."""
    m, k, n, count, e = (float(x) for x in (work.m, work.k, work.n, work.count, work.element))
    limits, s = device.efficiency, device.buffer
    a, b, c = m * k * e if work.a_bytes is None else float(work.a_bytes), k * n * e, m * n * e
    traffic = c + min(math.ceil(b / s) * a + b, math.ceil(a / s) * b + a, math.ceil(c / s) * min(a, b) + max(a, b))
    reached = limits.matrix * limits.sustained
    if kind == "batched_gemm" and (k % 64 or n % 64):
        reached *= limits.unaligned
    core = peak * reached / device.cores  # one core's rate, and the tiles it works off one after the other
    seconds = 2 * m * k * n * count / (peak * reached)
    if limits.tiles:
        waves = {(x, y): math.ceil(math.ceil(m / x) * math.ceil(n / y) * count / device.cores - 1e-9)
                 for x, y in ((256, 128), (128, 128), (128, 64))}  # fmt: skip
        seconds = min(w * 2 * x * y * (k + limits.k_overhead) / core / (limits.small_tile if y < 128 else 1.0)
                      for (x, y), w in waves.items())  # fmt: skip
    return seconds, traffic * count


# -- lowering -----------------------------------------------------------------------------------------------


def forward_flops(model: Transformer, shard: Shard) -> float:
    return sum(float(block.count * op.forward.flops) for block in model.lower(shard) for op in block.ops
               if isinstance(op.forward, Gemm | Fused))  # fmt: skip


@pytest.mark.parametrize("id", TRANSFORMERS)
def test_lowering_conserves_flops(id: str) -> None:
    """The operators of one sample add up to the model's FLOP: attention in full if unfused, half if causal flash."""
    model = load_model(id)
    whole = float(model.forward_flops())
    assert forward_flops(model, Shard(flash=False)) == pytest.approx(whole, rel=0.005)
    qk = model.latent.nope_dim + model.latent.rope_dim if model.latent else model.width
    value = model.latent.value_dim if model.latent else model.width
    core = 2.0 * model.layers * model.seq_len**2 * model.heads * (qk + value)
    saved = core / 2 if model.causal else 0.0
    assert forward_flops(model, Shard(flash=True)) == pytest.approx(whole - saved, rel=0.005)


@pytest.mark.parametrize("id", TRANSFORMERS)
@pytest.mark.parametrize(("tp", "cp", "batch"), [(2, 1, 1), (4, 2, 3), (8, 1, 2), (8, 4, 1)])
def test_sharding_conserves_flops(id: str, tp: int, cp: int, batch: int) -> None:
    """The devices of a replica together do the work of one: what is replicated adds, and nothing is lost."""
    model = load_model(id)
    one = forward_flops(model, Shard(micro_batch=batch))
    shared = tp * cp * forward_flops(model, Shard(tp=tp, cp=cp, micro_batch=batch, sequence_parallel=True))
    assert shared >= one * (1 - 1e-12)
    if not model.latent:  # latent down-projections and unevenly few key/value heads are repeated on every rank
        spare = 4 * batch * model.seq_len * model.hidden * model.groups * model.width * model.layers
        assert shared <= one + (tp - 1) * spare * (1 + 1e-9) if model.groups < tp else shared <= one * (1 + 1e-9)


@pytest.mark.parametrize("id", TRANSFORMERS)
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_lowering_conserves_parameters(id: str, tp: int) -> None:
    """The weights of the operators add up to the model's parameters; norms and routers are repeated over tp."""
    model = load_model(id)
    held = sum(float(block.count * op.weights) for block in model.lower(Shard(tp=tp)) for op in block.ops)
    tied = float(model.vocab * model.hidden) / tp if bool(np.any(model.tied_embeddings)) and model.head else 0.0
    total = float(model.parameters())
    assert held - tied >= total / tp * (1 - 1e-9)
    assert held - tied <= total / tp * (1.005 if tp == 1 else 1.06)
    if tp == 1:
        assert held - tied == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("id", TRANSFORMERS)
def test_backward_is_twice_the_forward(id: str) -> None:
    """Each matrix product has an input gradient and, where it has weights, a weight gradient of its own FLOP."""
    for block in load_model(id).lower(Shard(flash=False, tp=2)):
        for op in block.ops:
            if isinstance(op.forward, Gemm):
                gradients = [op.input_grad, op.weight_grad]
                assert all(np.isclose(float(g.flops), float(op.forward.flops)) for g in gradients)
