"""Every shipped notebook runs from top to bottom."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from dse.spec.catalogue import asset_root

NOTEBOOKS = sorted(asset_root("notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path: Path, tmp_path: Path):
    """The notebook executes without an error and its cells are short."""
    book = nbformat.read(path, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(len(cell.source.splitlines()) <= 10 for cell in code), "a cell of more than ten lines"
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "notebooks are kept without output"
    NotebookClient(book, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert any(cell.outputs for cell in code)


def test_there_are_notebooks():
    """The first look and the Transformer-1T case study are shipped."""
    assert {"00-first-look", "01-transformer-1t"} <= {path.stem for path in NOTEBOOKS}
