"""Messages between ranks: which send meets which receive, over which ports, and how long they wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dse.errors import Fault, SpecError
from dse.simulate import fold, prepare
from dse.simulate.collectives import MESSAGE, demand
from dse.simulate.layout import Layout
from dse.simulate.sets import Sets
from dse.trace.schema import Kind

if TYPE_CHECKING:
    from dse.simulate.plans import Table
    from dse.simulate.topology import Network

Ints = NDArray[np.int64]


class Ends(NamedTuple):
    """Sends, or receives, of some ranks; one row each."""

    rank: Ints
    row: Ints
    peer: Ints
    tag: Ints
    size: Ints


class Matched(NamedTuple):
    """Sends and receives, and for each receive the send it meets (-1: none) and the other way round."""

    sends: Ends
    receives: Ends
    send_of: Ints
    receive_of: Ints


def match(known: Layout, ranks: Ints) -> Matched:
    """The messages that these ranks send or receive: the k-th send to a rank with a tag meets the k-th receive."""
    if known.peers.shape[1] == 0:
        none = Ends(*(np.zeros(0, np.int64) for _ in Ends._fields))
        return Matched(none, none, np.zeros(0, np.int64), np.zeros(0, np.int64))
    far = np.unique(np.concatenate([ranks, known.peers[ranks].ravel()]))
    far = far[far >= 0]
    sends, receives = _ends(known, far, Kind.SEND), _ends(known, far, Kind.RECV)
    source = np.concatenate([sends.rank, receives.peer])
    target = np.concatenate([sends.peer, receives.rank])
    pair = fold.factorize(source, target, np.concatenate([sends.tag, receives.tag]))
    count = len(sends.rank)
    turn = np.concatenate([prepare.running(pair[:count]), prepare.running(pair[count:])])
    key = fold.factorize(pair, turn)
    by_key = np.full(int(key.max()) + 1 if len(key) else 0, -1, np.int64)
    by_key[key[:count]] = np.arange(count)
    send_of = by_key[key[count:]]
    receive_of = np.full(count, -1, np.int64)
    receive_of[send_of[send_of >= 0]] = np.flatnonzero(send_of >= 0)
    return Matched(sends, receives, send_of, receive_of)


def _ends(known: Layout, ranks: Ints, kind: Kind) -> Ends:
    parts: list[tuple[Any, ...]] = []
    for rank in ranks:
        program = known.programs[known.program[rank]]
        rows = np.flatnonzero(program.trace.kind == kind)
        rows = rows[np.argsort(program.order[rows], kind="stable")]
        peer = known.peers[rank, program.peer[rows]]
        parts.append((np.full(len(rows), rank), rows, peer, program.trace.tag[rows], program.trace.size[rows]))
    return Ends(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class Messages:
    """A transfer for every send of an actor.

    Attributes:
        node, of: the sends, and the transfer of each.
        need, queue, plan, set, delay, landing, group, turn: of each transfer: one member, no queue, its plan, its
            ports, seconds before the first byte flows, and seconds that a byte is on its way; no group, no turn.
        receiver, received: nodes that receive, and the transfer of each.
    """

    def __init__(
        self, problem: prepare.Problem, found: Matched, table: Table, sets: Sets, network: Network | None
    ) -> None:
        sends, receives = found.sends, found.receives
        actor = np.full(problem.layout.ranks, -1, np.int64)
        actor[problem.rank] = np.arange(len(problem.rank))
        mine = np.flatnonzero(actor[sends.rank] >= 0)
        self.node = problem.base[actor[sends.rank[mine]]] + sends.row[mine]
        count = len(self.node)
        self.of, self.need, self.turn = np.arange(count), np.ones(count, np.int64), np.zeros(count, np.int64)
        self.queue = self.group = np.full(count, -1, np.int64)
        _check(problem, self.node, sends.size[mine], found.receive_of[mine])
        got = np.flatnonzero((actor[receives.rank] >= 0) & (found.send_of >= 0))
        self.receiver = problem.base[actor[receives.rank[got]]] + receives.row[got]
        met = found.send_of[got]
        sent = problem.base[problem.actor_of[sends.rank[met]]] + sends.row[met]
        order = np.argsort(self.node)
        self.received = order[np.searchsorted(self.node, sent, sorter=order)] if len(sent) else sent
        # How many of these messages reach one receiver: those of all senders that are folded into one.
        many = np.bincount(self.received, minlength=len(self.node))
        self._route(problem, sends.rank[mine], sends.peer[mine], sends.size[mine], many, table, sets, network)

    def _route(
        self,
        problem: prepare.Problem,
        one: Ints,
        other: Ints,
        size: Ints,
        many: Ints,
        table: Table,
        sets: Sets,
        network: Network | None,
    ) -> None:
        from dse.simulate.transfers import capacity

        system = problem.system if network is None else network.system
        dimensions = len(system.sizes)
        used, hops = fold.ways(system, one, other)
        work, self.delay, self.landing = (np.zeros(len(one)) for _ in range(3))
        for d in range(dimensions):
            these = np.flatnonzero(used[:, d])
            sizes, back = np.unique(size[these], return_inverse=True)
            shares = np.ones((len(sizes), dimensions))
            shares[:, d] = min(2, system.sizes[d])
            need = demand(system, MESSAGE, shares, sizes.astype(float), latencies=True)
            work[these] = np.maximum(work[these], (need.busy[:, d] * capacity(system)[d])[back])
            self.delay[these] += (need.fixed - need.latency[:, d])[back]
            self.landing[these] += need.latency[back, d] * hops[these, d]
        if network is not None:
            self.landing += [network.latency(int(a), int(b)) for a, b in zip(one, other, strict=True)]
        self.plan = np.zeros(len(one), np.int64)
        for way, amount in zip(*np.unique(np.stack([used.any(axis=1), work]), axis=1), strict=True):
            shape = (1, int(way))
            number = table.add((MESSAGE, bool(way), float(amount)), np.zeros(shape, np.int64), np.full(shape, amount))
            self.plan[(used.any(axis=1) == bool(way)) & (work == amount)] = number
        if network is not None:
            pairs = zip(one.tolist(), other.tolist(), strict=True)
            self.set = np.asarray([network.route(a, b) for a, b in pairs], np.int64)
            return
        index, dimension = np.nonzero(used)
        tx = (problem.actor_of[one[index]] * dimensions + dimension) * 2
        rx = (problem.actor_of[other[index]] * dimensions + dimension) * 2 + 1
        counts = np.stack([np.ones(len(index), np.int64), many[index]], axis=1).ravel()
        self.set = sets.add(2 * used.sum(axis=1), np.stack([tx, rx], axis=1).ravel(), counts)


def _check(problem: prepare.Problem, node: Ints, size: Ints, receive: Ints) -> None:
    for wrong, rule in (
        (size < 0, "a message must say how many bytes it has (comm_size, at least 0)"),
        (receive < 0, "no rank receives this message (comm_src, comm_dst and comm_tag must fit)"),
    ):
        if wrong.any():
            raise SpecError([Fault(prepare.where(problem, int(node[np.argmax(wrong)])), "", rule)])
