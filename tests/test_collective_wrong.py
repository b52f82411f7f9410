"""The verifier accepts what is right and names what is wrong, whatever way a schedule is broken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dse.collective.files import load
from dse.collective.library import LIBRARY, names
from dse.collective.schedule import COLLECTIVES, EVERYONE, Chunks, Schedule
from dse.collective.topology import Topology
from dse.collective.verifier import verify, verify_together
from dse.errors import SpecError

PLAIN = "bandwidth=50GiB/s,latency=0.5us"


def known(name: str, shape: str = f"torus:4x4,{PLAIN}", collective: str = "all_reduce", **given: Any) -> Schedule:
    root = 0 if collective in ("broadcast", "reduce") else None
    given = {"members": None, "root": root, "per_shard": 1, **given}
    return LIBRARY[name](load(shape), collective, 2.0**26, **given)


def pair(latency: float = 1e-6) -> Topology:
    return Topology.of([[0, 1, 1e9, latency], [1, 0, 1e9, latency]], 2)


def by_hand(topology: Topology, rows: list[tuple[int, int, float, float, bool]], **fields: Any) -> Schedule:
    """Rows (chunk, link, start, end, reduce) of an all-gather of two halves of 1000 bytes unless told otherwise."""
    chunk, link, start, end, reduce = (np.asarray(column) for column in zip(*rows, strict=True))
    halves = Chunks(np.array([0.0, 500.0]), np.full(2, 500.0), np.array([0, 1]), np.full(2, EVERYONE))
    given = {"collective": "all_gather", "nbytes": 1000.0, "members": topology.members, "chunks": halves, **fields}
    return Schedule(topology, chunk=chunk, link=link, start=start, end=end, reduce=reduce.astype(bool), **given)


@pytest.mark.parametrize("shape", [f"torus:4x4,{PLAIN}", f"switch:6,{PLAIN}", f"mesh:3x5,{PLAIN}"])
@pytest.mark.parametrize("collective", COLLECTIVES)
def test_known_algorithms_are_valid(shape: str, collective: str) -> None:
    for name in names(collective):
        report = verify(known(name, shape, collective))
        assert report.valid, f"{name}: {report}"


def _without(made: Schedule, i: int) -> Schedule:
    keep = np.arange(made.transfers) != i
    columns = {n: getattr(made, n)[keep] for n in ("chunk", "link", "start", "end", "reduce")}
    return replace(made, **columns)


def _with(made: Schedule, column: str, i: int, value: Any) -> Schedule:
    changed = getattr(made, column).copy()
    changed[i] = value
    return replace(made, **{column: changed})


@pytest.mark.parametrize("name", ["ring", "halving_doubling", "multitree", "direct"])
def test_every_way_of_breaking_a_schedule_is_caught(name: str) -> None:
    made = known(name, f"hypercube:8,{PLAIN}")
    if made.passes is not None and (made.passes >= 0).any():
        made = known("multitree", f"hypercube:8,{PLAIN}")
    assert verify(made).valid
    rng = np.random.default_rng(3)
    for i in rng.permutation(made.transfers)[:40].tolist():
        duration = made.end[i] - made.start[i]
        assert not verify(_without(made, i)).valid, "a transfer less"
        assert not verify(_with(made, "end", i, made.end[i] - 0.01 * duration)).valid, "too short"
        assert not verify(_with(made, "start", i, made.start[i] - made.time)).valid, "before the beginning"
        assert not verify(_with(made, "reduce", i, not made.reduce[i])).valid, "added instead of copied, or the reverse"
        other = (made.chunk[i] + 1) % len(made.chunks.size)
        assert not verify(_with(made, "chunk", i, other)).valid, "another chunk"
        assert not verify(_with(made, "link", i, (made.link[i] + 1) % made.topology.links)).valid, "another link"


def test_a_transfer_may_not_start_before_its_data_is_there() -> None:
    line = Topology.of([[0, 1, 1e9, 1e-6], [1, 2, 1e9, 1e-6]], 3)
    one = Chunks(np.zeros(1), np.full(1, 1000.0), np.zeros(1, np.int64), np.full(1, EVERYONE))
    fields = {"collective": "broadcast", "root": 0, "chunks": one}
    assert verify(by_hand(line, [(0, 0, 0.0, 2e-6, False), (0, 1, 2e-6, 4e-6, False)], **fields)).valid
    early = verify(by_hand(line, [(0, 0, 0.0, 2e-6, False), (0, 1, 1.9e-6, 4e-6, False)], **fields))
    assert not early.valid
    assert "transfer 1" in str(early)


def test_a_link_carries_one_message_at_a_time() -> None:
    rows = [(0, 0, 0.0, 1.5e-6, False), (1, 1, 0.0, 1.5e-6, False)]
    assert verify(by_hand(pair(), rows)).valid
    twice = verify(by_hand(pair(), [*rows, (0, 0, 1.4e-6, 2.9e-6, False)]))
    assert not twice.valid


def test_messages_pay_one_latency_for_all_that_travels_in_them() -> None:
    quarters = Chunks(np.arange(4) * 250.0, np.full(4, 250.0), np.array([0, 0, 1, 1]), np.full(4, EVERYONE))
    rows = [(chunk, link, 0.0, 1.5e-6, False) for chunk, link in ((0, 0), (1, 0), (2, 1), (3, 1))]
    together = by_hand(pair(), rows, chunks=quarters, message=np.array([7, 7, 9, 9]))
    assert verify(together).valid
    assert not verify(replace(together, message=None)).valid
    assert not verify(_with(together, "end", 0, 1.6e-6)).valid, "a message has one end"
    assert not verify(replace(together, end=together.end - 1e-7)).valid, "500 bytes take 0.5 us and 1 us of latency"


def test_nothing_is_added_twice() -> None:
    whole = Chunks(np.zeros(1), np.full(1, 1000.0), np.full(1, EVERYONE), np.full(1, EVERYONE))
    fields = {"collective": "all_reduce", "chunks": whole}
    up_down = [(0, 0, 0.0, 2e-6, True), (0, 1, 2e-6, 4e-6, False)]
    assert verify(by_hand(pair(), up_down, **fields)).valid
    exchange = [(0, 0, 0.0, 2e-6, True), (0, 1, 0.0, 2e-6, True)]
    assert verify(by_hand(pair(), exchange, **fields)).valid, "both send what they held at the start"
    twice = verify(by_hand(pair(), [(0, 0, 0.0, 2e-6, True), (0, 1, 2e-6, 4e-6, True)], **fields))
    assert not twice.valid
    lost = verify(by_hand(pair(), [(0, 0, 0.0, 2e-6, False), (0, 1, 2e-6, 4e-6, False)], **fields))
    assert not lost.valid


def test_switches_forward_but_do_not_copy() -> None:
    star = Topology.of([[0, 3, 1e9, 0], [3, 1, 1e9, 0], [3, 2, 1e9, 0]], 3, nodes=4)
    one = Chunks(np.zeros(1), np.full(1, 1000.0), np.zeros(1, np.int64), np.full(1, EVERYONE))
    fields = {"collective": "broadcast", "root": 0, "chunks": one}
    copied = [(0, 0, 0.0, 1e-6, False), (0, 1, 1e-6, 2e-6, False), (0, 2, 1e-6, 2e-6, False)]
    assert not verify(by_hand(star, copied, **fields)).valid
    two = [(0, 0, 0.0, 1e-6, False), (0, 0, 1e-6, 2e-6, False), (0, 1, 1e-6, 2e-6, False), (0, 2, 2e-6, 3e-6, False)]
    assert verify(by_hand(star, two, **fields)).valid
    assert verify(by_hand(star, two, passes=np.array([-1, -1, 0, 1]), **fields)).valid
    assert not verify(by_hand(star, two, passes=np.array([-1, -1, 0, 0]), **fields)).valid


def test_chunks_must_make_up_the_result() -> None:
    made = known("ring", f"ring:4,{PLAIN}", "all_gather")
    chunks = made.chunks
    for changed in (
        chunks._replace(size=chunks.size * 0.9),
        chunks._replace(offset=chunks.offset[::-1].copy()),
        chunks._replace(target=np.zeros_like(chunks.target)),
        chunks._replace(origin=np.full_like(chunks.origin, EVERYONE)),
    ):
        assert not verify(replace(made, chunks=changed)).valid


def test_columns_out_of_range_are_named() -> None:
    made = known("ring", f"ring:4,{PLAIN}", "all_gather")
    for column, value in (("chunk", 99), ("link", -1), ("start", float("nan"))):
        report = verify(_with(made, column, 0, value))
        assert not report.valid and "transfer 0" in str(report)


def test_schedules_that_run_at_once_share_links() -> None:
    made = known("ring", f"ring:4,{PLAIN}", "all_gather")
    later = replace(made, start=made.start + made.time, end=made.end + made.time)
    assert verify_together([made, later]).valid
    clash = verify_together([made, made])
    assert not clash.valid
    with pytest.raises(SpecError, match="network"):
        verify_together([made, known("ring", f"ring:5,{PLAIN}", "all_gather")])
