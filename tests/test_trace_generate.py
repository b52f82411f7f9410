"""Traces generated from designs: sound graphs, the cost model's work, sizes and times, at any scale."""

from __future__ import annotations

import heapq
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import dse
from dse.errors import SpecError
from dse.explore.timeline import _order
from dse.trace import load, save, validate
from dse.trace.generate import generate, generate_result
from dse.trace.schema import Collective, Kind

GROUPS = {"tp": "tp", "cp": "cp", "ep": "ep", "dp": "grad", "expert_dp": "expert_grad", "shard": "shard",
          "copies": "copies", "": "all"}  # fmt: skip
MEMORY = (Kind.MEM_LOAD, Kind.MEM_STORE)
NOT_WORK = {"host", "dp_host", "hop", "optimizer"}  # words in the names of nodes that stand for no operator
TABLE = [  # model, devices, strategy, tolerance of the step time against the closed form where it is not 2 %
    ("gpt3-5b", 64, "tp=8,global_batch=16"),
    ("gpt3-5b", 64, "tp=8,global_batch=64,overlap_dp=false"),
    ("gpt3-5b", 64, "tp=8,global_batch=64,sequence_parallel=true"),
    ("gpt3-5b", 64, "tp=4,pp=4,global_batch=64"),
    ("gpt3-5b", 64, "tp=4,pp=4,global_batch=64,zero_stage=1,sequence_parallel=true,placement=pp-tp-cp-dp"),
    ("gpt3-5b", 64, "tp=4,pp=4,global_batch=64,schedule=gpipe"),
    ("gpt3-5b", 64, "tp=4,pp=4,global_batch=64,virtual_stages=3,zero_stage=1"),
    ("gpt3-5b", 64, "tp=4,pp=4,global_batch=64,schedule=zero_bubble_h1"),
    ("gpt3-5b", 64, "tp=4,pp=4,global_batch=64,schedule=zero_bubble_h2,stack=ideal"),
    ("gpt3-5b", 64, "tp=2,pp=8,global_batch=128,recompute=full,overlap_pp=true"),
    ("gpt3-5b", 64, "global_batch=128,zero_stage=2"),
    ("gpt3-5b", 64, "global_batch=128,zero_stage=3"),
    ("gpt3-5b", 64, "global_batch=128,zero_stage=3,shard_group=8,stack=fsdp"),
    ("gpt3-5b", 64, "global_batch=128,zero_stage=1,shard_group=8"),
    ("gpt3-5b", 64, "tp=8,global_batch=64,lora_rank=16"),
    ("gpt3-5b", 64, "tp=2,pp=4,global_batch=64,schedule=zero_bubble_h1,lora_rank=16"),
    ("llama3-8b", 64, "tp=2,cp=4,global_batch=32,zero_stage=1,recompute=selective,attention=fused"),
    ("llama3-8b", 64, "tp=2,cp=4,context=all_to_all,global_batch=32,zero_stage=1"),
    ("mixtral-8x7b", 64, "tp=2,pp=4,ep=4,global_batch=128,zero_stage=1,sequence_parallel=true"),
    ("mixtral-8x7b", 64, "tp=2,pp=4,ep=4,global_batch=128,sequence_parallel=true,overlap_ep=true"),
    ("dlrm-1.2t", 64, "global_batch=65536,micro_batch=1024"),
    ("resnet-50", 64, "global_batch=8192,micro_batch=64"),
]


def priced(model, devices, strategy):
    return dse.estimate(model, "dgx-h100", strategy, devices=devices)


def quantities(result):
    return result.cells[0].evaluation


def group_sizes(result):
    """Ranks of each group of the cost model."""
    of = quantities(result)
    return {name: round(float(np.prod([float(n) for n in shares]))) for name, shares in of["placement_shares"].items()}


