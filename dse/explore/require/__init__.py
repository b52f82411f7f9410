"""Inverse design: how much of a resource a target needs."""

from __future__ import annotations

from typing import Any

from dse.accuracy.uncertainty import checked_level
from dse.errors import Fault, SpecError
from dse.explore.evaluate import load_specs, own_quantities
from dse.explore.forecast import Forecast
from dse.explore.objectives import conditions
from dse.explore.require.ahead import ahead
from dse.explore.require.answer import Requirement
from dse.explore.require.candidates import usable
from dse.explore.require.curve import IsoCurve, trace
from dse.explore.require.field import Field, locate_field
from dse.explore.require.problem import Problem
from dse.explore.require.single import solve
from dse.spec import parse_strategy
from dse.spec.base import Spec

__all__ = ["Forecast", "IsoCurve", "Requirement", "forecast", "require"]
BEST = "best"
TOLERANCE = 1e-3
POINTS = {"one": 257, "best": 65, "curve": 33}
MOST_TRIED = 1 << 17  # whole numbers that are all tried where there is one strategy


def require(
    target: Any,
    vary: Any,
    model: Any,
    cluster: Any,
    strategy: Any = BEST,
    *,
    devices: int | None = None,
    global_batch: int | None = None,
    low: Any = None,
    high: Any = None,
    level: float = 0.9,
    probability: float = 0.9,
    direction: str | None = None,
    base: Any = None,
    options: Any = None,
    prices: Any = None,
    points: int | None = None,
    tolerance: float = TOLERANCE,
    replace: Any = (),
) -> Requirement | IsoCurve:
    """The least (or most) of a resource that meets a target, with its interval.

    The range is scanned, and where a scanned value meets the target and its neighbour misses it, the crossing is made
    exact; what is narrower than a step of the scan may be missed. The rules for legal designs, memory among them, are
    part of the target and are judged at the prediction.

    Args:
        target: a condition such as ``"mfu >= 0.5"`` or ``"step_time <= 12 s"``, or several that must all hold.
        vary: any numeric field, such as ``"cluster.network.inter.bandwidth"`` or ``"devices"``; or two of them: the
            least of the first for each value of the second.
        model, cluster: as for :func:`dse.estimate`.
        strategy: as there, or ``"best"``: each value with the strategy that meets the target best.
        devices: number of accelerators. Where it varies, data parallelism follows.
        global_batch: samples per step, for ``"best"``.
        low, high: ends of the range (a pair of each for two fields); by default 1/64 and 64 times the current value,
            within the field's legal range.
        level: of the interval, from 0.5 to 0.95. Its ends take step time and memory at both ends of theirs.
        probability: what ``probable`` is sure of, from 0.5 to 0.99, for each condition by itself.
        direction: ``"least"`` or ``"most"``; by default told from the response.
        base, options: as for :func:`dse.best`.
        prices: of a unit of each of the two fields per device, such as ``"100 USD/(GB/s)"``, for the cheapest point.
        points: values of the scan: 257 by default, 65 with the best strategy, 33 for two fields; all whole numbers of
            a range where the strategy is given.
        tolerance: relative distance between the answer and a value that misses the target.
        replace: quantities of your own, as for :func:`dse.estimate`.

    Raises:
        SpecError: with the faults of the input.
        InfeasibleDesign: no value in the range meets the target; says what comes nearest and what bounds it.
    """
    problem, points = _asked(
        target, vary, model, cluster, strategy, devices=devices, global_batch=global_batch, low=low, high=high,
        level=level, probability=probability, direction=direction, base=base, options=options, prices=prices,
        points=points, tolerance=tolerance, replace=replace,
    )  # fmt: skip
    if len(problem.fields) == 2:
        return trace(problem, points=points, tolerance=tolerance, direction=direction, prices=prices)
    return solve(problem, points=points, tolerance=tolerance, direction=direction)


def forecast(target: Any, vary: Any, model: Any, cluster: Any, strategy: Any = BEST, **options: Any) -> Forecast:
    """How many designs :func:`require` would price for the same arguments, and how long that takes.

    Raises:
        SpecError: with the faults of the input.
    """
    problem, points = _asked(target, vary, model, cluster, strategy, **options)
    return ahead(
        problem, points=points, tolerance=options.get("tolerance", TOLERANCE), priced=bool(options.get("prices"))
    )


