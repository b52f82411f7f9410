"""Designs of a streamed table as people read them: engineering units in every cell, plain names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.explore.stream.columns import ALWAYS
from dse.units import engineering

if TYPE_CHECKING:
    from dse.explore.stream.table import StreamedTable

PERCENT = frozenset({"mfu", "hfu", "goodput"})


def cell(name: str, value: Any, unit: str) -> str:
    """A value with its unit: ``25 GB/s``, ``47.1%``, ``102,000/s``, ``true``."""
    from dse.view.theme import label

    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if name in PERCENT:
        return f"{value:.1%}"
    if unit.startswith("1/"):
        return engineering(value, "1/").removesuffix(" 1/") + unit[1:]
    return label(value, unit)


def units_of(table: StreamedTable) -> dict[str, str]:
    """Unit of each column by its plain name."""
    return {column["name"]: column["unit"] for column in table.manifest["columns"]}


def described(table: StreamedTable, row: Mapping[str, Any]) -> tuple[str, str]:
    """A design and its numbers, a line each, of a row whose keys are headers (margins, and what is said, left out)."""
    units, axes = units_of(table), [axis["name"] for axis in table.manifest["axes"]]
    design = [name for name in (*axes, "dp") if name in table.headers]
    numbers = [n for n in table.headers if n not in (*design, *ALWAYS) and not n.startswith("margin.")]
    lines = [
        ", ".join(f"{name} = {cell(name, row[table.headers[name]], units[name])}" for name in dict.fromkeys(names))
        for names in (design, numbers)
    ]
    return lines[0], lines[1]
