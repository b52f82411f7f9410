"""SubNets and SuperNets by name, from YAML, or from a CSV of layers: the published ones and the user's own."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import model_validator

from dse.domains.sushi.layers import Layers
from dse.domains.sushi.ofa_mobilenet import OFA_MOBILENETV3, OFA_MOBILENETV3_WIDE, MobileNet
from dse.domains.sushi.ofa_resnet import OFA_RESNET50, ResNet
from dse.domains.sushi.supernet import SubNet, SuperNet, stack
from dse.errors import Fault, SpecError
from dse.spec.base import Source, Spec
from dse.spec.catalogue import asset_root
from dse.spec.fields import Count, CountOrZero, Fraction, Name, Text
from dse.spec.load import MAX_BYTES, read_yaml

__all__ = [
    "SPACES", "SubNet", "SuperNet", "load_subnets", "load_supernet", "mobilenetv3", "read_layers", "resnet50", "stack",
]  # fmt: skip

SPACES: dict[str, SuperNet] = {space.id: space for space in (OFA_RESNET50, OFA_MOBILENETV3, OFA_MOBILENETV3_WIDE)}
FAMILIES: dict[str, type[SuperNet]] = {"resnet": ResNet, "mobilenet": MobileNet}
COLUMNS = ("slot", "k", "c", "r", "x")
MOST_SLOTS = 10_000
MOST_MACS = 1e18  # what still adds up in 64 bits


class Layer(Spec):
    """One layer of a SubNet that is given by its layers; the fields are those of :class:`Layers`."""

    slot: CountOrZero
    k: Count
    c: Count
    r: Count
    x: Count
    stride: Count = 1
    groups: Count = 1
    layer: Text = ""


class Row(Layer):
    """A row of a CSV of layers."""

    subnet: Text = ""
    accuracy: Fraction | None = None


class Listed(Spec):
    """A SubNet of a file: a choice of the file's SuperNet, or layers."""

    name: Name
    origin: Text = ""
    accuracy: Fraction | None = None
    config: dict[str, Any] | None = None
    layers: tuple[Layer, ...] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Listed:
        if (self.config is None) == (self.layers is None):
            raise ValueError("needs either config or layers")
        return self


class SubNetFile(Spec):
    """A file of SubNets. ``supernet`` is an id of :data:`SPACES` or a mapping (see :func:`load_supernet`)."""

    supernet: str | dict[str, Any] | None = None
    sources: tuple[Source, ...] = ()
    subnets: tuple[Listed, ...]


def resnet50() -> list[SubNet]:
    """The six networks A to F of SUSHI, in the 61 slots of OFA ResNet-50D (convolutions only)."""
    return load_subnets("resnet50")


def mobilenetv3() -> list[SubNet]:
    """Seven networks of OFA MobileNetV3. An assumption: which seven SUSHI served is not known (see the file)."""
    return load_subnets("mobilenetv3")


def load_supernet(reference: str | Path | Mapping[str, Any] | SuperNet) -> SuperNet:
    """A SuperNet by its id, from a YAML file, or from a mapping.

    A file or mapping names its ``family`` (resnet, mobilenet) or the ``base`` whose fields it changes.

    Raises:
        SpecError: with every fault, the file and the lines.
    """
    if isinstance(reference, SuperNet):
        return reference
    if isinstance(reference, str) and reference in SPACES:
        return SPACES[reference]
    data, where, lines = _read(reference, "supernet", list(SPACES))
    data = dict(data)
    base = data.pop("base", None)
    if base is not None and (not isinstance(base, str) or base not in SPACES):
        raise SpecError([Fault("base", repr(base)[:60], f"must be one of {', '.join(SPACES)}", where)])
    start = SPACES[base].model_dump(exclude={"id", "name", "sources"}) if base is not None else {}
    family = data.get("family", start.get("family"))
    if not isinstance(family, str) or family not in FAMILIES:
        raise SpecError([Fault("family", repr(family)[:60], f"must be one of {', '.join(FAMILIES)}", where)])
    supernet = FAMILIES[family].parse({**start, **data}, where=where, lines=lines)
    _bounded(supernet.id, supernet.layers(supernet.largest()), where)
    return supernet


