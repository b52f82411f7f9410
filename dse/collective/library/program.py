"""From the steps of an algorithm to a schedule on the links of a network."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dse.collective.precedence import Precedence, by_data, ranges, start_times
from dse.collective.routing import routes
from dse.collective.schedule import Chunks, Schedule
from dse.collective.tasks import seconds
from dse.collective.topology import Ints, Topology

REDUCING = ("all_reduce", "reduce_scatter", "reduce")


class Moves(NamedTuple):
    """Chunks that go from one rank to another, [moves].

    What goes in the same step from the same rank to the same rank in the same lane is one message.

    Attributes:
        step: a rank sends on in step s what has reached it in steps before s.
        src, dst: ranks, that is places in ``members``.
        chunk: number of the chunk (of the shard, until an algorithm's moves are put together).
        lane: piece of the data; the pieces are sent one after the other.
    """

    step: Ints
    src: Ints
    dst: Ints
    chunk: Ints
    lane: Ints

    @classmethod
    def of(cls, step: ArrayLike, src: ArrayLike, dst: ArrayLike, chunk: ArrayLike = 0, lane: ArrayLike = 0) -> Moves:
        """From columns that broadcast against each other."""
        columns = np.broadcast_arrays(*(np.asarray(column, np.int64) for column in (step, src, dst, chunk, lane)))
        return cls(*(column.ravel() for column in columns))

    @classmethod
    def joined(cls, parts: list[Moves]) -> Moves:
        """One after the other in one table."""
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    @property
    def steps(self) -> int:
        """Number of steps."""
        return int(self.step.max(initial=-1)) + 1

    def later(self, steps: int) -> Moves:
        """The same after so many steps."""
        return self._replace(step=self.step + steps)

    def reversed(self) -> Moves:
        """Backwards in time: what was spread is gathered."""
        return self._replace(step=self.steps - 1 - self.step, src=self.dst, dst=self.src)


def schedule(
    topology: Topology,
    collective: str,
    nbytes: float,
    members: Ints,
    root: int | None,
    chunks: Chunks,
    moves: Moves,
    reduce: NDArray[np.bool_],
    algorithm: str,
) -> Schedule:
    """Send the messages over shortest paths, each as soon as its data is there and the links are free.

    There is no barrier between steps. Where several messages wait for a link, that of the earliest step (counted from
    the start of its lane) goes first. ``reduce``: whether the receiver adds, [moves]; the same for all of a message.
    """
    moves, reduce, first = _messages(moves, reduce)
    count = len(first)
    lengths = np.diff(np.append(first, len(moves.step)))
    message = np.repeat(np.arange(count), lengths)
    size = np.bincount(message, chunks.size[moves.chunk], minlength=count)
    step, lane = moves.step[first], moves.lane[first]
    src, dst = members[moves.src[first]], members[moves.dst[first]]
    path = _shared_routes(topology, step, src, dst, lane, size)
    hops = np.diff(path.ptr)

    # Task t is one hop of one message; the last hop delivers.
    owner = np.repeat(np.arange(count), hops)
    hop = ranges(np.zeros(count, np.int64), hops)
    last = path.ptr[1:] - 1
    nodes = topology.nodes
    arrival = (moves.chunk * nodes + dst[message], moves.step + 1, last[message])
    departure = (moves.chunk * nodes + src[message], moves.step, path.ptr[:-1][message])
    tasks = len(owner)
    data = by_data(arrival, departure, tasks)
    on = np.flatnonzero(hop > 0)
    order = Precedence(np.append(data.before, on - 1), np.append(data.after, on), tasks, data.joins)
    duration = seconds(topology.latency, topology.bandwidth, path.link, size[owner])
    start = start_times(path.link, duration, order, (step + lane)[owner].astype(float), topology.links)

    # A transfer is one chunk of one task.
    each = lengths[owner]
    task = np.repeat(np.arange(tasks), each)
    chunk = moves.chunk[ranges(first[owner], each)]
    passes = None
    if collective in REDUCING and on.size:
        passes = np.where(hop[task] > 0, np.arange(len(task)) - each[task], -1).astype(np.int32)
    return Schedule(
        topology,
        collective,
        float(nbytes),
        members,
        chunks,
        chunk.astype(np.int32),
        path.link[task].astype(np.int32),
        start[task],
        (start + duration)[task],
        (reduce[first][owner] & (np.arange(tasks) == last[owner]))[task],
        root=root,
        message=task.astype(np.int32) if each.max(initial=0) > 1 else None,
        passes=passes,
        algorithm=algorithm,
        notes={"messages": count, "hops": int(hops.max(initial=0))},
    )


def _messages(moves: Moves, reduce: NDArray[np.bool_]) -> tuple[Moves, NDArray[np.bool_], Ints]:
    """The moves message by message in order of steps, and where each message begins."""
    ranks = int(max(moves.src.max(initial=0), moves.dst.max(initial=0))) + 1
    lanes = int(moves.lane.max(initial=0)) + 1
    key = ((moves.step * ranks + moves.src) * ranks + moves.dst) * lanes + moves.lane
    if len(key) and (key[1:] < key[:-1]).any():
        order = np.argsort(key, kind="stable")
        moves, reduce, key = Moves(*(column[order] for column in moves)), reduce[order], key[order]
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1])) if len(key) else np.empty(0, np.int64)
    return moves, reduce, first


def _shared_routes(topology, step, src, dst, lane, size):
    """Routes of all messages; a pair keeps its path in one lane, and those that begin in one step share the load."""
    from dse.collective.routing import Routes

    if not len(src):
        return Routes(np.zeros(1, np.int64), np.empty(0, np.int64))
    lanes = int(lane.max()) + 1
    key = (src * topology.nodes + dst) * lanes + lane
    _, began, which = np.unique(key, return_index=True, return_inverse=True)  # messages are in order of steps
    order = np.argsort(began, kind="stable")
    began = began[order]
    paths = routes(topology, float(size.mean()), src[began], dst[began], load=size[began], group=step[began])
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    mine = place[which]
    hops = np.diff(paths.ptr)[mine]
    return Routes(np.append(0, np.cumsum(hops)), paths.link[ranges(paths.ptr[mine], hops)])
