"""A loop as a file: written after every step, never half, and gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.explore.modex.loop import Loop, Settings, State, Step
from dse.explore.modex.problem import Problem
from dse.plain import finite
from dse.study.export import write_atomically
from dse.study.provenance import version

SAME = ("strategy", "seed", "reserve", "level")  # settings that cannot change on the way


def save(loop: Loop, path: Path) -> None:
    """Write the log, with what the loop needs to go on from here.

    Raises:
        StudyError: the file cannot be written; what was there before is untouched.
    """
    state = loop.state
    kept = {
        "dse_version": version(), **loop.to_dict(), "scores": state.scores, "fitted": state.fitted,
        "point": None if state.point is None else state.point.tolist(),
    }  # fmt: skip
    text = json.dumps(finite(kept), indent=1)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8") and None)


def load(path: Path, problem: Problem, settings: Settings) -> tuple[State, list[Step]]:
    """The state and the steps of a saved loop.

    Raises:
        SpecError: no such log, or one of another problem or of other settings.
    """
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        steps = [Step(**{**step, "watched": tuple(tuple(w) for w in step["watched"])}) for step in kept["steps"]]
        point = None if kept["point"] is None else np.array(kept["point"], float)
        state = State([], [], [float(score) for score in kept["scores"]], point, int(kept["fitted"]))
        for step in steps[1:]:
            state.rows.append(int(step.row))
            state.values.append(float(step.value))  # type: ignore[arg-type]
        _check(kept, steps, state, problem, settings, str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError([Fault("file", "", f"cannot be read: {error}"[:200], str(path))]) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        rule = f"is not the log of a loop ({type(error).__name__}: {error})"[:200]
        raise SpecError([Fault("file", "", rule, str(path))]) from None
    return state, steps


def _check(
    kept: dict[str, Any], steps: list[Step], state: State, problem: Problem, settings: Settings, where: str
) -> None:
    if kept["digest"] != problem.digest:
        raise SpecError([Fault("problem", problem.name, "is not the one of this log; give another file", where)])
    for name in SAME:
        if kept["settings"][name] != getattr(settings, name):
            rule = f"must be {kept['settings'][name]!r}, as the log began; give another file to begin anew"
            raise SpecError([Fault(name, repr(getattr(settings, name)), rule, where)])
    size, width = len(problem.names), problem.kernel.features + (1 if problem.noise is not None else 2)
    whole = steps and all(0 <= row < size for row in state.rows)
    right = state.point is None or (state.point.shape == (width,) and np.isfinite(state.point).all())
    if not (
        whole and right and all(np.isfinite(v) and v > 0 for v in state.values) and np.isfinite(state.scores).all()
    ):
        raise SpecError([Fault("steps", "", "do not fit the problem", where)])
