"""Two designs side by side: every input and output that differs, where the time goes, and which is faster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dse.app.design import Design
from dse.app.state import State
from dse.errors import Fault, SpecError
from dse.explore.confidence import changes, compare
from dse.explore.result import Result
from dse.explore.tables import HEADLINES
from dse.space.axes import locate

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Difference:
    """What differs between two designs.

    Attributes:
        inputs: a row a changed input: path, A, B, unit (SI).
        outputs: a row a headline quantity that differs: quantity, A, B, ``B / A``, unit.
        terms: a row a term of the step time, in s: A, B, difference B - A; the columns sum to the step times.
        faster: P(A is faster than B); None for different models, which do not compare.
        notes: what is infeasible or beyond what was measured.
    """

    inputs: pd.DataFrame
    outputs: pd.DataFrame
    terms: pd.DataFrame
    faster: float | None
    notes: tuple[str, ...]


def pinned(state: State) -> Difference:
    """The difference of the pinned designs; the present one stands in for a single missing pin.

    Raises:
        SpecError: nothing is pinned.
    """
    pins = dict(state.pins)
    if not pins:
        raise SpecError([Fault("pin", "", "pin a design as A or B first")])
    return difference(pins.get("A", state.design), pins.get("B", state.design))


def difference(a: Design, b: Design) -> Difference:
    """Everything that differs between two designs."""
    left, right = a.result, b.result
    faster, notes = _faster(left, right)
    return Difference(_inputs(left, right), _outputs(left, right), _terms(left, right), faster, notes)


def _faster(a: Result, b: Result) -> tuple[float | None, tuple[str, ...]]:
    if a.specs["model"].id != b.specs["model"].id:  # type: ignore[attr-defined]
        return None, ("the models differ: which one is faster has no meaning",)
    found = compare(a, b)
    return found.faster, found.notes


def _inputs(a: Result, b: Result) -> pd.DataFrame:
    import pandas as pd

    rows = [(path, *pair, _unit(path, a, b)) for path, pair in changes(a, b).items()]
    return pd.DataFrame(rows, columns=["input", "A", "B", "unit"]).astype({"A": object, "B": object})


def _unit(path: str, *results: Result) -> str:
    """Unit of an input; parts that only one of the designs has are looked up there."""
    for result in results:
        try:
            return locate(path, result.specs).unit
        except SpecError:
            continue
    return ""


def _outputs(a: Result, b: Result) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for name in (*HEADLINES, "feasible"):
        left, right = a.number(name), b.number(name)
        if left != right:
            rows.append((name, left, right, _ratio(name, left, right), a.unit(name)))
    return pd.DataFrame(rows, columns=["quantity", "A", "B", "B / A", "unit"])


def _ratio(name: str, left: Any, right: Any) -> float:
    return float("nan") if name == "feasible" or not left else float(right) / float(left)


def _terms(a: Result, b: Result) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame({"A [s]": a.terms("time"), "B [s]": b.terms("time")}).fillna(0.0)
    frame["difference [s]"] = frame["B [s]"] - frame["A [s]"]
    return frame[(frame != 0).any(axis=1)]
