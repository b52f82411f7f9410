"""What a collective does on the links of a topology, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dse.collective.topology import Floats, Ints, Topology

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce")
EVERYONE = -1


class Chunks(NamedTuple):
    """Pieces of data, [chunks] each.

    A chunk is a range of the result and the sum of what its origins hold there. All of an NPU's chunks of one range
    together make its result there: their origins must be disjoint and complete.

    Attributes:
        offset: bytes into the result at which it begins. All-gather: shards in the order of the members.
            All-to-all: into the receiver's buffer, by sender in the order of the members.
        size: bytes.
        origin: NPU that holds it at first; EVERYONE: each member holds a contribution, and they are added.
        target: NPU that needs it at the end; EVERYONE: every member.
    """

    offset: Floats
    size: Floats
    origin: Ints
    target: Ints


@dataclass(frozen=True, eq=False)
class Schedule:
    """Transfers of chunks over links.

    A transfer carries what its source holds of the chunk at its start: the sum of the contributions that have got
    there. At its end the destination holds that as well (``reduce`` false: instead of what it held, which must be part
    of it; true: added to what it held, and the two must have no contribution in common).

    Attributes:
        topology: the network.
        collective: one of COLLECTIVES.
        nbytes: bytes of the whole: of the result of an all-gather, of each NPU's input otherwise.
        members: NPUs that take part, ascending; their order is the order of the shards.
        root: of a broadcast or reduce.
        chunks: the pieces.
        chunk, link: of each transfer, [transfers].
        start, end: seconds, [transfers]; end - start is at least the link's time for the bytes.
        reduce: whether the destination adds, [transfers].
        message: transfers over a link with the same number travel as one message: one latency for the bytes of all,
            with one start and one end. None: each travels alone.
        algorithm: what made it.
        notes: figures of the maker, for people.
        passes: number of the transfer whose load each one passes on, [transfers]; -1: it carries what its source
            holds. A relay neither looks at, keeps nor adds to what is passed on. None: all -1.
    """

    topology: Topology
    collective: str
    nbytes: float
    members: Ints
    chunks: Chunks
    chunk: NDArray[np.int32]
    link: NDArray[np.int32]
    start: Floats
    end: Floats
    reduce: NDArray[np.bool_]
    root: int | None = None
    message: NDArray[np.int32] | None = None
    algorithm: str = ""
    notes: dict[str, Any] | None = None
    passes: NDArray[np.int32] | None = None

    @property
    def time(self) -> float:
        """Seconds until the last transfer has ended."""
        return float(self.end.max(initial=0.0))

    @property
    def transfers(self) -> int:
        """Number of transfers."""
        return len(self.chunk)

    @property
    def source(self) -> Ints:
        """Node each transfer leaves, [transfers]."""
        return self.topology.src[self.link]

    @property
    def destination(self) -> Ints:
        """Node each transfer reaches, [transfers]."""
        return self.topology.dst[self.link]

    def __repr__(self) -> str:
        what = f"{self.collective} of {self.nbytes:.6g} bytes by {self.algorithm or 'its maker'}"
        return f"Schedule({what} on {self.topology.name}: {self.transfers} transfers, {self.time * 1e6:.6g} us)"


def whole_chunks(collective: str, nbytes: float, members: Ints, per_shard: int, root: int | None = None) -> Chunks:
    """The usual chunks: each shard (all-to-all: block; broadcast, reduce: everything) cut into ``per_shard``.

    Returns them shard by shard (all-to-all: by sender, then receiver).
    """
    members, n = np.asarray(members, np.int64), len(members)
    if collective == "all_to_all":
        sender, receiver, piece = np.meshgrid(np.arange(n), np.arange(n), np.arange(per_shard), indexing="ij")
        keep = (sender != receiver).ravel()
        sender, receiver, piece = (a.ravel()[keep] for a in (sender, receiver, piece))
        size = nbytes / n / per_shard
        offset = (sender * per_shard + piece) * size
        return Chunks(offset, np.full(len(offset), size), members[sender], members[receiver])
    shards = 1 if collective in ("broadcast", "reduce") else n
    count = shards * per_shard
    size = nbytes / count
    owner = np.repeat(members, per_shard) if shards == n else np.full(count, -1 if root is None else root)
    everyone = np.full(count, EVERYONE)
    origin = owner if collective in ("all_gather", "broadcast") else everyone
    target = owner if collective in ("reduce_scatter", "reduce") else everyone
    return Chunks(np.arange(count) * size, np.full(count, size), origin, target)