def alone(trace, result):
    """Seconds of every node where nothing contends, by the cost model's links and tiers."""
    of, sizes = quantities(result), group_sizes(result)
    rates = {tier.name: tier.bandwidth / tier.shared_by for tier in of["cluster"].node.expansion}
    out, known = trace.seconds.copy(), {}
    for i in np.flatnonzero(trace.kind != Kind.COMP):
        kind = trace.kind[i]
        key = (int(kind), int(trace.coll[i]), int(trace.group[i]), int(trace.size[i]))
        if kind in MEMORY:
            out[i] = trace.bytes[i] / rates[trace.tiers[trace.tier[i]]]
        elif kind == Kind.SEND:
            out[i] = of["links"].time("point_to_point", "pp", float(key[3]))
        elif kind == Kind.COLL:
            if key not in known:
                name = Collective(key[1]).name.lower()
                group = GROUPS[trace.labels[key[2]] if key[2] >= 0 else ""]
                whole = key[3] * (sizes[group] if name == "all_gather" else 1)
                known[key] = float(of["links"].time(name, group, float(whole)))
            out[i] = known[key]
    return out


def play(traces, result):
    """End of every node, one rank a stage: nodes wait for what they need and, of memory accesses, for one another.

    Checks on the way that every message is sent and received once, with one size, and that nothing waits for ever.
    """
    begin = np.cumsum([0, *map(len, traces.classes)])
    seconds = np.concatenate([alone(trace, result) for trace in traces.classes]).tolist()
    needs: list[list[int]] = []
    sent: dict[tuple[int, int, int], tuple[int, int]] = {}
    first = [int(np.argmax(traces.of == stage)) for stage in range(len(traces.classes))]
    for stage, trace in enumerate(traces.classes):
        pointers, rows = trace.parents
        needs += [(rows[a:b] + begin[stage]).tolist() for a, b in pairwise(pointers)]
        for i in np.flatnonzero(trace.kind == Kind.SEND):
            key = (stage, int(traces.of[first[stage] + trace.dst[i]]), int(trace.tag[i]))
            assert key not in sent
            sent[key] = (int(begin[stage] + i), int(trace.size[i]))
    for stage, trace in enumerate(traces.classes):
        for i in np.flatnonzero(trace.kind == Kind.RECV):
            row, size = sent.pop((int(traces.of[first[stage] + trace.src[i]]), stage, int(trace.tag[i])))
            assert size == trace.size[i]
            needs[begin[stage] + i].append(row)
    assert not sent
    children: list[list[int]] = [[] for _ in needs]
    for row, parents in enumerate(needs):
        for parent in parents:
            children[parent].append(row)
    left, start, end = [len(parents) for parents in needs], [0.0] * len(needs), [np.nan] * len(needs)
    memory = np.isin(np.concatenate([trace.kind for trace in traces.classes]), MEMORY)
    stage_of = np.repeat(np.arange(len(traces.classes)), np.diff(begin))
    free = [0.0] * len(traces.classes)
    ready = [(0.0, row) for row, count in enumerate(left) if not count]
    while ready:
        time, row = heapq.heappop(ready)
        if memory[row]:
            time = max(time, free[stage_of[row]])
            free[stage_of[row]] = time + seconds[row]
        end[row] = time + seconds[row]
        for child in children[row]:
            start[child] = max(start[child], end[row])
            left[child] -= 1
            if not left[child]:
                heapq.heappush(ready, (start[child], child))
    assert not np.isnan(end).any()  # no cycle
    return np.array(end)


def expected(traces, result):
    """The closed form's step without what the traces say that they leave out."""
    return result.number("step_time") - sum(row.seconds or 0.0 for row in traces.residual)


def counted(result, phase_runs):
    """Sum over one pipeline of what ``phase_runs`` makes of each block: over all micro-batches, one rank a stage."""
    of = quantities(result)
    return float(of["micro_batches"]) * sum(int(block.count) * phase_runs(block) for block in of["blocks"])


def runs_of(result, op, block):
    """How often each phase of an operator runs for a micro-batch."""
    again = result.specs["strategy"].recompute
    forward = 1 + (again == "full" and block.place == "body") + (again == "selective" and op.core)
    return {"forward": forward, "input_grad": 1, "weight_grad": 1}


