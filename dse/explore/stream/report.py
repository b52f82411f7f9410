"""The report of a streamed table: one page of HTML that needs nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from dse.explore.stream.columns import ALWAYS
from dse.explore.stream.text import cell, described, units_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dse.explore.stream.table import StreamedTable

ROWS = 200  # rows of the query that the page shows
BEST = 10
BINS = 60
VALUES = 12  # of an axis in the figure of what they lead to, the best first
SHOWN = ("step_time", "tokens_per_s", "mfu", "energy", "cost", "memory_bytes")

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 15px/1.5 Inter, Helvetica, Arial, sans-serif; color: #1F2430; margin: 2rem auto; max-width: 1280px;
       padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; font-size: 13px }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #DDE1E8; text-align: left; vertical-align: top }
td { font-variant-numeric: tabular-nums; white-space: nowrap }
td.wide { white-space: normal; overflow-wrap: anywhere }
th { background: #F4F6F9 }
.scroll { overflow-x: auto }
</style></head><body>
<h1>{{ title }}</h1>
<p>{{ "{:,}".format(rows) }} designs, {{ "{:,}".format(feasible) }} of them feasible ({{ "%.2f"|format(share) }} %).</p>
{% for figure in figures %}{{ figure }}{% endfor %}
{% if best %}<h2>Best by {{ first }}</h2>
{% if same %}<p>The same in all of them: {{ same }}.</p>{% endif %}
<div class="scroll">{{ best }}</div>
{% if others %}<h2>Best by others</h2><table><tr><th>by</th><th>value</th><th>design</th></tr>
{% for name, value, design in others %}<tr><td>{{ name }}</td><td>{{ value }}</td>
<td class="wide">{{ design }}</td></tr>{% endfor %}</table>{% endif %}
{% else %}<p>No design is feasible.</p>{% endif %}
<h2>Infeasible designs by rule</h2>
{% if broken %}<p>A design may break several rules.</p>
<table><tr><th>rule</th><th>designs</th><th>what it asks</th></tr>
{% for rule, count, text in broken %}<tr><td>{{ rule }}</td><td>{{ "{:,}".format(count) }}</td>
<td class="wide">{{ text }}</td></tr>{% endfor %}</table>{% else %}<p>None.</p>{% endif %}
{% if table %}<h2>Designs</h2><div class="scroll">{{ table }}</div>{% endif %}
<h2>Axes</h2><table><tr><th>axis</th><th>field</th><th>unit</th><th>values</th></tr>
{% for a in axes %}<tr><td>{{ a.name }}</td><td>{{ a.path }}</td><td>{{ a.unit }}</td>
<td class="wide">{{ a.shown }}</td></tr>{% endfor %}</table>
<h2>Provenance</h2><table>
{% for name, value in provenance.items() %}<tr><td>{{ name }}</td><td class="wide">{{ value }}</td></tr>{% endfor %}
</table></body></html>
"""


