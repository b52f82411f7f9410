"""What an evaluation says about one point, and its exact text form."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """The result of one point.

    Args:
        values: the objectives, in the search's order; None when the point is infeasible and they are undefined.
        constraints: each at most 0 when satisfied. Samplers add up the violations (the positive ones), so give them
            on one scale: the share by which a budget is exceeded, not dollars beside watts.
        payload: anything JSON can carry that the caller wants back (the chosen strategy, reasons).
    """

    values: tuple[float, ...] | None
    constraints: dict[str, float] = field(default_factory=dict)
    payload: dict[str, Any] = field(default_factory=dict)

    @property
    def defined(self) -> bool:
        """Whether every objective has a value that can be ranked (infinity can, NaN cannot)."""
        return self.values is not None and not any(math.isnan(value) for value in self.values)

    @property
    def feasible(self) -> bool:
        """Whether the objectives are defined and every constraint is met (NaN is not)."""
        return self.defined and all(value <= 0 for value in self.constraints.values())

    @property
    def violation(self) -> float:
        """By how much the constraints are exceeded, added up; infinite where no constraint tells why."""
        if any(math.isnan(value) for value in self.constraints.values()):
            return math.inf
        exceeded = sum((value for value in self.constraints.values() if value > 0), 0.0)
        return exceeded if exceeded > 0 or self.defined else math.inf

    def encode(self) -> str:
        """One line of JSON; floats survive exactly, infinities and NaN as JSON's usual extensions."""
        values = None if self.values is None else [float(value) for value in self.values]
        constraints = {str(key): float(value) for key, value in self.constraints.items()}
        content = {"constraints": constraints, "payload": self.payload, "values": values}
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def decode(cls, text: str) -> Outcome:
        """The inverse of ``encode``."""
        content = json.loads(text)
        values = None if content["values"] is None else tuple(content["values"])
        return cls(values, content["constraints"], content["payload"])
