"""Tables as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def as_text(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns of equal width, two blanks apart."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)


def columns_of(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its headers less their units."""
    return table.rename(columns={name: str(name).partition(" [")[0] for name in table.columns})
