"""From a scenario to the frames and rules that the compiled event loop takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dse.domains.xr.conditions import Conditions
from dse.domains.xr.scenarios import Scenario
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    from dse.domains.xr.kernel import Drawn, Load, Rules

STEEPNESS = 15.0  # of the real-time score, per millisecond
ENERGY_LIMIT_MJ = 1500.0  # energy of an inference at which its score is 0
_MARGIN_MS = float(np.float32(0.01))
_MOST_FRAMES = 2 * 10**7  # times models squared: the table of frames that wait for frames
_MOST_CHANCES = 5 * 10**7
_NEVER = -np.inf


def rules(conditions: Conditions) -> Rules:
    """The rules of a run."""
    from dse.domains.xr import kernel

    published = conditions.periods == "whole-ms"
    return kernel.Rules(
        single=published,
        margin=_MARGIN_MS if published else 0.0,
        by_frame=conditions.dependencies == "frame",
        drain=conditions.in_flight == "logged",
        ranking=kernel.BY_NAME if conditions.order == "name" else kernel.BY_DEADLINE,
        placing=kernel.IDLE_BEST if conditions.placing == "idle" else kernel.WAIT_FOR_BEST,
        steepness=STEEPNESS,
        floor=_NEVER if conditions.power is None else 0.0,
    )


def load(scenario: Scenario, conditions: Conditions) -> Load:
    """The frames of a scenario.

    Raises:
        SpecError: a rate that whole milliseconds cannot hold, or too many frames.
    """
    from dse.domains.xr.kernel import Load

    period = _periods(scenario, conditions)
    horizon = 1e3 * conditions.horizon
    # With real periods a frame counts if it comes before the end; the margin is for periods that do not divide exactly.
    frames = np.floor(horizon / period + 1e-9).astype(np.int64)
    if frames.max() < 1 or frames.max() * frames.size**2 > _MOST_FRAMES:
        most = _MOST_FRAMES // frames.size**2
        rule = f"must hold 1 to {most:,} frames of the fastest of {frames.size} models"
        raise SpecError([Fault("horizon", f"{conditions.horizon!r} s", rule)])
    names = scenario.models
    after = np.array([[name in task.after for name in names] for task in scenario.tasks], dtype=np.uint8)
    number = np.arange(max(frames))
    ratio = period[:, None] / period[None, :]
    source = np.floor(number * ratio[:, :, None] + 1e-9).astype(np.int64)
    limit = np.full(len(names), ENERGY_LIMIT_MJ) if conditions.power is None else conditions.power * period
    return Load(
        frames=frames,
        deadline=(number + 1) * period[:, None],
        probability=np.array([np.float32(task.probability) for task in scenario.tasks], dtype=float),
        after=after,
        source=np.minimum(source, np.maximum(frames - 1, 0)[None, :, None]),
        order=np.argsort(np.array(names), kind="stable"),
        tick=float(period.min()) if conditions.periods == "whole-ms" else 0.0,
        limit=limit,
    )


def drawn(scenario: Scenario, conditions: Conditions, seeds: np.ndarray) -> Drawn:
    """When frames come, and their chances: the same for all systems, so that differences are not due to luck."""
    from dse.domains.xr.kernel import Drawn

    period = _periods(scenario, conditions)
    number = np.arange(int(np.floor(1e3 * conditions.horizon / period + 1e-9).max()))
    due = (number * period[:, None])[None]
    if conditions.periods == "whole-ms":
        return Drawn(due, np.zeros((1, 1, 1)))
    shape = (period.size, number.size)
    if seeds.size * period.size * number.size > _MOST_CHANCES:
        rule = f"with {seeds.size} seeds holds more than {_MOST_CHANCES:,} frames"
        raise SpecError([Fault("horizon", f"{conditions.horizon!r} s", rule)])
    generators = [np.random.default_rng(int(seed)) for seed in seeds]
    chances = np.stack([generator.random(shape) for generator in generators])
    if conditions.jitter:
        width = np.minimum(1e3 * conditions.jitter, period)[:, None]
        moved = np.stack([(generator.random(shape) - 0.5) * width for generator in generators])
        due = np.maximum(due + moved, 0.0)
    return Drawn(due, chances)


def _periods(scenario: Scenario, conditions: Conditions) -> np.ndarray:
    """Milliseconds between frames of each model, [M]."""
    rates = [task.rate for task in scenario.tasks]
    if conditions.periods == "real":
        return 1e3 / np.array(rates)
    faults = [
        Fault(f"tasks.{at}.rate", f"{rate!r} Hz", "must be a whole number from 1 to 1000 Hz for periods of whole ms")
        for at, rate in enumerate(rates)
        if not (rate == int(rate) and 1 <= rate <= 1000)
    ]
    if faults:
        raise SpecError(faults)
    return np.array([1000 // int(rate) for rate in rates], dtype=float)
