"""Resources that bytes flow over, and the sets of them that jobs use, as compressed rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Sets:
    """Resources with their capacities [bytes/s] and names, and the sets made of them."""

    def __init__(self) -> None:
        self.resources = 0
        self.count = 0
        self._capacity: list[Floats] = []
        self._names: list[Callable[[], list[str]]] = []  # made up only when they are asked for
        self._lengths: list[Ints] = []
        self._resources: list[Ints] = []
        self._counts: list[Ints] = []

    def resource(self, capacity: Floats, names: Callable[[], list[str]]) -> int:
        """Resources of these capacities; the first one's number."""
        first = self.resources
        self.resources += len(capacity)
        self._capacity.append(np.asarray(capacity, float))
        self._names.append(names)
        return first

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

    def arrays(self) -> tuple[Floats, Ints, Ints, Ints]:
        """Capacity of each resource; where each set begins (and the end), the resources, how often each counts."""
        none = np.zeros(0, np.int64)
        lengths = np.concatenate([none, *self._lengths])
        ptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        resources, counts = np.concatenate([none, *self._resources]), np.concatenate([none, *self._counts])
        return np.concatenate([np.zeros(0), *self._capacity]), ptr, resources, counts

    def names(self) -> list[str]:
        """Of the resources."""
        return [name for make in self._names for name in make()]
