"""What is to be placed, and where: stages from sensor to decision, tiers of machines, the links between them.

A stage runs once for every item, or every ``gather`` items, of the first stage it comes after, and waits for the latest
of the others. Each stage may have variants (algorithms), factors by which it reduces what it sends on, node counts and,
at the sensor, cadences: together with the tier they are what a plan decides.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from dse.domains.continuum.stage import Curve, Period, Scaling, Stage, Variant
from dse.errors import Fault, SpecError
from dse.spec.base import Entry
from dse.spec.catalogue import asset_root
from dse.spec.fields import (
    Bandwidth,
    Bytes,
    Count,
    Dollars,
    DollarsPerSecond,
    FlopRate,
    Fraction,
    JoulesPerByte,
    Name,
    PositiveFraction,
    Seconds,
    Switch,
    Watts,
    quantity,
)
from dse.spec.load import read_yaml

DollarsPerByte = quantity("USD/B", 0, 1.0)


class Tier(Entry):
    """Machines of one kind: ``sites`` places with ``nodes`` nodes each.

    Attributes:
        rate: peak of a node, in the arithmetic that the stages use; ``efficiency``: the share of it that they reach.
        memory: of a node, for the stages that are placed on it together; ``storage``: of a site, for buffers.
        idle_power, busy_power: of a node; ``power_limit``: of a site with what its links draw, None: no limit.
        wait: before a run starts, as in a batch queue.
        availability: share of the time that the tier can be used.
        metered: nodes are taken from a shared machine: they count as node-hours, and idle ones are not ours.
        price: of a node in use.
    """

    sites: Count = 1
    nodes: Count = 1
    rate: FlopRate
    efficiency: PositiveFraction = 0.3
    memory: Bytes
    storage: Bytes = 0.0
    idle_power: Watts = 0.0
    busy_power: Watts = 0.0
    power_limit: Watts | None = None
    wait: Seconds = 0.0
    availability: PositiveFraction = 1.0
    metered: Switch = False
    price: DollarsPerSecond = 0.0

    @model_validator(mode="after")
    def _idle_below_busy(self) -> Self:
        if self.idle_power > self.busy_power:
            raise ValueError(f"idle_power = {self.idle_power:g} W must not exceed busy_power = {self.busy_power:g} W")
        return self


class Link(Entry):
    """``count`` equal links between the sites of two tiers, full duplex, that share what is sent.

    Attributes:
        rate: of each link and direction.
        energy_per_byte: drawn by the sender; ``power``: drawn by the sender for as long as it sends.
        availability: share of the time that a link is up.
        price: of a byte sent.
    """

    ends: tuple[Name, Name]
    count: Count = 1
    rate: Bandwidth
    round_trip: Seconds = 0.0
    energy_per_byte: JoulesPerByte = 0.0
    power: Watts = 0.0
    availability: PositiveFraction = 1.0
    price: DollarsPerByte = 0.0


class Continuum(Entry):
    """A graph of stages with the tiers and links it may be placed on.

    Attributes:
        stages: each after those it takes items from, or in any order.
        edge: the tier whose power is that of a node in the field; where not given, the first that a sensor may be on.
        max_utilisation: share of their time that nodes and links may be busy, so that lines stay short.
        horizon: over which node-hours, energy and dollars are counted.
        min_fidelity: product over all stages; ``budget``: dollars over the horizon.
    """

    stages: tuple[Stage, ...]
    tiers: tuple[Tier, ...]
    links: tuple[Link, ...] = ()
    edge: Name | None = None
    max_utilisation: PositiveFraction = 0.8
    horizon: Period = 30 * 86400.0
    min_fidelity: Fraction = 0.0
    budget: Dollars | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_library(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return data | {
            field: [_resolved(field, item) for item in data[field]]
            for field in ("tiers", "links")
            if isinstance(data.get(field), list | tuple)
        }

    @model_validator(mode="after")
    def _sound(self) -> Self:
        tiers, stages = [t.id for t in self.tiers], [s.name for s in self.stages]
        for field, names in (("tiers", tiers), ("stages", stages), ("links", [k.id for k in self.links])):
            if len(set(names)) < len(names):
                raise ValueError(f"{field}: two share one name")
        if not stages or not tiers:
            raise ValueError("stages and tiers: must have one or more each")
        for link in self.links:
            _known(f"link {link.id}: ends", link.ends, tiers)
            if link.ends[0] == link.ends[1]:
                raise ValueError(f"link {link.id}: ends must be two tiers")
        _known("edge", [self.edge] if self.edge else [], tiers)
        for stage in self.stages:
            _known(f"stage {stage.name}: after", stage.after, stages)
            _known(f"stage {stage.name}: tiers", stage.tiers, tiers)
            _known(f"stage {stage.name}: curves", [c.tier for c in stage.curves], tiers)
            variants = [v.name for v in stage.variants]
            _known(f"stage {stage.name}: curves", [c.variant for c in stage.curves if c.variant], variants)
        self.order()
        return self

    def order(self) -> tuple[int, ...]:
        """Stages in an order in which each comes after those it takes items from.

        Raises:
            ValueError: they go round in a circle.
        """
        place = {stage.name: i for i, stage in enumerate(self.stages)}
        done: list[int] = []
        while len(done) < len(self.stages):
            ready = [
                i for i, stage in enumerate(self.stages)
                if i not in done and all(place[name] in done for name in stage.after)
            ]  # fmt: skip
            if not ready:
                left = ", ".join(s.name for i, s in enumerate(self.stages) if i not in done)
                raise ValueError(f"stages: {left} come after one another in a circle")
            done.extend(ready)
        return tuple(done)

    @property
    def edge_tier(self) -> int:
        """Number of the tier in the field."""
        ids = [tier.id for tier in self.tiers]
        sensor = next(stage for stage in self.stages if not stage.after)
        return ids.index(self.edge or (sensor.tiers or ids)[0])

    def insights(self) -> tuple[int, ...]:
        """Numbers of the stages whose end is an insight."""
        used = {name for stage in self.stages for name in stage.after}
        return tuple(
            i for i, stage in enumerate(self.stages)
            if (stage.insight if stage.insight is not None else stage.name not in used)
        )  # fmt: skip

    def with_stage(self, name: str, **changes: Any) -> Continuum:
        """A copy with fields of one stage changed, as ``tiers=("blade",)``."""
        return self._with("stages", "name", name, changes)

    def with_link(self, name: str, **changes: Any) -> Continuum:
        """A copy with fields of one link changed."""
        return self._with("links", "id", name, changes)

    def with_tier(self, name: str, **changes: Any) -> Continuum:
        """A copy with fields of one tier changed."""
        return self._with("tiers", "id", name, changes)

    def _with(self, field: str, key: str, name: str, changes: dict[str, Any]) -> Continuum:
        items = getattr(self, field)
        names = [getattr(item, key) for item in items]
        if name not in names:
            raise SpecError([Fault(field, repr(name)[:60], f"must be one of {', '.join(names)}{_near(name, names)}")])
        at = names.index(name)
        data = self.model_dump()
        data[field] = [
            (item.replace(**changes) if i == at else item).model_dump() for i, item in enumerate(items)
        ]  # fmt: skip
        return type(self).parse(data)


def library(folder: str) -> list[str]:
    """Sorted ids of the ``tiers``, ``links`` or ``graphs`` that come with the package."""
    return sorted(path.stem for path in (asset_root("data") / "continuum" / folder).glob("*.yaml"))


def load_continuum(reference: Any) -> Continuum:
    """Load a graph with its tiers and links.

    Args:
        reference: an id of ``library("graphs")``, a path to a YAML file, a mapping, or a ready one. Tiers and links are
            mappings, which may start from one of the library: ``{base: xavier-nx, id: node, sites: 20}``.

    Raises:
        SpecError: with every fault found, the file and the line.
    """
    if isinstance(reference, Continuum):
        return reference
    if isinstance(reference, dict):
        return Continuum.parse(reference)
    if not isinstance(reference, str | Path):
        raise SpecError([Fault("graph", type(reference).__name__, "must be an id, a path or a mapping")])
    data, lines = read_yaml(_file("graphs", str(reference)))
    return Continuum.parse(data, where=str(_file("graphs", str(reference))), lines=lines)


def _file(folder: str, reference: str) -> Path:
    if reference.endswith((".yaml", ".yml")) or "/" in reference:
        return Path(reference)
    names = library(folder)
    if reference not in names:
        rule = f"must be a .yaml file or one of {', '.join(names)}{_near(reference, names)}"
        raise SpecError([Fault(folder.removesuffix("s"), repr(reference)[:60], rule)])
    return asset_root("data") / "continuum" / folder / f"{reference}.yaml"


def _resolved(folder: str, item: Any) -> Any:
    """A tier or link with what it inherits from the library."""
    own = {"base": item} if isinstance(item, str) else item
    if not isinstance(own, dict) or not isinstance(own.get("base"), str):
        return item
    try:
        base = read_yaml(_file(folder, own["base"]))[0]
    except SpecError as error:
        raise ValueError("; ".join(f"{folder}: {fault.value} {fault.rule}" for fault in error.faults)) from None
    if not isinstance(base, dict) or not isinstance(base.setdefault("sources", []), list):
        raise ValueError(f"{folder}: {own['base']} must be a mapping, with a list of sources")
    changed = [key for key in own if key not in ("base", "id", "name", "sources", "ends")]
    given = {"title": "given in the graph", "date": "own", "kind": "assumed", "covers": changed}
    sources = [*([given] if changed else []), *base["sources"]]
    return {**base, "sources": sources, **{key: value for key, value in own.items() if key != "base"}}


def _known(field: str, names: Any, known: list[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{field} = {name!r}: must be one of {', '.join(known)}{_near(name, known)}")


def _near(name: str, known: list[str]) -> str:
    match = difflib.get_close_matches(name[:80], known, n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


__all__ = [
    "Continuum", "Curve", "Link", "Scaling", "Stage", "Tier", "Variant", "library", "load_continuum",
]  # fmt: skip
