"""Saving a workbench as a study, and opening it again.

``study.yaml`` has a run for the design, one for what reset goes back to, and one for each pinned design, as any study
has; fields set by hand are axes of one value. ``workbench`` beside them holds locks, view, seed and versions.
"""

from __future__ import annotations

import dataclasses
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from dse.app.design import Design, canonical, named
from dse.app.look import View
from dse.app.state import PINS, State
from dse.errors import Fault, SpecError
from dse.explore.evaluate import bind_axes, load_specs
from dse.space.axes import axis
from dse.spec import calibration, load_cluster, load_model
from dse.spec.base import Spec
from dse.spec.fields import Count, CountOrZero, Name, Switch, Text
from dse.spec.load import as_yaml, read_yaml
from dse.spec.strategy import Strategy
from dse.study.export import write_atomically
from dse.study.provenance import commit, version
from dse.study.spec import Run, Study

FILE = "study.yaml"
DESIGN, ORIGIN = "design", "origin"


class SavedView(Spec):
    """What was on the screen."""

    shown: tuple[Text, ...]
    x: Text
    y: Text
    quantity: Text
    best: Switch = False
    objectives: tuple[Text, ...] = View.objectives
    follow: Switch = False
    selected: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    dark: Switch


class Saved(Spec):
    """The part of a study that only the workbench reads."""

    seed: CountOrZero
    locks: tuple[Text, ...] = ()
    view: SavedView
    versions: dict[str, Text] = Field(default_factory=dict)


class SavedDevices(Spec):
    """The field of a run that the workbench needs and a study may leave out."""

    devices: Count


@dataclass(frozen=True)
class Opened:
    """A state read from a file, and what differs between what made the file and what reads it."""

    state: State
    name: str
    warnings: tuple[str, ...] = ()


def versions() -> dict[str, str]:
    """What results depend on besides the inputs."""
    found = {"dse": version(), "calibration": calibration.active().id, "python": platform.python_version()}
    return {**found, **({"commit": commit()} if commit() else {})}


def save(state: State, name: str, folder: str | Path = "studies", question: str = "") -> Path:
    """Write ``folder/name/study.yaml``; a file that is there is replaced whole or not at all.

    Args:
        name: letters, digits, dots, dashes; the study's id and the folder's name.
        question: what the study is to answer.

    Raises:
        SpecError: an unfit name.
        StudyError: the file cannot be written.
    """
    _check_name(name)
    runs = [_run(DESIGN, "The design", state.design), _run(ORIGIN, "Where it started", state.origin)]
    runs += [_run(f"pinned-{pin}", f"Pinned as {pin}", design) for pin, design in state.pins]
    view = dataclasses.asdict(state.view)
    document = {
        "kind": "study",
        "id": name,
        "title": f"{_title(state.design.model)} on {state.design.devices} devices of {_title(state.design.cluster)}",
        "question": question or "How does this design perform?",
        "runs": runs,
        "workbench": {
            "seed": state.seed,
            "locks": sorted(state.locks),
            "view": {
                **view,
                "shown": list(state.view.shown),
                "objectives": list(state.view.objectives),
                "selected": {column: list(picked) for column, picked in state.view.selected},
            },
            "versions": versions(),
        },
    }
    text = as_yaml(document, width=120)
    Study.parse({key: value for key, value in document.items() if key not in ("kind", "workbench")})
    return write_atomically(Path(folder) / name / FILE, lambda p: p.write_text(text, encoding="utf-8") and None)


class _Named(Spec):
    name: Name


def _check_name(name: Any) -> None:
    _Named.parse({"name": name})


def _title(part: Any) -> str:
    return part if isinstance(part, str) else str(part.id)


