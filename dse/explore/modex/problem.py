"""What the loop works on: candidates with features, what the prior predicts, what measuring costs, and the decision."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from dse.errors import Fault, SpecError
from dse.explore.modex.decisions import Decision
from dse.explore.modex.gp import Kernel, encode


class Source(Protocol):
    """Where measurements come from."""

    def measure(self, row: int, repeat: int) -> float | None:
        """The value of a candidate, for the ``repeat``-th time (from 0); None where it is not known yet."""

    def repeats(self, row: int) -> int:
        """How often a candidate can be measured."""


@dataclass(frozen=True)
class Problem:
    """Candidates and the decision that their values matter for.

    Args:
        name: for people and files.
        names: of the candidates, (n,).
        features: what the prior's error may depend on: name to numbers or words, (n,) each.
        predicted: by the analytic model, positive, (n,).
        decision: see :mod:`dse.explore.modex.decisions`.
        source: of measurements; None where they are told (:meth:`told`).
        cost: of measuring each, (n,) or one number, in any unit.
        unit: of the values.
        error: how far the prior is thought to be off from candidate to candidate, in logarithms (0.3: about 30 %).
        level: how far by a factor that all have in common, in logarithms.
        noise: of a repetition, in logarithms; 0 for a simulator, None where it is to be learnt.

    Raises:
        SpecError: with every fault.
    """

    name: str
    names: Sequence[str]
    features: Mapping[str, Sequence[Any]]
    predicted: Sequence[float]
    decision: Decision
    source: Source | None = None
    cost: Sequence[float] | float = 1.0
    unit: str = ""
    error: float = 0.3
    level: float = 1.0
    noise: float | None = None
    about: str = ""
    log_predicted: np.ndarray = field(init=False, repr=False)
    costs: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        faults = list(self._faults())
        if faults:
            raise SpecError(faults)
        object.__setattr__(self, "log_predicted", np.log(np.asarray(self.predicted, float)))
        object.__setattr__(self, "costs", np.broadcast_to(np.asarray(self.cost, float), (len(self.names),)).copy())

    def _faults(self) -> Any:
        size = len(self.names)
        if not size:
            yield Fault("names", "", "there must be at least one candidate")
            return
        for name, values in (*self.features.items(), ("predicted", self.predicted)):
            if len(values) != size:
                yield Fault(name, str(len(values)), f"must have one entry a candidate ({size})")
        for name in ("predicted", "cost"):
            array = np.asarray(getattr(self, name), float)
            if not (np.isfinite(array).all() and (array > 0).all()):
                yield Fault(name, "", "must be positive and finite for every candidate")
        if np.ndim(self.cost) and len(np.atleast_1d(self.cost)) != size:
            yield Fault("cost", str(len(np.atleast_1d(self.cost))), f"must be one number or one a candidate ({size})")
        for name, most in (("error", 5.0), ("level", 20.0)):
            if not 0 < getattr(self, name) <= most:
                yield Fault(name, str(getattr(self, name)), f"must be above 0 and at most {most:g}")
        if self.noise is not None and not 0 <= self.noise <= 5:
            yield Fault("noise", str(self.noise), "must be 0 to 5, or left out")
        if len(self.decision.rows) and int(self.decision.rows.max()) >= size:
            yield Fault("decision.rows", str(int(self.decision.rows.max())), f"must be below {size}")

    @cached_property
    def kernel(self) -> Kernel:
        """Covariance of the prior's error between candidates."""
        columns, owner = encode(self.features) if self.features else (np.zeros((len(self.names), 0)), np.zeros(0, int))
        return Kernel(columns, owner, self.error, self.level, self.noise)

    @cached_property
    def digest(self) -> str:
        """Of what the loop sees: a saved loop goes on only with the same problem."""
        decision = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self.decision).items()}
        seen = {
            "names": list(map(str, self.names)), "predicted": self.log_predicted.tolist(), "cost": self.costs.tolist(),
            "features": {k: [str(x) for x in v] for k, v in self.features.items()}, "decision": decision,
            "kind": type(self.decision).__name__, "error": self.error, "level": self.level, "noise": self.noise,
        }  # fmt: skip
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:16]

    def row(self, name: str) -> int:
        """Place of a candidate.

        Raises:
            SpecError: there is none of that name.
        """
        found = [i for i, text in enumerate(self.names) if str(text) == name]
        if not found:
            raise SpecError([Fault("row", repr(name)[:60], "is no candidate of this problem")])
        return found[0]


class Table:
    """Measurements that a table holds: of each candidate none, one or several, read in an order that the seed gives."""

    def __init__(self, values: Sequence[Sequence[float] | float | None], seed: int = 0) -> None:
        listed = [np.atleast_1d(np.asarray([] if v is None else v, float)) for v in values]
        kept = [v[np.isfinite(v)] for v in listed]
        if any((v <= 0).any() for v in kept):
            raise SpecError([Fault("measured", "", "must be positive")])
        self.values = [np.random.default_rng([seed, i]).permutation(v) for i, v in enumerate(kept)]

    def measure(self, row: int, repeat: int) -> float | None:
        """The ``repeat``-th value of a row; None where there is none."""
        return float(self.values[row][repeat]) if repeat < len(self.values[row]) else None

    def repeats(self, row: int) -> int:
        """Values of a row."""
        return len(self.values[row])

    def shuffled(self, seed: int) -> Table:
        """The same values in another order."""
        return Table(self.values, seed)

    @property
    def truth(self) -> np.ndarray:
        """Mean logarithm of each row's values, NaN where there are none, (rows,)."""
        return np.array([np.log(v).mean() if len(v) else np.nan for v in self.values])


@dataclass(frozen=True)
class Measured:
    """Measurements that a function makes, such as a microbenchmark that is run here."""

    function: Callable[[int], float]
    most: int = 3

    def measure(self, row: int, repeat: int) -> float | None:
        """Run it."""
        value = float(self.function(row))
        if not (np.isfinite(value) and value > 0):
            raise SpecError([Fault("measured", str(value), f"must be positive and finite (candidate {row})")])
        return value

    def repeats(self, row: int) -> int:
        """How often a candidate may be measured."""
        return self.most
