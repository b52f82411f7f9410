"""What is optimised and what must hold: objectives, conditions on any quantity, and the risk of missing them.

An objective is text: a quantity with a known direction (``step_time``), any quantity with a direction (``min power``,
``max goodput``), a level of certainty (``step_time@90%``: the value that holds with that probability), the mean over
what may happen (``mean cost``), or the probability of a condition (``P(step_time <= 12 s)``). A condition is a
quantity, ``<=`` or ``>=``, and a value with its unit (``power <= 10 MW``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dse.accuracy.intervals import memory_half_width
from dse.cost.graph import Evaluation
from dse.errors import Fault, SpecError
from dse.explore.confidence import FROM_TIME, half_width
from dse.explore.evaluate import graph_of
from dse.explore.tables import ALL_TABLES
from dse.units import UnitError, engineering, parse

Array = Any
# Quantities whose direction needs no saying: True where less is better.
DIRECTIONS = {
    "step_time": True,
    "tokens_per_s": False,
    "mfu": False,
    "hfu": False,
    "cost": True,
    "energy": True,
    "carbon": True,
    "power": True,
    "memory_bytes": True,
    "memory_headroom": False,
    "capital": True,
    "investment": True,
    "tco": True,
    "goodput": False,
    "effective_step_time": True,
    "effective_tokens_per_s": False,
    "effective_cost": True,
    "tokens_per_dollar": False,
    "tokens_per_joule": False,
    "tokens_per_tco_dollar": False,
    "peak_power": True,
    "racks": True,
    "floor_area": True,
    "silicon_area": True,
}
# Quantities that go as a power of the step time, so that they share its relative error. Costs count only the part
# that goes with time (capital, rent, standing power), which is nearly all of it; see ``dse.explore.confidence``.
TIME_POWER = (
    *FROM_TIME, "effective_step_time", "effective_cost", "effective_tokens_per_s", "tokens_per_tco_dollar",
)  # fmt: skip
_NORMAL_90 = 1.6448536269514722  # half-width of the central 90 % of a normal distribution, in standard deviations
_CONDITION = re.compile(r"^\s*([A-Za-z_][\w.]*)\s*(<=|>=|≤|≥|<|>)\s*(.+?)\s*$")
_PROBABILITY = re.compile(r"^\s*P\s*\((.+)\)\s*$")
_LEVEL = re.compile(r"^\s*(.+?)\s*@\s*p?(\d{1,4}(?:\.\d+)?)\s*%?\s*$")


def unit_of_quantity(name: str) -> str:
    """SI unit of a quantity or table entry of the cost model.

    Raises:
        SpecError: there is no such quantity; the message suggests one.
    """
    known = graph_of("megatron").quantities
    table, _, entry = name.partition(".")
    if entry and table in ALL_TABLES:
        return known[ALL_TABLES[table]].unit
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise SpecError([Fault("quantity", repr(name)[:60], f"is not a quantity of the cost model{hint}")])
    return known[name].unit


def quantity_value(evaluation: Evaluation, name: str) -> Array:
    """A quantity, or one entry of a table as ``time.bubble``, broadcast like the evaluation's axes."""
    table, _, entry = name.partition(".")
    if entry and table in ALL_TABLES:
        return evaluation[ALL_TABLES[table]].get(entry, 0.0)
    return evaluation[name]


def log_deviation(evaluation: Evaluation, name: str) -> Array:
    """σ of the logarithm of a quantity's true value over the predicted one (see ``dse.accuracy.intervals``).

    Scaled so that ±1.645 σ is the calibration's 90 % interval. Raises SpecError for quantities without one.
    """
    if name in ("memory_bytes", "memory_headroom"):
        return memory_half_width(0.9) / _NORMAL_90
    if name not in TIME_POWER:
        options = ", ".join((*TIME_POWER, "memory_bytes", "memory_headroom"))
        raise SpecError([Fault("objective", repr(name)[:60], f"has no interval; those with one are {options}")])
    return half_width(evaluation, 0.9) / _NORMAL_90


@dataclass(frozen=True)
class Condition:
    """``name <= value`` or ``name >= value``, in SI units.

    Attributes:
        text: as it was given.
        name: quantity of the cost model.
        at_most: the sense.
        value: the bound, in ``unit``.
        unit: SI unit of the quantity.
    """

    text: str
    name: str
    at_most: bool
    value: float
    unit: str

    def margin(self, evaluation: Evaluation) -> Array:
        """How far the bound is kept, in the quantity's unit; negative where it is broken."""
        value = quantity_value(evaluation, self.name)
        return self.value - value if self.at_most else value - self.value

    def probability(self, evaluation: Evaluation) -> Array:
        """P(the condition holds), with the prediction's error taken as log-normal.

        Raises:
            SpecError: the quantity has no interval.
        """
        from scipy.stats import norm

        sigma = log_deviation(evaluation, self.name)
        value = quantity_value(evaluation, self.name)
        if self.name == "memory_headroom":  # log-normal is what is held, 1 − headroom, against the capacity
            held, limit = np.maximum(1.0 - value, 1e-12), max(1.0 - self.value, 1e-12)
            return norm.cdf((np.log(limit) - np.log(held)) / sigma * (1.0 if not self.at_most else -1.0))
        room = np.log(max(self.value, 1e-300)) - np.log(np.maximum(value, 1e-300))
        return norm.cdf((room if self.at_most else -room) / sigma)

    def why(self, value: float) -> str:
        """What a design that breaks the condition is told."""
        sense = "above" if self.at_most else "below"
        shown = engineering(value, self.unit)
        return f"{self.name} = {shown} is {sense} {engineering(self.value, self.unit)}"

    def __str__(self) -> str:
        return self.text


