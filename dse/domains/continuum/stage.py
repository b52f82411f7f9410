"""Stages from sensor to decision: what they do to an item, in which ways, and how fast machines do it."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, Self

from pydantic import model_validator

from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.fields import (
    Bytes,
    Count,
    Flop,
    Fraction,
    Multiple,
    Name,
    PositiveFraction,
    Seconds,
    Switch,
    Text,
    quantity,
)  # fmt: skip

Period = quantity("s", 1e-6, 1e10)
Reduction = quantity("1", 1, 1e9)
Speed = quantity("1", 1e-9, 1e12)
Kind = Literal["sense", "filter", "infer", "assimilate", "simulate", "emulate", "distribute"]


class Variant(Spec):
    """One way to do a stage's work.

    Attributes:
        work: of a run; ``efficiency``: share of a node's peak it reaches, the tier's own where None.
        memory: it needs on each node.
        output: of a run; None: as much as comes in.
        passes: share of the runs whose output goes on: the trigger probability.
        fidelity: what is left of what the data could tell, by the user's own measure.
    """

    name: Name = "only"
    work: Flop = 0.0
    efficiency: PositiveFraction | None = None
    memory: Bytes = 0.0
    output: Bytes | None = None
    passes: Fraction = 1.0
    fidelity: PositiveFraction = 1.0


class Scaling(Spec):
    """Speeds as :mod:`dse.domains.continuum.scaling` forecasts them, for node counts that may not have been run.

    Attributes:
        family: of runs; ``machine``: of them; ``algorithm``: the usual one where not given.
        end: of the forecast: its median, or the low end of its interval.
    """

    family: Name = "scream"
    machine: Text
    algorithm: Text | None = None
    end: Literal["median", "low"] = "median"

    def speeds(self, nodes: tuple[int, ...]) -> tuple[float, ...]:
        """Simulated days a day on each number of nodes.

        Raises:
            SpecError: there is no such machine or algorithm, or not enough data.
        """
        return _forecast(self, nodes)


@lru_cache(maxsize=64)
def _forecast(scaling: Scaling, nodes: tuple[int, ...]) -> tuple[float, ...]:
    from dse.domains.continuum.scaling import load_scaling

    found = load_scaling(scaling.family).forecast(scaling.machine, list(nodes), algorithm=scaling.algorithm)
    if found.reason:
        raise SpecError([Fault(f"scaling.{scaling.machine}", "", found.reason)])
    return tuple((found.rate if scaling.end == "median" else found.low).tolist())


class Curve(Spec):
    """Measured (or modelled) runs on a tier by the number of nodes, in the place of work over rate.

    Attributes:
        variant: that it is of; None: of all.
        times: of a run; or
        speeds: of a simulation, simulated time over time (simulated days a day), ``span`` being simulated in a run; or
        scaling: where the speeds come from, in the place of a list.
    """

    tier: Name
    variant: Name | None = None
    nodes: tuple[Count, ...]
    times: tuple[Seconds, ...] = ()
    speeds: tuple[Speed, ...] = ()
    span: Seconds = 0.0
    scaling: Scaling | None = None

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if sum(map(bool, (self.times, self.speeds, self.scaling))) != 1:
            raise ValueError("curve: give times, speeds or scaling, and no two of them")
        if (
            not self.nodes
            or (not self.scaling and len(self.nodes) != len(self.times or self.speeds))
            or len(set(self.nodes)) < len(self.nodes)
        ):
            raise ValueError("curve: nodes and times or speeds must be as many, 1 or more, no node count given twice")
        return self

    @property
    def seconds(self) -> tuple[float, ...]:
        """Time of a run with each number of nodes."""
        speeds = self.scaling.speeds(self.nodes) if self.scaling else self.speeds
        return self.times or tuple(self.span / speed for speed in speeds)


class Stage(Spec):
    """A step from sensor to decision.

    Attributes:
        after: the stages it takes items from; the first sets its pace. None: a sensor.
        copies: of a sensor; each gives one item every ``cadence``, one of those listed.
        tiers: where it may run; empty: anywhere.
        nodes: that one run may take, where no curve says.
        reductions: factors by which the output may be made smaller, each at the cost of fidelity:
            factor ** -``reduction_loss`` of it is left.
        gather: items that one run takes.
        hold: once an item has gone on, none does for so long: of r a second, r / (1 + r * hold) go on (items that come
            at random; a detector's dead time).
        deadline: from what happens at the sensor to the end of this stage, in the mean without load.
        insight: whether its end counts for the time to insight; None: if nothing comes after it.
    """

    name: Name
    kind: Kind
    after: tuple[Name, ...] = ()
    copies: Count = 1
    cadence: tuple[Period, ...] = ()
    tiers: tuple[Name, ...] = ()
    variants: tuple[Variant, ...] = (Variant(),)
    nodes: tuple[Count, ...] = (1,)
    reductions: tuple[Reduction, ...] = (1.0,)
    reduction_loss: Multiple = 0.0
    gather: Count = 1
    hold: Seconds = 0.0
    deadline: Seconds | None = None
    insight: Switch | None = None
    curves: tuple[Curve, ...] = ()

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if bool(self.after) == bool(self.cadence):
            raise ValueError(f"stage {self.name}: give either after or, for a sensor, cadence")
        if not self.after and any(v.output is None for v in self.variants):
            raise ValueError(f"stage {self.name}: output of every variant must be given for a sensor")
        for field in ("after", "cadence", "tiers", "nodes", "reductions"):
            if len(set(getattr(self, field))) < len(getattr(self, field)):
                raise ValueError(f"stage {self.name}: {field} must not name one twice")
        if not (self.variants and self.nodes and self.reductions):
            raise ValueError(f"stage {self.name}: variants, nodes and reductions must have one or more")
        if len({v.name for v in self.variants}) < len(self.variants):
            raise ValueError(f"stage {self.name}: two variants share one name")
        return self
