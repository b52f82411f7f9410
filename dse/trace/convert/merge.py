"""Host operators and device events of one rank, joined into nodes with dependences."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dse.trace.convert import comm, operators
from dse.trace.convert.host import NUMBERS, HostOp, HostTrace
from dse.trace.convert.kineto import BLOCKING, Event, Profile
from dse.trace.convert.reading import WIDEST
from dse.trace.convert.writers import Writers
from dse.trace.schema import Attribute, IOInfo, Kind, Metadata, Node

BACKWARD = 1  # scope of the functions of the backward pass
Stream = tuple[str, int]  # device and number
SKEW = 1.0  # microseconds by which clocks of host and device may differ


@dataclass(slots=True)
class Merged:
    """One rank's nodes, and the groups it knows by label."""

    rank: int
    world: int
    metadata: Metadata
    nodes: list[Node]
    groups: Mapping[str, Sequence[int]]


@dataclass(slots=True, eq=False)
class Item:
    """A node in the making; dependences are places in the list of all items."""

    name: str
    start: float  # microseconds; items are put in this order
    micros: float
    op: HostOp | None = None
    event: Event | None = None
    comm: comm.Comm | None = None
    device: bool = False
    flops: float = 0.0
    bytes: float = 0.0
    caller: int = -1
    call: HostOp | None = None  # the c10d operator that asked for this communication
    data: set[int] = field(default_factory=set)
    ctrl: set[int] = field(default_factory=set)


def merge(host: HostTrace, profile: Profile, rank: int, world: int, groups: Mapping[str, Sequence[int]]) -> Merged:
    """Join a host trace with its profile (which may be empty)."""
    work = _Work(host, profile, groups)
    work.host_items()
    work.kernel_items()
    work.communication()
    work.host_order()
    work.stream_order()
    work.waits()
    work.tensors()
    work.amounts()
    nodes = _nodes(work.items, rank, profile.start, bool(profile.kernels))
    if groups:
        nodes.insert(0, _groups_node(groups))
    names = ("pid", "time", "start_ts", "finish_ts")
    head = [Attribute(name, "string", str(host.head[name])) for name in names if name in host.head]
    metadata = Metadata("1.0.0", [Attribute("schema", "string", host.schema), *head])
    return Merged(rank, world, metadata, nodes, groups)


