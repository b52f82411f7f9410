"""Design-space exploration for ML systems.

``YAML → specification → axes → cost → Result (xarray) → figure, table, study``: :func:`estimate` prices one design,
:func:`sweep` any axes at once, :func:`best` finds the best strategy exhaustively, :func:`search` hardware and strategy
together, :func:`require` the least resource that meets a target; every number explains itself.
"""

from __future__ import annotations

from dse import simulate, trace
from dse.api import Axis, Result, axis, best, estimate, resume, sweep, workbench
from dse.cost.graph import quantity
from dse.errors import DseError, InfeasibleDesign, SpecError, StudyError
from dse.explore import sensitivity
from dse.explore.confidence import Comparison, compare
from dse.explore.require import IsoCurve, Requirement, require
from dse.explore.search.found import SearchResult
from dse.explore.search.run import search
from dse.explore.search.variables import coupling, span
from dse.explore.stream import open_table, stream
from dse.spec import load_accelerator, load_cluster, load_model, load_node, load_strategy
from dse.spec.calibration import use as use_calibration
from dse.study.export import export
from dse.study.provenance import version as _version

__version__ = _version()

__all__ = [
    "Axis",
    "Comparison",
    "DseError",
    "InfeasibleDesign",
    "IsoCurve",
    "Requirement",
    "Result",
    "SearchResult",
    "SpecError",
    "StudyError",
    "axis",
    "best",
    "compare",
    "coupling",
    "estimate",
    "export",
    "load_accelerator",
    "load_cluster",
    "load_model",
    "load_node",
    "load_strategy",
    "open_table",
    "quantity",
    "require",
    "resume",
    "search",
    "sensitivity",
    "simulate",
    "span",
    "stream",
    "sweep",
    "trace",
    "use_calibration",
    "workbench",
]
