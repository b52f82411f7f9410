"""The least (or most) of one resource that meets a target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dse.errors import InfeasibleDesign
from dse.explore.objectives import quantity_value
from dse.explore.require.answer import Requirement
from dse.explore.require.field import Field
from dse.explore.require.problem import Problem
from dse.explore.require.scan import Crossing, edge, refine, rising, runs
from dse.explore.result import Result
from dse.units import engineering

MANY = 64  # runs of met values whose ends are made exact


def solve(problem: Problem, *, points: int, tolerance: float, direction: str | None) -> Requirement:
    """Scan the range of the problem's only field and make the crossings exact.

    Raises:
        InfeasibleDesign: no value meets the target; says what comes nearest and what bounds it.
    """
    item = problem.fields[0]
    values, exhaustive = scanned(item, points)
    scores = problem.scores(values[None])
    if item.whole is not None:  # values without any legal design are no gap between those with one
        legal = ~np.isnan(scores[0])
        values, scores = values[legal], scores[:, legal]
    if not np.any(scores[:1] >= 0):
        raise InfeasibleDesign(unreached(problem, values, scores))
    least = direction == "least" if direction else rising(scores[0])
    edges = [edge(values, scores[case], case, least=least) for case in range(len(problem.cases))]
    ends = [_ends(values, span) for span in runs(scores[0] >= 0)[:MANY]]
    if not exhaustive:
        refine([*edges, *(c for pair in ends for c in pair)], item, tolerance, problem.scores)
    found = _nested([c.met for c in edges], least=least)
    now = item.current
    return Requirement(
        problem=problem,
        least=least,
        found=found,
        intervals=[(low.met, high.met) for low, high in ends],
        current_score=None if now is None else float(problem.scores([[now]])[0, 0]),
        values=values,
        scores=scores,
        exhaustive=exhaustive,
        design=problem.designs([[found[0]]])[0],
        strategy=problem.strategies([[found[0]]])[0],
    )


def scanned(item: Field, points: int) -> tuple[np.ndarray, bool]:
    """The values of the scan, the current one among them, and whether they are all that can be legal."""
    values = item.scan(points)
    exhaustive = item.whole is not None and item.complete and len(values) == len(item.whole)
    if item.whole is None and item.current is not None and item.low < item.current < item.high:
        values = np.union1d(values, item.current)
    return values, exhaustive


def _ends(values: np.ndarray, span: tuple[int, int]) -> tuple[Crossing, Crossing]:
    """The crossings at both ends of a run of met values."""
    first, last = span
    below, above = max(first - 1, 0), min(last + 1, len(values) - 1)
    return (
        Crossing(0, float(values[below]), float(values[first])),
        Crossing(0, float(values[above]), float(values[last])),
    )


def _nested(found: list[float], *, least: bool) -> list[float]:
    """The ends in order: what meets the target at a worse case meets it at the prediction, and so on."""
    better = np.fmin if least else np.fmax
    point, optimistic, pessimistic, probable = found
    point = float(better(better(point, pessimistic), probable))
    return [point, float(better(optimistic, point)), pessimistic, probable]


# -- where nothing meets the target ---------------------------------------------------------------------------------


def unreached(problem: Problem, values: np.ndarray, scores: np.ndarray) -> str:
    """What comes nearest to the target within the range, and what bounds it there."""
    item = problem.fields[0]
    wanted = " and ".join(c.text for c in problem.conditions)
    asked = f"{wanted} is not met by any {item.path} from {item.shown(item.low)} to {item.shown(item.high)}"
    score = np.where(np.isfinite(scores[0]), scores[0], -np.inf)
    if not np.isfinite(score).any():
        legal = np.flatnonzero(~np.isnan(scores[0]))
        at = values[legal[-1]] if len(legal) else item.high if item.current is None else item.current
        return f"{asked}: {no_design(problem, [float(at)])}"
    place = int(np.argmax(score))
    design = problem.designs([[values[place]]])[0]
    return f"{asked}: nearest is {reached_text(problem, design)} at {item.shown(values[place])}; {bound_text(design)}"


def reached_text(problem: Problem, design: Result) -> str:
    """What a design reaches of each condition."""
    evaluation = design.cells[0].evaluation
    values = {c.name: engineering(float(quantity_value(evaluation, c.name)), c.unit) for c in problem.conditions}
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def bound_text(design: Result, most: int = 4) -> str:
    """The largest terms of a design's step time."""
    terms = design.breakdown("time").astype(float).nlargest(most)
    whole = float(terms.sum() and design["step_time"])
    shown = ", ".join(f"{name} {value / whole:.0%}" for name, value in terms.items() if value > 0)
    return f"there {shown} of the step time" if shown else "there the step takes no time"


def no_design(problem: Problem, point: Sequence[float]) -> str:
    """Why no design is allowed at a point."""
    from dse.explore.best import best

    if problem.choice is None:
        why = [reason["why"] for reason in problem.designs([[value] for value in point])[0].reasons()]
        return "; ".join(why) or "no design is legal"
    space = problem.space(point)
    choice = {**problem.choice, "devices": space.specs["cluster"].devices}
    try:
        best(space.specs["model"], space.specs["cluster"], **choice, top=1)
    except InfeasibleDesign as error:
        return str(error)
    return "no strategy is legal and fits"
