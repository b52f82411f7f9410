"""The catalogue: one YAML file an entry, under ``data/<kind>s/<id>.yaml``; a path of the user's own works alike."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from dse.errors import Fault, SpecError
from dse.spec import calibration
from dse.spec.base import Entry
from dse.spec.load import read_yaml

FOLDERS = {
    "accelerator": "accelerators", "node": "nodes", "cluster": "clusters", "model": "models", "stack": "stacks",
    "engine": "engines",  # dse.domains.vegeta
    "subgraph-accelerator": "subgraph-accelerators",  # dse.domains.sushi
}  # fmt: skip
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
    if 0 < len(text) <= 80 and _is_file(path):
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
    """Plain data of an entry with ``base:`` inheritance applied, its file, and the lines in that file.

    Files are read again when they, or any file they inherit from, have changed.
    """
    path = locate(kind, reference, base=base)
    chain = tuple(_chain(kind, path))
    return _calibrated(kind, chain, calibration.stamp()), path, _resolved(kind, chain)[1]


def _plain(kind: str, reference: str | Path, *, base: Path | None = None) -> dict[str, Any]:
    """An entry as its files state it, without calibrated constants."""
    return _resolved(kind, tuple(_chain(kind, locate(kind, reference, base=base))))[0]


Stamped = tuple[Path, tuple[int, int]]  # a file, and its time and size when it was looked at


def _chain(kind: str, path: Path) -> Iterator[Stamped]:
    """The entry's file and those it inherits from."""
    for _ in range(_MAX_INHERITANCE + 1):
        stat = path.stat() if _is_file(path) else None
        file = (path, (stat.st_mtime_ns, stat.st_size) if stat else (0, 0))
        yield file
        parent = _declared(kind, _raw(kind, file)[0], where=str(path))[1]
        if parent is None:
            return
        path = locate(kind, parent, base=path.parent)
    raise SpecError([Fault("base", repr(parent)[:60], f"goes back more than {_MAX_INHERITANCE} levels", str(path))])


@lru_cache(maxsize=512)
def _raw(kind: str, file: Stamped) -> tuple[dict[str, Any], Any]:
    data, lines = read_yaml(file[0])
    if not isinstance(data, dict):
        raise SpecError([Fault("file", "", f"must be a mapping that describes a {kind}", str(file[0]))])
    return data, lines


@lru_cache(maxsize=512)
def _resolved(kind: str, chain: tuple[Stamped, ...]) -> tuple[dict[str, Any], Any]:
    data, lines = _raw(kind, chain[0])
    own = _declared(kind, data)[0]
    if len(chain) == 1:
        return own, lines
    return _merged(_resolved(kind, chain[1:])[0], _with_given(own, chain[0][0].name)), lines


@lru_cache(maxsize=512)
def _calibrated(kind: str, chain: tuple[Stamped, ...], stamp: Any) -> dict[str, Any]:
    """A new mapping for each calibration, so that what is validated from it is not that of another."""
    own = _resolved(kind, chain)[0]
    if kind == "stack" and len(chain) > 1 and not calibration.knows_stack(str(own.get("id"))):
        parent = _calibrated(kind, chain[1:], stamp)  # a stack of the user's own starts from the calibrated one
        return dict(_merged(parent, _with_given(_declared(kind, _raw(kind, chain[0])[0])[0], chain[0][0].name)))
    return dict(calibration.calibrated(kind, own))


def _declared(kind: str, data: dict[str, Any], where: str = "") -> tuple[dict[str, Any], str | None]:
    """What an entry says itself, and the id or path it is based on."""
    own = dict(data)
    declared = own.pop("kind", kind)
    if declared != kind:
        raise SpecError([Fault("kind", repr(declared)[:60], f"expected a file of kind {kind!r}", where)])
    parent = own.pop("base", None)
    if parent is not None and not isinstance(parent, str):
        raise SpecError([Fault("base", repr(parent)[:60], "must name another entry", where)])
    return own, parent


def inherit(kind: str, data: dict[str, Any], *, folder: Path | None, where: str = "") -> dict[str, Any]:
    """Apply ``base: ID``: the entry starts as a copy of another and overrides what it names."""
    own, parent = _declared(kind, data, where)
    if parent is None:
        return calibration.calibrated(kind, own)
    given = _with_given(own, Path(where).name if where else "the call")
    if kind == "stack":
        return _merged(read(kind, parent, base=folder)[0], given)
    return calibration.calibrated(kind, _merged(_plain(kind, parent, base=folder), given))


def _with_given(own: dict[str, Any], where: str) -> dict[str, Any]:
    """Overrides are their author's: what they set no longer comes from the inherited sources."""
    sources = own.get("sources", [])
    if not isinstance(sources, list):
        return own
    paths = _leaves({key: value for key, value in own.items() if key not in ("id", "name", "sources")})
    lists = [s["covers"] for s in sources if isinstance(s, dict) and isinstance(s.get("covers"), list)]
    covered = [str(path) for paths_of_source in lists for path in paths_of_source]
    rest = [p[:400] for p in paths if not any(c == "*" or p == c or p.startswith(f"{c}.") for c in covered)]
    if not rest:
        return own
    given = {"title": f"given in {where}"[:400], "date": "own", "kind": "assumed", "covers": rest}
    return {**own, "sources": [*sources, given]}


def _leaves(data: Any, path: str = "") -> list[str]:
    """Dotted paths of all values; items of a list of named parts go by their names."""
    if isinstance(data, dict) and data:
        return [leaf for key, value in data.items() for leaf in _leaves(value, f"{path}.{key}".lstrip("."))]
    if isinstance(data, list) and data and _all_named(data):
        parts = [({k: v for k, v in item.items() if k != "name"}, item["name"]) for item in data]
        return [leaf for part, name in parts for leaf in _leaves(part, f"{path}.{name}")]
    return [path]


def _merged(base: Any, change: Any) -> Any:
    if isinstance(base, dict) and isinstance(change, dict):
        merged = {
            key: _merged(base.get(key), change[key]) if key in change else base[key]
            for key in [*base, *(k for k in change if k not in base)]
        }
        if "sources" in base and "sources" in change:  # what is inherited keeps its source
            merged["sources"] = [*change["sources"], *base["sources"]]
        return merged
    if isinstance(base, str) and isinstance(change, dict) and "base" not in change and base in _every_id():
        return {"base": base, **change}  # a reference with overrides inherits what it referred to
    if isinstance(base, list) and isinstance(change, list) and _all_named(base) and _all_named(change):
        if len({item["name"] for item in change}) < len(change):
            return change  # the field's own check names the twins
        changes = {item["name"]: item for item in change}
        kept = [_merged(item, changes.pop(item["name"])) if item["name"] in changes else item for item in base]
        return [*kept, *changes.values()]
    return change


def _every_id() -> set[str]:
    return {entry for kind in ("accelerator", "node") for entry in ids(kind)}


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
