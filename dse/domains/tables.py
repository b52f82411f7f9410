"""Tables that domains make for studies: each maker is a specification, its fields are what a study file may set."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    import pandas as pd

Say = Callable[[str], None]

# Name in study files: module and class. A new table is one line here and one class there.
MAKERS: dict[str, str] = {
    "vegeta-geometry": "dse.domains.vegeta.tables:Geometry",
    "vegeta-speedup": "dse.domains.vegeta.tables:Speedup",
    "vegeta-sensitivity": "dse.domains.vegeta.tables:Sensitivity",
    "vegeta-unstructured": "dse.domains.vegeta.tables:Unstructured",
    "vegeta-granularity": "dse.domains.vegeta.tables_spaces:Granularity",
    "vegeta-crossover": "dse.domains.vegeta.tables_spaces:Crossover",
    "vegeta-design-space": "dse.domains.vegeta.tables_spaces:DesignSpace",
    "sushi-subnets": "dse.domains.sushi.tables:SubNets",
    "sushi-layers": "dse.domains.sushi.tables:MeasuredLayers",
    "sushi-savings": "dse.domains.sushi.tables:Savings",
    "sushi-unknowns": "dse.domains.sushi.tables:Unknowns",
    "sushi-serving": "dse.domains.sushi.tables:Serving",
    "sushi-breakeven": "dse.domains.sushi.tables:BreakEven",
    "sushi-search": "dse.domains.sushi.tables:Searched",
    "sushi-gpus": "dse.domains.sushi.tables:Gpus",
    "xr-recorded": "dse.domains.xr.tables:Recorded",
    "xr-timelines": "dse.domains.xr.tables:Timelines",
    "xr-bars": "dse.domains.xr.tables:Bars",
    "xr-means": "dse.domains.xr.tables:Means",
    "xr-probability": "dse.domains.xr.tables:ProbabilitySweep",
    "xr-layers": "dse.domains.xr.tables:LayerCosts",
    "xr-own-costs": "dse.domains.xr.tables:OwnCosts",
    "xr-sensitivities": "dse.domains.xr.tables:Sensitivities",
    "xr-effects": "dse.domains.xr.tables_designs:Effects",
    "xr-schedulers": "dse.domains.xr.tables_designs:Schedulers",
    "xr-power": "dse.domains.xr.tables_designs:Carried",
    "xr-latency": "dse.domains.xr.tables_designs:EndToEnd",
    "xr-search": "dse.domains.xr.tables_designs:Searched",
    "continuum-forecasts": "dse.domains.continuum.tables:Forecasts",
    "continuum-held-out": "dse.domains.continuum.tables:HeldOut",
    "continuum-algorithms": "dse.domains.continuum.tables:Algorithms",
    "continuum-emulators": "dse.domains.continuum.tables:Emulators",
    "continuum-parts": "dse.domains.continuum.tables:Parts",
    "continuum-front": "dse.domains.continuum.tables_plans:Front",
    "continuum-stages": "dse.domains.continuum.tables_plans:Stages",
    "continuum-break-even": "dse.domains.continuum.tables_plans:BreakEvens",
    "continuum-streams": "dse.domains.continuum.tables_plans:Streams",
    "continuum-archive": "dse.domains.continuum.tables_plans:Archive",
    "continuum-waiting": "dse.domains.continuum.tables_plans:Waiting",
    "continuum-ensembles": "dse.domains.continuum.tables_plans:Ensembles",
    "modex-steps": "dse.explore.modex.tables:Steps",
    "modex-contest": "dse.explore.modex.tables:Contest",
}


class Table(NamedTuple):
    """A table of a domain.

    Attributes:
        rows: one row a case; columns are labels, numbers that tell cases apart, and quantities in SI units.
        keys: the columns that tell one row from the others.
        units: SI unit of each column that has one; ``%`` for fractions that figures show as percentages.
        titles: for columns of labels, what their values are called in figures.
    """

    rows: pd.DataFrame
    keys: tuple[str, ...]
    units: Mapping[str, str] = {}
    titles: Mapping[str, Mapping[str, str]] = {}


class Maker(Protocol):
    """A :class:`dse.spec.base.Spec` that makes a table; ``say`` is told how far it is."""

    def table(self, say: Say) -> Table: ...


def maker(name: str, settings: Mapping[str, Any], *, where: str = "") -> Maker:
    """The maker of that name with these settings.

    Raises:
        SpecError: no such maker, or settings that it does not take.
    """
    if name not in MAKERS:
        near = difflib.get_close_matches(name[:80], MAKERS, n=1)
        rule = f"did you mean {near[0]!r}?" if near else f"must be one of {', '.join(MAKERS)}"
        raise SpecError([Fault("maker", repr(name)[:60], rule, where)])
    module, kind = MAKERS[name].split(":")
    return getattr(import_module(module), kind).parse(dict(settings), where=where)
