"""Simulation beside the closed form, ASTRA-sim's files on physical links, recorded steps on more ranks, the commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulate_traces import coll, columns, comp
from typer.testing import CliRunner

import dse
from dse.accuracy.simulated import DOCUMENTED, against_astra_sim, validate_simulated
from dse.cli import app
from dse.cost.network import Links
from dse.errors import SpecError
from dse.simulate import System, collective, dimension, simulate
from dse.simulate.astra import system_of
from dse.trace import Collective, TraceSet, save
from dse.trace.scale import scale

# Designs where nothing shares a port with something that the closed form does not know of.
DESIGNS = {
    "tensor and data": ("llama3-8b", "dgx-h100", "tp=2,micro_batch=1,global_batch=64,zero_stage=0", 64),
    "sharded": ("llama3-8b", "dgx-h100", "tp=1,micro_batch=1,global_batch=512,zero_stage=3,stack=fsdp", 128),
    "pipeline": ("llama3-70b", "dgx-h100",
                 "tp=8,pp=4,micro_batch=1,global_batch=256,zero_stage=1,sequence_parallel=true", 512),
    "interleaved": ("gpt3-175b", "dgx-a100",
                    "tp=8,pp=8,virtual_stages=2,schedule=interleaved,micro_batch=1,global_batch=512", 512),
    "long pipeline": ("gpt3-175b", "dgx-a100", "tp=8,pp=8,micro_batch=1,global_batch=1536,zero_stage=1", 1024),
    "experts": ("mixtral-8x7b", "dgx-h100", "tp=2,pp=2,ep=8,micro_batch=1,global_batch=256,zero_stage=1", 64),
    "context": ("llama3-8b", "dgx-h100", "tp=2,cp=4,micro_batch=1,global_batch=64,zero_stage=1", 64),
}  # fmt: skip


@pytest.mark.parametrize("name", DESIGNS)
def test_closed_form_and_simulation_agree(name: str):
    """Within 2 %; the parts add up to each step time, and what is not in the trace is named."""
    model, cluster, strategy, devices = DESIGNS[name]
    step = dse.estimate(model, cluster, strategy, devices=devices).simulate(detail="block")
    assert abs(step.difference) < 0.02
    closed, here = np.sum(list(step.parts.values()), axis=0)
    assert closed == pytest.approx(float(step.result["step_time"]), rel=1e-9)
    assert here == pytest.approx(step.step_time, rel=1e-9)
    assert set(step.compare()["part"]) == set(step.parts)


def test_fidelity_of_an_estimate():
    """The result carries the step, its text and its summary; an unknown fidelity and a sweep are refused."""
    model, cluster, strategy, devices = DESIGNS["tensor and data"]
    result = dse.estimate(model, cluster, strategy, devices=devices, fidelity="simulated")
    assert result.simulated is not None and "simulated step" in str(result)
    assert result.summary()["simulated"]["step_time_s"] == result.simulated.step_time
    assert dse.estimate(model, cluster, strategy, devices=devices).simulated is None
    with pytest.raises(SpecError, match="fidelity"):
        dse.estimate(model, cluster, strategy, devices=devices, fidelity="exact")
    swept = dse.sweep(model, cluster, strategy, dse.axis("micro_batch", [1, 2]), devices=devices)
    with pytest.raises(SpecError, match="one design"):
        swept.simulate()


def test_flows_see_what_ports_do_not():
    """On a small design every message on its links takes as long as the ports say, to a few percent."""
    step = dse.estimate("llama3-8b", "dgx-h100", "tp=2,pp=2,micro_batch=1,global_batch=8,zero_stage=1", devices=8)
    ports, flows = (step.simulate(detail="pass", fidelity=f).simulation.time for f in ("analytical", "flows"))
    assert flows == pytest.approx(ports, rel=0.05)


# -- recorded steps on more ranks ---------------------------------------------------------------------------


def four_ranks() -> TraceSet:
    """Four ranks compute for 1 ms, reduce in pairs and then over all."""
    nodes = [
        comp(0, 1e-3),
        coll(1, Collective.ALL_REDUCE, 10**6, "tp", [0]),
        coll(2, Collective.ALL_REDUCE, 10**7, "dp", [1]),
    ]
    trace = columns(nodes)
    trace = replace(trace, micros=np.rint(trace.seconds * 1e6).astype(np.uint64), cpu=np.zeros(3, np.int8))
    return TraceSet((trace,), np.zeros(4, np.int64), {"tp": np.array([[0, 1], [2, 3]]), "dp": np.arange(4)[None]})


def test_groups_grow_or_repeat():
    more = scale(four_ranks(), 12)
    assert more.groups["tp"].tolist() == [[i, i + 1] for i in range(0, 12, 2)]
    assert more.groups["dp"].tolist() == [list(range(12))]
    grown = scale(four_ranks(), 8, grow=["tp"])
    assert grown.groups["tp"].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert grown.groups["dp"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert scale(four_ranks(), 4).groups["tp"].tolist() == four_ranks().groups["tp"].tolist()


def test_a_larger_ring_takes_longer_and_a_million_ranks_one():
    system = System((dimension("ring", 1e11, latency=1e-6),), (2**20,))
    times = [simulate(scale(four_ranks(), n), system).time for n in (4, 64, 2**20)]
    assert times == sorted(times) and times[0] < times[-1]


@pytest.mark.parametrize(("ranks", "grow"), [(6, None), (2, None), (0, None), (8, ["nobody"])])
def test_what_cannot_be_scaled(ranks: int, grow: Any):
    with pytest.raises(SpecError, match=r"ranks|grow"):
        scale(four_ranks(), ranks, grow=grow)


# -- ASTRA-sim's files, physically --------------------------------------------------------------------------


def test_files_of_the_public_simulator():
    """GB are 2^30 bytes, a switch is two links, the endpoint delay belongs to each step; a ring's closed form follows."""
    network = {"topology": ["Ring", "Switch"], "npus_count": [4, 8], "bandwidth": [200, 50], "latency": [100, 1000]}
    settings = {"endpoint-delay": 10, "preferred-dataset-splits": 4, "all-reduce-implementation": ["ring", "halvingDoubling"],
                "scheduling-policy": "FIFO", "local-mem-bw": 1600, "peak-perf": 900}  # fmt: skip
    memory = {"memory-type": "MEMORY_POOL", "remote-mem-latency": 500, "remote-mem-bw": 100}
    system = system_of(network, settings, memory)
    assert system.sizes == (4, 8) and system.policy == "fifo" and system.chunks == 4
    assert [d.algorithm for d in system.dimensions] == ["ring", "halving_doubling"]
    assert system.dimensions[0].bandwidth == 200 * 2**30 and system.dimensions[1].latency == pytest.approx(2.01e-6)
    assert system.tiers[0].bandwidth == 1e11 and system.tiers[0].shared_by == 0
    alone = collective("all_reduce", 2**20, system, ranks=4).time
    assert alone == pytest.approx(1.5 * 2**20 / (200 * 2**30) + 6 * 110e-9)
    with pytest.raises(SpecError, match="bandwidth"):
        system_of({**network, "bandwidth": [0, 50]}, settings)


