"""Studies: run what a ``study.yaml`` declares, hold it against published numbers, and keep everything it made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dse.api import axis, sweep
from dse.errors import Fault, SpecError, StudyError
from dse.study import report
from dse.study.checks import KNOWN, PASS, SHORT, verdict_table
from dse.study.collectives import run_collectives
from dse.study.corpus import Compared, compare_table
from dse.study.limits import EXTRA, limit_rows, tables_of
from dse.study.plots import draw_all
from dse.study.searches import check_row, run_search
from dse.study.simulated import simulation_rows
from dse.study.simulations import SimulationTable, run_simulations
from dse.study.spec import Expected, Run, Study, load_study, studies
from dse.study.tables import run_table

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dse.explore.result import Result
    from dse.explore.search.found import SearchResult

__all__ = ["StudyReport", "load_study", "run_study", "studies"]

# Columns of the verdict table that people read; the others serve figures.
SHOWN = ("group", "check", "label", "published", "ours", "unit", "difference", "tolerance", "verdict", "source")


@dataclass(frozen=True)
class StudyReport:
    """What a study gave.

    Attributes:
        study: its declaration.
        results: the priced sweep of each run.
        verdicts: one row a check: group (the run), check, label, published, ours, unit, difference, tolerance, verdict,
            source; of measured tables also sample (had the constants seen the rows?), held_out, cause.
        measured: the predicted rows of each measured table.
        searches: what each search found.
        simulations: what each block of simulations or collectives, and each table, gave.
        figures: Plotly figures by id.
        files: what was written, in order.
    """

    study: Study
    results: dict[str, Result]
    verdicts: pd.DataFrame
    figures: dict[str, go.Figure]
    out: Path | None = None
    measured: dict[str, Compared] = field(default_factory=dict)
    searches: dict[str, SearchResult] = field(default_factory=dict)
    simulations: dict[str, SimulationTable] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Does every check pass, or fall short no more than the study says and explains?"""
        return not bool((self.verdicts["verdict"] == SHORT).any())

    def summary(self) -> str:
        """One line: how many checks pass."""
        short = int((self.verdicts["verdict"] != PASS).sum())
        known = int((self.verdicts["verdict"] == KNOWN).sum())
        done = f"{self.study.id}: {len(self.verdicts) - short} of {len(self.verdicts)} checks pass"
        return f"{done}, {short} fall short" + (f" ({known} known)" if known else "") if short else done


def run_study(
    name_or_path: str | Path,
    out: str | Path | None = None,
    echo: Callable[[str], None] | None = None,
    *,
    images: bool = True,
) -> StudyReport:
    """Run a study.

    Args:
        name_or_path: a shipped study (see :func:`studies`), a folder with a ``study.yaml``, or such a file.
        out: folder for tables, figures, report and provenance; nothing is written without one.
        echo: told what happens, one line at a time.
        images: also write PNG files (needs Chromium).

    Raises:
        StudyError: no such study, or the folder cannot be written.
        SpecError: with every fault of the study.
    """
    say = echo or (lambda line: None)
    study, expected, folder = load_study(name_or_path)
    target = Path(out) if out is not None else None
    if target is not None and target.exists() and not target.is_dir():
        raise StudyError(f"{target} is not a folder")
    results: dict[str, Result] = {}
    faults: list[Fault] = []
    for index, run in enumerate(study.runs):
        try:
            results[run.id] = _sweep(run, folder)
        except SpecError as error:
            faults += [replace(f, path=f"runs.{index} ({run.id}): {f.path}") for f in error.faults]
    compared: dict[str, Compared] = {}
    for index, block in enumerate(study.measured):
        try:
            compared[block.id] = compare_table(block, folder)
        except SpecError as error:
            faults += [replace(f, path=f"measured.{index} ({block.id}): {f.path}") for f in error.faults]
    searched: dict[str, SearchResult] = {}
    for index, search in enumerate(study.searches):
        try:
            searched[search.id] = run_search(search, lambda value: _beside(value, folder))
        except SpecError as error:
            faults += [replace(f, path=f"searches.{index} ({search.id}): {f.path}") for f in error.faults]
    simulated: dict[str, SimulationTable] = {}
    for index, given in enumerate(study.simulations):
        try:
            simulated[given.id] = run_simulations(given, lambda value: _beside(value, folder), say)
        except SpecError as error:
            faults += [replace(f, path=f"simulations.{index} ({given.id}): {f.path}") for f in error.faults]
    for index, block in enumerate(study.collectives):
        try:
            simulated[block.id] = run_collectives(block, lambda value: _beside(value, folder), say)
        except SpecError as error:
            faults += [replace(f, path=f"collectives.{index} ({block.id}): {f.path}") for f in error.faults]
    for index, made in enumerate(study.tables):
        try:
            simulated[made.id] = run_table(made, lambda value: _beside(value, folder), say)
        except SpecError as error:
            faults += [replace(f, path=f"tables.{index} ({made.id}): {f.path}") for f in error.faults]
    if faults:
        raise SpecError(faults)
    verdicts = _verdicts(study, expected, results, compared, searched, simulated)
    figures = draw_all(study, results, verdicts, compared, searched, simulated)
    shown = [*SHOWN, *(EXTRA if compared else ())]
    found = StudyReport(study, results, verdicts[shown], figures, target, compared, searched, simulated)
    if target is not None:
        found.files.extend(_write(found, folder, target, say, images=images))
    for row in verdicts[verdicts["verdict"] != PASS].itertuples():
        wanted = row.tolerance if row.published != row.published else f"{row.published:.6g} {row.tolerance}"
        cause = f": {row.cause}" if row.verdict == KNOWN else ""
        say(f"{row.verdict}: {row.check}: ours {row.ours:.6g}, expected {wanted} [{row.unit}]{cause}")
    say(found.summary())
    return found


