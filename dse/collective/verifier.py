"""Whether a schedule does what its collective says: a replay with sets of contributions, apart from all makers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dse.collective.schedule import COLLECTIVES, EVERYONE, Schedule
from dse.collective.topology import Floats, Ints
from dse.errors import Fault, SpecError

FEW = 5  # faults of a kind that are told in full


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        valid: no fault.
        faults: sentences, the first few of each kind.
        counts: faults of each kind.
        checked: how much was looked at, and ``redundant``: deliveries of what the destination already held.
    """

    valid: bool
    faults: tuple[str, ...]
    counts: dict[str, int]
    checked: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"valid": self.valid, "faults": list(self.faults), "counts": self.counts, "checked": self.checked}

    def __str__(self) -> str:
        looked = ", ".join(f"{count:,} {name}" for name, count in self.checked.items())
        if self.valid:
            return f"valid ({looked})"
        rest = sum(self.counts.values()) - len(self.faults)
        more = [f"... and {rest:,} more"] if rest > 0 else []
        return "\n  ".join([f"NOT valid ({looked})", *self.faults, *more])


class _Faults:
    """Faults by kind; of each kind the first few are kept in words."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.said: list[str] = []

    def add(self, kind: str, count: int, said: Sequence[str]) -> None:
        if count:
            self.counts[kind] = self.counts.get(kind, 0) + int(count)
            self.said += said[:FEW]

    def each(self, kind: str, wrong: NDArray[Any], say: Any) -> None:
        """One fault for each number in ``wrong``; ``say`` makes the sentence of one."""
        self.add(kind, len(wrong), [say(int(i)) for i in wrong[:FEW]])


def verify(schedule: Schedule, tolerance: float = 1e-9) -> Report:
    """Check a schedule: columns, links, durations, causality, and that every NPU ends with the right data.

    The transfers of each chunk are replayed in order of time with the set of contributions that every node holds. What
    starts when something ends comes after it. A switch passes on each load that came in once, in the order they came
    unless ``passes`` says otherwise.

    Args:
        schedule: what to check.
        tolerance: by how much times and bytes may be rounded, relative to the whole.

    Returns:
        The report; a schedule with a fault is never ``valid``.
    """
    faults = _Faults()
    _columns(schedule, faults)
    checked = {"transfers": schedule.transfers, "chunks": len(schedule.chunks.size)}
    if not faults.counts:  # the others rely on numbers in range
        _durations(schedule, tolerance, faults)
        _exclusive([schedule], tolerance, faults)
        _tiles(schedule, tolerance, faults)
        passes = _passes(schedule, tolerance, faults)
        checked["redundant"] = _replay(schedule, passes, tolerance, faults)
    return Report(not faults.counts, tuple(faults.said), faults.counts, checked)


def verify_together(schedules: Sequence[Schedule], tolerance: float = 1e-9) -> Report:
    """Check schedules that run at once on one network: each alone, and that no link carries two messages at a time.

    Raises:
        SpecError: the schedules are on different networks.
    """
    keys = {schedule.topology.key for schedule in schedules}
    if len(keys) > 1:
        raise SpecError([Fault("schedules", "", "must be on one network to share its links")])
    faults = _Faults()
    checked: dict[str, int] = {"schedules": len(schedules)}
    for number, schedule in enumerate(schedules):
        report = verify(schedule, tolerance)
        for name, count in report.checked.items():
            checked[name] = checked.get(name, 0) + count
        for kind, count in report.counts.items():
            faults.add(kind, count, [])
        faults.said += [f"schedule {number}: {said}" for said in report.faults]
    if schedules and not faults.counts:
        _exclusive(schedules, tolerance, faults)
    return Report(not faults.counts, tuple(faults.said), faults.counts, checked)


def _columns(s: Schedule, faults: _Faults) -> None:
    """Numbers that name chunks, links, NPUs and messages, and times that are times."""
    topology, chunks = s.topology, s.chunks
    faults.add("collective", s.collective not in COLLECTIVES, [f"no collective is called {s.collective!r}"])
    faults.add("bytes", not (np.isfinite(s.nbytes) and s.nbytes > 0), [f"{s.nbytes} bytes are not more than 0"])
    columns = [s.link, s.start, s.end, s.reduce]
    columns += [column for column in (s.message, s.passes) if column is not None]
    wrong = any(np.shape(column) != (s.transfers,) for column in columns)
    wrong |= len({np.shape(column) for column in chunks}) > 1
    faults.add("shape", wrong, ["columns are not of one length"])
    members = np.asarray(s.members, np.int64)
    fine = len(members) > 0 and bool((np.diff(members) > 0).all()) and np.isin(members, topology.members).all()
    faults.add("members", not fine, ["members are not NPUs that work, in ascending order"])
    rooted = s.collective in ("broadcast", "reduce")
    faults.add("root", rooted and s.root not in members.tolist(), [f"root {s.root} is not a member"])
    if faults.counts:
        return
    bad = np.flatnonzero((s.chunk < 0) | (s.chunk >= len(chunks.size)))
    faults.each("chunk number", bad, lambda i: f"transfer {i}: no chunk {s.chunk[i]} of {len(chunks.size)}")
    bad = np.flatnonzero((s.link < 0) | (s.link >= topology.links))
    faults.each("link number", bad, lambda i: f"transfer {i}: no link {s.link[i]} of {topology.links}")
    bad = np.flatnonzero(~(np.isfinite(s.start) & np.isfinite(s.end) & (s.start >= 0)))
    faults.each("time", bad, lambda i: f"transfer {i}: from {s.start[i]} to {s.end[i]} s is not a stretch of time")
    bad = np.flatnonzero(~(np.isfinite(chunks.offset) & np.isfinite(chunks.size) & (chunks.size >= 0)))
    faults.each("chunk", bad, lambda i: f"chunk {i}: {chunks.size[i]} bytes from {chunks.offset[i]} on are no range")
    known = np.append(members, EVERYONE)
    for name, column in (("origin", chunks.origin), ("target", chunks.target)):
        bad = np.flatnonzero(~np.isin(column, known))
        faults.each(name, bad, lambda i, n=name, c=column: f"chunk {i}: its {n} {c[i]} is not a member")


def _durations(s: Schedule, tolerance: float, faults: _Faults) -> None:
    """No message is quicker than its link."""
    bytes_, first = _messages(s, faults)
    link = s.link[first]
    need = s.topology.latency[link] + bytes_ / s.topology.bandwidth[link]
    took = s.end[first] - s.start[first]
    # Times are sums of many; a millionth of the message itself is forgiven on top of their rounding.
    quick = np.flatnonzero(took < need * (1 - 1e-6) - 4e-16 * s.end[first] - 1e-3 * tolerance * s.time)
    faults.each(
        "too short",
        quick,
        lambda i: f"transfer {first[i]}: takes {took[i]:.9g} s over {_link(s, link[i])}, which needs {need[i]:.9g} s",
    )


def _messages(s: Schedule, faults: _Faults) -> tuple[Floats, Ints]:
    """Bytes of each message and one of its transfers; those of one message must share its times."""
    size = s.chunks.size[s.chunk]
    if s.message is None:
        return size, np.arange(s.transfers)
    key = s.message.astype(np.int64) * s.topology.links + s.link
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    bad = np.flatnonzero((s.start != s.start[first][which]) | (s.end != s.end[first][which]))
    faults.each(
        "message",
        bad,
        lambda i: (
            f"transfer {i}: message {s.message[i]} has other times than in transfer {first[which[i]]}"  # type: ignore[index]
        ),
    )
    return np.bincount(which, size, minlength=len(first)), first


def _exclusive(schedules: Sequence[Schedule], tolerance: float, faults: _Faults) -> None:
    """No link carries two messages at a time."""
    from dse.collective.replay import overlaps

    number = np.repeat(np.arange(len(schedules)), [s.transfers for s in schedules])
    place = np.concatenate([np.arange(s.transfers) for s in schedules])
    link = np.concatenate([s.link for s in schedules]).astype(np.int64)
    start, end = (np.concatenate(c) for c in zip(*((s.start, s.end) for s in schedules), strict=True))
    message = [np.arange(s.transfers) if s.message is None else s.message for s in schedules]
    far = np.cumsum([0, *(int(m.max(initial=-1)) + 1 for m in message)])
    group = np.concatenate([m + at for m, at in zip(message, far, strict=False)]).astype(np.int64)
    slack = tolerance * max(s.time for s in schedules)
    links = schedules[0].topology.links
    count, pairs = overlaps(link, start.astype(float), end.astype(float), group, slack, links, FEW)

    def said(a: int, b: int) -> str:
        names = [f"transfer {place[i]}" + (f" of schedule {number[i]}" if len(schedules) > 1 else "") for i in (a, b)]
        when = f"starts at {start[b]:.9g} s, before {names[0]} has ended at {end[a]:.9g} s"
        return f"{names[1]}: {when}, both over {_link(schedules[0], link[b])}"

    faults.add("link in use", count, [said(a, b) for a, b in pairs[: min(count, FEW)].tolist()])


def _tiles(s: Schedule, tolerance: float, faults: _Faults) -> None:
    """The chunks of each receiver and origin together are what the receiver must get, without holes or doubles."""
    members, n, chunks = s.members, len(s.members), s.chunks
    rows = np.stack([chunks.target, chunks.origin, np.arange(len(chunks.size))])
    for axis in (0, 1):  # of both kinds: each member by name
        every = rows[axis] == EVERYONE
        if every.any() and (n == 1 or not every.all()):
            spread = np.repeat(rows[:, every], n, axis=1)
            spread[axis] = np.tile(members, int(every.sum()))
            rows = np.concatenate([rows[:, ~every], spread], axis=1)
    offset = chunks.offset[rows[2]]
    order = np.lexsort((offset, rows[1], rows[0]))
    (target, origin, chunk), offset = rows[:, order], offset[order]
    size = chunks.size[chunk]
    new = np.append(True, (np.diff(target) != 0) | (np.diff(origin) != 0))[: len(order)]
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(order))[: len(first)] - 1
    low, high, wanted = _wanted(s, target[first], origin[first])
    slack = max(tolerance, 1e-9) * s.nbytes
    before = np.append(0.0, (offset + size)[:-1])[: len(order)]
    before[first] = low
    off = np.flatnonzero(np.abs(offset - before) > slack)
    faults.each(
        "range",
        off,
        lambda i: (
            f"chunk {chunk[i]}: begins at byte {offset[i]:.9g} where {before[i]:.9g} is due"
            f" ({_whose(target[i], origin[i])})"
        ),
    )
    short = np.flatnonzero(np.abs((offset + size)[last] - high) > slack)
    faults.each(
        "range end",
        short,
        lambda i: (
            f"the chunks {_whose(target[last[i]], origin[last[i]])} end at byte"
            f" {(offset + size)[last[i]]:.9g}, not at {high[i]:.9g}"
        ),
    )
    faults.add("missing chunks", wanted, [f"{wanted} pairs of a receiver and an origin have no chunks"])


def _whose(target: int, origin: int) -> str:
    names = ["everyone" if npu == EVERYONE else f"NPU {npu}" for npu in (target, origin)]
    return f"for {names[0]} from {names[1]}"


def _wanted(s: Schedule, target: Ints, origin: Ints) -> tuple[Floats, Floats, int]:
    """First and last byte due for each pair of a receiver and an origin, and how many pairs have none.

    A pair that the collective does not know is due nothing.
    """
    n, whole = len(s.members), s.nbytes
    rank_t, rank_o = (np.searchsorted(s.members, who) for who in (target, origin))
    low, high = np.zeros(len(target)), np.full(len(target), whole)
    all_t, all_o = target == EVERYONE, origin == EVERYONE
    targets = 1 if all_t.any() or s.collective == "reduce" else n
    origins = 1 if all_o.any() or s.collective == "broadcast" else n
    known = np.ones(len(target), bool)
    if s.collective in ("all_gather", "all_to_all"):
        low, high = rank_o * (whole / n), (rank_o + 1) * (whole / n)
        known = ~all_o
    elif s.collective == "reduce_scatter":
        low, high = rank_t * (whole / n), (rank_t + 1) * (whole / n)
        known = ~all_t
    elif s.collective == "broadcast":
        known = origin == s.root
    elif s.collective == "reduce":
        known = target == s.root
    if s.collective == "all_to_all":
        known &= ~all_t
        own = (target == origin) & known  # an NPU keeps its own block: that need not be said
        return low, np.where(known, high, low), n * (n - 1) - int((known & ~own).sum())
    return low, np.where(known, high, low), targets * origins - int(known.sum())


def _passes(s: Schedule, tolerance: float, faults: _Faults) -> NDArray[np.int32] | None:
    """The transfer whose load each one passes on, with what leaves switches told; -1: none."""
    npus, nodes = s.topology.npus, s.topology.nodes
    if s.passes is None and nodes == npus:
        return None
    passes = np.full(s.transfers, -1, np.int32) if s.passes is None else s.passes.astype(np.int32)
    bad = np.flatnonzero((passes < -1) | (passes >= s.transfers))
    faults.each("passes", bad, lambda i: f"transfer {i}: passes on transfer {passes[i]}, which is none")
    passes[bad] = -1
    source, destination = s.source, s.destination
    relay = np.flatnonzero(passes >= 0)
    taken = np.zeros(s.transfers, bool)
    taken[passes[relay]] = True
    into = np.flatnonzero((destination >= npus) & ~taken)
    out = np.flatnonzero((source >= npus) & (passes < 0))
    if out.size:  # first in, first out
        place_in = s.chunk[into].astype(np.int64) * nodes + destination[into]
        place_out = s.chunk[out].astype(np.int64) * nodes + source[out]
        into = into[np.lexsort((s.end[into], place_in))]
        out = out[np.lexsort((s.start[out], place_out))]
        place_in = s.chunk[into].astype(np.int64) * nodes + destination[into]
        place_out = s.chunk[out].astype(np.int64) * nodes + source[out]
        at = np.searchsorted(place_in, place_out) + np.arange(len(out)) - np.searchsorted(place_out, place_out)
        there = at < len(into)
        there[there] = place_in[at[there]] == place_out[there]
        passes[out[there]] = into[at[there]]
        faults.each(
            "leaves a switch",
            np.sort(out[~there]),
            lambda i: f"transfer {i}: chunk {s.chunk[i]} leaves {_node(s, source[i])} more often than it came in",
        )
    relay = np.flatnonzero(passes >= 0)
    what = passes[relay]
    wrong = (s.chunk[relay] != s.chunk[what]) | (source[relay] != destination[what]) | s.reduce[what]
    faults.each(
        "passes",
        relay[wrong],
        lambda i: f"transfer {i}: cannot pass on transfer {passes[i]}, which brings it another load or is added",
    )
    slack = np.minimum(tolerance * s.time, (s.end - s.start)[relay] / 2)
    early = relay[s.end[what] > s.start[relay] + slack]
    faults.each(
        "too early",
        early,
        lambda i: (
            f"transfer {i}: leaves {_node(s, source[i])} at {s.start[i]:.9g} s with what arrives at"
            f" {s.end[passes[i]]:.9g} s (transfer {passes[i]})"
        ),
    )
    twice = np.flatnonzero(np.bincount(what, minlength=s.transfers) > 1)
    faults.each("passed twice", twice, lambda i: f"transfer {i}: its load is passed on more than once")
    return passes


def _replay(s: Schedule, passes: NDArray[np.int32] | None, tolerance: float, faults: _Faults) -> int:
    """Every chunk with the contributions each node holds, in order of time; returns deliveries that brought nothing."""
    from dse.collective.replay import KINDS, replay

    rank = np.full(s.topology.nodes, -1)
    rank[s.members] = np.arange(len(s.members))
    wrong = np.flatnonzero((s.destination >= s.topology.npus) & s.reduce)
    faults.each(
        "switch adds", wrong, lambda i: f"transfer {i}: {_node(s, s.destination[i])} is to add, which switches cannot"
    )
    counts, where = replay(
        s.chunk.astype(np.int32), s.link.astype(np.int32), s.start.astype(float), s.end.astype(float),
        s.reduce.astype(np.bool_), np.empty(0, np.int32) if passes is None else passes,
        s.chunks.origin.astype(np.int64), s.chunks.target.astype(np.int64), s.topology.src, s.topology.dst, rank,
        len(s.members), s.topology.npus, tolerance * s.time, FEW,
    )  # fmt: skip
    for kind, (name, rule) in enumerate(KINDS):
        said = []
        for i, node in where[kind, : min(int(counts[kind]), FEW)].tolist():
            if name == "missing":
                said.append(f"chunk {i}: {_node(s, node)} {rule}")
            else:
                way = f"chunk {s.chunk[i]} over {_link(s, s.link[i])} from {s.start[i]:.9g} to {s.end[i]:.9g} s"
                said.append(f"transfer {i} ({way}): {_node(s, node)} {rule}")
        faults.add(name, int(counts[kind]), said)
    return int(counts[len(KINDS)])


def _node(s: Schedule, node: int) -> str:
    return f"NPU {node}" if node < s.topology.npus else f"switch {node}"


def _link(s: Schedule, link: int) -> str:
    return f"link {link} ({_node(s, s.topology.src[link])} to {_node(s, s.topology.dst[link])})"
