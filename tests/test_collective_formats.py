"""Schedules as files: kept and loaded again, and written for runtimes whose rules carry them out on data."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from collective_runtimes import run_msccl, run_mscclpp
from collective_schedules import around, direct, full, ring, scheduled, star

from dse.collective.execute import expected, inputs
from dse.collective.files import load as load_network
from dse.collective.formats import FORMATS
from dse.collective.formats.chakra import system, traces
from dse.collective.formats.msccl_read import read
from dse.collective.formats.msccl_rules import parse
from dse.collective.keep import listing, load, save
from dse.collective.library import LIBRARY, names
from dse.collective.processes import check_on_data
from dse.collective.schedule import COLLECTIVES, Chunks, Schedule, whole_chunks
from dse.collective.stats import critical_path, gaps, messages, statistics, utilization
from dse.collective.topology import Topology
from dse.collective.verifier import verify
from dse.errors import SpecError

NETWORKS = {"ring": ring, "full": full, "star": star}
ALL = [(c, m) for c in COLLECTIVES for m in NETWORKS]


def made(collective: str, network: str, n: int = 4, pieces: int = 2, nbytes: float = 1e6) -> Schedule:
    maker = around if network == "ring" else direct
    return maker(collective, n, NETWORKS[network](n), nbytes, pieces)


def gathered() -> Schedule:
    """Whole vectors gathered, to be added where they arrive."""
    n = 4
    chunks = Chunks(np.zeros(n), np.full(n, 1e6), np.arange(n), np.full(n, -1))
    moves = [(c, c, i, False) for c in range(n) for i in range(n) if i != c]
    return scheduled(full(n), "all_reduce", 1e6, chunks, moves)


def doubling() -> Schedule:
    """Recursive doubling: pairs exchange their sums at the same time, so that each is read and written at once."""
    network = full(4)
    chunks = whole_chunks("all_reduce", 1e6, np.arange(4), 1)
    link = {pair: e for e, pair in enumerate(zip(network.src.tolist(), network.dst.tolist(), strict=True))}
    rows = [(c, link[a, a ^ d], 4 * k + c) for k, d in enumerate((1, 2)) for c in range(4) for a in range(4)]
    chunk, on, turn = np.array(rows, np.int32).T
    each = float(network.times(2.5e5)[0])
    columns = (chunk, on, turn * each, (turn + 1) * each, np.ones(len(turn), bool))
    return Schedule(network, "all_reduce", 1e6, np.arange(4), chunks, *columns)


def relayed() -> Schedule:
    """NPU 1 passes on what NPU 0 sends, and then sends its own."""
    line = Topology.of([[0, 1, 5e10, 5e-7], [1, 2, 5e10, 5e-7]], 3)
    d = float(line.times(1e6)[0])
    columns = ([0, 0, 0], [0, 1, 1], [0.0, d, 2 * d], [d, 2 * d, 3 * d], [False, True, True])
    kinds = (np.int32, np.int32, float, float, np.bool_)
    arrays = [np.array(c, k) for c, k in zip(columns, kinds, strict=True)]
    chunks = whole_chunks("reduce", 1e6, np.arange(3), 1, root=2)
    return Schedule(line, "reduce", 1e6, np.arange(3), chunks, *arrays, root=2, passes=np.array([-1, 0, -1], np.int32))


def merged() -> Schedule:
    """Two chunks as one message over the only link."""
    pair = Topology.of([[0, 1, 5e10, 5e-7]], 2)
    chunks = whole_chunks("broadcast", 1e6, np.arange(2), 2, root=0)
    end = np.full(2, float(pair.times(1e6)[0]))
    columns = (np.arange(2, dtype=np.int32), np.zeros(2, np.int32), np.zeros(2), end, np.zeros(2, bool))
    return Schedule(pair, "broadcast", 1e6, np.arange(2), chunks, *columns, root=0, message=np.zeros(2, np.int32))


def returned() -> Schedule:
    """NPU 0 and 1 send a copy each into a switch, which sends each back to where it came from."""
    network = star(2)
    chunks = whole_chunks("broadcast", 1e6, np.arange(2), 1, root=0)
    d = float(network.times(1e6)[0])
    links = np.array([0, 3, 2, 0, 1, 3], np.int32)  # there and on; then one each in, and out again
    start = np.array([0, 1, 2, 2, 3, 3]) * d
    fields = {"root": 0, "passes": np.array([-1, 0, -1, -1, 3, 2], np.int32)}
    return Schedule(network, "broadcast", 1e6, np.arange(2), chunks, np.zeros(6, np.int32), links, start, start + d,
                    np.zeros(6, bool), **fields)  # fmt: skip


SPECIAL = {"returned": returned, "gathered": gathered, "doubling": doubling, "relayed": relayed, "merged": merged}


def agrees(schedule: Schedule, results, given) -> None:
    for got, want in zip(results, expected(schedule, given), strict=True):
        assert want is None or (got == want).all()


# --- kept -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*COLLECTIVES, *SPECIAL])
def test_a_kept_schedule_is_the_same(kind: str, tmp_path) -> None:
    schedule = SPECIAL[kind]() if kind in SPECIAL else made(kind, "star")
    schedule = replace(schedule, notes={"chunks": np.int64(3), "made": "here"}, algorithm="by hand")
    again = load(save(schedule, tmp_path / "kept.npz"))
    for name in ("chunk", "link", "start", "end", "reduce", "members", "message", "passes"):
        one, other = getattr(schedule, name), getattr(again, name)
        assert (one is None and other is None) or (np.array_equal(one, other) and one.dtype == other.dtype)
    assert all(np.array_equal(a, b) for a, b in zip(schedule.chunks, again.chunks, strict=True))
    assert again.topology.key == schedule.topology.key and again.topology.name == schedule.topology.name
    same = ("collective", "nbytes", "root", "algorithm")
    assert [getattr(again, name) for name in same] == [getattr(schedule, name) for name in same]
    assert again.notes == {"chunks": 3, "made": "here"} and verify(again).valid


def test_files_that_are_none_are_refused(tmp_path) -> None:
    path = save(made("all_gather", "ring"), tmp_path / "kept.npz")
    whole = path.read_bytes()
    for number, data in enumerate((b"", b"hello", whole[: len(whole) // 2], whole[:-30] + bytes(30))):
        bad = tmp_path / f"bad{number}.npz"
        bad.write_bytes(data)
        with pytest.raises(SpecError, match="bad"):
            load(bad)
    with pytest.raises(SpecError, match="cannot be read"):
        load(tmp_path / "nothing.npz")
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    with pytest.raises(SpecError, match="not a schedule"):
        load(tmp_path / "other.npz")
    head = np.frombuffer(json.dumps({"version": 99}).encode(), np.uint8)
    np.savez(tmp_path / "newer.npz", head=head)
    with pytest.raises(SpecError, match="version"):
        load(tmp_path / "newer.npz")


def test_listings_for_people(tmp_path) -> None:
    schedule = made("all_reduce", "star")
    FORMATS["csv"](schedule, tmp_path / "list.csv")
    FORMATS["json"](schedule, tmp_path / "list.json")
    rows = (tmp_path / "list.csv").read_text().splitlines()
    assert len(rows) == schedule.transfers + 1 and rows[0].startswith("start,end,source,destination")
    listed = json.loads((tmp_path / "list.json").read_text())
    assert len(listed["transfers"]) == schedule.transfers and listed["time"] == schedule.time
    starts = [row["start"] for row in listed["transfers"]]
    assert starts == sorted(starts) and listing(schedule)["bytes"].sum() == sum(r["bytes"] for r in listed["transfers"])


# --- MSCCL ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("collective", "network"), ALL)
@pytest.mark.parametrize("inplace", [None, False])
def test_msccl_gives_the_right_data_and_the_schedule_back(collective: str, network: str, inplace, tmp_path) -> None:
    schedule = made(collective, network)
    FORMATS["msccl"](schedule, tmp_path / "a.xml", inplace=inplace)
    given = inputs(schedule, 120, seed=1)
    for seed in range(3):
        agrees(schedule, run_msccl(tmp_path / "a.xml", given, seed=seed), given)
    again = read(tmp_path / "a.xml", schedule.topology, schedule.nbytes)
    assert verify(again).valid and check_on_data(again)["equal"]
    if network != "star":  # messages that wait for a switch may take turns in another order
        assert again.time == pytest.approx(schedule.time) and again.transfers == schedule.transfers


@pytest.mark.parametrize("name", SPECIAL)
def test_msccl_of_unusual_schedules(name: str, tmp_path) -> None:
    schedule = SPECIAL[name]()
    assert verify(schedule).valid
    for inplace in (None, False):
        FORMATS["msccl"](schedule, tmp_path / "a.xml", inplace=inplace)
        given = inputs(schedule, 48, seed=2)
        for seed in range(5):
            agrees(schedule, run_msccl(tmp_path / "a.xml", given, slots=8, seed=seed), given)


def test_chunks_that_travel_together_are_one_step(tmp_path) -> None:
    schedule = merged()
    FORMATS["msccl"](schedule, tmp_path / "a.xml")
    counts = [step.count for gpu in parse(tmp_path / "a.xml").gpus for b in gpu.blocks for step in b.steps]
    assert counts == [2, 1, 1, 2]  # sent; kept by the root; received
    assert read(tmp_path / "a.xml", schedule.topology, schedule.nbytes).time == pytest.approx(schedule.time)
    FORMATS["mscclpp"](schedule, tmp_path / "a.json")
    ops = json.loads((tmp_path / "a.json").read_text())["gpus"][0]["threadblocks"][0]["ops"]
    assert [op["dst_buff"][0]["size"] for op in ops if op["name"] == "put"] == [2]


def test_msccl_needs_few_slots(tmp_path) -> None:
    """A connection of the runtime holds few messages; nobody may wait for one that waits for it."""
    for collective in COLLECTIVES:
        for network in NETWORKS:
            schedule = made(collective, network, n=5, pieces=4)
            FORMATS["msccl"](schedule, tmp_path / "a.xml")
            given = inputs(schedule, 200)
            for slots in (2, 8):
                agrees(schedule, run_msccl(tmp_path / "a.xml", given, slots=slots), given)


def test_msccl_long_programs_are_split_over_channels(tmp_path) -> None:
    schedule = around("all_gather", 3, ring(3), pieces=300)
    FORMATS["msccl"](schedule, tmp_path / "a.xml")
    algorithm = parse(tmp_path / "a.xml")
    assert all(len(block.steps) <= 256 for gpu in algorithm.gpus for block in gpu.blocks)
    assert max(block.channel for gpu in algorithm.gpus for block in gpu.blocks) > 0
    given = inputs(schedule, 900)
    agrees(schedule, run_msccl(tmp_path / "a.xml", given), given)
    with pytest.raises(SpecError, match="channels"):
        FORMATS["msccl"](around("all_gather", 2, ring(2), pieces=256 * 32 + 1), tmp_path / "b.xml")
    with pytest.raises(SpecError, match="thread blocks"):
        FORMATS["msccl"](direct("all_gather", 112, full(112), pieces=1), tmp_path / "b.xml")


def test_msccl_chunks_of_many_units_take_several_steps(tmp_path) -> None:
    """Chunks of 1/4 and 3/4 of a shard of 100 units: more than a step may carry."""
    base = np.array([0.0, 25.0, 100.0, 101.0]) * 1e4
    chunks = Chunks(base, np.array([25.0, 75.0, 1.0, 99.0]) * 1e4, np.array([0, 0, 1, 1]), np.full(4, -1))
    moves = [(0, 0, 1, False), (1, 0, 1, False), (2, 1, 0, False), (3, 1, 0, False)]
    schedule = scheduled(ring(2), "all_gather", 2e6, chunks, moves) if ring(2).links > 1 else None
    assert schedule is not None and verify(schedule).valid
    FORMATS["msccl"](schedule, tmp_path / "a.xml")
    given = inputs(schedule, 800)
    agrees(schedule, run_msccl(tmp_path / "a.xml", given), given)
    odd = chunks._replace(
        offset=base + np.array([0, 1, 0, 1]) * np.pi, size=chunks.size + np.array([1, -1, 1, -1]) * np.pi
    )
    with pytest.raises(SpecError, match="equal units"):
        FORMATS["msccl"](replace(schedule, chunks=odd), tmp_path / "a.xml")


def test_msccl_groups_are_communicators(tmp_path) -> None:
    schedule = around("all_reduce", 3, full(5), members=[0, 2, 4])
    FORMATS["msccl"](schedule, tmp_path / "a.xml")
    given = inputs(schedule, 60)
    agrees(schedule, run_msccl(tmp_path / "a.xml", given), given)
    again = read(tmp_path / "a.xml", schedule.topology, schedule.nbytes, members=[0, 2, 4])
    assert again.members.tolist() == [0, 2, 4] and verify(again).valid
    with pytest.raises(SpecError, match="members"):
        read(tmp_path / "a.xml", schedule.topology, schedule.nbytes)
    relay = replace(relayed(), members=np.array([0, 2]), collective="broadcast", root=0)
    with pytest.raises(SpecError, match="no member"):
        FORMATS["msccl"](relay, tmp_path / "a.xml")


BROKEN = [
    ("ngpus", "5", "gpu"), ("coll", "gossip", "coll"), ("proto", "Fast", "proto"), ("nchunksperloop", "7", "nchunksperloop"),
    ("inplace", "2", "inplace"), ("nchannels", "0", "nchannels"), ("minBytes", "-1", "minBytes"), ("name", None, "name"),
    ("tb.id", "7", "gaps"), ("tb.send", "9", "send"), ("tb.send", "0", "another GPU"), ("tb.chan", "3", "chan"),
    ("step.s", "5", "numbered"), ("step.type", "zz", "type"), ("step.type", "rcs", "recv peer"), ("step.cnt", "72", "cnt"),
    ("step.cnt", "0", "cnt"), ("step.srcbuf", "x", "srcbuf"), ("step.srcoff", "99", "within"), ("step.srcoff", "a", "whole"),
    ("step.depid", "88", "step of this GPU"), ("step.hasdep", "0", "hasdep"), ("gpu.i_chunks", "5", "nchunksperloop"),
    ("gpu.id", "1", "twice"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "said"), BROKEN)
def test_msccl_rules(place: str, value, said: str, tmp_path) -> None:
    FORMATS["msccl"](around("all_reduce", 3, ring(3)), tmp_path / "a.xml")
    tree = ElementTree.parse(tmp_path / "a.xml")
    tag, _, key = place.rpartition(".")
    element = tree.getroot() if not tag else next(tree.getroot().iter(tag))
    if value is None:
        del element.attrib[key]
    else:
        element.set(key, value)
    tree.write(tmp_path / "b.xml")
    with pytest.raises(SpecError, match=said):
        parse(tmp_path / "b.xml")


def test_msccl_files_that_are_none(tmp_path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        parse(tmp_path / "no.xml")
    (tmp_path / "b.xml").write_text("<algo")
    with pytest.raises(SpecError, match="no XML"):
        parse(tmp_path / "b.xml")
    (tmp_path / "b.xml").write_text("<system/>")
    with pytest.raises(SpecError, match="algo"):
        parse(tmp_path / "b.xml")


FUSED = """<algo name="fused" nchunksperloop="1" nchannels="1" proto="LL" ngpus="3" coll="allreduce" inplace="1">
 <gpu id="0" i_chunks="1" o_chunks="1" s_chunks="0"><tb id="0" send="1" recv="2" chan="0">
  <step s="0" type="s" srcbuf="i" srcoff="0" dstbuf="i" dstoff="0" cnt="1" depid="-1" deps="-1" hasdep="0"/>
  <step s="1" type="rcs" srcbuf="i" srcoff="0" dstbuf="o" dstoff="0" cnt="1" depid="-1" deps="-1" hasdep="0"/></tb></gpu>
 <gpu id="1" i_chunks="1" o_chunks="1" s_chunks="0"><tb id="0" send="2" recv="0" chan="0">
  <step s="0" type="rrs" srcbuf="i" srcoff="0" dstbuf="i" dstoff="0" cnt="1" depid="-1" deps="-1" hasdep="0"/>
  <step s="1" type="r" srcbuf="i" srcoff="0" dstbuf="o" dstoff="0" cnt="1" depid="-1" deps="-1" hasdep="0"/></tb></gpu>
 <gpu id="2" i_chunks="1" o_chunks="1" s_chunks="0"><tb id="0" send="0" recv="1" chan="0">
  <step s="0" type="rrcs" srcbuf="i" srcoff="0" dstbuf="o" dstoff="0" cnt="1" depid="-1" deps="-1" hasdep="0"/></tb></gpu>
