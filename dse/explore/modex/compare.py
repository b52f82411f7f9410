"""How many measurements each way of choosing needs, and how often its intervals hold, over many seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.explore.modex.loop import Settings, State, choose, look, truth
from dse.explore.modex.problem import Problem, Table

if TYPE_CHECKING:
    import pandas as pd


def contest(
    problem: Problem, strategies: Sequence[str] = ("regret", "random"), seeds: int = 20, *,
    settings: Settings | None = None, most: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Run every strategy from nothing to the last candidate (or ``most``), with each seed.

    All strategies share the prior, the discrepancy, the calibration and the rule to stop; only the choice differs.
    The right decision is the one that all values of the table give.

    Returns:
        One row a strategy and seed: ``settled``: measurements after which the decision is right and stays so;
        ``stopped``: after which the loop would have stopped; ``right``: whether its decision then was; ``regret`` of
        that decision; ``covered``: share of intervals of candidates not yet measured that hold their value, over all
        steps from the third measurement to the stop or the tenth, whichever is later; ``covered_at_stop``: at the
        stop alone; ``intervals``: how many.

    Raises:
        SpecError: the source is not a table with a value for every candidate.
    """
    import pandas as pd

    known = truth(problem)
    rows = []
    for strategy in strategies:
        for seed in range(seeds):
            source = problem.source.shuffled(seed) if isinstance(problem.source, Table) else problem.source
            how = replace(settings or Settings(), strategy=strategy, seed=seed)
            rows.append({"strategy": strategy, "seed": seed, **_one(replace(problem, source=source), how, known, most)})
    return pd.DataFrame(rows)


def summary(problem: Problem, runs: pd.DataFrame, seeds: int) -> pd.DataFrame:
    """One row a strategy, and one for someone without a model (``unaided``).

    Returns:
        ``settled``: mean; ``settled_90``: in nine of ten seeds; ``stopped``, ``right``, ``regret``: means;
        ``covered``: share of all intervals.
    """
    import pandas as pd

    rows = []
    for strategy, part in runs.groupby("strategy", sort=False):
        held = float(np.nansum(part["covered"] * part["intervals"]))
        rows.append(
            {
                "strategy": strategy, "settled": part["settled"].mean(), "settled_90": nine_of_ten(part["settled"]),
                "stopped": part["stopped"].mean(), "right": part["right"].mean(), "regret": part["regret"].mean(),
                "covered": held / part["intervals"].sum() if part["intervals"].sum() else np.nan,
            }
        )  # fmt: skip
    known = truth(problem)
    alone = [unaided(problem, np.random.default_rng([seed, 3]), known) for seed in range(max(seeds, 100))]
    rows.append({"strategy": "unaided", "settled": np.mean(alone), "settled_90": nine_of_ten(alone)})
    return pd.DataFrame(rows)


def prior_is_right(problem: Problem) -> bool:
    """Whether the analytic model alone makes the decision that all values of the table give."""
    known, view = truth(problem), look(problem, State(), Settings())
    lost = problem.decision.regret(view.belief.taken, problem.decision.loss(problem.decision.quantity(known)))
    return bool(lost <= problem.decision.tolerance)


def nine_of_ten(counts: Any) -> float:
    """The number that is enough in at least nine of ten runs."""
    return float(np.quantile(np.asarray(counts, float), 0.9, method="higher"))


def unaided(problem: Problem, random: np.random.Generator, known: np.ndarray) -> int:
    """Measurements after which someone without a model, who measures at random, has the right decision for good.

    Such a person compares what was measured, and nothing else.
    """
    decision, source = problem.decision, problem.source
    loss = decision.loss(decision.quantity(known))
    runs = np.repeat(np.arange(len(known)), [source.repeats(i) for i in range(len(known))] if source else 1)
    have, lost = np.zeros(len(known), bool), [np.inf]
    for row in random.permutation(runs):
        have[row] = True
        seen = np.all([(places < 0) | have[np.maximum(places, 0)] for places in (decision.rows, decision.against)], 0)
        best = decision.take(np.where(seen, loss, np.inf))
        lost.append(float(decision.regret(best, loss)) if seen[best].all() else np.inf)
    return int(np.flatnonzero(np.array(lost) > decision.tolerance)[-1]) + 1


def _one(problem: Problem, settings: Settings, known: np.ndarray, most: int | None) -> dict[str, Any]:
    state = State()
    loss = problem.decision.loss(problem.decision.quantity(known))
    total = sum(problem.source.repeats(i) for i in range(len(known))) if problem.source else 0
    lost, unsure, held, counted = [], [], [], []
    while True:
        view = look(problem, state, settings)
        lost.append(float(problem.decision.regret(view.belief.taken, loss)))
        unsure.append(view.probability)
        rest = np.setdiff1d(np.arange(len(known)), state.rows)
        low, _, high = view.interval(rest)
        held.append(int(((np.log(low) <= known[rest]) & (known[rest] <= np.log(high))).sum()))
        counted.append(len(rest))
        picked = choose(problem, state, settings, view) if most is None or len(state.rows) < most else None
        value = problem.source.measure(picked[0], state.measured(picked[0])) if picked and problem.source else None
        if picked is None or value is None:
            break
        state.add(problem, view, *picked, value)
    wrong = np.flatnonzero(np.array(lost) > problem.decision.tolerance)
    calm = np.flatnonzero(np.array(unsure) < settings.stop)
    stopped = int(calm[0]) if len(calm) else len(lost) - 1
    part = slice(3, max(stopped, 10) + 1)
    return {
        "settled": int(wrong[-1]) + 1 if len(wrong) else 0, "stopped": stopped,
        "right": lost[stopped] <= problem.decision.tolerance, "regret": float(np.expm1(lost[stopped])),
        "covered": sum(held[part]) / sum(counted[part]) if sum(counted[part]) else np.nan,
        "intervals": sum(counted[part]), "total": total,
        "covered_at_stop": held[stopped] / counted[stopped] if counted[stopped] else np.nan,
    }  # fmt: skip
