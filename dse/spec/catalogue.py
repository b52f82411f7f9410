"""The catalogue: one YAML file an entry, under ``data/<kind>s/<id>.yaml``; a path of the user's own works alike."""

from __future__ import annotations

import difflib
from functools import lru_cache
from pathlib import Path
from typing import Any

from dse.errors import Fault, SpecError
from dse.spec.base import Entry
from dse.spec.load import read_yaml

FOLDERS = {"accelerator": "accelerators", "node": "nodes", "cluster": "clusters", "model": "models"}
_MAX_INHERITANCE = 8


def asset_root(name: str) -> Path:
    """Folder ``data``, ``studies`` or ``notebooks``: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / f"_{name}"
    return installed if installed.is_dir() else package.parent / name


def ids(kind: str) -> list[str]:
    """Sorted ids of the catalogue's entries of one kind."""
    return sorted(path.stem for path in (asset_root("data") / FOLDERS[kind]).glob("*.yaml"))


def locate(kind: str, reference: str | Path, *, base: Path | None = None) -> Path:
    """File of a catalogue id, or of a path to a YAML file (relative to ``base`` or the working folder).

    Raises:
        SpecError: neither exists; the message suggests the nearest ids.
    """
    text = str(reference)
    if text.endswith((".yaml", ".yml")) or "/" in text or "\\" in text:
        path = Path(text)
        if base is not None and not path.is_absolute() and _is_file(base / path):
            path = base / path
        return path
    path = asset_root("data") / FOLDERS[kind] / f"{text}.yaml"
    if len(text) <= 80 and text in ids(kind):
        return path
    near = difflib.get_close_matches(text[:80], ids(kind), n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"see 'dse catalogue list {kind}'"
    raise SpecError([Fault(kind, repr(text[:80]), f"is neither in the catalogue nor a .yaml file; {hint}")])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with characters that no file name can have
        return False


def read(kind: str, reference: str | Path, *, base: Path | None = None) -> tuple[dict[str, Any], Path, Any]:
    """Plain data of an entry with ``base:`` inheritance applied, its file, and the lines in that file."""
    path = locate(kind, reference, base=base)
    stat = path.stat() if _is_file(path) else None
    stamp = (stat.st_mtime_ns, stat.st_size) if stat else (0, 0)
    data, lines = _read(kind, path, stamp)
    return data, path, lines


@lru_cache(maxsize=512)
def _read(kind: str, path: Path, stamp: tuple[int, int], depth: int = 0) -> tuple[dict[str, Any], Any]:
    data, lines = read_yaml(path)
    if not isinstance(data, dict):
        raise SpecError([Fault("file", "", f"must be a mapping that describes a {kind}", str(path))])
    return inherit(kind, data, folder=path.parent, where=str(path), depth=depth), lines


def inherit(kind: str, data: dict[str, Any], *, folder: Path | None, where: str = "", depth: int = 0) -> dict[str, Any]:
    """Apply ``base: ID``: the entry starts as a copy of another and overrides what it names."""
    data = dict(data)
    declared = data.pop("kind", kind)
    if declared != kind:
        raise SpecError([Fault("kind", repr(declared)[:60], f"expected a file of kind {kind!r}", where)])
    parent = data.pop("base", None)
    if parent is None:
        return data
    if depth >= _MAX_INHERITANCE or not isinstance(parent, str):
        raise SpecError([Fault("base", repr(parent)[:60], "must name another entry, at most 8 levels deep", where)])
    path = locate(kind, parent, base=folder)
    stat = path.stat() if _is_file(path) else None
    base_data, _ = _read(kind, path, (stat.st_mtime_ns, stat.st_size) if stat else (0, 0), depth + 1)
    return _merged(base_data, data)


def _merged(base: Any, change: Any) -> Any:
    if isinstance(base, dict) and isinstance(change, dict):
        merged = {key: _merged(base.get(key), change[key]) if key in change else base[key]
                  for key in [*base, *(k for k in change if k not in base)]}  # fmt: skip
        if "sources" in base and "sources" in change:  # what is inherited keeps its source
            merged["sources"] = [*change["sources"], *base["sources"]]
        return merged
    if isinstance(base, list) and isinstance(change, list) and _all_named(base) and _all_named(change):
        changes = {item["name"]: item for item in change}
        kept = [_merged(item, changes.pop(item["name"])) if item["name"] in changes else item for item in base]
        return [*kept, *changes.values()]
    return change


def _all_named(items: list[Any]) -> bool:
    return all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in items)


def resolve(kind: str, value: Any) -> Any:
    """What a reference field accepts: an id, a path, a mapping with an optional ``base``, or a ready spec."""
    if isinstance(value, str):
        return read(kind, value)[0]
    if isinstance(value, dict) and "base" in value:
        return inherit(kind, value, folder=None)
    return value


def load(cls: type[Entry], kind: str, reference: Any) -> Any:
    """Load and validate an entry.

    Args:
        cls: the specification class.
        kind: ``accelerator``, ``node``, ``cluster`` or ``model``.
        reference: a catalogue id, a path to a YAML file, a mapping, or an instance (returned as it is).

    Raises:
        SpecError: with every fault, the file and the lines.
    """
    if isinstance(reference, cls):
        return reference
    if isinstance(reference, dict):
        return cls.parse(inherit(kind, reference, folder=None))
    if not isinstance(reference, str | Path):
        raise SpecError([Fault(kind, type(reference).__name__, "must be an id, a path or a mapping")])
    data, path, lines = read(kind, reference)
    return _load(cls, path, _Frozen(data), _Frozen(lines))


class _Frozen:
    """Hashable by identity, so that a parsed file is validated once."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __hash__(self) -> int:
        return id(self.data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Frozen) and self.data is other.data


@lru_cache(maxsize=512)
def _load(cls: type[Entry], path: Path, data: _Frozen, lines: _Frozen) -> Entry:
    return cls.parse(data.data, where=str(path), lines=lines.data)
