"""The profiler's trace (Kineto): when operators ran and on which thread, kernels on streams, and synchronization."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dse.errors import Fault, SpecError
from dse.trace.convert.reading import integer, read_json

HOST = ("cpu_op", "user_annotation", "cpu_instant_event", "python_function")
RUNTIME = ("cuda_runtime", "cuda_driver", "hip_runtime", "privateuse1_runtime", "runtime")
DEVICE = ("kernel", "gpu_memcpy", "gpu_memset", "concurrent_kernel", "privateuse1_kernel")
LATEST = 1e16  # microseconds: three centuries
BLOCKING = ("DeviceSynchronize", "StreamSynchronize", "EventSynchronize", "CtxSynchronize")


@dataclass(slots=True, eq=False)
class Event:
    """Something that took time: ``start`` and ``duration`` in microseconds of the profiler's clock."""

    name: str
    start: float
    duration: float
    thread: tuple[str, str]
    args: dict[str, Any]
    self_time: float = 0.0

    @property
    def end(self) -> float:
        return self.start + self.duration

    def number(self, name: str) -> int:
        """An integer argument; -1 where absent."""
        return integer(self.args.get(name, -1))


@dataclass(slots=True)
class Profile:
    """The events of one process, sorted by start.

    Attributes:
        host: by record function (older profilers: external id), the calls of operators.
        runtime: calls of the device's runtime by correlation.
        kernels: what ran on a device: kernels, copies, memory sets.
        syncs: synchronization that the profiler recorded (only if it was asked to).
        info: rank, world size and process groups, where the profiler wrote them.
        issued: the collectives as they were issued, [name, group, sizes], where :func:`dse.trace.record` wrote them.
    """

    host: dict[int, Event] = field(default_factory=dict)
    runtime: dict[int, Event] = field(default_factory=dict)
    kernels: list[Event] = field(default_factory=list)
    syncs: list[Event] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    issued: list[list[Any]] = field(default_factory=list)
    external: dict[int, Event] = field(default_factory=dict)

    @property
    def start(self) -> float:
        """When the first event starts, in microseconds; 0 without events."""
        times = [event.start for event in (*self.host.values(), *self.kernels)]
        return min(times, default=0.0)

    def launch(self, kernel: Event) -> Event | None:
        """The call of the runtime that launched a kernel."""
        return self.runtime.get(kernel.number("correlation"))


def read_kineto(path: Path | None) -> Profile:
    """Read a profiler's trace; without a path an empty one.

    Raises:
        SpecError: the file cannot be read, or an event lacks what every event has.
    """
    out = Profile()
    if path is None:
        return out
    found = read_json(path, "profiler trace")
    where = str(path)[-200:]
    events = found.get("traceEvents")
    if not isinstance(events, list):
        raise SpecError([Fault("traceEvents", "", "must be a list: not a trace of PyTorch's profiler", where)])
    info = found.get("distributedInfo")
    out.info = info if isinstance(info, dict) else {}
    issued = found.get("dse.collectives")
    out.issued = (
        [item for item in issued if isinstance(item, list) and len(item) > 1] if isinstance(issued, list) else []
    )
    host: list[Event] = []
    for place, raw in enumerate(events):
        if not isinstance(raw, dict) or raw.get("ph") != "X":
            continue
        try:
            args = raw.get("args")
            times = (float(raw["ts"]), max(float(raw.get("dur", 0.0)), 0.0))
            if not max(map(abs, times)) < LATEST:
                raise ValueError(f"times must be below {LATEST:g} microseconds")
            thread = (str(raw.get("pid")), str(raw.get("tid")))
            event = Event(str(raw.get("name", "")), *times, thread, args if isinstance(args, dict) else {})
            _place(out, host, event, str(raw.get("cat", "")).lower())
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            rule = f"an event needs ts and dur in microseconds: {error!r}"[:200]
            raise SpecError([Fault(f"traceEvents[{place}]", repr(raw)[:60], rule, where)]) from None
    _finish(out, host)
    return out


def _place(out: Profile, host: list[Event], event: Event, category: str) -> None:
    if category in HOST:
        host.append(event)
    elif category in RUNTIME:
        out.runtime[event.number("correlation")] = event
    elif category in DEVICE:
        out.kernels.append(event)
    elif category == "cuda_sync":
        out.syncs.append(event)


def _finish(out: Profile, host: list[Event]) -> None:
    """Link calls by their numbers, and take the time of what was called inside from that of the caller."""
    host.sort(key=lambda event: (event.start, -event.duration))
    key = "Record function id" if any("Record function id" in event.args for event in host) else "External id"
    for event in host:
        out.external.setdefault(event.number("External id"), event)
        if event.number(key) >= 0 and not (key == "Record function id" and event.number(key) == 0):
            out.host.setdefault(event.number(key), event)
    linked = set(map(id, out.host.values()))
    stacks: dict[Any, list[Event]] = {}
    for event in host:
        if id(event) not in linked:
            continue
        event.self_time = event.duration
        stack = stacks.setdefault(event.thread, [])
        while stack and stack[-1].end <= event.start:
            stack.pop()
        if stack:
            inside = max(min(event.end, stack[-1].end) - event.start, 0.0)
            stack[-1].self_time = max(stack[-1].self_time - inside, 0.0)
        stack.append(event)
    out.kernels.sort(key=lambda event: event.start)
    out.syncs.sort(key=lambda event: event.start)
