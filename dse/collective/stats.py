"""What a schedule makes of its links, and what its finish waits for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dse.collective.schedule import Schedule
from dse.collective.topology import Floats, Ints
from dse.jit import njit

if TYPE_CHECKING:
    import pandas as pd

BINS = 20
SHOWN = 12  # rows that people are shown
WHY = ("start", "data", "link", "idle")


class Messages(NamedTuple):
    """What travels on links, [messages] each; ``first`` is one of a message's transfers, ``chunks`` how many it has."""

    link: Ints
    start: Floats
    end: Floats
    bytes: Floats
    chunks: Ints
    first: Ints


class Chain(NamedTuple):
    """Transfers that explain the finish, the first one first, [steps] each.

    Attributes:
        transfer: its number.
        why: what it waited for, index into ``WHY``: nothing before it, the data that the one before it brought, the
            link that the one before it held, or neither: it could have started when the one before it ended.
        idle: seconds between the end of the one before it and its start.
    """

    transfer: Ints
    why: Ints
    idle: Floats


def messages(schedule: Schedule) -> Messages:
    """The messages of a schedule: a transfer each, or all that travel together over a link."""
    size = schedule.chunks.size[schedule.chunk]
    link = schedule.link.astype(np.int64)
    if schedule.message is None:
        alone = np.arange(schedule.transfers)
        return Messages(link, schedule.start, schedule.end, size, np.ones_like(alone), alone)
    key = schedule.message.astype(np.int64) * schedule.topology.links + link
    _, first, which, count = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    total = np.bincount(which, size, minlength=len(first))
    return Messages(link[first], schedule.start[first], schedule.end[first], total, count, first)


def utilization(schedule: Schedule, bins: int = BINS) -> Floats:
    """Share of each of ``bins`` equal stretches of time in which each link is busy, [links, bins]."""
    found = messages(schedule)
    return _busy(found.link, found.start, found.end, schedule.topology.links, schedule.time, bins)


def critical_path(schedule: Schedule) -> Chain:
    """The chain of transfers that explains the finish: from the last one back over what each one waited for.

    A transfer waits for the last arrival of its chunk at its source, or for the transfer before it on its link,
    whichever ended later.
    """
    if not schedule.transfers:
        return Chain(*(np.zeros(0, np.int64) for _ in range(2)), np.zeros(0))
    slack = 1e-9 * schedule.time
    span = (schedule.end - schedule.start).astype(float)
    at = schedule.start + np.minimum(slack, span / 2)
    place = schedule.chunk.astype(np.int64) * schedule.topology.nodes
    data = _latest(place + schedule.destination, schedule.end, place + schedule.source, at)
    link = _latest(schedule.link.astype(np.int64), schedule.end, schedule.link.astype(np.int64), at)
    if schedule.passes is not None:
        data = np.where(schedule.passes >= 0, schedule.passes, data)
    steps, why, idle = [], [], []
    i = int(np.argmax(schedule.end))
    while i >= 0:
        before, reason = -1, 0
        for j, kind in ((int(data[i]), 1), (int(link[i]), 2)):
            if j >= 0 and (before < 0 or schedule.end[j] > schedule.end[before]):
                before, reason = j, kind
        gap = float(schedule.start[i] - (schedule.end[before] if before >= 0 else 0.0))
        steps.append(i)
        why.append(3 if gap > slack else reason)
        idle.append(max(gap, 0.0))
        i = before
    return Chain(np.array(steps[::-1]), np.array(why[::-1]), np.array(idle[::-1]))


