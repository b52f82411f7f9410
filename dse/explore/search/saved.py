"""A search in its folder: the inputs are written first, so that it can be taken up again from the folder alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dse.errors import Fault, SpecError, StudyError
from dse.explore.search.cache import identity
from dse.explore.search.problem import Problem, problem
from dse.explore.search.variables import Coupling, HardwareVariable, Span
from dse.space.axes import Axis
from dse.spec.base import Spec
from dse.study.export import write_atomically

INPUTS = "problem.json"
SWEEP = "sweep.json"  # what a streamed sweep keeps its inputs in


def inputs(given: Problem) -> dict[str, Any]:
    """Everything the search depends on but the sampler's settings, as plain data."""
    strategy: Any = given.specs["strategy"]
    return {
        "model": _plain(given.specs["model"]),
        "cluster": _plain(given.specs["cluster"]),
        "hardware": [_hardware(v) for v in given.variables],
        "couplings": [
            {"target": c.given.target, "source": c.given.source, "rate": "proportional" if c.rate is None else c.rate}
            for c in given.couplings
        ],
        "global_batch": strategy.global_batch,
        "objective": [o.text for o in given.objectives],
        "budget": [c.text for c in given.constraints],
        "also": list(given.also),
        "base": {name: _plain(value) for name, value in given.base.items()},
        "options": [[name, _plain(values)] for name, values in given.options.items()],  # their order counts
    }


def keep(folder: Path, given: Problem, settings: dict[str, Any]) -> None:
    """Write the inputs, or hold them against those that the folder has.

    Raises:
        StudyError: the folder holds a search of another problem, or of another version of the cost model.
    """
    path = folder / INPUTS
    if (folder / SWEEP).exists():
        raise StudyError(f"{folder} holds a sweep: choose another folder for the search")
    plain = json.loads(json.dumps(inputs(given)))
    found = {"kind": "search", "identity": identity(given), "settings": settings, "problem": plain}
    if path.exists():
        stored = _read(path)
        same = stored["identity"] == found["identity"]
        if not same and stored["problem"] == plain:
            raise StudyError(
                f"{folder} holds this search by another version of dse, its calibration or its catalogue: "
                "go on with that one, or choose another folder"
            )
        if not same:
            names = [n for n, value in plain.items() if stored["problem"].get(n) != value]
            raise StudyError(f"{folder} holds another search ({', '.join(names)} differ): choose another folder")
        others = {n: v for n, v in settings.items() if n != "trials" and stored["settings"].get(n) != v}
        if others:
            shown = ", ".join(f"{n} = {stored['settings'].get(n)!r}, now {v!r}" for n, v in others.items())
            raise StudyError(f"{folder} holds this search with other settings ({shown}): choose another folder")
        known = stored["settings"].get("trials")
        if isinstance(known, int) and settings["trials"] < known and (folder / "designs.parquet").exists():
            rule = f"the search in {folder} has {known} already; it can only be extended"
            raise SpecError([Fault("trials", str(settings["trials"]), rule)])
        if stored["settings"] == settings:
            return
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8") and None)


def load(folder: str | Path) -> tuple[Problem, dict[str, Any]]:
    """The problem and the settings of the search that a folder holds.

    Raises:
        StudyError: there is none, or it cannot be read.
        SpecError: its inputs are no longer valid.
    """
    path = Path(folder) / INPUTS
    stored = _read(path)
    try:
        arguments = _arguments(stored["problem"])
    except (KeyError, TypeError, ValueError) as error:
        raise StudyError(f"{path} is not the description of a search: {error!r}"[:300]) from None
    return problem(**arguments), stored["settings"]


def _arguments(p: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a problem that was stored as plain data."""
    hardware: list[Any] = [
        Span(**item["span"]) if "span" in item else Axis(**{**item["axis"], **_tuples(item["axis"])})
        for item in p["hardware"]
    ]
    changed = {
        "hardware": hardware,
        "couplings": [Coupling(**c) for c in p["couplings"]],
        "options": dict(p["options"]),
    }
    names = ("model", "cluster", "global_batch", "objective", "budget", "also", "base")
    return {**{name: p[name] for name in names}, **changed}


def _tuples(item: dict[str, Any]) -> dict[str, Any]:
    return {"values": tuple(item["values"]), "labels": tuple(item["labels"])}


def _read(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        parts = (stored["problem"], stored["settings"])
        if stored["kind"] != "search" or "identity" not in stored or not all(isinstance(p, dict) for p in parts):
            raise ValueError("not a search")
        return stored
    except FileNotFoundError:
        raise StudyError(f"{path.parent} holds no search: there is no {path.name} in it") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path} is not the description of a search: {error!r}"[:300]) from None


def _hardware(v: HardwareVariable) -> dict[str, Any]:
    if not v.values:
        name = {"path": v.axis.path, "low": v.low, "high": v.high, "log": v.log, "name": v.name}
        return {"span": name}
    values = [_plain(value) for value in v.values]
    return {"axis": {"path": v.axis.path, "values": values, "name": v.name, "labels": list(v.axis.labels)}}


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.model_dump(mode="json")
    return [_plain(item) for item in value] if isinstance(value, tuple | list | range) else value
