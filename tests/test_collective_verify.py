"""The verifier accepts what is right, and sees everything that is wrong in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from collective_schedules import around, direct, full, ring, scheduled, star

from dse.collective.schedule import COLLECTIVES, Chunks, Schedule, whole_chunks
from dse.collective.topology import Topology
from dse.collective.verifier import verify, verify_together
from dse.errors import SpecError

NETWORKS = {"ring": ring, "full": full, "star": star}
ALL = [(c, m) for c in COLLECTIVES for m in ("ring", "full", "star")]


def made(collective: str, network: str, n: int = 5, pieces: int = 2) -> Schedule:
    maker = around if network == "ring" else direct
    return maker(collective, n, NETWORKS[network](n), pieces=pieces)


def pick(schedule: Schedule, keep: np.ndarray) -> Schedule:
    columns = {k: getattr(schedule, k)[keep] for k in ("chunk", "link", "start", "end", "reduce")}
    return replace(schedule, **columns)


def put(schedule: Schedule, column: str, i: int, value) -> Schedule:
    new = getattr(schedule, column).copy()
    new[i] = value
    return replace(schedule, **{column: new})


def oracle(s: Schedule) -> bool:
    """A slow replay of its own with Python sets: no switches, no messages; every transfer valid and all delivered."""
    events = sorted([(s.end[i], 0, i) for i in range(s.transfers)] + [(s.start[i], 1, i) for i in range(s.transfers)])
    held: dict[tuple[int, int], frozenset] = {}
    for c, o in enumerate(s.chunks.origin.tolist()):
        for npu in s.members.tolist() if o < 0 else [o]:
            held[c, npu] = frozenset([npu])
    load: dict[int, frozenset] = {}
    busy: dict[int, int] = {}
    for _, starts, i in events:
        c, e = int(s.chunk[i]), int(s.link[i])
        u, v = int(s.topology.src[e]), int(s.topology.dst[e])
        if starts:
            need = s.topology.latency[e] + s.chunks.size[c] / s.topology.bandwidth[e]
            if e in busy or s.end[i] - s.start[i] < need * (1 - 1e-6) or not held.get((c, u)):
                return False
            busy[e] = i
            load[i] = held[c, u]
        else:
            if busy.pop(e, None) != i:
                return False
            old = held.get((c, v), frozenset())
            if s.reduce[i]:
                if old & load[i]:
                    return False
                held[c, v] = old | load[i]
            else:
                if not old <= load[i]:
                    return False
                held[c, v] = load[i]
    for c, (o, t) in enumerate(zip(s.chunks.origin.tolist(), s.chunks.target.tolist(), strict=True)):
        whole = frozenset(s.members.tolist()) if o < 0 else frozenset([o])
        if any(held.get((c, npu)) != whole for npu in (s.members.tolist() if t < 0 else [t])):
            return False
    return True


@pytest.mark.parametrize(("collective", "network"), ALL)
def test_what_is_right_is_valid(collective: str, network: str) -> None:
    schedule = made(collective, network)
    report = verify(schedule)
    assert report.valid and not report.faults and not report.counts
    assert report.checked["transfers"] == schedule.transfers and report.checked["redundant"] == 0
    assert "NOT" not in str(report) and report.to_dict()["valid"]


@pytest.mark.parametrize(("collective", "network"), ALL)
def test_a_transfer_left_out_is_missed(collective: str, network: str) -> None:
    schedule = made(collective, network)
    for i in range(schedule.transfers):
        report = verify(pick(schedule, np.arange(schedule.transfers) != i))
        assert not report.valid and ("missing" in report.counts or "leaves a switch" in report.counts)


@pytest.mark.parametrize(("collective", "network"), ALL)
def test_a_shorter_transfer_is_too_short(collective: str, network: str) -> None:
    schedule = made(collective, network)
    for i in range(schedule.transfers):
        quick = schedule.start[i] + (schedule.end[i] - schedule.start[i]) * 0.99
        assert "too short" in verify(put(schedule, "end", i, quick)).counts


@pytest.mark.parametrize("collective", COLLECTIVES)
@pytest.mark.parametrize("network", ["ring", "full"])
@pytest.mark.parametrize("seed", range(6))
def test_changes_are_caught_when_they_matter(collective: str, network: str, seed: int) -> None:
    """Any change: the verdict is that of a slow replay of its own."""
    rng = np.random.default_rng(seed)
    schedule = made(collective, network, n=int(rng.integers(2, 6)), pieces=int(rng.integers(1, 3)))
    assert oracle(schedule)
    verdicts = set()
    for _ in range(60):
        new, i = schedule, int(rng.integers(schedule.transfers))
        span = schedule.end[i] - schedule.start[i]
        kind = int(rng.integers(7))
        if kind == 0:
            shift = rng.uniform(-1, 1) * schedule.time
            new = put(put(new, "start", i, max(new.start[i] + shift, 0)), "end", i, max(new.start[i] + shift, 0) + span)
        elif kind == 1:
            new = put(new, "chunk", i, rng.integers(len(schedule.chunks.size)))
        elif kind == 2:
            new = put(new, "reduce", i, not new.reduce[i])
        elif kind == 3:
            new = put(new, "link", i, rng.integers(schedule.topology.links))
        elif kind == 4:
            twice = pick(new, np.append(np.arange(new.transfers), i))
            new = put(put(twice, "start", -1, new.time), "end", -1, new.time + span)
        elif kind == 5:
            j = int(rng.integers(schedule.transfers))
            new = put(put(new, "chunk", i, schedule.chunk[j]), "chunk", j, schedule.chunk[i])
        else:
            new = put(new, "end", i, new.end[i] + span)
        verdicts.add(oracle(new))
        assert verify(new).valid == oracle(new), (kind, i)
    assert False in verdicts


def test_faults_are_told_with_transfer_nodes_and_times() -> None:
    schedule = around("all_gather", 4, ring(4))
    early = put(put(schedule, "start", 5, 0.0), "end", 5, schedule.end[0])
    report = verify(early)
    text = str(report)
    assert not report.valid and "transfer 5" in text and "NPU 1" in text and " s" in text
    assert {"nothing sent", "link in use"} <= set(report.counts)


def test_many_faults_are_counted_and_few_told() -> None:
    schedule = around("all_gather", 12, ring(12))
    report = verify(replace(schedule, end=schedule.start + (schedule.end - schedule.start) * 0.5))
    assert report.counts["too short"] == schedule.transfers and len(report.faults) < 40
    assert "more" in str(report)


def test_a_link_carries_one_message_at_a_time() -> None:
    schedule = around("all_gather", 4, ring(4), pieces=2)
    first = np.flatnonzero(schedule.link == schedule.link[0])[:2]
    both = put(put(schedule, "start", first[1], schedule.start[first[0]]), "end", first[1], schedule.end[first[0]])
    assert "link in use" in verify(both).counts
    message = np.arange(schedule.transfers, dtype=np.int32)
    message[first[1]] = message[first[0]]
    together = replace(both, message=message)
    assert verify(together).counts.keys() == {"too short"}  # two chunks in the time of one
    longer = schedule.end[first[1]]
    for i in first:
        together = put(together, "end", i, longer)
    assert verify(together).valid == (schedule.start[first[1]] >= schedule.end[first[0]])
    apart = put(together, "start", first[1], schedule.start[first[1]])
    assert "message" in verify(apart).counts


def test_rounding_is_forgiven_and_more_is_not() -> None:
    schedule = around("all_reduce", 6, ring(6))
    slack = 1e-12 * schedule.time
    jitter = np.random.default_rng(1).uniform(-slack, slack, schedule.transfers)
    assert verify(replace(schedule, start=np.maximum(schedule.start + jitter, 0), end=schedule.end + jitter)).valid
    step = (schedule.end - schedule.start)[0]
    late = schedule.start >= step
    assert not verify(
        replace(schedule, start=schedule.start - 1e-3 * step * late, end=schedule.end - 1e-3 * step * late)
    ).valid


def test_switches_pass_on_each_load_once_and_do_not_add() -> None:
    network = star(3)
    chunks = whole_chunks("broadcast", 1e6, np.arange(3), 1, root=0)
    fine = scheduled(network, "broadcast", 1e6, chunks, [(0, 0, 1, False), (0, 0, 2, False)], root=0)
    assert verify(fine).valid
    copied = pick(fine, np.array([0, 1, 3]))  # in once, out twice
    assert verify(copied).counts.keys() == {"leaves a switch"} or "missing" in verify(copied).counts
    assert not verify(copied).valid
    added = put(fine, "reduce", 0, True)
    assert "switch adds" in verify(added).counts
    early = put(put(fine, "start", 1, 0.0), "end", 1, fine.end[0])
    assert "too early" in verify(early).counts


def test_partial_sums_do_not_mix_in_a_switch() -> None:
    """Two loads of one chunk in one switch: the first that came in leaves first."""
    network = star(3)
    chunks = whole_chunks("reduce", 1e6, np.arange(3), 1, root=0)
    two = scheduled(network, "reduce", 1e6, chunks, [(0, 1, 0, True), (0, 2, 0, True)], root=0)
    assert verify(two).valid
    assert verify(replace(two, passes=np.array([-1, 0, -1, 2], np.int32))).valid
    assert verify(replace(two, passes=np.array([-1, 2, -1, 0], np.int32))).valid  # both arrive at one time
    span = two.end[2]
    late = put(put(two, "start", 2, span), "end", 2, 2 * span)
    assert "too early" in verify(replace(late, passes=np.array([-1, 2, -1, 0], np.int32))).counts
    assert "passed twice" in verify(replace(two, passes=np.array([-1, 0, -1, 0], np.int32))).counts


def test_what_is_passed_on_is_not_kept() -> None:
    """NPU 1 sends its own to NPU 2 and passes on that of NPU 0, which it neither keeps nor adds."""
    line = Topology.of([[0, 1, 5e10, 5e-7], [1, 2, 5e10, 5e-7]], 3)
    chunks = whole_chunks("reduce", 1e6, np.arange(3), 1, root=2)
    d = float(line.times(1e6)[0])
    columns = ([0, 0, 0], [1, 0, 1], [0.0, 0.0, d], [d, d, 2 * d], [True, False, True])
    kinds = (np.int32, np.int32, float, float, np.bool_)
    arrays = [np.array(c, k) for c, k in zip(columns, kinds, strict=True)]
    passed = Schedule(
        line, "reduce", 1e6, np.arange(3), chunks, *arrays, root=2, passes=np.array([-1, -1, 1], np.int32)
    )
    assert verify(passed).valid
    assert not verify(replace(passed, passes=None)).valid
    assert "passes" in verify(replace(passed, passes=np.array([-1, -1, 7], np.int32))).counts
    assert "passes" in verify(replace(passed, passes=np.array([-1, -1, 0], np.int32))).counts


def test_whole_vectors_gathered_and_added_in_place_are_an_all_reduce() -> None:
    """One chunk an origin, each of the whole range: together they are the sum."""
    n = 4
    chunks = Chunks(np.zeros(n), np.full(n, 1e6), np.arange(n), np.full(n, -1))
    moves = [(c, c, i, False) for c in range(n) for i in range(n) if i != c]
    schedule = scheduled(full(n), "all_reduce", 1e6, chunks, moves)
    assert verify(schedule).valid
    doubled = replace(schedule, chunks=chunks._replace(origin=np.array([0, 1, 2, 2])))
    assert not verify(doubled).valid


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_chunks_must_tile_what_is_due(collective: str) -> None:
    schedule = made(collective, "full")
    chunks = schedule.chunks
    last = len(chunks.size) - 1
    for wrong in (
        chunks._replace(size=chunks.size * 0.99),
        chunks._replace(offset=chunks.offset + 10.0),
        chunks._replace(size=np.append(chunks.size[:-1], chunks.size[-1] * 1.5)),
        chunks._replace(origin=np.append(chunks.origin[:-1], 77)),
    ):
        assert not verify(replace(schedule, chunks=wrong)).valid
    fewer = Chunks(*(column[:last] for column in chunks))
    assert not verify(pick(replace(schedule, chunks=fewer), schedule.chunk != last)).valid


def test_columns_out_of_range_are_refused() -> None:
    schedule = made("all_reduce", "ring")
    for column, value in (
        ("chunk", 99),
        ("chunk", -1),
        ("link", 99),
        ("start", np.nan),
        ("start", -1.0),
        ("end", np.inf),
    ):
        assert not verify(put(schedule, column, 0, value)).valid
    assert not verify(replace(schedule, members=np.array([0, 1, 9]))).valid
    assert not verify(replace(schedule, members=np.array([1, 0]))).valid
    assert not verify(replace(schedule, collective="gossip")).valid
    assert not verify(replace(schedule, nbytes=0.0)).valid
    assert not verify(replace(schedule, link=schedule.link[:-1])).valid
    assert not verify(replace(made("broadcast", "ring"), root=None)).valid


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_groups_are_checked_for_their_members(collective: str) -> None:
    """Members 0, 2 and 3 of a full network; NPU 1 has nothing to do and nothing to add."""
    schedule = around(collective, 3, full(5), members=[0, 2, 3])
    assert verify(schedule).valid
    assert not verify(replace(schedule, members=np.array([0, 1, 2, 3]))).valid
    assert not verify(replace(schedule, topology=schedule.topology.without(npus=[2]))).valid


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_one_member_has_nothing_to_do(collective: str) -> None:
    root = 1 if collective in ("broadcast", "reduce") else None
    chunks = whole_chunks(collective, 1e6, np.array([1]), 2, root)
    alone = scheduled(ring(3), collective, 1e6, chunks, [], root, [1])
    assert verify(alone).valid and alone.time == 0
    if collective != "all_to_all":
        assert not verify(replace(alone, chunks=chunks._replace(size=chunks.size / 2))).valid


def test_collectives_at_once_share_links_in_turn() -> None:
    one, other = around("all_gather", 4, ring(4)), around("all_reduce", 4, ring(4))
    assert not verify_together([one, other]).valid
    later = replace(other, start=other.start + one.time, end=other.end + one.time)
    report = verify_together([one, later])
    assert report.valid and report.checked["schedules"] == 2
    assert report.checked["transfers"] == one.transfers + other.transfers
    broken = put(later, "reduce", 0, False)
    assert "schedule 1" in str(verify_together([one, broken]))
    with pytest.raises(SpecError, match="one network"):
        verify_together([one, around("all_gather", 5, ring(5))])
    assert verify_together([]).valid


def test_more_than_64_members_fill_several_words() -> None:
    schedule = around("all_reduce", 130, ring(130))
    assert verify(schedule).valid
    adds = np.flatnonzero(schedule.reduce)
    assert not verify(put(schedule, "reduce", int(adds[-1]), False)).valid
