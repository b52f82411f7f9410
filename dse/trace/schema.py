"""What a Chakra execution trace consists of: nodes, attributes, kinds (``et.proto``), and names of known attributes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


class Kind(IntEnum):
    """What a node does (``NodeType``)."""

    INVALID = 0
    METADATA = 1
    MEM_LOAD = 2
    MEM_STORE = 3
    COMP = 4
    SEND = 5
    RECV = 6
    COLL = 7


class Collective(IntEnum):
    """What a collective does (``CollectiveCommType``)."""

    ALL_REDUCE = 0
    REDUCE = 1
    ALL_GATHER = 2
    GATHER = 3
    SCATTER = 4
    BROADCAST = 5
    ALL_TO_ALL = 6
    REDUCE_SCATTER = 7
    REDUCE_SCATTER_BLOCK = 8
    BARRIER = 9


@dataclass(slots=True)
class Attribute:
    """A named value; ``kind`` is the field of the oneof: ``int64``, ``string_list``, ...; "" where no value is set."""

    name: str
    kind: str = ""
    value: Any = None
    doc: str = ""


@dataclass(slots=True)
class IOInfo:
    """Inputs or outputs of a node, as strings of JSON."""

    values: str = ""
    shapes: str = ""
    types: str = ""


@dataclass(slots=True)
class Metadata:
    """The message at the head of a file."""

    version: str = ""
    attrs: list[Attribute] = field(default_factory=list)


@dataclass(slots=True)
class Node:
    """One node, with everything that its message holds."""

    id: int
    name: str = ""
    kind: int = 0
    ctrl_deps: list[int] = field(default_factory=list)
    data_deps: list[int] = field(default_factory=list)
    start_micros: int = 0
    duration_micros: int = 0
    inputs: IOInfo | None = None
    outputs: IOInfo | None = None
    attrs: list[Attribute] = field(default_factory=list)

    def get(self, name: str, otherwise: Any = None) -> Any:
        """Value of the first attribute of that name that has one."""
        return next((a.value for a in self.attrs if a.name == name and a.kind), otherwise)
