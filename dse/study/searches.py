"""Searches in studies: what is searched, how it is run, and what it must show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.fields import Count, CountOrZero, Name, Switch, Text
from dse.units import UnitError, parse

if TYPE_CHECKING:
    from dse.explore.search.found import SearchResult


class HardwareEntry(Spec):
    """A field that varies: ``values``, or from ``low`` to ``high`` (in ``steps``, or continuously)."""

    path: Text
    values: tuple[Any, ...] = ()
    low: Any = None
    high: Any = None
    steps: Count | None = None
    log: Switch = True
    unit: Text = ""
    name: Text = ""

    @model_validator(mode="after")
    def _values_or_ends(self) -> HardwareEntry:
        if bool(self.values) == (self.low is not None and self.high is not None):
            raise ValueError("needs either values, or low and high")
        return self


class CouplingEntry(Spec):
    """What a field brings with it: see :func:`dse.coupling`."""

    target: Text
    source: Text
    rate: Any = "proportional"


class Searched(Spec):
    """A search of a study; the fields are the arguments of :func:`dse.search`."""

    id: Name
    title: Text = ""
    model: Any
    cluster: Any
    devices: Count | None = None
    global_batch: Count
    hardware: tuple[HardwareEntry, ...] = ()
    couplings: tuple[CouplingEntry, ...] = ()
    objective: tuple[Text, ...] = ("step_time",)
    budget: tuple[Text, ...] = ()
    base: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    method: Text = "auto"
    trials: Count | None = None
    batch: Count | None = None
    seed: CountOrZero = 0


class SearchCheck(Spec):
    """A statement about a search that must hold.

    ``statistic``: a quantity of the cost model or a hardware variable at the best design by the first objective; or
    ``front_size``, ``hardware_designs``, ``feasible_hardware``, ``evaluated``, ``gap`` (share by which anything could
    still be better than the best, of branch and bound). With ``reference`` it is divided by that
    of another search.
    """

    check: Text
    search: Name
    statistic: Text
    reference: Name | None = None
    at_least: float | None = None
    at_most: float | None = None
    unit: Text = "1"
    label: Text = "trend"
    source: Text = ""

    @model_validator(mode="after")
    def _bounded(self) -> SearchCheck:
        if self.at_least is None and self.at_most is None:
            raise ValueError("needs at_least or at_most")
        return self


def run_search(block: Searched, beside: Callable[[Any], Any]) -> SearchResult:
    """Carry out one search of a study.

    Args:
        beside: finds files in the study's folder.

    Raises:
        SpecError: with every fault of the search.
    """
    from dse.explore.search.run import search
    from dse.explore.search.variables import coupling, span
    from dse.space.axes import axis

    hardware: list[Any] = []
    for item in block.hardware:
        if item.values:
            values = [beside(value) for value in item.values]
            hardware.append(axis(item.path, values, unit=item.unit, name=item.name))
        else:
            hardware.append(
                span(item.path, item.low, item.high, log=item.log, steps=item.steps, unit=item.unit, name=item.name)
            )
    return search(
        beside(block.model),
        beside(block.cluster),
        hardware,
        devices=block.devices,
        global_batch=block.global_batch,
        objective=list(block.objective),
        budget=list(block.budget),
        couplings=[coupling(c.target, c.source, c.rate) for c in block.couplings],
        base=block.base,
        options=block.options,
        method=block.method,
        trials=block.trials,
        batch=block.batch,
        seed=block.seed,
    )


def check_row(check: SearchCheck, found: Mapping[str, SearchResult], passed: tuple[str, str]) -> dict[str, Any]:
    """A row of the verdict table.

    Args:
        passed: the words for a check that passes and for one that falls short.

    Raises:
        SpecError: no such statistic, or a unit that does not fit.
    """
    ours, unit = _statistic(found[check.search], check.statistic)
    if check.reference is not None:
        ours, unit = ours / _statistic(found[check.reference], check.statistic)[0], "1"
    try:
        ours /= parse(f"1 {check.unit}" if check.unit not in ("", "1") else 1.0, unit)
    except UnitError as error:
        raise SpecError([Fault("unit", repr(check.unit)[:40], str(error))]) from None
    bounds = [f"{sign} {v:g}" for sign, v in (("≥", check.at_least), ("≤", check.at_most)) if v is not None]
    good = np.isfinite(ours) and (check.at_least is None or ours >= check.at_least)
    good = good and (check.at_most is None or ours <= check.at_most)
    return {
        "group": check.search,
        "check": check.check,
        "label": check.label,
        "published": np.nan,
        "ours": ours,
        "unit": check.unit,
        "difference": "",
        "tolerance": " and ".join(bounds),
        "verdict": passed[0] if good else passed[1],
        "allowed": np.nan,
        "source": check.source,
    }


def _statistic(found: SearchResult, name: str) -> tuple[float, str]:
    """Value and SI unit."""
    counts = {
        "front_size": len(found.front_rows),
        "hardware_designs": len(found.points),
        "feasible_hardware": sum(bool(a.feasible) for a in found.answers),
        "evaluated": found.evaluated,
    }
    if name in counts:
        return float(counts[name]), "1"
    if not len(found.front_rows):
        return float("nan"), "1"
    if name == "gap":
        best = abs(float(found.problem.objectives[0].value(found.best.cells[0].evaluation)))
        return float("nan") if found.bound is None else abs(found.bound - best) / best, "1"
    for v in found.problem.variables:
        if v.name == name:
            value = found.points[int(found.table["design"][found.front_rows[0]])][name]
            if not isinstance(value, int | float):
                raise SpecError([Fault("statistic", name, "is not a number")])
            return float(value), v.unit or "1"
    best = found.best
    return float(best[name]), best.unit(name)


def report_lines(blocks: tuple[Searched, ...], found: Mapping[str, SearchResult]) -> list[str]:
    """The searches' part of ``report.md``."""
    if not blocks:
        return []
    lines = ["## Searches", "", "| search | what | hardware designs | designs | how | on the front | tables |"]
    lines.append("|---|---|---|---|---|---|---|")
    for block in blocks:
        result = found[block.id]
        how = "every one looked at" if result.exhaustive else f"chosen by {result.method}"
        lines.append(
            f"| {block.id} | {block.title} | {len(result.points):,} | {result.evaluated:,} | {how} | "
            f"{len(result.front_rows)} | [designs]({block.id}.parquet), [front]({block.id}-front.csv) |"
        )
    lines.append("")
    for block in blocks:
        text = "\n".join(repr(found[block.id]).split("\n")[:5])  # the table has the rest of a front
        lines += [f"### Best of {block.id}", "", "```", text, "```", ""]
    return lines
