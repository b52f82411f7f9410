"""How figures look: one template in light and dark, a fixed colour for every term, titles, and axis units.

Compute is cool, communication warm, waiting grey. The colours were searched so that any two stay apart for people with
each kind of dichromacy (a test measures it); terms for which no colour was left are hatched as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dse.units import engineering
from dse.view import naming

if TYPE_CHECKING:
    import plotly.graph_objects as go

# (title, colour, hatch) of every entry of a breakdown.
TERMS: dict[str, tuple[str, str, str]] = {
    "forward": ("forward", "#0772DF", ""),
    "recompute": ("recompute", "#88CCEE", "/"),
    "input_grad": ("input gradient", "#9DEAE0", ""),
    "weight_grad": ("weight gradient", "#296C1B", ""),
    "tp_comm_forward": ("TP comm., forward", "#EE6B2A", ""),
    "tp_comm_backward": ("TP comm., backward", "#FBAE1E", ""),
    "cp_comm": ("CP comm.", "#F8F04A", ""),
    "ep_comm": ("all-to-all (EP)", "#BE7FA0", ""),
    "pp_comm": ("PP comm.", "#D81B60", "\\"),
    "dp_comm": ("DP comm.", "#A21884", ""),
    "imbalance": ("stage imbalance", "#B2B2B2", ""),
    "bubble": ("pipeline bubble", "#888888", "/"),
    "optimizer": ("optimizer", "#5A3418", ""),
    "offload": ("offload", "#666666", "x"),
    "host_forward": ("host, forward", "#D9C7A3", "."),
    "host_backward": ("host, backward", "#B79F6B", "."),
    "stragglers": ("stragglers", "#404040", "+"),
    # memory
    "weights": ("weights", "#0772DF", ""),
    "gradients": ("gradients", "#296C1B", ""),
    "activations": ("activations", "#FBAE1E", ""),
    "working": ("working memory", "#F8F04A", ""),
    "reserved": ("reserved", "#B2B2B2", ""),
    "tables": ("embedding tables", "#BE7FA0", ""),
    # energy and money
    "compute": ("compute", "#0772DF", ""),
    "memory": ("memory", "#FBAE1E", ""),
    "links": ("links", "#EE6B2A", ""),
    "idle": ("idle devices", "#B2B2B2", ""),
    "host": ("hosts", "#888888", ""),
    "network": ("network ports", "#A21884", ""),
}
SPARE = ("#0772DF", "#EE6B2A", "#296C1B", "#BE7FA0", "#FBAE1E", "#A21884", "#5A3418", "#44AA99", "#888888", "#88CCEE")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "triangle-down", "star")
GOOD, BAD = "#296C1B", "#D81B60"
# A legend in rows at the lower edge of a figure, below the title of the axis.
BELOW = {"orientation": "h", "yref": "container", "y": 0.0, "yanchor": "bottom", "xref": "container", "x": 0.01,
         "xanchor": "left", "font": {"size": 13}}  # fmt: skip

TITLES = {
    "step_time": "step time",
    "effective_tokens_per_s": "effective throughput",
    "effective_step_time": "effective step time",
    "tco": "total cost of ownership",
    "tokens_per_s": "throughput",
    "mfu": "MFU",
    "hfu": "HFU",
    "memory_bytes": "memory footprint",
    "energy": "energy per step",
    "power": "power",
    "cost": "cost per step",
    "carbon": "CO2e per step",
    "tokens_per_dollar": "tokens per dollar",
    "tokens_per_joule": "tokens per joule",
    "feasible": "feasible",
    "time": "step time",
    "memory": "memory footprint",
    "tier": "memory held",
    "devices": "devices",
    "tp": "tensor-parallel degree (tp)",
    "pp": "pipeline stages (pp)",
    "dp": "data-parallel degree (dp)",
    "cp": "context-parallel degree (cp)",
    "ep": "expert-parallel degree (ep)",
    "micro_batch": "micro-batch",
    "global_batch": "global batch",
    "zero_stage": "ZeRO stage",
}
_INK = {"light": ("#1F2430", "#FFFFFF", "#DDE1E8"), "dark": ("#E6E8EC", "#16191F", "#363C47")}
_RATES = {"1/s": "per second", "1/USD": "per dollar", "1/J": "per joule"}
_LARGE = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))  # as the ticks of linear axes are written


def title_of(name: str) -> str:
    """A quantity, term or axis as people call it."""
    last = name.rpartition(".")[2]
    if name in TITLES:
        return TITLES[name]
    return TERMS[last][0] if last in TERMS else TITLES.get(last, last.replace("_", " "))


def words(path: str) -> str:
    """A field as people call it: the last two parts of its path, which tell one bandwidth from another."""
    known = naming.field(path)
    if known:
        return known
    parts = [naming.PARTS.get(part, part.replace("_", " ")) for part in path.split(".") if not part.isdigit()]
    if parts[-2:-1] and parts[-2] in ("matrix", "vector"):
        return f"{parts[-1]} {parts[-2]} peak"
    return title_of(path) if len(parts) < 2 or parts[-1] == "devices" else " ".join(parts[-2:])


def sentence(text: str) -> str:
    """Text with a capital first letter, the rest as it is."""
    return text[:1].upper() + text[1:]


def term_title(term: str) -> str:
    """An entry of a breakdown as people call it (``memory`` is an entry of the energy, and a table itself)."""
    return TERMS[term][0] if term in TERMS else term.replace("_", " ")


def colour_of(term: str, position: int = 0) -> str:
    """The fixed colour of a term; other names take the spare colours in order."""
    return TERMS[term][1] if term in TERMS else SPARE[position % len(SPARE)]


def hatch_of(term: str) -> str:
    """Pattern that tells a term from one of a similar colour (empty: plain)."""
    return TERMS[term][2] if term in TERMS else ""


def fill(term: str, position: int = 0) -> dict[str, Any]:
    """Marker of a term's bars: colour, and the hatch over it."""
    hatch = {
        "shape": hatch_of(term),
        "fillmode": "overlay",
        "fgcolor": "#FFFFFF",
        "fgopacity": 0.6,
        "solidity": 0.15,
        "size": 9,
    }
    return {"color": colour_of(term, position), "pattern": hatch}