def page(table: StreamedTable, title: str = "", rows: pd.DataFrame | None = None) -> str:
    """The page of a table.

    Args:
        table: the table.
        title: of the page; by default the folder's name.
        rows: designs to list besides the best ones.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    from dse.space import rules
    from dse.view.theme import title_of

    good = table.feasible_rows()
    names = [name for name in SHOWN if name in table.headers] if good else []
    best, same = _best(table, names[0]) if names else ("", "")
    texts = {rule: re.sub(r" ?=? ?\{[^}]*\}[^ ,;]*", "", text) for rule, text in rules.texts().items()}
    figures = [
        Markup(figure.to_html(full_html=False, include_plotlyjs=not place, config={"displaylogo": False}))
        for place, figure in enumerate(_figures(table))
    ]
    return (
        Environment(autoescape=True)
        .from_string(_PAGE)
        .render(
            title=title or table.path.name,
            rows=table.rows,
            feasible=good,
            share=100.0 * good / max(table.rows, 1),
            first=title_of(names[0]) if names else "",
            best=Markup(best),
            same=same,
            others=[_other(table, name) for name in names[1:]],
            figures=figures,
            broken=[(rule, count, texts[rule]) for rule, count in table.infeasible().items()],
            table=Markup(_rows(table, rows, list(table.headers))) if rows is not None and len(rows) else "",
            axes=_axes(table),
            provenance={
                **{k: v for k, v in table.manifest["provenance"].items() if k != "axes"},
                **{f"version of {name}": value or "none" for name, value in table.manifest["versions"].items()},
                "sha256 of the table": table.manifest["sha256"],
            },
        )
    )


def _axes(table: StreamedTable) -> list[dict[str, Any]]:
    values = json.loads(table.manifest["provenance"]["axes"])
    return [{**axis, "shown": ", ".join(map(str, values[axis["name"]]))[:2000]} for axis in table.manifest["axes"]]


def _best(table: StreamedTable, name: str) -> tuple[str, str]:
    """The best designs by a quantity as HTML, and what all of them share as text, so that the table stays narrow."""
    frame = table.best(name, BEST)
    units, axes = units_of(table), [axis["name"] for axis in table.manifest["axes"]]
    one = [n for n in axes if len(frame) > 1 and frame[table.headers[n]].nunique() == 1]
    same = ", ".join(f"{n} = {cell(n, frame[table.headers[n]].iloc[0], units[n])}" for n in one)
    hidden = {*one, *ALWAYS, *(n for n in table.headers if n.startswith("margin."))}
    return _rows(table, frame, [n for n in table.headers if n not in hidden]), same


def _other(table: StreamedTable, name: str) -> tuple[str, str, str]:
    """Title, value and design of the best by a quantity."""
    from dse.view.theme import title_of

    row = table.best(name).iloc[0]
    return title_of(name), cell(name, row[table.headers[name]], units_of(table)[name]), described(table, row)[0]


def _rows(table: StreamedTable, frame: pd.DataFrame, names: Sequence[str]) -> str:
    """Some columns of designs as HTML: a value with its unit in every cell."""
    units = units_of(table)
    shown = {}
    for name in (n for n in names if table.headers[n] in frame):
        title = escape(name).replace(".", ".<wbr>").replace("_", "_<wbr>")
        shown[title] = [escape(cell(name, value, units[name])) for value in frame[table.headers[name]]]
    return str(type(frame)(shown).to_html(index=False, border=0, escape=False))


def _figures(table: StreamedTable) -> list[go.Figure]:
    """How the designs spread: a histogram of the first quantity, and the least of it along each axis."""
    name = next((n for n in SHOWN if n in table.headers), None)
    if name is None or not table.feasible_rows():
        return []
    return [_histogram(table, name), _along_axes(table, name)]


def _histogram(table: StreamedTable, name: str) -> go.Figure:
    import plotly.graph_objects as go

    from dse.view import theme

    low, high = table.query(f'select min("{name}") as a, max("{name}") as b from designs where feasible').iloc[0]
    # Bins of equal ratio: quantities of a space span orders of magnitude.
    scaled = f'(ln("{name}") - ln({low!r})) / nullif(ln({high!r}) - ln({low!r}), 0)' if low > 0 else "0"
    counts = table.query(
        f"select least(floor(coalesce({scaled}, 0) * {BINS}), {BINS - 1})::int as bin, count(*) as n "
        "from designs where feasible group by bin order by bin"
    )
    ratio = (high / low) ** (1.0 / BINS) if low > 0 else 1.0
    edges = [float(low * ratio ** (int(place) + 0.5)) for place in counts["bin"]]
    unit = next(c["unit"] for c in table.manifest["columns"] if c["name"] == name)
    figure = go.Figure(go.Bar(x=edges, y=counts["n"], width=[e * (ratio - 1.0) or None for e in edges]))
    figure.update_layout(
        template=theme.template(), title=f"Feasible designs by {theme.title_of(name)}", height=420,
        xaxis={"type": "log", "title": {"text": f"{theme.title_of(name)} [{unit}]"}, "dtick": "D2"},
        yaxis={"title": {"text": "designs"}}, bargap=0,
    )  # fmt: skip
    return figure


def _along_axes(table: StreamedTable, name: str) -> go.Figure:
    """The best value of a quantity for each value of each axis: which choices matter."""
    import plotly.graph_objects as go

    from dse.explore.objectives import DIRECTIONS
    from dse.view import theme

    ends, units = "min" if DIRECTIONS.get(name, True) else "max", units_of(table)
    order = "y" if ends == "min" else "y desc"
    figure, bars = go.Figure(), 0
    for axis in (a for a in table.manifest["axes"] if a["values"] > 1):
        column, short = '"' + axis["name"].replace('"', '""') + '"', ".".join(axis["name"].split(".")[-2:])
        found = table.query(
            f'select {column} as v, {ends}("{name}") as y, min(part) as p, min(row) as r from numbered where feasible '
            f"group by v order by {order}, p, r limit {VALUES}"
        )
        labels = [f"{short} = {cell(axis['name'], value, units[axis['name']])}" for value in found["v"]]
        figure.add_bar(x=found["y"], y=labels, name=axis["name"], orientation="h")
        bars += len(labels)
    figure.update_layout(
        template=theme.template(), title=f"Best {theme.title_of(name)} with each value of an axis",
        height=150 + 21 * bars, showlegend=False, yaxis={"autorange": "reversed", "automargin": True},
        xaxis={"title": {"text": theme.axis_title(name, units[name])}},
    )  # fmt: skip
    return figure
