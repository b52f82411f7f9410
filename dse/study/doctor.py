"""The state of the environment: what is there, what is missing, and what each piece is for."""

from __future__ import annotations

import platform
import shutil
import sys
from importlib import metadata, util
from typing import Any

from dse.spec.catalogue import FOLDERS, asset_root, ids

REQUIRED = (
    "numpy",
    "xarray",
    "pandas",
    "pyarrow",
    "openpyxl",
    "pydantic",
    "pint",
    "ruamel.yaml",
    "plotly",
    "kaleido",
    "scipy",
    "typer",
    "rich",
    "jinja2",
    "tabulate",
)
OPTIONAL = {
    "jupyterlab": "notebooks: pip install 'dse[notebook]'",
    "ipywidgets": "sliders: pip install 'dse[notebook]'",
    "anywidget": "live figures: pip install 'dse[notebook]'",
    "torch": "microbenchmarks (dse measure): pip install 'dse[measure]'",
    "pytest": "tests: pip install 'dse[test]'",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def browser() -> str | None:
    """Path of a Chromium or Chrome that can draw PNG, SVG and PDF figures."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def checks() -> list[dict[str, Any]]:
    """One row a check: name, what was found, state (ok, missing, optional), and what it is for."""
    python = platform.python_version()
    rows = [_row("python", python, "ok" if sys.version_info >= (3, 11) else "missing", "needs 3.11 or newer")]
    for name in REQUIRED:
        found = _version(name)
        rows.append(_row(name, found or "-", "ok" if found else "missing", "" if found else "pip install dse"))
    for name, purpose in OPTIONAL.items():
        found = _version(name) if util.find_spec(name) else None
        rows.append(_row(name, found or "-", "ok" if found else "optional", "" if found else purpose))
    path = browser()
    note = path or "PNG, SVG and PDF figures need Chromium or Chrome; HTML figures do not"
    rows.append(_row("browser", "found" if path else "-", "ok" if path else "optional", note))
    counts = ", ".join(f"{len(ids(kind))} {folder}" for kind, folder in FOLDERS.items())
    rows.append(_row("catalogue", "found" if ids("model") else "-", "ok" if ids("model") else "missing", counts))
    studies = len(list(asset_root("studies").glob("*/study.yaml")))
    rows.append(_row("studies", str(studies), "ok" if studies else "missing", "dse reproduce list"))
    return rows


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _row(name: str, found: str, state: str, note: str) -> dict[str, str]:
    return {"name": name, "found": found, "state": state, "note": note}
