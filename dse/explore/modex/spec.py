"""A problem as a YAML file beside a table of candidates::

name: smallest node count for 1 SYPD
table: runs.csv
label: [nodes, compiler]
features: [nodes, compiler]
predicted: model_seconds        # what the analytic model says
measured: seconds               # blank where it is not measured yet; leave out to tell values
cost: node_hours                # of measuring; a column or a number
unit: s
decision: {kind: cheapest, cost: nodes, target: 240}
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from dse.errors import Fault, SpecError
from dse.explore.modex.decisions import Decision, cheapest, lowest, ranking
from dse.explore.modex.problem import Problem, Table
from dse.spec.base import Spec
from dse.spec.fields import Text
from dse.spec.load import read_yaml

if TYPE_CHECKING:
    import pandas as pd

Names = Annotated[tuple[Text, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
Positive = Annotated[float, Field(gt=0)]
MOST = 20_000  # candidates


class DecisionSpec(Spec):
    """Attributes:
    kind: least or greatest value; cheapest row that meets a target; the order of all rows.
    group: column; one choice is made in each group.
    weight: column that values are multiplied with before they are compared (lowest, greatest).
    cost: column of what taking a row costs (cheapest); target: value to meet; at_least: from above.
    against: label of a row; the target is for the ratio to its value (cheapest).
    tolerance: regret up to which a decision is the same one, as a fraction.
    """

    kind: Literal["lowest", "greatest", "cheapest", "ranking"]
    group: Text | None = None
    weight: Text | None = None
    cost: Text | None = None
    target: Positive | None = None
    at_least: bool = False
    against: Text | None = None
    tolerance: Annotated[float, Field(ge=0, le=1)] = 0.01

    def build(self, names: list[str], frame: pd.DataFrame, where: str) -> Decision:
        """For the rows of a table.

        Raises:
            SpecError: something is missing.
        """
        if self.kind == "ranking":
            return ranking(names, tolerance=self.tolerance)
        group = None if self.group is None else column(frame, self.group, where).astype(str).tolist()
        if self.kind != "cheapest":
            weight = None if self.weight is None else numbers(frame, self.weight, where)
            return lowest(names, group, weight, greatest=self.kind == "greatest", tolerance=self.tolerance)
        if self.cost is None or self.target is None:
            raise SpecError([Fault("decision", "", "of kind cheapest needs a cost and a target", where)])
        if self.against is not None and self.against not in names:
            raise SpecError([Fault("decision.against", repr(self.against)[:60], "is the label of no row", where)])
        against = None if self.against is None else names.index(self.against)
        return cheapest(
            names, numbers(frame, self.cost, where), self.target, at_least=self.at_least, group=group,
            against=against, tolerance=self.tolerance,
        )  # fmt: skip


class ProblemSpec(Spec):
    """Attributes:
    table: CSV or Parquet of the candidates, beside the YAML file.
    label: columns that name a candidate; rows of the same label are repetitions.
    features: columns that the prior's error may depend on.
    predicted, measured: columns; cost: of measuring, a column or a number.
    error, level, noise: see :class:`dse.explore.modex.problem.Problem`.
    """

    name: Text = "unnamed"
    table: Text
    label: Names
    features: Names
    predicted: Text
    measured: Text | None = None
    cost: Text | Positive = 1.0
    unit: Text = ""
    error: Positive = 0.3
    level: Positive = 1.0
    noise: Annotated[float, Field(ge=0, le=5)] | None = None
    decision: DecisionSpec

    def problem(self, where: Path) -> Problem:
        """With its table, whose path starts at the YAML file's folder.

        Raises:
            SpecError: the table cannot be read, or lacks what the file names.
        """
        frame, path = _table(where.parent / self.table), str(where.parent / self.table)
        parts = [column(frame, name, path).astype(str) for name in self.label]
        labels = [" ".join(row) for row in zip(*parts, strict=True)]
        frame = frame.assign(_label=labels)
        first = frame.drop_duplicates("_label").reset_index(drop=True)
        names = first["_label"].tolist()
        source = None
        if self.measured is not None:
            values = column(frame, self.measured, path)
            by = values.groupby(frame["_label"])
            kept = {str(name): numbers(part.to_frame(self.measured), self.measured, path) for name, part in by}
            source = Table([kept[name] for name in names])
        return Problem(
            self.name, names, {name: column(first, name, path).tolist() for name in self.features},
            numbers(first, self.predicted, path), self.decision.build(names, first, path), source,
            numbers(first, self.cost, path) if isinstance(self.cost, str) else self.cost, self.unit, self.error,
            self.level, self.noise,
        )  # fmt: skip


def load_problem(path: Path | str) -> Problem:
    """A problem from its YAML file.

    Raises:
        SpecError: with every fault.
    """
    path = Path(path)
    data, lines = read_yaml(path)
    if not isinstance(data, dict):
        raise SpecError([Fault("file", "", "must be a mapping that describes a problem", str(path))])
    return ProblemSpec.parse(data, where=str(path), lines=lines).problem(path)


def _table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise SpecError([Fault("table", str(path)[-200:], f"cannot be read: {str(error)[:160]}")]) from None
    if not 0 < len(frame) <= MOST:
        raise SpecError([Fault("table", str(len(frame)), f"must have 1 to {MOST:,} rows", str(path))])
    return frame


def column(frame: pd.DataFrame, name: str, where: str) -> pd.Series[Any]:
    """A column of the table.

    Raises:
        SpecError: there is none of that name.
    """
    if name not in frame:
        shown = ", ".join(map(str, frame.columns))[:200]
        raise SpecError([Fault("column", repr(name)[:60], f"must be one of {shown}", where)])
    return frame[name]


def numbers(frame: pd.DataFrame, name: str, where: str) -> list[float]:
    """A column as numbers; what is none is NaN."""
    import pandas as pd

    return [float(v) for v in pd.to_numeric(column(frame, name, where), errors="coerce")]
