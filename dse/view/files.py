"""Figures as files: HTML, SVG, PNG or PDF, by the name's ending."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dse.errors import Fault, SpecError
from dse.study.export import write_atomically

FIGURES = (".html", ".svg", ".png", ".pdf")


def check_figure(path: Path | None) -> None:
    """Refuse an ending that no figure is written in, before anything is computed.

    Raises:
        SpecError: another ending.
    """
    if path is not None and path.suffix.lower() not in FIGURES:
        raise SpecError([Fault("figure", str(path)[-80:], f"must end in {', '.join(FIGURES)}")])


def write_figure(figure: Any, path: Path) -> None:
    """Write a Plotly figure in the format of the file's ending; never half a file.

    Raises:
        StudyError: the file cannot be written.
    """
    if path.suffix.lower() == ".html":
        page = figure.to_html(include_plotlyjs=True, full_html=True, div_id="figure", config={"displaylogo": False})
        write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8") and None)
        return
    kind = path.suffix.lower().removeprefix(".")
    data = figure.to_image(format=kind, width=1280, height=720)
    write_atomically(path, lambda temporary: temporary.write_bytes(data) and None)
