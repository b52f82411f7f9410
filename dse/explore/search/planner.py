"""Which points a search evaluates: a pure function of the seed and of the results so far.

A search goes by generations of ``batch`` points. A generation is planned as a whole, before any of its results; it is
told as a whole, in the order of its slots. How many workers evaluate it, in which order and after how many crashes
therefore changes nothing, and a search resumed is replayed to where it stopped: 30 trials are 15 and 15 more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from random import Random

from dse.errors import Fault, SpecError
from dse.explore.search.outcome import Outcome
from dse.explore.search.space import Point, Space, Variable
from dse.explore.search.streams import DESIGNS, SAMPLERS, open_stream

EXHAUSTIVE = 10**8  # points
ENUMERATION = 600.0  # s that an enumeration may take where the time of a point is known
COSTLY = 1.0  # s
ATTEMPTS = 8  # points asked again before a seen one is replaced
METHODS = (*SAMPLERS, *DESIGNS)


def choose_method(space_size: int | None, objectives: int, continuous: bool, seconds_per_trial: float = 0.0) -> str:
    """The rule behind ``method="auto"``; the first line that applies.

    1. ``exhaustive``: at most 1e8 points, which together take at most ten minutes. The caller enumerates them.
    2. A trial costs more than 1 s: ``gp`` when PyTorch is installed, else ``tpe``. They learn most from each trial.
    3. Several objectives: ``nsga2``, from four objectives on ``nsga3`` (crowding distances tell little apart).
    4. One objective, every variable continuous: ``cmaes``.
    5. One objective, discrete or mixed: ``tpe``.

    Args:
        space_size: number of points; None when infinite.
        objectives: number of objectives.
        continuous: whether every variable is continuous.
        seconds_per_trial: seconds that one evaluation takes.
    """
    if space_size is not None and space_size <= EXHAUSTIVE and space_size * seconds_per_trial <= ENUMERATION:
        return "exhaustive"
    if seconds_per_trial > COSTLY:
        return "gp" if find_spec("torch") else "tpe"
    if objectives > 1:
        return "nsga2" if objectives < 4 else "nsga3"
    return "cmaes" if continuous else "tpe"


def default_batch(method: str, variables: int, objectives: int) -> int:
    """Points in a generation when the caller does not say; never a matter of how many workers there are.

    NSGA-II and NSGA-III: 32, or as many as NSGA-III has reference directions (three divisions, Das and Dennis), to the
    next multiple of four. CMA-ES: Hansen's 4 + floor(3 ln n), 6 at least. TPE and GP: 4, since each of them learns from
    every result. Designs: 32.
    """
    if method == "nsga3":
        return max(32, 4 * math.ceil(math.comb(objectives + 2, 3) / 4))
    if method == "cmaes":
        return max(6, 4 + math.floor(3 * math.log(variables)))
    return 4 if method in ("tpe", "gp") else 32


def check_method(method: str, space: Space, directions: Sequence[str], seed: int, batch: int) -> None:
    """Refuse what a method cannot do.

    Raises:
        SpecError: an unknown method or direction, or a space or number of objectives that the method cannot search.
    """
    faults = []
    if method not in METHODS:
        faults.append(
            Fault(
                "search.method",
                str(method)[:40],
                f"must be one of {', '.join(('auto', 'exhaustive', 'bound', *METHODS))}",
            )
        )
    if not directions or any(direction not in ("minimize", "maximize") for direction in directions):
        faults.append(Fault("search.directions", str(list(directions))[:80], "each is minimize or maximize"))
    if not 0 <= seed < 2**32:
        faults.append(Fault("search.seed", str(seed)[:40], "must be from 0 to 4294967295"))
    if batch < 1:
        faults.append(Fault("search.batch", str(batch), "must be at least 1"))
    if method == "grid" and space.size is None:
        faults.append(Fault("search.method", "grid", "needs discrete variables; give the continuous ones values"))
    if method == "cmaes" and len(directions) > 1:
        faults.append(Fault("search.method", "cmaes", "has one objective; use nsga2, nsga3 or tpe for several"))
    if method == "cmaes" and any(variable.categorical for variable in space.variables):
        faults.append(Fault("search.method", "cmaes", "has no categorical variables; use tpe, nsga2 or gp"))
    if method in ("nsga2", "nsga3", "cmaes") and batch < 4:
        faults.append(Fault("search.batch", str(batch), f"{method} needs a population of at least 4"))
    if method == "gp" and find_spec("torch") is None:
        faults.append(Fault("search.method", "gp", "needs PyTorch (pip install torch); tpe does without"))
    if faults:
        raise SpecError(faults)


class Planner:
    """Plans a search generation by generation, each point once.

    A point that comes up again is refused and another asked for; after eight refusals the next unseen point of a
    permutation of the space (a uniform draw where the space is infinite) takes its place. So a finite space with
    enough trials is enumerated, and then the plan is empty.

    Args:
        variables: the dimensions of the search.
        directions: ``minimize`` or ``maximize`` for each objective.
        seed: of everything random.
        method: one of ``METHODS``.
        batch: points in a generation.
        first: points to begin with.
    """

    def __init__(
        self,
        variables: Sequence[Variable],
        directions: Sequence[str],
        *,
        seed: int,
        method: str,
        batch: int,
        first: Sequence[Point] = (),
    ) -> None:
        self.space = Space(tuple(variables))
        self.batch = batch
        check_method(method, self.space, directions, seed, batch)
        self._stream = open_stream(method, self.space, directions, seed, batch)
        self._seen: set[tuple] = set()
        self._random = Random(f"unseen points {seed}")
        self._cursor = 0
        self._first = list(first)
        size = self.space.size or 1
        self._start = self._random.randrange(size)
        # A stride without a common factor with the size visits every index: a permutation that needs no memory.
        self._stride = next(s for s in iter(lambda: self._random.randrange(1, size + 1), 0) if math.gcd(s, size) == 1)

    def plan(self) -> list[Point]:
        """The points of the next generation: ``batch`` of them, fewer when the space runs out, none when it has.

        Each plan but the first needs the results of the one before (``tell``).
        """
        size = self.space.size
        room = self.batch if size is None else min(self.batch, size - len(self._seen))
        return [self._next() for _ in range(room)]

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """The results of the generation planned last, in the order of its points."""
        self._stream.tell(outcomes)

    def _next(self) -> Point:
        while self._first:
            point = self._first.pop(0)
            if self._fresh(point):
                self._stream.insert(point)
                return point
        for _ in range(ATTEMPTS):
            point = self._stream.propose()
            if self._fresh(point):
                self._stream.accept()
                return point
            self._stream.reject()
        point = self._unseen()
        self._stream.insert(point)
        return point

    def _unseen(self) -> Point:
        size = self.space.size
        while True:
            if size is None:
                point = self.space.at([self._random.random() for _ in self.space.variables])
            else:
                point = self.space.point((self._start + self._cursor * self._stride) % size)
                self._cursor += 1
            if self._fresh(point):
                return point

    def _fresh(self, point: Point) -> bool:
        key = tuple(point.values())
        if key in self._seen:
            return False
        self._seen.add(key)
        return True
