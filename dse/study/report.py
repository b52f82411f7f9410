"""What a study leaves behind: tables, figures as HTML and PNG, verdicts, a report and its provenance."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dse.errors import StudyError
from dse.spec import calibration
from dse.spec.base import Spec
from dse.study.checks import PASS
from dse.study.export import WRITERS, write_atomically
from dse.study.measured_report import cell, limit_lines, table_lines
from dse.study.provenance import commit, digest, provenance, version
from dse.study.searches import report_lines as search_lines
from dse.study.simulated import report_lines as simulation_lines
from dse.study.spec import Study

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from dse.explore.result import Result
    from dse.explore.search.found import SearchResult
    from dse.study.corpus import Compared
    from dse.study.simulations import SimulationTable

PACKAGES = ("numpy", "xarray", "pandas", "pyarrow", "pydantic", "plotly", "kaleido")
WIDTH, SCALE = 1280, 1.5
NO_BROWSER = "no Chromium or Chrome was found, so figures are written as HTML only (set BROWSER_PATH to name one)"
Echo = Callable[[str], None]


def write_table(
    frame: pd.DataFrame, folder: Path, stem: str, endings: Sequence[str] = (".csv", ".parquet")
) -> list[Path]:
    """A table as CSV and as Parquet; the same numbers give the same bytes."""
    paths = [folder / f"{stem}{ending}" for ending in endings]
    for path in paths:
        write_atomically(path, lambda temporary, ending=path.suffix: WRITERS[ending](frame, temporary))
    return paths


def write_bytes(path: Path, data: bytes) -> Path:
    """A file, put in place whole."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    return write_atomically(path, write)


# -- figures ------------------------------------------------------------------------------------------------


def write_figures(figures: Mapping[str, go.Figure], folder: Path, echo: Echo, *, images: bool = True) -> list[Path]:
    """Each figure as HTML (they share one ``plotly.min.js`` beside them) and, where there is a browser, as PNG."""
    from plotly.offline import get_plotlyjs

    if not figures:
        return []
    written = [write_bytes(folder / "plotly.min.js", get_plotlyjs().encode())]
    for name, figure in figures.items():
        page = figure.to_html(include_plotlyjs="directory", full_html=True, div_id=name, config={"displaylogo": False})
        written.append(write_bytes(folder / f"{name}.html", page.encode()))
    if not images:
        return written
    with _renderer(echo) as render:
        for name, figure in figures.items() if render else ():
            try:
                data = render(figure)
            except Exception as error:  # the browser is another program: whatever it raises, the tables are done
                echo(f"figure {name}: no PNG, the browser failed ({type(error).__name__}: {str(error)[:120]})")
                break
            written.append(write_bytes(folder / f"{name}.png", data))
    return written


def browser_found() -> bool:
    """Is there a browser that can draw PNG files?"""
    if os.environ.get("BROWSER_PATH"):
        return Path(os.environ["BROWSER_PATH"]).is_file()
    try:
        from choreographer.browsers.chromium import Chromium

        return Chromium.find_browser(skip_local=False) is not None
    except (ImportError, OSError, RuntimeError, TypeError):
        return False


@contextmanager
def _renderer(echo: Echo) -> Iterator[Callable[[go.Figure], bytes] | None]:
    """A function from a figure to PNG bytes, backed by one browser for all figures; None without a browser."""
    if not browser_found():
        echo(NO_BROWSER)
        yield None
        return
    import kaleido

    def render(figure: go.Figure) -> bytes:
        height = figure.layout.height or 560
        return kaleido.calc_fig_sync(figure, opts={"format": "png", "width": WIDTH, "height": height, "scale": SCALE})

    kaleido.start_sync_server(n=1, silence_warnings=True)
    try:
        yield render
    finally:
        kaleido.stop_sync_server(silence_warnings=True)


# -- the report ---------------------------------------------------------------------------------------------


