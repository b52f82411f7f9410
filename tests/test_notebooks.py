"""Every shipped notebook runs from top to bottom, is kept without output, and reads well as a diff."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from dse.spec.catalogue import asset_root

NOTEBOOKS = sorted(asset_root("notebooks").glob("*.ipynb"))
TAUGHT = ("first-look", "transformer-1t", "your-own-cluster", "your-own-model", "search", "what-next", "accuracy")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path: Path, tmp_path: Path):
    """The notebook executes without an error, whatever the folder, and shows something."""
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any(output.output_type in ("execute_result", "display_data") for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_kept_well(path: Path):
    """Short cells without output, a title and a question first, ids that stay, and the bytes that this test writes."""
    text = path.read_text(encoding="utf-8")
    book = nbformat.reads(text, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(len(cell.source.splitlines()) <= 10 for cell in code), "a cell of more than ten lines"
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "notebooks are kept without output"
    assert all(not cell.metadata for cell in book.cells)
    assert book.cells[0].cell_type == "markdown" and book.cells[0].source.startswith("# ")
    assert len({cell.id for cell in book.cells}) == len(book.cells)
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def test_the_notebooks_are_in_reading_order():
    """Numbered without gaps from the first look on; the application has no number."""
    names = [path.stem for path in NOTEBOOKS]
    numbered = [name for name in names if name[:1].isdigit()]
    assert [int(name[:2]) for name in numbered] == list(range(len(numbered)))
    assert tuple(name[3:] for name in numbered)[: len(TAUGHT)] == TAUGHT
    assert set(names) - set(numbered) == {"workbench"}


@pytest.mark.parametrize("name", ["00-first-look", "workbench"])
def test_the_workbench_is_what_opens(name: str):
    """Its first code cell ends with the workbench."""
    book = nbformat.read(asset_root("notebooks") / f"{name}.ipynb", as_version=4)
    first = next(cell for cell in book.cells if cell.cell_type == "code")
    assert first.source.splitlines()[-1].startswith("dse.workbench(")