def _asked(
    target: Any,
    vary: Any,
    model: Any,
    cluster: Any,
    strategy: Any = BEST,
    *,
    devices: int | None = None,
    global_batch: int | None = None,
    low: Any = None,
    high: Any = None,
    level: float = 0.9,
    probability: float = 0.9,
    direction: str | None = None,
    base: Any = None,
    options: Any = None,
    prices: Any = None,
    points: int | None = None,
    tolerance: float = TOLERANCE,
    replace: Any = (),
) -> tuple[Problem, int]:
    """The arguments of :func:`require` checked, as a problem and the number of values to scan."""
    paths = [vary] if isinstance(vary, str) else list(vary)
    _check(paths, direction, points, tolerance, probability)
    wanted = conditions(target)
    if not wanted:
        raise SpecError([Fault("target", "", 'needs a condition, such as "mfu >= 0.5"')])
    specs, choice, given = _specs(model, cluster, strategy, devices, global_batch, base, options, paths)
    lows, highs = _ends("low", low, paths), _ends("high", high, paths)
    fields = [locate_field(path, specs, a, b) for path, a, b in zip(paths, lows, highs, strict=True)]
    if len({(f.place.root, f.place.steps) for f in fields}) < len(fields):
        raise SpecError([Fault("vary", ", ".join(paths)[:120], "names one field twice")])
    varied = any(f.path == "cluster.devices" for f in fields)
    if varied and specs["strategy"].dp is not None:  # it follows
        specs["strategy"] = specs["strategy"].model_copy(update={"dp": None})
    if choice is not None:
        choice = _choice(choice, fields)
    fields = [usable(f, specs, choice) for f in fields]
    own, level = own_quantities(replace), checked_level(level)
    problem = Problem(wanted, tuple(fields), specs, choice, given or varied, own, level, probability)
    if prices is not None and len(fields) < 2:
        raise SpecError([Fault("prices", "", "are for two fields; the least of one is also the cheapest")])
    return problem, points or _points(problem)


def _points(problem: Problem) -> int:
    """How many values are scanned by default."""
    if len(problem.fields) == 2:
        return POINTS["curve"]
    if problem.choice is not None:
        return POINTS["best"]
    item = problem.fields[0]
    few = item.whole is not None and not problem.alone(item) and len(item.whole) <= MOST_TRIED
    return len(item.whole or ()) if few else POINTS["one"]


def _specs(
    model: Any, cluster: Any, strategy: Any, devices: Any, global_batch: Any, base: Any, options: Any, paths: list[str]
) -> tuple[dict[str, Any], dict[str, Any] | None, bool]:
    """The design as it is, what to choose strategies from (None: nothing), and whether the device count holds."""
    if not (isinstance(strategy, str) and strategy == BEST):
        extra = {"global_batch": global_batch, "base": base, "options": options}
        for name, value in extra.items():
            if value is not None:
                raise SpecError([Fault(name, repr(value)[:60], 'is for strategy="best"; name it in the strategy')])
        specs = load_specs(model, cluster, strategy, devices)
        planned: Any = specs["strategy"]
        if devices is None and planned.dp is not None:
            count = planned.tp * planned.pp * planned.cp * planned.dp
            specs["cluster"] = specs["cluster"].model_copy(update={"devices": count})
        return specs, None, devices is not None or planned.dp is None
    if global_batch is None:
        raise SpecError([Fault("global_batch", "", 'is required with strategy="best"')])
    fixed = _fixed(base)
    specs = load_specs(model, cluster, {**fixed, "global_batch": global_batch}, devices)
    if devices is None and not {"devices", "cluster.devices"} & set(paths):
        raise SpecError([Fault("devices", "", 'is required with strategy="best"')])
    return specs, {"base": fixed, "options": options, "global_batch": global_batch}, True


def _fixed(base: Any) -> dict[str, Any]:
    """Fields of the strategy that stay as they are."""
    if isinstance(base, Spec):
        raise SpecError([Fault("base", type(base).__name__, "must be text or a mapping of the fields that stay fixed")])
    return parse_strategy(base) if isinstance(base, str) else dict(base or {})


def _choice(choice: dict[str, Any], fields: list[Field]) -> dict[str, Any]:
    """A varied field of the strategy is not chosen as well; micro-batches go up to the largest global batch."""
    for item in fields:
        if item.place.root != "strategy":
            continue
        if item.place.field == "global_batch":
            choice = {**choice, "global_batch": int(item.high)}
            continue
        if item.place.field in (choice["options"] or {}):
            raise SpecError([Fault(f"options.{item.place.field}", "", "varies already")])
        value = item.typed(item.low).item()
        choice = {**choice, "base": {**choice["base"], item.place.field: value}}
    return choice


def _ends(name: str, given: Any, paths: list[str]) -> list[Any]:
    """One end of the range for each field."""
    if len(paths) == 1 and not isinstance(given, list | tuple):
        return [given]
    ends = [None] * len(paths) if given is None else list(given) if isinstance(given, list | tuple) else [given]
    if len(ends) != len(paths):
        raise SpecError([Fault(name, repr(given)[:60], f"must have {len(paths)} values, one a field (None: default)")])
    return ends


def _check(paths: list[Any], direction: Any, points: Any, tolerance: Any, probability: Any) -> None:
    """Plain arguments.

    Raises:
        SpecError: with all faults.
    """
    faults = []
    if not 1 <= len(paths) <= 2 or not all(isinstance(path, str) for path in paths):
        faults.append(Fault("vary", repr(paths)[:80], "must be one field or two"))
    if direction not in (None, "least", "most"):
        faults.append(Fault("direction", repr(direction)[:40], "must be least or most"))
    if points is not None and (not isinstance(points, int) or not 3 <= points <= 100_000):
        faults.append(Fault("points", repr(points)[:40], "must be a whole number from 3 to 100,000"))
    if not isinstance(tolerance, int | float) or not 1e-12 <= tolerance <= 0.5:
        faults.append(Fault("tolerance", repr(tolerance)[:40], "must lie between 1e-12 and 0.5"))
    if not isinstance(probability, int | float) or not 0.5 <= probability <= 0.99:
        faults.append(Fault("probability", repr(probability)[:40], "must lie between 0.5 and 0.99"))
    if faults:
        raise SpecError(faults)
