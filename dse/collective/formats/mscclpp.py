"""MSCCL++ execution plans (JSON). Fields and limits as its executor (microsoft/mscclpp, src/core/executor) has them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dse.collective.formats.joined import joined
from dse.collective.formats.moves import NOWHERE, Op, Program, Slot, by_rank, fault, program
from dse.collective.schedule import Schedule

COLLECTIVES = {
    "all_reduce": "allreduce", "all_gather": "allgather", "reduce_scatter": "reducescatter", "all_to_all": "alltoall",
    "broadcast": "broadcast", "reduce": "reduce",
}  # fmt: skip
OPERATIONS = 64  # of a thread block
CHANNELS = 16  # of a thread block; and remote buffers
TOGETHER = 8  # channels of an operation
LARGEST = (1 << 64) - 1


def write(
    schedule: Schedule,
    path: str | os.PathLike[str],
    *,
    inplace: bool = False,
    channel: str = "memory",
    name: str | None = None,
    threads: int = 1024,
    min_bytes: int = 0,
    max_bytes: int = LARGEST,
) -> Path:
    """Write a schedule as an MSCCL++ execution plan; see :func:`plan`.

    Raises:
        SpecError: a limit of the executor is exceeded (it is named), or the schedule has chunks without a common unit.
        StudyError: the file cannot be written.
    """
    from dse.study.export import write_atomically

    made = plan(schedule, inplace, channel, name, threads, min_bytes, max_bytes)
    text = json.dumps(made, indent=1) + "\n"
    return write_atomically(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8") and None)


def plan(
    schedule: Schedule, inplace: bool = False, channel: str = "memory", name: str | None = None, threads: int = 1024,
    min_bytes: int = 0, max_bytes: int = LARGEST,
) -> dict[str, Any]:  # fmt: skip
    """The plan as it stands in the file.

    Data is put into the receiver's buffer and signalled. It goes to its place at once where nothing has been there
    before, else to scratch, from where the receiver copies or adds it. As a thread block has few operations, ranges of
    the data are shared out among as many thread blocks as it takes; those of one number talk to each other only.

    Args:
        inplace: whether the output is the input; for all-reduces.
        channel: memory (between GPUs that see each other's memory) or port (through a NIC or copy engine).
        name: of the plan; by default the schedule's collective and maker.
        threads: of a thread block.
        min_bytes, max_bytes: sizes that it may be used for.
    """
    if channel not in ("memory", "port"):
        raise fault("channel", repr(channel)[:40], "must be memory or port")
    made = program(schedule, inplace)
    ranks = len(schedule.members)
    gpus = _shared_out(made, ranks, channel)
    return {
        "name": name or f"{schedule.collective} by {schedule.algorithm or 'dse'}",
        "collective": COLLECTIVES[schedule.collective],
        "protocol": "Simple",
        "inplace": inplace,
        "reuse_resources": False,
        "gpus": gpus,
        "num_threads_per_block": threads,
        "use_double_scratch_buffer": False,
        "buffer_alignment": 16,
        "min_message_size": min_bytes,
        "max_message_size": max_bytes,
    }


def _shared_out(made: Program, ranks: int, channel: str) -> list[dict[str, Any]]:
    """The GPUs, with as few thread blocks as the limits allow (doubling their number)."""
    whole = made
    ranges = sorted({int(first) for first in made.units.first.tolist()})
    number = {first: i for i, first in enumerate(ranges)}
    blocks = 1
    while True:
        group = [number[first] * blocks // len(ranges) for first in made.units.first.tolist()]
        made = joined(whole, whole.units.total, group)
        turn = _turns(made, group)
        landing, scratch = _landing(made)
        gpus = [_Gpu(r, made, landing, scratch[r], group, turn, channel) for r in range(ranks)]
        for numbers in by_rank(made.ops, ranks):
            for k in numbers:
                gpus[made.ops[k].rank].add(made.ops[k])
        broken = next((gpu.broken() for gpu in gpus if gpu.broken()), None)
        if broken is None:
            return [gpu.to_dict() for gpu in gpus]
        if blocks >= len(ranges):
            raise fault("thread block", broken, "is more than the executor has, with a thread block for each range")
        blocks = min(2 * blocks, len(ranges))


def _turns(made: Program, group: list[int]) -> dict[int, int]:
    """How many signals of its sender's thread block each move's receiver must have seen."""
    count: dict[tuple[int, int, int], int] = {}
    found = {}
    for op in made.ops:
        if op.kind == "send":
            key = op.rank, int(made.moves.dst[op.move]), group[op.chunk]
            count[key] = found[op.move] = count.get(key, 0) + 1
    return found


def _landing(made: Program) -> tuple[dict[int, Slot], list[int]]:
    """Where each move's data lands at its receiver, and the scratch of each rank with that."""
    scratch = list(made.scratch)
    used: set[tuple[int, str, int]] = set()
    found = {}
    for op in made.ops:
        places = {(op.rank, slot.buffer, k) for slot in (op.src, op.dst) for k in _units(slot)}
        if op.kind.startswith("recv"):
            fresh = op.kind == "recv" and op.dst.buffer != "i" and not places & used
            found[op.move] = op.dst if fresh else Slot("s", scratch[op.rank], op.dst.count)
            scratch[op.rank] += 0 if fresh else op.dst.count
        used.update(places)
    return found, scratch


class _Gpu:
    """The thread blocks of one GPU as they are made."""

    def __init__(
        self, rank: int, made: Program, landing: dict[int, Slot], scratch: int, group: list[int],
        turn: dict[int, int], channel: str,
    ) -> None:  # fmt: skip
        self.rank, self.made, self.landing, self.scratch, self.group = rank, made, landing, scratch, group
        self.turn, self.channel = turn, channel
        self.blocks: dict[int, _Block] = {}
        self.peers: dict[int, list[int]] = {}
        m = made.moves
        for chunk, src, dst in zip(m.chunk.tolist(), m.src.tolist(), m.dst.tolist(), strict=True):
            if rank in (src, dst):
                peers = self.peers.setdefault(group[chunk], [])
                peer = dst if src == rank else src
                if peer not in peers:
                    peers.append(peer)

    def add(self, op: Op) -> None:
        at = self.group[op.chunk] if op.chunk >= 0 else 0
        if at not in self.blocks:
            self.blocks[at] = _Block(sorted(self.peers.get(at, [])), self.channel)
        block, m = self.blocks[at], self.made.moves
        if op.kind == "send":
            block.put(int(m.dst[op.move]), op.src, self.landing[op.move])
        elif op.move >= 0:
            block.receive(int(m.src[op.move]), op, self.landing[op.move], self.turn[op.move])
        else:
            copy = op.kind == "copy"
            block.local("copy" if copy else "re", [op.src] if copy else [op.dst, op.src], op.dst)

    def broken(self) -> str | None:
        """The first limit that is exceeded."""
        for block in self.blocks.values():
            block.flush()
            for count, limit, what in (
                (len(block.ops), OPERATIONS, "operations"),
                (len(block.peers), CHANNELS, "channels"),
                (len(block.remote), CHANNELS, "remote buffers"),
            ):
                if count > limit:
                    return f"{count} {what}, {limit} allowed"
        return None

    def to_dict(self) -> dict[str, Any]:
        connected: list[int] = []
        buffers: list[tuple[int, str]] = []
        blocks = []
        for number, (_, block) in enumerate(sorted(self.blocks.items())):
            channels = list(range(len(connected), len(connected) + len(block.peers)))
            connected += block.peers
            ids = []
            for remote in block.remote:
                if remote not in buffers:
                    buffers.append(remote)
                ids.append(buffers.index(remote))
            refs = [{"access_channel_type": self.channel, "remote_buffer_ids": ids}] if ids else []
            blocks.append(
                {
                    "id": number,
                    "ops": block.ops,
                    "channels": [{"channel_type": self.channel, "channel_ids": channels}] if channels else [],
                    "remote_buffer_refs": refs,
                }
            )
        return {
            "id": self.rank,
            "input_chunks": self.made.input,
            "output_chunks": self.made.output,
            "scratch_chunks": self.scratch,
            "threadblocks": blocks,
            "channels": [{"channel_type": self.channel, "connected_to": connected}] if connected else [],
            "remote_buffers": [
                {"rank": rank, "type": kind, "access_channel_types": [self.channel]} for rank, kind in buffers
            ],
            "semaphores": [],
        }


class _Block:
    """The operations of a thread block.

    ``nop`` lets its threads wait for each other: before a signal for data that was put, after a wait, and between
    operations on the same units.
    """

    def __init__(self, peers: list[int], channel: str) -> None:
        self.peers, self.channel = peers, channel
        self.remote: list[tuple[int, str]] = []
        self.ops: list[dict[str, Any]] = []
        self.wrote: set[tuple[str, int]] = set()  # since the last nop
        self.read: set[tuple[str, int]] = set()
        self.waited = False
        self.going: list[int] = []  # peers to whom data was put that has not been signalled
        self.seen: dict[int, int] = {}  # signals of each peer that have been waited for
        self.coming: list[tuple[int, Op, Slot, int]] = []  # what is to be waited for, and then brought where it belongs
        # All are there and done with what they ran before, once they have said so.
        self._say("signal", peers)
        self._say("wait", peers)

    def put(self, peer: int, src: Slot, dst: Slot) -> None:
        if self.coming or peer in self.going:
            self.flush()
        self._sync([src], NOWHERE)
        if (peer, dst.buffer) not in self.remote:
            self.remote.append((peer, dst.buffer))
        there = {"buffer_id": self.remote.index((peer, dst.buffer)), "index": dst.first, "size": dst.count}
        self.ops.append(
            {
                "name": "put", "src_buff": [_local(src)], "dst_buff": [there],
                "channel_ids": [self.peers.index(peer)], "channel_type": self.channel,
            }
        )  # fmt: skip
        self.going.append(peer)

    def receive(self, peer: int, op: Op, landed: Slot, turn: int) -> None:
        """Wait for the ``turn``-th signal of a peer, together with what else is received before anything is sent."""
        if self.going:
            self.flush()
        self.coming.append((peer, op, landed, turn))

    def local(self, name: str, src: list[Slot], dst: Slot) -> None:
        """An operation on the GPU's own buffers."""
        self.flush()
        self._local(name, src, dst)

    def _local(self, name: str, src: list[Slot], dst: Slot) -> None:
        self._sync(src, dst)
        op: dict[str, Any] = {"name": name, "src_buff": [_local(slot) for slot in src], "dst_buff": [_local(dst)]}
        self.ops.append(op | ({"reduce_op": "sum"} if name == "re" else {}))

    def flush(self) -> None:
        """Signal what has been put; wait for what is to come, and bring it where it belongs."""
        if self.going:
            self._nop()
            self._say("signal", self.going)
            self.going = []
        coming, self.coming = self.coming, []
        together: list[int] = []
        for peer, _, _, turn in coming:
            while self.seen.get(peer, 0) < turn:  # what was signalled before it has come as well
                if peer in together:
                    self._say("wait", together)
                    together = []
                together.append(peer)
                self.seen[peer] = self.seen.get(peer, 0) + 1
        self._say("wait", together)
        for _, op, landed, _ in coming:
            if op.kind == "recv add":
                self._local("re", [op.src, landed], op.dst)
            elif landed != op.dst:
                self._local("copy", [landed], op.dst)

    def _say(self, name: str, peers: list[int]) -> None:
        for first in range(0, len(peers), TOGETHER):
            ids = [self.peers.index(peer) for peer in peers[first : first + TOGETHER]]
            self.ops.append({"name": name, "channel_ids": ids, "channel_type": self.channel})
        self.waited |= name == "wait" and bool(peers)

    def _sync(self, src: list[Slot], dst: Slot) -> None:
        reads = {(slot.buffer, k) for slot in src for k in _units(slot)}
        writes = {(dst.buffer, k) for k in _units(dst)}
        if self.waited or reads & self.wrote or writes & (self.wrote | self.read):
            self._nop()
        self.wrote |= writes
        self.read |= reads

    def _nop(self) -> None:
        self.ops.append({"name": "nop"})
        self.wrote, self.read, self.waited = set(), set(), False


def _units(slot: Slot) -> range:
    return range(slot.first, slot.first + slot.count)


def _local(slot: Slot) -> dict[str, Any]:
    return {"type": slot.buffer, "index": slot.first, "size": slot.count}
