"""From an MSCCL XML file back to a schedule: what its steps move, and when on the links of a network."""

from __future__ import annotations

import heapq
import os
from collections import defaultdict, deque
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dse.collective.formats.moves import fault
from dse.collective.formats.msccl_rules import READS, RECEIVES, SENDS, WRITES, Algorithm, Step, parse
from dse.collective.routing import routes
from dse.collective.schedule import EVERYONE, Chunks, Schedule, whole_chunks
from dse.collective.topology import Ints, Topology

Place = tuple[str, int]


class _Value(NamedTuple):
    """What a unit of a buffer holds: which chunk, whose contributions (a bit each), and the messages they came with.

    ``load``: the message and its unit that it is, unchanged; None for what is a sum, or has not come.
    """

    chunk: int
    of: int
    came: tuple[int, ...]
    load: tuple[int, int] | None = None


class _Message(NamedTuple):
    """What a step sends; ``after``: messages that must have arrived; ``along``: that must have set out.

    Of each unit: ``add``: whether the receiver adds it; ``passes``: the message and its unit that it passes on.
    """

    src: int
    dst: int
    units: list[_Value]
    after: set[int]
    along: set[int]
    add: list[bool]
    passes: list[tuple[int, int] | None]


def read(
    path: str | os.PathLike[str],
    topology: Topology,
    nbytes: float,
    *,
    members: ArrayLike | None = None,
    root: int | None = None,
) -> Schedule:
    """The schedule that an MSCCL XML file makes on a network.

    The steps are carried out with sets of contributions; every send is a message over the shortest path, and goes as
    soon as its data is there and its links are free, in the order of the steps. Each unit is a chunk.

    Args:
        path: the file.
        topology: the network; GPU r is the r-th member.
        nbytes: result of an all-gather; each NPU's input otherwise.
        members: NPUs that take part; None: all.
        root: of a broadcast or reduce; None: the GPU that receives (or sends) nothing.

    Raises:
        SpecError: the file breaks a rule of the format, waits for ever, sends what is not there, or keeps sums of one
            chunk apart as a schedule cannot.
    """
    from dse.collective.verifier import verify

    algorithm = parse(path)
    who = topology.members if members is None else np.unique(np.asarray(members, np.int64))
    if len(who) != len(algorithm.gpus):
        raise fault("members", len(who), f"must be {len(algorithm.gpus)}, as the file has GPUs")
    run = _Run(algorithm, root if root is None else int(np.searchsorted(who, root)))
    messages = run.messages()
    made = _schedule(algorithm, topology, float(nbytes), who, run.root, messages)
    report = verify(made)
    if not report.valid:
        rule = "the program is no schedule: it loses data, or keeps sums of a chunk apart"
        raise fault("msccl", report.faults[0], rule)
    return made