def load_subnets(reference: str | Path | Mapping[str, Any]) -> list[SubNet]:
    """SubNets of one SuperNet: ``resnet50``, ``mobilenetv3``, a YAML file, a CSV of layers, or a mapping.

    A YAML file chooses from a SuperNet (an id of :data:`SPACES`, or a family or base with what it changes), or lists
    the ``layers`` of its SubNets with the columns of :func:`read_layers`. ``accuracy`` is a fraction, or in %::

        supernet: ofa-resnet50
        subnets:
          - {name: small, accuracy: 76.1 %, config: {resolution: 160, depth: 0, width: 0.65, expand: 0.2}}
          - {name: large, accuracy: 79.3 %, config: {resolution: 224, depth: 2, width: 1.0, expand: 0.35}}

    Raises:
        SpecError: with every fault, the file and the lines; also where the SubNets do not have the same slots.
    """
    if isinstance(reference, str | Path) and str(reference).endswith(".csv"):
        return read_layers(reference)
    known = sorted(path.stem.removesuffix("-subnets") for path in (asset_root("data") / "sushi").glob("*-subnets.yaml"))
    if isinstance(reference, str) and reference in known:
        reference = asset_root("data") / "sushi" / f"{reference}-subnets.yaml"
    data, where, lines = _read(reference, "subnets", known)
    listed = SubNetFile.parse(data, where=where, lines=lines)
    if not listed.subnets:
        raise SpecError([Fault("subnets", "", "must list one or more", where)])
    supernet = None if listed.supernet is None else load_supernet(_beside(listed.supernet, where))
    given = [subnet.layers for subnet in listed.subnets if subnet.layers is not None]
    slots = len(supernet.slots) if supernet else 1 + max((row.slot for rows in given for row in rows), default=0)
    return [_subnet(subnet, supernet, slots, where) for subnet in listed.subnets]


def read_layers(path: str | Path) -> list[SubNet]:
    """SubNets from a CSV with a row for each layer.

    Columns: ``slot`` (place in the SuperNet, from 0), ``k`` kernels, ``c`` channels, ``r`` (kernel of r by r), ``x``
    (input of x by x) and, if given, ``subnet`` (its name; else the file's), ``stride``, ``groups`` (c for depthwise)
    and ``accuracy`` of the SubNet (in any of its rows: a fraction, or ``76.1 %``), without which it is not served::

        subnet,slot,k,c,r,x,stride,accuracy
        small,0,32,3,3,160,2,76.1 %
        small,1,32,32,3,80,1,
        large,0,64,3,3,160,2,79.3 %
        large,1,64,64,3,80,1,

    Raises:
        SpecError: the file cannot be read, a column is missing, a number is not one, a slot is given twice, a SubNet
            has two accuracies.
    """
    rows = list(_rows(Path(path)))
    slots = 1 + max((layer.slot for _, layer in rows), default=-1)
    if not slots:
        raise SpecError([Fault("layers", "", "must list one or more", str(path))])
    by_name: dict[str, list[Row]] = {}
    for name, layer in rows:
        by_name.setdefault(name, []).append(layer)
    return [
        _from_layers(name, layers, slots, str(path), _accuracy(name, layers, path)) for name, layers in by_name.items()
    ]


def _accuracy(name: str, rows: Sequence[Row], path: Path) -> float:
    """The one accuracy that the rows of a SubNet name, if any does."""
    named = {row.accuracy for row in rows if row.accuracy is not None}
    if len(named) > 1:
        raise SpecError([Fault(f"{name}.accuracy", ", ".join(f"{value:g}" for value in sorted(named))[:60],
                               "must be one for all rows of the SubNet", str(path))])  # fmt: skip
    return named.pop() if named else float("nan")