def ink(dark: bool) -> str:
    """Colour of text and of lines that must stand out."""
    return _INK["dark" if dark else "light"][0]


def paper(dark: bool) -> str:
    """Background of figures."""
    return _INK["dark" if dark else "light"][1]


@lru_cache(maxsize=2)
def template(dark: bool = False) -> Any:
    """The Plotly template of all figures."""
    import plotly.graph_objects as go

    text, back, grid = _INK["dark" if dark else "light"]
    axis = {
        "gridcolor": grid,
        "linecolor": text,
        "zerolinecolor": grid,
        "ticks": "outside",
        "tickcolor": grid,
        "automargin": True,
        "title": {"standoff": 12},
        "showline": True,
    }
    layout = go.Layout(
        font={"family": "Inter, Helvetica, Arial, sans-serif", "size": 15, "color": text},
        title={"x": 0.01, "xanchor": "left", "y": 0.98, "yanchor": "top", "font": {"size": 19}, "automargin": True},
        paper_bgcolor=back,
        plot_bgcolor=back,
        colorway=list(SPARE),
        xaxis=axis,
        yaxis=axis,
        margin={"l": 80, "r": 30, "t": 70, "b": 60},
        hoverlabel={"font": {"size": 14}, "align": "left"},
        legend={"traceorder": "normal", "font": {"size": 14}},
        colorscale={"sequential": "Cividis", "diverging": "RdBu"},
        bargap=0.25,
        hovermode="closest",
    )
    return go.layout.Template(layout=layout)


def label(value: Any, unit: str = "") -> str:
    """A number with its unit, or a name, as a tick label or in a cell."""
    if isinstance(value, bool) or (not isinstance(value, int | float) and not hasattr(value, "dtype")):
        return str(value)
    if getattr(value, "dtype", None) is not None and value.dtype.kind not in "fiu":
        return str(value)
    if unit in _RATES:
        return f"{engineering(float(value), '', 4)} {_RATES[unit]}"
    return _whole(float(value), unit) or engineering(float(value), unit)


