"""The ModEx loop: a model predicts, measurements correct it, and the next one is chosen for the decision's sake.

``prior (analytic model) → discrepancy (Gaussian process on log ratio) → calibrated interval → the measurement that is
expected to lower the decision's regret most for its cost → measure → again, until the decision is stable``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dse.explore.modex.loop import Loop
    from dse.explore.modex.problem import Problem


def modex(
    problem: Problem | str | Path, *, budget: float | None = None, measurements: int | None = None,
    strategy: str = "regret", seed: int = 0, stop: float = 0.05, reserve: int = 4, level: float = 0.9,
    patience: int = 1, file: str | Path | None = None, tell: Mapping[str, float] | None = None,
) -> Loop:  # fmt: skip
    """Measure what a decision needs, and no more.

    Args:
        problem: a :class:`~dse.explore.modex.problem.Problem`, a YAML file (:mod:`dse.explore.modex.spec`), or the name
            of a ready one with its options, such as ``"scream:machine=Summit,target=120"``
            (:data:`dse.explore.modex.ready.READY`).
        budget: cost of measuring that may be spent, in the problem's unit; measurements: that may be made.
        strategy: ``regret``; ``variance``, ``variance-per-cost``, ``improvement`` or ``random`` to compare with.
        seed: of everything that is drawn.
        stop: the decision is stable where it would change with less than this probability were all known.
        reserve: every so many-th measurement is drawn at random, which keeps intervals honest; 0: none.
        level: of the intervals.
        patience: steps in a row that the decision must be stable.
        file: log to write after every step, and to go on with where it exists.
        tell: values that were measured elsewhere, by candidate.

    Returns:
        A :class:`~dse.explore.modex.loop.Loop`: ``.decision``, ``.steps``, ``.table()``, ``.log()``, ``.next``.

    Raises:
        SpecError: a fault in the problem, the settings or the file.
        StudyError: the file cannot be written.
    """
    from dse.errors import Fault, SpecError
    from dse.explore.modex import saved
    from dse.explore.modex.loop import Settings, run
    from dse.explore.modex.ready import find

    for name, value in (("budget", budget), ("measurements", measurements)):
        if value is not None and not 0 <= value < float("inf"):
            raise SpecError([Fault(name, str(value), "must be at least 0")])
    posed = find(problem)
    settings = Settings(strategy, seed, stop, reserve, level, patience)
    told = [(posed.row(str(name)), _positive(str(name), value)) for name, value in (tell or {}).items()]
    path = None if file is None else Path(file)
    past = saved.load(path, posed, settings) if path is not None and path.exists() else None
    return run(
        posed, settings, budget=budget, most=measurements, past=past, told=told,
        keep=None if path is None else lambda loop: saved.save(loop, path),
    )  # fmt: skip


def _positive(name: str, value: Any) -> float:
    from dse.errors import Fault, SpecError

    if not 0 < float(value) < float("inf"):
        raise SpecError([Fault(f"tell.{name}"[:80], str(value)[:40], "must be positive and finite")])
    return float(value)
