"""Plans of transfers, each once: phases of chunks on lanes, and the messages of the lanes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dse.simulate import records
from dse.simulate.schedules import Schedule

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def starts(lengths: Any) -> Ints:
    """Where parts of these lengths begin when laid end to end, and the end."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


class Table:
    """Plans as they are found, each once."""

    def __init__(self) -> None:
        self.known: dict[Any, int] = {}
        self.lanes: list[Ints] = []  # the dimensions (any numbers) of each
        self.lane: list[Ints] = []  # [chunks, phases] of each
        self.size: list[Floats] = []
        self.schedules: list[list[Schedule]] = []  # of each lane; none: one job moves all bytes of a phase

    def add(self, key: Any, dimension: Ints, size: Floats, schedules: list[Schedule] | None = None) -> int:
        """The number of a plan whose phases [chunks, phases] pass ``size`` bytes through ``dimension``."""
        if key not in self.known:
            self.known[key] = len(self.known)
            self.lanes.append(np.unique(dimension))
            self.lane.append(np.searchsorted(self.lanes[-1], dimension).ravel())
            self.size.append(size)
            self.schedules.append(schedules or [])
        return self.known[key]

    def jobs(self) -> Ints:
        """How many jobs each plan has."""
        pairs = zip(self.lanes, self.schedules, strict=True)
        return np.asarray(
            [sum(len(s.share) for s in known) if known else len(lanes) for lanes, known in pairs], np.int64
        )

    def arrays(self) -> records.Plans:
        """For the event loop."""
        shapes = np.asarray([size.shape for size in self.size], np.int64).reshape(-1, 2)
        counts = np.asarray([len(found) for found in self.lanes], np.int64)
        number, offset, used = [], [], 0
        for lanes, known in zip(self.lanes, self.schedules, strict=True):
            number += range(used, used + len(known)) if known else [-1] * len(lanes)
            used += len(known)
            offset += starts([len(s.share) for s in known])[:-1].tolist() if known else range(len(lanes))
        messages = [s for known in self.schedules for s in known]
        lengths = [len(s.share) for s in messages]
        first = starts(lengths)
        edges = starts([len(s.next) for s in messages])[:-1]

        def joined(parts: Any, kind: type) -> Any:
            return np.concatenate([np.zeros(0, kind), *parts])

        following = [s.next + m for s, m in zip(messages, first, strict=False)]
        next_ptr = joined((s.next_ptr[:-1] + e for s, e in zip(messages, edges, strict=True)), np.int64)
        return records.Plans(
            shapes[:, 0].copy(), shapes[:, 1].copy(), counts, starts(shapes.prod(axis=1))[:-1],
            joined(self.lane, np.int64), joined((s.ravel() for s in self.size), np.float64),
            starts(counts)[:-1], np.asarray(number, np.int64), first,
            joined((s.share for s in messages), np.float64), joined((s.latency for s in messages), np.float64),
            joined((s.waits for s in messages), np.int64), np.append(next_ptr, sum(len(f) for f in following)),
            joined(following, np.int64), np.asarray(offset, np.int64),
        )  # fmt: skip
