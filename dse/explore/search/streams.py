"""Where the points of a search come from: Optuna's samplers, or designs laid out in advance.

A stream is asked point by point (``propose``); each is then taken (``accept``), or refused because it was seen before
(``reject``), or replaced by another (``insert``). ``tell`` gives it the results of all that was taken since last time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

from dse.explore.search.outcome import Outcome
from dse.explore.search.space import Point, Space, Variable

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial

BOUND = 1e30  # told in place of an infinity: hypervolumes of eight objectives still fit a double


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna without its notices of new studies and of interfaces that may change."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


class Stream(Protocol):
    def propose(self) -> Point: ...
    def accept(self) -> None: ...
    def reject(self) -> None: ...
    def insert(self, point: Point) -> None: ...
    def tell(self, outcomes: Sequence[Outcome]) -> None: ...


class Design:
    """Points that do not depend on results: drawn at random, by a Sobol sequence, or one after the other."""

    def __init__(self, points: Iterator[Point]) -> None:
        self._points = points

    def propose(self) -> Point:
        return next(self._points)

    def accept(self) -> None: ...

    def reject(self) -> None: ...

    def insert(self, point: Point) -> None: ...

    def tell(self, outcomes: Sequence[Outcome]) -> None: ...


def grid(space: Space, seed: int) -> Design:
    """Every point of a finite space in its order."""
    return Design(space.point(index) for index in range(space.size or 0))


def random(space: Space, seed: int) -> Design:
    """Independent uniform points (over the values of a discrete variable, along the range of a continuous one)."""
    import numpy as np

    generator = np.random.default_rng(seed)
    return Design(space.at(generator.random(len(space.variables))) for _ in count())


def qmc(space: Space, seed: int) -> Design:
    """Points of a scrambled Sobol sequence (Owen scrambling, SciPy)."""
    from scipy.stats import qmc as sequences

    sobol = sequences.Sobol(len(space.variables), scramble=True, rng=seed)
    return Design(space.at(unit) for _ in count() for unit in sobol.random(64))


class Sampler:
    """An Optuna sampler over a study in memory.

    Discrete variables stand there as indices, so that powers of two are evenly spaced. Points refused are told as
    failed, which every sampler ignores. Constraints reach it as one number, their total violation: NSGA-II, NSGA-III
    and TPE use no more than that. Undefined objectives are told as the worst seen so far, beside the violation.
    CMA-ES knows no constraints but only uses ranks, so an infeasible point ranks below each feasible one, by violation.
    """

    def __init__(self, space: Space, directions: Sequence[str], sampler: BaseSampler, *, constrained: bool) -> None:
        import optuna

        self._space = space
        self._constrained = constrained
        self._signs = [1.0 if direction == "minimize" else -1.0 for direction in directions]
        self._worst: list[float | None] = [None] * len(directions)
        self._distributions = {variable.name: _indices(variable) for variable in space.variables}
        self._open: list[Trial] = []
        with quiet():
            self._study = optuna.create_study(directions=list(directions), sampler=sampler)

    def propose(self) -> Point:
        self._asked = self._study.ask(self._distributions)
        params = self._asked.params
        return {v.name: v.values[params[v.name]] if v.values else params[v.name] for v in self._space.variables}

    def accept(self) -> None:
        self._open.append(self._asked)

    def reject(self) -> None:
        from optuna.trial import TrialState

        self._study.tell(self._asked, state=TrialState.FAIL)

    def insert(self, point: Point) -> None:
        self._study.enqueue_trial(
            {v.name: v.values.index(point[v.name]) if v.values else point[v.name] for v in self._space.variables}
        )
        self.propose()
        self.accept()

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        for trial, outcome in zip(self._open, outcomes, strict=True):
            violation = min(outcome.violation, BOUND)
            if self._constrained:
                trial.set_constraint("violation", violation)
            self._study.tell(trial, self._ranked(outcome, violation))
        self._open = []

    def _ranked(self, outcome: Outcome, violation: float) -> list[float]:
        if not self._constrained and not outcome.feasible:
            return [sign * BOUND * (2.0 + violation) for sign in self._signs]
        if not outcome.defined or outcome.values is None:
            return [0.0 if worst is None else worst for worst in self._worst]
        values = [min(max(float(value), -BOUND), BOUND) for value in outcome.values]
        for i, (value, sign) in enumerate(zip(values, self._signs, strict=True)):
            worst = self._worst[i]
            self._worst[i] = value if worst is None or sign * value > sign * worst else worst
        return values


def _indices(variable: Variable) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if variable.categorical:
        return CategoricalDistribution(range(len(variable.values)))
    if variable.values:
        return IntDistribution(0, len(variable.values) - 1)
    return FloatDistribution(variable.low, variable.high, log=variable.log)


def _nsga2(seed: int, batch: int) -> BaseSampler:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed, population_size=batch)


def _nsga3(seed: int, batch: int) -> BaseSampler:
    from optuna.samplers import NSGAIIISampler

    return NSGAIIISampler(seed=seed, population_size=batch)


def _cmaes(seed: int, batch: int) -> BaseSampler:
    from optuna.samplers import CmaEsSampler

    return CmaEsSampler(seed=seed, popsize=batch)


def _tpe(seed: int, batch: int) -> BaseSampler:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed)


def _gp(seed: int, batch: int) -> BaseSampler:
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, deterministic_objective=True)


DESIGNS: dict[str, Callable[[Space, int], Design]] = {"random": random, "qmc": qmc, "grid": grid}
SAMPLERS: dict[str, Callable[[int, int], Any]] = {
    "nsga2": _nsga2, "nsga3": _nsga3, "cmaes": _cmaes, "tpe": _tpe, "gp": _gp,
}  # fmt: skip


def open_stream(method: str, space: Space, directions: Sequence[str], seed: int, batch: int) -> Stream:
    """The stream of a method, at its start."""
    if method in DESIGNS:
        return DESIGNS[method](space, seed)
    with quiet():
        sampler = SAMPLERS[method](seed, batch)
    return Sampler(space, directions, sampler, constrained=method != "cmaes")
