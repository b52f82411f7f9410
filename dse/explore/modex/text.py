"""A loop in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dse.units import engineering

if TYPE_CHECKING:
    from dse.explore.modex.loop import Loop, Step

ENDED = {
    "stable": "the decision is stable", "budget": "the budget is spent", "exhausted": "everything is measured",
    "waiting": "waiting for a value", "running": "still running",
}  # fmt: skip
SHOWN = 40  # steps, at most: the first and the last


def report(loop: Loop) -> str:
    """The steps, the decision, how sure it is, and what to measure next."""
    last, unit = loop.steps[-1], loop.problem.unit
    wide = max((len(step.name) for step in loop.steps), default=0)
    wide = min(max(wide, 9), 44)
    lines = [loop.problem.name] + ([loop.problem.about] if loop.problem.about else [])
    lines += [f"{'step':>4}  {'measured':<{wide}}  {'why':<17}  {'value':>12}  {'expected (interval)':<38}  P(change)"]
    steps = loop.steps if len(loop.steps) <= SHOWN else (*loop.steps[:5], None, *loop.steps[-SHOWN + 5 :])
    lines += ["   …" if step is None else _line(step, wide, unit) for step in steps]
    lines += [
        f"decision   {last.decision}",
        f"           another one with {last.probability:.1%}; expected regret {last.regret:.2%}; "
        f"{last.number} measurements among {len(loop.problem.names)} candidates, cost {last.spent:g}",
        f"ended      {ENDED[loop.ended]}",
    ]
    if loop.ended == "waiting" and loop.next is not None:
        lines.append(f"next       measure {loop.problem.names[loop.next]!r}, then tell its value")
    return "\n".join(lines)


def _line(step: Step, wide: int, unit: str) -> str:
    if step.value is None or step.predicted is None or step.low is None or step.high is None:
        return f"{step.number:>4}  {'':<{wide}}  {'':<17}  {'':>12}  {'':<38}  {step.probability:>8.1%}"
    name = step.name if len(step.name) <= wide else step.name[: wide - 1] + "…"
    span = f"{_short(step.predicted, unit)} ({_short(step.low, unit)} to {_short(step.high, unit)})"
    shown = f"{step.number:>4}  {name:<{wide}}  {step.why:<17}  {_short(step.value, unit):>12}  {span:<38}"
    return f"{shown}  {step.probability:>8.1%}"


def _short(value: float, unit: str) -> str:
    return engineering(value, unit, 3) if unit in ("s", "FLOP/s", "B/s", "J") else f"{value:.4g}"