class _Work:
    """The items of one rank while they are joined."""

    def __init__(self, host: HostTrace, profile: Profile, groups: Mapping[str, Sequence[int]]) -> None:
        self.host, self.profile, self.groups = host, profile, groups
        self.items: list[Item] = []
        self.by_id: dict[int, int] = {}  # item of a host node
        self.by_rf: dict[int, int] = {}
        self.kernels: list[int] = []
        self.launches: dict[int, list[int]] = {}  # kernels of an operator
        self.records = {op.parent: op for op in host.ops if op.name == comm.RECORD}
        self.threads: dict[Any, list[tuple[float, int]]] = {}  # start and item of the operators of a thread
        self.streams: dict[Stream, tuple[list[int], list[float]]] = {}  # kernels of a stream, when they were launched
        self.blocking: dict[int, int] = {}  # call -> the communication that it waits for

    def host_items(self) -> None:
        """An item for every operator, in the order in which they started."""
        now = self.profile.start
        for op in self.host.ops:
            event = self.profile.host.get(op.rf)
            now = event.start if event else now
            place = len(self.items)
            micros = event.self_time if event else 0.0
            self.items.append(Item(op.name, now, micros, op, event))
            self.by_id[op.id], self.by_rf[op.rf] = place, place
        for place, item in enumerate(self.items):
            caller = self.by_id.get(item.op.parent, -1)
            item.caller = caller if caller < place else -1  # who calls has started before
            if item.event:
                self.threads.setdefault(item.event.thread, []).append((item.start, place))
        for row in self.threads.values():
            row.sort()

    def kernel_items(self) -> None:
        """An item for everything that ran on a device, after the operator that launched it."""
        for event in self.profile.kernels:
            launch = self.profile.launch(event)
            owner = self._owner(event, launch)
            first = max(event.start, launch.start if launch else event.start)
            if owner >= 0:
                first = max(first, self.items[owner].start)
            place = len(self.items)
            self.items.append(Item(event.name, first, event.duration, None, event, device=True, caller=owner))
            self.kernels.append(place)
            if owner >= 0:
                self.items[place].data.add(owner)
                self.launches.setdefault(owner, []).append(place)

    def _owner(self, event: Event, launch: Event | None) -> int:
        """The operator that launched a kernel: by external id, or the innermost around the launch on its thread."""
        for source in (event, launch):
            called = (
                self.profile.external.get(source.number("External id"))
                if source and "External id" in source.args
                else None
            )
            if called is not None:
                place = next((self.by_rf[n] for n in _numbers(called) if n in self.by_rf), -1)
                if place >= 0:
                    return place
        return self._around(launch) if launch else -1

    def _around(self, call: Event) -> int:
        """The innermost operator that was running when a call of the runtime was made; -1 for none."""
        row = self.threads.get(call.thread, [])
        place = row[after - 1][1] if (after := bisect_right(row, (call.start, len(self.items)))) else -1
        while place >= 0:
            event = self.items[place].event
            if event and event.thread == call.thread and call.end <= event.end + SKEW:
                return place
            place = self.items[place].caller
        return -1

    def callers(self, place: int) -> list[HostOp]:
        """Who called, from the inside out."""
        out, seen = [], set()
        while place >= 0 and place not in seen:
            seen.add(place)
            if self.items[place].op is not None:
                out.append(self.items[place].op)
            place = self.items[place].caller
        return out

    def communication(self) -> None:
        """Say which items communicate: kernels if there are any, else backends' operators, else those of c10d."""
        calls = [item for item in self.items if item.op and item.name.startswith("c10d::") and comm.kind_of(item.name)]
        labels = comm.issued_groups([item.op for item in calls], self.profile.issued)
        only = next(iter(self.groups)) if len(self.groups) == 1 else ""
        found = False
        for place in self.kernels:
            event = self.items[place].event
            if comm.is_comm_kernel(event):
                callers = self.callers(self.items[place].caller)
                record = next((op for op in callers if op.name == comm.RECORD), None) or self._record_of(callers)
                self.items[place].comm = comm.of_kernel(event, callers, record, self.groups)
                self.items[place].call = next((op for op in callers if op.name.startswith("c10d::")), None)
                found = True
        if found:
            return
        free = [place for place, item in enumerate(self.items) if item.op and item.name.startswith(comm.BACKENDS)]
        for item in calls:
            place = self.by_rf[item.op.rf]
            runs = next((k for k in free if self._same(item, self.items[k])), place)
            if runs != place:
                free.remove(runs)
                self.items[runs].data.add(place)
            record = self._record_of([item.op])
            label = comm.of_record(record).get("Process Group Name", only) if record else labels.get(item.op.rf, only)
            self.items[runs].comm = comm.of_call(item.op, self.groups, label)
            self.items[runs].call = item.op
            if self.items[runs].comm.blocks and runs != place:
                self.blocking[place] = runs

    def _record_of(self, callers: Sequence[HostOp]) -> HostOp | None:
        """The record of a collective whose kernel was launched beside it: a child of the same c10d call."""
        top = next((op for op in callers if op.name.startswith("c10d::")), None)
        return self.records.get(top.id) if top else None

    def _same(self, call: Item, run: Item) -> bool:
        """Whether a backend's operator carries out a call: started later, does the same, with the same memory."""
        if comm.kind_of(call.name) != comm.kind_of(run.name) or run.op.rf < call.op.rf:
            return False
        mine, its = ({t.storage for t in item.op.inputs.tensors()} for item in (call, run))
        return not its or bool(mine & its)

    def thread(self, item: Item) -> Any:
        return item.event.thread if item.event else item.op.numbers["tid"]

    def host_order(self) -> None:
        """Each operator after the one before on its thread; the first of a thread after what was running elsewhere."""
        last: dict[Any, int] = {}
        forward: dict[tuple[int, int], int] = {}
        newest = -1
        rows = sorted(
            (k for k, item in enumerate(self.items) if item.op),
            key=lambda k: (self.items[k].start, self.items[k].op.rf),
        )
        for place in rows:
            item = self.items[place]
            thread, numbers = self.thread(item), item.op.numbers
            before = last.get(thread, -1)
            if item.caller >= 0:
                item.ctrl.add(item.caller)
            if before >= 0:
                item.ctrl.add(before)
                if before in self.blocking:
                    item.data.add(self.blocking[before])
            elif newest >= 0:
                item.data.add(newest)
            made = forward.get((numbers["fw_tid"], numbers["seq_id"]), -1)
            if numbers["scope"] == BACKWARD and made >= 0:
                item.data.add(made)
            elif numbers["scope"] != BACKWARD and numbers["seq_id"] >= 0:
                forward[numbers["tid"], numbers["seq_id"]] = place
            last[thread], newest = place, place

    def stream_order(self) -> None:
        """Each kernel after the one before on its stream, and after the events of other streams that it waits for."""
        for place in self.kernels:
            stream = _stream(self.items[place].event, "stream")
            row, launched = self.streams.setdefault(stream, ([], []))
            if row:
                self.items[place].ctrl.add(row[-1])
            launch = self.profile.launch(self.items[place].event)
            row.append(place)
            launched.append(max(launch.start if launch else self.items[place].start, launched[-1] if launched else 0.0))
        for sync in self.profile.syncs:
            if "stream wait" not in sync.name.lower():
                continue
            waited = self._recorded(sync)
            row, launched = self.streams.get(_stream(sync, "stream"), ([], []))
            after = bisect_left(launched, self._called(sync))
            if waited >= 0 and after < len(row):
                self.items[row[after]].data.add(waited)

    def _called(self, sync: Event) -> float:
        """When the host asked for a synchronization."""
        call = self.profile.runtime.get(sync.number("correlation"))
        return call.start if call else sync.start

    def _recorded(self, sync: Event) -> int:
        """The last kernel before the event that a synchronization waits for."""
        record = self.profile.runtime.get(sync.number("wait_on_cuda_event_record_corr_id"))
        when = record.start if record else self._called(sync)
        return self._last(_stream(sync, "wait_on_stream"), when)

    def _last(self, stream: Stream, when: float) -> int:
        """The last kernel of a stream that was launched before a time; -1 for none."""
        row, launched = self.streams.get(stream, ([], []))
        before = bisect_left(launched, when)
        return row[before - 1] if before else -1

    def waits(self) -> None:
        """What the host does after it waited depends on what it waited for; the wait is not the operator's own time."""
        said = {
            sync.number("correlation"): sync for sync in self.profile.syncs if "stream wait" not in sync.name.lower()
        }
        for correlation, call in self.profile.runtime.items():
            if not any(word in call.name for word in BLOCKING):
                continue
            inside = self._around(call)
            if inside >= 0:
                self.items[inside].micros = max(self.items[inside].micros - call.duration, 0.0)
            row = self.threads.get(call.thread, [])
            after = bisect_right(row, (call.start, len(self.items)))
            if after < len(row):
                self.items[row[after][1]].data |= self._waited(call, said.get(correlation))

    def _waited(self, call: Event, sync: Event | None) -> set[int]:
        """The kernels that a blocking call waited for; without the profiler's word those that were over by its end."""
        word = sync.name.lower() if sync else ""
        if sync and "event" in word:
            found = {self._recorded(sync)}
        elif sync and "stream" in word:
            found = {self._last(_stream(sync, "stream"), call.start)}
        else:
            found = {self._last(stream, call.start) for stream in self.streams}
            if not sync:
                found = {k for k in found if k >= 0 and self.items[k].event.end <= call.end + SKEW}
        return found - {-1}

    def tensors(self) -> None:
        """Who wrote what an operator takes: on a device the kernels, which the host does not wait for."""
        writers = Writers()
        rows = sorted((k for k, item in enumerate(self.items) if item.op), key=lambda k: self.items[k].op.rf)
        for place in rows:
            item = self.items[place]
            mine = self.launches.get(place, [])
            sources = writers.read(item.op.inputs.tensors())
            for node in mine:
                self.items[node].data |= {k for k in sources if self.items[k].device} - {node}
            if not mine:
                item.data |= {k for k in sources if not self.items[k].device} - {place}
            results = item.op.outputs.tensors()
            for done in (item, *(self.items[k] for k in mine)):
                if done.comm is not None:  # works in place, or into what its caller was given
                    asked = (item.op, done.call) if done.call else (item.op,)
                    results += [t for op in asked for part in (op.inputs, op.outputs) for t in part.tensors()]
            host_side = [tensor for tensor in results if tensor.device.startswith("cpu")]
            writers.write([tensor for tensor in results if not tensor.device.startswith("cpu")], mine)
            writers.write(host_side, mine or [place])

    def amounts(self) -> None:
        """Operations and bytes of the innermost operators, on their longest kernel where there is a device."""
        counted, inner = set(), set()
        for place in sorted(self.by_rf.values(), reverse=True):  # what was called comes before its caller
            item = self.items[place]
            flops, moved = operators.flops(item.op), operators.moved(item.op)
            mine = self.launches.get(place, [])
            if (flops and place not in counted) or (moved and place not in inner and (mine or not self.kernels)):
                to = max(mine, key=lambda k: self.items[k].micros, default=place)
                if self.items[to].comm is None:
                    self.items[to].flops, self.items[to].bytes = flops if place not in counted else 0.0, moved
            if flops or place in counted:
                counted.add(item.caller)
            if moved or place in inner:
                inner.add(item.caller)


