"""Compat mode against recorded runs of the public simulator, and against itself: collectives whole or message by message."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dse.errors import SpecError
from dse.simulate.compat import collective, run
from dse.simulate.compat.outcome import Aborted, CompatRun, Deadlock
from dse.simulate.compat.programs import traces_of
from dse.simulate.compat.validate import text, validate_collectives, validate_programs, validate_traces
from dse.simulate.compat.whole import small_trace
from dse.simulate.formats import Memory, Network, System, checked
from dse.trace.columns import TraceSet
from dse.trace.schema import Kind

TABLES = Path(__file__).parents[1] / "data" / "reference" / "astrasim"
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")
RING8 = {"topology": ["Ring"], "npus_count": [8], "bandwidth": [50], "latency": [500]}


def system(*names: str, **fields: object) -> dict[str, object]:
    base = {"endpoint-delay": 10, "preferred-dataset-splits": 4, "local-mem-bw": 1600}
    names = names or ("ring",)
    return base | {f"{kind}-implementation": list(names) for kind in KINDS} | fields


@pytest.mark.parametrize("table", ["collectives_1d", "collectives_multidim", "collectives_themis"])
def test_collectives_are_exact_to_the_nanosecond_and_so_is_which_of_them_never_end(table):
    found = validate_collectives(TABLES / f"{table}.parquet")
    assert found["n"] > 300
    assert found["exact_fraction"] == 1, text(found)
    assert found["worst"] == []


def test_the_validated_server_is_exact_on_both_backends():
    assert validate_collectives(TABLES / "hgx_h100_validated_allreduce.parquet")["exact_fraction"] == 1


def test_programs_are_exact_but_for_one_that_crashed():
    found = validate_programs(TABLES / "programs.parquet")
    # The public simulator reads freed memory after it has thrown away the statistics of a rank; there it crashed.
    assert [item["case"] for item in found["worst"]] == ["mem_load_per_node_unaware"]
    assert found["n"] * (1 - found["exact_fraction"]) == pytest.approx(1)


@pytest.mark.parametrize("table", ["chakra_generator_programs", "text_workloads"])
def test_converted_and_generated_traces_are_exact(table):
    found = validate_programs(TABLES / f"{table}.parquet")
    assert found["exact_fraction"] == 1, text(found)


def test_transformer_traces_are_exact_with_their_statistics():
    found = validate_traces(TABLES / "transformer_stage.parquet")
    assert found["n"] == 72
    assert found["exact_fraction"] == 1, text(found)


def test_a_table_that_was_tampered_with_is_noticed(tmp_path):
    import pandas as pd

    frame = pd.read_parquet(TABLES / "collectives_multidim.parquet").head(10)
    frame.loc[3, "cycles_ns"] += 1
    frame.loc[7, "cycles_ns"] *= 2
    frame.to_csv(tmp_path / "t.csv", index=False)
    found = validate_collectives(tmp_path / "t.csv")
    assert (found["exact_fraction"], found["within_2pct_fraction"]) == (0.8, 0.9)
    assert [item["row"] for item in found["worst"]] == [7, 3]
    assert json.loads(json.dumps(found)) == found
    with pytest.raises(SpecError, match="known kind"):
        validate_programs(tmp_path / "t.csv")


@pytest.mark.parametrize(("n", "size", "splits"), [(8, 1 << 20, 1), (6, 12_345_678, 4), (32, 1 << 26, 16)])
def test_a_ring_takes_the_time_of_its_closed_form(n, size, splits):
    # m = chunk // n; H = int(latency + m / B); 2(n-1) H + (2n-1) endpoint + (n-1) x 3 int(m / memory bandwidth), a chunk
    network = {"topology": "Ring", "npus_count": n, "bandwidth": 50, "latency": 500}
    m = size // splits // n
    hop, reduction = int(500 + m / (50 * 2**30 / 1e9)), 3 * int(m / 1600e9 * 1e9)
    chunk = 2 * (n - 1) * hop + (2 * n - 1) * 10 + (n - 1) * reduction
    count = -(-size // (size // splits))
    assert (
        collective(network, system(**{"preferred-dataset-splits": splits}), "all_reduce", size) == (count * chunk,) * 2
    )


def test_one_npu_stands_for_all_on_a_symmetric_network():
    from dse.simulate.compat.machine import compile_program, exactly
    from dse.simulate.compat.whole import CODES, foldable

    network = checked(
        Network, {"topology": ["Ring", "FullyConnected", "Switch"], "npus_count": [6, 3, 4], "bandwidth": [90, 40, 25],
                  "latency": [300, 700, 1100]},
    )  # fmt: skip
    settings = checked(
        System, system("direct", "direct2", "halvingDoubling", **{"collective-optimization": "localBWAware"}), splits=5
    )
    for comm in (0, 1, 2):
        node = {"kind": Kind.COLL, "coll": CODES[comm], "size": 1_234_567}
        traces = TraceSet((small_trace([node]),), np.zeros(network.npus, np.int64))
        program = compile_program(traces, network, settings, Memory())
        assert foldable(program.tables, 0)
        every = exactly(program).ranks[:, 7]
        assert (every == exactly(program, fold=True).ranks[0, 7]).all()


@pytest.mark.parametrize(("sizes", "names"), [((16, 32, 32), ("ring",) * 3), ((128, 128), ("halvingDoubling",) * 2)])
def test_large_networks_as_recorded(sizes, names):
    recorded = {(16, 32, 32): (1 << 20, 99_961), (128, 128): (1 << 30, 21_025_707)}
    size, cycles = recorded[sizes]
    topology = ["Ring" if name == "ring" else "Switch" for name in names]
    network = {
        "topology": topology,
        "npus_count": sizes,
        "bandwidth": [100] * len(sizes),
        "latency": [500] * len(sizes),
    }
    options = {"preferred-dataset-splits": 1, "collective-optimization": "localBWAware"}
    assert collective(network, system(*names, **options), "all_reduce", size) == (cycles, cycles)


# --- collectives answered whole against every message ----------------------------------------------------------------

NETWORKS = (
    (["Ring"], [8], [50], [500]),
    (["Switch", "Ring"], [2, 4], [100, 30], [300, 800]),
    (["FullyConnected", "Switch"], [4, 4], [200, 50], [50, 2000]),
)


def random_traces(rng: np.random.Generator, ranks: int, messages: bool) -> TraceSet:
    """Traces whose ranks come to their collectives at different times: halves, all, messages, compute, memory."""
    order = rng.permutation(ranks)
    halves = np.sort(order.reshape(2, -1), axis=1)
    groups = {"1": halves[:1], "2": halves[1:], "3": np.arange(0, ranks, 2)[None], "4": np.arange(1, ranks, 2)[None]}
    labels = tuple(groups)
    steps = [
        (int(rng.integers(3)), int(rng.choice([0, 2, 6, 7])), int(rng.integers(1 << 10, 1 << 22))) for _ in range(8)
    ]
    traces = []
    for rank in range(ranks):
        mine = (-1, 0 if rank in halves[0] else 1, 2 + rank % 2)
        rows: list[dict] = []
        last: list[int] = []  # the collective before: all ranks have theirs in the same order
        for at, (which, coll, size) in enumerate(steps):
            rows.append({"kind": Kind.COMP, "micros": int(rng.integers(0, 40)), "cpu": int(rng.integers(4) == 0)})
            if messages and rank + 1 < ranks:
                rows.append({"kind": Kind.SEND, "size": size // 3 + 1, "src": rank, "dst": rank + 1, "tag": at})
            if messages and rank:
                rows.append({"kind": Kind.RECV, "size": size // 3 + 1, "src": rank - 1, "dst": rank, "tag": at})
            if rng.integers(5) == 0:
                rows.append({"kind": Kind.MEM_LOAD, "bytes": int(rng.integers(1, 1 << 22))})
            deps = sorted({len(rows) - 1, *last})
            last = [len(rows)]
            rows.append({"kind": Kind.COLL, "coll": coll, "size": size, "group": mine[which], "deps": deps})
        traces.append(small_trace(rows, labels))
    return TraceSet(tuple(traces), np.arange(ranks), groups)


def two_at_once(whole: CompatRun, every: CompatRun) -> bool:
    """Whether runs part where two nodes of one rank end in the same ns, whose order nothing decides."""
    parted = [np.minimum(a, b)[a != b] for a, b in ((whole.starts, every.starts), (whole.ends, every.ends))]
    time = np.concatenate(parted).min()
    ranks = np.repeat(np.arange(len(every.finished)), np.diff(every.base))
    return bool((np.bincount(ranks[every.ends == time], minlength=1) > 1).any())


@pytest.mark.parametrize("seed", range(24))
def test_collectives_answered_whole_are_what_their_messages_make_them(seed):
    rng = np.random.default_rng(seed)
    topology, sizes, bandwidth, latency = NETWORKS[seed % 3]
    network = {"topology": topology, "npus_count": sizes, "bandwidth": bandwidth, "latency": latency}
    names = [str(rng.choice(["ring", "direct", "direct2"])) for _ in sizes]
    options = {
        "active-chunks-per-dimension": int(rng.integers(1, 4)),
        "preferred-dataset-splits": int(rng.integers(1, 5)),
        "collective-optimization": str(rng.choice(["baseline", "localBWAware"])),
    }
    memory = {"memory-type": "PER_NPU_MEMORY_EXPANSION", "remote-mem-latency": 300, "remote-mem-bw": 80}
    for messages in (False, True):
        traces = random_traces(rng, int(np.prod(sizes)), messages)
        whole = run(traces, network, system(*names, **options), memory, every_message=False)
        every = run(traces, network, system(*names, **options), memory, every_message=True)
        assert whole.outcome == every.outcome == "finished", (whole.reasons, every.reasons)
        assert whole.events < every.events
        if messages and (whole.ends != every.ends).any():
            assert two_at_once(whole, every)
            continue
        np.testing.assert_array_equal(whole.starts, every.starts)
        np.testing.assert_array_equal(whole.ends, every.ends)
        for name in ("wall", "gpu", "cpu", "comm", "memory", "exposed"):
            np.testing.assert_array_equal(getattr(whole, name), getattr(every, name))


# --- ends that are none ----------------------------------------------------------------------------------------------


def pair(*ranks: list[dict]) -> TraceSet:
    return TraceSet(tuple(small_trace(rows) for rows in ranks), np.arange(len(ranks)))


def two(rows: list[dict], others: list[dict]) -> tuple[TraceSet, dict]:
    return pair(rows, others), {"topology": "Ring", "npus_count": 2, "bandwidth": 50, "latency": 500}


def test_a_missing_peer_is_named():
    traces, network = two([{"kind": Kind.RECV, "size": 4096, "src": 1, "dst": 0, "tag": 5}], [{"kind": Kind.COMP}])
    out = run(traces, network, system())
    assert (out.outcome, out.finished.tolist()) == ("deadlock", [-1, 1])
    with pytest.raises(Deadlock, match=r"tag 5 from rank 1, which has finished without sending"):
        out.check()


def test_a_cycle_of_ranks_is_named():
    def rows(me: int, other: int) -> list[dict]:
        return [
            {"kind": Kind.RECV, "size": 64, "src": other, "dst": me},
            {"kind": Kind.SEND, "size": 64, "src": me, "dst": other, "deps": [0]},
        ]

    traces, network = two(rows(0, 1), rows(1, 0))
    with pytest.raises(Deadlock, match=r"wait for one another: 0 -> 1 -> 0"):
        run(traces, network, system()).check()


def test_a_rank_that_never_comes_to_a_collective_is_named():
    traces, network = two([{"kind": Kind.COLL, "coll": 0, "size": 4096}], [{"kind": Kind.COMP}])
    for every in (False, True):
        with pytest.raises(Deadlock, match="the collective waits for rank 1"):
            run(traces, network, system(), every_message=every).check()


def test_ranks_that_have_had_different_numbers_of_chunks_cannot_meet_again():
    # The public simulator numbers the messages of all ranks' collectives by what each rank has sent before, in groups too.
    small = {"kind": Kind.COLL, "coll": 0, "size": 4096}
    groups = {"1": np.array([[0, 1, 2]])}
    rows = [{**small, "group": 0}, {**small, "deps": [0]}]
    traces = TraceSet((small_trace(rows, ("1",)), small_trace([small])), np.array([0, 0, 0, 1]), groups)
    network = {"topology": "Ring", "npus_count": 4, "bandwidth": 50, "latency": 500}
    with pytest.raises(Deadlock, match="different numbers of chunks"):
        run(traces, network, system()).check()


def test_ranks_that_disagree_about_a_collective_block_as_their_messages_do():
    traces, network = two(
        [{"kind": Kind.COLL, "coll": 0, "size": 4096}], [{"kind": Kind.COLL, "coll": 2, "size": 1 << 20}]
    )
    assert (
        run(traces, network, system()).outcome
        == run(traces, network, system(), every_message=True).outcome
        == "deadlock"
    )


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"kind": Kind.METADATA}, "METADATA"),
        ({"kind": Kind.COLL, "coll": 9, "size": 8}, "no collective of this kind"),
        ({"kind": Kind.COLL, "size": 8}, "no comm_type"),
        ({"kind": Kind.COLL, "coll": 0, "size": 8, "cpu": 1}, "is_cpu_op"),
        ({"kind": Kind.SEND, "size": 8}, "no comm_dst"),
        ({"kind": Kind.SEND, "size": 8, "src": 0, "dst": 7}, "rank that there is not"),
        ({"kind": Kind.SEND, "size": 8, "src": 1, "dst": 0}, "another rank|to itself"),
        ({"kind": Kind.RECV, "size": 8}, "no comm_src"),
        ({"kind": Kind.RECV, "src": 1, "dst": 0}, "no comm_size"),
        ({"kind": Kind.MEM_LOAD, "bytes": 8}, "NO_MEMORY_EXPANSION"),
    ],
)
def test_what_the_public_simulator_cannot_execute_says_which_node_and_why(row, why):
    traces, network = two([row], [{"kind": Kind.COMP}])
    with pytest.raises(Aborted, match=rf"rank 0, node 0: .*({why})"):
        run(traces, network, system()).check()


def test_nodes_without_work_strand_what_depends_on_them():
    rows = [{"kind": Kind.COMP, "flops": 1e9}, {"kind": Kind.COMP, "flops": 1e9, "bytes": 1e6, "deps": [0]}]
    traces, network = two(rows, rows)
    options = system(**{"roofline-enabled": 1, "peak-perf": 900})
    with pytest.raises(Deadlock, match=r"node 1 is ready but never looked at"):
        run(traces, network, options).check()


# --- input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"topology": ["Star"]}, "topology"),
        ({"npus_count": [0]}, "npus_count"),
        ({"npus_count": [1 << 20, 1 << 20]}, "one entry a dimension"),
        ({"bandwidth": [float("nan")]}, "bandwidth"),
        ({"latency": [-1]}, "latency"),
        ({"topology": ["Ring", "Ring"], "npus_count": [2, 2], "bandwidth": [1, 1], "latency": [1, 1], "aware": True},
         "one dimension only"),
    ],
)  # fmt: skip
def test_networks_that_are_wrong_say_so(change, words):
    with pytest.raises(SpecError, match=words):
        collective(RING8 | change, system(), "all_reduce", 1 << 20)


@pytest.mark.parametrize(
    ("names", "kind", "size", "words"),
    [
        (("tree",), "all_reduce", 1024, "all-reduce-implementation"),
        (("ring", "ring"), "all_reduce", 1024, "an algorithm a dimension"),
        (("halvingDoubling",), "all_to_all", 1024, "cannot do an all-to-all"),
        (("ring",), "all_gather", 3, "at least preferred-dataset-splits"),
        (("ring",), "broadcast", 1024, "must be one of"),
        (("ring",), "all_reduce", 0, "above 0"),
    ],
)
def test_collectives_that_cannot_be_say_so(names, kind, size, words):
    with pytest.raises(SpecError, match=words):
        collective(RING8, system(*names), kind, size)


def test_a_tree_needs_a_power_of_two():
    with pytest.raises(SpecError, match=r"2\^k NPUs"):
        collective(RING8 | {"npus_count": [6]}, system("doubleBinaryTree"), "all_reduce", 1 << 20)


def test_files_are_read_and_their_faults_name_them(tmp_path):
    (tmp_path / "net.yml").write_text(
        "topology: [ Ring ]\nnpus_count: [ 8 ]\nbandwidth: [ 50.0 ]  # GB/s\nlatency: [ 500.0 ]\n"
    )
    (tmp_path / "sys.json").write_text(
        json.dumps(system(**{"collective-optimization": "localBWAware", "boost-mode": 0}))
    )
    assert collective(tmp_path / "net.yml", tmp_path / "sys.json", "all_reduce", 1 << 20) == (64_440, 64_440)
    (tmp_path / "bad.yml").write_text("topology: [ Ring\n")
    with pytest.raises(SpecError, match=r"bad\.yml"):
        collective(tmp_path / "bad.yml", system(), "all_reduce", 1)
    (tmp_path / "bad.json").write_text('{"scheduling-policy": "RANDOM"}')
    with pytest.raises(SpecError, match=r"bad\.json: scheduling_policy|bad\.json: scheduling-policy"):
        collective(RING8, tmp_path / "bad.json", "all_reduce", 1)


def test_a_node_memory_must_reach_every_npu():
    memory = {"memory-type": "PER_NODE_MEMORY_EXPANSION", "remote-mem-bw": 1, "num-nodes": 1, "num-npus-per-node": 4}
    with pytest.raises(SpecError, match="num-nodes x num-npus-per-node"):
        run(traces_of("1 MEM_LOAD 1MB", 8), RING8, system(), memory)


def test_descriptions_in_words_that_mean_nothing_say_so():
    with pytest.raises(SpecError, match="no operation known"):
        traces_of("boil an egg", 4)


def test_a_run_as_plain_values_and_as_a_file(tmp_path):
    out = run(traces_of("COMP 20us -> AR 1MB", 8), RING8, system(**{"collective-optimization": "localBWAware"}))
    told = out.to_dict()
    assert (told["cycles_max"], told["ranks"][3]["compute"], told["ranks"][3]["exposed"]) == (84_440, 20_000, 64_440)
    assert out.times(0)[1].tolist() == [20_000, 84_440]
    frame = out.to_pandas()
    assert len(frame) == 16
    assert frame["end_ns"].max() == 84_440
    assert out.to_file(tmp_path / "t.parquet").stat().st_size > 0
    with pytest.raises(SpecError, match="must end in"):
        out.to_file(tmp_path / "t.txt")
