"""The loop: predict, say how sure, choose what to measure for the decision's sake, measure, until it stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.explore.modex import acquire, gp
from dse.explore.modex.calibrate import EARLY, half_width, score
from dse.explore.modex.problem import Problem, Table

if TYPE_CHECKING:
    import pandas as pd

REFIT = 16  # measurements up to which lengths are fitted each time; then whenever there are 15 % more
GROWTH = 1.15
CHOICES = 2000  # candidates that are weighed at once, and
PAIRS = 1_500_000  # candidates times open options; more are thinned out
WATCHED = 12  # options whose intervals are kept for each step


@dataclass(frozen=True)
class Settings:
    """How the loop goes.

    Args:
        strategy: one of :data:`dse.explore.modex.acquire.NAMES`.
        seed: of the reserve, of random choices and of the draws behind probabilities.
        stop: the decision is stable where the probability that it would change is below this.
        reserve: every so many-th measurement is drawn at random; 0: none, and intervals are the model's.
        level: of the intervals.
        patience: steps in a row that the decision must be stable.
    """

    strategy: str = "regret"
    seed: int = 0
    stop: float = 0.05
    reserve: int = 4
    level: float = 0.9
    patience: int = 1

    def __post_init__(self) -> None:
        faults = []
        if self.strategy not in acquire.NAMES:
            faults.append(Fault("strategy", repr(self.strategy)[:40], f"must be one of {', '.join(acquire.NAMES)}"))
        if not 0 <= self.stop < 1:
            faults.append(Fault("stop", str(self.stop), "must be at least 0 and below 1"))
        if not 0 < self.level < 1:
            faults.append(Fault("level", str(self.level), "must be between 0 and 1"))
        if self.reserve < 0 or self.reserve == 1:
            faults.append(Fault("reserve", str(self.reserve), "must be 0, or at least 2"))
        if self.patience < 1:
            faults.append(Fault("patience", str(self.patience), "must be at least 1"))
        if not 0 <= self.seed < 2**63:
            faults.append(Fault("seed", str(self.seed), "must be 0 to 2^63 - 1"))
        if faults:
            raise SpecError(faults)


@dataclass(frozen=True)
class Step:
    """One measurement and what is believed after it; the first step has none.

    ``predicted``, ``low`` and ``high`` are what the loop expected of the value before it was measured. ``why`` is the
    strategy, ``reserve`` or ``told``. ``probability`` is that of another decision were all known, ``regret`` the
    expected one, as a fraction; ``stretch`` the factor by which calibration widens the model's deviations; ``spread``
    half the median width of the intervals of what is not measured, as a factor. ``watched`` holds the options that
    matter most: name, low, middle, high, target or not.
    """

    number: int
    row: int
    name: str
    why: str
    value: float | None
    predicted: float | None
    low: float | None
    high: float | None
    spent: float
    decision: str
    probability: float
    regret: float
    stretch: float
    spread: float
    watched: tuple[tuple[str, float, float, float], ...] = ()


@dataclass
class State:
    """Measurements so far, in order, and how far those of the reserve were off."""

    rows: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)  # of the reserve
    point: np.ndarray | None = None
    fitted: int = -1

    def posterior(self, problem: Problem) -> gp.Posterior:
        """The discrepancy given all measurements; lengths are fitted again where there are enough more."""
        rows, y = np.asarray(self.rows, int), np.log(np.asarray(self.values, float))
        y = y - problem.log_predicted[rows]
        due = len(rows) <= REFIT or len(rows) >= self.fitted * GROWTH
        if self.point is None or (due and len(rows) != self.fitted):
            self.point, self.fitted = gp.fit(problem.kernel, rows, y, self.point), len(rows)
        return gp.condition(problem.kernel, rows, y, self.point)

    def add(self, problem: Problem, view: View, row: int, why: str, value: float) -> None:
        """Take in a measurement; ``view`` is what was believed before."""
        if why in ("reserve", "random") and len(self.rows) >= EARLY and row not in self.rows:
            y = float(np.log(value) - problem.log_predicted[row])
            self.scores.append(score(view.belief.posterior, row, y))
        self.rows.append(row)
        self.values.append(value)

    def measured(self, row: int) -> int:
        """How often a row was measured."""
        return self.rows.count(row)


@dataclass(frozen=True)
class View:
    """What is believed at one step."""

    belief: acquire.Belief
    deviations: float  # on each side of an interval
    probability: float
    regret: float

    def interval(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Low, middle and high of a measurement of these rows."""
        posterior, prior = self.belief.posterior, self.belief.prior[rows]
        middle = posterior.mean(rows) + prior
        half = self.deviations * np.sqrt(posterior.variance(rows) + posterior.noise)
        return np.exp(middle - half), np.exp(middle), np.exp(middle + half)


