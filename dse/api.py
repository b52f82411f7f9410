"""The public calls: estimate one design, sweep any axes, find the best strategy."""

from __future__ import annotations

from typing import Any

from dse.errors import Fault, SpecError
from dse.explore.best import Best, best
from dse.explore.evaluate import bind_axes, load_specs
from dse.explore.result import Result
from dse.space.axes import Axis, axis

__all__ = ["Axis", "Best", "Result", "axis", "best", "estimate", "resume", "sweep", "workbench"]

FIDELITIES = {"closed": "", "simulated": "analytical", "flows": "flows"}


def estimate(
    model: Any, cluster: Any, strategy: Any, *, devices: int | None = None, replace: Any = (), fidelity: str = "closed",
) -> Result:  # fmt: skip
    """Price one design.

    Args:
        model: catalogue id, YAML or CSV file, mapping, or specification.
        cluster: catalogue id, YAML file, mapping, or specification; a template for any device count.
        strategy: text such as ``"tp=8,pp=8,micro_batch=1,global_batch=1536"``, YAML file, mapping, specification.
        devices: number of accelerators; by default tp·pp·dp·cp where dp is given, else the cluster's own count.
        replace: quantities of your own in the place of the cost model's: functions of the same names (plain, or
            decorated with :func:`dse.quantity` to state equation and source), or a mapping of names to functions or
            values, such as ``{"operator_efficiency": 0.6}``.
        fidelity: ``closed``: the closed form alone. ``simulated``: the design's trace is generated and executed too,
            event by event; ``flows``: with every message on its links. The result's ``simulated`` then holds the step,
            and how and why it differs from the closed form.

    Returns:
        A result without axes: ``.breakdown()``, ``.memory()``, ``.explain("step_time")``, ``.dataset``.

    Raises:
        SpecError: with every fault of the inputs.
    """
    if fidelity not in FIDELITIES:
        raise SpecError([Fault("fidelity", repr(fidelity)[:40], f"must be one of {', '.join(FIDELITIES)}")])
    specs = load_specs(model, cluster, strategy, devices)
    given = devices is not None or specs["strategy"].dp is None  # type: ignore[attr-defined]
    result = Result(specs, [], devices_given=given, replace=replace)
    if fidelity != "closed":
        result.simulated = result.simulate(fidelity=FIDELITIES[fidelity])
    return result


def sweep(
    model: Any, cluster: Any, strategy: Any, *axes: Axis, devices: int | None = None, replace: Any = ()
) -> Result:
    """Price every combination of the axes' values; infeasible designs are kept, masked, with their reasons.

    Raises:
        SpecError: with every fault of the inputs and axes.
    """
    specs = load_specs(model, cluster, strategy, devices)
    bound = bind_axes(specs, axes, devices)
    swept = any(b.axis.path in ("cluster.devices", "cluster") for b in bound)
    given = devices is not None or swept or (specs["strategy"].dp is None and not any(b.name == "dp" for b in bound))  # type: ignore[attr-defined]
    return Result(specs, bound, devices_given=given, replace=replace)


def resume(folder: Any, **how: Any) -> Any:
    """Go on with the sweep or the search that a folder holds.

    Args:
        folder: ``out`` of :func:`dse.stream`, or ``folder`` of :func:`dse.search`.
        how: workers, scheduler and so on, as in that call; of a search also more ``trials``.

    Returns:
        A :class:`StreamedTable` or a :class:`SearchResult`.

    Raises:
        StudyError: the folder holds neither, or was made by another version.
    """
    from pathlib import Path

    from dse.explore.search import saved

    if (Path(folder) / saved.INPUTS).is_file():
        from dse.explore.search.run import resume as resume_search

        return resume_search(folder, **how)
    from dse.explore.stream import resume as resume_sweep

    return resume_sweep(folder, **how)


def workbench(
    model: Any = "gpt3-175b", cluster: Any = "dgx-h100", strategy: Any = None, *, devices: int | None = None,
    study: Any = None, dark: bool | None = None, folder: Any = "studies",
) -> Any:  # fmt: skip
    """Open the workbench in a notebook: sliders, linked views, comparison, search, saved studies.

    Args:
        model, cluster, strategy, devices: as for :func:`estimate`; without a strategy it starts with the best one.
        study: a saved study (its folder or ``study.yaml``) to open instead.
        dark: the theme; by default the notebook's.
        folder: where studies are saved.

    Returns:
        A :class:`dse.app.workbench.Workbench`, which a notebook shows as the value of a cell. What is done on the page
        has a method: ``set``, ``find_best``, ``pin``, ``compare``, ``select``, ``explain``, ``save``; ``state`` and
        ``result`` are what is shown.

    Raises:
        SpecError: with every fault of the inputs, or where ipywidgets or anywidget are missing.
        InfeasibleDesign: no strategy was given and none satisfies the rules.
    """
    try:
        from dse.app.workbench import Workbench
    except ModuleNotFoundError as error:
        if error.name not in ("ipywidgets", "anywidget", "traitlets"):
            raise
        raise SpecError(f"the workbench needs {error.name}: pip install 'dse[notebook]'") from None
    return Workbench(model, cluster, strategy, devices=devices, study=study, dark=dark, folder=folder)
