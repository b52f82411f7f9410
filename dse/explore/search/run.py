"""The search: hardware enumerated or chosen by a sampler, strategies enumerated exactly on each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dse.errors import Fault, SpecError
from dse.explore.search.bound import prove
from dse.explore.search.cache import location
from dse.explore.search.evaluate import Evaluator
from dse.explore.search.found import SearchResult
from dse.explore.search.inner import BLOCK, Inner, grid
from dse.explore.search.pool import executor, in_order
from dse.explore.search.problem import Problem, problem
from dse.explore.search.progress import shown
from dse.explore.search.provable import provable
from dse.explore.search.saved import keep, load
from dse.explore.search.space import Space, Variable
from dse.explore.search.starts import starts
from dse.explore.search.variables import Span
from dse.space.axes import Axis
from dse.study.provenance import provenance

HARDWARE = 200_000  # hardware designs that are enumerated at most: each is a row of the table
MOST_HARDWARE = 2_000_000
RATE = 2e7  # designs priced in a second, for an idea of what a trial costs
TRIALS = 200
BOXES = 4000


def search(
    model: Any,
    cluster: Any,
    hardware: Sequence[Axis | Span] = (),
    *,
    devices: int | None = None,
    global_batch: int,
    objective: Any = "step_time",
    budget: Any = None,
    couplings: Sequence[Any] = (),
    base: Any = None,
    options: Mapping[str, Sequence[Any]] | None = None,
    replace: Any = (),
    also: Sequence[str] = (),
    method: str = "auto",
    trials: int | None = None,
    seed: int = 0,
    batch: int | None = None,
    tolerance: float = 0.01,
    folder: str | Path | None = None,
    storage: str | None = None,
    study_name: str = "search",
    workers: int | None = None,
    scheduler: str | None = None,
    cache: bool = True,
    progress: Callable[[int, int], Any] | bool | None = None,
) -> SearchResult:
    """Search hardware and parallelization together: for each hardware design the best strategies are found exactly.

    Args:
        model: catalogue id, file, mapping or specification; as for :func:`dse.estimate`.
        cluster: what the hardware starts from, likewise.
        hardware: the fields that vary: axes (:func:`dse.axis`: values, or ids of whole clusters, nodes, accelerators)
            and spans (:func:`dse.span`: continuous or stepped).
        devices: number of accelerators where it does not vary; else an axis ``cluster.devices``.
        global_batch: samples per step.
        objective: one or several (see ``dse.explore.objectives``): "step_time", "max tokens_per_s", "tco",
            "step_time@90%", "P(step_time <= 20 s)" ...; several give a Pareto front.
        budget: conditions that must hold: "capital <= 100 MUSD", "peak_power <= 10 MW", "racks <= 64".
        couplings: what more of a resource costs (:func:`dse.coupling`).
        base: strategy fields that stay fixed. options: values to try for any strategy field.
        replace: quantities of your own, as for :func:`dse.estimate`.
        also: quantities that the table shows as well (those of the budget it shows anyway).
        method: "auto", "exhaustive", "bound" (branch and bound), or a sampler: "nsga2", "nsga3", "cmaes", "tpe", "gp",
            "random", "qmc", "grid". "auto" enumerates up to 10^8 designs, proves where it can, and else chooses a
            sampler: see :func:`chosen_method`.
        trials: hardware designs that a sampler may choose (200), or boxes that branch and bound may look at (4,000).
        tolerance: of branch and bound: share of the best value that a better design may be missed by.
        seed, batch: of the sampler; the result depends on them, never on the number of workers.
        folder: where the search is kept: interrupted, it goes on from there.
        storage: share the search between processes: "sqlite:///...", "postgresql://...", "grpc://host:port".
        workers: processes; by default threads of this one.
        scheduler: address of a Dask scheduler whose workers are used.
        cache: use and keep answers known by content (see ``dse.explore.search.cache``).
        progress: called with hardware designs done and in all; True shows a bar with the time left.

    Raises:
        SpecError: with every fault of the inputs.
        StudyError: the folder holds another search, or cannot be written.
    """
    given = problem(
        model, cluster, hardware, devices=devices, global_batch=global_batch, objective=objective, budget=budget,
        couplings=couplings, base=base, options=options, replace=replace, also=also,
    )  # fmt: skip
    return run(
        given, method=method, trials=trials, seed=seed, batch=batch, tolerance=tolerance, folder=folder,
        storage=storage, study_name=study_name, workers=workers, scheduler=scheduler, cache=cache, progress=progress,
    )  # fmt: skip


def run(
    given: Problem,
    *,
    method: str = "auto",
    trials: int | None = None,
    seed: int = 0,
    batch: int | None = None,
    tolerance: float = 0.01,
    folder: str | Path | None = None,
    storage: str | None = None,
    study_name: str = "search",
    workers: int | None = None,
    scheduler: str | None = None,
    cache: bool = True,
    progress: Callable[[int, int], Any] | bool | None = None,
) -> SearchResult:
    """Search a bound problem; see :func:`search`."""
    method = chosen_method(given, method)
    trials = (BOXES if method == "bound" else TRIALS) if trials is None else trials
    check_settings(given, method, trials, seed, batch)
    if folder is not None:
        settings = {"method": method, "trials": trials, "seed": seed, "batch": batch, "tolerance": tolerance}
        keep(Path(folder), given, settings)
    kept = location() if cache else None
    evaluator = Evaluator(given, kept or (Path(folder) / "answers.sqlite" if folder else None))
    if storage is not None and method in ("bound", "exhaustive"):
        rule = f"{method!r} is not shared through a storage: use workers or a scheduler, or name a sampler as method"
        raise SpecError([Fault("storage", storage.partition("@")[0][:40], rule)])
    with ExitStack() as stack:
        report = stack.enter_context(shown()) if progress is True else progress or None
        if method == "bound":
            pool = stack.enter_context(executor(workers, scheduler)) if scheduler or (workers or 1) > 1 else None
            proof = prove(evaluator, trials=trials, tolerance=tolerance, pool=pool, progress=report)
            found = _result(evaluator, proof.points, proof.answers, "bound", proof.stopped, seed)
            found.bound = proof.bound
            return found
        if method == "exhaustive":
            return _enumerated(evaluator, seed, workers, scheduler, report)
        return _sampled(evaluator, method, trials, seed, batch, folder, storage, study_name, workers,
                        scheduler, report)  # fmt: skip


def _enumerated(
    evaluator: Evaluator, seed: int, workers: int | None, scheduler: str | None, progress: Any
) -> SearchResult:
    """Every hardware design, in chunks of a few blocks each."""
    given = evaluator.problem
    points = list(grid(given))
    together = max(1, min(4 * BLOCK // max(designs_per_hardware(given), 1), 4096))
    chunks = [points[start : start + together] for start in range(0, len(points), together)]
    with executor(workers, scheduler) as pool:
        answers = _in_order(pool, evaluator, chunks, progress)
    return _result(evaluator, points, answers, "exhaustive", "every hardware design was looked at", seed)


def _sampled(
    evaluator: Evaluator,
    method: str,
    trials: int,
    seed: int,
    batch: int | None,
    folder: str | Path | None,
    storage: str | None,
    study_name: str,
    workers: int | None,
    scheduler: str | None,
    progress: Any,
) -> SearchResult:
    """Hardware chosen by a sampler; a generation is evaluated in parallel."""
    from dse.explore.search.driver import run_search

    given = evaluator.problem
    directions = ["minimize" if o.less else "maximize" for o in given.objectives]
    with ExitStack() as stack:
        pool = None
        if scheduler is not None or (workers or 1) > 1:
            pool = stack.enter_context(executor(workers, scheduler))
        log = run_search(
            dimensions(given), directions, evaluator, trials=trials, seed=seed, method=method, batch=batch,
            first=starts(given), folder=folder, storage=storage, study_name=f"{study_name}-{evaluator.identity}",
            executor=pool, progress=progress,
        )  # fmt: skip
    points = [dict(trial.point) for trial in log.trials]
    answers = [Inner.from_dict(trial.outcome.payload["answer"]) for trial in log.trials]
    return _result(evaluator, points, answers, log.method, log.stopped, seed)


def check_settings(given: Problem, method: str, trials: int, seed: int, batch: int | None) -> None:
    """Refuse what cannot be run before anything is written.

    Raises:
        SpecError: a method that cannot search these variables and objectives, or settings out of range.
    """
    from dse.explore.search.planner import check_method, default_batch

    if method == "bound":
        provable(given)
    if method == "exhaustive":
        if given.continuous:
            names = ", ".join(v.name for v in given.variables if not v.values)
            raise SpecError([Fault("method", method, f"continuous spans cannot be enumerated: give {names} steps")])
        if (given.hardware_size or 0) > MOST_HARDWARE:
            rule = f"more than {MOST_HARDWARE:,} hardware designs are no table: stream a sweep, or take another method"
            raise SpecError([Fault("method", f"{given.hardware_size:,} hardware designs", rule)])
        return
    if trials < 1:
        raise SpecError([Fault("trials", str(trials), "must be at least 1")])
    if method == "bound":
        return
    directions = ["minimize" if o.less else "maximize" for o in given.objectives]
    width = default_batch(method, max(len(given.variables), 1), len(directions)) if batch is None else batch
    check_method(method, Space(tuple(dimensions(given))), directions, seed, width)


def dimensions(given: Problem) -> list[Variable]:
    """The hardware variables as a sampler sees them."""
    return [
        Variable(v.name, v.shown, v.low, v.high, v.log, categorical=v.structural or not _ordered(v.shown))
        for v in given.variables
    ]


def _ordered(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _in_order(pool: Any, evaluator: Evaluator, chunks: list[list[dict[str, Any]]], progress: Any) -> list[Inner]:
    """The answers of all chunks in their order; a bounded number of chunks is under way at a time."""
    answers: list[Inner] = []
    total = sum(map(len, chunks))
    for done in in_order(pool, evaluator.answers, chunks):
        answers += done
        if progress is not None:
            progress(len(answers), total)
    return answers


def _result(
    evaluator: Evaluator, points: Any, answers: list[Inner], method: str, stopped: str, seed: int
) -> SearchResult:
    given = evaluator.problem
    origin = {**provenance(given.specs, replace=given.replace), "search": evaluator.identity, "seed": str(seed)}
    hits = evaluator.cache.hits if evaluator.cache else 0
    order = sorted(range(len(points)), key=lambda number: _rank(given, points[number]))
    return SearchResult(
        given, [points[i] for i in order], [answers[i] for i in order], method, stopped, seed, hits, origin, order
    )


def _rank(given: Problem, point: Mapping[str, Any]) -> tuple[float, ...]:
    """Place of a hardware design in the order of the variables and their values, however the search came upon it."""
    return tuple(v.positions[point[v.name]] if v.values else point[v.name] for v in given.variables)


def resume(folder: str | Path, *, trials: int | None = None, **more: Any) -> SearchResult:
    """Take up the search that a folder holds, or extend it to more ``trials``; see :func:`search` for the rest.

    Raises:
        StudyError: the folder holds no search.
    """
    given, settings = load(folder)
    if trials is not None:
        settings["trials"] = trials
    return run(given, folder=folder, **settings, **more)


def chosen_method(given: Problem, method: str) -> str:
    """The method that "auto" stands for; the first line that applies.

    1. ``exhaustive``: at most 10^8 designs on at most 200,000 of hardware (each becomes a row of the table).
    2. ``bound``: one time or rate over capacities, rates and delays, where branch and bound proves the best.
    3. A sampler, as ``dse.explore.search.planner.choose_method`` says: NSGA-II for several objectives (NSGA-III from
       four on), CMA-ES for continuous hardware, TPE for discrete or mixed hardware.
    """
    from dse.explore.search.planner import choose_method

    if method != "auto":
        return method
    size = given.hardware_size
    total = None if size is None or size > HARDWARE else size * designs_per_hardware(given)
    continuous = all(not v.values for v in given.variables)
    chosen = choose_method(
        total, len(given.objectives), continuous, designs_per_hardware(given) / RATE if total is None else 0.0
    )
    if chosen == "exhaustive":
        return chosen
    try:
        provable(given)
        return "bound"
    except SpecError:
        return chosen


def designs_per_hardware(given: Problem) -> int:
    """Strategies tried on the first hardware design (other groups may have a few more or less)."""
    point = {v.name: (v.shown[-1] if v.values else v.high) for v in given.variables}
    size = 1
    for length in given.group(point).shape:
        size *= length
    return size
