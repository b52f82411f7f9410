"""How figures look: one template in light and dark, a fixed colour for every term, titles, and axis units.

The colours are Paul Tol's "muted" and Okabe-Ito sets, which people with any common colour blindness tell apart;
terms whose hues lie close are hatched as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from dse.units import engineering

# (title, colour, hatch) of every entry of a breakdown. Compute is cool, communication warm, waiting grey.
TERMS: dict[str, tuple[str, str, str]] = {
    "forward": ("forward", "#0072B2", ""),
    "recompute": ("recompute", "#88CCEE", "/"),
    "input_grad": ("input gradient", "#44AA99", ""),
    "weight_grad": ("weight gradient", "#117733", ""),
    "tp_comm_forward": ("TP comm., forward", "#D55E00", ""),
    "tp_comm_backward": ("TP comm., backward", "#E69F00", ""),
    "cp_comm": ("CP comm.", "#F0E442", ""),
    "ep_comm": ("EP comm. (all-to-all)", "#CC79A7", ""),
    "pp_comm": ("PP comm.", "#AA4499", "\\"),
    "dp_comm": ("DP comm.", "#882255", ""),
    "imbalance": ("stage imbalance", "#BBBBBB", ""),
    "bubble": ("pipeline bubble", "#888888", "/"),
    "optimizer": ("optimizer", "#999933", ""),
    "offload": ("offload", "#666666", "x"),
    # memory
    "weights": ("weights", "#0072B2", ""),
    "gradients": ("gradients", "#117733", ""),
    "activations": ("activations", "#E69F00", ""),
    "working": ("working memory", "#F0E442", ""),
    "reserved": ("reserved", "#BBBBBB", ""),
    "tables": ("embedding tables", "#CC79A7", ""),
}
SPARE = ("#0072B2", "#D55E00", "#117733", "#CC79A7", "#E69F00", "#88CCEE", "#882255", "#999933", "#44AA99", "#888888")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "triangle-down", "star")
GOOD, BAD, QUIET = "#117733", "#D55E00", "#888888"

TITLES = {
    "step_time": "step time", "tokens_per_s": "throughput", "mfu": "MFU", "hfu": "HFU", "memory_bytes": "memory footprint",
    "energy": "energy per step", "power": "power", "cost": "cost per step", "carbon": "CO2e per step",
    "tokens_per_dollar": "tokens per dollar", "tokens_per_joule": "tokens per joule", "feasible": "feasible",
    "time": "step time", "memory": "memory footprint", "tier": "memory held", "devices": "devices",
    "tp": "tensor-parallel degree (tp)", "pp": "pipeline stages (pp)", "dp": "data-parallel degree (dp)",
    "cp": "context-parallel degree (cp)", "ep": "expert-parallel degree (ep)", "micro_batch": "micro-batch",
    "global_batch": "global batch", "zero_stage": "ZeRO stage",
}  # fmt: skip
_INK = {"light": ("#1F2430", "#FFFFFF", "#DDE1E8"), "dark": ("#E6E8EC", "#16191F", "#363C47")}
_RATES = {"1/s": "per second", "1/USD": "per dollar", "1/J": "per joule"}


def title_of(name: str) -> str:
    """A quantity, term or axis as people call it."""
    last = name.rpartition(".")[2]
    if last in TERMS:
        return TERMS[last][0]
    return TITLES.get(name, TITLES.get(last, last.replace("_", " ")))


def colour_of(term: str, position: int = 0) -> str:
    """The fixed colour of a term; other names take the spare colours in order."""
    return TERMS[term][1] if term in TERMS else SPARE[position % len(SPARE)]


def hatch_of(term: str) -> str:
    """Pattern that tells a term from one of a similar colour (empty: plain)."""
    return TERMS[term][2] if term in TERMS else ""


def ink(dark: bool) -> str:
    """Colour of text and of lines that must stand out."""
    return _INK["dark" if dark else "light"][0]


@lru_cache(maxsize=2)
def template(dark: bool = False) -> Any:
    """The Plotly template of all figures."""
    import plotly.graph_objects as go

    text, paper, grid = _INK["dark" if dark else "light"]
    axis = {"gridcolor": grid, "linecolor": text, "zerolinecolor": grid, "ticks": "outside", "tickcolor": grid,
            "automargin": True, "title": {"standoff": 12}, "showline": True}  # fmt: skip
    layout = go.Layout(
        font={"family": "Inter, Helvetica, Arial, sans-serif", "size": 15, "color": text},
        title={"x": 0.01, "xanchor": "left", "y": 0.98, "yanchor": "top", "font": {"size": 19}, "automargin": True},
        paper_bgcolor=paper, plot_bgcolor=paper, colorway=list(SPARE), xaxis=axis, yaxis=axis,
        margin={"l": 70, "r": 30, "t": 70, "b": 60}, hoverlabel={"font": {"size": 14}, "align": "left"},
        legend={"traceorder": "normal", "font": {"size": 14}},
        colorscale={"sequential": "Cividis", "diverging": "RdBu"}, bargap=0.25, hovermode="closest",
    )  # fmt: skip
    return go.layout.Template(layout=layout)


def label(value: Any, unit: str = "") -> str:
    """A number with its unit, or a name, as a tick label or in a cell."""
    if isinstance(value, bool) or not isinstance(value, int | float) and not hasattr(value, "dtype"):
        return str(value)
    if getattr(value, "dtype", None) is not None and value.dtype.kind not in "fiu":
        return str(value)
    if unit in _RATES:
        return f"{engineering(float(value), '', 4)} {_RATES[unit]}"
    return engineering(float(value), unit)


def axis_scale(values: Iterable[float], unit: str) -> tuple[float, str]:
    """Factor and unit that make an axis readable: 4.2e10 B becomes 42 with the unit ``GB``.

    Returns:
        What to divide SI values by, and the unit to print. Seconds stay seconds above 1 s, dollars and plain numbers
        stay as they are.
    """
    finite = [abs(float(v)) for v in values if math.isfinite(float(v)) and v]
    if unit in ("", "1", "USD") or unit.startswith("1/") or not finite:
        return 1.0, _RATES.get(unit, "" if unit == "1" else unit)
    text = engineering(max(finite), unit if unit != "s" else "B")
    prefix = text.split(" ", 1)[1][: -len(unit if unit != "s" else "B")]
    if unit == "s" and prefix in tuple("kMGTPE"):
        prefix = ""
    powers = {"E": 18, "P": 15, "T": 12, "G": 9, "M": 6, "k": 3, "": 0, "m": -3, "µ": -6, "n": -9, "p": -12}
    return 10.0 ** powers[prefix], prefix + unit


def axis_title(name: str, unit: str) -> str:
    """``step time [s]``; the unit is left out where there is none."""
    words = title_of(name)
    words = words[:1].upper() + words[1:] if not words[:2].isupper() else words
    return f"{words} [{unit}]" if unit else words
