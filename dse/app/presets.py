"""Strategies to start from: the best by some objective, and those that published runs of the model used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dse.app.state import State
from dse.errors import InfeasibleDesign, SpecError
from dse.spec.strategy import Strategy

BEST = {
    "step_time": "Fastest step",
    "cost": "Least cost a step",
    "energy": "Least energy a step",
    "memory_bytes": "Least memory",
    "goodput": "Highest goodput",
}
NEAREST = 24  # measured runs that are looked through


@dataclass(frozen=True)
class Preset:
    """A strategy to start from.

    Attributes:
        key: ``best:OBJECTIVE`` or ``run:ID``.
        label: what people call it.
        fields: strategy fields that it sets; empty where they are found first.
    """

    key: str
    label: str
    fields: tuple[tuple[str, Any], ...] = ()


def presets(state: State) -> list[Preset]:
    """The best by each objective, then the strategies of the measured runs most like the design, each once."""
    return [*(Preset(f"best:{name}", label) for name, label in BEST.items()), *_measured(state)]


def _measured(state: State) -> list[Preset]:
    try:
        table = state.result.nearest(NEAREST)
    except SpecError:
        return []
    found: dict[tuple[Any, ...], Preset] = {}
    for row in table.to_dict("records"):
        fields = tuple((field, _whole(row[field])) for field in ("tp", "pp", "micro_batch"))
        fields += (("precision", row["precision"]),)
        if any(value is None for _, value in fields):
            continue
        degrees = ", ".join(f"{field.replace('micro_batch', 'micro-batch')} {value}" for field, value in fields)
        label = f"{row['model']} on {row['devices']:,.0f} ({row['source']}): {degrees}"
        found.setdefault(fields, Preset(f"run:{row['id']}", label, fields))
    return list(found.values())[:8]


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and value == value and value >= 1 else None


def take(state: State, key: str) -> State:
    """The state with a preset's strategy; locked fields stay.

    Raises:
        SpecError: no such preset, or a strategy that does not fit the model.
        InfeasibleDesign: no strategy satisfies the rules.
    """
    for preset in presets(state):
        if preset.key != key:
            continue
        if key.startswith("best:"):
            return state.find_best(key.removeprefix("best:"))
        fields = {f: v for f, v in preset.fields if f in Strategy.model_fields and not state.is_locked(f)}
        plain = {"virtual_stages": 1, "cp": 1} | ({"schedule": "1f1b"} if "pp" in fields else {})
        fields |= {f: v for f, v in plain.items() if not state.is_locked(f)}
        for field, value in fields.items():
            state = state.set(field, value)
        return state
    raise SpecError(f"{key!r} is no preset of this design")


def best_value(state: State, field: str) -> State:
    """The value of one strategy field that is best by the view's first objective, everything else as it is.

    Raises:
        InfeasibleDesign: no value satisfies the rules.
        SpecError: a locked field, or one that no interface offers.
    """
    from dse.app.controls import candidates, legality
    from dse.explore.objectives import objective

    goal = objective(state.view.objectives[0])
    options = legality(state.design, {field: candidates(state.design)[field]})[field]
    legal = [state.set(field, option.value) for option in options if option.legal]
    if not legal:
        raise InfeasibleDesign(f"no value of {field} satisfies the rules: {'; '.join(options[0].reasons)}")
    values = [float(goal.value(each.result.cells[0].evaluation)) for each in legal]
    return legal[values.index(min(values) if goal.less else max(values))]
