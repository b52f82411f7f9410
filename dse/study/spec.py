"""Study files: what is run, what is drawn, and what it is held against.

``studies/NAME/study.yaml`` states the question, the runs (sweeps), the figures and the trends; the table named by
``expected`` beside it holds one published number a row. Nothing in a study is code.
"""

from __future__ import annotations

import csv
import difflib
import io
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from dse.errors import Fault, SpecError, StudyError
from dse.spec.base import Spec
from dse.spec.catalogue import asset_root
from dse.spec.fields import Count, Name, Switch, Text
from dse.spec.load import read_yaml
from dse.study.collectives import Collectives
from dse.study.fields import PlainFile, Point, PointText, Prose
from dse.study.measured import Average, Measured
from dse.study.searches import SearchCheck, Searched
from dse.study.simulated import SimulationCheck
from dse.study.simulations import Simulated
from dse.study.tables import Tabled

# Where a value to compare with comes from: printed in the paper, recorded by its authors' simulator, computed again
# from their method by someone else, or only a direction that must hold.
Label = Literal["paper", "recorded", "re-derived", "trend"]


OF_MEASURED = ("accuracy", "ranking")  # kinds of figures whose run is a measured table
OF_SEARCHES = ("front", "parallel")  # those whose run is a search
# Those whose run is a block of simulations, of collectives (the last three of these alone) or a table of a domain.
OF_SIMULATIONS = ("bars", "parts", "curves", "grid", "sizes", "ratios", "spread")


class RunAxis(Spec):
    """An axis of a run: as :func:`dse.axis`."""

    path: Text
    values: tuple[Any, ...]
    unit: Text = ""
    name: Text = ""


class Run(Spec):
    """One sweep. ``ignore`` names rules that do not count in this run (and why is for the notes to say)."""

    id: Name
    title: Text = ""
    model: Any
    cluster: Any
    devices: Count | None = None
    strategy: dict[str, Any]
    axes: tuple[RunAxis, ...] = ()
    ignore: tuple[Text, ...] = ()

    @field_validator("ignore")
    @classmethod
    def _known_rules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from dse.explore.evaluate import RULES

        for rule in value:
            if rule not in RULES:
                near = difflib.get_close_matches(rule, RULES, n=1)
                raise ValueError(f"{rule[:40]!r} is not a rule" + (f"; did you mean {near[0]!r}?" if near else ""))
        return value


class Reference(Spec):
    """What values are divided into: the quantity at ``at`` of another run, or of the same run with ``at`` changed."""

    run: Name | None = None
    at: Point = Field(default_factory=dict)


class Figure(Spec):
    """One figure. With ``reference`` it shows reference / value, so that more is better for times.

    ``labels`` names the bars, rows or lines: ``"MP{tp}_DP{data_parallel}"``. An axis in ``at`` may be ``best``: the
    feasible value with the least step time. Figures of measured tables are ``accuracy`` (predicted over measured step
    time, or peak memory where ``quantity`` is ``memory``; ``by`` is the column that colours) and ``ranking`` (places in
    each sweep); their ``run`` is a measured table. Figures of searches are ``front`` (columns ``x`` and ``y``, coloured
    ``by``) and ``parallel``. Figures of simulations are ``bars`` and ``curves`` of a quantity ``along`` a column, one
    colour for each value of ``by`` (two columns: ``system, variant``), ``grid`` (a heat map over the columns ``x`` and
    ``y``), and ``parts`` of the time stacked. Where several rows fall on one point of a curve, the best is shown; those
    of tables of domains are drawn alike. Figures of collectives are, besides these, ``sizes`` (time
    against size, with the bound), ``ratios`` (time over bound by network) and ``spread`` (quantiles over the samples
    ``along`` a column).
    """

    id: Name
    kind: Literal[
        "breakdown", "footprint", "heatmap", "lines", "comparison", "roofline", "verdicts", "accuracy", "ranking",
        "front", "parallel", "bars", "parts", "curves", "grid", "sizes", "ratios", "spread",
    ]  # fmt: skip
    run: Name | None = None
    title: Text = ""
    note: Prose = ""
    quantity: Text = "step_time"
    table: Literal["time", "memory", "tier", "energy", "cost"] = "time"
    along: Text | None = None
    by: Text | None = None
    x: Text | None = None
    y: Text | None = None
    at: Point = Field(default_factory=dict)
    reference: Reference | None = None
    labels: Text = ""
    notes: Text = ""
    x_title: Text = ""
    y_title: Text = ""
    by_title: Text = ""
    value_title: Text = ""
    line: float | None = None
    line_label: Text = ""
    log: Switch = False


