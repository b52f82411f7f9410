"""Sensors that feed models, and the time from what they see to what the user gets.

A model of 45 frames a second on a camera of 60 takes the last picture there is at each of its own times. Models on one
sensor get the same pictures at the same time, late or early together. A YAML file of one's own::

    sensors:
      camera: {rate: 60 Hz, jitter: 0.5 ms, latency: 4 ms}
    feeds: {ES: camera, HT: camera}
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from dse.domains.xr import loads
from dse.domains.xr.models import full_name
from dse.domains.xr.scenarios import Model, Rate
from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.catalogue import asset_root
from dse.spec.fields import Name, Seconds
from dse.spec.load import read_yaml

if TYPE_CHECKING:
    import pandas as pd

    from dse.domains.xr.conditions import Conditions
    from dse.domains.xr.kernel import Drawn, Load
    from dse.domains.xr.runtime import Runs
    from dse.domains.xr.scenarios import Scenario

_PERCENTILES = (50, 95, 99)
_Names = Annotated[tuple[Name, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]


class Sensor(Spec):
    """Attributes:
    rate: pictures (or sounds) a second.
    jitter: captures are this much early or late at most, evenly distributed.
    phase: of the first capture.
    latency: from capture to memory: exposure, readout, transfer.
    """

    rate: Rate
    jitter: Seconds = 0.0
    phase: Seconds = 0.0
    latency: Seconds = 0.0


class Sensing(Spec):
    """Attributes:
    sensors: by name.
    feeds: the sensors of each model. A model that follows others may have none: it is due when they are.
    deadlines: from the time when a frame was to be captured until a model must be done; by default until its next frame
        is to come, as in XRBench.
    """

    sensors: Annotated[dict[Name, Sensor], Field(min_length=1, max_length=64)]
    feeds: Annotated[dict[Model, _Names], Field(max_length=256)]
    deadlines: Annotated[dict[Model, Seconds], Field(max_length=256)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Sensing:
        for model, names in self.feeds.items():
            missing = sorted(set(names) - set(self.sensors))
            if missing or not names:
                known = ", ".join(self.sensors)
                raise ValueError(f"feeds.{model}: {', '.join(missing) or 'nothing'} is no sensor; known: {known}")
        return self

    def apply(
        self, scenario: Scenario, conditions: Conditions, load: Load, seeds: np.ndarray
    ) -> tuple[Load, Drawn, np.ndarray, bool]:
        """Frames as they come from the sensors, see :func:`dse.domains.xr.runtime.simulate`.

        Returns:
            Load with deadlines, what is drawn, when the oldest input of each frame was captured [N or 1, M, F] in ms,
            and whether runs differ.

        Raises:
            SpecError: a model without a sensor, one faster than its sensor, or periods of whole ms.
        """
        if conditions.periods != "real" or conditions.jitter:
            raise SpecError([Fault("conditions", "", "must have real periods and no jitter: sensors bring their own")])
        used = self._used(scenario)
        lucky = any(self.sensors[name].jitter > 0 for names in used for name in names)
        lucky |= any(task.probability < 1 for task in scenario.tasks)
        run = seeds if lucky else seeds[:1]
        drawn = loads.drawn(scenario, conditions, run)
        captures = {name: self._captures(name, conditions.horizon, run) for names in used for name in names}
        due, captured, deadline = (
            drawn.due.repeat(run.size, 0),
            np.empty((run.size, *load.deadline.shape)),
            load.deadline.copy(),
        )
        number = np.arange(deadline.shape[1])
        for m, (task, names) in enumerate(zip(scenario.tasks, used, strict=True)):
            took, came, late = [], [], 0.0
            for name in names:
                sensor = self.sensors[name]
                picture = np.floor(number * (sensor.rate / task.rate) + 1e-9).astype(np.int64)
                took.append(captures[name][:, np.minimum(picture, captures[name].shape[1] - 1)])
                came.append(took[-1] + 1e3 * sensor.latency)
                late = max(late, sensor.phase + sensor.latency)
            captured[:, m], due[:, m] = np.min(took, axis=0), np.max(came, axis=0)
            until = self.deadlines.get(task.model)
            deadline[m] += 1e3 * late if until is None else 1e3 * until - 1e3 / task.rate
        # A frame that comes early must not come before the one before it.
        due = np.maximum.accumulate(np.maximum(due, 0.0), axis=2)
        return load._replace(deadline=deadline), drawn._replace(due=due), captured, lucky

    def _used(self, scenario: Scenario) -> list[tuple[str, ...]]:
        """Sensors of each task: its own, or those of the models that it follows."""
        found: dict[str, tuple[str, ...]] = {}
        tasks = {task.model: task for task in scenario.tasks}

        def names(model: str) -> tuple[str, ...]:
            if model not in found:
                above = [name for other in tasks[model].after for name in names(other)]
                found[model] = self.feeds.get(model) or tuple(dict.fromkeys(above))
            return found[model]

        used = [names(task.model) for task in scenario.tasks]
        faults = []
        for task, own in zip(scenario.tasks, used, strict=True):
            if not own:
                faults.append(Fault(f"feeds.{task.model}", "", "needs a sensor"))
            slow = [name for name in own if self.sensors[name].rate < task.rate * (1 - 1e-9)]
            if slow:
                rule = f"must be {task.rate:g} Hz at least, as {task.model} runs so often"
                faults.append(Fault(f"sensors.{slow[0]}.rate", f"{self.sensors[slow[0]].rate:g} Hz", rule))
        if faults:
            raise SpecError(faults)
        return used

    def _captures(self, name: str, horizon: float, seeds: np.ndarray) -> np.ndarray:
        """When a sensor captures, ms [N, captures]."""
        sensor = self.sensors[name]
        nominal = 1e3 * sensor.phase + np.arange(int(np.ceil(horizon * sensor.rate)) + 2) * (1e3 / sensor.rate)
        if not sensor.jitter:
            return np.tile(nominal, (seeds.size, 1))
        place = 1 + sorted(self.sensors).index(name)  # apart from the numbers of the models' chances
        moved = np.stack([np.random.default_rng([int(seed), place]).uniform(-1, 1, nominal.size) for seed in seeds])
        return nominal + 1e3 * sensor.jitter * moved


def sensing(reference: Any = None) -> Sensing:
    """Sensors from a YAML file, a mapping or a spec; those of XRBench where nothing is given.

    Raises:
        SpecError: with every fault, the file and the lines.
    """
    if isinstance(reference, Sensing):
        return reference
    if isinstance(reference, dict):
        return Sensing.parse(reference)
    if reference is not None and not isinstance(reference, str | Path):
        raise SpecError([Fault("sensors", type(reference).__name__, "must be a path or a mapping")])
    path = Path(reference) if reference is not None else asset_root("data") / "xrbench" / "sensors.yaml"
    data, lines = read_yaml(path)
    return Sensing.parse(data, where=str(path), lines=lines)


def oldest_inputs(runs: Runs) -> np.ndarray:
    """When the oldest input of each frame or of those that it follows was captured, ms [N or 1, M, F]."""
    oldest = runs.captured.copy()
    models = range(len(runs.scenario.tasks))
    for _ in models:  # a chain has no more links than models
        for m in models:
            for n in models:
                if runs.source[m, n, 0] >= 0:
                    oldest[:, m] = np.minimum(oldest[:, m], oldest[:, n][:, runs.source[m, n]])
    return oldest


def chain(scenario: Scenario, model: str) -> str:
    """The models that a frame passes to a model, in words: ``ES > GE``; side by side ``A, B > C``."""
    above = {task.model: task.after for task in scenario.tasks}
    links, level = [model], above[model]
    while level:
        links.append(", ".join(level))
        level = tuple(dict.fromkeys(name for of in level for name in above[of]))
    return " > ".join(reversed(links))


def end_to_end(runs: Runs) -> pd.DataFrame:
    """Time from a sensor to each model, through all models in between; one row a system and model.

    Columns: system, model, through (the chain), frames (done), mean_ms, p50_ms, p95_ms, p99_ms, max_ms; over all seeds.
    Dropped frames have none: see the drops beside it.
    """
    import pandas as pd

    frames = runs.outcomes()
    with np.errstate(invalid="ignore"):
        latency = np.where(frames["status"] == 3, frames["finish"] - oldest_inputs(runs), np.nan)
    rows = []
    for s, item in enumerate(runs.systems):
        for m, task in enumerate(runs.scenario.tasks):
            values = latency[s, :, m][~np.isnan(latency[s, :, m])]
            told = dict.fromkeys([f"p{p}_ms" for p in _PERCENTILES], np.nan)
            if values.size:
                told = {
                    f"p{p}_ms": float(v) for p, v in zip(_PERCENTILES, np.percentile(values, _PERCENTILES), strict=True)
                }
            rows.append({
                "system": item.id, "model": task.model, "through": chain(runs.scenario, task.model),
                "frames": values.size, "mean_ms": values.mean() if values.size else np.nan, **told,
                "max_ms": values.max() if values.size else np.nan,
            })  # fmt: skip
    return pd.DataFrame(rows)


class Display(Spec):
    """Attributes:
    rate: pictures a second.
    render: time to draw a picture from what a model found.
    scan_out: from the start of a picture until light leaves the middle of the screen; None: half a picture.
    """

    rate: Rate = 90.0
    render: Seconds = 0.005
    scan_out: Seconds | None = None


def motion_to_photon(runs: Runs, model: str, display: Display | None = None) -> pd.DataFrame:
    """How old is what the user sees: at each picture, the age of the newest result of a model.

    A dropped frame shows as the one before it, older. Pictures before the first result are left out.

    Args:
        model: code or name.
        display: where it is shown.

    Returns:
        One row a system: pictures, mean_ms, p95_ms, max_ms.
    """
    import pandas as pd

    display, name = display or Display(), full_name(model)
    if name not in runs.scenario.models:
        raise SpecError([Fault("model", repr(model)[:60], f"must be one of {', '.join(runs.scenario.models)}")])
    m, period = runs.scenario.models.index(name), 1e3 / display.rate
    frames, oldest = runs.outcomes()[:, :, m], oldest_inputs(runs)[:, m]
    pictures = int(1e3 * runs.conditions.horizon / period) + 1
    s, n, _ = frames.shape
    first = np.ceil((frames["finish"] + 1e3 * display.render) / period)
    shown = (frames["status"] == 3) & (first < pictures)
    newest = np.full((s * n, pictures), -np.inf)
    run, _ = np.nonzero(shown.reshape(s * n, -1))
    np.maximum.at(newest, (run, first[shown].astype(np.int64)), np.broadcast_to(oldest, shown.shape)[shown])
    newest = np.maximum.accumulate(newest, axis=1).reshape(s, n, pictures)
    scan = 0.5 * period if display.scan_out is None else 1e3 * display.scan_out
    age = np.arange(pictures) * period + scan - newest
    rows = []
    for at, item in enumerate(runs.systems):
        seen = age[at][np.isfinite(age[at])]
        told = (seen.mean(), np.percentile(seen, 95), seen.max()) if seen.size else (np.nan,) * 3
        rows.append((item.id, seen.size, *told))
    return pd.DataFrame(rows, columns=["system", "pictures", "mean_ms", "p95_ms", "max_ms"])