def look(problem: Problem, state: State, settings: Settings) -> View:
    """Fit, calibrate and decide."""
    posterior = state.posterior(problem)
    deviations, stretch = half_width(posterior, state.scores, settings.level)
    belief = acquire.believe(posterior, problem.decision, problem.log_predicted, stretch)
    random = np.random.default_rng([settings.seed, len(state.rows), 1])
    return View(belief, deviations, *acquire.probability(belief, random))


def choose(problem: Problem, state: State, settings: Settings, view: View) -> tuple[int, str] | None:
    """The next candidate and why; None where nothing is left to measure."""
    done = np.bincount(np.asarray(state.rows, int), minlength=len(problem.names))
    most = np.array([problem.source.repeats(i) if problem.source else 1 for i in range(len(problem.names))])
    left = np.flatnonzero(done < most)
    if not len(left):
        return None
    random = np.random.default_rng([settings.seed, len(state.rows), 2])
    fresh = left[done[left] == 0]
    due = settings.reserve and (len(state.rows) + 1) % settings.reserve == 0
    if due and len(fresh) and settings.strategy != "random":
        return int(random.choice(fresh)), "reserve"
    if settings.strategy == "random":
        # Whoever picks at random picks among runs, so a candidate with several counts several times.
        return int(random.choice(np.repeat(left, (most - done)[left]))), "random"
    left = _thinned(problem, view, left, random)
    worth = acquire.scores(settings.strategy, view.belief, left, problem.costs[left])
    return int(left[int(np.argmax(worth))]), settings.strategy


