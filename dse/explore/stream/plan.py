"""The plan of a sweep: its inputs, and how the space is cut into tiles and parts.

A *tile* is a box of the space that is one run of rows of the table: the outer axes fixed, one axis cut, the inner axes
whole. It is what is evaluated at once and one row group of a file. A *part* is a run of tiles and one file. Both
depend on the space alone, so a row's bits depend neither on who computes it nor on what else is computed with it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from dse.cost.graph import Evaluation, Quantity
from dse.errors import Fault, SpecError, StudyError
from dse.explore.evaluate import BoundAxis, bind_axes, load_specs, own_quantities, price, with_stack
from dse.explore.stream.columns import COLUMNS, Column, columns_of
from dse.space.axes import Axis, with_value
from dse.spec import calibration, load_cluster, load_model, load_stack, load_strategy
from dse.spec.base import Spec
from dse.study.provenance import digest, provenance, version

FORMAT = 1
TILE_ROWS = 1 << 19  # designs evaluated at once: few enough for the cache, many enough to hide the cost of calls
PART_ROWS = 1 << 21  # designs in one file: about two seconds of work
LOADERS = {"model": load_model, "cluster": load_cluster, "strategy": load_strategy, "stack": load_stack}
Tile = tuple[slice, ...]


@dataclass(frozen=True)
class Plan:
    """A sweep to be carried out: specifications, bound axes, columns of the table and sizes of its pieces."""

    specs: Mapping[str, Any]
    axes: tuple[BoundAxis, ...]
    columns: tuple[Column, ...]
    devices_given: bool
    part_rows: int
    replace: tuple[Quantity, ...] = ()
    replaced: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    # -- sizes -------------------------------------------------------------------------------------------------

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Values on each axis."""
        return tuple(len(b.values) for b in self.axes)

    @cached_property
    def rows(self) -> int:
        """Designs in the space, legal or not."""
        return int(np.prod(self.shape, dtype=object)) if self.shape else 1

    @cached_property
    def _cut(self) -> tuple[int, int]:
        """Position of the axis that tiles cut, and into how many pieces (-1 and 1 where one tile holds everything)."""
        limit, inner = min(TILE_ROWS, self.part_rows), 1
        for position in range(len(self.shape) - 1, -1, -1):
            length = self.shape[position]
            if inner * length > limit:
                return position, -(-length // max(limit // inner, 1))
            inner *= length
        return -1, 1

    @cached_property
    def _grid(self) -> tuple[int, ...]:
        """Tiles along each of the axes up to the one that is cut."""
        position, pieces = self._cut
        return (*self.shape[: max(position, 0)], pieces)

    @cached_property
    def tiles(self) -> int:
        """Tiles of the space."""
        return int(np.prod(self._grid, dtype=object))

    @cached_property
    def tiles_per_part(self) -> int:
        """Tiles in each part but the last."""
        return max(self.part_rows // min(TILE_ROWS, self.part_rows), 1)

    @cached_property
    def parts(self) -> int:
        """Files of the table."""
        return -(-self.tiles // self.tiles_per_part)

    def tiles_of(self, part: int) -> range:
        """Numbers of a part's tiles."""
        first = part * self.tiles_per_part
        return range(first, min(first + self.tiles_per_part, self.tiles))

    def tile(self, number: int) -> Tile:
        """The box of a tile: a slice of every axis."""
        position, pieces = self._cut
        if position < 0:
            return tuple(slice(0, length) for length in self.shape)
        *outer, piece = (int(i) for i in np.unravel_index(number, self._grid))
        length = self.shape[position]
        cut = slice(piece * length // pieces, (piece + 1) * length // pieces)
        inner = (slice(0, length) for length in self.shape[position + 1 :])
        return (*(slice(i, i + 1) for i in outer), cut, *inner)

    def rows_of(self, part: int) -> int:
        """Rows of a part."""
        return self._start(self.tiles_of(part).stop) - self._start(self.tiles_of(part).start)

    def _start(self, tile: int) -> int:
        """First row of a tile."""
        if tile >= self.tiles:
            return self.rows
        first = [part.start for part in self.tile(tile)]
        return int(np.ravel_multi_index(first, self.shape)) if first else 0

    # -- evaluation --------------------------------------------------------------------------------------------

    def evaluations(self, tile: Tile) -> Iterator[tuple[Tile, Evaluation]]:
        """Evaluations that cover a tile, each with its place in it.

        Axes that change the structure of the model take one evaluation a value; the others keep their position.
        """
        loops = [p for p, b in enumerate(self.axes) if b.structural]
        for choice in product(*(range(tile[p].start, tile[p].stop) for p in loops)):
            chosen = dict(zip(loops, choice, strict=True))
            place = tuple(
                slice(chosen[p] - part.start, chosen[p] - part.start + 1) if p in chosen else slice(None)
                for p, part in enumerate(tile)
            )
            yield place, self._evaluation(tile, chosen)

    def _evaluation(self, tile: Tile, chosen: Mapping[int, int]) -> Evaluation:
        changed = dict(self.specs)
        for p in sorted(chosen, key=lambda p: len(self.axes[p].place.steps)):  # whole specifications first
            b = self.axes[p]
            changed[b.place.root] = with_value(changed[b.place.root], b.place.steps, b.values[chosen[p]])
        changed = with_stack(changed, [self.axes[p] for p in chosen])
        for p, (b, part) in enumerate(zip(self.axes, tile, strict=True)):
            if p not in chosen:
                values = np.asarray(b.values)[part].reshape([-1 if q == p else 1 for q in range(len(tile))])
                changed[b.place.root] = with_value(changed[b.place.root], b.place.steps, values)
        return price(changed, devices_given=self.devices_given, replace=self.replace)

    # -- inputs ------------------------------------------------------------------------------------------------

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """Everything the table depends on, as plain data."""
        return {
            "format": FORMAT,
            "specs": {name: spec.model_dump(mode="json") for name, spec in self.specs.items()},
            "axes": [
                {"path": b.axis.path, "name": b.name, "values": _plain(b.values), "labels": _plain(b.axis.labels)}
                for b in self.axes
            ],
            "columns": [c.name for c in self.columns],
            "devices_given": self.devices_given,
            "part_rows": self.part_rows,
            "tile_rows": TILE_ROWS,
            "replaced": self.replaced,
            "versions": dict(self.versions),
        }

    @cached_property
    def id(self) -> str:
        """Digest of the inputs: every file of the table carries it."""
        return digest(self.inputs)

    def to_json(self) -> str:
        """The inputs as the text of a file."""
        return json.dumps(self.inputs, indent=1, sort_keys=True) + "\n"


def make_plan(
    model: Any,
    cluster: Any,
    strategy: Any,
    axes: Sequence[Axis],
    *,
    devices: int | None = None,
    replace: Any = (),
    columns: Sequence[str] = COLUMNS,
    part_rows: int = PART_ROWS,
) -> Plan:
    """The plan of a sweep, with every input checked.

    Raises:
        SpecError: with every fault of the inputs, axes and columns.
    """
    specs = load_specs(model, cluster, strategy, devices)
    bound = bind_axes(specs, axes, devices)
    swept = any(b.axis.path in ("cluster.devices", "cluster") for b in bound)
    dp: Any = specs["strategy"].dp  # type: ignore[attr-defined]
    given = devices is not None or swept or (dp is None and not any(b.name == "dp" for b in bound))
    own = own_quantities(replace)
    return _checked(specs, bound, columns, given, part_rows, own, _replaced(specs, own))


def read_plan(text: str, replace: Any = (), *, where: str = "sweep.json", sent: bool = False) -> Plan:
    """The plan that :meth:`Plan.to_json` wrote; ``sent`` where ``replace`` came with the text from the same plan.

    Raises:
        StudyError: the text is not a plan, was written by another version, or needs quantities that are not given.
        SpecError: with every fault of the inputs.
    """
    try:
        data = json.loads(text)
        _same_versions(data["versions"], where)
        specs = {name: load(data["specs"][name]) for name, load in LOADERS.items()}
        axes = [Axis(a["path"], tuple(a["values"]), a["name"], labels=tuple(a["labels"])) for a in data["axes"]]
        columns, given, part_rows = data["columns"], data["devices_given"], data["part_rows"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(f"{where} is not the description of a sweep: {error!r}"[:300]) from None
    own = own_quantities(replace)
    # Where quantities travel with the text their source may be out of reach, and need not be checked.
    known = data.get("replaced", "") if sent else _replaced(specs, own)
    if known != data.get("replaced"):
        raise StudyError(
            f"{where}: the sweep has quantities of your own ({data.get('replaced') or 'none'}), this call has "
            f"{known or 'none'}: call dse.stream or resume with the same ones"
        )
    plan = _checked(specs, bind_axes(specs, axes), columns, given, part_rows, own, known)
    if plan.to_json() != text:
        raise StudyError(f"{where} does not read back as it was written: start the sweep in another folder")
    return plan


def _checked(
    specs: Mapping[str, Spec],
    bound: Sequence[BoundAxis],
    columns: Sequence[str],
    given: bool,
    part_rows: int,
    replace: tuple[Quantity, ...],
    replaced: str,
) -> Plan:
    if isinstance(part_rows, bool) or not isinstance(part_rows, int) or not 1 <= part_rows <= 1 << 28:
        raise SpecError([Fault("part_rows", repr(part_rows)[:40], f"must be a whole number from 1 to {1 << 28:,}")])
    plan = Plan(dict(specs), tuple(bound), (), given, part_rows, replace, replaced, versions())
    # One design of each structure: the first value of array axes, every value of the others.
    corner = tuple(slice(0, len(b.values) if b.structural else 1) for b in bound)
    corners = (evaluation for _, evaluation in plan.evaluations(corner))
    return dataclasses.replace(plan, columns=columns_of(columns, corners, bound))


def _replaced(specs: Mapping[str, Spec], replace: tuple[Quantity, ...]) -> str:
    """Quantities of the user's own: names, digests of their code, and what they say they are (a value, an equation)."""
    if not replace:
        return ""
    return f"{provenance(specs, (), replace)['replaced']} ({', '.join(q.equation for q in replace)})"


def versions() -> dict[str, str]:
    """What the bits of the table depend on besides the inputs."""
    import pyarrow

    return {
        "dse": version(),
        "code": _code(),
        "calibration": calibration.active().id,
        "numpy": np.__version__,
        "pyarrow": pyarrow.__version__,
    }


@lru_cache(maxsize=1)
def _code() -> str:
    """Digest of the source that numbers and files come from: also what was edited since the last commit counts."""
    package = Path(__file__).resolve().parents[2]
    files = [path for folder in ("cost", "spec", "space") for path in sorted((package / folder).rglob("*.py"))]
    files += [package / "explore" / "evaluate.py"]
    files += [package / "explore" / "stream" / name for name in ("columns.py", "parts.py", "plan.py")]
    return digest({str(path.relative_to(package)): path.read_text(encoding="utf-8") for path in files})


def _same_versions(saved: Mapping[str, str], where: str) -> None:
    now = versions()
    other = [
        f"{name} {saved.get(name) or 'none'} (now {now[name] or 'none'})"
        for name in now
        if saved.get(name) != now[name]
    ]
    if other:
        raise StudyError(
            f"{where}: the sweep was started with {', '.join(other)}; its parts must not be mixed with others: "
            "go back to those versions, or start in another folder"
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.model_dump(mode="json")
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
