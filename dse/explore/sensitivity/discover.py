"""Which region of a space of designs misses (or meets) a target."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.explore.result import Result
from dse.explore.sensitivity.factors import Factor, bind
from dse.explore.sensitivity.forecast import planned
from dse.explore.sensitivity.prim import Box, Column, prim
from dse.explore.sensitivity.samples import Search, evaluate, is_feasible, search_of, single

if TYPE_CHECKING:
    import pandas as pd

    from dse.explore.objectives import Condition

MOST_DESIGNS = 50_000_000


@dataclass(frozen=True)
class Discovery:
    """Boxes in which designs miss (or meet) a target, the first the most telling.

    Attributes:
        boxes: see :class:`Box`.
        target: the condition.
        case: "miss" or "meet": what the boxes are dense in.
        designs, cases: how many there are, and of interest.
        ranges: ends of each number, or the names, that were looked at.
    """

    boxes: tuple[Box, ...]
    target: str
    case: str
    designs: int
    cases: int
    ranges: dict[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)

    @property
    def table(self) -> pd.DataFrame:
        """A row a box: its rule, and its ``mass``, ``density`` and ``coverage``."""
        import pandas as pd

        rows = [[str(box), box.mass, box.density, box.coverage, len(box.limits)] for box in self.boxes]
        return pd.DataFrame(rows, columns=["rule", "mass", "density", "coverage", "limits"])

    def sentences(self) -> list[str]:
        """Each box as a rule with its density and coverage."""
        plural = "misses" if self.case == "miss" else "hits"
        return [
            f"{box}: {box.density:.0%} of designs {self.case}, covers {box.coverage:.0%} of all {plural} "
            f"({box.mass:.0%} of the designs)"
            for box in self.boxes
        ]

    def __str__(self) -> str:
        head = f"{self.cases:,} of {self.designs:,} designs {self.case} {self.target}"
        if not self.cases or self.cases == self.designs:
            return f"{head}: there is no region to tell apart"
        return "\n".join([head, *(f"  {text}" for text in self.sentences() or ["no box stands out"])])


def discover(
    space: Result,
    target: Any,
    factors: Sequence[Factor | str] | None = None,
    *,
    case: str = "miss",
    among: str = "feasible",
    samples: int = 4096,
    reoptimize: bool | Search = False,
    seed: int = 0,
    **options: Any,
) -> Discovery:
    """Find the regions of a space in which designs miss a target, or meet it, as rules that people can read.

    Args:
        space: a result with axes, all of whose designs are looked at; or one design, whose ``factors`` are sampled.
        target: a condition such as ``"mfu >= 0.5"``, or several that must all hold.
        factors: fields to vary in one design, as for :func:`sobol`.
        case: what to describe: designs that "miss" the target, or that "meet" it.
        among: look at "feasible" designs only, or at "all" (an infeasible design misses every target).
        samples: points of a scrambled Sobol' sequence over the factors, rounded up to a power of two.
        reoptimize: each sample takes its best strategy; one without any misses the target, whatever ``among`` says.
        options: of :func:`prim`: ``density``, ``peel``, ``paste``, ``smallest``, ``boxes``.

    Raises:
        SpecError: a faulty condition, factor or option, or too many designs.
    """
    from dse.explore.objectives import conditions

    if case not in ("miss", "meet") or among not in ("feasible", "all"):
        fault = ("case", case, "miss or meet") if case not in ("miss", "meet") else ("among", among, "feasible or all")
        raise SpecError([Fault(fault[0], repr(fault[1])[:40], f"must be {fault[2]}")])
    wanted = conditions(target)
    if not wanted:
        raise SpecError([Fault("target", "", 'name a condition, such as "mfu >= 0.5"')])
    unknown = set(options) - {"density", "peel", "paste", "smallest", "boxes"}
    if unknown:
        raise SpecError([Fault("options", ", ".join(sorted(unknown))[:80], "are not options of prim")])
    if factors is None:
        columns, met, allowed = _all_designs(space, wanted)
    else:
        search = search_of(reoptimize)
        columns, met, allowed = _sampled(single(space), wanted, factors, samples, search, seed)
        allowed = np.ones_like(allowed) if search else allowed
    if among == "feasible":
        kept = np.flatnonzero(allowed)
        columns = [Column(c.name, c.unit, c.levels, c.codes[kept], c.ordered) for c in columns]
        met = met[kept]
    else:
        met = met & allowed
    interest = met if case == "meet" else ~met
    text = " and ".join(c.text for c in wanted)
    boxes = prim(columns, interest, **options) if 0 < interest.sum() < len(interest) else []
    ranges = {c.name: (c.levels[0], c.levels[-1]) if c.ordered else tuple(c.levels) for c in columns}
    return Discovery(tuple(boxes), text, case, len(interest), int(interest.sum()), ranges)


def _all_designs(space: Result, wanted: Sequence[Condition]) -> tuple[list[Column], np.ndarray, np.ndarray]:
    """Dimensions, whether the target is met, and whether the rules are, of every design of a result."""
    if not isinstance(space, Result) or not space.axes:
        raise SpecError([Fault("space", type(space).__name__, "has no axes; give factors to vary, or sweep some axes")])
    axes = sorted(space.axes, key=lambda b: not b.structural)  # as the cells are ordered
    lengths = [len(b.values) for b in axes]
    if np.prod(lengths, dtype=np.float64) > MOST_DESIGNS:
        raise SpecError(
            [Fault("space", f"{np.prod(lengths, dtype=np.float64):,.0f} designs", f"at most {MOST_DESIGNS:,}")]
        )
    total = math.prod(lengths)
    planned(total, total, lambda size: _price(_corner(space, size), wanted)[0].size)
    met, allowed = _price(space, wanted)
    columns = []
    for i, b in enumerate(axes):
        shape = [1] * len(axes)
        shape[i] = lengths[i]
        own = Column.of(b.name, [str(v).lower() if isinstance(v, bool) else v for v in b.coordinates], b.unit)
        codes = np.broadcast_to(own.codes.reshape(shape), lengths).ravel()
        columns.append(Column(own.name, own.unit, own.levels, codes, own.ordered))
    return columns, met, allowed


def _price(space: Result, wanted: Sequence[Condition]) -> tuple[np.ndarray, np.ndarray]:
    """Whether the target is met, and whether the rules are, of every design, cell by cell."""
    inner = tuple(len(b.values) for b in space.axes if not b.structural)
    met, allowed = [], []
    for cell in space.cells:
        met.append(np.broadcast_to(_meets(cell.evaluation, wanted), inner).ravel())
        allowed.append(np.broadcast_to(np.asarray(is_feasible(cell.evaluation), dtype=bool), inner).ravel())
    return np.concatenate(met), np.concatenate(allowed)


def _corner(space: Result, size: int) -> Result:
    """The first values of all axes: at most ``size`` designs of the space."""
    axes = []
    for b in reversed(space.axes):
        kept = max(min(len(b.values), size), 1)
        axes.append(dataclasses.replace(b, values=b.values[:kept]))
        size //= kept
    return Result(space.specs, axes[::-1], devices_given=space.devices_given, replace=space.replace)


def _meets(evaluation: Any, wanted: Sequence[Condition]) -> Any:
    result: Any = True
    for condition in wanted:
        result = np.logical_and(result, np.greater_equal(condition.margin(evaluation), 0))
    return result


def _sampled(
    design: Result,
    wanted: Sequence[Condition],
    factors: Sequence[Factor | str],
    samples: int,
    search: Search | None,
    seed: int,
) -> tuple[list[Column], np.ndarray, np.ndarray]:
    """The same for samples of the factors; a sample without a feasible strategy meets no target."""
    from scipy.stats import qmc

    if not isinstance(samples, int) or not 16 <= samples <= 1 << 22:
        raise SpecError([Fault("samples", repr(samples)[:40], "must be a whole number from 16 to 4,194,304")])
    bound = bind(design.specs, factors)
    unit = qmc.Sobol(len(bound), rng=np.random.default_rng(seed)).random_base2((samples - 1).bit_length())
    columns = [b.at(unit[:, i]) for i, b in enumerate(bound)]
    outputs = {"met": lambda e: _meets(e, wanted), "feasible": is_feasible}
    found = evaluate(design, bound, columns, outputs, search)
    shown = [Column.of(b.name, _plain(b.shown(column)), b.unit) for b, column in zip(bound, columns, strict=True)]
    return shown, found["met"] > 0.5, found["feasible"] > 0.5


def _plain(values: np.ndarray) -> np.ndarray:
    """Names as text."""
    if values.dtype.kind in "fiu":
        return values
    return np.array([str(v).lower() if isinstance(v, bool | np.bool_) else str(v) for v in values])
