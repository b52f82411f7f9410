"""Ports, links and memories of a simulation as rows of a figure: named, grouped, those that are alike in one."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NAMES = (  # of ports, links and memories, and the direction where they do not say it
    (re.compile(r"rank (?P<rank>\d+) (?P<place>.+) (?P<way>out|in)"), ""),
    (re.compile(r"(?P<place>.+?) of rank (?P<rank>\d+)(?: (?P<way>store|load))?"), ""),
    (re.compile(r"link (?P<rank>\d+) to (?P<place>.+) switch"), "out"),
    (re.compile(r"link (?P<place>.+) switch to (?P<rank>\d+)"), "in"),
    (re.compile(r"link (?P<rank>\d+) to (?P<other>\d+) \((?P<place>.+)\)"), ""),
)


class Port(NamedTuple):
    """A port, link or memory: its dimension or tier, direction, whose it is, for how many it stands, use [bins]."""

    place: str
    way: str
    who: str
    alike: int
    share: Floats

    @property
    def title(self) -> str:
        more = f" +{self.alike - 1}" if self.alike > 1 and self.who else ""
        return ", ".join(part for part in (f"{self.place} {self.way}".strip(), self.who + more) if part)


def ports_of(simulation: Any, shares: Floats) -> list[Port]:
    """Ports by dimension, in the order of the dimensions."""
    alike = np.bincount(simulation.actor_of)[simulation.actor_of]
    found = []
    for name, share in zip(simulation.ports, shares, strict=True):
        matches = ((rule.fullmatch(name), way) for rule, way in NAMES)
        match, way = next(((m, way) for m, way in matches if m), (None, ""))
        if match is None:  # of a graph
            found.append(Port("links", "", name.removeprefix("link "), 1, share))
            continue
        part = match.groupdict()
        who = f"{part['rank']} to {part['other']}" if "other" in part else f"rank {part['rank']}"
        found.append(Port(part["place"], part.get("way") or way, who, int(alike[int(part["rank"])]), share))
    places = list(dict.fromkeys(port.place for port in found))
    return sorted(found, key=lambda port: places.index(port.place))


def both_ways(ports: list[Port]) -> list[Port]:
    """Directions that are alike in one row."""
    same: dict[tuple[str, str], list[Port]] = {}
    for port in ports:
        same.setdefault((port.place, port.who), []).append(port)
    found = []
    for ways in same.values():
        alike = len(ways) == 2 and np.allclose(ways[0].share, ways[1].share, atol=1e-3)
        found += [ways[0]._replace(way="")] if alike else ways
    return found


def means(ports: list[Port], *fields: str) -> list[Port]:
    """The mean of all ports that have these fields in common, each as often as it stands for."""
    same: dict[tuple[object, ...], list[Port]] = {}
    for port in ports:
        same.setdefault(tuple(getattr(port, name) for name in fields), []).append(port)
    return [
        Port("", "", "", 1, np.average([p.share for p in many], axis=0, weights=[p.alike for p in many]))._replace(
            **dict(zip(fields, key, strict=True))
        )
        for key, many in same.items()
    ]
