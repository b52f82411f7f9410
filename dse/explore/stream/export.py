"""Exports of streamed tables: any size as CSV and Parquet, what people read as Excel, LaTeX, Markdown and HTML."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dse.errors import Fault, SpecError, StudyError
from dse.study.export import EXCEL_ROWS, WRITERS, write_atomically

if TYPE_CHECKING:
    from dse.explore.stream.table import StreamedTable

TEXT_ROWS = 100_000  # rows of a table that people read
MOST = {".xlsx": EXCEL_ROWS, ".tex": TEXT_ROWS, ".md": TEXT_ROWS}
COPIES = {".csv": "format csv, header true", ".parquet": "format parquet, compression zstd"}
ENDINGS = (*WRITERS, ".html")


def export_table(table: StreamedTable, path: Path, sql: str) -> Path:
    """Write the result of a query in the format that the ending names, and a manifest beside it.

    Args:
        table: the table.
        path: ends in .csv, .parquet, .xlsx, .tex, .md or .html.
        sql: a query on ``numbered`` whose columns carry their headers.

    Raises:
        SpecError: an unknown ending, a wrong query, or more rows than the format holds.
        StudyError: the file cannot be written.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise SpecError([Fault("out", str(path)[-100:], f"must end in {', '.join(ENDINGS)}")])
    if ending == ".html":
        rows = _report(table, path, sql)
    elif ending in COPIES:
        rows = _copy(table, path, sql, COPIES[ending])
    else:
        rows = _frame(table, path, sql, ending)
    _write_manifest(table, path, sql, rows)
    return path


def _copy(table: StreamedTable, path: Path, sql: str, form: str) -> int:
    """Stream the rows through the database into a file; memory stays bounded."""
    import duckdb

    rows = 0

    def write(temporary: Path) -> None:
        nonlocal rows
        target = "'" + str(temporary).replace("'", "''") + "'"
        with table.connection() as base:
            try:
                found: Any = base.execute(f"copy ({sql}) to {target} ({form})").fetchone()
            except duckdb.Error as error:
                why = table.failure(error, "query", sql[:200])
                if isinstance(error, duckdb.IOException) and not isinstance(why, StudyError):
                    raise OSError(None, str(error).splitlines()[0][:300]) from None  # the disk, not the table
                raise why from None
        rows = int(found[0])

    write_atomically(path, write)
    return rows


def _frame(table: StreamedTable, path: Path, sql: str, ending: str) -> int:
    limit = MOST[ending]
    frame = table.query(f"select * from ({sql}) limit {limit + 1}")
    if len(frame) > limit:
        rule = f"{ending} holds at most {limit:,} rows here: narrow it with a condition or a limit"
        raise SpecError([Fault("out", f"{path.name}", rule)])
    writer: Callable[[Any, Path], None] = WRITERS[ending]
    write_atomically(path, lambda temporary: writer(frame, temporary))
    return len(frame)


def _report(table: StreamedTable, path: Path, sql: str) -> int:
    """The report is of the whole table, with the first rows of the query in it."""
    from dse.explore.stream.report import ROWS, page

    frame = table.query(f"select * from ({sql}) limit {ROWS}")
    text = page(table, path.stem, frame)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8") and None)
    return len(frame)


def _write_manifest(table: StreamedTable, path: Path, sql: str, rows: int) -> None:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = {
        "file": path.name,
        "sha256": sha256,
        "rows": rows,
        "query": sql,
        "columns": {column["name"]: column["unit"] for column in table.manifest["columns"]},
        "table_sha256": table.manifest["sha256"],
        "provenance": table.manifest["provenance"],
    }
    text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    beside = path.with_name(path.name + ".manifest.json")
    write_atomically(beside, lambda temporary: temporary.write_text(text, encoding="utf-8") and None)