def _thinned(problem: Problem, view: View, left: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """At most so many candidates: those that open options hang on first, the others by chance."""
    decision, options = problem.decision, view.belief.open
    most = min(CHOICES, max(CHOICES // 8, PAIRS // max(len(options), 1)))
    if len(left) <= most:
        return left
    hangs = np.isin(left, np.concatenate([decision.rows[options], decision.against[options]]))
    order = np.argsort(random.random(len(left)) - hangs, kind="stable")
    return np.sort(left[order[:most]])


def note(problem: Problem, state: State, view: View, before: tuple[View, str] | None, spent: float) -> Step:
    """The log's entry for the state after the last measurement."""
    watched = _watched(view)
    rest = np.setdiff1d(np.arange(len(problem.names)), state.rows)
    low, _, high = view.interval(rest if len(rest) else np.arange(len(problem.names)))
    common: dict[str, Any] = {
        "number": len(state.rows), "spent": spent, "decision": problem.decision.text(view.belief.taken),
        "probability": view.probability, "regret": float(np.expm1(view.regret)), "stretch": view.belief.stretch,
        "spread": float(np.exp(0.5 * np.median(np.log(high / low)))), "watched": watched,
    }  # fmt: skip
    if before is None:
        return Step(row=-1, name="", why="", value=None, predicted=None, low=None, high=None, **common)
    row = state.rows[-1]
    was = before[0].interval(np.array([row]))
    return Step(
        row=row, name=str(problem.names[row]), why=before[1], value=state.values[-1], low=float(was[0][0]),
        predicted=float(was[1][0]), high=float(was[2][0]), **common,
    )  # fmt: skip


def _watched(view: View) -> tuple[tuple[str, float, float, float], ...]:
    """Intervals of what the most promising options depend on, as factors."""
    belief = view.belief
    real = np.flatnonzero(belief.decision.rows >= 0)
    if len(real) > WATCHED:
        lost = belief.loss - belief.decision.least(belief.loss)[belief.decision.group]
        real = np.sort(real[np.argsort(lost[real], kind="stable")[:WATCHED]])
    half = view.deviations * np.sqrt(belief.variance[real]) / belief.stretch
    ends = np.exp(np.stack([belief.mean[real] - half, belief.mean[real], belief.mean[real] + half], axis=1))
    return tuple((belief.decision.names[i], *map(float, row)) for i, row in zip(real, ends, strict=True))


@dataclass(frozen=True)
class Loop:
    """A loop that was run: its log, and what is believed at the end.

    ``ended`` is ``stable``, ``budget``, ``exhausted`` or ``waiting`` (the value of ``next`` is not known yet).
    """

    problem: Problem
    settings: Settings
    steps: tuple[Step, ...]
    ended: str
    next: int | None
    view: View
    state: State

    @property
    def decision(self) -> str:
        """The options taken."""
        return self.steps[-1].decision

    @property
    def measurements(self) -> int:
        """How many were made."""
        return self.steps[-1].number

    def table(self) -> pd.DataFrame:
        """Every candidate: measured or not, the interval of a measurement, its prior."""
        import pandas as pd

        low, middle, high = self.view.interval(np.arange(len(self.problem.names)))
        rows = [step.row for step in self.steps]
        return pd.DataFrame(
            {
                "name": list(map(str, self.problem.names)), "prior": np.exp(self.problem.log_predicted), "low": low,
                "value": middle, "high": high, "measured": [rows.count(i) for i in range(len(low))],
            }
        )  # fmt: skip

    def log(self) -> pd.DataFrame:
        """The steps as a table."""
        import pandas as pd

        return pd.DataFrame([{k: v for k, v in vars(step).items() if k != "watched"} for step in self.steps])

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what was decided, how sure, and every step."""
        last = self.steps[-1]
        return {
            "problem": self.problem.name, "digest": self.problem.digest, "unit": self.problem.unit,
            "settings": vars(self.settings), "ended": self.ended, "decision": last.decision,
            "probability_of_change": last.probability, "expected_regret": last.regret, "measurements": last.number,
            "spent": last.spent, "next": None if self.next is None else str(self.problem.names[self.next]),
            "steps": [vars(step) for step in self.steps],
        }  # fmt: skip

    def __str__(self) -> str:
        from dse.explore.modex.text import report

        return report(self)


def run(
    problem: Problem, settings: Settings, *, budget: float | None = None, most: int | None = None,
    past: tuple[State, Sequence[Step]] | None = None, told: Sequence[tuple[int, float]] = (),
    keep: Callable[[Loop], None] | None = None, stop: bool = True,
) -> Loop:  # fmt: skip
    """Go through the loop.

    Args:
        budget: cost that may be spent; most: measurements that may be made; each may be left out.
        past: an earlier loop of the same problem that this one goes on with.
        told: rows and values that were measured elsewhere, taken in before anything is chosen.
        keep: called after every step with the loop so far, such as to write it to a file.
        stop: False goes on although the decision is stable.
    """
    state, steps = (past[0], list(past[1])) if past else (State(), [])
    spent, calm, waiting = (steps[-1].spent if steps else 0.0), 0, list(told)
    view = look(problem, state, settings)
    if not steps:
        steps.append(note(problem, state, view, None, spent))
    while True:
        calm = calm + 1 if view.probability < settings.stop else 0
        picked: tuple[int, str] | None
        if waiting:
            row, value = waiting.pop(0)
            picked, ended = (row, "told"), ""
        else:
            picked = choose(problem, state, settings, view)
            ended = _ended(problem, picked, spent, budget, len(state.rows), most, stop and calm >= settings.patience)
            value = None if ended or picked is None else _measured(problem, state, picked[0])
            ended = ended or ("waiting" if value is None else "")
        if keep is not None:
            keep(Loop(problem, settings, tuple(steps), ended or "running", picked and picked[0], view, state))
        if picked is None or value is None:
            return Loop(problem, settings, tuple(steps), ended, picked and picked[0], view, state)
        state.add(problem, view, *picked, value)
        spent += float(problem.costs[picked[0]])
        before, view = (view, picked[1]), look(problem, state, settings)
        steps.append(note(problem, state, view, before, spent))


def _ended(
    problem: Problem, picked: tuple[int, str] | None, spent: float, budget: float | None, done: int, most: int | None,
    stable: bool,
) -> str:  # fmt: skip
    if stable:
        return "stable"
    if picked is None:
        return "exhausted"
    over = budget is not None and spent + float(problem.costs[picked[0]]) > budget
    return "budget" if over or (most is not None and done >= most) else ""


def _measured(problem: Problem, state: State, row: int) -> float | None:
    return problem.source.measure(row, state.measured(row)) if problem.source else None


def truth(problem: Problem) -> np.ndarray:
    """Logarithms of all values where the source is a table that holds them, (candidates,).

    Raises:
        SpecError: it is not, or candidates are missing.
    """
    found = problem.source.truth if isinstance(problem.source, Table) else np.array([np.nan])
    if not np.isfinite(found).all():
        raise SpecError([Fault("source", "", "must be a table with a value for every candidate")])
    return found