def _verdicts(
    study: Study,
    expected: Sequence[Expected],
    results: Mapping[str, Result],
    compared: Mapping[str, Compared],
    searched: Mapping[str, SearchResult],
    simulated: Mapping[str, SimulationTable],
) -> pd.DataFrame:
    """Checks of sweeps, searches and simulations, then those of measured tables, which have columns of their own."""
    import pandas as pd

    verdicts = verdict_table(study, expected, results)
    if study.search_checks:
        more = [check_row(check, searched, (PASS, SHORT)) for check in study.search_checks]
        verdicts = pd.DataFrame([*verdicts.to_dict("records"), *more], columns=verdicts.columns)
    if study.simulation_checks:
        more = simulation_rows(study.simulation_checks, simulated, (PASS, SHORT))
        verdicts = pd.DataFrame([*verdicts.to_dict("records"), *more], columns=verdicts.columns)
    if not compared:
        return verdicts
    blank = {"sample": "", "held_out": float("nan"), "cause": ""}
    rows = [{**blank, **row} for row in verdicts.to_dict("records")]
    return pd.DataFrame([*rows, *limit_rows(compared)], columns=[*verdicts.columns, *EXTRA])


def _sweep(run: Run, folder: Path) -> Result:
    """The priced sweep of one run; files are looked for in the study's folder first."""
    axes = []
    for given in run.axes:
        whole = given.path in ("cluster", "model")
        values = [_beside(value, folder) if whole else value for value in given.values]
        axes.append(axis(given.path, values, unit=given.unit, name=given.name))
    return sweep(_beside(run.model, folder), _beside(run.cluster, folder), run.strategy, *axes, devices=run.devices)


def _beside(value: Any, folder: Path) -> Any:
    if isinstance(value, str) and value.endswith((".yaml", ".yml", ".csv", ".txt")) and (folder / value).is_file():
        return str(folder / value)
    return value


def _write(found: StudyReport, folder: Path, out: Path, say: Callable[[str], None], *, images: bool) -> list[Path]:
    files: list[Path] = []
    for name, result in found.results.items():
        frame = result.to_dataframe()
        files += report.write_table(frame, out, name)
        say(f"run {name}: {len(frame)} designs")
    for found_table in found.measured.values():
        for name, frame in tables_of(found_table):
            files += report.write_table(frame, out, name, (".csv", ".parquet", ".md"))
        say(f"table {found_table.block.id}: {len(found_table.rows)} rows")
    for name, search in found.searches.items():
        files += report.write_table(search.table, out, name, (".parquet",))
        files += report.write_table(search.front, out, f"{name}-front", (".csv",))
        say(f"search {name}: {search.evaluated:,} designs on {len(search.points):,} of hardware")
    for name, simulated in found.simulations.items():
        files += report.write_table(simulated.frame(), out, name)
    files += report.write_table(found.verdicts, out, "verdicts")
    tables = list(files)
    drawn = report.write_figures(found.figures, out, say, images=images)
    pictures = {path.stem for path in drawn if path.suffix == ".png"}
    files += drawn
    blocks = (found.measured, found.searches, found.simulations)
    text = report.report_text(found.study, found.verdicts, found.results, pictures, *blocks)
    files.append(report.write_bytes(out / "report.md", text.encode()))
    facts = report.provenance_text(found.study, folder, found.results, tables, *blocks)
    files.append(report.write_bytes(out / "provenance.json", facts.encode()))
    return files