# -- measured collectives -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def beside() -> Any:
    """Measured collectives in a node of NVLink 4, with both predictions."""
    return against_astra_sim(validate_simulated())


def test_simulated_collectives_are_nearer_to_measurements(beside: Any):
    """Than ASTRA-sim's validated configuration on the same rows, and than the errors it documents on its own."""
    swept = beside[beside["source"].str.startswith("aiconfigurator")]
    for (kind, ranks), rows in swept.groupby(["collective", "ranks"]):
        ours, theirs = rows["error"].abs().mean(), rows["astra-sim error"].abs().mean()
        assert ours < theirs, (kind, ranks)
        if kind == "all_reduce":
            assert ours < DOCUMENTED[ranks], ranks


def test_simulated_and_closed_form_collectives_are_the_same(beside: Any):
    """The simulator adds nothing of its own to a collective that is alone."""
    from dse.accuracy.collectives import validate_collectives

    closed = validate_collectives().rows.set_index("id")["predicted [s]"]
    assert np.allclose(beside["predicted [s]"], closed.loc[beside["id"]], rtol=1e-9)


def test_reductions_in_a_switch_that_devices_fetch():
    """1 + 1/n of the buffer leaves a device where it fetches its share of the sum; the ramp is their own."""
    plain = dimension("switch", 1e11, algorithm="ring", in_network_reduction=True)
    fetched = plain.model_copy(update={"in_network_pull": 1.0})
    for n in (4.0, 8.0, 64.0):
        times = [Links((d,), {"g": [n]}, None).time("all_reduce", "g", 1e9) for d in (plain, fetched)]
        assert times[0] == pytest.approx(1e9 / 1e11)
        assert times[1] == pytest.approx((1 + 1 / n) * 1e9 / 1e11)
    slow = fetched.model_copy(update={"in_network_ramp": 1e-3})
    ring = 2 * 7 / 8 * 1e6 / 1e11
    assert Links((slow,), {"g": [8.0]}, None).time("all_reduce", "g", 1e6) == pytest.approx(
        ring
    )  # the switch starts late


