"""Exports: tables as CSV, Parquet, Excel, LaTeX and Markdown, each with units and a manifest beside it.

Every file is written to a temporary name, synced and renamed: there is never half a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dse.errors import Fault, SpecError, StudyError

if TYPE_CHECKING:
    import pandas as pd

    from dse.explore.result import Result

EXCEL_ROWS = 1_048_575


def write_atomically(path: Path, write: Callable[[Path], None]) -> Path:
    """Have ``write`` fill a temporary file beside ``path``, sync it, and put it in place.

    Raises:
        StudyError: the folder cannot be written, or the disk is full; what was there before is untouched.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise StudyError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def _csv(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False, lineterminator="\n")


def _parquet(frame: pd.DataFrame, path: Path) -> None:
    frame.to_parquet(path, index=False, compression="zstd")


def _excel(frame: pd.DataFrame, path: Path) -> None:
    frame.to_excel(path, index=False, sheet_name="designs", freeze_panes=(1, 0))


def _latex(frame: pd.DataFrame, path: Path) -> None:
    text = frame.to_latex(index=False, escape=True, float_format=lambda x: f"{x:.4g}")
    path.write_text(text, encoding="utf-8")


def _markdown(frame: pd.DataFrame, path: Path) -> None:
    path.write_text(frame.to_markdown(index=False, floatfmt=".6g") + "\n", encoding="utf-8")


WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    ".csv": _csv,
    ".parquet": _parquet,
    ".xlsx": _excel,
    ".tex": _latex,
    ".md": _markdown,
}


def write_table(path: str | Path, table: Callable[[], pd.DataFrame]) -> Path:
    """Write a table alone, as .csv or .parquet; it is made only once the ending is known to be one of these.

    Raises:
        SpecError: another ending.
        StudyError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise SpecError([Fault("out", str(path)[-80:], "must end in .csv or .parquet")])
    frame = table()
    return write_atomically(path, lambda temporary: WRITERS[path.suffix](frame, temporary))


def export(result: Result | pd.DataFrame, path: str | Path, *, provenance: Mapping[str, str] | None = None) -> Path:
    """Write a result's table in the format that the file's ending names, and ``<file>.manifest.json`` beside it.

    Args:
        result: a result, or a table whose headers carry their units.
        path: ends in .csv, .parquet, .xlsx, .tex or .md.
        provenance: for the manifest; by default the result's own.

    Raises:
        SpecError: an unknown ending, or more rows than the format holds.
        StudyError: the file cannot be written.
    """
    import pandas as pd

    path = Path(path)
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise SpecError([Fault("out", str(path)[:200], f"must end in {', '.join(WRITERS)}")])
    frame = result if isinstance(result, pd.DataFrame) else result.to_dataframe()
    if path.suffix.lower() == ".xlsx" and len(frame) > EXCEL_ROWS:
        raise SpecError(
            [Fault("out", str(path)[:200], f"Excel holds {EXCEL_ROWS:,} rows, the table has {len(frame):,}")]
        )
    origin = dict(provenance or {}) if isinstance(result, pd.DataFrame) else dict(result.dataset.attrs)
    write_atomically(path, lambda temporary: writer(frame, temporary))
    _write_manifest(path, frame, origin)
    return path


def _write_manifest(path: Path, frame: pd.DataFrame, origin: Mapping[str, str]) -> None:
    manifest: dict[str, Any] = {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "rows": len(frame),
        "columns": {str(c).partition(" [")[0]: str(c).partition(" [")[2].rstrip("]") or "1" for c in frame.columns},
        "provenance": dict(origin),
    }
    text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    write_atomically(
        path.with_name(path.name + ".manifest.json"), lambda p: p.write_text(text, encoding="utf-8") and None
    )
