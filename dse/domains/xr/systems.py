"""Accelerators for XR: one or more parts (sub-accelerators), each with its dataflow. The 13 of XRBench at two sizes."""

from __future__ import annotations

import difflib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.catalogue import asset_root
from dse.spec.fields import Bytes, Count, Name, quantity
from dse.spec.load import read_yaml

Clock = quantity("Hz", 1e3, 1e11)


class SubAccelerator(Spec):
    """A part that runs one model at a time.

    Attributes:
        name: what a cost table calls it; by default dataflow, PEs and NoC bandwidth: ``WS-2048-128``.
        dataflow: WS, OS, RS, or a name that the cost model knows.
        num_pes: multiply-add units.
        noc_bandwidth: elements a cycle between buffer and PEs.
        offchip_bandwidth: elements a cycle.
        l2, l1: buffer of the part, and of each PE.
        clock: cycles a second.
    """

    name: Name = "unnamed"
    dataflow: Name | None = None
    num_pes: Count | None = None
    noc_bandwidth: Count | None = None
    offchip_bandwidth: Count | None = None
    l2: Bytes | None = None
    l1: Bytes | None = None
    clock: Clock = 1e9

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        if isinstance(data, dict) and "name" not in data:
            sizes = [data.get(key) for key in ("dataflow", "num_pes", "noc_bandwidth")]
            if None in sizes:
                raise ValueError("needs a name, or dataflow, num_pes and noc_bandwidth")
            return {"name": "-".join(str(size) for size in sizes), **data}
        return data


class System(Spec):
    """Attributes:
    id: short name.
    style: FDA (one part), SFDA (several parts, one dataflow) or HDA (several dataflows); for figures.
    parts: parts that run at the same time. Of equally fast idle ones the first is taken.
    """

    id: Name = "unnamed"
    style: Name = "own"
    parts: Annotated[tuple[SubAccelerator, ...], Field(min_length=1, max_length=64)]

    @property
    def num_pes(self) -> int:
        """PEs of all parts that state them."""
        return sum(part.num_pes or 0 for part in self.parts)

    @property
    def noc_bandwidth(self) -> int:
        """Elements a cycle of all parts that state it."""
        return sum(part.noc_bandwidth or 0 for part in self.parts)

    def sharing(self, **totals: float | None) -> System:
        """The same system with other totals of ``noc_bandwidth``, ``offchip_bandwidth`` or ``l2``, split evenly.

        Raises:
            SpecError: bandwidth that the parts cannot split into whole elements.
        """
        given = {name: total for name, total in totals.items() if total is not None}
        if not given:
            return self
        count = len(self.parts)
        rule = f"must be divisible by the {count} parts of {self.id}"
        faults = [Fault(name, repr(total), rule) for name, total in given.items() if name != "l2" and total % count]
        if faults:
            raise SpecError(faults)
        # The name of a part that has sizes says its sizes.
        dropped = {"name"} if all(part.noc_bandwidth for part in self.parts) else set()
        parts = [
            {**part.model_dump(exclude=dropped), **{name: total / count for name, total in given.items()}}
            for part in self.parts
        ]
        return System.parse({"id": self.id, "style": self.style, "parts": parts})


@lru_cache(maxsize=1)
def systems() -> dict[str, System]:
    """The systems of XRBench by id: ``4K-A`` to ``8K-M``."""
    path = asset_root("data") / "xrbench" / "systems.yaml"
    data, _ = read_yaml(path)
    found = (System.parse(item, where=str(path)) for item in data["systems"])
    return {item.id: item for item in found}


def system(reference: Any) -> System:
    """A system.

    Args:
        reference: an id of :func:`systems`, a path to a YAML file, a mapping, or a system.

    Raises:
        SpecError: with every fault, the file and the lines.
    """
    if isinstance(reference, System):
        return reference
    if isinstance(reference, dict):
        return System.parse(reference)
    if not isinstance(reference, str | Path):
        raise SpecError([Fault("system", type(reference).__name__, "must be an id, a path or a mapping")])
    text = str(reference)
    if text in systems():
        return systems()[text]
    if text.endswith((".yaml", ".yml")):
        data, lines = read_yaml(Path(text))
        return System.parse(data, where=text, lines=lines)
    near = difflib.get_close_matches(text[:80], systems(), n=1)
    rule = f"did you mean {near[0]!r}?" if near else f"must be a .yaml file or one of {', '.join(systems())}"
    raise SpecError([Fault("system", repr(text)[:80], rule)])
