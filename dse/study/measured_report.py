"""Measured tables in the report of a study: errors by publication, rows, sweeps, and their verdicts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from dse.study.checks import PASS
from dse.study.corpus import sweep_table
from dse.study.limits import by_source, tables_of

if TYPE_CHECKING:
    import pandas as pd

    from dse.study.corpus import Compared

MOST = 40  # rows that the report prints; larger tables are linked


def table_lines(found: Compared) -> list[str]:
    """One measured table: what was asked for, what was predicted, the errors, the rows or a link to them."""
    block = found.block
    lines = [f"## Table {block.id}", "", *([block.title, ""] if block.title else [])]
    asked = "; ".join(f"{name} = {_wanted(value)}" for name, value in block.where.items()) or "all rows"
    lines += [f"Of the table `{block.table}`: {cell(asked)}. {found.given} rows, {len(found.rows)} of which count.", ""]
    for why, count in Counter(found.refused.values()).items():
        lines += [f"- {count} not predicted: {cell(why)}"]
    lines += [""] if found.refused else []
    lines += ["Errors of the step time; *held out* is by constants that were fitted without the publication.", ""]
    lines += _table(by_source(found))
    stems = [stem for stem, _ in tables_of(found)]
    for stem in stems:
        lines.append(f"- {stem}: [CSV]({stem}.csv), [Parquet]({stem}.parquet), [Markdown]({stem}.md)")
    lines.append("")
    if len(found.rows) <= MOST:
        lines += _table([_row(row) for row in found.rows.to_dict("records")])
    if len(found.places):
        lines += ["Fastest design of each sweep, as measured and as predicted:", ""]
        lines += _table(sweep_table(found.places).drop(columns=["id measured", "id predicted"]).to_dict("records"))
    return lines


def _wanted(value: Any) -> str:
    if isinstance(value, dict):
        return " and ".join(f"{name.replace('_', ' ')} {limit}" for name, limit in value.items())
    return " or ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "model": row["model"],
        "GPUs": f"{row['n_gpus']:g}",
        "design": row["design"],
        "measured [s]": f"{row['measured']:.4g}",
        "predicted [s]": f"{row['predicted']:.4g}",
        "90 % interval [s]": f"{row['low']:.4g} to {row['high']:.4g}",
        "error": f"{row['error']:+.1%}",
        "held out": f"{row['error_held_out']:+.1%}" if row["error_held_out"] == row["error_held_out"] else "",
    }


def _table(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [f"| {' | '.join(rows[0])} |", "|" + "---|" * len(rows[0])]
    return [*lines, *(f"| {' | '.join(_shown(value) for value in row.values())} |" for row in rows), ""]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1%}" if value == value else ""
    return cell(str(value))


def limit_lines(verdicts: pd.DataFrame) -> list[str]:
    """Verdicts of limits: whose limit it is, in-sample or not, and held out."""
    head = ("check", "limit set by", "limit", "ours", "constants", "held out", "verdict")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in verdicts.itertuples():
        whose = {"goal": "this project (goal)", "published": f"publication: {row.source}"}.get(row.label, row.label)
        unit = "" if row.unit == "1" else f" {row.unit}"
        held_out = f"{row.held_out:.3g}{unit}" if row.held_out == row.held_out else ""
        verdict = row.verdict if row.verdict == PASS else f"**{row.verdict}**"
        values = (cell(row.check), cell(whose), row.tolerance, f"{row.ours:.4g}{unit}", row.sample, held_out, verdict)
        lines.append(f"| {' | '.join(values)} |")
    causes = [row for row in verdicts.itertuples() if row.cause]
    lines += ["", *(f"- **{cell(row.check)}**, known shortfall: {cell(row.cause)}" for row in causes)]
    return lines if causes else lines[:-1]


def cell(text: str) -> str:
    """Text that does not break a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")