def report_text(
    study: Study,
    verdicts: pd.DataFrame,
    results: Mapping[str, Result],
    images: set[str],
    measured: Mapping[str, Compared],
    searches: Mapping[str, SearchResult],
    simulations: Mapping[str, SimulationTable],
) -> str:
    """``report.md``: the question, what came out against what was published, the figures and the notes."""
    short = int((verdicts["verdict"] != PASS).sum())
    lines = [f"# {study.title}", "", study.question, ""]
    if len(verdicts):
        rest = f", {short} fall short." if short else "."
        lines += [f"**{len(verdicts) - short} of {len(verdicts)} checks pass**{rest}", ""]
        lines += _summary_by_label(verdicts)
    lines += ["## Notes", "", study.notes, ""] if study.notes else []
    if study.figures:
        lines += ["## Figures", ""]
    for figure in study.figures:
        lines += [f"### {figure.title or figure.id}", ""]
        lines += [f"![{figure.title or figure.id}]({figure.id}.png)", ""] if figure.id in images else []
        lines += [f"[Interactive]({figure.id}.html)" + (f". {figure.note}" if figure.note else ""), ""]
    lines += ["## Runs", "", "| run | what | designs | table |", "|---|---|---|---|"] if study.runs else []
    for run in study.runs:
        count = _designs(results[run.id])
        lines.append(f"| {run.id} | {cell(run.title)} | {count} | [CSV]({run.id}.csv), [Parquet]({run.id}.parquet) |")
    lines += [""] if study.runs else []
    lines += search_lines(study.searches, searches)
    lines += simulation_lines(study.blocks, simulations, cell)
    for found in measured.values():
        lines += table_lines(found)
    for group in dict.fromkeys(verdicts["group"]) if len(verdicts) else ():
        lines += [f"## Checks of {group}", "", *_verdict_lines(verdicts[verdicts["group"] == group]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _summary_by_label(verdicts: pd.DataFrame) -> list[str]:
    lines = ["| source of the value | checks | pass | short |", "|---|---|---|---|"]
    for label in dict.fromkeys(verdicts["label"]):
        part = verdicts[verdicts["label"] == label]
        short = int((part["verdict"] != PASS).sum())
        lines.append(f"| {label} | {len(part)} | {len(part) - short} | {short} |")
    return [*lines, ""]


def _verdict_lines(verdicts: pd.DataFrame) -> list[str]:
    if "sample" in verdicts and (verdicts["published"].isna().all()):
        return limit_lines(verdicts)
    lines = ["| check | source | published | ours | difference | allowed | verdict |", "|---|---|---|---|---|---|---|"]
    for row in verdicts.itertuples():
        unit = "" if row.unit in ("", "1") else f" {row.unit}"
        published = "" if row.published != row.published else f"{row.published:.6g}{unit}"
        verdict = row.verdict if row.verdict == PASS else f"**{row.verdict}**"
        lines.append(
            f"| {cell(row.check)} | {row.label} | {published} | {row.ours:.6g}{unit} | {row.difference} | "
            f"{row.tolerance} | {verdict} |"
        )
    return lines


def _designs(result: Result) -> int:
    count = 1
    for bound in result.axes:
        count *= len(bound.values)
    return count


# -- provenance ---------------------------------------------------------------------------------------------


def provenance_text(
    study: Study,
    folder: Path,
    results: Mapping[str, Result],
    tables: list[Path],
    measured: Mapping[str, Compared],
    searches: Mapping[str, SearchResult],
    simulations: Mapping[str, SimulationTable],
) -> str:
    """``provenance.json``: versions, commit, digests of the inputs and of the tables that came out."""
    values = [name for name in (study.expected, study.simulation_values) if name]
    clusters = sorted(f"clusters/{path.name}" for path in folder.glob("clusters/*.yaml"))
    names = ["study.yaml", *values, *clusters]
    files = {name: _sha256(folder / name) for name in names if (folder / name).is_file()}
    runs = {name: dict(provenance(result.specs)) for name, result in results.items()}
    inputs = {
        name: {k: v for k, v in run.items() if k.startswith("input_")} | _swept(results[name])
        for name, run in runs.items()
    }
    found: dict[str, Any] = {
        "study": study.id,
        "dse_version": version(),
        "git_commit": commit(),
        "calibration": calibration.active().id,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "files": files,
        "inputs": inputs,
        "tables": {path.name: _sha256(path) for path in tables},
    }
    if measured:
        found["measured"] = {
            name: {"rows": len(part.selected), "sha256": hashlib.sha256(part.selected.to_csv().encode()).hexdigest()}
            for name, part in measured.items()
        }
    if simulations:
        found["simulations"] = {name: digest(table.block) for name, table in simulations.items()}
    if searches:
        found["searches"] = {name: {**search.provenance, "seed": search.seed} for name, search in searches.items()}
    return json.dumps(found, indent=2, sort_keys=True) + "\n"


def _swept(result: Result) -> dict[str, Any]:
    """Digests of the whole clusters or models on an axis."""
    return {
        f"axis_{b.name}": [f"{getattr(v, 'id', b.name)}:{digest(v)}" for v in b.values]
        for b in result.axes
        if all(isinstance(v, Spec) for v in b.values)
    }


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise StudyError(f"cannot read {path}: {error.strerror or error}") from None


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
