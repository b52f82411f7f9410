"""Streams of queries as CSV files: columns ``arrival``, ``accuracy``, ``latency`` with units, and maybe ``policy``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dse.domains.sushi.streams import Stream
from dse.errors import Fault, SpecError
from dse.units import UnitError, parse

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {"arrival": "s", "accuracy": "", "latency": "s"}
_HEAD = re.compile(r"^\s*(\w+?)\s*(?:[\[(]\s*(.*?)\s*[\])])?\s*$")


def from_csv(path: Path | str) -> Stream:
    """Read a recorded stream.

    The first line names the columns, in any order, with their units: ``arrival [ms],accuracy [%],latency [ms]``.
    Without a unit they are seconds and fractions. Queries may stand in any order; other columns are left alone.

    Raises:
        SpecError: the file is not there, has no such columns, or a cell is not a number: names line and column.
    """
    import pandas as pd

    path = Path(path)
    try:
        # Blank lines are kept, so that the number of a row tells its line.
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False, index_col=False)
    except (OSError, ValueError) as error:
        raise SpecError([Fault("stream", str(path)[-200:], f"cannot be read: {str(error).strip()[:200]}")]) from None
    heads = {match[1]: (name, match[2]) for name in frame if (match := _HEAD.match(str(name)))}
    missing = [name for name in COLUMNS if name not in heads]
    if missing:
        rule = f"is missing; the first line must name {', '.join(COLUMNS)}, each with its unit"
        raise SpecError([Fault(name, "", rule, f"{path.name}, line 1") for name in missing])
    if frame.empty:
        raise SpecError([Fault("stream", path.name, "holds no queries")])
    columns = [_column(frame[heads[name][0]], name, heads[name][1], path.name) for name in COLUMNS]
    order = np.argsort(columns[0], kind="stable")
    made = {"maker": "from_csv", "file": path.name, "count": len(frame)}
    return Stream(*(column[order] for column in columns), policy=_policy(frame, heads), made=made)


def to_csv(stream: Stream, path: Path | str) -> Path:
    """Write a stream as :func:`from_csv` reads it, with all digits.

    Raises:
        StudyError: the file cannot be written.
    """
    import pandas as pd

    from dse.study.export import write_atomically

    heads = (f"{name} [{unit}]" if unit else name for name, unit in COLUMNS.items())
    frame = pd.DataFrame(dict(zip(heads, (stream.arrival, stream.accuracy, stream.latency), strict=True)))
    if stream.policy:
        frame["policy"] = stream.policy
    return write_atomically(Path(path), lambda file: frame.to_csv(file, index=False, lineterminator="\n"))


def _column(text: pd.Series, name: str, unit: str | None, file: str) -> np.ndarray:
    import pandas as pd

    try:
        factor = parse(f"1 {unit}", COLUMNS[name]) if unit else 1.0
    except UnitError as error:
        raise SpecError([Fault(name, unit or "", str(error), f"{file}, line 1")]) from None
    values = pd.to_numeric(text.str.strip(), errors="coerce").to_numpy(float) * factor
    least, rule = (-np.inf, "a number") if name == "arrival" else (0.0, "a number, 0 or more")
    if name == "accuracy":
        rule = "a fraction from 0 to 1 (or say accuracy [%])"
    most = 1.0 if name == "accuracy" else np.inf
    wrong = ~(np.isfinite(values) & (values >= least) & (values <= most))
    if wrong.any():
        faults = [Fault(name, text.iloc[at][:40] or "nothing", f"must be {rule}", f"{file}, line {at + 2}")
                  for at in np.flatnonzero(wrong)[:5]]  # fmt: skip
        raise SpecError(faults)
    return values


def _policy(frame: pd.DataFrame, heads: dict[str, tuple[str, str | None]]) -> str | None:
    """The one policy by which all queries ask to be served, if the file says so."""
    if "policy" not in heads:
        return None
    named = set(frame[heads["policy"][0]].str.strip())
    if len(named) > 1:
        raise SpecError([Fault("policy", ", ".join(sorted(named))[:80], "must be the same for all queries")])
    return named.pop() or None
