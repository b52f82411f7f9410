"""The calibration: what hardware and software reach of their nameplates, fitted to measurements.

The catalogue states nameplates. A calibration file states constants by accelerator (its id or its ``generation``), by
network ``fabric`` and by software stack; catalogue entries take them over wherever they do not state their own.
``dse calibrate`` writes such a file. The shipped one is in use unless ``DSE_CALIBRATION`` or :func:`use` names another.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from dse.errors import Fault, SpecError
from dse.spec.load import read_yaml

NAME = "calibration.yaml"
Constants = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Calibration:
    """Constants by what they belong to.

    Attributes:
        id: of the content; every result names it.
        relatives: for a generation or fabric without measurements, the one whose constants it inherits.
        errors: the error model of predictions (see ``dse.accuracy.intervals``).
        data: digests of the tables the constants were fitted to.
    """

    id: str
    date: str
    seed: int
    accelerators: Constants = field(default_factory=dict)
    fabrics: Constants = field(default_factory=dict)
    stacks: Constants = field(default_factory=dict)
    relatives: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = None

    def of(self, table: Constants, name: str) -> tuple[dict[str, float], str]:
        """Constants of a name or else of its relatives, and the name they were found under ("" if none)."""
        for _ in range(8):
            if name in table:
                return dict(table[name]), name
            name = self.relatives.get(name, "")
        return {}, ""


_chosen: list[Path] = []


def use(path: Path | str | None) -> Calibration:
    """Use another calibration file from now on; None goes back to the shipped one.

    Raises:
        SpecError: the file is missing or not a calibration.
    """
    found = load(path) if path is not None else None
    _chosen[:] = [] if path is None else [Path(path)]
    return found or active()


def active() -> Calibration:
    """The calibration in use."""
    path = _chosen[0] if _chosen else Path(os.environ.get("DSE_CALIBRATION") or shipped())
    if not path.is_file() and path == shipped():
        return Calibration("none", "", 0)
    return load(path)


def stamp() -> tuple[Any, ...]:
    """Changes whenever another calibration is in use, or its file has changed."""
    current = active()
    return (current.id, str(current.path), current.path.stat().st_mtime_ns if current.path else 0)


def knows_stack(name: str) -> bool:
    """Whether the calibration in use has constants for a software stack (or for its relative)."""
    return bool(active().of(active().stacks, name)[1])


def shipped() -> Path:
    """The file that comes with the package."""
    from dse.spec.catalogue import asset_root

    return asset_root("data") / NAME


def runs_beside(path: Path) -> Path:
    """The table of measured runs and their predictions that belongs to a calibration file."""
    return path.with_name(f"{path.stem}-runs.parquet")


def load(path: Path | str) -> Calibration:
    """Read a calibration file; it is read again when it has changed.

    Raises:
        SpecError: it is missing, not YAML, or lacks a part.
    """
    path = Path(path)
    try:
        stat = path.stat()
    except OSError:
        raise SpecError([Fault("calibration", str(path)[-60:], "does not exist")]) from None
    return _load(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=16)
def _load(path: Path, _time: int, _size: int) -> Calibration:
    data, _ = read_yaml(path)
    parts = {"id", "date", "seed", "accelerators", "fabrics", "stacks", "relatives", "errors", "data"}
    if not isinstance(data, dict) or data.pop("kind", "") != "calibration" or not {"id", "stacks"} <= set(data):
        raise SpecError([Fault("calibration", path.name, "must be a mapping with kind: calibration, id and constants")])
    tables = [data.get(name, {}) for name in ("accelerators", "fabrics", "stacks")]
    if not all(isinstance(t, dict) and all(isinstance(v, dict) for v in t.values()) for t in tables):
        raise SpecError(
            [Fault("calibration", path.name, "accelerators, fabrics and stacks must be mappings of mappings")]
        )
    data.setdefault("seed", 0)
    unknown = set(data) - parts
    if unknown:
        raise SpecError([Fault("calibration", ", ".join(sorted(unknown))[:60], f"must be among {sorted(parts)}")])
    return Calibration(**{**data, "date": str(data.get("date", "")), "path": path})


def calibrated(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """A catalogue entry's plain data with the constants that it does not state itself."""
    if kind == "accelerator":
        return _accelerator(data)
    if kind == "cluster":
        return _cluster(data)
    if kind == "stack":
        found, owner = active().of(active().stacks, str(data.get("id")))
        return _with(data, (), found, owner, data)
    return data


def _accelerator(data: dict[str, Any]) -> dict[str, Any]:
    calibration, generation = active(), data.get("generation")
    if not isinstance(generation, str):
        return data
    found, owner = calibration.of(calibration.accelerators, generation)
    found.update(calibration.accelerators.get(str(data.get("id")), {}))
    efficiency = data.get("efficiency", {})
    if not found or not isinstance(efficiency, dict):
        return data
    return _with({**data, "efficiency": {**found, **efficiency}}, ("efficiency",), found, owner, efficiency, generation)


def _cluster(data: dict[str, Any]) -> dict[str, Any]:
    calibration, network = active(), data.get("network")
    dimensions = network.get("dimensions") if isinstance(network, dict) else None
    if not isinstance(network, dict) or not isinstance(dimensions, list):
        return data
    changed = []
    for dimension in dimensions:
        fabric = dimension.get("fabric") if isinstance(dimension, dict) else None
        found, owner = calibration.of(calibration.fabrics, fabric) if isinstance(fabric, str) else ({}, "")
        changed.append({**found, **dimension} if found else dimension)
        if found:
            path = ("network", "dimensions", str(dimension.get("name")))
            data = _with(data, path, found, owner, dimension, str(fabric))
    return {**data, "network": {**network, "dimensions": changed}}


def _with(
    data: dict[str, Any],
    path: tuple[str, ...],
    found: Mapping[str, Any],
    owner: str,
    own: Mapping[str, Any],
    wanted: str = "",
) -> dict[str, Any]:
    """The entry with its new values (at the top level) and with a source for those it does not state itself."""
    new = [name for name in found if name not in own]
    sources = data.get("sources", [])
    if not new or not isinstance(sources, list):
        return data
    calibration = active()
    inherited = wanted not in ("", owner)
    title = f"Calibration {calibration.id}" + (f", inherited from {owner}" if inherited else f" ({owner})")
    covers = [".".join((*path, name)) for name in new]
    source = {"title": title, "date": calibration.date, "kind": "assumed" if inherited else "measured",
              "covers": covers}  # fmt: skip
    values = {} if path else {name: found[name] for name in new}
    return {**data, **values, "sources": [source, *sources]}
