"""A search's table for people: filtered exports, and one page of HTML that needs nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dse.errors import Fault, SpecError, StudyError
from dse.study.export import WRITERS, export, write_atomically
from dse.units import engineering

if TYPE_CHECKING:
    import pandas as pd

    from dse.explore.search.found import SearchResult

DESIGNS = "designs.parquet"
FRONT_ROWS = 100

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 15px/1.5 Inter, Helvetica, Arial, sans-serif; color: #1F2430; margin: 2rem auto; max-width: 1280px;
       padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; display: block; overflow-x: auto }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #DDE1E8; text-align: left; white-space: nowrap }
th { background: #F4F6F9 } pre { overflow-x: auto; background: #F4F6F9; padding: 1rem }
</style></head><body>
<h1>{{ title }}</h1>
<p>{{ head }}</p>
{% for figure in figures %}{{ figure }}{% endfor %}
<h2>On the front</h2>{{ front }}
<h2>Why hardware is infeasible</h2>{{ reasons }}
<h2>What was searched</h2><pre>{{ problem }}</pre>
<h2>Provenance</h2><table>
{% for name, value in provenance.items() %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>{% endfor %}
</table></body></html>
"""


def export_search(
    folder: Path, out: Path, *, where: str = "", columns: Any = (), order_by: str = "", limit: int | None = None
) -> tuple[Path, int]:
    """Write the table of the search in a folder, or what a query leaves of it.

    Args:
        out: .csv, .parquet, .xlsx, .tex, .md, or .html for a report.
        where, order_by: SQL over plain column names (without units).
        columns: plain names; all by default.

    Returns:
        The file, and how many rows it has.

    Raises:
        SpecError: an unknown ending, column or query.
        StudyError: the folder holds no finished search.
    """
    if out.suffix.lower() not in (*WRITERS, ".html"):
        raise SpecError([Fault("out", str(out)[-100:], f"must end in {', '.join((*WRITERS, '.html'))}")])
    if not (folder / DESIGNS).is_file():
        raise StudyError(f"the search in {folder} is not finished: 'dse resume {folder}' first")
    frame = _query(folder / DESIGNS, where, columns, order_by, limit)
    if out.suffix.lower() == ".html":
        from dse.explore.search.found import load_result

        text = page(load_result(folder), folder.resolve().name)
        return write_atomically(out, lambda p: p.write_text(text, encoding="utf-8") and None), len(frame)
    manifest = json.loads((folder / f"{DESIGNS}.manifest.json").read_text(encoding="utf-8"))
    return export(frame, out, provenance=manifest["provenance"]), len(frame)


def _query(path: Path, where: str, columns: Any, order_by: str, limit: int | None) -> pd.DataFrame:
    import duckdb
    import pandas as pd

    frame = pd.read_parquet(path)
    headers = {name.partition(" [")[0]: name for name in frame.columns}
    unknown = [name for name in columns if name not in headers]
    if unknown:
        raise SpecError([Fault("columns", ", ".join(unknown)[:80], f"must be among {', '.join(headers)}")])
    plain = frame.rename(columns={header: name for name, header in headers.items()})
    chosen = ", ".join('"' + name.replace('"', '""') + '"' for name in (columns or headers))
    sql = f"select {chosen} from designs"
    sql += (f" where {where}" if where else "") + (f" order by {order_by}" if order_by else "")
    sql += f" limit {limit}" if limit is not None else ""
    with duckdb.connect() as base:
        base.register("designs", plain)
        try:
            found = base.execute(sql).df()
        except duckdb.Error as error:
            raise SpecError([Fault("query", sql[:200], str(error).split("\n\nLINE")[0][:600])]) from None
    return found.rename(columns=headers)


def page(found: SearchResult, title: str) -> str:
    """The report of a search."""
    from jinja2 import Environment
    from markupsafe import Markup

    from dse.explore.search.saved import inputs
    from dse.explore.search.text import head
    from dse.view.search import front, parallel

    drawn = [front(found), parallel(found)] if len(found.front_rows) else []
    figures = [
        Markup(figure.to_html(full_html=False, include_plotlyjs=not place, config={"displaylogo": False}))
        for place, figure in enumerate(drawn)
    ]
    reasons = found.table.loc[~found.table["feasible"], "reasons"].str.replace(r" = [^;]*", "", regex=True)
    counts = reasons.value_counts().rename_axis("reason").reset_index(name="hardware designs")
    shown = _readable(found.front.drop(columns=["on_front", "dominated_by", "reasons", "feasible"]).head(FRONT_ROWS))
    asked = inputs(found.problem)
    problem = json.dumps({**asked, **{k: asked[k].get("id", k) for k in ("model", "cluster")}}, indent=1, default=str)
    return (
        Environment(autoescape=True)
        .from_string(_PAGE)
        .render(
            title=title,
            head=head(found),
            figures=figures,
            front=Markup(shown.to_html(index=False, border=0)),
            reasons=Markup(counts.to_html(index=False, border=0)) if len(counts) else "None is.",
            problem=problem,
            provenance=found.provenance,
        )
    )


def _readable(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers with their units in the cells instead of the headers."""
    import pandas as pd

    shown = {}
    for header in frame.columns:
        name, _, unit = header.partition(" [")
        unit = unit.rstrip("]")
        plain = frame[header].dtype.kind not in "f" and not unit
        shown[name] = frame[header] if plain else [engineering(float(value), unit) for value in frame[header]]
    return pd.DataFrame(shown)
