"""A design in plain numbers: what the command line prints as JSON, and what a whole run takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dse.cost.money import RUN_UNITS, run_totals
from dse.errors import Fault, SpecError
from dse.explore.tables import HEADLINES
from dse.units import UnitError, parse

if TYPE_CHECKING:
    from dse.explore.result import Result

LONG_RUN = ("goodput", "effective_tokens_per_s", "tco", "tco_per_token")  # with failures, over the lifetime
_SCALES = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def run(result: Result, tokens: Any) -> dict[str, Any]:
    """See :meth:`dse.Result.run`."""
    amount = _amount(tokens)
    names = ("step_time", "energy", "cost", "carbon", "tokens_per_s", "goodput", "interruption_rate")
    found = []
    for cell in result.cells:
        step, energy, cost, carbon, rate, goodput, interruptions = (cell.evaluation[name] for name in names)
        found.append(run_totals(step, energy, cost, carbon, rate * step, amount, goodput, interruptions))
    if not result.axes:
        return {name: float(value) for name, value in found[0].items()}
    return {name: result.wrapped(name, [each[name] for each in found], RUN_UNITS[name]) for name in found[0]}


def _amount(tokens: Any) -> float:
    """Tokens as a number: 15e12, "15e12" or "15T"."""
    try:
        text = str(tokens).strip()
        scale = _SCALES.get(text[-1:], 1.0)
        amount = scale * parse(text[:-1] if scale > 1 else text, "1")
    except UnitError as error:
        raise SpecError([Fault("tokens", repr(tokens)[:40], str(error))]) from None
    if not 0 < amount <= 1e18:
        raise SpecError([Fault("tokens", repr(tokens)[:40], "must be above 0 and at most 1e18 (such as 15e12 or 15T)")])
    return amount


def summary(result: Result) -> dict[str, Any]:
    """See :meth:`dse.Result.summary`."""
    if result.axes:
        raise SpecError("a summary is of one design; choose one with .at(...)")
    from dse.explore.confidence import nearest_records

    value = {name: result.number(name) for name in (*HEADLINES, *LONG_RUN)}
    interval = result.interval()
    return {
        "step_time_s": value["step_time"],
        "interval_90_s": [interval.low, interval.high],
        "extrapolating": list(interval.reasons),
        "calibration": result.calibration,
        "nearest_runs": nearest_records(result),
        "tokens_per_s": value["tokens_per_s"],
        "mfu": value["mfu"],
        "hfu": value["hfu"],
        "memory_bytes": value["memory_bytes"],
        "feasible": result.is_feasible,
        "reasons": result.reasons(),
        "breakdown_s": result.terms("time"),
        "memory_breakdown_bytes": result.terms("memory"),
        "energy_j": value["energy"],
        "energy_breakdown_j": result.terms("energy"),
        "power_w": value["power"],
        "cost_usd": value["cost"],
        "carbon_kg": value["carbon"],
        "tokens_per_usd": value["tokens_per_dollar"],
        "tokens_per_j": value["tokens_per_joule"],
        "goodput": value["goodput"],
        "effective_tokens_per_s": value["effective_tokens_per_s"],
        "tco_usd": value["tco"],
        "tco_usd_per_token": value["tco_per_token"],
    }
