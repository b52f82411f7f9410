"""A schedule carried out on real arrays, in order of time; and what the collective must give, by NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dse.collective.schedule import EVERYONE, Schedule
from dse.collective.topology import Ints
from dse.errors import Fault, SpecError

Array = NDArray[Any]


class Layout(NamedTuple):
    """Where the elements of chunks are.

    Attributes:
        first, last: elements of the result that each chunk covers, [chunks]; chunks of one range cover the same.
        shards: first element of each member's shard, and the number of all, [members + 1].
    """

    first: Ints
    last: Ints
    shards: Ints


def layout(schedule: Schedule, count: int) -> Layout:
    """Bytes of the schedule as elements of a result of ``count``.

    Ends that are equal but for rounding become the same element, so that pieces tile the result exactly whatever
    ``count`` is; a chunk may then be empty.
    """
    chunks, n, whole = schedule.chunks, len(schedule.members), schedule.nbytes
    shards = np.arange(n + 1) * (whole / n)
    points = np.concatenate([shards, chunks.offset, chunks.offset + chunks.size])
    order = np.argsort(points, kind="stable")
    new = np.append(True, np.diff(points[order]) > 1e-9 * whole)
    at = points[order][new][np.cumsum(new) - 1]  # the first of those that are equal stands for them
    element = np.empty(len(points), np.int64)
    # A thousandth on top: what falls in the middle of an element does so for all that is equal but for rounding.
    element[order] = np.clip(np.floor(at / whole * count + 0.5 + 1e-3), 0, count)
    m = len(chunks.offset)
    return Layout(element[n + 1 : n + 1 + m], element[n + 1 + m :], element[: n + 1])


class Events(NamedTuple):
    """Starts and ends of transfers in order of time, [2 transfers]; what ends goes before what starts."""

    transfer: Ints
    starts: NDArray[np.bool_]


def events(schedule: Schedule, tolerance: float = 1e-9) -> Events:
    """The order in which a schedule is carried out."""
    count = schedule.transfers
    slack = np.minimum(tolerance * schedule.time, (schedule.end - schedule.start) / 2)
    time = np.concatenate([schedule.end, schedule.start + slack])
    order = np.argsort(time, kind="stable")
    return Events(order % max(count, 1), order >= count)


def carried(schedule: Schedule) -> list[int]:
    """The transfer whose load each one passes on, -1 for none: as given, and at switches first in, first out."""
    if schedule.passes is None and schedule.topology.nodes == schedule.topology.npus:
        return [-1] * schedule.transfers
    passes = [-1] * schedule.transfers if schedule.passes is None else schedule.passes.tolist()
    taken = {j for j in passes if j >= 0}
    npus, chunk = schedule.topology.npus, schedule.chunk.tolist()
    source, destination = schedule.source.tolist(), schedule.destination.tolist()
    waiting: dict[tuple[int, int], list[int]] = {}
    for i in np.argsort(schedule.end, kind="stable").tolist():
        if destination[i] >= npus and i not in taken:
            waiting.setdefault((chunk[i], destination[i]), []).append(i)
    for i in np.argsort(schedule.start, kind="stable").tolist():
        if source[i] >= npus and passes[i] < 0:
            line = waiting.get((chunk[i], source[i]))
            if not line:
                raise _wrong(f"transfer {i}", f"chunk {chunk[i]} leaves switch {source[i]} more often than it came in")
            passes[i] = line.pop(0)
    return passes


def inputs(schedule: Schedule, count: int, dtype: Any = np.int64, seed: int = 0) -> list[Array]:
    """Random data to try a schedule on: what each member puts in; ``count`` elements in the result."""
    rng = np.random.default_rng(seed)
    shards = layout(schedule, count).shards
    n = len(schedule.members)
    lengths = np.diff(shards).tolist() if schedule.collective == "all_gather" else [count] * n
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        return [rng.integers(0, 100, length).astype(kind) for length in lengths]
    return [rng.standard_normal(length).astype(kind) for length in lengths]


def expected(schedule: Schedule, given: Sequence[Array]) -> list[Array | None]:
    """What each member must end with, by NumPy sums and concatenations; None: nothing."""
    kind, members, n = schedule.collective, schedule.members.tolist(), len(schedule.members)
    root = members.index(schedule.root) if schedule.root is not None else 0
    if kind == "all_gather":
        return [np.concatenate(list(given))] * n
    if kind == "broadcast":
        return [given[root]] * n
    if kind == "all_to_all":
        parts = [np.split(one, n) for one in given]
        return [np.concatenate([parts[i][r] for i in range(n)]) for r in range(n)]
    total = np.sum(np.stack(list(given)), 0, dtype=given[0].dtype)
    if kind == "all_reduce":
        return [total] * n
    if kind == "reduce":
        return [total if r == root else None for r in range(n)]
    shards = layout(schedule, len(total)).shards
    return [total[shards[r] : shards[r + 1]] for r in range(n)]


class Share:
    """The buffers of some NPUs, and the loads that are under way to or from them.

    What one process of an executor holds; :func:`execute` holds all of them in one.
    """

    def __init__(self, schedule: Schedule, given: dict[int, Array], count: int) -> None:
        self.schedule, self.members = schedule, schedule.members.tolist()
        self.at = layout(schedule, count)
        self.count = count
        self.held: dict[tuple[int, int], Array] = {}
        self.given = given
        for npu in given:
            for chunk in np.flatnonzero(np.isin(schedule.chunks.origin, (npu, EVERYONE))).tolist():
                self.held[chunk, npu] = self._own(chunk, npu)

    def _own(self, chunk: int, npu: int) -> Array:
        """What an NPU puts into a chunk."""
        low, high = int(self.at.first[chunk]), int(self.at.last[chunk])
        if self.schedule.collective == "all_gather":
            shift = int(self.at.shards[self.members.index(npu)])
            return self.given[npu][low - shift : high - shift]
        if self.schedule.collective == "all_to_all":
            # Ranges count in the receiver's buffer; there the sender's block is where its rank says.
            here, there = (self.members.index(who) for who in (npu, int(self.schedule.chunks.target[chunk])))
            shift = int(self.at.shards[there] - self.at.shards[here])
            return self.given[npu][low + shift : high + shift]
        return self.given[npu][low:high]

    def send(self, transfer: int, chunk: int, npu: int) -> Array:
        """What an NPU holds of a chunk."""
        found = self.held.get((chunk, npu))
        if found is None:
            raise _wrong(f"transfer {transfer}", f"NPU {npu} holds nothing of chunk {chunk} when it starts to send")
        return found

    def receive(self, chunk: int, npu: int, load: Array, reduce: bool) -> None:
        """Add a load to what an NPU holds of a chunk, or replace it."""
        old = self.held.get((chunk, npu)) if reduce else None
        self.held[chunk, npu] = load if old is None else (old + load).astype(old.dtype, copy=False)

    def result(self, npu: int) -> Array | None:
        """What a member ends with: the sum, range by range, of the chunks that are for it."""
        s, r = self.schedule, self.members.index(npu)
        mine = np.flatnonzero(np.isin(s.chunks.target, (npu, EVERYONE))).tolist()
        if s.collective == "reduce" and npu != s.root:
            return None
        out = np.zeros(self.count, next(iter(self.given.values())).dtype)
        if s.collective == "all_to_all":
            own = slice(int(self.at.shards[r]), int(self.at.shards[r + 1]))
            out[own] = self.given[npu][own]
            mine = [c for c in mine if s.chunks.origin[c] != npu]
        for chunk in mine:
            part = self.held.get((chunk, npu))
            if part is None:
                raise _wrong(f"NPU {npu}", f"has never got chunk {chunk}")
            out[self.at.first[chunk] : self.at.last[chunk]] += part
        if s.collective == "reduce_scatter":
            return out[self.at.shards[r] : self.at.shards[r + 1]]
        return out


def execute(schedule: Schedule, given: Sequence[Array]) -> list[Array | None]:
    """Carry out a schedule on arrays.

    Args:
        schedule: what to do.
        given: what each member puts in, in the order of the members: one-dimensional, of one dtype. An all-gather
            takes shards of about equal length, an all-to-all lengths that the members divide, the others equal ones.

    Returns:
        What each member ends with; None where that is nothing.

    Raises:
        SpecError: arrays that do not fit, or a schedule that sends what is not there.
    """
    given, count = checked(schedule, given)
    share = Share(schedule, dict(zip(schedule.members.tolist(), given, strict=True)), count)
    passes, npus = carried(schedule), schedule.topology.npus
    kept = np.ones(schedule.transfers, bool)
    kept[[j for j in passes if j >= 0]] = False
    chunk, reduce = schedule.chunk.tolist(), schedule.reduce.tolist()
    source, destination = schedule.source.tolist(), schedule.destination.tolist()
    load: dict[int, Array] = {}
    transfer, starts = events(schedule)
    for i, begins in zip(transfer.tolist(), starts.tolist(), strict=True):
        if begins:
            load[i] = _passed(load, i, passes[i]) if passes[i] >= 0 else share.send(i, chunk[i], source[i])
        elif kept[i]:
            got = load.pop(i)
            if destination[i] < npus:
                share.receive(chunk[i], destination[i], got, reduce[i])
    return [share.result(npu) for npu in schedule.members.tolist()]


def _passed(load: dict[int, Array], transfer: int, passed: int) -> Array:
    if passed not in load:
        raise _wrong(f"transfer {transfer}", f"passes on transfer {passed}, which has not come")
    return load.pop(passed)


def checked(schedule: Schedule, given: Sequence[Array]) -> tuple[list[Array], int]:
    """The arrays, and the number of elements of the whole; see :func:`execute` for what is refused."""
    n = len(schedule.members)
    arrays = [np.asarray(one) for one in given]
    if len(arrays) != n:
        raise _wrong("inputs", f"must be {n}, one for each member, not {len(arrays)}")
    if any(one.ndim != 1 for one in arrays) or len({one.dtype for one in arrays}) > 1:
        raise _wrong("inputs", "must be of one dimension and one dtype")
    if schedule.collective == "all_gather":
        count = sum(len(one) for one in arrays)
        want = np.diff(layout(schedule, count).shards).tolist()
    else:
        count = len(arrays[0])
        want = [count] * n
    if [len(one) for one in arrays] != want:
        raise _wrong("inputs", f"must have {', '.join(map(str, sorted(set(want))[:4]))} elements")
    if schedule.collective == "all_to_all" and count % n:
        raise _wrong("inputs", f"must have a number of elements that {n} divides, not {count}")
    return arrays, count


def differences(got: Sequence[Array | None], want: Sequence[Array | None]) -> tuple[bool, float]:
    """Whether results are what NumPy gives (integers exactly, floats within rounding), and the largest difference."""
    worst, equal = 0.0, True
    for one, other in zip(got, want, strict=True):
        if one is None or other is None:
            equal &= one is None and other is None
            continue
        if one.shape != other.shape:
            return False, float("inf")
        if one.size:
            difference = float(np.abs(one.astype(float) - other.astype(float)).max())
            worst = max(worst, difference)
            if one.dtype.kind in "iub":
                equal &= bool((one == other).all())
            else:
                scale = float(np.abs(other).max()) + 1.0
                equal &= difference <= 64 * float(np.finfo(one.dtype).eps) * scale * max(len(got), 1)
    return equal, worst


def _wrong(name: str, rule: str) -> SpecError:
    return SpecError([Fault(name, "", rule)])