def _whole(value: float, unit: str) -> str:
    """Counts keep all their digits; empty for what is not a count."""
    if unit not in ("", "1") or value != value or abs(value) >= 1e9 or value != int(value):
        return ""
    return f"{value:.0f}" if abs(value) < 1e5 else f"{value:,.0f}"


def axis_scale(values: Iterable[float], unit: str) -> tuple[float, str]:
    """Factor and unit that make an axis readable: 4.2e10 B becomes 42 with the unit ``GB``.

    Returns:
        What to divide SI values by, and the unit to print. Seconds stay seconds above 1 s, dollars and plain numbers
        stay as they are.
    """
    finite = [abs(float(v)) for v in values if math.isfinite(float(v)) and v]
    if unit in ("", "1", "USD") or unit.startswith("1/") or not finite:
        return 1.0, _RATES.get(unit, "" if unit == "1" else unit)
    if unit == "J" and max(finite) >= 3.6e9:  # as engineering() writes it
        return 3.6e9, "MWh"
    text = engineering(max(finite), unit if unit != "s" else "B")
    prefix = text.split(" ", 1)[1][: -len(unit if unit != "s" else "B")]
    if unit == "s" and prefix in tuple("kMGTPE"):
        prefix = ""
    powers = {"E": 18, "P": 15, "T": 12, "G": 9, "M": 6, "k": 3, "": 0, "m": -3, "µ": -6, "n": -9, "p": -12}
    return 10.0 ** powers[prefix], prefix + unit


def short(value: float, unit: str = "") -> str:
    """Three digits and the unit, for labels in figures; times stay in seconds."""
    if unit == "s" and abs(value) >= 60:
        return f"{value:,.0f} s" if abs(value) >= 100 else f"{value:.3g} s"
    return _whole(float(value), unit) or engineering(value, unit, 3)


def compact(value: float, unit: str = "") -> str:
    """A number in few characters: 80 million dollars are ``$80M``, 208,477 are ``208k``."""
    if unit in _RATES or unit.startswith(("tokens/", "samples/")):
        return f"{compact(value)} {_RATES.get(unit, unit)}"
    if unit not in ("", "1", "USD"):
        return short(value, unit)
    size = abs(float(f"{value:.3g}"))  # 999,999 is a million
    scale, letter = next((pair for pair in _LARGE if size >= pair[0]), (1.0, ""))
    text = f"{value / scale:.3g}{letter}"
    return text if unit != "USD" else f"-${text[1:]}" if value < 0 else f"${text}"