class Trend(Spec):
    """A statement about a run that must hold: a measure of a quantity, and what it is compared with.

    Measures: ``value``, ``max``, ``min`` over all designs left by ``at``; ``argmax``, ``argmin``, ``rising``,
    ``falling`` (1 if every step along the axis goes that way), ``first_gain`` and ``last_gain`` (the ratio of the first
    or last two values along the axis). Designs that break a rule are left out.
    """

    check: Text
    run: Name
    quantity: Text = "step_time"
    at: Point = Field(default_factory=dict)
    reference: Reference | None = None
    measure: Literal["value", "max", "min", "argmax", "argmin", "rising", "falling", "first_gain", "last_gain"]
    along: Text | None = None
    at_least: float | None = None
    at_most: float | None = None
    unit: Text = "1"
    label: Label = "trend"
    source: Text = ""
    note: Prose = ""

    @model_validator(mode="after")
    def _complete(self) -> Trend:
        if self.at_least is None and self.at_most is None and self.measure not in ("rising", "falling"):
            raise ValueError(f"a trend of measure {self.measure} needs at_least or at_most")
        if self.along is None and self.measure not in ("value", "max", "min"):
            raise ValueError(f"a trend of measure {self.measure} needs the axis it goes along")
        return self


class Expected(Spec):
    """A published number and how far ours may lie from it.

    ``ours`` is ``scale`` · quantity, or ``scale`` · (quantity at the reference) / quantity where ``reference_run`` or
    ``reference_at`` is given. The difference may be ``tolerance`` · |published| or ``absolute`` (in ``unit``),
    whichever is more; ``absolute`` is for the rounding of printed values.
    """

    check: Text
    run: Name
    quantity: Text
    at: PointText = Field(default_factory=dict)
    reference_run: Name | None = None
    reference_at: PointText = Field(default_factory=dict)
    scale: float = 1.0
    published: float
    unit: Text = "1"
    tolerance: float = Field(default=0.02, ge=0, le=1)
    absolute: float = Field(default=0.0, ge=0)
    label: Label
    source: Text = ""


class Study(Spec):
    """A study. ``defaults`` holds fields that runs share; a run's own strategy fields override those.

    It has runs (sweeps), ``measured`` tables that predictions are held against, ``searches``, ``simulations``,
    ``collectives``, ``tables`` of domains, or several of these. The file named by ``simulation_values`` holds more
    ``simulation_checks``, one a row, which are of simulations, collectives or tables.
    """

    id: Name
    title: Text
    question: Prose
    notes: Prose = ""
    defaults: dict[str, Any] = Field(default_factory=dict)
    runs: tuple[Run, ...] = ()
    measured: tuple[Measured, ...] = ()
    searches: tuple[Searched, ...] = ()
    simulations: tuple[Simulated, ...] = ()
    collectives: tuple[Collectives, ...] = ()
    tables: tuple[Tabled, ...] = ()
    figures: tuple[Figure, ...] = ()
    expected: PlainFile | None = None
    trends: tuple[Trend, ...] = ()
    averages: tuple[Average, ...] = ()
    search_checks: tuple[SearchCheck, ...] = ()
    simulation_values: PlainFile | None = None
    simulation_checks: tuple[SimulationCheck, ...] = ()
    workbench: dict[str, Any] = Field(default_factory=dict)  # what dse.app.saved keeps: views, locks, versions

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("defaults"), dict):
            return data
        defaults, runs = data["defaults"], data.get("runs")
        shared = defaults.get("strategy")
        if not isinstance(runs, list) or not isinstance(shared, dict | None):
            return data
        filled = []
        for run in runs:
            if isinstance(run, dict):
                own = run.get("strategy") or {}
                strategy = {**(shared or {}), **own} if isinstance(own, dict) else own
                run = {**defaults, **run, "strategy": strategy}
            filled.append(run)
        return {**data, "runs": filled}

    @model_validator(mode="after")
    def _not_empty(self) -> Study:
        if not (self.runs or self.measured or self.searches or self.blocks):
            raise ValueError("a study needs runs, measured tables, searches, simulations, collectives or tables")
        return self

    @property
    def blocks(self) -> tuple[Simulated | Collectives | Tabled, ...]:
        """What gives one table each, that figures and simulation checks read alike."""
        return (*self.simulations, *self.collectives, *self.tables)


# -- loading ------------------------------------------------------------------------------------------------


def studies() -> list[str]:
    """Names of the shipped studies."""
    root = asset_root("studies")
    return sorted(path.parent.name for path in root.glob("*/study.yaml")) if root.is_dir() else []


def locate(name_or_path: str | Path) -> Path:
    """The ``study.yaml`` of a shipped study, of a folder, or the file itself.

    Raises:
        StudyError: there is none; the message suggests the nearest names.
    """
    text = str(name_or_path)
    if text in studies():
        return asset_root("studies") / text / "study.yaml"
    path = Path(text)
    try:
        found = path / "study.yaml" if path.is_dir() else path
        if found.is_file():
            return found
    except (OSError, ValueError):  # a name no file system takes
        pass
    near = difflib.get_close_matches(text[:80], studies(), n=2, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(studies()) or 'none'}"
    raise StudyError(f"{text[:80]!r} is neither a shipped study nor a folder with a study.yaml; {hint}")


