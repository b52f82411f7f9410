"""The tab of what people keep: studies to save and open, tables and figures to export."""

from __future__ import annotations

import asyncio
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dse.app import markup
from dse.app.saved import FILE
from dse.app.state import State
from dse.app.views import KINDS
from dse.app.widgets import Html
from dse.errors import DseError, Fault, SpecError

if TYPE_CHECKING:
    from dse.app.workbench import Workbench

TABLES = {".csv": "CSV", ".parquet": "Parquet", ".xlsx": "Excel", ".tex": "LaTeX", ".md": "Markdown"}
FIGURES = {".html": "HTML", ".png": "PNG", ".svg": "SVG", ".pdf": "PDF"}


class Keep:
    """Saving, opening, exporting."""

    title = "Save and export"

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._chosen = {"table": ".csv", "view": "breakdown", "figure": ".png", "study": "", "name": ""}
        self.widget = Html(on_do=bench.act, kind="dse-form")

    def show(self, state: State) -> None:
        """The form."""
        name = escape(self._chosen["name"] or self._bench.name or _proposed(state), quote=True)
        studies = self.studies()
        if self._chosen["study"] not in studies:
            self._chosen["study"] = studies[0] if studies else ""
        listed = [("", study, study) for study in studies] or [("", "", "none saved yet")]
        views = [("", view, kind.title) for view, kind in KINDS.items()]
        tables, figures = ([("", end, text) for end, text in kinds.items()] for kinds in (TABLES, FIGURES))
        save = f"Save as <input data-do='keep:name' value='{name}' aria-label='Name of the study'>"
        save += markup.button("keep:save", "Save", f"Write {self._bench.folder}/NAME/{FILE}", kind="main")
        reopen = "Open " + markup.select("keep:study", listed, self._chosen["study"], "Saved study")
        reopen += markup.button("keep:open", "Open", off=not studies)
        table = "Table of the designs as " + markup.select("keep:table", tables, self._chosen["table"], "Table format")
        table += markup.button("keep:export-table", "Export the table")
        figure = "Figure " + markup.select("keep:view", views, self._chosen["view"], "Figure to export")
        figure += " as " + markup.select("keep:figure", figures, self._chosen["figure"], "Figure format")
        figure += markup.button("keep:export-figure", "Export the figure")
        rows = (save, reopen, table, figure)
        self.widget.html = "".join(f"<div class='dse-line'><span>{row}</span></div>" for row in rows)

    def act(self, verb: str, what: str, value: Any) -> bool:
        """``keep:...``: the fields of the form and its buttons."""
        if verb != "keep":
            return False
        bench = self._bench
        if what in self._chosen:
            self._chosen[what] = str(value)
        elif what == "save":
            path = bench.save(self._chosen["name"] or bench.name or _proposed(bench.state))
            bench.say("info", f"Saved as {path}; dse.workbench(study={str(path.parent)!r}) opens it again.")
        elif what == "open":
            bench.open(self._chosen["study"])
        elif what == "export-table":
            bench.say("info", f"Written: {bench.export_table(self._file('designs', self._chosen['table']))}")
        elif what == "export-figure":
            self._figure()
        self.show(bench.state)
        return True

    def studies(self) -> list[str]:
        """Names of the studies that the workbench saved in its folder."""
        found = sorted(self._bench.folder.glob(f"*/{FILE}"))
        return [
            path.parent.name for path in found if "\nworkbench:" in path.read_text(encoding="utf-8", errors="replace")
        ]

    def _file(self, stem: str, ending: str) -> Path:
        return self._bench.folder / (self._bench.name or "unsaved") / f"{stem}{ending}"

    def _figure(self) -> None:
        """Write the chosen figure; images take a browser some seconds, so they are made beside the event loop."""
        bench, view = self._bench, self._chosen["view"]
        path = self._file(view, self._chosen["figure"])
        figure = bench.figure(view)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            bench.say("info", f"Written: {write(figure, path)}")
            return
        bench.say("info", f"Writing {path} …")
        done = loop.run_in_executor(None, write, figure, path)
        done.add_done_callback(lambda future: bench.guarded(lambda: bench.say("info", f"Written: {future.result()}")))


def write(figure: Any, path: Path) -> Path:
    """Write a figure as its ending says; never half a file.

    Raises:
        SpecError: an unknown ending, or an image where there is no browser to make it.
        StudyError: the folder cannot be written.
    """
    from dse.view.files import write_figure

    if path.suffix not in FIGURES:
        raise SpecError([Fault("figure", path.suffix, f"must end in one of {', '.join(FIGURES)}")])
    try:
        write_figure(figure, path)
    except DseError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise SpecError([Fault("figure", str(path)[:80], f"cannot be written: {error}"[:200])]) from None
    return path


def _proposed(state: State) -> str:
    """A name for a study that has none."""
    parts = [part if isinstance(part, str) else part.id for part in (state.design.model, state.design.cluster)]
    return "-on-".join(parts) + f"-{state.design.devices}"
