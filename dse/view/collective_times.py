"""Figures of many schedules: time against size, ratios to the bound by network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.units import engineering
from dse.view import theme
from dse.view.collective import HOVER, binary

if TYPE_CHECKING:
    import plotly.graph_objects as go

Rows = Sequence[Mapping[str, Any]]
OWN = "synthesized"


def against_size(rows: Rows, *, title: str = "", subtitle: str = "", dark: bool = False) -> go.Figure:
    """Time against size, both logarithmic: a line an algorithm, and what no schedule can beat.

    Args:
        rows: ``size`` (bytes), ``algorithm``, ``time`` and ``bound`` (seconds) of each schedule.
    """
    names = _first(row["algorithm"] for row in rows)
    names = [name for name in (OWN,) if name in names] + [name for name in names if name != OWN]
    factor, unit = theme.axis_scale([max(row["time"] for row in rows)], "s")
    factor, unit = (1e-6, "µs") if factor < 1 else (factor, unit)
    sizes = sorted({row["size"] for row in rows})
    least = {size: min(row["bound"] for row in rows if row["size"] == size) for size in sizes}
    traces = [_line("bound", sizes, [least[size] for size in sizes], least, factor, theme.ink(dark), "dot", "line-ns")]
    for k, name in enumerate(names):
        mine = sorted((row["size"], row["time"]) for row in rows if row["algorithm"] == name)
        colour, dash = theme.SPARE[k % len(theme.SPARE)], theme.DASHES[k // len(theme.SPARE) % len(theme.DASHES)]
        x, y = zip(*mine, strict=True)
        traces.append(_line(name, x, y, least, factor, colour, dash, theme.MARKERS[k % len(theme.MARKERS)]))
        traces[-1]["line"]["width"] = 3.4 if name == OWN else 1.8
    ticks = {"tickvals": sizes, "ticktext": [binary(size) for size in sizes]}
    seconds = [t["y"] for t in traces]
    words = theme.heading(title, "Time against size", subtitle)
    return theme.drawn(
        traces, dark=dark, xaxis={"type": "log", "title": {"text": "Size"}, **ticks},
        yaxis={"type": "log", "title": {"text": theme.with_unit("Time", unit)},
               **theme.log_ticks(np.concatenate(seconds))}, **words,
    )  # fmt: skip


def _line(name: str, x: Any, y: Any, least: Any, factor: float, colour: str, dash: str, mark: str) -> dict[str, Any]:
    said = [
        f"<b>{name}</b>, {binary(a)}<br>{engineering(b, 's')}"
        + (f", {b / least[a]:.3g} times the bound" if name != "bound" and least[a] > 0 else "")
        for a, b in zip(x, y, strict=True)
    ]
    return {
        "type": "scatter", "mode": "lines+markers" if name != "bound" else "lines", "name": theme.term_title(name),
        "x": np.asarray(x, float), "y": np.asarray(y, float) / factor, "customdata": said, "hovertemplate": HOVER,
        "line": {"color": colour, "width": 1.8, "dash": dash}, "marker": {"symbol": mark, "size": 7, "color": colour},
    }  # fmt: skip


def ratios(rows: Rows, *, title: str = "", subtitle: str = "", most: float = 4.0, dark: bool = False) -> go.Figure:
    """Time over bound: a group of bars a network, a bar an algorithm; bars over ``most`` are cut and labelled.

    Args:
        rows: ``network``, ``algorithm`` and ``ratio`` of each schedule; of several the best counts.
    """
    networks, names = _first(row["network"] for row in rows), _first(row["algorithm"] for row in rows)
    names = [name for name in (OWN,) if name in names] + [name for name in names if name != OWN]
    best: dict[tuple[str, str], float] = {}
    for row in rows:
        key = (row["algorithm"], row["network"])
        best[key] = min(best.get(key, np.inf), row["ratio"])
    traces = []
    for k, name in enumerate(names):
        value = np.array([best.get((name, place), np.nan) for place in networks])
        labels = [f"{v:.2f}" if name == OWN or v > most else "" for v in value]
        said = [f"<b>{theme.term_title(name)}</b><br>{place}: {v:.3f} times the bound"
                for place, v in zip(networks, value, strict=True)]  # fmt: skip
        traces.append(
            {
                "type": "bar", "name": theme.term_title(name), "x": networks, "y": np.minimum(value, most),
                "marker": {"color": theme.SPARE[k % len(theme.SPARE)],
                           "pattern": {"shape": ("", "/", "x")[k // len(theme.SPARE) % 3], "solidity": 0.3}},
                "text": labels, "textposition": "outside", "textfont": {"size": 10}, "cliponaxis": False,
                "customdata": said, "hovertemplate": HOVER,
            }
        )  # fmt: skip
    line = theme.line_at(1.0, dark, letter="y")
    words = theme.heading(title, "Time over what no schedule can beat", subtitle)
    return theme.drawn(
        traces, dark=dark, barmode="group", bargap=0.18, xaxis={"type": "category", "showgrid": False},
        yaxis={"title": {"text": "Time over bound"}, "range": [0, 1.08 * most]}, **line, **words,
    )  # fmt: skip


def _first(values: Any) -> list[str]:
    return list(dict.fromkeys(values))


def spread(
    values: Mapping[str, Mapping[float, Any]], *, unit: str = "s", value_title: str = "Time",
    along_title: str = "Failed cables", title: str = "", dark: bool = False,
) -> go.Figure:  # fmt: skip
    """Quantiles over random samples: of each algorithm the median, and bands from the 5 % to the 95 % quantile.

    Args:
        values: by algorithm, at each share (the horizontal axis), the samples.
    """
    everything = np.concatenate([np.ravel(samples) for of in values.values() for samples in of.values()])
    factor, shown = theme.axis_scale(everything, unit)
    traces: list[dict[str, Any]] = []
    for k, (name, of) in enumerate(values.items()):
        at = np.array(sorted(of))
        low, mid, high = (np.array([np.quantile(of[x], q) for x in at]) / factor for q in (0.05, 0.5, 0.95))
        colour = theme.SPARE[k % len(theme.SPARE)]
        band = {"type": "scatter", "mode": "lines", "x": np.concatenate([at, at[::-1]]), "fill": "toself",
                "y": np.concatenate([high, low[::-1]]), "line": {"width": 0}, "fillcolor": colour, "opacity": 0.22,
                "hoverinfo": "skip", "showlegend": False}  # fmt: skip
        said = [
            f"<b>{theme.term_title(name)}</b>, {x:.3g}<br>median {theme.short(m * factor, unit)}, "
            f"{theme.short(a * factor, unit)} to {theme.short(b * factor, unit)} for 9 of 10<br>{len(of[x])} samples"
            for x, a, m, b in zip(at, low, mid, high, strict=True)
        ]
        line = {"type": "scatter", "mode": "lines+markers", "name": theme.term_title(name), "x": at, "y": mid,
                "line": {"color": colour, "width": 2.6}, "customdata": said, "hovertemplate": HOVER,
                "marker": {"size": 8, "symbol": theme.MARKERS[k % len(theme.MARKERS)], "color": colour}}  # fmt: skip
        traces += [band, line]
    words = theme.heading(title, "Spread over random failures", "Median, and 5 % to 95 % of the samples")
    ticks = {"tickformat": ".0%"} if max(max(of) for of in values.values()) <= 1 else {}
    return theme.drawn(
        traces, dark=dark, xaxis={"title": {"text": along_title}, **ticks},
        yaxis={"title": {"text": theme.with_unit(value_title, shown)}, "rangemode": "tozero"}, **words,
    )  # fmt: skip