def _run(name: str, title: str, design: Design) -> dict[str, Any]:
    """A design as a run of a study; overrides are axes of one value in the field's SI unit."""
    specs = design.template
    bound = bind_axes(specs, [axis(path, [value]) for path, value in design.overrides]) if design.overrides else []
    units = {b.axis.path: b.unit for b in bound}
    axes = [
        {"path": path, "values": [value], **({"unit": units[path]} if _has_unit(units[path], value) else {})}
        for path, value in design.overrides
    ]
    strategy = {f: v for f, v in design.strategy.to_plain().items() if v is not None}
    return {
        "id": name,
        "title": title,
        "model": _part(design.model),
        "cluster": _part(design.cluster),
        "devices": design.devices,
        "strategy": strategy,
        **({"axes": axes} if axes else {}),
    }


def _has_unit(unit: str, value: Any) -> bool:
    return unit not in ("", "1") and isinstance(value, int | float) and not isinstance(value, bool)


def _part(part: Any) -> Any:
    return part if isinstance(part, str) else part.to_plain()


# -- opening --------------------------------------------------------------------------------------------------


def open_study(path: str | Path) -> Opened:
    """Read a study that the workbench saved.

    Args:
        path: the ``study.yaml`` or its folder.

    Returns:
        The state as it was saved, the study's name, and a warning for each version that is not the present one.

    Raises:
        SpecError: with the faults of the file.
    """
    path = Path(path)
    try:
        path = path / FILE if path.is_dir() else path
    except (OSError, ValueError):
        raise SpecError([Fault("path", repr(str(path))[:80], "is not a file name")]) from None
    data, lines = read_yaml(path)
    if not isinstance(data, dict) or data.pop("kind", "study") != "study":
        raise SpecError([Fault("file", "", "expected a file of kind 'study'", str(path))])
    extra = data.pop("workbench", None)
    if extra is None:
        raise SpecError([Fault("workbench", "", "is missing: this study was not saved by the workbench", str(path))])
    study = Study.parse(data, where=str(path), lines=lines)
    saved = Saved.parse(extra)
    runs = {run.id: run for run in study.runs}
    missing = [name for name in (DESIGN, ORIGIN) if name not in runs]
    if missing:
        raise SpecError([Fault("runs", "", f"has no run {name!r}", str(path)) for name in missing])
    pins = tuple((pin, _design(runs[f"pinned-{pin}"])) for pin in PINS if f"pinned-{pin}" in runs)
    state = State(_design(runs[DESIGN]), _design(runs[ORIGIN]), pins=pins, seed=saved.seed)
    state = state.look(**saved.view.model_dump())
    locks = frozenset(canonical(state.design, lock) for lock in saved.locks)
    return Opened(dataclasses.replace(state, locks=locks), study.id, _differences(saved.versions))


def _design(run: Run) -> Design:
    """A run of a study as a design.

    Raises:
        SpecError: fields of the run, with the run's name.
    """
    try:
        devices = SavedDevices.parse({"devices": run.devices}).devices
        strategy = Strategy.parse(run.strategy)
        if strategy.dp is not None:
            raise SpecError([Fault("strategy.dp", str(strategy.dp), "follows from the devices; leave it out")])
        specs = load_specs(run.model, run.cluster, strategy, devices)
        bare = Design(named(run.model, load_model), named(run.cluster, load_cluster), devices, strategy)
        values = {}
        for item in run.axes:
            if len(item.values) != 1:
                raise SpecError([Fault(item.path, "", "must have one value; an axis of a sweep is no design")])
            place = canonical(bare, item.path)
            if place.partition(".")[0] not in ("model", "cluster", "stack"):
                raise SpecError([Fault(item.path, "", "belongs into devices or strategy")])
            [values[place]] = bind_axes(specs, [axis(item.path, item.values, unit=item.unit)])[0].values
        return dataclasses.replace(bare, overrides=tuple(sorted(values.items()))).checked()
    except SpecError as error:
        raise SpecError([dataclasses.replace(f, path=f"runs.{run.id}.{f.path}") for f in error.faults]) from None


def _differences(then: dict[str, str]) -> tuple[str, ...]:
    """A sentence for each version that results depend on and that has changed."""
    now = versions()
    return tuple(
        f"saved with {name} {value}, opened with {now[name]}: numbers may differ"
        for name, value in then.items()
        if name in ("dse", "calibration") and now[name] != value
    )
