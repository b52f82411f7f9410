"""Dataflows as loop nests: which dimension is cut into which pieces, in time or over units, cluster by cluster.

A dataflow is a list of lines, outermost first, each with the words of MAESTRO's data-centric directives
(Kwon et al., MICRO 2019)::

    temporal C 16        # 16 input channels at a time, one piece after another
    temporal Y 4 by 1    # pieces of 4 rows that start 1 row apart; without "by" they do not overlap
    spatial X' 1         # neighbouring units take neighbouring output columns
    temporal R all       # the whole dimension
    cluster 16           # what follows happens inside clusters of 16 units

Dimensions are K, C, R, S of the kernel, Y, X of the input, or instead of those Y', X' of the output.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, model_validator

from dse.errors import Fault, SpecError
from dse.spec.base import Entry
from dse.spec.catalogue import asset_root
from dse.spec.fields import Text

DIMENSIONS = ("K", "C", "R", "S", "Y", "X", "Y'", "X'")
_INPUT = {"Y'": "Y", "X'": "X"}
_LARGEST = 2**20
_MOST_LINES = 64
_MOST_LEVELS = 6


class Map(NamedTuple):
    """One loop: pieces of a dimension.

    Attributes:
        spatial: over units; else in time.
        dim: one of ``DIMENSIONS``.
        size: elements of a piece; 0: all of them.
        offset: elements from the start of a piece to that of the next; 0: all of them.
    """

    spatial: bool
    dim: str
    size: int
    offset: int

    @property
    def input_dim(self) -> str:
        """The dimension in coordinates of the input: Y for Y', X for X'."""
        return _INPUT.get(self.dim, self.dim)


class Level(NamedTuple):
    """The loops of one cluster level.

    Attributes:
        units: of this level; 0 at the top, which has as many as the PEs allow.
        maps: outermost loop first.
    """

    units: int
    maps: tuple[Map, ...]


class Dataflow(Entry):
    """A mapping of convolutions onto an array of PEs (see the module for the notation of ``loops``)."""

    loops: Annotated[tuple[Text, ...], Field(min_length=1, max_length=_MOST_LINES)]

    @model_validator(mode="after")
    def _sound(self) -> Dataflow:
        levels = self.levels
        if len(levels) > _MOST_LEVELS:
            raise ValueError(f"loops: must have at most {_MOST_LEVELS - 1} clusters")
        for number, level in enumerate(levels):
            _check(level, f"loops of level {number} (of {len(levels)}, outermost first)")
        return self

    @property
    def levels(self) -> tuple[Level, ...]:
        """The lines as maps, grouped into cluster levels, outermost first."""
        found = [Level(0, ())]
        for number, line in enumerate(self.loops):
            parsed = _parse(line, f"loops.{number}")
            if isinstance(parsed, int):
                found.append(Level(parsed, ()))
            else:
                found[-1] = found[-1]._replace(maps=(*found[-1].maps, parsed))
        return tuple(found)

    @property
    def cluster_units(self) -> int:
        """PEs of one unit of the top level; the array's PEs are used in multiples of it."""
        product = 1
        for level in self.levels[1:]:
            product *= level.units
        return product


def dataflow_ids() -> list[str]:
    """Ids of the shipped dataflows."""
    return sorted(path.stem for path in (asset_root("data") / "dataflows").glob("*.yaml"))


def load_dataflow(reference: Any) -> Dataflow:
    """A dataflow from an id, a YAML file, a mapping, a list of lines, or one that is loaded already.

    Raises:
        SpecError: no such id or file, or a line that breaks the notation, with its number.
    """
    if isinstance(reference, Dataflow):
        return reference
    if isinstance(reference, list | tuple):
        return Dataflow.parse({"loops": list(reference)})
    if isinstance(reference, dict):
        return Dataflow.parse({key: value for key, value in reference.items() if key != "kind"})
    return _from_file(str(reference))


def _from_file(text: str) -> Dataflow:
    from dse.spec.load import read_yaml

    path = Path(text)
    if not text.endswith((".yaml", ".yml")):
        known = {name.lower(): name for name in dataflow_ids()}
        if text.lower() not in known:
            near = difflib.get_close_matches(text.lower()[:40], known, n=1, cutoff=0.1) or sorted(known)
            rule = f"is neither a shipped dataflow nor a .yaml file; did you mean {near[0]!r}?"
            raise SpecError([Fault("dataflow", repr(text[:60]), rule)])
        path = asset_root("data") / "dataflows" / f"{known[text.lower()]}.yaml"
    data, lines = read_yaml(path)
    if not isinstance(data, dict) or data.pop("kind", "dataflow") != "dataflow":
        raise SpecError([Fault("file", "", "must be a mapping of kind 'dataflow' with a list 'loops'", str(path))])
    return Dataflow.parse(data, where=str(path), lines=lines)


def _parse(line: str, where: str) -> Map | int:
    """A map, or the units of a cluster."""
    words = line.split()
    rule = 'must read "temporal DIM SIZE [by OFFSET]", "spatial DIM SIZE [by OFFSET]" or "cluster UNITS"'
    if len(words) == 2 and words[0] == "cluster":
        return _number(words[1], f"{where} = {line!r}: units")
    if len(words) not in (3, 5) or words[0] not in ("temporal", "spatial") or (len(words) == 5 and words[3] != "by"):
        raise ValueError(f"{where} = {line[:60]!r}: {rule}")
    if words[1] not in DIMENSIONS:
        raise ValueError(f"{where} = {line!r}: dimension must be one of {', '.join(DIMENSIONS)}")
    size = 0 if words[2] == "all" else _number(words[2], f"{where} = {line!r}: size")
    offset = size if len(words) == 3 else _number(words[4], f"{where} = {line!r}: offset")
    if size and offset > size:
        raise ValueError(f"{where} = {line!r}: offset must be at most the size, or elements are left out")
    return Map(words[0] == "spatial", words[1], size, offset)


def _number(word: str, where: str) -> int:
    number = int(word) if word.isascii() and word.isdigit() and len(word) <= 9 else 0
    if not 1 <= number <= _LARGEST:
        raise ValueError(f"{where} must be a whole number from 1 to {_LARGEST}")
    return number


def _check(level: Level, where: str) -> None:
    dims = [m.input_dim for m in level.maps]
    twice = sorted({d for d in dims if dims.count(d) > 1})
    if twice:
        raise ValueError(f"{where}: {', '.join(twice)} must be mapped once (Y' and X' count as Y and X)")
    spatial = [m.dim for m in level.maps if m.spatial]
    if not 1 <= len(spatial) <= 2:
        raise ValueError(f"{where}: must have one spatial map, or two that move together, has {len(spatial)}")
    if len(spatial) == 2 and set(spatial) not in ({"Y", "R"}, {"X", "S"}):
        raise ValueError(f"{where}: two spatial maps move together along a diagonal, so must be Y and R, or X and S")
