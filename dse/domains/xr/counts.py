"""What every rule of counting tells of layers under a dataflow: cycles, accesses, sizes of buffers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


def at_once(loops: int) -> int:
    """Designs to count together under so many loops, each with three kinds of steps: bounds the memory of the cases."""
    return int(max(64, 2**20 // 3**loops))


@dataclass(frozen=True)
class Tensors:
    """Dimensions that index each tensor, in coordinates of the input (depthwise layers have outputs indexed by C)."""

    input: str = "CYX"
    weight: str = "KCRS"
    output: str = "KYX"


@dataclass(frozen=True)
class Counts:
    """One entry a design.

    Attributes:
        cycles: latency.
        bound: cycles of it by what sets the time of a step: compute, ingress, egress.
        macs: multiply-adds as counted (by the rules of MAESTRO not always those of the layer).
        accesses: elements by "BUFFER reads|writes TENSOR".
        l1_required: elements in a PE's buffer, double-buffered.
        l2_required: elements in the shared buffer, double-buffered.
    """

    cycles: Array
    bound: dict[str, Array]
    macs: Array
    accesses: dict[str, Array]
    l1_required: Array
    l2_required: Array

    def times(self, passes: Array) -> Counts:
        """The same work done ``passes`` times in turn."""
        return Counts(
            self.cycles * passes,
            {name: value * passes for name, value in self.bound.items()},
            self.macs * passes,
            {name: value * passes for name, value in self.accesses.items()},
            self.l1_required,
            self.l2_required,
        )

    @classmethod
    def merged(cls, length: int, parts: list[tuple[Array, Counts]]) -> Counts:
        """One set of counts from those of disjoint sets of designs, each with the places of its designs."""

        def column(values: list[Array]) -> Array:
            found = np.zeros(length, dtype=np.int64)
            for (places, _), value in zip(parts, values, strict=True):
                found[places] = value
            return found

        def columns(dicts: list[dict[str, Array]]) -> dict[str, Array]:
            return {name: column([d[name] for d in dicts]) for name in dicts[0]}

        every = [counts for _, counts in parts]
        return cls(
            column([c.cycles for c in every]),
            columns([c.bound for c in every]),
            column([c.macs for c in every]),
            columns([c.accesses for c in every]),
            column([c.l1_required for c in every]),
            column([c.l2_required for c in every]),
        )
