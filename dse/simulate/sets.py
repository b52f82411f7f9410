"""Sets of resources that jobs flow over, as compressed rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Sets:
    """Resources with their capacities [bytes/s], and the sets made of them."""

    def __init__(self, capacity: NDArray[np.float64]) -> None:
        self.capacity = capacity
        self.others: list[str] = []  # names of the resources that are not ports
        self.count = 0
        self._lengths: list[Ints] = []
        self._resources: list[Ints] = []
        self._counts: list[Ints] = []

    def add(self, lengths: Ints, resources: Ints, counts: Ints) -> Ints:
        """Sets of these lengths, laid end to end; their numbers."""
        found = self.count + np.arange(len(lengths))
        self.count += len(lengths)
        self._lengths.append(np.asarray(lengths, np.int64))
        self._resources.append(np.asarray(resources, np.int64))
        self._counts.append(np.asarray(counts, np.int64))
        return found

    def add_ports(self, ptr: Ints, actor: Ints, times: Ints, dimensions: int) -> Ints:
        """Both ports of all members in a dimension, a set for each dimension in turn; the first set of each group."""
        members = np.diff(ptr)
        group = np.repeat(np.arange(len(members)), members)
        parts = []
        for d in range(dimensions):
            port = (actor * dimensions + d) * 2
            parts.append(np.stack([group * dimensions + d, port, times], axis=1))
        rows = np.concatenate(parts)
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        both = np.stack([rows[:, 1], rows[:, 1] + 1], axis=1).ravel()
        found = self.add(np.repeat(2 * members, dimensions), both, np.repeat(rows[:, 2], 2))
        return found[::dimensions] if len(found) else np.zeros(len(members), np.int64)

    def arrays(self) -> tuple[Ints, Ints, Ints]:
        """Where each set begins (and the end), the resources, how often each counts."""
        none = np.zeros(0, np.int64)
        lengths = np.concatenate([none, *self._lengths])
        ptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return ptr, np.concatenate([none, *self._resources]), np.concatenate([none, *self._counts])

    def names(self, problem: Any) -> list[str]:
        """Of the resources: the ports of the simulated ranks, then what came after."""
        dimensions = [d.name for d in problem.system.dimensions]
        ports = [f"rank {rank} {name} {way}" for rank in problem.rank for name in dimensions for way in ("out", "in")]
        return [*ports, *self.others]
