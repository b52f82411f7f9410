"""XRBench as its public artifact carries it out, and the conditions that can be set otherwise.

``Conditions()`` are those of the artifact: with recorded costs, runs repeat its timelines and scores row by row. Each
field is one of the effects that :mod:`dse.domains.xr.corrected` compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dse.domains.xr import loads
from dse.domains.xr.conditions import Conditions
from dse.domains.xr.costs import Costs, default
from dse.domains.xr.scenarios import Scenario, scenario
from dse.domains.xr.systems import System, system
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    import pandas as pd


class Sums(NamedTuple):
    """What was summed up over runs.

    Attributes:
        scenario: whose models these are.
        systems: ids [S].
        seeds: [N].
        values: [S, N, M, fields], fields as in :data:`dse.domains.xr.kernel.FIELDS`.
    """

    scenario: Scenario
    systems: tuple[str, ...]
    seeds: np.ndarray
    values: np.ndarray


def simulate(
    scenario_: Scenario | str, systems_: Iterable[System | str], *, seeds: Sequence[int] | np.ndarray = (1,),
    costs: Costs | None = None, conditions: Conditions | None = None,
) -> Sums:  # fmt: skip
    """Run a scenario on systems, once for each seed.

    Args:
        scenario_, systems_: ids, paths, mappings or specs.
        seeds: as of the C library's ``srand``.
        costs: of the models; by default recorded ones, or the cost model of layers for parts without.

    Raises:
        SpecError: what does not fit together.
    """
    from dse.domains.xr import kernel

    conditions = conditions or Conditions()
    chosen, listed, numbers = scenario(scenario_), [system(item) for item in systems_], _seeds(seeds)
    latency, energy = _priced(chosen, listed, costs, conditions)
    lucky = conditions.jitter > 0 or any(task.probability < 1 for task in chosen.tasks)
    run = numbers if lucky else numbers[:1]  # without chance all runs are alike
    load, drawn = loads.load(chosen, conditions), loads.drawn(chosen, conditions, run)
    passed = run if conditions.periods == "whole-ms" else np.full_like(run, -1)
    values = kernel.runs(load, latency, energy, loads.rules(conditions), passed, drawn)
    return Sums(chosen, tuple(item.id for item in listed), numbers, values if lucky else values.repeat(numbers.size, 1))


def timeline(
    scenario_: Scenario | str, system_: System | str, *, seed: int = 1, costs: Costs | None = None,
    conditions: Conditions | None = None,
) -> pd.DataFrame:  # fmt: skip
    """All frames of one run, by accelerator and in the order in which they ended; dropped ones stand at accelerator 0.

    Columns: :data:`dse.domains.xr.kernel.COLUMNS`, times in ms and energy in mJ.

    Raises:
        SpecError: what does not fit together.
    """
    import pandas as pd

    from dse.domains.xr import kernel

    conditions = conditions or Conditions()
    chosen, listed, numbers = scenario(scenario_), [system(system_)], _seeds([seed])
    latency, energy = _priced(chosen, listed, costs, conditions)
    load, drawn = loads.load(chosen, conditions), loads.drawn(chosen, conditions, numbers)
    rows = int(load.frames.sum())
    log = kernel.Log(np.zeros(1, np.int64), np.zeros((rows, 4), np.int64), np.zeros((rows, 5)))
    models, frames = load.deadline.shape
    passed = int(numbers[0]) if conditions.periods == "whole-ms" else -1
    kernel.run(
        load, latency[0], energy[0], loads.rules(conditions), passed,
        kernel.Drawn(drawn.due[0], drawn.chances[0]), kernel.scratch(models, frames, latency.shape[2]),
        np.zeros((models, len(kernel.FIELDS))), log,
    )  # fmt: skip
    whole, times = log.whole[: log.used[0]], log.times[: log.used[0]]
    names = np.array(chosen.models)[whole[:, 1]]
    columns = (whole[:, 0], names, whole[:, 2], *times.T, whole[:, 3])
    frame = pd.DataFrame(dict(zip(kernel.COLUMNS, columns, strict=True)))
    return frame.sort_values("acc", kind="stable", ignore_index=True)


def _seeds(seeds: Sequence[int] | np.ndarray) -> np.ndarray:
    numbers = np.asarray(seeds)
    if numbers.ndim != 1 or not numbers.size or numbers.dtype.kind not in "iu":
        raise SpecError([Fault("seeds", str(seeds)[:60], "must be whole numbers, one or more")])
    if numbers.min() < 0 or numbers.max() >= 2**32:
        raise SpecError([Fault("seeds", str(numbers.min()), "must be from 0 to 4294967295")])
    return numbers.astype(np.int64)


def _priced(
    scenario_: Scenario, systems_: list[System], costs: Costs | None, conditions: Conditions
) -> tuple[np.ndarray, np.ndarray]:
    """Latency in ms, of whole cycles as the artifact counts them (infinite: no part), and energy in mJ [S, M, A]."""
    if not systems_:
        raise SpecError([Fault("systems", "", "must be one or more")])
    shared = {name: getattr(conditions, name) for name in ("noc_bandwidth", "offchip_bandwidth", "l2")}
    systems_ = [item.sharing(**shared) for item in systems_]
    every = list(dict.fromkeys(part for item in systems_ for part in item.parts))
    places = {part: at for at, part in enumerate(every)}
    costs = costs or default(conditions.depthwise, every, dram=conditions.memory == "counted")
    seconds, joules = costs.of(scenario_.models, every)
    clock = np.array([part.clock for part in every])
    single = conditions.periods == "whole-ms"
    cycles = np.rint(seconds * clock)
    ms = (np.float32(cycles) / np.float32(clock / 1e3)).astype(float) if single else seconds * 1e3
    if not (ms > 0).all():
        raise SpecError([Fault("latency", "0", "must be a cycle or more")])
    shape = (len(systems_), len(scenario_.models), max(len(item.parts) for item in systems_))
    latency, energy = np.full(shape, np.inf), np.zeros(shape)
    for s, item in enumerate(systems_):
        at = [places[part] for part in item.parts]
        latency[s, :, : len(at)], energy[s, :, : len(at)] = ms[:, at], 1e3 * joules[:, at]
    return latency, energy