def load_study(name_or_path: str | Path) -> tuple[Study, list[Expected], Path]:
    """Read and check a study.

    Returns:
        The study, its expected values, and its folder.

    Raises:
        StudyError: no such study.
        SpecError: with every fault of the study file, or of its references and expected values.
    """
    path = locate(name_or_path)
    data, lines = read_yaml(path)
    if not isinstance(data, dict):
        raise SpecError([Fault("file", "", "must be a mapping that describes a study", str(path))])
    declared = data.pop("kind", "study")
    if declared != "study":
        raise SpecError([Fault("kind", repr(declared)[:60], "expected a file of kind 'study'", str(path))])
    study = Study.parse(data, where=str(path), lines=lines)
    faults: list[Fault] = []
    expected: list[Expected] = []
    if study.simulation_values:
        values, faults = _read_rows(path.parent / study.simulation_values, SimulationCheck)
        study = study.model_copy(update={"simulation_checks": (*values, *study.simulation_checks)})
    faults += _reference_faults(study, str(path))
    if study.expected:
        expected, more = _read_rows(path.parent / study.expected, Expected, {run.id for run in study.runs})
        faults += more
    if faults:
        raise SpecError(faults)
    return study, expected, path.parent


def _reference_faults(study: Study, where: str) -> list[Fault]:
    """Ids given twice, and references to runs that are not there."""
    runs, tables = [run.id for run in study.runs], [block.id for block in study.measured]
    searches = [block.id for block in study.searches]
    simulations = [block.id for block in study.blocks]
    faults = []
    for what, ids in (
        ("runs", [*runs, *tables, *searches, *simulations]),
        ("figures", [figure.id for figure in study.figures]),
    ):
        twice = sorted({name for name in ids if ids.count(name) > 1})
        faults += [Fault(what, name, "this id is given twice", where) for name in twice]
    uses: list[tuple[str, Any]] = []
    others = (
        (OF_MEASURED, tables, "a measured table"),
        (OF_SEARCHES, searches, "a search"),
        (OF_SIMULATIONS, simulations, "a block of simulations, collectives or a table"),
    )
    for i, figure in enumerate(study.figures):
        if found := next((found for kinds, *found in others if figure.kind in kinds), None):
            known, what = found
            if (figure.run or "") not in known:
                rule = _no_run(figure.run or "", known, what)
                faults.append(Fault(f"figures.{i}.run", repr(figure.run), rule, where))
        elif figure.kind != "verdicts":
            uses.append((f"figures.{i}.run", figure.run or ""))
        uses.append((f"figures.{i}.reference.run", figure.reference.run if figure.reference else None))
        needs = {"heatmap": ("x", "y"), "grid": ("x", "y"), "lines": ("along",), "comparison": ("along",)}.get(
            figure.kind, ()
        )
        faults += [
            Fault(f"figures.{i}.{field}", "", f"is required for a {figure.kind}", where)
            for field in needs
            if getattr(figure, field) is None
        ]
    for i, trend in enumerate(study.trends):
        uses += [(f"trends.{i}.run", trend.run), (f"trends.{i}.reference.run", trend.reference and trend.reference.run)]
    for i, check in enumerate(study.search_checks):
        faults += [
            Fault(f"search_checks.{i}", repr(name), _no_run(name, searches, "a search"), where)
            for name in (check.search, check.reference)
            if name is not None and name not in searches
        ]
    faults += [
        Fault(
            f"simulation_checks.{i}",
            repr(check.simulation),
            _no_run(check.simulation, simulations, others[2][2]),
            where,
        )
        for i, check in enumerate(study.simulation_checks)
        if check.simulation not in simulations
    ]
    for i, average in enumerate(study.averages):
        uses += [(f"averages.{i}.runs", name) for name in average.runs]
    faults += [
        Fault(path, repr(name), _no_run(name, runs), where)
        for path, name in uses
        if name is not None and name not in runs
    ]
    return faults


def _no_run(name: str, runs: Any, what: str = "a run") -> str:
    near = difflib.get_close_matches(name, runs, n=1)
    if near:
        return f"is not {what} of this study; did you mean {near[0]!r}?"
    return f"must be one of {', '.join(runs)}" if runs else f"must be {what} of this study, and it has none"


Row = TypeVar("Row", Expected, SimulationCheck)


def _read_rows(path: Path, kind: type[Row], runs: set[str] | None = None) -> tuple[list[Row], list[Fault]]:
    """The rows of a table of values, whose ``run`` and ``reference_run`` must be among ``runs``."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        return [], [Fault("file", path.name, f"cannot be read: {error}"[:200])]
    found, faults = [], []
    for number, row in enumerate(csv.DictReader(io.StringIO(text)), start=2):
        if None in row:
            faults.append(Fault("row", "", "has more cells than the header", f"{path}:{number}"))
            continue
        cells = {key: value.strip() for key, value in row.items() if value and value.strip()}
        try:
            entry = kind.parse(cells, where=f"{path}:{number}")
        except SpecError as error:
            faults += error.faults
            continue
        for field in ("run", "reference_run") if runs is not None else ():
            if getattr(entry, field) is not None and getattr(entry, field) not in runs:
                rule = _no_run(getattr(entry, field), sorted(runs))
                faults.append(Fault(field, repr(getattr(entry, field)), rule, f"{path}:{number}"))
        found.append(entry)
    return found, faults