# -- commands -----------------------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def written(tmp_path: Path) -> str:
    save(four_ranks(), tmp_path / "step")
    return str(tmp_path / "step")


def test_simulate_prints_cycles_by_rank(written: str, tmp_path: Path):
    """In both modes the same keys, in ns; the events go to a file."""
    (tmp_path / "network.yml").write_text(
        "topology: [Ring]\nnpus_count: [4]\nbandwidth: [50.0]\nlatency: [500.0]\n", encoding="utf-8"
    )
    settings = {"endpoint-delay": 10, "preferred-dataset-splits": 4, "local-mem-bw": 1600,
                "all-reduce-implementation": ["ring"]}  # fmt: skip
    (tmp_path / "system.json").write_text(json.dumps(settings), encoding="utf-8")
    files = ["--system", str(tmp_path / "system.json"), "--network", str(tmp_path / "network.yml"), "--json"]
    for more in (
        [],
        ["--compat", "astra-sim"],
        ["--compat", "astra-sim", "--backend", "aware"],
        ["--backend", "flows"],
    ):
        done = run("simulate", "--workload", written, *files, *more)
        assert done.exit_code == 0, done.output
        found = json.loads(done.output)
        assert found["cycles_max"] >= found["cycles_min"] > 10**6 and len(found["ranks"]) == 4
        for rank in found["ranks"]:
            assert rank["compute"] == 10**6 and rank["wall"] >= rank["communication"] >= rank["exposed"] > 0
    table = tmp_path / "events.parquet"
    assert run("simulate", "--workload", written, "--system", "dgx-h100", "--out", str(table)).exit_code == 0
    assert table.is_file()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--system", "dgx-h100", "--compat", "gem5"], "compat"),
        (["--system", "dgx-h100", "--backend", "magic"], "backend"),
        (["--system", "x.json"], "network"),
        (["--system", "nothing-h100"], "nothing-h100"),
        (["--system", "dgx-h100", "--network", "n.yml"], "system"),
        (["--system", "dgx-h100", "--memory", "m.json"], "memory"),
        (["--system", "dgx-h100", "--schedule", "random"], "schedule"),
    ],
)
def test_bad_input_of_simulate(written: str, arguments: list[str], word: str):
    done = run("simulate", "--workload", written, *arguments)
    assert isinstance(done.exception, SpecError) and word in str(done.exception)


def test_a_prefix_holds_one_set(tmp_path: Path):
    """Writing again leaves no ranks or groups of what was there; other files stay."""
    (tmp_path / "step.txt").write_text("mine", encoding="utf-8")
    save(scale(four_ranks(), 8), tmp_path / "step")
    save(four_ranks(), tmp_path / "step")
    assert len(dse.trace.load(tmp_path / "step")) == 4
    alone = TraceSet((columns([comp(0, 1e-3)]),), np.zeros(1, np.int64), {})
    save(alone, tmp_path / "step")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step.0.et", "step.txt"]
    assert simulate(tmp_path / "step", System.of("dgx-h100", 8)).time == pytest.approx(1e-3)


def test_validate_needs_a_table():
    done = run("validate", "astrasim-collectives")
    assert isinstance(done.exception, SpecError) and "file" in str(done.exception)
