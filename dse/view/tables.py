"""Results as text and as small HTML tables."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from dse.errors import SpecError
from dse.spec.hardware import YEAR
from dse.units import engineering

if TYPE_CHECKING:
    from dse.explore.result import Result

_TITLES = {
    "step_time": "step time",
    "tokens_per_s": "throughput",
    "mfu": "MFU",
    "hfu": "HFU",
    "memory_bytes": "memory",
    "energy": "energy per step",
    "power": "power",
    "cost": "cost per step",
    "carbon": "CO2e per step",
    "tokens_per_dollar": "per dollar",
    "tokens_per_joule": "per joule",
}


def headline_rows(result: Result) -> list[tuple[str, str]]:
    """(title, formatted value) of the headline quantities of one design."""
    from dse.explore.result import HEADLINES

    sample = type(result.specs["model"]).sample_name  # type: ignore[attr-defined]
    rows = []
    for name in HEADLINES:
        value, unit = result.number(name), result.unit(name)
        text = engineering(value, unit)
        if name in ("mfu", "hfu"):
            text = f"{value:.1%}"
        elif unit.startswith("1/"):
            text = f"{_count(value)} {sample}s/{unit[2:]}"
        rows.append((_TITLES[name], text))
        if name in ("step_time", "tokens_per_s", "memory_bytes"):
            rows[-1] = (rows[-1][0], f"{rows[-1][1]}  {_interval_text(result, name, sample)}")
    verdict = "yes" if result.is_feasible else "no: " + "; ".join(r["why"] for r in result.reasons())
    reasons = result.interval().reasons
    trust = f"calibration {result.calibration}" + (f"; extrapolating: {'; '.join(reasons)}" if reasons else "")
    return [*rows, *_long_run_rows(result, sample), ("feasible", verdict), ("trust", trust), *_nearest_row(result)]


def _long_run_rows(result: Result, sample: str) -> list[tuple[str, str]]:
    """Goodput with the throughput it leaves, and the cost of ownership of the facility's lifetime."""
    from dse.explore.summary import LONG_RUN

    goodput, rate, tco, each = (result.number(name) for name in LONG_RUN)
    lifetime = engineering(result.specs["cluster"].facility.lifetime / YEAR, "1")  # type: ignore[attr-defined]
    return [
        ("goodput", f"{goodput:.1%}  ({_count(rate)} {sample}s/s with failures, recovery and checkpoints)"),
        (
            "TCO",
            f"{engineering(tco, 'USD')} over {lifetime} years  ({engineering(1e6 * each, 'USD')}/million {sample}s)",
        ),
    ]


def _count(value: float) -> str:
    """Four digits; whole numbers with separators where they are long."""
    return engineering(value, "1/").removesuffix(" 1/")


def _nearest_row(result: Result) -> list[tuple[str, str]]:
    """The measured run most like the design, with the error of its prediction; nothing without a table of runs."""
    try:
        run = result.nearest(1).iloc[0]
    except SpecError:
        return []
    place = f"{run['model']} on {run['devices']:,.0f} ({run['generation']}), {run['source']} {run['id']}"
    errors = f"predicted {run['error']:+.1%} off, {run['error_held_out']:+.1%} without its table"
    return [("nearest run", f"{place}: {errors}")]


def _interval_text(result: Result, name: str, sample: str) -> str:
    """The 90 % interval in brackets."""
    interval, unit = result.interval(quantity=name), result.unit(name)
    ends = [_count(end) if unit.startswith("1/") else engineering(end, unit) for end in (interval.low, interval.high)]
    return f"(90 %: {ends[0]} to {ends[1]})"


def breakdown_rows(result: Result, table: str = "time") -> list[tuple[str, str, float]]:
    """(term, formatted value, share of the total) of a breakdown, zero terms left out."""
    terms = result.terms(table)
    whole = sum(terms.values()) or 1.0
    unit = result.unit(f"{table}.{next(iter(terms))}")
    return [(name, engineering(v, unit), v / whole) for name, v in terms.items() if v]


def result_text(result: Result) -> str:
    """What ``repr`` shows."""
    if result.axes:
        sizes = ", ".join(f"{b.name}: {len(b.values)}" for b in result.axes)
        return f"<dse.Result over {sizes or 'one design'}; .to_dataframe(), .dataset, .at(...)>"
    rows = headline_rows(result)
    width = max(len(title) for title, _ in rows)
    lines = [f"{title:<{width}}  {text}" for title, text in rows]
    lines += ["", "where the time goes"]
    lines += [f"  {name:<18} {text:>12}  {share:6.1%}" for name, text, share in breakdown_rows(result)]
    return "\n".join(lines)


def result_html(result: Result) -> str:
    """What a notebook shows."""
    if result.axes:
        return f"<code>{escape(result_text(result))}</code>"
    # A dollar in an element of its own: notebooks take two in one text for the ends of a formula.
    left = "".join(
        f"<tr><td>{escape(t)}</td><td><b>{escape(v).replace('$', '<span>$</span>')}</b></td></tr>"
        for t, v in headline_rows(result)
    )
    right = "".join(
        f"<tr><td>{escape(n)}</td><td>{escape(v)}</td><td>{share:.1%}</td></tr>"
        for n, v, share in breakdown_rows(result)
    )
    style = "display:flex;gap:2em;align-items:flex-start"
    return f"<div style='{style}'><table>{left}</table><table>{right}</table></div>"
