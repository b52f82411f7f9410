"""Chakra execution traces: a send and a receive for every message between NPUs, with what they wait for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from dse.collective.formats.moves import Program, program
from dse.collective.schedule import Schedule
from dse.collective.topology import Topology


def write(schedule: Schedule, prefix: str | os.PathLike[str], *, add: float | None = None) -> list[Path]:
    """Write ``PREFIX.<rank>.et`` for every rank; see :func:`traces`.

    Raises:
        SpecError: the schedule has chunks without a common unit, or an NPU that is no member passes data on.
        StudyError: a file cannot be written.
    """
    from dse.trace import save

    return save(traces(schedule, add=add), Path(prefix))


def traces(schedule: Schedule, *, add: float | None = None) -> Any:
    """The schedule as a :class:`~dse.trace.TraceSet`, a trace for each member.

    A send waits for what it passes on, and for the send before it over the same link; a receive has a ``comm_tag`` of
    its own with its send. Sizes are whole bytes.

    Args:
        add: bytes/s at which a rank adds what has come to what it has: a compute node for every addition. None:
            additions take no time and have no node.
    """
    from dse.trace import TraceSet, columns

    made = program(schedule)
    ranks = len(schedule.members)
    nodes = _nodes(schedule, made, add)
    return TraceSet(tuple(columns(nodes[r]) for r in range(ranks)), np.arange(ranks), {}, schedule.algorithm)


def _nodes(schedule: Schedule, made: Program, add: float | None) -> list[list[Any]]:
    from dse.trace import Attribute, Kind, Node

    m = made.moves
    size = np.maximum(np.round(schedule.chunks.size).astype(np.int64), 1).tolist()
    nodes: list[list[Any]] = [[] for _ in range(len(schedule.members))]
    done: dict[int, int | None] = {}  # node after which an operation is done; None: nothing to wait for
    before: dict[tuple[int, int], int] = {}  # last send of a rank over a link

    def node(rank: int, kind: Kind, name: str, after: list[int], **values: float) -> int:
        number = len(nodes[rank]) + 1
        kinds = {float: "double", int: "int64"}
        attributes = [Attribute(key, kinds[type(value)], value) for key, value in values.items()]
        nodes[rank].append(Node(number, name, int(kind), data_deps=sorted(set(after)), attrs=attributes))
        return number

    for number, op in enumerate(made.ops):
        after = [k for k in (done[j] for j in op.after) if k is not None]
        if op.move < 0:
            done[number] = max(after, default=None)
            continue
        bytes_, tag = size[op.chunk], op.move + 1
        if op.kind == "send":
            link = op.rank, int(m.link[op.move])
            after += [before[link]] if link in before else []
            at = node(op.rank, Kind.SEND, f"send chunk {op.chunk}", after, comm_src=op.rank,
                      comm_dst=int(m.dst[op.move]), comm_size=bytes_, comm_tag=tag)  # fmt: skip
            before[link] = at
        else:
            # What it replaces or adds to must be there, but the data can come before.
            at = node(op.rank, Kind.RECV, f"receive chunk {op.chunk}", [], comm_src=int(m.src[op.move]),
                      comm_dst=op.rank, comm_size=bytes_, comm_tag=tag)  # fmt: skip
            if op.kind == "recv add" and add is not None:
                at = node(op.rank, Kind.COMP, f"add chunk {op.chunk}", [*after, at], num_ops=bytes_, tensor_size=bytes_,
                          **{"dse.seconds": bytes_ / add})  # fmt: skip
            elif after:
                at = node(op.rank, Kind.COMP, f"keep chunk {op.chunk}", [*after, at], num_ops=0, tensor_size=0,
                          **{"dse.seconds": 0.0})  # fmt: skip
        done[number] = at
    return nodes


def system(topology: Topology, **changes: Any) -> Any:
    """The network as a :class:`~dse.simulate.System` whose ranks are its members, for ``fidelity="flows"``.

    Links side by side are one with the sum of their bandwidths, as the simulator wants it.
    """
    from dse.simulate import System

    rank = {npu: r for r, npu in enumerate(topology.members.tolist())}
    wide: dict[tuple[Any, Any], tuple[float, float]] = {}
    columns = (topology.src, topology.dst, topology.bandwidth, topology.latency)
    for a, b, rate, delay in zip(*(column.tolist() for column in columns), strict=True):
        ends = tuple(rank.get(end, f"node {end}") for end in (a, b))
        known = wide.get(ends, (0.0, delay))  # type: ignore[call-overload]
        wide[ends] = known[0] + rate, max(known[1], delay)  # type: ignore[index]
    links = [(a, b, rate, delay) for (a, b), (rate, delay) in wide.items()]
    return System.on_graph(links, len(rank), **changes)