@dataclass(frozen=True, eq=False)
class Statistics:
    """Figures of a schedule; see :func:`statistics`.

    Attributes:
        schedule: whose they are.
        busy: share of the time each link is busy, [links].
        bytes: each link carries, [links].
        messages: each link carries, [links].
        wire: share of the time each link spends on bytes, latencies left out, [links].
    """

    schedule: Schedule
    busy: Floats
    bytes: Floats
    messages: Ints
    wire: Floats

    @cached_property
    def path(self) -> Chain:
        """What the finish waits for."""
        return critical_path(self.schedule)

    @cached_property
    def over_time(self) -> Floats:
        """Mean utilization of the links in each of ``BINS`` stretches of time."""
        used = utilization(self.schedule)
        return used.mean(0) if len(used) else np.zeros(BINS)

    def links(self) -> pd.DataFrame:
        """A row for each link, the busiest first: bytes, messages, busy and idle seconds, the longest gap."""
        import pandas as pd

        schedule, topology = self.schedule, self.schedule.topology
        seconds = self.busy * schedule.time
        frame = pd.DataFrame(
            {
                "link": np.arange(topology.links), "source": topology.src, "destination": topology.dst,
                "bandwidth": topology.bandwidth, "latency": topology.latency, "bytes": self.bytes,
                "messages": self.messages, "busy": self.busy, "busy_seconds": seconds,
                "idle_seconds": schedule.time - seconds, "longest_gap": gaps(schedule),
            }
        )  # fmt: skip
        return frame.sort_values("busy", ascending=False, kind="stable", ignore_index=True)

    def waits(self) -> pd.DataFrame:
        """A row for each step of the critical path: which transfer, when, and what it waited for."""
        import pandas as pd

        s, i = self.schedule, self.path.transfer
        return pd.DataFrame(
            {
                "transfer": i, "chunk": s.chunk[i], "source": s.source[i], "destination": s.destination[i],
                "start": s.start[i], "end": s.end[i], "why": [WHY[w] for w in self.path.why], "idle": self.path.idle,
            }
        )  # fmt: skip

    def chunks(self) -> pd.DataFrame:
        """A row for each chunk: when it sets out, when it has arrived for the last time, and its transfers."""
        import pandas as pd

        s = self.schedule
        count = len(s.chunks.size)
        first, last = np.full(count, np.inf), np.zeros(count)
        np.minimum.at(first, s.chunk, s.start)
        np.maximum.at(last, s.chunk, s.end)
        sent = np.bincount(s.chunk, minlength=count)
        columns = {"chunk": np.arange(count), **s.chunks._asdict(), "first_start": np.where(sent > 0, first, np.nan)}
        return pd.DataFrame({**columns, "last_end": np.where(sent > 0, last, np.nan), "transfers": sent})

    table = links

    def to_dict(self) -> dict[str, Any]:
        """Figures for JSON."""
        s, why = self.schedule, self.path.why
        path = s.end[self.path.transfer] - s.start[self.path.transfer]
        rows = self.links().head(SHOWN)
        return {
            "collective": s.collective,
            "algorithm": s.algorithm,
            "time_us": s.time * 1e6,
            "transfers": s.transfers,
            "messages": int(self.messages.sum()),
            "bytes": float(self.bytes.sum()),
            "mean_busy": float(self.busy.mean()) if len(self.busy) else 0.0,
            "max_busy": float(self.busy.max(initial=0.0)),
            "mean_wire": float(self.wire.mean()) if len(self.wire) else 0.0,
            "unused_links": int((self.messages == 0).sum()),
            "busy_over_time": self.over_time.tolist(),
            "critical_path": {
                "steps": len(why),
                "waits_for_data": int((why == 1).sum()),
                "waits_for_link": int((why == 2).sum()),
                "busy_us": float(path.sum()) * 1e6,
                "idle_us": float(self.path.idle.sum()) * 1e6,
            },
            "busiest_links": rows.to_dict("records"),
        }

    def __str__(self) -> str:
        found = self.to_dict()
        path = found["critical_path"]
        marks = "".join(" ▁▂▃▄▅▆▇█"[min(round(share * 8), 8)] for share in self.over_time)
        lines = [
            f"{self.schedule!r}",
            f"  links busy   {found['mean_busy']:.1%} on average, {found['max_busy']:.1%} the busiest; "
            f"{found['unused_links']} of {len(self.busy)} unused",
            f"  over time    |{marks}|",
            f"  messages     {found['messages']:,} of {found['bytes']:.4g} bytes in all",
            f"  finish       {path['steps']} transfers in a row: {path['waits_for_data']} waited for data, "
            f"{path['waits_for_link']} for their link, {path['idle_us']:.4g} us idle",
            f"  {'busiest links':<26}{'busy':>8}{'bytes':>14}{'messages':>10}{'longest gap us':>16}",
        ]
        for row in found["busiest_links"]:
            name = f"{row['link']}: {row['source']} to {row['destination']}"
            lines.append(
                f"  {name:<26}{row['busy']:>8.1%}{row['bytes']:>14,.4g}{row['messages']:>10,}"
                f"{row['longest_gap'] * 1e6:>16,.4g}"
            )
        return "\n".join(lines)


def statistics(schedule: Schedule) -> Statistics:
    """Use of the links; the critical path and the tables are worked out when asked for."""
    links, time = schedule.topology.links, schedule.time
    found = messages(schedule)
    total = np.bincount(found.link, found.bytes, minlength=links)
    seconds = np.bincount(found.link, found.end - found.start, minlength=links)
    share = 1 / time if time > 0 else 0.0
    wire = total / schedule.topology.bandwidth * share
    return Statistics(schedule, seconds * share, total, np.bincount(found.link, minlength=links), wire)


def gaps(schedule: Schedule) -> Floats:
    """The longest stretch of time that each link is idle, from 0 to the finish, [links]."""
    found = messages(schedule)
    order = np.lexsort((found.start, found.link))
    link, start, end = found.link[order], found.start[order], found.end[order]
    longest = np.full(schedule.topology.links, schedule.time)
    if not len(link):
        return longest
    new = np.append(True, link[1:] != link[:-1])
    longest[link[new]] = 0.0
    before = np.where(new, 0.0, np.append(0.0, end[:-1]))
    np.maximum.at(longest, link, start - before)
    last = np.append(new[1:], True)
    np.maximum.at(longest, link[last], schedule.time - end[last])
    return longest


@njit(cache=True)
def _busy(link, start, end, links, time, bins):
    """Share of each stretch of time that each link is busy, [links, bins]."""
    used = np.zeros((links, bins))
    if time <= 0:
        return used
    wide = time / bins
    for i in range(len(link)):
        low = min(int(start[i] / wide), bins - 1)
        high = min(int(end[i] / wide), bins - 1)
        for b in range(low, high + 1):
            used[link[i], b] += max(min(end[i], (b + 1) * wide) - max(start[i], b * wide), 0.0) / wide
    return used


def _latest(place_in: Ints, at_in: Floats, place_out: Ints, at_out: Floats) -> NDArray[np.int64]:
    """For each departure the last arrival of the same place that is not after it; -1: none."""
    count = len(place_in)
    place = np.concatenate([place_in, place_out])
    time = np.concatenate([at_in, at_out])
    order = np.lexsort((np.repeat([0, 1], [count, len(place_out)]), time, place))
    arrives = order < count
    seen = np.maximum.accumulate(np.where(arrives, np.arange(len(order)), -1))
    began = np.maximum.accumulate(np.where(np.append(True, np.diff(place[order]) != 0), np.arange(len(order)), 0))
    found = np.full(len(place_out), -1)
    departs = ~arrives
    last = np.where(seen >= began, order[np.maximum(seen, 0)], -1)
    found[order[departs] - count] = last[departs]
    return found
