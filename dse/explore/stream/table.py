"""A streamed table: SQL over tables larger than memory, the best designs, and exports."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dse.errors import DseError, Fault, InfeasibleDesign, SpecError, StudyError
from dse.explore.evaluate import RULES
from dse.explore.objectives import DIRECTIONS
from dse.explore.stream.folder import INPUTS, MANIFEST

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

FRAME_ROWS = 5_000_000  # rows that are read into memory without being asked to
MEMORY = "512MB"  # of a query; what needs more goes to disk
_UNKNOWN_COLUMN = re.compile(r'Referenced column "([^"]+)" not found')
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*\"""")


class StreamedTable:
    """A finished sweep on disk: one row a design, in the order of the axes, the last fastest.

    Attributes:
        path: the folder.
        manifest: what the table is made of: rows, axes, columns with units, provenance and the digest of each part.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a folder.

        Raises:
            StudyError: the folder holds no finished sweep.
        """
        self.path = Path(path)
        try:
            self.manifest: dict[str, Any] = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            files = [self.path / part["file"] for part in self.manifest["parts"]]
            missing = next((file for file in files if not file.is_file()), None)
        except (OSError, ValueError, KeyError, TypeError):
            hint = f"finish it with 'dse resume {self.path}'" if (self.path / INPUTS).is_file() else "no sweep is there"
            raise StudyError(f"{self.path} holds no finished sweep: {hint}") from None
        if missing is not None:
            raise StudyError(f"{missing} is missing: compute it again with 'dse resume {self.path}'")
        self.files = [str(file) for file in files]

    @property
    def rows(self) -> int:
        """Designs in the table, feasible or not."""
        return int(self.manifest["rows"])

    @cached_property
    def headers(self) -> dict[str, str]:
        """Header with unit of each column, by the plain name that queries use."""
        return {column["name"]: column["header"] for column in self.manifest["columns"]}

    # -- queries -----------------------------------------------------------------------------------------------

    @contextmanager
    def connection(self, memory: str = MEMORY) -> Iterator[duckdb.DuckDBPyConnection]:
        """A DuckDB connection with the view ``designs``: plain column names, SI units.

        The view ``numbered`` has besides ``part`` and ``row``, which order the designs as the axes do.
        """
        import duckdb

        with tempfile.TemporaryDirectory(prefix="dse-") as spill, duckdb.connect() as base:
            base.execute(f"set memory_limit = {_text(memory)}; set temp_directory = {_text(spill)}")
            with suppress(duckdb.InvalidInputException):  # a notebook without ipywidgets has no bar to turn off
                base.execute("set enable_progress_bar = false")
            source = f"read_parquet([{', '.join(map(_text, self.files))}])"
            names = ", ".join(f"{_name(head)} as {_name(plain)}" for plain, head in self.headers.items())
            try:
                base.execute(f"create view designs as select {names} from {source}")
                base.execute(
                    f"create view numbered as select {names}, file_index as part, file_row_number as row from {source}"
                )
            except duckdb.Error as error:
                raise self.failure(error, "table", str(self.path)) from None
            yield base

    def query(self, sql: str, *, memory: str = MEMORY) -> pd.DataFrame:
        """The result of an SQL query on ``designs``, such as ``select tp, min(step_time) from designs group by tp``.

        Memory is bounded: what needs more goes to disk. Columns of the table get their units back in the header.

        Args:
            sql: one statement of DuckDB; names with a dot need double quotes.
            memory: limit, such as ``"2GB"``.

        Raises:
            SpecError: the statement is not right; the message is the database's own.
            StudyError: a part of the table is torn or damaged.
        """
        import duckdb

        with self.connection(memory) as base:
            try:
                frame = base.execute(sql).df()
            except duckdb.Error as error:
                raise self.failure(error, "sql", sql[:200]) from None
        return frame.rename(columns={name: self.headers.get(name, name) for name in frame.columns})

    def failure(self, error: duckdb.Error, what: str, text: str) -> DseError:
        """What went wrong, so that one can act on it: an unknown column, a torn part, or the database's words."""
        import duckdb

        message = str(error).partition("\n\nLINE")[0].partition(" Error: ")[2][:600]
        unknown = _UNKNOWN_COLUMN.search(message)
        if unknown:
            rule = f"{unknown[1]} is not a column of the table; they are {', '.join(self.headers)}"
            return SpecError([Fault(what, text, rule)])
        if not isinstance(error, duckdb.BinderException | duckdb.ParserException | duckdb.CatalogException):
            damaged = next(self._damaged(), None)
            if damaged is not None:
                return StudyError(damaged)
        return SpecError([Fault(what, text, message or str(error)[:600])])

    def _damaged(self) -> Iterator[str]:
        """What to say of each part whose bytes are not those that were written."""
        for file, part in zip(self.files, self.manifest["parts"], strict=True):
            path = Path(file)
            whole = path.is_file() and path.stat().st_size == part["bytes"]
            if whole:
                with path.open("rb") as data:
                    whole = hashlib.file_digest(data, "sha256").hexdigest() == part["sha256"]
            if not whole:
                yield f"{path.name} is torn or damaged: 'dse resume {self.path}' computes it again"

    def _check_expression(self, option: str, text: str, clause: str) -> None:
        """One SQL expression of an option, held against the table's columns before anything is read or written.

        Raises:
            SpecError: another form, or a column that is not there.
        """
        import duckdb

        if re.search(r";|--|/\*", _QUOTED.sub("", text)):
            raise SpecError([Fault(option, text[:200], "must be one SQL expression, without ; or comments")])
        with self.connection() as base:
            try:
                base.execute(f"explain select 1 from numbered {clause} {text}")
            except duckdb.Error as error:
                raise self.failure(error, option, text[:200]) from None

    def best(self, objective: str = "step_time", n: int = 1) -> pd.DataFrame:
        """The ``n`` best feasible designs; ties go to the first in the order of the axes.

        Args:
            objective: a column; the least is best, or the most where that is the objective's sense (``mfu``).
            n: how many.

        Raises:
            SpecError: no such column.
            InfeasibleDesign: no design is feasible; the message counts the rules that fail.
        """
        self._known("objective", [objective])
        sense = "asc" if DIRECTIONS.get(objective, True) else "desc"
        found = self.query(
            f"select * exclude (part, row) from numbered where feasible order by {_name(objective)} {sense}, part, row "
            f"limit {int(n)}"
        )
        if n > 0 and found.empty:
            worst = ", ".join(f"{rule} ({count:,})" for rule, count in self.infeasible().items())
            raise InfeasibleDesign(f"none of the {self.rows:,} designs is feasible; rules broken: {worst}"[:1500])
        return found

    def feasible_rows(self) -> int:
        """How many designs break no rule."""
        return int(self.query("select count(*) as n from designs where feasible")["n"].iloc[0])

    def infeasible(self) -> dict[str, int]:
        """How many designs break each rule, most first (a design may break several)."""
        counts = dict.fromkeys(RULES, 0)
        found = self.query("select reasons, count(*) as n from designs where not feasible group by reasons")
        for reasons, count in zip(found["reasons"], found["n"], strict=True):
            for rule in reasons.split("; "):
                counts[rule] += int(count)
        return {rule: n for rule, n in sorted(counts.items(), key=lambda item: -item[1]) if n}

    def to_dataframe(self, limit: int | None = None) -> pd.DataFrame:
        """The first ``limit`` rows, or all of them where they are not too many for memory.

        Raises:
            SpecError: more than 5,000,000 rows without a limit.
        """
        if limit is None and self.rows > FRAME_ROWS:
            rule = f"more than {FRAME_ROWS:,} rows: give a limit, or use query()"
            raise SpecError([Fault("limit", f"{self.rows:,} rows", rule)])
        return self.query(f"select * from designs limit {self.rows if limit is None else int(limit)}")

    # -- exports -----------------------------------------------------------------------------------------------

    def export(
        self,
        path: str | Path,
        *,
        where: str = "",
        columns: Sequence[str] = (),
        order_by: str = "",
        limit: int | None = None,
    ) -> Path:
        """Write the table, or what a query leaves of it, and ``<file>.manifest.json`` beside it.

        Args:
            path: ends in .csv or .parquet (of any size), .xlsx, .tex, .md, or .html (a report).
            where: SQL condition, such as ``feasible and step_time < 10``.
            columns: plain names; all by default.
            order_by: SQL order, such as ``step_time desc``; by default the order of the axes.
            limit: rows at most.

        Raises:
            SpecError: an unknown ending or column, a wrong condition, or more rows than the format holds.
            StudyError: the file cannot be written, or a part of the table is torn.
        """
        from dse.explore.stream.export import export_table

        self._known("columns", columns)
        for option, text, clause in (("where", where, "where"), ("order_by", order_by, "order by")):
            if text:
                self._check_expression(option, text, clause)
        chosen = ", ".join(f"{_name(c)} as {_name(self.headers[c])}" for c in columns or self.headers)
        order = f"{order_by}, part, row" if order_by else "part, row"
        sql = f"select {chosen} from numbered"
        sql += f" where ({where})" if where else ""
        sql += f" order by {order}" if order_by else ""  # the parts are read in the order of the axes
        sql += f" limit {int(limit)}" if limit is not None else ""
        return export_table(self, Path(path), sql)

    def report(self, title: str = "") -> str:
        """A page of HTML that needs nothing else: inputs, best designs, what is infeasible and why, figures."""
        from dse.explore.stream.report import page

        return page(self, title)

    def verify(self) -> None:
        """Read every part and hold it against its digest.

        Raises:
            StudyError: a part is damaged.
        """
        damaged = next(self._damaged(), None)
        if damaged is not None:
            raise StudyError(damaged)

    def _known(self, what: str, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.headers:
                rule = f"is not a column of the table; they are {', '.join(self.headers)}"
                raise SpecError([Fault(what, str(name)[:60], rule)])

    def __repr__(self) -> str:
        axes = " x ".join(f"{a['values']} {a['name']}" for a in self.manifest["axes"])
        return f"{self.rows:,} designs ({axes or 'one'}) in {self.path}, {self.manifest['bytes'] / 1e6:,.1f} MB"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'
