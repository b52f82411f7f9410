"""What real runs use: sharded copies, exchanged heads, adapters, narrow formats, CUDA graphs, hidden communication."""

from __future__ import annotations

from typing import Any

import pytest

import dse

PLAN: dict[str, Any] = {"tp": 1, "micro_batch": 1, "global_batch": 512, "zero_stage": 3, "stack": "fsdp"}
SPLIT: dict[str, Any] = {"tp": 8, "pp": 4, "dp": 4, "micro_batch": 1, "global_batch": 256, "zero_stage": 1,
                         "sequence_parallel": True}  # fmt: skip


def term(result: dse.Result, name: str) -> float:
    return float(result[f"time.{name}"])


def priced(change: dict[str, Any], *, model: Any = "llama3-8b", devices: int | None = 128) -> dse.Result:
    return dse.estimate(model, "dgx-h100", {**PLAN, **change}, devices=devices)


def test_a_shard_group_of_all_replicas_is_plain_sharding() -> None:
    """And a smaller one holds more memory, by the states' share."""
    whole, all_of_them, node = (priced({"shard_group": g}) for g in (0, 128, 8))
    assert float(whole["step_time"]) == pytest.approx(float(all_of_them["step_time"]))
    states = {name: float(node.breakdown("memory")[name] / whole.breakdown("memory")[name]) for name in ("optimizer",)}
    assert states["optimizer"] == pytest.approx(16.0, rel=1e-6)
    assert any(r["rule"] == "shards_divide" for r in priced({"shard_group": 48}).reasons())


def test_sharding_within_a_node_keeps_gathers_off_the_slow_network() -> None:
    """With a slow network between nodes, copies of shards inside nodes are faster than sharding over all."""
    slow = {"base": "dgx-h100", "network": {"dimensions": [{"name": "infiniband", "bandwidth": "5 GB/s"}]}}
    times = [
        float(dse.estimate("llama3-8b", slow, {**PLAN, "shard_group": g}, devices=128)["step_time"]) for g in (0, 8)
    ]
    assert times[1] < times[0]


def test_exchanged_heads_send_less_than_a_ring_of_keys_for_grouped_heads_only_when_alike() -> None:
    """A ring hides behind the attention core; an exchange does not, and needs whole heads."""
    long = {"base": "llama3-8b", "seq_len": 131072}
    plan = {"tp": 1, "cp": 8, "dp": 1, "micro_batch": 1, "global_batch": 4}
    ring, exchange = (dse.estimate(long, "dgx-h100", {**plan, "context": c}) for c in ("ring", "all_to_all"))
    assert term(exchange, "cp_comm") > term(ring, "cp_comm") >= 0
    assert term(exchange, "forward") == pytest.approx(term(ring, "forward"))
    torn = dse.estimate(long, "dgx-h100", {**plan, "tp": 8, "context": "all_to_all"})
    assert any(r["rule"] == "heads_exchange" for r in torn.reasons())


def test_adapters_need_no_weight_gradients_and_hardly_any_states() -> None:
    """Two thirds of the work; reductions and optimizer shrink with the rank's share of the parameters."""
    full, adapted = (priced({"lora_rank": r, "zero_stage": 1}) for r in (0, 16))
    assert float(adapted["model_flops"]) == pytest.approx(2 / 3 * float(full["model_flops"]))
    assert term(adapted, "weight_grad") < 0.05 * term(full, "weight_grad")
    assert term(adapted, "optimizer") < term(full, "optimizer")
    assert adapted.breakdown("memory")["optimizer"] < 0.02 * full.breakdown("memory")["optimizer"]
    share = [float(priced({"lora_rank": r})["trainable_share"]) for r in (8, 16, 32)]
    assert share[1] == pytest.approx(2 * share[0]) and share[2] == pytest.approx(4 * share[0])


def test_narrow_formats_are_faster_and_keep_logits_wide() -> None:
    """BF16 > FP8 > FP4 in time on hardware that has them; the logits take as long in all."""
    times, logits = [], []
    for precision in ("bf16", "fp8", "nvfp4"):
        found = dse.estimate("llama3-70b", "gb200-nvl72", {**SPLIT, "tp": 4, "dp": 8, "precision": precision})
        times.append(float(found["step_time"]))
        logits.append(float(found.cells[0].evaluation["operator_times"]["head.logits.forward"]))
    assert times == sorted(times, reverse=True) and len(set(times)) == 3
    assert max(logits) == pytest.approx(min(logits))
    hopper = dse.estimate("llama3-70b", "dgx-h100", {**SPLIT, "precision": "nvfp4"})
    assert any(r["rule"] == "precision_supported" for r in hopper.reasons())


def test_cuda_graphs_remove_the_host_from_small_models() -> None:
    """A small model on tp = 8 waits for its launches; graphs remove that wait."""
    small = {"base": "llama3-8b", "hidden": 1024, "heads": 16, "kv_heads": 16, "ffn_hidden": 4096, "seq_len": 512}
    plan = {**SPLIT, "pp": 1, "dp": 1, "global_batch": 16}
    eager, graph = (dse.estimate(small, "dgx-h100", {**plan, "cuda_graphs": g}) for g in (False, True))
    assert term(eager, "host_forward") > term(graph, "host_forward")
    assert float(graph["step_time"]) < float(eager["step_time"])


@pytest.mark.parametrize("switch", ["overlap_tp", "overlap_pp", "overlap_dp"])
def test_hiding_communication_never_costs_time(switch: str) -> None:
    exposed, hidden = (dse.estimate("llama3-70b", "dgx-h100", {**SPLIT, switch: on}) for on in (False, True))
    assert float(hidden["step_time"]) <= float(exposed["step_time"])


def test_hidden_exchanges_of_experts() -> None:
    """All-to-alls of experts hide behind the same layer's products."""
    plan = {"tp": 1, "pp": 4, "ep": 8, "dp": 32, "micro_batch": 1, "global_batch": 256, "zero_stage": 1}
    exposed, hidden = (dse.estimate("qwen3-235b-a22b", "dgx-h100", {**plan, "overlap_ep": on}) for on in (False, True))
    assert term(hidden, "ep_comm") < term(exposed, "ep_comm")


def test_slices_cross_stages_and_are_gathered_inside_the_node() -> None:
    """Without sequence parallelism a hop sends 1/tp over the slow network and gathers over the fast one."""
    plan = {**SPLIT, "pp": 8, "dp": 2, "stack": "ideal"}
    whole, sliced = (dse.estimate("llama3-70b", "dgx-h100", {**plan, "sequence_parallel": s}) for s in (False, True))
    assert term(sliced, "pp_comm") < term(whole, "pp_comm") < 2 * term(sliced, "pp_comm")


def test_misaligned_heads_are_slow_without_a_fused_kernel() -> None:
    """Heads of 108 elements cost more than heads of 112, though they are smaller."""
    times = []
    for heads, size in ((128, 112), (128, 108)):
        model = {"base": "gpt3-175b", "heads": heads, "hidden": 14336, "head_dim": size}
        plan = {**SPLIT, "attention": "fused", "stack": "megatron-classic"}
        times.append(float(dse.estimate(model, "dgx-a100", plan)["step_time"]))
    assert times[1] > times[0]
