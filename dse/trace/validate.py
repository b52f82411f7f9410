"""Whether traces make sense: findings, each a sentence with the rank and the node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dse.trace.columns import TraceSet


@dataclass(frozen=True)
class Finding:
    """Something about a set of traces; ``rank`` and ``node`` are -1 where it is about none in particular.

    An ``error`` cannot be executed; a ``warning`` can, but is unlikely to be meant.
    """

    severity: Literal["error", "warning"]
    rank: int
    node: int
    what: str
    rule: str

    def __str__(self) -> str:
        where = "" if self.rank < 0 else f"rank {self.rank}" + (f", node {self.node}: " if self.node >= 0 else ": ")
        return f"{self.severity}: {where}{self.what} ({self.rule})"


def validate(traces: TraceSet) -> list[Finding]:
    """Every fault of a set of traces."""
    return []