def _stream(event: Event, name: str) -> Stream:
    return str(event.args.get("device", 0)), event.number(name)


def _numbers(event: Event) -> tuple[int, int]:
    return event.number("Record function id"), event.number("External id")


def _nodes(items: Sequence[Item], rank: int, begin: float, device: bool) -> list[Node]:
    """Items as nodes in the order of their start, numbered from 1; dependences only on earlier ones."""
    order = sorted(range(len(items)), key=lambda k: (items[k].start, items[k].device, k))
    number = {place: k + 1 for k, place in enumerate(order)}
    nodes = []
    for place in order:
        item, own = items[place], number[place]
        data = sorted({number[k] for k in item.data if number[k] < own})
        ctrl = sorted({number[k] for k in item.ctrl if number[k] < own} - set(data))
        kind = item.comm.kind if item.comm else Kind.COMP
        start = max(round(item.start - begin), 0)
        node = Node(own, item.name, int(kind), ctrl, data, start, round(item.micros))
        node.attrs = _attributes(item, rank, device)
        if item.op is not None:
            node.inputs, node.outputs = (
                IOInfo(str(v.values), str(v.shapes), str(v.types)) for v in (item.op.inputs, item.op.outputs)
            )
        nodes.append(node)
    return nodes


def _attributes(item: Item, rank: int, device: bool) -> list[Attribute]:
    """What the official converter writes too, and the exact time; communication; operations and bytes."""
    on_host = device and not item.device and item.comm is None
    out = [Attribute("is_cpu_op", "bool", on_host), Attribute("dse.seconds", "double", item.micros * 1e-6)]
    op = item.op
    if op is not None:
        out += [Attribute(name, "int64", op.numbers[name]) for name in NUMBERS]
        out.append(Attribute("op_schema", "string", op.schema))
    elif item.event is not None:
        out.append(Attribute("stream", "int64", item.event.number("stream")))
        out.append(Attribute("correlation", "int64", item.event.number("correlation")))
    if item.comm is not None:
        return out + _said(item.comm, rank)
    amounts = (("num_ops", item.flops), ("tensor_size", item.bytes))
    return out + [Attribute(name, "uint64", round(value)) for name, value in amounts if value]


def _said(what: comm.Comm, rank: int) -> list[Attribute]:
    out = [Attribute("comm_size", "int64", min(what.size, WIDEST))]
    if what.coll is not None:
        out.insert(0, Attribute("comm_type", "int64", int(what.coll)))
    else:
        ends = (rank, what.peer) if what.kind == Kind.SEND else (what.peer, rank)
        names = ("comm_src", "comm_dst", "comm_tag")
        out += [Attribute(name, "int64", value) for name, value in zip(names, (*ends, what.tag), strict=True)]
    return [*out, Attribute("pg_name", "string", what.group)] if what.group else out


def _groups_node(groups: Mapping[str, Sequence[int]]) -> Node:
    """The node that carries the process groups, as PyTorch's own does."""
    text = json.dumps([{"pg_name": label, "ranks": list(ranks)} for label, ranks in groups.items()])
    return Node(0, "## process_group:init ##", int(Kind.METADATA), inputs=IOInfo(str([text]), "[[]]", "['String']"))
