"""MSCCL XML as a program, held against the rules of the runtime's parser and what its threads need."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from dse.collective.formats.msccl import BLOCKS, CHANNELS, COLLECTIVES, COUNT, PEERS, PROTOCOLS, STEPS
from dse.errors import Fault, SpecError

KINDS = ("s", "r", "rcs", "rrs", "rrc", "rrcs", "cpy", "re", "nop")
SENDS, RECEIVES = ("s", "rcs", "rrs", "rrcs"), ("r", "rcs", "rrs", "rrc", "rrcs")
READS, WRITES = ("s", "rrs", "rrc", "rrcs", "cpy", "re"), ("r", "rcs", "rrc", "rrcs", "cpy", "re")
LARGEST = 64 << 20  # bytes of a file
MOST = 20  # faults that are told


class Step(NamedTuple):
    """A step: ``src`` and ``dst`` are (buffer, first unit); ``after`` is (thread block, step), None for none."""

    kind: str
    src: tuple[str, int]
    dst: tuple[str, int]
    count: int
    after: tuple[int, int] | None
    awaited: bool


class Block(NamedTuple):
    """A thread block: peers are -1 for none."""

    send: int
    recv: int
    channel: int
    steps: list[Step]


class Gpu(NamedTuple):
    """A rank: units of its buffers, and its thread blocks."""

    chunks: dict[str, int]
    blocks: list[Block]


class Algorithm(NamedTuple):
    """What a file says; ``chunks`` is nchunksperloop."""

    name: str
    collective: str
    chunks: int
    inplace: bool
    gpus: list[Gpu]


def parse(path: str | os.PathLike[str]) -> Algorithm:
    """The program of an MSCCL XML file that the runtime would take.

    Raises:
        SpecError: the file is none, or breaks a rule; every fault is told, up to twenty.
    """
    try:
        if Path(path).stat().st_size > LARGEST:
            raise SpecError([Fault("msccl", str(path)[-160:], f"is larger than {LARGEST} bytes")])
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise SpecError([Fault("msccl", str(path)[-160:], f"cannot be read: {error.strerror or error}")]) from None
    except (ElementTree.ParseError, ValueError) as error:
        raise SpecError([Fault("msccl", str(path)[-160:], f"is no XML: {str(error)[:100]}")]) from None
    return _Parser(str(path)[-160:]).algorithm(root)


class _Parser:
    def __init__(self, where: str) -> None:
        self.where = where
        self.faults: list[Fault] = []

    def rule(self, fine: bool, name: str, value: object, text: str) -> bool:
        if not fine and len(self.faults) < MOST:
            self.faults.append(Fault(name, str(value)[:60], text, self.where))
        return fine

    def whole(self, element: ElementTree.Element, key: str, name: str, low: int, high: int) -> int:
        text = element.get(key)
        try:
            number = int(text or "")
        except ValueError:
            self.rule(False, f"{name}.{key}", text, "must be a whole number")
            return low
        self.rule(low <= number <= high, f"{name}.{key}", number, f"must be {low} to {high}")
        return min(max(number, low), high)

    def algorithm(self, root: ElementTree.Element) -> Algorithm:
        self.rule(root.tag == "algo", "root", root.tag, "must be <algo>")
        names = {name: key for key, name in COLLECTIVES.items()}
        kind = root.get("coll", "")
        self.rule(kind in names, "algo.coll", kind, f"must be one of {', '.join(names)}")
        self.rule(root.get("proto") in PROTOCOLS, "algo.proto", root.get("proto"), f"must be {', '.join(PROTOCOLS)}")
        self.rule(root.get("name") is not None, "algo.name", "", "must be there")
        n = self.whole(root, "ngpus", "algo", 1, 1 << 16)
        chunks = self.whole(root, "nchunksperloop", "algo", 1, 1 << 24)
        channels = self.whole(root, "nchannels", "algo", 1, CHANNELS)
        inplace = self.whole(root, "inplace", "algo", 0, 1) == 1
        least = self.whole(root, "minBytes", "algo", 0, (1 << 63) - 1) if "minBytes" in root.attrib else 0
        if "maxBytes" in root.attrib:
            self.whole(root, "maxBytes", "algo", least, (1 << 63) - 1)
        if "nthreads" in root.attrib:
            threads = self.whole(root, "nthreads", "algo", 0, 1024)
            self.rule(threads % 32 == 0, "algo.nthreads", threads, "must be a multiple of 32")
        found = {}
        for element in root.iter("gpu"):
            number = self.whole(element, "id", "gpu", 0, n - 1)
            self.rule(number not in found, "gpu.id", number, "is there twice")
            found[number] = element
        self.rule(len(found) == n, "gpu", len(found), f"must be {n}, as ngpus says")
        self.stop()
        kind = names[kind]
        gpus = [self.gpu(found[r], r, n, kind, chunks, channels) for r in range(n)]
        self.stop()
        return Algorithm(root.get("name", ""), kind, chunks, inplace, gpus)

    def stop(self) -> None:
        if self.faults:
            raise SpecError(self.faults)

    def gpu(self, element: ElementTree.Element, r: int, n: int, kind: str, chunks: int, channels: int) -> Gpu:
        size = {b: self.whole(element, f"{b}_chunks", f"gpu {r}", 0, 1 << 24) for b in "ios"}
        for buffer, times in (("i", n if kind == "all_gather" else 1), ("o", n if kind == "reduce_scatter" else 1)):
            fine = size[buffer] == 0 or size[buffer] * times == chunks
            self.rule(fine, f"gpu {r}.{buffer}_chunks", size[buffer], f"times {times} must be nchunksperloop, {chunks}")
        blocks: dict[int, Block] = {}
        for tb in element.iter("tb"):
            number = self.whole(tb, "id", f"gpu {r} tb", 0, BLOCKS - 1)
            self.rule(number not in blocks, f"gpu {r} tb", number, "is there twice")
            blocks[number] = self.block(tb, f"gpu {r} tb {number}", r, n, channels, size)
        self.rule(sorted(blocks) == list(range(len(blocks))), f"gpu {r} tb", "", "numbers must have no gaps")
        self.stop()
        made = [blocks[t] for t in range(len(blocks))]
        for end in ("send", "recv"):
            pairs = Counter((getattr(b, end), b.channel) for b in made if getattr(b, end) >= 0)
            for (peer, channel), count in pairs.items():
                rule = f"{end}s with GPU {peer} on channel {channel} from one thread block only"
                self.rule(count == 1, f"gpu {r}", f"{count} thread blocks", rule)
            for channel, count in Counter(channel for _, channel in pairs).items():
                self.rule(count <= PEERS, f"gpu {r} channel {channel}", count, f"{end}s with at most {PEERS} GPUs")
        for t, block in enumerate(made):
            for s, step in enumerate(block.steps):
                self.dependence(made, f"gpu {r} tb {t} step {s}", t, s, step)
        return Gpu(size, made)

    def dependence(self, blocks: list[Block], name: str, t: int, s: int, step: Step) -> None:
        if step.after is not None:
            on, at = step.after
            there = on < len(blocks) and 0 <= at < len(blocks[on].steps)
            if self.rule(there, f"{name}.depid", f"{on}, {at}", "must be a step of this GPU"):
                fine = blocks[on].steps[at].awaited
                self.rule(fine, f"{name}.deps", f"{on}, {at}", "must be a step with hasdep=1")
                self.rule(on != t or at < s, f"{name}.deps", at, "must come before it in its own thread block")
        if step.kind == "nop":
            follow = blocks[t].steps[s + 1] if s + 1 < len(blocks[t].steps) else None
            fine = follow is not None and follow.after is not None
            self.rule(fine, name, "nop", "must be followed by a step with a dependence of its own")

    def block(self, tb: ElementTree.Element, name: str, r: int, n: int, channels: int, size: dict[str, int]) -> Block:
        send, recv = (self.whole(tb, key, name, -1, n - 1) for key in ("send", "recv"))
        for peer in (send, recv):
            self.rule(peer != r, f"{name}.peer", peer, "must be another GPU")
        channel = self.whole(tb, "chan", name, 0, channels - 1)
        steps: list[Step] = []
        for element in tb.iter("step"):
            label = f"{name} step {len(steps)}"
            number = self.whole(element, "s", label, 0, STEPS - 1)
            self.rule(number == len(steps), f"{label}.s", number, "steps must be numbered in order from 0")
            steps.append(self.step(element, label, send, recv, size))
        return Block(send, recv, channel, steps)

    def step(self, element: ElementTree.Element, name: str, send: int, recv: int, size: dict[str, int]) -> Step:
        kind = element.get("type", "")
        self.rule(kind in KINDS, f"{name}.type", kind, f"must be one of {', '.join(KINDS)}")
        self.rule(kind not in SENDS or send >= 0, f"{name}.type", kind, "needs a thread block with a send peer")
        self.rule(kind not in RECEIVES or recv >= 0, f"{name}.type", kind, "needs a thread block with a recv peer")
        count = self.whole(element, "cnt", name, 0 if kind == "nop" else 1, COUNT)
        ends = []
        for end, used in (("src", kind in READS), ("dst", kind in WRITES)):
            buffer = element.get(f"{end}buf", "")
            known = self.rule(buffer in size, f"{name}.{end}buf", buffer, "must be i, o or s")
            first = self.whole(element, f"{end}off", name, -1 if not used else 0, 1 << 24)
            if used and known:
                fine = first + count <= size[buffer]
                rule = f"must end within the {size[buffer]} units of its buffer"
                self.rule(fine, f"{name}.{end}off", f"{first} + {count}", rule)
            ends.append((buffer, first))
        on = self.whole(element, "depid", name, -1, BLOCKS - 1)
        at = self.whole(element, "deps", name, -1, STEPS - 1)
        awaited = self.whole(element, "hasdep", name, 0, 1) == 1
        return Step(kind, ends[0], ends[1], count, None if on < 0 else (on, at), awaited)
