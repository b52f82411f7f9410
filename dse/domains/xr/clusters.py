"""A dataflow laid over layers and machines: the loops of every cluster level with their sizes, as columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dse.domains.xr.dataflow import Dataflow, Level, Map
from dse.domains.xr.layer import Layer

DIMS = ("C", "K", "R", "S", "X", "Y")
KERNEL_OF = {"Y": "R", "X": "S"}
INPUT_OF = {"R": "Y", "S": "X"}


@dataclass(frozen=True)
class Loop:
    """One loop of a level.

    Attributes:
        dim: C, K, R, S, X or Y, in coordinates of the input.
        spatial: over units; else in time.
        size: elements of a piece; per design.
        offset: elements between the starts of neighbouring pieces; per design.
        extent: elements of the dimension at this level; per design.
    """

    dim: str
    spatial: bool
    size: np.ndarray
    offset: np.ndarray
    extent: np.ndarray


@dataclass(frozen=True)
class Cluster:
    """A cluster level: ``units`` (per design) that share a network, and the loops over them, outermost first."""

    units: np.ndarray
    loops: tuple[Loop, ...]

    def of(self, dim: str) -> Loop:
        """The loop of a dimension."""
        return next(loop for loop in self.loops if loop.dim == dim)


def lay_out(dataflow: Dataflow, layer: Layer, pes: np.ndarray) -> tuple[Cluster, ...]:
    """Cluster levels of a dataflow, outermost first, by the rules of XRBench's fork of MAESTRO.

    A dimension that a level does not mention goes as in the level above, outside the level's own loops; one that no
    level has mentioned yet is whole, inside them. A level cuts up the piece that a unit of the level above gets.
    The halo of a map of Y' or X' whose level does not map R or S is counted with the number of maps of the level in
    place of the kernel's size: that is what the fork does.
    """
    extents = dict(zip("KCRSYX", layer[:6], strict=True))
    found: list[Cluster] = []
    for level in dataflow.levels:
        units = pes // dataflow.cluster_units if not found else np.full_like(pes, level.units)
        loops = _loops(level, extents, found[-1].loops if found else ())
        found.append(Cluster(units, loops))
        extents = {loop.dim: np.minimum(loop.size, loop.extent) for loop in loops}
    return tuple(found)


def _loops(level: Level, extents: dict[str, np.ndarray], above: tuple[Loop, ...]) -> tuple[Loop, ...]:
    stated = {m.input_dim: m for m in level.maps}
    outer = [Loop(u.dim, False, u.size, u.offset, extents[u.dim]) for u in reversed(above) if u.dim not in stated]
    inner = [Loop(d, False, extents[d], extents[d], extents[d]) for d in DIMS if d not in stated and not above]

    def loop(m: Map) -> Loop:
        extent = extents[m.input_dim]
        if m.size == 0:
            return Loop(m.input_dim, m.spatial, extent, extent, extent)
        size = m.size + 0 * extent
        if m.dim != m.input_dim:
            kernel = stated.get(KERNEL_OF[m.input_dim])
            size = size - 1 + ((kernel.size or extents[kernel.dim]) if kernel else len(level.maps))
        return Loop(m.input_dim, m.spatial, size, m.offset + 0 * extent, extent)

    return (*outer, *(loop(m) for m in level.maps), *inner)
