"""What a study file says of measured tables: which rows, and the limits that their predictions are held to."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from dse.spec.base import Spec
from dse.spec.fields import Name, Text
from dse.study.fields import Point, Prose

# Whose limit it is: this project's own, or one that a publication states.
LimitLabel = Literal["goal", "published"]

TIME = ("mean_error", "median_error", "p90_error", "max_error", "bias", "coverage90")
RANKING = ("agreement", "regret", "worst_regret", "winners")
MEMORY = ("memory_mean_error", "memory_median_error", "memory_p90_error", "memory_bias", "balanced_accuracy")
COUNTS = ("rows", "predicted")
Statistic = Literal[
    "mean_error", "median_error", "p90_error", "max_error", "bias", "coverage90",
    "agreement", "regret", "worst_regret", "winners",
    "memory_mean_error", "memory_median_error", "memory_p90_error", "memory_bias", "balanced_accuracy",
    "rows", "predicted",
]  # fmt: skip


class Shortfall(Spec):
    """A limit that is known not to be reached: how far the statistic may go, and why it does.

    The check still counts as falling short, but the study as a whole does not fail. Beyond ``until`` it does.
    """

    until: float
    cause: Prose = Field(min_length=20)


class Limit(Spec):
    """A statistic of predictions over measured rows and where it must lie; fractions, not percent.

    Times: ``mean_error``, ``median_error``, ``p90_error``, ``max_error`` (of |predicted / measured − 1|), ``bias`` (the
    median of predicted / measured − 1), ``coverage90`` (share of the rows inside the 90 % interval).

    Sweeps: ``agreement`` (share of pairs in the right order), ``regret`` and ``worst_regret`` (what the design that is
    predicted fastest costs), ``winners`` (share of sweeps whose fastest design is the predicted one).

    Memory: ``memory_mean_error`` and so on, of peaks, and ``balanced_accuracy`` of running out of memory.

    ``rows`` counts the rows; ``predicted`` is the share of the rows given that could be predicted.
    """

    check: Text
    statistic: Statistic
    at_least: float | None = None
    at_most: float | None = None
    label: LimitLabel = "goal"
    source: Text = ""
    known_shortfall: Shortfall | None = None

    @model_validator(mode="after")
    def _complete(self) -> Limit:
        if self.at_least is None and self.at_most is None:
            raise ValueError("needs at_least or at_most")
        if self.label == "published" and not self.source:
            raise ValueError("a published limit needs its source")
        if self.known_shortfall is not None and self.at_least is not None and self.at_most is not None:
            raise ValueError("a known shortfall needs a limit on one side only")
        return self


class Measured(Spec):
    """Rows of a measured table, predicted one by one as ``dse validate`` does.

    Attributes:
        table: ``training`` (the shipped corpus, for memory with the runs that failed), or a CSV or Parquet file with
            its columns, beside the study or by path.
        where: which rows: a column and its value, a list of values, or ``{at_least: 8, at_most: 64}``; null is blank.
        rows: ``specified`` counts the rows that give every field a prediction needs, ``all`` also those in which
            something is filled in (such as an unpublished micro-batch). Of a configuration that is reported twice
            inside the selection, only the first counts.
    """

    id: Name
    title: Text = ""
    table: Text = "training"
    where: Point = Field(default_factory=dict)
    rows: Literal["specified", "all"] = "specified"
    checks: tuple[Limit, ...] = ()

    @property
    def needs_memory(self) -> bool:
        return any(check.statistic in MEMORY for check in self.checks)


class Average(Spec):
    """The mean of |ours / published − 1| over the expected values of some runs, and its limit."""

    check: Text
    runs: tuple[Name, ...] = ()
    containing: Text = ""
    at_most: float = Field(ge=0)
    label: LimitLabel = "goal"
    source: Text = ""


def is_blank(value: Any) -> bool:
    """None and not-a-number."""
    return value is None or value != value