</algo>"""


def test_msccl_fused_steps_are_read(tmp_path) -> None:
    """A ring written by hand: receive-reduce-send, receive-reduce-copy-send, receive-copy-send."""
    (tmp_path / "a.xml").write_text(FUSED)
    given = [np.arange(4) * 10**r for r in range(3)]
    assert all((one == sum(given)).all() for one in run_msccl(tmp_path / "a.xml", [g.copy() for g in given]))
    again = read(tmp_path / "a.xml", ring(3), 1e6)
    assert again.transfers == 4 and again.reduce.sum() == 2 and again.time == pytest.approx(4 * (5e-7 + 1e6 / 5e10))
    (tmp_path / "b.xml").write_text(FUSED.replace('type="rrcs"', 'type="rcs"'))
    with pytest.raises(SpecError, match="does not end with"):
        read(tmp_path / "b.xml", ring(3), 1e6)
    (tmp_path / "b.xml").write_text(FUSED.replace('type="s" srcbuf', 'type="r" srcbuf'))
    with pytest.raises(SpecError, match="for ever"):
        read(tmp_path / "b.xml", ring(3), 1e6)


def test_msccl_sums_in_scratch_are_read(tmp_path) -> None:
    """Pairs that receive to scratch and add there, as hand-written programs do."""
    step = (
        '<step s="{}" type="{}" srcbuf="{}" srcoff="0" dstbuf="{}" dstoff="0" cnt="1" depid="-1" deps="-1" hasdep="0"/>'
    )
    steps = step.format(0, "s", "i", "s") + step.format(1, "r", "i", "s") + step.format(2, "re", "s", "i")
    gpus = "".join(
        f'<gpu id="{r}" i_chunks="1" o_chunks="1" s_chunks="1"><tb id="0" send="{1 - r}" recv="{1 - r}" chan="0">{steps}'
        "</tb></gpu>"
        for r in range(2)
    )
    head = '<algo name="pairs" nchunksperloop="1" nchannels="1" proto="LL" ngpus="2" coll="allreduce" inplace="1">'
    (tmp_path / "a.xml").write_text(f"{head}{gpus}</algo>")
    pair = Topology.of([[0, 1, 5e10, 5e-7], [1, 0, 5e10, 5e-7]], 2)
    again = read(tmp_path / "a.xml", pair, 1e6)
    assert again.transfers == 2 and again.reduce.all() and check_on_data(again)["equal"]


@pytest.mark.parametrize("collective", COLLECTIVES)
@pytest.mark.parametrize("shape", ["mesh:2x3", "switch:4", "ring:5"])
def test_known_algorithms_through_relays(collective: str, shape: str, tmp_path) -> None:
    """Loads that NPUs pass on, and messages of several chunks: kept, executed, written, read."""
    network = load_network(f"{shape},bandwidth=50GiB/s,latency=0.5us")
    root = 1 if collective in ("broadcast", "reduce") else None
    for name in names(collective):
        schedule = LIBRARY[name](network, collective, 2.0**20, members=None, root=root, per_shard=1)
        assert check_on_data(schedule)["equal"]
        FORMATS["msccl"](schedule, tmp_path / "a.xml")
        given = inputs(schedule, 2 * parse(tmp_path / "a.xml").chunks, seed=3)
        agrees(schedule, run_msccl(tmp_path / "a.xml", given, slots=8), given)
        again = read(tmp_path / "a.xml", network, schedule.nbytes, root=root)
        assert check_on_data(again)["equal"] and again.root == schedule.root
        try:
            FORMATS["mscclpp"](schedule, tmp_path / "a.json")
        except SpecError as error:
            assert "allowed" in str(error)
            continue
        agrees(schedule, run_mscclpp(tmp_path / "a.json", given), given)


# --- MSCCL++ --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("collective", "network"), ALL)
def test_mscclpp_gives_the_right_data(collective: str, network: str, tmp_path) -> None:
    schedule = made(collective, network)
    for channel in ("memory", "port"):
        FORMATS["mscclpp"](schedule, tmp_path / "a.json", channel=channel)
        given = inputs(schedule, 120, seed=1)
        for seed in range(3):
            agrees(schedule, run_mscclpp(tmp_path / "a.json", given, seed=seed), given)


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("inplace", [False, True])
def test_mscclpp_of_unusual_schedules(name: str, inplace: bool, tmp_path) -> None:
    schedule = SPECIAL[name]()
    if inplace and name != "doubling":
        with pytest.raises(SpecError, match="inplace"):
            FORMATS["mscclpp"](schedule, tmp_path / "a.json", inplace=True)
        return
    FORMATS["mscclpp"](schedule, tmp_path / "a.json", inplace=inplace)
    given = inputs(schedule, 48, seed=2)
    for seed in range(5):
        agrees(schedule, run_mscclpp(tmp_path / "a.json", given, seed=seed), given)


def test_mscclpp_long_programs_are_shared_out_or_refused(tmp_path) -> None:
    schedule = direct("all_reduce", 16, full(16), pieces=1)
    FORMATS["mscclpp"](schedule, tmp_path / "a.json")
    plan = json.loads((tmp_path / "a.json").read_text())
    assert all(len(gpu["threadblocks"]) > 1 for gpu in plan["gpus"])
    given = inputs(schedule, 160)
    agrees(schedule, run_mscclpp(tmp_path / "a.json", given), given)
    with pytest.raises(SpecError, match="allowed"):
        FORMATS["mscclpp"](direct("all_reduce", 40, full(40), pieces=1), tmp_path / "b.json")
    with pytest.raises(SpecError, match="channel"):
        FORMATS["mscclpp"](schedule, tmp_path / "b.json", channel="tin")


# --- Chakra ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("collective", COLLECTIVES)
@pytest.mark.parametrize("network", ["ring", "full"])
def test_simulating_the_traces_takes_the_time_of_the_schedule(collective: str, network: str, tmp_path) -> None:
    from dse.simulate import simulate
    from dse.trace import load as load_traces
    from dse.trace import validate

    schedule = made(collective, network, nbytes=float(1 << 30))
    paths = FORMATS["chakra"](schedule, tmp_path / "run")
    assert len(paths) == 4
    held = load_traces(tmp_path / "run")
    assert not [finding for finding in validate(held) if finding.severity == "error"]
    found = simulate(held, system(schedule.topology), fidelity="flows")
    assert found.time == pytest.approx(schedule.time, rel=2e-3)


def test_traces_name_every_message_and_addition() -> None:
    from dse.simulate import simulate
    from dse.trace import Kind

    schedule = made("all_reduce", "star", nbytes=float(1 << 30))
    plain, adding = traces(schedule), traces(schedule, add=1e10)
    count = [sum((trace.kind == kind).sum() for trace in plain.classes) for kind in (Kind.SEND, Kind.RECV)]
    assert count == [schedule.transfers // 2] * 2  # through the switch
    sums = sum((trace.seconds > 0).sum() for trace in adding.classes)
    assert sums == schedule.reduce.sum()
    times = [simulate(t, system(schedule.topology), fidelity="flows").time for t in (plain, adding)]
    assert 0.8 * schedule.time < times[0] < 1.05 * schedule.time  # what flows through a switch is not stored there
    assert times[1] > times[0]


# --- statistics -----------------------------------------------------------------------------------------------------


def test_statistics_of_a_ring_are_those_of_the_closed_form() -> None:
    n = 6
    schedule = around("all_gather", n, ring(n))
    found = statistics(schedule)
    used = schedule.topology.dst == (schedule.topology.src + 1) % n
    assert found.busy[used] == pytest.approx(1.0) and (found.busy[~used] == 0).all()
    assert found.bytes[used] == pytest.approx(1e6 * (n - 1) / n) and (found.messages[used] == n - 1).all()
    assert len(found.path.transfer) == n - 1 and (found.path.why[1:] == 1).all() and found.path.idle.sum() < 1e-12
    assert gaps(schedule)[~used] == pytest.approx(schedule.time)
    assert found.table()["busy"].is_monotonic_decreasing and len(found.chunks()) == n
    text = str(found)
    assert "100.0%" in text and "links busy   50.0%" in text
    assert json.dumps(found.to_dict(), default=str)


@pytest.mark.parametrize(("collective", "network"), ALL)
def test_the_critical_path_explains_the_finish(collective: str, network: str) -> None:
    schedule = made(collective, network)
    path = critical_path(schedule)
    spans = schedule.end[path.transfer] - schedule.start[path.transfer]
    assert schedule.end[path.transfer[-1]] == schedule.time
    assert spans.sum() + path.idle.sum() == pytest.approx(schedule.time)
    for before, after, why in zip(path.transfer, path.transfer[1:], path.why[1:], strict=False):
        if why == 1:
            assert schedule.chunk[before] == schedule.chunk[after]
            assert schedule.destination[before] == schedule.source[after]
        if why == 2:
            assert schedule.link[before] == schedule.link[after]


def test_utilization_adds_up() -> None:
    schedule = made("all_to_all", "star", n=5)
    busy = statistics(schedule).busy
    for bins in (1, 7, 50):
        used = utilization(schedule, bins)
        assert used.shape == (schedule.topology.links, bins) and used.max() <= 1 + 1e-9 and used.min() >= 0
        assert used.mean(1) == pytest.approx(busy)
    late = replace(schedule, start=schedule.start + 1.0, end=schedule.end + 1.0)
    assert critical_path(late).idle[0] == pytest.approx(1.0) and statistics(late).waits()["why"].iloc[0] == "idle"


def test_chunks_that_travel_together_are_one_message() -> None:
    schedule = merged()
    found = messages(schedule)
    assert len(found.link) == 1 and found.chunks.tolist() == [2] and found.bytes[0] == pytest.approx(1e6)
    assert statistics(schedule).messages.tolist() == [1] and statistics(schedule).busy[0] == pytest.approx(1.0)


def test_nothing_to_do_has_statistics_too() -> None:
    chunks = whole_chunks("all_gather", 1e6, np.array([1]), 1)
    alone = scheduled(ring(3), "all_gather", 1e6, chunks, [], None, [1])
    found = statistics(alone)
    assert found.busy.sum() == 0 and not len(found.path.transfer) and found.to_dict()["time_us"] == 0 and str(found)