def _rows(path: Path) -> list[tuple[str, Row]]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SpecError([Fault("file", "", f"is larger than {MAX_BYTES:,} bytes", str(path))])
        table = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")), strict=True)
        rows = list(table)
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise SpecError([Fault("file", "", f"cannot be read: {error}"[:300], str(path))]) from None
    missing = [column for column in COLUMNS if column not in (table.fieldnames or [])]
    if missing:
        raise SpecError([Fault("columns", "", f"{', '.join(missing)} missing", str(path))])
    found = []
    for number, row in enumerate(rows, start=2):
        known = {key: row[key] for key in Row.model_fields if row.get(key)}
        layer = Row.parse(known, where=f"{path}:{number}")
        found.append((layer.subnet or path.stem, layer))
    return found


def _read(reference: Any, what: str, known: list[str]) -> tuple[Any, str, Any]:
    if isinstance(reference, Mapping):
        return reference, "", None
    if not isinstance(reference, str | Path):
        raise SpecError([Fault(what, type(reference).__name__, "must be a name, a path or a mapping")])
    if not str(reference).endswith((".yaml", ".yml")):
        rule = f"must be one of {', '.join(known)}, or a .yaml file"
        raise SpecError([Fault(what, repr(str(reference))[:80], rule)])
    data, lines = read_yaml(reference)
    if not isinstance(data, dict):
        raise SpecError([Fault("file", "", f"must be a mapping that describes {what}", str(reference))])
    return data, str(reference), lines


def _beside(supernet: str | dict[str, Any], where: str) -> str | Path | dict[str, Any]:
    """A path is relative to the file that names it."""
    if where and isinstance(supernet, str) and supernet.endswith((".yaml", ".yml")):
        return Path(where).parent / supernet
    return supernet


def _subnet(listed: Listed, supernet: SuperNet | None, slots: int, where: str) -> SubNet:
    accuracy = float("nan") if listed.accuracy is None else listed.accuracy
    if listed.layers is not None:
        given = _from_layers(listed.name, list(listed.layers), slots, where, accuracy)
        return given if supernet is None else replace(given, shortcuts=supernet.shortcuts)
    if supernet is None:
        raise SpecError([Fault(f"{listed.name}.config", "", "needs the file to name its supernet", where)])
    try:
        return supernet.subnet(listed.config or {}, name=listed.name, accuracy=accuracy)
    except SpecError as error:
        faults = [Fault(f"{listed.name}.config.{f.path}", f.value, f.rule, where) for f in error.faults]
        raise SpecError(faults) from None


def _from_layers(name: str, rows: Sequence[Layer], slots: int, where: str, accuracy: float = float("nan")) -> SubNet:
    places = [row.slot for row in rows]
    if len(set(places)) < len(places):
        twice = next(place for place, count in Counter(places).items() if count > 1)
        raise SpecError([Fault(f"{name}.slot", str(twice), "is given twice", where)])
    if slots > MOST_SLOTS or max(places, default=0) >= slots:
        raise SpecError([Fault(f"{name}.slot", str(max(places)), f"must be below {min(slots, MOST_SLOTS)}", where)])
    columns = np.zeros((len(Layers._fields), slots), dtype=np.int64)
    for row in rows:
        columns[:, row.slot] = [getattr(row, field) for field in Layers._fields]
    layers = Layers(*columns)
    _bounded(name, layers, where)
    first = min(rows, key=lambda row: row.slot, default=None)
    return SubNet(name, layers, accuracy, first.x if first else 0)


def _bounded(name: str, layers: Layers, where: str) -> None:
    """Refuse what does not add up in 64 bits."""
    k, c, r, y = (column.astype(float) for column in (layers.k, layers.c, layers.r, layers.y))
    work = float((k * c * (r * y) ** 2).sum())
    if work > MOST_MACS:
        raise SpecError([Fault(name, f"{work:.3g} multiply-adds", f"must be {MOST_MACS:.0e} or fewer", where)])