def condition(text: Any) -> Condition:
    """Read ``"mfu >= 0.5"`` or ``"capital <= 500 MUSD"``.

    Raises:
        SpecError: another form, an unknown quantity, or a value of another unit.
    """
    if isinstance(text, Condition):
        return text
    match = _CONDITION.match(str(text)[:200])
    if not match:
        raise SpecError([Fault("condition", repr(text)[:80], 'must be "quantity <= value unit" or ">="')])
    name, sense, value = match.groups()
    unit = unit_of_quantity(name)
    try:
        number = parse(value, unit)
    except UnitError as error:
        raise SpecError([Fault(f"condition {name}", repr(value)[:60], str(error))]) from None
    if not np.isfinite(number):
        raise SpecError([Fault(f"condition {name}", repr(value)[:60], "must be a finite number")])
    return Condition(str(text).strip(), name, sense in ("<=", "<", "≤"), number, unit)


def conditions(given: Any) -> tuple[Condition, ...]:
    """One condition or several, as text or ready; None is none."""
    if given is None:
        return ()
    items = [given] if isinstance(given, str | Condition) else list(given)
    return tuple(condition(item) for item in items)


@dataclass(frozen=True)
class Objective:
    """One thing to minimise or maximise.

    Attributes:
        text: as it was given; the column's name in tables.
        name: quantity of the cost model.
        less: whether less is better.
        unit: SI unit of the objective's value.
        risk: "point" (the prediction), "mean", "level" (the value that holds with probability ``level``) or
            "probability" (of ``target``).
    """

    text: str
    name: str
    less: bool
    unit: str
    risk: str = "point"
    level: float = 0.5
    target: Condition | None = None

    @property
    def sign(self) -> float:
        """+1 where less is better, −1 else: ``sign · value`` is always minimised."""
        return 1.0 if self.less else -1.0

    def value(self, evaluation: Evaluation) -> Array:
        """The objective at every design of an evaluation, broadcast over its axes."""
        if self.target is not None:
            return self.target.probability(evaluation)
        value = quantity_value(evaluation, self.name)
        if self.risk == "point":
            return value
        sigma = log_deviation(evaluation, self.name)
        if self.risk == "mean":
            return value * np.exp(0.5 * sigma**2)
        from scipy.stats import norm

        return value * np.exp(self.sign * float(norm.ppf(self.level)) * sigma)

    def __str__(self) -> str:
        return self.text


def objective(text: Any) -> Objective:
    """Read an objective (see the module's first lines).

    Raises:
        SpecError: an unknown quantity, no direction for it, or a level outside 50 to 99 %.
    """
    if isinstance(text, Objective):
        return text
    whole = " ".join(str(text)[:200].split())
    word, _, rest = whole.partition(" ")
    direction = {"min": True, "minimize": True, "minimise": True, "max": False, "maximize": False, "maximise": False}
    less = direction.get(word)
    body = rest if less is not None else whole
    probability = _PROBABILITY.match(body)
    if probability:
        target = condition(probability[1])
        _check_interval(target.name)
        return Objective(whole, target.name, bool(less), "1", "probability", target=target)
    risk, level, name = _risk(body)
    unit = unit_of_quantity(name)
    if less is None:
        if name not in DIRECTIONS:
            raise SpecError([Fault("objective", repr(name)[:60], f"say which: 'min {name}' or 'max {name}'")])
        less = DIRECTIONS[name]
    if risk != "point":
        _check_interval(name)
        if name == "memory_headroom":
            raise SpecError([Fault("objective", whole, "ask for P(memory_headroom >= 0) instead")])
    return Objective(whole, name, less, unit, risk, level)


def _risk(body: str) -> tuple[str, float, str]:
    """Kind of risk, level, quantity."""
    found = _LEVEL.match(body)
    if found:
        level = float(found[2]) / 100.0
        if not 0.5 <= level <= 0.99:
            raise SpecError([Fault("objective", repr(body)[:60], "the level must lie between 50 % and 99 %")])
        return "level", level, found[1]
    if body.startswith("mean "):
        return "mean", 0.5, body.removeprefix("mean ").strip()
    return "point", 0.5, body


def _check_interval(name: str) -> None:
    if name not in TIME_POWER and name not in ("memory_bytes", "memory_headroom"):
        options = ", ".join((*TIME_POWER, "memory_bytes", "memory_headroom"))
        raise SpecError([Fault("objective", repr(name)[:60], f"has no interval; those with one are {options}")])


def objectives(given: Any) -> tuple[Objective, ...]:
    """One objective or several; at least one, none twice.

    Raises:
        SpecError: none, more than eight, or one given twice.
    """
    items = [given] if isinstance(given, str | Objective) else list(given)
    found = tuple(objective(item) for item in items)
    if not 1 <= len(found) <= 8:
        raise SpecError([Fault("objectives", str(len(found)), "there must be 1 to 8")])
    if len({o.text for o in found}) < len(found):
        raise SpecError([Fault("objectives", ", ".join(o.text for o in found)[:100], "one is given twice")])
    return found


def margins(evaluation: Evaluation, given: Sequence[Condition]) -> Mapping[str, Array]:
    """Margin of every condition, by its text."""
    return {c.text: c.margin(evaluation) for c in given}