def is_work(trace):
    """Nodes that are (a part of) an operator."""
    other = [bool(NOT_WORK & set(trace.names[i].split("."))) for i in trace.name]
    return ~np.array(other) & (trace.kind == Kind.COMP)


@pytest.fixture(scope="module", params=TABLE, ids=lambda row: f"{row[0]}:{row[2]}")
def design(request):
    result = priced(*request.param)
    return result, generate_result(result)


def test_nothing_is_wrong_with_it(design):
    result, traces = design
    assert validate(traces) == []
    assert len(traces.classes) == result.specs["strategy"].pp
    for trace in traces.classes:
        assert trace.relative
        assert len(set(trace.names)) == len(trace) == len(np.unique(trace.name))


def test_step_time_is_the_closed_form_s(design):
    result, traces = design
    assert play(traces, result).max() == pytest.approx(expected(traces, result), rel=0.015)
    step = result.number("step_time")
    known = sum(abs(row.seconds or 0.0) for row in traces.residual if row.term != "stragglers")
    assert known < 0.05 * step  # what is explained is little; most (4 %) where a shard group has gradients of its own


def test_work_is_the_cost_model_s(design):
    """FLOP and seconds of the operators, over all stages."""
    result, traces = design
    of = quantities(result)

    def flops(block):
        works = [(op, p, op.work(p)) for op in block.ops for p in ("forward", "input_grad", "weight_grad")]
        return sum(
            float(work.flops) * runs_of(result, op, block)[p]
            for op, p, work in works
            if work is not None and float(of["operator_times"][f"{block.name}.{op.name}.{p}"])
        )

    work = [is_work(trace) for trace in traces.classes]
    found = sum(float(trace.flops[rows].sum()) for trace, rows in zip(traces.classes, work, strict=True))
    assert found == pytest.approx(counted(result, flops), rel=1e-6)
    seconds = sum(float(trace.seconds[rows].sum()) for trace, rows in zip(traces.classes, work, strict=True))
    terms = result.terms("time")
    computing = sum(terms[name] for name in ("forward", "recompute", "input_grad", "weight_grad"))
    assert seconds == pytest.approx(result.specs["strategy"].pp * computing, rel=1e-9)


def test_bytes_of_operators_are_the_roofline_s(design):
    """No operator moves more bytes than its time allows, and the streaming ones move just as many."""
    result, traces = design
    of = quantities(result)
    for trace in traces.classes:
        rows = np.flatnonzero(is_work(trace) & (trace.seconds > 1e-6))
        least = (trace.bytes[rows] - 1.0) / float(of["memory_bandwidth"])
        assert np.all(least <= trace.seconds[rows] * (1 + 1e-9))
        norms = [i for i in rows if trace.names[trace.name[i]].endswith("attention_norm")]
        busy = trace.bytes[norms] / float(of["memory_bandwidth"]) + float(of["cluster"].accelerator.efficiency.launch)
        assert np.allclose(busy, trace.seconds[norms], rtol=1e-6)


def test_collectives_move_what_the_cost_model_says(design):
    """Bytes by group, of all blocks and of the gradients."""
    result, traces = design
    of, sizes, strategy = quantities(result), group_sizes(result), result.specs["strategy"]
    found = Counter()
    for trace in traces.classes:
        for i in np.flatnonzero(trace.kind == Kind.COLL):
            label = trace.labels[trace.group[i]] if trace.group[i] >= 0 else ""
            gather = trace.coll[i] == Collective.ALL_GATHER
            found[label, int(trace.coll[i])] += int(trace.size[i]) * (sizes[GROUPS[label]] if gather else 1)
    hops = Counter()
    if strategy.pp > 1 and strategy.tp > 1 and not strategy.sequence_parallel:  # receivers gather what was sent
        boundary = max(float(block.boundary) for block in of["blocks"])
        slices = strategy.pp * strategy.virtual_stages
        hops["tp", int(Collective.ALL_GATHER)] = 2 * (slices - 1) * float(of["micro_batches"]) * boundary
    for label in ("tp", "cp", "ep", ""):
        for kind in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"):

            def moved(block, kind=kind, label=label):
                return sum(
                    float(c.bytes) * (runs_of(result, op, block)["forward"] if c.phase == "forward" and not op.core else
                                      1 + (strategy.recompute == "full" and block.place == "body"
                                           and c.phase == "forward"))
                    for op in block.ops for c in op.collectives
                    if c.kind == kind and c.group == GROUPS[label]
                )  # fmt: skip

            want = counted(result, moved) * (sizes[GROUPS[label]] > 1)
            number = int(Collective[kind.upper()])
            assert found[label, number] == pytest.approx(want + hops[label, number], rel=1e-5), (label, kind)


