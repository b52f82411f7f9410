"""MSCCL XML: what the MSCCL and RCCL runtimes execute. Rules and limits are those of the parser in microsoft/msccl."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import quoteattr

from dse.collective.formats.joined import joined
from dse.collective.formats.moves import NOWHERE, Op, Program, Slot, by_rank, fault, program
from dse.collective.schedule import EVERYONE, Schedule

COLLECTIVES = {
    "all_reduce": "allreduce", "all_gather": "allgather", "reduce_scatter": "reduce_scatter", "all_to_all": "alltoall",
    "broadcast": "broadcast", "reduce": "reduce",
}  # fmt: skip
PROTOCOLS = ("Simple", "LL", "LL128")
STEPS = 256  # of a thread block
BLOCKS = 216  # thread blocks of a GPU
PEERS = 32  # thread blocks that send (or receive) on a channel of a GPU
CHANNELS = 32
COUNT = 71  # units of a step: the parser wants fewer than 72
LARGEST = (1 << 63) - 1


class _Step(NamedTuple):
    kind: str
    src: Slot
    dst: Slot
    after: list[tuple[int, int]]  # thread block and step of the GPU


class _Block:
    """A thread block: what it does in turn, and to and from whom."""

    def __init__(self, number: int, send: int, recv: int, channel: int) -> None:
        self.number, self.send, self.recv, self.channel = number, send, recv, channel
        self.steps: list[_Step] = []


def write(
    schedule: Schedule,
    path: str | os.PathLike[str],
    *,
    inplace: bool | None = None,
    protocol: str = "Simple",
    name: str | None = None,
    min_bytes: int = 0,
    max_bytes: int = LARGEST,
) -> Path:
    """Write a schedule as MSCCL XML. Ranks are the places of the members; switches are left out.

    Each pair of ranks has a thread block at either end for what goes between them, more where it would be too long.
    What a step waits for in other thread blocks stands as its dependence, in ``nop`` steps before it where that is
    more than one.

    Args:
        inplace: whether the output is the input; by default for all-reduces.
        protocol: Simple, LL or LL128.
        name: of the algorithm; by default the schedule's collective and maker.
        min_bytes, max_bytes: sizes that the runtime may use it for.

    Raises:
        SpecError: a limit of the runtime is exceeded (it is named), or the schedule has chunks without a common unit.
        StudyError: the file cannot be written.
    """
    from dse.study.export import write_atomically

    text = "".join(lines(schedule, inplace, protocol, name, min_bytes, max_bytes))
    return write_atomically(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8") and None)


def lines(
    schedule: Schedule, inplace: bool | None = None, protocol: str = "Simple", name: str | None = None,
    min_bytes: int = 0, max_bytes: int = LARGEST,
) -> Iterator[str]:  # fmt: skip
    """The lines of :func:`write`."""
    if protocol not in PROTOCOLS:
        raise fault("protocol", repr(protocol)[:40], f"must be one of {', '.join(PROTOCOLS)}")
    if not 0 <= min_bytes <= max_bytes <= LARGEST:
        raise fault("max_bytes", max_bytes, f"must be at least min_bytes, {min_bytes}, which is at least 0")
    if inplace is None:
        inplace = schedule.collective == "all_reduce" and bool((schedule.chunks.origin == EVERYONE).all())
    made = joined(program(schedule, inplace), COUNT)
    gpus = _blocks(made, len(schedule.members))
    channels = 1 + max((block.channel for blocks in gpus for block in blocks), default=0)
    title = name or f"{schedule.collective} by {schedule.algorithm or 'dse'}"
    yield (
        f'<algo name={quoteattr(title)} nchunksperloop="{made.units.total}" nchannels="{channels}" proto="{protocol}" '
        f'ngpus="{len(gpus)}" coll="{COLLECTIVES[schedule.collective]}" inplace="{int(inplace)}" '
        f'minBytes="{min_bytes}" maxBytes="{max_bytes}">\n'
    )
    for gpu, blocks in enumerate(gpus):
        awaited = {key for block in blocks for step in block.steps for key in step.after}
        output = 0 if inplace else made.output
        yield f'  <gpu id="{gpu}" i_chunks="{made.input}" o_chunks="{output}" s_chunks="{made.scratch[gpu]}">\n'
        for block in blocks:
            yield f'    <tb id="{block.number}" send="{block.send}" recv="{block.recv}" chan="{block.channel}">\n'
            for s, step in enumerate(block.steps):
                on, at = step.after[0] if step.after else (-1, -1)
                yield (
                    f'      <step s="{s}" type="{step.kind}" srcbuf="{step.src.buffer}" srcoff="{step.src.first}" '
                    f'dstbuf="{step.dst.buffer}" dstoff="{step.dst.first}" cnt="{step.src.count}" depid="{on}" '
                    f'deps="{at}" hasdep="{int((block.number, s) in awaited)}"/>\n'
                )
            yield "    </tb>\n"
        yield "  </gpu>\n"
    yield "</algo>\n"


def _blocks(made: Program, ranks: int) -> list[list[_Block]]:
    """The thread blocks of each rank."""
    gpus: list[list[_Block]] = [[] for _ in range(ranks)]
    used = _Channels(ranks)
    place: dict[int, tuple[_Block, int]] = {}  # last step of each operation
    segment = _segments(made)
    homes = {op.move: op.dst for op in made.ops if op.kind.startswith("recv")}
    left = {op.move: op.src for op in made.ops if op.kind == "send"}
    connection: dict[tuple[int, int, int], tuple[_Block, _Block]] = {}

    def block(rank: int, send: int, recv: int, channel: int) -> _Block:
        if len(gpus[rank]) == BLOCKS:
            raise fault("thread blocks", f"rank {rank}", f"needs more than the {BLOCKS} that the runtime has")
        gpus[rank].append(_Block(len(gpus[rank]), send, recv, channel))
        return gpus[rank][-1]

    for key in segment.values():
        if key not in connection:
            u, v, _ = key
            channel = used.take(u, v)
            connection[key] = block(u, v, -1, channel), block(v, -1, u, channel)
    local: dict[int, _Block] = {}
    for numbers in by_rank(made.ops, ranks):
        for number in numbers:
            op = made.ops[number]
            if op.move >= 0:
                at = connection[segment[op.move]][op.kind != "send"]
            else:
                at = local.get(op.rank) or local.setdefault(op.rank, block(op.rank, -1, -1, 0))
                if len(at.steps) + _steps(op) > STEPS:
                    at = local[op.rank] = block(op.rank, -1, -1, 0)
            peer = homes[op.move] if op.kind == "send" else left.get(op.move, NOWHERE)
            _append(at, op, peer, [place[k] for k in op.after])
            place[number] = at, len(at.steps) - 1
    return gpus


def _append(block: _Block, op: Op, peer: Slot, after: list[tuple[_Block, int]]) -> None:
    """The steps of an operation, after a ``nop`` for each thread block but one that it waits for."""
    latest: dict[int, int] = {}
    for other, step in after:
        if other is not block:
            latest[other.number] = max(latest.get(other.number, -1), step)
    waits = sorted(latest.items())
    for on in waits[:-1]:
        block.steps.append(_Step("nop", Slot("i", 0, 0), Slot("i", 0, 0), [on]))
    kind = {"send": "s", "recv": "r", "recv add": "rrc", "copy": "cpy", "add": "re"}[op.kind]
    src, dst = (slot if slot.buffer else peer for slot in (op.src, op.dst))
    for done in range(0, src.count, COUNT):
        size = min(COUNT, src.count - done)
        pieces = Slot(src.buffer, src.first + done, size), Slot(dst.buffer, dst.first + done, size)
        block.steps.append(_Step(kind, *pieces, waits[-1:] if done == 0 else []))


def _steps(op: Op) -> int:
    """Steps that an operation takes at most."""
    return -(-max(op.src.count, op.dst.count) // COUNT) + max(len(op.after) - 1, 0)


def _segments(made: Program) -> dict[int, tuple[int, int, int]]:
    """The pair of ranks of each move, and a number of its own for every ``STEPS`` steps at either end."""
    ends: dict[int, list[int]] = {}
    for op in made.ops:
        if op.move >= 0:
            ends.setdefault(op.move, [0, 0])[op.kind != "send"] = _steps(op)
    open_: dict[tuple[int, int, int], tuple[int, list[int]]] = {}
    count: dict[tuple[int, int], int] = {}
    found = {}
    m = made.moves
    for i, (u, v, lane) in enumerate(zip(m.src.tolist(), m.dst.tolist(), m.lane.tolist(), strict=True)):
        if i not in ends:
            continue  # another move stands for it
        number, total = open_.get((u, v, lane), (-1, [STEPS, STEPS]))
        if max(ends[i]) > STEPS:
            raise fault("steps", f"move {i}", f"takes {max(ends[i])} steps, more than the {STEPS} of a thread block")
        if any(a + b > STEPS for a, b in zip(total, ends[i], strict=True)):
            number, total = count.get((u, v), 0), [0, 0]
            count[u, v] = number + 1
        open_[u, v, lane] = number, [a + b for a, b in zip(total, ends[i], strict=True)]
        found[i] = u, v, number
    return found


class _Channels:
    """Which channel a connection gets: the lowest on which both ranks have room and the pair has none yet."""

    def __init__(self, ranks: int) -> None:
        self.sends = [[0] * CHANNELS for _ in range(ranks)]
        self.recvs = [[0] * CHANNELS for _ in range(ranks)]
        self.next: dict[tuple[int, int], int] = {}

    def take(self, u: int, v: int) -> int:
        for channel in range(self.next.get((u, v), 0), CHANNELS):
            if self.sends[u][channel] < PEERS and self.recvs[v][channel] < PEERS:
                self.sends[u][channel] += 1
                self.recvs[v][channel] += 1
                self.next[u, v] = channel + 1
                return channel
        rule = f"needs more than {CHANNELS} channels of {PEERS} peers and {STEPS} steps: fewer chunks need fewer"
        raise fault("channels", f"rank {u} to rank {v}", rule)
