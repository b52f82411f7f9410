"""Values as JSON takes them: numbers of NumPy as plain ones, tables as rows, and nothing that is not a number."""

from __future__ import annotations

import dataclasses
import math
from typing import Any


def plain(value: Any) -> Any:
    """For ``json.dumps(default=plain)``: numbers of NumPy become plain ones, what JSON cannot take becomes text."""
    return value.item() if hasattr(value, "item") else str(value)


def finite(value: Any) -> Any:
    """A whole answer for JSON: tables become lists of rows, and what is not a finite number null."""
    if dataclasses.is_dataclass(value):
        return {field.name: finite(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "to_dict"):
        return [finite(row) for row in value.to_dict("records")]
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