def test_gradients_are_reduced_once_for_all_parameters(design):
    result, traces = design
    of, strategy = quantities(result), result.specs["strategy"]
    widths = {"fp32": 4.0, "bf16": 2.0}
    width = widths[strategy.gradient_precision] * float(of["trainable_share"])
    steps = float(of["micro_batches"]) if strategy.zero_stage >= 2 else 1.0
    labels = ("shard",) if strategy.shard_group else ("dp", "expert_dp")
    moved = 0
    for trace in traces.classes:
        for i in np.flatnonzero(trace.kind == Kind.COLL):
            grad = trace.coll[i] == (Collective.REDUCE_SCATTER if strategy.zero_stage else Collective.ALL_REDUCE)
            moved += int(trace.size[i]) * bool(grad and trace.labels[trace.group[i]] in labels)
    held = sum(float(op.weights) * int(block.count) for block in of["blocks"] for op in block.ops)
    if strategy.pp == 1:  # tied embeddings are there once
        held = sum(map(float, of["stage_parameters"]["first"].values()))
    assert moved == pytest.approx(held * width * steps, rel=1e-5)


def test_every_group_is_a_partition_where_the_cost_model_places_it(design):
    result, traces = design
    of = quantities(result)
    ranks = np.arange(len(traces))
    inner = int(of["dimension_sizes"][0])
    for label, table in traces.groups.items():
        assert np.array_equal(np.sort(table, axis=None), ranks)
        share = [float(n) for n in of["placement_shares"][GROUPS.get(label, label)]]
        if all(n.is_integer() for n in share):  # ranks of a group in one node
            nodes = np.sort(table // inner, axis=1)
            assert np.all((np.diff(nodes, axis=1) != 0).sum(axis=1) + 1 == table.shape[1] / share[0])
        if label != "pp":
            assert np.all(traces.of[table] == traces.of[table][:, :1])
        else:
            assert np.all(np.sort(traces.of[table], axis=1) == np.arange(table.shape[1]))


def test_passes_come_in_the_order_of_the_schedule():
    result = priced("gpt3-5b", 64, "tp=4,pp=4,global_batch=64,virtual_stages=3")
    traces = generate_result(result, detail="pass")
    kind, batch, chunk = _order("1f1b", 4, 16, 3)
    for stage, trace in enumerate(traces.classes):
        names = [trace.names[i] for i in trace.name]
        first = dict.fromkeys(".".join(n.split(".")[:3]) for n in names if ".chunk" in n)
        want = zip(batch[stage], chunk[stage], kind[stage], strict=True)
        assert list(first) == [f"mb{b}.chunk{c}.{('forward', 'backward')[k]}" for b, c, k in want]


def test_optimizer_waits_for_every_gradient():
    result = priced("mixtral-8x7b", 64, "tp=2,pp=4,ep=4,global_batch=64,zero_stage=1")
    for trace in generate_result(result, detail="block").classes:
        names = np.array([trace.names[i] for i in trace.name])
        pointers, rows = trace.parents
        before, todo = set(), np.flatnonzero(names == "optimizer").tolist()
        while todo:
            row = todo.pop()
            fresh = set(rows[pointers[row] : pointers[row + 1]].tolist()) - before
            before |= fresh
            todo += fresh
        needed = [i for i, n in enumerate(names) if "gradients." in n or n.endswith(".backward")]
        assert len(needed) >= 2 + 8 * 2 and before.issuperset(needed)


@pytest.mark.parametrize("detail", ["block", "pass"])
@pytest.mark.parametrize("row", [2, 4, 7, 11, 16, 19], ids=lambda i: f"{TABLE[i][0]}:{TABLE[i][2]}")
def test_coarser_nodes_do_the_same(row, detail):
    result = priced(*TABLE[row])
    fine, coarse = generate_result(result), generate_result(result, detail=detail)
    assert validate(coarse) == []
    assert sum(map(len, coarse.classes)) < 0.7 * sum(map(len, fine.classes))
    for name in ("flops", "bytes"):
        sums = [sum(float(getattr(t, name).sum()) for t in traces.classes) for traces in (fine, coarse)]
        assert sums[0] == pytest.approx(sums[1], rel=1e-6)
    assert play(coarse, result).max() == pytest.approx(expected(coarse, result), rel=0.015)


@pytest.mark.parametrize("detail", ["operator", "pass"])
def test_offloaded_tensors_move_between_tiers(detail):
    strategy = "tp=8,global_batch=64,offload_weights=ddr,offload_gradients=ddr,offload_activations=nvme"
    result = priced("gpt3-5b", 64, strategy)
    of = quantities(result)
    (trace,) = generate_result(result, detail=detail).classes
    memory = np.isin(trace.kind, MEMORY)
    assert np.array_equal(memory, trace.tier >= 0)
    rates = {tier.name: tier.bandwidth / tier.shared_by for tier in of["cluster"].node.expansion}
    times = {
        name: trace.bytes[memory & (trace.tier == trace.tiers.index(name))].sum() / rate for name, rate in rates.items()
    }
    assert max(times.values()) == pytest.approx(float(of["offload_transfer"]), rel=1e-6)
    assert min(times.values()) > 0
    serial = priced("gpt3-5b", 64, strategy.replace("activations=nvme", "activations=ddr") + ",overlap_offload=false")
    traces = generate_result(serial, detail=detail)
    assert play(traces, serial).max() == pytest.approx(expected(traces, serial), rel=0.015)


def test_offloaded_optimizer_runs_where_its_states_lie():
    result = priced("gpt3-5b", 64, "tp=8,global_batch=64,offload_optimizer=ddr")
    traces = generate_result(result)
    (trace,) = traces.classes
    assert [trace.names[i] for i in trace.name[np.isin(trace.kind, MEMORY)]] == ["optimizer.load", "optimizer.store"]
    assert play(traces, result).max() == pytest.approx(expected(traces, result), rel=1e-6)


def test_a_million_devices_take_the_nodes_of_a_few():
    few, many = (
        generate("gpt3-175b", "dgx-h100", f"tp=8,pp=8,global_batch={dp},zero_stage=1", devices=64 * dp)
        for dp in (16, 16384)
    )
    assert len(many) == 1 << 20 and many.groups["dp"].shape == (64, 16384)
    assert [len(t) for t in many.classes] == [len(t) for t in few.classes]
    last = many.groups["tp"][-1]
    assert np.array_equal(last, np.arange((1 << 20) - 8, 1 << 20))
    assert np.array_equal(many.of[::131072], np.arange(8))


def test_without_durations_work_remains():
    traces = generate("gpt3-5b", "dgx-h100", "tp=8,global_batch=16", devices=64, durations=False)
    (trace,) = traces.classes
    assert not trace.seconds.any() and not trace.micros.any()
    timed = generate("gpt3-5b", "dgx-h100", "tp=8,global_batch=16", devices=64).classes[0]
    assert np.array_equal(trace.flops, timed.flops) and np.array_equal(trace.data, timed.data)


def test_files_hold_it(tmp_path):
    result = priced("gpt3-5b", 16, "tp=2,pp=4,global_batch=8,zero_stage=1,placement=pp-tp-cp-dp")
    traces = generate_result(result, detail="block")
    save(traces, tmp_path / "step")
    again = load(tmp_path / "step")
    assert len(again) == 16 and validate(again) == []
    for rank in (0, 5, 15):
        one, other = traces[rank], again[rank]
        for name in ("kind", "flops", "bytes", "coll", "size", "tag", "data", "ctrl"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
        assert np.allclose(one.seconds, other.seconds, rtol=1e-12)
        sends = one.kind == Kind.SEND
        assert np.array_equal(one.dst[sends] + rank, other.dst[sends])
        label = other.labels[other.group[np.flatnonzero(other.kind == Kind.COLL)[0]]]
        assert rank in again.members(rank, label)


SIMULATED = [0, 2, 3, 5, 9, 11, 16, 18, 20]


@pytest.mark.parametrize("row", SIMULATED, ids=lambda i: f"{TABLE[i][0]}:{TABLE[i][2]}")
def test_the_simulator_agrees_with_the_closed_form(row):
    """Where little contends; links and streams are then those of the simulator, not of this test."""
    from dse.simulate import System, simulate

    result = priced(*TABLE[row])
    traces = generate_result(result, detail="block")
    found = simulate(traces, System.of(result.specs["cluster"], len(traces)), record=False)
    closed = result.number("step_time") - result.terms("time").get("stragglers", 0.0)
    assert found.wall.max() == pytest.approx(closed, rel=0.02)


@pytest.mark.parametrize(
    ("strategy", "detail", "said"),
    [
        ("tp=8,global_batch=16,execution=comet", "operator", "execution"),
        ("tp=3,global_batch=16", "operator", "tp = 3"),
        ("tp=8,pp=3,dp=2,global_batch=16", "operator", "devices"),
        ("tp=8,global_batch=16", "layer", "must be one of operator, block, pass"),
        ("tp=8,pp=8,global_batch=1048576", "operator", "coarser detail"),
    ],
)
def test_what_cannot_be_generated_is_refused(strategy, detail, said):
    with pytest.raises(SpecError, match=said):
        generate("gpt3-5b", "dgx-h100", strategy, devices=64, detail=detail)


def test_a_sweep_is_refused():
    swept = dse.sweep("gpt3-5b", "dgx-h100", "global_batch=64", dse.axis("tp", [4, 8]), devices=64)
    with pytest.raises(SpecError, match="has axes"):
        generate_result(swept)


@st.composite
def strategies(draw):
    tp, pp, cp = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2]))
    parts = {"tp": tp, "pp": pp, "cp": cp, "zero_stage": draw(st.integers(0, 1 if pp > 1 else 3))}
    if draw(st.booleans()):
        parts["ep"] = 2
    if pp > 1:
        parts["schedule"] = draw(st.sampled_from(["1f1b", "gpipe", "zero_bubble_h1", "zero_bubble_h2"]))
        if parts["schedule"] == "1f1b":
            parts["virtual_stages"] = draw(st.sampled_from([1, 2]))
    parts["recompute"] = draw(st.sampled_from(["none", "selective", "full"]))
    parts["stack"] = draw(st.sampled_from(["ideal", "megatron", "fsdp"]))
    parts["placement"] = draw(st.sampled_from(["tp-cp-dp-pp", "pp-tp-dp-cp", "dp-cp-tp-pp"]))
    for name in ("sequence_parallel", "overlap_dp", "overlap_tp", "overlap_pp", "overlap_ep"):
        parts[name] = str(draw(st.booleans())).lower()
    parts["global_batch"] = 32 // (tp * pp * cp) * 8
    return ",".join(f"{name}={value}" for name, value in parts.items())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(strategy=strategies(), detail=st.sampled_from(["operator", "block", "pass"]))
def test_any_strategy_gives_a_sound_trace(strategy, detail):
    """Valid, without a cycle, every message received; never much longer than the closed form."""
    result = priced("deepseek-moe-16b", 32, strategy)
    assume(all(reason["rule"] == "memory_fits" for reason in result.reasons()))
    traces = generate_result(result, detail=detail)
    assert validate(traces) == []
    step, end = result.number("step_time"), play(traces, result).max()
    assert 0.8 * step < end + result.terms("time").get("stragglers", 0.0) < 1.15 * step
