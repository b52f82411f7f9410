"""Energy, money and failures of one design: what each cause takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dse.spec.hardware import YEAR
from dse.units import engineering
from dse.view import theme
from dse.view.formulas import formula
from dse.view.waterfall import HOVER, NARROW, heading, room

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from dse.explore.result import Result

DAY = 86400.0
PANELS = ((0.0, 0.48), (0.68, 1.0))  # from where to where two panels go, as shares of the width
REACH = (1.6, 1.95)  # ends of their axes, in longest bars: room for what is written there
TOP = 0.93  # height of the panels; above them is what they add up to
LARGE = {  # (SI value, unit) of axes; large energies in what is billed
    "USD": ((1e6, "million USD"), (1e3, "thousand USD")),
    "J": ((3.6e12, "GWh"), (3.6e9, "MWh"), (1e6, "MJ"), (1e3, "kJ")),
}
WORDS = {
    "down": "down: repair and restart",
    "rework": "work done again",
    "checkpoint": "writing checkpoints",
    "waiting": "waiting for spares",
    "facility": "cooling (PUE)",
}


def energy_and_money(result: Result, tokens: Any = None, *, title: str = "", dark: bool = False) -> go.Figure:
    """Energy and money by cause, side by side, with their totals.

    Without ``tokens``: the energy of a step, and the cost of ownership over the facility's lifetime. With them: the
    energy and the cost of the whole run, failures included.

    Args:
        result: a single design.
        tokens: tokens (or samples) of the run, such as 15e12 or "15T".

    Raises:
        SpecError: the result has axes, or ``tokens`` is not a number above 0 and up to 1e18.
    """
    words = heading(result, title or "Energy and money")
    energy = result.terms("energy")
    energy["facility"] = result.number("energy") - sum(energy.values())
    if tokens is None:
        money, scale = result.terms("tco"), 1.0
        years = engineering(result.specs["cluster"].facility.lifetime / YEAR, "1")  # type: ignore[attr-defined]
        titles = ("Energy of a step", f"Cost over {years} years")
    else:
        run = result.run(tokens)
        scale = run["run_effective_energy"] / result.number("energy")
        share = run["run_effective_cost"] / result.number("cost") if result.number("cost") else 0.0
        money = {name: share * value for name, value in result.terms("cost").items()}
        titles = (f"Energy of {_count(tokens)}", f"Cost of {_count(tokens)}")
    energy = {name: scale * value for name, value in energy.items()}
    rows = max(sum(value > 0 for value in terms.values()) for terms in (energy, money))
    how = {name: formula(result, "energy", name) for name in energy} | {"facility": "= (PUE − 1) · all above"}
    panels = [
        _panel(1, titles[0], energy, "J", "Energy", rows, how),
        _panel(2, titles[1], money, "USD", "Cost", rows, {}),
    ]
    margin = {**room(words), "b": 60}
    margin["t"] += 10
    return theme.drawn(
        [trace for traces, _, _ in panels for trace in traces], dark=dark, **words, margin=margin, showlegend=False,
        annotations=[note for _, notes, _ in panels for note in notes], **panels[0][2], **panels[1][2],
    )  # fmt: skip


def amount(value: float, unit: str) -> str:
    """Joules or dollars in few characters: ``16.8 MJ``, ``28.9 GWh``, ``$38.7M``."""
    if unit == "USD":
        return theme.compact(value, unit)
    factor, shown = next((scale for scale in LARGE[unit] if value >= scale[0]), (1.0, unit))
    return f"{value / factor:.3g} {shown}"


def _count(tokens: Any) -> str:
    text = str(tokens)
    return f"{theme.compact(float(tokens)) if text.replace('.', '').replace('e', '').isdigit() else text} tokens"


def _panel(
    column: int, heading: str, terms: Mapping[str, float], unit: str, name: str, rows: int,
    how: Mapping[str, str],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:  # fmt: skip
    """The causes, the largest on top, with what each takes (its share on hover): traces, notes and axes.

    Both panels (``column`` 1 and 2) have room for ``rows`` bars, so that all are equally thick. ``how`` says how the
    causes are computed.
    """
    kept = sorted(((term, value) for term, value in terms.items() if value > 0), key=lambda item: -item[1])
    whole = sum(value for _, value in kept) or 1.0
    top = max((value for _, value in kept), default=1.0)
    factor, shown = next((scale for scale in LARGE[unit] if top >= scale[0]), (1.0, unit))
    number = str(column) if column > 1 else ""
    axes, refs = {"xaxis": f"x{number}", "yaxis": f"y{number}"}, {"xref": f"x{number}", "yref": f"y{number}"}
    left, right = PANELS[column - 1]
    text = f"{heading}: <b>{amount(sum(terms.values()), unit)}</b>"
    corner: dict[str, Any] = {"y": TOP, "xref": "paper", "yref": "paper"}
    corner |= {"x": 0.0, "xanchor": "left"} if column == 1 else {"x": 1.0, "xanchor": "right"}
    notes = [{"text": text, **corner, "yanchor": "bottom", "yshift": 3, "font": {"size": 13}, "showarrow": False}]
    traces = []
    for term, value in kept:
        label, text = WORDS.get(term, theme.term_title(term)), amount(value, unit)
        hover = f"<b>{label}</b><br>{engineering(value, unit)}, {value / whole:.1%}"
        hover += f"<br>{how[term]}" if how.get(term) else ""
        row = {"x": [value / factor], "y": [label], "orientation": "h", "name": label, "customdata": [hover]}
        marker = theme.fill(term, list(terms).index(term))
        traces.append({"type": "bar", **row, "marker": marker, "hovertemplate": HOVER, **axes})
        note = {"text": f"{NARROW}{text}", "showarrow": False, "xanchor": "left"}
        note["font"] = {"size": 13}
        notes.append({"x": value / factor, "y": label, **note, **refs})
    across = {"title": {"text": theme.with_unit(name, shown)}, "range": [0, REACH[column - 1] * top / factor]}
    across |= {"anchor": f"y{number}", "domain": [left, right], "nticks": 5}
    down = {"range": [rows - 0.5, -0.5], "showgrid": False, "anchor": f"x{number}", "domain": [0.0, TOP], "dtick": 1}
    return traces, notes, {f"xaxis{number}": across, f"yaxis{number}": down}


def goodput_shares(result: Result, *, title: str = "", dark: bool = False) -> go.Figure:
    """Time that does not train, by cause, as a share of the wall clock; the title says how much does.

    Args:
        result: a single design.

    Raises:
        SpecError: the result has axes.
    """
    words = heading(result, title or "Time lost to failures and upkeep")
    shares = result.terms("goodput")
    useful = shares.pop("useful")
    words["subtitle"] += f"<br>Goodput {useful:.2%}: {24 * useful:.2f} hours of each day train the model"
    kept = sorted(((term, share) for term, share in shares.items() if share > 5e-6), key=lambda item: -item[1])
    traces, notes = [], []
    for term, share in kept:
        label, lost = WORDS.get(term, theme.term_title(term)), engineering(DAY * share, "s")
        hover = f"<b>{label}</b><br>{share:.3%} of the time, {lost} a day"
        row = {"x": [100 * share], "y": [label], "orientation": "h", "name": label, "customdata": [hover]}
        marker = {"color": theme.colour_of(term, list(shares).index(term))}
        traces.append({"type": "bar", **row, "marker": marker, "hovertemplate": HOVER})
        text = f"{NARROW}<b>{share:.3%}</b>, {lost} a day"
        notes.append({"x": 100 * share, "y": label, "text": text, "showarrow": False, "xanchor": "left"})
    top = 100 * max((share for _, share in kept), default=0.01)
    across = {"title": {"text": "Share of the wall clock [%]"}, "range": [0, 1.6 * top]}
    return theme.drawn(
        traces, dark=dark, **words, margin=room(words), showlegend=False, annotations=notes, xaxis=across,
        yaxis={"autorange": "reversed", "showgrid": False}, height=250 + 55 * len(kept),
    )  # fmt: skip
