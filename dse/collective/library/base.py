"""What every known algorithm is: who sends which shard to whom in which step, on any network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from dse.collective.library.program import Moves, schedule
from dse.collective.routing import distances
from dse.collective.schedule import COLLECTIVES, EVERYONE, Chunks, Schedule, whole_chunks
from dse.collective.topology import Floats, Ints, Topology
from dse.errors import Fault, SpecError

MOST_PIECES = 1024
MOST_MOVES = 400_000  # of a pipeline whose pieces are chosen here


@dataclass(frozen=True)
class Net:
    """A network as algorithms see it: ranks 0 ... n - 1 are the members.

    Attributes:
        topology: the links.
        members: NPU of each rank, [n].
        size: bytes of a typical message.
    """

    topology: Topology
    members: Ints
    size: float

    @property
    def n(self) -> int:
        """Number of ranks."""
        return len(self.members)

    @cached_property
    def far(self) -> Floats:
        """Seconds of a message between ranks, [n, n]."""
        return distances(self.topology, self.size, self.members)[:, self.members]

    @cached_property
    def adjacent(self) -> np.ndarray:
        """Whether a link leads from rank to rank, [n, n]."""
        rank = np.full(self.topology.nodes, -1)
        rank[self.members] = np.arange(self.n)
        src, dst = rank[self.topology.src], rank[self.topology.dst]
        both = (src >= 0) & (dst >= 0)
        matrix = np.zeros((self.n, self.n), bool)
        matrix[src[both], dst[both]] = True
        return matrix

    def reverse(self) -> Net:
        """With every link turned round."""
        return replace(self, topology=self.topology.reverse())


@dataclass(frozen=True)
class Algorithm:
    """A known algorithm. Calling it gives a schedule; see :meth:`__call__`.

    What is gathered or spread backwards in time is scattered or reduced; an all-reduce is a reduce-scatter and an
    all-gather where shards can be gathered, else a reduction up a tree and a broadcast down it.

    Attributes:
        name: as in the tables.
        gather: (net, pieces) -> moves of an all-gather, ``chunk`` the shard.
        spread: (net, root, pieces) -> moves of a broadcast; root None: each piece from a root of its own.
        exchange: (net, pieces) -> moves of an all-to-all, ``chunk`` sender * n + receiver.
        lanes: the least number of pieces that makes sense.
        pipelined: whether a broadcast gains from more pieces.
    """

    name: str
    gather: Callable[[Net, int], Moves] | None = None
    spread: Callable[[Net, int | None, int], Moves] | None = None
    exchange: Callable[[Net, int], Moves] | None = None
    lanes: int = 1
    pipelined: bool = True

    def does(self, collective: str) -> bool:
        """Whether the algorithm exists for the collective."""
        if collective == "all_to_all":
            return self.exchange is not None
        if collective in ("broadcast", "reduce"):
            return self.spread is not None
        return self.gather is not None or (collective == "all_reduce" and self.spread is not None)

    def __call__(
        self,
        topology: Topology,
        collective: str,
        nbytes: float,
        *,
        members: ArrayLike | None = None,
        root: int | None = None,
        per_shard: int | Literal["auto"] = "auto",
    ) -> Schedule:
        """The algorithm's schedule, its messages sent over shortest paths.

        Args:
            topology: any network in which the members reach each other.
            collective: one for which the algorithm exists (:meth:`does`).
            nbytes: result of an all-gather; each NPU's input otherwise.
            members: NPUs that take part, ascending; None: all.
            root: of a broadcast or reduce; None: the first member.
            per_shard: pieces each shard is cut into (trees: the whole), sent one after the other; ``"auto"``: as many
                as fill a pipeline, or the fewest the algorithm needs.

        Raises:
            SpecError: bad input, or an algorithm that does not exist for this collective or network.
        """
        who = checked_members(topology, members)
        root = _root(collective, root, who)
        if not self.does(collective):
            known = ", ".join(name for name in COLLECTIVES if self.does(name))
            raise SpecError([Fault("algorithm", self.name, f"does {known}; not {collective}")])
        checked_size(nbytes)
        checked_pieces(per_shard)
        n = len(who)
        treelike = collective in ("broadcast", "reduce") or (collective == "all_reduce" and self.gather is None)
        net = Net(topology, who, nbytes / (1 if treelike else n))
        rank = None if root is None else int(np.searchsorted(who, root))
        pieces = self._pieces(net, rank, nbytes, treelike) if per_shard == "auto" else int(per_shard)
        pieces = -(-pieces // self.lanes) * self.lanes
        if n == 1:
            moves, reduce = Moves.of([], [], []), np.empty(0, bool)
        else:
            net = replace(net, size=net.size / pieces)
            moves, reduce = self._moves(net, collective, rank, pieces, treelike)
        if treelike and collective == "all_reduce":
            everyone = np.full(pieces, EVERYONE)
            size = nbytes / pieces
            chunks = Chunks(np.arange(pieces) * size, np.full(pieces, size), everyone, everyone)
        else:
            chunks = whole_chunks(collective, nbytes, who, pieces, root)
        return schedule(topology, collective, nbytes, who, root, chunks, moves, reduce, self.name)

    def _moves(self, net: Net, collective: str, root: int | None, pieces: int, treelike: bool):
        """Moves with the final chunk numbers, and whether each adds."""
        if collective == "all_to_all":
            moves = self.exchange(net, pieces)
            sender, receiver = moves.chunk // net.n, moves.chunk % net.n
            block = sender * (net.n - 1) + receiver - (receiver > sender)
            return moves._replace(chunk=block * pieces + moves.lane), np.zeros(len(block), bool)
        parts: list[tuple[Moves, bool]] = []
        if collective in ("reduce", "reduce_scatter", "all_reduce"):
            back = net.reverse()
            made = self.spread(back, root, pieces) if treelike else self.gather(back, pieces)
            parts.append((made.reversed(), True))
        if collective in ("broadcast", "all_gather", "all_reduce"):
            made = self.spread(net, root, pieces) if treelike else self.gather(net, pieces)
            parts.append((made.later(parts[0][0].steps) if parts else made, False))
        moves = Moves.joined([part for part, _ in parts])
        chunk = moves.lane if treelike else moves.chunk * pieces + moves.lane
        return moves._replace(chunk=chunk), np.repeat([adds for _, adds in parts], [len(p.step) for p, _ in parts])

    def _pieces(self, net: Net, root: int | None, nbytes: float, treelike: bool) -> int:
        """Fewest pieces; of a pipeline, those at which one more saves as much bandwidth as it costs latency."""
        if not (treelike and self.pipelined) or net.n == 1 or not net.topology.links:
            return self.lanes
        depth = self.spread(net, root, self.lanes).steps
        alpha, bandwidth = np.median(net.topology.latency), np.median(net.topology.bandwidth)
        most = max(min(MOST_PIECES, MOST_MOVES // net.n), 1)
        if alpha == 0:
            return most
        return int(np.clip(round(math.sqrt(depth * nbytes / bandwidth / alpha)), 1, most))


def checked_members(topology: Topology, members: ArrayLike | None) -> Ints:
    """Members of a collective, ascending; raises SpecError where one does not work."""
    who = topology.members if members is None else np.unique(np.asarray(members, np.int64).reshape(-1))
    wrong = np.setdiff1d(who, topology.members)
    if wrong.size or not len(who):
        value = str(wrong[0]) if wrong.size else "none"
        raise SpecError([Fault("members", value, f"must be NPUs that work, of 0 to {topology.npus - 1}")])
    return who


def checked_size(nbytes: float) -> None:
    """Raise SpecError unless there is something to send."""
    if not (nbytes > 0 and math.isfinite(nbytes)):
        raise SpecError([Fault("bytes", str(nbytes), "must be more than 0, and finite")])


def checked_pieces(per_shard: int | str) -> None:
    """Raise SpecError unless it is a number of pieces or left to the algorithm."""
    if per_shard != "auto" and not (isinstance(per_shard, int | np.integer) and 1 <= per_shard <= 65536):
        raise SpecError([Fault("per_shard", str(per_shard), "must be auto, or a whole number from 1 to 65536")])


def _root(collective: str, root: int | None, members: Ints) -> int | None:
    if collective not in COLLECTIVES:
        raise SpecError([Fault("collective", str(collective)[:40], f"must be one of {', '.join(COLLECTIVES)}")])
    if collective not in ("broadcast", "reduce"):
        return None
    root = int(members[0]) if root is None else int(root)
    if root not in members:
        raise SpecError([Fault("root", str(root), "must be one of the members")])
    return root
