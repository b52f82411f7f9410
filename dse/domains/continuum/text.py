"""Answers of ``dse continuum`` for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.units import engineering

if TYPE_CHECKING:
    import pandas as pd

    from dse.domains.continuum.breakeven import BreakEven
    from dse.domains.continuum.ensemble import Split
    from dse.domains.continuum.placement import Placement, Plan
    from dse.domains.continuum.queueing import Played
    from dse.domains.continuum.scaling import Forecast, ScalingModel

HEADS = {"time_to_insight": "to insight", "node_power": "node", "traffic": "on links", "node_hours": "node-hours",
         "dollars": "dollars", "energy": "energy", "fidelity": "fidelity"}  # fmt: skip
SHOWN = 30  # designs, at most


def amount(metric: str, value: float) -> str:
    """A metric with its unit."""
    from dse.domains.continuum.price import METRICS

    if metric == "node_hours":
        return f"{value:,.0f}"
    return engineering(value, METRICS[metric], 3) if METRICS[metric] not in ("USD", "1") else f"{value:,.4g}"


def front(found: Plan) -> str:
    """The designs that no other beats, and the rules that others break."""
    from dse.domains.continuum.tables_plans import words

    counts = found.counts
    of = f"{counts['designs']:,} designs" + (f", {counts['feasible']:,} feasible" if "feasible" in counts else "")
    lines = [f"{len(found)} designs that no other beats, of {of} ({found.method})"]
    lines += ["   #" + "".join(f"{HEADS[name]:>12}" for name in found.objectives) + "  placement"]
    metrics = found.metrics
    for i in range(min(len(found), SHOWN)):
        cells = "".join(f"{amount(name, float(metrics[name][i])):>12}" for name in found.objectives)
        lines.append(f"{i + 1:>4}{cells}  {words(found[i])}")
    if len(found) > SHOWN:
        lines.append(f"   … {len(found) - SHOWN} more; --out keeps all")
    lines += [f"{count:,} designs break: {name}" for name, count in found.broken.items()]
    return "\n".join(lines)


def design(found: Placement) -> str:
    """A design stage by stage, its links, and the rules that it breaks."""
    metrics = found.metrics
    said = ", ".join(f"{HEADS[name]} {amount(name, value)}" for name, value in metrics.items())
    lines = [said, f"all that it uses works {found.availability:.2%} of the time"]
    lines.append(f"{'stage':<14}{'tier':<12}{'variant':<18}{'nodes':>7}{'smaller':>9}{'runs':>19}"
                 f"{'a run':>14}{'done':>14}{'sends':>10}")  # fmt: skip
    for row in found.stages().to_dict("records"):
        lines.append(
            f"{row['stage'][:13]:<14}{row['tier'][:11]:<12}{row['variant'][:17]:<18}{row['nodes']:>7}{row['reduction']:>9g}"
            f"{_pace(row['runs']):>19}{engineering(row['time'], 's', 3):>14}{engineering(row['done'], 's', 3):>14}"
            f"{engineering(row['sent'], 'B', 3):>10}"
        )
    for row in found.links().to_dict("records"):
        lines.append(f"{row['way']:<32}{engineering(8 * row['load'], 'bit/s', 3):>14}, {row['busy']:.2%} busy")
    return "\n".join([*lines, *(f"breaks: {reason}" for reason in found.reasons)])


def _pace(runs: float) -> str:
    """Runs a second, or the time between two of them."""
    return engineering(runs, "1/s", 3) if runs >= 1 or runs == 0 else f"1 in {engineering(1 / runs, 's', 3)}"


def played(run: Played) -> str:
    """What became of items, stage by stage."""
    lines = [f"{'played':<14}{'runs':>9}{'planned':>12}{'mean':>12}{'p50':>12}{'p95':>12}{'p99':>12}{'in line':>12}"]
    for row in run.table().to_dict("records"):
        values = (row[name] for name in ("unloaded", "mean", "p50", "p95", "p99", "wait"))
        cells = "".join(f"{engineering(v, 's', 3) if np.isfinite(v) else '-':>12}" for v in values)
        lines.append(f"{row['stage'][:13]:<14}{row['runs']:>9,}{cells}")
    told = run.insight()
    end = f"{told['items']:,.0f} insights"
    if told["items"]:
        end += f" after {engineering(told['mean'], 's', 3)} in the mean, p95 {engineering(told['p95'], 's', 3)}"
    return "\n".join([*lines, end])


def flips(found: BreakEven) -> str:
    """Where a stage belongs, and at which rates that changes."""
    names = (*found.tiers, "neither")
    lines = [f"{found.stage} by {found.objective}, over the rate of {found.link}"]
    for i, share in enumerate(found.passes):
        rows = found.flips if np.isnan(share) else found.flips[found.flips["passes"] == share]
        turns = [
            f"{row['to']} from {engineering(8 * row['rate'], 'bit/s', 4)} on (decided by {row['why']})"
            for row in rows.to_dict("records")
        ]
        where = "" if np.isnan(share) else f"{share:g} go on: "
        lines.append(f"{where}{'; '.join([names[int(found.belongs()[i, 0])], *turns])}")
    return "\n".join(lines)


def scaled(found: Sequence[Forecast], days: float, price: float | None) -> pd.DataFrame:
    """A row a machine and size: rate and interval, node-hours, joules and dollars of so many simulated days."""
    import pandas as pd

    parts = []
    for one in found:
        made = one.table().drop(columns="node_hours_per_year")
        middle, low, high = one.node_hours(days)
        made = made.assign(node_hours=middle, node_hours_low=low, node_hours_high=high, energy=one.energy(days))
        parts.append(made if price is None else made.assign(dollars=one.dollars(price, days)[0]))
    return pd.concat(parts, ignore_index=True)


def fewest(model: ScalingModel, one: Forecast, target: float, choice: Mapping[str, Any]) -> dict[str, float]:
    """Fewest nodes that reach a rate, by the median, and surely, by the low end of the interval; NaN: none do."""
    return {
        "median": model.fewest(one.machine, target, sure=False, **choice),
        "sure": model.fewest(one.machine, target, sure=True, **choice),
    }


def scaling(
    rows: pd.DataFrame, reach: Mapping[str, Mapping[str, float]] | None, target: float | None, days: float
) -> str:
    """Forecasts; an asterisk at sizes outside those that were run."""
    priced = "dollars" in rows
    lines = [f"{'machine':<16}{'nodes':>8}{'days/day':>11}{'interval':>24}{'node-hours':>14}{'energy':>12}"
             + (f"{'dollars':>14}" if priced else "") + f"   of {days:g} simulated days"]  # fmt: skip
    for row in rows.to_dict("records"):
        start = f"{row['machine'][:15]:<16}{row['nodes']:>8,.0f}"
        if row["reason"]:
            lines.append(f"{start}   {row['reason']}")
            continue
        energy = engineering(row["energy"], "J", 3) if np.isfinite(row["energy"]) else "-"
        span = f"{row['low']:.4g} to {row['high']:.4g}"
        cost = f"{row['dollars']:>14,.0f}" if priced else ""
        mark = " *" if row["beyond"] else ""
        lines.append(f"{start}{row['rate']:>11.4g}{span:>24}{row['node_hours']:>14,.0f}{energy:>12}{cost}{mark}")
    if rows.loc[rows["reason"] == "", "beyond"].any():
        lines.append("* outside the sizes that were run")
    for name, found in (reach or {}).items():
        said = [f"{found['median']:,.0f} nodes by the median" if np.isfinite(found["median"]) else "not by the median"]
        said.append(f"{found['sure']:,.0f} for sure" if np.isfinite(found["sure"]) else "on no size for sure")
        lines.append(f"{name} reaches {target:g}: {', '.join(said)}")
    return "\n".join(lines)


def stream(told: Mapping[str, float], risk: float) -> str:
    """What a stream of data needs."""
    lines = [f"needed rate   {engineering(8 * told['needed_rate'], 'bit/s', 4)}"]
    if "link" in told:
        lines.append(f"reduction     {told['needed_reduction']:.4g} at {engineering(8 * told['link'], 'bit/s', 4)}")
    if "buffer" in told:
        lines.append(f"buffer        {engineering(told['buffer'], 'B', 4)}, too small {risk:g} of the time")
        lines.append(f"delay         {engineering(told['delay'], 's', 4)} in the mean")
    return "\n".join(lines)


def split(found: Split) -> str:
    """What budgets are best spent on."""
    lines = [f"{'budget':>12}  {'estimator':<10}{'physics':>9}{'emulator':>10}{'error':>11}{'physics alone':>15}"
             f"{'emulator alone':>16}"]  # fmt: skip
    for row in found.table().to_dict("records"):
        lines.append(
            f"{row['budget']:>12g}  {row['estimator']:<10}{row['physics']:>9,}{row['emulator']:>10,}"
            f"{row['error']:>11.4g}{row['error.physics']:>15.4g}{row['error.emulator']:>16.4g}"
        )
    return "\n".join(lines)