def tick(value: float) -> str:
    """A tick of an axis: large numbers as 20k and 20M, the others in full."""
    return f"{value:g}" if abs(value) < 1e4 else compact(value)


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two ends, both included: multiples of 1, 2 or 5 times a power of ten.

    Returns:
        At most ``most`` rising values; a single one where the ends are equal.
    """
    if not low < high:
        return [low]
    power = 10.0 ** (math.floor(math.log10(high - low)) - 1)
    steps = (digit * power * 10.0**place for place in range(4) for digit in (1, 2, 5))
    ends = ((step, math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)) for step in steps)
    step, first, last = next(end for end in ends if end[2] - end[1] < most)
    return [step * place for place in range(first, last + 1)]


def log_ticks(values: Iterable[float]) -> dict[str, list[Any]]:
    """Ticks at 1, 2 and 5 of every decade (1 only, over many decades) for a logarithmic axis."""
    found = [float(v) for v in values if math.isfinite(float(v)) and v > 0]
    if not found:
        return {}
    low, high = math.floor(math.log10(min(found))), math.ceil(math.log10(max(found)))
    digits = (1, 2, 5) if high - low <= 4 else (1,)
    ticks = [float(f"{digit}e{power}") for power in range(low, high + 1) for digit in digits]
    return {"tickvals": ticks, "ticktext": [tick(value) for value in ticks]}


def axis_title(name: str, unit: str) -> str:
    """``Step time [s]``; the unit is left out where there is none."""
    words = title_of(name)
    words = words[:1].upper() + words[1:] if not words[:2].isupper() else words
    return with_unit(words, unit)


def with_unit(words: str, unit: str) -> str:
    """A title with its unit in brackets."""
    return f"{words} [{unit}]" if unit not in ("", "1") else words


def counted(name: str, unit: str, model: Any = None) -> str:
    """The unit of a rate with what is counted: ``tokens/s`` (``samples/s`` of a model without sequences)."""
    if "tokens_per_" not in name or not (unit in _RATES or unit in _RATES.values()):
        return unit
    per = next(raw for raw, text in _RATES.items() if unit in (raw, text)).removeprefix("1/")
    return f"{'tokens' if model is None or getattr(model, 'seq_len', None) else 'samples'}/{per}"


def condition_text(condition: Any, model: Any = None) -> str:
    """A condition with the quantity as people call it: ``capital ≤ $80M``."""
    bound = compact(condition.value, counted(condition.name, condition.unit, model))
    return f"{title_of(condition.name)} {'≤' if condition.at_most else '≥'} {bound}"


def design_text(specs: Mapping[str, Any], devices: Any = None) -> str:
    """The design that a figure is about: ``GPT-3 175B on 512 devices of NVIDIA DGX H100 SuperPOD``.

    Args:
        specs: ``model`` and ``cluster``; what stands in brackets in their names is left out.
        devices: how many; left out where they vary.
    """
    model, cluster = (str(specs[root].name).partition(" (")[0] or specs[root].id for root in ("model", "cluster"))
    model = model.partition(" of ")[0]
    return f"{model} on {cluster}" if devices is None else f"{model} on {int(devices):,} devices of {cluster}"


@lru_cache(maxsize=2)
def shades(dark: bool = False) -> list[list[Any]]:
    """The sequential colour scale, without the end that cannot be told from a dark background."""
    from plotly.colors import sample_colorscale

    low = 0.3 if dark else 0.0
    return [[k / 10, sample_colorscale("Cividis", [low + (1 - low) * k / 10])[0]] for k in range(11)]


def heading(title: str, usual: str, about: str) -> dict[str, Any]:
    """Title of a figure: the user's own, or the usual words and a line about the design."""
    return {"title": title, "margin": {"t": 44}} if title else {"title": usual, "subtitle": about, "margin": {"t": 66}}


def drawn(
    traces: Sequence[dict[str, Any]], *, title: str = "", dark: bool = False, subtitle: str = "", **layout: Any
) -> go.Figure:
    """A figure in the theme, from plain dictionaries (a trace's has its ``type``; no ``magic_underscores``).

    Plotly checks every property of a figure that is put together step by step, which takes most of the time of a
    small one. What is drawn here is checked by the tests instead; changes to the figure are checked as usual.
    """
    import plotly.graph_objects as go

    words: dict[str, Any] = {"text": title}
    if subtitle:
        words["subtitle"] = {"text": subtitle, "font": {"size": 14}}
    margin = {**({} if title else {"t": 34}), **layout.pop("margin", {})}
    whole = {"template": template(dark), "title": words, "height": 560, "margin": margin, **layout}
    figure = go.Figure({"data": list(traces), "layout": whole}, _validate=False)
    for part in (figure, figure.layout, *figure.data):
        part._validate = True
    return figure


def line_at(place: float, dark: bool, *, letter: str = "x", text: str = "", **note: Any) -> dict[str, list[Any]]:
    """A dashed line through a figure at a place on an axis, with what it says: ``shapes`` and ``annotations``."""
    other = "y" if letter == "x" else "x"
    ends = {f"{letter}0": place, f"{letter}1": place, f"{other}0": 0, f"{other}1": 1, f"{other}ref": f"{other} domain"}
    line = {"color": ink(dark), "dash": "dash", "width": 2}
    words = {letter: place, other: 1, f"{other}ref": f"{other} domain", "text": text, "showarrow": False, **note}
    return {"shapes": [{"type": "line", "line": line, **ends}], "annotations": [words] if text else []}


def blank(title: str, dark: bool, *, subtitle: str = "", **layout: Any) -> go.Figure:
    """An empty figure in the theme; the subtitle says of which design it is."""
    return drawn([], title=title, dark=dark, subtitle=subtitle, **layout)
