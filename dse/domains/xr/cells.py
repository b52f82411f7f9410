"""Columns and cells of CSV files that people write: a unit in the head, numbers below, faults with their line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from dse.errors import Fault, SpecError
from dse.units import UnitError, parse

if TYPE_CHECKING:
    import pandas as pd

_HEAD = re.compile(r"^\s*(\w+?)\s*(?:[\[(]\s*(.*?)\s*[\])])?\s*$")


def columns(frame: pd.DataFrame, needed: Iterable[str], file: str) -> dict[str, tuple[str, str | None]]:
    """The column of each name, and the unit in its head: ``latency [ms]``.

    Raises:
        SpecError: one is missing.
    """
    heads = {match[1]: (name, match[2]) for name in frame if (match := _HEAD.match(str(name)))}
    needed = tuple(needed)
    rule = f"is missing; the first line must name {', '.join(needed)}"
    faults = [Fault(name, "", rule, f"{file}, line 1") for name in needed if name not in heads]
    if faults:
        raise SpecError(faults)
    return heads


def number(text: pd.Series, name: str, unit: str | None, si: str, file: str) -> np.ndarray:
    """Positive numbers of a column in SI units; without a unit in the head they are SI already.

    Raises:
        SpecError: a unit that does not fit, or cells that are no positive numbers.
    """
    import pandas as pd

    try:
        factor = parse(f"1 {unit}", si) if unit else 1.0
    except UnitError as error:
        raise SpecError([Fault(name, unit or "", str(error), f"{file}, line 1")]) from None
    values = pd.to_numeric(text.str.strip(), errors="coerce").to_numpy(float) * factor
    wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if wrong.size:
        rule = "must be a number above 0"
        raise SpecError(
            [Fault(name, text.iloc[at][:40] or "nothing", rule, f"{file}, line {at + 2}") for at in wrong[:5]]
        )
    return values
