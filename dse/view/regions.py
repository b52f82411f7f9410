"""Regions that tell designs apart: how boxes were peeled, and where they lie in the ranges of their fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.units import engineering
from dse.view import theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dse.explore.sensitivity import Box, Limit

NARROW = "\N{NO-BREAK SPACE}"  # a gap between the end of a bar and its label
HOVER = "%{customdata}<extra></extra>"
FEWEST = 5  # rows for which there is room, so that a single bar is not a block


def trajectories(figure: go.Figure, boxes: Sequence[Box], dark: bool) -> None:
    """Density against coverage, step by step, and a star for each box as it was given."""
    import plotly.graph_objects as go

    for position, box in enumerate(boxes):
        colour, path = theme.SPARE[position % len(theme.SPARE)], box.trajectory
        hover = [_peel_hover(row) for _, row in path.iterrows()]
        line = {"line": {"color": colour, "width": 1.5}, "marker": {"size": 6}, "mode": "lines+markers"}
        text = {"customdata": hover, "hovertemplate": HOVER, "name": f"box {position + 1}: {box}"}
        figure.add_trace(go.Scatter(x=path["coverage"], y=path["density"], **line, **text))
        star = {"symbol": "star", "size": 17, "color": colour, "line": {"width": 1, "color": theme.ink(dark)}}
        words = f"<b>{box}</b><br>density {box.density:.1%}, coverage {box.coverage:.1%}, mass {box.mass:.1%}"
        point = {"x": [box.coverage], "y": [box.density], "mode": "markers", "marker": star, "cliponaxis": False}
        figure.add_trace(go.Scatter(**point, customdata=[words], hovertemplate=HOVER, showlegend=False))


def _peel_hover(row: pd.Series) -> str:
    return (
        f"density {row['density']:.1%}, coverage {row['coverage']:.1%}<br>"
        f"mass {row['mass']:.1%}, {int(row['restricted'])} restrictions"
    )


def regions(
    figure: go.Figure, rows: Sequence[tuple[int, Limit]], known: Mapping[str, Sequence[Any]], dark: bool
) -> None:
    """A bar for each field that a box restricts, in the second panel: its full range in grey, and what the box takes.

    Args:
        rows: number of the box, and its limit.
        known: values of each field; of numbers the ends are enough.
    """
    import plotly.graph_objects as go

    parts = [_spans(limit, known[limit.name]) for _, limit in rows]
    names = [_row(k, limit, words) for (k, limit), (_, words) in zip(rows, parts, strict=True)]
    grey = {"color": theme.template(dark).layout.xaxis.gridcolor}
    back = {"x": [1.0] * len(rows), "y": names, "marker": grey, "hoverinfo": "skip"}
    style = {"orientation": "h", "width": 0.4, "showlegend": False}
    figure.add_trace(go.Bar(**back, **style), 1, 2)
    for (k, limit), (spans, words), name in zip(rows, parts, names, strict=True):
        bar = {"x": [b - a for a, b in spans], "base": [a for a, _ in spans], "y": [name] * len(spans)}
        text = {"customdata": [f"<b>{limit}</b><br>{words}"] * len(spans), "hovertemplate": HOVER}
        marker = {"color": theme.SPARE[k % len(theme.SPARE)]}
        figure.add_trace(go.Bar(**bar, **text, **style, marker=marker), 1, 2)
    figure.update_layout(barmode="overlay")
    rest = (max(len(rows), FEWEST) - len(rows)) / 2
    figure.update_yaxes(range=[len(rows) - 0.5 + rest, -0.5 - rest], showgrid=False, type="category", row=1, col=2)
    ticks = {"tickvals": [0, 1], "ticktext": ["low end", "high end"], "range": [-0.01, 1.01], "showgrid": False}
    figure.update_xaxes(title={"text": "The boxes within the ranges looked at"}, **ticks, row=1, col=2)


def _row(box: int, limit: Limit, words: str) -> str:
    """Name of a row: the field, the rule, and the range; rows of another box differ by a blank."""
    rule = str(limit).removeprefix(limit.name).strip()
    if limit.low is not None and limit.high is not None and limit.low != limit.high:
        rule = " to ".join(engineering(end, limit.unit) for end in (limit.low, limit.high))
    rule = rule.replace("<=", "≤").replace(">=", "≥")
    return f"{theme.words(limit.name)}<br><b>{rule}</b><br>{words}{NARROW * box}"


def _spans(limit: Limit, values: Sequence[Any]) -> tuple[list[tuple[float, float]], str]:
    """Parts from 0 to 1 of a field's range that lie in the box, and the range in words; names have equal parts."""
    if limit.members:
        names = sorted({str(v).lower() if isinstance(v, bool) else str(v) for v in values})
        inside = [(i / len(names), (i + 1) / len(names)) for i, name in enumerate(names) if name in limit.members]
        return inside, f"of {', '.join(names) if len(names) <= 4 else f'{len(names)} names'}"
    low, high = float(min(values)), float(max(values))
    scale = np.log if low > 0 and high > 4 * low else float
    ends = [low if limit.low is None else limit.low, high if limit.high is None else limit.high]
    first, last = (float((scale(end) - scale(low)) / (scale(high) - scale(low))) for end in ends)
    least = 0.015  # a single value is a line
    words = " to ".join(engineering(end, limit.unit) for end in (low, high))
    return [(min(first, 1 - least), max(last, first + least))], f"of {words}"
