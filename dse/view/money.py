"""Energy, money and failures of one design: what each cause takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dse.spec.hardware import YEAR
from dse.units import engineering
from dse.view import theme
from dse.view.waterfall import HOVER, NARROW, heading, room

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from dse.explore.result import Result

DAY = 86400.0
LARGE = {  # (SI value, unit) of axes; large energies in what is billed
    "USD": ((1e6, "million USD"), (1e3, "thousand USD")),
    "J": ((3.6e12, "GWh"), (3.6e9, "MWh"), (1e6, "MJ"), (1e3, "kJ")),
}
WORDS = {
    "down": "down: repair and restart",
    "rework": "work done again",
    "checkpoint": "writing checkpoints",
    "waiting": "waiting for spares",
    "facility": "cooling and power supply (PUE)",
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
    from plotly.subplots import make_subplots

    words = heading(result, title or "Energy and money")
    energy = result.terms("energy")
    energy["facility"] = result.number("energy") - sum(energy.values())
    if tokens is None:
        money, scale = result.terms("tco"), 1.0
        years = engineering(result.specs["cluster"].facility.lifetime / YEAR, "1")  # type: ignore[attr-defined]
        titles = ("Energy of a step", f"Cost of ownership over {years} years")
    else:
        run = result.run(tokens)
        scale = run["run_effective_energy"] / result.number("energy")
        share = run["run_effective_cost"] / result.number("cost") if result.number("cost") else 0.0
        money = {name: share * value for name, value in result.terms("cost").items()}
        titles = (f"Energy of {_count(tokens)}", f"Cost of {_count(tokens)}")
    energy = {name: scale * value for name, value in energy.items()}
    margin = {**room(words), "b": 70}
    margin["t"] += 40
    figure = theme.blank(words["title"], dark, subtitle=words["subtitle"], margin=margin, showlegend=False)
    totals = (amount(sum(energy.values()), "J"), amount(sum(money.values()), "USD"))
    headings = [f"{name}: <b>{total}</b>" for name, total in zip(titles, totals, strict=True)]
    figure = make_subplots(1, 2, figure=figure, horizontal_spacing=0.2, subplot_titles=headings)
    figure.update_annotations(font_size=16, yshift=6)
    _panel(figure, 1, energy, "J", "Energy")
    _panel(figure, 2, money, "USD", "Cost")
    return figure


def amount(value: float, unit: str) -> str:
    """Joules or dollars in few characters: ``16.8 MJ``, ``28.9 GWh``, ``$38.7M``."""
    if unit == "USD":
        return theme.compact(value, unit)
    factor, shown = next((scale for scale in LARGE[unit] if value >= scale[0]), (1.0, unit))
    return f"{value / factor:.3g} {shown}"


def _count(tokens: Any) -> str:
    text = str(tokens)
    return f"{theme.compact(float(tokens)) if text.replace('.', '').replace('e', '').isdigit() else text} tokens"


def _panel(figure: go.Figure, column: int, terms: Mapping[str, float], unit: str, name: str) -> None:
    """The causes, the largest on top, with what each takes and its share."""
    import plotly.graph_objects as go

    kept = sorted(((term, value) for term, value in terms.items() if value > 0), key=lambda item: -item[1])
    whole = sum(value for _, value in kept) or 1.0
    top = max((value for _, value in kept), default=1.0)
    factor, shown = next((scale for scale in LARGE[unit] if top >= scale[0]), (1.0, unit))
    for term, value in kept:
        label, text = WORDS.get(term, theme.term_title(term)), amount(value, unit)
        hover = f"<b>{label}</b><br>{engineering(value, unit)}, {value / whole:.1%}"
        row = {"x": [value / factor], "y": [label], "orientation": "h", "name": label}
        note = {"text": f"{NARROW}{text}, {value / whole:.1%}", "showarrow": False, "xanchor": "left"}
        bar = go.Bar(**row, marker=theme.fill(term, list(terms).index(term)), customdata=[hover], hovertemplate=HOVER)
        figure.add_trace(bar, row=1, col=column)
        figure.add_annotation(x=value / factor, y=label, **note, row=1, col=column)
    place = {"row": 1, "col": column}
    figure.update_xaxes(title={"text": theme.with_unit(name, shown)}, range=[0, 1.5 * top / factor], **place)
    figure.update_yaxes(autorange="reversed", showgrid=False, **place)


def goodput_shares(result: Result, *, title: str = "", dark: bool = False) -> go.Figure:
    """Time that does not train, by cause, as a share of the wall clock; the title says how much does.

    Args:
        result: a single design.

    Raises:
        SpecError: the result has axes.
    """
    import plotly.graph_objects as go

    words = heading(result, title or "Time lost to failures and upkeep")
    shares = result.terms("goodput")
    useful = shares.pop("useful")
    words["subtitle"] += f"<br>Goodput {useful:.2%}: {24 * useful:.2f} hours of each day train the model"
    figure = theme.blank(words["title"], dark, subtitle=words["subtitle"], margin=room(words), showlegend=False)
    kept = sorted(((term, share) for term, share in shares.items() if share > 5e-6), key=lambda item: -item[1])
    for term, share in kept:
        label, lost = WORDS.get(term, theme.term_title(term)), engineering(DAY * share, "s")
        row = {"x": [100 * share], "y": [label], "orientation": "h", "name": label, "hovertemplate": HOVER}
        hover = f"<b>{label}</b><br>{share:.3%} of the time, {lost} a day"
        figure.add_trace(
            go.Bar(**row, marker={"color": theme.colour_of(term, list(shares).index(term))}, customdata=[hover])
        )
        text = f"{NARROW}<b>{share:.3%}</b>, {lost} a day"
        figure.add_annotation(x=100 * share, y=label, text=text, showarrow=False, xanchor="left")
    top = 100 * max((share for _, share in kept), default=0.01)
    figure.update_xaxes(title={"text": "Share of the wall clock [%]"}, range=[0, 1.35 * top])
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure.update_layout(height=250 + 55 * len(kept))
