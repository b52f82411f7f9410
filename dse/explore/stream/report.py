"""The report of a streamed table: one page of HTML that needs nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dse.errors import InfeasibleDesign
from dse.units import engineering

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dse.explore.stream.table import StreamedTable

ROWS = 200  # rows of the query that the page shows
BEST = 10
BINS = 60
SHOWN = ("step_time", "tokens_per_s", "mfu", "energy", "cost", "memory_bytes")

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 15px/1.5 Inter, Helvetica, Arial, sans-serif; color: #1F2430; margin: 2rem auto; max-width: 1280px;
       padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; display: block; overflow-x: auto }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #DDE1E8; text-align: left; white-space: nowrap }
td.wide { white-space: normal; overflow-wrap: anywhere }
th { background: #F4F6F9 }
</style></head><body>
<h1>{{ title }}</h1>
<p>{{ "{:,}".format(rows) }} designs, {{ "{:,}".format(feasible) }} of them feasible ({{ "%.2f"|format(share) }} %).</p>
{% for name, frame in best.items() %}<h2>Best by {{ name }}</h2>{{ frame }}{% endfor %}
{% if not best %}<p>No design is feasible.</p>{% endif %}
{% for figure in figures %}{{ figure }}{% endfor %}
<h2>Infeasible designs by rule</h2>
{% if broken %}<p>A design may break several rules.</p>
<table><tr><th>rule</th><th>designs</th><th>what it asks</th></tr>
{% for rule, count, text in broken %}<tr><td>{{ rule }}</td><td>{{ "{:,}".format(count) }}</td>
<td class="wide">{{ text }}</td></tr>{% endfor %}</table>{% else %}<p>None.</p>{% endif %}
{% if table %}<h2>Designs</h2>{{ table }}{% endif %}
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

    best = {}
    for name in (n for n in SHOWN if n in table.headers):
        try:
            best[name] = Markup(_rows(table, table.best(name, BEST)))
        except InfeasibleDesign:
            break
    good = table.feasible_rows()
    texts = rules.texts()
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
            best=best,
            figures=figures,
            broken=[(rule, count, texts[rule]) for rule, count in table.infeasible().items()],
            table=Markup(_rows(table, rows)) if rows is not None and len(rows) else "",
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


def _rows(table: StreamedTable, frame: pd.DataFrame) -> str:
    """A table of designs as HTML, numbers with their units."""
    units = {column["header"]: column["unit"] for column in table.manifest["columns"]}
    shown = frame.copy()
    for name in frame.columns:
        if frame[name].dtype.kind == "f":
            unit = units.get(name, "1")
            shown[name] = [engineering(value, unit) for value in frame[name]]
    names = {header: plain for plain, header in table.headers.items()}
    return str(shown.rename(columns=names).to_html(index=False, border=0, escape=True))


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
        xaxis={"type": "log", "title": {"text": f"{theme.title_of(name)} [{unit}]"}},
        yaxis={"title": {"text": "designs"}}, bargap=0,
    )  # fmt: skip
    return figure


def _along_axes(table: StreamedTable, name: str) -> go.Figure:
    """The best value of a quantity for each value of each axis: which choices matter."""
    import plotly.graph_objects as go

    from dse.explore.best import OBJECTIVES
    from dse.view import theme

    ends = "min" if OBJECTIVES.get(name, True) else "max"
    figure = go.Figure()
    for axis in (a for a in table.manifest["axes"] if a["values"] > 1):
        column = '"' + axis["name"].replace('"', '""') + '"'
        found = table.query(
            f'select {column}::varchar as v, {ends}("{name}") as y, min(row) as r from numbered where feasible '
            "group by v order by y"
        )
        figure.add_bar(x=[f"{axis['name']} = {value}" for value in found["v"]], y=found["y"], name=axis["name"])
    unit = next(c["unit"] for c in table.manifest["columns"] if c["name"] == name)
    figure.update_layout(
        template=theme.template(), title=f"Best {theme.title_of(name)} with each value of an axis", height=520,
        yaxis={"title": {"text": f"{theme.title_of(name)} [{unit}]"}}, showlegend=False,
    )  # fmt: skip
    return figure