class _Run:
    """The steps of all GPUs, carried out on sets of contributions."""

    def __init__(self, algorithm: Algorithm, root: int | None) -> None:
        self.algorithm, self.n = algorithm, len(algorithm.gpus)
        self.shard = algorithm.chunks // self.n
        self.root = self._root() if root is None else root
        self.held: list[dict[Place, _Value]] = [self._given(r) for r in range(self.n)]
        self.sent: list[_Message] = []
        self.whole = {(value.chunk, r): value.of for r, held in enumerate(self.held) for value in held.values()}
        self.log: list[tuple[int, int]] = []  # message, and at which rank: its source or its destination
        self.sends: dict[tuple[int, int], list[int]] = defaultdict(list)  # messages that carry a load on
        self.added: set[tuple[int, int]] = set()  # loads that are part of sums

    def _root(self) -> int | None:
        """Who alone reads its input (broadcast) or writes its output (reduce); else who receives or sends nothing."""
        kind = self.algorithm.collective
        if kind not in ("broadcast", "reduce"):
            return None
        steps = [[step for block in gpu.blocks for step in block.steps] for gpu in self.algorithm.gpus]
        ends = [r for r, own in enumerate(steps) if any(_ends(step, kind) for step in own)]
        kinds = RECEIVES if kind == "broadcast" else SENDS
        idle = [r for r, own in enumerate(steps) if not any(step.kind in kinds for step in own)]
        for found in (ends, idle):
            if len(found) == 1:
                return found[0]
        raise fault("root", len(idle), "must be given: not just one GPU could be it")

    def _given(self, r: int) -> dict[Place, _Value]:
        """What a GPU's input holds at first."""
        kind, size = self.algorithm.collective, self.algorithm.chunks
        if kind == "all_gather":
            return {self._place(r, "i", k): _Value(r * self.shard + k, 1 << r, ()) for k in range(self.shard)}
        if kind == "broadcast" and r != self.root:
            return {}
        if kind == "all_to_all":
            wide = self.shard
            return {
                self._place(r, "i", k): _Value((r * self.n + k // wide) * wide + k % wide, 1 << r, ())
                for k in range(size)
            }
        return {self._place(r, "i", k): _Value(k, 1 << r, ()) for k in range(size)}

    def _place(self, r: int, buffer: str, k: int) -> Place:
        """In place the output is (a part of) the input, or the other way round."""
        if self.algorithm.inplace:
            kind = self.algorithm.collective
            if buffer == "i" and kind == "all_gather":
                return "o", r * self.shard + k
            if buffer == "o" and kind != "all_gather":
                return "i", k + (r * self.shard if kind == "reduce_scatter" else 0)
        return buffer, k

    def messages(self) -> list[_Message]:
        """Every send, in an order in which they can be sent."""
        gpus = self.algorithm.gpus
        done = [[0] * len(gpu.blocks) for gpu in gpus]
        line: dict[tuple[int, int, int], deque[int]] = defaultdict(deque)
        waits: dict[tuple, list[tuple[int, int]]] = defaultdict(list)  # type: ignore[type-arg]
        ready = deque((r, t) for r, gpu in enumerate(gpus) for t in range(len(gpu.blocks)))
        last: dict[tuple[int, int], int] = {}
        while ready:
            r, t = ready.popleft()
            block = gpus[r].blocks[t]
            while done[r][t] < len(block.steps):
                s = done[r][t]
                step = block.steps[s]
                if step.after is not None and done[r][step.after[0]] <= step.after[1]:
                    waits[r, step.after[0]].append((r, t))
                    break
                way = (block.recv, r, block.channel)
                if step.kind in RECEIVES and not line[way]:
                    waits[way].append((r, t))
                    break
                come = line[way].popleft() if step.kind in RECEIVES else -1
                out = self._step(r, step, come)
                if step.kind in SENDS:
                    number = self._send(r, block.send, out, last.get((r, t)))
                    last[r, t] = number
                    line[r, block.send, block.channel].append(number)
                    ready.extend(waits.pop((r, block.send, block.channel), ()))
                done[r][t] += 1
                ready.extend(waits.pop((r, t), ()))
        for r, gpu in enumerate(gpus):
            for t, block in enumerate(gpu.blocks):
                if done[r][t] < len(block.steps):
                    raise fault(f"gpu {r} tb {t} step {done[r][t]}", "", "waits for ever")
        if any(line.values()):
            raise fault("msccl", "", "sends what nobody receives")
        self._settle(self._results())
        return self.sent

    def _settle(self, kept: set[tuple[int, int]]) -> None:
        """What each arrival does to the one value of a chunk that a node of a schedule holds.

        A load that is no part of a sum or a result, and is sent on once, is passed on and leaves that value alone.
        """
        passed = {load for load, sends in self.sends.items() if len(sends) == 1} - kept - self.added
        reads: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, r in self.log:
            message = self.sent[number]
            for k, value in enumerate(message.units):
                key = value.chunk, r
                if r == message.src:
                    on = value.load if value.load in passed else None
                    message.passes.append(on)
                    if on is None:
                        reads[key].append(number)
                elif (number, k) in passed:
                    message.add.append(False)
                else:
                    old = self.whole.get(key, 0)
                    add = bool(old) and not old & value.of
                    message.add.append(add)
                    self.whole[key] = old | value.of if add else value.of
                    message.along.update(m for m in reads.pop(key, ()) if m < number)

    def _results(self) -> set[tuple[int, int]]:
        """Check that every GPU's output is what the collective owes it; the loads that are in outputs."""
        kept = set()
        kind, wide, n = self.algorithm.collective, self.shard, self.n
        every = (1 << n) - 1
        for r in range(n):
            for k in range(wide if kind == "reduce_scatter" else self.algorithm.chunks):
                chunk, of = k, every
                if kind == "all_gather":
                    of = 1 << k // wide
                elif kind == "reduce_scatter":
                    chunk = r * wide + k
                elif kind == "all_to_all":
                    chunk, of = (k // wide * n + r) * wide + k % wide, 1 << k // wide
                elif kind == "broadcast":
                    of = 1 << (self.root or 0)
                found = self.held[r].get(self._place(r, "o", k))
                if (kind != "reduce" or r == self.root) and (found is None or (found.chunk, found.of) != (chunk, of)):
                    raise fault(f"gpu {r}", f"output {k}", f"does not end with what the {kind} owes it")
                if found is not None and found.load is not None:
                    kept.add(found.load)
        return kept

    def _step(self, r: int, step: Step, come: int) -> list[_Value]:
        """Carry out a step; returns what it has to send."""
        got: list[_Value] = []
        if come >= 0:
            message = self.sent[come]
            if len(message.units) != step.count:
                raise fault(f"gpu {r}", step.count, f"receives units where {len(message.units)} are sent")
            self.log.append((come, r))
            got = [value._replace(came=(come,), load=(come, k)) for k, value in enumerate(message.units)]
        if step.kind in ("s", "cpy", "re", "rrs", "rrc", "rrcs"):
            own = [self._get(r, step.src, k) for k in range(step.count)]
            got = own if come < 0 else [self._sum(a, b) for a, b in zip(got, own, strict=True)]
        if step.kind == "re":
            got = [self._sum(a, self._get(r, step.dst, k)) for k, a in enumerate(got)]
        if step.kind in ("r", "rcs", "rrc", "rrcs", "cpy", "re"):
            for k, value in enumerate(got):
                self.held[r][self._place(r, step.dst[0], step.dst[1] + k)] = value
        return got

    def _get(self, r: int, start: Place, k: int) -> _Value:
        found = self.held[r].get(self._place(r, start[0], start[1] + k))
        if found is None:
            raise fault(f"gpu {r}", f"{start[0]} {start[1] + k}", "is read before anything is there")
        return found

    def _send(self, r: int, peer: int, units: list[_Value], before: int | None) -> int:
        number = len(self.sent)
        after = {m for value in units for m in value.came}
        self.sent.append(_Message(r, peer, units, after, set() if before is None else {before}, [], []))
        self.log.append((number, r))
        for value in units:
            if value.load is not None:
                self.sends[value.load].append(number)
        return number

    def _sum(self, a: _Value, b: _Value) -> _Value:
        if a.chunk != b.chunk:
            raise fault("msccl", "", f"adds units of different places, {a.chunk} and {b.chunk}")
        self.added.update(value.load for value in (a, b) if value.load is not None)
        return _Value(a.chunk, a.of | b.of, tuple(sorted({*a.came, *b.came})))


def _ends(step: Step, collective: str) -> bool:
    """Whether only the root would have such a step."""
    if collective == "broadcast":
        return step.kind in READS and step.src[0] == "i"
    return step.kind in WRITES and step.dst[0] == "o"


def _schedule(
    algorithm: Algorithm, topology: Topology, nbytes: float, who: Ints, root: int | None, messages: list[_Message]
) -> Schedule:
    unit = nbytes / algorithm.chunks
    src, dst = (np.array([getattr(m, end) for m in messages], np.int64) for end in ("src", "dst"))
    size = np.array([len(m.units) * unit for m in messages])
    paths = routes(topology, float(size.mean()) if len(size) else unit, who[src], who[dst], load=size)
    start, end = _times(topology, messages, paths.ptr.tolist(), paths.link.tolist(), size.tolist())
    rows: list[tuple[int, int, int, bool, int]] = []  # chunk, link, hop, reduce, passes
    came: dict[tuple[int, int], int] = {}  # the transfer that each unit of a message arrives with
    for i, message in enumerate(messages):
        hops = range(int(paths.ptr[i]), int(paths.ptr[i + 1]))
        for hop in hops:
            for value, add, passes in zip(message.units, message.add, message.passes, strict=True):
                on = len(rows) - len(message.units) if hop > hops[0] else -1 if passes is None else came[passes]
                rows.append((value.chunk, int(paths.link[hop]), hop, add and hop == hops[-1], on))
        last = len(rows) - len(message.units)
        came |= {(i, k): last + k for k in range(len(message.units))}
    columns = np.array(rows, np.int64).reshape(-1, 5)
    hop = columns[:, 2]
    relayed = (columns[:, 4] >= 0).any()
    several = any(len(message.units) > 1 for message in messages)
    return Schedule(
        topology, algorithm.collective, nbytes, who, _chunks(algorithm, nbytes, who, root),
        columns[:, 0].astype(np.int32), columns[:, 1].astype(np.int32), start[hop], end[hop], columns[:, 3] > 0,
        root=None if root is None else int(who[root]), message=hop.astype(np.int32) if several else None,
        algorithm=algorithm.name, passes=columns[:, 4].astype(np.int32) if relayed else None,
    )  # fmt: skip


def _chunks(algorithm: Algorithm, nbytes: float, who: Ints, root: int | None) -> Chunks:
    """A chunk for each unit; of an all-to-all also for what stays where it is."""
    n, kind = len(who), algorithm.collective
    if kind == "all_to_all":
        wide = algorithm.chunks // n
        s, t, p = (a.ravel() for a in np.meshgrid(np.arange(n), np.arange(n), np.arange(wide), indexing="ij"))
        unit = nbytes / algorithm.chunks
        return Chunks((s * wide + p) * unit, np.full(len(s), unit), who[s], who[t])
    sharded = kind in ("all_reduce", "all_gather", "reduce_scatter") and algorithm.chunks % n == 0
    if sharded or kind in ("broadcast", "reduce"):
        pieces = algorithm.chunks // n if sharded else algorithm.chunks
        return whole_chunks(kind, nbytes, who, pieces, None if root is None else int(who[root]))
    offset = np.arange(algorithm.chunks) * (nbytes / algorithm.chunks)
    every = np.full(algorithm.chunks, EVERYONE)
    return Chunks(offset, np.full(algorithm.chunks, nbytes / algorithm.chunks), every, every)


def _times(
    topology: Topology, messages: list[_Message], ptr: list[int], link: list[int], size: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of every hop: a free link takes the ready message that was sent first."""
    start, end = np.zeros(len(link)), np.zeros(len(link))
    left = [len(m.after) + len(m.along) for m in messages]
    follows: dict[tuple[int, bool], list[int]] = defaultdict(list)  # by a message's end (True) or start
    for i, message in enumerate(messages):
        for ended, before in ((True, message.after), (False, message.along)):
            for j in before:
                follows[j, ended].append(i)
    waiting: dict[int, list[tuple[int, int]]] = defaultdict(list)
    busy = [False] * topology.links
    running: list[tuple[float, int, int]] = []
    fresh = [(i, ptr[i]) for i in range(len(messages)) if left[i] == 0]
    now = 0.0

    def released(i: int, ended: bool) -> None:
        for j in follows.get((i, ended), ()):
            left[j] -= 1
            if left[j] == 0:
                fresh.append((j, ptr[j]))

    while True:
        touched = set()
        while fresh or touched:
            for i, hop in fresh:
                heapq.heappush(waiting[link[hop]], (i, hop))
                touched.add(link[hop])
            fresh.clear()
            e = touched.pop()
            if busy[e] or not waiting[e]:
                continue
            i, hop = heapq.heappop(waiting[e])
            busy[e] = True
            start[hop] = now
            end[hop] = now + topology.latency[e] + size[i] / topology.bandwidth[e]
            heapq.heappush(running, (float(end[hop]), i, hop))
            if hop == ptr[i]:
                released(i, False)
        if not running:
            return start, end
        now = running[0][0]
        while running and running[0][0] <= now:
            _, i, hop = heapq.heappop(running)
            busy[link[hop]] = False
            if hop + 1 < ptr[i + 1]:
                fresh.append((i, hop + 1))
            else:
                released(i, True)
            # The link itself may have others waiting.
            if waiting[link[hop]]:
                j = heapq.heappop(waiting[link[hop]])
                fresh.append(j)
